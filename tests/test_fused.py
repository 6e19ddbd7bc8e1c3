"""Fused operations: one pass over memory, and the bits of the unfused sequence."""

import inspect
import itertools
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
import reference
from array_objects import bits, normals
from conftest import measures_the_process, switches_settings
from limits import by_every_thread_count, limits

import cdropout as cd
from cdropout import _kernels

SHAPES = ((7, 5), (100, 64), (33, 200), (3, 4, 130), (1, 1), (0, 5), (5000, 3))


# The results of dropout, add and maximum in sequence, for each operation with a bias, ReLU or residual.
UNFUSED = {
    "relu_dropout": lambda x, bias, residual, p: cd.dropout(np.maximum(x, 0), p, rng=5),
    "bias_relu_dropout": lambda x, bias, residual, p: cd.dropout(np.maximum(x + bias, 0), p, rng=5),
    "dropout_add": lambda x, bias, residual, p: cd.dropout(x, p, rng=5) + residual,
    "bias_dropout_add": lambda x, bias, residual, p: cd.dropout(x + bias, p, rng=5) + residual,
}
OPERATIONS = tuple(UNFUSED)


def run_fused(name, x, bias, residual, p, out=None):
    """Call the function of the given name with the arrays that it takes."""
    function, arrays = getattr(cd, name), {"x": x, "bias": bias, "residual": residual}
    taken = {
        argument: array for argument, array in arrays.items() if argument in inspect.signature(function).parameters
    }
    return function(**taken, p=p, rng=5, out=out)


def test_every_fused_operation_of_the_catalog_is_tested_here():
    # zoneout, alpha dropout, noise and gradients have separate tests.
    others = {"apply_mask", "fill_scaled", "choose", "relu_dropout_backward", "alpha_dropout"}
    assert set(_kernels.OPERATIONS) - others - {"multiply_by_noise", "add_noise"} == set(UNFUSED)


@pytest.mark.promise("fused-operations")
@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_fused_operation_has_the_bits_of_the_unfused_sequence(isa, dtype, name):
    for shape, p in itertools.product(SHAPES, (0.0, 0.1, 0.5, 1.0)):
        x, residual, bias = normals(shape, dtype), normals(shape, dtype, 1), normals(shape[-1], dtype, 2)
        unfused = UNFUSED[name](x, bias, residual, p)
        assert bits(run_fused(name, x, bias, residual, p)) == bits(unfused), (shape, p)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_the_16_bit_types_are_computed_in_float32_and_rounded_once(isa, dtype, name):
    shape = (33, 200)
    x, residual, bias = normals(shape, dtype), normals(shape, dtype, 1), normals(shape[-1], dtype, 2)
    fused = run_fused(name, x, bias, residual, 0.3)
    value = x.astype(np.float32)
    if "bias" in name:
        value = value + bias.astype(np.float32)
    if "relu" in name:
        value = np.maximum(value, 0)
    scale = reference.rounded_to_bits(1 / 0.7, reference.SCALE_BITS[np.dtype(dtype).name])
    value = cd.draw_mask(shape, 0.3, rng=5).apply(value, scale=scale)
    if "add" in name:
        value = value + residual.astype(np.float32)
    assert bits(fused) == bits(value.astype(dtype))


@switches_settings
@pytest.mark.parametrize("name", OPERATIONS)
def test_in_place_other_layouts_threads_and_streaming_stores_change_no_bit(isa, name):
    x, residual, bias = normals((300, 70), np.float32), normals((300, 70), np.float32, 1), normals(70, np.float32, 2)
    expected = bits(run_fused(name, x, bias, residual, 0.3))
    for make in (np.copy, np.asfortranarray, lambda a: a.astype(">f4"), lambda a: np.repeat(a, 2, axis=1)[:, ::2]):
        a, r = make(x), make(residual)
        assert bits(run_fused(name, a, bias, r, 0.3)) == expected
        result = run_fused(name, a, bias, r, 0.3, out=np.empty_like(a))
        assert bits(result.astype("=f4")) == expected
        target = make(x)
        assert run_fused(name, target, bias, r, 0.3, out=target) is target
        assert bits(target.astype("=f4")) == expected
    with limits(max_cached_bytes=0):
        assert set(by_every_thread_count(lambda: bits(run_fused(name, x, bias, residual, 0.3)), (1, 3))) == {expected}


