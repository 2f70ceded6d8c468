"""A WebSocket's life: frames in, frames out, in order, from the handshake to the end (RFC 6455).

In: the transport of a connection that has answered 101. Out: what `WebSocket._answer` says to each message.
The short way, ``_process`` and `frames.parse`, reads whole messages; any other frame goes, alone, through the
sans-I/O protocol of `websockets`: fragments, compression, control frames, and whatever is wrong.

Nothing is raised out of a callback; there is no task, future or queue on the way of a message.
"""

from __future__ import annotations

import codecs
import logging
from time import monotonic
from typing import TYPE_CHECKING, Final, cast

from websockets.exceptions import PayloadTooBig, ProtocolError
from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import OPEN, Protocol, Side

from fastkv.flow import Phase
from fastkv.receiver import DECLINED
from fastkv.stalling import Stalling
from fastkv.stats import Column
from fastkv.steps import Unfinished
from fastkv.ws import frames

if TYPE_CHECKING:
    from collections.abc import Sequence

    from websockets.extensions import Extension

    from fastkv.core.frames import TextFrames
    from fastkv.receiver import Data
    from fastkv.service import Service
    from fastkv.steps import Steps
    from fastkv.takeover import HandedOver

# What is longer is worth compressing for a client that wants it so.
DEFLATE_FROM_BYTES: Final = 1 << 10
MAX_EMPTY_FRAGMENTS: Final = 1000
"""How many fragments of one message may add nothing to it: each costs work and brings its end no nearer."""
HOLD_FROM_BYTES: Final = 4 << 10
"""Less than this is not worth the count: it is bounded by the number of connections."""

# The library's own lines, one for each connection, would say nothing that is of use to anyone.
_quiet = logging.getLogger("fastkv.websockets")
_quiet.setLevel(logging.CRITICAL)


class Refused(Exception):
    """A message ends its connection.

    Attributes:
        code: of the close frame.
        reason: its reason, at most 123 bytes of UTF-8.
        reply: a frame that goes out before.
    """

    def __init__(self, code: CloseCode, reason: str, reply: bytes = b"") -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason
        self.reply = reply


