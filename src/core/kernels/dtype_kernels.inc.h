/* The kernels of one dtype, in the verbs that block_kernels.inc.h lists. all_dtypes.inc.h includes this file with
 * DTYPE, COMPUTED and COPIED defined; its end undefines them. Arrays are addressed in bytes, as they need not be
 * aligned.
 *
 * Each operation of the catalog has two loops over a range into which its steps are compiled: with streaming stores and
 * with ordinary ones. Code that runs once for many elements, as at the ends of a range, is compiled once for all
 * operations and chooses the operation at run time. Names end in the dtype: OF_DTYPE(words) is words_f32. */

#define JOIN_TOKENS(a, b) a##_##b
#define JOIN(a, b) JOIN_TOKENS(a, b)
#define OF_DTYPE(name) JOIN(name, DTYPE)
#define LOAD JOIN(DTYPE, load)
#define STORE JOIN(DTYPE, store)
#define STREAM JOIN(DTYPE, stream)
#define VEC JOIN(COMPUTED, vec)
#define VERB(verb) JOIN(COMPUTED, verb)
#define BYTES JOIN(BYTES_OF, DTYPE)

/* ---- one vector, one group ---- */

static ALWAYS_INLINE void OF_DTYPE(store_vec)(char *p, VEC v, int is_streamed)
{
    if (is_streamed)
        STREAM(p, v);
    else
        STORE(p, v);
}

/* The bias of a group that begins at element bias_at of the bias: 64 neighbours in memory. */
static ALWAYS_INLINE const char *OF_DTYPE(bias_from)(const operands *ops, size_t bias_at, int steps)
{
    if (!(steps & WITH_BIAS))
        return NULL;
    if (bias_at + ELEMS_PER_GROUP <= ops->bias_period)
        return ops->bias + bias_at * BYTES;
    return ops->bias_seam + (bias_at + ELEMS_PER_GROUP - ops->bias_period) * BYTES;
}

/* One vector from element i of the range on: computes the steps in the order that kernel_table.h gives. */
static ALWAYS_INLINE void OF_DTYPE(operate_on_vec)(const operands *ops, size_t i, const char *bias, keep32 keep,
                                                   int steps, int is_streamed)
{
    char *out = ops->out + i * BYTES;
    if (steps & WITH_CHOICE) {
        const JOIN(COPIED, vec) x = JOIN(COPIED, load)(ops->x + i * BYTES);
        const JOIN(COPIED, vec) other = JOIN(COPIED, load)(ops->residual + i * BYTES);
        const JOIN(COPIED, vec) chosen = JOIN(COMPUTED, blend)(keep, x, other);
        if (is_streamed)
            JOIN(COPIED, stream)(out, chosen);
        else
            JOIN(COPIED, store)(out, chosen);
        return;
    }
    const VEC scale = VERB(set1)((VERB(scalar))ops->scale);
    VEC value = scale;
    if (!(steps & WITHOUT_X)) {
        value = LOAD(ops->x + i * BYTES);
        if (steps & WITH_BIAS)
            value = VERB(add)(value, LOAD(bias));
        if (steps & WITH_RELU)
            value = VERB(relu)(value);
        value = VERB(mul)(value, scale);
    }
    if (steps & WITH_RELU_GRADIENT)
        keep = VERB(positive)(LOAD(ops->residual + i * BYTES));
    if (steps & WITH_FILL)
        value = VERB(blend)(keep, VERB(add)(value, VERB(set1)((VERB(scalar))ops->shift)),
                            VERB(set1)((VERB(scalar))ops->fill));
    else
        value = VERB(select)(keep, value);
    if (steps & WITH_RESIDUAL)
        value = VERB(add)(value, LOAD(ops->residual + i * BYTES));
    OF_DTYPE(store_vec)(out, value, is_streamed);
}

