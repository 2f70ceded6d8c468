"""Bytes to stop at, sixteen in one look; where white space ends, text that stands in JSON as it is, UTF-8."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef extern from "scan.h" nogil:
    const size_t BLOCK_BYTES
    uint32_t unplain_bytes(const uint8_t *)
    uint32_t unusual_bytes(const uint8_t *)
    uint32_t unusual_in_names(const uint8_t *)
    uint32_t control_bytes(const uint8_t *)
    uint32_t lowest_bit(uint32_t)
    uint32_t bit_length(uint64_t)


cdef inline const uint8_t *end_of_ascii(
    const uint8_t *begin, const uint8_t *at, const uint8_t *end
) noexcept:
    """The first byte from `at` on that JSON does not take as it is or that is above ASCII; else `end`."""
    cdef uint32_t found
    cdef const uint8_t *last
    if end - begin < <Py_ssize_t>BLOCK_BYTES:
        while at < end and 0x20 <= at[0] < 0x80 and at[0] != c'"' and at[0] != c"\\":
            at += 1
        return at
    last = end - BLOCK_BYTES
    while at <= last:
        found = unplain_bytes(at)
        if found:
            return at + lowest_bit(found)
        at += BLOCK_BYTES
    # What is left is the end of the last block, whose other bytes are shifted out.
    found = unplain_bytes(last) >> (at - last)
    return at + lowest_bit(found) if found else end


cdef inline bint continues(uint8_t byte) noexcept:
    return byte & 0xC0 == 0x80


cdef inline const uint8_t *behind_character(const uint8_t *at, const uint8_t *end) noexcept:
    """Where a character above ASCII ends; NULL for what is not UTF-8 (RFC 3629, 4)."""
    cdef uint8_t first = at[0]
    if first < 0xE0:
        return at + 2 if first >= 0xC2 and end - at >= 2 and continues(at[1]) else NULL
    if end - at < 3 or not (continues(at[1]) and continues(at[2])):
        return NULL
    if first < 0xF0:
        # Overlong below U+0800; surrogates from U+D800 on.
        if (first == 0xE0 and at[1] < 0xA0) or (first == 0xED and at[1] >= 0xA0):
            return NULL
        return at + 3
    # Overlong below U+10000; nothing above U+10FFFF.
    if first > 0xF4 or (first == 0xF0 and at[1] < 0x90) or (first == 0xF4 and at[1] >= 0x90):
        return NULL
    return at + 4 if end - at >= 4 and continues(at[3]) else NULL


cdef inline const uint8_t *end_of_text(
    const uint8_t *begin, const uint8_t *at, const uint8_t *end
) noexcept:
    """The first quote, backslash or control character from `at` on, or `end`; NULL: not UTF-8 before it.

    `begin`, at or before `at`, is where the bytes begin that may be read.
    """
    while True:
        at = end_of_ascii(begin, at, end)
        if at == end or at[0] < 0x80:
            return at
        while at < end and at[0] >= 0x80:
            at = behind_character(at, end)
            if at == NULL:
                return NULL


cdef inline const uint8_t *behind_space(const uint8_t *at, const uint8_t *end) noexcept:
    """Where white space ends (RFC 8259, 2)."""
    while at < end and at[0] <= c" " and (
        at[0] == c" " or at[0] == c"\n" or at[0] == c"\r" or at[0] == c"\t"
    ):
        at += 1
    return at
