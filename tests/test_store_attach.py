"""Taking over an arena whose tables are lost: what can still be told is kept, and the rest is free."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from kept_helpers import GEOMETRY, THEN, fill, reopen
from store_helpers import clock, payload, value_of

from fastkv.store.datafile import DataDirectory
from fastkv.store.layout import (
    PAGE,
    POOL_WORDS,
    SB_DROPPED,
    SEG_COVERS,
    SEG_STATE,
    SEGMENT_ROW,
    SH_VERSION,
    SHARD_WORDS,
    WORD,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from fastkv.store import Store


class Arena:
    """An arena that a kill left.

    Attributes:
        model: what was in it.
    """

    def __init__(self, path: Path) -> None:
        self._directory = DataDirectory(path)
        store, keeper = reopen(self._directory)
        self.model = fill(store)
        for i in range(2000):
            self.model[b"split %d" % i] = b""
            store.put(b"split %d" % i, b"", clock)
        keeper.save_clock(THEN)
        assert store.stats()["index_pages"] > 4
        store.close()

    def reopen(self, spoil: Callable[[memoryview[int]], object]) -> Store:
        """Spoil it, then open it."""
        content = bytearray(self._directory.arena_path.read_bytes())
        with memoryview(content).cast("Q") as words:
            spoil(words)
        with open(self._directory.arena_path, "r+b") as file:
            file.write(content)
        return reopen(self._directory, first_version=10**6)[0]

    def close(self) -> None:
        self._directory.close()


@pytest.fixture
def arena(tmp_path: Path) -> Iterator[Arena]:
    arena = Arena(tmp_path)
    yield arena
    arena.close()


def fill_words(begin: int, end: int, value: int) -> Callable[[memoryview[int]], None]:
    def spoil(words: memoryview[int]) -> None:
        for at in range(begin, end):
            words[at] = value

    return spoil


def noise(begin: int, end: int) -> Callable[[memoryview[int]], None]:
    def spoil(words: memoryview[int]) -> None:
        chance = random.Random(begin)
        for at in range(begin, end):
            words[at] = chance.randrange(1 << 64)

    return spoil


def pages(words: memoryview[int]) -> list[int]:
    """The rows of the index pages."""
    rows = range(GEOMETRY.table_at, GEOMETRY.table_at + GEOMETRY.segments * SEGMENT_ROW, SEGMENT_ROW)
    return [row for row in rows if words[row + SEG_STATE] & 0xFF == PAGE]


def cover_twice(words: memoryview[int]) -> None:
    first, second, *_ = pages(words)
    words[second + SEG_COVERS] = words[first + SEG_COVERS]
    words[second + SEG_STATE] = words[first + SEG_STATE]


def cover_all(words: memoryview[int]) -> None:
    words[pages(words)[0] + SEG_COVERS] = 1


def cover_nothing(words: memoryview[int]) -> None:
    words[pages(words)[0] + SEG_COVERS] = 0


TABLE_END = GEOMETRY.table_at + GEOMETRY.segments * SEGMENT_ROW

DERIVED = {
    "pool": fill_words(POOL_WORDS.start, POOL_WORDS.stop, 0),
    "pool, ones": fill_words(POOL_WORDS.start, POOL_WORDS.stop, (1 << 64) - 1),
    "counter of what was dropped": fill_words(SB_DROPPED, SB_DROPPED + 1, (1 << 64) - 1),
    "sequences": noise(GEOMETRY.sequences_at, GEOMETRY.sequences_at + GEOMETRY.shards),
    "headers": fill_words(GEOMETRY.shards_at, GEOMETRY.directory_at, 0),
    "headers, ones": fill_words(GEOMETRY.shards_at, GEOMETRY.directory_at, (1 << 64) - 1),
    "directory": noise(GEOMETRY.directory_at, GEOMETRY.table_at),
    "ghosts and hashes": noise(TABLE_END, GEOMETRY.digests_at + GEOMETRY.segments),
    "page of zeros": noise(GEOMETRY.blank_page, GEOMETRY.blank_page + GEOMETRY.segment_words),
}


@pytest.mark.parametrize("name", DERIVED)
def test_what_can_be_derived_may_be_lost(arena: Arena, name: str) -> None:
    store = arena.reopen(DERIVED[name])
    for _ in range(2):
        assert {key: value_of(store, key) for key in arena.model} == arena.model
        store.verify()
    assert store.check() == []
    assert (store.stats()["dropped"], store.stats()["entries"]) == (0, len(arena.model))
    versions = [store.put(b"split 1", b"", clock) for _ in range(3)]
    assert 10**6 < versions[0] < versions[1] < versions[2] < 10**6 + 10**12 + 10
    store.close()


FIRST_ROW = GEOMETRY.table_at + GEOMETRY.first_segment * SEGMENT_ROW

LOST = {
    "table": fill_words(GEOMETRY.table_at, TABLE_END, 0),
    "table, ones": fill_words(GEOMETRY.table_at, TABLE_END, (1 << 64) - 1),
    "table, noise": noise(GEOMETRY.table_at, TABLE_END),
    "a page of the table": fill_words(FIRST_ROW + 64, FIRST_ROW + 64 + 4096 // WORD, 0),
    "everything": noise(POOL_WORDS.start + 64, GEOMETRY.memory_bytes // WORD),
    "a page that covers what another one covers": cover_twice,
    "a page that covers all": cover_all,
    "a page that covers nothing": cover_nothing,
}


@pytest.mark.parametrize("name", LOST)
def test_what_cannot_be_derived_is_missed(arena: Arena, name: str) -> None:
    store = arena.reopen(LOST[name])
    before = {key: value_of(store, key) for key in arena.model}
    assert all(value in (None, arena.model[key]) for key, value in before.items())
    store.verify()
    assert {key: value_of(store, key) for key in arena.model} == before
    assert store.check() == []
    assert None in before.values()
    for i in range(1500):
        assert store.put(b"%d" % i, payload(i, 900), clock)
        assert value_of(store, b"%d" % i) == payload(i, 900)
    assert store.check() == []
    store.close()


def test_a_version_that_no_clock_ever_showed_is_not_gone_on_with(arena: Arena) -> None:
    at = GEOMETRY.shards_at + SH_VERSION

    def spoil(words: memoryview[int]) -> None:
        words[at] = words[at + SHARD_WORDS] = 1 << 62

    store = arena.reopen(spoil)
    assert store.put(b"1", b"", clock) < 10**6 + 10
    assert store.check() == []
    store.close()
