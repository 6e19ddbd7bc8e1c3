"""Call every public name with hostile arguments, none of which may crash the process. This is a program.

    python tests/hostile_arguments.py SECONDS [SEED]     runs calls in other processes; exits with 1 if one crashes
    python tests/hostile_arguments.py --case CASE        makes one call, a case as the program prints it

Arguments are ints, floats, strings, generators, streams, arrays, dicts and other objects whose special methods lie,
raise, resize, free or retype the call's arrays, draw from its stream, fork, delete fields or call the same function
again; the same happens in __del__, weak references, profilers and signal handlers (hostile_values.py). After each call:

- an error is an ordinary one, or the one that the hostile code raised;
- after an error, out and the position of an exact Stream are unchanged, unless the hostile code changed them;
- the bytes beside the arrays are unchanged;
- a plain call still gives the right bits.

Each case is written to a file before it runs. After a crash the program repeats the case with less and less in it and
prints the smallest that crashes. Half of the cases have arrays of 120 kB and more, whose memory the system takes back
at once when it is freed: uses of freed memory crash then without AddressSanitizer too.
"""

import contextlib
import copy
import ctypes
import faulthandler
import gc
import hashlib
import importlib
import inspect
import json
import os
import pickle
import pkgutil
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import hostile_values
import numpy as np
from hostile_values import ARRAY_ACTIONS, ERRORS, LAYOUTS, MOMENTS, OTHER_ACTIONS, PROVIDERS, Scene, build
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

import cdropout as cd
import cdropout.compat
from cdropout import _kernels
from cdropout.layers.base import Layer

Case = dict[str, Any]

SECONDS_OF_A_BATCH = 300  # of N_CASES_OF_A_BATCH cases, which take some seconds; forks take long under AddressSanitizer
N_CASES_OF_A_BATCH = 100
SECONDS_OF_A_CASE = 10
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # options of mallopt, from malloc.h
ORDINARY = (
    *(TypeError, ValueError, OverflowError, IndexError, KeyError, RuntimeError, MemoryError, AttributeError),
    *(BufferError, ImportError, FloatingPointError, Warning, pickle.PickleError),
)
# The digest of plain calls, which no case may change.
DIGEST = "403c022a61ac79a7"
X = np.random.default_rng(0).standard_normal((40, 301)).astype(np.float32)
BIAS = X[0].copy()

# ---- what is called -------------------------------------------------------------------------------------------------

SHAPES = ((8, 300), (2, 3, 400), (2, 3, 10, 40), (2, 3, 4, 10, 10))
N, D, OTHER = ["plain", None], ["array", "owned", {}], ["plain", 2]

# Name of a parameter -> the kind of values that it takes, and a harmless one.
PARAMETERS: dict[str, tuple[str, list[Any]]] = {
    **dict.fromkeys(("x", "residual", "bias", "weight", "new", "previous", "dy", "y", "a"), ("array", D)),
    **dict.fromkeys(("dout", "X", "xs", "inputs", "dvalues", "dLdy", "binary_mask"), ("array", D)),
    **dict.fromkeys(("image", "table"), ("array", D)),
    "tokens": ("array", ["list", [["plain", 1], ["plain", 2]], {}]),
    "keep_special": ("array", N),
    "mask_token": ("int", ["plain", 3]),
    "replace_random": ("ints", N),
    **dict.fromkeys(
        ("num_holes_range", "hole_height_range", "hole_width_range"),
        ("ints", ["tuple", [["plain", 1], ["plain", 2]], {}]),
    ),
    "out": ("out", N),
    **dict.fromkeys(("p", "std", "prob", "dropout_ratio", "rate", "keep"), ("real", ["plain", 0.5])),
    **dict.fromkeys(("scale", "shift", "fill"), ("real", ["plain", 2.0])),
    "rng": ("rng", ["stream", {}]),
    "seed": ("rng", ["plain", 1]),
    "shape": ("ints", ["tuple", [["plain", 8], ["plain", 300]], {}]),
    "shared_axes": ("ints", ["tuple", [], {}]),
    "strides": ("ints", N),
    **dict.fromkeys(("key", "start"), ("int", ["plain", 0])),
    **dict.fromkeys(("n_samples", "samples_per_pass", "n_children"), ("count", ["plain", 1])),
    **dict.fromkeys(("limit", "size"), ("count", ["plain", 8])),
    **dict.fromkeys(("n_in", "n_out"), ("count", ["plain", 300])),
    "n": ("many", ["plain", 1]),
    **dict.fromkeys(("delta", "jumps"), ("int", ["plain", 3])),
    "block_size": ("count", ["plain", 3]),
    "time_axis": ("int", ["plain", 0]),
    **dict.fromkeys(("inplace", "scale_by_keep", "training", "train_flg"), ("flag", ["plain", True])),
    **dict.fromkeys(
        ("progress", "relu", "output", "per_channel", "per_row", "return_mask"), ("flag", ["plain", False])
    ),
    "replace": ("text", ["plain", "fill"]),
    "rescale": ("text", N),
    "mode": ("flag", ["plain", True]),
    "method": ("text", ["plain", "uint64"]),
    "channels": ("text", ["plain", "first"]),
    "inference": ("text", ["plain", "mean"]),
    "dtype": ("dtype", ["other", "float32"]),
    "forward": ("callable", ["callable", {}]),
    **dict.fromkeys(("layers", "also"), ("layers", ["list", [["layer", {}]], {}])),
    "wrapped_layer": ("callable", ["callable", {}]),
    "index": ("index", ["slice", ["plain", 1], ["plain", 5], N]),
    "identifier": ("identifier", ["plain", "a"]),
    "state": ("state", ["dict", "state", {}, {}]),
    "fields": ("fields", ["dict", "fields", {}, {}]),
    "state_seed_seq": ("anything", ["dict", "state", {}, {}]),
    "dropout_param": ("state", ["dict", "param", {}, {}]),
    "cache": ("anything", ["tuple", [["dict", "param", {}, {}], D], {}]),
    "lazy_mask": ("anything", ["network mask"]),
    "other": ("anything", ["tuple", [], {}]),
    **dict.fromkeys(("memo", "ax"), ("anything", N)),
}
# Special methods that are called, with the names of their parameters; others are listed or refused.
SPECIAL: dict[str, tuple[str, ...]] = {
    "__getitem__": ("index",),
    **dict.fromkeys(("__eq__", "__mul__", "__rmul__", "__add__", "__radd__", "__contains__"), ("other",)),
    **dict.fromkeys(("__len__", "__hash__", "__repr__", "__bool__", "__copy__", "__reduce__", "__iter__"), ()),
    "__deepcopy__": ("memo",),
    "__setstate__": ("fields",),
    **dict.fromkeys(("__getstate__",), ()),
    "__array__": ("dtype",),
}
NOT_CALLED = {
    *("__init__", "__new__", "__call__", "__getattr__", "__array_ufunc__", "__weakref__", "__dict__", "__doc__"),
    *("__module__", "__annotations__", "__parameters__", "__orig_bases__", "__pyx_vtable__", "__slots__"),
    *("__reduce_cython__", "__setstate_cython__", "__abstractmethods__", "__static_attributes__"),
    *(
        "__firstlineno__",
        "__slotnames__",
        "__annotate_func__",
        "__annotations_cache__",
        "__ne__",
        "__lt__",
        "__le__",
        "__gt__",
        "__ge__",
    ),
}
# Calls that fail with harmless arguments too.
ALWAYS_REFUSED = ("Mask.__array__", "Mask.__mul__", "Mask.__rmul__", "cs231n.DropoutCache.__hash__")
# The modules whose functions make one call of the compiled module.
COMPILED = tuple(
    f"cdropout.functions.{name}" for name in ("dropout", "fused", "alpha", "shared_axes", "gaussian", "zoneout")
)
# Functions that run layers, which draw before a later one fails.
SEVERAL_DRAWS = ("dropout_on", "mc_predict")
# Methods of NumPy's base class: they run no code of this library.
OF_NUMPY = ("StreamBitGenerator._benchmark",)


