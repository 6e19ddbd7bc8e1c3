"""Dropout of rectangles of images as a function."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cdropout import _kernels
from cdropout.checks import check_flag, check_integer, is_integer
from cdropout.functions.pixel_dropout import fill_of_channels, image_axes
from cdropout.functions.shared_axes import Channels
from cdropout.functions.words import Words, below_of_word, check_range, shape_of_words, words_of
from cdropout.mask import drawing
from cdropout.stream import Rng

Array = npt.NDArray[Any]
WORDS_OF_A_HOLE = 4  # height, width, top, left


def coarse_dropout(
    image: npt.ArrayLike,
    *,
    num_holes_range: Sequence[int] = (1, 2),
    hole_height_range: Sequence[float] = (0.1, 0.2),
    hole_width_range: Sequence[float] = (0.1, 0.2),
    fill: npt.ArrayLike = 0,
    channels: Channels = "last",
    rng: Rng | None = None,
    out: Any = None,
    return_mask: bool = False,
) -> Array | tuple[Array, npt.NDArray[np.bool_]]:
    """Replace random rectangles of an image, or of each image of a batch, by a fill value (cutout).

    Parameters
    ----------
    image : array_like of bool, integers, float16, bfloat16, float32 or float64
        Of shape (height, width), (height, width, channels) or (batch, height, width, channels); with
        channels="first", ([batch,] channels, height, width).
    num_holes_range : (int, int)
        The least and the largest number of rectangles of an image; each number between them is equally likely.
    hole_height_range, hole_width_range : (float, float) or (int, int)
        The least and the largest height and width of a rectangle: fractions below 1 of the image's height and width, or
        integers, which are pixels. Each size between them is equally likely.
    fill : scalar or array_like
        Value of dropped elements, or one for each channel; values of the image's dtype.
    channels : {"last", "first"}
        Position of the channel axis.
    rng
        As in `dropout`. See Notes for what is drawn.
    out : ndarray, or an object that shares its memory, optional
        Array for the result, of the image's shape and dtype: either the image itself or memory apart from it.
    return_mask : bool
        Whether to return the decisions, too.

    Returns
    -------
    ndarray, or tuple of two ndarrays
        out, or a new array of the image's shape and dtype; and a bool array of shape ([batch,] height, width), True for
        pixels that are kept.

    Raises
    ------
    TypeError, ValueError, OverflowError
        For a range that is not two numbers in order, or mixes fractions and pixels, and as in `dropout` and
        `Mask.select`, before anything is written or drawn.

    Notes
    -----
    Rectangles lie within the image and may overlap. An image takes 1 + 4 n words of 64 bits of the generator's raw
    output, where n is the largest number of rectangles: their number, then height, width, top and left of each; 1024
    words take the positions of a block. A word w stands for the integer floor((w >> 32) k / 2^32) of [0, k).

    Source: DeVries & Taylor, "Improved regularization of convolutional neural networks with cutout",
    arXiv:1708.04552, 2017.

    """
    array = _kernels.as_array(image, "image")
    y_axis, x_axis, channel_axis = image_axes(array, channels)
    size = array.shape[y_axis], array.shape[x_axis]
    ranges = checked_ranges(num_holes_range, hole_height_range, hole_width_range, size)
    check_flag("return_mask", return_mask)
    values = fill_of_channels(fill, array, channel_axis)
    x, result = _kernels.check_selection(image, "image", fill if type(fill) is int else values, out)
    n_images = x.shape[0] if x.ndim == 4 else 1
    n_words_of_an_image = 1 + WORDS_OF_A_HOLE * ranges[0][1]
    n_words = n_images * n_words_of_an_image
    # A copy in the result's dtype, before anything is written: fill may be a part of out, and a conversion may warn.
    with np.errstate(all="ignore"):
        fills = np.array(values, result.dtype).reshape(-1)
    with drawing(shape_of_words(n_words), 0.5, rng, arrays=(("image", x), ("out", result))) as room:
        words = words_of(room, n_words).reshape(n_images, n_words_of_an_image)
        kept = np.ones((n_images, *size), bool) if return_mask else None
        if result is not x:
            np.copyto(result, x)
        images = result if channel_axis is None or channels == "last" else np.moveaxis(result, channel_axis, -1)
        for i, each in enumerate(images if x.ndim == 4 else images[None]):
            for top, left, bottom, right in holes_of(words[i], *ranges, size):
                each[top:bottom, left:right] = fills
                if kept is not None:
                    kept[i, top:bottom, left:right] = False
        returned = _kernels.handed_back(result, out, image)
    if kept is None:
        return returned
    return returned, kept if x.ndim == 4 else kept[0]


def checked_ranges(
    num_holes_range: Any, hole_height_range: Any, hole_width_range: Any, size: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Return the ranges of the number, the height and the width of rectangles in an image of a size, in pixels."""
    least, most = check_range("num_holes_range", num_holes_range)
    numbers = check_integer("num_holes_range", least, 0, 1 << 16), check_integer("num_holes_range", most, 0, 1 << 16)
    heights, widths = (
        pixels_of(name, given, length)
        for name, given, length in (
            ("hole_height_range", hole_height_range, size[0]),
            ("hole_width_range", hole_width_range, size[1]),
        )
    )
    return numbers, heights, widths


def pixels_of(name: str, given: Any, length: int) -> tuple[int, int]:
    """Return a range of fractions or pixels as pixels, at most the image's length."""
    least, most = check_range(name, given)
    if most < 1:
        least, most = float(least) * length, float(most) * length  # float16 would overflow
    elif not (is_integer(least) and is_integer(most)):
        raise ValueError(f"{name} must be fractions below 1, or pixels as integers, got {given!r}")
    return min(int(least), length), min(int(most), length)


def holes_of(
    words: Words, numbers: tuple[int, int], heights: tuple[int, int], widths: tuple[int, int], size: tuple[int, int]
) -> list[tuple[int, int, int, int]]:
    """Return the rectangles (top, left, bottom, right) of an image, in the order of its words."""
    # An image has few rectangles, and for few words, Python's integers take less time than arrays.
    n_holes = numbers[0] + below_of_word(int(words[0]), numbers[1] - numbers[0] + 1)
    of_holes, holes = words[1 : 1 + WORDS_OF_A_HOLE * n_holes].tolist(), []
    for i in range(0, len(of_holes), WORDS_OF_A_HOLE):
        height = heights[0] + below_of_word(of_holes[i], heights[1] - heights[0] + 1)
        width = widths[0] + below_of_word(of_holes[i + 1], widths[1] - widths[0] + 1)
        top = below_of_word(of_holes[i + 2], size[0] - height + 1)
        left = below_of_word(of_holes[i + 3], size[1] - width + 1)
        holes.append((top, left, top + height, left + width))
    return holes
