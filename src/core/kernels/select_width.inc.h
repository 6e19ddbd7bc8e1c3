/* The select kernel for elements of WIDTH bytes, which select_kernels.inc.h defines and undefines. */

#define SELECT_JOIN_TOKENS(a, b) a##_##b
#define SELECT_JOIN(a, b) SELECT_JOIN_TOKENS(a, b)
#define OF_WIDTH(name) SELECT_JOIN(name, WIDTH)
#define SELECT_VERB_TOKENS(width) bytes_select##width
#define SELECT_VERB(width) SELECT_VERB_TOKENS(width)
#define SELECT SELECT_VERB(WIDTH)
#define VECTOR_ELEMS (BYTES_OF_VECTOR / WIDTH)

/* The fill values of a group that begins at element fill_at of them: 64 neighbours in memory. */
static ALWAYS_INLINE const char *OF_WIDTH(fills_from)(const operands *ops, size_t fill_at)
{
    if (fill_at + ELEMS_PER_GROUP <= ops->bias_period)
        return ops->bias + fill_at * WIDTH;
    return ops->bias_seam + (fill_at + ELEMS_PER_GROUP - ops->bias_period) * WIDTH;
}

/* Elements from element i on: those of one group, or fewer than 64 if the last ones are passed. */
static ALWAYS_INLINE const char *OF_WIDTH(kept_from)(const operands *ops, size_t i)
{
    return ops->x != NULL ? ops->x + i * WIDTH : ops->bias_seam + 2 * ELEMS_PER_GROUP * WIDTH;
}

/* On a whole group. The fills are read from bias_at on. */
static ALWAYS_INLINE void OF_WIDTH(select_group)(const operands *ops, size_t i, size_t bias_at, uint64_t keep_u64,
                                                 int is_streamed)
{
    const char *x = OF_WIDTH(kept_from)(ops, i), *fills = OF_WIDTH(fills_from)(ops, bias_at);
    char *out = ops->out + i * WIDTH;
    for (unsigned e = 0; e < ELEMS_PER_GROUP; e += VECTOR_ELEMS) {
        const vbytes v = SELECT(keep_u64 >> e, bytes_load(x + e * WIDTH), bytes_load(fills + e * WIDTH));
        if (is_streamed)
            bytes_stream(out + e * WIDTH, v);
        else
            bytes_store(out + e * WIDTH, v);
    }
}

static ALWAYS_INLINE size_t OF_WIDTH(select_groups)(const operands *ops, const uint64_t *keep_words, size_t n_elems,
                                                    size_t *fill_at, int is_streamed)
{
    const operands local = *ops;
    size_t i = 0, at = *fill_at;
    for (; n_elems - i >= ELEMS_PER_GROUP; i += ELEMS_PER_GROUP) {
        OF_WIDTH(select_group)(&local, i, at, keep_words[i / ELEMS_PER_GROUP], is_streamed);
        at = at + ELEMS_PER_GROUP < local.bias_period ? at + ELEMS_PER_GROUP : at + ELEMS_PER_GROUP - local.bias_period;
    }
    *fill_at = at;
    return i;
}

static const char *OF_WIDTH(select)(const operands *ops, const uint64_t *keep_words, size_t n_elems)
{
    size_t fill_at = ops->bias_at, i;
    if (ops->is_streamed)
        i = OF_WIDTH(select_groups)(ops, keep_words, n_elems, &fill_at, 1);
    else
        i = OF_WIDTH(select_groups)(ops, keep_words, n_elems, &fill_at, 0);
    if (i < n_elems) {
        const size_t n_left = n_elems - i;
        const uint64_t keep_u64 = keep_words[i / ELEMS_PER_GROUP];
        const char *x = OF_WIDTH(kept_from)(ops, i), *fills = OF_WIDTH(fills_from)(ops, fill_at);
        char *out = ops->out + i * WIDTH;
        size_t e = 0;
        for (; n_left - e >= VECTOR_ELEMS; e += VECTOR_ELEMS)
            bytes_store(out + e * WIDTH,
                        SELECT(keep_u64 >> e, bytes_load(x + e * WIDTH), bytes_load(fills + e * WIDTH)));
        for (; e < n_left; e++)
            memmove(out + e * WIDTH, (keep_u64 >> e & 1 ? x : fills) + e * WIDTH, WIDTH);
    }
    if (ops->is_streamed)
        AFTER_STREAMING();
    return ISA_NAME;
}

static ALWAYS_INLINE void OF_WIDTH(select_on_group)(const operands *ops, size_t i, size_t bias_at,
                                                    const group_keep *group)
{
    OF_WIDTH(select_group)(ops, i, bias_at, word_of_group(group), 0);
}

static ALWAYS_INLINE void OF_WIDTH(stream_on_group)(const operands *ops, size_t i, size_t bias_at,
                                                    const group_keep *group)
{
    OF_WIDTH(select_group)(ops, i, bias_at, word_of_group(group), 1);
}

static OUT_OF_LINE void OF_WIDTH(select_on_word)(const operands *ops, size_t i, size_t bias_at, uint64_t keep_u64,
                                                 size_t n_elems, int operation)
{
    operands at = *ops;
    (void)operation;
    at.out += i * WIDTH;
    if (at.x != NULL)
        at.x += i * WIDTH;
    at.bias_at = bias_at;
    at.is_streamed = 0;
    OF_WIDTH(select)(&at, &keep_u64, n_elems);
}

static const char *OF_WIDTH(select_range)(const operands *ops, const mask_rule *rule, uint64_t first, size_t n_elems)
{
    if (ops->is_streamed) {
        select_by_words(ops, rule, first, n_elems, OF_WIDTH(stream_on_group), OF_WIDTH(select_on_word), 1,
                        IS_FUSED(WIDTH));
        AFTER_STREAMING();
    } else {
        select_by_words(ops, rule, first, n_elems, OF_WIDTH(select_on_group), OF_WIDTH(select_on_word), 1,
                        IS_FUSED(WIDTH));
    }
    return ISA_NAME;
}

#undef SELECT_JOIN_TOKENS
#undef SELECT_JOIN
#undef OF_WIDTH
#undef SELECT_VERB_TOKENS
#undef SELECT_VERB
#undef SELECT
#undef VECTOR_ELEMS
