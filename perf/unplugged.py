"""A worker without sockets: a connection that is handed bytes, and a client that reads at once."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from fastkv.connection import Connection
from fastkv.http.responses import Preludes
from fastkv.http.routes import Routes
from fastkv.service import Service
from fastkv.stats import Board, Column, State
from fastkv.wires import open_wires

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fastkv.settings import Settings
    from fastkv.store import Store

_NOW_MS = 1_000_000


def clock() -> int:
    """A clock that stands still."""
    return _NOW_MS


class Client:
    """A transport to a client that reads at once; it keeps the newest reply.

    Attributes:
        write: takes a reply, in C like that of a real transport.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self._newest: deque[bytes] = deque([b""], maxlen=1)
        self.write = self._newest.append
        self._protocol: asyncio.Protocol | None = None

    @property
    def reply(self) -> bytes:
        """The newest reply."""
        return self._newest[0]

    def set_protocol(self, protocol: asyncio.Protocol) -> None:
        """Go on with another protocol."""
        self._protocol = protocol

    @property
    def received(self) -> Callable[[bytes], None]:
        """What takes the client's bytes."""
        assert self._protocol is not None
        return self._protocol.data_received

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing waits here."""

    def get_write_buffer_size(self) -> int:
        """Nothing waits here."""
        return 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """There is no socket."""
        return None if name == "socket" else default

    def can_write_eof(self) -> bool:
        """As over TCP."""
        return True

    def is_closing(self) -> bool:
        """It stays open."""
        return False

    def resume_reading(self) -> None:
        """It never paused."""


@contextmanager
def connected(store: Store, settings: Settings) -> Iterator[tuple[Client, Callable[[Column], int]]]:
    """A worker with one connection.

    Args:
        store: its store, left open.
        settings: its settings.

    Yields:
        The client's side of the connection, and what tells how often the worker has counted something.
    """
    board = Board(1)
    counters = board.rows[0]
    counters[Column.STATE] = State.READY
    routes = Routes(store, settings, board, counters, clock)
    open_wires(routes, settings)

    def counted(column: Column) -> int:
        return counters[column]

    service = Service(store, settings, routes, board, counters, Preludes(0))
    service.turn_seconds = 3600.0  # so that a slow machine changes nothing
    connection = Connection(service)
    client = Client()
    client.set_protocol(connection)
    loop = asyncio.new_event_loop()
    # A connection asks for the running loop when it has to wait; this one never waits.
    asyncio.events._set_running_loop(loop)
    try:
        connection.connection_made(cast("asyncio.BaseTransport", client))
        yield client, counted
        connection.connection_lost(None)
    finally:
        asyncio.events._set_running_loop(None)
        loop.close()
