"""Calls whose arrays change while they run; test_hostile_arguments.py starts this program, because a call can crash it.

python hostile_calls.py ATTACK CHANGE

Each call of ATTACK runs once for each of its arrays. While it runs, code of the caller changes this array by CHANGE.
The call must raise ValueError with the array's name before it draws or writes. The program prints the calls; the last
one printed is the one that crashed.
"""

import contextlib
import functools
import gc
import signal
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import cdropout as cd
from cdropout import _kernels

P = 0.4
SHAPE = (1 << 15, 8)  # 1 MiB of float32: memory that a resized array gives back is unmapped
IMAGES = (64, 8, 16, 32)


def array(*shape: int, order: Any = "C") -> np.ndarray:
    # A new array: one that is resized in place must own its memory.
    return np.full(shape or SHAPE, 0.5, np.float32, order=order)


# ---- calls: their arrays, and the call with an object that has these arrays, and with p and rng ----------------------

DRAWING: dict[str, tuple[tuple[str, ...], Callable[..., Any]]] = {
    "dropout": (("x", "out"), lambda a, p, rng: cd.dropout(a.x, p, rng=rng, out=a.out)),
    "dropout, new result": (("x",), lambda a, p, rng: cd.dropout(a.x, p, rng=rng)),
    "dropout, shared axis": (("x", "out"), lambda a, p, rng: cd.dropout(a.x, p, rng=rng, out=a.out, shared_axes=1)),
    "dropout, in place": (("x",), lambda a, p, rng: cd.dropout(a.x, p, rng=rng, out=a.x)),
    "alpha_dropout": (("x", "out"), lambda a, p, rng: cd.alpha_dropout(a.x, p, rng=rng, out=a.out)),
    "feature_alpha_dropout": (("x", "out"), lambda a, p, rng: cd.feature_alpha_dropout(a.x, p, rng=rng, out=a.out)),
    "dropout1d": (("x", "out"), lambda a, p, rng: cd.dropout1d(a.x, p, rng=rng, out=a.out)),
    "dropout2d": (("images",), lambda a, p, rng: cd.dropout2d(a.images, p, rng=rng)),
    "dropout3d": (("images",), lambda a, p, rng: cd.dropout3d(a.images, p, rng=rng)),
    "feature_dropout": (("x", "out"), lambda a, p, rng: cd.feature_dropout(a.x, p, rng=rng, out=a.out)),
    "locked_dropout": (("x", "out"), lambda a, p, rng: cd.locked_dropout(a.x, p, rng=rng, out=a.out)),
    "drop_path": (("x", "out"), lambda a, p, rng: cd.drop_path(a.x, p, rng=rng, out=a.out)),
    "drop_path, unscaled": (
        ("x", "out"),
        lambda a, p, rng: cd.drop_path(a.x, p, scale_by_keep=False, rng=rng, out=a.out),
    ),
    "drop_block2d": (("images",), lambda a, p, rng: cd.drop_block2d(a.images, p, block_size=3, rng=rng)),
    "relu_dropout": (("x", "out"), lambda a, p, rng: cd.relu_dropout(a.x, p, rng=rng, out=a.out)),
    "bias_relu_dropout": (
        ("x", "bias", "out"),
        lambda a, p, rng: cd.bias_relu_dropout(a.x, a.bias, p, rng=rng, out=a.out),
    ),
    "dropout_add": (
        ("x", "residual", "out"),
        lambda a, p, rng: cd.dropout_add(a.x, a.residual, p, rng=rng, out=a.out),
    ),
    "bias_dropout_add": (
        ("x", "bias", "residual", "out"),
        lambda a, p, rng: cd.bias_dropout_add(a.x, a.bias, a.residual, p, rng=rng, out=a.out),
    ),
    "zoneout": (("new", "previous", "out"), lambda a, p, rng: cd.zoneout(a.new, a.previous, p, rng=rng, out=a.out)),
    "gaussian_dropout": (("x", "out"), lambda a, p, rng: cd.gaussian_dropout(a.x, p, rng=rng, out=a.out)),
    "gaussian_noise": (("x", "out"), lambda a, p, rng: cd.gaussian_noise(a.x, p, rng=rng, out=a.out)),
}
# Matrix products check their arrays before they convert p, so they are attacked through rng only.
PRODUCTS: dict[str, tuple[tuple[str, ...], Callable[..., Any]]] = {
    "drop_connect": (("x", "weight", "bias"), lambda a, p, rng: cd.drop_connect(a.x, a.weight, a.bias, p, rng=rng)),
    "feature_dropout_linear": (
        ("x", "weight", "bias"),
        lambda a, p, rng: cd.feature_dropout_linear(a.x, a.weight, a.bias, p, rng=rng),
    ),
}


