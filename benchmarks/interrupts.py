"""What it costs to look for signals: calls in slices, between which Ctrl-C is heard, against calls in one piece.

    python benchmarks/interrupts.py

One piece is one slice for each thread.
"""

import argparse
import sys

import numpy as np
from threadpoolctl import threadpool_limits
from timing import interleaved_medians, machine

import cdropout as cd
from cdropout import _kernels

SIZES = (1 << 23, 1 << 24, 1 << 26)


def measure(n_elems: int, n_threads: int, rounds: int) -> tuple[float, float]:
    """Return ns an element of a call in one piece, and the ratio of one in slices to it."""
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


def main(argv: list[str] | None = None) -> int:
    """Measure every size and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, metavar="N", help="numbers of elements")
    parser.add_argument("--threads", type=int, nargs="+", default=(1, 2), metavar="N", help="numbers of threads")
    parser.add_argument("--rounds", type=int, default=51, help="rounds a size (default: %(default)s)")
    arguments = parser.parse_args(argv)
    print(machine())
    print(f"float32, p = 0.1, mask.apply(x, out=y), medians of {arguments.rounds} interleaved rounds\n")
    print(f"{'elements':>10} {'threads':>8} {'in one piece, ns/element':>25} {'in slices':>10}")
    for n_elems in arguments.sizes:
        for n_threads in arguments.threads:
            nanoseconds, ratio = measure(n_elems, n_threads, arguments.rounds)
            print(f"{n_elems:>10} {n_threads:>8} {nanoseconds:>25.4f} {ratio:>10.3f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
