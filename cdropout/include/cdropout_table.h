/* cdropout's C interface: its types, and the table of functions that <cdropout.h> imports. Plain C11 or C++17, without
 * Python.h. docs/c_api.md shows how to use it.
 *
 * Nothing here is ever changed within a major version of the interface: types keep their fields and functions their
 * meaning, and a minor version adds functions at the end of the table, or new numbers to the lists. */
#ifndef CDROPOUT_TABLE_H
#define CDROPOUT_TABLE_H

#include <stddef.h>
#include <stdint.h>

#define CDROPOUT_ABI_MAJOR 1
#define CDROPOUT_ABI_MINOR 1

#ifdef __cplusplus
extern "C" {
#endif

/* What arrays hold. bfloat16 is the upper half of a float32. */
enum {
    CDROPOUT_FLOAT32 = 0,
    CDROPOUT_FLOAT64 = 1,
    CDROPOUT_FLOAT16 = 2,
    CDROPOUT_BFLOAT16 = 3,
};

/* What is done to each element, kept or dropped; scale is the mask's, everything else a field of cdropout_arrays.
 * APPLY_MASK copies where it neither drops nor scales.
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
 * The last one draws nothing: x is the gradient with respect to the output, and residual is the output itself, of
 * RELU_DROPOUT or BIAS_RELU_DROPOUT. */
enum {
    CDROPOUT_APPLY_MASK = 0,
    CDROPOUT_FILL_SCALED = 1,
    CDROPOUT_RELU_DROPOUT = 2,
    CDROPOUT_BIAS_RELU_DROPOUT = 3,
    CDROPOUT_DROPOUT_ADD = 4,
    CDROPOUT_BIAS_DROPOUT_ADD = 5,
    CDROPOUT_CHOOSE = 6,
    CDROPOUT_RELU_DROPOUT_BACKWARD = 7,
    CDROPOUT_ALPHA_DROPOUT = 8, /* since version 1.1 of the interface */
};

/* Positions are seeded in blocks of this many: threads that share a mask should meet at multiples of it. */
enum { CDROPOUT_BLOCK = 4096, CDROPOUT_RAW_BYTES_PER_BLOCK = 8192 };

/* The 128 bits of Stream.key, the lower 64 first. */
typedef struct {
    uint64_t word[2];
} cdropout_key;

/* A mask: which positions of a stream are dropped. Element i of the caller's arrays takes position start + i. */
typedef struct {
    cdropout_key key;
    uint64_t start;
    double p;     /* the probability of dropping, in [0, 1] */
    double scale; /* of what is kept: 1/(1-p) unless the caller sets another */
} cdropout_mask;

enum { CDROPOUT_MAX_AXES = 64 }; /* as many as NumPy's arrays may have */

/* Any mask that Python can make, with its shape: a part of another mask, with shared axes, or a whole one. The element
 * with the index (i, k ...) takes position mask.start + i * strides[0] + k * strides[1] ...; strides are in positions,
 * 0 along axes that share one. Since version 1.1 of the interface. */
typedef struct {
    cdropout_mask mask;
    int n_axes;
    size_t lens[CDROPOUT_MAX_AXES];
    uint64_t strides[CDROPOUT_MAX_AXES];
} cdropout_strided_mask;

/* Normal numbers n of a stream, times std. */
typedef struct {
    cdropout_key key;
    uint64_t start;
    double std; /* in [0, 1e37] */
} cdropout_noise;

/* A cdropout.Stream, whose positions C and Python may take at the same time. Valid as long as the Python object is. */
typedef struct {
    const cdropout_key *key;
    uint64_t *position;
} cdropout_stream;

/* The arrays of a call, each from its element 0. Set all to zero first: what an operation does not name is not looked
 * at. No pointer needs to be aligned. */
typedef struct {
    void *out; /* may be x, or residual; must not overlap them otherwise */
    const void *x;
    const void *residual;
    const void *bias; /* element i takes bias[i % n_bias] */
    size_t n_bias;
    size_t n_repeats; /* of `apply` with a mask: so many neighbouring elements share a position; 0 means 1. In version
                       * 1.0 of APPLY_MASK alone */
    double shift;
    double fill;
    int past_caches; /* not 0: write past the caches, where alignment allows; see cached_bytes */
} cdropout_arrays;

struct _object; /* Python's PyObject */

/* Functions on ranges work on the elements begin .. end - 1 (the positions, where each is repeated) of the caller's
 * arrays, in the calling thread. They allocate nothing, and are safe to call without the GIL and from many threads at
 * once. They return 0, or -1, having written nothing, where a number is not in its list or its range, where begin >
 * end, or where an array that the operation needs is NULL. A result does not depend on how the elements are cut into
 * ranges: it is what Python's call gives, bit for bit. */
typedef struct {
    /* The version of the interface that the library has, and the size of this table in it. */
    int major, minor;
    size_t n_bytes;

    /* ---- with the GIL held; -1 and a Python exception where the object is something else ---- */

    int (*mask_of)(struct _object *mask, cdropout_mask *c_mask);         /* a cdropout.Mask whose is_run is true */
    int (*noise_of)(struct _object *noise, cdropout_noise *c_noise);     /* a cdropout.Noise */
    int (*stream_of)(struct _object *stream, cdropout_stream *c_stream); /* a cdropout.Stream; keep a reference to it */

    /* ---- without it ---- */

    /* The mask of the stream's next n_elems positions, which no other draw gets; the stream moves on by whole blocks.
     * -1, and nothing is taken, where p is not in [0, 1] or the stream's 2^64 positions do not suffice. */
    int (*draw_mask)(cdropout_mask *mask, const cdropout_stream *stream, uint64_t n_elems, double p);
    int (*draw_noise)(cdropout_noise *noise, const cdropout_stream *stream, uint64_t n_elems, double std);
    /* A mask from its parts, with scale 1/(1-p). -1 where p is not in [0, 1]. */
    int (*define_mask)(cdropout_mask *mask, const cdropout_key *key, uint64_t start, double p);
    /* Sets the mask's scale, and the arrays' shift and fill, to those of alpha dropout with the mask's p. */
    int (*set_alpha_dropout)(cdropout_arrays *arrays, cdropout_mask *mask);

    int (*apply)(int operation, int dtype, const cdropout_arrays *arrays, const cdropout_mask *mask, size_t begin,
                 size_t end);
    /* out = x * (1 + std n), and out = x + std n. */
    int (*multiply_by_noise)(int dtype, const cdropout_arrays *arrays, const cdropout_noise *noise, size_t begin,
                             size_t end);
    int (*add_noise)(int dtype, const cdropout_arrays *arrays, const cdropout_noise *noise, size_t begin, size_t end);
    /* out[i] = 1 where element i is kept, else 0: Mask.keep. */
    int (*fill_keep)(uint8_t *out, const cdropout_mask *mask, size_t begin, size_t end);
    /* The generator's own output, CDROPOUT_RAW_BYTES_PER_BLOCK a block, from block first_block (below 2^52) of the key:
     * what `python -m cdropout stream` writes. */
    void (*fill_raw)(uint8_t *out, const cdropout_key *key, uint64_t first_block, size_t n_blocks);

    /* How many bytes read and written outgrow the caches, so that past_caches pays. */
    size_t (*cached_bytes)(void);

    /* ---- since version 1.1 ---- */

    /* Of any cdropout.Mask; needs the GIL. */
    int (*strided_mask_of)(struct _object *mask, cdropout_strided_mask *c_mask);
    /* `apply` and `fill_keep` on C-contiguous arrays of the mask's shape: elements begin .. end - 1, in C order.
     * n_repeats is not looked at, and RELU_DROPOUT_BACKWARD, which has no mask, is for `apply`. -1 also where end is
     * beyond the mask's elements, n_axes not in [0, CDROPOUT_MAX_AXES], or the product of lens no size_t. */
    int (*apply_strided)(int operation, int dtype, const cdropout_arrays *arrays, const cdropout_strided_mask *mask,
                         size_t begin, size_t end);
    int (*fill_keep_strided)(uint8_t *out, const cdropout_strided_mask *mask, size_t begin, size_t end);
} cdropout_table;

#ifdef __cplusplus
}
#endif

#endif
