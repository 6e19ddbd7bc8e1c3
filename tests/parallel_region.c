/* Somebody else's parallel region, from which the library is called. */
#include <omp.h>

void call_from_region(void (*function)(int thread), int n_threads)
{
#pragma omp parallel num_threads(n_threads)
    function(omp_get_thread_num());
}
