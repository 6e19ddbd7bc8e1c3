"""Monte Carlo dropout for PyTorch models: predictions with their uncertainty, from many sampled sub-networks.

Only modules that draw are switched to training. What a model computes before its first draw is the same in every pass,
so modules that end before it return the output of an earlier pass.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from cdropout.checks import check_integer
from cdropout.optional import require


class Prediction(NamedTuple):
    """Hold what Monte Carlo dropout predicts.

    Attributes
    ----------
    mean, std : Tensor of float64
        Mean and standard deviation over the samples, of the output or, with class_dim, of the probabilities.
    entropy : Tensor of float64 or None
        Entropy of the mean probabilities in nats, without the axis of the classes: how uncertain the prediction is.
        None without class_dim.
    mutual_information : Tensor of float64 or None
        The entropy minus the mean of the samples' entropies, in nats: how much the sub-networks disagree. None without
        class_dim.

    """

    mean: Tensor
    std: Tensor
    entropy: Tensor | None
    mutual_information: Tensor | None


def mc_predict(
    model: nn.Module,
    x: Any,
    n_samples: int,
    *,
    output: Callable[[Any], Tensor] | None = None,
    class_dim: int | None = None,
    seed: int | None = None,
    progress: bool = False,
) -> Prediction:
    """Predict by Monte Carlo dropout: mean, spread and, for classifiers, entropy and mutual information.

    The modes of all modules are as before after the call, and the model needs no change. Only modules that draw are in
    training mode during it; batch normalization uses its running statistics. A module that ends before the first draw
    of a pass runs twice, and returns the second output from then on if both are equal bit for bit. Masks are those of
    the model's dropout: after `replace_dropout` or `enable`, this library's.

    Parameters
    ----------
    model : nn.Module
        On the CPU. No other thread may use it during the call.
    x : Tensor, tuple or dict
        The model's argument, its positional arguments, or its named ones.
    n_samples : int
        Number of sub-networks, at least 1.
    output : callable, optional
        Takes what the model returns and returns the tensor to predict, as `lambda out: out.logits`.
    class_dim : int, optional
        The axis of the classes, for a classifier, whose output is logits.
    seed : int, optional
        Seed of the masks. PyTorch's generator is then as before after the call. By default the masks follow
        `torch.manual_seed`.
    progress : bool
        Whether to show a progress bar on stderr; needs tqdm.

    Returns
    -------
    Prediction
        mean, std, entropy and mutual_information.

    Raises
    ------
    TypeError, ValueError
        If an argument is not valid, or the output is not a real tensor or changes its shape.
    RuntimeError
        If another call predicts with the model.

    Warns
    -----
    UserWarning
        If nothing in the model draws: all samples are then equal.

    Notes
    -----
    To find the modules that draw, the model runs once with all modules in training mode except those with running
    statistics; its buffers are restored afterwards. A function such as `F.dropout` belongs to the module that calls it.
    A module that draws from a generator other than PyTorch's default one is found if its class name contains "drop".

    Source: Gal & Ghahramani, "Dropout as a Bayesian approximation", ICML 2016; Smith & Gal, "Understanding measures of
    uncertainty for adversarial example detection", UAI 2018.

    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
    n_samples = check_integer("n_samples", n_samples, 1)
    if seed is not None:
        seed = check_integer("seed", seed, -(1 << 63), (1 << 64) - 1)
    tqdm = require("tqdm", extra="cli", purpose="progress=True").tqdm if progress else None
    moments = _Moments(class_dim)
    with contextlib.ExitStack() as block:
        block.enter_context(_alone(model))
        if seed is not None:
            block.enter_context(torch.random.fork_rng(devices=[]))
            torch.manual_seed(seed)
        block.enter_context(torch.inference_mode(False))  # tensors of inference mode have no version
        block.enter_context(torch.no_grad())
        passes = block.enter_context(_Passes(model, x))
        bar = block.enter_context(tqdm(total=n_samples, unit="sample", leave=False, file=sys.stderr)) if tqdm else None
        for _ in range(n_samples):
            found = passes.run()
            moments.add(found if output is None else output(found))
            if bar is not None:
                bar.update()
    return moments.prediction()


_in_use: set[int] = set()
_in_use_lock = threading.Lock()


@contextlib.contextmanager
def _alone(model: nn.Module) -> Iterator[None]:
    """Refuse a model that another call predicts with: both would change its modes."""
    with _in_use_lock:
        if id(model) in _in_use:
            raise RuntimeError("model must be used by one call of mc_predict at a time, got one that another call uses")
        _in_use.add(id(model))
    try:
        yield
    finally:
        with _in_use_lock:
            _in_use.discard(id(model))


