"""The short ways of a write: all that happens for the ordinary entry, written out.

Ordinary is: the entry is short, has neither deadline nor metadata, and its record fits into the open segment.
For all else they ask ``Shard.put`` and ``Shard.write``, which are the whole of it and their readable twins.
They are closures, because a cell is read in half the time of an attribute of ``self``.
"""

from __future__ import annotations

from struct import error as StructError  # noqa: N812
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from xxhash import xxh3_64_intdigest, xxh32_digest

from fastkv.store.index import HIGH_SHIFT
from fastkv.store.layout import (
    CLOSED,
    POOL_GHOST_WORDS,
    SEG_DEAD,
    SEG_HEAD,
    SEG_STATE,
    SEGMENT_ROW,
    SH_ENTRIES,
    SH_MOST_DEAD,
    SH_OPEN,
    SH_VERSION,
    TAG_BITS,
    TAG_MASK,
    TAG_SHIFT,
)
from fastkv.store.records import (
    CALLER_FLAGS,
    FIXED_BYTES,
    LONGEST_SHORT_KEY,
    pack_head,
    unpack_with_key,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastkv.store.ghosts import Ghosts
    from fastkv.store.index import Index
    from fastkv.store.layout import Arena, Geometry
    from fastkv.store.repair import Guard
    from fastkv.store.segments import Segments
    from fastkv.store.shard import Shard
    from fastkv.store.update import Updater

# From a row's dead words to its other fields.
_TO_STATE: Final = SEG_STATE - SEG_DEAD
_TO_HEAD: Final = SEG_HEAD - SEG_DEAD


class Put(Protocol):
    """How entries are put."""

    def __call__(
        self,
        key: bytes,
        value: bytes,
        clock: Callable[[], int],
        flags: int = 0,
        deadline_ms: int = 0,
        metadata: bytes = b"",
    ) -> int:
        """Insert or replace an entry.

        Args:
            key: 1 to ``max_key_bytes``.
            value: up to ``max_value_bytes``.
            clock: milliseconds now; called only if room has to be made.
            flags: 0 to 255, the caller's own.
            deadline_ms: when the entry is gone, on the caller's clock; 0: never.
            metadata: what the caller wants to know of the value, up to ``MAX_METADATA_BYTES``. It belongs to
                the entry: whatever copies, moves or retimes that keeps it.

        Returns:
            The entry's version, larger than each that the key had before.

        Raises:
            ValueError: if the metadata is too long.
            KeyTooLong: if no arena with such segments takes such a key.
            ValueTooLong: if no arena of this size takes such a value.
            StoreFull: if no room could be made.
            StoreBusy: if a lock was not free within the bound.
        """
        ...


class Write(Protocol):
    """How a record becomes the entry of a slot."""

    def __call__(
        self,
        shard: Shard,
        slot: int,
        old: int,
        old_words: int,
        key_hash: int,
        key: bytes,
        content: bytes,
        flags: int,
        deadline_ms: int,
    ) -> int:
        """As ``Shard.write``.

        Args:
            shard: the shard, whose lock is held.
            slot: the slot.
            old: the word that stands there, 0 if it is empty.
            old_words: words of its record, if that has neither deadline nor fragments; else 0.
            key_hash: the key's hash.
            key: the key.
            content: value and metadata, by ``join_metadata``.
            flags: those of the record.
            deadline_ms: 0 for none.

        Returns:
            The entry's version; 0 if room must be made first, and then nothing has changed.
        """
        ...


class _Measures(NamedTuple):
    """What leads from a slot word to its segment's row, and from a record to its word."""

    segment_mask: int
    row_shift: int
    heads_at: int
    deads_at: int
    version_mask: int
    version_shift: int
    tag_shift: int


def _measures(geometry: Geometry) -> _Measures:
    segment_shift = geometry.segment_words.bit_length() - 1
    return _Measures(
        segment_mask=(1 << geometry.location_bits) - geometry.segment_words,
        row_shift=segment_shift - (SEGMENT_ROW.bit_length() - 1),
        heads_at=geometry.table_at + SEG_HEAD,
        deads_at=geometry.table_at + SEG_DEAD,
        version_mask=(1 << geometry.version_bits) - 1,
        version_shift=geometry.location_bits,
        tag_shift=TAG_SHIFT - geometry.location_bits,
    )


def short_write(arena: Arena, segments: Segments) -> Write:
    """Make the short way to write an entry's record.

    Args:
        arena: the arena.
        segments: its pool.

    Returns:
        It.
    """
    mem, words = arena.mem, arena.words
    segment_words = arena.geometry.segment_words
    inline_words = segment_words // 8 - 1  # with room for a deadline, as everywhere
    location_mask = (1 << arena.geometry.location_bits) - 1
    segment_mask, row_shift, heads_at, deads_at, version_mask, version_shift, tag_shift = _measures(
        arena.geometry
    )
    checksum, pack = xxh32_digest, pack_head

    def write(
        shard: Shard,
        slot: int,
        old: int,
        old_words: int,
        key_hash: int,
        key: bytes,
        content: bytes,
        flags: int,
        deadline_ms: int,
    ) -> int:
        key_len = len(key)
        content_len = len(content)
        length = key_len + content_len + FIXED_BYTES >> 3
        # ``Log.append``.
        header = shard.header
        opened = words[header + SH_OPEN]
        head_at = ((opened & segment_mask) >> row_shift) + heads_at
        head = words[head_at]
        after = head + length
        if deadline_ms or length > inline_words or not opened or after > segment_words:
            return shard.write(slot, old, key_hash, key, content, flags, deadline_ms)
        version = words[header + SH_VERSION] + 1
        record = pack(key_len, flags, content_len, version) + key + content
        record += checksum(record)
        place = opened + head
        at = (place & location_mask) << 3
        mem[at : at + len(record)] = record
        words[head_at] = after
        words[header + SH_VERSION] = version
        words[slot] = ((key_hash & TAG_MASK) << tag_shift | version & version_mask) << version_shift | place
        if not old:
            words[header + SH_ENTRIES] += 1
        elif not old_words:
            shard.bury(old)
        else:
            # ``Segments.bury``.
            dead_at = ((old & segment_mask) >> row_shift) + deads_at
            dead = words[dead_at] + old_words
            words[dead_at] = dead
            if words[dead_at + _TO_STATE] & 0xFF >= CLOSED and (
                dead == words[dead_at + _TO_HEAD] or dead > words[header + SH_MOST_DEAD]
            ):
                segments.free_if_dead(header, segments.segment_named(old))
        return version

    return write


def short_put(
    arena: Arena,
    shards: list[Shard],
    segments: Segments,
    index: Index,
    ghosts: Ghosts,
    seed: int,
    guard: Guard,
    updater: Updater,
) -> Put:
    """Make the short way of a put.

    Args:
        arena: the arena.
        shards: its shards.
        segments: its pool.
        index: its index.
        ghosts: who was evicted not long ago.
        seed: seed of the keys' hashes.
        guard: repairs a shard.
        updater: puts what is not ordinary, and what there is no room for.

    Returns:
        It.
    """
    geometry = arena.geometry
    mem, words = arena.mem, arena.words
    directory, bucket_mask, location_mask = index.directory, index.bucket_mask, index.location_mask
    search, recalls = index.search, ghosts.recalls
    directory_shift = TAG_BITS - geometry.directory_bits
    low_mask = (geometry.shards << TAG_BITS) - 1
    segment_words = geometry.segment_words
    inline_words = segment_words // 8 - 1  # with room for a deadline, as everywhere
    segment_mask, row_shift, heads_at, deads_at, version_mask, version_shift, tag_shift = _measures(geometry)
    digest, checksum, pack, unpackers = xxh3_64_intdigest, xxh32_digest, pack_head, unpack_with_key
    by_number = [
        (shard, shard.lock.attempt, shard.lock.release, shard.header + SH_OPEN, shard.header + SH_VERSION)
        for shard in shards
    ]

    def put(
        key: bytes,
        value: bytes,
        clock: Callable[[], int],
        flags: int = 0,
        deadline_ms: int = 0,
        metadata: bytes = b"",
    ) -> int:
        key_len = len(key)
        value_len = len(value)
        length = key_len + value_len + FIXED_BYTES >> 3
        if deadline_ms or metadata or length > inline_words or key_len > LONGEST_SHORT_KEY:
            return updater.put(key, value, clock, flags, deadline_ms, metadata)
        key_hash = digest(key, seed)
        low = key_hash & low_mask
        high = key_hash >> HIGH_SHIFT
        shard, attempt, release, open_at, version_at = by_number[low >> TAG_BITS]
        # ``holding`` written out: as a context manager it costs 1 µs more.
        code = attempt()
        if code and shard.lock.wait(code):
            guard.after_death(shard)
        try:
            # ``Index.locate``.
            tag = low & TAG_MASK
            page = directory[low >> directory_shift]
            slot = page + (high & bucket_mask) + (high & 7 or 7)
            old = words[slot]
            if old >> TAG_SHIFT != tag:
                stored_len = -1
            else:
                try:
                    stored_len, old_flags, old_len, _, stored = unpackers[key_len](
                        mem, (old & location_mask) << 3
                    )
                except StructError:  # what stands there, at the end of the arena, is shorter
                    stored_len = -1
            if stored_len != key_len or stored != key or old_flags > CALLER_FLAGS:
                slot, old, old_flags, old_len = search(tag, page, high, key)
            # ``write`` written out: the call would take 2,000 of 29,600 instructions.
            opened = words[open_at]
            head_at = ((opened & segment_mask) >> row_shift) + heads_at
            head = words[head_at]
            after = head + length
            recalled = not slot and words[POOL_GHOST_WORDS] and recalls(key_hash)
            if recalled or not opened or after > segment_words:
                version = shard.put(key_hash, key, value, flags, 0)
            elif not slot and not (slot := shard.vacancy(key_hash)):
                version = 0
            else:
                version = words[version_at] + 1
                record = pack(key_len, flags, value_len, version) + key + value
                record += checksum(record)
                place = opened + head
                at = (place & location_mask) << 3
                mem[at : at + len(record)] = record
                words[head_at] = after
                words[version_at] = version
                words[slot] = (tag << tag_shift | version & version_mask) << version_shift | place
                if not old:
                    words[shard.header + SH_ENTRIES] += 1
                elif old_flags > CALLER_FLAGS:
                    shard.bury(old)
                else:
                    dead_at = ((old & segment_mask) >> row_shift) + deads_at
                    dead = words[dead_at] + (key_len + old_len + FIXED_BYTES >> 3)
                    words[dead_at] = dead
                    if words[dead_at + _TO_STATE] & 0xFF >= CLOSED and (
                        dead == words[dead_at + _TO_HEAD] or dead > words[shard.header + SH_MOST_DEAD]
                    ):
                        segments.free_if_dead(shard.header, segments.segment_named(old))
        except BaseException:
            guard.after_failure(shard)
            raise
        release()
        return version or updater.put_with_room(shard, key_hash, key, value, clock, flags, 0)

    return put
