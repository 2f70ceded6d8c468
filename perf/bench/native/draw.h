/* Which key is asked for next: always the first, each equally often, by Zipf's law, or one after the other.
   Every draw is a fresh one: there is no list that repeats, which a cache or a branch predictor could learn. */
#ifndef DRAW_H
#define DRAW_H
#include <math.h>
#include <stdint.h>
#include <string.h>

#define ZIPF_EXPONENT 0.99

typedef struct {
    enum { HOT, UNIFORM, ZIPF, SEQUENCE, UNKNOWN } kind;
    uint64_t keys, next, state;
    double low, high, shortcut; /* of Zipf's law: the ends of the integral, and where no rejection is needed */
} Draw;

/* SplitMix64 (Steele, Lea and Flood, OOPSLA 2014). */
static inline uint64_t random_bits(Draw *draw) {
    uint64_t z = draw->state += 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

static inline uint64_t random_below(Draw *draw, uint64_t bound) {
    return (uint64_t)((unsigned __int128)random_bits(draw) * bound >> 64);
}

static inline double zipf_integral(double x) {
    return (pow(x, 1 - ZIPF_EXPONENT) - 1) / (1 - ZIPF_EXPONENT);
}

static inline double zipf_inverse(double y) {
    return pow(1 + y * (1 - ZIPF_EXPONENT), 1 / (1 - ZIPF_EXPONENT));
}

static inline Draw draw_by(const char *name, uint64_t keys, uint64_t seed) {
    static const char *const names[] = {"hot", "uniform", "zipf", "sequence"};
    Draw draw = {.keys = keys, .state = seed};
    while (draw.kind < UNKNOWN && strcmp(name, names[draw.kind])) draw.kind++;
    draw.low = zipf_integral(1.5) - 1;
    draw.high = zipf_integral((double)keys + 0.5);
    draw.shortcut = 2 - zipf_inverse(zipf_integral(2.5) - pow(2, -ZIPF_EXPONENT));
    return draw;
}

/* The rank, from 1, by rejection-inversion (Hörmann and Derflinger, ACM TOMACS 6(3), 1996). A table of the
   distribution would be read at random, and so take the server's share of a common cache. */
static inline uint64_t zipf_rank(Draw *draw) {
    for (;;) {
        double unit = (double)(random_bits(draw) >> 11) * 0x1p-53;
        double y = draw->high + unit * (draw->low - draw->high), x = zipf_inverse(y);
        double rank = x < 1 ? 1 : x > (double)draw->keys ? (double)draw->keys : round(x);
        if (rank - x <= draw->shortcut || y >= zipf_integral(rank + 0.5) - pow(rank, -ZIPF_EXPONENT))
            return (uint64_t)rank;
    }
}

/* The number of the next key, from 0. Ranks of Zipf's law are scattered over the keys by a prime, so that
   those asked for most have not been put one after the other. */
static inline uint64_t draw_key(Draw *draw) {
    switch (draw->kind) {
    case UNIFORM: return random_below(draw, draw->keys);
    case ZIPF: return zipf_rank(draw) * 2654435761u % draw->keys;
    case SEQUENCE: return draw->next++ % draw->keys;
    default: return 0;
    }
}
#endif
