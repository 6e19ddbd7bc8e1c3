"""Modules that are or contain chains of linear layers, and where the chains of a sequence begin and end."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.module import _has_any_global_hook

from cdropout.checks import check_integer
from cdropout.torch import operators
from cdropout.torch.compact.chains import (
    Chain,
    Layer,
    compact_choice,
    drop_groups,
    is_watched,
    run_chain,
    run_compact,
    run_modules,
)
from cdropout.torch.layers import DropoutLeaf, Leaf
from cdropout.torch.linear import FeatureDropoutLinear

# Modules whose output at a position depends on the input there alone.
_ELEMENTWISE: tuple[type[nn.Module], ...] = (
    *(nn.CELU, nn.ELU, nn.GELU, nn.Hardshrink, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.Identity, nn.LeakyReLU),
    *(nn.LogSigmoid, nn.Mish, nn.ReLU, nn.ReLU6, nn.SELU, nn.SiLU, nn.Sigmoid, nn.Softplus, nn.Softshrink, nn.Softsign),
    *(nn.Tanh, nn.Tanhshrink, nn.Threshold),
)
# Marks the modules whose class `compact_dropout` has changed.
REPLACED = "_cdropout_compact"


# ---- where chains are -----------------------------------------------------------------------------------------------


class _Place(NamedTuple):
    """A module that drops, and the linear layers before and behind it: their indices, or why there is none."""

    at: int
    before: int | str
    behind: int | str


def is_elementwise(module: nn.Module, also: tuple[type[nn.Module], ...]) -> bool:
    """Return whether a module is known to be element-wise: one of torch.nn, or of the classes in also."""
    if type(module) in _ELEMENTWISE or isinstance(module, also):
        return True
    return type(module) is nn.PReLU and module.num_parameters == 1


def _is_linear(module: nn.Module) -> bool:
    return type(module) in (nn.Linear, FeatureDropoutLinear)


def places_of(
    modules: Sequence[nn.Module], droppers: tuple[type[nn.Module], ...], also: tuple[type[nn.Module], ...]
) -> Iterator[_Place]:
    """Yield the modules of a sequence that drop and may be in a chain."""
    for i, module in enumerate(modules):
        if type(module) not in droppers:
            continue
        before, behind = i - 1, i + 1
        while before >= 0 and is_elementwise(modules[before], also):
            before -= 1
        while behind < len(modules) and type(modules[behind]) is nn.Identity:
            behind += 1
        is_pair = type(module) is FeatureDropoutLinear  # the layer behind is the same module
        yield _Place(
            i,
            before if before >= 0 and _is_linear(modules[before]) else _why(modules, before, "before"),
            i if is_pair else behind if _is_plain_linear(modules, behind) else _why(modules, behind, "behind"),
        )


def _is_plain_linear(modules: Sequence[nn.Module], index: int) -> bool:
    return index < len(modules) and type(modules[index]) is nn.Linear


def _why(modules: Sequence[nn.Module], index: int, side: str) -> str:
    """Return why the module on one side of a dropout ends a chain."""
    if not 0 <= index < len(modules):
        return f"there is no nn.Linear {side} it"
    name = type(modules[index]).__name__
    if side == "before" and not isinstance(modules[index], (nn.Linear, _DropoutNd)):
        return f"{name} before it is not known to be element-wise (elementwise= takes classes that are)"
    return f"{name} is {side} it, where a chain needs an nn.Linear"


def _chains(modules: Sequence[nn.Module], also: tuple[type[nn.Module], ...]) -> Iterator[tuple[int, int, Chain]]:
    """Yield the chains of a sequence, with the indices of their first module and behind their last one."""
    layers: list[Layer] = []
    first = last = -1
    for place in places_of(modules, (CompactDropout, FeatureDropoutLinear), also):
        if isinstance(place.before, str) or isinstance(place.behind, str):
            continue
        if layers and place.before != last:
            yield first, last + 1, _closed(layers, modules, first, last)
            layers = []
        if not layers:
            first = place.before
        layers.append(Layer(modules[place.before], modules[place.before + 1 : place.at], modules[place.at]))
        last = place.behind
    if layers:
        yield first, last + 1, _closed(layers, modules, first, last)


def _closed(layers: list[Layer], modules: Sequence[nn.Module], first: int, last: int) -> Chain:
    return Chain([*layers, Layer(modules[last], (), None)], modules[first : last + 1])


class _Entry(NamedTuple):
    """A module within nested sequences: its name, and the sequence and the key that hold it."""

    name: str
    holder: nn.Module
    key: str
    module: nn.Module


def entries_of(sequence: nn.Module, prefix: str = "") -> Iterator[_Entry]:
    """Yield the modules of a sequence and of the sequences in it."""
    for key, module in sequence._modules.items():
        if module is None:
            continue
        name = f"{prefix}.{key}" if prefix else key
        if is_sequence(module) and not is_watched(module):
            yield from entries_of(module, name)
        else:
            yield _Entry(name, sequence, key, module)


def sequences_of(sequence: nn.Module) -> Iterator[nn.Module]:
    """Yield a sequence and the sequences in it whose modules `entries_of` yields."""
    yield sequence
    for module in sequence._modules.values():
        if module is not None and is_sequence(module) and not is_watched(module):
            yield from sequences_of(module)


def is_sequence(module: nn.Module) -> bool:
    """Return whether a module runs its modules one behind the other, as nn.Sequential does."""
    return isinstance(module, nn.Sequential) and type(module).forward in (
        nn.Sequential.forward,
        CompactSequential.forward,
    )


# ---- modules --------------------------------------------------------------------------------------------------------


class CompactDropout(DropoutLeaf):
    """Feature dropout between two linear layers of a `CompactSequential`, which then skip the dropped features.

    Elsewhere it is feature dropout as well: one decision for each feature of a group of rows.

    Parameters
    ----------
    p : float
        The probability of dropping a feature, in [0, 1].
    n_groups : int
        Number of groups that the rows of a batch are divided into, each with a mask. All axes of the input except the
        last count as rows, in C order, and a group is a run of them. With more groups, it comes nearer to element-wise
        dropout, and saves less time.

    Raises
    ------
    TypeError, ValueError
        For an argument other than the above. The forward pass in training raises ValueError for fewer rows than groups.

    """

    _shown: ClassVar[tuple[str, ...]] = ("p", "n_groups")

    def __init__(self, p: float = 0.5, *, n_groups: int = 1) -> None:
        n_groups = check_integer("n_groups", n_groups, 1)
        super().__init__(p)
        self.n_groups = n_groups

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Return input, of shape (..., features), after dropout in training, and input itself in evaluation."""
        return drop_groups(input, self.p, self.n_groups) if self.training and self.p > 0.0 else input

    def _by_operators(self, input: Tensor) -> Tensor:  # noqa: A002
        return operators.group_dropout(input, self.p, self.training, self.n_groups)

    def _undo_compact(self) -> int:
        if self.__dict__.pop(REPLACED, None) is None:
            return 0
        self._forget_script()
        del self.n_groups
        self.__class__ = nn.Dropout  # type: ignore[assignment]
        return 1


