"""Arrays of other libraries, in every protocol: used without copies, or refused with the argument's name."""

import array
import ctypes
import importlib
import importlib.util
import mmap
import re
import sys

import ml_dtypes
import numpy as np
import pytest
from conftest import writes_what_is_shared

import cdropout as cd
from cdropout import _kernels

pytestmark = pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")

VALUES = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
P = 0.4

# ---- objects with memory --------------------------------------------------------------------------------------------


class Dlpack:
    """An object with only the protocol DLPack 1."""

    def __init__(self, a, device=(1, 0)):
        self.a, self.device = a, device

    def __dlpack__(self, **keywords):
        return self.a.__dlpack__(**keywords)

    def __dlpack_device__(self):
        return self.device


class OldDlpack(Dlpack):
    """An object with the DLPack protocol before 1.0, whose capsules have no read-only flag."""

    def __dlpack__(self, stream=None):
        return self.a.__dlpack__()


class OldTensor(OldDlpack):
    """An object that also has __array__, as PyTorch's tensors do."""

    def __array__(self, dtype=None, copy=None):
        return self.a


class CopyingDlpack(Dlpack):
    """An object whose __dlpack__ returns copies, and raises BufferError for copy=False."""

    def __dlpack__(self, *, copy=None, **keywords):
        if copy is False:
            raise BufferError("only copies leave this house")
        return self.a.copy().__dlpack__(**keywords)


class Bfloat16Dlpack(Dlpack):
    """An object that exports uint16 as bfloat16, which NumPy cannot export."""

    def __dlpack__(self, **keywords):
        capsule = self.a.view(np.uint16).__dlpack__(**keywords)
        name = b"dltensor_versioned" if keywords.get("max_version") else b"dltensor"
        get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
        get_pointer.restype, get_pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
        # Version, context, deleter and flags take 32 bytes; the type's code follows 20 bytes of the tensor.
        at = get_pointer(capsule, name) + (32 if keywords.get("max_version") else 0) + 20
        ctypes.memmove(at, bytes([4]), 1)
        return capsule


class Interface:
    """An object with NumPy's array interface."""

    def __init__(self, a):
        self.a = a

    @property
    def __array_interface__(self):
        return self.a.__array_interface__


class OnlyArray:
    """An object with __array__, which does not say whether the memory is shared."""

    def __init__(self, a):
        self.a = a

    def __array__(self, dtype=None, copy=None):
        return self.a


def in_memory(make):
    """Return a function from values to (object whose memory holds them, array on this memory)."""

    def build(values):
        owner = make(values)
        memory = np.frombuffer(owner, values.dtype, values.size).reshape(values.shape)
        memory[...] = values
        return memoryview(owner).cast("B").cast(values.dtype.char, values.shape), memory

    return build


def of_array(wrap):
    def build(values):
        memory = values.copy()
        return wrap(memory), memory

    return build


def over_dlpack(values):
    need_dlpack_1()
    return of_array(Dlpack)(values)


def need_dlpack_1():
    if np.lib.NumpyVersion(np.__version__) < "2.1.0":
        pytest.skip("needs NumPy 2.1, for DLPack 1.0")


def ctypes_array(values):
    owner = (ctypes.c_float * values.shape[1] * values.shape[0])()
    memory = np.frombuffer(owner, np.float32).reshape(values.shape)
    memory[...] = values
    return owner, memory


def torch_tensor(values):
    torch = pytest.importorskip("torch")
    tensor = torch.from_numpy(values.copy())
    return tensor, tensor.numpy()


def transposed_torch_tensor(values):
    torch = pytest.importorskip("torch")
    tensor = torch.from_numpy(values.T.copy()).T
    return tensor, tensor.numpy()


# Functions from values of shape (4, 6) to (object that holds them, array on the object's memory).
WRITABLE = {
    "bytearray": in_memory(lambda values: bytearray(values.nbytes)),
    "array.array": in_memory(lambda values: array.array("f", bytes(values.nbytes))),
    "mmap": in_memory(lambda values: mmap.mmap(-1, values.nbytes)),
    "ctypes": ctypes_array,
    "array interface": of_array(Interface),
    "DLPack": over_dlpack,
    "old DLPack, with an array": of_array(OldTensor),
    "torch": torch_tensor,
    "transposed torch": transposed_torch_tensor,
}


