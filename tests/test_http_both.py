"""The compiled path of requests and the readable one say the same, byte for byte, and do the same."""

import itertools
import random

import pytest
from cases import CASES
from cases.case import MAX_BODY_BYTES, MAX_HEAD_BYTES
from fake import Worker, in_loop

from fastkv import core
from fastkv.stats import Column
from fastkv.store import Store

pytestmark = pytest.mark.skipif(not core.COMPILED, reason=core.REASON)

_LIMITS = {"max_head_bytes": MAX_HEAD_BYTES, "max_body_bytes": MAX_BODY_BYTES}
_PARTS = 8
_SEED = 7


class Both:
    """Two workers over stores of their own that begin alike."""

    def __init__(self) -> None:
        self.workers = [
            Worker(Store(1 << 20, seed=_SEED, first_version=1), readable=readable, **_LIMITS)
            for readable in (False, True)
        ]

    async def compare(self, *pieces: bytes) -> None:
        """Send pieces to both, on a new connection, and see that they get the same."""
        said = []
        for worker in self.workers:
            client = worker.client()
            await client.send_patiently(*pieces)
            said.append((client.take(), client.transport.ended, client.transport.reading))
            client.leave()
        assert said[0] == said[1], pieces

    def verify(self) -> None:
        """What both have counted, too, is the same, and all is well."""
        fast, readable = self.workers
        assert list(fast.counters[Column.HITS :]) == list(readable.counters[Column.HITS :])
        for worker in self.workers:
            worker.verify()


@pytest.mark.parametrize("part", range(_PARTS))
@in_loop
async def test_each_case_at_each_split(part: int) -> None:
    both = Both()
    for case in CASES[part::_PARTS]:
        size = len(case.data)
        await both.compare(case.data)
        await both.compare(*(case.data[at : at + 1] for at in range(min(size, 400))))
        for at in range(1, size, 1 + size // 200):
            await both.compare(case.data[:at], case.data[at:])
    both.verify()


@in_loop
async def test_cases_in_a_row() -> None:
    both = Both()
    chance = random.Random(_SEED)
    for _ in range(3000):
        data = b"".join(case.data for case in chance.choices(CASES, k=chance.randrange(2, 6)))
        cuts = sorted(chance.randrange(len(data) + 1) for _ in range(chance.randrange(4)))
        bounds = [0, *cuts, len(data)]
        await both.compare(*(data[a:b] for a, b in itertools.pairwise(bounds) if a < b))
    both.verify()
