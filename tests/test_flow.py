"""Deadlines and memory of connections: on a made-up clock, and with two thousand slow clients at once."""

import json
import resource
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from fake import MAX_OUTPUT_BYTES, Client, Worker, in_loop
from server import Server, in_background, private_bytes, read_reply, running, wait_until

from fastkv import flow
from fastkv.flow import SWEEP_TURNS, Phase
from fastkv.stats import Column

GET = b"GET /get?key=k HTTP/1.1\r\nHost: a\r\n\r\n"
HEALTH = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"
PUT_HEAD = b"PUT /put HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n"
CHUNKED_HEAD = b"PUT /put HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[Worker, float], None]:
    """Let so many seconds pass for a worker, and have it look at all its connections."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def passes(worker: Worker, seconds: float) -> None:
        now[0] += seconds
        for _ in range(SWEEP_TURNS):
            worker.service.turn()

    return passes


Clock = Callable[[Worker, float], None]


def is_open(client: Client) -> bool:
    """Whether the server has not closed the connection."""
    return not client.transport.closed


# -- deadlines -----------------------------------------------------------------------------------------------


@in_loop
async def test_a_client_that_says_nothing_is_closed_without_a_word(clock: Clock) -> None:
    worker = Worker(first_byte_seconds=10)
    client = worker.client()
    clock(worker, 9.9)
    assert is_open(client)
    clock(worker, 0.2)
    assert not is_open(client)
    assert client.take() == b""
    assert worker.counters[Column.FIRST_BYTE_TIMEOUTS] == 1


@pytest.mark.parametrize(
    "head", [b"GET /get?key=k HTTP/1.1\r\nHost", b"GET /get?key=k HTTP/1.1\r\nHost: a\r\nX:"]
)
@pytest.mark.parametrize("full", [False, True])
@in_loop
async def test_a_head_that_trickles_in_is_answered_with_408(clock: Clock, head: bytes, full: bool) -> None:
    worker = Worker(head_seconds=10)
    client = worker.client()
    if full:
        head = b"\r\n" + head  # the compiled core declines that
    for at in range(len(head)):
        clock(worker, 10 / len(head) - 0.01)
        client.send(head[at : at + 1])
        assert is_open(client)
    clock(worker, 2)
    assert client.take().startswith(b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n")
    assert client.transport.ended
    assert worker.counters[Column.HEAD_TIMEOUTS] == 1
    assert worker.counters[Column.BAD_REQUESTS] == 0


@in_loop
async def test_the_time_of_a_head_begins_with_its_own_first_byte(clock: Clock) -> None:
    worker = Worker(head_seconds=10, idle_seconds=60)
    client = worker.client()
    for _ in range(5):
        clock(worker, 6)
        client.send(GET + GET[:20])
        clock(worker, 6)
        client.send(GET[20:])
        assert client.take().count(b"HTTP/1.1 404") == 2
    assert worker.counters[Column.HEAD_TIMEOUTS] == 0
    client.send(GET[:20])
    clock(worker, 10.1)
    assert b" 408 " in client.take()


@pytest.mark.parametrize("head", [PUT_HEAD, CHUNKED_HEAD])
@in_loop
async def test_a_body_that_stops_is_answered_with_408(clock: Clock, head: bytes) -> None:
    worker = Worker(head_seconds=1000, body_seconds=20, min_rate_bytes=1000)
    client = worker.client()
    client.send(head[:-1])
    clock(worker, 15)
    client.send(head[-1:])  # the time of the body begins here
    clock(worker, 15)
    assert not client.take()
    clock(worker, 6)
    assert b" 408 " in client.take()
    assert client.transport.ended
    assert worker.counters[Column.BODY_TIMEOUTS] == 1


@pytest.mark.parametrize("head", [PUT_HEAD, CHUNKED_HEAD])
@in_loop
async def test_bytes_buy_a_body_time(clock: Clock, head: bytes) -> None:
    worker = Worker(body_seconds=20, min_rate_bytes=10)
    client = worker.client()
    client.send(head)
    piece = b"x" * 30
    framed = piece if head is PUT_HEAD else b"1e\r\n" + piece + b"\r\n"
    for _ in range(20):  # 30 bytes each 3 seconds are the rate
        clock(worker, 3)
        client.send(framed)
    assert not client.take()
    clock(worker, 21)
    assert b" 408 " in client.take()


@in_loop
async def test_an_idle_connection_is_closed_without_a_word(clock: Clock) -> None:
    worker = Worker(idle_seconds=75)
    client = worker.client()
    for _ in range(4):
        client.ask(GET)
        clock(worker, 1)
        clock(worker, 73)
        assert is_open(client)
    clock(worker, 3)
    assert not is_open(client)
    assert client.take() == b""
    assert worker.counters[Column.IDLE_TIMEOUTS] == 1


@in_loop
async def test_a_client_that_does_not_read_is_cut_off(clock: Clock) -> None:
    worker = Worker(output_seconds=30, idle_seconds=1000, min_rate_bytes=1)
    worker.store.put(b"k", b"v" * 2000, lambda: 0)
    client = worker.client()
    client.transport.slow = True
    client.send(GET)
    clock(worker, 1)
    clock(worker, 29)
    assert is_open(client)
    clock(worker, 2)
    assert client.transport.aborted
    assert worker.counters[Column.OUTPUT_TIMEOUTS] == 1


@in_loop
async def test_reading_buys_a_reader_time_and_then_it_is_idle_from_the_end(clock: Clock) -> None:
    worker = Worker(output_seconds=10, idle_seconds=10, min_rate_bytes=10)
    worker.store.put(b"k", b"v" * 2000, lambda: 0)
    client = worker.client()
    client.transport.slow = True
    client.send(GET)
    for _ in range(60):
        clock(worker, 3)
        client.transport.drain(30)
    assert is_open(client)
    client.transport.client_reads()
    clock(worker, 9)
    assert is_open(client)
    clock(worker, 2)
    assert not is_open(client)
    assert not client.transport.aborted
    assert worker.counters[Column.IDLE_TIMEOUTS] == 1


@in_loop
async def test_a_busy_pipeline_is_no_slow_reader_where_the_kernel_does_not_count(clock: Clock) -> None:
    """On a Unix socket: there is always something unread, and there is ever more of it."""
    worker = Worker(output_seconds=10, min_rate_bytes=10)
    worker.store.put(b"k", b"v" * 2000, lambda: 0)
    client = worker.client()
    client.transport.slow = True
    client.send(GET)
    for _ in range(20):
        client.send(GET * 2)
        clock(worker, 3)
        client.transport.drain(3000)
    assert is_open(client)
    clock(worker, 60_000)
    assert client.transport.aborted


@in_loop
async def test_a_body_behind_an_unread_reply_says_nothing_of_the_reader(clock: Clock) -> None:
    """Neither is it a step back from all that the client has read, nor does it buy the reader time."""
    worker = Worker(output_seconds=10, min_rate_bytes=10)
    worker.store.put(b"k", b"v" * 2000, lambda: 0)
    client = worker.client()
    client.send(GET * 10)
    client.transport.slow = True
    client.send(GET * 2)
    clock(worker, 1)
    client.send(PUT_HEAD)
    for _ in range(9):
        clock(worker, 1)
        assert is_open(client)
        client.send(b"x" * 100)
    clock(worker, 2)
    assert client.transport.aborted


def test_what_was_written_may_be_read_slowly_after_the_server_has_closed() -> None:
    """A client that has shut its half, so that there is nothing to wait for behind the reply."""
    with running(linger_seconds=0.2, workers=1) as server, server.connect() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
        value = b"v" * 1_000_000
        with server.connect() as writer, writer.makefile("rb") as stream:
            writer.sendall(
                b"PUT /kv/k HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(value) + value
            )
            assert read_reply(stream).status == 201
        client.sendall(b"GET /kv/k HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        client.shutdown(socket.SHUT_WR)
        time.sleep(2.5)
        taken = 0
        while piece := client.recv(1 << 16):
            taken += len(piece)
        assert taken > len(value)


@in_loop
async def test_what_a_client_sends_while_it_does_not_read_counts_as_memory() -> None:
    worker = Worker()
    worker.store.put(b"k", b"v" * 4000, lambda: 0)
    client = worker.client()
    client.transport.slow = True
    client.send(GET * 5000)
    assert worker.service.flow.held_bytes > MAX_OUTPUT_BYTES + 4900 * len(GET)
    client.connection.connection_lost(None)
    assert worker.service.flow.held_bytes == 0


_ASK = b"%b HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize(
    "request_bytes",
    [
        _ASK % b"GET /get?key=large",
        _ASK % b"GET /get?key=l%61rge",
        _ASK % b"GET /get?key=binary",
        _ASK % b"GET /kv/large",
        _ASK % b"GET /get?key=k" * 8,
    ],
    ids=["plain", "encoded", "not text", "resource", "pipeline"],
)
@in_loop
async def test_of_a_large_reply_all_counts_until_all_of_it_is_taken(request_bytes: bytes) -> None:
    """Also where the transport has little of it left, and would not stop the connection for that."""
    worker = Worker(memory_bytes=1 << 20, max_value_bytes=40_000, max_key_bytes=64)
    for key, value in ((b"large", b"v" * 30_000), (b"binary", b"\xff" * 30_000), (b"k", b"v" * 4000)):
        worker.store.put(key, value, lambda: 0)
    client = worker.client()
    client.send(_ASK % b"GET /get?key=k")  # from now on its header section is known
    client.transport.slow = True
    client.send(request_bytes)
    size = client.transport.get_write_buffer_size()
    assert 30_000 < size < MAX_OUTPUT_BYTES
    assert not client.is_read()
    client.transport.drain(size - 1)
    assert worker.service.flow.held_bytes == client.connection.held_bytes == size
    client.transport.client_reads()
    assert client.is_read()
    assert worker.service.flow.held_bytes == 0
    client.send(_ASK % b"GET /get?key=k")
    assert client.is_read()  # a small one stops nothing


@pytest.mark.parametrize("more", [b"", PUT_HEAD.replace(b"1000", b"20000") + b"x" * 10_000])
@in_loop
async def test_what_arrives_behind_unread_replies_counts_beside_them(more: bytes) -> None:
    """Reading has been paused, but what was read before arrives all the same."""
    worker = Worker()
    worker.store.put(b"k", b"v" * 4000, lambda: 0)
    client = worker.client()
    client.transport.slow = True
    head = PUT_HEAD.replace(b"1000", b"5000")
    client.send(head, b"x" * 4500)
    assert worker.service.flow.held_bytes == len(head) + 4500
    client.send(b"x" * 500 + GET * 16)
    unread = client.transport.get_write_buffer_size()
    assert worker.service.flow.held_bytes == unread > MAX_OUTPUT_BYTES
    client.connection.data_received(GET + more)
    assert worker.service.flow.held_bytes == unread + len(GET + more)
    client.transport.client_reads()
    due = client.transport.get_write_buffer_size()
    assert worker.service.flow.held_bytes == (len(more) + due if more else 0)


@in_loop
async def test_a_refused_client_may_go_on_sending_for_a_while(clock: Clock) -> None:
    worker = Worker(linger_seconds=5)
    client = worker.client()
    client.send(b"nonsense\r\n\r\n")
    assert b" 400 " in client.take()
    for _ in range(4):
        clock(worker, 1)
        client.send(GET * 100)
        assert is_open(client)
    clock(worker, 2)
    assert not is_open(client)
    assert client.take() == b""


# -- bounds --------------------------------------------------------------------------------------------------


@in_loop
async def test_past_the_most_connections_the_next_is_told_so_at_once() -> None:
    worker = Worker(max_connections=2)
    clients = [worker.client() for _ in range(2)]
    late = worker.client()
    told = late.take()
    assert told.startswith(b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n")
    assert b"Retry-After: 1\r\n" in told
    assert late.transport.ended
    assert worker.counters[Column.CONNECTIONS] == 2
    assert worker.counters[Column.CONNECTIONS_REFUSED] == 1
    for client in clients:
        assert b" 404 " in client.ask(GET)
    late.connection.connection_lost(None)
    clients[0].connection.connection_lost(None)
    assert worker.counters[Column.CONNECTIONS] == 1
    assert b" 404 " in worker.client().ask(GET)
    assert b" 503 " in worker.client().take()


@in_loop
async def test_of_many_refused_only_some_are_waited_for() -> None:
    worker = Worker(max_connections=1)
    worker.client()
    refused = [worker.client() for _ in range(100)]
    assert all(b" 503 " in client.take() for client in refused)
    assert 60 < sum(client.transport.closed for client in refused[::-1]) + 64 <= 100


@in_loop
async def test_a_long_pipeline_lets_others_have_a_turn() -> None:
    worker = Worker(max_pipeline=10)
    client = worker.client()
    client.send(GET * 35 + HEALTH)
    answered = [client.take().count(b" 404 ")]
    while client.transport.reading is False:
        client.connection._go_on()
        answered.append(client.take().count(b" 404 "))
    assert answered == [10, 10, 10, 5]


@in_loop
async def test_past_the_memory_for_replies_a_reader_that_stands_still_is_closed(clock: Clock) -> None:
    worker = Worker(max_buffer_bytes=1 << 20)
    worker.store.put(b"k", b"v" * 4000, lambda: 0)

    def stalled() -> Client:
        client = worker.client()
        client.transport.slow = True
        client.send(GET * 17)
        return client

    clients = [stalled() for _ in range(15)]
    assert not any(client.transport.aborted for client in clients)
    late = stalled()
    assert late.transport.aborted  # nobody was seen to stand still yet
    clock(worker, 1)
    clients[0].transport.drain(5000)
    clock(worker, 1)
    more = [stalled() for _ in range(3)]
    assert not any(client.transport.aborted for client in (clients[0], *more))
    assert sum(client.transport.aborted for client in clients) == 3
    assert worker.counters[Column.SLOWEST_CLOSED] == 4
    for client in (*clients, late, *more):
        client.leave()
    assert worker.service.flow.held_bytes == worker.service.used_bytes == 0


@pytest.mark.parametrize("head", [PUT_HEAD.replace(b"1000", b"20000"), CHUNKED_HEAD + b"4e20\r\n"])
@in_loop
async def test_arriving_bodies_count_as_memory(head: bytes) -> None:
    worker = Worker(max_buffer_bytes=1 << 20)
    clients = [worker.client() for _ in range(100)]
    for client in clients:
        client.send(head)
        client.send(b"x" * 15_000)
        assert worker.service.flow.held_bytes <= 1 << 20
    refused = [client for client in clients if b" 503 " in client.take()]
    assert worker.counters[Column.SLOWEST_CLOSED] == len(refused) == 100 - (1 << 20) // 15_000
    assert clients[-len(refused) :] == refused
    assert worker.counters[Column.BODIES_DELAYED] > 0
    clients[0].send(b"x" * 5_000 + b"\r\n0\r\n\r\n")
    assert b" 400 " in clients[0].take()


def test_every_phase_with_a_deadline_has_a_counter() -> None:
    assert set(flow.COUNTER_OF) == set(Phase) - {Phase.CLOSING, Phase.QUIET}


# -- real clients --------------------------------------------------------------------------------------------

MANY = 2000


def stats(server: Server) -> dict[str, int]:
    return dict(json.loads(server.request("GET", "/stats").body))


@contextmanager
def many(server: Server, begin: Callable[[socket.socket], None]) -> Iterator[list[socket.socket]]:
    """Open so many connections, each of which begins in the same way."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        clients = []
        for _ in range(MANY):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect((server.host, server.port))
            begin(client)
            clients.append(client)
        yield clients


