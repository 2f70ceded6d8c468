"""XXH3 (64 bits, with a seed, up to `LONGEST_HASHED` bytes) and XXH32, inlined where they are used.

Both follow the specification of xxHash, sections *XXH3 Algorithm Overview* and *XXH32 Algorithm Description*
(https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md), whose names the steps and constants bear.
The xxhash package gives the same; a call of it costs several times what a short key's hash does.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastkv.core.memory cimport read_32, read_64
from fastkv.core.native cimport folded_product

cdef extern from *:
    """
    /* Of its 192 bytes those that keys of up to 240 bytes are mixed with. */
    static const uint8_t XXH3_SECRET[135] = {
        0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe, 0x7c, 0x01, 0x81, 0x2c, 0xf7, 0x21, 0xad, 0x1c,
        0xde, 0xd4, 0x6d, 0xe9, 0x83, 0x90, 0x97, 0xdb, 0x72, 0x40, 0xa4, 0xa4, 0xb7, 0xb3, 0x67, 0x1f,
        0xcb, 0x79, 0xe6, 0x4e, 0xcc, 0xc0, 0xe5, 0x78, 0x82, 0x5a, 0xd0, 0x7d, 0xcc, 0xff, 0x72, 0x21,
        0xb8, 0x08, 0x46, 0x74, 0xf7, 0x43, 0x24, 0x8e, 0xe0, 0x35, 0x90, 0xe6, 0x81, 0x3a, 0x26, 0x4c,
        0x3c, 0x28, 0x52, 0xbb, 0x91, 0xc3, 0x00, 0xcb, 0x88, 0xd0, 0x65, 0x8b, 0x1b, 0x53, 0x2e, 0xa3,
        0x71, 0x64, 0x48, 0x97, 0xa2, 0x0d, 0xf9, 0x4e, 0x38, 0x19, 0xef, 0x46, 0xa9, 0xde, 0xac, 0xd8,
        0xa8, 0xfa, 0x76, 0x3f, 0xe3, 0x9c, 0x34, 0x3f, 0xf9, 0xdc, 0xbb, 0xc7, 0xc7, 0x0b, 0x4f, 0x1d,
        0x8a, 0x51, 0xe0, 0x4b, 0xcd, 0xb4, 0x59, 0x31, 0xc8, 0x9f, 0x7e, 0xc9, 0xd9, 0x78, 0x73, 0x64,
        0xea, 0xc5, 0xac, 0x83, 0x34, 0xd3, 0xeb,
    };
    static const uint32_t PRIME32_1 = 0x9E3779B1u, PRIME32_2 = 0x85EBCA77u, PRIME32_3 = 0xC2B2AE3Du,
                          PRIME32_4 = 0x27D4EB2Fu, PRIME32_5 = 0x165667B1u;
    static const uint64_t PRIME64_1 = 0x9E3779B185EBCA87ull, PRIME64_2 = 0xC2B2AE3D27D4EB4Full,
                          PRIME64_3 = 0x165667B19E3779F9ull;
    static const uint64_t PRIME_MX1 = 0x165667919E3779F9ull, PRIME_MX2 = 0x9FB21C651E98DF25ull;
    """
    const uint8_t *XXH3_SECRET
    const uint32_t PRIME32_1, PRIME32_2, PRIME32_3, PRIME32_4, PRIME32_5
    const uint64_t PRIME64_1, PRIME64_2, PRIME64_3, PRIME_MX1, PRIME_MX2

cdef extern from "<byteswap.h>" nogil:
    uint32_t bswap_32(uint32_t)
    uint64_t bswap_64(uint64_t)

cdef extern from "<endian.h>" nogil:
    uint32_t htobe32(uint32_t)

cdef enum:
    LONGEST_HASHED = 240


# -- steps -------------------------------------------------------------------------------------------------


cdef inline uint32_t rotate_32(uint32_t word, int bits) noexcept nogil:
    return (word << bits) | (word >> (32 - bits))


cdef inline uint64_t rotate_64(uint64_t word, int bits) noexcept nogil:
    return (word << bits) | (word >> (64 - bits))


cdef inline uint64_t avalanche_xxh64(uint64_t acc) noexcept nogil:
    acc = (acc ^ (acc >> 33)) * PRIME64_2
    acc = (acc ^ (acc >> 29)) * PRIME64_3
    return acc ^ (acc >> 32)


cdef inline uint64_t avalanche(uint64_t acc) noexcept nogil:
    acc = (acc ^ (acc >> 37)) * PRIME_MX1
    return acc ^ (acc >> 32)


cdef inline uint64_t mix_step(const uint8_t *data, const uint8_t *secret, uint64_t seed) noexcept nogil:
    """Mix 16 bytes of input with 16 of the secret."""
    return folded_product(
        read_64(data) ^ (read_64(secret) + seed),
        read_64(data + 8) ^ (read_64(secret + 8) - seed),
    )


# -- XXH3, by length ---------------------------------------------------------------------------------------


cdef inline uint64_t xxh3_1to3(const uint8_t *key, size_t key_len, uint64_t seed) noexcept nogil:
    cdef uint32_t combined = (
        key[key_len - 1]
        | (<uint32_t> key_len << 8)
        | (<uint32_t> key[0] << 16)
        | (<uint32_t> key[key_len >> 1] << 24)
    )
    cdef uint64_t flip = read_32(XXH3_SECRET) ^ read_32(XXH3_SECRET + 4)
    return avalanche_xxh64((flip + seed) ^ combined)


cdef inline uint64_t xxh3_4to8(const uint8_t *key, size_t key_len, uint64_t seed) noexcept nogil:
    cdef uint64_t modified_seed = seed ^ (<uint64_t> bswap_32(<uint32_t> seed) << 32)
    cdef uint64_t combined = read_32(key + key_len - 4) | (<uint64_t> read_32(key) << 32)
    cdef uint64_t value = ((read_64(XXH3_SECRET + 8) ^ read_64(XXH3_SECRET + 16)) - modified_seed) ^ combined
    value ^= rotate_64(value, 49) ^ rotate_64(value, 24)
    value *= PRIME_MX2
    value ^= (value >> 35) + key_len
    value *= PRIME_MX2
    return value ^ (value >> 28)


cdef inline uint64_t xxh3_9to16(const uint8_t *key, size_t key_len, uint64_t seed) noexcept nogil:
    cdef uint64_t low = ((read_64(XXH3_SECRET + 24) ^ read_64(XXH3_SECRET + 32)) + seed) ^ read_64(key)
    cdef uint64_t high = (
        ((read_64(XXH3_SECRET + 40) ^ read_64(XXH3_SECRET + 48)) - seed) ^ read_64(key + key_len - 8)
    )
    return avalanche(key_len + bswap_64(low) + high + folded_product(low, high))


cdef inline uint64_t xxh3_17to128(const uint8_t *key, size_t key_len, uint64_t seed) noexcept nogil:
    """Mix pairs of 16 bytes, one from either end, from the middle outwards."""
    cdef uint64_t acc = key_len * PRIME64_1
    cdef size_t pair = (key_len - 1) >> 5
    while True:
        acc += mix_step(key + 16 * pair, XXH3_SECRET + 32 * pair, seed)
        acc += mix_step(key + key_len - 16 * (pair + 1), XXH3_SECRET + 32 * pair + 16, seed)
        if pair == 0:
            return avalanche(acc)
        pair -= 1


cdef inline uint64_t xxh3_129to240(const uint8_t *key, size_t key_len, uint64_t seed) noexcept nogil:
    cdef uint64_t acc = key_len * PRIME64_1
    cdef size_t step
    for step in range(8):
        acc += mix_step(key + 16 * step, XXH3_SECRET + 16 * step, seed)
    acc = avalanche(acc)
    for step in range(8, key_len >> 4):
        acc += mix_step(key + 16 * step, XXH3_SECRET + 16 * (step - 8) + 3, seed)
    return avalanche(acc + mix_step(key + key_len - 16, XXH3_SECRET + 119, seed))


cdef inline uint64_t hash_short(const uint8_t *key, size_t key_len, uint64_t seed) noexcept nogil:
    """Hash a key of `LONGEST_HASHED` bytes at most: XXH3-64 with a seed, `xxhash.xxh3_64_intdigest`."""
    if key_len > 16:
        if key_len > 128:
            return xxh3_129to240(key, key_len, seed)
        return xxh3_17to128(key, key_len, seed)
    if key_len > 8:
        return xxh3_9to16(key, key_len, seed)
    if key_len > 3:
        return xxh3_4to8(key, key_len, seed)
    if key_len > 0:
        return xxh3_1to3(key, key_len, seed)
    return avalanche_xxh64(seed ^ read_64(XXH3_SECRET + 56) ^ read_64(XXH3_SECRET + 64))


# -- XXH32 -------------------------------------------------------------------------------------------------


cdef inline uint32_t xxh32_round(uint32_t acc, const uint8_t *lane) noexcept nogil:
    return rotate_32(acc + read_32(lane) * PRIME32_2, 13) * PRIME32_1


cdef inline uint32_t checksum(const uint8_t *data, size_t n) noexcept nogil:
    """Return XXH32 of bytes, seed 0, as it is stored: a word whose bytes are `xxhash.xxh32_digest`."""
    cdef const uint8_t *end = data + n
    cdef uint32_t acc, acc1, acc2, acc3, acc4
    if n < 16:
        acc = PRIME32_5
    else:
        acc1, acc2, acc3, acc4 = PRIME32_1 + PRIME32_2, PRIME32_2, 0, 0 - PRIME32_1
        while end - data >= 16:
            acc1 = xxh32_round(acc1, data)
            acc2 = xxh32_round(acc2, data + 4)
            acc3 = xxh32_round(acc3, data + 8)
            acc4 = xxh32_round(acc4, data + 12)
            data += 16
        acc = rotate_32(acc1, 1) + rotate_32(acc2, 7) + rotate_32(acc3, 12) + rotate_32(acc4, 18)
    # Only the low bits of a length of 4 GiB or more count.
    acc += <uint32_t> n
    while end - data >= 4:
        acc = rotate_32(acc + read_32(data) * PRIME32_3, 17) * PRIME32_4
        data += 4
    while data < end:
        acc = rotate_32(acc + data[0] * PRIME32_5, 11) * PRIME32_1
        data += 1
    acc = (acc ^ (acc >> 15)) * PRIME32_2
    acc = (acc ^ (acc >> 13)) * PRIME32_3
    return htobe32(acc ^ (acc >> 16))
