"""Dropout as layers of a NumPy network: `forward`, `backward`, and the mask kept between them."""

from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt

from cdropout import _kernels
from cdropout.checks import shown
from cdropout.functional import relu_dropout_backward
from cdropout.mask import Mask
from cdropout.stream import STATE_VERSION, Rng, Stream, as_stream, check_version, restore_stream

Rescale = Literal["train", "eval"] | None


class DropoutLayer:
    """What every layer here has: p, a stream, the mode, and the mask of its last forward pass.

    Subclasses check what is their own before they call this constructor: rng comes last in it, because a generator that
    is passed moves on.
    """

    # The name of the number that says how much the layer does.
    _rate: ClassVar[str] = "p"

    def __init__(self, p: float = 0.5, *, rng: Rng | None = None, inplace: bool = False) -> None:
        self.p = p
        self.inplace = inplace
        self.training = True
        self.rng = rng
        self.mask: Mask | None = None
        self.params: list[npt.NDArray[Any]] = []
        self.grads: list[npt.NDArray[Any]] = []

    @property
    def p(self) -> float:
        """The probability of dropping an element."""
        return self._p

    @p.setter
    def p(self, p: float) -> None:
        self._p = self._checked_p(p)
        self._prepare()

    def _checked_p(self, p: float) -> float:
        """Return p as a float; TypeError or ValueError for one that the layer cannot have."""
        return _kernels.check_p(p)

    def _prepare(self) -> None:
        """Compute what follows from p and does not change from call to call: for subclasses."""

    @property
    def rng(self) -> Stream | None:
        """The stream that masks are drawn from; None for the default stream. A seed becomes a stream when it is set."""
        return self._rng

    @rng.setter
    def rng(self, rng: Rng | None) -> None:
        self._rng = None if rng is None else as_stream(rng)

    @property
    def state(self) -> dict[str, Any]:
        """What changes from step to step, but for `params`: a dict of plain ints, floats and lists, that JSON can hold.

        Keys: `version`; `p` (`std` of a GaussianNoise); `training`; `rng`, the stream's `state`, None for the default
        stream. What the last forward pass left for `backward` is not part of it. Setting it puts the layer's stream,
        which other layers may share, where it was. A state that is not whole raises ValueError or TypeError and changes
        nothing.
        """
        return {
            "version": STATE_VERSION,
            self._rate: getattr(self, self._rate),
            "training": self.training,
            "rng": None if self._rng is None else self._rng.state,
        }

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        keys = ("version", self._rate, "training", "rng")
        if not isinstance(state, dict) or set(state) != set(keys):
            raise ValueError(f"state must be a dict with the keys {', '.join(keys)}, got {shown(state)}")
        check_version("state", state["version"])
        if not isinstance(state["training"], bool):
            raise TypeError(f"state['training'] must be True or False, got {state['training']!r}")
        before = getattr(self, self._rate)
        setattr(self, self._rate, state[self._rate])
        try:
            if state["rng"] is None or self._rng is None:
                self.rng = None if state["rng"] is None else restore_stream(state["rng"])
            else:
                self._rng.state = state["rng"]
        except (TypeError, ValueError):
            setattr(self, self._rate, before)
            raise
        self.training = state["training"]

    def __getstate__(self) -> dict[str, Any]:
        return {"version": STATE_VERSION, **self.__dict__}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over a pickle's fields; ValueError or TypeError where one is not what the constructor makes of it."""
        if not isinstance(state, dict):
            raise TypeError(f"a pickled {type(self).__name__} must hold a dict, got {shown(state)}")
        fields = {**state}
        version = fields.pop("version", STATE_VERSION)  # which the first pickles leave out
        check_version(f"a pickled {type(self).__name__}", version)
        try:
            self._check_fields(fields)
        except KeyError as error:
            raise ValueError(f"a pickled {type(self).__name__} must have a field {error}") from error
        self.__dict__.update(fields)
        self._prepare()

    def _check_fields(self, fields: dict[str, Any]) -> None:
        """Raise TypeError or ValueError for a pickle's field that the layer cannot have, KeyError without one."""
        self._checked_p(fields["_p"])
        for name, types in (
            ("training", bool | int | np.bool_),
            ("inplace", bool | int | np.bool_),
            ("_rng", Stream | None),
            ("mask", Mask | None),
            ("params", list | tuple),
            ("grads", list | tuple),
        ):
            if not isinstance(fields[name], types):
                raise TypeError(f"{name} of a pickled {type(self).__name__} must not be {shown(fields[name])}")

    def train(self, mode: bool = True) -> Self:
        """Switch to training (or, with mode False, to evaluation) and return the layer."""
        self.training = bool(mode)
        return self

    def eval(self) -> Self:
        """Switch to evaluation and return the layer."""
        return self.train(False)

    def __call__(self, *inputs: npt.ArrayLike) -> npt.NDArray[Any]:
        """Run `forward`."""
        return self.forward(*inputs)  # type: ignore[attr-defined,no-any-return]

    def __repr__(self) -> str:
        options = "".join(f", {name}={value!r}" for name, value in self._options().items())
        return f"{type(self).__name__}({self._rate}={getattr(self, self._rate)}{options})"

    def _options(self) -> dict[str, Any]:
        """Return the constructor's arguments that are kept as plain values other than their defaults, but for p."""
        import inspect  # here, because it takes long to import

        options: dict[str, Any] = {}
        for layer_type in type(self).__mro__[:-1]:
            parameters = inspect.signature(layer_type).parameters
            for name, parameter in parameters.items():
                value = getattr(self, name, inspect)  # which is no plain value
                if name not in (self._rate, "rng") and isinstance(value, bool | int | float | str | tuple | None):
                    options.setdefault(name, (value, parameter.default))
            if not any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
                break  # it takes no argument of the types above it
        return {name: value for name, (value, default) in options.items() if value != default}

    def _through_mask(self, dy: npt.ArrayLike, out: Any, scale: float | None) -> npt.NDArray[Any] | None:
        """Carry a gradient through the last forward pass's mask; None where that pass was in evaluation."""
        if self.mask is not None:
            return self.mask.apply(dy, out, scale=scale)
        self._check_evaluated()
        return None

    def _check_evaluated(self) -> None:
        """Raise where a backward pass in training finds nothing of a forward pass."""
        if self.training:
            raise RuntimeError("backward must follow a forward pass in training, and none has been made")


