# cython: language_level=3, cdivision=True, freethreading_compatible=True
"""The compiled module of the package: everything between Python's arguments and the C core (src/core).

A call takes four steps, always in this order. (1) Check all arguments, and allocate the result and scratch memory.
(2) Resolve rng, check that the arrays are still the same (held_arrays.pxi), and take positions of the stream. (3) Plan
a job in C (core/job.c). (4) Run the job in parallel, with the GIL released. If step 1 or 2 raises, nothing has been
written and no stream has advanced. Code of the caller runs in steps 1 and 2 only, except for signal handlers during
step 4 and `__array_wrap__` after it; later errors are theirs.

This module is one compilation unit. Its subjects are in .pxi files, which are included below in this order:

    dlpack.pxi         arrays of other libraries: the buffer protocol, DLPack
    containers.pxi     masked arrays and other subclasses of ndarray
    arguments.pxi      checks of arguments, and their error messages
    held_arrays.pxi    whether arrays are still as they were when they were checked
    thread_budget.pxi  how many threads a call may use
    parallel_run.pxi   the parallel loop over a job, and signals during it
    scratch.pxi        arrays as job requests, and scratch memory for other memory layouts
    values.pxi         the base class of masks and noise
    stream.pxi         the class Stream
    mask.pxi           the class Mask
    noise.pxi          the class Noise
    kept.pxi           rows and columns of a matrix by a mask's keep words
    update.pxi         steps of optimizers
    tokens.pxi         tokens that BERT's rule replaces
    squares.pxi        squares of images
    c_api.pxi          the part of the C interface that handles Python objects
    xla_ffi.pxi        the handlers that JAX calls

This file holds the operations on arrays that `cdropout.functions` and `cdropout.layers` call. Python composes
operations and holds state, Cython checks arguments and owns the parallel loop, and C plans and computes.
"""

cimport cython
from cython.parallel cimport prange
from cpython.buffer cimport PyObject_CheckBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals
from cpython.float cimport PyFloat_CheckExact
from cpython.long cimport PyLong_CheckExact
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_IsValid, PyCapsule_New
from cpython.ref cimport Py_INCREF
from libc.math cimport isfinite
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset
cimport numpy as cnp

from c_api cimport *
from core cimport *
from xla_ffi cimport *

import itertools
import math
import os
import sys
import threading
import warnings
from collections.abc import Sequence
from numbers import Real

import numpy as np

from cdropout import machine
from cdropout.checks import (
    check_count, check_integer, check_version, exact_int, fetch_fields, is_integer, shown,
)

cnp.import_array()


include "dlpack.pxi"
include "containers.pxi"
include "arguments.pxi"
include "held_arrays.pxi"
include "thread_budget.pxi"
include "parallel_run.pxi"
include "scratch.pxi"
include "values.pxi"
include "stream.pxi"
include "mask.pxi"
include "noise.pxi"
include "kept.pxi"
include "update.pxi"
include "tokens.pxi"
include "squares.pxi"
include "c_api.pxi"
include "xla_ffi.pxi"


# ---- which kernels run ----------------------------------------------------------------------------------------------

def supported_isas():
    """Return the instruction sets that this machine supports, fastest first."""
    cdef size_t i = 0
    names = []
    while kernels_at(i) != NULL:
        if kernels_at(i).is_supported():
            names.append(kernels_at(i).isa.decode())
        i += 1
    return tuple(names)


def known_isas():
    """Return the instruction sets for which this build has kernels, fastest first."""
    cdef size_t i = 0
    names = []
    while kernels_at(i) != NULL:
        names.append(kernels_at(i).isa.decode())
        i += 1
    return tuple(names)


def use_isa(name):
    """Select the instruction set of all later calls; None selects the fastest that this machine supports.

    At import, name comes from the environment variable CDROPOUT_ISA. Only tests call this later, in one thread."""
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


def check_compiler_flags():
    """Raise ImportError if compiler flags that no macro tells have changed floating-point arithmetic."""
    cdef const char *changed = changed_arithmetic()
    if changed != NULL:
        raise ImportError(f"cdropout must be compiled without {changed.decode()}")


check_compiler_flags()
use_isa(os.environ.get("CDROPOUT_ISA") or None)


def active_isa():
    """Return the name of the selected instruction set."""
    return kernels.isa.decode()


def has_openmp():
    """Return whether the parallel loop of this build uses OpenMP."""
    return bool(HAS_OPENMP)


def has_system_threads():
    """Return whether the parallel loop of this build uses threads of the operating system (Windows, macOS)."""
    return bool(HAS_SYSTEM_TEAM)


