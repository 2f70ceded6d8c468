"""Who of a worker's subscribers wants what.

In: subscribers that want a channel or a pattern, or no longer. Out: who gets a message, what a subscriber
wants, how many want a name. Nothing is raised.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fastkv.glob import Glob

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fastkv.pubsub.messages import Subscriber
    from fastkv.pubsub.wire import Count

KEYSPACE: Final = b"__keyspace@0__:"
"""What the channels begin with that tell what happens to a key."""
KEYEVENT: Final = b"__keyevent@0__:"
"""What the channels begin with that tell to which keys something happens."""
_EXPIRED_CHANNEL: Final = KEYEVENT + b"expired"


class _Table:
    """The subscribers of channels, or of patterns, by name."""

    __slots__ = ("_tuples", "by_name")

    def __init__(self) -> None:
        self.by_name: dict[bytes, dict[Subscriber, None]] = {}
        self._tuples: dict[bytes, tuple[Subscriber, ...]] = {}

    def add(self, name: bytes, subscriber: Subscriber) -> bool:
        """Returns whether it is the first."""
        subscribers = self.by_name.setdefault(name, {})
        subscribers[subscriber] = None
        self._tuples.pop(name, None)
        return len(subscribers) == 1

    def remove(self, name: bytes, subscriber: Subscriber) -> bool:
        """Returns whether it was the last."""
        remaining = self.by_name[name]
        del remaining[subscriber]
        self._tuples.pop(name, None)
        if not remaining:
            del self.by_name[name]
        return not remaining

    def of(self, name: bytes) -> tuple[Subscriber, ...]:
        """Those of a name at this moment; made once for all messages until it changes."""
        found = self._tuples.get(name)
        if found is None:
            found = self._tuples[name] = tuple(self.by_name[name])
        return found


class Subscriptions:
    """The subscriptions of a worker.

    Attributes:
        total: how many there are.
        name_bytes: how long the names are together, each counted once.
        about_keys: how many of them may bring events of keys.
        about_expired: how many of these may bring `expired` events.
    """

    __slots__ = (
        "_channels",
        "_fits",
        "_patterns",
        "_wants",
        "about_expired",
        "about_keys",
        "name_bytes",
        "total",
    )

    def __init__(self) -> None:
        # What each wants: channels, patterns.
        self._wants: dict[Subscriber, tuple[dict[bytes, None], dict[bytes, None]]] = {}
        self._channels = _Table()
        self._patterns = _Table()
        self._fits: dict[bytes, Callable[[bytes], bool]] = {}
        self.total = 0
        self.name_bytes = 0
        self.about_keys = 0
        self.about_expired = 0

    def __contains__(self, subscriber: Subscriber) -> bool:
        return subscriber in self._wants

    def __iter__(self) -> Iterator[Subscriber]:
        return iter(tuple(self._wants))

    def has(self, subscriber: Subscriber, name: bytes, *, pattern: bool) -> bool:
        """Whether a subscriber wants a channel or a pattern."""
        return name in self._wants.get(subscriber, ((), ()))[pattern]

    def names(self, subscriber: Subscriber, *, pattern: bool) -> list[bytes]:
        """The channels or the patterns that a subscriber wants, the oldest first."""
        return list(self._wants.get(subscriber, ((), ()))[pattern])

    def wanted_by(self, subscriber: Subscriber) -> int:
        """How many subscriptions a subscriber has."""
        channels, patterns = self._wants.get(subscriber, ((), ()))
        return len(channels) + len(patterns)

    def count(self, name: bytes, *, pattern: bool) -> int:
        """How many want a channel or a pattern by its name."""
        return len(self._table(pattern).by_name.get(name, ()))

    def counts(self) -> Iterator[Count]:
        """How many want each name."""
        for pattern in (False, True):
            for name, subscribers in self._table(pattern).by_name.items():
                yield pattern, name, len(subscribers)

    def add(self, subscriber: Subscriber, name: bytes, *, pattern: bool) -> None:
        """Note a subscription that there was not."""
        self._wants.setdefault(subscriber, ({}, {}))[pattern][name] = None
        if self._table(pattern).add(name, subscriber):
            self.name_bytes += len(name)
            if pattern:
                self._fits[name] = Glob(name).matches
        self.total += 1
        self.about_keys += may_be_about_keys(name, pattern=pattern)
        self.about_expired += may_be_about_expired(name, pattern=pattern)

    def remove(self, subscriber: Subscriber, name: bytes, *, pattern: bool) -> None:
        """Note the end of a subscription that there was."""
        wants = self._wants[subscriber]
        del wants[pattern][name]
        if not any(wants):
            del self._wants[subscriber]
        if self._table(pattern).remove(name, subscriber):
            self.name_bytes -= len(name)
            if pattern:
                del self._fits[name]
        self.total -= 1
        self.about_keys -= may_be_about_keys(name, pattern=pattern)
        self.about_expired -= may_be_about_expired(name, pattern=pattern)

    def targets(self, channel: bytes) -> Iterator[tuple[bytes | None, tuple[Subscriber, ...]]]:
        """Who gets a message.

        Args:
            channel: where it was published.

        Yields:
            The subscribers of the channel, with None; then those of each pattern that it fits, with that.
        """
        if channel in self._channels.by_name:
            yield None, self._channels.of(channel)
        for pattern, fits in self._fits.items():
            if fits(channel):
                yield pattern, self._patterns.of(pattern)

    def _table(self, pattern: bool) -> _Table:
        return self._patterns if pattern else self._channels


def may_be_about_keys(name: bytes, *, pattern: bool) -> bool:
    """Whether a channel carries events of keys, or a pattern may match one that does.

    Args:
        name: the channel or the pattern.
        pattern: whether it is one.
    """
    return _may_begin_with(KEYSPACE, name, pattern=pattern) or _may_begin_with(
        KEYEVENT, name, pattern=pattern
    )


def may_be_about_expired(name: bytes, *, pattern: bool) -> bool:
    """Whether `expired` events may come by a channel, as by that of a key, or by a pattern.

    Args:
        name: the channel or the pattern.
        pattern: whether it is one.
    """
    if _may_begin_with(KEYSPACE, name, pattern=pattern):
        return True
    return Glob(name).matches(_EXPIRED_CHANNEL) if pattern else name == _EXPIRED_CHANNEL


def _may_begin_with(beginning: bytes, name: bytes, *, pattern: bool) -> bool:
    """Whether a channel begins with something, or a pattern may match one that does."""
    if not pattern:
        return name.startswith(beginning)
    glob = Glob(name)
    if glob.is_literal:
        return glob.prefix.startswith(beginning)
    return glob.prefix.startswith(beginning) or beginning.startswith(glob.prefix)
