"""The full parser: what HTTP/1.1 and HTTP/1.0 allow, at any split of its bytes, and an error for the rest.

In: the bytes of one connection. Out: complete messages in order, or the one `HttpError` after which nothing
is read any more. Nothing is raised. Of a body that is still to come the judge is asked first: a request that
it refuses is such an error, and no byte of its body is kept.

It reads by lines what `fast` declines, with the functions of `request` that the fast parser uses too, and
leaves the body to `body`.
"""

from collections import deque
from collections.abc import Callable
from typing import Final, TypeAlias

from fastkv.http.body import Body, BodyBound, ChunkedBody
from fastkv.http.request import (
    CLOSE,
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


class FullParser:
    """Parses what one connection sends, from a message boundary on.

    Limits are counted here, so that the same bytes get the same answer however they are split.

    Args:
        max_head_bytes: Bytes of request line and header section together, all line ends included (431); the
            line alone may have all of them (414).
        max_body_bytes: Bytes of a body, declared or arrived (413).
        max_fields: Fields of a header section (431).
        secure: The connection is secured: an https URL may be asked for (421 otherwise).
        judge: Decides on requests whose body is still to come; without one all are read.

    Attributes:
        messages: Complete messages, the oldest at the left; to be popped.
        error: Why the input was refused, or None. What arrives after it is ignored, and so is what follows a
            request that ends the connection.
        line: Method, space and target of the message in progress, or of the one that was refused; b"" where
            there is none or it could not be read.
        headless: True where it was a HEAD that was refused: the reply has no body (RFC 9110, 9.3.2).
    """

    __slots__ = (
        "_at_end",
        "_at_upgrade",
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
        "_rest",
        "_searched",
        "_secure",
        "_version",
        "error",
        "headless",
        "line",
        "messages",
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
        self.messages: deque[Message] = deque()
        self.error: HttpError | None = None
        self.headless = False
        # The connection: an unfinished line, how much of it has no LF, whether the last request was read.
        self._rest = b""
        self._searched = 0
        self._at_end = False
        self._at_upgrade = False
        # The message in progress: no line yet, then its head, then its body.
        self.line = b""
        self._authority: bytes | None = None
        self._version = b""
        self._fields: list[Field] = []
        self._head_bytes = 0
        self._empty_lines = 0
        self._body: Body | None = None
        self._continue_due = False

    @property
    def idle(self) -> bool:
        """True where no message has begun; an empty line before one is none."""
        return not (self.in_head or self._at_end or self.error)

    @property
    def in_head(self) -> bool:
        """True where a message has begun."""
        return bool(self.line or self._rest)

    @property
    def at_boundary(self) -> bool:
        """True where the next byte begins a message, which any parser may read then.

        Not behind an empty line: another parser would count them anew, and they would be bounded in one read
        only.
        """
        return self.idle and not self._empty_lines

    @property
    def in_body(self) -> bool:
        """True where the head of the message in progress is complete and its body is not."""
        return self._body is not None

    @property
    def body_bytes(self) -> int:
        """Bytes of the body that have arrived."""
        return len(self._body.content) if self._body else 0

    @property
    def missing_bytes(self) -> int:
        """Bytes of the body that have not arrived; at most, where it comes in chunks."""
        return self._body.missing_bytes if self._body else 0

    @property
    def buffered_bytes(self) -> int:
        """Bytes held for the message in progress."""
        return len(self._rest) + self._head_bytes + self.body_bytes

    def take_expecting(self) -> bool:
        """True, once for a message, where the client may wait for 100 before the body (RFC 9110, 10.1.1)."""
        due, self._continue_due = self._continue_due, False
        return due

    def feed(self, data: bytes) -> bytes:
        """Read on; look at `messages`, `error` and `take_expecting` afterwards.

        Args:
            data: The bytes that follow those of the last call.

        Returns:
            What was not read: all that follows a request for an upgrade. Whether it is HTTP depends on the
            answer to that (RFC 9110, 7.8); where it is, the next call begins with it.
        """
        data, at = self._rest + data, 0
        self._rest = b""
        self._at_upgrade = False
        try:
            while at < len(data) and not self._at_end:
                if self._at_upgrade:
                    return data[at:]
                after = (
                    self._read_line(data, at) if self._body is None else self._read_body(data, at, self._body)
                )
                if after == at:
                    self._rest = data[at:]
                    break
                at = after
        except HttpError as error:
            # Without the traceback, which would hold this object and so make a cycle.
            self.error = error.with_traceback(None)
            self.headless = (self.line or data[at : at + 5]).startswith(b"HEAD ")
            self._at_end = True
            self._continue_due = False
            self._body = None
        return b""

    def _read_line(self, data: bytes, at: int) -> int:
        """Read a line of a head and return where the next begins, or `at` where it is not all there."""
        if not self.line and data[at] != _CR and data[at] not in TOKEN_BYTES:
            # A TLS handshake, for one: it may never send an LF.
            raise HttpError(400, "This is not an HTTP request.", close=True)
        end = data.find(b"\n", at + self._searched) + 1
        self._check_head_size(data, at, (end or len(data) + 1) - at)
        if not end:
            self._searched = len(data) - at
            return at
        self._searched = 0
        self._head_bytes += end - at
        if data[end - 2 : end] != b"\r\n":
            raise HttpError(400, "A line of the header section ends without CR.", close=True)
        line = data[at : end - 2]
        if not self.line:
            self._begin(line)
        elif line:
            self._add_field(line)
        else:
            head = build_head(self._version, tuple(self._fields), self._authority)
            self._end_head(head, len(data) - end)
        return end

    def _check_head_size(self, data: bytes, at: int, line_bytes: int) -> None:
        """Refuse a line before it is complete if its end, one LF away at best, is out of bounds."""
        longest = self._max_head
        if not self.line and line_bytes > longest:
            # Without a space it is not the target that is too long, and may be no method either.
            if data.find(b" ", at, at + longest) < 0:
                raise HttpError(400, "This is not an HTTP request.", close=True)
            raise HttpError(
                414, f"The request line is too long; --max-head-bytes allows {longest} bytes.", close=True
            )
        if self._head_bytes + line_bytes > longest:
            raise HttpError(
                431,
                "The header section is too long; "
                f"--max-head-bytes allows {longest} bytes, the request line included.",
                close=True,
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

    def _end_head(self, head: Head, arrived_bytes: int) -> None:
        """Go on to the body, if there is one and it is wanted.

        Args:
            head: The head.
            arrived_bytes: What has arrived behind it. A body that is all there needs no judge: the handler
                refuses it as well, and the connection can go on.
        """
        bound = self._bound
        if head.content_length > bound.max_bytes:
            raise bound.refusal()
        if self._judge is not None and (head.chunked or head.content_length > arrived_bytes):
            bound = min(bound, self._judge(self.line, head))
        if head.chunked:
            self._body = ChunkedBody(head, bound, self._max_head, self._max_fields)
        elif head.content_length:
            self._body = Body(head)
        else:
            self._end_message(head, b"")
            return
        self._continue_due = head.expect_continue

    def _read_body(self, data: bytes, at: int, body: Body) -> int:
        """Read what there is of the body and return where to read on."""
        self._continue_due = False
        after = body.read(data, at)
        if body.complete:
            self._end_message(body.head, bytes(body.content))
        return after

    def _end_message(self, head: Head, content: bytes) -> None:
        """Hand over a message and make ready for the next, if there may be one."""
        self.messages.append((self.line, head, content))
        self._at_end = head.persistence == CLOSE
        self._at_upgrade = head.upgrade is not None
        self.line = b""
        self._authority = None
        self._fields = []
        self._head_bytes = 0
        self._empty_lines = 0
        self._body = None
