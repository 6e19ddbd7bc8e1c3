/* The position of a stream, which threads may advance at the same time. */
#ifndef CDROPOUT_POSITION_H
#define CDROPOUT_POSITION_H

#include <stdint.h>

#include "atomic.h"
#include "stream.h"

/* Block indices have 52 bits, so positions have 64; the last block stays unused. */
#define POSITION_LIMIT UINT64_C(0xFFFFFFFFFFFFF000)

/* The positions that n_elems take, at most POSITION_LIMIT. */
static inline uint64_t in_whole_blocks(uint64_t n_elems)
{
    return (n_elems + ELEMS_PER_BLOCK - 1) / ELEMS_PER_BLOCK * ELEMS_PER_BLOCK;
}

/* Moves *next on by the whole blocks that n_elems take, and gives back what it was in *first; 0, and nothing changed,
 * where that would pass the limit. */
static inline int take_blocks(uint64_t *next, uint64_t n_elems, uint64_t *first)
{
    uint64_t seen = ATOMIC_LOAD(next), n;
    if (n_elems > POSITION_LIMIT)
        return 0;
    n = in_whole_blocks(n_elems);
    do {
        if (seen > POSITION_LIMIT || n > POSITION_LIMIT - seen)
            return 0;
    } while (!ATOMIC_EXCHANGE_IF(next, &seen, seen + n));
    *first = seen;
    return 1;
}

/* Undoes take_blocks, which gave back first, unless somebody has taken positions since. */
static inline void return_blocks(uint64_t *next, uint64_t n_elems, uint64_t first)
{
    uint64_t seen = ATOMIC_LOAD(next);
    do {
        if (seen != first + in_whole_blocks(n_elems))
            return;
    } while (!ATOMIC_EXCHANGE_IF(next, &seen, first));
}

#endif
