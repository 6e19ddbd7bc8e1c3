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
    /* The masks are 0 in a process on more than one group of 64 processors. */
    if (!GetProcessAffinityMask(GetCurrentProcess(), &process_mask, &system_mask))
        return 0;
    return __builtin_popcountll((unsigned long long)process_mask);
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

#else
typedef int translation_unit_is_not_empty;
#endif
