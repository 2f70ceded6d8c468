# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: nonecheck=False, embedsignature=True, auto_pickle=False, autotestdict=False
"""Ordinary requests over HTTP/1.1 → replies, and a connection's way in and out.

`Http.serve` answers as many leading whole requests as are ordinary. What it answers is specified by
`fastkv.http.routes` and `fastkv.http.rest`, byte for byte. Ordinary is: GET and HEAD of /get, PUT and POST of
/put, DELETE of /delete, each with one key; GET, HEAD, PUT and DELETE of /kv with the key in path or query; a
header section that `headers` takes, a body that `text` takes, a key and a value within the limits,
and an answer that is 200, 201, 204, or 404 for a key. **All else is declined, and then nothing has changed**:
no word of the arena, no counter, no byte of the replies.

Replies are written into one buffer, which grows as it must and is cut back after large replies. A request
allocates nothing, and no Python runs but for metadata that was not seen lately.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp, memcpy, memmove

from fastkv.core cimport engine as store
from fastkv.core.engine cimport Clock, Engine, Found, Written
from fastkv.core.headers cimport (
    DELETE_ANY, PUT_JSON, PUT_RESOURCE, READ_JSON, READ_RESOURCE, Section, Sections
)
from fastkv.core.native cimport likely, load_relaxed, store_relaxed, unlikely
from fastkv.core.text cimport (
    PutBody, escape, key_in_path, key_in_query, parse_put, put_decimal, put_hex, ttl_in_query
)

cdef extern from "sys/socket.h" nogil:
    enum: MSG_DONTWAIT
    enum: MSG_NOSIGNAL
    ssize_t send_now "send"(int fd, const void *data, size_t n, int flags)

cdef extern from "string.h" nogil:
    void *memmem(const void *data, size_t n, const void *wanted, size_t wanted_len)

include "sources.pxi"

DONE = 0
DECLINED = -1

cdef enum:
    PLAIN = 1  # the store's flag for a value that stands in JSON as it is
    TRIES = 4  # reads of an entry that is replaced meanwhile, before the lock has to be taken
    KEPT_BYTES = 1 << 16  # of each buffer: they stay after large replies and bodies
    KEPT_CONTENT = 8
    DIGITS = 20  # the most that a number has, in decimal or hexadecimal
    ROOM_IN_JSON = 1024  # of a PUT besides the strings

_REASONS = ("route", "target", "section", "incomplete", "body", "listened", "encoding", "engine")


cdef inline bint begins(const uint8_t *at, const uint8_t *end, const char *text, Py_ssize_t n) noexcept:
    """Whether what arrived begins with a text of ``n`` bytes."""
    return end - at >= n and memcmp(at, text, n) == 0


cdef inline uint8_t *put_raw(uint8_t *out, const uint8_t *raw, size_t n) noexcept:
    """Write some bytes and return what is behind them."""
    memcpy(out, raw, n)
    return out + n


cdef inline uint8_t *put_part(uint8_t *out, const Part *part) noexcept:
    """Write a part of a reply and return what is behind it."""
    memcpy(out, part.at, part.size)
    return out + part.size


cdef inline uint8_t *put_seconds(uint8_t *out, uint64_t ms) noexcept:
    """Write ms as seconds, with three decimals where they are not 0; returns what is behind them."""
    cdef uint64_t part = ms % 1000
    out += put_decimal(out, ms // 1000)
    if part:
        out[0] = c"."
        out[1] = c"0" + part // 100
        out[2] = c"0" + part // 10 % 10
        out[3] = c"0" + part % 10
        out += 4
    return out


@cython.final
cdef class _Words:
    """Words of 64 bits that others see as well; their buffer is exported for as long as this lives."""

    cdef Py_buffer view
    cdef uint64_t *at
    cdef size_t count

    def __cinit__(self, words not None, bint writable):
        PyObject_GetBuffer(words, &self.view, PyBUF_WRITABLE if writable else PyBUF_SIMPLE)
        self.at = <uint64_t *>self.view.buf
        self.count = self.view.len // sizeof(uint64_t)
        if <size_t>self.at % sizeof(uint64_t):
            raise ValueError("The words are not aligned.")

    def __dealloc__(self):
        PyBuffer_Release(&self.view)


@cython.final
cdef class Http:
    """Answers the ordinary requests of one worker.

    Args:
        engine: the store's.
        clock: the arena's.
        sections: knows which header sections are ordinary.
        templates: what replies consist of, see `fastkv.http.templates`.
        content_fields: from an entry's metadata to header lines; the same ones for the same metadata.
        row: this worker's counters.
        columns: where in the row hits, misses, puts and deletes are counted.
        wanted: a word that is not 0 while somebody listens to keyspace events; writes are declined then.
        max_key_bytes: longer keys are declined.
        max_value_bytes: longer values are declined.
        max_body_bytes: longer bodies are declined.
        max_output_bytes: once the replies of one call are longer, the next request has to wait.
        large_bytes: replies of one call that are longer in all leave by ``Receiver.write_any``.

    Attributes:
        served: how many requests the newest call to `serve` has answered.

    Raises:
        MemoryError: there is no memory for the buffers.
        ValueError: a column lies outside of the row, or ``wanted`` has no word.
    """

    def __init__(
        self, Engine engine not None, Clock clock not None, Sections sections not None, templates not None,
        content_fields not None, row not None, columns not None, wanted not None, *,
        size_t max_key_bytes, size_t max_value_bytes, size_t max_body_bytes, size_t max_output_bytes,
        size_t large_bytes,
    ):
        cdef _Words counters = _Words(row, True)
        cdef _Words listeners = _Words(wanted, False)
        cdef size_t max_inline = sizeof(uint64_t) * engine.arena.inline_words
        self.engine = engine
        self.clock = clock
        self.sections = sections
        self.templates = templates
        self.content_fields = content_fields
        self.hits, self.misses, self.puts, self.deletes = columns
        if max(columns) >= counters.count or not listeners.count:
            raise ValueError("The row has no such column, or there is no word of the listeners.")
        self.row, self.counters = counters, counters.at
        self.listeners, self.wanted = listeners, listeners.at
        self.max_key = max_key_bytes
        self.max_value = max_value_bytes
        # The engine declines values in fragments: no body is collected that can only be one.
        self.max_resource = min(self.max_value, max_body_bytes, max_inline)
        self.max_json = min(
            max_body_bytes, 6 * (self.max_key + min(self.max_value, max_inline)) + ROOM_IN_JSON
        )
        self.max_output = max_output_bytes
        self.large = large_bytes
        self.no_content = content_fields(b"")
        self.metadata = []
        self.content = []
        self.set_prefixes(dict.fromkeys((200, 201, 204, 404), b""))
        # A percent escape has three bytes; behind the longest key one more decides that it is the longest.
        self.kept_scratch = max(<size_t>KEPT_BYTES, 3 * self.max_key + 1)
        if not (self.reserve(KEPT_BYTES) and self.reserve_scratch(self.kept_scratch)):
            raise MemoryError

    def __dealloc__(self):
        free(self.out)
        free(self.scratch)

    @property
    def declines(self):
        """How many requests were declined, by reason; "incomplete": their heads had not all arrived."""
        return {reason: self.refused[place] for place, reason in enumerate(_REASONS)}

    def set_prefixes(self, prefixes not None):
        """Set what replies begin with; to be called whenever Date changes.

        Args:
            prefixes: by status, for 200, 201, 204 and 404, what precedes the fields of a reply on a
                connection that stays open.
        """
        templates = self.templates
        isolation, not_found = templates.isolation, templates.not_found
        headless = not_found[:not_found.index(b"\r\n\r\n") + 4]
        start, end = templates.hit_head
        opening, middle, close = templates.hit_body
        content, length, etag, resource_end = templates.resource
        ttl, ttl_end = templates.resource_ttl
        ok, missing = prefixes[200], prefixes[404]
        created = prefixes[201] + isolation + templates.created[0]
        replaced = prefixes[204] + isolation + templates.replaced[0]
        deleted = prefixes[204] + isolation + templates.deleted
        texts = []
        self.hit_start = self.part(ok + start, texts)
        self.hit_end = self.part(end, texts)
        self.hit_open = self.part(opening, texts)
        self.hit_end_open = self.part(end + opening, texts)
        self.hit_middle = self.part(middle, texts)
        self.hit_close = self.part(close, texts)
        self.miss = self.part(missing + not_found, texts)
        self.miss_head = self.part(missing + headless, texts)
        self.put_ok = self.part(ok + templates.put_ok, texts)
        self.delete_ok = self.part(ok + templates.delete_ok, texts)
        self.resource_start = self.part(ok + isolation + content, texts)
        self.length_name = self.part(length, texts)
        self.etag_name = self.part(etag, texts)
        self.resource_end = self.part(resource_end, texts)
        self.ttl_name = self.part(ttl, texts)
        self.ttl_end = self.part(ttl_end, texts)
        self.resource_miss = self.part(missing + isolation + not_found, texts)
        self.resource_miss_head = self.part(missing + isolation + headless, texts)
        self.created = self.part(created, texts)
        self.replaced = self.part(replaced, texts)
        self.put_end = self.part(templates.created[1], texts)
        self.deleted = self.part(deleted, texts)
        self.around = self.hit_open.size + self.hit_middle.size + self.hit_close.size
        self.fixed = sum(map(len, texts)) + 4 * DIGITS
        self.texts = texts

    cdef Part part(self, bytes text, list texts):
        """A part of a reply, whose text lives as long as the list."""
        cdef Part part
        texts.append(text)
        part.at = <const uint8_t *>PyBytes_AS_STRING(text)
        part.size = PyBytes_GET_SIZE(text)
        return part

    def serve(self, bytes data not None, Py_ssize_t at, Py_ssize_t most):
        """Answer the leading requests that are whole and ordinary.

        Args:
            data: what was received.
            at: where a message begins in it, 0 to its length.
            most: how many requests may be answered.

        Returns:
            (replies, used, more). ``used`` is where the first message begins that was not answered. ``more``
            is ``DONE`` where ``data`` ends there, or ``most`` or ``max_output_bytes`` are reached;
            ``DECLINED`` where the readable path has to read that message; and above 0 it is the length in
            bytes of that message, whose head is ordinary and whose body has not all arrived: it has to be
            seen whole.

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
        self.size = 0
        self.served = 0
        more[0] = 0
        while at < n and self.served < most and self.size <= self.max_output:
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

    # -- buffers -------------------------------------------------------------------------------------------

    cdef bytes take(self):
        """Return the replies and clear the buffers."""
        replies = PyBytes_FromStringAndSize(<const char *>self.out, self.size)
        self.clear()
        return replies

    cdef void clear(self) noexcept:
        """Forget the replies, and give back the memory that large ones and large bodies took."""
        cdef void *less
        self.size = 0
        if unlikely(self.room > KEPT_BYTES):
            less = realloc(self.out, KEPT_BYTES)
            if less != NULL:
                self.out = <uint8_t *>less
                self.room = KEPT_BYTES
        if unlikely(self.scratch_room > self.kept_scratch):
            less = realloc(self.scratch, self.kept_scratch)
            if less != NULL:
                self.scratch = <uint8_t *>less
                self.scratch_room = self.kept_scratch

    cdef bint reserve(self, size_t more) noexcept:
        """Make room for further bytes of replies; False: there is no memory."""
        cdef size_t room = 2 * (self.size + more)
        cdef void *grown
        if likely(self.size + more <= self.room):
            return True
        grown = realloc(self.out, room)
        if grown == NULL:
            return False
        self.out = <uint8_t *>grown
        self.room = room
        return True

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

    cdef inline bint add(self, const Part *part) noexcept:
        """Reply with a constant; False: there is no memory."""
        if unlikely(not self.reserve(self.fixed)):
            return False
        self.size = put_part(self.out + self.size, part) - self.out
        return True

    # -- requests ------------------------------------------------------------------------------------------

    cdef Py_ssize_t answer_one(self, const uint8_t *line, const uint8_t *end) noexcept:
        """Answer one request, as do the methods below; nothing has changed unless the result is above 0.

        Args:
            line: where it begins; before ``end``.
            end: of what arrived.

        Returns:
            How many bytes it has; 0: it is declined; below 0, with the sign turned: how many it will have.
        """
        if line[0] == c"G":
            if begins(line, end, b"GET /", 5):
                return self.read(line, line + 4, end, False)
        elif line[0] == c"P":
            if begins(line, end, b"PUT /put ", 9):
                return self.put(line, line + 8, end)
            if begins(line, end, b"POST /put ", 10):
                return self.put(line, line + 9, end)
            if begins(line, end, b"PUT /kv", 7):
                return self.put_resource(line, line + 4, end)
        elif line[0] == c"D":
            if begins(line, end, b"DELETE /", 8):
                return self.delete(line, line + 7, end)
        elif line[0] == c"H":
            if begins(line, end, b"HEAD /", 6):
                return self.read(line, line + 5, end, True)
        return self.decline(ROUTE)

    cdef inline Py_ssize_t decline(self, Reason reason) noexcept:
        """Say why a request is declined."""
        self.reason = reason
        return 0

    cdef void count_decline(self, const uint8_t *line, const uint8_t *end) noexcept:
        """Count a request that was declined; before its head has all arrived nothing else is known of it."""
        if memmem(line, end - line, b"\r\n\r\n", 4) == NULL:
            self.reason = INCOMPLETE
        self.refused[<int>self.reason] += 1

    cdef inline const uint8_t *key_of(
        self, const uint8_t *at, const uint8_t *end, bint in_path, const uint8_t **key, size_t *key_len,
        bint *plain,
    ) noexcept:
        """Read a key; returns what is behind it, NULL if it is not ordinary or longer than allowed."""
        cdef const uint8_t *after
        if <size_t>(end - at) > 3 * self.max_key + 1:
            end = at + 3 * self.max_key + 1
        if in_path:
            after = key_in_path(at, end, self.scratch, key, key_len)
        else:
            after = key_in_query(at, end, self.scratch, key, key_len, plain)
        return after if key_len[0] <= self.max_key else NULL

    cdef Py_ssize_t read(
        self, const uint8_t *line, const uint8_t *path, const uint8_t *end, bint headless
    ) noexcept:
        """GET and HEAD."""
        cdef const uint8_t *at
        cdef const uint8_t *key
        cdef size_t key_len = 0
        cdef bint in_json = False, plain = False, added
        cdef Section section
        cdef Found found
        cdef Outcome outcome
        cdef int looked
        if begins(path, end, b"/get?key=", 9):
            in_json = True
            at = self.key_of(path + 9, end, False, &key, &key_len, &plain)
        elif begins(path, end, b"/kv/", 4):
            at = self.key_of(path + 4, end, True, &key, &key_len, &plain)
        elif begins(path, end, b"/kv?key=", 8):
            at = self.key_of(path + 8, end, False, &key, &key_len, &plain)
        else:
            return self.decline(ROUTE)
        if unlikely(at == NULL or at[0] != c" "):
            return self.decline(TARGET)
        if not self.sections.read(at, end, READ_JSON if in_json else READ_RESOURCE, at - line, &section):
            return self.decline(SECTION)
        if unlikely(section.content_length > 0):
            return self.decline(SECTION)
        at += section.size
        for _ in range(TRIES):
            looked = self.engine.look(key, key_len, &found)
            if looked == store.MISS:
                if in_json:
                    added = self.add(&self.miss_head if headless else &self.miss)
                else:
                    added = self.add(&self.resource_miss_head if headless else &self.resource_miss)
                if unlikely(not added):
                    break
                self.count(self.misses)
                return at - line
            if unlikely(looked != store.DONE):
                break
            if not in_json:
                outcome = self.write_resource(&found, headless)
            elif likely(plain and found.flags == PLAIN):
                outcome = self.write_plain(key, key_len, &found, headless)
            else:
                outcome = self.write_escaped(key, key_len, &found, headless)
            if likely(outcome == WRITTEN):
                self.count(self.hits)
                return at - line
            if outcome == UNWRITABLE:
                return self.decline(ENCODING)
        return self.decline(ENGINE)

    cdef Py_ssize_t put(self, const uint8_t *line, const uint8_t *at, const uint8_t *end) noexcept:
        """PUT and POST of /put; ``at`` is the space before the version."""
        cdef Section section
        cdef PutBody item
        cdef Written written
        cdef size_t n
        cdef uint64_t deadline_ms = 0
        if not self.sections.read(at, end, PUT_JSON, at - line, &section):
            return self.decline(SECTION)
        n = section.content_length
        if unlikely(section.content_length < 0 or n > self.max_json):
            return self.decline(SECTION)
        if unlikely(load_relaxed(self.wanted)):
            return self.decline(LISTENED)
        at += section.size
        if <size_t>(end - at) < n:
            return line - at - <Py_ssize_t>n
        # Once the entry is written nothing may fail any more.
        if unlikely(not (self.reserve_scratch(n) and self.reserve(self.fixed))):
            return self.decline(ENGINE)
        if unlikely(
            not parse_put(at, n, self.scratch, &item)
            or item.key_len > self.max_key or item.value_len > self.max_value
        ):
            return self.decline(BODY)
        if item.ttl_seconds:
            deadline_ms = self.clock.now_ms() + 1000 * item.ttl_seconds
        if unlikely(self.engine.write(
            item.key, item.key_len, item.value, item.value_len, NULL, 0, PLAIN if item.plain else 0,
            deadline_ms, &written,
        ) != store.DONE):
            return self.decline(ENGINE)
        self.count(self.puts)
        self.add(&self.put_ok)
        return at + n - line

    cdef Py_ssize_t put_resource(
        self, const uint8_t *line, const uint8_t *path, const uint8_t *end
    ) noexcept:
        """PUT of /kv."""
        cdef const uint8_t *at
        cdef const uint8_t *key
        cdef size_t key_len = 0, n
        cdef bint plain
        cdef uint64_t ttl_seconds = 0, deadline_ms = 0
        cdef Section section
        cdef Written written
        cdef uint8_t *out
        if begins(path, end, b"/kv/", 4):
            at = self.key_of(path + 4, end, True, &key, &key_len, &plain)
            if at != NULL and at[0] == c"?":
                at = ttl_in_query(at + 1, end, &ttl_seconds)
        elif begins(path, end, b"/kv?key=", 8):
            at = self.key_of(path + 8, end, False, &key, &key_len, &plain)
        else:
            return self.decline(ROUTE)
        if unlikely(at == NULL):
            return self.decline(TARGET)
        if not self.sections.read(at, end, PUT_RESOURCE, at - line, &section):
            return self.decline(SECTION)
        n = section.content_length
        if unlikely(
            section.content_length < 0 or n > self.max_resource
            or (ttl_seconds and section.ttl_seconds)
        ):
            return self.decline(SECTION)
        if unlikely(load_relaxed(self.wanted)):
            return self.decline(LISTENED)
        at += section.size
        if <size_t>(end - at) < n:
            return line - at - <Py_ssize_t>n
        if unlikely(not self.reserve(self.fixed)):
            return self.decline(ENGINE)
        ttl_seconds += section.ttl_seconds
        if ttl_seconds:
            deadline_ms = self.clock.now_ms() + 1000 * ttl_seconds
        if unlikely(self.engine.replace(
            key, key_len, at, n, section.metadata, section.metadata_len, 0, deadline_ms, &written
        ) != store.DONE):
            return self.decline(ENGINE)
        self.count(self.puts)
        out = put_part(self.out + self.size, &self.created if written.created else &self.replaced)
        out += put_hex(out, written.version)
        self.size = put_part(out, &self.put_end) - self.out
        return at + n - line

    cdef Py_ssize_t delete(self, const uint8_t *line, const uint8_t *path, const uint8_t *end) noexcept:
        """DELETE."""
        cdef const uint8_t *at
        cdef const uint8_t *key
        cdef size_t key_len = 0
        cdef bint in_json = False, plain
        cdef Section section
        cdef int erased
        if begins(path, end, b"/delete?key=", 12):
            in_json = True
            at = self.key_of(path + 12, end, False, &key, &key_len, &plain)
        elif begins(path, end, b"/kv/", 4):
            at = self.key_of(path + 4, end, True, &key, &key_len, &plain)
        elif begins(path, end, b"/kv?key=", 8):
            at = self.key_of(path + 8, end, False, &key, &key_len, &plain)
        else:
            return self.decline(ROUTE)
        if unlikely(at == NULL or at[0] != c" "):
            return self.decline(TARGET)
        if not self.sections.read(at, end, DELETE_ANY, at - line, &section):
            return self.decline(SECTION)
        if unlikely(section.content_length > 0):
            return self.decline(SECTION)
        if unlikely(load_relaxed(self.wanted)):
            return self.decline(LISTENED)
        if unlikely(not self.reserve(self.fixed)):
            return self.decline(ENGINE)
        erased = self.engine.erase(key, key_len)
        if erased == store.DONE:
            self.count(self.deletes)
            self.add(&self.delete_ok if in_json else &self.deleted)
        elif erased == store.MISS:
            self.add(&self.miss if in_json else &self.resource_miss)
        else:
            return self.decline(ENGINE)
        return at + section.size - line

    cdef inline void count(self, size_t column) noexcept:
        """Add one to a counter of the row, which has no other writer."""
        store_relaxed(self.counters + column, load_relaxed(self.counters + column) + 1)

    # -- replies to reads ----------------------------------------------------------------------------------

    cdef Outcome write_plain(
        self, const uint8_t *key, size_t key_len, Found *found, bint headless
    ) noexcept:
        """Reply with JSON in which key and value stand as they are."""
        cdef size_t n = self.around + key_len + found.value_len
        cdef uint8_t *out
        if unlikely(not self.reserve(self.fixed + n)):
            return CHANGED
        out = put_part(self.out + self.size, &self.hit_start)
        out += put_decimal(out, n)
        if headless:
            out = put_part(out, &self.hit_end)
        else:
            out = put_raw(put_part(out, &self.hit_end_open), key, key_len)
            out = put_raw(put_part(out, &self.hit_middle), found.value, found.value_len)
            out = put_part(out, &self.hit_close)
        if unlikely(not self.engine.holds(found)):
            return CHANGED
        self.size = out - self.out
        return WRITTEN

    cdef Outcome write_escaped(
        self, const uint8_t *key, size_t key_len, Found *found, bint headless
    ) noexcept:
        """Reply with JSON in which key and value may have escapes: its length is known when it is written."""
        cdef size_t n = self.around + 6 * (key_len + found.value_len)
        cdef uint8_t *out
        cdef uint8_t *body
        cdef uint8_t *value
        cdef Py_ssize_t escaped
        if unlikely(not self.reserve(self.fixed + n + found.value_len)):
            return CHANGED
        # The body stands behind all that its head may take, and a copy of the value behind that: what is
        # replaced meanwhile may be another thing at each look.
        body = self.out + self.size + self.hit_start.size + DIGITS + self.hit_end.size
        value = body + n
        memcpy(value, found.value, found.value_len)
        out = put_part(body, &self.hit_open)
        escaped = escape(key, key_len, out)
        if escaped < 0:
            return UNWRITABLE
        out = put_part(out + escaped, &self.hit_middle)
        escaped = escape(value, found.value_len, out)
        if escaped < 0:
            return UNWRITABLE
        n = put_part(out + escaped, &self.hit_close) - body
        if unlikely(not self.engine.holds(found)):
            return CHANGED
        out = put_part(self.out + self.size, &self.hit_start)
        out += put_decimal(out, n)
        out = put_part(out, &self.hit_end)
        if not headless:
            memmove(out, body, n)
            out += n
        self.size = out - self.out
        return WRITTEN

    cdef Outcome write_resource(self, Found *found, bint headless) noexcept:
        """Reply with a value as it is."""
        cdef bytes content = self.no_content
        cdef uint64_t now_ms
        cdef uint8_t *out
        if found.metadata_len:
            content = self.content_of(found.metadata, found.metadata_len)
            if content is None:
                return CHANGED
        if unlikely(not self.reserve(self.fixed + PyBytes_GET_SIZE(content) + found.value_len)):
            return CHANGED
        out = put_part(self.out + self.size, &self.resource_start)
        out = put_raw(out, <const uint8_t *>PyBytes_AS_STRING(content), PyBytes_GET_SIZE(content))
        out = put_part(out, &self.length_name)
        out += put_decimal(out, found.value_len)
        out = put_part(out, &self.etag_name)
        out += put_hex(out, found.version)
        if found.deadline_ms:
            now_ms = self.clock.now_ms()
            out = put_part(out, &self.ttl_name)
            out = put_seconds(out, found.deadline_ms - now_ms if found.deadline_ms > now_ms else 1)
            out = put_part(out, &self.ttl_end)
        else:
            out = put_part(out, &self.resource_end)
        if not headless:
            out = put_raw(out, found.value, found.value_len)
        if unlikely(not self.engine.holds(found)):
            return CHANGED
        self.size = out - self.out
        return WRITTEN

    cdef bytes content_of(self, const uint8_t *metadata, size_t n):
        """The header lines for metadata, which may be replaced meanwhile; None if they could not be made."""
        cdef Py_ssize_t place
        cdef bytes kept
        for place in range(PyList_GET_SIZE(self.metadata)):
            kept = <bytes>PyList_GET_ITEM(self.metadata, place)
            if <size_t>PyBytes_GET_SIZE(kept) == n and memcmp(PyBytes_AS_STRING(kept), metadata, n) == 0:
                return <bytes>PyList_GET_ITEM(self.content, place)
        try:
            kept = PyBytes_FromStringAndSize(<const char *>metadata, n)
            content = self.content_fields(kept)
            if len(self.metadata) < KEPT_CONTENT:
                self.metadata.append(kept)
                self.content.append(content)
            else:
                self.metadata[self.oldest] = kept
                self.content[self.oldest] = content
                self.oldest = (self.oldest + 1) % KEPT_CONTENT
            return content
        except Exception:
            return None


