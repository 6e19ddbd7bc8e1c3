"""Declarations of cdropout/include/cdropout_table.h and c_api.h, for _kernels.pyx, api.pyx and word_stream.pxd."""

from libc.stdint cimport uint8_t, uint64_t


cdef extern from "c_api.h" nogil:
    ctypedef struct cdropout_key:
        uint64_t word[2]

    ctypedef struct cdropout_mask:
        cdropout_key key
        uint64_t start
        double p, scale

    ctypedef struct cdropout_strided_mask:
        cdropout_mask mask
        int n_axes
        size_t *lens
        uint64_t *strides

    ctypedef struct cdropout_noise:
        cdropout_key key
        uint64_t start
        double std

    ctypedef struct cdropout_stream:
        const cdropout_key *key
        uint64_t *position

    ctypedef struct cdropout_arrays:
        pass

    ctypedef struct cdropout_submatrix:
        pass

    ctypedef struct cdropout_table:
        int (*mask_of)(object, cdropout_mask *) except -1
        int (*noise_of)(object, cdropout_noise *) except -1
        int (*stream_of)(object, cdropout_stream *) except -1
        int (*strided_mask_of)(object, cdropout_strided_mask *) except -1
        int (*draw_mask)(cdropout_mask *, const cdropout_stream *, uint64_t, double) noexcept nogil
        int (*draw_noise)(cdropout_noise *, const cdropout_stream *, uint64_t, double) noexcept nogil
        int (*define_mask)(cdropout_mask *, const cdropout_key *, uint64_t, double) noexcept nogil
        int (*set_alpha_dropout)(cdropout_arrays *, cdropout_mask *) noexcept nogil
        int (*apply)(int, int, const cdropout_arrays *, const cdropout_mask *, size_t, size_t) noexcept nogil
        int (*multiply_by_noise)(int, const cdropout_arrays *, const cdropout_noise *, size_t, size_t) noexcept nogil
        int (*add_noise)(int, const cdropout_arrays *, const cdropout_noise *, size_t, size_t) noexcept nogil
        int (*fill_keep)(uint8_t *, const cdropout_mask *, size_t, size_t) noexcept nogil
        void (*fill_raw)(uint8_t *, const cdropout_key *, uint64_t, size_t) noexcept nogil
        size_t (*cached_bytes)() noexcept nogil
        int (*apply_strided)(int, int, const cdropout_arrays *, const cdropout_strided_mask *, size_t, size_t) \
            noexcept nogil
        int (*fill_keep_strided)(uint8_t *, const cdropout_strided_mask *, size_t, size_t) noexcept nogil
        int (*fill_keep_words)(uint64_t *, const cdropout_mask *, size_t) noexcept nogil
        int (*gather_kept)(int, const cdropout_submatrix *, size_t, size_t) noexcept nogil
        int (*scatter_kept)(int, int, const cdropout_submatrix *, size_t, size_t) noexcept nogil

    cdropout_table c_api_table
