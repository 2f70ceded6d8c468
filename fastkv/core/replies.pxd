"""What replies to ordinary requests consist of, and the buffer that they are written into.

Nothing here raises; what is in the arena is copied first, and counts only if ``Engine.holds`` it then.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport realloc
from libc.string cimport memcpy, memmove

from fastkv.core.engine cimport Clock, Engine, Found
from fastkv.core.memory cimport put_bytes
from fastkv.core.native cimport likely, unlikely
from fastkv.core.text cimport escape, put_decimal, put_hex

cdef enum:
    # The most that a number has, in decimal or hexadecimal.
    DIGITS = 20
    # The store's flag for a value that stands in JSON as it is.
    PLAIN = 1

cdef enum Outcome:
    CHANGED     # the entry was changed meanwhile, or there is no memory; also where Python was interrupted
    WRITTEN     # the reply is complete
    UNWRITABLE  # it is no text

cdef struct Part:
    const uint8_t *at
    size_t size

cdef struct Replies:
    # What was written, and room for more.
    uint8_t *out
    size_t size
    size_t room
    # A hit in JSON: up to the length, up to the body, the three parts of the body; the second and the third.
    Part hit_start, hit_end, hit_open, hit_middle, hit_close, hit_end_open
    # A value as it is: up to its length without lines on its content; up to these, and to each number behind.
    Part resource_plain, resource_start, length_name, etag_name, resource_end, ttl_name, ttl_end
    # What a PUT of a resource is answered with, up to the version and behind it.
    Part created, replaced, put_end
    # Whole replies.
    Part miss, miss_head, resource_miss, resource_miss_head, put_ok, delete_ok, deleted
    # Bytes around key and value in JSON; and of all parts together, numbers included: no reply has more.
    size_t around, fixed


cdef inline uint8_t *put_part(uint8_t *out, const Part *part) noexcept:
    """Write a part of a reply and return what is behind it."""
    return put_bytes(out, part.at, part.size)


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


cdef inline size_t put_base64(uint8_t *out, const uint8_t *raw, size_t n) noexcept:
    """Write bytes in base64 (RFC 4648, 4), four for each three or less; returns how many that are."""
    cdef const char *digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    cdef uint8_t *at = out
    cdef uint32_t three
    while n >= 3:
        three = <uint32_t>raw[0] << 16 | <uint32_t>raw[1] << 8 | raw[2]
        at[0] = digits[three >> 18]
        at[1] = digits[three >> 12 & 63]
        at[2] = digits[three >> 6 & 63]
        at[3] = digits[three & 63]
        raw += 3
        at += 4
        n -= 3
    if n:
        three = <uint32_t>raw[0] << 16 | (<uint32_t>raw[1] << 8 if n == 2 else 0)
        at[0] = digits[three >> 18]
        at[1] = digits[three >> 12 & 63]
        at[2] = digits[three >> 6 & 63] if n == 2 else c"="
        at[3] = c"="
        at += 4
    return at - out


cdef inline bint reserve(Replies *replies, size_t more) noexcept:
    """Make room for further bytes of replies; False: there is no memory."""
    cdef size_t room = 2 * (replies.size + more)
    cdef void *grown
    if likely(replies.size + more <= replies.room):
        return True
    grown = realloc(replies.out, room)
    if grown == NULL:
        return False
    replies.out = <uint8_t *>grown
    replies.room = room
    return True


cdef inline bint add(Replies *replies, const Part *part) noexcept:
    """Reply with a constant; False: there is no memory."""
    if unlikely(not reserve(replies, replies.fixed)):
        return False
    replies.size = put_part(replies.out + replies.size, part) - replies.out
    return True


cdef inline Outcome write_plain(
    Replies *replies, Engine engine, const uint8_t *key, size_t key_len, Found *found, bint headless
) noexcept:
    """Reply with JSON in which key and value stand as they are."""
    cdef size_t n = replies.around + key_len + found.value_len
    cdef uint8_t *out
    if unlikely(not reserve(replies, replies.fixed + n)):
        return CHANGED
    out = put_part(replies.out + replies.size, &replies.hit_start)
    out += put_decimal(out, n)
    if headless:
        out = put_part(out, &replies.hit_end)
    else:
        out = put_bytes(put_part(out, &replies.hit_end_open), key, key_len)
        out = put_bytes(put_part(out, &replies.hit_middle), found.value, found.value_len)
        out = put_part(out, &replies.hit_close)
    if unlikely(not engine.holds(found)):
        return CHANGED
    replies.size = out - replies.out
    return WRITTEN


cdef inline Outcome write_escaped(
    Replies *replies, Engine engine, const uint8_t *key, size_t key_len, Found *found, bint headless
) noexcept:
    """Reply with JSON in which key and value may have escapes: its length is known when it is written."""
    cdef size_t n = replies.around + 6 * (key_len + found.value_len)
    cdef uint8_t *out
    cdef uint8_t *body
    cdef uint8_t *value
    cdef Py_ssize_t escaped
    if unlikely(not reserve(replies, replies.fixed + n + found.value_len)):
        return CHANGED
    # The body stands behind all that its head may take, and a copy of the value behind that: what is
    # replaced meanwhile may be another thing at each look.
    body = replies.out + replies.size + replies.hit_start.size + DIGITS + replies.hit_end.size
    value = body + n
    memcpy(value, found.value, found.value_len)
    out = put_part(body, &replies.hit_open)
    escaped = escape(key, key_len, out)
    if escaped < 0:
        return UNWRITABLE
    out = put_part(out + escaped, &replies.hit_middle)
    escaped = escape(value, found.value_len, out)
    if escaped < 0:
        return UNWRITABLE
    n = put_part(out + escaped, &replies.hit_close) - body
    if unlikely(not engine.holds(found)):
        return CHANGED
    out = put_part(replies.out + replies.size, &replies.hit_start)
    out += put_decimal(out, n)
    out = put_part(out, &replies.hit_end)
    if not headless:
        memmove(out, body, n)
        out += n
    replies.size = out - replies.out
    return WRITTEN


cdef inline Outcome write_resource(
    Replies *replies, Engine engine, Clock clock, Found *found, const Part *content, bint headless
) noexcept:
    """Reply with a value as it is; the lines on its content are given, or NULL for those without metadata."""
    cdef uint64_t now_ms
    cdef uint8_t *out
    cdef size_t more = content.size if content != NULL else 0
    if unlikely(not reserve(replies, replies.fixed + more + found.value_len)):
        return CHANGED
    out = replies.out + replies.size
    if content == NULL:
        out = put_part(out, &replies.resource_plain)
    else:
        out = put_part(put_part(out, &replies.resource_start), content)
        out = put_part(out, &replies.length_name)
    out += put_decimal(out, found.value_len)
    out = put_part(out, &replies.etag_name)
    out += put_hex(out, found.version)
    if found.deadline_ms:
        now_ms = clock.now_ms()
        out = put_part(out, &replies.ttl_name)
        out = put_seconds(out, found.deadline_ms - now_ms if found.deadline_ms > now_ms else 1)
        out = put_part(out, &replies.ttl_end)
    else:
        out = put_part(out, &replies.resource_end)
    if not headless:
        out = put_bytes(out, found.value, found.value_len)
    if unlikely(not engine.holds(found)):
        return CHANGED
    replies.size = out - replies.out
    return WRITTEN