@pytest.fixture(params=WRITABLE)
def foreign(request):
    """A foreign object that holds VALUES, and an array on its memory."""
    return WRITABLE[request.param](VALUES)


# ---- reading and writing --------------------------------------------------------------------------------------------


def test_a_foreign_array_is_read_without_a_copy(foreign):
    x, memory = foreign
    assert np.shares_memory(_kernels.as_array(x, "x"), memory)
    assert np.array_equal(cd.dropout(x, P, rng=1), cd.dropout(VALUES, P, rng=1))
    assert np.array_equal(memory, VALUES)


@writes_what_is_shared
def test_a_result_goes_into_a_foreign_array_and_that_comes_back(foreign):
    out, memory = foreign
    memory[...] = 7
    assert cd.dropout(VALUES, P, rng=1, out=out) is out
    assert np.array_equal(memory, cd.dropout(VALUES, P, rng=1))


MASK, NOISE = cd.draw_mask((4, 6), P, rng=1), cd.draw_noise((4, 6), 0.5, rng=1)
BIAS = np.linspace(-1, 1, 6, dtype=np.float32)
# name -> (x, out) -> the result
CALLS = {
    "dropout": lambda x, out: cd.dropout(x, P, rng=1, out=out),
    "dropout, a generator": lambda x, out: cd.dropout(x, P, rng=np.random.default_rng(1), out=out),
    "shared axes": lambda x, out: cd.dropout(x, P, rng=1, out=out, shared_axes=0),
    "Mask.apply": lambda x, out: MASK.apply(x, out),
    "Noise.multiply": lambda x, out: NOISE.multiply(x, out),
    "Noise.add": lambda x, out: NOISE.add(x, out),
    "relu_dropout": lambda x, out: cd.relu_dropout(x, P, rng=1, out=out),
    "bias_relu_dropout": lambda x, out: cd.bias_relu_dropout(x, BIAS, P, rng=1, out=out),
    "relu_dropout_backward": lambda x, out: cd.relu_dropout_backward(x, x, P, out=out),
    "dropout_add": lambda x, out: cd.dropout_add(x, x, P, rng=1, out=out),
    "bias_dropout_add": lambda x, out: cd.bias_dropout_add(x, BIAS, x, P, rng=1, out=out),
    "zoneout": lambda x, out: cd.zoneout(x, VALUES[::-1].copy(), P, rng=1, out=out),
    "dropout1d": lambda x, out: cd.dropout1d(x, P, rng=1, out=out),
    "feature_dropout": lambda x, out: cd.feature_dropout(x, P, rng=1, out=out),
    "feature_alpha_dropout": lambda x, out: cd.feature_alpha_dropout(x, P, rng=1, out=out),
    "locked_dropout": lambda x, out: cd.locked_dropout(x, P, rng=1, out=out),
    "drop_path": lambda x, out: cd.drop_path(x, P, rng=1, out=out, scale_by_keep=False),
    "alpha_dropout": lambda x, out: cd.alpha_dropout(x, P, rng=1, out=out),
    "gaussian_dropout": lambda x, out: cd.gaussian_dropout(x, P, rng=1, out=out),
    "gaussian_noise": lambda x, out: cd.gaussian_noise(x, P, rng=1, out=out),
}


@writes_what_is_shared
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_every_function_works_in_place_on_a_foreign_array(foreign, call):
    x, memory = foreign
    expected = VALUES.copy()
    call(expected, expected)
    assert np.array_equal(call(x, None), expected)
    assert np.array_equal(memory, VALUES)
    assert call(x, x) is x
    assert np.array_equal(memory, expected)


def test_squares_are_dropped_in_place_in_a_foreign_image():
    image = VALUES.reshape(1, 4, 6)
    expected = cd.drop_block2d(image, 0.3, block_size=2, rng=1)
    x, memory = over_dlpack(image)
    assert cd.drop_block2d(x, 0.3, block_size=2, rng=1, out=x) is x
    assert np.array_equal(memory, expected)


