"""Servers that measurements start beside fastkv: as child processes on loopback ports, ended by their ids."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import socket
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import psutil

from perf.report import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

MIB: Final = 1 << 20
_START_SECONDS: Final = 30.0
_END_SECONDS: Final = 3.0
_POLL_SECONDS: Final = 0.02

Pair = tuple[bytes, bytes]
"""A key and its value."""


def pss_bytes(pid: int) -> int:
    """Memory of a process and its descendants, with shared pages divided among those that share them.

    Args:
        pid: the process.

    Returns:
        Proportional set size in bytes.
    """
    total = 0
    for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
        rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
        total += sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return total << 10


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def child(
    command: Sequence[str], stdout: int = subprocess.DEVNULL, **variables: str
) -> Iterator[subprocess.Popen[str]]:
    """Run a command until the block ends; its processes are killed if they do not end when told to.

    Args:
        command: what to run.
        stdout: where its output goes.
        **variables: of its environment, beside ours.

    Yields:
        The process.
    """
    environment = {**os.environ, **variables}
    with subprocess.Popen(
        command, stdout=stdout, stderr=subprocess.DEVNULL, text=True, cwd=ROOT, env=environment
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                first = psutil.Process(process.pid)
                family = [first, *first.children(recursive=True)]
                process.terminate()
                for one in psutil.wait_procs(family, _END_SECONDS)[1]:
                    one.kill()


def connect(port: int, process: subprocess.Popen[str] | None = None) -> socket.socket:
    """Connect to a server that is about to listen.

    Args:
        port: where.
        process: if this one ends, it will not.

    Raises:
        ConnectionError: if it does not.
    """
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port))
        except ConnectionError:
            if time.monotonic() > deadline or (process and process.poll() is not None):
                raise
            time.sleep(_POLL_SECONDS)


class Cache(Protocol):
    """A running cache.

    Attributes:
        port: where it serves.
        pid: of its first process.
    """

    port: int
    pid: int

    def put(self, pairs: Sequence[Pair]) -> None:
        """Put entries.

        Raises:
            RuntimeError: if one was not taken.
        """

    def evictions(self) -> int:
        """How many entries it has evicted so far."""


class _Server:
    """What one socket says to a server, many requests at a time.

    Attributes:
        port: where it serves.
        pid: of its first process.
    """

    def __init__(self, port: int, pid: int) -> None:
        self.port = port
        self.pid = pid
        self._socket = connect(port)
        self._replies = self._socket.makefile("rb")

    def _send(self, requests: bytes) -> None:
        self._socket.sendall(requests)

    def _expect(self, reply: bytes, times: int) -> None:
        got = self._replies.read(len(reply) * times)
        if got != reply * times:
            raise RuntimeError(f"A write was refused: {got[:200]!r}")

    def close(self) -> None:
        """End the connection."""
        self._replies.close()
        self._socket.close()


class _Memcached(_Server):
    def put(self, pairs: Sequence[Pair]) -> None:
        self._send(b"".join(b"set %b 0 0 %d\r\n%b\r\n" % (key, len(value), value) for key, value in pairs))
        self._expect(b"STORED\r\n", len(pairs))

    def evictions(self) -> int:
        self._send(b"stats\r\n")
        found = 0
        while (line := self._replies.readline()) not in (b"END\r\n", b""):
            name, value = line.split()[1:3]
            if name == b"evictions":
                found = int(value)
        return found


class _Redis(_Server):
    def put(self, pairs: Sequence[Pair]) -> None:
        self._send(
            b"".join(
                b"*3\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(key), key, len(value), value)
                for key, value in pairs
            )
        )
        self._expect(b"+OK\r\n", len(pairs))

    def evictions(self) -> int:
        self._send(b"INFO stats\r\n")
        length = int(self._replies.readline()[1:])
        found = re.search(rb"evicted_keys:(\d+)", self._replies.read(length + 2))
        return int(found[1]) if found else 0


class _Fastkv(_Server):
    def put(self, pairs: Sequence[Pair]) -> None:
        for at in range(0, len(pairs), 64):
            some = pairs[at : at + 64]
            requests = []
            for key, value in some:
                body = b'{"key":"%b","value":"%b"}' % (key, value)
                head = b"POST /put HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body)
                requests.append(head + body)
            self._send(b"".join(requests))
            for _ in some:
                self._reply()

    def _reply(self) -> bytes:
        status = self._replies.readline()
        length = 0
        while (line := self._replies.readline()) not in (b"\r\n", b""):
            if line.startswith(b"Content-Length:"):
                length = int(line[15:])
        body = self._replies.read(length)
        if b" 200 " not in status:
            raise RuntimeError(f"A request was refused: {status!r} {body!r}")
        return body

    def evictions(self) -> int:
        self._send(b"GET /stats HTTP/1.1\r\nHost: a\r\n\r\n")
        found = re.search(rb'"evictions":\s*(\d+)', self._reply())
        if not found:
            raise RuntimeError("There are no evictions in /stats.")
        return int(found[1])


@contextmanager
def memcached(memory_bytes: int) -> Iterator[Cache]:
    """A memcached with its defaults."""
    port = free_port()
    command = ["memcached", "-l", "127.0.0.1", "-p", str(port), "-m", str(memory_bytes // MIB)]
    user = pwd.getpwuid(os.getuid()).pw_name
    with child([*command, "-u", user]) as process, closing(_Memcached(port, process.pid)) as server:
        yield server


@contextmanager
def redis(memory_bytes: int) -> Iterator[Cache]:
    """A Redis that evicts the least recently used and writes no files."""
    port = free_port()
    options = {
        "port": port,
        "bind": "127.0.0.1",
        "save": "",
        "appendonly": "no",
        "maxmemory": memory_bytes,
        "maxmemory-policy": "allkeys-lru",
    }
    flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    with child(["redis-server", *flags]) as process, closing(_Redis(port, process.pid)) as server:
        yield server


@contextmanager
def fastkv(memory_bytes: int, workers: int = 2) -> Iterator[Cache]:
    """``fastkv serve``, the kernel left alone."""
    flags = ["--port", "0", "--workers", str(workers), "--memory", f"{memory_bytes // MIB}mb", "--no-tune"]
    with child([sys.executable, "-m", "fastkv", "serve", *flags], subprocess.PIPE) as process:
        line = process.stdout.readline() if process.stdout else ""
        found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        if not found:
            raise RuntimeError(f"fastkv did not start: {line!r}")
        with closing(_Fastkv(int(found[1]), process.pid)) as server:
            yield server


class Rival(NamedTuple):
    """A server to measure beside fastkv.

    Attributes:
        name: what it is called in results.
        program: what has to be installed.
        package: the Debian package that brings it.
        run: starts it with a bound on its memory in bytes.
    """

    name: str
    program: str
    package: str
    run: Callable[[int], object]

    def version(self) -> str | None:
        """Its version, None if it is not installed."""
        if not shutil.which(self.program):
            return None
        done = subprocess.run([self.program, "--version"], capture_output=True, text=True, check=False)
        found = re.search(r"\d+(\.\d+)+", done.stdout)
        return found[0] if found else "unknown"


RIVALS: Final = (
    Rival("memcached", "memcached", "memcached", memcached),
    Rival("Redis allkeys-lru", "redis-server", "redis-server", redis),
)
