"""One client's connection: bytes in, replies out, in order.

The way of a GET: ``data_received`` → ``FastParser.parse`` → ``Routes.get`` → ``Store.get`` →
``value_reply`` → ``transport.write``; and where the same bytes were answered before, memo → one read of the
arena → write.

This is the only module that sees both the transport and the store's side. Nothing is raised out of a
callback; there is no task, future or queue on the way of a request.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, cast

from fastkv.flow import Phase, bytes_acked
from fastkv.http.fast import DECLINED, NEED_DATA, Outcome, Parsed
from fastkv.http.request import CLOSE, KEEP_ALIVE, HttpError
from fastkv.http.responses import CONTINUE, TOO_SLOW, Reply, without_body
from fastkv.stats import Column
from fastkv.store.layout import COUNT_MAX

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastkv.http.full import FullParser
    from fastkv.http.request import Head
    from fastkv.service import Service

# Less than this is not worth the count: it is bounded by the number of connections.
_HOLD_FROM_BYTES: Final = 4 << 10


class Connection(asyncio.Protocol):
    """A client's connection.

    Attributes:
        answers_together: whether pipelined requests may be answered by one call into the store.
        heard: something has arrived since the last sweep.
        since: when its phase began.
    """

    answers_together = True

    __slots__ = (
        "_at_rest",
        "_begun",
        "_body",
        "_closing",
        "_counters",
        "_counts",
        "_eof",
        "_flow",
        "_full",
        "_handlers",
        "_keep_alive",
        "_offer",
        "_parse",
        "_paused",
        "_pending",
        "_recall",
        "_routes",
        "_service",
        "_stalled",
        "_transport",
        "_unread",
        "_words",
        "_write",
        "heard",
        "since",
    )

    def __init__(self, service: Service) -> None:
        """Make the protocol of a connection to be.

        Args:
            service: what it shares with the worker's others.
        """
        # Process: bound once for the way of a remembered request.
        self._service = service
        self._flow = service.flow
        self._words = service.store.words
        self._counts = service.store.counts
        self._counters = service.counters
        self._recall = service.memo.get
        self._offer = service.memo.offer
        self._parse = service.fast.parse
        self._routes = service.routes
        self._handlers = service.routes.handlers
        self._keep_alive = service.preludes.kinds[KEEP_ALIVE]
        # Connection.
        self._transport: asyncio.Transport | None = None
        self._closing = False  # nothing that arrives is read as a request any more
        self._eof = False  # the client has said all
        self._paused = False  # the transport takes no more output
        self._stalled = False  # there are requests that wait for output to go out
        self._at_rest = False  # on a message boundary, and nothing is in the way
        self._begun = False  # the client has said something
        self.heard = False
        self.since = 0.0
        # Request.
        self._unread = b""  # received, not parsed
        self._pending: tuple[bytes, Head, int] | None = None  # line, head and length of a body that arrives
        self._body = bytearray()
        self._full: FullParser | None = None

    # -- callbacks of the event loop ---------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        service = self._service
        self._transport = cast("asyncio.Transport", transport)
        self._write: Callable[[bytes], None] = self._transport.write
        self._transport.set_write_buffer_limits(service.output_limit)
        self.since = self._flow.now
        refusal = service.admit(self)
        if refusal is not None:
            self._end_with(refusal)
            if service.crowded:
                self.close()
            return
        self._at_rest = not service.draining

    def connection_lost(self, exc: Exception | None) -> None:
        """End: let go of everything, so that no cycle is left."""
        self._service.forget(self)
        self._at_rest = False
        self._closing = True
        self._transport = self._full = self._pending = None
        self._write = _write_nowhere
        self._unread = b""
        self._body = bytearray()

    def data_received(self, data: bytes) -> None:
        """Answer one whole request, remembered or parsed; leave all else to ``_receive``."""
        self.heard = True
        parsed = None
        if self._at_rest:
            remembered = self._recall(data)
            if remembered is not None:
                slot, word, count_at, tail = remembered
                if self._words[slot] == word:
                    self._counters[_MEMO_HITS] += 1
                    if self._counts[count_at] < COUNT_MAX:
                        self._counts[count_at] += 1
                    self._write(self._keep_alive[200] + tail)
                    return
            parsed = self._parse(data)
            if parsed.__class__ is tuple:
                lines, head, body, used = parsed
                if used == len(data) and len(lines) == 1 and body is not None:
                    reply = self._answer(lines[0], head, body)
                    self._write(reply)
                    if self._routes.source is not None:
                        if head.memoable:
                            self._offer(data, reply, self._routes.source)
                        self._routes.source = None
                    if self._closing:
                        self._close()
                    return
        self._receive(data, parsed)

    def eof_received(self) -> bool:
        """The client will send no more, but may still read what it asked for.

        Returns:
            True while replies are due.
        """
        self._eof = True
        return self._stalled

    def pause_writing(self) -> None:
        """The client does not read: leave its requests where they are."""
        self._counters[Column.OUTPUT_PAUSES] += 1
        self._paused = True
        self._stall()
        if self._transport is not None:
            self._flow.hold(self, self._transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """The client has read: go on."""
        self._paused = False
        self._flow.release(self)
        self._go_on()

    # -- called by the worker ----------------------------------------------------------------------------

    @property
    def phase(self) -> Phase:
        """What it waits for."""
        transport = self._transport
        self._begun = self._begun or self.heard
        if transport is None or transport.is_closing():
            return Phase.CLOSING
        if self._paused or transport.get_write_buffer_size():
            return Phase.OUTPUT
        if self._closing:
            return Phase.CLOSING
        if self._pending is not None or (self._full is not None and self._full.in_body):
            return Phase.BODY
        if (self._full is not None and self._full.in_head) or (self._unread and not self._stalled):
            return Phase.HEAD
        return Phase.IDLE if self._begun else Phase.FIRST_BYTE

    @property
    def progress(self) -> int:
        """Bytes of the body that have arrived, or of the output that the client has taken."""
        transport = self._transport
        if self._pending is not None:
            return len(self._body)
        if self._full is not None and self._full.in_body:
            return self._full.body_bytes
        if transport is None:
            return 0
        # Where the kernel does not tell, what has left the transport.
        return bytes_acked(transport.get_extra_info("socket")) or -transport.get_write_buffer_size()

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
        return not (self._unread or self._stalled or self._pending is not None or self._full is not None)

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
        if self._stalled:
            self._unread += data  # one read event at most: reading is paused
            return
        out: list[bytes] = []
        began = bool(self._unread)  # a head of which some had arrived before
        room = self._service.pipeline_limit
        if self._full is not None:
            data = self._read_full(self._full, data, out)
        elif self._pending is not None:
            data = self._collect(self._pending, data, out)
        elif self._unread:
            data = self._unread + data
            self._unread = b""
        due = 0
        while data and not (self._closing or self._stalled):
            found = parsed or self._parse(data)
            parsed = None
            if found is NEED_DATA:
                self._unread = data
                self._start_clock(began, out)
                break
            if found is DECLINED:
                self._full = self._service.full_parser()
                self._start_clock(began, out)
                data = self._read_full(self._full, data, out)
                continue
            lines, head, body, used = found
            if body is None:
                self._pending = lines[0], head, head.content_length
                self._start_clock(False, out)
                data = self._collect(self._pending, data[used:], out)
                continue
            if len(lines) > room:
                used = (used - sum(map(len, lines))) // len(lines) * room + sum(map(len, lines[:room]))
                lines = lines[:room]
            room -= len(lines)
            answered = len(out)
            self._routes.source = None  # whatever was answered before, it is not the batch's
            if len(lines) > 1:
                data = self._answer_batch(lines, head, data, used, out)
            else:
                out.append(self._answer(lines[0], head, body))
                data = data[used:]
            if data:
                due += sum(map(len, out[answered:]))
                if due > self._service.output_limit or not room:
                    self._unread = data
                    self._stall()
        self._routes.source = None
        self._flush(out)

    def _collect(self, pending: tuple[bytes, Head, int], data: bytes, out: list[bytes]) -> bytes:
        """Take what belongs to the body that is due, and answer its request if it is complete.

        Args:
            pending: line, head and length of the body.
            data: what was received.
            out: where the reply goes.

        Returns:
            What follows the body.
        """
        line, head, length = pending
        missing = length - len(self._body)
        self._body += data[:missing]
        if len(self._body) < length:
            if len(self._body) >= _HOLD_FROM_BYTES:
                self._flow.hold(self, len(self._body))
            return b""
        self._flow.release(self)
        body = bytes(self._body)
        self._body = bytearray()
        self._pending = None
        out.append(self._answer(line, head, body))
        return data[missing:]

    def _start_clock(self, began: bool, out: list[bytes]) -> None:
        """The time of a head or a body begins, unless it is the one that was waited for before.

        Args:
            began: whether some of it had arrived before this read event.
            out: replies of this read event; what is behind them is new.
        """
        if out or not began:
            self.since = self._flow.now

    def _answer_batch(
        self, lines: list[bytes], head: Head, data: bytes, used: int, out: list[bytes]
    ) -> bytes:
        """Answer pipelined requests that share a header section.

        The memo knows requests one by one. Whether it is worth asking, the first of a batch tells: for
        requests that rarely repeat, asking for each would cost 7%.

        Args:
            lines: their lines.
            head: what they share.
            data: what they were parsed from.
            used: how much of it they took.
            out: where replies go.

        Returns:
            What is left of data: all from the first request on that could not be answered yet.
        """
        routes = self._routes
        joint = (used - sum(map(len, lines))) // len(lines)
        rest = data[len(lines[0]) : len(lines[0]) + joint]
        memoable = head.memoable and not self._service.draining
        known = memoable and self._recall(lines[0] + rest) is not None
        if memoable and not known and self.answers_together:
            replies = routes.get_batch(lines, self._keep_alive)
            if replies is not None:
                if routes.source is not None:
                    self._offer(lines[0] + rest, replies[0], routes.source)
                    routes.source = None
                out += replies
                return data[used:]
        due, at = 0, 0
        for line in lines:
            at += len(line) + joint
            remembered = self._recall(line + rest) if known else None
            if remembered is not None and self._words[remembered[0]] == remembered[1]:
                _, _, count_at, tail = remembered
                self._counters[_MEMO_HITS] += 1
                if self._counts[count_at] < COUNT_MAX:
                    self._counts[count_at] += 1
                reply = self._keep_alive[200] + tail
            else:
                reply = self._answer(line, head, b"")
                if routes.source is not None:
                    if known:
                        self._offer(line + rest, reply, routes.source)
                    routes.source = None
            out.append(reply)
            due += len(reply)
            if self._closing:
                return b""
            if due > self._service.output_limit and at < used:
                self._unread = data[at:]
                self._stall()
                return b""
        return data[used:]

    def _read_full(self, full: FullParser, data: bytes, out: list[bytes]) -> bytes:
        """Let the full parser read on, and answer what it completes.

        Args:
            full: the parser.
            data: what was received; empty to go on with what it has.
            out: where replies go.

        Returns:
            Always nothing: all input is the full parser's until a read begins on a message boundary.
        """
        before = full.in_head, full.in_body
        if data:
            full.feed(data)
        if full.messages or before != (full.in_head, full.in_body):
            self._start_clock(False, out)
        due = 0
        room = self._service.pipeline_limit
        while full.messages and not self._closing:
            line, head, body = full.messages.popleft()
            out.append(self._answer(line, head, body))
            due += len(out[-1])
            room -= 1
            if full.messages and (due > self._service.output_limit or not room):
                self._stall()
                return b""
        if self._closing:
            return b""
        if full.buffered_bytes >= _HOLD_FROM_BYTES:
            self._flow.hold(self, full.buffered_bytes)
        else:
            self._flow.release(self)
        if full.error is not None:
            out.append(self._error(full.error))
            self._closing = True
        elif full.take_expecting():
            out.append(CONTINUE)
        elif full.at_boundary:
            self._full = None
        return b""

    # -- answering ---------------------------------------------------------------------------------------

    def _answer(self, line: bytes, head: Head, body: bytes) -> bytes:
        """Answer one request.

        Args:
            line: method, space and target.
            head: its header section.
            body: its body.

        Returns:
            The reply.
        """
        route, _, query = line.partition(b"?")
        try:
            handler = self._handlers.get(route)
            if handler is None:
                handler = self._routes.find(route)
            status, tail = handler(query, head, body)
        except Exception as error:  # noqa: BLE001 - whatever it is, the client gets a reply
            (status, tail), last = self._service.failure(error)
            self._closing = self._closing or last
            if line.startswith(b"HEAD "):
                status, tail = without_body((status, tail))
        if head.persistence == KEEP_ALIVE and not self._service.draining and not self._closing:
            return self._keep_alive[status] + tail
        persistence = CLOSE if self._service.draining or self._closing else head.persistence
        if persistence == CLOSE:
            self._closing = True
        return self._service.preludes.kinds[persistence][status] + tail

    def _error(self, error: HttpError) -> bytes:
        """The reply to what could not be read as a request; the last one."""
        (status, tail), _ = self._service.failure(error)
        return self._service.preludes.kinds[CLOSE][status] + tail

    def _end_with(self, reply: Reply) -> None:
        """Write a last reply and close.

        Args:
            reply: the reply.
        """
        status, tail = reply
        self._closing = True
        self._write(self._service.preludes.kinds[CLOSE][status] + tail)
        self._close()

    # -- writing -----------------------------------------------------------------------------------------

    def _flush(self, out: list[bytes]) -> None:
        """Write what is due, in one call, and close if it was the last.

        Args:
            out: replies.
        """
        if out:
            self._write(b"".join(out))
        if self._closing:
            self._close()
        self._at_rest = self.idle and not (self._closing or self._service.draining)

    def _close(self) -> None:
        """Close after the last reply, in a way that lets the client read it."""
        self._at_rest = False
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        self._unread = b""
        if self._eof or not transport.can_write_eof():
            transport.close()
            return
        # What the client still sends is read and thrown away for a while, so that it can read the reply:
        # closing with unread input would reset the connection under it (RFC 9112, 9.6).
        self.since = self._flow.now
        transport.write_eof()
        if self._stalled:
            self._stalled = False
            transport.resume_reading()

    def _stall(self) -> None:
        """Read and answer no more until output has gone out."""
        transport = self._transport
        self._at_rest = False
        if self._stalled or self._closing or transport is None or transport.is_closing():
            return
        self._stalled = True
        transport.pause_reading()
        # Everybody else has a turn before this connection goes on.
        asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        """Go on with requests that had to wait, if the transport takes output again."""
        transport = self._transport
        if self._paused or not self._stalled or transport is None or transport.is_closing():
            return
        self._stalled = False
        data, self._unread = self._unread, b""
        self._at_rest = False
        self._receive(data)
        if self._stalled or self._closing:
            return
        transport.resume_reading()
        if self._eof:
            transport.close()


_MEMO_HITS: Final = int(Column.MEMO_HITS)


def _write_nowhere(data: bytes) -> None:
    """Stands in for a transport that is gone."""
