"""The requests whose instructions are counted: what is sent on each path, and what the reply has to be.

Keys have 11 bytes and values 64, if nothing else is said. On no path is one request sent twice.
"""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from fastkv.stats import Column
from perf.websocket import frame

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

COUNTED: Final = 2048
"""Requests of a path that are counted."""
LOADED: Final = 2 * COUNTED
"""Entries that are there beforehand."""

_DEPTH: Final = 16
_SEED: Final = 7
_MASK: Final = b"\x12\x34\x56\x78"
_HOST: Final = b"Host: 127.0.0.1\r\n"

HEADERS: Final = {
    "plain": _HOST + b"\r\n",
    "curl": b"Host: 127.0.0.1:7171\r\nUser-Agent: curl/7.88.1\r\nAccept: */*\r\n\r\n",
    "browser": (
        b'Host: localhost:7171\r\nConnection: keep-alive\r\nsec-ch-ua-platform: "Linux"\r\n'
        b"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
        b"Chrome/140.0.0.0 Safari/537.36\r\nAccept: */*\r\nSec-Fetch-Site: same-origin\r\n"
        b"Sec-Fetch-Mode: cors\r\nSec-Fetch-Dest: empty\r\nReferer: http://localhost:7171/\r\n"
        b"Accept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-US,en;q=0.9\r\n"
        b"Cookie: theme=dark; sid=0123456789abcdef\r\n\r\n"
    ),
}
"""Header sections, the empty line included, by client."""

HANDSHAKE: Final = (
    b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
"""What goes before everything else on a WebSocket."""


class Path(NamedTuple):
    """A path.

    Attributes:
        name: as in the results.
        make: makes the request of a number.
        column: the counter that each request increases.
        first: the number of the first request; from ``LOADED`` on there are no entries beforehand.
        depth: requests in one write.
        ttl: whether the entries have a deadline.
        websocket: whether messages are sent, and no requests.
    """

    name: str
    make: Callable[[int], bytes]
    column: Column
    first: int = 0
    depth: int = 1
    ttl: bool = False
    websocket: bool = False

    def make_writes(self) -> tuple[Sequence[bytes], Sequence[bytes]]:
        """What a client sends: first what makes the server warm, then what is counted."""
        numbers = list(range(self.first, self.first + LOADED))
        random.Random(_SEED).shuffle(numbers)
        requests = [self.make(number) for number in numbers]
        writes = [b"".join(requests[at : at + self.depth]) for at in range(0, len(requests), self.depth)]
        middle = COUNTED // self.depth
        return writes[:middle], writes[middle:]


def key(number: int) -> bytes:
    """The key of an entry."""
    return b"k%010d" % number


def value(number: int) -> bytes:
    """The value of an entry."""
    return b"v%063d" % number


def _value_of_any_length(number: int) -> bytes:
    return b"%0*d" % (32 + number * 7919 % 65, number)


def _get(fields: bytes, number: int) -> bytes:
    return b"GET /get?key=%b HTTP/1.1\r\n%b" % (key(number), fields)


def _own_fields(number: int) -> bytes:
    """Fields that no other request has: those of W3C Trace Context, and an identifier."""
    return b"traceparent: 00-%032x-%016x-01\r\nX-Request-Id: %08x-7d2c\r\n" % (
        number * 2654435761,
        number + 1,
        number,
    )


def _get_with_own_fields(number: int) -> bytes:
    return _get(_HOST + _own_fields(number) + b"\r\n", number)


def _get_escaped(number: int) -> bytes:
    return b"GET /get?key=%%6B%b HTTP/1.1\r\n%b" % (key(number)[1:], HEADERS["plain"])


def _head(number: int) -> bytes:
    return b"HEAD" + _get(HEADERS["plain"], number)[3:]


def _get_resource(number: int) -> bytes:
    return b"GET /kv/%b HTTP/1.1\r\n%b" % (key(number), HEADERS["plain"])


def _delete(number: int) -> bytes:
    return b"DELETE /delete?key=%b HTTP/1.1\r\n%b" % (key(number), HEADERS["plain"])


def _put(
    number: int,
    make_value: Callable[[int], bytes] = value,
    fields: bytes = _HOST,
    member: bytes = b"",
    make_fields: Callable[[int], bytes] | None = None,
) -> bytes:
    body = b'{"key":"%b","value":"%b"%b}' % (key(number), make_value(number), member)
    return b"PUT /put HTTP/1.1\r\n%b%bContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
        fields,
        make_fields(number) if make_fields else b"",
        len(body),
        body,
    )


