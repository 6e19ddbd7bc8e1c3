"""Dropout of elements as a function."""

from typing import Any

import numpy.typing as npt

from cdropout import _kernels
from cdropout.stream import Rng


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
    x : array_like of float16, bfloat16, float32 or float64
        An array of any shape, memory layout and byte order. An object that shares its memory by the buffer protocol,
        DLPack (on the CPU) or NumPy's array interface is read without a copy.
    p : float
        The probability of dropping an element, in [0, 1].
    rng : None, int, sequence of int, SeedSequence, BitGenerator, Generator, RandomState or Stream
        Source of the mask (Scientific Python's SPEC 7). None is the default stream, which the operating system seeds
        once per process. A Stream or a NumPy generator advances with every call. Ints and a SeedSequence give the same
        mask every time.
    out : ndarray, or an object that shares its memory as above, optional
        Array for the result, of x's shape and dtype: either x itself (in place) or memory apart from x.
    shared_axes : int or tuple of int
        Axes along which one decision holds for all elements: 0 drops whole features of a batch.

    Returns
    -------
    ndarray
        out, or a new array of x's shape and dtype, in native byte order. Masked arrays and other subclasses keep their
        class (docs/arrays.md). A dropped element is +0.0 whatever its value was, NaN and infinity included. P(drop) is
        p to within 2^-48, and decisions are independent.

    Raises
    ------
    TypeError
        For a p or rng of another type, a dtype other than float16, bfloat16, float32 and float64, an x of a class that
        defines NumPy's operations, or an out that cannot share its memory.
    ValueError
        For a p outside [0, 1] or NaN, an out that does not fit or is read-only, or an array on another device.
    OverflowError
        If the stream has fewer of its 2^64 positions left than the call takes, one for each decision.
    MemoryError
        If there is no memory for the result.

    Notes
    -----
    Errors are raised before anything is written and before rng advances. One case differs: if a signal handler raises,
    as for Ctrl-C, rng has advanced, and out holds old and new elements.

    To drop the same elements again (in a backward pass), draw a mask with `draw_mask` and apply it twice.

    Source: Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting", JMLR 15, 2014.

    """
    return _kernels.dropout(x, p, rng, out, shared_axes)
