"""Dropout inside a matrix product, as functions: dropped weights, and dropped columns that are not touched."""

from typing import Any

import numpy as np
import numpy.typing as npt

from cdropout import _kernels
from cdropout.checks import check_flag
from cdropout.mask import Mask, drawing
from cdropout.stream import Rng

Array = npt.NDArray[Any]


def drop_connect(
    x: npt.ArrayLike,
    weight: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
    p: float = 0.5,
    *,
    rng: Rng | None = None,
    rescale: bool = True,
) -> Array:
    """Return x @ (weight * mask) + bias: each weight is dropped with probability p, the same for all rows of x.

    Parameters
    ----------
    x : array_like of shape (..., n_in)
        Of the weight's dtype.
    weight : array_like of float32 or float64, of shape (n_in, n_out)
        The weights, some of which are dropped.
    bias : array_like of shape (n_out,), optional
        Added to the product; never dropped.
    p, rng
        As in `dropout`.
    rescale : bool
        Whether to divide kept weights by 1-p.

    Returns
    -------
    ndarray
        Of shape (..., n_out).

    Raises
    ------
    TypeError, ValueError
        As in `dropout`, or for arrays whose shapes or dtypes do not match.

    Notes
    -----
    Source: Wan et al., "Regularization of neural networks using DropConnect", ICML 2013. The paper does not rescale.

    """
    inputs, w, b = check_product(x, weight, bias)
    p, scale = _kernels.check_p(p), None if check_flag("rescale", rescale) else 1.0
    with drawing(w.shape, p, rng, arrays=named(inputs, w, b)) as mask:
        y = affine(inputs, mask.apply(w, scale=scale), b)
        return _kernels.handed_back(y, None, x, weight, bias)


def drop_connect_moments(
    x: npt.ArrayLike,
    weight: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
    p: float = 0.5,
    *,
    rescale: bool = True,
) -> tuple[Array, Array]:
    """Return the mean and the variance of `drop_connect` over its masks, each of shape (..., n_out).

    Parameters and errors are those of `drop_connect`. Each output is a sum of n_in independent terms, so it
    is nearly normal with these moments (Wan et al., section 3).
    """
    inputs, w, b = check_product(x, weight, bias)
    p = _kernels.check_p(p)
    scale = _kernels.kept_scale(p) if check_flag("rescale", rescale) else 1.0
    variance = np.square(inputs) @ np.square(w)
    variance *= w.dtype.type(p * (1 - p) * scale**2)
    mean = affine(inputs, w * w.dtype.type((1 - p) * scale), b)
    first, second = (_kernels.handed_back(moment, None, x, weight, bias) for moment in (mean, variance))
    return first, second


def feature_dropout_linear(
    x: npt.ArrayLike,
    weight: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
    p: float = 0.5,
    *,
    rng: Rng | None = None,
) -> Array:
    """Return feature_dropout(x, p) @ weight + bias, computed from the kept columns of x only.

    Parameters
    ----------
    x : array_like of shape (n_samples, n_in)
        Of the weight's dtype.
    weight : array_like of float32 or float64, of shape (n_in, n_out)
        The weights. For large products and p, where it saves time, rows of dropped features are not read.
    bias : array_like of shape (n_out,), optional
        Added to the product.
    p, rng
        As in `dropout`.

    Returns
    -------
    ndarray
        An array of shape (n_samples, n_out), equal up to rounding to the result of the two steps for the same rng.

    Raises
    ------
    TypeError, ValueError
        As in `dropout`, or for arrays whose shapes or dtypes do not match.

    """
    inputs, w, b = check_product(x, weight, bias)
    check_batch(inputs)
    p = _kernels.check_p(p)
    with drawing(inputs.shape, p, rng, shared_axes=0, arrays=named(inputs, w, b)) as mask:
        dropped, rows, _ = drop_features(mask, inputs, w)
        return _kernels.handed_back(affine(dropped, rows, b), None, x, weight, bias)


def check_batch(x: Array) -> None:
    """Raise ValueError unless x has the axes (n_samples, n_in)."""
    if x.ndim != 2:
        raise ValueError(f"x must have the axes (n_samples, n_in), got shape {x.shape}")


