"""What all connections of a worker share: the store's side, the limits, and the drain."""

from __future__ import annotations

import asyncio
import logging
import resource
import sys
from typing import TYPE_CHECKING, Final

from fastkv.access import Access, SenderRefused
from fastkv.departures import Departures
from fastkv.errors import KeyTooLong, StoreBusy, StoreFull, ValueTooLong
from fastkv.flow import Flow
from fastkv.http.compiled import open_frames, open_http
from fastkv.http.parser import Parser
from fastkv.http.request import KEEP_ALIVE, HttpError, ValueRefused
from fastkv.http.responses import RETRY_AFTER, Preludes, Reply, error_reply
from fastkv.kernel.limits import clients_per_worker
from fastkv.stats import Column
from fastkv.tls import OPENSSL_BYTES
from fastkv.turns import TURN_SECONDS, Turns

if TYPE_CHECKING:
    from fastkv.core.frames import TextFrames
    from fastkv.http.body import BodyBound
    from fastkv.http.request import Head
    from fastkv.http.routes import Routes
    from fastkv.settings import Settings
    from fastkv.stats import Board
    from fastkv.store import Store
    from fastkv.takeover import Drainable

_log = logging.getLogger("fastkv")

_MOST_REFUSED: Final = 64
# What a connection takes that keeps nothing; with TLS OpenSSL's part comes besides.
_PLAIN_BYTES: Final = 4 << 10

_INTERNAL_ERROR: Final = error_reply(500, "Internal server error; see the server log.")
_COLUMN_OF: Final = {
    401: Column.UNAUTHORIZED,
    413: Column.BODY_TOO_LONG,
    414: Column.HEAD_TOO_LONG,
    431: Column.HEAD_TOO_LONG,
}
_STORE_ERRORS: Final = (
    (StoreBusy, Column.LOCK_TIMEOUTS, 503, RETRY_AFTER),
    (StoreFull, Column.STORE_FULL, 507, b""),
    (ValueTooLong, Column.VALUE_TOO_LONG, 413, b""),
    (KeyTooLong, Column.KEY_TOO_LONG, 400, b""),
)


