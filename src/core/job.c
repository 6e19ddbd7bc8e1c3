/* The planner of job.h. */
#include "job.h"

#include <string.h>

enum {
    MAX_WORDS = 1024, /* keep words on the stack: those that rows share, or that are gathered */
    WORDS_PER_BLOCK = ELEMS_PER_BLOCK / ELEMS_PER_GROUP,
    MIN_CUT_REPEATS = 1048576, /* a hundred times what it costs to seed a block once more */
    MIN_STREAMED_BYTES = 1024, /* of one run; shorter ones are mostly ends that do not fill a line */
    LINE_BYTES = 64,           /* of every x86-64's caches */
};

/* 64 MiB are more than most caches have: streaming into a cache costs more than not streaming past it. */
job_limits limits = {
    .max_cached_bytes = (size_t)64 << 20,
    .max_gathered_stride = 1024,
    .min_elems_per_thread = 262144,
    .min_elems_without_gil = 32768,
    .max_elems_per_slice = (size_t)1 << 20, /* 30 ms where an element takes longest: float16 noise in plain C */
    .microseconds_between_checks = 100000,
    .microseconds_of_quota = 20000,
};

static inline size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* ---- planning ---- */

static int parts_of(int kernel)
{
    return kernel == JOB_FILL_KEEP ? WITHOUT_X : operation_table[kernel].parts;
}

static int is_valid(const job_request *request)
{
    if (request->kernel < 0 || request->kernel >= N_JOB_KERNELS)
        return 0;
    const int parts = parts_of(request->kernel);
    const int has_dtype = request->kernel == JOB_FILL_KEEP || (unsigned)request->dtype < N_DTYPES;
    const int has_number = parts & WITH_NOISE ? is_std(request->scale) : is_probability(request->p);
    const int has_x = parts & WITHOUT_X || request->x != NULL;
    const int has_residual = !(parts & READS_RESIDUAL) || request->residual != NULL;
    if (!(has_dtype && has_number && request->out != NULL && has_x && has_residual))
        return 0;
    if (parts & WITH_BIAS && (request->bias == NULL || request->n_bias == 0))
        return 0;
    const int is_run = request->n_axes == 0 && request->n_repeats <= 1;
    if (!is_run && request->n_axes == 0 && request->n_elems % request->n_repeats != 0)
        return 0;
    return is_run || (!(parts & WITHOUT_MASK) && request->n_axes >= 0 && request->n_axes <= MAX_AXES);
}

/* Points the job to its bias, with the seam in bias_room; a bias shorter than a group is repeated there. */
static void lay_bias(job *j, const char *bias, size_t n_bias, size_t first)
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
    const size_t n_laid = j->arrays.bias_period * j->elem_bytes + group_bytes;
    memcpy(room, bias, n_bytes);
    for (size_t at = n_bytes; at < n_laid; at *= 2)
        memcpy(room + at, room, smaller(at, n_laid - at));
    j->arrays.bias = room;
    j->arrays.bias_seam = room + n_laid - 2 * group_bytes;
}

/* Cuts a C-ordered array into rows that each take one run of mask positions. Neighbouring axes that one stride can walk
 * are one level. The innermost level of stride 1 makes the row; one of stride 0 inside it repeats each position, and
 * every level outside it numbers rows. */
static void lay_rows(job *j, const job_request *request)
{
    int n = 0;
    for (int axis = 0; axis < request->n_axes; axis++) {
        const size_t length = request->lens[axis];
        const uint64_t stride = request->strides[axis];
        if (length == 1)
            continue;
        const int fits = stride == 0 || length <= UINT64_MAX / stride;
        if (n > 0 && fits && j->row_strides[n - 1] == stride * length) {
            j->row_lens[n - 1] *= length;
            j->row_strides[n - 1] = stride;
        } else {
            j->row_lens[n] = length;
            j->row_strides[n] = stride;
            n++;
        }
    }
    if (n > 0 && j->row_strides[n - 1] == 0)
        j->arrays.n_repeats = j->row_lens[--n];
    j->row_positions = n > 0 && j->row_strides[n - 1] == 1 ? j->row_lens[--n] : 1;
    j->n_levels = n;
}

