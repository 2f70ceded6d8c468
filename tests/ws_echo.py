"""A WebSocket that sends back what it gets, by all the code that is not about commands.

python -m ws_echo [--plain]        # serves, says its port, ends with its standard input; tests/ on the path
"""

import asyncio
import sys
from functools import partial

import uvloop
from fake import Worker

from fastkv.connection import Connection
from fastkv.http.request import Head
from fastkv.http.responses import Reply
from fastkv.takeover import Takeover
from fastkv.ws.frames import TEXT
from fastkv.ws.handshake import agree
from fastkv.ws.websocket import WebSocket

LONGEST_BYTES = 64 << 20


class Echo(WebSocket):
    """Answers each message with itself."""

    def _answer(self, first: int, payload: bytes) -> bytes:
        if first == TEXT:
            payload.decode()
        return self._frame(first, payload)


def echo(deflate: bool, query: bytes, head: Head, body: bytes) -> Reply:
    """The handler of the handshake."""
    fields, extensions = agree(head, deflate=deflate)
    raise Takeover((101, fields), lambda service: Echo(service, extensions))


def make_worker(*, deflate: bool = True, longest_bytes: int = LONGEST_BYTES) -> Worker:
    """A worker whose ``/`` and ``/ws`` echo."""
    worker = Worker(max_message_bytes=longest_bytes)
    for path in (b"GET /", b"GET /ws"):
        worker.routes.handlers[path] = partial(echo, deflate)
    return worker


async def _serve(deflate: bool) -> None:
    worker = make_worker(deflate=deflate)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(worker.service), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201 - whoever has started it reads it
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    uvloop.run(_serve("--plain" not in sys.argv))
