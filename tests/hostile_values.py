"""Values whose special methods misbehave, built from descriptions that JSON can hold. hostile_arguments.py passes them.

A value's description is a list that begins with its kind: `["int", 3, {"__mul__": REACTION}]`. A reaction says from
which call on a method misbehaves, what it does first (actions: shrink an array, draw, fork, ...), and what it returns:
`{"from": 1, "do": [["shrink", 0]], "then": ["honest"]}`. Descriptions can be printed, repeated and made smaller.
"""

import array
import contextlib
import ctypes
import gc
import inspect
import os
import signal
import sys
import weakref
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np
from array_objects import CopyingDlpack, Dlpack, Interface, OldDlpack, OldTensor, OnlyArray

import cdropout as cd
from cdropout import _kernels
from cdropout.compat.last_pass import NetworkMask

GUARD_BYTE = 0xA5
N_GUARD_BYTES = 512
MOST_ACTIONS = 40  # in a case
# Methods of arguments that a call runs when its result is there.
CALLED_WITH_THE_RESULT = ("__array_wrap__", "__array_finalize__", "mask", "_fill_value")

ERRORS = {
    error.__name__: type(f"Hostile{error.__name__}", (error,), {"is_hostile": True})
    for error in (
        *(ValueError, TypeError, OverflowError, MemoryError, AttributeError, RuntimeError, IndexError, KeyError),
        *(BufferError, FloatingPointError, StopIteration, RecursionError, KeyboardInterrupt),
    )
}
NOT_IN_JSON = {"NotImplemented": NotImplemented, "...": ..., "object": object(), "float32": np.float32, "nan": np.nan}

# ---- the surroundings of a call -------------------------------------------------------------------------------------


class Scene:
    """The arrays and streams of one call, the actions on them, and what must not have changed afterwards."""

    def __init__(self, shape: tuple[int, ...], dtype: str) -> None:
        self.shape, self.dtype = shape, np.dtype(dtype)
        self.stream = cd.Stream(3)
        self.arrays: list[np.ndarray] = []  # those that actions choose from
        self.views: list[memoryview] = []
        self.guarded: list[tuple[np.ndarray, np.ndarray]] = []  # a buffer, and where in it an array is
        self.instance: Any = None  # of the method that is called
        self.again: Callable[[], Any] = lambda: None  # the same call with harmless arguments
        self.kept: list[Any] = []
        self.done: list[str] = []  # actions
        # Whether an array has changed, the stream has been drawn from, and code has run that may run after the draw.
        self.is_changed = self.is_drawn = self.is_late = False
        self.depth = 0
        self.is_calling = self.is_interrupting = False
        # Whether Python computes the call's result by several operations, between which no view of an array is safe.
        self.is_composed = False

    def perform(self, actions: list[list[Any]]) -> None:
        """Perform actions, whatever NumPy says about them; not within an action, and not without end."""
        if self.depth or len(self.done) >= MOST_ACTIONS:
            return
        self.depth += 1
        try:
            for name, *arguments in actions:
                self.done.append(name)
                with contextlib.suppress(Exception):
                    ACTIONS[name](self, *arguments)
        finally:
            self.depth -= 1

    def interrupt(self, actions: list[list[Any]]) -> None:
        """Perform actions between the instructions of a call."""
        before, self.is_interrupting = self.is_interrupting, True
        try:
            self.perform(actions)
        finally:
            self.is_interrupting = before

    def any_array(self, i: int) -> np.ndarray:
        """Return one of the arrays; not of a subclass, of which the library has a view, where a view is not safe."""
        self.is_changed = True
        is_unsafe = self.is_interrupting and self.is_composed
        arrays = [a for a in self.arrays if type(a) is np.ndarray] if is_unsafe else self.arrays
        return arrays[i % len(arrays)]

    def guarded_array(self, shape: tuple[int, ...], dtype: np.dtype[Any], n_bytes_off: int = 0) -> np.ndarray:
        """Return an array inside a larger buffer, whose other bytes no call may change."""
        n_bytes = int(np.prod(shape)) * dtype.itemsize
        buffer = np.full(n_bytes + 2 * N_GUARD_BYTES, GUARD_BYTE, np.uint8)
        start = N_GUARD_BYTES + n_bytes_off
        inner = np.ones(len(buffer), bool)
        inner[start : start + n_bytes] = False
        self.guarded.append((buffer, inner))
        return buffer[start : start + n_bytes].view(dtype).reshape(shape)

    def check_guards(self) -> None:
        for buffer, is_guard in self.guarded:
            assert np.all(buffer[is_guard] == GUARD_BYTE), "bytes beside an array have been written"


