/* The kernels of one dtype. Included by all_dtypes.inc.h once for each, with ELEM (an element in memory), COMPUTED
 * (what it is computed in), COMPUTED_OF and ELEM_OF (from one to the other), ELEM_VEC (V32_LANES of them in registers),
 * ELEM_LOAD, ELEM_STORE (of the kind of stores), ELEM_STORE_ANYWHERE, COPY_LOAD and COPY_STORE (of elements whose bits
 * must all survive), ELEM_VEC_OF_F32 (a vf32), VEC_VERB(verb) and OF_DTYPE(name) defined; it undefines them for the
 * next. Arrays are addressed in bytes and through memcpy or unaligned loads, because they need not be aligned. */

static ALWAYS_INLINE COMPUTED OF_DTYPE(elem_at)(const char *array, size_t i)
{
    ELEM elem;
    memcpy(&elem, array + i * sizeof elem, sizeof elem);
    return COMPUTED_OF(elem);
}

static ALWAYS_INLINE void OF_DTYPE(set_elem)(char *array, size_t i, COMPUTED value)
{
    const ELEM elem = ELEM_OF(value);
    memcpy(array + i * sizeof elem, &elem, sizeof elem);
}

/* ---- operations: what catalog.h says, with the parts that an operation has ---- */

/* The bias of the elements that begin at bias_at, a group of them one after the other. */
static ALWAYS_INLINE const char *OF_DTYPE(bias_from)(const operands *ops, size_t bias_at, int parts)
{
    if (!(parts & WITH_BIAS))
        return NULL;
    if (bias_at + ELEMS_PER_GROUP <= ops->bias_period)
        return ops->bias + bias_at * sizeof(ELEM);
    return ops->bias_seam + (bias_at + ELEMS_PER_GROUP - ops->bias_period) * sizeof(ELEM);
}

static ALWAYS_INLINE void OF_DTYPE(operate_on_word)(const operands *ops, size_t i, size_t bias_at, uint64_t keep_u64,
                                                    size_t n_elems, int parts)
{
    const COMPUTED scale = (COMPUTED)ops->scale;
    const COMPUTED shift = (COMPUTED)ops->shift, fill = parts & WITH_FILL ? (COMPUTED)ops->fill : 0;
    const char *bias = OF_DTYPE(bias_from)(ops, bias_at, parts);
    for (size_t e = 0; e < n_elems; e++) {
        if (parts & WITH_CHOICE) { /* a copy of bits, whatever they are */
            const char *chosen = (keep_u64 >> e & 1 ? ops->x : ops->residual) + (i + e) * sizeof(ELEM);
            memmove(ops->out + (i + e) * sizeof(ELEM), chosen, sizeof(ELEM));
            continue;
        }
        COMPUTED value = parts & WITHOUT_X ? 1 : OF_DTYPE(elem_at)(ops->x, i + e);
        if (parts & WITH_BIAS)
            value += OF_DTYPE(elem_at)(bias, e);
        if (parts & WITH_RELU)
            value = value < 0 ? 0 : value;
        value *= scale;
        if (parts & WITH_FILL)
            value += shift;
        value = keep_u64 >> e & 1 ? value : fill;
        if (parts & WITH_RESIDUAL)
            value += OF_DTYPE(elem_at)(ops->residual, i + e);
        OF_DTYPE(set_elem)(ops->out, i + e, value);
    }
}

