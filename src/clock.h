/* The time, for whoever does not hold the interpreter's lock. */
#ifndef CDROPOUT_CLOCK_H
#define CDROPOUT_CLOCK_H

#include <time.h>

/* In seconds, from anywhere: only differences count, and a clock that is set may make one of them wrong. */
static inline double seconds_now(void)
{
    struct timespec now;
    timespec_get(&now, TIME_UTC);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

#endif
