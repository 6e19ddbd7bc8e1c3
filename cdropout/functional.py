"""Dropout as functions: nothing is kept between calls but the stream's position."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy.typing as npt

from cdropout import _kernels
from cdropout.mask import Mask
from cdropout.stream import Rng, as_stream


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
        Of any shape, memory layout and byte order. An object that shares its memory by the buffer protocol, DLPack (on
        the CPU) or NumPy's array interface is read where it is.
    p : float
        The probability of dropping an element, in [0, 1].
    rng : None, int, SeedSequence, BitGenerator, Generator or Stream
        What to draw from (SPEC 7): None is a default stream seeded from the operating system; a Stream, or a NumPy
        generator, moves on with every call; an int or SeedSequence gives the same mask every time.
    out : ndarray, or an object that shares its memory as above, optional
        Where the result goes: of x's shape and dtype, either x itself (in place) or apart from it in memory.
    shared_axes : int or tuple of int
        Axes along which one decision holds for all elements: 0 drops whole features of a batch.

    Returns
    -------
    ndarray
        out itself, or a new array of x's shape and dtype, in native byte order. A dropped element is +0.0 whatever it
        was, NaN and infinity included. P(drop) is p to within 2^-48, and drops are independent.

    Raises
    ------
    TypeError
        For a p or rng of another type, a dtype other than float16, bfloat16, float32 and float64, or an out that does
        not share its memory.
    ValueError
        For a p outside [0, 1] or NaN, an out that does not fit or is read-only, or an array on another device.
    OverflowError
        Where the stream has fewer than x.size positions left of its 2^64.
    MemoryError
        For want of memory for the result.

    Notes
    -----
    Errors are raised before anything is written and before rng moves on; only what the handler of a signal raises, as
    Ctrl-C's does, may come in the middle: then rng has moved on, and out holds old elements and new ones.

    To apply the same drops again (a backward pass), draw them first with `draw_mask`. Source: Srivastava et al.,
    "Dropout: a simple way to prevent neural networks from overfitting", JMLR 15, 2014.

    """
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
    TypeError, ValueError, OverflowError
        As in `dropout`, before rng moves on.

    """
    return _kernels.draw_mask(Mask, shape, p, rng, shared_axes)


@contextmanager
def drawing(
    shape: tuple[int, ...], p: float, rng: Rng | None, shared_axes: int | tuple[int, ...] = ()
) -> Iterator[Mask]:
    """Draw a mask for a block of code; where that runs out of memory, the stream is where it was.

    But not where another thread has drawn from it meanwhile, or where rng is a NumPy generator: what others may have
    drawn cannot be taken back.
    """
    stream = as_stream(rng)
    mask = draw_mask(shape, p, rng=stream, shared_axes=shared_axes)
    try:
        yield mask
    except MemoryError:
        stream._take_back(mask)
        raise


def relu_dropout(x: npt.ArrayLike, p: float = 0.5, *, rng: Rng | None = None, out: Any = None) -> npt.NDArray[Any]:
    """Dropout of relu(x), in one pass over memory.

    Parameters
    ----------
    x : array_like of float16, bfloat16, float32 or float64
        Of any shape, memory layout and byte order.
    p, rng, out
        As in `dropout`; out may be x.

    Returns
    -------
    ndarray
        `dropout(maximum(x, 0), p)` for the same rng, to the last bit in float32 and float64, except that a kept -0.0
        stays -0.0; a kept NaN stays NaN. The 16-bit types are computed in float32 and rounded once.

    Raises
    ------
    TypeError, ValueError
        As in `dropout`.

    Notes
    -----
    The gradient is `relu_dropout_backward(dy, y, p)`.

    """
    return fuse("relu_dropout", x, None, None, p, rng, out)


def bias_relu_dropout(
    x: npt.ArrayLike, bias: npt.ArrayLike, p: float = 0.5, *, rng: Rng | None = None, out: Any = None
) -> npt.NDArray[Any]:
    """Dropout of relu(x + bias), in one pass over memory: what follows a matrix product.

    Parameters
    ----------
    x : array_like of float16, bfloat16, float32 or float64
        Of shape (..., columns).
    bias : array_like of x's dtype
        Of shape (columns,).
    p, rng, out
        As in `dropout`; out may be x.

    Returns
    -------
    ndarray
        As `relu_dropout(x + bias, p)` for the same rng.

    Raises
    ------
    TypeError, ValueError
        As in `dropout`, or for a bias that does not fit.

    Notes
    -----
    The gradient with respect to x is `relu_dropout_backward(dy, y, p)`, that with respect to bias is its sum over the
    rows.

    """
    return fuse("bias_relu_dropout", x, bias, None, p, rng, out)


def relu_dropout_backward(dy: npt.ArrayLike, y: npt.ArrayLike, p: float, *, out: Any = None) -> npt.NDArray[Any]:
    """Gradient of `relu_dropout` and `bias_relu_dropout`, from nothing but their output.

    An element of the output is positive just where the element was both kept and active.

    Parameters
    ----------
    dy : array_like of float16, bfloat16, float32 or float64
        The gradient with respect to the output.
    y : array_like of dy's shape and dtype
        The output.
    p : float
        The probability of dropping that made y.
    out : ndarray, optional
        Where the result goes: of dy's shape and dtype; dy itself, y itself or apart from both.

    Returns
    -------
    ndarray
        dy / (1-p) where y > 0, and 0 elsewhere.

    Raises
    ------
    TypeError, ValueError
        As in `dropout`, or for arrays that do not fit each other.

    """
    return _kernels.relu_dropout_backward(dy, y, p, out)


def dropout_add(
    x: npt.ArrayLike, residual: npt.ArrayLike, p: float = 0.5, *, rng: Rng | None = None, out: Any = None
) -> npt.NDArray[Any]:
    """Return dropout(x) + residual, in one pass over memory: the end of a residual block.

    Parameters
    ----------
    x : array_like of float16, bfloat16, float32 or float64
        Of any shape, memory layout and byte order.
    residual : array_like of x's shape and dtype
        What is added after dropout.
    p, rng, out
        As in `dropout`; out may be x or residual.

    Returns
    -------
    ndarray
        `dropout(x, p) + residual` for the same rng, to the last bit in float32 and float64. The 16-bit types are
        computed in float32 and rounded once.

    Raises
    ------
    TypeError, ValueError
        As in `dropout`, or for a residual that does not fit.

    Notes
    -----
    The gradient with respect to x is `draw_mask(x.shape, p, rng=...).apply(dy)` for the same rng (the layer
    `DropoutAdd` keeps the mask), that with respect to residual is dy.

    """
    return fuse("dropout_add", x, None, residual, p, rng, out)


def bias_dropout_add(
    x: npt.ArrayLike,
    bias: npt.ArrayLike,
    residual: npt.ArrayLike,
    p: float = 0.5,
    *,
    rng: Rng | None = None,
    out: Any = None,
) -> npt.NDArray[Any]:
    """Return dropout(x + bias) + residual, in one pass over memory.

    Parameters
    ----------
    x : array_like of float16, bfloat16, float32 or float64
        Of shape (..., columns).
    bias : array_like of x's dtype
        Of shape (columns,).
    residual : array_like of x's shape and dtype
        What is added after dropout.
    p, rng, out
        As in `dropout`; out may be x or residual.

    Returns
    -------
    ndarray
        As `dropout_add(x + bias, residual, p)` for the same rng.

    Raises
    ------
    TypeError, ValueError
        As in `dropout`, or for a bias or residual that does not fit.

    """
    return fuse("bias_dropout_add", x, bias, residual, p, rng, out)


def fuse(name: str, x: Any, bias: Any, residual: Any, p: float, rng: Rng | None, out: Any) -> npt.NDArray[Any]:
    """Run a fused operation by its name; bias and residual are None where it has none."""
    return _kernels.fused(name, x, bias, residual, p, rng, out)
