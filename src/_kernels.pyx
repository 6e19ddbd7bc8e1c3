# cython: language_level=3, cdivision=True, freethreading_compatible=True
"""The only border between Python and the C core.

Everything is checked here, once: dtype, layout, aliasing, p. Then p becomes a threshold and a scale, and the blocks are
shared out among threads with the GIL released. Nothing below this file can fail.
"""

from cython.parallel cimport prange
from cpython.buffer cimport PyObject_CheckBuffer
from cpython.exc cimport PyErr_CheckSignals
from cpython.float cimport PyFloat_CheckExact
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_IsValid, PyCapsule_New
from libc.math cimport isfinite
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset
cimport numpy as cnp

import os
import sys
import threading
import time
from numbers import Real

import numpy as np

from cdropout import machine
from cdropout.checks import shown

cnp.import_array()


cdef extern from "catalog.h" nogil:
    enum:
        ELEMS_PER_BLOCK
        RAW_BYTES_PER_BLOCK
        ELEMS_PER_GROUP
        DTYPE_f32
        DTYPE_f64
        DTYPE_f16
        DTYPE_bf16
        N_DTYPES
        OPERATION_apply_mask
        OPERATION_fill_scaled
        OPERATION_relu_dropout
        OPERATION_bias_relu_dropout
        OPERATION_dropout_add
        OPERATION_bias_dropout_add
        OPERATION_alpha_dropout
        OPERATION_choose
        N_OPERATIONS

    ctypedef struct stream_key:
        uint64_t word[2]

    ctypedef struct mask_rule:
        stream_key key
        int32_t threshold
        uint64_t tie_threshold

    ctypedef struct operands:
        char *out
        const char *x
        const char *residual
        const char *bias
        const char *bias_seam
        size_t bias_period
        size_t bias_at
        size_t n_repeats
        double scale
        double shift
        double fill

    operands operands_at(const operands *ops, size_t i, size_t elem_bytes)

    ctypedef const char *range_fn(const operands *, const mask_rule *, uint64_t, size_t) noexcept
    ctypedef const char *repeat_fn(const operands *, const mask_rule *, uint64_t, size_t) noexcept
    ctypedef const char *words_fn(const operands *, const uint64_t *, size_t) noexcept
    ctypedef const char *positive_fn(const operands *, size_t) noexcept
    ctypedef const char *noise_fn(const operands *, const stream_key *, uint64_t, size_t) noexcept
    ctypedef const char *fill_keep_fn(uint8_t *, const mask_rule *, uint64_t, size_t) noexcept
    ctypedef const char *fill_words_fn(uint64_t *, const mask_rule *, uint64_t, size_t) noexcept
    ctypedef const char *fill_raw_fn(uint8_t *, const stream_key *, uint64_t, size_t) noexcept

    ctypedef struct dtype_row:
        range_fn *operation[8]
        repeat_fn *apply_mask_repeat
        repeat_fn *alpha_dropout_repeat
        words_fn *apply_mask_words
        words_fn *alpha_dropout_words
        positive_fn *scale_where_positive
        noise_fn *multiply_by_noise
        noise_fn *add_noise

    ctypedef struct kernel_table:
        const char *isa
        int (*is_supported)() noexcept
        const dtype_row *dtype[4]
        const dtype_row *streaming_dtype[4]
        fill_keep_fn *fill_keep
        fill_words_fn *fill_words
        fill_raw_fn *fill_raw

    const kernel_table *kernels
    const kernel_table *choose_kernels(const char *name, int *is_known)
    const kernel_table *kernels_at(size_t i)
    void philox4x32(uint32_t *counter, uint64_t key)


cdef extern from "Python.h":
    int run_handlers_of_signals "PyErr_CheckSignals"() noexcept


cdef extern from "numpy/arrayobject.h":
    enum:
        NPY_HALF
        NPY_USERDEF


cdef extern from "cache.h" nogil:
    size_t cache_bytes_by_sysconf()


