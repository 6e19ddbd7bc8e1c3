"""The dropout layer of "Neural Networks from Scratch in Python" (H. Kinsley, D. Kukiela, 2020, chapter 15).

from cdropout.compat.nnfs import Layer_Dropout
"""

import numpy.typing as npt

from cdropout import _kernels
from cdropout.compat.last_pass import Array, LastPass, p_of_keep
from cdropout.stream import Rng


class Layer_Dropout:  # noqa: N801 - the book's name
    """Inverted dropout whose methods return None and leave their results in attributes.

    Parameters
    ----------
    rate : float
        The probability of dropping an element, in [0, 1].
    rng
        As in `cdropout.dropout`.

    Attributes
    ----------
    rate : float
        The probability of *keeping* an element, 1 less the argument, as the book has it. It may be changed at any time.
    inputs, output, dinputs : ndarray
        What `forward` was given, what came out, and the gradient of `backward`.
    binary_mask : ndarray
        0 where the last forward pass in training dropped and 1 / rate where it kept, made when it is asked for; None
        before.

    """

    def __init__(self, rate: float, *, rng: Rng | None = None) -> None:
        p_of_keep(rate, "rate")
        self.rate = 1 - rate
        self._pass = LastPass(rng)

    @property
    def binary_mask(self) -> Array | None:
        """What the last forward pass in training multiplied by."""
        return self._pass.scaled_mask()

    def forward(self, inputs: npt.ArrayLike, training: bool = True) -> None:
        """Put inputs, dropped and scaled, into `output`; a copy of them where training is false."""
        self.inputs = inputs
        if training:
            self.output = self._pass.drop(inputs, p_of_keep(self.rate, "rate"))
        else:
            self.output = _kernels.check_array(inputs, "inputs").copy()

    def backward(self, dvalues: npt.ArrayLike) -> None:
        """Put the gradient through the mask of the last forward pass in training into `dinputs`."""
        self.dinputs = self._pass.drop_again(dvalues)
