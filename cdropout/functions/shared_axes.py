"""Dropout of whole channels, features, time steps or samples, as functions: axes along which decisions are shared."""

from typing import Any, Literal

import numpy.typing as npt

from cdropout import _kernels
from cdropout.checks import check_flag, check_integer, shown
from cdropout.functions.dropout import dropout
from cdropout.stream import Rng

Channels = Literal["first", "last"]


def spatial_axes(n_spatial: int, n_dims: int, channels: Channels) -> tuple[int, ...]:
    """Return the spatial axes of an array with n_dims dimensions, with or without a batch axis in front.

    Raises
    ------
    ValueError
        For an n_dims other than n_spatial + 1 and n_spatial + 2, or channels other than "first" and "last".

    """
    if not isinstance(channels, str) or channels not in ("first", "last"):
        raise ValueError(f"channels must be 'first' or 'last', got {shown(channels)}")
    if n_dims not in (n_spatial + 1, n_spatial + 2):
        raise ValueError(f"x must have {n_spatial + 1} dimensions, or {n_spatial + 2} with a batch axis, got {n_dims}")
    last = n_dims if channels == "first" else n_dims - 1
    return tuple(range(last - n_spatial, last))


def dropout1d(
    x: npt.ArrayLike, p: float = 0.5, *, channels: Channels = "first", rng: Rng | None = None, out: Any = None
) -> npt.NDArray[Any]:
    """Drop whole channels of sequences.

    Parameters
    ----------
    x : array_like of float16, bfloat16, float32 or float64
        Of shape ([batch,] channels, length), or ([batch,] length, channels) with channels="last".
    p, rng, out
        As in `dropout`.
    channels : {"first", "last"}
        Position of the channel axis.

    Returns
    -------
    ndarray
        Of x's shape and dtype.

    Raises
    ------
    TypeError, ValueError
        As in `dropout`, or for another number of dimensions.

    Notes
    -----
    Source: Tompson et al., "Efficient object localization using convolutional networks", CVPR 2015.

    """
    return dropout(x, p, rng=rng, out=out, shared_axes=spatial_axes(1, _kernels.as_array(x, "x").ndim, channels))


def dropout2d(
    x: npt.ArrayLike, p: float = 0.5, *, channels: Channels = "first", rng: Rng | None = None, out: Any = None
) -> npt.NDArray[Any]:
    """Drop whole channels of images, ([batch,] channels, height, width); otherwise as `dropout1d`."""
    return dropout(x, p, rng=rng, out=out, shared_axes=spatial_axes(2, _kernels.as_array(x, "x").ndim, channels))


def dropout3d(
    x: npt.ArrayLike, p: float = 0.5, *, channels: Channels = "first", rng: Rng | None = None, out: Any = None
) -> npt.NDArray[Any]:
    """Drop whole channels of volumes, ([batch,] channels, depth, height, width); otherwise as `dropout1d`."""
    return dropout(x, p, rng=rng, out=out, shared_axes=spatial_axes(3, _kernels.as_array(x, "x").ndim, channels))


def feature_dropout(x: npt.ArrayLike, p: float = 0.5, *, rng: Rng | None = None, out: Any = None) -> npt.NDArray[Any]:
    """Drop whole features of a batch: one decision for each column, the same in all rows.

    Parameters
    ----------
    x : array_like of float16, bfloat16, float32 or float64
        Of shape (..., features); decisions are shared along all axes except the last.
    p, rng, out
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
    return dropout(x, p, rng=rng, out=out, shared_axes=tuple(range(_kernels.as_array(x, "x").ndim - 1)))


def locked_dropout(
    x: npt.ArrayLike, p: float = 0.5, *, time_axis: int = 0, rng: Rng | None = None, out: Any = None
) -> npt.NDArray[Any]:
    """Drop the same elements at all time steps.

    Parameters
    ----------
    x : array_like of float16, bfloat16, float32 or float64
        Of shape (time, batch, features), or any other with a time axis.
    p, rng, out
        As in `dropout`.
    time_axis : int
        The axis along which decisions are shared.

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
    Source: Gal & Ghahramani, "A theoretically grounded application of dropout in recurrent neural networks", NIPS 2016.

    """
    axis = check_time_axis(time_axis, _kernels.as_array(x, "x").ndim)
    return dropout(x, p, rng=rng, out=out, shared_axes=axis)


def check_time_axis(time_axis: int, n_dims: int | None = None) -> int:
    """Return a time axis as an int; TypeError if it is none, ValueError if an array of n_dims dimensions lacks it."""
    time_axis = check_integer("time_axis", time_axis)
    if n_dims is not None and not -n_dims <= time_axis < n_dims:
        raise ValueError(f"time_axis must be an axis of a {n_dims}-dimensional array, got {time_axis}")
    return time_axis


def drop_path(
    x: npt.ArrayLike, p: float = 0.5, *, scale_by_keep: bool = True, rng: Rng | None = None, out: Any = None
) -> npt.NDArray[Any]:
    """Drop whole samples: stochastic depth, on the residual branch of a block.

    Parameters
    ----------
    x : array_like of float16, bfloat16, float32 or float64
        Of shape (batch, ...).
    p, rng, out
        As in `dropout`.
    scale_by_keep : bool
        Whether to divide kept elements by 1-p.

    Returns
    -------
    ndarray
        Of x's shape and dtype.

    Raises
    ------
    TypeError, ValueError
        As in `dropout`, or for an x without a batch axis.

    Notes
    -----
    Source: Huang et al., "Deep networks with stochastic depth", ECCV 2016; the option scale_by_keep is timm's.

    """
    axes = sample_axes(_kernels.as_array(x, "x").ndim)
    if check_flag("scale_by_keep", scale_by_keep):
        return dropout(x, p, rng=rng, out=out, shared_axes=axes)
    return _kernels.forward(x, _kernels.check_p(p), rng, out, axes, 1.0, 0.0, 0.0)[0]


def sample_axes(n_dims: int) -> tuple[int, ...]:
    """Return all axes except the first; ValueError for an array of 0 dimensions."""
    if n_dims == 0:
        raise ValueError("x must have a batch axis, got an array of 0 dimensions")
    return tuple(range(1, n_dims))
