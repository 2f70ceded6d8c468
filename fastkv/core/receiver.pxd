"""The root of a connection."""

from fastkv.core.http cimport Http

cdef class Receiver:
    cdef public bint heard, fast_path_ok
    cdef Http http
    cdef object output
    cdef int fd
    cdef bint queued
    cdef size_t most

    cdef send(self, Http http)
