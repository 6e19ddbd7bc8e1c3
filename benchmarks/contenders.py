"""Everybody who takes part, in one table: to add a contender, write how it is made and add an entry to `CONTENDERS`.

A contender is made for a case and returns the call to be timed; the call returns its result. Whatever a call does not
need to do each time (buffers, compilation, copies into another library's arrays) is done when it is made.
"""

import functools
import importlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from cases import DTYPES, HALF_DTYPES, WIDE_DTYPES, Array, Case, Operation, Skip
from result_check import Expectation, expect_dropout

import cdropout as cd
from cdropout.bench.numpy_code import WRITE_UPS, best_dropout, write_up_dropout

Call = Callable[[], Any]
_UNCHANGED = Operation("unchanged")
_RELU = Operation("relu", relu=True)
_ADD = Operation("add", residual=True)


@dataclass(frozen=True)
class Contender:
    """One way to do one operation.

    Attributes
    ----------
    operation : str
        A name in `cases.OPERATIONS`.
    code : str
        What it runs, for a reader of the table.
    make : callable
        Takes a case and returns the call to be timed; may raise `Skip`.
    name : str
        What `--contenders` and the tables call it. It may stand in several operations, once in each for a dtype.
    label : str
        What the chart calls it, if it is to be there.
    dtypes : tuple of str
        Those it is made for.
    modules : tuple of str
        What must be installed for it.
    threaded : bool
        Whether it uses the threads it is given. One that does not is measured on one thread only.
    is_floor : bool
        Whether ratios are taken to it. Each operation has one floor for a dtype.
    is_slow_to_build : bool
        Whether `--quick` has no time for it.
    redraws : bool
        Whether every call must drop other elements.
    expect : callable
        Takes a case and returns what the result must be; may raise `Skip`.
    read : callable
        Turns what the call returned into an array.

    """

    operation: str
    code: str
    make: Callable[[Case], Call]
    name: str
    label: str = ""
    dtypes: Sequence[str] = WIDE_DTYPES
    modules: tuple[str, ...] = ()
    threaded: bool = False
    is_floor: bool = False
    is_slow_to_build: bool = False
    redraws: bool = True
    expect: Callable[[Case], Expectation] = expect_dropout
    read: Callable[[Any], Array] = np.asarray

    def load(self) -> None:
        """Import what the contender needs.

        Raises
        ------
        Skip
            Where it is not installed, or does not load.

        """
        for module in self.modules:
            try:
                importlib.import_module(module)
            except ModuleNotFoundError:
                raise Skip(f"{module} is not installed") from None
            except Exception as error:  # a broken installation of a peer must not end the sweep
                raise Skip(f"{module} does not load: {first_line(error)}") from None


def first_line(error: BaseException) -> str:
    """Return an error's type and the first line of its message."""
    return f"{type(error).__name__}: {error}".splitlines()[0].strip()


# Floors. A floor drops nothing, so its result is checked for p = 0.


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
    """Scale into a ready array."""
    x, y, scale = case.x, case.y, case.scale
    return lambda: np.multiply(x, scale, out=y)


def multiply_in_place(case: Case) -> Call:
    """Scale in place."""
    work, scale = case.work, case.scale
    return lambda: np.multiply(work, scale, out=work)


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
    """Take the maximum with 0 into a ready array."""
    x, y, zero = case.x, case.y, case.dtype.type(0)
    return lambda: np.maximum(x, zero, out=y)


def rectify_in_place(case: Case) -> Call:
    """Take the maximum with 0 in place."""
    work, zero = case.work, case.dtype.type(0)
    return lambda: np.maximum(work, zero, out=work)


def add_residual(case: Case) -> Call:
    """Add two arrays into a third."""
    x, y, residual = case.x, case.y, case.residual
    return lambda: np.add(x, residual, out=y)


# cdropout.


def cdropout(case: Case) -> Call:
    """Drop into a ready array."""
    x, y, p, stream, axes = case.x, case.y, case.p, cd.Stream(1), case.operation.shared_axes
    if axes:
        return lambda: cd.dropout(x, p, rng=stream, out=y, shared_axes=axes)
    return lambda: cd.dropout(x, p, rng=stream, out=y)


def cdropout_backward(case: Case) -> Call:
    """Apply a mask once more."""
    x, y, mask = case.x, case.y, cd.draw_mask(case.shape, case.p, rng=1)
    return lambda: mask.apply(x, out=y)


