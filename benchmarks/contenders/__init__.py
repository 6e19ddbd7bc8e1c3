"""List all contenders. To add one, write the function that makes it and add an entry to `CONTENDERS`."""

import functools

from benchmarks.cases import DTYPES, HALF_DTYPES
from benchmarks.contenders import floors, library, peers, plain_numpy
from benchmarks.contenders.contender import Call, Contender, first_line
from cdropout.bench.numpy_code import WRITE_UPS

__all__ = ["CONTENDERS", "NAMES", "Call", "Contender", "first_line"]

# The entries that one library has in several operations differ in little.
_floor = functools.partial(Contender, name="floor", label="floor", is_floor=True, redraws=False)
_scaled = functools.partial(_floor, code="np.multiply(x, s, out=y)", make=floors.multiply, expect=floors.expect_scaled)
_half = functools.partial(_floor, dtypes=HALF_DTYPES, expect=floors.expect_copied)
_copied = functools.partial(_half, code="np.copyto(y, x)", make=floors.copy)
_ours = functools.partial(Contender, name="cdropout", label="cdropout", dtypes=DTYPES, threaded=True)
_mask = functools.partial(_ours, label="cdropout mask", redraws=False)
_steps = functools.partial(Contender, name="unfused", label="unfused", dtypes=DTYPES, threaded=True)
_numpy = functools.partial(Contender, name="numpy-best", label="NumPy, best", dtypes=DTYPES)
_torch = functools.partial(
    Contender, name="pytorch", label="PyTorch", modules=("torch",), dtypes=DTYPES, threaded=True, read=peers.read_torch
)

