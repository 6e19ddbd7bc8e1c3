"""Random layers on Keras's NumPy backend, by this library's functions.

Each module of a backend has these functions, and `takes`, which says whether they take an input.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from cdropout import _kernels, functions
from cdropout.keras.arguments import axes_of, sequence_of


def takes(inputs: Any) -> bool:
    """Return whether inputs are an array of a floating dtype."""
    try:
        _kernels.check_array(np.asarray(inputs), "inputs")
    except TypeError:
        return False
    return True


def as_tensor(inputs: Any) -> npt.NDArray[Any]:
    """Return inputs as an array."""
    return np.asarray(inputs)


def zeros_like(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return an array of zeros."""
    return np.zeros_like(x)


def dropout(x: npt.NDArray[Any], rate: float, noise_shape: Any, seed: Any) -> npt.NDArray[Any]:
    """Drop elements and divide the others by 1 - rate."""
    shared_axes = axes_of(noise_shape, x.shape)
    np.empty_like(x)  # if there is no memory for the result, the seed does not advance
    return functions.dropout(x, rate, rng=sequence_of(seed), shared_axes=shared_axes)


def alpha_dropout(x: npt.NDArray[Any], rate: float, noise_shape: Any, seed: Any) -> npt.NDArray[Any]:
    """Drop elements for SELU."""
    shared_axes = axes_of(noise_shape, x.shape)
    np.empty_like(x)
    return functions.alpha_dropout(x, rate, rng=sequence_of(seed), shared_axes=shared_axes)


def gaussian_dropout(x: npt.NDArray[Any], rate: float, seed: Any) -> npt.NDArray[Any]:
    """Multiply by normal noise of mean 1 and variance rate / (1 - rate)."""
    np.empty_like(x)
    return functions.gaussian_dropout(x, rate, rng=sequence_of(seed))


def gaussian_noise(x: npt.NDArray[Any], stddev: float, seed: Any) -> npt.NDArray[Any]:
    """Add normal noise of mean 0."""
    np.empty_like(x)
    return functions.gaussian_noise(x, stddev, rng=sequence_of(seed))