class _Moments:
    """Sums over samples, pass by pass (Welford 1962)."""

    def __init__(self, class_dim: int | None) -> None:
        self.class_dim = class_dim
        self.n = 0

    def add(self, sample: Any) -> None:
        """Add a sample.

        Raises
        ------
        TypeError, ValueError
            If it is not a real tensor, has no such axis, or has another shape than the first.

        """
        if not isinstance(sample, Tensor):
            raise TypeError(f"model must return a tensor, or output= must select one, got {type(sample).__name__}")
        if sample.is_complex():
            raise TypeError(f"model must return real numbers, got {sample.dtype}")
        sample = sample.detach().to(torch.float64)
        if self.class_dim is not None:
            if not -sample.dim() <= self.class_dim < sample.dim():
                raise ValueError(f"class_dim must be an axis of shape {tuple(sample.shape)}, got {self.class_dim}")
            sample = sample.softmax(self.class_dim)
        if self.n == 0:
            self.mean, self.squares = torch.zeros_like(sample), torch.zeros_like(sample)
            self.entropies: Tensor | float = 0.0
        if sample.shape != self.mean.shape:
            raise ValueError(f"model must return one shape, got {tuple(sample.shape)} after {tuple(self.mean.shape)}")
        self.n += 1
        difference = sample - self.mean
        self.mean += difference / self.n
        self.squares += difference * (sample - self.mean)
        if self.class_dim is not None:
            self.entropies = self.entropies + _entropy(sample, self.class_dim)

    def prediction(self) -> Prediction:
        """Return the moments of the samples."""
        std = (self.squares / self.n).sqrt()
        if self.class_dim is None:
            return Prediction(self.mean, std, None, None)
        entropy = _entropy(self.mean, self.class_dim)
        return Prediction(self.mean, std, entropy, (entropy - self.entropies / self.n).clamp(min=0))


def _entropy(probabilities: Tensor, class_dim: int) -> Tensor:
    return torch.special.entr(probabilities).sum(class_dim)


class _Kept(NamedTuple):
    """The output of a module, and how often modules inside of it were called."""

    structure: Any
    leaves: list[Any]
    versions: list[int]
    inner_calls: Counter[nn.Module]


# Leaves of outputs that are kept. If a later module changes another object, that cannot be noticed.
_PLAIN = (Tensor, type(None), bool, int, float, str)


