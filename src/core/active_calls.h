/* How many calls compute at this moment, and the most that did lately. Threads enter and leave at the same time. */
#ifndef CDROPOUT_ACTIVE_CALLS_H
#define CDROPOUT_ACTIVE_CALLS_H

#include <stdint.h>

#include "atomic.h"

enum { RECENT_MICROSECONDS = 100000, COUNT_BITS = 16 };

/* The most at once, and until when that counts, are one number, so that they change together: the time in microseconds
 * above COUNT_BITS bits of the number of calls. */
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

/* The most calls that ran at once within the last RECENT_MICROSECONDS, with n_now, which is 1 or more, among them. */
static inline int most_active_calls(active_calls *calls, int n_now, uint64_t now_microseconds)
{
    const uint64_t most_ever = ((uint64_t)1 << COUNT_BITS) - 1;
    const uint64_t n = (uint64_t)n_now < most_ever ? (uint64_t)n_now : most_ever;
    uint64_t seen = ATOMIC_LOAD(&calls->most_until);
    do {
        if (n < (seen & most_ever) && now_microseconds < seen >> COUNT_BITS)
            return (int)(seen & most_ever);
    } while (
        !ATOMIC_EXCHANGE_IF(&calls->most_until, &seen, (now_microseconds + RECENT_MICROSECONDS) << COUNT_BITS | n));
    return (int)n;
}

#endif
