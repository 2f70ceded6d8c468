"""What memory workers take under more than ``max_buffer_bytes`` of bodies or replies, and give back.

    python -m perf.pressure [--only senders readers …] [--tls CERT KEY] [--save]

The figure is the anonymous part of the workers' proportional set size: before, at its peak, and once it is
over. All clients send at the same time, and end their bodies only when none of them gets on any more.
"""

from __future__ import annotations

import argparse
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from fastkv.kernel.limits import raise_open_files
from perf.report import save

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MIB: Final = 1 << 20
_SAMPLE_SECONDS: Final = 0.005
_SETTLE_SECONDS: Final = 2.0
_STILL_SECONDS: Final = 1.5
_PIECE_BYTES: Final = 64 << 10
_OPEN_FILES: Final = 20_000


class Load(NamedTuple):
    """Clients, and what they have the workers keep.

    Attributes:
        clients: how many.
        bytes: of each one's body, or of the value that it asks for.
        reads: whether they ask for a value, again and again, and do not read; else they send a body.
        workers: how many serve.
        limit_mb: ``max_buffer_bytes`` of each worker.
    """

    clients: int
    bytes: int
    reads: bool
    workers: int
    limit_mb: int


LOADS: Final[dict[str, Load]] = {
    "senders": Load(700, 900 << 10, False, 1, 64),
    "senders of two workers": Load(1500, 900 << 10, False, 2, 64),
    "senders of small bodies": Load(1500, 120 << 10, False, 1, 64),
    "readers": Load(700, 900 << 10, True, 1, 64),
}
"""Loads by name."""


class Figures(NamedTuple):
    """What workers took, in bytes, and how clients fared.

    Attributes:
        before, peak, after: anonymous memory of all workers.
        outcomes: how many clients had which: a status, ``"cut"``, or ``"waits"`` for what had no end yet.
    """

    before: int
    peak: int
    after: int
    outcomes: Counter[str]


def anonymous_bytes(pids: Sequence[int]) -> int:
    """Anonymous memory of processes, what they share divided among them."""
    found = 0
    for pid in pids:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        found += int(re.search(r"Pss_Anon: +([0-9]+)", rollup)[1]) << 10  # type: ignore[index]
    return found


class _Client:
    """One connection that does not wait."""

    def __init__(self, port: int, message: bytes, context: ssl.SSLContext | None) -> None:
        self.outcome = "waits"
        self.message = memoryview(message)
        self.socket = socket.create_connection(("127.0.0.1", port))
        if context is not None:
            self.socket = context.wrap_socket(self.socket, server_hostname="localhost")
        self.socket.setblocking(False)
        self.reply = b""

    def send(self, keep_bytes: int) -> bool:
        """Send a piece of what is left but for its end; whether something was sent."""
        try:
            piece = self.message[: min(_PIECE_BYTES, max(len(self.message) - keep_bytes, 0))]
            sent = self.socket.send(piece) if piece else 0
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        except OSError:
            sent = len(self.message)
        self.message = self.message[sent:]
        return sent > 0

    def read(self) -> bool:
        """Read the reply; whether there may be more."""
        try:
            piece = self.socket.recv(1 << 16)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return True
        except OSError:
            piece = b""
        self.reply += piece
        if b"\r\n\r\n" in self.reply:
            self.outcome = self.reply[9:12].decode()
        elif not piece:
            self.outcome = "cut"
        return self.outcome == "waits"


