"""Multiplication by normal noise. Each call with noise draws two 64-bit numbers from PyTorch's generator."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from cdropout import _kernels
from cdropout.functions.gaussian import noise_std
from cdropout.noise import Noise
from cdropout.torch import operators
from cdropout.torch.arguments import check_no_generator, check_probability, check_tensor
from cdropout.torch.layers import DropoutLeaf
from cdropout.torch.tensors import as_array, draw_mask, is_ours, is_plain, is_recorded, is_transformed


def gaussian_dropout(
    input: Tensor,  # noqa: A002
    p: float = 0.5,
    training: bool = True,
    *,
    generator: Generator | None = None,
) -> Tensor:
    """Multiply by normal noise of mean 1 and variance p / (1-p), the variance of dropout's mask.

    `torch.compile` records PyTorch's own operators, whose noise differs from that of a call that is not compiled.

    Parameters
    ----------
    input : Tensor
        Of any shape.
    p : float
        The probability of dropping that gives dropout the same variance, in [0, 1).
    training, generator
        As in `dropout`.

    Returns
    -------
    Tensor
        Of input's shape and dtype; input itself in evaluation.

    Raises
    ------
    TypeError, ValueError
        For an input, p or generator other than the above.

    Notes
    -----
    Source: Srivastava et al., JMLR 15, 2014, section 10.

    """
    check_tensor(input)
    check_probability(p, is_one_allowed=False)
    if not training or p == 0.0:
        return input
    if torch.compiler.is_compiling():
        check_no_generator(generator)
        return operators.gaussian_dropout(input, p, training)
    if not is_ours(p, generator, input):
        return operators.gaussian_dropout(input, p, training)
    if input.numel() == 0:
        return input
    key = draw_mask((), p, (), generator).key
    noise = Noise(key, 0, noise_std(p), tuple(input.shape))
    return MultiplyByNoise.apply(input, noise)  # type: ignore[no-any-return,no-untyped-call]


class MultiplyByNoise(torch.autograd.Function):
    """y = x * noise; autograd saves the noise as a value."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, noise: Noise) -> Tensor:  # noqa: D102 - the class says it
        ctx.noise = noise
        x = x.detach()
        y = torch.empty_like(x)
        _kernels.with_threads(torch.get_num_threads(), noise.multiply, as_array(x), as_array(y))
        return y

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:  # noqa: D102
        (dy,) = grad_outputs
        if is_transformed() or is_recorded() or not is_plain(dy):
            dtype = dy.dtype
            factor = MultiplyByNoise.apply(torch.ones(ctx.noise.shape, dtype=dtype), ctx.noise)  # type: ignore[no-untyped-call]
            return dy * factor, None
        return MultiplyByNoise.apply(dy, ctx.noise), None  # type: ignore[no-untyped-call]


class GaussianDropout(DropoutLeaf):
    """Multiply by normal noise of mean 1 and variance p / (1-p); evaluation is the identity.

    Parameters
    ----------
    p : float
        The probability of dropping that gives dropout the same variance, in [0, 1).

    Notes
    -----
    Source: Srivastava et al., JMLR 15, 2014, section 10.

    """

    def __init__(self, p: float = 0.5) -> None:
        check_probability(p, is_one_allowed=False)
        super().__init__(p)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Return input times new noise in training, input itself in evaluation."""
        return gaussian_dropout(input, self.p, self.training)

    def _by_operators(self, input: Tensor) -> Tensor:  # noqa: A002
        return operators.gaussian_dropout(input, self.p, self.training)
