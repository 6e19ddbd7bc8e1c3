"""thinc and spaCy: dropout masks from this library.

    import cdropout.thinc
    cdropout.thinc.enable()      # before models are made; disable() undoes it

Needs thinc; `import cdropout` does not import it.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from thinc.api import NumpyOps, get_current_ops, registry, set_current_ops

from cdropout.mask import Mask


class CDropoutOps(NumpyOps):  # type: ignore[misc]
    """The operations of thinc on the CPU, with masks drawn by cdropout.

    Masks follow `numpy.random`'s global state, as thinc's own do, so that `thinc.api.fix_random_seed` repeats them;
    they are other masks than thinc's.
    """

    name = "numpy"

    def get_dropout_mask(self, shape: Any, drop: float | None) -> npt.NDArray[np.float32]:
        """Return a float32 array of the shape: 0 with probability drop, 1/(1-drop) elsewhere.

        Parameters
        ----------
        shape : int or tuple of int
            That of what it will multiply.
        drop : float or None
            The probability of dropping. None and what is not above 0 give ones, what is not below 1 gives zeros.

        """
        if drop is None or drop <= 0:
            return np.ones(shape, np.float32)
        if drop >= 1:
            return np.zeros(shape, np.float32)
        key = int.from_bytes(np.random.bytes(16), "little")  # noqa: NPY002 - what fix_random_seed seeds
        return Mask(key, 0, drop, shape).scaled(np.float32)


def enable() -> None:
    """Make thinc's "numpy" operations these, for models made from now on. Calling it twice does no harm."""
    registry.ops.register("NumpyOps", func=CDropoutOps)
    if type(get_current_ops()) is NumpyOps:
        set_current_ops(CDropoutOps())


def disable() -> None:
    """Give thinc its own operations back, for models made from now on."""
    registry.ops.register("NumpyOps", func=NumpyOps)
    if type(get_current_ops()) is CDropoutOps:
        set_current_ops(NumpyOps())
