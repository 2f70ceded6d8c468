"""Taking an arena over from a server that did not come to stop: nothing in it is trusted but the superblock.

In O(segments): what the segment table says is made possible, and all that follows from it is made anew: free
list, queues, directory. No record is looked at. Each shard is then as after the death of its lock's owner:
whoever wants to change it verifies it first. Until that was done its directory entries name a page of zeros,
so that a look without the lock finds nothing, its sequence is ``UNVERIFIED``, and reads take a directory of
their own and verify what they find.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from fastkv.store import tiling
from fastkv.store.layout import (
    FREE,
    LOG_STATES,
    PAGE,
    POOL_FRESH,
    POOL_STAMP,
    POOL_WORDS,
    SB_DROPPED,
    SEG_COVERS,
    SEG_GENERATION,
    SEG_HEAD,
    SEG_STAMP,
    SEG_STATE,
    SEGMENT_ROW,
    SH_ENTRIES,
    SH_PAGES,
    SH_VERSION,
    SHARD_WORDS,
    UNVERIFIED,
    WORD,
)

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from fastkv.store.arena import Arena
    from fastkv.store.index import Index
    from fastkv.store.repair import Guard
    from fastkv.store.segments import Segments
    from fastkv.store.shard import Shard


class Attach:
    """Takes an arena over."""

    def __init__(self, arena: Arena, segments: Segments, index: Index, lost: AbstractSet[int]) -> None:
        """Read the segment table.

        Args:
            arena: the arena.
            segments: its pool.
            index: its index.
            lost: segments that are known to be damaged.
        """
        geometry = arena.geometry
        self._arena = arena
        self._segments = segments
        self._index = index
        start = geometry.table_at
        self._table = arena.words[start : start + geometry.segments * SEGMENT_ROW]
        self._pages: list[list[tuple[int, int]]] = [[] for _ in range(geometry.shards)]
        self._log: list[tuple[int, int]] = []  # stamp and segment
        self._free: list[int] = []
        states = self._table[SEG_STATE::SEGMENT_ROW].tolist()
        stamps = self._table[SEG_STAMP::SEGMENT_ROW].tolist()
        covers = self._table[SEG_COVERS::SEGMENT_ROW].tolist()
        for segment in range(geometry.first_segment, geometry.segments):
            owner, state = states[segment] >> 8, states[segment] & 0xFF
            if segment in lost or owner >= geometry.shards:
                self._free.append(segment)
            elif state == PAGE:
                self._pages[owner].append((covers[segment], segment))
            elif state in LOG_STATES:
                self._log.append((stamps[segment], segment))
            else:
                self._free.append(segment)
        self._log.sort()
        self._states = states

    def run(self, shards: list[Shard], guard: Guard) -> memoryview:
        """Make the arena usable.

        Args:
            shards: all shards.
            guard: makes their queues.

        Returns:
            The directory for reads of shards that nobody has verified yet.
        """
        geometry, words = self._arena.geometry, self._arena.words
        bits = geometry.directory_bits
        directory = memoryview(array("Q", bytes(geometry.shards << bits + 3)))
        pages = [self._tile(number) for number in range(geometry.shards)]
        self._write_table(pages)
        self._make_pool()
        log: list[list[int]] = [[] for _ in shards]
        for _, segment in self._log:
            log[self._states[segment] >> 8].append(segment)
        self._index.make_blank(geometry.first_segment - 1)
        blank = array("Q", [geometry.blank_page]) * (1 << bits)
        for shard in shards:
            start = shard.number << bits
            self._index.directory[start : start + (1 << bits)] = memoryview(blank)
            words[geometry.sequences_at + shard.number] = UNVERIFIED
            self._make_header(shard.header, len(pages[shard.number]))
            guard.rebuild_queue(shard, log[shard.number])
            for covers, segment in pages[shard.number].items():
                free = bits + 1 - covers.bit_length()
                first = start + (covers << free) - (1 << bits)
                directory[first : first + (1 << free)] = memoryview(
                    array("Q", [self._segments.base(segment)]) * (1 << free)
                )
        return directory

    def _tile(self, shard: int) -> dict[int, int]:
        """Choose the pages of a shard; what they leave out gets empty ones.

        Args:
            shard: its number.

        Returns:
            What each page covers, and its segment.
        """
        bits = self._arena.geometry.directory_bits
        said = [covers for covers, _ in self._pages[shard]]
        finished = [tiling.deepened(covers, set(said)) for covers in said]
        good = tiling.clear(finished, bits)
        pages = {}
        for covers, (_, segment) in zip(finished, self._pages[shard], strict=True):
            if covers in good:
                pages[covers] = segment
            else:
                self._free.append(segment)
        if not tiling.is_whole(pages, bits):
            for covers in list(tiling.holes(pages)):
                segment = self._spare()
                self._index.make_blank(segment)
                pages[covers] = segment
        return pages

    def _spare(self) -> int:
        """A segment for an empty page: a free one, or the oldest that holds records."""
        return self._free.pop() if self._free else self._log.pop(0)[1]

    def _write_table(self, pages: list[dict[int, int]]) -> None:
        """Write every row anew; what cannot be derived is kept: states, generations, heads, the order."""
        geometry = self._arena.geometry
        generations = self._table[SEG_GENERATION::SEGMENT_ROW].tolist()
        heads = self._table[SEG_HEAD::SEGMENT_ROW].tolist()
        rows = array("Q", bytes(len(self._table) * WORD))
        for segment in range(geometry.first_segment, geometry.segments):
            row = segment * SEGMENT_ROW
            rows[row + SEG_STATE] = FREE
            rows[row + SEG_GENERATION] = generations[segment] & geometry.generation_mask
        for shard, owned in enumerate(pages):
            for covers, segment in owned.items():
                row = segment * SEGMENT_ROW
                rows[row + SEG_STATE] = shard << 8 | PAGE
                rows[row + SEG_COVERS] = covers
        for stamp, (_, segment) in enumerate(self._log, start=1):
            row = segment * SEGMENT_ROW
            rows[row + SEG_STATE] = self._states[segment]
            rows[row + SEG_STAMP] = stamp
            # Where it says what cannot be, the head will be where the last whole record ends.
            head = heads[segment]
            rows[row + SEG_HEAD] = head if 0 < head <= geometry.segment_words else geometry.segment_words
        self._table[:] = memoryview(rows)

    def _make_pool(self) -> None:
        words, geometry = self._arena.words, self._arena.geometry
        words[SB_DROPPED] = 0
        for word in POOL_WORDS:
            words[word] = 0
        generations = self._table[SEG_GENERATION::SEGMENT_ROW].tolist()
        states = self._table[SEG_STATE::SEGMENT_ROW].tolist()
        # The segments at the end that nobody ever had need not be listed.
        fresh = geometry.segments
        while fresh > geometry.first_segment and not states[fresh - 1] and not generations[fresh - 1]:
            fresh -= 1
        words[POOL_FRESH] = fresh
        # The ghosts are gone: hints, of which there will be others.
        for word in range(geometry.ghosts_at, geometry.digests_at):
            words[word] = 0
        words[POOL_STAMP] = len(self._log)
        self._segments.rebuild_free_list()

    def _make_header(self, header: int, pages: int) -> None:
        """Make a shard's header anew but for its version; its entries are a guess until they are counted."""
        words = self._arena.words
        version, entries = words[header + SH_VERSION], words[header + SH_ENTRIES]
        for field in range(SHARD_WORDS):
            words[header + field] = 0
        words[header + SH_VERSION] = version
        words[header + SH_ENTRIES] = min(entries, pages * self._arena.geometry.segment_words)
        words[header + SH_PAGES] = pages
