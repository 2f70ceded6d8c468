"""Walking through all entries of an arena that is changed by nobody, each of them verified as it is read.

In: an arena as a server left it, in order or not. Out: its entries with all that belongs to them. Nothing is
written, so that an arena that is mapped from a file takes no memory of its own. What a slot and its record
have to say of each other is what ``verify`` wants of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from fastkv.store.layout import (
    BUCKET_WORDS,
    COUNT_MAX,
    HIGH_SHIFT,
    LOG_STATES,
    MAIN_STATES,
    SECOND_BUCKET_SHIFT,
    SEG_COVERS,
    SEG_GENERATION,
    SEG_STATE,
    TAG_BITS,
    TAG_SHIFT,
    count_at,
)
from fastkv.store.records import CALLER_FLAGS, FRAGMENT, LARGE, parse_pieces, split_metadata, whole_record

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastkv.store.arena import Arena
    from fastkv.store.index import Index
    from fastkv.store.segments import Segments


class Walked(NamedTuple):
    """An entry, and what decides how long it stays.

    Attributes:
        key: its key.
        value: its value.
        flags: the caller's.
        version: its version.
        deadline_ms: 0 for none.
        accesses: its access count, 0 to 3.
        main: whether it is in the main queue.
        metadata: the caller's, empty for none.
    """

    key: bytes
    value: bytes
    flags: int
    version: int
    deadline_ms: int
    accesses: int
    main: bool
    metadata: bytes


class Walk:
    """Goes through the pages of all shards."""

    __slots__ = (
        "_arena",
        "_index",
        "_log",
        "_segments",
        "_shift",
    )

    def __init__(self, arena: Arena, segments: Segments, index: Index) -> None:
        """Bind to an arena.

        Args:
            arena: the arena.
            segments: its pool.
            index: finds the pages, also of shards that nobody has verified.
        """
        self._arena = arena
        self._segments = segments
        self._index = index
        self._shift = arena.geometry.segment_shift
        # Of each segment of a log: its shard, its generation, and whether it is in the main queue.
        self._log: dict[int, tuple[int, int, bool]] = {}

    def entries(self) -> Iterator[Walked | None]:
        """All entries, in the order of shards, pages and slots; about 10 µs for each.

        Yields:
            An entry, whatever its deadline; None for each slot that leads to none that is whole.
        """
        words, segments = self._arena.words, self._segments
        self._log = {}
        for segment in segments.used():
            row = segments.row(segment)
            state = words[row + SEG_STATE]
            if state & 0xFF in LOG_STATES:
                self._log[segment] = state >> 8, words[row + SEG_GENERATION], state & 0xFF in MAIN_STATES
        bits = self._arena.geometry.directory_bits
        for shard in range(self._arena.geometry.shards):
            named = self._index.directory[shard << bits : shard + 1 << bits].tolist()
            for base in dict.fromkeys(named):
                yield from self._page(shard, base)

    def _page(self, shard: int, base: int) -> Iterator[Walked | None]:
        words = self._arena.words
        covers = words[self._segments.row(self._segments.segment_of(base)) + SEG_COVERS]
        depth = covers.bit_length() - 1
        foreign_shift, prefix = 64 - depth, covers ^ 1 << depth
        for at, word in enumerate(words[base : base + self._arena.geometry.segment_words].tolist()):
            if not word or not at % BUCKET_WORDS:  # empty, or the bucket's access counts
                continue
            if word >> foreign_shift == prefix:  # else a split has moved it to a deeper page
                yield self._entry(shard, base, at, word)

    def _entry(self, shard: int, base: int, at: int, word: int) -> Walked | None:
        """The entry of a slot, None if there is none that is whole."""
        arena, geometry = self._arena, self._arena.geometry
        location = arena.location_of(word)
        record = self._record(shard, location)
        if record is None:
            return None
        key, content, flags, version, deadline_ms = record
        if flags & FRAGMENT or not arena.names_version(word, version):
            return None
        _, generation, main = self._log[location >> self._shift]
        if word >> geometry.generation_shift & geometry.generation_mask != generation:
            return None
        key_hash = arena.hash_of(key)
        if key_hash & geometry.entry_mask != shard << TAG_BITS | word >> TAG_SHIFT:
            return None
        high, bucket = key_hash >> HIGH_SHIFT, at & -BUCKET_WORDS
        if bucket not in (high & geometry.bucket_mask, high >> SECOND_BUCKET_SHIFT & geometry.bucket_mask):
            return None
        value, metadata = split_metadata(content, flags)
        if flags & LARGE:
            whole = self._joined(shard, key_hash, value)
            if whole is None:
                return None
            value = whole
        accesses = self._arena.counts[count_at(base + at)] & COUNT_MAX
        return Walked(key, value, flags & CALLER_FLAGS, version, deadline_ms, accesses, main, metadata)

    def _record(self, shard: int, location: int) -> tuple[bytes, bytes, int, int, int] | None:
        """The record at a location of a shard's log, if there is a whole one."""
        segment = location >> self._shift
        owner, _, _ = self._log.get(segment, (-1, 0, False))
        if owner != shard:
            return None
        return whole_record(self._arena.mem, location << 3, segment + 1 << self._shift + 3)

    def _joined(self, shard: int, key_hash: int, listed: bytes) -> bytes | None:
        """The value of a large entry; None if a fragment of it is not whole or not this key's."""
        whole, *locations = parse_pieces(listed) or (0,)
        pieces = []
        for location in locations:
            found = self._record(shard, location)
            if found is None or not found[2] & FRAGMENT or found[3] != key_hash:
                return None
            pieces.append(found[1])
        value = b"".join(pieces)
        return value if len(value) == whole else None
