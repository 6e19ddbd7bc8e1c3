"""Input of every kind, one row each: the result is that of a plain contiguous copy, or an error names the argument.

After each row, the library holds no reference to the arguments. After an error, the arguments and the stream or
generator are unchanged.
"""

import array
import mmap
import re
import sys
import warnings
from decimal import Decimal
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from argument_checks import HUGE, OF_A_MATRIX, OF_ANY_SHAPE, OF_LAYERS, VALUES, P, Row, bits, check_row, like, plain
from array_objects import (
    CopyingDlpack,
    Dlpack,
    Interface,
    Lies,
    NoCapsule,
    OnlyArray,
    Raises,
    a_field,
    as_subclass,
    every_other,
    frozen,
    in_ctypes,
    mapped,
    misaligned,
    released,
)
from conftest import measures_the_process

import cdropout as cd
from cdropout._kernels import as_array
from cdropout.checks import shown

pytestmark = [
    measures_the_process,  # reference counts
    pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Warning. converting a masked element to nan"),
]

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
    *(0, 1, 0.0, -0.0, 1.0, 0.5, 5e-324, 2.0**-49, 1e-12, 1 - 2**-53),
    *(np.float16(0.5), np.float32(0.1), np.float64(0.1), np.longdouble(0.1)),
    *(kind(1) for kind in (np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64)),
    *(np.intp(0), np.ulonglong(1), ml_dtypes.bfloat16(0.25), ml_dtypes.float8_e5m2(0.5)),
    *(np.array(0.5), np.array(0.5, ">f8"), np.array(1), np.array(0.5, np.float16)),
    *(np.broadcast_to(np.float32(0.5), ()), np.ma.array(0.5), Fraction(1, 3), Decimal("0.1"), Decimal("1E-400")),
    *(Float(0.5), Says(0.5), Index()),
)
IN_RANGE, REAL = r"^(p|std) must be (in \[0, 1|finite).*, got ", r"^(p|std) must be a real number, got "
BAD_P = (
    *((p, ValueError) for p in (float("nan"), float("inf"), -float("inf"), -1e-9, -5e-324, -1)),
    *((p, ValueError) for p in (np.float64("nan"), np.float32("inf"), np.float16("-inf"), np.longdouble(-1))),
    *((p, ValueError) for p in (np.int8(-1), np.int64(-(2**63)), np.array(-0.5), np.array(np.nan))),
    *((p, ValueError) for p in (-HUGE, Fraction(-1, 3), Decimal("NaN"), Decimal("-Infinity"), Says(-2.0))),
    *((p, ValueError) for p in (HUGE, Fraction(10**400), np.longdouble("inf"), ml_dtypes.bfloat16("nan"))),
    *((p, TypeError) for p in (True, False, np.bool_(True), np.bool_(False), np.array(True))),
    *((p, TypeError) for p in ("0.5", "", b"0.5", bytearray(b"0.5"), memoryview(b"0.5"), None, ..., NotImplemented)),
    *((p, TypeError) for p in (0.5j, np.complex64(0.5), np.complex128(0.5), [0.5], (0.5,), {0.5}, {0.5: 1}, [])),
    *((p, TypeError) for p in (np.array([0.5]), np.array([]), np.array([[0.5]]), np.array(0.5, object))),
    *((p, TypeError) for p in (np.array("0.5"), np.array(0.5j), np.str_("0.5"), np.bytes_(b"0.5"))),
    *((p, TypeError) for p in (np.datetime64(0, "s"), np.timedelta64(1, "s"), np.void(b"1"), np.ma.array([0.5]))),
    *((p, TypeError) for p in (float, object(), len, Decimal("sNaN"), Says("0.5"), Says(OverflowError))),
    *((p, TypeError) for p in (Says(ValueError), np.array((0.5,), [("p", "f8")]), range(1), iter([0.5]))),
)
# A standard deviation may be above 1.
ABOVE_ONE = (
    *(1 + 2**-52, 2, 1e37, np.float32(1.5), np.uint64(2**64 - 1), np.longdouble(2), Fraction(3, 2), Decimal("1.1")),
)
TAKES_STD = ("gaussian_noise", "Noise.multiply", "Noise.add", "GaussianNoise")


def without(calls: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: call for name, call in calls.items() if name not in names}


def keeping_out(function: Any, p: Any, rng: Any) -> np.ndarray:
    """Call a function with an out that must not change if the call fails."""
    out = np.full_like(VALUES, 7)
    try:
        return function(VALUES, p, rng=rng, out=out)
    except (TypeError, ValueError):
        assert np.all(out == 7)
        raise


