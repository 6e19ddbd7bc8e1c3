/* The source of every kernel, written once for all instruction sets.
 *
 * Each isa/<name>.c includes this file inside its target region (isa/target_region.h), after it has defined ISA_NAME,
 * V64_LANES and these types and functions, the verbs of the instruction set:
 *
 *   v64            a vector of V64_LANES lanes of 64 bits; N_VECS of them hold a word of state of all 16 generators
 *   v64_load, v64_store_le, v64_set1, v64_add, v64_and, v64_xor, v64_xor3, v64_shl, v64_shr, v64_rotl
 *   v64_mul_lo32   the 64-bit products of the lower 32 bits of the lanes
 *   keep32         which of V32_LANES elements are kept, in the form in which the processor selects elements
 *   keep_upper, keep_lower    the keep32 of the upper (lower) 16 bits of each 32-bit word of a v64
 *   keep32_bits, keep32_of_bits    to and from bits, element 0 lowest
 *   any_tie        whether any 16-bit number of a generator step equals the threshold
 *   decide_word    sets the keep word of a generator step, with ties as kept, and returns any_tie; without it, that is
 *                  done by keep32_bits, which those that have it (HAS_DECIDE_WORD) leave out
 *   vf32, f32_load, f32_set1, f32_add, f32_mul, f32_relu, f32_select (kept or +0.0), f32_store    V32_LANES elements
 *   f32_div, f32_sqrt, f32_positive (the keep32 of v > 0), f32_blend (v where kept, another vector where not)
 *   w32_sub, w32_shl, w32_shr (shifts zeros in), w32_sra (shifts the sign in)    on a v64 as words of 32 bits
 *   f32_of_w32     converts signed words to numbers; f32_as_w32, w32_as_f32    reinterpret the bits
 *   vf64, f64_...  as for vf32, except the words; f64_of_f32
 *   f16_load, bf16_load    from memory to a vf32; f16_halves, bf16_halves    from a vf32 to the form of halves_store
 *   vbytes, bytes_load, bytes_store    a vector of BYTES_OF_VECTOR bytes
 *   bytes_select1, ...2, ...4, ...8    (bits, v, other): as elements of 1 (2, 4, 8) bytes, v where an element's bit is
 *                  set, other where it is not, element 0 lowest; bits beyond the vector's elements are ignored
 *
 * A processor with streaming stores also has HAS_STREAMING_STORES; f32_stream, f64_stream, halves_stream and
 * bytes_stream, whose addresses are multiples of STREAM_ALIGN; and stream_fence, which must follow the last of them.
 *
 * Bits of pixels are tripled in registers where there is HAS_DEPOSIT: deposit_bits(bits, places) moves the lowest bits
 * to the places that are set; or HAS_SELECT_TRIPLED: bytes_select_tripled(bits, third, v, other), which is
 * bytes_select1 with three elements to each of the lowest BYTES_OF_VECTOR bits, for one third of these elements.
 *
 * A processor that packs the chosen elements of a vector side by side has HAS_PACK and, for f32 and f64,
 * PACK_ELEMS_..., the type pack_..., and pack_load_..., pack_load_some_... (the first n elements), pack_store_...,
 * pack_store_some_..., pack_set1_..., pack_mul_..., pack_add_..., pack_chosen_... (the inverse is spread_chosen_...,
 * with zeros elsewhere) and pack_blend_....
 *
 * Where one subtraction of 16-bit numbers decides all elements of a v64, and a load zeroes elements by their sign,
 * there is HAS_SIGNS: signs_of (isa/avx2.c says what they are), signs_of_lower, which moves those of the lower numbers
 * up, f32_load_by_signs, signs_most and has_tied_sign, which together find ties. The decisions of a group can then be
 * kept in a record of 64 bits (kernel_table.h): record_of_signs, bit_in_record, keep_of_record.
 *
 * Where rows with the same chosen elements are faster by indices that are listed once, PACK_INDEX_BYTES_... for each
 * vector, there is HAS_PACK_MERGE: pack_list_merge_... lists the indices by which pack_merge_... puts the chosen
 * elements of v behind n_before others, and pack_left_... those that did not fit first; or HAS_PACK_SPREAD:
 * pack_list_spread_... lists those by which pack_spread_... does what spread_chosen_... does.
 *
 * A generator step gives 16 words of 64 bits, lane by lane, or 32 words of 32 bits, the lower half of each lane first.
 * The upper 16 bits of these are the numbers of elements 0 to 31 of a group, the lower 16 bits those of elements 32 to
 * 63. So one 32-bit comparison decides the upper halves, and after a shift the lower halves, and its result selects
 * elements of a float32 vector: no instruction set has to unpack anything. */
