/* How many threads a call may use, whether the system has so many, and what to do where they are gone. */
#ifndef CDROPOUT_THREADS_H
#define CDROPOUT_THREADS_H

#if defined(__linux__)
#include <sched.h>
#endif
#if defined(_OPENMP) && !defined(_MSC_VER)
#include <stdlib.h>
#endif
#if !defined(_WIN32) || defined(_OPENMP) && !defined(_MSC_VER)
#include <pthread.h>
#endif

/* How many OpenMP would use from here: what OMP_NUM_THREADS, omp_set_num_threads (threadpoolctl) and the process's
 * affinity when OpenMP was loaded say. Without OpenMP, and inside somebody else's parallel region, one. */
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

/* The CPUs that the calling thread may run on at this moment; a large number where the system does not tell. */
static inline int n_cpus_of_thread(void)
{
    enum { UNKNOWN = 1 << 20 };
#if defined(__linux__) && defined(CPU_COUNT_S)
    cpu_set_t cpus[8]; /* 8192 CPUs */
    return sched_getaffinity(0, sizeof cpus, cpus) == 0 ? CPU_COUNT_S(sizeof cpus, cpus) : UNKNOWN;
#else
    return UNKNOWN;
#endif
}

/* Has a function called in every child from now on, before fork() returns there: it may do what the handler of a signal
 * may. 0, or the number of an error. */
static inline int call_in_forked_children(void (*function)(void))
{
#if defined(_WIN32) /* has no fork */
    (void)function;
    return 0;
#else
    return pthread_atfork(NULL, NULL, function);
#endif
}

/* ---- whether the system has them --------------------------------------------------------------------------------
 * OpenMP's runtimes end the process where the system refuses a thread (memory, or a limit on processes). Before asking
 * OpenMP for a larger team than the last one, start that many extra threads here and join them, to see whether the
 * system allows it. */
#if defined(_OPENMP) && !defined(_MSC_VER)
static inline void *wait_for_end_of_trial(void *end)
{
    pthread_mutex_lock(end);
    pthread_mutex_unlock(end);
    return NULL;
}

static inline int can_start(int n_threads)
{
    int n_started = 0;
    pthread_mutex_t end = PTHREAD_MUTEX_INITIALIZER;
    pthread_t *threads = malloc((size_t)n_threads * sizeof(pthread_t));
    if (threads == NULL)
        return 0;
    pthread_mutex_lock(&end);
    while (n_started < n_threads && pthread_create(&threads[n_started], NULL, wait_for_end_of_trial, &end) == 0)
        ++n_started;
    pthread_mutex_unlock(&end);
    for (int i = 0; i < n_started; ++i)
        pthread_join(threads[i], NULL);
    free(threads);
    return n_started == n_threads;
}

/* A team of n_threads, the caller included, or as many as the last one had where the system refuses the others. */
static inline int available_team(int n_threads)
{
    static _Thread_local int n_in_last_team = 1; /* OpenMP keeps a team for each thread that has called it */
    if (n_threads > n_in_last_team && !can_start(n_threads - n_in_last_team))
        return n_in_last_team;
    n_in_last_team = n_threads;
    return n_threads;
}
#else
static inline int available_team(int n_threads)
{
    return n_threads;
}
#endif

#endif
