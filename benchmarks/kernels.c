/* How long do the bare kernels take, without Python, beside a multiplication and beside LIBXSMM?
 *
 * Each row is a median over interleaved rounds, in ns an element of float32, and its ratio to the multiplication. The
 * input has random numbers; p is 0.1; one thread. The first second is not measured: a processor that was idle raises
 * its clock meanwhile, which changes the ratios too. "forward, recorded" and "backward, by record" are what a layer
 * runs where kernels have records (src/core/kernel_table.h); otherwise its backward pass is "forward".
 *
 *     cc -O3 -fno-trapping-math -fno-math-errno -ffp-contract=off -o kernels benchmarks/kernels.c src/core/[djs]*.c \
 *         src/core/isa/[!n]*.c -lm && ./kernels avx2
 *
 * With LIBXSMM (https://github.com/libxsmm/libxsmm, built by `make STATIC=1 FORTRAN=0 BLAS=0 AVX=2` in $LIBXSMM), whose
 * forward pass writes a bit mask that its backward pass reads, add at the end:
 *
 *         -DWITH_LIBXSMM -I$LIBXSMM/include $LIBXSMM/lib/libxsmm.a -ldl -lpthread -lrt
 *
 * and run it as `LIBXSMM_TARGET=hsw ./kernels avx2`: without this variable LIBXSMM generates code for AVX-512 where the
 * processor has it.
 */
#define _GNU_SOURCE
#include "../src/core/job.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#ifdef WITH_LIBXSMM
#include <libxsmm.h>
#endif

enum { N_ROUNDS = 21, ELEMS_IN_A_ROUND = 4000000, ALIGNMENT = 4096, WARM_UP_SECONDS = 1, MIN_STREAMED_ELEMS = 4 << 20 };

static size_t n_elems;
static float *x, *out, *own; /* own is worked on in place */
static uint64_t *record;
static operands arrays, in_place, recorded;
static mask_rule rule;

/* The multiplication, as NumPy's AVX2 loop does it: it never stores past the caches. */
__attribute__((target("avx2"))) static void multiply(void)
{
    typedef float vec __attribute__((vector_size(32)));
    typedef float unaligned_vec __attribute__((vector_size(32), aligned(4)));
    const vec scale = {1.1f, 1.1f, 1.1f, 1.1f, 1.1f, 1.1f, 1.1f, 1.1f};
    for (size_t i = 0; i < n_elems; i += 8)
        *(unaligned_vec *)(void *)(out + i) = *(const unaligned_vec *)(const void *)(x + i) * scale;
}

static void forward(void)
{
    kernels->dtype[DTYPE_f32]->range[OPERATION_apply_mask](&arrays, &rule, 0, n_elems);
}

static void forward_in_place(void)
{
    kernels->dtype[DTYPE_f32]->range[OPERATION_apply_mask](&in_place, &rule, 0, n_elems);
}

static void forward_recorded(void)
{
    kernels->dtype[DTYPE_f32]->range[OPERATION_apply_mask](&recorded, &rule, 0, n_elems);
}

static void backward_by_record(void)
{
    kernels->dtype[DTYPE_f32]->record(&arrays, record, n_elems);
}

#ifdef WITH_LIBXSMM
static libxsmm_meltwfunction_unary their_kernels[2];
static libxsmm_meltw_unary_param their_arrays[2];

static void prepare_theirs(float *p)
{
    const size_t n_rows = n_elems < 65536 ? n_elems : 65536;
    const libxsmm_meltw_unary_shape shape = libxsmm_create_meltw_unary_shape(
        (libxsmm_blasint)n_rows, (libxsmm_blasint)(n_elems / n_rows), (libxsmm_blasint)n_rows, (libxsmm_blasint)n_rows,
        LIBXSMM_DATATYPE_F32, LIBXSMM_DATATYPE_F32, LIBXSMM_DATATYPE_F32);
    const libxsmm_meltw_unary_type types[2] = {LIBXSMM_MELTW_TYPE_UNARY_DROPOUT, LIBXSMM_MELTW_TYPE_UNARY_DROPOUT_INV};
    void *bits = aligned_alloc(ALIGNMENT, n_elems / 8 + ALIGNMENT);
    for (int pass = 0; pass < 2; pass++) {
        their_kernels[pass] =
            libxsmm_dispatch_meltw_unary(types[pass], shape, LIBXSMM_MELTW_FLAG_UNARY_BITMASK_2BYTEMULT);
        their_arrays[pass].op.primary = p;
        their_arrays[pass].in.primary = x;
        their_arrays[pass].out.primary = out;
    }
    their_arrays[0].op.secondary = libxsmm_rng_create_extstate(1);
    their_arrays[0].out.secondary = bits;
    their_arrays[1].in.secondary = bits;
}

