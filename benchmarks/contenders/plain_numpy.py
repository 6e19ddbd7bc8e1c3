"""Make dropout in plain NumPy: the fastest known code, and the code of write-ups."""

from collections.abc import Callable

import numpy as np

from benchmarks.cases import Array, Case, Skip
from benchmarks.contenders.contender import Call
from benchmarks.result_check import Expectation, expect_dropout
from cdropout.bench.numpy_code import WRITE_UPS, best_dropout, write_up_dropout


def numpy_best(case: Case) -> Call:
    """Draw float32 numbers with the fastest generator into a ready buffer, compare, and multiply twice."""
    return best_dropout(*case.source_and_target, case.p)


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


def compare_bits(case: Case, n_bits: int, draw_bytes: Callable[[int], bytes]) -> Call:
    """Compare random integers of 8 or 16 bits with p, whose precision they limit, and multiply twice."""
    p, dtype = nearest_p(case.p, n_bits), np.dtype(f"u{n_bits // 8}")
    x, y, threshold, scale = case.x, case.y, dtype.type(p * 2**n_bits), case.dtype.type(1 / (1 - p))
    keep = np.empty(case.n_elems, bool)

    def call() -> Array:
        np.greater_equal(np.frombuffer(draw_bytes(keep.size * dtype.itemsize), dtype), threshold, out=keep)
        np.multiply(x, keep, out=y)
        np.multiply(y, scale, out=y)
        return y

    return call


def numpy_bytes(case: Case) -> Call:
    """Compare random bytes, an eighth of the work of drawing floats."""
    return compare_bits(case, 8, np.random.Generator(np.random.SFC64(1)).bytes)


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
