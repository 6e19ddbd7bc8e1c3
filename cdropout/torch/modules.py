"""Dropout and attention as modules, and the functions that replace the modules of a model by them and back."""

from __future__ import annotations

import collections
import functools
from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from cdropout.torch import native_library
from cdropout.torch.functions import (
    alpha_dropout,
    dropout,
    dropout1d,
    dropout2d,
    dropout3d,
    feature_alpha_dropout,
)
from cdropout.torch.layers import Leaf
from cdropout.torch.shared_axes import replace_other, restore_other
from cdropout.torch.sites import Site, report
from cdropout.torch.switch import enter, leave, prepare


class _Traceable(Leaf):
    """A module that tracers treat as they treat PyTorch's module of the same name."""

    def _forget_script(self) -> None:
        """Remove the forward pass that `__prepare_scriptable__` has set; others, such as accelerate's hooks, stay."""
        forward = self.__dict__.get("forward")
        if forward is not None and getattr(forward, "__func__", None) is self._theirs().forward:
            del self.__dict__["forward"]

    def __prepare_scriptable__(self) -> nn.Module:
        """Give `torch.jit.script` PyTorch's forward pass to compile.

        PyTorch calls this method and then compiles the `forward` of the module that it returns. It also puts that
        module into the model, so a module of another class would undo `replace_dropout`. The next call of the module
        removes the attribute again.
        """
        self.__dict__["forward"] = self._theirs().forward.__get__(self)
        return self

    def _theirs(self) -> Any:
        return next(_THEIRS[each] for each in type(self).__mro__ if each in _THEIRS)


class _DropoutModule(_Traceable):
    """A module whose forward pass calls one of the functions of `cdropout.torch`."""

    _function: ClassVar[Any]

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Return input after dropout in training, input itself in evaluation."""
        return type(self)._function(input, self.p, self.training, self.inplace)  # type: ignore[no-any-return]


class Dropout(_DropoutModule, nn.Dropout):
    """`torch.nn.Dropout` with this library's masks."""

    _function = staticmethod(dropout)


class Dropout1d(_DropoutModule, nn.Dropout1d):
    """`torch.nn.Dropout1d` with this library's masks."""

    _function = staticmethod(dropout1d)


class Dropout2d(_DropoutModule, nn.Dropout2d):
    """`torch.nn.Dropout2d` with this library's masks."""

    _function = staticmethod(dropout2d)


class Dropout3d(_DropoutModule, nn.Dropout3d):
    """`torch.nn.Dropout3d` with this library's masks."""

    _function = staticmethod(dropout3d)


class AlphaDropout(_DropoutModule, nn.AlphaDropout):
    """`torch.nn.AlphaDropout` with this library's masks."""

    _function = staticmethod(alpha_dropout)


class FeatureAlphaDropout(_DropoutModule, nn.FeatureAlphaDropout):
    """`torch.nn.FeatureAlphaDropout` with this library's masks."""

    _function = staticmethod(feature_alpha_dropout)


def _with_masks_of_this_library(forward: Any, *args: Any, **kwargs: Any) -> Any:
    """Run PyTorch's or another package's code with the switch on, for this thread."""
    if torch.onnx.is_in_onnx_export():  # ONNX has no operator for this library's masks
        return forward(*args, **kwargs)
    if not torch.compiler.is_compiling():
        prepare()
    enter()
    try:
        return forward(*args, **kwargs)
    finally:
        leave()


class MultiheadAttention(_Traceable, nn.MultiheadAttention):
    """`torch.nn.MultiheadAttention` whose weights are dropped by this library's masks. The code is PyTorch's."""

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        """Attend, as PyTorch's module does."""
        return _with_masks_of_this_library(super().forward, *args, **kwargs)  # type: ignore[no-any-return]