/* One vector, i elements from the range's first; bias is its own. */
static ALWAYS_INLINE void OF_DTYPE(operate_on_vec)(const operands *ops, size_t i, const char *bias, keep32 keep,
                                                   int parts)
{
    const ELEM_VEC scale = VEC_VERB(set1)((COMPUTED)ops->scale);
    ELEM_VEC value = scale;
    if (parts & WITH_CHOICE) {
        value =
            VEC_VERB(blend)(keep, COPY_LOAD(ops->x + i * sizeof(ELEM)), COPY_LOAD(ops->residual + i * sizeof(ELEM)));
        COPY_STORE(ops->out + i * sizeof(ELEM), value);
        return;
    }
    if (!(parts & WITHOUT_X)) {
        value = ELEM_LOAD(ops->x + i * sizeof(ELEM));
        if (parts & WITH_BIAS)
            value = VEC_VERB(add)(value, ELEM_LOAD(bias));
        if (parts & WITH_RELU)
            value = VEC_VERB(relu)(value);
        value = VEC_VERB(mul)(value, scale);
    }
    if (parts & WITH_FILL)
        value = VEC_VERB(blend)(keep, VEC_VERB(add)(value, VEC_VERB(set1)((COMPUTED)ops->shift)),
                                VEC_VERB(set1)((COMPUTED)ops->fill));
    else
        value = VEC_VERB(select)(keep, value);
    if (parts & WITH_RESIDUAL)
        value = VEC_VERB(add)(value, ELEM_LOAD(ops->residual + i * sizeof(ELEM)));
    ELEM_STORE(ops->out + i * sizeof(ELEM), value);
}

static ALWAYS_INLINE void OF_DTYPE(operate_on_group)(const operands *ops, size_t i, size_t bias_at,
                                                     const group_keep *group, int parts)
{
    const char *bias = OF_DTYPE(bias_from)(ops, bias_at, parts);
    for (int v = 0; v < N_VECS; v++) {
        const size_t upper = (size_t)(v * V32_LANES), lower = upper + ELEMS_PER_GROUP / 2;
        const char *upper_bias = parts & WITH_BIAS ? bias + upper * sizeof(ELEM) : NULL;
        const char *lower_bias = parts & WITH_BIAS ? bias + lower * sizeof(ELEM) : NULL;
        OF_DTYPE(operate_on_vec)(ops, i + upper, upper_bias, keep_of_vec(group, v, 1), parts);
        OF_DTYPE(operate_on_vec)(ops, i + lower, lower_bias, keep_of_vec(group, v, 0), parts);
    }
}

#define DEFINE_OPERATION(operation, parts)                                                                             \
    static const char *OF_DTYPE(operation)(const operands *ops, const mask_rule *rule, uint64_t first, size_t n_elems) \
    {                                                                                                                  \
        const operands mine = *ops; /* a copy that nobody else can change, so that it may live in registers */         \
        for_each_group(&mine, rule, first, n_elems, OF_DTYPE(operate_on_group), OF_DTYPE(operate_on_word), parts);     \
        AFTER_STORES();                                                                                                \
        return ISA_NAME;                                                                                               \
    }
CDROPOUT_OPERATIONS(DEFINE_OPERATION)
#undef DEFINE_OPERATION

/* ---- the two that may have shared axes, where the decisions are at hand ---- */

#define DEFINE_FROM_WORDS(name, parts)                                                                   \
    static const char *OF_DTYPE(name)(const operands *ops, const uint64_t *keep_words, size_t n_elems)   \
    {                                                                                                    \
        const operands mine = *ops;                                                                      \
        size_t i = 0;                                                                                    \
        for (; n_elems - i >= ELEMS_PER_GROUP; i += ELEMS_PER_GROUP) {                                   \
            const group_keep group = {.numbers = NULL, .keep_u64 = keep_words[i / ELEMS_PER_GROUP]};     \
            OF_DTYPE(operate_on_group)(&mine, i, 0, &group, parts);                                      \
        }                                                                                                \
        if (i < n_elems)                                                                                 \
            OF_DTYPE(operate_on_word)(&mine, i, 0, keep_words[i / ELEMS_PER_GROUP], n_elems - i, parts); \
        AFTER_STORES();                                                                                  \
        return ISA_NAME;                                                                                 \
    }
DEFINE_FROM_WORDS(apply_mask_words, 0)
DEFINE_FROM_WORDS(alpha_dropout_words, WITH_FILL)
#undef DEFINE_FROM_WORDS

/* ---- the same where each position covers n_repeats elements ---- */

