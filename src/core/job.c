/* Planning a job: its layout, whether its stores go past the caches, and where its ranges begin. job_run.c computes
 * what is planned here; job.h declares both. */
#include "job.h"

#include <string.h>

enum {
    MIN_STREAMED_BYTES = 1024, /* stored in one piece; shorter pieces are mostly ends that do not fill a cache line */
    CACHE_LINE_BYTES = 64,     /* of all x86-64 processors */
    MIN_CUT_REPEATS = 1048576, /* of a position that ranges divide: seeding its block again takes 1 % of the time */
};

/* At import, src/_kernels.pyx sets max_cached_bytes to the size of the cache. Where that is unknown, 64 MiB is more
 * than most: streaming stores lose more time if the arrays fit into the cache than they save if the arrays do not. */
job_limits limits = {
    .max_cached_bytes = (size_t)64 << 20,
    .max_gathered_stride = 1024,
    .min_recorded_elems = 1024,
    .max_recorded_elems = (size_t)1 << 20,
    .min_elems_per_thread = 262144,
    .min_elems_per_xla_thread = 65536,
    .min_elems_without_gil = 32768,
    .max_elems_per_slice = (size_t)1 << 20, /* 30 ms for the slowest: float16 noise in plain C */
    .microseconds_between_checks = 100000,
    .microseconds_of_quota = 20000,
};

/* ---- planning ---- */

static int is_valid(const job_request *request)
{
    if (request->operation < 0 || request->operation >= N_JOB_OPERATIONS)
        return 0;
    const int steps = steps_of_operation(request->operation);
    const unsigned n_dtypes = request->operation < N_OPERATIONS ? N_DTYPES : N_WIDTHS;
    const int has_dtype = request->operation == OPERATION_fill_keep || (unsigned)request->dtype < n_dtypes;
    const int has_number = steps & WITH_NOISE ? is_std(request->scale) : is_probability(request->p);
    const int has_x = steps & WITHOUT_X || request->x != NULL;
    const int has_residual = !(steps & READS_RESIDUAL) || request->residual != NULL;
    if (!(has_dtype && has_number && request->out != NULL && has_x && has_residual))
        return 0;
    if (steps & WITH_BIAS && (request->bias == NULL || request->n_bias == 0))
        return 0;
    if (request->operation == OPERATION_fill_values && request->n_bias != 2)
        return 0;
    if (request->keep_words != NULL && (steps & WITHOUT_MASK || request->n_axes != 0 || request->n_repeats > 1))
        return 0;
    if (request->n_axes == 0 && request->n_repeats <= 1)
        return 1;
    if (request->n_axes == 0 && request->n_elems % request->n_repeats != 0)
        return 0;
    return !(steps & WITHOUT_MASK) && request->n_axes >= 0 && request->n_axes <= MAX_AXES;
}

/* Sets the fields of the bias in `operands` (kernel_table.h). bias_room holds the seam: the bias's last group and its
 * first. A shorter bias fills a group there by copies, then its first group follows; the last two are the seam. */
static void set_bias(job *j, const char *bias, size_t n_bias, size_t first)
{
    const size_t group_bytes = ELEMS_PER_GROUP * j->elem_bytes, n_bytes = n_bias * j->elem_bytes;
    char *room = j->bias_room;
    j->arrays.bias = bias;
    j->arrays.bias_seam = room;
    j->arrays.bias_period = n_bias * ((ELEMS_PER_GROUP + n_bias - 1) / n_bias);
    j->arrays.bias_at = first % j->arrays.bias_period;
    if (n_bias >= ELEMS_PER_GROUP) {
        memcpy(room, bias + n_bytes - group_bytes, group_bytes);
        memcpy(room + group_bytes, bias, group_bytes);
        return;
    }
    const size_t n_room_bytes = j->arrays.bias_period * j->elem_bytes + group_bytes;
    memcpy(room, bias, n_bytes);
    for (size_t n_done = n_bytes; n_done < n_room_bytes; n_done *= 2)
        memcpy(room + n_done, room, n_done < n_room_bytes - n_done ? n_done : n_room_bytes - n_done);
    j->arrays.bias = room;
    j->arrays.bias_seam = room + n_room_bytes - 2 * group_bytes;
}

