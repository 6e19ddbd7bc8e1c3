/* Kernels that move the kept rows and columns of a matrix, for block_kernels.inc.h, which includes this file once:
 * submatrix_f32 and submatrix_f64.
 *
 * With HAS_PACK, each vector of a row is packed or spread by the bits of a keep word. Otherwise the positions of the
 * kept columns are listed once, in pieces of PIECE_COLUMNS columns, and serve all rows. */

/* Listed positions take 8 KiB of the stack, as do those of a row of that many elements in the first-level cache. */
enum { PIECE_COLUMNS = 4096 };

/* Some columns of the matrix. */
typedef struct {
    size_t first_column, n_columns;
    size_t first_kept, n_kept;
    const uint16_t *positions; /* of the kept columns, from first_column on; NULL if all columns are kept */
    const uint64_t *words;     /* from first_column on, a multiple of 64 */
} column_piece;

#ifndef HAS_PACK
/* Lists the positions of set bits among the first n_columns; `positions` has room for one more. */
static OUT_OF_LINE size_t list_positions(uint16_t *positions, const uint64_t *words, size_t n_columns)
{
    size_t n_kept = 0;
    for (size_t c = 0; c < n_columns; c++) {
        positions[n_kept] = (uint16_t)c;
        n_kept += words[c / 64] >> c % 64 & 1;
    }
    return n_kept;
}
#endif

static size_t rank_of_row(const submatrix *matrix, size_t row)
{
    size_t rank = 0;
    if (matrix->row_words == NULL)
        return row;
    for (size_t i = 0; i < row / 64; i++)
        rank += bits_set(matrix->row_words[i]);
    if (row % 64 != 0)
        rank += bits_set(matrix->row_words[row / 64] & (((uint64_t)1 << row % 64) - 1));
    return rank;
}

static inline int is_row_kept(const submatrix *matrix, size_t row)
{
    return matrix->row_words == NULL || (matrix->row_words[row / 64] >> row % 64 & 1);
}

#define SUBMATRIX_JOIN(name, dtype) name##_##dtype
#define SUBMATRIX_NAME(name, dtype) SUBMATRIX_JOIN(name, dtype)
#define NAMED(name) SUBMATRIX_NAME(name, MOVED)

typedef float scalar_of_f32;
typedef double scalar_of_f64;

#define MOVED f32
#include "submatrix_dtype.inc.h"
#undef MOVED
#define MOVED f64
#include "submatrix_dtype.inc.h"
#undef MOVED
