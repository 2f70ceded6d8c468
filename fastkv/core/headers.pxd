"""Header sections of ordinary requests: known ones by comparison, others by a scanner."""

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint64_t

from fastkv.core.fields cimport Text

cdef enum Route:
    READ_JSON      # GET and HEAD of /get
    PUT_JSON       # PUT and POST of /put
    READ_RESOURCE  # GET and HEAD of /kv
    PUT_RESOURCE   # PUT of /kv
    DELETE_ANY     # DELETE of /delete and /kv
    RUN_COMMAND    # POST of / and /pipeline

cdef struct Section:
    size_t size              # bytes from the space before HTTP/1.1 up to and with the empty line
    int64_t content_length   # -1: the request has none
    uint64_t ttl_seconds     # PUT_RESOURCE: its TTL field; 0: none
    const uint8_t *metadata  # PUT_RESOURCE: as metadata_of gives it; valid until the next read
    size_t metadata_len
    bint in_base64           # RUN_COMMAND: how strings of the reply are wanted

# -- what a worker keeps -----------------------------------------------------------------------------------

cdef enum:
    ROUTES = 6
    KEPT = 8                 # sections for each route, senders, and contents
    KEPT_SECTION_BYTES = 4096
    KEPT_SENDER_BYTES = 1024
    KEPT_CONTENT_BYTES = 512
    METADATA_BYTES = 255
    NAME_BYTES = 48
    NAME_SLOTS = 128
    NAME_SLOT_BITS = 7

cdef struct KnownSection:
    size_t before            # bytes up to the digits of Content-Length, or of all where there are none
    size_t after             # bytes behind the digits; 0: it has no Content-Length
    Section section
    uint8_t metadata[METADATA_BYTES]
    uint8_t text[KEPT_SECTION_BYTES]

cdef struct Sender:
    Text fields[4]           # Host, Origin, Sec-Fetch-Site, Authorization; they point into `text`
    uint8_t text[KEPT_SENDER_BYTES]

cdef struct Content:
    Text fields[2]           # Content-Type, Content-Encoding; they point into `text`
    size_t metadata_len
    uint8_t metadata[METADATA_BYTES]
    uint8_t text[KEPT_CONTENT_BYTES]

cdef struct Name:
    uint64_t first           # its first eight bytes, lowest first, and its last; all of a shorter name
    uint64_t last
    size_t size
    uint8_t treatments[ROUTES]
    uint8_t text[NAME_BYTES]


@cython.final
cdef class Sections:
    cdef object admits
    cdef object metadata_of
    cdef size_t max_head_bytes
    cdef size_t max_fields
    # Names that routes read, found by a hash without collisions; names[0] is that of no field.
    cdef uint64_t multiplier
    cdef uint8_t slots[NAME_SLOTS]
    cdef Name *names
    # The last ones in front. Of a route's sections the one behind the `promoted` was not seen again yet.
    cdef KnownSection *sections[ROUTES][KEPT]
    cdef size_t known[ROUTES]
    cdef size_t promoted[ROUTES]
    cdef Sender *senders[KEPT]
    cdef size_t known_senders
    cdef Content *contents[KEPT]
    cdef size_t known_contents

    cdef int read(
        self, const uint8_t *at, const uint8_t *end, int route, size_t line_bytes, Section *out
    ) noexcept  # 1: ordinary, and `out` is filled; 0: declined, incomplete sections too
    cdef int scan(self, const uint8_t *at, const uint8_t *end, int route, Section *out) noexcept
    cdef const uint8_t *sort_lines(
        self, const uint8_t *at, const uint8_t *end, int route, Text *fields
    ) noexcept
    cdef int treatment_of(self, const uint8_t *at, size_t size, int route) noexcept
    cdef bint is_admitted(self, const Text *fields) noexcept
    cdef bint ask_admits(self, const Text *fields) noexcept
    cdef Content *content_of(self, const Text *fields) noexcept
    cdef Content *ask_metadata_of(self, const Text *fields) noexcept
    cdef void keep(self, int route, const uint8_t *at, const Text *length, const Section *section) noexcept
