# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Text as it crosses the wire: JSON of a PUT, JSON strings, percent escapes, numbers.

In: bytes up to an end, before which every reader stops. Out: pointers to what was meant, into those bytes
where nothing was encoded, else into memory of the caller. Declined is what is malformed, which the readable
path refuses with a message, and what is valid but unusual, which it reads.
"""

include "sources.pxi"

cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset

cdef extern from "endian.h" nogil:
    uint64_t htobe64(uint64_t)

from fastkv.core.scan cimport (
    BLOCK_BYTES, behind_space, bit_length, end_of_text, lowest_bit, unusual_bytes,
)

cdef enum:
    MAX_TTL_SECONDS = 10_000_000_000
    NOT_HEX = 16

cdef enum Member:
    KEY
    VALUE
    TTL
    UNKNOWN

cdef enum:
    # What a byte of a target is to a key in it; see `KINDS`.
    AS_IT_IS = 1
    PERCENT = 2
    PLUS = 4
    AMPERSAND = 8
    QUESTION = 16

# RFC 3986, 3.3 and 3.4; 0 for what no target has as it is, the space included.
cdef uint8_t KINDS[256]

# 0 to 15, or NOT_HEX.
cdef uint8_t HEX_VALUES[256]


def _fill_tables() -> None:
    cdef uint8_t byte
    memset(HEX_VALUES, NOT_HEX, 256)
    for byte in b"0123456789ABCDEFabcdef":
        HEX_VALUES[byte] = int(chr(byte), 16)
    for byte in b"!$'()*,-./0123456789:;=@ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~":
        KINDS[byte] = AS_IT_IS
    KINDS[c"%"] = PERCENT
    KINDS[c"+"] = PLUS
    KINDS[c"&"] = AMPERSAND
    KINDS[c"?"] = QUESTION


_fill_tables()


# Strings

cdef bint is_plain(const uint8_t *raw, size_t n) noexcept:
    return end_of_text(raw, raw, raw + n) == raw + n


cdef const char *HEX_DIGITS = "0123456789abcdef"


cdef inline uint8_t *put_escaped(uint8_t *to, uint8_t byte) noexcept:
    """Write a byte that does not stand in JSON as it is in the shortest way, as orjson does."""
    cdef uint8_t letter = 0
    if byte == c'"' or byte == c"\\":
        letter = byte
    elif byte == c"\b":
        letter = c"b"
    elif byte == c"\t":
        letter = c"t"
    elif byte == c"\n":
        letter = c"n"
    elif byte == c"\f":
        letter = c"f"
    elif byte == c"\r":
        letter = c"r"
    to[0] = c"\\"
    if letter:
        to[1] = letter
        return to + 2
    memcpy(to + 1, b"u00", 3)
    to[4] = HEX_DIGITS[byte >> 4]
    to[5] = HEX_DIGITS[byte & 15]
    return to + 6


cdef Py_ssize_t escape(const uint8_t *raw, size_t n, uint8_t *out) noexcept:
    cdef const uint8_t *at = raw
    cdef const uint8_t *end = raw + n
    cdef const uint8_t *stop
    cdef uint8_t *to = out
    while True:
        stop = end_of_text(raw, at, end)
        if stop == NULL:
            return -1
        memcpy(to, at, stop - at)
        to += stop - at
        if stop == end:
            return to - out
        to = put_escaped(to, stop[0])
        at = stop + 1


# JSON of a PUT

cdef inline const uint8_t *behind(const uint8_t *at, const uint8_t *end, uint8_t byte) noexcept:
    """What follows white space and `byte`; NULL where another one, or the end, is there."""
    if at < end and at[0] != byte:
        at = behind_space(at, end)
    return at + 1 if at < end and at[0] == byte else NULL


cdef inline const uint8_t *behind_opening(const uint8_t *at, const uint8_t *end) noexcept:
    """What follows a colon and the quote that opens a string; NULL where others, or the end, are there."""
    if end - at >= 2 and memcmp(at, b':"', 2) == 0:
        return at + 2
    at = behind(at, end, c":")
    return behind(at, end, c'"') if at != NULL else NULL


cdef inline const uint8_t *read_name(const uint8_t *at, const uint8_t *end, Member *member) noexcept:
    """Read a member's name and the quotes around it; NULL for another one, and one with escapes."""
    if end - at >= 5 and memcmp(at, b'"key"', 5) == 0:
        member[0] = KEY
        return at + 5
    if end - at >= 7 and memcmp(at, b'"value"', 7) == 0:
        member[0] = VALUE
        return at + 7
    if end - at >= 5 and memcmp(at, b'"ttl"', 5) == 0:
        member[0] = TTL
        return at + 5
    return NULL