def forward_of(layer: Any, *inputs: Any, bias: Any = None) -> Any:
    if bias is not None:
        layer.params[0] = bias
    return layer.forward(*inputs)


# Calls that draw from a Stream, or not at all: their arrays change in other ways.
OTHERS: dict[str, tuple[tuple[str, ...], Callable[..., Any]]] = {
    "Mask.apply": (("a", "out"), lambda a, p, rng: cd.Mask(7, 0, P, SHAPE).apply(a.a, a.out)),
    "Mask.apply, shared": (("a", "out"), lambda a, p, rng: cd.Mask(7, 0, P, SHAPE, 1).apply(a.a, a.out)),
    "Mask.apply, part": (("a", "out"), lambda a, p, rng: cd.Mask(7, 0, P, (SHAPE[0], 16))[:, ::2].apply(a.a, a.out)),
    "Mask.apply, copy": (("a", "out"), lambda a, p, rng: cd.Mask(7, 0, 0.0, SHAPE).apply(a.a, a.out)),
    "Noise.multiply": (("a", "out"), lambda a, p, rng: cd.Noise(7, 0, P, SHAPE).multiply(a.a, a.out)),
    "Noise.add": (("a", "out"), lambda a, p, rng: cd.Noise(7, 0, P, SHAPE).add(a.a, a.out)),
    "relu_dropout_backward": (("dy", "y", "out"), lambda a, p, rng: cd.relu_dropout_backward(a.dy, a.y, P, out=a.out)),
    "Dropout": (("x",), lambda a, p, rng: cd.Dropout(P, rng=rng, inplace=True).forward(a.x)),
    "Dropout, shared axis": (("x",), lambda a, p, rng: cd.Dropout(P, rng=rng, shared_axes=0).forward(a.x)),
    "AlphaDropout": (("x",), lambda a, p, rng: cd.AlphaDropout(P, rng=rng).forward(a.x)),
    "ReLUDropout": (("x",), lambda a, p, rng: cd.ReLUDropout(P, rng=rng).forward(a.x)),
    "BiasReLUDropout": (
        ("x", "bias"),
        lambda a, p, rng: forward_of(cd.BiasReLUDropout(array(8), P, rng=rng), a.x, bias=a.bias),
    ),
    "DropoutAdd": (("x", "residual"), lambda a, p, rng: cd.DropoutAdd(P, rng=rng).forward(a.x, a.residual)),
    "BiasDropoutAdd": (
        ("x", "bias", "residual"),
        lambda a, p, rng: forward_of(cd.BiasDropoutAdd(array(8), P, rng=rng), a.x, a.residual, bias=a.bias),
    ),
    "Zoneout": (("new", "previous"), lambda a, p, rng: cd.Zoneout(P, rng=rng).forward(a.new, a.previous)),
    "GaussianDropout": (("x",), lambda a, p, rng: cd.GaussianDropout(P, rng=rng).forward(a.x)),
    "GaussianNoise": (("x",), lambda a, p, rng: cd.GaussianNoise(P, rng=rng).forward(a.x)),
}
SHAPES = {"images": IMAGES, "bias": (8,), "weight": (8, 8)}


def arrays_of(names: tuple[str, ...], order: Any = "C") -> types.SimpleNamespace:
    made = {name: array(*SHAPES.get(name, SHAPE), order=order) for name in names}
    return types.SimpleNamespace(**{"out": None, **made})


# ---- changes of an array --------------------------------------------------------------------------------------------


def shrink(a: np.ndarray) -> None:
    a.resize((1,) * a.ndim, refcheck=False)


def set_state(a: np.ndarray) -> None:
    a.__setstate__((1, (1,) * a.ndim, np.dtype(np.float32), False, b"\0" * 4))


def shrink_owner(a: np.ndarray) -> None:
    shrink(a.base)


def forbid_writing(a: np.ndarray) -> None:
    a.flags.writeable = False


