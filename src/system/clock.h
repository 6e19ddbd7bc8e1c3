/* The time: for code without the GIL (parallel_run.pxi), and for thread_budget.pxi. */
#ifndef CDROPOUT_CLOCK_H
#define CDROPOUT_CLOCK_H

#include <stdint.h>
#include <time.h>

#include "win32.h"

/* Microseconds since the epoch, on Windows since the start. Callers use differences, and must expect wrong ones when
 * the clock is set. Integer arithmetic, because floating-point operations may trap in the caller's mode. */
static inline uint64_t clock_microseconds(void)
{
#if defined(_WIN32)
    return win32_microseconds();
#else
    struct timespec now;
    timespec_get(&now, TIME_UTC);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
#endif
}

/* Microseconds since a fixed moment, of a clock that is never set where the system has one. Unlike Python's
 * time.monotonic it has no replacement that stands still or goes back, as programs install to test code with dates. */
static inline uint64_t steady_microseconds(void)
{
#if defined(CLOCK_MONOTONIC) && !defined(_WIN32)
    struct timespec now;
    if (clock_gettime(CLOCK_MONOTONIC, &now) == 0)
        return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
#endif
    return clock_microseconds();
}

/* Microseconds of a CPU that the calling thread has used; 0 where the system does not tell. Windows counts them in
 * steps of 15,625, longer than most calls take. */
static inline uint64_t cpu_microseconds(void)
{
#if defined(CLOCK_THREAD_CPUTIME_ID) && !defined(_WIN32)
    struct timespec used;
    if (clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used) == 0)
        return (uint64_t)used.tv_sec * 1000000 + (uint64_t)used.tv_nsec / 1000;
#endif
    return 0;
}

#endif
