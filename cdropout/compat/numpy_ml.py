"""The dropout wrapper of numpy-ml (https://github.com/ddbourgin/numpy-ml).

from cdropout.compat.numpy_ml import Dropout      # instead of numpy_ml.neural_nets.wrappers.Dropout
"""

from typing import Any, Self

import numpy as np
import numpy.typing as npt

from cdropout import _kernels
from cdropout.compat.last_pass import Array, LastPass, MaskList, NetworkMask, multiply
from cdropout.mask import Mask
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
        The probability of dropping an element, in [0, 1]. It may be changed at any time. numpy-ml's `init_wrappers`
        sets it from its list; numpy-ml's own wrapper keeps p = 1 there.
    rng
        As in `cdropout.dropout`.

    """

    def __init__(self, wrapped_layer: Any, p: float, *, rng: Rng | None = None) -> None:
        self._base_layer = getattr(wrapped_layer, "_base_layer", wrapped_layer)
        self.p = _kernels.check_p(p)
        self._pass = LastPass(rng)
        self._wrapper_derived_variables: dict[str, Any] = {"dropout_mask": MaskList()}

    def __getattr__(self, name: str) -> Any:
        if name == "_base_layer":  # not set yet in a new copy, or while a pickle is loaded
            raise AttributeError(name)
        return getattr(self._base_layer, name)

    @property
    def _wrapper_hyperparameters(self) -> dict[str, Any]:
        return {"wrapper": "Dropout", "p": self.p}

    def _set_wrapper_params(self, pdict: dict[str, Any]) -> Self:
        """Set p from an entry of a list of wrappers, for numpy-ml's `init_wrappers`; return the wrapper."""
        self.p = _kernels.check_p(pdict.get("p", self.p))
        return self

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The wrapped layer's hyperparameters, with this wrapper added to "wrappers"."""
        inner = dict(self._base_layer.hyperparameters)
        inner["wrappers"] = [*inner.get("wrappers", ()), self._wrapper_hyperparameters]
        return inner

    @property
    def derived_variables(self) -> dict[str, Any]:
        """The wrapped layer's derived variables, with {"dropout_mask": masks} added to "wrappers".

        masks is a list of bool arrays (True = kept), one for each forward pass since the gradients were flushed, except
        passes with retain_derived=False. An array is made when it is first read. Other arrays may be put into the list:
        the backward pass multiplies by them, and divides by 1 - p with the wrapper's p.
        """
        inner = dict(self._base_layer.derived_variables)
        inner["wrappers"] = [*inner.get("wrappers", ()), self._wrapper_derived_variables]
        return inner

    def flush_gradients(self) -> None:
        """Erase the layer's gradients and derived variables, and the masks of past forward passes."""
        self._base_layer.flush_gradients()
        self._wrapper_derived_variables["dropout_mask"] = MaskList()
        self._pass.keep(None)

    def update(self, *arguments: Any, **keywords: Any) -> None:
        """Update the layer's parameters, and flush all gradients."""
        self._base_layer.update(*arguments, **keywords)
        self.flush_gradients()

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
        """Return the layer's output for the dropped X, divided by 1 - p; its output for X if the layer is frozen.

        Further arguments are the layer's. After a pass with retain_derived=False, `backward` uses the pass before.
        """
        is_retained = arguments[0] if arguments else keywords.get("retain_derived", True)
        if not self._base_layer.trainable:
            y = self._base_layer.forward(X, *arguments, **keywords)
            if is_retained:
                shape = _kernels.as_array(X, "X").shape
                self._retain(NetworkMask(Mask(0, 0, 0.0, shape), np.dtype(np.bool_), 1.0))
            return y  # type: ignore[no-any-return]
        p = _kernels.check_p(self.p)
        dropped, mask = self._pass.draw(X, p, scale=1.0, dtype=np.bool_)
        y = self._base_layer.forward(dropped, *arguments, **keywords)
        if is_retained:
            self._retain(mask)
        return np.multiply(y, y.dtype.type(_kernels.kept_scale(p)))  # type: ignore[no-any-return]

    def _retain(self, mask: NetworkMask) -> None:
        self._wrapper_derived_variables["dropout_mask"].append(mask)
        self._pass.keep(mask)

    def backward(self, dLdy: Any, *arguments: Any, **keywords: Any) -> Any:  # noqa: N803
        """Return the gradient with respect to X; the layer stores those with respect to its parameters.

        A list of gradients is for several retained forward passes, as in numpy-ml's layers; the result is a list too.
        """
        if not self._base_layer.trainable:
            raise RuntimeError("backward must not be called on a frozen layer")
        mask: Any = self._pass.of_training()
        listed = self._wrapper_derived_variables["dropout_mask"]
        masks = [*(listed._masks if isinstance(listed, MaskList) else listed)]
        for each in masks:
            if not isinstance(each, NetworkMask) and not (isinstance(each, np.ndarray) and each.dtype.kind in "biuf"):
                raise TypeError(f"dropout_mask must hold arrays of bools or numbers, got {each!r}")
        if not isinstance(dLdy, list):
            mask = masks[-1] if masks else mask
            return _through(mask, self._base_layer.backward(self._scaled(dLdy, mask), *arguments, **keywords))
        if len(masks) != len(dLdy):
            raise ValueError(f"dLdy must have a gradient for each of {len(masks)} retained passes, got {len(dLdy)}")
        scaled = [self._scaled(dy, each) for dy, each in zip(dLdy, masks, strict=True)]
        dx = self._base_layer.backward(scaled, *arguments, **keywords)
        if len(masks) == 1 and not isinstance(dx, list):  # numpy-ml returns the only gradient itself
            return _through(masks[0], dx)
        return [_through(each, gradient) for each, gradient in zip(masks, dx, strict=True)]

    def _scaled(self, dy: Any, mask: NetworkMask | Array) -> Array:
        """Return a gradient divided by 1 - p, with the p of the mask if it has one: p may have changed since."""
        array = np.asanyarray(dy)
        p = mask.value.p if isinstance(mask, NetworkMask) else _kernels.check_p(self.p)
        return np.multiply(array, array.dtype.type(_kernels.kept_scale(p)))  # type: ignore[no-any-return]


def _through(mask: NetworkMask | Array, dy: Any) -> Array:
    """Return a gradient through a mask, or times an array that the caller has put in place of the mask."""
    if isinstance(mask, NetworkMask):
        return mask.apply(dy)
    if mask.shape != np.shape(dy):
        raise ValueError(f"dropout_mask must hold arrays of the input's shape {np.shape(dy)}, got {mask.shape}")
    return multiply(dy, mask)
