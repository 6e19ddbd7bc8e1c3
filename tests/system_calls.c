/* What the headers of src/system tell on this system, a line each, and a team of threads that fills an array. The last
 * line is "every index once" if it did. */
#define _DEFAULT_SOURCE /* for system/pages.h on Linux */

#include "../src/system/cache.h"
#include "../src/system/clock.h"
#include "../src/system/pages.h"
#include "../src/system/team.h"
#include "../src/system/threads.h"

#include <stdio.h>
#include <stdlib.h>

enum { N_CALLS = 200, N_INDICES = 1000 };

static int n_times[N_INDICES];

static void note(void *argument, size_t i)
{
    __atomic_add_fetch(&((int *)argument)[i], 1, __ATOMIC_RELAXED);
}

static void begin_in_child(void)
{
}

int main(void)
{
    const uint64_t began = steady_microseconds();
    char *pages = malloc((size_t)1 << 23);
    if (pages == NULL || call_in_forked_children(begin_in_child) != 0)
        return 1;
    ask_for_huge_pages(pages, (size_t)1 << 23);
    free(pages);
    set_team_limit(n_cpus_of_team());
    printf("caches %zu %zu %zu\n", cache_bytes_of_level(1), cache_bytes_of_level(2), cache_bytes_of_level(3));
    printf("cpus %d %d, threads %d\n", n_cpus_of_team(), n_cpus_of_thread(), max_threads());
    printf("quota %d hundredths\n", (int)(100 * cpu_quota_of_system()));
    for (int call = 0; call < N_CALLS; call++)
        run_team(N_INDICES, note, n_times);
    for (int i = 0; i < N_INDICES; i++)
        if (n_times[i] != N_CALLS) {
            printf("index %d: %d times\n", i, n_times[i]);
            return 1;
        }
    if (cpu_microseconds() > ((uint64_t)1 << 40) || steady_microseconds() < began || clock_microseconds() == 0)
        return 1;
    printf("every index once\n");
    return 0;
}
