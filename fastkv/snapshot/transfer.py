"""A store's entries as blocks of a snapshot, out of it and into it.

The store's deadlines count on a clock that no other machine has; those of a block are Unix time. Versions are
not carried: in another store they would be nobody's, and in the same one a key must not get one twice.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from fastkv.errors import KeyTooLong, ValueTooLong
from fastkv.snapshot.format import BLOCK_BYTES, BLOCK_ENTRIES, Item, build_block, parse_block

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastkv.store import Store


def unix_ms() -> int:
    """Unix time in ms."""
    return time.time_ns() // 1_000_000


class Transfer:
    """The two ways of a store.

    Attributes:
        max_key, max_value: the longest that are taken, in bytes.
    """

    __slots__ = ("_clock", "_notify", "_store", "_unix_clock", "max_key", "max_value")

    def __init__(
        self,
        store: Store,
        clock: Callable[[], int],
        unix_clock: Callable[[], int] = unix_ms,
        max_key: int | None = None,
        max_value: int | None = None,
        notify: Callable[[bytes, bytes], None] = lambda _event, _key: None,
    ) -> None:
        """Bind to a store.

        Args:
            store: the store.
            clock: milliseconds now, on which its deadlines count.
            unix_clock: Unix time in ms.
            max_key: the longest key that is taken, in bytes; None: that of the store.
            max_value: likewise for values.
            notify: is told of each change: the event's name as Redis has it, and the key.
        """
        self._notify = notify
        self._store = store
        self._clock = clock
        self._unix_clock = unix_clock
        self.max_key = max_key or store.max_key_bytes
        self.max_value = max_value or store.max_value_bytes

    def total(self) -> int:
        """How many entries there are."""
        return self._store.stats()["entries"]

    def page(self, cursor: int) -> tuple[bytes, int]:
        """Read some entries.

        Args:
            cursor: 0, or what the call before returned.

        Returns:
            A block, perhaps without entries, and the next cursor, 0 if there is nothing left.

        Raises:
            WrongCursor: if the cursor is none of this store's.
            StoreBusy: if a lock was needed and not free within the bound.
        """
        entries, after = self._store.scan(cursor, self._clock, BLOCK_BYTES, BLOCK_ENTRIES)
        ahead_ms = self._unix_clock() - self._clock()
        return (
            build_block(
                (key, value, flags, deadline_ms and deadline_ms + ahead_ms, metadata)
                for key, value, flags, _, deadline_ms, metadata in entries
            ),
            after,
        )

    def put(self, block: bytes) -> tuple[int, int]:
        """Put what a block has, in its order; nothing if any of it is not as it has to be.

        An entry whose deadline has passed takes with it what its key had, as if it had been put in time: else
        an older one, which a snapshot may have of the same key, would outlive it.

        Args:
            block: a block.

        Returns:
            How many entries were put, and of how many the deadline had passed.

        Raises:
            SnapshotError: if the block is none, or damaged.
            KeyTooLong, ValueTooLong: if an entry is too long.
            StoreFull, StoreBusy: as for ``Store.put``; some entries may have been put, and may be again.
        """
        items = parse_block(block)
        for item in items:
            self._check(item)
        ahead_ms = self._unix_clock() - self._clock()
        now_ms = self._clock()
        expired = 0
        for key, value, flags, unix_deadline_ms, metadata in items:
            deadline_ms = unix_deadline_ms - ahead_ms
            if unix_deadline_ms and deadline_ms <= now_ms:
                if self._store.delete(key, self._clock):
                    self._notify(b"del", key)
                expired += 1
            else:
                self._store.put(key, value, self._clock, flags, unix_deadline_ms and deadline_ms, metadata)
                self._notify(b"set", key)
                if unix_deadline_ms:
                    self._notify(b"expire", key)
        return len(items) - expired, expired

    def _check(self, item: Item) -> None:
        key, value, *_ = item
        if len(key) > self.max_key:
            raise KeyTooLong(f"A key has {len(key)} bytes; --max-key-bytes allows {self.max_key}.")
        if len(value) > self.max_value:
            raise ValueTooLong(f"A value has {len(value)} bytes; --max-value-bytes allows {self.max_value}.")
