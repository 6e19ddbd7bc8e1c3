/* The kernels of one dtype. Included by block_kernels.inc.h once for each, with ELEM (the C type), OF_DTYPE(name),
 * ELEM_VERB(verb) and ELEM_VEC defined; it undefines them for the next. Arrays are addressed in bytes and through
 * memcpy or unaligned loads, because they need not be aligned. */

/* ---- apply_mask: out[i] = keep ? x[i] * scale : 0 ---- */

static ALWAYS_INLINE void OF_DTYPE(scale_on_word)(const operands *ops, size_t i, uint64_t keep_u64, size_t n_elems)
{
    const ELEM scale = (ELEM)ops->scale;
    for (size_t e = 0; e < n_elems; e++) {
        ELEM elem;
        memcpy(&elem, ops->x + (i + e) * sizeof elem, sizeof elem);
        elem = keep_u64 >> e & 1 ? elem * scale : 0;
        memcpy(ops->out + (i + e) * sizeof elem, &elem, sizeof elem);
    }
}

static ALWAYS_INLINE void OF_DTYPE(scale_on_group)(const operands *ops, size_t i, const v64 numbers[N_VECS],
                                                   v64 threshold32)
{
    const ELEM_VEC scale = ELEM_VERB(set1)((ELEM)ops->scale);
    enum { LOWER = ELEMS_PER_GROUP / 2 * sizeof(ELEM), PER_VEC = V32_LANES * sizeof(ELEM) };
    const char *x = ops->x + i * sizeof(ELEM);
    char *out = ops->out + i * sizeof(ELEM);
    for (int v = 0; v < N_VECS; v++, x += PER_VEC, out += PER_VEC) {
        const ELEM_VEC upper = ELEM_VERB(mul)(ELEM_VERB(load)(x), scale);
        const ELEM_VEC lower = ELEM_VERB(mul)(ELEM_VERB(load)(x + LOWER), scale);
        ELEM_VERB(store)(out, ELEM_VERB(select)(keep_upper(numbers[v], threshold32), upper));
        ELEM_VERB(store)(out + LOWER, ELEM_VERB(select)(keep_lower(numbers[v], threshold32), lower));
    }
}

static const char *OF_DTYPE(apply_mask)(void *out, const void *x, const mask_rule *rule, uint64_t first, size_t n_elems,
                                        double scale)
{
    const operands ops = {.out = out, .x = x, .scale = scale};
    for_each_group(&ops, rule, first, n_elems, OF_DTYPE(scale_on_group), OF_DTYPE(scale_on_word));
    return ISA_NAME;
}

/* ---- apply_mask_repeat: the same, each mask position covering n_repeats elements ---- */

static ALWAYS_INLINE void OF_DTYPE(repeat_on_word)(const operands *ops, size_t i, uint64_t keep_u64, size_t n_elems)
{
    const ELEM scale = (ELEM)ops->scale;
    const size_t run_bytes = ops->n_repeats * sizeof(ELEM);
    for (size_t e = 0; e < n_elems; e++) {
        char *out = ops->out + (i + e) * run_bytes;
        const char *x = ops->x + (i + e) * run_bytes;
        if (!(keep_u64 >> e & 1)) {
            memset(out, 0, run_bytes);
            continue;
        }
        for (size_t at = 0; at < run_bytes; at += sizeof(ELEM)) {
            ELEM elem;
            memcpy(&elem, x + at, sizeof elem);
            elem *= scale;
            memcpy(out + at, &elem, sizeof elem);
        }
    }
}

static ALWAYS_INLINE void OF_DTYPE(repeat_on_group)(const operands *ops, size_t i, const v64 numbers[N_VECS],
                                                    v64 threshold32)
{
    OF_DTYPE(repeat_on_word)(ops, i, keep_word(numbers, threshold32), ELEMS_PER_GROUP);
}

static const char *OF_DTYPE(apply_mask_repeat)(void *out, const void *x, const mask_rule *rule, uint64_t first,
                                               size_t n_elems, size_t n_repeats, double scale)
{
    const operands ops = {.out = out, .x = x, .n_repeats = n_repeats, .scale = scale};
    for_each_group(&ops, rule, first, n_elems, OF_DTYPE(repeat_on_group), OF_DTYPE(repeat_on_word));
    return ISA_NAME;
}

/* ---- fill_scaled: out[i] = keep ? scale : 0 ---- */

static ALWAYS_INLINE void OF_DTYPE(fill_on_word)(const operands *ops, size_t i, uint64_t keep_u64, size_t n_elems)
{
    for (size_t e = 0; e < n_elems; e++) {
        const ELEM elem = keep_u64 >> e & 1 ? (ELEM)ops->scale : 0;
        memcpy(ops->out + (i + e) * sizeof elem, &elem, sizeof elem);
    }
}

static ALWAYS_INLINE void OF_DTYPE(fill_on_group)(const operands *ops, size_t i, const v64 numbers[N_VECS],
                                                  v64 threshold32)
{
    const ELEM_VEC scale = ELEM_VERB(set1)((ELEM)ops->scale);
    enum { LOWER = ELEMS_PER_GROUP / 2 * sizeof(ELEM), PER_VEC = V32_LANES * sizeof(ELEM) };
    char *out = ops->out + i * sizeof(ELEM);
    for (int v = 0; v < N_VECS; v++, out += PER_VEC) {
        ELEM_VERB(store)(out, ELEM_VERB(select)(keep_upper(numbers[v], threshold32), scale));
        ELEM_VERB(store)(out + LOWER, ELEM_VERB(select)(keep_lower(numbers[v], threshold32), scale));
    }
}

static const char *OF_DTYPE(fill_scaled)(void *out, const mask_rule *rule, uint64_t first, size_t n_elems, double scale)
{
    const operands ops = {.out = out, .scale = scale};
    for_each_group(&ops, rule, first, n_elems, OF_DTYPE(fill_on_group), OF_DTYPE(fill_on_word));
    return ISA_NAME;
}

#undef ELEM
#undef OF_DTYPE
#undef ELEM_VERB
#undef ELEM_VEC
