"""Passes without dropout, by weights and biases alone: for networks, estimators and sub-networks."""

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

from cdropout.networks.activations import ACTIVATIONS, check_activation

Array = npt.NDArray[Any]


def evaluate(params: Sequence[Array], activation: str, x: Any) -> Array:
    """Return the outputs of a network without dropout.

    Parameters
    ----------
    params : sequence of ndarray
        Weights and biases of each layer in turn.
    activation : str
        A name of `ACTIVATIONS`, for all layers except the last.
    x : ndarray or sparse array of shape (n_samples, n_inputs)
        The inputs.

    Raises
    ------
    ValueError
        If activation has another name.

    """
    check_activation(activation)
    return pass_layer(params[-2:], "identity", pass_hidden(params[:-2], activation, x))


def pass_hidden(params: Sequence[Array], activation: str, x: Any) -> Any:
    """Return the output of hidden layers with these weights and biases for x; x itself if there are none."""
    for weight_and_bias in zip(params[::2], params[1::2], strict=True):
        x = pass_layer(weight_and_bias, activation, x)
    return x


def pass_layer(params: Sequence[Array], activation: str, x: Any) -> Array:
    """Return the activation of x @ weight + bias, in new memory, for params of weight and bias."""
    y: Array = x @ params[0]
    y += params[1]
    ACTIVATIONS[activation][0](y)
    return y
