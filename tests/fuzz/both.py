"""The compiled path of requests and the readable one, side by side: the same bytes out, the same arena.

`Both` holds a worker of each kind for many conversations, because to make a store takes far longer than to
answer a request. `main` compares the answers to as many random requests as are asked for (`make compare`).
"""

import asyncio
import logging
import random
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from fake import Client, Worker
from test_core_http import Pair

from fastkv.connection import Connection
from fastkv.http.responses import CONTINUE
from fastkv.stats import Column
from fuzz.requests import PRESENTED, TOKEN, pieces, stream

# How often the way out was full depends on the size of writes, which differs.
_COUNTED = slice(Column.HITS, Column.OUTPUT_PAUSES)
# The second is a store that evicts.
_SETTINGS: Sequence[Mapping[str, Any]] = (
    {},
    {"memory_bytes": 1 << 20},
    {"token": TOKEN},
    {"allow_origin": ("http://let.in", "http://a")},
    {"allow_origin": ("*",), "allowed_host": ("evil.example",)},
    {"max_pipeline": 3},
    {"max_head_bytes": 1024, "max_body_bytes": 1024, "max_fields": 10},
)
_CONVERSATIONS = 5_000
"""With one pair."""
_CHECKED_AFTER = 500
_FIELD = b"\r\nDate: "
"""What each reply has once, but for 100."""


class _Counting(Connection):
    """A connection that counts what it answers the readable way."""

    __slots__ = ()
    answers = 0

    def _answer_next(self) -> bytes | memoryview:
        reply = super()._answer_next()
        _Counting.answers += bool(reply) and reply is not CONTINUE
        return reply


class Both:
    """Two workers, which have to answer alike.

    Args:
        **settings: What is not the default.

    Attributes:
        cases: How many requests were answered.
    """

    def __init__(self, **settings: Any) -> None:
        self.pair = Pair(**settings)
        self.cases = 0

    async def compare(self, reads: Sequence[bytes], *, slow: bool = False) -> None:
        """Send the same to new connections of both.

        Args:
            reads: What arrives, read by read.
            slow: Whether the clients read only when they have to.

        Raises:
            AssertionError: They got other bytes, or one connection was closed and the other was not.
        """
        ours = await _converse(self.pair.compiled, _Counting, reads, slow)
        theirs = await _converse(self.pair.readable, Connection, reads, slow)
        assert ours == theirs, reads
        self.cases += ours[0].count(_FIELD)

    def check(self) -> None:
        """Raise where they have stored or counted something else."""
        ours, theirs = self.pair.compiled, self.pair.readable
        assert list(ours.counters[_COUNTED]) == list(theirs.counters[_COUNTED])
        for worker in (ours, theirs):
            assert not worker.service.connections
            assert worker.counters[Column.CONNECTIONS] == 0
        self.pair.check()


async def _converse(
    worker: Worker, connect: type[Connection], reads: Sequence[bytes], slow: bool
) -> tuple[bytes, bool, bool]:
    """What a client gets, whether that is said to be all, and whether the connection is closed."""
    client = Client(worker.service, connect)
    transport = client.transport
    transport.slow = slow
    await client.send_patiently(*reads)
    while not (transport.reading or transport.closed):
        transport.client_reads()
        await asyncio.sleep(0)
    said = bytes(transport.sent), transport.ended, transport.closed
    if transport.closed:
        await asyncio.sleep(0)  # the server hears of it
    else:
        client.leave()
    return said


async def _compare(cases: int, seed: int) -> str:
    """Compare until this number of requests is answered; what was declined, as text."""
    dice = random.Random(seed)
    total, number, declined = 0, 0, Counter[str]()
    _Counting.answers = 0
    while total < cases:
        settings = _SETTINGS[number % len(_SETTINGS)]
        both = Both(**settings)
        for turn in range(_CONVERSATIONS):
            both.pair.at(1_000_000 + 20 * turn)
            data = stream(dice, [PRESENTED] * ("token" in settings))
            await both.compare(pieces(dice, data), slow=dice.random() < 0.1)
            if turn % _CHECKED_AFTER == 0:
                both.check()
            if total + both.cases >= cases:
                break
        both.check()
        number += 1
        total += both.cases
        declined.update(both.pair.compiled.declined)
    share = 100 - 100 * _Counting.answers / total
    reasons = ", ".join(f"{reason} {100 * times / total:.2f}%" for reason, times in declined.most_common())
    return f"{total:,} requests were answered alike, {share:.1f}% by the core; declined were: {reasons}"


def main(cases: int, seed: int | None = None) -> None:
    """Compare, and say what was found.

    Args:
        cases: How many requests.
        seed: What they are made from; None: from the time.
    """
    seed = time.time_ns() if seed is None else seed
    logging.getLogger("fastkv").addHandler(logging.NullHandler())  # refusals are no news here
    sys.stdout.write(f"seed {seed}\n")
    sys.stdout.flush()
    sys.stdout.write(asyncio.run(_compare(cases, seed)) + "\n")
