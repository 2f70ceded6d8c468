"""Bodies: where they end, free of any coding (RFC 9112, 6 and 7.1).

In: what follows a head, at any split of its bytes. Out: the content. `HttpError` is raised for chunks that
are malformed or out of bounds: no two readers may find different ends.

Chunks are read twice. llhttp, behind httptools, takes extensions that lack a name or a value, refuses the
white space around them that has to be read, and finds a chunk out of bounds when it has come; so the lines
are read here, to the letter. But what could be framed in two ways is not to be taken, and that is best asked
of a second reader: llhttp is fed the sizes and the data, and has to find the same end at the same byte.

It does not read heads. Measured as general parser it takes empty lines and bare LFs before a request,
Transfer-Encoding in HTTP/1.0, double spaces and fragments; it refuses methods that it does not know; and it
says of nothing at which byte it was found, so each rule would need a reader of our own before it.
"""

import re
from io import BytesIO
from mmap import PAGESIZE
from typing import Final, NamedTuple, cast

import httptools

from fastkv.http.large import HUGE_PAGE_BYTES, map_memory, use_huge_pages
from fastkv.http.request import Head, HttpError, ValueRefused, parse_field
from fastkv.http.responses import RETRY_AFTER

MAX_SIZE_DIGITS: Final = 16
"""Digits of a chunk's size that cost nothing; all else of its line counts as framing."""

LARGE_BYTES: Final = 4 << 20
"""What the C library maps apart in any case."""

_LF: Final = b"\n"
_CRLF: Final = b"\r\n"
_HEX_DIGITS: Final = frozenset(b"0123456789ABCDEFabcdef")

# chunk-size [ chunk-ext ], RFC 9112, 7.1 and 7.1.1; white space around ";" and "=" is bad but has to be read.
# Nothing is tried twice (`*+`): the client that sends the line also chooses how it fails.
_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_QUOTED = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*+"'
_match_size = re.compile(
    rb"0*([0-9A-Fa-f]{1,16})(?:[ \t]*+;[ \t]*+%b(?:[ \t]*+=[ \t]*+(?:%b|%b))?+)*+" % (_TOKEN, _TOKEN, _QUOTED)
).fullmatch

# The same without extensions, and short.
_match_plain_size = re.compile(rb"([0-9A-Fa-f]{1,8})\r\n").match

# What would frame the message a second time (RFC 9110, 6.5.1); other fields of a trailer section are dropped.
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})


class BodyBound(NamedTuple):
    """How long a body may be.

    Attributes:
        max_bytes: Its bytes at most, free of any coding.
        is_value: True where it is a value as it stands, and that is what is bounded.
    """

    max_bytes: int
    is_value: bool = False

    def refusal(self) -> HttpError:
        """The answer to a body that is longer; the connection ends with it."""
        if self.is_value:
            return ValueRefused(
                413, f"The value is too long; --max-value-bytes allows {self.max_bytes} bytes.", close=True
            )
        return HttpError(
            413, f"The request body is too long; --max-body-bytes allows {self.max_bytes} bytes.", close=True
        )


class Body:
    """A body whose length is known before it comes (RFC 9112, 6.2).

    Args:
        head: The head that declares it.

    Attributes:
        head: The same.
        arrived_bytes: How much has arrived of its content.
        complete: True where nothing of the message is missing.
    """

    __slots__ = ("_content", "arrived_bytes", "complete", "head")

    def __init__(self, head: Head) -> None:
        self.head = head
        self._content = BytesIO()  # its bytes can be had without a copy
        self.arrived_bytes = 0
        self.complete = not (head.chunked or head.content_length)

    @property
    def missing_bytes(self) -> int:
        """Bytes of content that have not arrived."""
        return self.head.content_length - self.arrived_bytes

    @property
    def held_bytes(self) -> int:
        """Bytes that are kept."""
        return self.arrived_bytes

    @property
    def content(self) -> bytes:
        """What has arrived."""
        return self._content.getvalue()

    def _add(self, part: memoryview) -> None:
        """Keep what has arrived of the content."""
        self._content.write(part)
        self.arrived_bytes += len(part)

    def read(self, data: bytes, at: int, end: int) -> int:  # noqa: ARG002 - chunks have one
        """Read on.

        Args:
            data: What has arrived.
            at: Where to read on.
            end: Where to stop at the latest; a body in one piece needs no end: it is only copied.

        Returns:
            Where to read on next time, `at` or behind it.

        Raises:
            HttpError: 400 for malformed chunks or trailers, 413 for a body that is too large, 431 for chunk
                extensions or trailers that are.
        """
        after = min(at + self.missing_bytes, len(data))
        self._add(memoryview(data)[at:after])
        self.complete = not self.missing_bytes
        return after


