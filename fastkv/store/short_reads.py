"""The short ways of a read: ``Reader.find`` for the ordinary entry, in as few bytecodes as can be.

Ordinary is: the first record with the key's tag is the key's, has neither deadline nor metadata, holds its
value itself, and nobody disturbs; or no slot of the key's buckets has its tag, and nobody disturbs. For all
else they ask ``find``, which is the whole of it and their readable twin.

They are closures, because to read a cell takes half of what a slot of ``self`` does. Two thirds of the time
go into calls into C and arithmetic on integers, so each of either counts: the head and the key of a record
come out of one call, made for keys of that length.
"""

from __future__ import annotations

from struct import error as StructError  # noqa: N812
from typing import TYPE_CHECKING, Final

from xxhash import xxh3_64_intdigest

from fastkv.store.index import FIRST_TAG, HIGH_SHIFT, SECOND_BUCKET_SHIFT
from fastkv.store.layout import (
    BUCKET_BYTES,
    COUNT_MAX,
    TAG_BITS,
    TAG_MASK,
    TAG_SHIFT,
)
from fastkv.store.records import CALLER_FLAGS, HEAD_BYTES, unpack_with_key

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from fastkv.store.index import Index
    from fastkv.store.layout import Arena
    from fastkv.store.reading import Entry

    Clock: TypeAlias = Callable[[], int]
    Find: TypeAlias = Callable[[int, bytes, Clock], Entry | None]
    Get: TypeAlias = Callable[[bytes, Clock], Entry | None]
    GetSmall: TypeAlias = Callable[[list[bytes], Clock], list[Entry | None] | None]

# What ``elsewhere`` returns when there is no such entry: no slot.
_MISSING: Final = -1


def short_reads(
    arena: Arena, index: Index, seed: int, sequences: memoryview, find: Find
) -> tuple[Get, GetSmall]:
    """Make the short ways of a store.

    Args:
        arena: the arena.
        index: its index.
        seed: seed of the keys' hashes.
        sequences: the shards' sequence words.
        find: the long way, ``Reader.find``.

    Returns:
        ``get`` and ``get_small``.
    """
    geometry = arena.geometry
    mem, words, counts, search = arena.mem, arena.words, arena.counts, arena.mem.find
    directory, bucket_mask, location_mask = index.directory, index.bucket_mask, index.location_mask
    directory_shift = TAG_BITS - geometry.directory_bits
    low_mask = (geometry.shards << TAG_BITS) - 1
    inline_bytes = geometry.segment_bytes // 8
    digest, unpackers = xxh3_64_intdigest, unpack_with_key

    def get(key: bytes, clock: Clock) -> Entry | None:
        """Look a key up.

        Args:
            key: the key.
            clock: milliseconds now; called only if the entry has a deadline.

        Returns:
            The entry, None if there is none.

        Raises:
            StoreBusy: if a lock was needed and not free within the bound.
        """
        key_hash = digest(key, seed)
        low = key_hash & low_mask
        high = key_hash >> HIGH_SHIFT
        bucket = directory[low >> directory_shift] + (high & bucket_mask)
        slot = bucket + (high & 7 or 7)
        word = words[slot]
        if word >> TAG_SHIFT != low & TAG_MASK:
            slot = elsewhere(low, high)
            if slot < 1:
                return None if slot else find(key_hash, key, clock)
            word = words[slot]
            bucket = slot - (slot & 7)
        key_len = len(key)
        at = (word & location_mask) << 3
        try:
            stored_len, flags, value_len, version, stored = unpackers[key_len](mem, at)
        except (
            IndexError,
            StructError,
        ):  # a long key; or the word was none: a split or an eviction is at work
            return find(key_hash, key, clock)
        # Flags above the caller's say that there is a deadline or metadata, or that the value lies elsewhere.
        if stored == key and stored_len == key_len and flags <= CALLER_FLAGS and value_len <= inline_bytes:
            at += HEAD_BYTES + key_len
            value = mem[at : at + value_len]
            if words[slot] == word:
                at = bucket * 7 + slot  # ``count_at``
                if counts[at] < COUNT_MAX:
                    counts[at] += 1
                return value, flags, version, 0, slot, word, b""
        return find(key_hash, key, clock)

    def elsewhere(low: int, high: int) -> int:
        """Look for a key's tag in all of its slots, with one search in C a bucket.

        Args:
            low: low bits of the key's hash.
            high: its high bits.

        Returns:
            A slot that may be the key's; 0 if that cannot be told; ``_MISSING`` if there is no such entry.
        """
        number = low >> TAG_BITS
        sequence = sequences[number]
        page = directory[low >> directory_shift]
        tag = (low & TAG_MASK).to_bytes(2, "little")
        at = page + (high & bucket_mask) << 3
        at = search(tag, at + FIRST_TAG, at + BUCKET_BYTES)
        if at < 0:
            at = page + (high >> SECOND_BUCKET_SHIFT & bucket_mask) << 3
            at = search(tag, at + FIRST_TAG, at + BUCKET_BYTES)
            if at < 0:
                # Odd is that of a shard that nobody verified, or in which something of several steps runs.
                return 0 if sequence & 1 or sequences[number] != sequence else _MISSING
        return at >> 3

    def get_small(keys: list[bytes], clock: Clock) -> list[Entry | None] | None:
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
        entries: list[Entry | None] = []
        for key in keys:  # what follows is ``get``
            key_hash = digest(key, seed)
            low = key_hash & low_mask
            high = key_hash >> HIGH_SHIFT
            bucket = directory[low >> directory_shift] + (high & bucket_mask)
            slot = bucket + (high & 7 or 7)
            word = words[slot]
            if word >> TAG_SHIFT != low & TAG_MASK:
                slot = elsewhere(low, high)
                if slot == _MISSING:
                    entries.append(None)
                    continue
                word = words[slot]
                bucket = slot - (slot & 7)
            key_len = len(key)
            at = (word & location_mask) << 3
            try:
                stored_len, flags, value_len, version, stored = unpackers[key_len](mem, at)
            except (IndexError, StructError):
                stored = None
            if (
                stored == key
                and stored_len == key_len
                and flags <= CALLER_FLAGS
                and value_len <= inline_bytes
                and slot
            ):
                at += HEAD_BYTES + key_len
                value = mem[at : at + value_len]
                if words[slot] == word:
                    at = bucket * 7 + slot
                    if counts[at] < COUNT_MAX:
                        counts[at] += 1
                    entries.append((value, flags, version, 0, slot, word, b""))
                    continue
            entry = find(key_hash, key, clock)
            if entry and len(entry[0]) > inline_bytes:
                return None
            entries.append(entry)
        return entries

    return get, get_small
