"""The switch, which replaces a function of Keras's backend and the passes of three layers, and what they become."""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Callable
from typing import Any

import keras
from keras.src import backend

from cdropout.keras.arguments import axes_of, check_rate

_MODULES = {"numpy": "on_numpy", "torch": "on_torch", "jax": "on_jax"}
# Why the other backends are refused.
_REASONS = {
    "tensorflow": "TensorFlow's graphs and gradients need an operator that is compiled for each version of TensorFlow,"
    " and this library has none",
}

_backend_name = keras.backend.backend()
of_keras: Callable[..., Any] = backend.random.dropout
ours: Any = importlib.import_module(f"cdropout.keras.{_MODULES[_backend_name]}") if _backend_name in _MODULES else None
_lock = threading.Lock()


def dropout(inputs: Any, rate: float, noise_shape: Any = None, seed: Any = None) -> Any:
    """Drop each element of inputs with probability rate and divide the others by 1 - rate.

    Parameters
    ----------
    inputs : array_like
        A tensor of Keras's backend, of any shape. For tensors that the kernels do not take, Keras's function is called:
        of other dtypes than float16, bfloat16, float32 and float64, and on other devices than the CPU.
    rate : float
        The probability of dropping, in [0, 1].
    noise_shape : sequence of int or None, optional
        The shape of the decisions, as in Keras: elements along an axis of length 1 share one decision; None stands for
        the length of inputs.
    seed : int, keras.random.SeedGenerator or None
        As in Keras: a SeedGenerator advances with every call, and an int gives the same mask every time. On PyTorch, a
        SeedGenerator that was made without a seed follows `torch.manual_seed`, unless noise_shape is given.

    Returns
    -------
    tensor
        Of inputs' shape and dtype; inputs itself if rate is 0.

    Raises
    ------
    TypeError, ValueError
        If rate is outside [0, 1] or noise_shape does not fit; seed does not advance then.
    RuntimeError
        If Keras runs on a backend that `enable` refuses.

    """
    _check_backend()
    rate = check_rate(rate)
    x = ours.as_tensor(inputs)
    if rate == 0.0:
        return x
    if not ours.takes(x):
        return of_keras(x, rate, noise_shape, seed)
    if rate == 1.0:
        axes_of(noise_shape, tuple(x.shape))
        return ours.zeros_like(x)
    return ours.dropout(x, rate, noise_shape, seed)


def _alpha_dropout(self: Any, inputs: Any, training: bool = False) -> Any:
    if training and self.rate > 0 and ours.takes(inputs):
        return ours.alpha_dropout(inputs, check_rate(self.rate), self.noise_shape, self.seed_generator)
    return _calls_of_keras[keras.layers.AlphaDropout](self, inputs, training)


def _gaussian_dropout(self: Any, inputs: Any, training: bool = False) -> Any:
    if training and self.rate > 0 and ours.takes(inputs):
        return ours.gaussian_dropout(inputs, check_rate(self.rate), self.seed_generator)
    return _calls_of_keras[keras.layers.GaussianDropout](self, inputs, training)


def _gaussian_noise(self: Any, inputs: Any, training: bool = False) -> Any:
    if training and self.stddev > 0 and ours.takes(inputs):
        return ours.gaussian_noise(inputs, float(self.stddev), self.seed_generator)
    return _calls_of_keras[keras.layers.GaussianNoise](self, inputs, training)


# Layers that drop or add noise without the backend's dropout.
_CALLS: dict[Any, Callable[..., Any]] = {
    keras.layers.AlphaDropout: _alpha_dropout,
    keras.layers.GaussianDropout: _gaussian_dropout,
    keras.layers.GaussianNoise: _gaussian_noise,
}
_calls_of_keras: dict[Any, Callable[..., Any]] = {layer: layer.call for layer in _CALLS}


def enable() -> None:
    """Make Keras's backend use this library's masks and noise; a second call changes nothing.

    Models that are compiled already are compiled again at their next step, because this also forgets what
    `jax.jit` and `torch.compile` have compiled in this process.

    Raises
    ------
    RuntimeError
        If Keras runs on another backend than NumPy, PyTorch or JAX.

    """
    _check_backend()
    _set(True)


def disable() -> None:
    """Restore Keras's functions. Without an earlier `enable`, nothing happens."""
    _set(False)


def is_enabled() -> bool:
    """Return whether the switch is on."""
    return backend.random.dropout is dropout


def _set(is_on: bool) -> None:
    with _lock:
        if is_on == is_enabled():
            return
        for layer, call in (_CALLS if is_on else _calls_of_keras).items():
            layer.call = call
        backend.random.dropout = dropout if is_on else of_keras
        _forget_compiled()


def _forget_compiled() -> None:
    """Let compiled functions be traced again: they keep the functions that they were traced with."""
    if _backend_name == "jax":
        sys.modules["jax"].clear_caches()
    if _backend_name == "torch":
        sys.modules["torch"].compiler.reset()


def _check_backend() -> None:
    name = keras.backend.backend()
    if name not in _MODULES:
        reason = _REASONS.get(name, "this library has no kernels for it")
        raise RuntimeError(f"Keras must run on its NumPy, PyTorch or JAX backend, got {name!r}: {reason}")
