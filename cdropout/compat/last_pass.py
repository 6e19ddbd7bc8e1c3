"""The code that the replacements share: the state of a last forward pass, and masks that become arrays on request."""

from collections.abc import Iterable, MutableSequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cdropout import _kernels
from cdropout.mask import Mask
from cdropout.stream import Rng, Stream, as_stream

Array = npt.NDArray[Any]


def p_of_keep(keep: float, name: str) -> float:
    """Return 1 - keep, the probability of dropping; for an invalid keep, TypeError or ValueError that names it."""
    try:
        return 1.0 - _kernels.check_p(keep)
    except (TypeError, ValueError) as error:
        raise type(error)(str(error).replace("p must", f"{name} must", 1)) from None


def as_ndarray(x: npt.ArrayLike, name: str) -> Array:
    """Return x itself if it is an ndarray, of whatever class, and an array of it otherwise; errors as in `dropout`."""
    array = _kernels.check_array(x, name)
    return x if isinstance(x, np.ndarray) else array


def multiply(dy: npt.ArrayLike, factors: Any) -> Array:
    """Return a gradient times a network's array, in the gradient's dtype; +0.0 where the array is 0."""
    gradient, factors = _kernels.check_array(dy, "dy"), np.asarray(factors)
    with np.errstate(invalid="ignore"):  # infinity times 0
        product = np.asarray(gradient * factors.astype(gradient.dtype))
    product[np.broadcast_to(factors == 0, product.shape)] = 0
    return _kernels.handed_back(product, None, dy)


class NetworkMask:
    """A mask, and the array that a network calls its mask, which is made when it is first asked for.

    The network may write into the array. A backward pass then multiplies by the array; otherwise it needs only the
    mask.

    Parameters
    ----------
    value : Mask
        The mask.
    dtype : dtype
        The array's dtype. An array of bool is True for kept elements; another array is 0 for dropped ones and 1/(1-p)
        for kept ones.
    scale : float, optional
        The factor for kept elements in a backward pass; 1/(1-p) by default.

    """

    def __init__(self, value: Mask, dtype: np.dtype[Any], scale: float | None = None) -> None:
        self.value, self.dtype, self.scale = value, dtype, scale
        self._array: Array | None = None

    @property
    def array(self) -> Array:
        """The array: the same object at every access."""
        if self._array is None:
            self._array = self._made()
        return self._array

    def has_array(self, array: object) -> bool:
        """Return whether an object is the array of this mask."""
        return self._array is not None and array is self._array

    def apply(self, dy: npt.ArrayLike, name: str = "dy") -> Array:
        """Return the gradient dy, which errors call `name`, through the mask."""
        if self._is_changed():
            return multiply(dy, self._array)
        return _kernels.apply_to_floats(self.value, dy, name, None, self.scale)

    def _made(self) -> Array:
        return self.value.keep() if self.dtype == np.bool_ else self.value.scaled(self.dtype)

    def _is_changed(self) -> bool:
        """Return whether the network has written into the array."""
        return self._array is not None and not np.array_equal(self._array, self._made())

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_array": self._array if self._is_changed() else None}


class MaskList(MutableSequence[Any]):
    """A list of the masks of forward passes, each of which becomes a bool array (True = kept) when it is first read."""

    def __init__(self, masks: Iterable[Any] = ()) -> None:
        self._masks = list(masks)

    def __len__(self) -> int:
        return len(self._masks)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return list(map(array_of, self._masks[index]))
        return array_of(self._masks[index])

    def __setitem__(self, index: Any, mask: Any) -> None:
        self._masks[index] = mask

    def __delitem__(self, index: Any) -> None:
        del self._masks[index]

    def insert(self, index: int, mask: Any) -> None:
        """Insert a mask before an index."""
        self._masks.insert(index, mask)

    def __repr__(self) -> str:
        return repr(list(self))


def array_of(mask: Any) -> Any:
    """Return the array of a NetworkMask, and anything else itself."""
    return mask.array if isinstance(mask, NetworkMask) else mask


class LastPass:
    """A stream, and the mask of the last forward pass in training, or the array that the network put there instead."""

    def __init__(self, rng: Rng | None = None) -> None:
        self._stream: Stream | None = None if rng is None else as_stream(rng)
        self.mask: NetworkMask | None = None
        self._assigned: Array | None = None

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a pickle. Earlier code saved `_last`, (mask, dtype, scale), and a scale of 1 for masks of bool."""
        fields = {"mask": None, "_assigned": None, **state}
        last = fields.pop("_last", None)
        if last is not None:
            mask, dtype, scale = last
            fields["mask"] = NetworkMask(mask, np.dtype(np.bool_) if scale == 1.0 else dtype, scale)
        self.__dict__.update(fields)

    def drop(
        self, x: npt.ArrayLike, p: float, *, scale: float | None = None, dtype: npt.DTypeLike | None = None
    ) -> Array:
        """Draw a mask for x, apply it and keep it; scale and dtype as in `draw`."""
        y, mask = self.draw(x, p, scale=scale, dtype=dtype)
        self.keep(mask)
        return y

    def draw(
        self, x: npt.ArrayLike, p: float, *, scale: float | None = None, dtype: npt.DTypeLike | None = None
    ) -> tuple[Array, NetworkMask]:
        """Draw a mask for x and apply it; return the result and the mask.

        scale is the factor for kept elements, 1/(1-p) by default. dtype is that of the mask's array, x's by default.
        """
        p = _kernels.check_p(p)
        factor = _kernels.kept_scale(p) if scale is None else scale
        y, mask = _kernels.forward(x, p, self._stream, None, (), factor, 0.0, 0.0)
        return y, NetworkMask(mask, y.dtype if dtype is None else np.dtype(dtype), scale)

    def keep(self, mask: NetworkMask | None) -> None:
        """Keep a mask as that of the last pass; None forgets it."""
        self.mask, self._assigned = mask, None

    def drop_again(self, dy: npt.ArrayLike) -> Array:
        """Apply the mask of the last pass, with its scale; RuntimeError if there was none."""
        return self.of_training().apply(dy) if self._assigned is None else multiply(dy, self._assigned)

    def of_training(self) -> NetworkMask:
        """Return the mask of the last forward pass in training; RuntimeError if there was none."""
        if self.mask is None:
            raise RuntimeError("backward must follow a forward pass in training, and none has been made")
        return self.mask

    @property
    def array(self) -> Array | None:
        """The mask as an array: the same object until the next forward pass; None before any pass in training.

        The network may assign another array, by which `drop_again` then multiplies, or None.
        """
        if self._assigned is not None or self.mask is None:
            return self._assigned
        return self.mask.array

    @array.setter
    def array(self, array: Any) -> None:
        if array is None:
            self.keep(None)
        else:  # `layer.mask *= 2` assigns the array itself
            is_own = self.mask is not None and self.mask.has_array(array)
            self._assigned = None if is_own else np.asanyarray(array)
