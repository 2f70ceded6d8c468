"""Putting an entry as it was in another arena: with its version, its access count, and in its queue.

In: what ``walk`` has read. Out: the entry, or an error, before which nothing has changed. Room is made for it
as for any other write.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastkv.store.layout import count_at
from fastkv.store.records import parse_record

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastkv.store.arena import Arena
    from fastkv.store.index import Index
    from fastkv.store.repair import Guard
    from fastkv.store.room import Room
    from fastkv.store.shard import Shard
    from fastkv.store.walk import Walked


class Restorer:
    """Puts entries of another arena."""

    __slots__ = ("_arena", "_guard", "_index", "_room", "_shards")

    def __init__(self, arena: Arena, shards: list[Shard], index: Index, room: Room, guard: Guard) -> None:
        """Bind to a store.

        Args:
            arena: the arena.
            shards: its shards.
            index: its index.
            room: makes room.
            guard: holds a shard's lock.
        """
        self._arena = arena
        self._shards = shards
        self._index = index
        self._room = room
        self._guard = guard

    def restore(self, entry: Walked, clock: Callable[[], int]) -> None:
        """Put an entry as it was, unless its key has a newer one.

        Args:
            entry: the entry; its deadline is on the same clock as those of this arena.
            clock: milliseconds now; called only if room has to be made.

        Raises:
            KeyTooLong, ValueTooLong: if no arena of these measures takes it.
            StoreFull: if no room could be made.
            StoreBusy: if a lock was not free within the bound.
        """
        self._arena.geometry.check_key(entry.key)
        self._arena.geometry.check_value(entry.value)
        key_hash = self._arena.hash_of(entry.key)
        shard = self._shards[self._arena.shard_of(key_hash)]
        _, segments = self._try(shard, key_hash, entry)
        if segments:
            self._room.until(segments, lambda: self._try(shard, key_hash, entry), clock)

    def _try(self, shard: Shard, key_hash: int, entry: Walked) -> tuple[None, int]:
        """``restore`` if there is room.

        Returns:
            None and 0; or None and how many segments have to be free first, and then nothing has changed.
        """
        with self._guard.holding(shard):
            slot, old = self._index.locate(key_hash, entry.key)
            if old and self._version_of(old) >= entry.version:
                return None, 0
            slot = slot or shard.vacancy(key_hash)
            if not slot or not shard.restore(slot, old, key_hash, entry):
                content_len = len(entry.value) + len(entry.metadata) + 1
                return None, shard.segments_for(len(entry.key), content_len)
            self._arena.counts[count_at(slot)] = entry.accesses
        return None, 0

    def _version_of(self, word: int) -> int:
        return parse_record(self._arena.mem, self._arena.location_of(word) << 3)[3]