class Dropout(DropoutLayer):
    """Dropout with the layer protocol of small NumPy networks.

    Parameters
    ----------
    p : float
        The probability of dropping an element, in [0, 1]. May be changed at any time.
    rng : None, int, SeedSequence, BitGenerator, Generator or Stream
        Where the masks come from. None is the default stream; anything else but a Stream seeds a stream of the layer's
        own.
    inplace : bool
        Whether `forward` and `backward` write into the array they are given.
    shared_axes : int or tuple of int
        Axes along which one decision holds for all elements: 0 drops whole features of a batch.
    rescale : {"train", "eval", None}
        "train" divides by 1-p in training and does nothing in evaluation (inverted dropout); "eval" leaves training
        alone and multiplies by 1-p in evaluation (the original dropout); None never rescales.

    Attributes
    ----------
    training : bool
        True at first; `train()` and `eval()` set it.
    mask : Mask or None
        The drops of the last forward pass; None after one in evaluation.
    params, grads : list
        Empty: dropout learns nothing.

    Raises
    ------
    TypeError, ValueError
        For a p, rng, shared_axes or rescale that is not one of the above.

    Notes
    -----
    Source: Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting", JMLR 15, 2014.

    """

    _rescale: Rescale = "train"

    def __init__(
        self,
        p: float = 0.5,
        *,
        rng: Rng | None = None,
        inplace: bool = False,
        shared_axes: int | tuple[int, ...] = (),
        rescale: Rescale = "train",
    ) -> None:
        _kernels.check_axes(shared_axes)
        _check_rescale(rescale)
        super().__init__(p, rng=rng, inplace=inplace)
        # None is for subclasses whose axes follow from the number of dimensions.
        self.shared_axes: int | tuple[int, ...] | None = shared_axes
        self.rescale = rescale
        self._scale = 1.0

    @property
    def rescale(self) -> Rescale:
        """When what is kept is rescaled: "train", "eval" or None."""
        return self._rescale

    @rescale.setter
    def rescale(self, rescale: Rescale) -> None:
        _check_rescale(rescale)
        self._rescale = rescale
        self._prepare()

    def forward(self, x: npt.ArrayLike) -> npt.NDArray[Any]:
        """Drop elements of x with a new mask in training; in evaluation return x itself, or (1-p) x for "eval".

        Parameters
        ----------
        x : array_like of float16, bfloat16, float32 or float64
            Of any shape.

        Returns
        -------
        ndarray
            Of x's shape and dtype; x itself where the layer is `inplace`.

        Raises
        ------
        TypeError, ValueError
            As in `cdropout.dropout`.

        """
        if not self.training:
            y = self._evaluated(x)
            self.mask = None
            return y
        axes = self.shared_axes
        if axes is None:
            axes = self._axes(_kernels.as_array(x, "x").ndim)
        scale, shift, fill = self._train_effect
        out = x if self.inplace else None
        y, self.mask = _kernels.forward(Mask, x, self._p, self._rng, out, axes, scale, shift, fill)
        self._scale = scale
        return y

    def backward(self, dy: npt.ArrayLike) -> npt.NDArray[Any]:
        """Carry the gradient through the last forward pass: the same elements dropped, the same scale.

        Parameters
        ----------
        dy : array_like of float16, bfloat16, float32 or float64
            The gradient with respect to the output, of the output's shape.

        Returns
        -------
        ndarray
            The gradient with respect to the input.

        Raises
        ------
        RuntimeError
            In training, where no forward pass in training came before.
        TypeError, ValueError
            As in `Mask.apply`.

        """
        dx = self._through_mask(dy, dy if self.inplace else None, self._scale)
        return self._evaluated(dy) if dx is None else dx

    def _prepare(self) -> None:
        self._train_effect = self._effect()

    def _check_fields(self, fields: dict[str, Any]) -> None:
        super()._check_fields(fields)
        if fields["shared_axes"] is not None:
            _kernels.check_axes(fields["shared_axes"])
        _check_rescale(fields["_rescale"])

    def _effect(self) -> tuple[float, float, float]:
        """Return the scale and the shift of what is kept in training, and what becomes of what is dropped."""
        return (_kernels.kept_scale(self._p) if self._rescale == "train" else 1.0), 0.0, 0.0

    def _axes(self, n_dims: int) -> tuple[int, ...]:
        """Return the axes that share decisions, where the number of dimensions decides which: for subclasses."""
        raise NotImplementedError

    def _evaluated(self, x: Any) -> npt.NDArray[Any]:
        """Do in evaluation what the layer does then, to inputs or gradients."""
        if self._rescale != "eval":
            return x  # type: ignore[no-any-return]
        # Nothing is dropped, unless p = 1 drops all; no stream is touched.
        mask = Mask(0, 0, 1.0 if self._p == 1.0 else 0.0, _kernels.as_array(x, "x").shape)
        return mask.apply(x, x if self.inplace else None, scale=1.0 - self._p)


