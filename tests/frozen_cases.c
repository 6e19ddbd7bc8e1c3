/* Computes the cases that tests/frozen_cases.py writes to standard input, a line each, on every instruction set that
 * this processor supports: with kernels, and as a job, which must have the same result. Prints for each a line with the
 * instruction set and the number of bytes, then the bytes in little-endian order. tests/test_cross_compiled.py compares
 * their hashes with the frozen ones. Plain C without Python. */
#include "kernel_calls.h"

#include "../src/core/job.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
    MAX_ELEMS = 16384,
    MAX_ELEM_BYTES = 8,
    MAX_COLUMNS = 4096, /* of a bias */
    N_RAW_BLOCKS = 2,
};

/* The format of a dtype by IEEE 754: sign, exponent, fraction. */
typedef struct {
    int fraction_bits;
    uint64_t exponent_bias;
} dtype_format;

static const dtype_format formats[N_DTYPES] = {
    [DTYPE_f32] = {23, 127},
    [DTYPE_f64] = {52, 1023},
    [DTYPE_f16] = {10, 15},
    [DTYPE_bf16] = {7, 127},
};

/* A line of the input. */
typedef struct {
    char operation[32], dtype[16];
    mask_rule rule;
    uint64_t first;
    double scale, shift, fill;
    size_t n_rows, n_sharing, n_elems, n_repeats, n_columns;
} frozen_case;

static char x[MAX_ELEMS * MAX_ELEM_BYTES], residual[sizeof x], out[sizeof x], out_of_job[sizeof x];
static char bias[MAX_COLUMNS * MAX_ELEM_BYTES], bias_room[BIAS_ROOM_BYTES];
static uint64_t words[MAX_ELEMS / 64 + 1];

static int read_case(frozen_case *c)
{
    return scanf("%31s %15s %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNd32 " %" SCNu64
                 " %la %la %la %zu %zu %zu %zu %zu",
                 c->operation, c->dtype, &c->rule.key.word[1], &c->rule.key.word[0], &c->first, &c->rule.threshold,
                 &c->rule.tie_threshold, &c->scale, &c->shift, &c->fill, &c->n_rows, &c->n_sharing, &c->n_elems,
                 &c->n_repeats, &c->n_columns) == 15;
}

static int dtype_of(const frozen_case *c)
{
    for (int dtype = 0; dtype < N_DTYPES; dtype++)
        if (strcmp(dtype_table[dtype].numpy_name, c->dtype) == 0)
            return dtype;
    return -1;
}

/* -1 for "keep" and "raw", which are not operations. */
static int operation_of_case(const frozen_case *c)
{
    for (int operation = 0; operation < N_OPERATIONS; operation++)
        if (strcmp(operation_table[operation].name, c->operation) == 0)
            return operation;
    return -1;
}

/* Sets element i to number i % period of numbers() in tests/frozen_cases.py. */
static void set_numbers(char *array, int dtype, size_t n_elems, size_t period, uint64_t salt)
{
    const dtype_format format = formats[dtype];
    const size_t n_bytes = dtype_table[dtype].n_bytes;
    for (size_t at = 0; at < n_elems; at++) {
        const uint64_t i = at % period;
        uint64_t h = (i * 8 + salt) * 0x9E3779B97F4A7C15u;
        h ^= h >> 29;
        const uint64_t fraction = i % 67 == 0 ? 0 : h >> 8 & (((uint64_t)1 << format.fraction_bits) - 1);
        const uint64_t exponent = i % 61 == 0 ? 0 : format.exponent_bias - 8 + (h >> 60);
        const uint64_t bits = (h & 1) << (8 * n_bytes - 1) | exponent << format.fraction_bits | fraction;
        store_bits(array + at * n_bytes, bits, n_bytes);
    }
}

/* ---- with kernels ---- */

/* Row by row, with the kind of kernel that fits the case. */
static void run_kernels(const kernel_table *table, int operation, int dtype, const frozen_case *c)
{
    const size_t row_bytes = c->n_elems * c->n_repeats * dtype_table[dtype].n_bytes;
    kernel_call call = {.kernel = operation,
                        .dtype = dtype,
                        .n_positions = c->n_elems,
                        .n_repeats = c->n_repeats,
                        .n_bias = c->n_columns,
                        .rule = c->rule,
                        .scale = c->scale,
                        .shift = c->shift,
                        .fill = c->fill};
    if (c->n_repeats > 1)
        call.kernel += REPEAT;
    else if (c->n_sharing > 1)
        call.kernel += WORDS;
    for (size_t r = 0; r < c->n_rows; r++) {
        const call_arrays at = {.out = out + r * row_bytes,
                                .x = x + r * row_bytes,
                                .residual = residual + r * row_bytes,
                                .bias = bias,
                                .room = bias_room,
                                .words = words};
        call.first = c->first + r / c->n_sharing * c->n_elems;
        call.bias_at = r * c->n_elems;
        if (reads_words(call.kernel))
            table->fill_words(words, &c->rule, call.first, c->n_elems);
        run_call(table, 0, &call, &at);
    }
}

