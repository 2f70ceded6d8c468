"""What is damaged in an arena that nobody has verified is a miss, and stays one: one cut at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from kept_helpers import GEOMETRY, THEN, reopen
from store_helpers import KIB, clock, payload, value_of
from xxhash import xxh3_64_intdigest

from fastkv.store.datafile import DataDirectory
from fastkv.store.layout import (
    COUNT_MAX,
    LOG_STATES,
    SB_SEED,
    SEG_GENERATION,
    SEG_HEAD,
    SEG_STAMP,
    SEG_STATE,
    SEGMENT_ROW,
    TAG_SHIFT,
    WORD,
    count_at,
)
from fastkv.store.records import COMPACT_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from fastkv.store import Entry, Store

LOCATION_MASK = (1 << GEOMETRY.location_bits) - 1


class Cut:
    """A store as a kill left it, and where to cut before it is opened again.

    Attributes:
        directory: where it is.
        content: the arena, to be cut.
        words: the same as words.
        slots: where the keys stand.
        buckets: the two that ``9`` may stand in.
        older: where the record lay that ``twice`` had before.
        model: what was in it.
    """

    def __init__(self, path: Path) -> None:
        self.directory = DataDirectory(path)
        store, keeper = reopen(self.directory)
        self.model = {b"%d" % i: payload(i, i) for i in range(100)}
        self.model |= {b"twice": b"new", b"large": payload(1, 9000), b"other": payload(2, 9000)}
        store.put(b"twice", b"old", clock)
        self.older = self._word(store, b"twice")
        for key, value in self.model.items():
            store.put(key, value, clock)
        keeper.save_clock(THEN)
        self.slots = {key: self._entry(store, key)[4] for key in self.model}
        self.content = bytearray(store.counts)
        self.words = memoryview(self.content).cast("Q")
        self.buckets = store._index.buckets(xxh3_64_intdigest(b"9", self.words[SB_SEED]))
        store.close()

    def _entry(self, store: Store, key: bytes) -> Entry:
        entry = store.get(key, clock)
        assert entry is not None
        return entry

    def _word(self, store: Store, key: bytes) -> int:
        return self._entry(store, key)[5]

    def at(self, key: bytes) -> int:
        """The byte at which a key's record begins."""
        return (self.words[self.slots[key]] & LOCATION_MASK) * WORD

    def fragment(self, key: bytes, number: int) -> int:
        """The byte at which a fragment of a large value begins."""
        at = self.at(key) + 16 + len(key) + (1 + number) * WORD
        return int.from_bytes(self.content[at : at + WORD], "little") * WORD

    def row(self, key: bytes) -> int:
        """The row of the segment that a key's record lies in."""
        return GEOMETRY.table_at + self.at(key) // GEOMETRY.segment_bytes * SEGMENT_ROW

    def swap(self, one: int, other: int, length: int) -> None:
        """Exchange two stretches of bytes."""
        content = self.content
        content[one : one + length], content[other : other + length] = (
            content[other : other + length],
            content[one : one + length],
        )

    def reopen(self) -> Store:
        """Open what was cut."""
        self.words.release()
        with open(self.directory.arena_path, "r+b") as file:
            file.write(self.content)
        return reopen(self.directory)[0]


@pytest.fixture
def cut(tmp_path: Path) -> Iterator[Cut]:
    cut = Cut(tmp_path)
    yield cut
    cut.directory.close()


def flip(cut: Cut, byte: int) -> None:
    cut.content[byte] ^= 1


def lead_to_the_older_record(cut: Cut) -> None:
    slot = cut.slots[b"twice"]
    cut.words[slot] = cut.words[slot] & ~LOCATION_MASK | cut.older & LOCATION_MASK


def lead_past_the_end(cut: Cut) -> None:
    slot = cut.slots[b"9"]
    cut.words[slot] = cut.words[slot] & ~LOCATION_MASK | LOCATION_MASK


def lead_into_the_tables(cut: Cut) -> None:
    slot = cut.slots[b"9"]
    cut.words[slot] = cut.words[slot] & ~LOCATION_MASK | 1


def move_into_another_bucket(cut: Cut) -> None:
    slot = cut.slots[b"9"]
    bucket = next(other for other in (slot & -8 ^ 64, slot & -8 ^ 128) if other not in cut.buckets)
    empty = next(bucket + i for i in range(1, 8) if not cut.words[bucket + i])
    cut.words[empty], cut.words[slot] = cut.words[slot], 0


def add(cut: Cut, at: int, amount: int) -> None:
    cut.words[at] = (cut.words[at] + amount) % (1 << 64)


