/* The size of the last-level cache from sysconf. _kernels.pyx asks for it where cdropout/machine.py finds no files of
 * the system that tell the size. */
#ifndef CDROPOUT_CACHE_H
#define CDROPOUT_CACHE_H

#include <stddef.h>

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

/* 0 if the size is unknown. */
static inline size_t cache_bytes_by_sysconf(void)
{
    long n_bytes = 0;
#if defined(_SC_LEVEL3_CACHE_SIZE) && defined(_SC_LEVEL2_CACHE_SIZE)
    n_bytes = sysconf(_SC_LEVEL3_CACHE_SIZE);
    if (n_bytes <= 0)
        n_bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
#endif
    return n_bytes > 0 ? (size_t)n_bytes : 0;
}

#endif