/* ---- as a job ---- */

/* The p that gives these thresholds. */
static double p_of(const mask_rule *rule)
{
    return ldexp((double)(((uint64_t)(rule->threshold + 32768) << 32) + rule->tie_threshold), -48);
}

/* Runs the case as a job, in 1 to 5 ranges. Returns 0 if the job is refused. */
static int run_job(int operation, int dtype, const frozen_case *c)
{
    const size_t lens[] = {c->n_rows / c->n_sharing, c->n_sharing, c->n_elems, c->n_repeats};
    const uint64_t strides[] = {c->n_elems, 0, 1, 0};
    const int steps = steps_of_operation(operation);
    const job_request request = {.operation = operation,
                                 .dtype = dtype,
                                 .key = c->rule.key,
                                 .first = c->first,
                                 .p = p_of(&c->rule),
                                 .scale = c->scale,
                                 .shift = steps & WITH_FILL ? c->shift : 0.0,
                                 .fill = steps & WITH_FILL ? c->fill : 0.0,
                                 .out = out_of_job,
                                 .x = x,
                                 .residual = residual,
                                 .bias = steps & WITH_BIAS ? bias : NULL,
                                 .n_bias = steps & WITH_BIAS ? c->n_columns : 0,
                                 .n_elems = c->n_rows * c->n_elems * c->n_repeats,
                                 .n_axes = steps & WITHOUT_MASK ? 0 : 4,
                                 .lens = lens,
                                 .strides = strides};
    const size_t n_ranges = 1 + c->first % 5;
    job j;
    if (job_plan(&j, &request) != 0)
        return 0;
    for (size_t i = 0; i < n_ranges; i++)
        job_run(&j, job_cut(&j, i, n_ranges), job_cut(&j, i + 1, n_ranges));
    return 1;
}

/* ---- both ---- */

/* Returns the number of elements of the result, each of *elem_bytes bytes. Returns 0 if this program does not know the
 * case, or the job has another result than the kernels. */
static size_t run(const kernel_table *table, const frozen_case *c, size_t *elem_bytes)
{
    const size_t n_elems = c->n_rows * c->n_elems * c->n_repeats;
    const int dtype = dtype_of(c), operation = operation_of_case(c);
    const int is_keep = strcmp(c->operation, "keep") == 0;
    *elem_bytes = 1;
    memset(out, 0xA5, sizeof out);
    memset(out_of_job, 0xA5, sizeof out_of_job);
    if (strcmp(c->operation, "raw") == 0) {
        table->fill_raw((uint8_t *)out, &c->rule.key, c->first / ELEMS_PER_BLOCK, N_RAW_BLOCKS);
        return N_RAW_BLOCKS * RAW_BYTES_PER_BLOCK;
    }
    const int has_bias = operation >= 0 && steps_of_operation(operation) & WITH_BIAS;
    if (n_elems > MAX_ELEMS || (has_bias && c->n_columns > MAX_COLUMNS) || (!is_keep && (dtype < 0 || operation < 0))) {
        fprintf(stderr, "%s %s is no case for this program\n", c->operation, c->dtype);
        return 0;
    }
    if (is_keep) {
        table->fill_keep((uint8_t *)out, &c->rule, c->first, n_elems);
    } else {
        *elem_bytes = dtype_table[dtype].n_bytes;
        run_kernels(table, operation, dtype, c);
    }
    kernels = table;
    if (!run_job(is_keep ? (int)OPERATION_fill_keep : operation, is_keep ? 0 : dtype, c) ||
        memcmp(out, out_of_job, sizeof out) != 0) {
        fprintf(stderr, "%s: the planner's %s %s is not that of the kernels\n", table->isa, c->operation, c->dtype);
        return 0;
    }
    return n_elems;
}

static void print_elements(const char *elements, size_t n_elems, size_t elem_bytes)
{
    for (size_t i = 0; i < n_elems * elem_bytes; i++)
        putchar(little_endian_byte(elements, i, elem_bytes));
}

int main(void)
{
    frozen_case c;
    if (!is_arithmetic_unchanged())
        return 1;
    while (read_case(&c)) {
        const int dtype = dtype_of(&c);
        if (dtype >= 0) {
            set_numbers(x, dtype, MAX_ELEMS, MAX_ELEMS, 1);
            set_numbers(residual, dtype, MAX_ELEMS, MAX_ELEMS, 2);
            set_numbers(bias, dtype, MAX_COLUMNS, MAX_COLUMNS, 3);
        }
        for (size_t t = 0; supported_at(t) != NULL; t++) {
            size_t elem_bytes;
            const size_t n_elems = run(supported_at(t), &c, &elem_bytes);
            if (n_elems == 0)
                return 1;
            printf("%s %zu\n", supported_at(t)->isa, n_elems * elem_bytes);
            print_elements(out, n_elems, elem_bytes);
        }
    }
    return !feof(stdin);
}
