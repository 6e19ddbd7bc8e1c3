"""Make dropout with other libraries, each imported only when it takes part."""

import functools
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.cases import Array, Case
from benchmarks.contenders.contender import Call
from benchmarks.contenders.plain_numpy import compare_bits


def mkl_bytes(case: Case) -> Call:
    """Compare 16-bit numbers of MKL's vectorised Mersenne Twister, its fastest way from random bits to decisions."""
    import mkl_random

    return compare_bits(case, 16, mkl_random.MKLRandomState(1, brng="SFMT19937").bytes)


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