/* Sets the fields of the bias for the dropped value, and behind the seam 64 copies of the kept one: the room is full.
 */
static void set_values(job *j, const char *values)
{
    char *kept = j->bias_room + 2 * ELEMS_PER_GROUP * j->elem_bytes;
    set_bias(j, values, 1, 0);
    for (size_t e = 0; e < ELEMS_PER_GROUP; e++)
        memcpy(kept + e * j->elem_bytes, values + j->elem_bytes, j->elem_bytes);
}

/* Divides a C-ordered array into rows that each take one run of positions. Neighbouring axes that a single stride can
 * walk become one level of loops. If the innermost level has stride 0, it becomes n_repeats; the level that is then
 * innermost becomes the row if its stride is 1; the other levels number the rows. */
static void set_rows(job *j, const job_request *request)
{
    int n = 0;
    for (int axis = 0; axis < request->n_axes; axis++) {
        const size_t length = request->lens[axis];
        const uint64_t stride = request->strides[axis];
        if (length == 1)
            continue;
        const int fits = stride == 0 || length <= UINT64_MAX / stride;
        if (n > 0 && fits && j->level_strides[n - 1] == stride * length) {
            j->level_lens[n - 1] *= length;
            j->level_strides[n - 1] = stride;
        } else {
            j->level_lens[n] = length;
            j->level_strides[n] = stride;
            n++;
        }
    }
    if (n > 0 && j->level_strides[n - 1] == 0)
        j->arrays.n_repeats = j->level_lens[--n];
    j->row_positions = n > 0 && j->level_strides[n - 1] == 1 ? j->level_lens[--n] : 1;
    j->n_levels = n;
}

static job_layout choose_layout(const job *j, size_t n_bias)
{
    const int inner = j->n_levels - 1;
    if (inner < 0 && j->arrays.n_repeats == 1)
        return LAYOUT_RUN;
    if (inner < 0 && j->arrays.n_repeats == 3 && j->operation == OPERATION_select && j->elem_bytes == 1 &&
        (n_bias == 1 || n_bias == 3))
        return LAYOUT_TRIPLED;
    if (j->arrays.n_repeats > 1) {
        const int has_repeat_kernel = j->operation == OPERATION_apply_mask || j->operation == OPERATION_alpha_dropout;
        return has_repeat_kernel && j->arrays.n_repeats >= MIN_REPEATS ? LAYOUT_REPEATED : LAYOUT_GATHERED;
    }
    if (j->level_strides[inner] == 0 && j->row_positions <= ELEMS_PER_GROUP * MAX_KEEP_WORDS)
        return LAYOUT_SHARED_ROWS;
    if (j->level_strides[inner] != 0 && j->level_strides[inner] <= limits.max_gathered_stride)
        return LAYOUT_GATHERED;
    return LAYOUT_ROWS;
}

/* Whether streaming stores save time: the arrays outgrow the caches, the output is not also an input (its lines have
 * been read then), and what a kernel stores in one piece is long enough, or consists of whole cache lines. */
static int streaming_pays(const job *j, int steps)
{
    const size_t n_arrays = 1 + !(steps & WITHOUT_X) + !!(steps & READS_RESIDUAL);
    const size_t n_bytes = j->n_elems * j->elem_bytes;
    if (n_arrays * n_bytes <= limits.max_cached_bytes || j->arrays.out == j->arrays.x ||
        j->arrays.out == j->arrays.residual)
        return 0;
    const int is_repeated = j->layout == LAYOUT_REPEATED;
    const int is_one_piece = j->layout == LAYOUT_GATHERED || j->layout == LAYOUT_TRIPLED;
    const size_t piece_bytes = is_one_piece  ? n_bytes
                               : is_repeated ? j->arrays.n_repeats * j->elem_bytes
                                             : j->row_positions * j->elem_bytes;
    return piece_bytes >= MIN_STREAMED_BYTES || (is_repeated && piece_bytes % CACHE_LINE_BYTES == 0);
}

