"""A connection without replies: joins the two parsers as the server does."""

from collections.abc import Iterable

from cases.case import MAX_BODY_BYTES, MAX_HEAD_BYTES, Then

from fastkv.http.fast import DECLINED, NEED_DATA, FastParser
from fastkv.http.full import FullParser
from fastkv.http.request import CLOSE, Head, Message


class Reader:
    """Reads one connection with both parsers, or with the full one alone.

    Args:
        fast: The worker's fast parser, or None for the full one alone.

    Attributes:
        full: The connection's full parser.
        messages: What was read.
    """

    def __init__(self, fast: FastParser | None) -> None:
        self.full = FullParser(MAX_HEAD_BYTES, MAX_BODY_BYTES)
        self.messages: list[Message] = []
        self._fast = fast
        self._data = b""
        self._due: tuple[bytes, Head] | None = None

    @property
    def error(self) -> int | None:
        """The status of the refusal, if there was one."""
        return self.full.error.status if self.full.error else None

    @property
    def then(self) -> Then:
        """What becomes of the connection."""
        if self.full.error or self._closed:
            return Then.CLOSED
        waiting = self._data or self._due or not self.full.at_boundary
        return Then.WAITING if waiting else Then.OPEN

    @property
    def _closed(self) -> bool:
        return bool(self.messages) and self.messages[-1][1].persistence == CLOSE

    def feed(self, data: bytes) -> None:
        """Take what one read brought."""
        data, self._data = self._data + data, b""
        while data and not self._closed:
            if self._due:
                line, head = self._due
                if len(data) < head.content_length:
                    self._data = data
                    return
                self.messages.append((line, head, data[: head.content_length]))
                data, self._due = data[head.content_length :], None
                continue
            parsed = self._fast.parse(data) if self._fast and self.full.at_boundary else DECLINED
            if parsed is NEED_DATA:
                self._data = data
                return
            if parsed is DECLINED:
                data = self.full.feed(data)
                self.messages += self.full.messages
                self.full.messages.clear()
                continue
            lines, head, body, used = parsed
            if body is None:
                self._due = (lines[0], head)
            else:
                self.messages += [(line, head, body) for line in lines]
            data = data[used:]


def read(pieces: Iterable[bytes], fast: FastParser | None) -> Reader:
    """Feed pieces to a new reader."""
    reader = Reader(fast)
    for piece in pieces:
        reader.feed(piece)
    return reader