LAYERS = {
    "Dropout": lambda: cd.Dropout(P, rng=1, inplace=True),
    "Dropout, rescaled in evaluation": lambda: cd.Dropout(P, rng=1, inplace=True, rescale="eval"),
    "FeatureDropout": lambda: cd.FeatureDropout(P, rng=1, inplace=True),
    "AlphaDropout": lambda: cd.AlphaDropout(P, rng=1, inplace=True),
    "ReLUDropout": lambda: cd.ReLUDropout(P, rng=1, inplace=True),
    "BiasReLUDropout": lambda: cd.BiasReLUDropout(BIAS, P, rng=1, inplace=True),
    "GaussianDropout": lambda: cd.GaussianDropout(P, rng=1, inplace=True),
    "GaussianNoise": lambda: cd.GaussianNoise(0.5, rng=1, inplace=True),
}


@writes_what_is_shared
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_a_layer_in_place_works_on_a_foreign_array(foreign, make, training):
    x, memory = foreign
    layer, expected = make().train(training), VALUES.copy()
    layer.forward(expected)
    layer.backward(expected)
    layer = make().train(training)
    assert layer.forward(x) is x
    assert layer.backward(x) is x
    assert np.array_equal(memory, expected)


RESIDUAL_LAYERS = {
    "DropoutAdd": lambda inplace: cd.DropoutAdd(P, rng=1, inplace=inplace),
    "BiasDropoutAdd": lambda inplace: cd.BiasDropoutAdd(BIAS, P, rng=1, inplace=inplace),
    "Zoneout": lambda inplace: cd.Zoneout(P, rng=1, inplace=inplace),
}


@writes_what_is_shared
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("make", RESIDUAL_LAYERS.values(), ids=RESIDUAL_LAYERS)
def test_a_layer_of_two_inputs_takes_both_from_elsewhere(foreign, make, training):
    x, memory = foreign
    other = of_array(Dlpack)(VALUES[::-1])[0]
    plain = make(False).train(training)
    expected = plain.forward(VALUES, VALUES[::-1].copy())
    layer = make(True).train(training)
    assert layer.forward(x, other) is x
    assert np.array_equal(memory, expected)
    for gradient, expected_gradient in zip(layer.backward(x), plain.backward(memory), strict=True):
        assert np.array_equal(gradient, expected_gradient)


def test_a_linear_layer_takes_its_inputs_from_elsewhere():
    x = of_array(Dlpack)(VALUES)[0]
    for make in (cd.DropConnect, cd.FeatureDropoutLinear):
        plain, layer = make(6, 3, P, rng=1), make(6, 3, P, rng=1)
        y = plain.forward(VALUES)
        assert np.array_equal(layer.forward(x), y)
        assert np.array_equal(layer.backward(Dlpack(y)), plain.backward(y))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
def test_a_buffers_type_and_byte_order_are_its_own(dtype):
    values = VALUES.astype(dtype)
    x, out = memoryview(values.copy()), memoryview(np.zeros_like(values))
    assert x.format[-1] == values.dtype.char
    assert cd.dropout(x, P, rng=1, out=out) is out
    expected = cd.dropout(values, P, rng=1)
    assert np.array_equal(np.asarray(out), expected)
    assert cd.dropout(x, P, rng=1).dtype == expected.dtype


def test_strides_of_a_buffer_are_followed():
    memory = np.repeat(VALUES.ravel(), 2)
    every_other = memoryview(memory)[::2]
    cd.dropout(every_other, P, rng=1, out=every_other)
    assert np.array_equal(memory[::2], cd.dropout(VALUES.ravel(), P, rng=1))
    assert np.array_equal(memory[1::2], VALUES.ravel())


def test_a_call_lets_go_of_the_memory():
    memory = bytearray(VALUES.tobytes())
    view = memoryview(memory).cast("f")
    cd.dropout(view, P, rng=1, out=view)
    view.release()
    memory.extend(b"more")  # BufferError if the memory were still exported
    values = array.array("f", VALUES.ravel())
    cd.dropout(values, P, rng=1, out=values)
    values.append(1.0)