int job_is_copy(const job_request *request)
{
    if (!is_zero(request->p) || request->keep_words != NULL)
        return 0;
    return request->operation == OPERATION_select ||
           (request->operation == OPERATION_apply_mask && is_zero(request->shift) &&
            bits_of_double(request->scale) == bits_of_double(1.0));
}

size_t job_record_words(const job_request *request)
{
    mask_rule rule;
    if (request->operation != OPERATION_apply_mask || !is_valid(request) || job_is_copy(request))
        return 0;
    if (request->keep_words != NULL || request->n_axes > 0 || request->n_repeats > 1 || !is_zero(request->fill) ||
        !is_zero(request->shift))
        return 0;
    if (request->n_elems < limits.min_recorded_elems || request->n_elems > limits.max_recorded_elems)
        return 0;
    set_threshold(&rule, request->p);
    /* The kernels record what they decide by signs. */
    if (request->first % ELEMS_PER_GROUP != 0 || !has_signs(&rule, request->scale) ||
        kernels->dtype[request->dtype]->record == NULL)
        return 0;
    return request->n_elems / ELEMS_PER_GROUP;
}

int job_plan(job *j, const job_request *request)
{
    if (!is_valid(request))
        return -1;
    const int steps = steps_of_operation(request->operation);
    j->operation = request->operation;
    j->dtype = request->operation == OPERATION_fill_keep ? 0 : request->dtype;
    j->elem_bytes = elem_bytes_of_operation(request->operation, j->dtype);
    j->n_elems = request->n_elems;
    /* Field by field, as in blank_request. */
    j->arrays.out = request->out;
    j->arrays.x = steps & WITHOUT_X ? NULL : request->x;
    j->arrays.residual = steps & READS_RESIDUAL ? request->residual : NULL;
    j->arrays.bias = j->arrays.bias_seam = NULL;
    j->arrays.bias_period = j->arrays.bias_at = 0;
    j->arrays.n_repeats = request->n_repeats > 1 ? request->n_repeats : 1;
    j->arrays.scale = steps & WITH_NOISE || request->operation >= N_OPERATIONS ? request->scale
                                                                               : round_scale(j->dtype, request->scale);
    j->arrays.shift = request->shift;
    j->arrays.fill = request->fill;
    j->arrays.is_streamed = 0;
    j->arrays.record = NULL;
    j->record = NULL;
    j->keep_words = request->keep_words;
    j->rule.key = request->key;
    set_threshold(&j->rule, steps & WITH_NOISE ? 0.0 : request->p);
    j->first = request->first;
    if (j->n_elems == 0) {
        j->layout = LAYOUT_NONE;
        return 0;
    }
    if (job_is_copy(request)) { /* multiplying by 1 would change the bits of a signalling NaN */
        j->layout = LAYOUT_COPY;
        return 0;
    }
    if (j->operation == OPERATION_apply_mask && !(is_zero(request->fill) && is_zero(request->shift)))
        j->operation = OPERATION_alpha_dropout;
    if (j->operation == OPERATION_fill_values)
        set_values(j, request->bias);
    else if (steps & WITH_BIAS)
        set_bias(j, request->bias, request->n_bias, request->bias_first);
    if (request->n_axes > 0) {
        set_rows(j, request);
    } else {
        j->n_levels = 0;
        j->row_positions = j->arrays.n_repeats == 1 ? j->n_elems : j->n_elems / j->arrays.n_repeats;
    }
    j->layout = choose_layout(j, request->n_bias);
    if (request->keep_words != NULL) {
        j->layout = LAYOUT_GIVEN;
    } else if (request->record != NULL && request->has_record) {
        j->layout = LAYOUT_RECORDED;
        j->record = request->record;
    } else {
        j->arrays.record = request->record;
    }
    j->arrays.is_streamed =
        request->stores == STORES_PAST_CACHES || (request->stores == STORES_BY_SIZE && streaming_pays(j, steps));
    return 0;
}