class _Switched(nn.Module):
    """A module of another class whose forward pass runs with the switch on, for its thread."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the other class's forward pass."""
        return _with_masks_of_this_library(super().forward, *args, **kwargs)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copy and pickle by the other class, because this one is made at run time and has no name to import."""
        return _unpickle_switched, (type(self).__mro__[2],), self.__getstate__()


def _unpickle_switched(cls: Any) -> nn.Module:
    switched: Any = _switched(cls)
    return switched.__new__(switched)  # type: ignore[no-any-return]


@functools.cache
def _switched(cls: Any) -> type[nn.Module]:
    """Return the subclass of cls whose forward pass runs with the switch on."""
    return type(cls.__name__, (_Switched, cls), {"__module__": cls.__module__, "__doc__": cls.__doc__})


_OURS: dict[type[nn.Module], type[nn.Module]] = {
    getattr(nn, cls.__name__): cls
    for cls in (Dropout, Dropout1d, Dropout2d, Dropout3d, AlphaDropout, FeatureAlphaDropout, MultiheadAttention)
}
_THEIRS = {ours: theirs for theirs, ours in _OURS.items()}

# Packages whose modules drop in their own code, by a probability that is an attribute.
_LEND_P = ("transformers", "peft", "timm")


def _lends_p(module: nn.Module) -> bool:
    """Return whether a module of a known package drops by functions, in a forward pass that it shares with no other."""
    cls = type(module)
    if cls.__module__.partition(".")[0] not in _LEND_P:
        return False
    if any("drop" in name and isinstance(p, float) and 0.0 < p <= 1.0 for name, p in vars(module).items()):
        return True
    # Layers that gradient checkpointing runs again, outside of the modules that contain them.
    if any(each.__name__ == "GradientCheckpointingLayer" for each in cls.__mro__):
        return True
    return "Attention" in cls.__name__ and any(isinstance(child, nn.Dropout) for child in module.children())


def _class_for(module: nn.Module, also: tuple[type[nn.Module], ...]) -> type[nn.Module] | None:
    """Return the class that a module gets, or None if it stays as it is."""
    cls: Any = type(module)
    if cls in _OURS:
        return _OURS[cls]
    if isinstance(module, (Leaf, _Switched)):
        return None
    drops = isinstance(module, (*_OURS, *also)) or (isinstance(module, nn.RNNBase) and module.dropout > 0.0)
    return _switched(cls) if drops or _lends_p(module) else None


class Replaced(int):
    """What `replace_dropout` has done: the number of dropout modules replaced, with more to read.

    Attributes
    ----------
    modules : dict of str to str
        Name of each module that was changed, and the name of its class: also modules that the number does not count.
    sites : list of Site or None
        What `report` found; None before it was called.

    """

    modules: dict[str, str]
    sites: list[Site] | None

    def __new__(cls, n_replaced: int, modules: dict[str, str]) -> Replaced:
        """Make the number."""
        made = super().__new__(cls, n_replaced)
        made.modules, made.sites = modules, None
        return made

    def __getnewargs__(self) -> tuple[int, dict[str, str]]:  # type: ignore[override]
        """Return the arguments of `__new__`, for copies and pickles."""
        return int(self), self.modules

    def report(self, model: nn.Module, *inputs: Any, **named_inputs: Any) -> list[Site]:
        """Call `cdropout.torch.report`, keep its result as `sites`, and return it."""
        self.sites = report(model, *inputs, **named_inputs)
        return self.sites

    def describe(self) -> str:
        """Return text: a line for each class that was replaced, and for each site that is still PyTorch's."""
        counts = collections.Counter(self.modules.values())
        lines = [f"replaced {count} x {name}" for name, count in counts.items()] or ["nothing was replaced"]
        if self.sites is not None:
            theirs = [str(site) for site in self.sites if not site.is_ours]
            lines += theirs or [f"all {sum(site.n_calls for site in self.sites)} calls of a step are cdropout's"]
        return "\n".join(lines)


def replace_dropout(model: nn.Module, *, also: Iterable[type[nn.Module]] = ()) -> Replaced:
    """Replace the dropout of a model's modules, itself included, by this library's.

    The modules stay the same objects, with their names, flags, hooks and attributes; only their class changes.

    - `nn.Dropout`, its relatives, and `nn.MultiheadAttention` become the modules of this package.
    - `DropPath` of timm and `StochasticDepth` of torchvision become the modules of these names of this package.
    - Subclasses of `nn.Dropout` and its relatives, and `nn.LSTM`, `nn.GRU` and `nn.RNN` with dropout, become subclasses
      of their own class, whose forward pass runs with the switch of `enable` on.
    - So do the modules of Hugging Face's transformers and peft that drop in their own code, as attention does.

    `torch.nn.functional.dropout` in other models' code stays PyTorch's: `report` lists such calls, `also` takes the
    modules that make them, and `enable` replaces them all. A module of `also` must not contain calls of
    `torch.utils.checkpoint`, which would draw the masks again outside of its forward pass; use `enable` there, and for
    models that are compiled.

    Parameters
    ----------
    model : nn.Module
        The model.
    also : iterable of types
        Classes of modules whose own code drops: their forward passes run with the switch on, too.

    Returns
    -------
    Replaced
        An int, the number of dropout modules replaced, without attention and recurrent modules; `modules` names all.

    Raises
    ------
    TypeError
        If also has something else than classes of modules.

    See Also
    --------
    restore_dropout, report, enable

    """
    classes = tuple(also)
    for cls in classes:
        if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
            raise TypeError(f"also must have subclasses of torch.nn.Module, got {cls!r}")
    native_library.load()
    changed = {}
    n_replaced = 0
    for name, module in model.named_modules():
        old_name = type(module).__name__
        if replace_other(module):
            n_replaced += 1
        elif (new_class := _class_for(module, classes)) is not None:
            n_replaced += _is_counted(module)
            if issubclass(new_class, (_Switched, MultiheadAttention)):
                prepare()
            module.__class__ = new_class
        else:
            continue
        changed[name] = old_name
    return Replaced(n_replaced, changed)


def _is_counted(module: nn.Module) -> bool:
    return isinstance(module, tuple(_OURS)) and not isinstance(module, nn.MultiheadAttention)


def restore_dropout(model: nn.Module) -> int:
    """Undo `replace_dropout` and `compact_dropout`, and return the number of dropout modules restored."""
    n_restored = 0
    for module in model.modules():
        if hasattr(module, "_undo_compact"):
            n_restored += module._undo_compact()  # type: ignore[operator]
        if restore_other(module):
            n_restored += 1
            continue
        cls = type(module)
        if cls in _THEIRS:
            theirs = _THEIRS[cls]
        elif isinstance(module, _Switched):
            theirs = cls.__mro__[2]
        else:
            continue
        n_restored += _is_counted(module)
        module.__class__ = theirs
    return n_restored
