/* The functions of cdropout_table.h on the table of kernels that runs: what other people's loops call. Plain C, without
 * Python.h; _kernels.pyx fills in the functions that take Python's objects. */
#include "embedding.h"

#include "parameters.h"
#include "position.h"

_Static_assert(sizeof(cdropout_key) == sizeof(stream_key), "a key is 128 bits");
_Static_assert((int)CDROPOUT_BLOCK == (int)ELEMS_PER_BLOCK, "the interface's blocks are the stream's");
_Static_assert((int)CDROPOUT_RAW_BYTES_PER_BLOCK == (int)RAW_BYTES_PER_BLOCK, "and so are its raw blocks");

static const int dtypes[] = {
    [CDROPOUT_FLOAT32] = DTYPE_f32,
    [CDROPOUT_FLOAT64] = DTYPE_f64,
    [CDROPOUT_FLOAT16] = DTYPE_f16,
    [CDROPOUT_BFLOAT16] = DTYPE_bf16,
};

/* RELU_DROPOUT_BACKWARD has a kernel of another kind and no row. */
static const int operations[] = {
    [CDROPOUT_APPLY_MASK] = OPERATION_apply_mask,
    [CDROPOUT_FILL_SCALED] = OPERATION_fill_scaled,
    [CDROPOUT_RELU_DROPOUT] = OPERATION_relu_dropout,
    [CDROPOUT_BIAS_RELU_DROPOUT] = OPERATION_bias_relu_dropout,
    [CDROPOUT_DROPOUT_ADD] = OPERATION_dropout_add,
    [CDROPOUT_BIAS_DROPOUT_ADD] = OPERATION_bias_dropout_add,
    [CDROPOUT_CHOOSE] = OPERATION_choose,
};

static const int parts_of_operation[] = {
#define X(operation, parts) [OPERATION_##operation] = (parts),
    CDROPOUT_OPERATIONS(X)
#undef X
};

#define LENGTH(array) ((int)(sizeof(array) / sizeof *(array)))

static int is_probability(double p)
{
    return p >= 0.0 && p <= 1.0; /* false for NaN */
}

static int is_std(double std)
{
    return std >= 0.0 && std <= MAX_STD;
}

/* ---- what a call is made of ---- */

static mask_rule rule_of(const cdropout_mask *mask)
{
    mask_rule rule = {.key = {{mask->key.word[0], mask->key.word[1]}}};
    set_threshold(&rule, mask->p);
    return rule;
}

static size_t repeats_of(const cdropout_arrays *arrays)
{
    return arrays->n_repeats > 1 ? arrays->n_repeats : 1;
}

/* The arrays from position `begin` on. */
static operands operands_from(const cdropout_arrays *arrays, size_t begin, int dtype, double scale)
{
    const operands whole = {
        .out = (char *)arrays->out,
        .x = (const char *)arrays->x,
        .residual = (const char *)arrays->residual,
        .n_repeats = repeats_of(arrays),
        .scale = scale,
        .shift = arrays->shift,
        .fill = arrays->fill,
    };
    return operands_at(&whole, begin * whole.n_repeats, bytes_of_dtype(dtype));
}

/* The kernels for what ops writes from position `first` on. */
static const dtype_row *row_for(const cdropout_arrays *arrays, const operands *ops, int dtype, uint64_t first)
{
    const size_t n_to_group = ops->n_repeats == 1 ? (size_t)(-first % ELEMS_PER_GROUP) : 0;
    if (arrays->past_caches && may_stream(ops->out, n_to_group, ops->n_repeats, bytes_of_dtype(dtype)))
        return kernels->streaming_dtype[dtype];
    return kernels->dtype[dtype];
}

static int has_arrays(const cdropout_arrays *arrays, int parts)
{
    const int needs_x = !(parts & WITHOUT_X), needs_residual = parts & (WITH_RESIDUAL | WITH_CHOICE);
    return arrays->out != NULL && (!needs_x || arrays->x != NULL) && (!needs_residual || arrays->residual != NULL) &&
           (!(parts & WITH_BIAS) || (arrays->bias != NULL && arrays->n_bias > 0));
}

/* ---- operations ---- */

static int relu_dropout_backward(int dtype, const cdropout_arrays *arrays, const cdropout_mask *mask, size_t begin,
                                 size_t end)
{
    if (!has_arrays(arrays, WITH_RESIDUAL) || repeats_of(arrays) > 1)
        return -1;
    const operands ops = operands_from(arrays, begin, dtype, scale_in(dtype, mask->scale));
    row_for(arrays, &ops, dtype, 0)->scale_where_positive(&ops, end - begin);
    return 0;
}

/* Mask.apply: the two operations that may have repeats, and a copy where nothing is to be done. */
static int apply_mask(int dtype, const cdropout_arrays *arrays, const cdropout_mask *mask, size_t begin, size_t end)
{
    if (!has_arrays(arrays, 0))
        return -1;
    const operands ops = operands_from(arrays, begin, dtype, scale_in(dtype, mask->scale));
    if (is_zero(mask->p) && mask->scale == 1.0 && is_zero(arrays->shift)) {
        /* Not a multiplication by 1, which would quiet a signalling NaN. */
        if (ops.out != ops.x)
            memcpy(ops.out, ops.x, (end - begin) * ops.n_repeats * bytes_of_dtype(dtype));
        return 0;
    }
    const mask_rule rule = rule_of(mask);
    const uint64_t first = mask->start + begin;
    const dtype_row *row = row_for(arrays, &ops, dtype, first);
    const int has_fill = !is_zero(arrays->fill) || !is_zero(arrays->shift);
    if (ops.n_repeats == 1)
        row->operation[has_fill ? OPERATION_alpha_dropout : OPERATION_apply_mask](&ops, &rule, first, end - begin);
    else
        (has_fill ? row->alpha_dropout_repeat : row->apply_mask_repeat)(&ops, &rule, first, end - begin);
    return 0;
}

