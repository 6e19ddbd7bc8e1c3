"""Dropout of elements as a layer."""

from typing import Any, Literal

import numpy.typing as npt

from cdropout import _kernels
from cdropout.layers.base import DropoutLayer
from cdropout.mask import Mask
from cdropout.stream import Rng

Rescale = Literal["train", "eval"] | None


class Dropout(DropoutLayer):
    """Dropout with the layer protocol of small NumPy networks: `forward`, `backward`, `params`.

    Parameters
    ----------
    p : float
        The probability of dropping an element, in [0, 1]. It may be changed at any time.
    rng : None, int, sequence of int, SeedSequence, BitGenerator, Generator, RandomState or Stream
        Source of the masks. None is the default stream. A Stream is used as it is; anything else seeds a new stream,
        which only this layer uses.
    inplace : bool
        Whether `forward` and `backward` write their results into their arguments.
    shared_axes : int or tuple of int
        Axes along which one decision holds for all elements: 0 drops whole features of a batch.
    rescale : {"train", "eval", None}
        "train" divides by 1-p in training and does nothing in evaluation (inverted dropout). "eval" does not scale in
        training and multiplies by 1-p in evaluation (the original dropout). None never scales.

    Attributes
    ----------
    training : bool
        True at first; `train()` and `eval()` set it.
    mask : Mask or None
        The mask of the last forward pass; None before the first and after a pass in evaluation.
    params, grads : list
        Empty: dropout has no parameters.

    Raises
    ------
    TypeError, ValueError
        For a p, rng, shared_axes or rescale other than the above.

    Notes
    -----
    Source: Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting", JMLR 15, 2014.

    """

    _rate_fields = ("_p", "_train_map")
    _rescale: Rescale = "train"  # until the constructor sets it: the base class computes the map before

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
        # None in subclasses whose axes depend on the number of dimensions.
        self.shared_axes: int | tuple[int, ...] | None = shared_axes
        self.rescale = rescale
        self._scale = 1.0  # the factor of the last forward pass, whose p may have changed since

    @property
    def rescale(self) -> Rescale:
        """When kept elements are scaled: "train", "eval" or None."""
        return self._rescale

    @rescale.setter
    def rescale(self, rescale: Rescale) -> None:
        _check_rescale(rescale)
        self._set("_rescale", rescale)

    def forward(self, x: npt.ArrayLike) -> npt.NDArray[Any]:
        """Drop elements of x with a new mask in training; in evaluation return x itself, or (1-p) x for "eval".

        Parameters
        ----------
        x : array_like of float16, bfloat16, float32 or float64
            An array of any shape.

        Returns
        -------
        ndarray
            In training an array of x's shape and dtype, x itself if the layer is `inplace`. In evaluation x itself, or
            for "eval" an array.

        Raises
        ------
        TypeError, ValueError
            As in `cdropout.dropout`.

        """
        axes = self.shared_axes
        if axes is None:
            axes = self._axes(_kernels.as_array(x, "x").ndim)
        out = x if self.inplace else None
        if not self.training:
            _kernels.check_forward(x, out, axes)
            y = self._evaluated(x)
            self.mask = None
            return y
        scale, shift, fill = self._train_map
        y, self.mask = _kernels.forward(x, self._p, self._rng, out, axes, scale, shift, fill)
        self._scale = scale
        return y

    def backward(self, dy: npt.ArrayLike) -> npt.NDArray[Any]:
        """Return the gradient with respect to the input: dropped and scaled as in the last forward pass.

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
            If the layer is in training and its last forward pass was not.
        TypeError, ValueError
            As in `Mask.apply`.

        """
        out = dy if self.inplace else None
        dx = self._through_mask(dy, out, self._scale)
        if dx is not None:
            return dx
        _kernels.check_forward(dy, out, ())
        return self._evaluated(dy)

    def _prepare(self) -> None:
        self._train_map = self._map()

    def _check_fields(self, fields: dict[str, Any]) -> None:
        super()._check_fields(fields)
        if fields["shared_axes"] is not None:
            _kernels.check_axes(fields["shared_axes"])
        _check_rescale(fields["_rescale"])

    def _map(self) -> tuple[float, float, float]:
        """Return (scale, shift, fill) of training: kept elements become scale * x + shift, dropped ones fill."""
        return (_kernels.kept_scale(self._p) if self._rescale == "train" else 1.0), 0.0, 0.0

    def _axes(self, n_dims: int) -> tuple[int, ...]:
        """Return the shared axes of an array with n_dims dimensions; for subclasses with `shared_axes` None."""
        raise NotImplementedError

    def _evaluated(self, x: Any) -> npt.NDArray[Any]:
        """Return an input or a gradient after evaluation's map, which is the identity unless `rescale` is "eval"."""
        if self._rescale != "eval":
            return x  # type: ignore[no-any-return]
        # p = 0 multiplies all elements, p = 1 sets all to +0.0. Neither needs random bits, so any key will do.
        mask = Mask(0, 0, 1.0 if self._p == 1.0 else 0.0, _kernels.as_array(x, "x").shape)
        return _kernels.apply_to_floats(mask, x, "x", x if self.inplace else None, 1.0 - self._p)


def _check_rescale(rescale: object) -> None:
    if rescale not in ("train", "eval", None):
        raise ValueError(f"rescale must be 'train', 'eval' or None, got {rescale!r}")
