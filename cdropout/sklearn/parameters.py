"""Checks of the estimators' parameters, with messages worded as scikit-learn's."""

import math
import os
from numbers import Integral, Real
from typing import Any, NamedTuple, NoReturn

from cdropout.networks import ACTIVATIONS, KINDS


class Rates(NamedTuple):
    """Hold the widths of the hidden layers, and the probability of dropping of each."""

    hidden: list[int]
    p: list[float]
    p_input: float


def check_parameters(estimator: Any) -> Rates:
    """Return the checked widths and probabilities of an estimator.

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
        if getattr(estimator, name) not in choices:
            _refuse(estimator, name, f"one of {', '.join(map(repr, choices))}")
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
        if not _is_count(value) and not (name == "n_iter_no_change" and value == math.inf):
            _refuse(estimator, name, "an integer of at least 1")
    if estimator.batch_size != "auto" and not _is_count(estimator.batch_size):
        _refuse(estimator, "batch_size", "'auto' or an integer of at least 1")
    if estimator.max_norm is not None and not _is_number(estimator.max_norm, math.nextafter(0, 1), math.inf):
        _refuse(estimator, "max_norm", "None or a number in (0, inf)")
    if estimator.checkpoint is not None and not isinstance(estimator.checkpoint, str | os.PathLike):
        _refuse(estimator, "checkpoint", "None or the path of a file")
    if estimator.checkpoint is not None and estimator.random_state is None:
        _refuse(estimator, "random_state", "an int or a RandomState for a fit with a checkpoint")
    for name, value in (("dropout_kind", "alpha"), ("dropout_kind", "compact")):
        needed = "selu" if value == "alpha" else "relu"
        if getattr(estimator, name) == value and estimator.activation != needed:
            _refuse(estimator, "activation", f"{needed!r} for dropout_kind {value!r}")
    hidden = _hidden(estimator)
    return Rates(hidden, _p(estimator, len(hidden)), float(estimator.input_dropout))


def _hidden(estimator: Any) -> list[int]:
    sizes = estimator.hidden_layer_sizes
    listed = list(sizes) if hasattr(sizes, "__iter__") and not isinstance(sizes, str) else [sizes]
    if not all(_is_count(size) for size in listed):
        raise ValueError(f"hidden_layer_sizes must be integers > 0, got {sizes!r}.")
    return [int(size) for size in listed]


def _p(estimator: Any, n_hidden: int) -> list[float]:
    dropout = estimator.dropout
    listed = list(dropout) if hasattr(dropout, "__iter__") and not isinstance(dropout, str) else [dropout] * n_hidden
    numbers = [dropout] if not n_hidden and not hasattr(dropout, "__iter__") else listed
    if len(listed) != n_hidden or not all(_is_number(p, 0, 1) for p in numbers):
        layers = f"{n_hidden} hidden layer{'' if n_hidden == 1 else 's'}"
        _refuse(estimator, "dropout", f"a number in [0, 1), or a list with one such number for each of {layers}")
    return [float(p) for p in listed]


def _is_number(value: object, low: float, high: float) -> bool:
    """Return whether value is a number in [low, high)."""
    return isinstance(value, Real) and not isinstance(value, bool) and bool(low <= float(value) < high)


def _is_count(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1


def _refuse(estimator: Any, name: str, rule: str) -> NoReturn:
    value = getattr(estimator, name)
    raise ValueError(f"The {name!r} parameter of {type(estimator).__name__} must be {rule}. Got {value!r} instead.")
