# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: nonecheck=False, embedsignature=True, auto_pickle=False, autotestdict=False
"""The loop that all protocols share: the leading ordinary messages of what has arrived are answered.

In: bytes. Out: replies, written into one buffer, which grows as it must and is cut back after large replies.
A protocol answers one message (``answer_one``), or declines it with nothing changed.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport free, realloc

from fastkv.core.native cimport likely, unlikely
from fastkv.core.replies cimport reserve

include "sources.pxi"

DONE = 0
DECLINED = -1


@cython.final
cdef class SharedWords:
    def __cinit__(self, words not None, bint writable):
        PyObject_GetBuffer(words, &self.view, PyBUF_WRITABLE if writable else PyBUF_SIMPLE)
        self.at = <uint64_t *>self.view.buf
        self.count = self.view.len // sizeof(uint64_t)
        if <size_t>self.at % sizeof(uint64_t):
            raise ValueError("The words are not aligned.")

    def __dealloc__(self):
        PyBuffer_Release(&self.view)


cdef class Framing:
    """One protocol's messages and replies, of one worker.

    Attributes:
        served: how many messages the newest call to `serve` has answered.
    """

    def __dealloc__(self):
        free(self.replies.out)
        free(self.scratch)

    cdef bint reserve_all(self, size_t kept_scratch) noexcept:
        """Make the buffers, of which the scratch keeps so many bytes; False: there is no memory."""
        self.kept_scratch = kept_scratch
        return reserve(&self.replies, KEPT_BYTES) and self.reserve_scratch(kept_scratch)

    def serve(self, bytes data not None, Py_ssize_t at, Py_ssize_t most):
        """Answer the leading messages that are whole and ordinary.

        Args:
            data: what was received.
            at: where a message begins in it, 0 to its length.
            most: how many messages may be answered.

        Returns:
            (replies, used, more). ``used`` is where the first message begins that was not answered. ``more``
            is ``DONE`` where ``data`` ends there, or ``most`` or the longest output are reached; ``DECLINED``
            where the readable path has to read that message; and above 0 it is the length in bytes of that
            message, whose head is ordinary and whose body has not all arrived: it has to be seen whole.

        Raises:
            MemoryError: there is no memory for the replies; what was asked for is done.
            ValueError: ``at`` lies outside of ``data``.
        """
        cdef Py_ssize_t more
        cdef size_t used
        if not 0 <= at <= PyBytes_GET_SIZE(data):
            raise ValueError("No message begins there.")
        used = self.answer(
            <const uint8_t *>PyBytes_AS_STRING(data), at, PyBytes_GET_SIZE(data), max(most, 0), &more
        )
        return self.take(), used, more

    cdef size_t answer(
        self, const uint8_t *data, size_t at, size_t n, size_t most, Py_ssize_t *more
    ) noexcept:
        """As `serve`; the replies are the first ``size`` bytes of ``out`` until `clear` is called."""
        cdef Py_ssize_t used
        self.replies.size = 0
        self.served = 0
        more[0] = 0
        while at < n and self.served < most and self.replies.size <= self.max_output:
            used = self.answer_one(data + at, data + n)
            if used < 0:
                more[0] = -used
                break
            if used == 0:
                more[0] = -1
                self.count_decline(data + at, data + n)
                break
            at += used
            self.served += 1
        return at

    cdef Py_ssize_t answer_one(self, const uint8_t *message, const uint8_t *end) noexcept:
        """Answer one message; nothing has changed unless the result is above 0.

        Args:
            message: where it begins; before ``end``.
            end: of what arrived.

        Returns:
            How many bytes it has; 0: it is declined; below 0, with the sign turned: how many it will have.
        """
        return 0

    cdef void count_decline(self, const uint8_t *message, const uint8_t *end) noexcept:
        """Count a message that was declined."""

    # -- buffers -------------------------------------------------------------------------------------------

    cdef bytes take(self):
        """Return the replies and clear the buffers."""
        replies = PyBytes_FromStringAndSize(<const char *>self.replies.out, self.replies.size)
        self.clear()
        return replies

    cdef void clear(self) noexcept:
        """Forget the replies, and give back the memory that large ones and large bodies took."""
        cdef void *less
        self.replies.size = 0
        if unlikely(self.replies.room > KEPT_BYTES):
            less = realloc(self.replies.out, KEPT_BYTES)
            if less != NULL:
                self.replies.out = <uint8_t *>less
                self.replies.room = KEPT_BYTES
        if unlikely(self.scratch_room > self.kept_scratch):
            less = realloc(self.scratch, self.kept_scratch)
            if less != NULL:
                self.scratch = <uint8_t *>less
                self.scratch_room = self.kept_scratch

    cdef bint reserve_scratch(self, size_t n) noexcept:
        """Make room for what is decoded; False: there is no memory."""
        cdef void *grown
        if likely(n <= self.scratch_room):
            return True
        grown = realloc(self.scratch, n)
        if grown == NULL:
            return False
        self.scratch = <uint8_t *>grown
        self.scratch_room = n
        return True
