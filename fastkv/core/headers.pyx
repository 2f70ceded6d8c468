# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, embedsignature=True
# cython: auto_pickle=False, autotestdict=False
"""Header sections of ordinary requests: known ones by comparison, others by a scanner.

In: the bytes behind a request's target. Out: where the section ends and what its route reads of it, or
"declined", for a section that is incomplete, unusual, wrong, or of a sender that is not admitted; the
readable parser reads these. The scanner validates each field as `request.parse_field` and
`request.build_head` do and sorts it by a table for each route, which `http/fields.py` holds. Nothing is
raised, and no byte at or behind the end is read.

Host, Origin, Sec-Fetch-Site and Authorization get one verdict together. A section that has an Authorization
is scanned each time: the time of a comparison with a kept section would show how much of the credential was
right.
"""

include "sources.pxi"

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport INT64_MAX, uint8_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memmove, memset

from fastkv.core.fields cimport (
    CASE_BIT, CASE_BITS, copy_texts, end_of_name, end_of_value, is_base64, is_keep_alive, is_same,
    is_same_in_constant_time, is_same_size, read_digits, read_number, size_of, strip,
)
from fastkv.core.memory cimport are_equal, read_64

# What is done with a field, as `http/fields.py` numbers it.
cdef enum:
    IGNORED
    DECLINED
    CONNECTION
    CONTENT_LENGTH
    HOST
    ORIGIN
    FETCH_SITE
    AUTHORIZATION
    CONTENT_TYPE
    CONTENT_ENCODING
    TTL
    RESULT_ENCODING
    TREATMENTS

cdef enum:
    VERSION_BYTES = 11
    SHORTEST_SECTION = 21  # the version, "Host:a" and an empty line; longer than a block
    PROBED_BYTES = 12      # the end of the last value, its line's end, and the empty line
    IF_BYTES = 0x2D6669    # "if-", the lowest byte first
    LONGEST_TTL_SECONDS = 10_000_000_000


# -- what is kept ------------------------------------------------------------------------------------------


cdef bint is_same_sender(const Text *one, const Text *other) noexcept nogil:
    """Whether four fields are the same, each of them or its absence; the last one is the credential."""
    cdef int i
    for i in range(4):
        if not is_same_size(one + i, other + i):
            return False
    if not is_same_in_constant_time(one + 3, other + 3):
        return False
    for i in range(3):
        if one[i].size and memcmp(one[i].at, other[i].at, one[i].size) != 0:
            return False
    return True


cdef inline const uint8_t *end_of_known(
    const KnownSection *known, const uint8_t *at, const uint8_t *end, uint64_t *content_length
) noexcept nogil:
    """Where a section has ended if it is this one, but for the digits of its Content-Length; else NULL."""
    if <size_t> (end - at) < known.before + known.after:
        return NULL
    # The end of the last value differs between most sections.
    if read_64(at + known.before - PROBED_BYTES) != read_64(known.text + known.before - PROBED_BYTES):
        return NULL
    if memcmp(at, known.text, known.before) != 0:
        return NULL
    at += known.before
    if not known.after:
        return at
    at = read_digits(at, end, content_length)
    if at == NULL or content_length[0] > <uint64_t> INT64_MAX or <size_t> (end - at) < known.after:
        return NULL
    if not are_equal(at, known.text + known.before, known.after):
        return NULL
    return at + known.after


cdef inline void move_to_front(void **pointers, size_t i) noexcept nogil:
    cdef void *pointer = pointers[i]
    if i:
        memmove(pointers + 1, pointers, i * sizeof(pointer))
        pointers[0] = pointer


cdef inline object bytes_of(const Text *text):
    """A field's value for Python; None where it is absent."""
    return None if text.at == NULL else PyBytes_FromStringAndSize(<const char *> text.at, text.size)


cdef inline uint64_t slot_of(uint64_t first, uint64_t last, size_t size, uint64_t multiplier) noexcept nogil:
    """A hash of a name, of which the first and the last eight bytes are given."""
    return (first + 3 * last + size) * multiplier >> (64 - NAME_SLOT_BITS)


cdef inline bint read_numbers(const Text *fields, Section *out) noexcept nogil:
    """Read the length of the body and the ttl; False where one of them is no ordinary number."""
    cdef uint64_t number = 0
    out.content_length = -1
    out.ttl_seconds = 0
    if fields[CONTENT_LENGTH].at != NULL:
        if not read_number(&fields[CONTENT_LENGTH], INT64_MAX, &number):
            return False
        out.content_length = number
    if fields[TTL].at != NULL:
        if not read_number(&fields[TTL], LONGEST_TTL_SECONDS, &out.ttl_seconds) or not out.ttl_seconds:
            return False
    return True


