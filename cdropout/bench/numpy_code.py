"""Dropout in plain NumPy: the fastest known code, and the code that write-ups of dropout show."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def best_dropout(x: Array, out: Array, p: float) -> Callable[[], Array]:
    """Return a function that drops elements of x into out, of x's shape and dtype, with buffers allocated beforehand.

    SFC64, the fastest of NumPy's generators, draws a float32 for each element; a comparison with p and two products
    follow.
    """
    rng = np.random.Generator(np.random.SFC64(1))
    threshold, scale = np.float32(p), x.dtype.type(1 / (1 - p))
    numbers, keep = np.empty(x.shape, np.float32), np.empty(x.shape, bool)

    def call() -> Array:
        rng.random(out=numbers, dtype=np.float32)
        np.greater_equal(numbers, threshold, out=keep)
        np.multiply(x, keep, out=out)
        np.multiply(out, scale, out=out)
        return out

    return call


# Masks as in write-ups: at least one random float64 for each element. Each function returns the array by which the
# write-up multiplies; keep_prob is 1-p, as in the write-ups.


def compare_uniforms(shape: tuple[int, ...], keep_prob: float) -> Array:
    """Compare uniform numbers with keep_prob: a bool mask, to be followed by a division of the product."""
    return np.random.rand(*shape) < keep_prob  # noqa: NPY002 - write-ups use the legacy generator


def divide_comparison(shape: tuple[int, ...], keep_prob: float) -> Array:
    """Compare uniform numbers with keep_prob and divide by it: a float64 mask."""
    return (np.random.rand(*shape) < keep_prob) / keep_prob  # noqa: NPY002


def divide_binomials(shape: tuple[int, ...], keep_prob: float) -> Array:
    """Draw binomial numbers of one trial and divide them by keep_prob: a float64 mask."""
    return np.random.binomial(1, keep_prob, size=shape) / keep_prob  # noqa: NPY002


class WriteUp(NamedTuple):
    """A write-up's code: its mask's function, whether the product is divided by keep_prob afterwards, and the text."""

    draw: Callable[[tuple[int, ...], float], Array]
    divides_after: bool
    code: str


WRITE_UPS = {
    "write-up-1": WriteUp(compare_uniforms, True, "x * (rand(*shape) < keep) / keep"),
    "write-up-2": WriteUp(divide_comparison, False, "x * ((rand(*shape) < keep) / keep)"),
    "write-up-3": WriteUp(divide_binomials, False, "x * (binomial(1, keep) / keep)"),
}


def write_up_dropout(name: str, x: Array, p: float) -> Callable[[], Array]:
    """Return a function that runs a write-up's forward pass; name is its key in `WRITE_UPS`."""
    draw, keep_prob = WRITE_UPS[name].draw, 1 - p
    if WRITE_UPS[name].divides_after:
        return lambda: x * draw(x.shape, keep_prob) / keep_prob
    return lambda: x * draw(x.shape, keep_prob)
