"""Normal noise, multiplied or added, as functions."""

import math
from typing import Any

import numpy.typing as npt

from cdropout import _kernels
from cdropout.stream import Rng


def gaussian_dropout(x: npt.ArrayLike, p: float = 0.5, *, rng: Rng | None = None, out: Any = None) -> npt.NDArray[Any]:
    """Multiply by normal noise of mean 1 and variance p / (1-p), the variance of dropout's mask.

    Parameters
    ----------
    x : array_like of float16, bfloat16, float32 or float64
        Of any shape.
    p : float
        In [0, 1).
    rng, out
        As in `dropout`.

    Returns
    -------
    ndarray
        Of x's shape and dtype.

    Raises
    ------
    TypeError, ValueError
        As in `dropout`.

    Notes
    -----
    Source: Srivastava et al., JMLR 15, 2014, section 10.

    """
    return _kernels.with_noise(True, x, noise_std(p), rng, out)[0]


def noise_std(p: float) -> float:
    """Return sqrt(p / (1-p)); ValueError for a p outside [0, 1)."""
    p = _kernels.check_p(p)
    if p == 1.0:
        raise ValueError(f"p must be in [0, 1) for normal noise, got {p}")
    return math.sqrt(p / (1 - p))


def gaussian_noise(x: npt.ArrayLike, std: float, *, rng: Rng | None = None, out: Any = None) -> npt.NDArray[Any]:
    """Add normal noise of mean 0.

    Parameters
    ----------
    x : array_like of float16, bfloat16, float32 or float64
        Of any shape.
    std : float
        The standard deviation, in [0, 1e37]; noise is float32.
    rng, out
        As in `dropout`.

    Returns
    -------
    ndarray
        Of x's shape and dtype.

    Raises
    ------
    TypeError, ValueError
        As in `dropout`.

    """
    return _kernels.with_noise(False, x, std, rng, out)[0]
