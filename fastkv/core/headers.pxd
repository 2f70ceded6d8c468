"""Header sections of ordinary requests: known ones by comparison, others by a scanner."""

from libc.stdint cimport int64_t, uint8_t, uint64_t

cdef enum Route:
    READ_JSON      # GET and HEAD of /get
    PUT_JSON       # PUT and POST of /put
    READ_RESOURCE  # GET and HEAD of /kv
    PUT_RESOURCE   # PUT of /kv
    DELETE_ANY     # DELETE of /delete and /kv

cdef struct Section:
    size_t size              # bytes from the space before HTTP/1.1 up to and with the empty line
    int64_t content_length   # -1: the request has none
    uint64_t ttl_seconds     # PUT_RESOURCE: its TTL field; 0: none
    const uint8_t *metadata  # PUT_RESOURCE: as metadata_of gives it; valid until the next read
    size_t metadata_len

cdef class Sections:
    cdef int read(
        self, const uint8_t *at, const uint8_t *end, int route, size_t line_bytes, Section *out
    ) noexcept  # 1: ordinary, and `out` is filled; 0: declined, incomplete sections too
