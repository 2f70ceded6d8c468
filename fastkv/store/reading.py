"""Reading without a lock.

Slot word → copy of the record → key equal → word unchanged. A word names a segment's generation, so an
unchanged word means an unchanged record: a hit needs no more. A miss does: an unchanged, even sequence means
that nothing of several steps (growth, repair) moved the key meanwhile. A reader that finds either otherwise
goes to the lock. In a shard that is unverified since the start it verifies what it reads, instead: while the
sequence says so, slots are emptied at most.

This rests on stores being seen in their order. ``CheckedReader`` is for machines where they need not be.
"""

from __future__ import annotations

import platform
import struct
from typing import TYPE_CHECKING, Final

from fastkv.store.layout import UNVERIFIED
from fastkv.store.records import CALLER_FLAGS, LARGE, parse_pieces, parse_record, split_metadata

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastkv.store.arena import Arena
    from fastkv.store.index import Index
    from fastkv.store.repair import Guard
    from fastkv.store.shard import Shard
    from fastkv.store.verify import Verifier

Entry = tuple[bytes, int, int, int, int, int, bytes]
"""What get returns: value, the caller's flags, version, deadline in ms (0 for none), the slot and the word
under which the entry was found, and the caller's metadata (empty for none). While that slot holds that word,
the entry is unchanged."""


def has_expired(entry: Entry, clock: Callable[[], int]) -> bool:
    """Tell whether an entry's deadline has passed; the clock is called only if it has one."""
    return bool(entry[3]) and entry[3] <= clock()


def may_reorder(machine: str) -> bool:
    """Tell whether a machine may show the stores of one processor to another out of their order.

    Args:
        machine: as ``platform.machine`` names it.

    Returns:
        False for x86-64, whose order is total; True for all others, whatever they may be.
    """
    return machine not in ("x86_64", "AMD64")


VERIFY_READS: Final = may_reorder(platform.machine())
"""Whether reads have to be those of the ``CheckedReader`` here."""


class Reader:
    """Looks keys up."""

    __slots__ = ("_arena", "_guard", "_index", "_shards", "_verifier")

    def __init__(
        self, arena: Arena, shards: list[Shard], index: Index, guard: Guard, verifier: Verifier
    ) -> None:
        """Bind to a store.

        Args:
            arena: the arena.
            shards: its shards.
            index: its index.
            guard: holds a shard's lock.
            verifier: looks keys up in shards that are still unverified.
        """
        self._arena = arena
        self._shards = shards
        self._index = index
        self._guard = guard
        self._verifier = verifier

    def get(self, key: bytes, clock: Callable[[], int]) -> Entry | None:
        """Look a key up, and count the access; as ``Engine.get``."""
        arena = self._arena
        key_hash = arena.hash_of(key)
        shard = arena.shard_of(key_hash)
        sequence = arena.sequence_of(shard)
        if sequence == UNVERIFIED:
            entry = self._verifier.entry(key_hash, key)
            if arena.sequence_of(shard) == UNVERIFIED:
                return None if entry is None or has_expired(entry, clock) else entry
            sequence = arena.sequence_of(shard)
        try:
            entry = self._read_unlocked(key_hash, key)
        except (struct.error, ValueError, IndexError):
            sequence |= 1  # what it followed was overwritten meanwhile
            entry = None
        # Before the last look at the word: at the time that the clock shows the entry still stood there.
        is_gone = entry is None or has_expired(entry, clock)
        undisturbed = not sequence & 1 and arena.sequence_of(shard) == sequence
        if not undisturbed or (entry and arena.words[entry[4]] != entry[5]):
            with self._guard.holding(self._shards[shard]):
                entry = self._read_locked(key_hash, key)
                is_gone = entry is None or has_expired(entry, clock)
        if entry is None or is_gone:
            return None
        arena.count_access(entry[4])
        return entry

    def read(self, key_hash: int, key: bytes, *, with_value: bool = True) -> Entry | None:
        """Copy an entry out of the arena, whatever its deadline; no access is counted.

        Args:
            key_hash: the key's hash.
            key: the key.
            with_value: whether the value is wanted; without it fragments are left alone and it is empty.

        Returns:
            The entry, None if there is none. Without the shard's lock the caller has to validate either.

        Raises:
            struct.error, ValueError, IndexError: without the lock only, if what it followed was overwritten.
        """
        slot, word = self._index.locate(key_hash, key)
        if not slot:
            return None
        arena = self._arena
        _, content, flags, version, deadline_ms = parse_record(arena.mem, arena.location_of(word) << 3)
        value, metadata = split_metadata(content, flags)
        if not with_value:
            value = b""
        elif flags & LARGE:
            # The list is followed only if it was the entry's after it was copied.
            if arena.words[slot] != word:
                raise ValueError("overwritten while it was read")
            whole, *pieces = parse_pieces(value)
            value = b"".join([parse_record(arena.mem, piece << 3)[1] for piece in pieces])
            if len(value) != whole:
                raise ValueError("overwritten while it was read")
        return value, flags & CALLER_FLAGS, version, deadline_ms, slot, word, metadata

    # What ``get`` reads with; a subclass may be stricter.
    _read_unlocked = read
    _read_locked = read
