"""Reading without a lock.

Slot word → copy of the record → key equal → word unchanged. A word names a segment's generation, so an
unchanged word means an unchanged record: a hit needs no more. A miss does: an unchanged, even sequence means
that nothing of several steps (growth, repair) moved the key meanwhile. A reader that finds either otherwise
goes to the lock. In a shard that nobody has verified since the start it verifies what it reads, instead:
while the sequence says so, slots are emptied at most.

This rests on stores being seen in their order. ``VerifyingReader`` is for machines where they need not be.
"""

from __future__ import annotations

import platform
import struct
from typing import TYPE_CHECKING, Final

from fastkv.store.layout import COUNT_MAX, TAG_BITS, UNVERIFIED, Arena, count_at
from fastkv.store.records import CALLER_FLAGS, LARGE, parse_pieces, parse_record, split_metadata
from fastkv.store.short_reads import short_reads

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastkv.store.index import Index
    from fastkv.store.repair import Guard
    from fastkv.store.shard import Shard
    from fastkv.store.short_reads import Get, GetSmall
    from fastkv.store.verify import Verifier

Entry = tuple[bytes, int, int, int, int, int, bytes]
"""What get returns: value, the caller's flags, version, deadline in ms (0 for none), the slot and the word
under which the entry was found, and the caller's metadata (empty for none). While that slot holds that word,
the entry is unchanged."""


def may_reorder(machine: str) -> bool:
    """Tell whether a machine may show the stores of one processor to another out of their order.

    Args:
        machine: as ``platform.machine`` names it.

    Returns:
        False for x86-64, whose order is total; True for all others, whatever they may be.
    """
    return machine not in ("x86_64", "AMD64")


VERIFY_READS: Final = may_reorder(platform.machine())
"""Whether reads have to be those of the ``VerifyingReader`` here."""


class Reader:
    """Looks keys up.

    Attributes:
        get: the entry of a key, None if there is none, in the short way (``short_reads``).
        get_small: the same for several keys.
    """

    __slots__ = (
        "_arena",
        "_counts",
        "_guard",
        "_index",
        "_location_mask",
        "_low_mask",
        "_mem",
        "_seed",
        "_sequences",
        "_shards",
        "_verifier",
        "_version_mask",
        "_version_shift",
        "_words",
        "get",
        "get_small",
    )

    def __init__(
        self, arena: Arena, shards: list[Shard], index: Index, seed: int, guard: Guard, verifier: Verifier
    ) -> None:
        """Bind to a store.

        Args:
            arena: the arena.
            shards: its shards.
            index: its index.
            seed: seed of the keys' hashes.
            guard: holds a shard's lock.
            verifier: looks keys up in shards that nobody has verified yet.
        """
        self._verifier = verifier
        geometry = arena.geometry
        self._arena = arena
        self._mem = arena.mem
        self._words = arena.words
        self._counts = arena.counts
        self._shards = shards
        self._index = index
        self._seed = seed
        self._guard = guard
        self._low_mask = (geometry.shards << TAG_BITS) - 1
        self._sequences = arena.words[geometry.sequences_at : geometry.sequences_at + geometry.shards]
        self._location_mask = index.location_mask
        self._version_shift = geometry.location_bits
        self._version_mask = (1 << geometry.version_bits) - 1
        self.get, self.get_small = self._short_ways()

    def close(self) -> None:
        """Let go of the arena, so that it can be unmapped."""
        self._sequences.release()

    def _short_ways(self) -> tuple[Get, GetSmall]:
        return short_reads(self._arena, self._index, self._seed, self._sequences, self.find)

    def find(self, key_hash: int, key: bytes, clock: Callable[[], int]) -> Entry | None:
        """Look a key up wherever it stands; the readable twin of ``get``.

        Args:
            key_hash: the key's hash.
            key: the key.
            clock: milliseconds now.

        Returns:
            The entry, None if there is none or its deadline has passed.

        Raises:
            StoreBusy: if a lock was needed and not free within the bound.
        """
        number = (key_hash & self._low_mask) >> TAG_BITS
        sequence = self._sequences[number]
        if sequence == UNVERIFIED:
            entry = self._verifier.entry(key_hash, key)
            if self._sequences[number] == UNVERIFIED:
                return entry if entry and not 0 < entry[3] <= clock() else None
            sequence = self._sequences[number]
        try:
            entry = self._read_unlocked(key_hash, key)
        except (struct.error, ValueError, IndexError):
            sequence |= 1  # what it followed was overwritten meanwhile
            entry = None
        undisturbed = not sequence & 1 and self._sequences[number] == sequence
        if not undisturbed or (entry and self._words[entry[4]] != entry[5]):
            with self._guard.holding(self._shards[number]):
                entry = self._read_locked(key_hash, key)
        if entry is None or (entry[3] and entry[3] <= clock()):
            return None
        place = count_at(entry[4])
        if self._counts[place] < COUNT_MAX:  # blindly: a lost access does no harm
            self._counts[place] += 1
        return entry

    def read(self, key_hash: int, key: bytes, *, with_value: bool = True) -> Entry | None:
        """Copy an entry out of the arena, whatever its deadline; no access is counted.

        Args:
            key_hash: the key's hash.
            key: the key.
            with_value: whether the value is wanted; without it fragments are left alone and it is empty.

        Returns:
            The entry, None if there is none. Without the shard's lock, who asks has to validate either.

        Raises:
            struct.error, ValueError, IndexError: without the lock only, if what it followed was overwritten.
        """
        slot, word, _, _ = self._index.locate(key_hash, key)
        if not slot:
            return None
        _, content, flags, version, deadline_ms = parse_record(self._mem, (word & self._location_mask) << 3)
        value, metadata = split_metadata(content, flags)
        if not with_value:
            value = b""
        elif flags & LARGE:
            # The list is followed only if it was the entry's after it was copied.
            if self._words[slot] != word:
                raise ValueError("overwritten while it was read")
            whole, *pieces = parse_pieces(value)
            value = b"".join([parse_record(self._mem, piece << 3)[1] for piece in pieces])
            if len(value) != whole:
                raise ValueError("overwritten while it was read")
        return value, flags & CALLER_FLAGS, version, deadline_ms, slot, word, metadata

    # What ``find`` reads with; a subclass may be stricter.
    _read_unlocked = read
    _read_locked = read
