"""The simulators do what the papers say, on sequences that can be followed by hand."""

import random

import pytest

from perf.simulators import fifo, lru, s3fifo
from perf.traces import MADE, make_trace


def hits(ratio: float, trace: list[int]) -> int:
    return round(ratio * len(trace))


def test_fifo_forgets_who_came_first() -> None:
    trace = [1, 2, 1, 3, 1, 2]  # 3 puts 1 out, although it was read; then 1 puts 2 out
    assert hits(fifo(trace, 2), trace) == 1


def test_lru_forgets_who_was_not_read_for_longest() -> None:
    trace = [1, 2, 1, 3, 1, 2]  # 3 puts 2 out
    assert hits(lru(trace, 2), trace) == 2


def test_s3fifo_keeps_who_was_read_twice() -> None:
    trace = [0, 0, 0, *range(1, 12), 0]
    assert hits(s3fifo(trace, 10), trace) == 3
    trace = [0, 0, *range(1, 12), 0]
    assert hits(s3fifo(trace, 10), trace) == 1


def test_s3fifo_gives_those_a_second_chance_whom_it_remembers() -> None:
    # 0 goes, comes back as a ghost to the main queue, and outlives those who are seen once.
    trace = [*range(11), 0, *range(100, 130), 0]
    assert hits(s3fifo(trace, 10), trace) == 1
    # After nine others it is forgotten.
    trace = [*range(20), 0, *range(100, 130), 0]
    assert hits(s3fifo(trace, 10), trace) == 0


def test_main_may_fill_first() -> None:
    # Size 10: the first goes to small, the other nine to main; they outlive all who are seen once.
    trace = [*range(10), *range(100, 130), *range(1, 10)]
    assert hits(s3fifo(trace, 10, main_fills_first=True), trace) == 9
    assert hits(s3fifo(trace, 10), trace) == 0


@pytest.mark.parametrize("simulate", [fifo, lru, s3fifo])
def test_a_cache_for_everything_misses_each_object_once(simulate: "type[object]") -> None:
    chance = random.Random(1)
    trace = [chance.randrange(100) for _ in range(2000)]
    assert hits(simulate(trace, 100), trace) == len(trace) - len(set(trace))  # type: ignore[call-arg,arg-type]


@pytest.mark.parametrize("name", MADE)
def test_made_traces_are_repeatable_numbered_and_larger_than_the_cache(name: str) -> None:
    trace = make_trace(name, 100, 4000, seed=1)
    assert trace == make_trace(name, 100, 4000, seed=1)
    assert trace != make_trace(name, 100, 4000, seed=2)
    assert len(trace) == 4000
    assert list(dict.fromkeys(trace)) == list(range(len(set(trace))))
    assert len(set(trace)) > 400
