"""DropBlock, which drops squares of images. Each call that drops draws two 64-bit numbers from PyTorch's generator."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Generator, Tensor

from cdropout.checks import check_integer
from cdropout.torch import operators
from cdropout.torch.arguments import check_no_generator, check_probability, check_tensor, sizes_of
from cdropout.torch.layers import DropoutLeaf
from cdropout.torch.tensors import draw_mask, is_ours


def drop_block2d(
    input: Tensor,  # noqa: A002
    p: float = 0.1,
    training: bool = True,
    *,
    block_size: int = 7,
    generator: Generator | None = None,
) -> Tensor:
    """Drop squares of images, independently in each channel.

    `torch.compile` records PyTorch's own operators, whose squares differ from those of a call that is not compiled.

    Parameters
    ----------
    input : Tensor
        Of shape ([batch,] channels, height, width).
    p : float
        Share of elements to be dropped, in [0, 1]; because squares overlap, the expected share is about 1 - exp(-p). 1
        drops all.
    training, generator
        As in `dropout`.
    block_size : int
        The length of a square's side, in pixels: at least 1, and no more than height and width.

    Returns
    -------
    Tensor
        Of input's shape and dtype: 0 in the squares; elsewhere input times (number of elements / number kept). In
        evaluation input itself.

    Raises
    ------
    TypeError, ValueError
        For an input, p, block_size or generator other than the above.

    Notes
    -----
    Source: Ghiasi, Lin & Le, "DropBlock: a regularization method for convolutional networks", NeurIPS 2018. Squares
    lie entirely within the image; their positions are drawn with the paper's gamma. For the backward pass autograd
    saves a bool tensor of input's shape.

    """
    check_tensor(input)
    check_probability(p)
    if input.dim() not in (3, 4):
        raise ValueError(f"input must have 3 dimensions, or 4 with a batch axis, got {input.dim()}")
    sizes = sizes_of(input)
    height, width = sizes[-2:]
    check_integer("block_size", block_size, 1, min(height, width))
    if not training or p == 0.0:
        return input
    corners = (*sizes[:-2], height - block_size + 1, width - block_size + 1)
    gamma = 1.0 if p == 1.0 else min(1.0, p * height * width / (block_size**2 * corners[-2] * corners[-1]))
    if torch.compiler.is_compiling():
        check_no_generator(generator)
        dropped = operators.draw_dropped(input, list(corners), gamma)
    elif not is_ours(p, generator, input):
        dropped = operators.draw_dropped(input, list(corners), gamma)
    elif input.numel() == 0:
        return input
    else:
        dropped = torch.from_numpy(draw_mask(corners, gamma, (), generator).keep()).logical_not()
    return operators.drop_block2d(input, dropped, block_size)


class DropBlock2d(DropoutLeaf):
    """Drop squares of images, independently in each channel; evaluation is the identity.

    Parameters
    ----------
    p, block_size
        As in `drop_block2d`.

    Notes
    -----
    Source: Ghiasi, Lin & Le, "DropBlock: a regularization method for convolutional networks", NeurIPS 2018.

    """

    _shown: ClassVar[tuple[str, ...]] = ("p", "block_size")

    def __init__(self, p: float = 0.1, *, block_size: int = 7) -> None:
        check_integer("block_size", block_size, 1)
        super().__init__(p)
        self.block_size = block_size

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Return input without new squares, scaled, in training; input itself in evaluation."""
        return drop_block2d(input, self.p, self.training, block_size=self.block_size)
