"""Normal noise as a value, as a mask is one."""

from typing import Any

from cdropout import _kernels
from cdropout.value import Value


class Noise(Value, _kernels.NoiseCore):
    """Normal numbers of one shape: an immutable value without a buffer.

    They are a function of key, position and shape, and are made anew, in registers, each time the noise is applied: the
    same bits in the forward and the backward pass, for every number of threads, instruction set and machine.
    `draw_noise` makes noise; `multiply` and `add` apply it.

    Parameters
    ----------
    key : int
        The 128 bits of `Stream.key`.
    start : int
        The stream's position of the first number.
    std : float
        The standard deviation, in [0, 1e37].
    shape : int or tuple of int
        The shape of the arrays that the noise applies to.

    Raises
    ------
    TypeError, ValueError
        For an argument of another type, or out of its range.

    Notes
    -----
    By the transform of Box and Muller, "A note on the generation of random normal deviates", Ann. Math. Stat. 29(2),
    1958, in float32: no number is further than 6.7 standard deviations from 0 (the chance of one that would be is
    3e-11). docs/design.md specifies them.

    """

    __slots__ = ()
    PICKLE_VERSION = 1

    def _fields(self) -> tuple[Any, ...]:
        return self.key, self.start, self.std, self.shape

    def __repr__(self) -> str:
        return f"Noise(key={self.key:#034x}, start={self.start}, std={self.std}, shape={self.shape})"

    def _repr_html_(self) -> str:
        from cdropout.display import noise_html

        return noise_html(self)
