# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: nonecheck=False, embedsignature=True, auto_pickle=False, autotestdict=False
"""Going through the pages of a shard after a death or a restart, as ``fastkv.store.verify`` does it.

In: a shard whose lock the caller holds, and which may be damaged in any way. Out: each slot leads to a whole
entry of its own or is empty, and what the segments hold is counted. Nothing here trusts a length or a
location. Entries of several records and with long keys are left to a function of the caller's.
"""

cimport cython
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from fastkv.core.engine cimport Engine
from fastkv.core.hashing cimport LONGEST_HASHED, hash_short
from fastkv.core.index cimport is_page
from fastkv.core.layout cimport (
    BUCKET_WORDS,
    CHECKSUM_BYTES,
    FRAGMENT,
    HEAD_BYTES,
    HIGH_SHIFT,
    LARGE,
    LEAST_RECORD_WORDS,
    SECOND_BUCKET_SHIFT,
    SEG_DEAD,
    SEG_DUE,
    SEG_GENERATION,
    SEG_HEAD,
    SH_DUE,
    SH_ENTRIES,
    SH_VERSION,
    TAG_BITS,
    TAG_SHIFT,
    Arena,
    is_pooled,
    row_of,
    segment_of,
)
from fastkv.core.native cimport first_bit, likely, prefetch, store_release, unlikely
from fastkv.core.records cimport Record, is_whole, parse_record, words_of
from fastkv.core.segments cimport note_deadline

include "sources.pxi"

cdef enum:
    # Records are fetched so many slots before they are looked at.
    AHEAD = 16

cdef enum Verdict:
    WHOLE
    BROKEN
    # The entry is none that is dealt with here.
    OTHER


cdef inline uint64_t counts_in(uint64_t word) noexcept nogil:
    """Of a bucket's first word the two bits that each slot's count can have."""
    return word & 0x0303030303030300ULL


