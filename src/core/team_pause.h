/* Whether a team of threads is slower than one thread, as on a machine whose CPUs are busy: the team's slowest thread
 * may then wait milliseconds for a CPU. parallel_run.pxi notes the time of each parallel region here, and runs serially
 * while the pause lasts. Threads note and read at the same time, so all numbers are atomic (atomic.h). */
#ifndef CDROPOUT_TEAM_PAUSE_H
#define CDROPOUT_TEAM_PAUSE_H

#include <stdint.h>

#include "atomic.h"

/* A region counts as slow if it takes this much longer than the same work on one thread with a CPU would. It is longer
 * than the start of a region, and shorter than the wait for a CPU. */
enum { SLOW_MICROSECONDS = 500 };

/* The first pause, the factor from one pause to the next, and how often it applies: 8 ms, 64 ms, 0.5 s, 4 s. The first
 * is short for an idle machine, the last makes trying again rare on a busy one. docs/design.md has measurements. */
enum { FIRST_PAUSE_MICROSECONDS = 8000, PAUSE_FACTOR_BITS = 3, MOST_PAUSES = 4 };

/* The time in fast regions that makes up for a slow one: longer than a busy machine leaves a team undisturbed. If a
 * few fast regions made up for it, the pauses of a busy machine would become short again, and its slow regions many. */
enum { FORGIVING_MICROSECONDS = 50000 };

typedef struct {
    uint64_t until; /* the end of the pause, in the microseconds of system/clock.h */
    uint64_t fast;  /* microseconds in fast regions since the last slow one */
    int n_slow;     /* slow regions that fast ones have not made up for, at most MOST_PAUSES */
} team_pause;

static inline int is_team_paused(const team_pause *pause, uint64_t now)
{
    const uint64_t until = ATOMIC_LOAD(&pause->until);
    const uint64_t longest = (uint64_t)FIRST_PAUSE_MICROSECONDS << (MOST_PAUSES * PAUSE_FACTOR_BITS);
    return now < until && until - now <= longest; /* unless the clock was set back */
}

/* Takes note of a region of n_threads, for whose own work the calling thread needed own_cpu microseconds of a CPU. */
static inline void note_region(team_pause *pause, uint64_t began, uint64_t end, uint64_t own_cpu, uint64_t n_threads)
{
    const int n_slow = ATOMIC_LOAD(&pause->n_slow);
    if (end < began) /* the clock was set */
        return;
    if (end - began > n_threads * own_cpu + SLOW_MICROSECONDS) {
        ATOMIC_STORE(&pause->until, end + ((uint64_t)FIRST_PAUSE_MICROSECONDS << (n_slow * PAUSE_FACTOR_BITS)));
        ATOMIC_STORE(&pause->fast, (uint64_t)0);
        if (n_slow < MOST_PAUSES - 1)
            ATOMIC_STORE(&pause->n_slow, n_slow + 1);
    } else if (n_slow > 0) {
        const uint64_t fast = ATOMIC_LOAD(&pause->fast) + (end - began);
        const int is_forgiven = fast >= FORGIVING_MICROSECONDS;
        ATOMIC_STORE(&pause->fast, is_forgiven ? (uint64_t)0 : fast);
        if (is_forgiven)
            ATOMIC_STORE(&pause->n_slow, n_slow - 1);
    }
}

#endif
