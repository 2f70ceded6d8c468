/* A histogram of durations: buckets that are exact up to 255 and at most 1/128 of their value wide above it,
   so that a percentile read from it, the middle of its bucket, is off by less than 0.4 per cent. */
#ifndef HISTOGRAM_H
#define HISTOGRAM_H
#include <math.h>
#include <stddef.h>
#include <stdint.h>

enum { SUB_BITS = 7, BUCKETS = (64 - SUB_BITS + 1) << SUB_BITS };

typedef struct {
    uint64_t count[BUCKETS];
    uint64_t total, longest;
} Histogram;

static inline size_t bucket_of(uint64_t value) {
    int shift = value < (2u << SUB_BITS) ? 0 : 63 - __builtin_clzll(value) - SUB_BITS;
    return ((size_t)shift << SUB_BITS) + (size_t)(value >> shift);
}

static inline uint64_t middle_of(size_t bucket) {
    if (bucket < (2u << SUB_BITS)) return bucket;
    int shift = (int)(bucket >> SUB_BITS) - 1;
    return ((uint64_t)(bucket - ((size_t)shift << SUB_BITS)) << shift) + (1ull << shift) / 2;
}

static inline void note(Histogram *histogram, uint64_t value) {
    histogram->count[bucket_of(value)]++;
    histogram->total++;
    if (value > histogram->longest) histogram->longest = value;
}

/* The smallest value that at least this share of all (0 to 1) does not exceed; 0 if there are none. */
static inline uint64_t percentile(const Histogram *histogram, double share) {
    uint64_t wanted = (uint64_t)ceil(share * (double)histogram->total), seen = 0;
    for (size_t i = 0; i < BUCKETS; i++) {
        seen += histogram->count[i];
        if (seen && seen >= wanted) return middle_of(i) < histogram->longest ? middle_of(i) : histogram->longest;
    }
    return 0;
}
#endif
