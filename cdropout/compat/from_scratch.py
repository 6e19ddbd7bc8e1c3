"""The dropout layers of "Deep Learning from Scratch" and its second volume (K. Saitoh, O'Reilly Japan, 2016 and 2018).

from cdropout.compat.from_scratch import Dropout         # common/layers.py of volume 1
from cdropout.compat.from_scratch import TimeDropout     # common/time_layers.py of volume 2
"""

import numpy as np
import numpy.typing as npt

from cdropout import _kernels
from cdropout.compat.last_pass import Array, LastPass
from cdropout.mask import Mask
from cdropout.stream import Rng


class Dropout:
    """Standard dropout: training does not scale, and evaluation multiplies by 1 - dropout_ratio.

    Parameters
    ----------
    dropout_ratio : float
        The probability of dropping an element, in [0, 1]. It may be changed at any time.
    rng
        As in `cdropout.dropout`.

    Attributes
    ----------
    mask : ndarray of bool
        True for elements that the last forward pass in training kept; None before such a pass. It is made at the first
        access, and is the same array until the next forward pass in training. `backward` multiplies by an array that
        the network has changed or assigned.

    """

    def __init__(self, dropout_ratio: float = 0.5, *, rng: Rng | None = None) -> None:
        self.dropout_ratio = _kernels.check_p(dropout_ratio)
        self._pass = LastPass(rng)

    @property
    def mask(self) -> npt.NDArray[np.bool_] | None:
        """A bool array, True for elements that the last forward pass in training kept; None before such a pass."""
        return self._pass.array

    @mask.setter
    def mask(self, mask: npt.ArrayLike | None) -> None:
        self._pass.array = mask

    def forward(self, x: npt.ArrayLike, train_flg: bool = True) -> Array:
        """Drop elements of x, or multiply x by 1 - dropout_ratio if train_flg is false; the result has x's dtype."""
        p = _kernels.check_p(self.dropout_ratio)
        if train_flg:
            return self._pass.drop(x, p, scale=1.0, dtype=np.bool_)
        return Mask(0, 0, 0.0, _kernels.check_array(x, "x").shape).apply(x, scale=1.0 - p)

    def backward(self, dout: npt.ArrayLike) -> Array:
        """Return the gradient through the mask of the last forward pass in training."""
        return self._pass.drop_again(dout)


class TimeDropout:
    """Inverted dropout of sequences; the network sets its mode.

    Parameters
    ----------
    dropout_ratio : float
        The probability of dropping an element, in [0, 1]. It may be changed at any time.
    rng
        As in `cdropout.dropout`.

    Attributes
    ----------
    train_flg : bool
        Whether to drop. The network sets it.
    mask : ndarray
        0 for elements that the last forward pass in training dropped, 1 / (1 - dropout_ratio) for the others; None
        before such a pass. As in `Dropout`, it is made at the first access, and may be changed or assigned.
    params, grads : list
        Empty.

    """

    def __init__(self, dropout_ratio: float = 0.5, *, rng: Rng | None = None) -> None:
        self.params: list[Array] = []
        self.grads: list[Array] = []
        self.dropout_ratio = _kernels.check_p(dropout_ratio)
        self.train_flg = True
        self._pass = LastPass(rng)

    @property
    def mask(self) -> Array | None:
        """The factors of the last forward pass in training, 0 for dropped elements; None before such a pass."""
        return self._pass.array

    @mask.setter
    def mask(self, mask: npt.ArrayLike | None) -> None:
        self._pass.array = mask

    def forward(self, xs: npt.ArrayLike) -> Array:
        """Drop elements of xs and scale the others; return xs itself if train_flg is false."""
        if not self.train_flg:
            return xs  # type: ignore[return-value]
        return self._pass.drop(xs, _kernels.check_p(self.dropout_ratio))

    def backward(self, dout: npt.ArrayLike) -> Array:
        """Return the gradient through the mask of the last forward pass in training."""
        return self._pass.drop_again(dout)
