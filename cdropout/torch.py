"""PyTorch on the CPU: dropout modules, functions and attention on this library's engine.

    import cdropout.torch
    n_replaced = cdropout.torch.replace_dropout(model)       # restore_dropout(model) undoes it

Masks follow `torch.manual_seed`, or a `torch.Generator` where one is passed; what autograd keeps for the backward pass
is the mask's value, a few dozen bytes. Arguments, checks, messages and edges are those of `torch.nn`, but for one: a
dropped NaN or infinity is 0. Whatever is not a plain tensor on the CPU, or nothing to drop, goes to PyTorch's own
function, which also refuses what it refuses.

Needs torch; `import cdropout` does not import it.
"""

from __future__ import annotations

import importlib.util
import types
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional

from cdropout import _kernels
from cdropout._kernels import alpha_map
from cdropout.mask import Mask

# NumPy knows bfloat16 by ml_dtypes only.
_HALVES = (torch.float16, torch.bfloat16) if importlib.util.find_spec("ml_dtypes") else (torch.float16,)
_DTYPES = (torch.float32, torch.float64, *_HALVES)
_PLAIN = (Tensor, nn.Parameter)

# ---- from tensors to arrays and back --------------------------------------------------------------------------------


def _is_plain(tensor: Tensor) -> bool:
    """Whether the engine can work on a tensor's own memory."""
    if type(tensor) not in _PLAIN or tensor.device.type != "cpu" or tensor.dtype not in _DTYPES:
        return False
    return tensor.layout is torch.strided and not tensor.is_nested


def _is_transformed() -> bool:
    """Whether torch.func or forward-mode differentiation is at work, to which a tensor's memory says nothing."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0  # type: ignore[no-any-return]


def _is_ours(p: float, generator: Any, *tensors: Tensor) -> bool:
    """Whether there is something to drop, for this library; ValueError where PyTorch's own would not hear generator."""
    if 0.0 < p <= 1.0 and all(map(_is_plain, tensors)) and not _is_transformed():
        return True
    if generator is not None and 0.0 < p <= 1.0:
        raise ValueError(
            "generator must be None unless input is a dense tensor on the CPU, of a floating dtype and outside "
            f"torch.func and forward-mode differentiation, got {generator}"
        )
    return False


def _as_array(tensor: Tensor) -> Any:
    """Return an array on the tensor's memory."""
    if tensor.dtype is torch.bfloat16:
        import ml_dtypes

        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def _draw_mask(shape: tuple[int, ...], p: float, shared_axes: tuple[int, ...], generator: Any) -> Mask:
    """Draw the key of a mask of its own from PyTorch's generator."""
    low, high = torch.randint(-(2**63), 2**63 - 1, (2,), dtype=torch.int64, device="cpu", generator=generator).tolist()
    key = (low & 0xFFFFFFFFFFFFFFFF) | (high & 0xFFFFFFFFFFFFFFFF) << 64
    return Mask(key, 0, p, shape, shared_axes)


