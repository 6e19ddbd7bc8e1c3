/* The position of a stream, which threads may advance at the same time. */
#ifndef CDROPOUT_POSITION_H
#define CDROPOUT_POSITION_H

#include <stdint.h>

#include "atomic.h"

/* Adds n to *next and gives back what it was in *first; 0, and nothing changed, where that would pass `limit`. */
static inline int take_positions(uint64_t *next, uint64_t n, uint64_t limit, uint64_t *first)
{
    uint64_t seen = ATOMIC_LOAD(next);
    do {
        if (seen > limit || n > limit - seen)
            return 0;
    } while (!ATOMIC_EXCHANGE_IF(next, &seen, seen + n));
    *first = seen;
    return 1;
}

#endif
