"""Chains of linear layers with feature dropout between them: which of their products are compact, and their output."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.module import _has_any_global_hook

from cdropout import _kernels
from cdropout.compact.kept import KeepWords
from cdropout.compact.linear import compact_pays
from cdropout.torch import operators
from cdropout.torch.arguments import check_tensor, sizes_of
from cdropout.torch.kept import DTYPES, GatherKept, Kept, kept_linear
from cdropout.torch.shared_axes import drop_along, feature_dropout
from cdropout.torch.tensors import PLAIN, draw_mask, is_ours

# The multiplications and additions that a product does in the time of a hidden layer's additional calls. The number is
# such that no network was measured slower with compact products than with full ones where it chooses them. For
# 784-h-h-10 at batch 128, compact and full products took, over no dropout: h = 512, p = 0.2, 1.05 to 1.12 and 1.03;
# p = 0.5, 0.69 and 1.02. h = 128, p = 0.5: 1.24 and 1.04 over element-wise dropout. A layer behind a compact one
# gathers from its weight anyway and adds fewer calls: for h = 512, p = 0.5 and only the first layer compact, 0.91.
FLOPS_OF_CALLS = 48_000_000
FLOPS_OF_CALLS_BEHIND_COMPACT = 24_000_000
# The same for an element that is gathered or scattered with groups. With 4 groups, h = 2048 and p = 0.5, compact
# products took 1.13 at batch 128, where full ones take 1.0 to 1.03, and 0.43 at batch 512.
FLOPS_PER_MOVED_ELEM_OF_GROUPS = 56


class Layer(NamedTuple):
    """A linear layer of a chain, the functions behind it, and what drops their output; None for the last layer."""

    linear: nn.Module
    activations: Sequence[Callable[[Tensor], Tensor]]
    dropout: nn.Module | None

    @property
    def p(self) -> float:
        """The probability of dropping, 0 in evaluation."""
        dropout: Any = self.dropout
        return dropout.p if dropout is not None and dropout.training else 0.0


class Chain(NamedTuple):
    """Linear layers with feature dropout between them, and all modules of which they are made, in order."""

    layers: Sequence[Layer]
    modules: Sequence[nn.Module]

    @property
    def n_groups(self) -> int:
        """The number of groups of all dropout layers, 0 if they differ."""
        numbers = {getattr(layer.dropout, "n_groups", 1) for layer in self.layers[:-1]}
        return numbers.pop() if len(numbers) == 1 else 0


def drop_groups(x: Tensor, p: float, n_groups: int) -> Tensor:
    """Return x after feature dropout with a mask for each group of rows: one axis of features, all others are rows."""
    if n_groups == 1:
        return feature_dropout(x, p)
    check_tensor(x)
    sizes = sizes_of(x)
    if not sizes or sizes[-1] == 0:
        raise ValueError(f"input must have an axis of features, got shape {sizes}")
    n_rows, n_features = math.prod(sizes[:-1]), sizes[-1]
    _check_rows(n_rows, n_groups)
    if n_rows % n_groups == 0:
        shaped = x.reshape(n_groups, n_rows // n_groups, n_features)
        return drop_along(shaped, p, (1,), True, False, None).reshape(sizes)
    factor = drop_along(torch.ones(n_groups, n_features, dtype=x.dtype, device=x.device), p, (), True, False, None)
    factor = factor.index_select(0, operators.groups_of_rows(n_rows, n_groups, x.device)).reshape(sizes)
    return (x * factor).masked_fill(factor == 0.0, 0.0)


def _check_rows(n_rows: int, n_groups: int) -> None:
    if n_rows < n_groups:
        raise ValueError(f"input must have a row for each of {n_groups} groups, got {n_rows}")


def _choose(chain: Chain, n_samples: int) -> list[bool]:
    """Return for each layer whether its output is computed at kept features only, by the rule of `compact_pays`."""
    layers, n_groups = chain.layers, chain.n_groups
    found: list[bool] = []
    for i, layer in enumerate(layers[:-1]):
        weight, behind = layer.linear.weight, layers[i + 1]
        n_out, n_in = weight.shape  # type: ignore[union-attr,misc]
        if found and found[-1]:
            n_in = int(n_in * (1 - layers[i - 1].p))
        n_after = int(behind.linear.weight.shape[0] * (1 - behind.p))  # type: ignore[union-attr,index,operator]
        pays = compact_pays(
            n_samples // n_groups,
            n_in,
            n_out,
            n_after,
            layer.p,
            flops_of_calls=FLOPS_OF_CALLS_BEHIND_COMPACT if found and found[-1] else FLOPS_OF_CALLS,
            flops_per_moved_elem=FLOPS_PER_MOVED_ELEM_OF_GROUPS if n_groups > 1 else None,
        )
        found.append(0.0 < layer.p < 1.0 and pays)
    return found


def compact_choice(chain: Chain, x: Any) -> list[bool]:
    """Return the choice of `_choose`, or nothing if the products cannot be compact: the modules run one by one then."""
    parameters: list[Any] = []
    for layer in chain.layers:
        parameters += [layer.linear.weight] if layer.linear.bias is None else [layer.linear.weight, layer.linear.bias]
    dtype = parameters[0].dtype
    if dtype not in DTYPES or any(each.dtype is not dtype for each in parameters):
        return []
    if not is_ours(1.0, None, *parameters) or any(map(is_watched, chain.modules)):
        return []
    if type(x) not in PLAIN or x.layout is not torch.strided or x.is_nested or x.device.type != "cpu":
        return []
    if x.dim() < 2 or x.shape[-1] == 0 or chain.n_groups == 0:
        return []
    weights: list[Any] = [layer.linear.weight for layer in chain.layers]
    widths = [x.shape[-1], *(weight.shape[0] for weight in weights)]
    if any(width != weight.shape[1] for width, weight in zip(widths, weights, strict=False)):
        return []  # the modules raise PyTorch's error before anything is drawn for them
    n_samples = x.numel() // x.shape[-1]
    if n_samples == 0 and chain.n_groups == 1:
        return []
    _check_rows(n_samples, chain.n_groups)
    choice = _choose(chain, n_samples)
    return choice if any(choice) else []


def is_watched(module: nn.Module) -> bool:
    """Return whether a call of the module does more than its class says."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in module.__dict__
    )


