"""Connections whose clients have left: closed a few at a time, so that the others are served in between.

To close a connection takes 20 us, the kernel's part included, and the event loop does it for all that have
ended before it looks at a socket again: 15,000 that leave at once, as those of a proxy that is stopped, held
all others up for a quarter of a second. Those past the first few wait here, and take nothing meanwhile.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

CLOSED_AT_ONCE: Final = 128
"""Connections that are closed in one round of the event loop: 2.5 ms."""


class Departures:
    """The connections of one worker that are to be closed."""

    __slots__ = ("_closed", "_scheduled", "_waiting")

    def __init__(self) -> None:
        self._waiting: deque[asyncio.BaseTransport] = deque()
        self._closed = 0  # in this round
        self._scheduled = False

    def defer(self, transport: asyncio.BaseTransport) -> bool:
        """Decide whether a connection is closed now; to be called when its client has left.

        Args:
            transport: Nothing is due on it.

        Returns:
            False if it is to be closed now, True if that is done later, from here.
        """
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._round)
        if self._closed < CLOSED_AT_ONCE:
            self._closed += 1
            return False
        self._waiting.append(transport)
        return True

    def _round(self) -> None:
        """Close as many as have their turn; the event loop looks at sockets before the next round."""
        self._closed = min(len(self._waiting), CLOSED_AT_ONCE)
        for _ in range(self._closed):
            self._waiting.popleft().close()
        self._scheduled = bool(self._closed)
        if self._scheduled:
            asyncio.get_running_loop().call_soon(self._round)
