"""Masks: `Mask`, the value (a class of src/mask.pxi), and the functions that draw one."""

from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def drawing(
    shape: tuple[int, ...],
    p: float,
    rng: Rng | None,
    shared_axes: int | tuple[int, ...] = (),
    *,
    arrays: tuple[tuple[str, Any], ...] = (),
) -> Iterator[Mask]:
    """Draw a mask for a `with` block; if the block fails, move the stream back to where it was.

    It fails for lack of memory, with a floating-point error that `np.errstate(all="raise")` or `python -W error` makes
    of a warning, or if the class of an argument refuses the result. arrays are at most four pairs of a name and a
    checked array; ValueError, before the draw, if reading rng changes one of them.

    The stream is not moved back if another thread has drawn from it meanwhile or if rng is a NumPy generator, because
    draws of other code cannot be undone.
    """
    stream = _kernels.stream_for(rng, *arrays)
    mask = draw_mask(shape, p, rng=stream, shared_axes=shared_axes)
    try:
        yield mask
    except Exception:
        stream._take_back(mask)
        raise
