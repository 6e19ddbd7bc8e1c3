"""What is dropped: the mask as a value."""

from types import EllipsisType
from typing import Any, NoReturn, TypeAlias

import numpy.typing as npt

from cdropout import _kernels
from cdropout.value import Value

# What a mask takes between brackets.
Index: TypeAlias = "slice | EllipsisType | tuple[slice | EllipsisType, ...]"


class Mask(Value, _kernels.MaskCore):
    """Which elements of an array are dropped: an immutable value without a buffer.

    A mask holds the key and the position it was drawn at, p, and a shape. Its bits are a function of these and are made
    anew, in registers, each time it is applied: forward and backward, in another thread, process or machine, the same.
    `draw_mask` makes masks; two are equal where all their fields are. `apply`, `keep` and `scaled` use them.

    Parameters
    ----------
    key : int
        The 128 bits of `Stream.key`.
    start : int
        The stream's position of the first element.
    p : float
        The probability of dropping an element, in [0, 1].
    shape : int or tuple of int
        The shape of the arrays that the mask applies to.
    shared_axes : int or tuple of int
        Axes along which all elements share one decision.
    strides : tuple of int, optional
        How many positions neighbours along each axis are apart, 0 along shared axes; unless given, the elements take
        one run of positions, in C order. Slicing sets them.

    Raises
    ------
    TypeError, ValueError
        For an argument of another type, or out of its range.

    """

    __slots__ = ()
    PICKLE_VERSION = 2

    def __getitem__(self, index: Index) -> "Mask":
        """Return the mask of a part of the array: `mask[index].apply(a[index])` is `mask.apply(a)[index]`, bit for bit.

        Parameters
        ----------
        index : slice, or tuple of slices
            One for each axis, from the first one on; `...` stands for all axes that are not named. Steps are positive:
            `mask[rank::n_ranks]` is the mask of rows dealt out in turn.

        Returns
        -------
        Mask
            Of the part's shape, with as many dimensions as this one.

        Raises
        ------
        TypeError, IndexError, ValueError
            For an index of another kind, for too many slices, and for a step below 1.

        """
        start, lengths, strides = self.start, [], []
        for length, stride, part in zip(self.shape, self.strides, self._slices(index), strict=True):
            low, high, step = part.indices(length)
            if step < 1:
                raise ValueError(f"a mask's slice must have a step of 1 or more, got {part!r}")
            if 0 not in self.shape:
                start += low * stride
            lengths.append(len(range(low, high, step)))
            strides.append(step * stride)
        return Mask(self.key, start, self.p, tuple(lengths), self.shared_axes, tuple(strides))

    def _slices(self, index: Index) -> list[slice]:
        """Return an index as one slice for each axis."""
        parts = index if isinstance(index, tuple) else (index,)
        slices: list[slice] = []
        for part in parts:
            if isinstance(part, slice):
                slices.append(part)
            elif part is not ...:
                raise TypeError(f"a mask's index must be a slice, or a slice for each axis, got {index!r}")
        n_whole = len(self.shape) - len(slices)
        if n_whole < 0:
            raise IndexError(f"a mask of shape {self.shape} has {len(self.shape)} axes to slice, got {index!r}")
        if len(parts) > len(slices) + 1:
            raise IndexError(f"a mask's index must have at most one ..., got {index!r}")
        at = parts.index(...) if ... in parts else len(parts)
        return [*slices[:at], *[slice(None)] * n_whole, *slices[at:]]

    # Without these NumPy would take a mask for a sequence.
    __array_ufunc__ = None

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> NoReturn:
        raise TypeError("a mask is no array: mask.apply(x) applies it, mask.keep() and mask.scaled() make one")

    def __mul__(self, other: object) -> NoReturn:
        raise TypeError("a mask is applied by mask.apply(x), not by *; mask.keep() and mask.scaled() make an array")

    __rmul__ = __mul__

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("a mask of shape () has no length")
        return self.shape[0]

    def _fields(self) -> tuple[Any, ...]:
        strides = None if self.is_run else self.strides
        return self.key, self.start, self.p, self.shape, self.shared_axes, strides

    def __repr__(self) -> str:
        shared = f", shared_axes={self.shared_axes}" if self.shared_axes else ""
        strides = "" if self.is_run else f", strides={self.strides}"
        return f"Mask(key={self.key:#034x}, start={self.start}, p={self.p}, shape={self.shape}{shared}{strides})"

    def _repr_html_(self) -> str:
        from cdropout.display import mask_html

        return mask_html(self)

    def plot(self, ax: Any = None, *, limit: int = 256) -> Any:
        """Draw what is kept and what is dropped, with matplotlib.

        One dimension is a row; of more than two, slices along the last two axes stand side by side, 16 at most.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where to draw; a new figure's unless given.
        limit : int
            At most so many elements are drawn along each side of the picture, from the first on, and the title says
            how many. Only these are made, whatever the mask's size.

        Returns
        -------
        matplotlib.axes.Axes
            ax, or the new one.

        Raises
        ------
        ImportError
            Without matplotlib, which the extra "plot" brings.
        TypeError, ValueError
            For a limit that is no integer of at least 1.

        """
        from cdropout.display import plot_mask

        return plot_mask(self, ax, limit)
