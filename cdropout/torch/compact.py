"""Feature dropout between linear layers, whose matrix products skip what is dropped.

In `Linear -> activation -> CompactDropout -> Linear`, the first layer computes the kept features only, and the second
one reads the columns of its weight that belong to them. A matrix between two dropped layers is cut on both sides: at
p = 0.5 its products take a quarter of the arithmetic, forward and backward. Parameters keep their shapes, and so do
their gradients, which are 0 where a row or column was dropped.

Each dropout layer draws two 64-bit numbers from PyTorch's generator in a forward pass in training, as `FeatureDropout`
does; with one group the masks are those of `FeatureDropout` for the same seed.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.module import _has_any_global_hook

from cdropout import _kernels
from cdropout.checks import check_integer
from cdropout.compact.kept import KeepWords
from cdropout.compact.linear import compact_pays
from cdropout.torch import operators
from cdropout.torch.arguments import check_tensor, sizes_of
from cdropout.torch.kept import DTYPES, GatherKept, Kept, kept_linear
from cdropout.torch.layers import DropoutLeaf, Leaf
from cdropout.torch.linear import FeatureDropoutLinear
from cdropout.torch.modules import Dropout
from cdropout.torch.shared_axes import drop_along, feature_dropout
from cdropout.torch.tensors import PLAIN, draw_mask, is_ours

# Modules and functions whose output at a position depends on the input there alone.
_ELEMENTWISE: tuple[type[nn.Module], ...] = (
    *(nn.CELU, nn.ELU, nn.GELU, nn.Hardshrink, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.Identity, nn.LeakyReLU),
    *(nn.LogSigmoid, nn.Mish, nn.ReLU, nn.ReLU6, nn.SELU, nn.SiLU, nn.Sigmoid, nn.Softplus, nn.Softshrink, nn.Softsign),
    *(nn.Tanh, nn.Tanhshrink, nn.Threshold),
)
_ELEMENTWISE_FUNCTIONS: tuple[Any, ...] = (
    *(functional.celu, functional.elu, functional.gelu, functional.hardsigmoid, functional.hardswish),
    *(functional.leaky_relu, functional.mish, functional.relu, functional.relu6, functional.selu, functional.silu),
    *(functional.softplus, functional.tanh, functional.sigmoid, torch.relu, torch.tanh, torch.sigmoid),
)
# The multiplications and additions that a product does in the time of a hidden layer's additional calls. The number is
# such that no network was measured slower with compact products than with full ones where it chooses them. For
# 784-h-h-10 at batch 128, compact and full products took, over no dropout: h = 512, p = 0.2, 1.05 to 1.12 and 1.03;
# p = 0.5, 0.69 and 1.02. h = 128, p = 0.5: 1.24 and 1.04 over element-wise dropout. A layer behind a compact one
# gathers from its weight anyway and adds fewer calls: for h = 512, p = 0.5 and only the first layer compact, 0.91.
FLOPS_OF_CALLS = 48_000_000
FLOPS_OF_CALLS_BEHIND_COMPACT = 24_000_000
# The same for an element that is gathered or scattered with groups. With 4 groups, h = 2048 and p = 0.5, compact
# products took 1.13 at batch 128, where full ones take 1.0 to 1.03, and 0.43 at batch 512.
FLOPS_PER_MOVED_ELEM_OF_GROUPS = 56
# Marks the modules whose class `compact_dropout` has changed.
_REPLACED = "_cdropout_compact"


# ---- chains of linear layers ----------------------------------------------------------------------------------------


class _Layer(NamedTuple):
    """A linear layer of a chain, the functions behind it, and what drops their output; None for the last layer."""

    linear: nn.Module
    activations: Sequence[Callable[[Tensor], Tensor]]
    dropout: nn.Module | None

    @property
    def p(self) -> float:
        """The probability of dropping, 0 in evaluation."""
        dropout: Any = self.dropout
        return dropout.p if dropout is not None and dropout.training else 0.0


class _Chain(NamedTuple):
    """Linear layers with feature dropout between them, and all modules of which they are made, in order."""

    layers: Sequence[_Layer]
    modules: Sequence[nn.Module]

    @property
    def n_groups(self) -> int:
        """The number of groups of all dropout layers, 0 if they differ."""
        numbers = {getattr(layer.dropout, "n_groups", 1) for layer in self.layers[:-1]}
        return numbers.pop() if len(numbers) == 1 else 0


def _drop_groups(x: Tensor, p: float, n_groups: int) -> Tensor:
    """Return x after feature dropout with a mask for each group of rows: one axis of features, all others are rows."""
    if n_groups == 1:
        return feature_dropout(x, p)
    check_tensor(x)
    sizes = sizes_of(x)
    if not sizes or sizes[-1] == 0:
        raise ValueError(f"input must have an axis of features, got shape {sizes}")
    n_rows, n_features = math.prod(sizes[:-1]), sizes[-1]
    _check_rows(n_rows, n_groups)
    if n_rows % n_groups == 0:
        shaped = x.reshape(n_groups, n_rows // n_groups, n_features)
        return drop_along(shaped, p, (1,), True, False, None).reshape(sizes)
    factor = drop_along(torch.ones(n_groups, n_features, dtype=x.dtype, device=x.device), p, (), True, False, None)
    factor = factor.index_select(0, operators.groups_of_rows(n_rows, n_groups, x.device)).reshape(sizes)
    return (x * factor).masked_fill(factor == 0.0, 0.0)


def _check_rows(n_rows: int, n_groups: int) -> None:
    if n_rows < n_groups:
        raise ValueError(f"input must have a row for each of {n_groups} groups, got {n_rows}")


def _choose(chain: _Chain, n_samples: int) -> list[bool]:
    """Return for each layer whether its output is computed at kept features only, by the rule of `compact_pays`."""
    layers, n_groups = chain.layers, chain.n_groups
    found: list[bool] = []
    for i, layer in enumerate(layers[:-1]):
        weight, behind = layer.linear.weight, layers[i + 1]
        n_out, n_in = weight.shape  # type: ignore[union-attr,misc]
        if found and found[-1]:
            n_in = int(n_in * (1 - layers[i - 1].p))
        n_after = int(behind.linear.weight.shape[0] * (1 - behind.p))  # type: ignore[union-attr,index,operator]
        pays = compact_pays(
            n_samples // n_groups,
            n_in,
            n_out,
            n_after,
            layer.p,
            flops_of_calls=FLOPS_OF_CALLS_BEHIND_COMPACT if found and found[-1] else FLOPS_OF_CALLS,
            flops_per_moved_elem=FLOPS_PER_MOVED_ELEM_OF_GROUPS if n_groups > 1 else None,
        )
        found.append(0.0 < layer.p < 1.0 and pays)
    return found


def _compact_choice(chain: _Chain, x: Any) -> list[bool]:
    """Return the choice of `_choose`, or nothing if the products cannot be compact: the modules run one by one then."""
    parameters: list[Any] = []
    for layer in chain.layers:
        parameters += [layer.linear.weight] if layer.linear.bias is None else [layer.linear.weight, layer.linear.bias]
    dtype = parameters[0].dtype
    if dtype not in DTYPES or any(each.dtype is not dtype for each in parameters):
        return []
    if not is_ours(1.0, None, *parameters) or any(map(_is_watched, chain.modules)):
        return []
    if type(x) not in PLAIN or x.layout is not torch.strided or x.is_nested or x.device.type != "cpu":
        return []
    if x.dim() < 2 or x.shape[-1] == 0 or chain.n_groups == 0:
        return []
    weights: list[Any] = [layer.linear.weight for layer in chain.layers]
    widths = [x.shape[-1], *(weight.shape[0] for weight in weights)]
    if any(width != weight.shape[1] for width, weight in zip(widths, weights, strict=False)):
        return []  # the modules raise PyTorch's error before anything is drawn for them
    n_samples = x.numel() // x.shape[-1]
    if n_samples == 0 and chain.n_groups == 1:
        return []
    _check_rows(n_samples, chain.n_groups)
    choice = _choose(chain, n_samples)
    return choice if any(choice) else []


def _is_watched(module: nn.Module) -> bool:
    """Return whether a call of the module does more than its class says."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in module.__dict__
    )


