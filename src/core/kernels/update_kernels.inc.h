/* The kernels of optimizers' steps (kernel_table.h) for the dtype UPDATED, which the end of this file undefines:
 * block_kernels.inc.h includes it for float32 and float64. They pass over memory once. While the arrays are in the
 * caches, the divide and the square root take most of the time; beyond, reading and writing (docs/design.md, "Steps of
 * optimizers"). */

#define JOIN_TOKENS(a, b) a##_##b
#define JOIN(a, b) JOIN_TOKENS(a, b)
#define OF_UPDATED(name) JOIN(name, UPDATED)
#define VEC JOIN(UPDATED, vec)
#define VERB(verb) JOIN(UPDATED, verb)
#define NUMBER(value) VERB(set1)((VERB(scalar))(value))
#define BYTES JOIN(BYTES_OF, UPDATED)

/* Stores v where kept and what was there elsewhere; everywhere if keep is NULL. */
static ALWAYS_INLINE void OF_UPDATED(store_kept)(char *p, VEC v, VEC before, const keep32 *keep)
{
    VERB(store)(p, keep == NULL ? v : VERB(blend)(*keep, v, before));
}

static ALWAYS_INLINE void OF_UPDATED(update_vec)(const param_update *u, const keep32 *keep, int rule)
{
    const VEC param = VERB(load)(u->param), given = VERB(load)(u->grad), old_first = VERB(load)(u->first);
    const VEC grad = u->l2 == 0 ? given : VERB(add)(given, VERB(mul)(param, NUMBER(u->l2)));
    const VEC step = VERB(mul)(grad, NUMBER(u->add_first));
    const VEC first = VERB(add)(VERB(mul)(old_first, NUMBER(u->decay_first)), step);
    OF_UPDATED(store_kept)(u->first, first, old_first, keep);
    VEC direction = first;
    if (rule == UPDATE_ADAM) {
        const VEC old_second = VERB(load)(u->second);
        const VEC square = VERB(mul)(VERB(mul)(grad, grad), NUMBER(u->add_second));
        const VEC second = VERB(add)(VERB(mul)(old_second, NUMBER(u->decay_second)), square);
        OF_UPDATED(store_kept)(u->second, second, old_second, keep);
        direction = VERB(div)(first, VERB(add)(VERB(sqrt)(second), NUMBER(u->eps)));
    }
    const VEC from = rule == UPDATE_NESTEROV ? VERB(add)(param, step) : param;
    OF_UPDATED(store_kept)(u->param, VERB(add)(from, VERB(mul)(direction, NUMBER(u->factor))), param, keep);
}

/* The same arrays from element i on, except the gradient. */
static ALWAYS_INLINE param_update OF_UPDATED(updated_at)(const param_update *u, size_t i)
{
    param_update at = *u;
    at.param += i * BYTES;
    at.first += i * BYTES;
    if (u->rule == UPDATE_ADAM)
        at.second += i * BYTES;
    return at;
}

static ALWAYS_INLINE param_update OF_UPDATED(update_at)(const param_update *u, size_t i)
{
    param_update at = OF_UPDATED(updated_at)(u, i);
    at.grad += i * BYTES;
    return at;
}

static ALWAYS_INLINE size_t OF_UPDATED(update_by)(const param_update *u, const uint64_t *words, size_t n_elems,
                                                  int rule)
{
    size_t i = 0;
    for (; n_elems - i >= V32_LANES; i += V32_LANES) {
        const param_update at = OF_UPDATED(update_at)(u, i);
        if (words == NULL) {
            OF_UPDATED(update_vec)(&at, NULL, rule);
        } else {
            const keep32 keep = keep32_of_bits((uint32_t)(words[i / 64] >> i % 64));
            OF_UPDATED(update_vec)(&at, &keep, rule);
        }
    }
    return i;
}

/* Updates the elements of whole vectors and returns their number. words are the keep words of what is updated, or NULL
 * if all is. */
static OUT_OF_LINE size_t OF_UPDATED(update_vecs)(const param_update *u, const uint64_t *words, size_t n_elems)
{
    const param_update local = *u;
    switch (local.rule) {
    case UPDATE_MOMENTUM:
        return OF_UPDATED(update_by)(&local, words, n_elems, UPDATE_MOMENTUM);
    case UPDATE_NESTEROV:
        return OF_UPDATED(update_by)(&local, words, n_elems, UPDATE_NESTEROV);
    default:
        return OF_UPDATED(update_by)(&local, words, n_elems, UPDATE_ADAM);
    }
}

