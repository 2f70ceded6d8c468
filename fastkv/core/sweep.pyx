# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: nonecheck=False, embedsignature=True, auto_pickle=False, autotestdict=False
"""Going through the records of a segment, as ``fastkv.store.sweep`` does it, for those that are ordinary.

In: a part of a segment and the rule for it, under the shard's lock, which the caller holds. Out: how far that
came, and what the caller has to count. A stretch ends before the first record that is not ordinary: one of a
large entry, one with a long key, one that finds no room in the main queue, whatever is damaged. Nothing has
been done with that record then, and the readable sweep looks at it. It would do the same with all others:
after either one the arenas are equal byte by byte.
"""

cimport cython
from cpython.buffer cimport Py_buffer, PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport free, malloc

from fastkv.core.engine cimport Engine, pthread_mutex_trylock, pthread_mutex_unlock
from fastkv.core.hashing cimport LONGEST_HASHED, hash_short
from fastkv.core.index cimport Buckets, buckets_of, ghosts_of, is_page, page_of
from fastkv.core.layout cimport (
    BUCKET_WORDS,
    DEADLINE,
    FRAGMENT,
    LARGE,
    LEAST_RECORD_WORDS,
    OFFSET_BITS,
    SH_RELOCATED,
    TAG_BITS,
    TAG_MASK,
    TAG_SHIFT,
    Arena,
    count_at,
    header_of,
    is_pooled,
    moved,
    segment_of,
)
from fastkv.core.log cimport Tail, append_copy, find_tail, has_room, open_segment
from fastkv.core.native cimport fence_release, likely, prefetch, store_relaxed, store_release, unlikely
from fastkv.core.records cimport Record, parse_record, words_of
from fastkv.core.segments cimport add, has_segment, is_log_of

include "sources.pxi"

cdef extern from "errno.h" nogil:
    int EOWNERDEAD

cdef enum:
    # So many records are hashed, and their slots fetched, before the first of them is looked at: most of what
    # a record costs is waiting for memory.
    AHEAD = 8

cdef enum Outcome:
    DONE
    # The record is none that is dealt with here; nothing has been done with it.
    LEFT
    # The same, and the pool's lock is held: its owner has died.
    POOL_DIED

cdef struct Part:
    uint64_t shard
    uint64_t segment
    # The access count from which a record is kept; below 0 nothing is touched but what has expired.
    int least
    bint promotes
    uint64_t now_ms
    # Where the next record lies, and where there are no more.
    uint64_t location
    uint64_t end
    # How many may be looked at, and moved, from here on.
    uint64_t looks
    uint64_t moves
    # Words that are dead now, entries that have expired.
    uint64_t dead
    uint64_t expired
    # How many were evicted, and how many deadlines have not passed.
    uint64_t evicted
    uint64_t fresh

# An ordinary record.
cdef struct Seen:
    uint64_t location
    uint64_t length
    # Of its key; only if it may be dropped or moved.
    bint counts
    uint64_t key_hash
    bint has_deadline
    bint has_passed
    uint64_t deadline_ms


cdef inline uint64_t slot_of(
    const Arena *arena, uint64_t key_hash, uint64_t page, uint64_t location
) noexcept nogil:
    """The slot whose word leads to a record, 0 if none does."""
    cdef Buckets buckets = buckets_of(arena, key_hash, page)
    cdef uint64_t slot = buckets.first + buckets.home
    cdef uint64_t bucket = buckets.first
    cdef uint64_t word = arena.words[slot]
    cdef int number
    if likely(word & arena.location_mask == location):
        return slot
    while True:
        for number in range(1, BUCKET_WORDS):
            word = arena.words[bucket + number]
            if word & arena.location_mask == location and word >> TAG_SHIFT == key_hash & TAG_MASK:
                return bucket + number
        if bucket == buckets.second:
            return 0
        bucket = buckets.second


