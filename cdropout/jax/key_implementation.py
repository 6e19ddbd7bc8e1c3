"""A key implementation whose random bits are the stream's: `jax.random.key(seed, impl=cdropout.jax.prng)`.

A key is the 128 bits of a stream's key. `random_bits` on the CPU is the raw output of that stream (`raw_blocks`), the
lowest byte first, and on other platforms threefry's output for a key made of all four words. `seed`, `split` and
`fold_in` are the same on every platform. They encrypt counters twice by threefry, with each half of the key once:

    derive(key, tag, index) = [a(2 tag), a(2 tag + 1)],  a(t) = threefry(key[2:4], threefry(key[0:2], [index, t]))

    seed(n)           derive([n, n >> 32, 0, 0], 0, 0)
    split(key)[i]     derive(key, 1, i)
    fold_in(key, n)   derive(key, 2, n)
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.extend.random import define_prng_impl, threefry_2x32
from jax.interpreters import batching

from cdropout.jax import partitioning
from cdropout.jax.packed_mask import pack, run_strides
from cdropout.jax.primitives import evaluate, lower, tell_devices

random_bits_p: Primitive | None = None
for _name in ("jax._src.random.prng", "jax._src.prng"):  # since jax 0.10, and before
    with contextlib.suppress(ImportError):
        random_bits_p = random_bits_p or getattr(importlib.import_module(_name), "random_bits_p", None)

_SEED, _SPLIT, _FOLD_IN = range(3)

bits_p = Primitive("cdropout_bits")


def _derive(key: jax.Array, tag: int, indices: jax.Array) -> jax.Array:
    """Return a key for each index: uint32 of shape (n, 4)."""
    counters = (
        jnp.stack([indices, indices]),
        jnp.broadcast_to(np.array([[2 * tag], [2 * tag + 1]], np.uint32), (2, len(indices))),
    )
    once = threefry_2x32(key[0:2], jnp.concatenate([part.ravel() for part in counters]))
    twice = threefry_2x32(key[2:4], once).reshape(2, 2, -1)  # word of the pair, tag, index
    return twice.transpose(2, 1, 0).reshape(-1, 4)


def _seed(seed: jax.Array) -> jax.Array:
    is_long = seed.dtype.itemsize == 8
    upper = jax.lax.shift_right_logical(seed, np.array(32, seed.dtype)) if is_long else jnp.zeros_like(seed)
    words = jnp.stack([seed.astype(np.uint32), upper.astype(np.uint32)])
    return _derive(jnp.concatenate([words, np.zeros(2, np.uint32)]), _SEED, jnp.zeros(1, np.uint32))[0]


def _split(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    n_keys = int(np.prod(shape, dtype=np.int64))
    return _derive(key, _SPLIT, jax.lax.iota(np.uint32, n_keys)).reshape(*shape, 4)


def _fold_in(key: jax.Array, data: Any) -> jax.Array:
    return _derive(key, _FOLD_IN, jnp.asarray(data).astype(np.uint32).reshape(1))[0]


def _random_bits(key: jax.Array, bit_width: int, shape: tuple[int, ...]) -> jax.Array:
    if bit_width not in (8, 16, 32, 64):
        raise TypeError(f"bit_width must be 8, 16, 32 or 64, got {bit_width}")
    shape = tuple(shape)
    return _bits(pack(key, 0.0), shape=shape, strides=run_strides(shape), dtype=f"uint{bit_width}")


@functools.partial(jax.jit, static_argnames=("shape", "strides", "dtype"), inline=True)
def _bits(mask: jax.Array, *, shape: tuple[int, ...], strides: tuple[int, ...], dtype: str) -> jax.Array:
    return bits_p.bind(mask, shape=shape, strides=strides, dtype=dtype)  # type: ignore[no-any-return]


def _result(mask: Any, *, shape: tuple[int, ...], dtype: str, **_: Any) -> Any:
    return mask.update(shape=(*mask.shape[:-1], *shape), dtype=np.dtype(dtype), weak_type=False)


def _batch(operands: Any, axes: Any, **parameters: Any) -> tuple[Any, int]:
    return bits_p.bind(jnp.moveaxis(operands[0], axes[0], 0), **parameters), 0


def _elsewhere(mask: jax.Array, *, shape: tuple[int, ...], dtype: str, **_: Any) -> jax.Array:
    def bits(each: jax.Array) -> jax.Array:
        pair = threefry_2x32(each[0:2], each[2:4])
        return jax.random.bits(jax.random.wrap_key_data(pair, impl="threefry2x32"), shape, dtype)

    for _axis in range(mask.ndim - 1):
        bits = jax.vmap(bits)
    return bits(mask)


bits_p.def_impl(functools.partial(evaluate, bits_p))
bits_p.def_abstract_eval(_result)
batching.primitive_batchers[bits_p] = _batch
lower(bits_p, partitioning.keep, _elsewhere)
# JAX lowers its own primitive, and the one above only within it.
if random_bits_p is not None:
    tell_devices(random_bits_p)

prng = define_prng_impl(
    key_shape=(4,), seed=_seed, split=_split, random_bits=_random_bits, fold_in=_fold_in, name="cdropout", tag="cd"
)
