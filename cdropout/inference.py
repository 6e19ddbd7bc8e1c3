"""Monte Carlo dropout, and functions that switch the modes of many layers."""

import copy
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from cdropout import _kernels
from cdropout.checks import check_integer, shown
from cdropout.held_layers import has, has_mode, holds_layers, is_dropout
from cdropout.layers import DropConnect, Dropout
from cdropout.layers.base import Layer
from cdropout.mask import Mask
from cdropout.stream import Rng, Stream, as_stream


def train(layers: Iterable[Any], mode: bool = True) -> None:
    """Switch layers to training, or to evaluation if mode is False; layers without `train` (`eval`) stay unchanged.

    Parameters
    ----------
    layers : iterable of layers
        Layers of a network, in any order.
    mode : bool
        Whether to switch to training.

    Raises
    ------
    TypeError
        If layers is not an iterable of layers, such as a single one or a dict.

    Warns
    -----
    UserWarning
        For an object without `train` (`eval`) that holds layers which are not listed: these are not switched.

    """
    _switch(layers, "train" if mode else "eval")


def eval(layers: Iterable[Any]) -> None:  # noqa: A001 - the usual name of this function
    """Switch layers to evaluation; layers without an `eval` method stay unchanged. As `train` with mode=False."""
    _switch(layers, "eval")


def _switch(layers: Iterable[Any], method: str) -> None:
    """Call a method of the layers that have it, for `train` and `eval`."""
    listed = _listed("layers", layers)
    known = set(map(id, listed))
    for layer in listed:
        switch = getattr(layer, method, None)
        if switch is not None:
            switch()
        elif has(layer, "forward") and holds_layers(layer, known, partial(_has_mode_and, method)):
            name = type(layer).__name__
            message = f"a {name} holds layers that are not switched, because it has no {method}: list these layers"
            warnings.warn(message, stacklevel=3)


def _has_mode_and(method: str, value: Any) -> bool:
    return has_mode(value) and has(value, method)


def _listed(name: str, layers: Any) -> list[Any]:
    """Return an iterable of layers as a list; TypeError, with the argument's name, for anything else."""
    if isinstance(layers, str | Mapping) or not (hasattr(layers, "__iter__") or hasattr(layers, "__getitem__")):
        hint = ": pass its values()" if isinstance(layers, Mapping) else ""
        raise TypeError(f"{name} must be an iterable of layers, got {layers!r}{hint}")
    return list(layers)


def _to_switch(layers: Iterable[Any], also: Iterable[Any], stacklevel: int, *, is_checked: bool = False) -> list[Any]:
    """Return the layers that drop: those of this library among layers, and all of also.

    Other layers stay as they are, because training means something else for them: batch normalization would use and
    change the statistics of the batch. A layer that is called a dropout and is not switched causes a warning;
    stacklevel is that of `warnings.warn`.
    """
    layers, also = _listed("layers", layers), _listed("also", also)
    named = set(map(id, also))
    ours = [layer for layer in layers if isinstance(layer, Layer)]
    for message in _reasons_for_no_switch(layers, named, is_checked=is_checked):
        warnings.warn(message, stacklevel=stacklevel)
    for layer in also:
        if not hasattr(layer, "training"):
            raise TypeError(f"also must be layers with an attribute training, got {layer!r}")
    known = set(map(id, ours))
    return ours + [layer for layer in also if id(layer) not in known]


def _reasons_for_no_switch(layers: list[Any], named: set[int], *, is_checked: bool = False) -> list[str]:
    """Return a warning for each of layers that drops, or holds layers that drop, and is not switched on; named has the
    ids of those in `also`. Checked layers are those of `_checked_steps`, which hold no others.
    """
    messages, known = [], named | set(map(id, layers))
    for layer in layers:
        if isinstance(layer, Layer):
            continue
        if id(layer) not in named and hasattr(layer, "training") and "drop" in type(layer).__name__.lower():
            messages.append(f"{layer!r} is not switched on: it is no layer of cdropout. Pass it in also= to switch it.")
        elif not is_checked and has(layer, "forward") and holds_layers(layer, known, is_dropout):
            name = type(layer).__name__
            messages.append(f"a {name} holds layers that are not switched on: list these layers instead")
    return messages


