"""A worker process: one event loop that accepts and serves, from fork to exit."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import time
from functools import partial
from typing import TYPE_CHECKING, Final

import uvloop

from fastkv.access_log import AccessLog, LoggedConnection
from fastkv.clock import arena_clock
from fastkv.connection import Connection
from fastkv.descent import die_with_parent
from fastkv.errors import StoreBusy
from fastkv.flow import SWEEP_SECONDS
from fastkv.garbage import Garbage
from fastkv.handshake import Handshake
from fastkv.heap import Heap
from fastkv.http.responses import Preludes
from fastkv.http.routes import Routes
from fastkv.progress import PROGRESS
from fastkv.pubsub.events import Events
from fastkv.pubsub.hub import Hub
from fastkv.service import Service
from fastkv.stats import Board, Column, State
from fastkv.wires import open_wires

if TYPE_CHECKING:
    import ssl

    from fastkv.pubsub.ring import Ring
    from fastkv.settings import Settings
    from fastkv.store import Store

_log = logging.getLogger("fastkv")

RETIRE: Final = signal.SIGUSR1
"""What the supervisor sends to a worker whose successor accepts already."""

_HEARTBEAT: Final = int(Column.HEARTBEAT)
_TICK_SECONDS: Final = 0.25
_LAST_READ_SECONDS: Final = 0.05
_RETIRED_SECONDS: Final = 600.0
# How often the store is looked after, and how soon again while there is more to do; a step takes 0.5 ms. In
# between it is twice as long each time: who writes fast needs room again soon after it was made.
_LOOK_SECONDS: Final = 0.05
_AGAIN_SECONDS: Final = 0.001


class Worker:
    """Serves the connections of one process."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        board: Board,
        row: memoryview[int],
        ring: Ring,
        sockets: list[socket.socket],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Put a worker together.

        Args:
            store: the store.
            settings: the settings.
            board: all workers' rows.
            row: its own.
            ring: through which messages go from worker to worker.
            sockets: where it accepts.
            tls: for TCP connections; None where they are plain.
        """
        self._store = store
        self._settings = settings
        self._row = row
        self._sockets = sockets
        self._tls = tls
        self._clock_ms = arena_clock(store.offset_ms)
        self._hub = Hub(ring, board, board.number(row), settings)
        self._events = Events(self._hub, store.removals, settings.keyspace_events, row)
        routes = Routes(store, settings, board, row, self._clock_ms, self._hub, self._events)
        open_wires(routes, settings)
        self._service = Service(store, settings, routes, board, row, Preludes(int(time.time())))
        self._access_log = None if settings.access_log is None else AccessLog(settings, row)
        self._servers: list[asyncio.AbstractServer] = []
        self._ends: list[asyncio.Task[None]] = []
        self._garbage = Garbage()
        self._heap = Heap()
        self._look_seconds = _LOOK_SECONDS

    def run(self) -> None:
        """Serve until told to end."""
        gc.disable()
        PROGRESS.made = self._beat
        uvloop.run(self._main())

    async def _main(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop)
        loop.add_signal_handler(RETIRE, self._retire)
        for listener in self._sockets:
            # The loop calls listen() again; it has to say what the supervisor said.
            backlog = self._settings.backlog or socket.SOMAXCONN
            if listener.family == socket.AF_UNIX:
                server = await loop.create_unix_server(self._connect, sock=listener, backlog=backlog)
            else:
                connect = self._connect if self._tls is None else partial(self._shake_hands, self._tls)
                server = await loop.create_server(connect, sock=listener, backlog=backlog)
            self._servers.append(server)
            self._ends.append(loop.create_task(server.wait_closed()))
        self._hub.start(loop)
        self._tick(loop)
        self._sweep(loop)
        self._look_after_store(loop)
        self._row[Column.STATE] = State.READY
        await self._service.drained.wait()
        await asyncio.gather(*self._ends, return_exceptions=True)
        self._hub.stop()
        if self._access_log is not None:
            self._access_log.close()

    def _connect(self) -> Connection:
        """The protocol of a new connection."""
        if self._access_log is None:
            return Connection(self._service)
        return LoggedConnection(self._service, self._access_log)

    def _shake_hands(self, context: ssl.SSLContext) -> Handshake:
        """The protocol of a new connection on which TLS has to begin."""
        return Handshake(self._service, context, self._connect)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        """A sign of life, the date, and the housekeeping that must not be done while a request waits."""
        self._beat()
        self._service.set_date(int(time.time()))
        self._hub.turn()
        if self._access_log is not None:
            self._access_log.turn()
        self._garbage.turn()
        self._heap.turn(self._service.used_bytes)
        loop.call_later(_TICK_SECONDS, self._tick, loop)

    def _beat(self) -> None:
        """Give a sign of life."""
        self._row[_HEARTBEAT] = time.monotonic_ns() // 1_000_000

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look after the deadlines of some connections, over and over."""
        self._service.turn()
        loop.call_later(SWEEP_SECONDS, self._sweep, loop)

    def _look_after_store(self, loop: asyncio.AbstractEventLoop) -> None:
        """Give back what has expired, make room ahead: a step at a time, others have turns in between."""
        try:
            more = self._store.look_after(self._clock_ms)
        except StoreBusy:  # somebody was stopped in a critical section; who needs it more will wait
            more = False
        self._events.tell_removals()
        self._look_seconds = _AGAIN_SECONDS if more else min(2 * self._look_seconds, _LOOK_SECONDS)
        loop.call_later(self._look_seconds, self._look_after_store, loop)

    def _stop(self) -> None:
        """SIGTERM: finish what is under way, then end."""
        self._service.routes.draining = True
        self._drain()
        asyncio.get_running_loop().call_later(self._settings.drain_seconds, self._end)
        # What clients had sent before this moment is read and answered first.
        asyncio.get_running_loop().call_later(_LAST_READ_SECONDS, self._close_idle)

    def _retire(self) -> None:
        """RETIRE: a successor accepts already; end as clients come to the end of what they do.

        Nobody waits for this process: who still sends or reads goes on for as long as the deadlines allow.
        """
        self._drain()
        loop = asyncio.get_running_loop()
        loop.call_later(self._settings.drain_seconds, self._close_idle)
        loop.call_later(_RETIRED_SECONDS, self._end)

    def _drain(self) -> None:
        self._row[Column.STATE] = State.DRAINING
        for server in self._servers:
            server.close()
        self._servers.clear()
        self._service.drain()

    def _close_idle(self) -> None:
        self._service.close_all(idle_only=True)

    def _end(self) -> None:
        """The time to drain is over: close what is left."""
        self._service.close_all(idle_only=False)
        self._service.drained.set()
        for end in self._ends:
            end.cancel()


def serve(
    store: Store,
    settings: Settings,
    board: Board,
    row: memoryview[int],
    ring: Ring,
    sockets: list[socket.socket],
    parent: int,
    tls: ssl.SSLContext | None = None,
) -> int:
    """What a worker process does after the fork.

    Args:
        store: the store.
        settings: the settings.
        board: all workers' rows.
        row: its own.
        ring: through which messages go from worker to worker.
        sockets: where it accepts.
        parent: process id of the supervisor.
        tls: for TCP connections; None where they are plain.

    Returns:
        The exit code.
    """
    die_with_parent(parent)
    # A terminal sends both to the whole process group; they are the supervisor's to handle.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    row[Column.PID] = os.getpid()
    row[Column.HEARTBEAT] = time.monotonic_ns() // 1_000_000
    Worker(store, settings, board, row, ring, sockets, tls).run()
    return 0