class Target(NamedTuple):
    """A public function, constructor or method."""

    name: str
    cls: type | None  # of a method
    member: str  # of a method; "attribute=" for an attribute that is set
    function: Callable[..., Any] | None  # of a function or constructor
    parameters: tuple[str, ...]
    shape: tuple[int, ...]


def public_objects() -> dict[str, Any]:
    """Return all public functions and classes of the package and of cdropout.compat."""
    found = {name: getattr(cd, name) for name in (*cd.__all__, "eval") if callable(getattr(cd, name))}
    for module in pkgutil.iter_modules(cdropout.compat.__path__):
        members = vars(importlib.import_module(f"cdropout.compat.{module.name}"))
        for name, value in members.items():
            is_own = getattr(value, "__module__", "") == f"cdropout.compat.{module.name}"
            if is_own and callable(value) and not name.startswith("_") and module.name != "last_pass":
                found[f"{module.name}.{name}"] = value
    return found


def parameters_of(function: Callable[..., Any], name: str) -> tuple[str, ...]:
    """Return the names of a function's parameters; each must be in PARAMETERS."""
    kinds = inspect.Parameter
    names = [
        each.name
        for each in inspect.signature(function).parameters.values()
        if each.kind not in (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD) and each.name != "self"
    ]
    return checked(tuple(names), name)


def checked(names: tuple[str, ...], function_name: str) -> tuple[str, ...]:
    unknown = [name for name in names if name not in PARAMETERS]
    if unknown:
        raise LookupError(f"PARAMETERS must have a row for {unknown[0]}, a parameter of {function_name}")
    return names