static job_layout choose_layout(const job *j)
{
    const int inner = j->n_levels - 1;
    if (inner < 0 && j->arrays.n_repeats == 1)
        return LAYOUT_RUN;
    if (j->arrays.n_repeats > 1) {
        const int has_kernel = j->kernel == OPERATION_apply_mask || j->kernel == OPERATION_alpha_dropout;
        return has_kernel && j->arrays.n_repeats >= MIN_REPEATS ? LAYOUT_REPEATED : LAYOUT_GATHERED;
    }
    if (j->row_strides[inner] == 0 && j->row_positions <= ELEMS_PER_GROUP * MAX_WORDS)
        return LAYOUT_SHARED_ROWS;
    if (j->row_strides[inner] != 0 && j->row_strides[inner] <= limits.max_gathered_stride)
        return LAYOUT_GATHERED;
    return LAYOUT_ROWS;
}

static int outgrows_caches(const job *j, int parts)
{
    const size_t n_arrays = 1 + !(parts & WITHOUT_X) + !!(parts & READS_RESIDUAL);
    const size_t n_bytes = j->n_elems * j->elem_bytes;
    if (n_arrays * n_bytes <= limits.max_cached_bytes || j->arrays.out == j->arrays.x ||
        j->arrays.out == j->arrays.residual)
        return 0;
    const int is_repeated = j->layout == LAYOUT_REPEATED;
    const size_t run_bytes = j->layout == LAYOUT_GATHERED ? n_bytes
                             : is_repeated                ? j->arrays.n_repeats * j->elem_bytes
                                                          : j->row_positions * j->elem_bytes;
    return run_bytes >= MIN_STREAMED_BYTES || (is_repeated && run_bytes % LINE_BYTES == 0);
}

int job_is_copy(const job_request *request)
{
    return request->kernel == OPERATION_apply_mask && is_zero(request->p) && is_zero(request->shift) &&
           bits_of_double(request->scale) == bits_of_double(1.0);
}

int job_plan(job *j, const job_request *request)
{
    if (!is_valid(request))
        return -1;
    const int parts = parts_of(request->kernel);
    j->kernel = request->kernel;
    j->dtype = request->kernel == JOB_FILL_KEEP ? 0 : request->dtype;
    j->elem_bytes = request->kernel == JOB_FILL_KEEP ? 1 : dtype_table[j->dtype].n_bytes;
    j->n_elems = request->n_elems;
    /* Field by field: gcc makes a slow string instruction of a struct that is mostly zero. */
    j->arrays.out = request->out;
    j->arrays.x = parts & WITHOUT_X ? NULL : request->x;
    j->arrays.residual = parts & READS_RESIDUAL ? request->residual : NULL;
    j->arrays.bias = j->arrays.bias_seam = NULL;
    j->arrays.bias_period = j->arrays.bias_at = 0;
    j->arrays.n_repeats = request->n_repeats > 1 ? request->n_repeats : 1;
    j->arrays.scale = parts & WITH_NOISE ? request->scale : scale_in(j->dtype, request->scale);
    j->arrays.shift = request->shift;
    j->arrays.fill = request->fill;
    j->arrays.is_streamed = 0;
    j->rule.key = request->key;
    set_threshold(&j->rule, parts & WITH_NOISE ? 0.0 : request->p);
    j->first = request->first;
    if (j->n_elems == 0) {
        j->layout = LAYOUT_NONE;
        return 0;
    }
    if (job_is_copy(request)) { /* a multiplication by 1 would quiet a signalling NaN */
        j->layout = LAYOUT_COPY;
        return 0;
    }
    if (j->kernel == OPERATION_apply_mask && !(is_zero(request->fill) && is_zero(request->shift)))
        j->kernel = OPERATION_alpha_dropout;
    if (parts & WITH_BIAS)
        lay_bias(j, request->bias, request->n_bias, request->bias_first);
    if (request->n_axes > 0) {
        lay_rows(j, request);
    } else {
        j->n_levels = 0;
        j->row_positions = j->arrays.n_repeats == 1 ? j->n_elems : j->n_elems / j->arrays.n_repeats;
    }
    j->layout = choose_layout(j);
    j->arrays.is_streamed =
        request->stores == STORES_PAST_CACHES || (request->stores == STORES_BY_SIZE && outgrows_caches(j, parts));
    return 0;
}

