"""What is dropped: the mask as a value."""

from typing import Any

from cdropout import _kernels
from cdropout.value import Value


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

    Raises
    ------
    TypeError, ValueError
        For an argument of another type, or out of its range.

    """

    __slots__ = ()
    PICKLE_VERSION = 1

    def __getitem__(self, rows: slice) -> "Mask":
        """Return the mask of a shard: `mask[lo:hi].apply(a[lo:hi])` is `mask.apply(a)[lo:hi]`, bit for bit."""
        if not isinstance(rows, slice):
            raise TypeError(f"a mask's index must be a slice of its first axis, got {rows!r}")
        if not self.shape:
            raise IndexError("a mask of shape () has no first axis to slice")
        low, high, stride = rows.indices(self.shape[0])
        if stride != 1:
            raise ValueError(f"a mask's slice must have step 1, got {rows!r}")
        inner = self.shape[1:]
        start = self.start
        if 0 not in self.shape and 0 not in self.shared_axes:
            per_row = 1
            for axis, length in enumerate(inner, start=1):
                per_row *= 1 if axis in self.shared_axes else length
            start += low * per_row
        return Mask(self.key, start, self.p, (max(high - low, 0), *inner), self.shared_axes)

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("a mask of shape () has no length")
        return self.shape[0]

    def _fields(self) -> tuple[int, int, float, tuple[int, ...], tuple[int, ...]]:
        return self.key, self.start, self.p, self.shape, self.shared_axes

    def __repr__(self) -> str:
        shared = f", shared_axes={self.shared_axes}" if self.shared_axes else ""
        return f"Mask(key={self.key:#034x}, start={self.start}, p={self.p}, shape={self.shape}{shared})"

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
