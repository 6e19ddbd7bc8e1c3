"""Further operations beside their floors: masks as arrays, the family, images and tokens, matrices.

`compare` has the rest (`contenders`). An operation is made for a number of elements and a p, and returns its call and
its floor's, the NumPy function that it cannot be much faster than.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

import cdropout as cd
from benchmarks.cases import DTYPES, HALF_DTYPES, WIDE_DTYPES, Array, Case, Operation
from benchmarks.contenders import Call, floors
from cdropout import compact

N_CHANNELS = 3
TOKENS_IN_ROW = 512
VOCABULARY = 30_000
MASK_TOKEN = 103
BLOCK_SIZE = 5
SAMPLES = 64
UNSIGNED = ("uint8", "uint16", "uint32", "uint64")

Make = Callable[[int, float], tuple[Call, Call]]


@dataclass(frozen=True)
class Further:
    """Hold an operation for one dtype.

    Attributes
    ----------
    code, dtype, floor_code : str
        What is called, the dtype of its arrays, and the floor.
    make : callable
        Takes a number of elements and p; returns the floor's call and the operation's.

    """

    code: str
    dtype: str
    floor_code: str
    make: Make


def on_floats(dtype: str, call_of: Callable[[Case, float, cd.Stream], Call]) -> Make:
    """Return a maker for an operation that reads one array of floats; its floor multiplies, or copies 16-bit ones."""

    def make(n_elems: int, p: float) -> tuple[Call, Call]:
        case = Case(Operation("further", matrix=True), n_elems, dtype, p, 1)
        floor = floors.copy(case) if dtype in HALF_DTYPES else floors.multiply(case)
        return floor, call_of(case, p, cd.Stream(1))

    return make


def of_floats() -> Iterator[Further]:
    """Return the members of the family that have kernels."""

    def of_layer(case: Case, p: float, stream: cd.Stream) -> Call:
        layer = cd.Dropout(p, rng=stream)
        layer.forward(case.x)
        mask = layer.mask
        assert mask is not None
        return lambda: mask.apply(case.x, out=case.y)

    calls: dict[str, Callable[[Case, float, cd.Stream], Call]] = {
        "layer.mask.apply(dy, out=dx)": of_layer,
        "alpha_dropout(x, p, out=y)": lambda case, p, stream: (
            lambda: cd.alpha_dropout(case.x, p, rng=stream, out=case.y)
        ),
        "gaussian_dropout(x, p, out=y)": lambda case, p, stream: (
            lambda: cd.gaussian_dropout(case.x, p, rng=stream, out=case.y)
        ),
        "gaussian_noise(x, std, out=y)": lambda case, p, stream: (
            lambda: cd.gaussian_noise(case.x, 0.5, rng=stream, out=case.y)
        ),
    }
    for code, call_of in calls.items():
        for dtype in DTYPES:
            floor_code = "np.copyto(y, x)" if dtype in HALF_DTYPES else "np.multiply(x, s, out=y)"
            yield Further(code, dtype, floor_code, on_floats(dtype, call_of))

    def blocks(case: Case, p: float, stream: cd.Stream) -> Call:
        images, out = (a.reshape(1, 1, *case.shape) for a in (case.x, case.y))
        return lambda: cd.drop_block2d(images, p, block_size=BLOCK_SIZE, rng=stream, out=out)

    for dtype in WIDE_DTYPES:
        make = on_floats(dtype, blocks)
        yield Further(f"drop_block2d(x, p, block_size={BLOCK_SIZE}, out=y)", dtype, "np.multiply(x, s, out=y)", make)


def of_three_arrays() -> Iterator[Further]:
    """Return the operations on two inputs. NumPy adds 16-bit floats one by one: their floor adds their bits."""

    def maker(name: str, dtype: str) -> Make:
        def make(n_elems: int, p: float) -> tuple[Call, Call]:
            case = Case(Operation("further", bias=True, residual=True, matrix=True), n_elems, dtype, p, 1)
            x, residual, y, stream = case.x, case.residual, case.y, cd.Stream(1)
            a, b, out = (each.view(np.uint16) if dtype in HALF_DTYPES else each for each in (x, residual, y))
            inputs = (x, case.bias, residual) if name == "bias_dropout_add" else (x, residual)
            function = getattr(cd, name)
            return lambda: np.add(a, b, out=out), lambda: function(*inputs, p, rng=stream, out=y)

        return make

    for dtype in HALF_DTYPES:
        for name, code in (("dropout_add", "x, residual"), ("bias_dropout_add", "x, bias, residual")):
            yield Further(f"{name}({code}, p, out=y)", dtype, "np.add(x, residual, out=y), uint16", maker(name, dtype))
    for dtype in DTYPES:
        kind = ", uint16" if dtype in HALF_DTYPES else ""
        yield Further("zoneout(x, h, p, out=y)", dtype, f"np.add(x, h, out=y){kind}", maker("zoneout", dtype))


def of_decisions() -> Iterator[Further]:
    """Return the forms of a mask's decisions, and `bernoulli`."""

    def maker(call_of: Callable[[cd.Mask, Array], Call], floor_of: Callable[[Array], Call], dtype: str) -> Make:
        def make(n_elems: int, p: float) -> tuple[Call, Call]:
            mask = cd.draw_mask(n_elems, p, rng=1)
            return floor_of(mask.keep(dtype=dtype)), call_of(mask, np.empty(n_elems, dtype))

        return make

    def copy(keep: Array) -> Call:
        out = np.empty_like(keep)
        return lambda: np.copyto(out, keep)

    for dtype in ("bool", "float32"):
        yield Further(
            "mask.keep(out)", dtype, "np.copyto", maker(lambda mask, out: lambda: mask.keep(out), copy, dtype)
        )
    for code, floor_code, call_of, floor_of in (
        ("mask.packed()", "np.packbits(keep)", lambda mask, out: mask.packed, lambda keep: lambda: np.packbits(keep)),
        (
            "mask.count()",
            "np.count_nonzero(keep)",
            lambda mask, out: mask.count,
            lambda keep: lambda: np.count_nonzero(keep),
        ),
        (
            "mask.indices()",
            "np.flatnonzero(keep)",
            lambda mask, out: mask.indices,
            lambda keep: lambda: np.flatnonzero(keep),
        ),
    ):
        yield Further(code, "", floor_code, maker(call_of, floor_of, "bool"))

    def one_p(n_elems: int, p: float) -> tuple[Call, Call]:
        stream, out, source = cd.Stream(1), np.empty(n_elems, bool), np.ones(n_elems, bool)
        return lambda: np.copyto(out, source), lambda: cd.bernoulli(n_elems, p, rng=stream, out=out)

    def own_p(n_elems: int, p: float) -> tuple[Call, Call]:
        stream, out = cd.Stream(1), np.empty(n_elems, bool)
        chances = np.random.default_rng(0).random(n_elems) * 2 * p
        return lambda: np.less(chances, p, out=out), lambda: cd.bernoulli(n_elems, chances, rng=stream, out=out)

    yield Further("bernoulli(n, p, out=y)", "bool", "np.copyto", one_p)
    yield Further("bernoulli(n, an array of p, out=y)", "bool", "np.less(array of p, p, out=y)", own_p)