static void their_forward(void)
{
    their_kernels[0](&their_arrays[0]);
}

static void their_backward(void)
{
    their_kernels[1](&their_arrays[1]);
}
#endif

static double seconds_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static int compare(const void *a, const void *b)
{
    const double first = *(const double *)a, second = *(const double *)b;
    return (first > second) - (first < second);
}

static const struct {
    const char *name;
    void (*run)(void);
    int needs_records;
} contenders[] = {
    {"multiplication", multiply, 0},
    {"forward", forward, 0},
    {"forward, in place", forward_in_place, 0},
    {"forward, recorded", forward_recorded, 1},
    {"backward, by record", backward_by_record, 1},
#ifdef WITH_LIBXSMM
    {"LIBXSMM, forward", their_forward, 0},
    {"LIBXSMM, backward", their_backward, 0},
#endif
};
enum { N_CONTENDERS = sizeof contenders / sizeof *contenders };

static void measure(float p)
{
    double times[N_CONTENDERS][N_ROUNDS] = {{0}};
    const size_t n_calls = n_elems < ELEMS_IN_A_ROUND ? ELEMS_IN_A_ROUND / n_elems : 1;
    const size_t n_bytes = n_elems * sizeof(float);
    x = aligned_alloc(ALIGNMENT, n_bytes + ALIGNMENT);
    out = aligned_alloc(ALIGNMENT, n_bytes + ALIGNMENT);
    own = aligned_alloc(ALIGNMENT, n_bytes + ALIGNMENT);
    record = aligned_alloc(ALIGNMENT, n_elems / 8 + ALIGNMENT);
    for (size_t i = 0; i < n_elems; i++)
        x[i] = (float)rand() / (float)RAND_MAX - 0.5f;
    memcpy(out, x, n_bytes);
    arrays = (operands){.out = (char *)out, .x = (const char *)x, .n_repeats = 1, .scale = 1 / (1 - (double)p)};
    recorded = in_place = arrays;
    arrays.is_streamed = n_elems >= MIN_STREAMED_ELEMS;
    recorded.record = record;
    in_place.out = (char *)own;
    in_place.x = (const char *)own;
    in_place.scale = 1.0; /* many calls would overflow */
#ifdef WITH_LIBXSMM
    prepare_theirs(&p);
#endif
    for (const double end = seconds_now() + WARM_UP_SECONDS; seconds_now() < end;)
        multiply();
    for (int round = 0; round < N_ROUNDS; round++)
        for (int c = 0; c < N_CONTENDERS; c++) {
            if (contenders[c].needs_records && kernels->dtype[DTYPE_f32]->record == NULL)
                continue;
            memcpy(own, x, n_bytes);
            contenders[c].run();
            const double start = seconds_now();
            for (size_t call = 0; call < n_calls; call++)
                contenders[c].run();
            times[c][round] = (seconds_now() - start) / (double)n_calls / (double)n_elems * 1e9;
        }
    printf("%zu elements\n", n_elems);
    for (int c = 0; c < N_CONTENDERS; c++) {
        qsort(times[c], N_ROUNDS, sizeof times[c][0], compare);
        if (times[c][0] > 0)
            printf("  %-20s %.4f ns  %.2f\n", contenders[c].name, times[c][N_ROUNDS / 2],
                   times[c][N_ROUNDS / 2] / times[0][N_ROUNDS / 2]);
    }
    free(x), free(out), free(own), free(record);
}

int main(int n_arguments, char **arguments)
{
    static const size_t sizes[] = {4096, 65536, 1 << 20, 1 << 24};
    const float p = 0.1f;
    int is_known;
    kernels = choose_kernels(n_arguments > 1 ? arguments[1] : NULL, &is_known);
    if (kernels == NULL) {
        fprintf(stderr, "the argument must be an instruction set of this machine\n");
        return 2;
    }
    printf("%s\n", kernels->isa);
    rule.key.word[0] = 1;
    set_threshold(&rule, p);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        n_elems = sizes[i];
        measure(p);
    }
    return 0;
}
