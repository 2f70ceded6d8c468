"""What a client's requests are answered with: by a handler or the memo, alone or many at once.

Enters: requests, as the parsers make them. Leaves: replies, whole, and whether one of them is the last of
its connection. Of transports and of what is still to be read `fastkv.connection` knows. Nothing is raised:
whatever a handler raises becomes a reply.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Final, cast

from fastkv.http.plain import GET_LINE
from fastkv.http.request import CLOSE, KEEP_ALIVE
from fastkv.http.responses import DRAINING, ISOLATION, isolation_of, with_fields, without_body
from fastkv.stalling import Stalling
from fastkv.stats import MEMO_HIT
from fastkv.steps import Unfinished
from fastkv.store.layout import COUNT_MAX
from fastkv.takeover import Takeover

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastkv.http.request import Head, HttpError
    from fastkv.http.responses import Handler, Reply
    from fastkv.memo import Remembered
    from fastkv.service import Service
    from fastkv.steps import Steps
    from fastkv.takeover import Successor

_SWITCHING: Final = 101  # Switching Protocols


def _decline(data: bytes) -> None:
    """A short way that is none."""


def _with_fields_in_steps(work: Steps[bytes], fields: bytes) -> Steps[bytes]:
    """``with_fields`` for a reply that takes steps."""
    return with_fields((yield from work), fields)


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
        "_put",
        "_recall",
        "_routes",
        "_tail",
        "_tally",
        "_together",
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
        self._plain = service.get_plain
        self._put = service.put_plain if self.answers_shortly else _decline
        self._together = service.get_together
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
            The reply; b"" where it takes further turns, and the connection is stalled until it is there.
        """
        route, _, query = line.partition(b"?")
        try:
            handler = handler or self._handlers.get(route)
            if handler is None:
                handler = self._routes.find(route)
            status, tail = handler(query, head, body)
        except Takeover as takeover:
            return self._give_way(takeover)
        except Unfinished as unfinished:
            return self._begin_work(self._answer_in_steps(unfinished.steps, line, head))
        except Exception as error:  # noqa: BLE001 - whatever it is, the client gets a reply
            status, tail = self._failed(error, line)
        # Nearly all requests; the call would take 0.5% of a DELETE.
        if head.persistence == KEEP_ALIVE and not self._service.draining and not self._closing:
            return self._keep_alive[status] + tail
        return self._build(status, tail, head)

    def _answer_in_steps(self, steps: Steps[Reply], line: bytes, head: Head) -> Steps[bytes]:
        """``_answer`` for a handler whose reply takes steps.

        Args:
            steps: what the reply comes from.
            line: method, space and target.
            head: its header section.
        """
        try:
            status, tail = yield from steps
        except Exception as error:  # noqa: BLE001 - whatever it is, the client gets a reply
            status, tail = self._failed(error, line)
        return self._build(status, tail, head)

    def _build(self, status: int, tail: bytes, head: Head) -> bytes:
        """Put the prelude before a reply; the connection is closing from here on if it is the last one.

        Args:
            status: of the reply.
            tail: what follows the prelude.
            head: the request's header section.
        """
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
            return self._plain(line)
        except Exception as error:  # noqa: BLE001 - whatever it is, the client gets a reply
            return self._apologize(error, line)

    def _apologize(self, error: Exception, line: bytes) -> bytes:
        """The reply to a lone request that could not be answered; it may be the last.

        Args:
            error: what was raised.
            line: the request's, or all of the request.
        """
        status, tail = self._failed(error, line.partition(b" HTTP/1.1\r\n")[0])
        return self._last((status, tail)) if self._closing else self._keep_alive[status] + tail

    def _failed(self, error: Exception, line: bytes) -> Reply:
        """The reply to a request that could not be answered, without its prelude; it may be the last."""
        (status, tail), last = self._service.failure(error, line.partition(b"?")[0])
        self._closing = self._closing or last
        reply = status, isolation_of(line) + tail
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
        if fields and self._work is not None:
            self._work = _with_fields_in_steps(self._work, fields)
        return with_fields(reply, fields) if fields and reply else reply

    def _answer_batch(self, lines: list[bytes], head: Head, out: list[bytes]) -> tuple[int, list[bytes]]:
        """Answer pipelined requests that share a header section, one by one.

        Args:
            lines: their lines.
            head: what they share.
            out: where replies go.

        Returns:
            How long the replies are together, and the lines that have to wait: until they have gone out, or
            until others had a turn.
        """
        short = bool(head.tail) and self.answers_shortly and not self._service.draining
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
            if due > self._service.output_limit or late or self._work is not None:
                return due, lines[number:]
        return due, []

    def _answer_together(self, data: bytes, text: bytes) -> bytes | None:
        """Answer pipelined GETs at once, if they all came with the section that the client repeats.

        Args:
            data: whole requests; all of them end with that section.
            text: the same without the last section.

        Returns:
            Their replies; None if they have to be read and answered one by one.
        """
        tail = self._tail
        first = text[: text.index(tail)]
        remembered = self._recall(first)
        if remembered is not None:
            request = first + tail
            times = len(data) // len(request)
            if request * times == data:  # one look at one moment answers them all
                return self._repeat_all([remembered], times)
            known = list(map(self._recall, text.split(tail)))
            if None not in known:
                return self._repeat_all(cast("list[Remembered]", known))
        if not text.startswith(GET_LINE):
            return None
        # What is between these is plain, or it is refused: so they are the keys that a parser would find.
        parts = self._together(text[len(GET_LINE) :].split(tail + GET_LINE))
        if parts is None:
            return None
        self._remember(first, parts[0])
        return b"".join(parts)

    def _repeat_all(self, known: list[Remembered], times: int = 1) -> bytes | None:
        """Answer pipelined requests that the memo knows.

        Args:
            known: what it has of each.
            times: how often all of that is asked for.

        Returns:
            Their replies; None if a word does not hold any more, or if others have to have a turn before.
        """
        words, counts, prelude = self._words, self._counts, self._keep_alive[200]
        parts: list[bytes] = []
        for slot, word, count_at, tail in known:
            if words[slot] != word:
                return None
            if counts[count_at] < COUNT_MAX:
                counts[count_at] += 1
            parts += prelude, tail
        reply = b"".join(parts)
        service = self._service
        if len(known) * times > service.pipeline_limit or len(reply) * times > service.output_limit:
            return None
        self._tally[MEMO_HIT] += times * len(known)
        return reply * times

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

    def _error(self, error: HttpError, line: bytes, headless: bool) -> bytes:
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
