# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: nonecheck=False, embedsignature=True, auto_pickle=False, autotestdict=False
"""The engine in C speed: get, put and delete over the arena of ``fastkv.store``.

``fastkv.store.engine`` is its specification: after the same operations the arenas are equal byte by byte. An
operation finishes here, or it is declined with nothing changed, and the readable engine does it. Between lock
and unlock there is no call into Python and nothing that raises; every address that comes out of the arena is
bounded before it is used.

Order, so that readers need no lock on machines that reorder, too:

    reader  slot word (acquire) → copy → acquire fence → slot word again
    writer  each word is stored with release; a release fence precedes the bytes of a record, which may lie
            where another one lay whose word was cleared or replaced since

``docs/concurrency.md`` has the reason of each.
"""

cimport cython
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from posix.time cimport clock_gettime, timespec

from fastkv.core.hashing cimport LONGEST_HASHED, hash_short
from fastkv.core.index cimport (
    ABSENT,
    DISTURBED,
    PRESENT,
    Buckets,
    Search,
    buckets_of,
    ghosts_of,
    is_page,
    page_of,
    search,
    vacancy,
    was_evicted,
)
from fastkv.core.layout cimport *
from fastkv.core.log cimport Tail, append, find_tail, has_room, open_segment
from fastkv.core.native cimport (
    STORES_ARE_ORDERED,
    fence_acquire,
    fence_release,
    likely,
    load_acquire,
    load_relaxed,
    prefetch,
    store_release,
    unlikely,
)
from fastkv.core.records cimport (
    NewEntry,
    Record,
    content_len_of,
    flags_of,
    is_whole,
    record_words,
    trailing_bytes,
    words_of,
)
from fastkv.core.segments cimport add, bury, has_segment, is_log_of, would_free

from fastkv.store import layout as _layout
from fastkv.store import records as _records
from fastkv.store import segments as _segments

include "layout.pxi"
include "sources.pxi"

cdef extern from "time.h" nogil:
    int CLOCK_BOOTTIME


# In the order of ``Reason``.
_REASONS = (
    "busy", "closed", "damaged", "disturbed", "expired", "full", "key", "large", "missing", "number", "split",
    "unverified",
)


# -- the clock ---------------------------------------------------------------------------------------------


@cython.final
cdef class Clock:
    """Milliseconds since boot, suspend included, plus an offset: the value of a call."""

    def __cinit__(self, offset_ms: int = 0) -> None:
        # An offset may be negative: sums are modulo 2 ** 64.
        self.offset_ms = <uint64_t> <int64_t> offset_ms

    def __call__(self) -> int:
        return self.now_ms()

    def freeze(self, now_ms: int | None) -> None:
        """Stop the clock, for tests.

        Args:
            now_ms: what it shows from now on; None: the time again.
        """
        self.is_frozen = now_ms is not None
        self.frozen_ms = now_ms or 0

    cdef uint64_t now_ms(self) noexcept:
        cdef timespec now
        if self.is_frozen:
            return self.frozen_ms
        clock_gettime(CLOCK_BOOTTIME, &now)
        return <uint64_t> now.tv_sec * 1000 + <uint64_t> now.tv_nsec // 1_000_000 + self.offset_ms


cdef inline uint64_t read_clock(object clock) except? 0:
    return (<Clock> clock).now_ms() if type(clock) is Clock else <uint64_t> clock()


# -- the engine --------------------------------------------------------------------------------------------


cdef inline void remove(const Arena *arena, uint64_t header, const Place *place) noexcept:
    """Remove an entry, under the shard's lock; under the pool's, too, where its segment would be freed."""
    store_release(arena.words + place.slot, 0)
    fence_release()
    add(arena, header + SH_ENTRIES, -1)
    bury(arena, header, place.segment, place.length)


