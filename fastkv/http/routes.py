"""The original routes: a request line's method and path → a handler → what the store says, as a reply.

A handler takes the query, the head and the body of a request and returns a ``Reply``. It raises
``HttpError`` for what the client did wrong, and lets the store's errors pass. Routes translate; what a key
or a TTL means is the store's business.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import orjson

from fastkv import __version__
from fastkv.errors import KeyTooLong, StoreBusy, ValueTooLong
from fastkv.http.request import HttpError
from fastkv.http.responses import (
    DELETE_OK,
    DRAINING,
    HEALTHY,
    KEY_NOT_FOUND,
    PUT_OK,
    Reply,
    is_plain,
    json_reply,
    value_reply,
    without_body,
)
from fastkv.http.urlform import key_of, plain_keys
from fastkv.stats import Column

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fastkv.http.request import Head
    from fastkv.settings import Settings
    from fastkv.stats import Board
    from fastkv.store import Entry, Store

    Handler = Callable[[bytes, Head, bytes], Reply]

PLAIN: Final = 1
"""The store's flag for a value that may stand in JSON as it is."""

# Three hundred years: beyond it a deadline in ms would not fit the arithmetic of every client.
_LONGEST_TTL_SECONDS: Final = 10_000_000_000

# A batch is answered in one piece; with more lines output is bounded reply by reply.
_BATCH_LINES: Final = 64

# As plain integers, because looking up an enum's member takes as long as counting.
_HITS: Final = int(Column.HITS)
_MISSES: Final = int(Column.MISSES)
_PUTS: Final = int(Column.PUTS)

_VERSION: Final = json_reply(200, orjson.dumps({"name": "fastkv", "version": __version__}))


