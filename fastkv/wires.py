"""The wires that begin as a request of HTTP and go on as something else: `fastkv.http` does not know them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from fastkv.sse.handlers import Streams
from fastkv.ws.session import open_session

if TYPE_CHECKING:
    from fastkv.http.routes import Routes
    from fastkv.settings import Settings


def open_wires(routes: Routes, settings: Settings) -> None:
    """Add the routes of WebSockets and, where messages are passed on, of streams of events.

    Args:
        routes: a worker's.
        settings: for their bounds.
    """
    streams = Streams(routes.hub, settings).handlers if routes.hub else {}
    routes.add({b"GET /ws": partial(open_session, deflate=settings.deflate)}, streams)