def shrink(scene: Scene, i: int) -> None:
    a = scene.any_array(i)
    np.ndarray.resize(a, (1,) * np.ndarray.ndim.__get__(a), refcheck=False)


def grow(scene: Scene, i: int) -> None:
    a = scene.any_array(i)
    if np.ndarray.size.__get__(a) < 1 << 20:
        np.ndarray.resize(a, (3, *np.ndarray.shape.__get__(a)), refcheck=False)


def free(scene: Scene, i: int) -> None:
    """Give an array other memory, of one element; what it had is freed unless another array holds it."""
    a = scene.any_array(i)
    dtype = np.ndarray.dtype.__get__(a)
    np.ndarray.__setstate__(a, (1, (1,), dtype, False, bytes(dtype.itemsize)))


def move(scene: Scene, i: int) -> None:
    """Give an array other memory, of the same size."""
    a = scene.any_array(i)
    dtype, shape = np.ndarray.dtype.__get__(a), np.ndarray.shape.__get__(a)
    np.ndarray.__setstate__(a, (1, shape, dtype, False, bytes(int(np.prod(shape)) * dtype.itemsize)))


def reshape(scene: Scene, i: int) -> None:
    a = scene.any_array(i)
    np.ndarray.shape.__set__(a, (-1,))


def swap_axes(scene: Scene, i: int) -> None:
    a = scene.any_array(i)
    np.ndarray.shape.__set__(a, np.ndarray.shape.__get__(a)[::-1])


def stride(scene: Scene, i: int) -> None:
    a = scene.any_array(i)
    np.ndarray.strides.__set__(a, (0,) * np.ndarray.ndim.__get__(a))


def retype(scene: Scene, i: int, dtype: str) -> None:
    np.ndarray.dtype.__set__(scene.any_array(i), np.dtype(dtype))


def freeze(scene: Scene, i: int) -> None:
    np.ndarray.setflags(scene.any_array(i), write=False)


def write(scene: Scene, i: int) -> None:
    np.ndarray.fill(scene.any_array(i), 7)


def mask(scene: Scene, i: int) -> None:
    a = scene.any_array(i)
    a.mask = True  # type: ignore[attr-defined]


def release(scene: Scene, i: int) -> None:
    scene.is_changed = True
    scene.views[i % len(scene.views)].release()


def draw(scene: Scene, n: int) -> None:
    scene.is_drawn = True
    cd.draw_mask(n, 0.5, rng=scene.stream)


def rewind(scene: Scene) -> None:
    scene.is_drawn = True
    scene.stream.state = cd.Stream(9).state


def end_stream(scene: Scene) -> None:
    scene.is_drawn = True
    scene.stream.state = {**scene.stream.state, "position": 2**64 - 4096}


def spawn(scene: Scene) -> None:
    scene.is_drawn = True
    scene.stream.spawn(2)


def fork(scene: Scene) -> None:
    child = os.fork()
    if child == 0:
        try:
            cd.dropout(np.ones(100, np.float32), rng=1)
        finally:
            os._exit(0)
    os.waitpid(child, 0)


def repeat(scene: Scene) -> None:
    scene.is_drawn = True
    scene.again()