# ---- limits ---------------------------------------------------------------------------------------------------------

def cache_bytes():
    """Return the size in bytes of each data cache of a core, a dict by level; empty if the system does not tell."""
    known = machine.cache_bytes()
    if not known:
        known = {level: cache_bytes_of_level(level) for level in (1, 2, 3) if cache_bytes_of_level(level) > 0}
    return known


limits.max_cached_bytes = max(cache_bytes().items(), default=(0, limits.max_cached_bytes))[1]


def get_limits():
    """Return the numbers that decide how jobs are planned and divided among threads, a dict (see core/job.h)."""
    return limits


# A thread's share and a slice have at least one element.
LEAST_LIMITS = {"min_elems_per_thread": 1, "min_elems_per_xla_thread": 1, "max_elems_per_slice": 1}


def set_limits(**changes):
    """Change some of the numbers of get_limits, for benchmarks and tests; return their old values.

    The CPU quota is read anew afterwards.

    Raises TypeError for a name that is not among them or a number that is no integer, ValueError for one that is too
    small; then nothing changes."""
    global limits
    before = get_limits()
    for name, number in changes.items():
        if name not in before:
            raise TypeError(f"limits must be among {', '.join(before)}, got {name!r}")
        changes[name] = check_integer(name, number, LEAST_LIMITS.get(name, 0), (1 << 64) - 1)
    limits = {**before, **changes}
    store_u64(&quota_is_good_until, 0)
    return before


# ---- the operations --------------------------------------------------------------------------------------------------

# The numbers of the operations in the catalog (core/kernel_table.h), by their names.
OPERATIONS = dict([(operation_table[i].name.decode(), i) for i in range(N_OPERATIONS)])


# ---- dropout ---------------------------------------------------------------------------------------------------------

def dropout(x, p, rng, out, shared_axes):
    """Drop elements of x, with the arguments of cdropout.dropout."""
    cdef held_arrays held
    begin_holding(
        &held, not (cnp.PyArray_CheckExact(x) and is_exact(out) and PyFloat_CheckExact(p)) or is_not_empty(shared_axes)
        or runs_code(rng)
    )
    cdef cnp.ndarray array = checked_array(x, "x")
    hold(&held, array, "x")
    cdef double p_checked = checked_p(p)
    cdef tuple axes = checked_axes(shared_axes, cnp.PyArray_NDIM(array))
    cdef cnp.ndarray result = checked_out(out, array, "x")
    hold(&held, result, "out", True, True)
    cdef Container container = container_for(result, out, x, None, None)
    cdef tuple strides = strides_of_run((<object>array).shape, axes) if axes else None
    cdef Scratch scratch = scratch_for(result, array, None, strides is not None, &held)
    cdef uint64_t n_positions = n_drawn((<object>array).shape, axes) if axes else <uint64_t>cnp.PyArray_SIZE(array)
    cdef Stream stream = stream_of_rng(rng)
    cdef stream_key key
    check_held(&held)
    cdef uint64_t first = stream.take(n_positions, &key)
    cdef affine map
    map.scale, map.shift, map.fill = kept_scale(p_checked), 0.0, 0.0
    apply_mask(&key, first, p_checked, &map, strides, result, array, scratch, &held)
    return result if container is None else container.holding_drawn(result, stream, n_positions, first)


def forward(x, double p, rng, out, shared_axes, double scale, double shift, double fill):
    """Draw a mask for x, apply it, and return (y, mask). scale, shift and fill as in Mask.apply; p has been checked."""
    cdef held_arrays held
    begin_holding(
        &held, not (cnp.PyArray_CheckExact(x) and is_exact(out)) or is_not_empty(shared_axes) or runs_code(rng)
    )
    # Before the arrays are checked, because an allocation may run finalizers.
    cdef Mask mask = Mask.__new__(Mask)
    cdef cnp.ndarray array = checked_array(x, "x")
    cdef tuple shape = (<object>array).shape
    hold(&held, array, "x")
    cdef cnp.ndarray result = checked_out(out, array, "x")
    hold(&held, result, "out", True, True)
    cdef tuple axes = checked_axes(shared_axes, cnp.PyArray_NDIM(array))
    cdef Container container = container_for(result, out, x, None, None)
    cdef tuple strides = strides_of_run(shape, axes) if axes else None
    cdef Scratch scratch = scratch_for(result, array, None, strides is not None, &held)
    cdef uint64_t n_positions = n_drawn(shape, axes) if axes else <uint64_t>cnp.PyArray_SIZE(array)
    cdef Stream stream = stream_of_rng(rng)
    place_mask(mask, p, shape, axes, stream, n_positions, &held)
    cdef affine map
    map.scale, map.shift, map.fill = scale, shift, fill
    if strides is None and scratch is NO_SCRATCH and cnp.PyArray_SIZE(array) > 0:
        mask.record_and_apply(&map, result, array, &held)
    else:
        apply_mask(&mask.key_words, mask.first, p, &map, strides, result, array, scratch, &held)
    if container is None:
        return result, mask
    return container.holding_drawn(result, stream, n_positions, mask.first), mask


