"""Normal noise, multiplied or added, as layers."""

from typing import Any, ClassVar

import numpy.typing as npt

from cdropout import _kernels
from cdropout.functions.gaussian import noise_std
from cdropout.layers.base import DropoutLayer, Layer
from cdropout.noise import Noise
from cdropout.stream import Rng


class GaussianDropout(DropoutLayer):
    """Multiply by normal noise of mean 1 and variance p / (1-p); evaluation is the identity.

    Parameters
    ----------
    p : float
        The probability of dropping that gives dropout the same variance, in [0, 1).
    rng, inplace
        As in `Dropout`.

    Attributes
    ----------
    noise : Noise or None
        The noise of the last forward pass; None after a pass in evaluation.

    Notes
    -----
    Source: Srivastava et al., JMLR 15, 2014, section 10.

    """

    _field_types: ClassVar[dict[str, Any]] = {**DropoutLayer._field_types, "noise": Noise | None}

    def __init__(self, p: float = 0.5, *, rng: Rng | None = None, inplace: bool = False) -> None:
        super().__init__(p, rng=rng, inplace=inplace)
        self.noise: Noise | None = None

    def _checked_p(self, p: float) -> float:
        noise_std(p)  # its message has the narrower range
        checked = super()._checked_p(p)
        noise_std(checked)  # p may have been another number in the second conversion
        return checked

    def forward(self, x: npt.ArrayLike) -> npt.NDArray[Any]:
        """Return x times new noise in training, x itself in evaluation; errors as in `gaussian_dropout`."""
        out = x if self.inplace else None
        if not self.training:
            _kernels.check_forward(x, out, ())
            self.noise = None
            return x  # type: ignore[return-value]
        y, self.noise = _kernels.with_noise(True, x, noise_std(self._p), self._rng, out)
        return y

    def backward(self, dy: npt.ArrayLike) -> npt.NDArray[Any]:
        """Return dy times the noise of the last forward pass; RuntimeError in training if there was none."""
        if self.noise is None:
            self._check_not_training()
            _kernels.check_forward(dy, dy if self.inplace else None, ())
            return dy  # type: ignore[return-value]
        return self.noise.multiply(dy, dy if self.inplace else None)


class GaussianNoise(Layer):
    """Add normal noise of mean 0 in training; evaluation is the identity.

    Parameters
    ----------
    std : float
        The standard deviation, in [0, 1e37].
    rng, inplace
        As in `Dropout`.

    Attributes
    ----------
    noise : Noise or None
        The noise of the last forward pass; None after a pass in evaluation.

    """

    _rate_name = "std"
    _rate_fields = ("_std",)
    _field_types: ClassVar[dict[str, Any]] = {**Layer._field_types, "noise": Noise | None}

    def __init__(self, std: float, *, rng: Rng | None = None, inplace: bool = False) -> None:
        super().__init__(std, rng=rng, inplace=inplace)
        self.noise: Noise | None = None

    @property
    def std(self) -> float:
        """The standard deviation."""
        return self._std

    @std.setter
    def std(self, std: float) -> None:
        self._std = _kernels.check_std(std)

    def _check_fields(self, fields: dict[str, Any]) -> None:
        for name in ("_p", "mask"):  # the layer had them once, without a use
            fields.pop(name, None)
        fields["_std"] = _kernels.check_std(fields["_std"])
        super()._check_fields(fields)

    def forward(self, x: npt.ArrayLike) -> npt.NDArray[Any]:
        """Return x plus new noise in training, x itself in evaluation; errors as in `gaussian_noise`."""
        out = x if self.inplace else None
        if not self.training:
            _kernels.check_forward(x, out, ())
            self.noise = None
            return x  # type: ignore[return-value]
        y, self.noise = _kernels.with_noise(False, x, self._std, self._rng, out)
        return y

    def backward(self, dy: npt.ArrayLike) -> npt.NDArray[Any]:
        """Return dy itself: the noise does not depend on x."""
        _kernels.check_array(dy, "dy")
        return dy  # type: ignore[return-value]
