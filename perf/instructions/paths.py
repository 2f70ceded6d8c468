"""The paths whose instructions are counted: what is received on each, and what has to come of it.

Keys have 11 bytes and values 64. No path asks for one key only: every read is another one.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final, NamedTuple

import orjson

from fastkv.stats import Column
from perf.websocket import frame

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LOADED: Final = 8192
"""Entries that are there beforehand."""
COUNTED: Final = 4096
"""Requests of a path that are counted; as many go before."""

_DEPTH: Final = 16
_SEED: Final = 7

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
"""Header sections by who sends them."""

HANDSHAKE: Final = (
    b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


class Reads(NamedTuple):
    """What is received on a path.

    Attributes:
        before: reads that make it warm; each code path is specialised by then, the memo filled.
        counted: the reads whose instructions are counted.
    """

    before: Sequence[bytes]
    counted: Sequence[bytes]


class Path(NamedTuple):
    """A path.

    Attributes:
        name: as in the results.
        reads: makes what is received.
        column: what counts each of its requests.
        ends: how the newest reply ends.
    """

    name: str
    reads: Callable[[], Reads]
    column: Column
    ends: bytes


def value(number: int) -> bytes:
    """The value of an entry that is there beforehand, or is put."""
    return b"v%063d" % number


def key(number: int) -> bytes:
    """The key of an entry; those from ``LOADED`` on are not there."""
    return b"k%010d" % number


def _numbers(first: int = 0) -> list[int]:
    """As many keys as there are entries, beginning with one of them, in no order."""
    numbers = list(range(first, first + LOADED))
    random.Random(_SEED).shuffle(numbers)
    return numbers


def _get(number: int, headers: str) -> bytes:
    return b"GET /get?key=%b HTTP/1.1\r\n%b" % (key(number), HEADERS[headers])


def _delete(number: int) -> bytes:
    return b"DELETE /delete?key=%b HTTP/1.1\r\n%b" % (key(number), HEADERS["plain"])


def _put(number: int) -> bytes:
    body = b'{"key":"%b","value":"%b"}' % (key(number), value(number))
    head = b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(body)
    return b"PUT /put HTTP/1.1\r\n%b%b%b" % (head, HEADERS["plain"], body)


def _message(number: int) -> bytes:
    return frame(["GET", key(number).decode()])


def _once(make: Callable[[int], bytes], first: int = 0, depth: int = 1) -> Reads:
    """Requests each of which comes once.

    Args:
        make: makes one of its number.
        first: the first number.
        depth: how many come in one read.
    """
    made = [make(number) for number in _numbers(first)]
    reads = [b"".join(made[at : at + depth]) for at in range(0, len(made), depth)]
    half = COUNTED // depth
    return Reads(reads[:half], reads[half:])


def _again(make: Callable[[int], bytes], depth: int = 1) -> Reads:
    """Requests that came several times before; at the second sight they are remembered."""
    made = [make(number) for number in _numbers()[:COUNTED]]
    reads = [b"".join(made[at : at + depth]) for at in range(0, len(made), depth)]
    twice = [request for request in made for _ in range(2)]
    return Reads(twice + reads, reads)


PATHS: Final = (
    *(
        Path(
            f"GET remembered, {who}",
            lambda who=who: _again(lambda number: _get(number, who)),
            Column.MEMO_HITS,
            b'"}',
        )
        for who in HEADERS
    ),
    *(
        Path(f"GET, {who}", lambda who=who: _once(lambda number: _get(number, who)), Column.HITS, b'"}')
        for who in HEADERS
    ),
    Path(
        "GET miss",
        lambda: _once(lambda number: _get(number, "plain"), LOADED),
        Column.MISSES,
        b'"Key not found."}',
    ),
    Path("PUT overwrite", lambda: _once(_put), Column.PUTS, b'successfully."}'),
    Path("PUT new", lambda: _once(_put, LOADED), Column.PUTS, b'successfully."}'),
    Path("DELETE", lambda: _once(_delete), Column.DELETES, b'successfully."}'),
    Path(
        "16 GET remembered",
        lambda: _again(lambda number: _get(number, "plain"), _DEPTH),
        Column.MEMO_HITS,
        b'"}',
    ),
    Path("16 GET", lambda: _once(lambda number: _get(number, "plain"), depth=_DEPTH), Column.HITS, b'"}'),
    Path("WebSocket GET remembered", lambda: _again(_message), Column.MEMO_HITS, b'"}'),
    Path("WebSocket GET", lambda: _once(_message), Column.HITS, b'"}'),
)
