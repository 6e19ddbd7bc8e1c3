/* Jobs that make a step of an optimizer (job_plan_update), for the C programs of the tests: random requests, requests
 * with a mistake, and the result that a job must have, computed element by element. */
#ifndef CDROPOUT_UPDATE_CALLS_H
#define CDROPOUT_UPDATE_CALLS_H

#include "submatrix_calls.h"

/* A request; its kept rows and columns, if has_kept, and in any case its dtype and the shape of its arrays. */
typedef struct {
    param_update request; /* without arrays */
    int has_kept;
    test_submatrix kept; /* without arrays except words */
} test_update;

/* The arrays of a step. */
typedef struct {
    char *param, *first, *second;
} updated_arrays;

static inline size_t elems_of_update(const test_update *t)
{
    return t->kept.request.n_rows * t->kept.request.n_columns;
}

static inline size_t bytes_of_updated(const test_update *t)
{
    return bytes_of_matrix(&t->kept);
}

static inline size_t bytes_of_grad(const test_update *t)
{
    return t->has_kept ? bytes_of_dense(&t->kept) : bytes_of_matrix(&t->kept);
}

static inline void describe_update(char *line, size_t n_bytes, const test_update *t)
{
    static const char *const rules[N_UPDATE_RULES] = {
        [UPDATE_MOMENTUM] = "momentum", [UPDATE_NESTEROV] = "nesterov", [UPDATE_ADAM] = "adam"};
    char kept[300] = "whole";
    if (t->has_kept)
        describe_submatrix(kept, sizeof kept, &t->kept);
    snprintf(line, n_bytes, "step of %s, %zu elements of %s, l2 %a, %s", rules[t->request.rule], elems_of_update(t),
             dtype_table[t->kept.dtype].name, t->request.l2, kept);
}

static inline int plan_update(job *j, const test_update *t)
{
    return job_plan_update(j, &t->request, t->has_kept ? &t->kept.request : NULL, elems_of_update(t), t->kept.dtype);
}

static inline void make_random_update(test_update *t, random_source *source, size_t most_elems)
{
    submatrix *r = &t->kept.request;
    make_random_submatrix(&t->kept, source, most_elems, 1.25);
    r->verb = random_below(source, 2) ? SCATTER_KEPT_SET : SCATTER_KEPT_ZERO;
    if (r->verb == SCATTER_KEPT_SET)
        r->scale = 1.0;
    t->has_kept = (int)random_below(source, 2);
    t->request = (param_update){.rule = (int)random_below(source, N_UPDATE_RULES),
                                .l2 = random_below(source, 2) ? 0.01 : 0.0,
                                .decay_first = 0.9,
                                .add_first = random_below(source, 2) ? 1.0 : 0.1,
                                .decay_second = 0.999,
                                .add_second = 0.001,
                                .eps = 1e-8,
                                .factor = -0.03};
}

/* ---- expected results ---- */

#define DEFINE_EXPECT_UPDATED(number, square_root)                                                                     \
    static inline void expect_updated_##number(const updated_arrays *at, size_t i, number grad, const param_update *u) \
    {                                                                                                                  \
        number param, first, second = 0;                                                                               \
        memcpy(&param, at->param + i * sizeof param, sizeof param);                                                    \
        memcpy(&first, at->first + i * sizeof first, sizeof first);                                                    \
        if (u->l2 != 0)                                                                                                \
            grad = grad + param * (number)u->l2;                                                                       \
        const number step = grad * (number)u->add_first;                                                               \
        first = first * (number)u->decay_first + step;                                                                 \
        number direction = first;                                                                                      \
        if (u->rule == UPDATE_ADAM) {                                                                                  \
            memcpy(&second, at->second + i * sizeof second, sizeof second);                                            \
            second = second * (number)u->decay_second + grad * grad * (number)u->add_second;                           \
            direction = first / (square_root(second) + (number)u->eps);                                                \
            memcpy(at->second + i * sizeof second, &second, sizeof second);                                            \
        }                                                                                                              \
        if (u->rule == UPDATE_NESTEROV)                                                                                \
            param = param + step;                                                                                      \
        param = param + direction * (number)u->factor;                                                                 \
        memcpy(at->param + i * sizeof param, &param, sizeof param);                                                    \
        memcpy(at->first + i * sizeof first, &first, sizeof first);                                                    \
    }
DEFINE_EXPECT_UPDATED(float, sqrtf)
DEFINE_EXPECT_UPDATED(double, sqrt)
#undef DEFINE_EXPECT_UPDATED

/* Changes arrays from what they hold before the job to what they hold after it. */
static inline void expect_update(const updated_arrays *at, const char *grad, const test_update *t)
{
    const submatrix *r = &t->kept.request;
    const size_t elem_bytes = dtype_table[t->kept.dtype].n_bytes;
    size_t n_done = 0;
    for (size_t i = 0; i < elems_of_update(t); i++) {
        const int is_kept = !t->has_kept || (is_line_kept(r->row_words, i / r->n_columns) &&
                                             is_line_kept(r->column_words, i % r->n_columns));
        double value = 0;
        float value_f32 = 0;
        if (!is_kept && r->verb == SCATTER_KEPT_SET)
            continue;
        if (is_kept && t->kept.dtype == DTYPE_f32)
            memcpy(&value_f32, grad + n_done++ * elem_bytes, elem_bytes);
        else if (is_kept)
            memcpy(&value, grad + n_done++ * elem_bytes, elem_bytes);
        if (is_kept && t->has_kept && r->scale != 1.0) {
            value_f32 *= (float)r->scale;
            value *= r->scale;
        }
        if (t->kept.dtype == DTYPE_f32)
            expect_updated_float(at, i, value_f32, &t->request);
        else
            expect_updated_double(at, i, value, &t->request);
    }
}

/* ---- requests that job_plan_update must refuse ---- */

enum { N_UPDATE_MISTAKES = 18 };

/* Makes one mistake in a request with its arrays. Returns 0 if it is none for this request. */
static inline int make_update_mistake(test_update *t, int mistake)
{
    param_update *u = &t->request;
    submatrix *r = &t->kept.request;
    double *const numbers[] = {&u->l2,         &u->decay_first, &u->add_first, &u->decay_second,
                               &u->add_second, &u->eps,         &u->factor};
    const int n_numbers = sizeof numbers / sizeof *numbers;
    const size_t n_elems = elems_of_update(t);
    if (mistake < n_numbers) {
        *numbers[mistake] = mistake % 2 ? NAN : -INFINITY;
        return 1;
    }
    switch (mistake - n_numbers) {
    case 0:
    case 1:
        u->rule = mistake == n_numbers ? -1 : (int)N_UPDATE_RULES;
        return 1;
    case 2:
    case 3:
        t->kept.dtype = mistake == n_numbers + 2 ? -1 : (int)DTYPE_f16;
        return 1;
    case 4:
        u->param = NULL;
        return n_elems > 0;
    case 5:
        u->first = NULL;
        return n_elems > 0;
    case 6:
        u->second = NULL;
        return n_elems > 0 && u->rule == UPDATE_ADAM;
    case 7:
        u->grad = NULL;
        return n_elems > 0;
    case 8:
        r->verb = n_elems % 2 ? GATHER_KEPT : SCATTER_KEPT_ADD;
        return t->has_kept;
    case 9:
        r->scale = INFINITY;
        return t->has_kept;
    default:
        r->scale = 2.0;
        return t->has_kept && r->verb == SCATTER_KEPT_SET;
    }
}

#endif
