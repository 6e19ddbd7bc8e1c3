"""Time FeatureDropoutLinear, forward and backward, over the same layer without dropout.

The library's rule (`gathering_pays` in cdropout/linear.py) comes from this table: "gathered" is the time if the smaller
products are always made, "full" if they never are, "rule" is what the layer does; each over the layer in evaluation.
"""

import argparse
import itertools
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
from threadpoolctl import threadpool_limits

import cdropout as cd
from benchmarks.options import parse_positive
from benchmarks.table import Table
from benchmarks.timing import interleaved_medians, introduce
from cdropout import linear

SHAPES = (
    (32, 512, 512),
    (128, 512, 512),
    (128, 1024, 1024),
    (128, 2048, 2048),
    (512, 512, 2048),
    (1024, 1024, 4096),
    (1024, 4096, 1024),
)
PS = (0.05, 0.2, 0.5, 0.8)
WAYS = ("full", "gathered", "rule")
SHARED_OPTIONS = {"p": PS, "rounds": 15, "threads": 1, "dtypes": ("float32", "float64")}


def parse_shape(text: str) -> tuple[int, int, int]:
    """Parse the numbers of samples, inputs and outputs, such as 128,2048,2048."""
    parts = text.split(",")
    if len(parts) != 3:
        raise argparse.ArgumentTypeError(f"a shape must be three integers, such as 128,2048,2048, got {text!r}")
    n_samples, n_in, n_out = (parse_positive(part) for part in parts)
    return n_samples, n_in, n_out


def measure(shape: tuple[int, int, int], p: float, rounds: int, dtype: str) -> dict[str, float]:
    """Time forward and backward passes; return each way's median over that without dropout, and that one in ms."""
    n_samples, n_in, n_out = shape
    rng = np.random.default_rng(0)
    x, dy = (rng.standard_normal((n_samples, n)).astype(dtype) for n in (n_in, n_out))
    layer = cd.FeatureDropoutLinear(n_in, n_out, p, rng=1, dtype=dtype)

    def step(*, training: bool, gathers: bool | None) -> None:
        layer.training = training
        rule = linear.gathering_pays if gathers is None else lambda *_: gathers
        with mock.patch.object(linear, "gathering_pays", rule):
            layer.forward(x)
            layer.backward(dy)

    medians = interleaved_medians(
        {
            "none": lambda: step(training=False, gathers=None),
            "full": lambda: step(training=True, gathers=False),
            "gathered": lambda: step(training=True, gathers=True),
            "rule": lambda: step(training=True, gathers=None),
        },
        rounds=rounds,
        seconds_per_turn=0.01,
    )
    return {name: seconds / medians["none"] for name, seconds in medians.items()} | {"ms": 1e3 * medians["none"]}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add --shapes."""
    parser.add_argument(
        "--shapes", type=parse_shape, nargs="+", default=SHAPES, metavar="N,IN,OUT", help="samples, inputs, outputs"
    )


def run(arguments: argparse.Namespace) -> None:
    """Measure every shape and p, and print a table."""

    def rows() -> Iterator[tuple[Any, ...]]:
        for shape, p in itertools.product(arguments.shapes, arguments.p):
            found = measure(shape, p, arguments.rounds, arguments.dtype)
            chosen = "" if linear.gathering_pays(shape[0], shape[1:], p) else "(full)"
            yield " x ".join(map(str, shape)), found["ms"], p, *(found[way] for way in WAYS), chosen

    with threadpool_limits(arguments.threads):
        introduce(arguments.dtype, arguments.rounds, ", over the layer without dropout")
        ways = ((way, "6.2f") for way in WAYS)
        Table(("samples x in x out", "20"), ("none, ms", "9.3f"), ("p", "5.2f"), *ways, ("", "<6")).show(rows())
