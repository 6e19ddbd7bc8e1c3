"""`compact_dropout`: which dropout modules of a model are between linear layers, and their new classes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules.dropout import _DropoutNd

from cdropout.checks import check_integer
from cdropout.torch.compact.chains import is_watched
from cdropout.torch.compact.modules import (
    REPLACED,
    TRANSFORMERS,
    CompactDropout,
    CompactFeedForward,
    CompactSequential,
    Swapped,
    class_for,
    entries_of,
    is_elementwise,
    is_sequence,
    places_of,
    sequences_of,
)
from cdropout.torch.linear import FeatureDropoutLinear
from cdropout.torch.modules import Dropout

# Functions whose output at a position depends on the input there alone.
_ELEMENTWISE_FUNCTIONS: tuple[Any, ...] = (
    *(functional.celu, functional.elu, functional.gelu, functional.hardsigmoid, functional.hardswish),
    *(functional.leaky_relu, functional.mish, functional.relu, functional.relu6, functional.selu, functional.silu),
    *(functional.softplus, functional.tanh, functional.sigmoid, torch.relu, torch.tanh, torch.sigmoid),
)


class Compacted(int):
    """Hold what `compact_dropout` has done: the number of dropout modules that drop features now, with more to read.

    Attributes
    ----------
    modules : dict of str to str
        Name of each dropout module that drops features now, and the linear layers before and behind it.
    left : dict of str to str
        Name of each other module that drops, and why it was left as it was.

    """

    modules: dict[str, str]
    left: dict[str, str]

    def __new__(cls, modules: dict[str, str], left: dict[str, str]) -> Compacted:
        """Make the number."""
        made = super().__new__(cls, len(modules))
        made.modules, made.left = modules, left
        return made

    def __getnewargs__(self) -> tuple[dict[str, str], dict[str, str]]:  # type: ignore[override]
        """Return the arguments of `__new__`, for copies and pickles."""
        return self.modules, self.left

    def describe(self) -> str:
        """Return text: a line for each dropout module."""
        lines = [f"{name}: drops features between {where}" for name, where in self.modules.items()]
        lines += [f"{name}: left, {reason}" for name, reason in self.left.items()]
        return "\n".join(lines) or "nothing drops"


def compact_dropout(
    model: nn.Module, *, n_groups: int = 1, elementwise: Iterable[type[nn.Module] | Callable[..., Any]] = ()
) -> Compacted:
    """Make the dropout between a model's linear layers feature-wise, so that matrix products skip what is dropped.

    This changes how the model is regularized: all rows of a batch, or all rows of a group, drop the same features,
    where `nn.Dropout` decides on each element. In exchange, a training step of wide layers takes less time than one
    without dropout.

    It takes `nn.Dropout` in

    - `nn.Linear -> element-wise modules -> nn.Dropout -> nn.Linear`, and longer chains, of `nn.Sequential` and its
      subclasses with the same forward pass, nested ones included;
    - the feed-forward part of `nn.TransformerEncoderLayer` and `nn.TransformerDecoderLayer`.

    The modules stay the same objects, with their names, parameters and `state_dict`; only the classes of the dropout
    modules (`CompactDropout`), the sequences (`CompactSequential`) and the layers change. `restore_dropout` undoes it.
    `replace_dropout` may be called before or after, for the dropout that is left. If its `also` names the class of a
    layer that this function changes, the layer can be copied and restored, but not pickled.

    Dropout beside a linear layer with hooks is left. Parameters other than float32 and float64, as of bfloat16, and
    `mc_predict` have feature dropout with full products.

    Parameters
    ----------
    model : nn.Module
        The model.
    n_groups : int
        As in `CompactDropout`. A second call changes it, but not that of a `CompactDropout` of the original
        model.
    elementwise : iterable of types or functions
        Classes of modules, besides those of torch.nn, and activation functions of Transformer layers, whose output at a
        position depends on the input there alone.

    Returns
    -------
    Compacted
        An int, the number of dropout modules that drop features now; `modules` names them, `left` says why other
        dropout modules were left.

    Raises
    ------
    TypeError, ValueError
        For an argument other than the above, before anything is changed.

    See Also
    --------
    restore_dropout, replace_dropout, CompactSequential

    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
    n_groups = check_integer("n_groups", n_groups, 1)
    if not isinstance(elementwise, Iterable):
        raise TypeError(f"elementwise must be an iterable of classes and functions, got {elementwise!r}")
    given = tuple(elementwise)
    for each in given:
        if (
            not callable(each)
            or isinstance(each, nn.Module)
            or (isinstance(each, type) and not issubclass(each, nn.Module))
        ):
            raise TypeError(f"elementwise must have subclasses of torch.nn.Module and functions, got {each!r}")
    classes: tuple[Any, ...] = tuple(each for each in given if isinstance(each, type))
    functions: tuple[Any, ...] = tuple(each for each in given if not isinstance(each, type))

    plan = _Plan(model)
    covered: set[nn.Module] = set()  # sequences
    for name, module in model.named_modules():
        if isinstance(module, TRANSFORMERS):
            plan.add_feed_forward(name, module, classes, functions)
        elif is_sequence(module) and "forward" not in module.__dict__ and module not in covered:
            plan.add_sequence(name, module, classes)
            covered.update(sequences_of(module))
    parts = {inner for sequence in covered for inner in sequence._modules.values() if inner in covered}
    for holder in model.modules():
        for key, inner in holder._modules.items():
            if inner in parts and holder not in covered:
                place = f" where {plan.name_of(holder, key)} is called by itself"
                plan.add_sequence(plan.names[inner], inner, classes, place)
    return plan.carry_out(n_groups, classes)


