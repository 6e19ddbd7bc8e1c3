"""Time dropout beside busy processes: the default threads over one thread.

As many processes as there are CPUs compute without end. Beside them a process with the default threads and one with
OMP_NUM_THREADS=1 take turns, each for --seconds. Without --idle nothing else should run on the machine. A call is late
if it took 2 ms longer than the median, as calls do that lose their CPU; where about 1 % of the calls are late, it is
chance whether the 99th percentile is one of them.
"""

import argparse
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import numpy as np

from benchmarks.table import Table
from benchmarks.timing import introduce

SHARED_OPTIONS = {"rounds": 4, "sizes": (1 << 19, 1 << 20, 1 << 22, 1 << 24), "p": 0.1}
CALLS = """
import sys, time
import numpy as np, cdropout as cd
n_elems, p, seconds = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
x = np.random.default_rng(0).standard_normal(n_elems, dtype=np.float32)
y, stream, times = np.empty_like(x), cd.Stream(1), []
end = time.perf_counter() + seconds
while (began := time.perf_counter()) < end:
    cd.dropout(x, p, rng=stream, out=y)
    times.append(time.perf_counter() - began)
print(*times)
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this question alone."""
    parser.add_argument(
        "--seconds", type=float, default=3.0, metavar="S", help="length of a turn (default: %(default)s)"
    )
    parser.add_argument("--idle", action="store_true", help="start no busy processes")


def compute_without_end() -> None:
    """Keep a CPU busy."""
    while True:
        sum(range(10_000))


@contextmanager
def busy_processes(n: int) -> Iterator[None]:
    """Run n processes that compute within a `with` block."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=compute_without_end, daemon=True) for _ in range(n)]
    for process in processes:
        process.start()
    try:
        time.sleep(1.0 if n else 0.0)  # until all of them compute
        yield
    finally:
        for process in processes:
            process.terminate()


def times_of_calls(n_elems: int, p: float, seconds: float, variables: dict[str, str]) -> list[float]:
    """Return the seconds of each call in a process with these environment variables."""
    command = [sys.executable, "-P", "-c", CALLS, str(n_elems), str(p), str(seconds)]
    run = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, check=True)
    return [float(word) for word in run.stdout.split()]


def statistics(times: list[float]) -> np.ndarray:
    """Return the median and the 99th percentile in milliseconds, and the percentage of late calls."""
    milliseconds = 1e3 * np.array(times)
    median = np.median(milliseconds)
    return np.array([median, np.percentile(milliseconds, 99), 100 * np.mean(milliseconds > median + 2)])


def run(arguments: argparse.Namespace) -> None:
    """Print a row for each size."""
    n_cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    def rows() -> Iterator[tuple[float, ...]]:
        for n_elems in arguments.sizes:
            found: dict[str, list[float]] = {"one": [], "default": []}
            for _ in range(arguments.rounds):
                for name, variables in (("one", {"OMP_NUM_THREADS": "1"}), ("default", {})):
                    found[name] += times_of_calls(n_elems, arguments.p, arguments.seconds, variables)
            one, default = (statistics(times) for times in found.values())
            yield n_elems, *one, *default, *(default[:2] / one[:2])

    with busy_processes(0 if arguments.idle else n_cpus):
        introduce(f"float32, p = {arguments.p}, milliseconds", arguments.rounds, f" of {arguments.seconds:g} s")
        columns = ([(f"{name}: median", "7.3f"), ("p99", "7.3f"), ("late, %", "5.2f")] for name in ("one", "default"))
        Table(("elements", "10"), *chain(*columns), ("ratio: median", "5.2f"), ("p99", "5.2f")).show(rows())