def with_p(calls: dict[str, Any]) -> dict[str, Any]:
    """Return calls as functions of p and rng."""
    of_p = {name: lambda p, rng, call=call: call(VALUES, p, rng, None) for name, call in calls.items()}
    of_layers = {name: lambda p, rng, call=call: call(VALUES, p, rng) for name, call in OF_LAYERS.items()}
    return {
        **of_p,
        **of_layers,
        "dropout with out": lambda p, rng: keeping_out(cd.dropout, p, rng),
        "relu_dropout with out": lambda p, rng: keeping_out(cd.relu_dropout, p, rng),
        "draw_mask": lambda p, rng: cd.draw_mask(50, p, rng=rng).keep(),
        "relu_dropout_backward": lambda p, rng: cd.relu_dropout_backward(VALUES, VALUES, p),
        "drop_connect": lambda p, rng: cd.drop_connect(VALUES, like(VALUES, (6, 3)), p=p, rng=rng),
        "feature_dropout_linear": lambda p, rng: cd.feature_dropout_linear(VALUES, like(VALUES, (6, 3)), p=p, rng=rng),
        "a mask's p": lambda p, rng: np.array(cd.draw_mask(3, p, rng=rng).p),
        "a layer's p": lambda p, rng: np.array(cd.Dropout(p).p),
        "a layer's p, set later": lambda p, rng: setattr(cd.Dropout(0.1), "p", p) or VALUES,
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
            lambda p=p: (p,), CALLS_WITH_P, error, (IN_RANGE if error is ValueError else REAL) + re.escape(shown(p))
        )
        for i, (p, error) in enumerate(BAD_P)
    },
    **{
        f"p = {p!r} ({type(p).__name__}, above 1)": Row(
            lambda p=p: (p,),
            without(CALLS_WITH_P, *TAKES_STD),
            ValueError,
            r"^p must be in \[0, 1\], got " + re.escape(shown(p)),
        )
        for p in ABOVE_ONE
    },
}

# ---- arrays that are read -------------------------------------------------------------------------------------------


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
DTYPE = r"^(x|a|new) must be an array of float16, bfloat16, float32 or float64(, bool or integers)?, got dtype "
USABLE = r"^(x|a|new) must be usable as an array, got "

