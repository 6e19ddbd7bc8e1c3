"""Sub-networks of Monte Carlo dropout: one for each sample, the same for every row.

Dropout of whole units scales and shifts the columns of a layer's output. The next layer's weights and bias can take
that over, and the rows and columns of dropped units can be left out. A sample is thus a smaller network without
dropout. Because all rows pass through it, the prediction for a row does not depend on the other rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cdropout.functions.gaussian import noise_std
from cdropout.mask import draw_mask
from cdropout.networks.evaluation import evaluate
from cdropout.networks.layers import drop_map
from cdropout.noise import draw_noise
from cdropout.stream import Stream

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class SubNetwork:
    """Hold a network with drawn units.

    Attributes
    ----------
    params : list of ndarray
        The weights and biases, smaller and scaled, of the layers from the first drawn one on.
    columns : ndarray of intp, or None
        The kept columns of the input of the first drawn layer; None if it has all.
    activation : str
        The activation of hidden layers.

    """

    params: list[Array]
    columns: npt.NDArray[np.intp] | None
    activation: str

    def evaluate(self, x: Any) -> Array:
        """Return the outputs (n_samples, n_outputs) for inputs of the first drawn layer."""
        return evaluate(self.params, self.activation, x if self.columns is None else x[:, self.columns])


def n_layers_before(p: Sequence[float], p_input: float) -> int:
    """Return how many layers come before the first draw, whose output is the same in every sample.

    Parameters
    ----------
    p : sequence of float
        The probability of dropping of each hidden layer.
    p_input : float
        That of the inputs.

    """
    rates = [p_input, *p]
    return next((i for i, rate in enumerate(rates) if rate > 0), len(rates) - 1)


def draw_sub_network(
    params: Sequence[Array], activation: str, p: Sequence[float], p_input: float, kind: str, rng: Stream
) -> SubNetwork:
    """Draw a sub-network.

    Parameters
    ----------
    params : sequence of ndarray
        The weights and biases of each layer in turn.
    activation, p, p_input, kind
        As in `MLP`. Units, inputs among them, are dropped as a whole; inputs by a mask, for every kind.
    rng : Stream
        The stream of this sample, from which each layer with dropout draws once.

    """
    rates = [p_input, *p]
    first = n_layers_before(p, p_input)
    kept: list[npt.NDArray[np.intp] | None] = []
    made: list[Array] = []
    for i in range(first, len(rates)):
        weight, bias = params[2 * i], params[2 * i + 1]
        if rates[i] > 0:
            scale, shift = _draw_columns("elementwise" if i == 0 else kind, rates[i], len(weight), rng)
            indices = np.flatnonzero(scale)
            if shift is not None:
                bias = bias + (shift @ weight).astype(bias.dtype)
            weight = weight[indices] * scale[indices, np.newaxis].astype(weight.dtype)
            kept.append(indices if len(indices) < len(scale) else None)
        else:
            kept.append(None)
        made += [weight, bias]
    for i, columns in enumerate(kept[1:]):
        if columns is not None:
            made[2 * i], made[2 * i + 1] = made[2 * i][:, columns], made[2 * i + 1][columns]
    return SubNetwork(made, kept[0], activation)


def _draw_columns(kind: str, p: float, width: int, rng: Stream) -> tuple[Array, Array | None]:
    """Return the factor of each unit, 0 where it is dropped, and the number added to each, None for none."""
    if kind == "gaussian":
        return draw_noise(width, noise_std(p), rng=rng).multiply(np.ones(width)), None
    keep = draw_mask(width, p, rng=rng).keep()
    scale, shift, fill = drop_map(kind, p)
    return keep * scale, np.where(keep, shift, fill) if kind == "alpha" else None