def forget(scene: Scene, i: int) -> None:
    """Delete a field of the instance whose method runs."""
    scene.is_changed = True
    fields = sorted(vars(scene.instance))
    delattr(scene.instance, fields[i % len(fields)])


def switch(scene: Scene) -> None:
    scene.instance.training = not scene.instance.training


def raise_warnings(scene: Scene) -> None:
    import warnings

    warnings.simplefilter("error")


ACTIONS: dict[str, Callable[..., None]] = {
    each.__name__: each
    for each in (
        *(shrink, grow, free, move, reshape, swap_axes, stride, retype, freeze, write, mask, release),
        *(draw, rewind, end_stream, spawn, fork, repeat, forget, switch, raise_warnings),
    )
}
ACTIONS["collect"] = lambda scene: gc.collect()
ARRAY_ACTIONS = (
    "shrink",
    "free",
    "grow",
    "move",
    "shrink",
    "free",
    "grow",
    "move",
    "reshape",
    "swap_axes",
    "stride",
    "freeze",
    "write",
    "mask",
)
OTHER_ACTIONS = ("rewind", "end_stream", "spawn", "fork", "repeat", "switch", "raise_warnings", "collect")

# ---- classes --------------------------------------------------------------------------------------------------------


def is_property(base: type, name: str) -> bool:
    found = inspect.getattr_static(base, name, None)
    is_data = inspect.isgetsetdescriptor(found) or inspect.ismemberdescriptor(found) or isinstance(found, property)
    return is_data or name in ("__array_interface__", "__class__", "__array_priority__")


def reaction_of(scene: Scene, base: type, name: str, reaction: dict[str, Any]) -> Any:
    """Return a method, or a property, that misbehaves from some call on."""
    count = 0
    method = getattr(base, name, None)

    def react(self: Any, honest: Callable[[], Any]) -> Any:
        nonlocal count
        count += 1
        if count < reaction["from"]:
            return honest()
        scene.is_late |= name in CALLED_WITH_THE_RESULT
        scene.perform(reaction["do"])
        then, *arguments = reaction["then"]
        if then == "raise":
            raise ERRORS[arguments[0]](f"not today, from {name}")
        if then == "return":
            return build(scene, arguments[0], "returned")
        return self if then == "self" else honest()

    if is_property(base, name):
        descriptor = inspect.getattr_static(base, name, None)

        def get(self: Any) -> Any:
            return react(self, lambda: descriptor.__get__(self, type(self)))

        def put(self: Any, value: Any) -> None:
            descriptor.__set__(self, value)

        return property(get, put)

    def call(self: Any, *arguments: Any, **keywords: Any) -> Any:
        return react(self, lambda: method(self, *arguments, **keywords) if method else NotImplemented)

    return call


def hostile(scene: Scene, base: type, methods: dict[str, Any]) -> type:
    """Return a subclass of base whose methods misbehave; base itself without methods."""
    if not methods:
        return base
    namespace = {name: reaction_of(scene, base, name, reaction) for name, reaction in methods.items()}
    if "__eq__" in methods and "__hash__" not in methods:
        namespace["__hash__"] = base.__hash__
    return type(f"Hostile{base.__name__}", (base,), namespace)


# ---- values ---------------------------------------------------------------------------------------------------------


def build(scene: Scene, description: list[Any], role: str) -> Any:
    """Return the value of a description; role is the name of the argument."""
    kind, *details = description
    return KINDS[kind](scene, role, *details)


def of_builtin(base: type) -> Callable[..., Any]:
    def made(scene: Scene, role: str, value: Any, methods: dict[str, Any]) -> Any:
        return hostile(scene, base, methods)(value)

    return made


def of_items(base: type) -> Callable[..., Any]:
    def made(scene: Scene, role: str, items: list[Any], methods: dict[str, Any]) -> Any:
        return hostile(scene, base, methods)([build(scene, item, role) for item in items])

    return made