#include "../compiler.h"
#include "../float_check.h"
#include "../half.h"
#include "../tripled_bits.h"

#include <string.h>

enum { N_VECS = STREAM_LANES / V64_LANES, V32_LANES = 2 * V64_LANES };
_Static_assert((int)V32_LANES <= (int)MIN_REPEATS, "MIN_REPEATS elements must hold a vector");

/* OUT_OF_LINE functions run once for many elements. They are compiled once for an instruction set, instead of once for
 * each kernel (docs/design.md, "Build time"). */

/* ---- generator ---- */

typedef struct {
    v64 s0[N_VECS], s1[N_VECS];
} lanes;

/* Seeds all lanes by Philox, each 32-bit word in a 64-bit lane. The upper halves of c0 to c3 gather bits that the
 * multiplications ignore and the last loop removes. Callers copy the result: the compiler keeps variables whose address
 * was passed to a function in memory instead of registers. */
static OUT_OF_LINE void seed_block(lanes *gen, const stream_key *key, uint64_t block, uint64_t first_tag)
{
    static const uint64_t lane_tags[STREAM_LANES] = {
#define TAG(lane) (uint64_t)(lane) << TAG_SHIFT
        TAG(0), TAG(1), TAG(2),  TAG(3),  TAG(4),  TAG(5),  TAG(6),  TAG(7),
        TAG(8), TAG(9), TAG(10), TAG(11), TAG(12), TAG(13), TAG(14), TAG(15),
#undef TAG
    };
    const v64 m0 = v64_set1(PHILOX_M0), m1 = v64_set1(PHILOX_M1), low32 = v64_set1(0xFFFFFFFFu);
    v64 c0[N_VECS], c1[N_VECS], c2[N_VECS], c3[N_VECS];
    for (int v = 0; v < N_VECS; v++) {
        c0[v] = v64_set1(block);
        c1[v] = v64_xor(v64_set1(block >> 32 | first_tag << TAG_SHIFT), v64_load(lane_tags + v * V64_LANES));
        c2[v] = v64_set1(key->word[1]);
        c3[v] = v64_set1(key->word[1] >> 32);
    }
    uint32_t key0 = (uint32_t)key->word[0], key1 = (uint32_t)(key->word[0] >> 32);
    for (int round = 0; round < PHILOX_ROUNDS; round++) {
        const v64 k0 = v64_set1(key0), k1 = v64_set1(key1);
        for (int v = 0; v < N_VECS; v++) {
            const v64 product0 = v64_mul_lo32(c0[v], m0), product1 = v64_mul_lo32(c2[v], m1);
            c0[v] = v64_xor3(v64_shr(product1, 32), c1[v], k0);
            c1[v] = product1;
            c2[v] = v64_xor3(v64_shr(product0, 32), c3[v], k1);
            c3[v] = product0;
        }
        key0 += PHILOX_W0;
        key1 += PHILOX_W1;
    }
    for (int v = 0; v < N_VECS; v++) {
        gen->s0[v] = v64_xor(v64_and(c0[v], low32), v64_shl(c1[v], 32));
        gen->s1[v] = v64_xor(v64_and(c2[v], low32), v64_shl(c3[v], 32));
    }
}

/* A step of xoroshiro128++ in all lanes: Blackman & Vigna, "Scrambled linear pseudorandom number generators", ACM TOMS
 * 47(4), 2021. */
static ALWAYS_INLINE v64 next_of_vec(lanes *gen, int v)
{
    const v64 s0 = gen->s0[v], x = v64_xor(s0, gen->s1[v]), sum = v64_add(s0, gen->s1[v]);
    gen->s0[v] = v64_xor3(v64_rotl(s0, 49), x, v64_shl(x, 21));
    gen->s1[v] = v64_rotl(x, 28);
    return v64_add(v64_rotl(sum, 17), s0);
}

