"""Losses that replace the outputs of a network by their gradient, so that a step allocates no arrays of that size.

Each takes the outputs (n_samples, n_outputs) before the output function, returns the weighted mean of the samples'
losses, and writes the gradient of that mean over the outputs. Without weights, all samples count the same. Labels or
targets of other shapes or values raise ValueError before anything is written.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from cdropout.networks.activations import logistic

Array = npt.NDArray[Any]
Loss = Callable[[Array, Array, Array | None], float]


def softmax_loss(outputs: Array, labels: npt.NDArray[np.integer[Any]], weights: Array | None = None) -> float:
    """Return the cross-entropy, in nats, of softmax probabilities; labels are in [0, n_outputs), of shape (n_samples,).

    The logarithm is that of the sum of exponentials rather than of a probability, which may round to 0.
    """
    _check_shape("labels", labels, outputs.shape[:1])
    if labels.size > 0 and not 0 <= labels.min() <= labels.max() < outputs.shape[1]:
        raise ValueError(f"labels must be in [0, {outputs.shape[1]}), got {labels.min()} to {labels.max()}")
    rows = np.arange(len(labels))
    outputs -= outputs.max(axis=1, keepdims=True)  # exp cannot overflow
    own = outputs[rows, labels]
    np.exp(outputs, out=outputs)
    total = outputs.sum(axis=1)
    losses = np.log(total) - own
    outputs /= total[:, np.newaxis]
    outputs[rows, labels] -= 1
    return _mean(losses, outputs, weights)


def softmax(outputs: Array) -> npt.NDArray[np.float64]:
    """Return probabilities (n_samples, n_outputs), in float64, so that rows add up to 1 closely."""
    exponentials: npt.NDArray[np.float64] = np.exp(outputs.astype(np.float64) - outputs.max(axis=1, keepdims=True))
    exponentials /= exponentials.sum(axis=1, keepdims=True)
    return exponentials


def logistic_loss(outputs: Array, targets: Array, weights: Array | None = None) -> float:
    """Return the binary cross-entropy, in nats, summed over outputs; targets are 0 or 1, of the outputs' shape."""
    _check_shape("targets", targets, outputs.shape)
    losses = np.maximum(outputs, 0) - outputs * targets
    losses += np.log1p(np.exp(-np.abs(outputs)))
    logistic(outputs)
    outputs -= targets
    return _mean(losses.sum(axis=1), outputs, weights)


def squared_loss(outputs: Array, targets: Array, weights: Array | None = None) -> float:
    """Return half of the squared error, averaged over outputs. The gradient is that of the sum over outputs."""
    _check_shape("targets", targets, outputs.shape)
    outputs -= targets
    return _mean(0.5 * np.square(outputs).mean(axis=1), outputs, weights)


def _check_shape(name: str, targets: npt.NDArray[Any], expected: tuple[int, ...]) -> None:
    if targets.shape != expected:
        raise ValueError(f"{name} must have the shape {expected}, got {targets.shape}")


def _mean(losses: Array, gradient: Array, weights: Array | None) -> float:
    """Return the mean of the losses, and divide the gradient accordingly."""
    if weights is None:
        gradient /= len(losses)
        return float(losses.mean())
    total = weights.sum()
    gradient *= (weights / total)[:, np.newaxis]
    return float(losses @ weights / total)
