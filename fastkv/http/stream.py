"""A connection's input as requests: whichever parser reads them, whole or in pieces.

In: the bytes of one connection, in any pieces. Out, one at a time and in order: requests, the wish to be told
to go on (100), or the one `HttpError` after which nothing is read any more. It does no I/O and reads no
clock; it says when the wait for a head or a body begins, so that whoever has a clock can bound it.
"""

from collections.abc import Callable
from enum import Enum
from typing import Final, TypeAlias

from fastkv.http.fast import DECLINED, NEED_DATA, FastParser, Outcome, Parsed
from fastkv.http.full import FullParser, Judge
from fastkv.http.request import Head, HttpError

Requests: TypeAlias = tuple[list[bytes], Head, bytes, bytes]
"""(lines, head, body, rest): one or more request lines that came with one head, as in `FastParser.parse`; the
body of the only one, where there is one; and what follows each line, up to the body. The rest is b"" where
the full parser has read the request."""


class Wish(Enum):
    """What a client may want before its request is complete."""

    CONTINUE = "continue"
    """It waits for 100 before it sends the body (RFC 9110, 10.1.1)."""


EXPECTING: Final = Wish.CONTINUE

# What the parsers are given at once. The fast one searches and splits all that it is given for each request
# that differs from the one before, and the full one makes objects of it: of 256 KB this took 0.2 ms and MBs.
_WINDOW_BYTES: Final = 16 << 10

# What the full parser reads of a message before others have a turn: tiny chunks take it 0.4 us for each byte.
_TURN_BYTES: Final = 64 << 10


