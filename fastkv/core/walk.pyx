# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: nonecheck=False, embedsignature=True, auto_pickle=False, autotestdict=False
"""Walking through the slots of a page, as ``fastkv.store.scan`` does it, and giving back the log of a shard.

In: a few slots, and what may be returned of them. Out: the ``Stretch`` that the readable walk would return.
Which slots come next, what a cursor is, when a shard has to be locked and what is believed without that is
the readable one's to say. A slot word is read, then its record is looked at and copied, then the word is read
again: memory that was used anew meanwhile is bounded like any other, and counts for nothing. A slot that is
not ordinary is given to the readable walk, alone: a large value, a key longer than the core hashes, a record
that is damaged or is not its slot's, a word that has changed meanwhile.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp

from fastkv.core.engine cimport Engine, pthread_mutex_unlock
from fastkv.core.hashing cimport LONGEST_HASHED, hash_short
from fastkv.core.index cimport is_page
from fastkv.core.layout cimport (
    BUCKET_WORDS,
    CALLER_FLAGS,
    FRAGMENT,
    LARGE,
    TAG_MASK,
    TAG_SHIFT,
    Arena,
    row_of,
)
from fastkv.core.native cimport fence_acquire, load_acquire, load_relaxed, prefetch, unlikely
from fastkv.core.records cimport Record, is_whole, parse_record, trailing_bytes
from fastkv.core.segments cimport give_back, is_log_of

include "sources.pxi"

cdef extern from "string.h" nogil:
    const void *memmem(const void *, size_t, const void *, size_t)

cdef enum:
    # As ``fastkv.store.scan`` counts an entry.
    ENTRY_OVERHEAD = 16
    # The records of so many slots are fetched before the first of them is looked at: most of what an entry
    # costs is waiting for memory.
    AHEAD_WORDS = 32
    AHEAD_ROWS = 8

# Where a stretch is, what bounds it, and what was counted on the way.
cdef struct Part:
    uint64_t base
    uint64_t at
    uint64_t end
    int64_t room
    int64_t most
    uint64_t now_ms
    bint first
    bint full
    int64_t looked
    int64_t met
    int64_t size

# A pattern in parts; those that it has not got are empty.
cdef struct Pattern:
    # Whether only the prefix matches; else stars stand behind it and around the infix.
    bint literal
    const uint8_t *prefix
    size_t prefix_len
    const uint8_t *infix
    size_t infix_len
    const uint8_t *suffix
    size_t suffix_len


cdef inline void take_part(
    tuple parts, Py_ssize_t number, const uint8_t **part, size_t *part_len
) noexcept:
    cdef bytes raw = <bytes> PyTuple_GET_ITEM(parts, number)
    part[0] = <const uint8_t *> PyBytes_AS_STRING(raw)
    part_len[0] = PyBytes_GET_SIZE(raw)


cdef bint take_pattern(object glob, Pattern *pattern) except -1:
    """Take a pattern apart; one that has no parts is matched by the caller, and every key is returned.

    What it points to is the pattern's.
    """
    cdef tuple parts
    cdef Py_ssize_t count
    pattern[0] = Pattern(False, NULL, 0, NULL, 0, NULL, 0)
    parts = None if glob is None else glob.parts
    if parts is None:
        return False
    count = PyTuple_GET_SIZE(parts)
    if not 1 <= count <= 3:
        raise ValueError("a pattern has one part to three")
    pattern.literal = count == 1
    take_part(parts, 0, &pattern.prefix, &pattern.prefix_len)
    if count == 3:
        take_part(parts, 1, &pattern.infix, &pattern.infix_len)
    if count > 1:
        take_part(parts, count - 1, &pattern.suffix, &pattern.suffix_len)
    return True


cdef inline bint matches(const Pattern *pattern, const uint8_t *key, size_t key_len) noexcept:
    """Return whether a key matches, as ``Glob.matches``."""
    cdef size_t outer_len = pattern.prefix_len + pattern.suffix_len
    cdef const uint8_t *key_end
    if key_len < outer_len + pattern.infix_len or (pattern.literal and key_len != outer_len):
        return False
    if pattern.prefix_len and memcmp(key, pattern.prefix, pattern.prefix_len):
        return False
    key_end = key + key_len
    if pattern.suffix_len and memcmp(key_end - pattern.suffix_len, pattern.suffix, pattern.suffix_len):
        return False
    return pattern.infix_len == 0 or memmem(
        key + pattern.prefix_len, key_len - outer_len, pattern.infix, pattern.infix_len
    ) != NULL


cdef inline void fetch_records(const Arena *arena, uint64_t slot, uint64_t end) noexcept:
    """Have the records of some slots fetched, wherever their words lead."""
    cdef uint64_t word
    while slot < end:
        word = load_relaxed(arena.words + slot)
        if word and slot & (BUCKET_WORDS - 1) and word & arena.location_mask < arena.total_words:
            prefetch(arena.words + (word & arena.location_mask))
        slot += 1


cdef inline bint is_key_of(
    const Arena *arena, uint64_t word, const Record *record, uint64_t seed
) noexcept:
    """Return whether a record has a key that is hashed here, and is that of its slot word."""
    return (
        0 < record.key_len <= LONGEST_HASHED
        and (word >> arena.version_shift ^ record.version) & arena.version_mask == 0
        and (hash_short(record.key, record.key_len, seed) ^ word >> TAG_SHIFT) & TAG_MASK == 0
    )


cdef inline bint takes(Part *part, int64_t size) noexcept:
    """Return whether a bound lets one more entry in; else the stretch is full."""
    part.full = part.met == part.most or (size > part.room - part.size and not (part.first and not part.met))
    return not part.full


cdef inline tuple entry_of(const Record *record, uint64_t trailing):
    """A ``Scanned``, copied out of the arena."""
    cdef uint64_t value_len = record.content_len - trailing
    cdef bytes metadata = b""
    if trailing:
        metadata = PyBytes_FromStringAndSize(<const char *> record.content + value_len, trailing - 1)
    return (
        PyBytes_FromStringAndSize(<const char *> record.key, record.key_len),
        PyBytes_FromStringAndSize(<const char *> record.content, value_len),
        record.flags & CALLER_FLAGS,
        record.version,
        record.deadline_ms,
        metadata,
    )


@cython.final
cdef class Walk:
    """Goes through slots for a ``Scanner`` or a ``KeyScanner``."""

    cdef Engine engine
    cdef object readable
    cdef bint with_values

    def __cinit__(self, Engine engine not None, object readable, bint with_values) -> None:
        self.engine = engine
        self.readable = readable
        self.with_values = with_values

    def slots(
        self, uint64_t base, uint64_t start, uint64_t end, int64_t room, int64_t most, uint64_t now_ms,
        bint first, object glob,
    ) -> tuple:
        """Read the entries of a few slots, as ``Walker.slots``."""
        cdef const Arena *arena = &self.engine.arena
        cdef Part part = Part(base, start, end, room, most, now_ms, first, False, 0, 0, 0)
        cdef Pattern pattern
        cdef list found = []
        if arena.words == NULL or not is_page(arena, base) or not start <= end <= arena.segment_words:
            return self.readable.slots(base, start, end, room, most, now_ms, first, glob)
        take_pattern(glob, &pattern)
        while part.at < end and not part.full:
            if not part.at & (AHEAD_WORDS - 1) or part.at == start:
                fetch_records(arena, base + part.at, base + min((part.at | (AHEAD_WORDS - 1)) + 1, end))
            if not self.look_at(&part, &pattern, found):
                self.leave(&part, glob, found)
            part.at += not part.full
        return found, part.at, part.full, part.looked, part.met, part.size

    def key_at(self, uint64_t slot, uint64_t now_ms) -> bytes:
        """The key of the entry in a slot, as ``Picker.key_at``."""
        cdef const Arena *arena = &self.engine.arena
        cdef uint64_t word
        cdef Record record
        cdef bytes key
        if arena.words == NULL or slot >= arena.total_words:
            return None
        word = load_acquire(arena.words + slot)
        if not word or not parse_record(arena, word & arena.location_mask, &record):
            return None
        if record.flags & FRAGMENT or not is_whole(arena, word, &record):
            return None
        if record.deadline_ms and record.deadline_ms <= now_ms:
            return None
        key = PyBytes_FromStringAndSize(<const char *> record.key, record.key_len)
        fence_acquire()
        return key if load_relaxed(arena.words + slot) == word else None

    cdef bint look_at(self, Part *part, const Pattern *pattern, list found) except -1:
        """Read the entry of a slot.

        Returns:
            False if the readable walk has to look at it; nothing has been counted then.
        """
        cdef const Arena *arena = &self.engine.arena
        cdef uint64_t slot = part.base + part.at
        cdef uint64_t word = load_acquire(arena.words + slot)
        cdef uint64_t trailing = 0
        cdef int64_t size = ENTRY_OVERHEAD
        cdef object item = None
        cdef Record record
        if not word or not slot & (BUCKET_WORDS - 1):
            return True
        if unlikely(not parse_record(arena, word & arena.location_mask, &record) or record.flags & FRAGMENT):
            return False
        if self.with_values:
            trailing = trailing_bytes(&record)
            if unlikely(
                record.flags & LARGE or trailing > record.content_len or not is_whole(arena, word, &record)
            ):
                return False
            size += record.content_len - (1 if trailing else 0)
        elif unlikely(not is_key_of(arena, word, &record, self.engine.seed)):
            return False
        size += record.key_len
        if not record.deadline_ms or record.deadline_ms > part.now_ms:
            if unlikely(not takes(part, size)):
                part.looked += 1
                return True
            if self.with_values:
                item = entry_of(&record, trailing)
            elif matches(pattern, record.key, record.key_len):
                item = PyBytes_FromStringAndSize(<const char *> record.key, record.key_len)
            part.met += 1
            part.size += size
        else:
            size = 0
        fence_acquire()
        if unlikely(load_relaxed(arena.words + slot) != word):
            part.met -= size != 0
            part.size -= size
            return False
        part.looked += 1
        if item is not None:
            found.append(item)
        return True

    cdef bint leave(self, Part *part, object glob, list found) except -1:
        """Have the readable walk read a slot."""
        some, _end, full, looked, met, size = self.readable.slots(
            part.base,
            part.at,
            part.at + 1,
            part.room - part.size,
            part.most - part.met,
            part.now_ms,
            part.first and not part.met,
            glob,
        )
        found += some
        part.full = full
        part.looked += <int64_t> looked
        part.met += <int64_t> met
        part.size += <int64_t> size
        return True


cdef Py_ssize_t give_back_all(
    const Arena *arena, uint64_t shard, const uint64_t *segments, Py_ssize_t count
) noexcept:
    """Give back segments of a shard's log, under the pool's lock, up to the first that is none."""
    cdef Py_ssize_t done = 0
    while done < count and is_log_of(arena, segments[done], shard):
        if done + AHEAD_ROWS < count:
            prefetch(arena.words + row_of(arena, segments[done + AHEAD_ROWS]))
        give_back(arena, segments[done])
        done += 1
    return done


@cython.final
cdef class Log:
    """Gives back the logs of shards whose slots are all empty."""

    cdef Engine engine

    def __cinit__(self, Engine engine not None) -> None:
        self.engine = engine

    def give_back(self, uint64_t shard, list segments not None) -> int:
        """Return segments to the pool, as ``Segments.give_back`` one after the other.

        Args:
            shard: the number of their owner, whose lock is held.
            segments: its segments, in no queue.

        Returns:
            How many of them, from the first one on, were given back: what is behind them is the readable
            pool's to give back, or to recover.
        """
        cdef const Arena *arena = &self.engine.arena
        cdef uint64_t *numbers = <uint64_t *> malloc((len(segments) + 1) * sizeof(uint64_t))
        cdef Py_ssize_t i, done = 0
        if numbers == NULL:
            raise MemoryError
        try:
            for i in range(len(segments)):
                numbers[i] = segments[i]
            if arena.words == NULL:
                return 0
            if self.engine.try_pool():
                done = give_back_all(arena, shard, numbers, len(segments))
                pthread_mutex_unlock(self.engine.pool_mutex)
            return done
        finally:
            free(numbers)
