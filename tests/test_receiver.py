"""The base of connections, readable and compiled: what both do without a path of requests."""

from typing import Any

import pytest

from fastkv import core
from fastkv.receiver import DECLINED, DONE, PythonReceiver, Receiver

RECEIVERS = [PythonReceiver, core.receiver.Receiver] if core.COMPILED else [PythonReceiver]


class Output:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def get_write_buffer_size(self) -> int:
        return 0


def make(base: Any) -> Any:
    class Connection(base):  # type: ignore[misc]
        __slots__ = ("received",)

        def __init__(self) -> None:
            super().__init__()
            self.received: list[tuple[bytes, int, int]] = []

        def receive(self, data: bytes, at: int, more: int) -> None:
            self.received.append((data, at, more))

    return Connection()


def test_the_compiled_one_takes_the_place_of_the_readable_one() -> None:
    assert Receiver is RECEIVERS[-1]
    if core.COMPILED:
        assert (core.framing.DECLINED, core.framing.DONE) == (DECLINED, DONE)


@pytest.mark.parametrize("base", RECEIVERS)
@pytest.mark.parametrize("fast_path_ok", [False, True])
def test_without_a_path_of_requests_all_is_left_to_the_connection(base: Any, fast_path_ok: bool) -> None:
    connection = make(base)
    connection.attach(None, Output(), -1, 10)
    connection.fast_path_ok = fast_path_ok
    connection.heard = False
    connection.data_received(b"GET / HTTP/1.1\r\n\r\n")
    assert connection.heard
    assert connection.received == [(b"GET / HTTP/1.1\r\n\r\n", 0, DECLINED)]


@pytest.mark.parametrize("base", RECEIVERS)
def test_what_is_written_goes_out_until_the_end(base: Any) -> None:
    connection, output = make(base), Output()
    connection.write(b"too early")
    connection.attach(None, output, -1, 10)
    connection.write(b"one")
    connection.write(b"two")
    connection.fast_path_ok = True
    connection.detach()
    connection.write(b"too late")
    assert output.written == [b"one", b"two"]
    assert not connection.fast_path_ok
