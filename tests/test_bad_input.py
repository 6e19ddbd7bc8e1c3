"""Input of every kind, one row each: the result is that of a plain contiguous copy, or an error names the argument.

After each row, the library holds no reference to the arguments. After an error, the arguments and the stream or
generator are unchanged.
"""

import array
import contextlib
import ctypes
import gc
import mmap
import re
import sys
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest
from conftest import measures_the_process
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from test_foreign_arrays import CopyingDlpack, Dlpack, Interface, OnlyArray

import cdropout as cd
from cdropout._kernels import as_array
from cdropout.checks import shown

VALUES = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
P = 0.4
HUGE = 10**5000  # too many digits for Python's repr

pytestmark = [
    measures_the_process,  # reference counts
    pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Warning. converting a masked element to nan"),
]

# ---- calls and their arguments --------------------------------------------------------------------------------------


def plain(a: Any) -> np.ndarray:
    """Return a contiguous copy in native byte order."""
    values = as_array(a, "a")
    return np.array(values, values.dtype.newbyteorder("="), order="C", subok=False)


def like(x: Any, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Return other numbers of x's dtype, and of x's shape by default."""
    values = as_array(x, "x")
    shape = values.shape if shape is None else shape
    return np.random.default_rng(1).standard_normal(shape).astype(values.dtype.newbyteorder("="))


def columns(x: Any) -> tuple[int, ...]:
    return as_array(x, "x").shape[-1:]


# Calls for any shape, with arguments x, p, rng and out.
OF_ANY_SHAPE = {
    "dropout": lambda x, p, rng, out: cd.dropout(x, p, rng=rng, out=out),
    "relu_dropout": lambda x, p, rng, out: cd.relu_dropout(x, p, rng=rng, out=out),
    "alpha_dropout": lambda x, p, rng, out: cd.alpha_dropout(x, p, rng=rng, out=out),
    "dropout_add": lambda x, p, rng, out: cd.dropout_add(x, like(x), p, rng=rng, out=out),
    "zoneout": lambda x, p, rng, out: cd.zoneout(x, like(x), p, rng=rng, out=out),
    "gaussian_noise": lambda x, p, rng, out: cd.gaussian_noise(x, p, rng=rng, out=out),
    "Mask.apply": lambda x, p, rng, out: cd.Mask(7, 0, p, like(x).shape).apply(x, out),
    "Noise.multiply": lambda x, p, rng, out: cd.Noise(7, 0, p, like(x).shape).multiply(x, out),
    "Noise.add": lambda x, p, rng, out: cd.Noise(7, 0, p, like(x).shape).add(x, out),
}
# Calls for an x with columns, of shape (4, 6) here.
OF_A_MATRIX = {
    **OF_ANY_SHAPE,
    "dropout, shared axis": lambda x, p, rng, out: cd.dropout(x, p, rng=rng, out=out, shared_axes=0),
    "bias_relu_dropout": lambda x, p, rng, out: cd.bias_relu_dropout(x, like(x, columns(x)), p, rng=rng, out=out),
    "bias_dropout_add": lambda x, p, rng, out: cd.bias_dropout_add(
        x, like(x, columns(x)), like(x), p, rng=rng, out=out
    ),
    "feature_dropout": lambda x, p, rng, out: cd.feature_dropout(x, p, rng=rng, out=out),
    "locked_dropout": lambda x, p, rng, out: cd.locked_dropout(x, p, rng=rng, out=out),
    "drop_path": lambda x, p, rng, out: cd.drop_path(x, p, rng=rng, out=out),
    "gaussian_dropout": lambda x, p, rng, out: cd.gaussian_dropout(x, p, rng=rng, out=out),
}
OF_LAYERS = {
    "Dropout": lambda x, p, rng: cd.Dropout(p, rng=rng).forward(x),
    "ReLUDropout": lambda x, p, rng: cd.ReLUDropout(p, rng=rng).forward(x),
    "DropoutAdd": lambda x, p, rng: cd.DropoutAdd(p, rng=rng).forward(x, like(x)),
    "FeatureDropout": lambda x, p, rng: cd.FeatureDropout(p, rng=rng).forward(x),
    "AlphaDropout": lambda x, p, rng: cd.AlphaDropout(p, rng=rng).forward(x),
    "Zoneout": lambda x, p, rng: cd.Zoneout(p, rng=rng).forward(x, like(x)),
    "DropPath": lambda x, p, rng: cd.DropPath(p, rng=rng).forward(x),
    "GaussianNoise": lambda x, p, rng: cd.GaussianNoise(p, rng=rng).forward(x),
}
DRAWN_BY_HAND = ("Mask.apply", "Noise.multiply", "Noise.add")  # created from a key, without rng

# ---- checks of a row ------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """A function that makes the arguments, the calls that take them, and the error, None if there is a result."""

    make: Callable[[], tuple[Any, ...]]
    calls: dict[str, Callable[..., Any]]
    error: type[Exception] | None = None
    message: str = ""
    as_plain: Callable[..., tuple[Any, ...]] = lambda *arguments: tuple(map(plain, arguments))


def held(a: Any) -> Any:
    """Return an argument's content in a form that can be compared later."""
    with contextlib.suppress(Exception):
        values = as_array(a, "a")
        if values.dtype != object:
            return values.tobytes(), values.shape, values.strides, values.dtype, values.flags.writeable
    try:
        return repr(a)
    except ValueError:  # an int too long for Python's repr
        return a


def count_of(a: Any) -> int:
    """Return the number of references to an argument; 0 for ints, types and None, which Python may share."""
    return 0 if a is None or isinstance(a, int | type) else sys.getrefcount(a)


def error_of(call: Callable[..., Any], *arguments: Any) -> tuple[type[Exception] | None, str]:
    """Return the type and message of a call's error, without a reference to its arguments."""
    try:
        call(*arguments)
    except Exception as error:
        return type(error), str(error)
    return None, "no error"


def bits(a: Any) -> tuple[bytes, Any, tuple[int, ...]]:
    values = plain(a)
    return values.tobytes(), values.dtype, values.shape


def check_answer(row: Row, call: Callable[..., Any]) -> None:
    arguments = row.make()
    expected = bits(call(*row.as_plain(*arguments), 1))
    before = [held(a) for a in arguments]
    counts = [count_of(a) for a in arguments]
    assert bits(call(*arguments, 1)) == expected
    assert [held(a) for a in arguments] == before
    assert [count_of(a) for a in arguments] == counts


def check_error(row: Row, name: str, call: Callable[..., Any]) -> None:
    arguments = row.make()
    stream, generator = cd.Stream(1), np.random.default_rng(1)
    before = [held(a) for a in arguments]
    states = stream.state, generator.bit_generator.state
    counts = [count_of(a) for a in arguments]
    for rng in (stream, generator, stream):
        error, message = error_of(call, *arguments, rng)
        assert error is not None, f"{name}: no error"
        assert issubclass(error, row.error), f"{name}: {error.__name__}: {message}"
        assert re.search(row.message, message), f"{name}: {message}"
    assert [held(a) for a in arguments] == before, name
    assert (stream.state, generator.bit_generator.state) == states, name
    if [count_of(a) for a in arguments] != counts:
        gc.collect()  # frames in reference cycles with an error's traceback
        assert [count_of(a) for a in arguments] == counts, name


# ---- p --------------------------------------------------------------------------------------------------------------


class Float(float):
    """A subclass."""


class Says:
    """An object with a __float__, which may raise."""

    def __init__(self, says: Any) -> None:
        self.says = says

    def __float__(self) -> float:
        if isinstance(self.says, type):
            raise self.says("not today")
        return self.says

    def __repr__(self) -> str:
        return "Says()"


class Index:
    """An object with an __index__."""

    def __index__(self) -> int:
        return 1


GOOD_P = (
    *(0, 1, 0.0, -0.0, 1.0, 0.5, True, False, 5e-324, 2.0**-49, 1e-12, 1 - 2**-53),
    *(np.float16(0.5), np.float32(0.1), np.float64(0.1), np.longdouble(0.1), np.bool_(True), np.bool_(False)),
    *(kind(1) for kind in (np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64)),
    *(np.intp(0), np.ulonglong(1), ml_dtypes.bfloat16(0.25), ml_dtypes.float8_e5m2(0.5)),
    *(np.array(0.5), np.array(0.5, ">f8"), np.array(1), np.array(True), np.array(0.5, np.float16)),
    *(np.broadcast_to(np.float32(0.5), ()), np.ma.array(0.5), Fraction(1, 3), Decimal("0.1"), Decimal("1E-400")),
    *(Float(0.5), Says(0.5), Index()),
)
IN_RANGE, REAL = r"^(p|std) must be (in \[0, 1|finite)", r"^(p|std) must be a real number"
BAD_P = (
    *((p, ValueError, IN_RANGE) for p in (float("nan"), float("inf"), -float("inf"), -1e-9, -5e-324, -1)),
    *((p, ValueError, IN_RANGE) for p in (np.float64("nan"), np.float32("inf"), np.float16("-inf"), np.longdouble(-1))),
    *((p, ValueError, IN_RANGE) for p in (np.int8(-1), np.int64(-(2**63)), np.array(-0.5), np.array(np.nan))),
    *((p, ValueError, IN_RANGE) for p in (-HUGE, Fraction(-1, 3), Decimal("NaN"), Decimal("-Infinity"), Says(-2.0))),
    *((p, ValueError, IN_RANGE) for p in (HUGE, Fraction(10**400), np.longdouble("inf"), ml_dtypes.bfloat16("nan"))),
    *(
        (p, TypeError, REAL)
        for p in ("0.5", "", b"0.5", bytearray(b"0.5"), memoryview(b"0.5"), None, ..., NotImplemented)
    ),
    *((p, TypeError, REAL) for p in (0.5j, np.complex64(0.5), np.complex128(0.5), [0.5], (0.5,), {0.5}, {0.5: 1}, [])),
    *((p, TypeError, REAL) for p in (np.array([0.5]), np.array([]), np.array([[0.5]]), np.array(0.5, object))),
    *((p, TypeError, REAL) for p in (np.array("0.5"), np.array(0.5j), np.str_("0.5"), np.bytes_(b"0.5"))),
    *((p, TypeError, REAL) for p in (np.datetime64(0, "s"), np.timedelta64(1, "s"), np.void(b"1"), np.ma.array([0.5]))),
    *((p, TypeError, REAL) for p in (float, object(), len, Decimal("sNaN"), Says("0.5"), Says(OverflowError))),
    *((p, TypeError, REAL) for p in (Says(ValueError), np.array((0.5,), [("p", "f8")]), range(1), iter([0.5]))),
)
# A standard deviation may be above 1.
ABOVE_ONE = (
    1 + 2**-52,
    2,
    1e37,
    np.float32(1.5),
    np.uint64(2**64 - 1),
    np.longdouble(2),
    Fraction(3, 2),
    Decimal("1.1"),
)
TAKES_STD = ("gaussian_noise", "Noise.multiply", "Noise.add", "GaussianNoise")


def without(calls: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: call for name, call in calls.items() if name not in names}


def with_p(calls: dict[str, Any]) -> dict[str, Any]:
    """Return calls as functions of p and rng."""
    of_p = {name: lambda p, rng, call=call: call(VALUES, p, rng, None) for name, call in calls.items()}
    of_layers = {name: lambda p, rng, call=call: call(VALUES, p, rng) for name, call in OF_LAYERS.items()}
    return {
        **of_p,
        **of_layers,
        "draw_mask": lambda p, rng: cd.draw_mask(50, p, rng=rng).keep(),
        "relu_dropout_backward": lambda p, rng: cd.relu_dropout_backward(VALUES, VALUES, p),
        "drop_connect": lambda p, rng: cd.drop_connect(VALUES, like(VALUES, (6, 3)), p=p, rng=rng),
        "feature_dropout_linear": lambda p, rng: cd.feature_dropout_linear(VALUES, like(VALUES, (6, 3)), p=p, rng=rng),
        "a layer's p": lambda p, rng: setattr(cd.Dropout(0.1), "p", p) or VALUES,
    }


def without_address(text: str) -> str:
    """Return a repr that is the same in every process: pytest-xdist needs equal names of tests in all of them."""
    return re.sub("0x[0-9a-f]+", "0x...", text)


# gaussian_dropout does not allow p = 1, and its error differs.
CALLS_WITH_P = without(with_p(OF_A_MATRIX), "gaussian_dropout")


def as_float(p: Any) -> tuple[float]:
    return (float(p),)


P_ROWS = {
    **{
        f"p = {p!r:.30} ({type(p).__name__} {i})": Row(lambda p=p: (p,), CALLS_WITH_P, as_plain=as_float)
        for i, p in enumerate(GOOD_P)
    },
    **{
        f"p = {without_address(shown(p)):.30} ({type(p).__name__}, bad {i})": Row(
            lambda p=p: (p,), CALLS_WITH_P, error, message
        )
        for i, (p, error, message) in enumerate(BAD_P)
    },
    **{
        f"p = {p!r} ({type(p).__name__}, above 1)": Row(
            lambda p=p: (p,), without(CALLS_WITH_P, *TAKES_STD), ValueError, r"^p must be in \[0, 1\], got "
        )
        for p in ABOVE_ONE
    },
}

# ---- arrays that are read -------------------------------------------------------------------------------------------


class Subclass(np.ndarray):
    """A subclass that allows neither universal functions nor access to elements."""

    __array_ufunc__ = None

    def __array_finalize__(self, obj: Any) -> None:
        self.note = "finalized"

    def __getitem__(self, index: Any) -> Any:
        raise AssertionError("asked for an element")

    def __setitem__(self, index: Any, value: Any) -> None:
        raise AssertionError("told to set an element")


def frozen(a: np.ndarray) -> np.ndarray:
    a = a.copy()
    a.flags.writeable = False
    return a


def misaligned(a: np.ndarray, n_bytes: int = 1) -> np.ndarray:
    memory = np.zeros(a.nbytes + n_bytes, np.uint8)
    moved = memory[n_bytes:].view(a.dtype).reshape(a.shape)
    moved[...] = a
    return moved


def every_other(a: np.ndarray) -> np.ndarray:
    return np.repeat(a, 2, axis=1)[:, ::2]


def mapped(a: np.ndarray, access: int = mmap.ACCESS_WRITE) -> np.ndarray:
    """Return an array in an anonymous memory map, or a read-only view of one."""
    memory = np.frombuffer(mmap.mmap(-1, a.nbytes), a.dtype).reshape(a.shape)
    memory[...] = a
    memory.flags.writeable = access != mmap.ACCESS_READ
    return memory


def a_field(a: np.ndarray) -> np.ndarray:
    records = np.zeros(a.shape, [("before", "u1"), ("value", a.dtype), ("behind", "u2")])
    records["value"] = a
    return records["value"]


def in_ctypes(a: np.ndarray) -> Any:
    memory = (ctypes.c_float * a.shape[1] * a.shape[0])()
    np.frombuffer(memory, np.float32).reshape(a.shape)[...] = a
    return memory


def as_subclass(a: np.ndarray) -> Subclass:
    return a.copy().view(Subclass)


F64, F16, BF16 = (VALUES.astype(dtype) for dtype in (np.float64, np.float16, ml_dtypes.bfloat16))
GOOD_MATRICES = {
    "plain": lambda: VALUES.copy(),
    "float64": lambda: F64.copy(),
    "float16": lambda: F16.copy(),
    "bfloat16": lambda: BF16.copy(),
    "read-only": lambda: frozen(VALUES),
    "read-only float64": lambda: frozen(F64),
    "big-endian float16": lambda: VALUES.astype(">f2"),
    "big-endian float32": lambda: VALUES.astype(">f4"),
    "big-endian float64": lambda: VALUES.astype(">f8"),
    "big-endian bfloat16": lambda: BF16.astype(BF16.dtype.newbyteorder(">")),
    "big-endian and read-only": lambda: frozen(VALUES.astype(">f4")),
    "big-endian and Fortran": lambda: np.asfortranarray(VALUES.astype(">f8")),
    "Fortran": lambda: np.asfortranarray(VALUES),
    "Fortran float16": lambda: np.asfortranarray(F16),
    "transposed": lambda: VALUES.reshape(6, 4).T,
    "rows reversed": lambda: VALUES[::-1],
    "columns reversed": lambda: VALUES[:, ::-1],
    "both reversed": lambda: F64[::-1, ::-1],
    "transposed and reversed": lambda: VALUES.reshape(6, 4).T[::-1],
    "every other column": lambda: every_other(VALUES),
    "every other row": lambda: np.repeat(VALUES, 2, axis=0)[::2],
    "stride 0 along rows": lambda: np.broadcast_to(VALUES[0], (4, 6)),
    "stride 0 along columns": lambda: np.broadcast_to(VALUES[:, :1], (4, 6)),
    "stride 0 along both": lambda: np.broadcast_to(VALUES[0, 0], (4, 6)),
    "overlapping windows": lambda: np.lib.stride_tricks.sliding_window_view(VALUES.ravel(), 6)[:4],
    "misaligned float32": lambda: misaligned(VALUES),
    "misaligned float64": lambda: misaligned(F64, 3),
    "misaligned float16": lambda: misaligned(F16),
    "misaligned bfloat16": lambda: misaligned(BF16),
    "misaligned and big-endian": lambda: misaligned(VALUES.astype(">f4")),
    "misaligned and read-only": lambda: frozen(misaligned(VALUES)),
    "field of a structured array": lambda: a_field(VALUES),
    "matrix": lambda: np.asmatrix(VALUES.copy()),
    "MaskedArray": lambda: np.ma.array(VALUES.copy(), mask=VALUES > 0),
    "record array's field": lambda: a_field(VALUES).view(np.ndarray),
    "memory map": lambda: mapped(VALUES),
    "read-only memory map": lambda: mapped(VALUES, mmap.ACCESS_READ),
    "subclass": lambda: as_subclass(VALUES),
    "DLPack": lambda: Dlpack(VALUES.copy()),
    "DLPack that copies": lambda: CopyingDlpack(VALUES.copy()),
    "DLPack, transposed": lambda: Dlpack(VALUES.reshape(6, 4).T),
    "array interface": lambda: Interface(VALUES.copy()),
    "__array__": lambda: OnlyArray(VALUES.copy()),
    "memoryview": lambda: memoryview(VALUES.copy()),
    "read-only memoryview": lambda: memoryview(VALUES.copy()).toreadonly(),
    "memoryview of rows reversed": lambda: memoryview(VALUES[::-1]),
    "ctypes": lambda: in_ctypes(VALUES),
    "list": lambda: F64.tolist(),
    "tuple of lists of scalars": lambda: tuple(list(row) for row in VALUES),
}
GOOD_OF_OTHER_SHAPES = {
    "0-d": lambda: np.array(1.5, np.float32),
    "0-d, read-only": lambda: frozen(np.array(1.5)),
    "0-d, big-endian": lambda: np.array(1.5, ">f8"),
    "NumPy scalar": lambda: np.float32(1.5),
    "bfloat16 scalar": lambda: ml_dtypes.bfloat16(1.5),
    "Python float": lambda: 1.5,
    "empty": lambda: np.zeros(0, np.float32),
    "empty rows": lambda: np.zeros((0, 6), np.float64),
    "empty columns": lambda: np.zeros((4, 0, 6), np.float16),
    "empty, Fortran, big-endian": lambda: np.zeros((3, 0), ">f4", order="F"),
    "empty with strides": lambda: np.zeros((8, 8), np.float32)[4:4, ::2],
    "empty list": list,
    "one element with odd strides": lambda: np.lib.stride_tricks.as_strided(np.ones(1, np.float32), (1, 1), (3, 5)),
    "many axes": lambda: np.ones((1,) * 30 + (3,), np.float32),
    "many axes, transposed": lambda: np.arange(2.0**11).reshape((2,) * 11).T,
    "array.array": lambda: array.array("d", range(20)),
    "a line": lambda: VALUES.ravel(),
    "a line, reversed and misaligned": lambda: misaligned(VALUES.ravel())[::-1],
}
DTYPE = r"^(x|a|new) must be an array of float16, bfloat16, float32 or float64, got dtype "
USABLE = r"^(x|a|new) must be usable as an array, got "


class Raises:
    """An object whose __array__ raises."""

    shape = (4, 6)

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise ValueError("not today")


class Lies(Raises):
    """An object whose __array__ returns a list."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return [1.0]


class NoCapsule(Dlpack):
    """An object whose __dlpack__ returns a string."""

    def __dlpack__(self, **keywords: Any) -> Any:
        return "capsule"


def released() -> memoryview:
    view = memoryview(VALUES.copy())
    view.release()
    return view


BAD_DTYPES = (
    *("i1", "u1", "i2", "i4", "i8", "u8", "?", "F", "D", "g", "G", "O", "M8[s]", "m8[s]", "U3", "S3", "V4"),
    *([("a", "f4")], [("a", "f4"), ("b", "f4")], ml_dtypes.float8_e5m2, ml_dtypes.int4, ">i4", ">f16"),
)
BAD_X = {
    **{f"array of {np.dtype(dtype)}": (lambda d=dtype: np.zeros((4, 6), d), TypeError, DTYPE) for dtype in BAD_DTYPES},
    "list of ints": (lambda: [[1, 2]], TypeError, DTYPE),
    "list of strings": (lambda: ["1.0"], TypeError, DTYPE),
    "list of None": (lambda: [None], TypeError, DTYPE),
    "ragged list": (lambda: [[1.0], [1.0, 2.0]], TypeError, USABLE),
    "dict": (lambda: {"x": 1.0}, TypeError, DTYPE),
    "set": (lambda: {1.0}, TypeError, DTYPE),
    "string": (lambda: "1.0", TypeError, DTYPE),
    "bytes": (lambda: b"1.0 ", TypeError, DTYPE),
    "bytearray": (lambda: bytearray(8), TypeError, DTYPE),
    "None": (lambda: None, TypeError, DTYPE),
    "int": (lambda: 3, TypeError, DTYPE),
    "huge int": (lambda: HUGE, TypeError, DTYPE),
    "bool": (lambda: True, TypeError, DTYPE),
    "complex": (lambda: 1j, TypeError, DTYPE),
    "Fraction": (lambda: Fraction(1, 2), TypeError, DTYPE),
    "a type": (lambda: np.ndarray, TypeError, DTYPE),
    "a function": (lambda: len, TypeError, DTYPE),
    "an iterator": (lambda: iter([1.0]), TypeError, DTYPE),
    "MaskedArray of ints": (lambda: np.ma.array([1, 2]), TypeError, DTYPE),
    "matrix of ints": (lambda: np.asmatrix([[1, 2]]), TypeError, DTYPE),
    "record array": (lambda: np.rec.array([(1.0,)], [("a", "f4")]), TypeError, DTYPE),
    "DLPack of ints": (lambda: Dlpack(np.arange(3)), TypeError, DTYPE),
    "DLPack on another device": (lambda: Dlpack(VALUES.copy(), (2, 0)), ValueError, r"^(x|a|new) must be on the CPU"),
    "DLPack without a capsule": (lambda: NoCapsule(VALUES.copy()), TypeError, USABLE),
    "released memoryview": (released, TypeError, USABLE),
    "__array__ that fails": (Raises, TypeError, USABLE),
    "__array__ that lies": (Lies, TypeError, USABLE),
}


def with_x(calls: dict[str, Any]) -> dict[str, Any]:
    of_x = {name: lambda x, rng, call=call: call(x, P, rng, None) for name, call in calls.items()}
    # A generator advances when a layer is created with it, whatever the layer is called with.
    of_layers = {
        name: lambda x, rng, call=call: call(x, P, rng if isinstance(rng, cd.Stream) else cd.Stream(1))
        for name, call in OF_LAYERS.items()
    }
    return {**of_x, **of_layers}


# Calls that use x only as their argument, so that the library is the first to see an invalid x.
X_ALONE = {
    **{name: with_x(OF_A_MATRIX)[name] for name in ("dropout", "relu_dropout", "alpha_dropout", "gaussian_noise")},
    **{name: with_x({})[name] for name in ("Dropout", "ReLUDropout", "AlphaDropout", "GaussianNoise")},
    "Mask.apply": lambda x, rng: cd.Mask(7, 0, P, (4, 6)).apply(x),
    "Noise.add": lambda x, rng: cd.Noise(7, 0, P, (4, 6)).add(x),
}
X_ROWS = {
    **{f"x {name}": Row(lambda make=make: (make(),), with_x(OF_A_MATRIX)) for name, make in GOOD_MATRICES.items()},
    **{
        f"x {name}": Row(lambda make=make: (make(),), without(with_x(OF_ANY_SHAPE), "FeatureDropout", "DropPath"))
        for name, make in GOOD_OF_OTHER_SHAPES.items()
    },
    **{f"x {name}": Row(lambda make=make: (make(),), X_ALONE, *rest) for name, (make, *rest) in BAD_X.items()},
}

# ---- arrays that are written to -------------------------------------------------------------------------------------


def nothing(a: np.ndarray) -> np.ndarray:
    """Return an output array filled with an arbitrary number."""
    return np.full_like(a, 7, subok=False)


# Functions from values to (x, out).
GOOD_OUT = {
    "x itself": lambda v: (v, v),
    "apart": lambda v: (v, nothing(v)),
    "Fortran": lambda v: (v, np.asfortranarray(nothing(v))),
    "x itself, Fortran": lambda v: [np.asfortranarray(v)] * 2,
    "x itself, reversed": lambda v: [v[::-1]] * 2,
    "another view of the same": lambda v: (v, v.view()),
    "rows reversed": lambda v: (v, nothing(v)[::-1]),
    "every other column": lambda v: (v, every_other(nothing(v))),
    "the columns between x's": lambda v: (lambda m: (m[:, ::2], m[:, 1::2]))(np.repeat(v, 2, axis=1)),
    "the next rows of the same buffer": lambda v: (lambda m: (m[:4], m[4:]))(np.tile(v, (2, 1))),
    "big-endian": lambda v: (v, nothing(v).astype(">f4")),
    "x itself, big-endian": lambda v: [v.astype(">f4")] * 2,
    "big-endian x": lambda v: (v.astype(">f4"), nothing(v)),
    "misaligned": lambda v: (v, misaligned(nothing(v))),
    "x itself, misaligned": lambda v: [misaligned(v)] * 2,
    "memory map": lambda v: (v, mapped(nothing(v))),
    "field of a structured array": lambda v: (v, a_field(nothing(v))),
    "matrix": lambda v: (v, np.asmatrix(nothing(v))),
    "MaskedArray": lambda v: (v, np.ma.array(nothing(v))),
    "subclass": lambda v: (v, as_subclass(nothing(v))),
    "memoryview": lambda v: (v, memoryview(nothing(v))),
    "ctypes": lambda v: (v, in_ctypes(nothing(v))),
    "array interface": lambda v: (v, Interface(nothing(v))),
    "for a broadcast x": lambda v: (np.broadcast_to(v[0], (4, 6)), nothing(v)),
    "for a read-only x": lambda v: (frozen(v), nothing(v)),
    "for a list": lambda v: (v.astype(np.float64).tolist(), nothing(v.astype(np.float64))),
}
PARTLY = r"^out must be (x|a|new) itself or apart from it, got an out that partly overlaps"
ITSELF, SHAPE = "^out must not overlap itself, got strides", r"^out must have the shape of (x|a|new), got out of "
OUT_DTYPE, WRITABLE = r"^out must have the dtype of (x|a|new), got out of ", "^out must be writable, got a read-only "
SHARES, OUT_USABLE = (
    "^out must be an array, got .*, which shares its memory by no protocol",
    "^out must be usable as an",
)


def shifted(v: np.ndarray, n_bytes: int) -> tuple[np.ndarray, np.ndarray]:
    memory = np.zeros(v.nbytes + abs(n_bytes), np.uint8)
    low, high = (memory[at : at + v.nbytes].view(v.dtype).reshape(v.shape) for at in (0, abs(n_bytes)))
    (low if n_bytes > 0 else high)[...] = v
    return (low, high) if n_bytes > 0 else (high, low)


def strided(v: np.ndarray, strides: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    return v, np.lib.stride_tricks.as_strided(np.full(60, 7, np.float32), v.shape, strides)


BAD_OUT = {
    **{
        f"shifted by {n} bytes": (lambda v, n=n: shifted(v, n), ValueError, PARTLY) for n in (4, -4, 1, -1, 24, 92, -92)
    },
    "rows reversed in place": (lambda v: (v, v[::-1]), ValueError, PARTLY),
    "columns reversed in place": (lambda v: (v, v[:, ::-1]), ValueError, PARTLY),
    "reversed x, in place": (lambda v: (v[::-1], v), ValueError, PARTLY),
    "transposed in place": (lambda v: (v[:4, :4], v[:4, :4].T), ValueError, PARTLY),
    "Fortran in place": (lambda v: (v, v.ravel().reshape((4, 6), order="F")), ValueError, PARTLY),
    "every other column, shifted": (lambda v: windows(v), ValueError, PARTLY),
    "stride 0 along rows": (lambda v: strided(v, (0, 4)), ValueError, ITSELF),
    "stride 0 along columns": (lambda v: strided(v, (24, 0)), ValueError, ITSELF),
    "overlapping rows": (lambda v: strided(v, (4, 4)), ValueError, ITSELF),
    "elements that overlap": (lambda v: strided(v, (24, 2)), ValueError, ITSELF),
    "read-only": (lambda v: (v, frozen(nothing(v))), ValueError, WRITABLE),
    "x itself, read-only": (lambda v: [frozen(v)] * 2, ValueError, WRITABLE),
    "read-only memory map": (lambda v: (v, mapped(nothing(v), mmap.ACCESS_READ)), ValueError, WRITABLE),
    "read-only memoryview": (lambda v: (v, memoryview(nothing(v)).toreadonly()), ValueError, WRITABLE),
    "broadcast": (lambda v: (v, np.broadcast_to(np.float32(7), (4, 6))), ValueError, WRITABLE),
    "bytes": (lambda v: (v, memoryview(v.tobytes()).cast("f", (4, 6))), ValueError, WRITABLE),
    "read-only interface": (lambda v: (v, Interface(frozen(v))), ValueError, WRITABLE),
    **{
        f"of shape {shape}": (lambda v, s=shape: (v, np.full(s, 7, np.float32)), ValueError, SHAPE)
        for shape in ((6, 4), (24,), (1, 4, 6), (4, 6, 1), (1, 6), (4, 1), (3, 6), (5, 6), (), (0,), (0, 6), (2, 2, 6))
    },
    **{
        f"of dtype {dtype}": (lambda v, d=dtype: (v, np.ones((4, 6), d)), ValueError, OUT_DTYPE)
        for dtype in (
            "f8",
            "f2",
            "i4",
            "u4",
            "?",
            "F",
            "g",
            "O",
            "S4",
            "M8[s]",
            [("a", "f4")],
            ml_dtypes.bfloat16,
            ">f8",
        )
    },
    **{
        f"a {type(out).__name__} {i}": (lambda v, out=out: (v, out), TypeError, SHARES)
        for i, out in enumerate(
            ([[0.0] * 6] * 4, ((0.0,) * 6,) * 4, "out", 3, HUGE, 0.5, np.float32(1), {}, object, len, ...)
        )
    },
    "released memoryview": (lambda v: (v, released()), TypeError, OUT_USABLE),
    "DLPack on another device": (lambda v: (v, Dlpack(nothing(v), (2, 0))), ValueError, "^out must be on the CPU"),
    "DLPack that only copies": (lambda v: (v, CopyingDlpack(nothing(v))), (TypeError, ValueError), "^out must be "),
    "DLPack without a capsule": (lambda v: (v, NoCapsule(nothing(v))), TypeError, OUT_USABLE),
    "__array__ alone": (lambda v: (v, OnlyArray(nothing(v))), TypeError, SHARES),
}


def windows(v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return two strided views of one buffer that share some elements."""
    memory = np.zeros((4, 24), np.float32)
    memory[:, :12:2] = v
    return memory[:, :12:2], memory[:, 6:18:2]


WITH_OUT = without(OF_A_MATRIX, "gaussian_dropout")
CALLS_WITH_OUT = {name: lambda x, out, rng, call=call: call(x, P, rng, out) for name, call in WITH_OUT.items()}
BAD_OUT_ROWS = {
    f"out {name}": Row(lambda make=make: tuple(make(VALUES.copy())), CALLS_WITH_OUT, *rest)
    for name, (make, *rest) in BAD_OUT.items()
}

# ---- other arguments ------------------------------------------------------------------------------------------------


def other(call: Callable[..., Any], error: type[Exception], message: str) -> Row:
    """Return a row with one call, which takes only rng."""
    return Row(tuple, {"call": call}, error, message)


BIAS = np.ones(6, np.float32)
BUFFER = np.zeros((5, 6), np.float32)
OTHERS = {
    "shape -1": other(lambda rng: cd.draw_mask(-1, P, rng=rng), ValueError, "^shape must be"),
    "shape of a huge negative": other(lambda rng: cd.draw_mask(-HUGE, P, rng=rng), ValueError, "^shape must be"),
    "shape of floats": other(lambda rng: cd.draw_mask((2.0, 3), P, rng=rng), TypeError, "^shape must be"),
    "shape of a string": other(lambda rng: cd.draw_mask("23", P, rng=rng), TypeError, "^shape must be"),
    "shape None": other(lambda rng: cd.draw_mask(None, P, rng=rng), TypeError, "^shape must be"),
    "shape of an array": other(lambda rng: cd.draw_mask(np.array([2, 3]), P, rng=rng), TypeError, "^shape must be"),
    "shape of 65 axes": other(lambda rng: cd.draw_mask((1,) * 65, P, rng=rng), ValueError, "^shape must be at most 64"),
    "shape beyond the stream": other(
        lambda rng: cd.draw_mask((2**63, 3), P, rng=rng), OverflowError, "^the stream must"
    ),
    "shape huge": other(lambda rng: cd.draw_mask(HUGE, P, rng=rng), OverflowError, "^the stream must"),
    "noise's shape -1": other(lambda rng: cd.draw_noise(-1, P, rng=rng), ValueError, "^shape must be"),
    "noise's shape huge": other(lambda rng: cd.draw_noise((2**63, 3), P, rng=rng), OverflowError, "^the stream must"),
    "std above 1e37": other(lambda rng: cd.draw_noise(3, 1e38, rng=rng), ValueError, r"^std must be in \[0, 1e37\]"),
    "std negative": other(lambda rng: cd.gaussian_noise(VALUES, -1e-9, rng=rng), ValueError, r"^std must be in \[0"),
    "std huge": other(lambda rng: cd.GaussianNoise(HUGE, rng=rng), ValueError, "^std must be finite"),
    "p = 1 of gaussian dropout": other(lambda rng: cd.gaussian_dropout(VALUES, 1.0, rng=rng), ValueError, "^p must be"),
    **{
        f"shared_axes {axes!r:.20}": other(
            lambda rng, axes=axes: cd.dropout(VALUES, P, rng=rng, shared_axes=axes), error, "^shared_axes must"
        )
        for axes, error in (
            *((2, ValueError), (-3, ValueError), ((0, 0), ValueError), ((0, -2), ValueError), (2**70, ValueError)),
            *(("0", TypeError), (0.0, TypeError), (None, TypeError), ((None,), TypeError), (np.array([0]), TypeError)),
        )
    },
    **{
        f"rng {type(rng).__name__} {i}": other(
            lambda _, rng=rng: cd.dropout(VALUES, P, rng=rng), TypeError, "^rng must be None, an int, a SeedSequence"
        )
        for i, rng in enumerate(
            ("seed", 1.5, True, np.bool_(True), object(), (1, 2), [1], {}, np.random, np.float64(1), np.array(1), b"1")
        )
    },
    "rng -1": other(lambda _: cd.dropout(VALUES, P, rng=-1), ValueError, "^rng must be 0 or greater .*, got -1$"),
    "rng of a huge negative": other(lambda _: cd.Stream(-HUGE), ValueError, "^rng must be 0 or greater .* bits$"),
    "rng a RandomState": other(lambda _: cd.Stream(np.random.RandomState(0)), TypeError, "^rng must be"),
    "seed a Stream": other(lambda _: cd.Stream(cd.Stream(1)), TypeError, "^seed must not be a Stream"),
    "seed of a foreign entropy": other(lambda _: cd.Stream(np.random.SeedSequence("1")), TypeError, "entropy"),
    "spawn -1": other(lambda _: cd.Stream(1).spawn(-1), ValueError, r"^n must be in \[0, 4294967296\], got -1"),
    "spawn huge": other(lambda _: cd.Stream(1).spawn(HUGE), ValueError, r"^n must be in \[0, 4294967296\]"),
    "spawn huge negative": other(lambda _: cd.Stream(1).spawn(-HUGE), ValueError, r"^n must be in \[0, 4294967296\]"),
    "spawn 1.0": other(lambda _: cd.Stream(1).spawn(1.0), TypeError, "^n must be an integer"),
    "spawn True": other(lambda _: cd.Stream(1).spawn(True), TypeError, "^n must be an integer"),
    "fold_in None": other(lambda _: cd.Stream(1).fold_in(None), TypeError, "^identifier must be"),
    "fold_in 1.0": other(lambda _: cd.Stream(1).fold_in(1.0), TypeError, "^identifier must be"),
    "fold_in True": other(lambda _: cd.Stream(1).fold_in(True), TypeError, "^identifier must be"),
    "fold_in -1": other(lambda _: cd.Stream(1).fold_in(-1), ValueError, "^identifier must be 0 or greater"),
    "fold_in huge negative": other(lambda _: cd.Stream(1).fold_in(-HUGE), ValueError, "^identifier must be 0 or"),
    "fold_in bytearray": other(lambda _: cd.Stream(1).fold_in(bytearray(b"1")), TypeError, "^identifier must be"),
    **{
        f"key {key!r:.20}": other(lambda _, key=key: cd.Mask(key, 0, P, 3), error, "^key must be")
        for key, error in (
            (True, TypeError),
            (-1, ValueError),
            (2**128, ValueError),
            (1.0, TypeError),
            (None, TypeError),
            ("1", TypeError),
        )
    },
    "key huge": other(lambda _: cd.Noise(HUGE, 0, P, 3), ValueError, r"^key must be in \[0, "),
    "start huge": other(lambda _: cd.Mask(0, HUGE, P, 3), ValueError, r"^start must be in \[0, "),
    "start -1": other(lambda _: cd.Noise(0, -1, P, 3), ValueError, "^start must be"),
    "start in the last block": other(lambda _: cd.Mask(0, 2**64 - 1, P, ()), ValueError, "^start must be"),
    "start too near the end": other(lambda _: cd.Mask(0, 2**64 - 5000, P, 1000), OverflowError, "^the stream must"),
    "strides too few": other(lambda _: cd.Mask(0, 0, P, (2, 3), (), (3,)), ValueError, "^strides must"),
    "strides 0": other(lambda _: cd.Mask(0, 0, P, (2, 3), (), (0, 1)), ValueError, "^strides must"),
    "strides that overlap": other(lambda _: cd.Mask(0, 0, P, (2, 3), (), (2, 1)), ValueError, "^strides must"),
    "strides negative": other(lambda _: cd.Mask(0, 0, P, (2, 3), (), (-3, -1)), ValueError, "^strides must"),
    "strides huge": other(lambda _: cd.Mask(0, 0, P, (2, 3), (), (2**70, 1)), OverflowError, "^the stream must"),
    "strides of floats": other(lambda _: cd.Mask(0, 0, P, (2, 3), (), (3.0, 1)), TypeError, "^strides must"),
    "strides 1": other(lambda _: cd.Mask(0, 0, P, (2, 3), (), 1), TypeError, "^strides must"),
    "index of an int": other(lambda _: cd.Mask(0, 0, P, (2, 3))[0], TypeError, "^a mask's index must"),
    "index of a negative step": other(lambda _: cd.Mask(0, 0, P, 9)[::-1], ValueError, "^a mask's slice must"),
    "too many slices": other(lambda _: cd.Mask(0, 0, P, 9)[:, :], IndexError, "^a mask of shape"),
    **{
        f"{name} {number!r}": other(
            lambda _, name=name, number=number: cd.Mask(0, 0, P, (4, 6)).apply(VALUES, **{name: number}),
            error,
            f"^{name} must",
        )
        for name in ("scale", "shift", "fill")
        for number, error in (
            (np.nan, ValueError),
            (np.inf, ValueError),
            ("1", TypeError),
            (1j, TypeError),
            ([1], TypeError),
        )
    },
    "a of another shape": other(
        lambda _: cd.Mask(0, 0, P, (6, 4)).apply(VALUES), ValueError, "^a must have the mask's"
    ),
    "a of noise's other shape": other(
        lambda _: cd.Noise(0, 0, P, 24).add(VALUES), ValueError, "^a must have the noise's"
    ),
    "dtype of scaled": other(lambda _: cd.Mask(0, 0, P, 3).scaled("i4"), TypeError, "^dtype must be float16"),
    "bias too short": other(
        lambda rng: cd.bias_relu_dropout(VALUES, BIAS[1:], P, rng=rng), ValueError, "^bias must have"
    ),
    "bias of two axes": other(
        lambda rng: cd.bias_relu_dropout(VALUES, VALUES, P, rng=rng), ValueError, "^bias must have"
    ),
    "bias float64": other(
        lambda rng: cd.bias_relu_dropout(VALUES, BIAS.astype("f8"), P, rng=rng), ValueError, "^bias must have the dtype"
    ),
    "bias int": other(
        lambda rng: cd.bias_relu_dropout(VALUES, [1] * 6, P, rng=rng), TypeError, "^bias must be an array"
    ),
    "bias None": other(lambda rng: cd.bias_relu_dropout(VALUES, None, P, rng=rng), TypeError, "^bias must be an array"),
    "bias a string": other(
        lambda rng: cd.bias_dropout_add(VALUES, "b", VALUES, P, rng=rng), TypeError, "^bias must be an"
    ),
    "residual of another shape": other(
        lambda rng: cd.dropout_add(VALUES, VALUES.T, P, rng=rng), ValueError, "^residual must have the shape"
    ),
    "residual of another dtype": other(
        lambda rng: cd.dropout_add(VALUES, F64, P, rng=rng), ValueError, "^residual must have the dtype"
    ),
    "residual None": other(
        lambda rng: cd.dropout_add(VALUES, None, P, rng=rng), TypeError, "^residual must be an array"
    ),
    "previous None": other(lambda rng: cd.zoneout(VALUES, None, P, rng=rng), TypeError, "^previous must be an array"),
    "y None": other(lambda rng: cd.relu_dropout_backward(VALUES, None, P), TypeError, "^y must be an array"),
    "previous a string": other(
        lambda rng: cd.zoneout(VALUES, "s", P, rng=rng), TypeError, "^previous must be an array"
    ),
    "out that overlaps residual": other(
        lambda rng: cd.dropout_add(VALUES, BUFFER[1:], P, rng=rng, out=BUFFER[:4]), ValueError, "^out must be residual"
    ),
    "out that overlaps previous": other(
        lambda rng: cd.zoneout(VALUES, BUFFER[1:], P, rng=rng, out=BUFFER[:4]), ValueError, "^out must be previous"
    ),
    "out that overlaps y": other(
        lambda rng: cd.relu_dropout_backward(VALUES, BUFFER[1:], P, out=BUFFER[:4]), ValueError, "^out must be y"
    ),
    "out that overlaps bias": other(
        lambda rng: cd.bias_relu_dropout(VALUES, BUFFER[2], P, rng=rng, out=BUFFER[:4]),
        ValueError,
        "^out must be apart",
    ),
    "out with strides that overlaps bias": other(
        lambda rng: cd.bias_dropout_add(VALUES, BUFFER[0], VALUES, P, rng=rng, out=BUFFER[3::-1]),
        ValueError,
        "^out must be apart from bias",
    ),
    "gradient of another shape": other(
        lambda rng: cd.relu_dropout_backward(VALUES, VALUES.T, P), ValueError, "^y must have the shape of dy"
    ),
    "weight of ints": other(
        lambda rng: cd.drop_connect(VALUES, np.ones((6, 3), int), rng=rng), TypeError, "^weight must"
    ),
    "weight of one axis": other(lambda rng: cd.drop_connect(VALUES, BIAS, rng=rng), ValueError, "^weight must"),
    "weight that does not fit": other(lambda rng: cd.drop_connect(VALUES, VALUES, rng=rng), ValueError, "^x must have"),
    "n_in 0": other(lambda rng: cd.DropConnect(0, 3, rng=rng), ValueError, "^n_in must be at least 1"),
    "n_out 1.0": other(lambda rng: cd.FeatureDropoutLinear(3, 1.0, rng=rng), TypeError, "^n_out must be an integer"),
    "n_out huge negative": other(
        lambda rng: cd.DropConnect(3, -HUGE, rng=rng), ValueError, "^n_out must be at least 1"
    ),
    "time_axis 2": other(lambda rng: cd.locked_dropout(VALUES, time_axis=2, rng=rng), ValueError, "^time_axis must be"),
    "time_axis None": other(lambda rng: cd.LockedDropout(time_axis=None, rng=rng), TypeError, "^time_axis must be"),
    "block_size 0": other(
        lambda rng: cd.drop_block2d(np.ones((2, 5, 5)), block_size=0, rng=rng), ValueError, "^block_size must be in"
    ),
    "block_size huge": other(
        lambda rng: cd.drop_block2d(np.ones((2, 5, 5)), block_size=HUGE, rng=rng), ValueError, "^block_size must be in"
    ),
    "rescale both": other(lambda rng: cd.Dropout(rescale="both", rng=rng), ValueError, "^rescale must be"),
    "backward first": other(lambda rng: cd.Dropout(P).backward(VALUES), RuntimeError, "^backward must follow"),
}

# ---- the table ------------------------------------------------------------------------------------------------------

ROWS = {**P_ROWS, **X_ROWS, **BAD_OUT_ROWS, **OTHERS}


def test_the_table_has_its_rows():
    n_written = len(GOOD_P) + len(BAD_P) + len(ABOVE_ONE) + len(X_ROWS) + len(BAD_OUT) + len(OTHERS)
    assert len(ROWS) == n_written >= 400  # no two rows have the same name


@pytest.mark.promise("bad-arguments")
@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_an_argument_gives_the_plain_copys_answer_or_its_own_error(row):
    before = VALUES.copy(), BUFFER.copy()
    for name, call in row.calls.items():
        if row.error is None:
            check_answer(row, call)
        else:
            check_error(row, name, call)
    assert all(np.array_equal(now, then) for now, then in zip((VALUES, BUFFER), before, strict=True))


@pytest.mark.parametrize("make", GOOD_OUT.values(), ids=GOOD_OUT)
def test_an_out_gets_the_answer_of_a_new_array(make):
    for name, call in CALLS_WITH_OUT.items():
        x, out = make(VALUES.copy())
        expected, before = bits(call(plain(x), None, 1)), bits(x)
        is_in_place = np.shares_memory(as_array(x, "x"), as_array(out, "out"))
        counts = sys.getrefcount(x), sys.getrefcount(out)
        assert call(x, out, 1) is out, name
        assert (sys.getrefcount(x), sys.getrefcount(out)) == counts, name
        assert bits(out) == expected, name
        assert is_in_place or bits(x) == before, name


# ---- arrays of any layout, and calls of any arguments ---------------------------------------------------------------

FLOATS = (np.float32, np.float64, np.float16, ml_dtypes.bfloat16)


@st.composite
def layouts(draw: Any) -> tuple[np.ndarray, np.ndarray]:
    """Draw two arrays of one shape and dtype, of any layout, in one buffer."""
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=9))
    dtype = np.dtype(draw(st.sampled_from(FLOATS)))
    n_bytes = 2000 * dtype.itemsize
    memory = np.frombuffer(np.random.default_rng(2).bytes(n_bytes), np.uint8).copy()
    memory.view(dtype)[...] = np.random.default_rng(3).standard_normal(2000).astype(dtype)

    def view() -> np.ndarray:
        steps = draw(st.lists(st.integers(1, 3), min_size=len(shape), max_size=len(shape)))
        order = draw(st.permutations(range(len(shape))))
        strides, reach = [0] * len(shape), dtype.itemsize
        for axis in order:
            strides[axis] = reach * steps[axis]
            reach = strides[axis] * max(shape[axis], 1)
        if draw(st.integers(0, 9)) == 0 and shape:
            strides[order[0]] = 0
        offset = draw(st.integers(0, 40))
        if offset + reach > n_bytes:
            strides, offset = [0] * len(shape), 0
        a = np.ndarray(shape, dtype, memory.data, offset, strides)
        for axis in range(len(shape)):
            if draw(st.booleans()):
                a = np.flip(a, axis)
        return a.view(dtype.newbyteorder(draw(st.sampled_from("==>"))))

    return view(), view()


