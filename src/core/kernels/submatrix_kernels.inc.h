/* Kernels that move the kept rows and columns of a matrix, for block_kernels.inc.h, which includes this file once:
 * submatrix_f32 and submatrix_f64.
 *
 * With HAS_PACK, each vector of a row is packed or spread by the bits of a keep word. With HAS_PACK_MERGE or
 * HAS_PACK_SPREAD, MIN_LISTED_ROWS rows or more are gathered, or spread between zeros, by indices that are listed
 * first, in pieces of PIECE_COLUMNS columns, and serve all rows. Merging stores each vector of the output once, when it
 * is full, where packing stores vectors that overlap. Without HAS_PACK, the positions of the kept columns are listed in
 * such pieces. */

/* Lists take 8 KiB of the stack, and as much of the first-level cache as a row of so many elements. */
#ifdef HAS_PACK
enum { PIECE_COLUMNS = 2048, MIN_LISTED_ROWS = 16 };

/* No dtype has more than two bytes of indices for a column. */
typedef struct {
    _Alignas(64) uint8_t index[2 * PIECE_COLUMNS];
#ifdef HAS_PACK_MERGE
    uint8_t left[2 * PIECE_COLUMNS]; /* of the elements that did not fit into the merged vector */
#endif
    uint8_t n_moved[PIECE_COLUMNS]; /* of each vector: merging, 1 where a vector is full; spreading, elements read */
    size_t n_unchecked;             /* spreading: vectors that can be read and written as a whole */
} listed_moves;
#else
enum { PIECE_COLUMNS = 4096 };
#endif

/* Some columns of the matrix. */
typedef struct {
    size_t first_column, n_columns;
    size_t first_kept, n_kept;
    const uint16_t *positions; /* of the kept columns, from first_column on; NULL if all columns are kept */
    const uint64_t *words;     /* from first_column on, a multiple of 64 */
#ifdef HAS_PACK
    const listed_moves *moves; /* NULL if no indices are listed */
#endif
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
    return matrix->row_words == NULL ? row : bits_of_words(matrix->row_words, row);
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