def _check_rescale(rescale: object) -> None:
    if rescale not in ("train", "eval", None):
        raise ValueError(f"rescale must be 'train', 'eval' or None, got {rescale!r}")


def _biased(x: Any, bias: npt.NDArray[Any] | None, out: Any) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return x + bias and the array that a result goes to: out's memory, or a new one. x + bias is there already."""
    array = _kernels.as_array(x, "x")
    result = _kernels.check_out(out, array)
    return array if bias is None else np.add(array, bias, out=result), result


class ReLUDropout(DropoutLayer):
    """ReLU and dropout in one pass over memory, forward and backward.

    The backward pass needs nothing but the output, which is positive just where an element was kept and active. The
    layer holds on to it: do not write into what `forward` returns before `backward` has run.

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
            y, self.mask = _kernels.forward_fused(Mask, self._operation, x, bias, None, self._p, self._rng, out)
        else:
            _kernels.check_fused(self._operation, x, bias, None, self._p, out)
            y, result = _biased(x, bias, out)
            np.maximum(y, 0, out=result)
            y = result if out is None else out
            self.mask = None
        self._output = y, self._p if self.training else 0.0
        return y

    def backward(self, dy: npt.ArrayLike) -> npt.NDArray[Any]:
        """Return the gradient with respect to x, of dy's shape; RuntimeError where no forward pass came before."""
        if self._output is None:
            raise RuntimeError("backward must follow a forward pass, and none has been made")
        return relu_dropout_backward(dy, *self._output, out=dy if self.inplace else None)