def _run(chain: _Chain, x: Tensor, choice: Sequence[bool]) -> Tensor:
    """Return the output of a chain whose layers are compact where chosen."""
    n_groups, leading = chain.n_groups, x.shape[:-1]
    full = x.reshape(-1, x.shape[-1])
    bounds = [len(full) * g // n_groups for g in range(n_groups + 1)]
    sizes = [end - begin for begin, end in pairwise(bounds)]
    blocks: list[Tensor] = []  # one for each group, instead of full
    columns: list[KeepWords] = []  # the kept inputs of the layer, for each group
    scale = 1.0
    for layer, is_compact in zip(chain.layers, [*choice, False], strict=True):
        weight: Any = layer.linear.weight
        bias: Any = layer.linear.bias
        p = layer.p
        rows: list[KeepWords] = []
        if is_compact:
            mask = draw_mask((n_groups, weight.shape[0]), p, (), None)
            rows = [KeepWords(mask[g : g + 1]) for g in range(n_groups)]
        if rows or columns:
            blocks = blocks or ([full] if n_groups == 1 else list(full.split(sizes)))
            groups = [Kept(rows[g] if rows else None, columns[g] if columns else None, scale) for g in range(n_groups)]
            parts = GatherKept.apply(groups, weight, bias)  # type: ignore[no-untyped-call]
            step = 1 if bias is None else 2
            multiply = functools.partial(kept_linear, is_last=not rows)
            blocks = [multiply(block, *parts[step * g : step * g + step]) for g, block in enumerate(blocks)]
        else:
            full = functional.linear(full, weight, bias)
        if blocks and not rows:
            full, blocks = blocks[0] if n_groups == 1 else torch.cat(blocks), []
        for activation in layer.activations:
            if blocks:
                blocks = [activation(block) for block in blocks]
            else:
                full = activation(full)
        if p > 0.0 and not rows:
            full = _drop_groups(full, p, n_groups)
        columns, scale = rows, _kernels.kept_scale(p) if rows else 1.0
    return full.reshape(*leading, full.shape[-1])


def _run_modules(modules: Sequence[nn.Module], x: Any) -> Any:
    for module in modules:
        x = module(x)
    return x


def _run_in_mode(chain: _Chain, x: Tensor, choice: Sequence[bool]) -> Tensor:
    """Return what `_run` does; torch.compile ends its graph before it, because the sizes depend on the mask."""
    if torch.compiler.is_compiling():
        from cdropout.torch import between_graphs  # its import takes seconds

        return between_graphs.call(_run, chain, x, choice)  # type: ignore[no-any-return]
    return _run(chain, x, choice)


def _run_chain(chain: _Chain, x: Any) -> Any:
    """Return the output of a chain, by compact products where they can be made and pay."""
    choice = _compact_choice(chain, x) if not _has_any_global_hook() else []
    if not choice:
        return _run_modules(chain.modules, x)
    return _run_in_mode(chain, x, choice)


# ---- where chains are -----------------------------------------------------------------------------------------------


class _Place(NamedTuple):
    """A module that drops, and the linear layers before and behind it: their indices, or why there is none."""

    at: int
    before: int | str
    behind: int | str


def _is_elementwise(module: nn.Module, also: tuple[type[nn.Module], ...]) -> bool:
    if type(module) in _ELEMENTWISE or isinstance(module, also):
        return True
    return type(module) is nn.PReLU and module.num_parameters == 1


def _is_linear(module: nn.Module) -> bool:
    return type(module) in (nn.Linear, FeatureDropoutLinear)


def _places(
    modules: Sequence[nn.Module], droppers: tuple[type[nn.Module], ...], also: tuple[type[nn.Module], ...]
) -> Iterator[_Place]:
    """Yield the modules of a sequence that drop and may be in a chain."""
    for i, module in enumerate(modules):
        if type(module) not in droppers:
            continue
        before, behind = i - 1, i + 1
        while before >= 0 and _is_elementwise(modules[before], also):
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


def _chains(modules: Sequence[nn.Module], also: tuple[type[nn.Module], ...]) -> Iterator[tuple[int, int, _Chain]]:
    """Yield the chains of a sequence, with the indices of their first module and behind their last one."""
    layers: list[_Layer] = []
    first = last = -1
    for place in _places(modules, (CompactDropout, FeatureDropoutLinear), also):
        if isinstance(place.before, str) or isinstance(place.behind, str):
            continue
        if layers and place.before != last:
            yield first, last + 1, _closed(layers, modules, first, last)
            layers = []
        if not layers:
            first = place.before
        layers.append(_Layer(modules[place.before], modules[place.before + 1 : place.at], modules[place.at]))
        last = place.behind
    if layers:
        yield first, last + 1, _closed(layers, modules, first, last)


def _closed(layers: list[_Layer], modules: Sequence[nn.Module], first: int, last: int) -> _Chain:
    return _Chain([*layers, _Layer(modules[last], (), None)], modules[first : last + 1])


class _Entry(NamedTuple):
    """A module within nested sequences: its name, and the sequence and the key that hold it."""

    name: str
    holder: nn.Module
    key: str
    module: nn.Module


def _entries(sequence: nn.Module, prefix: str = "") -> Iterator[_Entry]:
    """Yield the modules of a sequence and of the sequences in it."""
    for key, module in sequence._modules.items():
        if module is None:
            continue
        name = f"{prefix}.{key}" if prefix else key
        if _is_sequence(module) and not _is_watched(module):
            yield from _entries(module, name)
        else:
            yield _Entry(name, sequence, key, module)


def _sequences(sequence: nn.Module) -> Iterator[nn.Module]:
    """Yield a sequence and the sequences in it whose modules `_entries` yields."""
    yield sequence
    for module in sequence._modules.values():
        if module is not None and _is_sequence(module) and not _is_watched(module):
            yield from _sequences(module)


def _is_sequence(module: nn.Module) -> bool:
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
        return _drop_groups(input, self.p, self.n_groups) if self.training and self.p > 0.0 else input

    def _by_operators(self, input: Tensor) -> Tensor:  # noqa: A002
        return operators.group_dropout(input, self.p, self.training, self.n_groups)

    def _undo_compact(self) -> int:
        if self.__dict__.pop(_REPLACED, None) is None:
            return 0
        self._forget_script()
        del self.n_groups
        self.__class__ = nn.Dropout  # type: ignore[assignment]
        return 1


class _Swapped(nn.Module):
    """A module whose class may be made at run time from another class, without a name to import."""

    _base: ClassVar[type[nn.Module] | None] = None

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copy and pickle by the other class."""
        if self._base is None:
            return super().__reduce_ex__(protocol)
        return _unpickle, (self._base,), self.__getstate__()

    def _undo_compact(self) -> int:
        if self.__dict__.pop(_REPLACED, None) is not None:
            self.__dict__.pop("elementwise", None)
            self.__class__ = self._base or nn.Sequential  # type: ignore[assignment]
        return 0


class CompactSequential(_Swapped, Leaf, nn.Sequential):
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
        modules = [entry.module for entry in _entries(self)]
        at = 0
        for begin, end, chain in _chains(modules, self.elementwise):
            if any(layer.p > 0.0 for layer in chain.layers):
                input = _run_modules(modules[at:begin], input)  # noqa: A001
                input = _run_chain(chain, input)  # noqa: A001
                at = end
        return super().forward(input) if at == 0 else _run_modules(modules[at:], input)


class _CompactFeedForward(_Swapped):
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
        layers = [_Layer(layer.linear1, (activation,), layer.dropout), _Layer(layer.linear2, (), None)]
        modules = [each for each in (layer.linear1, activation, layer.dropout, layer.linear2) if _is_module(each)]
        chain = _Chain(layers, modules)
        choice = _compact_choice(chain, x)
        if not choice:
            return super()._ff_block(x)  # type: ignore[misc,no-any-return]
        y = _run_in_mode(chain, x, choice)
        last = layer.dropout2 if isinstance(self, nn.TransformerEncoderLayer) else layer.dropout3
        return last(y)  # type: ignore[no-any-return]


def _is_module(each: Any) -> bool:
    return isinstance(each, nn.Module)


_TRANSFORMERS = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)


def _class_for(cls: Any) -> type[nn.Module]:
    """Return the compact class of a subclass of nn.Sequential or of a layer of a Transformer."""
    if cls is nn.Sequential:
        return CompactSequential
    return _subclass(cls)


@functools.cache
def _subclass(cls: Any) -> type[nn.Module]:
    first: Any = CompactSequential if issubclass(cls, nn.Sequential) else _CompactFeedForward
    return type(cls.__name__, (first, cls), {"__module__": cls.__module__, "__doc__": cls.__doc__, "_base": cls})


def _unpickle(cls: Any) -> nn.Module:
    made: Any = _subclass(cls)
    return made.__new__(made)  # type: ignore[no-any-return]


# ---- rewriting a model ----------------------------------------------------------------------------------------------


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
        if isinstance(module, _TRANSFORMERS):
            plan.add_feed_forward(name, module, classes, functions)
        elif _is_sequence(module) and "forward" not in module.__dict__ and module not in covered:
            plan.add_sequence(name, module, classes)
            covered.update(_sequences(module))
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
    if any(map(_is_watched, linears)):
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
        entries = list(_entries(sequence, name))
        modules = [entry.module for entry in entries]
        droppers = (nn.Dropout, Dropout, CompactDropout, FeatureDropoutLinear)
        for index, before, behind in _places(modules, droppers, classes):
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
            _is_elementwise(activation, classes)
            if isinstance(activation, nn.Module)
            else any(activation is each for each in (*_ELEMENTWISE_FUNCTIONS, *functions))
        )
        if type(layer)._ff_block not in (*(cls._ff_block for cls in _TRANSFORMERS), _CompactFeedForward._ff_block):
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
                if not isinstance(holder, _Swapped):
                    holder.__class__ = _class_for(type(holder))
                    holder.__dict__[_REPLACED] = True
                if classes and isinstance(holder, CompactSequential):
                    holder.__dict__["elementwise"] = tuple(dict.fromkeys((*holder.elementwise, *classes)))
            if type(dropout) in (nn.Dropout, Dropout) or _REPLACED in dropout.__dict__:
                dropout.__class__ = CompactDropout
                dropout.__dict__[_REPLACED] = True
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
