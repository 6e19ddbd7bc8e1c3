# cython: language_level=3
"""Every function of cdropout.api, called from somebody else's Cython. Arrays come as the addresses of out, x, residual
and bias, n_bias, n_repeats, shift, fill and past_caches; ranges as pairs of begin and end."""

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
