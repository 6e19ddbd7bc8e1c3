"""The places of a model that drop, counted while it runs one step: which are this library's, and which PyTorch's."""

from __future__ import annotations

import collections
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from cdropout.torch.tensors import PROFILED

# Operators of PyTorch that draw a mask.
_THEIRS = ("aten::bernoulli_", "aten::native_dropout", "aten::_fused_dropout")
_MODULE = "cdropout.site:"  # begins the names of the ranges that mark modules


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
        "file:line" of the innermost line outside of PyTorch, or "" if the profiler did not know.
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
        verbose = torch._C._profiler._ExperimentalConfig(verbose=True)  # without it there are no lines
        with profile(activities=[ProfilerActivity.CPU], with_stack=True, experimental_config=verbose) as profiler:
            model(*inputs, **named_inputs)
    finally:
        torch.set_rng_state(state)
        for hook in hooks:
            hook.remove()
    counts: collections.Counter[tuple[str, str, str, bool]] = collections.Counter()
    for event in profiler.events() or ():
        is_ours = event.name == PROFILED
        if is_ours or (event.name in _THEIRS and not _contains_ours(event)):
            counts[(*_module_of(event), _line_of(event), is_ours)] += 1
    sites = [Site(*place, n_calls) for place, n_calls in counts.items()]
    return sorted(sites, key=lambda site: site.is_ours)


def _contains_ours(event: Any) -> bool:
    return any(child.name == PROFILED or _contains_ours(child) for child in event.cpu_children)


def _module_of(event: Any) -> tuple[str, str]:
    while event is not None:
        if event.name.startswith(_MODULE):
            name, _, class_name = event.name.removeprefix(_MODULE).rpartition(":")
            return name, class_name
        event = event.cpu_parent
    return "", ""


def _line_of(event: Any) -> str:
    while event is not None:
        for frame in event.stack or ():
            if not frame.startswith(("torch/", "<built-in", "nn.Module:")) and "cdropout/torch/" not in frame:
                return str(frame)
        event = event.cpu_parent
    return ""