class LargeBody(Body):
    """A body that is a value of more than `LARGE_BYTES`: its content is a buffer, in memory of its own.

    Args:
        head: The head that declares it.

    Raises:
        HttpError: 503 if there is no such memory.
    """

    __slots__ = ("_huge", "_memory")

    def __init__(self, head: Head) -> None:
        super().__init__(head)
        try:
            self._memory = map_memory(head.content_length)
        except OSError:
            raise HttpError(
                503, "The server has no memory for such a long body.", close=True, extra=RETRY_AFTER
            ) from None
        self._huge = False  # the rest comes into huge pages

    @property
    def held_bytes(self) -> int:
        """Bytes that are kept."""
        return self.arrived_bytes + HUGE_PAGE_BYTES * self._huge

    @property
    def content(self) -> bytes:
        """What has arrived, as a buffer; handlers of values take it for bytes."""
        return cast("bytes", memoryview(self._memory))

    def _add(self, part: memoryview) -> None:
        """Keep what has arrived of the content."""
        if not self._huge and self.arrived_bytes >= LARGE_BYTES:
            # A body that has only begun would take a whole huge page, and there may be thousands of them.
            self._huge = True
            use_huge_pages(self._memory, -(-self.arrived_bytes // PAGESIZE) * PAGESIZE)
        after = self.arrived_bytes + len(part)
        self._memory[self.arrived_bytes : after] = part
        self.arrived_bytes = after


class ChunkedBody(Body):
    """A body in chunks.

    Args:
        head: The head that declares it.
        bound: How much content there may be (413).
        max_framing: Bytes that extensions and trailers may have together (431).
        max_fields: Fields of the trailer section (431).
    """

    __slots__ = (
        "_bound",
        "_fields",
        "_framing",
        "_in_trailers",
        "_left",
        "_max_fields",
        "_max_framing",
        "_partial",
        "_witness",
    )

    def __init__(self, head: Head, bound: BodyBound, max_framing: int, max_fields: int) -> None:
        super().__init__(head)
        self._bound = bound
        self._max_framing = max_framing
        self._max_fields = max_fields
        self._left = 0  # bytes missing of a chunk, its CRLF included
        self._partial = bytearray()  # of a line: what there is without its end
        self._in_trailers = False
        self._framing = 0
        self._fields = 0
        self._witness = _Witness()

    @property
    def missing_bytes(self) -> int:
        """Bytes of content that may still come."""
        return self._bound.max_bytes - self.arrived_bytes

    @property
    def held_bytes(self) -> int:
        """Bytes that are kept."""
        return self.arrived_bytes + len(self._partial)

    def read(self, data: bytes, at: int, end: int) -> int:
        """Read on, see `Body.read`."""
        while at < end and not self.complete:
            if self._left:
                at = self._read_data(data, at)
            elif self._in_trailers or self._partial:
                at = self._read_line(data, at, end)
            else:
                at = self._read_whole_chunks(data, at, end)
                if at < end:
                    at = self._read_line(data, at, end)
        if not self._witness.agrees(self.arrived_bytes, complete=self.complete):
            raise _malformed()
        return at

    def _read_whole_chunks(self, data: bytes, at: int, stop: int) -> int:
        """Read those that are all there and usual: 0.5 us each where the two methods below take 2."""
        view, most, begin_at = memoryview(data), self._bound.max_bytes, at
        while at < stop and (match := _match_plain_size(data, at)) is not None:
            begin = match.end()
            size = int(match[1], 16)
            end = begin + size
            if not size or data[end : end + 2] != _CRLF or self.arrived_bytes + size > most:
                break
            self._add(view[begin:end])
            at = end + 2
        if at > begin_at:
            self._witness.hear(view[begin_at:at])
        return at

    def _read_data(self, data: bytes, at: int) -> int:
        """Read data of a chunk, or the CRLF behind it."""
        if self._left > len(_CRLF):
            part = memoryview(data)[at : at + self._left - len(_CRLF)]
            self._add(part)
        else:
            part = memoryview(data)[at : at + self._left]
            if part != _CRLF[-self._left :][: len(part)]:
                raise _malformed()
        self._left -= len(part)
        self._witness.hear(part)
        return at + len(part)

    def _read_line(self, data: bytes, at: int, end: int) -> int:
        """Read the line before a chunk, or a trailer, or what there is of one."""
        partial = self._partial
        if not (self._in_trailers or partial) and data[at] not in _HEX_DIGITS:
            raise _malformed()  # it may never send an LF
        after = data.find(_LF, at, end) + 1
        partial += data[at : after or end]
        # A line is refused before it is complete if its end, one LF away at best, is out of bounds.
        size = len(partial) + (not after)
        framing = self._framing + max(0, size if self._in_trailers else size - MAX_SIZE_DIGITS - len(_CRLF))
        if framing > self._max_framing:
            raise HttpError(
                431,
                "Extensions and trailers of chunks are too long; "
                f"--max-head-bytes allows {self._max_framing} bytes.",
                close=True,
            )
        if not after:
            return end
        if not partial.endswith(_CRLF):
            raise _malformed()
        self._framing = framing
        line = bytes(partial[:-2])
        partial.clear()
        if not self._in_trailers:
            self._begin_chunk(line)
        elif line:
            self._drop_field(line)
        else:
            self._witness.hear(_CRLF)
            self.complete = True
        return after

    def _begin_chunk(self, line: bytes) -> None:
        """Read a size; the last chunk has none."""
        match = _match_size(line)
        if match is None:
            raise _malformed()
        size = int(match[1], 16)
        if self.arrived_bytes + size > self._bound.max_bytes:
            raise self._bound.refusal()
        if size:
            self._left = size + len(_CRLF)
        else:
            self._in_trailers = True
        self._witness.hear(b"%x\r\n" % size)

    def _drop_field(self, line: bytes) -> None:
        """Check a trailer field; nothing asks for one, so nothing keeps it (RFC 9110, 6.5.1)."""
        name, _ = parse_field(line)
        if name in _FRAMING:
            raise HttpError(400, "A trailer field must not frame the message.", close=True)
        self._fields += 1
        if self._fields > self._max_fields:
            raise HttpError(
                431,
                f"The trailer section has too many fields; --max-fields allows {self._max_fields}.",
                close=True,
            )


class _Witness:
    """llhttp, as a second reader of chunks; extensions and trailers are not its business."""

    __slots__ = ("_parser", "_seen")

    def __init__(self) -> None:
        self._seen = _Seen()
        self._parser = httptools.HttpRequestParser(self._seen)
        self.hear(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")

    def hear(self, data: bytes | memoryview) -> None:
        """Read on.

        Raises:
            HttpError: 400 where this reader finds no chunks.
        """
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            raise _malformed() from None

    def agrees(self, content_bytes: int, *, complete: bool) -> bool:
        """Return whether this reader has found as much content, and the end where there is one."""
        return self._seen.content_bytes == content_bytes and self._seen.complete is complete


class _Seen:
    """What httptools calls back. It does not know its parser: together they would be a cycle."""

    __slots__ = ("complete", "content_bytes")

    def __init__(self) -> None:
        self.content_bytes = 0
        self.complete = False

    def on_body(self, part: bytes) -> None:
        """Count a part."""
        self.content_bytes += len(part)

    def on_message_complete(self) -> None:
        """Note the end."""
        self.complete = True


def _malformed() -> HttpError:
    return HttpError(400, "The chunks of the body are malformed.", close=True)
