"""What connections keep in memory, together: the bound, and which connection waits or is cut for it.

Enters: what a connection keeps, whenever that changes. Leaves: a stop of reading for bodies while most of the
memory is in use, the end of connections that make no progress when others need theirs, and a stop of
everything for a moment where a single round of the event loop brings too much. Nothing is raised.

Three lines, in the order in which they are met:

- Past three quarters of ``max_buffer_bytes`` an arriving body waits: nothing more is read of it. It goes on
  as soon as all that is still to come of it has room; that room is then its own. Those that came first are
  asked first, and what is passed over for a second is passed over no more.
- While a body waits, a connection that keeps much and moves little is cut. What counts is the last second:
  how much arrived or was taken in it, for each byte that is kept. Before a whole second was seen nothing is.
- Past the whole a connection is cut at once: the worst of those, or the one that asks for more.

What is cut may still be in memory: what the transport has goes only when the event loop closes it, after the
round. Where that is too much all connections are left alone until then.
"""

from __future__ import annotations

import asyncio
from itertools import islice
from typing import TYPE_CHECKING, Final, Protocol

from fastkv.stats import Column

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

WINDOW_SECONDS: Final = 1.0
"""Progress is measured over so long, or some more: connections are looked at in turns."""

_SLOWEST_SECONDS: Final = 64
"""Who would need longer than that to move what it keeps makes no progress."""
_SEEN_AT_ONCE: Final = 16  # candidates, those first whose last progress is the longest ago
_PATIENT_TURNS: Final = 20  # so long others may go on before the first in the line: a second
_STILL_TURNS: Final = 40  # so long nothing may go on: two seconds


class Holder(Protocol):
    """What the bound asks of a connection.

    Attributes:
        since: When its phase began, on the monotonic clock.
    """

    since: float

    @property
    def progress(self) -> int:
        """Bytes of the body that have arrived, or of the output that the client has taken."""

    @property
    def missing_bytes(self) -> int:
        """Bytes of a body that are still to come, as far as is known; 0 where none arrives."""

    def cut(self) -> bool:
        """End it to make room; whether what it kept is out of memory at once."""

    def pause(self) -> None:
        """Read nothing until `resume`."""

    def resume(self) -> None:
        """Read on, unless something else is in the way."""


class _Held:
    """What is known of one connection.

    Attributes:
        bytes: What it keeps.
        reserved: Bytes of its body that are still to come and have room.
        rate: Bytes that it moved in a second, lately; None before it was seen for as long.
        seen_at, seen: When that was measured last, and how far it was.
    """

    __slots__ = ("bytes", "rate", "reserved", "seen", "seen_at")

    def __init__(self, now: float, progress: int) -> None:
        self.bytes = self.reserved = 0
        self.restart(now, progress)

    def restart(self, now: float, progress: int) -> None:
        """Measure anew from now on."""
        self.rate: float | None = None
        self.seen_at, self.seen = now, progress

    @property
    def is_stuck(self) -> bool:
        """Whether it moves too little for what it keeps."""
        return self.rate is not None and self.rate * _SLOWEST_SECONDS < self.bytes


