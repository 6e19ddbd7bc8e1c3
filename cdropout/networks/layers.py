"""Layers of `MLP`: product, bias, activation and dropout, in buffers that stay from step to step.

`Layer` and `LinearLayer` declare the dropout layers that are given to `MLP`. The layers that it makes, from `Affine` to
`HiddenWithLinear`, each have `params` and `grads` (the weight and the bias, and their gradients), `forward` and
`backward` for a training step, and `evaluate`, which uses no buffers.
"""

from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from cdropout import _kernels
from cdropout.functions.gaussian import noise_std
from cdropout.mask import Mask, draw_mask
from cdropout.networks.activations import ACTIVATIONS
from cdropout.networks.evaluation import pass_layer
from cdropout.noise import Noise, draw_noise
from cdropout.stream import Stream

Array = npt.NDArray[Any]


class DropoutLayer(Protocol):
    """Declare the methods of a layer that is given to `MLP`; it may also have `train` and `eval`."""

    def forward(self, x: Array, /) -> Array:
        """Map the inputs of a batch to its outputs."""

    def backward(self, dy: Array, /) -> Array:
        """Map the gradient of the loss with respect to the outputs to that with respect to the inputs.

        The network may overwrite the result.
        """


class LinearLayer(DropoutLayer, Protocol):
    """Declare the parameters of a linear layer that is given to `MLP`."""

    params: list[Array]
    grads: list[Array]


class Sizes(NamedTuple):
    """Hold what the arrays of a layer depend on.

    Attributes
    ----------
    n_in, n_out : int
        The widths of input and output.
    n_rows : int
        The largest number of rows of a batch.
    dtype : float32 or float64
        The dtype of the parameters.
    is_first : bool
        Whether the input is that of the network, whose gradient is not computed.
    batch_norm : bool
        Whether products are normalized over the batch.

    """

    n_in: int
    n_out: int
    n_rows: int
    dtype: npt.DTypeLike
    is_first: bool
    batch_norm: bool


class BatchNorm:
    """Batch normalization (Ioffe and Szegedy 2015) of a layer's products, whose bias is the paper's beta.

    A batch of one row has no variance. It is normalized by the running statistics, which it leaves as they are.

    Attributes
    ----------
    gamma, grad : ndarray of shape (n_out,)
        The factor of each unit, 1 at first, and its gradient.
    mean, var : ndarray of shape (n_out,)
        The running statistics, 0 and 1 at first. The variance is that of n - 1 degrees of freedom.

    """

    # The values and the names of PyTorch's BatchNorm1d.
    momentum, eps = 0.1, 1e-5

    def __init__(self, sizes: Sizes) -> None:
        self.gamma, self.grad = np.ones(sizes.n_out, sizes.dtype), np.zeros(sizes.n_out, sizes.dtype)
        self.mean, self.var = np.zeros_like(self.gamma), np.ones_like(self.gamma)
        self._normalized = np.empty((sizes.n_rows, sizes.n_out), sizes.dtype)
        self._inverse_std = self.gamma

    def forward(self, z: Array) -> Array:
        """Replace products by normalized ones, times gamma, and return them."""
        n_rows = len(z)
        normalized = self._normalized[:n_rows]
        if n_rows > 1:
            mean = z.mean(axis=0)
            np.subtract(z, mean, out=normalized)
            var = np.einsum("ij,ij->j", normalized, normalized) / n_rows
            self.mean += self.momentum * (mean - self.mean)
            self.var += self.momentum * (var * (n_rows / (n_rows - 1)) - self.var)
        else:
            var = self.var
            np.subtract(z, self.mean, out=normalized)
        self._inverse_std = 1 / np.sqrt(var + self.eps)
        normalized *= self._inverse_std
        return np.multiply(normalized, self.gamma, out=z)

    def backward(self, dy: Array, dbeta: Array) -> None:
        """Replace the gradient of the output by that of the products; dbeta is its sum over rows."""
        n_rows = len(dy)
        normalized = self._normalized[:n_rows]
        np.einsum("ij,ij->j", dy, normalized, out=self.grad)
        if n_rows > 1:
            dy -= dbeta / n_rows
            dy -= normalized * (self.grad / n_rows)
        dy *= self.gamma * self._inverse_std

    def fold(self, weight: Array, bias: Array) -> list[Array]:
        """Return the weight and the bias of the affine map that evaluation applies: by the running statistics."""
        factor = self.gamma / np.sqrt(self.var + self.eps)
        return [weight * factor, bias - self.mean * factor]


