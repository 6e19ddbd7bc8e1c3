"""The dropout layer of deepnet (https://github.com/parasdahal/deepnet).

from cdropout.compat.deepnet import Dropout      # in the place of deepnet.layers.Dropout
"""

from typing import Any

import numpy.typing as npt

from cdropout.compat.last_pass import Array, LastPass, p_of_keep
from cdropout.stream import Rng


class Dropout:
    """Inverted dropout that is told the probability of keeping, and drops in every forward pass.

    Parameters
    ----------
    prob : float
        The probability of *keeping* an element, in [0, 1]. It may be changed at any time.
    rng
        As in `cdropout.dropout`.

    Attributes
    ----------
    mask : ndarray
        0 where the last forward pass dropped and 1 / prob where it kept, made when it is asked for; None before.
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
        """What the last forward pass multiplied by."""
        return self._pass.scaled_mask()

    def forward(self, X: npt.ArrayLike) -> Array:  # noqa: N803 - the network's name
        """Return X dropped and divided by prob, of X's shape and dtype."""
        return self._pass.drop(X, p_of_keep(self.prob, "prob"))

    def backward(self, dout: npt.ArrayLike) -> tuple[Array, list[Any]]:
        """Return (dX, []): the gradient through the same mask, and none of parameters."""
        return self._pass.drop_again(dout), []