def cdropout_in_place(case: Case) -> Call:
    """Drop in place."""
    work, p, stream = case.work, case.p, cd.Stream(1)
    return lambda: cd.dropout(work, p, rng=stream, out=work)


def cdropout_backward_in_place(case: Case) -> Call:
    """Apply a mask in place."""
    work, mask = case.work, cd.draw_mask(case.shape, case.p, rng=1)
    return lambda: mask.apply(work, out=work)


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
        if not hasattr(cd, name):
            raise Skip(f"this cdropout has no {name}")
        function, p, stream = getattr(cd, name), case.p, cd.Stream(1)
        x, out = (case.work, case.work) if case.operation.in_place else (case.x, case.y)
        others = (case.bias,) * case.operation.bias + (case.residual,) * case.operation.residual
        return lambda: function(x, *others, p, rng=stream, out=out)

    return make


def bias_relu_layer(case: Case) -> Call:
    """Go forward through the layer, in place."""
    work, layer = case.work, cd.BiasReLUDropout(case.bias, case.p, rng=1, inplace=True)
    return lambda: layer.forward(work)


def expect_relu_gradient(case: Case) -> Expectation:
    """Expect the gradient scaled where the output is positive, and 0 elsewhere: a share that is known exactly."""
    return Expectation(np.count_nonzero(case.relu_output <= 0) / case.n_elems, 1 / (1 - case.p), _UNCHANGED)


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
    x, out = (case.work, case.work) if operation.in_place else (case.x, case.y)
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


# NumPy.


def numpy_best(case: Case) -> Call:
    """Draw float32 numbers with the fastest generator into a ready buffer, compare, and multiply twice."""
    x, out = (case.work, case.work) if case.operation.in_place else (case.x, case.y)
    return best_dropout(x, out, case.p)


def numpy_best_backward(case: Case) -> Call:
    """Multiply by a stored mask and the scale."""
    rng = np.random.Generator(np.random.SFC64(1))
    x, y, scale = case.x, case.y, case.scale
    keep = rng.random(case.shape, np.float32) >= np.float32(case.p)

    def call() -> Array:
        np.multiply(x, keep, out=y)
        np.multiply(y, scale, out=y)
        return y

    return call


def nearest_p(p: float, n_bits: int) -> float:
    """Return the probability nearest to p that a comparison of so many random bits can have.

    Raises
    ------
    Skip
        Where that is 0 or 1.

    """
    nearest = round(p * 2**n_bits) / 2**n_bits
    if not 0 < nearest < 1:
        raise Skip(f"{n_bits} bits cannot tell p = {p:g} from {nearest:g}")
    return nearest


def expect_bits(n_bits: int) -> Callable[[Case], Expectation]:
    """Expect dropout with the p that so many bits allow."""
    return lambda case: expect_dropout(case, nearest_p(case.p, n_bits))


def numpy_bytes(case: Case) -> Call:
    """Compare random bytes: an eighth of the work of drawing floats, and p in steps of 1/256."""
    rng = np.random.Generator(np.random.SFC64(1))
    p = nearest_p(case.p, 8)
    x, y, threshold, scale = case.x, case.y, np.uint8(p * 256), case.dtype.type(1 / (1 - p))
    keep = np.empty(case.n_elems, bool)

    def call() -> Array:
        np.greater_equal(np.frombuffer(rng.bytes(keep.size), np.uint8), threshold, out=keep)
        np.multiply(x, keep, out=y)
        np.multiply(y, scale, out=y)
        return y

    return call


def write_up(name: str) -> Callable[[Case], Call]:
    """Make a write-up's forward pass."""
    return lambda case: write_up_dropout(name, case.x, case.p)


def write_up_backward(name: str) -> Callable[[Case], Call]:
    """Make a write-up's backward pass: a product with the stored mask."""
    draw, divides_after, _ = WRITE_UPS[name]

    def make(case: Case) -> Call:
        dy, keep_prob = case.x, 1 - case.p
        mask = draw(dy.shape, keep_prob)
        if divides_after:
            return lambda: dy * mask / keep_prob
        return lambda: dy * mask

    return make


