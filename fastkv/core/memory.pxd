"""Bytes at any address: read, compared and copied; a few, as keys have, without a call."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

cdef extern from "endian.h" nogil:
    uint32_t le32toh(uint32_t)
    uint64_t le64toh(uint64_t)


cdef inline uint32_t read_32(const uint8_t *at) noexcept nogil:
    """Read four bytes, the lowest first, wherever they begin."""
    cdef uint32_t word
    memcpy(&word, at, sizeof(word))
    return le32toh(word)


cdef inline uint64_t read_64(const uint8_t *at) noexcept nogil:
    """Read eight bytes, the lowest first, wherever they begin."""
    cdef uint64_t word
    memcpy(&word, at, sizeof(word))
    return le64toh(word)


cdef inline bint are_equal(const uint8_t *one, const uint8_t *other, size_t n) noexcept nogil:
    """Tell whether two stretches of ``n`` bytes are the same."""
    if n > 16:
        return memcmp(one, other, n) == 0
    if n >= 8:
        return read_64(one) == read_64(other) and read_64(one + n - 8) == read_64(other + n - 8)
    if n >= 4:
        return read_32(one) == read_32(other) and read_32(one + n - 4) == read_32(other + n - 4)
    return memcmp(one, other, n) == 0


cdef inline uint8_t *put_bytes(uint8_t *out, const uint8_t *raw, size_t n) noexcept nogil:
    """Copy ``n`` bytes and return what is behind them."""
    cdef uint64_t first, last
    if 8 <= n <= 16:
        memcpy(&first, raw, 8)
        memcpy(&last, raw + n - 8, 8)
        memcpy(out, &first, 8)
        memcpy(out + n - 8, &last, 8)
    else:
        memcpy(out, raw, n)
    return out + n
