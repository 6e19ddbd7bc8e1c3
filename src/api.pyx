# cython: language_level=3, freethreading_compatible=True
"""cdropout.api: the C interface, as functions to cimport from Cython and as the capsule C_API for C and C++.

cdropout/api.pxd declares the functions. Each calls the function of the same name in the table of c_api.c."""

from cpython.pycapsule cimport PyCapsule_GetPointer

from c_api cimport (
    cdropout_arrays, cdropout_key, cdropout_mask, cdropout_noise, cdropout_stream, cdropout_strided_mask,
    cdropout_submatrix, cdropout_table,
)

from cdropout._kernels import C_API


cdef const cdropout_table *table = <const cdropout_table *>PyCapsule_GetPointer(C_API, "cdropout.api.C_API")

# api.pxd declares the types of the header again, without cdropout_ in their names: the casts below rely on this.
if (sizeof(Key), sizeof(Mask), sizeof(StridedMask), sizeof(Noise), sizeof(Stream), sizeof(Arrays),
    sizeof(Submatrix)) != (
    sizeof(cdropout_key), sizeof(cdropout_mask), sizeof(cdropout_strided_mask), sizeof(cdropout_noise),
    sizeof(cdropout_stream), sizeof(cdropout_arrays), sizeof(cdropout_submatrix)
):
    raise ImportError("cdropout/api.pxd and cdropout_table.h must have the same types: the build is broken")


cdef int mask_of(object mask, Mask *c_mask) except -1:
    return table.mask_of(mask, <cdropout_mask *>c_mask)


cdef int noise_of(object noise, Noise *c_noise) except -1:
    return table.noise_of(noise, <cdropout_noise *>c_noise)


cdef int stream_of(object stream, Stream *c_stream) except -1:
    return table.stream_of(stream, <cdropout_stream *>c_stream)


cdef int draw_mask(Mask *mask, const Stream *stream, uint64_t n_elems, double p) noexcept nogil:
    return table.draw_mask(<cdropout_mask *>mask, <const cdropout_stream *>stream, n_elems, p)


cdef int draw_noise(Noise *noise, const Stream *stream, uint64_t n_elems, double std) noexcept nogil:
    return table.draw_noise(<cdropout_noise *>noise, <const cdropout_stream *>stream, n_elems, std)


cdef int define_mask(Mask *mask, const Key *key, uint64_t start, double p) noexcept nogil:
    return table.define_mask(<cdropout_mask *>mask, <const cdropout_key *>key, start, p)


cdef int set_alpha_dropout(Arrays *arrays, Mask *mask) noexcept nogil:
    return table.set_alpha_dropout(<cdropout_arrays *>arrays, <cdropout_mask *>mask)


cdef int apply(int operation, int dtype, const Arrays *arrays, const Mask *mask, size_t begin,
               size_t end) noexcept nogil:
    return table.apply(
        operation, dtype, <const cdropout_arrays *>arrays, <const cdropout_mask *>mask, begin, end
    )


cdef int multiply_by_noise(int dtype, const Arrays *arrays, const Noise *noise, size_t begin,
                           size_t end) noexcept nogil:
    return table.multiply_by_noise(
        dtype, <const cdropout_arrays *>arrays, <const cdropout_noise *>noise, begin, end
    )


cdef int add_noise(int dtype, const Arrays *arrays, const Noise *noise, size_t begin, size_t end) noexcept nogil:
    return table.add_noise(dtype, <const cdropout_arrays *>arrays, <const cdropout_noise *>noise, begin, end)


cdef int fill_keep(uint8_t *out, const Mask *mask, size_t begin, size_t end) noexcept nogil:
    return table.fill_keep(out, <const cdropout_mask *>mask, begin, end)


cdef void fill_raw(uint8_t *out, const Key *key, uint64_t first_block, size_t n_blocks) noexcept nogil:
    table.fill_raw(out, <const cdropout_key *>key, first_block, n_blocks)


cdef size_t cached_bytes() noexcept nogil:
    return table.cached_bytes()


cdef int strided_mask_of(object mask, StridedMask *c_mask) except -1:
    return table.strided_mask_of(mask, <cdropout_strided_mask *>c_mask)


cdef int apply_strided(int operation, int dtype, const Arrays *arrays, const StridedMask *mask, size_t begin,
                       size_t end) noexcept nogil:
    return table.apply_strided(
        operation, dtype, <const cdropout_arrays *>arrays, <const cdropout_strided_mask *>mask, begin, end
    )


cdef int fill_keep_strided(uint8_t *out, const StridedMask *mask, size_t begin, size_t end) noexcept nogil:
    return table.fill_keep_strided(out, <const cdropout_strided_mask *>mask, begin, end)


cdef int fill_keep_words(uint64_t *out, const Mask *mask, size_t n_elems) noexcept nogil:
    return table.fill_keep_words(out, <const cdropout_mask *>mask, n_elems)


cdef int gather_kept(int dtype, const Submatrix *matrix, size_t begin, size_t end) noexcept nogil:
    return table.gather_kept(dtype, <const cdropout_submatrix *>matrix, begin, end)


cdef int scatter_kept(int dtype, int rest, const Submatrix *matrix, size_t begin, size_t end) noexcept nogil:
    return table.scatter_kept(dtype, rest, <const cdropout_submatrix *>matrix, begin, end)
