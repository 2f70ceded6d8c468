"""A Redis to compare with: its server on a unix socket, and a client that speaks RESP2."""

from __future__ import annotations

import shutil
import socket
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fastkv.commands.replies import CommandError, Reply, Status

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SERVER = shutil.which("redis-server")

_TIMEOUT_SECONDS = 20


@contextmanager
def running_redis(directory: Path) -> Iterator[Path]:
    """A Redis that keeps nothing and has one database.

    Args:
        directory: where its socket lies.

    Yields:
        The socket's path.
    """
    path = directory / "redis.sock"
    assert SERVER
    arguments = ["--port", "0", "--unixsocket", str(path), "--databases", "1", "--save", ""]
    arguments += ["--appendonly", "no", "--dir", str(directory), "--notify-keyspace-events", "KEA"]
    with subprocess.Popen([SERVER, *arguments], stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout
            for line in server.stdout:
                if b"ready to accept connections at" in line.lower():
                    break
            else:
                raise AssertionError("the redis-server did not start")
            yield path
        finally:
            server.terminate()
            server.stdout.close()  # type: ignore[union-attr]


class RedisClient:
    """A connection to it."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(_TIMEOUT_SECONDS)
        self._socket.connect(str(path))
        self._file = self._socket.makefile("rb")

    def run(self, words: list[bytes]) -> Reply:
        """Ask, and read the reply."""
        parts = [b"*%d\r\n" % len(words)]
        parts += [b"$%d\r\n%b\r\n" % (len(word), word) for word in words]
        self._socket.sendall(b"".join(parts))
        return self.read()

    def read(self) -> Reply:
        """Read a reply, or what was pushed."""
        line = self._file.readline()
        assert line.endswith(b"\r\n"), line
        kind, rest = line[:1], line[1:-2]
        if kind == b"+":
            return Status(rest)
        if kind == b"-":
            return CommandError(rest.decode(errors="replace"))
        number = int(rest)
        if kind == b":":
            return number
        if number < 0:
            return None
        if kind == b"$":
            return self._file.read(number + 2)[:-2]
        assert kind == b"*", line
        return [self.read() for _ in range(number)]

    def close(self) -> None:
        """Hang up."""
        self._file.close()
        self._socket.close()
