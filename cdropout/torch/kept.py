"""Kept rows and columns of a weight, as tensors that autograd differentiates, and products of them.

The kernels are those of `cdropout.compact.gather_kept` and `scatter_kept`, for tensors of float32 and float64. Half of
the rows and columns of a (2048, 2048) matrix are gathered in 0.35 ms, where `index_select` along both axes takes 0.99
ms, and put back into zeros in 0.56 ms, where `index_put_` takes 5.3 ms (float32, AVX-512, one thread).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cdropout import _kernels
from cdropout.compact.kept import KeepWords
from cdropout.torch.fused import is_kernels_gradient

DTYPES = (torch.float32, torch.float64)
# Multiplications of a product from which on aligned rows save more than the call of `_Product` takes.
ALIGNED_FROM = 1 << 26


class Kept(NamedTuple):
    """The rows and columns of a weight that one group of samples uses, and the factor by which it is multiplied."""

    rows: KeepWords | None
    columns: KeepWords | None
    scale: float

    def shape(self, weight: Tensor) -> tuple[int, int]:
        """Return the shape of the kept part."""
        n_rows, n_columns = weight.shape
        return (
            n_rows if self.rows is None else self.rows.n_kept,
            n_columns if self.columns is None else self.columns.n_kept,
        )


def _move(verb: str, x: Tensor, out: Any, rows: KeepWords | None, columns: KeepWords | None, scale: float) -> None:
    """Run the kernel that gathers or scatters, on as many threads as PyTorch uses."""
    words = (None if rows is None else rows.words, None if columns is None else columns.words)
    _kernels.with_threads(torch.get_num_threads(), _kernels.move_kept, verb, x.numpy(), out, *words, scale)


def _gather(groups: Sequence[Kept], weight: Tensor, bias: Tensor | None) -> tuple[Tensor, ...]:
    """Return the kept part of weight, and of bias, for each group, without recording it in autograd's graph."""
    found = []
    whole = weight.detach().contiguous()
    whole_bias = None if bias is None else bias.detach().contiguous().unsqueeze(0)
    for kept in groups:
        part = torch.empty(kept.shape(weight), dtype=whole.dtype)
        _move("gather", whole, part.numpy(), kept.rows, kept.columns, kept.scale)
        found.append(part)
        if whole_bias is not None:
            part_of_bias = torch.empty(1, len(part), dtype=whole.dtype)
            _move("gather", whole_bias, part_of_bias.numpy(), None, kept.rows, 1.0)
            found.append(part_of_bias[0])
    return tuple(found)


def _scatter(groups: Sequence[Kept], shape: Sequence[int], columns_are_rows: bool, parts: Sequence[Tensor]) -> Tensor:
    """Return the sum of the groups' parts of a weight at their places, 0 elsewhere; of a bias if columns_are_rows."""
    out = torch.empty(tuple(shape), dtype=parts[0].dtype)
    written = out.numpy()
    if written.nbytes >= _kernels.HUGE_PAGES_FROM_BYTES:
        _kernels.expect_writing(written)
    for i, (kept, part) in enumerate(zip(groups, parts, strict=True)):
        verb = "zero" if i == 0 else "add"
        rows, columns, scale = (None, kept.rows, 1.0) if columns_are_rows else kept
        _move(verb, part.detach().contiguous(), written, rows, columns, scale)
    return out


def _sources(kept: KeepWords) -> Tensor:
    """Return the place of each element among the kept ones, and their number for each dropped one."""
    sources = np.full(kept.n_elems, kept.n_kept)
    sources[kept.indices()] = np.arange(kept.n_kept)
    return torch.from_numpy(sources)


def _scattered_by_operators(kept: Kept, part: Tensor) -> Tensor:
    """Return what `_scatter` does for one group, for gradients without plain memory."""
    for axis, words in ((0, kept.rows), (1, kept.columns)):
        if words is not None:
            padding = (0, 0, 0, 1) if axis == 0 else (0, 1)
            part = functional.pad(part, padding).index_select(axis, _sources(words))
    return part * kept.scale


def _gathered_by_operators(groups: Sequence[Kept], weight: Tensor, bias: Tensor | None = None) -> tuple[Tensor, ...]:
    """Return what `_gather` does, for gradients without plain memory."""
    found = []
    for rows, columns, scale in groups:
        part, part_of_bias = weight, bias
        if rows is not None:
            indices = torch.from_numpy(rows.indices())
            part = part.index_select(0, indices)
            part_of_bias = None if bias is None else bias.index_select(0, indices)
        if columns is not None:
            part = part.index_select(1, torch.from_numpy(columns.indices()))
        found += [part * scale] if part_of_bias is None else [part * scale, part_of_bias]
    return tuple(found)


