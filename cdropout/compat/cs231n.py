"""The dropout functions of CS231n's assignments (https://cs231n.github.io).

    from cdropout.compat.cs231n import dropout_forward, dropout_backward     # p is the probability of keeping
    from cdropout.compat.cs231n import dropout_forward_drop                  # p is that of dropping, as before 2017

Both are inverted dropout, with `dropout_backward` as backward pass. The dictionary `dropout_param` has the keys `p`,
`mode` ("train" or "test") and, optionally, `seed`, which makes every call drop the same elements.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Self, SupportsIndex

import numpy.typing as npt

from cdropout import _kernels
from cdropout.compat.last_pass import Array, NetworkMask, as_ndarray, multiply, p_of_keep


class DropoutCache(tuple[Any, ...]):
    """The cache (dropout_param, mask), whose mask becomes an array when the item is first read.

    `dropout_backward` does not read it, so a training step makes no array. Code in C that reads the items of a tuple
    past its methods gets the `Mask` itself, which refuses arithmetic.
    """

    lazy_mask: NetworkMask

    def __new__(cls, dropout_param: Mapping[str, Any], lazy_mask: NetworkMask) -> Self:
        """Return a new cache."""
        cache = super().__new__(cls, (dropout_param, lazy_mask.value))
        cache.lazy_mask = lazy_mask
        return cache

    def _item(self, index: int) -> Any:
        return self.lazy_mask.array if index else super().__getitem__(0)

    def __getitem__(self, index: SupportsIndex | slice) -> Any:
        if isinstance(index, slice):
            return tuple(map(self._item, range(2)[index]))
        super().__getitem__(index)  # IndexError, TypeError
        return self._item(range(2)[index])

    def __iter__(self) -> Iterator[Any]:
        return map(self._item, range(2))

    def __contains__(self, item: object) -> bool:
        return any(item is each for each in self) or super().__contains__(item)

    def __add__(self, other: Any) -> Any:
        return tuple(self) + other

    def __radd__(self, other: Any) -> Any:
        return other + tuple(self)

    def __repr__(self) -> str:
        return repr(tuple(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (super().__getitem__(0), self.lazy_mask)


Cache = tuple[Any, ...]


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
        The result, of x's shape and dtype, and the argument of `dropout_backward`: (dropout_param, mask). mask is None
        in mode "test", and otherwise an array of x's dtype, 0 for dropped and 1/keep for kept elements, which is made
        when it is first read from the cache.

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
    """Return the gradient through the mask in the cache; dout itself if the forward pass was in mode "test".

    If the mask in the cache has been changed, or the cache is another pair (dropout_param, array), the result is dout
    times this array.
    """
    if isinstance(cache, DropoutCache):
        return cache.lazy_mask.apply(dout, "dout")
    _, mask = cache
    return dout if mask is None else multiply(dout, mask)  # type: ignore[return-value]


def _forward(x: Any, dropout_param: Mapping[str, Any], p: float) -> tuple[Array, Cache]:
    mode = dropout_param["mode"]
    if mode not in ("train", "test"):
        raise ValueError(f"dropout_param['mode'] must be 'train' or 'test', got {mode!r}")
    x = as_ndarray(x, "x")
    if mode == "test":
        return x, (dropout_param, None)
    out, mask = _kernels.forward(x, p, dropout_param.get("seed"), None, (), _kernels.kept_scale(p), 0.0, 0.0)
    return out, DropoutCache(dropout_param, NetworkMask(mask, out.dtype))
