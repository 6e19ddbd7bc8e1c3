# cython: language_level=3, cdivision=True, freethreading_compatible=True
"""The border between Python and the C core.

Arguments are checked here, once: dtype, layout, aliasing, p, axes. Then memory is allocated, the stream advances, and a
job_request goes to the planner (core/job.c). The parallel loop (parallel_run.pxi) runs the parts of the planned job
with the GIL released. job_plan refuses invalid requests; nothing else in the C core can fail.
"""

cimport cython
from cython.parallel cimport prange
from cpython.buffer cimport PyObject_CheckBuffer
from cpython.exc cimport PyErr_CheckSignals
from cpython.float cimport PyFloat_CheckExact
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_IsValid, PyCapsule_New
from libc.math cimport isfinite
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset
cimport numpy as cnp

from c_api cimport *
from core cimport *

import os
import sys
import threading
import time
from numbers import Real

import numpy as np

from cdropout import machine
from cdropout.checks import check_integer, shown

cnp.import_array()


include "dlpack.pxi"
include "arguments.pxi"
include "thread_budget.pxi"
include "parallel_run.pxi"
include "scratch.pxi"
include "stream.pxi"
include "values.pxi"
include "c_api.pxi"


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


# ---- limits ---------------------------------------------------------------------------------------------------------

limits.max_cached_bytes = machine.last_level_cache_bytes() or cache_bytes_by_sysconf() or limits.max_cached_bytes


def get_limits():
    """The numbers that decide how calls are laid out and shared among threads, as a dict; core/job.h says what each
    is."""
    return limits


# A thread's share and a slice have at least one element.
LEAST_LIMITS = {"min_elems_per_thread": 1, "max_elems_per_slice": 1}


def set_limits(**changes):
    """Changes some of the numbers that get_limits gives, for benchmarks and tests; returns those of before.

    Raises TypeError for a name that is not among them or a number that is no integer, ValueError for one that is too
    small; then nothing changes."""
    global limits
    before = get_limits()
    for name, number in changes.items():
        if name not in before:
            raise TypeError(f"limits must be among {', '.join(before)}, got {name!r}")
        check_integer(name, number, LEAST_LIMITS.get(name, 0), (1 << 64) - 1)
    limits = {**before, **changes}
    return before


# ---- the catalog ----------------------------------------------------------------------------------------------------

# The numbers of the operations, by their names.
OPERATIONS = dict([(operation_table[i].name.decode(), i) for i in range(N_OPERATIONS)])


# ---- draws: masks and noise -----------------------------------------------------------------------------------------

cdef object checked_n_drawn(tuple shape, tuple shared_axes):
    """How many positions a draw takes; OverflowError for more than any stream has."""
    n = n_drawn(shape, shared_axes)
    if n > LIMIT:
        raise OverflowError(f"the stream must hold what is drawn, got {shown(n)} elements")
    return n


cdef MaskCore new_mask(type mask_type, double p, tuple shape, tuple shared_axes, StreamCore stream, object n):
    """A new mask_type (a MaskCore) for the stream's next n positions; all arguments have been checked."""
    cdef MaskCore mask = MaskCore.__new__(mask_type)
    mask.p = p
    mask.shape = shape
    mask.shared_axes = shared_axes
    mask.first = stream.take(n, &mask.words)
    return mask


cdef object new_noise(object noise_type, tuple shape, object std, StreamCore stream):
    """A new noise_type (a NoiseCore) for the stream's next positions; the other arguments have been checked."""
    cdef stream_key key
    cdef uint64_t first = stream.take(checked_n_drawn(shape, ()), &key)
    return noise_type(key_number(&key), first, std, shape)


def draw_mask(mask_type, shape, p, rng, shared_axes):
    """The mask of cdropout.draw_mask."""
    cdef double p_checked = checked_p(p)
    cdef tuple lengths = checked_shape(shape)
    cdef tuple axes = checked_axes(shared_axes, len(lengths))
    n = checked_n_drawn(lengths, axes)
    return new_mask(mask_type, p_checked, lengths, axes, stream_of_rng(rng), n)