class Service:
    """What all connections of a worker share.

    Attributes:
        access: who may speak.
        connections: those that are open.
        http: the compiled path of requests; None where there is none, or an access log.
        handshakes: those among them whose handshake of TLS is under way, the oldest first.
        handshakes_limit: how many of these there may be.
        refused: those among them that had no place, until they have read that.
        drained: set when the last of them ends after ``drain``.
        turn_seconds: after so long of one client's pipeline, or work in steps, others have a turn.
        turns: the connections that wait for a further turn.
        departures: those that are closed, because their clients have left.
    """

    __slots__ = (
        "_board",
        "_connection_bytes",
        "_frames",
        "_most",
        "_most_own",
        "_settings",
        "access",
        "connections",
        "counters",
        "departures",
        "drained",
        "draining",
        "flow",
        "handshakes",
        "handshakes_limit",
        "http",
        "message_limit",
        "output_limit",
        "pipeline_limit",
        "preludes",
        "refused",
        "routes",
        "store",
        "turn_seconds",
        "turns",
    )

    def __init__(
        self,
        store: Store,
        settings: Settings,
        routes: Routes,
        board: Board,
        counters: memoryview[int],
        preludes: Preludes,
    ) -> None:
        """Put a worker's parts together.

        Args:
            store: the store.
            settings: for limits.
            routes: the handlers.
            board: where all workers count their connections.
            counters: this worker's row of the board.
            preludes: kept up to date by the worker.
        """
        self.store = store
        self.routes = routes
        self.counters = counters
        self.preludes = preludes
        self.access = Access(settings)
        # What it answers is not looked at, and cannot be logged.
        self.http = (
            None if settings.access_log is not None else open_http(settings, routes, self.access, preludes)
        )
        self._frames: dict[int, TextFrames] = {}  # by the longest reply
        self.flow = Flow(settings, counters, lambda: self.connections)
        self.output_limit = settings.max_output_bytes
        self.pipeline_limit = settings.max_pipeline
        self.turn_seconds = TURN_SECONDS
        self.turns = Turns()
        self.departures = Departures()
        self.connections: set[Drainable] = set()
        self.refused: set[Drainable] = set()
        self.handshakes: dict[Drainable, None] = {}
        self.handshakes_limit = settings.max_handshakes
        self._board = board
        self._connection_bytes = _PLAIN_BYTES + (OPENSSL_BYTES if settings.tls_cert is not None else 0)
        # Of all workers together, and of this one.
        self._most = settings.max_connections or sys.maxsize
        self._most_own = clients_per_worker(resource.getrlimit(resource.RLIMIT_NOFILE)[0], len(board.rows))
        self.message_limit = settings.max_message_bytes or 0
        self.draining = False
        self.drained = asyncio.Event()
        self._settings = settings

    def failure(self, error: Exception, route: bytes = b"") -> tuple[Reply, bool]:
        """What to answer where a handler or a parser failed; it is counted.

        Args:
            error: an HttpError, an error of the store, or one that nobody foresaw.
            route: method, space and path of the request, if there is one.

        Returns:
            The reply, and whether it has to be the connection's last.
        """
        counters = self.counters
        if isinstance(error, HttpError):
            if isinstance(error, SenderRefused):
                self._warn_once(error)
            counters[_column_of(error)] += 1
            to_command = self.routes.is_command(route)
            return error_reply(error.status, error.message, error.extra, to_command=to_command), error.close
        for kind, column, status, extra in _STORE_ERRORS:
            if isinstance(error, kind):
                counters[column] += 1
                return error_reply(status, str(error), extra), False
        counters[Column.INTERNAL_ERRORS] += 1
        _log.error("A request failed in a way that nobody foresaw.", exc_info=error)
        return _INTERNAL_ERROR, True

    def _warn_once(self, refusal: SenderRefused) -> None:
        """Log the first refusal of its kind in the life of the server, before it is counted."""
        if not any(row[refusal.column] for row in self._board.rows):
            _log.warning("%s", refusal.warning)

    def make_parser(self) -> Parser:
        """A parser for a message."""
        settings = self._settings
        return Parser(
            settings.max_head_bytes,
            settings.max_body_bytes or 0,
            settings.max_fields,
            secure=settings.tls_cert is not None,
            judge=self.judge,
        )

    def judge(self, line: bytes, head: Head) -> BodyBound:
        """Decide on a request whose body is still to come, by all that its head makes certain.

        Args:
            line: method, space and target.
            head: its header section, which announces a body.

        Returns:
            How long the body may be.

        Raises:
            HttpError: 400, 401, 403 or 421 for a sender that may not speak; 404, 405, 413 or 501 for what no
                route takes. The connection has to end: what follows is the body.
        """
        handler, fields = self.access.judge(line, head)
        try:
            if handler is not None:
                handler(b"", head, b"")
            return self.routes.judge(line.partition(b"?")[0], head)
        except HttpError as error:
            error.close = True
            error.extra += fields
            raise

    def admit(self, connection: Drainable) -> None:
        """Give a new connection its place; where there is none it is one of ``refused``.

        Args:
            connection: the connection, as soon as it was accepted.
        """
        counters = self.counters
        counters[Column.ACCEPTED] += 1
        self.connections.add(connection)
        if (
            len(self.connections) > self._most_own
            or self._board.connections() >= self._most
            or self.flow.buffers.full
        ):
            counters[Column.CONNECTIONS_REFUSED] += 1
            self.refused.add(connection)
        else:
            counters[Column.CONNECTIONS] += 1

    @property
    def crowded(self) -> bool:
        """Whether there is no time either to wait until a refused client has read why."""
        return len(self.refused) > _MOST_REFUSED

    def set_date(self, unix_seconds: int) -> None:
        """Let replies have another Date, if the second is another one.

        Args:
            unix_seconds: whole seconds since 1970.
        """
        if self.preludes.set_date(unix_seconds) and self.http is not None:
            self.http.set_prefixes(self.preludes.kinds[KEEP_ALIVE])

    def frames(self, max_reply_bytes: int) -> TextFrames | None:
        """The compiled path of WebSockets' messages, one for all connections with the same bound.

        Args:
            max_reply_bytes: messages with longer replies are left to the readable path.

        Returns:
            The path; None where there is none, or an access log.
        """
        if self.http is None:
            return None
        if max_reply_bytes not in self._frames:
            self._frames[max_reply_bytes] = open_frames(
                self._settings, self.routes, self.http, max_reply_bytes
            )
        return self._frames[max_reply_bytes]

    def turn(self) -> None:
        """Look after the deadlines of some of the connections."""
        self.flow.turn(self.connections)

    @property
    def used_bytes(self) -> int:
        """Memory that connections take, roughly: what they keep, and they themselves."""
        return self.flow.buffers.used_bytes + len(self.connections) * self._connection_bytes

    def drain(self) -> None:
        """From now on every reply ends its connection."""
        self.draining = True
        for connection in self.connections:
            connection.disable_fast_path()
        self.forget(None)

    def close_all(self, *, idle_only: bool) -> None:
        """Close connections.

        Args:
            idle_only: whether those that owe a reply are spared.
        """
        for connection in tuple(self.connections):
            if connection.idle:
                connection.close()
            elif not idle_only:
                connection.abort()

    def replace(self, connection: Drainable, successor: Drainable) -> None:
        """Give a connection's place to what goes on with its transport.

        Args:
            connection: one that was admitted, or refused.
            successor: what follows it.
        """
        self.connections.discard(connection)
        self.connections.add(successor)
        self.flow.forget(connection)
        if connection in self.refused:
            self.refused.discard(connection)
            self.refused.add(successor)

    def forget(self, connection: Drainable | None) -> None:
        """Take note that a connection has ended.

        Args:
            connection: the connection, or None to look only whether it was the last.
        """
        if connection is not None:
            self.connections.discard(connection)
            self.flow.forget(connection)
            if connection in self.refused:
                self.refused.discard(connection)
            else:
                self.counters[Column.CONNECTIONS] -= 1
        if self.draining and not self.connections:
            self.drained.set()


def _column_of(error: HttpError) -> Column:
    """Return where an error is counted."""
    if isinstance(error, SenderRefused):
        return error.column
    if isinstance(error, ValueRefused):
        return Column.VALUE_TOO_LONG
    return _COLUMN_OF.get(error.status, Column.BAD_REQUESTS)
