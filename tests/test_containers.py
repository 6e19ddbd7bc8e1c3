"""Masked arrays, other subclasses of ndarray, and containers with labels: their class is kept, or they are refused."""

import importlib

import numpy as np
import pytest
from argument_checks import OF_A_MATRIX, VALUES, P
from array_objects import Interface, OnlyArray

import cdropout as cd

pytestmark = pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")

NOISE, BIAS = cd.draw_noise((4, 6), 0.5, rng=1), np.linspace(-1, 1, 6, dtype=np.float32)
# name -> (x, out) -> the result
CALLS = {
    **{name: lambda x, out, call=call: call(x, P, 1, out) for name, call in OF_A_MATRIX.items()},
    "dropout1d": lambda x, out: cd.dropout1d(x, P, rng=1, out=out),
    "feature_alpha_dropout": lambda x, out: cd.feature_alpha_dropout(x, P, rng=1, out=out),
    "drop_path, not scaled": lambda x, out: cd.drop_path(x, P, rng=1, out=out, scale_by_keep=False),
    "relu_dropout_backward": lambda x, out: cd.relu_dropout_backward(x, x, P, out=out),
    "bias_dropout_add, twice the same": lambda x, out: cd.bias_dropout_add(x, BIAS, x, P, rng=1, out=out),
}
LAYERS = {
    "Dropout": lambda: cd.Dropout(P, rng=1),
    "Dropout, rescaled in evaluation": lambda: cd.Dropout(P, rng=1, rescale="eval"),
    "FeatureDropout": lambda: cd.FeatureDropout(P, rng=1),
    "AlphaDropout": lambda: cd.AlphaDropout(P, rng=1),
    "ReLUDropout": lambda: cd.ReLUDropout(P, rng=1),
    "BiasReLUDropout": lambda: cd.BiasReLUDropout(BIAS, P, rng=1),
    "GaussianDropout": lambda: cd.GaussianDropout(P, rng=1),
    "GaussianNoise": lambda: cd.GaussianNoise(0.5, rng=1),
    "DropBlock2d": lambda: cd.DropBlock2d(0.5, block_size=1, rng=1),
    "DropBlock2d, in place": lambda: cd.DropBlock2d(0.5, block_size=1, rng=1, inplace=True),
}
RESIDUAL_LAYERS = {
    "DropoutAdd": lambda: cd.DropoutAdd(P, rng=1),
    "BiasDropoutAdd": lambda: cd.BiasDropoutAdd(BIAS, P, rng=1),
    "Zoneout": lambda: cd.Zoneout(P, rng=1),
}


class Tagged(np.ndarray):
    """A subclass that carries a unit as NumPy's documentation recommends, by __array_finalize__."""

    def __new__(cls, values, unit):
        array = np.asarray(values).view(cls)
        array.unit = unit
        return array

    def __array_finalize__(self, obj):
        self.unit = getattr(obj, "unit", None)


class Quantity(np.ndarray):
    """A subclass that defines NumPy's operations."""

    def __array_ufunc__(self, *arguments, **keywords):
        raise AssertionError("asked for an operation")


class Labelled(OnlyArray):
    """A container that is no ndarray and defines NumPy's operations, as pandas' do."""

    def __array_ufunc__(self, *arguments, **keywords):
        raise AssertionError("asked for an operation")


class Wrapping(OnlyArray):
    """A container to which NumPy converts its results."""

    def __array_wrap__(self, array, context=None, return_scalar=False):
        return Wrapping(array)


class LabelledInterface(Interface):
    """A container that defines NumPy's operations and shares its memory, as pint's do."""

    __array_ufunc__ = Labelled.__array_ufunc__


HIDDEN = np.eye(4, 6, dtype=bool)
CONTAINERS = {
    "masked": lambda values: np.ma.array(values.copy(), mask=HIDDEN, fill_value=5),
    "masked, without a mask": lambda values: np.ma.array(values.copy(), fill_value=5),
    "hard mask": lambda values: np.ma.array(values.copy(), mask=HIDDEN, hard_mask=True),
    "matrix": lambda values: np.asmatrix(values.copy()),
    "recarray": lambda values: values.copy().view(np.recarray),
    "subclass": lambda values: Tagged(values.copy(), "m"),
}


def check_container(y, x, expected):
    """Check that y has the class and attributes of NumPy's product with x, and the data of a plain array."""
    product = np.multiply(x, 1)
    assert type(y) is type(product)
    assert np.asarray(y).tobytes() == np.asarray(expected).tobytes()
    assert getattr(y, "unit", None) == getattr(product, "unit", None)
    if isinstance(x, np.ma.MaskedArray):
        assert (y.mask is np.ma.nomask) == (x.mask is np.ma.nomask)
        assert np.array_equal(np.ma.getmaskarray(y), np.ma.getmaskarray(x))
        assert (y.fill_value, y.hardmask) == (x.fill_value, x.hardmask)