def check_forward(x, out, shared_axes):
    """Check the arguments of `forward` without drawing, so that a layer refuses the same in evaluation."""
    cdef cnp.ndarray array = checked_array(x, "x")
    checked_axes(shared_axes, cnp.PyArray_NDIM(array))
    if out is not None:
        checked_out(out, array, "x")


# ---- fused operations: dropout with a bias, ReLU or residual in the same pass over memory ---------------------------

@cython.final
@cython.freelist(4)
@cython.no_gc
cdef class FusedCall:
    """The checked arguments of a fused operation.

    bias and residual are None if the operation has none, out is None until memory_for allocates it."""

    cdef int operation
    cdef double p
    cdef cnp.ndarray x, bias, residual, out


cdef FusedCall checked_fused(str name, x, bias, residual, p, out, rng, held_arrays *held):
    """Check and hold the arguments of a fused operation; bias and residual are ignored if the operation has none."""
    begin_holding(
        held, not (cnp.PyArray_CheckExact(x) and is_exact(bias) and is_exact(residual) and is_exact(out))
        or not PyFloat_CheckExact(p) or runs_code(rng)
    )
    cdef FusedCall call = FusedCall.__new__(FusedCall)
    call.operation = OPERATIONS[name]
    cdef int steps = operation_table[call.operation].steps
    # zoneout, the operation with a choice, has other names for x and residual.
    cdef str x_name = "new" if steps & WITH_CHOICE else "x"
    cdef str residual_name = "previous" if steps & WITH_CHOICE else "residual"
    call.x = checked_array(x, x_name)
    hold(held, call.x, x_name)
    call.p = checked_p(p)
    if steps & WITH_BIAS:
        if not (cnp.PyArray_CheckExact(bias) and is_plain(bias)):
            watch(held)  # a copy is made, and an allocation may run finalizers
        call.bias = checked_bias(bias, call.x)
        hold(held, call.bias, "bias")
    if steps & READS_RESIDUAL:
        call.residual = checked_same_shape(residual, call.x, residual_name, x_name)
        hold(held, call.residual, residual_name, True)
    if out is None:
        return call
    call.out = checked_out(out, call.x, x_name)
    hold(held, call.out, "out", True, True)
    if call.residual is not None:
        checked_out(call.out, call.residual, residual_name)
    if call.bias is not None and cnp.PyArray_SIZE(call.out) > 0:
        check_bias_is_apart(call.bias, call.out)
    return call


cdef Scratch memory_for(FusedCall call, held_arrays *held):
    """Allocate the result, unless out was passed, and the call's scratch memory."""
    if call.out is None:
        call.out = checked_out(None, call.x, "x")
        hold(held, call.out, "out", True, True)
    return scratch_for(call.out, call.x, call.residual, False, held)


cdef int run_fused(FusedCall call, const stream_key *key, uint64_t first, Scratch scratch,
                   held_arrays *held) except -1:
    cdef job_request request
    request = blank_request(call.operation, dtype_index(call.x))
    request.key = key[0]
    request.first = first
    request.p = call.p
    request.scale = kept_scale(call.p)
    if call.bias is not None:
        request.bias = cnp.PyArray_BYTES(call.bias)
        request.n_bias = cnp.PyArray_SIZE(call.bias)
    return run_on_arrays(&request, call.out, call.x, call.residual, scratch, held)


def check_fused(str name, x, bias, residual, p, out):
    """Check the arguments of a fused operation without drawing; errors as in `fused`."""
    cdef held_arrays held
    checked_fused(name, x, bias, residual, p, out, None, &held)


def fused(str name, x, bias, residual, p, rng, out):
    """Run the fused operation of this name; bias and residual are ignored if the operation has none."""
    cdef held_arrays held
    cdef FusedCall call = checked_fused(name, x, bias, residual, p, out, rng, &held)
    cdef Scratch scratch = memory_for(call, &held)
    cdef Container container = container_for(call.out, out, x, residual, bias)
    cdef uint64_t n_positions = cnp.PyArray_SIZE(call.x)
    cdef Stream stream = stream_of_rng(rng)
    cdef stream_key key
    check_held(&held)
    cdef uint64_t first = stream.take(n_positions, &key)
    run_fused(call, &key, first, scratch, &held)
    return call.out if container is None else container.holding_drawn(call.out, stream, n_positions, first)


