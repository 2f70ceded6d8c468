"""How long a worker's event loop stands still at most, and what for.

    python -m perf.pauses [--only eviction …] [--save]

One worker per load, in a process of its own, whose callbacks are wrapped, and so is what may take long within
them. What is taken is CPU time of the worker's thread, kernel included, so that who shares the machine counts
for less. A step of the loop is one callback: others wait until it is over.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import socket
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from fastkv import worker
from fastkv.access_log import AccessLog, LoggedConnection
from fastkv.connection import Connection
from fastkv.garbage import Garbage
from fastkv.kernel.limits import raise_open_files
from fastkv.pubsub.hub import Hub
from fastkv.pubsub.ring import Ring
from fastkv.settings import Settings
from fastkv.stats import Board, Column, State
from fastkv.store import Geometry, Store
from fastkv.store.index import Index
from fastkv.store.room import Room
from fastkv.turns import Turns
from fastkv.worker import Worker
from perf.report import pauses, save

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_OPEN_FILES: Final = 20_000
_PIPELINED: Final = 16
_VALUE: Final = b"v" * 64
_MILLION: Final = 1_000_000
_TIMES: Final = 5

STEPS: Final[tuple[tuple[str, type, str], ...]] = (
    ("what a client sent", Connection, "data_received"),
    ("further turns of long commands and pipelines", Turns, "_round"),
    ("tick", Worker, "_tick"),
    ("connections' deadlines", Worker, "_sweep"),
    ("looking after the store", Worker, "_look_after_store"),
    ("messages to subscribers", Hub, "_take_due_turn"),
)
"""Callbacks of the loop."""
CAUSES: Final[tuple[tuple[str, type, str], ...]] = (
    ("… of it, making room for a put", Room, "until"),
    ("… of it, page split", Index, "split"),
    ("… of it, statistics", Board, "summary"),
    ("… of it, access log", AccessLog, "turn"),
    ("… of it, garbage", Garbage, "turn"),
)
"""What may take long within them."""


class Client:
    """A connection to the worker."""

    def __init__(self, port: int) -> None:
        """Connect.

        Args:
            port: where it serves.
        """
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._read = b""

    def ask(self, *requests: bytes) -> list[bytes]:
        """Send requests in one piece.

        Args:
            requests: heads with their bodies.

        Returns:
            The bodies of the replies.
        """
        self._socket.sendall(b"".join(requests))
        return [self._body() for _ in requests]

    def _body(self) -> bytes:
        while b"\r\n\r\n" not in self._read:
            self._receive()
        head, _, self._read = self._read.partition(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        length = int(fields.get(b"content-length", 0))
        while len(self._read) < length:
            self._receive()
        body, self._read = self._read[:length], self._read[length:]
        return body

    def _receive(self) -> None:
        piece = self._socket.recv(1 << 20)
        if not piece:
            raise EOFError("The worker closed the connection.")
        self._read += piece

    def send(self, request: bytes) -> None:
        """Send what is not answered, or not at once."""
        self._socket.sendall(request)

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


def _get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()


def _put(number: int, ttl: str = "", value: bytes = _VALUE) -> bytes:
    head = f"PUT /kv/{number:016}{ttl} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(value)}\r\n\r\n"
    return head.encode() + value


def _post(path: str, said: object) -> bytes:
    body = json.dumps(said).encode()
    return f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def _command(*words: object) -> bytes:
    return _post("/", list(map(str, words)))


def _fill(client: Client, numbers: range, ttl: str = "", value: bytes = _VALUE) -> None:
    for begin in range(numbers.start, numbers.stop, _PIPELINED):
        client.ask(*(_put(n, ttl, value) for n in range(begin, min(begin + _PIPELINED, numbers.stop))))


def _connect(port: int) -> None:
    clients = [Client(port) for _ in range(8192)]
    for client in clients:
        client.ask(_get("/health"))
    time.sleep(2.5)
    for client in clients:
        client.close()
    time.sleep(1.5)


def _evict(port: int) -> None:
    client = Client(port)
    for begin in range(0, 220_000, 10_000):
        _fill(client, range(begin, begin + 10_000))
        # Every second one is read twice, every fourth overwritten: there is something to move, and to clean.
        for number in range(begin, begin + 10_000, 2 * _PIPELINED):
            reads = [_get(f"/kv/{n:016}") for n in range(number, number + _PIPELINED)]
            client.ask(*reads)
            client.ask(*reads)
            client.ask(*(_put(n) for n in range(number, number + _PIPELINED, 2)))


def _expire(port: int) -> None:
    client = Client(port)
    _fill(client, range(120_000), "?ttl=6")
    time.sleep(7)


def _tell_statistics(port: int) -> None:
    client = Client(port)
    for _ in range(200):
        client.ask(_get("/stats"))


def _log(port: int) -> None:
    client = Client(port)
    _fill(client, range(30_000))


def _ask(make: Callable[[], Sequence[bytes]]) -> Callable[[int], None]:
    """A client that asks all that is made, one after the other, some times over."""

    def ask(port: int) -> None:
        client = Client(port)
        for request in [*make()] * _TIMES:
            client.ask(request)

    return ask


def _publish(port: int) -> None:
    subscribers = [Client(port) for _ in range(4_000)]
    for client in subscribers:
        client.send(_get("/subscribe/news"))
    publisher = Client(port)
    for _ in range(20):
        publisher.ask(_command("PUBLISH", "news", "x" * 64))
        time.sleep(0.1)


class Load(NamedTuple):
    """What a worker is given to do.

    Attributes:
        settings: that differ from the defaults.
        drive: does it, given the port.
        entries: how many there are before.
    """

    settings: dict[str, Any]
    drive: Callable[[int], None]
    entries: int = 0


_KEYS: Final = [f"{number:016}" for number in range(10_000)]
_ABSENT: Final = [f"no {key}" for key in _KEYS]


def _mset(keys: Sequence[str]) -> bytes:
    return _command("MSET", *(word for key in keys for word in (key, "v")))


def _put_large() -> bytes:
    return _put(0, value=bytes(63 << 20))


_SETS: Final = [("SET", key, "v") for key in _KEYS[:1000]]

# What is done with a million entries, by what a table says.
_OF_A_MILLION: Final[dict[str, Callable[[], Sequence[bytes]]]] = {
    "MGET of 10,000 keys": lambda: [_command("MGET", *_KEYS)],
    "EXISTS of 10,000 keys, half of them absent": lambda: [
        _command("EXISTS", *_KEYS[5000:], *_ABSENT[5000:])
    ],
    "MSET of 1,000 keys": lambda: [_mset(_KEYS[:1000])],
    "MSET of 10,000 keys": lambda: [_mset(_KEYS)],
    "DEL and MSET of 1,000 keys": lambda: [_command("DEL", *_KEYS[:1000]), _mset(_KEYS[:1000])],
    "DEL and MSET of 10,000 keys": lambda: [_command("DEL", *_KEYS), _mset(_KEYS)],
    "multi-exec of 1,000 SETs": lambda: [_post("/multi-exec", _SETS)],
    "pipeline of 1,000 SETs": lambda: [_post("/pipeline", _SETS)],
    "KEYS of all": lambda: [_command("KEYS", "*")],
    "KEYS of a tenth": lambda: [_command("KEYS", "*1")],
    "SCAN of 10,000 keys": lambda: [_command("SCAN", 0, "COUNT", 10_000)],
    "RANDOMKEY": lambda: [_command("RANDOMKEY")] * 100,
    "pages of a snapshot": lambda: [_get("/snapshot?cursor=0")] * 20,
    "FLUSHALL": lambda: [_command("FLUSHALL")],
    "FLUSHALL ASYNC": lambda: [_command("FLUSHALL", "ASYNC")],
    "PUT of 63 MiB": lambda: [_put_large()],
    "GET of 63 MiB": lambda: [_put_large(), *[_get(f"/kv/{0:016}")] * 5],
}
LOADS: Final[dict[str, Load]] = {
    "8,192 connections": Load({"memory_bytes": 64 << 20}, _connect),
    "eviction": Load({"memory_bytes": 16 << 20}, _evict),
    "eviction, segments of 256 KiB": Load({"memory_bytes": 16 << 20, "segment_bytes": 256 << 10}, _evict),
    "expiry": Load({"memory_bytes": 64 << 20}, _expire),
    "statistics of 1,024 shards": Load({"memory_bytes": 4 << 30}, _tell_statistics),
    "access log": Load({"memory_bytes": 64 << 20}, _log),
    "4,000 subscribers": Load({"memory_bytes": 64 << 20}, _publish),
    **{
        name: Load(
            {
                "memory_bytes": 512 << 20,
                "max_value_bytes": 63 << 20,
                "max_reply_bytes": 64 << 20,
                "max_keys": _MILLION,
                "max_body_bytes": 64 << 20,
            },
            _ask(make),
            _MILLION,
        )
        for name, make in _OF_A_MILLION.items()
    },
}
"""Loads by name."""


def _fill_store(store: Store, entries: int) -> None:
    for begin in range(0, entries, 10_000):
        keys = [b"%016d" % number for number in range(begin, begin + 10_000)]
        store.put_many(keys, [_VALUE] * len(keys), lambda: 0)


def _wrap(owner: type, method: str, note: Callable[[int], None]) -> None:
    """Have a method note how long it takes, for as long as the process lives."""
    original = getattr(owner, method)

    def timed(*args: Any, **kwargs: Any) -> Any:
        begin = time.thread_time_ns()
        try:
            return original(*args, **kwargs)
        finally:
            note(time.thread_time_ns() - begin)

    setattr(owner, method, timed)


def _serve(settings: Settings, listener: socket.socket, row_ready: Board, store: Store, ring: Ring) -> None:
    """Be the worker, and write down on stdout what its steps took; in a child."""
    times: dict[str, list[int]] = {}
    steps = list(STEPS)
    if settings.access_log is not None:
        steps[0] = (steps[0][0], LoggedConnection, steps[0][2])
    for name, owner, method in (*steps, *CAUSES):
        _wrap(owner, method, times.setdefault(name, []).append)
    gc.freeze()
    worker.serve(store, settings, row_ready, row_ready.rows[0], ring, [listener], os.getppid())
    sys.stdout.write(json.dumps(times))
    sys.stdout.flush()


def measure(name: str) -> list[dict[str, Any]]:
    """Have a worker work, and see what its steps took.

    Args:
        name: of the load.

    Returns:
        A row of figures for each kind of step.
    """
    load = LOADS[name]
    with ExitStack() as stack:
        changed = dict(load.settings)
        if name == "access log":
            changed["access_log"] = Path(stack.enter_context(tempfile.NamedTemporaryFile()).name)
        settings = Settings(**({"max_value_bytes": 1 << 16} | changed), workers=1)
        geometry = Geometry.plan(settings.memory_bytes, settings.shards, settings.segment_bytes)
        store = Store(geometry.memory_bytes, segment_bytes=geometry.segment_bytes, seed=7)
        _fill_store(store, load.entries)
        board = Board(1)
        board.rows[0][Column.STATE] = State.STARTING
        ring = Ring(settings.pubsub_memory_bytes, 1, settings.lock_wait_ms)
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=4096))
        out = stack.enter_context(tempfile.TemporaryFile())
        pid = os.fork()
        if not pid:
            os.dup2(out.fileno(), 1)
            try:
                _serve(settings, listener, board, store, ring)
            finally:
                os._exit(0)
        try:
            while board.rows[0][Column.STATE] != State.READY:
                time.sleep(0.01)
            load.drive(listener.getsockname()[1])
        finally:
            os.kill(pid, signal.SIGTERM)
            os.waitpid(pid, 0)
        out.seek(0)
        times: dict[str, list[int]] = json.loads(out.read())
        problems = store.check()
        store.close()
    return [
        {
            "load": name,
            "entries": load.entries,
            "step": step,
            **pauses(each),
            "problems": problems,
        }
        for step, each in times.items()
        if each
    ]


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description="Measure the longest steps of a worker's event loop.")
    parser.add_argument("--only", nargs="+", choices=LOADS, default=list(LOADS))
    parser.add_argument("--save", action="store_true", help="write perf/results/pauses.json")
    options = parser.parse_args()
    raise_open_files(_OPEN_FILES)
    rows = []
    for name in options.only:
        for row in measure(name):
            rows.append(row)
            sys.stdout.write(
                f"{row['load']:32} {row['step']:32} {row['n']:8} {row['median_ms']:8.3f} "
                f"{row['p999_ms']:8.3f} {row['max_ms']:8.3f} {row['over_5_ms']:5}\n"
            )
            sys.stdout.flush()
    if options.save:
        save("pauses", rows=rows)


if __name__ == "__main__":
    main()
