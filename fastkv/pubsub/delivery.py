"""Messages on their way to the subscribers of a worker, a slice at a time.

In: messages, each with the subscribers that get it. Out: `Subscriber.push`, in the order of the messages for
each subscriber; what a subscriber cannot take at the moment waits in the `Backlog`, and the others go on. If
that is full nothing is sent until a part of it was taken. Writing a message to all of its subscribers at once
would hold up everything else: 10,000 take 50 ms. Nothing is raised.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, Final

from fastkv.stats import Column

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fastkv.pubsub.backlog import Backlog
    from fastkv.pubsub.messages import Message, Subscriber

_log = logging.getLogger("fastkv")

# So many are written to before others have a turn: 5 us each, mostly the kernel's.
_SLICE: Final = 250
# With more than this on the way nothing more is read ahead.
_MOST_MESSAGES: Final = 1024

_PUSHED: Final = int(Column.MESSAGES_PUSHED)


class Delivery:
    """The queue of a worker's messages."""

    __slots__ = (
        "_backlog",
        "_bytes",
        "_counters",
        "_drop",
        "_limit_bytes",
        "_queue",
        "_resumed",
        "_sent",
        "_wants",
    )

    def __init__(
        self,
        limit_bytes: int,
        backlog: Backlog,
        wants: Callable[[Subscriber], bool],
        drop: Callable[[Subscriber], None],
        counters: memoryview[int],
    ) -> None:
        """Begin with nothing.

        Args:
            limit_bytes: how long messages may be together with which nothing more is read ahead.
            backlog: where messages wait for subscribers that are behind.
            wants: whether a subscriber is still one.
            drop: closes one that has failed.
            counters: this worker's row of the board.
        """
        self._limit_bytes = limit_bytes
        self._backlog = backlog
        self._wants = wants
        self._drop = drop
        self._counters = counters
        self._queue: deque[tuple[Message, Sequence[Subscriber]]] = deque()
        self._sent = 0  # how many have got the first message
        self._bytes = 0
        self._resumed: dict[Subscriber, None] = {}  # they take again what waits for them, in this order

    def __bool__(self) -> bool:
        return bool(self._queue)

    @property
    def full(self) -> bool:
        """Whether further messages have to wait in the ring."""
        return len(self._queue) >= _MOST_MESSAGES or self._bytes >= self._limit_bytes

    @property
    def can_send(self) -> bool:
        """Whether ``send`` would send anything."""
        return bool(self._resumed) or (bool(self._queue) and not self._backlog.full)

    def add(self, message: Message, targets: Sequence[Subscriber]) -> None:
        """Put a message on its way.

        Args:
            message: the message.
            targets: the subscribers that get it, at least one.
        """
        self._queue.append((message, targets))
        self._bytes += len(message.payload)

    def clear(self) -> None:
        """Drop all messages."""
        self._queue.clear()
        self._sent = self._bytes = 0

    def resume(self, subscriber: Subscriber) -> None:
        """Send a subscriber what waits for it; it takes messages again.

        Args:
            subscriber: the subscriber; one that is not behind is no mistake.
        """
        if subscriber in self._backlog:
            self._resumed[subscriber] = None

    def send(self) -> None:
        """Send a slice."""
        room = _SLICE
        while room > 0 and self._resumed:
            subscriber = next(iter(self._resumed))
            del self._resumed[subscriber]
            room -= self._catch_up(subscriber, room)
        while room > 0 and self._queue and not self._backlog.full:
            message, targets = self._queue[0]
            slice_ = targets[self._sent : self._sent + room]
            room -= max(len(slice_), 1)
            self._sent += len(slice_)
            if self._sent >= len(targets):
                self._queue.popleft()
                self._bytes -= len(message.payload)
                self._sent = 0
            for subscriber in slice_:
                if not self._wants(subscriber):  # it has ended meanwhile
                    continue
                if subscriber in self._backlog or not subscriber.takes(len(message.payload)):
                    self._backlog.add(subscriber, message)
                else:
                    self._push(subscriber, message)

    def resume_all(self) -> None:
        """Try all that are behind: what they wait for may have been the memory of all connections."""
        for subscriber in self._backlog:
            self.resume(subscriber)

    def settle(self, subscriber: Subscriber) -> None:
        """Send what is on its way to a subscriber ahead of the others; what it cannot take waits for it.

        Args:
            subscriber: the subscriber.
        """
        sent = self._sent
        for at, (message, targets) in enumerate(self._queue):
            if subscriber in targets[sent:]:
                others = [other for other in targets[sent:] if other is not subscriber]
                self._queue[at] = message, [*targets[:sent], *others]
                self._backlog.add(subscriber, message)
            sent = 0
        self._catch_up(subscriber, _MOST_MESSAGES)

    def _catch_up(self, subscriber: Subscriber, room: int) -> int:
        """Send a subscriber some of what waits for it.

        Returns:
            How many messages were sent; it has a further turn if there are more and it takes them.
        """
        sent = 0
        backlog = self._backlog
        while subscriber in backlog and subscriber.takes(backlog.next_bytes(subscriber)):
            if sent == room:
                self._resumed[subscriber] = None
                break
            self._push(subscriber, backlog.take(subscriber))
            sent += 1
        return max(sent, 1)

    def _push(self, subscriber: Subscriber, message: Message) -> None:
        self._counters[_PUSHED] += 1
        try:
            subscriber.push(message)
        except Exception as error:  # noqa: BLE001 - one connection's mistake must not reach the others
            _log.error("A message could not be sent to a subscriber.", exc_info=error)
            self._counters[Column.INTERNAL_ERRORS] += 1
            self._drop(subscriber)
        self._backlog.recount(message)