def check_product(x: Any, weight: Any, bias: Any) -> tuple[Array, Array, Array | None]:
    """Return plain arrays of x @ weight + bias; TypeError or ValueError if shapes or dtypes do not match."""
    for a, name in ((x, "x"), (weight, "weight"), (bias, "bias")):
        _kernels.check_unmasked(a, name)
    x, weight = _kernels.as_array(x, "x"), _kernels.as_array(weight, "weight")
    if weight.dtype not in (np.float32, np.float64):
        raise TypeError(f"weight must be an array of float32 or float64, got dtype {weight.dtype}")
    if weight.ndim != 2:
        raise ValueError(f"weight must have the axes (n_in, n_out), got shape {weight.shape}")
    if x.dtype != weight.dtype:
        raise TypeError(f"x must have the dtype of weight, got {x.dtype} for {weight.dtype}")
    if x.ndim == 0 or x.shape[-1] != weight.shape[0]:
        raise ValueError(f"x must have {weight.shape[0]} columns, the rows of weight, got shape {x.shape}")
    if bias is None:
        return x, weight, None
    bias = _kernels.as_array(bias, "bias")
    if bias.dtype != weight.dtype:
        raise TypeError(f"bias must have the dtype of weight, got {bias.dtype} for {weight.dtype}")
    if bias.shape != weight.shape[1:]:
        raise ValueError(f"bias must have one element for each column of weight, got {bias.shape} for {weight.shape}")
    return x, weight, bias


def named(x: Array, weight: Array, bias: Array | None) -> tuple[tuple[str, Array], ...]:
    """Return the arrays with their names, for `drawing`."""
    arrays = (("x", x), ("weight", weight))
    return arrays if bias is None else (*arrays, ("bias", bias))


def check_gradient(dy: Any, shape: tuple[int, ...]) -> Array:
    """Return dy as a plain array; TypeError or ValueError unless it has a float dtype and the output's shape."""
    _kernels.check_unmasked(dy, "dy")
    gradient = _kernels.check_array(dy, "dy")
    if gradient.shape != shape:
        raise ValueError(f"dy must have the output's shape {shape}, got {gradient.shape}")
    return gradient


def affine(x: Array, weight: Array, bias: Array | None) -> Array:
    """Return x @ weight + bias."""
    y: Array = x @ weight
    if bias is not None:
        y += bias
    return y


# ---- gathering ------------------------------------------------------------------------------------------------------

# Number of multiplications and additions that a matrix product does in the time in which gathering or scattering moves
# one element (`python -m benchmarks feature-linear`; docs/design.md, "When gathering pays").
FLOPS_PER_MOVED_ELEM = 30


def gathering_pays(n_samples: int, weight_shape: tuple[int, ...], p: float) -> bool:
    """Return whether smaller products, forward and backward, save more time than gathering and scattering cost."""
    n_in, n_out = weight_shape
    n_kept = (1 - p) * n_in
    flops_saved = 6 * p * n_in * n_samples * n_out
    # Moved elements: rows of the weight and of its gradient, columns of x and of its gradient.
    n_moved = (n_out + n_samples) * (3 * n_kept + n_in)
    return flops_saved > FLOPS_PER_MOVED_ELEM * n_moved


def drop_features(mask: Mask, x: Array, weight: Array) -> tuple[Array, Array, npt.NDArray[np.intp] | None]:
    """Return the operands of the product of dropped x, (n_samples, n_in), and weight, (n_in, n_out).

    If gathering pays, these are the kept columns, scaled, the matching rows of weight, and the columns' indices;
    otherwise x after dropout, weight itself, and None. The mask shares axis 0.
    """
    if not gathering_pays(x.shape[0], weight.shape, mask.p):
        return mask.apply(x), weight, None
    columns = np.flatnonzero(mask[:1].keep())
    gathered = np.take(x, columns, axis=1)
    gathered *= x.dtype.type(_kernels.kept_scale(mask.p))
    return gathered, np.take(weight, columns, axis=0), columns
