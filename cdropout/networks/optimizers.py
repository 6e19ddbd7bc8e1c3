"""Optimizers that update parameters in place, in one pass over memory."""

import math
from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt

from cdropout import _kernels

Array = npt.NDArray[Any]


def _check_arrays(params: Collection[Array], grads: Collection[Array]) -> None:
    """Raise TypeError or ValueError unless each parameter can be updated by its gradient."""
    for name, arrays in (("params", params), ("grads", grads)):
        # An array is a sequence of its rows, whose biases and weights could not be told apart.
        if isinstance(arrays, np.ndarray) or not isinstance(arrays, Collection):
            raise TypeError(f"{name} must be a list of arrays, got {type(arrays).__name__}")
        for array in arrays:
            if not isinstance(array, np.ndarray):
                raise TypeError(f"{name} must be a list of arrays, got {type(array).__name__} in it")
    if len(params) == 0:
        raise ValueError("params must be one or more arrays, got none")
    if len(params) != len(grads):
        raise ValueError(f"grads must have one array for each of {len(params)} params, got {len(grads)}")
    for param, grad in zip(params, grads, strict=True):
        _kernels.check_updated(param, grad)


def _finite_numbers(optimizer: Any, *names: str) -> list[float]:
    """Return these attributes as floats; TypeError or ValueError for one that is no finite number, or below 0."""
    numbers = []
    for name in names:
        number = _kernels.check_finite(getattr(optimizer, name), name)
        if number < 0 and name in ("lr", "l2", "eps"):
            raise ValueError(f"{name} must be at least 0, got {number}")
        numbers.append(number)
    return numbers


class Adam:
    """Update parameters by Adam (Kingma and Ba 2015, algorithm 1), with an optional L2 penalty.

    Parameters
    ----------
    params, grads : list of ndarray
        The parameters, updated in place, and their gradients, read at every step: C-contiguous arrays of float32 or
        float64 in native byte order. A gradient has the shape and dtype of its parameter.
    lr : float
        The step size, at least 0.
    l2 : float
        The factor of the penalty, at least 0: l2 * weight is added to the gradient of each weight, which is a parameter
        of two or more dimensions. Biases, of one dimension, are not decayed.
    beta1, beta2 : float
        The decay of the two sums, in [0, 1).
    eps : float
        Added to the root, as in the paper; at least 0.

    Attributes
    ----------
    n_steps : int
        The steps made.
    first_sums, second_sums : list of ndarray
        The decayed sums of the gradients and of their squares: the paper's moments, divided by 1-beta1 and 1-beta2.

    Raises
    ------
    TypeError, ValueError
        For arrays other than the above; by `step`, for numbers that are not finite or out of range, before anything is
        updated.

    """

    def __init__(
        self,
        params: Collection[Array],
        grads: Collection[Array],
        *,
        lr: float = 1e-3,
        l2: float = 0.0,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
    ) -> None:
        self.lr, self.l2 = lr, l2
        self.beta1, self.beta2, self.eps = beta1, beta2, eps
        self.n_steps = 0
        _check_arrays(params, grads)
        self.first_sums = [np.zeros_like(param) for param in params]
        self.second_sums = [np.zeros_like(param) for param in params]
        self._rows = list(zip(params, grads, self.first_sums, self.second_sums, strict=True))

    def step(self) -> None:
        """Update the parameters by their gradients, which stay as they are."""
        lr, l2, beta1, beta2, eps = _finite_numbers(self, "lr", "l2", "beta1", "beta2", "eps")
        for name, decay in (("beta1", beta1), ("beta2", beta2)):
            if not 0 <= decay < 1:
                raise ValueError(f"{name} must be in [0, 1), got {decay}")
        self.n_steps += 1
        # The factors of the paper's moments and bias corrections are the same for all elements, so they go into the
        # step size and eps.
        root = math.sqrt((1 - beta2) / (1 - beta2**self.n_steps))
        step_size = lr * (1 - beta1) / (1 - beta1**self.n_steps) / root
        for param, grad, first_sum, second_sum in self._rows:
            _kernels.step_adam(
                param,
                grad,
                first_sum,
                second_sum,
                decay_first=beta1,
                add_first=1.0,
                decay_second=beta2,
                add_second=1.0,
                eps=eps / root,
                factor=-step_size,
                l2=l2 if param.ndim > 1 else 0.0,
            )


class SGD:
    """Update parameters by gradient descent with momentum: ``v = momentum * v - lr * g``, then ``param += v``.

    Parameters
    ----------
    params, grads : list of ndarray
        As in `Adam`.
    lr, l2 : float
        As in `Adam`.
    momentum : float
        In [0, 1].
    nesterov : bool
        Whether to add ``momentum * v - lr * g`` with the new v instead of v (Nesterov's momentum).

    Attributes
    ----------
    n_steps : int
        The steps made.
    velocities : list of ndarray
        The v of each parameter.

    Raises
    ------
    TypeError, ValueError
        For arrays other than the above; by `step`, for numbers that are not finite or out of range, before anything is
        updated.

    """

    def __init__(
        self,
        params: Collection[Array],
        grads: Collection[Array],
        *,
        lr: float = 1e-3,
        l2: float = 0.0,
        momentum: float = 0.9,
        nesterov: bool = True,
    ) -> None:
        self.lr, self.l2, self.momentum, self.nesterov = lr, l2, momentum, nesterov
        self.n_steps = 0
        _check_arrays(params, grads)
        self.velocities = [np.zeros_like(param) for param in params]
        self._rows = list(zip(params, grads, self.velocities, strict=True))

    def step(self) -> None:
        """Update the parameters by their gradients, which stay as they are."""
        lr, l2, momentum = _finite_numbers(self, "lr", "l2", "momentum")
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum must be in [0, 1], got {momentum}")
        self.n_steps += 1
        for param, grad, velocity in self._rows:
            _kernels.step_momentum(
                param,
                grad,
                velocity,
                momentum=momentum,
                add=-lr,
                factor=momentum if self.nesterov else 1.0,
                l2=l2 if param.ndim > 1 else 0.0,
                is_nesterov=self.nesterov,
            )
