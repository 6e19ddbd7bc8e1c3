"""From which size a second thread pays: one thread against two, in place and out of place.

    python benchmarks/threads.py
    python benchmarks/threads.py --at-once

The library's threshold (min_elems_per_thread in src/core/job.c) comes from this table. With --at-once: the throughput
of two threads of Python that call at the same time over that of one that calls alone, beside np.multiply.
"""

import argparse
import statistics
import sys
import threading
import time
from collections.abc import Callable

import numpy as np
from threadpoolctl import threadpool_limits
from timing import interleaved_medians, machine

import cdropout as cd
from cdropout import _kernels

SIZES = tuple(2**k for k in range(13, 25))


AT_ONCE_SIZES = tuple(4**k for k in range(6, 12))
AT_ONCE_SECONDS = 0.1


def at_once(rounds: int) -> None:
    """Print the throughput of two threads of Python, in calls a second, over that of one."""
    print(f"{'elements':>10}  {'dropout':>8} {'np.multiply':>12}")
    for n_elems in AT_ONCE_SIZES:
        arrays = [np.random.default_rng(i).standard_normal(n_elems, dtype=np.float32) for i in range(2)]
        outs, streams, scale = [np.ones_like(x) for x in arrays], cd.Stream(1).spawn(2), np.float32(1 / 0.9)
        kinds: dict[str, Callable[[int], object]] = {
            "dropout": lambda i, x=arrays, y=outs, s=streams: cd.dropout(x[i], 0.1, rng=s[i], out=y[i]),
            "multiply": lambda i, x=arrays, y=outs, scale=scale: np.multiply(x[i], scale, out=y[i]),
        }
        ratios: dict[str, list[float]] = {name: [] for name in kinds}
        n_calls = max(3, int(AT_ONCE_SECONDS / (n_elems * 1e-10 + 4e-7)))

        def repeat(call: Callable[[int], object], i: int, n_calls: int = n_calls) -> None:
            for _ in range(n_calls):
                call(i)

        with threadpool_limits(1):
            for _ in range(rounds):
                for name, call in kinds.items():
                    start = time.perf_counter()
                    repeat(call, 0)
                    alone = time.perf_counter() - start
                    threads = [threading.Thread(target=repeat, args=(call, i)) for i in range(2)]
                    start = time.perf_counter()
                    for thread in threads:
                        thread.start()
                    for thread in threads:
                        thread.join()
                    ratios[name].append(2 * alone / (time.perf_counter() - start))
        medians = [statistics.median(values) for values in ratios.values()]
        print(f"{n_elems:>10}  {medians[0]:>8.2f} {medians[1]:>12.2f}", flush=True)


def main() -> int:
    """Measure every size and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=101, help="rounds a size (default: %(default)s)")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--at-once", action="store_true", help="two threads of Python that call at the same time")
    arguments = parser.parse_args()
    print(machine())
    if arguments.at_once:
        print(f"throughput of two threads of Python over one's, medians of {arguments.rounds} rounds\n")
        at_once(arguments.rounds)
        return 0
    print(f"{arguments.dtype}, p = 0.1, medians of {arguments.rounds} interleaved rounds, ns an element\n")
    columns = f"{'1 thread':>9} {'2 threads':>9} {'ratio':>6}"
    print(f"{'':>10}  {'out of place':^26}  {'in place':^26}\n{'elements':>10}  {columns}  {columns}")
    for n_elems in SIZES:
        x = np.random.default_rng(0).standard_normal(n_elems, dtype=arguments.dtype)
        y, in_place = np.empty_like(x), x.copy()
        mask = cd.draw_mask(x.shape, 0.1, rng=1)

        def serial(a=x, out=y, mask=mask):
            _kernels.set_limits(min_elems_per_thread=1 << 62)
            mask.apply(a, out=out, scale=1.0)

        def parallel(a=x, out=y, mask=mask):
            _kernels.set_limits(min_elems_per_thread=1)
            mask.apply(a, out=out, scale=1.0)

        with threadpool_limits(2):
            medians = interleaved_medians(
                {
                    "limit": lambda: _kernels.set_limits(min_elems_per_thread=1),
                    "one": serial,
                    "two": parallel,
                    "one in place": lambda serial=serial, a=in_place: serial(a, a),
                    "two in place": lambda parallel=parallel, a=in_place: parallel(a, a),
                },
                rounds=arguments.rounds,
            )
        limit = medians.pop("limit")  # what every other contender begins with
        one, two, one_in_place, two_in_place = ((seconds - limit) / n_elems * 1e9 for seconds in medians.values())
        print(
            f"{n_elems:>10}  {one:>9.4f} {two:>9.4f} {two / one:>6.2f}  "
            f"{one_in_place:>9.4f} {two_in_place:>9.4f} {two_in_place / one_in_place:>6.2f}",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
