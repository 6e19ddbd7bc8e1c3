"""Dropout and attention as modules, and the functions that replace the modules of a model by them and back."""

from __future__ import annotations

import types
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn import functional

from cdropout.torch import native_library
from cdropout.torch.attention import scaled_dot_product_attention
from cdropout.torch.functions import (
    alpha_dropout,
    dropout,
    dropout1d,
    dropout2d,
    dropout3d,
    feature_alpha_dropout,
)


class _Traceable(nn.Module):
    """A module that tracers treat as they treat PyTorch's module of the same name."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module; with proxies of `torch.fx` as arguments, record a call of it."""
        self.__dict__.pop("forward", None)  # see __prepare_scriptable__
        for value in (*args, *kwargs.values()):
            if isinstance(value, Proxy):
                # FX calls modules of torch.nn as a whole, so that the mode is not recorded. It knows them by their
                # package, to which this class does not belong.
                tracer = value.tracer
                return tracer.create_proxy("call_module", tracer.path_of_module(self), args, kwargs)
        return super().__call__(*args, **kwargs)

    def __prepare_scriptable__(self) -> nn.Module:
        """Give `torch.jit.script` PyTorch's forward pass to compile.

        PyTorch calls this method and then compiles the `forward` of the module that it returns. It also puts that
        module into the model, so a module of another class would undo `replace_dropout`. The next call of the module
        removes the attribute again.
        """
        theirs = next(_THEIRS[each] for each in type(self).__mro__ if each in _THEIRS)
        self.__dict__["forward"] = theirs.forward.__get__(self)
        return self


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


def _rebound(function: Any, **names: Any) -> Any:
    """Return a copy of a PyTorch function that finds these objects under the given global names."""
    code = function.__code__
    if not isinstance(code, types.CodeType):
        # Documentation tools import this module with stand-ins for PyTorch, whose attributes are stand-ins too.
        return function
    missing = set(names) - set(code.co_names)
    if missing:  # the copy would silently call PyTorch's own dropout
        raise ImportError(f"cdropout.torch needs a PyTorch whose {function.__qualname__} uses {missing}")
    copied = {**function.__globals__, **names}
    rebound = types.FunctionType(code, copied, function.__name__, function.__defaults__, function.__closure__)
    rebound.__kwdefaults__ = function.__kwdefaults__
    return rebound


class MultiheadAttention(_Traceable, nn.MultiheadAttention):
    """`torch.nn.MultiheadAttention` whose weights are dropped by this library's masks.

    Everything else is PyTorch's code: its forward pass, in which the names `scaled_dot_product_attention` and `dropout`
    refer to the functions of `cdropout.torch`.
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
    """Replace the dropout and attention modules of a model, itself included, by those of this library.

    The modules stay the same objects, with their names, flags, hooks and attributes; only their class changes.
    Subclasses of PyTorch's modules are not replaced.

    Returns
    -------
    int
        Number of dropout modules replaced, without the attention modules.

    """
    return _exchange(model, _OURS)


def restore_dropout(model: nn.Module) -> int:
    """Undo `replace_dropout` and return the number of dropout modules restored."""
    return _exchange(model, _THEIRS)


def _exchange(model: nn.Module, classes: dict[type[nn.Module], type[nn.Module]]) -> int:
    native_library.load()
    found = [module for module in model.modules() if type(module) in classes]
    for module in found:
        module.__class__ = classes[type(module)]
    return sum(not isinstance(module, nn.MultiheadAttention) for module in found)
