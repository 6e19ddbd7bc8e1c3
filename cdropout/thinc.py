"""Dropout masks from this library for thinc and spaCy.

    import cdropout.thinc
    cdropout.thinc.enable()      # before models are created; disable() undoes it

Needs thinc; `import cdropout` does not import it.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from thinc.api import NumpyOps, get_current_ops, registry, set_current_ops

from cdropout import _kernels
from cdropout.mask import Mask


class CDropoutOps(NumpyOps):  # type: ignore[misc]
    """thinc's operations on the CPU, with masks drawn by cdropout.

    Masks follow `numpy.random`'s global state, as thinc's do, so `thinc.api.fix_random_seed` repeats them. They differ
    from thinc's masks.
    """

    name = "numpy"

    def get_dropout_mask(self, shape: Any, drop: float | None) -> npt.NDArray[np.float32]:
        """Return a float32 array of the shape: 0 with probability drop, 1/(1-drop) elsewhere.

        Parameters
        ----------
        shape : int or tuple of int
            Shape of the array that the mask will multiply.
        drop : float or None
            The probability of dropping. None, 0 and lower give ones; 1 and higher give zeros.

        """
        if drop is None or drop <= 0:
            return np.ones(shape, np.float32)
        if drop >= 1:
            return np.zeros(shape, np.float32)
        p = _kernels.check_p(drop)
        np.empty(shape, np.float32)  # if there is no memory for the mask, the generator does not advance
        key = int.from_bytes(np.random.bytes(16), "little")  # noqa: NPY002 - the generator that fix_random_seed seeds
        return Mask(key, 0, p, shape).scaled(np.float32)


# thinc 9.1's tests compare the annotations of all operations as text, so they are those of the installed thinc.
CDropoutOps.get_dropout_mask.__annotations__ = dict(NumpyOps.get_dropout_mask.__annotations__)


def enable() -> None:
    """Make thinc use these "numpy" operations, for models created from now on; a second call changes nothing."""
    registry.ops.register("NumpyOps", func=CDropoutOps)
    if type(get_current_ops()) is NumpyOps:
        set_current_ops(CDropoutOps())


def disable() -> None:
    """Restore thinc's "numpy" operations, for models created from now on."""
    registry.ops.register("NumpyOps", func=NumpyOps)
    if type(get_current_ops()) is CDropoutOps:
        set_current_ops(NumpyOps())