static ALWAYS_INLINE void next_numbers(lanes *gen, v64 out[N_VECS])
{
    for (int v = 0; v < N_VECS; v++)
        out[v] = next_of_vec(gen, v);
}

/* ---- from numbers to keep words ---- */

/* The threshold in the upper half of each word of 32 bits. */
static ALWAYS_INLINE v64 threshold32_of(const mask_rule *rule)
{
    return v64_set1((uint64_t)((uint32_t)rule->threshold << 16) * 0x100000001u);
}

/* The keep word of a group, with ties as kept. */
static ALWAYS_INLINE uint64_t keep_word(const v64 numbers[N_VECS], v64 threshold32)
{
    uint64_t keep_u64 = 0;
#ifdef HAS_DECIDE_WORD
    decide_word(&keep_u64, numbers, v64_xor(threshold32, w32_shr(threshold32, 16)));
#else
    for (int v = 0; v < N_VECS; v++) {
        keep_u64 |= (uint64_t)keep32_bits(keep_upper(numbers[v], threshold32)) << (v * V32_LANES);
        keep_u64 |= (uint64_t)keep32_bits(keep_lower(numbers[v], threshold32)) << (32 + v * V32_LANES);
    }
#endif
    return keep_u64;
}

#ifndef HAS_DECIDE_WORD
static ALWAYS_INLINE int decide_word(uint64_t *keep_u64, const v64 numbers[N_VECS], v64 threshold16)
{
    *keep_u64 = keep_word(numbers, w32_shl(threshold16, 16));
    return any_tie(numbers, threshold16);
}
#endif

/* Clears the bits of the tied elements that their 32-bit numbers drop. `bytes` are the numbers of the group. */
static OUT_OF_LINE uint64_t drop_ties(uint64_t keep_u64, const uint8_t bytes[STREAM_LANES * 8], const mask_rule *rule,
                                      uint64_t block, unsigned first_elem)
{
    const unsigned tied = (uint32_t)rule->threshold & 0xFFFFu;
    for (unsigned elem = 0; elem < ELEMS_PER_GROUP; elem++) {
        const uint8_t *half = bytes + elem % 32 * 4 + (elem < 32 ? 2 : 0);
        if ((half[0] | (unsigned)half[1] << 8) != tied)
            continue;
        if (tie_number(&rule->key, block, first_elem + elem) < rule->tie_threshold)
            keep_u64 &= ~((uint64_t)1 << elem);
    }
    return keep_u64;
}

/* drop_ties for numbers in registers. It works on a copy, so that the compiler does not keep the numbers of the fast
 * loop in memory. One group in 1024 has a tie. */
static ALWAYS_INLINE uint64_t resolve_ties(uint64_t keep_u64, const v64 numbers[N_VECS], const mask_rule *rule,
                                           uint64_t block, unsigned first_elem)
{
    uint8_t bytes[STREAM_LANES * 8];
    for (int v = 0; v < N_VECS; v++)
        v64_store_le(bytes + v * V64_LANES * 8, numbers[v]);
    return drop_ties(keep_u64, bytes, rule, block, first_elem);
}

/* ---- operations on groups ---- */

/* Which elements of a whole group are kept: given by its numbers, still in registers, by a keep word or by a record. */
typedef struct {
    const v64 *numbers; /* N_VECS of them; NULL if the keep word or the record is given */
    v64 threshold32;
    uint64_t keep_u64; /* or the record */
    int is_record;
} group_keep;

/* The v-th keep32 of the first half of a group (upper 16-bit numbers) or of the second half. */
static ALWAYS_INLINE keep32 keep_of_vec(const group_keep *group, int v, int is_upper)
{
#ifdef HAS_SIGNS
    if (group->is_record)
        return keep_of_record(group->keep_u64, v, is_upper);
#endif
    if (group->numbers == NULL)
        return keep32_of_bits((uint32_t)(group->keep_u64 >> (v * V32_LANES + (is_upper ? 0 : 32))));
    if (is_upper)
        return keep_upper(group->numbers[v], group->threshold32);
    return keep_lower(group->numbers[v], group->threshold32);
}

/* An operation on a whole group that begins at element i of the range and at element bias_at of the bias. */
typedef void group_fn(const operands *ops, size_t i, size_t bias_at, const group_keep *group);
/* The same on 1 to 64 elements by a keep word: for the ends of a range and for groups with a tie. */
typedef void word_fn(const operands *ops, size_t i, size_t bias_at, uint64_t keep_u64, size_t n_elems, int operation);