def members_of(name: str, cls: type) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the methods and settable attributes of a class, with the names of their parameters."""
    instance = make_instance(name, cls, Scene(SHAPES[0], "float32"), 0)
    for member in dir(cls):
        static = inspect.getattr_static(cls, member)
        owner = next(each for each in cls.__mro__ if member in vars(each))
        if owner.__module__ == "builtins":
            continue
        if member.startswith("__"):
            if member in SPECIAL:
                yield member, SPECIAL[member]
            elif member not in NOT_CALLED:
                raise LookupError(f"SPECIAL or NOT_CALLED must have a row for {member}, of {name}")
        elif not member.startswith("_"):
            value = getattr(cls, member)
            if callable(value) and not isinstance(static, property):
                yield member, parameters_of(value, f"{name}.{member}")
            elif isinstance(static, property) or inspect.isgetsetdescriptor(static):
                yield member, ()
                yield f"{member}=", ()
    for member in getattr(instance, "__dict__", ()):
        if not member.startswith("_"):
            yield f"{member}=", ()


def targets(only: str | None = None) -> dict[str, Target]:
    """Return everything that is called, or one of them; LookupError for a name that needs a row in a table above."""
    found = {}

    def add(name: str, cls: type | None, member: str, function: Any, parameters: tuple[str, ...]) -> None:
        if name in OF_NUMPY or only not in (None, name):
            return
        for shape in SHAPES:
            target = Target(name, cls, member, function, parameters, shape)
            if member.endswith("="):
                break
            try:
                harmless_call(target, Scene(shape, "float32"))
            except ImportError:  # an optional package that is not installed
                break
            except Exception as error:
                last = error
            else:
                break
        else:
            if name not in ALWAYS_REFUSED:
                raise LookupError(f"PARAMETERS must have values with which {name} works, got {last!r}") from last
        found[name] = target

    for name, value in public_objects().items():
        if only is not None and not only.startswith(name):
            continue
        add(name, None, "", value, parameters_of(value, name))
        if inspect.isclass(value):
            for member, parameters in members_of(name, value):
                if member.endswith("="):
                    parameters = (member[:-1] if member[:-1] in PARAMETERS else "other",)
                add(f"{name}.{member}", value, member, None, parameters)
    return found


def harmless(names: tuple[str, ...]) -> dict[str, list[Any]]:
    # rescale is a word for Dropout and a flag for DropConnect, and None for neither: its default is harmless.
    return {name: PARAMETERS[name][1] for name in names if name != "rescale"}


def make_instance(name: str, cls: type, scene: Scene, variant: int) -> Any:
    """Return an instance of a class, with some of its options by the variant, after a forward pass if it has one."""
    shape = scene.shape
    if cls is cd.Mask:
        doubled = (*shape[:-1], 2 * shape[-1])
        return (
            cd.Mask(5, 0, 0.5, shape),
            cd.Mask(5, 0, 0.5, shape, shared_axes=0),
            cd.Mask(5, 0, 0.5, doubled)[..., ::2],
            cd.Mask(5, 4096, 1.0, shape),
        )[variant % 4]
    values = {key: build(scene, value, key) for key, value in harmless(parameters_of(cls, name)).items()}
    values = {key: value for key, value in values.items() if key not in ("shape", "dtype")}
    if cls is cd.Noise:
        values["shape"] = shape
    if "inplace" in values:
        values["inplace"] = bool(variant & 1)
    if "relu" in values and variant & 2:
        values.update(relu=True, inference="gaussian", n_samples=2)
    instance = cls(**values)
    if hasattr(instance, "forward"):
        if hasattr(instance, "train") and not variant & 4:
            instance.train()
        with contextlib.suppress(Exception):
            instance.forward(*harmless_inputs(scene, instance))
        if hasattr(instance, "eval") and variant & 2:
            instance.eval()
    return instance


def harmless_inputs(scene: Scene, layer: Any) -> list[Any]:
    """Return arguments for a layer's forward pass."""
    names = parameters_of(type(layer).forward, type(layer).__name__)
    return [build(scene, value, name) for name, value in harmless(names).items()]


def fields_of(instance: Any) -> Iterator[np.ndarray]:
    """Yield the arrays that an instance holds."""
    left = list(getattr(instance, "__dict__", {}).values())
    for value in left:
        if isinstance(value, list | tuple):
            left.extend(value)
        elif type(value) is np.ndarray:
            yield value


def exercise(scene: Scene, instance: Any) -> None:
    """Use an instance that a hostile value has gone into; any error may come, a crash may not."""
    uses: list[Callable[[], Any]] = [
        lambda: repr(instance),
        lambda: instance.state,
        lambda: pickle.loads(pickle.dumps(instance)),
        lambda: copy.copy(instance).forward(*harmless_inputs(scene, instance)),
        lambda: instance.forward(*harmless_inputs(scene, instance)),
        lambda: instance.backward(build(scene, D, "dy")),
        lambda: instance.eval().forward(*harmless_inputs(scene, instance)),
        lambda: instance.backward(build(scene, D, "dy")),
        lambda: cd.draw_mask(300, 0.5, rng=instance).keep(),
        lambda: (instance.keep(), instance.scaled(), instance[1:].keep()),
        lambda: instance.apply(build(scene, D, "a")),
        lambda: instance.multiply(build(scene, D, "a")),
        lambda: (hash(instance), instance == copy.copy(instance)),
    ]
    for use in uses:
        try:
            use()
        except BaseException as error:
            check_error(error)


def call_of(target: Target, scene: Scene, values: dict[str, Any]) -> Callable[[], Any]:
    """Return the call of a target, without arguments."""
    if target.cls is None:
        function = target.function
        assert function is not None
        if not inspect.isclass(function):
            if target.name == "dropout_on":
                return lambda: within(function(**values), scene)
            return lambda: function(**values)
        return lambda: exercise(scene, function(**values))
    instance = scene.instance
    if target.member.endswith("="):
        (value,) = values.values()

        def assign() -> None:
            setattr(instance, target.member[:-1], value)
            exercise(scene, instance)

        return assign
    if target.member.startswith("__"):
        return lambda: getattr(instance, target.member)(*values.values())
    if inspect.isroutine(inspect.getattr_static(target.cls, target.member)):
        return lambda: getattr(instance, target.member)(**values)
    return lambda: getattr(instance, target.member)


def within(block: Any, scene: Scene) -> None:
    with block:
        cd.Dropout(0.5, rng=scene.stream).forward(build(scene, D, "x"))


def harmless_call(target: Target, scene: Scene) -> Any:
    if target.cls is not None:
        scene.instance = make_instance(target.name.rsplit(".", 1)[0], target.cls, scene, 0)
    values = {name: build(scene, value, name) for name, value in harmless(target.parameters).items()}
    return call_of(target, scene, values)()


# ---- one case -------------------------------------------------------------------------------------------------------

outcomes: Counter[str] = Counter()
performed: Counter[str] = Counter()


def check_error(error: BaseException) -> None:
    """Raise AssertionError for an error that is neither an ordinary one nor one of the hostile code."""
    if not (getattr(type(error), "is_hostile", False) or isinstance(error, ORDINARY)):
        raise AssertionError(f"an error of the kind {type(error).__name__}: {error}") from error