/* One vector of a run under one decision; where is_read is false, it is dropped. */
static ALWAYS_INLINE ELEM_VEC OF_DTYPE(decided_vec)(const operands *ops, const char *x, keep32 keep, int is_read,
                                                    int parts)
{
    const ELEM_VEC scale = VEC_VERB(set1)((COMPUTED)ops->scale), shift = VEC_VERB(set1)((COMPUTED)ops->shift);
    const ELEM_VEC fill = VEC_VERB(set1)(parts & WITH_FILL ? (COMPUTED)ops->fill : 0);
    if (!is_read)
        return fill;
    const ELEM_VEC scaled = VEC_VERB(mul)(ELEM_LOAD(x), scale);
    return parts & WITH_FILL ? VEC_VERB(blend)(keep, VEC_VERB(add)(scaled, shift), fill)
                             : VEC_VERB(select)(keep, scaled);
}

/* One run of at least V32_LANES elements. The last vector may overlap the one before it, which in place must not be
 * scaled twice: it is computed first and stored last. */
static ALWAYS_INLINE void OF_DTYPE(decide_run)(const operands *run, size_t n_elems, keep32 keep, int is_read, int parts)
{
    const size_t last = (n_elems - V32_LANES) * sizeof(ELEM);
    const ELEM_VEC last_vec = OF_DTYPE(decided_vec)(run, run->x + last, keep, is_read, parts);
    for (size_t at = 0; at < last; at += V32_LANES * sizeof(ELEM))
        ELEM_STORE(run->out + at, OF_DTYPE(decided_vec)(run, run->x + at, keep, is_read, parts));
    if (n_elems % V32_LANES == 0)
        ELEM_STORE(run->out + last, last_vec);
    else
        ELEM_STORE_ANYWHERE(run->out + last, last_vec);
}

static ALWAYS_INLINE void OF_DTYPE(repeat_on_word)(const operands *ops, size_t i, size_t bias_at, uint64_t keep_u64,
                                                   size_t n_elems, int parts)
{
    /* A short run is read even where it is dropped: what a gap costs the processor's prefetching, which works page by
     * page, is more than reading costs. */
    enum { MIN_BYTES_SKIPPED = 4096 };
    for (size_t e = 0; e < n_elems; e++) {
        const operands run = operands_at(ops, (i + e) * ops->n_repeats, sizeof(ELEM));
        const uint64_t all_kept = -(keep_u64 >> e & 1);
        const keep32 keep = keep32_of_bits((uint32_t)all_kept);
        if (run.n_repeats < V32_LANES)
            OF_DTYPE(operate_on_word)(&run, 0, bias_at, all_kept, run.n_repeats, parts);
        else if (all_kept || run.n_repeats * sizeof(ELEM) < MIN_BYTES_SKIPPED)
            OF_DTYPE(decide_run)(&run, run.n_repeats, keep, 1, parts);
        else
            OF_DTYPE(decide_run)(&run, run.n_repeats, keep, 0, parts);
    }
}

static ALWAYS_INLINE void OF_DTYPE(repeat_on_group)(const operands *ops, size_t i, size_t bias_at,
                                                    const group_keep *group, int parts)
{
    OF_DTYPE(repeat_on_word)(ops, i, bias_at, word_of_group(group), ELEMS_PER_GROUP, parts);
}

#define DEFINE_REPEAT(name, parts)                                                                                \
    static const char *OF_DTYPE(name)(const operands *ops, const mask_rule *rule, uint64_t first, size_t n_elems) \
    {                                                                                                             \
        for_each_group(ops, rule, first, n_elems, OF_DTYPE(repeat_on_group), OF_DTYPE(repeat_on_word), parts);    \
        AFTER_STORES();                                                                                           \
        return ISA_NAME;                                                                                          \
    }
DEFINE_REPEAT(apply_mask_repeat, 0)
DEFINE_REPEAT(alpha_dropout_repeat, WITH_FILL)
#undef DEFINE_REPEAT

/* ---- scale_where_positive: out = y > 0 ? dy * scale : 0 ---- */

