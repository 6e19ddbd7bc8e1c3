/* Jobs (src/core/job.h) for the C programs of the tests: random requests, requests with a mistake, ways to cut a job,
 * and the result that a job must have, computed element by element. */
#ifndef CDROPOUT_JOB_CALLS_H
#define CDROPOUT_JOB_CALLS_H

#include "../src/core/job.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MAX_TEST_AXES = 4, MAX_BIAS = 700, N_LAYOUTS = LAYOUT_GIVEN + 1 };

static inline const char *name_of_layout(job_layout layout)
{
    static const char *const names[N_LAYOUTS] = {
        [LAYOUT_NONE] = "none",         [LAYOUT_COPY] = "copy",
        [LAYOUT_RUN] = "run",           [LAYOUT_ROWS] = "rows",
        [LAYOUT_REPEATED] = "repeated", [LAYOUT_SHARED_ROWS] = "shared rows",
        [LAYOUT_GATHERED] = "gathered", [LAYOUT_SUBMATRIX] = "submatrix",
        [LAYOUT_UPDATE] = "update",     [LAYOUT_UPDATE_KEPT] = "update of kept",
        [LAYOUT_TRIPLED] = "tripled",   [LAYOUT_RECORDED] = "recorded",
        [LAYOUT_GIVEN] = "given",
    };
    return names[layout];
}

static inline const char *name_of_operation(int operation)
{
    return operation == OPERATION_fill_keep     ? "fill_keep"
           : operation == OPERATION_select      ? "select"
           : operation == OPERATION_fill_values ? "fill_values"
                                                : operation_table[operation].name;
}

/* A request, the axes that it points to, and the limits with which it is planned. */
typedef struct {
    job_request request;
    size_t lens[MAX_TEST_AXES];
    uint64_t strides[MAX_TEST_AXES];
    size_t max_cached_bytes;
    uint64_t max_gathered_stride;
} test_job;

static inline size_t elem_bytes_of(const test_job *t)
{
    return elem_bytes_of_operation(t->request.operation, t->request.dtype);
}

static inline size_t bytes_of_job(const test_job *t)
{
    return t->request.n_elems * elem_bytes_of(t);
}

/* Describes the job on one line of at most n_bytes. */
static inline void describe_job(char *line, size_t n_bytes, const test_job *t)
{
    const job_request *r = &t->request;
    static const char *const stores[] = {
        [STORES_BY_SIZE] = "by size", [STORES_CACHED] = "cached", [STORES_PAST_CACHES] = "past caches"};
    static const char *const width_names[N_WIDTHS] = {"1", "2", "4", "8"};
    int at = snprintf(line, n_bytes, "job %s_%s of %zu elements from %llu, p = %a, scale %a, repeats %zu, axes",
                      name_of_operation(r->operation),
                      r->operation == OPERATION_fill_keep ? "bool"
                      : r->operation < N_OPERATIONS       ? dtype_table[r->dtype].name
                                                          : width_names[r->dtype],
                      r->n_elems, (unsigned long long)r->first, r->p, r->scale, r->n_repeats);
    for (int axis = 0; axis < r->n_axes; axis++)
        at +=
            snprintf(line + at, n_bytes - (size_t)at, " %zu:%llu", t->lens[axis], (unsigned long long)t->strides[axis]);
    snprintf(line + at, n_bytes - (size_t)at, ", bias %zu of %zu, stores %s, cached bytes %zu, gathered stride %llu",
             r->bias_first, r->n_bias, stores[r->stores], t->max_cached_bytes,
             (unsigned long long)t->max_gathered_stride);
}

/* ---- random requests ---- */

/* A source of random numbers: take(from, n_bytes) returns one of n_bytes bytes. */
typedef struct {
    uint64_t (*take)(void *from, size_t n_bytes);
    void *from;
} random_source;

static inline size_t random_below(random_source *source, size_t n)
{
    return (size_t)(source->take(source->from, 4) % n);
}

/* A length up to `most`: mostly short, often 1, sometimes up to `most`, and 0 once in 128. */
static inline size_t random_length(random_source *source, size_t most)
{
    const uint64_t how = source->take(source->from, 2);
    const size_t limit = how % 8 < 4 ? 9 : how % 8 < 6 ? 130 : how % 8 < 7 ? 1500 : most;
    if (most == 0 || how / 8 % 128 == 0)
        return 0;
    return 1 + random_below(source, limit < most ? limit : most);
}

enum { FAR_GAP = 1000, MOST_FAR_ROWS = 300 }; /* each such row seeds a block: this bounds the time */

