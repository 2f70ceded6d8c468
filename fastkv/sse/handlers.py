"""The routes of streams: ``/subscribe/{channel}`` and ``/psubscribe/{pattern}``, by GET or POST.

A handler takes the rest of the path besides what every handler takes. It raises `Takeover`, or `HttpError`
for what is malformed; what cannot be subscribed it answers as a command would.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import orjson

from fastkv.http.request import HttpError
from fastkv.http.responses import Reply, json_reply
from fastkv.http.urlform import decode_percent, form_values
from fastkv.pubsub.bounds import CannotSubscribe
from fastkv.sse.stream import EventStream, Wish
from fastkv.takeover import Takeover

if TYPE_CHECKING:
    from fastkv.http.request import Head
    from fastkv.http.responses import KeyHandler
    from fastkv.pubsub.hub import Hub
    from fastkv.settings import Settings

_HEAD: Final = (
    b"Content-Type: text/event-stream\r\nCache-Control: no-store\r\nX-Accel-Buffering: no\r\n"
    b"X-Content-Type-Options: nosniff\r\n"
)
_CHUNKED: Final = b"Transfer-Encoding: chunked\r\n"
_ENCODINGS: Final[tuple[list[bytes], ...]] = ([], [b"text"], [b"base64"])


class Streams:
    """The handlers.

    Attributes:
        handlers: by method, space and prefix of the path; what follows it is their first argument.
    """

    __slots__ = ("_hub", "_ping_seconds", "handlers")

    def __init__(self, hub: Hub, settings: Settings) -> None:
        """Bind to a hub.

        Args:
            hub: passes messages on.
            settings: say how long there may be silence.
        """
        self._hub = hub
        self._ping_seconds = settings.event_ping_seconds
        self.handlers: dict[bytes, KeyHandler] = {
            b"GET /subscribe/": partial(self._begin, False),
            b"POST /subscribe/": partial(self._begin, False),
            b"GET /psubscribe/": partial(self._begin, True),
            b"POST /psubscribe/": partial(self._begin, True),
        }

    def _begin(self, pattern: bool, raw_name: bytes, query: bytes, head: Head, body: bytes) -> Reply:
        """Begin a stream: 200, or 400 with an error."""
        names = [(decode_percent(raw_name), pattern)]
        names += [(name, False) for name in form_values(query, b"channel")]
        names += [(name, True) for name in form_values(query, b"pattern")]
        encodings = form_values(query, b"encoding")
        if encodings not in _ENCODINGS:
            raise HttpError(400, "The encoding is text or base64, and is given once.")
        try:
            self._hub.check([name for name, _ in names])
        except CannotSubscribe as error:
            return json_reply(400, orjson.dumps({"error": f"ERR {error}"}))
        chunked = head.version != b"1.0"
        wish = Wish(tuple(names), encodings == [b"base64"], chunked)
        raise Takeover(
            (200, _HEAD + (_CHUNKED if chunked else b"") + b"\r\n"),
            lambda service: EventStream(service, self._hub, wish, ping_seconds=self._ping_seconds),
        )
