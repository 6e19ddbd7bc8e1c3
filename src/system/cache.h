/* The sizes of caches as the C library or the system's functions tell them. _kernels.pyx asks for them where
 * cdropout/machine.py finds no files of the system with the sizes. */
#ifndef CDROPOUT_CACHE_H
#define CDROPOUT_CACHE_H

#include <stddef.h>

#include "win32.h"

#if defined(__APPLE__)
#include <stdint.h>
#include <sys/sysctl.h>
#elif defined(__unix__)
#include <unistd.h>
#endif

#if defined(__APPLE__)
/* 0 if there is no such number. */
static inline size_t number_of_sysctl(const char *name)
{
    uint64_t number = 0;
    size_t n_bytes = sizeof number; /* little-endian, so that a number of 4 bytes is right, too */
    return sysctlbyname(name, &number, &n_bytes, NULL, 0) == 0 ? (size_t)number : 0;
}
#endif

/* The size in bytes of a core's data cache of a level from 1 to 3; 0 if it is unknown or does not exist. */
static inline size_t cache_bytes_of_level(int level)
{
#if defined(_WIN32)
    return win32_cache_bytes(level);
#elif defined(__APPLE__)
    /* hw.perflevel0 are the fastest cores of an Apple processor; the names without it are those of the slowest. */
    static const char *const names[3][2] = {
        {"hw.perflevel0.l1dcachesize", "hw.l1dcachesize"},
        {"hw.perflevel0.l2cachesize", "hw.l2cachesize"},
        {"hw.perflevel0.l3cachesize", "hw.l3cachesize"},
    };
    const size_t n_bytes = number_of_sysctl(names[level - 1][0]);
    return n_bytes != 0 ? n_bytes : number_of_sysctl(names[level - 1][1]);
#elif defined(_SC_LEVEL1_DCACHE_SIZE) && defined(_SC_LEVEL2_CACHE_SIZE) && defined(_SC_LEVEL3_CACHE_SIZE)
    static const int names[3] = {_SC_LEVEL1_DCACHE_SIZE, _SC_LEVEL2_CACHE_SIZE, _SC_LEVEL3_CACHE_SIZE};
    const long n_bytes = sysconf(names[level - 1]);
    return n_bytes > 0 ? (size_t)n_bytes : 0;
#else
    (void)level;
    return 0;
#endif
}

#endif
