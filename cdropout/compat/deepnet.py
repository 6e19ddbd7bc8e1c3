"""The dropout layer of deepnet (https://github.com/parasdahal/deepnet).

from cdropout.compat.deepnet import Dropout      # instead of deepnet.layers.Dropout
"""

from typing import Any

import numpy.typing as npt

from cdropout.compat.last_pass import Array, LastPass, p_of_keep
from cdropout.stream import Rng


class Dropout:
    """Inverted dropout with the probability of keeping as its parameter; every forward pass drops.

    Parameters
    ----------
    prob : float
        The probability of *keeping* an element, in [0, 1]. It may be changed at any time.
    rng
        As in `cdropout.dropout`.

    Attributes
    ----------
    mask : ndarray
        0 for elements that the last forward pass dropped, 1 / prob for the others; None before any forward pass. It is
        made at the first access, and is the same array until the next forward pass. `backward` multiplies by an array
        that the network has changed or assigned.
    params : list
        Empty.

    """

    def __init__(self, prob: float = 0.5, *, rng: Rng | None = None) -> None:
        p_of_keep(prob, "prob")
        self.prob = prob
        self.params: list[Array] = []
        self._pass = LastPass(rng)

    @property
    def mask(self) -> Array | None:
        """The factors of the last forward pass: 0 or 1 / prob for each element; None before any forward pass."""
        return self._pass.array

    @mask.setter
    def mask(self, mask: npt.ArrayLike | None) -> None:
        self._pass.array = mask

    def forward(self, X: npt.ArrayLike) -> Array:  # noqa: N803 - the network's name
        """Drop elements of X and divide the others by prob; the result has X's shape and dtype."""
        return self._pass.drop(X, p_of_keep(self.prob, "prob"))

    def backward(self, dout: npt.ArrayLike) -> tuple[Array, list[Any]]:
        """Return (dX, []): the gradient through the same mask, and an empty list of parameters' gradients."""
        return self._pass.drop_again(dout), []
