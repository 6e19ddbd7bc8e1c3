/* Jobs that decide on images of which squares are dropped (job_plan_squares), for the C programs of the tests: random
 * requests, requests with a mistake, and the keep words that a job must make, square by square. */
#ifndef CDROPOUT_SQUARES_CALLS_H
#define CDROPOUT_SQUARES_CALLS_H

#include "job_calls.h"

enum { MOST_SQUARES_ELEMS = 150000, MOST_SQUARES_WORDS = MOST_SQUARES_ELEMS / ELEMS_PER_GROUP + 1 };

/* A request without arrays, of which the mask is used. */
typedef struct {
    job_request request;
    squares images;
} test_squares;

static inline size_t elems_of_squares(const test_squares *t)
{
    return t->images.n_images * t->images.height * t->images.width * t->images.n_channels;
}

static inline size_t words_of_squares(const test_squares *t)
{
    return (elems_of_squares(t) + ELEMS_PER_GROUP - 1) / ELEMS_PER_GROUP;
}

static inline void describe_squares(char *line, size_t n_bytes, const test_squares *t)
{
    const squares *s = &t->images;
    snprintf(line, n_bytes, "squares of %zu in %zu images of %zu x %zu with %zu channels, p = %a, from %llu", s->side,
             s->n_images, s->height, s->width, s->n_channels, t->request.p, (unsigned long long)t->request.first);
}

static inline test_squares make_random_squares(random_source *source, size_t most_elems)
{
    test_squares t = {.request = blank_request(OPERATION_apply_mask, DTYPE_f32)};
    squares *s = &t.images;
    const size_t how = random_below(source, 4);
    s->n_channels = how < 2 ? 1 : how == 2 ? 3 : random_length(source, 40);
    s->width = random_length(source, most_elems / (s->n_channels > 0 ? s->n_channels : 1));
    s->width += s->width == 0;
    s->height = random_length(source, most_elems / (s->width * (s->n_channels > 0 ? s->n_channels : 1)));
    s->height += s->height == 0;
    const size_t image_elems = s->height * s->width * s->n_channels;
    s->n_images = image_elems > most_elems ? 0 : random_length(source, image_elems > 0 ? most_elems / image_elems : 3);
    const size_t most_side = s->height < s->width ? s->height : s->width;
    s->side = 1 + random_below(source, most_side < 9 || how == 1 ? most_side : 9);
    const uint64_t first = source->take(source->from, 8), last = UINT64_MAX - most_elems;
    t.request.first = random_below(source, 2) ? first % 10000 : first < last ? first : last;
    t.request.key.word[0] = source->take(source->from, 8);
    t.request.key.word[1] = source->take(source->from, 8);
    const size_t which = random_below(source, 8);
    const double share = (double)random_below(source, 1 << 24) * 0x1p-24;
    t.request.p = which == 0 ? 0.0 : which == 1 ? 1.0 : which == 2 ? share : share / (double)(s->side * s->side);
    return t;
}

/* Computes the keep words square by square. */
static inline void expect_squares(uint64_t *words, const test_squares *t)
{
    const squares *s = &t->images;
    const size_t n_elems = elems_of_squares(t);
    uint64_t position = t->request.first;
    decisions made;
    made.rule.key = t->request.key;
    made.n_positions = 0;
    made.given = NULL;
    set_threshold(&made.rule, t->request.p);
    memset(words, 0, words_of_squares(t) * sizeof *words);
    for (size_t i = 0; i < n_elems; i++)
        words[i / ELEMS_PER_GROUP] |= (uint64_t)1 << i % ELEMS_PER_GROUP;
    for (size_t image = 0; image < s->n_images; image++)
        for (size_t channel = 0; channel < s->n_channels; channel++)
            for (size_t row = 0; row + s->side <= s->height; row++)
                for (size_t column = 0; column + s->side <= s->width; column++, position++) {
                    if (decision_at(&made, position))
                        continue;
                    for (size_t i = 0; i < s->side * s->side; i++) {
                        const size_t line = image * s->height + row + i / s->side;
                        const size_t at = (line * s->width + column + i % s->side) * s->n_channels + channel;
                        words[at / ELEMS_PER_GROUP] &= ~((uint64_t)1 << at % ELEMS_PER_GROUP);
                    }
                }
}

/* Whether the counts of a job that was run are those of its words. */
static inline int are_counts_right(const job *j)
{
    const squares *s = &j->images;
    const size_t unit_elems = s->images_per_unit * s->height * s->width * s->n_channels;
    for (size_t at = 0, count = 0; at < j->n_elems; at += unit_elems, count++) {
        const size_t n_here = unit_elems < j->n_elems - at ? unit_elems : j->n_elems - at;
        if (at % ELEMS_PER_GROUP != 0 || count >= squares_counts(s) ||
            j->bits.counts[count] != count_kept(j->bits.words + at / ELEMS_PER_GROUP, n_here))
            return 0;
    }
    return 1;
}

enum { N_SQUARES_MISTAKES = 9 };

/* Makes one mistake in a request with its arrays. Returns 0 if it is none for this request. */
static inline int make_squares_mistake(test_squares *t, keep_bits *bits, int mistake)
{
    squares *s = &t->images;
    switch (mistake) {
    case 0:
        s->side = 0;
        return 1;
    case 1:
        s->side = s->height + 1;
        return 1;
    case 2:
        s->side = s->width + 1;
        return 1;
    case 3:
    case 4:
        t->request.p = mistake == 3 ? NAN : 1.0 + 0x1p-52;
        return 1;
    case 5:
        s->n_images = SIZE_MAX;
        return s->height * s->width * s->n_channels > 1;
    case 6:
        bits->words = NULL;
        return elems_of_squares(t) > 0;
    case 7:
        bits->counts = NULL;
        return elems_of_squares(t) > 0;
    default:
        bits->of_dropped = 1;
        return 1;
    }
}

#endif