class Affine:
    """A matrix product and a bias: the last layer of a network, and the base of hidden ones.

    Attributes
    ----------
    params, grads : list of ndarray
        The weight (n_in, n_out) and the bias (n_out,), zero at first, and their gradients.
    norm : BatchNorm or None
        Normalizes the product in training.
    x : ndarray or sparse array
        The input of the last `forward`, which `backward` reads; None before the first.

    """

    activation = "identity"

    def __init__(self, sizes: Sizes) -> None:
        n_in, n_out, n_rows, dtype, is_first, batch_norm = sizes
        self.params: list[Array] = [np.zeros((n_in, n_out), dtype), np.zeros(n_out, dtype)]
        self.grads = [np.zeros_like(param) for param in self.params]
        self.norm = BatchNorm(sizes) if batch_norm else None
        self.x: Any = None
        self.z = np.empty((n_rows, n_out), dtype)
        self._dx = None if is_first else np.empty((n_rows, n_in), dtype)

    def forward(self, x: Any) -> Array:
        """Return the output, in a buffer."""
        z = self._multiply(x)
        z += self.params[1]
        return z

    def _multiply(self, x: Any) -> Array:
        """Return x @ weight, normalized if there is a norm, in the buffer z."""
        self.x = x
        z = self.z[: x.shape[0]]
        if isinstance(x, np.ndarray):
            np.matmul(x, self.params[0], out=z)
        else:
            z[...] = x @ self.params[0]
        return z if self.norm is None else self.norm.forward(z)

    def backward(self, dy: Array) -> Array | None:
        """Write the gradients of the parameters, and return that of x, in a buffer; None in the first layer.

        Hidden layers write to dy.
        """
        x = self.x
        np.sum(dy, axis=0, out=self.grads[1])
        if self.norm is not None:
            self.norm.backward(dy, self.grads[1])
        if isinstance(x, np.ndarray):
            np.matmul(x.T, dy, out=self.grads[0])
        else:
            self.grads[0][...] = x.T @ dy
        return None if self._dx is None else np.matmul(dy, self.params[0].T, out=self._dx[: len(dy)])

    def evaluate(self, x: Any) -> Array:
        """Return the output without dropout."""
        return pass_layer(self.folded, self.activation, x)

    @property
    def folded(self) -> list[Array]:
        """The weight and the bias of evaluation: those of `params`, or new arrays that include the norm."""
        return self.params if self.norm is None else self.norm.fold(*self.params)


class FusedReLU(Affine):
    """ReLU and element-wise dropout: one pass over memory, in place, each way."""

    activation = "relu"

    def __init__(self, sizes: Sizes, rng: Stream, p: float) -> None:
        super().__init__(sizes)
        self.rng, self.p = rng, p

    def forward(self, x: Any) -> Array:
        """Return the output after dropout, in a buffer."""
        z = self._multiply(x)
        return _kernels.fused("bias_relu_dropout", z, self.params[1], None, self.p, self.rng, z)

    def backward(self, dy: Array) -> Array | None:
        """Do what `Affine.backward` does."""
        _kernels.relu_dropout_backward(dy, self.z[: len(dy)], self.p, dy)
        return super().backward(dy)


class HiddenInTwoPasses(Affine):
    """Any activation, in place, and then any kind of dropout."""

    def __init__(self, sizes: Sizes, rng: Stream, p: float, activation: str, kind: str) -> None:
        super().__init__(sizes)
        self.rng, self.p, self.activation = rng, p, activation
        self._kind, self._drop = kind, _NOTHING
        self._y = np.empty_like(self.z) if p else self.z

    def forward(self, x: Any) -> Array:
        """Return the output after dropout, in a buffer."""
        z = super().forward(x)
        ACTIVATIONS[self.activation][0](z)
        y = self._y[: len(z)]
        if self.p:
            self._drop = _draw(self._kind, self.p, z.shape, self.rng)
            self._drop.forward(z, y)
        return y

    def backward(self, dy: Array) -> Array | None:
        """Do what `Affine.backward` does."""
        self._drop.backward(dy)
        ACTIVATIONS[self.activation][1](dy, self.z[: len(dy)])
        return super().backward(dy)


