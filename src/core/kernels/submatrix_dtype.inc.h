/* The kernels of submatrix_kernels.inc.h for the dtype MOVED. */

typedef NAMED(scalar_of) NAMED(moved);
#ifdef HAS_PACK
enum { NAMED(PACK_BITS) = (1 << NAMED(PACK_ELEMS)) - 1 };
#endif

/* out = x * scale or out += x * scale, on all elements; is_copy: the scale is 1, and bits are kept. */
static ALWAYS_INLINE void NAMED(move_all)(char *out, const char *x, size_t n_elems, NAMED(moved) scale, int is_copy,
                                          int is_added)
{
    if (is_copy && !is_added) {
        memcpy(out, x, n_elems * sizeof(NAMED(moved)));
        return;
    }
    for (size_t i = 0; i < n_elems; i++) {
        NAMED(moved) value, before;
        memcpy(&value, x + i * sizeof value, sizeof value);
        if (!is_copy)
            value *= scale;
        if (is_added) {
            memcpy(&before, out + i * sizeof value, sizeof value);
            value = before + value;
        }
        memcpy(out + i * sizeof value, &value, sizeof value);
    }
}

#ifdef HAS_PACK

static ALWAYS_INLINE uint32_t NAMED(bits_at)(const uint64_t *words, size_t column, size_t n_left)
{
    const uint32_t bits = (uint32_t)(words[column / 64] >> column % 64);
    const size_t n_bits = n_left < NAMED(PACK_ELEMS) ? n_left : NAMED(PACK_ELEMS);
    return bits & (uint32_t)(((uint64_t)1 << n_bits) - 1);
}

/* The kept elements of a row, side by side. Whole vectors are stored as long as they fit into the output's row. */
static ALWAYS_INLINE void NAMED(gather_row)(char *out, const char *x, const column_piece *piece, NAMED(moved) scale,
                                            int is_copy)
{
    const size_t elem_bytes = sizeof(NAMED(moved));
    const NAMED(pack) factor = NAMED(pack_set1)(scale);
    size_t n_done = 0, c = 0;
    /* Without checks as long as 64 elements are left of both. */
    for (; piece->n_columns - c >= 64 && piece->n_kept - n_done >= 64; c += 64) {
        const uint64_t word = piece->words[c / 64];
        for (unsigned at = 0; at < 64; at += NAMED(PACK_ELEMS)) {
            const uint32_t bits = (uint32_t)(word >> at) & NAMED(PACK_BITS);
            NAMED(pack) v = NAMED(pack_load)(x + (c + at) * elem_bytes);
            if (!is_copy)
                v = NAMED(pack_mul)(v, factor);
            NAMED(pack_store)(out + n_done * elem_bytes, NAMED(pack_chosen)(bits, v));
            n_done += bits_set(bits);
        }
    }
    for (; c < piece->n_columns; c += NAMED(PACK_ELEMS)) {
        const size_t n_left = piece->n_columns - c;
        const uint32_t bits = NAMED(bits_at)(piece->words, c, n_left);
        NAMED(pack)
        v = n_left >= NAMED(PACK_ELEMS) ? NAMED(pack_load)(x + c * elem_bytes)
                                        : NAMED(pack_load_some)(x + c * elem_bytes, n_left);
        if (!is_copy)
            v = NAMED(pack_mul)(v, factor);
        v = NAMED(pack_chosen)(bits, v);
        const size_t n = bits_set(bits);
        if (piece->n_kept - n_done >= NAMED(PACK_ELEMS))
            NAMED(pack_store)(out + n_done * elem_bytes, v);
        else
            NAMED(pack_store_some)(out + n_done * elem_bytes, v, n);
        n_done += n;
    }
}