def forward_fused(str name, x, bias, residual, p, rng, out):
    """Run a fused operation and return (y, mask); arguments as in `fused`."""
    cdef held_arrays held
    # Before the arrays are checked, because an allocation may run finalizers.
    cdef Mask mask = Mask.__new__(Mask)
    cdef tuple shape = (<object>x).shape if cnp.PyArray_CheckExact(x) else None
    cdef FusedCall call = checked_fused(name, x, bias, residual, p, out, rng, &held)
    cdef Scratch scratch = memory_for(call, &held)
    cdef Container container = container_for(call.out, out, x, residual, bias)
    cdef uint64_t n_positions = cnp.PyArray_SIZE(call.x)
    cdef Stream stream = stream_of_rng(rng)
    if shape is None:
        shape = (<object>call.x).shape
    place_mask(mask, call.p, shape, (), stream, n_positions, &held)
    run_fused(call, &mask.key_words, mask.first, scratch, &held)
    if container is None:
        return call.out, mask
    return container.holding_drawn(call.out, stream, n_positions, mask.first), mask


def relu_dropout_backward(dy, y, p, out):
    """Return dy / (1-p) where y > 0 and 0 elsewhere, with the arguments of cdropout.relu_dropout_backward."""
    cdef job_request request
    cdef held_arrays held
    begin_holding(&held, not (
        cnp.PyArray_CheckExact(dy) and cnp.PyArray_CheckExact(y) and is_exact(out) and PyFloat_CheckExact(p)
    ))
    cdef cnp.ndarray gradient = checked_array(dy, "dy")
    hold(&held, gradient, "dy")
    cdef double p_checked = checked_p(p)
    cdef cnp.ndarray output = checked_same_shape(y, gradient, "y", "dy")
    hold(&held, output, "y", True)
    cdef cnp.ndarray result = checked_out(out, gradient, "dy")
    hold(&held, result, "out", True, True)
    checked_out(result, output, "y")
    cdef Container container = container_for(result, out, dy, y, None)
    cdef Scratch scratch = scratch_for(result, gradient, output, False, &held)
    request = blank_request(OPERATION_relu_dropout_backward, dtype_index(gradient))
    request.scale = kept_scale(p_checked)
    check_held(&held)
    run_on_arrays(&request, result, gradient, output, scratch, &held)
    return in_container(result, container)


# ---- for other modules of the package --------------------------------------------------------------------------------

def fused_with_mask(str name, x, bias, residual, Mask mask not None, out):
    """Run the fused operation of this name with a mask that has been drawn; arguments as in `fused`."""
    if mask.shared_axes or mask.part_strides is not None:
        raise ValueError(f"mask must take consecutive positions, one for each element, got {mask!r}")
    cdef held_arrays held
    cdef FusedCall call = checked_fused(name, x, bias, residual, mask.p, out, None, &held)
    if not has_shape(call.x, mask.shape):
        raise ValueError(f"x must have the mask's shape {mask.shape}, got {(<object>call.x).shape}")
    cdef Scratch scratch = memory_for(call, &held)
    cdef Container container = container_for(call.out, out, x, residual, bias)
    check_held(&held)
    run_fused(call, &mask.key_words, mask.first, scratch, &held)
    return in_container(call.out, container)


def with_threads(int n_threads, function, *args, **named):
    """Call a function whose kernels use at most as many threads as another library has been told to use."""
    set_threads_of_host(n_threads)
    try:
        return function(*args, **named)
    finally:
        set_threads_of_host(0)


# cdropout.torch calls expect_writing for results of at least this size. NumPy uses the same limit for its own arrays:
# the first write to each page costs a page fault, and huge pages need fewer.
HUGE_PAGES_FROM_BYTES = 1 << 22


def expect_writing(cnp.ndarray fresh not None):
    """Tell the operating system that a new contiguous array will be written as a whole: it may then use huge pages."""
    ask_for_huge_pages(cnp.PyArray_BYTES(fresh), cnp.PyArray_NBYTES(fresh))


# The address of the variable that points to the selected kernel table, for programs that inspect this build (tests).
KERNEL_TABLE = PyCapsule_New(&kernels, "cdropout._kernels.KERNEL_TABLE", NULL)