class Buffers:
    """What the connections of a worker keep.

    Args:
        limit_bytes: What they may keep together.
        counters: The worker's row of the board.
        everyone: All connections, for the moment in which none is read.

    Attributes:
        held_bytes: What they keep now.
        crowded: Whether bodies have to wait.
    """

    __slots__ = (
        "_braked",
        "_counters",
        "_everyone",
        "_held",
        "_leaving",
        "_leaving_bytes",
        "_limit",
        "_now",
        "_reserved_bytes",
        "_turns",
        "_waiting",
        "held_bytes",
    )

    def __init__(
        self, limit_bytes: int, counters: memoryview[int], everyone: Callable[[], Iterable[Holder]]
    ) -> None:
        self._limit = limit_bytes
        self._counters = counters
        self._everyone = everyone
        # Those first whose last progress is the longest ago.
        self._held: dict[Holder, _Held] = {}
        self._waiting: dict[Holder, None] = {}
        self._leaving: dict[Holder, int] = {}
        self._leaving_bytes = self._reserved_bytes = 0
        self._turns = 0  # that the first in the line has waited
        self._now = 0.0
        self._braked: list[Holder] = []
        self.held_bytes = 0

    @property
    def crowded(self) -> bool:
        """Whether so much is kept that bodies have to wait."""
        return self.held_bytes > self._limit - self._limit // 4

    @property
    def full(self) -> bool:
        """Whether all is kept that may be."""
        return self.held_bytes > self._limit

    def has_room(self, more_bytes: int, *, least: bool) -> bool:
        """Whether something that can wait may be sent now.

        Args:
            more_bytes: What would be kept besides.
            least: Whether its connection keeps nothing; half of the memory is left to those.
        """
        limit = self._limit if least else self._limit // 2
        return not self.held_bytes or self.held_bytes + more_bytes <= limit

    @property
    def used_bytes(self) -> int:
        """What is in memory: that which is kept, and that which was cut and is not gone yet."""
        return self.held_bytes + self._leaving_bytes

    def holds(self, client: Holder) -> bool:
        """Whether a connection keeps something."""
        return client in self._held

    def waits(self, client: Holder) -> bool:
        """Whether a connection waits for room."""
        return client in self._waiting

    def hold(self, client: Holder, held_bytes: int, now: float) -> None:
        """Note what a connection keeps; it may be cut for that.

        Args:
            client: The connection.
            held_bytes: Bytes that were received or wait for the client, 0 or more.
            now: Seconds on the monotonic clock.
        """
        if client in self._leaving:
            return
        self._now = now
        held = self._held.get(client)
        if held is None:
            held = self._held[client] = _Held(now, client.progress)
        grown = held_bytes - held.bytes
        self.held_bytes += grown
        held.bytes = held_bytes
        if held.reserved:
            self._reserve(held, min(held.reserved, client.missing_bytes))
        if grown > 0 and self.held_bytes > self._limit:
            self._make_room(client)
        if self._leaving and self.used_bytes > self._limit + self._limit // 8:
            self._brake()

    def release(self, client: Holder) -> None:
        """Note that a connection keeps nothing any more."""
        held = self._held.pop(client, None)
        if held is not None:
            self.held_bytes -= held.bytes
            self._reserve(held, 0)
            self._waiting.pop(client, None)
            if self._waiting:
                self._admit()

    def forget(self, client: Holder) -> None:
        """Note that a connection has ended."""
        self.release(client)
        self._leaving_bytes -= self._leaving.pop(client, 0)

    def wait(self, client: Holder) -> None:
        """Have an arriving body wait, if it has to; it was held before."""
        held = self._held.get(client)
        if held is None or held.reserved or client in self._waiting or not self.crowded:
            return
        self._counters[Column.BODIES_DELAYED] += 1
        self._waiting[client] = None
        # It is not to blame from here on, and not to be looked at as one of the slowest.
        self._held[client] = self._held.pop(client)
        client.pause()
        self._admit()

    def measure(self, client: Holder, now: float) -> None:
        """See how far a connection has come, if a whole window is over.

        Args:
            client: The connection.
            now: Seconds on the monotonic clock.
        """
        held = self._held.get(client)
        if held is None or now - held.seen_at < WINDOW_SECONDS or client in self._waiting:
            return
        progress = client.progress
        moved = progress - held.seen
        # Less than before is another body, or the reply behind it.
        rate = max(moved, 0) / (now - held.seen_at) if moved >= 0 else None
        held.restart(now, progress)
        held.rate = rate
        if moved > 0:
            self._held[client] = self._held.pop(client)

    def turn(self, now: float) -> None:
        """Look after those that wait; some times a second.

        Args:
            now: Seconds on the monotonic clock.
        """
        self._now = now
        if not self._waiting:
            self._turns = 0
            return
        for client in self._waiting:
            client.since = now
        stuck = self._find_stuck()
        if stuck is not None:
            self._cut(stuck)
        self._admit()
        self._turns += 1
        if self._turns > _STILL_TURNS and self._waiting and not self._reserved_bytes:
            # All wait for each other: the last in the line goes, so that the first has room.
            self._cut(next(reversed(self._waiting)))

    # -- within ------------------------------------------------------------------------------------------

    def _reserve(self, held: _Held, reserved: int) -> None:
        self._reserved_bytes += reserved - held.reserved
        held.reserved = reserved

    def _admit(self) -> None:
        """Let those go on whose bodies have room to the end."""
        first = next(iter(self._waiting), None)
        most = 1 if self._turns > _PATIENT_TURNS else _SEEN_AT_ONCE
        for client in list(islice(self._waiting, most)):
            missing = client.missing_bytes
            fits = self.held_bytes + self._reserved_bytes + missing <= self._limit
            if fits or len(self._held) == 1:  # one alone has the room that it needs
                del self._waiting[client]
                held = self._held[client]
                self._reserve(held, missing)
                held.restart(self._now, client.progress)
                client.resume()
                if client is first:
                    self._turns = 0

    def _find_stuck(self) -> Holder | None:
        """Of those whose last progress is the longest ago, the one that moves least for what it keeps."""
        found, least = None, 0.0
        for client, held in islice(self._held.items(), _SEEN_AT_ONCE):
            if held.is_stuck and client not in self._waiting:
                share = (held.rate or 0.0) / held.bytes
                if found is None or share < least:
                    found, least = client, share
        return found

    def _make_room(self, client: Holder) -> None:
        """Cut connections until the bound holds; one alone may keep as much as its own bounds allow."""
        while self.held_bytes > self._limit and len(self._held) > 1:
            victim = self._find_stuck() or client
            self._cut(victim)
            if victim is client:
                return

    def _cut(self, client: Holder) -> None:
        kept = self._held[client].bytes
        self._counters[Column.SLOWEST_CLOSED] += 1
        self.release(client)
        if not client.cut():
            self._leaving[client] = self._leaving.get(client, 0) + kept
            self._leaving_bytes += kept

    def _brake(self) -> None:
        """Read from no connection until what was cut is out of memory: that is after two rounds."""
        if self._braked:
            return
        self._counters[Column.BUFFER_STOPS] += 1
        self._braked = list(self._everyone())
        for client in self._braked:
            client.pause()
        loop = asyncio.get_running_loop()
        loop.call_soon(loop.call_soon, self._go_on)

    def _go_on(self) -> None:
        braked, self._braked = self._braked, []
        for client in braked:
            if client not in self._waiting:
                client.resume()
