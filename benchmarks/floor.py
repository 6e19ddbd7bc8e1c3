"""Compare dropout with its floor, a multiplication into the same kind of output, on one thread.

Every contender's result is checked before it is timed. The question `compare` has all dtypes and alternatives.
"""

import argparse
import itertools

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

import cdropout as cd
from benchmarks.cases import OPERATIONS
from benchmarks.result_check import Expectation, check_result
from benchmarks.table import Table
from benchmarks.timing import interleaved_medians, introduce

SIZES = (4096, 65_536, 1_048_576, 16_777_216)
SHARED_OPTIONS = {"sizes": SIZES, "p": 0.1, "rounds": 101, "dtypes": ("float32", "float64")}


def array_at(values: npt.NDArray[np.floating], offset: int | None) -> npt.NDArray[np.floating]:
    """Copy values into memory that NumPy chooses, or that begins offset bytes past a multiple of 64."""
    if offset is None:
        return values.copy()
    memory = np.empty(values.nbytes + 128, np.uint8)
    begin = -memory.ctypes.data % 64 + offset
    placed = memory[begin : begin + values.nbytes].view(values.dtype)
    placed[...] = values
    return placed


def measure(n_elems: int, p: float, dtype: str, rounds: int, offset: int | None) -> list[tuple[int, str, float, float]]:
    """Time one size; return rows of (elements, contender, ns an element, ratio to its floor)."""
    values = np.random.default_rng(0).standard_normal(n_elems, dtype=dtype)
    values[values == 0] = 1
    x, y, in_place = (array_at(values, offset) for _ in range(3))
    scale = x.dtype.type(1 / (1 - p))
    stream = cd.Stream(1)
    mask = cd.draw_mask(x.shape, p, rng=stream)
    layer = cd.Dropout(p, rng=stream)
    expectation = Expectation(p, 1 / (1 - p), OPERATIONS["forward"])
    check_result(cd.dropout(x, p, rng=stream, out=y), x, expectation)
    check_result(mask.apply(x, out=y), x, expectation)
    medians = interleaved_medians(
        {
            "np.multiply(x, s, out=y)": lambda: np.multiply(x, scale, out=y),
            "dropout(x, p, rng=stream, out=y)": lambda: cd.dropout(x, p, rng=stream, out=y),
            "mask.apply(x, out=y)": lambda: mask.apply(x, out=y),
            "np.multiply(x, s), fresh": lambda: np.multiply(x, scale),
            "dropout(x, p, rng=stream), fresh": lambda: cd.dropout(x, p, rng=stream),
            "layer.forward(x), fresh": lambda: layer.forward(x),
            # In place, a scale of 1 and one mask keep the values finite, and the kept ones nonzero.
            "np.multiply(x, 1, out=x)": lambda: np.multiply(in_place, x.dtype.type(1), out=in_place),
            "mask.apply(x, out=x, scale=1)": lambda: mask.apply(in_place, out=in_place, scale=1.0),
        },
        rounds=rounds,
    )
    floors = {
        "out=y": medians["np.multiply(x, s, out=y)"],
        "fresh": medians["np.multiply(x, s), fresh"],
        "out=x": medians["np.multiply(x, 1, out=x)"],
    }
    return [
        (n_elems, name, seconds / n_elems * 1e9, seconds / floor)
        for name, seconds in medians.items()
        for kind, floor in floors.items()
        if kind in name
    ]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add --offset."""
    parser.add_argument(
        "--offset",
        type=int,
        choices=range(64),
        metavar="BYTES",
        help="place the arrays this far past a multiple of 64 (default: where NumPy puts them)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Measure every size and print a table."""
    with threadpool_limits(1):
        introduce(f"{arguments.dtype}, p = {arguments.p}", arguments.rounds)
        rows = (
            measure(n_elems, arguments.p, arguments.dtype, arguments.rounds, arguments.offset)
            for n_elems in arguments.sizes
        )
        table = Table(("elements", "10"), ("", "<34"), ("ns/element", "10.4f"), ("ratio", "5.2f"))
        table.show(itertools.chain.from_iterable(rows))
