"""The request path of HTTP: ordinary requests in, replies out."""

from libc.stdint cimport uint8_t, uint64_t

from fastkv.core.commands cimport JsonCommands
from fastkv.core.engine cimport Clock, Engine, Found
from fastkv.core.framing cimport Framing
from fastkv.core.headers cimport Sections
from fastkv.core.replies cimport Outcome, Part

cdef enum Reason:
    ROUTE       # the method, the path, or the form of the target
    TARGET      # the key, or the ttl beside it
    SECTION     # the header section, or the length that it gives
    INCOMPLETE  # the header section has not all arrived
    BODY        # the JSON of a PUT, or of commands
    LISTENED    # keyspace events are listened to
    ENCODING    # a key or a value that JSON has in base64
    ENGINE      # the engine declined
    REASONS     # how many there are

cdef class Http(Framing):
    cdef Engine engine
    cdef Clock clock
    cdef Sections sections
    cdef readonly JsonCommands commands
    cdef object templates, content_fields, row, listeners
    cdef uint64_t *counters
    cdef const uint64_t *wanted
    cdef size_t hits, misses, puts, deletes
    cdef size_t max_key, max_value, max_resource, max_json, max_command
    # Why the newest request was declined, and how many were, by reason.
    cdef Reason reason
    cdef uint64_t[8] refused
    # The objects that the parts of replies lie in, which are renewed once a second.
    cdef list texts
    # Metadata that was seen lately, and the header lines of each.
    cdef bytes no_content
    cdef list metadata, content
    cdef Py_ssize_t oldest

    cdef Part part(self, bytes text, list texts)
    cdef uint64_t deadline_in(self, uint64_t ttl_seconds) noexcept
    cdef void count(self, size_t column) noexcept
    cdef Py_ssize_t decline(self, Reason reason) noexcept
    cdef const uint8_t *key_of(
        self, const uint8_t *at, const uint8_t *end, bint in_path, const uint8_t **key, size_t *key_len,
        bint *plain,
    ) noexcept
    cdef Py_ssize_t read(
        self, const uint8_t *line, const uint8_t *path, const uint8_t *end, bint headless
    ) noexcept
    cdef Py_ssize_t put(self, const uint8_t *line, const uint8_t *at, const uint8_t *end) noexcept
    cdef Py_ssize_t put_resource(self, const uint8_t *line, const uint8_t *path, const uint8_t *end) noexcept
    cdef Py_ssize_t delete(self, const uint8_t *line, const uint8_t *path, const uint8_t *end) noexcept
    cdef Py_ssize_t command(
        self, const uint8_t *line, const uint8_t *at, const uint8_t *end, bint batch
    ) noexcept
    cdef Outcome reply_resource(self, Found *found, bint headless) noexcept
    cdef bytes content_of(self, const uint8_t *metadata, size_t n)