/* An operation on n_groups whole groups of a block, which begin at element i of the range and at element first_elem of
 * the block. It steps the generators and resolves ties by itself. */
typedef void groups_fn(const operands *ops, const mask_rule *rule, size_t i, lanes *gen, uint64_t block,
                       unsigned first_elem, unsigned n_groups);

/* The loop over positions first .. first + n_elems - 1, block by block and group by group. on_group, which is inlined,
 * gets a copy of the operands, which the compiler can keep in registers. on_word may be out of line and gets the
 * caller's operands, because passing the address of the copy would force it into memory. on_groups, unless it is NULL,
 * is inlined instead of on_group. needs_words: on_group gets keep words. */
static ALWAYS_INLINE void for_each_group_or_word(const operands *ops, const mask_rule *rule, uint64_t first,
                                                 size_t n_elems, group_fn *on_group, groups_fn *on_groups,
                                                 word_fn *on_word, int operation, int has_bias, int needs_words)
{
    const operands local = *ops;
    const v64 threshold32 = threshold32_of(rule);
    const v64 threshold16 = v64_set1((uint64_t)((uint32_t)rule->threshold & 0xFFFFu) * 0x1000100010001u);
    const size_t period = has_bias ? ops->bias_period : 1;
    size_t i = 0, bias_at = has_bias ? ops->bias_at : 0;
    while (i < n_elems) {
        const uint64_t block = (first + i) / ELEMS_PER_BLOCK;
        unsigned elem = (unsigned)((first + i) % ELEMS_PER_BLOCK);
        const unsigned end = n_elems - i < ELEMS_PER_BLOCK - elem ? elem + (unsigned)(n_elems - i) : ELEMS_PER_BLOCK;
        lanes seeded;
        v64 numbers[N_VECS];
        seed_block(&seeded, &rule->key, block, MASK_TAG);
        lanes gen = seeded;
        for (unsigned group = 0; group < elem / ELEMS_PER_GROUP; group++)
            next_numbers(&gen, numbers);
        while (elem < end) {
            const unsigned skip = elem % ELEMS_PER_GROUP;
            int has_tie = 0;
            if (skip == 0 && on_groups != NULL) {
                const unsigned n_groups = (end - elem) / ELEMS_PER_GROUP;
                on_groups(&local, rule, i, &gen, block, elem, n_groups);
                elem += n_groups * ELEMS_PER_GROUP;
                i += n_groups * ELEMS_PER_GROUP;
                if (elem == end)
                    break;
            } else if (skip == 0) {
                for (; end - elem >= ELEMS_PER_GROUP; elem += ELEMS_PER_GROUP, i += ELEMS_PER_GROUP) {
                    next_numbers(&gen, numbers);
                    group_keep group = {.numbers = needs_words ? NULL : numbers, .threshold32 = threshold32};
                    has_tie = needs_words ? decide_word(&group.keep_u64, numbers, threshold16)
                                          : any_tie(numbers, threshold16);
                    if (UNLIKELY(has_tie))
                        break;
                    on_group(&local, i, bias_at, &group);
                    if (has_bias) /* one subtraction is enough: a period is not shorter than a group */
                        bias_at = bias_at + ELEMS_PER_GROUP < period ? bias_at + ELEMS_PER_GROUP
                                                                     : bias_at + ELEMS_PER_GROUP - period;
                }
                if (elem == end)
                    break;
            }
            /* One group by its keep word: it has a tie, or an end of the range lies inside it. */
            if (!has_tie) {
                next_numbers(&gen, numbers);
                has_tie = any_tie(numbers, threshold16);
            }
            const unsigned n_here = end - elem < ELEMS_PER_GROUP - skip ? end - elem : ELEMS_PER_GROUP - skip;
            uint64_t keep_u64 = keep_word(numbers, threshold32);
            if (has_tie)
                keep_u64 = resolve_ties(keep_u64, numbers, rule, block, elem - skip);
            on_word(ops, i, bias_at, keep_u64 >> skip, n_here, operation);
            elem += n_here;
            i += n_here;
            if (has_bias)
                bias_at = bias_at + n_here < period ? bias_at + n_here : bias_at + n_here - period;
        }
    }
}

