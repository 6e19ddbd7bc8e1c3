/* Taking positions from a stream. Threads may take from one stream at the same time: its next position is an atomic
 * number (atomic.h). src/stream.pxi and src/c_api.c call these functions. */
#ifndef CDROPOUT_POSITION_H
#define CDROPOUT_POSITION_H

#include <stdint.h>

#include "atomic.h"
#include "stream.h"

/* Positions have 64 bits, the indices of blocks 52. The last block stays unused, so that this number fits. */
#define POSITION_LIMIT UINT64_C(0xFFFFFFFFFFFFF000)

/* n_elems, at most POSITION_LIMIT, rounded up to whole blocks. */
static inline uint64_t in_whole_blocks(uint64_t n_elems)
{
    return (n_elems + ELEMS_PER_BLOCK - 1) / ELEMS_PER_BLOCK * ELEMS_PER_BLOCK;
}

/* Sets *first to *next and advances *next by the whole blocks that n_elems need. Returns 1; or 0, having changed
 * nothing, if *next would exceed POSITION_LIMIT. */
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

/* Undoes the call of take_blocks that set *first to `first`, unless positions have been taken since. */
static inline void return_blocks(uint64_t *next, uint64_t n_elems, uint64_t first)
{
    uint64_t seen = ATOMIC_LOAD(next);
    do {
        if (seen != first + in_whole_blocks(n_elems))
            return;
    } while (!ATOMIC_EXCHANGE_IF(next, &seen, first));
}

#endif
