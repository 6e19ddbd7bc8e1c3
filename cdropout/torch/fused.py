"""Dropout fused with a bias, ReLU or a residual: the forward pass reads and writes memory once.

Each call that drops draws two 64-bit numbers from PyTorch's generator, as `dropout` does, and drops the same elements.
Operands of different dtypes, autocast, `torch.compile`, and tensors that are not plain CPU tensors take the separate
steps, with the same masks where `dropout` has them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import functional

from cdropout import _kernels
from cdropout.mask import Mask
from cdropout.torch import operators
from cdropout.torch.arguments import check_probability, check_tensor, is_fusable, sizes_of
from cdropout.torch.functions import dropout
from cdropout.torch.layers import DropoutLeaf
from cdropout.torch.tensors import (
    ApplyMask,
    as_array,
    draw_mask,
    factor_of,
    is_ours,
    is_plain,
    is_recorded,
    is_transformed,
)


def relu_dropout(
    input: Tensor,  # noqa: A002
    p: float = 0.5,
    training: bool = True,
    *,
    generator: Generator | None = None,
) -> Tensor:
    """Drop elements of relu(input), in one pass over memory.

    Parameters
    ----------
    input : Tensor
        Of any shape and strides.
    p, training, generator
        As in `dropout`.

    Returns
    -------
    Tensor
        `dropout(relu(input), p)` for the same seed, and relu(input) in evaluation; the 16-bit types are rounded once.

    Raises
    ------
    TypeError, ValueError
        For an input, p or generator other than the above.

    Notes
    -----
    The backward pass needs only the output, which is positive exactly where an element was kept and active.

    """
    return _relu_dropout(input, None, p, training, generator)


def bias_relu_dropout(
    input: Tensor,  # noqa: A002
    bias: Tensor,
    p: float = 0.5,
    training: bool = True,
    *,
    generator: Generator | None = None,
) -> Tensor:
    """Drop elements of relu(input + bias), in one pass over memory, for the output of a matrix product.

    Parameters
    ----------
    input : Tensor
        Of shape (..., features).
    bias : Tensor
        Of shape (features,).
    p, training, generator
        As in `dropout`.

    Returns
    -------
    Tensor
        As `relu_dropout(input + bias, p)` for the same seed.

    Raises
    ------
    TypeError, ValueError
        For an input, bias, p or generator other than the above.

    """
    _check_bias(input, bias)
    return _relu_dropout(input, bias, p, training, generator)


def dropout_add(
    input: Tensor,  # noqa: A002
    residual: Tensor,
    p: float = 0.5,
    training: bool = True,
    *,
    generator: Generator | None = None,
) -> Tensor:
    """Return dropout(input) + residual, in one pass over memory, for the end of a residual block.

    Parameters
    ----------
    input : Tensor
        Of any shape and strides.
    residual : Tensor
        Of input's shape; added after dropout. It may have another dtype, as under autocast.
    p, training, generator
        As in `dropout`.

    Returns
    -------
    Tensor
        `dropout(input, p) + residual` for the same seed; the 16-bit types are rounded once. In evaluation input +
        residual.

    Raises
    ------
    TypeError, ValueError
        For an input, residual, p or generator other than the above.

    """
    return _dropout_add(input, None, residual, p, training, generator)


def bias_dropout_add(
    input: Tensor,  # noqa: A002
    bias: Tensor,
    residual: Tensor,
    p: float = 0.5,
    training: bool = True,
    *,
    generator: Generator | None = None,
) -> Tensor:
    """Return dropout(input + bias) + residual, in one pass over memory.

    Parameters
    ----------
    input : Tensor
        Of shape (..., features).
    bias : Tensor
        Of shape (features,).
    residual, p, training, generator
        As in `dropout_add`.

    Returns
    -------
    Tensor
        As `dropout_add(input + bias, residual, p)` for the same seed.

    Raises
    ------
    TypeError, ValueError
        For an input, bias, residual, p or generator other than the above.

    """
    _check_bias(input, bias)
    return _dropout_add(input, bias, residual, p, training, generator)


def _check_bias(x: Any, bias: Any) -> None:
    check_tensor(x)
    check_tensor(bias, "bias")
    if x.dim() == 0 or sizes_of(bias) != sizes_of(x)[-1:]:
        raise ValueError(f"bias must have one element for each column of input, got {sizes_of(bias)} for {sizes_of(x)}")


def _relu_dropout(x: Tensor, bias: Tensor | None, p: float, training: bool, generator: Generator | None) -> Tensor:
    check_tensor(x)
    check_probability(p)
    tensors = (x,) if bias is None else (x, bias)
    if training and p > 0.0 and is_fusable(*tensors) and is_ours(p, generator, *tensors) and x.numel() > 0:
        mask = draw_mask(tuple(x.shape), p, (), generator)
        return _ReLUDropout.apply(x, bias, mask)  # type: ignore[no-any-return,no-untyped-call]
    return dropout(functional.relu(x if bias is None else x + bias), p, training, generator=generator)


def _dropout_add(
    x: Tensor, bias: Tensor | None, residual: Tensor, p: float, training: bool, generator: Generator | None
) -> Tensor:
    check_tensor(x)
    check_tensor(residual, "residual")
    check_probability(p)
    if sizes_of(residual) != sizes_of(x):
        raise ValueError(f"residual must have input's shape {sizes_of(x)}, got {sizes_of(residual)}")
    tensors = (x, residual) if bias is None else (x, bias, residual)
    if training and p > 0.0 and is_fusable(*tensors) and is_ours(p, generator, *tensors) and x.numel() > 0:
        mask = draw_mask(tuple(x.shape), p, (), generator)
        return _DropoutAdd.apply(x, bias, residual, mask)  # type: ignore[no-any-return,no-untyped-call]
    return dropout(x if bias is None else x + bias, p, training, generator=generator) + residual


def run_fused(name: str, x: Tensor, bias: Tensor | None, residual: Tensor | None, mask: Mask) -> Tensor:
    """Run the kernel of a fused operation on detached tensors, on as many threads as PyTorch uses."""
    arrays = [None if each is None else as_array(each.detach()) for each in (x, bias, residual)]
    y = torch.empty_like(x.detach())
    _kernels.with_threads(torch.get_num_threads(), _kernels.fused_with_mask, name, *arrays, mask, as_array(y))
    return y


def is_kernels_gradient(*tensors: Tensor) -> bool:
    """Return whether the kernels take the tensors of a backward pass: plain ones, outside of transforms and tracing."""
    return all(map(is_plain, tensors)) and not is_transformed() and not is_recorded()


def masked(dy: Tensor, mask: Mask, scale: float | None) -> Tensor:
    """Return the gradient through a mask, differentiable again."""
    if not is_kernels_gradient(dy):
        return dy * factor_of(mask, scale, dy.dtype)
    return ApplyMask.apply(dy, mask, scale, 0.0, 0.0, False)  # type: ignore[no-any-return,no-untyped-call]


def _bias_gradient(dx: Tensor) -> Tensor:
    return dx.sum(dim=tuple(range(dx.dim() - 1))) if dx.dim() > 1 else dx


class _ReLUDropout(torch.autograd.Function):
    """y = dropout(relu(x + bias)); bias may be None."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, mask: Mask) -> Tensor:
        y = run_fused("relu_dropout" if bias is None else "bias_relu_dropout", x, bias, None, mask)
        ctx.p = mask.p
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        (dy,), (y,) = grad_outputs, ctx.saved_tensors
        dx = _gated(dy, y, ctx.p)
        return dx, _bias_gradient(dx) if ctx.needs_input_grad[1] else None, None


