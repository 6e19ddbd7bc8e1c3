"""What test_c_api.py asks of the C interface, and what Python's own calls give for it.

Run as a program, it asks a compiled module: `python calls.py embedded_c 7` prints, for one in 7 calls of each
operation, the distinct digests of the results that the module gave over every way to cut the call into ranges and to
lay out its memory.
"""

import hashlib
import importlib
import itertools
import json
import random
import sys
from dataclasses import dataclass
from functools import cache

import ml_dtypes
import numpy as np

import cdropout as cd
from cdropout import _kernels

DTYPES = {"float32": np.float32, "float64": np.float64, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
# Those that `apply` takes.
OPERATIONS = (
    "apply_mask",
    "fill_scaled",
    "relu_dropout",
    "bias_relu_dropout",
    "dropout_add",
    "bias_dropout_add",
    "choose",
    "relu_dropout_backward",
    "alpha_dropout",
)
FUSED = ("relu_dropout", "bias_relu_dropout", "dropout_add", "bias_dropout_add")
NOISES = ("multiply_by_noise", "add_noise")
N_ELEMS = 2 * 4096 + 135
STARTS = (0, 3 * 4096, 2**40 + 70)
PS = (0.0, 5e-324, 1e-12, 0.1, 0.5, 1.0)
KEY = cd.Stream(31).key


@dataclass(frozen=True)
class Part:
    """A kind of mask: a whole one, and what is cut from it."""

    shape: tuple[int, ...]
    shared_axes: tuple[int, ...] = ()
    index: tuple[slice, ...] = ()
    start: int = 2**40 + 70

    def mask(self, p: float) -> cd.Mask:
        """The part's mask."""
        return cd.Mask(KEY, self.start, p, self.shape, self.shared_axes)[self.index]


PARTS = {
    "whole": Part((70, 130)),
    "columns": Part((60, 200), index=np.s_[:, 64:128]),
    "more columns than are gathered at once": Part((1100, 200), index=np.s_[:, 64:128]),
    "columns of rows that are far apart": Part((9, 3000), index=np.s_[:, 100:1201]),
    "rows dealt out": Part((61, 100), index=np.s_[1::3]),
    "elements dealt out": Part((9001,), index=np.s_[2::3]),
    "three axes cut": Part((9, 40, 70), index=np.s_[1:8:2, 3:37, 5:70:3]),
    "the first axis shared": Part((37, 190), (0,)),
    "the first axis shared by long rows": Part((2, 66000), (0,), np.s_[:, 65:65801]),
    "the last axis shared": Part((190, 37), (1,)),
    "the last, long axis shared": Part((9, 5, 150), (2,)),
    "the middle axis shared": Part((6, 35, 40), (1,)),
    "the last two axes shared": Part((5, 6, 13, 12), (2, 3)),
    "several axes shared": Part((4, 30, 5, 20), (0, 2)),
    "all axes shared": Part((40, 50), (0, 1)),
    "a part of the first axis shared": Part((37, 190), (0,), np.s_[3:30, 10:150]),
    "a part of the last axis shared": Part((190, 37), (1,), np.s_[5:180:2, :30]),
    "a part of the last, long axis shared": Part((9, 25, 150), (2,), np.s_[:, 3:20, 2:132]),
    "a part of the middle axis shared": Part((6, 35, 40), (1,), np.s_[1:, ::3, 5:30]),
    "a part of several axes shared": Part((4, 30, 5, 20), (0, 2), np.s_[1:, 2::5, :3, 1:18]),
    "axes of length 1": Part((1, 80, 1, 70)),
    "a part with axes of length 1": Part((4, 80, 1, 70), (), np.s_[1:2, 5:75, :, 60:61]),
    "a part with axes of length 1 shared": Part((1, 80, 4, 70, 1), (0, 2, 4), np.s_[:, 5:75, 1:2, 60:]),
    "64 axes": Part((2, 1, 3, *(1,) * 57, 4, 5, 6, 1), (2,), (np.s_[:],) * 61 + (np.s_[1:5],)),
    "the stream's last positions": Part((40, 200), (), np.s_[:, 100:], _kernels.POSITION_LIMIT - 8000),
    "shape ()": Part(()),
    "no elements": Part((5, 0, 3)),
    "a part without elements": Part((5, 7), (), np.s_[3:3, 1:4]),
}
PART_PS = (0.0, 0.3, 1.0)


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
    part: str = ""  # of PARTS, for the calls on strided masks; a run of N_ELEMS positions otherwise

    def mask(self) -> cd.Mask:
        """What Python's Mask is for the call."""
        if self.part:
            return PARTS[self.part].mask(self.p)
        if self.n_repeats == 1:
            return cd.Mask(KEY, self.start, self.p, N_ELEMS)
        return cd.Mask(KEY, self.start, self.p, (N_ELEMS, self.n_repeats), shared_axes=1)

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of x, residual and bias; those of calls that Python has no function for have ordinary numbers alone."""
        n = int(np.prod(self.mask().shape, dtype=np.int64)) if self.part else N_ELEMS * self.n_repeats
        return inputs(self.dtype, n, self.n_bias, self.operation in FUSED and bool(self.part or self.n_repeats > 1))

    def __str__(self) -> str:
        return "-".join(map(str, vars(self).values()))


def calls_of(operation: str, dtype: str) -> list[Call]:
    """Every call of an operation."""
    if operation in NOISES:
        return [Call(operation, dtype, start, std) for start, std in itertools.product(STARTS, (0.0, 0.5))]
    kinds: list[dict[str, float]] = [{}]
    if operation == "alpha_dropout":
        kinds = [{"scale": 0.75, "shift": 0.5, "fill": -1.7}, {"n_repeats": 70, "shift": 1e-3}]
    elif operation == "apply_mask":
        kinds = [{}, {"scale": 1.0}, {"scale": 0.75, "shift": 0.5, "fill": -1.7}, {"n_repeats": 3}]
        kinds += [{"n_repeats": 96, "fill": 1e-3, "scale": 1.0}, {"scale": 0.0}]
    elif operation.startswith("bias"):
        kinds = [{"n_bias": n_bias} for n_bias in (1, 7, 63, 64, 65, 192, 1000, 10_000)]
    calls = [
        Call(operation, dtype, start, p, **kind)  # type: ignore[arg-type]
        for start, p, kind in itertools.product(STARTS, PS, kinds)
    ]
    if operation in (*FUSED, "fill_scaled", "choose"):
        n_bias = 1000 if operation.startswith("bias") else 0
        repeats = itertools.product((0.0, 0.1, 1.0), (3, 20))
        calls += [Call(operation, dtype, STARTS[-1], p, n_bias, n_repeats) for p, n_repeats in repeats]
    return calls


def strided_calls_of(part: str) -> list[Call]:
    """Every call on a strided mask."""
    affine = {"scale": 0.75, "shift": 0.5, "fill": -1.7}
    kinds: list[tuple[str, dict[str, float]]] = [
        *(("apply_mask", kind) for kind in ({}, {"scale": 1.0}, {"shift": -2.0}, {"fill": 1e-3}, affine)),
        ("alpha_dropout", affine),
        *(("bias_relu_dropout", {"n_bias": n_bias}) for n_bias in (1, 50, 1000)),
        *(("bias_dropout_add", {"n_bias": n_bias}) for n_bias in (7, 64)),
        *((operation, {}) for operation in ("fill_scaled", "relu_dropout", "dropout_add", "choose", "fill_keep")),
    ]
    return [
        Call(operation, dtype, 0, p, **kind, part=part)  # type: ignore[arg-type]
        for (operation, kind), dtype, p in itertools.product(kinds, DTYPES, PART_PS)
        if operation != "fill_keep" or dtype == "float32"
    ]


def digest_of_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def digest(a: np.ndarray) -> str:
    """Of the array's bytes: NaN equals NaN, and -0.0 does not equal 0.0."""
    return digest_of_bytes(np.ascontiguousarray(a).tobytes())


@cache
def inputs(
    dtype_name: str, n: int, n_bias: int, is_ordinary: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Make x with every kind of number, unless with ordinary ones, residual, and bias: they are only read."""
    dtype, rng = DTYPES[dtype_name], np.random.default_rng(5)
    x, residual = rng.standard_normal(n).astype(dtype), rng.standard_normal(n).astype(dtype)
    bias = rng.standard_normal(max(n_bias, 1)).astype(dtype)
    if is_ordinary:
        return x, residual, bias
    odd = np.array([np.nan, np.inf, -np.inf, -0.0, 0.0, 1e-310, 1e-42, 6e-8, 65504.0], np.float64)
    with np.errstate(over="ignore"):
        x[::11] = np.resize(odd, x[::11].shape).astype(dtype)
    if x.itemsize == 2:
        x.view(np.uint16)[::13] = 0x7D01  # a signalling NaN of float16
    return x, residual, bias


# ---- what Python gives ----------------------------------------------------------------------------------------------


def stream_at(position: int) -> cd.Stream:
    """The stream of KEY from a block on."""
    stream = cd.Stream(31)
    stream.state = {**stream.state, "position": position}
    return stream


def unfused(call: Call) -> np.ndarray:
    """The result of Mask's methods, and of NumPy's functions one after the other for a fused operation."""
    mask = call.mask()
    x, residual, bias = call.arrays()
    x, residual = x.reshape(mask.shape), residual.reshape(mask.shape)
    if call.operation in ("apply_mask", "alpha_dropout"):
        return mask.apply(x, scale=call.scale, shift=call.shift, fill=call.fill)
    if call.operation == "fill_keep":
        return mask.keep()
    if call.operation == "fill_scaled":
        return mask.scaled(x.dtype)
    if call.operation == "choose":
        return np.where(mask.keep(), x, residual)
    # The 16-bit types are computed in float32, with a scale of as many bits as an exact product has left.
    dtype, scale = x.dtype, None
    if dtype.itemsize == 2:
        from reference import SCALE_BITS, rounded_to_bits

        x, residual, bias = (a.astype(np.float32) for a in (x, residual, bias))
        scale = rounded_to_bits(_kernels.kept_scale(call.p), SCALE_BITS[dtype.name])
    if call.n_bias:
        x = x + np.resize(bias, x.shape)
    if "relu" in call.operation:
        x = np.maximum(x, 0)
    y = mask.apply(x, scale=scale)
    return (y + residual if "add" in call.operation else y).astype(dtype)


def by_python(call: Call) -> np.ndarray:
    """The result of Python's own call."""
    if call.part or call.n_repeats > 1 or call.operation in ("apply_mask", "alpha_dropout"):
        return unfused(call)
    x, residual, bias = call.arrays()
    if call.operation == "multiply_by_noise":
        return cd.Noise(KEY, call.start, call.p, N_ELEMS).multiply(x)
    if call.operation == "add_noise":
        return cd.Noise(KEY, call.start, call.p, N_ELEMS).add(x)
    if call.operation == "fill_keep":
        return call.mask().keep()
    if call.operation == "fill_scaled":
        return call.mask().scaled(x.dtype)
    if call.operation == "relu_dropout_backward":
        return cd.relu_dropout_backward(x, residual, call.p)
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


@cache
def strided_cuts(n_elems: int) -> list[list[tuple[int, int]]]:
    """Ways to cut the elements of a strided mask: not at all, in three, and anywhere, in any order."""
    rng = random.Random(n_elems)
    inner = sorted([min(1, n_elems), n_elems // 2, n_elems // 2, *(rng.randrange(n_elems + 1) for _ in range(40))])
    anywhere = list(itertools.pairwise([0, *inner, n_elems]))
    rng.shuffle(anywhere)
    thirds = [0, n_elems // 3, n_elems * 2 // 3, n_elems]
    return [[(0, n_elems)], list(itertools.pairwise(thirds)), anywhere]


N_GUARDS = 64  # bytes before and behind an array, at least
GUARDS = np.full(256, 0xA5, np.uint8)


def placed(a: np.ndarray, offset: int) -> tuple[np.ndarray, np.ndarray]:
    """A copy of an array, offset bytes past a multiple of 64, and the guarded memory it lies in."""
    memory = np.empty(a.nbytes + 256, np.uint8)
    begin = -memory.ctypes.data % 64 + N_GUARDS + offset
    end = begin + a.nbytes
    memory[:begin], memory[end:] = GUARDS[:begin], GUARDS[: len(memory) - end]
    inside = memory[begin:end]
    inside[...] = a.view(np.uint8)
    return inside, memory


def guards_stand(inside: np.ndarray, memory: np.ndarray) -> bool:
    """Whether nothing was written beside the array."""
    begin = inside.ctypes.data - memory.ctypes.data
    beside = memory[:begin].tobytes() + memory[begin + len(inside) :].tobytes()
    return beside == b"\xa5" * len(beside)


def by_module(module: object, call: Call) -> list[str]:
    """The distinct digests that a module gives, over cuts, alignments, kinds of stores, and outputs over inputs."""
    x, residual, bias = call.arrays()
    whole, blocks, anywhere = strided_cuts(len(x)) if call.part else cuts(call.start)
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
        elif call.operation == "fill_keep":
            out = out[: len(x)]
            fill_keep = module.fill_keep_strided if call.part else module.fill_keep
            status = fill_keep(out.ctypes.data, call.mask(), ranges)
        else:
            apply = module.apply_strided if call.part else module.apply
            status = apply(_kernels.OPERATIONS[call.operation], dtype, fields, call.mask(), call.scale, ranges)
        guarded = all(guards_stand(*memory) for memory in memories)
        found.add(out.tobytes() if status == 0 and guarded else f"status {status}, guards stand: {guarded}")
    return sorted(result if isinstance(result, str) else digest_of_bytes(result) for result in found)


def all_calls(one_in: int) -> list[Call]:
    """One in so many of the calls of every operation with every dtype, and of those on every strided mask."""
    operations = (*OPERATIONS, *NOISES, "fill_keep")
    lists = [calls_of(operation, dtype) for operation in operations for dtype in DTYPES]
    lists += [strided_calls_of(part) for part in PARTS]
    return [call for calls in lists for call in calls[::one_in]]


def main(name: str, one_in: int) -> None:
    """Print what a module gives for one in so many calls."""
    module = importlib.import_module(name)
    results = {str(call): by_module(module, call) for call in all_calls(one_in)}
    print(json.dumps({"cdropout": cd.__file__, "results": results}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
