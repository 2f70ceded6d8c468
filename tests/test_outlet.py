"""Ways out: on a transport and a clock that a test looks into, and with TLS on a real socket."""

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextvars import Context
from pathlib import Path
from typing import Any, TypeVarTuple

import pytest
import uvloop
from certificates import make_pair, needs_openssl
from fake import MAX_OUTPUT_BYTES, MAX_VALUE_BYTES, Worker, get
from hypothesis import given
from hypothesis import strategies as st
from server import wait_until

from fastkv import outlet
from fastkv.connection import Connection
from fastkv.outlet import CLOSED, CountingOutlet, Outlet, SecureOutlet, bytes_acked, has_unacked, open_outlet
from fastkv.stats import Column

LIMIT = 1000

Ts = TypeVarTuple("Ts")


class Transport(asyncio.Transport):
    """What an outlet sees of a transport, and of the kernel below it.

    Attributes:
        secure: Whether it is one with TLS.
        written: Bytes that it was given.
        waiting: Bytes that it admits to hold.
        acked: Bytes that the kernel says have arrived; 0 where it does not tell.
        high: The limit that it was given.
        family: Of its socket, None where it has none.
    """

    def __init__(self, secure: bool = True, family: int | None = socket.AF_INET) -> None:
        super().__init__()
        self.secure = secure
        self.written = self.waiting = self.acked = self.high = 0
        self.family = family

    def can_write_eof(self) -> bool:
        return not self.secure

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.high = high or 0

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self if name == "socket" and self.family is not None else default

    def write(self, data: "bytes | bytearray | memoryview[Any]") -> None:
        self.written += len(data)


