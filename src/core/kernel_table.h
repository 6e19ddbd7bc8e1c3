/* The catalog: instruction sets, dtypes and operations, one row each, and the table of kernels that joins them. Cython,
 * the C interface and Python read names, numbers and properties from here. */
#ifndef CDROPOUT_KERNEL_TABLE_H
#define CDROPOUT_KERNEL_TABLE_H

#include <stddef.h>
#include <stdint.h>

#include "stream.h"

/* ---- dtypes ----------------------------------------------------------------------------------------------------
 * Columns: name; bytes of an element; bits that the scale's significand is rounded to, 0 where it is used as it is (for
 * the 16-bit types 24 less their own bits, so that the product with any element is exact in float32); NumPy's name, or
 * that of ml_dtypes. A row's place is its number in the C interface and never changes. */
#define CDROPOUT_DTYPES(X)   \
    X(f32, 4, 0, "float32")  \
    X(f64, 8, 0, "float64")  \
    X(f16, 2, 13, "float16") \
    X(bf16, 2, 16, "bfloat16")

enum {
#define X(name, n_bytes, scale_bits, numpy_name) DTYPE_##name,
    CDROPOUT_DTYPES(X)
#undef X
        N_DTYPES
};

enum {
#define X(name, n_bytes, scale_bits, numpy_name) BYTES_OF_##name = n_bytes,
    CDROPOUT_DTYPES(X)
#undef X
};

typedef struct {
    const char *name;
    size_t n_bytes;
    int scale_bits;
    const char *numpy_name;
} dtype_properties;

extern const dtype_properties dtype_table[N_DTYPES];

/* ---- operations ------------------------------------------------------------------------------------------------
 * What an operation computes, from its parts, in this order:
 *
 *   out = blend(keep, relu(x + bias) * scale + shift, fill) + residual        shift and fill only WITH_FILL, else 0
 *   out = blend(keep, x, residual)                                            WITH_CHOICE: bits are copied
 *   out = residual > 0 ? x * scale : 0                                        WITH_GRADIENT: no mask; x is dy
 *   out = x + n * scale  or  x * (1 + n * scale)                              WITH_NOISE: no mask; AS_FACTOR */
enum {
    WITH_BIAS = 1,
    WITH_RELU = 2,
    WITH_RESIDUAL = 4,
    WITHOUT_X = 8, /* x is 1 everywhere and is not read */
    WITH_FILL = 16,
    WITH_CHOICE = 32,
    WITH_GRADIENT = 64,
    WITH_NOISE = 128,
    AS_FACTOR = 256,
    /* which operations read the array `residual`, and which need no mask */
    READS_RESIDUAL = WITH_RESIDUAL | WITH_CHOICE | WITH_GRADIENT,
    WITHOUT_MASK = WITH_GRADIENT | WITH_NOISE,
};

/* Columns: name; number in the C interface, which is the row's place and never changes; parts. */
#define CDROPOUT_OPERATIONS(X)                        \
    X(apply_mask, 0, 0)                               \
    X(fill_scaled, 1, WITHOUT_X)                      \
    X(relu_dropout, 2, WITH_RELU)                     \
    X(bias_relu_dropout, 3, WITH_BIAS | WITH_RELU)    \
    X(dropout_add, 4, WITH_RESIDUAL)                  \
    X(bias_dropout_add, 5, WITH_BIAS | WITH_RESIDUAL) \
    X(choose, 6, WITH_CHOICE)                         \
    X(relu_dropout_backward, 7, WITH_GRADIENT)        \
    X(alpha_dropout, 8, WITH_FILL)                    \
    X(multiply_by_noise, 9, WITH_NOISE | AS_FACTOR)   \
    X(add_noise, 10, WITH_NOISE)

enum {
#define X(name, number, parts) OPERATION_##name,
    CDROPOUT_OPERATIONS(X)
#undef X
        N_OPERATIONS
};

#define X(name, number, parts) \
    _Static_assert((int)OPERATION_##name == (number), "the number of " #name " must be the place of its row");
CDROPOUT_OPERATIONS(X)
#undef X

typedef struct {
    const char *name;
    int parts;
} operation_properties;

extern const operation_properties operation_table[N_OPERATIONS];

/* ---- kernels --------------------------------------------------------------------------------------------------- */

enum {
    STREAM_ALIGN = 16, /* bytes, of what streaming stores write to */
    MIN_REPEATS = 16,  /* elements of a run that a repeat kernel takes: at least one vector of every instruction set */
};

/* The arrays of an operation, from the first element of its range. Pointers need no alignment; out may be x or
 * residual. The bias repeats every bias_period elements: one copy of it, or several where it is shorter than a group.
 * bias_seam holds the last group of a period followed by the first, for groups that cross the end; bias_at is the index
 * in bias of the range's first element. Where is_streamed, stores go past the caches: what starts a whole group in out,
 * or a run of n_repeats, must then lie on a multiple of STREAM_ALIGN bytes. */
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
    int is_streamed;
} operands;

/* The same arrays from element i on. */
static inline operands operands_at(const operands *ops, size_t i, size_t elem_bytes)
{
    operands at = *ops;
    at.out += i * elem_bytes;
    if (ops->x != NULL)
        at.x += i * elem_bytes;
    if (ops->residual != NULL)
        at.residual += i * elem_bytes;
    at.bias_at = ops->bias_period != 0 ? (ops->bias_at + i) % ops->bias_period : 0;
    return at;
}

/* Kernels cannot fail. Each returns the name of the instruction set it was compiled for, so that a test can tell which
 * code really ran. A range is the mask positions first .. first + n_elems - 1 of the rule's stream. */

/* An operation on a range, one element of each array a position. */
typedef const char *range_fn(const operands *ops, const mask_rule *rule, uint64_t first, size_t n_elems);
/* apply_mask or alpha_dropout where each position covers a run of ops->n_repeats elements, MIN_REPEATS or more. */
typedef const char *repeat_fn(const operands *ops, const mask_rule *rule, uint64_t first, size_t n_positions,
                              int operation);
/* An operation with a mask, from keep words: bit 0 of the first word is the first element's. */
typedef const char *words_fn(const operands *ops, const uint64_t *keep_words, size_t n_elems, int operation);
/* out[i] = keep(first + i) ? 1 : 0, a byte each. */
typedef const char *fill_keep_fn(uint8_t *out, const mask_rule *rule, uint64_t first, size_t n_elems);
/* Bit i of out is keep(first + i); the last word's other bits are 0. */
typedef const char *fill_words_fn(uint64_t *out, const mask_rule *rule, uint64_t first, size_t n_elems);
/* The generator's output, RAW_BYTES_PER_BLOCK a block. */
typedef const char *fill_raw_fn(uint8_t *out, const stream_key *key, uint64_t first_block, size_t n_blocks);

/* The kernels of one dtype. */
typedef struct {
    range_fn *range[N_OPERATIONS];
    repeat_fn *repeat;
    words_fn *words;
} dtype_row;

typedef struct {
    const char *isa;
    int (*is_supported)(void); /* by this processor and its operating system */
    const dtype_row *dtype[N_DTYPES];
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
