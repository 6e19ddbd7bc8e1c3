/* Jobs: one call on arrays, planned once and then computed whole or in ranges of its elements.
 *
 * The Cython files in src/ (for Python) and src/c_api.c fill a job_request with arrays, axes and a mask. job_plan
 * (job.c) checks the request and chooses a layout; job_run (job_run.c) then computes any range of the output with the
 * kernels of kernel_table.h:
 *
 *     job_request request = {...};
 *     job j;
 *     if (job_plan(&j, &request) == 0)
 *         job_run(&j, 0, j.n_elems);
 *
 * With n threads, thread i calls job_run(&j, job_cut(&j, i, n), job_cut(&j, i + 1, n)). None of these functions
 * allocates memory, prints, starts threads or calls Python. */
#ifndef CDROPOUT_JOB_H
#define CDROPOUT_JOB_H

#include "rule.h"

/* Layouts: how the elements of the output take positions of the random stream. A run of positions is consecutive
 * positions; a keep word holds the decisions on 64 elements (docs/design.md has a glossary). */
typedef enum {
    LAYOUT_NONE,        /* there are no elements */
    LAYOUT_COPY,        /* nothing is dropped or scaled: the output gets the input's bits */
    LAYOUT_RUN,         /* the elements take one run of positions */
    LAYOUT_ROWS,        /* each row takes a run of positions: rows far apart, or shared ones with too many keep words */
    LAYOUT_SHARED_ROWS, /* several successive rows take the same run: its keep words are computed once for all */
    LAYOUT_REPEATED,    /* neighbouring elements take the same position, and a repeat kernel computes them */
    LAYOUT_GATHERED,    /* other repeats, or rows close together: keep bits are collected in the elements' order */
    LAYOUT_TRIPLED,     /* select on pixels: one run of positions, three bytes to each; one fill value, or three */
    LAYOUT_SUBMATRIX,   /* by job_plan_submatrix: kept rows and columns of a matrix, by keep words that are given */
    LAYOUT_UPDATE,      /* by job_plan_update: a step of an optimizer */
    LAYOUT_UPDATE_KEPT, /* the same with a gradient of kept rows and columns */
    LAYOUT_RECORDED,    /* one run of positions, whose decisions are read from a record (kernel_table.h) */
    LAYOUT_GIVEN,       /* one run of positions, whose decisions are given as keep words */
} job_layout;

/* A job's operation: one of the catalog, or one that computes nothing and has no dtype. The number of a width
 * (kernel_table.h) stands in the field dtype of the last two. */
enum {
    OPERATION_fill_keep =
        N_OPERATIONS,      /* writes a byte for each element, 1 where it is kept and 0 where it is dropped */
    OPERATION_select,      /* out = keep ? x : bias */
    OPERATION_fill_values, /* out = keep ? bias[1] : bias[0]; n_bias is 2 */
    N_JOB_OPERATIONS,
    /* Not for job_plan: functions below plan them. */
    OPERATION_fill_bits = N_JOB_OPERATIONS,
    OPERATION_list_bits,
    OPERATION_fill_draws,
    OPERATION_fill_squares,
};

static inline int steps_of_operation(int operation)
{
    return operation == OPERATION_fill_keep     ? WITHOUT_X
           : operation == OPERATION_select      ? WITH_BIAS
           : operation == OPERATION_fill_values ? WITH_BIAS | WITHOUT_X
                                                : operation_table[operation].steps;
}

/* The bytes of an element of the output. */
static inline size_t elem_bytes_of_operation(int operation, int dtype)
{
    return operation == OPERATION_fill_keep ? 1
           : operation < N_OPERATIONS       ? dtype_table[dtype].n_bytes
                                            : (size_t)1 << dtype;
}

/* How the output is stored. Stores past the caches (streaming or non-temporal stores) spare the processor reading the
 * cache lines that it overwrites. docs/design.md, "Streaming stores", measures when that is faster. */
typedef enum {
    STORES_BY_SIZE, /* past the caches if the arrays are too large for them and the output is not also an input */
    STORES_CACHED,
    STORES_PAST_CACHES,
} job_stores;

enum {
    MAX_AXES = 64,           /* NumPy's limit */
    MAX_KEEP_WORDS = 1024,   /* for a shared row or gathered elements, on the stack of job_run */
    ELEMS_PER_COUNT = 16384, /* of keep_bits */
    /* The time of an element, in those of an element of dropout: limits.min_elems_per_thread is divided by it. */
    LISTED_ELEM_COST = 8,                      /* of one whose index is listed */
    UPDATE_ELEM_COST = 2,                      /* of one in a step of an optimizer */
    PIXEL_ELEMS_PER_COST = 2,                  /* as many of LAYOUT_TRIPLED take about the time of one of dropout */
    BIAS_ROOM_BYTES = 3 * ELEMS_PER_GROUP * 8, /* up to 127 elements of a repeated bias, and its first 64 again */
};