class _Passes:
    """A block in which the modules of a model that draw are in training mode, and finished work is not repeated.

    Each module's `forward` is replaced within the block. Two passes note which modules move PyTorch's generator, and
    what those return that end before it moves. Outputs that are equal in both are kept.
    """

    def __init__(self, model: nn.Module, x: Any) -> None:
        self.model, self.x = model, x
        self.modes = {module: module.training for module in model.modules()}
        self.forwards = {module: module.__dict__.get("forward") for module in _reachable(model)}
        self.kept: dict[tuple[nn.Module, int], _Kept] = {}
        self.is_watching = True

    def __enter__(self) -> _Passes:
        """Replace the modules' functions, and find the modules that draw."""
        try:
            for module in self.forwards:
                module.__dict__["forward"] = self._watched(module, module.forward)
            self._find_drawing()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Restore functions and modes."""
        for module, forward in self.forwards.items():
            module.__dict__.pop("forward", None)
            if forward is not None:
                module.__dict__["forward"] = forward
        self._set_modes(self.modes)
        self.kept = {}

    def run(self) -> Any:
        """Run a pass, and return what the model returns."""
        found = self._pass()
        self._forget_changed()
        return found

    def _forget_changed(self) -> None:
        """Forget outputs that a later step of the pass wrote to: their modules run in each pass from now on."""
        self.kept = {key: kept for key, kept in self.kept.items() if kept.versions == _versions(kept.leaves)}

    def _find_drawing(self) -> None:
        """Leave the modules that draw in training mode, and keep what comes before the first draw."""
        buffers = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
        state = torch.get_rng_state()
        try:
            in_training = {module: not _has_statistics(module) for module in self.modes}
            self._watch(in_training, state)
            earlier, expected = self.kept, self.drawn
            # A module with this name may draw from a generator that is not PyTorch's default one.
            drawing = set(expected) | {module for module in self.modes if "drop" in type(module).__name__.lower()}
            if not drawing:
                warnings.warn("nothing in the model draws: all samples are equal", UserWarning, stacklevel=4)
            self._watch({module: module in drawing for module in self.modes}, state)
            if self.drawn != expected:
                # A module in evaluation mode passes by the modules in it that draw, as nn.TransformerEncoderLayer does.
                outer = {module for module in self.modes if drawing.intersection(module.modules())}
                self._watch({module: in_training[module] and module in outer for module in self.modes}, state)
            if self.drawn != expected:
                self._watch(in_training, state)
            self._forget_changed()
            same = {key for key, kept in self.kept.items() if key in earlier and _is_same(kept, earlier[key])}
            self.kept = {key: self.kept[key] for key in same}
        finally:
            self.is_watching = False
            torch.set_rng_state(state)
            for buffer, before in buffers:
                buffer.copy_(before)

    def _set_modes(self, modes: Mapping[nn.Module, bool]) -> None:
        for module, mode in modes.items():
            module.training = mode

    def _watch(self, modes: Mapping[nn.Module, bool], state: Tensor) -> None:
        """Run a pass with these modes, and note what draws and what comes before."""
        self._set_modes(modes)
        torch.set_rng_state(state)
        self.kept, self.drawn, self.running = {}, Counter[nn.Module](), list[nn.Module]()
        self.latest, self.has_drawn = state, False
        self._pass()

    def _pass(self) -> Any:
        self.numbers: Counter[nn.Module] = Counter()
        x = pytree.tree_map_only(Tensor, torch.clone, self.x)  # a model may write to its input
        if isinstance(x, Mapping):
            return self.model(**x)
        return self.model(*x) if isinstance(x, tuple) else self.model(x)

    def _watched(self, module: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
        def replaced(*args: Any, **kwargs: Any) -> Any:
            key = module, self.numbers[module]
            self.numbers[module] += 1
            if self.is_watching:
                return self._note(key, forward, args, kwargs)
            if key in self.kept:
                structure, leaves, _, inner_calls = self.kept[key]
                self.numbers.update(inner_calls)
                return pytree.tree_unflatten(leaves, structure)
            return forward(*args, **kwargs)

        return replaced

    def _note(self, key: tuple[nn.Module, int], forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        self._note_draws()
        self.running.append(key[0])
        n_kept, numbers = len(self.kept), self.numbers.copy()
        try:
            found = forward(*args, **kwargs)
            self._note_draws()
        finally:
            self.running.pop()
        leaves, structure = pytree.tree_flatten(found)
        if not self.has_drawn and all(map(_is_plain, leaves)):
            for inner in list(self.kept)[n_kept:]:
                del self.kept[inner]
            self.kept[key] = _Kept(structure, leaves, _versions(leaves), self.numbers - numbers)
        return found

    def _note_draws(self) -> None:
        """Note whether the running module has drawn since the last time."""
        state = torch.get_rng_state()
        if not torch.equal(state, self.latest):
            self.latest, self.has_drawn = state, True
            self.drawn.update(self.running[-1:])


def _reachable(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the modules whose `forward` Python calls: not those within a script or a compiled module."""
    seen: set[nn.Module] = set()
    left = [module]
    while left:
        module = left.pop()
        if module in seen or isinstance(module, torch.jit.ScriptModule):
            continue
        seen.add(module)
        yield module
        if not hasattr(module, "_orig_mod"):  # torch.compile's
            left.extend(module.children())


def _has_statistics(module: nn.Module) -> bool:
    """Return whether a module in training mode changes running statistics, as batch normalization does."""
    return isinstance(getattr(module, "running_mean", None), Tensor) or bool(
        getattr(module, "track_running_stats", False)
    )


def _is_plain(leaf: Any) -> bool:
    """Return whether a leaf can be kept: tensors of inference mode have no version that tells of changes."""
    return isinstance(leaf, _PLAIN) and not (isinstance(leaf, Tensor) and leaf.is_inference())


def _versions(leaves: list[Any]) -> list[int]:
    return [leaf._version for leaf in leaves if isinstance(leaf, Tensor)]


def _is_same(a: _Kept, b: _Kept) -> bool:
    """Return whether two outputs are equal bit for bit, apart from the sign of zero."""
    return a.structure == b.structure and all(
        type(x) is type(y) and (_is_equal(x, y) if isinstance(x, Tensor) else x == y)
        for x, y in zip(a.leaves, b.leaves, strict=True)
    )


def _is_equal(x: Tensor, y: Tensor) -> bool:
    if x.shape != y.shape or x.dtype != y.dtype or x.layout != torch.strided:
        return False
    return bool(((x == y) | ((x != x) & (y != y))).all())  # a NaN is equal to a NaN
