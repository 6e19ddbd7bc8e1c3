/* Running a range of a job that job.c has planned: each layout's loop over the kernels of kernel_table.h. */
#include "job.h"
#include "squares.h"

#include <string.h>

#include "tripled_bits.h"

enum { WORDS_PER_BLOCK = ELEMS_PER_BLOCK / ELEMS_PER_GROUP };

static inline size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* ---- one call of a kernel ---- */

/* The arrays from element i on, with is_streamed only if the first whole group, n_to_group elements further, is aligned
 * to STREAM_ALIGN. */
static inline operands arrays_at(const job *j, size_t i, size_t n_to_group)
{
    operands ops = operands_at(&j->arrays, i, j->elem_bytes);
    if (ops.is_streamed)
        ops.is_streamed = ((uintptr_t)ops.out + n_to_group * j->elem_bytes) % STREAM_ALIGN == 0;
    return ops;
}

static void run_range(const job *j, size_t i, uint64_t first, size_t n_elems)
{
    if (j->operation == OPERATION_fill_keep) {
        kernels->fill_keep((uint8_t *)j->arrays.out + i, &j->rule, first, n_elems);
        return;
    }
    if (j->operation > OPERATION_fill_keep) {
        const operands ops = arrays_at(j, i, (size_t)(-first % ELEMS_PER_GROUP));
        kernels->select_range[j->dtype](&ops, &j->rule, first, n_elems);
        return;
    }
    if (i == 0 && !j->arrays.is_streamed) { /* saves small calls the copy of the operands */
        kernels->dtype[j->dtype]->range[j->operation](&j->arrays, &j->rule, first, n_elems);
        return;
    }
    const int has_groups = j->operation != OPERATION_relu_dropout_backward; /* else no positions: groups begin at i */
    const operands ops = arrays_at(j, i, has_groups ? (size_t)(-first % ELEMS_PER_GROUP) : 0);
    kernels->dtype[j->dtype]->range[j->operation](&ops, &j->rule, first, n_elems);
}

static void run_words(const job *j, size_t i, const uint64_t *words, size_t n_elems)
{
    if (j->operation == OPERATION_fill_keep) {
        for (size_t e = 0; e < n_elems; e++)
            j->arrays.out[i + e] = (char)(words[e / ELEMS_PER_GROUP] >> (e % ELEMS_PER_GROUP) & 1);
        return;
    }
    const operands ops = arrays_at(j, i, 0);
    if (j->operation > OPERATION_fill_keep)
        kernels->select[j->dtype](&ops, words, n_elems);
    else
        kernels->dtype[j->dtype]->words(&ops, words, n_elems, j->operation);
}

/* By the record up to the last whole group. */
static void run_recorded(const job *j, size_t begin, size_t end)
{
    const size_t n_whole = (end - begin) / ELEMS_PER_GROUP * ELEMS_PER_GROUP, n_left = end - begin - n_whole;
    const operands ops = arrays_at(j, begin, 0);
    kernels->dtype[j->dtype]->record(&ops, j->record + begin / ELEMS_PER_GROUP, n_whole);
    if (n_left > 0)
        run_range(j, begin + n_whole, j->first + begin + n_whole, n_left);
}

/* ---- rows ---- */

static uint64_t first_of_row(const job *j, size_t row)
{
    uint64_t first = j->first;
    for (int level = j->n_levels - 1; level >= 0; level--) {
        first += row % j->level_lens[level] * j->level_strides[level];
        row /= j->level_lens[level];
    }
    return first;
}

/* A row and its first position. Up to the end of the innermost level, the next row is one stride further. */
typedef struct {
    size_t row;
    size_t n_left; /* rows up to the end of the innermost level, this one included */
    uint64_t first;
} row_cursor;

static row_cursor cursor_at_row(const job *j, size_t row)
{
    const int level = j->n_levels - 1;
    return (row_cursor){
        .row = row,
        .n_left = level < 0 ? 1 : j->level_lens[level] - row % j->level_lens[level],
        .first = first_of_row(j, row),
    };
}

