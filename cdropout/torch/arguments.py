"""Checks of the arguments that PyTorch's own dropout does not have or does not check."""

from __future__ import annotations

import warnings
from numbers import Real
from typing import Any

import torch
from torch import Tensor


def check_probability(p: Any, name: str = "p", *, is_one_allowed: bool = True) -> None:
    """Raise TypeError if a probability of dropping is not a number, ValueError if it is outside [0, 1], or [0, 1)."""
    if isinstance(p, bool) or not isinstance(p, Real):
        raise TypeError(f"{name} must be a number, got {p!r}")
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"{name} must be in [0, 1], got {p}")
    if p == 1.0 and not is_one_allowed:
        raise ValueError(f"{name} must be in [0, 1) for normal noise, got {p}")


def check_tensor(tensor: Any, name: str = "input") -> None:
    """Raise TypeError unless an argument is a tensor of a floating or complex dtype."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
    if not (tensor.is_floating_point() or tensor.is_complex()):
        raise TypeError(f"{name} must have a floating or complex dtype, got {tensor.dtype}")


def sizes_of(tensor: Tensor) -> tuple[int, ...]:
    """Return a tensor's shape as ints; `torch.jit.trace` makes tensors of them, and records these as constants."""
    if torch._C._get_tracing_state() is None:
        return tuple(tensor.shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        return tuple(map(int, tensor.shape))


def check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    """Raise ValueError unless a value is one of the choices."""
    if not any(value is choice or (isinstance(value, str) and value == choice) for choice in choices):
        raise ValueError(f"{name} must be {', '.join(map(repr, choices[:-1]))} or {choices[-1]!r}, got {value!r}")


def check_flag(name: str, value: Any) -> None:
    """Raise TypeError unless an option is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")


def check_no_generator(generator: Any) -> None:
    """Raise ValueError for a generator in a function that `torch.compile` records."""
    if generator is not None:
        raise ValueError(f"generator must be None inside torch.compile, got {generator}")


def is_fusable(*tensors: Tensor) -> bool:
    """Return whether one kernel can read all of these tensors: they have one dtype, and autocast changes none of them.

    Kernels that autograd calls from Python cannot be compiled.
    """
    return (
        not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and all(each.dtype is tensors[0].dtype for each in tensors)
    )
