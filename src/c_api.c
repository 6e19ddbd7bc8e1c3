/* The functions of the C interface (cdropout/include/cdropout_table.h) that need no Python object. A call on a range
 * plans a job and runs it (core/job.h). c_api.pxi adds the other functions. Plain C, without Python.h. */
#include "c_api.h"

#include "core/job.h"
#include "core/position.h"

_Static_assert(sizeof(cdropout_key) == sizeof(stream_key), "both keys must have 128 bits");
_Static_assert((int)CDROPOUT_BLOCK == (int)ELEMS_PER_BLOCK, "CDROPOUT_BLOCK must be the block of the stream");
_Static_assert((int)CDROPOUT_RAW_BYTES_PER_BLOCK == (int)RAW_BYTES_PER_BLOCK,
               "the raw output of a block must have the same size");
_Static_assert((int)CDROPOUT_MAX_AXES == (int)MAX_AXES, "a mask must have as many axes as a job");

/* The numbers of the interface must be those of the catalog (core/kernel_table.h). */
#define SAME_NUMBER(public_name, row) \
    _Static_assert((int)CDROPOUT_##public_name == (int)row, #row " must have the number of CDROPOUT_" #public_name)
SAME_NUMBER(FLOAT32, DTYPE_f32);
SAME_NUMBER(FLOAT64, DTYPE_f64);
SAME_NUMBER(FLOAT16, DTYPE_f16);
SAME_NUMBER(BFLOAT16, DTYPE_bf16);
SAME_NUMBER(APPLY_MASK, OPERATION_apply_mask);
SAME_NUMBER(FILL_SCALED, OPERATION_fill_scaled);
SAME_NUMBER(RELU_DROPOUT, OPERATION_relu_dropout);
SAME_NUMBER(BIAS_RELU_DROPOUT, OPERATION_bias_relu_dropout);
SAME_NUMBER(DROPOUT_ADD, OPERATION_dropout_add);
SAME_NUMBER(BIAS_DROPOUT_ADD, OPERATION_bias_dropout_add);
SAME_NUMBER(CHOOSE, OPERATION_choose);
SAME_NUMBER(RELU_DROPOUT_BACKWARD, OPERATION_relu_dropout_backward);
SAME_NUMBER(ALPHA_DROPOUT, OPERATION_alpha_dropout);
SAME_NUMBER(ZERO_REST, SCATTER_KEPT_ZERO);
SAME_NUMBER(KEEP_REST, SCATTER_KEPT_SET);
SAME_NUMBER(ADD_TO_KEPT, SCATTER_KEPT_ADD);
#undef SAME_NUMBER

static stream_key stream_key_of(const cdropout_key *key)
{
    return (stream_key){{key->word[0], key->word[1]}};
}

/* ---- jobs ---- */

static job_request request_for(int operation, int dtype, const cdropout_arrays *arrays, const cdropout_mask *mask)
{
    return (job_request){
        .operation = operation,
        .dtype = dtype,
        .key = stream_key_of(&mask->key),
        .first = mask->start,
        .p = mask->p,
        .scale = mask->scale,
        .shift = arrays->shift,
        .fill = arrays->fill,
        .out = (char *)arrays->out,
        .x = (const char *)arrays->x,
        .residual = (const char *)arrays->residual,
        .bias = (const char *)arrays->bias,
        .n_bias = arrays->n_bias,
        .stores = arrays->past_caches ? STORES_PAST_CACHES : STORES_CACHED,
    };
}

/* Positions begin .. end - 1, n_repeats elements each. The job ends at `end`: the length of the arrays is not known. */
static int run_positions(job_request *request, size_t n_repeats, size_t begin, size_t end)
{
    job j;
    n_repeats = n_repeats > 1 ? n_repeats : 1;
    if (begin > end || end > SIZE_MAX / n_repeats)
        return -1;
    request->n_repeats = n_repeats;
    request->n_elems = end * n_repeats;
    if (job_plan(&j, request) != 0)
        return -1;
    job_run(&j, begin * n_repeats, end * n_repeats);
    return 0;
}

/* Elements begin .. end - 1 of arrays of the mask's shape. */
static int run_strided(job_request *request, const cdropout_strided_mask *mask, size_t begin, size_t end)
{
    job j;
    size_t n_elems = 1;
    int is_empty = 0;
    if (mask->n_axes < 0 || mask->n_axes > MAX_AXES)
        return -1;
    for (int axis = 0; axis < mask->n_axes; axis++)
        is_empty |= mask->lens[axis] == 0;
    for (int axis = 0; axis < mask->n_axes && !is_empty; axis++) {
        if (n_elems > SIZE_MAX / mask->lens[axis])
            return -1;
        n_elems *= mask->lens[axis];
    }
    n_elems = is_empty ? 0 : n_elems;
    if (begin > end || end > n_elems)
        return -1;
    request->n_elems = n_elems;
    request->n_axes = mask->n_axes;
    request->lens = mask->lens;
    request->strides = mask->strides;
    if (job_plan(&j, request) != 0)
        return -1;
    job_run(&j, begin, end);
    return 0;
}

/* Whether `apply` has the operation. Those with noise have functions that check std instead of p. */
static int is_operation(int operation)
{
    return operation >= 0 && operation < N_OPERATIONS && !(operation_table[operation].steps & WITH_NOISE);
}

static int apply(int operation, int dtype, const cdropout_arrays *arrays, const cdropout_mask *mask, size_t begin,
                 size_t end)
{
    if (!is_operation(operation))
        return -1;
    job_request request = request_for(operation, dtype, arrays, mask);
    return run_positions(&request, arrays->n_repeats, begin, end);
}

static int apply_strided(int operation, int dtype, const cdropout_arrays *arrays, const cdropout_strided_mask *mask,
                         size_t begin, size_t end)
{
    if (!is_operation(operation))
        return -1;
    job_request request = request_for(operation, dtype, arrays, &mask->mask);
    return run_strided(&request, mask, begin, end);
}

static int fill_keep(uint8_t *out, const cdropout_mask *mask, size_t begin, size_t end)
{
    const cdropout_arrays arrays = {.out = out};
    job_request request = request_for(OPERATION_fill_keep, 0, &arrays, mask);
    return run_positions(&request, 1, begin, end);
}

static int fill_keep_strided(uint8_t *out, const cdropout_strided_mask *mask, size_t begin, size_t end)
{
    const cdropout_arrays arrays = {.out = out};
    job_request request = request_for(OPERATION_fill_keep, 0, &arrays, &mask->mask);
    return run_strided(&request, mask, begin, end);
}

static int run_noise(int operation, int dtype, const cdropout_arrays *arrays, const cdropout_noise *noise, size_t begin,
                     size_t end)
{
    const cdropout_mask mask = {.key = noise->key, .start = noise->start, .scale = noise->std};
    job_request request = request_for(operation, dtype, arrays, &mask);
    return run_positions(&request, arrays->n_repeats, begin, end);
}

static int multiply_by_noise(int dtype, const cdropout_arrays *arrays, const cdropout_noise *noise, size_t begin,
                             size_t end)
{
    return run_noise(OPERATION_multiply_by_noise, dtype, arrays, noise, begin, end);
}

static int add_noise(int dtype, const cdropout_arrays *arrays, const cdropout_noise *noise, size_t begin, size_t end)
{
    return run_noise(OPERATION_add_noise, dtype, arrays, noise, begin, end);
}

static void fill_raw(uint8_t *out, const cdropout_key *key, uint64_t first_block, size_t n_blocks)
{
    const stream_key words = stream_key_of(key);
    kernels->fill_raw(out, &words, first_block, n_blocks);
}

/* ---- kept rows and columns ---- */

static int fill_keep_words(uint64_t *out, const cdropout_mask *mask, size_t n_elems)
{
    mask_rule rule = {.key = stream_key_of(&mask->key)};
    if (!is_probability(mask->p) || (out == NULL && n_elems > 0))
        return -1;
    set_threshold(&rule, mask->p);
    if (n_elems > 0)
        kernels->fill_words(out, &rule, mask->start, n_elems);
    return 0;
}

static int run_submatrix(int verb, int dtype, const cdropout_submatrix *matrix, size_t begin, size_t end)
{
    job j;
    const submatrix request = {
        .out = (char *)matrix->out,
        .x = (const char *)matrix->x,
        .n_rows = matrix->n_rows,
        .n_columns = matrix->n_columns,
        .row_words = matrix->row_words,
        .column_words = matrix->column_words,
        .scale = matrix->scale,
        .verb = verb,
    };
    if (begin > end || end > matrix->n_rows || job_plan_submatrix(&j, &request, dtype) != 0)
        return -1;
    job_run(&j, begin * matrix->n_columns, end * matrix->n_columns);
    return 0;
}

static int gather_kept(int dtype, const cdropout_submatrix *matrix, size_t begin, size_t end)
{
    return run_submatrix(GATHER_KEPT, dtype, matrix, begin, end);
}

static int scatter_kept(int dtype, int rest, const cdropout_submatrix *matrix, size_t begin, size_t end)
{
    return rest == GATHER_KEPT ? -1 : run_submatrix(rest, dtype, matrix, begin, end);
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

static size_t cached_bytes(void)
{
    return limits.max_cached_bytes;
}

cdropout_table c_api_table = {
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
    .cached_bytes = cached_bytes,
    .apply_strided = apply_strided,
    .fill_keep_strided = fill_keep_strided,
    .fill_keep_words = fill_keep_words,
    .gather_kept = gather_kept,
    .scatter_kept = scatter_kept,
};
