"""What test_embedding.py asks of the C interface, and what Python's own calls give for it.

Run as a program, it asks a compiled module: `python calls.py embedded_c` prints, for each call, the distinct digests of
the results that the module gave over every way to cut the call into ranges and to lay out its memory.
"""

import hashlib
import importlib
import itertools
import json
import sys
from dataclasses import dataclass
from functools import cache

import ml_dtypes
import numpy as np

import cdropout as cd

DTYPES = {"float32": np.float32, "float64": np.float64, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
OPERATIONS = (
    "apply_mask",
    "fill_scaled",
    "relu_dropout",
    "bias_relu_dropout",
    "dropout_add",
    "bias_dropout_add",
    "choose",
    "relu_dropout_backward",
)
NOISES = ("multiply_by_noise", "add_noise")
N_ELEMS = 2 * 4096 + 135
STARTS = (0, 3 * 4096, 2**40 + 70)
PS = (0.0, 5e-324, 1e-12, 0.1, 0.5, 1.0)
KEY = cd.Stream(31).key


@dataclass(frozen=True)
class Call:
    """One call: what Python gives for it, and what is to be asked of C."""

    operation: str
    dtype: str
    start: int
    p: float = 0.0  # a noise's std
    n_bias: int = 0
    n_repeats: int = 1
    scale: float | None = None
    shift: float = 0.0
    fill: float = 0.0

    def __str__(self) -> str:
        return "-".join(map(str, vars(self).values()))


def calls_of(operation: str, dtype: str) -> list[Call]:
    """Every call of an operation."""
    if operation in NOISES:
        return [Call(operation, dtype, start, std) for start, std in itertools.product(STARTS, (0.0, 0.5))]
    kinds: list[dict[str, float]] = [{}]
    if operation == "apply_mask":
        kinds = [{}, {"scale": 1.0}, {"scale": 0.75, "shift": 0.5, "fill": -1.7}, {"n_repeats": 3}]
        kinds += [{"n_repeats": 96, "fill": 1e-3, "scale": 1.0}, {"scale": 0.0}]
    elif operation.startswith("bias"):
        kinds = [{"n_bias": n_bias} for n_bias in (1, 7, 63, 64, 65, 192, 1000, 10_000)]
    return [
        Call(operation, dtype, start, p, **kind)  # type: ignore[arg-type]
        for start, p, kind in itertools.product(STARTS, PS, kinds)
    ]


def digest(a: np.ndarray) -> str:
    """Of the array's bytes: NaN equals NaN, and -0.0 does not equal 0.0."""
    return hashlib.sha256(np.ascontiguousarray(a).tobytes()).hexdigest()[:16]


@cache
def inputs(dtype_name: str, n: int, n_bias: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Make x with every kind of number, residual, and bias: nobody writes to them."""
    dtype, rng = DTYPES[dtype_name], np.random.default_rng(5)
    x, residual = rng.standard_normal(n).astype(dtype), rng.standard_normal(n).astype(dtype)
    odd = np.array([np.nan, np.inf, -np.inf, -0.0, 0.0, 1e-310, 1e-42, 6e-8, 65504.0], np.float64)
    with np.errstate(over="ignore"):
        x[::11] = np.resize(odd, x[::11].shape).astype(dtype)
    if x.itemsize == 2:
        x.view(np.uint16)[::13] = 0x7D01  # a signalling NaN of float16
    return x, residual, rng.standard_normal(max(n_bias, 1)).astype(dtype)


# ---- what Python gives ----------------------------------------------------------------------------------------------


def stream_at(position: int) -> cd.Stream:
    """The stream of KEY from a block on."""
    stream = cd.Stream(31)
    stream.state = {**stream.state, "position": position}
    return stream


def by_python(call: Call) -> np.ndarray:
    """The result of Python's own call."""
    x, residual, bias = inputs(call.dtype, N_ELEMS * call.n_repeats, call.n_bias)
    if call.operation == "multiply_by_noise":
        return cd.Noise(KEY, call.start, call.p, N_ELEMS).multiply(x)
    if call.operation == "add_noise":
        return cd.Noise(KEY, call.start, call.p, N_ELEMS).add(x)
    if call.operation == "fill_keep":
        return cd.Mask(KEY, call.start, call.p, N_ELEMS).keep()
    if call.operation == "fill_scaled":
        return cd.Mask(KEY, call.start, call.p, N_ELEMS).scaled(x.dtype)
    if call.operation == "relu_dropout_backward":
        return cd.relu_dropout_backward(x, residual, call.p)
    if call.operation == "apply_mask":
        mask = cd.Mask(KEY, call.start, call.p, (N_ELEMS, call.n_repeats), shared_axes=1)
        a = x.reshape(mask.shape)
        return mask.apply(a, scale=call.scale, shift=call.shift, fill=call.fill).reshape(-1)
    # A fused function draws from the start of a block: what lies before the call's start is filled up and cut off.
    n_before = call.start % 4096
    n_columns = max(call.n_bias, 1)
    n_after = -(n_before + N_ELEMS) % n_columns
    x, residual = (np.pad(a, (n_before, n_after)).reshape(-1, n_columns) for a in (x, residual))
    arguments = {
        "relu_dropout": (x,),
        "bias_relu_dropout": (x, np.roll(bias, n_before)),
        "dropout_add": (x, residual),
        "bias_dropout_add": (x, np.roll(bias, n_before), residual),
        "choose": (x, residual),
    }[call.operation]
    function = cd.zoneout if call.operation == "choose" else getattr(cd, call.operation)
    y = function(*arguments, call.p, rng=stream_at(call.start - n_before))
    return y.reshape(-1)[n_before : n_before + N_ELEMS]


# ---- what C gives ---------------------------------------------------------------------------------------------------


def cuts(start: int) -> list[list[tuple[int, int]]]:
    """Ways to cut the elements into ranges: not at all, where blocks begin, and anywhere."""
    n_first = -start % 4096
    places = ([], range(n_first, N_ELEMS, 4096), [0, 1, 64, 129, 1000, 1000, 4096, 4097, 7000, N_ELEMS])
    return [list(itertools.pairwise([0, *inner, N_ELEMS])) for inner in places]


def placed(a: np.ndarray, offset: int) -> tuple[np.ndarray, np.ndarray]:
    """A copy of an array, offset bytes past a multiple of 64, and the guarded memory it lies in."""
    memory = np.full(a.nbytes + 256, 0xA5, np.uint8)
    begin = -memory.ctypes.data % 64 + 64 + offset
    inside = memory[begin : begin + a.nbytes]
    inside[...] = a.view(np.uint8)
    return inside, memory


def guards_stand(inside: np.ndarray, memory: np.ndarray) -> bool:
    """Whether nothing was written beside the array."""
    begin = inside.ctypes.data - memory.ctypes.data
    return bool(np.all(memory[:begin] == 0xA5) and np.all(memory[begin + len(inside) :] == 0xA5))


def by_module(module: object, call: Call) -> list[str]:
    """The distinct digests that a module gives, over cuts, alignments, kinds of stores, and outputs over inputs."""
    whole, blocks, anywhere = cuts(call.start)
    x, residual, bias = inputs(call.dtype, N_ELEMS * call.n_repeats, call.n_bias)
    dtype, found = list(DTYPES).index(call.dtype), set()
    layouts = (
        (0, "apart", 0, whole),
        (16, "apart", 1, blocks),
        (1, "apart", 1, anywhere),
        (48, "apart", 1, anywhere),
        (3, "over x", 0, anywhere),
        (16, "over residual", 1, blocks),
    )
    for offset, where, past_caches, ranges in layouts:
        memories = [placed(a, offset) for a in (np.zeros_like(x), x, residual, bias)]
        out, x_bytes, residual_bytes, bias_bytes = (inside for inside, _ in memories)
        out = {"apart": out, "over x": x_bytes, "over residual": residual_bytes}[where]
        addresses = tuple(a.ctypes.data for a in (out, x_bytes, residual_bytes, bias_bytes))
        fields = (*addresses, call.n_bias, call.n_repeats, call.shift, call.fill, past_caches)
        if call.operation in NOISES:
            noise = cd.Noise(KEY, call.start, call.p, N_ELEMS)
            status = module.apply_noise(int(call.operation == NOISES[0]), dtype, fields, noise, ranges)
        else:
            mask = cd.Mask(KEY, call.start, call.p, N_ELEMS)
            if call.operation == "fill_keep":
                out = out[:N_ELEMS]
                status = module.fill_keep(out.ctypes.data, mask, ranges)
            else:
                operation = OPERATIONS.index(call.operation)
                status = module.apply(operation, dtype, fields, mask, call.scale, ranges)
        guarded = all(guards_stand(*memory) for memory in memories)
        found.add(digest(out) if status == 0 and guarded else f"status {status}, guards stand: {guarded}")
    return sorted(found)


def main(name: str) -> None:
    """Print what a module gives for every call."""
    module = importlib.import_module(name)
    results = {
        str(call): by_module(module, call)
        for operation in (*OPERATIONS, *NOISES, "fill_keep")
        for dtype in DTYPES
        for call in calls_of(operation, dtype)
    }
    print(json.dumps({"cdropout": cd.__file__, "results": results}))


if __name__ == "__main__":
    main(sys.argv[1])
