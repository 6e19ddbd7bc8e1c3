"""Zoneout, for recurrent networks, as a layer."""

from typing import Any

import numpy as np
import numpy.typing as npt

from cdropout import _kernels
from cdropout.checks import shown
from cdropout.layers.base import DropoutLayer


class Zoneout(DropoutLayer):
    """Keep elements of a recurrent network's previous state, each with probability p, instead of the new ones.

    In evaluation the result is the expectation, p previous + (1-p) new.

    Parameters
    ----------
    p, rng, inplace
        As in `Dropout`; in place, `forward` writes into the new state.

    Raises
    ------
    TypeError, ValueError
        For a p or rng other than the above.

    Notes
    -----
    Source: Krueger et al., "Zoneout: regularizing RNNs by randomly preserving hidden activations", ICLR 2017.

    """

    _evaluated: tuple[float, tuple[int, ...]] | None = None  # p and shape of the last pass in evaluation

    def forward(self, new: npt.ArrayLike, previous: npt.ArrayLike) -> npt.NDArray[Any]:
        """Return the state, of new's shape and dtype; errors as in `zoneout`."""
        out = new if self.inplace else None
        if self.training:
            y, self.mask = _kernels.forward_fused("choose", new, None, previous, self._p, self._rng, out)
        else:
            _kernels.check_fused("choose", new, None, previous, self._p, out)
            arrays = _kernels.as_array(new, "new"), _kernels.as_array(previous, "previous")
            result = _kernels.check_out(out, arrays[0])
            _write_expected(*arrays, self._p, result)
            y, self.mask = _kernels.handed_back(result, out, new, previous), None
            self._evaluated = self._p, result.shape
        return y

    def _check_fields(self, fields: dict[str, Any]) -> None:
        super()._check_fields(fields)
        evaluated = fields.get("_evaluated")
        if evaluated is not None:
            if not (isinstance(evaluated, tuple) and len(evaluated) == 2 and isinstance(evaluated[1], tuple)):
                raise TypeError(f"_evaluated of a pickled Zoneout must not be {shown(evaluated)}")
            fields["_evaluated"] = self._checked_p(evaluated[0]), evaluated[1]

    def backward(self, dy: npt.ArrayLike) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return the gradients with respect to new and previous; RuntimeError if there was no forward pass."""
        gradient = _kernels.check_array(dy, "dy")
        if self.mask is not None:
            dprevious = np.where(self.mask.keep(), np.zeros_like(gradient), gradient)
            return self.mask.apply(dy, scale=1.0), _kernels.handed_back(dprevious, None, dy)
        self._check_not_training()
        if self._evaluated is None:
            raise RuntimeError("backward must follow a forward pass, and none has been made")
        p, shape = self._evaluated
        if gradient.shape != shape:
            raise ValueError(f"dy must have the output's shape {shape}, got {gradient.shape}")
        parts = (np.asarray(gradient * gradient.dtype.type(factor)) for factor in (1 - p, p))
        dnew, dprevious = (_kernels.handed_back(part, None, dy) for part in parts)
        return dnew, dprevious


def _write_expected(new: npt.NDArray[Any], previous: npt.NDArray[Any], p: float, result: npt.NDArray[Any]) -> None:
    """Write p previous + (1-p) new, in their dtype; at p = 0 and p = 1 one of them, even if the other holds NaN."""
    if p in (0.0, 1.0):
        np.copyto(result, previous if p else new)
    else:
        np.add(new.dtype.type(1 - p) * new, new.dtype.type(p) * previous, out=result)