class Routes:
    """The handlers of one worker.

    Attributes:
        handlers: by method, space and path, as they stand before the ``?`` of a request line.
        source: the entry that the newest reply was made from, if it was made from nothing else; whoever
            remembers the reply takes it from here and sets it to None.
        draining: whether ``/health`` says so.
    """

    __slots__ = (
        "_board",
        "_clock",
        "_counters",
        "_max_key",
        "_max_value",
        "_store",
        "draining",
        "handlers",
        "source",
    )

    def __init__(
        self,
        store: Store,
        settings: Settings,
        board: Board,
        counters: memoryview[int],
        clock: Callable[[], int],
    ) -> None:
        """Bind to a store.

        Args:
            store: the store.
            settings: for the limits of keys and values.
            board: for ``/stats``.
            counters: this worker's row of the board.
            clock: milliseconds now, for deadlines.
        """
        self._store = store
        self._board = board
        self._counters = counters
        self._clock = clock
        self._max_key = settings.max_key_bytes
        self._max_value = min(settings.max_value_bytes, store.max_value_bytes)
        self.draining = False
        self.source: Entry | None = None
        self.handlers: dict[bytes, Handler] = {
            b"PUT /put": self.put,
            b"POST /put": self.put,
            b"DELETE /delete": self.delete,
        }
        readable: dict[bytes, Handler] = {
            b"/get": self.get,
            b"/health": self.health,
            b"/stats": self.stats,
            b"/version": self.version,
        }
        for path, handler in readable.items():
            self.handlers[b"GET " + path] = handler
            self.handlers[b"HEAD " + path] = _headless(handler)

    def get(self, query: bytes, head: Head, body: bytes) -> Reply:
        """``GET /get?key=name``."""
        key, plain = key_of(query)
        if len(key) > self._max_key:
            raise self._key_too_long(key)
        entry = self._store.get(key, self._clock)
        if entry is None:
            self._counters[_MISSES] += 1
            return KEY_NOT_FOUND
        self._counters[_HITS] += 1
        self.source = entry
        return 200, value_reply(key, entry[0], plain, entry[1] == PLAIN)

    def get_batch(self, lines: list[bytes], preludes: Mapping[int, bytes]) -> list[bytes] | None:
        """``get`` for pipelined requests of plain keys: one call into the store for all of them.

        Args:
            lines: request lines.
            preludes: what a reply begins with, by status.

        Returns:
            The replies in order; ``source`` is that of the first. None if ``get`` has to answer one by one.
        """
        keys = plain_keys(lines) if len(lines) <= _BATCH_LINES else None
        if keys is None or len(max(keys, key=len)) > self._max_key:
            return None
        try:
            entries = self._store.get_small(keys, self._clock)
        except StoreBusy:
            return None
        if entries is None:
            return None
        found, missing = preludes[200], preludes[404] + KEY_NOT_FOUND[1]
        replies = [
            found + value_reply(key, entry[0], True, entry[1] == PLAIN) if entry else missing
            for key, entry in zip(keys, entries, strict=True)
        ]
        misses = entries.count(None)
        self._counters[_MISSES] += misses
        self._counters[_HITS] += len(keys) - misses
        self.source = entries[0]
        return replies

    def put(self, query: bytes, head: Head, body: bytes) -> Reply:
        """``PUT /put`` or ``POST /put`` with ``{"key": …, "value": …, "ttl": …}``."""
        if not head.has_length:
            raise HttpError(411, "The length of the body is required.")
        try:
            item = orjson.loads(body)
            text, value_text = item["key"], item["value"]
            key, value = text.encode(), value_text.encode()
        except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError):
            raise _what_is_wrong_with(body) from None
        if not key:
            raise _what_is_wrong_with(body)
        if len(key) > self._max_key:
            raise self._key_too_long(key)
        if len(value) > self._max_value:
            raise ValueTooLong(f"The value has {len(value)} bytes; at most {self._max_value} are allowed.")
        deadline_ms = self._deadline_ms(item["ttl"]) if "ttl" in item else 0
        # Without a backslash in the JSON text every string in it is plain.
        plain = b"\\" not in body or is_plain(value_text, value)
        self._store.put(key, value, self._clock, PLAIN if plain else 0, deadline_ms)
        self._counters[_PUTS] += 1
        return PUT_OK

    def delete(self, query: bytes, head: Head, body: bytes) -> Reply:
        """``DELETE /delete?key=name``."""
        key, _ = key_of(query)
        if len(key) > self._max_key:
            raise self._key_too_long(key)
        if not self._store.delete(key, self._clock):
            return KEY_NOT_FOUND
        self._counters[Column.DELETES] += 1
        return DELETE_OK

    def health(self, query: bytes, head: Head, body: bytes) -> Reply:
        """``GET /health``: 503 while the server drains."""
        return DRAINING if self.draining else HEALTHY

    def stats(self, query: bytes, head: Head, body: bytes) -> Reply:
        """``GET /stats``: one JSON object, summed over workers and shards."""
        return json_reply(200, orjson.dumps(self._board.summary(self._store)))

    def version(self, query: bytes, head: Head, body: bytes) -> Reply:
        """``GET /version``."""
        return _VERSION

    def no_handler(self, route: bytes) -> HttpError:
        """What to answer where no handler is.

        Args:
            route: method, space and path.

        Returns:
            405 with Allow if the path has other methods, else 404.
        """
        _, _, path = route.partition(b" ")
        allowed = sorted(
            known.partition(b" ")[0] for known in self.handlers if known.partition(b" ")[2] == path
        )
        if not allowed:
            return HttpError(404, "There is no such route.")
        methods = b", ".join(allowed)
        return HttpError(
            405, f"This route takes {methods.decode()} only.", extra=b"Allow: " + methods + b"\r\n"
        )

    def _key_too_long(self, key: bytes) -> KeyTooLong:
        return KeyTooLong(f"The key has {len(key)} bytes; at most {self._max_key} are allowed.")

    def _deadline_ms(self, ttl: Any) -> int:
        """When an entry is gone.

        Args:
            ttl: seconds, as the client gave them.

        Returns:
            Milliseconds on the clock, at least one from now.

        Raises:
            HttpError: 400 unless it is a number above 0, up to 10,000,000,000.
        """
        if type(ttl) not in (int, float) or not 0 < ttl <= _LONGEST_TTL_SECONDS:
            raise HttpError(
                400, f"The ttl must be a number of seconds above 0, at most {_LONGEST_TTL_SECONDS}."
            )
        return self._clock() + math.ceil(float(ttl) * 1000)


def _what_is_wrong_with(body: bytes) -> HttpError:
    """Why a PUT's body was not understood: the first thing that is wrong, as a sentence."""
    try:
        item = orjson.loads(body)
    except orjson.JSONDecodeError:
        return HttpError(400, "The body is not valid JSON.")
    if not isinstance(item, dict):
        return HttpError(400, "The body must be a JSON object.")
    key = item.get("key")
    if not isinstance(key, str) or not key:
        return HttpError(400, "The body must have a key: a string that is not empty.")
    return HttpError(400, "The body must have a value: a string.")


def _headless(handler: Handler) -> Handler:
    """The handler for HEAD: the same reply without its body (RFC 9110, 9.3.2)."""

    def head_handler(query: bytes, head: Head, body: bytes) -> Reply:
        return without_body(handler(query, head, body))

    return head_handler
