"""A small NumPy network: linear layers, ReLU, softmax cross-entropy and Adam, and dropout as tutorials write it.

A layer has `forward(x)`, `backward(dy)`, and the equally long lists `params` and `grads`; one that behaves differently
in evaluation also has `train()` and `eval()`. `backward` follows the `forward` whose gradient it carries, and writes
the gradients of the parameters into the arrays in `grads`, which stay the same objects. That is also the protocol of
`cdropout.Dropout`.
"""

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

import cdropout as cd
from cdropout.command import CommandError
from cdropout.networks.losses import softmax_loss
from cdropout.networks.optimizers import Adam as Adam

Array = npt.NDArray[Any]


class DivergenceError(CommandError):
    """Report a training with numbers that are not finite; the message names the number, the step and the step size."""


class Layer(Protocol):
    """Declare the methods and attributes that `Network` uses."""

    params: list[Array]
    grads: list[Array]

    def forward(self, x: Array) -> Array:
        """Map the inputs of a batch to its outputs."""

    def backward(self, dy: Array) -> Array | None:
        """Map the gradient of the loss with respect to the outputs to that with respect to the inputs."""


class SwitchedLayer(Layer, Protocol):
    """Declare the methods of a layer that behaves differently in evaluation."""

    def train(self) -> object:
        """Switch to training."""

    def eval(self) -> object:
        """Switch to evaluation."""


class Linear:
    """Apply the affine map x W + b.

    Parameters
    ----------
    n_in, n_out : int
        The widths of input and output: W is (n_in, n_out), b is (n_out,), zero at first.
    rng : Generator
        Draws W, uniform with a variance of 2 / n_in (He et al. 2015, eq. 10).
    dtype : dtype
        That of the parameters: float32, or float64 to check gradients.
    input_gradient : bool
        Whether `backward` returns the gradient of the input. False saves a matrix product in a first layer, whose
        input is not learned: `backward` then returns None.

    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        rng: np.random.Generator,
        *,
        dtype: npt.DTypeLike = np.float32,
        input_gradient: bool = True,
    ) -> None:
        bound = math.sqrt(6 / n_in)
        self.weight = rng.uniform(-bound, bound, (n_in, n_out)).astype(dtype)
        self.bias = np.zeros(n_out, dtype)
        self.input_gradient = input_gradient
        self.params = [self.weight, self.bias]
        self.grads = [np.zeros_like(param) for param in self.params]
        self._x: Array | None = None

    def forward(self, x: Array) -> Array:
        """Map (n_samples, n_in) to (n_samples, n_out)."""
        self._x = x
        y: Array = x @ self.weight
        y += self.bias
        return y

    def backward(self, dy: Array) -> Array | None:
        """Map the gradient (n_samples, n_out) to (n_samples, n_in), or to None without `input_gradient`.

        Raises
        ------
        RuntimeError
            Where no forward pass came before.

        """
        if self._x is None:
            raise RuntimeError("backward must follow a forward pass, and none has been made")
        np.matmul(self._x.T, dy, out=self.grads[0])
        np.sum(dy, axis=0, out=self.grads[1])
        return dy @ self.weight.T if self.input_gradient else None


class ReLU:
    """Compute max(x, 0), element by element, for an array of any shape."""

    def __init__(self) -> None:
        self.params: list[Array] = []
        self.grads: list[Array] = []
        self._y: Array | None = None

    def forward(self, x: Array) -> Array:
        """Zero the negative elements."""
        self._y = np.maximum(x, 0)
        return self._y

    def backward(self, dy: Array) -> Array:
        """Zero the gradient where the output was zero.

        Raises
        ------
        RuntimeError
            Where no forward pass came before.

        """
        if self._y is None:
            raise RuntimeError("backward must follow a forward pass, and none has been made")
        return dy * (self._y > 0)


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


class Network:
    """Chain layers; a network is itself a layer.

    Parameters
    ----------
    layers : sequence of Layer
        In the order of the forward pass.

    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.layers = list(layers)
        self.params = [param for layer in self.layers for param in layer.params]
        self.grads = [grad for layer in self.layers for grad in layer.grads]

    def forward(self, x: Array) -> Array:
        """Pass a batch (n_samples, n_in) through all layers."""
        for layer in self.layers:
            x = layer.forward(x)
        return x

    def backward(self, dy: Array) -> Array | None:
        """Pass the gradient of the outputs back through all layers, filling `grads`."""
        gradient: Array | None = dy
        for layer in reversed(self.layers):
            gradient = layer.backward(gradient)  # type: ignore[arg-type] # None comes from the first layer alone
        return gradient

    def train(self) -> None:
        """Switch every layer that has the two modes to training."""
        cd.train(self.layers)

    def eval(self) -> None:
        """Switch every layer that has the two modes to evaluation."""
        cd.eval(self.layers)


def softmax(logits: Array) -> npt.NDArray[np.float64]:
    """Turn logits (n_samples, n_classes) into probabilities, in float64, so that rows add up to 1 closely."""
    exponentials: npt.NDArray[np.float64] = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    exponentials /= exponentials.sum(axis=1, keepdims=True)
    return exponentials


def softmax_cross_entropy(logits: Array, labels: npt.NDArray[np.integer]) -> tuple[float, Array]:
    """Return the mean cross-entropy of a batch in nats and its gradient with respect to the logits.

    Parameters
    ----------
    logits : ndarray of float32 or float64, shape (n_samples, n_classes)
        Logarithms of the probabilities of the classes, up to a constant for each sample.
    labels : ndarray of integers, shape (n_samples,)
        In [0, n_classes).

    Returns
    -------
    loss : float
    dlogits : ndarray
        With the shape and dtype of `logits`.

    """
    dlogits = logits.copy()
    return softmax_loss(dlogits, labels), dlogits


def train_step(network: Network, optimizer: Adam, x: Array, labels: npt.NDArray[np.integer]) -> float:
    """Make one training step on a batch (n_samples, n_in), and return its loss in nats."""
    loss, dlogits = softmax_cross_entropy(network.forward(x), labels)
    network.backward(dlogits)
    optimizer.step()
    return loss


def ignore_overflow() -> np.errstate:
    """Return a context in which NumPy does not warn of numbers that are not finite; `check_loss` reports the first."""
    return np.errstate(over="ignore", invalid="ignore", divide="ignore")


def check_loss(loss: float, step: int, lr: float) -> None:
    """Raise DivergenceError if the loss in nats of a step, counted from 1, is not finite.

    Parameters
    ----------
    loss : float
        The loss of the step, or of an evaluation after it.
    step : int
        The number of the step.
    lr : float
        The step size of the optimizer, for the message.

    """
    if not math.isfinite(loss):
        raise DivergenceError(f"loss must be finite, got {loss} at step {step} with a step size of {lr:g}")