def draw_noise(noise_type, shape, std, rng):
    """The noise of cdropout.draw_noise."""
    checked_std(std)
    cdef tuple lengths = checked_shape(shape)
    checked_n_drawn(lengths, ())
    return new_noise(noise_type, lengths, std, stream_of_rng(rng))


# ---- dropout, and what the layers share -----------------------------------------------------------------------------

def dropout(x, p, rng, out, shared_axes):
    """The result of cdropout.dropout."""
    cdef cnp.ndarray array = checked_array(x, "x")
    cdef double p_checked = checked_p(p)
    cdef tuple axes = checked_axes(shared_axes, cnp.PyArray_NDIM(array))
    cdef cnp.ndarray result = checked_out(out, array, "x")
    cdef tuple strides = run_strides((<object>array).shape, axes) if axes else None
    cdef Scratch scratch = scratch_for(result, array, None, strides is not None)
    cdef StreamCore stream = stream_of_rng(rng)
    cdef stream_key key
    cdef uint64_t first = stream.take(
        n_drawn((<object>array).shape, axes) if axes else <uint64_t>cnp.PyArray_SIZE(array), &key
    )
    cdef affine map
    map.scale, map.shift, map.fill = kept_scale(p_checked), 0.0, 0.0
    apply_mask(&key, first, p_checked, &map, strides, result, array, scratch)
    return result if out is None else out


def forward(mask_type, x, double p, rng, out, shared_axes, double scale, double shift, double fill):
    """A layer's forward pass: (y, mask); what comes after shared_axes is as in Mask.apply. p has been checked."""
    cdef cnp.ndarray array = checked_array(x, "x")
    cdef cnp.ndarray result = checked_out(out, array, "x")
    cdef tuple axes = checked_axes(shared_axes, cnp.PyArray_NDIM(array))
    cdef tuple shape = (<object>array).shape
    cdef tuple strides = run_strides(shape, axes) if axes else None
    cdef Scratch scratch = scratch_for(result, array, None, strides is not None)
    cdef MaskCore mask = new_mask(
        mask_type, p, shape, axes, stream_of_rng(rng), n_drawn(shape, axes) if axes else cnp.PyArray_SIZE(array)
    )
    cdef affine map
    map.scale, map.shift, map.fill = scale, shift, fill
    apply_mask(&mask.words, mask.first, p, &map, strides, result, array, scratch)
    return result if out is None else out, mask


def with_noise(noise_type, bint is_factor, x, std, rng, out):
    """(y, noise): x times, or plus, new noise."""
    cdef cnp.ndarray array = checked_array(x, "x")
    checked_std(std)
    cdef cnp.ndarray result = checked_out(out, array, "x")
    cdef Scratch scratch = scratch_for(result, array, None, False)
    cdef NoiseCore noise = new_noise(noise_type, (<object>array).shape, std, stream_of_rng(rng))
    apply_noise(noise, is_factor, result, array, scratch)
    return result if out is None else out, noise


# ---- fused operations: dropout with a bias, ReLU or residual in the same pass over memory ---------------------------

@cython.final
@cython.freelist(4)
@cython.no_gc
cdef class FusedCall:
    """The checked arguments of a fused operation; bias and residual are None where it has none, out where it is to be
    made."""

    cdef int operation
    cdef double p
    cdef cnp.ndarray x, bias, residual, out


cdef FusedCall checked_fused(str name, x, bias, residual, p, out):
    """Check the arguments of a fused operation; bias and residual are ignored where it has none."""
    cdef FusedCall call = FusedCall.__new__(FusedCall)
    call.operation = OPERATIONS[name]
    cdef int steps = operation_table[call.operation].steps
    cdef str x_name = "new" if steps & WITH_CHOICE else "x"
    cdef str residual_name = "previous" if steps & WITH_CHOICE else "residual"
    call.x = checked_array(x, x_name)
    call.p = checked_p(p)
    if steps & WITH_BIAS:
        call.bias = checked_bias(bias, call.x)
    if steps & READS_RESIDUAL:
        call.residual = checked_partner(residual, call.x, residual_name, x_name)
    if out is None:
        return call
    call.out = checked_out(out, call.x, x_name)
    if call.residual is not None:
        checked_out(out, call.residual, residual_name)
    if call.bias is not None and cnp.PyArray_SIZE(call.out) > 0:
        check_bias_is_apart(call.bias, call.out)
    return call


