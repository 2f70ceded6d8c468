"""The hub of a worker: its subscribers on one side, the ring that all workers share on the other.

In: subscribers that come and go, messages that are published here, and from the ring what happens in the
other workers. Out: messages to subscribers, `Subscriber.abort` for those that are too slow, how many got
one. Every message, also a worker's own, goes through the ring and is sent in a later turn of the event loop:
so all see one order, and replies that are being collected go out before it. Raised: `CannotSubscribe`
and `CannotPublish` for what the settings do not allow, `StoreBusy` if the ring's lock was not free in time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fastkv.errors import StoreBusy
from fastkv.pubsub.bounds import Bounds
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
    from collections.abc import Sequence

    from fastkv.pubsub.messages import Subscriber
    from fastkv.pubsub.ring import Ring
    from fastkv.settings import Settings
    from fastkv.stats import Board

# How long until a reader that did not get the lock tries again.
_AGAIN_SECONDS: Final = 0.02
# Who was overrun asks the others for their counts so many turns later: the answers might overrun it again.
_TURNS_TO_HELLO: Final = 4


class Hub:
    """The subscribers of one worker.

    Attributes:
        listening, listening_expired: views of the ring's words of these names.
    """

    __slots__ = (
        "_board",
        "_bounds",
        "_census",
        "_counters",
        "_cursor",
        "_delivery",
        "_herald",
        "_loop",
        "_ring",
        "_row",
        "_subscriptions",
        "_turn_due",
        "_turns_to_hello",
        "listening",
        "listening_expired",
    )

    def __init__(self, ring: Ring, board: Board, row: int, settings: Settings) -> None:
        """Bind to what the workers share.

        Args:
            ring: the ring.
            board: says which rows have a process, and has the counters.
            row: this worker's row of both.
            settings: the bounds.
        """
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
        self._delivery = Delivery(self._subscriptions.__contains__, self._close, self._counters)
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
        """To be called about four times a second: keeps up with the others, and forgets those that ended."""
        try:
            if self._turns_to_hello:
                self._turns_to_hello -= 1
                if not self._turns_to_hello:
                    self._hello()
            if not self._delivery.full:
                self._catch_up()
            self._bury()
            self._herald.tell()
        except StoreBusy:
            self._counters[Column.LOCK_TIMEOUTS] += 1

    def stop(self) -> None:
        """The worker ends, and with it all subscriptions."""
        if self._loop is not None:
            self._loop.remove_reader(self._ring.wakeups[self._row])
            self._loop = None
        for subscriber in self._subscriptions:
            self.forget(subscriber)
        try:
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
            StoreBusy: if the ring was busy; nothing has changed.
        """
        subscriptions = self._subscriptions
        if subscriptions.has(subscriber, name, pattern=pattern):
            return subscriptions.wanted_by(subscriber)
        self.check([name], subscriptions.wanted_by(subscriber))
        self._catch_up()
        with self._ring.locked():
            # What was published before this frame is not for this subscriber, what comes after it is.
            self._read_all()
            self._herald.announce(name, pattern=pattern)
        subscriptions.add(subscriber, name, pattern=pattern)
        self._counters[Column.SUBSCRIPTIONS] = subscriptions.total
        self._soon()
        return subscriptions.wanted_by(subscriber)

    def unsubscribe(self, subscriber: Subscriber, name: bytes, *, pattern: bool = False) -> int:
        """End a subscription; what was published before is sent first.

        Args:
            subscriber: who.
            name: the channel or the pattern; one that was not subscribed is no mistake.
            pattern: whether it is one.

        Returns:
            How many subscriptions the subscriber has now.

        Raises:
            StoreBusy: if the ring was busy; the subscription may have ended nevertheless.
        """
        subscriptions = self._subscriptions
        if subscriptions.has(subscriber, name, pattern=pattern):
            self._catch_up()
            self._delivery.settle(subscriber)
        # Asked anew: it may have been closed as too slow.
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

    def _close(self, subscriber: Subscriber) -> None:
        """Close a subscriber that is too slow."""
        self._counters[Column.SLOW_SUBSCRIBERS] += 1
        self.forget(subscriber)
        subscriber.abort()

    # -- publishing --------------------------------------------------------------------------------------

    def publish(self, channel: bytes, payload: bytes) -> int:
        """Send a message to all subscribers of all workers.

        Args:
            channel: where.
            payload: what.

        Returns:
            How many get it; one that gets it by several subscriptions counts as often, as in Redis.

        Raises:
            CannotPublish: if it is longer than the ring takes.
            StoreBusy: if the ring was busy; the message is not published.
        """
        self._bounds.check_message(channel, payload)
        self._catch_up()
        with self._ring.locked():
            # All that was confirmed before is known now, and stays so until the message has its place.
            self._read_all()
            count, rows = self._census.receivers(channel)
            if rows:
                self._ring.append(build_message(channel, payload), rows - {self._row})
                self._counters[Column.MESSAGES_PUBLISHED] += 1
        if self._row in rows:
            self._soon()
        return count

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

    def _take_due_turn(self) -> None:
        self._turn_due = False
        self._take_turn()

    def _take_turn(self) -> None:
        """Read on if not much waits to be sent, tell the others what has changed, and send a slice."""
        try:
            if not self._delivery.full:
                self._catch_up()
            self._herald.tell()
        except StoreBusy:
            self._counters[Column.LOCK_TIMEOUTS] += 1
            if self._loop is not None:
                self._loop.call_later(_AGAIN_SECONDS, self._soon)
        self._delivery.send()
        if self._delivery:
            self._soon()

    def _catch_up(self) -> None:
        """Read up to the head; who publishes more than can be sent sends some of it here.

        Raises:
            StoreBusy: if the lock was not free within the bound.
        """
        while self._cursor != self._ring.head:
            while self._delivery.full:
                self._delivery.send()
            with self._ring.locked():
                frames = self._read_some()
            self._take(frames)

    def _read_all(self) -> None:
        """Read what has come since ``_catch_up``, with the lock held."""
        while self._cursor != self._ring.head:
            self._take(self._read_some())

    def _read_some(self) -> list[bytes]:
        """Read some frames, with the lock held, and rest at the head."""
        try:
            frames, self._cursor = self._ring.read(self._cursor)
        except Overrun:
            self._overrun()
            return []
        if self._cursor == self._ring.head:
            self._ring.rest(self._row, waits=self._subscriptions.total > 0)
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
        """This worker stood still: nobody knows what its subscribers have missed, so they come again."""
        self._counters[Column.PUBSUB_OVERRUNS] += 1
        self._delivery.clear()
        for subscriber in self._subscriptions:
            self._close(subscriber)
        self._cursor = self._ring.head
        self._census.begin(self._others())
        self._herald.tell_all()
        self._turns_to_hello = _TURNS_TO_HELLO

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
                if any(self._ring.listens(row)):
                    with self._ring.locked():
                        # Its successor says hello with the lock held, and speaks for itself from then on.
                        if words[Column.STATE] == State.NONE:
                            self._ring.listen(row, keys=False, expired=False)

    def _hello(self) -> None:
        """Ask all others for their counts.

        Raises:
            StoreBusy: if the ring was busy; it is tried again in the next turn.
        """
        try:
            with self._ring.locked():
                self._read_all()
                self._census.begin(self._others())
                self._herald.hello()
        except StoreBusy:
            self._turns_to_hello = 1
            raise