def _apply(x: Tensor, mask: Mask, scale: float | None, shift: float, fill: float, inplace: bool) -> Tensor:
    """Apply a mask without a word to autograd."""
    plain = x.detach()
    y = plain if inplace else torch.empty_like(plain)
    written = _as_array(y)
    if not inplace and written.nbytes >= _kernels.HUGE_PAGES_FROM_BYTES and y.is_contiguous():
        _kernels.expect_writing(written)
    mask.apply(_as_array(plain), written, scale=scale, shift=shift, fill=fill)
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
        For a p outside [0, 1], and for a generator where input is given to PyTorch's own function, which takes none.

    """
    if not (training and _is_ours(p, generator, input)):
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
    if not (training and _is_ours(p, generator, input)) or input.dim() not in (2, 3):
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
    if not (training and _is_ours(p, generator, input)) or input.dim() != 4:
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
    if not (training and _is_ours(p, generator, input)) or input.dim() not in (4, 5):
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
    if not (training and _is_ours(p, generator, input)):
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
    if not (training and _is_ours(p, generator, input)) or input.dim() < 2:
        return functional.feature_alpha_dropout(input, p, training, inplace)
    return _drop(input, p, tuple(range(2, input.dim())), inplace, generator, alpha=True)


# ---- attention ------------------------------------------------------------------------------------------------------

# What is worked on at a time, in bytes of scores: they are made, normalized, dropped and multiplied within a core's
# cache; `python -m benchmarks attention --pieces` tries other sizes.
_BYTES_AT_ONCE = 1 << 21


class _Attention(torch.autograd.Function):
    """out = drop(softmax(scale query key^T + bias)) value, some heads or rows at a time.

    Queries, keys and values are (heads, rows, features). bias is (groups, heads of a group, rows, keys) or None;
    is_dead, of the same shape but for one key, is True where it closes a row to every key. Scores are never held as a
    whole: the backward pass makes each piece anew, as the forward pass did.
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
        if torch.is_grad_enabled():  # a further derivative is wanted: by PyTorch's operators, which know theirs
            inputs = [t for t, needed in zip((query, key, value), ctx.needs_input_grad, strict=False) if needed]
            again = _attend_by_operators(query, key, value, bias, is_dead, ctx.mask, ctx.scale)
            found = iter(torch.autograd.grad(again, inputs, dout, create_graph=True))
            return *(next(found) if needed else None for needed in ctx.needs_input_grad[:3]), None, None, None, None
        n_rows = query.shape[1]
        dquery, dkey, dvalue = query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape)
        with torch.autocast("cpu", enabled=False):
            # The sum of weights times their gradients is the same without the weights: that of out times its own.
            sums = (dout * out).sum(-1, keepdim=True)
            for heads, rows, scores, weights in _pieces(query, key, bias, is_dead, ctx.scale):
                onto = float(rows.start > 0)  # whether other rows of these heads have been added already
                _drop_weights(ctx.mask, heads, rows, n_rows, weights, scores)
                _add_product(dvalue[heads], scores.transpose(1, 2), dout[heads, rows], onto, 1.0)
                torch.bmm(dout[heads, rows], value[heads].transpose(1, 2), out=scores)
                _drop_weights(ctx.mask, heads, rows, n_rows, scores, scores)
                dscores = scores.sub_(sums[heads, rows]).mul_(weights)
                _add_product(dquery[heads, rows], dscores, key[heads], 0.0, ctx.scale)
                _add_product(dkey[heads], dscores.transpose(1, 2), query[heads, rows], onto, ctx.scale)
        return dquery, dkey, dvalue, None, None, None, None


def _add_product(total: Tensor, a: Tensor, b: Tensor, onto: float, scale: float) -> None:
    """Make total = onto total + scale a b."""
    torch.baddbmm(total, a, b, beta=onto, alpha=scale, out=total)


def _drop_weights(mask: Mask, heads: slice, rows: slice, n_rows: int, weights: Tensor, out: Tensor) -> None:
    """Drop a piece of the weights, whose mask is one row of keys a row of queries."""
    low, high = heads.start * n_rows + rows.start, (heads.stop - 1) * n_rows + rows.stop
    shape = (high - low, weights.shape[-1])
    mask[low:high].apply(weights.view(shape).numpy(), out.view(shape).numpy())


