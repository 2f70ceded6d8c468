"""The routes: a request line's method and path → a handler → what the store says, as a reply.

A handler takes the query, the head and the body of a request and returns a ``Reply``. It raises
``HttpError`` for what the client did wrong, and lets the store's errors pass. Routes translate; what a key
or a TTL means is the store's business.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import orjson

from fastkv import __version__, core
from fastkv.commands.context import Limits
from fastkv.commands.execute import Commands
from fastkv.commands.replies import CommandError
from fastkv.errors import KeyTooLong, ValueTooLong
from fastkv.http.body import BodyBound
from fastkv.http.redis import PATH_METHODS, RedisRest
from fastkv.http.request import HttpError
from fastkv.http.responses import (
    DELETE_OK,
    DRAINING,
    HEALTHY,
    KEY_NOT_FOUND,
    PUT_OK,
    Handler,
    KeyHandler,
    Reply,
    is_plain,
    isolation_of,
    json_reply,
    value_reply,
    without_body,
)
from fastkv.http.rest import BODY_IS_VALUE, Resources
from fastkv.http.snapshots import Snapshots
from fastkv.http.urlform import key_of
from fastkv.jsonwire import load
from fastkv.names import may_be_loopback
from fastkv.pubsub.events import Events
from fastkv.stats import Column

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fastkv.http.request import Head
    from fastkv.pubsub.hub import Hub
    from fastkv.settings import Settings
    from fastkv.stats import Board
    from fastkv.store import Store


PLAIN: Final = 1
"""The store's flag for a value that may stand in JSON as it is."""

# Three hundred years: beyond it a deadline in ms would not fit the arithmetic of every client.
_LONGEST_TTL_SECONDS: Final = 10_000_000_000

_VERSION: Final = json_reply(
    200,
    orjson.dumps(
        {"name": "fastkv", "version": __version__, "core": core.IMPLEMENTATION}
        | ({} if core.COMPILED else {"core_reason": core.REASON})
    ),
)


