"""The micro benchmark measures what it says: each contestant does each operation."""

from pathlib import Path
from typing import Any

import pytest
from store_helpers import KIB, MIB

from perf.micro import making_room, operations, requests, steps
from perf.micro.contestants import CONTESTANTS, Contestant
from perf.micro.operations import OPERATIONS, PROCESSES, installed


@pytest.mark.parametrize(
    "kind", [kind for kind in CONTESTANTS if not kind.package], ids=lambda kind: kind.name
)
def test_a_contestant_does_what_it_is_told(kind: type[Contestant], tmp_path: Path) -> None:
    contestant = kind(tmp_path, full=False)
    try:
        contestant.attach()
        contestant.put_all([b"a", b"b"])
        contestant.get_all([b"a", b"c"])
        contestant.incr_all([b"n", b"n"])
    finally:
        contestant.close()


def test_who_is_not_installed_is_skipped_with_a_reason(capsys: pytest.CaptureFixture[str]) -> None:
    names = {kind.name for kind in installed()}
    told = capsys.readouterr().out
    assert all(
        kind.name in names or f"{kind.name} is skipped: {kind.package}" in told for kind in CONTESTANTS
    )


def test_every_operation_is_measured_for_one_process_and_for_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "_MOST", 50)
    for kind in CONTESTANTS:
        monkeypatch.setattr(kind, "entries", 10_000)
    rows = operations.measure(1, {"fastkv", "dict"})
    measured = {(row["name"], row["operation"], row["processes"]) for row in rows}
    shared = {("fastkv", name, count) for name in OPERATIONS for count in range(1, PROCESSES + 1)}
    assert measured == shared | {("dict", name, 1) for name in OPERATIONS if name != "evicting put"}
    assert all(row["ns"]["median"] > 0 for row in rows)


def test_a_store_without_room_evicts_for_each_put() -> None:
    mix = making_room.MIXES[0]._replace(memory_bytes=4 * MIB, turn_puts=500)
    row = making_room.compare(mix, 4)
    assert row["problems"] == []
    assert row["puts"] == 2000
    assert 0.5 < row["evicted_per_put"] < 2


def test_every_step_is_taken_and_unwrapped_afterwards() -> None:
    before = [getattr(owner, method) for owner, method in steps.STEPS.values()]
    rows = steps.measure_load(steps.Load("64 bytes", lambda _: 64, 20_000, 4 * KIB), 4 * MIB)
    assert [getattr(owner, method) for owner, method in steps.STEPS.values()] == before
    assert {row["step"] for row in rows} == {*steps.STEPS, steps.WHOLE_PUT}
    assert all(row["problems"] == [] and row["n"] > 0 for row in rows)


KEYS = [b"k%010d" % number for number in range(32)]


def test_everything_a_request_is_made_of_is_timed() -> None:
    rows = requests.measure(3, len(KEYS))
    assert [(row["part"], row["case"]) for row in rows] == [part[:2] for part in requests.parts(KEYS)]
    assert all(row["ns"]["n"] == 3 for row in rows)


def test_the_parser_reads_what_it_is_timed_with() -> None:
    for part, _, act, arguments in requests.parts(KEYS):
        made: Any = act(arguments[-1])
        if part == "parser":
            assert arguments[-1].startswith(made[0])
