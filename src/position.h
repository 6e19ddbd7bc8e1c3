/* The position of a stream, which threads may advance at the same time. */
#ifndef CDROPOUT_POSITION_H
#define CDROPOUT_POSITION_H

#include <stdint.h>

#if defined(__GNUC__)
#define LOAD(p) __atomic_load_n(p, __ATOMIC_RELAXED)
#define EXCHANGE_IF(p, seen, wanted) __atomic_compare_exchange_n(p, seen, wanted, 1, __ATOMIC_RELAXED, __ATOMIC_RELAXED)
#else /* the interpreter's lock serialises the callers */
#define LOAD(p) (*(p))
#define EXCHANGE_IF(p, seen, wanted) (*(p) = (wanted), 1)
#endif

/* Adds n to *next and gives back what it was in *first; 0, and nothing changed, where that would pass `limit`. */
static inline int take_positions(uint64_t *next, uint64_t n, uint64_t limit, uint64_t *first)
{
    uint64_t seen = LOAD(next);
    do {
        if (seen > limit || n > limit - seen)
            return 0;
    } while (!EXCHANGE_IF(next, &seen, seen + n));
    *first = seen;
    return 1;
}

/* Puts *next back from `end` to `first`, unless somebody has taken positions since. */
static inline void return_positions(uint64_t *next, uint64_t first, uint64_t end)
{
    uint64_t seen = LOAD(next);
    do {
        if (seen != end)
            return;
    } while (!EXCHANGE_IF(next, &seen, first));
}

#endif
