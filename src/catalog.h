/* The lists: instruction sets, dtypes, operations, and the table type that joins them. */
#ifndef CDROPOUT_CATALOG_H
#define CDROPOUT_CATALOG_H

#include <stddef.h>
#include <stdint.h>

#include "stream.h"

/* A dtype is one row here and its verbs in each isa file. */
#define CDROPOUT_DTYPES(X) \
    X(f32)                 \
    X(f64)

enum {
#define X(dtype) DTYPE_##dtype,
    CDROPOUT_DTYPES(X)
#undef X
        N_DTYPES
};

/* Every kernel takes mask positions first .. first + n_elems - 1 of the rule's stream and cannot fail. Pointers need no
 * alignment; out may be x. Each returns the name of the instruction set it was compiled for, so that a test can tell
 * which code really ran. */

/* out[i] = keep(first + i) ? x[i] * scale : +0.0 */
typedef const char *apply_mask_fn(void *out, const void *x, const mask_rule *rule, uint64_t first, size_t n_elems,
                                  double scale);
/* The same where each mask position covers a run of n_repeats consecutive elements. */
typedef const char *apply_mask_repeat_fn(void *out, const void *x, const mask_rule *rule, uint64_t first,
                                         size_t n_elems, size_t n_repeats, double scale);
/* out[i] = keep(first + i) ? scale : +0.0 */
typedef const char *fill_scaled_fn(void *out, const mask_rule *rule, uint64_t first, size_t n_elems, double scale);
/* out[i] = keep(first + i) ? 1 : 0, a byte each */
typedef const char *fill_keep_fn(uint8_t *out, const mask_rule *rule, uint64_t first, size_t n_elems);
/* The generator's own output, RAW_BYTES_PER_BLOCK a block. */
typedef const char *fill_raw_fn(uint8_t *out, const stream_key *key, uint64_t first_block, size_t n_blocks);

typedef struct {
    const char *isa;
    int (*is_supported)(void); /* by this processor and its operating system */
    struct {
        apply_mask_fn *apply_mask;
        apply_mask_repeat_fn *apply_mask_repeat;
        fill_scaled_fn *fill_scaled;
    } dtype[N_DTYPES];
    fill_keep_fn *fill_keep;
    fill_raw_fn *fill_raw;
} kernel_table;

/* Instruction sets, the best first; each stands for isa/<name>.c. */
#if defined(__x86_64__) && defined(__GNUC__)
#define CDROPOUT_ISAS(X) \
    X(avx512)            \
    X(avx2)              \
    X(portable)
#else
#define CDROPOUT_ISAS(X) X(portable)
#endif

#define X(isa) extern const kernel_table kernels_##isa;
CDROPOUT_ISAS(X)
#undef X

/* dispatch.c: the table called `name`, or the best supported one when name is NULL. NULL when there is none of that
 * name, or when this machine cannot run it; *is_known tells the two apart. */
const kernel_table *choose_kernels(const char *name, int *is_known);
/* The i-th table, best first; NULL past the last. */
const kernel_table *kernels_at(size_t i);

#endif
