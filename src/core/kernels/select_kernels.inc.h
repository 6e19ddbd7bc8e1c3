/* Kernels without arithmetic, for block_kernels.inc.h: select_1, select_2, select_4 and select_8 copy the bits of kept
 * elements of 1, 2, 4 or 8 bytes and replace dropped ones; fill_keep and fill_draws write decisions as bytes.
 *
 * The element's width is all that matters: bool, integers and floats of one width have the same kernel. It selects by
 * keep words, which are given or, in select_range, decided here. */

/* Where the generators leave registers free, also for the vectors that wider elements need (docs/design.md, "Bool and
 * integer arrays"). */
#define IS_FUSED(width) (N_VECS <= 2 || (N_VECS <= 4 && (width) <= 2))

/* The loop over positions for kernels that select elements. If is_fused, the elements of a group are selected as it is
 * decided, so that the processor copies while it makes numbers; otherwise the keep words of a few blocks come first.
 * on_word gets elements before the first whole group, after the last one, and those of groups with a tie. */
static ALWAYS_INLINE void select_by_words(const operands *ops, const mask_rule *rule, uint64_t first, size_t n_elems,
                                          group_fn *on_group, word_fn *on_word, int has_bias, int is_fused)
{
    enum { N_WORDS = 4 * ELEMS_PER_BLOCK / ELEMS_PER_GROUP }; /* 2 KiB */
    uint64_t words[N_WORDS];
    const operands local = *ops;
    const size_t period = has_bias ? ops->bias_period : 1;
    size_t bias_at = has_bias ? ops->bias_at : 0;
    if (is_fused) {
        for_each_word(ops, rule, first, n_elems, on_group, on_word, has_bias);
        return;
    }
    for (size_t i = 0, n_here; i < n_elems; i += n_here) {
        const uint64_t at = first + i;
        const size_t n_most = at % ELEMS_PER_GROUP != 0 ? ELEMS_PER_GROUP - (size_t)(at % ELEMS_PER_GROUP)
                                                        : N_WORDS * ELEMS_PER_GROUP - (size_t)(at % ELEMS_PER_BLOCK);
        n_here = n_elems - i < n_most ? n_elems - i : n_most;
        fill_words(words, rule, at, n_here);
        for (size_t e = 0; e < n_here; e += ELEMS_PER_GROUP) {
            const size_t n = n_here - e < ELEMS_PER_GROUP ? n_here - e : ELEMS_PER_GROUP;
            const group_keep group = {.keep_u64 = words[e / ELEMS_PER_GROUP]};
            if (n == ELEMS_PER_GROUP)
                on_group(&local, i + e, bias_at, &group);
            else
                on_word(ops, i + e, bias_at, group.keep_u64, n, 0);
            if (has_bias)
                bias_at = bias_at + n < period ? bias_at + n : bias_at + n - period;
        }
    }
}

#define WIDTH 1
#include "select_width.inc.h"
#undef WIDTH
#define WIDTH 2
#include "select_width.inc.h"
#undef WIDTH
#define WIDTH 4
#include "select_width.inc.h"
#undef WIDTH
#define WIDTH 8
#include "select_width.inc.h"
#undef WIDTH

/* select_range with the bytes 1 and 0. */
static const char *fill_keep(uint8_t *out, const mask_rule *rule, uint64_t first, size_t n_elems)
{
#define EIGHT(byte) byte, byte, byte, byte, byte, byte, byte, byte
#define GROUP_OF(byte) \
    EIGHT(byte), EIGHT(byte), EIGHT(byte), EIGHT(byte), EIGHT(byte), EIGHT(byte), EIGHT(byte), EIGHT(byte)
    static const char bytes[3 * ELEMS_PER_GROUP] = {GROUP_OF(0), GROUP_OF(0), GROUP_OF(1)};
#undef EIGHT
#undef GROUP_OF
    const operands ops = {.out = (char *)out, .bias = bytes, .bias_seam = bytes, .bias_period = ELEMS_PER_GROUP};
    return select_range_1(&ops, rule, first, n_elems);
}

/* ---- three elements of a byte to a position: the channels of an image's pixels ---- */

#ifdef HAS_DEPOSIT
#define SPREAD_BY_3(bits) deposit_bits(bits, EVERY_THIRD_BIT)
#else
#define SPREAD_BY_3(bits) spread_by_3(bits)
#endif
static ALWAYS_INLINE void triple_bits(uint64_t words[3], uint64_t bits)
{
    fill_thirds(words, SPREAD_BY_3(bits), SPREAD_BY_3(bits >> 21), SPREAD_BY_3(bits >> 42));
}

/* The fills repeat after 3 elements, or after 1, so that the 64 that a vector needs are neighbours. */
static ALWAYS_INLINE void select_tripled_group(const operands *ops, size_t i, const group_keep *group, int is_streamed)
{
    const uint64_t keep_u64 = word_of_group(group);
    const char *x = ops->x + 3 * i, *all_fills = ops->bias + ops->bias_at % 3;
    char *out = ops->out + 3 * i;
#ifndef HAS_SELECT_TRIPLED
    uint64_t words[3];
    triple_bits(words, keep_u64);
#endif
    for (unsigned n_done = 0; n_done < ELEMS_PER_GROUP; n_done += BYTES_OF_VECTOR)
        for (unsigned third = 0; third < 3; third++) { /* of the elements of BYTES_OF_VECTOR positions */
            const unsigned e = 3 * n_done + third * BYTES_OF_VECTOR;
            const vbytes kept = bytes_load(x + e), fills = bytes_load(all_fills + third * BYTES_OF_VECTOR % 3);
#ifdef HAS_SELECT_TRIPLED
            const vbytes v = bytes_select_tripled(keep_u64 >> n_done, third, kept, fills);
#else
            const vbytes v = bytes_select1(words[e / ELEMS_PER_GROUP] >> e % ELEMS_PER_GROUP, kept, fills);
#endif
            if (is_streamed)
                bytes_stream(out + e, v);
            else
                bytes_store(out + e, v);
        }
}