def _turn_on(layer: Any, stream: Stream | None) -> None:
    """Switch a layer to training, and set its `rng` to the stream, if one is given and `rng` is a Stream or None."""
    layer.training = True
    # A layer without `rng`, or with an `rng` of another library, cannot use a Stream.
    own = getattr(layer, "rng", _FOREIGN)
    if stream is not None and (own is None or isinstance(own, Stream)):
        layer.rng = stream


_FOREIGN = object()


class _Before:
    """A layer, and its mode and stream before a block of `dropout_on`."""

    __slots__ = ("block", "layer", "replaces_rng", "rng", "training")

    def __init__(self, layer: Any, block: object, replaces_rng: bool) -> None:
        self.layer, self.block, self.replaces_rng = layer, block, replaces_rng
        self.training, self.rng = layer.training, getattr(layer, "rng", _FOREIGN)


class _Switched:
    """A layer inside blocks of `dropout_on`: the thread that has it, and one item for each block, the latest last."""

    __slots__ = ("before", "thread")

    def __init__(self, thread: int, before: _Before) -> None:
        self.thread = thread
        self.before = [before]


# (process, id(layer)) -> its blocks. A second thread or task would take the switched state for the layer's original
# state and restore that. The process is part of the key because a forked child inherits the entries, which are about
# threads of its parent.
_switched: dict[tuple[int, int], _Switched] = {}

# The blocks that the running code is inside. Tasks of asyncio have one thread and a context each; a task inherits the
# blocks of the code that starts it.
_open_blocks: ContextVar[tuple[object, ...]] = ContextVar("_open_blocks", default=())


# What restores one layer at the end of a block: the key and the item of _switched, and the layer's part of it.
_Entered = tuple[tuple[int, int], _Switched, _Before]


def _enter(layers: list[Any], block: object, replaces_rng: bool) -> list[_Entered]:
    """Note that layers are in a block, without a lock; RuntimeError if another thread or task has one of them."""
    thread = threading.get_ident()
    entered: list[_Entered] = []
    try:
        for layer in layers:
            key, before = (_kernels.process_number(), id(layer)), _Before(layer, block, replaces_rng)
            new = _Switched(thread, before)
            entered.append((key, new, before))  # before the item is there, so that no error leaves it there
            entry = _switched.setdefault(key, new)
            if entry is new:
                continue
            entered.pop()
            who = "thread" if entry.thread != thread else "task"
            if who == "thread" or (entry.before and entry.before[-1].block not in (block, *_open_blocks.get())):
                raise RuntimeError(
                    f"layers must be switched by one {who} at a time, got {layer!r} of a {who} that still has them: "
                    f"give each {who} a network of its own, or give mc_predict the layers in the place of forward"
                )
            entered.append((key, entry, before))
            entry.before.append(before)
    except BaseException:
        _leave_all(entered)
        raise
    return entered


def _leave_all(entered: list[_Entered]) -> None:
    """Restore layers at the end of a block, the last first. An error at one layer comes when all have been restored."""
    try:
        while entered:
            key, entry, before = entered[-1]
            try:
                _restore(entry, before)
            except BaseException:  # out of memory, or Ctrl-C: once more
                _restore(entry, before)
                raise
            finally:
                entered.pop()
                if before in entry.before:
                    entry.before.remove(before)
                if not entry.before and _switched.get(key) is entry:
                    _switched.pop(key, None)
    finally:
        if entered:
            _leave_all(entered)


def _restore(entry: _Switched, before: _Before) -> None:
    """Restore a layer's mode and stream, or let the block that began later restore them. Two calls do what one does."""
    if before not in entry.before:
        return
    place, layer = entry.before.index(before), before.layer
    if place + 1 < len(entry.before):
        # A block that began later is still open, as if generators take turns: it will restore what this one found.
        later = entry.before[place + 1]
        later.training, later.rng = before.training, before.rng
        later.replaces_rng |= before.replaces_rng
        return
    try:
        layer.training = before.training
    finally:
        if before.replaces_rng and (before.rng is None or isinstance(before.rng, Stream)):
            layer.rng = before.rng


