/* What the system and OpenMP tell about threads, for thread_budget.pxi: how many a call may use, and whether the system
 * grants so many. */
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

#ifdef _MSC_VER
#define THREAD_LOCAL __declspec(thread)
#else
#define THREAD_LOCAL _Thread_local
#endif

/* The number of threads that another library, such as PyTorch, has been told to use for the current call of this thread;
 * 0 if OpenMP's number holds. That library may have another OpenMP runtime than this one. */
static THREAD_LOCAL int n_threads_of_host = 0;

static inline void set_threads_of_host(int n_threads)
{
    n_threads_of_host = n_threads;
}

/* How many threads OpenMP would use for this caller, according to OMP_NUM_THREADS, omp_set_num_threads (threadpoolctl)
 * and the affinity of the process when OpenMP was loaded. 1 inside a parallel region, and without OpenMP. */
#ifdef _OPENMP
#include <omp.h>

enum { HAS_OPENMP = 1 };

static inline int max_threads(void)
{
    if (omp_in_parallel())
        return 1;
    return n_threads_of_host > 0 ? n_threads_of_host : omp_get_max_threads();
}
#else
enum { HAS_OPENMP = 0 };

static inline int max_threads(void)
{
    return 1;
}
#endif

/* How many CPUs the calling thread may run on now; a large number if the system does not tell. */
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

/* Has a function called in every child that is forked from now on, before fork() returns there. The function may only
 * do what a signal handler may. Returns 0, or an error number. */
static inline int call_in_forked_children(void (*function)(void))
{
#if defined(_WIN32) /* has no fork */
    (void)function;
    return 0;
#else
    return pthread_atfork(NULL, NULL, function);
#endif
}

/* ---- whether the system grants threads --------------------------------------------------------------------------
 * OpenMP ends the process if the system refuses it a thread (out of memory, or a limit on processes). So before OpenMP
 * is asked for a larger team than the last one, as many threads as it lacks are started here, and joined. */
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

/* n_threads, the caller included; or the size of the last team if the system refuses the threads that are missing. */
static inline int available_team(int n_threads)
{
    static THREAD_LOCAL int n_in_last_team = 1; /* OpenMP keeps a team for each calling thread */
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
