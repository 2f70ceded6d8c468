"""What other modules of the core use of the engine. Nothing here raises, and no lock is left held.

The memory that a ``Found`` points to is the arena's: copy it, then ask ``holds`` whether the copy counts.
"""

cimport cython
from cpython.buffer cimport Py_buffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastkv.core.index cimport Buckets
from fastkv.core.layout cimport CALLER_FLAGS, DEADLINE, MAX_METADATA_BYTES, Arena
from fastkv.core.records cimport NewEntry, content_len_of, record_words

cdef enum:
    MISS = 0
    DONE = 1
    DECLINED = 2

cdef struct Found:
    uint64_t slot
    uint64_t word
    uint64_t version
    # 0 for none
    uint64_t deadline_ms
    # The caller's.
    uint32_t flags
    uint32_t value_len
    uint32_t metadata_len
    const uint8_t *value
    const uint8_t *metadata

cdef struct Written:
    uint64_t version
    # Whether there was no entry before.
    bint created

# Why an operation was left to the readable engine.
cdef enum Reason:
    WHY_BUSY  # a lock was not free, or its owner had died
    WHY_CLOSED  # the engine is closed
    WHY_DAMAGED  # an undamaged arena has nothing like that
    WHY_DISTURBED  # something changed meanwhile that a read without a lock depends on
    WHY_EXPIRED  # the entry has expired, or a clock of Python decides
    WHY_FULL  # the pool has no segment to spare
    WHY_KEY  # it is empty, or longer than the core hashes
    WHY_LARGE  # a value in fragments, or one that would need some; too much metadata
    WHY_MISSING  # a miss, or several keys, where stores may be seen out of their order
    WHY_NUMBER  # a value that is counted is no integer, or has no successor of 64 bits
    WHY_SPLIT  # the key's buckets have no empty slot
    WHY_UNVERIFIED  # nothing has verified the shard since the start
    REASONS

# Where a key's entry stands.
cdef struct Place:
    uint64_t slot
    uint64_t word
    # The segment and the words of its record.
    uint64_t segment
    uint64_t length
    uint64_t deadline_ms

# What is about to be changed, under the lock of its shard.
cdef struct Target:
    uint64_t shard
    uint64_t key_hash
    Buckets buckets
    Place place
    # Whether there is an entry, and whether its deadline has passed.
    bint present
    bint has_expired

cdef extern from "pthread.h" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    int pthread_mutex_trylock(pthread_mutex_t *)
    int pthread_mutex_unlock(pthread_mutex_t *)

cdef extern from "errno.h" nogil:
    int EOWNERDEAD


cdef inline bint fits(const Arena *arena, const NewEntry *entry) noexcept:
    """Whether an entry is one record. Room for a deadline is left in any case: it may be given one."""
    return (
        entry.value_len <= arena.inline_words << 3
        and entry.metadata_len <= MAX_METADATA_BYTES
        and entry.flags <= CALLER_FLAGS
        and record_words(entry.key_len, DEADLINE, content_len_of(entry)) <= arena.inline_words
    )


cdef inline tuple entry_of(const Found *found):
    """An ``Entry``, copied out of the arena."""
    cdef bytes value = PyBytes_FromStringAndSize(<const char *> found.value, found.value_len)
    cdef bytes metadata = b""
    if found.metadata_len:
        metadata = PyBytes_FromStringAndSize(<const char *> found.metadata, found.metadata_len)
    return value, found.flags, found.version, found.deadline_ms, found.slot, found.word, metadata


@cython.final
cdef class Clock:
    cdef uint64_t offset_ms
    cdef uint64_t frozen_ms
    cdef bint is_frozen

    cdef uint64_t now_ms(self) noexcept


@cython.final
cdef class Engine:
    cdef Arena arena
    cdef uint64_t seed
    cdef pthread_mutex_t *pool_mutex
    cdef pthread_mutex_t **mutexes
    cdef uint64_t[REASONS] counts
    cdef Py_buffer buffer
    cdef object readable
    # The clock by which ``look`` finds an entry expired.
    cdef public Clock clock

    # MISS, also for what has expired | DONE | DECLINED
    cdef int look(self, const uint8_t *key, size_t key_len, Found *found) noexcept
    # Whether the bytes that were copied are the entry's; counts the access.
    cdef bint holds(self, Found *found) noexcept
    # DONE | DECLINED; as ``Store.put``. With a clock as an update: what has expired is removed first, which
    # is not noted, so that it is to be used only while nothing listens to what expires.
    cdef int write(self, const NewEntry *entry, Clock clock, Written *written) noexcept
    # MISS | DONE | DECLINED; without a clock what has a deadline has expired. That is removed, too, and is a
    # MISS, if it is ``unheard``, because nothing listens to what expires; else it is declined.
    cdef int erase(self, const uint8_t *key, size_t key_len, Clock clock, bint unheard) noexcept

    cdef void release(self) noexcept
    cdef int decline(self, Reason reason) noexcept
    cdef int find(self, const uint8_t *key, size_t key_len, Found *found) noexcept
    cdef int find_hashed(
        self, uint64_t key_hash, const uint8_t *key, size_t key_len, Found *found
    ) noexcept
    cdef bint is_unchanged(self, Found *found) noexcept
    cdef void count_access(self, uint64_t slot) noexcept
    cdef bint lock_shard(self, uint64_t shard) noexcept
    cdef bint lock_pool(self, uint64_t shard) noexcept
    cdef bint try_pool(self) except -1
    cdef void unlock(self, uint64_t shard, bint pool) noexcept
    # Under the shard's lock, which it releases: DONE | DECLINED.
    cdef int write_at(self, const NewEntry *entry, Target *target, Written *written) noexcept
    cdef int give_up(self, uint64_t shard, bint pool, Reason reason) noexcept
    cdef int locate(
        self, uint64_t shard, uint64_t key_hash, const uint8_t *key, size_t key_len, Buckets *buckets,
        Place *place,
    ) noexcept
