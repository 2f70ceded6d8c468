"""The pool of segments and the segment table, which is the only truth about them.

A segment is free, or belongs to one shard as an index page or as a piece of its log. Free lists and queues
are conveniences that a repair rebuilds from the table. Rows of a shard's segments change under that
shard's lock, rows of free segments and the pool's words under the pool's lock; the order is shard → pool.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from fastkv.store.layout import (
    CLOSED,
    CLOSED_MAIN,
    FREE,
    FREE_PAGE,
    LOG_STATES,
    MAIN_STATES,
    OPEN,
    PAGE,
    PAGE_NEW,
    POOL_CREDIT,
    POOL_FREE_COUNT,
    POOL_FREE_HEAD,
    POOL_FREE_PAGES,
    POOL_FREE_TAIL,
    POOL_FRESH,
    POOL_MAIN,
    POOL_SMALL,
    POOL_STAMP,
    RESERVE,
    SEG_DEAD,
    SEG_DUE,
    SEG_GENERATION,
    SEG_HEAD,
    SEG_NEXT,
    SEG_PREV,
    SEG_STAMP,
    SEG_STATE,
    SEGMENT_ROW,
    SH_DEADEST,
    SH_DUE,
    SH_MAIN_OLDEST,
    SH_MOST_DEAD,
    SH_OLDEST,
    SH_OPEN,
    SH_OPEN_MAIN,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastkv.core import walk as compiled
    from fastkv.store.arena import Arena
    from fastkv.store.lock import RobustLock

# Copying by cleaning may not outrun writing: so much credit, in segments, can be saved up.
CREDIT_SEGMENTS = 64


class Segments:
    """The pool, and the queues of closed segments that the shards keep.

    Attributes:
        lock: the pool's lock.
        compiled: gives back many segments; None where there is no compiled core.
    """

    __slots__ = (
        "_arena",
        "_geometry",
        "_shift",
        "_table",
        "_words",
        "compiled",
        "lock",
    )

    def __init__(self, arena: Arena, lock: RobustLock) -> None:
        """Bind to an arena.

        Args:
            arena: the arena.
            lock: the pool's lock.
        """
        geometry = arena.geometry
        self._arena = arena
        self._geometry = geometry
        self._words = arena.words
        self.lock = lock
        self.compiled: compiled.Log | None = None
        self._table = geometry.table_at
        self._shift = geometry.segment_shift

    # -- the table ---------------------------------------------------------------------------------

    def row(self, segment: int) -> int:
        """Word offset of a segment's row in the table."""
        return self._table + segment * SEGMENT_ROW

    def base(self, segment: int) -> int:
        """Location of a segment's first word."""
        return segment << self._shift

    def segment_of(self, location: int) -> int:
        """The segment that a location lies in."""
        return location >> self._shift

    def place(self, segment: int) -> int:
        """Where a segment begins, as a slot word without tag and version."""
        generation = self._words[self.row(segment) + SEG_GENERATION]
        return generation << self._geometry.generation_shift | self.base(segment)

    def is_current(self, word: int) -> bool:
        """Tell whether a slot word names the generation that its segment has now."""
        geometry = self._geometry
        generation = word >> geometry.generation_shift & geometry.generation_mask
        return generation == self._words[self.row(self.segment_named(word)) + SEG_GENERATION]

    def segment_named(self, place: int) -> int:
        """The segment in which a slot word's record lies."""
        return self._arena.location_of(place) >> self._shift

    def owned(self, shard: int) -> Iterator[tuple[int, int]]:
        """The segments of a shard, in the order of the table.

        Args:
            shard: its number.

        Yields:
            Segment number and state.
        """
        used = self.used()
        states = self._words[self.row(used.start) + SEG_STATE : self.row(used.stop) : SEGMENT_ROW].tolist()
        for segment, state in enumerate(states, used.start):
            if state & 0xFF not in (FREE, FREE_PAGE) and state >> 8 == shard:
                yield segment, state & 0xFF

    def used(self) -> range:
        """The segments that have ever left the pool."""
        return range(self._geometry.first_segment, min(self._words[POOL_FRESH], self._geometry.segments))

    # -- the pool ----------------------------------------------------------------------------------

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the pool's lock, and rebuild the free list if its last owner died."""
        owner_died = self.lock.acquire()
        try:
            if owner_died:
                self._recover()
            yield
        except BaseException:
            self.rebuild_free_list()
            raise
        finally:
            self.lock.release()

    def recover(self) -> None:
        """Rebuild the free list under the pool's lock, make the lock consistent, and release it.

        To be called by what has just taken the lock, and found that its last owner had died.
        """
        try:
            self._recover()
        finally:
            self.lock.release()

    def _recover(self) -> None:
        self.rebuild_free_list()
        self.lock.consistent()

    def free_count(self) -> int:
        """How many segments the pool has; exact only under its lock."""
        return self._words[POOL_FREE_COUNT] + self._geometry.segments - self._words[POOL_FRESH]

    def room(self, segments: int) -> bool:
        """Tell whether a writer may take that many segments without making room first."""
        return self.free_count() >= segments + RESERVE

    def take(self, shard: int, state: int, floor: int = RESERVE) -> int:
        """Take a segment out of the pool for a shard, whose lock the caller holds.

        Args:
            shard: the new owner.
            state: what the segment becomes.
            floor: how many segments must stay in the pool.

        Returns:
            The segment, 0 if there is none to be had.
        """
        words = self._words
        with self.locked():
            segment = words[POOL_FREE_PAGES] if state == PAGE_NEW else 0
            if segment:
                row = self.row(segment)
                words[POOL_FREE_PAGES] = words[row + SEG_NEXT]
            elif self.free_count() <= floor:
                return 0
            elif segment := words[POOL_FREE_HEAD]:
                row = self.row(segment)
                words[POOL_FREE_HEAD] = words[row + SEG_NEXT]
                words[POOL_FREE_COUNT] -= 1
            else:
                segment = words[POOL_FRESH]
                row = self.row(segment)
                words[POOL_FRESH] = segment + 1
            for field in (SEG_HEAD, SEG_DEAD, SEG_NEXT, SEG_PREV, SEG_DUE):
                words[row + field] = 0
            words[POOL_STAMP] += 1
            words[row + SEG_STAMP] = words[POOL_STAMP]
            words[row + SEG_STATE] = shard << 8 | state
            self._count(state, 1)
        return segment

    def give_back(self, segment: int) -> None:
        """Return a segment that no slot refers to any more. The caller holds its owner's lock.

        Args:
            segment: the segment, in no queue.
        """
        words = self._words
        row = self.row(segment)
        with self.locked():
            # From here on no slot word that named the old generation can be valid.
            words[row + SEG_GENERATION] = words[row + SEG_GENERATION] + 1 & self._geometry.generation_mask
            state = words[row + SEG_STATE] & 0xFF
            self._count(state, -1)
            words[row + SEG_STATE] = FREE_PAGE if state in (PAGE, PAGE_NEW) else FREE
            self._list_free(segment)

    def give_back_all(self, shard: int, segments: list[int]) -> None:
        """Return segments of a shard's log; otherwise as ``give_back``.

        Args:
            shard: the number of their owner.
            segments: the segments.
        """
        done = self.compiled.give_back(shard, segments) if self.compiled else 0
        for segment in segments[done:]:
            self.give_back(segment)

    def release_pages(self) -> None:
        """Let what was an index page be anything again, with the pool's lock held.

        The arena has no other user: no reader stands still that could count an access there.
        """
        for segment in self.used():
            row = self.row(segment)
            if self._words[row + SEG_STATE] == FREE_PAGE:
                self._words[row + SEG_STATE] = FREE
        self.rebuild_free_list()

    def _count(self, state: int, by: int) -> None:
        """Keep the lengths of the small and of the main queues."""
        if state in MAIN_STATES:
            self._words[POOL_MAIN] += by
        elif state in LOG_STATES:
            self._words[POOL_SMALL] += by

    def _list_free(self, segment: int) -> None:
        words = self._words
        row = self.row(segment)
        if words[row + SEG_STATE] == FREE_PAGE:
            words[row + SEG_NEXT] = words[POOL_FREE_PAGES]
            words[POOL_FREE_PAGES] = segment
            return
        words[row + SEG_NEXT] = 0
        if words[POOL_FREE_HEAD]:
            words[self.row(words[POOL_FREE_TAIL]) + SEG_NEXT] = segment
        else:
            words[POOL_FREE_HEAD] = segment
        words[POOL_FREE_TAIL] = segment
        words[POOL_FREE_COUNT] += 1

    def rebuild_free_list(self) -> None:
        """Repair the pool after its lock's owner died: what the table says is so."""
        words = self._words
        words[POOL_FREE_HEAD] = words[POOL_FREE_TAIL] = words[POOL_FREE_COUNT] = 0
        words[POOL_SMALL] = words[POOL_MAIN] = words[POOL_FREE_PAGES] = 0
        for segment in self.used():
            state = words[self.row(segment) + SEG_STATE] & 0xFF
            self._count(state, 1)
            if state in (FREE, FREE_PAGE):
                self._list_free(segment)

    def free_list(self) -> Iterator[int]:
        """The recycled segments in the order in which they will be taken, for check().

        Yields:
            Segment numbers, at most as many as there are.
        """
        yield from self.queue(POOL_FREE_HEAD)

    def free_pages(self) -> Iterator[int]:
        """The free index pages, likewise.

        Yields:
            Segment numbers, at most as many as there are.
        """
        yield from self.queue(POOL_FREE_PAGES)

    # -- credit for cleaning -----------------------------------------------------------------------

    def earn_credit(self, words_written: int) -> None:
        """Allow as many words to be copied by cleaning as were written, up to a bound.

        Args:
            words_written: words of a segment that was filled.
        """
        limit = CREDIT_SEGMENTS * self._geometry.segment_words
        self._words[POOL_CREDIT] = min(self._words[POOL_CREDIT] + words_written, limit)

    def spend_credit(self, words_copied: int) -> None:
        """Take credit for what cleaning is about to copy.

        Args:
            words_copied: words.
        """
        self._words[POOL_CREDIT] = max(self._words[POOL_CREDIT] - words_copied, 0)

    # -- a shard's two queues of closed segments, oldest first ------------------------------------------

    def close(self, header: int, shard: int, segment: int) -> None:
        """Append a full segment to a queue of its shard, or free it if nothing in it is alive.

        Args:
            header: word offset of the shard's header.
            shard: its number.
            segment: a segment that was open and is open no more.
        """
        words = self._words
        row = self.row(segment)
        state = words[row + SEG_STATE] & 0xFF
        if state == OPEN:
            # Only for what clients wrote: if copying earned credit as well, cleaning could feed on itself.
            self.earn_credit(words[row + SEG_HEAD])
        words[row + SEG_STATE] = shard << 8 | (CLOSED_MAIN if state in MAIN_STATES else CLOSED)
        self.enqueue(header, segment)
        # Lists of fragments that were outdated by moving the fragments are not worth cleaning.
        self.free_if_dead(header, segment, evicted=state in MAIN_STATES)

    def enqueue(self, header: int, segment: int) -> None:
        """Put a closed segment at the young end of its queue."""
        words = self._words
        row = self.row(segment)
        oldest_at = self._queue_of(header, row)
        newest = words[oldest_at + 1]
        words[row + SEG_PREV] = newest
        words[row + SEG_NEXT] = 0
        if newest:
            words[self.row(newest) + SEG_NEXT] = segment
        else:
            words[oldest_at] = segment
        words[oldest_at + 1] = segment

    def _queue_of(self, header: int, row: int) -> int:
        """Where the head of a closed segment's queue stands; its tail stands behind it."""
        main = self._words[row + SEG_STATE] & 0xFF == CLOSED_MAIN
        return header + (SH_MAIN_OLDEST if main else SH_OLDEST)

    def dequeue(self, header: int, segment: int) -> None:
        """Take a closed segment out of its queue, wherever it stands."""
        words = self._words
        row = self.row(segment)
        oldest_at = self._queue_of(header, row)
        before, after = words[row + SEG_PREV], words[row + SEG_NEXT]
        if before:
            words[self.row(before) + SEG_NEXT] = after
        else:
            words[oldest_at] = after
        if after:
            words[self.row(after) + SEG_PREV] = before
        else:
            words[oldest_at + 1] = before
        if words[header + SH_DEADEST] == segment:
            self.choose_deadest(header)

    def closed(self, header: int) -> Iterator[int]:
        """All closed segments of a shard.

        Args:
            header: word offset of the shard's header.

        Yields:
            Segment numbers.
        """
        yield from self.queue(header + SH_OLDEST)
        yield from self.queue(header + SH_MAIN_OLDEST)

    def log(self, header: int) -> Iterator[int]:
        """All segments of a shard that hold records: the closed ones, and those that take new ones.

        Args:
            header: word offset of the shard's header.

        Yields:
            Segment numbers.
        """
        yield from self.closed(header)
        for field in (header + SH_OPEN, header + SH_OPEN_MAIN):
            if opened := self._words[field]:
                yield self.segment_named(opened)

    def queue(self, oldest_at: int) -> Iterator[int]:
        """The segments of a queue, oldest first.

        Args:
            oldest_at: word offset of its head.

        Yields:
            Segment numbers, at most as many as there are.
        """
        segment = self._words[oldest_at]
        for _ in range(self._geometry.segments):
            if not segment:
                return
            yield segment
            segment = self._words[self.row(segment) + SEG_NEXT]

    # -- what is alive -------------------------------------------------------------------------------

    def live_words(self, segment: int) -> int:
        """Words of a segment's records that are alive.

        Args:
            segment: the segment.

        Returns:
            Words; what a writer has appended but not yet published counts as alive.
        """
        row = self.row(segment)
        return self._words[row + SEG_HEAD] - self._words[row + SEG_DEAD]

    def note_deadline(self, header: int, location: int, deadline_ms: int) -> None:
        """Have expiry look at a segment in time.

        Args:
            header: word offset of the owner's header.
            location: where a record with a deadline lies.
            deadline_ms: the deadline.
        """
        words = self._words
        for at in (self.row(location >> self._shift) + SEG_DUE, header + SH_DUE):
            if not 0 < words[at] <= deadline_ms:
                words[at] = deadline_ms

    def bury(self, header: int, location: int, length: int, *, evicted: bool = False) -> None:
        """Count a record as dead; free its segment if it was the last one alive.

        Args:
            header: word offset of the owner's header.
            location: where it lies.
            length: its words.
            evicted: whether it died of old age. Then its neighbours' turn comes next, and cleaning had better
                leave them where they are.
        """
        segment = location >> self._shift
        row = self._table + segment * SEGMENT_ROW
        self._words[row + SEG_DEAD] += length
        if self._words[row + SEG_STATE] & 0xFF >= CLOSED:
            self.free_if_dead(header, segment, evicted=evicted)

    def free_if_dead(self, header: int, segment: int, *, evicted: bool = False) -> None:
        """Free a closed segment in which nothing is alive.

        Otherwise remember it if it has the most dead space of its shard, so that nobody has to search.

        Args:
            header: word offset of the owner's header.
            segment: the segment.
            evicted: as for ``bury``.
        """
        words = self._words
        row = self.row(segment)
        if words[row + SEG_DEAD] == words[row + SEG_HEAD]:
            self.dequeue(header, segment)
            self.give_back(segment)
            return
        if words[row + SEG_DEAD] > words[header + SH_MOST_DEAD] and not evicted:
            words[header + SH_DEADEST] = segment
            words[header + SH_MOST_DEAD] = words[row + SEG_DEAD]

    def choose_deadest(self, header: int) -> None:
        """Look through a shard's queues for the segment with the most dead space, 0.2 µs for each.

        Deaths keep it up to date (``free_if_dead``); it is due when that segment leaves the queue.

        Args:
            header: word offset of the shard's header.
        """
        words = self._words
        deadest = most = 0
        for segment in self.closed(header):
            dead = words[self.row(segment) + SEG_DEAD]
            if dead > most:
                deadest, most = segment, dead
        words[header + SH_DEADEST] = deadest
        words[header + SH_MOST_DEAD] = most
