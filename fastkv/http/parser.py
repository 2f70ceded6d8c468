"""The parser: what HTTP/1.1 and HTTP/1.0 allow, at any split of its bytes, and an error for the rest.

In: the bytes of one message, from a message boundary on. Out: the message, or the `HttpError` after which no
byte of the connection is read any more. Of a body that is still to come the judge is asked first: a request
that it refuses is such an error, and no byte of its body is kept.

The head is read by lines, with the functions of `request`; the body is left to `body`.
"""

from collections.abc import Callable
from enum import Enum
from typing import Final, TypeAlias

from fastkv.http.body import LARGE_BYTES, Body, BodyBound, ChunkedBody, LargeBody
from fastkv.http.request import (
    MAX_FIELDS,
    TOKEN_BYTES,
    Field,
    Head,
    HttpError,
    Message,
    build_head,
    parse_field,
    parse_request_line,
)

Judge: TypeAlias = Callable[[bytes, Head], BodyBound]
"""Decides on a request by its line and head, before its body comes: returns how long the body may be, raises
the `HttpError` that is the answer whatever the body is."""

MAX_EMPTY_LINES: Final = 4
"""Empty lines passed over before a request line (RFC 9112, 2.2): some clients send one after a body."""

_CR = 0x0D
# What is read of a message in one call, so that others have a turn: tiny chunks take 0.4 µs for each byte.
_TURN_BYTES: Final = 64 << 10


class Wish(Enum):
    """What a client may want before its request is complete."""

    CONTINUE = "continue"
    """It waits for 100 before it sends the body (RFC 9110, 10.1.1)."""


EXPECTING: Final = Wish.CONTINUE


