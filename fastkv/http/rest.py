"""Entries as resources: ``/kv/{key}``, with the value as the body, byte for byte (RFC 9110).

The key is the percent-decoded rest of the path, so any bytes can be one, ``/`` included. ``/kv?key=…`` is
the same for keys that clients change in a path, such as ``..``. A handler takes the key besides what every
handler takes, raises ``HttpError`` for what the client did wrong, and lets the store's errors pass.
Conditions on a write are evaluated under the shard's lock: of several clients that hold the same ETag one
succeeds.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from fastkv.http.conditions import Conditions, conditions_of, range_of
from fastkv.http.content import CONTENT_FIELDS, content_fields, metadata_of
from fastkv.http.large import LargeTail
from fastkv.http.request import HttpError
from fastkv.http.responses import ISOLATION, KEY_NOT_FOUND, RETRY_AFTER, Reply, error_reply, without_body
from fastkv.http.urlform import decode_percent, form_values, key_of
from fastkv.stats import Column
from fastkv.steps import END_OF_TURN, Unfinished
from fastkv.store import DELETE, LEAVE
from fastkv.store.large import STEP_BYTES

if TYPE_CHECKING:
    from fastkv.http.request import Head
    from fastkv.http.responses import Handler, KeyHandler
    from fastkv.http.routes import Routes
    from fastkv.steps import Steps
    from fastkv.store import Change, Entry
    from fastkv.store.large import LargeReader, LargeValue

_HITS: Final = int(Column.HITS)
_MISSES: Final = int(Column.MISSES)
_PUTS: Final = int(Column.PUTS)
_DELETES: Final = int(Column.DELETES)

BODY_IS_VALUE: Final = b"PUT /kv"
"""Prefixes of routes that take a value as their body, no longer than a value may be."""

# As in JSON, so that every ttl that /put takes is one here.
_match_number = re.compile(rb"[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?").fullmatch

_TTL_FIELDS: Final = frozenset({b"ttl", b"x-ttl"})
_PUT_FIELDS: Final = frozenset({b"content-range", b"if-match", b"if-none-match"}) | _TTL_FIELDS

RESOURCE_HEAD: Final = b"%bContent-Length: %d\r\n%bAccept-Ranges: bytes\r\n%b\r\n"
"""Header lines of the content, length, validators (one of the two below), further lines."""
VALIDATORS: Final = b'ETag: "%x"\r\nCache-Control: no-cache\r\n'
VALIDATORS_WITH_TTL: Final = b'ETag: "%x"\r\nTTL: %b\r\nCache-Control: no-cache\r\n'
"""The fields that 200 and 304 share (RFC 9110, 15.4.5): a copy may be kept, but not used unasked."""
CREATED: Final = b'Content-Length: 0\r\nETag: "%x"\r\n\r\n'
REPLACED: Final = b'ETag: "%x"\r\n\r\n'
"""What answers a PUT with 201 and with 204."""
DELETED: Final = 204, b"\r\n"
# A value that is replaced as often while it is copied is copied under its lock.
_TRIES: Final = 3
_WAIT_SECONDS: Final = 0.001
_PRECONDITION_FAILED: Final = error_reply(412, "The entry is not what If-Match or If-None-Match demands.")


class Resources:
    """The handlers of ``/kv/`` and ``/kv``.

    Attributes:
        keyed: by method, space and prefix of the path; what follows it is their first argument.
        handlers: by method, space and path; the key is in the query.
    """

    __slots__ = ("_copying", "_large", "_routes", "handlers", "keyed")

    def __init__(self, routes: Routes) -> None:
        """Bind to a worker's routes.

        Args:
            routes: for the store, the limits, the clock and the counters.
        """
        self._routes = routes
        self._large = routes.store.large if routes.max_value > STEP_BYTES else None
        self._copying = False  # a large value is being copied
        by_method = {b"GET": self.get, b"HEAD": self.get_head, b"PUT": self.put, b"DELETE": self.delete}
        self.keyed: dict[bytes, KeyHandler] = {
            method + b" /kv/": self._by_path(handler) for method, handler in by_method.items()
        }
        self.handlers: dict[bytes, Handler] = {
            method + b" /kv": self._by_query(handler) for method, handler in by_method.items()
        }

    def get(self, key: bytes, query: bytes, head: Head, body: bytes) -> Reply:
        """``GET``: 200, 206, 304, 404, 412 or 416."""
        return self._read(key, head, ranges=True)

    def get_head(self, key: bytes, query: bytes, head: Head, body: bytes) -> Reply:
        """``HEAD``: what GET answers, without its body; a range counts for GET only."""
        return without_body(self._read(key, head, ranges=False))

    def put(self, key: bytes, query: bytes, head: Head, body: bytes) -> Reply:
        """``PUT``: 201 where there was none, 204 where there was one, 412."""
        routes = self._routes
        if not head.has_length:
            raise HttpError(411, "The length of the body is required.")
        if len(body) > routes.max_value:
            raise routes.value_too_long(len(body))
        conditions, deadline_ms = None, 0
        # One look at the names in place of a search for each value: 2 µs less.
        names = [name for name, _ in head.fields]
        if query or not _PUT_FIELDS.isdisjoint(names):
            conditions, deadline_ms = self._demands(query, head)
        metadata = b"" if CONTENT_FIELDS.isdisjoint(names) else metadata_of(head)
        # No flag: to find out whether the bytes may stand in JSON as they are would cost every PUT.
        done = self._change(key, conditions, (body, 0, deadline_ms, metadata))
        if done is None:
            return _PRECONDITION_FAILED
        routes.counters[_PUTS] += 1
        if routes.wanted[0]:
            routes.tell_put(key, deadline_ms)
        before, version = done
        if before is None:
            return 201, CREATED % version
        return 204, REPLACED % version

    def delete(self, key: bytes, query: bytes, head: Head, body: bytes) -> Reply:
        """``DELETE``: 204, 404 or 412."""
        done = self._change(key, conditions_of(head), DELETE)
        if done is None:
            return _PRECONDITION_FAILED
        before, _ = done
        if before is None:
            return KEY_NOT_FOUND
        self._routes.counters[_DELETES] += 1
        self._routes.events.notify(b"del", key)
        return DELETED

    def _change(
        self, key: bytes, conditions: Conditions | None, change: Change
    ) -> tuple[Entry | None, int] | None:
        """Change an entry if its ETag is what the request demands, with no other change in between.

        Returns:
            What ``Store.update`` does; None if a condition does not hold.
        """
        routes = self._routes
        if conditions is None:
            return routes.store.update(key, lambda _: change, routes.clock, with_value=False)

        def decide(entry: Entry | None) -> Change:
            return change if conditions.hold(entry and etag_of(entry)) else LEAVE

        done = routes.store.update(key, decide, routes.clock, with_value=False)
        return done if conditions.hold(done[0] and etag_of(done[0])) else None

    def _read(self, key: bytes, head: Head, *, ranges: bool) -> Reply:
        """Answer a GET, or a HEAD as if it were one.

        Args:
            key: the key.
            head: the request's header section.
            ranges: whether it is a GET: a range counts, and a large value is copied.

        Raises:
            Unfinished: for a large value that is copied.
        """
        routes = self._routes
        reader = self._large
        large = reader.find(key, routes.clock) if reader else None
        entry = large.entry if large else routes.store.get(key, routes.clock)
        if entry is None:
            # Conditions on what is answered with 404 anyhow do not count (RFC 9110, 13.2.1).
            routes.counters[_MISSES] += 1
            return KEY_NOT_FOUND
        size = large.size if large else len(entry[0])
        routes.counters[_HITS] += 1
        status, fields, start, end = self._describe(entry, size, head, ranges=ranges)
        if reader and large and ranges and start < end:
            raise Unfinished(self._read_large(key, head, reader, large))
        return status, fields + entry[0][start:end]

    def _describe(self, entry: Entry, size: int, head: Head, *, ranges: bool) -> tuple[int, bytes, int, int]:
        """What answers a GET of an entry that is there.

        Args:
            entry: the entry; its value is not looked at.
            size: bytes of its value.
            head: the request's header section.
            ranges: whether a range counts.

        Returns:
            Status, header fields with the empty line, and which part of the value follows.
        """
        etag, conditions = etag_of(entry), conditions_of(head)
        if conditions and not conditions.is_match(etag):
            status, tail = _PRECONDITION_FAILED
            return status, tail, 0, 0
        if conditions and not conditions.is_none_match(etag):
            return 304, self._validators(entry) + b"\r\n", 0, 0
        content = content_fields(entry[6])
        part = range_of(head, size, etag) if ranges else None
        if part is None:
            return 200, RESOURCE_HEAD % (content, size, self._validators(entry), b""), 0, size
        start, end = part
        content_range = b"Content-Range: bytes %d-%d/%d\r\n" % (start, end - 1, size)
        return 206, RESOURCE_HEAD % (content, end - start, self._validators(entry), content_range), start, end

    def _read_large(
        self, key: bytes, head: Head, large: LargeReader, value: LargeValue
    ) -> Steps[tuple[int, bytes | LargeTail]]:
        """Answer a GET of a large value, which is copied in steps; one at a time, for each takes memory."""
        # A reply before this one may pause the client, which has no turn then: nobody may wait for its copy.
        yield END_OF_TURN
        while self._copying:
            yield _WAIT_SECONDS
        self._copying = True
        try:
            for _ in range(_TRIES):
                status, fields, start, end = self._describe(value.entry, value.size, head, ranges=True)
                if start == end:
                    return status, ISOLATION + fields
                try:
                    tail = LargeTail.of_size(end - start)
                except OSError:
                    raise HttpError(
                        503, "The server has no memory for such a long reply.", extra=RETRY_AFTER
                    ) from None
                tail.fields = ISOLATION + fields
                if (yield from large.copy(value, start, tail.body)):
                    yield END_OF_TURN  # to send as much as the socket takes is a step, too
                    return status, tail
                found = large.find(key, self._routes.clock)
                if found is None:
                    break
                value = found
        finally:
            self._copying = False
        # It is changed all the time, or is no longer a large one: this looks under the lock, if need be.
        entry = self._routes.store.get(key, self._routes.clock)
        if entry is None:
            return _isolated(KEY_NOT_FOUND)
        status, fields, start, end = self._describe(entry, len(entry[0]), head, ranges=True)
        return status, ISOLATION + fields + entry[0][start:end]

    def _demands(self, query: bytes, head: Head) -> tuple[Conditions | None, int]:
        """What a PUT says besides key and value.

        Returns:
            Its conditions, and its deadline in ms, 0 without a ttl.

        Raises:
            HttpError: 400 for what is malformed or said twice, and for a part of a value: to store it as the
                whole would be worse than to refuse it (RFC 9110, 14.5).
        """
        if head.get(b"content-range") is not None:
            raise HttpError(400, "A part of a value cannot be put.")
        ttls = form_values(query, b"ttl") + [value for name, value in head.fields if name in _TTL_FIELDS]
        if len(ttls) > 1:
            raise HttpError(400, "The ttl is given more than once.")
        # What is no number is refused as one that is out of bounds is.
        numbers = [float(ttl) if _match_number(ttl) else 0 for ttl in ttls]
        return conditions_of(head), self._routes.deadline_ms(numbers[0]) if numbers else 0

    def _by_path(self, handler: KeyHandler) -> KeyHandler:
        """A handler that is given its key as it stands in the path."""

        def by_path(raw_key: bytes, query: bytes, head: Head, body: bytes) -> Reply:
            key = decode_percent(raw_key)
            if not key:
                raise HttpError(400, "A key must follow /kv/ in the path, or /kv?key= in the query.")
            return _isolated(handler(self._checked(key), query, head, body))

        return by_path

    def _by_query(self, handler: KeyHandler) -> Handler:
        """A handler that finds its key in the query."""

        def by_query(query: bytes, head: Head, body: bytes) -> Reply:
            key, _ = key_of(query)
            return _isolated(handler(self._checked(key), query, head, body))

        return by_query

    def _checked(self, key: bytes) -> bytes:
        """A key that is not too long.

        Raises:
            KeyTooLong: if it is.
        """
        if len(key) > self._routes.max_key:
            raise self._routes.key_too_long(key)
        return key

    def _validators(self, entry: Entry) -> bytes:
        """The fields that 200 and 304 share."""
        _, _, version, deadline_ms, _, _, _ = entry
        if not deadline_ms:
            return VALIDATORS % version
        left_ms = max(deadline_ms - self._routes.clock(), 1)
        ttl = b"%d.%03d" % divmod(left_ms, 1000) if left_ms % 1000 else b"%d" % (left_ms // 1000)
        return VALIDATORS_WITH_TTL % (version, ttl)


def _isolated(reply: Reply) -> Reply:
    """The reply with what keeps a browser from running what it brings."""
    status, tail = reply
    return status, ISOLATION + tail


def etag_of(entry: Entry) -> bytes:
    """The strong entity tag of an entry: no key has a version twice, and one version is one value."""
    return b'"%x"' % entry[2]
