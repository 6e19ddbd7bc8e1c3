"""Dask arrays: dropout past one machine's memory, the same bits for every chunking and number of workers.

    import cdropout.dask
    y = cdropout.dask.dropout(x, 0.1, rng=7)             # lazy; what cd.dropout gives for the NumPy array

    mask = cd.draw_mask(x.shape, 0.1, rng=7)             # the same mask, for the backward pass too
    y, dx = cdropout.dask.apply(mask, x), cdropout.dask.apply(mask, dy)

What is drawn is a mask's value, at the call and in this process. The graph carries it once, and each chunk's task makes
the chunk's part of it: a chunk that is computed again, on another worker, after a worker was lost, is the same.

Needs dask[array]; `import cdropout` does not import it.
"""

from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
from dask.array.core import normalize_chunks
from dask.layers import ArraySliceDep

from cdropout import _kernels
from cdropout.mask import Mask, draw_mask
from cdropout.stream import Rng


def dropout(
    array: da.Array, p: float = 0.5, *, rng: Rng | None = None, shared_axes: int | tuple[int, ...] = ()
) -> da.Array:
    """Drop each element of a Dask array with probability p and divide the others by 1-p: `cdropout.dropout`, lazily.

    Parameters
    ----------
    array : dask.array.Array of float16, bfloat16, float32 or float64
        Of any shape and any chunks along any axes, of known sizes.
    p, rng, shared_axes
        As in `cdropout.dropout`. The mask is drawn, and rng moves on, when this is called; computing the result twice
        gives the same bits.

    Returns
    -------
    dask.array.Array
        Of array's shape and chunks: `cdropout.dropout` of the whole as one NumPy array, bit for bit, for the same rng.
        One task a chunk.

    Raises
    ------
    TypeError, ValueError, OverflowError
        As in `cdropout.dropout`, for what is not a Dask array of NumPy chunks, and for chunks of unknown sizes. Before
        rng moves on.

    Notes
    -----
    For a backward pass draw the mask first, with `cdropout.draw_mask`, and `apply` it to both.

    """
    check(array)
    return apply(draw_mask(array.shape, p, rng=rng, shared_axes=shared_axes), array)


def apply(
    mask: Mask, array: da.Array, *, scale: float | None = None, shift: float = 0.0, fill: float = 0.0
) -> da.Array:
    """Scale what a mask keeps and zero what it drops: `Mask.apply`, lazily.

    Parameters
    ----------
    mask : Mask
        As `cdropout.draw_mask` draws it, or a part of such a mask.
    array : dask.array.Array of float16, bfloat16, float32 or float64
        Of the mask's shape, with any chunks along any axes, of known sizes.
    scale, shift, fill
        As in `Mask.apply`.

    Returns
    -------
    dask.array.Array
        Of array's shape and chunks: `mask.apply` of the whole as one NumPy array, bit for bit. One task a chunk.

    Raises
    ------
    TypeError, ValueError
        As in `Mask.apply`, for what is not a Dask array of NumPy chunks, and for chunks of unknown sizes.

    """
    check_mask(mask)
    check(array)
    if array.shape != mask.shape:
        raise ValueError(f"array must have the mask's shape {mask.shape}, got {array.shape}")
    nothing = (slice(0, 0),) * array.ndim
    # Checks the other arguments, and has the dtype and the type of what the tasks will give.
    meta = mask[nothing].apply(np.zeros((0,) * array.ndim, array.dtype), scale=scale, shift=shift, fill=fill)
    axes = tuple(range(array.ndim))
    operands = (array, axes, ArraySliceDep(array.chunks), axes, mask, None, scale, None, shift, None, fill, None)
    return da.blockwise(apply_to_chunk, axes, *operands, meta=meta, token="dropout", align_arrays=False)


def keep(mask: Mask, chunks: Any = "auto") -> da.Array:
    """Return a bool Dask array of a mask's shape, True where an element is kept: `Mask.keep`, lazily.

    Parameters
    ----------
    mask : Mask
        As `cdropout.draw_mask` draws it, or a part of such a mask.
    chunks : int, tuple or str
        As in `dask.array.zeros`.

    Returns
    -------
    dask.array.Array
        One task a chunk, without an input.

    Raises
    ------
    TypeError, ValueError
        For what is not a mask, and for chunks that do not fit its shape.

    """
    check_mask(mask)
    return from_chunks(keep_of_chunk, (mask,), mask.shape, chunks, np.dtype(np.bool_))


def scaled(mask: Mask, dtype: npt.DTypeLike = np.float32, chunks: Any = "auto") -> da.Array:
    """Return a Dask array of 0 where a mask drops and 1/(1-p) where it keeps: `Mask.scaled`, lazily.

    Parameters
    ----------
    mask, chunks
        As in `keep`.
    dtype : float16, bfloat16, float32 or float64
        The dtype of the result.

    Returns
    -------
    dask.array.Array
        One task a chunk, without an input.

    Raises
    ------
    TypeError, ValueError
        As in `keep`, and for another dtype.

    """
    check_mask(mask)
    result_dtype = _kernels.check_dtype(dtype)
    return from_chunks(scaled_of_chunk, (mask, result_dtype), mask.shape, chunks, result_dtype)


# ---- tasks ----------------------------------------------------------------------------------------------------------


def apply_to_chunk(
    chunk: npt.NDArray[Any], where: tuple[slice, ...], mask: Mask, scale: float | None, shift: float, fill: float
) -> npt.NDArray[Any]:
    """Apply the part of a mask that covers a chunk; out of place, because other tasks may read the chunk too."""
    return mask[where].apply(chunk, scale=scale, shift=shift, fill=fill)


def keep_of_chunk(where: tuple[slice, ...], mask: Mask) -> npt.NDArray[np.bool_]:
    """Return a chunk of `keep`."""
    return mask[where].keep()


def scaled_of_chunk(where: tuple[slice, ...], mask: Mask, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Return a chunk of `scaled`."""
    return mask[where].scaled(dtype)


def from_chunks(
    make_chunk: Any, arguments: tuple[Any, ...], shape: tuple[int, ...], chunks: Any, dtype: np.dtype[Any]
) -> da.Array:
    """Return an array made chunk by chunk, by calls with the chunk's slices and the arguments."""
    axes = tuple(range(len(shape)))
    operands = [ArraySliceDep(normalize_chunks(chunks, shape, dtype=dtype)), axes]
    for argument in arguments:
        operands += [argument, None]
    meta = np.empty((0,) * len(axes), dtype)
    return da.blockwise(make_chunk, axes, *operands, meta=meta, token="dropout-mask", align_arrays=False)


# ---- checks ---------------------------------------------------------------------------------------------------------


def check_mask(mask: Mask) -> None:
    """Raise TypeError for what is not a mask."""
    if not isinstance(mask, Mask):
        raise TypeError(f"mask must be a Mask, got {type(mask).__name__}")


def check(array: da.Array) -> None:
    """Raise unless array is a Dask array that a mask can be applied to."""
    if not isinstance(array, da.Array):
        raise TypeError(f"array must be a Dask array, got {type(array).__name__}")
    if not isinstance(array._meta, np.ndarray):
        raise TypeError(f"array must have NumPy arrays as chunks, got {type(array._meta).__name__}")
    _kernels.check_array(np.empty(0, array.dtype), "array")
    if any(np.isnan(n) for lengths in array.chunks for n in lengths):
        raise ValueError(
            "array must have chunks of known sizes (call its compute_chunk_sizes() first), "
            f"got chunks {array.chunks} for shape {array.shape}"
        )
