"""Keys in the index and among the ghosts, as ``fastkv.store.index`` and ``ghosts`` have them."""

from libc.stdint cimport uint8_t, uint64_t

from fastkv.core.layout cimport (
    BUCKET_SLOTS,
    BUCKET_WORDS,
    HIGH_SHIFT,
    POOL_GHOST_WORDS,
    SECOND_BUCKET_SHIFT,
    TAG_BITS,
    TAG_MASK,
    TAG_SHIFT,
    Arena,
)
from fastkv.core.memory cimport are_equal
from fastkv.core.native cimport fence_acquire, likely, load_acquire, load_relaxed, prefetch, unlikely
from fastkv.core.records cimport Record, parse_record

cdef enum Search:
    ABSENT
    PRESENT
    # A slot was overwritten while its record was read, or leads to none.
    DISTURBED

cdef struct Buckets:
    uint64_t first
    uint64_t second
    # The home slot's number in the first one, 1 to 7.
    uint64_t home


cdef inline uint64_t page_of(const Arena *arena, uint64_t key_hash) noexcept nogil:
    """Where a key's page begins; whatever stands in the directory."""
    cdef uint64_t entry = (key_hash & arena.entry_mask) >> arena.entry_shift
    return load_acquire(arena.words + arena.directory_at + entry)


cdef inline bint is_page(const Arena *arena, uint64_t page) noexcept nogil:
    """Return whether a page may begin there."""
    return page < arena.total_words and not page & (arena.segment_words - 1)


cdef inline Buckets buckets_of(const Arena *arena, uint64_t key_hash, uint64_t page) noexcept nogil:
    """The two buckets in which a key may stand."""
    cdef Buckets buckets
    cdef uint64_t high = key_hash >> HIGH_SHIFT
    buckets.first = page + (high & arena.bucket_mask)
    buckets.second = page + (high >> SECOND_BUCKET_SHIFT & arena.bucket_mask)
    buckets.home = high & 7 or 7
    return buckets


cdef inline Search look_at(
    const Arena *arena, uint64_t slot, uint64_t tag, const uint8_t *key, size_t key_len,
    uint64_t *word, Record *record,
) noexcept nogil:
    """Return whether a slot is a key's; PRESENT holds only if the word still stands there afterwards."""
    word[0] = load_acquire(arena.words + slot)
    if likely(word[0] >> TAG_SHIFT != tag or not word[0]):
        return ABSENT
    if (
        parse_record(arena, word[0] & arena.location_mask, record)
        and record.key_len == key_len
        and are_equal(record.key, key, key_len)
    ):
        return PRESENT
    fence_acquire()
    return ABSENT if load_relaxed(arena.words + slot) == word[0] else DISTURBED


cdef inline Search search(
    const Arena *arena, const Buckets *buckets, uint64_t tag, const uint8_t *key, size_t key_len,
    uint64_t *slot, uint64_t *word, Record *record,
) noexcept nogil:
    """Find a key: the home slot first, where six of ten stand, then the rest of both buckets.

    Without the shard's lock a key that a split is moving may be missed.
    """
    cdef uint64_t bucket = buckets.first
    cdef int number
    cdef Search found
    slot[0] = bucket + buckets.home
    found = look_at(arena, slot[0], tag, key, key_len, word, record)
    if likely(found != ABSENT):
        return found
    while True:
        for number in range(1, BUCKET_WORDS):
            slot[0] = bucket + number
            found = look_at(arena, slot[0], tag, key, key_len, word, record)
            if unlikely(found != ABSENT):
                return found
        if bucket == buckets.second:
            return ABSENT
        bucket = buckets.second


cdef inline void prefetch_slots(const Arena *arena, uint64_t key_hash) noexcept nogil:
    """Have the first bucket of a key fetched that is looked up soon; whatever stands in the directory."""
    cdef uint64_t page = page_of(arena, key_hash)
    if likely(is_page(arena, page)):
        prefetch(arena.words + page + (key_hash >> HIGH_SHIFT & arena.bucket_mask))


cdef inline void prefetch_record(const Arena *arena, uint64_t key_hash) noexcept nogil:
    """Have its record fetched, too, if it stands in that bucket."""
    cdef uint64_t page = page_of(arena, key_hash), bucket, word
    cdef int number
    if unlikely(not is_page(arena, page)):
        return
    bucket = page + (key_hash >> HIGH_SHIFT & arena.bucket_mask)
    for number in range(1, BUCKET_WORDS):
        word = load_relaxed(arena.words + bucket + number)
        if word >> TAG_SHIFT == key_hash & TAG_MASK and word & arena.location_mask < arena.total_words:
            prefetch(arena.words + (word & arena.location_mask))


cdef inline uint64_t vacancy(const Arena *arena, const Buckets *buckets) noexcept nogil:
    """An empty slot for a new key, as ``Index.vacancy`` chooses it; 0 if both buckets are full."""
    cdef const uint64_t *first = arena.words + buckets.first
    cdef const uint64_t *second = arena.words + buckets.second
    cdef uint64_t in_first = 0, in_second = 0, at_first = 0, at_second = 0
    cdef int number
    for number in range(BUCKET_SLOTS, 0, -1):
        if not first[number]:
            in_first += 1
            at_first = number
        if not second[number]:
            in_second += 1
            at_second = number
    if in_first < BUCKET_SLOTS - 3 and in_second > in_first:
        return buckets.second + at_second
    if not in_first:
        return 0
    return buckets.first + (at_first if first[buckets.home] else buckets.home)


cdef inline uint64_t ghosts_of(const Arena *arena, uint64_t key_hash) noexcept nogil:
    """The word of the ghost table that a key's tag stands in if it was evicted; 0 if there is none."""
    cdef uint64_t ghosts = load_relaxed(arena.words + POOL_GHOST_WORDS)
    cdef uint64_t number, segment, base
    if not ghosts:
        return 0
    number = (key_hash >> HIGH_SHIFT) * ghosts >> (64 - HIGH_SHIFT)
    segment = number >> arena.segment_shift
    if segment >= arena.most_ghosts:
        return 0
    base = load_relaxed(arena.words + arena.ghosts_at + segment)
    if not is_page(arena, base):
        return 0
    return base + (number & (arena.segment_words - 1))


cdef inline bint was_evicted(const Arena *arena, uint64_t key_hash) noexcept nogil:
    """Return whether a key was evicted not long ago, as ``Ghosts.recalls``: a hint, read without a lock."""
    cdef uint64_t at = ghosts_of(arena, key_hash)
    cdef uint64_t tags
    cdef int bits
    if not at:
        return False
    tags = load_relaxed(arena.words + at)
    # At each byte, not only at whole tags, because the readable one searches bytes.
    for bits in range(0, 64 - TAG_BITS + 1, 8):
        if (tags >> bits ^ key_hash) & TAG_MASK == 0:
            return True
    return False