CONTENDERS = (
    _scaled("forward"),
    _copied("forward"),
    _ours("forward", "dropout(x, p, rng=stream, out=y)", library.cdropout),
    _numpy("forward", "rng.random(out=, float32), >= p, * keep, * s", plain_numpy.numpy_best),
    Contender(
        "forward",
        "rng.bytes(n) >= 256 p, * keep, * s",
        plain_numpy.numpy_bytes,
        name="numpy-8-bit",
        label="NumPy, 8 bits",
        dtypes=DTYPES,
        expect=plain_numpy.expect_bits(8),
    ),
    *(
        Contender("forward", written.code, plain_numpy.write_up(name), name=name, label=name.replace("-up-", "-up "))
        for name, written in WRITE_UPS.items()
    ),
    Contender(
        "forward",
        "rng.bytes(2 n) >= 65536 p, * keep, * s",
        peers.mkl_bytes,
        name="mkl-random",
        label="MKL + NumPy",
        dtypes=DTYPES,
        modules=("mkl_random",),
        expect=plain_numpy.expect_bits(16),
    ),
    Contender(
        "forward", "prange loop", peers.numba_prange, name="numba", label="Numba", modules=("numba",), threaded=True
    ),
    _torch("forward", "F.dropout(x, p)", peers.torch_eager),
    _torch(
        "forward",
        "F.dropout(x, p), compiled",
        peers.torch_compiled,
        name="torch-compile",
        label="torch.compile",
        is_slow_to_build=True,
    ),
    Contender(
        "forward",
        "where(bernoulli(key), x * s, 0), jitted",
        peers.jax_jitted("threefry2x32"),
        name="jax-threefry",
        label="JAX, threefry",
        dtypes=("float32", *HALF_DTYPES),
        modules=("jax",),
        threaded=True,
    ),
    Contender(
        "forward",
        "where(bernoulli(key), x * s, 0), jitted",
        peers.jax_jitted("rbg"),
        name="jax-rbg",
        label="JAX, rbg",
        dtypes=("float32", *HALF_DTYPES),
        modules=("jax",),
        threaded=True,
    ),
    Contender(
        "forward",
        "Dropout, training mode",
        peers.onnx_session,
        name="onnxruntime",
        label="ONNX Runtime",
        modules=("onnx", "onnxruntime"),
        threaded=True,
    ),
    Contender(
        "forward",
        "1 / keep * bernoulli(keep) * x, on the CPU",
        peers.mlx_eager,
        name="mlx",
        label="MLX",
        dtypes=("float32", "float16"),
        modules=("mlx.core",),
    ),
    _scaled("backward"),
    _copied("backward"),
    _mask("backward", "mask.apply(x, out=y)", library.cdropout_backward),
    _numpy("backward", "* keep, * s", plain_numpy.numpy_best_backward, redraws=False),
    Contender(
        "backward", "dy * mask / keep", plain_numpy.write_up_backward("write-up-1"), name="write-up-1", redraws=False
    ),
    Contender("backward", "dy * mask", plain_numpy.write_up_backward("write-up-2"), name="write-up-2", redraws=False),
    _torch("backward", "autograd.grad(y, x, dy)", peers.torch_backward, redraws=False),
    _floor("in-place", "np.multiply(x, s, out=x)", floors.multiply, expect=floors.expect_scaled),
    _half("in-place", "np.multiply(x as uint16, 1, out=x)", floors.pass_over_bits),
    _ours("in-place", "dropout(x, p, rng=stream, out=x)", library.cdropout),
    _mask("in-place", "mask.apply(x, out=x)", library.cdropout_backward, name="cdropout-mask"),
    _numpy("in-place", "rng.random(out=, float32), >= p, * keep, * s", plain_numpy.numpy_best),
    _torch("in-place", "F.dropout(x, p, inplace=True)", peers.torch_eager),
    _floor("fresh-output", "np.multiply(x, s)", floors.multiply_fresh, expect=floors.expect_scaled),
    _half("fresh-output", "x.copy()", floors.copy_fresh),
    _ours("fresh-output", "dropout(x, p, rng=stream)", library.cdropout_fresh),
    _ours("fresh-output", "layer.forward(x)", library.cdropout_layer, name="cdropout-layer", label="cdropout layer"),
    _scaled("features"),
    _copied("features"),
    _ours("features", "dropout(..., out=y, shared_axes=0)", library.cdropout),
    _scaled("samples"),
    _copied("samples"),
    _ours("samples", "dropout(..., out=y, shared_axes=1)", library.cdropout),
    _floor("relu", "np.maximum(x, 0, out=y)", floors.rectify, expect=floors.expect_rectified),
    _copied("relu"),
    _ours("relu", "relu_dropout(x, p, out=y)", library.fused("relu_dropout")),
    _steps("relu", "np.maximum, dropout", library.unfused),
    _scaled("relu-backward"),
    _copied("relu-backward"),
    _ours(
        "relu-backward",
        "relu_dropout_backward(dy, y, p, out=dx)",
        library.relu_backward,
        redraws=False,
        expect=library.expect_relu_gradient,
    ),
    _steps(
        "relu-backward",
        "y > 0, * dy, * s",
        library.relu_backward_in_steps,
        redraws=False,
        expect=library.expect_relu_gradient,
    ),
    _floor("bias-relu-in-place", "np.maximum(x, 0, out=x)", floors.rectify, expect=floors.expect_rectified),
    _half("bias-relu-in-place", "np.multiply(x as uint16, 1, out=x)", floors.pass_over_bits),
    _ours("bias-relu-in-place", "bias_relu_dropout(x, bias, p, out=x)", library.fused("bias_relu_dropout")),
    _ours("bias-relu-in-place", "layer.forward(x), in place", library.bias_relu_layer, name="cdropout-layer"),
    _steps("bias-relu-in-place", "np.add, np.maximum, dropout", library.unfused),
    # NumPy adds 16-bit floats one by one, and no floors.copy moves three arrays: these have no floor in 16 bits.
    _floor("add", "np.add(x, residual, out=y)", floors.add_residual, expect=floors.expect_added),
    _ours("add", "dropout_add(x, residual, p, out=y)", library.fused("dropout_add")),
    _steps("add", "dropout, np.add", library.unfused),
    _floor("bias-add", "np.add(x, residual, out=y)", floors.add_residual, expect=floors.expect_added),
    _ours("bias-add", "bias_dropout_add(x, bias, residual, p, out=y)", library.fused("bias_dropout_add")),
    _steps("bias-add", "np.add, dropout, np.add", library.unfused),
)

NAMES = tuple(dict.fromkeys(contender.name for contender in CONTENDERS))
