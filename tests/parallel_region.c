/* An OpenMP parallel region of another program, from which tests/test_thread_budget.py calls the library. */
#include <omp.h>

void call_from_region(void (*function)(int thread), int n_threads)
{
#pragma omp parallel num_threads(n_threads)
    function(omp_get_thread_num());
}
