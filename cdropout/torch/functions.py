"""Dropout as functions of tensors, with the arguments of `torch.nn.functional`."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from cdropout.torch.tensors import drop, may_be_dropped


def dropout(
    input: Tensor,  # noqa: A002
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Drop elements in training, as `torch.nn.functional.dropout` does.

    Parameters
    ----------
    input : Tensor
        A tensor of any shape and strides.
    p : float
        The probability of dropping, in [0, 1].
    training : bool
        Whether to drop.
    inplace : bool
        Whether to write into input.
    generator : torch.Generator, optional
        Source of the mask; PyTorch's default CPU generator by default.

    Returns
    -------
    Tensor
        A tensor of input's shape and dtype; input itself in evaluation, for p = 0, and in place.

    Raises
    ------
    ValueError
        For a p outside [0, 1], and for a generator if input is passed to PyTorch's function, which accepts none.

    """
    if not (training and may_be_dropped(p, generator, input)):
        return functional.dropout(input, p, training, inplace)
    return drop(input, p, (), inplace, generator)


def dropout1d(
    input: Tensor,  # noqa: A002
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Drop channels of ([N,] C, L), as `torch.nn.functional.dropout1d` does; otherwise as `dropout`."""
    if not (training and may_be_dropped(p, generator, input)) or input.dim() not in (2, 3):
        return functional.dropout1d(input, p, training, inplace)
    return drop(input, p, (input.dim() - 1,), inplace, generator)


def dropout2d(
    input: Tensor,  # noqa: A002
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Drop channels of (N, C, H, W), as `torch.nn.functional.dropout2d` does; otherwise as `dropout`."""
    if not (training and may_be_dropped(p, generator, input)) or input.dim() != 4:
        return functional.dropout2d(input, p, training, inplace)
    return drop(input, p, (2, 3), inplace, generator)


def dropout3d(
    input: Tensor,  # noqa: A002
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Drop channels of ([N,] C, D, H, W), as `torch.nn.functional.dropout3d` does; otherwise as `dropout`."""
    if not (training and may_be_dropped(p, generator, input)) or input.dim() not in (4, 5):
        return functional.dropout3d(input, p, training, inplace)
    return drop(input, p, tuple(range(input.dim() - 3, input.dim())), inplace, generator)


def alpha_dropout(
    input: Tensor,  # noqa: A002
    p: float = 0.5,
    training: bool = False,
    inplace: bool = False,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Drop for SELU, as `torch.nn.functional.alpha_dropout` does; otherwise as `dropout`."""
    if not (training and may_be_dropped(p, generator, input)):
        return functional.alpha_dropout(input, p, training, inplace)
    return drop(input, p, (), inplace, generator, alpha=True)


def feature_alpha_dropout(
    input: Tensor,  # noqa: A002
    p: float = 0.5,
    training: bool = False,
    inplace: bool = False,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Drop channels for SELU, as `torch.nn.functional.feature_alpha_dropout` does; otherwise as `dropout`."""
    if not (training and may_be_dropped(p, generator, input)) or input.dim() < 2:
        return functional.feature_alpha_dropout(input, p, training, inplace)
    return drop(input, p, tuple(range(2, input.dim())), inplace, generator, alpha=True)