class Number:
    """An object with a __float__ and an __index__."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __float__(self) -> float:
        return float(self.value)

    def __index__(self) -> int:
        return int(self.value)


def dict_of(scene: Scene, role: str, source: str, changes: dict[str, Any], methods: dict[str, Any]) -> Any:
    """Return the state of the instance, or another dict, with some of its values replaced."""
    if source == "param":
        values = {"p": 0.5, "mode": "train", "seed": 1}
    else:
        values = scene.instance.__getstate__() if source == "fields" else None
        values = dict(values) if isinstance(values, dict) else dict(scene.instance.state)
    names = sorted(values)
    for name, change in changes.items():
        key = names[int(name) % len(names)]
        if key == "rng" and isinstance(values[key], dict):  # the state of a layer's stream
            values[key] = dict_of_items(values[key], scene, change)
        else:
            values[key] = build(scene, change, role)
    return hostile(scene, dict, methods)(values)


def dict_of_items(values: dict[str, Any], scene: Scene, change: list[Any]) -> dict[str, Any]:
    return {**values, sorted(values)[len(str(change)) % len(values)]: build(scene, change, "state")}


def shape_of(scene: Scene, role: str) -> tuple[int, ...]:
    if role == "bias":
        return scene.shape[-1:]
    if role == "weight":
        return (scene.shape[-1], scene.shape[-1])
    return scene.shape


def numbers(scene: Scene, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape).astype(scene.dtype)


def filled(a: np.ndarray, values: np.ndarray) -> np.ndarray:
    a[...] = values
    return a


def owned(scene: Scene, shape: tuple[int, ...], base: type = np.ndarray) -> np.ndarray:
    """Return an array, of a subclass or not, that owns its memory and can be resized."""
    a = np.ndarray.__new__(base, shape, scene.dtype)
    np.copyto(np.ndarray.view(a, np.ndarray) if base is np.ndarray else np.asarray(a), numbers(scene, shape))
    return a


LAYOUTS: dict[str, Callable[[Scene, tuple[int, ...]], np.ndarray]] = {
    "owned": owned,
    "guarded": lambda scene, shape: filled(scene.guarded_array(shape, scene.dtype), numbers(scene, shape)),
    "misaligned": lambda scene, shape: filled(scene.guarded_array(shape, scene.dtype, 1), numbers(scene, shape)),
    "fortran": lambda scene, shape: np.asfortranarray(numbers(scene, shape)),
    "reversed": lambda scene, shape: filled(scene.guarded_array(shape, scene.dtype), numbers(scene, shape))[::-1],
    "every other": lambda scene, shape: np.repeat(numbers(scene, shape), 2, axis=-1)[..., ::2],
    "swapped": lambda scene, shape: numbers(scene, shape).astype(scene.dtype.newbyteorder()),
    "frozen": lambda scene, shape: np.frombuffer(numbers(scene, shape).tobytes(), scene.dtype).reshape(shape),
    "of one element": lambda scene, shape: np.broadcast_to(numbers(scene, (1,) * len(shape)), shape),
    "float64": lambda scene, shape: numbers(scene, shape).astype(np.float64),
    "empty": lambda scene, shape: np.empty((0, *shape[1:]), scene.dtype),
    "of infinities": lambda scene, shape: np.full(shape, np.inf, scene.dtype),
    "of objects": lambda scene, shape: numbers(scene, shape).astype(object),
}


def array_of(scene: Scene, role: str, layout: str, methods: dict[str, Any]) -> np.ndarray:
    shape = shape_of(scene, role)
    a = owned(scene, shape, hostile(scene, np.ndarray, methods)) if methods else LAYOUTS[layout](scene, shape)
    scene.arrays.append(a)
    return a


def masked_array(scene: Scene, role: str, methods: dict[str, Any]) -> Any:
    values = numbers(scene, shape_of(scene, role))
    a = hostile(scene, np.ma.MaskedArray, methods)(values, mask=values > 1)
    scene.arrays.append(a)
    return a


PROVIDERS = {each.__name__: each for each in (Dlpack, OldDlpack, OldTensor, CopyingDlpack, Interface, OnlyArray)}


def provider(scene: Scene, role: str, protocol: str, methods: dict[str, Any]) -> Any:
    """Return an object that shares the memory of an array."""
    a = owned(scene, shape_of(scene, role))
    if protocol == "OnlyArray":  # the library gets the array itself; the other protocols promise that the memory stays
        scene.arrays.append(a)
    return hostile(scene, PROVIDERS[protocol], methods)(a)


def buffer(scene: Scene, role: str, kind: str) -> Any:
    """Return an object with the buffer protocol."""
    values = numbers(scene, shape_of(scene, role)).astype(np.float32)
    if kind == "array.array":
        return array.array("f", values.ravel())
    if kind == "ctypes":
        return (ctypes.c_float * values.size)(*values.ravel())
    view = memoryview(values if kind == "memoryview of an array" else bytearray(values.tobytes()))
    scene.views.append(view if view.format == "f" else view.cast("f", values.shape))
    return scene.views[-1]


def slice_of(scene: Scene, role: str, *parts: Any) -> slice:
    return slice(*[build(scene, part, role) for part in parts])


def seeded(base: type, seed: Callable[[], Any] = lambda: 5) -> Callable[..., Any]:
    def made(scene: Scene, role: str, methods: dict[str, Any]) -> Any:
        return hostile(scene, base, methods)(seed())

    return made


def stream_of(scene: Scene, role: str, methods: dict[str, Any]) -> cd.Stream:
    return hostile(scene, cd.Stream, methods)(5) if methods else scene.stream


class OtherLayer:
    """A layer of another library, also for numpy-ml's wrapper."""

    training, trainable = False, True
    hyperparameters: ClassVar[dict[str, Any]] = {"layer": "OtherLayer"}
    derived_variables: ClassVar[dict[str, Any]] = {}
    parameters: ClassVar[dict[str, Any]] = {}

    def forward(self, x: Any, **keywords: Any) -> Any:
        return cd.dropout(x, 0.5, **keywords)

    __call__ = forward

    def backward(self, dy: Any) -> Any:
        return dy

    def flush_gradients(self) -> None:
        pass

    update = flush_gradients


