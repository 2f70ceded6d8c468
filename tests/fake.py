"""A worker without sockets and processes: the connection on a transport that a test looks into."""

import asyncio
import functools
import re
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, cast

from fastkv import core
from fastkv.connection import Connection
from fastkv.http.responses import Preludes
from fastkv.http.routes import Routes
from fastkv.service import Service
from fastkv.settings import Settings
from fastkv.stats import Board, Column, State
from fastkv.store import Store
from fastkv.turns import Turns
from fastkv.wires import open_wires

P = ParamSpec("P")

MAX_KEY_BYTES = 64
MAX_VALUE_BYTES = 4096
MAX_BODY_BYTES = 6 * (MAX_KEY_BYTES + MAX_VALUE_BYTES) + 1024
MAX_OUTPUT_BYTES = 64 << 10

READABLE = False
"""Whether requests go the readable path alone where a test does not say it."""

_DATE = re.compile(rb"Date: [^\r]*\r\n")


class FakeTransport(asyncio.Transport):
    """Takes what is written; a slow one keeps it until it is told that the client has read.

    Attributes:
        sent: All that was written.
        writes: How often.
        reading: Whether the connection wants to be told what arrives.
        ended: Whether the server has said that it will send no more.
        closed: Whether it was closed.
        aborted: Whether it was closed without sending what was buffered.
        slow: Whether the client reads only where `client_reads` is called.
    """

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self.sent = bytearray()
        self.writes = 0
        self.reading = True
        self.ended = self.closed = self.aborted = self.slow = False
        self._protocol = protocol
        self.socket: Any = None
        self._high = 64 << 10
        self._buffered = 0
        self._full = False

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = cast("asyncio.Protocol", protocol)

    def get_protocol(self) -> asyncio.Protocol:
        return self._protocol

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = high or 0

    def write(self, data: "bytes | bytearray | memoryview[Any]") -> None:
        assert not self.ended
        assert not self.closed
        self.writes += 1
        self.sent += data
        if self.slow:
            self._buffered += len(data)
            if self._buffered > self._high and not self._full:
                self._full = True
                self._protocol.pause_writing()

    def client_reads(self) -> None:
        """The client reads all that is buffered."""
        self._buffered = 0
        if self._full:
            self._full = False
            self._protocol.resume_writing()

    def get_write_buffer_size(self) -> int:
        return self._buffered

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.socket if name == "socket" else default

    def drain(self, size: int) -> None:
        """The client reads some of what is buffered, and not all."""
        assert size < self._buffered
        self._buffered -= size

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.closed
        self.reading = True

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        assert not self.ended
        self.ended = True

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)

    def abort(self) -> None:
        self.aborted = True
        self._buffered = 0
        self.close()


class Client:
    """What a client does to a connection, and what it gets.

    Attributes:
        connection: The connection; another protocol may have its transport since.
        transport: Its transport.
    """

    def __init__(self, service: Service, connect: Callable[[Service], Connection] = Connection) -> None:
        self.connection = connect(service)
        self.transport = FakeTransport(self.connection)
        self.connection.connection_made(self.transport)
        self._taken = 0

    def send(self, *pieces: bytes) -> None:
        """Let pieces arrive, each in a read event, as far as the server reads."""
        for piece in pieces:
            if not self.transport.closed:
                assert self.transport.reading
                self.transport.get_protocol().data_received(piece)

    async def send_patiently(self, *pieces: bytes) -> None:
        """Let pieces arrive as soon as the server reads again; the client reads what it gets."""
        for piece in pieces:
            for _ in range(1000):
                if self.transport.reading:
                    break
                self.transport.client_reads()
                await asyncio.sleep(0)
            self.send(piece)

    def finish(self) -> None:
        """The client has said all."""
        if not self.transport.closed and not self.transport.get_protocol().eof_received():
            self.transport.close()

    def is_read(self) -> bool:
        """Whether the server takes what this client sends."""
        return self.transport.reading

    def is_closed(self) -> bool:
        """Whether the server has closed."""
        return self.transport.closed

    def leave(self) -> None:
        """The connection ends, and the server hears of it."""
        self.transport.closed = True
        self.transport.get_protocol().connection_lost(None)

    def take(self) -> bytes:
        """What was sent since the last time, without Date."""
        new = bytes(self.transport.sent[self._taken :])
        self._taken += len(new)
        return _DATE.sub(b"", new)

    def ask(self, request: bytes) -> bytes:
        """Send a request in one piece; the reply without Date."""
        self.send(request)
        return self.take()


class FrozenClock:
    """Shows what it was told last, in ms."""

    def __init__(self) -> None:
        self._now_ms = 0

    def __call__(self) -> int:
        return self._now_ms

    def freeze(self, now_ms: int) -> None:
        self._now_ms = now_ms


