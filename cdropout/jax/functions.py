"""The functions of `cdropout.jax`, and the checks of their arguments."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cdropout import _kernels
from cdropout.jax.packed_mask import key_words, pack, run_strides
from cdropout.jax.primitives import apply_mask, keep_mask, relu_mask

DTYPES = ("float16", "bfloat16", "float32", "float64")


def dropout(
    key: Any, x: Any, rate: Any, *, broadcast_dims: int | Sequence[int] = (), deterministic: bool = False
) -> jax.Array:
    """Drop each element of x with probability rate and divide the others by 1 - rate.

    Parameters
    ----------
    key : jax.Array
        A key of `jax.random.key` or `jax.random.PRNGKey`, of 2 words (threefry) or 4 (rbg). Not used if nothing is
        drawn.
    x : array_like
        Array of any shape, of dtype float16, bfloat16, float32 or float64.
    rate : float or scalar array
        The probability of dropping, in [0, 1]. A traced rate costs a second pass over x, and a gradient flows to it.
    broadcast_dims : int or sequence of int, optional
        Axes along which all elements share one decision.
    deterministic : bool, optional
        Whether to return x as it is, as in evaluation.

    Returns
    -------
    jax.Array
        Of x's shape and dtype. A dropped element is +0.0 whatever its value was, NaN and infinity included. The mask is
        `cdropout.Mask(stream_key(key), 0, rate, x.shape, broadcast_dims)`, with the same bits on every CPU. The
        backward pass applies it again.

    Raises
    ------
    TypeError, ValueError
        When traced, if an argument has another type or is out of its range. A traced rate is checked when the program
        runs.

    """
    return _dropped(key, x, rate, broadcast_dims, deterministic, is_relu=False)


def relu_dropout(key: Any, x: Any, rate: Any, *, deterministic: bool = False) -> jax.Array:
    """Apply ReLU, then dropout, in one pass over memory.

    Parameters
    ----------
    key, x, rate, deterministic
        As in `dropout`, which drops the same elements.

    Returns
    -------
    jax.Array
        max(x, 0) / (1 - rate) where kept and 0 where dropped; max(x, 0) if deterministic. The gradient is computed from
        this result, without the mask.

    Raises
    ------
    TypeError, ValueError
        As in `dropout`.

    """
    return _dropped(key, x, rate, (), deterministic, is_relu=True)


def bernoulli(key: Any, p: Any = 0.5, shape: int | Sequence[int] | None = None) -> jax.Array:
    """Draw a bool array: True with probability p, as `jax.random.bernoulli`.

    Parameters
    ----------
    key : jax.Array
        As in `dropout`.
    p : float or scalar array
        The probability of True, in [0, 1]; it may be traced.
    shape : int or sequence of int, optional
        The shape of the result; () by default.

    Returns
    -------
    jax.Array
        Of dtype bool: `cdropout.Mask(stream_key(key), 0, 1 - p, shape).keep()`.

    Raises
    ------
    TypeError, ValueError
        As in `dropout`; also if p is an array of more than one number.

    """
    p = _checked_rate(p, "p")
    lengths = _checked_shape(() if shape is None else shape)
    words = key_words(key)
    if isinstance(p, float):
        if p in (0.0, 1.0):
            return jnp.full(lengths, p == 1.0)
        return _drawn(words, 1.0 - p, lengths, run_strides(lengths))
    return _drawn(words, 1 - p, lengths, run_strides(lengths))


def _drawn(words: jax.Array, p_drop: Any, shape: tuple[int, ...], strides: tuple[int, ...]) -> jax.Array:
    return keep_mask(pack(words, p_drop), shape=shape, strides=strides)


def _dropped(key: Any, x: Any, rate: Any, broadcast_dims: Any, deterministic: Any, *, is_relu: bool) -> jax.Array:
    rate = _checked_rate(rate, "rate")
    x = _checked_array(x)
    shared_axes = _checked_axes(broadcast_dims, x.ndim)
    if not isinstance(deterministic, (bool, np.bool_)):
        raise TypeError(f"deterministic must be True or False, got {deterministic!r}")
    if deterministic or (isinstance(rate, float) and rate == 0.0):
        return jax.nn.relu(x) if is_relu else x
    words = key_words(key)
    strides = run_strides(x.shape, shared_axes)
    if isinstance(rate, float):
        if rate == 1.0:
            return jnp.zeros_like(x)
        mask = pack(words, rate)
        if is_relu:
            return relu_mask(x, mask, scale=_kernels.kept_scale(rate), strides=strides)
        return apply_mask(x, mask, strides=strides)
    keep = _drawn(words, rate, x.shape, strides)
    x = jax.nn.relu(x) if is_relu else x
    dtype = jnp.promote_types(x.dtype, np.float32)
    p_keep = 1 - jnp.where(rate < 1, rate, 0).astype(dtype)  # at rate 1, 1/0 would make the gradient NaN
    return jnp.where(keep, (x.astype(dtype) / p_keep).astype(x.dtype), 0)


# ---- checks of arguments --------------------------------------------------------------------------------------------


def _checked_rate(rate: Any, name: str) -> float | jax.Array:
    """Return a probability as a float; as a scalar array if it is traced."""
    if isinstance(rate, jax.Array) or (isinstance(rate, np.ndarray) and rate.ndim > 0):
        if rate.ndim > 0:
            raise ValueError(f"{name} must be a single number, got an array of shape {rate.shape}")
        if not jnp.issubdtype(rate.dtype, jnp.floating) and not jnp.issubdtype(rate.dtype, jnp.integer):
            raise TypeError(f"{name} must be a real number, got dtype {rate.dtype}")
        if isinstance(rate, jax.core.Tracer):
            return rate.astype(jnp.promote_types(rate.dtype, np.float32))
        rate = float(rate)
    if isinstance(rate, np.ndarray):
        rate = rate[()]
    if isinstance(rate, (bool, np.bool_)) or not isinstance(rate, (Real, np.floating)):
        raise TypeError(f"{name} must be a real number, got {rate!r}")
    number = float(rate)
    if not 0.0 <= number <= 1.0:
        raise ValueError(f"{name} must be in [0, 1], got {rate}")
    return number + 0.0  # -0.0 becomes 0.0


def _checked_array(x: Any) -> jax.Array:
    if not isinstance(x, (jax.Array, np.ndarray, np.generic, float, list, tuple)):
        raise TypeError(f"x must be an array, got {type(x).__name__}")
    array = jnp.asarray(x)
    if array.dtype.name not in DTYPES:
        raise TypeError(f"x must have dtype {', '.join(DTYPES[:-1])} or {DTYPES[-1]}, got {array.dtype}")
    return array


def _checked_axes(broadcast_dims: Any, n_axes: int) -> tuple[int, ...]:
    axes = (broadcast_dims,) if _is_integer(broadcast_dims) else broadcast_dims
    if not isinstance(axes, (tuple, list)) or not all(map(_is_integer, axes)):
        raise TypeError(f"broadcast_dims must be an int or a sequence of int, got {broadcast_dims!r}")
    if not all(-n_axes <= axis < n_axes for axis in axes):
        raise ValueError(f"broadcast_dims must be in [-{n_axes}, {n_axes}), the axes of x, got {broadcast_dims}")
    counted = tuple(int(axis) % n_axes for axis in axes)
    if len(set(counted)) < len(counted):
        raise ValueError(f"broadcast_dims must not name an axis twice, got {broadcast_dims}")
    return counted


def _checked_shape(shape: Any) -> tuple[int, ...]:
    lengths = (shape,) if _is_integer(shape) else shape
    if not isinstance(lengths, (tuple, list)) or not all(map(_is_integer, lengths)):
        raise TypeError(f"shape must be an int or a sequence of int, got {shape!r}")
    if any(length < 0 for length in lengths):
        raise ValueError(f"shape must have no negative length, got {shape}")
    return tuple(map(int, lengths))


def _is_integer(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)
