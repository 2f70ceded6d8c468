"""One client's stream of events: what has the transport once the request was answered.

Enters: messages, from the hub. Leaves: events, a comment where there is nothing to say for long, and the end
when the client leaves, is too slow, or the worker drains. What the client still sends is thrown away. Nothing
is raised out of a callback.
"""

from __future__ import annotations

import asyncio
from base64 import b64encode
from dataclasses import dataclass
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

    def __init__(
        self, service: Service, hub: Hub, wish: Wish, *, limit_bytes: int, ping_seconds: float
    ) -> None:
        """Make the protocol that is to have the transport.

        Args:
            service: what the worker's connections share.
            hub: passes messages on.
            wish: what the client has asked for.
            limit_bytes: how much may wait for the client before it is too slow.
            ping_seconds: how long there may be silence.
        """
        self._service = service
        self._flow = service.flow
        self._hub = hub
        self._wish = wish
        self._build = BUILDERS[wish.in_base64, wish.chunked]
        self._limit_bytes = limit_bytes
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
        """Subscribe, and say so.

        Args:
            handed: what the connection leaves.
        """
        self._transport, self._outlet = handed.transport, handed.outlet
        self._paused = handed.paused
        self.since = self._flow.now
        if handed.eof:
            self.close()
            return
        encode = b64encode if self._wish.in_base64 else as_text
        try:
            for name, pattern in self._wish.names:
                count = self._hub.subscribe(self, name, pattern=pattern)
                kind = b"psubscribe" if pattern else b"subscribe"
                self._write(event(kind, name, encode=encode)[:-2] + b",%d\n\n" % count)
        except (CannotSubscribe, StoreBusy):  # the client comes again, and is told why
            self.close()
            return
        self._timer = asyncio.get_running_loop().call_later(self._ping_seconds, self._look)

    # -- called by the hub -------------------------------------------------------------------------------

    def push(self, message: Message) -> bool:
        """Send a message.

        Args:
            message: the message.

        Returns:
            False if the client is too slow.
        """
        if self._closing:
            return True
        self._silent = False
        self._outlet.write(message.as_sent(self._build))
        if not self._paused:
            return True
        held_bytes = self._outlet.held_bytes
        self._flow.hold(self, held_bytes)
        return held_bytes <= self._limit_bytes

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

    def leave_rest(self) -> None:
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
        """The client has left."""
        return False

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
        self._flow.release(self)

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
