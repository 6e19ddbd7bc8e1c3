"""Dropout as operators that compilers record: `torch.compile`, AOT autograd, `make_fx` and `torch.export`.

The operators are `cdropout::draw`, which drops with a new mask and also returns the mask's key as a tensor, and
`cdropout::apply`, which applies the mask of a key; it is its own derivative. A graph thus holds the key between the
forward and the backward pass, and a compiler sees two operators that it cannot take apart. `cdropout::record` is what
programs call: it becomes one `draw` wherever it is recorded.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from cdropout._kernels import alpha_map
from cdropout.mask import Mask
from cdropout.torch import tensors

# Without this number two calls with equal arguments would be the same expression, which compilers compute once.
_SITES = itertools.count()

_library = torch.library.Library("cdropout", "FRAGMENT")
_library.define(
    "draw(Tensor x, float p, int[] shared_axes, bool is_alpha, int site) -> (Tensor, Tensor)",
    tags=(torch.Tag.nondeterministic_seeded, torch.Tag.pt2_compliant_tag),
)
_library.define(
    "apply(Tensor dy, Tensor key, float p, int[] shared_axes, bool is_alpha) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_library.define(
    "record(Tensor x, float p, int[] shared_axes, bool is_alpha) -> Tensor",
    tags=(torch.Tag.nondeterministic_seeded, torch.Tag.pt2_compliant_tag),
)


def _record(x: Tensor, p: float, shared_axes: list[int], is_alpha: bool) -> Tensor:
    if torch.onnx.is_in_onnx_export():  # of an operator of PyTorch, while `enable` is on
        if is_alpha or shared_axes:
            raise RuntimeError("cdropout.torch must be switched off by disable() while torch.onnx.export runs")
        return torch.ops.aten.native_dropout(x, p, True)[0]  # type: ignore[no-any-return]
    y, _ = torch.ops.cdropout.draw(x, p, shared_axes, is_alpha, next(_SITES))
    return y  # type: ignore[no-any-return]


def _draw_fake(x: Tensor, p: float, shared_axes: list[int], is_alpha: bool, site: int) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), x.new_empty(2, dtype=torch.int64)


def _apply_fake(dy: Tensor, key: Tensor, p: float, shared_axes: list[int], is_alpha: bool) -> Tensor:
    return torch.empty_like(dy)


def draw_in_python(x: Tensor, p: float, shared_axes: list[int], is_alpha: bool, site: int) -> tuple[Tensor, Tensor]:
    """Run `cdropout::draw` where the C++ part of this package is not loaded."""
    scale, shift, fill = alpha_map(p) if is_alpha else (None, 0.0, 0.0)
    mask = tensors.draw_mask(tuple(x.shape), p, tuple(shared_axes), None)
    words = [word - (word >> 63 << 64) for word in (mask.key & (1 << 64) - 1, mask.key >> 64)]
    return tensors.apply(x, mask, scale, shift, fill, inplace=False), torch.tensor(words, dtype=torch.int64)


def apply_in_python(dy: Tensor, key: Tensor, p: float, shared_axes: list[int], is_alpha: bool) -> Tensor:
    """Run `cdropout::apply` where the C++ part of this package is not loaded."""
    low, high = key.tolist()
    words = (low & (1 << 64) - 1) | (high & (1 << 64) - 1) << 64
    mask = Mask(words, 0, p, tuple(dy.shape), tuple(shared_axes))
    return tensors.apply(dy, mask, alpha_map(p)[0] if is_alpha else None, 0.0, 0.0, inplace=False)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    """Keep the key, an output of draw and an input of apply."""
    ctx.save_for_backward(output[1] if isinstance(output, tuple) else inputs[1])
    ctx.rule = inputs[1:4] if isinstance(output, tuple) else inputs[2:5]


def _draw_backward(ctx: Any, dy: Tensor, _dkey: Any) -> Any:
    return torch.ops.cdropout.apply(dy, *ctx.saved_tensors, *ctx.rule), None, None, None, None


def _apply_backward(ctx: Any, ddy: Tensor) -> Any:
    return torch.ops.cdropout.apply(ddy, *ctx.saved_tensors, *ctx.rule), None, None, None, None


_library.impl("record", _record, "CompositeImplicitAutograd")
torch.library.register_fake("cdropout::draw", _draw_fake, lib=_library)
torch.library.register_fake("cdropout::apply", _apply_fake, lib=_library)
torch.library.register_autograd("cdropout::draw", _draw_backward, setup_context=_save, lib=_library)
torch.library.register_autograd("cdropout::apply", _apply_backward, setup_context=_save, lib=_library)
# The C++ part of this package has kernels for the CPU, which come before these.
_library.impl("draw", draw_in_python, "CompositeExplicitAutograd")
_library.impl("apply", apply_in_python, "CompositeExplicitAutograd")
