/* The time: for code without the GIL (parallel_run.pxi), and for thread_budget.pxi. */
#ifndef CDROPOUT_CLOCK_H
#define CDROPOUT_CLOCK_H

#include <stdint.h>
#include <time.h>

/* Microseconds since the epoch. Callers use differences, and must expect wrong ones when the clock is set. Integer
 * arithmetic, because floating-point operations may trap in the caller's mode. */
static inline uint64_t clock_microseconds(void)
{
    struct timespec now;
    timespec_get(&now, TIME_UTC);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

/* Microseconds since a fixed moment, of a clock that is never set where the system has one. Unlike Python's
 * time.monotonic it has no replacement that stands still or goes back, as programs install to test code with dates. */
static inline uint64_t steady_microseconds(void)
{
#ifdef CLOCK_MONOTONIC
    struct timespec now;
    if (clock_gettime(CLOCK_MONOTONIC, &now) == 0)
        return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
#endif
    return clock_microseconds();
}

/* Microseconds of a CPU that the calling thread has used; 0 where the system does not tell. */
static inline uint64_t cpu_microseconds(void)
{
#ifdef CLOCK_THREAD_CPUTIME_ID
    struct timespec used;
    if (clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used) == 0)
        return (uint64_t)used.tv_sec * 1000000 + (uint64_t)used.tv_nsec / 1000;
#endif
    return 0;
}

#endif
