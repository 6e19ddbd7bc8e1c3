/* How many threads OpenMP would use from here: what OMP_NUM_THREADS, omp_set_num_threads (threadpoolctl) and the
 * process's affinity say at this moment. Without OpenMP, and inside somebody else's parallel region, one. */
#ifndef CDROPOUT_THREADS_H
#define CDROPOUT_THREADS_H

#ifdef _OPENMP
#include <omp.h>

enum { HAS_OPENMP = 1 };

static inline int max_threads(void)
{
    return omp_in_parallel() ? 1 : omp_get_max_threads();
}
#else
enum { HAS_OPENMP = 0 };

static inline int max_threads(void)
{
    return 1;
}
#endif

#endif
