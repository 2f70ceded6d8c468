"""Replies as bytes: what never changes is built at import, the rest is joined from prebuilt parts.

In: a status, a message, a key and a value. Out: a `Reply`, whose tail is put behind the prelude of its
status: the status line, Date and Connection. Nothing is raised.
"""

from base64 import b64encode
from collections.abc import Callable
from email.utils import formatdate
from typing import Final, TypeAlias

import orjson

from fastkv.http.request import Head

Reply: TypeAlias = tuple[int, bytes]
"""(status, tail): the tail is every header field but Date and Connection, the empty line and the body."""

Handler: TypeAlias = Callable[[bytes, Head, bytes], Reply]
"""What answers a request: from its query, its head and its body to the reply."""

KeyHandler: TypeAlias = Callable[[bytes, bytes, Head, bytes], Reply]
"""The same for a path of which only the beginning is fixed: the rest of it comes first."""

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
"""The interim reply for `Expect: 100-continue`; complete, without a prelude."""

RETRY_AFTER: Final = b"Retry-After: 1\r\n"

ISOLATION: Final = (
    b"Content-Security-Policy: sandbox; default-src 'none'\r\nX-Content-Type-Options: nosniff\r\n"
)
"""Fields of every reply to a request under `/kv`, and to one whose path is not known: a browser shows the
body, which may be a hostile page, without an origin, without scripts, and without loading anything."""
RESOURCES: Final = b" /kv"
"""What a request line for a resource has behind its method. A path that only begins so is no route, and its
error is treated alike."""

_PHRASES: Final = {
    101: b"Switching Protocols",
    200: b"OK",
    201: b"Created",
    204: b"No Content",
    206: b"Partial Content",
    304: b"Not Modified",
    400: b"Bad Request",
    401: b"Unauthorized",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    411: b"Length Required",
    412: b"Precondition Failed",
    413: b"Content Too Large",
    414: b"URI Too Long",
    416: b"Range Not Satisfiable",
    417: b"Expectation Failed",
    421: b"Misdirected Request",
    426: b"Upgrade Required",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    501: b"Not Implemented",
    503: b"Service Unavailable",
    505: b"HTTP Version Not Supported",
    507: b"Insufficient Storage",
}
_STATUS_LINES: Final = {status: b"HTTP/1.1 %d %b" % (status, phrase) for status, phrase in _PHRASES.items()}
_CONNECTION: Final = (b"", b"Connection: close\r\n", b"Connection: keep-alive\r\n")

# What precedes the key in the body of a hit, and the parts between and behind its strings.
HIT_OPEN: Final = b'{"status":"OK","key":"'
HIT_MIDDLE: Final = b'","value":"'
HIT_CLOSE: Final = b'"}'


class Preludes:
    """The first lines of every reply, up to Date and Connection, for one second. One per worker.

    Args:
        unix_seconds: The time for Date.

    Attributes:
        kinds: For each `Head.persistence` a dict from status to prelude. The dicts stay the same objects.
    """

    __slots__ = ("_unix_seconds", "kinds")

    def __init__(self, unix_seconds: int) -> None:
        self.kinds: tuple[dict[int, bytes], dict[int, bytes], dict[int, bytes]] = ({}, {}, {})
        self._unix_seconds = -1
        self.set_date(unix_seconds)

    def set_date(self, unix_seconds: int) -> bool:
        """Rebuild the preludes in 10 us, if the second is another one.

        Args:
            unix_seconds: The time for Date (RFC 9110, 6.6.1), whole seconds since 1970.

        Returns:
            Whether it is.
        """
        if unix_seconds == self._unix_seconds:
            return False
        self._unix_seconds = unix_seconds
        date = b"\r\nDate: " + formatdate(unix_seconds, usegmt=True).encode() + b"\r\n"
        for preludes, connection in zip(self.kinds, _CONNECTION, strict=True):
            for status, line in _STATUS_LINES.items():
                preludes[status] = line + date + connection
        return True


def json_head(length: int, extra: bytes = b"") -> bytes:
    """Return the fields of a JSON body of `length` bytes, the lines `extra` and the empty line.

    No cache keeps it: without a word on it a 404 could be kept (RFC 9111, 4.2.2), and the entry may
    be there by then.
    """
    return b"Content-Type: application/json\r\nContent-Length: %d\r\nCache-Control: no-store\r\n%b\r\n" % (
        length,
        extra,
    )


