"""One client's stream of events: what has the transport once the request was answered.

Enters: messages, from the hub. Leaves: events, a comment where there is nothing to say for long, and the end
when the client leaves, is too slow, or the worker drains. What the client still sends is thrown away. Nothing
is raised out of a callback.
"""

from __future__ import annotations

import asyncio
from base64 import b64encode
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from fastkv.errors import StoreBusy
from fastkv.flow import Phase
from fastkv.outlet import CLOSED
from fastkv.pubsub.bounds import CannotSubscribe
from fastkv.sse.format import BUILDERS, LAST_CHUNK, PING, as_text, chunk, event

if TYPE_CHECKING:
    from fastkv.outlet import ClosedOutlet, Outlet
    from fastkv.pubsub.hub import Hub
    from fastkv.pubsub.messages import Message
    from fastkv.service import Service
    from fastkv.steps import Steps
    from fastkv.takeover import HandedOver


@dataclass(frozen=True, slots=True)
class Wish:
    """What a client has asked for.

    Attributes:
        names: the channels and patterns, each with whether it is a pattern.
        in_base64: whether channels and messages come in base64.
        chunked: whether the body comes in chunks.
    """

    names: tuple[tuple[bytes, bool], ...]
    in_base64: bool
    chunked: bool


class EventStream(asyncio.Protocol):
    """A client's stream.

    Attributes:
        heard: always set again when somebody looks: a stream is never idle for too long.
        since: when its phase began.
    """

    def __init__(self, service: Service, hub: Hub, wish: Wish, *, ping_seconds: float) -> None:
        """Make the protocol that is to have the transport.

        Args:
            service: what the worker's connections share.
            hub: passes messages on.
            wish: what the client has asked for.
            ping_seconds: how long there may be silence.
        """
        self._service = service
        self._flow = service.flow
        self._hub = hub
        self._wish = wish
        self._build = BUILDERS[wish.in_base64, wish.chunked]
        self._ping_seconds = ping_seconds
        self._transport: asyncio.Transport | None = None
        self._outlet: Outlet | ClosedOutlet = CLOSED
        self._paused = False
        self._closing = False
        self._silent = True  # nothing was sent since the last look
        self._timer: asyncio.TimerHandle | None = None
        self.heard = False
        self.since = 0.0

    def take_over(self, handed: HandedOver) -> None:
        """Begin.

        Args:
            handed: what the connection leaves.
        """
        self._transport, self._outlet = handed.transport, handed.outlet
        self._paused = handed.paused
        self.since = self._flow.now
        if handed.eof:
            self.close()
            return
        self._subscribe(self._hub.until_ready())

    def _subscribe(self, waiting: Steps[None]) -> None:
        """Subscribe as soon as the hub is ready, and say so.

        Args:
            waiting: for the hub.
        """
        if self._closing:
            return
        try:
            seconds = next(waiting, None)
            if seconds is not None:
                self._service.turns.later(partial(self._subscribe, waiting), seconds)
                return
            encode = b64encode if self._wish.in_base64 else as_text
            for name, pattern in self._wish.names:
                count = self._hub.subscribe(self, name, pattern=pattern)
                kind = b"psubscribe" if pattern else b"subscribe"
                self._write(event(kind, name, encode=encode)[:-2] + b",%d\n\n" % count)
        except (CannotSubscribe, StoreBusy):  # the client connects again, and its reply says why
            self.close()
            return
        self._timer = asyncio.get_running_loop().call_later(self._ping_seconds, self._look)

    # -- called by the hub -------------------------------------------------------------------------------

    def takes(self, message_bytes: int) -> bool:
        """Whether it takes a message; one that is closing is done with all at once.

        Args:
            message_bytes: how long it is.
        """
        if self._closing or self._paused:
            return self._closing
        flow = self._flow
        return flow.has_room(message_bytes) or (
            not self._outlet.held_bytes and flow.has_room(message_bytes, least=True)
        )

    @property
    def taken_bytes(self) -> int:
        """Bytes of output that the client has taken."""
        return self._outlet.taken_bytes

    def push(self, message: Message) -> None:
        """Send a message.

        Args:
            message: the message.
        """
        if not self._closing:
            self._silent = False
            self._outlet.write(message.as_sent(self._build))

    def give_up(self, reason: str) -> None:
        """Close at once: the end of a stream cannot say why.

        Args:
            reason: is not sent.
        """
        self.abort()

    missing_bytes = 0

    def cut(self) -> bool:
        """End it to make room; what the transport has is in memory until the event loop has closed it."""
        self.abort()
        return False

    def pause(self) -> None:
        """What the client sends is thrown away, so it may be read at any time."""

    def resume(self) -> None:
        """As `pause`."""

    def abort(self) -> None:
        """Close at once, whatever is due."""
        self._closing = True
        if self._transport is not None:
            self._transport.abort()

    # -- called by the worker ----------------------------------------------------------------------------

    @property
    def phase(self) -> Phase:
        """What it waits for."""
        if self._transport is None:
            return Phase.CLOSING
        if self._paused or self._outlet.pending:
            return Phase.OUTPUT
        self.heard = True
        return Phase.CLOSING if self._closing else Phase.IDLE

    @property
    def progress(self) -> int:
        """Bytes that the client has taken."""
        return self._outlet.taken_bytes

    @property
    def held_bytes(self) -> int:
        """Bytes that wait for the client."""
        return self._outlet.held_bytes

    @property
    def idle(self) -> bool:
        """Whether nothing is due: a client whose stream ends comes again, and finds who serves then."""
        return not self._outlet.pending

    def expire(self, phase: Phase) -> None:
        """Its time is up.

        Args:
            phase: what it has waited for too long.
        """
        self.abort()

    def disable_fast_path(self) -> None:
        """The worker drains: the stream goes on until it is closed."""

    def close(self) -> None:
        """End the stream after what is due has gone out."""
        transport = self._transport
        if self._closing or transport is None:
            return
        if self._wish.chunked:
            self._outlet.write(LAST_CHUNK)
        self._closing = True
        self.since = self._flow.now
        transport.close()

    # -- callbacks of the event loop ---------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """A client of a stream has nothing to say."""

    def eof_received(self) -> bool:
        """The client has left.

        Returns:
            True if the connection is closed in a later turn.
        """
        return self._transport is not None and self._service.departures.defer(self._transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """End: let go of everything."""
        self._hub.forget(self)
        self._service.forget(self)
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
        self._transport = None
        self._outlet.drop()
        self._outlet = CLOSED

    def pause_writing(self) -> None:
        """The client does not read."""
        self._paused = True
        self._flow.hold(self, self.held_bytes)

    def resume_writing(self) -> None:
        """The client has read."""
        self._paused = False
        self._outlet.resumed()
        self._flow.release(self)
        self._hub.resumed(self)

    def _look(self) -> None:
        """Give a sign of life after so long a silence; it finds out as well whether the client is there."""
        if self._closing:
            return
        if self._silent and not self._paused:
            self._write(PING)
        self._silent = True
        self._timer = asyncio.get_running_loop().call_later(self._ping_seconds, self._look)

    def _write(self, data: bytes) -> None:
        self._outlet.write(chunk(data) if self._wish.chunked else data)
