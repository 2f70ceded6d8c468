"""Several changes at one moment, all or none.

In: the keys, and a body that reads and changes them. Their shards are locked, so nobody comes in between;
what the body changes is kept beside the store (``transaction``), seen by its later steps and by nobody else,
and published at its end (``commit``). Whoever finds no room lets go of everything, makes room and begins
again, because meanwhile the entries may be others.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from fastkv.store.layout import SH_VERSION
from fastkv.store.multi_get import Instant
from fastkv.store.picking import Picker
from fastkv.store.scan import KeyScanner, Scanner
from fastkv.store.transaction import WRITE_OVERHEAD, Transaction, deleting, longest_transaction, putting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from fastkv.core.changes import Changes
    from fastkv.steps import Steps
    from fastkv.store.arena import Arena
    from fastkv.store.commit import Commit
    from fastkv.store.index import Index
    from fastkv.store.reading import Entry, Reader
    from fastkv.store.redo import Redo
    from fastkv.store.repair import Guard
    from fastkv.store.room import Room
    from fastkv.store.segments import Segments
    from fastkv.store.shard import Shard

    T = TypeVar("T")


class Transactions:
    """Runs transactions on a store.

    Attributes:
        geometry: the arena's measures; a transaction may write as much as the longest value.
        shard_count: how many shards there are.
        scanner: walks through all entries, whose shards are locked.
        key_scanner: the same without their values.
        picker: picks one of them.
    """

    __slots__ = (
        "_arena",
        "_commit",
        "_guard",
        "_index",
        "_reader",
        "_redo",
        "_room",
        "_shards",
        "geometry",
        "key_scanner",
        "picker",
        "scanner",
        "shard_count",
    )

    def __init__(
        self,
        arena: Arena,
        shards: list[Shard],
        segments: Segments,
        index: Index,
        reader: Reader,
        guard: Guard,
        redo: Redo,
        commit: Commit,
        room: Room,
    ) -> None:
        """Bind to a store.

        Args:
            arena: the arena.
            shards: its shards.
            segments: its pool.
            index: its index.
            reader: reads entries.
            guard: holds the locks of shards.
            redo: has the transaction lock.
            commit: publishes.
            room: makes room.
        """
        self._arena = arena
        self._shards = shards
        self._index = index
        self._reader = reader
        self._guard = guard
        self._redo = redo
        self._commit = commit
        self._room = room
        self.shard_count = len(shards)
        self.geometry = arena.geometry
        self.scanner = Scanner(arena, shards, segments, index, Unguarded())
        self.key_scanner = KeyScanner(arena, shards, segments, index, Unguarded())
        self.picker = Picker(arena, index, self.scanner)

    def run(
        self, keys: Sequence[bytes] | None, body: Callable[[Transaction], T], clock: Callable[[], int]
    ) -> T:
        """Do several things with some keys at one moment, all or none.

        Args:
            keys: all that the body may name; None: any, and walks over all entries.
            body: is given the transaction. It runs under locks, so it must be quick, and may use the store by
                way of the transaction only. It is run again, on what is there then, if room had to be made:
                so it must not mind being repeated, and what it did last counts. If it raises, nothing has
                changed and the exception passes.
            clock: milliseconds now; called only if room has to be made.

        Returns:
            What the body returned.

        Raises:
            KeyTooLong, ValueTooLong: if the body writes what the store does not take, or too much at once.
            StoreFull: if no room could be made.
            StoreBusy: if a lock was not free within the bound.
            StoreError: if that were more locks than one process may hold.
        """
        numbers = range(len(self._shards)) if keys is None else {self.number(self.hash(key)) for key in keys}

        def attempt() -> tuple[T, int]:
            with self._redo.locked(), self._guard.holding_all(numbers, self._shards):
                transaction = Transaction(self, frozenset(numbers))
                result = body(transaction)
                return result, self._commit.run(transaction.writes(), transaction.versions)

        result, segments = attempt()
        return self._room.until(segments, attempt, clock) if segments else result

    def put_many(
        self,
        keys: Sequence[bytes],
        values: Sequence[bytes],
        clock: Callable[[], int],
        *,
        only_new: bool = False,
    ) -> bool:
        """Put several values at one moment, all or none.

        Args:
            keys: the keys; of one that is named twice the last value counts.
            values: the value of each, which has no deadline and no metadata.
            clock: milliseconds now; called only if an entry has a deadline or room has to be made.
            only_new: whether nothing is done if one of the keys has an entry.

        Returns:
            Whether it was done.

        Raises:
            KeyTooLong, ValueTooLong, StoreFull, StoreBusy, StoreError: as ``run``.
        """
        changes = self._commit.changes()
        room = longest_transaction(self.geometry) - WRITE_OVERHEAD * len(keys)
        if changes is not None and room >= 0 and changes.take_puts(keys, values, room):
            done = self._run_changes(changes, clock, only_new=only_new)
            if done is not None:
                return done
        return self.run(keys, putting(keys, values, clock, only_new=only_new), clock)

    def delete_many(self, keys: Sequence[bytes], clock: Callable[[], int]) -> list[bytes]:
        """Remove several entries at one moment, all or none.

        Args:
            keys: the keys.
            clock: as for ``put_many``.

        Returns:
            Those that had an entry.

        Raises:
            StoreFull, StoreBusy, StoreError: as ``run``.
        """
        changes = self._commit.changes()
        size = sum(map(len, keys)) + WRITE_OVERHEAD * len(keys)
        fits = size <= longest_transaction(self.geometry)
        if changes is not None and fits and changes.take_removals(keys):
            done = self._run_changes(changes, clock)
            if done is not None:
                return changes.removed()
        return self.run(keys, deleting(keys, clock), clock)

    def _run_changes(
        self, changes: Changes, clock: Callable[[], int], *, only_new: bool = False
    ) -> bool | None:
        """Do what was taken.

        Returns:
            False if it is ``only_new`` and a key has an entry; None if a change is not ordinary. Then nothing
            has changed.
        """
        numbers = changes.shards

        def attempt() -> tuple[bool | None, int]:
            with self._redo.locked(), self._guard.holding_all(numbers, self._shards):
                now = Instant(clock)
                there = changes.first_there(now) if only_new else 0
                if there > 0:
                    self.count_access(there)
                if there:
                    return (False if there > 0 else None), 0
                segments = self._commit.run_changes(changes, changes.give_versions(), now)
                return segments is not None or None, segments or 0

        done, segments = attempt()
        return self._room.until(segments, attempt, clock) if segments else done

    def flush(self) -> int:
        """Drop all entries at one moment.

        Returns:
            How many they were, those included that had expired.

        Raises:
            StoreBusy: if a lock was not free within the bound.
            StoreError: if that were more locks than one process may hold.
        """
        with self._redo.locked(), self._guard.holding_all(range(len(self._shards)), self._shards):
            return self._commit.flush()

    def flush_in_steps(self) -> Steps[int]:
        """Drop the entries of one shard after the other, each at one moment. What is put meanwhile may stay.

        Returns:
            How many they were, those included that had expired.

        Raises:
            StoreBusy: if a lock was not free within the bound; the shards before it are empty.
        """
        dropped = 0
        for shard in self._shards:
            with self._guard.holding(shard):
                dropped += self._commit.flush_shard(shard)
            yield None
        return dropped

    # -- what a transaction needs of the store ---------------------------------------------------------------

    def hash(self, key: bytes) -> int:
        """A key's hash."""
        return self._arena.hash_of(key)

    def number(self, key_hash: int) -> int:
        """The number of a key's shard."""
        return self._arena.shard_of(key_hash)

    def last_version(self, number: int) -> int:
        """The version of the newest write to a shard."""
        return self._arena.words[self._shards[number].header + SH_VERSION]

    def read(self, key_hash: int, key: bytes, *, with_value: bool = True) -> Entry | None:
        """An entry of the store, whatever its deadline."""
        return self._reader.read(key_hash, key, with_value=with_value)

    def stands(self, key_hash: int, key: bytes) -> bool:
        """Tell whether a key has an entry in the store, whatever its deadline."""
        return self._index.locate(key_hash, key)[0] != 0

    def count_access(self, slot: int) -> None:
        """Count an access to an entry of the store."""
        self._arena.count_access(slot)


class Unguarded:
    """Stands for the ``Guard`` where all locks are held already."""

    @contextmanager
    def holding(self, shard: Shard) -> Iterator[None]:  # noqa: ARG002 - as the guard's
        """Do without the lock."""
        yield
