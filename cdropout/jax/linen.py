"""`Dropout` for `flax.linen`.

    from cdropout.jax.linen import Dropout

Needs flax; `import cdropout.jax` does not import it.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen

from cdropout.jax.functions import dropout


class Dropout(linen.Dropout):
    """Drop elements in training, as `flax.linen.Dropout` does, by `cdropout.jax.dropout`.

    Attributes
    ----------
    rate : float
        The probability of dropping, in [0, 1].
    broadcast_dims : sequence of int
        Axes along which all elements share one decision.
    deterministic : bool, optional
        Whether to return inputs as they are; given here or in the call.
    rng_collection : str
        The name of the key in the `rngs` of `Module.apply`.

    Raises
    ------
    TypeError, ValueError
        When called, for a rate, broadcast_dims or inputs that `cdropout.jax.dropout` refuses.

    """

    @linen.compact
    def __call__(self, inputs: Any, deterministic: bool | None = None, rng: jax.Array | None = None) -> jax.Array:
        """Return inputs after dropout, or as they are if deterministic.

        Parameters
        ----------
        inputs : array_like
            As x in `cdropout.jax.dropout`.
        deterministic : bool, optional
            If the module has None.
        rng : jax.Array, optional
            A key; by default the next one of rng_collection.

        """
        deterministic = linen.merge_param("deterministic", self.deterministic, deterministic)
        if deterministic or self.rate == 0.0:
            return inputs  # type: ignore[no-any-return]
        if self.rate == 1.0:
            return jnp.zeros_like(inputs)
        key = self.make_rng(self.rng_collection) if rng is None else rng
        return dropout(key, inputs, self.rate, broadcast_dims=tuple(self.broadcast_dims))
