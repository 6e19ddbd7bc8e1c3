"""The check that Python code makes on its own arguments; those of arrays and probabilities are in src/arguments.pxi."""

import operator
from typing import Any

import numpy as np


def shown(value: object) -> str:
    """Return what an error message says of a value: its repr, or the size of an int too long for Python to write."""
    try:
        return repr(value)
    except ValueError:
        return f"an int of {value.bit_length()} bits" if isinstance(value, int) else f"a {type(value).__name__}"


def check_integer(name: str, value: Any, least: int | None = None, most: int | None = None) -> int:
    """Return an argument as an int.

    Parameters
    ----------
    name : str
        What the argument is called.
    value : object
        Python's or NumPy's integers pass, bool does not.
    least, most : int, optional
        The bounds, both included.

    Returns
    -------
    int
        The value.

    Raises
    ------
    TypeError
        For what is no integer, naming argument and value.
    ValueError
        Outside the bounds, naming argument, rule and value.

    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if least is not None and most is not None and not least <= value <= most:
        raise ValueError(f"{name} must be in [{least}, {most}], got {shown(operator.index(value))}")
    if least is not None and value < least:
        raise ValueError(f"{name} must be at least {least}, got {shown(operator.index(value))}")
    return operator.index(value)


def check_version(name: str, version: object, expected: int) -> None:
    """Raise ValueError unless a saved state has the expected version."""
    if type(version) is not int or version != expected:
        raise ValueError(f"{name} must be of version {expected}, got version {shown(version)}")


def check_count(name: str, value: object) -> None:
    """Raise TypeError unless value is an int, ValueError if it is negative."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {value!r}")
    if value < 0:
        raise ValueError(f"{name} must be 0 or greater, got {shown(value)}")