class HiddenWithLayer:
    """A hidden layer without dropout, and a dropout layer that gets its output."""

    def __init__(self, hidden: Affine, dropout: DropoutLayer) -> None:
        self.hidden, self.dropout = hidden, dropout
        self.params, self.grads, self.norm = hidden.params, hidden.grads, hidden.norm
        # Derivatives of activations are computed from y; a dropout layer that works in place overwrites the copy.
        self._copy = None if hidden.activation == "identity" else np.empty_like(hidden.z)

    def forward(self, x: Any) -> Array:
        """Return the output of the dropout layer."""
        y = self.hidden.forward(x)
        if self._copy is not None:
            copy = self._copy[: len(y)]
            np.copyto(copy, y)
            y = copy
        return _checked_result(self.dropout, "forward", self.dropout.forward(y), y.shape)

    def backward(self, dy: Array) -> Array | None:
        """Do what `Affine.backward` does."""
        gradient = _checked_result(self.dropout, "backward", self.dropout.backward(dy), dy.shape)
        # A layer that computes in float64 returns float64 for float32.
        return self.hidden.backward(gradient.astype(dy.dtype, copy=False))

    def evaluate(self, x: Any) -> Array:
        """Return the output of the dropout layer, whatever its mode."""
        y = self.hidden.evaluate(x)
        return _checked_result(self.dropout, "forward", self.dropout.forward(y), y.shape)

    @property
    def folded(self) -> list[Array]:
        """The weight and the bias of evaluation, as in `Affine`."""
        return self.hidden.folded


class HiddenWithLinear:
    """A linear layer that drops, such as `cdropout.DropConnect`, and an activation in place.

    The backward pass of the linear layer must not read its output.
    """

    norm = None
    # Pickles of older versions lack it; their gradients are not checked.
    _is_first = True

    def __init__(self, linear: LinearLayer, activation: str, is_first: bool) -> None:
        self.linear, self.activation, self._is_first = linear, activation, is_first
        self.params, self.grads = linear.params, linear.grads
        self.folded = self.params
        self._y = np.empty(0)

    def forward(self, x: Any) -> Array:
        """Return the activation of the linear layer's output."""
        self._y = self.evaluate(x)
        return self._y

    def backward(self, dy: Array) -> Array | None:
        """Do what `Affine.backward` does."""
        ACTIVATIONS[self.activation][1](dy, self._y)
        gradient = self.linear.backward(dy)
        if self._is_first:
            return gradient
        return _checked_result(self.linear, "backward", gradient, (len(dy), len(self.params[0])))

    def evaluate(self, x: Any) -> Array:
        """Return the activation of the linear layer's output, whatever its mode."""
        y = _checked_result(self.linear, "forward", self.linear.forward(x), (x.shape[0], len(self.params[1])))
        ACTIVATIONS[self.activation][0](y)
        return y


def _checked_result(layer: DropoutLayer, method: str, result: Any, shape: tuple[int, ...]) -> Array:
    """Return what a method of a layer of `dropouts` has returned; TypeError or ValueError for another shape."""
    name = f"{type(layer).__name__}.{method}"
    if not isinstance(result, np.ndarray):
        raise TypeError(f"{name} must return an array of the shape {shape}, got {type(result).__name__}")
    if result.shape != shape:
        raise ValueError(f"{name} must return an array of the shape {shape}, got {result.shape}")
    return result


class _Drop(Protocol):
    """Apply one draw of a kind of dropout to activations and to their gradient."""

    def forward(self, x: Array, out: Array) -> None: ...

    def backward(self, gradient: Array) -> None: ...


class _Nothing:
    def forward(self, x: Array, out: Array) -> None:
        pass

    def backward(self, gradient: Array) -> None:
        pass


_NOTHING: _Drop = _Nothing()


class _MaskDrop:
    """A mask with the affine map of `Mask.apply`."""

    def __init__(self, mask: Mask, scale: float, shift: float, fill: float) -> None:
        self.mask, self.map = mask, {"scale": scale, "shift": shift, "fill": fill}

    def forward(self, x: Array, out: Array) -> None:
        self.mask.apply(x, out, **self.map)

    def backward(self, gradient: Array) -> None:
        self.mask.apply(gradient, gradient, scale=self.map["scale"])


class _NoiseFactor:
    def __init__(self, noise: Noise) -> None:
        self.noise = noise

    def forward(self, x: Array, out: Array) -> None:
        self.noise.multiply(x, out)

    def backward(self, gradient: Array) -> None:
        self.noise.multiply(gradient, gradient)


def _draw(kind: str, p: float, shape: tuple[int, ...], rng: Stream) -> _Drop:
    """Draw what a kind of dropout does to an array of this shape."""
    if kind == "gaussian":
        return _NoiseFactor(draw_noise(shape, noise_std(p), rng=rng))
    mask = draw_mask(shape, p, rng=rng, shared_axes=0 if kind == "feature" else ())
    return _MaskDrop(mask, *drop_map(kind, p))


def drop_map(kind: str, p: float) -> tuple[float, float, float]:
    """Return the scale and shift of kept elements, and the value of dropped ones, of a kind that draws a mask."""
    return _kernels.alpha_map(p) if kind == "alpha" else (_kernels.kept_scale(p), 0.0, 0.0)