static ALWAYS_INLINE void select_tripled_on_group(const operands *ops, size_t i, size_t bias_at,
                                                  const group_keep *group)
{
    (void)bias_at;
    select_tripled_group(ops, i, group, 0);
}

static ALWAYS_INLINE void stream_tripled_on_group(const operands *ops, size_t i, size_t bias_at,
                                                  const group_keep *group)
{
    (void)bias_at;
    select_tripled_group(ops, i, group, 1);
}

static OUT_OF_LINE void select_tripled_on_word(const operands *ops, size_t i, size_t bias_at, uint64_t keep_u64,
                                               size_t n_positions, int operation)
{
    uint64_t words[3];
    operands at = *ops;
    (void)bias_at, (void)operation;
    triple_bits(words, keep_u64);
    at.out += 3 * i;
    at.x += 3 * i;
    at.is_streamed = 0; /* the fills are where they were: their period divides 3 */
    select_1(&at, words, 3 * n_positions);
}

static const char *select_tripled(const operands *ops, const mask_rule *rule, uint64_t first, size_t n_positions)
{
    if (ops->is_streamed) {
        select_by_words(ops, rule, first, n_positions, stream_tripled_on_group, select_tripled_on_word, 0, IS_FUSED(1));
        AFTER_STREAMING();
    } else {
        select_by_words(ops, rule, first, n_positions, select_tripled_on_group, select_tripled_on_word, 0, IS_FUSED(1));
    }
    return ISA_NAME;
}

/* Decides a group, one probability to an element. */
static OUT_OF_LINE void draw_group(uint8_t out[ELEMS_PER_GROUP], const double p[ELEMS_PER_GROUP],
                                   const uint8_t bytes[STREAM_LANES * 8], const stream_key *key, uint64_t block,
                                   unsigned first_elem)
{
    enum { HALF = ELEMS_PER_GROUP / 2 };
    uint32_t words[HALF];
    int32_t thresholds[ELEMS_PER_GROUP];
    uint32_t n_ties = 0;
    memcpy(words, bytes, sizeof words);
    for (unsigned e = 0; e < HALF; e++) {
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
        words[e] = __builtin_bswap32(words[e]);
#endif
        words[e] ^= 0x80008000u; /* from signed numbers to unsigned ones */
    }
    for (unsigned e = 0; e < ELEMS_PER_GROUP; e++)
        thresholds[e] = (int32_t)(p[e] * 65536.0);
    for (unsigned e = 0; e < HALF; e++) {
        const int32_t upper = (int32_t)(words[e] >> 16), lower = (int32_t)(words[e] & 0xFFFFu);
        out[e] = upper < thresholds[e];
        out[e + HALF] = lower < thresholds[e + HALF];
        n_ties += (upper == thresholds[e]) + (lower == thresholds[e + HALF]);
    }
    for (unsigned e = 0; n_ties > 0 && e < ELEMS_PER_GROUP; e++) {
        const uint32_t word = words[e % HALF], number = e < HALF ? word >> 16 : word & 0xFFFFu;
        if ((int32_t)number != thresholds[e])
            continue;
        /* The products are exact, because powers of two change only the exponent, and so is the difference. */
        const double rest = p[e] * 65536.0 - thresholds[e];
        out[e] = tie_number(key, block, first_elem + e) < (uint64_t)(rest * 4294967296.0);
        n_ties--;
    }
}

static const char *fill_draws(uint8_t *out, const double *p, const stream_key *key, uint64_t first, size_t n_elems)
{
    for (size_t i = 0; i < n_elems;) {
        const uint64_t block = (first + i) / ELEMS_PER_BLOCK;
        unsigned elem = (unsigned)((first + i) % ELEMS_PER_BLOCK);
        const unsigned end = n_elems - i < ELEMS_PER_BLOCK - elem ? elem + (unsigned)(n_elems - i) : ELEMS_PER_BLOCK;
        lanes gen;
        v64 numbers[N_VECS];
        seed_block(&gen, key, block, MASK_TAG);
        for (unsigned group = 0; group < elem / ELEMS_PER_GROUP; group++)
            next_numbers(&gen, numbers);
        while (elem < end) {
            const unsigned skip = elem % ELEMS_PER_GROUP;
            const unsigned n_here = end - elem < ELEMS_PER_GROUP - skip ? end - elem : ELEMS_PER_GROUP - skip;
            uint8_t bytes[STREAM_LANES * 8];
            next_numbers(&gen, numbers);
            for (int v = 0; v < N_VECS; v++)
                v64_store_le(bytes + v * V64_LANES * 8, numbers[v]);
            if (n_here == ELEMS_PER_GROUP) {
                draw_group(out + i, p + i, bytes, key, block, elem);
            } else {
                double some_p[ELEMS_PER_GROUP] = {0};
                uint8_t some_out[ELEMS_PER_GROUP];
                memcpy(some_p + skip, p + i, n_here * sizeof *p);
                draw_group(some_out, some_p, bytes, key, block, elem - skip);
                memcpy(out + i, some_out + skip, n_here);
            }
            elem += n_here;
            i += n_here;
        }
    }
    return ISA_NAME;
}
