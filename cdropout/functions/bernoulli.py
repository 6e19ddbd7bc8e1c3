"""Random bools with given probabilities as a function."""

from typing import Any

import numpy as np
import numpy.typing as npt

from cdropout import _kernels
from cdropout.stream import Rng


def bernoulli(
    shape: int | tuple[int, ...], p: npt.ArrayLike, *, rng: Rng | None = None, out: Any = None
) -> npt.NDArray[np.bool_]:
    """Draw independent bools, True with probability p (Bernoulli trials).

    Parameters
    ----------
    shape : int or tuple of int
        The shape of the result.
    p : float or array_like of float
        The probability of True, in [0, 1]: a number, or an array that broadcasts to the shape and gives each element
        its own.
    rng : None, int, sequence of int, SeedSequence, BitGenerator, Generator, RandomState or Stream
        As in `dropout`.
    out : ndarray of bool, or an object that shares its memory, optional
        Array for the result.

    Returns
    -------
    ndarray of bool
        out, or a new array.

    Raises
    ------
    TypeError
        For an argument of another type, or a p that is a masked array.
    ValueError
        For a p outside [0, 1] or NaN, one that does not broadcast to the shape, a shape that no array can have, or an
        out that does not fit.
    OverflowError
        If the stream has fewer positions left than the shape has elements.

    Notes
    -----
    Each element takes one position of the stream. P(True) is p, rounded down to a multiple of 2^-48, for every element.
    For a number p, the result is `draw_mask(shape, p, rng=rng).dropped()`; an array that holds this number everywhere
    gives the same result. An array is copied first, so that out may share its memory. Errors are raised before anything
    is written and before rng advances.

    """
    return _kernels.bernoulli(shape, p, rng, out)