def healthy(server: Server) -> Callable[[Callable[[], bool]], None]:
    """A client that is no slower than others, on one connection and on new ones; no error may reach it."""

    def ask(over: Callable[[], bool]) -> None:
        with server.connect() as client, client.makefile("rb") as stream:
            while not over():
                client.sendall(HEALTH)
                assert read_reply(stream).status == 200
                assert server.request("GET", "/health").status == 200

    return ask


def trickle(clients: list[socket.socket], piece: bytes, over: Callable[[], bool]) -> None:
    """Send a byte now and then on each connection until all are gone."""
    left = set(clients)
    while left and not over():
        for client in list(left):
            try:
                client.send(piece, socket.MSG_DONTWAIT)
            except OSError:
                left.discard(client)
        time.sleep(0.2)


@pytest.mark.parametrize(
    ("begin", "counter"),
    [(b"GET /get?key=", "head_timeouts"), (PUT_HEAD + b"{", "body_timeouts")],
    ids=["head", "body"],
)
def test_two_thousand_slow_senders_are_closed_and_harm_nobody(begin: bytes, counter: str) -> None:
    limits: dict[str, Any] = {"head_seconds": 2, "body_seconds": 2, "min_rate": 1024, "linger_seconds": 1}
    with running(**limits) as server, many(server, lambda client: client.sendall(begin)) as clients:
        with in_background(healthy(server), lambda over: trickle(clients, b"a", over)):
            wait_until(lambda: stats(server)[counter] == MANY, f"{counter} is {MANY}", 40)
            wait_until(lambda: stats(server)["connections"] <= 3, "the slow ones are gone", 40)
        told = clients[0].recv(100)
        assert told.startswith(b"HTTP/1.1 408 ")
        assert stats(server)["internal_errors"] == 0


