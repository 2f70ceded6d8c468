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

from xxhash import xxh3_64_intdigest

from fastkv.errors import KeyTooLong, ValueTooLong
from fastkv.store.layout import SH_EXPIRED, TAG_BITS, Arena
from fastkv.store.reading import Entry, Reader
from fastkv.store.records import join_metadata
from fastkv.store.removals import EXPIRED

if TYPE_CHECKING:
    from fastkv.store.repair import Guard
    from fastkv.store.room import Room
    from fastkv.store.shard import Shard
    from fastkv.store.short_writes import Write


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


def always(change: Change) -> Decide:
    """A decision that does not depend on what is there."""
    return lambda _: change


class Updater:
    """Changes entries by what they are.

    Attributes:
        max_key_bytes: the longest key.
        max_value_bytes: the longest value.
    """

    __slots__ = (
        "_guard",
        "_low_mask",
        "_reader",
        "_removals",
        "_room",
        "_seed",
        "_shards",
        "_words",
        "_write",
        "max_key_bytes",
        "max_value_bytes",
    )

    def __init__(
        self,
        arena: Arena,
        shards: list[Shard],
        reader: Reader,
        room: Room,
        seed: int,
        guard: Guard,
        write: Write,
    ) -> None:
        """Bind to a store.

        Args:
            arena: the arena.
            shards: its shards.
            reader: reads entries.
            room: makes room.
            seed: seed of the keys' hashes.
            guard: repairs a shard.
            write: that of ``short_write``.
        """
        self._write = write
        geometry = arena.geometry
        self.max_key_bytes = geometry.longest_key
        self.max_value_bytes = geometry.longest_value
        self._words = arena.words
        self._low_mask = (geometry.shards << TAG_BITS) - 1
        self._shards = shards
        self._reader = reader
        self._removals = arena.removals
        self._room = room
        self._seed = seed
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
        if len(key) > self.max_key_bytes:
            raise self.key_too_long(key)
        key_hash = xxh3_64_intdigest(key, self._seed)
        shard = self._shards[(key_hash & self._low_mask) >> TAG_BITS]
        done, segments = self._try(shard, key_hash, key, decide, clock, with_value=with_value)
        if segments:
            return self.with_room(segments, shard, key_hash, key, decide, clock, with_value=with_value)
        return done

    def put(
        self,
        key: bytes,
        value: bytes,
        clock: Callable[[], int],
        flags: int,
        deadline_ms: int,
        metadata: bytes,
    ) -> int:
        """Insert or replace an entry, whatever it is; the readable twin of ``short_put``.

        Args:
            key: the key.
            value: its value.
            clock: milliseconds now; called only if room has to be made.
            flags: the caller's.
            deadline_ms: 0: never.
            metadata: the caller's.

        Returns:
            The entry's version.

        Raises:
            ValueError, KeyTooLong, ValueTooLong, StoreFull, StoreBusy: as for ``update``.
        """
        if len(key) > self.max_key_bytes:
            raise self.key_too_long(key)
        if len(value) > self.max_value_bytes:
            raise self.value_too_long(value)
        key_hash = xxh3_64_intdigest(key, self._seed)
        shard = self._shards[(key_hash & self._low_mask) >> TAG_BITS]
        content, record_flags = join_metadata(value, metadata, flags)
        with self._guard.holding(shard):
            version = shard.put(key_hash, key, content, record_flags, deadline_ms)
        return version or self.put_with_room(shard, key_hash, key, value, clock, flags, deadline_ms, metadata)

    def put_with_room(
        self,
        shard: Shard,
        key_hash: int,
        key: bytes,
        value: bytes,
        clock: Callable[[], int],
        flags: int,
        deadline_ms: int,
        metadata: bytes = b"",
    ) -> int:
        """``put`` where room has to be made first; arguments and all else as there."""
        segments = shard.segments_for(len(key), len(value) + len(metadata))
        decide = always((value, flags, deadline_ms, metadata))
        return self.with_room(segments, shard, key_hash, key, decide, clock, with_value=False)[1]

    def with_room(
        self,
        segments: int,
        shard: Shard,
        key_hash: int,
        key: bytes,
        decide: Decide,
        clock: Callable[[], int],
        *,
        with_value: bool,
    ) -> tuple[Entry | None, int]:
        """Make room and update, until nobody else has taken the room that was made.

        Args:
            segments: how many have to be free.
            shard: the key's.
            key_hash: its hash.
            key: the key.
            decide: as for ``update``; so are the other two.
            clock: milliseconds now.
            with_value: whether anybody looks at the value.

        Returns:
            As for ``update``.

        Raises:
            ValueTooLong, StoreFull, StoreBusy: as for ``update``.
        """
        return self._room.until(
            segments,
            lambda: self._try(shard, key_hash, key, decide, clock, with_value=with_value),
            clock,
        )

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
        code = lock.attempt()
        if code and lock.wait(code):
            self._guard.after_death(shard)
        deciding = False
        try:
            before = self._reader.read(key_hash, key, with_value=with_value)
            if before and before[3] and before[3] <= clock():
                shard.drop(before[4], before[5])
                self._words[shard.header + SH_EXPIRED] += 1
                if self._removals.wanted[0]:
                    self._removals.note(EXPIRED, key)
                before = None
            deciding = True
            change = decide(before)
            if isinstance(change, tuple) and len(change[0]) > self.max_value_bytes:
                raise self.value_too_long(change[0])
            if isinstance(change, tuple):
                value, flags, deadline_ms, metadata = change
                content, flags = join_metadata(value, metadata, flags)
            deciding = False
            version = segments = 0
            if isinstance(change, tuple):
                if before:  # its slot is known
                    version = self._write(
                        shard, before[4], before[5], 0, key_hash, key, content, flags, deadline_ms
                    )
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

    def key_too_long(self, key: bytes) -> KeyTooLong:
        """What is raised for a key that does not fit."""
        return KeyTooLong(f"The key has {len(key)} bytes; the store takes {self.max_key_bytes}.")

    def value_too_long(self, value: bytes) -> ValueTooLong:
        """What is raised for a value that does not fit."""
        return ValueTooLong(f"The value has {len(value)} bytes; the store takes {self.max_value_bytes}.")
