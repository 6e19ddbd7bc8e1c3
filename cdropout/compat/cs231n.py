"""The dropout functions of CS231n's assignments (https://cs231n.github.io).

    from cdropout.compat.cs231n import dropout_forward, dropout_backward     # p is the probability of keeping
    from cdropout.compat.cs231n import dropout_forward_drop                  # p is that of dropping, as before 2017

Both are inverted dropout, with `dropout_backward` as backward pass. The dictionary `dropout_param` has the keys `p`,
`mode` ("train" or "test") and, optionally, `seed`, which makes every call drop the same elements.
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
    """The mask in a cache; `np.asarray(mask)` creates an array of it, 0 for dropped and 1/keep for kept elements."""

    def __init__(self, mask: Mask, dtype: np.dtype[Any]) -> None:
        self.value = mask
        self.dtype = dtype
        self.shape = mask.shape

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError("a mask in a cache must be made when it is asked for: copy=False cannot be had")
        return self.value.scaled(self.dtype).astype(dtype or self.dtype, copy=False)


def dropout_forward_keep(x: npt.ArrayLike, dropout_param: Mapping[str, Any]) -> tuple[Array, Cache]:
    """Drop elements with probability 1 - p in mode "train"; return x itself in mode "test".

    Parameters
    ----------
    x : array_like of float16, bfloat16, float32 or float64
        Of any shape.
    dropout_param : dict
        `p`, the probability of *keeping* an element; `mode`; `seed` (optional).

    Returns
    -------
    out, cache
        The result, of x's shape and dtype, and the argument of `dropout_backward`: (dropout_param, mask), where mask
        is None in mode "test".

    Raises
    ------
    KeyError
        If p or mode is missing.
    TypeError, ValueError
        If p or mode is invalid, or as in `cdropout.dropout`.

    """
    return _forward(x, dropout_param, p_of_keep(dropout_param["p"], "p"))


def dropout_forward_drop(x: npt.ArrayLike, dropout_param: Mapping[str, Any]) -> tuple[Array, Cache]:
    """Drop elements with probability p, the probability of *dropping*; otherwise as `dropout_forward_keep`."""
    return _forward(x, dropout_param, _kernels.check_p(dropout_param["p"]))


dropout_forward = dropout_forward_keep


def dropout_backward(dout: npt.ArrayLike, cache: Cache) -> Array:
    """Return the gradient through the mask in the cache; dout itself if the forward pass was in mode "test"."""
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
