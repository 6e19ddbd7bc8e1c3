/* Runs a kernel of every instruction set in a floating-point mode that changes its results: as it is, between
 * enter_default_mode and leave_default_mode (src/core/float_mode.h), and as a job, which calls these. Prints a line for
 * each instruction set, which tests/test_cross_compiled.py checks. Plain C without Python. */
#include "../src/core/float_mode.h"
#include "../src/core/job.h"

#include <fenv.h>
#include <stdio.h>
#include <string.h>

enum { N_ELEMS = 4096 };

static float x[N_ELEMS], expected[N_ELEMS], found[N_ELEMS], found_by_job[N_ELEMS];

/* Makes subnormal numbers count as zero; where the processor is not known, makes results round towards zero. */
static void change_mode(void)
{
#if defined(__SSE2__)
    _mm_setcsr(_mm_getcsr() | 1u << 15 | 1u << 6); /* flush-to-zero, denormals-are-zero */
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)1 << 24)); /* FZ */
#else
    fesetround(FE_TOWARDZERO);
#endif
}

/* Whether change_mode is in effect. volatile: computed at run time. */
static int mode_is_changed(void)
{
    volatile float half = 0x1p-127f, one = 1.0f, third = 0x1.555556p-2f;
    volatile float sum = half + half, rounded = one / 3.0f;
    return sum != 0x1p-126f || rounded != third;
}

static void apply(float *out)
{
    const mask_rule rule = {.key = {{1, 2}}, .threshold = -32768 / 2, .tie_threshold = 0};
    const operands ops = {.out = (char *)out, .x = (const char *)x, .n_repeats = 1, .scale = 4.0 / 3.0};
    kernels->dtype[DTYPE_f32]->range[OPERATION_apply_mask](&ops, &rule, 0, N_ELEMS);
}

/* The same as a job in two ranges. Returns 0 if planning or running it has changed the mode. */
static int apply_as_job(float *out)
{
    const job_request request = {.operation = OPERATION_apply_mask,
                                 .dtype = DTYPE_f32,
                                 .key = {{1, 2}},
                                 .p = 0.25,
                                 .scale = 4.0 / 3.0,
                                 .out = (char *)out,
                                 .x = (const char *)x,
                                 .n_elems = N_ELEMS};
    job j;
    if (job_plan(&j, &request) != 0 || !mode_is_changed())
        return 0;
    job_run(&j, 0, 1000);
    job_run(&j, 1000, N_ELEMS);
    return mode_is_changed();
}

int main(void)
{
    fenv_t default_mode;
    for (int i = 0; i < N_ELEMS; i++) /* every second number is subnormal */
        x[i] = (float)(i + 1) * (i % 2 ? 0x1p-140f : 0x1p-3f);
    fegetenv(&default_mode);
    for (size_t i = 0; kernels_at(i) != NULL; i++) {
        kernels = kernels_at(i);
        if (!kernels->is_supported())
            continue;
        apply(expected);
        change_mode();
        apply(found);
        const int is_changed = memcmp(found, expected, sizeof expected) != 0;
        const float_mode before = enter_default_mode();
        apply(found);
        leave_default_mode(before);
        const int is_restored = mode_is_changed() && apply_as_job(found_by_job);
        fesetenv(&default_mode);
        const int is_same = memcmp(found, expected, sizeof expected) == 0;
        const int is_same_job = memcmp(found_by_job, expected, sizeof expected) == 0;
        printf("%s %s %s %s\n", kernels->isa, is_changed ? "changed" : "unchanged",
               is_same && is_same_job ? "same"
               : is_same              ? "different-as-job"
                                      : "different",
               is_restored && !mode_is_changed() ? "restored" : "lost");
    }
    return 0;
}
