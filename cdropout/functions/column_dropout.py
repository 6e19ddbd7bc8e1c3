"""Dropout of the columns of tables as a function."""

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cdropout import _kernels
from cdropout.checks import check_flag
from cdropout.functions.words import below, shape_of_words, words_of
from cdropout.mask import Mask, drawing
from cdropout.stream import Rng

Array = npt.NDArray[Any]


def column_dropout(
    table: npt.ArrayLike,
    p: float = 0.15,
    *,
    replace: Literal["fill", "swap"] = "fill",
    fill: npt.ArrayLike = 0,
    per_row: bool = False,
    rng: Rng | None = None,
    out: Any = None,
    return_mask: bool = False,
) -> Array | tuple[Array, Mask]:
    """Replace random columns of a table by a fill value or by values of other rows; the others are copied.

    Parameters
    ----------
    table : array_like of bool, integers, float16, bfloat16, float32 or float64
        Of shape (rows, columns).
    p : float
        The probability of dropping a column, in [0, 1].
    replace : {"fill", "swap"}
        Dropped elements take fill values, or, with "swap" (swap noise), the values that their column has in other rows.
    fill : scalar or array_like
        Value of dropped elements, or one for each column, such as the column's mean; values of the table's dtype. Not
        with "swap".
    per_row : bool
        Whether each row has its own decisions. By default, a column is dropped in all rows.
    rng
        As in `dropout`. See Notes for what is drawn.
    out : ndarray, or an object that shares its memory, optional
        Array for the result, of the table's shape and dtype: either the table itself or memory apart from it.
    return_mask : bool
        Whether to return the mask, too.

    Returns
    -------
    ndarray, or tuple of ndarray and Mask
        out, or a new array of the table's shape and dtype. Kept elements are not scaled. The mask shares axis 0 unless
        per_row is set.

    Raises
    ------
    TypeError, ValueError, OverflowError
        For a table without two dimensions, a replace of another value, a fill or a masked array together with "swap",
        and as in `dropout` and `Mask.select`, before anything is written or drawn.

    Notes
    -----
    Each decision takes one position of the stream, in C order. With "swap", further words of the generator's raw output
    follow, one for each column and 1024 to a block: word w of a column moves it by 1 + floor((w >> 32) (n - 1) / 2^32)
    rows, where n is the number of rows, and a dropped element of row i takes the value of row i minus this, modulo n.
    So it is never the element's own row, unless the table has one row.

    """
    array = _kernels.as_array(table, "table")
    if array.ndim != 2:
        raise ValueError(f"table must have 2 dimensions, got {array.ndim}")
    if not isinstance(replace, str) or replace not in ("fill", "swap"):
        raise ValueError(f"replace must be 'fill' or 'swap', got {replace!r}")
    shared = () if check_flag("per_row", per_row) else (0,)
    if replace == "fill":
        result, mask = _kernels.draw_selection(table, "table", p, fill, rng, out, shared)
        return (result, mask) if return_mask else result
    _kernels.check_unmasked(table, "table", "masked values would be moved to other rows")
    if not np.array_equal(_kernels.as_array(fill, "fill"), 0):
        raise ValueError(f"fill must be left out with replace='swap', got {fill!r}")
    p = _kernels.check_p(p)
    x, result = _kernels.check_selection(table, "table", 0, out)
    stream = _kernels.stream_for(rng, ("table", x), ("out", result))
    n_rows, n_columns = x.shape
    with (
        drawing(x.shape, p, stream, shared) as mask,
        drawing(shape_of_words(n_columns), 0.5, stream) as room,
    ):
        moves = 1 + below(words_of(room, n_columns), max(n_rows - 1, 0))
        rows = (np.arange(n_rows)[:, None] - moves) % max(n_rows, 1)
        mask.select(x, np.take_along_axis(x, rows, 0), result)
        returned = _kernels.handed_back(result, out, table)
    return (returned, mask) if return_mask else returned
