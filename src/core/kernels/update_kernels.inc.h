/* The kernel of optimizers' steps (kernel_table.h) for the dtype UPDATED, which the end of this file undefines:
 * block_kernels.inc.h includes it for float32 and float64. Memory is passed over once. The time is that of the divide
 * and the square root while the arrays are in the second-level cache, and that of memory beyond
 * (docs/design.md, "Steps of optimizers"). */

#define JOIN_TOKENS(a, b) a##_##b
#define JOIN(a, b) JOIN_TOKENS(a, b)
#define VEC JOIN(UPDATED, vec)
#define VERB(verb) JOIN(UPDATED, verb)
#define NUMBER(value) VERB(set1)((VERB(scalar))(value))
#define BYTES JOIN(BYTES_OF, UPDATED)

static ALWAYS_INLINE void JOIN(update_vec, UPDATED)(const param_update *u, int rule)
{
    const VEC param = VERB(load)(u->param), given = VERB(load)(u->grad);
    const VEC grad = u->l2 == 0 ? given : VERB(add)(given, VERB(mul)(param, NUMBER(u->l2)));
    const VEC step = VERB(mul)(grad, NUMBER(u->add_first));
    const VEC first = VERB(add)(VERB(mul)(VERB(load)(u->first), NUMBER(u->decay_first)), step);
    VERB(store)(u->first, first);
    VEC direction = first;
    if (rule == UPDATE_ADAM) {
        const VEC square = VERB(mul)(VERB(mul)(grad, grad), NUMBER(u->add_second));
        const VEC second = VERB(add)(VERB(mul)(VERB(load)(u->second), NUMBER(u->decay_second)), square);
        VERB(store)(u->second, second);
        direction = VERB(div)(first, VERB(add)(VERB(sqrt)(second), NUMBER(u->eps)));
    }
    const VEC from = rule == UPDATE_NESTEROV ? VERB(add)(param, step) : param;
    VERB(store)(u->param, VERB(add)(from, VERB(mul)(direction, NUMBER(u->factor))));
}

static ALWAYS_INLINE param_update JOIN(update_at, UPDATED)(const param_update *u, size_t i)
{
    param_update at = *u;
    at.param += i * BYTES;
    at.grad += i * BYTES;
    at.first += i * BYTES;
    if (u->rule == UPDATE_ADAM)
        at.second += i * BYTES;
    return at;
}

static ALWAYS_INLINE size_t JOIN(update_by, UPDATED)(const param_update *u, size_t n_elems, int rule)
{
    size_t i = 0;
    for (; n_elems - i >= V32_LANES; i += V32_LANES) {
        const param_update at = JOIN(update_at, UPDATED)(u, i);
        JOIN(update_vec, UPDATED)(&at, rule);
    }
    return i;
}

/* Updates the elements of whole vectors and returns their number. */
static OUT_OF_LINE size_t JOIN(update_vecs, UPDATED)(const param_update *u, size_t n_elems)
{
    const param_update local = *u;
    switch (local.rule) {
    case UPDATE_MOMENTUM:
        return JOIN(update_by, UPDATED)(&local, n_elems, UPDATE_MOMENTUM);
    case UPDATE_NESTEROV:
        return JOIN(update_by, UPDATED)(&local, n_elems, UPDATE_NESTEROV);
    default:
        return JOIN(update_by, UPDATED)(&local, n_elems, UPDATE_ADAM);
    }
}

/* The last elements, fewer than a vector has, run the same code on copies that are followed by zeros. */
static const char *JOIN(update_params, UPDATED)(const param_update *update, size_t begin, size_t end)
{
    param_update at = JOIN(update_at, UPDATED)(update, begin);
    const size_t n_done = JOIN(update_vecs, UPDATED)(&at, end - begin), n_bytes = (end - begin - n_done) * BYTES;
    if (n_bytes == 0)
        return ISA_NAME;
    char param[V32_LANES * BYTES] = {0}, grad[sizeof param] = {0}, first[sizeof param] = {0}, second[sizeof param] = {0};
    at = JOIN(update_at, UPDATED)(&at, n_done);
    param_update padded = at;
    padded.param = memcpy(param, at.param, n_bytes);
    padded.grad = memcpy(grad, at.grad, n_bytes);
    padded.first = memcpy(first, at.first, n_bytes);
    if (at.rule == UPDATE_ADAM)
        padded.second = memcpy(second, at.second, n_bytes);
    JOIN(update_vecs, UPDATED)(&padded, V32_LANES);
    memcpy(at.param, param, n_bytes);
    memcpy(at.first, first, n_bytes);
    if (at.rule == UPDATE_ADAM)
        memcpy(at.second, second, n_bytes);
    return ISA_NAME;
}

#undef UPDATED
#undef JOIN_TOKENS
#undef JOIN
#undef VEC
#undef VERB
#undef NUMBER
#undef BYTES
