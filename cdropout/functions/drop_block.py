"""DropBlock, which drops squares of images, as a function."""

from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from cdropout import _kernels
from cdropout.checks import check_integer
from cdropout.functions.shared_axes import Channels, spatial_axes
from cdropout.mask import Mask, drawing
from cdropout.stream import Rng


def drop_block2d(
    x: npt.ArrayLike,
    p: float = 0.1,
    *,
    block_size: int = 7,
    channels: Channels = "first",
    rng: Rng | None = None,
    out: Any = None,
) -> npt.NDArray[Any]:
    """Drop squares of an image, independently in each channel.

    Parameters
    ----------
    x : array_like of float16, bfloat16, float32 or float64
        Of shape ([batch,] channels, height, width), or ([batch,] height, width, channels) with channels="last".
    p : float
        Share of elements to be dropped, in [0, 1]; because squares overlap, the expected share is about 1 - exp(-p). 1
        drops all.
    block_size : int
        The length of a square's side, in pixels: at least 1, and no more than height and width.
    channels : {"first", "last"}
        Position of the channel axis.
    rng, out
        As in `dropout`.

    Returns
    -------
    ndarray
        An array of x's shape and dtype: 0 in the squares; elsewhere x times (number of elements / number kept).

    Raises
    ------
    TypeError, ValueError
        As in `dropout`, or for a block_size out of its range.

    Notes
    -----
    Source: Ghiasi, Lin & Le, "DropBlock: a regularization method for convolutional networks", NeurIPS 2018. Squares
    lie entirely within the image; their positions are drawn with the paper's gamma.

    """
    return drop_blocks(x, p, block_size, channels, rng, out)[0]


def drop_blocks(
    x: npt.ArrayLike, p: float, block_size: int, channels: Channels, rng: Rng | None, out: Any
) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """Return the result of `drop_block2d` and a bool array of x's shape, True where an element is kept."""
    array, block_size = check_blocks(x, block_size, channels)
    shape = array.shape
    height, width = (shape[axis] for axis in spatial_axes(2, len(shape), channels))
    p = _kernels.check_p(p)
    result = _kernels.check_out(out, array)
    # One position for each place of a square's upper left corner, channels first whatever x's layout.
    n_channels = shape[-3] if channels == "first" else shape[-1]
    corners = (*shape[:-3], n_channels, height - block_size + 1, width - block_size + 1)
    gamma = min(1.0, p * height * width / (block_size**2 * corners[-2] * corners[-1]))
    arrays = (("x", array), ("out", result))
    with drawing(corners, 1.0 if p == 1.0 else gamma, rng, arrays=arrays) as mask:
        keep = _keep_outside_blocks(mask, block_size)
        if channels == "last":
            keep = np.moveaxis(keep, -3, -1)
        apply_blocks(array, keep, result)
        return _kernels.handed_back(result, out, x), keep


def check_blocks(x: npt.ArrayLike, block_size: int, channels: Channels) -> tuple[npt.NDArray[Any], int]:
    """Return x as a plain array, and block_size as an int.

    TypeError or ValueError if x is not an array of images, or smaller than a block.
    """
    array = _kernels.check_array(x, "x")
    height, width = (array.shape[axis] for axis in spatial_axes(2, array.ndim, channels))
    return array, check_integer("block_size", block_size, 1, min(height, width))


def _keep_outside_blocks(corners: Mask, block_size: int) -> npt.NDArray[np.bool_]:
    """Return a bool array: True outside the squares whose upper left corners a mask drops."""
    dropped = corners.dropped()
    # A pixel lies in a square if, along each axis, a corner is among the block_size pixels that end with it.
    for axis in (-2, -1):
        padding = [(0, 0)] * dropped.ndim
        padding[axis] = (block_size - 1, block_size - 1)
        dropped = np.any(sliding_window_view(np.pad(dropped, padding), block_size, axis), axis=-1)
    return ~dropped


def apply_blocks(x: npt.NDArray[Any], keep: npt.NDArray[np.bool_], result: npt.NDArray[Any]) -> None:
    """Set elements that are not kept to 0 and multiply the others by (number of elements / number kept)."""
    n_kept, dropped = int(np.count_nonzero(keep)), ~keep
    if n_kept:
        # Multiply by a mask that drops nothing, because its kernels round the 16-bit types only once.
        Mask(0, 0, 0.0, x.shape).apply(x, result, scale=keep.size / n_kept)
    result[dropped] = 0
