"""All entries, page by page, out of a server and into it: ``/snapshot``.

A page is a block of ``fastkv.snapshot.format``, small enough not to hold up other clients, and the reply says
where the next one begins: the server keeps nothing of a walk, so any worker may answer the next request, and
a client may leave. A block that comes in is put whole or, if anything about it is wrong, not at all.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import orjson

from fastkv.errors import SnapshotError, WrongCursor
from fastkv.http.request import HttpError
from fastkv.http.responses import Reply, json_reply, without_body
from fastkv.http.urlform import form_values
from fastkv.snapshot.transfer import Transfer
from fastkv.stats import Column

if TYPE_CHECKING:
    from fastkv.http.request import Head
    from fastkv.http.responses import Handler
    from fastkv.http.routes import Routes

_PUTS: Final = int(Column.PUTS)

# Twenty digits are more than 64 bits have.
_match_cursor = re.compile(rb"[0-9]{1,20}").fullmatch
_HEAD: Final = (
    b"Content-Type: application/octet-stream\r\nContent-Length: %d\r\nCache-Control: no-store\r\n"
    b"X-Content-Type-Options: nosniff\r\nNext-Cursor: %d\r\n\r\n"
)


class Snapshots:
    """The handlers of ``/snapshot``.

    Attributes:
        handlers: by method, space and path.
    """

    __slots__ = ("_routes", "_transfer", "handlers")

    def __init__(self, routes: Routes) -> None:
        """Bind to a worker's routes.

        Args:
            routes: for the store, the limits, the clock and the counters.
        """
        self._routes = routes
        self._transfer = Transfer(
            routes.store,
            routes.clock,
            max_key=routes.max_key,
            max_value=routes.max_value,
            notify=routes.events.notify,
        )
        self.handlers: dict[bytes, Handler] = {
            b"GET /snapshot": self.get,
            b"HEAD /snapshot": self.get_head,
            b"POST /snapshot": self.post,
        }

    def get(self, query: bytes, head: Head, body: bytes) -> Reply:
        """``GET /snapshot?cursor=0``: a block, and the next cursor in ``Next-Cursor``, 0 behind the last."""
        cursors = form_values(query, b"cursor")
        if len(cursors) > 1 or not all(map(_match_cursor, cursors)):
            raise HttpError(400, "The cursor must be a whole number, given once.")
        try:
            block, after = self._transfer.page(int(cursors[0]) if cursors else 0)
        except WrongCursor as error:
            raise HttpError(400, str(error)) from None
        return 200, _HEAD % (len(block), after) + block

    def get_head(self, query: bytes, head: Head, body: bytes) -> Reply:
        """``HEAD /snapshot``: the fields of that GET."""
        return without_body(self.get(query, head, body))

    def post(self, query: bytes, head: Head, body: bytes) -> Reply:
        """``POST /snapshot`` with a block: puts its entries."""
        if not head.has_length:
            raise HttpError(411, "The length of the body is required.")
        try:
            entries, expired = self._transfer.put(body)
        except SnapshotError as error:
            raise HttpError(400, str(error)) from None
        self._routes.counters[_PUTS] += entries
        return json_reply(200, orjson.dumps({"status": "OK", "entries": entries, "expired": expired}))