static ALWAYS_INLINE void NAMED(scatter_row)(char *out, const char *x, const column_piece *piece, NAMED(moved) scale,
                                             int is_copy, int verb)
{
    const size_t elem_bytes = sizeof(NAMED(moved));
    const NAMED(pack) factor = NAMED(pack_set1)(scale);
    size_t n_done = 0, c = 0;
    for (; piece->n_columns - c >= 64 && piece->n_kept - n_done >= 64; c += 64) {
        const uint64_t word = piece->words[c / 64];
        for (unsigned i = 0; i < 64; i += NAMED(PACK_ELEMS)) {
            const uint32_t bits = (uint32_t)(word >> i) & NAMED(PACK_BITS);
            char *at = out + (c + i) * elem_bytes;
            NAMED(pack) v = NAMED(pack_load)(x + n_done * elem_bytes);
            if (!is_copy)
                v = NAMED(pack_mul)(v, factor);
            v = NAMED(spread_chosen)(bits, v);
            if (verb != SCATTER_KEPT_ZERO) {
                const NAMED(pack) before = NAMED(pack_load)(at);
                v = NAMED(pack_blend)(bits, verb == SCATTER_KEPT_ADD ? NAMED(pack_add)(before, v) : v, before);
            }
            NAMED(pack_store)(at, v);
            n_done += bits_set(bits);
        }
    }
    for (; c < piece->n_columns; c += NAMED(PACK_ELEMS)) {
        const size_t n_left = piece->n_columns - c, n_unread = piece->n_kept - n_done;
        const uint32_t bits = NAMED(bits_at)(piece->words, c, n_left);
        const int is_whole = n_left >= NAMED(PACK_ELEMS);
        char *at = out + c * elem_bytes;
        NAMED(pack)
        v = n_unread >= NAMED(PACK_ELEMS) ? NAMED(pack_load)(x + n_done * elem_bytes)
                                          : NAMED(pack_load_some)(x + n_done * elem_bytes, n_unread);
        if (!is_copy)
            v = NAMED(pack_mul)(v, factor);
        v = NAMED(spread_chosen)(bits, v);
        if (verb != SCATTER_KEPT_ZERO) {
            const NAMED(pack) before = is_whole ? NAMED(pack_load)(at) : NAMED(pack_load_some)(at, n_left);
            v = NAMED(pack_blend)(bits, verb == SCATTER_KEPT_ADD ? NAMED(pack_add)(before, v) : v, before);
        }
        if (is_whole)
            NAMED(pack_store)(at, v);
        else
            NAMED(pack_store_some)(at, v, n_left);
        n_done += bits_set(bits);
    }
}

/* ---- many rows, by listed indices ---- */

#if defined(HAS_PACK_MERGE) || defined(HAS_PACK_SPREAD)
_Static_assert((int)NAMED(PACK_INDEX_BYTES) <= 2 * (int)NAMED(PACK_ELEMS), "lists have 2 bytes for each column");
#endif

#ifdef HAS_PACK_MERGE
static OUT_OF_LINE void NAMED(list_moves)(listed_moves *moves, const column_piece *piece)
{
    unsigned n_before = 0;
    for (size_t c = 0, i = 0; c < piece->n_columns; c += NAMED(PACK_ELEMS), i++) {
        const uint32_t bits = NAMED(bits_at)(piece->words, c, piece->n_columns - c);
        const size_t at = i * NAMED(PACK_INDEX_BYTES);
        NAMED(pack_list_merge)(moves->index + at, moves->left + at, bits, n_before);
        n_before += bits_set(bits);
        moves->n_moved[i] = n_before >= NAMED(PACK_ELEMS);
        n_before %= NAMED(PACK_ELEMS);
    }
}

static ALWAYS_INLINE void NAMED(merge_row)(char *out, const char *x, const column_piece *piece, NAMED(moved) scale,
                                           int is_copy)
{
    const NAMED(pack) factor = NAMED(pack_set1)(scale);
    const uint8_t *index = piece->moves->index, *left = piece->moves->left;
    const uint8_t *is_full = piece->moves->n_moved, *end = is_full + piece->n_columns / NAMED(PACK_ELEMS);
    const size_t n_rest = piece->n_columns % NAMED(PACK_ELEMS);
    size_t n_left = piece->n_kept;
    NAMED(pack) before = NAMED(pack_set1)(0);
    for (;; is_full++) {
        NAMED(pack) v;
        if (is_full < end)
            v = NAMED(pack_load)(x);
        else if (is_full == end && n_rest > 0)
            v = NAMED(pack_load_some)(x, n_rest);
        else
            break;
        before = NAMED(pack_merge)(before, index, v);
        if (*is_full) {
            NAMED(pack_store)(out, is_copy ? before : NAMED(pack_mul)(before, factor));
            before = NAMED(pack_left)(left, v);
            out += sizeof v;
            n_left -= NAMED(PACK_ELEMS);
        }
        x += sizeof v;
        index += NAMED(PACK_INDEX_BYTES);
        left += NAMED(PACK_INDEX_BYTES);
    }
    if (n_left > 0)
        NAMED(pack_store_some)(out, is_copy ? before : NAMED(pack_mul)(before, factor), n_left);
}
#endif

