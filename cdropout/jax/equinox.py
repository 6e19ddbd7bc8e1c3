"""`Dropout` for Equinox.

    from cdropout.jax.equinox import Dropout

Needs equinox; `import cdropout.jax` does not import it.
"""

from __future__ import annotations

import warnings
from typing import Any

import equinox
import jax

from cdropout.jax.functions import dropout


class Dropout(equinox.nn.Dropout):
    """Drop elements in training, as `equinox.nn.Dropout` does, by `cdropout.jax.dropout`.

    Parameters
    ----------
    p : float or scalar array
        The probability of dropping, in [0, 1]. No gradient flows to it.
    inference : bool
        Whether to return x as it is; `equinox.nn.inference_mode` sets it.
    deterministic : bool, optional
        An old name of inference.

    Raises
    ------
    TypeError, ValueError
        When called, for a p or x that `cdropout.jax.dropout` refuses.
    RuntimeError
        When called in training without a key.

    """

    def __call__(
        self,
        x: Any,
        *,
        key: jax.Array | None = None,
        inference: bool | None = None,
        deterministic: bool | None = None,
    ) -> jax.Array:
        """Return x after dropout, or as it is in inference.

        Parameters
        ----------
        x : array_like
            As in `cdropout.jax.dropout`.
        key : jax.Array, optional
            A key; needed in training.
        inference : bool, optional
            Takes precedence over that of the module.
        deterministic : bool, optional
            An old name of inference.

        """
        if deterministic is not None:
            warnings.warn("deterministic is an old name of inference", stacklevel=2)
            inference = deterministic
        if inference is None:
            inference = self.inference
        if inference or (isinstance(self.p, (int, float)) and self.p == 0):
            return x  # type: ignore[no-any-return]
        if key is None:
            raise RuntimeError("key must be given to Dropout in training, got None")
        p = jax.lax.stop_gradient(self.p) if isinstance(self.p, jax.Array) else self.p
        return dropout(key, x, p)