def layer_of(scene: Scene, role: str, methods: dict[str, Any]) -> Any:
    return hostile(scene, cd.Dropout, methods)(0.5, rng=scene.stream)


def other_layer(scene: Scene, role: str, methods: dict[str, Any]) -> Any:
    return hostile(scene, OtherLayer, methods)()


KINDS: dict[str, Callable[..., Any]] = {
    "plain": lambda scene, role, value: value,
    "other": lambda scene, role, name: NOT_IN_JSON[name],
    "int": of_builtin(int),
    "float": of_builtin(float),
    "str": of_builtin(str),
    "bytes": lambda scene, role, value, methods: hostile(scene, bytes, methods)(value.encode()),
    "number": of_builtin(Number),
    "list": of_items(list),
    "tuple": of_items(tuple),
    "slice": slice_of,
    "dict": dict_of,
    "array": array_of,
    "masked": masked_array,
    "provider": provider,
    "buffer": buffer,
    "ints": lambda scene, role, values: np.array(values, np.int64),
    "generator": seeded(np.random.Generator, lambda: np.random.PCG64(5)),
    "bit generator": seeded(np.random.PCG64),
    "random state": seeded(np.random.RandomState),
    "seeds": seeded(np.random.SeedSequence),
    "stream": stream_of,
    "layer": layer_of,
    "callable": other_layer,
    "mask": lambda scene, role: cd.Mask(5, 0, 0.5, scene.shape),
    "noise": lambda scene, role: cd.Noise(5, 0, 0.5, scene.shape),
    "network mask": lambda scene, role: NetworkMask(cd.Mask(5, 0, 0.5, scene.shape), scene.dtype),
}