def test_views_of_one_buffer_that_partly_overlap_are_seen():
    memory = bytearray(4 * 25)
    x, out = memoryview(memory)[:96].cast("f"), memoryview(memory)[4:].cast("f")
    with pytest.raises(ValueError, match="out must be x itself or apart from it, got an out that partly overlaps x"):
        cd.dropout(x, P, rng=1, out=out)
    assert memory == bytes(100)


def test_lists_and_numbers_mean_what_they_meant():
    assert np.array_equal(cd.dropout([1.0, 2.0], 0.0), [1, 2])
    assert cd.dropout((np.float32(1), np.float32(3)), 0.0).dtype == np.float32
    assert cd.dropout(np.float32(3), 0.0).shape == ()
    assert cd.dropout(2.0, 0.0) == 2
    with pytest.raises(TypeError, match=r"x must be an array of float16, .*, got dtype int64"):
        cd.dropout([1, 2], 0.5)


# ---- masked arrays and other containers ------------------------------------------------------------------------------


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


LAYERS_OUT_OF_PLACE = {
    **{name: lambda make=make: turned(make(), False) for name, make in LAYERS.items()},
    "DropBlock2d": lambda: cd.DropBlock2d(0.5, block_size=1, rng=1),
    "DropBlock2d, in place": lambda: cd.DropBlock2d(0.5, block_size=1, rng=1, inplace=True),
}


def turned(layer, inplace):
    layer.inplace = inplace
    return layer


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("name", "container"),
    # A matrix has two dimensions, and DropBlock needs three.
    [(name, each) for name in LAYERS_OUT_OF_PLACE for each in CONTAINERS if "Block" not in name or each != "matrix"],
)
def test_a_layers_results_have_the_class_of_its_arguments(name, container, training):
    shape, make = ((1, 4, 6) if "Block" in name else (4, 6)), CONTAINERS[container]
    plain, layer = (LAYERS_OUT_OF_PLACE[name]().train(training) for _ in range(2))
    x, dy = (make(VALUES).reshape(shape) for _ in range(2))
    expected = plain.forward(VALUES.reshape(shape).copy())
    check_container(layer.forward(x), make(VALUES).reshape(shape), expected)
    expected = plain.backward(VALUES.reshape(shape).copy())
    check_container(layer.backward(dy), make(VALUES).reshape(shape), expected)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("container", CONTAINERS.values(), ids=CONTAINERS)
@pytest.mark.parametrize("make", RESIDUAL_LAYERS.values(), ids=RESIDUAL_LAYERS)
def test_a_layer_of_two_inputs_gives_results_of_their_class(make, container, training):
    plain, layer, other = make(False).train(training), make(False).train(training), VALUES[::-1].copy()
    expected = plain.forward(VALUES, other)
    for x, residual in ((container(VALUES), other), (VALUES, container(other))):
        check_container(turned(make(False).train(training), False).forward(x, residual), container(VALUES), expected)
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
        ("a", lambda: (layer.forward(VALUES), layer.backward(x))),
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


# ---- bfloat16 -------------------------------------------------------------------------------------------------------


def test_bfloat16_comes_over_dlpack():
    values = VALUES.astype(ml_dtypes.bfloat16)
    expected = cd.dropout(values, P, rng=1)
    x = Bfloat16Dlpack(values.copy())
    y = cd.dropout(x, P, rng=1)
    assert y.dtype == ml_dtypes.bfloat16
    assert y.tobytes() == expected.tobytes()
    need_dlpack_1()
    assert cd.dropout(x, P, rng=1, out=x) is x
    assert x.a.tobytes() == expected.tobytes()


def test_a_torch_tensor_of_bfloat16_is_worked_on_where_it_is():
    torch = pytest.importorskip("torch")
    tensor = torch.from_numpy(VALUES).to(torch.bfloat16)
    expected = cd.dropout(VALUES.astype(ml_dtypes.bfloat16), P, rng=1)
    assert cd.dropout(tensor, P, rng=1).tobytes() == expected.tobytes()
    cd.dropout(tensor, P, rng=1, out=tensor)
    assert tensor.view(torch.int16).numpy().tobytes() == expected.tobytes()


