"""Dropout from this library for Keras 3 on its NumPy backend.

    import cdropout.keras
    cdropout.keras.enable()      # disable() undoes it

Needs keras with the NumPy backend (environment variable KERAS_BACKEND=numpy); `import cdropout` does not import it.
"""

from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras.src.backend.numpy import random as backend_random
from keras.src.random.seed_generator import draw_seed

from cdropout import _kernels
from cdropout.functions import dropout as drop_elements

_keras_dropout = backend_random.dropout


def dropout(inputs: Any, rate: float, noise_shape: Any = None, seed: Any = None) -> npt.NDArray[Any]:
    """Drop each element of inputs with probability rate and divide the others by 1 - rate.

    Parameters
    ----------
    inputs : array_like
        Of any shape. For dtypes other than float16, bfloat16, float32 and float64, Keras's function is called.
    rate : float
        The probability of dropping, in [0, 1].
    noise_shape : sequence of int or None, optional
        The shape of the decisions, as in Keras: elements along an axis of length 1 share one decision; None stands for
        the length of inputs.
    seed : int, keras.random.SeedGenerator or None
        As in Keras: a SeedGenerator advances with every call, and an int gives the same mask every time.

    Returns
    -------
    ndarray
        Of inputs' shape and dtype; inputs itself if rate is 0.

    Raises
    ------
    TypeError, ValueError
        If rate is outside [0, 1] or noise_shape does not fit; seed does not advance then.

    """
    rate = _kernels.check_p(rate)
    x: npt.NDArray[Any] = np.asarray(inputs)
    if rate == 0.0:
        return x
    shared_axes = _axes_of(noise_shape, x.shape)
    try:
        _kernels.check_array(x, "inputs")
    except TypeError:
        return _keras_dropout(x, rate, noise_shape, seed)  # type: ignore[no-any-return]
    if rate == 1.0:
        return np.zeros_like(x)
    np.empty_like(x)  # if there is no memory for the result, the seed does not advance
    words = [int(word) & 0xFFFFFFFF for word in np.asarray(draw_seed(seed)).ravel()]
    return drop_elements(x, rate, rng=np.random.SeedSequence(words), shared_axes=shared_axes)


def enable() -> None:
    """Make Keras's NumPy backend use this library's dropout; a second call changes nothing.

    Raises
    ------
    RuntimeError
        If Keras runs on another backend.

    """
    if keras.backend.backend() != "numpy":
        raise RuntimeError(f"Keras must run on its NumPy backend, got {keras.backend.backend()!r}")
    backend_random.dropout = dropout


def disable() -> None:
    """Restore Keras's function."""
    backend_random.dropout = _keras_dropout


def _axes_of(noise_shape: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the axes along which noise_shape shares decisions, for an array of the given shape."""
    if noise_shape is None:
        return ()
    lengths = [shape[axis] if n is None else n for axis, n in enumerate(tuple(noise_shape)[: len(shape)])]
    n_missing = len(shape) - len(lengths)  # in front, as in broadcasting
    fits = len(tuple(noise_shape)) <= len(shape) and all(
        n in (1, length) for n, length in zip(lengths, shape[n_missing:], strict=True)
    )
    if not fits:
        raise ValueError(
            f"noise_shape must be 1 or the length of inputs along each axis, got {noise_shape} for {shape}"
        )
    return (*range(n_missing), *(n_missing + axis for axis, n in enumerate(lengths) if n == 1))
