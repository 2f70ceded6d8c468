"""The engine: get, put and delete of one store, in Python that is written to be read.

It is the specification of the compiled engine, which does the same over the same arena, byte for byte, and
leaves to this one whatever is not ordinary. Both keep one order of stores, so that a change is visible,
whole, from one 8-byte store on, and a death between any two stores leaves what ``Guard.repair`` can count
anew:

    put     bytes of the record into unpublished space → head of its segment → the shard's version →
            slot word → counters: entries of the shard, or dead words of the old record's segment
    delete  slot word → entries of the shard → dead words of the record's segment

A put into an empty slot clears that slot's access count first. A reader takes slot word → copy of the record
→ key equal → slot word once more, and holds no lock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from fastkv.store.records import join_metadata, parse_record

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastkv.store.arena import Arena
    from fastkv.store.index import Index
    from fastkv.store.lock import RobustLock
    from fastkv.store.reading import Entry, Reader
    from fastkv.store.repair import Guard
    from fastkv.store.room import Room
    from fastkv.store.segments import Segments
    from fastkv.store.shard import Shard

    Clock: TypeAlias = Callable[[], int]


class Engine:
    """The operations on single keys.

    Attributes:
        arena: the arena that it works on.
        locks: the shards' locks, by number.
        pool_lock: the pool's.
    """

    __slots__ = (
        "_guard",
        "_index",
        "_reader",
        "_room",
        "_segments",
        "_shards",
        "arena",
        "locks",
        "pool_lock",
    )

    def __init__(
        self,
        arena: Arena,
        shards: list[Shard],
        segments: Segments,
        index: Index,
        guard: Guard,
        reader: Reader,
        room: Room,
    ) -> None:
        """Bind to a store.

        Args:
            arena: the arena.
            shards: its shards.
            segments: its pool.
            index: its index.
            guard: holds the locks of shards.
            reader: reads entries without a lock.
            room: makes segments free for a put that finds none.
        """
        self.arena = arena
        self.locks: list[RobustLock] = [shard.lock for shard in shards]
        self.pool_lock = segments.lock
        self._shards = shards
        self._segments = segments
        self._index = index
        self._guard = guard
        self._reader = reader
        self._room = room

    def get(self, key: bytes, clock: Clock) -> Entry | None:
        """Look a key up; an access to its entry is counted.

        Args:
            key: the key, of any length.
            clock: milliseconds now; called only if the entry has a deadline.

        Returns:
            The entry; None if there is none, or if its deadline has passed.

        Raises:
            StoreBusy: if a lock was needed and not free within the bound.
        """
        return self._reader.get(key, clock)

    def put(
        self,
        key: bytes,
        value: bytes,
        clock: Clock,
        flags: int = 0,
        deadline_ms: int = 0,
        metadata: bytes = b"",
    ) -> int:
        """Insert or replace an entry.

        Args:
            key: 1 to ``max_key_bytes``.
            value: up to ``max_value_bytes``.
            clock: milliseconds now; called only if segments have to be made free.
            flags: 0 to 255, the caller's own.
            deadline_ms: when the entry expires, on the caller's clock; 0: never.
            metadata: the caller's notes on the value, up to ``MAX_METADATA_BYTES``. They belong to the entry:
                whatever copies, moves or retimes it keeps them.

        Returns:
            The entry's version, larger than each that the key had before.

        Raises:
            ValueError: if the metadata is too long.
            KeyTooLong: if no arena with such segments takes such a key.
            ValueTooLong: if no arena of this size takes such a value.
            StoreFull: if no segments could be made free.
            StoreBusy: if a lock was not free within the bound.
        """
        self.arena.geometry.check_key(key)
        self.arena.geometry.check_value(value)
        content, record_flags = join_metadata(value, metadata, flags)
        key_hash = self.arena.hash_of(key)
        shard = self._shards[self.arena.shard_of(key_hash)]

        def attempt() -> tuple[int, int]:
            with self._guard.holding(shard):
                version = shard.put(key_hash, key, content, record_flags, deadline_ms)
            return version, 0 if version else shard.segments_for(len(key), len(content))

        version, segments = attempt()
        return self._room.until(segments, attempt, clock) if segments else version

    def delete(self, key: bytes, clock: Clock) -> bool:
        """Remove an entry. One whose deadline has passed is removed, too, and counts as expired.

        Args:
            key: the key.
            clock: milliseconds now; called only if the entry has a deadline.

        Returns:
            True if it was there and its deadline had not passed.

        Raises:
            StoreBusy: if a lock was not free within the bound.
        """
        key_hash = self.arena.hash_of(key)
        shard = self._shards[self.arena.shard_of(key_hash)]
        with self._guard.holding(shard):
            slot, word = self._index.locate(key_hash, key)
            if not slot:
                return False
            deadline_ms = parse_record(self.arena.mem, self.arena.location_of(word) << 3)[4]
            if deadline_ms and deadline_ms <= clock():
                shard.expire(slot, word, key)
                return False
            shard.drop(slot, word)
            return True

    def recover(self, shard_number: int) -> None:
        """Repair a shard whose lock's owner died, make the lock consistent, and release it.

        The process ends, with the lock held, if the shard cannot be repaired.

        Args:
            shard_number: of a shard whose lock the caller has just taken with EOWNERDEAD.
        """
        shard = self._shards[shard_number]
        self._guard.after_death(shard)
        shard.lock.release()

    def recover_pool(self) -> None:
        """Rebuild the pool's free list, make its lock consistent, and release it.

        The caller has just taken that lock with EOWNERDEAD.
        """
        self._segments.recover()
