"""Field lines: where names and values end, numbers, and comparisons of texts.

No byte at or behind `end` is read; those before `begin` neither.
"""

from libc.stdint cimport UINT64_MAX, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from fastkv.core.memory cimport read_32, read_64
from fastkv.core.scan cimport BLOCK_BYTES, control_bytes, lowest_bit, unusual_in_names

cdef extern from *:
    """
    /* RFC 9110, 5.6.2: of the bytes that `unusual_in_names` finds, those that a token may have. */
    static inline int is_unusual_token_byte(uint8_t byte)
    {
        switch (byte) {
        case '!': case '#': case '$': case '%': case '&': case '\\'': case '*': case '+': case '.': case '^':
        case '_': case '`': case '|': case '~':
            return 1;
        }
        return 0;
    }
    /* The bit by which small letters and capitals differ. */
    #define CASE_BITS 0x2020202020202020ull
    """
    bint is_unusual_token_byte(uint8_t) nogil
    const uint64_t CASE_BITS

cdef enum:
    CASE_BIT = 0x20
    MOST_DIGITS = 19

cdef struct Text:
    const uint8_t *at  # NULL: the field is absent
    size_t size


cdef inline bint is_blank(uint8_t byte) noexcept nogil:
    return byte == c" " or byte == c"\t"


cdef inline uint32_t found_in_last_block(
    uint32_t found, const uint8_t *at, const uint8_t *end
) noexcept nogil:
    """What was found in the last block before `end`, from `at` on, which is in it or is `end`."""
    return found >> (BLOCK_BYTES - <size_t> (end - at))


cdef inline const uint8_t *end_of_name(const uint8_t *at, const uint8_t *end) noexcept nogil:
    """The first byte that no token has; NULL where there is none. A block or more precedes `end`."""
    cdef uint32_t found
    while True:
        if end - at >= <Py_ssize_t> BLOCK_BYTES:
            found = unusual_in_names(at)
            if not found:
                at += BLOCK_BYTES
                continue
        else:
            found = found_in_last_block(unusual_in_names(end - BLOCK_BYTES), at, end)
            if not found:
                return NULL
        at += lowest_bit(found)
        if at[0] == c":" or not is_unusual_token_byte(at[0]):
            return at
        at += 1


cdef inline const uint8_t *end_of_value(const uint8_t *at, const uint8_t *end) noexcept nogil:
    """The first control character but HTAB; NULL where there is none. A block or more precedes `end`."""
    cdef uint32_t found
    while end - at >= <Py_ssize_t> BLOCK_BYTES:
        found = control_bytes(at)
        if found:
            return at + lowest_bit(found)
        at += BLOCK_BYTES
    found = found_in_last_block(control_bytes(end - BLOCK_BYTES), at, end)
    return at + lowest_bit(found) if found else NULL


cdef inline const uint8_t *read_digits(
    const uint8_t *at, const uint8_t *end, uint64_t *number
) noexcept nogil:
    """Read 1 to 19 digits and return where they have ended; NULL where there are none or more."""
    cdef const uint8_t *begin = at
    cdef uint8_t digit
    number[0] = 0
    while at < end:
        digit = at[0] - c"0"
        if digit > 9:
            break
        if at - begin == MOST_DIGITS:
            return NULL
        number[0] = 10 * number[0] + digit
        at += 1
    return at if at > begin else NULL


cdef inline void strip(Text *value, const uint8_t *at, const uint8_t *end) noexcept nogil:
    """Set a value to what is between two places, without the blanks around it."""
    while at < end and is_blank(at[0]):
        at += 1
    while at < end and is_blank((end - 1)[0]):
        end -= 1
    value.at = at
    value.size = end - at


cdef inline bint read_number(const Text *text, uint64_t most, uint64_t *number) noexcept nogil:
    """Read a value that consists of digits; whether it does, and is at most `most`."""
    cdef const uint8_t *end = text.at + text.size
    return read_digits(text.at, end, number) == end and number[0] <= most


cdef inline bint is_keep_alive(const Text *text) noexcept nogil:
    """Whether a valid value is `keep-alive`, in letters of either case."""
    return (
        text.size == 10
        and read_64(text.at) | CASE_BITS == read_64(b"keep-ali")
        and text.at[8] | CASE_BIT == c"v"
        and text.at[9] | CASE_BIT == c"e"
    )


cdef inline bint is_base64(const Text *text) noexcept nogil:
    """Whether a valid value is `base64`, in letters of either case; absent it is not."""
    return (
        text.size == 6
        and read_32(text.at) | <uint32_t> CASE_BITS == read_32(b"base")
        and text.at[4] == c"6"
        and text.at[5] == c"4"
    )


cdef inline bint is_same_size(const Text *one, const Text *other) noexcept nogil:
    """Whether two texts have the same length, or both are absent."""
    return one.size == other.size and (one.at == NULL) == (other.at == NULL)


cdef inline bint is_same(const Text *one, const Text *other) noexcept nogil:
    """Whether two texts are the same, or both are absent."""
    return is_same_size(one, other) and (one.size == 0 or memcmp(one.at, other.at, one.size) == 0)


cdef inline bint is_same_in_constant_time(const Text *one, const Text *other) noexcept nogil:
    """Whether two texts of the same length are the same, in a time that depends on the length alone."""
    cdef uint8_t difference = 0
    cdef size_t i
    for i in range(one.size):
        difference |= one.at[i] ^ other.at[i]
    return difference == 0


cdef inline size_t size_of(const Text *texts, int count) noexcept nogil:
    """How many bytes texts have together."""
    cdef size_t size = 0
    cdef int i
    for i in range(count):
        size += texts[i].size
    return size


cdef inline void copy_texts(Text *to, uint8_t *room, const Text *texts, int count) noexcept nogil:
    """Copy texts and their bytes, for which there is room."""
    cdef int i
    for i in range(count):
        to[i] = texts[i]
        if texts[i].at != NULL:
            memcpy(room, texts[i].at, texts[i].size)
            to[i].at = room
            room += texts[i].size
