# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: nonecheck=False, embedsignature=True, auto_pickle=False, autotestdict=False
"""Ordinary requests over HTTP/1.1 → replies.

`Http.serve` answers as many leading whole requests as are ordinary. What it answers is specified by
`fastkv.http.routes` and `fastkv.http.rest`, byte for byte. Ordinary is: GET and HEAD of /get, PUT and POST of
/put, DELETE of /delete, each with one key; GET, HEAD, PUT and DELETE of /kv with the key in path or query;
POST of / and /pipeline with commands that `commands` takes; a header section that `headers` takes, a body
that `text` or `commands` takes, a key and a value within the limits, and an answer that is 200, 201, 204, or
404 for a key. **Any other request is declined with nothing changed**: no word of the arena, no counter, no
byte of the replies.

A request allocates nothing, and no Python runs but for metadata that was not seen lately, and for commands
of a pipeline that the engine declines.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from libc.stdint cimport SIZE_MAX, uint8_t, uint64_t
from libc.string cimport memcmp, memmove

from fastkv.core cimport engine as store
from fastkv.core.commands cimport NO_TEXT, ORDINARY, OVERHEARD, RAN, JsonCommands, Reading, Running
from fastkv.core.engine cimport Clock, Engine, Found, Written
from fastkv.core.framing cimport KEPT_BYTES, Framing, SharedWords, add_to
from fastkv.core.headers cimport (
    DELETE_ANY, PUT_JSON, PUT_RESOURCE, READ_JSON, READ_RESOURCE, RUN_COMMAND, Section, Sections
)
from fastkv.core.native cimport likely, load_relaxed, unlikely
from fastkv.core.records cimport NewEntry
from fastkv.core.replies cimport (
    CHANGED, DIGITS, PLAIN, UNWRITABLE, WRITTEN, Outcome, Part, Replies, add, put_part, reserve,
    write_escaped, write_plain, write_resource,
)
from fastkv.core.text cimport (
    PutBody, key_in_path, key_in_query, parse_put, put_decimal, put_hex, ttl_in_query,
)

cdef extern from "string.h" nogil:
    void *memmem(const void *data, size_t n, const void *wanted, size_t wanted_len)

include "sources.pxi"

cdef enum:
    TRIES = 4  # reads of an entry that is replaced meanwhile, before the lock has to be taken
    KEPT_CONTENT = 8
    ROOM_IN_JSON = 1024  # of a PUT besides the strings
    MOST_COMMAND_BYTES = 1 << 20  # all of a pipeline is done in one turn

_REASONS = ("route", "target", "section", "incomplete", "body", "listened", "encoding", "engine")


cdef inline bint begins(const uint8_t *at, const uint8_t *end, const char *text, Py_ssize_t n) noexcept:
    """Whether what arrived begins with a text of ``n`` bytes."""
    return end - at >= n and memcmp(at, text, n) == 0


@cython.final
cdef class Http(Framing):
    """Answers the ordinary requests of one worker.

    Args:
        engine: the store's.
        clock: the arena's.
        sections: knows which header sections are ordinary.
        templates: what replies consist of, see `fastkv.http.templates`.
        content_fields: from an entry's metadata to header lines; the same ones for the same metadata.
        commands: runs what is posted to / and /pipeline.
        row: this worker's counters.
        columns: where in the row hits, misses, puts and deletes are counted.
        wanted: a word that is not 0 while a client waits for keyspace events; writes are declined then.
        max_key_bytes: longer keys are declined.
        max_value_bytes: longer values are declined.
        max_body_bytes: longer bodies are declined.
        max_output_bytes: once the replies of one call are longer, the next request has to wait.
        large_bytes: replies of one call that are longer in all leave by the ``write_any`` of the connection.

    Attributes:
        served: how many requests the newest call to `serve` has answered.

    Raises:
        MemoryError: there is no memory for the buffers.
        ValueError: a column lies outside of the row, or ``wanted`` has no word.
    """

    def __init__(
        self, Engine engine not None, Clock clock not None, Sections sections not None, templates not None,
        content_fields not None, JsonCommands commands not None, row not None, columns not None,
        wanted not None, *,
        size_t max_key_bytes, size_t max_value_bytes, size_t max_body_bytes, size_t max_output_bytes,
        size_t large_bytes,
    ):
        cdef SharedWords counters = SharedWords(row, True)
        cdef SharedWords listeners = SharedWords(wanted, False)
        cdef size_t max_inline = sizeof(uint64_t) * engine.arena.inline_words
        self.engine = engine
        self.clock = clock
        self.sections = sections
        self.templates = templates
        self.content_fields = content_fields
        self.commands = commands
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
        self.max_command = min(max_body_bytes, max(self.max_json, <size_t>MOST_COMMAND_BYTES))
        self.max_output = max_output_bytes
        self.large = large_bytes
        self.no_content = content_fields(b"")
        self.metadata = []
        self.content = []
        self.set_prefixes(dict.fromkeys((200, 201, 204, 404), b""))
        # A percent escape has three bytes; behind the longest key one more decides that it is the longest.
        if not self.reserve_all(max(<size_t>KEPT_BYTES, 3 * self.max_key + 1)):
            raise MemoryError

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
        cdef Replies replies
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
        # Aside, because it may raise: the parts that are in use point into the texts in use.
        replies = self.replies
        replies.hit_start = self.part(ok + start, texts)
        replies.hit_end = self.part(end, texts)
        replies.hit_open = self.part(opening, texts)
        replies.hit_end_open = self.part(end + opening, texts)
        replies.hit_middle = self.part(middle, texts)
        replies.hit_close = self.part(close, texts)
        replies.miss = self.part(missing + not_found, texts)
        replies.miss_head = self.part(missing + headless, texts)
        replies.put_ok = self.part(ok + templates.put_ok, texts)
        replies.delete_ok = self.part(ok + templates.delete_ok, texts)
        replies.resource_plain = self.part(ok + isolation + content + self.no_content + length, texts)
        replies.resource_start = self.part(ok + isolation + content, texts)
        replies.length_name = self.part(length, texts)
        replies.etag_name = self.part(etag, texts)
        replies.resource_end = self.part(resource_end, texts)
        replies.ttl_name = self.part(ttl, texts)
        replies.ttl_end = self.part(ttl_end, texts)
        replies.resource_miss = self.part(missing + isolation + not_found, texts)
        replies.resource_miss_head = self.part(missing + isolation + headless, texts)
        replies.created = self.part(created, texts)
        replies.replaced = self.part(replaced, texts)
        replies.put_end = self.part(templates.created[1], texts)
        replies.deleted = self.part(deleted, texts)
        replies.around = replies.hit_open.size + replies.hit_middle.size + replies.hit_close.size
        replies.fixed = sum(map(len, texts)) + 4 * DIGITS
        self.replies = replies
        self.texts = texts

    cdef Part part(self, bytes text, list texts):
        """A part of a reply, whose text lives as long as the list."""
        cdef Part part
        texts.append(text)
        part.at = <const uint8_t *>PyBytes_AS_STRING(text)
        part.size = PyBytes_GET_SIZE(text)
        return part

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
            if begins(line, end, b"POST / ", 7):
                return self.command(line, line + 6, end, False)
            if begins(line, end, b"POST /pipeline ", 15):
                return self.command(line, line + 14, end, True)
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
                    added = add(&self.replies, &self.replies.miss_head if headless else &self.replies.miss)
                else:
                    added = add(
                        &self.replies,
                        &self.replies.resource_miss_head if headless else &self.replies.resource_miss,
                    )
                if unlikely(not added):
                    break
                self.count(self.misses)
                return at - line
            if unlikely(looked != store.DONE):
                break
            if not in_json:
                outcome = self.reply_resource(&found, headless)
            elif likely(plain and found.flags == PLAIN):
                outcome = write_plain(&self.replies, self.engine, key, key_len, &found, headless)
            else:
                outcome = write_escaped(&self.replies, self.engine, key, key_len, &found, headless)
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
        cdef NewEntry entry
        cdef Written written
        cdef size_t n
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
        if unlikely(not (self.reserve_scratch(n) and reserve(&self.replies, self.replies.fixed))):
            return self.decline(ENGINE)
        if unlikely(
            not parse_put(at, n, self.scratch, &item)
            or item.key_len > self.max_key or item.value_len > self.max_value
        ):
            return self.decline(BODY)
        entry = NewEntry(
            item.key, item.key_len, item.value, item.value_len, NULL, 0, PLAIN if item.plain else 0,
            self.deadline_in(item.ttl_seconds),
        )
        if unlikely(self.engine.write(&entry, None, &written) != store.DONE):
            return self.decline(ENGINE)
        self.count(self.puts)
        add(&self.replies, &self.replies.put_ok)
        return at + n - line

    cdef Py_ssize_t put_resource(
        self, const uint8_t *line, const uint8_t *path, const uint8_t *end
    ) noexcept:
        """PUT of /kv."""
        cdef const uint8_t *at
        cdef const uint8_t *key
        cdef size_t key_len = 0, n
        cdef bint plain
        cdef uint64_t ttl_seconds = 0
        cdef Section section
        cdef NewEntry entry
        cdef Written written
        cdef uint8_t *out
        if begins(path, end, b"/kv/", 4):
            at = self.key_of(path + 4, end, True, &key, &key_len, &plain)
        elif begins(path, end, b"/kv?key=", 8):
            at = self.key_of(path + 8, end, False, &key, &key_len, &plain)
        else:
            return self.decline(ROUTE)
        if at != NULL and at[0] != c" ":
            at = ttl_in_query(at + 1, end, &ttl_seconds)
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
        if unlikely(not reserve(&self.replies, self.replies.fixed)):
            return self.decline(ENGINE)
        entry = NewEntry(
            key, key_len, at, n, section.metadata, section.metadata_len, 0,
            self.deadline_in(ttl_seconds + section.ttl_seconds),
        )
        if unlikely(self.engine.write(&entry, self.clock, &written) != store.DONE):
            return self.decline(ENGINE)
        self.count(self.puts)
        out = put_part(
            self.replies.out + self.replies.size,
            &self.replies.created if written.created else &self.replies.replaced,
        )
        out += put_hex(out, written.version)
        self.replies.size = put_part(out, &self.replies.put_end) - self.replies.out
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
        if unlikely(not reserve(&self.replies, self.replies.fixed)):
            return self.decline(ENGINE)
        erased = self.engine.erase(key, key_len, self.clock, True)
        if erased == store.DONE:
            self.count(self.deletes)
            add(&self.replies, &self.replies.delete_ok if in_json else &self.replies.deleted)
        elif erased == store.MISS:
            add(&self.replies, &self.replies.miss if in_json else &self.replies.resource_miss)
        else:
            return self.decline(ENGINE)
        return at + section.size - line

    cdef Py_ssize_t command(
        self, const uint8_t *line, const uint8_t *at, const uint8_t *end, bint batch
    ) noexcept:
        """POST of / and, with several commands, of /pipeline; ``at`` is the space before the version."""
        cdef Section section
        cdef size_t n, start, body, behind, digits
        cdef uint8_t *out
        cdef Reading reading
        cdef Running outcome
        if not self.sections.read(at, end, RUN_COMMAND, at - line, &section):
            return self.decline(SECTION)
        n = section.content_length
        if unlikely(section.content_length < 0 or n > self.max_command):
            return self.decline(SECTION)
        at += section.size
        if <size_t>(end - at) < n:
            return line - at - <Py_ssize_t>n
        if unlikely(not (self.reserve_scratch(n) and reserve(&self.replies, self.replies.fixed))):
            return self.decline(ENGINE)
        reading = self.commands.read(at, n, self.scratch, batch)
        if unlikely(reading != ORDINARY):
            return self.decline(LISTENED if reading == OVERHEARD else BODY)
        # Most bodies have a length of two digits, and stand where they belong at once.
        start = self.replies.size
        body = behind = start + self.replies.hit_start.size + 2 + self.replies.hit_end.size
        if batch:
            outcome = self.commands.run_batch(&self.replies, &behind, section.in_base64)
        else:
            outcome = self.commands.run(&self.replies, &behind, section.in_base64, SIZE_MAX)
        if unlikely(outcome != RAN):
            return self.decline(ENCODING if outcome == NO_TEXT else ENGINE)
        n = behind - body
        out = put_part(self.replies.out + start, &self.replies.hit_start)
        digits = put_decimal(out, n)
        if digits != 2:
            memmove(self.replies.out + body + digits - 2, self.replies.out + body, n)
        self.replies.size = put_part(out + digits, &self.replies.hit_end) + n - self.replies.out
        return at + section.content_length - line

    cdef inline uint64_t deadline_in(self, uint64_t ttl_seconds) noexcept:
        """When what is written now expires; 0: never."""
        return self.clock.now_ms() + 1000 * ttl_seconds if ttl_seconds else 0

    cdef inline void count(self, size_t column) noexcept:
        """Add one to a counter of the row."""
        add_to(self.counters + column, 1)

    cdef Outcome reply_resource(self, Found *found, bint headless) noexcept:
        """Reply with a value as it is."""
        cdef bytes content
        cdef Part lines
        if not found.metadata_len:
            return write_resource(&self.replies, self.engine, self.clock, found, NULL, headless)
        content = self.content_of(found.metadata, found.metadata_len)
        if content is None:
            return CHANGED
        lines.at = <const uint8_t *>PyBytes_AS_STRING(content)
        lines.size = PyBytes_GET_SIZE(content)
        return write_resource(&self.replies, self.engine, self.clock, found, &lines, headless)

    cdef bytes content_of(self, const uint8_t *metadata, size_t n):
        """The header lines for metadata, which may be replaced meanwhile; None if they could not be made."""
        cdef Py_ssize_t place
        cdef bytes kept, content
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
