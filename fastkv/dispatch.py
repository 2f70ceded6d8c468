"""What a client's requests are answered with: a request to its handler, and the handler's reply as bytes.

Enters: requests, as the parser makes them. Leaves: replies, whole, and whether one of them is the last of its
connection. Transports and unread input belong to `fastkv.connection`. Nothing is raised: an exception of a
handler becomes a reply.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fastkv.http.request import CLOSE, KEEP_ALIVE
from fastkv.http.responses import DRAINING, ISOLATION, isolation_of, without_body
from fastkv.stalling import Stalling
from fastkv.steps import Unfinished
from fastkv.takeover import Takeover

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastkv.http.large import LargeTail
    from fastkv.http.request import Head, HttpError
    from fastkv.http.responses import Reply
    from fastkv.receiver import Data
    from fastkv.service import Service
    from fastkv.steps import Steps
    from fastkv.takeover import Successor

_SWITCHING: Final = 101  # Switching Protocols


class Dispatch(Stalling):
    """The part of a connection that answers.

    Attributes:
        successor: what makes the protocol that goes on with the transport after the last reply, if any does.
    """

    __slots__ = ("_closing", "successor")

    def __init__(self, service: Service) -> None:
        """Begin without a request.

        Args:
            service: what all connections of the worker share.
        """
        super().__init__(service)
        self.successor: Callable[[Service], Successor] | None = None
        self._closing = False  # the last reply is given: nothing that arrives is read as a request any more

    def dispatch(self, line: bytes, head: Head, body: bytes) -> Data:
        """Answer one request, if its sender may speak.

        Args:
            line: method, space and target.
            head: its header section.
            body: its body.

        Returns:
            The reply; b"" where it takes further turns, and the connection is stalled until it is there.
        """
        service = self._service
        route, _, query = line.partition(b"?")
        handler, fields = service.access.judge(line, head)
        try:
            handler = handler or service.routes.find(route)
            status, tail = handler(query, head, body)
        except Takeover as takeover:
            return self._begin_upgrade(takeover, fields)
        except Unfinished as unfinished:
            return self._begin_work(self._dispatch_in_steps(unfinished.steps, line, head, fields))
        except Exception as error:  # noqa: BLE001 - whatever it is, the client gets a reply
            status, tail = self._failed(error, line)
        return self._build(status, fields, tail, head)

    def _dispatch_in_steps(
        self, steps: Steps[Reply | tuple[int, LargeTail]], line: bytes, head: Head, fields: bytes
    ) -> Steps[Data]:
        """``dispatch`` for a handler whose reply takes steps.

        Args:
            steps: what the reply comes from.
            line: method, space and target.
            head: its header section.
            fields: header lines of the reply, each with its CRLF.
        """
        try:
            status, tail = yield from steps
        except Exception as error:  # noqa: BLE001 - whatever it is, the client gets a reply
            status, tail = self._failed(error, line)
        return self._build(status, fields, tail, head)

    def _build(self, status: int, fields: bytes, tail: bytes | LargeTail, head: Head) -> Data:
        """Put before a reply what it begins with; the connection is closing from here on if it is the last.

        Args:
            status: of the reply.
            fields: header lines behind Date and Connection, each with its CRLF.
            tail: what follows them.
            head: the request's header section.
        """
        persistence = CLOSE if self._service.draining or self._closing else head.persistence
        if persistence == CLOSE:
            self._closing = True
        front = self._service.preludes.kinds[persistence][status] + fields
        return front + tail if isinstance(tail, bytes) else tail.behind(front)

    def _failed(self, error: Exception, line: bytes) -> Reply:
        """The reply to a request that could not be answered; it may be the last."""
        (status, tail), last = self._service.failure(error, line.partition(b"?")[0])
        self._closing = self._closing or last
        reply = status, isolation_of(line) + tail
        return without_body(reply) if line.startswith(b"HEAD ") else reply

    def _begin_upgrade(self, takeover: Takeover, fields: bytes) -> bytes:
        """The last reply, after which another protocol has the transport; a worker that drains takes no more.

        Args:
            takeover: what a handler wants.
            fields: header lines of the reply, each with its CRLF.
        """
        status, tail = DRAINING if self._service.draining else takeover.reply
        self._closing = True
        if not self._service.draining:
            self.successor = takeover.make_successor
        persistence = KEEP_ALIVE if status == _SWITCHING else CLOSE
        return self._service.preludes.kinds[persistence][status] + fields + tail

    def error_reply(self, error: HttpError, line: bytes, *, headless: bool) -> bytes:
        """The reply to what is not read as a request: malformed, or refused before its body; the last one.

        Args:
            error: what was wrong.
            line: method, space and target; b"" where they could not be read.
            headless: whether a HEAD is refused.
        """
        (status, tail), _ = self._service.failure(error, line.partition(b"?")[0])
        tail = (isolation_of(line) if line else ISOLATION) + tail
        return self._last(without_body((status, tail)) if headless else (status, tail))

    def _last(self, reply: Reply) -> bytes:
        """A reply that says that it is the last one.

        Args:
            reply: the reply.
        """
        self._closing = True
        status, tail = reply
        return self._service.preludes.kinds[CLOSE][status] + tail
