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

from xxhash import xxh3_64_intdigest

from fastkv.store.index import HIGH_SHIFT, SECOND_BUCKET_SHIFT, Index
from fastkv.store.layout import COUNT_MAX, TAG_BITS, TAG_MASK, TAG_SHIFT, UNVERIFIED, Arena, count_at
from fastkv.store.records import (
    CALLER_FLAGS,
    HEAD_BYTES,
    LARGE,
    parse_pieces,
    parse_record,
    unpack_head,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastkv.store.repair import Guard
    from fastkv.store.shard import Shard
    from fastkv.store.verify import Verifier

Entry = tuple[bytes, int, int, int, int, int]
"""What get returns: value, the caller's flags, version, deadline in ms (0 for none), and the slot and
word under which the entry was found: while that slot holds that word, the entry is unchanged."""


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
    """Looks keys up."""

    __slots__ = (
        "_bucket_mask",
        "_counts",
        "_directory",
        "_directory_shift",
        "_guard",
        "_index",
        "_inline_bytes",
        "_location_mask",
        "_low_mask",
        "_mem",
        "_search",
        "_seed",
        "_sequences",
        "_shards",
        "_verifier",
        "_version_mask",
        "_version_shift",
        "_words",
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
        self._mem = arena.mem
        self._words = arena.words
        self._counts = arena.counts
        self._shards = shards
        self._index = index
        self._seed = seed
        self._guard = guard
        self._directory = index.directory
        self._directory_shift = TAG_BITS - geometry.directory_bits
        self._low_mask = (geometry.shards << TAG_BITS) - 1
        self._sequences = arena.words[geometry.sequences_at : geometry.sequences_at + geometry.shards]
        self._search = arena.mem.find
        self._bucket_mask = index.bucket_mask
        self._location_mask = index.location_mask
        self._inline_bytes = geometry.segment_bytes // 8
        self._version_shift = geometry.location_bits
        self._version_mask = (1 << geometry.version_bits) - 1

    def close(self) -> None:
        """Let go of the arena, so that it can be unmapped."""
        self._sequences.release()

    def get(self, key: bytes, clock: Callable[[], int]) -> Entry | None:
        """Look a key up.

        This is the short way, written out: the first record with the key's tag is the key's, has no
        deadline, holds its value itself, and nobody disturbs. ``find`` is the whole of it.

        Args:
            key: the key.
            clock: milliseconds now; called only if the entry has a deadline.

        Returns:
            The entry, None if there is none.

        Raises:
            StoreBusy: if a lock was needed and not free within the bound.
        """
        key_hash = xxh3_64_intdigest(key, self._seed)
        low = key_hash & self._low_mask
        high = key_hash >> HIGH_SHIFT
        words = self._words
        bucket = self._directory[low >> self._directory_shift] + (high & self._bucket_mask)
        slot = bucket + (high & 7 or 7)
        word = words[slot]
        if word >> TAG_SHIFT != low & TAG_MASK:
            slot = self._elsewhere(low, high, bucket)
            if not slot:
                return self.find(key_hash, key, clock)
            word = words[slot]
        mem = self._mem
        at = (word & self._location_mask) << 3
        try:
            key_len, flags, value_len, version = unpack_head(mem, at)
        except struct.error:  # the word was none: a split or an eviction is at work
            return self.find(key_hash, key, clock)
        at += HEAD_BYTES
        middle = at + key_len
        # Flags above the caller's say that there is a deadline, or that the value lies elsewhere.
        if flags <= CALLER_FLAGS and value_len <= self._inline_bytes and mem[at:middle] == key:
            value = mem[middle : middle + value_len]
            if words[slot] == word:
                at = (slot & -8) << 3 | slot & 7  # ``count_at``
                counts = self._counts
                if counts[at] < COUNT_MAX:
                    counts[at] += 1
                return value, flags, version, 0, slot, word
        return self.find(key_hash, key, clock)

    def _elsewhere(self, low: int, high: int, bucket: int) -> int:
        """Look for a key's tag outside its home slot, with one search in C a bucket.

        Args:
            low: low bits of the key's hash.
            high: its high bits.
            bucket: the key's first bucket.

        Returns:
            A slot that may be the key's, 0 if none was found.
        """
        tag = (low & TAG_MASK).to_bytes(2, "little")
        at = bucket << 3
        at = self._search(tag, at + 8, at + 64)
        if at < 0:
            page = self._directory[low >> self._directory_shift]
            at = page + (high >> SECOND_BUCKET_SHIFT & self._bucket_mask) << 3
            at = self._search(tag, at + 8, at + 64)
            if at < 0:
                return 0
        return at >> 3

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
        _, value, flags, version, deadline_ms = parse_record(self._mem, (word & self._location_mask) << 3)
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
        return value, flags & CALLER_FLAGS, version, deadline_ms, slot, word

    # What ``find`` reads with; a subclass may be stricter.
    _read_unlocked = read
    _read_locked = read

    def get_small(self, keys: list[bytes], clock: Callable[[], int]) -> list[Entry | None] | None:
        """``get`` for several keys with small values; 0.1 µs less for each.

        Args:
            keys: the keys.
            clock: milliseconds now.

        Returns:
            An entry or None for each, in order, as ``get`` would have found it; None instead of the list if
            a value is longer than an eighth of a segment: then the caller had better go one by one.

        Raises:
            StoreBusy: if a lock was needed and not free within the bound.
        """
        # What follows is ``get``, with what it needs in local names.
        words, mem, counts, directory = self._words, self._mem, self._counts, self._directory
        seed, low_mask, bucket_mask, location_mask = (
            self._seed,
            self._low_mask,
            self._bucket_mask,
            self._location_mask,
        )
        directory_shift, inline_bytes = self._directory_shift, self._inline_bytes
        entries: list[Entry | None] = []
        for key in keys:
            key_hash = xxh3_64_intdigest(key, seed)
            low = key_hash & low_mask
            high = key_hash >> HIGH_SHIFT
            bucket = directory[low >> directory_shift] + (high & bucket_mask)
            slot = bucket + (high & 7 or 7)
            word = words[slot]
            if word >> TAG_SHIFT != low & TAG_MASK:
                slot = self._elsewhere(low, high, bucket)
                word = words[slot] if slot else 0
            at = (word & location_mask) << 3
            try:
                key_len, flags, value_len, version = unpack_head(mem, at)
            except struct.error:
                key_len = value_len = version = 0
                flags = CALLER_FLAGS + 1
            at += HEAD_BYTES
            middle = at + key_len
            if flags <= CALLER_FLAGS and value_len <= inline_bytes and word and mem[at:middle] == key:
                value = mem[middle : middle + value_len]
                if words[slot] == word:
                    at = (slot & -8) << 3 | slot & 7  # ``count_at``
                    if counts[at] < COUNT_MAX:
                        counts[at] += 1
                    entries.append((value, flags, version, 0, slot, word))
                    continue
            entry = self.find(key_hash, key, clock)
            if entry and len(entry[0]) > inline_bytes:
                return None
            entries.append(entry)
        return entries
