"""When a worker looks for garbage: little at a time, and never at what is too much for one turn."""

from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING

import pytest

from fastkv.garbage import MOST_OBJECTS, Garbage

if TYPE_CHECKING:
    from collections.abc import Iterator


class Knot:
    """What refers to itself."""

    def __init__(self) -> None:
        self.own = self


@pytest.fixture
def looked() -> Iterator[list[int]]:
    """The generation of each look, in a process that looks only when it is told to."""
    generations: list[int] = []

    def note(phase: str, told: dict[str, int]) -> None:
        if phase == "start":
            generations.append(told["generation"])

    gc.collect()
    gc.freeze()
    gc.disable()
    gc.callbacks.append(note)
    try:
        yield generations
    finally:
        gc.callbacks.remove(note)
        gc.unfreeze()
        gc.enable()


def test_garbage_is_found_in_the_next_turn(looked: list[int]) -> None:
    garbage = Garbage()
    knot = weakref.ref(Knot())
    assert knot() is not None
    garbage.turn()
    assert knot() is None
    assert (looked, garbage.exempted) == ([0], 0)


def test_what_lived_on_is_looked_at_once_a_minute(looked: list[int]) -> None:
    garbage = Garbage()
    kept = Knot()
    garbage.turn()
    gone = weakref.ref(kept)
    del kept
    for _ in range(239):
        assert gone() is not None
        garbage.turn()
    assert gone() is None
    assert looked == [0] * 239 + [1]


def test_a_burst_is_exempted_and_not_looked_at(looked: list[int]) -> None:
    garbage = Garbage()
    burst = [[number] for number in range(MOST_OBJECTS + 1)]
    garbage.turn()
    assert (looked, garbage.exempted) == ([], 1)
    assert gc.get_count()[0] < MOST_OBJECTS
    assert gc.get_freeze_count() >= len(burst)
    garbage.turn()
    assert looked == [0]


def test_what_grows_slowly_is_exempted_before_it_is_too_much_for_one_look(looked: list[int]) -> None:
    garbage = Garbage()
    kept = []
    while not garbage.exempted:
        kept.append([[number] for number in range(MOST_OBJECTS // 5)])
        garbage.turn()
    assert looked == [0] * (len(kept) - 1)
    assert 4 <= len(kept) <= 5
