/* What Cython has no word for: atomic words, fences, and a product of 128 bits. */
#ifndef FASTKV_CORE_NATIVE_H
#define FASTKV_CORE_NATIVE_H

#include <stdint.h>

static inline uint64_t load_acquire(const uint64_t *at) { return __atomic_load_n(at, __ATOMIC_ACQUIRE); }
static inline uint64_t load_relaxed(const uint64_t *at) { return __atomic_load_n(at, __ATOMIC_RELAXED); }
static inline void store_release(uint64_t *at, uint64_t word) { __atomic_store_n(at, word, __ATOMIC_RELEASE); }
static inline void store_relaxed(uint64_t *at, uint64_t word) { __atomic_store_n(at, word, __ATOMIC_RELAXED); }
static inline void fence_acquire(void) { __atomic_thread_fence(__ATOMIC_ACQUIRE); }
static inline void fence_release(void) { __atomic_thread_fence(__ATOMIC_RELEASE); }

/* Whether a processor shows its stores to others in their order. Python has no fence, so elsewhere nothing that the readable
   engine may have written is believed for its order. */
#if defined(__x86_64__) && !defined(FASTKV_UNORDERED)
#define STORES_ARE_ORDERED 1
#else
#define STORES_ARE_ORDERED 0
#endif

/* The 128 bits of a product, their halves folded by exclusive or. */
static inline uint64_t folded_product(uint64_t a, uint64_t b) {
    unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* The number of the lowest bit that is set; of a word that is not 0. */
static inline int first_bit(uint64_t word) { return __builtin_ctzll(word); }
/* Have a cache line fetched; from no address is that an error. */
static inline void prefetch(const void *at) { __builtin_prefetch(at); }

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

#endif
