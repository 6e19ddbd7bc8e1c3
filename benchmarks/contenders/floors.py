"""Make the floors, to which ratios are taken. A floor drops nothing, so that its result is checked for p = 0."""

import numpy as np

from benchmarks.cases import Array, Case, Operation
from benchmarks.contenders.contender import Call
from benchmarks.result_check import Expectation

_UNCHANGED = Operation("unchanged")
_RELU = Operation("relu", relu=True)
_ADD = Operation("add", residual=True)


def expect_scaled(case: Case) -> Expectation:
    """Expect x times the scale."""
    return Expectation(0.0, float(case.scale), _UNCHANGED)


def expect_copied(case: Case) -> Expectation:
    """Expect x."""
    return Expectation(0.0, 1.0, _UNCHANGED)


def expect_rectified(case: Case) -> Expectation:
    """Expect max(x, 0)."""
    return Expectation(0.0, 1.0, _RELU)


def expect_added(case: Case) -> Expectation:
    """Expect x plus the residual."""
    return Expectation(0.0, 1.0, _ADD)


def multiply(case: Case) -> Call:
    """Scale into a ready array, or in place."""
    (x, out), scale = case.source_and_target, case.scale
    return lambda: np.multiply(x, scale, out=out)


def multiply_fresh(case: Case) -> Call:
    """Scale into a new array."""
    x, scale = case.x, case.scale
    return lambda: np.multiply(x, scale)


def copy(case: Case) -> Call:
    """Copy into a ready array: the floor of 16-bit types, which NumPy multiplies one by one."""
    x, y = case.x, case.y

    def call() -> Array:
        np.copyto(y, x)
        return y

    return call


def copy_fresh(case: Case) -> Call:
    """Copy into a new array."""
    return case.x.copy


def pass_over_bits(case: Case) -> Call:
    """Read and write every 16-bit element in place, as integers, which NumPy has vectorised."""
    work, one = case.work, np.uint16(1)
    bits = work.view(np.uint16)

    def call() -> Array:
        np.multiply(bits, one, out=bits)
        return work

    return call


def rectify(case: Case) -> Call:
    """Take the maximum with 0, into a ready array or in place."""
    (x, out), zero = case.source_and_target, case.dtype.type(0)
    return lambda: np.maximum(x, zero, out=out)


def add_residual(case: Case) -> Call:
    """Add two arrays into a third."""
    x, y, residual = case.x, case.y, case.residual
    return lambda: np.add(x, residual, out=y)
