"""One client's connection: bytes in, replies out, in order.

The way of a GET: ``data_received`` → ``Http.serve`` of the compiled core → ``write``. What the core declines,
and everything where there is none, goes the readable way, one message at a time: ``receive`` →
``Parser.read`` → ``dispatch`` → ``Routes.get`` → ``Store.get`` → ``value_reply`` → ``write``. Behind each
message the core is asked again.

This is the only module that sees both the transport and the store's side: `fastkv.outlet` has the former's,
`fastkv.dispatch` the latter's. Nothing is raised out of a callback; there is no task, future or queue on the
way of a request.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Final, cast

from fastkv.dispatch import Dispatch
from fastkv.flow import Phase
from fastkv.http.parser import EXPECTING
from fastkv.http.request import HttpError
from fastkv.http.responses import CONTINUE, NO_ROOM, TOO_MANY, TOO_SLOW, Reply
from fastkv.http.stream import RequestStream
from fastkv.outlet import CLOSED, open_outlet
from fastkv.receiver import DECLINED
from fastkv.stats import Column
from fastkv.takeover import HandedOver

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from fastkv.outlet import Outlet
    from fastkv.receiver import Data
    from fastkv.service import Service
    from fastkv.takeover import Successor

# Less than this is not worth the count: it is bounded by the number of connections.
_HOLD_FROM_BYTES: Final = 4 << 10


class Connection(Dispatch):
    """A client's connection."""

    __slots__ = ("_begun", "_holding", "_stream")

    def __init__(self, service: Service) -> None:
        """Make the protocol of a connection to be.

        Args:
            service: what it shares with the worker's others.
        """
        super().__init__(service)
        self._stream = RequestStream(service.make_parser)
        self._holding = False  # what it has received counts as memory held
        self._begun = False  # the client has sent something

    # -- callbacks of the event loop ---------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, with a place of its own."""
        self._service.admit(self)
        self.take_place(cast("asyncio.Transport", transport))

    def take_place(self, transport: asyncio.Transport) -> None:
        """Begin in a place that the service has given, or has refused.

        Args:
            transport: the client's.
        """
        service = self._service
        self._transport = transport
        self._outlet = outlet = open_outlet(transport, service.output_limit)
        self.attach(service.http, outlet.sink, outlet.fd, service.pipeline_limit)
        self.since = self._flow.now
        if self not in service.refused:
            self.fast_path_ok = not service.draining
            return
        self._end_with(TOO_MANY)
        if service.crowded:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """End: let go of everything, so that no cycle is left."""
        self._let_go()
        self._closing = True
        self._stream.drop()

    # -- called by the worker ----------------------------------------------------------------------------

    @property
    def phase(self) -> Phase:
        """What it waits for."""
        transport = self._transport
        self._begun = self._begun or self.heard
        if transport is None:
            return Phase.CLOSING
        # First of all: output is still sent after close(), and takes its time.
        if self._owes_output:
            return Phase.OUTPUT
        if self._closing or transport.is_closing():
            return Phase.CLOSING
        if self._stream.in_body:
            return Phase.BODY
        if self._stream.in_head:
            return Phase.HEAD
        return Phase.IDLE if self._begun else Phase.FIRST_BYTE

    @property
    def progress(self) -> int:
        """Bytes of the body that have arrived, or of the output that the client has taken."""
        # A body may have begun to arrive behind a request whose reply still goes out.
        return self._outlet.taken_bytes if self._owes_output else self._stream.body_bytes

    @property
    def held_bytes(self) -> int:
        """Bytes that it keeps: replies that are not read, and what has arrived meanwhile."""
        fixed = self._outlet.fixed_bytes if self._holding or self._paused else 0
        return self._outlet.held_bytes + self._stream.held_bytes + fixed

    @property
    def missing_bytes(self) -> int:
        """Bytes of the body in progress that are still to come; at most, where it comes in chunks."""
        return self._stream.missing_bytes

    def cut(self) -> bool:
        """End it to make room: a body in progress is dropped and answered with 503.

        Returns:
            Whether all that it kept is out of memory.
        """
        if self.phase is not Phase.BODY:
            self.abort()
            return False
        self._stream.drop()
        self._end_with(NO_ROOM)
        self.resume()  # what still comes is thrown away
        return True

    @property
    def _input_closed(self) -> bool:
        """Whether the last reply was given."""
        return self._closing

    def expire(self, phase: Phase) -> None:
        """End it at its deadline: a request that has begun is answered with 408, the others are closed.

        Args:
            phase: what it has waited for too long.
        """
        if phase in (Phase.HEAD, Phase.BODY):
            self._end_with(TOO_SLOW)
        elif phase in (Phase.FIRST_BYTE, Phase.IDLE):
            self.close()
        else:
            self.abort()

    @property
    def idle(self) -> bool:
        """Whether no request has begun and no reply is due."""
        return self._stream.idle and not self._stalled

    def disable_fast_path(self) -> None:
        """Answer by the readable path alone, which closes connections while the worker drains."""
        self.fast_path_ok = False

    def close(self) -> None:
        """Close after what is due has gone out."""
        self._closing = True
        self.fast_path_ok = False
        self.since = self._flow.now
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once, whatever is due."""
        self._closing = True
        self.fast_path_ok = False
        if self._transport is not None:
            self._transport.abort()

    # -- reading -----------------------------------------------------------------------------------------

    def receive(self, data: bytes, at: int, more: int) -> None:
        """Read and answer all that is complete; an error ends this connection and no other.

        Args:
            data: what was received.
            at: where in it the first byte is that the core has not answered.
            more: what the core says of the message there, see `Receiver.receive`.
        """
        try:
            if not self._closing:
                self._process(data, at, more)
        except Exception as error:  # noqa: BLE001 - one connection's mistake must not reach the others
            self._service.failure(error)
            self.abort()

    def _process(self, data: bytes, at: int, more: int) -> None:
        service, stream = self._service, self._stream
        http = None if service.draining else service.http
        room = service.pipeline_limit
        declined = False  # the core has declined the next message
        replied = False
        if http is not None and self.fast_path_ok:
            # It was asked already; where it has not declined it has stopped at a bound.
            room = room - http.served if more else 0
            declined = more == DECLINED
            replied = http.served > 0
        stream.receive(data, at)
        if more > 0:
            stream.collect(more)
        out: list[Data] = []
        reply: Data
        due = self._resume_work(out)
        end = monotonic() + service.turn_seconds
        at_bound = room <= 0
        while stream.more and not (self._closing or self._stalled):
            if at_bound:
                self._counters[Column.PIPELINE_PAUSES] += due <= service.output_limit
                self._stall()
                break
            if http is not None and stream.at_boundary and not declined:
                reply, stream.at, more = http.serve(stream.data, stream.at, room)
                room = room - http.served if more else 0
                declined = more == DECLINED
                if more > 0:
                    stream.collect(more)
            else:
                reply = self._answer_next()
                room -= 1
                declined = False
            if reply:
                out.append(reply)
                due += len(reply)
            # Where the core has declined, nothing may have been done in this turn yet.
            over = monotonic() > end and not declined
            at_bound = due > service.output_limit or room <= 0 or over
        stream.keep()
        self._flush(out)
        if self._holding or not stream.at_rest:
            self._account_buffers(stream)
        if not (out or replied or stream.at_rest):
            # The client may keep the rest back until then.
            self._outlet.acknowledge()

    def _answer_next(self) -> Data:
        """Read on, up to the end of one message, and answer it.

        Returns:
            What goes out; b"" where more has to arrive first, or where the answer takes further turns.
        """
        stream = self._stream
        found = stream.next()
        if found is None:
            return b""
        if found is EXPECTING:
            return CONTINUE
        if isinstance(found, HttpError):
            return self.error_reply(found, stream.line, headless=stream.headless)
        return self.dispatch(*found)

    def _account_buffers(self, stream: RequestStream) -> None:
        """Start the clock of what has begun to arrive, and count what it takes beside unread replies."""
        if stream.began:
            stream.began = False
            self.since = self._flow.now
        held_before, self._holding = self._holding, stream.held_bytes >= _HOLD_FROM_BYTES
        if self._holding or self._paused:
            self._flow.hold(self, self.held_bytes)
            if stream.in_body and not self._paused:
                self._flow.wait(self)
        elif held_before:
            self._flow.release(self)

    # -- writing -----------------------------------------------------------------------------------------

    def _end_with(self, reply: Reply) -> None:
        """Write a last reply and close.

        Args:
            reply: the reply.
        """
        self.write(self._last(reply))
        self._close()

    def _flush(self, out: list[Data]) -> None:
        """Write what is due, in one call, and close if it was the last.

        Args:
            out: replies.
        """
        if out:
            self.write_any(out[0] if len(out) == 1 else b"".join(out))
        if self._closing:
            self._close()
        self.fast_path_ok = self._stream.at_rest and not (
            self._stalled or self._closing or self._service.draining
        )

    def _close(self) -> None:
        """Close after the last reply, in a way that lets the client read it."""
        self.fast_path_ok = False
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if self.successor is not None:
            self._hand_over(transport, self.successor)
            return
        self._stream.drop()
        self._linger(transport)

    def _hand_over(
        self, transport: asyncio.Transport, make_successor: Callable[[Service], Successor]
    ) -> None:
        """Leave everything to another protocol; for this one the connection has ended."""
        outlet = cast("Outlet", self._outlet)  # there is a transport
        handed = HandedOver(transport, outlet, self._stream.unread, self._paused, self._eof)
        self._stalled = False
        self._transport = None
        self._outlet = CLOSED
        self.detach()
        self._stream.drop()
        self.successor = None
        try:
            successor = make_successor(self._service)
            transport.set_protocol(cast("asyncio.Protocol", successor))
            self._service.replace(self, successor)
            transport.resume_reading()  # a stalled connection has paused it
            successor.take_over(handed)
        except Exception as error:  # noqa: BLE001 - one connection's mistake must not reach the others
            self._service.failure(error)
            transport.abort()
