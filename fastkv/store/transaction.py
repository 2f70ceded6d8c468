"""What the body of a transaction sees: the store with what it has changed so far.

In: reads and changes, as the store takes them. Out: entries as they are by now, and at the end what becomes
of each key that was changed (`Write`). Nothing of it is in the store yet, and nobody else sees it.
"""

from __future__ import annotations

from random import choice, randrange
from typing import TYPE_CHECKING, Final, TypeVar

from fastkv.errors import StoreError, ValueTooLong
from fastkv.progress import PROGRESS
from fastkv.store.commit import Write
from fastkv.store.multi_get import Instant, living
from fastkv.store.records import CALLER_FLAGS, MAX_METADATA_BYTES, join_metadata, split_metadata
from fastkv.store.update import DELETE, Retime

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fastkv.glob import Glob
    from fastkv.steps import Steps
    from fastkv.store.layout import Geometry
    from fastkv.store.reading import Entry
    from fastkv.store.scan import Page, Scanned
    from fastkv.store.transactions import Transactions
    from fastkv.store.update import Decide

    T = TypeVar("T")

WRITE_OVERHEAD: Final = 64
"""What a write counts for besides its key and content, in bytes."""
# Among so many picks one is there, unless the transaction has changed nearly all.
_PICKS: Final = 16


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

    def get_many(self, keys: Sequence[bytes], clock: Callable[[], int]) -> list[Entry | None]:
        """Look several keys up; as ``Store.get_many``."""
        return [self.get(key, clock) for key in keys]

    def get_values(self, keys: Sequence[bytes], clock: Callable[[], int]) -> list[bytes | None]:
        """Look the values of several keys up; as ``Store.get_values``."""
        return [entry and entry[0] for entry in self.get_many(keys, clock)]

    def count_many(self, keys: Sequence[bytes], clock: Callable[[], int]) -> int:
        """Count those of several keys that have an entry; as ``Store.count_many``."""
        return sum(self.get(key, clock) is not None for key in keys)

    def put_many(
        self,
        keys: Sequence[bytes],
        values: Sequence[bytes],
        clock: Callable[[], int],
        *,
        only_new: bool = False,
    ) -> bool:
        """Put several values; as ``Store.put_many``."""
        return self.transact(keys, putting(keys, values, clock, only_new=only_new), clock)

    def delete_many(self, keys: Sequence[bytes], clock: Callable[[], int]) -> list[bytes]:
        """Remove several entries; as ``Store.delete_many``."""
        return self.transact(keys, deleting(keys, clock), clock)

    def put(
        self,
        key: bytes,
        value: bytes,
        clock: Callable[[], int],  # noqa: ARG002 - as the store's
        flags: int = 0,
        deadline_ms: int = 0,
        metadata: bytes = b"",
    ) -> int:
        """Insert or replace an entry; as ``Store.put``."""
        return self._put(self._hash(key), key, value, flags, deadline_ms, metadata)

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
        self._store.geometry.check_key(key)
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
        PROGRESS.small()
        write = self._writes.get(key)
        if write is None:
            return living(self._store.read(key_hash, key, with_value=with_value), self._instant(clock))
        if not write.there:
            return None
        if write.content is None:
            before = self._store.read(key_hash, key, with_value=with_value)
            value, metadata = (before[0], before[6]) if before else (b"", b"")
        else:
            value, metadata = split_metadata(write.content, write.flags)
            if not with_value:
                value = b""
        flags = write.flags & CALLER_FLAGS
        entry = value, flags, write.version, write.deadline_ms, 0, 0, metadata
        return living(entry, self._instant(clock))

    def _put(
        self, key_hash: int, key: bytes, value: bytes, flags: int, deadline_ms: int, metadata: bytes
    ) -> int:
        PROGRESS.small()
        self._store.geometry.check_value(value)
        number = self._store.number(key_hash)
        version = self.versions.get(number, 0) or self._store.last_version(number)
        content, flags = join_metadata(value, metadata, flags)
        self._write(Write(key, key_hash, content, flags, version + 1, deadline_ms, there=True))
        self.versions[number] = version + 1
        return version + 1

    def _write(self, write: Write) -> None:
        size = self._bytes + _size(write)
        if (before := self._writes.get(write.key)) is not None:
            size -= _size(before)
        geometry = self._store.geometry
        if size > longest_transaction(geometry):
            raise ValueTooLong(
                f"The transaction writes {size} bytes; at most {geometry.longest_value} fit at once."
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

    def flush_in_steps(self) -> Steps[int]:
        """As ``flush``."""
        self.flush()
        yield None
        return 0

    def entries(self) -> int:
        """How many entries there are; as ``Store.entries``."""
        self._need_all()
        return self._store.picker.entries() + sum(
            write.there - self._store.stands(write.key_hash, write.key) for write in self._writes.values()
        )

    def random_key(self, clock: Callable[[], int]) -> Steps[bytes | None]:
        """An entry's key; as ``Store.random_key``."""
        self._need_all()
        made = self._made(clock)
        if made and randrange(max(self.entries(), 1)) < len(made):
            return choice(made)
        for _ in range(_PICKS):
            key = yield from self._store.picker.key(self._instant(clock))
            if key is None:
                break
            if key not in self._writes or self._see(self._hash(key), key, clock, with_value=False):
                return key
        cursor = 0
        while True:
            found, cursor = self.scan(cursor, clock, 1, 1)
            if found or not cursor:
                return found[0][0] if found else None
            yield None

    def scan(
        self, cursor: int, clock: Callable[[], int], limit_bytes: int, limit_entries: int
    ) -> tuple[list[Scanned], int]:
        """Read some entries; as ``Store.scan``, but that the keys that the transaction has made come last.

        They come all at once, and may be more than the bounds allow.
        """
        now = self._begin_walk(clock)
        scanned, cursor = self._store.scanner.scan(cursor, now, limit_bytes, limit_entries)
        made = [] if cursor else self._made(now)
        found = [entry for entry in scanned if entry[0] not in self._writes]
        for key in [entry[0] for entry in scanned if entry[0] in self._writes] + made:
            entry = self._see(self._hash(key), key, now)
            if entry:
                found.append((key, *entry[:4], entry[6]))
        return found, cursor

    def scan_keys(
        self,
        cursor: int,
        clock: Callable[[], int],
        limit_bytes: int,
        limit_entries: int,
        glob: Glob | None = None,
    ) -> Page[bytes]:
        """Read some keys; as ``Store.scan_keys``, otherwise as ``scan``."""
        now = self._begin_walk(clock)
        page = self._store.key_scanner.scan_keys(cursor, now, limit_bytes, limit_entries, glob)
        found = [
            key
            for key in page.found
            if key not in self._writes or self._see(self._hash(key), key, now, with_value=False)
        ]
        if not page.cursor:
            found += [key for key in self._made(now) if glob is None or glob.matches(key)]
        return page._replace(found=found, settled=-1 if page.cursor else len(found))

    def _begin_walk(self, clock: Callable[[], int]) -> Callable[[], int]:
        """Begin a step of a walk; the time at which it happens."""
        self._need_all()
        PROGRESS.made()
        return self._instant(clock)

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


def _size(write: Write) -> int:
    """What a write counts for, in bytes."""
    return len(write.key) + len(write.content or b"") + WRITE_OVERHEAD


def longest_transaction(geometry: Geometry) -> int:
    """What a transaction may write, in bytes: one write of the longest key and value may stand in it.

    Args:
        geometry: the arena's measures.
    """
    return geometry.longest_value + geometry.longest_key + WRITE_OVERHEAD + MAX_METADATA_BYTES + 1


def putting(
    keys: Sequence[bytes], values: Sequence[bytes], clock: Callable[[], int], *, only_new: bool = False
) -> Callable[[Transaction], bool]:
    """The body of ``Transactions.put_many``."""

    def body(transaction: Transaction) -> bool:
        if only_new and any(transaction.get(key, clock) for key in keys):
            return False
        for key, value in zip(keys, values, strict=True):
            transaction.put(key, value, clock)
        return True

    return body


def deleting(keys: Sequence[bytes], clock: Callable[[], int]) -> Callable[[Transaction], list[bytes]]:
    """The body of ``Transactions.delete_many``."""
    return lambda transaction: [key for key in keys if transaction.delete(key, clock)]