/* ---- one kernel on one piece ---- */

/* The arrays from element i on. Keeps is_streamed only if the first whole group, which begins n_to_group elements after
 * i, is aligned to STREAM_ALIGN; run_repeats checks the length of a run. */
static inline operands arrays_at(const job *j, size_t i, size_t n_to_group)
{
    operands at = operands_at(&j->arrays, i, j->elem_bytes);
    if (at.is_streamed)
        at.is_streamed = ((uintptr_t)at.out + n_to_group * j->elem_bytes) % STREAM_ALIGN == 0;
    return at;
}

static void run_range(const job *j, size_t i, uint64_t first, size_t n_elems)
{
    if (j->kernel == JOB_FILL_KEEP) {
        kernels->fill_keep((uint8_t *)j->arrays.out + i, &j->rule, first, n_elems);
        return;
    }
    if (i == 0 && !j->arrays.is_streamed) { /* a small call: without a copy of the operands */
        kernels->dtype[j->dtype]->range[j->kernel](&j->arrays, &j->rule, first, n_elems);
        return;
    }
    const int has_groups = j->kernel != OPERATION_relu_dropout_backward;
    const operands at = arrays_at(j, i, has_groups ? (size_t)(-first % ELEMS_PER_GROUP) : 0);
    kernels->dtype[j->dtype]->range[j->kernel](&at, &j->rule, first, n_elems);
}

static void run_words(const job *j, size_t i, const uint64_t *words, size_t n_elems)
{
    if (j->kernel == JOB_FILL_KEEP) {
        for (size_t e = 0; e < n_elems; e++)
            j->arrays.out[i + e] = (char)(words[e / ELEMS_PER_GROUP] >> (e % ELEMS_PER_GROUP) & 1);
        return;
    }
    const operands at = arrays_at(j, i, 0);
    kernels->dtype[j->dtype]->words(&at, words, n_elems, j->kernel);
}

/* ---- rows ---- */

static uint64_t first_of_row(const job *j, size_t row)
{
    uint64_t first = j->first;
    for (int level = j->n_levels - 1; level >= 0; level--) {
        first += row % j->row_lens[level] * j->row_strides[level];
        row /= j->row_lens[level];
    }
    return first;
}

/* The rows from one on, and where each begins in the stream: within the innermost level one stride leads from row to
 * row. */
typedef struct {
    size_t row;
    size_t n_ahead; /* rows to which the stride still leads, this one included */
    uint64_t first;
} row_walk;

static row_walk walk_from_row(const job *j, size_t row)
{
    const int level = j->n_levels - 1;
    return (row_walk){
        .row = row,
        .n_ahead = level < 0 ? 1 : j->row_lens[level] - row % j->row_lens[level],
        .first = first_of_row(j, row),
    };
}

static void next_row(const job *j, row_walk *walk)
{
    if (--walk->n_ahead == 0) {
        *walk = walk_from_row(j, walk->row + 1);
    } else {
        walk->row++;
        walk->first += j->row_strides[j->n_levels - 1];
    }
}

/* Elements begin .. end - 1, one a position, row by row. */
static void run_rows(const job *j, size_t begin, size_t end)
{
    if (begin == end)
        return;
    row_walk walk = walk_from_row(j, begin / j->row_positions);
    for (size_t at = begin % j->row_positions; begin < end; at = 0, next_row(j, &walk)) {
        const size_t n = smaller(j->row_positions - at, end - begin);
        run_range(j, begin, walk.first + at, n);
        begin += n;
    }
}