static int apply_in_default_mode(int operation, int dtype, const cdropout_arrays *arrays, const cdropout_mask *mask,
                                 size_t begin, size_t end)
{
    if (dtype < 0 || dtype >= LENGTH(dtypes) || !is_probability(mask->p) || begin > end)
        return -1;
    dtype = dtypes[dtype];
    if (operation == CDROPOUT_APPLY_MASK)
        return apply_mask(dtype, arrays, mask, begin, end);
    if (operation == CDROPOUT_RELU_DROPOUT_BACKWARD)
        return relu_dropout_backward(dtype, arrays, mask, begin, end);
    if (operation < 0 || operation >= LENGTH(operations))
        return -1;
    operation = operations[operation];
    const int parts = parts_of_operation[operation];
    if (!has_arrays(arrays, parts) || repeats_of(arrays) > 1)
        return -1;
    operands ops = operands_from(arrays, begin, dtype, scale_in(dtype, mask->scale));
    char bias_room[BIAS_ROOM_BYTES];
    if (parts & WITH_BIAS) {
        lay_bias(&ops, bias_room, (const char *)arrays->bias, arrays->n_bias, bytes_of_dtype(dtype));
        ops.bias_at = begin % ops.bias_period;
    }
    const mask_rule rule = rule_of(mask);
    const uint64_t first = mask->start + begin;
    row_for(arrays, &ops, dtype, first)->operation[operation](&ops, &rule, first, end - begin);
    return 0;
}

static int apply(int operation, int dtype, const cdropout_arrays *arrays, const cdropout_mask *mask, size_t begin,
                 size_t end)
{
    const float_mode before = enter_default_mode();
    const int status = apply_in_default_mode(operation, dtype, arrays, mask, begin, end);
    leave_default_mode(before);
    return status;
}

/* ---- noise ---- */

static int run_noise(int is_factor, int dtype, const cdropout_arrays *arrays, const cdropout_noise *noise, size_t begin,
                     size_t end)
{
    if (dtype < 0 || dtype >= LENGTH(dtypes) || !is_std(noise->std) || begin > end || !has_arrays(arrays, 0) ||
        repeats_of(arrays) > 1)
        return -1;
    dtype = dtypes[dtype];
    const stream_key key = {{noise->key.word[0], noise->key.word[1]}};
    const operands ops = operands_from(arrays, begin, dtype, noise->std);
    const uint64_t first = noise->start + begin;
    const dtype_row *row = row_for(arrays, &ops, dtype, first);
    const float_mode before = enter_default_mode();
    (is_factor ? row->multiply_by_noise : row->add_noise)(&ops, &key, first, end - begin);
    leave_default_mode(before);
    return 0;
}

static int multiply_by_noise(int dtype, const cdropout_arrays *arrays, const cdropout_noise *noise, size_t begin,
                             size_t end)
{
    return run_noise(1, dtype, arrays, noise, begin, end);
}

static int add_noise(int dtype, const cdropout_arrays *arrays, const cdropout_noise *noise, size_t begin, size_t end)
{
    return run_noise(0, dtype, arrays, noise, begin, end);
}

/* ---- decisions and raw output ---- */

static int fill_keep(uint8_t *out, const cdropout_mask *mask, size_t begin, size_t end)
{
    if (out == NULL || !is_probability(mask->p) || begin > end)
        return -1;
    const mask_rule rule = rule_of(mask);
    kernels->fill_keep(out + begin, &rule, mask->start + begin, end - begin);
    return 0;
}

static void fill_raw(uint8_t *out, const cdropout_key *key, uint64_t first_block, size_t n_blocks)
{
    const stream_key words = {{key->word[0], key->word[1]}};
    kernels->fill_raw(out, &words, first_block, n_blocks);
}

/* ---- masks and noise ---- */

static int define_mask(cdropout_mask *mask, const cdropout_key *key, uint64_t start, double p)
{
    if (!is_probability(p))
        return -1;
    *mask = (cdropout_mask){.key = *key, .start = start, .p = p, .scale = kept_scale(p)};
    return 0;
}

static int draw_mask(cdropout_mask *mask, const cdropout_stream *stream, uint64_t n_elems, double p)
{
    uint64_t start;
    if (!is_probability(p) || !take_blocks(stream->position, n_elems, &start))
        return -1;
    return define_mask(mask, stream->key, start, p);
}

static int draw_noise(cdropout_noise *noise, const cdropout_stream *stream, uint64_t n_elems, double std)
{
    uint64_t start;
    if (!is_std(std) || !take_blocks(stream->position, n_elems, &start))
        return -1;
    *noise = (cdropout_noise){.key = *stream->key, .start = start, .std = std};
    return 0;
}

static int set_alpha_dropout(cdropout_arrays *arrays, cdropout_mask *mask)
{
    if (!is_probability(mask->p))
        return -1;
    alpha_dropout_map(mask->p, &mask->scale, &arrays->shift, &arrays->fill);
    return 0;
}

cdropout_table embedding_table = {
    .major = CDROPOUT_ABI_MAJOR,
    .minor = CDROPOUT_ABI_MINOR,
    .n_bytes = sizeof(cdropout_table),
    .draw_mask = draw_mask,
    .draw_noise = draw_noise,
    .define_mask = define_mask,
    .set_alpha_dropout = set_alpha_dropout,
    .apply = apply,
    .multiply_by_noise = multiply_by_noise,
    .add_noise = add_noise,
    .fill_keep = fill_keep,
    .fill_raw = fill_raw,
};