cdef inline uint32_t four_hex_digits(const uint8_t *at) noexcept:
    """0 to 0xFFFF; more for what is no hexadecimal number."""
    cdef uint32_t first = HEX_VALUES[at[0]]
    cdef uint32_t second = HEX_VALUES[at[1]]
    cdef uint32_t third = HEX_VALUES[at[2]]
    cdef uint32_t fourth = HEX_VALUES[at[3]]
    if (first | second | third | fourth) & NOT_HEX:
        return 0x10000
    return first << 12 | second << 8 | third << 4 | fourth


cdef inline uint8_t *put_utf8(uint8_t *to, uint32_t character) noexcept:
    if character < 0x80:
        to[0] = <uint8_t>character
        return to + 1
    if character < 0x800:
        to[0] = <uint8_t>(0xC0 | character >> 6)
        to[1] = <uint8_t>(0x80 | character & 0x3F)
        return to + 2
    if character < 0x10000:
        to[0] = <uint8_t>(0xE0 | character >> 12)
        to[1] = <uint8_t>(0x80 | character >> 6 & 0x3F)
        to[2] = <uint8_t>(0x80 | character & 0x3F)
        return to + 3
    to[0] = <uint8_t>(0xF0 | character >> 18)
    to[1] = <uint8_t>(0x80 | character >> 12 & 0x3F)
    to[2] = <uint8_t>(0x80 | character >> 6 & 0x3F)
    to[3] = <uint8_t>(0x80 | character & 0x3F)
    return to + 4


cdef inline const uint8_t *read_escape(
    const uint8_t *at, const uint8_t *end, uint32_t *character
) noexcept:
    """Read what follows a backslash (RFC 8259, 7); where it ends, NULL for what is no character."""
    cdef uint32_t low
    if at == end:
        return NULL
    if at[0] != c"u":
        if at[0] == c'"' or at[0] == c"\\" or at[0] == c"/":
            character[0] = at[0]
        elif at[0] == c"b":
            character[0] = c"\b"
        elif at[0] == c"f":
            character[0] = c"\f"
        elif at[0] == c"n":
            character[0] = c"\n"
        elif at[0] == c"r":
            character[0] = c"\r"
        elif at[0] == c"t":
            character[0] = c"\t"
        else:
            return NULL
        return at + 1
    if end - at < 5:
        return NULL
    character[0] = four_hex_digits(at + 1)
    at += 5
    if character[0] > 0xFFFF:
        return NULL
    if character[0] & 0xF800 != 0xD800:
        return at
    # A surrogate: a high one, and a low one behind it, or it stands for nothing.
    if character[0] >= 0xDC00 or end - at < 6 or at[0] != c"\\" or at[1] != c"u":
        return NULL
    low = four_hex_digits(at + 2)
    if low & 0x1FC00 != 0xDC00:
        return NULL
    character[0] = 0x10000 + ((character[0] & 0x3FF) << 10 | low & 0x3FF)
    return at + 6


cdef const uint8_t *decode_string(
    const uint8_t *start, const uint8_t *backslash, const uint8_t *end, uint8_t **scratch, String *out
) noexcept:
    """Decode a string into the scratch, of which it takes less than it is long itself.

    Args:
        start: behind its opening quote.
        backslash: its first one.
        end: where the text ends that it stands in.
        scratch: where it is decoded to, and then what is behind it.
        out: the string.

    Returns:
        Where it ends, behind its closing quote; NULL for what is no string.
    """
    cdef const uint8_t *begin = start
    cdef const uint8_t *stop = backslash
    cdef uint8_t *to = scratch[0]
    cdef uint32_t character
    out.at = to
    out.plain = True
    while True:
        memcpy(to, start, stop - start)
        to += stop - start
        if stop[0] != c"\\":
            break
        # Several in a row are common: in ASCII each letter of some languages is one.
        while stop[0] == c"\\":
            stop = read_escape(stop + 1, end, &character)
            if stop == NULL or stop == end:
                return NULL
            if character < 0x20 or character == c'"' or character == c"\\":
                out.plain = False
            to = put_utf8(to, character)
        start = stop
        stop = end_of_text(begin, start, end)
        if stop == NULL or stop == end:
            return NULL
    if stop[0] != c'"':
        return NULL
    out.len = to - scratch[0]
    scratch[0] = to
    return stop + 1


cdef inline const uint8_t *string_at(
    const uint8_t *begin, const uint8_t *at, const uint8_t *end, uint8_t **scratch, String *out
) noexcept:
    """As `read_string`, inlined."""
    cdef const uint8_t *stop = end_of_text(begin, at, end)
    if stop == NULL or stop == end:
        return NULL
    if stop[0] == c'"':
        # Without an escape nothing is in it that would need one.
        out[0] = String(at, stop - at, True)
        return stop + 1
    return decode_string(at, stop, end, scratch, out) if stop[0] == c"\\" else NULL


