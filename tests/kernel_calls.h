/* Every kernel called in one way, for the programs that go through all of them: what a call reads and writes, and
 * where. */
#ifndef CDROPOUT_KERNEL_CALLS_H
#define CDROPOUT_KERNEL_CALLS_H

#include "../src/catalog.h"
#include "../src/parameters.h"

/* The operations come first, under their own numbers. */
enum {
    APPLY_MASK_REPEAT = N_OPERATIONS,
    ALPHA_DROPOUT_REPEAT,
    APPLY_MASK_WORDS,
    ALPHA_DROPOUT_WORDS,
    SCALE_WHERE_POSITIVE,
    MULTIPLY_BY_NOISE,
    ADD_NOISE,
    FILL_KEEP, /* from here on, kernels without a dtype */
    FILL_WORDS,
    FILL_RAW,
    N_KERNELS
};

enum { READS_X = 1, READS_RESIDUAL = 2, READS_BIAS = 4, READS_WORDS = 8 };

static const char *const kernel_names[N_KERNELS] = {
#define X(operation, parts) [OPERATION_##operation] = #operation,
    CDROPOUT_OPERATIONS(X)
#undef X
        [APPLY_MASK_REPEAT] = "apply_mask_repeat",
    [ALPHA_DROPOUT_REPEAT] = "alpha_dropout_repeat",
    [APPLY_MASK_WORDS] = "apply_mask_words",
    [ALPHA_DROPOUT_WORDS] = "alpha_dropout_words",
    [SCALE_WHERE_POSITIVE] = "scale_where_positive",
    [MULTIPLY_BY_NOISE] = "multiply_by_noise",
    [ADD_NOISE] = "add_noise",
    [FILL_KEEP] = "fill_keep",
    [FILL_WORDS] = "fill_words",
    [FILL_RAW] = "fill_raw",
};

static const char *const dtype_names[N_DTYPES] = {
#define X(dtype) [DTYPE_##dtype] = #dtype,
    CDROPOUT_DTYPES(X)
#undef X
};

/* n_positions is what the kernel is told, n_repeats elements each: blocks for FILL_RAW. */
typedef struct {
    int kernel;
    int dtype;
    uint64_t first;
    size_t n_positions;
    size_t n_repeats;
    size_t n_bias;
    size_t bias_at;
    mask_rule rule;
    double scale;
    double shift;
    double fill;
} kernel_call;

/* Where a call's arrays are; those that it does not read may be NULL. */
typedef struct {
    char *out;
    const char *x;
    const char *residual;
    const char *bias;
    char *room;
    const uint64_t *words;
} places;

static int what_is_read(int kernel)
{
    static const int parts[N_OPERATIONS] = {
#define X(operation, parts) [OPERATION_##operation] = (parts),
        CDROPOUT_OPERATIONS(X)
#undef X
    };
    if (kernel >= FILL_KEEP)
        return 0;
    if (kernel == SCALE_WHERE_POSITIVE)
        return READS_X | READS_RESIDUAL;
    if (kernel == APPLY_MASK_WORDS || kernel == ALPHA_DROPOUT_WORDS)
        return READS_X | READS_WORDS;
    if (kernel >= N_OPERATIONS)
        return READS_X;
    return (parts[kernel] & WITHOUT_X ? 0 : READS_X) | (parts[kernel] & WITH_BIAS ? READS_BIAS : 0) |
           (parts[kernel] & (WITH_RESIDUAL | WITH_CHOICE) ? READS_RESIDUAL : 0);
}

static int repeats(int kernel)
{
    return kernel == APPLY_MASK_REPEAT || kernel == ALPHA_DROPOUT_REPEAT;
}

static size_t words_for(size_t n_elems)
{
    return (n_elems + ELEMS_PER_GROUP - 1) / ELEMS_PER_GROUP;
}

/* Of out, and of each array that is read element by element. */
static size_t bytes_written(const kernel_call *call)
{
    if (call->kernel == FILL_KEEP)
        return call->n_positions;
    if (call->kernel == FILL_WORDS)
        return words_for(call->n_positions) * sizeof(uint64_t);
    if (call->kernel == FILL_RAW)
        return call->n_positions * RAW_BYTES_PER_BLOCK;
    return call->n_positions * call->n_repeats * bytes_of_dtype(call->dtype);
}

/* What lay_bias writes to its room. */
static size_t bytes_of_room(const kernel_call *call)
{
    const size_t n_copies = (ELEMS_PER_GROUP + call->n_bias - 1) / call->n_bias;
    const size_t n_laid = call->n_bias >= ELEMS_PER_GROUP ? ELEMS_PER_GROUP : call->n_bias * n_copies;
    return (n_laid + ELEMS_PER_GROUP) * bytes_of_dtype(call->dtype);
}

/* Whether the streaming kernels may be called with this out. */
static int streams(const kernel_call *call, const char *out)
{
    const int has_groups = call->kernel < N_OPERATIONS || call->kernel >= MULTIPLY_BY_NOISE;
    const size_t n_to_group = has_groups ? -call->first % ELEMS_PER_GROUP : 0;
    return call->kernel < FILL_KEEP && may_stream(out, n_to_group, call->n_repeats, bytes_of_dtype(call->dtype));
}

static void run_call(const kernel_table *table, int is_streaming, const kernel_call *call, const places *at)
{
    const dtype_row *row = (is_streaming ? table->streaming_dtype : table->dtype)[call->dtype];
    operands arrays = {.out = at->out,
                       .x = at->x,
                       .residual = at->residual,
                       .n_repeats = call->n_repeats,
                       .scale = call->scale,
                       .shift = call->shift,
                       .fill = call->fill};
    if (what_is_read(call->kernel) & READS_BIAS) {
        lay_bias(&arrays, at->room, at->bias, call->n_bias, bytes_of_dtype(call->dtype));
        arrays.bias_at = call->bias_at % arrays.bias_period;
    }
    const mask_rule *rule = &call->rule;
    switch (call->kernel) {
    case APPLY_MASK_REPEAT:
        row->apply_mask_repeat(&arrays, rule, call->first, call->n_positions);
        break;
    case ALPHA_DROPOUT_REPEAT:
        row->alpha_dropout_repeat(&arrays, rule, call->first, call->n_positions);
        break;
    case APPLY_MASK_WORDS:
        row->apply_mask_words(&arrays, at->words, call->n_positions);
        break;
    case ALPHA_DROPOUT_WORDS:
        row->alpha_dropout_words(&arrays, at->words, call->n_positions);
        break;
    case SCALE_WHERE_POSITIVE:
        row->scale_where_positive(&arrays, call->n_positions);
        break;
    case MULTIPLY_BY_NOISE:
        row->multiply_by_noise(&arrays, &rule->key, call->first, call->n_positions);
        break;
    case ADD_NOISE:
        row->add_noise(&arrays, &rule->key, call->first, call->n_positions);
        break;
    case FILL_KEEP:
        table->fill_keep((uint8_t *)at->out, rule, call->first, call->n_positions);
        break;
    case FILL_WORDS:
        table->fill_words((uint64_t *)(void *)at->out, rule, call->first, call->n_positions);
        break;
    case FILL_RAW:
        table->fill_raw((uint8_t *)at->out, &rule->key, call->first / ELEMS_PER_BLOCK, call->n_positions);
        break;
    default:
        row->operation[call->kernel](&arrays, rule, call->first, call->n_positions);
    }
}

#endif