/* The innermost level is one along which rows share their mask. */
static void run_shared_rows(const job *j, size_t begin, size_t end)
{
    uint64_t words[MAX_WORDS];
    const size_t n_sharing = j->row_lens[j->n_levels - 1], length = j->row_positions;
    const size_t first_row = (begin + length - 1) / length, end_row = end / length;
    if (first_row >= end_row) { /* no whole row */
        run_rows(j, begin, end);
        return;
    }
    run_rows(j, begin, first_row * length);
    for (size_t row = first_row; row < end_row; row++) {
        if (row == first_row || row % n_sharing == 0)
            kernels->fill_words(words, &j->rule, first_of_row(j, row), length);
        run_words(j, row * length, words, length);
    }
    run_rows(j, end_row * length, end);
}

/* ---- long runs of elements that share a position ---- */

static uint64_t position_of(const job *j, size_t i_position)
{
    return first_of_row(j, i_position / j->row_positions) + i_position % j->row_positions;
}

/* Positions begin .. end - 1, of n_repeats elements each, that begin at element i. */
static void run_repeats(const job *j, size_t i, size_t begin, size_t end, size_t n_repeats)
{
    while (begin < end) {
        const size_t n = smaller(j->row_positions - begin % j->row_positions, end - begin);
        operands at = arrays_at(j, i, 0);
        at.n_repeats = n_repeats;
        at.is_streamed = at.is_streamed && n_repeats * j->elem_bytes % STREAM_ALIGN == 0;
        kernels->dtype[j->dtype]->repeat(&at, &j->rule, position_of(j, begin), n, j->kernel);
        i += n * n_repeats;
        begin += n;
    }
}

/* Elements begin .. end - 1, all of one position. */
static void run_within_position(const job *j, size_t begin, size_t end)
{
    const size_t n = end - begin, i_position = begin / j->arrays.n_repeats;
    uint64_t word;
    if (n >= MIN_REPEATS) {
        run_repeats(j, begin, i_position, i_position + 1, n);
    } else if (n > 0) {
        kernels->fill_words(&word, &j->rule, position_of(j, i_position), 1);
        word = -(word & 1);
        run_words(j, begin, &word, n);
    }
}

static void run_repeated(const job *j, size_t begin, size_t end)
{
    const size_t n_repeats = j->arrays.n_repeats;
    const size_t first_whole = (begin + n_repeats - 1) / n_repeats, end_whole = end / n_repeats;
    if (first_whole > end_whole) {
        run_within_position(j, begin, end);
        return;
    }
    run_within_position(j, begin, first_whole * n_repeats);
    run_repeats(j, first_whole * n_repeats, first_whole, end_whole, n_repeats);
    run_within_position(j, end_whole * n_repeats, end);
}

/* ---- short runs: keep words put together ---- */

/* The keep words of one block, for all the rows that take positions of it. One word more, so that 64 bits can be read
 * from any bit on. */
typedef struct {
    uint64_t block;
    uint64_t words[WORDS_PER_BLOCK + 1];
} block_words;

/* Makes the keep words of n_positions positions, all of one block, unless they are at hand; returns at which bit the
 * first one is. Where the next row is far away, a row's own positions are all that is made. */
static size_t make_words(const job *j, block_words *made, uint64_t first, size_t n_positions)
{
    const int is_far = j->n_levels > 0 && j->row_strides[j->n_levels - 1] > limits.max_gathered_stride;
    const uint64_t block = first / ELEMS_PER_BLOCK;
    if (is_far) {
        kernels->fill_words(made->words, &j->rule, first, n_positions);
        made->block = UINT64_MAX; /* a limit that changes meanwhile must not find these as a block's */
        return 0;
    }
    if (made->block != block) {
        kernels->fill_words(made->words, &j->rule, block * ELEMS_PER_BLOCK, ELEMS_PER_BLOCK);
        made->block = block;
    }
    return (size_t)(first % ELEMS_PER_BLOCK);
}

/* Copies bits bit .. bit + n_bits - 1 of source behind the first `at` bits of to, beyond which its word is 0. Reads one
 * word more than it copies from, and writes one more. */
