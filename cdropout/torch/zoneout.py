"""Zoneout: recurrent cells that keep elements of their previous state.

A call in training draws two 64-bit numbers from PyTorch's generator for each state whose probability is above 0, for
`ZoneoutLSTMCell` those of the hidden state first.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor, nn

from cdropout.mask import Mask
from cdropout.torch import operators
from cdropout.torch.arguments import check_no_generator, check_probability, check_tensor, is_fusable, sizes_of
from cdropout.torch.fused import is_kernels_gradient, masked, run_fused
from cdropout.torch.layers import DropoutLeaf, Leaf
from cdropout.torch.tensors import draw_mask, is_ours


def zoneout(
    new: Tensor, previous: Tensor, p: float = 0.5, training: bool = True, *, generator: Generator | None = None
) -> Tensor:
    """Keep elements of a recurrent network's previous state, each with probability p, instead of the new ones.

    `torch.compile` records PyTorch's own operators, which keep other elements than a call that is not compiled.

    Parameters
    ----------
    new : Tensor
        The new state, of any shape.
    previous : Tensor
        The previous state, of new's shape.
    p : float
        The probability that an element keeps its previous value, in [0, 1].
    training, generator
        As in `dropout`.

    Returns
    -------
    Tensor
        In training, previous where dropped and new where kept; in evaluation the expectation, p previous + (1-p) new.

    Raises
    ------
    TypeError, ValueError
        For a state, p or generator other than the above.

    Notes
    -----
    Source: Krueger et al., "Zoneout: regularizing RNNs by randomly preserving hidden activations", ICLR 2017.

    """
    check_tensor(new, "new")
    check_tensor(previous, "previous")
    check_probability(p)
    if sizes_of(previous) != sizes_of(new):
        raise ValueError(f"previous must have new's shape {sizes_of(new)}, got {sizes_of(previous)}")
    if torch.compiler.is_compiling():
        check_no_generator(generator)
        return operators.zoneout(new, previous, p, training)
    if not training or p == 0.0 or not is_fusable(new, previous) or not is_ours(p, generator, new, previous):
        return operators.zoneout(new, previous, p, training)
    if new.numel() == 0:
        return new
    return _choose(new, previous, draw_mask(tuple(new.shape), p, (), generator))


def _choose(new: Tensor, previous: Tensor, mask: Mask) -> Tensor:
    return _Choose.apply(new, previous, mask)  # type: ignore[no-any-return,no-untyped-call]


class _Choose(torch.autograd.Function):
    """y = new where kept and previous where dropped."""

    @staticmethod
    def forward(ctx: Any, new: Tensor, previous: Tensor, mask: Mask) -> Tensor:
        ctx.mask = mask
        return run_fused("choose", new, None, previous, mask)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        (dy,) = grad_outputs
        dnew = dprevious = None
        if not is_kernels_gradient(dy):
            keep = torch.from_numpy(ctx.mask.keep())
            return dy.masked_fill(~keep, 0.0), dy.masked_fill(keep, 0.0), None
        if ctx.needs_input_grad[0]:
            dnew = masked(dy, ctx.mask, 1.0)
        if ctx.needs_input_grad[1]:
            dprevious = _choose(torch.zeros_like(dy), dy, ctx.mask)
        return dnew, dprevious, None


class Zoneout(DropoutLeaf):
    """Keep elements of a recurrent network's previous state, each with probability p, instead of the new ones.

    In evaluation the result is the expectation, p previous + (1-p) new.

    Parameters
    ----------
    p : float
        The probability that an element keeps its previous value, in [0, 1].

    Notes
    -----
    Source: Krueger et al., "Zoneout: regularizing RNNs by randomly preserving hidden activations", ICLR 2017.

    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__(p)

    def forward(self, new: Tensor, previous: Tensor) -> Tensor:
        """Return the state, of new's shape and dtype."""
        return zoneout(new, previous, self.p, self.training)

    def _by_operators(self, new: Tensor, previous: Tensor) -> Tensor:
        return operators.zoneout(new, previous, self.p, self.training)


class ZoneoutRNNCell(Leaf, nn.RNNCell):
    """`torch.nn.RNNCell` with zoneout of its state.

    Parameters
    ----------
    input_size, hidden_size, bias, nonlinearity, device, dtype
        As in `nn.RNNCell`.
    p : float
        The probability that an element keeps its previous value, in [0, 1].

    Notes
    -----
    Source: Krueger et al., "Zoneout: regularizing RNNs by randomly preserving hidden activations", ICLR 2017.

    """

    def __init__(self, input_size: int, hidden_size: int, *args: Any, p: float = 0.5, **options: Any) -> None:
        check_probability(p)
        super().__init__(input_size, hidden_size, *args, **options)
        self.p = p

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:  # noqa: A002
        """Return the next state; arguments as in `nn.RNNCell`."""
        new = super().forward(input, hx)
        return zoneout(new, torch.zeros_like(new) if hx is None else hx, self.p, self.training)

    def extra_repr(self) -> str:
        """Return the arguments for the repr."""
        return f"{super().extra_repr()}, p={self.p}"


class ZoneoutGRUCell(Leaf, nn.GRUCell):
    """`torch.nn.GRUCell` with zoneout of its state; otherwise as `ZoneoutRNNCell`."""

    def __init__(self, input_size: int, hidden_size: int, *args: Any, p: float = 0.5, **options: Any) -> None:
        check_probability(p)
        super().__init__(input_size, hidden_size, *args, **options)
        self.p = p

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:  # noqa: A002
        """Return the next state; arguments as in `nn.GRUCell`."""
        new = super().forward(input, hx)
        return zoneout(new, torch.zeros_like(new) if hx is None else hx, self.p, self.training)

    def extra_repr(self) -> str:
        """Return the arguments for the repr."""
        return f"{super().extra_repr()}, p={self.p}"


class ZoneoutLSTMCell(Leaf, nn.LSTMCell):
    """`torch.nn.LSTMCell` with zoneout of its states.

    Parameters
    ----------
    input_size, hidden_size, bias, device, dtype
        As in `nn.LSTMCell`.
    p_hidden, p_cell : float
        The probability that an element of the hidden state, or of the cell state, keeps its previous value, in [0, 1].
        The defaults are the values that Krueger et al. use for language models.

    Notes
    -----
    Source: Krueger et al., "Zoneout: regularizing RNNs by randomly preserving hidden activations", ICLR 2017. The
    new hidden state is computed from the cell state before zoneout.

    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *args: Any,
        p_hidden: float = 0.05,
        p_cell: float = 0.5,
        **options: Any,
    ) -> None:
        check_probability(p_hidden, "p_hidden")
        check_probability(p_cell, "p_cell")
        super().__init__(input_size, hidden_size, *args, **options)
        self.p_hidden, self.p_cell = p_hidden, p_cell

    def forward(
        self,
        input: Tensor,  # noqa: A002
        hx: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the next hidden state and cell state; arguments as in `nn.LSTMCell`."""
        new = super().forward(input, hx)
        hidden, cell = tuple(map(torch.zeros_like, new)) if hx is None else hx
        return (
            zoneout(new[0], hidden, self.p_hidden, self.training),
            zoneout(new[1], cell, self.p_cell, self.training),
        )

    def extra_repr(self) -> str:
        """Return the arguments for the repr."""
        return f"{super().extra_repr()}, p_hidden={self.p_hidden}, p_cell={self.p_cell}"
