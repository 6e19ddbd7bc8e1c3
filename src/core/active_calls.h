/* How many calls are computing, and the most that did at once in the last tenth of a second: thread_budget.pxi divides
 * the threads among so many. Threads enter and leave at the same time, so both numbers are atomic (atomic.h). */
#ifndef CDROPOUT_ACTIVE_CALLS_H
#define CDROPOUT_ACTIVE_CALLS_H

#include <stdint.h>

#include "atomic.h"

enum { RECENT_MICROSECONDS = 100000, COUNT_BITS = 16 };

/* most_until packs two numbers, so that they change together: COUNT_BITS bits are the most calls at once, the others
 * the time in microseconds until which that counts. */
typedef struct {
    int n_running;
    uint64_t most_until;
} active_calls;

static inline int enter_active_calls(active_calls *calls)
{
    return ATOMIC_ADD(&calls->n_running, 1);
}

static inline void leave_active_calls(active_calls *calls)
{
    ATOMIC_ADD(&calls->n_running, -1);
}

/* Takes note that n_now calls are running, 1 or more, and returns the most in the last RECENT_MICROSECONDS. */
static inline int most_active_calls(active_calls *calls, int n_now, uint64_t now_microseconds)
{
    const uint64_t max_count = ((uint64_t)1 << COUNT_BITS) - 1;
    const uint64_t n = (uint64_t)n_now < max_count ? (uint64_t)n_now : max_count;
    uint64_t seen = ATOMIC_LOAD(&calls->most_until);
    do {
        if (n < (seen & max_count) && now_microseconds < seen >> COUNT_BITS)
            return (int)(seen & max_count);
    } while (
        !ATOMIC_EXCHANGE_IF(&calls->most_until, &seen, (now_microseconds + RECENT_MICROSECONDS) << COUNT_BITS | n));
    return (int)n;
}

#endif