def image_shape(n_elems: int) -> tuple[int, int, int]:
    """Return the shape of a square image with about this many elements."""
    side = math.isqrt(n_elems // N_CHANNELS)
    return side, side, N_CHANNELS


def of_copies() -> Iterator[Further]:
    """Return the operations that copy what they keep: selection, and those on images, tables and tokens."""

    def copying(x_of: Callable[[int], Array], call_of: Callable[[Array, Array, float, cd.Stream], Call]) -> Make:
        def make(n_elems: int, p: float) -> tuple[Call, Call]:
            x = x_of(n_elems)
            out, copied = np.empty_like(x), np.empty_like(x)
            return lambda: np.copyto(copied, x), call_of(x, out, p, cd.Stream(1))

        return make

    def integers(dtype: str, shape_of: Callable[[int], tuple[int, ...]] = lambda n: (n,)) -> Callable[[int], Array]:
        high = 128 if dtype == "uint8" else VOCABULARY
        return lambda n_elems: np.random.default_rng(0).integers(1, high, shape_of(n_elems)).astype(dtype)

    def selection(x: Array, out: Array, p: float, stream: cd.Stream) -> Call:
        mask = cd.draw_mask(x.shape, p, rng=stream)
        return lambda: mask.select(x, out=out)

    for dtype in UNSIGNED:
        yield Further("mask.select(x, out=y)", dtype, "np.copyto", copying(integers(dtype), selection))
    image = integers("uint8", image_shape)
    for code, x_of, call_of in (
        ("pixel_dropout(image, p, out=y)", image, lambda x, out, p, s: lambda: cd.pixel_dropout(x, p, rng=s, out=out)),
        (
            "pixel_dropout(..., per_channel=True)",
            image,
            lambda x, out, p, s: lambda: cd.pixel_dropout(x, p, per_channel=True, rng=s, out=out),
        ),
        ("coarse_dropout(image, out=y)", image, lambda x, out, p, s: lambda: cd.coarse_dropout(x, rng=s, out=out)),
        (
            "token_dropout(tokens, p, mask_token)",
            integers("int64", lambda n: (n // TOKENS_IN_ROW, TOKENS_IN_ROW)),
            lambda x, out, p, s: lambda: cd.token_dropout(x, p, MASK_TOKEN, rng=s, out=out),
        ),
        (
            "token_dropout(..., replace_random=n)",
            integers("int64", lambda n: (n // TOKENS_IN_ROW, TOKENS_IN_ROW)),
            lambda x, out, p, s: (
                lambda: cd.token_dropout(x, p, MASK_TOKEN, replace_random=VOCABULARY, rng=s, out=out)
            ),
        ),
        (
            "column_dropout(table, p, out=y)",
            lambda n: np.random.default_rng(0).random((n // TOKENS_IN_ROW, TOKENS_IN_ROW), np.float32),
            lambda x, out, p, s: lambda: cd.column_dropout(x, p, rng=s, out=out),
        ),
    ):
        dtype = str(x_of(TOKENS_IN_ROW * N_CHANNELS).dtype)
        yield Further(code, dtype, "np.copyto", copying(x_of, call_of))


def of_matrices() -> Iterator[Further]:
    """Return moving half of a matrix's columns and rows, and the products with dropped weights and columns."""

    def moving(dtype: str, axis: str, is_gathered: bool) -> Make:
        def make(n_elems: int, p: float) -> tuple[Call, Call]:
            case = Case(Operation("further", matrix=True), n_elems, dtype, p, 1)
            length = case.shape[axis == "columns"]
            words = compact.KeepWords(cd.draw_mask(length, 0.5, rng=1))
            where: dict[str, Any] = {axis: words}
            dense, whole = compact.gather_kept(case.x, **where), case.y
            # Of the rows only the kept ones are read or written, except that zeros are written as well.
            n_moved = dense.size + (dense.size if axis == "rows" and is_gathered else n_elems)
            source, target = np.ones(n_moved // 2, dtype), np.empty(n_moved // 2, dtype)
            call: Call = (
                (lambda: compact.gather_kept(case.x, **where, out=dense))
                if is_gathered
                else (lambda: compact.scatter_kept(dense, **where, out=whole))
            )
            return lambda: np.copyto(target, source), call

        return make

    for dtype in WIDE_DTYPES:
        for axis in ("columns", "rows"):
            yield Further(f"gather_kept(x, {axis}=half)", dtype, "np.copyto, same bytes", moving(dtype, axis, True))
            yield Further(f"scatter_kept(x, {axis}=half)", dtype, "np.copyto, same bytes", moving(dtype, axis, False))

    def product(dtype: str, function: Callable[..., Array]) -> Make:
        def make(n_elems: int, p: float) -> tuple[Call, Call]:
            weight = Case(Operation("further", matrix=True), n_elems, dtype, p, 1).x
            x, stream = np.resize(weight, (SAMPLES, len(weight))), cd.Stream(1)
            return lambda: x @ weight, lambda: function(x, weight, None, p, rng=stream)

        return make

    for dtype in WIDE_DTYPES:
        yield Further("drop_connect(x, w, p=p)", dtype, "x @ w", product(dtype, cd.drop_connect))
        yield Further("feature_dropout_linear(x, w, p=p)", dtype, "x @ w", product(dtype, cd.feature_dropout_linear))


def further_operations() -> list[Further]:
    """Return all of them, in the order of a table."""
    return [*of_three_arrays(), *of_floats(), *of_decisions(), *of_copies(), *of_matrices()]