CHANGES = {each.__name__: each for each in (shrink, set_state, shrink_owner, forbid_writing)}


class Change:
    """A change of one array, to be called while a call runs; the second time it does nothing."""

    def __init__(self, how: Callable[[np.ndarray], None]) -> None:
        self.how, self.a, self.is_done = how, array(), True

    def begin(self, a: np.ndarray) -> None:
        self.a, self.is_done = a, False

    def __call__(self) -> None:
        if not self.is_done:
            self.is_done = True
            self.how(self.a)


# ---- code of the caller that changes an array while it is read -------------------------------------------------------


class HostileGenerator(np.random.Generator):
    """A Generator that changes an array when a seed is drawn from it."""

    def integers(self, *arguments: Any, **keywords: Any) -> Any:
        self.change()
        return super().integers(*arguments, **keywords)


class HostileRandomState(np.random.RandomState):
    """The same as a RandomState."""

    def bytes(self, length: int) -> bytes:
        self.change()
        return super().bytes(length)


class HostileSeedSequence(np.random.SeedSequence):
    """The same as a SeedSequence."""

    def generate_state(self, *arguments: Any, **keywords: Any) -> Any:
        self.change()
        return super().generate_state(*arguments, **keywords)


class HostileInt(int):
    """A seed that changes an array when it is compared."""

    def __lt__(self, other: Any) -> bool:
        self.change()
        return False

    def __index__(self) -> int:
        self.change()
        return 7


class HostileList(list):
    """A sequence of seeds that changes an array when it is read."""

    def __iter__(self) -> Iterator[Any]:
        self.change()
        return super().__iter__()


class HostileFloat(float):
    """A number that changes an array when it is converted."""

    def __float__(self) -> float:
        self.change()
        return P


class HostileArray:
    """An array_like that is converted after other arrays have been checked."""

    def __init__(self, a: np.ndarray, change: Change) -> None:
        self.a, self.change = a, change

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        self.change()
        return self.a


def hostile(made: Any, change: Change) -> Any:
    made.change = change
    return made


RNGS: dict[str, Callable[[Change], Any]] = {
    "Generator": lambda change: hostile(HostileGenerator(np.random.PCG64(1)), change),
    "RandomState": lambda change: hostile(HostileRandomState(1), change),
    "SeedSequence": lambda change: hostile(HostileSeedSequence(1), change),
    "int": lambda change: hostile(HostileInt(7), change),
    "list": lambda change: hostile(HostileList([7]), change),
}
ALWAYS_RUN = ("Generator", "RandomState", "SeedSequence", "list")  # the library may read an int without its methods


def expect_refusal(change: Change, name: str, call: Callable[[], Any], *, is_checked_later: bool = False) -> None:
    """is_checked_later: a later check of another argument may find that it does not fit the changed array."""
    known = {"images": "x"}
    try:
        call()
    except ValueError as error:
        message = str(error)
    else:
        assert not change.is_done, "the array was changed and nothing was raised"
        return
    is_clear = message.startswith(f"{known.get(name, name)} must stay unchanged during a call")
    assert is_clear or (is_checked_later and " must " in message), message


def attack_rng(change: Change, kind: str) -> None:
    for call_name, (names, call) in {**DRAWING, **PRODUCTS}.items():
        for name in names:
            if change.how is forbid_writing and name != "out":
                continue
            print(kind, call_name, name, flush=True)
            a = arrays_of(names)
            if change.how is shrink_owner:
                setattr(a, name, getattr(a, name)[:])
            change.begin(getattr(a, name))
            expect_refusal(change, name, functools.partial(call, a, P, RNGS[kind](change)))
            assert change.is_done or kind not in ALWAYS_RUN


def attack_p(change: Change) -> None:
    for call_name, (names, call) in DRAWING.items():
        print(call_name, flush=True)
        a, stream = arrays_of(names), cd.Stream(1)
        change.begin(getattr(a, names[0]))
        p = hostile(HostileFloat(P), change)
        expect_refusal(change, names[0], functools.partial(call, a, p, stream), is_checked_later=True)
        assert stream.position == 0