cdef extern from "clock.h" nogil:
    uint64_t clock_microseconds()


cdef extern from "pages.h" nogil:
    void ask_for_huge_pages(char *first, size_t n_bytes)


cdef extern from "threads.h" nogil:
    enum:
        HAS_OPENMP
    int max_threads()
    int n_cpus_of_thread()
    int team_to_be_had(int n_threads)
    int call_in_forked_children(void (*function)() noexcept)


cdef extern from "atomic.h" nogil:
    int load_int "ATOMIC_LOAD"(int *number)
    void store_int "ATOMIC_STORE"(int *number, int value)
    uint64_t load_u64 "ATOMIC_LOAD"(uint64_t *number)
    void store_u64 "ATOMIC_STORE"(uint64_t *number, uint64_t value)


cdef extern from "parameters.h" nogil:
    enum:
        BIAS_ROOM_BYTES
    const double MAX_STD
    size_t bytes_of_dtype(int dtype)
    void set_threshold(mask_rule *rule, double p)
    double kept_scale_of "kept_scale"(double p)
    double scale_in(int dtype, double scale)
    void alpha_dropout_map(double p, double *scale, double *shift, double *fill)
    void lay_bias(operands *ops, char *room, const char *bias, size_t n_bias, size_t elem_bytes)
    int may_stream(const char *out, size_t n_to_group, size_t n_repeats, size_t elem_bytes)


cdef extern from "position.h" nogil:
    const uint64_t LIMIT "POSITION_LIMIT"
    int take_blocks(uint64_t *next_elem, uint64_t n_elems, uint64_t *first)
    void return_blocks(uint64_t *next_elem, uint64_t n_elems, uint64_t first)


cdef extern from "crowd.h" nogil:
    ctypedef struct crowd:
        pass

    int enter_crowd(crowd *jobs)
    void leave_crowd(crowd *jobs)
    int most_in_crowd(crowd *jobs, int n_now, uint64_t now_microseconds)


cdef extern from "float_mode.h" nogil:
    ctypedef struct float_mode:
        pass

    float_mode enter_default_mode()
    void leave_default_mode(float_mode before)
    bint is_zero(double value)


# ---- which kernels run ----------------------------------------------------------------------------------------------

def supported_isas():
    """The instruction sets this machine can run, the best first."""
    cdef size_t i = 0
    names = []
    while kernels_at(i) != NULL:
        if kernels_at(i).is_supported():
            names.append(kernels_at(i).isa.decode())
        i += 1
    return tuple(names)


def known_isas():
    """The instruction sets that this build has kernels for, the best first."""
    cdef size_t i = 0
    names = []
    while kernels_at(i) != NULL:
        names.append(kernels_at(i).isa.decode())
        i += 1
    return tuple(names)


def use_isa(name):
    """Runs every later call on one instruction set; on the best that this machine supports where name is None.

    At import the environment's CDROPOUT_ISA is the name. Tests switch afterwards, in one thread."""
    global kernels
    cdef int is_known = 0
    cdef const kernel_table *chosen
    if name is None:
        chosen = choose_kernels(NULL, &is_known)
    else:
        chosen = choose_kernels(name.encode(), &is_known)
    if chosen != NULL:
        kernels = chosen
        return
    if is_known:
        raise ImportError(
            f"CDROPOUT_ISA must name an instruction set of this machine ({', '.join(supported_isas())}), got {name!r}"
        )
    raise ValueError(f"CDROPOUT_ISA must be one of {', '.join(known_isas())}, got {name!r}")


use_isa(os.environ.get("CDROPOUT_ISA") or None)


def active_isa():
    """The instruction set whose kernels run."""
    return kernels.isa.decode()


def has_openmp():
    """Whether this build has the parallel loop."""
    return bool(HAS_OPENMP)


include "exchange.pxi"
include "arguments.pxi"
include "sharing.pxi"
include "job.pxi"
include "slices.pxi"
include "stream.pxi"
include "values.pxi"


# ---- what functional.py and layers.py call ---------------------------------------------------------------------------

