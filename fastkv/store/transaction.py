"""Several changes at one moment, all or none.

In: the keys, and a body that reads and changes them. Their shards are locked, so nobody comes in between;
what the body changes is kept beside the store, seen by its later steps and by nobody else, and published at
its end (``commit``). Whoever finds no room lets go of everything, makes room and begins again, because
meanwhile the entries may be others.
"""

from __future__ import annotations

from contextlib import contextmanager
from random import choice, randrange
from typing import TYPE_CHECKING, Final, TypeVar

from xxhash import xxh3_64_intdigest

from fastkv.errors import KeyTooLong, StoreError, ValueTooLong
from fastkv.store.commit import Commit, Write
from fastkv.store.layout import COUNT_MAX, SH_VERSION, TAG_BITS, Arena, count_at
from fastkv.store.picking import Picker
from fastkv.store.scan import KeyScanner, Scanner
from fastkv.store.together import Instant, living
from fastkv.store.update import DELETE, Retime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from fastkv.store.index import Index
    from fastkv.store.reading import Entry, Reader
    from fastkv.store.redo import Redo
    from fastkv.store.repair import Guard
    from fastkv.store.room import Room
    from fastkv.store.scan import Scanned
    from fastkv.store.segments import Segments
    from fastkv.store.shard import Shard
    from fastkv.store.update import Decide

    T = TypeVar("T")

# What a write counts for besides its key and value, in bytes.
_WRITE_OVERHEAD: Final = 64
# Among so many picks one is there, unless the transaction has changed nearly all.
_PICKS: Final = 16


class Transactions:
    """Runs transactions on a store.

    Attributes:
        max_key_bytes: the longest key.
        max_value_bytes: the longest value, and the most that one transaction may write.
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
        "_low_mask",
        "_reader",
        "_redo",
        "_room",
        "_seed",
        "_shards",
        "key_scanner",
        "max_key_bytes",
        "max_value_bytes",
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
        seed: int,
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
            seed: seed of the keys' hashes.
            guard: holds the locks of shards.
            redo: has the transaction lock.
            commit: publishes.
            room: makes room.
        """
        self._arena = arena
        self._shards = shards
        self._index = index
        self._reader = reader
        self._seed = seed
        self._guard = guard
        self._redo = redo
        self._commit = commit
        self._room = room
        self._low_mask = (arena.geometry.shards << TAG_BITS) - 1
        self.shard_count = len(shards)
        self.max_key_bytes = arena.geometry.longest_key
        self.max_value_bytes = arena.geometry.longest_value
        self.scanner = Scanner(arena, shards, segments, index, seed, Unguarded())
        self.key_scanner = KeyScanner(arena, shards, segments, index, seed, Unguarded())
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

    # -- what a transaction needs of the store ---------------------------------------------------------------

    def hash(self, key: bytes) -> int:
        """A key's hash."""
        return xxh3_64_intdigest(key, self._seed)

    def number(self, key_hash: int) -> int:
        """The number of a key's shard."""
        return (key_hash & self._low_mask) >> TAG_BITS

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
        place = count_at(slot)
        if self._arena.counts[place] < COUNT_MAX:
            self._arena.counts[place] += 1


