"""Define a contender: one way to do one operation.

A contender is made for a case and returns the call to be timed; the call returns its result. Work that a call need not
repeat (buffers, compilation, copies into another library's arrays) is done when the contender is made.
"""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.cases import WIDE_DTYPES, Array, Case, Skip
from benchmarks.result_check import Expectation, expect_dropout

Call = Callable[[], Any]


@dataclass(frozen=True)
class Contender:
    """Hold one way to do one operation.

    Attributes
    ----------
    operation : str
        A name in `cases.OPERATIONS`.
    code : str
        The code that it runs, for a reader of the table.
    make : callable
        Takes a case and returns the call to be timed; may raise `Skip`.
    name : str
        Its name in the tables and for --contenders. It may occur in several operations, once in each for a dtype.
    label : str
        Its name in the chart; empty if it is not shown there.
    dtypes : tuple of str
        The dtypes that it supports.
    modules : tuple of str
        The modules that must be installed.
    threaded : bool
        Whether it uses several threads; otherwise it is measured on one thread only.
    is_floor : bool
        Whether ratios are relative to it. Each operation has one floor for a dtype.
    is_slow_to_build : bool
        Whether --quick leaves it out.
    redraws : bool
        Whether every call must drop other elements.
    expect : callable
        Takes a case and returns the expected result; may raise `Skip`.
    read : callable
        Turns the value of the call into an array.

    """

    operation: str
    code: str
    make: Callable[[Case], Call]
    name: str
    label: str = ""
    dtypes: Sequence[str] = WIDE_DTYPES
    modules: tuple[str, ...] = ()
    threaded: bool = False
    is_floor: bool = False
    is_slow_to_build: bool = False
    redraws: bool = True
    expect: Callable[[Case], Expectation] = expect_dropout
    read: Callable[[Any], Array] = np.asarray

    def load(self) -> None:
        """Import the modules that the contender needs.

        Raises
        ------
        Skip
            Where one is not installed, or does not load.

        """
        for module in self.modules:
            try:
                importlib.import_module(module)
            except ModuleNotFoundError:
                raise Skip(f"{module} is not installed") from None
            except Exception as error:  # a broken installation of a peer must not end the sweep
                raise Skip(f"{module} does not load: {first_line(error)}") from None


def first_line(error: BaseException) -> str:
    """Return an error's type and the first line of its message."""
    return f"{type(error).__name__}: {error}".splitlines()[0].strip()
