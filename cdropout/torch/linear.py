"""Linear layers that drop weights or input features.

Each call that drops draws two 64-bit numbers from PyTorch's generator. `DropConnect` in evaluation with
inference="gaussian" draws normal numbers from it, n_samples for each output.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from cdropout._kernels import kept_scale
from cdropout.checks import check_integer
from cdropout.compact.kept import KeepWords
from cdropout.functions.linear import gathering_pays
from cdropout.mask import Mask
from cdropout.torch import operators
from cdropout.torch.arguments import check_choice, check_flag, check_probability, check_tensor, is_fusable, sizes_of
from cdropout.torch.fused import is_kernels_gradient, masked
from cdropout.torch.kept import DTYPES as KEPT_DTYPES
from cdropout.torch.kept import GatherKept, Kept, kept_linear
from cdropout.torch.layers import Leaf
from cdropout.torch.shared_axes import drop_along
from cdropout.torch.tensors import draw_mask, is_ours

Inference = Literal["mean", "gaussian"]


def drop_connect(
    input: Tensor,  # noqa: A002
    weight: Tensor,
    bias: Tensor | None = None,
    p: float = 0.5,
    training: bool = True,
    *,
    rescale: bool = True,
    generator: Generator | None = None,
) -> Tensor:
    """Return `linear(input, weight * mask, bias)`: weights are dropped, the same ones for all rows of input.

    Parameters
    ----------
    input : Tensor
        Of shape (..., in_features).
    weight : Tensor
        Of shape (out_features, in_features), as in `torch.nn.functional.linear`.
    bias : Tensor, optional
        Of shape (out_features,); never dropped.
    p, training, generator
        As in `dropout`.
    rescale : bool
        Whether to divide kept weights by 1-p.

    Returns
    -------
    Tensor
        Of shape (..., out_features). In evaluation each weight has its mean over the masks: itself, or, without
        rescale, 1-p times itself.

    Raises
    ------
    TypeError, ValueError
        For an input, weight, bias, p or generator other than the above.

    Notes
    -----
    Source: Wan et al., "Regularization of neural networks using DropConnect", ICML 2013. The paper does not rescale.

    """
    _check_product(input, weight, bias)
    check_probability(p)
    if training:
        weight = drop_along(weight, p, (), bool(rescale), False, generator)
    elif not rescale or p == 1.0:
        weight = operators.scale_in_evaluation(weight, p)
    return functional.linear(input, weight, bias)


def feature_dropout_linear(
    input: Tensor,  # noqa: A002
    weight: Tensor,
    bias: Tensor | None = None,
    p: float = 0.5,
    training: bool = True,
    *,
    generator: Generator | None = None,
) -> Tensor:
    """Return `linear(feature_dropout(input, p), weight, bias)`, computed from the kept columns of input only.

    Parameters
    ----------
    input : Tensor
        Of shape (..., in_features).
    weight : Tensor
        Of shape (out_features, in_features). For large products and p, where it saves time, columns of dropped features
        are not read.
    bias : Tensor, optional
        Of shape (out_features,).
    p, training, generator
        As in `dropout`.

    Returns
    -------
    Tensor
        Of shape (..., out_features), equal up to rounding to the result of the two steps for the same seed.

    Raises
    ------
    TypeError, ValueError
        For an input, weight, bias, p or generator other than the above.

    """
    _check_product(input, weight, bias)
    check_probability(p)
    if not training:
        return functional.linear(input, weight, bias)
    tensors = (input, weight) if bias is None else (input, weight, bias)
    shared_axes = tuple(range(input.dim() - 1))
    if is_fusable(*tensors) and is_ours(p, generator, *tensors) and input.numel() > 0:
        n_out, n_in = weight.shape
        if gathering_pays(input.numel() // n_in, (n_in, n_out), p):
            mask = draw_mask(tuple(input.shape), p, shared_axes, generator)
            if input.dtype in KEPT_DTYPES:
                return _linear_of_kept_columns(input, weight, bias, mask)
            return _KeptColumns.apply(input, weight, bias, mask)  # type: ignore[no-any-return,no-untyped-call]
    return functional.linear(drop_along(input, p, shared_axes, True, False, generator), weight, bias)


def _check_product(x: Any, weight: Any, bias: Any) -> None:
    for tensor, name in ((x, "input"), (weight, "weight"), (bias, "bias")):
        if tensor is not None or name != "bias":
            check_tensor(tensor, name)
    sizes, weight_sizes = sizes_of(x), sizes_of(weight)
    if len(weight_sizes) != 2:
        raise ValueError(f"weight must have the axes (out_features, in_features), got shape {weight_sizes}")
    if not sizes or sizes[-1] != weight_sizes[1]:
        raise ValueError(f"input must have {weight_sizes[1]} columns, as weight does, got shape {sizes}")
    if bias is not None and sizes_of(bias) != weight_sizes[:1]:
        raise ValueError(f"bias must have one element for each row of weight, got {sizes_of(bias)} for {weight_sizes}")


def _linear_of_kept_columns(x: Tensor, weight: Tensor, bias: Tensor | None, mask: Mask) -> Tensor:
    """Return feature_dropout(x) weight^T + bias, as a product of the kept columns of x and weight."""
    columns = KeepWords(mask)
    gather: Any = GatherKept.apply
    (kept,) = gather([Kept(None, columns, kept_scale(mask.p))], x.reshape(-1, x.shape[-1]), None)
    (kept_weight,) = gather([Kept(None, columns, 1.0)], weight, None)
    return kept_linear(kept, kept_weight, bias, is_last=True).reshape(*x.shape[:-1], weight.shape[0])


class _KeptColumns(torch.autograd.Function):
    """The same for 16-bit types, by PyTorch's operators."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, mask: Mask) -> Tensor:
        keep = mask[(slice(0, 1),) * (x.dim() - 1)].keep()
        columns = torch.from_numpy(np.flatnonzero(keep))
        kept = x.detach().reshape(-1, x.shape[-1]).index_select(1, columns).mul_(kept_scale(mask.p))
        kept_weight = weight.detach().index_select(1, columns)
        # The gathered columns serve the backward pass, x and weight the second derivatives.
        ctx.mask = mask
        ctx.save_for_backward(x, weight, columns, kept, kept_weight)
        return functional.linear(kept, kept_weight, bias).view(*x.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        (dy,) = grad_outputs
        x, weight, columns, kept, kept_weight = ctx.saved_tensors
        need_x, need_weight, need_bias, _ = ctx.needs_input_grad
        dx = dweight = None
        drows = dy.reshape(-1, dy.shape[-1])
        dbias = drows.sum(0) if need_bias else None
        if torch.is_grad_enabled() or not is_kernels_gradient(dy):
            if need_x:
                dx = masked(dy @ weight, ctx.mask, None)
            if need_weight:
                dropped = masked(x, ctx.mask, None).reshape(-1, x.shape[-1])
                dweight = drows.transpose(0, 1) @ dropped
            return dx, dweight, dbias, None
        n_kept = kept.shape[1]
        # Dropped features take the column of zeros after the kept ones.
        sources = torch.full((x.shape[-1],), n_kept)
        sources[columns] = torch.arange(n_kept)
        if need_x:
            dkept = drows.new_zeros(len(drows), n_kept + 1)
            torch.matmul(drows, kept_weight, out=dkept[:, :n_kept])
            dx = dkept.mul_(kept_scale(ctx.mask.p)).index_select(1, sources).view(x.shape)
        if need_weight:
            dkept = drows.new_zeros(drows.shape[1], n_kept + 1)
            torch.matmul(drows.t(), kept, out=dkept[:, :n_kept])
            dweight = dkept.index_select(1, sources)
        return dx, dweight, dbias, None


class DropConnect(Leaf, nn.Linear):
    """`torch.nn.Linear` whose weights are dropped instead of its inputs.

    One mask serves all rows of a batch; each forward pass in training draws a new one. Parameters and their names are
    those of `nn.Linear`.

    Parameters
    ----------
    in_features, out_features, bias, device, dtype
        As in `nn.Linear`.
    p : float
        The probability of dropping a weight, in [0, 1].
    rescale : bool
        Whether to divide kept weights by 1-p in training; Wan et al. do not.
    inference : {"mean", "gaussian"}
        Method of evaluation. "mean" uses the mean of each weight. "gaussian" draws from a normal distribution with the
        output's mean and variance (moment matching by Wan et al.) and averages relu over the draws.
    n_samples : int
        Number of draws to average over.
    relu : bool
        Whether the layer ends with a ReLU. "gaussian" needs it: without a ReLU, the average is the mean.

    Raises
    ------
    TypeError, ValueError
        For an argument other than the above.

    Notes
    -----
    Source: Wan et al., "Regularization of neural networks using DropConnect", ICML 2013.

    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        p: float = 0.5,
        *,
        rescale: bool = True,
        inference: Inference = "mean",
        n_samples: int = 64,
        relu: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        for name, value in (("bias", bias), ("rescale", rescale), ("relu", relu)):
            check_flag(name, value)
        check_probability(p)
        check_choice("inference", inference, ("mean", "gaussian"))
        if inference == "gaussian" and not relu:
            raise ValueError("inference 'gaussian' must have relu=True: without it the average is the mean")
        check_integer("n_samples", n_samples, 1)
        super().__init__(in_features, out_features, bias, device, dtype)
        self.p, self.rescale, self.inference, self.n_samples, self.relu = p, rescale, inference, n_samples, relu

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Return the layer's output for input of shape (..., in_features), of shape (..., out_features)."""
        if not self.training and self.inference == "gaussian":
            return self._average(input)
        y = drop_connect(input, self.weight, self.bias, self.p, self.training, rescale=self.rescale)
        return functional.relu(y) if self.relu else y

    def _average(self, x: Tensor) -> Tensor:
        """Return the average of relu over draws from the normal distribution with the output's moments."""
        _check_product(x, self.weight, self.bias)
        scale = kept_scale(self.p) if self.rescale else 1.0
        mean = functional.linear(x, self.weight * ((1 - self.p) * scale), self.bias)
        std = (functional.linear(x.square(), self.weight.square()) * (self.p * (1 - self.p) * scale**2)).sqrt()
        total = torch.zeros_like(mean)
        for _ in range(self.n_samples):
            total = total + functional.relu(mean + std * torch.randn_like(mean))
        return total / self.n_samples

    def extra_repr(self) -> str:
        """Return the arguments for the repr."""
        text = f"{super().extra_repr()}, p={self.p}"
        defaults = {"rescale": True, "inference": "mean", "n_samples": 64, "relu": False}
        return text + "".join(
            f", {name}={getattr(self, name)!r}" for name, default in defaults.items() if getattr(self, name) != default
        )


class FeatureDropoutLinear(Leaf, nn.Linear):
    """Feature dropout followed by `torch.nn.Linear`, in one: the matrix products use only the kept columns.

    The results equal, up to rounding, those of `FeatureDropout` followed by `nn.Linear`, with about 1-p of the
    arithmetic. Where gathering columns does not pay (small p, small layers), the layer runs the two steps. Parameters
    and their names are those of `nn.Linear`.

    Parameters
    ----------
    in_features, out_features, bias, device, dtype
        As in `nn.Linear`.
    p : float
        The probability of dropping a feature, in [0, 1].

    Raises
    ------
    TypeError, ValueError
        For an argument other than the above.

    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        p: float = 0.5,
        *,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        check_flag("bias", bias)
        check_probability(p)
        super().__init__(in_features, out_features, bias, device, dtype)
        self.p = p

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Return the layer's output for input of shape (..., in_features), of shape (..., out_features)."""
        return feature_dropout_linear(input, self.weight, self.bias, self.p, self.training)

    def _by_operators(self, input: Tensor) -> Tensor:  # noqa: A002
        dropped = operators.feature_dropout(input, self.p, self.training, "train")
        return functional.linear(dropped, self.weight, self.bias)

    def extra_repr(self) -> str:
        """Return the arguments for the repr."""
        return f"{super().extra_repr()}, p={self.p}"