/* Axes as masks have them: the stride of an axis is 0, or exceeds what the axes inside it span, with or without a gap.
 * Returns how many positions they span. */
static inline uint64_t make_random_axes(test_job *t, random_source *source, size_t most_elems)
{
    static const uint64_t gaps[] = {1, 5, 60, FAR_GAP, 5000, (uint64_t)1 << 33};
    job_request *r = &t->request;
    uint64_t past = 1;
    size_t most_left = most_elems;
    r->n_elems = 1;
    r->n_axes = 1 + (int)random_below(source, MAX_TEST_AXES);
    for (int axis = r->n_axes - 1; axis >= 0; axis--) {
        const uint64_t how = source->take(source->from, 1);
        const uint64_t gap = how % 3 < 2 ? 0 : gaps[how / 3 % (sizeof gaps / sizeof *gaps)];
        if (gap >= FAR_GAP && most_left > MOST_FAR_ROWS)
            most_left = MOST_FAR_ROWS;
        t->lens[axis] = random_length(source, most_left);
        r->n_elems *= t->lens[axis];
        most_left = t->lens[axis] > 0 ? most_left / t->lens[axis] : 0;
        t->strides[axis] = 0;
        if (how % 3 > 0) {
            t->strides[axis] = past + gap;
            past = t->strides[axis] * (t->lens[axis] > 0 ? t->lens[axis] : 1);
        }
    }
    return past;
}

/* Two rows of about as many elements as MAX_KEEP_WORDS have bits, which share their mask or do not. */
enum { LONG_ROW = 65536 };

static inline uint64_t make_long_rows(test_job *t, random_source *source)
{
    const size_t length = LONG_ROW - 100 + random_below(source, 201);
    t->request.n_axes = 2;
    t->lens[0] = 2;
    t->lens[1] = length;
    t->strides[0] = random_below(source, 2) ? 0 : length + 5;
    t->strides[1] = 1;
    t->request.n_elems = 2 * length;
    return 2 * length + 5;
}

/* The pixels of an image with its channels last. */
static inline uint64_t make_random_pixels(test_job *t, random_source *source, size_t most_elems)
{
    job_request *r = &t->request;
    const size_t n_positions = random_length(source, most_elems / 3);
    r->operation = OPERATION_select;
    r->dtype = 0;
    r->n_elems = 3 * n_positions;
    r->n_repeats = 3;
    return n_positions;
}

/* Without axes: one run of positions, n_repeats elements to each. Returns how many positions it is. */
static inline uint64_t make_random_repeats(test_job *t, random_source *source, size_t most_elems)
{
    static const size_t repeats[] = {0, 1, 2, 7, MIN_REPEATS, 40, 63, 64, 65, 200, 512, 1025};
    job_request *r = &t->request;
    r->n_repeats = repeats[random_below(source, sizeof repeats / sizeof *repeats)];
    if (steps_of_operation(r->operation) & WITHOUT_MASK || r->n_repeats > most_elems)
        r->n_repeats = 1;
    const size_t n_each = r->n_repeats > 1 ? r->n_repeats : 1, n_positions = random_length(source, most_elems / n_each);
    r->n_elems = n_positions * n_each;
    return n_positions;
}

