"""check() sees each kind of damage: one word or byte is changed by hand, and it says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from store_helpers import MIB, SEED, clock, payload, snapshot

from fastkv.store import Store
from fastkv.store.layout import (
    CLOSED,
    FREE,
    OPEN,
    PAGE,
    POOL_FREE_COUNT,
    POOL_FREE_HEAD,
    SB_LAYOUT,
    SB_MAGIC,
    SEG_COVERS,
    SEG_DEAD,
    SEG_GENERATION,
    SEG_HEAD,
    SEG_NEXT,
    SEG_STATE,
    SEGMENT_ROW,
    SH_ENTRIES,
    SH_NEWEST,
    SH_OLDEST,
    SH_OPEN,
    SH_PAGES,
    SH_VERSION,
    SHARD_WORDS,
    TAG_SHIFT,
)
from fastkv.store.records import COMPACT_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Scalpel:
    """A store with two shards, segments in every state, split pages and a large entry, and where to cut.

    Attributes:
        store: the store.
        words: its arena.
    """

    def __init__(self) -> None:
        store = self.store = Store(MIB, shards=2, segment_bytes=4096, seed=SEED)
        self.words = store.words
        for i in range(1000):
            store.put(b"%d" % i, payload(i, i % 50), clock)
        store.put(b"large", payload("large", 9000), clock)
        store.put(b"gone", payload("gone", 20_000), clock)
        store.delete(b"gone", clock)

    def shard(self, field: int) -> int:
        """Where a field of the first shard's header stands."""
        return self.store.geometry.shards_at + field

    def row(self, state: int, field: int, shard: int = 0) -> int:
        """Where a field of a segment's row stands.

        Args:
            state: the segment is the first one with it.
            field: the field.
            shard: the segment's owner.

        Returns:
            Its word.
        """
        geometry = self.store.geometry
        for segment in range(geometry.first_segment, geometry.segments):
            at = geometry.table_at + segment * SEGMENT_ROW
            if self.words[at + SEG_STATE] == shard << 8 | state:
                return at + field
        raise AssertionError(f"no segment is in state {state}")

    def segment(self, state: int) -> int:
        """The first segment in a state."""
        return (self.row(state, 0) - self.store.geometry.table_at) // SEGMENT_ROW

    def slot(self, key: bytes) -> int:
        """The slot of a key."""
        entry = self.store.get(key, clock)
        assert entry is not None
        return entry[4]

    def record(self, key: bytes) -> int:
        """The byte at which a key's record begins."""
        location_mask = (1 << self.store.geometry.location_bits) - 1
        return (self.words[self.slot(key)] & location_mask) << 3

    def fragment(self, key: bytes) -> int:
        """The byte at which the second fragment of a large entry begins."""
        at = self.record(key) + 16 + len(key) + 2 * 8
        return int.from_bytes(self.store.counts[at : at + 8], "little") << 3

    def add(self, at: int, amount: int) -> None:
        """Change a word."""
        self.words[at] += amount

    def set(self, at: int, value: int) -> None:
        """Replace a word."""
        self.words[at] = value

    def flip(self, byte: int, mask: int = 1) -> None:
        """Flip bits of a byte."""
        self.store.counts[byte] ^= mask

    def swap(self, one: int, other: int) -> None:
        """Exchange two words."""
        words = self.words
        words[one], words[other] = words[other], words[one]

    def empty_slot_beside(self, key: bytes) -> int:
        """An empty slot in a bucket that is not the key's."""
        bucket = (self.slot(key) & -8) ^ 8
        return next(bucket + i for i in range(1, 8) if not self.words[bucket + i])

    def entry_in_use(self) -> int:
        """The first shard's last entry of the directory."""
        return self.store.geometry.directory_at + (1 << self.store.geometry.directory_bits) - 1