class Transaction:
    """What the body of a transaction sees: the store with what it has changed so far.

    The methods are those of the store. An entry that the transaction itself has written has slot and word 0:
    it must not be recognised by them. All is seen by one time, that of the first look at a deadline: what was
    there does not expire halfway.

    Attributes:
        versions: the newest version of each shard that the transaction writes to.
    """

    __slots__ = ("_bytes", "_now", "_numbers", "_store", "_writes", "versions")

    def __init__(self, store: Transactions, numbers: frozenset[int]) -> None:
        """Begin.

        Args:
            store: the store.
            numbers: of the shards whose locks are held.
        """
        self._store = store
        self._numbers = numbers
        self._writes: dict[bytes, Write] = {}
        self._bytes = 0
        self._now: Instant | None = None
        self.versions: dict[int, int] = {}

    def writes(self) -> list[Write]:
        """What becomes of each key that was changed."""
        return list(self._writes.values())

    # -- one key ---------------------------------------------------------------------------------------------

    def get(self, key: bytes, clock: Callable[[], int]) -> Entry | None:
        """Look a key up; as ``Store.get``."""
        entry = self._see(self._hash(key), key, clock)
        if entry and entry[4]:
            self._store.count_access(entry[4])
        return entry

    def get_together(self, keys: Sequence[bytes], clock: Callable[[], int]) -> list[Entry | None]:
        """Look several keys up; as ``Store.get_together``."""
        return [self.get(key, clock) for key in keys]

    def put(
        self,
        key: bytes,
        value: bytes,
        clock: Callable[[], int],  # noqa: ARG002 - as the store's
        flags: int = 0,
        deadline_ms: int = 0,
    ) -> int:
        """Insert or replace an entry; as ``Store.put``."""
        return self._put(self._hash(key), key, value, flags, deadline_ms)

    def delete(self, key: bytes, clock: Callable[[], int]) -> bool:
        """Remove an entry; as ``Store.delete``."""
        key_hash = self._hash(key)
        if self._see(key_hash, key, clock, with_value=False) is None:
            return False
        self._write(Write(key, key_hash, None, 0, 0, 0, there=False))
        return True

    def update(
        self, key: bytes, decide: Decide, clock: Callable[[], int], *, with_value: bool = True
    ) -> tuple[Entry | None, int]:
        """Read an entry and change it; as ``Store.update``."""
        key_hash = self._hash(key)
        before = self._see(key_hash, key, clock, with_value=with_value)
        change = decide(before)
        if isinstance(change, tuple):
            return before, self._put(key_hash, key, *change)
        if before is None or change is DELETE:
            if before:
                self._write(Write(key, key_hash, None, 0, 0, 0, there=False))
            return before, 0
        if isinstance(change, Retime):
            write = self._writes.get(key) or Write(key, key_hash, None, before[1], before[2], 0, there=True)
            self._write(write._replace(deadline_ms=change.deadline_ms))
        return before, before[2]

    def _hash(self, key: bytes) -> int:
        """The hash of a key, which must be one of the transaction's."""
        if len(key) > self._store.max_key_bytes:
            raise KeyTooLong(f"The key has {len(key)} bytes; the store takes {self._store.max_key_bytes}.")
        key_hash = self._store.hash(key)
        if self._store.number(key_hash) not in self._numbers:
            raise RuntimeError(f"the transaction does not hold the shard of {key!r}")
        return key_hash

    def _instant(self, clock: Callable[[], int]) -> Instant:
        """The time by which entries expire."""
        if self._now is None:
            self._now = Instant(clock)
        return self._now

    def _see(
        self, key_hash: int, key: bytes, clock: Callable[[], int], *, with_value: bool = True
    ) -> Entry | None:
        """The entry of a key as it is by now, None if there is none or its deadline has passed."""
        write = self._writes.get(key)
        if write is None:
            return living(self._store.read(key_hash, key, with_value=with_value), self._instant(clock))
        if not write.there:
            return None
        value = write.value
        if value is None:
            before = self._store.read(key_hash, key, with_value=with_value)
            value = before[0] if before else b""
        elif not with_value:
            value = b""
        entry = value, write.flags, write.version, write.deadline_ms, 0, 0
        return living(entry, self._instant(clock))

    def _put(self, key_hash: int, key: bytes, value: bytes, flags: int, deadline_ms: int) -> int:
        if len(value) > self._store.max_value_bytes:
            raise ValueTooLong(
                f"The value has {len(value)} bytes; the store takes {self._store.max_value_bytes}."
            )
        number = self._store.number(key_hash)
        version = self.versions.get(number, 0) or self._store.last_version(number)
        self._write(Write(key, key_hash, value, flags, version + 1, deadline_ms, there=True))
        self.versions[number] = version + 1
        return version + 1

    def _write(self, write: Write) -> None:
        size = self._bytes + _size(write)
        if (before := self._writes.get(write.key)) is not None:
            size -= _size(before)
        if size > self._store.max_value_bytes + _WRITE_OVERHEAD + self._store.max_key_bytes:
            raise ValueTooLong(
                f"The transaction writes {size} bytes; the store takes {self._store.max_value_bytes} at once."
            )
        self._bytes = size
        self._writes[write.key] = write

    # -- all -------------------------------------------------------------------------------------------------

    def transact(
        self,
        keys: Sequence[bytes] | None,
        body: Callable[[Transaction], T],
        clock: Callable[[], int],  # noqa: ARG002 - as the store's
    ) -> T:
        """Do several things, all or none, as a part of this transaction.

        Args:
            keys: all that the body may name, which are this transaction's, too; None: any.
            body: as for ``Transactions.run``. If it raises, nothing of it has changed.
            clock: milliseconds now.

        Returns:
            What the body returned.
        """
        if keys is None:
            self._need_all()
        writes, size = self._writes.copy(), self._bytes
        try:
            return body(self)
        except BaseException:
            self._writes, self._bytes = writes, size
            raise

    def flush(self) -> int:
        """Refuse to empty the store: that is no change of some keys.

        Raises:
            StoreError: always.
        """
        raise StoreError("Inside of a transaction the store cannot be emptied.")

    def entries(self) -> int:
        """How many entries there are; as ``Store.entries``."""
        self._need_all()
        return self._store.picker.entries() + sum(
            write.there - self._store.stands(write.key_hash, write.key) for write in self._writes.values()
        )

    def random_key(self, clock: Callable[[], int]) -> bytes | None:
        """An entry's key; as ``Store.random_key``."""
        self._need_all()
        made = self._made(clock)
        if made and randrange(max(self.entries(), 1)) < len(made):
            return choice(made)
        for _ in range(_PICKS):
            key = self._store.picker.key(self._instant(clock))
            if key is None:
                break
            if key not in self._writes or self._see(self._hash(key), key, clock, with_value=False):
                return key
        cursor = 0
        while True:
            found, cursor = self.scan(cursor, clock, 1, 1)
            if found or not cursor:
                return found[0][0] if found else None

    def scan(
        self, cursor: int, clock: Callable[[], int], limit_bytes: int, limit_entries: int
    ) -> tuple[list[Scanned], int]:
        """Read some entries; as ``Store.scan``, but that the keys that the transaction has made come last.

        They come all at once, and may be more than the bounds allow.
        """
        return self._scan(self._store.scanner, cursor, clock, limit_bytes, limit_entries, with_value=True)

    def scan_keys(
        self, cursor: int, clock: Callable[[], int], limit_bytes: int, limit_entries: int
    ) -> tuple[list[Scanned], int]:
        """Read some entries without their values; otherwise as ``scan``."""
        return self._scan(
            self._store.key_scanner, cursor, clock, limit_bytes, limit_entries, with_value=False
        )

    def _scan(
        self,
        scanner: Scanner,
        cursor: int,
        clock: Callable[[], int],
        limit_bytes: int,
        limit_entries: int,
        *,
        with_value: bool,
    ) -> tuple[list[Scanned], int]:
        """``scan`` or ``scan_keys``, by what walks through the store."""
        self._need_all()
        now = self._instant(clock)
        scanned, cursor = scanner.scan(cursor, now, limit_bytes, limit_entries)
        made = [] if cursor else self._made(now)
        found = [entry for entry in scanned if entry[0] not in self._writes]
        for key in [entry[0] for entry in scanned if entry[0] in self._writes] + made:
            entry = self._see(self._hash(key), key, now, with_value=with_value)
            if entry:
                found.append((key, *entry[:4]))
        return found, cursor

    def _made(self, clock: Callable[[], int]) -> list[bytes]:
        """The keys that have an entry by now, and none in the store."""
        return [
            key
            for key, write in self._writes.items()
            if self._see(write.key_hash, key, clock, with_value=False)
            and living(self._store.read(write.key_hash, key, with_value=False), self._instant(clock)) is None
        ]

    def _need_all(self) -> None:
        """Make sure that every shard is locked."""
        if len(self._numbers) < self._store.shard_count:
            raise RuntimeError("the transaction does not hold all shards")


class Unguarded:
    """Stands for the ``Guard`` where all locks are held already."""

    @contextmanager
    def holding(self, shard: Shard) -> Iterator[None]:  # noqa: ARG002 - as the guard's
        """Do without the lock."""
        yield


def _size(write: Write) -> int:
    """What a write counts for, in bytes."""
    return len(write.key) + len(write.value or b"") + _WRITE_OVERHEAD
