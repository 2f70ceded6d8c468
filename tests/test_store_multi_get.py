"""Several keys at one moment: whatever others do while they are read."""

from __future__ import annotations

import os
import random
import signal
from contextlib import closing, suppress
from typing import TYPE_CHECKING

import pytest
from kept_helpers import kept_store, leave
from store_helpers import (
    NOW_MS,
    HandClock,
    at_opcode,
    clock,
    end_of,
    open_store,
    payload,
    snapshot,
    start,
)

from fastkv.errors import StoreBusy, StoreError
from fastkv.store.datafile import DataDirectory
from fastkv.store.multi_get import MultiGet

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fastkv.store import Store

pytestmark = pytest.mark.usefixtures("memory_order")

KEYS = [b"one", b"two", b"three", b"four"]

# What is there, and what somebody makes of it at one moment.
CHANGES: dict[str, tuple[dict[bytes, bytes], dict[bytes, bytes | None]]] = {
    "replaced": (dict.fromkeys(KEYS, b"old"), dict.fromkeys(KEYS, b"new")),
    "made": ({}, dict.fromkeys(KEYS, b"new")),
    "deleted": (dict.fromkeys(KEYS, b"old"), dict.fromkeys(KEYS)),
    "made and replaced": ({b"two": b"old", b"three": b"old"}, dict.fromkeys(KEYS, b"new")),
    "made and deleted": ({b"two": b"old", b"three": b"old"}, {b"one": b"new", b"two": None, b"three": None}),
    "large": (
        {b"one": payload(1, 9000), b"two": payload(1, 9000)},
        {b"one": payload(2, 9000), b"two": payload(2, 9000), b"four": payload(2, 9000)},
    ),
}


def values(store: Store, keys: list[bytes], now: Callable[[], int] = clock) -> list[bytes | None]:
    return [entry and entry[0] for entry in store.get_many(keys, now)]


def change(store: Store, what: dict[bytes, bytes | None]) -> None:
    for key, value in what.items():
        if value is None:
            store.delete(key, clock)
        else:
            store.put(key, value, clock)


def test_it_finds_what_is_there_in_order() -> None:
    with open_store(shards=4) as store:
        assert store.get_many([], clock) == []
        assert values(store, KEYS) == [None] * 4
        store.put(b"two", b"2", clock, 7)
        store.put(b"three", payload(3, 10_000), clock, deadline_ms=NOW_MS + 1)
        assert store.get_many([b"three", b"one", b"two", b"two"], clock) == [
            store.get(b"three", clock),
            None,
            store.get(b"two", clock),
            store.get(b"two", clock),
        ]


def test_all_expire_by_one_time() -> None:
    now = HandClock(NOW_MS - 1)

    def tick() -> int:
        now.now_ms += 1
        return now()

    with open_store(shards=4) as store:
        for key in KEYS:
            store.put(key, b"value", clock, deadline_ms=NOW_MS + 3)
        for _ in range(2):
            assert values(store, KEYS, tick) == [b"value"] * 4
        while now() < NOW_MS + 3:
            tick()
        assert values(store, KEYS, tick) == [None] * 4


@pytest.mark.usefixtures("readable_engine")
@pytest.mark.parametrize("name", CHANGES)
def test_whatever_changes_in_the_middle_is_seen_whole_or_not_at_all(name: str) -> None:
    before, after = CHANGES[name]
    with open_store(shards=4, lock_wait_ms=0) as store:
        change(store, dict(before))
        restore = snapshot(store)
        old = [before.get(key) for key in KEYS]
        new = [(before | after).get(key) for key in KEYS]
        seen = set()
        at, opcodes = 1, 1 << 30
        while at <= opcodes:
            done: list[bool] = []

            def act(done: list[bool] = done) -> None:
                with suppress(StoreBusy), store._guard.holding_all(range(4), store._shards):
                    done.append(True)
                if done:
                    change(store, after)

            found: list[bytes | None] = []

            def look(found: list[bytes | None] = found) -> None:
                found += values(store, KEYS)

            opcodes = at_opcode(at, act, look, "multi_get reading checked_reader")
            assert found in ((old, new) if done else (old,)), f"opcode {at}"
            assert values(store, KEYS) == (new if done else old)
            seen.add(found == new)
            restore()
            at += 1
        assert opcodes > 30
        assert seen == {True, False}


def test_a_busy_shard_is_said_only_if_it_is_needed(memory_order: str) -> None:
    with open_store(shards=2, lock_wait_ms=0) as store:
        keys = [b"%d" % i for i in range(8)]
        change(store, dict.fromkeys(keys, b""))
        with store._guard.holding_all(range(2), store._shards):
            if memory_order == "in order":
                assert values(store, keys) == [b""] * 8
            with pytest.raises(StoreBusy):
                store.get_many([*keys, b"absent"], clock)
        assert values(store, [*keys, b"absent"]) == [b""] * 8 + [None]


def test_more_shards_than_a_process_may_hold_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastkv.store.repair.MOST_HELD", 3)
    with open_store(shards=4) as store:
        with (
            pytest.raises(StoreError, match="at most 3"),
            store._guard.holding_all(range(4), store._shards, 3),
        ):
            pass
        assert store.put(b"key", b"", clock)


def test_entries_that_nobody_verified_yet_are_found_and_nobody_has_to_wait(tmp_path: Path) -> None:
    model = leave(tmp_path, clean=False)
    with closing(DataDirectory(tmp_path)) as directory, kept_store(directory) as (store, _):
        keys = [*model, b"absent"]
        unverified = store.unverified()
        assert unverified == 2
        assert values(store, keys) == [model.get(key) for key in keys]
        if store.unverified() == unverified:  # readers that trust no order take the locks
            store.verify()
        assert values(store, keys) == [model.get(key) for key in keys]


def test_pairs_that_are_written_one_after_the_other_are_never_seen_the_other_way_round() -> None:
    """One process makes, replaces and deletes A before B, again and again; who has B has A."""
    with open_store(shards=4, lock_wait_ms=20_000) as store:
        keys = [b"A", b"B", b"C", b"D"]

        def write(chance: random.Random) -> None:
            i = 0
            while True:
                i += 1
                for key in keys:
                    store.put(key, b"%d" % i, clock)
                if chance.random() < 0.5:
                    for key in reversed(keys):
                        store.delete(key, clock)

        pid = start(lambda: write(random.Random(1)))
        try:
            hits = 0
            for _ in range(20_000):
                counts = [int(value or 0) for value in values(store, keys)]
                there = [count for count in counts if count]
                # A prefix is newer by one, or the rest was not made yet, or is deleted again.
                assert counts[: len(there)] == there, counts
                assert there == sorted(there, reverse=True), counts
                assert not there or there[0] - there[-1] <= 1, counts
                hits += bool(there)
            assert hits > 100
        finally:
            os.kill(pid, signal.SIGKILL)
            assert end_of(pid) == -signal.SIGKILL


@pytest.mark.usefixtures("readable_engine")
def test_the_short_way_is_taken_while_nobody_disturbs(
    memory_order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ways: list[object] = []
    undisturbed = MultiGet._undisturbed

    def spy(*arguments: object) -> object:
        ways.append(found := undisturbed(*arguments))  # type: ignore[arg-type]
        return found

    monkeypatch.setattr(MultiGet, "_undisturbed", spy)
    with open_store(shards=4) as store:
        change(store, dict.fromkeys(KEYS[:3], b"value"))
        assert values(store, KEYS) == [b"value"] * 3 + [None]
    assert (None not in ways, len(ways)) == (True, memory_order == "in order")
