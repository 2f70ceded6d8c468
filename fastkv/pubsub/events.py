"""What happens to keys, told on channels as Redis tells it.

In: the name of an event and a key, after it has happened. Out: the event on ``__keyspace@0__:<key>``, the key
on ``__keyevent@0__:<event>``. As long as nobody listens this is a look at one word, which callers that are in
a hurry take themselves. Nothing is raised.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fastkv.errors import StoreBusy
from fastkv.pubsub.bounds import CannotPublish
from fastkv.pubsub.subscriptions import KEYEVENT, KEYSPACE
from fastkv.stats import Column

if TYPE_CHECKING:
    from fastkv.pubsub.hub import Hub
    from fastkv.store.removals import Removals

NOBODY: Final = memoryview(bytes(8)).cast("Q")
"""The word of those who listen, where there are none."""

# The letters of Redis' classes, by event; all others are generic.
_CLASSES: Final = {
    b"set": "$",
    b"setrange": "$",
    b"setbit": "$",
    b"append": "$",
    b"incrby": "$",
    b"incrbyfloat": "$",
    b"expired": "x",
    b"evicted": "e",
}
_GENERIC: Final = "g"


class Events:
    """Tells what happens to keys.

    Attributes:
        wanted: a view of one word; 0 as long as nobody listens.
    """

    __slots__ = ("_classes", "_counters", "_hub", "_on_event", "_on_key", "_removals", "wanted")

    def __init__(
        self,
        hub: Hub | None,
        removals: Removals,
        letters: str,
        counters: memoryview[int],
    ) -> None:
        """Begin.

        Args:
            hub: passes messages on; None where nothing is told.
            removals: the store's; learns what is wanted from the ring's words.
            letters: which events are told, and on which channels, as ``keyspace_events`` has it.
            counters: this worker's row of the board.
        """
        self._hub = hub
        self._removals = removals
        self._counters = counters
        self._on_key = "K" in letters
        self._on_event = "E" in letters
        self._classes = frozenset("g$xe" if "A" in letters else letters)
        self.wanted = removals.wanted = hub.listening if hub and letters else NOBODY
        removals.expired_wanted = hub.listening_expired if hub and "x" in self._classes else NOBODY

    def notify(self, event: bytes, key: bytes) -> None:
        """Tell what happened to a key, if anybody listens.

        Args:
            event: its name, as Redis has it.
            key: the key.
        """
        if self.wanted[0]:
            # What had to go for it went before it.
            self.tell_removals()
            self._tell(event, key)

    def tell_removals(self) -> None:
        """Tell which entries have expired or were evicted in this process; to be called after each chance."""
        if not self._removals.noted:
            return
        noted, lost = self._removals.take()
        self._counters[Column.EVENTS_LOST] += lost
        for event, key in noted:
            self._tell(event, key)

    def _tell(self, event: bytes, key: bytes) -> None:
        hub = self._hub
        if hub is None or _CLASSES.get(event, _GENERIC) not in self._classes:
            return
        try:
            if self._on_key:
                hub.post(KEYSPACE + key, event)
            if self._on_event:
                hub.post(KEYEVENT + event, key)
        except (StoreBusy, CannotPublish):
            self._counters[Column.EVENTS_LOST] += 1
