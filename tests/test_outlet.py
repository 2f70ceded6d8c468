"""Ways out, on a transport that a test looks into."""

import asyncio
import socket
from typing import Any, cast

import pytest
from server import wait_until

from fastkv import outlet
from fastkv.outlet import CLOSED, CountingOutlet, Outlet, SecureOutlet, bytes_acked, open_outlet
from fastkv.tls import OPENSSL_BYTES

LIMIT = 1000


class Transport(asyncio.Transport):
    """What an outlet sees of a transport, and of the kernel below it.

    Attributes:
        written: Bytes that it was given.
        waiting: Bytes that it admits to hold.
        acked: Bytes that the kernel says have arrived; 0 where it does not tell.
        high: The limit that it was given.
        family: Of its socket, None where it has none.
        secure: Whether TLS is on it.
        takes: Bytes that it sends at once, of all that is still to come; None for all.
    """

    def __init__(self, family: int | None = socket.AF_INET) -> None:
        super().__init__()
        self.written = self.waiting = self.acked = self.high = 0
        self.family = family
        self.secure = False
        self.takes: int | None = None

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.high = high or 0

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "ssl_object" and self.secure:
            return self
        return self if name == "socket" and self.family is not None else default

    def is_closing(self) -> bool:
        return False

    def write(self, data: "bytes | bytearray | memoryview[Any]") -> None:
        self.written += len(data)
        if self.takes is not None:
            sent = min(self.takes, len(data))
            self.takes -= sent
            self.waiting += len(data) - sent


# -- which one, and what it says -----------------------------------------------------------------------------


def test_by_tcp_replies_go_to_the_transport_without_a_step_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outlet, "bytes_acked", lambda transport: transport.acked)
    transport = Transport()
    way = open_outlet(transport, LIMIT)
    assert type(way) is Outlet
    assert cast("object", way.sink) is transport
    assert transport.high == LIMIT
    transport.waiting = 300
    assert (way.pending, way.held_bytes, way.taken_bytes) == (True, 300, -300)
    transport.acked = 700
    assert way.taken_bytes == 700
    transport.waiting = 0
    assert not way.pending


@pytest.mark.parametrize("family", [socket.AF_UNIX, None])
def test_by_a_unix_socket_what_has_left_the_transport_is_taken(family: int | None) -> None:
    transport = Transport(family)
    way = open_outlet(transport, LIMIT)
    assert type(way) is CountingOutlet
    assert transport.high == LIMIT
    assert way.sink is way
    way.sink.write(b"x" * 500)
    transport.waiting = 200
    assert way.sink.get_write_buffer_size() == 200
    assert (transport.written, way.pending, way.held_bytes, way.taken_bytes) == (500, True, 200, 300)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
def test_all_of_a_large_reply_is_held_until_nothing_of_it_waits(family: int) -> None:
    transport = Transport(family)
    way = open_outlet(transport, LIMIT)
    transport.takes = 190_000
    way.write_large(b"x" * 100_000, way.sink.write)
    assert (way.held_bytes, transport.high) == (0, LIMIT)  # it is gone, and the next pauses as before
    way.write_large(b"x" * 100_000, way.sink.write)
    assert transport.waiting == 10_000
    assert (way.held_bytes, transport.high) == (100_000, 0)
    way.write_large(b"x" * 50_000, way.sink.write)
    assert (transport.waiting, way.held_bytes) == (60_000, 150_000)
    transport.waiting = 30_000  # the first is gone by now, which only the sum of both bounds knows
    assert way.held_bytes == 130_000
    transport.waiting = 0
    assert way.held_bytes == 0
    way.resumed()
    assert transport.high == LIMIT
    transport.waiting = 300
    assert way.held_bytes == 300


def test_by_tls_the_transport_counts() -> None:
    transport = Transport()
    transport.secure = True
    way = open_outlet(transport, LIMIT)
    assert type(way) is SecureOutlet
    transport.takes = 90_000
    way.write_large(b"x" * 100_000, way.sink.write)
    assert (way.held_bytes, way.fixed_bytes, transport.high) == (10_000, OPENSSL_BYTES, 0)


def test_without_a_connection_nothing_is_held() -> None:
    CLOSED.write(b"x")
    CLOSED.write_large(b"x", CLOSED.write)
    CLOSED.resumed()
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
    left, right = socket.socketpair()
    with left, right:
        assert bytes_acked(left) == 0
    assert bytes_acked(None) == 0