@cython.final
cdef class Surveyor:
    """What the slots of one shard lead to.

    Attributes:
        entries: how many entries are whole.
        dropped: how many were not, and are not in their slots any more.
    """

    cdef Engine engine
    cdef uint64_t shard
    # The segments of the log, and for each segment of the arena its number among them, from 1 on.
    cdef uint64_t segments
    cdef uint64_t *log
    cdef uint32_t *numbers
    # For each of them the first deadline in it, and a bit for each word, set where a live record begins; and
    # another one, set where that was found twice.
    cdef uint64_t *due
    cdef uint64_t *live
    cdef uint64_t *twice
    cdef uint64_t newest
    cdef readonly uint64_t entries
    cdef readonly uint64_t dropped

    def __cinit__(self, Engine engine not None, uint64_t shard, list log not None) -> None:
        cdef uint64_t each
        cdef const Arena *arena = &engine.arena
        cdef size_t segments = len(log)
        if arena.words == NULL:
            raise ValueError("the engine is closed")
        self.engine = engine
        self.shard = shard
        self.log = <uint64_t *> calloc(segments + 1, sizeof(uint64_t))
        self.due = <uint64_t *> calloc(segments + 1, sizeof(uint64_t))
        self.numbers = <uint32_t *> calloc(arena.segments, sizeof(uint32_t))
        self.live = <uint64_t *> calloc(segments + 1, arena.segment_words >> 3)
        self.twice = <uint64_t *> calloc(segments + 1, arena.segment_words >> 3)
        if not (self.log and self.due and self.numbers and self.live and self.twice):
            raise MemoryError
        for each in log:
            if not is_pooled(arena, each) or self.numbers[each]:
                raise ValueError(f"segment {each} is not in a log, or twice")
            self.log[self.segments] = each
            self.segments += 1
            self.numbers[each] = <uint32_t> self.segments

    def __dealloc__(self) -> None:
        free(self.log)
        free(self.due)
        free(self.numbers)
        free(self.live)
        free(self.twice)

    def look_through(self, uint64_t base, uint64_t covers, object other) -> None:
        """Go through a page, and empty every slot that leads to no whole entry of its own.

        Args:
            base: where the page begins.
            covers: the tags that it covers, as the segment table has them.
            other: called with a slot and its word where the entry is none that is dealt with here; returns
                version, deadline and the places of its records (location << 16 | words), or None.
        """
        cdef const Arena *arena = &self.engine.arena
        cdef uint64_t slot = base, end = base + arena.segment_words
        cdef uint64_t version, deadline_ms, place
        cdef int depth = -1
        if not is_page(arena, base) or not is_pooled(arena, segment_of(arena, base)) or not covers:
            raise ValueError("there is no such page")
        while depth < 63 and covers >> (depth + 1):
            depth += 1
        while True:
            slot = self.look_on(slot, end, covers ^ <uint64_t> 1 << depth, depth)
            if slot == end:
                return
            found = other(slot, arena.words[slot])
            if found is None:
                self.drop(slot)
            else:
                version, deadline_ms, places = found
                for place in places:
                    if not self.note(place >> 16):
                        raise ValueError("a fragment is not in the log")
                self.count(arena.words[slot], version, deadline_ms)
            slot += 1

    def recount(self, uint64_t header) -> None:
        """Count entries and live words, and lay a dead record over each stretch of dead ones.

        Args:
            header: word offset of the shard's header.

        Raises:
            ValueError: if records overlap.
        """
        cdef const Arena *arena = &self.engine.arena
        cdef uint64_t *words = arena.words
        cdef uint64_t number
        if words == NULL:
            raise ValueError("the engine is closed")
        for number in range(self.segments):
            if not self.recount_segment(number):
                raise ValueError("records overlap")
        store_release(words + header + SH_DUE, 0)
        for number in range(self.segments):
            if self.due[number]:
                note_deadline(arena, header, row_of(arena, self.log[number]), self.due[number])
        store_release(words + header + SH_ENTRIES, self.entries)
        if self.newest > words[header + SH_VERSION]:
            store_release(words + header + SH_VERSION, self.newest)

    # -- slots ---------------------------------------------------------------------------------------------

    cdef uint64_t look_on(self, uint64_t slot, uint64_t end, uint64_t prefix, int depth) noexcept:
        """Go through slots up to one whose entry is none that is dealt with here."""
        cdef const Arena *arena = &self.engine.arena
        cdef uint64_t *words = arena.words
        cdef uint64_t word
        cdef Verdict verdict
        cdef Record record
        while slot < end:
            if slot + AHEAD < end:
                word = words[slot + AHEAD]
                if word and (slot + AHEAD) & (BUCKET_WORDS - 1):
                    prefetch(words + (word & arena.location_mask))
                    prefetch(words + (word & arena.location_mask) + 8)
            word = words[slot]
            if not word:
                pass
            elif not slot & (BUCKET_WORDS - 1):
                if word != counts_in(word):
                    store_release(words + slot, counts_in(word))
            elif word >> 1 >> (63 - depth) != prefix:
                store_release(words + slot, 0)  # a split has moved it to a deeper page
            else:
                verdict = self.judge(slot, word, &record)
                if unlikely(verdict == OTHER):
                    return slot
                if likely(verdict == WHOLE):
                    self.note(word & arena.location_mask)
                    self.count(word, record.version, record.deadline_ms)
                else:
                    self.drop(slot)
            slot += 1
        return end

    cdef Verdict judge(self, uint64_t slot, uint64_t word, Record *record) noexcept:
        """Tell whether a slot leads to a whole entry of its own."""
        cdef const Arena *arena = &self.engine.arena
        cdef uint64_t segment = segment_of(arena, word)
        cdef uint64_t generation = word >> arena.generation_shift & arena.generation_mask
        cdef uint64_t key_hash, high, bucket
        if unlikely(segment >= arena.segments or not self.numbers[segment]):
            return BROKEN
        if unlikely(arena.words[row_of(arena, segment) + SEG_GENERATION] != generation):
            return BROKEN
        if unlikely(not parse_record(arena, word & arena.location_mask, record)):
            return BROKEN
        if unlikely(record.flags & (LARGE | FRAGMENT) or record.key_len > LONGEST_HASHED):
            return OTHER
        if unlikely(not is_whole(arena, word, record)):
            return BROKEN
        key_hash = hash_short(record.key, record.key_len, self.engine.seed)
        high = key_hash >> HIGH_SHIFT
        bucket = slot & (arena.segment_words - BUCKET_WORDS)
        if unlikely(key_hash & arena.entry_mask != (self.shard << TAG_BITS | word >> TAG_SHIFT)):
            return BROKEN
        if high & arena.bucket_mask == bucket or high >> SECOND_BUCKET_SHIFT & arena.bucket_mask == bucket:
            return WHOLE
        return BROKEN

    cdef bint note(self, uint64_t location) noexcept:
        """Note where a live record begins; False if that is not in the log."""
        cdef const Arena *arena = &self.engine.arena
        cdef uint64_t segment = location >> arena.segment_shift
        cdef uint64_t at, bit = <uint64_t> 1 << (location & 63)
        if unlikely(segment >= arena.segments or not self.numbers[segment]):
            return False
        at = <uint64_t> (self.numbers[segment] - 1) << arena.segment_shift
        at = (at + (location & (arena.segment_words - 1))) >> 6
        if unlikely(self.live[at] & bit):
            self.twice[at] |= bit
        self.live[at] |= bit
        return True

    cdef void count(self, uint64_t word, uint64_t version, uint64_t deadline_ms) noexcept:
        """Count a whole entry."""
        cdef uint64_t *due = self.due + self.numbers[segment_of(&self.engine.arena, word)] - 1
        self.entries += 1
        if version > self.newest:
            self.newest = version
        if deadline_ms and not 0 < due[0] <= deadline_ms:
            due[0] = deadline_ms

    cdef void drop(self, uint64_t slot) noexcept:
        store_release(self.engine.arena.words + slot, 0)
        self.dropped += 1

    # -- segments ------------------------------------------------------------------------------------------

    cdef bint recount_segment(self, uint64_t number) noexcept:
        """Count what is alive in a segment, and cover what is dead."""
        cdef const Arena *arena = &self.engine.arena
        cdef uint64_t *row = arena.words + row_of(arena, self.log[number])
        cdef uint64_t base = self.log[number] << arena.segment_shift
        cdef const uint64_t *live = self.live + (number << arena.segment_shift >> 6)
        cdef const uint64_t *twice = self.twice + (number << arena.segment_shift >> 6)
        cdef uint64_t at = 0, alive = 0, head, offset, length, bits, i
        cdef Record record
        for i in range(arena.segment_words >> 6):
            bits = live[i]
            while bits:
                offset = i << 6 | first_bit(bits)
                bits &= bits - 1
                if offset != at and not self.fill(base, at, offset):
                    return False
                if not parse_record(arena, base + offset, &record):
                    return False
                length = words_of(&record)
                at = offset + length
                alive += length
                if twice[i] >> (offset & 63) & 1:
                    return False
        head = row[SEG_HEAD]
        if head > arena.segment_words:
            head = arena.segment_words
        if head < at + LEAST_RECORD_WORDS:
            head = at  # but for damage it is so already
        else:
            self.fill(base, at, head)
        store_release(row + SEG_HEAD, head)
        store_release(row + SEG_DEAD, head - alive)
        store_release(row + SEG_DUE, 0)
        return True

    cdef bint fill(self, uint64_t base, uint64_t at, uint64_t end) noexcept:
        """Lay a dead record over words of a segment; False if they are fewer than a record has."""
        cdef uint64_t *words = self.engine.arena.words + base + at
        if end < at + LEAST_RECORD_WORDS:
            return False
        store_release(words, ((end - at << 3) - HEAD_BYTES - CHECKSUM_BYTES) << 32)
        store_release(words + 1, 0)
        return True
