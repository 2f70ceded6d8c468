"""What a command over a WebSocket costs the server, beside the same GET over HTTP and another server.

    python -m perf.websocket [--rounds 7] [--requests 40000] [--save]

One worker, 64 connections, one request of each on its way: a GET of one key with 64 bytes, over and over.
What is counted is the CPU of the process that serves, by the kernel's scheduler. Every kind has its turn in
every round, and ratios are made within a round: the machine may be slower in the next one.

The other server is that of `websockets` on asyncio, with uvloop: JSON, a dict, and nothing else.
"""

from __future__ import annotations

import argparse
import os
import selectors
import socket
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson

from perf.report import save, summary

if TYPE_CHECKING:
    from collections.abc import Iterator

_CONNECTIONS: Final = 64
_BATCH: Final = 16
_KEY: Final = "some-key"
_VALUE: Final = "v" * 64
_MEMORY: Final = "64mb"
_HANDSHAKE: Final = (
    b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
_RIVAL: Final = """
import asyncio, orjson, uvloop, websockets
entries = {}
def answer(words):
    if words[0] == "SET":
        entries[words[1]] = words[2]
        return {"result": "OK"}
    return {"result": entries.get(words[1])}
async def handler(socket):
    async for message in socket:
        said = orjson.loads(message)
        told = answer(said) if said[0].__class__ is str else [answer(words) for words in said]
        await socket.send(orjson.dumps(told), text=True)
async def main():
    async with websockets.serve(handler, "127.0.0.1", 0, compression=None) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.get_running_loop().create_future()
uvloop.run(main())
"""


class Server(NamedTuple):
    """A server that is measured.

    Attributes:
        port: where it serves.
        pid: the process that does.
    """

    port: int
    pid: int

    def cpu_us(self) -> float:
        """What the process has run so far, in µs (proc(5), schedstat)."""
        return int(Path(f"/proc/{self.pid}/schedstat").read_text().split()[0]) / 1000


class Kind(NamedTuple):
    """A way to ask.

    Attributes:
        name: as in the results.
        server: "fastkv" or "websockets".
        request: what is sent, over and over.
        commands: how many GETs are in that.
        upgrade: whether it is for a WebSocket.
    """

    name: str
    server: str
    request: bytes
    commands: int
    upgrade: bool


def frame(said: object, first: int = 0x81, mask: bytes = b"") -> bytes:
    """A frame of a client: JSON, or bytes; without a mask it gets one at random."""
    payload = said if isinstance(said, bytes) else orjson.dumps(said)
    mask = mask or os.urandom(4)
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else bytes([0xFE]) + size.to_bytes(2, "big")
    return bytes([first]) + length + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))


_GET: Final = ["GET", _KEY]
_RESP: Final = b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(_KEY), _KEY.encode())
_HTTP: Final = f"GET /get?key={_KEY} HTTP/1.1\r\nHost: 127.0.0.1:7171\r\nAccept: */*\r\n\r\n".encode()
KINDS: Final = (
    Kind("HTTP", "fastkv", _HTTP, 1, False),
    Kind("JSON", "fastkv", frame(_GET), 1, True),
    Kind("JSON with an id", "fastkv", frame({"id": 1, "cmd": _GET}), 1, True),
    Kind("RESP2", "fastkv", frame(_RESP, 0x82), 1, True),
    Kind("16 JSON in a batch", "fastkv", frame([_GET] * _BATCH), _BATCH, True),
    Kind("16 JSON frames", "fastkv", b"".join(frame(_GET) for _ in range(_BATCH)), _BATCH, True),
    Kind("16 RESP2 in a message", "fastkv", frame(_RESP * _BATCH, 0x82), _BATCH, True),
    Kind("JSON, websockets", "websockets", frame(_GET), 1, True),
    Kind("16 JSON in a batch, websockets", "websockets", frame([_GET] * _BATCH), _BATCH, True),
)
# What the issue asked for: each kind's cost per command as a share of another's.
RATIOS: Final = (
    ("JSON", "HTTP"),
    ("JSON", "JSON, websockets"),
    ("16 JSON in a batch", "JSON"),
    ("16 JSON frames", "JSON"),
    ("16 RESP2 in a message", "RESP2"),
)


