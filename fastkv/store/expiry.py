"""Giving back what has expired, although nobody asks for it.

Each segment says when it has to be looked at, each shard when the first of its segments has. A step sweeps a
bounded number of records, so that a million entries that expire at once hold up nobody: whoever calls it
again and again decides how much time it may take. A reader never needs it, because it looks at the deadline
itself.
"""

from __future__ import annotations

from random import randrange
from typing import TYPE_CHECKING, Final

from fastkv.store.layout import (
    LOG_STATES,
    SEG_DUE,
    SEG_STAMP,
    SEG_STATE,
    SH_DUE,
    Arena,
)
from fastkv.store.sweep import LEAVE

if TYPE_CHECKING:
    from fastkv.store.repair import Guard
    from fastkv.store.segments import Segments
    from fastkv.store.shard import Shard
    from fastkv.store.sweep import Sweep

# A step looks at so many records: 0.2 ms if they live on, 0.5 ms if they have all expired.
_LOOKS: Final = 512
# A segment costs so many looks besides those at its records: to find them, and to give it back.
_SEGMENT_LOOKS: Final = 16
# One in so many of a segment's records, or of those that have a deadline, expires before it is looked at
# again, so that each costs 16 looks at most. But ...
_RECORDS_SHARE: Final = 16
_DEADLINES_SHARE: Final = 4
# ... it does not take longer than this after the first of them did: what has gone is to be seen as gone.
_DUE_MS: Final = 60_000


class Expiry:
    """Drops what has expired."""

    __slots__ = (
        "_deadlines",
        "_guard",
        "_location",
        "_next",
        "_records",
        "_segments",
        "_shards",
        "_stamp",
        "_sweep",
        "_words",
    )

    def __init__(
        self, arena: Arena, shards: list[Shard], segments: Segments, sweep: Sweep, guard: Guard
    ) -> None:
        """Bind to a store.

        Args:
            arena: the arena.
            shards: its shards.
            segments: its pool.
            sweep: goes through a segment.
            guard: holds a shard's lock.
        """
        self._words = arena.words
        self._shards = shards
        self._segments = segments
        self._sweep = sweep
        self._guard = guard
        self._next: int | None = None
        # In the midst of the segment with this stamp: where, the records before it and their deadlines.
        self._stamp = self._location = self._records = 0
        self._deadlines: list[int] = []

    def step(self, now_ms: int) -> bool:
        """Look at some records that may have expired.

        Args:
            now_ms: now.

        Returns:
            Whether there is more to look at already.

        Raises:
            StoreBusy: if a lock was not free within the bound.
        """
        if self._next is None:  # each process begins elsewhere
            self._next = randrange(len(self._shards))
        for _ in self._shards:
            shard = self._shards[self._next]
            if 0 < self._words[shard.header + SH_DUE] <= now_ms:
                with self._guard.holding(shard):
                    self._expire(shard, now_ms)
                return True
            self._next = (self._next + 1) % len(self._shards)
        return False

    def _expire(self, shard: Shard, now_ms: int) -> None:
        """Sweep segments of a shard that are due, as long as the step lasts."""
        words = self._words
        looks = _LOOKS
        first_due = 0
        for segment in list(self._segments.log(shard.header)):
            if looks <= 0:
                return  # the shard stays due
            row = self._segments.row(segment)
            if not self._is_own(shard, row):
                continue  # a large entry's fragment, swept before, was the last that kept it
            due = words[row + SEG_DUE]
            if 0 < due <= now_ms:
                looks -= self._look_through(shard, segment, now_ms, looks) + _SEGMENT_LOOKS
                if not self._is_own(shard, row):
                    continue  # it was given back
                due = words[row + SEG_DUE]
            if due and (not first_due or due < first_due):
                first_due = due
        words[shard.header + SH_DUE] = first_due

    def _is_own(self, shard: Shard, row: int) -> bool:
        """Tell whether a segment is in the log of a shard; else its row is somebody else's to change."""
        state = self._words[row + SEG_STATE]
        return state >> 8 == shard.number and state & 0xFF in LOG_STATES

    def _look_through(self, shard: Shard, segment: int, now_ms: int, looks: int) -> int:
        """Sweep a segment, from where the last step left off if it was this one.

        Returns:
            How many records were looked at.
        """
        words = self._words
        row = self._segments.row(segment)
        stamp = words[row + SEG_STAMP]
        if stamp != self._stamp:
            self._stamp, self._location, self._records, self._deadlines = stamp, 0, 0, []
        swept = self._sweep.run(
            shard,
            segment,
            LEAVE,
            now_ms,
            location=self._location,
            looks=looks,
            moves=looks,
            deadlines=self._deadlines,
        )
        self._location = swept.location
        self._records += swept.looks
        if not swept.location:
            self._stamp = 0
            if words[row + SEG_STAMP] == stamp:
                words[row + SEG_DUE] = _next_due(self._records, self._deadlines, now_ms)
        return swept.looks


def _next_due(records: int, deadlines: list[int], now_ms: int) -> int:
    """When to look at a segment again: not for each of its records, lest looking costs more than it gives.

    Args:
        records: how many there are, dead or alive.
        deadlines: those that have not passed.
        now_ms: now.

    Returns:
        Milliseconds, 0 for never.
    """
    if not deadlines:
        return 0
    deadlines.sort()
    several = max(len(deadlines) // _DEADLINES_SHARE, records // _RECORDS_SHARE)
    return min(max(deadlines[0], now_ms + _DUE_MS), deadlines[min(several, len(deadlines) - 1)])
