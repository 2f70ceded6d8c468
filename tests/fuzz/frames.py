"""The core's frames of WebSockets against the readable path: whole connections, cut anywhere."""

import asyncio
import random
from collections.abc import Callable
from functools import cache

from test_core_http import Pair
from test_ws_websocket import connect
from ws_frames import CONT, DEFLATE, PING, TEXT, frame

from fastkv.stats import Column
from fuzz import SEED_BYTES, cut, unpack
from fuzz.commands import mutate as mutate_command

_CHECKED_AFTER = 500
_RENEWED_AFTER = 20_000


class _Fixture:
    """Two workers, and how often they were used."""

    def __init__(self) -> None:
        self._renew()

    def _renew(self) -> None:
        self._used = 0
        self._pair = Pair()

    async def check(self, rng: random.Random, stream: bytes) -> None:
        """Raise where the two answer otherwise."""
        said = []
        pair = self._pair
        extra = DEFLATE if rng.random() < 0.3 else b""
        pieces = cut(rng, stream)
        for worker in (pair.compiled, pair.readable):
            client = connect(worker, extra)
            await client.send_patiently(*pieces)
            while not (client.transport.reading or client.transport.closed):
                client.transport.client_reads()
                await asyncio.sleep(0)
            said.append((client.take(), client.transport.ended, client.transport.closed))
            if client.transport.closed:
                await asyncio.sleep(0)
            else:
                client.leave()
        assert said[0] == said[1], pieces
        assert pair.compiled.counters[Column.MESSAGES] == pair.readable.counters[Column.MESSAGES]
        self._used += 1
        if self._used % _CHECKED_AFTER == 0:
            pair.check()
        if self._used % _RENEWED_AFTER == 0:
            self._renew()


_fixture = cache(_Fixture)


def check(data: bytes) -> None:
    """Raise where the two paths answer otherwise.

    Args:
        data: The input: frames. The seed chooses where they are cut in reads, and what the handshake agrees.
    """
    rng, stream = unpack(data)
    asyncio.run(_fixture().check(rng, stream))


_FRAMES: list[Callable[[random.Random, bytes], bytes]] = [
    lambda rng, body: frame(TEXT, body, mask=rng.randbytes(4)),
    lambda rng, body: frame(TEXT, body, mask=rng.randbytes(4)),
    lambda rng, body: frame(TEXT, body, mask=rng.randbytes(4)),
    lambda _, body: frame(TEXT, body[:3], fin=False) + frame(CONT, body[3:]),
    lambda _, body: frame(PING, body[:125]),
    lambda rng, body: frame(rng.randrange(16), body, rsv=rng.randrange(8)),
    lambda _, body: frame(TEXT, body, mask=None),
    lambda rng, body: frame(TEXT, body[:125], width=rng.choice((2, 8))),
]
_COMMANDS = (
    b'["GET","a"]',
    b'["SET","a","1"]',
    b'["INCR","a"]',
    b'["MGET","a","b"]',
    b'["MULTI"]',
    b'["EXEC"]',
)


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """Add a frame to an input, or break one.

    Args:
        data: The input.
        max_size: The longest that it may become.
        seed: For what is chosen.

    Returns:
        The other input.
    """
    rng = random.Random(seed)
    stream = data[SEED_BYTES:]
    for _ in range(rng.randrange(1, 4)):
        body = rng.choice(_COMMANDS)
        if rng.random() < 0.3:
            body = mutate_command(bytes(SEED_BYTES) + body, 500, rng.randrange(1 << 32))[SEED_BYTES:]
        stream += rng.choice(_FRAMES)(rng, body)
    if stream and rng.random() < 0.3:
        at = rng.randrange(len(stream))
        stream = stream[:at] + rng.randbytes(rng.randrange(3)) + stream[at + rng.randrange(3) :]
    return (data[:SEED_BYTES].ljust(SEED_BYTES, b"\0") + stream)[:max_size]