class Nowhere:
    """A finder that finds no module."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        raise ModuleNotFoundError(name)


def test_bfloat16_needs_ml_dtypes(monkeypatch):
    x = Bfloat16Dlpack(VALUES.astype(ml_dtypes.bfloat16))
    monkeypatch.delitem(sys.modules, "ml_dtypes")
    monkeypatch.setattr(sys, "meta_path", [Nowhere])
    with pytest.raises(TypeError, match="x must not be of bfloat16 where ml_dtypes is not installed"):
        cd.dropout(x, P, rng=1)


# ---- refused objects ------------------------------------------------------------------------------------------------


def frozen(values):
    values = values.copy()
    values.flags.writeable = False
    return values


READ_ONLY = {
    "bytes": (lambda values: memoryview(values.tobytes()).cast("f", values.shape), "memoryview"),
    "read-only memoryview": (lambda values: memoryview(values).toreadonly(), "memoryview"),
    "DLPack": (lambda values: Dlpack(frozen(values)), "Dlpack"),
    "array interface": (lambda values: Interface(frozen(values)), "Interface"),
    "DLPack that cannot tell": (lambda values: OldDlpack(values.copy()), "OldDlpack"),
}


@pytest.mark.parametrize("case", READ_ONLY.values(), ids=READ_ONLY)
def test_a_read_only_foreign_array_is_read_and_not_written(case):
    make, type_name = case
    if type_name == "Dlpack":
        need_dlpack_1()
    x = make(VALUES)
    dtype = _kernels.as_array(x, "x").dtype
    expected = cd.dropout(VALUES.astype(dtype), P, rng=1)
    assert np.array_equal(cd.dropout(x, P, rng=1), expected)
    stream, generator = cd.Stream(1), np.random.default_rng(1)
    before = generator.bit_generator.state
    layer = cd.Dropout(P, rng=stream, inplace=True)
    mask = cd.Mask(0, 0, P, VALUES.shape)
    for call in (
        lambda: cd.dropout(x, P, rng=stream, out=x),
        lambda: cd.dropout(VALUES.astype(dtype), P, rng=generator, out=x),
        lambda: cd.relu_dropout(x, P, rng=stream, out=x),
        lambda: cd.gaussian_noise(x, 1.0, rng=generator, out=x),
        lambda: mask.apply(x, x),
        lambda: layer.forward(x),
    ):
        message = rf"out must be writable, got a read-only {type_name} for \w+ of shape \(4, 6\)"
        with pytest.raises(ValueError, match=message):
            call()
    assert stream.position == 0
    assert generator.bit_generator.state == before
    assert np.array_equal(np.asarray(_kernels.as_array(x, "x"), np.float32), VALUES.astype(dtype).astype(np.float32))


READ_AND_REFUSE_JAX = """
import jax
import numpy as np
import cdropout as cd
from cdropout import _kernels

values = np.arange(1, 25, dtype=np.float32).reshape(4, 6)
for dtype in (jax.numpy.float32, jax.numpy.float16, jax.numpy.bfloat16):
    x, stream = jax.numpy.asarray(values, dtype), cd.Stream(1)
    array = _kernels.as_array(x, "x")
    assert array.ctypes.data == x.unsafe_buffer_pointer(), "a copy"
    y = cd.dropout(x, 0.4, rng=1)
    assert y.dtype == x.dtype
    assert y.tobytes() == cd.dropout(values.astype(x.dtype), 0.4, rng=1).tobytes()
    try:
        cd.dropout(x, 0.4, rng=stream, out=x)
    except ValueError as error:
        print(error)
    assert stream.position == 0
    assert np.array_equal(np.asarray(x, np.float32), values)
