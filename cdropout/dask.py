"""Dropout of Dask arrays, also beyond one machine's memory: the same bits for every chunking and number of workers.

    import cdropout.dask
    y = cdropout.dask.dropout(x, 0.1, rng=7)             # lazy; equals cd.dropout of the NumPy array

    mask = cd.draw_mask(x.shape, 0.1, rng=7)             # the same mask, for the backward pass too
    y, dx = cdropout.dask.apply(mask, x), cdropout.dask.apply(mask, dy)

The mask is drawn in this process, at the call. The graph holds it once, and the task of each chunk applies the chunk's
part of it. A chunk that another worker computes again, after a worker was lost, has the same bits.

Needs dask[array]; `import cdropout` does not import it.
"""

from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
from dask.array.core import normalize_chunks
from dask.layers import ArraySliceDep

from cdropout import _kernels
from cdropout.mask import Mask, drawing
from cdropout.stream import Rng


def dropout(
    array: da.Array, p: float = 0.5, *, rng: Rng | None = None, shared_axes: int | tuple[int, ...] = ()
) -> da.Array:
    """Drop each element of a Dask array with probability p and divide the others by 1-p: `cdropout.dropout`, lazily.

    Parameters
    ----------
    array : dask.array.Array of float16, bfloat16, float32 or float64
        Of any shape, with any chunks of known sizes along any axes.
    p, rng, shared_axes
        As in `cdropout.dropout`. The mask is drawn, and rng advances, at the call; computing the result twice gives the
        same bits.

    Returns
    -------
    dask.array.Array
        Of array's shape and chunks, with one task per chunk. Bit for bit equal to `cdropout.dropout` of the whole as
        one NumPy array, for the same rng.

    Raises
    ------
    TypeError, ValueError, OverflowError
        As in `cdropout.dropout`, or if array is not a Dask array of NumPy chunks, or the sizes of its chunks are
        unknown; rng does not advance then.

    Notes
    -----
    For a backward pass, draw the mask first with `cdropout.draw_mask`, and `apply` it in both passes.

    """
    check(array)
    with drawing(array.shape, p, rng, shared_axes) as mask:
        return apply(mask, array)


def apply(
    mask: Mask, array: da.Array, *, scale: float | None = None, shift: float = 0.0, fill: float = 0.0
) -> da.Array:
    """Scale the kept elements of a Dask array and set the dropped ones to zero: `Mask.apply`, lazily.

    Parameters
    ----------
    mask : Mask
        A mask from `cdropout.draw_mask`, or a part of one.
    array : dask.array.Array of float16, bfloat16, float32 or float64
        Of the mask's shape, with any chunks of known sizes along any axes.
    scale, shift, fill
        As in `Mask.apply`.

    Returns
    -------
    dask.array.Array
        Of array's shape and chunks, with one task per chunk. Bit for bit equal to `mask.apply` of the whole as one
        NumPy array.

    Raises
    ------
    TypeError, ValueError
        As in `Mask.apply`, or if array is not a Dask array of NumPy chunks, or the sizes of its chunks are unknown.

    """
    check_mask(mask)
    check(array)
    if array.shape != mask.shape:
        raise ValueError(f"array must have the mask's shape {mask.shape}, got {array.shape}")
    # Numbers for all tasks: an object of the caller's may convert to another number in each.
    scale = None if scale is None else _kernels.check_finite(scale, "scale")
    shift, fill = _kernels.check_finite(shift, "shift"), _kernels.check_finite(fill, "fill")
    nothing = (slice(0, 0),) * array.ndim
    # This call checks the other arguments; its result has the array type and the dtype of the tasks' results.
    chunk = np.zeros_like(array._meta, array.dtype, shape=(0,) * array.ndim)
    meta = mask[nothing].apply(chunk, scale=scale, shift=shift, fill=fill)
    axes = tuple(range(array.ndim))
    operands = (array, axes, ArraySliceDep(array.chunks), axes, mask, None, scale, None, shift, None, fill, None)
    return da.blockwise(apply_to_chunk, axes, *operands, meta=meta, token="dropout", align_arrays=False)


def keep(mask: Mask, chunks: Any = "auto") -> da.Array:
    """Return a bool Dask array of a mask's shape, True for kept elements: `Mask.keep`, lazily.

    Parameters
    ----------
    mask : Mask
        A mask from `cdropout.draw_mask`, or a part of one.
    chunks : int, tuple or str
        As in `dask.array.zeros`.

    Returns
    -------
    dask.array.Array
        With one task per chunk, which has no input.

    Raises
    ------
    TypeError, ValueError
        If mask is not a Mask, or chunks do not fit its shape.

    """
    check_mask(mask)
    return from_chunks(keep_of_chunk, (mask,), mask.shape, chunks, np.dtype(np.bool_))


def scaled(mask: Mask, dtype: npt.DTypeLike = np.float32, chunks: Any = "auto") -> da.Array:
    """Return a Dask array of a mask's shape, 0 for dropped and 1/(1-p) for kept elements: `Mask.scaled`, lazily.

    Parameters
    ----------
    mask, chunks
        As in `keep`.
    dtype : float16, bfloat16, float32 or float64
        The dtype of the result.

    Returns
    -------
    dask.array.Array
        With one task per chunk, which has no input.

    Raises
    ------
    TypeError, ValueError
        As in `keep`, or for another dtype.

    """
    check_mask(mask)
    result_dtype = _kernels.check_dtype(dtype)
    return from_chunks(scaled_of_chunk, (mask, result_dtype), mask.shape, chunks, result_dtype)


# ---- tasks ----------------------------------------------------------------------------------------------------------


def apply_to_chunk(
    chunk: npt.NDArray[Any], where: tuple[slice, ...], mask: Mask, scale: float | None, shift: float, fill: float
) -> npt.NDArray[Any]:
    """Apply a mask's part to a chunk, out of place because other tasks may read the chunk too."""
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
    """Return a Dask array whose chunks are the results of make_chunk(slices of the chunk, *arguments)."""
    axes = tuple(range(len(shape)))
    operands = [ArraySliceDep(normalize_chunks(chunks, shape, dtype=dtype)), axes]
    for argument in arguments:
        operands += [argument, None]
    meta = np.empty((0,) * len(axes), dtype)
    return da.blockwise(make_chunk, axes, *operands, meta=meta, token="dropout-mask", align_arrays=False)


# ---- checks ---------------------------------------------------------------------------------------------------------


def check_mask(mask: Mask) -> None:
    """Raise TypeError unless mask is a Mask."""
    if not isinstance(mask, Mask):
        raise TypeError(f"mask must be a Mask, got {type(mask).__name__}")


def check(array: da.Array) -> None:
    """Raise TypeError or ValueError unless array is a Dask array that a mask can be applied to."""
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
