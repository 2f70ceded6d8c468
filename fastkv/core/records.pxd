"""Records in the arena, as ``fastkv.store.records`` describes them."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from fastkv.core.hashing cimport checksum
from fastkv.core.layout cimport (
    CHECKSUM_BYTES,
    COMPACT,
    COMPACT_BYTES,
    DEADLINE,
    HEAD_BYTES,
    METADATA,
    Arena,
    bytes_at,
)
from fastkv.core.memory cimport put_bytes
from fastkv.core.native cimport likely, load_relaxed

cdef struct Record:
    const uint8_t *key
    const uint8_t *content
    uint32_t key_len
    uint32_t content_len
    uint32_t flags
    uint64_t version
    # 0 for none
    uint64_t deadline_ms
    # As far as the checksum.
    uint64_t size

# What is to be written; the memory is the caller's.
cdef struct NewEntry:
    const uint8_t *key
    size_t key_len
    const uint8_t *value
    size_t value_len
    # Up to 255 bytes.
    const uint8_t *metadata
    size_t metadata_len
    # The caller's.
    uint32_t flags
    # 0 for none
    uint64_t deadline_ms


cdef inline uint64_t head_bytes(uint32_t flags) noexcept nogil:
    """How far a record's key is from its beginning."""
    return (COMPACT_BYTES if flags & COMPACT else HEAD_BYTES) + (8 if flags & DEADLINE else 0)


cdef inline uint64_t record_words(uint64_t key_len, uint32_t flags, uint64_t content_len) noexcept nogil:
    """The length of a record in words."""
    return (head_bytes(flags) + key_len + content_len + CHECKSUM_BYTES + 7) >> 3


cdef inline uint64_t words_of(const Record *record) noexcept nogil:
    """The length of a record that was read, in words."""
    return (record.size + CHECKSUM_BYTES + 7) >> 3


cdef inline bint parse_record(const Arena *arena, uint64_t location, Record *record) noexcept nogil:
    """Read the head of what stands at a location; without the shard's lock that may be anything.

    Returns:
        False if no record can: what stands there would reach out of its segment.
    """
    cdef const uint64_t *words
    cdef uint64_t head, room, size
    if location >= arena.total_words:
        return False
    room = (arena.segment_words - (location & (arena.segment_words - 1))) << 3
    if room < HEAD_BYTES + CHECKSUM_BYTES:
        return False
    words = arena.words + location
    # Read once: what is bounded here is what is used.
    head = load_relaxed(words)
    record.flags = head >> 16 & 0xFFFF
    if likely(record.flags & COMPACT):
        record.key_len = head & 0xFF
        record.content_len = head >> 32 & 0xFFFF
        memcpy(&record.version, <const uint8_t *> words + 4, 8)
        record.version = record.version >> 16 | (head & 0xFF00) << 40
        size = COMPACT_BYTES
    else:
        record.key_len = head & 0xFFFF
        record.content_len = head >> 32
        record.version = words[1]
        size = HEAD_BYTES
    record.deadline_ms = 0
    if record.flags & DEADLINE:
        size += 8
    record.key = <const uint8_t *> words + size
    record.content = record.key + record.key_len
    size += record.key_len
    size += record.content_len
    record.size = size
    if size + CHECKSUM_BYTES > room:
        return False
    if record.flags & DEADLINE:
        memcpy(&record.deadline_ms, record.key - 8, 8)
    return True


cdef inline bint is_whole(const Arena *arena, uint64_t word, const Record *record) noexcept nogil:
    """Return whether checksum and version show a record to be whole and that of its slot word.

    Once its bytes were seen whole, no later load of this process sees older ones.
    """
    cdef const uint8_t *start = bytes_at(arena, word & arena.location_mask)
    cdef const uint8_t *end = record.content + record.content_len
    cdef uint32_t fits = checksum(start, end - start)
    return (
        memcmp(end, &fits, CHECKSUM_BYTES) == 0
        and (word >> arena.version_shift ^ record.version) & arena.version_mask == 0
    )


cdef inline uint64_t trailing_bytes(const Record *record) noexcept nogil:
    """How many bytes follow the value in a record's content: the metadata and its length."""
    if record.flags & METADATA and record.content_len:
        return <uint64_t> (<const volatile uint8_t *> record.content)[record.content_len - 1] + 1
    return 0


cdef inline uint64_t content_len_of(const NewEntry *entry) noexcept nogil:
    """Bytes of a record's content: value, metadata, and the length of that."""
    return entry.value_len + (entry.metadata_len + 1 if entry.metadata_len else 0)


cdef inline uint32_t flags_of(const NewEntry *entry) noexcept nogil:
    """The flags of a record; its key is one of those that the core takes, and its value not large."""
    return (
        entry.flags | COMPACT
        | (METADATA if entry.metadata_len else 0)
        | (DEADLINE if entry.deadline_ms else 0)
    )


cdef inline void build_record(
    const Arena *arena, uint64_t location, const NewEntry *entry, uint64_t version
) noexcept nogil:
    """Write a record; the bytes behind it, up to a whole word, stay as they are."""
    cdef uint8_t *start = bytes_at(arena, location)
    cdef uint8_t *end = start + COMPACT_BYTES
    cdef uint64_t lengths = content_len_of(entry) << 32 | entry.key_len
    cdef uint32_t fits
    if entry.deadline_ms:
        memcpy(end, &entry.deadline_ms, 8)
        end += 8
    (<uint64_t *> start)[0] = version << 48 | version >> 48 << 8 | <uint64_t> flags_of(entry) << 16 | lengths
    (<uint32_t *> start)[2] = <uint32_t> (version >> 16)
    end = put_bytes(end, entry.key, entry.key_len)
    end = put_bytes(end, entry.value, entry.value_len)
    if entry.metadata_len:
        end = put_bytes(end, entry.metadata, entry.metadata_len)
        end[0] = <uint8_t> entry.metadata_len
        end += 1
    fits = checksum(start, end - start)
    memcpy(end, &fits, CHECKSUM_BYTES)
