"""Text as it crosses the wire: JSON of a PUT, JSON strings, percent escapes, numbers.

Nothing here allocates, raises, or keeps anything; a reader never looks at or behind ``end`` (``raw + n``).
What is valid but unusual is declined, and the readable path reads it.
"""

from libc.stdint cimport uint8_t, uint64_t

cdef struct String:
    const uint8_t *at
    size_t len
    bint plain              # it stands in JSON as it is

cdef struct PutBody:
    const uint8_t *key      # not empty, valid UTF-8
    size_t key_len
    const uint8_t *value    # valid UTF-8
    size_t value_len
    uint64_t ttl_seconds    # 1 to 10,000,000,000; 0 for none
    bint plain              # the value stands in JSON as it is

# {"key":…,"value":…,"ttl":…}: 1 for ordinary, 0 for declined (`out` is then undefined). A string with
# escapes is decoded into `scratch`, which has `n` bytes or more; others are pointed at where they stand.
cdef int parse_put(const uint8_t *body, size_t n, uint8_t *scratch, PutBody *out) noexcept

# A string of JSON from behind its opening quote on: what is behind the closing one; NULL for no string. One
# with escapes is decoded into the scratch, of which it takes less than it is long itself, and which begins
# behind it then. `begin`, at or before `at`, is where the bytes begin that may be read.
cdef const uint8_t *read_string(
    const uint8_t *begin, const uint8_t *at, const uint8_t *end, uint8_t **scratch, String *out
) noexcept

# What stands between the quotes in JSON: the bytes written to `out`, which has room for 6n; -1: not UTF-8.
cdef Py_ssize_t escape(const uint8_t *raw, size_t n, uint8_t *out) noexcept

# Whether a string stands in JSON as it is: UTF-8 without quotes, backslashes and control characters.
cdef bint is_plain(const uint8_t *raw, size_t n) noexcept

# Decodes percent escapes: the bytes written to `out`, which has room for n; -1: a malformed escape.
# In a form `+` is a space.
cdef Py_ssize_t unescape_percent(const uint8_t *raw, size_t n, bint form, uint8_t *out) noexcept

# The key of a request target, from `at` (behind "key=" or "/kv/") on. They return where it ends, which is
# before `end`: at the space before the version, or where parameters follow: at `?` in a path, else at `&`.
# NULL: declined (an empty key, a malformed escape, a byte that no target has, or no end). An encoded key is
# decoded into `scratch`, which has room for `end - at`; cut `end` to the longest request line. `plain`: as
# `is_plain`.
cdef const uint8_t *key_in_query(
    const uint8_t *at, const uint8_t *end, uint8_t *scratch, const uint8_t **key, size_t *key_len, bint *plain
) noexcept
cdef const uint8_t *key_in_path(
    const uint8_t *at, const uint8_t *end, uint8_t *scratch, const uint8_t **key, size_t *key_len
) noexcept

# "ttl=" and seconds, from `at` (behind `?` or `&`) on: the space before the version; NULL: anything else.
cdef const uint8_t *ttl_in_query(const uint8_t *at, const uint8_t *end, uint64_t *ttl_seconds) noexcept

# Digits without leading zeros, 1 to 10,000,000,000: where they end, which may be `end`; NULL: anything else.
cdef const uint8_t *parse_ttl(const uint8_t *at, const uint8_t *end, uint64_t *ttl_seconds) noexcept

# A number in digits, the bytes of them: 20 at most in decimal; 16 in hexadecimal, which is lower case;
# `out` has room for as many in any case.
cdef size_t put_decimal(uint8_t *out, uint64_t number) noexcept
cdef size_t put_hex(uint8_t *out, uint64_t number) noexcept
