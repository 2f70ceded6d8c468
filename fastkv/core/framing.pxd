"""What the protocols have in common: messages in, replies out, one after the other."""

cimport cython
from cpython.buffer cimport Py_buffer
from libc.stdint cimport uint8_t, uint64_t

from fastkv.core.native cimport load_relaxed, store_relaxed
from fastkv.core.replies cimport Replies

cdef enum:
    KEPT_BYTES = 1 << 16  # of each buffer: they stay after large replies and bodies


@cython.final
cdef class SharedWords:
    """Words of 64 bits that others see as well; their buffer is exported for as long as this lives."""

    cdef Py_buffer view
    cdef uint64_t *at
    cdef size_t count


cdef inline void add_to(uint64_t *counter, uint64_t count) noexcept:
    """Add to a counter of the row, which has no other writer."""
    store_relaxed(counter, load_relaxed(counter) + count)


cdef class Framing:
    # Replies, and how many messages they answer; what is decoded on the way.
    cdef Replies replies
    cdef readonly size_t served
    cdef uint8_t *scratch
    cdef size_t scratch_room, kept_scratch
    cdef size_t max_output, large

    cdef bint reserve_all(self, size_t kept_scratch) noexcept
    cdef size_t answer(self, const uint8_t *data, size_t at, size_t n, size_t most, Py_ssize_t *more) noexcept
    cdef bytes take(self)
    cdef void clear(self) noexcept
    cdef bint reserve_scratch(self, size_t n) noexcept
    # Of each protocol.
    cdef Py_ssize_t answer_one(self, const uint8_t *message, const uint8_t *end) noexcept
    cdef void count_decline(self, const uint8_t *message, const uint8_t *end) noexcept