# name: (what is done, what must be said)
DAMAGES: dict[str, tuple[Callable[[Scalpel], object], str]] = {
    "superblock, magic": (lambda cut: cut.add(SB_MAGIC, 1), "superblock"),
    "superblock, layout": (lambda cut: cut.add(SB_LAYOUT, 1), "superblock"),
    "pool, count of free segments": (lambda cut: cut.add(POOL_FREE_COUNT, 1), "the pool counts"),
    "pool, list lost": (lambda cut: cut.set(POOL_FREE_HEAD, 0), "the free list has"),
    "pool, list cut": (lambda cut: cut.set(cut.row(FREE, SEG_NEXT), 0), "the free list has"),
    "pool, list bent into a closed segment": (
        lambda cut: cut.set(POOL_FREE_HEAD, cut.segment(CLOSED)),
        "the free list has",
    ),
    "pool, list bent into a ring": (
        lambda cut: cut.set(cut.row(FREE, SEG_NEXT), cut.segment(FREE)),
        "the free list has",
    ),
    "table, a state that there is not": (
        lambda cut: cut.set(cut.row(CLOSED, SEG_STATE), 99),
        "has the state",
    ),
    "table, a shard that there is not": (
        lambda cut: cut.add(cut.row(CLOSED, SEG_STATE), 7 << 8),
        "has the state",
    ),
    "table, a closed segment is free": (
        lambda cut: cut.set(cut.row(CLOSED, SEG_STATE), FREE),
        "the free list has",
    ),
    "table, a closed segment is another shard's": (
        lambda cut: cut.add(cut.row(CLOSED, SEG_STATE), 1 << 8),
        "not in the shard's log",
    ),
    "table, a closed segment is open": (
        lambda cut: cut.set(cut.row(CLOSED, SEG_STATE), OPEN),
        "is not the one that the table calls open",
    ),
    "table, the open segment is closed": (
        lambda cut: cut.set(cut.row(OPEN, SEG_STATE), CLOSED),
        "small queue",
    ),
    "table, written past the end": (lambda cut: cut.add(cut.row(OPEN, SEG_HEAD), 4096), "past its end"),
    "table, head moved back": (lambda cut: cut.set(cut.row(CLOSED, SEG_HEAD), 8), "past the segment's head"),
    "table, live words, one too few": (lambda cut: cut.add(cut.row(CLOSED, SEG_DEAD), 1), "live words"),
    "table, live words, one too many": (lambda cut: cut.add(cut.row(OPEN, SEG_HEAD), 1), "live words"),
    "table, nothing alive but not free": (
        lambda cut: cut.set(cut.row(CLOSED, SEG_DEAD), cut.words[cut.row(CLOSED, SEG_HEAD)]),
        "holds nothing alive",
    ),
    "table, generation": (lambda cut: cut.add(cut.row(CLOSED, SEG_GENERATION), 1), "old generation"),
    "table, what a page covers": (lambda cut: cut.add(cut.row(PAGE, SEG_COVERS), 1), "does not cover it"),
    "shard, entries": (lambda cut: cut.add(cut.shard(SH_ENTRIES), 1), "entries are counted"),
    "shard, entries of the other": (
        lambda cut: cut.add(cut.shard(SHARD_WORDS + SH_ENTRIES), 1),
        "shard 1: ",
    ),
    "shard, pages": (lambda cut: cut.add(cut.shard(SH_PAGES), 1), "pages, each once"),
    "shard, version": (lambda cut: cut.set(cut.shard(SH_VERSION), 5), "runs ahead"),
    "shard, no open segment": (lambda cut: cut.set(cut.shard(SH_OPEN), 0), "calls open"),
    "shard, queue lost": (lambda cut: cut.set(cut.shard(SH_OLDEST), 0), "small queue"),
    "shard, queue cut": (
        lambda cut: cut.set(
            cut.store.geometry.table_at + cut.words[cut.shard(SH_OLDEST)] * SEGMENT_ROW + SEG_NEXT, 0
        ),
        "small queue",
    ),
    "shard, queue bent into a ring": (
        lambda cut: cut.set(
            cut.store.geometry.table_at + cut.words[cut.shard(SH_NEWEST)] * SEGMENT_ROW + SEG_NEXT,
            cut.words[cut.shard(SH_OLDEST)],
        ),
        "small queue",
    ),
    "sequence left odd": (lambda cut: cut.add(cut.store.geometry.sequences_at, 1), "sequence is odd"),
    "directory, an entry of a page that does not cover it": (
        lambda cut: cut.set(cut.entry_in_use(), cut.words[cut.store.geometry.directory_at]),
        "does not cover it",
    ),
    "directory, an entry of the other shard's page": (
        lambda cut: cut.set(cut.entry_in_use(), cut.words[cut.entry_in_use() + 1]),
        "pages, each once",
    ),
    "slot, lost": (lambda cut: cut.set(cut.slot(b"7"), 0), "entries are counted"),
    "slot, generation": (
        lambda cut: cut.add(
            cut.slot(b"7"), 1 << cut.store.geometry.location_bits + cut.store.geometry.version_bits
        ),
        "old generation",
    ),
    "slot, version": (
        lambda cut: cut.flip((cut.slot(b"7") << 3) + (cut.store.geometry.location_bits >> 3), 128),
        "another version",
    ),
    "slot, tag": (lambda cut: cut.add(cut.slot(b"7"), 1 << TAG_SHIFT), "does not belong here"),
    "slot, location between records": (lambda cut: cut.add(cut.slot(b"49"), 1), "slot "),
    "slot, location in a page": (
        lambda cut: cut.set(
            cut.slot(b"7"),
            cut.words[cut.slot(b"7")] >> TAG_SHIFT << TAG_SHIFT | cut.words[cut.store.geometry.directory_at],
        ),
        "not in the shard's log",
    ),
    "slots, two exchanged": (lambda cut: cut.swap(cut.slot(b"7"), cut.slot(b"8")), "shard 0: slot "),
    "slots, a key in a foreign bucket": (
        lambda cut: cut.swap(cut.slot(b"7"), cut.empty_slot_beside(b"7")),
        "does not belong here",
    ),
    "record, a byte of the key": (lambda cut: cut.flip(cut.record(b"77") + COMPACT_BYTES), "is damaged"),
    "record, a byte of the value": (
        lambda cut: cut.flip(cut.record(b"49") + 34, 0x80),
        "is damaged",
    ),
    "record, its version": (lambda cut: cut.flip(cut.record(b"49") + 8), "is damaged"),
    "record, its checksum": (
        lambda cut: cut.flip(cut.record(b"49") + COMPACT_BYTES + 2 + 49),
        "is damaged",
    ),
    "fragment, a byte of the value": (lambda cut: cut.flip(cut.fragment(b"large") + 99), "is damaged"),
    "fragment, its owner": (lambda cut: cut.flip(cut.fragment(b"large") + 8), "no fragment of this key"),
    "fragment, its flags": (lambda cut: cut.flip(cut.fragment(b"large") + 3, 4), "no fragment of this key"),
}


@pytest.fixture(scope="module")
def scalpel() -> Iterator[Scalpel]:
    cut = Scalpel()
    yield cut
    assert cut.store.check() == []
    cut.store.close()


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_seen(name: str, scalpel: Scalpel) -> None:
    damage, said = DAMAGES[name]
    assert scalpel.store.check() == []
    restore = snapshot(scalpel.store)
    try:
        damage(scalpel)
        problems = scalpel.store.check()
        assert any(said in problem for problem in problems), problems[:5]
    finally:
        restore()


def test_a_key_that_stands_twice_is_seen(scalpel: Scalpel) -> None:
    store, words = scalpel.store, scalpel.words
    restore = snapshot(store)
    slot = scalpel.slot(b"7")
    bucket = slot & -8
    twin = next(bucket + i for i in range(1, 8) if not words[bucket + i])
    words[twin] = words[slot]
    assert any("stands in two slots" in problem for problem in store.check())
    restore()