static ALWAYS_INLINE void for_each_group(const operands *ops, const mask_rule *rule, uint64_t first, size_t n_elems,
                                         group_fn *on_group, groups_fn *on_groups, word_fn *on_word, int operation,
                                         int has_bias)
{
    for_each_group_or_word(ops, rule, first, n_elems, on_group, on_groups, on_word, operation, has_bias, 0);
}

static ALWAYS_INLINE void for_each_word(const operands *ops, const mask_rule *rule, uint64_t first, size_t n_elems,
                                        group_fn *on_group, word_fn *on_word, int has_bias)
{
    for_each_group_or_word(ops, rule, first, n_elems, on_group, NULL, on_word, 0, has_bias, 1);
}

/* ---- signs and records ---- */

#ifdef HAS_SIGNS
static ALWAYS_INLINE v64 below16_of(const mask_rule *rule)
{
    return v64_set1((uint64_t)((uint32_t)(rule->threshold - 1) & 0xFFFFu) * 0x1000100010001u);
}

/* The bits of the tied elements that their 32-bit numbers drop, for a group whose numbers the generators gave last.
 * Computes these numbers again, by a step back and one forward, so that the fast loop need not hold them. */
static OUT_OF_LINE uint64_t dropped_ties(const lanes *after, const mask_rule *rule, uint64_t block, unsigned first_elem)
{
    lanes gen;
    v64 numbers[N_VECS];
    uint8_t bytes[STREAM_LANES * 8];
    for (int v = 0; v < N_VECS; v++) {
        const v64 x = v64_rotl(after->s1[v], 36);
        gen.s0[v] = v64_rotl(v64_xor3(after->s0[v], x, v64_shl(x, 21)), 15);
        gen.s1[v] = v64_xor(x, gen.s0[v]);
    }
    next_numbers(&gen, numbers);
    for (int v = 0; v < N_VECS; v++)
        v64_store_le(bytes + v * V64_LANES * 8, numbers[v]);
    return ~drop_ties(~(uint64_t)0, bytes, rule, block, first_elem);
}

/* The record of a group of which the signs are known, and which of the tied elements are dropped. */
static ALWAYS_INLINE uint64_t resolved_record(uint64_t record, uint64_t ties)
{
    for (; ties != 0; ties &= ties - 1)
        record |= (uint64_t)1 << bit_in_record((unsigned)__builtin_ctzll(ties));
    return record;
}
#endif

/* ---- kernels without a dtype ---- */

static ALWAYS_INLINE uint64_t word_of_group(const group_keep *group)
{
    return group->numbers == NULL ? group->keep_u64 : keep_word(group->numbers, group->threshold32);
}

static ALWAYS_INLINE void words_on_word(const operands *ops, size_t i, size_t bias_at, uint64_t keep_u64,
                                        size_t n_elems, int operation)
{
    (void)bias_at, (void)operation;
    uint64_t *words = (uint64_t *)(void *)ops->out + i / 64;
    const unsigned at = i % 64;
    if (n_elems < 64)
        keep_u64 &= ((uint64_t)1 << n_elems) - 1;
    if (at == 0) {
        words[0] = keep_u64;
        return;
    }
    words[0] |= keep_u64 << at;
    if (at + n_elems > 64)
        words[1] = keep_u64 >> (64 - at);
}

static ALWAYS_INLINE void words_on_group(const operands *ops, size_t i, size_t bias_at, const group_keep *group)
{
    words_on_word(ops, i, bias_at, word_of_group(group), ELEMS_PER_GROUP, 0);
}

static const char *fill_words(uint64_t *out, const mask_rule *rule, uint64_t first, size_t n_elems)
{
    const operands ops = {.out = (char *)out};
    for_each_word(&ops, rule, first, n_elems, words_on_group, words_on_word, 0);
    return ISA_NAME;
}

/* One block, or two at a time, which is faster: a step depends on the step before it, but not on another block. */
static ALWAYS_INLINE void fill_raw_blocks(uint8_t *out, const stream_key *key, uint64_t first_block, int n_blocks)
{
    lanes seeded[2], gen[2];
    for (int b = 0; b < n_blocks; b++) {
        seed_block(&seeded[b], key, first_block + (uint64_t)b, MASK_TAG);
        gen[b] = seeded[b];
    }
    for (int group = 0; group < ELEMS_PER_BLOCK / ELEMS_PER_GROUP; group++, out += STREAM_LANES * 8)
        for (int b = 0; b < n_blocks; b++) {
            v64 numbers[N_VECS];
            next_numbers(&gen[b], numbers);
            for (int v = 0; v < N_VECS; v++)
                v64_store_le(out + b * RAW_BYTES_PER_BLOCK + v * V64_LANES * 8, numbers[v]);
        }
}