def run_case(case: Case) -> None:
    """Make a call, and check what must hold afterwards."""
    target = TARGETS[case["call"]]
    shape = (250, *target.shape[1:]) if case["big"] else target.shape
    scene = Scene(shape, case["dtype"])
    module = getattr(target.function, "__module__", "")
    scene.is_composed = target.cls not in (cd.Mask, cd.Noise) and module not in COMPILED
    with warnings.catch_warnings():
        try:
            values = make_values(case, target, scene)
        except (Exception, ERRORS["KeyboardInterrupt"]) as error:  # a hostile value that cannot be made
            outcomes[f"not made, {type(error).__name__}"] += 1
            return
        scene.again = lambda: harmless_call(target, Scene(shape, case["dtype"]))
        check_call(case, target, scene, values)
    performed.update(scene.done)
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
    scene.check_guards()
    assert plain_digest() == DIGEST, "a plain call gives other bits"


def make_values(case: Case, target: Target, scene: Scene) -> dict[str, Any]:
    """Make the instance and the arguments of a call."""
    if target.cls is not None:
        scene.instance = make_instance(target.name.rsplit(".", 1)[0], target.cls, scene, case["variant"])
        del scene.arrays[:]
    values: dict[str, Any] = {}
    for name, value in {**harmless(target.parameters), **case["arguments"]}.items():
        values[name] = values[value[1]] if value[0] == "same" else build(scene, value, name)
    scene.arrays.extend(fields_of(scene.instance))
    scene.done.clear()
    scene.is_changed = scene.is_drawn = scene.is_late = False
    return values


def check_call(case: Case, target: Target, scene: Scene, values: dict[str, Any]) -> None:
    """Make a call; if it fails, check its error and what must be unchanged then."""
    call, out, position = call_of(target, scene, values), values.get("out"), scene.stream.position
    content = content_of(out)
    error = None
    try:
        with np.errstate(all="ignore"), contextlib.ExitStack() as stack:
            for moment, after, actions in case["moments"]:
                scene.is_late |= moment in ("signal", "raising signal")  # may come when positions have been taken
                stack.enter_context(MOMENTS[moment](scene, after, actions))
            scene.is_calling = True
            try:
                call()
            finally:
                scene.is_calling = False
    except BaseException as raised:
        error = raised
    finally:
        _kernels.set_limits(**LIMITS)
    if error is None:
        outcomes["result"] += 1
        return
    outcomes[type(error).__name__.replace("Hostile", "hostile ")] += 1
    check_error(error)
    if scene.is_late:
        return
    if not scene.is_changed:
        assert content_of(out) == content, f"out has changed: {error!r}"
    is_one_draw = inspect.isroutine(target.function) or (
        isinstance(scene.instance, Layer) and target.member == "forward"
    )
    if is_one_draw and not scene.is_drawn and target.name not in SEVERAL_DRAWS:
        assert scene.stream.position == position, f"the stream has advanced: {error!r}"


def content_of(out: Any) -> bytes:
    """Return the bytes of an ndarray, b"" for anything else."""
    return out.tobytes() if type(out) is np.ndarray and out.dtype != object else b""


def plain_digest() -> str:
    stream = cd.Stream(7)
    parts = (
        cd.dropout(X, 0.3, rng=stream),
        cd.bias_relu_dropout(X, BIAS, 0.3, rng=stream),
        cd.draw_mask(X.shape, 0.3, rng=stream, shared_axes=0)[3:].apply(X[3:]),
        cd.draw_mask(5000, 0.7, rng=stream).keep(),
    )
    return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()[:16]


# ---- cases of any kind ----------------------------------------------------------------------------------------------

INTS = st.sampled_from(
    (
        *(0, 1, 2, 3, 4, 8, 300, -1, -2, 4095, 4096, 1 << 20, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**62, 2**63 - 1),
        *(2**63, 2**64 - 4096, 2**64 - 1, 2**64, 2**70, 2**127, 2**128, -(2**63), -(2**64)),
    )
)
COUNTS = st.sampled_from((0, 1, 2, 3, 5, 8, 300, -1))  # a call with a larger one takes long
FLOATS = st.sampled_from((0.0, 0.5, 1.0, -0.0, 0.1, 5e-324, 1e37, 1e300, -1.0, 2.0, float("inf"), float("nan")))


