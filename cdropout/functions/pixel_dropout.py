"""Dropout of the pixels of images as a function."""

from typing import Any

import numpy.typing as npt

from cdropout import _kernels
from cdropout.checks import check_flag, shown
from cdropout.functions.shared_axes import Channels
from cdropout.mask import Mask
from cdropout.stream import Rng

Array = npt.NDArray[Any]


def image_axes(image: Array, channels: Channels) -> tuple[int, int, int | None]:
    """Return the axes of height, width and channels of an image or a batch of images; None without a channel axis.

    Raises
    ------
    ValueError
        For a number of dimensions other than 2, 3 and 4, or channels other than "first" and "last".

    """
    if not isinstance(channels, str) or channels not in ("first", "last"):
        raise ValueError(f"channels must be 'first' or 'last', got {shown(channels)}")
    if image.ndim not in (2, 3, 4):
        raise ValueError(f"image must have 2 dimensions, 3 with channels, or 4 with a batch axis, got {image.ndim}")
    if image.ndim == 2:
        return 0, 1, None
    n = image.ndim
    return (n - 2, n - 1, n - 3) if channels == "first" else (n - 3, n - 2, n - 1)


def fill_of_channels(fill: npt.ArrayLike, image: Array, channel_axis: int | None) -> Array:
    """Return a fill value, or one for each channel, in a shape that broadcasts to the image's.

    Raises
    ------
    TypeError
        For a masked array.
    ValueError
        For another number of values, or values of more than one dimension.

    """
    _kernels.check_unmasked(fill, "fill", "masked values would be used")
    values = _kernels.as_array(fill, "fill")
    if values.ndim == 0:
        return values
    n_channels = 1 if channel_axis is None else image.shape[channel_axis]
    if values.shape not in ((1,), (n_channels,)):
        rule = "a number" if channel_axis is None else f"a number, or one for each of {n_channels} channels"
        got = f"{values.size} numbers" if values.ndim == 1 else f"an array of shape {values.shape}"
        raise ValueError(f"fill must be {rule}, got {got}")
    return values if channel_axis is None else values.reshape(-1, *(1,) * (image.ndim - 1 - channel_axis))


def pixel_dropout(
    image: npt.ArrayLike,
    p: float = 0.01,
    *,
    per_channel: bool = False,
    fill: npt.ArrayLike = 0,
    channels: Channels = "last",
    rng: Rng | None = None,
    out: Any = None,
    return_mask: bool = False,
) -> Array | tuple[Array, Mask]:
    """Replace random pixels of an image, or of each image of a batch, by a fill value; the others are copied.

    Parameters
    ----------
    image : array_like of bool, integers, float16, bfloat16, float32 or float64
        Of shape (height, width), (height, width, channels) or (batch, height, width, channels); with
        channels="first", ([batch,] channels, height, width).
    p : float
        The probability of dropping a pixel, in [0, 1].
    per_channel : bool
        Whether each channel of a pixel has its own decision. By default, a pixel is dropped in all channels.
    fill : scalar or array_like
        Value of dropped elements, or one for each channel; values of the image's dtype.
    channels : {"last", "first"}
        Position of the channel axis.
    rng
        As in `dropout`. Each decision takes one position of the stream, in C order.
    out : ndarray, or an object that shares its memory, optional
        Array for the result, of the image's shape and dtype: either the image itself or memory apart from it.
    return_mask : bool
        Whether to return the mask, too.

    Returns
    -------
    ndarray, or tuple of ndarray and Mask
        out, or a new array of the image's shape and dtype. Kept elements are not scaled. `mask.select(labels)` drops
        the same pixels of another array of this shape, `mask.dropped()` tells which they are.

    Raises
    ------
    TypeError, ValueError, OverflowError
        As in `dropout` and `Mask.select`, before anything is written or drawn.

    """
    array = _kernels.as_array(image, "image")
    _, _, channel_axis = image_axes(array, channels)
    shared_axes = () if check_flag("per_channel", per_channel) or channel_axis is None else (channel_axis,)
    check_flag("return_mask", return_mask)
    # An int, the default, is checked faster as it is.
    values = fill if type(fill) is int else fill_of_channels(fill, array, channel_axis)
    result, mask = _kernels.draw_selection(image, "image", p, values, rng, out, shared_axes)
    return (result, mask) if return_mask else result
