"""Messages for subscribers that are behind: each message once, and a queue of references for each subscriber.

In: messages for a subscriber whose output takes no more at the moment. Out: the same messages in the same
order, and the subscribers that are too far behind and take too little. All that is kept counts: messages,
what was built of them, and the references. Nothing is raised.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fastkv.pubsub.messages import Message, Subscriber

# A place in a queue, rounded up for what the queue itself takes.
_REFERENCE_BYTES: Final = 16
# A backlog that is more than half full is under pressure: progress is then this part of ``lag_bytes`` in
# ``seconds``, so that a subscriber cannot hold up all publishers by reading a byte now and then.
_PROGRESS_SHARE: Final = 16


class _Queue:
    """What waits for one subscriber.

    Attributes:
        messages: the messages, oldest first.
        waiting_bytes: how long they are together.
        added, taken: how many were ever put in and taken out.
        watched_since: since when it has been too far behind, in seconds; None while it is not.
        had_taken_bytes: what the client had taken then.
    """

    __slots__ = ("added", "had_taken_bytes", "messages", "taken", "waiting_bytes", "watched_since")

    def __init__(self) -> None:
        self.messages: deque[Message] = deque()
        self.waiting_bytes = self.added = self.taken = 0
        self.watched_since: float | None = None
        self.had_taken_bytes = 0


class Backlog:
    """What waits for the subscribers of one worker.

    Attributes:
        held_bytes: the memory that it takes.
    """

    __slots__ = ("_lag_bytes", "_limit_bytes", "_queues", "_seconds", "_slowest_bytes", "held_bytes")

    def __init__(self, limit_bytes: int, lag_bytes: int, seconds: float, rate_bytes: int) -> None:
        """Begin with nothing.

        Args:
            limit_bytes: what it may hold before it is full; a message more may come on top.
            lag_bytes: how far a subscriber may be behind, whether it makes progress or not.
            seconds: the time in which it has to make progress past that.
            rate_bytes: what counts as progress, in bytes a second.
        """
        self._limit_bytes = limit_bytes
        self._lag_bytes = lag_bytes
        self._seconds = seconds
        self._slowest_bytes = rate_bytes * seconds
        self._queues: dict[Subscriber, _Queue] = {}
        self.held_bytes = 0

    def __contains__(self, subscriber: Subscriber) -> bool:
        return subscriber in self._queues

    def __iter__(self) -> Iterator[Subscriber]:
        return iter(self._queues)

    def next_bytes(self, subscriber: Subscriber) -> int:
        """How long the next message is for a subscriber that is behind."""
        return len(self._queues[subscriber].messages[0].payload)

    @property
    def full(self) -> bool:
        """Whether nothing more may be added."""
        return self.held_bytes >= self._limit_bytes

    @property
    def under_pressure(self) -> bool:
        """Whether it is more than half full."""
        return self.held_bytes > self._limit_bytes // 2

    def add(self, subscriber: Subscriber, message: Message) -> None:
        """Let a message wait for a subscriber, which is behind from now on.

        Args:
            subscriber: the subscriber.
            message: the message.
        """
        queue = self._queues.get(subscriber)
        if queue is None:
            queue = self._queues[subscriber] = _Queue()
        queue.messages.append(message)
        queue.waiting_bytes += len(message.payload)
        queue.added += 1
        self.held_bytes += _REFERENCE_BYTES
        message.queues += 1
        self.recount(message)

    def take(self, subscriber: Subscriber) -> Message:
        """Take the oldest message that waits for a subscriber; with the last one it is not behind any more.

        Args:
            subscriber: one that is behind.
        """
        queue = self._queues[subscriber]
        message = queue.messages.popleft()
        queue.waiting_bytes -= len(message.payload)
        queue.taken += 1
        if not queue.messages:
            del self._queues[subscriber]
        self._release(message)
        return message

    def forget(self, subscriber: Subscriber) -> None:
        """Drop what waits for a subscriber; one that is not behind is no mistake.

        Args:
            subscriber: the subscriber.
        """
        queue = self._queues.pop(subscriber, None)
        if queue is not None:
            for message in queue.messages:
                self._release(message)

    def recount(self, message: Message) -> None:
        """Count a message by its present size: each wire adds what it sends of it.

        Args:
            message: any message.
        """
        if message.queues:
            self.held_bytes += message.size - message.counted_bytes
            message.counted_bytes = message.size

    def until_taken(self, subscriber: Subscriber) -> Callable[[], bool]:
        """Note what waits for a subscriber now.

        Returns:
            Tells whether the subscriber has taken all of that, or has ended.
        """
        queue = self._queues.get(subscriber)
        added = queue.added if queue else 0
        return lambda: queue is None or queue.taken >= added or self._queues.get(subscriber) is not queue

    def without_progress(self, now: float) -> list[Subscriber]:
        """Which subscribers are too far behind, and have taken too little for too long.

        Args:
            now: seconds; to be asked several times within the time that they have.
        """
        pressure = self.under_pressure
        least = self._slowest_bytes
        if pressure:
            least = max(least, self._lag_bytes / _PROGRESS_SHARE)
        slow = []
        for subscriber, queue in self._queues.items():
            if not pressure and queue.waiting_bytes <= self._lag_bytes:
                queue.watched_since = None
            elif queue.watched_since is None:
                queue.watched_since, queue.had_taken_bytes = now, subscriber.taken_bytes
            elif now - queue.watched_since >= self._seconds:
                taken_bytes = subscriber.taken_bytes
                if taken_bytes - queue.had_taken_bytes < least:
                    slow.append(subscriber)
                queue.watched_since, queue.had_taken_bytes = now, taken_bytes
        return slow

    def farthest_behind(self) -> list[Subscriber]:
        """All subscribers that are behind, the one for which most waits first."""
        return sorted(self._queues, key=lambda subscriber: -self._queues[subscriber].waiting_bytes)

    def _release(self, message: Message) -> None:
        self.held_bytes -= _REFERENCE_BYTES
        message.queues -= 1
        if not message.queues:
            self.held_bytes -= message.counted_bytes
            message.counted_bytes = 0
