"""Compare streaming stores with ordinary ones, alone and with a reader behind them.

The library streams if a call reads and writes more bytes than the last-level cache has (see outgrows_caches in
src/core/job.c).
"""

import argparse
from collections.abc import Callable

import numpy as np
from threadpoolctl import threadpool_limits

import cdropout as cd
from benchmarks.table import Table
from benchmarks.timing import interleaved_medians, introduce
from cdropout import _kernels

SIZES = (1 << 20, 1 << 21, 5 << 19, 3 << 20, 7 << 19, 1 << 22, 1 << 23, 1 << 24)
ALWAYS, NEVER = 0, 1 << 62
READ = " + y.sum()"
SHARED_OPTIONS = {"sizes": SIZES, "rounds": 31, "dtypes": ("float32", "float64", "float16")}


def measure(n_elems: int, dtype: str, rounds: int) -> tuple[float, ...]:
    """Return the elements, MiB read and written, and times over the multiplication: of both stores, also when read."""
    x = np.random.default_rng(0).standard_normal(n_elems).astype(dtype)
    y, scale, mask = np.ones_like(x), x.dtype.type(1 / 0.9), cd.draw_mask(n_elems, 0.1, rng=1)

    def apply(limit: int) -> None:
        _kernels.set_limits(max_cached_bytes=limit)
        mask.apply(x, out=y)

    calls: dict[str, Callable[[], object]] = {
        "multiply": lambda: np.multiply(x, scale, out=y),
        "ordinary": lambda: apply(NEVER),
        "streaming": lambda: apply(ALWAYS),
    }
    calls |= {f"{name}{READ}": lambda call=call: (call(), y.sum()) for name, call in calls.items()}
    with threadpool_limits(1):
        medians = interleaved_medians(calls, rounds=rounds)
    ratios = (medians[way + of] / medians[f"multiply{of}"] for of in ("", READ) for way in ("ordinary", "streaming"))
    return n_elems, 2 * x.nbytes >> 20, *ratios


def run(arguments: argparse.Namespace) -> None:
    """Measure every size and print a table."""
    cache = _kernels.get_limits()["max_cached_bytes"] >> 20
    setting = f"{arguments.dtype}, p = 0.1, one thread, last-level cache {cache} MiB"
    introduce(setting, arguments.rounds, " over the multiplication")
    stores = [(way + of, "9.2f") for of in ("", READ) for way in ("ordinary", "streaming")]
    table = Table(("elements", "10"), ("MiB", "6"), *stores)
    table.show(measure(n_elems, arguments.dtype, arguments.rounds) for n_elems in arguments.sizes)