def json_reply(status: int, body: bytes, extra: bytes = b"") -> Reply:
    """Build a reply with a JSON body.

    Args:
        status: The status code.
        body: JSON.
        extra: Further header lines, each with its CRLF.
    """
    return status, json_head(len(body), extra) + body


def error_reply(status: int, message: str, extra: bytes = b"", *, to_command: bool = False) -> Reply:
    """Build the JSON error that every failure is answered with.

    Args:
        status: The status code.
        message: One sentence for the client.
        extra: Further header lines, each with its CRLF.
        to_command: Whether the client has asked for a command of Redis: it looks for `error` and for nothing
            else.
    """
    content = {"status": "ERROR", "message": message}
    if to_command:
        content["error"] = f"ERR {message}"
    return json_reply(status, orjson.dumps(content), extra)


def without_body(reply: Reply) -> Reply:
    """Return the reply to HEAD: the same fields, Content-Length included, and no body (RFC 9110, 9.3.2)."""
    status, tail = reply
    return status, tail[: tail.index(b"\r\n\r\n") + 4]


def isolation_of(line: bytes) -> bytes:
    """Return the header lines that a reply needs to isolate what it brings.

    Args:
        line: Method, space and target of the request.

    Returns:
        `ISOLATION` for a resource, else nothing.
    """
    return ISOLATION if line.find(RESOURCES) > 0 else b""


def value_reply(key: bytes, value: bytes, plain_key: bool, plain_value: bool) -> bytes:
    """Build the tail of the 200 that answers a GET hit.

    Args:
        key: The key.
        value: The value.
        plain_key: True where the key is known to be plain, see `is_plain`.
        plain_value: True where the value is known to be plain.

    Returns:
        The tail. Strings that are not UTF-8 are in base64, and the body says so.
    """
    close = HIT_CLOSE
    if not (plain_key and plain_value):
        key, value, close = _escape(key, value)
    size = len(HIT_OPEN) + len(key) + len(HIT_MIDDLE) + len(value) + len(close)
    return b"".join((json_head(size), HIT_OPEN, key, HIT_MIDDLE, value, close))


def is_plain(text: str, raw: bytes) -> bool:
    """True where a string stands in JSON as it is: no quote, no backslash, no control character.

    To let orjson write it and compare lengths takes 70 ns for 64 bytes, a table and `isalnum()` 85, a regular
    expression 230. A JSON text without a backslash has plain strings only, which is cheaper still to find
    out.

    Args:
        text: The string.
        raw: The same string as UTF-8.
    """
    return len(orjson.dumps(text)) == len(raw) + 2


def _escape(key: bytes, value: bytes) -> tuple[bytes, bytes, bytes]:
    """Return key and value as they stand between quotes, and what follows behind the value."""
    key, key_encoding = _encode(key, b',"key_encoding":"base64"')
    value, encoding = _encode(value, b',"encoding":"base64"')
    return key, value, b'"' + encoding + key_encoding + b"}"


def _encode(raw: bytes, in_base64: bytes) -> tuple[bytes, bytes]:
    """Return what stands between the quotes for a string, and `in_base64` where it had to be that."""
    try:
        return orjson.dumps(raw.decode())[1:-1], b""
    except UnicodeDecodeError:
        return b64encode(raw), in_base64


KEY_NOT_FOUND: Final = error_reply(404, "Key not found.")
PUT_OK: Final = json_reply(200, b'{"status":"OK","message":"Key inserted/updated successfully."}')
DELETE_OK: Final = json_reply(200, b'{"status":"OK","message":"Key deleted successfully."}')
HEALTHY: Final = json_reply(200, b'{"status":"healthy"}')
TOO_SLOW: Final = error_reply(408, "The request did not arrive in time.", ISOLATION)
TOO_MANY: Final = error_reply(
    503, "The server has all the connections that it may have.", RETRY_AFTER + ISOLATION
)
NO_ROOM: Final = error_reply(
    503, "The server has no memory left for further request bodies.", RETRY_AFTER + ISOLATION
)
DRAINING: Final = error_reply(503, "The server is draining.", RETRY_AFTER)
