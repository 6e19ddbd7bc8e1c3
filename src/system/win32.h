/* Functions of the headers in this folder as Windows has them. They are in a file apart, because <windows.h> defines
 * many short names as macros, which the modules that Cython makes may use. */
#ifndef CDROPOUT_WIN32_H
#define CDROPOUT_WIN32_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
uint64_t win32_microseconds(void);   /* of a clock that is never set */
int win32_n_cpus(void);              /* of the process's affinity; 0 if unknown */
size_t win32_cache_bytes(int level); /* of data; 0 if unknown */
double win32_cpu_quota(void);        /* of the process's job object, as a number of CPUs; 0 without a limit */
/* Calls function(argument, i) for each i below n, in the calling thread and in threads of the system's pool. */
void win32_run_team(size_t n, void (*function)(void *argument, size_t i), void *argument);
#endif

/* The quota that JOBOBJECT_CPU_RATE_CONTROL_INFORMATION describes, as a number of CPUs; 0 without a limit. A rate of
 * 10000 is all processors. A weight, or a rate that is no hard cap, leaves idle processors to the job. */
static inline double cpu_quota_of_rate(uint32_t flags, uint32_t rate, uint32_t n_processors)
{
    enum { ENABLED = 0x1, HARD_CAP = 0x4, MIN_MAX_RATE = 0x10 };
    if (!(flags & ENABLED) || !(flags & (HARD_CAP | MIN_MAX_RATE)))
        return 0;
    if (flags & MIN_MAX_RATE)
        rate >>= 16; /* the minimum is the lower half */
    return rate >= 10000 ? 0 : rate / 10000.0 * n_processors;
}

#endif
