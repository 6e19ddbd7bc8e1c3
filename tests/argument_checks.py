"""Calls that take arrays, rates and outputs, and checks of a call with any arguments.

A call gives the result for a plain contiguous copy, or an error that names the argument. Afterwards, the library holds
no reference to the arguments. After an error, the arguments and the stream or generator are unchanged.
"""

import contextlib
import gc
import re
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import cdropout as cd
from cdropout._kernels import as_array

VALUES = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
BUFFER = np.zeros((5, 6), np.float32)  # for outputs of calls that are refused
P = 0.4
HUGE = 10**5000  # too many digits for Python's repr

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


def check_row(row: Row) -> None:
    before = VALUES.copy(), BUFFER.copy()
    for name, call in row.calls.items():
        if row.error is None:
            check_answer(row, call)
        else:
            check_error(row, name, call)
    assert all(np.array_equal(now, then) for now, then in zip((VALUES, BUFFER), before, strict=True))
