"""`CompactMLP`: a multilayer perceptron of `CompactLinear` layers."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from cdropout import _kernels
from cdropout.checks import check_integer, check_widths
from cdropout.compact.linear import CompactLinear, KeptGrad, _Dropped, _Saved
from cdropout.stream import Rng, as_stream

__all__ = ["CompactMLP"]

Array = npt.NDArray[Any]


class CompactMLP:
    """Linear layers with ReLU and feature dropout between them, whose products use kept rows and columns only.

    Hidden activations are dropped feature by feature: a mask for each batch, or for each of `n_groups` groups of rows.
    The output of the last layer is neither dropped nor passed through ReLU.

    Parameters
    ----------
    widths : sequence of int
        The number of inputs, of features of each hidden layer, and of outputs; two or more.
    p : float or sequence of float
        The probability of dropping a hidden feature; one number, or one for each hidden layer.
    n_groups : int
        Number of groups of a batch's rows; each group has separate masks.
    rng
        As in `Dropout`; the layers share the stream. None is the default stream.
    dtype : float32 or float64
        The dtype of the parameters.
    full_grads : bool
        Whether `backward` writes whole gradients to `grads`, for optimizers other than those of this package.
    input_grad : bool
        Whether `backward` returns the gradient with respect to x, instead of None.

    Attributes
    ----------
    layers : list of CompactLinear
    params, grads : list of ndarray
        Those of all layers.

    Raises
    ------
    TypeError, ValueError
        For an argument other than the above.

    """

    _is_full = False  # whether the last forward pass had full products only

    def __init__(
        self,
        widths: Sequence[int],
        p: float | Sequence[float] = 0.5,
        *,
        n_groups: int = 1,
        rng: Rng | None = None,
        dtype: npt.DTypeLike = np.float32,
        full_grads: bool = True,
        input_grad: bool = False,
    ) -> None:
        checked = check_widths(widths)
        n_hidden = len(checked) - 2
        given: Any = p.tolist() if isinstance(p, np.ndarray) else p
        rates = list(given) if isinstance(given, Sequence) else [given] * n_hidden
        if len(rates) != n_hidden:
            raise ValueError(f"p must be a number or one for each of {n_hidden} hidden layers, got {p!r}")
        rates = [_kernels.check_p(rate) for rate in rates]
        _kernels.check_dtype(dtype, ("float32", "float64"))
        n_groups = check_integer("n_groups", n_groups, 1)
        stream = None if rng is None else as_stream(rng)
        self.layers: list[CompactLinear] = []
        for i, (n_in, n_out) in enumerate(pairwise(checked)):
            self.layers.append(
                CompactLinear(
                    n_in,
                    n_out,
                    rates[i] if i < n_hidden else 0.0,
                    after=self.layers[-1] if self.layers else None,
                    n_groups=n_groups,
                    rng=stream,
                    dtype=dtype,
                    full_grads=full_grads,
                    input_grad=input_grad or i > 0,
                )
            )
        self._activations: list[Array] = []

    @property
    def params(self) -> list[Array]:
        """The weights and biases of all layers."""
        return [param for layer in self.layers for param in layer.params]

    @property
    def grads(self) -> list[Array]:
        """The gradients of `params`; after `backward`, whole ones only with full_grads."""
        return [grad for layer in self.layers for grad in layer.grads]

    @property
    def kept_grads(self) -> list[KeptGrad]:
        """The gradients of `params` at kept rows and columns, after `backward`."""
        return [grad for layer in self.layers for grad in layer.kept_grads]

    def train(self, mode: bool = True) -> Self:
        """Switch to training, or to evaluation if mode is False, and return the network."""
        for layer in self.layers:
            layer.train(mode)
        return self

    def eval(self) -> Self:
        """Switch to evaluation, in which nothing is dropped, and return the network."""
        return self.train(False)

    def forward(self, x: npt.ArrayLike) -> Array:
        """Return the output for x of shape (n_samples, widths[0]), of shape (n_samples, widths[-1])."""
        self._is_full = self._has_full_products(x)
        if self._is_full:
            assert isinstance(x, np.ndarray)
            return self._forward_full(x)
        self._activations = []
        y = self.layers[0].forward(x)
        for before, layer in pairwise(self.layers):
            dropped = before._dropped
            if dropped is not None and dropped.kept is None:
                dropped.relu(y)
            else:
                _kernels.relu_in_place(y, None)
            self._activations.append(y)
            y = layer._forward(y, is_dropped=True)
        return y

    def _has_full_products(self, x: npt.ArrayLike) -> bool:
        """Return whether no product of a training step with x is compact; False for an x that layers have to check."""
        first = self.layers[0]
        if type(x) is not np.ndarray or x.ndim != 2 or first.n_groups != 1 or x.shape[1] != first.params[0].shape[0]:
            return False
        for layer in self.layers:
            if not layer.training or layer.params[0].dtype != x.dtype:
                return False
            if layer._p > 0 and (layer._behind is None or layer._is_compact(len(x), None)):
                return False
        return len(x) > 0

    def _forward_full(self, x: Array) -> Array:
        """Run `forward` as a network without compact layers does, which takes less time for small products."""
        n_samples, source, last = len(x), None, self.layers[-1]
        for layer in self.layers:
            weight, bias = layer.params
            y: Array = x @ weight
            y += bias
            mask = dropped = None
            if layer._p > 0:
                mask = _kernels.draw_mask(y.shape, layer._p, layer._rng, 0)
                dropped = _Dropped(mask, [0, n_samples], None, _kernels.kept_scale(layer._p))
            layer.mask, layer._dropped = mask, dropped
            layer._state = _Saved(source, dropped, [x], [weight], x.shape, y.shape)
            if layer is not last:
                _kernels.relu_in_place(y, mask)
            x, source = y, dropped
        return y

    def _backward_full(self, dy: npt.ArrayLike) -> Array | None:
        """Run `backward` after `_forward_full`."""
        state = self.layers[-1]._state
        assert state is not None
        gradient = self.layers[-1]._check_gradient(dy, state)
        for layer in self.layers[::-1]:
            state = layer._state
            assert state is not None
            x = state.blocks[0]
            layer._set_whole_grads(x, gradient)
            if layer is self.layers[0]:
                return gradient @ state.weights[0].T if layer.input_grad else None
            gradient = gradient @ state.weights[0].T
            p = state.source.mask.p if state.source is not None else 0.0
            _kernels.relu_dropout_backward(gradient, x, p, gradient)
        raise AssertionError("a network has a first layer")

    __call__ = forward

    def backward(self, dy: npt.ArrayLike) -> Array | None:
        """Set the gradients for the gradient of the output; return that of x with input_grad, else None.

        RuntimeError if there was no forward pass.
        """
        if self._is_full and self.layers[-1]._state is not None:
            return self._backward_full(dy)
        gradient = self.layers[-1]._backward(dy, is_masked=False)
        for layer, active in zip(self.layers[-2::-1], self._activations[::-1], strict=True):
            assert gradient is not None
            # In full products, dropped activations are 0, so that their gradient becomes 0 as that of negative ones.
            is_full = layer._dropped is not None and layer._dropped.kept is None
            _kernels.relu_dropout_backward(gradient, active, layer.p if is_full else 0.0, gradient)
            gradient = layer._backward(gradient, is_masked=False)
        return gradient

    def __repr__(self) -> str:
        widths = [self.layers[0].params[0].shape[0], *(layer.params[0].shape[1] for layer in self.layers)]
        return f"CompactMLP({widths}, p={[layer.p for layer in self.layers[:-1]]}, n_groups={self.layers[0].n_groups})"