class Parser:
    """Parses one message.

    Limits are counted here, so that the same bytes get the same answer however they are split.

    Args:
        max_head_bytes: Bytes of request line and header section together, all line ends included (431); the
            line alone may have all of them (414).
        max_body_bytes: Bytes of a body, declared or arrived (413).
        max_fields: Fields of a header section (431).
        secure: The connection is secured: an https URL may be asked for (421 otherwise).
        judge: Decides on requests whose body is still to come; without one all are read.

    Attributes:
        line: Method, space and target; b"" where they were not read yet, or could not be.
    """

    __slots__ = (
        "_authority",
        "_body",
        "_bound",
        "_continue_due",
        "_empty_lines",
        "_fields",
        "_head_bytes",
        "_judge",
        "_max_fields",
        "_max_head",
        "_partial",
        "_secure",
        "_version",
        "line",
    )

    def __init__(
        self,
        max_head_bytes: int,
        max_body_bytes: int,
        max_fields: int = MAX_FIELDS,
        *,
        secure: bool = False,
        judge: Judge | None = None,
    ) -> None:
        self._secure = secure
        self._judge = judge
        self._max_head = max_head_bytes
        self._bound = BodyBound(max_body_bytes)
        self._max_fields = max_fields
        self._partial = bytearray()  # of a line of the head: what there is without its end
        self._empty_lines = 0
        self.line = b""
        self._authority: bytes | None = None
        self._version = b""
        self._fields: list[Field] = []
        self._head_bytes = 0  # of its complete lines
        self._body: Body | None = None  # once the head is complete
        self._continue_due = False

    @property
    def in_head(self) -> bool:
        """True where the message has begun; an empty line before it is none of it."""
        return bool(self.line or self._partial)

    @property
    def in_body(self) -> bool:
        """True where the head is complete and the body is not."""
        return self._body is not None

    @property
    def headless(self) -> bool:
        """True where the request is a HEAD: an error as its reply has no body (RFC 9110, 9.3.2)."""
        return (self.line or self._partial).startswith(b"HEAD ")

    @property
    def body_bytes(self) -> int:
        """Bytes of the body that have arrived."""
        return self._body.arrived_bytes if self._body else 0

    @property
    def missing_bytes(self) -> int:
        """Bytes of the body that have not arrived; at most, where it comes in chunks."""
        return self._body.missing_bytes if self._body else 0

    @property
    def held_bytes(self) -> int:
        """Bytes held for the message."""
        return self._head_bytes + len(self._partial) + (self._body.held_bytes if self._body else 0)

    def read(self, data: bytes, at: int) -> tuple[Message | Wish | None, int]:
        """Read on.

        Args:
            data: What has arrived.
            at: Where to begin: the byte that follows the last one of the previous call.

        Returns:
            The message, `EXPECTING` where the client may wait for 100, or None; and where to read on. None
            with bytes left means that others should have a turn. After a message the parser is of no use.

        Raises:
            HttpError: The message is malformed, out of bounds or refused; the connection has to end.
        """
        end = min(len(data), at + _TURN_BYTES)
        while at < end:
            if self._body is None:
                at = self._read_line(data, at, end)
            else:
                self._continue_due = False
                at = self._body.read(data, at, end)
            if self._body is not None and self._body.complete:
                return (self.line, self._body.head, self._body.content), at
        if self._continue_due and end == len(data):
            self._continue_due = False
            return EXPECTING, at
        return None, at

    def _read_line(self, data: bytes, at: int, end: int) -> int:
        """Read a line of the head, or what there is of one, and return where to read on."""
        partial = self._partial
        if not (self.line or partial) and data[at] != _CR and data[at] not in TOKEN_BYTES:
            # A TLS handshake, for one: it may never send an LF.
            raise HttpError(400, "This is not an HTTP request.", close=True)
        after = data.find(b"\n", at, end) + 1
        partial += data[at : after or end]
        # A line is refused before it is complete if its end, one LF away at best, is out of bounds.
        if self._head_bytes + len(partial) + (not after) > self._max_head:
            raise self._too_long()
        if not after:
            return end
        self._head_bytes += len(partial)
        if not partial.endswith(b"\r\n"):
            raise HttpError(400, "A line of the header section ends without CR.", close=True)
        line = bytes(partial[:-2])
        if not self.line:
            self._begin(line)
        elif line:
            self._add_field(line)
        else:
            self._end_head(len(data) - after)
        partial.clear()
        return after

    def _too_long(self) -> HttpError:
        """The refusal of a head that is out of bounds."""
        longest = self._max_head
        if self.line:
            return HttpError(
                431,
                "The header section is too long; "
                f"--max-head-bytes allows {longest} bytes, the request line included.",
                close=True,
            )
        # Without a space it is not the target that is too long, and may be no method either.
        if self._partial.find(b" ", 0, longest) < 0:
            return HttpError(400, "This is not an HTTP request.", close=True)
        return HttpError(
            414, f"The request line is too long; --max-head-bytes allows {longest} bytes.", close=True
        )

    def _begin(self, line: bytes) -> None:
        """Read a request line, or the empty line that may precede it."""
        if line:
            self.line, self._authority, self._version = parse_request_line(line, secure=self._secure)
            return
        self._head_bytes = 0
        self._empty_lines += 1
        if self._empty_lines > MAX_EMPTY_LINES:
            raise HttpError(400, "There are too many empty lines before the request line.", close=True)

    def _add_field(self, line: bytes) -> None:
        """Read a field line."""
        if len(self._fields) == self._max_fields:
            raise HttpError(
                431,
                f"The header section has too many fields; --max-fields allows {self._max_fields}.",
                close=True,
            )
        self._fields.append(parse_field(line))

    def _end_head(self, arrived_bytes: int) -> None:
        """Go on to the body, if it is wanted.

        Args:
            arrived_bytes: What has arrived behind the head. A body that is all there needs no judge: the
                handler refuses it as well, and the connection can go on.
        """
        head = build_head(self._version, tuple(self._fields), self._authority)
        bound = self._bound
        if head.content_length > bound.max_bytes:
            raise bound.refusal()
        if self._judge is not None and (head.chunked or head.content_length > arrived_bytes):
            bound = min(bound, self._judge(self.line, head))
        if head.chunked:
            self._body = ChunkedBody(head, bound, self._max_head, self._max_fields)
        elif bound.is_value and head.content_length > LARGE_BYTES:
            self._body = LargeBody(head)
        else:
            self._body = Body(head)
        self._continue_due = head.expect_continue