class WebSocket(Stalling):
    """What takes a connection's transport over; `_answer` is left to subclasses."""

    __slots__ = (
        "_closing",
        "_deaf",
        "_empty",
        "_first",
        "_framing",
        "_longest",
        "_message",
        "_missing",
        "_partial",
        "_pinged",
        "_protocol",
        "_text",
        "_unread",
    )

    def __init__(self, service: Service, extensions: Sequence[Extension] = ()) -> None:
        """Make a session to be.

        Args:
            service: what it shares with the worker's other connections.
            extensions: what the handshake has agreed.
        """
        super().__init__(service)
        self._longest = service.message_limit
        self._closing = False  # no message is answered any more
        self._deaf = False  # and nothing is read
        self._pinged = False  # the client was asked whether it is still there
        self.heard = True
        self.since = self._flow.now
        # Messages.
        self._unread = b""  # received, not parsed
        self._missing = 0  # bytes of a frame that the protocol waits for
        self._partial = 0  # bytes of that frame which have arrived
        self._first = 0  # what a fragmented message would begin with if it came whole
        self._message = bytearray()  # what there is of it
        self._empty = 0  # fragments that have added nothing to it
        self._text: codecs.IncrementalDecoder | None = None  # sees to it that it is UTF-8
        self._protocol = Protocol(Side.SERVER, state=OPEN, max_size=self._longest, logger=_quiet)
        self._protocol.extensions = list(extensions)
        # The compiled path, which compresses nothing; of subclasses whose messages it understands.
        self._framing: TextFrames | None = None

    def _answer(self, first: int, payload: bytes) -> bytes:
        """Answer a message.

        Args:
            first: `frames.TEXT` or `frames.BINARY`.
            payload: the message; whether a text is UTF-8 nobody has looked.

        Returns:
            A frame or none, see `_frame`.

        Raises:
            UnicodeDecodeError: the text is none.
            Refused: the connection has to end.
            Unfinished: the frame takes steps, which may raise the two above.
        """
        raise NotImplementedError

    def _frame(self, first: int, payload: bytes) -> bytes:
        """Build the frame of a reply, compressed where that was agreed and is worth it."""
        if len(payload) >= DEFLATE_FROM_BYTES and self._protocol.extensions:
            opcode = Opcode.TEXT if first == frames.TEXT else Opcode.BINARY
            return Frame(opcode, payload).serialize(mask=False, extensions=self._protocol.extensions)
        return frames.build(first, payload)

    # -- callbacks of the event loop ---------------------------------------------------------------------

    def take_over(self, handed: HandedOver) -> None:
        """Begin, with what the client has sent behind its handshake."""
        self._transport = handed.transport
        self._outlet = outlet = handed.outlet
        self.attach(self._framing, outlet.sink, outlet.fd, self._service.pipeline_limit)
        self._eof = handed.eof
        self.since = self._flow.now
        if handed.paused:
            self._paused = True
            self._flow.hold(self, self.held_bytes)
            self._unread = handed.unread
            self._stall()
            return
        self.receive(handed.unread, 0, DECLINED)
        if self._eof and not self._stalled:
            handed.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """End: let go of everything, so that no cycle is left."""
        self._let_go()
        self._closing = self._deaf = True
        self._unread = b""
        self._message = bytearray()
        # Its parser is a generator that knows it.
        self._protocol.parser.close()
        del self._protocol.parser

    # -- called by the worker ----------------------------------------------------------------------------

    @property
    def phase(self) -> Phase:
        """What it waits for."""
        transport = self._transport
        if transport is None:
            return Phase.CLOSING
        if self._owes_output:
            return Phase.OUTPUT
        if self._closing or transport.is_closing():
            return Phase.CLOSING
        if self._in_message:
            return Phase.BODY
        if self._pinged and not self.heard:
            return Phase.PONG
        self._pinged = False
        return Phase.QUIET

    @property
    def progress(self) -> int:
        """Bytes of the message that have arrived, or of the output that the client has taken."""
        # Headers, control frames and fragments that inflate to nothing bring a message no nearer to its end.
        return self._outlet.taken_bytes if self._owes_output else self._arriving_bytes

    @property
    def held_bytes(self) -> int:
        """Bytes that it keeps: replies that are not read, and what has arrived meanwhile."""
        # Not what has arrived: fragments may be empty or compressed, and pings come between them.
        arriving = self._arriving_bytes
        fixed = self._outlet.fixed_bytes if self._paused or arriving >= HOLD_FROM_BYTES else 0
        return self._outlet.held_bytes + len(self._unread) + arriving + fixed

    @property
    def _arriving_bytes(self) -> int:
        """Bytes that are kept of the message under way."""
        return self._partial + len(self._message)

    def expire(self, phase: Phase) -> None:
        """Its time is up: a silent client is asked whether it is still there, others are closed.

        Args:
            phase: what it has waited for too long.
        """
        if phase is Phase.QUIET:
            self._pinged = True
            self.since = self._flow.now
            self.write(frames.PING)
        elif phase is Phase.PONG:
            self._end_with(CloseCode.POLICY_VIOLATION, "The ping was not answered in time.")
        elif phase is Phase.BODY:
            self._end_with(CloseCode.POLICY_VIOLATION, "The message did not arrive in time.")
        else:
            self.abort()

    @property
    def _input_closed(self) -> bool:
        """Whether nothing is read any more."""
        return self._deaf

    @property
    def idle(self) -> bool:
        """Whether no message has begun and no reply is due."""
        return not self._stalled and not self._in_message

    def disable_fast_path(self) -> None:
        """The next reply is the last: the service says that it drains."""
        self.fast_path_ok = False

    def close(self) -> None:
        """Begin the closing handshake: the server goes away (RFC 6455, 7.4.1)."""
        if not self._closing:
            self._begin_to_close(CloseCode.GOING_AWAY, "The server is going away.")

    def abort(self) -> None:
        """Close at once, whatever is due."""
        self._closing = self._deaf = True
        self.fast_path_ok = False
        if self._transport is not None:
            self._transport.abort()

    @property
    def _in_message(self) -> bool:
        """Whether a message or a control frame has begun to arrive."""
        return bool(self._missing or self._unread or self._protocol.current_size is not None)

    # -- reading -----------------------------------------------------------------------------------------

    def receive(self, data: bytes, at: int, more: int) -> None:
        """Parse and answer all that is complete; whatever goes wrong ends this connection and no other.

        Args:
            data: what was received.
            at: where in it the first byte is that was not answered.
            more: what the core says of the message there, see `Receiver.receive`.
        """
        if self._deaf:
            return
        try:
            in_message = self._in_message
            self._unread = self._unread + data[at:] if self._unread else data[at:]
            ended = self._process(more)
            if self._in_message or in_message:
                self._account_buffers(begun=ended or not in_message)
        except Exception as error:  # noqa: BLE001 - one connection's mistake must not reach the others
            self._service.failure(error)
            self.abort()

    @property
    def _keeps_state(self) -> bool:
        """Whether the answer to a message depends on those before."""
        return False

    @property
    def _is_ordinary(self) -> bool:
        """Whether the core may be asked for the next message, where a frame begins."""
        return not (
            self._missing
            or self._protocol.current_size is not None
            or self._closing
            or self._keeps_state
            or self._service.draining
        )

    def _process(self, more: int) -> bool:
        """Answer what is complete.

        Args:
            more: what the core says of the first message.

        Returns:
            Whether a message has ended.
        """
        data, at = self._unread, 0
        ended = declined = False
        out: list[Data] = []
        framing, room = self._framing, self._service.pipeline_limit
        if framing is not None and self.fast_path_ok:
            # It was asked already; where it has not declined it has stopped at a bound.
            room -= framing.served
            declined = more == DECLINED
            if not declined:
                self._counters[Column.PIPELINE_PAUSES] += 1
                self._stall()
        due = self._resume_work(out)
        end = monotonic() + self._service.turn_seconds
        while not (self._deaf or self._stalled):
            found = None
            if framing is not None and not declined and at < len(data) and self._is_ordinary:
                reply, at, more = framing.serve(data, at, room)
                room -= framing.served
                declined = more == DECLINED
                if reply:
                    out.append(reply)
                    due += len(reply)
                    ended = True
                if at == len(data):
                    break
                if not declined:
                    self._counters[Column.PIPELINE_PAUSES] += due <= self._service.output_limit
                    self._stall()
                    break
            if not self._missing:
                if self._protocol.current_size is None and not self._closing:
                    found = frames.parse(data, at, self._longest)
                if found is None:
                    size = frames.measure(data, at)
                    if size is None:
                        break
                    if frames.is_padded(data, at):
                        out.append(self._refuse(CloseCode.PROTOCOL_ERROR, _PADDED))
                        break
                    self._missing = size
                    if data[at] & _OPCODE == Opcode.CLOSE:
                        # It may come between fragments (RFC 6455, 5.4), which the library does not expect.
                        self._protocol.current_size = None
            elif at == len(data):
                break
            known = len(out)
            if found is not None:
                first, payload, at = found
                ended = True
                out.append(self._reply(first, payload))
            else:
                chunk = data[at : at + self._missing]
                at += len(chunk)
                self._missing -= len(chunk)
                self._partial = self._partial + len(chunk) if self._missing else 0
                self._feed(chunk, out)
                if not self._missing and self._protocol.current_size is None:
                    ended = True
            due += sum(map(len, out[known:]))
            room -= 1
            declined = False
            if at < len(data) and (due > self._service.output_limit or room <= 0 or monotonic() > end):
                self._counters[Column.PIPELINE_PAUSES] += due <= self._service.output_limit
                self._stall()
        self._unread = data[at:]
        self._flush(out)
        if not out and self._in_message:
            # The client may keep the rest back until then.
            self._outlet.acknowledge()
        self.fast_path_ok = self._is_ordinary and not (
            self._unread or self._deaf or self._stalled or self._paused or self._eof
        )
        return ended

    def _feed(self, chunk: bytes, out: list[Data]) -> None:
        """Let the protocol read a frame, or a part of one.

        Args:
            chunk: bytes up to the end of a frame, at most.
            out: where replies go.
        """
        protocol = self._protocol
        protocol.receive_data(chunk)
        writes = protocol.data_to_send()
        for event in protocol.events_received():
            frame = cast("Frame", event)
            if frame.opcode is Opcode.PING:
                pong = writes.pop(0)
                if not self._closing:
                    out.append(pong)
            elif frame.opcode in _DATA and not self._closing:
                self._take(frame, out)
        if self._deaf:
            return
        if protocol.parser_exc is not None:
            self._count(protocol.parser_exc)
        out += filter(None, writes)
        if protocol.eof_sent:
            self._closing = self._deaf = True

    def _count(self, error: Exception) -> None:
        """Count what the protocol has failed the connection for."""
        if isinstance(error, PayloadTooBig):
            self._counters[Column.MESSAGE_TOO_LONG] += 1
        elif isinstance(error, ProtocolError | UnicodeDecodeError):
            self._counters[Column.BAD_MESSAGES] += 1
        else:
            self._service.failure(error)

    def _take(self, frame: Frame, out: list[Data]) -> None:
        """Take a message or a part of one."""
        if frame.opcode is not Opcode.CONT:
            first = frames.TEXT if frame.opcode is Opcode.TEXT else frames.BINARY
            if frame.fin:
                out.append(self._reply(first, bytes(frame.data)))
                return
            self._first = first
            self._empty = 0
            self._text = _make_decoder() if first == frames.TEXT else None
        if not (frame.data or frame.fin):
            self._empty += 1
            if self._empty > MAX_EMPTY_FRAGMENTS:
                out.append(self._refuse(CloseCode.POLICY_VIOLATION, _TOO_EMPTY))
                return
        if self._text is not None:
            # At once, not when all is there: of a long message it may be the beginning that is wrong.
            try:
                self._text.decode(frame.data, frame.fin)
            except UnicodeDecodeError:
                out.append(self._refuse(CloseCode.INVALID_DATA, _NO_TEXT))
                return
        self._message += frame.data
        if frame.fin:
            payload = bytes(self._message)
            self._message = bytearray()
            out.append(self._reply(self._first, payload))

    def _reply(self, first: int, payload: bytes) -> Data:
        """Answer a message; whatever goes wrong ends the connection."""
        self._counters[_MESSAGES] += 1
        try:
            return self._answer(first, payload)
        except Unfinished as unfinished:
            return self._begin_work(self._in_steps(unfinished.steps))
        except (UnicodeDecodeError, Refused) as error:
            return self._refusal(error)

    def _in_steps(self, steps: Steps[bytes]) -> Steps[Data]:
        """A frame that takes steps, or what is sent instead of it."""
        try:
            return (yield from steps)
        except (UnicodeDecodeError, Refused) as error:
            return self._refusal(error)
        except Exception as error:  # noqa: BLE001 - one connection's mistake must not reach the others
            self._service.failure(error)
            self.abort()
            return b""

    def _refusal(self, error: UnicodeDecodeError | Refused) -> bytes:
        """The last frames after a message that ends its connection."""
        if isinstance(error, Refused):
            return error.reply + self._refuse(error.code, error.reason)
        return self._refuse(CloseCode.INVALID_DATA, _NO_TEXT)

    def _refuse(self, code: CloseCode, reason: str) -> bytes:
        """Fail the connection (RFC 6455, 7.1.7); the close frame."""
        self._counters[Column.BAD_MESSAGES] += 1
        return self._fail(code, reason)

    def _fail(self, code: CloseCode, reason: str) -> bytes:
        self._closing = self._deaf = True
        self.fast_path_ok = False
        self._protocol.fail(code, reason)
        return b"".join(self._protocol.data_to_send())

    def _account_buffers(self, *, begun: bool) -> None:
        """Start the clock of what has begun to arrive, and count what it takes beside unread replies."""
        if begun and not self._closing:
            self.since = self._flow.now
        if self._paused or self._arriving_bytes >= HOLD_FROM_BYTES:
            self._flow.hold(self, self.held_bytes)
        else:
            self._flow.release(self)

    # -- writing -----------------------------------------------------------------------------------------

    def _flush(self, out: list[Data]) -> None:
        """Write what is due, in one call, and close if it was the last.

        Args:
            out: frames.
        """
        if out:
            self.write_any(b"".join(out))
        if self._deaf:
            self._finish()
            return
        if out and self._service.draining and not self._closing:
            self.close()

    def _begin_to_close(self, code: CloseCode, reason: str) -> None:
        """Say goodbye, and wait for the client to do so."""
        self._closing = True
        self.fast_path_ok = False
        self.since = self._flow.now
        self._protocol.send_close(code, reason)
        self.write(b"".join(self._protocol.data_to_send()))
        if self._stalled and not self._paused:
            self._go_on()

    def _end_with(self, code: CloseCode, reason: str) -> None:
        """Close for something that the client did, or did not do."""
        self.write(self._fail(code, reason))
        self._finish()

    def _finish(self) -> None:
        """Close the transport after the last frame, in a way that lets the client read it."""
        self._unread = b""
        self._message = bytearray()
        self._missing = self._partial = 0
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        self.since = self._flow.now
        if self._protocol.close_rcvd is not None:
            transport.close()
        else:
            self._linger(transport)


_OPCODE: Final = 0x0F
_MESSAGES: Final = int(Column.MESSAGES)
_DATA: Final = frozenset((Opcode.TEXT, Opcode.BINARY, Opcode.CONT))
_PADDED: Final = "The length of a frame takes more bytes than it needs."
_NO_TEXT: Final = "The message is not UTF-8."
_TOO_EMPTY: Final = f"The message has more than {MAX_EMPTY_FRAGMENTS} empty fragments."
_make_decoder: Final = codecs.getincrementaldecoder("utf-8")
