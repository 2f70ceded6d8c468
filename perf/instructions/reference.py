"""What counts are compared with: a ratio to it travels further than a count.

The readable path is compared with a loop of the same mix of bytecodes and calls into C, the compiled core
with a server on the same event loop that replies with a constant. Neither has code of fastkv: what another
interpreter or library makes dearer or cheaper for requests, it makes so for these.
"""

from __future__ import annotations

import mmap
from typing import Final

import orjson
from xxhash import xxh3_64_intdigest

NAME: Final = "reference"
"""The loop."""
CONSTANT: Final = "constant reply"
"""The server."""
_WORDS: Final = 1 << 13


class Loop:
    """A table of its own, and a turn of the loop for each key."""

    __slots__ = ("_counters", "_heads", "_mem", "_seed", "_table", "_words", "_write")

    def __init__(self) -> None:
        """Make the table."""
        self._mem = memoryview(mmap.mmap(-1, 8 * _WORDS))
        self._words = self._mem.cast("Q")
        self._counters = self._words[:64]
        self._heads = {200: b"HTTP/1.1 200 OK\r\n", 404: b"HTTP/1.1 404 Not Found\r\n"}
        self._table: dict[bytes, tuple[int, bytes]] = {}
        self._seed = 7
        self._write = [b""].__setitem__

    def turn(self, data: bytes) -> None:
        """Take something apart, look it up, and put an answer together."""
        method, _, rest = data.partition(b" ")
        path, _, tail = rest.partition(b"?")
        if method == b"GET" and len(tail) < _WORDS:
            place, text = self._find(tail)
            self._counters[1] += 1
            self._write(0, self._heads[200] + b"".join((path, b": ", text)))
            if self._counters[0] > place:
                self._write(0, self._heads[404])

    def _find(self, key: bytes) -> tuple[int, bytes]:
        known = self._table.get(key)
        if known is None:
            known = self._table[key] = len(self._table), orjson.dumps(key.decode())
        place, text = known
        hashed = xxh3_64_intdigest(key, self._seed) & (_WORDS - 1)
        at = hashed & ~7
        found = self._words[at] | self._words[at + 1]
        for slot in range(4):
            if self._words[at + slot] == hashed:
                found += slot
        return place + found, text + self._mem[at : at + 16].tobytes()


def make_reads(count: int) -> list[bytes]:
    """What the loop is given.

    Args:
        count: how many, each another one.
    """
    return [b"GET /loop?k%010d HTTP/1.1\r\n" % number for number in range(count)]
