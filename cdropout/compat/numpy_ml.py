"""The dropout wrapper of numpy-ml (https://github.com/ddbourgin/numpy-ml).

from cdropout.compat.numpy_ml import Dropout      # instead of numpy_ml.neural_nets.wrappers.Dropout
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from cdropout import _kernels
from cdropout.compat.last_pass import Array, LastPass
from cdropout.stream import Rng


class Dropout:
    """A wrapper that drops elements of a layer's input; it takes attributes that it lacks from the layer.

    The wrapper drops the input without scaling and divides the layer's *output* by 1 - p, including bias and
    activation, as numpy-ml's wrapper does. numpy-ml does not apply the mask to the gradient with respect to the input;
    this wrapper does.

    Parameters
    ----------
    wrapped_layer : object
        A numpy-ml layer or wrapper, with `forward(X)`, `backward(dLdy)`, `trainable`, `hyperparameters` and
        `derived_variables`.
    p : float
        The probability of dropping an element, in [0, 1]. It may be changed at any time.
    rng
        As in `cdropout.dropout`.

    """

    def __init__(self, wrapped_layer: Any, p: float, *, rng: Rng | None = None) -> None:
        self._base_layer = getattr(wrapped_layer, "_base_layer", wrapped_layer)
        self.p = _kernels.check_p(p)
        self._pass = LastPass(rng)

    def __getattr__(self, name: str) -> Any:
        if name == "_base_layer":  # not set yet in a new copy, or while a pickle is loaded
            raise AttributeError(name)
        return getattr(self._base_layer, name)

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The wrapped layer's hyperparameters, with this wrapper added to "wrappers"."""
        inner = dict(self._base_layer.hyperparameters)
        inner["wrappers"] = [*inner.get("wrappers", ()), {"wrapper": "Dropout", "p": self.p}]
        return inner

    @property
    def derived_variables(self) -> dict[str, Any]:
        """The wrapped layer's derived variables, with a new array of the mask (True = kept) added to "wrappers"."""
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
        """Return the layer's output for the dropped X, divided by 1 - p; its output for X if the layer is frozen."""
        if not self._base_layer.trainable:
            return self._base_layer.forward(X, *arguments, **keywords)  # type: ignore[no-any-return]
        p = _kernels.check_p(self.p)
        y = self._base_layer.forward(self._pass.drop(X, p, scale=1.0), *arguments, **keywords)
        return np.multiply(y, y.dtype.type(_kernels.kept_scale(p)))  # type: ignore[no-any-return]

    def backward(self, dLdy: npt.ArrayLike, *arguments: Any, **keywords: Any) -> Any:  # noqa: N803
        """Return the gradient with respect to X; the layer stores those with respect to its parameters."""
        if not self._base_layer.trainable:
            raise RuntimeError("backward must not be called on a frozen layer")
        mask, *_ = self._pass.of_training()
        dy = np.asarray(dLdy)
        scaled = dy * dy.dtype.type(_kernels.kept_scale(mask.p))  # the forward pass's p; self.p may have changed
        return self._pass.drop_again(self._base_layer.backward(scaled, *arguments, **keywords))
