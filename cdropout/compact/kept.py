"""Kept rows and columns of matrices: copied to a dense smaller matrix, and back."""

from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from cdropout import _kernels
from cdropout.mask import Mask

__all__ = ["KeepWords", "gather_kept", "scatter_kept"]

Array = npt.NDArray[Any]
Rest = Literal["zero", "keep", "add"]

_VERBS = {"zero": "zero", "keep": "set", "add": "add"}


class KeepWords:
    """The decisions of a mask along one axis, 64 to a word, and how many elements they keep.

    `gather_kept` and `scatter_kept` take a mask or its KeepWords, which spare them generating the bits again.

    Parameters
    ----------
    mask : Mask
        A mask that makes one decision for each element of one axis: all its other axes are shared or have length 1.

    Attributes
    ----------
    words : ndarray of uint64, of shape (ceil(n_elems / 64),)
        Bit i % 64 of words[i // 64] is set where element i is kept; unused bits are 0. Read-only.
    n_elems, n_kept : int
        The number of decisions, and of those that keep.

    Raises
    ------
    TypeError, ValueError
        For another object, or a mask with decisions along several axes.

    """

    __slots__ = ("n_elems", "n_kept", "words")

    n_elems: int
    n_kept: int
    words: npt.NDArray[np.uint64]

    def __init__(self, mask: Mask) -> None:
        if not isinstance(mask, Mask):
            raise TypeError(f"mask must be a cdropout.Mask, got {type(mask).__name__}")
        axes = [axis for axis, n in enumerate(mask.shape) if n != 1 and axis not in mask.shared_axes]
        if len(axes) > 1 or mask.shape == () or 0 in mask.shape:
            raise ValueError(
                f"mask must make decisions along one axis, with the others shared or of length 1, got {mask!r}"
            )
        line = mask[tuple(slice(None) if axis in axes else slice(1) for axis in range(len(mask.shape)))]
        self._set(line.keep().reshape(-1))

    def _set(self, keep: npt.NDArray[np.bool_]) -> None:
        packed_bytes = np.zeros((len(keep) + 63) // 64 * 8, np.uint8)
        packed = np.packbits(keep, bitorder="little")
        packed_bytes[: len(packed)] = packed
        words = packed_bytes.view("<u8").astype(np.uint64, copy=False)
        words.flags.writeable = False
        self.words, self.n_elems, self.n_kept = words, len(keep), int(np.count_nonzero(keep))

    @classmethod
    def of_bools(cls, keep: npt.ArrayLike) -> Self:
        """Return the words of decisions that are given as a one-dimensional array of bool: True where kept."""
        decisions = np.asarray(keep)
        if decisions.dtype != np.bool_ or decisions.ndim != 1:
            raise TypeError(f"keep must be a one-dimensional array of bool, got {decisions.dtype} {decisions.shape}")
        made = cls.__new__(cls)
        made._set(decisions)
        return made

    def indices(self) -> npt.NDArray[np.intp]:
        """Return the indices of the kept elements, in order."""
        bits = np.unpackbits(self.words.astype("<u8").view(np.uint8), count=self.n_elems, bitorder="little")
        return np.flatnonzero(bits)

    def __repr__(self) -> str:
        return f"KeepWords(n_kept={self.n_kept}, n_elems={self.n_elems})"

    def __len__(self) -> int:
        return self.n_elems


Kept = Mask | KeepWords | None


def gather_kept(
    x: npt.ArrayLike, rows: Kept = None, columns: Kept = None, *, scale: float = 1.0, out: Array | None = None
) -> Array:
    """Copy the kept rows and columns of a matrix, side by side, times scale.

    Parameters
    ----------
    x : array_like of float32 or float64, of shape (n_rows, n_columns)
        The matrix. It is copied first unless it is C-contiguous in native byte order.
    rows, columns : Mask or KeepWords, optional
        What to keep of each axis; None keeps all. A mask decides along one axis (see `KeepWords`).
    scale : float
        A finite factor. With 1, the result has the bits of x.
    out : ndarray, optional
        A C-contiguous array for the result, of its shape and dtype, apart from x.

    Returns
    -------
    ndarray of shape (n_kept_rows, n_kept_columns)
        out or a new array: ``x[rows.indices()][:, columns.indices()] * scale``.

    Raises
    ------
    TypeError, ValueError
        For an argument other than the above, before anything is written.

    """
    matrix, kept_rows, kept_columns, factor = _checked(x, "x", rows, columns, scale)
    matrix = np.ascontiguousarray(matrix, matrix.dtype.newbyteorder("="))
    _check_lengths("x", matrix, kept_rows, kept_columns)
    shape = _n_kept(kept_rows, matrix.shape[0]), _n_kept(kept_columns, matrix.shape[1])
    if out is None:
        out = np.empty(shape, matrix.dtype)
    else:
        _check_out(out, shape, matrix)
    return _kernels.move_kept("gather", matrix, out, _words(kept_rows), _words(kept_columns), factor)


def scatter_kept(
    x: npt.ArrayLike,
    rows: Kept = None,
    columns: Kept = None,
    *,
    out: Array,
    rest: Rest = "zero",
    scale: float = 1.0,
) -> Array:
    """Put a dense matrix back to the kept rows and columns of a larger one, times scale.

    Parameters
    ----------
    x : array_like of float32 or float64, of shape (n_kept_rows, n_kept_columns)
        The elements, as `gather_kept` returns them. Copied first unless C-contiguous in native byte order.
    rows, columns : Mask or KeepWords, optional
        What is kept of each axis of out; None keeps all.
    out : ndarray of x's dtype, of shape (n_rows, n_columns)
        The larger matrix: C-contiguous, apart from x. No other thread may write to its rows meanwhile.
    rest : {"zero", "keep", "add"}
        "zero" sets all other elements to +0.0, "keep" leaves them as they are; "add" leaves them as well, and adds to
        the kept elements instead of replacing them.
    scale : float
        A finite factor.

    Returns
    -------
    ndarray
        out.

    Raises
    ------
    TypeError, ValueError
        For an argument other than the above, before anything is written.

    """
    if rest not in _VERBS:
        raise ValueError(f"rest must be 'zero', 'keep' or 'add', got {rest!r}")
    dense, kept_rows, kept_columns, factor = _checked(x, "x", rows, columns, scale)
    dense = np.ascontiguousarray(dense, dense.dtype.newbyteorder("="))
    if not isinstance(out, np.ndarray) or out.ndim != 2:
        raise ValueError(f"out must be an array with the axes (n_rows, n_columns), got {type(out).__name__}")
    _check_out(out, out.shape, dense)
    _check_lengths("out", out, kept_rows, kept_columns)
    shape = _n_kept(kept_rows, out.shape[0]), _n_kept(kept_columns, out.shape[1])
    if dense.shape != shape:
        raise ValueError(f"x must have the shape of what is kept, {shape}, got {dense.shape}")
    return _kernels.move_kept(_VERBS[rest], dense, out, _words(kept_rows), _words(kept_columns), factor)


def _checked(
    x: npt.ArrayLike, name: str, rows: Kept, columns: Kept, scale: float
) -> tuple[Array, KeepWords | None, KeepWords | None, float]:
    """Return the arguments converted; TypeError or ValueError if one is not valid by itself."""
    _kernels.check_unmasked(x, name)
    matrix = _kernels.as_array(x, name)
    if matrix.dtype not in (np.float32, np.float64):
        raise TypeError(f"{name} must be an array of float32 or float64, got dtype {matrix.dtype}")
    if matrix.ndim != 2:
        raise ValueError(f"{name} must have the axes (n_rows, n_columns), got shape {matrix.shape}")
    return matrix, _keep_words(rows, "rows"), _keep_words(columns, "columns"), _kernels.check_finite(scale, "scale")


def _keep_words(kept: Kept, name: str) -> KeepWords | None:
    if kept is None or isinstance(kept, KeepWords):
        return kept
    if not isinstance(kept, Mask):
        raise TypeError(f"{name} must be a Mask, KeepWords or None, got {type(kept).__name__}")
    return KeepWords(kept)


def _check_lengths(name: str, matrix: Array, rows: KeepWords | None, columns: KeepWords | None) -> None:
    for axis, kept, what in ((0, rows, "rows"), (1, columns, "columns")):
        if kept is not None and kept.n_elems != matrix.shape[axis]:
            raise ValueError(
                f"{what} must decide on each of the {matrix.shape[axis]} {what} of {name}, got {kept.n_elems} decisions"
            )


def _check_out(out: Array, shape: tuple[int, ...], x: Array) -> None:
    """Raise TypeError or ValueError unless out can be written as it is, has shape and dtype, and is apart from x."""
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be an ndarray, got {type(out).__name__}")
    if out.shape != shape:
        raise ValueError(f"out must have the shape of what is kept, {shape}, got {out.shape}")
    if out.dtype != x.dtype or not out.dtype.isnative:
        raise TypeError(f"out must have the dtype of x, {x.dtype}, in native byte order, got {out.dtype}")
    if not (out.flags.c_contiguous and out.flags.writeable and out.flags.aligned):
        raise ValueError(f"out must be C-contiguous and writable, got strides {out.strides} for shape {out.shape}")
    if np.may_share_memory(x, out):
        raise ValueError("out must be apart from x, got an out that overlaps x")


def _n_kept(kept: KeepWords | None, length: int) -> int:
    return length if kept is None else kept.n_kept


def _words(kept: KeepWords | None) -> npt.NDArray[np.uint64] | None:
    return None if kept is None else kept.words
