"""Dropout of features, time steps or samples: decisions that are shared along axes; stochastic depth in other packages.

Each call that drops draws two 64-bit numbers from PyTorch's generator. A call in evaluation, with p = 0, or with an
empty tensor draws none.
"""

from __future__ import annotations

import importlib
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor, nn

from cdropout.torch import operators
from cdropout.torch.arguments import check_choice, check_flag, check_probability, check_tensor
from cdropout.torch.layers import DropoutLeaf, Leaf
from cdropout.torch.tensors import ApplyMask, draw_mask, drop, is_ours

Rescale = Literal["train", "eval"] | None
Mode = Literal["batch", "row"]
_RESCALES = ("train", "eval", None)


def feature_dropout(
    input: Tensor,  # noqa: A002
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    rescale: Rescale = "train",
    generator: Generator | None = None,
) -> Tensor:
    """Drop whole features of a batch: one decision for each column, the same in all rows.

    `torch.feature_dropout` is another function: it drops channels, with a decision for each sample.

    Parameters
    ----------
    input : Tensor
        Of shape (..., features); decisions are shared along all axes except the last.
    p, training, inplace, generator
        As in `dropout`.
    rescale : {"train", "eval", None}
        "train" divides by 1-p in training and does nothing in evaluation (inverted dropout). "eval" does not scale in
        training and multiplies by 1-p in evaluation (the original dropout). None never scales.

    Returns
    -------
    Tensor
        Of input's shape and dtype; input itself in evaluation, unless rescale is "eval", and in place.

    Raises
    ------
    TypeError, ValueError
        For an input, p, rescale or generator other than the above.

    """
    check_tensor(input)
    check_probability(p)
    check_choice("rescale", rescale, _RESCALES)
    if not training:
        if rescale != "eval":
            return input
        y = operators.scale_in_evaluation(input, p)
        return input.copy_(y) if inplace else y
    return drop_along(input, p, tuple(range(input.dim() - 1)), rescale == "train", inplace, generator)


def locked_dropout(
    input: Tensor,  # noqa: A002
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    batch_first: bool = False,
    generator: Generator | None = None,
) -> Tensor:
    """Drop the same elements at all time steps.

    Parameters
    ----------
    input : Tensor
        Of shape (time, batch, features), or (time, features) without a batch.
    p, training, inplace, generator
        As in `dropout`.
    batch_first : bool
        Whether input has shape (batch, time, features); without a batch it makes no difference, as in `nn.LSTM`.

    Returns
    -------
    Tensor
        Of input's shape and dtype; input itself in evaluation and in place.

    Raises
    ------
    TypeError, ValueError
        For an input, p or generator other than the above.

    Notes
    -----
    Source: Gal & Ghahramani, "A theoretically grounded application of dropout in recurrent neural networks", NIPS 2016.

    """
    check_tensor(input)
    check_probability(p)
    if input.dim() not in (2, 3):
        raise ValueError(f"input must have 2 dimensions, or 3 with a batch, got {input.dim()}")
    if not training:
        return input
    time_axis = 1 if batch_first and input.dim() == 3 else 0
    return drop_along(input, p, (time_axis,), True, inplace, generator)


def drop_path(
    x: Tensor,
    drop_prob: float = 0.0,
    training: bool = False,
    scale_by_keep: bool = True,
    *,
    generator: Generator | None = None,
) -> Tensor:
    """Drop whole samples: stochastic depth, on the residual branch of a block. The arguments are timm's.

    Parameters
    ----------
    x : Tensor
        Of shape (batch, ...).
    drop_prob : float
        The probability of dropping a sample, in [0, 1].
    training : bool
        Whether to drop.
    scale_by_keep : bool
        Whether to divide kept samples by 1-drop_prob.
    generator : torch.Generator, optional
        As in `dropout`.

    Returns
    -------
    Tensor
        Of x's shape and dtype; x itself in evaluation.

    Raises
    ------
    TypeError, ValueError
        For an x, drop_prob or generator other than the above.

    Notes
    -----
    Source: Huang et al., "Deep networks with stochastic depth", ECCV 2016.

    """
    check_tensor(x, "x")
    check_probability(drop_prob, "drop_prob")
    check_batch(x, "x")
    if not training:
        return x
    return drop_along(x, drop_prob, tuple(range(1, x.dim())), scale_by_keep, False, generator)


