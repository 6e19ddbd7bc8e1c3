"""Tensors for the kernels: which ones they take, their arrays, masks from PyTorch's generator, and autograd."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from cdropout import _kernels
from cdropout._kernels import alpha_map
from cdropout.mask import Mask
from cdropout.torch import native_library

# NumPy has bfloat16 only if ml_dtypes is installed.
HALVES = (torch.float16, torch.bfloat16) if importlib.util.find_spec("ml_dtypes") else (torch.float16,)
DTYPES = (torch.float32, torch.float64, *HALVES)
# The name of a drawn mask in PyTorch's profiler, as in native/dropout.cpp; cdropout.torch.report counts it.
PROFILED = "cdropout::masked"
PLAIN = (Tensor, nn.Parameter)


def is_plain(tensor: Tensor) -> bool:
    """Return whether the kernels can read and write the tensor's memory, and find its values there."""
    if type(tensor) not in PLAIN or tensor.device.type != "cpu" or tensor.dtype not in DTYPES:
        return False
    if tensor.layout is not torch.strided or tensor.is_nested or tensor.is_neg():
        return False
    # Batched tensors have no storage. Zero tensors, and tensors whose storage was freed, have a shape and no memory.
    return bool(torch._C._has_storage(tensor)) and (tensor.data_ptr() != 0 or tensor.numel() == 0)


def is_transformed() -> bool:
    """Return whether torch.func or forward-mode differentiation is active, which tensor memory does not show."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0  # type: ignore[no-any-return]


def is_recorded() -> bool:
    """Return whether PyTorch records or intercepts operators now, as torch.jit.trace, make_fx and dispatch modes do.

    A kernel that writes to memory would leave no operator in the record, so its result would be missing there.
    """
    return (
        torch._C._get_tracing_state() is not None
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._dispatch_tls_is_dispatch_key_included(torch._C.DispatchKey.PreDispatch)
    )


def is_compiled(x: Tensor) -> bool:
    """Return whether a compiler records operators now, which gets those of `cdropout.torch.recorded`."""
    keys = torch._C._TorchDispatchModeKey
    return (
        torch._C._get_dispatch_mode(keys.PROXY) is not None or torch._C._get_dispatch_mode(keys.FUNCTIONAL) is not None
    ) and (x.device.type == "cpu" and x.dtype in DTYPES)


def is_ours(p: float, generator: Any, *tensors: Tensor) -> bool:
    """Return whether this library drops, and not PyTorch's function.

    TypeError for a generator of another type, ValueError for one that PyTorch's function would ignore.
    """
    if torch.compiler.is_compiling():
        if torch.onnx.is_in_onnx_export():  # ONNX has no operator for this library's masks
            return False
        return 0.0 < p <= 1.0 and all(each.device.type == "cpu" and each.dtype in DTYPES for each in tensors)
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator or None, got {generator!r}")
    if 0.0 < p <= 1.0 and all(map(is_plain, tensors)) and not is_transformed() and not is_recorded():
        return True
    if generator is not None and 0.0 < p <= 1.0:
        raise ValueError(
            "generator must be None unless input is a dense tensor on the CPU, of a floating dtype and outside "
            f"torch.func, forward-mode differentiation and tracing, got {generator}"
        )
    return False


def may_be_dropped(p: float, generator: Any, tensor: Tensor) -> bool:
    """Return whether `drop` takes the tensor: `is_ours` without the checks that the C++ part of this package repeats.

    It passes the tensors that are not ours to PyTorch's function.
    """
    if not native_library.is_loaded() or generator is not None or torch.compiler.is_compiling():
        return is_ours(p, generator, tensor)
    return 0.0 < p <= 1.0 and type(tensor) in PLAIN and not is_transformed() and not is_recorded()


def as_array(tensor: Tensor) -> Any:
    """Return an array that shares the tensor's memory."""
    if tensor.dtype is torch.bfloat16:
        import ml_dtypes

        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def draw_mask(shape: tuple[int, ...], p: float, shared_axes: tuple[int, ...], generator: Any) -> Mask:
    """Return a mask whose key is drawn from PyTorch's generator."""
    p = _kernels.check_p(p)  # before the generator advances
    if torch.autograd._profiler_enabled():
        with torch.profiler.record_function(PROFILED):
            return _draw_mask(shape, p, shared_axes, generator)
    return _draw_mask(shape, p, shared_axes, generator)


def _draw_mask(shape: tuple[int, ...], p: float, shared_axes: tuple[int, ...], generator: Any) -> Mask:
    low, high = torch.randint(-(2**63), 2**63 - 1, (2,), dtype=torch.int64, device="cpu", generator=generator).tolist()
    key = (low & 0xFFFFFFFFFFFFFFFF) | (high & 0xFFFFFFFFFFFFFFFF) << 64
    return Mask(key, 0, p, shape, shared_axes)


