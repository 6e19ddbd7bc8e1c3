/* Reads cases as tests/frozen_cases.py writes them, a line each, runs each on every instruction set that this processor
 * has, and prints the results: a line with the instruction set and a number of bytes, then so many bytes, each element
 * lowest byte first. tests/test_cross_compiled.py hashes them. Plain C, without Python. */
#include "../src/catalog.h"
#include "../src/parameters.h"

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

/* A dtype's layout, as IEEE 754 has it: sign, exponent, fraction. */
typedef struct {
    const char *name;
    size_t n_bytes;
    int fraction_bits;
    uint64_t exponent_bias;
} dtype_layout;

static const dtype_layout layouts[N_DTYPES] = {
    [DTYPE_f32] = {"float32", 4, 23, 127},
    [DTYPE_f64] = {"float64", 8, 52, 1023},
    [DTYPE_f16] = {"float16", 2, 10, 15},
    [DTYPE_bf16] = {"bfloat16", 2, 7, 127},
};

/* A line of the input. */
typedef struct {
    char operation[32], dtype[16];
    mask_rule rule;
    uint64_t first;
    double scale, shift, fill;
    size_t n_rows, n_sharing, n_elems, n_repeats, n_columns;
} frozen_case;

static char x[MAX_ELEMS * MAX_ELEM_BYTES], residual[sizeof x], out[sizeof x];
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
        if (strcmp(layouts[dtype].name, c->dtype) == 0)
            return dtype;
    return -1;
}

/* The rows that tests/frozen_cases.py calls numbers(): element i of n_elems is number i mod period. */
static void set_numbers(char *array, int dtype, size_t n_elems, size_t period, uint64_t salt)
{
    const dtype_layout layout = layouts[dtype];
    for (size_t at = 0; at < n_elems; at++) {
        const uint64_t i = at % period;
        uint64_t h = (i * 8 + salt) * 0x9E3779B97F4A7C15u;
        h ^= h >> 29;
        const uint64_t fraction = i % 67 == 0 ? 0 : h >> 8 & (((uint64_t)1 << layout.fraction_bits) - 1);
        const uint64_t exponent = i % 61 == 0 ? 0 : layout.exponent_bias - 8 + (h >> 60);
        const uint64_t bits = (h & 1) << (8 * layout.n_bytes - 1) | exponent << layout.fraction_bits | fraction;
        const uint32_t bits32 = (uint32_t)bits;
        const uint16_t bits16 = (uint16_t)bits;
        const void *elem = layout.n_bytes == 8   ? (const void *)&bits
                           : layout.n_bytes == 4 ? (const void *)&bits32
                                                 : &bits16;
        memcpy(array + at * layout.n_bytes, elem, layout.n_bytes);
    }
}

/* A row of one run of positions, or all the rows where each has positions of its own. */
static int run_operation(const dtype_row *row, const frozen_case *c, const operands *at, uint64_t first, size_t n_elems)
{
    static const char *const names[] = {
#define X(operation, parts) [OPERATION_##operation] = #operation,
        CDROPOUT_OPERATIONS(X)
#undef X
    };
    if (strcmp(c->operation, "add_noise") == 0)
        return row->add_noise(at, &c->rule.key, first, n_elems) != NULL;
    if (strcmp(c->operation, "multiply_by_noise") == 0)
        return row->multiply_by_noise(at, &c->rule.key, first, n_elems) != NULL;
    for (int operation = 0; operation < N_OPERATIONS; operation++)
        if (strcmp(names[operation], c->operation) == 0)
            return row->operation[operation](at, &c->rule, first, n_elems) != NULL;
    return 0;
}

static int run_array(const kernel_table *kernels, int dtype, const frozen_case *c)
{
    const dtype_row *row = kernels->dtype[dtype];
    const size_t elem_bytes = layouts[dtype].n_bytes;
    const int is_alpha = strcmp(c->operation, "alpha_dropout") == 0;
    operands whole = {.out = out,
                      .x = x,
                      .residual = residual,
                      .n_repeats = c->n_repeats,
                      .scale = c->scale,
                      .shift = c->shift,
                      .fill = c->fill};
    if (c->n_columns > 0)
        lay_bias(&whole, bias_room, bias, c->n_columns, elem_bytes);
    for (size_t r = 0; r < c->n_rows; r++) {
        const operands at = operands_at(&whole, r * c->n_elems * c->n_repeats, elem_bytes);
        const uint64_t first = c->first + r / c->n_sharing * c->n_elems;
        if (c->n_repeats > 1) {
            (is_alpha ? row->alpha_dropout_repeat : row->apply_mask_repeat)(&at, &c->rule, first, c->n_elems);
        } else if (c->n_sharing > 1) {
            kernels->fill_words(words, &c->rule, first, c->n_elems);
            (is_alpha ? row->alpha_dropout_words : row->apply_mask_words)(&at, words, c->n_elems);
        } else if (!run_operation(row, c, &at, first, c->n_elems)) {
            return 0;
        }
    }
    return 1;
}

/* How many elements the case gives, of *elem_bytes bytes; 0 for a case that this program does not know. */
static size_t run(const kernel_table *kernels, const frozen_case *c, size_t *elem_bytes)
{
    const size_t n_elems = c->n_rows * c->n_elems * c->n_repeats;
    const int dtype = dtype_of(c);
    *elem_bytes = 1;
    memset(out, 0xA5, sizeof out);
    if (strcmp(c->operation, "raw") == 0) {
        kernels->fill_raw((uint8_t *)out, &c->rule.key, c->first / ELEMS_PER_BLOCK, N_RAW_BLOCKS);
        return N_RAW_BLOCKS * RAW_BYTES_PER_BLOCK;
    }
    if (n_elems > MAX_ELEMS)
        return 0;
    if (strcmp(c->operation, "keep") == 0) {
        kernels->fill_keep((uint8_t *)out, &c->rule, c->first, n_elems);
        return n_elems;
    }
    if (dtype < 0)
        return 0;
    *elem_bytes = layouts[dtype].n_bytes;
    return run_array(kernels, dtype, c) ? n_elems : 0;
}

static void print_elements(const char *elements, size_t n_elems, size_t elem_bytes)
{
    const uint16_t one = 1;
    uint8_t lowest;
    memcpy(&lowest, &one, 1);
    for (size_t i = 0; i < n_elems * elem_bytes; i++)
        putchar((uint8_t)elements[lowest ? i : i / elem_bytes * elem_bytes + (elem_bytes - 1 - i % elem_bytes)]);
}

int main(void)
{
    frozen_case c;
    while (read_case(&c)) {
        const int dtype = dtype_of(&c);
        if (dtype >= 0) {
            set_numbers(x, dtype, MAX_ELEMS, MAX_ELEMS, 1);
            set_numbers(residual, dtype, MAX_ELEMS, MAX_ELEMS, 2);
            set_numbers(bias, dtype, MAX_COLUMNS, MAX_COLUMNS, 3);
        }
        for (size_t t = 0; kernels_at(t) != NULL; t++) {
            size_t elem_bytes;
            if (!kernels_at(t)->is_supported())
                continue;
            const size_t n_elems = run(kernels_at(t), &c, &elem_bytes);
            if (n_elems == 0)
                return 1;
            printf("%s %zu\n", kernels_at(t)->isa, n_elems * elem_bytes);
            print_elements(out, n_elems, elem_bytes);
        }
    }
    return !feof(stdin);
}
