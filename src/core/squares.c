/* The decisions on the elements of images of which squares are dropped (job.h declares squares).
 *
 * The keep words of a unit, some whole images, are made in place, in three steps. (1) For each dropped corner, the bit
 * of its square's last element is set. (2) Passes over the words set a bit where the one some distance further is set:
 * with distances that sum to side - 1 columns and side - 1 rows, and of which none exceeds what is covered before it,
 * the bits of whole squares. No bit reaches another row or image, because each square lies in its image. (3) All bits
 * are inverted and counted.
 *
 * A pass needs words that are complete in the pass before. So each follows the one before it at that distance, and all
 * of them work on words that are in a cache, whatever the number of rows: between the first pass and the last lie the
 * bits of `side` rows or, with several channels, of an image. */
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

/* Where the next corner is, in elements of the unit. */
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

/* Goes to the corner that is n further, in the row or at the beginning of the next one. */
static void pass_corners(corner *at, const squares *s, size_t n)
{
    at->column += n;
    if (at->column <= s->width - s->side)
        return;
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

/* n bits, 1 to 64, from `bit` on, which are set where those of keep words are not. Reads one word more. */
static inline uint64_t dropped_bits(const uint64_t *keep_words, size_t bit, size_t n)
{
    const uint64_t keep = keep_words[bit / 64] >> bit % 64 | keep_words[bit / 64 + 1] << 1 << (63 - bit % 64);
    return ~keep << (64 - n) >> (64 - n);
}

/* Bits are set in ascending order, in a word and the one behind it; the words before them are written. */
typedef struct {
    uint64_t *words;
    size_t n_written;
    uint64_t word, next;
} bit_writer;

static inline void write_up_to(bit_writer *to, size_t n_words)
{
    while (to->n_written < n_words) {
        to->words[to->n_written++] = to->word;
        to->word = to->next;
        to->next = 0;
    }
}

static inline void write_bits(bit_writer *to, size_t at, uint64_t bits)
{
    write_up_to(to, at / 64);
    to->word |= bits << at % 64;
    to->next |= bits >> 1 >> (63 - at % 64);
}

/* Places the corners of n_positions positions in images of one channel. */
static void place_in_planes(bit_writer *words, corner *at, const squares *s, const uint64_t *keep_words,
                            size_t n_positions)
{
    const size_t n_columns = s->width - s->side + 1, width = s->width;
    bit_writer to = *words;
    for (size_t bit = 0; bit < n_positions;) {
        const size_t n_left = n_positions - bit, n_in_row = smaller(n_columns - at->column, n_left);
        const size_t n = smaller(n_in_row, 64);
        size_t first_at = at->row_at + at->column, n_times = 1, stride = 0;
        if (n == n_columns) { /* whole rows, up to the last one of the image */
            n_times = smaller(s->height - s->side + 1 - at->row, n_left / n_columns);
            stride = width;
            at->row += n_times - 1;
            at->row_at += (n_times - 1) * width;
        } else if (n == 64) {
            n_times = n_in_row / 64;
            stride = 64;
            at->column += (n_times - 1) * 64;
        }
        for (; n_times > 0; n_times--, bit += n, first_at += stride)
            write_bits(&to, first_at, dropped_bits(keep_words, bit, n));
        pass_corners(at, s, n);
    }
    *words = to;
}

/* The same in images of several channels. All words must be 0 before the first corner. */
static void place_in_channels(uint64_t *words, corner *at, const squares *s, const uint64_t *keep_words,
                              size_t n_positions)
{
    for (size_t bit = 0; bit < n_positions;) {
        const size_t n = smaller(smaller(s->width - s->side + 1 - at->column, n_positions - bit), 64);
        const size_t first_at = at->row_at + at->column * s->n_channels;
        for (uint64_t dropped = dropped_bits(keep_words, bit, n); dropped != 0; dropped &= dropped - 1) {
            const size_t dropped_at = first_at + (size_t)__builtin_ctzll(dropped) * s->n_channels;
            words[dropped_at / 64] |= (uint64_t)1 << dropped_at % 64;
        }
        bit += n;
        pass_corners(at, s, n);
    }
}

/* Makes the keep words of n_images images, whose first corner takes the position `first`, and returns how many of their
 * elements are kept. */
static size_t run_unit(const job *j, uint64_t *words, uint64_t first, size_t n_images)
{
    const squares *s = &j->images;
    const size_t n_elems = n_images * s->height * s->width * s->n_channels;
    const size_t n_in_last = n_elems % ELEMS_PER_GROUP;
    size_t n_left = n_images * s->n_channels * (s->height - s->side + 1) * (s->width - s->side + 1);
    unit u = {.words = words, .n_words = (n_elems + ELEMS_PER_GROUP - 1) / ELEMS_PER_GROUP};
    corner at = {.image_at = 0};
    bit_writer to = {.words = words};
    add_passes(&u, s->side, s->n_channels);
    add_passes(&u, s->side, s->width * s->n_channels);
    begin_channel(&at, s);
    if (s->n_channels > 1)
        memset(words, 0, u.n_words * sizeof *words);
    while (n_left > 0) {
        uint64_t keep_words[BLOCKS_AT_A_TIME * ELEMS_PER_BLOCK / ELEMS_PER_GROUP + 1];
        const size_t n_most = BLOCKS_AT_A_TIME * (size_t)ELEMS_PER_BLOCK - (size_t)(first % ELEMS_PER_BLOCK);
        const size_t n = smaller(n_left, n_most);
        kernels->fill_words(keep_words, &j->rule, first, n);
        keep_words[(n + ELEMS_PER_GROUP - 1) / ELEMS_PER_GROUP] = 0;
        if (s->n_channels > 1) {
            place_in_channels(words, &at, s, keep_words, n);
            follow(&u, smaller(at.image_at / ELEMS_PER_GROUP, u.n_words));
        } else {
            place_in_planes(&to, &at, s, keep_words, n);
            follow(&u, to.n_written);
        }
        first += n;
        n_left -= n;
    }
    if (s->n_channels == 1)
        write_up_to(&to, u.n_words);
    finish(&u);
    if (n_in_last != 0) {
        words[u.n_words - 1] &= ((uint64_t)1 << n_in_last) - 1;
        u.n_kept -= ELEMS_PER_GROUP - n_in_last;
    }
    return u.n_kept;
}

void run_squares(const job *j, size_t begin, size_t end)
{
    const squares *s = &j->images;
    const size_t image_elems = s->height * s->width * s->n_channels;
    const size_t n_corners = s->n_channels * (s->height - s->side + 1) * (s->width - s->side + 1); /* of an image */
    for (size_t image = begin / image_elems; image < end / image_elems; image += s->images_per_unit) {
        uint64_t *words = j->bits.words + image * image_elems / ELEMS_PER_GROUP;
        const size_t n_images = smaller(s->images_per_unit, s->n_images - image);
        const size_t n_kept = run_unit(j, words, j->first + (uint64_t)image * n_corners, n_images);
        j->bits.counts[image / s->images_per_unit] = n_kept;
    }
}
