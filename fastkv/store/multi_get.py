"""Looking several keys up as they were at one moment.

What was found counts as found at every moment from its slot's reading until the slot is looked at again and
still holds the word. So all entries are read first and their slots are looked at again afterwards, without
a lock.
A missing key has no slot to look at, and a count of its shard's writes would not do: it changes before the
entry is seen or after, and a writer may stand still between both. So the shards of missing keys are locked
for a moment and the keys are looked up again; while they stay missing, the slots of the others are looked at.
If one of those has changed, all shards are locked and all keys are read once more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastkv.store.layout import UNVERIFIED

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fastkv.store.arena import Arena
    from fastkv.store.reading import Entry, Reader
    from fastkv.store.repair import Guard
    from fastkv.store.shard import Shard


class MultiGet:
    """Looks several keys up at once."""

    __slots__ = ("_arena", "_guard", "_locks", "_reader", "_shards")

    def __init__(
        self, arena: Arena, shards: list[Shard], reader: Reader, guard: Guard, *, locks: bool
    ) -> None:
        """Bind to a store.

        Args:
            arena: the arena.
            shards: its shards.
            reader: reads entries.
            guard: holds the locks of shards.
            locks: whether to lock at once, because looks may be seen out of their order.
        """
        self._arena = arena
        self._shards = shards
        self._reader = reader
        self._guard = guard
        self._locks = locks

    def get_many(self, keys: Sequence[bytes], clock: Callable[[], int]) -> list[Entry | None]:
        """Look several keys up, as they were at one moment; accesses are counted as by ``get``.

        Args:
            keys: the keys.
            clock: milliseconds now; called only if an entry has a deadline, and then once or twice for all.

        Returns:
            An entry or None for each, in order.

        Raises:
            StoreBusy: if a lock was needed and not free within the bound.
            StoreError: if that were more locks than one process may hold.
        """
        entries = None if self._locks else self._undisturbed(list(keys), Instant(clock))
        if entries is not None:
            return entries
        now = Instant(clock)
        hashes = [self._arena.hash_of(key) for key in keys]
        with self._guard.holding_all(map(self._arena.shard_of, hashes), self._shards):
            found = [
                living(self._reader.read(key_hash, key), now)
                for key_hash, key in zip(hashes, keys, strict=True)
            ]
            for entry in filter(None, found):
                self._arena.count_access(entry[4])
            return found

    def get_values(self, keys: Sequence[bytes], clock: Callable[[], int]) -> list[bytes | None]:
        """Look the values of several keys up; otherwise as ``get_many``."""
        return [entry and entry[0] for entry in self.get_many(keys, clock)]

    def count_many(self, keys: Sequence[bytes], clock: Callable[[], int]) -> int:
        """Count those of several keys that have an entry at one moment; otherwise as ``get_many``.

        Args:
            keys: the keys; one that is named twice counts twice.
            clock: milliseconds now.
        """
        return sum(entry is not None for entry in self.get_many(keys, clock))

    def _undisturbed(self, keys: list[bytes], now: Instant) -> list[Entry | None] | None:
        """``get_many`` without a lock for what is there; None if something changed meanwhile."""
        entries = [self._reader.get(key, now) for key in keys]
        missing: dict[bytes, int] = {}
        unverified: set[int] = set()
        for key, entry in zip(keys, entries, strict=True):
            if entry is None or not entry[4]:
                key_hash = self._arena.hash_of(key)
                shard = self._arena.shard_of(key_hash)
                # Until a shard is verified no process writes to it, so hits and misses stay what they were.
                if self._arena.sequence_of(shard) == UNVERIFIED:
                    unverified.add(shard)
                elif entry:
                    return None
                else:
                    missing[key] = key_hash
        if not missing:
            return entries if self._hold(entries, unverified) else None
        with self._guard.holding_all(map(self._arena.shard_of, missing.values()), self._shards):
            if any(living(self._reader.read(missing[key], key, with_value=False), now) for key in missing):
                return None
            return entries if self._hold(entries, unverified) else None

    def _hold(self, entries: list[Entry | None], unverified: set[int]) -> bool:
        """Return whether all slots still hold the words of their entries, and no shard was verified."""
        words = self._arena.words
        return all(entry is None or not entry[4] or words[entry[4]] == entry[5] for entry in entries) and all(
            self._arena.sequence_of(shard) == UNVERIFIED for shard in unverified
        )


class Instant:
    """A clock that is read once, when it is first asked: what is seen at one moment expires by one time."""

    __slots__ = ("_clock", "_now_ms")

    def __init__(self, clock: Callable[[], int]) -> None:
        """Read nothing yet.

        Args:
            clock: milliseconds now.
        """
        self._clock = clock
        self._now_ms: int | None = None

    def __call__(self) -> int:
        """Milliseconds when it was first asked."""
        if self._now_ms is None:
            self._now_ms = self._clock()
        return self._now_ms


def living(entry: Entry | None, clock: Callable[[], int]) -> Entry | None:
    """An entry unless its deadline has passed.

    Args:
        entry: the entry.
        clock: milliseconds now; called only if it has a deadline.

    Returns:
        The entry, None if there is none.
    """
    return None if entry and 0 < entry[3] <= clock() else entry