@cython.final
cdef class Engine:
    """The operations on single keys of one store, for what is ordinary; the readable engine does the rest."""

    def __cinit__(self, readable: object) -> None:
        cdef object arena = readable.arena
        cdef object geometry = arena.geometry
        cdef object number, lock
        self.readable = readable
        self.clock = Clock()
        self.seed = arena.seed
        self.arena.total_words = geometry.segments * geometry.segment_words
        self.arena.segments = geometry.segments
        self.arena.first_segment = geometry.first_segment
        self.arena.segment_words = geometry.segment_words
        self.arena.segment_shift = geometry.segment_shift
        self.arena.inline_words = geometry.inline_words
        self.arena.sequences_at = geometry.sequences_at
        self.arena.shards_at = geometry.shards_at
        self.arena.directory_at = geometry.directory_at
        self.arena.table_at = geometry.table_at
        self.arena.ghosts_at = geometry.ghosts_at
        self.arena.most_ghosts = geometry.most_ghosts
        self.arena.location_mask = geometry.location_mask
        self.arena.version_shift = geometry.version_shift
        self.arena.version_mask = geometry.version_mask
        self.arena.generation_shift = geometry.generation_shift
        self.arena.generation_mask = geometry.generation_mask
        self.arena.entry_mask = geometry.entry_mask
        self.arena.entry_shift = geometry.entry_shift
        self.arena.bucket_mask = geometry.bucket_mask
        self.pool_mutex = <pthread_mutex_t *> <size_t> readable.pool_lock.address
        self.mutexes = <pthread_mutex_t **> malloc(geometry.shards * sizeof(pthread_mutex_t *))
        if self.mutexes == NULL:
            raise MemoryError
        for number, lock in enumerate(readable.locks):
            self.mutexes[<size_t> number] = <pthread_mutex_t *> <size_t> lock.address
        # Held until ``close``, so that nothing unmaps the arena meanwhile.
        PyObject_GetBuffer(arena.mem, &self.buffer, PyBUF_WRITABLE)
        self.arena.words = <uint64_t *> self.buffer.buf

    def __dealloc__(self) -> None:
        self.release()
        free(self.mutexes)

    cdef void release(self) noexcept:
        if self.arena.words != NULL:
            self.arena.words = NULL
            PyBuffer_Release(&self.buffer)

    def close(self) -> None:
        """Let go of the arena; from now on everything is declined. To be called before it is unmapped."""
        self.release()

    @property
    def declines(self) -> dict[str, int]:
        """How many operations this process has left to the readable engine, by reason."""
        return {reason: self.counts[number] for number, reason in enumerate(_REASONS)}

    cdef int decline(self, Reason reason) noexcept:
        self.counts[<int> reason] += 1
        return DECLINED

    # -- reading -------------------------------------------------------------------------------------------

    def get(self, bytes key not None, clock: object) -> object:
        """Look a key up, as ``fastkv.store.engine.Engine.get``."""
        cdef Found found
        cdef tuple entry
        cdef bint has_expired = False
        cdef int outcome = self.find(<const uint8_t *> PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key), &found)
        if likely(outcome == DONE):
            entry = entry_of(&found)
            # Before the last look at the word: at the time of the clock the entry was still in its slot.
            if found.deadline_ms:
                has_expired = found.deadline_ms <= read_clock(clock)
            if unlikely(has_expired):
                if self.is_unchanged(&found):
                    return None
            elif likely(self.holds(&found)):
                return entry
            self.decline(WHY_DISTURBED)
        elif outcome == MISS:
            return None
        return self.readable.get(key, clock)

    cdef int look(self, const uint8_t *key, size_t key_len, Found *found) noexcept:
        cdef int outcome = self.find(key, key_len, found)
        # The clock is read before the last look at the word, so the verdict holds for that moment.
        if outcome == DONE and found.deadline_ms and found.deadline_ms <= self.clock.now_ms():
            return MISS if self.is_unchanged(found) else self.decline(WHY_DISTURBED)
        return outcome

    cdef bint holds(self, Found *found) noexcept:
        if unlikely(not self.is_unchanged(found)):
            return False
        self.count_access(found.slot)
        return True

    cdef int find(self, const uint8_t *key, size_t key_len, Found *found) noexcept:
        """Find a key's entry without a lock, whatever its deadline."""
        if unlikely(key_len > LONGEST_HASHED):
            return self.decline(WHY_KEY)
        return self.find_hashed(hash_short(key, key_len, self.seed), key, key_len, found)

    cdef int find_hashed(
        self, uint64_t key_hash, const uint8_t *key, size_t key_len, Found *found
    ) noexcept:
        cdef const Arena *arena = &self.arena
        cdef uint64_t page, sequence, trailing
        cdef const uint64_t *sequence_at
        cdef Buckets buckets
        cdef Record record
        cdef Search outcome
        if unlikely(arena.words == NULL):
            return self.decline(WHY_CLOSED)
        sequence_at = arena.words + sequence_of(arena, shard_of(arena, key_hash))
        sequence = load_acquire(sequence_at)
        if unlikely(sequence & 1):
            return self.decline(WHY_UNVERIFIED if sequence == UNVERIFIED else WHY_DISTURBED)
        page = page_of(arena, key_hash)
        if unlikely(not is_page(arena, page)):
            return self.decline(WHY_DAMAGED)
        buckets = buckets_of(arena, key_hash, page)
        outcome = search(
            arena, &buckets, key_hash & TAG_MASK, key, key_len, &found.slot, &found.word, &record
        )
        if likely(outcome == PRESENT):
            if unlikely(record.flags & (LARGE | FRAGMENT)):
                return self.decline(WHY_LARGE)
            if not STORES_ARE_ORDERED and not is_whole(arena, found.word, &record):
                return self.decline(WHY_DISTURBED)
            trailing = trailing_bytes(&record)
            if unlikely(trailing > record.content_len):
                return self.decline(WHY_DISTURBED)
            found.version = record.version
            found.deadline_ms = record.deadline_ms
            found.flags = record.flags & CALLER_FLAGS
            found.value = record.content
            found.value_len = record.content_len - <uint32_t> trailing
            found.metadata = record.content + found.value_len
            found.metadata_len = <uint32_t> trailing - 1 if trailing else 0
            return DONE
        if not STORES_ARE_ORDERED:
            return self.decline(WHY_MISSING)
        fence_acquire()
        if unlikely(outcome == DISTURBED or load_relaxed(sequence_at) != sequence):
            return self.decline(WHY_DISTURBED)
        return MISS

    cdef bint is_unchanged(self, Found *found) noexcept:
        """Return whether an entry's word still stands there, after its bytes were copied."""
        fence_acquire()
        return self.arena.words != NULL and load_relaxed(self.arena.words + found.slot) == found.word

    cdef void count_access(self, uint64_t slot) noexcept:
        cdef uint8_t *count = count_at(&self.arena, slot)
        if count[0] < COUNT_MAX:  # without a lock: a lost access does no harm
            count[0] += 1

    # -- writing -------------------------------------------------------------------------------------------

    def put(
        self,
        bytes key not None,
        bytes value not None,
        clock: object,
        flags: object = 0,
        deadline_ms: object = 0,
        bytes metadata not None = b"",
    ) -> object:
        """Insert or replace an entry, as ``fastkv.store.engine.Engine.put``."""
        cdef Written written
        cdef NewEntry entry = NewEntry(
            <const uint8_t *> PyBytes_AS_STRING(key),
            PyBytes_GET_SIZE(key),
            <const uint8_t *> PyBytes_AS_STRING(value),
            PyBytes_GET_SIZE(value),
            <const uint8_t *> PyBytes_AS_STRING(metadata),
            PyBytes_GET_SIZE(metadata),
            flags,
            deadline_ms,
        )
        if likely(self.write(&entry, None, &written) == DONE):
            return written.version
        return self.readable.put(key, value, clock, flags, deadline_ms, metadata)

    def delete(self, bytes key not None, clock: object) -> bool:
        """Remove an entry, as ``fastkv.store.engine.Engine.delete``."""
        cdef int outcome = self.erase(
            <const uint8_t *> PyBytes_AS_STRING(key),
            PyBytes_GET_SIZE(key),
            <Clock> clock if type(clock) is Clock else None,
            False,
        )
        return outcome == DONE if outcome != DECLINED else self.readable.delete(key, clock)

    cdef int write(self, const NewEntry *entry, Clock clock, Written *written) noexcept:
        """Insert or replace an entry.

        All that it needs is looked at before the first store: from there on nothing can fail.
        """
        cdef const Arena *arena = &self.arena
        cdef Target target
        cdef int outcome
        if unlikely(arena.words == NULL):
            return self.decline(WHY_CLOSED)
        if unlikely(not 0 < entry.key_len <= LONGEST_HASHED):
            return self.decline(WHY_KEY)
        if unlikely(not fits(arena, entry)):
            return self.decline(WHY_LARGE)
        target.key_hash = hash_short(entry.key, entry.key_len, self.seed)
        prefetch(arena.words + ghosts_of(arena, target.key_hash))  # for a new key
        target.shard = shard_of(arena, target.key_hash)

        if unlikely(not self.lock_shard(target.shard)):
            return DECLINED
        outcome = self.locate(
            target.shard, target.key_hash, entry.key, entry.key_len, &target.buckets, &target.place
        )
        if unlikely(outcome == DECLINED):
            return DECLINED
        target.present = outcome == DONE
        target.has_expired = (
            target.present and clock is not None and target.place.deadline_ms != 0
            and target.place.deadline_ms <= clock.now_ms()
        )
        return self.write_at(entry, &target, written)

    cdef int write_at(self, const NewEntry *entry, Target *target, Written *written) noexcept:
        """Write an entry, which `fits`, where `locate` has found its key or nothing; releases the lock."""
        cdef const Arena *arena = &self.arena
        cdef Place *place = &target.place
        cdef uint64_t shard = target.shard
        cdef uint64_t header = header_of(arena, shard)
        cdef uint64_t length = record_words(entry.key_len, flags_of(entry), content_len_of(entry))
        cdef uint64_t version, placed
        cdef Tail tail
        cdef bint recalled, opens, pool
        if not target.present:
            place.slot = vacancy(arena, &target.buckets)
            if unlikely(not place.slot):
                return self.give_up(shard, False, WHY_SPLIT)
        written.created = not target.present or target.has_expired
        recalled = written.created and was_evicted(arena, target.key_hash)
        if unlikely(not find_tail(arena, shard, recalled, &tail)):
            return self.give_up(shard, False, WHY_DAMAGED)
        opens = not has_room(arena, &tail, length)
        pool = opens or (target.present and would_free(arena, place.segment, place.length))
        if pool:
            if unlikely(not self.lock_pool(shard)):
                return DECLINED
            if unlikely(opens and not has_segment(arena, RESERVE)):
                return self.give_up(shard, True, WHY_FULL)

        # From here on nothing is declined.
        if unlikely(target.has_expired):
            remove(arena, header, place)
            add(arena, header + SH_EXPIRED, 1)
            place.slot = vacancy(arena, &target.buckets)
        if written.created:
            count_at(arena, place.slot)[0] = 0
        if opens:
            open_segment(arena, shard, &tail)
        version = arena.words[header + SH_VERSION] + 1
        placed = append(arena, shard, &tail, length, entry, version)
        # Before the entry is seen: a version that a client was shown is never given again.
        store_release(arena.words + header + SH_VERSION, version)
        store_release(arena.words + place.slot, word_of(arena, target.key_hash, version, placed))
        if written.created:
            add(arena, header + SH_ENTRIES, 1)
        else:
            bury(arena, header, place.segment, place.length)
        self.unlock(shard, pool)
        written.version = version
        return DONE

    cdef int erase(self, const uint8_t *key, size_t key_len, Clock clock, bint unheard) noexcept:
        """Remove an entry."""
        cdef const Arena *arena = &self.arena
        cdef uint64_t key_hash, shard, header
        cdef Buckets buckets
        cdef Place place
        cdef int outcome
        cdef bint has_expired = False, pool
        if unlikely(arena.words == NULL):
            return self.decline(WHY_CLOSED)
        if unlikely(key_len > LONGEST_HASHED):
            return self.decline(WHY_KEY)
        key_hash = hash_short(key, key_len, self.seed)
        shard = shard_of(arena, key_hash)
        header = header_of(arena, shard)

        if unlikely(not self.lock_shard(shard)):
            return DECLINED
        outcome = self.locate(shard, key_hash, key, key_len, &buckets, &place)
        if unlikely(outcome == DECLINED):
            return DECLINED
        if outcome == MISS:
            self.unlock(shard, False)
            return MISS
        if place.deadline_ms:
            has_expired = clock is None or place.deadline_ms <= clock.now_ms()
        if unlikely(has_expired and not unheard):
            return self.give_up(shard, False, WHY_EXPIRED)
        pool = would_free(arena, place.segment, place.length)
        if unlikely(pool and not self.lock_pool(shard)):
            return DECLINED

        # From here on nothing is declined.
        remove(arena, header, &place)
        if unlikely(has_expired):
            add(arena, header + SH_EXPIRED, 1)
        self.unlock(shard, pool)
        return MISS if has_expired else DONE

    # -- under the shard's lock ----------------------------------------------------------------------------

    cdef int locate(
        self, uint64_t shard, uint64_t key_hash, const uint8_t *key, size_t key_len, Buckets *buckets,
        Place *place,
    ) noexcept:
        """Find a key that is about to be changed. Where it declines, the lock is released."""
        cdef const Arena *arena = &self.arena
        cdef uint64_t page = page_of(arena, key_hash)
        cdef Record record
        cdef Search outcome
        if unlikely(arena.words[sequence_of(arena, shard)] & 1):
            return self.give_up(shard, False, WHY_UNVERIFIED)
        if unlikely(not is_page(arena, page) or not is_pooled(arena, segment_of(arena, page))):
            return self.give_up(shard, False, WHY_DAMAGED)
        buckets[0] = buckets_of(arena, key_hash, page)
        outcome = search(
            arena, buckets, key_hash & TAG_MASK, key, key_len, &place.slot, &place.word, &record
        )
        if outcome == ABSENT:
            return MISS
        place.segment = segment_of(arena, place.word)
        if unlikely(outcome == DISTURBED or not is_log_of(arena, place.segment, shard)):
            return self.give_up(shard, False, WHY_DAMAGED)
        if unlikely(record.flags & (LARGE | FRAGMENT)):
            return self.give_up(shard, False, WHY_LARGE)
        place.length = words_of(&record)
        place.deadline_ms = record.deadline_ms
        return DONE

    # -- locks ---------------------------------------------------------------------------------------------

    cdef bint lock_shard(self, uint64_t shard) noexcept:
        """Take a shard's lock if it is free. After its owner's death the shard is repaired instead."""
        cdef int code = pthread_mutex_trylock(self.mutexes[shard])
        if likely(code == 0):
            return True
        if code == EOWNERDEAD:
            self.readable.recover(shard)
        self.decline(WHY_BUSY)
        return False

    cdef bint lock_pool(self, uint64_t shard) noexcept:
        """Take the pool's lock as well. Where that is not possible, the shard's is released."""
        cdef int code = pthread_mutex_trylock(self.pool_mutex)
        if likely(code == 0):
            return True
        pthread_mutex_unlock(self.mutexes[shard])
        if code == EOWNERDEAD:
            self.readable.recover_pool()
        self.decline(WHY_BUSY)
        return False

    cdef bint try_pool(self) except -1:
        """Take the pool's lock; False if it is not free. That of a dead owner is recovered, for next time."""
        cdef int code = pthread_mutex_trylock(self.pool_mutex)
        if unlikely(code == EOWNERDEAD):
            self.readable.recover_pool()
        return code == 0

    cdef void unlock(self, uint64_t shard, bint pool) noexcept:
        if pool:
            pthread_mutex_unlock(self.pool_mutex)
        pthread_mutex_unlock(self.mutexes[shard])

    cdef int give_up(self, uint64_t shard, bint pool, Reason reason) noexcept:
        """Release what is locked; nothing has been changed."""
        self.unlock(shard, pool)
        return self.decline(reason)