@measures_the_process
@pytest.mark.parametrize("name", OPERATIONS)
def test_checking_the_arguments_allocates_no_result(name):
    x, bias = np.ones((1000, 1000), np.float32), np.ones(1000, np.float32)
    tracemalloc.start()
    try:
        _kernels.check_fused(name, x, bias, x, 0.5, None)
        assert tracemalloc.get_traced_memory()[1] < x.nbytes / 10
    finally:
        tracemalloc.stop()


def test_a_sum_may_be_written_over_its_residual():
    x, residual = normals((40, 50), np.float32), normals((40, 50), np.float32, 1)
    expected = bits(cd.dropout_add(x, residual, 0.3, rng=5))
    assert cd.dropout_add(x, residual, 0.3, rng=5, out=residual) is residual
    assert bits(residual) == expected


def test_nan_goes_through_relu_where_it_is_kept():
    x = np.full(1000, np.nan, np.float32)
    y = cd.relu_dropout(x, 0.5, rng=1)
    kept = cd.draw_mask(1000, 0.5, rng=1).keep()
    assert np.isnan(y[kept]).all()
    assert not y[~kept].view(np.uint32).any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
def test_relus_gradient_needs_nothing_but_the_output(isa, dtype):
    for n_elems in (0, 1, 63, 64, 1001):
        x, dy = normals(n_elems, dtype), normals(n_elems, dtype, 3)
        y = cd.relu_dropout(x, 0.25, rng=2)
        dx = cd.relu_dropout_backward(dy, y, 0.25)
        expected = cd.draw_mask(n_elems, 0.25, rng=2).apply(dy)
        expected[x <= 0] = 0
        assert bits(dx) == bits(expected)
        assert cd.relu_dropout_backward(dy, y, 0.25, out=dy) is dy
        assert bits(dy) == bits(expected)


@pytest.mark.parametrize("layer_type", [cd.ReLUDropout, cd.BiasReLUDropout, cd.DropoutAdd, cd.BiasDropoutAdd])
@pytest.mark.parametrize("training", [True, False])
def test_gradients_of_the_fused_layers_equal_numeric_ones(layer_type, training):
    # Gradients of sum(sin(y)) by central differences in float64; no input is near ReLU's corner.
    x, residual, bias = (normals(shape, np.float64, seed) for shape, seed in (((6, 7), 0), ((6, 7), 1), ((7,), 2)))
    has_bias, has_residual = "Bias" in layer_type.__name__, "Add" in layer_type.__name__
    stream = cd.Stream(4)
    start = stream.state
    layer = layer_type(*([bias] if has_bias else []), 0.4, rng=stream).train(training)
    inputs = (x, residual) if has_residual else (x,)

    def loss():
        stream.state = start
        return np.sin(layer(*inputs)).sum()

    loss()
    stream.state = start
    gradients = layer.backward(np.cos(layer(*inputs)))
    gradients = gradients if has_residual else (gradients,)
    for array, gradient in zip(inputs, gradients, strict=True):
        assert np.abs(gradient - reference.numeric_gradient(loss, array)).max() < 1e-6
    if has_bias:
        assert layer.params[0] is bias
        assert np.abs(layer.grads[0] - reference.numeric_gradient(loss, bias)).max() < 1e-6
    assert len(layer.params) == len(layer.grads) == has_bias
    assert repr(layer) == f"{layer_type.__name__}(p=0.4)"


def test_fused_layers_work_in_place_and_say_when_nothing_came_before():
    x, residual, bias = normals((6, 7), np.float32), normals((6, 7), np.float32, 1), normals(7, np.float32, 2)
    for layer, others in (
        (cd.ReLUDropout(0.4, rng=1, inplace=True), ()),
        (cd.BiasReLUDropout(bias, 0.4, rng=1, inplace=True), ()),
        (cd.DropoutAdd(0.4, rng=1, inplace=True), (residual,)),
        (cd.BiasDropoutAdd(bias, 0.4, rng=1, inplace=True), (residual,)),
    ):
        with pytest.raises(RuntimeError, match="backward must follow a forward pass"):
            layer.backward(x)
        for mode in (True, False):
            a = x.copy()
            assert layer.train(mode)(a, *others) is a


def test_in_place_the_residual_may_be_the_input():
    x, bias = normals((6, 7), np.float32), normals(7, np.float32, 2)
    for layer in (cd.BiasDropoutAdd(bias, 0.4, rng=1), cd.DropoutAdd(0.4, rng=1)):
        for mode in (True, False):
            expected, a = layer.train(mode)(x, x), x.copy()
            layer.inplace, layer.rng = True, 1
            assert np.array_equal(layer(a, a), expected)
            layer.inplace, layer.rng = False, 1
