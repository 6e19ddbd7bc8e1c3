/* What the system and OpenMP tell about threads: how many a call may use, for thread_budget.pxi, and whether the system
 * grants so many, for parallel_run.pxi. */
#ifndef CDROPOUT_THREADS_H
#define CDROPOUT_THREADS_H

#include <stddef.h>

#if defined(__linux__)
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(_OPENMP) && !defined(_WIN32)
#include <stdlib.h>
#include <time.h>

#include "../core/atomic.h"
#endif
#if !defined(_WIN32)
#include <pthread.h>
#endif

#include "win32.h"

/* The number of threads that another library, such as PyTorch, has been told to use for the current call of this
 * thread; 0 if OpenMP's number holds. That library may have another OpenMP runtime than this one. */
static _Thread_local int n_threads_of_host = 0;

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
#endif

/* Why a build has no OpenMP. setup.py defines CDROPOUT_SERIAL_REASON as one of these names. */
enum {
    SERIAL_UNKNOWN,    /* not built by setup.py, or not serial */
    SERIAL_ASKED,      /* CDROPOUT_OPENMP=0 */
    SERIAL_NO_OPENMP,  /* the compiler has no OpenMP */
    SERIAL_NOT_LINKED, /* the compiler has it, but setup.py's test library could not be linked */
    SERIAL_NOT_RUN,    /* or did not run */
    SYSTEM_THREADS,    /* it has other threads, those of Windows or macOS (team.h) */
};
#ifndef CDROPOUT_SERIAL_REASON
#define CDROPOUT_SERIAL_REASON SERIAL_UNKNOWN
#endif

#ifndef _OPENMP
enum { HAS_SYSTEM_TEAM = (int)CDROPOUT_SERIAL_REASON == (int)SYSTEM_THREADS };

/* The number of threads for large arrays; 1 in a serial build. */
static int team_limit = 1;

static inline void set_team_limit(int n_threads)
{
    team_limit = n_threads;
}

static inline int max_threads(void)
{
    return HAS_SYSTEM_TEAM && n_threads_of_host > 0 ? n_threads_of_host : team_limit;
}
#else
enum { HAS_SYSTEM_TEAM = 0 };

static inline void set_team_limit(int n_threads)
{
    (void)n_threads;
}
#endif

/* How many CPUs the calling thread may run on now; a large number if the system does not tell. */
static inline int n_cpus_of_thread(void)
{
    enum { UNKNOWN = 1 << 20 };
#if defined(_WIN32)
    const int n_cpus = win32_n_cpus(); /* of the process: a thread's affinity can only be changed, not read */
    return n_cpus > 0 ? n_cpus : UNKNOWN;
#elif defined(__linux__) && defined(CPU_COUNT_S)
    cpu_set_t cpus[8]; /* 8192 CPUs */
    return sched_getaffinity(0, sizeof cpus, cpus) == 0 ? CPU_COUNT_S(sizeof cpus, cpus) : UNKNOWN;
#else
    return UNKNOWN;
#endif
}

/* The CPU quota of the process as a number of CPUs, where a function of the system tells it; 0 if there is none. For
 * Linux, cdropout/machine.py reads files. */
