"""The C interface for Cython: `from cdropout.api cimport apply, draw_mask`. It needs no header and no import call.
include/cdropout_table.h documents the types and functions, whose names there begin with cdropout_; docs/c_api.md shows
how to use them."""

from libc.stdint cimport uint8_t, uint64_t

# dtypes
cdef enum:
    FLOAT32 = 0
    FLOAT64 = 1
    FLOAT16 = 2
    BFLOAT16 = 3

# operations
cdef enum:
    APPLY_MASK = 0
    FILL_SCALED = 1
    RELU_DROPOUT = 2
    BIAS_RELU_DROPOUT = 3
    DROPOUT_ADD = 4
    BIAS_DROPOUT_ADD = 5
    CHOOSE = 6
    RELU_DROPOUT_BACKWARD = 7
    ALPHA_DROPOUT = 8

cdef enum:
    BLOCK = 4096
    RAW_BYTES_PER_BLOCK = 8192

ctypedef struct Key:
    uint64_t word[2]

ctypedef struct Mask:
    Key key
    uint64_t start
    double p
    double scale

cdef enum:
    MAX_AXES = 64

ctypedef struct StridedMask:
    Mask mask
    int n_axes
    size_t lens[64]
    uint64_t strides[64]

ctypedef struct Noise:
    Key key
    uint64_t start
    double std

ctypedef struct Stream:
    const Key *key
    uint64_t *position

ctypedef struct Arrays:
    void *out
    const void *x
    const void *residual
    const void *bias
    size_t n_bias
    size_t n_repeats
    double shift
    double fill
    int past_caches

ctypedef struct Submatrix:
    void *out
    const void *x
    size_t n_rows
    size_t n_columns
    const uint64_t *row_words
    const uint64_t *column_words
    double scale

# what scatter_kept does with dropped elements
cdef enum:
    ZERO_REST = 1
    KEEP_REST = 2
    ADD_TO_KEPT = 3

cdef int mask_of(object mask, Mask *c_mask) except -1
cdef int noise_of(object noise, Noise *c_noise) except -1
cdef int stream_of(object stream, Stream *c_stream) except -1

cdef int draw_mask(Mask *mask, const Stream *stream, uint64_t n_elems, double p) noexcept nogil
cdef int draw_noise(Noise *noise, const Stream *stream, uint64_t n_elems, double std) noexcept nogil
cdef int define_mask(Mask *mask, const Key *key, uint64_t start, double p) noexcept nogil
cdef int set_alpha_dropout(Arrays *arrays, Mask *mask) noexcept nogil

cdef int apply(int operation, int dtype, const Arrays *arrays, const Mask *mask, size_t begin,
               size_t end) noexcept nogil
cdef int multiply_by_noise(int dtype, const Arrays *arrays, const Noise *noise, size_t begin, size_t end) noexcept nogil
cdef int add_noise(int dtype, const Arrays *arrays, const Noise *noise, size_t begin, size_t end) noexcept nogil
cdef int fill_keep(uint8_t *out, const Mask *mask, size_t begin, size_t end) noexcept nogil
cdef void fill_raw(uint8_t *out, const Key *key, uint64_t first_block, size_t n_blocks) noexcept nogil

cdef size_t cached_bytes() noexcept nogil

cdef int strided_mask_of(object mask, StridedMask *c_mask) except -1
cdef int apply_strided(int operation, int dtype, const Arrays *arrays, const StridedMask *mask, size_t begin,
                       size_t end) noexcept nogil
cdef int fill_keep_strided(uint8_t *out, const StridedMask *mask, size_t begin, size_t end) noexcept nogil

cdef int fill_keep_words(uint64_t *out, const Mask *mask, size_t n_elems) noexcept nogil
cdef int gather_kept(int dtype, const Submatrix *matrix, size_t begin, size_t end) noexcept nogil
cdef int scatter_kept(int dtype, int rest, const Submatrix *matrix, size_t begin, size_t end) noexcept nogil
