/* The C interface of cdropout: its types, and the table of functions that <cdropout.h> imports. Plain C11 or C++17,
 * without Python.h. docs/c_api.md shows how to use it.
 *
 * Within a major version of the interface, types keep their fields and functions their meaning. A minor version may add
 * functions to the end of the table and numbers to the lists. */
#ifndef CDROPOUT_TABLE_H
#define CDROPOUT_TABLE_H

#include <stddef.h>
#include <stdint.h>

#define CDROPOUT_ABI_MAJOR 1
#define CDROPOUT_ABI_MINOR 2

#ifdef __cplusplus
extern "C" {
#endif

/* Element types of arrays. bfloat16 is the upper half of a float32. */
enum {
    CDROPOUT_FLOAT32 = 0,
    CDROPOUT_FLOAT64 = 1,
    CDROPOUT_FLOAT16 = 2,
    CDROPOUT_BFLOAT16 = 3 /* the last one has no comma, for C++98 */
};

/* Operations: what the output is for a kept and for a dropped element. scale is the field of the mask; the other names
 * are fields of cdropout_arrays. APPLY_MASK copies the bits of x if p is 0, scale 1 and shift 0.
 *
 *                                     kept                          dropped             Python's name
 *   CDROPOUT_APPLY_MASK               x * scale + shift             fill                dropout, Mask.apply
 *   CDROPOUT_FILL_SCALED              scale                         0                   Mask.scaled
 *   CDROPOUT_RELU_DROPOUT             max(x, 0) * scale             0                   relu_dropout
 *   CDROPOUT_BIAS_RELU_DROPOUT        max(x + bias, 0) * scale      0                   bias_relu_dropout
 *   CDROPOUT_DROPOUT_ADD              x * scale + residual          residual            dropout_add
 *   CDROPOUT_BIAS_DROPOUT_ADD         (x + bias) * scale + residual residual            bias_dropout_add
 *   CDROPOUT_CHOOSE                   x                             residual            zoneout
 *   CDROPOUT_ALPHA_DROPOUT            x * scale + shift             fill                alpha_dropout
 *   CDROPOUT_RELU_DROPOUT_BACKWARD    x * scale where residual > 0, else 0              relu_dropout_backward
 *
 * The last one uses no mask: x is the gradient with respect to the output of RELU_DROPOUT or BIAS_RELU_DROPOUT, and
 * residual is that output. */
enum {
    CDROPOUT_APPLY_MASK = 0,
    CDROPOUT_FILL_SCALED = 1,
    CDROPOUT_RELU_DROPOUT = 2,
    CDROPOUT_BIAS_RELU_DROPOUT = 3,
    CDROPOUT_DROPOUT_ADD = 4,
    CDROPOUT_BIAS_DROPOUT_ADD = 5,
    CDROPOUT_CHOOSE = 6,
    CDROPOUT_RELU_DROPOUT_BACKWARD = 7,
    CDROPOUT_ALPHA_DROPOUT = 8 /* since version 1.1 of the interface */
};

/* Positions are seeded in blocks of this many. Divide a mask among threads at multiples of it: a block that two threads
 * share is seeded twice. */
enum { CDROPOUT_BLOCK = 4096, CDROPOUT_RAW_BYTES_PER_BLOCK = 8192 };

/* The 128 bits of Stream.key, the lower 64 first. */
typedef struct {
    uint64_t word[2];
} cdropout_key;

/* A mask: which positions of a stream are dropped. Element i of an array takes position start + i. */
typedef struct {
    cdropout_key key;
    uint64_t start;
    double p;     /* the probability of dropping, in [0, 1] */
    double scale; /* of kept elements: 1/(1-p) unless the caller sets another */
} cdropout_mask;

enum { CDROPOUT_MAX_AXES = 64 }; /* as many as NumPy's arrays may have */

/* Any mask that Python can make, with its shape: also one with shared axes, and a part of another mask. Element
 * (i, k, ...) takes position mask.start + i * strides[0] + k * strides[1] + ...; strides are in positions, 0 along
 * shared axes. Since version 1.1 of the interface. */
typedef struct {
    cdropout_mask mask;
    int n_axes;
    size_t lens[CDROPOUT_MAX_AXES];
    uint64_t strides[CDROPOUT_MAX_AXES];
} cdropout_strided_mask;

/* Noise: normal numbers n of a stream, to be multiplied by std. Element i of an array takes position start + i. */
typedef struct {
    cdropout_key key;
    uint64_t start;
    double std; /* in [0, 1e37] */
} cdropout_noise;

/* A cdropout.Stream. C and Python may draw from it at the same time. Valid while the Python object exists. */
typedef struct {
    const cdropout_key *key;
    uint64_t *position;
} cdropout_stream;

/* The arrays and numbers of a call; pointers are to element 0 and need no alignment. Set the struct to zero first;
 * fields that an operation does not use are ignored. */
typedef struct {
    void *out; /* may be x, or residual; must not overlap them otherwise */
    const void *x;
    const void *residual;
    const void *bias; /* element i takes bias[i % n_bias] */
    size_t n_bias;
    size_t n_repeats; /* for `apply` with a mask: how many neighbouring elements share a position; 0 means 1. Version
                       * 1.0 of the interface has it for APPLY_MASK only */
    double shift;
    double fill;
    int past_caches; /* not 0: store past the caches, where alignment permits it; see cached_bytes */
} cdropout_arrays;

/* A matrix of n_rows x n_columns, and the dense one of its kept rows and columns, both C-contiguous and apart. Bit i %
 * 64 of row_words[i / 64] is set where row i is kept; NULL keeps all rows. column_words likewise. Elements of the dense
 * matrix are multiplied by scale as they are moved; 1 copies the bits. Since version 1.2 of the interface. */
typedef struct {
    void *out;     /* written: the dense matrix by gather_kept, the whole one by scatter_kept */
    const void *x; /* read */
    size_t n_rows, n_columns;
    const uint64_t *row_words;
    const uint64_t *column_words;
    double scale;
} cdropout_submatrix;

/* What scatter_kept does with the elements of out that the masks drop: sets them to +0.0; or leaves them, as
 * CDROPOUT_ADD_TO_KEPT does, which adds to the kept elements instead of replacing them. Since version 1.2. */
enum { CDROPOUT_ZERO_REST = 1, CDROPOUT_KEEP_REST = 2, CDROPOUT_ADD_TO_KEPT = 3 };

struct _object; /* Python's PyObject */

/* Functions with begin and end compute the elements begin .. end - 1 of the output (with n_repeats, the elements of the
 * positions begin .. end - 1) in the calling thread. They allocate no memory, and may be called without the GIL and
 * from several threads at once. They return 0; or -1, having written nothing, if a number is not in its list or range,
 * begin > end, or an array that the operation needs is NULL. The result does not depend on how elements are divided
 * into ranges: its bits are those of the call in Python. */
typedef struct {
    /* The version of the interface in the library, and the size of its table. */
    int major, minor;
    size_t n_bytes;

    /* ---- with the GIL; -1 and a Python exception if the object has another type ---- */

    int (*mask_of)(struct _object *mask, cdropout_mask *c_mask);         /* a cdropout.Mask with is_run */
    int (*noise_of)(struct _object *noise, cdropout_noise *c_noise);     /* a cdropout.Noise */
    int (*stream_of)(struct _object *stream, cdropout_stream *c_stream); /* a cdropout.Stream; keep a reference to it */

    /* ---- with or without the GIL ---- */

    /* Sets *mask to a mask of the stream's next n_elems positions, which no other draw takes; the stream advances by
     * whole blocks. -1, and the stream is unchanged, if p is not in [0, 1] or the stream has too few positions left. */
    int (*draw_mask)(cdropout_mask *mask, const cdropout_stream *stream, uint64_t n_elems, double p);
    int (*draw_noise)(cdropout_noise *noise, const cdropout_stream *stream, uint64_t n_elems, double std);
    /* Sets *mask to a mask with these fields and scale 1/(1-p). -1 if p is not in [0, 1]. */
    int (*define_mask)(cdropout_mask *mask, const cdropout_key *key, uint64_t start, double p);
    /* Sets mask->scale, arrays->shift and arrays->fill to those of alpha dropout with mask->p. */
    int (*set_alpha_dropout)(cdropout_arrays *arrays, cdropout_mask *mask);

    int (*apply)(int operation, int dtype, const cdropout_arrays *arrays, const cdropout_mask *mask, size_t begin,
                 size_t end);
    /* out = x * (1 + std * n), and out = x + std * n. */
    int (*multiply_by_noise)(int dtype, const cdropout_arrays *arrays, const cdropout_noise *noise, size_t begin,
                             size_t end);
    int (*add_noise)(int dtype, const cdropout_arrays *arrays, const cdropout_noise *noise, size_t begin, size_t end);
    /* out[i] = 1 if element i is kept, else 0, as Mask.keep. */
    int (*fill_keep)(uint8_t *out, const cdropout_mask *mask, size_t begin, size_t end);
    /* The output of the generator, CDROPOUT_RAW_BYTES_PER_BLOCK for each block, from block first_block (below 2^52) on,
     * as `python -m cdropout stream` writes it. */
    void (*fill_raw)(uint8_t *out, const cdropout_key *key, uint64_t first_block, size_t n_blocks);

    /* The number of bytes, read and written together, above which past_caches is faster. */
    size_t (*cached_bytes)(void);

    /* ---- since version 1.1 ---- */

    /* For any cdropout.Mask; needs the GIL. */
    int (*strided_mask_of)(struct _object *mask, cdropout_strided_mask *c_mask);
    /* `apply` and `fill_keep` on C-contiguous arrays of the mask's shape: elements begin .. end - 1, in C order.
     * n_repeats is ignored; RELU_DROPOUT_BACKWARD, which has no mask, is for `apply`. -1 also if end exceeds the number
     * of elements, n_axes is not in [0, CDROPOUT_MAX_AXES], or the product of lens does not fit into a size_t. */
    int (*apply_strided)(int operation, int dtype, const cdropout_arrays *arrays, const cdropout_strided_mask *mask,
                         size_t begin, size_t end);
    int (*fill_keep_strided)(uint8_t *out, const cdropout_strided_mask *mask, size_t begin, size_t end);

    /* ---- since version 1.2 ---- */

    /* The keep words of the mask's first n_elems elements; the unused bits of the last word are 0. */
    int (*fill_keep_words)(uint64_t *out, const cdropout_mask *mask, size_t n_elems);
    /* Copy the kept elements of rows begin .. end - 1 of the whole matrix x to the dense matrix out. For float32 and
     * float64. -1 also if end > n_rows, scale is not finite, or n_rows * n_columns does not fit into a size_t. */
    int (*gather_kept)(int dtype, const cdropout_submatrix *matrix, size_t begin, size_t end);
    /* Copy the dense matrix x to the kept elements of rows begin .. end - 1 of the whole matrix out. Rows are read and
     * written whole: threads that run at the same time must have different rows. */
    int (*scatter_kept)(int dtype, int rest, const cdropout_submatrix *matrix, size_t begin, size_t end);
} cdropout_table;

#ifdef __cplusplus
}
#endif

#endif
