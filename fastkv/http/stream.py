"""A connection's input: what has arrived and was not answered yet, and the messages in it.

In: the bytes of one connection, in any pieces. Out, one at a time and in order: messages, the wish for an
interim reply (100), or the one `HttpError` after which nothing is read any more. Or, on a message boundary,
the bytes themselves, to the core, which answers what it can of them. It does no I/O and reads no clock; it
says when the wait for a head or a body begins, so that a deadline can bound it.
"""

from collections.abc import Callable

from fastkv.http.parser import Parser, Wish
from fastkv.http.request import HttpError, Message


class RequestStream:
    """The input of one connection.

    Args:
        make_parser: Makes a parser for one message.

    Attributes:
        data: What has arrived.
        at: Where in it the first byte is that was not read.
        began: A head or a body has begun to arrive, and is not complete, since this was last set to False.
        line: Method, space and target of the message that was refused; b"" where they could not be read.
        headless: It was a HEAD: the reply has no body (RFC 9110, 9.3.2).
    """

    __slots__ = (
        "_collected",
        "_head_bytes",
        "_make_parser",
        "_message_bytes",
        "_parser",
        "at",
        "began",
        "data",
        "headless",
        "line",
    )

    def __init__(self, make_parser: Callable[[], Parser]) -> None:
        self._make_parser = make_parser
        self.data = b""
        self.at = 0
        self._parser: Parser | None = None  # of the message in progress, if the core has declined it
        # A message with a body whose head the core has judged: its bytes so far, head included.
        self._collected: bytearray | None = None
        self._message_bytes = self._head_bytes = 0
        self.began = False
        self.line = b""
        self.headless = False

    @property
    def more(self) -> bool:
        """True where something that has arrived was not read."""
        return self.at < len(self.data)

    @property
    def at_boundary(self) -> bool:
        """True where the next byte begins a message."""
        return self._parser is None and self._collected is None

    @property
    def at_rest(self) -> bool:
        """True on a message boundary with nothing behind it."""
        return self.at_boundary and not self.more

    @property
    def idle(self) -> bool:
        """True where no message has begun; an empty line before one is none of it."""
        return not (self.more or self.in_head or self.in_body)

    @property
    def in_head(self) -> bool:
        """True where a head has begun to arrive."""
        return self._parser is not None and self._parser.in_head and not self._parser.in_body

    @property
    def in_body(self) -> bool:
        """True where a head is complete and its body is not."""
        return self._collected is not None or (self._parser is not None and self._parser.in_body)

    @property
    def body_bytes(self) -> int:
        """Bytes of the body in progress that have arrived."""
        if self._collected is not None:
            return len(self._collected) - self._head_bytes
        return 0 if self._parser is None else self._parser.body_bytes

    @property
    def missing_bytes(self) -> int:
        """Bytes of the body in progress that have not arrived; at most, where it comes in chunks."""
        if self._collected is not None:
            return self._message_bytes - len(self._collected)
        return 0 if self._parser is None else self._parser.missing_bytes

    @property
    def held_bytes(self) -> int:
        """Bytes that are kept."""
        if self._collected is not None:
            return len(self._collected)
        in_progress = 0 if self._parser is None else self._parser.held_bytes
        return in_progress + len(self.data) - self.at

    @property
    def unread(self) -> bytes:
        """What has arrived and was not read: behind a request for an upgrade, all that has arrived."""
        return self.data[self.at :]

    def receive(self, data: bytes, at: int) -> None:
        """Take what has arrived.

        Args:
            data: The bytes that follow those of the last call.
            at: Where the first of them is that was not answered.
        """
        collected = self._collected
        if collected is None:
            self.data, self.at = (self.unread + data[at:], 0) if self.more else (data, at)
            return
        after = at + self.missing_bytes
        if after > len(data):
            collected += memoryview(data)[at:]
            return
        self._collected = None
        self.data, self.at = b"".join((collected, memoryview(data)[at:])), 0

    def collect(self, message_bytes: int) -> None:
        """Keep the message that begins here until all of it has arrived, for the core.

        Args:
            message_bytes: How long it is, head included; less has arrived, but its whole head.
        """
        self._message_bytes = message_bytes
        self._head_bytes = self.data.index(b"\r\n\r\n", self.at) + 4 - self.at
        self._collected = bytearray(memoryview(self.data)[self.at :])
        self.data, self.at = b"", 0
        self.began = True

    def keep(self) -> None:
        """Let go of what was read: what is left waits."""
        self.data, self.at = self.unread, 0

    def drop(self) -> None:
        """Let go of everything; nothing follows."""
        self.data, self.at = b"", 0
        self._parser = self._collected = None

    def next(self) -> Message | HttpError | Wish | None:
        """Read on, up to the end of one message.

        Returns:
            The message; `EXPECTING`; an error, which is the last; or None where more has to arrive first or,
            with ``more``, others should have a turn.
        """
        parser = self._parser
        if parser is None:
            parser = self._parser = self._make_parser()
        before = parser.in_head, parser.in_body
        try:
            found, self.at = parser.read(self.data, self.at)
        except HttpError as error:
            self.line, self.headless = parser.line, parser.headless
            return error.with_traceback(None)  # which would hold this object
        if isinstance(found, tuple):
            self._parser = None
            self.began = True
        elif before != (parser.in_head, parser.in_body):
            self.began = True
        return found
