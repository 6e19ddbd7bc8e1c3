"""`MLP`: a multilayer perceptron with dropout, whose training step works in buffers that stay from step to step."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from cdropout import _kernels
from cdropout.compact import CompactMLP
from cdropout.functions.gaussian import noise_std
from cdropout.mask import Mask, draw_mask
from cdropout.networks.activations import ACTIVATIONS
from cdropout.noise import Noise, draw_noise
from cdropout.stream import Rng, Stream, as_stream

Array = npt.NDArray[Any]

KINDS = ("elementwise", "feature", "gaussian", "alpha", "compact")


class MLP:
    """Linear layers with an activation and dropout between them.

    Parameters
    ----------
    widths : sequence of int
        The number of inputs, of units of each hidden layer, and of outputs; two or more.
    activation : str
        A name of `ACTIVATIONS`, for the hidden layers.
    p : sequence of float
        The probability of dropping a unit of each hidden layer, in [0, 1).
    p_input : float
        The probability of dropping an input element, in [0, 1).
    kind : str
        A name of `KINDS`. "elementwise" drops elements. "feature" drops a unit for all rows of a batch. "gaussian"
        multiplies by normal noise of the same variance. "alpha" is alpha dropout, for SELU. "compact" is "feature" with
        matrix products of kept rows and columns only, for ReLU. Inputs are dropped element by element by every kind.
    rng
        As in `cdropout.Dropout`: the stream of the masks, one for all layers.
    dtype : float32 or float64
        The dtype of the parameters.
    n_rows : int
        The largest number of rows of a batch; the buffers have that many.

    Attributes
    ----------
    params, grads : list of ndarray
        The weights (n_in, n_out) and biases (n_out,) of each layer in turn, zero at first, and their gradients. For
        "compact", the weights are random at first.

    Notes
    -----
    The widths and the kind are not checked here.

    """

    def __init__(
        self,
        widths: Sequence[int],
        *,
        activation: str = "relu",
        p: Sequence[float] = (),
        p_input: float = 0.0,
        kind: str = "elementwise",
        rng: Rng | None = None,
        dtype: npt.DTypeLike = np.float32,
        n_rows: int = 128,
    ) -> None:
        self.activation, self.p_input = activation, p_input
        self.rng = Stream() if rng is None else as_stream(rng)
        self.training = True
        self._compact: CompactMLP | None = None
        self._x: Any = None
        self.params: list[Array]
        self.grads: list[Array]
        if kind == "compact":
            # A copy of the stream draws the initial weights, so that the masks do not depend on whether there are any.
            self._compact = CompactMLP(widths, list(p), rng=Stream(0), dtype=dtype)
            for layer in self._compact.layers:
                layer.rng = self.rng
            self.params, self.grads = self._compact.params, self._compact.grads
            return
        shapes = [shape for n_in, n_out in pairwise(widths) for shape in ((n_in, n_out), (n_out,))]
        self.params = [np.zeros(shape, dtype) for shape in shapes]
        self.grads = [np.zeros(shape, dtype) for shape in shapes]
        self._hidden: list[_Hidden] = [
            _FusedReLU(self.rng, rate, n_rows, width, dtype)
            if activation == "relu" and kind == "elementwise"
            else _HiddenInTwoPasses(self.rng, rate, n_rows, width, dtype, activation, kind)
            for rate, width in zip(p, widths[1:-1], strict=True)
        ]
        self._outputs = np.empty((n_rows, widths[-1]), dtype)

    @property
    def weights(self) -> list[Array]:
        """The weights of all layers."""
        return self.params[::2]

    @property
    def biases(self) -> list[Array]:
        """The biases of all layers."""
        return self.params[1::2]

    def train(self, mode: bool = True) -> Self:
        """Switch to training, or to evaluation if mode is False, and return the network."""
        self.training = mode
        return self

    def eval(self) -> Self:
        """Switch to evaluation, in which nothing is dropped, and return the network."""
        return self.train(False)

    def forward(self, x: Any) -> Array:
        """Return the outputs for a batch.

        Parameters
        ----------
        x : ndarray or sparse array of the parameters' dtype, of shape (n_samples, n_inputs)
            In training, it may be overwritten, and `backward` reads it.

        Returns
        -------
        ndarray of shape (n_samples, n_outputs)
            In training, a buffer, which the next call overwrites.

        """
        if not self.training:
            return evaluate(self.params, self.activation, x)
        if self.p_input:
            kept = x if isinstance(x, np.ndarray) else x.data
            draw_mask(kept.shape, self.p_input, rng=self.rng).apply(kept, out=kept)
        if self._compact is not None:
            return self._compact.forward(x if isinstance(x, np.ndarray) else x.toarray())
        self._x = x
        n_rows = x.shape[0]
        for i, hidden in enumerate(self._hidden):
            _multiply(x, self.params[2 * i], hidden.z[:n_rows])
            x = hidden.forward(self.params[2 * i + 1], n_rows)
        outputs = self._outputs[:n_rows]
        _multiply(x, self.params[-2], outputs)
        outputs += self.params[-1]
        return outputs

    def backward(self, dy: Array) -> None:
        """Write the gradients to `grads`, for the gradient of the outputs of the last `forward` in training."""
        if self._compact is not None:
            self._compact.backward(dy)
            return
        n_rows = len(dy)
        for i in range(len(self._hidden), -1, -1):
            x = self._hidden[i - 1].y[:n_rows] if i else self._x
            if isinstance(x, np.ndarray):
                np.matmul(x.T, dy, out=self.grads[2 * i])
            else:
                self.grads[2 * i][...] = x.T @ dy
            np.sum(dy, axis=0, out=self.grads[2 * i + 1])
            if i:
                dx = self._hidden[i - 1].gradient[:n_rows]
                np.matmul(dy, self.params[2 * i].T, out=dx)
                self._hidden[i - 1].backward(dx)
                dy = dx


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

    """
    outputs: Array = pass_hidden(params[:-2], activation, x) @ params[-2]
    outputs += params[-1]
    return outputs