# On Windows, and on macOS with ARM64, C's long double is a float64.
LONG_DOUBLE = np.dtype(np.longdouble)
OF_LONG_DOUBLE = (LONG_DOUBLE, LONG_DOUBLE.newbyteorder(">")) if LONG_DOUBLE.itemsize > 8 else ()
BAD_DTYPES = (
    *("i1", "u1", "i2", "i4", "i8", "u8", "?", "F", "D", "G", "O", "M8[s]", "m8[s]", "U3", "S3", "V4", ">i4"),
    *([("a", "f4")], [("a", "f4"), ("b", "f4")], ml_dtypes.float8_e5m2, ml_dtypes.int4, *OF_LONG_DOUBLE),
)
BAD_X = {
    **{
        f"array of {np.dtype(dtype)}": (
            lambda d=dtype: np.zeros((4, 6), d),
            TypeError,
            DTYPE + re.escape(str(np.dtype(dtype))),
        )
        for dtype in BAD_DTYPES
    },
    "list of ints": (lambda: [[1, 2]], TypeError, DTYPE),
    "array.array of ints": (lambda: array.array("i", [1]), TypeError, DTYPE + "int32"),
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
    "released memoryview": (released, TypeError, USABLE + "memoryview: .*released"),
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


def of_integers(make: Any) -> tuple[str, ...]:
    """Return the calls that take what `make` returns if it is of bools or integers, which masks apply to."""
    with warnings.catch_warnings(action="ignore"):  # of NumPy, about np.matrix
        try:
            return ("Mask.apply",) if as_array(make(), "x").dtype.kind in "biu" else ()
        except (TypeError, ValueError):
            return ()


X_ROWS = {
    **{f"x {name}": Row(lambda make=make: (make(),), with_x(OF_A_MATRIX)) for name, make in GOOD_MATRICES.items()},
    **{
        f"x {name}": Row(lambda make=make: (make(),), without(with_x(OF_ANY_SHAPE), "FeatureDropout", "DropPath"))
        for name, make in GOOD_OF_OTHER_SHAPES.items()
    },
    **{
        f"x {name}": Row(lambda make=make: (make(),), without(X_ALONE, *of_integers(make)), *rest)
        for name, (make, *rest) in BAD_X.items()
    },
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
PARTLY = r"^out must be (x|a|new) itself or apart from it, got an out that partly overlaps (x|a|new)$"
ITSELF = r"^out must not overlap itself, got strides \(.*\) for shape \(4, 6\)$"
SHAPE = r"^out must have the shape of (x|a|new), got out of \(.*\) for (x|a|new) of \(4, 6\)$"
OUT_DTYPE = r"^out must have the dtype of (x|a|new), got out of "
WRITABLE = r"^out must be writable, got a read-only \w+ for (x|a|new) of shape \(4, 6\)$"
SHARES = "^out must be an array, got .*, which shares its memory by no protocol"
OUT_USABLE = "^out must be usable as an array, got "


def shifted(v: np.ndarray, n_bytes: int) -> tuple[np.ndarray, np.ndarray]:
    memory = np.zeros(v.nbytes + abs(n_bytes), np.uint8)
    low, high = (memory[at : at + v.nbytes].view(v.dtype).reshape(v.shape) for at in (0, abs(n_bytes)))
    (low if n_bytes > 0 else high)[...] = v
    return (low, high) if n_bytes > 0 else (high, low)


def strided(v: np.ndarray, strides: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    return v, np.lib.stride_tricks.as_strided(np.full(60, 7, np.float32), v.shape, strides)


def windows(v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return two strided views of one buffer that share some elements."""
    memory = np.zeros((4, 24), np.float32)
    memory[:, :12:2] = v
    return memory[:, :12:2], memory[:, 6:18:2]


BAD_OUT = {
    **{
        f"shifted by {n} bytes": (lambda v, n=n: shifted(v, n), ValueError, PARTLY) for n in (4, -4, 1, -1, 24, 92, -92)
    },
    "rows reversed in place": (lambda v: (v, v[::-1]), ValueError, PARTLY),
    "columns reversed in place": (lambda v: (v, v[:, ::-1]), ValueError, PARTLY),
    "reversed x, in place": (lambda v: (v[::-1], v), ValueError, PARTLY),
    "transposed in place": (lambda v: (v[:4, :4], v[:4, :4].T), ValueError, PARTLY),
    "Fortran in place": (lambda v: (v, v.ravel().reshape((4, 6), order="F")), ValueError, PARTLY),
    "every other column, shifted": (windows, ValueError, PARTLY),
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
        f"of shape {shape}": (
            lambda v, s=shape: (v, np.full(s, 7, np.float32)),
            ValueError,
            SHAPE.replace(r"\(.*\)", re.escape(str(shape))),
        )
        for shape in ((6, 4), (24,), (1, 4, 6), (4, 6, 1), (1, 6), (4, 1), (3, 6), (5, 6), (), (0,), (0, 6), (2, 2, 6))
    },
    **{
        f"of dtype {dtype}": (
            lambda v, d=dtype: (v, np.ones((4, 6), d)),
            ValueError,
            f"{OUT_DTYPE}{re.escape(str(np.dtype(dtype)))} for ",
        )
        for dtype in (
            *("f8", "f2", "i4", "u4", "?", "F", "g", "O", "S4", "M8[s]", [("a", "f4")], ml_dtypes.bfloat16, ">f8"),
        )
    },
    "array.array of (24,)": (lambda v: (v, array.array("f", v.ravel())), ValueError, SHAPE),
    "memoryviews of one buffer, shifted": (lambda v: map(memoryview, shifted(v, 4)), ValueError, PARTLY),
    **{
        f"a {type(out).__name__} {i}": (
            lambda v, out=out: (v, out),
            TypeError,
            SHARES.replace(".*", type(out).__name__),
        )
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


WITH_OUT = without(OF_A_MATRIX, "gaussian_dropout")
CALLS_WITH_OUT = {name: lambda x, out, rng, call=call: call(x, P, rng, out) for name, call in WITH_OUT.items()}
BAD_OUT_ROWS = {
    f"out {name}": Row(lambda make=make: tuple(make(VALUES.copy())), CALLS_WITH_OUT, *rest)
    for name, (make, *rest) in BAD_OUT.items()
}

# ---- the tables -----------------------------------------------------------------------------------------------------

ROWS = {**P_ROWS, **X_ROWS}


def test_the_tables_have_their_rows():
    n_written = len(GOOD_P) + len(BAD_P) + len(ABOVE_ONE) + len(X_ROWS)
    assert len(ROWS) == n_written >= 225  # no two rows have the same name
    assert len(BAD_OUT_ROWS) == len(BAD_OUT) >= 50


@pytest.mark.promise("bad-arguments")
@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_an_argument_gives_the_plain_copys_answer_or_its_own_error(row):
    check_row(row)


@pytest.mark.promise("bad-arguments", "bad-out")
@pytest.mark.parametrize("row", BAD_OUT_ROWS.values(), ids=BAD_OUT_ROWS)
def test_a_bad_out_is_named_with_its_input_and_not_written(row):
    check_row(row)


@pytest.mark.skipif(bool(OF_LONG_DOUBLE), reason="C's long double is no float64 here")
@pytest.mark.parametrize("order", ["=", ">"])
def test_a_long_double_is_a_float64_where_c_has_it_so(order):
    x = np.arange(24.0).reshape(4, 6)
    found = cd.dropout(x.astype(LONG_DOUBLE.newbyteorder(order)), 0.5, rng=1)
    assert found.dtype == np.float64
    assert np.array_equal(found, cd.dropout(x, 0.5, rng=1))


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