@contextmanager
def dropout_on(layers: Iterable[Any], *, rng: Rng | None = None, also: Iterable[Any] = ()) -> Iterator[None]:
    """Switch dropout on within a `with` block, and restore the layers' modes and streams at its end.

    If the block raises, layers are restored as at its end. Streams keep the positions of the masks drawn within the
    block; they do not move back.

    If blocks of one task overlap without being nested, as in generators that take turns, layers draw from the stream of
    the block that began last, and the block that ends last restores them.

    Parameters
    ----------
    layers : iterable of layers
        Layers of a network. Those of this library are switched to training; others, such as batch normalization, are
        left unchanged.
    rng
        Stream for the masks within the block, as in `dropout`. By default, each layer draws from the stream it has.
    also : iterable of layers
        Layers of other libraries to switch too: their attribute `training` is set.

    Raises
    ------
    RuntimeError
        If another thread or asyncio task is inside such a block with one of the layers. A task may have layers of the
        block that started it.
    TypeError
        If layers or also is not an iterable of layers, or a layer of `also` has no attribute `training`.

    Warns
    -----
    UserWarning
        For a layer whose class name contains "drop", if it is neither of this library nor in `also`, and for an object
        that holds layers which are not listed.

    """
    switched, block = _to_switch(layers, also, stacklevel=4), object()
    entered = _enter(switched, block, rng is not None)
    try:
        stream = None if rng is None else as_stream(rng)
        _open_blocks.set((*_open_blocks.get(), block))
        for layer in switched:
            _turn_on(layer, stream)
        yield
    finally:
        try:
            _leave_all(entered)
        finally:
            _open_blocks.set(tuple(each for each in _open_blocks.get() if each is not block))


