"""The places of a model that drop, counted while it runs one step: which are this library's, and which PyTorch's."""

from __future__ import annotations

import collections
import os
import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.profiler import ProfilerActivity, profile, record_function

from cdropout.torch.tensors import PROFILED

# Operators of PyTorch that draw a mask.
_THEIRS = ("aten::bernoulli_", "aten::native_dropout", "aten::_fused_dropout")
# Beginnings of the names of the ranges that mark modules and lines.
_MODULE, _LINE = "cdropout.module:", "cdropout.line:"


class _MarkLines(TorchFunctionMode):
    """A block in which each call of a PyTorch function is a range with the caller's line in its name.

    The profiler's own record of lines fails for some programs: it gives names that are not valid UTF-8.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the function within the range."""
        frame: Any = sys._getframe(1)
        while frame is not None and frame.f_code.co_filename.startswith((_TORCH, _HERE)):
            frame = frame.f_back
        line = "" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"
        with record_function(_LINE + line):
            return func(*args, **(kwargs or {}))


_TORCH, _HERE = (os.path.dirname(file) + os.sep for file in (torch.__file__, __file__))


@dataclass(frozen=True)
class Site:
    """A place of a model that drops.

    Attributes
    ----------
    module : str
        Name of the innermost module that was running, "" for the model itself.
    class_name : str
        The module's class.
    line : str
        "file:line" of the innermost line outside of PyTorch, or "" if there is none.
    is_ours : bool
        Whether the mask was this library's.
    n_calls : int
        How many masks were drawn there.

    """

    module: str
    class_name: str
    line: str
    is_ours: bool
    n_calls: int

    def __str__(self) -> str:
        """Return one line."""
        whose = "cdropout" if self.is_ours else "PyTorch"
        where = f", {self.line}" if self.line else ""
        return f"{whose}: {self.n_calls} x in {self.module or 'the model'} ({self.class_name}){where}"


def report(model: nn.Module, *inputs: Any, **named_inputs: Any) -> list[Site]:
    """Run one step of a model, and return the places that drop.

    The step is a forward pass with these arguments, with autograd, in the modes that the modules have. The profiler
    counts the masks. Random states of PyTorch are set back afterwards; what the model itself changes, as running
    statistics, is changed.

    Parameters
    ----------
    model : nn.Module
        A model in training mode.
    *inputs, **named_inputs
        Arguments of the model.

    Returns
    -------
    list of Site
        PyTorch's sites first. Empty if nothing drops.

    """
    names = {module: (name, type(module).__name__) for name, module in model.named_modules()}
    open_ranges: list[Any] = []

    def enter(module: nn.Module, _inputs: Any) -> None:
        if module in names:
            name, class_name = names[module]
            open_ranges.append(record_function(f"{_MODULE}{name}:{class_name}"))
            open_ranges[-1].__enter__()

    def leave(module: nn.Module, _inputs: Any, _output: Any) -> None:
        if module in names:
            open_ranges.pop().__exit__(None, None, None)

    hooks = [
        nn.modules.module.register_module_forward_pre_hook(enter),
        nn.modules.module.register_module_forward_hook(leave, always_call=True),
    ]
    state = torch.get_rng_state()
    try:
        with profile(activities=[ProfilerActivity.CPU]) as profiler, _MarkLines():
            model(*inputs, **named_inputs)
    finally:
        torch.set_rng_state(state)
        for hook in hooks:
            hook.remove()
    counts: collections.Counter[tuple[str, str, str, bool]] = collections.Counter()
    for event in profiler.events() or ():
        is_ours = event.name == PROFILED
        if is_ours or (event.name in _THEIRS and not _contains_ours(event) and not _is_within_theirs(event)):
            counts[(*_module_of(event), _line_of(event), is_ours)] += 1
    sites = [Site(*place, n_calls) for place, n_calls in counts.items()]
    return sorted(sites, key=lambda site: site.is_ours)


def _contains_ours(event: Any) -> bool:
    return any(child.name == PROFILED or _contains_ours(child) for child in event.cpu_children)


def _is_within_theirs(event: Any) -> bool:
    parent = event.cpu_parent
    return parent is not None and (parent.name in _THEIRS or _is_within_theirs(parent))


def _module_of(event: Any) -> tuple[str, str]:
    name, _, class_name = _mark_of(event, _MODULE).rpartition(":")
    return name, class_name


def _line_of(event: Any) -> str:
    return _mark_of(event, _LINE)


def _mark_of(event: Any, beginning: str) -> str:
    """Return the rest of the name of the innermost range around an event whose name begins so."""
    while event is not None:
        if event.name.startswith(beginning):
            return str(event.name.removeprefix(beginning))
        event = event.cpu_parent
    return ""
