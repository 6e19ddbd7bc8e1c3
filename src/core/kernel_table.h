/* The catalog: a list of dtypes, one of operations and one of instruction sets, and the types of the kernels (compiled
 * inner loops) that exist for them. Cython and the C interface read names, numbers and properties from these lists.
 * isa/<name>.c compiles the kernels of an instruction set, dispatch.c chooses whose kernels run, and job_run.c calls
 * them. The lists are X macros: CDROPOUT_DTYPES(X) expands to X(...) for each row. */
#ifndef CDROPOUT_KERNEL_TABLE_H
#define CDROPOUT_KERNEL_TABLE_H

#include <float.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "compiler.h"
#include "float_flags.h"
#include "stream.h"

/* ---- dtypes ----------------------------------------------------------------------------------------------------
 * Columns: name; bytes of an element; bits to which the significand of a scale is rounded (0: those of the dtype); name
 * in NumPy or ml_dtypes. The 16-bit types are multiplied in float32, which has 24 bits: a scale of 24 bits less their
 * own makes the product exact. A row's index is its number in the C interface and never changes. */
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
 * The steps of an operation are flags. The first five are for the terms of one formula; keep is the mask's decision:
 *
 *   out = (keep ? relu(x + bias) * scale + shift : fill) + residual
 *
 * A term without its flag is left out; WITH_FILL is for shift and fill. WITHOUT_X replaces relu(x + bias) * scale by
 * scale. The other steps are not combined with these:
 *
 *   WITH_CHOICE              out = keep ? x : residual            copies the bits
 *   WITH_RELU_GRADIENT       out = residual > 0 ? x * scale : 0   has no mask; x is dy, residual is the output y
 *   WITH_NOISE               out = x + n * scale                  has no mask; n are normal numbers
 *   WITH_NOISE | AS_FACTOR   out = x * (1 + n * scale) */
enum {
    WITH_BIAS = 1,
    WITH_RELU = 2,
    WITH_RESIDUAL = 4,
    WITHOUT_X = 8,
    WITH_FILL = 16,
    WITH_CHOICE = 32,
    WITH_RELU_GRADIENT = 64,
    WITH_NOISE = 128,
    AS_FACTOR = 256,
    /* Any of these steps makes an operation read the array `residual`, or do without a mask. */
    READS_RESIDUAL = WITH_RESIDUAL | WITH_CHOICE | WITH_RELU_GRADIENT,
    WITHOUT_MASK = WITH_RELU_GRADIENT | WITH_NOISE,
};

/* Columns: name; number in the C interface, which is the row's index and never changes; steps. */
#define CDROPOUT_OPERATIONS(X)                        \
    X(apply_mask, 0, 0)                               \
    X(fill_scaled, 1, WITHOUT_X)                      \
    X(relu_dropout, 2, WITH_RELU)                     \
    X(bias_relu_dropout, 3, WITH_BIAS | WITH_RELU)    \
    X(dropout_add, 4, WITH_RESIDUAL)                  \
    X(bias_dropout_add, 5, WITH_BIAS | WITH_RESIDUAL) \
    X(choose, 6, WITH_CHOICE)                         \
    X(relu_dropout_backward, 7, WITH_RELU_GRADIENT)   \
    X(alpha_dropout, 8, WITH_FILL)                    \
    X(multiply_by_noise, 9, WITH_NOISE | AS_FACTOR)   \
    X(add_noise, 10, WITH_NOISE)

enum {
#define X(name, number, steps) OPERATION_##name,
    CDROPOUT_OPERATIONS(X)
#undef X
        N_OPERATIONS
};

