"""What a worker remembers of requests that it has answered: request line → where the answer came from.

Parsing is a pure function of the bytes, and an entry of the store is unchanged exactly while its slot holds
the word under which it was found. So a remembered reply is right if one 8-byte read of shared memory says
so, whichever worker wrote last: nothing is invalidated, nothing expires.

A request is kept at its second sight, so that requests which never come back cost two accesses to a table
that fits the first-level cache, and no memory. The bound is in bytes; entries go one by one, oldest first
(clearing 65,536 at once takes 11 ms).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from fastkv.store.layout import count_at

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastkv.store import Entry

Remembered = tuple[int, int, int, bytes]
"""(slot, word, count_at, tail): the reply is 200 and ``tail`` while the arena's ``slot`` holds ``word``; an
access is counted at ``count_at``."""

_LONGEST_REQUEST: Final = 4 << 10
_LONGEST_REPLY: Final = 16 << 10
# What an entry takes besides its bytes: two bytes objects, a tuple, three integers, dict and deque slots.
_OVERHEAD: Final = 400
# One byte of the hash of the newest request at each place. More places would remember for longer who was seen
# once: with 65,536 of them 18% of uniform requests over 300,000 keys were kept in vain, with 8,192 it is 3%.
_SIGHTS: Final = 1 << 13


class Memo:
    """Replies by request bytes, bounded in memory.

    Attributes:
        get: ``get(request) -> Remembered | None``.
        evictions: how many were forgotten to stay within the bound.
    """

    __slots__ = ("_bytes", "_entries", "_limit", "_order", "_preludes", "_sights", "evictions", "get")

    def __init__(self, limit_bytes: int, preludes: Mapping[int, bytes]) -> None:
        """Make an empty memo.

        Args:
            limit_bytes: memory that the entries may take, bookkeeping included; 0 remembers nothing.
            preludes: by status, what the replies begin with this second and the next one not.
        """
        self._entries: dict[bytes, Remembered] = {}
        self.get = self._entries.get
        # A dict would walk over all that were deleted before its first key; a deque knows the oldest.
        self._order: deque[bytes] = deque()
        self._bytes = 0
        self._limit = limit_bytes
        self._preludes = preludes
        self._sights = bytearray(_SIGHTS)
        self.evictions = 0

    def offer(self, request: bytes, reply: bytes, entry: Entry) -> None:
        """Remember a reply if its request was seen before.

        Args:
            request: the line of a request whose head is memoable, or a message.
            reply: a 200, made from the entry and nothing else.
            entry: what the store found for the request.
        """
        # ``has_seen`` written out: the call would take as long.
        mark = hash(request)
        place = mark & _SIGHTS - 1
        mark = mark >> 13 & 0xFF
        if self._sights[place] == mark:
            self.keep(request, reply, entry)
        else:
            self._sights[place] = mark

    def has_seen(self, request: bytes) -> bool:
        """Whether a request was seen before; next time it was.

        Args:
            request: its bytes.
        """
        mark = hash(request)
        place = mark & _SIGHTS - 1
        mark = mark >> 13 & 0xFF
        if self._sights[place] == mark:
            return True
        self._sights[place] = mark
        return False

    def keep(self, request: bytes, reply: bytes, entry: Entry) -> None:
        """Remember a reply, if it is worth it; the arguments are those of ``offer``."""
        _, _, _, deadline_ms, slot, word, _ = entry
        if deadline_ms or len(request) > _LONGEST_REQUEST or len(reply) > _LONGEST_REPLY:
            return
        known = self._entries.get(request)
        if known is not None:
            self._bytes -= len(known[3])
        elif self._limit:
            self._order.append(request)
            self._bytes += len(request) + _OVERHEAD
        else:
            return
        tail = reply[len(self._preludes[200]) :]
        self._entries[request] = slot, word, count_at(slot), tail
        self._bytes += len(tail)
        while self._bytes > self._limit:
            oldest = self._order.popleft()
            self._bytes -= len(oldest) + len(self._entries.pop(oldest)[3]) + _OVERHEAD
            self.evictions += 1