#ifdef HAS_PACK_SPREAD
static OUT_OF_LINE void NAMED(list_moves)(listed_moves *moves, const column_piece *piece)
{
    size_t n_done = 0;
    moves->n_unchecked = 0;
    for (size_t c = 0, i = 0; c < piece->n_columns; c += NAMED(PACK_ELEMS), i++) {
        const size_t n_left = piece->n_columns - c;
        const uint32_t bits = NAMED(bits_at)(piece->words, c, n_left);
        NAMED(pack_list_spread)(moves->index + i * NAMED(PACK_INDEX_BYTES), bits);
        moves->n_moved[i] = (uint8_t)bits_set(bits);
        if (n_left >= NAMED(PACK_ELEMS) && piece->n_kept - n_done >= NAMED(PACK_ELEMS))
            moves->n_unchecked = i + 1;
        n_done += bits_set(bits);
    }
}

static ALWAYS_INLINE void NAMED(spread_row)(char *out, const char *x, const column_piece *piece, NAMED(moved) scale,
                                            int is_copy)
{
    const NAMED(pack) factor = NAMED(pack_set1)(scale);
    const uint8_t *index = piece->moves->index, *n_read = piece->moves->n_moved;
    const uint8_t *end_unchecked = n_read + piece->moves->n_unchecked;
    size_t n_unread = piece->n_kept, n_left = piece->n_columns;
    for (; n_read < end_unchecked; n_read++) {
        const NAMED(pack) v = NAMED(pack_load)(x);
        NAMED(pack_store)(out, NAMED(pack_spread)(index, is_copy ? v : NAMED(pack_mul)(v, factor)));
        x += *n_read * sizeof scale;
        n_unread -= *n_read;
        n_left -= NAMED(PACK_ELEMS);
        out += sizeof v;
        index += NAMED(PACK_INDEX_BYTES);
    }
    for (; n_left > 0; n_read++) {
        NAMED(pack) v = n_unread >= NAMED(PACK_ELEMS) ? NAMED(pack_load)(x) : NAMED(pack_load_some)(x, n_unread);
        v = NAMED(pack_spread)(index, is_copy ? v : NAMED(pack_mul)(v, factor));
        x += *n_read * sizeof scale;
        n_unread -= *n_read;
        index += NAMED(PACK_INDEX_BYTES);
        if (n_left < NAMED(PACK_ELEMS)) {
            NAMED(pack_store_some)(out, v, n_left);
            break;
        }
        NAMED(pack_store)(out, v);
        n_left -= NAMED(PACK_ELEMS);
        out += sizeof v;
    }
}
#endif

#else

static ALWAYS_INLINE void NAMED(gather_row)(char *out, const char *x, const column_piece *piece, NAMED(moved) scale,
                                            int is_copy)
{
    const uint16_t *positions = piece->positions;
    for (size_t k = 0; k < piece->n_kept; k++) {
        NAMED(moved) value;
        memcpy(&value, x + positions[k] * sizeof value, sizeof value);
        if (!is_copy)
            value *= scale;
        memcpy(out + k * sizeof value, &value, sizeof value);
    }
}

static ALWAYS_INLINE void NAMED(scatter_row)(char *out, const char *x, const column_piece *piece, NAMED(moved) scale,
                                             int is_copy, int verb)
{
    const uint16_t *positions = piece->positions;
    if (verb == SCATTER_KEPT_ZERO)
        memset(out, 0, piece->n_columns * sizeof(NAMED(moved)));
    for (size_t k = 0; k < piece->n_kept; k++) {
        NAMED(moved) value, before;
        char *at = out + positions[k] * sizeof value;
        memcpy(&value, x + k * sizeof value, sizeof value);
        if (!is_copy)
            value *= scale;
        if (verb == SCATTER_KEPT_ADD) {
            memcpy(&before, at, sizeof before);
            value = before + value;
        }
        memcpy(at, &value, sizeof value);
    }
}

#endif

