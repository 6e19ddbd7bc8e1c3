"""Masks as arrays of JAX: the fields of a mask in 8 numbers of 32 bits, which primitives take as an operand.

A packed mask has dtype uint32 and shape (8,): the key of the stream (4 words), the position of the first element (2)
and p as a double (2), each with its lowest word first. An array of shape (..., 8) holds several masks. The fields are
an operand, not parameters, so that JAX can trace, batch and shard them. src/xla_ffi.c reads them.
"""

from __future__ import annotations

import struct
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

N_WORDS = 8
KEY, P = slice(0, 4), slice(6, 8)


def key_words(key: Any, name: str = "key") -> jax.Array:
    """Return a key's words as uint32 of shape (2,) or (4,); raise TypeError or ValueError if it is not a single key."""
    data = key
    if isinstance(key, jax.Array) and jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key):
        if key.ndim > 0:
            raise ValueError(f"{name} must be a single key, got an array of keys of shape {key.shape}; use jax.vmap")
        data = jax.random.key_data(key)
    elif not isinstance(key, (jax.Array, np.ndarray)):
        raise TypeError(f"{name} must be a key of jax.random.key or jax.random.PRNGKey, got {key!r}")
    if data.dtype != np.uint32:
        raise TypeError(f"{name} must be a key of jax.random, or its words as uint32, got dtype {data.dtype}")
    if data.shape not in ((2,), (4,)):
        raise ValueError(f"{name} must have 2 or 4 words of 32 bits, got shape {data.shape}")
    return jnp.asarray(data)


def stream_key(key: Any) -> int:
    """Return the 128-bit key of the stream from which the functions of `cdropout.jax` draw the masks of a key.

    Parameters
    ----------
    key : jax.Array
        A key of `jax.random.key` or `jax.random.PRNGKey`, not a tracer.

    Returns
    -------
    int
        The words of the key, the first one in the lowest 32 bits. A key of two words (threefry) has zeros above.

    Raises
    ------
    TypeError, ValueError
        If key is not a single key of 2 or 4 words of 32 bits.

    """
    words: Any = np.asarray(key_words(key))
    return int.from_bytes(words.astype("<u4").tobytes(), "little")


def pack(words: jax.Array, p: float | jax.Array, start: int = 0) -> jax.Array:
    """Return a packed mask of a key's words; p may be a number or a scalar array, also a traced one."""
    zeros = np.zeros(4 - words.shape[0], np.uint32)
    if isinstance(p, float):
        fields = np.frombuffer(struct.pack("<Qd", start, p), "<u4").astype(np.uint32)
        return jnp.concatenate([words, np.concatenate([zeros, fields])])
    start_words = np.frombuffer(struct.pack("<Q", start), "<u4").astype(np.uint32)
    return jnp.concatenate([words, np.concatenate([zeros, start_words]), _words_of_double(p)])


def pack_complement(words: jax.Array, p_keep: jax.Array) -> jax.Array:
    """Return a packed mask whose p is 1 - p_keep, for a floating scalar array in [0, 1], traced or not.

    The difference has the bits of float64 also where JAX has no float64 and for every dtype of p_keep, except that
    those below 2^-53 are cut off.
    """
    if p_keep.dtype == np.float64:
        return pack(words, 1 - p_keep)
    p_keep = p_keep.astype(np.float32)
    # From 1/2 on, the difference is exact in float32. Below, it is (2^53 - n) 2^-53 with n = 2^53 p_keep, and the bits
    # of this double are those of 1.0 minus n.
    n_upper = jnp.floor(p_keep * np.float32(1 << 21))
    n_lower = (p_keep * np.float32(1 << 21) - n_upper) * np.float32(1 << 16) * np.float32(1 << 16)
    lower, upper = -n_lower.astype(np.uint32), np.uint32(0x3FF00000) - n_upper.astype(np.uint32)
    upper = upper - (lower != 0).astype(np.uint32)
    of_double = jnp.where(p_keep < 0.5, jnp.stack([lower, upper]), _words_of_double(1 - p_keep))
    return jnp.concatenate([words, np.zeros(P.start - words.shape[0], np.uint32), of_double])


def _words_of_double(number: jax.Array) -> jax.Array:
    """Return the two words of a float converted to float64, also where JAX has no float64. Subnormals become 0."""
    if number.dtype == np.float64:
        return jax.lax.bitcast_convert_type(number, np.uint32)
    bits = jax.lax.bitcast_convert_type(number.astype(np.float32), np.uint32)
    sign, exponent, fraction = bits & np.uint32(1 << 31), bits >> 23 & 0xFF, bits & 0x7FFFFF
    exponent = jnp.where(exponent == 0xFF, np.uint32(0x7FF), exponent + np.uint32(1023 - 127))
    upper = sign | jnp.where(bits << 1 < 1 << 24, np.uint32(0), exponent << 20 | fraction >> 3)
    lower = jnp.where(bits << 1 < 1 << 24, np.uint32(0), fraction << 29)
    return jnp.stack([lower, upper])


def advanced(mask: jax.Array, distance: jax.Array) -> jax.Array:
    """Return packed masks whose first element is a distance further on: two words, the lower one first."""
    lower = mask[..., 4:5] + distance[0]
    upper = mask[..., 5:6] + distance[1] + (lower < distance[0]).astype(np.uint32)
    return jnp.concatenate([mask[..., KEY], lower, upper, mask[..., P]], axis=-1)


def run_strides(shape: tuple[int, ...], shared_axes: tuple[int, ...] = ()) -> tuple[int, ...]:
    """Return the distance in positions along each axis of a mask that takes one run of positions, in C order."""
    strides, n_positions = [0] * len(shape), 1
    for axis in reversed(range(len(shape))):
        if axis not in shared_axes:
            strides[axis] = n_positions
            n_positions *= shape[axis]
    return tuple(strides)