static inline double double_of_bits(uint64_t bits)
{
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline double random_double(random_source *source)
{
    return double_of_bits(source->take(source->from, 8));
}

/* A request of at most most_elems elements, without arrays. scale, shift and fill are used where they are not 1 and 0.
 */
static inline test_job make_random_job(random_source *source, size_t most_elems, double scale, double shift,
                                       double fill)
{
    static const size_t cached_bytes[] = {0, 1000, 20000, (size_t)64 << 20};
    static const uint64_t gathered_strides[] = {0, 1, 60, 1024, UINT64_MAX};
    test_job t = {.max_cached_bytes = cached_bytes[random_below(source, 4)],
                  .max_gathered_stride = gathered_strides[random_below(source, 5)]};
    job_request *r = &t.request;
    r->operation = (int)random_below(source, N_JOB_OPERATIONS);
    if (random_below(source, 4) == 0) /* more often those that have a layout more than others */
        r->operation = random_below(source, 2) ? OPERATION_apply_mask : OPERATION_alpha_dropout;
    r->dtype = (int)random_below(source, r->operation < N_OPERATIONS ? N_DTYPES : N_WIDTHS);
    const int is_image = random_below(source, 12) == 0;
    const int steps = is_image ? WITH_BIAS : steps_of_operation(r->operation);
    const int has_axes = !is_image && !(steps & WITHOUT_MASK) && random_below(source, 4) != 0;
    const int has_long_rows = has_axes && most_elems > 2 * LONG_ROW + 200 && random_below(source, 4) == 0;
    const uint64_t span = is_image        ? make_random_pixels(&t, source, most_elems)
                          : has_long_rows ? make_long_rows(&t, source)
                          : has_axes      ? make_random_axes(&t, source, most_elems)
                                          : make_random_repeats(&t, source, most_elems);
    /* Near the beginning, anywhere, or up to the last position. */
    const uint64_t first = source->take(source->from, 8), last = UINT64_MAX - span;
    const size_t where = random_below(source, 3);
    r->first = where == 0 ? first % 10000 : where == 1 ? first : last - first % 10000;
    if (r->first > last)
        r->first = last;
    r->key.word[0] = source->take(source->from, 8);
    r->key.word[1] = source->take(source->from, 8);
    const size_t which = random_below(source, 8);
    const double p = random_double(source);
    r->p = which == 0                        ? 0.0
           : which == 1                      ? 1.0
           : which == 2                      ? 0x1p-20
           : which == 3 && is_probability(p) ? p
                                             : (double)random_below(source, 1 << 24) * 0x1p-24;
    r->scale = random_below(source, r->p == 0.0 ? 2 : 8) == 0 ? 1.0 : scale;
    if (steps & WITH_NOISE)
        r->scale = is_std(fabs(scale)) ? fabs(scale) : 0.5;
    if (steps & WITH_FILL || random_below(source, 4) == 0) {
        r->shift = shift;
        r->fill = fill;
    }
    if (steps & WITH_BIAS) {
        r->n_bias = r->operation == OPERATION_fill_values ? 2 : 1 + random_below(source, is_image ? 3 : MAX_BIAS);
        r->bias_first = (size_t)source->take(source->from, random_below(source, 2) ? 2 : sizeof(size_t) - 1);
    }
    r->stores = (job_stores)random_below(source, STORES_PAST_CACHES + 1);
    return t;
}

/* ---- planning and cutting ---- */

/* Plans the job with its limits, or making its decisions as bits. Then overwrites the request and its axes, which the
 * job must not need any more. */
static inline int plan_job_or_bits(job *j, const test_job *t, const keep_bits *bits)
{
    size_t lens[MAX_TEST_AXES];
    uint64_t strides[MAX_TEST_AXES];
    const job_limits before = limits;
    job_request request = t->request;
    memcpy(lens, t->lens, sizeof lens);
    memcpy(strides, t->strides, sizeof strides);
    if (request.n_axes > 0) {
        request.lens = lens;
        request.strides = strides;
    }
    limits.max_cached_bytes = t->max_cached_bytes;
    limits.max_gathered_stride = t->max_gathered_stride;
    const int status = bits != NULL ? job_plan_bits(j, &request, bits) : job_plan(j, &request);
    limits = before;
    memset(lens, 0xFF, sizeof lens);
    memset(strides, 0xFF, sizeof strides);
    memset(&request, 0xFF, sizeof request);
    return status;
}

static inline int plan_job(job *j, const test_job *t)
{
    return plan_job_or_bits(j, t, NULL);
}

enum { MAX_CUTS = 9 };

/* The pieces in which a job is run: where each begins, and where the last one ends. */
typedef struct {
    size_t n_pieces;
    size_t at[MAX_CUTS + 1];
} job_pieces;

static inline job_pieces whole_job(const job *j)
{
    return (job_pieces){.n_pieces = 1, .at = {0, j->n_elems}};
}

/* Cuts with job_cut. Returns NULL, or what is wrong with the cuts. */
static inline const char *cut_into_ranges(job_pieces *pieces, const job *j, size_t n_ranges)
{
    pieces->n_pieces = n_ranges;
    for (size_t i = 0; i <= n_ranges; i++) {
        pieces->at[i] = job_cut(j, i, n_ranges);
        if (i > 0 && pieces->at[i] < pieces->at[i - 1])
            return "was cut into ranges of which one ends before it begins";
    }
    return pieces->at[0] == 0 && pieces->at[n_ranges] == j->n_elems ? NULL
                                                                    : "was cut into ranges that are not the whole";
}

static inline job_pieces cut_anywhere(const job *j, random_source *source)
{
    job_pieces pieces = {.n_pieces = 1 + random_below(source, MAX_CUTS)};
    size_t *at = pieces.at;
    at[pieces.n_pieces] = j->n_elems;
    for (size_t i = 1; i < pieces.n_pieces; i++) { /* insertion sort */
        size_t cut = random_below(source, j->n_elems + 1), before = i;
        for (; before > 1 && at[before - 1] > cut; before--)
            at[before] = at[before - 1];
        at[before] = cut;
    }
    return pieces;
}

/* Runs every second piece from the last one on, then the others: no piece may depend on another. */
static inline void run_pieces(const job *j, const job_pieces *pieces, size_t n_too_many)
{
    for (size_t parity = 0; parity < 2; parity++)
        for (size_t piece = pieces->n_pieces; piece-- > 0;)
            if (piece % 2 == parity)
                job_run(j, pieces->at[piece], pieces->at[piece + 1] + (piece + 1 == pieces->n_pieces ? n_too_many : 0));
}

/* Makes a random job one whose decisions can be recorded, if it has n_elems elements or more. */
static inline void make_recordable(test_job *t, size_t n_elems)
{
    job_request *r = &t->request;
    r->operation = OPERATION_apply_mask;
    r->dtype = r->dtype % 2 ? DTYPE_f64 : DTYPE_f32;
    r->first -= r->first % ELEMS_PER_GROUP;
    r->p = r->p < 0x1p-16 ? 0.5 : r->p;
    r->scale = fabs(r->scale);
    r->shift = r->fill = 0.0;
    r->n_axes = 0;
    r->n_repeats = 0;
    r->n_elems = n_elems;
}

/* Words that a job with given decisions has for as many elements as these, and those that it reads for the request. */
enum { MOST_GIVEN_WORDS = 150000 / ELEMS_PER_GROUP + 8, MOST_GIVEN_FIRST = 300 };

static inline size_t bytes_of_given_words(const test_job *t)
{
    return t->request.keep_words == NULL
               ? 0
               : ((size_t)t->request.first + t->request.n_elems + 2 * ELEMS_PER_GROUP - 1) / ELEMS_PER_GROUP * 8;
}

/* Gives a random job its decisions in some cases, from words that this fills, if it has a mask; it then has no axes. */
static inline void give_decisions(test_job *t, random_source *source, uint64_t words[MOST_GIVEN_WORDS])
{
    job_request *r = &t->request;
    const uint64_t how = source->take(source->from, 2);
    if (steps_of_operation(r->operation) & WITHOUT_MASK || how % 8 != 0)
        return;
    r->n_axes = 0;
    r->n_repeats = 1;
    r->first = how / 8 % 4 == 0 ? 0 : how / 32 % MOST_GIVEN_FIRST;
    r->keep_words = words;
    uint64_t word = how + 1;
    for (size_t i = 0; i < bytes_of_given_words(t) / sizeof *words; i++, word = word * 0x9E3779B97F4A7C15u + 1)
        words[i] = i % 7 == 0 ? -(word >> 63) : word ^ word >> 29;
}

/* ---- expected results ---- */

static inline uint64_t position_of_elem(const test_job *t, size_t i)
{
    uint64_t position = t->request.first;
    if (t->request.n_axes == 0)
        return position + i / (t->request.n_repeats > 1 ? t->request.n_repeats : 1);
    for (int axis = t->request.n_axes - 1; axis >= 0; axis--) {
        position += i % t->lens[axis] * t->strides[axis];
        i /= t->lens[axis];
    }
    return position;
}

/* A cache of the decisions of the portable kernels: of a group of positions, or of a block if it is used again. */
typedef struct {
    mask_rule rule;
    uint64_t first;
    const uint64_t *given; /* keep words, or NULL */
    size_t n_positions;    /* 0 before the first decision */
    uint8_t keep[ELEMS_PER_BLOCK];
} decisions;

static inline uint8_t decision_at(decisions *made, uint64_t position)
{
    if (made->given != NULL)
        return made->given[position / ELEMS_PER_GROUP] >> position % ELEMS_PER_GROUP & 1;
    if (made->n_positions == 0 || position - made->first >= made->n_positions) {
        const int is_same_block = made->n_positions > 0 && position / ELEMS_PER_BLOCK == made->first / ELEMS_PER_BLOCK;
        made->n_positions = is_same_block ? ELEMS_PER_BLOCK : ELEMS_PER_GROUP;
        made->first = position - position % made->n_positions;
        kernels_portable.fill_keep(made->keep, &made->rule, made->first, made->n_positions);
    }
    return made->keep[position - made->first];
}

/* Computes the result element by element: its position, whether it is kept, and a portable kernel on one element. */
static inline void expect_job(char *expected, const test_job *t)
{
    const job_request *r = &t->request;
    const size_t elem_bytes = elem_bytes_of(t);
    const int steps = steps_of_operation(r->operation);
    const int has_fill = r->shift != 0.0 || r->fill != 0.0;
    const int operation =
        r->operation == OPERATION_apply_mask && has_fill ? (int)OPERATION_alpha_dropout : r->operation;
    const int is_copy = r->operation == OPERATION_apply_mask && r->p == 0.0 && r->scale == 1.0 && r->shift == 0.0 &&
                        r->keep_words == NULL;
    const int is_selected = r->operation == OPERATION_select || r->operation == OPERATION_fill_values;
    const dtype_kernels *row = is_selected ? NULL : kernels_portable.dtype[r->dtype];
    decisions made;
    made.rule.key = r->key;
    made.n_positions = 0;
    made.given = r->keep_words;
    set_threshold(&made.rule, steps & WITH_NOISE ? 0.0 : r->p);
    for (size_t i = 0; i < r->n_elems; i++) {
        char bias[ELEMS_PER_GROUP * 8];
        const uint64_t position = position_of_elem(t, i);
        operands one = {.out = expected + i * elem_bytes,
                        .n_repeats = 1,
                        .scale = steps & WITH_NOISE || is_selected ? r->scale : round_scale(r->dtype, r->scale),
                        .shift = r->shift,
                        .fill = r->fill};
        if (!(steps & WITHOUT_X))
            one.x = r->x + i * elem_bytes;
        if (steps & READS_RESIDUAL)
            one.residual = r->residual + i * elem_bytes;
        if (is_selected) {
            const int is_kept = decision_at(&made, position);
            const size_t at =
                r->operation == OPERATION_fill_values ? (size_t)is_kept : (r->bias_first % r->n_bias + i) % r->n_bias;
            const char *filled = r->bias + at * elem_bytes;
            memcpy(one.out, r->operation == OPERATION_select && is_kept ? one.x : filled, elem_bytes);
            continue;
        }
        if (steps & WITH_BIAS) {
            const char *elem = r->bias + (r->bias_first % r->n_bias + i) % r->n_bias * elem_bytes;
            for (size_t e = 0; e < ELEMS_PER_GROUP; e++)
                memcpy(bias + e * elem_bytes, elem, elem_bytes);
            one.bias = bias;
            one.bias_period = ELEMS_PER_GROUP;
        }
        if (operation == OPERATION_fill_keep) {
            *one.out = (char)decision_at(&made, position);
        } else if (is_copy) {
            memcpy(one.out, one.x, elem_bytes);
        } else if (steps & WITHOUT_MASK) {
            row->range[operation](&one, &made.rule, position, 1);
        } else {
            const uint64_t word = decision_at(&made, position);
            row->words(&one, &word, 1, operation);
        }
    }
}

/* ---- requests that job_plan must refuse ---- */

enum { N_MISTAKES = 19 };

/* Makes one mistake in a request. Returns 0 if it is none for this operation. */
static inline int make_mistake(job_request *r, int mistake)
{
    const int steps = steps_of_operation(r->operation);
    switch (mistake) {
    case 0:
    case 1:
        r->operation = mistake == 0 ? -1 : (int)N_JOB_OPERATIONS;
        return 1;
    case 2:
    case 3:
        r->dtype = mistake == 2 ? -1 : r->operation < N_OPERATIONS ? (int)N_DTYPES : (int)N_WIDTHS;
        return r->operation != OPERATION_fill_keep;
    case 4:
    case 5:
    case 6:
        r->p = mistake == 4 ? NAN : mistake == 5 ? -0x1p-1022 : 1.0 + 0x1p-52;
        return !(steps & WITH_NOISE);
    case 7:
    case 8:
        r->scale = mistake == 7 ? NAN : 2 * MAX_STD;
        return steps & WITH_NOISE;
    case 9:
        r->out = NULL;
        return 1;
    case 10:
        r->x = NULL;
        return !(steps & WITHOUT_X);
    case 11:
        r->residual = NULL;
        return steps & READS_RESIDUAL;
    case 12:
        r->bias = NULL;
        return steps & WITH_BIAS;
    case 13:
        r->n_bias = 0;
        return steps & WITH_BIAS;
    case 14:
    case 15:
        r->n_axes = mistake == 14 ? -1 : MAX_AXES + 1;
        return 1;
    case 16:
        r->n_bias = 3;
        return r->operation == OPERATION_fill_values;
    case 17: /* an operation without a mask must not have axes or repeats */
        r->n_axes = 1;
        r->n_repeats = 2;
        return steps & WITHOUT_MASK;
    default: { /* decisions that are given are not those of axes */
        static const uint64_t words[2];
        r->keep_words = words;
        r->n_axes = 1;
        return 1;
    }
    }
}

#endif
