/* The time, for whoever does not hold the interpreter's lock. */
#ifndef CDROPOUT_CLOCK_H
#define CDROPOUT_CLOCK_H

#include <stdint.h>
#include <time.h>

/* In microseconds, from anywhere: only differences count, and a clock that is set may make one of them wrong. Integers,
 * because the caller's floating-point mode may trap. */
static inline uint64_t clock_microseconds(void)
{
    struct timespec now;
    timespec_get(&now, TIME_UTC);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

#endif
