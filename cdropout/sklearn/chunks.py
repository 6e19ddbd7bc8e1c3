"""Chunks of Dask arrays, for `partial_fit`."""

from collections.abc import Iterator
from typing import Any


def by_chunks(X: Any, y: Any, sample_weight: Any) -> Iterator[tuple[Any, Any, Any]]:
    """Yield rows, targets and weights: all at once, or those of each chunk of rows if X is a Dask array.

    One chunk of rows is computed at a time. Chunks without rows are skipped, except in an X without rows, so that the
    fit refuses it.

    Raises
    ------
    ValueError
        If X is a Dask array with unknown sizes of chunks, or y or sample_weight has another number of rows.

    """
    if not hasattr(X, "dask") or not hasattr(X, "chunks"):
        yield X, y, sample_weight
        return
    lengths = X.chunks[0]
    if any(length != length for length in lengths):
        raise ValueError("X must have chunks of known sizes: call its compute_chunk_sizes() first.")
    for name, other in (("y", y), ("sample_weight", sample_weight)):
        if other is not None and len(other) != sum(lengths):
            raise ValueError(f"{name} must have the {sum(lengths)} rows of X, got {len(other)}")
    begin = 0
    for length in lengths:
        if length == 0 and sum(lengths) > 0:
            continue
        rows = slice(begin, begin + length)
        begin += length
        yield _computed(X[rows]), _computed(y[rows]), None if sample_weight is None else _computed(sample_weight[rows])


def _computed(part: Any) -> Any:
    return part.compute() if hasattr(part, "compute") else part
