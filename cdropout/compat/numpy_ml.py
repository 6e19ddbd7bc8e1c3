"""The dropout wrapper of numpy-ml (https://github.com/ddbourgin/numpy-ml).

from cdropout.compat.numpy_ml import Dropout      # in the place of numpy_ml.neural_nets.wrappers.Dropout
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from cdropout import _kernels
from cdropout.compat.last_pass import Array, LastPass
from cdropout.stream import Rng


class Dropout:
    """A layer whose inputs are dropped: everything but `forward` and `backward` is the wrapped layer's own.

    As numpy-ml's wrapper does, it drops the input without scaling and divides the layer's *output* by 1 - p, bias and
    activation included. numpy-ml returns the gradient with respect to the input as if nothing had been dropped; here it
    goes through the mask.

    Parameters
    ----------
    wrapped_layer : object
        A numpy-ml layer, or wrapper: `forward(X)`, `backward(dLdy)`, `trainable`, `hyperparameters` and
        `derived_variables`.
    p : float
        The probability of dropping an element, in [0, 1]. May be changed at any time.
    rng
        As in `cdropout.dropout`.

    """

    def __init__(self, wrapped_layer: Any, p: float, *, rng: Rng | None = None) -> None:
        self._base_layer = getattr(wrapped_layer, "_base_layer", wrapped_layer)
        self.p = _kernels.check_p(p)
        self._pass = LastPass(rng)

    def __getattr__(self, name: str) -> Any:
        if name == "_base_layer":  # not there yet, while a copy or a pickle is being made
            raise AttributeError(name)
        return getattr(self._base_layer, name)

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The wrapped layer's, with this wrapper among its "wrappers"."""
        inner = dict(self._base_layer.hyperparameters)
        inner["wrappers"] = [*inner.get("wrappers", ()), {"wrapper": "Dropout", "p": self.p}]
        return inner

    @property
    def derived_variables(self) -> dict[str, Any]:
        """The wrapped layer's, with the mask (True = kept) among its "wrappers", made when it is asked for."""
        inner = dict(self._base_layer.derived_variables)
        inner["wrappers"] = [*inner.get("wrappers", ()), {"dropout_mask": self._pass.keep()}]
        return inner

    def summary(self) -> dict[str, Any]:
        """Return the layer's name, its wrappers, parameters and hyperparameters."""
        hyperparameters = self.hyperparameters
        return {
            "layer": hyperparameters["layer"],
            "layer_wrappers": [wrapper["wrapper"] for wrapper in hyperparameters["wrappers"]],
            "parameters": self._base_layer.parameters,
            "hyperparameters": hyperparameters,
        }

    def forward(self, X: npt.ArrayLike, *arguments: Any, **keywords: Any) -> Array:  # noqa: N803 - the network's name
        """Return the layer's output for the dropped X, divided by 1 - p; its plain output where it is frozen."""
        if not self._base_layer.trainable:
            return self._base_layer.forward(X, *arguments, **keywords)  # type: ignore[no-any-return]
        p = _kernels.check_p(self.p)
        y = self._base_layer.forward(self._pass.drop(X, p, scale=1.0), *arguments, **keywords)
        return np.multiply(y, y.dtype.type(_kernels.kept_scale(p)))  # type: ignore[no-any-return]

    def backward(self, dLdy: npt.ArrayLike, *arguments: Any, **keywords: Any) -> Any:  # noqa: N803
        """Return the gradient with respect to X; the layer collects those of its parameters."""
        if not self._base_layer.trainable:
            raise RuntimeError("backward must not be called on a frozen layer")
        mask, *_ = self._pass.of_training()
        dy = np.asarray(dLdy)
        scaled = dy * dy.dtype.type(_kernels.kept_scale(mask.p))  # of the forward pass, whatever p is now
        return self._pass.drop_again(self._base_layer.backward(scaled, *arguments, **keywords))
