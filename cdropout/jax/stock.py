"""The primitives by JAX's own operations, for platforms without this library's kernels.

The number that decides an element is a hash of its position by threefry, so that a shard of an array or a part of a
mask drops the same elements as the whole. These are not the elements that the kernels on the CPU drop.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import threefry_2x32

Pair = tuple[Any, Any]  # an unsigned number of 64 bits as its lower and its upper 32 bits


def _sum(a: Pair, b: Pair) -> Pair:
    lower = a[0] + b[0]
    return lower, a[1] + b[1] + (lower < b[0]).astype(np.uint32)


def _product(a: jax.Array, b: int) -> Pair:
    """Return a * b modulo 2^64 for a of 32 bits and b of 64."""
    low, high = np.uint32(b & 0xFFFFFFFF), np.uint32(b >> 32 & 0xFFFFFFFF)
    a0, a1, b0, b1 = a & 0xFFFF, a >> 16, low & np.uint32(0xFFFF), low >> np.uint32(16)
    middle = a1 * b0 + (a0 * b0 >> 16)
    other = a0 * b1 + (middle & 0xFFFF)
    return a * low, a1 * b1 + (middle >> 16) + (other >> 16) + a * high


def _positions(mask: jax.Array, shape: tuple[int, ...], strides: tuple[int, ...]) -> Pair:
    position: Pair = jnp.broadcast_to(mask[4], shape), jnp.broadcast_to(mask[5], shape)
    for axis, stride in enumerate(strides):
        if stride != 0:
            position = _sum(position, _product(jax.lax.broadcasted_iota(np.uint32, shape, axis), stride))
    return position


def _threshold(mask: jax.Array) -> Pair:
    """Return P(drop) in units of 2^-48, rounded down, from the bits of a double in [0, 1]."""
    lower, upper = mask[6], mask[7]
    shift = 1027 - (upper >> 20 & 0x7FF)  # at least 4
    upper = upper & 0xFFFFF | 0x100000
    near, far = jnp.minimum(shift, 31), jnp.clip(shift, 32, 63) - 32
    shifted = jnp.where(shift < 32, lower >> near | upper << (32 - near), upper >> far)
    return jnp.where(shift < 64, shifted, 0), jnp.where(shift < 32, upper >> near, 0)


def _keep(mask: jax.Array, shape: tuple[int, ...], strides: tuple[int, ...]) -> jax.Array:
    """Return where one packed mask keeps elements of a shape."""
    lower, upper = _positions(mask, shape, strides)
    key = threefry_2x32(mask[0:2], mask[2:4])
    number = threefry_2x32(key, jnp.stack([upper.ravel(), lower.ravel()])).reshape(2, *shape)
    low, high = _threshold(mask)
    return (number[0] >> 16 > high) | ((number[0] >> 16 == high) & (number[1] >= low))


def keep_mask(mask: jax.Array, *, shape: tuple[int, ...], strides: tuple[int, ...]) -> jax.Array:
    """Return a bool array, True where the packed masks keep an element."""

    def keep(each: jax.Array) -> jax.Array:
        return _keep(each, shape, strides)

    for _ in range(mask.ndim - 1):
        keep = jax.vmap(keep)
    return keep(mask)


def apply_mask(x: jax.Array, mask: jax.Array, *, strides: tuple[int, ...]) -> jax.Array:
    """Scale the elements that the packed masks keep by 1/(1-p), and set the others to 0."""
    n_leading = mask.ndim - 1
    keep = keep_mask(mask, shape=x.shape[n_leading:], strides=strides)
    low, high = _threshold(jnp.moveaxis(mask, -1, 0))
    dtype = jnp.promote_types(x.dtype, np.float32)
    n_kept = _sum((~low, 0xFFFF - high), (np.uint32(1), np.uint32(0)))  # 2^48 minus the threshold, modulo 2^48 at most
    p_keep = n_kept[1].astype(dtype) * dtype.type(2.0**-16) + n_kept[0].astype(dtype) * dtype.type(2.0**-48)
    scale = jnp.where(p_keep > 0, 1 / p_keep, 1).reshape(*mask.shape[:-1], *(1,) * len(strides))
    return jnp.where(keep, (x.astype(dtype) * scale).astype(x.dtype), 0)


def relu_mask(x: jax.Array, mask: jax.Array, *, scale: float, strides: tuple[int, ...]) -> jax.Array:
    """Apply packed masks to max(x, 0)."""
    return apply_mask(jax.nn.relu(x), mask, strides=strides)