static void append_bits(uint64_t *to, size_t at, const uint64_t *source, size_t bit, size_t n_bits)
{
    while (n_bits > 0) {
        const size_t n = smaller(n_bits, 64);
        uint64_t copied = source[bit / 64] >> bit % 64 | source[bit / 64 + 1] << 1 << (63 - bit % 64);
        if (n < 64)
            copied &= ((uint64_t)1 << n) - 1;
        to[at / 64] |= copied << at % 64;
        to[at / 64 + 1] = copied >> 1 >> (63 - at % 64);
        at += n;
        bit += n;
        n_bits -= n;
    }
}

/* n copies of one bit behind the first `at` bits of to; the rest as in append_bits. */
static inline void append_copies(uint64_t *to, size_t at, uint64_t bit, size_t n)
{
    while (n > 0) {
        const size_t n_here = smaller(n, 64);
        const uint64_t copies = -bit >> (64 - n_here);
        to[at / 64] |= copies << at % 64;
        to[at / 64 + 1] = copies >> 1 >> (63 - at % 64);
        at += n_here;
        n -= n_here;
    }
}

/* The keep bits of positions first .. first + n_positions - 1. */
static void append_run(const job *j, block_words *made, uint64_t *to, size_t at, uint64_t first, size_t n_positions)
{
    while (n_positions > 0) {
        const size_t n = smaller(n_positions, ELEMS_PER_BLOCK - (size_t)(first % ELEMS_PER_BLOCK));
        const size_t bit = make_words(j, made, first, n);
        append_bits(to, at, made->words, bit, n);
        first += n;
        at += n;
        n_positions -= n;
    }
}

/* Each of the bits bit .. bit + n_bits - 1 of source n_repeats < 64 times behind the first `at` bits of to; the rest as
 * in append_bits. Positions are few instructions each: what is not yet a whole word stays in a register. */
static void append_short_repeats(uint64_t *to, size_t at, const uint64_t *source, size_t bit, size_t n_bits,
                                 unsigned n_repeats)
{
    const uint64_t all = ((uint64_t)1 << n_repeats) - 1;
    uint64_t *word = to + at / 64, pending = *word;
    unsigned n_pending = at % 64;
    for (const size_t end = bit + n_bits; bit < end; bit++) {
        const uint64_t copies = -(source[bit / 64] >> bit % 64 & 1) & all;
        pending |= copies << n_pending;
        n_pending += n_repeats;
        if (n_pending >= 64) {
            *word++ = pending;
            n_pending -= 64;
            pending = n_pending == 0 ? 0 : copies >> (n_repeats - n_pending);
        }
    }
    *word = pending;
}

/* The keep bits of n_elems elements, of which the first is element `skip` of position `first`'s run. */
static void append_repeats(const job *j, block_words *made, uint64_t *to, size_t at, uint64_t first, size_t skip,
                           size_t n_elems)
{
    const size_t n_repeats = j->arrays.n_repeats;
    while (n_elems > 0) {
        if (skip == 0 && n_repeats < 64 && n_elems >= n_repeats) {
            const size_t n_left = ELEMS_PER_BLOCK - (size_t)(first % ELEMS_PER_BLOCK);
            const size_t n_positions = smaller(n_elems / n_repeats, n_left);
            const size_t bit = make_words(j, made, first, n_positions);
            append_short_repeats(to, at, made->words, bit, n_positions, (unsigned)n_repeats);
            first += n_positions;
            at += n_positions * n_repeats;
            n_elems -= n_positions * n_repeats;
        } else { /* a part of a run, or a long one */
            const size_t n = smaller(n_elems, n_repeats - skip), bit = make_words(j, made, first, 1);
            append_copies(to, at, made->words[bit / 64] >> bit % 64 & 1, n);
            first++;
            at += n;
            n_elems -= n;
            skip = 0;
        }
    }
}