class _WithBias(DropoutLayer):
    """What the layers with a bias add: the bias, and its gradient."""

    def __init__(
        self, bias: npt.NDArray[Any], p: float = 0.5, *, rng: Rng | None = None, inplace: bool = False
    ) -> None:
        super().__init__(p, rng=rng, inplace=inplace)
        self.params, self.grads = [bias], [np.zeros_like(bias)]

    def _put_bias_gradient(self, dx: npt.NDArray[Any]) -> None:
        """Fill `grads` with the sum over all axes but the last."""
        array = _kernels.as_array(dx, "dx")
        self.grads[0][...] = array.sum(axis=tuple(range(array.ndim - 1)))


class BiasReLUDropout(_WithBias, ReLUDropout):
    """Bias, ReLU and dropout in one pass over memory: what follows a matrix product.

    Parameters
    ----------
    bias : ndarray of float16, bfloat16, float32 or float64
        Of shape (columns,); the layer learns it: `params` holds this very array, `grads` its gradient.
    p, rng, inplace
        As in `Dropout`; `backward` as in `ReLUDropout`.

    """

    _operation = "bias_relu_dropout"

    def forward(self, x: npt.ArrayLike) -> npt.NDArray[Any]:
        """Return dropout(relu(x + bias)) in training, relu(x + bias) in evaluation, for x of shape (..., columns)."""
        return self._forward(x, self.params[0])

    def backward(self, dy: npt.ArrayLike) -> npt.NDArray[Any]:
        """Return the gradient with respect to x, and put that with respect to bias into `grads`."""
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
            dropped, self.mask = _kernels.forward_fused(
                Mask, self._operation, x, bias, residual, self._p, self._rng, out
            )
            return dropped
        _kernels.check_fused(self._operation, x, bias, residual, self._p, out)
        residual = _kernels.as_array(residual, "residual")
        if bias is not None and out is not None and np.may_share_memory(out, residual):
            residual = residual.copy()  # x + bias is about to be written there
        biased, result = _biased(x, bias, out)
        np.add(biased, residual, out=result)
        self.mask = None
        return result if out is None else out

    def backward(self, dy: npt.ArrayLike) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return the gradients with respect to x and residual; the latter is dy itself.

        In place is not possible here, because both are needed. RuntimeError in training where no forward pass in
        training came before.
        """
        dy = _kernels.as_array(dy, "dy")
        dx = self._through_mask(dy, None, None)
        return dy if dx is None else dx, dy


class BiasDropoutAdd(_WithBias, DropoutAdd):
    """Bias, dropout and the sum with a residual, in one pass over memory.

    Parameters
    ----------
    bias : ndarray of float16, bfloat16, float32 or float64
        Of shape (columns,); the layer learns it: `params` holds this very array, `grads` its gradient.
    p, rng, inplace
        As in `DropoutAdd`.

    """

    _operation = "bias_dropout_add"

    def forward(self, x: npt.ArrayLike, residual: npt.ArrayLike) -> npt.NDArray[Any]:
        """Return dropout(x + bias) + residual in training, x + bias + residual in evaluation."""
        return self._forward(x, self.params[0], residual)

    def backward(self, dy: npt.ArrayLike) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return the gradients with respect to x and residual, and put that with respect to bias into `grads`."""
        dx, dresidual = super().backward(dy)
        self._put_bias_gradient(dx)
        return dx, dresidual
