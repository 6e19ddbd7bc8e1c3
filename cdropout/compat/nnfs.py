"""The dropout layer of "Neural Networks from Scratch in Python" (H. Kinsley, D. Kukiela, 2020, chapter 15).

from cdropout.compat.nnfs import Layer_Dropout
"""

import numpy.typing as npt

from cdropout.compat.last_pass import Array, LastPass, as_ndarray, p_of_keep
from cdropout.stream import Rng


class Layer_Dropout:  # noqa: N801 - the book's name
    """Inverted dropout whose methods return None and store their results in attributes.

    Parameters
    ----------
    rate : float
        The probability of dropping an element, in [0, 1].
    rng
        As in `cdropout.dropout`.

    Attributes
    ----------
    rate : float
        The probability of *keeping* an element, 1 minus the argument, as in the book. It may be changed at any time.
    inputs, output, dinputs : ndarray
        The input and the result of `forward`, and the result of `backward`.
    binary_mask : ndarray
        0 for elements that the last forward pass in training dropped, 1 / rate for the others; None before such a pass.
        It is made at the first access, and is the same array until the next forward pass in training. `backward`
        multiplies by an array that the network has changed or assigned.

    """

    def __init__(self, rate: float, *, rng: Rng | None = None) -> None:
        p_of_keep(rate, "rate")
        self.rate = 1 - rate
        self._pass = LastPass(rng)

    @property
    def binary_mask(self) -> Array | None:
        """The factors of the last forward pass in training, 0 or 1 / rate; None before such a pass."""
        return self._pass.array

    @binary_mask.setter
    def binary_mask(self, mask: npt.ArrayLike | None) -> None:
        self._pass.array = mask

    def forward(self, inputs: npt.ArrayLike, training: bool = True) -> None:
        """Drop elements of inputs and scale the others, or copy inputs if training is false; the result is `output`."""
        if training:
            output = self._pass.drop(inputs, p_of_keep(self.rate, "rate"))
        else:
            output = as_ndarray(inputs, "inputs").copy()
        self.inputs, self.output = inputs, output

    def backward(self, dvalues: npt.ArrayLike) -> None:
        """Set `dinputs` to the gradient through the mask of the last forward pass in training."""
        self.dinputs = self._pass.drop_again(dvalues)