/* ---- decisions as bits, and draws ---- */

int job_plan_bits(job *j, const job_request *request, const keep_bits *bits)
{
    job_request keep = *request;
    keep.operation = OPERATION_fill_keep;
    keep.out = bits->words != NULL ? (char *)bits->words : (char *)bits->counts;
    if (job_plan(j, &keep) != 0)
        return -1;
    j->operation = OPERATION_fill_bits;
    j->bits = *bits;
    return 0;
}

void job_plan_list(job *j, const keep_bits *bits, size_t n_elems)
{
    j->operation = OPERATION_list_bits;
    j->layout = n_elems > 0 ? LAYOUT_RUN : LAYOUT_NONE;
    j->n_elems = n_elems;
    j->bits = *bits;
}

void job_plan_draws(job *j, uint8_t *out, const double *p, const stream_key *key, uint64_t first, size_t n_elems)
{
    j->operation = OPERATION_fill_draws;
    j->layout = n_elems > 0 ? LAYOUT_RUN : LAYOUT_NONE;
    j->n_elems = n_elems;
    j->arrays.out = (char *)out;
    j->arrays.x = (const char *)p;
    j->arrays.n_repeats = 1;
    j->arrays.record = NULL;
    j->rule.key = *key;
    j->first = first;
}

/* ---- squares of images ---- */

static size_t elems_of_image(const squares *s)
{
    return s->height * s->width * s->n_channels;
}

/* Whether a square fits into an image, and the elements of all images can be counted. */
static int are_squares(const squares *s)
{
    const size_t lens[] = {s->height, s->width, s->n_channels, s->n_images};
    size_t n_most = SIZE_MAX;
    for (size_t i = 0; i < sizeof lens / sizeof *lens; i++) {
        if (lens[i] > n_most)
            return 0;
        n_most /= lens[i] > 0 ? lens[i] : 1;
    }
    return s->side >= 1 && s->side <= s->height && s->side <= s->width;
}

/* The least number of images that fill whole words, as often as it takes to have a count's number of elements; all
 * images if that is not more. */
static size_t images_of_unit(const squares *s)
{
    const size_t image_elems = elems_of_image(s);
    if (image_elems == 0)
        return 1;
    size_t n_images = 1;
    while (n_images * (image_elems % ELEMS_PER_GROUP) % ELEMS_PER_GROUP != 0)
        n_images *= 2;
    if (image_elems < ELEMS_PER_COUNT)
        n_images *= (ELEMS_PER_COUNT - 1) / (n_images * image_elems) + 1;
    return n_images < s->n_images ? n_images : s->n_images > 0 ? s->n_images : 1;
}

size_t squares_counts(const squares *images)
{
    const size_t n_images = images->n_channels > 0 ? images->n_images : 0, n_of_unit = images_of_unit(images);
    return n_images / n_of_unit + (n_images % n_of_unit != 0);
}

int job_plan_squares(job *j, const job_request *request, const squares *images, const keep_bits *bits)
{
    if (!is_probability(request->p) || !are_squares(images) || bits->of_dropped || bits->is_packed)
        return -1;
    const size_t n_elems = images->n_images * elems_of_image(images);
    if (n_elems > 0 && (bits->words == NULL || bits->counts == NULL))
        return -1;
    j->operation = OPERATION_fill_squares;
    j->layout = n_elems > 0 ? LAYOUT_RUN : LAYOUT_NONE;
    j->n_elems = n_elems;
    j->bits = *bits;
    j->images = *images;
    j->images.images_per_unit = images_of_unit(images);
    j->arrays.n_repeats = 1;
    j->arrays.record = NULL;
    j->rule.key = request->key;
    set_threshold(&j->rule, request->p);
    j->first = request->first;
    return 0;
}

/* ---- submatrices ---- */

size_t count_kept(const uint64_t *words, size_t n_elems)
{
    size_t n_kept = 0;
    if (words == NULL)
        return n_elems;
    kernels->count_bits(words, n_elems, &n_kept); /* a kernel, because not every processor has popcnt */
    return n_kept;
}

