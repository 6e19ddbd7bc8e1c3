"""Scaled dot-product attention with dropout of the weights, computed piece by piece within the cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from cdropout.mask import Mask
from cdropout.torch import native_library
from cdropout.torch.tensors import (
    PLAIN,
    ApplyMask,
    draw_mask,
    factor_of,
    is_ours,
    is_plain,
    is_recorded,
    is_transformed,
    write_masked,
)

# Bytes of scores in one piece: a piece is computed, normalized, dropped and multiplied within a core's cache.
# `python -m benchmarks attention --pieces` tries other sizes.
_BYTES_AT_ONCE = 1 << 21


class _Attention(torch.autograd.Function):
    """out = drop(softmax(scale query key^T + bias)) value, some heads or rows at a time.

    Queries, keys and values have shape (heads, rows, features). bias is None or has shape (groups, heads of a group,
    rows, keys). is_dead has shape (groups, heads of a group, rows, 1) and is True for rows in which the bias excludes
    every key. The scores are never in memory as a whole: the backward pass computes each piece again.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        bias: Tensor | None,
        is_dead: Tensor | None,
        mask: Mask,
        scale: float,
    ) -> Tensor:
        ctx.mask, ctx.scale = mask, scale
        out = query.new_empty((*query.shape[:2], value.shape[-1]))
        for heads, rows, scores, weights in _pieces(query, key, bias, is_dead, scale):
            _drop_weights(mask, heads, rows, query.shape[1], weights, scores)
            torch.bmm(scores, value[heads], out=out[heads, rows])
        ctx.save_for_backward(query, key, value, bias, is_dead, out)
        return out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        (dout,) = grad_outputs
        query, key, value, bias, is_dead, out = ctx.saved_tensors
        has_second_derivative = torch.is_grad_enabled()
        if has_second_derivative or is_transformed() or is_recorded() or not is_plain(dout):
            # PyTorch's operators have the second derivatives, and take gradients that are batched or recorded.
            if not has_second_derivative:
                query, key, value = (t.detach().requires_grad_() for t in (query, key, value))
            inputs = [t for t, needed in zip((query, key, value), ctx.needs_input_grad, strict=False) if needed]
            with torch.enable_grad(), torch.autocast("cpu", enabled=False):
                again = _attend_by_operators(query, key, value, bias, is_dead, ctx.mask, ctx.scale)
                found = iter(torch.autograd.grad(again, inputs, dout, create_graph=has_second_derivative))
            return *(next(found) if needed else None for needed in ctx.needs_input_grad[:3]), None, None, None, None
        n_rows = query.shape[1]
        dquery, dkey, dvalue = query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape)
        with torch.autocast("cpu", enabled=False):
            # Softmax's backward pass needs the sum of weights * dweights for each row, which is that of out * dout.
            sums = (dout * out).sum(-1, keepdim=True)
            for heads, rows, scores, weights in _pieces(query, key, bias, is_dead, ctx.scale):
                onto = float(rows.start > 0)  # 0 for the first rows of these heads, which overwrite the buffer
                _drop_weights(ctx.mask, heads, rows, n_rows, weights, scores)
                _add_product(dvalue[heads], scores.transpose(1, 2), dout[heads, rows], onto, 1.0)
                torch.bmm(dout[heads, rows], value[heads].transpose(1, 2), out=scores)
                _drop_weights(ctx.mask, heads, rows, n_rows, scores, scores)
                dscores = scores.sub_(sums[heads, rows]).mul_(weights)
                _add_product(dquery[heads, rows], dscores, key[heads], 0.0, ctx.scale)
                _add_product(dkey[heads], dscores.transpose(1, 2), query[heads, rows], onto, ctx.scale)
        return dquery, dkey, dvalue, None, None, None, None


def _add_product(total: Tensor, a: Tensor, b: Tensor, onto: float, scale: float) -> None:
    """Compute total = onto * total + scale * a @ b in place."""
    torch.baddbmm(total, a, b, beta=onto, alpha=scale, out=total)


def _drop_weights(mask: Mask, heads: slice, rows: slice, n_rows: int, weights: Tensor, out: Tensor) -> None:
    """Drop elements of a piece of the weights; the mask has one row per head and query, one column per key."""
    low, high = heads.start * n_rows + rows.start, (heads.stop - 1) * n_rows + rows.stop
    shape = (high - low, weights.shape[-1])
    write_masked(mask[low:high], weights.view(shape).numpy(), out.view(shape).numpy())