static inline double cpu_quota_of_system(void)
{
#if defined(_WIN32)
    return win32_cpu_quota();
#else
    return 0;
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
 * OpenMP ends the process if the system refuses it a thread (out of memory, or a limit on processes). So before a
 * parallel region for which OpenMP lacks threads, as many are started here, with the same stack size, and ended.
 *
 * GNU's OpenMP has a pool of threads for each calling thread. A region ends the pool's threads that it does not need,
 * also a region of another library. So the pool is counted from inside: each of its threads is noted in its first
 * region here, and when it ends. Windows has no such limits, and its threads take no memory that it must reserve. */
#if defined(_OPENMP) && !defined(_WIN32)

/* What is known about the pool of a calling thread. Its threads may end after the calling thread. */
typedef struct {
    int n_references; /* the calling thread and the pool's threads that have been noted */
    int n_workers;    /* the threads among them that exist, without the calling thread */
    int n_in_last_region;
    int is_growing; /* whether a region begins that starts threads: growth is locked */
} thread_pool;

/* The pool that a thread calls, and the pool that it belongs to. They are not variables of the thread, because OpenMP's
 * threads would have to allocate these, and the C library ends the process if it cannot. */
static pthread_key_t pool_of_caller, pool_of_worker;

/* Held from the trial until OpenMP's threads run, so that trials of two calls do not count on the same threads. */
static pthread_mutex_t growth = PTHREAD_MUTEX_INITIALIZER;

static size_t stack_bytes_of_openmp = 0;

static inline void release_pool(void *pool)
{
    /* Not ATOMIC_ADD, which is relaxed: other threads' accesses come before free. */
    if (__atomic_sub_fetch(&((thread_pool *)pool)->n_references, 1, __ATOMIC_ACQ_REL) == 0)
        free(pool);
}

static inline void note_end_of_worker(void *pool)
{
    ATOMIC_ADD(&((thread_pool *)pool)->n_workers, -1);
    release_pool(pool);
}

/* Called once, at import. stack_bytes is the stack size of OpenMP's threads, 0 for the system's default. Returns 0, or
 * an error number. */
static inline int prepare_pools(size_t stack_bytes)
{
    int error = pthread_key_create(&pool_of_caller, release_pool);
    stack_bytes_of_openmp = stack_bytes;
    return error != 0 ? error : pthread_key_create(&pool_of_worker, note_end_of_worker);
}

/* NULL if there is no memory for a new one. */
static inline thread_pool *pool_of_this_thread(void)
{
    thread_pool *pool = pthread_getspecific(pool_of_caller);
    if (pool != NULL || (pool = malloc(sizeof *pool)) == NULL)
        return pool;
    *pool = (thread_pool){.n_references = 1, .n_in_last_region = 1};
    if (pthread_setspecific(pool_of_caller, pool) == 0)
        return pool;
    free(pool);
    return NULL;
}

typedef struct {
    pthread_t thread;
    pthread_mutex_t *end;
    long system_id;
} trial;

static inline void *wait_for_end_of_trial(void *argument)
{
    trial *self = argument;
#ifdef SYS_tgkill
    self->system_id = syscall(SYS_gettid);
#endif
    pthread_mutex_lock(self->end);
    pthread_mutex_unlock(self->end);
    return NULL;
}

/* Linux counts a thread until a moment after pthread_join. Returns 0 if one is still counted after 10 ms. */
static inline int is_released(const trial *joined)
{
#ifdef SYS_tgkill
    const struct timespec a_moment = {.tv_nsec = 100000};
    for (int n_tries = 0; syscall(SYS_tgkill, getpid(), joined->system_id, 0) == 0; ++n_tries) {
        if (n_tries == 200)
            return 0;
        if (n_tries < 100)
            sched_yield();
        else
            nanosleep(&a_moment, NULL);
    }
#else
    (void)joined;
#endif
    return 1;
}

/* Whether the system grants so many more threads at once. */
static inline int can_start(int n_threads)
{
    int n_started = 0, is_granted;
    pthread_mutex_t end = PTHREAD_MUTEX_INITIALIZER;
    pthread_attr_t attributes;
    trial *trials = malloc((size_t)n_threads * sizeof(trial));
    if (trials == NULL)
        return 0;
    if (pthread_attr_init(&attributes) != 0) {
        free(trials);
        return 0;
    }
    /* A size that the system does not accept is not OpenMP's either: it then keeps the default. */
    if (stack_bytes_of_openmp > 0)
        (void)pthread_attr_setstacksize(&attributes, stack_bytes_of_openmp);
    pthread_mutex_lock(&end);
    for (; n_started < n_threads; ++n_started) {
        trial *next = &trials[n_started];
        next->end = &end;
        if (pthread_create(&next->thread, &attributes, wait_for_end_of_trial, next) != 0)
            break;
    }
    pthread_mutex_unlock(&end);
    is_granted = n_started == n_threads;
    for (int i = 0; i < n_started; ++i)
        pthread_join(trials[i].thread, NULL);
    for (int i = 0; i < n_started && is_granted; ++i)
        is_granted = is_released(&trials[i]);
    pthread_attr_destroy(&attributes);
    free(trials);
    return is_granted;
}

/* Whether OpenMP will find the memory that it needs for a region besides the stacks: it ends the process if not. What
 * is freed here remains with the C library. */
static inline int has_memory_for_region(int n_threads)
{
    void *volatile memory = malloc(4096 + (size_t)n_threads * 1024);
    free(memory);
    return memory != NULL;
}

/* How many threads, n_threads at most, can run the region that the caller begins next. If it is more than 1, each
 * thread of the region calls enter_region with *pool first. */
static inline int begin_region(int n_threads, thread_pool **pool)
{
    int n_known;
    const int limit = omp_get_thread_limit();
    if (n_threads > limit)
        n_threads = limit;
    if (n_threads <= 1 || !has_memory_for_region(n_threads) || (*pool = pool_of_this_thread()) == NULL)
        return 1;
    n_known = 1 + ATOMIC_LOAD(&(*pool)->n_workers);
    if (n_known > (*pool)->n_in_last_region)
        n_known = (*pool)->n_in_last_region;
    if (n_threads <= n_known)
        return n_threads;
    pthread_mutex_lock(&growth);
    if (!can_start(n_threads - n_known)) {
        pthread_mutex_unlock(&growth);
        return n_known;
    }
    (*pool)->is_growing = 1;
    return n_threads;
}

/* Called by each thread of a region, any number of times. The calling thread comes here when all threads run. */
static inline void enter_region(thread_pool *pool)
{
    thread_pool *noted;
    if (omp_get_thread_num() == 0) {
        pool->n_in_last_region = omp_get_num_threads();
        if (pool->is_growing) {
            pool->is_growing = 0;
            pthread_mutex_unlock(&growth);
        }
        return;
    }
    noted = pthread_getspecific(pool_of_worker);
    if (noted == pool || pthread_setspecific(pool_of_worker, pool) != 0)
        return;
    ATOMIC_ADD(&pool->n_references, 1);
    ATOMIC_ADD(&pool->n_workers, 1);
    if (noted != NULL)
        note_end_of_worker(noted); /* in LLVM's OpenMP, threads move between pools */
}
#else
typedef int thread_pool;

static inline int prepare_pools(size_t stack_bytes)
{
    (void)stack_bytes;
    return 0;
}

static inline int begin_region(int n_threads, thread_pool **pool)
{
    (void)pool;
    return n_threads;
}

static inline void enter_region(thread_pool *pool)
{
    (void)pool;
}
#endif

#endif
