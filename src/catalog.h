/* The lists: instruction sets, dtypes, operations, and the table type that joins them. */
#ifndef CDROPOUT_CATALOG_H
#define CDROPOUT_CATALOG_H

#include <stddef.h>
#include <stdint.h>

#include "stream.h"

/* A dtype is one row here and its verbs in each isa file. */
#define CDROPOUT_DTYPES(X) \
    X(f32)                 \
    X(f64)                 \
    X(f16)                 \
    X(bf16)

enum {
#define X(dtype) DTYPE_##dtype,
    CDROPOUT_DTYPES(X)
#undef X
        N_DTYPES
};

/* What an operation does around the mask, in this order:
 *
 *   out = blend(keep, relu(x + bias) * scale + shift, fill) + residual        fill is 0 unless there is one
 *
 * or, with a choice, out = blend(keep, x, residual). */
enum {
    WITH_BIAS = 1,
    WITH_RELU = 2,
    WITH_RESIDUAL = 4,
    WITHOUT_X = 8, /* x is 1 everywhere and is not read */
    WITH_FILL = 16,
    WITH_CHOICE = 32,
};

/* An operation is one row: its name and its parts. */
#define CDROPOUT_OPERATIONS(X)                     \
    X(apply_mask, 0)                               \
    X(fill_scaled, WITHOUT_X)                      \
    X(relu_dropout, WITH_RELU)                     \
    X(bias_relu_dropout, WITH_BIAS | WITH_RELU)    \
    X(dropout_add, WITH_RESIDUAL)                  \
    X(bias_dropout_add, WITH_BIAS | WITH_RESIDUAL) \
    X(alpha_dropout, WITH_FILL)                    \
    X(choose, WITH_CHOICE)

enum {
#define X(operation, parts) OPERATION_##operation,
    CDROPOUT_OPERATIONS(X)
#undef X
        N_OPERATIONS
};

enum { STREAM_ALIGN = 16 };

/* The arrays of an operation, from the first element of its range. Pointers need no alignment; out may be x or
 * residual. Rows of a bias repeat: bias holds bias_period elements, whole copies of a row and at least a group of them,
 * and bias_seam the last group of these and the first, for groups that straddle the end; bias_at is where the range
 * begins in bias. */
typedef struct {
    char *out;
    const char *x;
    const char *residual;
    const char *bias;
    const char *bias_seam;
    size_t bias_period;
    size_t bias_at;
    size_t n_repeats;
    double scale;
    double shift;
    double fill;
} operands;

static inline operands operands_at(const operands *ops, size_t i, size_t elem_bytes)
{
    operands at = *ops;
    at.out += i * elem_bytes;
    at.x += ops->x != NULL ? i * elem_bytes : 0;
    at.residual += ops->residual != NULL ? i * elem_bytes : 0;
    at.bias_at = ops->bias_period != 0 ? (ops->bias_at + i) % ops->bias_period : 0;
    return at;
}

/* Every kernel cannot fail, and returns the name of the instruction set it was compiled for, so that a test can tell
 * which code really ran. A range is the mask positions first .. first + n_elems - 1 of the rule's stream. */

/* An operation on a range, one element of each array a position. */
typedef const char *range_fn(const operands *ops, const mask_rule *rule, uint64_t first, size_t n_elems);
/* apply_mask, or alpha_dropout, where each position covers a run of n_repeats consecutive elements. */
typedef const char *repeat_fn(const operands *ops, const mask_rule *rule, uint64_t first, size_t n_elems);
/* apply_mask, or alpha_dropout, from keep words, bit 0 of the first for the first element: for rows that share one. */
typedef const char *words_fn(const operands *ops, const uint64_t *keep_words, size_t n_elems);
/* out[i] = y[i] > 0 ? dy[i] * scale : 0, with dy in ops->x and y in ops->residual: the gradient of an operation that
 * ends in ReLU and dropout, whose output is positive just where an element was both kept and active. */
typedef const char *positive_fn(const operands *ops, size_t n_elems);
/* out[i] = x[i] * (1 + scale * n(first + i)), or x[i] + scale * n(first + i), with n the stream's normal numbers. */
typedef const char *noise_fn(const operands *ops, const stream_key *key, uint64_t first, size_t n_elems);
/* out[i] = keep(first + i) ? 1 : 0, a byte each. */
typedef const char *fill_keep_fn(uint8_t *out, const mask_rule *rule, uint64_t first, size_t n_elems);
/* Bit i of out is keep(first + i); the last word's other bits are 0. */
typedef const char *fill_words_fn(uint64_t *out, const mask_rule *rule, uint64_t first, size_t n_elems);
/* The generator's own output, RAW_BYTES_PER_BLOCK a block. */
typedef const char *fill_raw_fn(uint8_t *out, const stream_key *key, uint64_t first_block, size_t n_blocks);

/* The kernels of one dtype. */
typedef struct {
    range_fn *operation[N_OPERATIONS];
    repeat_fn *apply_mask_repeat, *alpha_dropout_repeat;
    words_fn *apply_mask_words, *alpha_dropout_words;
    positive_fn *scale_where_positive;
    noise_fn *multiply_by_noise, *add_noise;
} dtype_row;

typedef struct {
    const char *isa;
    int (*is_supported)(void); /* by this processor and its operating system */
    const dtype_row *dtype[N_DTYPES];
    /* The same written past the caches, for arrays that would not fit there. What starts a whole group in out, or a run
     * of n_repeats, must lie on a multiple of STREAM_ALIGN bytes. */
    const dtype_row *streaming_dtype[N_DTYPES];
    fill_keep_fn *fill_keep;
    fill_words_fn *fill_words;
    fill_raw_fn *fill_raw;
} kernel_table;

/* Instruction sets, the best first; each stands for isa/<name>.c. */
#if defined(__x86_64__) && defined(__GNUC__)
#define CDROPOUT_ISAS(X) \
    X(avx512)            \
    X(avx2)              \
    X(sse2)              \
    X(portable)
#elif defined(__aarch64__) && defined(__ARM_NEON) && defined(__GNUC__) && !defined(__AARCH64EB__)
#define CDROPOUT_ISAS(X) \
    X(neon)              \
    X(portable)
#else
#define CDROPOUT_ISAS(X) X(portable)
#endif

#define X(isa) extern const kernel_table kernels_##isa;
CDROPOUT_ISAS(X)
#undef X

/* dispatch.c: the table whose kernels run; NULL until one has been chosen. */
extern const kernel_table *kernels;

/* dispatch.c: the table called `name`, or the best supported one when name is NULL. NULL when there is none of that
 * name, or when this machine cannot run it; *is_known tells the two apart. */
const kernel_table *choose_kernels(const char *name, int *is_known);
/* The i-th table, best first; NULL past the last. */
const kernel_table *kernels_at(size_t i);

#endif
