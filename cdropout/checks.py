"""Checks of arguments in Python; the checks of arrays and probabilities are in src/arguments.pxi."""

import contextlib
import operator
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

# The repr of a longer array does not fit into a line.
MOST_CHARACTERS = 100


def shown(value: object) -> str:
    """Return a value's text in error messages: its repr, or its type and size where that is too long for a message."""
    try:
        text = repr(value)
        if isinstance(value, np.ndarray) and len(text) > MOST_CHARACTERS:
            return f"an array of shape {value.shape} and dtype {value.dtype}"
        return text
    except ValueError:
        return f"an int of {value.bit_length()} bits" if isinstance(value, int) else f"a {type(value).__name__}"


def is_integer(value: object) -> bool:
    """Return whether a value is an integer of Python or NumPy.

    A bool is none, and neither is a timedelta64, which NumPy counts among the integers although it has a unit.
    """
    return isinstance(value, int | np.integer) and not isinstance(value, bool | np.timedelta64)


def exact_int(value: Any) -> int:
    """Return an int, or an object with `__index__`, as an int of exactly this type; TypeError for any other object.

    A subclass of int may define comparison and arithmetic in its own way, so no other code computes with one.
    """
    return value if type(value) is int else int.__index__(operator.index(value))


def check_integer(name: str, value: Any, least: int | None = None, most: int | None = None) -> int:
    """Return an argument as an int.

    Parameters
    ----------
    name : str
        Name of the argument.
    value : object
        An integer of Python or NumPy, but not a bool or a timedelta64.
    least, most : int, optional
        The bounds, both included.

    Returns
    -------
    int
        The value.

    Raises
    ------
    TypeError
        If value is not an integer; the message names argument and value.
    ValueError
        If value is out of bounds; the message names argument, rule and value.

    """
    if not is_integer(value):
        raise TypeError(f"{name} must be an integer, got {shown(value)}")
    try:
        number = exact_int(value)
    except TypeError:  # from __index__ of a subclass of NumPy's integers
        raise TypeError(f"{name} must be an integer, got {shown(value)}") from None
    if least is not None and most is not None and not least <= number <= most:
        raise ValueError(f"{name} must be in [{least}, {most}], got {shown(number)}")
    if least is not None and number < least:
        raise ValueError(f"{name} must be at least {least}, got {shown(number)}")
    return number


def check_flag(name: str, value: object) -> bool:
    """Return a flag as a bool; TypeError for anything but True and False, such as a word of another layer's option."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {shown(value)}")
    return bool(value)


def check_sequence(name: str, values: Any, rule: str) -> list[Any]:
    """Return the items of a sequence, of an array with axes or of the values of a dict as a list; TypeError for
    another object. The rule, such as "of integers", says what the items are.
    """
    has_no_order = isinstance(values, str | bytes | Mapping | set | frozenset)
    if has_no_order or not isinstance(values, Collection) or (isinstance(values, np.ndarray) and values.ndim == 0):
        raise TypeError(f"{name} must be a sequence {rule}, got {shown(values)}")
    return values.tolist() if isinstance(values, np.ndarray) else list(values)


def check_widths(widths: Any) -> list[int]:
    """Return the widths of a network's layers, from the inputs to the outputs, as ints; TypeError or ValueError for
    anything but two or more integers of at least 1.
    """
    widths = check_sequence("widths", widths, "of integers")
    if len(widths) < 2:
        raise ValueError(f"widths must be two or more numbers, got {widths!r}")
    return [check_integer("widths", width, 1) for width in widths]


def check_version(name: str, version: object, expected: int) -> None:
    """Raise ValueError unless a saved state has the expected version."""
    if type(version) is not int or version != expected:
        raise ValueError(f"{name} must be of version {expected}, got version {shown(version)}")


def fetch_fields(name: str, state: Any, keys: tuple[str, ...]) -> dict[str, Any]:
    """Return the fields of a saved state, a dict with exactly these keys; ValueError for anything else.

    Each value is read once, so that the caller uses what it has checked: a subclass of dict may give another value each
    time.
    """
    if isinstance(state, dict) and set(state) == set(keys):
        with contextlib.suppress(KeyError):  # from a subclass whose keys and values differ
            return {key: state[key] for key in keys}
    raise ValueError(f"{name} must be a dict with the keys {', '.join(keys)}, got {shown(state)}")


def check_count(name: str, value: object) -> None:
    """Raise TypeError unless value is an int, ValueError if it is negative."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {value!r}")
    if value < 0:
        raise ValueError(f"{name} must be 0 or greater, got {shown(value)}")