def burst(
    port: int,
    workers: Sequence[int],
    load: Load,
    context: ssl.SSLContext | None = None,
    *,
    seconds: float = 60.0,
) -> Figures:
    """Have all clients of a load come at once.

    Args:
        port: of the server.
        workers: process ids of its workers.
        load: what clients do.
        context: for TLS, or None.
        seconds: how long at most.

    Returns:
        The figures.
    """
    before = peak = anonymous_bytes(workers)
    over = threading.Event()

    def sample() -> None:
        nonlocal peak
        while not over.wait(_SAMPLE_SECONDS):
            peak = max(peak, anonymous_bytes(workers))

    sampler = threading.Thread(target=sample)
    sampler.start()
    with ExitStack() as stack:
        try:
            clients = [_Client(port, _message(load, number), context) for number in range(load.clients)]
            for client in clients:
                stack.callback(client.socket.close)
            # All but the end of each body, in turns, until no client gets on; then the ends.
            for keep_bytes in (0,) if load.reads else (1, 0):
                left, deadline = set(clients), time.monotonic() + seconds
                moved = time.monotonic()
                patience = _STILL_SECONDS if keep_bytes else 10 * _STILL_SECONDS
                while left and time.monotonic() < min(deadline, moved + patience):
                    for client in list(left):
                        if client.send(keep_bytes):
                            moved = time.monotonic()
                        elif len(client.message) <= keep_bytes and (keep_bytes or load.reads):
                            left.discard(client)
                        if not load.reads and not client.read():
                            left.discard(client)
            time.sleep(_SETTLE_SECONDS if load.reads else 0)
        finally:
            over.set()
            sampler.join()
        outcomes = Counter(client.outcome for client in clients)
    time.sleep(_SETTLE_SECONDS)
    return Figures(before, peak, anonymous_bytes(workers), outcomes)


def _message(load: Load, number: int) -> bytes:
    if load.reads:
        return b"GET /kv/value HTTP/1.1\r\nHost: localhost\r\n\r\n" * 8
    head = b"PUT /kv/%d HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
    return head % (number, load.bytes) + bytes(load.bytes)


@contextmanager
def _serving(load: Load, tls: Sequence[str]) -> Iterator[tuple[int, list[int]]]:
    flags: dict[str, Any] = {
        "--port": 0,
        "--workers": load.workers,
        "--memory": "256mb",
        "--max-buffer-bytes": f"{load.limit_mb}mb",
        "--stuck-seconds": 600,
    }
    if tls:
        flags |= {"--tls-cert": tls[0], "--tls-key": tls[1]}
    words = [str(word) for pair in flags.items() for word in pair]
    command = [sys.executable, "-m", "fastkv", "serve", "--no-tune", *words]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        port = int(server.stdout.readline().split("://")[1].split()[0].rsplit(":", 1)[1])
        children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
        yield port, [int(pid) for pid in children]
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)


def _put(port: int, size: int, context: ssl.SSLContext | None) -> None:
    with ExitStack() as stack:
        client = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        if context is not None:
            client = stack.enter_context(context.wrap_socket(client, server_hostname="localhost"))
        client.sendall(b"PUT /kv/value HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % size)
        client.sendall(bytes(size))
        client.recv(1000)


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description="Measure the memory that workers take under pressure.")
    parser.add_argument("--only", nargs="+", choices=LOADS, default=list(LOADS))
    parser.add_argument("--tls", nargs=2, metavar=("CERT", "KEY"), default=())
    parser.add_argument("--save", action="store_true", help="write perf/results/pressure.json")
    options = parser.parse_args()
    raise_open_files(_OPEN_FILES)
    context = ssl.create_default_context(cafile=options.tls[0]) if options.tls else None
    rows = []
    for name in options.only:
        load = LOADS[name]
        with _serving(load, options.tls) as (port, workers):
            if load.reads:
                _put(port, load.bytes, context)
            for turn in range(2):
                figures = burst(port, workers, load, context)
                rows.append(
                    {
                        "load": name,
                        "tls": bool(options.tls),
                        "turn": turn,
                        "limit_mb": load.limit_mb * load.workers,
                        "before_mb": round(figures.before / MIB, 1),
                        "peak_mb": round(figures.peak / MIB, 1),
                        "after_mb": round(figures.after / MIB, 1),
                        "outcomes": dict(figures.outcomes),
                    }
                )
                sys.stdout.write(f"{rows[-1]}\n")
                sys.stdout.flush()
    if options.save:
        save("pressure", rows=rows)


if __name__ == "__main__":
    main()