class Routes:
    """The handlers of one worker.

    Attributes:
        store: the store.
        counters: this worker's row of the board.
        clock: milliseconds now, for deadlines.
        commands: the command table over the same store.
        redis: the same by REST.
        hub: passes messages on; None where there are no other workers.
        max_key, max_value: the longest that the settings and the store allow, in bytes.
        events: publishes each change.
        wanted: its word; 0 as long as no subscription listens.
        handlers: by method, space and path, as they stand before the ``?`` of a request line.
        keyed: by method, space and the prefix of a path; they take what follows it as well.
        draining: whether ``/health`` says so.
    """

    __slots__ = (
        "_board",
        "_body_bound",
        "_paths",
        "_value_bound",
        "clock",
        "commands",
        "counters",
        "draining",
        "events",
        "handlers",
        "hub",
        "keyed",
        "max_key",
        "max_value",
        "redis",
        "store",
        "wanted",
    )

    def __init__(
        self,
        store: Store,
        settings: Settings,
        board: Board,
        counters: memoryview[int],
        clock: Callable[[], int],
        hub: Hub | None = None,
        events: Events | None = None,
    ) -> None:
        """Bind to a store.

        Args:
            store: the store.
            settings: for the limits of keys and values.
            board: for ``/stats``.
            counters: this worker's row of the board.
            clock: milliseconds now, for deadlines.
            hub: passes messages on; None where there are no other workers.
            events: publishes each change; None for no events.
        """
        self.hub = hub
        self.events = events or Events(hub, store.removals, "", counters)
        self.wanted = self.events.wanted
        self.store = store
        self._board = board
        self.counters = counters
        self.clock = clock
        self.max_key = settings.max_key_bytes
        self.max_value = min(settings.max_value_bytes, store.max_value_bytes)
        self._body_bound = BodyBound(settings.max_body_bytes or 0)
        self._value_bound = BodyBound(self.max_value, is_value=True)
        self.commands = Commands(
            store,
            clock,
            counters,
            limits=Limits(
                max_key=self.max_key,
                max_value=self.max_value,
                max_batch=settings.max_batch,
                batch_seconds=settings.batch_seconds,
                max_reply=max(settings.max_reply_bytes, self.max_value),
                max_keys=settings.max_keys,
                max_transaction=settings.max_message_bytes or 0,
            ),
            notify=self.events.notify,
            wanted=self.wanted,
            hub=hub,
            stats=self._summary,
        )
        self.draining = False
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
        resources = Resources(self)
        self.handlers |= Snapshots(self).handlers | resources.handlers
        self.keyed = resources.keyed
        # Browsers name the page that asks where they trust the connection: without TLS on loopback only
        # (Fetch Metadata, 2). There, requests of strangers are refused before.
        believes_queries = settings.token is not None or all(map(may_be_loopback, settings.host))
        self.redis = RedisRest(self.commands, believes_queries=believes_queries)
        self._paths: frozenset[bytes] = frozenset()
        self.add(self.redis.handlers, {})

    def add(self, handlers: Mapping[bytes, Handler], keyed: Mapping[bytes, KeyHandler]) -> None:
        """Add routes; whatever their methods, their paths are then no commands.

        Args:
            handlers: as ``handlers``.
            keyed: as ``keyed``.
        """
        self.handlers |= handlers
        self.keyed |= keyed
        self._paths = frozenset(route.partition(b" ")[2] for route in (*self.handlers, *self.keyed)) - {b"/"}

    def get(self, query: bytes, head: Head, body: bytes) -> Reply:
        """``GET /get?key=name``."""
        key, plain = key_of(query)
        if len(key) > self.max_key:
            raise self.key_too_long(key)
        entry = self.store.get(key, self.clock)
        if entry is None:
            self.counters[Column.MISSES] += 1
            return KEY_NOT_FOUND
        self.counters[Column.HITS] += 1
        return 200, value_reply(key, entry[0], plain, entry[1] == PLAIN)

    def put(self, query: bytes, head: Head, body: bytes) -> Reply:
        """``PUT /put`` or ``POST /put`` with ``{"key": …, "value": …, "ttl": …}``."""
        if not head.has_length:
            raise HttpError(411, "The length of the body is required.")
        try:
            item = orjson.loads(body)
        except orjson.JSONDecodeError:
            item = _load_slowly(body)
        try:
            text, value_text = item["key"], item["value"]
            key, value = text.encode(), value_text.encode()
        except (LookupError, TypeError, AttributeError):
            raise _what_is_wrong_with(item) from None
        if not key:
            raise _what_is_wrong_with(item)
        if len(key) > self.max_key:
            raise self.key_too_long(key)
        if len(value) > self.max_value:
            raise self.value_too_long(len(value))
        deadline_ms = self.deadline_ms(item["ttl"]) if "ttl" in item else 0
        # Without a backslash in the JSON text every string in it is plain. (To ask with ``in`` takes eight
        # times as long: CPython 3.11 tries it as a number first, and makes an error of that.)
        plain = body.find(b"\\") < 0 or is_plain(value_text, value)
        self.store.put(key, value, self.clock, PLAIN if plain else 0, deadline_ms)
        self.counters[Column.PUTS] += 1
        if self.wanted[0]:
            self.tell_put(key, deadline_ms)
        return PUT_OK

    def delete(self, query: bytes, head: Head, body: bytes) -> Reply:
        """``DELETE /delete?key=name``."""
        key, _ = key_of(query)
        if len(key) > self.max_key:
            raise self.key_too_long(key)
        if not self.store.delete(key, self.clock):
            return KEY_NOT_FOUND
        self.counters[Column.DELETES] += 1
        if self.wanted[0]:
            self.events.notify(b"del", key)
        return DELETE_OK

    def tell_put(self, key: bytes, deadline_ms: int) -> None:
        """Publish that an entry was put.

        Args:
            key: its key.
            deadline_ms: when it is gone, 0 for never.
        """
        self.events.notify(b"set", key)
        if deadline_ms:
            self.events.notify(b"expire", key)

    def health(self, query: bytes, head: Head, body: bytes) -> Reply:
        """``GET /health``: 503 while the server drains."""
        return DRAINING if self.draining else HEALTHY

    def stats(self, query: bytes, head: Head, body: bytes) -> Reply:
        """``GET /stats``: one JSON object, summed over workers and shards."""
        return json_reply(200, orjson.dumps(self._summary()))

    def _summary(self) -> dict[str, int | str]:
        return self._board.summary(self.store)

    def version(self, query: bytes, head: Head, body: bytes) -> Reply:
        """``GET /version``."""
        return _VERSION

    def find(self, route: bytes) -> Handler:
        """Find what answers.

        Args:
            route: method, space and path.

        Returns:
            The handler of the path, of a key behind a prefix, of a command, or of OPTIONS.

        Raises:
            HttpError: 501 for a method that no route takes, 404 for a path that is none, 405 with Allow for
                one that takes other methods (RFC 9110, 9.1 and 15.5.6).
        """
        handler = self.handlers.get(route)
        if handler is not None:
            return handler
        end = route.find(b"/", route.find(b"/") + 1) + 1
        keyed = self.keyed.get(route[:end])
        if keyed is not None:
            return partial(keyed, route[end:])
        method, _, path = route.partition(b" ")
        if self.is_command(route):
            command = self.redis.find(route)
            if command is not None:
                return command
        methods = self._methods(b"*")
        if method not in methods:
            raise HttpError(501, f"The methods known here are {b', '.join(methods).decode()}.")
        methods = self._methods(path)
        if not methods:
            raise HttpError(404, "There is no such route.")
        names = b", ".join(methods)
        allow = b"Allow: " + names + b"\r\n"
        if method == b"OPTIONS":
            return lambda query, head, body: (204, isolation_of(route) + allow + b"\r\n")
        raise HttpError(405, f"This route takes {names.decode()} only.", extra=allow)

    def judge(self, route: bytes, head: Head) -> BodyBound:
        """Decide on a request before its body comes, by its route.

        Args:
            route: method, space and path.
            head: its header section, which announces a body.

        Returns:
            How long the body may be.

        Raises:
            HttpError: 404, 405 or 501, as `find`; 413 for a body that is longer than the value that it is.
        """
        self.find(route)
        if not route.startswith(BODY_IS_VALUE):
            return self._body_bound
        if head.content_length > self.max_value:
            raise self._value_bound.refusal()
        return self._value_bound

    def is_command(self, route: bytes) -> bool:
        """Whether a route is one of Redis' commands.

        Args:
            route: method, space and path; b"" is none.
        """
        if route in self.redis.handlers:
            return True
        _, _, path = route.partition(b" ")
        prefix = path[: path.find(b"/", 1) + 1]
        return not self._paths.intersection((path, prefix)) and self.redis.takes(path)

    def _methods(self, path: bytes) -> list[bytes]:
        """The methods that a path takes, ``*`` being all paths; none if there is no such route."""
        prefix = path[: path.find(b"/", 1) + 1]
        routes = [route.split(b" ") for route in (*self.handlers, *self.keyed)]
        methods = {method for method, known in routes if path == b"*" or known in (path, prefix)}
        if not methods and self.redis.takes(path):
            methods.update(PATH_METHODS)
        return sorted({*methods, b"OPTIONS"}) if methods else []

    def key_too_long(self, key: bytes) -> KeyTooLong:
        """What is raised for a key that is longer than ``max_key``."""
        return KeyTooLong(f"The key has {len(key)} bytes; --max-key-bytes allows {self.max_key}.")

    def value_too_long(self, value_bytes: int) -> ValueTooLong:
        """What is raised for a value of ``value_bytes``, which are more than ``max_value``."""
        return ValueTooLong(f"The value has {value_bytes} bytes; --max-value-bytes allows {self.max_value}.")

    def deadline_ms(self, ttl: Any) -> int:
        """When an entry is gone.

        Args:
            ttl: seconds, as the client gave them; a number as its bytes where `jsonwire` has read it exactly.

        Returns:
            Milliseconds on the clock, at least one from now.

        Raises:
            HttpError: 400 unless it is a number above 0, up to 10,000,000,000.
        """
        if type(ttl) is bytes:
            ttl = float(ttl)
        if type(ttl) not in (int, float) or not 0 < ttl <= _LONGEST_TTL_SECONDS:
            raise HttpError(
                400, f"The ttl must be a number of seconds above 0, at most {_LONGEST_TTL_SECONDS}."
            )
        return self.clock() + math.ceil(float(ttl) * 1000)


def _load_slowly(body: bytes) -> Any:
    """Read a PUT's body that orjson has refused: it may have a number beyond a double in it.

    Raises:
        HttpError: 400 if it is no JSON.
    """
    try:
        return load(body)
    except CommandError:
        raise HttpError(400, "The body is not valid JSON.") from None


def _what_is_wrong_with(item: Any) -> HttpError:
    """Why a PUT's JSON was not understood: the first thing that is wrong, as a sentence."""
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