def _pieces(
    query: Tensor, key: Tensor, bias: Tensor | None, is_dead: Tensor | None, scale: float
) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
    """Yield (heads, rows, scores, weights) for consecutive pieces: two slices, a scratch buffer, and the softmax.

    The next piece overwrites both buffers.
    """
    n_heads, n_rows, n_keys = query.shape[0], query.shape[1], key.shape[1]
    n_grouped = n_heads if bias is None else bias.shape[1]
    rows_at_once = max(1, _BYTES_AT_ONCE // (n_keys * query.element_size()))
    heads_at_once = min(max(1, rows_at_once // n_rows), n_grouped)
    rows_at_once = min(rows_at_once, n_rows)
    buffers = query.new_empty((2, heads_at_once * rows_at_once * n_keys))
    for first_head in range(0, n_heads, n_grouped):
        for head in range(first_head, first_head + n_grouped, heads_at_once):
            heads = slice(head, min(head + heads_at_once, first_head + n_grouped))
            for row in range(0, n_rows, rows_at_once):
                rows = slice(row, min(row + rows_at_once, n_rows))
                shape = (heads.stop - heads.start, rows.stop - rows.start, n_keys)
                scores, weights = buffers[:, : shape[0] * shape[1] * n_keys].view(2, *shape)
                place = (head // n_grouped, slice(head - first_head, heads.stop - first_head), rows)
                added, onto = (scores, 0.0) if bias is None else (bias[place], 1.0)
                keys = key[heads].transpose(1, 2)
                torch.baddbmm(added, query[heads, rows], keys, beta=onto, alpha=scale, out=scores)
                torch.softmax(scores, -1, out=weights)
                if is_dead is not None:
                    weights.masked_fill_(is_dead[place], 0.0)
                yield heads, rows, scores, weights


def _attend_by_operators(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    is_dead: Tensor | None,
    mask: Mask,
    scale: float,
) -> Tensor:
    """Compute the same as `_Attention` with PyTorch's operators: all weights in memory, every derivative."""
    scores = query @ key.transpose(1, 2) * scale
    if bias is not None:
        scores = (scores.view(bias.shape) + bias).view(scores.shape)
    if is_dead is None:
        weights = scores.softmax(-1)
    else:  # without the masks, softmax of such a row and its derivative would be NaN
        is_dead = is_dead.view(*scores.shape[:2], 1)
        weights = scores.masked_fill(is_dead, 0.0).softmax(-1).masked_fill(is_dead, 0.0)
    if is_recorded() or is_transformed():
        return (weights * factor_of(mask, None, weights.dtype).view(scores.shape)) @ value
    dropped: Tensor = ApplyMask.apply(weights.view(mask.shape), mask, None, 0.0, 0.0, False)
    return dropped.view(scores.shape) @ value


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    p: float,
    scale: float | None,
    generator: Any,
) -> Tensor:
    """Return the attention of arguments whose shapes and dtypes match; bias is added to the scores."""
    q, k, v, bias, is_dead = _flattened(query, key, value, bias)
    n_heads, n_rows = q.shape[:2]
    mask = draw_mask((n_heads * n_rows, key.shape[-2]), p, (), generator)
    attend: Any = _Attention.apply if bias is None or not bias.requires_grad else _attend_by_operators
    with torch.autocast("cpu", enabled=False):
        out = attend(q, k, v, bias, is_dead, mask, query.shape[-1] ** -0.5 if scale is None else scale)
    batch = torch.broadcast_shapes(query.shape[:-2], key.shape[:-2], value.shape[:-2])
    return out.to(query.dtype).view(*batch, n_rows, value.shape[-1])  # type: ignore[no-any-return]


def _flattened(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """Return query, key, value, bias and is_dead as `_Attention` takes them."""
    batch = torch.broadcast_shapes(query.shape[:-2], key.shape[:-2], value.shape[:-2])
    n_rows, n_keys, dtype = query.shape[-2], key.shape[-2], query.dtype
    exact = dtype if dtype is torch.float64 else torch.float32
    n_heads = batch.numel()
    q, k, v = (t.expand(*batch, *t.shape[-2:]).reshape(n_heads, *t.shape[-2:]).to(exact) for t in (query, key, value))
    is_dead = None
    if bias is not None:
        closed = (bias == -torch.inf).all(-1, keepdim=True)
        n_grouped = n_heads
        if n_heads * n_rows * n_keys * q.element_size() > _BYTES_AT_ONCE and len(batch) > 1 and bias.dim() > 2:
            n_grouped = batch[-1]  # heads of one group share the bias without copies
        groups = (n_heads // max(n_grouped, 1), n_grouped, n_rows)
        if closed.any():
            is_dead = closed.expand(*batch, n_rows, 1).reshape(*groups, 1)
        bias = bias.to(exact).expand(*batch, n_rows, n_keys).reshape(*groups, n_keys)
    return q, k, v, bias, is_dead


def _attend_recorded(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    p: float,
    scale: float | None,
    generator: Any,
) -> Tensor:
    """Compute `_attend` with operators that a compiler records and fuses; the mask is that of `_attend`."""
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if bias is not None:
        scores = scores + bias
    weights = scores.softmax(-1)
    if bias is not None:  # softmax of a row without any key would be NaN
        weights = weights.masked_fill((bias == -torch.inf).all(-1, keepdim=True), 0.0)
    dropped: Tensor = torch.ops.cdropout.record(weights.to(query.dtype), p, [], False)
    return dropped @ value


def _fits(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None, is_causal: bool) -> bool:
    """Return whether the arguments are valid for PyTorch's attention; query, key and value are plain tensors."""
    if min(query.dim(), key.dim(), value.dim()) < 2 or 0 in (query.numel(), key.numel(), value.numel()):
        return False
    if (
        query.shape[-1] != key.shape[-1]
        or key.shape[-2] != value.shape[-2]
        or not query.dtype is key.dtype is value.dtype
    ):
        return False
    try:
        batch = torch.broadcast_shapes(query.shape[:-2], key.shape[:-2], value.shape[:-2])
        if attn_mask is None:
            return True
        scores = (*batch, query.shape[-2], key.shape[-2])
        fits_mask = torch.broadcast_shapes(attn_mask.shape, scores) == scores
    except RuntimeError:
        return False
    fits_mask &= attn_mask.dtype in (torch.bool, torch.float32, query.dtype) and attn_mask.device.type == "cpu"
    return not is_causal and fits_mask and type(attn_mask) in PLAIN and attn_mask.layout is torch.strided


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Attend with dropout of the weights, as `torch.nn.functional.scaled_dot_product_attention` does.

    The weights are computed, dropped and used piece by piece within the cache, and computed again by the backward pass.
    They are in memory as a whole only if attn_mask needs a gradient or a second derivative is wanted.

    Parameters
    ----------
    query : Tensor
        (..., heads, queries, features).
    key : Tensor
        (..., heads, keys, features).
    value : Tensor
        (..., heads, keys, features of a value).
    attn_mask : Tensor, optional
        A tensor that broadcasts to (..., heads, queries, keys): bool, True for the keys to use, or float, added to the
        scores.
    dropout_p : float
        The probability of dropping a weight, in [0, 1], whether in training or not.
    is_causal : bool
        Whether query i uses only keys 0 to i.
    scale : float, optional
        Factor for the scores; 1/sqrt(features) by default.
    enable_gqa : bool
        Whether several heads of query share one head of key and value.
    generator : torch.Generator, optional
        Source of the mask; PyTorch's default CPU generator by default.

    Returns
    -------
    Tensor
        A tensor of shape (..., heads, queries, features of a value) and query's dtype. Calls with tensors that are not
        plain CPU tensors, with arguments that are not valid, or with dropout_p = 0 are passed to PyTorch's function.

    Raises
    ------
    ValueError
        For a dropout_p outside [0, 1], and for a generator if the call is passed to PyTorch's function, which accepts
        none.
    RuntimeError
        From PyTorch, for shapes or dtypes that do not match.

    """
    out = attend_if_it_fits(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa, generator)
    if out is not None:
        return out
    return functional.scaled_dot_product_attention(  # type: ignore[no-any-return]
        query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
    )


def attend_if_it_fits(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None,
    dropout_p: float,
    is_causal: bool,
    scale: float | None,
    enable_gqa: bool,
    generator: Any,
) -> Tensor | None:
    """Return the attention of `scaled_dot_product_attention`, or None for arguments that are PyTorch's."""
    if not is_ours(dropout_p, generator, query, key, value):
        return None
    q, k, v = query, key, value
    if torch.is_autocast_enabled("cpu"):
        q, k, v = (t.to(torch.get_autocast_dtype("cpu")) if t.dtype is torch.float32 else t for t in (q, k, v))
    if native_library.is_loaded() and not torch.compiler.is_compiling():
        ops = torch.ops.cdropout
        if ops.attention_fits.default(q, k, v, attn_mask, is_causal, enable_gqa):
            return ops.attention.default(  # type: ignore[no-any-return]
                q, k, v, attn_mask, dropout_p, is_causal, scale, enable_gqa, generator
            )
    if enable_gqa:
        k, v = _repeated(q, k, v)
    if not _fits(q, k, v, attn_mask, is_causal):
        return None
    bias = _bias_of(q, k, attn_mask, is_causal)
    attend = _attend
    if torch.compiler.is_compiling():
        attend = _attend_recorded
        if generator is not None:
            from cdropout.torch import between_graphs  # its import takes seconds

            return between_graphs.call(  # type: ignore[no-any-return]
                _attend, q, k, v, bias, dropout_p, scale, generator
            )
    return attend(q, k, v, bias, dropout_p, scale, generator)


def _repeated(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Return key and value with as many heads as query, where its number is a multiple of theirs."""
    if min(query.dim(), key.dim(), value.dim()) > 2:
        shares = {query.shape[-3] % max(t.shape[-3], 1) for t in (key, value)}
        if shares == {0}:
            key, value = (t.repeat_interleave(query.shape[-3] // t.shape[-3], -3) for t in (key, value))
    return key, value


def _bias_of(query: Tensor, key: Tensor, attn_mask: Tensor | None, is_causal: bool) -> Tensor | None:
    """Return what is added to the scores."""
    bias = attn_mask
    if is_causal:
        bias = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device="cpu").tril()
    if bias is not None and bias.dtype is torch.bool:
        bias = query.new_zeros(bias.shape).masked_fill_(~bias, -torch.inf)
    return bias


def _attention_backward(
    dout: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None,
    low: int,
    high: int,
    p: float,
    is_causal: bool,
    scale: float,
) -> list[Tensor]:
    """Return the gradients of query, key and value by PyTorch's operators, which have every derivative.

    low and high are the words of the mask's key, signed.
    """
    has_second_derivative = torch.is_grad_enabled()
    inputs = [query, key, value]
    if not has_second_derivative:
        inputs = [t.detach().requires_grad_(t.requires_grad) for t in inputs]
    wanted = [t for t in inputs if t.requires_grad]
    with torch.enable_grad(), torch.autocast("cpu", enabled=False):
        q, k, v = inputs
        k, v = _repeated(q, k, v)
        flat_q, flat_k, flat_v, bias, is_dead = _flattened(q, k, v, _bias_of(q, k, attn_mask, is_causal))
        words = (low & (1 << 64) - 1) | (high & (1 << 64) - 1) << 64
        mask = Mask(words, 0, p, (flat_q.shape[0] * flat_q.shape[1], flat_k.shape[1]), ())
        out = _attend_by_operators(flat_q, flat_k, flat_v, bias, is_dead, mask, scale)
        out = out.to(q.dtype).view(*q.shape[:-1], v.shape[-1])
        found = iter(torch.autograd.grad(out, wanted, dout, create_graph=has_second_derivative))
    return [next(found) if t.requires_grad else torch.zeros_like(t) for t in inputs]


def _attend_for_operator(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None,
    dropout_p: float,
    is_causal: bool,
    scale: float | None,
    enable_gqa: bool,
) -> list[Tensor]:
    out = attend_if_it_fits(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa, None)
    return [] if out is None else [out]


# What the C++ part of this package calls for PyTorch's operator while the switch is on: one tensor, or none.
_library = torch.library.Library("cdropout", "FRAGMENT")
_library.define(
    "attend(Tensor query, Tensor key, Tensor value, Tensor? attn_mask, float dropout_p, bool is_causal, float? scale, "
    "bool enable_gqa) -> Tensor[]"
)
_library.impl("attend", _attend_for_operator, "CompositeImplicitAutograd")
# What it calls for derivatives that its kernels do not have.
_library.define(
    "attention_backward(Tensor dout, Tensor query, Tensor key, Tensor value, Tensor? attn_mask, int low, int high, "
    "float p, bool is_causal, float scale) -> Tensor[]"
)
for _key in ("CompositeImplicitAutograd", "Batched", "FuncTorchBatched"):
    _library.impl("attention_backward", _attention_backward, _key)
