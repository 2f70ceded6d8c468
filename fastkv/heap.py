"""Memory that was freed goes back to the system, once much of it was.

The C library keeps what is freed below something that is still in use. After a burst of bodies, replies or
connections that is nearly all of it; so it is asked to give the pages back. That takes 0.1 ms for each MiB,
and is done when at least `TRIM_BYTES` less is in use than before.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

TRIM_BYTES: Final = 8 << 20
"""Less than that is left to the C library."""


def find_trim() -> Callable[[int], object]:
    """The C library's ``malloc_trim``; what does nothing where it has none."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        return int


class Heap:
    """The memory of one worker, as far as it varies with its connections.

    Args:
        trim: Gives back what is free; called with the bytes to keep at the top.
    """

    __slots__ = ("_most", "_trim")

    def __init__(self, trim: Callable[[int], object] | None = None) -> None:
        self._trim = trim or find_trim()
        self._most = 0

    def turn(self, used_bytes: int) -> bool:
        """Give memory back if much was freed; to be called some times a second.

        Args:
            used_bytes: What connections take now, roughly.

        Returns:
            Whether it was given back.
        """
        self._most = max(self._most, used_bytes)
        if self._most - used_bytes < TRIM_BYTES:
            return False
        self._most = used_bytes
        self._trim(0)
        return True