@cython.final
cdef class Sweeper:
    """Sweeps the ordinary records of one store."""

    cdef Engine engine
    # As many as a segment can have records.
    cdef uint64_t most
    cdef uint64_t *evicted
    cdef uint64_t *fresh

    def __cinit__(self, Engine engine not None) -> None:
        self.engine = engine
        self.most = engine.arena.segment_words // LEAST_RECORD_WORDS + 1
        self.evicted = <uint64_t *> malloc(self.most * sizeof(uint64_t))
        self.fresh = <uint64_t *> malloc(self.most * sizeof(uint64_t))
        if self.evicted == NULL or self.fresh == NULL:
            raise MemoryError

    def __dealloc__(self) -> None:
        free(self.evicted)
        free(self.fresh)

    def stretch(
        self,
        uint64_t shard,
        uint64_t segment,
        int least,
        bint promotes,
        uint64_t now_ms,
        uint64_t location,
        uint64_t end,
        uint64_t looks,
        uint64_t moves,
        list deadlines,
    ) -> tuple:
        """Go through ordinary records, up to the first one that is not.

        Args:
            shard: the number of the owner, whose lock is held.
            segment: a segment of its log that is not freed with its last record.
            least: the access count from which a record is kept; below 0 only what has expired goes.
            promotes: whether the count of what is kept begins anew; else it is lowered by ``least``.
            now_ms: now.
            location: where a record lies.
            end: the segment's head.
            looks: how many records to look at.
            moves: how many of them to move.
            deadlines: where to note those that have not passed, as in ``Plan.fresh``; or None.

        Returns:
            Where the next record lies, how many looks and moves are left, how many words are dead now, how
            many entries have expired, and the hashes of the keys that were evicted, eight bytes each.

        Raises:
            StoreError: what the readable pool raises where its lock's owner has died.
        """
        cdef Part part = Part(
            shard, segment, least, promotes, now_ms, location, end, looks, moves, 0, 0, 0, 0
        )
        cdef uint64_t i
        if self.go_through(&part, deadlines is not None) == POOL_DIED:
            self.engine.readable.recover_pool()
        # Before the caller frees the memory of these records: their words were cleared or replaced.
        fence_release()
        for i in range(part.fresh):
            deadlines.append(self.fresh[i])
        return (
            part.location,
            part.looks,
            part.moves,
            part.dead,
            part.expired,
            PyBytes_FromStringAndSize(<const char *> self.evicted, part.evicted * sizeof(uint64_t)),
        )

    def remember(self, object key_hashes) -> None:
        """Take note of evictions, as ``Ghosts.remember``.

        Args:
            key_hashes: the hashes of the keys, eight bytes each.
        """
        cdef const Arena *arena = &self.engine.arena
        cdef const uint64_t *hashes
        cdef Py_buffer buffer
        cdef uint64_t at
        cdef Py_ssize_t i, count
        PyObject_GetBuffer(key_hashes, &buffer, PyBUF_SIMPLE)
        if arena.words != NULL:
            hashes = <const uint64_t *> buffer.buf
            count = buffer.len // <Py_ssize_t> sizeof(uint64_t)
            for i in range(count):
                if i + AHEAD < count:
                    prefetch(arena.words + ghosts_of(arena, hashes[i + AHEAD]))
                at = ghosts_of(arena, hashes[i])
                if at and is_pooled(arena, segment_of(arena, at)):
                    store_relaxed(arena.words + at, arena.words[at] << TAG_BITS | hashes[i] & TAG_MASK)
        PyBuffer_Release(&buffer)

    cdef Outcome go_through(self, Part *part, bint notes) noexcept:
        """Go through records as long as they are ordinary."""
        cdef const Arena *arena = &self.engine.arena
        cdef uint64_t base = part.segment << arena.segment_shift
        cdef Seen[AHEAD] seen
        cdef int number, count
        cdef Outcome outcome
        if arena.words == NULL or not is_log_of(arena, part.segment, part.shard):
            return LEFT
        if part.location < base or part.end > base + arena.segment_words:
            return LEFT
        while part.location < part.end and part.looks and part.moves:
            count = self.look_ahead(part, seen)
            if count == 0:
                return LEFT
            for number in range(count):
                if unlikely(not part.looks or not part.moves):
                    return DONE
                if seen[number].counts:
                    outcome = self.look_at(part, &seen[number])
                    if unlikely(outcome != DONE):
                        return outcome
                if notes and seen[number].has_deadline and not seen[number].has_passed:
                    if unlikely(part.fresh == self.most):
                        return LEFT
                    self.fresh[part.fresh] = seen[number].deadline_ms << OFFSET_BITS | (part.location - base)
                    part.fresh += 1
                part.location += seen[number].length
                part.looks -= 1
        return DONE

    cdef int look_ahead(self, const Part *part, Seen *seen) noexcept:
        """Read the heads of ordinary records, and fetch the slots of those that may be dropped or moved.

        Returns:
            How many there are up to the first that is not ordinary, or up to the end; AHEAD at most.
        """
        cdef const Arena *arena = &self.engine.arena
        cdef uint64_t location = part.location
        cdef uint64_t page
        cdef Buckets buckets
        cdef Record record
        cdef int count = 0
        while count < AHEAD and location < part.end:
            if unlikely(not parse_record(arena, location, &record)):
                break
            if unlikely(record.flags & (LARGE | FRAGMENT) or record.key_len > LONGEST_HASHED):
                break
            if unlikely(record.deadline_ms >> (64 - OFFSET_BITS)):
                break
            seen.location = location
            seen.length = words_of(&record)
            seen.has_deadline = record.flags & DEADLINE != 0
            seen.has_passed = seen.has_deadline and record.deadline_ms <= part.now_ms
            seen.deadline_ms = record.deadline_ms
            seen.counts = part.least >= 0 or seen.has_passed
            if seen.counts:
                seen.key_hash = hash_short(record.key, record.key_len, self.engine.seed)
                page = page_of(arena, seen.key_hash)
                if likely(is_page(arena, page)):
                    buckets = buckets_of(arena, seen.key_hash, page)
                    prefetch(arena.words + buckets.first + buckets.home)
            location += seen.length
            seen += 1
            count += 1
        return count

    cdef Outcome look_at(self, Part *part, const Seen *seen) noexcept:
        """Drop or move a record if it is alive."""
        cdef const Arena *arena = &self.engine.arena
        cdef uint64_t page = page_of(arena, seen.key_hash)
        cdef uint64_t slot
        cdef uint8_t *count
        cdef Outcome outcome
        if unlikely(not is_page(arena, page) or not is_pooled(arena, segment_of(arena, page))):
            return LEFT
        slot = slot_of(arena, seen.key_hash, page, seen.location)
        if not slot:
            return DONE
        count = count_at(arena, slot)
        if seen.has_passed:
            part.expired += 1
        elif count[0] < part.least:
            if unlikely(part.evicted == self.most):
                return LEFT
            self.evicted[part.evicted] = seen.key_hash
            part.evicted += 1
        else:
            outcome = self.relocate(part, seen, slot)
            if outcome == DONE:
                count[0] = 0 if part.promotes else <uint8_t> (count[0] - part.least)
                part.dead += seen.length
                part.moves -= 1
            return outcome
        store_release(arena.words + slot, 0)
        part.dead += seen.length
        return DONE

    cdef Outcome relocate(self, const Part *part, const Seen *seen, uint64_t slot) noexcept:
        """Move a record to the main queue, as ``Shard.relocate``."""
        cdef const Arena *arena = &self.engine.arena
        cdef Tail tail
        cdef uint64_t place
        cdef int code
        if unlikely(not find_tail(arena, part.shard, True, &tail) or tail.segment == part.segment):
            return LEFT
        if unlikely(not has_room(arena, &tail, seen.length)):
            code = pthread_mutex_trylock(self.engine.pool_mutex)
            if unlikely(code != 0):
                return POOL_DIED if code == EOWNERDEAD else LEFT
            if unlikely(not has_segment(arena, 0)):
                pthread_mutex_unlock(self.engine.pool_mutex)
                return LEFT
            open_segment(arena, part.shard, &tail)
            pthread_mutex_unlock(self.engine.pool_mutex)
        place = append_copy(arena, part.shard, &tail, seen.length, seen.location, seen.deadline_ms)
        store_release(arena.words + slot, moved(arena, arena.words[slot], place))
        add(arena, header_of(arena, part.shard) + SH_RELOCATED, 1)
        return DONE
