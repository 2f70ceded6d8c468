"""A transport goes from one protocol to another: nothing is lost or read twice, nobody is forgotten."""

import asyncio
import gc
import ssl
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import uvloop
from certificates import make_pair, needs_openssl
from fake import (
    CLOSE,
    Worker,
    get,
    hit,
    in_loop,
    put_pair,
)

from fastkv.connection import Connection
from fastkv.flow import Phase
from fastkv.handshake import Handshake
from fastkv.http.request import Head
from fastkv.http.responses import Reply
from fastkv.outlet import Outlet
from fastkv.service import Service
from fastkv.stats import Column
from fastkv.takeover import HandedOver, Successor, Takeover

pytestmark = pytest.mark.usefixtures("implementation")

TAIL = b"Upgrade: raw\r\nConnection: Upgrade\r\n\r\n"
SWITCH = b"GET /raw HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n"
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\n" + TAIL
STREAM = b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n"
# No request may be made of what follows, and none of it may be lost.
RAW = b"\x00\r\n\r\nGET /health HTTP/1.1\r\nHost: a\r\n\r\n" + bytes(range(256)) * 200


class Raw(asyncio.Protocol):
    """Keeps what it gets."""

    heard = False
    since = 0.0
    phase = Phase.IDLE
    progress = held_bytes = 0
    idle = True

    def __init__(self, service: Service) -> None:
        self.service = service
        self.received = bytearray()
        self.handed: HandedOver
        self.told: list[str] = []

    def take_over(self, handed: HandedOver) -> None:
        self.handed = handed
        self.received += handed.unread

    def data_received(self, data: bytes) -> None:
        self.received += data

    def pause_writing(self) -> None:
        self.told.append("pause")

    def resume_writing(self) -> None:
        self.told.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.service.forget(self)

    def expire(self, phase: Phase) -> None:
        self.abort()

    missing_bytes = 0

    def cut(self) -> bool:
        return False

    def pause(self) -> None:
        pass

    def resume(self) -> None:
        pass

    def disable_fast_path(self) -> None:
        self.told.append("drain")

    def close(self) -> None:
        self.handed.transport.close()

    def abort(self) -> None:
        self.handed.transport.abort()


def make_worker() -> tuple[Worker, list[Raw]]:
    """A worker with two routes that hand over, and those who took over."""
    worker = Worker()
    taken: list[Raw] = []

    def make(service: Service) -> Successor:
        taken.append(Raw(service))
        return taken[-1]

    def answer(reply: Reply, query: bytes, head: Head, body: bytes) -> Reply:
        raise Takeover(reply, make)

    worker.routes.handlers[b"GET /raw"] = partial(answer, (101, TAIL))
    worker.routes.handlers[b"GET /stream"] = partial(
        answer, (200, b"Content-Type: text/event-stream\r\n\r\n")
    )
    return worker, taken


def store(worker: Worker, value: str) -> None:
    """Give key a a value."""
    client = worker.client()
    client.ask(put_pair("a", value))
    client.leave()


async def until(holds: Callable[[], bool]) -> None:
    """Let the loop run until something holds."""
    async with asyncio.timeout(60):
        while not holds():  # noqa: ASYNC110 - there is nothing that could say so
            await asyncio.sleep(0)


BEFORE = (
    ("nothing", b"", b""),
    ("a request of the compiled core", get("a"), hit("a", "1")),
    ("a request of the parser", get("a", b"Range: x\r\nUpgrade: y\r\n"), hit("a", "1")),
    ("an offer that is not taken", get("a", b"Connection: upgrade\r\nUpgrade: h2c\r\n"), hit("a", "1")),
    ("several of both", get("a") * 3 + get("a", b"Origin: http://a\r\n") + get("a"), hit("a", "1") * 5),
)


@pytest.mark.parametrize(
    ("before", "answer"), [case[1:] for case in BEFORE], ids=[case[0] for case in BEFORE]
)
@in_loop
async def test_nothing_is_lost_at_any_split(before: bytes, answer: bytes) -> None:
    worker, taken = make_worker()
    store(worker, "1")
    data = before + SWITCH + RAW[:60]
    for at in range(len(data) + 1):
        client = worker.client()
        client.send(data[:at], data[at:]) if at else client.send(data)
        assert client.take() == answer + SWITCHED
        assert bytes(taken[-1].received) == RAW[:60]
        client.leave()
    assert not worker.service.connections
    assert worker.counters[Column.CONNECTIONS] == 0
    worker.verify()


@in_loop
async def test_behind_replies_that_wait_and_with_more_than_a_window_behind() -> None:
    worker, taken = make_worker()
    store(worker, "1" * 4000)
    client = worker.client()
    client.transport.slow = True
    client.send(get("a") * 40 + SWITCH + RAW)
    assert not taken
    assert not client.is_read()
    while not taken:
        client.transport.client_reads()
        await asyncio.sleep(0)
    assert client.take() == hit("a", "1" * 4000) * 40 + SWITCHED
    assert bytes(taken[0].received) == RAW
    assert client.is_read()
    await asyncio.sleep(0)
    worker.verify()