cdef MaskCore new_mask(type mask_type, double p, tuple shape, tuple shared_axes, StreamCore stream, object n):
    """A new mask_type (a MaskCore) for the stream's next n positions; the other arguments have been checked."""
    if n > LIMIT:
        raise OverflowError(f"the stream must hold what is drawn, got {shown(n)} elements")
    cdef MaskCore mask = MaskCore.__new__(mask_type)
    mask.p = p
    mask.shape = shape
    mask.shared_axes = shared_axes
    mask.first = stream.take(n, &mask.words)
    return mask


cdef object new_noise(object noise_type, tuple shape, object std, StreamCore stream):
    """A new noise_type (a NoiseCore) for the stream's next positions; the other arguments have been checked."""
    n = n_drawn(shape, ())
    if n > LIMIT:
        raise OverflowError(f"the stream must hold what is drawn, got {shown(n)} elements")
    cdef stream_key key
    cdef uint64_t first = stream.take(n, &key)
    return noise_type(key_number(&key), first, std, shape)


def draw_mask(mask_type, shape, p, StreamCore stream not None, shared_axes):
    """The mask of cdropout.draw_mask."""
    cdef double p_checked = checked_p(p)
    cdef tuple lengths = checked_shape(shape)
    cdef tuple axes = checked_axes(shared_axes, len(lengths))
    return new_mask(mask_type, p_checked, lengths, axes, stream, n_drawn(lengths, axes))


def draw_noise(noise_type, shape, std, StreamCore stream not None):
    """The noise of cdropout.draw_noise."""
    checked_std(std)
    cdef tuple lengths = checked_shape(shape)
    return new_noise(noise_type, lengths, std, stream)


cdef StreamCore checked_stream(object rng):
    """The stream that rng stands for: asked for when all is checked and all memory is there, because a generator moves
    on."""
    if isinstance(rng, StreamCore):
        return rng
    from cdropout.stream import as_stream

    return as_stream(rng)


def dropout(x, p, rng, out, shared_axes):
    """The result of cdropout.dropout."""
    cdef cnp.ndarray array = checked_array(x, "x")
    cdef double p_checked = checked_p(p)
    cdef tuple axes = checked_axes(shared_axes, cnp.PyArray_NDIM(array))
    cdef cnp.ndarray result = checked_out(out, array, "x")
    cdef tuple strides = run_strides((<object>array).shape, axes) if axes else None
    memory = memory_for(result, array, None, strides)
    cdef StreamCore stream = checked_stream(rng)
    cdef stream_key key
    cdef uint64_t first = stream.take(
        n_drawn((<object>array).shape, axes) if axes else <uint64_t>cnp.PyArray_SIZE(array), &key
    )
    cdef affine map
    map.scale, map.shift, map.fill = kept_scale(p_checked), 0.0, 0.0
    apply_mask(&key, first, p_checked, &map, strides, result, array, memory)
    return result if out is None else out


def forward(mask_type, x, double p, rng, out, shared_axes, double scale, double shift, double fill):
    """A layer's forward pass: (y, mask); what comes after shared_axes is as in Mask.apply. p has been checked."""
    cdef cnp.ndarray array = checked_array(x, "x")
    cdef cnp.ndarray result = checked_out(out, array, "x")
    cdef tuple axes = checked_axes(shared_axes, cnp.PyArray_NDIM(array))
    cdef tuple shape = (<object>array).shape
    cdef tuple strides = run_strides(shape, axes) if axes else None
    memory = memory_for(result, array, None, strides)
    cdef MaskCore mask = new_mask(
        mask_type, p, shape, axes, checked_stream(rng), n_drawn(shape, axes) if axes else cnp.PyArray_SIZE(array)
    )
    cdef affine map
    map.scale, map.shift, map.fill = scale, shift, fill
    apply_mask(&mask.words, mask.first, p, &map, strides, result, array, memory)
    return result if out is None else out, mask