def mc_predict(
    forward: Callable[..., npt.ArrayLike] | Sequence[Any],
    x: Any,
    n_samples: int,
    *,
    rng: Rng | None = None,
    layers: Iterable[Any] = (),
    also: Iterable[Any] = (),
    samples_per_pass: int = 1,
    progress: bool = False,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Predict by Monte Carlo dropout: the mean and the spread over sampled sub-networks.

    Parameters
    ----------
    forward : callable, dropout layer, or sequence of layers
        A callable takes x and returns an array, with new masks at each call. A sequence lists layers (called by their
        `forward`) and functions, through which x is passed in order; a dropout layer counts as a sequence of one. The
        call runs copies of the layers, which share the originals' arrays, and switches the layers of this library on.
        The originals do not change, so many threads may predict with the same layers at the same time. Layers that hold
        layers are refused: the inner ones would be neither copied nor switched on. What comes before the first layer
        that is switched on is computed for all samples together, if a second call gives the same bytes.
    x : object
        The input of forward.
    n_samples : int
        Number of sub-networks, at least 1.
    rng
        As in `dropout`. Layers draw their masks from it; a callable without `layers` is called as
        `forward(x, rng=stream)`. By default, layers draw from the streams they have, and a callable gets only x.
    layers : iterable of layers
        Layers that a callable uses: `dropout_on` switches those of this library on during the call. Their masks are
        those of the last sample afterwards. Do not call this between a forward and a backward pass, or in two threads
        with the same layers.
    also : iterable of layers
        Layers of other libraries to switch on too, of `layers` or of the sequence, as in `dropout_on`.
    samples_per_pass : int
        Number of samples that one call of forward computes, at least 1. Above 1, x is an array of rows, along its first
        axis, that forward treats independently; forward gets that many copies of x, concatenated along this axis. One
        pass with 64 rows takes far less time than 64 passes with one row. Another number gives other masks.
    progress : bool
        Whether to show a progress bar on stderr; needs tqdm.

    Returns
    -------
    mean, std : ndarray of float64
        Of the shape that forward returns for x; std divides by n_samples, as `np.std` does. Memory does not grow with
        n_samples.

    Raises
    ------
    TypeError, ValueError
        If n_samples or samples_per_pass is not an integer of at least 1; if forward is neither callable nor a sequence
        of layers and functions; if `layers` is given beside such a sequence; if outputs are not real numbers or
        change their shape; or if samples_per_pass is above 1 and a layer shares decisions between rows.
    RuntimeError
        If another thread, or an asyncio task in a block of `dropout_on`, has one of `layers`.

    Warns
    -----
    UserWarning
        As `dropout_on`, and if `layers` is given and none of them can be switched on.

    Notes
    -----
    If forward raises, or memory runs out between two passes, modes are restored, and streams keep the positions of the
    masks that were drawn: passes that were made count as drawn.

    Source: Gal & Ghahramani, "Dropout as a Bayesian approximation", ICML 2016. Moments are updated pass by pass: Chan,
    Golub & LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", COMPSTAT 1982.

    """
    n_samples = check_integer("n_samples", n_samples, 1)
    samples_per_pass = check_integer("samples_per_pass", samples_per_pass, 1)
    layers = _listed("layers", layers)
    if isinstance(forward, Layer) and not layers:
        forward = [forward]
    if not callable(forward):
        steps, also = _checked_steps(forward, layers), _listed("also", also)
        if not {id(layer) for layer in also} <= {id(step) for step in steps}:
            raise ValueError("also must be layers of the sequence, where forward is one")
        originals = {id(layer) for layer in _to_switch(steps, also, stacklevel=3, is_checked=True)}
        copies = [copy.copy(step) if hasattr(step, "forward") else step for step in steps]
        switched = [each for step, each in zip(steps, copies, strict=True) if id(step) in originals]
        by_id = {id(step): each for step, each in zip(steps, copies, strict=True)}
        for each in copies:
            if isinstance(each, Layer):
                each._link_copies(by_id)
        stream = None if rng is None else as_stream(rng)
        for layer in switched:
            _turn_on(layer, stream)
            if isinstance(layer, Layer):
                layer.inplace = False  # every sample needs the layer's input
        x, rest = _without_prefix(copies, switched, x, n_samples, samples_per_pass)
        first = next((each for each in copies if any(each is layer for layer in switched)), None)
        begins_with_it = len(rest) > 0 and (rest[0] is first or len(rest) < len(copies))
        if samples_per_pass > 1 and begins_with_it and _drops_without_copies(first, x):
            assert isinstance(first, Dropout)
            x, rest = _Repeated(x, first), rest[1:]
        return _moments(partial(_go_through, rest), x, n_samples, samples_per_pass, copies, progress)
    if rng is not None and not layers:
        forward = partial(forward, rng=as_stream(rng))
    if any(isinstance(layer, Layer) and layer.inplace for layer in layers):
        forward = partial(_on_a_copy, forward)
    also = _listed("also", also)
    with dropout_on(layers, rng=rng, also=also):
        ours = any(isinstance(layer, Layer) for layer in layers)
        if layers and not also and not ours and not _reasons_for_no_switch(layers, set()):
            message = f"layers must be layers of cdropout to be switched on, got {layers!r}: no dropout is switched on"
            warnings.warn(message, stacklevel=2)
        return _moments(forward, x, n_samples, samples_per_pass, layers, progress)


def _checked_steps(steps: Any, layers: list[Any]) -> list[Any]:
    """Return a sequence given as forward as a list; TypeError or ValueError if it is not valid."""
    if not isinstance(steps, Iterable):
        raise TypeError(f"forward must be callable or a sequence of layers, got {type(steps).__name__}")
    if layers:
        raise ValueError("layers must be left out where forward is a sequence of layers itself")
    checked = list(steps)
    known = set(map(id, checked))
    for step in checked:
        if not hasattr(step, "forward") and not callable(step):
            raise TypeError(f"forward must be a sequence of layers and functions, got {step!r} in it")
        if hasattr(step, "forward") and holds_layers(step, known, has_mode):
            raise TypeError(f"forward must be the layers themselves, got {step!r}, which holds others, in it")
    return checked


def _without_prefix(
    steps: list[Any], drawing: list[Any], x: Any, n_samples: int, samples_per_pass: int
) -> tuple[Any, list[Any]]:
    """Return the input of the first step that draws, computed once, and the steps from there on.

    All steps remain if those before the first that draws give another result the second time, change their input, or
    return another number of rows where a pass computes several samples.
    """
    known = set(map(id, drawing))
    n_before = next((i for i, step in enumerate(steps) if id(step) in known), 0)
    if n_samples == 1 or n_before == 0:
        return x, steps
    before = copy.copy(x)
    found, again = (_go_through(steps[:n_before], x) for _ in range(2))
    if not (_is_same(x, before) and _is_same(found, again)):
        return x, steps
    if samples_per_pass > 1 and np.shape(found)[:1] != np.shape(x)[:1]:
        return x, steps
    return found, [partial(_protected, steps[n_before]), *steps[n_before + 1 :]]


# At fewer elements, copying the input takes less time than a call for each sample: one sample of 512 elements takes
# 4 us with calls and 0.2 us with copies, one of 4096 takes 11 us with both, one of 32768 takes 24 us and 33 us.
MIN_ELEMS_WITHOUT_COPIES = 4096


def _drops_without_copies(layer: Any, x: Any) -> bool:
    """Return whether `_Repeated` applies the masks of several samples to x, one after the other."""
    return (
        type(layer) is Dropout
        and layer.shared_axes == ()
        and layer._rescale != "eval"
        and type(x) is np.ndarray
        and x.ndim > 0
        and x.size >= MIN_ELEMS_WITHOUT_COPIES
        and x.dtype in (np.float32, np.float64)
        and x.dtype.isnative
    )


class _Repeated:
    """The output of a dropout layer for several copies of one input, which are not made: for `_moments`."""

    def __init__(self, x: npt.NDArray[Any], layer: Dropout) -> None:
        self.x, self.layer = x, layer

    def __getitem__(self, rows: slice) -> npt.NDArray[Any]:
        """Return the rows of the layer's output, with a new mask for them."""
        x, layer = self.x, self.layer
        shape = (rows.stop, *x.shape[1:])
        y = np.empty(shape, x.dtype)
        scale, shift, fill = layer._train_map
        mask = _kernels.draw_mask(shape, layer._p, layer._rng, ())
        for begin in range(0, rows.stop, len(x)):
            part = slice(begin, begin + len(x))
            mask[part].apply(x, out=y[part], scale=scale, shift=shift, fill=fill)
        layer.mask = mask
        return y


def _is_same(a: Any, b: Any) -> bool:
    """Return whether two results are arrays of one kind with the same bytes."""
    if _kernels.is_masked(a) or _kernels.is_masked(b) or type(a) is not type(b):
        return False
    a, b = np.asarray(a), np.asarray(b)
    return bool(a.dtype == b.dtype and not a.dtype.hasobject and a.shape == b.shape and a.tobytes() == b.tobytes())


def _protected(step: Any, x: Any) -> Any:
    """Return the output of a step in memory other than x's: the steps after it may write to their input."""
    y = _go_through([step], x)
    shares = isinstance(x, np.ndarray) and isinstance(y, np.ndarray) and np.may_share_memory(x, y)
    return y.copy() if shares else y


def _on_a_copy(forward: Callable[..., npt.ArrayLike], x: Any, **arguments: Any) -> npt.ArrayLike:
    """Call forward with a copy of x: a layer that works in place would overwrite what the next sample needs."""
    return forward(x.copy() if isinstance(x, np.ndarray) else x, **arguments)


def _go_through(steps: list[Any], x: Any) -> Any:
    for step in steps:
        x = step.forward(x) if hasattr(step, "forward") else step(x)
    return x


def _moments(
    forward: Callable[[Any], npt.ArrayLike],
    x: Any,
    n_samples: int,
    samples_per_pass: int,
    layers: list[Any],
    progress: bool,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return mean and standard deviation of forward's output for x over samples."""
    most = min(samples_per_pass, n_samples)
    copies = x if samples_per_pass == 1 or isinstance(x, _Repeated) else _repeated(x, most)
    n_rows = len(x.x) if isinstance(x, _Repeated) else 0 if samples_per_pass == 1 else len(copies) // most
    shape: tuple[int, ...] | None = None
    n_done = 0
    for n in _passes(n_samples, samples_per_pass, progress):
        y = _real(forward(copies if n == most and not isinstance(copies, _Repeated) else copies[: n_rows * n]))
        shape_now = y.shape if samples_per_pass == 1 else _shape_of_sample(y, n, n_rows * n)
        samples = y.reshape(n, y.size // n)  # flat, because y may have as many axes as NumPy allows
        if shape is None:
            if samples_per_pass > 1:
                _check_rows_are_independent(layers, samples_per_pass)
            shape, mean, squares = shape_now, np.zeros(samples.shape[1]), np.zeros(samples.shape[1])
        if shape_now != shape:
            raise ValueError(f"forward must return one shape, got {shape_now} after {shape}")
        mean_of_pass = samples.mean(axis=0)
        from_old = mean_of_pass - mean
        mean += from_old * (n / (n_done + n))
        squares += np.square(from_old) * (n_done * n / (n_done + n))
        squares += np.square(samples - mean_of_pass).sum(axis=0)
        n_done += n
    assert shape is not None
    return mean.reshape(shape), np.sqrt(squares / n_samples).reshape(shape)


def _real(output: npt.ArrayLike) -> npt.NDArray[np.float64]:
    _kernels.check_unmasked(output, "forward's output")
    array = np.asarray(output)
    is_object = array.dtype.kind == "O"
    # NumPy would convert None to NaN, and times to numbers.
    if array.dtype.kind in "cSUMm" or (is_object and not all(hasattr(each, "__float__") for each in array.flat)):
        got = shown(output) if array.ndim == 0 else array.dtype
        raise TypeError(f"forward must return real numbers, got {got}")
    return array.astype(np.float64, copy=False)


def _passes(n_samples: int, samples_per_pass: int, progress: bool) -> Iterator[int]:
    """Yield the number of samples of each pass."""
    n_full, n_rest = divmod(n_samples, samples_per_pass)
    numbers = [samples_per_pass] * n_full + [n_rest] * (n_rest > 0)
    if not progress:
        yield from numbers
        return
    from cdropout.optional import require

    tqdm = require("tqdm", extra="cli", purpose="progress=True").tqdm
    with tqdm(total=n_samples, unit="sample", leave=False, file=sys.stderr) as bar:
        for n in numbers:
            yield n
            bar.update(n)


def _repeated(x: Any, n: int) -> npt.NDArray[Any]:
    """Return n copies of x, concatenated along its first axis, in x's class."""
    array = _kernels.as_array(x, "x")
    if array.ndim == 0 or len(array) == 0:
        raise ValueError(f"x must have rows where samples_per_pass is above 1, got shape {array.shape}")
    copies = np.concatenate([array] * n)
    if not _kernels.is_masked(x):
        return _kernels.handed_back(copies, None, x)
    return np.ma.array(copies, mask=np.concatenate([np.ma.getmaskarray(x)] * n), fill_value=x.fill_value)


def _shape_of_sample(y: npt.NDArray[np.float64], n: int, n_rows: int) -> tuple[int, ...]:
    """Return the shape of one sample in the output for n copies of x, n_rows rows in all."""
    if y.ndim == 0 or len(y) != n_rows:
        raise ValueError(f"forward must return one row for each of x's {n_rows}, got shape {y.shape}")
    return (n_rows // n, *y.shape[1:])


def _check_rows_are_independent(layers: list[Any], samples_per_pass: int) -> None:
    """Raise ValueError if all rows share a layer's last mask: the samples of a pass would be equal."""
    for layer in layers:
        mask = getattr(layer, "mask", None)
        shares = isinstance(layer, DropConnect) or hasattr(layer, "n_groups")  # whatever their masks' axes
        if isinstance(mask, Mask) and (shares or 0 in mask.shared_axes):
            raise ValueError(
                f"samples_per_pass must be 1 for layers that share decisions between rows, got {samples_per_pass} for "
                f"{layer!r}"
            )
