"""The client of the servers that are counted: many connections that send in step.

Every connection sends, then every connection reads its replies: so the server finds several ready at a time,
as a busy one does, and how many it finds does not depend on the machine.
"""

from __future__ import annotations

import socket
from contextlib import ExitStack
from functools import partial
from typing import IO, TYPE_CHECKING, Final, cast

from perf.instructions.paths import COUNTED, HANDSHAKE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from subprocess import Popen

    from perf.instructions.paths import Path

CONNECTIONS: Final = 64
_TIMEOUT_SECONDS: Final = 120


class Server:
    """A process of `served`."""

    def __init__(self, process: Popen[bytes]) -> None:
        """Speak to its standard input and output.

        Args:
            process: the process.
        """
        self._input = cast("IO[bytes]", process.stdin)
        self._output = cast("IO[bytes]", process.stdout)

    def read_line(self) -> bytes:
        """The next line that it has written.

        Raises:
            RuntimeError: it has ended.
        """
        line = self._output.readline()
        if not line:
            raise RuntimeError("The server has ended.")
        return line.strip()

    def command(self, command: bytes) -> bytes:
        """Send a command of one byte, and return the answer."""
        self._input.write(command)
        return self.read_line()


def count(path: Path, server: Server) -> None:
    """Have the requests of a path counted.

    Args:
        path: the path.
        server: serves it next.

    Raises:
        RuntimeError: the requests went another way.
    """
    before, counted = path.make_writes()
    whole: Callable[[bytes], bool]
    if path.websocket:
        whole = partial(_are_frames, many=path.depth)
    else:
        whole = partial(_are_replies, many=path.depth, headless=path.name == "HEAD")
    with ExitStack() as stack:
        connections = _connect(server, stack)
        if path.websocket:
            for each in connections:
                each.sendall(HANDSHAKE)
                _receive(each, lambda data: data.endswith(b"\r\n\r\n"))
        _exchange(connections, before, whole)
        server.command(b"b")
        _exchange(connections, counted, whole)
        came = int(server.command(b"e"))
    if came != COUNTED:
        raise RuntimeError(f"{path.name}: {came} of {COUNTED} requests went this way.")


def count_constant(server: Server) -> None:
    """Have the requests to a server with a constant reply counted.

    Args:
        server: serves it next.
    """
    request = b"GET /get?key=k0000000001 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with ExitStack() as stack:
        connections = _connect(server, stack)
        whole = partial(_are_replies, many=1)
        _exchange(connections, [request] * COUNTED, whole)
        server.command(b"b")
        _exchange(connections, [request] * COUNTED, whole)
        server.command(b"e")


def _connect(server: Server, stack: ExitStack) -> list[socket.socket]:
    port = int(server.read_line())
    connections = []
    for _ in range(CONNECTIONS):
        connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), _TIMEOUT_SECONDS))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connections.append(connection)
    return connections


def _exchange(
    connections: Sequence[socket.socket], writes: Sequence[bytes], whole: Callable[[bytes], bool]
) -> None:
    """Send everything, each connection one write at a time."""
    for at in range(0, len(writes), len(connections)):
        busy = list(zip(connections, writes[at : at + len(connections)], strict=False))
        for connection, write in busy:
            connection.sendall(write)
        for connection, _ in busy:
            _receive(connection, whole)


def _receive(connection: socket.socket, whole: Callable[[bytes], bool]) -> None:
    data = b""
    while not whole(data):
        more = connection.recv(1 << 16)
        if not more:
            raise RuntimeError(f"The server has closed a connection after {data!r}.")
        data += more


def _are_replies(data: bytes, many: int, *, headless: bool = False) -> bool:
    """Whether this many replies have arrived whole."""
    at = 0
    for _ in range(many):
        end = data.find(b"\r\n\r\n", at) + 4
        if end < 4:
            return False
        head = data[at:end].lower()
        if not head.startswith((b"http/1.1 2", b"http/1.1 404")):
            raise RuntimeError(f"A request was refused: {head!r}.")
        length = 0 if headless else int(head.partition(b"content-length: ")[2].partition(b"\r")[0] or 0)
        at = end + length
    return len(data) >= at


def _are_frames(data: bytes, many: int) -> bool:
    """The same for frames of less than 64 KiB (RFC 6455, 5.2)."""
    at = 0
    for _ in range(many):
        if len(data) < at + 4:
            return False
        length = data[at + 1]
        at += 2 + length if length < 126 else 4 + int.from_bytes(data[at + 2 : at + 4], "big")
    return len(data) >= at
