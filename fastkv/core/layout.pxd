"""The arena as the core sees it: the numbers of ``fastkv.store.layout`` and ``records``, and its measures.

The names are those of the Python modules, and ``fastkv.core.engine`` compares each number with them when it
is imported. Words are read and written through ``native``. The arena may hold any bytes, so nothing here
follows an address out of it without a bound.
"""

from libc.stdint cimport uint8_t, uint64_t

cdef enum:
    TAG_BITS = 16
    TAG_SHIFT = 48
    TAG_MASK = 0xFFFF
    BUCKET_WORDS = 8
    BUCKET_SLOTS = 7
    COUNT_MAX = 3
    RESERVE = 3
    UNVERIFIED = 1
    OFFSET_BITS = 15

    POOL_FREE_HEAD = 16
    POOL_FREE_TAIL = 17
    POOL_FREE_COUNT = 18
    POOL_FRESH = 19
    POOL_STAMP = 20
    POOL_CREDIT = 21
    POOL_SMALL = 22
    POOL_MAIN = 23
    POOL_GHOST_WORDS = 26

    SH_VERSION = 0
    SH_ENTRIES = 1
    SH_OPEN = 3
    SH_OPEN_MAIN = 4
    SH_OLDEST = 5
    SH_MAIN_OLDEST = 7
    SH_DEADEST = 9
    SH_MOST_DEAD = 10
    SH_EXPIRED = 12
    SH_RELOCATED = 13
    SH_DUE = 15
    SHARD_WORDS = 16

    SEG_STATE = 0
    SEG_GENERATION = 1
    SEG_HEAD = 2
    SEG_DEAD = 3
    SEG_NEXT = 4
    SEG_PREV = 5
    SEG_STAMP = 6
    SEG_DUE = 7
    SEGMENT_ROW = 8

    FREE = 0
    OPEN = 3
    OPEN_MAIN = 4
    CLOSED = 5
    CLOSED_MAIN = 6

    HIGH_SHIFT = 34
    SECOND_BUCKET_SHIFT = 15

    HEAD_BYTES = 16
    COMPACT_BYTES = 12
    CHECKSUM_BYTES = 4
    CALLER_FLAGS = 0xFF
    DEADLINE = 0x100
    LARGE = 0x200
    FRAGMENT = 0x400
    METADATA = 0x800
    COMPACT = 0x1000
    VERSION_BITS = 56
    MAX_METADATA_BYTES = 255

    LEAST_RECORD_WORDS = 3

    CREDIT_SEGMENTS = 64


cdef struct Arena:
    # The mapping; NULL once the engine is closed.
    uint64_t *words
    uint64_t total_words
    # As in ``Geometry``.
    uint64_t segments
    uint64_t first_segment
    uint64_t segment_words
    int segment_shift
    uint64_t inline_words
    uint64_t sequences_at
    uint64_t shards_at
    uint64_t directory_at
    uint64_t table_at
    uint64_t ghosts_at
    uint64_t most_ghosts
    uint64_t location_mask
    int version_shift
    uint64_t version_mask
    int generation_shift
    uint64_t generation_mask
    uint64_t entry_mask
    int entry_shift
    uint64_t bucket_mask


cdef inline uint8_t *bytes_at(const Arena *arena, uint64_t location) noexcept nogil:
    return <uint8_t *> (arena.words + location)


cdef inline uint64_t header_of(const Arena *arena, uint64_t shard) noexcept nogil:
    """Word offset of a shard's header."""
    return arena.shards_at + shard * SHARD_WORDS


cdef inline uint64_t sequence_of(const Arena *arena, uint64_t shard) noexcept nogil:
    """Word offset of a shard's sequence word."""
    return arena.sequences_at + shard


cdef inline uint64_t shard_of(const Arena *arena, uint64_t key_hash) noexcept nogil:
    """The shard of a key."""
    return (key_hash & arena.entry_mask) >> TAG_BITS


cdef inline uint64_t shards_of(const Arena *arena) noexcept nogil:
    """How many shards there are."""
    return (arena.entry_mask + 1) >> TAG_BITS


cdef inline bint is_pooled(const Arena *arena, uint64_t segment) noexcept nogil:
    """Return whether a number is that of a segment of the pool."""
    return segment - arena.first_segment < arena.segments - arena.first_segment


cdef inline uint64_t row_of(const Arena *arena, uint64_t segment) noexcept nogil:
    """Word offset of a segment's row; for a number that is none, the row of segment 0, which nothing uses."""
    return arena.table_at + (segment if segment < arena.segments else 0) * SEGMENT_ROW


cdef inline uint64_t segment_of(const Arena *arena, uint64_t place) noexcept nogil:
    """The segment in which a slot word's record lies."""
    return (place & arena.location_mask) >> arena.segment_shift


cdef inline uint8_t *count_at(const Arena *arena, uint64_t slot) noexcept nogil:
    """A slot's access count: a byte in the first word of its bucket."""
    return bytes_at(arena, slot & ~<uint64_t> (BUCKET_WORDS - 1)) + (slot & (BUCKET_WORDS - 1))


cdef inline uint64_t word_of(
    const Arena *arena, uint64_t key_hash, uint64_t version, uint64_t place
) noexcept nogil:
    """The slot word of a record; ``place`` is that without tag and version."""
    cdef uint64_t check = (version & arena.version_mask) << arena.version_shift
    return (key_hash & TAG_MASK) << TAG_SHIFT | check | place


cdef inline uint64_t moved(const Arena *arena, uint64_t word, uint64_t place) noexcept nogil:
    """The slot word of an entry whose record lies elsewhere now; its tag and version stay."""
    cdef uint64_t kept = <uint64_t> TAG_MASK << TAG_SHIFT | arena.version_mask << arena.version_shift
    return word & kept | place
