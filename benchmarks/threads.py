"""Time one thread and two, to find the size from which a second thread pays.

The library's threshold (min_elems_per_thread in src/core/job.c) comes from this table. With --at-once: the throughput
of two threads of Python that call at the same time over that of one that calls alone, beside np.multiply. With
--decisions: the forms of a mask's decisions, and `bernoulli` with a probability for each element.
"""

import argparse
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

import cdropout as cd
from benchmarks.table import Table
from benchmarks.timing import interleaved_medians, introduce
from cdropout import _kernels

SIZES = tuple(2**k for k in range(13, 25))
DECISION_SIZES = SIZES[:-2]
AT_ONCE_SIZES = tuple(4**k for k in range(6, 12))
AT_ONCE_SECONDS = 0.1
SECONDS_PER_TURN = 0.005
SHARED_OPTIONS = {"rounds": 101, "dtypes": ("float32", "float64")}


def seconds_of_threads(repeat: Callable[[int], object], n_threads: int) -> float:
    """Return the time that threads take together, from the start of the first; each calls repeat with its number."""
    threads = [threading.Thread(target=repeat, args=(i,)) for i in range(n_threads)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - start


def measure_at_once(n_elems: int, rounds: int) -> tuple[float, ...]:
    """Return the elements, and the throughput of two threads of Python over one's: dropout's and np.multiply's."""
    x = [np.random.default_rng(i).standard_normal(n_elems, dtype=np.float32) for i in range(2)]
    y, streams, scale = [np.ones_like(each) for each in x], cd.Stream(1).spawn(2), np.float32(1 / 0.9)
    n_calls = max(3, int(AT_ONCE_SECONDS / (n_elems * 1e-10 + 4e-7)))

    def dropout(i: int) -> None:
        for _ in range(n_calls):
            cd.dropout(x[i], 0.1, rng=streams[i], out=y[i])

    def multiply(i: int) -> None:
        for _ in range(n_calls):
            np.multiply(x[i], scale, out=y[i])

    ratios: dict[Callable[[int], None], list[float]] = {dropout: [], multiply: []}
    with threadpool_limits(1):
        for _ in range(rounds):
            for repeat, found in ratios.items():
                start = time.perf_counter()
                repeat(0)
                alone = time.perf_counter() - start
                found.append(2 * alone / seconds_of_threads(repeat, 2))
    return n_elems, *(statistics.median(found) for found in ratios.values())


class Limit:
    """Change the library's limit of elements of a thread, only where another one is asked for.

    After a change, the next call of two threads reads the CPU quota, in the time of a call on 65,536 elements or more:
    the first call of a turn does, and the others of the turn do not.
    """

    def __init__(self) -> None:
        self.now = 0

    def set(self, min_elems_per_thread: int) -> None:
        """Change the limit, unless it is this one."""
        if min_elems_per_thread != self.now:
            _kernels.set_limits(min_elems_per_thread=min_elems_per_thread)
            self.now = min_elems_per_thread


def measure(n_elems: int, dtype: str, rounds: int) -> tuple[float, ...]:
    """Return the elements, and of calls out of place and in place: ns of one thread and of two, and their ratio."""
    x = np.random.default_rng(0).standard_normal(n_elems, dtype=dtype)
    y, in_place = np.empty_like(x), x.copy()
    mask, limit = cd.draw_mask(x.shape, 0.1, rng=1), Limit()

    def apply(min_elems_per_thread: int, a: Any, out: Any) -> None:
        limit.set(min_elems_per_thread)
        mask.apply(a, out=out, scale=1.0)

    with threadpool_limits(2):
        medians = interleaved_medians(
            {
                "one": lambda: apply(1 << 62, x, y),
                "two": lambda: apply(1, x, y),
                "one in place": lambda: apply(1 << 62, in_place, in_place),
                "two in place": lambda: apply(1, in_place, in_place),
            },
            rounds=rounds,
            seconds_per_turn=SECONDS_PER_TURN,
        )
    one, two, one_in_place, two_in_place = (seconds / n_elems * 1e9 for seconds in medians.values())
    return n_elems, one, two, two / one, one_in_place, two_in_place, two_in_place / one_in_place


def decisions(n_elems: int) -> dict[str, Callable[[], object]]:
    """Return calls for the decisions on n_elems elements."""
    mask, stream = cd.draw_mask(n_elems, 0.1, rng=1), cd.Stream(1)
    p, drawn = np.full(n_elems, 0.1), np.empty(n_elems, bool)
    return {
        "count": mask.count,
        "packed": mask.packed,
        "indices": mask.indices,
        "keep": lambda: mask.keep(drawn),
        "bernoulli, own p": lambda: cd.bernoulli(n_elems, p, rng=stream, out=drawn),
    }


def measure_decisions(n_elems: int, rounds: int) -> tuple[float, ...]:
    """Return the elements, and for each call of `decisions` the ratio of two threads' time to that of one."""
    limit = Limit()

    def limited(call: Callable[[], object], min_elems_per_thread: int) -> None:
        limit.set(min_elems_per_thread)
        call()

    ratios = []
    with threadpool_limits(2):
        for call in decisions(n_elems).values():
            medians = interleaved_medians(
                {
                    "one": lambda call=call: limited(call, 1 << 62),
                    "two": lambda call=call: limited(call, 1),
                },
                rounds=rounds,
                seconds_per_turn=SECONDS_PER_TURN,
            )
            ratios.append(medians["two"] / medians["one"])
    return n_elems, *ratios


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add --at-once and --decisions."""
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--at-once", action="store_true", help="two threads of Python that call at the same time")
    other.add_argument("--decisions", action="store_true", help="the forms of a mask's decisions")


def run(arguments: argparse.Namespace) -> None:
    """Measure every size and print a table."""
    rounds = arguments.rounds
    if arguments.at_once:
        introduce("throughput of two threads of Python over one's", rounds)
        table = Table(("elements", "10"), ("dropout", "8.2f"), ("np.multiply", "12.2f"))
        table.show(measure_at_once(n_elems, rounds) for n_elems in AT_ONCE_SIZES)
        return
    if arguments.decisions:
        introduce("p = 0.1, two threads' time over one's", rounds)
        table = Table(("elements", "10"), *((name, "7.2f") for name in decisions(1)))
        table.show(measure_decisions(n_elems, rounds) for n_elems in DECISION_SIZES)
        return
    introduce(f"{arguments.dtype}, p = 0.1, out of place and then in place", rounds, ", ns an element")
    columns = (("1 thread", "9.4f"), ("2 threads", "9.4f"), ("ratio", "6.2f"))
    table = Table(("elements", "10"), *columns, *columns)
    table.show(measure(n_elems, arguments.dtype, rounds) for n_elems in SIZES)
