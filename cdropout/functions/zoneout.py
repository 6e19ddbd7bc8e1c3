"""Zoneout, for recurrent networks, as a function."""

from typing import Any

import numpy.typing as npt

from cdropout.functions.fused import fuse
from cdropout.stream import Rng


def zoneout(
    new: npt.ArrayLike, previous: npt.ArrayLike, p: float = 0.5, *, rng: Rng | None = None, out: Any = None
) -> npt.NDArray[Any]:
    """Keep elements of a recurrent network's previous state, each with probability p, instead of the new ones.

    Parameters
    ----------
    new : array_like of float16, bfloat16, float32 or float64
        The new state, of any shape.
    previous : array_like of new's shape and dtype
        The previous state.
    p : float
        The probability that an element keeps its previous value.
    rng, out
        As in `dropout`; out may be new or previous.

    Returns
    -------
    ndarray
        Of new's shape and dtype: `previous` where dropped, `new` where kept, bit for bit.

    Raises
    ------
    TypeError, ValueError
        As in `dropout`, or for states of different shapes or dtypes.

    Notes
    -----
    Source: Krueger et al., "Zoneout: regularizing RNNs by randomly preserving hidden activations", ICLR 2017.

    """
    return fuse("choose", new, None, previous, p, rng, out)
