/* Threads of the operating system for a parallel loop, in builds for Windows and macOS without OpenMP. Their compilers
 * come without its runtime, and a second copy of LLVM's runtime in a process, such as that in PyTorch's wheel, ends the
 * process. The systems' pools of threads are shared by all libraries. parallel_run.pxi calls run_team. */
#ifndef CDROPOUT_TEAM_H
#define CDROPOUT_TEAM_H

#include <stddef.h>

#include "win32.h"

/* CDROPOUT_LIBDISPATCH is for the tests: it runs the code for macOS with libdispatch for Linux. */
#if defined(__APPLE__) || defined(CDROPOUT_LIBDISPATCH)
#include <dispatch/dispatch.h>
#endif
#if defined(__APPLE__)
#include <stdint.h>
#include <sys/sysctl.h>
#endif

/* Calls function(argument, i) for each i below n, and returns after the last of them. */
static inline void run_team(size_t n, void (*function)(void *argument, size_t i), void *argument)
{
#if defined(_WIN32)
    win32_run_team(n, function, argument);
#elif defined(__APPLE__) || defined(CDROPOUT_LIBDISPATCH)
    /* On macOS this priority is the class of service QOS_CLASS_USER_INITIATED. */
    dispatch_apply_f(n, dispatch_get_global_queue(DISPATCH_QUEUE_PRIORITY_HIGH, 0), argument, function);
#else
    for (size_t i = 0; i < n; i++)
        function(argument, i);
#endif
}

/* The number of CPUs that a team uses: on processors with fast and slow cores, the fast ones. Threads get equal ranges,
 * so that slow cores would finish last. 1 if it is unknown. */
static inline int n_cpus_of_team(void)
{
    int n_cpus = 0;
#if defined(_WIN32)
    n_cpus = win32_n_cpus();
#elif defined(__APPLE__)
    size_t n_bytes = sizeof n_cpus;
    if (sysctlbyname("hw.perflevel0.logicalcpu", &n_cpus, &n_bytes, NULL, 0) != 0) {
        n_bytes = sizeof n_cpus;
        if (sysctlbyname("hw.logicalcpu", &n_cpus, &n_bytes, NULL, 0) != 0)
            n_cpus = 0;
    }
#endif
    return n_cpus > 0 ? n_cpus : 1;
}

#endif