def keep(shape: tuple[int, ...], p: float, generator: Any) -> Tensor:
    """Return a bool tensor of a new mask: True where kept."""
    return torch.from_numpy(draw_mask(tuple(shape), p, (), generator).keep())


def apply(x: Tensor, mask: Mask, scale: float | None, shift: float, fill: float, inplace: bool) -> Tensor:
    """Apply a mask without recording it in autograd's graph."""
    plain = x.detach()
    y = plain if inplace else torch.empty_like(plain)
    written = as_array(y)
    if not inplace and written.nbytes >= _kernels.HUGE_PAGES_FROM_BYTES and y.is_contiguous():
        _kernels.expect_writing(written)
    write_masked(mask, as_array(plain), written, scale, shift, fill)
    return y


def write_masked(
    mask: Mask, a: Any, out: Any, scale: float | None = None, shift: float = 0.0, fill: float = 0.0
) -> None:
    """Apply a mask to an array, on as many threads as PyTorch uses: its OpenMP runtime may not be this library's."""
    _kernels.with_threads(torch.get_num_threads(), _kernels.apply_to_floats, mask, a, "input", out, scale, shift, fill)


def factor_of(mask: Mask, scale: float | None, dtype: torch.dtype) -> Tensor:
    """Return the tensor by which a mask multiplies: scale where kept, 1/(1-p) by default, and 0 where dropped.

    It is for gradients without plain memory: batched, sparse and recorded ones. A tracer sees a constant, because NumPy
    writes the memory before PyTorch gets it.
    """
    if dtype is torch.bfloat16:
        import ml_dtypes

        factor = mask.apply(np.ones(mask.shape, ml_dtypes.bfloat16), scale=scale).view(np.int16)
        return torch.from_numpy(factor).view(torch.bfloat16)
    return torch.from_numpy(mask.apply(np.ones(mask.shape, str(dtype).removeprefix("torch.")), scale=scale))


class ApplyMask(torch.autograd.Function):
    """y = scale x + shift where kept, fill where dropped; the gradient is the same map without shift and fill."""

    @staticmethod
    def forward(  # noqa: D102 - the class says it
        ctx: Any, x: Tensor, mask: Mask, scale: float | None, shift: float, fill: float, inplace: bool
    ) -> Tensor:
        ctx.mask, ctx.scale = mask, scale
        y = apply(x, mask, scale, shift, fill, inplace)
        if not inplace:
            return y
        ctx.mark_dirty(x)
        return x

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:  # noqa: D102
        (dy,) = grad_outputs
        if is_transformed() or is_recorded() or not is_plain(dy):
            return dy * factor_of(ctx.mask, ctx.scale, dy.dtype), None, None, None, None, None
        # Recording the step for a second derivative costs as much as applying a small mask, so only do it on demand.
        step = ApplyMask.apply if torch.is_grad_enabled() and dy.requires_grad else apply
        return step(dy, ctx.mask, ctx.scale, 0.0, 0.0, False), None, None, None, None, None


def drop(
    input: Tensor,  # noqa: A002
    p: float,
    shared_axes: tuple[int, ...],
    inplace: bool,
    generator: Any,
    *,
    alpha: bool = False,
) -> Tensor:
    """Return input after dropout with a new mask; `may_be_dropped` has accepted the arguments."""
    if torch.compiler.is_compiling():
        if generator is not None:
            from cdropout.torch import between_graphs  # its import takes seconds

            arguments = (input, p, shared_axes, inplace, generator, alpha)
            return between_graphs.call(_drop_in_python, *arguments)  # type: ignore[no-any-return]
        y: Tensor = torch.ops.cdropout.record(input, p, shared_axes, alpha)
        return input.copy_(y) if inplace else y
    if native_library.is_loaded():
        op = torch.ops.cdropout.drop_ if inplace else torch.ops.cdropout.drop
        return op.default(input, p, shared_axes, alpha, generator)  # type: ignore[no-any-return]
    return _drop_in_python(input, p, shared_axes, inplace, generator, alpha)


def _drop_in_python(
    input: Tensor,  # noqa: A002
    p: float,
    shared_axes: tuple[int, ...],
    inplace: bool,
    generator: Any,
    alpha: bool,
) -> Tensor:
    if input.numel() == 0:
        return input
    mask = draw_mask(tuple(input.shape), p, shared_axes, generator)
    scale, shift, fill = alpha_map(mask.p) if alpha else (None, 0.0, 0.0)
    if torch.is_grad_enabled() and input.requires_grad:
        return ApplyMask.apply(input, mask, scale, shift, fill, inplace)  # type: ignore[no-any-return,no-untyped-call]
    y = apply(input, mask, scale, shift, fill, inplace)
    if not inplace:
        return y
    torch.autograd.graph.increment_version(input)
    return input
