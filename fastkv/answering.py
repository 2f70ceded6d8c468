"""What a client's requests are answered with: by a handler or the memo, alone or many at once.

Enters: requests, as the parsers make them. Leaves: replies, whole, and whether one of them is the last of
its connection. Of transports and of what is still to be read `fastkv.connection` knows. Nothing is raised:
whatever a handler raises becomes a reply.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Final, cast

from fastkv.http.request import CLOSE, KEEP_ALIVE
from fastkv.http.responses import DRAINING, with_fields, without_body
from fastkv.stalling import Stalling
from fastkv.stats import MEMO_HIT
from fastkv.store.layout import COUNT_MAX
from fastkv.takeover import Takeover

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastkv.http.request import Head, HttpError
    from fastkv.http.responses import Handler, Reply
    from fastkv.memo import Remembered
    from fastkv.service import Service
    from fastkv.takeover import Successor

_SWITCHING: Final = 101  # Switching Protocols


class Answering(Stalling):
    """The part of a connection that answers.

    Attributes:
        successor: what makes the protocol that goes on with the transport after the last reply, if any does.
        answers_shortly: whether requests may be answered without ``_answer``, from the memo included.
    """

    answers_shortly = True

    __slots__ = (
        "_closing",
        "_counts",
        "_handlers",
        "_keep_alive",
        "_offer",
        "_plain",
        "_recall",
        "_routes",
        "_tail",
        "_tally",
        "_words",
        "successor",
    )

    def __init__(self, service: Service) -> None:
        """Bind once what the way of a remembered request needs.

        Args:
            service: what all connections of the worker share.
        """
        super().__init__(service)
        self._words = service.store.words
        self._counts = service.store.counts
        self._recall = service.memo.get
        self._offer = service.memo.offer
        self._routes = service.routes
        self._handlers = service.routes.handlers
        self._tally = service.routes.tally.counts
        self._plain = service.routes.get_plain
        self._keep_alive = service.preludes.kinds[KEEP_ALIVE]
        self._tail = b""  # what followed the line of the last lone request, if the reply did not depend on it
        self.successor: Callable[[Service], Successor] | None = None
        self._closing = False  # the last reply is given: nothing that arrives is read as a request any more

    def _answer(self, line: bytes, head: Head, body: bytes, handler: Handler | None = None) -> bytes:
        """Answer one request.

        Args:
            line: method, space and target.
            head: its header section.
            body: its body.
            handler: what answers in place of the route's.

        Returns:
            The reply.
        """
        route, _, query = line.partition(b"?")
        try:
            handler = handler or self._handlers.get(route)
            if handler is None:
                handler = self._routes.find(route)
            status, tail = handler(query, head, body)
        except Takeover as takeover:
            return self._give_way(takeover)
        except Exception as error:  # noqa: BLE001 - whatever it is, the client gets a reply
            status, tail = self._failed(error, line)
        if head.persistence == KEEP_ALIVE and not self._service.draining and not self._closing:
            return self._keep_alive[status] + tail
        persistence = CLOSE if self._service.draining or self._closing else head.persistence
        if persistence == CLOSE:
            self._closing = True
        return self._service.preludes.kinds[persistence][status] + tail

    def _answer_plain(self, line: bytes) -> bytes | None:
        """Answer a GET by its line alone, if that is all that the reply depends on.

        Args:
            line: what precedes a section on which no reply depends; a request line, or anything else.

        Returns:
            The reply; None if ``_answer`` has to be asked.
        """
        try:
            return self._plain(line, self._keep_alive)
        except Exception as error:  # noqa: BLE001 - whatever it is, the client gets a reply
            return self._apologize(error, line)

    def _apologize(self, error: Exception, line: bytes) -> bytes:
        """The reply to a lone GET that could not be answered; it may be the last.

        Args:
            error: what was raised.
            line: the request's.
        """
        status, tail = self._failed(error, line)
        return self._keep_alive[status] + tail

    def _failed(self, error: Exception, line: bytes) -> Reply:
        """The reply to a request that could not be answered, without its prelude; it may be the last."""
        reply, last = self._service.failure(error, line.partition(b"?")[0])
        self._closing = self._closing or last
        return without_body(reply) if line.startswith(b"HEAD ") else reply

    def _admit(self, line: bytes, head: Head, body: bytes) -> bytes:
        """Answer one request of the full parser, if its sender may speak.

        What the fast parser reads has been asked already: it declines all heads of those who may not.

        Args:
            line: method, space and target.
            head: its header section.
            body: its body.

        Returns:
            The reply.
        """
        handler, fields = self._service.access.judge(line, head)
        reply = self._answer(line, head, body, handler)
        return with_fields(reply, fields) if fields else reply

    def _answer_batch(self, lines: list[bytes], head: Head, out: list[bytes]) -> tuple[int, list[bytes]]:
        """Answer pipelined requests that share a header section.

        Those that the memo knows are answered from there; if it knows none, all are answered by one call
        into the store.

        Args:
            lines: their lines.
            head: what they share.
            out: where replies go.

        Returns:
            How long the replies are together, and the lines that have to wait: until they have gone out, or
            until others had a turn.
        """
        short = bool(head.tail) and self.answers_shortly and not self._service.draining
        if short:
            size = self._answer_short(lines, out)
            if size:
                return size, []
        due, late, end = 0, False, monotonic() + self._service.turn_seconds
        for number, line in enumerate(lines, 1):
            remembered = self._recall(line) if short else None
            if remembered is not None and self._words[remembered[0]] == remembered[1]:
                reply = self._repeat(remembered)
            else:
                reply = (short and self._answer_plain(line)) or self._answer(line, head, b"")
                late = monotonic() > end
                if short:
                    self._remember(line, reply)
                self._routes.source = None
            out.append(reply)
            due += len(reply)
            if self._closing:
                break
            if due > self._service.output_limit or late:
                return due, lines[number:]
        return due, []

    def _answer_short(self, lines: list[bytes], out: list[bytes]) -> int:
        """Answer pipelined requests by their lines, if the memo knows all of them or none.

        Args:
            lines: their lines.
            out: where the replies go, in parts.

        Returns:
            How long they are together; 0 if they have to be answered one by one.
        """
        # The ends tell whether the memo is worth asking: for each of those that rarely repeat it takes 5%.
        if self._recall(lines[0]) or self._recall(lines[-1]):
            alike = lines.count(lines[0]) == len(lines)  # one look at one moment answers them all
            known = list(map(self._recall, lines[:1] if alike else lines))
            if None in known:
                return 0
            return self._repeat_all(cast("list[Remembered]", known), len(lines) // len(known), out)
        first = len(out)
        if not self._routes.get_batch(lines, self._keep_alive, out):
            return 0
        self._remember(lines[0], out[first])
        return sum(map(len, out[first:]))

    def _repeat_all(self, known: list[Remembered], times: int, out: list[bytes]) -> int:
        """Answer pipelined requests that the memo knows, if all of their words hold.

        Args:
            known: what it has of each.
            times: how often all of that is asked for.
            out: where the replies go, in parts.

        Returns:
            How long they are together; 0 if they have to be answered one by one.
        """
        words, counts, prelude = self._words, self._counts, self._keep_alive[200]
        parts: list[bytes] = []
        for slot, word, count_at, tail in known:
            if words[slot] != word:
                return 0
            if counts[count_at] < COUNT_MAX:
                counts[count_at] += 1
            parts += prelude, tail
        size = times * sum(map(len, parts))
        if size > self._service.output_limit:
            return 0
        self._tally[MEMO_HIT] += times * len(known)
        out += parts * times
        return size

    def _repeat(self, remembered: Remembered) -> bytes:
        """The reply that the memo has, while its word holds; ``data_received`` has this written out."""
        _, _, count_at, tail = remembered
        self._tally[MEMO_HIT] += 1
        if self._counts[count_at] < COUNT_MAX:
            self._counts[count_at] += 1
        return self._keep_alive[200] + tail

    def _remember(self, line: bytes, reply: bytes) -> None:
        """Offer the newest reply to the memo, if it was made from an entry and nothing else.

        Args:
            line: of the request.
            reply: all of it.
        """
        source = self._routes.source
        if source is not None:
            self._offer(line, reply, source)
            self._routes.source = None

    def _give_way(self, takeover: Takeover) -> bytes:
        """The last reply, after which another protocol has the transport; a worker that drains takes no more.

        Args:
            takeover: what a handler wants.
        """
        if self._service.draining:
            return self._last(DRAINING)
        self.successor = takeover.make_successor
        status, tail = takeover.reply
        if status != _SWITCHING:
            return self._last(takeover.reply)
        self._closing = True
        return self._keep_alive[status] + tail

    def _error(self, error: HttpError, headless: bool) -> bytes:
        """The reply to what could not be read as a request; the last one.

        Args:
            error: what was wrong.
            headless: whether a HEAD is refused.
        """
        reply, _ = self._service.failure(error)
        return self._last(without_body(reply) if headless else reply)

    def _last(self, reply: Reply) -> bytes:
        """A reply that says that it is the last one.

        Args:
            reply: the reply.
        """
        self._closing = True
        status, tail = reply
        return self._service.preludes.kinds[CLOSE][status] + tail