static const char *fill_raw(uint8_t *out, const stream_key *key, uint64_t first_block, size_t n_blocks)
{
    size_t b = 0;
    for (; n_blocks - b >= 2; b += 2)
        fill_raw_blocks(out + b * RAW_BYTES_PER_BLOCK, key, first_block + b, 2);
    if (b < n_blocks)
        fill_raw_blocks(out + b * RAW_BYTES_PER_BLOCK, key, first_block + b, 1);
    return ISA_NAME;
}

/* ---- normal numbers ---- */

/* A polynomial by Horner's rule, the highest coefficient first. Compiled with -ffp-contract=off: a fused multiplication
 * and addition, which rounds once instead of twice, would give other bits. */
static ALWAYS_INLINE vf32 polynomial(vf32 x, const float *coefficients, int n)
{
    vf32 value = f32_set1(coefficients[0]);
    for (int k = 1; k < n; k++)
        value = f32_add(f32_mul(value, x), f32_set1(coefficients[k]));
    return value;
}

/* Two independent normal numbers from two words of 32 bits, by the method of Box & Muller, Ann. Math. Stat. 29(2),
 * 1958. It uses only operations that IEEE 754 rounds the same way everywhere: additions, multiplications, square roots.
 * The polynomials were fitted at Chebyshev points; their errors are smaller than those of float32. */
static ALWAYS_INLINE void normal_pair(v64 radius_word, v64 angle_word, vf32 *cosine, vf32 *sine)
{
    static const float log_terms[] = {0x1.5d8646p-4f,  -0x1.243c02p-3f, 0x1.32bcb8p-3f,  -0x1.53846ep-3f, 0x1.98b29p-3f,
                                      -0x1.00038cp-2f, 0x1.555796p-2f,  -0x1.fffffep-2f, 0x1p+0f};
    static const float sin_terms[] = {-0x1.2d9b4p-8f, 0x1.465ec4p-4f, -0x1.4abbbap-1f, 0x1.921fb6p+0f};
    static const float cos_terms[] = {0x1.d9c2e8p-11f, -0x1.55c57ap-6f, 0x1.03c1dcp-2f, -0x1.3bd3ccp+0f, 0x1p+0f};
#define N_TERMS(terms) ((int)(sizeof(terms) / sizeof *(terms)))
    /* u = (word / 2 + 1/2) / 2^31 = 2^e (1 + f), with 1 + f in [sqrt(1/2), sqrt(2)) */
    const vf32 u = f32_mul(f32_add(f32_of_w32(w32_shr(radius_word, 1)), f32_set1(0.5f)), f32_set1(0x1p-31f));
    const v64 bits = f32_as_w32(u), sqrt_half = v64_set1(0x3F3504F33F3504F3u);
    const v64 exponent = w32_sra(w32_sub(bits, sqrt_half), 23);
    const vf32 f = f32_add(w32_as_f32(w32_sub(bits, w32_shl(exponent, 23))), f32_set1(-1.0f));
    const vf32 log_u = f32_add(f32_mul(polynomial(f, log_terms, N_TERMS(log_terms)), f),
                               f32_mul(f32_of_w32(exponent), f32_set1(0x1.62e43p-1f)));
    /* Where u is 1, rounding may make -2 log(u) negative: clear the sign. */
    const v64 magnitude = v64_set1(0x7FFFFFFF7FFFFFFFu);
    const vf32 radius = f32_sqrt(w32_as_f32(v64_and(f32_as_w32(f32_mul(log_u, f32_set1(-2.0f))), magnitude)));
    /* The angle is word / 2^32 turns: the nearest quarter turn, and z in [-1/2, 1/2) quarter turns from there. */
    const v64 quadrant = w32_sub(angle_word, v64_set1(0xE0000000E0000000u)); /* adds 2^29; the top two bits */
    const vf32 z = f32_mul(f32_of_w32(w32_shl(angle_word, 2)), f32_set1(0x1p-32f));
    const vf32 z2 = f32_mul(z, z);
    const v64 s = f32_as_w32(f32_mul(polynomial(z2, sin_terms, N_TERMS(sin_terms)), z));
    const v64 c = f32_as_w32(polynomial(z2, cos_terms, N_TERMS(cos_terms)));
#undef N_TERMS
    /* Odd quadrants swap sine and cosine. The cosine is negative in quadrants 1 and 2, the sine in 2 and 3. */
    const v64 sign = v64_set1(0x8000000080000000u);
    const v64 swapped = v64_and(v64_xor(s, c), w32_sra(w32_shl(quadrant, 1), 31));
    const v64 cos_sign = v64_and(w32_sub(quadrant, v64_set1(0xC0000000C0000000u)), sign),
              sin_sign = v64_and(quadrant, sign);
    *cosine = f32_mul(radius, w32_as_f32(v64_xor3(c, swapped, cos_sign)));
    *sine = f32_mul(radius, w32_as_f32(v64_xor3(s, swapped, sin_sign)));
}

