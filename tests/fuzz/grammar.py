"""A mutator that knows HTTP: it joins, cuts and swaps whole pieces of it."""

import random
import re
from collections.abc import Callable

from cases import CASES

from fuzz import SEED_BYTES

_METHODS = [b"GET", b"HEAD", b"PUT", b"POST", b"DELETE", b"OPTIONS", b"PATCH", b"get", b"BREW", b"CONNECT"]
_TARGETS = [
    b"/get?key=name", b"/get?key=evil", b"/put", b"/delete?key=name", b"/health", b"/stats", b"/version",
    b"/", b"*", b"http://a/get?key=name", b"https://a/", b"/#", b"/get?key=%zz", b"/get?key=a&key=b",
    b"/\xe9", b"/get?key={a}", b"/kv/a|b", b"/set/a/b",
]  # fmt: skip
_VERSIONS = [b"HTTP/1.1", b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0", b"http/1.1"]
_FIELDS = [
    b"Host: a", b"Host: b", b"Host:", b"Connection: close", b"Connection: keep-alive",
    b"Connection: upgrade", b"Upgrade: x", b"Expect: 100-continue", b"Expect: x",
    b"Expect: ,100-continue", b"Expect:",
    b"Transfer-Encoding: chunked", b"Transfer-Encoding: x", b"Transfer-Encoding:\tchunked",
    b"Transfer-Encoding: chunked, chunked", b"Content-Length: 0", b"Content-Length: 1",
    b"Content-Length: 36", b"Content-Length: 036", b"Content-Length: +1", b"Content-Length: 1025",
    b"content-length: 3", b"If-None-Match: *", b"Origin: null", b"X: y", b"X : y", b" folded", b":",
    b"X: \0",
]  # fmt: skip
_CHUNKS = [
    b"0", b"1", b"3", b"24", b"a", b"400", b"401", b"0x3", b"3;a=b", b'3;a="b"', b"3 ;a", b"3; a", b"-1",
    b"ffffffff",
]  # fmt: skip
_BODIES = [
    b'{"key":"name","value":"UltraFastKV"}',
    b'{"key":"a","value":"b","ttl":1}',
    b'{"key":"a","value":"b","x":[-1e309,{}]}',
    b"abc",
    b"{",
    b"a" * 1024,
]
_ENDS = [b"\r\n", b"\r\n", b"\r\n", b"\r\n\r\n", b"\n", b"\r", b"\r\r\n"]
_BYTES = [
    b" ",
    b"\t",
    b"\0",
    b":",
    b";",
    b",",
    b"=",
    b'"',
    b"%",
    b"\x0b",
    b"\x7f",
    b"\xff",
    b"1",
    b"x",
    b"HTTP/1.1",
]

_find_ends = re.compile(b"\n").finditer

Rng = random.Random


def _line(rng: Rng) -> bytes:
    return b" ".join(map(rng.choice, (_METHODS, _TARGETS, _VERSIONS))) + rng.choice(_ENDS)


def _field(rng: Rng) -> bytes:
    return rng.choice(_FIELDS) + rng.choice(_ENDS)


def _chunk(rng: Rng) -> bytes:
    return (
        rng.choice(_CHUNKS) + rng.choice(_ENDS) + rng.choice((b"", b"abc", b"a")) + rng.choice((b"", b"\r\n"))
    )


def _request(rng: Rng) -> bytes:
    """A request that is nearly always good."""
    method, target = rng.choice(_METHODS[:6]), rng.choice(_TARGETS[:8])
    fields = [b"Host: a\r\n", *(_field(rng) for _ in range(rng.randrange(3)))]
    body = rng.choice(_BODIES)
    framing = rng.randrange(4)
    if framing == 0:
        fields.append(b"Content-Length: %d\r\n" % len(body))
    elif framing == 1:
        fields.append(b"Transfer-Encoding: chunked\r\n")
        body = b"".join(_chunk(rng) for _ in range(rng.randrange(3))) + b"%x\r\n%b\r\n0\r\n\r\n" % (
            len(body),
            body,
        )
    else:
        body = b""
    rng.shuffle(fields)
    return method + b" " + target + b" HTTP/1.1\r\n" + b"".join(fields) + b"\r\n" + body


_PIECES: list[Callable[[Rng], bytes]] = [
    _line,
    _field,
    _field,
    _chunk,
    _request,
    lambda rng: rng.choice(CASES).data,
    lambda rng: rng.choice(_BODIES),
    lambda rng: rng.choice(_ENDS),
    lambda rng: rng.choice(_BYTES),
]


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """Change an input a little, at the joints of its grammar.

    Args:
        data: The input.
        max_size: Bytes that the result may have.
        seed: What chooses.

    Returns:
        Another input.
    """
    rng = random.Random(seed)
    choice, stream = data[:SEED_BYTES].ljust(SEED_BYTES, b"\0"), data[SEED_BYTES:]
    if rng.random() < 0.3:
        choice = rng.randbytes(SEED_BYTES)
    for _ in range(rng.choice((1, 1, 2, 3))):
        # Between lines most of the time, anywhere else sometimes.
        joints = [0, *(match.end() for match in _find_ends(stream)), len(stream)]
        start, end = sorted(
            rng.choice(joints) if rng.random() < 0.7 else rng.randint(0, len(stream)) for _ in "ab"
        )
        match rng.randrange(5):
            case 0:  # put in
                stream = stream[:start] + rng.choice(_PIECES)(rng) + stream[start:]
            case 1:  # take out
                stream = stream[:start] + stream[end:]
            case 2:  # put in place
                stream = stream[:start] + rng.choice(_PIECES)(rng) + stream[end:]
            case 3:  # repeat
                stream = stream[:end] + stream[start:end] * rng.choice((1, 1, 2, 8)) + stream[end:]
            case _:  # put behind
                stream += _request(rng)
    return (choice + stream)[:max_size]