# -- a worker's sections -----------------------------------------------------------------------------------


@cython.final
cdef class Sections:
    """The header sections that a worker reads without the readable parser.

    What is kept holds as long as this object, which is as long as its worker's settings.

    Args:
        admits: The verdict on Host, Origin, Sec-Fetch-Site and Authorization, None for each that is absent
            (`Access.admits`). Asked once for a tuple while it is kept; only True is kept.
        metadata_of: Makes the metadata of a value from Content-Type and Content-Encoding, None for each that
            is absent (`content.metadata_from`); what it raises declines the request.
        treatments: By the name of a field, its treatment on each route (`fields.TREATMENTS`).
        max_head_bytes: Bytes of request line and header section together; a longer head is declined.
        max_fields: Fields of a header section; one with more is declined.

    Raises:
        ValueError: A name has other bytes than small letters and hyphens, is too long, or has not one
            treatment for each route.
    """

    def __cinit__(self):
        cdef int route, i
        self.names = <Name *> calloc(NAME_SLOTS, sizeof(Name))
        if self.names == NULL:
            raise MemoryError
        for i in range(KEPT):
            self.senders[i] = <Sender *> calloc(1, sizeof(Sender))
            self.contents[i] = <Content *> calloc(1, sizeof(Content))
            if self.senders[i] == NULL or self.contents[i] == NULL:
                raise MemoryError
            for route in range(ROUTES):
                self.sections[route][i] = <KnownSection *> calloc(1, sizeof(KnownSection))
                if self.sections[route][i] == NULL:
                    raise MemoryError

    def __dealloc__(self):
        cdef int route, i
        free(self.names)
        for i in range(KEPT):
            free(self.senders[i])
            free(self.contents[i])
            for route in range(ROUTES):
                free(self.sections[route][i])

    def __init__(self, admits, metadata_of, treatments, size_t max_head_bytes, size_t max_fields):
        self.admits = admits
        self.metadata_of = metadata_of
        self.max_head_bytes = max_head_bytes
        self.max_fields = max_fields
        self._list_names(treatments)

    def _list_names(self, treatments):
        """Make the table of names, and find the multiplier that gives each of them a slot of its own."""
        cdef Name *name = self.names
        if len(treatments) >= NAME_SLOTS // 2:
            raise ValueError("There are too many names.")
        for text, of_routes in treatments.items():
            if not 0 < len(text) <= NAME_BYTES or text.strip(b"abcdefghijklmnopqrstuvwxyz-"):
                raise ValueError(f"The name {text} is not one that the table can hold.")
            if len(of_routes) != ROUTES:
                raise ValueError(f"The name {text} has no treatment on each route.")
            name += 1
            name.size = len(text)
            memcpy(name.text, <const char *> text, name.size)
            for route in range(ROUTES):
                name.treatments[route] = of_routes[route]
            name.first = int.from_bytes(text[:8], "little")
            name.last = int.from_bytes(text[max(len(text) - 8, 0):], "little")
        for attempt in range(1, 100_000):
            self.multiplier = (0x9E3779B97F4A7C15 * attempt & 0xFFFFFFFFFFFFFFFF) | 1
            if self._has_own_slots(len(treatments)):
                return
        raise ValueError("Two names have the same beginning, end and length.")

    def _has_own_slots(self, size_t count):
        """Fill the slots; False where two names share one."""
        cdef const Name *name = self.names
        cdef size_t number
        cdef uint8_t *slot
        memset(self.slots, 0, sizeof(self.slots))
        for number in range(1, count + 1):
            name += 1
            slot = self.slots + slot_of(name.first, name.last, name.size, self.multiplier)
            if slot[0]:
                return False
            slot[0] = number
        return True

    # -- reading -------------------------------------------------------------------------------------------

    cdef int read(
        self, const uint8_t *at, const uint8_t *end, int route, size_t line_bytes, Section *out
    ) noexcept:
        """Read the section that follows a request's target.

        Args:
            at: Where it begins, at the space before the version.
            end: Where the bytes that have arrived end; none is read from there on.
            route: What the request line asks for.
            line_bytes: Bytes of method, space and target, which count for the longest head.
            out: What is found.

        Returns:
            1 where the section is whole and ordinary; 0 where it is declined, and `out` is undefined.
        """
        cdef KnownSection **sections = self.sections[route]
        cdef const uint8_t *after
        cdef uint64_t content_length = 0
        cdef size_t i
        if line_bytes >= self.max_head_bytes:
            return 0
        if <size_t> (end - at) > self.max_head_bytes - line_bytes:
            end = at + (self.max_head_bytes - line_bytes)
        for i in range(self.known[route]):
            after = end_of_known(sections[i], at, end, &content_length)
            if after == NULL:
                continue
            out[0] = sections[i].section
            out.size = after - at
            if sections[i].after:
                out.content_length = content_length
            if i:
                move_to_front(<void **> sections, i)
            if i == self.promoted[route] and i < KEPT - 1:
                self.promoted[route] += 1
            return 1
        return self.scan(at, end, route, out)

    cdef int scan(self, const uint8_t *at, const uint8_t *end, int route, Section *out) noexcept:
        """Read a section line by line, which may reach up to `end`; as `read`."""
        cdef Text[TREATMENTS] fields
        cdef Content *content
        cdef const uint8_t *after
        memset(fields, 0, sizeof(fields))
        after = self.sort_lines(at, end, route, fields)
        if after == NULL or fields[HOST].at == NULL:
            return 0
        if fields[CONNECTION].at != NULL and not is_keep_alive(&fields[CONNECTION]):
            return 0
        if not read_numbers(fields, out) or not self.is_admitted(&fields[HOST]):
            return 0
        out.size = after - at
        out.metadata = NULL
        out.metadata_len = 0
        out.in_base64 = is_base64(&fields[RESULT_ENCODING])
        if fields[CONTENT_TYPE].at != NULL or fields[CONTENT_ENCODING].at != NULL:
            content = self.content_of(&fields[CONTENT_TYPE])
            if content == NULL:
                return 0
            out.metadata = content.metadata
            out.metadata_len = content.metadata_len
        if fields[AUTHORIZATION].at == NULL and out.size <= KEPT_SECTION_BYTES:
            self.keep(route, at, &fields[CONTENT_LENGTH], out)
        return 1

    cdef const uint8_t *sort_lines(
        self, const uint8_t *at, const uint8_t *end, int route, Text *fields
    ) noexcept:
        """Validate all lines and sort the values that the route reads by their treatments.

        Returns:
            Where the section has ended; NULL where it is declined.
        """
        cdef const uint8_t *line = at + VERSION_BYTES
        cdef const uint8_t *value
        cdef const uint8_t *after
        cdef int treatment
        if end - at < SHORTEST_SECTION or memcmp(at, b" HTTP/1.1\r\n", VERSION_BYTES) != 0:
            return NULL
        for _ in range(self.max_fields + 1):  # the last line is the empty one
            if line[0] == c"\r":
                return line + 2 if line[1] == c"\n" else NULL
            value = end_of_name(line, end)
            if value == NULL or value == line or value[0] != c":":
                return NULL
            treatment = self.treatment_of(line, value - line, route)
            value += 1
            after = end_of_value(value, end)
            # Behind it are its end and two bytes of the next line, or the section is not whole.
            if after == NULL or end - after < 4 or after[0] != c"\r" or after[1] != c"\n":
                return NULL
            line = after + 2
            if treatment == IGNORED:
                continue
            if treatment == DECLINED or fields[treatment].at != NULL:
                return NULL
            strip(&fields[treatment], value, after)
        return NULL

    cdef int treatment_of(self, const uint8_t *at, size_t size, int route) noexcept:
        """How a route treats the field of this name, a token behind at least eight other bytes.

        Names that are listed consist of letters and hyphens: no other token becomes one when bit 5 is set.
        """
        cdef uint64_t last = read_64(at + size - 8) | CASE_BITS
        cdef uint64_t first
        cdef const Name *name
        cdef size_t i
        if size >= 8:
            first = read_64(at) | CASE_BITS
        else:
            first = last = last >> 8 * (8 - size)
        if first & 0xFFFFFF == IF_BYTES:
            return DECLINED
        name = self.names + self.slots[slot_of(first, last, size, self.multiplier)]
        if name.size != size or name.first != first or name.last != last:
            return IGNORED
        for i in range(8, size - 8 if size > 16 else 0):
            if at[i] | CASE_BIT != name.text[i]:
                return IGNORED
        return name.treatments[route]

    # -- verdicts ------------------------------------------------------------------------------------------

    cdef bint is_admitted(self, const Text *fields) noexcept:
        """Whether the sender that four fields name together may speak."""
        cdef size_t i
        for i in range(self.known_senders):
            if is_same_sender(self.senders[i].fields, fields):
                move_to_front(<void **> self.senders, i)
                return True
        return self.ask_admits(fields)

    cdef bint ask_admits(self, const Text *fields) noexcept:
        """Ask for a verdict, and keep it if it is True."""
        cdef size_t last = min(self.known_senders, <size_t> (KEPT - 1))
        try:
            admitted = self.admits(
                bytes_of(fields), bytes_of(fields + 1), bytes_of(fields + 2), bytes_of(fields + 3)
            )
        except Exception:  # the readable path meets it again, and logs it
            return False
        if admitted is not True:
            return False
        if size_of(fields, 4) <= KEPT_SENDER_BYTES:
            copy_texts(self.senders[last].fields, self.senders[last].text, fields, 4)
            self.known_senders = last + 1
            move_to_front(<void **> self.senders, last)
        return True

    # -- metadata ------------------------------------------------------------------------------------------

    cdef Content *content_of(self, const Text *fields) noexcept:
        """What Content-Type and Content-Encoding make of a value; NULL where the request is declined."""
        cdef size_t i
        for i in range(self.known_contents):
            if is_same(self.contents[i].fields, fields) and is_same(self.contents[i].fields + 1, fields + 1):
                move_to_front(<void **> self.contents, i)
                return self.contents[0]
        return self.ask_metadata_of(fields)

    cdef Content *ask_metadata_of(self, const Text *fields) noexcept:
        """Ask for the metadata of a pair of fields, and keep it; NULL where it is refused or too long."""
        cdef size_t last = min(self.known_contents, <size_t> (KEPT - 1))
        cdef Content *content = self.contents[last]
        if size_of(fields, 2) > KEPT_CONTENT_BYTES:
            return NULL
        try:
            metadata = self.metadata_of(bytes_of(fields), bytes_of(fields + 1))
            if type(metadata) is not bytes or PyBytes_GET_SIZE(metadata) > METADATA_BYTES:
                return NULL
        except Exception:  # the readable path meets it again, and answers it
            return NULL
        content.metadata_len = PyBytes_GET_SIZE(metadata)
        memcpy(content.metadata, PyBytes_AS_STRING(metadata), content.metadata_len)
        copy_texts(content.fields, content.text, fields, 2)
        self.known_contents = last + 1
        move_to_front(<void **> self.contents, last)
        return content

    # -- sections ------------------------------------------------------------------------------------------

    cdef void keep(self, int route, const uint8_t *at, const Text *length, const Section *section) noexcept:
        """Keep a section that was accepted, behind those which were seen again since they were kept.

        Of sections that are never repeated, as those with an id for each request, there is one at a time.
        """
        cdef KnownSection *known = self.sections[route][self.promoted[route]]
        known.section = section[0]
        if section.metadata != NULL:
            memcpy(known.metadata, section.metadata, section.metadata_len)
            known.section.metadata = known.metadata
        if length.at == NULL:
            known.before = section.size
            known.after = 0
            memcpy(known.text, at, section.size)
        else:
            known.before = length.at - at
            known.after = section.size - known.before - length.size
            memcpy(known.text, at, known.before)
            memcpy(known.text + known.before, length.at + length.size, known.after)
        self.known[route] = self.promoted[route] + 1

    # -- for tests and measurements ------------------------------------------------------------------------

    def examine(self, data, int route, size_t at=0, size_t line_bytes=0, size_t times=1):
        """Read the section that begins at an offset of data, as the reader of requests does.

        Args:
            data: Any bytes.
            route: A `fields.Route`.
            at: Where the section begins.
            line_bytes: Bytes of method, space and target.
            times: How often.

        Returns:
            Its size, Content-Length (-1 without one), ttl in seconds (0 without one) and metadata; None where
            it is declined.
        """
        cdef Py_buffer view
        cdef Section section
        cdef const uint8_t *start
        cdef int accepted = 0
        if not 0 <= route < ROUTES:
            raise ValueError(f"There is no route {route}.")
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            if at > <size_t> view.len:
                raise ValueError("The section begins behind the end.")
            start = <const uint8_t *> view.buf
            for _ in range(times):
                accepted = self.read(start + at, start + view.len, route, line_bytes, &section)
            if not accepted:
                return None
            metadata = PyBytes_FromStringAndSize(<const char *> section.metadata, section.metadata_len)
            return section.size, section.content_length, section.ttl_seconds, metadata
        finally:
            PyBuffer_Release(&view)

    def known_sections(self, int route):
        """Return the sections that are kept of a route: what stands before the digits, and behind them."""
        cdef size_t i
        cdef KnownSection *known
        if not 0 <= route < ROUTES:
            raise ValueError(f"There is no route {route}.")
        found = []
        for i in range(self.known[route]):
            known = self.sections[route][i]
            text = PyBytes_FromStringAndSize(<const char *> known.text, known.before + known.after)
            found.append((text[:known.before], text[known.before:]))
        return found
