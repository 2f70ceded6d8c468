"""Making room: whole segments, cleaned or evicted.

S3-FIFO (Yang et al., SOSP 2023) over segments. Entries begin in a small queue; who was read twice when their
segment is the oldest there moves to the main queue, everybody else goes and is remembered as a ghost; who
comes back as a ghost begins in the main queue. There, each read gives a second chance, up to three. The main
queue has up to nine tenths of the log; while it has less, the small queue may take all that is left.

Where much of a segment is dead space it is cleaned instead, and then nobody is evicted: live records are
copied, at most one word for each word that clients wrote, so that copying never takes more than half of the
writing.

A store that may not evict only cleans, and drops what has expired.

No shard's lock is held while another one is waited for: a writer that finds no room lets go of its shard,
makes room here, step by step, and tries again. The order of locks is eviction → shard → pool.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from fastkv.store.layout import (
    POOL_CREDIT,
    POOL_CURSOR,
    POOL_CURSOR_STAMP,
    POOL_GHOST_WORDS,
    POOL_MAIN,
    POOL_SMALL,
    POOL_STAMP,
    SEG_DEAD,
    SEG_STAMP,
    SEG_STATE,
    SH_DEADEST,
    SH_ENTRIES,
    SH_MAIN_OLDEST,
    SH_OLDEST,
    SH_OPEN,
    SH_OPEN_MAIN,
)
from fastkv.store.sweep import KEEP_ALL, KEEP_NONE, PROMOTE, SECOND_CHANCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fastkv.store.arena import Arena
    from fastkv.store.expiry import Expiry
    from fastkv.store.ghosts import Ghosts
    from fastkv.store.lock import RobustLock
    from fastkv.store.repair import Guard
    from fastkv.store.segments import Segments
    from fastkv.store.shard import Shard
    from fastkv.store.sweep import Sweep, Swept

# A segment with less dead space than a sixteenth is not worth copying.
_WORTH_CLEANING: Final = 16
# A step looks at so many records and moves so many of them: 0.5 ms, or 1.
_LOOKS: Final = 512
# A segment with few records counts as one look for so many bytes: large ones are copied whole. But also an
# empty one is work.
_LOOK_BYTES: Final = 1 << 10
_LEAST_LOOKS: Final = 16
_MOVES: Final = 256
# The ghost table takes one segment at most in so many: the others are for whoever waits.
_TAKEN_BY_OTHERS: Final = 4
# So much of the arena is freed ahead of those who would have to wait for it, and so many segments at least.
_AHEAD_SHARE: Final = 256
_LEAST_AHEAD: Final = 4
# The main queue is too long above nine tenths of the log.
_SMALL_SHARE: Final = 10
# In how many shards the oldest segment is looked for: with more of them, the oldest of these is old enough.
_WINDOW: Final = 64


class Eviction:
    """Makes room in the pool.

    Attributes:
        evicts: whether entries may be evicted.
    """

    __slots__ = (
        "_ahead",
        "_expiry",
        "_from",
        "_geometry",
        "_ghosts",
        "_guard",
        "_least_looks",
        "_lock",
        "_segments",
        "_shards",
        "_sweep",
        "_words",
        "evicts",
    )

    def __init__(
        self,
        arena: Arena,
        lock: RobustLock,
        shards: list[Shard],
        segments: Segments,
        ghosts: Ghosts,
        sweep: Sweep,
        expiry: Expiry,
        guard: Guard,
        *,
        evicts: bool,
    ) -> None:
        """Bind to a store.

        Args:
            arena: the arena.
            lock: the eviction lock: one makes room at a time.
            shards: its shards.
            segments: its pool.
            ghosts: who was evicted not long ago.
            sweep: empties a segment.
            expiry: drops what has expired.
            guard: holds a shard's lock.
            evicts: whether entries may be evicted.
        """
        self._lock = lock
        self._words = arena.words
        self._geometry = arena.geometry
        self._shards = shards
        self._segments = segments
        self._ghosts = ghosts
        self._sweep = sweep
        self._expiry = expiry
        self._guard = guard
        self.evicts = evicts
        self._least_looks = max(arena.geometry.segment_bytes // _LOOK_BYTES, _LEAST_LOOKS)
        self._ahead = max(arena.geometry.segments // _AHEAD_SHARE, _LEAST_AHEAD)
        self._from = 0

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the eviction lock; it is taken before that of any shard.

        Raises:
            StoreBusy: if it was not free within its bound.
        """
        if self._lock.acquire():
            self._ghosts.repair()
            self._lock.consistent()
        try:
            yield
        finally:
            self._lock.release()

    def step(self, mercy: bool, clock: Callable[[], int]) -> int:
        """Go a step towards a free segment: clean or evict some of the records of one. The lock is held.

        Args:
            mercy: whether segments are cleaned, and entries kept for having been read; without, what is
                emptied is free.
            clock: milliseconds now.

        Returns:
            What it took, in records looked at, at least 1; 0 if there is nothing that could be freed.
        """
        self._move_window()
        # Cleaning may copy 16 segments for each that it frees: for who has waited long it is no way.
        looks = self._clean(clock) if mercy or not self.evicts else 0
        if looks:
            return looks
        return self._evict(mercy, clock) if self.evicts else int(self._expiry.step(clock()))

    def step_ahead(self, clock: Callable[[], int]) -> bool:
        """Go a step before somebody waits for it, if the store is full and nobody else is at it.

        The first to be evicted goes when there is no room left at all; until then segments are cleaned.

        Args:
            clock: milliseconds now.

        Returns:
            Whether there is more to do.

        Raises:
            StoreBusy: if a shard's lock was not free within its bound.
        """
        if self._segments.room(self._ahead) or self._lock.is_held(self._ghosts.repair):
            return False
        with self.locked():
            if self._words[POOL_GHOST_WORDS]:
                return self.step(True, clock) > 0
            self._move_window()
            return self._clean(clock) > 0

    # -- which segment ---------------------------------------------------------------------------------

    def _deadest(self) -> Shard | None:
        """The shard whose deadest segment is the cheapest to clean, if there is credit for it.

        Where nobody may be evicted there is no other way, and cleaning may cost what it costs.
        """
        words = self._words
        credit = words[POOL_CREDIT] if self.evicts else self._geometry.segment_words
        best, most = None, self._geometry.segment_words // _WORTH_CLEANING
        for shard in self._window() if self.evicts else self._shards:
            segment = words[shard.header + SH_DEADEST]
            if segment:
                dead = words[self._segments.row(segment) + SEG_DEAD]
                if dead > most and self._segments.live_words(segment) <= credit:
                    best, most = shard, dead
        return best

    def _oldest(self, queue: int) -> Shard | None:
        """The shard with the oldest segment: of the window or, if nobody there has one, of all.

        Args:
            queue: ``SH_OLDEST`` or ``SH_MAIN_OLDEST``.
        """
        window = self._window()
        best = self._oldest_among(window, queue)
        if best is None and len(window) < len(self._shards):
            best = self._oldest_among(self._shards, queue)
        return best

    def _oldest_among(self, shards: list[Shard], queue: int) -> Shard | None:
        words = self._words
        best, first = None, 1 << 64
        for shard in shards:
            segment = words[shard.header + queue]
            if segment:
                stamp = words[self._segments.row(segment) + SEG_STAMP]
                if stamp < first:
                    best, first = shard, stamp
        return best

    def _window(self) -> list[Shard]:
        """The shards to choose from."""
        shards = self._shards
        if len(shards) <= _WINDOW:
            return shards
        return shards[self._from : self._from + _WINDOW]

    def _move_window(self) -> None:
        """Choose from other shards, unless a segment is half emptied: then from its shard's neighbours.

        There is one cursor. Who leaves a segment in the midst, and begins with another, finds the first one's
        dead records again when its turn comes, looks at them for a whole step, and never gets past them.
        """
        words = self._words
        begun = words[POOL_CURSOR_STAMP]
        row = self._segments.row(self._segments.segment_of(words[POOL_CURSOR]))
        if begun and words[row + SEG_STAMP] == begun:
            self._from = (words[row + SEG_STATE] >> 8) // _WINDOW * _WINDOW
        else:
            self._from = (self._from + _WINDOW) % len(self._shards)

    # -- what happens to it ------------------------------------------------------------------------------

    def _clean(self, clock: Callable[[], int]) -> int:
        """Copy live records out of the deadest segment.

        Returns:
            As for ``step``; 0 if no segment is worth it, or nobody could be moved.
        """
        words = self._words
        shard = self._deadest()
        if shard is None:
            return 0
        with self._guard.holding(shard):
            segment = words[shard.header + SH_DEADEST]
            if not segment:
                return 1  # somebody was faster
            before = self._segments.live_words(segment)
            swept = self._empty(shard, segment, KEEP_ALL, clock)
            self._segments.spend_credit(max(before - self._segments.live_words(segment), 0))
            return 0 if swept.stuck else max(swept.looks, self._least_looks)

    def _evict(self, mercy: bool, clock: Callable[[], int]) -> int:
        """Take the next segment from the queue that is too long.

        Returns:
            As for ``step``; 0 if no segment is closed or can be.
        """
        words = self._words
        small, main = words[POOL_SMALL], words[POOL_MAIN]
        queue, other = SH_OLDEST, SH_MAIN_OLDEST
        if main * _SMALL_SHARE > (small + main) * (_SMALL_SHARE - 1):
            queue, other = other, queue
        shard = self._oldest(queue)
        if shard is None:
            queue = other
            shard = self._oldest(queue)
        if shard is None:
            return int(self._close_open_segments())
        # Who has waited long does not wait for this as well, once there is a table.
        if words[POOL_STAMP] % _TAKEN_BY_OTHERS == 0 and (mercy or not words[POOL_GHOST_WORDS]):
            entries = sum(words[each.header + SH_ENTRIES] for each in self._window())
            self._ghosts.fit(entries * len(self._shards) // min(len(self._shards), _WINDOW))
        with self._guard.holding(shard):
            segment = words[shard.header + queue]
            if not segment:
                return 1  # somebody was faster
            rule = SECOND_CHANCE if queue == SH_MAIN_OLDEST else PROMOTE
            swept = self._empty(shard, segment, rule if mercy else KEEP_NONE, clock)
            return max(swept.looks, self._least_looks)

    def _empty(self, shard: Shard, segment: int, rule: int, clock: Callable[[], int]) -> Swept:
        """Sweep a part of a segment, from where the last step left off if it was this one.

        Args:
            shard: its owner, whose lock is held.
            segment: the segment.
            rule: who is kept.
            clock: milliseconds now.

        Returns:
            How far it came.
        """
        words = self._words
        stamp = words[self._segments.row(segment) + SEG_STAMP]
        # Nothing comes alive in a closed segment: what lies before the cursor is dead for good.
        begin = words[POOL_CURSOR] if words[POOL_CURSOR_STAMP] == stamp else 0
        swept = self._sweep.run(shard, segment, rule, clock(), location=begin, looks=_LOOKS, moves=_MOVES)
        words[POOL_CURSOR_STAMP] = 0
        if swept.location:
            words[POOL_CURSOR] = swept.location
            words[POOL_CURSOR_STAMP] = stamp
        return swept

    def _close_open_segments(self) -> bool:
        """A small arena can be full of open segments: close them all, so that there is something to evict.

        Returns:
            False if none was open.
        """
        closed = False
        for shard in self._shards:
            with self._guard.holding(shard):
                for field in (shard.header + SH_OPEN, shard.header + SH_OPEN_MAIN):
                    if self._words[field]:
                        shard.close_open(field)
                        closed = True
        return closed
