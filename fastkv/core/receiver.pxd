"""The root of a connection."""

from fastkv.core.framing cimport Framing

cdef class Receiver:
    cdef public bint heard, fast_path_ok
    cdef Framing framing
    cdef object output
    cdef int fd
    cdef bint queued
    cdef size_t most

    cdef send(self, Framing framing)