cdef Scratch memory_for(FusedCall call):
    """Allocate a result, where none was passed, and what else the call needs."""
    if call.out is None:
        call.out = checked_out(None, call.x, "x")
    return scratch_for(call.out, call.x, call.residual, False)


cdef int run_fused(FusedCall call, const stream_key *key, uint64_t first, Scratch scratch) except -1:
    cdef job_request request
    request = blank_request(call.operation, dtype_index(call.x))
    request.key = key[0]
    request.first = first
    request.p = call.p
    request.scale = kept_scale(call.p)
    if call.bias is not None:
        request.bias = cnp.PyArray_BYTES(call.bias)
        request.n_bias = cnp.PyArray_SIZE(call.bias)
    return run_on_arrays(&request, call.out, call.x, call.residual, scratch)


def check_fused(str name, x, bias, residual, p, out):
    """Checks the arguments of a fused operation and draws nothing; errors as in `fused`."""
    checked_fused(name, x, bias, residual, p, out)


def fused(str name, x, bias, residual, p, rng, out):
    """The result of a fused operation, by its name in the catalog; bias and residual are ignored where it has none."""
    cdef FusedCall call = checked_fused(name, x, bias, residual, p, out)
    cdef Scratch scratch = memory_for(call)
    cdef stream_key key
    cdef uint64_t first = stream_of_rng(rng).take(cnp.PyArray_SIZE(call.x), &key)
    run_fused(call, &key, first, scratch)
    return call.out if out is None else out


def forward_fused(mask_type, str name, x, bias, residual, p, rng, out):
    """A layer's forward pass: (y, mask) of a fused operation; the rest as in `fused`."""
    cdef FusedCall call = checked_fused(name, x, bias, residual, p, out)
    cdef Scratch scratch = memory_for(call)
    cdef MaskCore mask = new_mask(
        mask_type, call.p, (<object>call.x).shape, (), stream_of_rng(rng), cnp.PyArray_SIZE(call.x)
    )
    run_fused(call, &mask.words, mask.first, scratch)
    return call.out if out is None else out, mask


def relu_dropout_backward(dy, y, p, out):
    """out = dy / (1-p) where y > 0, 0 elsewhere."""
    cdef job_request request
    cdef cnp.ndarray gradient = checked_array(dy, "dy")
    cdef double p_checked = checked_p(p)
    cdef cnp.ndarray output = checked_partner(y, gradient, "y", "dy")
    cdef cnp.ndarray result = checked_out(out, gradient, "dy")
    checked_out(result, output, "y")
    request = blank_request(OPERATION_relu_dropout_backward, dtype_index(gradient))
    request.scale = kept_scale(p_checked)
    run_on_arrays(&request, result, gradient, output, scratch_for(result, gradient, output, False))
    return result if out is None else out


# ---- what the integrations ask --------------------------------------------------------------------------------------

# As NumPy does for its own arrays of this size: each page that is touched for the first time costs a fault.
HUGE_PAGES_FROM_BYTES = 1 << 22


def expect_writing(cnp.ndarray fresh not None):
    """Tells the system that all of a large contiguous array, not written yet, is about to be."""
    ask_for_huge_pages(cnp.PyArray_BYTES(fresh), cnp.PyArray_NBYTES(fresh))


# For programs that inspect this build, such as the tests: a pointer to the kernel table that runs.
KERNEL_TABLE = PyCapsule_New(&kernels, "cdropout._kernels.KERNEL_TABLE", NULL)