cdef const uint8_t *read_string(
    const uint8_t *begin, const uint8_t *at, const uint8_t *end, uint8_t **scratch, String *out
) noexcept:
    return string_at(begin, at, end, scratch, out)


cdef int parse_put(const uint8_t *body, size_t n, uint8_t *scratch, PutBody *out) noexcept:
    cdef const uint8_t *end = body + n
    cdef const uint8_t *at = behind(body, end, c"{")
    cdef String key, value
    cdef Member member
    key.len = 0
    value.at = NULL
    out.ttl_seconds = 0
    # Of members with one name the last counts, as in orjson.
    while at != NULL:
        at = read_name(behind_space(at, end), end, &member)
        if at == NULL:
            return 0
        if member == TTL:
            at = behind(at, end, c":")
            at = parse_ttl(behind_space(at, end), end, &out.ttl_seconds) if at != NULL else NULL
        else:
            at = behind_opening(at, end)
            if at != NULL:
                at = string_at(body, at, end, &scratch, &key if member == KEY else &value)
        if at == NULL:
            return 0
        at = behind_space(at, end)
        if at < end and at[0] == c"}":
            out.key, out.key_len = key.at, key.len
            out.value, out.value_len, out.plain = value.at, value.len, value.plain
            return behind_space(at + 1, end) == end and key.len > 0 and value.at != NULL
        at = behind(at, end, c",")
    return 0


# Targets

cdef Py_ssize_t unescape_percent(const uint8_t *raw, size_t n, bint form, uint8_t *out) noexcept:
    cdef const uint8_t *at = raw
    cdef const uint8_t *end = raw + n
    cdef uint8_t *to = out
    cdef uint32_t high, low
    while at < end:
        if at[0] == c"%":
            if end - at < 3:
                return -1
            high = HEX_VALUES[at[1]]
            low = HEX_VALUES[at[2]]
            if (high | low) & NOT_HEX:
                return -1
            to[0] = <uint8_t>(high << 4 | low)
            at += 3
        else:
            to[0] = c" " if form and at[0] == c"+" else at[0]
            at += 1
        to += 1
    return to - out


cdef inline const uint8_t *end_of_key(
    const uint8_t *at, const uint8_t *end, uint8_t taken, uint8_t *seen
) noexcept:
    """The first byte that is of none of the kinds `taken`, or `end`; `seen` has those before it."""
    cdef uint8_t kind
    cdef uint32_t found
    while end - at >= <Py_ssize_t>BLOCK_BYTES:
        found = unusual_bytes(at)
        if found:
            at += lowest_bit(found)
            break
        at += BLOCK_BYTES
    seen[0] = 0
    while at < end:
        kind = KINDS[at[0]]
        if not kind & taken:
            break
        seen[0] |= kind
        at += 1
    return at


cdef const uint8_t *key_in_query(
    const uint8_t *at, const uint8_t *end, uint8_t *scratch, const uint8_t **key, size_t *key_len, bint *plain
) noexcept:
    cdef uint8_t seen
    cdef Py_ssize_t length
    cdef const uint8_t *stop = end_of_key(at, end, AS_IT_IS | PERCENT | PLUS | QUESTION, &seen)
    if stop == end or stop == at or (stop[0] != c" " and stop[0] != c"&"):
        return NULL
    key[0] = at
    key_len[0] = stop - at
    plain[0] = True
    if seen & (PERCENT | PLUS):
        length = unescape_percent(at, stop - at, True, scratch)
        if length < 0:
            return NULL
        key[0] = scratch
        key_len[0] = length
        plain[0] = is_plain(scratch, length)
    return stop


cdef const uint8_t *key_in_path(
    const uint8_t *at, const uint8_t *end, uint8_t *scratch, const uint8_t **key, size_t *key_len
) noexcept:
    cdef uint8_t seen
    cdef Py_ssize_t length
    cdef const uint8_t *stop = end_of_key(at, end, AS_IT_IS | PERCENT | PLUS | AMPERSAND, &seen)
    if stop == end or stop == at or (stop[0] != c" " and stop[0] != c"?"):
        return NULL
    key[0] = at
    key_len[0] = stop - at
    if seen & PERCENT:
        length = unescape_percent(at, stop - at, False, scratch)
        if length < 0:
            return NULL
        key[0] = scratch
        key_len[0] = length
    return stop


cdef const uint8_t *ttl_in_query(const uint8_t *at, const uint8_t *end, uint64_t *ttl_seconds) noexcept:
    if end - at < 4 or memcmp(at, b"ttl=", 4) != 0:
        return NULL
    at = parse_ttl(at + 4, end, ttl_seconds)
    return at if at != NULL and at < end and at[0] == c" " else NULL


# Numbers

