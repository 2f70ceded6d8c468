/* Sixteen bytes in one look: vectors, for which Cython has no word. GCC and Clang have them on every machine. */
#ifndef FASTKV_CORE_SCAN_H
#define FASTKV_CORE_SCAN_H

#include <stdint.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#define BLOCK_BYTES 16
#define ALL_BITS 0xFFFFu

typedef uint8_t Block __attribute__((vector_size(BLOCK_BYTES)));
typedef int8_t SignedBlock __attribute__((vector_size(BLOCK_BYTES)));

static inline Block block_at(const uint8_t *at)
{
    Block block;
    memcpy(&block, at, BLOCK_BYTES);
    return block;
}

/* Bit i for byte i, which is 0xFF or 0. */
static inline uint32_t bits_of(Block bytes)
{
#ifdef __SSE2__
    return (uint32_t)_mm_movemask_epi8((__m128i)bytes);
#else
    uint64_t words[2];
    memcpy(words, &bytes, BLOCK_BYTES);
    for (int i = 0; i < 2; i++)
        words[i] = ((words[i] & 0x0101010101010101) * 0x0102040810204080) >> 56;
    return (uint32_t)(words[0] | words[1] << 8);
#endif
}

/* The bytes that JSON does not take as they are, and all above ASCII, which as signed bytes are below zero. */
static inline uint32_t unplain_bytes(const uint8_t *at)
{
    Block bytes = block_at(at);
    Block plain = (Block)((SignedBlock)bytes >= 0x20) & ~((Block)(bytes == '"') | (Block)(bytes == '\\'));
    return bits_of(plain) ^ ALL_BITS;
}

/* The bytes that keys seldom have, and those that end one: all but letters, digits, and @ _ , - . / : ; */
static inline uint32_t unusual_bytes(const uint8_t *at)
{
    Block bytes = block_at(at);
    Block usual = (Block)((Block)(bytes - 'a') <= 'z' - 'a') | (Block)((Block)(bytes - '@') <= 'Z' - '@') |
                  (Block)((Block)(bytes - ',') <= ';' - ',') | (Block)(bytes == '_');
    return bits_of(usual) ^ ALL_BITS;
}

/* What names of fields seldom have, and what ends one: all bytes but letters, digits and the hyphen. */
static inline uint32_t unusual_in_names(const uint8_t *at)
{
    Block bytes = block_at(at);
    Block usual = (Block)((Block)((bytes | 0x20) - 'a') <= 'z' - 'a') | (Block)((Block)(bytes - '0') <= '9' - '0') |
                  (Block)(bytes == '-');
    return bits_of(usual) ^ ALL_BITS;
}

/* What no value of a field has (RFC 9110, 5.5): the control characters but HTAB. */
static inline uint32_t control_bytes(const uint8_t *at)
{
    Block bytes = block_at(at);
    return bits_of(((Block)(bytes < 0x20) & (Block)(bytes != '\t')) | (Block)(bytes == 0x7F));
}

static inline uint32_t lowest_bit(uint32_t bits) { return (uint32_t)__builtin_ctz(bits); }

/* How many bits a number has from its highest one on; 1 for zero. */
static inline uint32_t bit_length(uint64_t number) { return 64 - (uint32_t)__builtin_clzll(number | 1); }

#endif
