"""A connection without replies: reads messages as the server does."""

from collections.abc import Iterable

from cases.case import MAX_BODY_BYTES, MAX_HEAD_BYTES, Then

from fastkv.http.parser import EXPECTING, Parser
from fastkv.http.request import CLOSE, HttpError, Message
from fastkv.http.stream import RequestStream


class Reader:
    """Reads one connection.

    Attributes:
        stream: Its input.
        messages: What was read.
        refusal: Why no more is read, or None.
        expects: Whether 100 is the last that was due.
    """

    def __init__(self) -> None:
        self.stream = RequestStream(self._make_parser)
        self._parser: Parser | None = None  # of the last message
        self.messages: list[Message] = []
        self.refusal: HttpError | None = None
        self.expects = False

    def _make_parser(self) -> Parser:
        self._parser = Parser(MAX_HEAD_BYTES, MAX_BODY_BYTES)
        return self._parser

    @property
    def headless(self) -> bool:
        """True where the last message, which may have no more than begun, is a HEAD."""
        return self._parser is not None and self._parser.headless

    @property
    def error(self) -> int | None:
        """The status of the refusal, if there was one."""
        return self.refusal.status if self.refusal else None

    @property
    def then(self) -> Then:
        """What becomes of the connection."""
        if self.refusal or self._closed:
            return Then.CLOSED
        return Then.OPEN if self.stream.at_rest else Then.WAITING

    @property
    def _closed(self) -> bool:
        return bool(self.messages) and self.messages[-1][1].persistence == CLOSE

    def feed(self, data: bytes) -> None:
        """Take what one read brought."""
        self.stream.receive(data, 0)
        self.expects = False
        while self.stream.more and not (self._closed or self.refusal):
            found = self.stream.next()
            if isinstance(found, HttpError):
                self.refusal = found
            elif isinstance(found, tuple):
                self.messages.append(found)
            self.expects = found is EXPECTING


def read(pieces: Iterable[bytes]) -> Reader:
    """Feed pieces to a new reader."""
    reader = Reader()
    for piece in pieces:
        reader.feed(piece)
    return reader
