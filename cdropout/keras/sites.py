"""The places of a Keras model that draw random numbers, counted while it runs one training call."""

from __future__ import annotations

import collections
import contextlib
import functools
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import keras
from keras.src import backend

from cdropout.keras import switch

# Functions of Keras's backends that draw.
_DRAWING = ("beta", "binomial", "categorical", "gamma", "normal", "randint", "shuffle", "truncated_normal", "uniform")
_OURS = ("alpha_dropout", "dropout", "gaussian_dropout", "gaussian_noise")


@dataclass(frozen=True)
class Site:
    """A place of a model that draws random numbers.

    Attributes
    ----------
    layer : str
        Path of the innermost layer that was running, "" outside of all.
    class_name : str
        The layer's class.
    function : str
        What was drawn: the name of the function, such as "dropout" or "uniform".
    is_ours : bool
        Whether this library drew it; otherwise Keras's backend did.
    n_calls : int
        How often.

    """

    layer: str
    class_name: str
    function: str
    is_ours: bool
    n_calls: int

    def __str__(self) -> str:
        """Return one line."""
        whose = "cdropout" if self.is_ours else "Keras"
        return f"{whose}: {self.n_calls} x {self.function} in {self.layer or 'no layer'} ({self.class_name})"


def report(model: Any, *inputs: Any, **named_inputs: Any) -> list[Site]:
    """Call a model once in training mode, and return the places that draw random numbers.

    Variables keep their values, seeds included: changes of them are discarded.

    Parameters
    ----------
    model : keras.Layer
        A model or layer that has been built.
    *inputs, **named_inputs
        Arguments of the call, without `training`. On the JAX backend the call is traced and not run.

    Returns
    -------
    list of Site
        Keras's sites first: dropout of other devices and dtypes, of layers that make their masks from other functions
        such as `keras.random.uniform`, and everything before `enable`. Empty if nothing draws.

    Raises
    ------
    ValueError
        If the model has not been built.

    """
    if not model.built:
        raise ValueError(f"model must be built, got {model!r}: call it once")
    counts: collections.Counter[tuple[str, str, str, bool]] = collections.Counter()
    with _torch_state_kept(), _counted(counts), keras.StatelessScope():
        _run(functools.partial(model, *inputs, training=True, **named_inputs))
    sites = [Site(*place, n_calls) for place, n_calls in counts.items()]
    return sorted(sites, key=lambda site: site.is_ours)


def _run(call: Callable[[], Any]) -> None:
    if keras.backend.backend() == "jax":
        sys.modules["jax"].eval_shape(call)
    else:
        call()


@contextlib.contextmanager
def _counted(counts: collections.Counter[tuple[str, str, str, bool]]) -> Iterator[None]:
    """Count the calls of this thread that draw, within a block."""
    thread, layers, in_function = threading.get_ident(), [("", "")], [False]
    call_of_layer = keras.layers.Layer.__call__

    @functools.wraps(call_of_layer)
    def call(layer: Any, *args: Any, **named: Any) -> Any:
        if threading.get_ident() != thread:
            return call_of_layer(layer, *args, **named)
        layers.append((layer.path or layer.name, type(layer).__name__))
        try:
            return call_of_layer(layer, *args, **named)
        finally:
            layers.pop()

    def counting(owner: Any, name: str, is_ours: bool) -> Any:
        function: Callable[..., Any] = getattr(owner, name)

        @functools.wraps(function)
        def draw(*args: Any, **named: Any) -> Any:
            if threading.get_ident() != thread or in_function[0]:  # a function that another one calls is no site
                return function(*args, **named)
            counts[(*layers[-1], name.replace("of_keras", "dropout"), is_ours)] += 1
            in_function[0] = True
            try:
                return function(*args, **named)
            finally:
                in_function[0] = False

        return mock.patch.object(owner, name, draw)

    with contextlib.ExitStack() as patches:
        patches.enter_context(mock.patch.object(keras.layers.Layer, "__call__", call))
        for name in _DRAWING:
            if hasattr(backend.random, name):
                patches.enter_context(counting(backend.random, name, False))
        if switch.is_enabled():
            patches.enter_context(counting(switch, "of_keras", False))
            for name in _OURS:
                patches.enter_context(counting(switch.ours, name, True))
        else:
            patches.enter_context(counting(backend.random, "dropout", False))
        yield


@contextlib.contextmanager
def _torch_state_kept() -> Iterator[None]:
    """Set PyTorch's random state back after a block, where PyTorch is Keras's backend."""
    if keras.backend.backend() != "torch":
        yield
        return
    with sys.modules["torch"].random.fork_rng(devices=[]):
        yield