def test_two_thousand_slow_readers_are_closed_and_take_a_bounded_memory() -> None:
    value = b"v" * (1 << 20)
    request = b"GET /get?key=big HTTP/1.1\r\nHost: a\r\n\r\n"
    limits: dict[str, Any] = {
        "output_seconds": 2,
        "min_rate": "64kb",
        "max_buffer_bytes": "64mb",
        "workers": 1,
        "linger_seconds": 1,
    }
    with running(**limits) as server:
        body = b'{"key":"big","value":"' + value + b'"}'
        assert server.request("PUT", "/put", body).status == 200
        worker = server.workers()[0]
        before = private_bytes(worker)
        most = before
        # Three requests each: what the kernel takes of a reply is not the worker's.
        with many(server, lambda client: client.sendall(request * 8)) as clients:
            with in_background(healthy(server)):
                most = max(most, private_bytes(worker))
                wait_until(
                    lambda: stats(server)["output_timeouts"] + stats(server)["slowest_closed"] == MANY,
                    "all are closed",
                    60,
                )
            assert clients
        assert stats(server)["slowest_closed"] > 0
        # Twice the bound: the allocator keeps some of what was freed.
        assert most - before < 128 << 20


def test_a_client_that_sends_five_megabytes_reads_its_413_every_time() -> None:
    head = b"PUT /put HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
    with running(max_body_bytes="64kb", max_value_bytes="8kb", workers=1) as server:
        for _ in range(30):
            with server.connect() as client, client.makefile("rb") as stream:
                client.sendall(head % (5 << 20))
                for _ in range(80):
                    client.sendall(b"x" * (64 << 10))
                assert read_reply(stream).status == 413


