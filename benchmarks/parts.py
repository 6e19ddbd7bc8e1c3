"""Time parts of a mask cut along inner axes, `mask[:, :columns].apply(x)`, over np.multiply.

A row of the part takes a run of the mask's positions. Seeding starts the generator anew for each row; gathering makes
the keep words of whole blocks and copies out the bits of the rows. The library gathers if rows are at most
max_gathered_stride positions apart (src/core/job.c): that number comes from this table.

With --repeats, the parts are of masks whose last axis is shared, and the ratios are to whole masks of as many elements.
"""

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

import cdropout as cd
from benchmarks.options import parse_positive
from benchmarks.table import Table
from benchmarks.timing import interleaved_medians, introduce
from cdropout import _kernels

N_ELEMS = 1 << 20
MAX_GATHERED_STRIDE = _kernels.get_limits()["max_gathered_stride"]
STRIDES = (16, 64, 256, 1024, 2048, 4096, 16_384, 65_536)
WAYS = ("seeded", "gathered", "chosen")
SHARED_OPTIONS = {"rounds": 31}

# Channels of an image, features far apart, every second channel, and an eighth of the features.
CUTS: dict[str, tuple[int, slice]] = {
    "32 of 64": (64, slice(32)),
    "2,048 of 4,096": (4096, slice(2048)),
    "every 2nd of 64": (64, slice(None, None, 2)),
    "512 of 4,096": (4096, slice(512)),
}
OPERATIONS = ("apply", "keep", "select, uint8", "select, int64", "scaled", "packed")


def measure(stride: int, columns: int, rounds: int) -> dict[str, float]:
    """Return the seconds of each way to apply a part of this many columns, in rows this many positions apart."""
    n_rows = N_ELEMS // columns
    x = np.random.default_rng(0).standard_normal((n_rows, columns), dtype=np.float32)
    y, scale = np.empty_like(x), np.float32(1 / 0.9)
    part = cd.Mask(1, 0, 0.1, (n_rows, stride))[:, :columns]

    def apply(max_gathered_stride: int) -> None:
        _kernels.set_limits(max_gathered_stride=max_gathered_stride)
        part.apply(x, out=y)

    contenders = {
        "multiply": lambda: np.multiply(x, scale, out=y),
        "seeded": lambda: apply(0),
        "gathered": lambda: apply(stride),
        "chosen": lambda: apply(MAX_GATHERED_STRIDE),
    }
    try:
        return interleaved_medians(contenders, rounds=rounds)
    finally:
        _kernels.set_limits(max_gathered_stride=MAX_GATHERED_STRIDE)


def operations(mask: cd.Mask) -> list[Callable[[], Any]]:
    """Return calls of a mask, in the order of OPERATIONS."""
    x, pixels, tokens = (np.ones(mask.shape, dtype) for dtype in (np.float32, np.uint8, np.int64))
    keep = np.empty(mask.shape, bool)
    return [
        lambda: mask.apply(x, out=x, scale=1.0),
        lambda: mask.keep(keep),
        lambda: mask.select(pixels, out=pixels),
        lambda: mask.select(tokens, out=tokens),
        mask.scaled,
        mask.packed,
    ]


def measure_repeats(n_columns: int, cut: slice, n_repeats: int, rounds: int) -> list[float]:
    """Return the ratio of each operation on a part to that on a whole mask of the same number of elements."""
    n_kept = len(range(*cut.indices(n_columns)))
    n_rows = max(1, N_ELEMS // (n_kept * n_repeats))
    part = cd.Mask(1, 0, 0.1, (n_rows, n_columns, n_repeats), 2)[:, cut]
    whole = cd.Mask(1, 0, 0.1, (n_rows, n_kept, n_repeats), 2)
    contenders = {
        f"{kind} {name}": call
        for kind, mask in (("part", part), ("whole", whole))
        for name, call in zip(OPERATIONS, operations(mask), strict=True)
    }
    seconds = interleaved_medians(contenders, rounds=rounds)
    return [seconds[f"part {name}"] / seconds[f"whole {name}"] for name in OPERATIONS]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add --repeats."""
    parser.add_argument("--repeats", type=parse_positive, nargs="+", metavar="N", help="elements that share a decision")


def run(arguments: argparse.Namespace) -> None:
    """Measure every stride with parts of all, half and an eighth of its columns, and print a table."""

    def rows() -> Iterator[tuple[float, ...]]:
        for stride in STRIDES:
            for columns in (stride // 8, stride // 2, stride - 1):
                seconds = measure(stride, columns, arguments.rounds)
                yield columns, stride, *(seconds[way] / seconds["multiply"] for way in WAYS)

    def rows_of_repeats() -> Iterator[tuple[Any, ...]]:
        for n_repeats in arguments.repeats:
            for name, (n_columns, cut) in CUTS.items():
                yield name, n_repeats, *measure_repeats(n_columns, cut, n_repeats, arguments.rounds)

    setting = f"float32, p = 0.1, {N_ELEMS} elements, one thread"
    if arguments.repeats:
        introduce(setting, arguments.rounds, " over the whole mask")
        with threadpool_limits(1):
            table = Table(("part", "<16"), ("repeats", "7"), *((name, "7.2f") for name in OPERATIONS))
            table.show(rows_of_repeats())
        return
    introduce(setting, arguments.rounds, " over np.multiply(x, s, out=y)")
    with threadpool_limits(1):
        Table(("columns of", "10"), ("stride", "7"), *((way, "8.2f") for way in WAYS)).show(rows())
