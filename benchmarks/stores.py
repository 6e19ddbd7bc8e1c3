"""From which size streaming stores pay: ordinary ones against streaming ones, alone and with a reader behind them.

    python benchmarks/stores.py

The library streams where what a call reads and writes outgrows the last-level cache (see outgrows_caches in
src/core/job.c).
"""

import argparse
import sys
from collections.abc import Callable

import numpy as np
from threadpoolctl import threadpool_limits
from timing import interleaved_medians, machine

import cdropout as cd
from cdropout import _kernels

SIZES = (1 << 20, 1 << 21, 5 << 19, 3 << 20, 7 << 19, 1 << 22, 1 << 23, 1 << 24)
ALWAYS, NEVER = 0, 1 << 62


def main() -> int:
    """Measure every size and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, metavar="N", help="numbers of elements")
    parser.add_argument("--rounds", type=int, default=31, help="rounds a size (default: %(default)s)")
    parser.add_argument("--dtype", choices=("float32", "float64", "float16"), default="float32")
    arguments = parser.parse_args()
    print(machine())
    print(f"{arguments.dtype}, p = 0.1, one thread, medians of {arguments.rounds} interleaved rounds, ratio to the")
    print("multiplication; last-level cache", _kernels.get_limits()["max_cached_bytes"] >> 20, "MiB\n")
    print(f"{'':>10} {'read and':>13}  {'alone':^20}  {'with y.sum() behind':^20}")
    print(
        f"{'elements':>10} {'written, MiB':>13}  {'ordinary':>9} {'streaming':>10}  {'ordinary':>9} {'streaming':>10}"
    )
    for n_elems in arguments.sizes:
        x = np.random.default_rng(0).standard_normal(n_elems).astype(arguments.dtype)
        y, scale, mask = np.ones_like(x), x.dtype.type(1 / 0.9), cd.draw_mask(n_elems, 0.1, rng=1)

        def apply(limit: int, x=x, y=y, mask=mask) -> None:
            _kernels.set_limits(max_cached_bytes=limit)
            mask.apply(x, out=y)

        def multiply(x=x, y=y, scale=scale) -> None:
            np.multiply(x, scale, out=y)

        calls: dict[str, Callable[[], object]] = {
            "multiply": multiply,
            "ordinary": lambda apply=apply: apply(NEVER),
            "streaming": lambda apply=apply: apply(ALWAYS),
        }
        for name, call in list(calls.items()):
            calls[f"{name}, sum"] = lambda call=call, y=y: (call(), y.sum())
        with threadpool_limits(1):
            medians = interleaved_medians(calls, rounds=arguments.rounds)
        alone = (medians[name] / medians["multiply"] for name in ("ordinary", "streaming"))
        read = (medians[f"{name}, sum"] / medians["multiply, sum"] for name in ("ordinary", "streaming"))
        print(
            f"{n_elems:>10} {2 * x.nbytes >> 20:>13}  {next(alone):>9.2f} {next(alone):>10.2f}  "
            f"{next(read):>9.2f} {next(read):>10.2f}",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