def mkl_bytes(case: Case) -> Call:
    """Compare 16-bit numbers of MKL's vectorised Mersenne Twister, its fastest way from random bits to decisions."""
    import mkl_random

    generator = mkl_random.MKLRandomState(1, brng="SFMT19937")
    p = nearest_p(case.p, 16)
    x, y, threshold, scale = case.x, case.y, np.uint16(p * 65536), case.dtype.type(1 / (1 - p))
    keep = np.empty(case.n_elems, bool)

    def call() -> Array:
        np.greater_equal(np.frombuffer(generator.bytes(2 * keep.size), np.uint16), threshold, out=keep)
        np.multiply(x, keep, out=y)
        np.multiply(y, scale, out=y)
        return y

    return call


# Other libraries.


def torch_tensor(array: Array) -> Any:
    """Return a tensor that shares the array's memory."""
    import torch

    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def read_torch(tensor: Any) -> Array:
    """Return an array that shares the tensor's memory."""
    import torch

    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view("bfloat16")
    return tensor.numpy()


def torch_eager(case: Case) -> Call:
    """Call PyTorch's function."""
    import torch

    torch.set_num_threads(case.n_threads)
    dropout, p = torch.nn.functional.dropout, case.p
    if case.operation.in_place:
        work = torch_tensor(case.work)
        return lambda: dropout(work, p, inplace=True)
    x = torch_tensor(case.x)
    return lambda: dropout(x, p)


def torch_backward(case: Case) -> Call:
    """Let PyTorch's autograd go back through one forward pass, again and again."""
    import torch

    torch.set_num_threads(case.n_threads)
    dy = torch_tensor(case.x)
    x = torch.zeros_like(dy, requires_grad=True)
    y = torch.nn.functional.dropout(x, case.p)
    return lambda: torch.autograd.grad(y, x, dy, retain_graph=True)[0]


@functools.cache
def compiled_dropout(p: float) -> Callable[[Any], Any]:
    """Let PyTorch's compiler have its function, once for all lengths."""
    import torch

    # Every dtype and number of threads is another compilation of the same function; the default allows 8.
    torch._dynamo.config.cache_size_limit = 64
    dropout = torch.nn.functional.dropout
    return torch.compile(lambda x: dropout(x, p, True), dynamic=True)


def torch_compiled(case: Case) -> Call:
    """Call PyTorch's function, compiled for the CPU."""
    import torch

    torch.set_num_threads(case.n_threads)
    x, dropout = torch_tensor(case.x), compiled_dropout(case.p)
    dropout(x)
    return lambda: dropout(x)


@functools.cache
def jax_with_threads(n_threads: int) -> Any:
    """Return JAX with a CPU client of so many threads: its first client would keep its own number for ever."""
    import jax
    from jax.extend import backend

    os.environ["NPROC"] = str(n_threads)  # read when a client is made
    backend.clear_backends()
    return jax


def jax_jitted(implementation: str) -> Callable[[Case], Call]:
    """Make JAX's Bernoulli mask and the selection in one jitted function, which also splits the key."""

    def make(case: Case) -> Call:
        jax = jax_with_threads(case.n_threads)
        p, scale = case.p, float(case.scale)

        @jax.jit
        def drop(key_data: Any, x: Any) -> Any:
            key, subkey = jax.random.split(jax.random.wrap_key_data(key_data, impl=implementation))
            y = jax.numpy.where(jax.random.bernoulli(subkey, 1 - p, x.shape), x * scale, 0)
            return jax.random.key_data(key), y

        # Plain integers, not a key: calls with keys among their arguments are dispatched by slower code.
        x, key_data = jax.numpy.asarray(case.x), jax.random.key_data(jax.random.key(1, impl=implementation))

        def call() -> Any:
            nonlocal key_data
            key_data, y = drop(key_data, x)
            return y.block_until_ready()

        return call

    return make


@functools.cache
def numba_kernel() -> Callable[..., None]:
    """Compile a parallel loop."""
    import numba

    @numba.njit(parallel=True)
    def drop(out: Array, x: Array, p: float, scale: Any) -> None:
        for i in numba.prange(x.size):
            out[i] = x[i] * scale if np.random.random() >= p else 0  # noqa: NPY002 - all that Numba has in prange

    return drop


def numba_prange(case: Case) -> Call:
    """Call a loop compiled by Numba."""
    import numba

    numba.set_num_threads(min(case.n_threads, numba.config.NUMBA_NUM_THREADS))
    x, y, p, scale, drop = case.x, case.y, case.p, case.scale, numba_kernel()

    def call() -> Array:
        drop(y, x, p, scale)
        return y

    return call


