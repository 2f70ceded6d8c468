# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: nonecheck=False, embedsignature=True, auto_pickle=False, autotestdict=False
"""Several keys at one moment in C speed: what ``fastkv.store.multi_get`` returns, which is the specification.

All keys are read without a lock first, and what is found is copied. What is missing has no slot to look at
again, and what has changed since is another entry: both are *unsettled*. Their shards are locked in ascending
order, they are looked up once more, and while they stay as they are the slots of all others are looked at.
Where further ones have changed, those are unsettled, too, and it begins again. So all are what they were at
the moment at which the last round of looks began.

Between lock and unlock there is no call into Python and nothing that raises.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.tuple cimport PyTuple_GET_ITEM
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy

from fastkv.core.engine cimport (
    DECLINED,
    DONE,
    MISS,
    WHY_BUSY,
    WHY_CLOSED,
    WHY_DISTURBED,
    WHY_KEY,
    WHY_MISSING,
    EOWNERDEAD,
    Engine,
    Found,
    entry_of,
    pthread_mutex_trylock,
    pthread_mutex_unlock,
)
from fastkv.core.hashing cimport LONGEST_HASHED, hash_short
from fastkv.core.index cimport prefetch_record, prefetch_slots
from fastkv.core.layout cimport shard_of, shards_of
from fastkv.core.native cimport STORES_ARE_ORDERED, likely, unlikely

include "sources.pxi"

cdef extern from "sched.h" nogil:
    int sched_yield()

cdef extern from "errno.h" nogil:
    int EBUSY

cdef enum:
    # As ``fastkv.store.lock`` has it: the kernel gives back no more locks of a process that dies.
    MOST_HELD = 1024
    # A critical section takes a few microseconds.
    SPINS = 20
    # So often what has changed is looked at under a lock, before the readable one locks everything.
    ROUNDS = 4
    # So many keys ahead the bucket of one is fetched, and then its record: a miss of the cache takes as long
    # as a few look-ups.
    SLOTS_AHEAD = 16
    RECORD_AHEAD = 8

# What is made of an entry.
cdef enum Form:
    ENTRIES
    VALUES
    COUNT


cdef inline object made_of(const Found *found, Form form):
    """An ``Entry`` or its value, copied from where it lies."""
    if form == VALUES:
        return PyBytes_FromStringAndSize(<const char *> found.value, found.value_len)
    return entry_of(found)


@cython.final
cdef class Look:
    """One look at several keys."""

    cdef Engine engine
    cdef tuple keys
    cdef object clock
    cdef Form form
    cdef Py_ssize_t count
    cdef uint64_t *hashes
    # What was found of each key; slot 0 where that is nothing.
    cdef Found *found
    cdef bint *unsettled
    # The shards of what is unsettled, a bit for each.
    cdef uint64_t *shards
    cdef uint64_t shard_count
    # What was copied under locks.
    cdef uint8_t *copies
    cdef list results
    # The clock is read once, when an entry has a deadline.
    cdef uint64_t now_ms
    cdef bint has_time, needs_time

    def __cinit__(self, Engine engine not None, object keys, object clock, int form) -> None:
        cdef object key
        self.engine = engine
        self.keys = tuple(keys)
        for key in self.keys:
            if type(key) is not bytes:
                raise TypeError("a key is bytes")
        self.clock = clock
        self.form = <Form> form
        self.count = len(self.keys)
        self.shard_count = shards_of(&engine.arena)
        self.found = <Found *> malloc((self.count + 1) * sizeof(Found))
        self.hashes = <uint64_t *> malloc((self.count + 1) * sizeof(uint64_t))
        self.unsettled = <bint *> calloc(self.count + 1, sizeof(bint))
        self.shards = <uint64_t *> calloc((self.shard_count >> 6) + 1, sizeof(uint64_t))
        if self.hashes == NULL or self.found == NULL or self.unsettled == NULL or self.shards == NULL:
            raise MemoryError
        self.results = [None] * (0 if form == COUNT else self.count)

    def __dealloc__(self) -> None:
        free(self.hashes)
        free(self.found)
        free(self.unsettled)
        free(self.shards)
        free(self.copies)

    cdef int find(self, Py_ssize_t number) noexcept:
        """Look a key up without a lock: DONE, MISS, DECLINED."""
        cdef bytes key = <bytes> PyTuple_GET_ITEM(self.keys, number)
        return self.engine.find_hashed(
            self.hashes[number],
            <const uint8_t *> PyBytes_AS_STRING(key),
            PyBytes_GET_SIZE(key),
            &self.found[number],
        )

    cdef bint hash_all(self) noexcept:
        """Hash all keys; False if one is too long for that, or the engine is closed."""
        cdef Py_ssize_t i
        cdef size_t key_len
        cdef bytes key
        if unlikely(self.engine.arena.words == NULL):
            self.engine.decline(WHY_CLOSED)
            return False
        for i in range(self.count):
            key = <bytes> PyTuple_GET_ITEM(self.keys, i)
            key_len = PyBytes_GET_SIZE(key)
            if unlikely(key_len > LONGEST_HASHED):
                self.engine.decline(WHY_KEY)
                return False
            self.hashes[i] = hash_short(
                <const uint8_t *> PyBytes_AS_STRING(key), key_len, self.engine.seed
            )
        return True

    cdef uint64_t read_time(self) except? 0:
        if not self.has_time:
            self.now_ms = self.clock()
            self.has_time = True
        return self.now_ms

    cdef bint read(self) except -1:
        """Read all keys without a lock.

        Returns:
            False if one is not ordinary.
        """
        cdef uint64_t *disturbed = &self.engine.counts[<int> WHY_DISTURBED]
        cdef uint64_t before = disturbed[0]
        cdef Found *found
        cdef Py_ssize_t i
        cdef int outcome
        if not self.hash_all():
            return False
        for i in range(self.count):
            found = &self.found[i]
            if i + SLOTS_AHEAD < self.count:
                prefetch_slots(&self.engine.arena, self.hashes[i + SLOTS_AHEAD])
            if i + RECORD_AHEAD < self.count:
                prefetch_record(&self.engine.arena, self.hashes[i + RECORD_AHEAD])
            outcome = self.find(i)
            if unlikely(outcome == DECLINED):
                if disturbed[0] == before:
                    return False
                before = disturbed[0]
            if outcome != DONE or (found.deadline_ms and found.deadline_ms <= self.read_time()):
                found.slot = 0
            elif self.form != COUNT:
                self.results[i] = made_of(found, self.form)
        return True

    cdef bint settle(self) except -1:
        """Make sure that all were there, or missing, at one moment.

        Returns:
            False if the readable one has to do that.
        """
        cdef int outcome = MISS, tries
        cdef Py_ssize_t i
        for tries in range(ROUNDS):
            if self.needs_time:
                self.read_time()
            if not self.unsettle(tries == 0):
                outcome = DONE
                break
            if not self.lock_all():
                return False
            outcome = self.look_again()
            self.unlock_below(self.shard_count)
            if outcome != MISS:
                break
        if outcome != DONE:
            if outcome == MISS:
                self.engine.decline(WHY_DISTURBED)
            return False
        for i in range(self.count):
            if self.found[i].slot:
                if self.unsettled[i] and self.form != COUNT:
                    self.results[i] = made_of(&self.found[i], self.form)
                self.engine.count_access(self.found[i].slot)
            elif self.form != COUNT:
                self.results[i] = None
        return True

    cdef bint unsettle(self, bint missing) noexcept:
        """Note what has changed, and what is missing, as unsettled; tell whether anything is."""
        cdef bint found = False
        cdef Py_ssize_t i
        cdef uint64_t shard
        for i in range(self.count):
            if not self.unsettled[i]:
                if likely(self.found[i].slot and self.engine.is_unchanged(&self.found[i])):
                    continue
                shard = shard_of(&self.engine.arena, self.hashes[i])
                self.unsettled[i] = True
                self.shards[shard >> 6] |= <uint64_t> 1 << (shard & 63)
            found = True
        return found

    cdef int look_again(self) noexcept:
        """Look the unsettled keys up under their locks, and then at the slots of all others.

        Returns:
            DONE if all are settled, MISS if others have changed, DECLINED.
        """
        cdef size_t room = 0
        cdef uint8_t *copy
        cdef Found *found
        cdef Py_ssize_t i
        cdef int outcome
        for i in range(self.count):
            found = &self.found[i]
            if not self.unsettled[i]:
                continue
            outcome = self.find(i)
            if unlikely(outcome == DECLINED):
                return DECLINED
            if outcome == DONE and found.deadline_ms:
                if not self.has_time:
                    self.needs_time = True
                    return MISS
                if found.deadline_ms <= self.now_ms:
                    outcome = MISS
            if outcome == DONE:
                room += found.value_len + found.metadata_len
            else:
                found.slot = 0
        for i in range(self.count):
            if not self.unsettled[i] and not self.engine.is_unchanged(&self.found[i]):
                return MISS
        if not room or self.form == COUNT:
            return DONE
        self.copies = copy = <uint8_t *> malloc(room)
        if copy == NULL:
            return DECLINED
        for i in range(self.count):
            found = &self.found[i]
            if self.unsettled[i] and found.slot:
                memcpy(copy, found.value, found.value_len)
                found.value = copy
                copy += found.value_len
                memcpy(copy, found.metadata, found.metadata_len)
                found.metadata = copy
                copy += found.metadata_len
        return DONE

    # -- locks ---------------------------------------------------------------------------------------------

    cdef inline bint concerns(self, uint64_t shard) noexcept:
        return self.shards[shard >> 6] >> (shard & 63) & 1

    cdef bint lock_all(self) except -1:
        """Lock the shards of what is unsettled, ascending.

        Returns:
            False if one is not to be had, or they are too many; then none is locked.
        """
        cdef uint64_t shard
        cdef int code, held = 0, _spin
        for shard in range(self.shard_count):
            if not self.concerns(shard):
                continue
            code = EBUSY
            if held < MOST_HELD:
                code = pthread_mutex_trylock(self.engine.mutexes[shard])
                for _spin in range(SPINS):
                    if code != EBUSY:
                        break
                    sched_yield()
                    code = pthread_mutex_trylock(self.engine.mutexes[shard])
            if unlikely(code != 0):
                self.unlock_below(shard)
                self.engine.decline(WHY_BUSY)
                if code == EOWNERDEAD:
                    self.engine.readable.recover(shard)
                return False
            held += 1
        return True

    cdef void unlock_below(self, uint64_t end) noexcept:
        cdef uint64_t shard
        for shard in range(end):
            if self.concerns(shard):
                pthread_mutex_unlock(self.engine.mutexes[shard])


@cython.final
cdef class Many:
    """The reading of several keys, for what is ordinary; the readable ``MultiGet`` does the rest."""

    cdef Engine engine
    cdef readonly object readable

    def __cinit__(self, Engine engine not None, object readable) -> None:
        self.engine = engine
        self.readable = readable

    cdef Look look(self, object keys, object clock, Form form):
        """What was found; None if the readable one has to look."""
        cdef Look look
        if not STORES_ARE_ORDERED:  # the readable one takes the locks at once
            self.engine.decline(WHY_MISSING)
            return None
        look = Look(self.engine, keys, clock, form)
        return look if look.read() and look.settle() else None

    def get_many(self, keys: object, clock: object) -> list:
        """Look several keys up, as ``fastkv.store.multi_get.MultiGet.get_many``."""
        cdef Look look = self.look(keys, clock, ENTRIES)
        return look.results if look is not None else self.readable.get_many(keys, clock)

    def get_values(self, keys: object, clock: object) -> list:
        """Look the values of several keys up, as ``MultiGet.get_values``."""
        cdef Look look = self.look(keys, clock, VALUES)
        return look.results if look is not None else self.readable.get_values(keys, clock)

    def count_many(self, keys: object, clock: object) -> int:
        """Count those of several keys that have an entry, as ``MultiGet.count_many``."""
        cdef Look look = self.look(keys, clock, COUNT)
        cdef Py_ssize_t i, present = 0
        if look is None:
            return self.readable.count_many(keys, clock)
        for i in range(look.count):
            present += look.found[i].slot != 0
        return present