def pass_hidden(params: Sequence[Array], activation: str, x: Any) -> Any:
    """Return the output of hidden layers with these weights and biases for x; x itself if there are none."""
    for weight, bias in zip(params[::2], params[1::2], strict=True):
        x = x @ weight
        x += bias
        ACTIVATIONS[activation][0](x)
    return x


def _multiply(x: Any, weight: Array, out: Array) -> None:
    """Write x @ weight to out."""
    if isinstance(x, np.ndarray):
        np.matmul(x, weight, out=out)
    else:
        out[...] = x @ weight


class _Hidden:
    """The bias, activation and dropout of one hidden layer.

    Attributes
    ----------
    z, y, gradient : ndarray of shape (n_rows, width)
        Buffers for the product of inputs and weights, the layer's output, and the gradient of that output.

    """

    z: Array
    y: Array
    gradient: Array

    def __init__(self, rng: Stream, p: float, n_rows: int, width: int, dtype: npt.DTypeLike) -> None:
        self.rng, self.p = rng, p
        self.z, self.gradient = (np.empty((n_rows, width), dtype) for _ in range(2))
        self.y = self.z

    def forward(self, bias: Array, n_rows: int) -> Array:
        """Return the layer's output for the first rows of z."""
        raise NotImplementedError

    def backward(self, gradient: Array) -> None:
        """Replace the gradient of the output by that of z."""
        raise NotImplementedError


class _FusedReLU(_Hidden):
    """ReLU and element-wise dropout: one pass over memory, in place, each way."""

    def forward(self, bias: Array, n_rows: int) -> Array:
        z = self.z[:n_rows]
        return _kernels.fused("bias_relu_dropout", z, bias, None, self.p, self.rng, z)

    def backward(self, gradient: Array) -> None:
        _kernels.relu_dropout_backward(gradient, self.y[: len(gradient)], self.p, gradient)


class _HiddenInTwoPasses(_Hidden):
    """Any activation, in place, and then any kind of dropout."""

    def __init__(
        self, rng: Stream, p: float, n_rows: int, width: int, dtype: npt.DTypeLike, activation: str, kind: str
    ) -> None:
        super().__init__(rng, p, n_rows, width, dtype)
        self._activate, self._multiply_by_derivative = ACTIVATIONS[activation]
        self._kind, self._drop = kind, _NOTHING
        self._active = self.z
        if p:
            self.y = np.empty((n_rows, width), dtype)

    def forward(self, bias: Array, n_rows: int) -> Array:
        z, y = self.z[:n_rows], self.y[:n_rows]
        z += bias
        self._activate(z)
        if self.p:
            self._drop = _draw(self._kind, self.p, z.shape, self.rng)
            self._drop.forward(z, y)
        return y

    def backward(self, gradient: Array) -> None:
        self._drop.backward(gradient)
        self._multiply_by_derivative(gradient, self._active[: len(gradient)])


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
