"""Reading an entry and changing it, with nobody in between.

In: a key and a function that says what becomes of its entry. Out: what was there, and the version that is
there now. Whoever finds no room lets go of the shard, makes room and begins again, because meanwhile the
entry may be another one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final, TypeAlias

from fastkv.store.reading import Entry, Reader
from fastkv.store.records import join_metadata

if TYPE_CHECKING:
    from fastkv.store.arena import Arena
    from fastkv.store.repair import Guard
    from fastkv.store.room import Room
    from fastkv.store.shard import Shard


class Verdict(Enum):
    """What becomes of an entry that is not written."""

    LEAVE = "leave"
    """It stays as it is, and what is not there stays away."""
    DELETE = "delete"
    """It goes."""


LEAVE: Final = Verdict.LEAVE
DELETE: Final = Verdict.DELETE


@dataclass(frozen=True, slots=True)
class Retime:
    """An entry gets another deadline; all else stays, its version included. What is not there stays away.

    Attributes:
        deadline_ms: when it is gone, 0: never.
    """

    deadline_ms: int


Change: TypeAlias = tuple[bytes, int, int, bytes] | Retime | Verdict
"""What becomes of an entry: a value, the caller's flags, a deadline in ms (0 for none) and the caller's
metadata (empty for none), as for ``Store.put``; or a deadline alone; or a verdict."""

Decide: TypeAlias = Callable[[Entry | None], Change]
"""From what is there to what becomes of it; see ``Updater.update``."""


def new_value(entry: Entry | None, value: bytes) -> Change:
    """What becomes of an entry whose value is changed in place: its deadline and its metadata stay.

    Args:
        entry: the entry; None if there is none yet.
        value: its new value.
    """
    return (value, 0, entry[3], entry[6]) if entry else (value, 0, 0, b"")


class Updater:
    """Changes entries by what they are."""

    __slots__ = ("_arena", "_guard", "_reader", "_room", "_shards")

    def __init__(self, arena: Arena, shards: list[Shard], reader: Reader, room: Room, guard: Guard) -> None:
        """Bind to a store.

        Args:
            arena: the arena.
            shards: its shards.
            reader: reads entries.
            room: makes room.
            guard: repairs a shard.
        """
        self._arena = arena
        self._shards = shards
        self._reader = reader
        self._room = room
        self._guard = guard

    def update(
        self, key: bytes, decide: Decide, clock: Callable[[], int], *, with_value: bool = True
    ) -> tuple[Entry | None, int]:
        """Read an entry and change it, with nobody in between.

        Args:
            key: 1 to ``max_key_bytes``.
            decide: is given the entry, or None if there is none or its deadline has passed, and says what
                becomes of it. It runs under the shard's lock, so it must be quick and may not use the store.
                It is asked again if room had to be made meanwhile; what it said last counts. If it raises,
                nothing is changed and the exception passes.
            clock: milliseconds now; called only if the entry has a deadline or room has to be made.
            with_value: False if neither ``decide`` nor the caller looks at the value, which may be large: the
                entry's is empty then.

        Returns:
            The entry that ``decide`` was given, and the version that is there now: if a value was put a new
            one, larger than each that the key had before; the same if it was left or retimed; 0 if there is
            no entry.

        Raises:
            ValueError: if the metadata is too long.
            KeyTooLong: if no arena with such segments takes such a key.
            ValueTooLong: if no arena of this size takes such a value.
            StoreFull: if no room could be made.
            StoreBusy: if a lock was not free within the bound.
        """
        self._arena.geometry.check_key(key)
        key_hash = self._arena.hash_of(key)
        shard = self._shards[self._arena.shard_of(key_hash)]

        def attempt() -> tuple[tuple[Entry | None, int], int]:
            return self._try(shard, key_hash, key, decide, clock, with_value=with_value)

        done, segments = attempt()
        return self._room.until(segments, attempt, clock) if segments else done

    def _try(
        self,
        shard: Shard,
        key_hash: int,
        key: bytes,
        decide: Decide,
        clock: Callable[[], int],
        *,
        with_value: bool,
    ) -> tuple[tuple[Entry | None, int], int]:
        """Update if there is room.

        Returns:
            What ``update`` returns, and 0; or how many segments have to be free first: then the entry is as
            it was.
        """
        lock = shard.lock
        if lock.acquire():
            self._guard.after_death(shard)
        deciding = False
        try:
            before = self._reader.read(key_hash, key, with_value=with_value)
            if before and before[3] and before[3] <= clock():
                shard.expire(before[4], before[5], key)
                before = None
            deciding = True
            change = decide(before)
            if isinstance(change, tuple):
                value, flags, deadline_ms, metadata = change
                self._arena.geometry.check_value(value)
                content, flags = join_metadata(value, metadata, flags)
            deciding = False
            version = segments = 0
            if isinstance(change, tuple):
                if before:  # its slot is known
                    version = shard.write(before[4], before[5], key_hash, key, content, flags, deadline_ms)
                else:
                    version = shard.put(key_hash, key, content, flags, deadline_ms)
                segments = 0 if version else shard.segments_for(len(key), len(content))
            elif before and change is DELETE:
                shard.drop(before[4], before[5])
            elif before:
                version = before[2]
                if isinstance(change, Retime):
                    segments = 0 if shard.retime(before[4], before[5], change.deadline_ms) else 1
        except BaseException:
            if deciding:  # nothing was begun, so there is nothing to repair
                lock.release()
            else:
                self._guard.after_failure(shard)
            raise
        lock.release()
        return (before, version), segments
