"""State that the replacements share: a stream and the mask of the last forward pass, as an array only on request."""

from typing import Any

import numpy as np
import numpy.typing as npt

from cdropout import _kernels
from cdropout.mask import Mask, draw_mask
from cdropout.stream import Rng, Stream, as_stream

Array = npt.NDArray[Any]


def p_of_keep(keep: float, name: str) -> float:
    """Return 1 - keep, the probability of dropping; for an invalid keep, TypeError or ValueError that names it."""
    try:
        return 1.0 - _kernels.check_p(keep)
    except (TypeError, ValueError) as error:
        raise type(error)(str(error).replace("p must", f"{name} must", 1)) from None


class LastPass:
    """A stream, and the mask, the array's dtype and the scale of the last forward pass in training."""

    def __init__(self, rng: Rng | None = None) -> None:
        self._stream: Stream | None = None if rng is None else as_stream(rng)
        self._last: tuple[Mask, np.dtype[Any], float | None] | None = None

    def drop(self, x: npt.ArrayLike, p: float, *, scale: float | None = None) -> Array:
        """Draw a mask for x and apply it; scale is the factor for kept elements, 1/(1-p) by default."""
        x = _kernels.check_array(x, "x")
        mask = draw_mask(x.shape, p, rng=as_stream(self._stream))
        y = mask.apply(x, scale=scale)
        self._last = mask, y.dtype, scale
        return y

    def drop_again(self, dy: npt.ArrayLike) -> Array:
        """Apply the mask of the last forward pass, with its scale."""
        mask, _, scale = self.of_training()
        return mask.apply(dy, scale=scale)

    def of_training(self) -> tuple[Mask, np.dtype[Any], float | None]:
        """Return mask, dtype and scale of the last forward pass in training; RuntimeError if there was none."""
        if self._last is None:
            raise RuntimeError("backward must follow a forward pass in training, and none has been made")
        return self._last

    def scaled_mask(self) -> Array | None:
        """Return a new array, 0 for dropped elements and the scale for kept ones; None before any pass in training."""
        if self._last is None:
            return None
        mask, dtype, scale = self._last
        return mask.scaled(dtype) if scale is None else mask.apply(np.ones(mask.shape, dtype), scale=scale)

    def keep(self) -> npt.NDArray[np.bool_] | None:
        """Return a new array, True for kept elements; None before any forward pass in training."""
        return None if self._last is None else self._last[0].keep()
