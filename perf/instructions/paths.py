"""The paths whose instructions are counted: what is received on each, and what has to come of it.

Keys have 11 bytes and values 64. On no path is one key asked for all the time: each request is another one.
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

HEADERS: Final = {
    "plain": b"Host: 127.0.0.1\r\n\r\n",
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
"""Header sections, the empty line included, by who sends them."""

HANDSHAKE: Final = (
    b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
"""What goes before everything else on a WebSocket."""


class Reads(NamedTuple):
    """What is received on a path.

    Attributes:
        before: what makes it warm: the interpreter has specialised its bytecodes then.
        counted: what is counted.
    """

    before: Sequence[bytes]
    counted: Sequence[bytes]


class Path(NamedTuple):
    """A path.

    Attributes:
        name: as in the results.
        make_reads: makes what is received.
        column: what counts each request that goes this way.
        ending: of every reply.
        websocket: whether messages are received, and no requests.
    """

    name: str
    make_reads: Callable[[], Reads]
    column: Column
    ending: bytes
    websocket: bool = False


def key(number: int) -> bytes:
    """The key of an entry; those from ``LOADED`` on are not there beforehand."""
    return b"k%010d" % number


def value(number: int) -> bytes:
    """The value of an entry."""
    return b"v%063d" % number


def _get(fields: bytes, number: int) -> bytes:
    return b"GET /get?key=%b HTTP/1.1\r\n%b" % (key(number), fields)


def _delete(number: int) -> bytes:
    return b"DELETE /delete?key=%b HTTP/1.1\r\n%b" % (key(number), HEADERS["plain"])


def _put(number: int) -> bytes:
    body = b'{"key":"%b","value":"%b"}' % (key(number), value(number))
    fields = b"Content-Type: application/json\r\nContent-Length: %d\r\n%b" % (len(body), HEADERS["plain"])
    return b"PUT /put HTTP/1.1\r\n%b%b" % (fields, body)


def _message(number: int) -> bytes:
    return frame(["GET", key(number).decode()], mask=_MASK)


def _together(requests: Sequence[bytes], depth: int) -> list[bytes]:
    """Reads, with so many requests in each."""
    return [b"".join(requests[at : at + depth]) for at in range(0, len(requests), depth)]


def _numbers(first: int) -> list[int]:
    """As many as there are entries, in no order."""
    numbers = list(range(first, first + LOADED))
    random.Random(_SEED).shuffle(numbers)
    return numbers


def _once(make: Callable[[int], bytes], first: int = 0, depth: int = 1) -> Reads:
    """Requests each of which comes once.

    Args:
        make: makes the one of a number.
        first: the first number.
        depth: how many come in a read.
    """
    requests = [make(number) for number in _numbers(first)]
    return Reads(_together(requests[:COUNTED], depth), _together(requests[COUNTED:], depth))


_GETS: Final = {who: partial(_get, fields) for who, fields in HEADERS.items()}
_HIT: Final = b'"}'
_DONE: Final = b' successfully."}'

PATHS: Final = (
    *(Path(f"GET, {who}", partial(_once, _GETS[who]), Column.HITS, _HIT) for who in HEADERS),
    Path("GET miss", partial(_once, _GETS["plain"], LOADED), Column.MISSES, b'"Key not found."}'),
    Path("PUT overwrite", partial(_once, _put), Column.PUTS, _DONE),
    Path("PUT new", partial(_once, _put, LOADED), Column.PUTS, _DONE),
    Path("DELETE", partial(_once, _delete), Column.DELETES, _DONE),
    Path("16 GET", partial(_once, _GETS["plain"], depth=_DEPTH), Column.HITS, _HIT),
    Path("WebSocket GET", partial(_once, _message), Column.HITS, _HIT, websocket=True),
)
"""All paths; those that begin with a number are pipelined."""