class Worker:
    """The parts of a worker process.

    Attributes:
        now_ms: The time.
        counters: Its row of the board.
        store: The store.
        routes: The handlers.
        service: What its connections share.
    """

    def __init__(self, store: Store | None = None, *, readable: bool | None = None, **settings: Any) -> None:
        """Make one.

        Args:
            store: Its store; None for a new one.
            readable: Whether requests go the readable path alone, though there is a compiled one; None for
                what the fixture ``implementation`` says, if a test uses it.
            **settings: What is not the default.
        """
        limits = {
            "memory_bytes": 1 << 20,
            "max_key_bytes": MAX_KEY_BYTES,
            "max_value_bytes": MAX_VALUE_BYTES,
            "max_output_bytes": MAX_OUTPUT_BYTES,
        }
        chosen = self.settings = Settings(workers=1, **limits | settings)
        self._clock = core.engine.Clock() if core.COMPILED else FrozenClock()
        self.now_ms = 1_000_000
        self.store = store or Store(1 << 20)
        board = Board(1)
        self.counters = row = board.rows[0]
        row[Column.STATE] = State.READY
        self.routes = Routes(self.store, chosen, board, row, self._clock)
        open_wires(self.routes, chosen)
        self.service = Service(self.store, chosen, self.routes, board, row, Preludes(0))
        if READABLE if readable is None else readable:
            self.service.http = None
        # So that a slow machine changes nothing, nor the order in which clients have their turns.
        self.service.turn_seconds = 3600.0
        self.service.turns = Turns(3600.0)

    @property
    def now_ms(self) -> int:
        return self._clock()

    @now_ms.setter
    def now_ms(self, now_ms: int) -> None:
        self._clock.freeze(now_ms)

    def client(self, connect: Callable[[Service], Connection] = Connection) -> Client:
        """A new connection, of the class that `connect` makes."""
        return Client(self.service, connect)

    def verify(self) -> None:
        """What holds after every test: nothing unforeseen has happened, and the store is whole."""
        assert self.counters[Column.INTERNAL_ERRORS] == 0
        assert self.store.check() == []


@contextmanager
def running_loop() -> Iterator[None]:
    """Let code that is no coroutine find a running loop, which runs nothing."""
    loop = asyncio.new_event_loop()
    asyncio.events._set_running_loop(loop)
    try:
        yield
    finally:
        asyncio.events._set_running_loop(None)
        loop.close()


def in_loop(scenario: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Make a plain test of a coroutine."""

    @functools.wraps(scenario)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(scenario(*args, **kwargs))

    return run


def get(key: str, extra: bytes = b"") -> bytes:
    """A GET; the key as it stands in the query."""
    return b"GET /get?key=%b HTTP/1.1\r\nHost: a\r\n%b\r\n" % (key.encode(), extra)


def put(body: bytes, extra: bytes = b"", method: bytes = b"POST") -> bytes:
    """A PUT or POST of a JSON text."""
    return b"%b /put HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n%b\r\n%b" % (method, len(body), extra, body)


def put_pair(key: str, value: str) -> bytes:
    """A PUT of plain strings."""
    return put(f'{{"key":"{key}","value":"{value}"}}'.encode())


def delete(key: str) -> bytes:
    """A DELETE; the key as it stands in the query."""
    return b"DELETE /delete?key=%b HTTP/1.1\r\nHost: a\r\n\r\n" % key.encode()


def reply(line: str, body: bytes, fields: bytes = b"", connection: bytes = b"") -> bytes:
    """A reply without Date, byte for byte.

    Args:
        line: Code and phrase.
        body: The body.
        fields: Lines behind Cache-Control.
        connection: Lines before Content-Type.
    """
    return (
        b"HTTP/1.1 %b\r\n%bContent-Type: application/json\r\nContent-Length: %d\r\n"
        b"Cache-Control: no-store\r\n%b\r\n%b"
    ) % (line.encode(), connection, len(body), fields, body)


def hit(key: str, value: str, connection: bytes = b"") -> bytes:
    """The reply to a GET of plain strings."""
    body = f'{{"status":"OK","key":"{key}","value":"{value}"}}'.encode()
    return reply("200 OK", body, connection=connection)


def error(line: str, message: str, fields: bytes = b"", connection: bytes = b"") -> bytes:
    """An error."""
    body = f'{{"status":"ERROR","message":"{message}"}}'.encode()
    return reply(line, body, fields, connection)


CLOSE = b"Connection: close\r\n"
# What replies have before Content-Type where the path is under /kv, or not known.
ISOLATED = b"Content-Security-Policy: sandbox; default-src 'none'\r\nX-Content-Type-Options: nosniff\r\n"
STORED = reply("200 OK", b'{"status":"OK","message":"Key inserted/updated successfully."}')
DELETED = reply("200 OK", b'{"status":"OK","message":"Key deleted successfully."}')
NOT_FOUND = error("404 Not Found", "Key not found.")
HEALTHY = reply("200 OK", b'{"status":"healthy"}')
