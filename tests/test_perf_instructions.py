"""No request costs more instructions than is stored, or fewer without its being stored."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fastkv import core
from perf.instructions import counting, guard, reference
from perf.instructions.client import CONNECTIONS
from perf.instructions.guard import ANY_PYTHON, SAME_BUILD, SAME_PYTHON
from perf.instructions.paths import COUNTED, PATHS
from perf.instructions.served import move

needs_callgrind = pytest.mark.skipif(counting.missing() is not None, reason=str(counting.missing()))


@needs_callgrind
@pytest.mark.parametrize("implementation", SAME_BUILD)
def test_requests_take_as_many_instructions_as_is_stored(implementation: str) -> None:
    if implementation == "compiled" and not core.COMPILED:
        pytest.skip(core.REASON)
    result = guard.stored()
    assert result is not None
    counts = guard.count_against(guard.NAMES[implementation], result, implementation)
    problems = guard.judge(counts, result, implementation, guard.margin(result, implementation))
    assert not problems, "\n".join(problems)


@needs_callgrind
def test_a_count_has_the_functions_that_it_was_spent_in(tmp_path: Path) -> None:
    files = counting.run(["GET, plain"], tmp_path, pure=True)
    counts = counting.per_request(files)
    assert counts.keys() == {"GET, plain", reference.NAME}
    functions = counting.functions(files["GET, plain"])
    total = sum(function.exclusive for function in functions)
    assert total == pytest.approx(counts["GET, plain"], rel=0.01)
    assert any("_PyEval_EvalFrameDefault" in function.name for function in functions)


@needs_callgrind
def test_what_cannot_be_counted_is_told(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)Not all was counted.*KeyError: 'no such path'"):
        counting.run(["no such path"], tmp_path)


@needs_callgrind
def test_a_path_that_is_another_one_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hit, miss = (path for path in PATHS if path.name in ("GET, plain", "GET miss"))
    monkeypatch.setattr(counting, "PATHS", (hit._replace(first=miss.first),))
    with pytest.raises(RuntimeError, match=f"0 of {COUNTED} requests went this way"):
        counting.run([hit.name], tmp_path, pure=True)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_every_request_is_sent_once(path: Any) -> None:
    before, counted = path.make_writes()
    assert len(before) == len(counted) == COUNTED // path.depth
    assert len({*before, *counted}) == len(before) + len(counted)
    assert len(counted) >= CONNECTIONS


def test_everything_can_be_moved() -> None:
    move(0)
    move(2)


HERE = {"build": "a", "python": "CPython 3.11.7", "versions": {"orjson": "1"}}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, SAME_BUILD["compiled"]),
        ({"build": "b"}, SAME_PYTHON),
        ({"versions": {"orjson": "2"}}, SAME_PYTHON),
        ({"build": "b", "python": "CPython 3.11.2"}, SAME_PYTHON),
        ({"build": "b", "python": "CPython 3.12.7"}, ANY_PYTHON),
    ],
)
def test_the_margin_is_as_wide_as_what_differs(change: dict[str, Any], expected: float) -> None:
    assert guard.margin(HERE, "compiled", HERE | change) == expected


RESULT = {
    "rows": [
        {"implementation": "compiled", "path": "GET", "ratio": 2.0},
        {"implementation": "compiled", "path": "PUT", "ratio": 4.0},
        {"implementation": "readable", "path": "GET", "ratio": 9.0},
    ]
}


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({"GET": 200.0, "PUT": 400.0}, []),
        ({"GET": 203.0, "PUT": 393.0}, []),
        ({"GET": 216.0, "PUT": 400.0}, ["GET takes 8.0% more instructions than is stored."]),
        ({"GET": 200.0, "PUT": 380.0}, ["PUT takes 5.0% fewer instructions than is stored."]),
        ({"GET": 200.0}, ["PUT is stored and not counted."]),
        ({"GET": 200.0, "PUT": 400.0, "DELETE": 1.0}, ["DELETE is not stored."]),
    ],
)
def test_what_is_not_as_stored_is_told(counts: dict[str, float], expected: list[str]) -> None:
    told = guard.judge({reference.CONSTANT: 100.0, **counts}, RESULT, "compiled", 0.02)
    assert told[:-1] == expected
    assert bool(expected) == any("--save" in sentence for sentence in told)


def test_what_differs_is_counted_again_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[tuple[Sequence[str], int]] = []

    def count(names: Sequence[str], layout: int = 0, *, pure: bool) -> dict[str, float]:
        counted.append((names, layout))
        costs = {"GET": 210.0 if layout == 0 else 201.0, "PUT": 400.0}
        return {reference.CONSTANT: 100.0, **{name: costs[name] for name in names}}

    monkeypatch.setattr(counting, "count", count)
    monkeypatch.setattr(guard, "margin", lambda result, implementation: 0.02)
    counts = guard.count_against(["GET", "PUT"], RESULT, "compiled")
    assert counts == {reference.CONSTANT: 100.0, "GET": 201.0, "PUT": 400.0}
    assert counted == [(["GET", "PUT"], 0), (["GET"], 21)]
    assert guard.count_lowest(["GET"], "compiled") == {reference.CONSTANT: 100.0, "GET": 201.0}


def test_what_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert counting.missing() == "Instructions cannot be counted: there is no valgrind and no gcc."