def stochastic_depth(
    input: Tensor,  # noqa: A002
    p: float,
    mode: Mode,
    training: bool = True,
    *,
    generator: Generator | None = None,
) -> Tensor:
    """Drop whole samples, or the whole batch. The arguments are torchvision's.

    Parameters
    ----------
    input : Tensor
        Of shape (batch, ...).
    p, training, generator
        As in `dropout`.
    mode : {"batch", "row"}
        "row" decides for each sample, "batch" once for all of input.

    Returns
    -------
    Tensor
        Of input's shape and dtype; input itself in evaluation.

    Raises
    ------
    TypeError, ValueError
        For an input, p, mode or generator other than the above.

    """
    check_tensor(input)
    check_probability(p)
    check_choice("mode", mode, ("batch", "row"))
    if mode == "row":
        check_batch(input, "input")
    if not training:
        return input
    return drop_along(input, p, tuple(range(0 if mode == "batch" else 1, input.dim())), True, False, generator)


def check_batch(tensor: Tensor, name: str) -> None:
    """Raise ValueError for a tensor without a batch axis."""
    if tensor.dim() == 0:
        raise ValueError(f"{name} must have a batch axis, got a tensor of 0 dimensions")


def drop_along(
    x: Tensor, p: float, shared_axes: tuple[int, ...], is_scaled: bool, inplace: bool, generator: Generator | None
) -> Tensor:
    """Drop with a new mask that shares its decisions along axes; kept elements are divided by 1-p if is_scaled."""
    if not is_ours(p, generator, x):
        if p == 0.0:
            return x
        y = operators.drop(x, p, list(shared_axes), operators.kept_scale(p) if is_scaled else 1.0)
        return x.copy_(y) if inplace else y
    if is_scaled:
        return drop(x, p, shared_axes, inplace, generator)
    if torch.compiler.is_compiling():
        y = operators.scale_in_evaluation(drop(x, p, shared_axes, False, generator), p)
        return x.copy_(y) if inplace else y
    if x.numel() == 0:
        return x
    mask = draw_mask(tuple(x.shape), p, shared_axes, generator)
    return ApplyMask.apply(x, mask, 1.0, 0.0, 0.0, inplace)  # type: ignore[no-any-return,no-untyped-call]


class FeatureDropout(DropoutLeaf):
    """Drop whole features of a batch: one decision for each column (the last axis), the same in all rows.

    Parameters
    ----------
    p, inplace
        As in `Dropout`.
    rescale : {"train", "eval", None}
        As in `feature_dropout`.

    """

    _shown: ClassVar[tuple[str, ...]] = ("p", "inplace", "rescale")

    def __init__(self, p: float = 0.5, inplace: bool = False, *, rescale: Rescale = "train") -> None:
        check_choice("rescale", rescale, _RESCALES)
        super().__init__(p, inplace)
        self.rescale = rescale

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Return input after dropout in training; in evaluation input itself, or scaled if rescale is "eval"."""
        return feature_dropout(input, self.p, self.training, self.inplace, rescale=self.rescale)

    def _by_operators(self, input: Tensor) -> Tensor:  # noqa: A002
        return operators.feature_dropout(input, self.p, self.training, self.rescale)


class LockedDropout(DropoutLeaf):
    """Drop the same elements at all time steps.

    Parameters
    ----------
    p, inplace
        As in `Dropout`.
    batch_first : bool
        As in `locked_dropout`.

    Notes
    -----
    Source: Gal & Ghahramani, "A theoretically grounded application of dropout in recurrent neural networks", NIPS 2016.

    """

    _shown: ClassVar[tuple[str, ...]] = ("p", "inplace", "batch_first")

    def __init__(self, p: float = 0.5, inplace: bool = False, *, batch_first: bool = False) -> None:
        check_flag("batch_first", batch_first)
        super().__init__(p, inplace)
        self.batch_first = batch_first

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Return input after dropout in training, input itself in evaluation."""
        return locked_dropout(input, self.p, self.training, self.inplace, batch_first=self.batch_first)

    def _by_operators(self, input: Tensor) -> Tensor:  # noqa: A002
        return operators.locked_dropout(input, self.p, self.training, self.batch_first)


