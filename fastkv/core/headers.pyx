# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: nonecheck=False, embedsignature=True
"""Header sections of ordinary requests: known ones by comparison, others by a scanner."""

include "sources.pxi"

from libc.stdint cimport int64_t, uint8_t, uint64_t


cdef class Sections:
    """The header sections that a worker may answer without the readable parser."""

    def __init__(self, admits, metadata_of, treatments, max_head_bytes, max_fields):
        pass

    cdef int read(
        self, const uint8_t *at, const uint8_t *end, int route, size_t line_bytes, Section *out
    ) noexcept:
        """Read the section that follows a request's target."""
        return 0
