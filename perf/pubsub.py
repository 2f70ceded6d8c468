"""What it takes to tell 10,000 subscribers: ``python -m perf.pubsub``, saved with ``--save``.

Subscribers of a server with two workers read Server-Sent Events, those of a Redis read RESP2, each on a
connection of its own; one process reads them all. For each message it is measured how long it takes from
before PUBLISH is sent until its reply, until the first and until the last subscriber has it, and how much CPU
the server's processes have used. The reader takes a core while it reads, so the times are upper bounds.
"""

from __future__ import annotations

import argparse
import http.client
import json
import resource
import select
import shutil
import socket
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psutil

from perf.report import ROOT, save, summary
from perf.rivals import child, connect, free_port

if TYPE_CHECKING:
    from collections.abc import Callable

_CHANNEL: Final = "news"
_ROUND_SECONDS: Final = 60.0
_ROUNDS: Final = 30
_WORKERS: Final = 2


class Crowd:
    """Subscribers, each on a connection of its own, read by this process."""

    def __init__(self, port: int, request: bytes, confirmation: bytes, number: int) -> None:
        """Connect and subscribe.

        Args:
            port: the server's.
            request: what subscribes.
            confirmation: what its confirmation ends with.
            number: how many there are.
        """
        self._poll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        for _ in range(number):
            one = socket.create_connection(("127.0.0.1", port), 30)
            one.sendall(request)
            told = b""
            while not told.endswith(confirmation):
                told += one.recv(4096)
            one.setblocking(False)
            self._poll.register(one, select.EPOLLIN)
            self._sockets[one.fileno()] = one

    def __len__(self) -> int:
        return len(self._sockets)

    def read(self, size: int) -> tuple[float, float]:
        """Read until every subscriber has so many bytes.

        Args:
            size: of a message, as it is sent.

        Returns:
            When the first had all of it, and when the last had, on the clock of ``time.perf_counter``.
        """
        missing = dict.fromkeys(self._sockets, size)
        first = 0.0
        deadline = time.perf_counter() + _ROUND_SECONDS
        while missing:
            for descriptor, _ in self._poll.poll(1.0, 1024):
                got = len(self._sockets[descriptor].recv(4096))
                missing[descriptor] -= got
                if not got or missing[descriptor] < 0:
                    raise RuntimeError("A subscriber did not get what was expected.")
                if not missing[descriptor]:
                    del missing[descriptor]
                    first = first or time.perf_counter()
            if time.perf_counter() > deadline:
                raise RuntimeError(f"{len(missing)} subscribers did not get a message in time.")
        return first, time.perf_counter()

    def close(self) -> None:
        """Hang up."""
        self._poll.close()
        for one in self._sockets.values():
            one.close()


def cpu_ns(pids: list[int]) -> list[int]:
    """Nanoseconds that processes were on a CPU, kernel included."""
    return [int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) for pid in pids]


def measure(
    crowd: Crowd, pids: list[int], publish: Callable[[bytes], int], size: Callable[[bytes], int]
) -> dict[str, Any]:
    """Publish message after message.

    Args:
        crowd: who gets them.
        pids: of the server's processes.
        publish: publishes on the channel, returns how many get it.
        size: how many bytes a subscriber is sent for a message.

    Returns:
        Times in ms, and CPU in µs for each subscriber and message.
    """
    replied, first, last, spent = [], [], [], []
    share = [0] * len(pids)
    for number in range(_ROUNDS + 3):
        payload = b"message %08d" % number + bytes(48).replace(b"\0", b".")
        before = cpu_ns(pids)
        start = time.perf_counter()
        count = publish(payload)
        if count != len(crowd):
            raise RuntimeError(f"{count} subscribers of {len(crowd)} were told.")
        reply = time.perf_counter()
        first_has, last_has = crowd.read(size(payload))
        time.sleep(0.02)  # until the kernel has accounted for what has run last
        used = [after - earlier for after, earlier in zip(cpu_ns(pids), before, strict=True)]
        if number < 3:  # to warm up
            continue
        replied.append((reply - start) * 1e3)
        first.append((first_has - start) * 1e3)
        last.append((last_has - start) * 1e3)
        spent.append(sum(used) / 1e3 / len(crowd))
        share = [total + own for total, own in zip(share, used, strict=True)]
    return {
        "subscribers": len(crowd),
        "reply_ms": summary(replied),
        "first_ms": summary(first),
        "last_ms": summary(last),
        "cpu_us": summary(spent),
        "cpu_share": [round(own / sum(share), 3) for own in share],
    }


def fastkv(number: int) -> dict[str, Any]:
    """Server-Sent Events of two workers."""
    port = free_port()
    command = [sys.executable, "-m", "fastkv", "serve", "--no-tune", "--port", str(port), "--memory", "64mb"]
    with child([*command, "--workers", str(_WORKERS)]) as server:
        connect(port).close()
        request = f"GET /subscribe/{_CHANNEL} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        with (
            closing(Crowd(port, request, b",1\n\n\r\n", number)) as crowd,
            closing(http.client.HTTPConnection("127.0.0.1", port)) as publisher,
        ):

            def publish(payload: bytes) -> int:
                publisher.request("POST", "/", json.dumps(["PUBLISH", _CHANNEL, payload.decode()]))
                return int(json.loads(publisher.getresponse().read())["result"])

            def size(payload: bytes) -> int:
                event = len(f"data: message,{_CHANNEL},") + len(payload) + 2
                return len(b"%x\r\n" % event) + event + 2

            pids = [process.pid for process in psutil.Process(server.pid).children()]
            publish(b"")  # the connection is made
            crowd.read(size(b""))
            return {"name": f"fastkv, {_WORKERS} workers, SSE", **measure(crowd, pids, publish, size)}


def redis(number: int) -> dict[str, Any]:
    """RESP2 of a Redis."""
    port = free_port()
    options = ["--port", str(port), "--save", "", "--maxclients", str(number + 100), "--bind", "127.0.0.1"]
    with child(["redis-server", *options]) as server:
        connect(port).close()
        request = b"*2\r\n$9\r\nSUBSCRIBE\r\n$%d\r\n%b\r\n" % (len(_CHANNEL), _CHANNEL.encode())
        with (
            closing(Crowd(port, request, b":1\r\n", number)) as crowd,
            closing(socket.create_connection(("127.0.0.1", port))) as publisher,
        ):

            def publish(payload: bytes) -> int:
                words = (b"PUBLISH", _CHANNEL.encode(), payload)
                publisher.sendall(b"*3\r\n" + b"".join(b"$%d\r\n%b\r\n" % (len(w), w) for w in words))
                return int(publisher.recv(100)[1:])

            def size(payload: bytes) -> int:
                words = (b"message", _CHANNEL.encode(), payload)
                return 4 + sum(len(b"$%d\r\n%b\r\n" % (len(w), w)) for w in words)

            return {"name": "Redis, RESP2", **measure(crowd, [server.pid], publish, size)}


def main() -> None:
    """Measure, print, and save if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subscribers", type=int, default=10_000)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    rows = [fastkv(options.subscribers)]
    servers = {}
    if shutil.which("redis-server"):
        rows.append(redis(options.subscribers))
        with child(["redis-server", "--version"], stdout=-1) as version:
            assert version.stdout
            servers["Redis"] = version.stdout.read().split("v=")[1].split()[0]
    print(json.dumps(rows, indent=1))
    if options.save:
        print(save("pubsub", servers=servers, rows=rows).relative_to(ROOT))


if __name__ == "__main__":
    main()