@pytest.mark.parametrize("make", CONTAINERS.values(), ids=CONTAINERS)
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_new_result_has_the_class_of_numpys_multiplication(call, make):
    x = make(VALUES)
    check_container(call(x, None), x, call(VALUES, None))
    out = np.zeros_like(VALUES)
    assert call(x, out) is out
    assert np.array_equal(out, call(VALUES, None))
    expected = call(VALUES, None)
    assert call(x, x) is x
    check_container(x, make(VALUES), expected)


def test_a_mask_or_fill_value_of_a_result_is_not_that_of_the_argument():
    x = CONTAINERS["masked"](VALUES)
    y = cd.dropout(x, P, rng=1)
    y.mask[3, 5], y.fill_value = True, 7
    assert np.array_equal(x.mask, HIDDEN)
    assert x.fill_value == 5


def test_a_new_result_is_masked_where_any_operand_is():
    x, bias = np.ma.array(VALUES, mask=HIDDEN), np.ma.array(BIAS, mask=[0, 0, 0, 0, 0, 1])
    residual = np.ma.array(VALUES, mask=HIDDEN[::-1], fill_value=3)
    column = np.zeros((4, 6), bool)
    column[:, 5] = True
    for y, hidden in (
        (cd.dropout_add(x, residual, P, rng=1), HIDDEN | HIDDEN[::-1]),
        (cd.dropout_add(VALUES, residual, P, rng=1), HIDDEN[::-1]),
        (cd.dropout_add(Tagged(VALUES, "m"), residual, P, rng=1), HIDDEN[::-1]),
        (cd.bias_relu_dropout(VALUES, bias, P, rng=1), column),
        (cd.bias_dropout_add(x, bias, residual, P, rng=1), HIDDEN | HIDDEN[::-1] | column),
        (cd.zoneout(x, residual, P, rng=1), HIDDEN | HIDDEN[::-1]),
        (cd.relu_dropout_backward(VALUES, x, P), HIDDEN),
    ):
        assert np.array_equal(y.mask, hidden)
    out = np.ma.array(np.zeros_like(VALUES), mask=True)
    assert cd.dropout_add(x, residual, P, rng=1, out=out) is out
    assert np.array_equal(out.mask, HIDDEN | HIDDEN[::-1])
    assert cd.dropout(VALUES, P, rng=1, out=out) is out
    assert not out.mask.any()
    assert type(cd.dropout(np.ma.masked, P)) is np.ma.MaskedArray


def test_a_result_for_a_memory_map_is_no_memory_map(tmp_path):
    x = np.memmap(tmp_path / "x", np.float32, "w+", shape=(4, 6))
    assert type(cd.dropout(x, P)) is type(np.multiply(x, 2)) is np.ndarray
    assert type(cd.dropout(np.float32(1), P)) is np.ndarray


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("name", "container"),
    # A matrix has two dimensions, and DropBlock needs three.
    [(name, each) for name in LAYERS for each in CONTAINERS if "Block" not in name or each != "matrix"],
)
def test_a_layers_results_have_the_class_of_its_arguments(name, container, training):
    shape, make = ((1, 4, 6) if "Block" in name else (4, 6)), CONTAINERS[container]
    plain, layer = (LAYERS[name]().train(training) for _ in range(2))
    x, dy = (make(VALUES).reshape(shape) for _ in range(2))
    expected = plain.forward(VALUES.reshape(shape).copy())
    check_container(layer.forward(x), make(VALUES).reshape(shape), expected)
    expected = plain.backward(VALUES.reshape(shape).copy())
    check_container(layer.backward(dy), make(VALUES).reshape(shape), expected)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("container", CONTAINERS.values(), ids=CONTAINERS)
@pytest.mark.parametrize("make", RESIDUAL_LAYERS.values(), ids=RESIDUAL_LAYERS)
def test_a_layer_of_two_inputs_gives_results_of_their_class(make, container, training):
    plain, layer, other = make().train(training), make().train(training), VALUES[::-1].copy()
    expected = plain.forward(VALUES, other)
    for x, residual in ((container(VALUES), other), (VALUES, container(other))):
        check_container(make().train(training).forward(x, residual), container(VALUES), expected)
    layer.forward(VALUES, other)
    for dx, expected_dx in zip(layer.backward(container(VALUES)), plain.backward(VALUES), strict=True):
        check_container(dx, container(VALUES), expected_dx)