static const char *OF_DTYPE(scale_where_positive)(const operands *ops, size_t n_elems)
{
    const operands mine = *ops;
    const ELEM_VEC scale = VEC_VERB(set1)((COMPUTED)mine.scale);
    size_t i = 0;
    for (; n_elems - i >= V32_LANES; i += V32_LANES) {
        const keep32 keep = VEC_VERB(positive)(ELEM_LOAD(mine.residual + i * sizeof(ELEM)));
        const ELEM_VEC scaled = VEC_VERB(mul)(ELEM_LOAD(mine.x + i * sizeof(ELEM)), scale);
        ELEM_STORE(mine.out + i * sizeof(ELEM), VEC_VERB(select)(keep, scaled));
    }
    for (; i < n_elems; i++) {
        const int is_positive = OF_DTYPE(elem_at)(mine.residual, i) > 0;
        const COMPUTED scaled = OF_DTYPE(elem_at)(mine.x, i) * (COMPUTED)mine.scale;
        OF_DTYPE(set_elem)(mine.out, i, is_positive ? scaled : 0);
    }
    AFTER_STORES();
    return ISA_NAME;
}

/* ---- noise ---- */

static ALWAYS_INLINE void OF_DTYPE(noise_on_vec)(const operands *ops, size_t i, vf32 noise, int is_factor)
{
    const ELEM_VEC x = ELEM_LOAD(ops->x + i * sizeof(ELEM)), number = ELEM_VEC_OF_F32(noise);
    ELEM_STORE(ops->out + i * sizeof(ELEM), is_factor ? VEC_VERB(mul)(x, number) : VEC_VERB(add)(x, number));
}

static ALWAYS_INLINE void OF_DTYPE(noise_on_elems)(const operands *ops, size_t i, const float *noise, size_t n_elems,
                                                   int is_factor)
{
    for (size_t e = 0; e < n_elems; e++) {
        const COMPUTED x = OF_DTYPE(elem_at)(ops->x, i + e), number = (COMPUTED)noise[e];
        OF_DTYPE(set_elem)(ops->out, i + e, is_factor ? x * number : x + number);
    }
}

#define DEFINE_NOISE(name, is_factor)                                                                                  \
    static const char *OF_DTYPE(name)(const operands *ops, const stream_key *key, uint64_t first, size_t n_elems)      \
    {                                                                                                                  \
        const operands mine = *ops;                                                                                    \
        for_each_noise_group(&mine, key, first, n_elems, OF_DTYPE(noise_on_vec), OF_DTYPE(noise_on_elems), is_factor); \
        AFTER_STORES();                                                                                                \
        return ISA_NAME;                                                                                               \
    }
DEFINE_NOISE(multiply_by_noise, 1)
DEFINE_NOISE(add_noise, 0)
#undef DEFINE_NOISE

#define OPERATION_ENTRY(operation, parts) [OPERATION_##operation] = OF_DTYPE(operation),
static const dtype_row OF_DTYPE(row) = {
    .operation = {CDROPOUT_OPERATIONS(OPERATION_ENTRY)},
    .apply_mask_repeat = OF_DTYPE(apply_mask_repeat),
    .alpha_dropout_repeat = OF_DTYPE(alpha_dropout_repeat),
    .apply_mask_words = OF_DTYPE(apply_mask_words),
    .alpha_dropout_words = OF_DTYPE(alpha_dropout_words),
    .scale_where_positive = OF_DTYPE(scale_where_positive),
    .multiply_by_noise = OF_DTYPE(multiply_by_noise),
    .add_noise = OF_DTYPE(add_noise),
};
#undef OPERATION_ENTRY

#undef ELEM
#undef COMPUTED
#undef COMPUTED_OF
#undef ELEM_OF
#undef OF_DTYPE
#undef ELEM_VEC
#undef ELEM_LOAD
#undef ELEM_VEC_OF_F32
#undef ELEM_STORE
#undef ELEM_STORE_ANYWHERE
#undef COPY_LOAD
#undef COPY_STORE
#undef VEC_VERB
