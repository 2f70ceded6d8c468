"""A client's session on ``/ws``: what its messages say is executed, and what it has subscribed to is sent.

In: messages, by `WebSocket`. Out: replies as frames: of text for text, of bytes for bytes.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from websockets.frames import CloseCode

from fastkv.commands.session import Session as CommandSession
from fastkv.steps import Unfinished
from fastkv.takeover import Takeover
from fastkv.ws import frames, resp, text
from fastkv.ws.frames import BINARY, TEXT
from fastkv.ws.handshake import agree
from fastkv.ws.websocket import DEFLATE_FROM_BYTES, HOLD_FROM_BYTES, Refused, WebSocket

if TYPE_CHECKING:
    from collections.abc import Sequence

    from websockets.extensions import Extension

    from fastkv.http.request import Head
    from fastkv.http.responses import Reply
    from fastkv.pubsub.messages import Message, Subscriber
    from fastkv.receiver import Data
    from fastkv.service import Service
    from fastkv.steps import Steps


class Session(WebSocket):
    """A client's session.

    Attributes:
        session: its transaction.
        pushes: the first byte of the frames that it is sent unasked.
    """

    __slots__ = (
        "_commands",
        "_hub",
        "_messages_next",
        "_transaction",
        "pushes",
        "session",
    )

    def __init__(self, service: Service, extensions: Sequence[Extension] = ()) -> None:
        """Make a session to be.

        Args:
            service: what it shares with the worker's other connections.
            extensions: what the handshake has agreed.
        """
        super().__init__(service, extensions)
        self._framing = service.frames(DEFLATE_FROM_BYTES - 1 if extensions else sys.maxsize)
        self._transaction = CommandSession()
        self.session: CommandSession | None = self._transaction
        self.pushes = TEXT
        self._commands = service.routes.commands
        self._hub = service.routes.hub
        self._messages_next = False  # once the client reads again: messages go before replies

    def connection_lost(self, exc: Exception | None) -> None:
        """End, and with it all subscriptions."""
        if self._hub is not None:
            self._hub.forget(self)
        super().connection_lost(exc)

    @property
    def _keeps_state(self) -> bool:
        """Whether a transaction has begun, keys are watched, or messages come unasked."""
        session = self._transaction
        return (
            session.queue is not None
            or bool(session.watched)
            or (self._hub is not None and self._hub.wanted_by(self) > 0)
        )

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
            self.write(message.as_sent(_push_text if self.pushes == TEXT else _push_resp))

    def give_up(self, reason: str) -> None:
        """Close because messages were lost to it, and say why (RFC 6455, 7.4.1).

        Args:
            reason: at most 123 bytes.
        """
        if not self._closing:
            self._end_with(CloseCode.TRY_AGAIN_LATER, reason)

    def _answer(self, first: int, payload: bytes) -> bytes:
        try:
            return self._execute(first, payload)
        except Unfinished as unfinished:
            raise Unfinished(self._frame_in_steps(first, unfinished.steps)) from None

    def _execute(self, first: int, payload: bytes) -> bytes:
        """``_answer``; the steps that are raised are those of a reply, not of a frame."""
        if first == TEXT:
            return self._frame(TEXT, text.reply_to(payload, self._commands, self))
        try:
            told = resp.reply_to(payload, self._commands, self)
        except resp.ProtocolError as error:
            raise self._unsupported(error) from None
        return self._frame(BINARY, told) if told else b""

    def _frame_in_steps(self, first: int, steps: Steps[bytes]) -> Steps[bytes]:
        """The frame of a reply that takes steps; raises as ``_answer``."""
        try:
            told = yield from steps
        except resp.ProtocolError as error:
            raise self._unsupported(error) from None
        return self._frame(first, told) if told else b""

    def _unsupported(self, error: resp.ProtocolError) -> Refused:
        return Refused(CloseCode.UNSUPPORTED_DATA, str(error), self._frame(BINARY, error.replies))

    def _flush(self, out: list[Data]) -> None:
        super()._flush(out)
        self._hold_transaction()

    def _account_buffers(self, *, begun: bool) -> None:
        super()._account_buffers(begun=begun)
        self._hold_transaction()

    def _hold_transaction(self) -> None:
        """Count what waits for EXEC among what the worker's connections hold; the sweep forgets it again."""
        if self._transaction.held_bytes >= HOLD_FROM_BYTES and self._transport is not None:
            self._flow.hold(self, self.held_bytes)


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