/* What a caller asks for. Arrays are C-contiguous; all except bias have n_elems elements. Fields that the operation
 * does not use are ignored. */
typedef struct {
    int operation;
    int dtype; /* or width; ignored by OPERATION_fill_keep, whose output is bytes */
    stream_key key;
    uint64_t first; /* the position of element 0 */
    double p;
    double scale;       /* of kept elements; for noise, its standard deviation */
    double shift, fill; /* added to kept elements; value of dropped ones. If not 0, apply_mask becomes alpha_dropout */
    char *out;          /* may be x or residual; must not overlap them otherwise */
    const char *x;
    const char *residual;
    const char *bias; /* element i takes bias[(bias_first + i) % n_bias] */
    size_t n_bias, bias_first;
    size_t n_elems;
    /* If n_axes is 0, the elements take one run of positions, n_repeats neighbouring elements to each position (0 means
     * 1); n_repeats divides n_elems. Otherwise lens holds the length of each axis, and strides the distance in
     * positions between neighbours along it, 0 where they share a position; n_elems is the product of lens, and
     * n_repeats is 0. */
    size_t n_repeats;
    int n_axes;
    const size_t *lens;
    const uint64_t *strides;
    job_stores stores;
    /* NULL, or room for as many words as job_record_words returns: the job writes a record of its decisions there, or,
     * if has_record, reads the one that the same kernels wrote for the same key, first, p and n_elems. */
    uint64_t *record;
    int has_record;
    /* NULL, or decisions that are given: bit position % 64 of keep_words[position / 64] is set where the elements of a
     * position are kept, and one more word follows those of all positions. key and p are not used then, n_axes is 0 and
     * n_repeats at most 1. */
    const uint64_t *keep_words;
} job_request;

/* A request whose other fields are 0 or NULL. */
static inline job_request blank_request(int operation, int dtype)
{
    job_request blank; /* field by field: gcc compiles (job_request){0} to `rep stos`, which is slow to start */
    blank.operation = operation;
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
    blank.record = NULL;
    blank.has_record = 0;
    blank.keep_words = NULL;
    return blank;
}

/* The decisions of a mask as bits: bit i % 64 of words[i / 64] is that of element i, and the unused bits of the last
 * word are 0. Count c is that of the bits that are set for elements from c * ELEMS_PER_COUNT on, before the next count.
 */
typedef struct {
    uint64_t *words;
    size_t *counts;
    int64_t *indices;
    int of_dropped; /* a bit is set where an element is dropped, not where it is kept */
    int is_packed;  /* the bits of each byte in reverse order, as numpy.packbits has them */
} keep_bits;

/* Images of which squares are dropped. Their elements have the order (image, row, column, channel). Each place of a
 * square's upper left corner takes a position, in the order (image, channel, row, column). Arrays with the channels
 * first are n_images planes with one channel. */
typedef struct {
    size_t n_images, height, width, n_channels;
    size_t side;            /* of a square; at least 1, and at most height and width */
    size_t images_per_unit; /* set by job_plan_squares */
} squares;

/* A planned request. Do not copy or move it: it may point to its own bias_room. */
typedef struct {
    job_layout layout;
    int operation;
    int dtype;
    size_t elem_bytes; /* of the output */
    size_t n_elems;
    operands arrays;
    submatrix matrix;    /* of LAYOUT_SUBMATRIX and LAYOUT_UPDATE_KEPT */
    param_update update; /* of LAYOUT_UPDATE and LAYOUT_UPDATE_KEPT: these three use neither arrays nor what follows */
    keep_bits bits;      /* of OPERATION_fill_bits, OPERATION_list_bits and OPERATION_fill_squares */
    squares images;      /* of OPERATION_fill_squares */
    const uint64_t *record;     /* of LAYOUT_RECORDED */
    const uint64_t *keep_words; /* of LAYOUT_GIVEN */
    mask_rule rule;
    uint64_t first;
    /* The output is rows of row_positions positions, arrays.n_repeats elements to each. n_levels nested loops go
     * through the rows, the outermost first: level l has level_lens[l] iterations, level_strides[l] positions apart. */
    size_t row_positions;
    int n_levels;
    size_t level_lens[MAX_AXES];
    uint64_t level_strides[MAX_AXES];
    char bias_room[BIAS_ROOM_BYTES];
} job;