class RequestStream:
    """The requests of one connection.

    Args:
        fast: The worker's fast parser.
        full: Makes a full parser, for a connection that sends what the fast one declines.
        judge: Decides on requests whose body is still to come, as the full parsers do; without one all bodies
            are read.

    Attributes:
        began: A head or a body has begun to arrive, and is not all there, since this was last set to False.
    """

    __slots__ = (
        "_body",
        "_data",
        "_full",
        "_judge",
        "_known",
        "_make_full",
        "_parse",
        "_partial",
        "_pending",
        "_refused",
        "began",
    )

    def __init__(self, fast: FastParser, full: Callable[[], FullParser], judge: Judge | None = None) -> None:
        self._parse = fast.parse
        self._judge = judge
        self._make_full = full
        self._data = b""  # received, not parsed
        self._known: Parsed | Outcome | None = None  # what the fast parser says of that
        self._partial = False  # it is the beginning of a head
        self._pending: tuple[bytes, Head, bytes] | None = None  # line, head and rest of a body that arrives
        self._body = bytearray()
        self._full: FullParser | None = None
        self._refused = b""  # line of a request that the judge has refused
        self.began = False

    @property
    def at_rest(self) -> bool:
        """True on a message boundary with nothing behind it: whoever likes may read what comes next."""
        return not self._data and self._pending is None and self._full is None

    @property
    def idle(self) -> bool:
        """True where no request has begun."""
        return not self._data and self._pending is None and (self._full is None or self._full.idle)

    @property
    def line(self) -> bytes:
        """Method, space and target of the request that was refused; b"" where its line could not be read."""
        return self._refused if self._full is None else self._full.line

    @property
    def headless(self) -> bool:
        """True where it was a HEAD that was refused: the reply has no body (RFC 9110, 9.3.2)."""
        return self._refused.startswith(b"HEAD ") if self._full is None else self._full.headless

    @property
    def more(self) -> bool:
        """True where something that has arrived was not returned yet."""
        return bool(self._data or (self._full is not None and self._full.messages))

    @property
    def behind(self) -> bool:
        """True where `next` has returned None to let others have a turn: it need not wait for more."""
        return self._full is not None and bool(self._data)

    @property
    def in_head(self) -> bool:
        """True where a head has begun to arrive."""
        return self._partial or (self._full is not None and self._full.in_head and not self._full.in_body)

    @property
    def in_body(self) -> bool:
        """True where a head is complete and its body is not."""
        return self._pending is not None or (self._full is not None and self._full.in_body)

    @property
    def body_bytes(self) -> int:
        """Bytes of the body in progress that have arrived."""
        return self._full.body_bytes if self._full is not None else len(self._body)

    @property
    def missing_bytes(self) -> int:
        """Bytes of the body in progress that have not arrived; at most, where it comes in chunks."""
        if self._full is not None:
            return self._full.missing_bytes
        return 0 if self._pending is None else self._pending[1].content_length - len(self._body)

    @property
    def unread(self) -> bytes:
        """What has arrived and no parser has read; behind a request for an upgrade, all that has arrived."""
        return self._data

    @property
    def held_bytes(self) -> int:
        """Bytes held for the request in progress."""
        in_progress = len(self._body) if self._full is None else self._full.buffered_bytes
        return in_progress + len(self._data)

    def receive(self, data: bytes, known: Parsed | Outcome | None = None) -> None:
        """Take what has arrived.

        Args:
            data: The bytes that follow those of the last call.
            known: What the fast parser says of them, if the stream is idle and it was asked already.
        """
        self._data = self._data + data if self._data else data
        self._known = known

    def give_back(self, data: bytes) -> None:
        """Take back what cannot be answered yet.

        Args:
            data: The end of what the last call of `next` returned.
        """
        self._data = data + self._data

    def drop(self) -> None:
        """Let go of everything; nothing follows."""
        self._data = b""
        self._body = bytearray()
        self._pending = self._full = self._known = None

    def next(self, most: int) -> Requests | HttpError | Wish | None:
        """Return what is complete.

        Args:
            most: How many requests at a time, 1 or more.

        Returns:
            Requests; `EXPECTING`; an error, which is the last; or None where more has to arrive first.
        """
        if self._full is not None:
            return self._next_of_full(self._full)
        if self._pending is not None:
            return self._collect(*self._pending)
        data = self._data
        if not data:
            return None
        found = self._known
        self._known = None
        if found is None:
            found = self._parse(data[:_WINDOW_BYTES])
            if found is NEED_DATA and len(data) > _WINDOW_BYTES:
                found = self._parse(data)
        if found is NEED_DATA:
            self.began = self.began or not self._partial
            self._partial = True
            return None
        if found is DECLINED:
            self.began = self.began or not self._partial
            self._partial = False
            self._full = self._make_full()
            return self._next_of_full(self._full)
        self._partial = False
        lines, head, body, used = found
        if body is None:
            refusal = self._refusal(lines[0], head)
            if refusal is not None:
                return refusal
            rest = data[len(lines[0]) : used]
            self._pending = lines[0], head, rest
            self.began = True
            self._data = data[used:]
            return self._collect(lines[0], head, rest)
        first = len(lines[0])
        rest_bytes = (used - len(body) - sum(map(len, lines))) // len(lines)
        if len(lines) > most:
            lines = lines[:most]
            used = rest_bytes * most + sum(map(len, lines))
        self._data = data[used:]
        return lines, head, body, data[first : first + rest_bytes]

    def _refusal(self, line: bytes, head: Head) -> HttpError | None:
        """Ask the judge; no byte of the body has been looked at."""
        try:
            if self._judge is not None:
                self._judge(line, head)
        except HttpError as error:
            self._refused = line
            return error.with_traceback(None)  # which would hold this object
        return None

    def _collect(self, line: bytes, head: Head, rest: bytes) -> Requests | None:
        """Take what belongs to the body that is due."""
        missing = head.content_length - len(self._body)
        self._body += self._data[:missing]
        self._data = self._data[missing:]
        if len(self._body) < head.content_length:
            return None
        body = bytes(self._body)
        self._body = bytearray()
        self._pending = None
        return [line], head, body, rest

    def _next_of_full(self, full: FullParser) -> Requests | HttpError | Wish | None:
        """Let the full parser read on; all input is its own until a read ends on a message boundary."""
        if self._data and not full.messages:
            data, self._data = self._data, b""
            before = full.in_head, full.in_body
            at = 0
            unread = b""
            while at < min(len(data), _TURN_BYTES) and not (full.messages or full.error):
                unread = full.feed(data[at : at + _WINDOW_BYTES])
                at += _WINDOW_BYTES
            self._data = unread + data[at:]
            self.began = self.began or bool(full.messages) or before != (full.in_head, full.in_body)
        if full.messages:
            line, head, body = full.messages.popleft()
            return [line], head, body, b""
        if full.error is not None:
            return full.error
        if full.take_expecting():
            return EXPECTING
        if full.at_boundary and not self._data:
            self._full = None
        return None
