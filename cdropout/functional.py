"""Dropout as functions: nothing is kept between calls but the stream's position."""

from typing import Any

import numpy.typing as npt

from cdropout import _kernels
from cdropout.mask import Mask
from cdropout.stream import Rng, Stream, as_stream


def dropout(
    x: npt.ArrayLike,
    p: float = 0.5,
    *,
    rng: Rng | None = None,
    out: Any = None,
    shared_axes: int | tuple[int, ...] = (),
) -> npt.NDArray[Any]:
    """Drop each element of x with probability p and divide the others by 1-p (inverted dropout).

    Parameters
    ----------
    x : array_like of float32 or float64
        Of any shape, memory layout and byte order.
    p : float
        The probability of dropping an element, in [0, 1].
    rng : None, int, SeedSequence, BitGenerator, Generator or Stream
        What to draw from (SPEC 7): None is a default stream seeded from the operating system; a Stream, or a NumPy
        generator, moves on with every call; an int or SeedSequence gives the same mask every time.
    out : ndarray, optional
        Where the result goes: of x's shape and dtype, either x itself (in place) or apart from it in memory.
    shared_axes : int or tuple of int
        Axes along which one decision holds for all elements: 0 drops whole features of a batch.

    Returns
    -------
    ndarray
        out, or a new array of x's shape and dtype. A dropped element is +0.0 whatever it was, NaN and infinity
        included. P(drop) is p to within 2^-48, and drops are independent.

    Raises
    ------
    TypeError
        For a p or rng of another type, or a dtype other than float32 and float64.
    ValueError
        For a p outside [0, 1] or NaN, or an out that does not fit.

    Notes
    -----
    Errors are raised before anything is written and before rng moves on. To apply the same drops again (a backward
    pass), draw them first with `draw_mask`. Source: Srivastava et al., "Dropout: a simple way to prevent neural
    networks from overfitting", JMLR 15, 2014.

    """
    if type(rng) is not Stream:
        _kernels.dropout(x, p, None, out, shared_axes)  # a call that fails must not advance a caller's generator
        rng = as_stream(rng)
    return _kernels.dropout(x, p, rng, out, shared_axes)


def draw_mask(
    shape: int | tuple[int, ...],
    p: float,
    *,
    rng: Rng | None = None,
    shared_axes: int | tuple[int, ...] = (),
) -> Mask:
    """Draw a mask: the decisions of one dropout, to be applied as often as needed.

    Parameters
    ----------
    shape : int or tuple of int
        The shape of the arrays it will apply to.
    p, rng, shared_axes
        As in `dropout`, which drops the same elements for the same rng.

    Returns
    -------
    Mask
        A small immutable value; no array is made.

    Raises
    ------
    TypeError, ValueError
        As in `dropout`, before rng moves on.

    """
    if type(rng) is not Stream:
        Mask(0, 0, p, shape, shared_axes)
        rng = as_stream(rng)
    return _kernels.draw_mask(Mask, shape, p, rng, shared_axes)