class GatherKept(torch.autograd.Function):
    """The groups' kept parts of a weight and a bias: (weight, bias, weight, bias, ...), or weights only."""

    @staticmethod
    def forward(  # noqa: D102 - the class says it
        ctx: Any, groups: Sequence[Kept], weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, ...]:
        ctx.groups, ctx.shape, ctx.has_bias = groups, tuple(weight.shape), bias is not None
        # backward does not read it: PyTorch then notices a step of an optimizer between the passes.
        ctx.save_for_backward(*([weight] if any(kept.columns is not None for kept in groups) else []))
        return _gather(groups, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:  # noqa: D102
        ctx.saved_tensors  # noqa: B018
        if not is_kernels_gradient(*grads):
            step = 2 if ctx.has_bias else 1
            dweight: Any = sum(map(_scattered_by_operators, ctx.groups, grads[::step]))
            dbias = None
            if ctx.has_bias:
                of_bias = [Kept(None, kept.rows, 1.0) for kept in ctx.groups]
                parts = [grad.unsqueeze(0) for grad in grads[1::2]]
                dbias = sum(map(_scattered_by_operators, of_bias, parts)).squeeze(0)  # type: ignore[union-attr]
            return None, dweight, dbias
        if torch.is_grad_enabled():  # for second derivatives
            found = _ScatterKept.apply(ctx.groups, ctx.shape, ctx.has_bias, *grads)  # type: ignore[no-untyped-call]
            return None, found[0], found[1] if ctx.has_bias else None
        needs_weight, needs_bias = ctx.needs_input_grad[1:]
        return None, *_scatter_all(ctx.groups, ctx.shape, ctx.has_bias, grads, needs_weight, needs_bias)


class _ScatterKept(torch.autograd.Function):
    """The transpose of `GatherKept`."""

    @staticmethod
    def forward(
        ctx: Any, groups: Sequence[Kept], shape: tuple[int, int], has_bias: bool, *parts: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.groups, ctx.has_bias = groups, has_bias
        dweight, dbias = _scatter_all(groups, shape, has_bias, parts, True, has_bias)
        assert dweight is not None
        return (dweight,) if dbias is None else (dweight, dbias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        if not is_kernels_gradient(*grads):
            parts = _gathered_by_operators(ctx.groups, *grads)
            return None, None, None, *parts
        parts = GatherKept.apply(ctx.groups, grads[0], grads[1] if ctx.has_bias else None)  # type: ignore[no-untyped-call]
        return None, None, None, *parts


def _scatter_all(
    groups: Sequence[Kept],
    shape: tuple[int, int],
    has_bias: bool,
    parts: Sequence[Tensor],
    needs_weight: bool,
    needs_bias: bool,
) -> tuple[Tensor | None, Tensor | None]:
    dweight = dbias = None
    if needs_weight:
        dweight = _scatter(groups, shape, False, parts[:: 2 if has_bias else 1])
    if needs_bias:
        dbias = _scatter(groups, (1, shape[0]), True, [part.unsqueeze(0) for part in parts[1::2]])[0]
    return dweight, dbias


class _Product(torch.autograd.Function):
    """x weight^T + bias, for matrices of float32 or float64, with results whose rows begin at multiples of 64 bytes.

    Numbers of kept features are odd half of the time. For (512, 1019) times (1019, 1037), MKL takes 19.2 ms if the rows
    of the result follow each other without a gap, and 12.6 ms with these gaps (AVX-512, one thread); the operands' rows
    make no difference.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, is_aligned: bool) -> Tensor:
        ctx.save_for_backward(x, weight)
        sizes = x.shape[0], weight.shape[0]
        y = _aligned(*sizes, x.dtype) if is_aligned else torch.empty(sizes, dtype=x.dtype)
        if bias is None:
            return torch.mm(x, weight.t(), out=y)
        return torch.addmm(bias, x, weight.t(), out=y)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (dy,), (x, weight) = grads, ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        multiply = torch.mm if torch.is_grad_enabled() or not is_kernels_gradient(dy) else _multiply
        return (
            multiply(dy, weight) if needs_x else None,
            multiply(dy.t(), x) if needs_weight else None,
            dy.sum(0) if needs_bias else None,
            None,
        )


def _multiply(a: Tensor, b: Tensor) -> Tensor:
    return torch.mm(a, b, out=_aligned(a.shape[0], b.shape[1], a.dtype))


def _aligned(n_rows: int, n_columns: int, dtype: torch.dtype) -> Tensor:
    """Return a new matrix whose rows begin at multiples of 64 bytes."""
    elems_per_line = 64 // dtype.itemsize
    stride = (n_columns + elems_per_line - 1) // elems_per_line * elems_per_line
    # Not a view of a wider matrix: autograd refuses in-place functions of a view that a Function returns.
    return torch.empty_strided((n_rows, n_columns), (stride, 1), dtype=dtype)


def kept_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, is_last: bool = False) -> Tensor:
    """Return x weight^T + bias for gathered parts, with aligned rows where this saves time.

    With is_last, only the gradients have such rows: the result is contiguous, as other modules may need it.
    """
    is_small = x.shape[0] * weight.numel() < ALIGNED_FROM
    if is_small or torch.is_autocast_enabled("cpu") or x.dtype is not weight.dtype:
        return functional.linear(x, weight, bias)
    return _Product.apply(x, weight, bias, not is_last)  # type: ignore[no-any-return,no-untyped-call]
