"""Dropout as layers of a NumPy network: `forward`, `backward`, and the mask kept between them."""

from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from cdropout import _kernels
from cdropout.mask import Mask
from cdropout.stream import Rng, as_stream

Rescale = Literal["train", "eval"] | None


class Dropout:
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

    def __init__(
        self,
        p: float = 0.5,
        *,
        rng: Rng | None = None,
        inplace: bool = False,
        shared_axes: int | tuple[int, ...] = (),
        rescale: Rescale = "train",
    ) -> None:
        if rescale not in ("train", "eval", None):
            raise ValueError(f"rescale must be 'train', 'eval' or None, got {rescale!r}")
        self.p = p
        self.rng = None if rng is None else as_stream(rng)
        self.inplace = inplace
        self.shared_axes = shared_axes
        self.rescale = rescale
        self.training = True
        self.mask: Mask | None = None
        self.params: list[Any] = []
        self.grads: list[Any] = []

    @property
    def p(self) -> float:
        """The probability of dropping an element."""
        return self._p

    @p.setter
    def p(self, p: float) -> None:
        self._p = _kernels.check_p(p)

    def forward(self, x: npt.ArrayLike) -> npt.NDArray[Any]:
        """Drop elements of x with a new mask in training; in evaluation return x itself, or (1-p) x for "eval".

        Parameters
        ----------
        x : array_like of float32 or float64
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
            self.mask = None
            return self._rescaled(x)
        stream = as_stream(self.rng)
        y, self.mask = _kernels.forward(Mask, x, self._p, stream, self.inplace, self.shared_axes, self._scale())
        return y

    def backward(self, dy: npt.ArrayLike) -> npt.NDArray[Any]:
        """Carry the gradient through the last forward pass: the same elements dropped, the same scale.

        Parameters
        ----------
        dy : array_like of float32 or float64
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
        if self.mask is not None:
            dy = np.asarray(dy)
            return self.mask.apply(dy, dy if self.inplace else None, scale=self._scale())
        if self.training:
            raise RuntimeError("backward must follow a forward pass in training, and none has been made")
        return self._rescaled(dy)

    def _scale(self) -> float | None:
        """What kept elements are multiplied by in training: None is the mask's own 1/(1-p)."""
        return None if self.rescale == "train" else 1.0

    def _rescaled(self, x: Any) -> npt.NDArray[Any]:
        """Do in evaluation what the layer does then."""
        if self.rescale != "eval":
            return x  # type: ignore[no-any-return]
        x = np.asarray(x)
        if x.dtype.kind != "f":
            raise TypeError(f"x must be an array of float32 or float64, got dtype {x.dtype}")
        return np.multiply(x, x.dtype.type(1.0 - self._p), out=x if self.inplace else None)  # type: ignore[no-any-return]

    __call__ = forward

    def train(self, mode: bool = True) -> Self:
        """Switch to training (or, with mode False, to evaluation) and return the layer."""
        self.training = bool(mode)
        return self

    def eval(self) -> Self:
        """Switch to evaluation and return the layer."""
        return self.train(False)

    def __repr__(self) -> str:
        options = "".join(
            f", {name}={value!r}"
            for name, value, default in (
                ("inplace", self.inplace, False),
                ("shared_axes", self.shared_axes, ()),
                ("rescale", self.rescale, "train"),
            )
            if value != default
        )
        return f"{type(self).__name__}(p={self._p}{options})"
