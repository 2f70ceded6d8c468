"""The clocks of the machine, and the one that deadlines are on.

Deadlines count milliseconds since boot, suspend included, so that a step of the wall clock neither revives an
entry nor kills one. Over a restart an offset makes the arena's clock go on where it was.
"""

from __future__ import annotations

import time
import uuid
from pathlib import Path

from fastkv import core
from fastkv.store.superblock import Moment

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_ms() -> int:
    """Milliseconds since boot, suspend included."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


class ArenaClock:
    """The clock of an arena, in Python; ``fastkv.core.engine.Clock`` is the same in C speed."""

    __slots__ = ("_frozen_ms", "_offset_ms")

    def __init__(self, offset_ms: int = 0) -> None:
        """Show the time.

        Args:
            offset_ms: what it is ahead of the time since boot.
        """
        self._offset_ms = offset_ms
        self._frozen_ms: int | None = None

    def __call__(self) -> int:
        """Milliseconds now."""
        if self._frozen_ms is not None:
            return self._frozen_ms
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000 + self._offset_ms

    def freeze(self, now_ms: int | None) -> None:
        """Stand still, for tests.

        Args:
            now_ms: what it shows from now on; None: the time again.
        """
        self._frozen_ms = now_ms


def arena_clock(offset_ms: int) -> ArenaClock | core.engine.Clock:
    """The clock of an arena.

    Args:
        offset_ms: what it is ahead of the time since boot.

    Returns:
        Tells milliseconds; compiled where that is to be had.
    """
    return core.engine.Clock(offset_ms) if core.COMPILED else ArenaClock(offset_ms)


def unix_ahead_ms(offset_ms: int) -> int:
    """What Unix time is ahead of the clock of an arena.

    Args:
        offset_ms: what that clock is ahead of the time since boot.

    Returns:
        Milliseconds: the same ones as long as nobody sets the wall clock, because the difference is rounded
        and not each of the two.
    """
    ahead_ns = time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    return (ahead_ns + 500_000) // 1_000_000 - offset_ms


def now(boot_id: Path = BOOT_ID) -> Moment:
    """What the clocks show.

    Args:
        boot_id: the file in which the kernel says which boot this is.

    Returns:
        It all; a boot id of 0 where the kernel does not say.
    """
    try:
        boot = uuid.UUID(boot_id.read_text().strip()).int
    except (OSError, ValueError):
        boot = 0
    return Moment(boot, boot_ms(), time.time_ns() // 1_000_000)
