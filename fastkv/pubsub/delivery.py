"""Messages on their way to the subscribers of a worker, a slice at a time.

In: messages with all who get them. Out: `Subscriber.push`, in the order of the messages for each subscriber.
So many connections may want a message that to write to all of them at once would hold up everybody else:
10,000 take 50 ms. Nothing is raised.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, Final

from fastkv.stats import Column

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fastkv.pubsub.messages import Message, Subscriber

_log = logging.getLogger("fastkv")

# So many are written to before others have a turn: 5 us each, mostly the kernel's.
_SLICE: Final = 250
# With more than this on the way nothing more is read ahead.
_MOST_MESSAGES: Final = 1024
_MOST_BYTES: Final = 4 << 20

_PUSHED: Final = int(Column.MESSAGES_PUSHED)


class Delivery:
    """The queue of a worker's messages."""

    __slots__ = ("_bytes", "_close", "_counters", "_queue", "_sent", "_wants")

    def __init__(
        self,
        wants: Callable[[Subscriber], bool],
        close: Callable[[Subscriber], None],
        counters: memoryview[int],
    ) -> None:
        """Begin with nothing.

        Args:
            wants: whether a subscriber is still one.
            close: closes one that is too slow.
            counters: this worker's row of the board.
        """
        self._wants = wants
        self._close = close
        self._counters = counters
        self._queue: deque[tuple[Message, Sequence[Subscriber]]] = deque()
        self._sent = 0  # how many have got the first message
        self._bytes = 0

    def __bool__(self) -> bool:
        return bool(self._queue)

    @property
    def full(self) -> bool:
        """Whether what comes next had better wait elsewhere."""
        return len(self._queue) >= _MOST_MESSAGES or self._bytes >= _MOST_BYTES

    def add(self, message: Message, targets: Sequence[Subscriber]) -> None:
        """Put a message on its way.

        Args:
            message: the message.
            targets: who gets it, at least one.
        """
        self._queue.append((message, targets))
        self._bytes += len(message.payload)

    def clear(self) -> None:
        """Nobody gets anything of this any more."""
        self._queue.clear()
        self._sent = self._bytes = 0

    def send(self) -> None:
        """Send a slice."""
        room = _SLICE
        while room > 0 and self._queue:
            message, targets = self._queue[0]
            slice_ = targets[self._sent : self._sent + room]
            room -= max(len(slice_), 1)
            self._sent += len(slice_)
            if self._sent >= len(targets):
                self._queue.popleft()
                self._bytes -= len(message.payload)
                self._sent = 0
            for subscriber in slice_:
                self._push(subscriber, message)

    def settle(self, subscriber: Subscriber) -> None:
        """Send one subscriber all that is on its way to it, ahead of the others.

        Args:
            subscriber: who.
        """
        sent = self._sent
        for at, (message, targets) in enumerate(self._queue):
            if subscriber in targets[sent:]:
                others = [other for other in targets[sent:] if other is not subscriber]
                self._queue[at] = message, [*targets[:sent], *others]
                self._push(subscriber, message)
            sent = 0

    def _push(self, subscriber: Subscriber, message: Message) -> None:
        if not self._wants(subscriber):  # it has ended meanwhile
            return
        self._counters[_PUSHED] += 1
        try:
            in_time = subscriber.push(message)
        except Exception as error:  # noqa: BLE001 - one connection's mistake must not reach the others
            _log.error("A message could not be sent to a subscriber.", exc_info=error)
            self._counters[Column.INTERNAL_ERRORS] += 1
            in_time = False
        if not in_time:
            self._close(subscriber)