static int is_finite_number(double number)
{
    return number - number == 0.0;
}

int job_plan_submatrix(job *j, const submatrix *request, int dtype)
{
    if (request->verb < 0 || request->verb >= N_SUBMATRIX_VERBS || (dtype != DTYPE_f32 && dtype != DTYPE_f64) ||
        !is_finite_number(request->scale))
        return -1;
    if (request->n_columns != 0 && request->n_rows > SIZE_MAX / request->n_columns)
        return -1;
    j->operation = request->verb;
    j->dtype = dtype;
    j->elem_bytes = dtype_table[dtype].n_bytes;
    j->n_elems = request->n_rows * request->n_columns;
    j->matrix = *request;
    j->arrays.n_repeats = 1;
    j->layout = LAYOUT_NONE;
    if (j->n_elems == 0)
        return 0;
    j->matrix.n_kept_columns = count_kept(request->column_words, request->n_columns);
    const int is_gathered = request->verb == GATHER_KEPT;
    const int has_kept = j->matrix.n_kept_columns > 0 && count_kept(request->row_words, request->n_rows) > 0;
    if (!has_kept && request->verb != SCATTER_KEPT_ZERO)
        return 0;
    if ((request->x == NULL && has_kept) || (request->out == NULL && (has_kept || !is_gathered)))
        return -1;
    j->layout = LAYOUT_SUBMATRIX;
    return 0;
}

/* ---- steps of optimizers ---- */

int job_plan_update(job *j, const param_update *request, const submatrix *kept, size_t n_elems, int dtype)
{
    const param_update *r = request;
    const double numbers[] = {r->l2, r->decay_first, r->add_first, r->decay_second, r->add_second, r->eps, r->factor};
    if (r->rule < 0 || r->rule >= N_UPDATE_RULES || (dtype != DTYPE_f32 && dtype != DTYPE_f64))
        return -1;
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (!is_finite_number(numbers[i]))
            return -1;
    const int has_second = r->rule != UPDATE_ADAM || r->second != NULL;
    if (n_elems > 0 && (r->param == NULL || r->grad == NULL || r->first == NULL || !has_second))
        return -1;
    if (kept != NULL) {
        const int is_lazy = kept->verb == SCATTER_KEPT_SET;
        if ((!is_lazy && kept->verb != SCATTER_KEPT_ZERO) || !is_finite_number(kept->scale) ||
            (is_lazy && kept->scale != 1.0))
            return -1;
        if (kept->n_columns != 0 ? n_elems / kept->n_columns != kept->n_rows || n_elems % kept->n_columns != 0
                                 : n_elems != 0)
            return -1;
        j->matrix = *kept;
        j->matrix.n_kept_columns = count_kept(kept->column_words, kept->n_columns);
        if (is_lazy && (j->matrix.n_kept_columns == 0 || count_kept(kept->row_words, kept->n_rows) == 0))
            n_elems = 0;
    }
    j->operation = r->rule;
    j->dtype = dtype;
    j->elem_bytes = dtype_table[dtype].n_bytes;
    j->n_elems = n_elems;
    j->update = *r;
    j->arrays.n_repeats = 1;
    j->layout = n_elems == 0 ? LAYOUT_NONE : kept != NULL ? LAYOUT_UPDATE_KEPT : LAYOUT_UPDATE;
    return 0;
}

/* ---- cutting ---- */

/* n * i / n_ranges, rounded down, without the product, which may overflow. */
static size_t share(size_t n, size_t i, size_t n_ranges)
{
    return n / n_ranges * i + n % n_ranges * i / n_ranges;
}

/* A multiple of 64 elements, or of 64 positions with n_repeats elements each, so that the stores of every range are
 * aligned as those of the first. */
static size_t cut_at_group(size_t n_elems, size_t n_repeats, size_t i, size_t n_ranges)
{
    const size_t unit = ELEMS_PER_GROUP * n_repeats;
    return i == n_ranges ? n_elems : share(n_elems / unit, i, n_ranges) * unit;
}