cdef const uint8_t *parse_ttl(const uint8_t *at, const uint8_t *end, uint64_t *ttl_seconds) noexcept:
    cdef uint64_t seconds = 0
    if at == end or at[0] == c"0":
        return NULL
    while at < end and c"0" <= at[0] <= c"9":
        seconds = 10 * seconds + (at[0] - c"0")
        if seconds > MAX_TTL_SECONDS:
            return NULL
        at += 1
    ttl_seconds[0] = seconds
    return at if seconds else NULL


cdef size_t put_decimal(uint8_t *out, uint64_t number) noexcept:
    cdef size_t digits = 1
    cdef size_t left
    cdef uint64_t bound = 10
    while number >= bound and digits < 20:
        digits += 1
        bound *= 10  # the last product wraps around, and is not looked at
    left = digits
    while left:
        left -= 1
        out[left] = <uint8_t>(c"0" + number % 10)
        number //= 10
    return digits


cdef inline uint64_t hex_digits(uint32_t number) noexcept:
    """The eight digits of a number, one in each byte, the first one in the lowest."""
    cdef uint64_t digits = number
    digits = (digits | digits << 16) & 0x0000FFFF0000FFFFULL
    digits = (digits | digits << 8) & 0x00FF00FF00FF00FFULL
    digits = (digits | digits << 4) & 0x0F0F0F0F0F0F0F0FULL
    # From 10 on letters, which follow 39 places behind the digits.
    digits += 0x3030303030303030ULL + (digits + 0x0606060606060606ULL >> 4 & 0x0101010101010101ULL) * 39
    return htobe64(digits)


cdef size_t put_hex(uint8_t *out, uint64_t number) noexcept:
    cdef size_t digits = (bit_length(number) + 3) >> 2
    cdef uint64_t first, last
    number <<= 4 * (16 - digits)
    first = hex_digits(number >> 32)
    last = hex_digits(<uint32_t>number)
    memcpy(out, &first, 8)
    memcpy(out + 8, &last, 8)
    return digits


# For tests and fuzzers, over copies of exactly as many bytes: a sanitizer sees one that is read behind them.

@cython.internal
@cython.auto_pickle(False)
cdef class Memory:
    cdef uint8_t *at
    cdef size_t size

    def __cinit__(self, size_t size):
        self.size = size
        self.at = <uint8_t *>malloc(size)
        if self.at == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.at)


cdef Memory copy_of(bytes raw):
    cdef Memory copy = Memory(len(raw))
    memcpy(copy.at, <const char *>raw, copy.size)
    return copy


def parsed_put(bytes body):
    cdef PutBody out
    cdef Memory copy = copy_of(body)
    cdef Memory scratch = Memory(copy.size)
    if not parse_put(copy.at, copy.size, scratch.at, &out):
        return None
    return out.key[:out.key_len], out.value[:out.value_len], out.ttl_seconds, bool(out.plain)


def escaped(bytes raw):
    cdef Memory copy = copy_of(raw)
    cdef Memory out = Memory(6 * copy.size)
    cdef Py_ssize_t n = escape(copy.at, copy.size, out.at)
    return None if n < 0 else out.at[:n]


def plain(bytes raw):
    cdef Memory copy = copy_of(raw)
    return bool(is_plain(copy.at, copy.size))


def unescaped(bytes raw, bint form):
    cdef Memory copy = copy_of(raw)
    cdef Memory out = Memory(copy.size)
    cdef Py_ssize_t n = unescape_percent(copy.at, copy.size, form, out.at)
    return None if n < 0 else out.at[:n]


def query_key(bytes raw):
    cdef Memory copy = copy_of(raw)
    cdef Memory scratch = Memory(copy.size)
    cdef const uint8_t *key
    cdef size_t key_len
    cdef bint key_plain
    cdef const uint8_t *end = copy.at + copy.size
    cdef const uint8_t *stop = key_in_query(copy.at, end, scratch.at, &key, &key_len, &key_plain)
    return None if stop == NULL else (key[:key_len], bool(key_plain), stop - copy.at)


def path_key(bytes raw):
    cdef Memory copy = copy_of(raw)
    cdef Memory scratch = Memory(copy.size)
    cdef const uint8_t *key
    cdef size_t key_len
    cdef const uint8_t *stop = key_in_path(copy.at, copy.at + copy.size, scratch.at, &key, &key_len)
    return None if stop == NULL else (key[:key_len], stop - copy.at)


def query_ttl(bytes raw):
    cdef Memory copy = copy_of(raw)
    cdef uint64_t seconds
    cdef const uint8_t *stop = ttl_in_query(copy.at, copy.at + copy.size, &seconds)
    return None if stop == NULL else (seconds, stop - copy.at)


def decimal(uint64_t number):
    cdef uint8_t out[20]
    return out[:put_decimal(out, number)]


def hexadecimal(uint64_t number):
    cdef uint8_t out[16]
    return out[:put_hex(out, number)]