static void run_gathered(const job *j, size_t begin, size_t end)
{
    uint64_t words[MAX_WORDS + 1];
    block_words made;
    const size_t n_repeats = j->arrays.n_repeats, row_elems = j->row_positions * n_repeats;
    row_walk walk = walk_from_row(j, begin / row_elems);
    size_t at_in_row = begin % row_elems;
    made.block = UINT64_MAX; /* no block: positions end below it */
    made.words[WORDS_PER_BLOCK] = 0;
    while (begin < end) {
        const size_t n_piece = smaller(end - begin, ELEMS_PER_GROUP * MAX_WORDS);
        words[0] = 0;
        for (size_t at = 0; at < n_piece;) {
            const size_t n = smaller(row_elems - at_in_row, n_piece - at);
            if (n_repeats == 1)
                append_run(j, &made, words, at, walk.first + at_in_row, n);
            else
                append_repeats(j, &made, words, at, walk.first + at_in_row / n_repeats, at_in_row % n_repeats, n);
            at += n;
            at_in_row += n;
            if (at_in_row == row_elems) {
                at_in_row = 0;
                next_row(j, &walk);
            }
        }
        run_words(j, begin, words, n_piece);
        begin += n_piece;
    }
}

/* ---- any part ---- */

void job_run(const job *j, size_t begin, size_t end)
{
    const float_mode before = enter_default_mode();
    if (begin < end)
        switch (j->layout) {
        case LAYOUT_NONE:
            break;
        case LAYOUT_COPY:
            if (j->arrays.out != j->arrays.x)
                memcpy(j->arrays.out + begin * j->elem_bytes, j->arrays.x + begin * j->elem_bytes,
                       (end - begin) * j->elem_bytes);
            break;
        case LAYOUT_RUN:
            run_range(j, begin, j->first + begin, end - begin);
            break;
        case LAYOUT_ROWS:
            run_rows(j, begin, end);
            break;
        case LAYOUT_SHARED_ROWS:
            run_shared_rows(j, begin, end);
            break;
        case LAYOUT_REPEATED:
            run_repeated(j, begin, end);
            break;
        case LAYOUT_GATHERED:
            run_gathered(j, begin, end);
            break;
        }
    leave_default_mode(before);
}

/* n * part / n_parts, rounded down, where the product need not fit. */
static size_t share(size_t n, size_t part, size_t n_parts)
{
    return n / n_parts * part + n % n_parts * part / n_parts;
}

/* In whole groups, so that the stores of every part are aligned as the first one's. */
static size_t cut_at_group(size_t n_elems, size_t part, size_t n_parts)
{
    return part == n_parts ? n_elems : share(n_elems / ELEMS_PER_GROUP, part, n_parts) * ELEMS_PER_GROUP;
}

/* At the start of a block, in positions from `first` on. A few blocks among many parts are long runs of elements, or
 * parts that tests have made small: those are cut anywhere. */
static size_t cut_at_block(uint64_t first, size_t n_positions, size_t part, size_t n_parts)
{
    const size_t offset = (size_t)(first % ELEMS_PER_BLOCK);
    const size_t n_blocks =
        (n_positions - 1) / ELEMS_PER_BLOCK + 1 + (offset + (n_positions - 1) % ELEMS_PER_BLOCK) / ELEMS_PER_BLOCK;
    if (n_blocks < n_parts)
        return share(n_positions, part, n_parts);
    if (part == n_parts)
        return n_positions;
    const size_t at = share(n_blocks, part, n_parts) * ELEMS_PER_BLOCK;
    return at <= offset ? 0 : smaller(at - offset, n_positions);
}

size_t job_cut(const job *j, size_t part, size_t n_parts)
{
    const size_t n_repeats = j->arrays.n_repeats;
    switch (j->layout) {
    case LAYOUT_NONE:
        return 0;
    case LAYOUT_RUN:
        return cut_at_block(j->first, j->n_elems, part, n_parts);
    case LAYOUT_SHARED_ROWS:
        return share(j->n_elems / j->row_positions, part, n_parts) * j->row_positions;
    case LAYOUT_ROWS:
        return share(j->n_elems, part, n_parts);
    case LAYOUT_REPEATED:
        if (n_repeats >= MIN_CUT_REPEATS)
            break;
        if (j->n_levels > 0)
            return share(j->n_elems / n_repeats, part, n_parts) * n_repeats;
        return cut_at_block(j->first, j->row_positions, part, n_parts) * n_repeats;
    case LAYOUT_COPY:
    case LAYOUT_GATHERED:
        break;
    }
    return cut_at_group(j->n_elems, part, n_parts);
}