def test_past_max_connections_newcomers_read_503_and_the_others_go_on() -> None:
    with running(max_connections=20, workers=2) as server, ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(20)]
        streams = [stack.enter_context(client.makefile("rb")) for client in clients]
        for client, stream in zip(clients, streams, strict=True):
            client.sendall(HEALTH)
            assert read_reply(stream).status == 200
        for _ in range(50):
            with server.connect() as late, late.makefile("rb") as stream:
                reply = read_reply(stream)
                assert (reply.status, reply.fields["retry-after"]) == (503, "1")
                assert late.recv(1) == b""
        for client, stream in zip(clients, streams, strict=True):
            client.sendall(HEALTH)
            assert read_reply(stream).status == 200
        stack.pop_all().close()
        wait_until(lambda: _can_connect(server), "there is room again")


def _can_connect(server: Server) -> bool:
    with server.connect() as client, client.makefile("rb") as stream:
        client.sendall(HEALTH)
        return read_reply(stream).status == 200


def test_reset_in_the_middle_of_everything() -> None:
    """Connections that end with a reset, in any state, leave nothing behind."""
    with running(workers=1) as server:
        for begin in (b"", b"GET", PUT_HEAD, PUT_HEAD + b"x" * 500, GET * 100, CHUNKED_HEAD + b"5\r\nab"):
            for _ in range(20):
                with server.connect() as client:
                    client.sendall(begin)
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        wait_until(lambda: stats(server)["connections"] == 1, "all others are gone")
        assert stats(server)["internal_errors"] == 0