def _put_of_any_ttl(number: int) -> bytes:
    return _put(number, member=b',"ttl":%d' % (3600 + number))


def _put_resource(number: int) -> bytes:
    return b"PUT /kv/%b HTTP/1.1\r\n%bContent-Length: 64\r\n\r\n%b" % (key(number), _HOST, value(number))


def _message(number: int) -> bytes:
    return frame(["GET", key(number).decode()], mask=_MASK)


def _written_message(number: int) -> bytes:
    return frame(["SET", key(number).decode(), value(number).decode()], mask=_MASK)


def _posted(path: bytes, body: bytes, fields: bytes = b"") -> bytes:
    return b"POST %b HTTP/1.1\r\n%b%bContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
        path,
        _HOST,
        fields,
        len(body),
        body,
    )


def _post_get(number: int, fields: bytes = b"") -> bytes:
    return _posted(b"/", b'["GET","%b"]' % key(number), fields)


def _post_set(number: int) -> bytes:
    return _posted(b"/", b'["SET","%b","%b"]' % (key(number), value(number)))


def _post_pipeline(number: int) -> bytes:
    write = b'["SET","%b","%b"]' % (key(number), value(number))
    return _posted(
        b"/pipeline", b"[%b]" % b",".join([write] + [b'["GET","%b"]' % key(number)] * (_DEPTH - 1))
    )


_UPSTASH: Final = (
    b"Authorization: Bearer 0123456789abcdef\r\nUpstash-Encoding: base64\r\n"
    b"Upstash-Telemetry-Runtime: node@v22\r\n"
)
_BROWSER: Final = HEADERS["browser"].removesuffix(b"\r\n")
_PLAIN: Final = partial(_get, HEADERS["plain"])

PATHS: Final = (
    *(Path(f"GET, {client}", partial(_get, fields), Column.HITS) for client, fields in HEADERS.items()),
    Path("GET, own fields", _get_with_own_fields, Column.HITS),
    Path("GET, ttl", _PLAIN, Column.HITS, ttl=True),
    Path("GET, escaped key", _get_escaped, Column.HITS),
    Path("GET miss", _PLAIN, Column.MISSES, first=LOADED),
    Path("HEAD", _head, Column.HITS),
    Path("GET /kv", _get_resource, Column.HITS),
    Path("PUT overwrite", _put, Column.PUTS),
    Path("PUT new", _put, Column.PUTS, first=LOADED),
    Path("PUT, browser", partial(_put, fields=_BROWSER), Column.PUTS),
    Path("PUT, own fields", partial(_put, make_fields=_own_fields), Column.PUTS),
    Path("PUT, any length", partial(_put, make_value=_value_of_any_length), Column.PUTS),
    Path("PUT, ttl", partial(_put, member=b',"ttl":3600'), Column.PUTS),
    Path("PUT, any ttl", _put_of_any_ttl, Column.PUTS),
    Path("PUT /kv", _put_resource, Column.PUTS),
    Path("DELETE", _delete, Column.DELETES),
    Path("16 GET", _PLAIN, Column.HITS, depth=_DEPTH),
    Path("16 PUT", _put, Column.PUTS, depth=_DEPTH),
    Path("POST / GET", _post_get, Column.HITS),
    Path("POST / GET, Upstash", partial(_post_get, fields=_UPSTASH), Column.HITS),
    Path("POST / SET", _post_set, Column.PUTS),
    Path("POST /pipeline", _post_pipeline, Column.PUTS),
    Path("WebSocket SET", _written_message, Column.PUTS, websocket=True),
    Path("WebSocket GET", _message, Column.HITS, websocket=True),
)
"""All paths; those that begin with a number are pipelined."""

READABLE: Final = ("GET, plain", "GET miss", "GET /kv", "PUT overwrite", "PUT /kv", "16 GET")
"""Those that are counted of the readable implementation, which is a hundred times as dear."""
