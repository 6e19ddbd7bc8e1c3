/* The decisions on the elements of images of which squares are dropped (job.h declares squares).
 *
 * The keep words of a unit, some whole images, are made in place, in three steps. (1) For each dropped corner, the bit
 * of its square's last element is set. (2) Passes over the words set a bit where the one some distance further is set:
 * with distances that sum to side - 1 columns and side - 1 rows, and of which none exceeds what is covered before it,
 * the bits of whole squares. No bit reaches another row or image, because each square lies in its image. (3) All bits
 * are inverted and counted.
 *
 * A pass needs words that are complete in the pass before. So each follows the one before it at that distance, and all
 * of them work on words that are in the first-level cache, whatever the size of an image. */
#include "squares.h"

#include <string.h>

enum {
    BLOCKS_AT_A_TIME = 4, /* whose decisions on corners take 2 KiB, between two passes */
    MAX_PASSES = 2 * 64,  /* each doubles what is covered along one of two axes */
};

typedef struct {
    uint64_t *words;
    size_t n_words;
    size_t n_kept;
    int n_passes;
    size_t distance[MAX_PASSES]; /* in bits */
    size_t n_done[MAX_PASSES];   /* words that a pass has made */
    size_t n_inverted;
} unit;

static inline size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

static void add_passes(unit *u, size_t side, size_t stride)
{
    size_t n_covered = 1;
    while (n_covered < side) {
        const size_t n_more = smaller(n_covered, side - n_covered);
        u->distance[u->n_passes] = n_more * stride;
        u->n_done[u->n_passes++] = 0;
        n_covered += n_more;
    }
}

/* Brings all passes forward, with n_placed words that no further corner changes. */
static void follow(unit *u, size_t n_placed)
{
    size_t n_ready = n_placed;
    for (int pass = 0; pass < u->n_passes; pass++) {
        const size_t n_behind = u->distance[pass] / ELEMS_PER_GROUP + 1, done = u->n_done[pass];
        n_ready = n_ready > n_behind ? n_ready - n_behind : 0;
        if (n_ready > done)
            kernels->or_bits_ahead(u->words + done, n_ready - done, u->distance[pass]);
        u->n_done[pass] = n_ready;
    }
    kernels->invert_bits(u->words + u->n_inverted, n_ready - u->n_inverted, &u->n_kept);
    u->n_inverted = n_ready;
}

/* The same when all corners are placed: behind the last word there are zeros. */
static void finish(unit *u)
{
    for (int pass = 0; pass < u->n_passes; pass++) {
        const size_t n_ahead = u->distance[pass] / ELEMS_PER_GROUP, done = u->n_done[pass];
        if (n_ahead >= u->n_words)
            continue;
        const size_t last = u->n_words - 1 - n_ahead;
        kernels->or_bits_ahead(u->words + done, last - done, u->distance[pass]);
        u->words[last] |= u->words[u->n_words - 1] >> u->distance[pass] % ELEMS_PER_GROUP;
    }
    kernels->invert_bits(u->words + u->n_inverted, u->n_words - u->n_inverted, &u->n_kept);
}

/* Where the next corner is, counted from the unit's first element. */
typedef struct {
    size_t image_at; /* the image's first element */
    size_t row_at;   /* the last element of the square whose corner is the first of the row */
    size_t channel, row, column;
} corner;

static void begin_channel(corner *at, const squares *s)
{
    at->row_at = at->image_at + ((s->side - 1) * s->width + s->side - 1) * s->n_channels + at->channel;
    at->row = 0;
}

static void next_row(corner *at, const squares *s)
{
    at->column = 0;
    at->row_at += s->width * s->n_channels;
    if (++at->row <= s->height - s->side)
        return;
    if (++at->channel == s->n_channels) {
        at->channel = 0;
        at->image_at += s->height * s->width * s->n_channels;
    }
    begin_channel(at, s);
}

