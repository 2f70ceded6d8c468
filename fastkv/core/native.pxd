"""Words that several processes see, and hints for the compiler."""

from libc.stdint cimport uint64_t

cdef extern from "native.h" nogil:
    uint64_t load_acquire(const uint64_t *)
    uint64_t load_relaxed(const uint64_t *)
    void store_release(uint64_t *, uint64_t)
    void store_relaxed(uint64_t *, uint64_t)
    void fence_acquire()
    void fence_release()
    const bint STORES_ARE_ORDERED
    uint64_t folded_product(uint64_t, uint64_t)
    int first_bit(uint64_t)
    void prefetch(const void *)
    bint likely(bint)
    bint unlikely(bint)
