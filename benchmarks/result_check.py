"""Check that a result is dropout, before anything is timed."""

from dataclasses import dataclass

import numpy as np

from benchmarks.cases import Array, Case, Operation

_N_SIGMA = 6
_ELEMS_PER_CHUNK = 1 << 15  # float64 intermediates of this length stay in the cache
# The spacing of a dtype's numbers: relative to normal ones, and that of subnormal ones, where float16 soon is.
_EPS = {"float16": 2**-10, "bfloat16": 2**-7, "float32": 2**-23, "float64": 2**-52}
_SUBNORMAL_SPACING = {"float16": 2**-24, "bfloat16": 2**-133, "float32": 2**-149, "float64": 2**-1074}


class WrongResultError(Exception):
    """Report a wrong result; the message names the rule and the values."""


@dataclass(frozen=True)
class Expectation:
    """Hold the properties that a result must have.

    Attributes
    ----------
    p : float
        The probability of dropping; at 0 nothing may be dropped.
    scale : float
        The factor of the kept elements.
    operation : Operation
        The other steps, and the axes that share decisions.

    """

    p: float
    scale: float
    operation: Operation


def expect_dropout(case: Case, p: float | None = None) -> Expectation:
    """Expect the case's operation with its p, or with another where a contender can only approximate it."""
    p = case.p if p is None else p
    return Expectation(p, 1 / (1 - p), case.operation)


def check_result(
    result: Array,
    x: Array,
    expectation: Expectation,
    *,
    bias: Array | None = None,
    residual: Array | None = None,
) -> Array:
    """Raise unless a result has the expected rate, scale and zeros; return which elements are dropped.

    Parameters
    ----------
    result, x : ndarray
        Output and input, of one shape; the result may have a wider dtype.
    expectation : Expectation
        The properties of the result.
    bias, residual : ndarray or None
        Used if the expected operation has them.

    Returns
    -------
    ndarray of bool
        In the shape of x. Elements that are equal dropped and kept, as after a ReLU, count as dropped.

    Raises
    ------
    WrongResultError
        Naming the rule and the values. Every element must be exactly 0 (or the residual) or, to within 4 units in
        the last place of x's dtype, the scaled input; decisions must be equal along shared axes; and the number of
        dropped ones must be within 6 standard deviations of p times their number.

    """
    operation = expectation.operation
    if result.shape != x.shape:
        raise WrongResultError(f"shape must be {x.shape}, got {result.shape}")
    dropped = np.empty(x.shape, bool)
    # Where a kept element can equal a dropped one, only the others count for the rate.
    is_ambiguous = operation.relu or operation.bias or operation.residual
    telling = np.empty(x.shape, bool) if is_ambiguous else None
    bias_f64 = bias.astype(np.float64) if operation.bias else None
    rows_per_chunk = max(1, _ELEMS_PER_CHUNK * len(x) // x.size)
    for start in range(0, len(x), rows_per_chunk):
        rows = slice(start, start + rows_per_chunk)
        y = result[rows].astype(np.float64)
        kept = x[rows].astype(np.float64)
        magnitude = np.abs(kept)
        if operation.bias:
            kept += bias_f64
            magnitude += np.abs(bias_f64)
        if operation.relu:
            np.maximum(kept, 0, out=kept)
        kept *= expectation.scale
        magnitude *= expectation.scale
        added = np.zeros(1)
        if operation.residual:
            added = residual[rows].astype(np.float64)
            kept += added
            magnitude += np.abs(added)
        tolerance = 4 * np.maximum(_EPS[x.dtype.name] * magnitude, _SUBNORMAL_SPACING[x.dtype.name])
        np.equal(y, added, out=dropped[rows])
        right = np.abs(y - kept) <= tolerance  # False for NaN
        right |= dropped[rows]
        if not right.all():
            strange = ~right
            at = np.unravel_index(np.argmax(strange), strange.shape)
            dropped_value = np.broadcast_to(added, strange.shape)[at]
            raise WrongResultError(
                f"{np.count_nonzero(strange)} of {strange.size} elements are neither dropped nor kept: the first must "
                f"be {dropped_value:.9g} or {kept[at]:.9g}, got {y[at]:.9g}"
            )
        if telling is not None:
            np.greater(np.abs(kept - added), 2 * tolerance, out=telling[rows])
    _check_rate(dropped, telling, expectation)
    return dropped


def _check_rate(dropped: Array, telling: Array | None, expectation: Expectation) -> None:
    """Raise unless the share of decisions to drop is p."""
    axes = expectation.operation.shared_axes
    if axes:
        some = dropped.any(axis=axes)
        if not np.array_equal(some, dropped.all(axis=axes)):
            raise WrongResultError(f"decisions must be shared along axes {axes}, and are not")
        dropped = some
    if telling is not None:
        dropped = dropped[telling]
    n_decisions, n_dropped = dropped.size, int(np.count_nonzero(dropped))
    p = expectation.p
    tolerance = _N_SIGMA * (n_decisions * p * (1 - p)) ** 0.5
    if abs(n_dropped - n_decisions * p) > tolerance:
        raise WrongResultError(
            f"dropped must be {n_decisions * p:.0f} of {n_decisions} to within {tolerance:.0f} (6 sigma, p = {p:g}), "
            f"got {n_dropped}"
        )
