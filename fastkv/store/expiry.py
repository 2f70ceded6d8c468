"""Sweep of expired entries: their space comes back although no client reads them.

Each segment says when it has to be looked at, each shard when the first of its segments has. A step looks at
a bounded number of records, so a million entries that expire at once hold up no client: the caller decides
how often it steps. Reads do not depend on the sweep, because they look at the deadline themselves.

The sweep has two paces. As a rule a segment is looked at again when that is worth it: an expired entry costs
16 looks at most, and may stay for a minute. While subscriptions wait for `expired` events, each process goes
through every segment once, remembers what expires when, and looks at a record again when its deadline has
passed, half a second after the last look at its segment; it spends 200,000 looks a second on that at most.
"""

from __future__ import annotations

from random import randrange
from typing import TYPE_CHECKING, Final

from fastkv.store.agenda import Agenda
from fastkv.store.layout import (
    LOG_STATES,
    OFFSET_BITS,
    SEG_DUE,
    SEG_HEAD,
    SEG_STAMP,
    SEG_STATE,
    SH_DUE,
)
from fastkv.store.sweep import LEAVE

if TYPE_CHECKING:
    from fastkv.store.arena import Arena
    from fastkv.store.repair import Guard
    from fastkv.store.segments import Segments
    from fastkv.store.shard import Shard
    from fastkv.store.sweep import Sweep

# A step looks at this many records: 0.2 ms if they live on, 0.5 ms if they have all expired.
_LOOKS: Final = 512
# To find a segment and to give it back costs as much as this many records.
_SEGMENT_LOOKS: Final = 16
# One of 16 records of a segment, or of 4 that have a deadline, expires before the segment is looked at again,
# so an expired entry costs 16 looks at most. But ...
_RECORDS_SHARE: Final = 16
_DEADLINES_SHARE: Final = 4
# ... it is looked at no later than this after the first of them has expired: its space is to come back.
_DUE_MS: Final = 60_000
# While `expired` events are waited for: the time from one look at a segment to the next, what a record that
# is looked at alone costs in looks, and how many looks a process spends, a tenth of its CPU.
_PROMPT_MS: Final = 500
_RECORD_LOOKS: Final = 16
_PROMPT_LOOKS_PER_MS: Final = 200


class Expiry:
    """Drops what has expired."""

    __slots__ = (
        "_agenda",
        "_guard",
        "_next",
        "_removals",
        "_segments",
        "_shards",
        "_spent_until_ms",
        "_sweep",
        "_to_hasten",
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
        self._removals = arena.removals
        self._shards = shards
        self._segments = segments
        self._sweep = sweep
        self._guard = guard
        self._next: int | None = None
        self._agenda = Agenda()  # at the economical pace it has only what was not finished
        # The prompt pace: shards whose segments may be due later than it wants, None while it is off; and the
        # time up to which the looks that it may take are spent.
        self._to_hasten: list[Shard] | None = None
        self._spent_until_ms = 0.0

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
        if self._hasten(now_ms):
            return True
        for _ in self._shards:
            shard = self._shards[self._next]
            if 0 < self._words[shard.header + SH_DUE] <= now_ms:
                with self._guard.holding(shard):
                    self._expire(shard, now_ms)
                return True
            self._next = (self._next + 1) % len(self._shards)
        return False

    def _hasten(self, now_ms: int) -> bool:
        """Keep the pace that is wanted; as the prompt one begins, bring forward what is due too late for it.

        A shard at a time, and the next one once the looks at it are paid for.

        Returns:
            Whether a shard was brought forward.
        """
        if not self._removals.expired_wanted[0]:
            if self._to_hasten is not None:
                self._to_hasten = None
                self._agenda.clear()
            return False
        if self._to_hasten is None:
            self._to_hasten = list(self._shards)
        words, waiting = self._words, self._to_hasten
        while waiting and not words[waiting[-1].header + SH_DUE]:
            waiting.pop()  # none of its entries has a deadline
        if not waiting or self._spent_until_ms > now_ms:
            return False
        shard = waiting[-1]
        with self._guard.holding(shard):
            for segment in self._segments.log(shard.header):
                due = self._segments.row(segment) + SEG_DUE
                if words[due] > now_ms + _PROMPT_MS:
                    words[due] = words[shard.header + SH_DUE] = now_ms
        waiting.pop()
        return True

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
        """Drop what has expired in a segment, from where the last step left off if it was not finished.

        Returns:
            How many looks that took.
        """
        words = self._words
        row, base = self._segments.row(segment), self._segments.base(segment)
        stamp = words[row + SEG_STAMP]
        plan = self._agenda.take(segment, stamp)
        swept = self._sweep.run(
            shard,
            segment,
            LEAVE,
            now_ms,
            location=plan.location,
            looks=looks,
            moves=looks,
            deadlines=plan.fresh,
        )
        used = swept.looks
        plan.records += used
        if words[row + SEG_STAMP] != stamp:
            return used  # it was given back
        if swept.location:
            plan.location = swept.location
            self._agenda.keep(segment, plan)
        elif self._to_hasten is None:
            words[row + SEG_DUE] = _economical_due(plan.records, plan.fresh, now_ms)
        else:
            plan.location = base + words[row + SEG_HEAD]
            plan.arrange()
            while 0 < plan.first_ms <= now_ms and used < looks:
                at = base + plan.take()
                self._sweep.run(shard, segment, LEAVE, now_ms, location=at, looks=1, moves=1)
                used += _RECORD_LOOKS
                if words[row + SEG_STAMP] != stamp:
                    return used
            self._spent_until_ms = max(self._spent_until_ms, now_ms) + (
                (used + _SEGMENT_LOOKS) / _PROMPT_LOOKS_PER_MS
            )
            if not 0 < plan.first_ms <= now_ms:
                words[row + SEG_DUE] = plan.first_ms and max(
                    plan.first_ms, now_ms + _PROMPT_MS, int(self._spent_until_ms)
                )
            self._agenda.keep(segment, plan)
        return used


def _economical_due(records: int, fresh: list[int], now_ms: int) -> int:
    """When a look at a segment is worth it: several of its records have expired by then.

    Args:
        records: how many there are, dead or alive.
        fresh: the deadlines that have not passed, as `Plan.fresh` has them.
        now_ms: now.

    Returns:
        Milliseconds, 0 for never.
    """
    if not fresh:
        return 0
    deadlines = sorted(packed >> OFFSET_BITS for packed in fresh)
    several = max(len(deadlines) // _DEADLINES_SHARE, records // _RECORDS_SHARE)
    return min(max(deadlines[0], now_ms + _DUE_MS), deadlines[min(several, len(deadlines) - 1)])