static ALWAYS_INLINE void NAMED(move_rows)(const submatrix *matrix, size_t first_row, size_t end_row,
                                           const column_piece *piece, int is_copy, int verb)
{
    const size_t elem_bytes = sizeof(NAMED(moved)), row_bytes = matrix->n_columns * elem_bytes;
    const size_t kept_bytes = matrix->n_kept_columns * elem_bytes;
    const NAMED(moved) scale = (NAMED(moved))matrix->scale;
    const int is_gathered = verb == GATHER_KEPT;
    size_t rank = rank_of_row(matrix, first_row);
    for (size_t row = first_row; row < end_row; row++) {
        const size_t whole_at = row * row_bytes + piece->first_column * elem_bytes;
        if (!is_row_kept(matrix, row)) {
            if (verb == SCATTER_KEPT_ZERO)
                memset(matrix->out + whole_at, 0, piece->n_columns * elem_bytes);
            continue;
        }
        const size_t dense_at = rank++ * kept_bytes + piece->first_kept * elem_bytes;
        char *out = matrix->out + (is_gathered ? dense_at : whole_at);
        if (piece->n_kept == 0) {
            if (verb == SCATTER_KEPT_ZERO)
                memset(out, 0, piece->n_columns * elem_bytes);
            continue;
        }
        const char *x = matrix->x + (is_gathered ? whole_at : dense_at);
        if (piece->words == NULL)
            NAMED(move_all)(out, x, piece->n_columns, scale, is_copy, verb == SCATTER_KEPT_ADD);
#ifdef HAS_PACK_MERGE
        else if (is_gathered && piece->moves != NULL)
            NAMED(merge_row)(out, x, piece, scale, is_copy);
#endif
#ifdef HAS_PACK_SPREAD
        else if (verb == SCATTER_KEPT_ZERO && piece->moves != NULL)
            NAMED(spread_row)(out, x, piece, scale, is_copy);
#endif
        else if (is_gathered)
            NAMED(gather_row)(out, x, piece, scale, is_copy);
        else
            NAMED(scatter_row)(out, x, piece, scale, is_copy, verb);
    }
}

static OUT_OF_LINE void NAMED(move_piece)(const submatrix *matrix, size_t first_row, size_t end_row,
                                          const column_piece *piece)
{
    const int is_copy = matrix->scale == 1.0;
#define MOVE_ROWS(verb)                                                   \
    case verb:                                                            \
        if (is_copy)                                                      \
            NAMED(move_rows)(matrix, first_row, end_row, piece, 1, verb); \
        else                                                              \
            NAMED(move_rows)(matrix, first_row, end_row, piece, 0, verb); \
        break;
    switch (matrix->verb) {
        MOVE_ROWS(GATHER_KEPT)
        MOVE_ROWS(SCATTER_KEPT_ZERO)
        MOVE_ROWS(SCATTER_KEPT_SET)
        MOVE_ROWS(SCATTER_KEPT_ADD)
    }
#undef MOVE_ROWS
}

#ifdef HAS_PACK
/* Whether there are lists for the verb, and enough rows that they serve. */
static int NAMED(has_lists)(const submatrix *matrix, size_t first_row, size_t end_row)
{
#if defined(HAS_PACK_MERGE)
    const int verb = GATHER_KEPT;
#elif defined(HAS_PACK_SPREAD)
    const int verb = SCATTER_KEPT_ZERO;
#else
    const int verb = N_SUBMATRIX_VERBS;
#endif
    return matrix->verb == verb && matrix->column_words != NULL &&
           rank_of_row(matrix, end_row) - rank_of_row(matrix, first_row) >= MIN_LISTED_ROWS;
}
#endif

static const char *NAMED(submatrix)(const submatrix *matrix, size_t first_row, size_t end_row)
{
    column_piece piece = {.n_columns = matrix->n_columns, .n_kept = matrix->n_kept_columns};
#ifdef HAS_PACK
    listed_moves moves;
    const int has_lists = NAMED(has_lists)(matrix, first_row, end_row);
    piece.words = matrix->column_words;
#else
    uint16_t positions[PIECE_COLUMNS + 1];
    const int has_lists = matrix->column_words != NULL;
#endif
    if (!has_lists) {
        NAMED(move_piece)(matrix, first_row, end_row, &piece);
        return ISA_NAME;
    }
    for (size_t c = 0; c < matrix->n_columns; c += PIECE_COLUMNS) {
        const size_t n_left = matrix->n_columns - c;
        piece.first_column = c;
        piece.first_kept += c > 0 ? piece.n_kept : 0;
        piece.n_columns = n_left < PIECE_COLUMNS ? n_left : PIECE_COLUMNS;
        piece.words = matrix->column_words + c / 64;
#ifdef HAS_PACK
        piece.n_kept = bits_of_words(piece.words, piece.n_columns);
        NAMED(list_moves)(&moves, &piece);
        piece.moves = &moves;
#else
        piece.n_kept = list_positions(positions, piece.words, piece.n_columns);
        piece.positions = positions;
#endif
        NAMED(move_piece)(matrix, first_row, end_row, &piece);
    }
    return ISA_NAME;
}
