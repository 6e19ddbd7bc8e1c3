"""One switch for the process: `jax.random.bernoulli` draws this library's masks on the CPU."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cdropout.jax.packed_mask import key_words, pack_complement, run_strides
from cdropout.jax.primitives import keep_mask

# jax.random.bernoulli checks its arguments and calls this function of its module. Replacing the inner function reaches
# every reference to the outer one: methods of flax.nnx.Rngs, and `from jax.random import bernoulli`.
_INNER = "_bernoulli"
_module: dict[str, Any] = jax.random.bernoulli.__globals__
_of_jax: Any = _module.get(_INNER)
_lock = threading.Lock()


def enable() -> None:
    """Let `jax.random.bernoulli` draw this library's masks, in the whole process, on the CPU.

    So every layer is reached that makes its mask by this function: `Dropout` and attention of `flax.nnx` and
    `flax.linen`, `Dropout` of Equinox, `dropout` of Haiku, and Keras on JAX. A call is reached if p is a single
    number, the key has 2 or 4 words of 32 bits (threefry, rbg and `prng`), and arrays are on the CPU by default;
    other calls run JAX's function. So do other functions, such as `jax.random.uniform`.

    For a given key the results differ from JAX's: they are those of `bernoulli` for a p of dtype float32, compiled or
    not and for every number of devices. A p outside [0, 1] counts as the nearer of 0 and 1, as in JAX's function.

    Compiled functions are forgotten (`jax.clear_caches`), and compiled again at their next call. An executable that
    `jax.stages.Lowered.compile` has returned keeps the function that it was traced with. A second call changes nothing.

    Raises
    ------
    RuntimeError
        If this version of JAX has another `jax.random.bernoulli`.

    See Also
    --------
    disable, enabled, dropout, prng

    """
    _set(True)


def disable() -> None:
    """Give `jax.random.bernoulli` back what it draws. Without an earlier `enable`, nothing happens."""
    _set(False)


@contextlib.contextmanager
def enabled() -> Iterator[None]:
    """Run a block with the switch on, for all threads, and set it back after it."""
    before = is_enabled()
    enable()
    try:
        yield
    finally:
        _set(before)


def is_enabled() -> bool:
    """Return whether the switch is on."""
    return _module.get(_INNER) is _bernoulli


def _set(is_on: bool) -> None:
    if _of_jax is None:
        if is_on:
            raise RuntimeError(
                f"jax.random.bernoulli must call a function {_INNER}, which enable replaces, and that of jax "
                f"{jax.__version__} does not"
            )
        return
    with _lock:
        if is_on != is_enabled():
            _module[_INNER] = _bernoulli if is_on else _of_jax
            jax.clear_caches()


def _bernoulli(key: Any, p: Any, shape: Any = None, mode: str = "low") -> Any:
    """Take the arguments of JAX's inner function, which are checked: a typed key and a floating array p."""
    if np.ndim(p) > 0 or not _is_taken(key):
        return _of_jax(key, p, shape=shape, mode=mode)
    lengths = tuple(shape or ())
    mask = pack_complement(key_words(key), jnp.clip(p, 0, 1))
    return keep_mask(mask, shape=lengths, strides=run_strides(lengths))


def _is_taken(key: Any) -> bool:
    return jax.random.key_data(key).shape in ((2,), (4,)) and is_on_cpu(key)


def is_on_cpu(array: Any) -> bool:
    """Return whether an array is on the CPU; for a traced array, whether compiled functions run there by default."""
    if not isinstance(array, jax.core.Tracer):
        return {device.platform for device in array.devices()} == {"cpu"}
    default = jax.config.jax_default_device
    platform = jax.default_backend() if default is None else getattr(default, "platform", default)
    return bool(platform == "cpu")