def _gated(dy: Tensor, y: Tensor, p: float) -> Tensor:
    """Return dy / (1-p) where y > 0 and 0 elsewhere."""
    if is_kernels_gradient(dy, y) and dy.dtype is y.dtype:
        return _Gate.apply(dy, y.detach(), p)  # type: ignore[no-any-return,no-untyped-call]
    return (dy * operators.kept_scale(p)).masked_fill(y <= 0.0, 0.0)


class _Gate(torch.autograd.Function):
    """dx = dy / (1-p) where y > 0 and 0 elsewhere, which is linear in dy; the derivative for y is 0."""

    @staticmethod
    def forward(ctx: Any, dy: Tensor, y: Tensor, p: float) -> Tensor:
        ctx.p = p
        ctx.save_for_backward(y)
        dx = torch.empty_like(dy)
        arrays = as_array(dy.detach()), as_array(y.detach())
        _kernels.with_threads(torch.get_num_threads(), _kernels.relu_dropout_backward, *arrays, p, as_array(dx))
        return dx

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        (ddx,), (y,) = grad_outputs, ctx.saved_tensors
        return _gated(ddx, y, ctx.p), None, None


class _DropoutAdd(torch.autograd.Function):
    """y = dropout(x + bias) + residual; bias may be None. Autograd saves the mask as a value."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, residual: Tensor, mask: Mask) -> Tensor:
        ctx.mask = mask
        return run_fused("dropout_add" if bias is None else "bias_dropout_add", x, bias, residual, mask)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        (dy,) = grad_outputs
        if not (ctx.needs_input_grad[0] or ctx.needs_input_grad[1]):
            return None, None, dy, None
        dx = masked(dy, ctx.mask, None)
        return dx, _bias_gradient(dx) if ctx.needs_input_grad[1] else None, dy, None


class ReLUDropout(DropoutLeaf):
    """ReLU and dropout in one pass over memory.

    Parameters
    ----------
    p : float
        The probability of dropping, in [0, 1].

    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__(p)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Return dropout(relu(input)) in training and relu(input) in evaluation."""
        return relu_dropout(input, self.p, self.training)

    def _by_operators(self, input: Tensor) -> Tensor:  # noqa: A002
        return operators.relu_dropout(input, self.p, self.training)


class DropoutAdd(DropoutLeaf):
    """Dropout, then the sum with a residual, in one pass over memory.

    Parameters
    ----------
    p : float
        The probability of dropping, in [0, 1].

    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__(p)

    def forward(self, input: Tensor, residual: Tensor) -> Tensor:  # noqa: A002
        """Return dropout(input) + residual in training and input + residual in evaluation."""
        return dropout_add(input, residual, self.p, self.training)

    def _by_operators(self, input: Tensor, residual: Tensor) -> Tensor:  # noqa: A002
        return operators.dropout_add(input, residual, self.p, self.training)
