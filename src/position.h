/* The position of a stream, which threads may advance at the same time. */
#ifndef CDROPOUT_POSITION_H
#define CDROPOUT_POSITION_H

#include <stdint.h>

#include "atomic.h"
#include "stream.h"

/* Block indices have 52 bits, so positions have 64; the last block stays unused. */
#define POSITION_LIMIT UINT64_C(0xFFFFFFFFFFFFF000)

/* Moves *next on by the whole blocks that n_elems take, and gives back what it was in *first; 0, and nothing changed,
 * where that would pass the limit. */
static inline int take_blocks(uint64_t *next, uint64_t n_elems, uint64_t *first)
{
    uint64_t seen = ATOMIC_LOAD(next), n;
    if (n_elems > POSITION_LIMIT)
        return 0;
    n = (n_elems + ELEMS_PER_BLOCK - 1) / ELEMS_PER_BLOCK * ELEMS_PER_BLOCK;
    do {
        if (seen > POSITION_LIMIT || n > POSITION_LIMIT - seen)
            return 0;
    } while (!ATOMIC_EXCHANGE_IF(next, &seen, seen + n));
    *first = seen;
    return 1;
}

#endif