def weighted(*choices: tuple[int, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    """Return a choice among strategies by their weights, which one_of does not have."""
    indices = [i for i, (weight, _) in enumerate(choices) for _ in range(weight)]
    return st.sampled_from(indices).flatmap(lambda i: choices[i][1])


ACTION = weighted(
    (10, st.tuples(st.sampled_from(ARRAY_ACTIONS), st.integers(0, 4))),
    (1, st.tuples(st.just("retype"), st.integers(0, 4), st.sampled_from(("int32", "float16", "float64", "V4", ">f4")))),
    (1, st.tuples(st.sampled_from(("release", "forget")), st.integers(0, 9))),
    (1, st.tuples(st.just("draw"), st.sampled_from((0, 1, 5000)))),
    (4, st.sampled_from([(name,) for name in OTHER_ACTIONS])),
)
ACTIONS = st.lists(ACTION, min_size=1, max_size=2)
RETURNED = st.one_of(
    st.tuples(st.just("plain"), st.one_of(INTS, FLOATS, st.sampled_from((None, True, False, "a", "")))),
    st.tuples(st.just("other"), st.sampled_from(sorted(hostile_values.NOT_IN_JSON))),
    st.tuples(st.just("ints"), st.lists(st.integers(-1, 9), max_size=3)),
    st.tuples(st.just("list"), st.lists(st.tuples(st.just("plain"), st.one_of(INTS, FLOATS)), max_size=3), st.just({})),
    st.just(("array", "owned", {})),
)
REACTION = st.fixed_dictionaries(
    {
        "from": st.sampled_from((1, 1, 1, 2, 3)),
        "do": weighted((1, st.just([])), (3, ACTIONS)),
        "then": weighted(
            (5, st.just(("honest",))),
            (1, st.just(("self",))),
            (1, st.tuples(st.just("raise"), st.sampled_from(sorted(ERRORS)))),
            (3, st.tuples(st.just("return"), RETURNED)),
        ),
    }
)


def methods(*names: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from(names), REACTION, min_size=1, max_size=3)


COMPARISONS = ("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__")
ARITHMETIC = tuple(
    f"__{side}{name}__"
    for name in ("add", "sub", "mul", "floordiv", "mod", "divmod", "pow", "and", "or", "lshift", "rshift", "truediv")
    for side in ("", "r")
)
OF_NUMBERS = (*COMPARISONS, *ARITHMETIC, "__neg__", "__abs__", "__bool__", "__hash__", "__repr__", "__str__")
OF_INTS = (
    *["__index__"] * 15,
    *OF_NUMBERS,
    *COMPARISONS,
    "__int__",
    "__float__",
    "__trunc__",
    "__format__",
    "bit_length",
)
OF_FLOATS = (*["__float__"] * 15, *OF_NUMBERS, "__int__", "__format__", "is_integer", "as_integer_ratio")
OF_ITEMS = (
    "__iter__",
    "__len__",
    "__getitem__",
    "__contains__",
    "index",
    "count",
    *COMPARISONS,
    "__repr__",
    "__hash__",
)
OF_DICTS = ("__getitem__", "__iter__", "__len__", "__contains__", "keys", "items", "values", "get", "pop", "__eq__")
OF_TEXT = ("encode", "__eq__", "__hash__", "__len__", "__getitem__", "__format__", "__repr__", "__add__", "lower")
OF_ARRAYS = (
    *(
        "__array_finalize__",
        "__array_wrap__",
        "__array_ufunc__",
        "__array_function__",
        "__array_priority__",
        "__array__",
    ),
    *("__array_interface__", "__getitem__", "__setitem__", "__len__", "__iter__", "shape", "dtype", "strides", "ndim"),
    *("size", "flags", "nbytes", "itemsize", "base", "data", "ctypes", "T", "copy", "view", "astype", "sum", "reshape"),
    *("__mul__", "__matmul__", "__class__", "__reduce_ex__", "__repr__", "__float__", "__dlpack__"),
)
OF_MASKED = ("mask", "filled", "_fill_value", "__array_wrap__", "__array_finalize__", "__array_priority__", "shape")
OF_PROVIDERS = (
    *("__array__", "__dlpack__", "__dlpack_device__", "__array_interface__", "is_neg", "resolve_neg", "shape", "dtype"),
    *("__len__", "__getitem__", "__iter__", "__float__", "__class__", "__array_ufunc__", "__repr__"),
)
OF_GENERATORS = (*["integers"] * 4, "bit_generator", "bytes", "__class__")
OF_BIT_GENERATORS = ("lock", "capsule", "state", "random_raw", "seed_seq", "spawn", "__class__")
OF_SEEDS = (
    *(*["generate_state"] * 5, "spawn", "entropy", "spawn_key", "pool_size", "n_children_spawned", "pool", "__class__"),
)
OF_STREAMS = (*["_place"] * 3, "_take_back", "spawn", "fold_in", "state", "key", "position", "__reduce__", "__class__")
OF_LAYERS = ("forward", "backward", "training", "rng", "p", "state", "__copy__", "__reduce_ex__", "train", "eval")

INT = st.one_of(
    st.tuples(st.just("int"), INTS, methods(*OF_INTS)),
    st.tuples(st.just("number"), INTS, methods(*["__index__"] * 4, "__float__", "__int__", "__repr__", "__class__")),
    st.tuples(st.just("plain"), INTS),
)
COUNT = st.one_of(st.tuples(st.just("int"), COUNTS, methods(*OF_INTS)), st.tuples(st.just("plain"), COUNTS))
REAL = st.one_of(
    st.tuples(st.just("float"), FLOATS, methods(*OF_FLOATS)),
    st.tuples(st.just("number"), FLOATS, methods(*["__float__"] * 4, "__index__", "__gt__", "__repr__", "__class__")),
    st.tuples(st.just("plain"), FLOATS),
    INT,
)
TEXT = st.one_of(
    st.tuples(st.just("str"), st.sampled_from(("first", "last", "train", "mean", "a", "\udc80")), methods(*OF_TEXT)),
    st.tuples(st.just("bytes"), st.sampled_from(("a", "")), methods(*OF_TEXT)),
)
NO_METHODS = st.just({})
BUFFERS = ("array.array", "ctypes", "bytearray", "memoryview of an array")
ITEMS = st.one_of(
    st.tuples(st.sampled_from(("list", "tuple")), st.lists(INT, max_size=4), st.one_of(NO_METHODS, methods(*OF_ITEMS))),
    INT,
)
ARRAY = weighted(
    (3, st.tuples(st.just("array"), st.sampled_from(sorted(LAYOUTS)), NO_METHODS)),
    (4, st.tuples(st.just("array"), st.just("owned"), methods(*OF_ARRAYS))),
    (1, st.tuples(st.just("masked"), st.one_of(NO_METHODS, methods(*OF_MASKED)))),
    (2, st.tuples(st.just("provider"), st.sampled_from(sorted(PROVIDERS)), methods(*OF_PROVIDERS))),
    (1, st.tuples(st.just("buffer"), st.sampled_from(BUFFERS))),
    (1, st.tuples(st.just("list"), st.lists(REAL, max_size=3), st.one_of(NO_METHODS, methods(*OF_ITEMS)))),
)
RNG = weighted(
    (4, st.tuples(st.just("generator"), methods(*OF_GENERATORS))),
    (2, st.tuples(st.just("bit generator"), methods(*OF_BIT_GENERATORS))),
    (1, st.tuples(st.just("random state"), methods("bytes", "__class__"))),
    (3, st.tuples(st.just("seeds"), methods(*OF_SEEDS))),
    (2, st.tuples(st.just("stream"), methods(*OF_STREAMS))),
    (3, ITEMS),
    (1, st.just(("plain", None))),
)
LAYER = st.one_of(
    st.tuples(st.just("layer"), st.one_of(NO_METHODS, methods(*OF_LAYERS))),
    st.tuples(st.just("callable"), methods("__call__", *OF_LAYERS)),
)
LAYERS = st.tuples(
    st.sampled_from(("list", "tuple")), st.lists(LAYER, max_size=3), st.one_of(NO_METHODS, methods(*OF_ITEMS))
)
ANYTHING = st.one_of(INT, REAL, TEXT, ITEMS, ARRAY, RNG, LAYER, st.just(("mask",)), st.just(("noise",)))


def dicts(source: str) -> st.SearchStrategy[Any]:
    changes = st.dictionaries(st.sampled_from("01234567"), st.one_of(INT, ITEMS, ANYTHING), max_size=2)
    return st.tuples(st.just("dict"), st.just(source), changes, st.one_of(NO_METHODS, methods(*OF_DICTS)))


VALUES: dict[str, st.SearchStrategy[Any]] = {
    "array": ARRAY,
    "out": ARRAY,
    "real": REAL,
    "rng": RNG,
    "ints": ITEMS,
    "int": INT,
    "count": COUNT,
    "many": st.one_of(COUNT, st.tuples(st.just("int"), st.sampled_from((2**33, 2**64)), methods(*OF_INTS))),
    "flag": st.one_of(INT, TEXT, ARRAY),
    "text": st.one_of(TEXT, INT),
    "dtype": st.one_of(TEXT, st.tuples(st.just("plain"), st.sampled_from(("f2", "f8", "object", ">f4", "V4")))),
    "callable": st.one_of(LAYER, LAYERS),
    "layers": LAYERS,
    "index": st.one_of(st.tuples(st.just("slice"), INT, INT, INT), ITEMS),
    "identifier": st.one_of(TEXT, INT),
    "state": dicts("state"),
    "fields": dicts("fields"),
    "anything": ANYTHING,
}
MOMENT = st.tuples(st.sampled_from(sorted(MOMENTS)), st.integers(0, 60), ACTIONS)


HOW_MANY = st.sampled_from((0, 1, 1, 1, 2, 2, 3))  # arguments are hostile


def subsets(names: tuple[str, ...], n: int) -> st.SearchStrategy[Any]:
    n = min(n, len(names))
    return st.sets(st.sampled_from(names), min_size=n, max_size=n) if n else st.just(())


# Kind of a parameter -> values that pass its check and run one method of their own, which reacts.
REACTING: dict[str, list[Callable[[Any], list[Any]]]] = {
    "array": [
        lambda react: ["array", "owned", {"__array_finalize__": react}],
        lambda react: ["array", "owned", {"__array_wrap__": react}],
        lambda react: ["array", "owned", {"__array_priority__": react}],
        lambda react: ["masked", {"mask": react}],
        lambda react: ["provider", "OnlyArray", {"__array__": react}],
        lambda react: ["provider", "Dlpack", {"__dlpack__": react}],
        lambda react: ["provider", "OldTensor", {"__dlpack_device__": react}],
        lambda react: ["provider", "Interface", {"__array_interface__": react}],
    ],
    "real": [
        lambda react: ["float", 0.5, {"__float__": react}],
        lambda react: ["number", 0.5, {"__float__": react}],
    ],
    "rng": [
        lambda react: ["generator", {"integers": react}],
        lambda react: ["bit generator", {"lock": react}],
        lambda react: ["random state", {"bytes": react}],
        lambda react: ["seeds", {"generate_state": react}],
        lambda react: ["seeds", {"entropy": react}],
        lambda react: ["list", [["int", 1, {"__index__": react, "__lt__": react}]], {}],
        lambda react: ["list", [["plain", 1]], {"__iter__": react}],
        lambda react: ["stream", {"_place": {**react, "from": 2}}],
    ],
    "ints": [
        lambda react: ["tuple", [["number", 0, {"__index__": react}]], {}],
        lambda react: ["tuple", [["int", 1, {"__index__": react, "__lt__": react}]], {"__iter__": react}],
        lambda react: ["number", 0, {"__index__": react}],
        lambda react: ["int", 300, {"__mul__": react, "__rmul__": react, "__eq__": react}],
    ],
    "int": [
        lambda react: ["number", 0, {"__index__": react}],
        lambda react: ["int", 1, {"__index__": react, "__lt__": react, "__le__": react, "__ge__": react}],
    ],
    "text": [lambda react: ["str", "first", {"__eq__": react, "__hash__": react}]],
    "flag": [lambda react: ["number", 1, {"__bool__": react, "__len__": react}]],
    "callable": [lambda react: ["callable", {"forward": react, "__call__": react}]],
    "layers": [
        lambda react: ["list", [["layer", {"forward": react}]], {}],
        lambda react: ["list", [["layer", {"training": react}]], {"__iter__": react}],
    ],
    "state": [
        lambda react: ["dict", "state", {}, {"__getitem__": react}],
        lambda react: ["dict", "state", {}, {"__iter__": react, "keys": react}],
    ],
    "fields": [lambda react: ["dict", "fields", {}, {"__getitem__": react, "keys": react, "items": react}]],
}
REACTING["out"] = REACTING["array"]
REACTING["count"] = REACTING["many"] = REACTING["int"]


@st.composite
def simple_cases(draw: Any) -> Case:
    """Draw a call in which one method, or one moment, performs one action."""
    target = TARGETS[draw(st.sampled_from(NAMES))]
    reacting = [name for name in target.parameters if PARAMETERS[name][0] in REACTING]
    name = draw(st.sampled_from([*reacting, *[each for each in reacting if each == "rng"], ""]))
    action = draw(ACTION)
    arguments = harmless_out(draw, target)
    moments = []
    if name:
        reaction = {"from": 1, "do": [action], "then": ["honest"]}
        arguments[name] = draw(st.sampled_from(REACTING[PARAMETERS[name][0]]))(reaction)
    else:
        moments.append((draw(st.sampled_from(sorted(MOMENTS))), draw(st.integers(0, 60)), [action]))
    return case_of(draw, target, arguments, moments)


def harmless_out(draw: Any, target: Target) -> dict[str, Any]:
    """Draw an output, if the target takes one."""
    if "out" not in target.parameters:
        return {}
    outs = [("array", "owned", {}), ("array", "guarded", {}), ("plain", None)]
    return {"out": draw(st.sampled_from([*outs, ("same", "x")] if "x" in target.parameters else outs))}


def case_of(draw: Any, target: Target, arguments: dict[str, Any], moments: list[Any]) -> Case:
    """Return a case as JSON gives it back."""
    case = {
        "call": target.name,
        # The arguments that others are the same as come first.
        "arguments": dict(sorted(arguments.items(), key=lambda item: item[1][0] == "same")),
        "moments": moments,
        "variant": draw(st.integers(0, 7)),
        "big": draw(st.booleans()),
        "dtype": draw(st.sampled_from(("float32", "float32", "float64", "float16"))),
    }
    return json.loads(json.dumps(case))


@st.composite
def wild_cases(draw: Any) -> Case:
    """Draw a call with any hostile arguments and moments."""
    target = TARGETS[draw(st.sampled_from(NAMES))]
    hostile = draw(HOW_MANY.flatmap(lambda n: subsets(target.parameters, n)))
    arguments = {**harmless_out(draw, target), **{name: draw(VALUES[PARAMETERS[name][0]]) for name in sorted(hostile)}}
    moments = draw(st.lists(MOMENT, min_size=0 if hostile else 1, max_size=2))
    if "raising signal" in [moment for moment, _, _ in moments]:
        moments = [each for each in moments if each[0] == "raising signal"][
            :1
        ]  # CPython answers an error in a profiler's call with SystemError
    return case_of(draw, target, arguments, moments)


def cases() -> st.SearchStrategy[Case]:
    return weighted((1, simple_cases()), (1, wild_cases()))


# ---- the process that makes the calls -------------------------------------------------------------------------------

TARGETS: dict[str, Target] = {}
NAMES: list[str] = []
LIMITS = _kernels.get_limits()


def prepare(only: str | None = None) -> None:
    """Find what is called, and make memory errors visible."""
    warnings.simplefilter("ignore")
    os.environ["MPLBACKEND"] = "Agg"  # no windows
    hostile_values.handle_alarms()
    TARGETS.update(targets(only))
    for target in TARGETS.values():  # functions and forward passes more often than attributes
        is_attribute = target.member.endswith("=") or not target.parameters
        NAMES.extend([target.name] * (1 if is_attribute else 40 if target.cls is None else 10))
    gc.collect()
    gc.freeze()
    if "asan" in os.environ.get("LD_PRELOAD", ""):
        return
    with contextlib.suppress(ImportError, AttributeError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (3 << 29, resource.getrlimit(resource.RLIMIT_DATA)[1]))
        for option, value in ((M_TRIM_THRESHOLD, 1 << 16), (M_TOP_PAD, 0), (M_MMAP_THRESHOLD, 1 << 16)):
            ctypes.CDLL(None).mallopt(option, value)


def run_cases(n_seconds: float, first_seed: int, last_case: Path) -> None:
    """Run cases for some seconds, each noted in a file before; print counts as JSON."""
    prepare()
    until = time.monotonic() + n_seconds
    file = os.open(last_case, os.O_RDWR | os.O_CREAT | os.O_TRUNC)

    @settings(
        max_examples=N_CASES_OF_A_BATCH,
        database=None,
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(cases())
    def batch(case: Case) -> None:
        text = json.dumps(case).encode()
        os.ftruncate(file, 0)
        os.pwrite(file, text, 0)
        run_case(case)

    n_batches = 0
    try:
        while time.monotonic() < until:
            faulthandler.dump_traceback_later(SECONDS_OF_A_BATCH, exit=True)
            seed(first_seed + n_batches)(batch)()
            n_batches += 1
    finally:
        faulthandler.cancel_dump_traceback_later()
        print(json.dumps({"outcomes": outcomes, "performed": performed, "n_batches": n_batches}))


# ---- the process that watches ---------------------------------------------------------------------------------------


def smaller(case: Case) -> Iterator[Case]:
    """Yield the case without one of its parts."""
    for i in range(len(case["moments"])):
        yield {**case, "moments": case["moments"][:i] + case["moments"][i + 1 :]}
    for name in case["arguments"]:
        yield {**case, "arguments": {key: value for key, value in case["arguments"].items() if key != name}}
    for key, value in (("big", False), ("variant", 0), ("dtype", "float32")):
        if case[key] != value:
            yield {**case, key: value}
    for path, part in parts(case, ()):
        if isinstance(part, dict) and path[-1] not in ("arguments",) and "from" not in part:
            for name in part:
                yield replaced(case, path, {key: value for key, value in part.items() if key != name})
        elif isinstance(part, dict) and "from" in part:
            for key, value in (("from", 1), ("do", []), ("then", ["honest"])):
                if part[key] != value:
                    yield replaced(case, (*path, key), value)
        elif isinstance(part, list) and len(part) > 1 and all(isinstance(each, list) for each in part):
            for i in range(len(part)):
                yield replaced(case, path, part[:i] + part[i + 1 :])


def parts(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield all dicts and lists in a case, with the keys that lead there."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(inner, dict | list):
            yield (*path, key), inner
            yield from parts(inner, (*path, key))


def replaced(case: Case, path: tuple[Any, ...], value: Any) -> Case:
    changed = copy.deepcopy(case)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return changed


def failure(case: Case) -> str:
    """Return the error of a case that fails in a forked child, "" for one that does not."""
    with tempfile.TemporaryFile() as file:
        for _ in range(3):  # signals come at other moments each time
            child = os.fork()
            if child == 0:
                os.dup2(file.fileno(), 2)
                show_crashes()
                faulthandler.dump_traceback_later(SECONDS_OF_A_CASE, exit=True)
                try:
                    run_case(case)
                except BaseException:
                    traceback.print_exc()
                    os._exit(1)
                os._exit(0)
            _, status = os.waitpid(child, 0)
            if status != 0:
                file.seek(0)
                return file.read().decode(errors="replace") or f"exit code {os.waitstatus_to_exitcode(status)}"
            file.truncate(0)
    return ""


def ends_of(error: str) -> str:
    """Return the beginning and the end of a long error: AddressSanitizer has the cause first, Python last."""
    return error if len(error) < 9000 else f"{error[:6000]}\n...\n{error[-3000:]}"


def show_crashes() -> None:
    """Show Python's stack in a crash. AddressSanitizer shows the stack of C, unless Python takes the signal first."""
    if "libasan" not in os.environ.get("LD_PRELOAD", ""):
        faulthandler.enable()


def print_smallest(case: Case) -> None:
    """Print the smallest case found that fails as well, and its error; the case itself if it does not fail alone."""
    prepare(case["call"])
    error, is_done, until = failure(case), False, time.monotonic() + 60
    while error and not is_done and time.monotonic() < until:
        is_done = True
        for tried in smaller(case):
            found = failure(tried)
            if found:
                case, error, is_done = tried, found, False
                break
    print(ends_of(error) or "not repeated by this case alone", "smallest case:", sep="\n")
    print("    python tests/hostile_arguments.py --case '" + json.dumps(case).replace("'", "'\\''") + "'")


def run_program(*arguments: str) -> "subprocess.CompletedProcess[str]":
    program = [sys.executable, *(("-P",) if sys.flags.safe_path else ()), __file__, *arguments]
    return subprocess.run(program, capture_output=True, text=True, check=False)


def main(n_seconds: float, first_seed: int = 0, n_failures: int = 1) -> int:
    """Run cases for some seconds in other processes; return 1 after so many that fail, otherwise 0."""
    until, counts, n_failed = time.monotonic() + n_seconds, {"outcomes": Counter(), "performed": Counter()}, 0
    with tempfile.TemporaryDirectory() as folder:
        last_case = Path(folder) / "last_case.json"
        while (left := until - time.monotonic()) > 0 and n_failed < n_failures:
            # A new process each few minutes, because cases leave things behind.
            done = run_program("--child", str(min(left, 300.0)), str(first_seed), str(last_case))
            with contextlib.suppress(ValueError, IndexError):
                found = json.loads(done.stdout.splitlines()[-1])
                for key, counter in counts.items():
                    counter.update(found[key])
            first_seed += 1_000_000
            if done.returncode != 0:
                n_failed += 1
                if not last_case.exists():
                    print(done.stderr, file=sys.stderr)
                    return 1
                print(f"FAILED, exit code {done.returncode}:\n{ends_of(done.stderr)}")
                print(run_program("--smallest", last_case.read_text()).stdout, flush=True)
                last_case.unlink()
    n_calls = sum(n for name, n in counts["outcomes"].items() if not name.startswith("not made"))
    print(f"{n_calls} calls")
    for key, counter in counts.items():
        print(f"{key}:", *(f"{name} {n}" for name, n in counter.most_common()), sep="\n    ")
    return 1 if n_failed else 0


if __name__ == "__main__":
    show_crashes()
    match sys.argv[1:]:
        case ["--case", text]:
            faulthandler.dump_traceback_later(SECONDS_OF_A_BATCH, exit=True)
            case_alone = json.loads(text)
            prepare(case_alone["call"])
            run_case(case_alone)
        case ["--smallest", text]:
            print_smallest(json.loads(text))
        case ["--child", n_seconds, first_seed, last_case]:
            run_cases(float(n_seconds), int(first_seed), Path(last_case))
        case [n_seconds, *more]:
            sys.exit(main(float(n_seconds), *map(int, more)))
        case _:
            sys.exit(__doc__)
