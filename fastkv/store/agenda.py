"""Which records of a segment expire when: so that a sweep looks at each alone, and not at all of them again.

In: the deadlines that a sweep has seen in a segment, each with the place of its record. Out: the places of
those that have passed. An agenda belongs to one process and is a hint: a record may be dead by the time.
It takes 8 bytes for each record with a deadline, and is bounded. Nothing is raised.
"""

from __future__ import annotations

from array import array
from typing import Final

from fastkv.store.layout import OFFSET_BITS

_OFFSET_MASK: Final = (1 << OFFSET_BITS) - 1

# All segments together: 8 MiB.
_MOST_DEADLINES: Final = 1 << 20


class Plan:
    """The agenda of one segment.

    Attributes:
        stamp: the segment's, when it was begun.
        location: where the first record lies that no sweep has seen; 0 for the segment's beginning.
        records: how many records sweeps have looked at.
        fresh: what sweeps have seen since the last ``arrange``: deadlines in ms << `OFFSET_BITS` | offset of
            the record in words.
    """

    __slots__ = ("_at", "_deadlines", "fresh", "location", "records", "stamp")

    def __init__(self, stamp: int) -> None:
        self.stamp = stamp
        self.location = self.records = 0
        self.fresh: list[int] = []
        self._deadlines = array("Q")
        self._at = 0  # those before it were taken

    def __len__(self) -> int:
        return len(self._deadlines) - self._at

    def arrange(self) -> None:
        """Sort in what is fresh."""
        if self.fresh:
            self._deadlines = array("Q", sorted([*self._deadlines[self._at :], *self.fresh]))
            self._at = 0
            self.fresh = []

    @property
    def first_ms(self) -> int:
        """The first deadline, in milliseconds; 0 if there is none."""
        return self._deadlines[self._at] >> OFFSET_BITS if self._at < len(self._deadlines) else 0

    def take(self) -> int:
        """Take the record with the first deadline: its offset in words."""
        self._at += 1
        return self._deadlines[self._at - 1] & _OFFSET_MASK


class Agenda:
    """The plans of all segments that a process has looked through."""

    __slots__ = ("_deadlines", "_plans")

    def __init__(self) -> None:
        """Begin with none."""
        self._plans: dict[int, Plan] = {}
        self._deadlines = 0

    def take(self, segment: int, stamp: int) -> Plan:
        """Take the plan of a segment; an empty one if it is not known, or was taken into use anew.

        Args:
            segment: its number.
            stamp: its stamp.
        """
        plan = self._plans.pop(segment, None)
        if plan is not None:
            self._deadlines -= len(plan)
        return plan if plan is not None and plan.stamp == stamp else Plan(stamp)

    def keep(self, segment: int, plan: Plan) -> None:
        """Keep a plan that was taken, if there is room for it.

        Args:
            segment: the number of its segment.
            plan: the plan.
        """
        if self._deadlines + len(plan) <= _MOST_DEADLINES:
            self._plans[segment] = plan
            self._deadlines += len(plan)

    def clear(self) -> None:
        """Forget all plans."""
        self._plans.clear()
        self._deadlines = 0
