"""Optimizers that update parameters in place, in blocks that stay in the cache."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

# A block of parameters with its gradient and sums stays in the second-level cache through all operations of a step:
# 2.9 ms rather than 4.3 ms for the 670,000 parameters of 784-512-512-10 in float32.
BLOCK_ELEMS = 32768


def _blocks(params: Sequence[Array], *others: Sequence[Array]) -> list[tuple[bool, list[Array]]]:
    """Return blocks of each parameter and of the arrays that belong to it, and whether the parameter is a weight."""
    rows = list(zip(params, *others, strict=True))
    if not all(array.flags.c_contiguous for row in rows for array in row):
        raise ValueError("params and grads must be C-contiguous, got another layout")
    return [
        (row[0].ndim > 1, [array.reshape(-1)[start : start + BLOCK_ELEMS] for array in row])
        for row in rows
        for start in range(0, row[0].size, BLOCK_ELEMS)
    ]


def _add_penalty(grad: Array, param: Array, l2: float, scratch: Array) -> None:
    """Add the gradient of the L2 penalty to that of a weight; scratch has the weight's size."""
    np.multiply(param, l2, out=scratch)
    grad += scratch


def _scratch(params: Sequence[Array]) -> dict[Any, Array]:
    return {param.dtype: np.empty(BLOCK_ELEMS, param.dtype) for param in params}


class Adam:
    """Update parameters by Adam (Kingma and Ba 2015, algorithm 1), with an optional L2 penalty.

    Parameters
    ----------
    params, grads : list of ndarray
        The parameters, updated in place, and their gradients, read at every step; C-contiguous.
    lr : float
        The step size.
    l2 : float
        l2 * weight is added to the gradient of each weight: of params of two or more dimensions. Biases, of one
        dimension, are not decayed.
    beta1, beta2, eps : float
        As in the paper.

    Attributes
    ----------
    n_steps : int
        The steps made.
    first_sums, second_sums : list of ndarray
        The decayed sums of the gradients and of their squares: the paper's moments, divided by 1-beta1 and 1-beta2.

    Raises
    ------
    ValueError
        For an array that is not C-contiguous.

    """

    def __init__(
        self,
        params: list[Array],
        grads: list[Array],
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
        self.first_sums = [np.zeros_like(param) for param in params]
        self.second_sums = [np.zeros_like(param) for param in params]
        self._blocks = _blocks(params, grads, self.first_sums, self.second_sums)
        self._scratch = _scratch(params)

    def step(self) -> None:
        """Update the parameters by their gradients; with `l2`, the gradients of weights gain the penalty's."""
        self.n_steps += 1
        # The factors of the paper's moments and bias corrections are the same for all elements, so they go into the
        # step size and eps. That, and working in place, matters: a slow optimizer makes dropout's share look small.
        root = math.sqrt((1 - self.beta2) / (1 - self.beta2**self.n_steps))
        step_size = self.lr * (1 - self.beta1) / (1 - self.beta1**self.n_steps) / root
        eps = self.eps / root
        for is_weight, (param, grad, first_sum, second_sum) in self._blocks:
            scratch = self._scratch[param.dtype][: param.size]
            if self.l2 and is_weight:
                _add_penalty(grad, param, self.l2, scratch)
            first_sum *= self.beta1
            first_sum += grad
            np.multiply(grad, grad, out=scratch)
            second_sum *= self.beta2
            second_sum += scratch
            np.sqrt(second_sum, out=scratch)
            scratch += eps
            np.divide(first_sum, scratch, out=scratch)
            scratch *= step_size
            param -= scratch


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
    ValueError
        For an array that is not C-contiguous.

    """

    def __init__(
        self,
        params: list[Array],
        grads: list[Array],
        *,
        lr: float = 1e-3,
        l2: float = 0.0,
        momentum: float = 0.9,
        nesterov: bool = True,
    ) -> None:
        self.lr, self.l2, self.momentum, self.nesterov = lr, l2, momentum, nesterov
        self.n_steps = 0
        self.velocities = [np.zeros_like(param) for param in params]
        self._blocks = _blocks(params, grads, self.velocities)
        self._scratch = _scratch(params)

    def step(self) -> None:
        """Update the parameters by their gradients, which are overwritten."""
        self.n_steps += 1
        for is_weight, (param, grad, velocity) in self._blocks:
            if self.l2 and is_weight:
                _add_penalty(grad, param, self.l2, self._scratch[param.dtype][: param.size])
            grad *= -self.lr
            velocity *= self.momentum
            velocity += grad
            if self.nesterov:
                param += grad
                np.multiply(velocity, self.momentum, out=grad)
                param += grad
            else:
                param += velocity
