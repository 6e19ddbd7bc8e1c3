"""Optimizers that step on kept rows and columns only: `SGD` and `Adam`."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cdropout import _kernels
from cdropout.compact.kept import KeepWords, scatter_kept
from cdropout.compact.linear import KeptGrad

__all__ = ["SGD", "Adam"]

Array = npt.NDArray[Any]


class _Optimizer:
    """The parameters of layers, and the moving averages of each."""

    # Number of moving averages of each parameter.
    _n_averages = 0

    def __init__(self, layers: Any, lr: float, lazy: bool) -> None:
        listed = list(layers) if isinstance(layers, Sequence) else [layers]
        if not listed:
            raise ValueError("layers must be one or more layers, got none")
        for layer in listed:
            if not (hasattr(layer, "params") and hasattr(layer, "grads")):
                raise TypeError(f"layers must have params and grads, got {type(layer).__name__}")
        self.layers, self.lazy = listed, bool(lazy)
        self.lr = lr
        self._averages = [
            [tuple(np.zeros_like(_matrix(param)) for _ in range(self._n_averages)) for param in layer.params]
            for layer in listed
        ]

    @property
    def lr(self) -> float:
        """The learning rate, a finite number of at least 0."""
        return self._lr

    @lr.setter
    def lr(self, lr: float) -> None:
        self._lr = _check_range("lr", lr, 0.0, np.inf)

    def step(self) -> None:
        """Change the parameters by the gradients of the last backward pass."""
        for update in self._updates():
            self._update(*update)

    def _updates(self) -> list[tuple[Array, KeptGrad, tuple[Array, ...]]]:
        """Return the arguments of `_update` for each parameter, whose errors come before any parameter is changed."""
        updates = []
        for layer, averages in zip(self.layers, self._averages, strict=True):
            kept = getattr(layer, "kept_grads", None)
            grads = kept or [KeptGrad(None, None, _matrix(grad), 1.0) for grad in layer.grads]
            if len(grads) != len(layer.params):
                raise ValueError(f"grads must have one array for each of {len(layer.params)} params, got {len(grads)}")
            for given, grad, own in zip(layer.params, grads, averages, strict=True):
                param, values = _matrix(given), np.require(grad.values, requirements="C")
                if grad.rows is None and grad.columns is None:
                    _kernels.check_updated(param, values)
                updates.append((param, grad._replace(values=values), own))
        return updates

    def _update(self, param: Array, grad: KeptGrad, averages: tuple[Array, ...]) -> None:
        """Update a parameter and its averages, where the step is not lazy also those of dropped rows and columns."""
        rows, columns, values, scale = grad
        if rows is None and columns is None:
            self._move(param, values, scale, averages, None)
        elif self.lazy:
            self._move(param, values, scale, averages, (_words(rows), _words(columns), 1.0, True))
        else:
            self._move(param, values, 1.0, averages, (_words(rows), _words(columns), scale, False))

    def _move(self, param: Array, values: Array, scale: float, averages: tuple[Array, ...], kept: Any) -> None:
        """Make a step of the gradient values * scale, all of it or, if kept is not None, kept rows and columns."""
        raise NotImplementedError


class SGD(_Optimizer):
    """Stochastic gradient descent: ``v = momentum * v + g``, ``param -= lr * v``.

    Parameters
    ----------
    layers : a layer or network, or a sequence of them
        Objects with `params` and `grads`; where there are `kept_grads`, as in `CompactLinear`, these are used.
    lr : float
        The learning rate, at least 0.
    momentum : float
        In [0, 1).
    lazy : bool
        Whether a step leaves dropped rows and columns, and their v, as they are. Without momentum there is no
        difference: the gradients there are 0. With momentum, the usual step also moves dropped weights along their v;
        the lazy one takes less time, moves a weight only in steps that keep it, and its v decays only in these. Both
        have the same fixed points, where the mean gradient is 0.

    Raises
    ------
    TypeError, ValueError
        For an argument other than the above.

    """

    def __init__(self, layers: Any, lr: float, momentum: float = 0.0, *, lazy: bool = False) -> None:
        self.momentum = _check_range("momentum", momentum, 0.0, 1.0)
        self._n_averages = 0 if self.momentum == 0 else 1
        super().__init__(layers, lr, lazy)

    def _updates(self) -> list[tuple[Array, KeptGrad, tuple[Array, ...]]]:
        _check_range("momentum", self.momentum, 0.0, 1.0)
        if self.momentum != 0 and self._n_averages == 0:
            raise ValueError(f"momentum must stay 0 in an SGD that was made with 0, got {self.momentum}")
        return super()._updates()

    def _update(self, param: Array, grad: KeptGrad, averages: tuple[Array, ...]) -> None:
        if averages:
            super()._update(param, grad, averages)
        else:
            scatter_kept(grad.values, grad.rows, grad.columns, out=param, rest="add", scale=-self._lr * grad.scale)

    def _move(self, param: Array, values: Array, scale: float, averages: tuple[Array, ...], kept: Any) -> None:
        _kernels.step_momentum(param, values, *averages, momentum=self.momentum, add=scale, factor=-self._lr, kept=kept)


class Adam(_Optimizer):
    """Adam: steps of the mean gradient over the root of the mean squared gradient, both moving averages.

    Parameters
    ----------
    layers
        As in `SGD`.
    lr : float
        The learning rate, at least 0.
    beta1, beta2 : float
        Decay of the two averages, in [0, 1).
    eps : float
        Added to the root; greater than 0.
    lazy : bool
        Whether a step leaves dropped rows and columns, and their averages, as they are. Without it, averages of dropped
        weights decay towards 0 and the weights move on, as in full products. The lazy averages are over the steps that
        kept a weight, so that their squares are 1/q times larger where a fraction q of the steps keeps it, and a
        weight moves in this fraction of the steps only. Both have the same fixed points. The correction for
        the first steps counts all steps in both.

    Raises
    ------
    TypeError, ValueError
        For an argument other than the above.

    Notes
    -----
    Source: Kingma & Ba, "Adam: a method for stochastic optimization", ICLR 2015.

    """

    _n_averages = 2

    def __init__(
        self,
        layers: Any,
        lr: float = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        *,
        lazy: bool = False,
    ) -> None:
        self.beta1 = _check_range("beta1", beta1, 0.0, 1.0)
        self.beta2 = _check_range("beta2", beta2, 0.0, 1.0)
        self.eps = _check_range("eps", eps, np.nextafter(0, 1), np.inf)
        self.n_steps = 0
        super().__init__(layers, lr, lazy)

    def step(self) -> None:
        """Change the parameters by the gradients of the last backward pass."""
        for name, decay in (("beta1", self.beta1), ("beta2", self.beta2)):
            _check_range(name, decay, 0.0, 1.0)
        updates = self._updates()
        self.n_steps += 1
        for update in updates:
            self._update(*update)

    def _move(self, param: Array, values: Array, scale: float, averages: tuple[Array, ...], kept: Any) -> None:
        # lr / (1 - beta1^t) * mean / (sqrt(square / (1 - beta2^t)) + eps), with the second root taken out.
        root = (1 - self.beta2**self.n_steps) ** 0.5
        _kernels.step_adam(
            param,
            values,
            *averages,
            decay_first=self.beta1,
            add_first=(1 - self.beta1) * scale,
            decay_second=self.beta2,
            add_second=(1 - self.beta2) * scale**2,
            eps=self.eps * root,
            factor=-self._lr * root / (1 - self.beta1**self.n_steps),
            kept=kept,
        )


def _matrix(a: Array) -> Array:
    """Return a view of a parameter as a matrix: a bias has one row."""
    if not (isinstance(a, np.ndarray) and a.flags.c_contiguous and a.dtype in (np.float32, np.float64)):
        raise TypeError("params and grads must be C-contiguous arrays of float32 or float64")
    return a.reshape(1, -1) if a.ndim < 2 else a.reshape(a.shape[0], math.prod(a.shape[1:]))


def _words(kept: KeepWords | None) -> Array | None:
    return None if kept is None else kept.words


def _check_range(name: str, number: float, least: float, limit: float) -> float:
    """Return a finite number in [least, limit); ValueError for another."""
    value = _kernels.check_finite(number, name)
    if not least <= value < limit:
        raise ValueError(f"{name} must be in [{least:g}, {limit:g}), got {number}")
    return value
