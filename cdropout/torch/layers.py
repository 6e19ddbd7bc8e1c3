"""The base classes of the modules that PyTorch's `torch.nn` does not have."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn
from torch.fx import Proxy
from torch.nn.modules.dropout import _DropoutNd

from cdropout.torch.arguments import check_flag, check_probability


class Leaf(nn.Module):
    """A module that `torch.fx` records as one call, as it does modules of torch.nn, so that the mode is not recorded.

    A subclass with a method `_by_operators`, which `torch.jit.script` can compile, can be scripted: the script then has
    that method as its forward pass. The methods annotate and call only what TorchScript knows.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module; with proxies of `torch.fx` as arguments, record a call of it."""
        self._forget_script()
        for value in (*args, *kwargs.values()):
            if isinstance(value, Proxy):
                tracer = value.tracer
                return tracer.create_proxy("call_module", tracer.path_of_module(self), args, kwargs)
        return super().__call__(*args, **kwargs)

    def _forget_script(self) -> None:
        """Remove the forward pass that `__prepare_scriptable__` has set; others, such as accelerate's hooks, stay."""
        forward = self.__dict__.get("forward")
        if forward is not None and getattr(forward, "__func__", None) is getattr(type(self), "_by_operators", self):
            del self.__dict__["forward"]

    def __prepare_scriptable__(self) -> nn.Module:
        """Give `torch.jit.script` a forward pass to compile; the next call of the module removes it again."""
        if hasattr(self, "_by_operators") and "forward" not in self.__dict__:
            self.__dict__["forward"] = self._by_operators
        return self


class DropoutLeaf(Leaf, _DropoutNd):
    """A module with a probability of dropping.

    Its base class in PyTorch is that of `nn.Dropout`, so programs that look for dropout modules find it.
    """

    # Names of the attributes that the repr shows.
    _shown: ClassVar[tuple[str, ...]] = ("p",)

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        check_probability(p)
        check_flag("inplace", inplace)
        super().__init__(p, inplace)

    def extra_repr(self) -> str:
        """Return the arguments for the repr."""
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in self._shown)
