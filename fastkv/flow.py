"""How long clients may take; how much memory they may hold meanwhile `fastkv.buffers` knows.

Deadlines cost a request nothing: no timer is set for one. A sweep looks at each connection about once a
second, a few at a time, and a deadline is met to within that second. Memory is counted where it leaves the
ordinary: when a transport says that its client does not read, and while a body of some size arrives.

Enters: connections, as `Client`. Leaves: `Client.expire` for those that take too long. Nothing is raised.
"""

from __future__ import annotations

import time
from enum import IntEnum
from typing import TYPE_CHECKING, Final, Protocol

from fastkv.buffers import Buffers, Holder
from fastkv.stats import Column

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from fastkv.settings import Settings

SWEEP_TURNS: Final = 20
"""Turns in which all connections are looked at once, unless they are too many."""
SWEEP_SECONDS: Final = 0.05
"""Time from turn to turn."""
# A look takes 2.5 µs, and more of them would be a pause that clients see. With more than 8,000 connections a
# sweep takes longer than a second.
_MOST_LOOKS: Final = 400


class Phase(IntEnum):
    """What a connection waits for."""

    FIRST_BYTE = 0
    HEAD = 1
    BODY = 2
    IDLE = 3
    OUTPUT = 4
    CLOSING = 5
    QUIET = 6
    """As IDLE, of a WebSocket: when it expires, the client is asked whether it is still there."""
    PONG = 7
    """It was asked and has not answered."""
    HANDSHAKE = 8
    """TLS has not begun; counted from the accept."""


COUNTER_OF: Final = {
    Phase.FIRST_BYTE: Column.FIRST_BYTE_TIMEOUTS,
    Phase.HEAD: Column.HEAD_TIMEOUTS,
    Phase.BODY: Column.BODY_TIMEOUTS,
    Phase.IDLE: Column.IDLE_TIMEOUTS,
    Phase.OUTPUT: Column.OUTPUT_TIMEOUTS,
    Phase.PONG: Column.PONG_TIMEOUTS,
    Phase.HANDSHAKE: Column.HANDSHAKE_TIMEOUTS,
}

_RESTING: Final = (Phase.IDLE, Phase.QUIET)


class Client(Holder, Protocol):
    """What flow control asks of a connection.

    Attributes:
        heard: something has arrived since this was last set to False.
    """

    heard: bool

    @property
    def phase(self) -> Phase:
        """What it waits for."""

    @property
    def held_bytes(self) -> int:
        """Bytes that it keeps: replies that are not read, and what has arrived meanwhile."""

    def expire(self, phase: Phase) -> None:
        """Its time is up."""

    def abort(self) -> None:
        """Close at once."""


class Flow:
    """Deadlines and memory of one worker's connections.

    Attributes:
        now: seconds on the monotonic clock, as of the last turn.
        buffers: what connections keep together.
    """

    def __init__(
        self, settings: Settings, counters: memoryview[int], everyone: Callable[[], Iterable[Client]]
    ) -> None:
        """Begin with no connections.

        Args:
            settings: the deadlines, min_rate_bytes and max_buffer_bytes count.
            counters: this worker's row of the board.
            everyone: all connections.
        """
        self.now = time.monotonic()
        self.buffers = Buffers(settings.max_buffer_bytes, counters, everyone)
        self._counters = counters
        self._rate = settings.min_rate_bytes
        self._allowed = {
            Phase.FIRST_BYTE: settings.first_byte_seconds,
            Phase.HEAD: settings.head_seconds,
            Phase.BODY: settings.body_seconds,
            Phase.IDLE: settings.idle_seconds,
            Phase.OUTPUT: settings.output_seconds,
            Phase.CLOSING: settings.linger_seconds,
            Phase.QUIET: settings.ping_seconds,
            Phase.PONG: settings.pong_seconds,
            Phase.HANDSHAKE: settings.tls_handshake_seconds,
        }
        # Since when a client has output to take, and how much it had taken then.
        self._readers: dict[Client, tuple[float, int]] = {}
        self._to_see: list[Client] = []
        self._per_turn = 0

    # -- deadlines -----------------------------------------------------------------------------------------

    def turn(self, clients: Collection[Client]) -> None:
        """Look at the next part of all connections.

        Args:
            clients: all there are.
        """
        self.now = time.monotonic()
        self.buffers.turn(self.now)
        if not self._to_see:
            self._to_see = list(clients)
            self._per_turn = min(-(-len(self._to_see) // SWEEP_TURNS), _MOST_LOOKS)
        for _ in range(min(self._per_turn, len(self._to_see))):
            client = self._to_see.pop()
            if client in clients:
                self._look(client)

    def _look(self, client: Client) -> None:
        """Find out what a client waits for, and whether it has waited too long."""
        now, phase = self.now, client.phase
        if phase in _RESTING and client.heard:
            client.since = now
        client.heard = False
        since, done = client.since, 0
        if phase is Phase.OUTPUT:
            taken = client.progress
            since, before = self._readers.setdefault(client, (now, taken))
            done = taken - before
            client.since = now  # whatever comes next begins when this ends
        else:
            self._readers.pop(client, None)
            if phase is Phase.BODY:
                done = client.progress
        if phase not in _RESTING or self.buffers.holds(client):
            held_bytes = client.held_bytes
            if held_bytes:
                self.hold(client, held_bytes)
                self.buffers.measure(client, now)
            else:
                self.release(client)
        if now - since > self._allowed[phase] + done / self._rate:
            if phase in COUNTER_OF:
                self._counters[COUNTER_OF[phase]] += 1
            client.expire(phase)

    # -- memory --------------------------------------------------------------------------------------------

    def hold(self, client: Client, held_bytes: int) -> None:
        """Note what a connection keeps; it may be cut for that.

        Args:
            client: the connection.
            held_bytes: bytes of a body that arrives, or of replies that are not read; 0 or more.
        """
        self.buffers.hold(client, held_bytes, self.now)

    def has_room(self, more_bytes: int, *, least: bool = False) -> bool:
        """Whether a connection may be sent something that can wait, without others being closed for it.

        Args:
            more_bytes: what it would hold besides.
            least: whether it holds nothing; half of the memory is left to those.
        """
        return self.buffers.has_room(more_bytes, least=least)

    @property
    def held_bytes(self) -> int:
        """What connections keep together."""
        return self.buffers.held_bytes

    def wait(self, client: Client) -> None:
        """Have an arriving body wait for room, if it has to."""
        self.buffers.wait(client)

    def release(self, client: Client) -> None:
        """Note that a connection keeps nothing any more."""
        self.buffers.release(client)

    def forget(self, client: Client) -> None:
        """Note that a connection has ended."""
        self.buffers.forget(client)
        self._readers.pop(client, None)