def attack_arrays(change: Change) -> None:
    """Arrays that are converted later change those that have been checked."""
    for call_name, (names, call) in {**DRAWING, **OTHERS}.items():
        for name in set(names[1:]) & {"residual", "previous", "bias", "y"}:
            print(call_name, name, flush=True)
            a, stream = arrays_of(names), cd.Stream(1)
            change.begin(getattr(a, names[0]))
            setattr(a, name, HostileArray(getattr(a, name), change))
            expect_refusal(change, names[0], functools.partial(call, a, P, stream), is_checked_later=True)
            assert change.is_done
            assert stream.position == 0


def attack_axes(change: Change) -> None:
    class Axis:
        def __index__(self) -> int:
            change()
            return 1

    for call in (cd.dropout, cd.alpha_dropout):
        x, stream = array(), cd.Stream(1)
        change.begin(x)
        print(call.__name__, flush=True)
        expect_refusal(change, "x", functools.partial(call, x, P, rng=stream, shared_axes=Axis()))
        assert change.is_done
        assert stream.position == 0


def attack_factors(change: Change) -> None:
    for names in (("scale",), ("shift",), ("fill",)):
        a, mask = array(), cd.Mask(7, 0, P, SHAPE)
        change.begin(a)
        print(*names, flush=True)
        factors = {name: hostile(HostileFloat(P), change) for name in names}
        expect_refusal(change, "a", functools.partial(mask.apply, a, **factors))
        assert change.is_done


def attack_finalizers(change: Change) -> None:
    """Garbage is collected at an allocation, with Python before 3.12, or whenever code in Python runs."""

    class Garbage:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            change()

    thresholds = gc.get_threshold()
    gc.freeze()  # collecting is fast then
    for call_name, (names, call) in {**DRAWING, **OTHERS}.items():
        for name in names:
            for order in ("C", "F"):
                for n_more in range(12):
                    print(call_name, name, order, n_more, flush=True)
                    a, stream = arrays_of(names, order), cd.Stream(1)
                    gc.collect()
                    change.begin(getattr(a, name))
                    Garbage()
                    gc.set_threshold(n_more + 1)
                    try:
                        with contextlib.suppress(ValueError):
                            call(a, P, stream)
                    finally:
                        gc.set_threshold(*thresholds)
                    change.is_done = True
                    gc.collect()


def attack_warning(change: Change) -> None:
    """A filter of warnings changes the array."""
    for call_name, (names, call) in {**DRAWING, **OTHERS}.items():
        print(call_name, flush=True)
        a, stream = arrays_of(names), cd.Stream(1)
        _kernels.note_serial_build("link")
        before = _kernels.set_limits(min_elems_per_thread=1)
        change.begin(getattr(a, names[0]))
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = lambda *_, **__: change()
            try:
                expect_refusal(change, names[0], functools.partial(call, a, P, stream), is_checked_later=True)
            finally:
                _kernels.set_limits(**before)
        assert stream.position == 0 or not change.is_done


def attack_signal(change: Change) -> None:
    """A signal handler changes the array between the slices of a call."""
    # Slices are short and the clock is looked at after each, so that the handler runs in the middle of the call.
    _kernels.set_limits(max_elems_per_slice=1024, microseconds_between_checks=1)
    refused = 0

    def end_of_slice(*_: Any) -> None:
        change()

    signal.signal(signal.SIGALRM, end_of_slice)
    for order in ("C", "F"):
        for call_name, (names, call) in {**DRAWING, **OTHERS}.items():
            for name in names:
                print(order, call_name, name, flush=True)
                for microseconds in (20, 100, 300, 1000):
                    a, stream = arrays_of(names, order), cd.Stream(1)
                    change.begin(getattr(a, name))
                    try:
                        signal.setitimer(signal.ITIMER_REAL, microseconds * 1e-6)
                        call(a, P, stream)
                    except ValueError as error:
                        refused += "must stay unchanged during a call" in str(error)
                    finally:
                        signal.setitimer(signal.ITIMER_REAL, 0)
                        change.is_done = True
    assert refused > 20, f"only {refused} calls were changed in their middle"


ATTACKS: dict[str, Callable[[Change], None]] = {
    **{kind: functools.partial(attack_rng, kind=kind) for kind in RNGS},
    "p": attack_p,
    "arrays": attack_arrays,
    "axes": attack_axes,
    "factors": attack_factors,
    "finalizers": attack_finalizers,
    "warning": attack_warning,
    "signal": attack_signal,
}

if __name__ == "__main__":
    ATTACKS[sys.argv[1]](Change(CHANGES[sys.argv[2]]))
