"""The core's JSON commands against the readable ones: bodies of POST / and /pipeline."""

import random
from functools import cache
from typing import Any

from fake import MAX_VALUE_BYTES
from test_core_http import Pair

from fastkv.http.request import build_head
from fastkv.steps import Unfinished, finish
from fuzz import SEED_BYTES, unpack

_HEADS = [
    build_head(b"1.1", ((b"host", b"a"), (b"content-length", b"1"), *more))
    for more in ((), ((b"upstash-encoding", b"base64"),))
]
# To compare two arenas takes a thousand times as long as to answer an input.
_CHECKED_AFTER = 2000
_RENEWED_AFTER = 100_000
_PIECES = [
    b"[", b"]", b",", b" ", b"\n", b'"', b"\\", b'["GET","a"]', b'["SET","a","b"]', b'["SET","a",41]',
    b'["INCR","a"]', b'["DEL","a"]', b'["MGET","a","b"]', b'["SET","a","b","EX",1]', b'"PX"', b'"ex"',
    b'"GET"', b'"mget"', b'"incr"', b'"Set"', b'"del"', b'"a"', b'"b"', b'""', b"0", b"-0", b"-1", b"01",
    b"1.5", b"9223372036854775807", b'"-9223372036854775808"', b"10000000000", b"1e400", b"null", b"true",
    b"{}", b"\\u0041", b"\\ud83d\\ude00", b"\\ud83d", b'\\"', b"\xc3\xa9", b"\xf0\x9f\x98\x80", b"\xff",
    b"\xed\xa0\x80", b"\0", b"\x1f", b"k" * 65, b"v" * 15, b"v" * 16, b"v" * (MAX_VALUE_BYTES // 8),
    b'["PING"]', b'["SET","a","b","NX"]',
]  # fmt: skip


class _Fixture:
    """Two workers, and how often they were used."""

    def __init__(self) -> None:
        self._renew()

    def _renew(self) -> None:
        self._used = 0
        self._pair = Pair()

    def check(self, body: bytes, batch: bool, in_base64: bool) -> None:
        """Raise where the two answer otherwise."""
        reply = self._pair.compiled.http.commands.answer(body, batch, in_base64)
        if reply is not None:
            redis = self._pair.readable.routes.redis
            answered: Any
            try:
                answered = (redis.pipeline if batch else redis.one)(b"", _HEADS[in_base64], body)
            except Unfinished as unfinished:
                answered = finish(unfinished.steps)
            status, tail = answered
            assert status == 200, body
            assert tail.partition(b"\r\n\r\n")[2] == reply, body
        self._used += 1
        if self._used % _CHECKED_AFTER == 0:
            self._pair.check()
        if self._used % _RENEWED_AFTER == 0:
            self._renew()


_fixture = cache(_Fixture)


def check(data: bytes) -> None:
    """Raise where the core takes what the readable path answers otherwise.

    Args:
        data: The input: a body. The seed chooses whether it is a pipeline, and the encoding of the reply.
    """
    rng, body = unpack(data)
    _fixture().check(body, rng.random() < 0.4, rng.random() < 0.3)


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """Put pieces of commands into an input.

    Args:
        data: The input.
        max_size: The longest that it may become.
        seed: For what is chosen.

    Returns:
        The other input.
    """
    rng = random.Random(seed)
    _, body = unpack(data)
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(body) + 1)
        body = body[:at] + rng.choice(_PIECES) + body[at + rng.choice((0, 0, 0, 1, 3)) :]
    return (data[:SEED_BYTES].ljust(SEED_BYTES, b"\0") + body)[:max_size]
