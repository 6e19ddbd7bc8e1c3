/* How many jobs run at this moment, and the most that did lately. Threads enter and leave at the same time. */
#ifndef CDROPOUT_CROWD_H
#define CDROPOUT_CROWD_H

#include <stdint.h>

#include "atomic.h"

enum { CROWD_MICROSECONDS = 100000, CROWD_BITS = 16 };

/* The most at once, and until when that counts, are one number, so that they change together: the time in microseconds
 * above CROWD_BITS bits of the number of jobs. */
typedef struct {
    int n_running;
    uint64_t most_until;
} crowd;

static inline int enter_crowd(crowd *jobs)
{
    return ATOMIC_ADD(&jobs->n_running, 1);
}

static inline void leave_crowd(crowd *jobs)
{
    ATOMIC_ADD(&jobs->n_running, -1);
}

/* The most jobs that ran at once within the last CROWD_MICROSECONDS, with n_now, which is 1 or more, among them. */
static inline int most_in_crowd(crowd *jobs, int n_now, uint64_t now_microseconds)
{
    const uint64_t most_ever = ((uint64_t)1 << CROWD_BITS) - 1;
    const uint64_t n = (uint64_t)n_now < most_ever ? (uint64_t)n_now : most_ever;
    uint64_t seen = ATOMIC_LOAD(&jobs->most_until);
    do {
        if (n < (seen & most_ever) && now_microseconds < seen >> CROWD_BITS)
            return (int)(seen & most_ever);
    } while (!ATOMIC_EXCHANGE_IF(&jobs->most_until, &seen, (now_microseconds + CROWD_MICROSECONDS) << CROWD_BITS | n));
    return (int)n;
}

#endif
