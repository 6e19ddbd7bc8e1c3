/* The time for code without the GIL: parallel_run.pxi. */
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
