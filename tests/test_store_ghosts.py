"""The ghost table: it recalls who was evicted not long ago, forgets the others, and costs nothing before."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest
from store_helpers import MIB, SEED, clock, dies_at, open_store, payload
from xxhash import xxh3_64_intdigest

from fastkv.store.arena import Arena
from fastkv.store.ghosts import Ghosts
from fastkv.store.layout import GHOSTS, OPEN, POOL_GHOST_WORDS, RESERVE, SEG_STATE, Geometry
from fastkv.store.lock import LockTable
from fastkv.store.segments import Segments

if TYPE_CHECKING:
    from collections.abc import Iterator


class Table:
    """A ghost table by itself."""

    def __init__(self) -> None:
        self.arena = Arena(Geometry.plan(4 * MIB, 1, 4 << 10))
        self._locks = LockTable([1000])
        self.segments = Segments(self.arena, self._locks.locks[0])
        self.ghosts = Ghosts(self.arena, self.segments)

    def fit(self, entries: int) -> bool:
        """Have the table fit, however many segments that takes."""
        for _ in range(self.arena.geometry.most_ghosts):
            self.ghosts.fit(entries)
        return self.ghosts.fit(entries)

    def size(self) -> int:
        """How many segments the segment table calls the ghost table's."""
        words, segments = self.arena.words, self.segments
        return sum(words[segments.row(s) + SEG_STATE] & 0xFF == GHOSTS for s in segments.used())


@pytest.fixture
def table() -> Iterator[Table]:
    table = Table()
    yield table
    assert table.size() == len(set(table.ghosts.named()))
    table.arena.close()


def hashes(start: int, count: int) -> list[int]:
    return [xxh3_64_intdigest(b"%d" % i, SEED) for i in range(start, start + count)]


@pytest.mark.parametrize("entries", [1, 10, 137, 5_000, 40_000])
def test_it_recalls_as_many_as_there_are_entries_and_forgets_older_ones(table: Table, entries: int) -> None:
    ghosts = table.ghosts
    assert table.fit(entries)
    evicted = hashes(0, 20 * entries)
    ghosts.remember(evicted)
    newest = evicted[-max(entries // 4, 1) :]
    oldest = evicted[: 10 * entries]
    assert sum(map(ghosts.recalls, newest)) >= 0.97 * len(newest)
    assert sum(map(ghosts.recalls, oldest)) <= 0.03 * len(oldest) + 1
    window = sum(map(ghosts.recalls, evicted))
    assert 0.9 * entries <= window <= 1.4 * entries + 4


def test_it_hardly_takes_one_for_another(table: Table) -> None:
    table.fit(20_000)
    table.ghosts.remember(hashes(0, 60_000))
    assert sum(map(table.ghosts.recalls, hashes(10**6, 50_000))) <= 20


def test_nobody_is_recalled_before_there_is_a_table(table: Table) -> None:
    table.ghosts.remember(hashes(0, 100))
    assert table.size() == 0
    assert not table.arena.words[POOL_GHOST_WORDS]


def test_it_grows_and_shrinks_with_the_store_but_not_at_every_turn(table: Table) -> None:
    sizes = []
    for entries in (100, 3_000, 60_000, 5_000, 10):
        table.fit(entries)
        assert table.arena.words[POOL_GHOST_WORDS] * 4 >= entries
        sizes.append(table.size())
        words = table.arena.words[POOL_GHOST_WORDS]
        for change in (0.9, 1.1):
            table.fit(int(entries * change))
        assert table.arena.words[POOL_GHOST_WORDS] == words
    assert sizes == [1, 2, 33, 3, 1]


def test_it_takes_what_the_pool_can_spare_and_more_later(table: Table) -> None:
    taken = []
    while segment := table.segments.take(0, OPEN, RESERVE):
        taken.append(segment)
    assert table.fit(60_000)
    few = table.size()
    assert 0 < few <= RESERVE
    table.ghosts.remember(hashes(0, 100_000))
    for segment in taken[:100]:
        table.segments.give_back(segment)
    assert table.fit(60_000)
    assert table.size() == 33


def test_death_while_it_grows_or_shrinks_leaves_no_segment_to_nobody(table: Table) -> None:
    ghosts = table.ghosts
    table.fit(5_000)
    saved = bytes(table.arena.counts)
    for entries in (30_000, 10):
        at = 1
        while dies_at(at, partial(table.fit, entries)):
            ghosts.repair()
            assert table.size() == len(set(ghosts.named()))
            assert table.fit(entries)
            ghosts.remember(hashes(0, 1000))
            assert ghosts.recalls(hashes(0, 1000)[-1])
            table.arena.counts[:] = saved
            at += 23
        table.arena.counts[:] = saved
        assert at > 100


@pytest.mark.parametrize("size", [50, 3000])
def test_who_comes_back_as_a_ghost_stays_longer_than_who_is_new(size: int) -> None:
    with open_store(shards=1) as store:
        names = (b"%d" % i for i in range(10**9))

        def crowd(evictions: int) -> None:
            until = store.stats()["evictions"] + evictions
            while store.stats()["evictions"] < until:
                store.put(next(names), payload(0, size), clock)

        def put(keys: list[bytes]) -> None:
            for key in keys:
                store.put(key, payload(key, size), clock)

        def alive(keys: list[bytes]) -> int:
            return sum(store.get(key, clock) is not None for key in keys)

        crowd(1)
        entries = store.stats()["entries"]
        crowd(entries)
        regulars = [b"regular %d" % i for i in range(20)]
        strangers = [b"stranger %d" % i for i in range(20)]
        put(regulars)
        crowd(entries + 100)
        assert alive(regulars) == 0
        put(regulars)
        put(strangers)
        crowd(entries * 3 // 2)
        assert alive(regulars) >= 18
        assert alive(strangers) == 0