class DropPath(Leaf):
    """Drop whole samples, (batch, ...): stochastic depth, on the residual branch of a block. The arguments are timm's.

    Parameters
    ----------
    drop_prob : float
        The probability of dropping a sample, in [0, 1].
    scale_by_keep : bool
        Whether to divide kept samples by 1-drop_prob.

    Notes
    -----
    Source: Huang et al., "Deep networks with stochastic depth", ECCV 2016.

    """

    # Old versions of timm have no scale_by_keep; theirs is always True.
    scale_by_keep = True

    def __init__(self, drop_prob: float = 0.0, scale_by_keep: bool = True) -> None:
        check_probability(drop_prob, "drop_prob")
        check_flag("scale_by_keep", scale_by_keep)
        super().__init__()
        self.drop_prob = drop_prob
        self.scale_by_keep = scale_by_keep

    def forward(self, x: Tensor) -> Tensor:
        """Return x after dropout in training, x itself in evaluation."""
        # Modules of old versions of timm, which `replace_dropout` may have replaced, have None for 0.
        return drop_path(x, self.drop_prob or 0.0, self.training, self.scale_by_keep)

    def _by_operators(self, x: Tensor) -> Tensor:
        return operators.drop_path(x, self.drop_prob, self.training, self.scale_by_keep)

    def extra_repr(self) -> str:
        """Return the arguments for the repr."""
        return f"drop_prob={self.drop_prob}" + ("" if self.scale_by_keep else ", scale_by_keep=False")


class StochasticDepth(Leaf):
    """Drop whole samples, or the whole batch. The arguments are torchvision's.

    Parameters
    ----------
    p : float
        The probability of dropping, in [0, 1].
    mode : {"batch", "row"}
        As in `stochastic_depth`.

    """

    def __init__(self, p: float, mode: Mode) -> None:
        check_probability(p)
        check_choice("mode", mode, ("batch", "row"))
        super().__init__()
        self.p = p
        self.mode = mode

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Return input after dropout in training, input itself in evaluation."""
        return stochastic_depth(input, self.p, self.mode, self.training)

    def _by_operators(self, input: Tensor) -> Tensor:  # noqa: A002
        return operators.stochastic_depth(input, self.p, self.mode, self.training)

    def extra_repr(self) -> str:
        """Return the arguments for the repr."""
        return f"p={self.p}, mode={self.mode!r}"


# ---- modules of other packages --------------------------------------------------------------------------------------

# Module and name of a class of another package -> the class that replaces it and has the same attributes.
OTHERS: dict[tuple[str, str], type[Leaf]] = {
    ("timm.layers.drop", "DropPath"): DropPath,
    ("timm.models.layers.drop", "DropPath"): DropPath,
    ("torchvision.ops.stochastic_depth", "StochasticDepth"): StochasticDepth,
}

# The attribute that holds the key of the replaced class in OTHERS.
_REPLACED = "_cdropout_replaced"


def replace_other(module: nn.Module) -> bool:
    """Replace a module of another package if it is in `OTHERS`, and return whether it is.

    Only the class of the object changes, as in `replace_dropout`.
    """
    key = (type(module).__module__, type(module).__qualname__)
    if key not in OTHERS:
        return False
    module.__dict__[_REPLACED] = key
    module.__class__ = OTHERS[key]
    return True


def restore_other(module: nn.Module) -> bool:
    """Undo `replace_other` and return whether the module had been replaced."""
    key: Any = module.__dict__.get(_REPLACED)
    if key is None or type(module) is not OTHERS.get(key):
        return False
    theirs = getattr(importlib.import_module(key[0]), key[1])
    module._forget_script()  # type: ignore[operator]
    del module.__dict__[_REPLACED]
    module.__class__ = theirs
    return True
