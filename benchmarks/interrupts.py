"""Time calls in slices, between which Ctrl-C is heard, over calls in one piece.

One piece is one slice for each thread.
"""

import argparse
import itertools

import numpy as np
from threadpoolctl import threadpool_limits

import cdropout as cd
from benchmarks.table import Table
from benchmarks.timing import interleaved_medians, introduce
from cdropout import _kernels

SIZES = (1 << 23, 1 << 24, 1 << 26)
SHARED_OPTIONS = {"sizes": SIZES, "threads": (1, 2), "rounds": 51}


def measure(n_elems: int, n_threads: int, rounds: int) -> tuple[float, float]:
    """Return ns an element of a call in one piece, and the ratio of a call in slices to it."""
    x = np.random.default_rng(0).standard_normal(n_elems, dtype=np.float32)
    y, mask, limits = np.empty_like(x), cd.draw_mask(x.shape, 0.1, rng=1), _kernels.get_limits()

    def apply(elems_of_a_slice: int) -> None:
        _kernels.set_limits(max_elems_per_slice=elems_of_a_slice)
        mask.apply(x, out=y)

    try:
        with threadpool_limits(n_threads):
            medians = interleaved_medians(
                {"whole": lambda: apply(n_elems), "sliced": lambda: apply(limits["max_elems_per_slice"])}, rounds=rounds
            )
    finally:
        _kernels.set_limits(**limits)
    return medians["whole"] / n_elems * 1e9, medians["sliced"] / medians["whole"]


def run(arguments: argparse.Namespace) -> None:
    """Measure every size and print a table."""
    introduce("float32, p = 0.1, mask.apply(x, out=y)", arguments.rounds)
    table = Table(("elements", "10"), ("threads", "8"), ("in one piece, ns/element", "25.4f"), ("in slices", "10.3f"))
    cases = itertools.product(arguments.sizes, arguments.threads)
    table.show((*case, *measure(*case, arguments.rounds)) for case in cases)
