"""What runs under callgrind: servers of one connection class each, and the reference loop.

    valgrind … python -m perf.instructions.served MARKS LAYOUT NAME …

Every name is served in a process of its own, forked from the same one with a store of its own, so that a
figure does not depend on what else is counted. A server writes its port to standard output, and reads from
standard input when counting begins and ends.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import sys
from functools import partial
from typing import TYPE_CHECKING, Final

import uvloop

from fastkv.clock import arena_clock
from fastkv.connection import Connection
from fastkv.http.responses import Preludes
from fastkv.http.routes import PLAIN, Routes
from fastkv.service import Service
from fastkv.settings import Settings
from fastkv.stats import Board, Column, State
from fastkv.store import Store
from fastkv.wires import open_wires
from perf.instructions import reference
from perf.instructions.paths import COUNTED, LOADED, PATHS, key, value

if TYPE_CHECKING:
    from collections.abc import Callable

    from perf.instructions.paths import Path

_MEMORY_BYTES: Final = 32 << 20
# The pages of the index are then as full as those of 1 GiB with a million entries.
_SHARDS: Final = 1
_SEED: Final = 7
# As where versions begin at the Unix time in µs.
_FIRST_VERSION: Final = 1_700_000_000_000_000
_TTL_MS: Final = 3_600_000
_CONSTANT_REPLY: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK"

BEGIN: Final = b"b"
END: Final = b"e"

_elsewhere: Final[list[object]] = []


class Marks:
    """Where counting begins and ends, seen by callgrind."""

    def __init__(self, library: str) -> None:
        """Load the marks.

        Args:
            library: what was built from ``marks.c``.
        """
        marks = ctypes.CDLL(library)
        self.begin, self._end = marks.begin, marks.end
        self.begin.argtypes, self._end.argtypes = (), (ctypes.c_char_p,)

    def end(self, name: str) -> None:
        """Write down under a name what was counted since ``begin``."""
        self._end(name.encode())


class Constant(asyncio.Protocol):
    """What every server on uvloop pays for a request: receive, and write a constant."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport's write."""
        self._write = transport.write  # type: ignore[attr-defined]

    def data_received(self, _data: bytes) -> None:
        """Reply."""
        self._write(_CONSTANT_REPLY)


async def _serve(
    name: str, marks: Marks, make: Callable[[], asyncio.Protocol], requests: Callable[[], int]
) -> None:
    """Serve until counting has ended, and say how many requests were counted.

    Args:
        name: what is counted.
        marks: for callgrind.
        make: makes the protocol of a connection.
        requests: how many there have been.
    """
    loop = asyncio.get_running_loop()
    server = await loop.create_server(make, "127.0.0.1", 0)
    done = asyncio.Event()
    before = 0

    def on_command() -> None:
        nonlocal before
        command = os.read(0, 1)
        if command == BEGIN:
            before = requests()
            print("begun", flush=True)
            marks.begin()
        else:
            loop.remove_reader(0)
            marks.end(name)
            print(requests() - before, flush=True)
            done.set()

    loop.add_reader(0, on_command)
    print(server.sockets[0].getsockname()[1], flush=True)
    await done.wait()
    server.close()


def serve_path(path: Path, marks: Marks) -> None:
    """Serve the requests of a path.

    Args:
        path: the path.
        marks: for callgrind.
    """
    store = Store(_MEMORY_BYTES, shards=_SHARDS, first_version=_FIRST_VERSION, seed=_SEED)
    settings = Settings(workers=1, memory_bytes=_MEMORY_BYTES)
    board = Board(1)
    row = board.rows[0]
    row[Column.STATE] = State.READY
    clock = arena_clock(0)
    for number in range(LOADED):
        store.put(key(number), value(number), clock, PLAIN, clock() + _TTL_MS if path.ttl else 0)
    routes = Routes(store, settings, board, row, clock)
    open_wires(routes, settings)
    service = Service(store, settings, routes, board, row, Preludes(0))
    service.turn_seconds = 3600.0  # so that a slow machine changes nothing
    uvloop.run(_serve(path.name, marks, lambda: Connection(service), lambda: row[path.column]))


def serve_constant(marks: Marks) -> None:
    """Serve a constant reply."""
    uvloop.run(_serve(reference.CONSTANT, marks, Constant, lambda: 0))


def count_reference(marks: Marks) -> None:
    """Count the reference loop, which needs no client."""
    loop = reference.Loop()
    for read in reference.make_reads(COUNTED):
        loop.turn(read)
    reads = reference.make_reads(COUNTED)
    marks.begin()
    for read in reads:
        loop.turn(read)
    marks.end(reference.NAME)


def move(layout: int) -> None:
    """Make all that follows stand elsewhere in memory, and give types other versions.

    The interpreter finds methods in a cache of 4096 places, by the address of the name and the version of the
    type. Two that are needed in turns and have the same place cost 350 instructions each time; which ones do
    is chance.

    Args:
        layout: a small number, for each another place.
    """
    for _ in range(layout):
        _elsewhere.extend(bytes(size) for size in range(1, 480, 16))
        getattr(type("Layout", (), {}), "version", None)


def _in_child(act: Callable[[], None]) -> bool:
    """Do something in a process of its own; whether it went well."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            act()
            status = 0
        except BaseException:  # noqa: BLE001 - it is shown, and nothing else happens in this process
            sys.excepthook(*sys.exc_info())
        os._exit(status)
    return os.waitpid(pid, 0)[1] == 0


def main() -> None:
    """Serve what is named, one after the other."""
    marks = Marks(sys.argv[1])
    acts: dict[str, Callable[[], None]] = {path.name: partial(serve_path, path, marks) for path in PATHS}
    acts[reference.NAME] = partial(count_reference, marks)
    acts[reference.CONSTANT] = partial(serve_constant, marks)
    gc.disable()  # as workers do
    move(int(sys.argv[2]))
    for name in sys.argv[3:]:
        if not _in_child(acts[name]):
            sys.exit(f"{name} could not be counted.")


if __name__ == "__main__":
    main()
