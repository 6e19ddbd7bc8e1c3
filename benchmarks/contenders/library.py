"""Make the calls of cdropout, and the same operations in several steps."""

from collections.abc import Callable

import numpy as np

import cdropout as cd
from benchmarks.cases import Array, Case, Operation
from benchmarks.contenders.contender import Call
from benchmarks.result_check import Expectation


def cdropout(case: Case) -> Call:
    """Drop into a ready array, or in place."""
    (x, out), p, stream, axes = case.source_and_target, case.p, cd.Stream(1), case.operation.shared_axes
    if axes:
        return lambda: cd.dropout(x, p, rng=stream, out=out, shared_axes=axes)
    return lambda: cd.dropout(x, p, rng=stream, out=out)


def cdropout_backward(case: Case) -> Call:
    """Apply a stored mask, into a ready array or in place."""
    (x, out), mask = case.source_and_target, cd.draw_mask(case.shape, case.p, rng=1)
    return lambda: mask.apply(x, out=out)


def cdropout_fresh(case: Case) -> Call:
    """Drop into a new array."""
    x, p, stream = case.x, case.p, cd.Stream(1)
    return lambda: cd.dropout(x, p, rng=stream)


def cdropout_layer(case: Case) -> Call:
    """Go forward through the layer."""
    x, layer = case.x, cd.Dropout(case.p, rng=1)
    return lambda: layer.forward(x)


def fused(name: str) -> Callable[[Case], Call]:
    """Make a fused function of cdropout with the arguments that the case's operation has."""

    def make(case: Case) -> Call:
        function, p, stream = getattr(cd, name), case.p, cd.Stream(1)
        x, out = case.source_and_target
        others = (case.bias,) * case.operation.bias + (case.residual,) * case.operation.residual
        return lambda: function(x, *others, p, rng=stream, out=out)

    return make


def bias_relu_layer(case: Case) -> Call:
    """Go forward through the layer, in place."""
    work, layer = case.work, cd.BiasReLUDropout(case.bias, case.p, rng=1, inplace=True)
    return lambda: layer.forward(work)


def expect_relu_gradient(case: Case) -> Expectation:
    """Expect the gradient scaled where the output is positive, and 0 elsewhere: a share that is known exactly."""
    return Expectation(np.count_nonzero(case.relu_output <= 0) / case.n_elems, 1 / (1 - case.p), Operation("unchanged"))


def relu_backward(case: Case) -> Call:
    """Go back through ReLU and dropout in one pass."""
    dy, y, p, out = case.x, case.relu_output, case.p, case.y
    return lambda: cd.relu_dropout_backward(dy, y, p, out=out)


def relu_backward_in_steps(case: Case) -> Call:
    """Go back through ReLU and dropout with NumPy's functions."""
    dy, y, scale, out = case.x, case.relu_output, case.scale, case.y
    zero, active = case.dtype.type(0), np.empty(case.shape, bool)

    def call() -> Array:
        np.greater(y, zero, out=active)
        np.multiply(dy, active, out=out)
        np.multiply(out, scale, out=out)
        return out

    return call


def unfused(case: Case) -> Call:
    """Do what a fused function does with one NumPy function, or `dropout`, after the other."""
    operation, p, stream, zero = case.operation, case.p, cd.Stream(1), case.dtype.type(0)
    x, out = case.source_and_target
    steps: list[Callable[[Array], object]] = []  # each reads the array it is given and writes to out
    if operation.bias:
        bias = case.bias
        steps.append(lambda a: np.add(a, bias, out=out))
    if operation.relu:
        steps.append(lambda a: np.maximum(a, zero, out=out))
    steps.append(lambda a: cd.dropout(a, p, rng=stream, out=out))
    if operation.residual:
        residual = case.residual
        steps.append(lambda a: np.add(a, residual, out=out))
    first, *rest = steps

    def call() -> Array:
        first(x)
        for step in rest:
            step(out)
        return out

    return call