class Timer:
    """One call to come."""

    def __init__(self, seconds: float, call: Callable[[], None]) -> None:
        self.seconds = seconds
        self.call = call
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Scene:
    """An outlet with TLS, and all around it; it is the connection as well.

    Attributes:
        transport: The transport.
        outlet: The outlet.
        pauses: How often the connection was told to pause.
        timers: The calls to come.
        next_reply: What the connection writes when it may go on.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.transport = Transport()
        self.transport.acked = 1  # of the handshake
        self._paused = False
        self.pauses = 0
        self.timers: list[Timer] = []
        self.next_reply = b""
        monkeypatch.setattr(asyncio, "get_running_loop", lambda: self)
        monkeypatch.setattr(outlet, "bytes_acked", lambda transport: transport.acked)
        monkeypatch.setattr(outlet, "has_unacked", lambda transport: transport.acked < transport.written)
        self.outlet = open_outlet(self.transport, LIMIT, self)
        assert type(self.outlet) is SecureOutlet

    def call_later(self, seconds: float, call: Callable[..., None], *args: Any) -> Timer:
        """Part of the loop."""
        timer = Timer(seconds, lambda: call(*args))
        self.timers.append(timer)
        return timer

    def pause_writing(self) -> None:
        """Part of the connection."""
        assert not self._paused
        self._paused = True
        self.pauses += 1

    def resume_writing(self) -> None:
        """Part of the connection."""
        assert self._paused
        self._paused = False
        if self.next_reply:
            self.outlet.write(self.next_reply)

    def is_paused(self) -> bool:
        """Whether the connection has to wait."""
        return self._paused

    def look(self) -> float:
        """Let the time of the next call come; how long that took."""
        timer = self.timers.pop(0)
        assert not timer.cancelled
        timer.call()
        self.verify()
        return timer.seconds

    def verify(self) -> None:
        """What always holds."""
        assert len(self.timers) == self._paused
        assert self._paused or self.outlet.held_bytes <= LIMIT


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(monkeypatch)


# -- which one, and what it says -----------------------------------------------------------------------------


def test_by_tcp_replies_go_to_the_transport_without_a_step_between(scene: Scene) -> None:
    transport = Transport(secure=False)
    way = open_outlet(transport, LIMIT, scene)
    assert type(way) is Outlet
    assert way.write == transport.write
    assert transport.high == LIMIT
    transport.waiting = 300
    assert (way.pending, way.held_bytes, way.taken_bytes) == (True, 300, -300)
    transport.acked = 700
    assert way.taken_bytes == 700
    transport.waiting = 0
    assert not way.pending


@pytest.mark.parametrize("family", [socket.AF_UNIX, None])
def test_by_a_unix_socket_what_has_left_the_transport_is_taken(scene: Scene, family: int | None) -> None:
    transport = Transport(secure=False, family=family)
    way = open_outlet(transport, LIMIT, scene)
    assert type(way) is CountingOutlet
    assert transport.high == LIMIT
    way.write(b"x" * 500)
    transport.waiting = 200
    assert (transport.written, way.pending, way.held_bytes, way.taken_bytes) == (500, True, 200, 300)


def test_without_a_connection_nothing_is_held() -> None:
    CLOSED.write(b"x")
    CLOSED.drop()
    assert (CLOSED.pending, CLOSED.held_bytes, CLOSED.taken_bytes) == (False, 0, 0)


def test_what_the_kernel_knows_of_the_other_end() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as client,
        listener.accept()[0] as server,
    ):
        before = bytes_acked(server)
        server.sendall(b"x" * 1000)
        assert client.recv(1000, socket.MSG_WAITALL) == b"x" * 1000
        wait_until(lambda: bytes_acked(server) - before == 1000, "the acknowledgement has arrived")
        assert not has_unacked(server)
    left, right = socket.socketpair()
    with left, right:
        assert bytes_acked(left) == 0
    assert bytes_acked(None) == 0
    assert not has_unacked(None)


# -- TLS -----------------------------------------------------------------------------------------------------


def test_with_tls_the_transport_never_pauses_by_itself(scene: Scene) -> None:
    assert scene.transport.high > 1 << 30


def test_with_tls_it_pauses_past_the_limit_and_resumes_when_that_is_read(scene: Scene) -> None:
    scene.outlet.write(b"x" * (LIMIT + 1))
    assert not scene.is_paused()  # a byte of the handshake counts as one of it, and does no harm
    scene.outlet.write(b"x")
    assert scene.is_paused()
    scene.outlet.write(b"x" * LIMIT)
    scene.look()
    assert scene.is_paused()
    scene.transport.acked = LIMIT + 1
    scene.look()
    assert scene.is_paused()
    scene.transport.acked = LIMIT + 2
    scene.look()
    assert not scene.is_paused()
    assert scene.outlet.taken_bytes == LIMIT + 2
    assert scene.outlet.pending


def test_it_looks_less_and_less_often_and_each_time_from_the_beginning(scene: Scene) -> None:
    for _ in range(3):
        scene.outlet.write(b"x" * 2 * LIMIT)
        delays = [scene.look() for _ in range(12)]
        assert delays[:4] == [0.001, 0.002, 0.004, 0.008]
        assert delays[-2:] == [0.25, 0.25]
        scene.transport.acked = scene.transport.written
        scene.look()
        assert not scene.is_paused()


def test_who_goes_on_and_is_paused_again_has_one_timer_as_before(scene: Scene) -> None:
    """Each look that resumes leads to a reply that pauses: the timers must not become more and more."""
    scene.next_reply = b"x" * 3 * LIMIT
    scene.outlet.write(scene.next_reply)
    for _ in range(500):
        scene.look()
        scene.transport.acked = scene.transport.written
    assert scene.pauses == 500


@given(steps=st.lists(st.tuples(st.sampled_from(["write", "ack", "look"]), st.integers(1, 3 * LIMIT))))
def test_with_tls_a_pause_always_ends(steps: list[tuple[str, int]]) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        scene = Scene(monkeypatch)
        for step, size in steps:
            if step == "write":
                scene.outlet.write(b"x" * size)
            elif step == "ack":
                # Records have heads: more may be acknowledged than was written.
                scene.transport.acked += min(size, scene.transport.written + 100 - scene.transport.acked)
            elif scene.timers:
                scene.look()
            assert len(scene.timers) == scene.is_paused()
        scene.transport.acked = max(scene.transport.acked, scene.transport.written)
        if scene.is_paused():
            scene.look()
        assert not scene.is_paused()


def test_heads_of_records_are_no_credit(scene: Scene) -> None:
    """A long life of small replies, each acknowledged as 22 bytes more than it had."""
    for _ in range(1000):
        scene.outlet.write(b"x" * 78)
        scene.transport.acked += 100
    # What has been written since it was asked last may have been short of a fifth, and no more.
    scene.outlet.write(b"x" * LIMIT)
    scene.outlet.write(b"x" * LIMIT)
    assert scene.is_paused()


def test_what_the_transport_admits_counts_whatever_else_is_known(scene: Scene) -> None:
    scene.transport.waiting = 2 * LIMIT
    scene.outlet.write(b"x" * 2)
    scene.transport.acked = 100_000
    assert scene.outlet.held_bytes == 2 * LIMIT


def test_where_the_kernel_does_not_tell_the_transport_is_believed(scene: Scene) -> None:
    scene.transport.acked = 0
    scene.transport.waiting = LIMIT
    scene.outlet.write(b"x" * 10 * LIMIT)
    assert not scene.is_paused()
    assert scene.outlet.taken_bytes == 9 * LIMIT
    scene.transport.waiting += 1
    scene.outlet.write(b"x")
    assert scene.is_paused()
    scene.transport.waiting = 0
    scene.look()
    assert scene.pauses == 1


def test_most_replies_do_not_ask_the_kernel(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def answer(transport: Transport) -> int:
        asked.append(transport)
        return transport.acked

    monkeypatch.setattr(outlet, "bytes_acked", answer)
    for _ in range(1000):
        scene.outlet.write(b"x" * 10)
        scene.transport.acked += 32
    assert len(asked) < 20


def test_the_end_of_the_connection_is_the_end_of_the_timer(scene: Scene) -> None:
    scene.outlet.drop()
    scene.outlet.write(b"x" * 2 * LIMIT)
    scene.outlet.drop()
    assert [timer.cancelled for timer in scene.timers] == [True]


# -- a real socket -------------------------------------------------------------------------------------------


class CountingLoop(uvloop.Loop):
    """An event loop that counts the timers of outlets.

    Attributes:
        waiting: How many there are.
        most: How many there were at once.
    """

    waiting = most = 0

    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        if not isinstance(getattr(callback, "__self__", None), Outlet):
            return super().call_later(delay, callback, *args, context=context)
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        return super().call_later(delay, self._run, callback, args, context=context)

    def _run(self, callback: Callable[[*Ts], object], args: tuple[*Ts]) -> None:
        self.waiting -= 1
        callback(*args)


async def _read_much(worker: Worker, context: ssl.SSLContext, trusted: Path) -> None:
    """Ask for 8 MB in one go, and read as slowly as a small window makes it."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(worker.service), "127.0.0.1", 0, ssl=context)
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plain.setblocking(False)
    await loop.sock_connect(plain, server.sockets[0].getsockname())
    reader, writer = await asyncio.open_connection(
        sock=plain, ssl=ssl.create_default_context(cafile=trusted), server_hostname="localhost"
    )
    writer.write(get("k") * 2000)
    for _ in range(2000):
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        body = await reader.readexactly(int(head.partition(b"Content-Length: ")[2].split()[0]))
        assert len(body) > MAX_VALUE_BYTES
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()


@needs_openssl
def test_many_large_replies_by_tls_come_with_one_timer_at_a_time(tmp_path: Path) -> None:
    pair = make_pair(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.cert, pair.key)
    worker = Worker()
    worker.store.put(b"k", b"v" * MAX_VALUE_BYTES, lambda: 0)
    loop = CountingLoop()
    try:
        loop.run_until_complete(asyncio.wait_for(_read_much(worker, context, pair.cert), 60))
    finally:
        loop.close()
    # A turn answers as much as may wait, so that nearly each of them pauses.
    assert worker.counters[Column.OUTPUT_PAUSES] > 2000 * MAX_VALUE_BYTES / MAX_OUTPUT_BYTES / 2
    assert loop.most == 1
    worker.verify()