def check_any_layout(arrays: tuple[np.ndarray, np.ndarray], p: float, name: str) -> None:
    """Check that a call with any out gives the plain result, or an error that leaves everything unchanged."""
    x, out = arrays
    call = OF_ANY_SHAPE[name]
    with np.errstate(all="ignore"):
        before, expected, stream = x.base.tobytes(), bits(call(plain(x), p, 1, None)), cd.Stream(1)
        if name not in DRAWN_BY_HAND:
            assert bits(call(x, p, stream, None)) == expected
            stream = cd.Stream(1)
        error, message = error_of(call, x, p, stream, out)
    if error is None:
        assert bits(out) == expected
    else:
        assert error is ValueError
        assert re.match("out must (be .* itself or apart from it|not overlap itself|be writable)", message), message
        assert np.shares_memory(x, out) or 0 in out.strides
        assert x.base.tobytes() == before
        assert stream.position == 0


ANY_LAYOUT = given(layouts(), st.floats(0, 1), st.sampled_from(sorted(OF_ANY_SHAPE)))


@settings(max_examples=300, deadline=None)
@ANY_LAYOUT
def test_any_layout_and_any_out_give_the_plain_answer_or_an_error(arrays, p, name):
    check_any_layout(arrays, p, name)


@pytest.mark.deep
@settings(max_examples=10_000, deadline=None)
@ANY_LAYOUT
def test_ten_thousand_layouts_give_the_plain_answer_or_an_error(arrays, p, name):
    check_any_layout(arrays, p, name)


ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.complex_numbers(),
    st.fractions(),
    st.decimals(allow_nan=True),
    st.text(max_size=5),
    st.binary(max_size=5),
    st.lists(st.one_of(st.integers(), st.floats(), st.none()), max_size=4),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
    hnp.arrays(hnp.scalar_dtypes(), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)),
    st.sampled_from([cd.Stream(1), cd.Mask(0, 0, 0.5, 3), cd.dropout, object(), np.float32, ...]),
)
# Name of an argument -> a call in which this argument may be anything and the others are valid.
ANY_ARGUMENT = {
    "x": lambda a, rng: cd.dropout(a, P, rng=rng),
    "p": lambda a, rng: cd.dropout(VALUES, a, rng=rng),
    "out": lambda a, rng: cd.dropout(VALUES, P, rng=rng, out=a),
    "shared_axes": lambda a, rng: cd.dropout(VALUES, P, rng=rng, shared_axes=a),
    "shape": lambda a, rng: cd.draw_mask(a, P, rng=rng),
    "std": lambda a, rng: cd.gaussian_noise(VALUES, a, rng=rng),
    "bias": lambda a, rng: cd.bias_relu_dropout(VALUES, a, P, rng=rng),
    "residual": lambda a, rng: cd.dropout_add(VALUES, a, P, rng=rng),
    "previous": lambda a, rng: cd.zoneout(VALUES, a, P, rng=rng),
    "scale": lambda a, rng: cd.Mask(0, 0, P, (4, 6)).apply(VALUES, scale=a),
    "key": lambda a, rng: cd.Mask(a, 0, P, 3),
    "start": lambda a, rng: cd.Noise(0, a, P, 3),
    "identifier": lambda a, rng: rng.fold_in(a),
    "time_axis": lambda a, rng: cd.locked_dropout(VALUES, time_axis=a, rng=rng),
    "block_size": lambda a, rng: cd.drop_block2d(np.ones((2, 5, 5)), block_size=a, rng=rng),
}


def check_any_argument(name: str, a: Any) -> None:
    """Check that a call with any value of one argument gives a result, or an error that names it and draws nothing."""
    stream = cd.Stream(1)
    before = held(a)
    with np.errstate(all="ignore"):
        error, message = error_of(ANY_ARGUMENT[name], a, stream)
    if error is not None:
        assert issubclass(error, TypeError | ValueError | OverflowError), f"{error}: {message}"
        # The error for a shape beyond the end of the stream names x or the mask instead.
        assert re.search(rf"\b{name}\b", message) or (error, name) == (OverflowError, "shape"), f"{error}: {message}"
        assert stream.position == 0
    if name != "out" or error is not None:
        assert held(a) == before


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(ANY_ARGUMENT)), ANYTHING)
def test_an_argument_of_any_kind_gives_an_answer_or_an_error_that_names_it(name, a):
    check_any_argument(name, a)


@pytest.mark.deep
@settings(max_examples=10_000, deadline=None)
@given(st.sampled_from(sorted(ANY_ARGUMENT)), ANYTHING)
def test_ten_thousand_arguments_of_any_kind_give_an_answer_or_an_error(name, a):
    check_any_argument(name, a)