/* The last elements, fewer than a vector has, run the same code on copies that are followed by zeros. */
static void OF_UPDATED(update_elems)(const param_update *u, const uint64_t *words, size_t n_elems)
{
    const size_t n_done = OF_UPDATED(update_vecs)(u, words, n_elems), n_bytes = (n_elems - n_done) * BYTES;
    if (n_bytes == 0)
        return;
    char param[V32_LANES * BYTES] = {0}, grad[sizeof param] = {0}, first[sizeof param] = {0},
                           second[sizeof param] = {0};
    const param_update at = OF_UPDATED(update_at)(u, n_done);
    const uint64_t last_word = words == NULL ? 0 : words[n_done / 64] >> n_done % 64;
    param_update padded = at;
    padded.param = memcpy(param, at.param, n_bytes);
    padded.grad = memcpy(grad, at.grad, n_bytes);
    padded.first = memcpy(first, at.first, n_bytes);
    if (at.rule == UPDATE_ADAM)
        padded.second = memcpy(second, at.second, n_bytes);
    OF_UPDATED(update_vecs)(&padded, words == NULL ? NULL : &last_word, V32_LANES);
    memcpy(at.param, param, n_bytes);
    memcpy(at.first, first, n_bytes);
    if (at.rule == UPDATE_ADAM)
        memcpy(at.second, second, n_bytes);
}

static const char *OF_UPDATED(update_params)(const param_update *update, size_t begin, size_t end)
{
    const param_update at = OF_UPDATED(update_at)(update, begin);
    OF_UPDATED(update_elems)(&at, NULL, end - begin);
    return ISA_NAME;
}

/* ---- kept rows and columns ---- */

/* The gradient of n_elems columns, from that of the kept ones times scale; returns how many these are. */
static OUT_OF_LINE size_t OF_UPDATED(spread_grad)(char *out, const char *x, const uint64_t *words, size_t n_elems,
                                                  double scale)
{
    const VERB(scalar) factor = (VERB(scalar))scale;
    const int is_copy = scale == 1.0;
    const size_t n_kept = bits_of_words(words, n_elems);
#ifdef HAS_PACK
    const column_piece piece = {.n_columns = n_elems, .n_kept = n_kept, .words = words};
    OF_UPDATED(scatter_row)(out, x, &piece, factor, is_copy, SCATTER_KEPT_ZERO);
#else
    memset(out, 0, n_elems * BYTES);
    for (size_t c = 0; c < n_elems; c += 64)
        for (uint64_t word = words[c / 64]; word != 0; word &= word - 1) {
            const size_t at = c + (size_t)__builtin_ctzll(word);
            if (at >= n_elems)
                break;
            OF_UPDATED(move_all)(out + at * BYTES, x, 1, factor, is_copy, 0);
            x += BYTES;
        }
#endif
    return n_kept;
}

/* Row by row, in pieces of UPDATE_COLUMNS columns, whose gradient is spread to `room` first. */
static const char *OF_UPDATED(update_kept)(const param_update *update, const submatrix *kept, size_t first_row,
                                           size_t end_row)
{
    _Alignas(64) char room[UPDATE_COLUMNS * BYTES];
    const int is_lazy = kept->verb == SCATTER_KEPT_SET;
    const char *grad = update->grad + rank_of_row(kept, first_row) * kept->n_kept_columns * BYTES;
    for (size_t row = first_row; row < end_row; row++) {
        const int is_kept = is_row_kept(kept, row);
        if (!is_kept && is_lazy)
            continue;
        for (size_t c = 0, n; c < kept->n_columns; c += n) {
            n = kept->n_columns - c < UPDATE_COLUMNS ? kept->n_columns - c : UPDATE_COLUMNS;
            const uint64_t *words = kept->column_words == NULL ? NULL : kept->column_words + c / 64;
            param_update at = OF_UPDATED(updated_at)(update, row * kept->n_columns + c);
            size_t n_kept = is_kept ? n : 0;
            at.grad = room;
            if (!is_kept)
                memset(room, 0, n * BYTES);
            else if (words != NULL)
                n_kept = OF_UPDATED(spread_grad)(room, grad, words, n, kept->scale);
            else if (kept->scale != 1.0)
                OF_UPDATED(move_all)(room, grad, n, (VERB(scalar))kept->scale, 0, 0);
            else
                at.grad = grad;
            OF_UPDATED(update_elems)(&at, is_lazy ? words : NULL, n);
            grad += n_kept * BYTES;
        }
    }
    return ISA_NAME;
}

#undef UPDATED
#undef JOIN_TOKENS
#undef JOIN
#undef OF_UPDATED
#undef VEC
#undef VERB
#undef NUMBER
#undef BYTES
