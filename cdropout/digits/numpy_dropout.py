"""Dropout as tutorials write it in NumPy: the baseline that training compares `cdropout.Dropout` with."""

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class NumPyDropout:
    """Drop elements as tutorials do: draw floats, compare them with p, store a mask of floats, and multiply by it.

    This is the baseline of `cdropout.Dropout`, with the same interface: p is the probability of dropping.

    Parameters
    ----------
    p : float
        The probability of dropping, in [0, 1].
    rng : Generator
        Draws one float64 for each element of a batch.

    """

    def __init__(self, p: float, rng: np.random.Generator) -> None:
        if not 0 <= p <= 1:
            raise ValueError(f"p must be in [0, 1], got {p}")
        self.p = p
        self.rng = rng
        self.training = True
        self.mask: Array | None = None
        self.params: list[Array] = []
        self.grads: list[Array] = []

    def forward(self, x: Array) -> Array:
        """Multiply by a new mask in training; return x itself in evaluation."""
        if not self.training:
            self.mask = None
            return x
        keep = self.rng.random(x.shape) >= self.p
        scale = 1 / (1 - self.p) if self.p < 1 else 0.0
        self.mask = keep.astype(x.dtype) * x.dtype.type(scale)
        return x * self.mask

    def backward(self, dy: Array) -> Array:
        """Multiply the gradient by the mask of the last forward pass."""
        return dy if self.mask is None else dy * self.mask

    def train(self) -> None:
        """Switch to training."""
        self.training = True

    def eval(self) -> None:
        """Switch to evaluation."""
        self.training = False
