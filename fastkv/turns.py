"""Turns: a connection that has more to do goes on in a later round of the event loop, behind the others.

Work in steps (`fastkv.steps`) and long pipelines are done for `TURN_SECONDS` at a time; sockets are looked at
between. Until a connection has its next turn it reads nothing more, so a client's replies stay in order.
"""

from __future__ import annotations

import asyncio
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

TURN_SECONDS: Final = 0.004
"""How long a turn lasts, 5 ms less a step: it ends with the step that passes this."""


class Turns:
    """The callbacks of one worker that wait for a further turn."""

    __slots__ = ("_scheduled", "_seconds", "_waiting")

    def __init__(self, seconds: float = TURN_SECONDS) -> None:
        """Begin with none.

        Args:
            seconds: how long callbacks are run in one round of the event loop.
        """
        self._seconds = seconds
        self._waiting: deque[Callable[[], object]] = deque()
        self._scheduled = False

    def later(self, callback: Callable[[], object], seconds: float = 0.0) -> None:
        """Call back in a later round of the event loop.

        Args:
            callback: what to call; it takes a turn at most, and raises nothing.
            seconds: how long to wait before.
        """
        if seconds:
            asyncio.get_running_loop().call_later(seconds, self.later, callback)
            return
        self._waiting.append(callback)
        self._schedule()

    def _schedule(self) -> None:
        if self._waiting and not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._round)

    def _round(self) -> None:
        """Run what waits, in order, for one turn; sockets are looked at before the next one."""
        self._scheduled = False
        end = monotonic() + self._seconds
        try:
            for _ in range(len(self._waiting)):
                self._waiting.popleft()()
                if monotonic() > end:
                    break
        finally:
            self._schedule()