/* Sets the bits of n_corners neighbours in a row, at most 64, of which `dropped` has those that are dropped. */
static inline void place(uint64_t *words, const corner *at, const squares *s, uint64_t dropped)
{
    size_t bit = at->row_at + at->column * s->n_channels;
    if (s->n_channels == 1) {
        const uint64_t beyond = dropped >> 1 >> (63 - bit % 64);
        words[bit / 64] |= dropped << bit % 64;
        if (beyond != 0)
            words[bit / 64 + 1] |= beyond;
        return;
    }
    for (; dropped != 0; dropped &= dropped - 1) {
        const size_t dropped_at = bit + (size_t)__builtin_ctzll(dropped) * s->n_channels;
        words[dropped_at / 64] |= (uint64_t)1 << dropped_at % 64;
    }
}

/* Places the corners of n_positions positions, whose keep words are followed by another word. */
static void place_corners(uint64_t *words, corner *at, const squares *s, const uint64_t *keep_words, size_t n_positions)
{
    const size_t n_columns = s->width - s->side + 1;
    for (size_t bit = 0; bit < n_positions;) {
        const size_t n = smaller(smaller(n_columns - at->column, n_positions - bit), 64);
        const uint64_t keep = keep_words[bit / 64] >> bit % 64 | keep_words[bit / 64 + 1] << 1 << (63 - bit % 64);
        const uint64_t dropped = ~keep << (64 - n) >> (64 - n);
        if (dropped != 0)
            place(words, at, s, dropped);
        bit += n;
        at->column += n;
        if (at->column == n_columns)
            next_row(at, s);
    }
}

/* Makes the keep words of n_images images, whose first corner takes the position `first`, and returns how many of their
 * elements are kept. */
static size_t run_unit(const job *j, uint64_t *words, uint64_t first, size_t n_images)
{
    const squares *s = &j->squares;
    const size_t n_elems = n_images * s->height * s->width * s->n_channels;
    const size_t n_in_last = n_elems % ELEMS_PER_GROUP;
    size_t n_left = n_images * s->n_channels * (s->height - s->side + 1) * (s->width - s->side + 1);
    unit u = {.words = words, .n_words = (n_elems + ELEMS_PER_GROUP - 1) / ELEMS_PER_GROUP};
    corner at = {.image_at = 0};
    add_passes(&u, s->side, s->n_channels);
    add_passes(&u, s->side, s->width * s->n_channels);
    begin_channel(&at, s);
    memset(words, 0, u.n_words * sizeof *words);
    while (n_left > 0) {
        uint64_t keep_words[BLOCKS_AT_A_TIME * ELEMS_PER_BLOCK / ELEMS_PER_GROUP + 1];
        const size_t n_most = BLOCKS_AT_A_TIME * (size_t)ELEMS_PER_BLOCK - (size_t)(first % ELEMS_PER_BLOCK);
        const size_t n = smaller(n_left, n_most);
        kernels->fill_words(keep_words, &j->rule, first, n);
        keep_words[(n + ELEMS_PER_GROUP - 1) / ELEMS_PER_GROUP] = 0;
        place_corners(words, &at, s, keep_words, n);
        follow(&u, smaller((s->n_channels == 1 ? at.row_at + at.column : at.image_at) / ELEMS_PER_GROUP, u.n_words));
        first += n;
        n_left -= n;
    }
    finish(&u);
    if (n_in_last != 0) {
        words[u.n_words - 1] &= ((uint64_t)1 << n_in_last) - 1;
        u.n_kept -= ELEMS_PER_GROUP - n_in_last;
    }
    return u.n_kept;
}

void run_squares(const job *j, size_t begin, size_t end)
{
    const squares *s = &j->squares;
    const size_t image_elems = s->height * s->width * s->n_channels;
    const size_t n_corners = s->n_channels * (s->height - s->side + 1) * (s->width - s->side + 1); /* of an image */
    for (size_t image = begin / image_elems; image < end / image_elems; image += s->images_per_unit) {
        uint64_t *words = j->bits.words + image * image_elems / ELEMS_PER_GROUP;
        const size_t n_images = smaller(s->images_per_unit, s->n_images - image);
        const size_t n_kept = run_unit(j, words, j->first + (uint64_t)image * n_corners, n_images);
        j->bits.counts[image / s->images_per_unit] = n_kept;
    }
}
