/* Jobs that move the kept rows and columns of a matrix (job_plan_submatrix), for the C programs of the tests: random
 * requests, requests with a mistake, and the result that a job must have, computed element by element. */
#ifndef CDROPOUT_SUBMATRIX_CALLS_H
#define CDROPOUT_SUBMATRIX_CALLS_H

#include "job_calls.h"

enum { MOST_SUBMATRIX_ELEMS = 30000, MOST_LINE_WORDS = MOST_SUBMATRIX_ELEMS / ELEMS_PER_GROUP + 1 };

/* A request and its dtype; the keep words, which the arrays that a job is given are copied from. */
typedef struct {
    submatrix request; /* without arrays; row_words and column_words are NULL, or any other address */
    int dtype;
    size_t n_kept_rows, n_kept_columns;
    uint64_t row_words[MOST_LINE_WORDS], column_words[MOST_LINE_WORDS];
} test_submatrix;

static inline int is_gathering(const test_submatrix *t)
{
    return t->request.verb == GATHER_KEPT;
}

static inline size_t bytes_of_matrix(const test_submatrix *t)
{
    return t->request.n_rows * t->request.n_columns * dtype_table[t->dtype].n_bytes;
}

static inline size_t bytes_of_dense(const test_submatrix *t)
{
    return t->n_kept_rows * t->n_kept_columns * dtype_table[t->dtype].n_bytes;
}

static inline size_t bytes_of_line_words(size_t n_elems)
{
    return (n_elems + ELEMS_PER_GROUP - 1) / ELEMS_PER_GROUP * sizeof(uint64_t);
}

static inline void describe_submatrix(char *line, size_t n_bytes, const test_submatrix *t)
{
    static const char *const verbs[N_SUBMATRIX_VERBS] = {[GATHER_KEPT] = "gather",
                                                         [SCATTER_KEPT_ZERO] = "scatter, zero",
                                                         [SCATTER_KEPT_SET] = "scatter, set",
                                                         [SCATTER_KEPT_ADD] = "scatter, add"};
    snprintf(line, n_bytes, "%s %s, %zu of %zu rows%s, %zu of %zu columns%s, scale %a", verbs[t->request.verb],
             dtype_table[t->dtype].name, t->n_kept_rows, t->request.n_rows,
             t->request.row_words ? "" : " without words", t->n_kept_columns, t->request.n_columns,
             t->request.column_words ? "" : " without words", t->request.scale);
}

/* ---- random requests ---- */

static inline int is_line_kept(const uint64_t *words, size_t i)
{
    return words == NULL || (words[i / ELEMS_PER_GROUP] >> i % ELEMS_PER_GROUP & 1);
}

/* Fills the words of n_elems decisions, of which some, half, most, all or none keep. Bits beyond n_elems are random: a
 * kernel must ignore them. Returns the number of kept elements. */
static inline size_t make_random_words(uint64_t *words, random_source *source, size_t n_elems)
{
    const size_t how = random_below(source, 6);
    size_t n_kept = 0;
    for (size_t i = 0; i < bytes_of_line_words(n_elems) / sizeof *words; i++) {
        const uint64_t a = source->take(source->from, 8), b = source->take(source->from, 8);
        words[i] = how == 0 ? 0 : how == 1 ? ~(uint64_t)0 : how == 2 ? a & b : how == 3 ? a | b : a;
        if (how < 2 && (i + 1) * ELEMS_PER_GROUP > n_elems)
            words[i] ^= b << n_elems % ELEMS_PER_GROUP;
    }
    for (size_t i = 0; i < n_elems; i++)
        n_kept += (size_t)is_line_kept(words, i);
    return n_kept;
}

