"""Arguments as Keras has them: rates, shapes of noise and seeds."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras.src.random.seed_generator import draw_seed

from cdropout import _kernels


def check_rate(rate: Any) -> float:
    """Return a rate as a float; TypeError or ValueError unless it is a number in [0, 1]."""
    # Compilers of PyTorch follow the comparison, and not a call of a compiled function.
    return rate if type(rate) is float and 0.0 <= rate <= 1.0 else _kernels.check_p(rate)


def axes_of(noise_shape: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
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


def sequence_of(seed: Any) -> np.random.SeedSequence:
    """Return the seeds of a mask from an int, a SeedGenerator, which advances, or None, Keras's global generator."""
    return np.random.SeedSequence([int(word) & 0xFFFFFFFF for word in draw_seed(seed).tolist()])
