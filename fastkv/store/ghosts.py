"""Who was evicted not long ago: S3-FIFO's ghost queue, without keys.

A table of 64-bit words, each a queue of its own of four tags of 16 bits: the newest is shifted in, the
oldest falls out. With room for 1.125 times as many tags as there are entries, hit ratios on the traces that
this was chosen by are between 0.0002 below and 0.0087 above those with one exact queue of 0.9 times as many.
(One tag a word: up to 0.0068 below. 32 tags in a cache line: as good, but twice the time.)

It takes segments from the pool when the first entry is evicted, and not before. What stands in it are
hints: a lost or a wrong one lets an entry begin in another queue, no more. Who reads it holds no lock of it;
it is changed under the eviction lock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fastkv.store.layout import (
    GHOSTS,
    HIGH_SHIFT,
    POOL_GHOST_SEGMENTS,
    POOL_GHOST_WORDS,
    SEG_STATE,
    TAG_BITS,
    TAG_MASK,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fastkv.store.arena import Arena
    from fastkv.store.segments import Segments

_HIGH_BITS: Final = 64 - HIGH_SHIFT
_YOUNGER_TAGS: Final = (1 << 48) - 1
_TAGS: Final = 4
# Tags for each entry between which the table keeps its size, and those it is made for, in eighths.
_FEWEST, _AIM, _MOST = 7, 9, 16
# Some segments stay for eviction itself.
_FLOOR: Final = 1


class Ghosts:
    """The ghost table."""

    __slots__ = ("_arena", "_directory_at", "_mask", "_mem", "_segment_shift", "_segments", "_words")

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
        self._segment_shift = arena.geometry.segment_shift
        self._mask = arena.geometry.segment_words - 1

    def recalls(self, key_hash: int) -> bool:
        """Tell whether a key was evicted not long ago.

        Args:
            key_hash: its hash.

        Returns:
            True if it was, or, once in a thousand times, if another key was.
        """
        words = self._words
        number = (key_hash >> HIGH_SHIFT) * words[POOL_GHOST_WORDS] >> _HIGH_BITS
        at = words[self._directory_at + (number >> self._segment_shift)] + (number & self._mask) << 3
        return self._mem.find((key_hash & TAG_MASK).to_bytes(2, "little"), at, at + 8) >= 0

    def remember(self, key_hashes: Iterable[int]) -> None:
        """Take note of evictions, if there is a table.

        Args:
            key_hashes: the hashes of the keys.
        """
        words = self._words
        size = words[POOL_GHOST_WORDS]
        if not size:
            return
        shift, mask = self._segment_shift, self._mask
        start = self._directory_at
        bases = words[start : start + words[POOL_GHOST_SEGMENTS]].tolist()
        for key_hash in key_hashes:
            number = (key_hash >> HIGH_SHIFT) * size >> _HIGH_BITS
            at = bases[number >> shift] + (number & mask)
            words[at] = (words[at] & _YOUNGER_TAGS) << TAG_BITS | key_hash & TAG_MASK

    def fit(self, entries: int) -> bool:
        """Bring the table nearer to the size that it has to have, under the eviction lock.

        A table of another size has other queues for most keys, so that much of what it knew is lost: it is
        made with room to both sides, and it changes when it has all the segments that it needs. It takes them
        one by one, lest many entries are evicted at once to make room for it.

        Args:
            entries: how many there are in the store.

        Returns:
            False if there is no table, because the pool has no segment for it.
        """
        words = self._words
        size = words[POOL_GHOST_WORDS]
        if entries * _FEWEST <= size * _TAGS * 8 <= max(entries, _TAGS) * _MOST:
            return True
        aim = entries * _AIM // (_TAGS * 8) + 1
        needed = min((aim >> self._segment_shift) + 1, self._arena.geometry.most_ghosts)
        # Whoever reads meanwhile may find what is not the table's any more: wrong hints for a moment.
        owned = self._grow(needed) if aim > size else self._shrink(needed)
        if owned == needed or not size:
            words[POOL_GHOST_WORDS] = min(aim, owned << self._segment_shift)
        return owned > 0

    def _grow(self, needed: int) -> int:
        """Take a segment if there are fewer than needed and the pool has one to spare.

        Returns:
            How many the table has.
        """
        words, size = self._words, self._arena.geometry.segment_bytes
        owned = words[POOL_GHOST_SEGMENTS]
        if owned < needed and (segment := self._segments.take(0, GHOSTS, _FLOOR)):
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
        words[POOL_GHOST_WORDS] = min(words[POOL_GHOST_WORDS], needed << self._segment_shift)
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
