"""Servers that bulk work is measured on: a worker of fastkv asked by HTTP, a Redis asked by RESP2; their CPU.

Both are children on loopback ports, with one connection each. Replies are returned as JSON has them, values
as bytes. An error is raised.
"""

from __future__ import annotations

import json
import os
import sys
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import psutil

from perf.rivals import child, connect, free_port

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from contextlib import ExitStack

_FASTKV: Final = (
    *(sys.executable, "-m", "fastkv", "serve", "--no-tune", "--workers", "1", "--memory", "512mb"),
    *("--max-value-bytes", "63mb", "--max-reply-bytes", "64mb", "--max-keys", "100000000"),
)
_REDIS: Final = ("redis-server", "--bind", "127.0.0.1", "--save", "", "--appendonly", "no")


def stat_ns(stat: str) -> int:
    """User and system time in ``/proc/PID/stat``, in ns; the kernel counts it in ticks of 10 ms, mostly."""
    user, system = stat.rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def cpu_ns(pid: int) -> int:
    """Nanoseconds that the threads of a process were on a CPU, kernel included."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) or stat_ns(
        Path(f"/proc/{pid}/stat").read_text()
    )


def read_http(file: BinaryIO) -> bytes:
    """Read a response.

    Returns:
        Its body.

    Raises:
        RuntimeError: if its status is not one of success.
    """
    status = file.readline()
    fields = dict(line.lower().split(b":", 1) for line in iter(file.readline, b"\r\n"))
    body = file.read(int(fields.get(b"content-length", 0)))
    if status.split()[1][:1] != b"2":
        raise RuntimeError(f"{status!r}: {body[:200]!r}")
    return body


def read_resp(file: BinaryIO) -> Any:
    """Read a reply in RESP2.

    Returns:
        Bytes for strings, int, None, or a list of these.

    Raises:
        RuntimeError: if it is an error.
    """
    line = file.readline()
    kind, rest = line[:1], line[1:-2]
    if kind == b"+":
        return rest
    if kind not in b":$*" or not rest:
        raise RuntimeError(f"Redis replied {line!r}.")
    number = int(rest)
    if kind == b"$":
        return file.read(number + 2)[:-2] if number >= 0 else None
    return number if kind == b":" else [read_resp(file) for _ in range(number)]


def resp(words: Iterable[str | bytes]) -> bytes:
    """A command in RESP2."""
    encoded = [word.encode() if isinstance(word, str) else word for word in words]
    return b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in encoded)


def texts(reply: Any) -> Any:
    """A reply of Redis as JSON would have it: text for bytes."""
    if isinstance(reply, list):
        return [texts(each) for each in reply]
    return reply.decode() if isinstance(reply, bytes) else reply


class Server(ABC):
    """A running server, and a connection to it.

    Attributes:
        name: of the program.
        pid: of the process that serves.
    """

    name: str

    def __init__(self, stack: ExitStack, command: Sequence[str]) -> None:
        """Start it.

        Args:
            stack: ends it.
            command: what starts it; a port is added.
        """
        port = free_port()
        self._process = stack.enter_context(child([*command, "--port", str(port)]))
        self._socket = stack.enter_context(connect(port, self._process))
        self._file = stack.enter_context(self._socket.makefile("rb"))
        self.ask("PING")
        self.pid = self._serving_pid()

    def _serving_pid(self) -> int:
        return self._process.pid

    @abstractmethod
    def ask(self, *words: str) -> Any:
        """Run a command; its reply, as JSON has it."""

    @abstractmethod
    def transaction(self, commands: Sequence[Sequence[str]]) -> list[Any]:
        """Run commands at one moment; their replies."""

    @abstractmethod
    def put(self, key: str, value: bytes) -> None:
        """Put a value."""

    @abstractmethod
    def get(self, key: str) -> bytes | None:
        """Get a value."""


class _Fastkv(Server):
    """One worker of fastkv, on plain HTTP."""

    name = "fastkv"

    def __init__(self, stack: ExitStack) -> None:
        super().__init__(stack, _FASTKV)

    def _serving_pid(self) -> int:
        return int(psutil.Process(self._process.pid).children()[0].pid)

    def _request(self, method: str, path: str, body: bytes = b"") -> bytes:
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
        self._socket.sendall(head.encode() + body)
        return read_http(self._file)

    def ask(self, *words: str) -> Any:
        return json.loads(self._request("POST", "/", json.dumps(words).encode()))["result"]

    def transaction(self, commands: Sequence[Sequence[str]]) -> list[Any]:
        replies = json.loads(self._request("POST", "/multi-exec", json.dumps(commands).encode()))
        return [reply["result"] for reply in replies]

    def put(self, key: str, value: bytes) -> None:
        self._request("PUT", f"/kv/{key}", value)

    def get(self, key: str) -> bytes | None:
        return self._request("GET", f"/kv/{key}")


class _Redis(Server):
    """A Redis that writes nothing to disk."""

    name = "Redis"

    def __init__(self, stack: ExitStack) -> None:
        super().__init__(stack, _REDIS)

    def _run(self, *words: str | bytes) -> Any:
        self._socket.sendall(resp(words))
        return read_resp(self._file)

    def ask(self, *words: str) -> Any:
        return texts(self._run(*words))

    def transaction(self, commands: Sequence[Sequence[str]]) -> list[Any]:
        self._socket.sendall(b"".join(map(resp, (["MULTI"], *commands, ["EXEC"]))))
        return list(texts([read_resp(self._file) for _ in range(len(commands) + 2)][-1]))

    def put(self, key: str, value: bytes) -> None:
        self._run("SET", key, value)

    def get(self, key: str) -> bytes | None:
        value: bytes | None = self._run("GET", key)
        return value


def start_fastkv(stack: ExitStack) -> Server:
    """Start fastkv with one worker; the stack ends it."""
    return _Fastkv(stack)


def start_redis(stack: ExitStack) -> Server:
    """Start a Redis; the stack ends it."""
    return _Redis(stack)
