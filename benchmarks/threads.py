"""From which size a second thread pays: one thread against two, in place and out of place.

    python benchmarks/threads.py

The library's threshold (min_elems_per_thread in src/job.pxi) comes from this table.
"""

import argparse
import sys

import numpy as np
from threadpoolctl import threadpool_limits
from timing import interleaved_medians, machine

import cdropout as cd
from cdropout import _kernels

SIZES = tuple(2**k for k in range(13, 25))


def main() -> int:
    """Measure every size and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=101, help="rounds a size (default: %(default)s)")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    arguments = parser.parse_args()
    print(machine())
    print(f"{arguments.dtype}, p = 0.1, medians of {arguments.rounds} interleaved rounds, ns an element\n")
    columns = f"{'1 thread':>9} {'2 threads':>9} {'ratio':>6}"
    print(f"{'':>10}  {'out of place':^26}  {'in place':^26}\n{'elements':>10}  {columns}  {columns}")
    for n_elems in SIZES:
        x = np.random.default_rng(0).standard_normal(n_elems, dtype=arguments.dtype)
        y, in_place = np.empty_like(x), x.copy()
        mask = cd.draw_mask(x.shape, 0.1, rng=1)

        def serial(a=x, out=y, mask=mask):
            _kernels.set_min_elems_per_thread(1 << 62)
            mask.apply(a, out=out, scale=1.0)

        def parallel(a=x, out=y, mask=mask):
            _kernels.set_min_elems_per_thread(1)
            mask.apply(a, out=out, scale=1.0)

        with threadpool_limits(2):
            medians = interleaved_medians(
                {
                    "one": serial,
                    "two": parallel,
                    "one in place": lambda serial=serial, a=in_place: serial(a, a),
                    "two in place": lambda parallel=parallel, a=in_place: parallel(a, a),
                },
                rounds=arguments.rounds,
            )
        one, two, one_in_place, two_in_place = (seconds / n_elems * 1e9 for seconds in medians.values())
        print(
            f"{n_elems:>10}  {one:>9.4f} {two:>9.4f} {two / one:>6.2f}  "
            f"{one_in_place:>9.4f} {two_in_place:>9.4f} {two_in_place / one_in_place:>6.2f}",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
