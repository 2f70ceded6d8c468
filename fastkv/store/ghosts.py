"""Who was evicted not long ago: S3-FIFO's ghost queue, without keys.

A table of buckets of 32 tags of 16 bits, one cache line each. The newest tag of a bucket is written to its
front and pushes the last one out, so each bucket is a small queue of its own, and only as many of its tags
count as make all buckets together remember as many evictions as S3-FIFO asks for (nine tenths of the
entries). On the traces that this was chosen by, that is within 0.0005 of one exact queue's hit ratio.

It takes segments from the pool when the first entry is evicted, and not before. What stands in it are
hints: a lost or a wrong one lets an entry begin in another queue, no more. Who reads it holds no lock of it;
it is changed under the eviction lock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fastkv.store.index import HIGH_SHIFT
from fastkv.store.layout import (
    GHOSTS,
    POOL_GHOST_BUCKETS,
    POOL_GHOST_BYTES,
    POOL_GHOST_SEGMENTS,
    SEG_STATE,
    TAG_MASK,
    Arena,
)

if TYPE_CHECKING:
    from fastkv.store.segments import Segments

_BUCKET_BYTES: Final = 64
_TAG_BYTES: Final = 2
_HIGH_BITS: Final = 64 - HIGH_SHIFT
# Tags a bucket between which the table keeps its size, and those it is made for.
_FEWEST, _AIM, _MOST = 12, 24, 32
# Some segments stay for eviction itself.
_FLOOR: Final = 1


class Ghosts:
    """The ghost table."""

    __slots__ = ("_arena", "_directory_at", "_mem", "_per_segment_bits", "_segments", "_words")

    def __init__(self, arena: Arena, segments: Segments) -> None:
        """Bind to an arena.

        Args:
            arena: the arena.
            segments: its pool.
        """
        self._arena = arena
        self._mem = arena.mem
        self._words = arena.words
        self._segments = segments
        self._directory_at = arena.geometry.ghosts_at
        self._per_segment_bits = (arena.geometry.segment_bytes // _BUCKET_BYTES).bit_length() - 1

    def recalls(self, key_hash: int) -> bool:
        """Tell whether a key was evicted not long ago.

        Args:
            key_hash: its hash.

        Returns:
            True if it was, or, once in a thousand times, if another key was.
        """
        at = self._bucket(key_hash)
        end = at + self._words[POOL_GHOST_BYTES]
        tag = (key_hash & TAG_MASK).to_bytes(_TAG_BYTES, "little")
        return self._mem.find(tag, at, end) >= 0

    def remember(self, key_hash: int) -> None:
        """Take note of an eviction, if there is a table.

        Args:
            key_hash: the hash of the key.
        """
        if not self._words[POOL_GHOST_BUCKETS]:
            return
        mem = self._mem
        at = self._bucket(key_hash)
        tag = (key_hash & TAG_MASK).to_bytes(_TAG_BYTES, "little")
        mem[at : at + _BUCKET_BYTES] = tag + mem[at : at + _BUCKET_BYTES - _TAG_BYTES]

    def _bucket(self, key_hash: int) -> int:
        """The byte at which a key's bucket begins."""
        bucket = (key_hash >> HIGH_SHIFT) * self._words[POOL_GHOST_BUCKETS] >> _HIGH_BITS
        base = self._words[self._directory_at + (bucket >> self._per_segment_bits)]
        return (base << 3) + (bucket & (1 << self._per_segment_bits) - 1) * _BUCKET_BYTES

    def fit(self, entries: int) -> bool:
        """Make the table as large as it has to be, under the eviction lock.

        A table of another size has other buckets for most keys, so that much of what it knew is lost: it is
        made with room to both sides.

        Args:
            entries: how many there are in the store.

        Returns:
            False if there is no table, because the pool has no segment for it.
        """
        words = self._words
        wanted = max(entries * 9 // 10, _AIM)
        buckets = words[POOL_GHOST_BUCKETS]
        if not buckets * _FEWEST <= wanted <= buckets * _MOST:
            aim = -(-wanted // _AIM)
            needed = min(-(-aim >> self._per_segment_bits), self._arena.geometry.most_ghosts)
            # Whoever reads meanwhile may find what is not the table's any more: wrong hints for a moment.
            owned = self._grow(needed) if aim > buckets else self._shrink(needed)
            buckets = words[POOL_GHOST_BUCKETS] = min(aim, owned << self._per_segment_bits)
        if buckets:
            words[POOL_GHOST_BYTES] = min(-(-wanted // buckets), _MOST) * _TAG_BYTES
        return buckets > 0

    def _grow(self, needed: int) -> int:
        """Take segments until there are so many, or until the pool has none to spare.

        Returns:
            How many the table has.
        """
        words, size = self._words, self._arena.geometry.segment_bytes
        owned = words[POOL_GHOST_SEGMENTS]
        while owned < needed and (segment := self._segments.take(0, GHOSTS, _FLOOR)):
            base = self._segments.base(segment)
            self._mem[base << 3 : (base << 3) + size] = bytes(size)
            words[self._directory_at + owned] = base
            owned += 1
            words[POOL_GHOST_SEGMENTS] = owned
        return owned

    def _shrink(self, needed: int) -> int:
        """Give back segments until there are so many.

        Returns:
            How many the table has.
        """
        words = self._words
        owned = words[POOL_GHOST_SEGMENTS]
        words[POOL_GHOST_BUCKETS] = min(words[POOL_GHOST_BUCKETS], needed << self._per_segment_bits)
        while owned > needed:
            owned -= 1
            words[POOL_GHOST_SEGMENTS] = owned
            self._segments.give_back(self._segments.segment_of(words[self._directory_at + owned]))
        return owned

    def repair(self) -> None:
        """Give back what a death in ``fit`` left to nobody, under the eviction lock."""
        words, segments = self._words, self._segments
        named = set(self.named())
        for segment in segments.used():
            if words[segments.row(segment) + SEG_STATE] & 0xFF == GHOSTS and segment not in named:
                segments.give_back(segment)

    def named(self) -> list[int]:
        """The table's segments."""
        start = self._directory_at
        bases = self._words[start : start + self._words[POOL_GHOST_SEGMENTS]].tolist()
        return [self._segments.segment_of(base) for base in bases]