def _pieces(
    query: Tensor, key: Tensor, bias: Tensor | None, is_dead: Tensor | None, scale: float
) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
    """Yield heads, rows, a buffer of their scores to write into, and their weights, in order, without a gap.

    The buffer and the weights are the caller's until the next piece.
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
    """As `_Attention`, with all weights in memory and every derivative."""
    scores = query @ key.transpose(1, 2) * scale
    if bias is not None:
        scores = (scores.view(bias.shape) + bias).view(scores.shape)
    if is_dead is None:
        weights = scores.softmax(-1)
    else:  # the softmax of such a row is NaN, and so would be its derivative of 0
        is_dead = is_dead.view(*scores.shape[:2], 1)
        weights = scores.masked_fill(is_dead, 0.0).softmax(-1).masked_fill(is_dead, 0.0)
    dropped: Tensor = _ApplyMask.apply(weights.view(mask.shape), mask, None, 0.0, 0.0, False)  # type: ignore[no-untyped-call]
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
    """Attend with arguments that fit each other; bias is added to the scores."""
    batch = torch.broadcast_shapes(query.shape[:-2], key.shape[:-2], value.shape[:-2])
    n_rows, n_keys, dtype = query.shape[-2], key.shape[-2], query.dtype
    exact = dtype if dtype is torch.float64 else torch.float32
    n_heads = batch.numel()
    flat = [t.expand(*batch, *t.shape[-2:]).reshape(n_heads, *t.shape[-2:]).to(exact) for t in (query, key, value)]
    is_dead = None
    if bias is not None:
        closed = (bias == -torch.inf).all(-1, keepdim=True)
        n_grouped = n_heads
        if n_heads * n_rows * n_keys * flat[0].element_size() > _BYTES_AT_ONCE and len(batch) > 1 and bias.dim() > 2:
            n_grouped = batch[-1]  # heads of one group: the bias need not be copied for each of them
        groups = (n_heads // max(n_grouped, 1), n_grouped, n_rows)
        if closed.any():
            is_dead = closed.expand(*batch, n_rows, 1).reshape(*groups, 1)
        bias = bias.to(exact).expand(*batch, n_rows, n_keys).reshape(*groups, n_keys)
    mask = _draw_mask((n_heads * n_rows, n_keys), p, (), generator)
    attend: Any = _Attention.apply if bias is None or not bias.requires_grad else _attend_by_operators
    with torch.autocast("cpu", enabled=False):
        out = attend(*flat, bias, is_dead, mask, query.shape[-1] ** -0.5 if scale is None else scale)
    return out.to(dtype).view(*batch, n_rows, value.shape[-1])  # type: ignore[no-any-return]


# The compiler's graph ends before a call of this one.
_attend_between_graphs = torch.compiler.disable(_attend)


def _fits(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None, is_causal: bool) -> bool:
    """Whether PyTorch's own attention would take these, of which query, key and value are plain."""
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
    return not is_causal and fits_mask and type(attn_mask) in _PLAIN and attn_mask.layout is torch.strided


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

    The weights are made, dropped and used piece by piece within the cache, and made anew by the backward pass; they are
    never in memory as a whole, but where attn_mask or a second derivative asks for a gradient of its own.

    Parameters
    ----------
    query : Tensor
        (..., heads, queries, features).
    key : Tensor
        (..., heads, keys, features).
    value : Tensor
        (..., heads, keys, features of a value).
    attn_mask : Tensor, optional
        What fits (..., heads, queries, keys): bool, where True takes part, or float, which is added to the scores.
    dropout_p : float
        The probability of dropping a weight, in [0, 1], whether in training or not.
    is_causal : bool
        Whether a query sees only the keys up to its own place.
    scale : float, optional
        What scores are multiplied by; 1/sqrt(features) unless given.
    enable_gqa : bool
        Whether each head of key and value serves several of query's.
    generator : torch.Generator, optional
        What masks are drawn from; PyTorch's default generator for the CPU unless given.

    Returns
    -------
    Tensor
        (..., heads, queries, features of a value), of query's dtype. What is no plain tensor on the CPU, and what does
        not fit, is given to PyTorch's own function, as is all with a dropout_p of 0.

    Raises
    ------
    ValueError
        For a dropout_p outside [0, 1], and for a generator where the tensors are given to PyTorch's own function, which
        takes none.
    RuntimeError
        PyTorch's own, for shapes or dtypes that do not go together.

    """
    if _is_ours(dropout_p, generator, query, key, value):
        q, k, v = query, key, value
        if torch.is_autocast_enabled("cpu"):
            q, k, v = (t.to(torch.get_autocast_dtype("cpu")) if t.dtype is torch.float32 else t for t in (q, k, v))
        if enable_gqa and min(q.dim(), k.dim(), v.dim()) > 2:
            shares = {q.shape[-3] % max(t.shape[-3], 1) for t in (k, v)}
            if shares == {0}:
                k, v = (t.repeat_interleave(q.shape[-3] // t.shape[-3], -3) for t in (k, v))
        if _fits(q, k, v, attn_mask, is_causal):
            bias = attn_mask
            if is_causal:
                bias = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device="cpu").tril()
            if bias is not None and bias.dtype is torch.bool:
                bias = q.new_zeros(bias.shape).masked_fill_(~bias, -torch.inf)
            attend = _attend_between_graphs if torch.compiler.is_compiling() else _attend
            return attend(q, k, v, bias, dropout_p, scale, generator)  # type: ignore[no-any-return]
    return functional.scaled_dot_product_attention(  # type: ignore[no-any-return]
        query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
    )


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


def _rebound(function: Any, **names: Any) -> Any:
    """Return a copy of a PyTorch function that finds these objects under the given global names."""
    code = function.__code__
    if not isinstance(code, types.CodeType):
        # Documentation tools import this module with stand-ins for PyTorch, whose attributes are stand-ins too.
        return function
    missing = set(names) - set(code.co_names)
    if missing:  # the copy would call PyTorch's own dropout without a sign of it
        raise ImportError(f"cdropout.torch needs a PyTorch whose {function.__qualname__} uses {missing}")
    copied = {**function.__globals__, **names}
    rebound = types.FunctionType(code, copied, function.__name__, function.__defaults__, function.__closure__)
    rebound.__kwdefaults__ = function.__kwdefaults__
    return rebound


class MultiheadAttention(nn.MultiheadAttention):
    """`torch.nn.MultiheadAttention`, which drops its weights on this library's engine.

    All but the dropout is PyTorch's own code: its forward pass, with `scaled_dot_product_attention` and `dropout` from
    here under their names.
    """

    forward = _rebound(
        nn.MultiheadAttention.forward,
        F=types.SimpleNamespace(
            **{
                **vars(functional),
                "multi_head_attention_forward": _rebound(
                    functional.multi_head_attention_forward,
                    scaled_dot_product_attention=scaled_dot_product_attention,
                    dropout=dropout,
                ),
            }
        ),
    )


_OURS: dict[type[nn.Module], type[nn.Module]] = {
    getattr(nn, cls.__name__): cls
    for cls in (Dropout, Dropout1d, Dropout2d, Dropout3d, AlphaDropout, FeatureAlphaDropout, MultiheadAttention)
}
_THEIRS = {ours: theirs for theirs, ours in _OURS.items()}


def replace_dropout(model: nn.Module) -> int:
    """Make every dropout module of a model, itself included, one of this library's, and its attention use it.

    The modules stay the objects they are, with their names, flags, hooks and attributes; only their class changes.
    Subclasses of PyTorch's modules are left alone.

    Returns
    -------
    int
        How many dropout modules were replaced; those of attention are not counted.

    """
    return _exchange(model, _OURS)


def restore_dropout(model: nn.Module) -> int:
    """Undo `replace_dropout`; return how many dropout modules are PyTorch's again."""
    return _exchange(model, _THEIRS)


def _exchange(model: nn.Module, classes: dict[type[nn.Module], type[nn.Module]]) -> int:
    found = [module for module in model.modules() if type(module) in classes]
    for module in found:
        module.__class__ = classes[type(module)]
    return sum(not isinstance(module, nn.MultiheadAttention) for module in found)
