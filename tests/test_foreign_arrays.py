"""Arrays of other libraries, in every protocol: used without copies, or refused with the argument's name."""

import array
import importlib.util
import mmap
import re
import sys

import ml_dtypes
import numpy as np
import pytest
from argument_checks import OF_A_MATRIX, VALUES, P
from array_objects import Bfloat16Dlpack, Dlpack, Interface, OldDlpack, OldTensor, Versioned, frozen, in_ctypes
from conftest import writes_what_is_shared

import cdropout as cd
from cdropout import _kernels

# ---- objects with memory --------------------------------------------------------------------------------------------


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
    owner = in_ctypes(values)
    return owner, np.frombuffer(owner, np.float32).reshape(values.shape)


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


BIAS = np.linspace(-1, 1, 6, dtype=np.float32)
# name -> (x, out) -> the result
CALLS = {
    **{name: lambda x, out, call=call: call(x, P, 1, out) for name, call in OF_A_MATRIX.items()},
    "dropout, a generator": lambda x, out: cd.dropout(x, P, rng=np.random.default_rng(1), out=out),
    "relu_dropout_backward": lambda x, out: cd.relu_dropout_backward(x, x, P, out=out),
    "dropout_add, twice the same": lambda x, out: cd.dropout_add(x, x, P, rng=1, out=out),
    "bias_dropout_add, twice the same": lambda x, out: cd.bias_dropout_add(x, BIAS, x, P, rng=1, out=out),
    "dropout1d": lambda x, out: cd.dropout1d(x, P, rng=1, out=out),
    "feature_alpha_dropout": lambda x, out: cd.feature_alpha_dropout(x, P, rng=1, out=out),
    "drop_path, unscaled": lambda x, out: cd.drop_path(x, P, rng=1, out=out, scale_by_keep=False),
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


def test_lists_and_numbers_mean_what_they_meant():
    assert np.array_equal(cd.dropout([1.0, 2.0], 0.0), [1, 2])
    assert cd.dropout((np.float32(1), np.float32(3)), 0.0).dtype == np.float32
    assert cd.dropout(np.float32(3), 0.0).shape == ()
    assert cd.dropout(2.0, 0.0) == 2
    with pytest.raises(TypeError, match=r"x must be an array of float16, .*, got dtype int64"):
        cd.dropout([1, 2], 0.5)


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
    need_dlpack_1()
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


def test_of_a_capsule_of_another_major_version_only_the_version_is_read():
    need_dlpack_1()
    x = VALUES.copy()
    for major in (0, 2, 2**32 - 1):
        for poisoned in (False, True):
            array = Versioned(x, major=major, poisoned=poisoned)
            message = f"must be usable as an array, got Versioned: it must be of DLPack version 1, got version {major}"
            with pytest.raises(TypeError, match=f"^x {message}"):
                cd.dropout(array, P, rng=1)
            with pytest.raises(TypeError, match=f"^out {message}"):
                cd.dropout(VALUES, P, rng=1, out=array)
            assert array.tensor.code == (4 if poisoned else 2)  # in version 1, bfloat16 is replaced by uint16
    assert np.array_equal(x, VALUES)


def test_the_flags_of_a_capsule_are_kept():
    need_dlpack_1()
    expected, out = cd.dropout(VALUES, P, rng=1), VALUES.copy()
    for flags in (0, 1, 2, 3):
        assert np.array_equal(cd.dropout(Versioned(VALUES.copy(), flags=flags), P, rng=1), expected)
    stream = cd.Stream(1)
    with pytest.raises(ValueError, match=r"^out must be writable, got a read-only Versioned"):
        cd.dropout(VALUES, P, rng=stream, out=Versioned(out, flags=1))
    with pytest.raises(ValueError, match=r"^out must share its memory, got a Versioned that exports a copy"):
        cd.dropout(VALUES, P, rng=stream, out=Versioned(out, flags=2))
    assert stream.position == 0
    assert np.array_equal(out, VALUES)
    assert isinstance(cd.dropout(VALUES, P, rng=stream, out=Versioned(out)), Versioned)
    assert np.array_equal(out, expected)


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


def test_a_tensor_with_the_negative_bit_is_read_with_its_sign_and_refused_as_out():
    torch = pytest.importorskip("torch")
    negative = torch.complex(torch.ones(4), torch.ones(4)).conj().imag
    assert np.array_equal(cd.dropout(negative, 0.0), [-1] * 4)
    assert np.array_equal(cd.dropout_add(np.zeros(4, np.float32), negative, 0.0), [-1] * 4)
    assert np.array_equal(cd.Dropout(0.0).forward(negative), [-1] * 4)
    with pytest.raises(ValueError, match="out must hold its values as they are, got a Tensor with the negative bit"):
        cd.dropout(torch.ones(4), 0.0, out=negative)
    assert negative.tolist() == [-1] * 4


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
def test_a_tensor_without_memory_is_refused():
    torch = pytest.importorskip("torch")
    from torch._subclasses.fake_tensor import FakeTensorMode

    freed = torch.ones(4)
    freed.untyped_storage().resize_(0)
    with FakeTensorMode():
        fake = torch.ones(4)
    for tensor in (freed, fake, torch._efficientzerotensor((4,))):
        for name, call in (
            ("x", lambda tensor: cd.dropout(tensor, 0.5)),
            ("residual", lambda tensor: cd.dropout_add(np.ones(4, np.float32), tensor)),
            ("a", lambda tensor: cd.draw_mask(4, 0.5).apply(tensor)),
            ("out", lambda tensor: cd.dropout(np.ones(4, np.float32), 0.5, out=tensor)),
        ):
            with pytest.raises(ValueError, match=rf"^{name} must have memory, got a \w+ without, of shape \(4,\)"):
                call(tensor)
    assert cd.dropout(torch.ones(0, 3), 0.5).shape == (0, 3)
