"""Rules for initial weights: each is a function that draws from a NumPy generator."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Generator = np.random.Generator | np.random.RandomState


def fill_he_uniform(weights: Sequence[npt.NDArray[Any]], rng: Generator) -> None:
    """Fill weights (n_in, n_out) of each layer in turn, uniform with variance 2 / n_in (He et al. 2015, eq. 10).

    TypeError for another rng than a NumPy generator, ValueError for arrays of other axes, such as biases, before
    anything is drawn.
    """
    if not isinstance(rng, Generator):
        raise TypeError(f"rng must be a Generator or RandomState of NumPy, got {rng!r}")
    for weight in weights:
        if weight.ndim != 2:
            raise ValueError(f"weights must be arrays (n_in, n_out), got one of shape {weight.shape}")
    for weight in weights:
        bound = np.sqrt(6 / len(weight))
        weight[...] = rng.uniform(-bound, bound, weight.shape)


def lecun_normal(n_in: int, n_out: int, rng: Generator) -> Array:
    """Return weights (n_in, n_out), normal with variance 1 / n_in (Klambauer et al. 2017), for SELU."""
    return rng.normal(0, np.sqrt(1 / n_in), (n_in, n_out))


def glorot_uniform(n_in: int, n_out: int, rng: Generator, activation: str) -> tuple[Array, Array]:
    """Return weights (n_in, n_out) and biases (n_out,), drawn in this order, as scikit-learn's networks draw them.

    Both are uniform, with variance 2 / (n_in + n_out) (Glorot and Bengio 2010), a third of it for "logistic".
    """
    bound = np.sqrt((2 if activation == "logistic" else 6) / (n_in + n_out))
    return rng.uniform(-bound, bound, (n_in, n_out)), rng.uniform(-bound, bound, n_out)