/* The numbers that decide how jobs are laid out and divided among threads. Benchmarks and tests change them. Their
 * measurements are in docs/design.md ("Threads", "Signals", "Streaming stores", "Parts"). */
typedef struct {
    size_t max_cached_bytes;              /* a call that reads and writes more than this outgrows the caches */
    uint64_t max_gathered_stride;         /* positions; rows that begin further apart are not gathered */
    size_t min_recorded_elems;            /* with fewer, a record costs more time than it saves */
    size_t max_recorded_elems;            /* with more, it would take much memory, and save little time */
    size_t min_elems_per_thread;          /* with fewer, a second thread costs more time than it saves */
    size_t min_elems_per_xla_thread;      /* the same on XLA's threads, which the caller does not wait for */
    size_t min_elems_without_gil;         /* with fewer, releasing the GIL costs more time than it saves */
    size_t max_elems_per_slice;           /* a thread computes so many, then looks at the clock, for signals */
    uint64_t microseconds_between_checks; /* for signals */
    uint64_t microseconds_of_quota;       /* how long a CPU quota that was read is taken as valid */
} job_limits;

extern job_limits limits;

/* Plans a request. Returns 0; or -1 if a number is out of its range, an array that the operation reads or writes is
 * NULL, n_repeats does not divide n_elems, or an operation without a mask has axes or repeats. */
int job_plan(job *j, const job_request *request);

/* How many words a record of the request's decisions has; 0 if it cannot have one, or none that saves time. */
size_t job_record_words(const job_request *request);

/* Plans moving the kept elements of a matrix (kernel_table.h). The job's elements are those of the whole matrix, and
 * its ranges are cut between rows. Returns -1 if the verb is unknown, the dtype is not float32 or float64, the scale is
 * not finite, the matrix has too many elements for a size_t, or an array that has elements is NULL. */
int job_plan_submatrix(job *j, const submatrix *request, int dtype);

/* Plans a step of an optimizer (kernel_table.h) on n_elems elements or, if kept is not NULL, on a matrix of as many, of
 * whose gradient there are kept rows and columns. Returns -1 if the rule or the verb of kept is not one for steps, the
 * dtype is not float32 or float64, a number is not finite, kept has another number of elements, or an array of the
 * request is NULL although there are elements. */
int job_plan_update(job *j, const param_update *request, const submatrix *kept, size_t n_elems, int dtype);
/* Plans making the decisions of a mask as bits: of the request, the mask, the axes and n_elems. Without words, bits are
 * only counted, and count c may hold the bits of the elements of later counts, which are then 0; without counts, bits
 * are not counted. At least one of them must be given. Returns as job_plan. */
int job_plan_bits(job *j, const job_request *request, const keep_bits *bits);

/* Plans listing the indices of the set bits of words that a job of job_plan_bits has made. counts holds for each count
 * the sum of those before it, and indices has room for the sum of all. */
void job_plan_list(job *j, const keep_bits *bits, size_t n_elems);

/* Plans making the decisions on images of which squares are dropped: bits, without of_dropped and is_packed, of their
 * elements. Of the request, the mask of the corners: key, first and p. Count c, of squares_counts(images), is that of
 * the kept elements of unit c: units are whole images, and all except the last have the same number of whole words.
 * Returns -1 if a number is out of its range, or an array is NULL although there are elements. */
int job_plan_squares(job *j, const job_request *request, const squares *images, const keep_bits *bits);
size_t squares_counts(const squares *images);

/* Plans kernels->fill_draws. */
void job_plan_draws(job *j, uint8_t *out, const double *p, const stream_key *key, uint64_t first, size_t n_elems);

/* How many of the first n_elems bits of keep words are set, by kernels->count_bits; n_elems if words is NULL. */
size_t count_kept(const uint64_t *words, size_t n_elems);

/* Whether the request only copies x: nothing is dropped, scaled or added. */
int job_is_copy(const job_request *request);

/* Computes elements begin .. end - 1 in the default floating-point mode (rounding to nearest, subnormal numbers, no
 * traps). Threads may run ranges of one job at the same time; the division into ranges does not change the result. */
void job_run(const job *j, size_t begin, size_t end);

/* How many elements a thread of a call needs at least, as measured (docs/design.md, "Threads"). */
size_t job_min_elems_per_thread(const job *j);

/* The element at which range i of n_ranges begins; i = n_ranges gives n_elems. A run of positions is cut at blocks if
 * possible, so that none is seeded twice; shared rows between rows, repeats between positions, other rows anywhere.
 * Copies, gathered elements and very long repeats are cut at multiples of 64 elements, which keeps stores aligned; bits
 * where counts begin, which is between images for squares. */
size_t job_cut(const job *j, size_t i, size_t n_ranges);

#endif
