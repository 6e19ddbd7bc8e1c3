"""Random layers on Keras's JAX backend, by cdropout.jax. The key of a mask is the two words of Keras's seed."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from keras.src.backend.jax.random import jax_draw_seed

from cdropout import _kernels
from cdropout.functions.gaussian import noise_std
from cdropout.jax import functions, prng
from cdropout.jax.packed_mask import key_words
from cdropout.jax.switch import is_on_cpu
from cdropout.keras.arguments import axes_of


def takes(inputs: Any) -> bool:
    """Return whether inputs are an array on the CPU, or one that is traced for it, of a floating dtype."""
    return isinstance(inputs, jax.Array) and inputs.dtype.name in functions.DTYPES and is_on_cpu(inputs)


def as_tensor(inputs: Any) -> jax.Array:
    """Return inputs as an array."""
    return jnp.asarray(inputs)


def zeros_like(x: jax.Array) -> jax.Array:
    """Return an array of zeros."""
    return jnp.zeros_like(x)


def dropout(x: jax.Array, rate: float, noise_shape: Any, seed: Any) -> jax.Array:
    """Drop elements and divide the others by 1 - rate."""
    shared_axes = axes_of(noise_shape, x.shape)
    return functions.dropout(jax_draw_seed(seed), x, rate, broadcast_dims=shared_axes)


def alpha_dropout(x: jax.Array, rate: float, noise_shape: Any, seed: Any) -> jax.Array:
    """Drop elements for SELU."""
    shared_axes = axes_of(noise_shape, x.shape)
    scale, shift, fill = _kernels.alpha_map(rate)
    shape = tuple(1 if axis in shared_axes else length for axis, length in enumerate(x.shape))
    keep = functions.bernoulli(jax_draw_seed(seed), 1.0 - rate, shape)
    return jnp.where(keep, x * x.dtype.type(scale) + x.dtype.type(shift), x.dtype.type(fill))


def gaussian_dropout(x: jax.Array, rate: float, seed: Any) -> jax.Array:
    """Multiply by normal noise of mean 1 and variance rate / (1 - rate)."""
    std = noise_std(rate)
    return x * (1 + x.dtype.type(std) * _normal(x, seed))


def gaussian_noise(x: jax.Array, stddev: float, seed: Any) -> jax.Array:
    """Add normal noise of mean 0."""
    return x + x.dtype.type(stddev) * _normal(x, seed)


def _normal(x: jax.Array, seed: Any) -> jax.Array:
    """Return normal numbers of x's shape and dtype, which JAX makes from the bits of this library's stream."""
    words = key_words(jax_draw_seed(seed), "seed")
    key = jax.random.wrap_key_data(jnp.concatenate([words, np.zeros(4 - words.shape[0], np.uint32)]), impl=prng)
    return jax.random.normal(key, x.shape, x.dtype)