# ---- moments --------------------------------------------------------------------------------------------------------
# Code that runs in the middle of a call without being an argument of it.


class Garbage:
    """An object in a reference cycle, whose __del__ acts when it is collected, and leaves another one behind."""

    def __init__(self, scene: Scene, actions: list[list[Any]], n_left: int) -> None:
        self.scene, self.actions, self.n_left, self.me = scene, actions, n_left, self

    def __del__(self) -> None:
        self.scene.interrupt(self.actions)
        if self.n_left > 0:
            Garbage(self.scene, self.actions, self.n_left - 1)


@contextlib.contextmanager
def at_collection(scene: Scene, after: int, actions: list[list[Any]]) -> Iterator[None]:
    """Act in __del__, when the collector runs: before Python 3.12 that may be at any allocation in C code too."""
    before = gc.get_threshold()
    Garbage(scene, actions, 3)
    gc.set_threshold(1 + after, 10_000, 10_000)
    try:
        yield
    finally:
        gc.set_threshold(*before)


@contextlib.contextmanager
def at_weak_reference(scene: Scene, after: int, actions: list[list[Any]]) -> Iterator[None]:
    """Act in the callback of a weak reference, when the collector runs."""
    before = gc.get_threshold()
    garbage = Garbage(scene, [], 0)
    scene.kept.append(weakref.ref(garbage, lambda _: scene.interrupt(actions)))
    del garbage
    gc.set_threshold(1 + after, 10_000, 10_000)
    try:
        yield
    finally:
        gc.set_threshold(*before)


@contextlib.contextmanager
def at_event(scene: Scene, after: int, actions: list[list[Any]]) -> Iterator[None]:
    """Act at the calls and returns of Python functions, from the given number of them on."""
    n = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal n
        n += 1
        if n > after:
            scene.interrupt(actions)

    sys.setprofile(count)
    try:
        yield
    finally:
        sys.setprofile(None)


alarmed: list[Callable[[], None]] = []


def handle_alarms() -> None:
    """Let a signal handler call the last function of `alarmed`; it stays, because a signal may come late."""
    signal.signal(signal.SIGALRM, lambda *_: alarmed[-1]() if alarmed else None)


@contextlib.contextmanager
def at_signal(scene: Scene, after: int, actions: list[list[Any]], error: str = "") -> Iterator[None]:
    """Act in a signal handler, which may raise then, while the call looks for signals after each 64 elements."""

    def act() -> None:
        if scene.is_calling:
            scene.interrupt(actions)
            if error:
                signal.setitimer(signal.ITIMER_REAL, 0)
                raise ERRORS[error]

    limits = _kernels.set_limits(max_elems_per_slice=64, microseconds_between_checks=0)
    alarmed.append(act)
    signal.setitimer(signal.ITIMER_REAL, 20e-6 * (1 + after), 0 if error else 200e-6)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        alarmed.pop()
        _kernels.set_limits(**limits)


def at_raising_signal(scene: Scene, after: int, actions: list[list[Any]]) -> Any:
    return at_signal(scene, after, actions, "KeyboardInterrupt")


@contextlib.contextmanager
def at_float_error(scene: Scene, after: int, actions: list[list[Any]]) -> Iterator[None]:
    """Act where NumPy calls a function for floating-point errors."""
    with np.errstate(all="call", call=lambda *_: scene.interrupt(actions)):
        yield


@contextlib.contextmanager
def with_many_threads(scene: Scene, after: int, actions: list[list[Any]]) -> Iterator[None]:
    """Let threads share small arrays too."""
    limits = _kernels.set_limits(min_elems_per_thread=64, min_elems_without_gil=64)
    try:
        yield
    finally:
        _kernels.set_limits(**limits)


MOMENTS = {
    "collection": at_collection,
    "weak reference": at_weak_reference,
    "event": at_event,
    "signal": at_signal,
    "raising signal": at_raising_signal,
    "float error": at_float_error,
    "threads": with_many_threads,
}
