"""Masks as write-ups of dropout in plain NumPy make them: one float64 (or more) of randomness for each element.

Each function returns what the write-up multiplies by; `keep_prob` is 1-p, as they call it.
"""

from collections.abc import Callable

import numpy as np
from cases import Array


def compare_uniforms(shape: tuple[int, ...], keep_prob: float) -> Array:
    """Compare uniform numbers with keep_prob, and keep the bools: scaling is left for after the multiplication."""
    return np.random.rand(*shape) < keep_prob  # noqa: NPY002 - the legacy generator is what they use


def divide_comparison(shape: tuple[int, ...], keep_prob: float) -> Array:
    """Compare uniform numbers with keep_prob and divide by it: a float64 mask."""
    return (np.random.rand(*shape) < keep_prob) / keep_prob  # noqa: NPY002


def divide_binomials(shape: tuple[int, ...], keep_prob: float) -> Array:
    """Draw binomial numbers of one trial and divide them by keep_prob: a float64 mask."""
    return np.random.binomial(1, keep_prob, size=shape) / keep_prob  # noqa: NPY002


# name -> (how the mask is made, whether the product must still be divided by keep_prob)
WRITE_UPS: dict[str, tuple[Callable[[tuple[int, ...], float], Array], bool]] = {
    "write-up-1": (compare_uniforms, True),
    "write-up-2": (divide_comparison, False),
    "write-up-3": (divide_binomials, False),
}