enum { NOISE_GROUPS = 16 }; /* computed at a time: 4 KiB of normal numbers */

/* The normal numbers of the next n_groups groups, in the order of the elements. A group takes two generator steps. */
static OUT_OF_LINE void next_normals(lanes *gen, unsigned n_groups, float *normals)
{
    lanes local = *gen;
    for (unsigned group = 0; group < n_groups; group++, normals += ELEMS_PER_GROUP) {
        v64 radius_words[N_VECS], angle_words[N_VECS];
        next_numbers(&local, radius_words);
        next_numbers(&local, angle_words);
        for (int v = 0; v < N_VECS; v++) {
            vf32 cosine, sine;
            normal_pair(radius_words[v], angle_words[v], &cosine, &sine);
            f32_store((char *)(normals + v * V32_LANES), cosine);
            f32_store((char *)(normals + v * V32_LANES + ELEMS_PER_GROUP / 2), sine);
        }
    }
    *gen = local;
}

/* An operation with noise on n_elems elements from element i of the range on. may_stream: they are whole groups. */
typedef void noise_fn(const operands *ops, size_t i, const float *normals, size_t n_elems, int operation,
                      int may_stream);

/* for_each_group for noise. */
static ALWAYS_INLINE void for_each_noise_group(const operands *ops, const stream_key *key, uint64_t first,
                                               size_t n_elems, noise_fn *on_normals, int operation)
{
    float normals[NOISE_GROUPS * ELEMS_PER_GROUP];
    for (size_t i = 0; i < n_elems;) {
        unsigned elem = (unsigned)((first + i) % ELEMS_PER_BLOCK);
        const unsigned end = n_elems - i < ELEMS_PER_BLOCK - elem ? elem + (unsigned)(n_elems - i) : ELEMS_PER_BLOCK;
        lanes gen;
        v64 skipped[N_VECS];
        seed_block(&gen, key, (first + i) / ELEMS_PER_BLOCK, NOISE_TAG);
        for (unsigned n_skipped = 0; n_skipped < 2 * (elem / ELEMS_PER_GROUP); n_skipped++)
            next_numbers(&gen, skipped);
        while (elem < end) {
            const unsigned skip = elem % ELEMS_PER_GROUP, n_whole = (end - elem) / ELEMS_PER_GROUP;
            const int is_whole = skip == 0 && n_whole > 0;
            const unsigned n_groups = !is_whole ? 1 : n_whole < NOISE_GROUPS ? n_whole : NOISE_GROUPS;
            const unsigned n_made = n_groups * ELEMS_PER_GROUP - skip,
                           n_here = n_made < end - elem ? n_made : end - elem;
            next_normals(&gen, n_groups, normals);
            on_normals(ops, i, normals + skip, n_here, operation, is_whole);
            elem += n_here;
            i += n_here;
        }
    }
}

/* ---- kernels of each dtype ---- */

#ifdef HAS_STREAMING_STORES
#define AFTER_STREAMING() stream_fence()
#else
#define AFTER_STREAMING() ((void)0)
#define f32_stream f32_store
#define f64_stream f64_store
#define halves_stream halves_store
#define bytes_stream bytes_store
#endif