"""


def test_jax_arrays_are_read_where_they_are_and_never_written(run_python):
    # In a separate process, because Python warns of a fork in a process that has imported JAX.
    if importlib.util.find_spec("jax") is None:
        pytest.skip("needs jax")
    out = run_python("-c", READ_AND_REFUSE_JAX, env={"JAX_PLATFORMS": "cpu"}).stdout.decode().splitlines()
    assert out == ["out must be writable, got a read-only ArrayImpl for x of shape (4, 6)"] * 3


@pytest.mark.parametrize(
    ("device", "name"), [((2, 1), "CUDA:1"), ((8, 0), "Metal:0"), ((10, 3), "ROCm:3"), ((99, 0), "type 99:0")]
)
def test_a_foreign_device_is_named(device, name):
    stream = cd.Stream(1)
    far = Dlpack(VALUES.copy(), device)
    out = VALUES.copy()
    for argument, call in (
        ("x", lambda: cd.dropout(far, P, rng=stream, out=out)),
        ("out", lambda: cd.dropout(VALUES, P, rng=stream, out=far)),
        ("a", lambda: cd.Mask(0, 0, P, (4, 6)).apply(far)),
        ("x", lambda: cd.feature_dropout(far, P, rng=stream)),
        ("residual", lambda: cd.dropout_add(VALUES, far, P, rng=stream)),
    ):
        message = f"{argument} must be on the CPU, got a Dlpack on device {name}"
        with pytest.raises(ValueError, match=re.escape(message)):
            call()
    assert stream.position == 0
    assert np.array_equal(out, VALUES)
    assert np.array_equal(far.a, VALUES)


@pytest.mark.parametrize("device", [(1, 0), (3, 0), (11, 0), (13, 0)])
def test_memory_that_a_cpu_reaches_is_taken_wherever_it_was_allocated(device):
    assert np.array_equal(cd.dropout(Dlpack(VALUES, device), P, rng=1), cd.dropout(VALUES, P, rng=1))


def test_a_tensor_without_memory_is_refused_in_its_own_words():
    torch = pytest.importorskip("torch")
    for tensor, words in (
        (torch.ones(3, device="meta"), "meta"),
        (torch.ones(3, requires_grad=True), "requires grad"),
        (torch.ones(3).to_sparse(), "dense"),
    ):
        with pytest.raises(TypeError, match=f"x must be usable as an array, got Tensor: .*{words}"):
            cd.dropout(tensor, P)
        with pytest.raises(TypeError, match="out must be usable as an array, got Tensor: "):
            cd.dropout(np.ones(3, np.float32), P, out=tensor)


@pytest.mark.parametrize("make", [list, OnlyArray, CopyingDlpack, np.float32])
def test_what_does_not_share_its_memory_is_no_out(make):
    if make is CopyingDlpack:
        need_dlpack_1()
    out, stream = make(1.0 if make is np.float32 else VALUES.copy()), cd.Stream(1)
    with pytest.raises(TypeError, match="out must be .*got " + make.__name__):
        cd.dropout(VALUES, P, rng=stream, out=out)
    assert stream.position == 0


@pytest.mark.parametrize("make", [OnlyArray, CopyingDlpack])
def test_what_gives_copies_is_read_all_the_same(make):
    assert np.array_equal(cd.dropout(make(VALUES), P, rng=1), cd.dropout(VALUES, P, rng=1))


def test_a_foreign_array_that_does_not_fit_is_told_so_in_shapes_and_dtypes():
    with pytest.raises(ValueError, match=r"out must have the shape of x, got out of \(24,\) for x of \(4, 6\)"):
        cd.dropout(VALUES, P, out=array.array("f", VALUES.ravel()))
    with pytest.raises(ValueError, match="out must have the dtype of x, got out of float64 for x of float32"):
        cd.dropout(VALUES[0], P, out=array.array("d", [0] * 6))
    for x in (b"12345678", bytearray(8), array.array("i", [1]), Dlpack(np.arange(3))):
        with pytest.raises(TypeError, match=r"x must be an array of float16, .*, got dtype u?int"):
            cd.dropout(x, P)


class Capsuleless(Dlpack):
    """An object whose __dlpack__ returns None."""

    def __dlpack__(self, **keywords):
        return None


def test_a_broken_promise_of_dlpack_is_refused():
    x = Capsuleless(VALUES)
    for name, call in (("x", lambda: cd.dropout(x, P)), ("out", lambda: cd.dropout(VALUES, P, out=x))):
        with pytest.raises(TypeError, match=f"{name} must be usable as an array, got Capsuleless: "):
            call()


def test_a_buffer_that_is_gone_is_refused():
    view = memoryview(bytearray(8)).cast("f")
    view.release()
    with pytest.raises(TypeError, match=r"x must be usable as an array, got memoryview: .*released"):
        cd.dropout(view, P)
