"""Samples of a fit: rows of X, gathered batch by batch, so that X of float32 or float64 is never copied as a whole."""

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

# Rows that predictions pass through the network together: enough for fast products, and few enough that hidden layers
# of 512 units stay in the second-level cache. Also how many rows are read together from a larger X.
BLOCK_ROWS = 1024


class Samples:
    """Rows of X with their targets and weights.

    Parameters
    ----------
    x : ndarray or sparse array in CSR format, of shape (n_rows, n_features)
        Read, never written or copied as a whole.
    y : ndarray of shape (n_rows,) or (n_rows, n_outputs)
        The encoded targets.
    weights : ndarray of shape (n_rows,), or None
        The weights of the rows; None if all are 1.
    rows : ndarray of intp
        The rows that are samples; a row may be several.
    dtype : dtype
        That of the batches.

    """

    def __init__(self, x: Any, y: Array, weights: Array | None, rows: npt.NDArray[np.intp], dtype: Any) -> None:
        self.x, self.y, self.weights, self.rows, self.dtype = x, y, weights, rows, np.dtype(dtype)
        self._buffer: Array | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, chosen: npt.NDArray[np.intp]) -> tuple[Any, Array, Array | None]:
        """Return inputs that may be overwritten, targets and weights of the chosen samples, until the next call."""
        rows = self.rows[chosen]
        weights = None if self.weights is None else self.weights[rows]
        if not isinstance(self.x, np.ndarray):
            return self.x[rows].astype(self.dtype, copy=False), self.y[rows], weights
        if self._buffer is None or len(self._buffer) < len(rows):
            self._buffer = np.empty((len(rows), self.x.shape[1]), self.dtype)
        inputs = self._buffer[: len(rows)]
        # np.take copies the whole of an array that is not C-contiguous.
        if self.x.flags.c_contiguous and self.x.dtype == self.dtype:
            np.take(self.x, rows, axis=0, out=inputs, mode="clip")
        else:
            inputs[...] = self.x[rows]
        return inputs, self.y[rows], weights

    def for_one_batch(self, most: int) -> "Samples":
        """Return the same samples in an order that does not depend on that of X, if at most `most` are in all.

        Weights that are whole numbers count copies, each of which is then a sample with its own mask. So a fit in one
        batch depends on the set of samples only: a weight of 2 has the effect of the same row twice.
        """
        if len(self) > most:
            return self
        rows, weights = self.rows, self.weights
        if weights is not None:
            own = weights[rows]
            if np.all(own == np.floor(own)) and own.sum() <= most:
                rows, weights = np.repeat(rows, own.astype(np.intp)), None
        targets = [self.y] if weights is None else [self.y, weights]
        keys = [
            hashlib.blake2b(b"".join([_bytes_of(self.x, row), *(each[row].tobytes() for each in targets)])).digest()
            for row in rows
        ]
        order = np.array(sorted(range(len(rows)), key=keys.__getitem__), np.intp)
        return Samples(self.x, self.y, weights, rows[order], self.dtype)

    def blocks(self) -> "list[npt.NDArray[np.intp]]":
        """Return the samples' indices in blocks of `BLOCK_ROWS`."""
        return [np.arange(a, min(a + BLOCK_ROWS, len(self))) for a in range(0, len(self), BLOCK_ROWS)]

    def digest(self) -> str:
        """Return the SHA-256 of X, targets and weights, and of their shapes, in hexadecimal."""
        sha256 = hashlib.sha256()
        parts = [self.x] if isinstance(self.x, np.ndarray) else [self.x.data, self.x.indices, self.x.indptr]
        for part in (*parts, self.y, self.rows, *([] if self.weights is None else [self.weights])):
            sha256.update(repr((part.shape, part.dtype.str)).encode())
            for begin in range(0, len(part), BLOCK_ROWS):
                sha256.update(np.ascontiguousarray(part[begin : begin + BLOCK_ROWS]).data)
        return sha256.hexdigest()


def _bytes_of(x: Any, row: Any) -> bytes:
    """Return bytes that are the same for equal rows."""
    if isinstance(x, np.ndarray):
        return bytes(x[row].tobytes())
    begin, end = x.indptr[row], x.indptr[row + 1]
    return bytes(x.indices[begin:end].tobytes() + x.data[begin:end].tobytes())


def in_blocks(x: Any, function: Callable[[Any], Array], dtype: Any) -> Array:
    """Return function(rows) of all rows of X, computed for blocks of rows of this dtype."""
    n_rows = x.shape[0]
    parts = [
        function(x[begin : begin + BLOCK_ROWS].astype(dtype, copy=False)) for begin in range(0, n_rows, BLOCK_ROWS)
    ]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
