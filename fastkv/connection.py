"""One client's connection: bytes in, replies out, in order.

The way of a GET: ``data_received`` → ``get_plain`` → ``Store.get`` → ``transport.write``, or memo → one
read of the arena → write where the same line was answered before. That is for who repeats a header section,
as clients do, and ``_answer_together`` is the same for a pipeline. All others go by ``FastParser.parse`` →
``_answer`` → ``Routes.get`` → ``Store.get`` → ``value_reply``, which is the readable twin.

This is the only module that sees both the transport and the store's side: `fastkv.outlet` has the former's,
`fastkv.answering` the latter's. Nothing is raised out of a callback; there is no task, future or queue on the
way of a request.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Final, cast

from fastkv.answering import Answering
from fastkv.flow import Phase
from fastkv.http.request import HttpError
from fastkv.http.responses import CONTINUE, NO_ROOM, TOO_MANY, TOO_SLOW, Reply
from fastkv.http.stream import EXPECTING, RequestStream
from fastkv.outlet import CLOSED, LARGE_BYTES, open_outlet
from fastkv.stats import MEMO_HIT, Column
from fastkv.store.layout import COUNT_MAX
from fastkv.takeover import HandedOver

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from fastkv.http.fast import Outcome, Parsed
    from fastkv.http.request import Head
    from fastkv.outlet import Outlet
    from fastkv.service import Service
    from fastkv.takeover import Successor

# Less than this is not worth the count: it is bounded by the number of connections.
_HOLD_FROM_BYTES: Final = 4 << 10


class Connection(Answering):
    """A client's connection."""

    __slots__ = ("_begun", "_holding", "_parse", "_stream")

    def __init__(self, service: Service) -> None:
        """Make the protocol of a connection to be.

        Args:
            service: what it shares with the worker's others.
        """
        super().__init__(service)
        self._parse = service.fast.parse
        self._stream = RequestStream(service.fast, service.full_parser, service.judge)
        self._holding = False  # what it has received counts as memory held
        self._begun = False  # the client has said something

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
        self._outlet = open_outlet(transport, service.output_limit)
        self._write = self._outlet.write
        self.since = self._flow.now
        if self not in service.refused:
            self._at_rest = not service.draining
            return
        self._end_with(TOO_MANY)
        if service.crowded:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """End: let go of everything, so that no cycle is left."""
        self._let_go()
        self._closing = True
        self._stream.drop()

    def data_received(self, data: bytes) -> None:
        """Answer one whole request, remembered, known or parsed; leave all else to ``_receive``."""
        self.heard = True
        parsed = None
        if self._at_rest:
            # Clients repeat their header section. What is left without it is the line of a request that
            # was answered before, or of a GET by key, or has to be parsed after all. With a body behind it
            # nothing is left away, and it may be a PUT.
            line = data.removesuffix(self._tail)
            if line is not data:
                # What is called is loaded first: CPython 3.11 takes a slot for a method, 20 ns more.
                recall, write = self._recall, self._write
                remembered = recall(line)
                if remembered is not None:
                    slot, word, count_at, tail = remembered
                    if self._words[slot] == word:
                        self._tally[MEMO_HIT] += 1
                        if self._counts[count_at] < COUNT_MAX:
                            self._counts[count_at] += 1
                        write(self._keep_alive[200] + tail)
                        return
                answer = self._plain
            else:
                write, answer = self._write, self._put
            try:
                reply = answer(line)
                if reply is None and line is not data and line.find(self._tail) > 0:
                    reply = self._answer_together(data, line)
                    if reply is not None and len(reply) > LARGE_BYTES:
                        write = self._write_any
            except Exception as error:  # noqa: BLE001 - whatever it is, the client gets a reply
                reply = self._apologize(error, line)
            if reply is not None:
                source = self._routes.source
                if source is None:
                    write(reply)
                    if self._closing:
                        self._close()
                    return
                # One in some, and all that may be large: to look at each length takes 1.2% of a GET.
                self._routes.source = None
                if len(reply) > LARGE_BYTES:
                    write = self._write_any
                write(reply)
                self._offer(line, reply, source)
                return
            parsed = self._parse(data)
            if parsed.__class__ is tuple:
                lines, head, body, used = parsed
                if used == len(data) and body is not None:
                    if head.tail and self.answers_shortly:
                        self._tail = head.tail
                    if len(lines) == 1:
                        self._finish(lines[0], head, self._answer(lines[0], head, body))
                        return
        self._receive(data, parsed)

    # -- called by the worker ----------------------------------------------------------------------------

    @property
    def phase(self) -> Phase:
        """What it waits for."""
        transport = self._transport
        self._begun = self._begun or self.heard
        if transport is None:
            return Phase.CLOSING
        # Before all else: what was written goes out after close(), too, and takes its time.
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
    def _is_deaf(self) -> bool:
        """Whether the last reply was given."""
        return self._closing

    def expire(self, phase: Phase) -> None:
        """Its time is up: a request that has begun is answered with 408, the others are closed.

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

    def leave_rest(self) -> None:
        """Look at what every request says of its connection; the memo does not."""
        self._at_rest = False

    def close(self) -> None:
        """Close after what is due has gone out."""
        self._closing = True
        self.since = self._flow.now
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once, whatever is due."""
        self._closing = True
        if self._transport is not None:
            self._transport.abort()

    # -- reading -----------------------------------------------------------------------------------------

    def _receive(self, data: bytes, parsed: Parsed | Outcome | None = None) -> None:
        """Parse and answer all that is complete; whatever goes wrong ends this connection and no other.

        Args:
            data: what was received.
            parsed: what the fast parser says of it, None if it was not asked.
        """
        try:
            if not self._closing:
                self._process(data, parsed)
        except Exception as error:  # noqa: BLE001 - one connection's mistake must not reach the others
            self._service.failure(error)
            self.abort()

    def _process(self, data: bytes, parsed: Parsed | Outcome | None) -> None:
        stream = self._stream
        stream.receive(data, parsed)
        out: list[bytes] = []
        due, room = self._resume_work(out), self._service.pipeline_limit
        end = monotonic() + self._service.turn_seconds
        while not (self._closing or self._stalled):
            found = stream.next(room)
            if found is None:
                if stream.behind:
                    self._stall()
                break
            if found is EXPECTING:
                out.append(CONTINUE)
                continue
            if isinstance(found, HttpError):
                out.append(self._error(found, stream.line, stream.headless))
                break
            lines, head, body, rest = found
            self._routes.source = None  # whatever was answered before, it is not the batch's
            if len(lines) > 1:
                size, unanswered = self._answer_batch(lines, head, out)
                due += size
                if unanswered:
                    stream.give_back(rest.join((*unanswered, b"")))
            else:
                # What the full parser has read nobody has asked yet whether its sender may speak.
                out.append((self._answer if rest else self._admit)(lines[0], head, body))
                due += len(out[-1])
            room -= len(lines)
            if stream.more and (due > self._service.output_limit or room <= 0 or monotonic() > end):
                self._counters[Column.PIPELINE_PAUSES] += due <= self._service.output_limit
                self._stall()
        self._routes.source = None
        self._flush(out)
        if self._holding or not stream.at_rest:
            self._take_stock(stream)
        if not out and not stream.at_rest:
            # The client may keep the rest back until then.
            self._outlet.acknowledge()

    def _take_stock(self, stream: RequestStream) -> None:
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
        self._write(self._last(reply))
        self._close()

    def _finish(self, line: bytes, head: Head, reply: bytes) -> None:
        """Write the reply to a request that came alone, and close if it was the last.

        Args:
            line: the request's.
            head: its header section.
            reply: the reply.
        """
        if len(reply) > LARGE_BYTES:
            self._outlet.write_large(reply)
        else:
            self._write(reply)
        source = self._routes.source
        if source is not None:
            self._routes.source = None
            if head.tail:
                self._offer(line, reply, source)
        if self._closing:
            self._close()

    def _flush(self, out: list[bytes]) -> None:
        """Write what is due, in one call, and close if it was the last.

        Args:
            out: replies.
        """
        if out:
            self._write_any(b"".join(out))
        if self._closing:
            self._close()
        self._at_rest = self._stream.at_rest and not (
            self._stalled or self._closing or self._service.draining
        )

    def _close(self) -> None:
        """Close after the last reply, in a way that lets the client read it."""
        self._at_rest = False
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
        self._write = CLOSED.write
        self._stream.drop()
        self.successor = None
        try:
            successor = make_successor(self._service)
            transport.set_protocol(cast("asyncio.Protocol", successor))
            self._service.replace(self, successor)
            transport.resume_reading()  # who stalled does not go on
            successor.take_over(handed)
        except Exception as error:  # noqa: BLE001 - one connection's mistake must not reach the others
            self._service.failure(error)
            transport.abort()
