"""The pool: segments are taken and given back, each once, whoever dies meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from store_helpers import MIB, at_opcode, clock, dies_at

from fastkv.store.arena import Arena
from fastkv.store.layout import (
    CLOSED,
    OPEN,
    OPEN_MAIN,
    PAGE_NEW,
    RESERVE,
    SEG_GENERATION,
    SEG_STATE,
    SH_OLDEST,
    Geometry,
)
from fastkv.store.lock import LockTable
from fastkv.store.segments import Segments

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Pool:
    """A pool by itself.

    Attributes:
        arena: its arena.
        segments: the pool.
        total: how many segments it has.
    """

    def __init__(self) -> None:
        self.arena = Arena(Geometry.plan(MIB, 2, 16 << 10))
        self._locks = LockTable([1000])
        self.segments = Segments(self.arena, self._locks.locks[0])
        self.total = self.arena.geometry.segments - self.arena.geometry.first_segment

    def assert_sound(self) -> None:
        """The free list holds exactly the segments that are nobody's, and is counted right."""
        segments = self.segments
        taken = {segment for shard in (0, 1) for segment, _ in segments.owned(shard)}
        pages = list(segments.free_pages())
        listed = list(segments.free_list()) + pages
        assert len(listed) == len(set(listed))
        assert taken.isdisjoint(listed)
        assert taken | set(listed) == set(segments.used())
        assert segments.free_count() == self.total - len(taken) - len(pages)


@pytest.fixture
def pool() -> Iterator[Pool]:
    pool = Pool()
    yield pool
    pool.assert_sound()
    pool.arena.close()


def test_each_segment_is_taken_once_and_some_are_kept_back(pool: Pool) -> None:
    segments = pool.segments
    taken = [segments.take(i % 2, OPEN) for i in range(pool.total - RESERVE)]
    assert not segments.take(0, OPEN)
    assert not segments.take(0, PAGE_NEW)
    kept = [segments.take(0, OPEN_MAIN, floor=0) for _ in range(RESERVE)]
    assert not segments.take(0, OPEN_MAIN, floor=0)
    assert sorted(taken + kept) == list(segments.used())
    assert len(segments.used()) == pool.total


def test_a_segment_comes_back_as_another_generation(pool: Pool) -> None:
    segments, words = pool.segments, pool.arena.words
    segment = segments.take(0, OPEN)
    generation = words[segments.row(segment) + SEG_GENERATION]
    segments.give_back(segment)
    assert words[segments.row(segment) + SEG_GENERATION] == generation + 1
    assert segments.take(1, OPEN) == segment
    assert list(segments.owned(1)) == [(segment, OPEN)]


def test_what_was_given_back_first_is_taken_first(pool: Pool) -> None:
    segments = pool.segments
    taken = [segments.take(0, OPEN) for _ in range(5)]
    order = [taken[i] for i in (3, 0, 4, 1)]
    for segment in order:
        segments.give_back(segment)
    pool.assert_sound()
    assert list(segments.free_list()) == order
    assert [segments.take(0, OPEN) for _ in order] == order


def test_a_generation_wraps_within_its_bits(pool: Pool) -> None:
    segments = pool.segments
    segment = segments.take(0, OPEN)
    row = segments.row(segment)
    pool.arena.words[row + SEG_GENERATION] = pool.arena.geometry.generation_mask
    segments.give_back(segment)
    assert pool.arena.words[row + SEG_GENERATION] == 0


@pytest.mark.parametrize("at", range(5))
def test_a_queue_is_left_from_any_place(pool: Pool, at: int) -> None:
    segments, header = pool.segments, pool.arena.geometry.shards_at
    queue = [segments.take(0, OPEN) for _ in range(5)]
    for segment in queue:
        pool.arena.words[segments.row(segment) + SEG_STATE] = CLOSED
        segments.enqueue(header, segment)
    assert list(segments.queue(header + SH_OLDEST)) == queue
    for segment in [queue.pop(at), *queue]:
        segments.dequeue(header, segment)
        segments.give_back(segment)
        left = list(segments.queue(header + SH_OLDEST))
        assert left == [one for one in queue if one in left]
    assert list(segments.queue(header + SH_OLDEST)) == []


def give_back(segments: Segments, taken: list[int]) -> None:
    for segment in taken:
        segments.give_back(segment)


# name: what is done to a pool of which three segments were taken and the first of them was given back
CHANGES: dict[str, Callable[[Segments, list[int]], object]] = {
    "take a fresh one": lambda segments, taken: (segments.take(0, OPEN), segments.take(0, OPEN)),
    "take the free one": lambda segments, taken: segments.take(1, OPEN),
    "give one back": lambda segments, taken: give_back(segments, taken[1:2]),
    "give all back": lambda segments, taken: give_back(segments, taken[1:]),
}


@pytest.mark.parametrize("name", CHANGES)
def test_death_at_any_point_leaves_a_sound_pool(pool: Pool, name: str) -> None:
    segments = pool.segments
    taken = [segments.take(i % 2, OPEN) for i in range(3)]
    segments.give_back(taken[0])
    saved = bytes(pool.arena.counts)
    at = 1
    while dies_at(at, lambda: CHANGES[name](segments, taken)):
        # The next one to take a segment finds the pool as the dead left it.
        segment = segments.take(0, OPEN)
        assert segment
        pool.assert_sound()
        segments.give_back(segment)
        pool.assert_sound()
        pool.arena.counts[:] = saved
        at += 1
    assert at > 100


def test_death_of_who_rebuilds_the_free_list_is_survived(pool: Pool) -> None:
    segments = pool.segments
    taken = [segments.take(i % 2, OPEN) for i in range(6)]
    for segment in taken[:4]:
        segments.give_back(segment)
    saved = bytes(pool.arena.counts)
    half = at_opcode(0, clock, lambda: segments.give_back(taken[4])) // 2
    pool.arena.counts[:] = saved
    at, died = 1, True
    while died:
        assert dies_at(half, lambda: segments.give_back(taken[4]))
        died = dies_at(at, lambda: segments.take(0, OPEN))
        assert segments.take(1, OPEN)
        pool.assert_sound()
        pool.arena.counts[:] = saved
        at += 3
    assert at > 100


def test_what_was_a_page_is_nothing_else_until_the_pages_are_released(pool: Pool) -> None:
    """A reader may stand still before it counts an access there, for any time."""
    segments = pool.segments
    page, log = segments.take(0, PAGE_NEW), segments.take(0, OPEN)
    segments.give_back(page)
    segments.give_back(log)
    taken = list(iter(lambda: segments.take(1, OPEN, 0), 0))
    assert log in taken
    assert page not in taken
    assert segments.take(1, PAGE_NEW) == page  # also when nothing else is free
    segments.give_back(page)
    with segments.locked():
        segments.release_pages()
    assert segments.take(1, OPEN, 0) == page


@pytest.mark.parametrize("gives_back", [False, True])
def test_a_free_page_is_not_lost_to_a_death(pool: Pool, gives_back: bool) -> None:
    segments = pool.segments
    page, other = segments.take(0, PAGE_NEW), segments.take(0, PAGE_NEW)
    segments.give_back(page)
    before = bytes(pool.arena.counts)
    died = 0
    while dies_at(
        3 * died + 1, lambda: segments.give_back(other) if gives_back else segments.take(0, PAGE_NEW)
    ):
        died += 1
        with segments.locked():
            pass
        pool.assert_sound()
        pool.arena.counts[:] = before
    assert died > 20