/* The start of a block, counted in positions from `first` on; any position if there are fewer blocks than ranges, as
 * when each position has hundreds of elements. */
static size_t cut_at_block(uint64_t first, size_t n_positions, size_t i, size_t n_ranges)
{
    const size_t offset = (size_t)(first % ELEMS_PER_BLOCK);
    const size_t n_blocks =
        (n_positions - 1) / ELEMS_PER_BLOCK + 1 + (offset + (n_positions - 1) % ELEMS_PER_BLOCK) / ELEMS_PER_BLOCK;
    if (n_blocks < n_ranges)
        return share(n_positions, i, n_ranges);
    if (i == n_ranges)
        return n_positions;
    const size_t at = share(n_blocks, i, n_ranges) * ELEMS_PER_BLOCK;
    if (at <= offset)
        return 0;
    return at - offset < n_positions ? at - offset : n_positions;
}

size_t job_min_elems_per_thread(const job *j)
{
    const int is_update = j->layout == LAYOUT_UPDATE || j->layout == LAYOUT_UPDATE_KEPT;
    const int is_listed = j->operation == OPERATION_list_bits;
    const size_t n_elems = limits.min_elems_per_thread / (is_update   ? UPDATE_ELEM_COST
                                                          : is_listed ? LISTED_ELEM_COST
                                                                      : 1);
    if (j->layout == LAYOUT_TRIPLED && n_elems <= SIZE_MAX / PIXEL_ELEMS_PER_COST)
        return n_elems > 0 ? PIXEL_ELEMS_PER_COST * n_elems : 1;
    return n_elems > 0 ? n_elems : 1;
}

size_t job_cut(const job *j, size_t i, size_t n_ranges)
{
    const size_t n_repeats = j->arrays.n_repeats;
    if (j->operation == OPERATION_fill_bits || j->operation == OPERATION_list_bits)
        return i == n_ranges ? j->n_elems : share(j->n_elems / ELEMS_PER_COUNT, i, n_ranges) * ELEMS_PER_COUNT;
    if (j->operation == OPERATION_fill_squares) {
        const size_t unit_elems = j->images.images_per_unit * elems_of_image(&j->images);
        return i == n_ranges ? j->n_elems : share(squares_counts(&j->images), i, n_ranges) * unit_elems;
    }
    switch (j->layout) {
    case LAYOUT_NONE:
        return 0;
    case LAYOUT_RUN: {
        const size_t at = cut_at_block(j->first, j->n_elems, i, n_ranges);
        /* A record has a word for each whole group, which one thread writes. */
        return j->arrays.record == NULL || i == n_ranges ? at : at / ELEMS_PER_GROUP * ELEMS_PER_GROUP;
    }
    case LAYOUT_SHARED_ROWS:
        return share(j->n_elems / j->row_positions, i, n_ranges) * j->row_positions;
    case LAYOUT_SUBMATRIX:
    case LAYOUT_UPDATE_KEPT:
        return share(j->matrix.n_rows, i, n_ranges) * j->matrix.n_columns;
    case LAYOUT_ROWS:
        return share(j->n_elems, i, n_ranges);
    case LAYOUT_TRIPLED:
        return cut_at_block(j->first, j->row_positions, i, n_ranges) * n_repeats;
    case LAYOUT_REPEATED:
        if (n_repeats >= MIN_CUT_REPEATS)
            break;
        if (j->n_levels > 0)
            return share(j->n_elems / n_repeats, i, n_ranges) * n_repeats;
        return cut_at_block(j->first, j->row_positions, i, n_ranges) * n_repeats;
    case LAYOUT_GATHERED:
        return cut_at_group(j->n_elems, n_repeats < ELEMS_PER_GROUP ? n_repeats : 1, i, n_ranges);
    case LAYOUT_COPY:
    case LAYOUT_RECORDED:
    case LAYOUT_GIVEN:
    case LAYOUT_UPDATE:
        break;
    }
    return cut_at_group(j->n_elems, 1, i, n_ranges);
}
