"""Dropout fused with a bias, ReLU or a residual, as layers: each pass reads and writes memory once."""

from typing import Any

import numpy as np
import numpy.typing as npt

from cdropout import _kernels
from cdropout.functions.fused import relu_dropout_backward
from cdropout.layers.base import DropoutLayer
from cdropout.stream import Rng


def _biased(x: Any, bias: npt.NDArray[Any] | None, out: Any) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return x + bias and the result (out's memory, or a new array), where x + bias is computed: both plain arrays."""
    array = _kernels.as_array(x, "x")
    result = _kernels.check_out(out, array)
    return array if bias is None else np.add(array, _kernels.as_array(bias, "bias"), out=result), result


class ReLUDropout(DropoutLayer):
    """ReLU and dropout in one pass over memory, forward and backward.

    The backward pass needs only the output, which is positive exactly where an element was kept and active. The layer
    keeps a reference to the output: do not write into it before `backward` has run.

    Parameters
    ----------
    p, rng, inplace
        As in `Dropout`.

    """

    _operation = "relu_dropout"

    def __init__(self, p: float = 0.5, *, rng: Rng | None = None, inplace: bool = False) -> None:
        super().__init__(p, rng=rng, inplace=inplace)
        self._output: tuple[npt.NDArray[Any], float] | None = None

    def forward(self, x: npt.ArrayLike) -> npt.NDArray[Any]:
        """Return dropout(relu(x)) in training and relu(x) in evaluation; arguments and errors as in `relu_dropout`."""
        return self._forward(x, None)

    def _forward(self, x: Any, bias: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
        out = x if self.inplace else None
        if self.training:
            y, self.mask = _kernels.forward_fused(self._operation, x, bias, None, self._p, self._rng, out)
        else:
            _kernels.check_fused(self._operation, x, bias, None, self._p, out)
            y, result = _biased(x, bias, out)
            np.maximum(y, 0, out=result)
            y = _kernels.handed_back(result, out, x, bias)
            self.mask = None
        self._output = y, self._p if self.training else 0.0
        return y

    def backward(self, dy: npt.ArrayLike) -> npt.NDArray[Any]:
        """Return the gradient with respect to x, of dy's shape; RuntimeError if there was no forward pass."""
        if self._output is None:
            raise RuntimeError("backward must follow a forward pass, and none has been made")
        return relu_dropout_backward(dy, *self._output, out=dy if self.inplace else None)


class _WithBias(DropoutLayer):
    """A layer with a bias, which it learns: `params` holds the bias and `grads` its gradient."""

    def __init__(
        self, bias: npt.NDArray[Any], p: float = 0.5, *, rng: Rng | None = None, inplace: bool = False
    ) -> None:
        super().__init__(p, rng=rng, inplace=inplace)
        self.params, self.grads = [bias], [np.zeros_like(bias)]

    def _put_bias_gradient(self, dx: npt.NDArray[Any]) -> None:
        """Write the gradient of the bias, the sum over all axes except the last, to `grads`; masked elements are 0."""
        array = _kernels.zero_where_masked(dx, "dx")
        self.grads[0][...] = array.sum(axis=tuple(range(array.ndim - 1)))


class BiasReLUDropout(_WithBias, ReLUDropout):
    """Bias, ReLU and dropout in one pass over memory, for the output of a matrix product.

    Parameters
    ----------
    bias : ndarray of float16, bfloat16, float32 or float64
        An array of shape (columns,), which the layer learns: `params` holds this array itself, `grads` its gradient.
    p, rng, inplace
        As in `Dropout`; `backward` as in `ReLUDropout`.

    """

    _operation = "bias_relu_dropout"

    def forward(self, x: npt.ArrayLike) -> npt.NDArray[Any]:
        """Return dropout(relu(x + bias)) in training, relu(x + bias) in evaluation, for x of shape (..., columns)."""
        return self._forward(x, self.params[0])

    def backward(self, dy: npt.ArrayLike) -> npt.NDArray[Any]:
        """Return the gradient with respect to x, and write that with respect to bias to `grads`."""
        dx = super().backward(dy)
        self._put_bias_gradient(dx)
        return dx


class DropoutAdd(DropoutLayer):
    """Dropout, then the sum with a residual, in one pass over memory.

    Parameters
    ----------
    p, rng, inplace
        As in `Dropout`; in place, `forward` writes into x.

    """

    _operation = "dropout_add"

    def forward(self, x: npt.ArrayLike, residual: npt.ArrayLike) -> npt.NDArray[Any]:
        """Return dropout(x) + residual in training, x + residual in evaluation; errors as in `dropout_add`."""
        return self._forward(x, None, residual)

    def _forward(self, x: Any, bias: npt.NDArray[Any] | None, residual: Any) -> npt.NDArray[Any]:
        out = x if self.inplace else None
        if self.training:
            dropped, self.mask = _kernels.forward_fused(self._operation, x, bias, residual, self._p, self._rng, out)
            return dropped
        _kernels.check_fused(self._operation, x, bias, residual, self._p, out)
        added = _kernels.as_array(residual, "residual")
        if bias is not None and out is not None and np.may_share_memory(out, added):
            added = added.copy()  # x + bias overwrites it
        biased, result = _biased(x, bias, out)
        np.add(biased, added, out=result)
        y = _kernels.handed_back(result, out, x, residual, bias)
        self.mask = None
        return y

    def backward(self, dy: npt.ArrayLike) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return the gradients with respect to x and residual; the latter is dy itself.

        Both are needed, so this never works in place. RuntimeError in training if there was no forward pass in
        training.
        """
        array = _kernels.as_array(dy, "dy")
        dy = dy if isinstance(dy, np.ndarray) else array
        dx = self._through_mask(dy, None, None)
        return dy if dx is None else dx, dy


class BiasDropoutAdd(_WithBias, DropoutAdd):
    """Bias, dropout and the sum with a residual, in one pass over memory.

    Parameters
    ----------
    bias : ndarray of float16, bfloat16, float32 or float64
        An array of shape (columns,), which the layer learns: `params` holds this array itself, `grads` its gradient.
    p, rng, inplace
        As in `DropoutAdd`.

    """

    _operation = "bias_dropout_add"

    def forward(self, x: npt.ArrayLike, residual: npt.ArrayLike) -> npt.NDArray[Any]:
        """Return dropout(x + bias) + residual in training, x + bias + residual in evaluation."""
        return self._forward(x, self.params[0], residual)

    def backward(self, dy: npt.ArrayLike) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return the gradients with respect to x and residual, and write that with respect to bias to `grads`."""
        dx, dresidual = super().backward(dy)
        self._put_bias_gradient(dx)
        return dx, dresidual
