"""What may be subscribed and published: the settings' bounds, each refusal counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fastkv.errors import FastKVError
from fastkv.pubsub.subscriptions import KEYSPACE
from fastkv.pubsub.wire import MESSAGE_HEAD_BYTES
from fastkv.stats import Column

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastkv.pubsub.subscriptions import Subscriptions
    from fastkv.settings import Settings

# All names of a worker, told at once, take an eighth of the ring: half of the longest frame.
_NAMES_SHARE: Final = 2


class CannotSubscribe(FastKVError):
    """A subscription is one too many, or its name is too long."""


class CannotPublish(FastKVError):
    """A message is longer than the ring takes, or its channel's name too long."""


class Bounds:
    """The bounds of one worker."""

    __slots__ = (
        "_counters",
        "_most_bytes",
        "_most_channel_bytes",
        "_most_each",
        "_most_name_bytes",
        "_most_together",
    )

    def __init__(self, settings: Settings, most_bytes: int, counters: memoryview[int]) -> None:
        """Take the bounds.

        Args:
            settings: where they stand.
            most_bytes: the longest frame of the ring.
            counters: this worker's row of the board.
        """
        self._most_name_bytes = settings.max_channel_bytes
        # What a key's event is told on may be longer.
        self._most_channel_bytes = max(self._most_name_bytes, len(KEYSPACE) + settings.max_key_bytes)
        self._most_each = settings.max_subscriptions
        self._most_together = settings.max_worker_subscriptions
        self._most_bytes = most_bytes
        self._counters = counters

    def check_names(self, names: Sequence[bytes], has: int, subscriptions: Subscriptions) -> None:
        """Find out whether a connection may subscribe to some names.

        Args:
            names: of channels and patterns, at least one.
            has: how many subscriptions it has.
            subscriptions: those of the worker.

        Raises:
            CannotSubscribe: if not.
        """
        problem = ""
        longest = max(map(len, names))
        if longest > self._most_name_bytes:
            problem = f"a name of {longest} bytes; at most {self._most_name_bytes} are allowed"
        elif has + len(names) > self._most_each:
            problem = f"a connection may have {self._most_each} subscriptions"
        elif subscriptions.total + len(names) > self._most_together:
            problem = f"a worker may have {self._most_together} subscriptions, and has them"
        elif subscriptions.name_bytes + sum(map(len, names)) > self._most_bytes // _NAMES_SHARE:
            problem = "all names together are too long for --pubsub-memory"
        if problem:
            self._counters[Column.SUBSCRIPTIONS_REFUSED] += 1
            raise CannotSubscribe(problem)

    def check_message(self, channel: bytes, payload: bytes) -> None:
        """Find out whether a message may be published.

        Args:
            channel: where.
            payload: what.

        Raises:
            CannotPublish: if it is longer than the ring takes, or the channel's name is too long.
        """
        # Every pattern is matched with it: one of 1 kb with a name of 4 mb would take 12 s.
        if len(channel) > self._most_channel_bytes:
            self._counters[Column.MESSAGES_REFUSED] += 1
            raise CannotPublish(
                f"the channel has {len(channel)} bytes; at most {self._most_channel_bytes} are allowed"
            )
        most = self._most_bytes - MESSAGE_HEAD_BYTES
        if len(channel) + len(payload) > most:
            self._counters[Column.MESSAGES_REFUSED] += 1
            raise CannotPublish(f"channel and message may have {most} bytes together")
