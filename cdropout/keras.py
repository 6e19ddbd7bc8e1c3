"""Keras 3 on its NumPy backend: dropout from this library.

    import cdropout.keras
    cdropout.keras.enable()      # disable() undoes it

Needs keras, with the NumPy backend (the environment's KERAS_BACKEND=numpy); `import cdropout` does not import it.
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
    """Drop elements of inputs with probability rate and divide the others by 1 - rate.

    Parameters
    ----------
    inputs : array_like
        Of any shape. Dtypes other than float16, bfloat16, float32 and float64 go to Keras's own function.
    rate : float
        The probability of dropping, in [0, 1].
    noise_shape : sequence of int or None, optional
        The shape of the decisions, as Keras has it: where it is 1, all elements share one; None stands for the length
        of inputs.
    seed : int, keras.random.SeedGenerator or None
        As in Keras: a SeedGenerator moves on with every call, and an int gives the same mask every time.

    Returns
    -------
    ndarray
        Of inputs' shape and dtype; inputs itself where rate is 0.

    Raises
    ------
    TypeError, ValueError
        For a rate outside [0, 1], or a noise_shape that does not fit, before seed moves on.

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
    words = [int(word) & 0xFFFFFFFF for word in np.asarray(draw_seed(seed)).ravel()]
    return drop_elements(x, rate, rng=np.random.SeedSequence(words), shared_axes=shared_axes)


def enable() -> None:
    """Make Keras's NumPy backend drop with this library. Calling it twice does no harm.

    Raises
    ------
    RuntimeError
        Where Keras runs on another backend.

    """
    if keras.backend.backend() != "numpy":
        raise RuntimeError(f"Keras must run on its NumPy backend, got {keras.backend.backend()!r}")
    backend_random.dropout = dropout


def disable() -> None:
    """Give Keras its own function back."""
    backend_random.dropout = _keras_dropout


def _axes_of(noise_shape: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the axes of an array of this shape along which a noise_shape shares decisions."""
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