static void next_row(const job *j, row_cursor *cursor)
{
    if (--cursor->n_left == 0) {
        *cursor = cursor_at_row(j, cursor->row + 1);
    } else {
        cursor->row++;
        cursor->first += j->level_strides[j->n_levels - 1];
    }
}

/* Elements begin .. end - 1, one to a position, row by row. */
static void run_rows(const job *j, size_t begin, size_t end)
{
    if (begin == end)
        return;
    row_cursor cursor = cursor_at_row(j, begin / j->row_positions);
    for (size_t offset = begin % j->row_positions; begin < end; offset = 0, next_row(j, &cursor)) {
        const size_t n = smaller(j->row_positions - offset, end - begin);
        run_range(j, begin, cursor.first + offset, n);
        begin += n;
    }
}

/* The rows of the innermost level share their mask. Whole rows use keep words; the ends of the range do not. */
static void run_shared_rows(const job *j, size_t begin, size_t end)
{
    uint64_t words[MAX_KEEP_WORDS];
    const size_t n_sharing = j->level_lens[j->n_levels - 1], length = j->row_positions;
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

/* ---- gathered keep words ---- */

/* A cache of one block's keep words, for several rows. One word more lets append_bits read 64 bits from any bit on. */
typedef struct {
    uint64_t block;
    uint64_t words[WORDS_PER_BLOCK + 1];
} block_words;

/* Whether several rows are likely to lie in one block. */
static int has_near_rows(const job *j)
{
    return j->n_levels > 0 && j->level_strides[j->n_levels - 1] <= limits.max_gathered_stride;
}

/* Brings the keep words of n_positions positions of one block into the cache, and returns the index of their first bit.
 * Words of the whole block are computed if the next row may use them. */
static size_t make_words(const job *j, block_words *cache, uint64_t first, size_t n_positions)
{
    const uint64_t block = first / ELEMS_PER_BLOCK;
    if (!has_near_rows(j)) {
        kernels->fill_words(cache->words, &j->rule, first, n_positions);
        return 0;
    }
    if (cache->block != block) {
        kernels->fill_words(cache->words, &j->rule, block * ELEMS_PER_BLOCK, ELEMS_PER_BLOCK);
        cache->block = block;
    }
    return (size_t)(first % ELEMS_PER_BLOCK);
}

/* Appends bits bit .. bit + n_bits - 1 of source to `to`, which holds n_held bits; the unused bits of its last word
 * must be 0. Reads one word more than it copies from, and writes one more, so that this holds again afterwards. */
static void append_bits(uint64_t *to, size_t n_held, const uint64_t *source, size_t bit, size_t n_bits)
{
    while (n_bits > 0) {
        const size_t n = smaller(n_bits, 64);
        uint64_t copied = source[bit / 64] >> bit % 64 | source[bit / 64 + 1] << 1 << (63 - bit % 64);
        if (n < 64)
            copied &= ((uint64_t)1 << n) - 1;
        to[n_held / 64] |= copied << n_held % 64;
        to[n_held / 64 + 1] = copied >> 1 >> (63 - n_held % 64);
        n_held += n;
        bit += n;
        n_bits -= n;
    }
}

/* Appends n copies of one bit; the rest as in append_bits. */
static inline void append_copies(uint64_t *to, size_t n_held, uint64_t bit, size_t n)
{
    while (n > 0) {
        const size_t n_here = smaller(n, 64);
        const uint64_t copies = -bit >> (64 - n_here);
        to[n_held / 64] |= copies << n_held % 64;
        to[n_held / 64 + 1] = copies >> 1 >> (63 - n_held % 64);
        n_held += n_here;
        n -= n_here;
    }
}

enum { MAX_TABLED_REPEATS = 8 }; /* then the copies of 8 bits fit into 64 */

/* Copies of the bits of a byte, n_repeats of each, for every byte. */
static void make_byte_copies(uint64_t copies_of_byte[256], unsigned n_repeats)
{
    const uint64_t all = ((uint64_t)1 << n_repeats) - 1;
    copies_of_byte[0] = 0;
    for (unsigned byte = 1; byte < 256; byte++)
        copies_of_byte[byte] = copies_of_byte[byte >> 1] << n_repeats | (byte & 1 ? all : 0);
}

/* n_repeats words with n_repeats copies of each of 64 bits. */
static ALWAYS_INLINE void repeat_bits(uint64_t *words, uint64_t bits, const uint64_t *copies_of_byte,
                                      unsigned n_repeats)
{
    uint64_t pending = 0;
    unsigned n_pending = 0;
    for (int byte = 0; byte < 8; byte++, bits >>= 8) {
        const uint64_t copies = copies_of_byte[bits & 0xFF];
        pending |= copies << n_pending;
        n_pending += 8 * n_repeats;
        if (n_pending >= 64) {
            *words++ = pending;
            n_pending -= 64;
            pending = n_pending == 0 ? 0 : copies >> (8 * n_repeats - n_pending);
        }
    }
}

/* repeat_bits for the three channels of an image, in half the time that the table takes. */
static ALWAYS_INLINE void triple_bits(uint64_t *words, uint64_t bits)
{
    fill_thirds(words, spread_by_3(bits), spread_by_3(bits >> 21), spread_by_3(bits >> 42));
}

/* append_short_repeats for a multiple of 64 bits, by a table of copies. */
static void append_tabled_repeats(uint64_t *to, size_t n_held, const uint64_t *source, size_t bit, size_t n_bits,
                                  unsigned n_repeats, const uint64_t *copies_of_byte)
{
    for (const size_t end = bit + n_bits; bit < end; bit += 64, n_held += 64 * n_repeats) {
        uint64_t words[MAX_TABLED_REPEATS + 1];
        const uint64_t bits = source[bit / 64] >> bit % 64 | source[bit / 64 + 1] << 1 << (63 - bit % 64);
        uint64_t *made = n_held % 64 == 0 ? to + n_held / 64 : words;
        if (n_repeats == 3)
            triple_bits(made, bits);
        else
            repeat_bits(made, bits, copies_of_byte, n_repeats);
        made[n_repeats] = 0;
        if (made == words)
            append_bits(to, n_held, words, 0, 64 * n_repeats);
    }
}

/* Appends each of the bits bit .. bit + n_bits - 1 of source n_repeats times, fewer than 64; the rest as in
 * append_bits. For speed, bits that do not fill a word yet stay in a register. copies_of_byte may be NULL. */
static void append_short_repeats(uint64_t *to, size_t n_held, const uint64_t *source, size_t bit, size_t n_bits,
                                 unsigned n_repeats, const uint64_t *copies_of_byte)
{
    if (copies_of_byte != NULL) {
        const size_t n_tabled = n_bits / 64 * 64;
        append_tabled_repeats(to, n_held, source, bit, n_tabled, n_repeats, copies_of_byte);
        n_held += n_tabled * n_repeats;
        bit += n_tabled;
        n_bits -= n_tabled;
    }
    const uint64_t all = ((uint64_t)1 << n_repeats) - 1;
    uint64_t *word = to + n_held / 64, pending = *word;
    unsigned n_pending = n_held % 64;
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

/* Where gathering stands. If several elements take a position, the bits of positions are gathered first. */
typedef struct {
    row_cursor cursor;
    size_t offset; /* in the row, of the next position whose bit is not in `bits` */
    block_words cache;
    size_t n_left;                      /* positions whose bits are not in `bits`, up to the end of the range */
    size_t n_bits, bit;                 /* how many `bits` holds, and the one of the next element */
    size_t n_passed;                    /* elements that take the same position as the next one and come before it */
    uint64_t bits[WORDS_PER_BLOCK + 1]; /* append_bits reads and writes one word more */
    int has_table;                      /* of the next field */
    uint64_t copies_of_byte[256];
} gathering;

/* For positions begin .. end - 1 of the job, counted in the order of the elements. */
static void start_gathering(gathering *at, const job *j, size_t begin, size_t end)
{
    at->cursor = cursor_at_row(j, begin / j->row_positions);
    at->offset = begin % j->row_positions;
    at->cache.block = UINT64_MAX; /* no block has this index: there are 2^52 */
    at->cache.words[WORDS_PER_BLOCK] = 0;
    at->n_left = end - begin;
    at->n_bits = at->bit = at->n_passed = 0;
}

/* For elements begin .. end - 1 of the job, at least one. */
static void start_gathering_elems(gathering *at, const job *j, size_t begin, size_t end)
{
    const size_t n_repeats = j->arrays.n_repeats;
    start_gathering(at, j, begin / n_repeats, (end - 1) / n_repeats + 1);
    at->n_passed = begin % n_repeats;
    /* 256 entries: for fewer positions, the table would cost more time than it saves. */
    at->has_table = n_repeats > 1 && n_repeats <= MAX_TABLED_REPEATS && at->n_left >= 1024;
    if (at->has_table)
        make_byte_copies(at->copies_of_byte, (unsigned)n_repeats);
}

/* Appends n_rows rows of n_bits bits each, fewer than 64: the first from `bit` of source on, the others stride bits
 * further each. The rest as in append_bits, except that bits that do not fill a word yet stay in a register. */
static ALWAYS_INLINE void append_short_rows(uint64_t *to, size_t n_held, const uint64_t *source, size_t bit,
                                            size_t stride, size_t n_rows, unsigned n_bits)
{
    const uint64_t all = ((uint64_t)1 << n_bits) - 1;
    uint64_t *word = to + n_held / 64, pending = *word;
    unsigned n_pending = n_held % 64;
    for (; n_rows > 0; n_rows--, bit += stride) {
        uint64_t copied = source[bit / 64] >> bit % 64;
        if (n_bits > 1)
            copied |= source[bit / 64 + 1] << 1 << (63 - bit % 64);
        copied &= all;
        pending |= copied << n_pending;
        n_pending += n_bits;
        if (n_pending >= 64) {
            *word++ = pending;
            n_pending -= 64;
            pending = n_pending == 0 ? 0 : copied >> (n_bits - n_pending);
        }
    }
    *word = pending;
}

/* Appends the keep bits of whole rows in one block, at most n_most positions; the rest as in append_bits. Returns the
 * number of positions: 0 if the next row is long, crosses the end of its block, or is far from the one after it. */
static size_t append_rows(gathering *at, const job *j, uint64_t *to, size_t n_held, size_t n_most)
{
    const size_t length = j->row_positions, in_block = (size_t)(at->cursor.first % ELEMS_PER_BLOCK);
    if (at->offset != 0 || length >= 64 || !has_near_rows(j) || in_block + length > ELEMS_PER_BLOCK)
        return 0;
    const uint64_t stride = j->level_strides[j->n_levels - 1];
    size_t n_rows = smaller(n_most / length, at->cursor.n_left);
    if (stride != 0)
        n_rows = smaller(n_rows, (size_t)((ELEMS_PER_BLOCK - length - in_block) / stride) + 1);
    if (n_rows == 0)
        return 0;
    const size_t bit = make_words(j, &at->cache, at->cursor.first, length);
    if (length == 1)
        append_short_rows(to, n_held, at->cache.words, bit, (size_t)stride, n_rows, 1);
    else
        append_short_rows(to, n_held, at->cache.words, bit, (size_t)stride, n_rows, (unsigned)length);
    at->cursor.row += n_rows - 1;
    at->cursor.first += (n_rows - 1) * stride;
    at->cursor.n_left -= n_rows - 1;
    next_row(j, &at->cursor);
    return n_rows * length;
}

/* Sets `to` to the keep bits of the next n_positions positions. Writes one word more than they fill. */
static void gather_positions(gathering *at, const job *j, uint64_t *to, size_t n_positions)
{
    to[0] = 0;
    for (size_t n_held = 0; n_held < n_positions;) {
        const size_t n_of_rows = append_rows(at, j, to, n_held, n_positions - n_held);
        n_held += n_of_rows;
        if (n_of_rows > 0)
            continue;
        const uint64_t first = at->cursor.first + at->offset;
        const size_t n_in_row = smaller(j->row_positions - at->offset, n_positions - n_held);
        const size_t n = smaller(n_in_row, ELEMS_PER_BLOCK - (size_t)(first % ELEMS_PER_BLOCK));
        const size_t bit = make_words(j, &at->cache, first, n);
        append_bits(to, n_held, at->cache.words, bit, n);
        n_held += n;
        at->offset += n;
        if (at->offset == j->row_positions) {
            at->offset = 0;
            next_row(j, &at->cursor);
        }
    }
    at->n_left -= n_positions;
}

/* Gathers the bits of the next positions. A call ends with a block if all positions are one run, so that no block is
 * seeded twice. */
static void refill_bits(gathering *at, const job *j)
{
    const size_t begin = j->n_levels > 0 ? 0 : (size_t)((at->cursor.first + at->offset) % ELEMS_PER_BLOCK);
    at->n_bits = smaller(at->n_left, ELEMS_PER_BLOCK - begin);
    at->bit = 0;
    gather_positions(at, j, at->bits, at->n_bits);
}

/* The keep words of the next n_elems elements, which the range must have. Writes one word more than they fill. */
static void gather_words(gathering *at, const job *j, uint64_t *words, size_t n_elems)
{
    const size_t n_repeats = j->arrays.n_repeats;
    if (n_repeats == 1) {
        gather_positions(at, j, words, n_elems);
        return;
    }
    words[0] = 0;
    for (size_t n_held = 0; n_held < n_elems;) {
        const size_t n_needed = n_elems - n_held;
        if (at->bit == at->n_bits)
            refill_bits(at, j);
        if (at->n_passed == 0 && n_repeats < 64 && n_needed >= n_repeats) {
            const size_t n = smaller(n_needed / n_repeats, at->n_bits - at->bit);
            append_short_repeats(words, n_held, at->bits, at->bit, n, (unsigned)n_repeats,
                                 at->has_table ? at->copies_of_byte : NULL);
            at->bit += n;
            n_held += n * n_repeats;
        } else { /* not all elements of a position, or 64 and more */
            const size_t n = smaller(n_needed, n_repeats - at->n_passed);
            append_copies(words, n_held, at->bits[at->bit / 64] >> at->bit % 64 & 1, n);
            n_held += n;
            at->n_passed += n;
            if (at->n_passed == n_repeats) {
                at->n_passed = 0;
                at->bit++;
            }
        }
    }
}

static void run_gathered(const job *j, size_t begin, size_t end)
{
    uint64_t words[MAX_KEEP_WORDS + 1]; /* gather_words writes one more than it fills */
    /* Whole words from whole positions: copies of bits then need no shifts across words. */
    const size_t unit = ELEMS_PER_GROUP * smaller(j->arrays.n_repeats, MAX_KEEP_WORDS);
    const size_t n_most = ELEMS_PER_GROUP * MAX_KEEP_WORDS / unit * unit;
    gathering at;
    start_gathering_elems(&at, j, begin, end);
    while (begin < end) {
        const size_t n_gathered = smaller(end - begin, n_most);
        gather_words(&at, j, words, n_gathered);
        run_words(j, begin, words, n_gathered);
        begin += n_gathered;
    }
}

/* ---- given keep words ---- */

static void run_given(const job *j, size_t begin, size_t end)
{
    uint64_t words[MAX_KEEP_WORDS + 1]; /* append_bits writes one more than it fills */
    const size_t first_bit = (size_t)j->first + begin;
    if (first_bit % ELEMS_PER_GROUP == 0) {
        run_words(j, begin, j->keep_words + first_bit / ELEMS_PER_GROUP, end - begin);
        return;
    }
    while (begin < end) {
        const size_t n_here = smaller(end - begin, ELEMS_PER_GROUP * MAX_KEEP_WORDS);
        words[0] = 0;
        append_bits(words, 0, j->keep_words, (size_t)j->first + begin, n_here);
        run_words(j, begin, words, n_here);
        begin += n_here;
    }
}

/* ---- three bytes to a position ---- */

/* Elements begin .. end - 1 of LAYOUT_TRIPLED. The ends may lie inside of a pixel. */
static void run_tripled(const job *j, size_t begin, size_t end)
{
    for (size_t n; begin < end; begin += n) {
        const size_t position = begin / 3, n_of_pixel = 3 - begin % 3;
        const uint64_t first = j->first + position;
        if (n_of_pixel < 3 || end - begin < 3) {
            uint64_t word;
            n = smaller(n_of_pixel, end - begin);
            kernels->fill_words(&word, &j->rule, first, 1);
            word = -(word & 1);
            run_words(j, begin, &word, n);
            continue;
        }
        n = (end - begin) / 3 * 3;
        const operands ops = arrays_at(j, begin, 3 * (size_t)(-first % ELEMS_PER_GROUP));
        kernels->select_tripled(&ops, &j->rule, first, n / 3);
    }
}

/* ---- many elements to a position ---- */

/* Positions begin .. end - 1 of the job with n_repeats elements each, from element i on. Streaming stores need every
 * position's elements to begin on a multiple of STREAM_ALIGN. */
static void run_repeats(const job *j, size_t i, size_t begin, size_t end, size_t n_repeats)
{
    gathering at;
    if (begin == end)
        return;
    for (start_gathering(&at, j, begin, end); at.n_left > 0; i += at.n_bits * n_repeats) {
        refill_bits(&at, j);
        operands ops = arrays_at(j, i, 0);
        ops.n_repeats = n_repeats;
        ops.is_streamed = ops.is_streamed && n_repeats * j->elem_bytes % STREAM_ALIGN == 0;
        kernels->dtype[j->dtype]->repeat(&ops, at.bits, at.n_bits, j->operation);
    }
}

/* Elements begin .. end - 1, which take the same position. */
static void run_within_position(const job *j, size_t begin, size_t end)
{
    const size_t n = end - begin, i_position = begin / j->arrays.n_repeats;
    if (n >= MIN_REPEATS) {
        run_repeats(j, begin, i_position, i_position + 1, n);
    } else if (n > 0) {
        const uint64_t first = first_of_row(j, i_position / j->row_positions) + i_position % j->row_positions;
        uint64_t word;
        kernels->fill_words(&word, &j->rule, first, 1);
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

/* ---- decisions as bits ---- */

/* The keep words of elements begin .. end - 1. The unused bits of the last word are 0. */
static void make_keep_words(const job *j, uint64_t *words, size_t begin, size_t end)
{
    uint64_t gathered[MAX_KEEP_WORDS + 1];
    gathering at;
    if (j->layout == LAYOUT_RUN) {
        kernels->fill_words(words, &j->rule, j->first + begin, end - begin);
        return;
    }
    start_gathering_elems(&at, j, begin, end);
    while (begin < end) {
        const size_t n_here = smaller(end - begin, ELEMS_PER_GROUP * MAX_KEEP_WORDS);
        const size_t n_words = (n_here + ELEMS_PER_GROUP - 1) / ELEMS_PER_GROUP;
        gather_words(&at, j, gathered, n_here);
        memcpy(words, gathered, n_words * sizeof *words);
        words += n_words;
        begin += n_here;
    }
}

static uint64_t bits_reversed_in_bytes(uint64_t word)
{
    word = (word >> 1 & 0x5555555555555555u) | (word & 0x5555555555555555u) << 1;
    word = (word >> 2 & 0x3333333333333333u) | (word & 0x3333333333333333u) << 2;
    return (word >> 4 & 0x0F0F0F0F0F0F0F0Fu) | (word & 0x0F0F0F0F0F0F0F0Fu) << 4;
}

/* The number of kept elements, by a few words at a time: the end of a block's if the elements are one run, so that no
 * block is seeded twice. */
static size_t count_range(const job *j, size_t begin, size_t end)
{
    uint64_t words[MAX_KEEP_WORDS];
    size_t n_kept = 0;
    while (begin < end) {
        const size_t n_most = ELEMS_PER_GROUP * MAX_KEEP_WORDS - (size_t)((j->first + begin) % ELEMS_PER_BLOCK);
        const size_t n_here = smaller(end - begin, n_most);
        make_keep_words(j, words, begin, begin + n_here);
        n_kept += count_kept(words, n_here);
        begin += n_here;
    }
    return n_kept;
}

static void run_bits(const job *j, size_t begin, size_t end)
{
    const keep_bits *bits = &j->bits;
    if (bits->words == NULL) {
        const size_t n_kept = count_range(j, begin, end);
        bits->counts[begin / ELEMS_PER_COUNT] = bits->of_dropped ? end - begin - n_kept : n_kept;
        return;
    }
    uint64_t *words = bits->words + begin / ELEMS_PER_GROUP;
    const size_t n_words = (end - begin + ELEMS_PER_GROUP - 1) / ELEMS_PER_GROUP;
    make_keep_words(j, words, begin, end);
    if (bits->of_dropped) {
        for (size_t i = 0; i < n_words; i++)
            words[i] = ~words[i];
        if (end % ELEMS_PER_GROUP != 0)
            words[n_words - 1] &= ((uint64_t)1 << end % ELEMS_PER_GROUP) - 1;
    }
    if (bits->is_packed)
        for (size_t i = 0; i < n_words; i++)
            words[i] = bits_reversed_in_bytes(words[i]);
    for (; bits->counts != NULL && begin < end; begin += ELEMS_PER_COUNT)
        bits->counts[begin / ELEMS_PER_COUNT] =
            count_kept(bits->words + begin / ELEMS_PER_GROUP, smaller(ELEMS_PER_COUNT, end - begin));
}

static void list_bits(const job *j, size_t begin, size_t end)
{
    int64_t *index = j->bits.indices + j->bits.counts[begin / ELEMS_PER_COUNT];
    for (size_t i = begin; i < end; i += ELEMS_PER_GROUP)
        for (uint64_t word = j->bits.words[i / ELEMS_PER_GROUP]; word != 0; word &= word - 1)
            *index++ = (int64_t)(i + (size_t)__builtin_ctzll(word));
}

static void run_draws(const job *j, size_t begin, size_t end)
{
    const double *p = (const double *)(const void *)j->arrays.x;
    kernels->fill_draws((uint8_t *)j->arrays.out + begin, p + begin, &j->rule.key, j->first + begin, end - begin);
}

static void run_decisions(const job *j, size_t begin, size_t end)
{
    if (j->operation == OPERATION_fill_bits)
        run_bits(j, begin, end);
    else if (j->operation == OPERATION_list_bits)
        list_bits(j, begin, end);
    else if (j->operation == OPERATION_fill_squares)
        run_squares(j, begin, end);
    else
        run_draws(j, begin, end);
}

/* ---- any range of any layout ---- */

/* The first row of a matrix that begins at element i or later: a row belongs to the range in which it begins. */
static size_t row_from(const job *j, size_t i)
{
    return i / j->matrix.n_columns + (i % j->matrix.n_columns != 0);
}

void job_run(const job *j, size_t begin, size_t end)
{
    const float_mode before = enter_default_mode();
    if (begin < end && j->operation >= N_JOB_OPERATIONS)
        run_decisions(j, begin, end);
    else if (begin < end)
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
        case LAYOUT_TRIPLED:
            run_tripled(j, begin, end);
            break;
        case LAYOUT_RECORDED:
            run_recorded(j, begin, end);
            break;
        case LAYOUT_GIVEN:
            run_given(j, begin, end);
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
        case LAYOUT_SUBMATRIX:
            kernels->submatrix[j->dtype](&j->matrix, row_from(j, begin), row_from(j, end));
            break;
        case LAYOUT_UPDATE:
            kernels->update[j->dtype](&j->update, begin, end);
            break;
        case LAYOUT_UPDATE_KEPT:
            kernels->update_kept[j->dtype](&j->update, &j->matrix, row_from(j, begin), row_from(j, end));
            break;
        }
    leave_default_mode(before);
}
