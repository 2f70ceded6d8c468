"""Clients that leave together: how many connections are closed between two looks at the others."""

import asyncio
import socket

import uvloop
from fake import Worker, in_loop

from fastkv.connection import Connection
from fastkv.departures import CLOSED_AT_ONCE, Departures
from fastkv.stats import Column

GET = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"


class Transport(asyncio.Transport):
    """One that notes in which round of the loop it was closed."""

    def __init__(self, rounds: list[int]) -> None:
        super().__init__()
        self._rounds = rounds

    def close(self) -> None:
        self._rounds[-1] += 1


@in_loop
async def test_the_first_few_are_closed_at_once_and_the_others_in_turns() -> None:
    departures, rounds = Departures(), [0]
    deferred = [departures.defer(Transport(rounds)) for _ in range(10 * CLOSED_AT_ONCE)]
    assert deferred.count(False) == CLOSED_AT_ONCE
    assert not any(deferred[:CLOSED_AT_ONCE])
    for _ in range(12):
        await asyncio.sleep(0)
        rounds.append(0)
    assert sum(rounds) == 9 * CLOSED_AT_ONCE
    assert max(rounds) == CLOSED_AT_ONCE
    assert not departures.defer(Transport(rounds))


@in_loop
async def test_one_that_leaves_is_closed_at_once() -> None:
    worker = Worker()
    client = worker.client()
    client.ask(GET)
    client.finish()
    assert client.is_closed()


def test_others_are_answered_while_thousands_leave() -> None:
    """By a real event loop: rounds are counted, and what was closed in each of them."""
    worker = Worker()
    closed = [0]

    class Counted(Connection):
        __slots__ = ()

        def connection_lost(self, exc: Exception | None) -> None:
            closed[-1] += 1
            super().connection_lost(exc)

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Counted(worker.service), "127.0.0.1", 0, backlog=2000)
        pairs = []
        for _ in range(800):
            client = socket.socket()
            client.setblocking(False)
            await loop.sock_connect(client, server.sockets[0].getsockname())
            pairs.append(client)
        while worker.counters[Column.CONNECTIONS] < len(pairs):  # noqa: ASYNC110
            await asyncio.sleep(0)
        for client in pairs:  # no round of the loop in between: the worker sees them all together
            client.close()
        while worker.counters[Column.CONNECTIONS]:
            await asyncio.sleep(0)
            closed.append(0)
        server.close()
        await server.wait_closed()

    uvloop.run(scenario())
    assert sum(closed) == 800
    # 128 in a round; those closed at once, and those of the round that follows, may meet in one.
    assert max(closed) <= 256
    worker.verify()