def test_masked_elements_are_0_in_the_gradient_of_a_bias():
    values = VALUES.copy()
    values[HIDDEN] = np.nan
    for layer in (cd.BiasReLUDropout(np.full(6, 9, np.float32), 0.0), cd.BiasDropoutAdd(BIAS, 0.0)):
        layer.forward(*([VALUES] * (1 + isinstance(layer, cd.BiasDropoutAdd))))
        layer.backward(np.ma.array(values, mask=HIDDEN))
        assert layer.grads[0] == pytest.approx(np.where(HIDDEN, 0, VALUES).sum(axis=0), rel=1e-5)


def test_matrix_products_keep_classes_and_refuse_masks():
    weight = np.ones((6, 3), np.float32)
    for call in (
        lambda x: cd.drop_connect(x, weight, None, P, rng=1),
        lambda x: cd.drop_connect_moments(x, weight, None, P)[1],
        lambda x: cd.feature_dropout_linear(x, weight, None, P, rng=1),
        lambda x: cd.DropConnect(6, 3, P, rng=1).forward(x),
        lambda x: cd.DropConnect(6, 3, P, rng=1, relu=True, inference="gaussian").eval().forward(x),
        lambda x: cd.FeatureDropoutLinear(6, 3, P, rng=1).forward(x),
        lambda x: cd.FeatureDropoutLinear(6, 3, P, rng=1).eval().forward(x),
    ):
        y = call(Tagged(VALUES, "m"))
        assert (type(y), y.unit) == (Tagged, "m")
        assert np.array_equal(y, call(VALUES))
        with pytest.raises(TypeError, match=r"x must not be a masked array, .* got MaskedArray: pass x\.filled\(0\)"):
            call(np.ma.array(VALUES, mask=HIDDEN))
    for make in (cd.DropConnect, cd.FeatureDropoutLinear):
        layer = make(6, 3, P, rng=1)
        y = layer.forward(VALUES)
        assert type(layer.backward(Tagged(y, "m"))) is Tagged
        layer.forward(VALUES)
        with pytest.raises(TypeError, match="dy must not be a masked array"):
            layer.backward(np.ma.array(y))


@pytest.mark.promise("bad-arguments")
@pytest.mark.parametrize("make", [lambda v: v.view(Quantity), Labelled, Wrapping, LabelledInterface])
def test_a_container_that_defines_numpys_operations_is_refused(make):
    x, stream = make(VALUES.copy()), cd.Stream(1)
    weight, mask, layer = np.ones((6, 3), np.float32), cd.draw_mask((4, 6), P, rng=1), cd.Dropout(P, rng=stream)
    for name, call in (
        ("x", lambda: cd.dropout(x, P, rng=stream)),
        ("a", lambda: mask.apply(x)),
        ("a", lambda: NOISE.add(x)),
        ("residual", lambda: cd.dropout_add(VALUES, x, P, rng=stream)),
        ("previous", lambda: cd.zoneout(VALUES, x, P, rng=stream)),
        ("y", lambda: cd.relu_dropout_backward(VALUES, x, P)),
        ("x", lambda: cd.drop_block2d(x, P, block_size=1, rng=stream)),
        ("x", lambda: cd.feature_dropout(x, P, rng=stream)),
        ("x", lambda: cd.drop_connect(x, weight, None, P, rng=stream)),
        ("x", lambda: layer.forward(x)),
        ("x", lambda: cd.Dropout(P).eval().forward(x)),
        ("dy", lambda: (layer.forward(VALUES), layer.backward(x))),
    ):
        with pytest.raises(TypeError) as caught:
            call()
        assert str(caught.value).startswith(f"{name} must be a plain array, got {type(x).__name__}, which defines ")
        assert str(caught.value).endswith(f": pass np.asarray({name})")
    assert stream.position == 4096  # of the one good pass
    expected = cd.dropout(VALUES, P, rng=1)
    assert np.array_equal(cd.dropout(np.asarray(x), P, rng=1), expected)


def test_labelled_arrays_of_other_libraries_are_refused():
    frames = {
        "pandas": lambda pandas: [pandas.DataFrame(VALUES), pandas.Series(VALUES[0])],
        "xarray": lambda xarray: [xarray.DataArray(VALUES, dims=["row", "column"])],
        "astropy.units": lambda units: [VALUES * units.m],
        "dask.array": lambda array: [array.from_array(VALUES)],
    }
    n_libraries = 0
    for name, make in frames.items():
        try:
            library = importlib.import_module(name)
        except ImportError:
            continue
        n_libraries += 1
        for x in make(library):
            with pytest.raises(
                TypeError, match=rf"x must be a plain array, got {type(x).__name__}, .*np\.asarray\(x\)"
            ):
                cd.dropout(x, P)
    if not n_libraries:
        pytest.skip("needs pandas, xarray, astropy or dask")
