"""What a worker tells the others of its subscribers, by the ring.

In: names whose counts have changed here. Out: frames that say so, and the word of those who listen to keys.
All methods want the ring's lock held, where they do not say otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastkv.pubsub.subscriptions import may_be_about_expired, may_be_about_keys
from fastkv.pubsub.wire import build_counts, build_hello

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fastkv.pubsub.ring import Ring
    from fastkv.pubsub.subscriptions import Subscriptions


class Herald:
    """Tells the counts of one worker.

    Attributes:
        asked: somebody wants to know all of them.
    """

    __slots__ = ("_ring", "_row", "_subscriptions", "_untold", "asked")

    def __init__(self, ring: Ring, row: int, subscriptions: Subscriptions) -> None:
        """Begin with nothing to tell.

        Args:
            ring: the ring.
            row: this worker's.
            subscriptions: what is told of.
        """
        self._ring = ring
        self._row = row
        self._subscriptions = subscriptions
        self._untold: set[tuple[bool, bytes]] = set()
        self.asked = False

    def changed(self, name: bytes, *, pattern: bool) -> None:
        """Note that the others are to be told how many want a name; needs no lock."""
        self._untold.add((pattern, name))

    def announce(self, name: bytes, *, pattern: bool) -> None:
        """Tell of a subscription that is about to be: one more than there are.

        Args:
            name: the channel or the pattern.
            pattern: whether it is one.
        """
        keys, expired = self._ring.listens(self._row)
        self._listen(
            keys=keys or may_be_about_keys(name, pattern=pattern),
            expired=expired or may_be_about_expired(name, pattern=pattern),
        )
        count = self._subscriptions.count(name, pattern=pattern) + 1
        self._append(build_counts(self._row, [(pattern, name, count)]))
        self._untold.discard((pattern, name))

    def tell(self) -> None:
        """Tell what has changed, or everything if somebody has asked; takes the lock.

        Raises:
            StoreBusy: if the ring was busy; nothing was told.
        """
        if not (self.asked or self._untold):
            return
        with self._ring.locked():
            if self.asked:
                self.tell_all()
                self.asked = False
                return
            subscriptions = self._subscriptions
            changed = [(p, name, subscriptions.count(name, pattern=p)) for p, name in self._untold]
            self._append(build_counts(self._row, changed))
            self._untold.clear()
            self._listen_to_own()
            if not subscriptions.total:
                self._ring.need(self._row, None)

    def tell_all(self) -> None:
        """Tell all counts."""
        self._append(build_counts(self._row, self._subscriptions.counts(), complete=True))
        self._untold.clear()
        self._listen_to_own()

    def hello(self) -> None:
        """Ask all others for their counts, and tell one's own."""
        self._ring.append(build_hello(self._row), None)
        self.tell_all()

    def _listen_to_own(self) -> None:
        """Say what this worker's subscriptions listen to."""
        subscriptions = self._subscriptions
        self._listen(keys=subscriptions.about_keys > 0, expired=subscriptions.about_expired > 0)

    def _listen(self, *, keys: bool, expired: bool) -> None:
        if self._ring.listens(self._row) != (keys, expired):
            self._ring.listen(self._row, keys=keys, expired=expired)

    def _append(self, frames: Iterable[bytes]) -> None:
        """Append what nobody is woken for: who publishes reads it before that."""
        for frame in frames:
            self._ring.append(frame, ())
