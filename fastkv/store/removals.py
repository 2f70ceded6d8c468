"""What goes by itself: entries that expire or are evicted, noted for whoever wants to know which they were.

They are noted under the shard's lock, so to note one is to append it to a list, and the list is bounded. That
nobody wants to know is the rule: then it costs one look at a shared word, for many entries together.
"""

from __future__ import annotations

from typing import Final

EXPIRED: Final = b"expired"
EVICTED: Final = b"evicted"

# A step of a sweep removes 1,024 at most, and a writer that makes room takes a few steps.
_MOST: Final = 1 << 14


class Removals:
    """The entries that went in this process since they were taken last.

    Attributes:
        wanted: a view of a word; as long as it is 0 nothing is noted.
        expired_wanted: a view of a word; as long as it is not 0 the sweep looks for expired entries soon
            after their deadlines instead of when it costs least.
        noted: the event and the key of each, in order.
        lost: how many there was no room for.
    """

    __slots__ = ("expired_wanted", "lost", "noted", "wanted")

    def __init__(self) -> None:
        self.wanted = self.expired_wanted = memoryview(bytes(8)).cast("Q")
        self.noted: list[tuple[bytes, bytes]] = []
        self.lost = 0

    def note(self, event: bytes, key: bytes) -> None:
        """Note one; whoever calls this has looked whether it is wanted.

        Args:
            event: `EXPIRED` or `EVICTED`.
            key: the entry's.
        """
        if len(self.noted) < _MOST:
            self.noted.append((event, key))
        else:
            self.lost += 1

    def take(self) -> tuple[list[tuple[bytes, bytes]], int]:
        """Take what was noted.

        Returns:
            The events and keys, and how many were lost.
        """
        taken = self.noted, self.lost
        self.noted, self.lost = [], 0
        return taken
