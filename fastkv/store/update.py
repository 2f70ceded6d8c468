"""Reading an entry and changing it, with nobody in between; and writing where room has to be made first.

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

from fastkv.errors import KeyTooLong, StoreBusy, StoreFull, ValueTooLong
from fastkv.store.layout import SH_EXPIRED, TAG_BITS, Arena
from fastkv.store.reading import Entry, Reader

if TYPE_CHECKING:
    from fastkv.store.eviction import Eviction
    from fastkv.store.repair import Guard
    from fastkv.store.segments import Segments
    from fastkv.store.shard import Shard

# A writer whose room was taken by others again and again gives up: 512 MiB are 8,192 segments, half of this.
_TRIES: Final = 4096
_STEPS: Final = 4
# After so many looks in vain nobody is kept for having been read: a writer does not wait for much longer than
# 5 ms, even where everything was read.
_MERCIFUL_LOOKS: Final = 4096
# Where nobody may be evicted, cleaning gains a segment for each 16 that it empties, or it goes in circles: to
# move a fragment leaves a dead list of fragments elsewhere. So many rounds without a gain are enough.
_FUTILE_ROUNDS: Final = 32


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
    """An entry gets another deadline; value, flags and version stay. What is not there stays away.

    Attributes:
        deadline_ms: when it is gone, 0: never.
    """

    deadline_ms: int


Change: TypeAlias = tuple[bytes, int, int] | Retime | Verdict
"""What becomes of an entry: a value, the caller's flags and a deadline in ms (0 for none); or a deadline
alone; or a verdict."""

Decide: TypeAlias = Callable[[Entry | None], Change]
"""From what is there to what becomes of it; see ``Updater.update``."""


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
        "_eviction",
        "_guard",
        "_low_mask",
        "_reader",
        "_seed",
        "_segments",
        "_shards",
        "_words",
        "max_key_bytes",
        "max_value_bytes",
    )

    def __init__(
        self,
        arena: Arena,
        shards: list[Shard],
        segments: Segments,
        reader: Reader,
        eviction: Eviction,
        seed: int,
        guard: Guard,
    ) -> None:
        """Bind to a store.

        Args:
            arena: the arena.
            shards: its shards.
            segments: its pool.
            reader: reads entries.
            eviction: makes room.
            seed: seed of the keys' hashes.
            guard: repairs a shard.
        """
        geometry = arena.geometry
        self.max_key_bytes = geometry.longest_key
        self.max_value_bytes = geometry.longest_value
        self._words = arena.words
        self._low_mask = (geometry.shards << TAG_BITS) - 1
        self._shards = shards
        self._segments = segments
        self._reader = reader
        self._eviction = eviction
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
            KeyTooLong: if no arena with such segments takes such a key.
            ValueTooLong: if no arena of this size takes such a value.
            StoreFull: if no room could be made.
            StoreBusy: if a lock was not free within the bound.
        """
        if len(key) > self.max_key_bytes:
            raise self.key_too_long(key)
        key_hash = xxh3_64_intdigest(key, self._seed)
        shard = self._shards[(key_hash & self._low_mask) >> TAG_BITS]
        before, version, segments = self._try(shard, key_hash, key, decide, clock, with_value=with_value)
        if segments:
            return self.with_room(segments, shard, key_hash, key, decide, clock, with_value=with_value)
        return before, version

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
        looks = most = futile = 0
        for _ in range(_TRIES):
            made, looked = self._make_room(segments, looks < _MERCIFUL_LOOKS, clock)
            looks += looked
            if made is None:
                free = self._segments.free_count()
                most, futile = (free, 0) if free > most else (most, futile + 1)
                if futile < _FUTILE_ROUNDS or self._eviction.evicts:
                    continue  # to write in vain would earn credit for cleaning
                made = False
            before, version, segments = self._try(shard, key_hash, key, decide, clock, with_value=with_value)
            if not segments:
                return before, version
            if not made:
                raise StoreFull("No room for the value could be made.")
        raise StoreBusy("Other writers took the room that was made; try again.")

    def _try(
        self,
        shard: Shard,
        key_hash: int,
        key: bytes,
        decide: Decide,
        clock: Callable[[], int],
        *,
        with_value: bool,
    ) -> tuple[Entry | None, int, int]:
        """Update if there is room.

        Returns:
            What ``update`` returns, and 0; or, third, how many segments have to be free first: then the entry
            is as it was.
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
                before = None
            deciding = True
            change = decide(before)
            if isinstance(change, tuple) and len(change[0]) > self.max_value_bytes:
                raise self.value_too_long(change[0])
            deciding = False
            version = segments = 0
            if isinstance(change, tuple):
                value, flags, deadline_ms = change
                version = shard.put(key_hash, key, value, flags, deadline_ms)
                segments = 0 if version else shard.segments_for(len(key), len(value))
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
        return before, version, segments

    def _make_room(self, segments: int, mercy: bool, clock: Callable[[], int]) -> tuple[bool | None, int]:
        """Free segments until the pool has as many as a write may take.

        Args:
            segments: how many.
            mercy: whether those who were read are kept.
            clock: milliseconds now.

        Returns:
            True once there is room, None after a few steps without, False if nothing is left to free; and how
            many records were looked at.
        """
        looks = 0
        with self._eviction.locked():
            # Not longer than a few steps, so that other writers have their turn.
            for _ in range(_STEPS):
                if self._segments.room(segments):
                    return True, looks
                looked = self._eviction.step(mercy, clock)
                if not looked:
                    return False, looks
                looks += looked
            return None, looks

    def key_too_long(self, key: bytes) -> KeyTooLong:
        """What is raised for a key that does not fit."""
        return KeyTooLong(f"The key has {len(key)} bytes; the store takes {self.max_key_bytes}.")

    def value_too_long(self, value: bytes) -> ValueTooLong:
        """What is raised for a value that does not fit."""
        return ValueTooLong(f"The value has {len(value)} bytes; the store takes {self.max_value_bytes}.")
