"""PyTorch on the CPU: dropout modules and functions on this library's engine.

    import cdropout.torch
    n_replaced = cdropout.torch.replace_dropout(model)       # restore_dropout(model) undoes it

Masks follow `torch.manual_seed`, or a `torch.Generator` where one is passed; what autograd keeps for the backward pass
is the mask's value, a few dozen bytes. Arguments, checks, messages and edges are those of `torch.nn`, but for one: a
dropped NaN or infinity is 0. Whatever is not a plain tensor on the CPU, or nothing to drop, goes to PyTorch's own
function, which also refuses what it refuses. Attention's own dropout is PyTorch's still.

Needs torch; `import cdropout` does not import it.
"""

from __future__ import annotations

import importlib.util
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from cdropout.mask import Mask
from cdropout.variants import alpha_map

# NumPy knows bfloat16 by ml_dtypes only.
_HALVES = (torch.float16, torch.bfloat16) if importlib.util.find_spec("ml_dtypes") else (torch.float16,)
_DTYPES = (torch.float32, torch.float64, *_HALVES)
_PLAIN = (Tensor, nn.Parameter)

# ---- from tensors to arrays and back --------------------------------------------------------------------------------


def _is_plain(tensor: Tensor) -> bool:
    """Whether the engine can work on a tensor's own memory."""
    is_strided = type(tensor) in _PLAIN and tensor.device.type == "cpu" and tensor.layout is torch.strided
    return is_strided and tensor.dtype in _DTYPES


def _is_ours(input: Tensor, p: float, training: bool) -> bool:  # noqa: A002 - torch's name
    """Whether there is something to drop, for this library."""
    return training and 0.0 < p <= 1.0 and _is_plain(input)


def _as_array(tensor: Tensor) -> Any:
    """Return an array on the tensor's memory."""
    if tensor.dtype is torch.bfloat16:
        import ml_dtypes

        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def _draw_mask(shape: tuple[int, ...], p: float, shared_axes: tuple[int, ...], generator: Any) -> Mask:
    """Draw the key of a mask of its own from PyTorch's generator."""
    low, high = torch.randint(-(2**63), 2**63 - 1, (2,), dtype=torch.int64, generator=generator).tolist()
    key = (low & 0xFFFFFFFFFFFFFFFF) | (high & 0xFFFFFFFFFFFFFFFF) << 64
    return Mask(key, 0, p, shape, shared_axes)


def _apply(x: Tensor, mask: Mask, scale: float | None, shift: float, fill: float, inplace: bool) -> Tensor:
    """Apply a mask without a word to autograd."""
    plain = x.detach()
    y = plain if inplace else torch.empty_like(plain)
    mask.apply(_as_array(plain), _as_array(y), scale=scale, shift=shift, fill=fill)
    return y


class _ApplyMask(torch.autograd.Function):
    """y = scale x + shift where kept, fill where dropped; its gradient is the same with neither shift nor fill."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, mask: Mask, scale: float | None, shift: float, fill: float, inplace: bool
    ) -> Tensor:
        ctx.mask, ctx.scale = mask, scale
        y = _apply(x, mask, scale, shift, fill, inplace)
        if not inplace:
            return y
        ctx.mark_dirty(x)
        return x

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        (dy,) = grad_outputs
        # A further derivative is seldom asked for, and telling autograd costs as much as a small mask.
        apply = _ApplyMask.apply if torch.is_grad_enabled() and dy.requires_grad else _apply
        return apply(dy, ctx.mask, ctx.scale, 0.0, 0.0, False), None, None, None, None, None


def _drop_now(
    input: Tensor,  # noqa: A002
    p: float,
    shared_axes: tuple[int, ...],
    inplace: bool,
    generator: Any,
    alpha: bool,
) -> Tensor:
    if input.numel() == 0:
        return input
    scale, shift, fill = alpha_map(p) if alpha else (None, 0.0, 0.0)
    mask = _draw_mask(tuple(input.shape), p, shared_axes, generator)
    if torch.is_grad_enabled() and input.requires_grad:
        return _ApplyMask.apply(input, mask, scale, shift, fill, inplace)  # type: ignore[no-any-return,no-untyped-call]
    y = _apply(input, mask, scale, shift, fill, inplace)
    if not inplace:
        return y
    torch.autograd.graph.increment_version(input)
    return input


# The compiler's graph ends before a call of this one.
_drop_between_graphs = torch.compiler.disable(_drop_now)


def _drop(
    input: Tensor,  # noqa: A002
    p: float,
    shared_axes: tuple[int, ...],
    inplace: bool,
    generator: Any,
    *,
    alpha: bool = False,
) -> Tensor:
    drop = _drop_between_graphs if torch.compiler.is_compiling() else _drop_now
    return drop(input, p, shared_axes, inplace, generator, alpha)


# ---- functions ------------------------------------------------------------------------------------------------------


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
        Of any shape and strides.
    p : float
        The probability of dropping, in [0, 1].
    training : bool
        Whether to drop.
    inplace : bool
        Whether to write into input.
    generator : torch.Generator, optional
        What masks are drawn from; PyTorch's default generator for the CPU unless given.

    Returns
    -------
    Tensor
        Of input's shape and dtype; input itself out of training, where p is 0, and in place.

    Raises
    ------
    ValueError
        For a p outside [0, 1].

    """
    if not _is_ours(input, p, training):
        return functional.dropout(input, p, training, inplace)
    return _drop(input, p, (), inplace, generator)


