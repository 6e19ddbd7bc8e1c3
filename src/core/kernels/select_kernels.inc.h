/* Kernels without arithmetic, for block_kernels.inc.h: select_1, select_2, select_4 and select_8 copy the bits of kept
 * elements of 1, 2, 4 or 8 bytes and replace dropped ones; fill_keep and fill_draws write decisions as bytes.
 *
 * The element's width is all that matters: bool, integers and floats of one width have the same kernel. Keep words are
 * computed first, because a group's 64 decisions fill one word, but only 2 to 16 vectors of elements. */

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

/* Computes the keep words of up to a block on the stack, then the bytes of their bits. */
static const char *fill_keep(uint8_t *out, const mask_rule *rule, uint64_t first, size_t n_elems)
{
#define EIGHT(byte) byte, byte, byte, byte, byte, byte, byte, byte
#define GROUP_OF(byte) \
    EIGHT(byte), EIGHT(byte), EIGHT(byte), EIGHT(byte), EIGHT(byte), EIGHT(byte), EIGHT(byte), EIGHT(byte)
    static const char bytes[3 * ELEMS_PER_GROUP] = {GROUP_OF(0), GROUP_OF(0), GROUP_OF(1)};
#undef EIGHT
#undef GROUP_OF
    uint64_t words[ELEMS_PER_BLOCK / ELEMS_PER_GROUP];
    operands ops = {.out = (char *)out, .bias = bytes, .bias_seam = bytes, .bias_period = ELEMS_PER_GROUP};
    while (n_elems > 0) {
        const size_t n_left = ELEMS_PER_BLOCK - (size_t)(first % ELEMS_PER_BLOCK);
        const size_t n_here = n_elems < n_left ? n_elems : n_left;
        fill_words(words, rule, first, n_here);
        select_1(&ops, words, n_here);
        ops.out += n_here;
        first += n_here;
        n_elems -= n_here;
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
