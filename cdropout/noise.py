"""Normal noise: `Noise`, the value (a class of src/noise.pxi), and the function that draws it."""

from cdropout import _kernels
from cdropout._kernels import Noise
from cdropout.stream import Rng

__all__ = ["Noise", "draw_noise"]


def draw_noise(shape: int | tuple[int, ...], std: float, *, rng: Rng | None = None) -> Noise:
    """Draw normal noise of mean 0, which can be applied any number of times.

    Parameters
    ----------
    shape : int or tuple of int
        The shape of the arrays that the noise applies to.
    std : float
        The standard deviation, in [0, 1e37]; noise is float32.
    rng
        As in `dropout`.

    Returns
    -------
    Noise
        A small immutable value; no array is allocated.

    Raises
    ------
    TypeError, ValueError, OverflowError
        As in `dropout`, before rng advances.

    """
    return _kernels.draw_noise(shape, std, rng)
