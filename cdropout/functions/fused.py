"""Dropout fused with a bias, ReLU or a residual, as functions: each makes one pass over memory."""

from typing import Any

import numpy.typing as npt

from cdropout import _kernels
from cdropout.stream import Rng


def relu_dropout(x: npt.ArrayLike, p: float = 0.5, *, rng: Rng | None = None, out: Any = None) -> npt.NDArray[Any]:
    """Dropout of relu(x), in one pass over memory.

    Parameters
    ----------
    x : array_like of float16, bfloat16, float32 or float64
        An array of any shape, memory layout and byte order.
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
    """Dropout of relu(x + bias), in one pass over memory, for the output x of a matrix product.

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
        As in `dropout`, or for a bias of another shape or dtype.

    Notes
    -----
    The gradient with respect to x is `relu_dropout_backward(dy, y, p)`, that with respect to bias is its sum over the
    rows.

    """
    return fuse("bias_relu_dropout", x, bias, None, p, rng, out)


def relu_dropout_backward(dy: npt.ArrayLike, y: npt.ArrayLike, p: float, *, out: Any = None) -> npt.NDArray[Any]:
    """Return the gradient of `relu_dropout` and `bias_relu_dropout`, computed from their output.

    The output is positive exactly where an element was both kept and active.

    Parameters
    ----------
    dy : array_like of float16, bfloat16, float32 or float64
        The gradient with respect to the output.
    y : array_like of dy's shape and dtype
        The output.
    p : float
        The probability of dropping with which y was computed.
    out : ndarray, optional
        Array for the result, of dy's shape and dtype: dy itself, y itself, or memory apart from both.

    Returns
    -------
    ndarray
        dy / (1-p) where y > 0, and 0 elsewhere.

    Raises
    ------
    TypeError, ValueError
        As in `dropout`, or for a y whose shape or dtype differs from dy's.

    """
    return _kernels.relu_dropout_backward(dy, y, p, out)


def dropout_add(
    x: npt.ArrayLike, residual: npt.ArrayLike, p: float = 0.5, *, rng: Rng | None = None, out: Any = None
) -> npt.NDArray[Any]:
    """Return dropout(x) + residual, in one pass over memory, for the end of a residual block.

    Parameters
    ----------
    x : array_like of float16, bfloat16, float32 or float64
        An array of any shape, memory layout and byte order.
    residual : array_like of x's shape and dtype
        Array added after dropout.
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
        As in `dropout`, or for a residual of another shape or dtype.

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
        Array added after dropout.
    p, rng, out
        As in `dropout`; out may be x or residual.

    Returns
    -------
    ndarray
        As `dropout_add(x + bias, residual, p)` for the same rng.

    Raises
    ------
    TypeError, ValueError
        As in `dropout`, or for a bias or residual of another shape or dtype.

    """
    return fuse("bias_dropout_add", x, bias, residual, p, rng, out)


def fuse(name: str, x: Any, bias: Any, residual: Any, p: float, rng: Rng | None, out: Any) -> npt.NDArray[Any]:
    """Run the fused operation of this name; bias and residual are None if the operation has none."""
    return _kernels.fused(name, x, bias, residual, p, rng, out)
