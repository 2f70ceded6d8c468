"""Progress: how work that takes long without a turn of the event loop shows that it goes on.

A worker gives its signs of life from its event loop (`fastkv.worker`). To wait for a lock, a transaction or
a repair keeps it from there for as long as their own bounds allow; they report to `PROGRESS` at bounded
steps, so that the watchdog does not take the worker for stuck. Only work that ends by itself may report: a
loop that runs for ever and reports progress is never noticed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_SMALL_STEPS: Final = 64


class Progress:
    """Where the long work of a process reports.

    Attributes:
        made: what to call behind a step of some milliseconds or more; each process sets its own.
    """

    __slots__ = ("_small", "made")

    def __init__(self) -> None:
        """Report to no one."""
        self.made: Callable[[], None] = _nothing
        self._small = 0

    def small(self) -> None:
        """Note a step of some microseconds: one of 64 is reported."""
        self._small += 1
        if self._small >= _SMALL_STEPS:
            self._small = 0
            self.made()


def _nothing() -> None:
    """Report in a process that has no watchdog."""


PROGRESS: Final = Progress()
"""That of this process."""