def dropout1d(
    input: Tensor,  # noqa: A002
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Drop channels of ([N,] C, L), as `torch.nn.functional.dropout1d` does; otherwise as `dropout`."""
    if not _is_ours(input, p, training) or input.dim() not in (2, 3):
        return functional.dropout1d(input, p, training, inplace)
    return _drop(input, p, (input.dim() - 1,), inplace, generator)


def dropout2d(
    input: Tensor,  # noqa: A002
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Drop channels of (N, C, H, W), as `torch.nn.functional.dropout2d` does; otherwise as `dropout`."""
    if not _is_ours(input, p, training) or input.dim() != 4:
        return functional.dropout2d(input, p, training, inplace)
    return _drop(input, p, (2, 3), inplace, generator)


def dropout3d(
    input: Tensor,  # noqa: A002
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Drop channels of ([N,] C, D, H, W), as `torch.nn.functional.dropout3d` does; otherwise as `dropout`."""
    if not _is_ours(input, p, training) or input.dim() not in (4, 5):
        return functional.dropout3d(input, p, training, inplace)
    return _drop(input, p, tuple(range(input.dim() - 3, input.dim())), inplace, generator)


def alpha_dropout(
    input: Tensor,  # noqa: A002
    p: float = 0.5,
    training: bool = False,
    inplace: bool = False,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Drop for SELU, as `torch.nn.functional.alpha_dropout` does; otherwise as `dropout`."""
    if not _is_ours(input, p, training):
        return functional.alpha_dropout(input, p, training, inplace)
    return _drop(input, p, (), inplace, generator, alpha=True)


def feature_alpha_dropout(
    input: Tensor,  # noqa: A002
    p: float = 0.5,
    training: bool = False,
    inplace: bool = False,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Drop channels for SELU, as `torch.nn.functional.feature_alpha_dropout` does; otherwise as `dropout`."""
    if not _is_ours(input, p, training) or input.dim() < 2:
        return functional.feature_alpha_dropout(input, p, training, inplace)
    return _drop(input, p, tuple(range(2, input.dim())), inplace, generator, alpha=True)


# ---- modules --------------------------------------------------------------------------------------------------------


class _OnEngine(nn.Module):
    """A module whose forward pass is one of the functions above."""

    _function: ClassVar[Any]

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Return input with some of it dropped, in training."""
        return type(self)._function(input, self.p, self.training, self.inplace)  # type: ignore[no-any-return]


class Dropout(_OnEngine, nn.Dropout):
    """`torch.nn.Dropout` on this library's engine."""

    _function = staticmethod(dropout)


class Dropout1d(_OnEngine, nn.Dropout1d):
    """`torch.nn.Dropout1d` on this library's engine."""

    _function = staticmethod(dropout1d)


class Dropout2d(_OnEngine, nn.Dropout2d):
    """`torch.nn.Dropout2d` on this library's engine."""

    _function = staticmethod(dropout2d)


class Dropout3d(_OnEngine, nn.Dropout3d):
    """`torch.nn.Dropout3d` on this library's engine."""

    _function = staticmethod(dropout3d)


class AlphaDropout(_OnEngine, nn.AlphaDropout):
    """`torch.nn.AlphaDropout` on this library's engine."""

    _function = staticmethod(alpha_dropout)


class FeatureAlphaDropout(_OnEngine, nn.FeatureAlphaDropout):
    """`torch.nn.FeatureAlphaDropout` on this library's engine."""

    _function = staticmethod(feature_alpha_dropout)


_OURS: dict[type[nn.Module], type[nn.Module]] = {
    getattr(nn, cls.__name__): cls
    for cls in (Dropout, Dropout1d, Dropout2d, Dropout3d, AlphaDropout, FeatureAlphaDropout)
}
_THEIRS = {ours: theirs for theirs, ours in _OURS.items()}


def replace_dropout(model: nn.Module) -> int:
    """Make every dropout module of a model, itself included, one of this library's.

    The modules stay the objects they are, with their names, flags, hooks and attributes; only their class changes.
    Subclasses of PyTorch's modules are left alone.

    Returns
    -------
    int
        How many were replaced.

    """
    return _exchange(model, _OURS)


def restore_dropout(model: nn.Module) -> int:
    """Undo `replace_dropout`; return how many modules are PyTorch's again."""
    return _exchange(model, _THEIRS)


def _exchange(model: nn.Module, classes: dict[type[nn.Module], type[nn.Module]]) -> int:
    found = [module for module in model.modules() if type(module) in classes]
    for module in found:
        module.__class__ = classes[type(module)]
    return len(found)
