"""Define operations, and the arrays of one operation for a number of elements, dtype, p and number of threads."""

import importlib
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

import cdropout as cd

Array = npt.NDArray[Any]

WIDE_DTYPES = ("float32", "float64")
HALF_DTYPES = ("float16", "bfloat16")
DTYPES = WIDE_DTYPES + HALF_DTYPES

# An array that is written in place is filled again before less than this share of it is left undropped.
_LEAST_SHARE_LEFT = 0.25
_N_DRAWN = 1 << 20


class Skip(Exception):  # noqa: N818 - not an error, as with pytest's exception of this name
    """Leave out a measurement; the message gives the reason."""


@dataclass(frozen=True)
class Operation:
    """Define an operation: y is `relu(x + bias)` dropped and scaled, plus the residual.

    Attributes
    ----------
    name : str
    relu, bias, residual : bool
        The steps that it has.
    in_place : bool
        Whether the result goes into the input.
    shared_axes : tuple of int
        The axes along which all elements share one decision.
    matrix : bool
        Whether the arrays have two axes, about equally long, rather than one.
    n_moved : int
        The number of arrays of n elements that must be read or written; GB/s counts their bytes.

    """

    name: str
    relu: bool = False
    bias: bool = False
    residual: bool = False
    in_place: bool = False
    shared_axes: tuple[int, ...] = ()
    matrix: bool = False
    n_moved: int = 2


OPERATIONS = {
    operation.name: operation
    for operation in (
        Operation("forward"),
        Operation("backward"),
        Operation("in-place", in_place=True),
        Operation("fresh-output"),
        Operation("features", shared_axes=(0,), matrix=True),
        Operation("samples", shared_axes=(1,), matrix=True),
        Operation("relu", relu=True),
        Operation("relu-backward", n_moved=3),
        Operation("bias-relu-in-place", relu=True, bias=True, in_place=True, matrix=True),
        Operation("add", residual=True, n_moved=3),
        Operation("bias-add", bias=True, residual=True, matrix=True, n_moved=3),
    )
}


def numpy_dtype(name: str) -> np.dtype[Any]:
    """Return the dtype of a name in `DTYPES`.

    Raises
    ------
    Skip
        For bfloat16 without ml_dtypes.

    """
    if name != "bfloat16":
        return np.dtype(name)
    try:
        return np.dtype(importlib.import_module("ml_dtypes").bfloat16)
    except ImportError:
        raise Skip("ml_dtypes, which makes bfloat16 arrays, is not installed") from None


def probe_dtype(name: str) -> None:
    """Raise Skip if cdropout does not accept arrays of the dtype."""
    x = np.ones(1, numpy_dtype(name))
    try:
        cd.dropout(x, 0.5)
    except TypeError as error:
        raise Skip(f"cdropout refuses {name}: {error}") from None


def near_square(n_elems: int) -> tuple[int, int]:
    """Return the factors of n_elems that are closest to its square root, the smaller first."""
    n_rows = next(n for n in range(math.isqrt(n_elems), 0, -1) if n_elems % n == 0)
    return n_rows, n_elems // n_rows


class Case:
    """Hold one point of the sweep, and its arrays: each is made at its first use, and shared by all contenders.

    Parameters
    ----------
    operation : Operation
    n_elems : int
        At least 1.
    dtype : str
        A name in `DTYPES`.
    p : float
        The probability of dropping, in (0, 1).
    n_threads : int
        The number of threads that a contender may use.

    Raises
    ------
    Skip
        Where the dtype is not available.

    """

    def __init__(self, operation: Operation, n_elems: int, dtype: str, p: float, n_threads: int) -> None:
        self.operation = operation
        self.n_elems = n_elems
        self.dtype_name = dtype
        self.dtype = numpy_dtype(dtype)
        self.p = p
        self.n_threads = n_threads
        self.shape = near_square(n_elems) if operation.matrix else (n_elems,)

    @cached_property
    def x(self) -> Array:
        """The input: normally distributed, without zeros, so that each zero in a result is a dropped element."""
        return self._draw(0, self.shape)

    @cached_property
    def y(self) -> Array:
        """The output. It holds NaN at first, so that elements that are not written fail the check."""
        return np.full(self.shape, np.nan, self.dtype)

    @cached_property
    def work(self) -> Array:
        """The array of the operations in place; equal to x after `refresh`."""
        return self.x.copy()

    @property
    def source_and_target(self) -> tuple[Array, Array]:
        """The array that the operation reads and the one that it writes: x and y, or `work` twice."""
        return (self.work, self.work) if self.operation.in_place else (self.x, self.y)

    @cached_property
    def bias(self) -> Array:
        """One number for each column."""
        return self._draw(1, self.shape[-1:])

    @cached_property
    def residual(self) -> Array:
        """The array that is added last, with the shape of x."""
        return self._draw(2, self.shape)

    @cached_property
    def relu_output(self) -> Array:
        """The output of a forward pass through ReLU and dropout, which the backward passes read."""
        return cd.relu_dropout(self.residual, self.p, rng=1)

    @property
    def scale(self) -> Any:
        """1/(1-p), a scalar of the dtype."""
        return self.dtype.type(1 / (1 - self.p))

    @property
    def calls_per_refresh(self) -> int:
        """The number of calls in place after which too many of the elements are zero."""
        return max(1, int(math.log(_LEAST_SHARE_LEFT) / math.log1p(-self.p)))

    def refresh(self) -> None:
        """Fill `work` with x again."""
        np.copyto(self.work, self.x)

    def _draw(self, seed: int, shape: tuple[int, ...]) -> Array:
        rng = np.random.Generator(np.random.SFC64(seed))
        # Drawing takes longer than the measured call, and no kernel's time depends on values that repeat so late.
        n_drawn = min(math.prod(shape), _N_DRAWN)
        values = rng.standard_normal(n_drawn, np.float64 if self.dtype_name == "float64" else np.float32)
        values = values.astype(self.dtype, copy=False)
        values[values == 0] = 1
        return np.resize(values, shape)
