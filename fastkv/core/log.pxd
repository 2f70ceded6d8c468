"""A shard's log: where its next record goes, as ``fastkv.store.log`` has it. Under the shard's lock."""

from libc.stdint cimport uint64_t
from libc.string cimport memcpy

from fastkv.core.layout cimport (
    OPEN,
    OPEN_MAIN,
    SEG_GENERATION,
    SEG_HEAD,
    SH_OPEN,
    SH_OPEN_MAIN,
    SH_VERSION,
    VERSION_BITS,
    Arena,
    bytes_at,
    header_of,
    row_of,
    segment_of,
)
from fastkv.core.native cimport fence_release, store_release
from fastkv.core.records cimport NewEntry, build_record
from fastkv.core.segments cimport close_open, is_log_of, note_deadline, take

cdef struct Tail:
    bint main
    # The segment that takes records, and where it begins as a slot word without tag and version; 0 for none.
    uint64_t segment
    uint64_t opened
    # Words of it that are written.
    uint64_t head


cdef inline uint64_t open_at(const Arena *arena, uint64_t shard, bint main) noexcept nogil:
    """The word of a shard's header that says which segment takes records."""
    return header_of(arena, shard) + (SH_OPEN_MAIN if main else SH_OPEN)


cdef inline bint find_tail(const Arena *arena, uint64_t shard, bint main, Tail *tail) noexcept nogil:
    """Look where a log takes its next record.

    Returns:
        False if what stands there can be no segment of the shard's log, or its version none.
    """
    tail.main = main
    tail.opened = arena.words[open_at(arena, shard, main)]
    tail.segment = segment_of(arena, tail.opened)
    tail.head = arena.words[row_of(arena, tail.segment) + SEG_HEAD]
    if arena.words[header_of(arena, shard) + SH_VERSION] >> (VERSION_BITS - 1):
        return False
    return not tail.opened or (
        not tail.opened & (arena.segment_words - 1)
        and tail.head <= arena.segment_words
        and is_log_of(arena, tail.segment, shard)
    )


cdef inline bint has_room(const Arena *arena, const Tail *tail, uint64_t length) noexcept nogil:
    """Return whether a record fits into the open segment."""
    return tail.opened and tail.head + length <= arena.segment_words


cdef inline void open_segment(const Arena *arena, uint64_t shard, Tail *tail) noexcept nogil:
    """Close the open segment if there is one, and open another one of a pool that has one, under its lock."""
    cdef uint64_t field = open_at(arena, shard, tail.main)
    cdef uint64_t generation
    if tail.opened:
        close_open(arena, header_of(arena, shard), shard, field, tail.segment)
    tail.segment = take(arena, shard, OPEN_MAIN if tail.main else OPEN)
    generation = arena.words[row_of(arena, tail.segment) + SEG_GENERATION]
    tail.opened = generation << arena.generation_shift | tail.segment << arena.segment_shift
    tail.head = 0
    store_release(arena.words + field, tail.opened)


cdef inline uint64_t append(
    const Arena *arena, uint64_t shard, const Tail *tail, uint64_t length, const NewEntry *entry,
    uint64_t version,
) noexcept nogil:
    """Write a record, for which there is room, where no slot refers to yet.

    Returns:
        Its slot word without tag and version.
    """
    # What lay here before belonged to words that were cleared or replaced: that is seen before the bytes.
    fence_release()
    build_record(arena, (tail.opened + tail.head) & arena.location_mask, entry, version)
    return cover(arena, shard, tail, length, entry.deadline_ms)


cdef inline uint64_t append_copy(
    const Arena *arena, uint64_t shard, const Tail *tail, uint64_t length, uint64_t location,
    uint64_t deadline_ms,
) noexcept nogil:
    """Copy a record, for which there is room, from elsewhere in the arena; as ``append``."""
    cdef uint64_t place = tail.opened + tail.head
    fence_release()
    memcpy(bytes_at(arena, place & arena.location_mask), bytes_at(arena, location), length << 3)
    return cover(arena, shard, tail, length, deadline_ms)


cdef inline uint64_t cover(
    const Arena *arena, uint64_t shard, const Tail *tail, uint64_t length, uint64_t deadline_ms
) noexcept nogil:
    """Set the head of a segment past a record that was written at its end; as ``append``."""
    cdef uint64_t row = row_of(arena, tail.segment)
    store_release(arena.words + row + SEG_HEAD, tail.head + length)
    if deadline_ms:
        note_deadline(arena, header_of(arena, shard), row, deadline_ms)
    return tail.opened + tail.head