static inline void make_random_submatrix(test_submatrix *t, random_source *source, size_t most_elems, double scale)
{
    submatrix *r = &t->request;
    *r = (submatrix){.verb = (int)random_below(source, N_SUBMATRIX_VERBS),
                     .scale = random_below(source, 2) ? 1.0 : scale};
    t->dtype = random_below(source, 2) ? DTYPE_f32 : DTYPE_f64;
    r->n_columns = random_length(source, most_elems);
    r->n_rows = random_length(source, r->n_columns > 0 ? most_elems / r->n_columns : most_elems);
    t->n_kept_rows = make_random_words(t->row_words, source, r->n_rows);
    t->n_kept_columns = make_random_words(t->column_words, source, r->n_columns);
    r->row_words = t->row_words;
    r->column_words = t->column_words;
    if (random_below(source, 3) == 0) {
        r->row_words = NULL;
        t->n_kept_rows = r->n_rows;
    }
    if (random_below(source, 4) == 0) {
        r->column_words = NULL;
        t->n_kept_columns = r->n_columns;
    }
}

/* ---- expected results ---- */

/* Writes to out what becomes of one element x, where out holds the element that was there before. */
static inline void expect_moved(char *out, const char *x, int dtype, double scale, int is_added)
{
    const size_t elem_bytes = dtype_table[dtype].n_bytes;
    if (scale == 1.0 && !is_added) {
        memcpy(out, x, elem_bytes);
    } else if (dtype == DTYPE_f32) {
        float value, before;
        memcpy(&value, x, sizeof value);
        memcpy(&before, out, sizeof before);
        if (scale != 1.0)
            value *= (float)scale;
        if (is_added)
            value += before;
        memcpy(out, &value, sizeof value);
    } else {
        double value, before;
        memcpy(&value, x, sizeof value);
        memcpy(&before, out, sizeof before);
        if (scale != 1.0)
            value *= scale;
        if (is_added)
            value += before;
        memcpy(out, &value, sizeof value);
    }
}

/* Computes the result in `expected`, which holds out's elements before the job. */
static inline void expect_submatrix(char *expected, const char *x, const test_submatrix *t)
{
    const submatrix *r = &t->request;
    const size_t elem_bytes = dtype_table[t->dtype].n_bytes;
    size_t n_done = 0;
    for (size_t row = 0; row < r->n_rows; row++)
        for (size_t column = 0; column < r->n_columns; column++) {
            const size_t whole_at = (row * r->n_columns + column) * elem_bytes, dense_at = n_done * elem_bytes;
            if (is_line_kept(r->row_words, row) && is_line_kept(r->column_words, column)) {
                expect_moved(expected + (is_gathering(t) ? dense_at : whole_at),
                             x + (is_gathering(t) ? whole_at : dense_at), t->dtype, r->scale,
                             r->verb == SCATTER_KEPT_ADD);
                n_done++;
            } else if (r->verb == SCATTER_KEPT_ZERO) {
                memset(expected + whole_at, 0, elem_bytes);
            }
        }
}

/* ---- requests that job_plan_submatrix must refuse ---- */

enum { N_SUBMATRIX_MISTAKES = 9 };

/* Makes one mistake in a request with its arrays. Returns 0 if it is none for this request. */
static inline int make_submatrix_mistake(test_submatrix *t, int mistake)
{
    submatrix *r = &t->request;
    const int is_empty = r->n_rows == 0 || r->n_columns == 0, has_kept = bytes_of_dense(t) > 0;
    switch (mistake) {
    case 0:
    case 1:
        r->verb = mistake == 0 ? -1 : (int)N_SUBMATRIX_VERBS;
        return 1;
    case 2:
    case 3:
        t->dtype = mistake == 2 ? -1 : (int)DTYPE_f16;
        return 1;
    case 4:
    case 5:
        r->scale = mistake == 4 ? NAN : -INFINITY;
        return 1;
    case 6:
        r->x = NULL;
        return has_kept;
    case 7:
        r->out = NULL;
        return has_kept || (!is_empty && r->verb == SCATTER_KEPT_ZERO);
    default:
        r->n_rows = SIZE_MAX;
        return r->n_columns > 1;
    }
}

#endif
