"""The hub of a worker: its subscribers on one side, the ring that all workers share on the other.

In: subscribers that come and go, messages that are published here, and from the ring what happens in the
other workers. Out: messages to subscribers, `Subscriber.give_up` for those that are too slow, how many got
one. Every message, also a worker's own, goes through the ring and is sent in a later turn of the event loop:
so all see one order, and replies that are being collected go out before it. Raised: `CannotSubscribe`
and `CannotPublish` for what the settings do not allow, `StoreBusy` if the ring's lock was not free in time.

Memory is bounded at each stage, and a full stage stops the one before it: a subscriber takes no more than its
output may hold, then its messages wait in the backlog; while that is full the worker reads nothing more; and
while a worker has yet to read what a message would be written over, its publisher waits. Subscribers without
progress, and workers without a sign of life, hold publishers back for ``push_seconds``.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Final, TypeVar

from fastkv.errors import StoreBusy
from fastkv.pubsub.backlog import Backlog
from fastkv.pubsub.bounds import Bounds, CannotPublish
from fastkv.pubsub.census import Census
from fastkv.pubsub.delivery import Delivery
from fastkv.pubsub.herald import Herald
from fastkv.pubsub.messages import Message
from fastkv.pubsub.ring import Overrun
from fastkv.pubsub.subscriptions import Subscriptions
from fastkv.pubsub.wire import Counts, build_message, parse
from fastkv.stats import Column, State

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from fastkv.pubsub.messages import Subscriber
    from fastkv.pubsub.ring import Ring
    from fastkv.settings import Settings
    from fastkv.stats import Board
    from fastkv.steps import Steps

T = TypeVar("T")

# The time after which a reader that did not get the lock tries again, and what waits for room in the ring.
_AGAIN_SECONDS: Final = 0.02
# A publisher that waits looks for room after this time, and after twice as long each time, up to the second.
_FIRST_WAIT_SECONDS: Final = 0.001
_LONGEST_WAIT_SECONDS: Final = 0.05
# A worker that was overrun asks the others for their counts this many turns later: the answers might overrun
# it again.
_TURNS_TO_HELLO: Final = 4
# The backlog takes one message more than its limit, which is a quarter of the ring at most: with this part of
# the ring's size as its limit it is no larger than the ring.
_BACKLOG_SHARE: Final = 0.75
_DELIVERY_SHARE: Final = 0.25
# What waits for room in the ring and has no publisher that could wait with it: this part of the ring's size.
_OUTBOX_SHARE: Final = 0.25
_OUTBOX_OVERHEAD_BYTES: Final = 256

_SLOW: Final = "Messages are not read as fast as they come."
_OVERRUN: Final = "Messages were lost because the server was stopped for too long."
_BEHIND: Final = "subscribers of this worker read more slowly than messages come; try again"
_HELD: Final = "subscribers read more slowly than messages come, and there is no room for this one; try again"


class Hub:
    """The subscribers of one worker.

    Attributes:
        listening, listening_expired: views of the ring's words of these names.
    """

    __slots__ = (
        "_backlog",
        "_board",
        "_bounds",
        "_census",
        "_counters",
        "_cursor",
        "_delivery",
        "_herald",
        "_loop",
        "_now",
        "_outbox",
        "_outbox_bytes",
        "_outbox_limit_bytes",
        "_overrun_subscribers",
        "_ring",
        "_row",
        "_seconds",
        "_subscriptions",
        "_turn_due",
        "_turns_to_hello",
        "listening",
        "listening_expired",
    )

    def __init__(
        self,
        ring: Ring,
        board: Board,
        row: int,
        settings: Settings,
        now: Callable[[], float] = monotonic,
    ) -> None:
        """Bind to what the workers share.

        Args:
            ring: the ring.
            board: says which rows have a process, and has the counters.
            row: this worker's row of both.
            settings: the bounds.
            now: seconds on the monotonic clock.
        """
        self._now = now
        self._seconds = settings.push_seconds
        self._ring = ring
        self.listening = ring.listening
        self.listening_expired = ring.listening_expired
        self._board = board
        self._row = row
        self._counters = board.rows[row]
        self._bounds = Bounds(settings, ring.most_bytes, self._counters)
        self._cursor = ring.head
        self._census = Census()
        self._subscriptions = Subscriptions()
        self._backlog = Backlog(
            int(settings.pubsub_memory_bytes * _BACKLOG_SHARE),
            settings.max_push_bytes,
            settings.push_seconds,
            settings.min_rate_bytes,
        )
        self._delivery = Delivery(
            int(settings.pubsub_memory_bytes * _DELIVERY_SHARE),
            self._backlog,
            self._subscriptions.__contains__,
            self._drop,
            self._counters,
        )
        # Events of keys, and messages of transactions, which were committed before they are published.
        self._outbox: deque[tuple[bytes, bytes]] = deque()
        self._outbox_bytes = 0
        self._outbox_limit_bytes = int(settings.pubsub_memory_bytes * _OUTBOX_SHARE)
        self._overrun_subscribers: list[Subscriber] = []
        self._herald = Herald(ring, row, self._subscriptions)
        self._turns_to_hello = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._turn_due = False

    # -- with the event loop -----------------------------------------------------------------------------

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Make oneself known, and begin to read.

        Args:
            loop: the worker's.
        """
        self._loop = loop
        loop.add_reader(self._ring.wakeups[self._row], self._woken)
        self._turns_to_hello = 1
        self.turn()

    def turn(self) -> None:
        """To be called about four times a second: keeps up with the others, and closes what does not."""
        for subscriber in self._backlog.without_progress(self._now()):
            self._close(subscriber, Column.SLOW_SUBSCRIBERS, _SLOW)
        self._delivery.resume_all()
        try:
            if self._turns_to_hello:
                self._turns_to_hello -= 1
                if not self._turns_to_hello:
                    self._hello()
            self._catch_up()
            self._bury()
            self._herald.tell()
        except StoreBusy:
            self._counters[Column.LOCK_TIMEOUTS] += 1
        self._go_on()

    def stop(self) -> None:
        """The worker ends, and with it all subscriptions."""
        if self._loop is not None:
            self._loop.remove_reader(self._ring.wakeups[self._row])
            self._loop = None
        for subscriber in self._subscriptions:
            self.forget(subscriber)
        try:
            self._send_outbox()
            self._herald.tell()
        except StoreBusy:  # the others will find that its process has ended
            return

    # -- subscribing -------------------------------------------------------------------------------------

    def subscribe(self, subscriber: Subscriber, name: bytes, *, pattern: bool = False) -> int:
        """Have a subscriber get the messages of a channel, or of those that fit a pattern, from now on.

        Args:
            subscriber: who.
            name: the channel or the pattern.
            pattern: whether it is one.

        Returns:
            How many subscriptions the subscriber has now.

        Raises:
            CannotSubscribe: if there would be too many, or the name is too long.
            StoreBusy: if the ring was busy, or ``until_ready`` was not waited for; nothing has changed.
        """
        subscriptions = self._subscriptions
        if subscriptions.has(subscriber, name, pattern=pattern):
            return subscriptions.wanted_by(subscriber)
        self.check([name], subscriptions.wanted_by(subscriber))
        ready = self._catch_up()
        with self._ring.locked():
            # What was published before this frame is not for this subscriber, what comes after it is.
            if not (ready and self._read_all()):
                raise StoreBusy(_BEHIND)
            self._herald.announce(name, pattern=pattern)
            self._ring.need(self._row, self._cursor)
        subscriptions.add(subscriber, name, pattern=pattern)
        self._counters[Column.SUBSCRIPTIONS] = subscriptions.total
        self._soon()
        return subscriptions.wanted_by(subscriber)

    def unsubscribe(self, subscriber: Subscriber, name: bytes, *, pattern: bool = False) -> int:
        """End a subscription; what was published before is still sent, which ``until_taken`` waits for.

        Args:
            subscriber: who.
            name: the channel or the pattern; one that was not subscribed is no mistake.
            pattern: whether it is one.

        Returns:
            How many subscriptions the subscriber has now.

        Raises:
            StoreBusy: if the ring was busy, or ``until_ready`` was not waited for; the subscription may have
                ended nevertheless.
        """
        subscriptions = self._subscriptions
        if subscriptions.has(subscriber, name, pattern=pattern):
            if not self._catch_up():
                raise StoreBusy(_BEHIND)
            self._delivery.settle(subscriber)
        # Asked anew: it may have been closed meanwhile.
        if subscriptions.has(subscriber, name, pattern=pattern):
            self._end(subscriber, name, pattern=pattern)
            self._herald.tell()
        return subscriptions.wanted_by(subscriber)

    def subscriptions(self, subscriber: Subscriber, *, pattern: bool = False) -> list[bytes]:
        """What a subscriber has subscribed to, the oldest first.

        Args:
            subscriber: who.
            pattern: whether its patterns are wanted, or its channels.
        """
        return self._subscriptions.names(subscriber, pattern=pattern)

    def wanted_by(self, subscriber: Subscriber) -> int:
        """How many subscriptions a subscriber has."""
        return self._subscriptions.wanted_by(subscriber)

    def forget(self, subscriber: Subscriber) -> None:
        """Take note that a connection has ended.

        Args:
            subscriber: who; one that has never subscribed is no mistake.
        """
        for pattern in (False, True):
            for name in self._subscriptions.names(subscriber, pattern=pattern):
                self._end(subscriber, name, pattern=pattern)
        self._backlog.forget(subscriber)
        self._go_on()

    def resumed(self, subscriber: Subscriber) -> None:
        """A subscriber takes messages again.

        Args:
            subscriber: the subscriber; one that is not behind is no mistake.
        """
        self._delivery.resume(subscriber)
        self._go_on()

    def until_ready(self) -> Steps[None]:
        """Wait until this worker has read what is in the ring, which may wait for its subscribers.

        Raises:
            StoreBusy: if it takes too long.
        """
        yield from self._wait(lambda: self._catch_up() or None, StoreBusy(_BEHIND))

    def until_taken(self, subscriber: Subscriber) -> Steps[None]:
        """Wait until a subscriber has taken all that waits for it now, or has ended.

        Args:
            subscriber: the subscriber.
        """
        is_taken = self._backlog.until_taken(subscriber)
        while not is_taken():
            yield _LONGEST_WAIT_SECONDS

    def check(self, names: Sequence[bytes], has: int = 0) -> None:
        """Find out whether a connection may subscribe to some names.

        Args:
            names: of channels and patterns.
            has: how many subscriptions it has.

        Raises:
            CannotSubscribe: if not.
        """
        self._bounds.check_names(names, has, self._subscriptions)

    def _end(self, subscriber: Subscriber, name: bytes, *, pattern: bool) -> None:
        """End a subscription here; the other workers are told in a moment."""
        self._subscriptions.remove(subscriber, name, pattern=pattern)
        self._counters[Column.SUBSCRIPTIONS] = self._subscriptions.total
        self._herald.changed(name, pattern=pattern)
        self._soon()

    def _close(self, subscriber: Subscriber, column: Column, reason: str) -> None:
        """Close a subscriber, count it, and say why."""
        self._counters[column] += 1
        self.forget(subscriber)
        subscriber.give_up(reason)

    def _drop(self, subscriber: Subscriber) -> None:
        """Close a subscriber that has failed."""
        self.forget(subscriber)
        subscriber.abort()

    # -- publishing --------------------------------------------------------------------------------------

    def publish(self, channel: bytes, payload: bytes) -> int | None:
        """Send a message to all subscribers of all workers.

        Args:
            channel: where.
            payload: what.

        Returns:
            How many get it; one that gets it by several subscriptions counts as often, as in Redis. None if
            there is no room for it at the moment, and it is not published: see ``publish_in_steps``.

        Raises:
            CannotPublish: if it is longer than the ring takes.
            StoreBusy: if the ring was busy; the message is not published.
        """
        self._bounds.check_message(channel, payload)
        return self._append(channel, payload) if self._send_outbox() else None

    def publish_in_steps(self, channel: bytes, payload: bytes) -> Steps[int]:
        """As ``publish``, for a publisher that waits for room; other connections are served meanwhile.

        Args:
            channel: where.
            payload: what.

        Raises:
            CannotPublish: if there is no room in time, or the message is too long; it is not published.
            StoreBusy: if the ring was busy; the message is not published.
        """
        self._counters[Column.PUBLISHERS_HELD] += 1
        try:
            return (yield from self._wait(lambda: self.publish(channel, payload), CannotPublish(_HELD)))
        except CannotPublish:
            self._counters[Column.MESSAGES_REFUSED] += 1
            raise

    def post(self, channel: bytes, payload: bytes) -> None:
        """As ``publish``, for what has happened already and cannot wait: it is sent once there is room.

        What waits for that is bounded. Where the bound is near, the subscribers that are farthest behind are
        closed; if that does not help, workers that do not read are overrun.

        Args:
            channel: where.
            payload: what.

        Raises:
            CannotPublish: if it is longer than the ring takes.
            StoreBusy: if the ring was busy; the message is not published.
        """
        self._bounds.check_message(channel, payload)
        if self._send_outbox() and self._append(channel, payload) is not None:
            return
        self._outbox.append((channel, payload))
        self._outbox_bytes += _outbox_bytes(channel, payload)
        if self._outbox_bytes > self._outbox_limit_bytes // 2:
            with suppress(StoreBusy), self._ring.locked():
                self._ring.press()
            self._give_way()
        while self._outbox_bytes > self._outbox_limit_bytes:
            self._send_first(force=True)
        self._soon_again()

    def _append(self, channel: bytes, payload: bytes, *, force: bool = False) -> int | None:
        """Append a message to the ring.

        Args:
            channel: where.
            payload: what.
            force: whether workers that have not read what is in its place are overrun.

        Returns:
            How many get it; None if there is no room.

        Raises:
            StoreBusy: if the ring was busy; the message is not published.
        """
        ready = self._catch_up()
        with self._ring.locked():
            # All that was confirmed before is known now, and stays so until the message has its place.
            if not (ready and self._read_all()) and not force:
                return None
            count, rows = self._census.receivers(channel)
            if rows:
                frame = build_message(channel, payload)
                if not (force or self._has_room(len(frame))):
                    return None
                self._ring.append(frame, rows - {self._row})
                self._counters[Column.MESSAGES_PUBLISHED] += 1
        if self._row in rows:
            self._soon()
        return count

    def _has_room(self, frame_bytes: int) -> bool:
        """Whether a frame is written over nothing that a living worker has yet to read; wants the lock."""
        oldest_ms = (self._now() - self._seconds) * 1000
        for row in self._ring.behind(frame_bytes):
            words = self._board.rows[row]
            if words[Column.STATE] != State.NONE and words[Column.HEARTBEAT] > oldest_ms:
                return False
        return True

    def _send_outbox(self) -> bool:
        """Send what waits for room. Returns whether nothing is left.

        Raises:
            StoreBusy: if the ring was busy; what is left is still there.
        """
        while self._outbox:
            if not self._send_first():
                return False
        return True

    def _send_first(self, *, force: bool = False) -> bool:
        channel, payload = self._outbox[0]
        if self._append(channel, payload, force=force) is None:
            return False
        self._outbox.popleft()
        self._outbox_bytes -= _outbox_bytes(channel, payload)
        return True

    def _give_way(self) -> None:
        """Close the subscribers that are farthest behind, until half of a full backlog is free."""
        if self._backlog.full:
            for subscriber in self._backlog.farthest_behind():
                self._close(subscriber, Column.SLOW_SUBSCRIBERS, _SLOW)
                if not self._backlog.under_pressure:
                    break

    def _wait(self, attempt: Callable[[], T | None], late: Exception) -> Steps[T]:
        """Try something again and again, less and less often.

        Args:
            attempt: what to try; returns None if it has to be tried again.
            late: what is raised after twice ``push_seconds``: in the first of them subscribers and workers
                that hold it up may still be found to make no progress.
        """
        end = self._now() + 2 * self._seconds
        seconds = _FIRST_WAIT_SECONDS
        while (result := attempt()) is None:
            if self._now() > end:
                raise late
            yield seconds
            seconds = min(2 * seconds, _LONGEST_WAIT_SECONDS)
        return result

    def receivers(self, channel: bytes, payload: bytes) -> int:
        """How many would get a message now.

        Args:
            channel: where it would be published.
            payload: what.

        Raises:
            CannotPublish: if it is longer than the ring takes.
            StoreBusy: if the ring was busy.
        """
        self._bounds.check_message(channel, payload)
        self._catch_up()
        return self._census.receivers(channel)[0]

    # -- what all workers have together ------------------------------------------------------------------

    def channels(self) -> list[bytes]:
        """The channels that have subscribers of their own, in whichever worker.

        Raises:
            StoreBusy: if the ring was busy.
        """
        self._catch_up()
        return list(self._census.channels)

    def subscribers(self, channel: bytes) -> int:
        """How many subscribers a channel has, without those of patterns; raises as ``channels``."""
        self._catch_up()
        return self._census.subscribers(channel)

    def patterns(self) -> int:
        """How many different patterns have subscribers; raises as ``channels``."""
        self._catch_up()
        return self._census.patterns

    # -- reading -----------------------------------------------------------------------------------------

    def _woken(self) -> None:
        """Another worker has written something for this one."""
        self._ring.heard(self._row)
        self._take_turn()

    def _soon(self) -> None:
        """Read and send in a later turn of the event loop."""
        if self._loop is not None and not self._turn_due:
            self._turn_due = True
            self._loop.call_soon(self._take_due_turn)

    def _soon_again(self) -> None:
        """As ``_soon``, a moment later: something else has to happen before."""
        if self._loop is not None and not self._turn_due:
            self._turn_due = True
            self._loop.call_later(_AGAIN_SECONDS, self._take_due_turn)

    def _go_on(self) -> None:
        """Read and send on if there is anything that can be sent, or room for what is in the ring."""
        if self._delivery.can_send or (self._cursor != self._ring.head and not self._backlog.full):
            self._soon()

    def _take_due_turn(self) -> None:
        self._turn_due = False
        self._take_turn()

    def _take_turn(self) -> None:
        """Read on if not much waits to be sent, tell the others what has changed, and send a slice."""
        try:
            if not self._delivery.full:
                self._catch_up()
            self._herald.tell()
            self._send_outbox()
        except StoreBusy:
            self._counters[Column.LOCK_TIMEOUTS] += 1
            self._soon_again()
        self._close_overrun()
        if self._ring.is_pressed(self._cursor):
            self._give_way()
        self._delivery.send()
        self._go_on()
        if self._outbox:
            self._soon_again()

    def _catch_up(self) -> bool:
        """Read up to the head; who publishes more than can be sent sends some of it here.

        Returns:
            False if that cannot be: subscribers have to take some of what waits for them before.

        Raises:
            StoreBusy: if the lock was not free within the bound.
        """
        while self._cursor != self._ring.head:
            while self._delivery.full:
                if not self._delivery.can_send:
                    return False
                self._delivery.send()
            with self._ring.locked():
                frames = self._read_some()
            self._take(frames)
        return True

    def _read_all(self) -> bool:
        """Read what has come since ``_catch_up``, with the lock held; whether that could be."""
        while self._cursor != self._ring.head:
            if self._delivery.full:
                return False
            self._take(self._read_some())
        return True

    def _read_some(self) -> list[bytes]:
        """Read some frames, with the lock held, and rest at the head."""
        try:
            frames, self._cursor = self._ring.read(self._cursor)
        except Overrun:
            self._overrun()
            return []
        has_subscribers = self._subscriptions.total > 0
        self._ring.need(self._row, self._cursor if has_subscribers else None)
        if self._cursor == self._ring.head:
            self._ring.rest(self._row, waits=has_subscribers)
        return frames

    def _take(self, frames: list[bytes]) -> None:
        """Do what frames say."""
        for frame in frames:
            news = parse(frame)
            if isinstance(news, tuple):
                channel, payload = news
                for pattern, targets in self._subscriptions.targets(channel):
                    self._delivery.add(Message(channel, payload, pattern), targets)
            elif isinstance(news, Counts):
                self._census.learn(news)
            else:
                self._census.forget(news.row)
                if news.row != self._row:
                    self._herald.asked = True
        if self._herald.asked or self._delivery:
            self._soon()

    def _overrun(self) -> None:
        """This worker stood still, and its subscribers have missed messages: they have to connect again."""
        self._counters[Column.PUBSUB_OVERRUNS] += 1
        self._delivery.clear()
        for subscriber in self._subscriptions:
            self.forget(subscriber)
            self._overrun_subscribers.append(subscriber)
        self._cursor = self._ring.head
        self._ring.need(self._row, None)
        self._census.begin(self._others())
        self._herald.tell_all()
        self._turns_to_hello = _TURNS_TO_HELLO
        self._soon()

    def _close_overrun(self) -> None:
        """Close the subscribers that have missed messages, without the lock."""
        while self._overrun_subscribers:
            subscriber = self._overrun_subscribers.pop()
            self._close(subscriber, Column.SUBSCRIBERS_OVERRUN, _OVERRUN)

    def _others(self) -> list[int]:
        """The rows of the other workers that may have subscribers."""
        rows = enumerate(self._board.rows)
        return [row for row, words in rows if words[Column.STATE] != State.NONE and row != self._row]

    def _bury(self) -> None:
        """Forget the subscribers of rows whose process has ended."""
        known = set(self._census.rows)
        for row, words in enumerate(self._board.rows):
            if words[Column.STATE] == State.NONE:
                if row in known:
                    self._census.forget(row)
                if any(self._ring.listens(row)) or self._ring.needs(row):
                    with self._ring.locked():
                        # Its successor says hello with the lock held, and speaks for itself from then on.
                        if words[Column.STATE] == State.NONE:
                            self._ring.listen(row, keys=False, expired=False)
                            self._ring.need(row, None)

    def _hello(self) -> None:
        """Ask all others for their counts.

        Raises:
            StoreBusy: if the ring was busy; it is tried again in the next turn.
        """
        try:
            with self._ring.locked():
                if not self._read_all():
                    self._turns_to_hello = 1
                    return
                self._census.begin(self._others())
                self._ring.need(self._row, self._cursor if self._subscriptions.total else None)
                self._herald.hello()
        except StoreBusy:
            self._turns_to_hello = 1
            raise


def _outbox_bytes(channel: bytes, payload: bytes) -> int:
    return len(channel) + len(payload) + _OUTBOX_OVERHEAD_BYTES
