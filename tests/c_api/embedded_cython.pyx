# cython: language_level=3
"""Functions that call every function of cdropout.api from the Cython of another package, for the tests and calls.py.
Arrays are tuples of the addresses of out, x, residual and bias, then n_bias, n_repeats, shift, fill and past_caches.
Ranges are pairs of begin and end."""

from libc.stdint cimport uint8_t, uint64_t, uintptr_t

cimport cdropout.api as capi


cdef capi.Arrays arrays_of(tuple fields):
    cdef capi.Arrays arrays
    arrays.out = <void *><uintptr_t>fields[0]
    arrays.x = <const void *><uintptr_t>fields[1]
    arrays.residual = <const void *><uintptr_t>fields[2]
    arrays.bias = <const void *><uintptr_t>fields[3]
    arrays.n_bias, arrays.n_repeats, arrays.shift, arrays.fill, arrays.past_caches = fields[4:]
    return arrays


def apply(int operation, int dtype, tuple fields, mask, scale, ranges):
    cdef capi.Arrays arrays = arrays_of(fields)
    cdef capi.Mask c_mask
    cdef size_t begin, end
    cdef int status = 0
    capi.mask_of(mask, &c_mask)
    if scale is not None:
        c_mask.scale = scale
    for begin, end in ranges:
        with nogil:
            status |= capi.apply(operation, dtype, &arrays, &c_mask, begin, end)
    return status


def repeat(int operation, int dtype, tuple fields, mask, size_t n_elems, size_t n_calls):
    cdef capi.Arrays arrays = arrays_of(fields)
    cdef capi.Mask c_mask
    cdef size_t _call
    capi.mask_of(mask, &c_mask)
    with nogil:
        for _call in range(n_calls):
            capi.apply(operation, dtype, &arrays, &c_mask, 0, n_elems)


def apply_noise(bint is_factor, int dtype, tuple fields, noise, ranges):
    cdef capi.Arrays arrays = arrays_of(fields)
    cdef capi.Noise c_noise
    cdef size_t begin, end
    cdef int status = 0
    capi.noise_of(noise, &c_noise)
    for begin, end in ranges:
        with nogil:
            if is_factor:
                status |= capi.multiply_by_noise(dtype, &arrays, &c_noise, begin, end)
            else:
                status |= capi.add_noise(dtype, &arrays, &c_noise, begin, end)
    return status


def fill_keep(uintptr_t out, mask, ranges):
    cdef capi.Mask c_mask
    cdef size_t begin, end
    cdef int status = 0
    capi.mask_of(mask, &c_mask)
    for begin, end in ranges:
        with nogil:
            status |= capi.fill_keep(<uint8_t *>out, &c_mask, begin, end)
    return status


cdef int set_strided_mask(object argument, capi.StridedMask *c_mask) except -1:
    """Set from a mask, or from a tuple of a mask and the p, n_axes and lens that replace its own."""
    cdef int axis
    if not isinstance(argument, tuple):
        return capi.strided_mask_of(argument, c_mask)
    mask, p, n_axes, lens = argument
    capi.strided_mask_of(mask, c_mask)
    c_mask.mask.p = p
    c_mask.n_axes = n_axes
    for axis in range(min(len(lens), capi.MAX_AXES)):
        c_mask.lens[axis] = lens[axis]
    return 0


def apply_strided(int operation, int dtype, tuple fields, mask, scale, ranges):
    cdef capi.Arrays arrays = arrays_of(fields)
    cdef capi.StridedMask c_mask
    cdef size_t begin, end
    cdef int status = 0
    set_strided_mask(mask, &c_mask)
    if scale is not None:
        c_mask.mask.scale = scale
    for begin, end in ranges:
        with nogil:
            status |= capi.apply_strided(operation, dtype, &arrays, &c_mask, begin, end)
    return status


def fill_keep_strided(uintptr_t out, mask, ranges):
    cdef capi.StridedMask c_mask
    cdef size_t begin, end
    cdef int status = 0
    set_strided_mask(mask, &c_mask)
    for begin, end in ranges:
        with nogil:
            status |= capi.fill_keep_strided(<uint8_t *>out, &c_mask, begin, end)
    return status


def strided_fields(mask):
    cdef capi.StridedMask c_mask
    cdef int axis
    set_strided_mask(mask, &c_mask)
    lens = [c_mask.lens[axis] for axis in range(c_mask.n_axes)]
    strides = [c_mask.strides[axis] for axis in range(c_mask.n_axes)]
    key = c_mask.mask.key.word
    return key[0], key[1], c_mask.mask.start, c_mask.mask.p, c_mask.mask.scale, lens, strides


def move_kept(int rest, int dtype, uintptr_t out, uintptr_t x, size_t n_rows, size_t n_columns, uintptr_t words, mask,
              double scale, ranges):
    cdef capi.Mask c_mask
    cdef capi.Submatrix matrix
    cdef size_t begin, end
    cdef int status
    capi.mask_of(mask, &c_mask)
    matrix.out, matrix.x, matrix.n_rows, matrix.n_columns = <void *>out, <const void *>x, n_rows, n_columns
    matrix.row_words, matrix.column_words, matrix.scale = NULL, <const uint64_t *>words, scale
    with nogil:
        status = capi.fill_keep_words(<uint64_t *>words, &c_mask, n_columns)
    for begin, end in ranges:
        with nogil:
            if rest == 0:
                status |= capi.gather_kept(dtype, &matrix, begin, end)
            else:
                status |= capi.scatter_kept(dtype, rest, &matrix, begin, end)
    return status


def fill_raw(uintptr_t out, stream, uint64_t first_block, size_t n_blocks):
    cdef capi.Stream c_stream
    capi.stream_of(stream, &c_stream)
    with nogil:
        capi.fill_raw(<uint8_t *>out, c_stream.key, first_block, n_blocks)


def draw_mask(stream, uint64_t n_elems, double p):
    cdef capi.Stream c_stream
    cdef capi.Mask mask
    cdef int status
    capi.stream_of(stream, &c_stream)
    with nogil:
        status = capi.draw_mask(&mask, &c_stream, n_elems, p)
    return (mask.key.word[0], mask.key.word[1], mask.start, mask.p, mask.scale) if status == 0 else None


def draw_noise(stream, uint64_t n_elems, double std):
    cdef capi.Stream c_stream
    cdef capi.Noise noise
    cdef int status
    capi.stream_of(stream, &c_stream)
    with nogil:
        status = capi.draw_noise(&noise, &c_stream, n_elems, std)
    return (noise.key.word[0], noise.key.word[1], noise.start, noise.std) if status == 0 else None


def alpha_dropout(double p):
    cdef capi.Key key
    cdef capi.Mask mask
    cdef capi.Arrays arrays
    key.word[0] = key.word[1] = 0
    with nogil:
        if capi.define_mask(&mask, &key, 0, p) == 0 and capi.set_alpha_dropout(&arrays, &mask) == 0:
            with gil:
                return mask.scale, arrays.shift, arrays.fill


def cached_bytes():
    return capi.cached_bytes()
