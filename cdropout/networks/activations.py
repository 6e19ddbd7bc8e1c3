"""Activations of hidden layers, and their derivatives, in place."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from cdropout import _kernels

Array = npt.NDArray[Any]

# Klambauer et al., "Self-normalizing neural networks", NIPS 2017, appendix A1.
SELU_ALPHA = 1.6732632423543772
SELU_SCALE = 1.0507009873554805


def logistic(z: Array) -> None:
    """Replace z by 1 / (1 + exp(-z)), without overflow."""
    z *= 0.5
    np.tanh(z, out=z)
    z += 1
    z *= 0.5


def _identity(z: Array) -> None:
    pass


def _tanh(z: Array) -> None:
    np.tanh(z, out=z)


def _relu(z: Array) -> None:
    np.maximum(z, 0, out=z)


def _selu(z: Array) -> None:
    negative = np.minimum(z, 0)
    np.expm1(negative, out=negative)
    negative *= SELU_ALPHA
    np.maximum(z, 0, out=z)
    z += negative
    z *= SELU_SCALE


# The derivatives multiply a gradient by f'(z), given f(z).


def _identity_derivative(gradient: Array, y: Array) -> None:
    pass


def _logistic_derivative(gradient: Array, y: Array) -> None:
    gradient *= y
    gradient *= 1 - y


def _tanh_derivative(gradient: Array, y: Array) -> None:
    gradient *= 1 - np.square(y)


def _relu_derivative(gradient: Array, y: Array) -> None:
    _kernels.relu_dropout_backward(gradient, y, 0.0, gradient)


def _selu_derivative(gradient: Array, y: Array) -> None:
    # For z < 0: SELU_SCALE * SELU_ALPHA * exp(z), which is y plus this product of constants.
    gradient *= np.where(y > 0, SELU_SCALE, y + SELU_SCALE * SELU_ALPHA)


ACTIVATIONS: dict[str, tuple[Callable[[Array], None], Callable[[Array, Array], None]]] = {
    "identity": (_identity, _identity_derivative),
    "logistic": (logistic, _logistic_derivative),
    "tanh": (_tanh, _tanh_derivative),
    "relu": (_relu, _relu_derivative),
    "selu": (_selu, _selu_derivative),
}


def check_activation(activation: str) -> None:
    """Raise ValueError unless an activation has this name."""
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
