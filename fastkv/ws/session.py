"""A client's session on ``/ws``: what its messages say is executed, and what it has subscribed to is sent.

In: messages, by `WebSocket`. Out: replies as frames: of text for text, of bytes for bytes. The way of a short
message is written out in ``data_received``: its payload is the key of a memo like that of requests, so that a
GET which was answered before is one look into a dictionary, one read of the arena and one write.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from websockets.frames import CloseCode

from fastkv.commands.session import Session as CommandSession
from fastkv.outlet import LARGE_BYTES
from fastkv.stats import Column
from fastkv.steps import Unfinished
from fastkv.store.layout import COUNT_MAX
from fastkv.takeover import Takeover
from fastkv.ws import frames, resp, text
from fastkv.ws.frames import BINARY, TEXT, apply_mask
from fastkv.ws.handshake import agree
from fastkv.ws.websocket import HOLD_FROM_BYTES, Refused, WebSocket

if TYPE_CHECKING:
    from collections.abc import Sequence

    from websockets.extensions import Extension

    from fastkv.http.request import Head
    from fastkv.http.responses import Reply
    from fastkv.pubsub.messages import Message, Subscriber
    from fastkv.service import Service
    from fastkv.steps import Steps

_MEMO_HITS: Final = int(Column.MEMO_HITS)
_MESSAGES: Final = int(Column.MESSAGES)

# A frame of the short way that stands alone in a read: header and mask take six bytes, and its second byte is
# its length and the bit that says that there is a mask.
_HEAD_BYTES: Final = 6
_LONGEST_FRAME: Final = frames.MAX_CONTROL_BYTES + _HEAD_BYTES
_LENGTH_BYTE: Final = 0x80 - _HEAD_BYTES


class Session(WebSocket):
    """A client's session.

    Attributes:
        session: its transaction.
        pushes: the first byte of the frames that it is sent unasked.
        read: see `fastkv.ws.asker.Asker`.
    """

    __slots__ = (
        "_commands",
        "_counts",
        "_hub",
        "_memo",
        "_messages_next",
        "_recall",
        "_transaction",
        "_words",
        "pushes",
        "read",
        "session",
    )

    def __init__(self, service: Service, extensions: Sequence[Extension] = ()) -> None:
        """Make a session to be.

        Args:
            service: what it shares with the worker's other connections.
            extensions: what the handshake has agreed.
        """
        super().__init__(service, extensions)
        self._transaction = CommandSession()
        self.session: CommandSession | None = self._transaction
        self.pushes = TEXT
        self.read: tuple[bytes, bytes] | None = None
        self._commands = service.routes.commands
        self._hub = service.routes.hub
        self._messages_next = False  # once the client reads again: messages go before replies
        self._memo = service.message_memo
        self._recall = service.message_memo.get
        self._words = service.store.words
        self._counts = service.store.counts

    def data_received(self, data: bytes) -> None:
        """Answer one short message; leave all else to ``_receive``."""
        self.heard = True
        if self._at_rest:
            size = len(data)
            if _HEAD_BYTES <= size <= _LONGEST_FRAME and data[1] == _LENGTH_BYTE + size:
                # `frames.parse` and `_remembered` written out. The first byte of what is remembered is that
                # of what was asked, which is thus a whole message, too.
                payload = apply_mask(data[6:], data[2:6])
                remembered = self._recall(payload)
                if remembered is not None:
                    slot, word, count_at, frame = remembered
                    if self._words[slot] == word and frame[0] == data[0]:
                        counters = self._counters
                        counters[_MEMO_HITS] += 1
                        counters[_MESSAGES] += 1
                        if self._counts[count_at] < COUNT_MAX:
                            self._counts[count_at] += 1
                        self._write(frame)
                        return
                first = data[0]
                if first in (TEXT, BINARY):
                    self._respond(first, payload)
                    return
        self._receive(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """End, and with it all subscriptions."""
        if self._hub is not None:
            self._hub.forget(self)
        super().connection_lost(exc)

    @property
    def subscriber(self) -> Subscriber:
        """Who gets the messages that it subscribes to: itself."""
        return self

    @property
    def held_bytes(self) -> int:
        """Bytes that it keeps: also what waits for EXEC, and what is watched."""
        return super().held_bytes + self._transaction.held_bytes

    def resume_writing(self) -> None:
        """The client has read: go on, by turns with messages that wait and with what it asks."""
        self._outlet.resumed()
        self._messages_next = not self._messages_next
        if self._messages_next:
            self._paused = False
            self._take_messages()
            if self._paused:
                return
        super().resume_writing()
        self._hold_transaction()
        # Not before the socket was looked at: what the client asks may be to get no more of them.
        self._service.turns.later(self._take_messages)

    def _take_messages(self) -> None:
        if self._hub is not None and not self._paused:
            self._hub.resumed(self)

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
        """Send a message of a channel.

        Args:
            message: the message.
        """
        if not self._closing:
            self._write(message.as_sent(_push_text if self.pushes == TEXT else _push_resp))

    def give_up(self, reason: str) -> None:
        """Close because messages were lost to it, and say why (RFC 6455, 7.4.1).

        Args:
            reason: at most 123 bytes.
        """
        if not self._closing:
            self._end_with(CloseCode.TRY_AGAIN_LATER, reason)

    def _respond(self, first: int, payload: bytes) -> None:
        """Answer a message that came alone and was not remembered."""
        self._counters[_MESSAGES] += 1
        try:
            frame = self._execute(first, payload)
            if self._transaction.queue is not None:
                self._at_rest = False
            self._hold_transaction()
        except Unfinished as unfinished:
            self._flush([self._begin_work(self._in_steps(unfinished.steps))])
        except (UnicodeDecodeError, Refused) as error:
            self._flush([self._refusal(error)])
        except Exception as error:  # noqa: BLE001 - one connection's mistake must not reach the others
            self._service.failure(error)
            self.abort()
        else:
            if len(frame) > LARGE_BYTES:
                self._outlet.write_large(frame)
            else:
                self._write(frame)

    def _answer(self, first: int, payload: bytes) -> bytes:
        if self._transaction.queue is None:
            frame = self._remembered(first, payload)
            if frame is not None:
                return frame
        return self._execute(first, payload)

    def _execute(self, first: int, payload: bytes) -> bytes:
        """Execute what a message says; raises as ``_answer``."""
        try:
            return self._execute_at_once(first, payload)
        except Unfinished as unfinished:
            raise Unfinished(self._frame_in_steps(first, unfinished.steps)) from None

    def _frame_in_steps(self, first: int, steps: Steps[bytes]) -> Steps[bytes]:
        """The frame of a reply that takes steps; raises as ``_answer``."""
        try:
            told = yield from steps
        except resp.ProtocolError as error:
            raise self._unsupported(error) from None
        return self._frame(first, told) if told else b""

    def _unsupported(self, error: resp.ProtocolError) -> Refused:
        return Refused(CloseCode.UNSUPPORTED_DATA, str(error), self._frame(BINARY, error.replies))

    def _execute_at_once(self, first: int, payload: bytes) -> bytes:
        """``_execute``; the steps that are raised are those of a reply, not of a frame."""
        if first == TEXT:
            parts = text.split(payload)
            if parts is not None:
                frame = self._execute_with_id(*parts)
                if frame is not None:
                    return frame
            frame = self._frame(TEXT, text.reply_to(payload, self._commands, self))
        else:
            try:
                told = resp.reply_to(payload, self._commands, self)
            except resp.ProtocolError as error:
                raise self._unsupported(error) from None
            frame = self._frame(BINARY, told) if told else b""
        if self.read is not None:
            key, value = self.read
            self.read = None
            if self._memo.has_seen(payload):
                self._remember(payload, key, value, frame)
        return frame

    def _execute_with_id(self, ident: bytes, command: bytes) -> bytes | None:
        """Answer a command with an id. It is remembered without, because an id is new each time.

        Args:
            ident: its id, as JSON.
            command: what may be a command, as JSON.

        Returns:
            The frame; None if it is no command, and nothing was executed.
        """
        if self._transaction.queue is None:
            frame = self._remembered(TEXT, command)
            if frame is not None:
                return frames.build(TEXT, text.with_id(ident, frames.payload_of(frame)))
        try:
            told = text.reply_to_one(command, self._commands, self)
        except Unfinished as unfinished:
            raise Unfinished(_with_id_in_steps(ident, unfinished.steps)) from None
        if told is None:
            return None
        if self.read is not None:
            key, value = self.read
            self.read = None
            if self._memo.has_seen(command):
                self._remember(command, key, value, frames.build(TEXT, told))
        return self._frame(TEXT, text.with_id(ident, told))

    def _remembered(self, first: int, payload: bytes) -> bytes | None:
        """The frame that answers a message, if it was answered before and nothing has changed."""
        remembered = self._recall(payload)
        if remembered is None:
            return None
        slot, word, count_at, frame = remembered
        if self._words[slot] != word or frame[0] != first:
            return None
        self._counters[_MEMO_HITS] += 1
        if self._counts[count_at] < COUNT_MAX:
            self._counts[count_at] += 1
        return frame

    def _remember(self, payload: bytes, key: bytes, value: bytes, frame: bytes) -> None:
        """Keep a reply, with the entry as it is now, if its value is still what was replied."""
        routes = self._service.routes
        entry = routes.store.get(key, routes.clock)
        # A compressed frame is of use to some only.
        if entry is not None and entry[0] == value and frame[0] in (TEXT, BINARY):
            self._memo.keep(payload, frame, entry)

    def _flush(self, out: list[bytes]) -> None:
        super()._flush(out)
        if self._transaction.queue is not None:
            self._at_rest = False  # a GET is queued there, whatever is remembered
        self._hold_transaction()

    def _take_stock(self, *, begun: bool) -> None:
        super()._take_stock(begun=begun)
        self._hold_transaction()

    def _hold_transaction(self) -> None:
        """Count what waits for EXEC among what the worker's connections hold; the sweep forgets it again."""
        if self._transaction.held_bytes >= HOLD_FROM_BYTES and self._transport is not None:
            self._flow.hold(self, self.held_bytes)


def _with_id_in_steps(ident: bytes, steps: Steps[bytes]) -> Steps[bytes]:
    return text.with_id(ident, (yield from steps))


def _push_text(message: Message) -> bytes:
    return frames.build(TEXT, text.push(message))


def _push_resp(message: Message) -> bytes:
    return frames.build(BINARY, resp.push(message))


def open_session(query: bytes, head: Head, body: bytes, *, deflate: bool) -> Reply:
    """``GET /ws``: the handler of the handshake.

    Args:
        query: what follows the path; the token is looked for before.
        head: the header section.
        body: is not looked at.
        deflate: whether messages may be compressed.

    Raises:
        Takeover: the connection goes on as a WebSocket.
        HttpError: 400 or 426.
    """
    fields, extensions = agree(head, deflate=deflate)
    raise Takeover((101, fields), lambda service: Session(service, extensions))
