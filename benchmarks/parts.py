"""Time parts of a mask cut along inner axes, `mask[:, :columns].apply(x)`, over np.multiply.

A row of the part takes a run of the mask's positions. Seeding starts the generator anew for each row; gathering makes
the keep words of whole blocks and copies out the bits of the rows. The library gathers if rows are at most
max_gathered_stride positions apart (src/core/job.c): that number comes from this table.
"""

import argparse
from collections.abc import Iterator

import numpy as np
from threadpoolctl import threadpool_limits

import cdropout as cd
from benchmarks.table import Table
from benchmarks.timing import interleaved_medians, introduce
from cdropout import _kernels

N_ELEMS = 1 << 20
MAX_GATHERED_STRIDE = _kernels.get_limits()["max_gathered_stride"]
STRIDES = (16, 64, 256, 1024, 2048, 4096, 16_384, 65_536)
WAYS = ("seeded", "gathered", "chosen")
SHARED_OPTIONS = {"rounds": 31}


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


def run(arguments: argparse.Namespace) -> None:
    """Measure every stride with parts of all, half and an eighth of its columns, and print a table."""

    def rows() -> Iterator[tuple[float, ...]]:
        for stride in STRIDES:
            for columns in (stride // 8, stride // 2, stride - 1):
                seconds = measure(stride, columns, arguments.rounds)
                yield columns, stride, *(seconds[way] / seconds["multiply"] for way in WAYS)

    setting = f"float32, p = 0.1, {N_ELEMS} elements, one thread"
    introduce(setting, arguments.rounds, " over np.multiply(x, s, out=y)")
    with threadpool_limits(1):
        Table(("columns of", "10"), ("stride", "7"), *((way, "8.2f") for way in WAYS)).show(rows())