cdef class Receiver:
    """The root of a connection: `Http` answers what arrives, and ``receive`` of the connection what is left.

    On plain TCP and Unix sockets replies are sent at once, without a detour by the transport, unless output
    waits in it. All other output goes by `write`, so that only after that its queue has to be asked for.

    Attributes:
        heard: something has arrived since this was set to False.
        fast_path_ok: the connection is between two messages, open, and nothing of it waits.
    """

    def attach(self, Http http, output not None, int fd, size_t most):
        """Begin to answer.

        Args:
            http: the worker's; None: all is left to ``receive``.
            output: takes what is not sent at once by ``write(data)``, and says how much waits in it by
                ``get_write_buffer_size()``.
            fd: the socket; -1 where replies may not be sent at once, as with TLS. It has to stay open until
                `detach`.
            most: how many requests are answered before others have a turn.
        """
        self.http = http
        self.output = output
        self.write_output = output.write
        self.fd = fd
        self.most = most
        self.queued = True  # whatever was written before

    def detach(self):
        """Answer and send nothing any more: from here on the socket may be closed, or another protocol's."""
        self.fast_path_ok = False
        self.fd = -1
        self.http = self.output = self.write_output = None

    def data_received(self, data):
        """Answer what is ordinary at the beginning; leave the rest to ``receive(data, at, more)``.

        Args:
            data: what was received.
        """
        cdef Http http = self.http
        cdef Py_ssize_t more
        cdef size_t used
        self.heard = True
        if unlikely(not self.fast_path_ok or http is None or not PyBytes_CheckExact(data)):
            self.receive(data, 0, DECLINED)
            return
        used = http.answer(
            <const uint8_t *>PyBytes_AS_STRING(data), 0, PyBytes_GET_SIZE(data), self.most, &more
        )
        if http.size:
            self.send(http)
        if unlikely(used < <size_t>PyBytes_GET_SIZE(data)):
            self.receive(data, used, more)

    def receive(self, data, at, more):
        """Answer what is left; the connection knows how.

        Args:
            data: what was received.
            at: where the first message begins that was not answered.
            more: what `Http.serve` says about it.
        """
        raise NotImplementedError

    def write_any(self, data):
        """Write replies of any length; the connection knows how.

        Args:
            data: the replies.
        """
        raise NotImplementedError

    def write(self, data not None):
        """Hand replies to the transport; after `detach` they are dropped.

        Args:
            data: the replies.
        """
        if self.write_output is not None:
            self.queued = True
            self.write_output(data)

    cdef send(self, Http http):
        """Send what ``http`` has written, as much of it as the socket takes; the rest is the transport's."""
        cdef ssize_t sent = 0
        if http.size > http.large:
            self.queued = True
            self.write_any(http.take())
            return
        if self.fd >= 0:
            if self.queued and not self.output.get_write_buffer_size():
                self.queued = False
            if not self.queued:
                sent = send_now(self.fd, http.out, http.size, MSG_DONTWAIT | MSG_NOSIGNAL)
                if likely(sent == <ssize_t>http.size):
                    http.clear()
                    return
                # An error is left to the transport as well: it meets it when it writes.
                sent = max(sent, 0)
        rest = PyBytes_FromStringAndSize(<const char *>http.out + sent, http.size - sent)
        http.clear()
        self.write(rest)
