"""Random layers on Keras's PyTorch backend, by cdropout.torch.

A layer without a seed follows `torch.manual_seed`, as Keras's does. Every other mask is that of the same seed on the
NumPy backend. Autograd keeps it as a value.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from keras.src.backend.torch.core import convert_to_tensor
from keras.src.random.seed_generator import SeedGenerator
from torch import Tensor

from cdropout import _kernels
from cdropout.functions.gaussian import noise_std
from cdropout.keras.arguments import axes_of, sequence_of
from cdropout.mask import draw_mask
from cdropout.noise import Noise, draw_noise
from cdropout.torch import functions
from cdropout.torch.gaussian import MultiplyByNoise
from cdropout.torch.tensors import DTYPES, PROFILED, ApplyMask, as_array, is_plain, is_recorded, is_transformed


def takes(inputs: Any) -> bool:
    """Return whether inputs are a tensor that the kernels take: dense, on the CPU, of a floating dtype."""
    if torch.compiler.is_compiling():
        return isinstance(inputs, Tensor) and inputs.device.type == "cpu" and inputs.dtype in DTYPES
    return isinstance(inputs, Tensor) and is_plain(inputs) and not is_transformed() and not is_recorded()


def as_tensor(inputs: Any) -> Tensor:
    """Return inputs as a tensor."""
    return convert_to_tensor(inputs)  # type: ignore[no-any-return]


def zeros_like(x: Tensor) -> Tensor:
    """Return a tensor of zeros."""
    return torch.zeros_like(x)


def dropout(x: Tensor, rate: float, noise_shape: Any, seed: Any) -> Tensor:
    """Drop elements and divide the others by 1 - rate."""
    is_seeded = seed is not None and not (isinstance(seed, SeedGenerator) and seed._initial_seed is None)
    if noise_shape is None and not is_seeded:
        return functions.dropout(x, rate)
    return _drop(x, rate, noise_shape, seed, False)  # type: ignore[no-any-return]


def alpha_dropout(x: Tensor, rate: float, noise_shape: Any, seed: Any) -> Tensor:
    """Drop elements for SELU."""
    return _drop(x, rate, noise_shape, seed, True)  # type: ignore[no-any-return]


# torch.compile ends its graph before a call of these functions, as it does for Keras's seeded ones: a mask's key is a
# Python int.
@torch.compiler.disable
def _drop(x: Tensor, rate: float, noise_shape: Any, seed: Any, is_alpha: bool) -> Tensor:
    shape = tuple(x.shape)
    shared_axes = axes_of(noise_shape, shape)
    scale, shift, fill = _kernels.alpha_map(rate) if is_alpha else (None, 0.0, 0.0)
    with _marked():
        mask = draw_mask(shape, rate, rng=sequence_of(seed), shared_axes=shared_axes)
    return ApplyMask.apply(x, mask, scale, shift, fill, False)  # type: ignore[no-any-return,no-untyped-call]


@torch.compiler.disable
def gaussian_dropout(x: Tensor, rate: float, seed: Any) -> Tensor:
    """Multiply by normal noise of mean 1 and variance rate / (1 - rate)."""
    with _marked():
        noise = draw_noise(tuple(x.shape), noise_std(rate), rng=sequence_of(seed))
    return MultiplyByNoise.apply(x, noise)  # type: ignore[no-any-return,no-untyped-call]


@torch.compiler.disable
def gaussian_noise(x: Tensor, stddev: float, seed: Any) -> Tensor:
    """Add normal noise of mean 0."""
    with _marked():
        noise = draw_noise(tuple(x.shape), stddev, rng=sequence_of(seed))
    return _Add.apply(x, noise)  # type: ignore[no-any-return,no-untyped-call]


def _marked() -> Any:
    """Return a block that PyTorch's profiler and `cdropout.torch.report` see as a drawn mask."""
    is_profiled = torch.autograd._profiler_enabled()
    return torch.profiler.record_function(PROFILED) if is_profiled else contextlib.nullcontext()


class _Add(torch.autograd.Function):
    """y = x + noise; the gradient is dy itself."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, noise: Noise) -> Tensor:
        x = x.detach()
        y = torch.empty_like(x)
        _kernels.with_threads(torch.get_num_threads(), noise.add, as_array(x), as_array(y))
        return y

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        return grad_outputs[0], None