static ALWAYS_INLINE void OF_DTYPE(operate_on_group)(const operands *ops, size_t i, size_t bias_at,
                                                     const group_keep *group, int steps, int is_streamed)
{
    const char *bias = OF_DTYPE(bias_from)(ops, bias_at, steps);
    for (int v = 0; v < N_VECS; v++) {
        const size_t upper = (size_t)(v * V32_LANES), lower = upper + ELEMS_PER_GROUP / 2;
        const char *upper_bias = steps & WITH_BIAS ? bias + upper * BYTES : NULL;
        const char *lower_bias = steps & WITH_BIAS ? bias + lower * BYTES : NULL;
        OF_DTYPE(operate_on_vec)(ops, i + upper, upper_bias, keep_of_vec(group, v, 1), steps, is_streamed);
        OF_DTYPE(operate_on_vec)(ops, i + lower, lower_bias, keep_of_vec(group, v, 0), steps, is_streamed);
    }
}

/* ---- 1 to 64 elements by a keep word ---- */

/* A vector's worth of each array: fewer elements than a vector has, followed by zeros. */
typedef struct {
    char out[V32_LANES * BYTES];
    char x[V32_LANES * BYTES];
    char residual[V32_LANES * BYTES];
} OF_DTYPE(padded);

static ALWAYS_INLINE operands OF_DTYPE(pad)(OF_DTYPE(padded) * room, const operands *ops, size_t i, size_t n_elems)
{
    operands at = *ops;
    memset(room, 0, sizeof *room);
    if (ops->x != NULL)
        memcpy(room->x, ops->x + i * BYTES, n_elems * BYTES);
    if (ops->residual != NULL)
        memcpy(room->residual, ops->residual + i * BYTES, n_elems * BYTES);
    at.out = room->out;
    at.x = room->x;
    at.residual = room->residual;
    return at;
}

static ALWAYS_INLINE void OF_DTYPE(operate_on_elems)(const operands *ops, size_t i, size_t bias_at, uint64_t keep_u64,
                                                     size_t n_elems, int steps)
{
    const char *bias = OF_DTYPE(bias_from)(ops, bias_at, steps);
    size_t e = 0;
    for (; n_elems - e >= V32_LANES; e += V32_LANES) {
        const keep32 keep = keep32_of_bits((uint32_t)(keep_u64 >> e));
        OF_DTYPE(operate_on_vec)(ops, i + e, steps & WITH_BIAS ? bias + e * BYTES : NULL, keep, steps, 0);
    }
    if (e < n_elems) {
        const keep32 keep = keep32_of_bits((uint32_t)(keep_u64 >> e));
        OF_DTYPE(padded) room;
        const operands at = OF_DTYPE(pad)(&room, ops, i + e, n_elems - e);
        OF_DTYPE(operate_on_vec)(&at, 0, steps & WITH_BIAS ? bias + e * BYTES : NULL, keep, steps, 0);
        memcpy(ops->out + (i + e) * BYTES, room.out, (n_elems - e) * BYTES);
    }
}

static OUT_OF_LINE void OF_DTYPE(operate_on_word)(const operands *ops, size_t i, size_t bias_at, uint64_t keep_u64,
                                                  size_t n_elems, int operation)
{
    switch (operation) {
#define X(name, number, steps)                                                     \
    case OPERATION_##name:                                                         \
        if (!((steps) & WITH_NOISE))                                               \
            OF_DTYPE(operate_on_elems)(ops, i, bias_at, keep_u64, n_elems, steps); \
        break;
        CDROPOUT_OPERATIONS(X)
#undef X
    default:
        break;
    }
}

/* ---- ranges by signs ---- */

#if defined(HAS_SIGNS) && JOIN(IS_FLOAT32, DTYPE)
/* apply_mask and relu_dropout on whole groups. A masked load takes the place of two comparisons and of the selection.
 * Each vector is stored before the next numbers are made, so that fewer registers are in use; a tied element counts as
 * kept then, and is dropped afterwards where its number says so (docs/design.md, "AVX2"). */
