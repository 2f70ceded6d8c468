"""Memory for large bodies, which the kernel has back as soon as they are done with.

In: the length of a body, then its bytes. Out: a value that arrives, or a whole reply, each in one buffer into
which every byte is copied once. Huge pages are asked for: 63 MiB are filled in 9 ms with them, and in 45 with
ordinary ones, nearly all of it page faults.
"""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from typing import Self

    from fastkv.receiver import Data

HUGE_PAGE_BYTES: Final = 2 << 20
"""A buffer takes at most this much memory beyond what was touched."""

ROOM_BYTES: Final = mmap.PAGESIZE
"""What precedes a body in a reply is no longer, or the reply is copied."""


def map_memory(size: int) -> mmap.mmap:
    """Take memory from the kernel; it counts as soon as it is touched.

    Args:
        size: bytes.

    Raises:
        OSError: if the kernel does not give that much address space.
    """
    return mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def use_huge_pages(memory: mmap.mmap, start: int = 0) -> None:
    """Ask for huge pages where nothing was touched yet; a kernel without them has others.

    Args:
        memory: as of ``map_memory``.
        start: from which byte on, a whole number of ordinary pages.
    """
    if hasattr(mmap, "MADV_HUGEPAGE") and start < len(memory):
        memory.madvise(mmap.MADV_HUGEPAGE, start)


class LargeTail:
    """What stands behind Date and Connection in a reply, with room before it.

    Attributes:
        body: the body, or room for it that the caller fills.
        fields: the other header fields and the empty line; its caller says them.
    """

    __slots__ = ("_view", "body", "fields")

    def __init__(self, view: memoryview) -> None:
        """Take memory that is there.

        Args:
            view: its first ``ROOM_BYTES`` are free, and behind them is the body.
        """
        self._view = view
        self.body = view[ROOM_BYTES:]
        self.fields = b""

    @classmethod
    def of_size(cls, body_bytes: int) -> Self:
        """Take memory of the kernel.

        Args:
            body_bytes: bytes of the body.

        Raises:
            OSError: as for ``map_memory``.
        """
        memory = map_memory(ROOM_BYTES + body_bytes)
        use_huge_pages(memory)
        return cls(memoryview(memory))

    def behind(self, front: bytes) -> Data:
        """The reply.

        Args:
            front: what stands before the fields.
        """
        head = front + self.fields
        begin = ROOM_BYTES - len(head)
        if begin < 0:
            return head + self.body
        self._view[begin:ROOM_BYTES] = head
        return self._view[begin:]
