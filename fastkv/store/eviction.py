"""Making room: whole segments, cleaned or evicted.

Entries are evicted in the order in which their segments were filled, over all shards, and whoever was
read since then gets a second chance (FIFO-Reinsertion, the base of S3-FIFO). Where much of a segment is
dead space it is cleaned instead, and then nobody is evicted: live records are copied, at most one word for
each word that clients wrote, so that copying never takes more than half of the writing.

No shard's lock is held while another one is waited for: a writer that finds no room lets go of its shard,
makes room here, one segment at a time, and tries again. The order of locks is eviction → shard → pool.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xxhash import xxh3_64_intdigest

from fastkv.store.layout import (
    POOL_CREDIT,
    SEG_DEAD,
    SEG_HEAD,
    SEG_STAMP,
    SH_DEADEST,
    SH_EVICTED,
    SH_EXPIRED,
    SH_OLDEST,
    SH_OPEN,
    SH_OPEN_KEPT,
    Arena,
    count_at,
)
from fastkv.store.records import DEADLINE, FRAGMENT, LARGE, parse_record, record_words, unpack_head

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fastkv.store.index import Index
    from fastkv.store.repair import Guard
    from fastkv.store.segments import Segments
    from fastkv.store.shard import Shard

# A segment with less dead space than a sixteenth is not worth copying.
_WORTH_CLEANING = 16
# Rounds of second chances before nobody gets one: then each evicted segment is a free segment.
_MERCY = 8


class Eviction:
    """Makes room in the pool."""

    __slots__ = ("_guard", "_index", "_mem", "_seed", "_segment_words", "_segments", "_shards", "_words")

    def __init__(
        self, arena: Arena, shards: list[Shard], segments: Segments, index: Index, seed: int, guard: Guard
    ) -> None:
        """Bind to a store.

        Args:
            arena: the arena.
            shards: its shards.
            segments: its pool.
            index: its index.
            seed: seed of the keys' hashes.
            guard: holds a shard's lock.
        """
        self._mem = arena.mem
        self._words = arena.words
        self._segment_words = arena.geometry.segment_words
        self._shards = shards
        self._segments = segments
        self._index = index
        self._seed = seed
        self._guard = guard

    def free_one(self, attempt: int, clock: Callable[[], int]) -> bool:
        """Clean or evict one segment.

        Args:
            attempt: how often room was made for the same write before; past a few times nobody gets a
                second chance.
            clock: milliseconds now.

        Returns:
            False if there is nothing that could be freed.
        """
        return self._clean() or self._evict(clock, attempt < _MERCY)

    # -- which segment ---------------------------------------------------------------------------------

    def _deadest(self) -> Shard | None:
        """The shard whose deadest segment is the cheapest to clean, if there is credit for it."""
        words = self._words
        best, most = None, self._segment_words // _WORTH_CLEANING
        for shard in self._shards:
            segment = words[shard.header + SH_DEADEST]
            if segment:
                dead = words[self._segments.row(segment) + SEG_DEAD]
                if dead > most and self._segments.live_words(segment) <= words[POOL_CREDIT]:
                    best, most = shard, dead
        return best

    def _oldest(self) -> Shard | None:
        """The shard with the oldest closed segment of all."""
        words = self._words
        best, first = None, 1 << 64
        for shard in self._shards:
            segment = words[shard.header + SH_OLDEST]
            if segment:
                stamp = words[self._segments.row(segment) + SEG_STAMP]
                if stamp < first:
                    best, first = shard, stamp
        return best

    # -- what happens to it ------------------------------------------------------------------------------

    def _clean(self) -> bool:
        """Copy the live records out of the deadest segment.

        Returns:
            False if no segment is worth it, or nobody could be moved.
        """
        words = self._words
        shard = self._deadest()
        if shard is None:
            return False
        with self._guard.holding(shard):
            segment = words[shard.header + SH_DEADEST]
            if not segment:
                return True  # somebody was faster
            self._segments.spend_credit(self._segments.live_words(segment))
            for slot, word, location, flags in self._live_records(shard, segment):
                if not self._relocate(shard, slot, word, location, flags):
                    return False
        return True

    def _evict(self, clock: Callable[[], int], mercy: bool) -> bool:
        """Empty the oldest segment: who was read since gets a second chance, everybody else goes.

        Args:
            clock: milliseconds now.
            mercy: whether there are second chances; at most half of a segment gets one.

        Returns:
            False if no segment is closed or can be.
        """
        words, mem = self._words, self._mem
        shard = self._oldest()
        if shard is None:
            return self._close_open_segments()
        with self._guard.holding(shard):
            segment = words[shard.header + SH_OLDEST]
            if not segment:
                return True  # somebody was faster
            kept, may_keep = 0, self._segment_words // 2 if mercy else 0
            now_ms = clock()
            for slot, word, location, flags in self._live_records(shard, segment):
                owner = word & self._index.location_mask
                if words[owner + 2] <= now_ms and self._has_deadline(owner):
                    shard.drop(slot, word)
                    words[shard.header + SH_EXPIRED] += 1
                    continue
                place = count_at(slot)
                if mem[place] and kept < may_keep:
                    mem[place] -= 1
                    length = shard.length(location)
                    if self._relocate(shard, slot, word, location, flags):
                        kept += length
                        continue
                shard.drop(slot, word)
                words[shard.header + SH_EVICTED] += 1
        return True

    def _has_deadline(self, location: int) -> bool:
        return bool(unpack_head(self._mem, location << 3)[1] & DEADLINE)

    def _relocate(self, shard: Shard, slot: int, word: int, location: int, flags: int) -> bool:
        if flags & FRAGMENT:
            return shard.relocate_piece(slot, word, location)
        return shard.relocate(slot, word)

    def _close_open_segments(self) -> bool:
        """A small arena can be full of open segments: close them all, so that there is something to evict.

        Returns:
            False if none was open.
        """
        closed = False
        for shard in self._shards:
            with self._guard.holding(shard):
                for field in (shard.header + SH_OPEN, shard.header + SH_OPEN_KEPT):
                    if self._words[field]:
                        shard.close_open(field)
                        closed = True
        return closed

    # -- reading a segment -------------------------------------------------------------------------------

    def _live_records(self, shard: Shard, segment: int) -> Iterator[tuple[int, int, int, int]]:
        """Walk a segment's log, record by record.

        The last live record that is moved or dropped gives the segment back to the pool, where another
        shard may take it and write to it: then there is nothing left to read here.

        Args:
            shard: its owner, whose lock is held.
            segment: the segment.

        Yields:
            For each record that the index refers to: the entry's slot and word, the record's location and
            flags. A fragment comes with its owner's slot and word.
        """
        words, mem = self._words, self._mem
        row = self._segments.row(segment)
        location = self._segments.base(segment)
        end = location + words[row + SEG_HEAD]
        stamp = words[row + SEG_STAMP]
        while (
            location < end
            and words[row + SEG_STAMP] == stamp
            and words[row + SEG_DEAD] < words[row + SEG_HEAD]
        ):
            key_len, flags, value_len, version = unpack_head(mem, location << 3)
            length = record_words(key_len, flags, value_len)
            if flags & FRAGMENT:
                slot, word = self._owner_of(shard, version, location)
            else:
                start = (location << 3) + (24 if flags & DEADLINE else 16)
                slot, word = self._slot_at(
                    xxh3_64_intdigest(mem[start : start + key_len], self._seed), location
                )
            if slot:
                yield slot, word, location, flags
            location += length

    def _slot_at(self, key_hash: int, location: int) -> tuple[int, int]:
        for slot, word in self._index.candidates(key_hash):
            if word & self._index.location_mask == location:
                return slot, word
        return 0, 0

    def _owner_of(self, shard: Shard, key_hash: int, piece: int) -> tuple[int, int]:
        """The entry that a fragment belongs to."""
        for slot, word in self._index.candidates(key_hash):
            location = word & self._index.location_mask
            _, _, flags, _, _ = parse_record(self._mem, location << 3)
            if flags & LARGE and piece in shard.pieces(location):
                return slot, word
        return 0, 0
