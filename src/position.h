/* The position of a stream, which threads may advance at the same time. */
#ifndef CDROPOUT_POSITION_H
#define CDROPOUT_POSITION_H

#include <stdint.h>

#include "stream.h"

#if defined(__GNUC__)
#define LOAD(p) __atomic_load_n(p, __ATOMIC_RELAXED)
#define EXCHANGE_IF(p, seen, wanted) __atomic_compare_exchange_n(p, seen, wanted, 1, __ATOMIC_RELAXED, __ATOMIC_RELAXED)
#else /* the interpreter's lock serialises the callers */
#define LOAD(p) (*(p))
#define EXCHANGE_IF(p, seen, wanted) (*(p) = (wanted), 1)
#endif

/* Block indices have 52 bits, so positions have 64; the last block stays unused. */
#define POSITION_LIMIT UINT64_C(0xFFFFFFFFFFFFF000)

/* Moves *next on by the whole blocks that n_elems take, and gives back what it was in *first; 0, and nothing changed,
 * where that would pass the limit. */
static inline int take_blocks(uint64_t *next, uint64_t n_elems, uint64_t *first)
{
    uint64_t seen = LOAD(next), n;
    if (n_elems > POSITION_LIMIT)
        return 0;
    n = (n_elems + ELEMS_PER_BLOCK - 1) / ELEMS_PER_BLOCK * ELEMS_PER_BLOCK;
    do {
        if (seen > POSITION_LIMIT || n > POSITION_LIMIT - seen)
            return 0;
    } while (!EXCHANGE_IF(next, &seen, seen + n));
    *first = seen;
    return 1;
}

#endif
