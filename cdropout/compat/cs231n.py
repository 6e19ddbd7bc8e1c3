"""The dropout functions of CS231n's assignments (https://cs231n.github.io).

    from cdropout.compat.cs231n import dropout_forward, dropout_backward     # p is the probability of keeping
    from cdropout.compat.cs231n import dropout_forward_drop                  # p is that of dropping, as before 2017

Both are inverted dropout, and go with `dropout_backward`. The dictionary `dropout_param` has the keys `p`, `mode`
("train" or "test") and, if every call is to drop the same elements, `seed`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from cdropout import _kernels
from cdropout.compat.last_pass import Array, p_of_keep
from cdropout.mask import Mask, draw_mask

Cache = tuple[Mapping[str, Any], "CachedMask | None"]


class CachedMask:
    """The mask in a cache: an array of 0 and 1/keep to NumPy (`np.asarray(mask)`), made only when one is asked for."""

    def __init__(self, mask: Mask, dtype: np.dtype[Any]) -> None:
        self.value = mask
        self.dtype = dtype
        self.shape = mask.shape

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError("a mask in a cache must be made when it is asked for: copy=False cannot be had")
        return self.value.scaled(self.dtype).astype(dtype or self.dtype, copy=False)


def dropout_forward_keep(x: npt.ArrayLike, dropout_param: Mapping[str, Any]) -> tuple[Array, Cache]:
    """Drop with probability 1 - p in training; return x itself in the mode "test".

    Parameters
    ----------
    x : array_like of float16, bfloat16, float32 or float64
        Of any shape.
    dropout_param : dict
        `p`, the probability of *keeping* an element; `mode`; `seed` (optional).

    Returns
    -------
    out, cache
        The result, of x's shape and dtype, and what `dropout_backward` takes: (dropout_param, mask), with no mask in
        the mode "test".

    Raises
    ------
    KeyError
        Where p or mode is missing.
    TypeError, ValueError
        For another p or mode, or as in `cdropout.dropout`.

    """
    return _forward(x, dropout_param, p_of_keep(dropout_param["p"], "p"))


def dropout_forward_drop(x: npt.ArrayLike, dropout_param: Mapping[str, Any]) -> tuple[Array, Cache]:
    """As `dropout_forward_keep`, with `p` the probability of *dropping* an element."""
    return _forward(x, dropout_param, _kernels.check_p(dropout_param["p"]))


dropout_forward = dropout_forward_keep


def dropout_backward(dout: npt.ArrayLike, cache: Cache) -> Array:
    """Return the gradient through the mask in the cache; dout itself where the forward pass was in the mode "test"."""
    _, mask = cache
    return dout if mask is None else mask.value.apply(dout)  # type: ignore[return-value]


def _forward(x: Any, dropout_param: Mapping[str, Any], p: float) -> tuple[Array, Cache]:
    mode = dropout_param["mode"]
    if mode not in ("train", "test"):
        raise ValueError(f"dropout_param['mode'] must be 'train' or 'test', got {mode!r}")
    x = _kernels.check_array(x, "x")
    if mode == "test":
        return x, (dropout_param, None)
    mask = draw_mask(x.shape, p, rng=dropout_param.get("seed"))
    return mask.apply(x), (dropout_param, CachedMask(mask, x.dtype))
