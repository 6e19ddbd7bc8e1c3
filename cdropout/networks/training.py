"""The training step."""

from typing import Any, Protocol

import numpy.typing as npt

from cdropout.networks.losses import Loss

Array = npt.NDArray[Any]


class Network(Protocol):
    """Declare the methods of a network that `train_step` uses."""

    def forward(self, x: Any, /) -> Array:
        """Return the outputs for a batch, in memory that the loss may overwrite."""

    def backward(self, dy: Array, /) -> object:
        """Write the gradients of the parameters, for the gradient of the outputs."""


class Optimizer(Protocol):
    """Declare the method of an optimizer that `train_step` uses."""

    def step(self) -> None:
        """Update the parameters by their gradients."""


def train_step(
    network: Network, optimizer: Optimizer, loss: Loss, x: Any, targets: Array, weights: Array | None = None
) -> float:
    """Make a training step with a batch, and return its loss before the update.

    Parameters
    ----------
    network : Network
        In training mode.
    optimizer : Optimizer
        That of the network's parameters.
    loss : callable
        A loss of `cdropout.networks`.
    x : ndarray or sparse array of shape (n_samples, n_inputs)
        The inputs, which the network may overwrite.
    targets, weights : ndarray
        As the loss takes them.

    """
    outputs = network.forward(x)
    value = loss(outputs, targets, weights)
    network.backward(outputs)  # the loss has replaced the outputs by their gradient
    optimizer.step()
    return value
