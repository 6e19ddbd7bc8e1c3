/* What <windows.h> tells: see win32.h. */
#include "win32.h"

#if defined(_WIN32)

#if !defined(_WIN32_WINNT) || _WIN32_WINNT < 0x0602
#undef _WIN32_WINNT
#define _WIN32_WINNT 0x0602 /* Windows 8, which came with CPU rates of job objects */
#endif
#define WIN32_LEAN_AND_MEAN
#include <windows.h>

#include <stdlib.h>

uint64_t win32_microseconds(void)
{
    LARGE_INTEGER ticks, per_second;
    QueryPerformanceCounter(&ticks);
    QueryPerformanceFrequency(&per_second);
    const uint64_t n = (uint64_t)ticks.QuadPart, frequency = (uint64_t)per_second.QuadPart;
    return n / frequency * 1000000 + n % frequency * 1000000 / frequency; /* without an overflow */
}

int win32_n_cpus(void)
{
    DWORD_PTR process_mask, system_mask;
    if (!GetProcessAffinityMask(GetCurrentProcess(), &process_mask, &system_mask))
        return 0;
    /* The masks are 0 in a process on more than one group of 64 processors. */
    return process_mask != 0 ? __builtin_popcountll((unsigned long long)process_mask)
                             : (int)GetActiveProcessorCount(ALL_PROCESSOR_GROUPS);
}

size_t win32_cache_bytes(int level)
{
    DWORD n_bytes = 0;
    size_t found = 0;
    SYSTEM_LOGICAL_PROCESSOR_INFORMATION *rows;
    GetLogicalProcessorInformation(NULL, &n_bytes);
    if (n_bytes == 0 || (rows = malloc(n_bytes)) == NULL)
        return 0;
    if (GetLogicalProcessorInformation(rows, &n_bytes))
        for (size_t i = 0; i < n_bytes / sizeof *rows; i++)
            if (rows[i].Relationship == RelationCache && rows[i].Cache.Level == level &&
                rows[i].Cache.Type != CacheInstruction && rows[i].Cache.Size > found)
                found = rows[i].Cache.Size;
    free(rows);
    return found;
}

double win32_cpu_quota(void)
{
    JOBOBJECT_CPU_RATE_CONTROL_INFORMATION control = {0};
    /* NULL is the job of the calling process; the call fails if it has none. */
    if (!QueryInformationJobObject(NULL, JobObjectCpuRateControlInformation, &control, sizeof control, NULL))
        return 0;
    return cpu_quota_of_rate(control.ControlFlags, control.CpuRate, GetActiveProcessorCount(ALL_PROCESSOR_GROUPS));
}

typedef struct {
    void (*function)(void *argument, size_t i);
    void *argument;
    size_t n, n_taken;
} team_work;

static void run_next(team_work *work)
{
    size_t i;
    while ((i = __atomic_fetch_add(&work->n_taken, 1, __ATOMIC_RELAXED)) < work->n)
        work->function(work->argument, i);
}

static void CALLBACK run_in_pool(PTP_CALLBACK_INSTANCE instance, void *work, PTP_WORK handle)
{
    (void)instance;
    (void)handle;
    run_next(work);
}

/* The calling thread works, too. It takes what no other thread has taken yet, so it waits for nothing but the ranges
 * that others are computing: on a busy machine it computes most of them itself. */
void win32_run_team(size_t n, void (*function)(void *argument, size_t i), void *argument)
{
    team_work work = {function, argument, n, 0};
    PTP_WORK handle = n > 1 ? CreateThreadpoolWork(run_in_pool, &work, NULL) : NULL;
    for (size_t i = 1; handle != NULL && i < n; i++)
        SubmitThreadpoolWork(handle);
    run_next(&work);
    if (handle != NULL) {
        WaitForThreadpoolWorkCallbacks(handle, TRUE); /* TRUE: those that have not begun never will */
        CloseThreadpoolWork(handle);
    }
}

#else
typedef int translation_unit_is_not_empty;
#endif