def with_noise(noise_type, bint is_factor, x, std, rng, out):
    """(y, noise): x times, or plus, new noise."""
    cdef cnp.ndarray array = checked_array(x, "x")
    checked_std(std)
    cdef cnp.ndarray result = checked_out(out, array, "x")
    memory = memory_for(result, array, None, None)
    cdef NoiseCore noise = new_noise(noise_type, (<object>array).shape, std, checked_stream(rng))
    apply_noise(noise, is_factor, result, array, memory)
    return result if out is None else out, noise


include "fused.pxi"
include "embedding.pxi"


# ---- what the integrations ask --------------------------------------------------------------------------------------

# As NumPy does for its own arrays of this size: each page that is touched for the first time costs a fault.
HUGE_PAGES_FROM_BYTES = 1 << 22


def expect_writing(cnp.ndarray fresh not None):
    """Tells the system that all of a large contiguous array, not written yet, is about to be."""
    ask_for_huge_pages(cnp.PyArray_BYTES(fresh), cnp.PyArray_NBYTES(fresh))


# ---- what the tests and benchmarks ask ------------------------------------------------------------------------------

def repeat_kernel(cnp.ndarray out, cnp.ndarray x, MaskCore mask not None, size_t n_calls):
    """Calls the kernel of mask.apply(x, out=out), and nothing else, n_calls times, on plain arrays that fit."""
    cdef job j
    cdef size_t _call
    set_job(&j, OPERATION_apply_mask, x, mask.p, kept_scale(mask.p))
    j.rule.key = mask.words
    j.arrays.out = cnp.PyArray_BYTES(out)
    j.arrays.x = cnp.PyArray_BYTES(x)
    cdef range_fn *kernel = kernels.dtype[j.dtype].operation[j.operation]
    with nogil:
        for _call in range(n_calls):
            kernel(&j.arrays, &j.rule, mask.first, j.n_elems)


def thresholds(p):
    """What the kernels compare with to drop at probability p in [0, 1): the signed 16-bit threshold, and the 32 bits
    that decide its ties."""
    cdef mask_rule rule
    set_threshold(&rule, checked_p(p))
    return rule.threshold, rule.tie_threshold


def isas_that_ran():
    """Calls every kernel of the active table: the instruction sets that they say they were compiled for."""
    cdef mask_rule rule
    cdef operands arrays
    cdef double numbers[130]
    cdef uint64_t words[2]
    cdef uint8_t raw[RAW_BYTES_PER_BLOCK]
    cdef const dtype_row *row
    cdef int i, operation
    memset(numbers, 0, sizeof(numbers))
    memset(&arrays, 0, sizeof(operands))
    arrays.out = arrays.x = arrays.residual = arrays.bias = arrays.bias_seam = <char *>numbers
    arrays.bias_period = 64
    arrays.n_repeats = 1
    rule.key.word[0] = rule.key.word[1] = 0
    set_threshold(&rule, 0.5)
    names = {
        kernels.fill_keep(raw, &rule, 0, 2),
        kernels.fill_words(words, &rule, 0, 2),
        kernels.fill_raw(raw, &rule.key, 0, 1),
    }
    for i in range(2 * N_DTYPES):
        row = kernels.dtype[i] if i < N_DTYPES else kernels.streaming_dtype[i - N_DTYPES]
        for operation in range(N_OPERATIONS):
            names.add(row.operation[operation](&arrays, &rule, 0, 2))
        names.add(row.apply_mask_repeat(&arrays, &rule, 0, 2))
        names.add(row.alpha_dropout_repeat(&arrays, &rule, 0, 2))
        names.add(row.apply_mask_words(&arrays, words, 2))
        names.add(row.alpha_dropout_words(&arrays, words, 2))
        names.add(row.scale_where_positive(&arrays, 2))
        names.add(row.multiply_by_noise(&arrays, &rule.key, 0, 2))
        names.add(row.add_noise(&arrays, &rule.key, 0, 2))
    return {(<bytes>name).decode() for name in names}
