/* The planner: arrays, axes and a mask become a layout and a kernel, once, and any part of the work can then be run.
 *
 *     job_request request = {...};
 *     job j;
 *     if (job_plan(&j, &request) == 0)
 *         job_run(&j, 0, j.n_elems);
 *
 * or, on several threads, job_run(&j, job_cut(&j, part, n_parts), job_cut(&j, part + 1, n_parts)) for each part.
 * Nothing here allocates, prints, starts a thread or knows of Python. */
#ifndef CDROPOUT_JOB_H
#define CDROPOUT_JOB_H

#include "rule.h"

/* How the elements of the output lie in the stream. */
typedef enum {
    LAYOUT_NONE,        /* no elements */
    LAYOUT_COPY,        /* nothing is dropped or scaled: the input's bits */
    LAYOUT_RUN,         /* one run of positions */
    LAYOUT_ROWS,        /* rows that each take one run */
    LAYOUT_SHARED_ROWS, /* rows of which several in turn take the same run: its keep words are made once for them */
    LAYOUT_REPEATED,    /* each position covers a long run of elements */
    LAYOUT_GATHERED,    /* many short runs: their keep words are put together in the order of the elements */
} job_layout;

/* What is computed: an operation of the catalog, by its number, or this. A request for apply_mask with a shift or a
 * fill is planned as alpha_dropout. */
enum { JOB_FILL_KEEP = N_OPERATIONS, N_JOB_KERNELS };

/* How the output is stored. */
typedef enum {
    STORES_BY_SIZE, /* past the caches where the arrays outgrow them and the output is not also an input */
    STORES_CACHED,
    STORES_PAST_CACHES,
} job_stores;

enum {
    MAX_AXES = 64,                             /* NumPy's limit */
    BIAS_ROOM_BYTES = 3 * ELEMS_PER_GROUP * 8, /* a period of up to two groups, and one more */
};

/* What a caller asks for. Arrays are C-contiguous; all except bias have n_elems elements. Zero what is not used. */
typedef struct {
    int kernel;
    int dtype; /* ignored by JOB_FILL_KEEP, whose output is bytes */
    stream_key key;
    uint64_t first; /* the position of element 0 */
    double p;
    double scale; /* std of noise */
    double shift, fill;
    char *out; /* may be x or residual; must not overlap them otherwise */
    const char *x;
    const char *residual;
    const char *bias; /* element i takes bias[(bias_first + i) % n_bias] */
    size_t n_bias;
    size_t bias_first;
    size_t n_elems;
    /* With n_axes = 0 the elements take one run of positions, n_repeats neighbours each (0 means 1). Otherwise lens and
     * strides say for each axis how long it is and how many positions apart its neighbours are, 0 where they share one;
     * n_elems is then the product of lens, and n_repeats is not used. n_repeats divides n_elems. */
    size_t n_repeats;
    int n_axes;
    const size_t *lens;
    const uint64_t *strides;
    job_stores stores;
} job_request;

/* A request without arrays: what is not set is zero. */
static inline job_request blank_request(int kernel, int dtype)
{
    job_request blank; /* field by field: gcc makes a slow string instruction of (job_request){0} */
    blank.kernel = kernel;
    blank.dtype = dtype;
    blank.key.word[0] = blank.key.word[1] = blank.first = 0;
    blank.p = blank.scale = blank.shift = blank.fill = 0.0;
    blank.out = NULL;
    blank.x = blank.residual = blank.bias = NULL;
    blank.n_bias = blank.bias_first = blank.n_elems = blank.n_repeats = 0;
    blank.n_axes = 0;
    blank.lens = NULL;
    blank.strides = NULL;
    blank.stores = STORES_BY_SIZE;
    return blank;
}

/* A planned request. Points into itself: use it where it was planned. */
typedef struct {
    job_layout layout;
    int kernel;
    int dtype;
    size_t elem_bytes; /* of the output */
    size_t n_elems;
    operands arrays;
    mask_rule rule;
    uint64_t first;
    /* Rows of row_positions positions, arrays.n_repeats elements each. Where rows differ in their masks, row_lens and
     * row_strides say, for each level of nesting, how many there are and how many positions apart. */
    size_t row_positions;
    int n_levels;
    size_t row_lens[MAX_AXES];
    uint64_t row_strides[MAX_AXES];
    char bias_room[BIAS_ROOM_BYTES];
} job;

/* What decides how work is laid out and shared; benchmarks and tests change it. The figures behind them stand
 * in docs/design.md ("Threads", "Signals", "Streaming stores", "Parts"). */
typedef struct {
    size_t max_cached_bytes;              /* above this, what a call reads and writes outgrows the caches */
    uint64_t max_gathered_stride;         /* positions: rows further apart are worth seeding a block for */
    size_t min_elems_per_thread;          /* with fewer, a second thread costs more than it brings */
    size_t min_elems_without_gil;         /* with fewer, releasing the GIL costs more than it brings */
    size_t max_elems_per_slice;           /* of a call that looks for signals between its slices */
    uint64_t microseconds_between_checks; /* for signals */
    uint64_t microseconds_of_quota;       /* for which an answer about the CPU quota holds */
} job_limits;

extern job_limits limits;

/* Plans a request. Returns 0, or -1 where a number is not in its list or range, an array that the operation needs is
 * NULL, or the operation cannot be laid out along axes. */
int job_plan(job *j, const job_request *request);

/* Whether the request only copies x: nothing is dropped, scaled or added. */
int job_is_copy(const job_request *request);

/* Elements begin .. end - 1 of the output, in the default floating-point mode. Any thread may run any range; the result
 * does not depend on how elements are cut into ranges. */
void job_run(const job *j, size_t begin, size_t end);

/* Where part `part` of n_parts begins: no block is seeded twice and stores stay aligned, where that is possible. */
size_t job_cut(const job *j, size_t part, size_t n_parts);

#endif
