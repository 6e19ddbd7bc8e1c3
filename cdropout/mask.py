"""Masks: `Mask`, the value (a class of src/mask.pxi), and the functions that draw one."""

from types import TracebackType
from typing import Any

from cdropout import _kernels
from cdropout._kernels import Mask
from cdropout.stream import Rng

__all__ = ["Mask", "draw_mask", "drawing"]


def draw_mask(
    shape: int | tuple[int, ...],
    p: float,
    *,
    rng: Rng | None = None,
    shared_axes: int | tuple[int, ...] = (),
) -> Mask:
    """Draw a mask: the decisions of one dropout, which can be applied any number of times.

    Parameters
    ----------
    shape : int or tuple of int
        The shape of the arrays that the mask applies to.
    p, rng, shared_axes
        As in `dropout`, which drops the same elements for the same rng.

    Returns
    -------
    Mask
        A small immutable value; no array is allocated.

    Raises
    ------
    TypeError, ValueError, OverflowError
        As in `dropout`, before rng advances.

    """
    return _kernels.draw_mask(shape, p, rng, shared_axes)


# Exceptions of a failed computation by NumPy: without memory (some functions of NumPy's then raise SystemError), or
# where `np.errstate(all="raise")` or `python -W error` makes an error of a floating-point warning.
FAILURES = (MemoryError, SystemError, FloatingPointError, Warning)


class drawing:  # noqa: N801 - a context manager, called like a function
    """Draw a mask for a `with` block; if the block fails, move the stream back to where it was.

    It fails for lack of memory, with a floating-point error that `np.errstate(all="raise")` or `python -W error` makes
    of a warning, or if the class of an argument refuses the result. arrays are at most four pairs of a name and a
    checked array; ValueError, before the draw, if reading rng changes one of them.

    The stream is not moved back if another thread has drawn from it meanwhile or if rng is a NumPy generator, because
    draws of other code cannot be undone.
    """

    __slots__ = ("arguments", "mask", "stream")

    def __init__(
        self,
        shape: tuple[int, ...],
        p: float,
        rng: Rng | None,
        shared_axes: int | tuple[int, ...] = (),
        *,
        arrays: tuple[tuple[str, Any], ...] = (),
    ) -> None:
        self.arguments = shape, p, shared_axes
        self.stream = _kernels.stream_for(rng, *arrays)

    def __enter__(self) -> Mask:
        shape, p, shared_axes = self.arguments
        self.mask = draw_mask(shape, p, rng=self.stream, shared_axes=shared_axes)
        return self.mask

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None and issubclass(kind, Exception):
            self.stream._take_back(self.mask)
