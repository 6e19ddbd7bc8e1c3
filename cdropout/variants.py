"""The dropout family as functions: other shapes of masks, other values for what is dropped, noise in a mask's place."""

import math
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from cdropout import _kernels
from cdropout.checks import check_integer
from cdropout.functional import drawing, dropout, fuse
from cdropout.mask import Mask
from cdropout.noise import Noise
from cdropout.stream import Rng

Channels = Literal["first", "last"]


def spatial_axes(n_spatial: int, n_dims: int, channels: Channels) -> tuple[int, ...]:
    """Return the axes that a channel's elements lie along, with and without a batch axis in front.

    Raises
    ------
    ValueError
        For another number of dimensions than n_spatial + 1 or + 2, or channels that are neither "first" nor "last".

    """
    if channels not in ("first", "last"):
        raise ValueError(f"channels must be 'first' or 'last', got {channels!r}")
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
        Where the channels are.

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
        Of shape (..., features); decisions are shared along all axes but the last.
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
    check_time_axis(time_axis, _kernels.as_array(x, "x").ndim)
    return dropout(x, p, rng=rng, out=out, shared_axes=time_axis)


def check_time_axis(time_axis: int, n_dims: int | None = None) -> None:
    """Raise TypeError where a time axis is no integer, ValueError where an array of n_dims dimensions has it not."""
    check_integer("time_axis", time_axis)
    if n_dims is not None and not -n_dims <= time_axis < n_dims:
        raise ValueError(f"time_axis must be an axis of a {n_dims}-dimensional array, got {time_axis}")


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
        Whether to divide what is kept by 1-p.

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
    Source: Huang et al., "Deep networks with stochastic depth", ECCV 2016; the option is timm's.

    """
    axes = sample_axes(_kernels.as_array(x, "x").ndim)
    if scale_by_keep:
        return dropout(x, p, rng=rng, out=out, shared_axes=axes)
    return _masked(x, p, rng, out, axes, scale=1.0)


def sample_axes(n_dims: int) -> tuple[int, ...]:
    """Return all axes but the first; ValueError where there is none."""
    if n_dims == 0:
        raise ValueError("x must have a batch axis, got an array of 0 dimensions")
    return tuple(range(1, n_dims))


def alpha_dropout(
    x: npt.ArrayLike,
    p: float = 0.5,
    *,
    rng: Rng | None = None,
    out: Any = None,
    shared_axes: int | tuple[int, ...] = (),
) -> npt.NDArray[Any]:
    """Set elements to the value that SELU has at minus infinity, and keep mean 0 and variance 1.

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
        a = 1 / sqrt((1-p) (1 + p alpha'^2)) and b = -a p alpha'. At p = 1 all is 0.

    Raises
    ------
    TypeError, ValueError
        As in `dropout`.

    Notes
    -----
    Source: Klambauer et al., "Self-normalizing neural networks", NIPS 2017.

    """
    scale, shift, fill = _kernels.alpha_map(_kernels.check_p(p))
    return _masked(x, p, rng, out, shared_axes, scale=scale, shift=shift, fill=fill)


def feature_alpha_dropout(
    x: npt.ArrayLike, p: float = 0.5, *, rng: Rng | None = None, out: Any = None
) -> npt.NDArray[Any]:
    """Do to whole channels, (batch, channels, ...), what `alpha_dropout` does to elements.

    Parameters, result, errors and source are those of `alpha_dropout`; ValueError for fewer than 2 dimensions.
    """
    return alpha_dropout(x, p, rng=rng, out=out, shared_axes=channel_axes(_kernels.as_array(x, "x").ndim))


def channel_axes(n_dims: int) -> tuple[int, ...]:
    """Return all axes but the first two; ValueError where there are no two."""
    if n_dims < 2:
        raise ValueError(f"x must have the axes (batch, channels, ...), got {n_dims} dimensions")
    return tuple(range(2, n_dims))


def draw_noise(shape: int | tuple[int, ...], std: float, *, rng: Rng | None = None) -> Noise:
    """Draw normal noise of mean 0, to be applied as often as needed.

    Parameters
    ----------
    shape : int or tuple of int
        The shape of the arrays it will apply to.
    std : float
        The standard deviation, in [0, 1e37]; noise is float32.
    rng
        As in `dropout`.

    Returns
    -------
    Noise
        A small immutable value; no array is made.

    Raises
    ------
    TypeError, ValueError, OverflowError
        As in `dropout`, before rng moves on.

    """
    return _kernels.draw_noise(Noise, shape, std, rng)


def gaussian_dropout(x: npt.ArrayLike, p: float = 0.5, *, rng: Rng | None = None, out: Any = None) -> npt.NDArray[Any]:
    """Multiply by normal noise of mean 1 and the variance that dropout's mask has, p / (1-p).

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
    return _kernels.with_noise(Noise, True, x, noise_std(p), rng, out)[0]


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
    return _kernels.with_noise(Noise, False, x, std, rng, out)[0]


def zoneout(
    new: npt.ArrayLike, previous: npt.ArrayLike, p: float = 0.5, *, rng: Rng | None = None, out: Any = None
) -> npt.NDArray[Any]:
    """Keep elements of a recurrent network's previous state in the place of the new ones.

    Parameters
    ----------
    new : array_like of float16, bfloat16, float32 or float64
        The new state, of any shape.
    previous : array_like of new's shape and dtype
        The state before.
    p : float
        The probability that an element stays what it was.
    rng, out
        As in `dropout`; out may be new or previous.

    Returns
    -------
    ndarray
        Of new's shape and dtype: `previous` where dropped, `new` where kept, bit for bit.

    Raises
    ------
    TypeError, ValueError
        As in `dropout`, or for states that do not fit each other.

    Notes
    -----
    Source: Krueger et al., "Zoneout: regularizing RNNs by randomly preserving hidden activations", ICLR 2017.

    """
    return fuse("choose", new, None, previous, p, rng, out)


def drop_block2d(
    x: npt.ArrayLike,
    p: float = 0.1,
    *,
    block_size: int = 7,
    channels: Channels = "first",
    rng: Rng | None = None,
    out: Any = None,
) -> npt.NDArray[Any]:
    """Drop squares of an image, in each channel on its own.

    Parameters
    ----------
    x : array_like of float16, bfloat16, float32 or float64
        Of shape ([batch,] channels, height, width), or ([batch,] height, width, channels) with channels="last".
    p : float
        In [0, 1]: about the share of elements to be dropped where it is small; squares overlap, so that the share is
        nearer to 1 - exp(-p). 1 drops all.
    block_size : int
        The length of a square's side, in pixels: at least 1, and no more than height and width.
    channels : {"first", "last"}
        Where the channels are.
    rng, out
        As in `dropout`.

    Returns
    -------
    ndarray
        Of x's shape and dtype: 0 in the squares, and elsewhere x times the number of elements over the number kept.

    Raises
    ------
    TypeError, ValueError
        As in `dropout`, or for a block_size that does not fit.

    Notes
    -----
    Source: Ghiasi, Lin & Le, "DropBlock: a regularization method for convolutional networks", NeurIPS 2018. A square
    lies wholly within the image; its place is drawn with the paper's gamma.

    """
    return drop_blocks(x, p, block_size, channels, rng, out)[0]


def drop_blocks(
    x: npt.ArrayLike, p: float, block_size: int, channels: Channels, rng: Rng | None, out: Any
) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """Return the result of `drop_block2d`, and what it keeps: a bool array of x's shape."""
    array = _kernels.check_array(x, "x")
    shape = array.shape
    height, width = (shape[axis] for axis in spatial_axes(2, len(shape), channels))
    check_integer("block_size", block_size, 1, min(height, width))
    p = _kernels.check_p(p)
    result = _kernels.check_out(out, array)
    # Where a square may begin, in each channel: the channels go in front, whatever x's layout.
    n_channels = shape[-3] if channels == "first" else shape[-1]
    places = (*shape[:-3], n_channels, height - block_size + 1, width - block_size + 1)
    gamma = min(1.0, p * height * width / (block_size**2 * places[-2] * places[-1]))
    with drawing(places, 1.0 if p == 1.0 else gamma, rng) as mask:
        keep = _keep_outside_blocks(mask, block_size)
        if channels == "last":
            keep = np.moveaxis(keep, -3, -1)
        apply_blocks(array, keep, result)
    return result if out is None else out, keep


def _keep_outside_blocks(beginnings: Mask, block_size: int) -> npt.NDArray[np.bool_]:
    """Return which pixels lie outside the squares that begin where a mask drops."""
    dropped = np.logical_not(beginnings.keep())
    # A pixel is dropped where, along each axis in turn, one of the block_size places up to it begins a square.
    for axis in (-2, -1):
        padding = [(0, 0)] * dropped.ndim
        padding[axis] = (block_size - 1, block_size - 1)
        dropped = np.any(sliding_window_view(np.pad(dropped, padding), block_size, axis), axis=-1)
    return ~dropped


def apply_blocks(x: npt.NDArray[Any], keep: npt.NDArray[np.bool_], out: Any) -> npt.NDArray[Any]:
    """Zero what is not kept and scale the rest by the number of elements over the number kept."""
    result, n_kept, dropped = _kernels.check_out(out, x), int(np.count_nonzero(keep)), ~keep
    if n_kept:
        # A mask that drops nothing: its kernels scale the 16-bit types with more bits than they have.
        Mask(0, 0, 0.0, x.shape).apply(x, result, scale=keep.size / n_kept)
    result[dropped] = 0
    return result if out is None else out


def _masked(
    x: npt.ArrayLike,
    p: float,
    rng: Rng | None,
    out: Any,
    shared_axes: int | tuple[int, ...],
    *,
    scale: float,
    shift: float = 0.0,
    fill: float = 0.0,
) -> npt.NDArray[Any]:
    """Apply a mask drawn for x, with another effect than dropout's."""
    return _kernels.forward(Mask, x, _kernels.check_p(p), rng, out, shared_axes, scale, shift, fill)[0]
