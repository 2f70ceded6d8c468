"""After a death: bring a shard back to a state in which every invariant holds.

The owner may have died between any two stores. What it had published is kept, what it had not is dropped,
and everything that can be derived is derived anew from the two things that cannot: the segment table and
the slot words. A segment's head is never moved back. The repair may die as well: it can always be begun
again.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from fastkv.store.layout import (
    LOG_STATES,
    OPEN,
    OPEN_MAIN,
    PAGE,
    PAGE_NEW,
    SEG_COVERS,
    SEG_DEAD,
    SEG_DUE,
    SEG_HEAD,
    SEG_STAMP,
    SEG_STATE,
    SH_DEADEST,
    SH_DUE,
    SH_ENTRIES,
    SH_EVICTED,
    SH_MAIN_NEWEST,
    SH_MAIN_OLDEST,
    SH_MOST_DEAD,
    SH_NEWEST,
    SH_OLDEST,
    SH_OPEN,
    SH_OPEN_MAIN,
    SH_PAGES,
    SH_REPAIRS,
    SH_VERSION,
    Arena,
)
from fastkv.store.records import parse_record

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastkv.store.index import Index
    from fastkv.store.segments import Segments
    from fastkv.store.shard import Shard

_EX_SOFTWARE: Final = 70


class Guard:
    """Holds the locks of shards, and repairs a shard before anybody uses it after a death or a failure."""

    __slots__ = ("_arena", "_index", "_segments")

    def __init__(self, arena: Arena, segments: Segments, index: Index) -> None:
        """Bind to an arena.

        Args:
            arena: the arena.
            segments: its pool.
            index: its index.
        """
        self._arena = arena
        self._segments = segments
        self._index = index

    @contextmanager
    def holding(self, shard: Shard) -> Iterator[None]:
        """Hold a shard's lock; repair the shard if its last owner died, or if the block fails.

        Args:
            shard: the shard.

        Raises:
            StoreBusy: if the lock was not free within its bound.
        """
        if shard.lock.acquire():
            self.after_death(shard)
        try:
            yield
        except BaseException:
            self.after_failure(shard)
            raise
        shard.lock.release()

    def after_death(self, shard: Shard) -> None:
        """Repair a shard whose owner died, then call its lock consistent.

        Args:
            shard: the shard, with the lock just taken.
        """
        self._repair_or_die(shard)
        shard.lock.consistent()

    def after_failure(self, shard: Shard) -> None:
        """Repair a shard in which an error left something half done, then let go of it.

        Args:
            shard: the shard, with the lock held.
        """
        self._repair_or_die(shard)
        shard.lock.release()

    def _repair_or_die(self, shard: Shard) -> None:
        """Never unlock a shard that cannot be repaired: the process ends, and the next owner tries again."""
        try:
            self._repair(shard)
        except BaseException as error:  # noqa: BLE001 - whatever it is, going on would be worse
            os.write(2, f"fastkv: shard {shard.number} could not be repaired: {error!r}\n".encode())
            os._exit(_EX_SOFTWARE)

    def _repair(self, shard: Shard) -> None:
        with shard.several_steps():
            log = self._finish_split(shard)
            self._recount(shard, log)
            self._rebuild_queue(shard, log)
            self._arena.words[shard.header + SH_REPAIRS] += 1

    def _finish_split(self, shard: Shard) -> list[int]:
        """Finish a split whose new page was committed, drop one whose page was not.

        Args:
            shard: the shard.

        Returns:
            The shard's segments that are no pages.
        """
        words, segments = self._arena.words, self._segments
        pages, log = [], []
        for segment, state in list(segments.owned(shard.number)):
            if state == PAGE:
                pages.append(segment)
            elif state == PAGE_NEW:
                segments.give_back(segment)
            elif state in LOG_STATES:
                log.append(segment)
        covered = {words[segments.row(page) + SEG_COVERS] for page in pages}
        for page in pages:
            row = segments.row(page)
            covers = words[row + SEG_COVERS]
            if covers << 1 | 1 in covered:  # its upper half has moved out, its lower half is still to say so
                words[row + SEG_COVERS] = covers << 1
            self._index.map_page(shard.number, page)
        for page in pages:
            self._index.blank_foreign_words(page)
        words[shard.header + SH_PAGES] = len(pages)
        return log

    def _recount(self, shard: Shard, log: list[int]) -> None:
        """Count entries and live words by the slot words, and empty slots that refer to nothing.

        Args:
            shard: the shard.
            log: its segments that are no pages.
        """
        words, segments = self._arena.words, self._segments
        for segment in log:
            row = segments.row(segment)
            words[row + SEG_DEAD] = words[row + SEG_HEAD]
            words[row + SEG_DUE] = 0
        words[shard.header + SH_DUE] = 0
        own = set(log)
        entries = newest = 0
        for page in self._index.pages(shard.number):
            for slot, word in self._index.slots(page):
                location = word & self._index.location_mask
                if not self._refers_to_record(word, own):
                    words[slot] = 0
                    continue
                _, _, _, version, deadline_ms = parse_record(self._arena.mem, location << 3)
                for at in (location, *shard.pieces(location)):
                    words[segments.row(segments.segment_of(at)) + SEG_DEAD] -= shard.length(at)
                if deadline_ms:
                    segments.note_deadline(shard.header, location, deadline_ms)
                entries += 1
                newest = max(newest, version)
        # Who dies in a sweep has dropped what it had not counted yet. (A deletion may be among it.)
        words[shard.header + SH_EVICTED] += max(words[shard.header + SH_ENTRIES] - entries, 0)
        words[shard.header + SH_ENTRIES] = entries
        words[shard.header + SH_VERSION] = max(words[shard.header + SH_VERSION], newest)

    def _refers_to_record(self, word: int, own: set[int]) -> bool:
        words, segments = self._arena.words, self._segments
        location = word & self._index.location_mask
        segment = segments.segment_of(location)
        if segment not in own:
            return False
        head = words[segments.row(segment) + SEG_HEAD]
        return segments.is_current(word) and location < segments.base(segment) + head

    def _rebuild_queue(self, shard: Shard, log: list[int]) -> None:
        """Close what was open and queue everything by age; what holds nothing alive becomes free.

        Args:
            shard: the shard.
            log: its segments that are no pages.
        """
        words, segments = self._arena.words, self._segments
        for field in (
            SH_OPEN,
            SH_OPEN_MAIN,
            SH_OLDEST,
            SH_NEWEST,
            SH_MAIN_OLDEST,
            SH_MAIN_NEWEST,
            SH_DEADEST,
            SH_MOST_DEAD,
        ):
            words[shard.header + field] = 0
        for segment in sorted(log, key=lambda segment: words[segments.row(segment) + SEG_STAMP]):
            segments.close(shard.header, shard.number, segment)
        assert all(words[segments.row(s) + SEG_STATE] & 0xFF not in (OPEN, OPEN_MAIN) for s in log)