@in_loop
async def test_who_takes_over_is_paused_and_resumed() -> None:
    worker, taken = make_worker()
    client = worker.client()
    client.transport.slow = True
    client.transport.set_write_buffer_limits(10)
    client.send(SWITCH)
    assert taken[0].handed.paused
    assert worker.service.flow.held_bytes == 0
    client.transport.client_reads()
    assert taken[0].told == ["resume"]
    worker.verify()


@in_loop
async def test_a_stream_ends_with_its_connection() -> None:
    worker, taken = make_worker()
    client = worker.client()
    client.send(STREAM + get("a"))
    assert client.take() == b"HTTP/1.1 200 OK\r\n" + CLOSE + b"Content-Type: text/event-stream\r\n\r\n"
    assert len(taken) == 1
    assert not client.transport.closed
    worker.verify()


@in_loop
async def test_it_has_the_place_of_the_connection() -> None:
    worker, taken = make_worker()
    client = worker.client()
    client.send(SWITCH)
    assert worker.service.connections == {taken[0]}
    assert worker.counters[Column.CONNECTIONS] == 1
    worker.service.flow.turn(worker.service.connections)
    worker.service.drain()
    assert taken[0].told == ["drain"]
    assert not worker.service.drained.is_set()
    worker.service.close_all(idle_only=True)
    await asyncio.sleep(0)
    assert worker.service.drained.is_set()
    assert worker.counters[Column.CONNECTIONS] == 0


@in_loop
async def test_a_worker_that_drains_hands_nothing_over() -> None:
    worker, taken = make_worker()
    client = worker.client()
    worker.service.drain()
    client.send(SWITCH)
    assert client.take().startswith(b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n")
    assert not taken


@in_loop
async def test_a_successor_that_fails_ends_its_connection_alone(caplog: pytest.LogCaptureFixture) -> None:
    worker = Worker()

    def make(service: Service) -> Successor:
        raise ValueError

    def answer(query: bytes, head: Head, body: bytes) -> Reply:
        raise Takeover((101, TAIL), make)

    worker.routes.handlers[b"GET /raw"] = answer
    client = worker.client()
    client.send(SWITCH)
    await asyncio.sleep(0)
    assert client.transport.aborted
    assert not worker.service.connections
    assert worker.counters[Column.INTERNAL_ERRORS] == 1


@in_loop
async def test_a_half_closed_client_is_handed_over_as_such() -> None:
    worker, taken = make_worker()
    store(worker, "1" * 4000)
    client = worker.client()
    client.transport.slow = True
    client.send(get("a") * 40 + SWITCH + RAW)
    client.finish()
    while not taken:
        client.transport.client_reads()
        await asyncio.sleep(0)
    assert taken[0].handed.eof
    assert bytes(taken[0].received) == RAW


@in_loop
async def test_the_connection_is_left_without_a_cycle() -> None:
    worker, taken = make_worker()
    gc.collect()
    gc.disable()
    try:
        client = worker.client()
        client.send(SWITCH)
        client.leave()
        taken.clear()
        client.transport.set_protocol(asyncio.Protocol())
        del client
        connections = [thing for thing in gc.get_objects() if isinstance(thing, Connection)]
        assert not connections
    finally:
        gc.enable()


@pytest.mark.parametrize("secure", [False, pytest.param(True, marks=needs_openssl)], ids=["TCP", "TLS"])
def test_on_real_transports(secure: bool, tmp_path: Path) -> None:
    """Those of uvloop go over as well, and the outlet with them."""

    async def scenario() -> None:
        worker, taken = make_worker()
        loop = asyncio.get_running_loop()
        client_side = None

        def connect() -> Connection:
            return Connection(worker.service)

        make: Callable[[], asyncio.Protocol] = connect
        if secure:
            server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            pair = make_pair(tmp_path)
            server_side.load_cert_chain(pair.cert, pair.key)
            client_side = ssl.create_default_context(cafile=pair.cert)
            make = partial(Handshake, worker.service, server_side, connect)
        server = await loop.create_server(make, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client_side)
        writer.write(SWITCH + RAW)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        writer.write(RAW)
        await until(lambda: bool(taken) and len(taken[0].received) == 2 * len(RAW))
        assert bytes(taken[0].received) == RAW + RAW
        outlet = taken[0].handed.outlet
        assert isinstance(outlet, Outlet)
        for _ in range(2000):
            if taken[0].told:
                break
            outlet.write(bytes(64 << 10))
        assert taken[0].told == ["pause"]
        reading = loop.create_task(reader.read())
        await until(lambda: len(taken[0].told) > 1)
        assert taken[0].told == ["pause", "resume"]
        taken[0].close()
        await reading
        writer.close()
        await until(lambda: not worker.service.connections)
        server.close()
        await server.wait_closed()
        outlet.drop()

    uvloop.run(scenario())