def onnx_session(case: Case) -> Call:
    """Run a model of one Dropout in training mode."""
    import onnxruntime
    from onnx import TensorProto, helper

    element = getattr(TensorProto, {"float32": "FLOAT", "float64": "DOUBLE"}[case.dtype_name])
    graph = helper.make_graph(
        [helper.make_node("Dropout", ["x", "p", "training"], ["y"])],
        "dropout",
        [helper.make_tensor_value_info("x", element, ["n"])],
        [helper.make_tensor_value_info("y", element, ["n"])],
        [
            helper.make_tensor("p", TensorProto.FLOAT, [], [case.p]),
            helper.make_tensor("training", TensorProto.BOOL, [], [True]),
        ],
    )
    # The operator set that gave Dropout its training mode had number 12; every later runtime reads this version.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = case.n_threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feed = {"x": case.x}
    return lambda: session.run(None, feed)[0]


def mlx_eager(case: Case) -> Call:
    """Do what MLX's layer does: a Bernoulli mask and two products."""
    import mlx.core as mx

    mx.set_default_device(mx.cpu)
    x, keep_prob = mx.array(case.x), 1 - case.p

    def call() -> Any:
        y = (1 / keep_prob) * mx.random.bernoulli(keep_prob, x.shape) * x
        mx.eval(y)
        return y

    return call


# The entries that one library has in several operations differ in little.
_floor = functools.partial(Contender, name="floor", label="floor", is_floor=True, redraws=False)
_scaled = functools.partial(_floor, code="np.multiply(x, s, out=y)", make=multiply, expect=expect_scaled)
_half = functools.partial(_floor, dtypes=HALF_DTYPES, expect=expect_copied)
_copied = functools.partial(_half, code="np.copyto(y, x)", make=copy)
_ours = functools.partial(Contender, name="cdropout", label="cdropout", dtypes=DTYPES, threaded=True)
_mask = functools.partial(_ours, label="cdropout mask", redraws=False)
_steps = functools.partial(Contender, name="unfused", label="unfused", dtypes=DTYPES, threaded=True)
_numpy = functools.partial(Contender, name="numpy-best", label="NumPy, best", dtypes=DTYPES)
_torch = functools.partial(
    Contender, name="pytorch", label="PyTorch", modules=("torch",), dtypes=DTYPES, threaded=True, read=read_torch
)

