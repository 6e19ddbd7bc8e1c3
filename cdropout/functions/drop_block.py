"""DropBlock, which drops squares of images, as a function."""

from typing import Any

import numpy.typing as npt

from cdropout import _kernels
from cdropout.checks import check_integer
from cdropout.functions.shared_axes import Channels, spatial_axes
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
    return _kernels.drop_squares(x, p, block_size, channels, rng, out, spatial_axes)[0]


def check_blocks(x: npt.ArrayLike, block_size: int, channels: Channels) -> npt.NDArray[Any]:
    """Return x as a plain array; TypeError or ValueError if it is not one of images, or smaller than a block."""
    array = _kernels.check_array(x, "x")
    height, width = (array.shape[axis] for axis in spatial_axes(2, array.ndim, channels))
    check_integer("block_size", block_size, 1, min(height, width))
    return array
