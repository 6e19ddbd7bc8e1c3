"""Checks of the estimators' parameters, with messages worded as scikit-learn's."""

import math
import os
from numbers import Integral, Real
from typing import Any, NamedTuple, NoReturn

import numpy as np

from cdropout.networks import ACTIVATIONS, KINDS


class Rates(NamedTuple):
    """Hold the widths of the hidden layers, the probability of dropping of each, the kind, and whether to normalize."""

    hidden: list[int]
    p: list[float]
    p_input: float
    kind: str
    batch_norm: bool = False


def check_parameters(estimator: Any, *, incremental: bool = False) -> Rates:
    """Return the checked widths, probabilities and kind of dropout of an estimator.

    Parameters
    ----------
    estimator : estimator
        The estimator, which is not changed.
    incremental : bool, default=False
        Whether `partial_fit` asks, which writes no checkpoint and so needs no random_state for it.

    Returns
    -------
    Rates
        The checked values.

    Raises
    ------
    ValueError
        For a parameter with another value than it may have; the message names parameter, rule and value.

    """
    for name, choices in (
        ("activation", tuple(ACTIVATIONS)),
        ("solver", ("adam", "sgd")),
        ("learning_rate", ("constant", "invscaling", "adaptive")),
        ("dropout_kind", KINDS),
    ):
        value = getattr(estimator, name)
        if not isinstance(value, str) or value not in choices:
            _refuse(estimator, name, f"one of {', '.join(map(repr, choices))}")
    for name in ("batch_norm", "shuffle", "warm_start", "nesterovs_momentum", "early_stopping"):
        if not isinstance(getattr(estimator, name), bool | np.bool_):
            _refuse(estimator, name, "an instance of 'bool' or an instance of 'numpy.bool'")
    for name, low, high, rule in (
        ("alpha", 0, math.inf, "a number in [0, inf)"),
        ("learning_rate_init", math.nextafter(0, 1), math.inf, "a number in (0, inf)"),
        ("power_t", 0, math.inf, "a number in [0, inf)"),
        ("tol", 0, math.inf, "a number in [0, inf)"),
        ("momentum", 0, math.nextafter(1, 2), "a number in [0, 1]"),
        ("validation_fraction", math.nextafter(0, 1), 1, "a number in (0, 1)"),
        ("beta_1", 0, 1, "a number in [0, 1)"),
        ("beta_2", 0, 1, "a number in [0, 1)"),
        ("epsilon", math.nextafter(0, 1), math.inf, "a number in (0, inf)"),
        ("input_dropout", 0, 1, "a number in [0, 1)"),
    ):
        if not _is_number(getattr(estimator, name), low, high):
            _refuse(estimator, name, rule)
    for name in ("max_iter", "n_iter_no_change"):
        value = getattr(estimator, name)
        is_endless = name == "n_iter_no_change" and isinstance(value, Real) and value == math.inf
        if not _is_count(value) and not is_endless:
            _refuse(estimator, name, "an integer of at least 1")
    batch_size = estimator.batch_size
    if not (isinstance(batch_size, str) and batch_size == "auto") and not _is_count(batch_size):
        _refuse(estimator, "batch_size", "'auto' or an integer of at least 1")
    if estimator.max_norm is not None and not _is_number(estimator.max_norm, math.nextafter(0, 1), math.inf):
        _refuse(estimator, "max_norm", "None or a number in (0, inf)")
    if estimator.checkpoint is not None and not isinstance(estimator.checkpoint, str | os.PathLike):
        _refuse(estimator, "checkpoint", "None or the path of a file")
    if estimator.checkpoint is not None and estimator.random_state is None and not incremental:
        _refuse(estimator, "random_state", "an int or a RandomState for a fit with a checkpoint")
    for kind, needed in (("alpha", "selu"), ("compact", "relu")):
        if estimator.dropout_kind == kind and estimator.activation != needed:
            _refuse(estimator, "activation", f"{needed!r} for dropout_kind {kind!r}")
    if estimator.batch_norm and estimator.dropout_kind == "compact":
        _refuse(estimator, "batch_norm", "False for dropout_kind 'compact'")
    if estimator.batch_norm and not isinstance(batch_size, str) and batch_size < 2:
        _refuse(estimator, "batch_size", "'auto' or an integer of at least 2 for batch_norm=True")
    hidden = _hidden(estimator)
    p = _p(estimator, len(hidden))
    return Rates(hidden, p, float(estimator.input_dropout), str(estimator.dropout_kind), bool(estimator.batch_norm))


def _hidden(estimator: Any) -> list[int]:
    sizes = estimator.hidden_layer_sizes
    listed = list(sizes) if _is_listed(sizes) else [sizes]
    if not all(_is_count(size) for size in listed):
        raise ValueError(f"hidden_layer_sizes must be integers > 0, got {sizes!r}.")
    return [int(size) for size in listed]


def _p(estimator: Any, n_hidden: int) -> list[float]:
    dropout = estimator.dropout
    listed = list(dropout) if _is_listed(dropout) else [dropout] * n_hidden
    numbers = listed if _is_listed(dropout) else [dropout]
    if len(listed) != n_hidden or not all(_is_number(p, 0, 1) for p in numbers):
        layers = "the hidden layer" if n_hidden == 1 else f"each of {n_hidden} hidden layers"
        _refuse(estimator, "dropout", f"a number in [0, 1), or a list with one such number for {layers}")
    return [float(p) for p in listed]


def _is_listed(value: Any) -> bool:
    """Return whether value is a sequence; strings and arrays without dimensions are not."""
    return hasattr(value, "__iter__") and not isinstance(value, str) and getattr(value, "ndim", 1) > 0


def _is_number(value: object, low: float, high: float) -> bool:
    """Return whether value is a number in [low, high)."""
    return isinstance(value, Real) and not isinstance(value, bool) and bool(low <= float(value) < high)


def _is_count(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1


def _refuse(estimator: Any, name: str, rule: str) -> NoReturn:
    value = getattr(estimator, name)
    raise ValueError(f"The {name!r} parameter of {type(estimator).__name__} must be {rule}. Got {value!r} instead.")