def _why_called(dropout: nn.Module, *linears: nn.Module) -> str:
    """Return why a dropout module and the linear layers beside it must be called, "" if they need not be."""
    if "forward" in dropout.__dict__:
        return "its forward pass was replaced by another function"
    if any(map(is_watched, linears)):
        return "a linear layer beside it has hooks (as of pruning), and its products are full"
    return ""


class _Plan:
    """What `compact_dropout` will change."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.names = {module: name for name, module in model.named_modules()}
        self.where: dict[nn.Module, str] = {}  # dropout modules that can be replaced
        self.reasons: dict[nn.Module, str] = {}
        self.uses: dict[nn.Module, set[tuple[nn.Module, str]]] = {}  # in chains
        self.holders: dict[nn.Module, set[nn.Module]] = {}  # of each dropout module: what else changes its class

    def add_sequence(self, name: str, sequence: nn.Module, classes: tuple[Any, ...], place: str = "") -> None:
        """Find the dropout modules of a sequence that are in chains; place ends the reasons of others."""
        entries = list(entries_of(sequence, name))
        modules = [entry.module for entry in entries]
        droppers = (nn.Dropout, Dropout, CompactDropout, FeatureDropoutLinear)
        for index, before, behind in places_of(modules, droppers, classes):
            dropout = modules[index]
            if isinstance(before, str) or isinstance(behind, str):
                self.reasons[dropout] = (before if isinstance(before, str) else str(behind)) + place
            elif reason := _why_called(dropout, modules[before], modules[behind]):
                self.reasons[dropout] = reason
            else:
                where = f"{entries[before].name} and {entries[behind].name}"
                self._accept(dropout, where, (entries[index].holder, entries[index].key), sequence)

    def add_feed_forward(self, name: str, layer: Any, classes: tuple[Any, ...], functions: tuple[Any, ...]) -> None:
        """Find out whether the feed-forward part of a Transformer layer is a chain."""
        dropout, activation = layer.dropout, layer.activation
        if type(dropout) not in (nn.Dropout, Dropout, CompactDropout):
            return
        known = (
            is_elementwise(activation, classes)
            if isinstance(activation, nn.Module)
            else any(activation is each for each in (*_ELEMENTWISE_FUNCTIONS, *functions))
        )
        if type(layer)._ff_block not in (*(cls._ff_block for cls in TRANSFORMERS), CompactFeedForward._ff_block):
            self.reasons[dropout] = f"{type(layer).__name__} has a feed-forward part of other code"
        elif not (type(layer.linear1) is nn.Linear and type(layer.linear2) is nn.Linear):
            names = type(layer.linear1).__name__, type(layer.linear2).__name__
            self.reasons[dropout] = f"{' and '.join(names)} are around it, where a chain needs two nn.Linear"
        elif not known:
            self.reasons[dropout] = (
                f"the activation {getattr(activation, '__name__', type(activation).__name__)} is not known to be "
                "element-wise (elementwise= takes functions that are)"
            )
        elif reason := _why_called(dropout, layer.linear1, layer.linear2):
            self.reasons[dropout] = reason
        else:
            prefix = f"{name}." if name else ""
            self._accept(dropout, f"{prefix}linear1 and {prefix}linear2", (layer, "dropout"), layer)

    def _accept(self, dropout: nn.Module, where: str, use: tuple[nn.Module, str], holder: nn.Module) -> None:
        self.where[dropout] = where
        self.uses.setdefault(dropout, set()).add(use)
        self.holders.setdefault(dropout, set()).add(holder)

    def carry_out(self, n_groups: int, classes: tuple[Any, ...]) -> Compacted:
        """Change the classes, and return what was changed and what was left."""
        for holder in self.model.modules():
            for key, module in holder._modules.items():
                if module in self.where and (holder, key) not in self.uses[module]:
                    self.reasons[module] = f"it is also {self.name_of(holder, key)}, which is not between linear layers"
        replaced = {module: where for module, where in self.where.items() if module not in self.reasons}
        for dropout in replaced:
            for holder in self.holders[dropout]:
                if not isinstance(holder, Swapped):
                    holder.__class__ = class_for(type(holder))
                    holder.__dict__[REPLACED] = True
                if classes and isinstance(holder, CompactSequential):
                    holder.__dict__["elementwise"] = tuple(dict.fromkeys((*holder.elementwise, *classes)))
            if type(dropout) in (nn.Dropout, Dropout) or REPLACED in dropout.__dict__:
                dropout.__class__ = CompactDropout
                dropout.__dict__[REPLACED] = True
                dropout.__dict__["n_groups"] = n_groups
        left = {name: self._why_left(module) for module, name in self.names.items() if module not in replaced}
        return Compacted(
            {self.names[module]: where for module, where in replaced.items()},
            {name: reason for name, reason in left.items() if reason},
        )

    def name_of(self, holder: nn.Module, key: str) -> str:
        """Return the name of a module that another one holds."""
        return f"{self.names[holder]}.{key}" if self.names[holder] else key

    def _why_left(self, module: nn.Module) -> str:
        """Return why a module was left, "" if it does not drop."""
        if module in self.reasons:
            return self.reasons[module]
        name = type(module).__name__
        if isinstance(module, nn.MultiheadAttention):
            return "it drops weights of attention" if module.dropout > 0.0 else ""
        if isinstance(module, nn.RNNBase):
            return "it drops between recurrent layers" if module.dropout > 0.0 else ""
        if isinstance(module, (nn.Dropout, CompactDropout)):
            return "it is not in an nn.Sequential, nor between the linear layers of a Transformer layer"
        return f"{name} is not nn.Dropout" if isinstance(module, _DropoutNd) else ""
