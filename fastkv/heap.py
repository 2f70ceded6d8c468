"""The C library's heap: kept between requests, given back to the system once much of it was freed.

Left to itself the library gives memory back and asks for it again with each large value: a GET of 900 kB took
1.7 ms of CPU, nearly all of it in page faults, and takes 0.27 with the heap kept. And it keeps what is freed
below something that is still in use: after a burst of bodies, replies or connections that is nearly all of
it. So it is asked to give the pages back, which takes 0.1 ms for each MiB, when `TRIM_BYTES` less is in use.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

TRIM_BYTES: Final = 8 << 20
"""Less than that is kept for what comes next."""

_MMAP_BYTES: Final = 4 << 20  # what is larger gets a mapping of its own
_M_TRIM_THRESHOLD: Final = -1  # malloc.h
_M_MMAP_THRESHOLD: Final = -3


def _nothing(_: int) -> object:
    """A ``malloc_trim`` where the library has none."""


class Heap:
    """The heap of one worker.

    Args:
        library: The C library; that of the process unless a test has another.
    """

    __slots__ = ("_most", "_trim")

    def __init__(self, library: Any = None) -> None:
        library = library or ctypes.CDLL(None)
        self._most = 0
        self._trim: Callable[[int], object] = getattr(library, "malloc_trim", _nothing)
        if hasattr(library, "mallopt"):
            library.mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES)
            library.mallopt(_M_TRIM_THRESHOLD, TRIM_BYTES)

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