#define X(name, number, steps) \
    _Static_assert((int)OPERATION_##name == (number), "the number of " #name " must be the index of its row");
CDROPOUT_OPERATIONS(X)
#undef X

typedef struct {
    const char *name;
    int steps;
} operation_properties;

extern const operation_properties operation_table[N_OPERATIONS];

/* ---- kernels ---------------------------------------------------------------------------------------------------
 * Kernels cannot fail. Each returns the name of the instruction set it was compiled for: tests check which code ran. */
enum {
    STREAM_ALIGN = 16, /* bytes: the alignment that streaming stores need */
    MIN_REPEATS = 16,  /* elements to a position that repeat kernels need: a vector of any instruction set */
};

/* What an operation works on: arrays, each from the first element that is to be computed, and numbers. Pointers need no
 * alignment; out may be x or residual. For repeat kernels, n_repeats neighbouring elements take the same position.
 *
 * bias has bias_period elements, a group (64) or more: the caller's bias, or several copies of it if it is shorter. The
 * first element takes bias[bias_at]; after its last element, bias starts again. bias_seam holds the last 64 elements of
 * bias followed by the first 64: a group that crosses the end of bias reads its 64 neighbours there.
 *
 * If is_streamed, stores go past the caches. In out, whole groups, or the n_repeats elements of each position, must
 * then begin on multiples of STREAM_ALIGN bytes. */
typedef struct {
    char *out;
    const char *x;
    const char *residual;
    const char *bias;
    const char *bias_seam;
    size_t bias_period;
    size_t bias_at;
    size_t n_repeats;
    double scale, shift, fill;
    int is_streamed;
    uint64_t *record; /* where apply_mask records its decisions, or NULL */
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
    if (ops->record != NULL)
        at.record += i / ELEMS_PER_GROUP;
    at.bias_at = ops->bias_period != 0 ? (ops->bias_at + i) % ops->bias_period : 0;
    return at;
}

/* Whether kernels may decide by signs (kernels/block_kernels.inc.h). Signs tell ties from other elements only if a
 * number can be below the threshold. Dropped elements, zeros of a masked load, are scaled: they stay +0.0 only if the
 * scale is neither negative nor infinite in float32. Compares bits, in which negative numbers are the largest. */
static inline int has_signs(const mask_rule *rule, double scale)
{
    const double most = FLT_MAX;
    uint64_t scale_bits, most_bits;
    memcpy(&scale_bits, &scale, sizeof scale);
    memcpy(&most_bits, &most, sizeof most);
    return rule->threshold > -32768 && scale_bits <= most_bits;
}

/* An operation on n_elems elements, which take the positions from `first` on of the stream of rule->key. */
typedef const char *range_fn(const operands *ops, const mask_rule *rule, uint64_t first, size_t n_elems);
/* apply_mask or alpha_dropout on n_positions positions with ops->n_repeats elements each, MIN_REPEATS or more: bit
 * i % 64 of keep_words[i / 64] is set where those of position i are kept. */
typedef const char *repeat_fn(const operands *ops, const uint64_t *keep_words, size_t n_positions, int operation);
/* An operation with a mask that is given: bit i % 64 of keep_words[i / 64] is set where element i is kept. */
typedef const char *words_fn(const operands *ops, const uint64_t *keep_words, size_t n_elems, int operation);
/* apply_mask by a record, of n_elems elements, a multiple of 64. A record holds the decisions on whole groups, a word
 * for each, in an order that only the kernels of one instruction set and all their dtypes know. Kernels with this
 * function write one where operands.record is not NULL, and the job's elements are cut at groups. */
typedef const char *record_fn(const operands *ops, const uint64_t *record, size_t n_elems);
/* out[i] = 1 where position first + i is kept, else 0. */
typedef const char *fill_keep_fn(uint8_t *out, const mask_rule *rule, uint64_t first, size_t n_elems);
/* The keep words of n_elems positions; the unused bits of the last word are 0. */
typedef const char *fill_words_fn(uint64_t *out, const mask_rule *rule, uint64_t first, size_t n_elems);
/* The output of the generator, RAW_BYTES_PER_BLOCK for each block. */
typedef const char *fill_raw_fn(uint8_t *out, const stream_key *key, uint64_t first_block, size_t n_blocks);

/* out[i] = 1 where the 48-bit number of position first + i is below p[i], which is in [0, 1]; else 0. With one p for
 * all elements, 1 stands where a mask of that p drops. */
typedef const char *fill_draws_fn(uint8_t *out, const double *p, const stream_key *key, uint64_t first, size_t n_elems);

/* Sets each bit of n_words words where the bit `distance` further was set, in words that may go on behind n_words:
 * reads distance / 64 + 1 words more. */
typedef const char *or_bits_ahead_fn(uint64_t *words, size_t n_words, size_t distance);
/* Inverts all bits of words, and adds to *n_set how many are set then. */
typedef const char *invert_bits_fn(uint64_t *words, size_t n_words, size_t *n_set);
/* Adds to *n_set how many of the first n_bits bits are set. */
typedef const char *count_bits_fn(const uint64_t *words, size_t n_bits, size_t *n_set);

/* Widths of the elements that the select kernels copy: number w stands for 2^w bytes. */
enum { N_WIDTHS = 4 };

/* out = keep ? x : fill, on the bits of elements of one width. The fill values are in the operands of a bias; keep
 * words as in words_fn. If x is NULL, kept elements take the value that stands 64 times in bias_seam behind its 128
 * elements.
 */
typedef const char *select_fn(const operands *ops, const uint64_t *keep_words, size_t n_elems);
/* The same on positions that take their decisions from the stream, three elements of a byte to each. The fills are one
 * value, or three. */
typedef const char *select_tripled_fn(const operands *ops, const mask_rule *rule, uint64_t first, size_t n_positions);

/* What happens to the kept elements of a matrix: its kept rows, or kept columns, or where these cross. */
enum {
    GATHER_KEPT,       /* they are copied to a dense smaller matrix */
    SCATTER_KEPT_ZERO, /* a dense smaller matrix is copied to them, and all other elements become +0.0 */
    SCATTER_KEPT_SET,  /* a dense smaller matrix is copied to them, and the others stay */
    SCATTER_KEPT_ADD,  /* a dense smaller matrix is added to them, and the others stay */
    N_SUBMATRIX_VERBS
};

/* A matrix of n_rows x n_columns and the dense one of its kept elements, both C-contiguous and apart; x is what is
 * read. Bit i % 64 of row_words[i / 64] is set where row i is kept; NULL keeps all. column_words likewise. Elements of
 * the dense matrix are multiplied by scale as they are moved. Scattering reads and writes whole rows of out. */
typedef struct {
    char *out;
    const char *x;
    size_t n_rows, n_columns;
    const uint64_t *row_words, *column_words;
    double scale; /* 1 copies the bits */
    int verb;
    size_t n_kept_columns; /* set by job_plan_submatrix */
} submatrix;

/* The number of set bits. */
static inline unsigned bits_set(uint64_t word)
{
    return (unsigned)__builtin_popcountll(word);
}

/* Rows first_row .. end_row - 1 of the whole matrix. */
typedef const char *submatrix_fn(const submatrix *matrix, size_t first_row, size_t end_row);

/* How a step of an optimizer moves parameters, with `step` for add_first * (grad + l2 * param) and l2 left out at 0:
 *
 *   first = decay_first * first + step             in all of them
 *   UPDATE_MOMENTUM   param += factor * first
 *   UPDATE_NESTEROV   param += step, then param += factor * first
 *   UPDATE_ADAM       second = decay_second * second + add_second * (grad + l2 * param)^2
 *                     param += factor * (first / (sqrt(second) + eps))
 *
 * Each operation is rounded once, in the order of the formula. */
enum { UPDATE_MOMENTUM, UPDATE_NESTEROV, UPDATE_ADAM, N_UPDATE_RULES };

/* Arrays of one dtype, of the same size and apart from each other; second is for UPDATE_ADAM. The numbers are rounded
 * to the dtype before they are used. */
typedef struct {
    char *param;
    const char *grad;
    char *first, *second;
    double l2, decay_first, add_first, decay_second, add_second, eps, factor;
    int rule;
} param_update;

/* Elements begin .. end - 1 of the arrays. */
typedef const char *update_fn(const param_update *update, size_t begin, size_t end);
/* Rows first_row .. end_row - 1 of a matrix, of whose gradient there are the kept elements: grad is the dense matrix of
 * `kept`, of which out and x are not used. With SCATTER_KEPT_ZERO, the gradient is that matrix times kept->scale, and 0
 * elsewhere. With SCATTER_KEPT_SET, only kept elements are updated, and kept->scale is 1; whole rows that have kept
 * elements are read and written. */
typedef const char *update_kept_fn(const param_update *update, const submatrix *kept, size_t first_row, size_t end_row);

/* The kernels of one dtype. */
typedef struct {
    range_fn *range[N_OPERATIONS];
    repeat_fn *repeat;
    words_fn *words;
    record_fn *record; /* NULL where making the decisions again takes hardly longer than reading them */
} dtype_kernels;

typedef struct {
    const char *isa;
    int (*is_supported)(void);               /* by this processor and its operating system */
    const char *(*changed_arithmetic)(void); /* changed_arithmetic_here() of float_check.h */
    const dtype_kernels *dtype[N_DTYPES];
    fill_keep_fn *fill_keep;
    fill_words_fn *fill_words;
    fill_raw_fn *fill_raw;
    fill_draws_fn *fill_draws;
    or_bits_ahead_fn *or_bits_ahead;
    invert_bits_fn *invert_bits;
    count_bits_fn *count_bits;
    select_fn *select[N_WIDTHS];
    range_fn *select_range[N_WIDTHS]; /* as select, with the decisions on the positions from `first` on */
    select_tripled_fn *select_tripled;
    submatrix_fn *submatrix[DTYPE_f64 + 1]; /* float32 and float64 */
    update_fn *update[DTYPE_f64 + 1];
    update_kept_fn *update_kept[DTYPE_f64 + 1];
} kernel_table;

/* ---- instruction sets ------------------------------------------------------------------------------------------
 * The best first. The kernels of each are in isa/<name>.c. A build that would lack those
 * of its processor must ask for that: it would run several times as long, and nothing else would differ. */
#if defined(CDROPOUT_PORTABLE_ONLY)
#define CDROPOUT_ISAS(X) X(portable)
#elif defined(__x86_64__)
#define HAS_X86_KERNELS
#define CDROPOUT_ISAS(X) \
    X(avx512)            \
    X(avx2)              \
    X(sse2)              \
    X(portable)
#elif defined(__aarch64__) && defined(__ARM_NEON) && !defined(__AARCH64EB__)
#define HAS_NEON_KERNELS
#define CDROPOUT_ISAS(X) \
    X(neon)              \
    X(portable)
#elif defined(_M_X64) || defined(_M_ARM64) || defined(__aarch64__) && !defined(__AARCH64EB__)
#error "this build would have no vector kernels: compile for x86-64 or AArch64 with NEON, or set CDROPOUT_PORTABLE=1"
#else
#define CDROPOUT_ISAS(X) X(portable)
#endif

#define X(isa) extern const kernel_table kernels_##isa;
CDROPOUT_ISAS(X)
#undef X

/* The table whose kernels run; NULL until the caller has set it. Defined in dispatch.c, as are the functions. */
extern const kernel_table *kernels;

/* Returns the table of the instruction set `name`, or the best that this machine supports if name is NULL. Returns NULL
 * if there is none of that name (then *is_known is 0) or the machine does not support it (then 1). */
const kernel_table *choose_kernels(const char *name, int *is_known);
/* Returns the compiler flags that have changed floating-point arithmetic in dispatch.c or in the kernels that this
 * machine supports, to complete "cdropout must be compiled without"; NULL if there are none. Call it once, before any
 * kernel. */
const char *changed_arithmetic(void);
/* Returns the i-th table, the best first; NULL after the last. */
const kernel_table *kernels_at(size_t i);

#endif
