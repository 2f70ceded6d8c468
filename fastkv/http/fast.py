"""The fast parser: what curl, browsers and load generators send, in a few calls into C.

In: bytes that begin on a message boundary. Out: request lines, the `Head` they share, the body and how many
bytes that was; or `NEED_DATA`, or `DECLINED` for all that is unusual or wrong, which `full` then reads or
refuses. Nothing is raised and nothing is guessed.

Clients repeat their header section byte for byte, so the parser keeps the sections it has validated and
compares the next one with them: it looks at a field only when it sees a section for the first time.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from itertools import takewhile
from typing import Final, Literal, TypeAlias

from fastkv.http.request import (
    KEEP_ALIVE,
    MAX_FIELDS,
    TARGET_BYTES,
    Head,
    HttpError,
    build_head,
    parse_field,
)


class Outcome(Enum):
    """Why there is no request."""

    NEED_DATA = "need data"
    """The request may be complete with more bytes; call again with all of them."""
    DECLINED = "declined"
    """The full parser has to read these bytes."""


NEED_DATA: Final = Outcome.NEED_DATA
DECLINED: Final = Outcome.DECLINED

Parsed: TypeAlias = tuple[list[bytes], Head, bytes | None, int]
"""(lines, head, body, used), see `FastParser.parse`."""

MAX_BLOCK_BYTES: Final = 4096
"""A longer header section is declined: full reads it by pieces, and only short ones are worth keeping."""
MAX_KEPT_BLOCKS: Final = 1024
MAX_KEPT_BYTES: Final = 512 * 1024

_METHODS = (b"PUT /", b"POST /", b"GET /", b"HEAD /", b"DELETE /", b"OPTIONS /", b"PATCH /")

# Request lines that come so often that they are known to be right; both mean the same.
_FREQUENT: Final = frozenset((b"POST /put", b"PUT /put"))

# Maps each byte that a target may have to a letter and all else, the space included, to a space.
_TARGET = bytes(ord("a") if byte in TARGET_BYTES else 0x20 for byte in range(256))
_SPACE = 0x20
_VERSION = b" HTTP/1.1\r\n"
_END = b"\r\n\r\n"


def is_request_line(line: bytes) -> bool:
    """True for a usual method, one space and a target in origin-form (RFC 9112, 3).

    Args:
        line: What stands before the version.
    """
    return line.startswith(_METHODS) and line.translate(_TARGET).count(_SPACE) == 1


def _accept_all(_: Head) -> bool:
    return True


class FastParser:
    """Parses requests; between calls it keeps validated header sections and nothing else. One per worker.

    Args:
        max_head_bytes: Bytes of request line and header section together; a longer head is declined.
        max_body_bytes: A request that declares a longer body is declined.
        max_fields: A header section with more fields is declined.
        accepts: Tells whether every request with a head may be answered as it is; a section for which that
            does not hold is declined and not kept.

    Attributes:
        max_line: Bytes of a request line without its version; a longer one is declined.
        before_bodies: The sections that are kept and declare a body, by a frequent line and the section as
            they stand before the empty line.
    """

    __slots__ = (
        "_accepts",
        "_alone",
        "_heads",
        "_kept_bytes",
        "_longest",
        "_max_block",
        "_max_body",
        "_max_fields",
        "_order",
        "before_bodies",
        "max_line",
    )

    def __init__(
        self,
        max_head_bytes: int,
        max_body_bytes: int,
        max_fields: int = MAX_FIELDS,
        accepts: Callable[[Head], bool] = _accept_all,
    ) -> None:
        # The line may have what the section leaves: with both in bounds the head is.
        self._max_block = min(MAX_BLOCK_BYTES, max_head_bytes // 2)
        self.max_line = max_head_bytes - self._max_block - len(_VERSION)
        self._max_body = max_body_bytes
        self._max_fields = max_fields
        self._accepts = accepts
        # Sections by what stands before their empty line and, without a body, by all that follows the line.
        self._heads: dict[bytes, Head] = {}
        self._alone: dict[bytes, Head] = {}
        self.before_bodies: dict[bytes, Head] = {}
        # A deque keeps the order: to find its oldest key, a dict walks over all that were deleted before it.
        self._order: deque[bytes] = deque()
        self._kept_bytes = 0
        self._longest = 0

    def parse(self, data: bytes) -> Parsed | Literal[Outcome.NEED_DATA, Outcome.DECLINED]:
        """Parse the request, or the pipelined requests of one kind, that `data` begins with.

        Args:
            data: Bytes from a message boundary on.

        Returns:
            (lines, head, body, used): one or more request lines (method, space, target) that came with one
            and the same header section; that section; the body, None where it is not all there; and the bytes
            consumed, up to where the body begins if it is None. There is a body, and then one line, only
            where the head declares it. Or `NEED_DATA`, or `DECLINED`.
        """
        line, _, rest = data.partition(_VERSION)
        # One request and nothing else: then the rest as a whole is a section. It is hashed only where it is
        # short enough for that: for a batch of 16 it would cost 400 ns in vain.
        head = self._alone.get(rest) if len(rest) <= self._longest else None
        if head is not None and len(line) <= self.max_line:
            # `is_request_line` inlined for GET, 100 ns in place of 190. Where there is no such prefix to
            # remove, removeprefix() hands back its own argument.
            path = line.removeprefix(b"GET /")
            if (path is not line and path.translate(_TARGET).isalnum()) or is_request_line(line):
                return [line], head, b"", len(data)
            return DECLINED
        fields, end, rest = rest.partition(_END)
        if not end:
            return self._incomplete(data)
        # `is_request_line` inlined, 50 ns; a PUT's line is always the same, 200 ns.
        if line not in _FREQUENT and (
            not line.startswith(_METHODS)
            or line.translate(_TARGET).count(_SPACE) != 1
            or len(line) > self.max_line
        ):
            return DECLINED
        head = self._heads.get(fields) or self._learn(fields)
        if head is None:
            return DECLINED
        used = len(data) - len(rest)
        length = head.content_length
        if length:
            if line in _FREQUENT:
                self.before_bodies[line + _VERSION + fields] = head
            if len(rest) < length:
                return [line], head, None, used
            return [line], head, rest[:length], used + length
        if not rest or head.persistence != KEEP_ALIVE:
            return [line], head, b"", used
        return self._parse_batch(data, _VERSION + fields + _END, head)

    def _parse_batch(self, data: bytes, separator: bytes, head: Head) -> Parsed:
        """Parse the requests without a body that `data` begins with and that end with `separator`."""
        # rsplit() takes 85 ns per request and split() 180. They differ only for separators that overlap; this
        # one has an empty line at its end and nowhere else, so it cannot.
        lines = data.rsplit(separator)
        rest = lines.pop()
        # `is_request_line` for all at once, 60 ns each in place of 190: with a line feed before each line,
        # each line feed has "GET /" behind it, and these feeds and spaces are all that no target may have.
        text = b"\n" + b"\n".join(lines)
        count = len(lines)
        usual = text.count(b"\nGET /") == count and text.translate(_TARGET).count(_SPACE) == 2 * count
        if not usual or len(text) > self.max_line:
            good = list(takewhile(self._is_usual, lines))
            rest = separator.join([*lines[len(good) :], rest])
            lines = good
        return lines, head, b"", len(data) - len(rest)

    def _incomplete(self, data: bytes) -> Literal[Outcome.NEED_DATA, Outcome.DECLINED]:
        """Wait for the rest of a head unless it is clear that it will be long, unusual or wrong.

        The bound keeps the work small for a client that sends byte by byte: each call searches all of `data`,
        full only what is new.
        """
        line, crlf, _ = data.partition(b"\r\n")
        lines = data.count(b"\r\n")
        if (
            (crlf and not line.endswith(b" HTTP/1.1"))
            or _END in data
            or data.count(b"\n") != lines
            or data.count(b"\r", 0, -1) != lines  # the last one may be half an end
        ):
            return DECLINED
        if len(data) > self._max_block or not (data[:1].isupper() or not data):
            return DECLINED
        return NEED_DATA

    def _is_usual(self, line: bytes) -> bool:
        """True for a request line that is well-formed and short enough."""
        return len(line) <= self.max_line and is_request_line(line)

    def _learn(self, fields: bytes) -> Head | None:
        """Validate a header section and keep what came of it, unless it has to be declined."""
        lines = fields.split(b"\r\n")
        if len(fields) + len(_END) > self._max_block or len(lines) > self._max_fields:
            return None
        try:
            head = build_head(b"1.1", tuple(map(parse_field, lines)))
        except HttpError:
            return None
        if head.chunked or head.expect_continue or head.upgrade or head.content_length > self._max_body:
            return None
        if not self._accepts(head):
            return None
        if head.memoable:
            head = replace(head, tail=_VERSION + fields + _END)
        self._keep(fields, head)
        return head

    def _keep(self, fields: bytes, head: Head) -> None:
        """Remember a section and forget the oldest ones past the bounds."""
        self._heads[fields] = head
        if not head.content_length:
            self._alone[fields + _END] = head
            self._longest = max(self._longest, len(fields) + len(_END))
        self._order.append(fields)
        self._kept_bytes += len(fields)
        while len(self._order) > MAX_KEPT_BLOCKS or self._kept_bytes > MAX_KEPT_BYTES:
            oldest = self._order.popleft()
            del self._heads[oldest]
            self._alone.pop(oldest + _END, None)
            for line in _FREQUENT:
                self.before_bodies.pop(line + _VERSION + oldest, None)
            self._kept_bytes -= len(oldest)