class Swapped(nn.Module):
    """A module whose class may be made at run time from another class, without a name to import."""

    _base: ClassVar[type[nn.Module] | None] = None

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copy and pickle by the other class."""
        if self._base is None:
            return super().__reduce_ex__(protocol)
        return _unpickle, (self._base,), self.__getstate__()

    def _undo_compact(self) -> int:
        if self.__dict__.pop(REPLACED, None) is not None:
            self.__dict__.pop("elementwise", None)
            self.__class__ = self._base or nn.Sequential  # type: ignore[assignment]
        return 0


class CompactSequential(Swapped, Leaf, nn.Sequential):
    """`torch.nn.Sequential` whose linear layers skip features that `CompactDropout` drops between them.

    A chain is nn.Linear, any number of element-wise modules, CompactDropout, nn.Linear, and so on. In training, its
    products use the kept rows and columns of the weights only, where this saves more time than it costs
    (`cdropout.compact.compact_pays`); elsewhere they are full. The results equal, up to rounding, those of
    `nn.Sequential` with the same modules and seed. `FeatureDropoutLinear` counts as CompactDropout and nn.Linear.
    Nested sequences are parts of the chain. A chain runs module by module, with full products, if one of its modules
    has hooks, and for parameters other than float32 and float64 on the CPU.

    The constructor takes modules, or an OrderedDict of them, as that of `nn.Sequential` does.

    Attributes
    ----------
    elementwise : tuple of types
        Classes of modules that count as element-wise, besides those of torch.nn. Empty by default.

    Notes
    -----
    Source: Graham, Reizenstein & Robinson, "Efficient batchwise dropout training using submatrices", 2015.

    """

    elementwise: tuple[type[nn.Module], ...] = ()
    _by_operators = nn.Sequential.forward

    def forward(self, input: Any) -> Any:  # noqa: A002
        """Return the output of the last module for the input of the first."""
        modules = [entry.module for entry in entries_of(self)]
        at = 0
        for begin, end, chain in _chains(modules, self.elementwise):
            if any(layer.p > 0.0 for layer in chain.layers):
                input = run_modules(modules[at:begin], input)  # noqa: A001
                input = run_chain(chain, input)  # noqa: A001
                at = end
        return super().forward(input) if at == 0 else run_modules(modules[at:], input)


class CompactFeedForward(Swapped):
    """A layer of a Transformer whose feed-forward part is a chain."""

    def _is_chain(self) -> bool:
        """Return whether the modules are still those of a chain: programs replace them, as peft does."""
        layer: Any = self
        return (
            type(layer.dropout) is CompactDropout
            and layer.dropout.training
            and layer.dropout.p > 0.0
            and type(layer.linear1) is nn.Linear
            and type(layer.linear2) is nn.Linear
        )

    def _ff_block(self, x: Tensor) -> Tensor:
        layer: Any = self
        if not self._is_chain() or _has_any_global_hook():
            return super()._ff_block(x)  # type: ignore[misc,no-any-return]
        activation = layer.activation
        layers = [Layer(layer.linear1, (activation,), layer.dropout), Layer(layer.linear2, (), None)]
        modules = [each for each in (layer.linear1, activation, layer.dropout, layer.linear2) if _is_module(each)]
        chain = Chain(layers, modules)
        choice = compact_choice(chain, x)
        if not choice:
            return super()._ff_block(x)  # type: ignore[misc,no-any-return]
        y = run_compact(chain, x, choice)
        last = layer.dropout2 if isinstance(self, nn.TransformerEncoderLayer) else layer.dropout3
        return last(y)  # type: ignore[no-any-return]


def _is_module(each: Any) -> bool:
    return isinstance(each, nn.Module)


TRANSFORMERS = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)


def class_for(cls: Any) -> type[nn.Module]:
    """Return the compact class of a subclass of nn.Sequential or of a layer of a Transformer."""
    if cls is nn.Sequential:
        return CompactSequential
    return _subclass(cls)


@functools.cache
def _subclass(cls: Any) -> type[nn.Module]:
    first: Any = CompactSequential if issubclass(cls, nn.Sequential) else CompactFeedForward
    return type(cls.__name__, (first, cls), {"__module__": cls.__module__, "__doc__": cls.__doc__, "_base": cls})


def _unpickle(cls: Any) -> nn.Module:
    made: Any = _subclass(cls)
    return made.__new__(made)  # type: ignore[no-any-return]