def _run(chain: Chain, x: Tensor, choice: Sequence[bool]) -> Tensor:
    """Return the output of a chain whose layers are compact where chosen."""
    n_groups, leading = chain.n_groups, x.shape[:-1]
    full = x.reshape(-1, x.shape[-1])
    bounds = [len(full) * g // n_groups for g in range(n_groups + 1)]
    sizes = [end - begin for begin, end in pairwise(bounds)]
    blocks: list[Tensor] = []  # one for each group, instead of full
    columns: list[KeepWords] = []  # the kept inputs of the layer, for each group
    scale = 1.0
    for layer, is_compact in zip(chain.layers, [*choice, False], strict=True):
        weight: Any = layer.linear.weight
        bias: Any = layer.linear.bias
        p = layer.p
        rows: list[KeepWords] = []
        if is_compact:
            mask = draw_mask((n_groups, weight.shape[0]), p, (), None)
            rows = [KeepWords(mask[g : g + 1]) for g in range(n_groups)]
        if rows or columns:
            blocks = blocks or ([full] if n_groups == 1 else list(full.split(sizes)))
            groups = [Kept(rows[g] if rows else None, columns[g] if columns else None, scale) for g in range(n_groups)]
            parts = GatherKept.apply(groups, weight, bias)  # type: ignore[no-untyped-call]
            step = 1 if bias is None else 2
            multiply = functools.partial(kept_linear, is_last=not rows)
            blocks = [multiply(block, *parts[step * g : step * g + step]) for g, block in enumerate(blocks)]
        else:
            full = functional.linear(full, weight, bias)
        if blocks and not rows:
            full, blocks = blocks[0] if n_groups == 1 else torch.cat(blocks), []
        for activation in layer.activations:
            if blocks:
                blocks = [activation(block) for block in blocks]
            else:
                full = activation(full)
        if p > 0.0 and not rows:
            full = drop_groups(full, p, n_groups)
        columns, scale = rows, _kernels.kept_scale(p) if rows else 1.0
    return full.reshape(*leading, full.shape[-1])


def run_modules(modules: Sequence[nn.Module], x: Any) -> Any:
    """Return the output of modules that run one behind the other."""
    for module in modules:
        x = module(x)
    return x


def run_compact(chain: Chain, x: Tensor, choice: Sequence[bool]) -> Tensor:
    """Return what `_run` does; torch.compile ends its graph before it, because the sizes depend on the mask."""
    if torch.compiler.is_compiling():
        from cdropout.torch import between_graphs  # its import takes seconds

        return between_graphs.call(_run, chain, x, choice)  # type: ignore[no-any-return]
    return _run(chain, x, choice)


def run_chain(chain: Chain, x: Any) -> Any:
    """Return the output of a chain, by compact products where they can be made and pay."""
    choice = compact_choice(chain, x) if not _has_any_global_hook() else []
    if not choice:
        return run_modules(chain.modules, x)
    return run_compact(chain, x, choice)