@contextmanager
def _fastkv() -> Iterator[Server]:
    command = [sys.executable, "-m", "fastkv", "serve", "--no-tune", "--port", "0", "--workers", "1"]
    with subprocess.Popen(
        [*command, "--memory", _MEMORY, "--log-level", "error"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline().split("127.0.0.1:")[1].split()[0])
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        try:
            yield Server(port, int(children[0]))
        finally:
            process.terminate()


@contextmanager
def _websockets() -> Iterator[Server]:
    with subprocess.Popen(
        [sys.executable, "-c", _RIVAL], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield Server(int(process.stdout.readline()), process.pid)
        finally:
            process.terminate()


def _connect(port: int, *, upgrade: bool) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if upgrade:
        connection.sendall(_HANDSHAKE)
        while not connection.recv(4096).endswith(b"\r\n\r\n"):
            pass
    return connection


def _measure(kind: Kind, server: Server, requests: int) -> float:
    """Send so many requests; the µs of CPU of each command."""
    connections = [_connect(server.port, upgrade=kind.upgrade) for _ in range(_CONNECTIONS)]
    connections[0].sendall(kind.request)
    connections[0].settimeout(0.2)
    reply = b""
    while True:  # until nothing more comes: all replies are as long as this one
        try:
            reply += connections[0].recv(1 << 16)
        except TimeoutError:
            break
    assert reply.count(_VALUE.encode()) == kind.commands, reply
    _ask(kind.request, len(reply), connections, _CONNECTIONS * 20)  # caches are warm then
    before = server.cpu_us()
    _ask(kind.request, len(reply), connections, requests // kind.commands)
    cost = server.cpu_us() - before
    for connection in connections:
        connection.close()
    return cost / (requests // kind.commands * kind.commands)


def _ask(request: bytes, reply_bytes: int, connections: list[socket.socket], count: int) -> None:
    """Keep one request on its way on each connection until all have been sent and answered."""
    due = dict.fromkeys(connections, reply_bytes)
    with selectors.EpollSelector() as selector:
        for connection in connections:
            connection.setblocking(False)
            selector.register(connection, selectors.EVENT_READ)
            connection.send(request)
        sent = len(connections)
        answered = 0
        while answered < sent:
            for key, _ in selector.select():
                ready: Any = key.fileobj
                due[ready] -= len(ready.recv(1 << 16))
                if due[ready] == 0:
                    answered += 1
                    if sent < count:
                        due[ready] = reply_bytes
                        sent += 1
                        ready.send(request)


def run(rounds: int, requests: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Measure.

    Args:
        rounds: how often each kind has its turn.
        requests: commands of a turn.

    Returns:
        µs of each kind in each round, and the ratios within each.
    """
    costs: dict[str, list[float]] = {kind.name: [] for kind in KINDS}
    with ExitStack() as stack:
        servers = {"fastkv": stack.enter_context(_fastkv()), "websockets": stack.enter_context(_websockets())}
        for server in servers.values():
            connection = _connect(server.port, upgrade=True)
            connection.sendall(frame(["SET", _KEY, _VALUE]))
            assert connection.recv(100)
            connection.close()
        for _ in range(rounds):
            for kind in KINDS:
                costs[kind.name].append(_measure(kind, servers[kind.server], requests))
    ratios = {
        f"{one} / {other}": [a / b for a, b in zip(costs[one], costs[other], strict=True)]
        for one, other in RATIOS
    }
    return costs, ratios


def main() -> None:
    """Measure, print, and keep it if asked to."""
    parser = argparse.ArgumentParser(prog="perf.websocket")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--requests", type=int, default=40_000)
    parser.add_argument("--save", action="store_true")
    chosen = parser.parse_args()
    costs, ratios = run(chosen.rounds, chosen.requests)
    rows = [{"kind": name, **summary(values)} for name, values in costs.items()]
    shares = [{"kind": name, **summary(values)} for name, values in ratios.items()]
    for found in (*rows, *shares):
        print(f"{found['kind']:36} {found['median']:6.2f} ({found['lower']:.2f} to {found['upper']:.2f})")
    if chosen.save:
        print(save("websocket", ["websockets"], requests=chosen.requests, rows=rows, ratios=shares))


if __name__ == "__main__":
    main()