static ALWAYS_INLINE void groups_by_signs(const operands *ops, const mask_rule *rule, size_t i, lanes *gen,
                                          uint64_t block, unsigned first_elem, unsigned n_groups, int steps,
                                          int is_streamed, int is_recorded)
{
    enum { BYTES_AHEAD = 512, CACHE_LINE = 64 };
    /* Masked loads do not make processors prefetch. In place, the stores do. */
    const size_t ahead = ops->out == ops->x ? 0 : BYTES_AHEAD;
    const v64 below16 = below16_of(rule);
    const vf32 scale = f32_set1((float)ops->scale);
    const char *x = ops->x + i * 4;
    char *out = ops->out + i * 4;
    uint64_t *record = is_recorded ? ops->record + i / ELEMS_PER_GROUP : NULL;
    for (unsigned group = 0; group < n_groups; group++) {
        v64 signs[N_VECS], most = below16;
        for (int line = 0; line < ELEMS_PER_GROUP * 4; line += CACHE_LINE)
            __builtin_prefetch(x + ahead + line);
        for (int v = 0; v < N_VECS; v++) {
            const int upper = v * V32_LANES * 4, lower = upper + ELEMS_PER_GROUP * 2;
            signs[v] = signs_of(next_of_vec(gen, v), below16);
            most = v == 0 ? signs[v] : signs_most(most, signs[v]);
            vf32 first = f32_load_by_signs(x + upper, signs[v]);
            first = steps & WITH_RELU ? f32_relu(first) : first;
            store_vec_f32(out + upper, f32_mul(first, scale), is_streamed);
            vf32 second = f32_load_by_signs(x + lower, signs_of_lower(signs[v]));
            second = steps & WITH_RELU ? f32_relu(second) : second;
            store_vec_f32(out + lower, f32_mul(second, scale), is_streamed);
        }
        if (is_recorded)
            record[group] = record_of_signs(signs);
        if (UNLIKELY(has_tied_sign(most))) {
            const lanes after = *gen;
            uint64_t ties = dropped_ties(&after, rule, block, first_elem + group * ELEMS_PER_GROUP);
            if (is_recorded)
                record[group] = resolved_record(record[group], ties);
            for (; ties != 0; ties &= ties - 1)
                memset(out + (size_t)__builtin_ctzll(ties) * 4, 0, 4);
        }
        x += ELEMS_PER_GROUP * 4;
        out += ELEMS_PER_GROUP * 4;
    }
}

#define DEFINE_BY_SIGNS(name, steps, is_streamed, is_recorded)                                                       \
    static ALWAYS_INLINE void name(const operands *ops, const mask_rule *rule, size_t i, lanes *gen, uint64_t block, \
                                   unsigned first_elem, unsigned n_groups)                                           \
    {                                                                                                                \
        groups_by_signs(ops, rule, i, gen, block, first_elem, n_groups, steps, is_streamed, is_recorded);            \
    }
DEFINE_BY_SIGNS(apply_by_signs, 0, 0, 0)
DEFINE_BY_SIGNS(apply_by_signs_streamed, 0, 1, 0)
DEFINE_BY_SIGNS(apply_by_signs_recorded, 0, 0, 1)
DEFINE_BY_SIGNS(relu_by_signs, WITH_RELU, 0, 0)
DEFINE_BY_SIGNS(relu_by_signs_streamed, WITH_RELU, 1, 0)
#undef DEFINE_BY_SIGNS

