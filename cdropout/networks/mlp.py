"""`MLP`: a multilayer perceptron with dropout, whose training step works in buffers that stay from step to step."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Self, cast

import numpy as np
import numpy.typing as npt

from cdropout import _kernels
from cdropout.checks import check_integer, check_sequence, check_widths
from cdropout.compact import CompactMLP
from cdropout.functions import dropout as drop_elements
from cdropout.functions.gaussian import noise_std
from cdropout.inference import train as switch_modes
from cdropout.networks.activations import check_activation
from cdropout.networks.evaluation import evaluate
from cdropout.networks.layers import (
    Affine,
    DropoutLayer,
    FusedReLU,
    HiddenInTwoPasses,
    HiddenWithLayer,
    HiddenWithLinear,
    LinearLayer,
    Sizes,
)
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
        The probability of dropping a unit of each hidden layer, in [0, 1]; for "gaussian" in [0, 1).
    p_input : float
        The probability of dropping an input element, in [0, 1].
    kind : str
        A name of `KINDS`. "elementwise" drops elements. "feature" drops a unit for all rows of a batch. "gaussian"
        multiplies by normal noise of the same variance. "alpha" is alpha dropout, for SELU. "compact" is "feature" with
        matrix products of kept rows and columns only, for ReLU. Inputs are dropped element by element by every kind.
    dropouts : sequence of DropoutLayer or None
        Instead of p and kind: what drops in each hidden layer. None is no dropout. A layer with `forward` and
        `backward`, such as `cdropout.Dropout`, gets the activation, and may work in place. A layer that has a weight
        and a bias in `params`, such as `cdropout.DropConnect`, replaces the product with the weight. Arrays that layers
        return must have the shape of their input, or that of the product. Layers that have `train` and `eval` are
        switched with the network, and may be switched back: in evaluation, the network calls them in the mode that they
        have, so that `cdropout.mc_predict` with `layers` works. An object that holds such layers and has neither method
        stays as it is, with a warning.
    rng
        As in `cdropout.Dropout`: the stream of the masks, one for all layers except those of `dropouts`.
    dtype : float32 or float64
        The dtype of the parameters.
    n_rows : int
        The largest number of rows of a batch in training; the buffers have that many.
    batch_norm : bool
        Whether the inputs of hidden activations are normalized over the batch in training, and by running statistics
        in evaluation, as in PyTorch's `BatchNorm1d`. The bias of a hidden layer is then added after normalization. A
        batch of one row is normalized by the running statistics.

    Attributes
    ----------
    params, grads : list of ndarray
        The weights (n_in, n_out) and biases (n_out,) of each layer in turn, zero at first, and their gradients. For
        "compact", the weights are random at first. Linear layers of `dropouts` keep the parameters they have. With
        batch norm, the factors (n_out,) of each hidden layer follow, 1 at first.
    state : list of ndarray
        All that training changes: `params`, and with batch norm the running means (n_out,) of each hidden layer, then
        the running variances.
    dropouts : list of DropoutLayer
        The given layers, without None.

    Raises
    ------
    TypeError
        For an argument of another type than the above.
    ValueError
        For a number out of its range; if activation or kind has another name, or both do not go together; if p or
        `dropouts` has another length than one for each hidden layer; if p or kind is given beside `dropouts`; if these
        have a layer twice, or a linear layer of other shapes or another dtype; if batch norm is asked for with
        "compact" or a linear layer.

    """

    def __init__(
        self,
        widths: Sequence[int],
        *,
        activation: str = "relu",
        p: Sequence[float] = (),
        p_input: float = 0.0,
        kind: str = "elementwise",
        dropouts: Sequence[DropoutLayer | None] = (),
        rng: Rng | None = None,
        dtype: npt.DTypeLike = np.float32,
        n_rows: int = 128,
        batch_norm: bool = False,
    ) -> None:
        widths = check_widths(widths)
        p = check_sequence("p", p, "with a number for each hidden layer")
        dropouts = check_sequence("dropouts", dropouts, "with a layer or None for each hidden layer")
        if dropouts and (len(p) > 0 or kind != "elementwise"):
            raise ValueError(f"p and kind must be left out where dropouts are given, got p={p!r}, kind={kind!r}")
        _check_names(activation, kind)
        for rate in p:
            _kernels.check_p(rate)
            if kind == "gaussian":
                noise_std(rate)
        for layer in dropouts:
            if layer is not None and not _is_layer(layer):
                raise TypeError(f"dropouts must be layers with forward and backward, or None, got {layer!r}")
        p_input = _kernels.check_finite(p_input, "p_input")
        if not 0 <= p_input <= 1:
            raise ValueError(f"p_input must be in [0, 1], got {p_input}")
        n_rows = check_integer("n_rows", n_rows, 1)
        dtype = _kernels.check_dtype(dtype, ("float32", "float64")).newbyteorder("=")
        n_hidden, n_given = len(widths) - 2, len(dropouts or p)
        if n_given != n_hidden:
            name = "dropouts" if dropouts else "p"
            raise ValueError(f"{name} must have one item for each of {n_hidden} hidden layers, got {n_given}")
        if batch_norm and kind == "compact":
            raise ValueError("batch_norm must be False for the kind 'compact', got True")
        self.activation, self.p_input, self.n_rows = activation, p_input, n_rows
        self.rng = Stream() if rng is None else as_stream(rng)
        self.dropouts = [dropout for dropout in dropouts if dropout is not None]
        if len(set(map(id, self.dropouts))) < len(self.dropouts):
            raise ValueError(f"dropouts must be different layers, because each holds one mask, got {self.dropouts}")
        self.training = True
        self._compact: CompactMLP | None = None
        self.params: list[Array]
        self.grads: list[Array]
        if kind == "compact":
            # Another stream draws the initial weights, so that the masks are those of networks that draw none.
            self._compact = CompactMLP(widths, list(p), rng=Stream(0), dtype=dtype)
            for layer in self._compact.layers:
                layer.rng = self.rng
            self.params, self.grads = self._compact.params, self._compact.grads
            self.state, self._n_layers = self.params, len(self._compact.layers)
            return
        sizes = [
            Sizes(n_in, n_out, n_rows, dtype, i == 0, batch_norm) for i, (n_in, n_out) in enumerate(pairwise(widths))
        ]
        self._hidden: list[Affine | HiddenWithLayer | HiddenWithLinear]
        if dropouts:
            self._hidden = [self._hidden_with(*given) for given in zip(sizes[:-1], dropouts, strict=True)]
        else:
            self._hidden = [self._hidden_of(kind, self.rng, *given) for given in zip(sizes[:-1], p, strict=True)]
        self._output = Affine(sizes[-1]._replace(batch_norm=False))
        layers = (*self._hidden, self._output)
        norms = [layer.norm for layer in layers if layer.norm is not None]
        self._n_layers = len(layers)
        self.params = [param for layer in layers for param in layer.params] + [norm.gamma for norm in norms]
        self.grads = [grad for layer in layers for grad in layer.grads] + [norm.grad for norm in norms]
        self.state = [*self.params, *(norm.mean for norm in norms), *(norm.var for norm in norms)]

    def _hidden_of(self, kind: str, rng: Stream, sizes: Sizes, p: float) -> Affine:
        """Return a hidden layer with dropout of a kind."""
        if self.activation == "relu" and kind == "elementwise":
            return FusedReLU(sizes, rng, p)
        return HiddenInTwoPasses(sizes, rng, p, self.activation, kind)

    def _hidden_with(self, sizes: Sizes, dropout: DropoutLayer | None) -> Affine | HiddenWithLayer | HiddenWithLinear:
        """Return a hidden layer with a layer of `dropouts`."""
        params = getattr(dropout, "params", ())
        if dropout is None or len(params) == 0:
            # FusedReLU moves its stream for p = 0 too, and the given layers may have the network's.
            hidden = self._hidden_of("elementwise", Stream(0), sizes, 0.0)
            return hidden if dropout is None else HiddenWithLayer(hidden, dropout)
        expected = [((sizes.n_in, sizes.n_out), np.dtype(sizes.dtype)), ((sizes.n_out,), np.dtype(sizes.dtype))]
        found = [(param.shape, param.dtype) for param in params]
        if found != expected:
            raise ValueError(f"dropouts must have no params, or those of shapes and dtypes {expected}, got {found}")
        if sizes.batch_norm:
            raise ValueError(f"batch_norm must be False for linear layers of dropouts, got True with {dropout!r}")
        return HiddenWithLinear(cast(LinearLayer, dropout), self.activation, sizes.is_first)

    @property
    def weights(self) -> list[Array]:
        """The weights of all layers."""
        return self.params[: 2 * self._n_layers : 2]

    @property
    def biases(self) -> list[Array]:
        """The biases of all layers."""
        return self.params[1 : 2 * self._n_layers : 2]

    @property
    def folded(self) -> list[Array]:
        """The weights and biases of each layer in turn that `evaluate` takes.

        Without batch norm, the arrays of `params`; with it, new ones, which include the factors and statistics.
        """
        if self._compact is not None:
            return self.params
        return [param for layer in (*self._hidden, self._output) for param in layer.folded]

    def train(self, mode: bool = True) -> Self:
        """Switch to training, or to evaluation if mode is False, and return the network."""
        self.training = mode
        switch_modes(self.dropouts, mode)
        return self

    def eval(self) -> Self:
        """Switch to evaluation, in which nothing is dropped, and return the network."""
        return self.train(False)

    def forward(self, x: Any) -> Array:
        """Return the outputs for a batch.

        Parameters
        ----------
        x : ndarray or sparse array of real numbers, of shape (n_samples, n_inputs)
            In training, it may be overwritten, and `backward` reads it; if it has another dtype than the parameters,
            this applies to a copy of their dtype.

        Returns
        -------
        ndarray of shape (n_samples, n_outputs)
            In training, a buffer of the parameters' dtype, which the next call overwrites. In evaluation, the dtype is
            that of the product of x and the parameters.

        Raises
        ------
        TypeError
            If x is not an array of real numbers.
        ValueError
            If x has not two dimensions, or another number of columns than the network has inputs, or in training more
            rows than the buffers; if a layer of `dropouts` returns an array of another shape.

        """
        self._check_input(x)
        dtype = self.params[0].dtype
        if not self.training:
            return self._evaluate(x)
        if x.dtype != dtype:
            x = x.astype(dtype)
        if self._compact is None and x.shape[0] > self.n_rows:
            raise ValueError(f"x must have at most {self.n_rows} rows, got {x.shape[0]}")
        if self.p_input:
            kept = x if isinstance(x, np.ndarray) else x.data
            drop_elements(kept, self.p_input, rng=self.rng, out=kept)
        if self._compact is not None:
            return self._compact.forward(x if isinstance(x, np.ndarray) else x.toarray())
        self._output.x = None  # if a layer raises, `backward` must not follow
        for hidden in self._hidden:
            x = hidden.forward(x)
        return self._output.forward(x)

    def _check_input(self, x: Any) -> None:
        """Raise TypeError or ValueError unless x is a batch of inputs; n_rows is checked in training only."""
        weight = self.params[0]
        if type(x) is not np.ndarray:
            if not (hasattr(x, "shape") and hasattr(x, "dtype")):
                raise TypeError(f"x must be an array, got {type(x).__name__}")
            _kernels.check_unmasked(x, "x", "masked elements would be used")
        shape = x.shape
        if len(shape) != 2:
            raise ValueError(f"x must have the axes (n_samples, n_inputs), got shape {tuple(shape)}")
        if shape[1] != len(weight):
            raise ValueError(f"x must have {len(weight)} columns, got {shape[1]}")
        if x.dtype != weight.dtype and not np.can_cast(x.dtype, weight.dtype, "same_kind"):
            raise TypeError(f"x must be an array of real numbers, got dtype {x.dtype}")

    def _evaluate(self, x: Any) -> Array:
        if self._compact is not None:
            return evaluate(self.params, self.activation, x)
        if self.dropouts:
            self._output.x = None  # the layers now hold what this pass decided, so `backward` cannot follow
        for hidden in self._hidden:
            x = hidden.evaluate(x)
        return self._output.evaluate(x)

    def backward(self, dy: Array) -> None:
        """Write the gradients to `grads`, for the gradient of the outputs of the last `forward` in training.

        Parameters
        ----------
        dy : ndarray of real numbers, of the outputs' shape
            The gradient; it is not changed. One of another dtype than the parameters' is converted to that.

        Raises
        ------
        RuntimeError
            If there was no such forward pass, if the network is in evaluation, or, in a network with `dropouts`, if an
            evaluation came after the forward pass.
        TypeError, ValueError
            If dy is not an array of real numbers, or has another shape, before a gradient is written; if a layer of
            `dropouts` returns an array of another shape.

        """
        if not self.training:
            raise RuntimeError("backward must follow a forward pass in training, and the network is in evaluation")
        dtype = self.params[0].dtype
        if not isinstance(dy, np.ndarray):
            raise TypeError(f"dy must be an array, got {type(dy).__name__}")
        if dy.dtype != dtype:
            if not np.can_cast(dy.dtype, dtype, "same_kind"):
                raise TypeError(f"dy must be an array of real numbers, got dtype {dy.dtype}")
            dy = dy.astype(dtype)
        if self._compact is not None:
            self._compact.backward(dy)
            return
        if self._output.x is None:
            raise RuntimeError(
                "backward must follow a forward pass in training, and none has been made since the last evaluation"
            )
        expected = (self._output.x.shape[0], self._output.params[1].shape[0])
        if dy.shape != expected:
            raise ValueError(f"dy must have the output's shape {expected}, got {dy.shape}")
        gradient = self._output.backward(dy)
        for hidden in reversed(self._hidden):
            assert gradient is not None
            gradient = hidden.backward(gradient)


def _is_layer(layer: object) -> bool:
    """Return whether an object has the methods of `DropoutLayer`; a class has not, because it is not an object yet."""
    methods = [getattr(layer, name, None) for name in ("forward", "backward")]
    return not isinstance(layer, type) and all(callable(method) for method in methods)


def _check_names(activation: str, kind: str) -> None:
    """Raise ValueError unless the activation and the kind exist and go together."""
    check_activation(activation)
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if kind == "compact" and activation != "relu":
        raise ValueError(f"activation must be 'relu' for the kind 'compact', got {activation!r}")
