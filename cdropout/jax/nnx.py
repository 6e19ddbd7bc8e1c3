"""`Dropout` for `flax.nnx`.

    from cdropout.jax.nnx import Dropout

Needs flax; `import cdropout.jax` does not import it.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from cdropout.jax.functions import dropout


class Dropout(nnx.Dropout):
    """Drop elements in training, as `flax.nnx.Dropout` does, by `cdropout.jax.dropout`.

    Parameters
    ----------
    rate : float
        The probability of dropping, in [0, 1].
    broadcast_dims : sequence of int
        Axes along which all elements share one decision.
    deterministic : bool, optional
        Whether to return inputs as they are. `train()` and `eval()` of a module set it.
    rng_collection : str
        The stream of rngs from which keys are taken.
    rngs : flax.nnx.Rngs or flax.nnx.RngStream, optional
        Source of the keys, one for each call that drops.

    Raises
    ------
    TypeError, ValueError
        When called, for a rate, broadcast_dims or inputs that `cdropout.jax.dropout` refuses, and if deterministic or
        rngs is needed and missing.

    """

    def __call__(self, inputs: Any, *, deterministic: bool | None = None, rngs: Any = None) -> jax.Array:
        """Return inputs after dropout, or as they are if deterministic.

        Parameters
        ----------
        inputs : array_like
            As x in `cdropout.jax.dropout`.
        deterministic : bool, optional
            Takes precedence over that of the module.
        rngs : flax.nnx.Rngs, flax.nnx.RngStream or jax.Array, optional
            Takes precedence over those of the module; an array is a key.

        """
        if deterministic is None:
            deterministic = self.deterministic
        if deterministic is None:
            raise ValueError("deterministic must be given to Dropout or to its call, got None for both")
        if deterministic or self.rate == 0.0:
            return inputs  # type: ignore[no-any-return]
        if self.rate == 1.0:
            return jnp.zeros_like(inputs)
        key = _key_of(self.rngs if rngs is None else rngs, self.rng_collection)
        return dropout(key, inputs, self.rate, broadcast_dims=tuple(self.broadcast_dims))


def _key_of(rngs: Any, collection: str) -> jax.Array:
    if rngs is None:
        raise ValueError("rngs must be given to Dropout or to its call if deterministic is False, got None for both")
    if isinstance(rngs, nnx.Rngs):
        return rngs[collection]()  # type: ignore[no-any-return]
    if isinstance(rngs, nnx.RngStream):
        return rngs()  # type: ignore[no-any-return]
    if isinstance(rngs, jax.Array):
        return rngs
    raise TypeError(f"rngs must be a flax.nnx.Rngs, RngStream or a key, got {type(rngs).__name__}")