/* The range function of an operation with the steps 0 or WITH_RELU, where has_signs (kernel_table.h). */
static ALWAYS_INLINE void range_by_signs(const operands *ops, const mask_rule *rule, uint64_t first, size_t n_elems,
                                         int operation, int steps)
{
    groups_fn *const streamed = steps == 0 ? apply_by_signs_streamed : relu_by_signs_streamed;
    groups_fn *const stored = steps == 0 ? apply_by_signs : relu_by_signs;
    if (steps == 0 && ops->record != NULL) {
        for_each_group(ops, rule, first, n_elems, NULL, apply_by_signs_recorded, operate_on_word_f32, operation, 0);
    } else if (ops->is_streamed) {
        for_each_group(ops, rule, first, n_elems, NULL, streamed, operate_on_word_f32, operation, 0);
        stream_fence();
    } else {
        for_each_group(ops, rule, first, n_elems, NULL, stored, operate_on_word_f32, operation, 0);
    }
}
#define RANGE_BY_SIGNS(name, steps)                                              \
    if (((steps) == 0 || (steps) == WITH_RELU) && has_signs(rule, ops->scale)) { \
        range_by_signs(ops, rule, first, n_elems, OPERATION_##name, steps);      \
        return ISA_NAME;                                                         \
    }
#elif defined(HAS_SIGNS) && JOIN(HAS_RECORD, DTYPE)
/* apply_mask on whole groups, with a record of the decisions. */
static ALWAYS_INLINE void OF_DTYPE(recorded_groups)(const operands *ops, const mask_rule *rule, size_t i, lanes *gen,
                                                    uint64_t block, unsigned first_elem, unsigned n_groups)
{
    const v64 below16 = below16_of(rule), threshold32 = threshold32_of(rule);
    for (unsigned at = 0; at < n_groups * ELEMS_PER_GROUP; at += ELEMS_PER_GROUP) {
        v64 numbers[N_VECS], signs[N_VECS], most = below16;
        next_numbers(gen, numbers);
        for (int v = 0; v < N_VECS; v++) {
            signs[v] = signs_of(numbers[v], below16);
            most = v == 0 ? signs[v] : signs_most(most, signs[v]);
        }
        uint64_t *record = ops->record + (i + at) / ELEMS_PER_GROUP;
        *record = record_of_signs(signs);
        if (UNLIKELY(has_tied_sign(most))) {
            const operands local = *ops;
            const uint64_t with_ties = keep_word(numbers, threshold32);
            const uint64_t keep_u64 = resolve_ties(with_ties, numbers, rule, block, first_elem + at);
            *record = resolved_record(*record, with_ties & ~keep_u64);
            OF_DTYPE(operate_on_word)(&local, i + at, 0, keep_u64, ELEMS_PER_GROUP, OPERATION_apply_mask);
            continue;
        }
        const group_keep group = {.numbers = numbers, .threshold32 = threshold32};
        OF_DTYPE(operate_on_group)(ops, i + at, 0, &group, 0, 0);
    }
}
#define RANGE_BY_SIGNS(name, steps)                                                                           \
    if ((steps) == 0 && ops->record != NULL) {                                                                \
        for_each_group(ops, rule, first, n_elems, NULL, OF_DTYPE(recorded_groups), OF_DTYPE(operate_on_word), \
                       OPERATION_##name, 0);                                                                  \
        return ISA_NAME;                                                                                      \
    }
#else
#define RANGE_BY_SIGNS(name, steps)
#endif

/* ---- ranges ---- */

/* An operation without a mask: every group has the same keep word. */
static ALWAYS_INLINE void OF_DTYPE(operate_unmasked)(const operands *ops, size_t n_elems, int operation, int steps)
{
    const group_keep all_kept = {.numbers = NULL, .keep_u64 = ~(uint64_t)0};
    const operands local = *ops;
    size_t i = 0;
    for (; n_elems - i >= ELEMS_PER_GROUP; i += ELEMS_PER_GROUP)
        if (local.is_streamed)
            OF_DTYPE(operate_on_group)(&local, i, 0, &all_kept, steps, 1);
        else
            OF_DTYPE(operate_on_group)(&local, i, 0, &all_kept, steps, 0);
    if (i < n_elems)
        OF_DTYPE(operate_on_word)(ops, i, 0, all_kept.keep_u64, n_elems - i, operation);
    if (ops->is_streamed)
        AFTER_STREAMING();
}

static ALWAYS_INLINE void OF_DTYPE(noise_on_vec)(const operands *ops, size_t i, const float *normals, int operation,
                                                 int is_streamed)
{
    vf32 noise = f32_mul(f32_load((const char *)normals), f32_set1((float)ops->scale));
    const VEC x = LOAD(ops->x + i * BYTES);
    if (operation == OPERATION_multiply_by_noise) {
        noise = f32_add(noise, f32_set1(1.0f));
        OF_DTYPE(store_vec)(ops->out + i * BYTES, VERB(mul)(x, VERB(of_f32)(noise)), is_streamed);
    } else {
        OF_DTYPE(store_vec)(ops->out + i * BYTES, VERB(add)(x, VERB(of_f32)(noise)), is_streamed);
    }
}

static ALWAYS_INLINE void OF_DTYPE(noise_on_elems)(const operands *ops, size_t i, const float *normals, size_t n_elems,
                                                   int operation, int may_stream)
{
    size_t e = 0;
    if (may_stream && ops->is_streamed)
        for (; n_elems - e >= V32_LANES; e += V32_LANES)
            OF_DTYPE(noise_on_vec)(ops, i + e, normals + e, operation, 1);
    for (; n_elems - e >= V32_LANES; e += V32_LANES)
        OF_DTYPE(noise_on_vec)(ops, i + e, normals + e, operation, 0);
    if (e < n_elems) {
        OF_DTYPE(padded) room;
        float last_normals[V32_LANES] = {0};
        const operands at = OF_DTYPE(pad)(&room, ops, i + e, n_elems - e);
        memcpy(last_normals, normals + e, (n_elems - e) * sizeof(float));
        OF_DTYPE(noise_on_vec)(&at, 0, last_normals, operation, 0);
        memcpy(ops->out + (i + e) * BYTES, room.out, (n_elems - e) * BYTES);
    }
}

static OUT_OF_LINE void OF_DTYPE(operate_with_noise)(const operands *ops, const mask_rule *rule, uint64_t first,
                                                     size_t n_elems, int operation)
{
    const operands local = *ops;
    for_each_noise_group(&local, &rule->key, first, n_elems, OF_DTYPE(noise_on_elems), operation);
    if (ops->is_streamed)
        AFTER_STREAMING();
}

#define DEFINE_ON_GROUP(name, steps, is_streamed)                                                                    \
    static ALWAYS_INLINE void OF_DTYPE(name)(const operands *ops, size_t i, size_t bias_at, const group_keep *group) \
    {                                                                                                                \
        OF_DTYPE(operate_on_group)(ops, i, bias_at, group, steps, is_streamed);                                      \
    }
#define X(name, number, steps) DEFINE_ON_GROUP(name##_on_group, steps, 0)
CDROPOUT_OPERATIONS(X)
#undef X

#ifdef HAS_STREAMING_STORES
#define X(name, number, steps) DEFINE_ON_GROUP(name##_stream_group, steps, 1)
CDROPOUT_OPERATIONS(X)
#undef X
#define STREAM_RANGE(name, steps)                                                                                 \
    if (ops->is_streamed) {                                                                                       \
        for_each_group(ops, rule, first, n_elems, OF_DTYPE(name##_stream_group), NULL, OF_DTYPE(operate_on_word), \
                       OPERATION_##name, (steps) & WITH_BIAS);                                                    \
        stream_fence();                                                                                           \
        return ISA_NAME;                                                                                          \
    }
#else
#define STREAM_RANGE(name, steps)
#endif

#define X(name, number, steps)                                                                                    \
    static const char *OF_DTYPE(name)(const operands *ops, const mask_rule *rule, uint64_t first, size_t n_elems) \
    {                                                                                                             \
        if ((steps) & WITH_NOISE) {                                                                               \
            OF_DTYPE(operate_with_noise)(ops, rule, first, n_elems, OPERATION_##name);                            \
            return ISA_NAME;                                                                                      \
        }                                                                                                         \
        if ((steps) & WITH_RELU_GRADIENT) {                                                                       \
            OF_DTYPE(operate_unmasked)(ops, n_elems, OPERATION_##name, steps);                                    \
            return ISA_NAME;                                                                                      \
        }                                                                                                         \
        RANGE_BY_SIGNS(name, steps)                                                                               \
        STREAM_RANGE(name, steps)                                                                                 \
        for_each_group(ops, rule, first, n_elems, OF_DTYPE(name##_on_group), NULL, OF_DTYPE(operate_on_word),     \
                       OPERATION_##name, (steps) & WITH_BIAS);                                                    \
        return ISA_NAME;                                                                                          \
    }
CDROPOUT_OPERATIONS(X)
#undef X
#undef DEFINE_ON_GROUP
#undef STREAM_RANGE
#undef RANGE_BY_SIGNS

/* ---- masks given as keep words ---- */

static ALWAYS_INLINE size_t OF_DTYPE(groups_by_words)(const operands *ops, const uint64_t *keep_words, size_t n_elems,
                                                      int steps, int is_streamed)
{
    size_t i = 0;
    for (; n_elems - i >= ELEMS_PER_GROUP; i += ELEMS_PER_GROUP) {
        const group_keep group = {.numbers = NULL, .keep_u64 = keep_words[i / ELEMS_PER_GROUP]};
        OF_DTYPE(operate_on_group)(ops, i, 0, &group, steps, is_streamed);
    }
    return i;
}

/* apply_mask and alpha_dropout, which functions with shared axes use, have loops with their steps compiled in. */
static const char *OF_DTYPE(words)(const operands *ops, const uint64_t *keep_words, size_t n_elems, int operation)
{
    const operands local = *ops;
    size_t i = 0, bias_at = ops->bias_at;
    if (operation == OPERATION_apply_mask && local.is_streamed)
        i = OF_DTYPE(groups_by_words)(&local, keep_words, n_elems, 0, 1);
    else if (operation == OPERATION_apply_mask)
        i = OF_DTYPE(groups_by_words)(&local, keep_words, n_elems, 0, 0);
    else if (operation == OPERATION_alpha_dropout && local.is_streamed)
        i = OF_DTYPE(groups_by_words)(&local, keep_words, n_elems, WITH_FILL, 1);
    else if (operation == OPERATION_alpha_dropout)
        i = OF_DTYPE(groups_by_words)(&local, keep_words, n_elems, WITH_FILL, 0);
    while (i < n_elems) {
        const size_t n_here = n_elems - i < ELEMS_PER_GROUP ? n_elems - i : ELEMS_PER_GROUP;
        OF_DTYPE(operate_on_word)(ops, i, bias_at, keep_words[i / ELEMS_PER_GROUP], n_here, operation);
        i += n_here;
        bias_at = ops->bias_period == 0 ? 0 : (bias_at + n_here) % ops->bias_period;
    }
    if (local.is_streamed)
        AFTER_STREAMING();
    return ISA_NAME;
}

/* apply_mask by the record of whole groups. */
#if defined(HAS_SIGNS) && JOIN(HAS_RECORD, DTYPE)
static const char *OF_DTYPE(record)(const operands *ops, const uint64_t *record, size_t n_elems)
{
    const operands local = *ops;
    for (size_t i = 0; i < n_elems; i += ELEMS_PER_GROUP) {
        const group_keep group = {.numbers = NULL, .keep_u64 = record[i / ELEMS_PER_GROUP], .is_record = 1};
        OF_DTYPE(operate_on_group)(&local, i, 0, &group, 0, 0);
    }
    return ISA_NAME;
}
#define RECORD_KERNEL OF_DTYPE(record)
#else
#define RECORD_KERNEL NULL
#endif

/* ---- n_repeats elements to each position ---- */

/* One vector of elements that are all kept or all dropped. If is_read is 0 they are dropped, and x is not read. */
static ALWAYS_INLINE VEC OF_DTYPE(decided_vec)(const operands *ops, const char *x, keep32 keep, int is_read, int steps)
{
    const VEC scale = VERB(set1)((VERB(scalar))ops->scale), shift = VERB(set1)((VERB(scalar))ops->shift);
    const VEC fill = VERB(set1)(steps & WITH_FILL ? (VERB(scalar))ops->fill : 0);
    if (!is_read)
        return fill;
    const VEC scaled = VERB(mul)(LOAD(x), scale);
    return steps & WITH_FILL ? VERB(blend)(keep, VERB(add)(scaled, shift), fill) : VERB(select)(keep, scaled);
}

/* The n_repeats elements of one position. The last vector may overlap the one before it. It is computed first and
 * stored last, so that in place no element is scaled twice. */
static ALWAYS_INLINE void OF_DTYPE(decide_position)(const operands *ops, keep32 keep, int is_read, int steps,
                                                    int is_streamed)
{
    const size_t last = (ops->n_repeats - V32_LANES) * BYTES;
    const VEC last_vec = OF_DTYPE(decided_vec)(ops, ops->x + last, keep, is_read, steps);
    for (size_t at = 0; at < last; at += V32_LANES * BYTES)
        OF_DTYPE(store_vec)(ops->out + at, OF_DTYPE(decided_vec)(ops, ops->x + at, keep, is_read, steps), is_streamed);
    OF_DTYPE(store_vec)(ops->out + last, last_vec, is_streamed && ops->n_repeats % V32_LANES == 0);
}

static ALWAYS_INLINE void OF_DTYPE(repeat_position)(const operands *ops, uint64_t all_kept, int steps, int is_streamed)
{
    /* Fewer bytes than a page are read even if they are dropped. A gap would interrupt the processor's prefetching,
     * which costs more time than reading (docs/design.md, "Rows that share a mask"). */
    enum { MIN_BYTES_SKIPPED = 4096 };
    const keep32 keep = keep32_of_bits((uint32_t)all_kept);
    if (all_kept || ops->n_repeats * BYTES < MIN_BYTES_SKIPPED)
        OF_DTYPE(decide_position)(ops, keep, 1, steps, is_streamed);
    else
        OF_DTYPE(decide_position)(ops, keep, 0, steps, is_streamed);
}

static OUT_OF_LINE void OF_DTYPE(repeat_on_word)(const operands *ops, size_t i, uint64_t keep_u64, size_t n_positions,
                                                 int operation)
{
    for (size_t e = 0; e < n_positions; e++) {
        const operands at = operands_at(ops, (i + e) * ops->n_repeats, BYTES);
        const uint64_t all_kept = -(keep_u64 >> e & 1);
        if (operation == OPERATION_alpha_dropout && at.is_streamed)
            OF_DTYPE(repeat_position)(&at, all_kept, WITH_FILL, 1);
        else if (operation == OPERATION_alpha_dropout)
            OF_DTYPE(repeat_position)(&at, all_kept, WITH_FILL, 0);
        else if (at.is_streamed)
            OF_DTYPE(repeat_position)(&at, all_kept, 0, 1);
        else
            OF_DTYPE(repeat_position)(&at, all_kept, 0, 0);
    }
}

static const char *OF_DTYPE(repeat)(const operands *ops, const uint64_t *keep_words, size_t n_positions, int operation)
{
    for (size_t i = 0; i < n_positions; i += ELEMS_PER_GROUP) {
        const size_t n = n_positions - i < ELEMS_PER_GROUP ? n_positions - i : ELEMS_PER_GROUP;
        OF_DTYPE(repeat_on_word)(ops, i, keep_words[i / ELEMS_PER_GROUP], n, operation);
    }
    if (ops->is_streamed)
        AFTER_STREAMING();
    return ISA_NAME;
}

#define X(name, number, steps) [OPERATION_##name] = OF_DTYPE(name),
static const dtype_kernels OF_DTYPE(dtype_kernels) = {
    .range = {CDROPOUT_OPERATIONS(X)},
    .repeat = OF_DTYPE(repeat),
    .words = OF_DTYPE(words),
    .record = RECORD_KERNEL,
};
#undef X

#undef RECORD_KERNEL
#undef DTYPE
#undef COMPUTED
#undef COPIED
#undef JOIN_TOKENS
#undef JOIN
#undef OF_DTYPE
#undef LOAD
#undef STORE
#undef STREAM
#undef VEC
#undef VERB
#undef BYTES
