"""Losses that replace the outputs of a network by their gradient, so that a step allocates no arrays of that size.

Each takes the outputs (n_samples, n_outputs) before the output function, returns the weighted mean of the samples'
losses, and writes the gradient of that mean over the outputs. Without weights, all samples count the same. Weights, of
shape (n_samples,), are at least 0 and have a sum above 0. Arguments of other types, shapes or values raise TypeError or
ValueError before anything is written.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from cdropout import _kernels
from cdropout.networks.activations import logistic

Array = npt.NDArray[Any]
Loss = Callable[[Array, Array, Array | None], float]


def softmax_loss(outputs: Array, labels: npt.NDArray[np.integer[Any]], weights: Array | None = None) -> float:
    """Return the cross-entropy, in nats, of softmax probabilities; labels are in [0, n_outputs), of shape (n_samples,).

    The logarithm is that of the sum of exponentials rather than of a probability, which may round to 0.
    """
    total_weight = _check_outputs(outputs, weights)
    _check_array("labels", labels, outputs.shape[:1])
    if labels.dtype.kind not in "iu":
        raise TypeError(f"labels must be integers, got dtype {labels.dtype}")
    least, most = _range_of(labels)
    if not 0 <= least <= most < outputs.shape[1]:
        raise ValueError(f"labels must be in [0, {outputs.shape[1]}), got {least} to {most}")
    rows = np.arange(len(labels))
    outputs -= np.maximum.reduce(outputs, axis=1, keepdims=True)  # exp cannot overflow
    own = outputs[rows, labels]
    np.exp(outputs, out=outputs)
    total = np.add.reduce(outputs, axis=1)
    losses = np.log(total) - own
    outputs /= total[:, np.newaxis]
    outputs[rows, labels] -= 1
    return _mean(losses, outputs, weights, total_weight)


def softmax(outputs: Array) -> npt.NDArray[np.float64]:
    """Return probabilities (n_samples, n_outputs), in float64, so that rows add up to 1 closely."""
    exponentials: npt.NDArray[np.float64] = np.exp(outputs.astype(np.float64) - outputs.max(axis=1, keepdims=True))
    exponentials /= exponentials.sum(axis=1, keepdims=True)
    return exponentials


def logistic_loss(outputs: Array, targets: Array, weights: Array | None = None) -> float:
    """Return the binary cross-entropy, in nats, summed over outputs; targets are in [0, 1], of the outputs' shape."""
    total_weight = _check_outputs(outputs, weights)
    _check_array("targets", targets, outputs.shape)
    if targets.size > 0:
        least, most = _range_of(targets)
        if not 0 <= least <= most <= 1:
            raise ValueError(f"targets must be in [0, 1], got {least} to {most}")
    losses = np.maximum(outputs, 0) - outputs * targets
    losses += np.log1p(np.exp(-np.abs(outputs)))
    logistic(outputs)
    outputs -= targets
    return _mean(np.add.reduce(losses, axis=1), outputs, weights, total_weight)


def squared_loss(outputs: Array, targets: Array, weights: Array | None = None) -> float:
    """Return half of the squared error, averaged over outputs. The gradient is that of the sum over outputs."""
    total_weight = _check_outputs(outputs, weights)
    _check_array("targets", targets, outputs.shape)
    outputs -= targets
    return _mean(0.5 * np.square(outputs).mean(axis=1), outputs, weights, total_weight)


def _check_outputs(outputs: Array, weights: Array | None) -> Any:
    """Return the sum of the weights, or None; TypeError or ValueError unless outputs can be replaced by their gradient
    with these weights.
    """
    _check_array("outputs", outputs)
    if outputs.dtype.kind != "f":
        raise TypeError(f"outputs must be an array of floats, got dtype {outputs.dtype}")
    if outputs.ndim != 2 or len(outputs) == 0:
        raise ValueError(f"outputs must have the axes (n_samples, n_outputs) and a sample, got shape {outputs.shape}")
    if not outputs.flags.writeable:
        raise ValueError(f"outputs must be writable, got a read-only array of shape {outputs.shape}")
    if weights is None:
        return None
    _check_array("weights", weights, outputs.shape[:1])
    total = np.add.reduce(weights)
    if not (np.minimum.reduce(weights) >= 0 and 0 < total < np.inf):  # false for NaN
        raise ValueError(
            f"weights must be at least 0, with a finite sum above 0, got {weights.min()} to {weights.max()}"
        )
    return total


def _check_array(name: str, array: Any, expected: tuple[int, ...] | None = None) -> None:
    """Raise TypeError unless an argument is an array, and ValueError unless it has the expected shape, if any."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{name} must be an array, got {type(array).__name__}")
    if type(array) is not np.ndarray:
        _kernels.check_unmasked(array, name, "masked elements would be used")
    if expected is not None and array.shape != expected:
        raise ValueError(f"{name} must have the shape {expected}, got {array.shape}")


def _range_of(array: Array) -> tuple[Any, Any]:
    """Return the least and the largest element, NaN if one is NaN.

    For arrays of a small batch, functions of ufuncs take less time than the methods of arrays; so elsewhere here.
    """
    return np.minimum.reduce(array, axis=None), np.maximum.reduce(array, axis=None)


def _mean(losses: Array, gradient: Array, weights: Array | None, total: Any) -> float:
    """Return the mean of the losses, and divide the gradient accordingly; total is the sum of the weights."""
    if weights is None:
        gradient /= len(losses)
        if losses.dtype == np.float16:
            return float(losses.mean())  # whose sum is in float32
        return float(np.add.reduce(losses) / len(losses))
    gradient *= (weights / total)[:, np.newaxis]
    return float(losses @ weights / total)