# name: what is done, and who is missed then
CUTS: dict[str, tuple[Callable[[Cut], object], set[bytes]]] = {
    "nothing": (lambda cut: None, set()),
    "key": (lambda cut: flip(cut, cut.at(b"9") + COMPACT_BYTES), {b"9"}),
    "value": (lambda cut: flip(cut, cut.at(b"9") + COMPACT_BYTES + 4), {b"9"}),
    "checksum": (lambda cut: flip(cut, cut.at(b"9") + COMPACT_BYTES + 1 + 9), {b"9"}),
    "padding": (lambda cut: flip(cut, cut.at(b"9") + COMPACT_BYTES + 1 + 9 + 4), set()),
    "version": (lambda cut: flip(cut, cut.at(b"9") + 8), {b"9"}),
    "length of the key": (lambda cut: flip(cut, cut.at(b"9") + 1), {b"9"}),
    "length of the value": (lambda cut: flip(cut, cut.at(b"9") + 7), {b"9"}),
    "flags": (lambda cut: flip(cut, cut.at(b"9") + 3), {b"9"}),
    "list of fragments": (lambda cut: flip(cut, cut.at(b"large") + 16 + 5 + 8), {b"large"}),
    "fragment": (lambda cut: flip(cut, cut.fragment(b"large", 1) + 100), {b"large"}),
    "fragments of two keys": (
        lambda cut: cut.swap(cut.fragment(b"large", 1), cut.fragment(b"other", 1), 4 * KIB),
        {b"large", b"other"},
    ),
    "word, tag": (lambda cut: flip(cut, cut.slots[b"9"] * WORD + TAG_SHIFT // 8), {b"9"}),
    "word, version": (lambda cut: add(cut, cut.slots[b"9"], 1 << GEOMETRY.location_bits), {b"9"}),
    "word, generation": (
        lambda cut: add(cut, cut.slots[b"9"], 1 << GEOMETRY.location_bits + GEOMETRY.version_bits),
        {b"9"},
    ),
    "word, to an older record": (lead_to_the_older_record, {b"twice"}),
    "word, past the end": (lead_past_the_end, {b"9"}),
    "word, into the tables": (lead_into_the_tables, {b"9"}),
    "word, in another bucket": (move_into_another_bucket, {b"9"}),
    "counts": (lambda cut: add(cut, cut.slots[b"9"] & -8, 1 << 62 | 0xFC << cut.slots[b"9"] % 8 * 8), set()),
    "head, past the end": (lambda cut: add(cut, cut.row(b"9") + SEG_HEAD, 1 << 40), set()),
    "head, too low": (lambda cut: add(cut, cut.row(b"9") + SEG_HEAD, -5), set()),
    "head, a little too high": (lambda cut: add(cut, cut.row(b"9") + SEG_HEAD, 2), set()),
    "stamp": (lambda cut: add(cut, cut.row(b"9") + SEG_STAMP, -(1 << 60)), set()),
}


@pytest.mark.parametrize("name", CUTS)
def test_a_cut(cut: Cut, name: str) -> None:
    damage, missed = CUTS[name]
    damage(cut)
    store = cut.reopen()
    expected = {key: None if key in missed else value for key, value in cut.model.items()}
    assert {key: value_of(store, key) for key in cut.model} == expected
    assert store.unverified() == 2
    store.verify()
    assert {key: value_of(store, key) for key in cut.model} == expected
    assert store.stats()["entries"] == len(cut.model) - len(missed)
    assert store.stats()["dropped"] == len(missed)
    assert all(store.counts[count_at(slot)] <= COUNT_MAX for slot in cut.slots.values())
    assert store.check() == []
    for key in missed:
        assert store.put(key, b"again", clock)
        assert value_of(store, key) == b"again"
    assert store.check() == []
    store.close()


@pytest.mark.parametrize(("field", "amount"), [(SEG_STATE, 1 << 40), (SEG_GENERATION, 1)])
def test_of_a_segment_whose_row_is_damaged_all_is_missed(cut: Cut, field: int, amount: int) -> None:
    row = cut.row(b"9")
    within = {key for key in cut.model if cut.row(key) == row}
    add(cut, row + field, amount)
    store = cut.reopen()
    for _ in range(2):
        found = {key: value_of(store, key) for key in cut.model}
        # A large value may have had a fragment there.
        for key in cut.model.keys() - within - {b"large", b"other"}:
            assert found[key] == cut.model[key]
        assert {found[key] for key in within} == {None}
        store.verify()
    assert store.check() == []
    store.close()


def test_what_is_dead_need_not_be_whole_to_be_gone_through(cut: Cut) -> None:
    """Eviction and cleaning go from record to record."""
    row = cut.row(b"twice")
    assert cut.words[row + SEG_STATE] & 0xFF in LOG_STATES
    head = (cut.older & LOCATION_MASK) * WORD
    for number in range(16):
        cut.content[head + number] = 0xA5
    store = cut.reopen()
    store.verify()
    assert store.stats()["dropped"] == 0
    generation = store.words[row + SEG_GENERATION]
    for i in range(3000):
        assert store.put(b"more %d" % i, payload(i, 1000), clock)
    stats = store.stats()
    assert stats["evictions"] > 1000
    assert store.check() == []
    # The segment was emptied in its turn, and given back.
    assert store.words[row + SEG_GENERATION] > generation
    store.close()
