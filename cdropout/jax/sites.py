"""The places of a function of JAX that draw random bits, read from its jaxpr."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.extend import source_info_util

# The lines of these files are not shown: those that called them are.
for _file in Path(__file__).parent.glob("*.py"):
    source_info_util.register_exclusion(str(_file))

_OURS = ("cdropout_apply", "cdropout_relu", "cdropout_keep", "cdropout_bits")
_OF_JAX = ("random_bits", "random_gamma", "rng_bit_generator", "rng_uniform")


@dataclass(frozen=True)
class Site:
    """A place of a function that draws random bits.

    Attributes
    ----------
    line : str
        "file:line" of the innermost line outside of JAX and of `cdropout.jax`, with the function's name. JAX 0.6 may
        name the line of an earlier call with the same shapes.
    is_ours : bool
        Whether the bits are this library's stream.
    n_calls : int
        How often the jaxpr has it; a loop counts once. The derivative of a function may draw its mask again.

    """

    line: str
    is_ours: bool
    n_calls: int

    def __str__(self) -> str:
        """Return one line."""
        return f"{'cdropout' if self.is_ours else 'JAX'}: {self.n_calls} x in {self.line}"


def report(function: Callable[..., Any], *args: Any, **named_args: Any) -> list[Site]:
    """Trace a function, and return the places that draw random bits.

    Parameters
    ----------
    function : callable
        A function that `jax.make_jaxpr` takes, such as a training step, compiled or not.
    *args, **named_args
        Its arguments, or a `jax.ShapeDtypeStruct` for each array.

    Returns
    -------
    list of Site
        JAX's sites first. Empty if nothing draws. Keys that are split are no sites.

    """
    jaxpr = jax.make_jaxpr(lambda args, named_args: function(*args, **named_args))(args, named_args)
    counts: collections.Counter[tuple[str, bool]] = collections.Counter()
    for equation, line in _equations(jaxpr.jaxpr, ""):
        name = equation.primitive.name
        is_ours = name in _OURS or (name == "random_bits" and "<cd>" in str(equation.invars[0].aval.dtype))
        if is_ours or name in _OF_JAX:
            counts[line, is_ours] += 1
    sites = [Site(*place, n_calls) for place, n_calls in counts.items()]
    return sorted(sites, key=lambda site: site.is_ours)


def _equations(jaxpr: Any, line: str) -> Iterator[tuple[Any, str]]:
    """Yield the equations of a jaxpr and of those within it, with their lines; line is that of the jaxpr itself."""
    for equation in jaxpr.eqns:
        line_here = source_info_util.summarize(equation.source_info) or line
        yield equation, line_here
        for parameter in equation.params.values():
            for each in parameter if isinstance(parameter, (tuple, list)) else (parameter,):
                inner = getattr(each, "jaxpr", each)  # a ClosedJaxpr has one
                if hasattr(inner, "eqns"):
                    yield from _equations(inner, line_here)