#define f16_store(p, v) halves_store(p, f16_halves(v))
#define f16_stream(p, v) halves_stream(p, f16_halves(v))
#define bf16_store(p, v) halves_store(p, bf16_halves(v))
#define bf16_stream(p, v) halves_stream(p, bf16_halves(v))
#define f32_of_f32(v) (v)
typedef vf32 f32_vec, bf16_vec;
typedef vf64 f64_vec;
#define IS_FLOAT32_f32 1
#define HAS_RECORD_f32 1
#define HAS_RECORD_f64 1
typedef float f32_scalar;
typedef double f64_scalar;

#include "all_dtypes.inc.h"

#include "select_kernels.inc.h"

/* ---- keep words as bits ---- */

/* How many of the first n bits are set. */
static size_t bits_of_words(const uint64_t *words, size_t n)
{
    size_t n_set = 0;
    for (size_t i = 0; i < n / 64; i++)
        n_set += bits_set(words[i]);
    if (n % 64 != 0)
        n_set += bits_set(words[n / 64] & (((uint64_t)1 << n % 64) - 1));
    return n_set;
}

static const char *count_bits(const uint64_t *words, size_t n_bits, size_t *n_set)
{
    *n_set += bits_of_words(words, n_bits);
    return ISA_NAME;
}

/* Eight words are read before they are written, so that compilers use vectors. */
static const char *or_bits_ahead(uint64_t *words, size_t n_words, size_t distance)
{
    enum { WORDS_AT_A_TIME = 8 };
    const uint64_t *ahead = words + distance / 64;
    const unsigned n_right = distance % 64, n_left = 63 - n_right;
    size_t i = 0;
    for (; n_words - i >= WORDS_AT_A_TIME; i += WORDS_AT_A_TIME) {
        uint64_t made[WORDS_AT_A_TIME];
        for (size_t w = 0; w < WORDS_AT_A_TIME; w++)
            made[w] = words[i + w] | ahead[i + w] >> n_right | ahead[i + w + 1] << 1 << n_left;
        memcpy(words + i, made, sizeof made);
    }
    for (; i < n_words; i++)
        words[i] |= ahead[i] >> n_right | ahead[i + 1] << 1 << n_left;
    return ISA_NAME;
}

static const char *invert_bits(uint64_t *words, size_t n_words, size_t *n_set)
{
    size_t n_here = 0;
    for (size_t i = 0; i < n_words; i++) {
        words[i] = ~words[i];
        n_here += bits_set(words[i]);
    }
    *n_set += n_here;
    return ISA_NAME;
}

#include "submatrix_kernels.inc.h"

enum { UPDATE_COLUMNS = 1024 }; /* a multiple of 64; their gradient stays in the first-level cache */
#define UPDATED f32
#include "update_kernels.inc.h"
#define UPDATED f64
#include "update_kernels.inc.h"

static const char *changed_arithmetic_of_table(void)
{
    return changed_arithmetic_here();
}

/* The initializer of the table that isa/<name>.c exports. */
#define DTYPE_ROW(name, n_bytes, scale_bits, numpy_name) [DTYPE_##name] = &dtype_kernels_##name,
#define KERNEL_TABLE(is_supported_fn)                                                                                  \
    {                                                                                                                  \
        .isa = ISA_NAME, .is_supported = (is_supported_fn), .changed_arithmetic = changed_arithmetic_of_table,         \
        .dtype = {CDROPOUT_DTYPES(DTYPE_ROW)}, .fill_keep = fill_keep, .fill_words = fill_words, .fill_raw = fill_raw, \
        .fill_draws = fill_draws, .or_bits_ahead = or_bits_ahead, .invert_bits = invert_bits,                          \
        .count_bits = count_bits, .select = {select_1, select_2, select_4, select_8},                                  \
        .select_range = {select_range_1, select_range_2, select_range_4, select_range_8},                              \
        .select_tripled = select_tripled, .submatrix = {[DTYPE_f32] = submatrix_f32, [DTYPE_f64] = submatrix_f64},     \
        .update = {[DTYPE_f32] = update_params_f32, [DTYPE_f64] = update_params_f64}, .update_kept = {                 \
            [DTYPE_f32] = update_kept_f32,                                                                             \
            [DTYPE_f64] = update_kept_f64                                                                              \
        }                                                                                                              \
    }