CONTENDERS = (
    _scaled("forward"),
    _copied("forward"),
    _ours("forward", "dropout(x, p, rng=stream, out=y)", cdropout),
    _numpy("forward", "rng.random(out=, float32), >= p, * keep, * s", numpy_best),
    Contender(
        "forward",
        "rng.bytes(n) >= 256 p, * keep, * s",
        numpy_bytes,
        name="numpy-8-bit",
        label="NumPy, 8 bits",
        dtypes=DTYPES,
        expect=expect_bits(8),
    ),
    *(
        Contender("forward", written.code, write_up(name), name=name, label=name.replace("-up-", "-up "))
        for name, written in WRITE_UPS.items()
    ),
    Contender(
        "forward",
        "rng.bytes(2 n) >= 65536 p, * keep, * s",
        mkl_bytes,
        name="mkl-random",
        label="MKL + NumPy",
        dtypes=DTYPES,
        modules=("mkl_random",),
        expect=expect_bits(16),
    ),
    Contender("forward", "prange loop", numba_prange, name="numba", label="Numba", modules=("numba",), threaded=True),
    _torch("forward", "F.dropout(x, p)", torch_eager),
    _torch(
        "forward",
        "F.dropout(x, p), compiled",
        torch_compiled,
        name="torch-compile",
        label="torch.compile",
        is_slow_to_build=True,
    ),
    Contender(
        "forward",
        "where(bernoulli(key), x * s, 0), jitted",
        jax_jitted("threefry2x32"),
        name="jax-threefry",
        label="JAX, threefry",
        dtypes=("float32", *HALF_DTYPES),
        modules=("jax",),
        threaded=True,
    ),
    Contender(
        "forward",
        "where(bernoulli(key), x * s, 0), jitted",
        jax_jitted("rbg"),
        name="jax-rbg",
        label="JAX, rbg",
        dtypes=("float32", *HALF_DTYPES),
        modules=("jax",),
        threaded=True,
    ),
    Contender(
        "forward",
        "Dropout, training mode",
        onnx_session,
        name="onnxruntime",
        label="ONNX Runtime",
        modules=("onnx", "onnxruntime"),
        threaded=True,
    ),
    Contender(
        "forward",
        "1 / keep * bernoulli(keep) * x, on the CPU",
        mlx_eager,
        name="mlx",
        label="MLX",
        dtypes=("float32", "float16"),
        modules=("mlx.core",),
    ),
    _scaled("backward"),
    _copied("backward"),
    _mask("backward", "mask.apply(x, out=y)", cdropout_backward),
    _numpy("backward", "* keep, * s", numpy_best_backward, redraws=False),
    Contender("backward", "dy * mask / keep", write_up_backward("write-up-1"), name="write-up-1", redraws=False),
    Contender("backward", "dy * mask", write_up_backward("write-up-2"), name="write-up-2", redraws=False),
    _torch("backward", "autograd.grad(y, x, dy)", torch_backward, redraws=False),
    _floor("in-place", "np.multiply(x, s, out=x)", multiply_in_place, expect=expect_scaled),
    _half("in-place", "np.multiply(x as uint16, 1, out=x)", pass_over_bits),
    _ours("in-place", "dropout(x, p, rng=stream, out=x)", cdropout_in_place),
    _mask("in-place", "mask.apply(x, out=x)", cdropout_backward_in_place, name="cdropout-mask"),
    _numpy("in-place", "rng.random(out=, float32), >= p, * keep, * s", numpy_best),
    _torch("in-place", "F.dropout(x, p, inplace=True)", torch_eager),
    _floor("fresh-output", "np.multiply(x, s)", multiply_fresh, expect=expect_scaled),
    _half("fresh-output", "x.copy()", copy_fresh),
    _ours("fresh-output", "dropout(x, p, rng=stream)", cdropout_fresh),
    _ours("fresh-output", "layer.forward(x)", cdropout_layer, name="cdropout-layer", label="cdropout layer"),
    _scaled("features"),
    _copied("features"),
    _ours("features", "dropout(..., out=y, shared_axes=0)", cdropout),
    _scaled("samples"),
    _copied("samples"),
    _ours("samples", "dropout(..., out=y, shared_axes=1)", cdropout),
    _floor("relu", "np.maximum(x, 0, out=y)", rectify, expect=expect_rectified),
    _copied("relu"),
    _ours("relu", "relu_dropout(x, p, out=y)", fused("relu_dropout")),
    _steps("relu", "np.maximum, dropout", unfused),
    _scaled("relu-backward"),
    _copied("relu-backward"),
    _ours(
        "relu-backward",
        "relu_dropout_backward(dy, y, p, out=dx)",
        relu_backward,
        redraws=False,
        expect=expect_relu_gradient,
    ),
    _steps(
        "relu-backward",
        "y > 0, * dy, * s",
        relu_backward_in_steps,
        redraws=False,
        expect=expect_relu_gradient,
    ),
    _floor("bias-relu-in-place", "np.maximum(x, 0, out=x)", rectify_in_place, expect=expect_rectified),
    _half("bias-relu-in-place", "np.multiply(x as uint16, 1, out=x)", pass_over_bits),
    _ours("bias-relu-in-place", "bias_relu_dropout(x, bias, p, out=x)", fused("bias_relu_dropout")),
    _ours("bias-relu-in-place", "layer.forward(x), in place", bias_relu_layer, name="cdropout-layer"),
    _steps("bias-relu-in-place", "np.add, np.maximum, dropout", unfused),
    # NumPy adds 16-bit floats one by one, and no copy moves three arrays: these have no floor in 16 bits.
    _floor("add", "np.add(x, residual, out=y)", add_residual, expect=expect_added),
    _ours("add", "dropout_add(x, residual, p, out=y)", fused("dropout_add")),
    _steps("add", "dropout, np.add", unfused),
    _floor("bias-add", "np.add(x, residual, out=y)", add_residual, expect=expect_added),
    _ours("bias-add", "bias_dropout_add(x, bias, residual, p, out=y)", fused("bias_dropout_add")),
    _steps("bias-add", "np.add, dropout, np.add", unfused),
)

NAMES = tuple(dict.fromkeys(contender.name for contender in CONTENDERS))
