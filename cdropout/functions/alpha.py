"""Alpha dropout, for networks of SELUs, as functions."""

from typing import Any

import numpy.typing as npt

from cdropout import _kernels
from cdropout.stream import Rng


def alpha_dropout(
    x: npt.ArrayLike,
    p: float = 0.5,
    *,
    rng: Rng | None = None,
    out: Any = None,
    shared_axes: int | tuple[int, ...] = (),
) -> npt.NDArray[Any]:
    """Set dropped elements to SELU's value at minus infinity, and keep mean 0 and variance 1.

    Parameters
    ----------
    x : array_like of float16, bfloat16, float32 or float64
        Of mean 0 and variance 1.
    p, rng, out, shared_axes
        As in `dropout`.

    Returns
    -------
    ndarray
        a * (x where kept, alpha' where dropped) + b, of x's shape and dtype, with alpha' = -1.758...,
        a = 1 / sqrt((1-p) (1 + p alpha'^2)) and b = -a p alpha'. At p = 1 all elements are 0.

    Raises
    ------
    TypeError, ValueError
        As in `dropout`.

    Notes
    -----
    Source: Klambauer et al., "Self-normalizing neural networks", NIPS 2017.

    """
    p = _kernels.check_p(p)
    return _kernels.forward(x, p, rng, out, shared_axes, *_kernels.alpha_map(p))[0]


def feature_alpha_dropout(
    x: npt.ArrayLike, p: float = 0.5, *, rng: Rng | None = None, out: Any = None
) -> npt.NDArray[Any]:
    """Drop whole channels, (batch, channels, ...), as `alpha_dropout` drops elements.

    Parameters, result, errors and source are those of `alpha_dropout`; ValueError for fewer than 2 dimensions.
    """
    return alpha_dropout(x, p, rng=rng, out=out, shared_axes=channel_axes(_kernels.as_array(x, "x").ndim))


def channel_axes(n_dims: int) -> tuple[int, ...]:
    """Return all axes except the first two; ValueError for fewer than two dimensions."""
    if n_dims < 2:
        raise ValueError(f"x must have the axes (batch, channels, ...), got {n_dims} dimensions")
    return tuple(range(2, n_dims))
