"""The measurement of `python -m cdropout bench`: dropout compared with NumPy on this machine, within seconds."""

import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

import cdropout as cd
from cdropout import _kernels
from cdropout.bench.numpy_code import WRITE_UPS, Array, best_dropout, write_up_dropout
from cdropout.bench.timing import interleaved_times

ELEM_BYTES = 4  # float32
# Fallback when the caches' sizes are unknown: bytes of L2 and L3 of a usual processor.
USUAL_CACHES = {2: 1 << 20, 3: 32 << 20}
MEMORY_ELEMS = (1 << 24, 1 << 26)
# Fewest elements for which a call takes a second thread (docs/design.md, "Threads").
LEAST_ELEMS_FOR_TWO = 1 << 19
N_DRAWN = 1 << 20
LEAST_ROUNDS, MOST_ROUNDS = 3, 201
# An array dropped in place is refilled before less than this share of its elements is left.
LEAST_SHARE_LEFT = 0.25
# OpenMP's threads spin for some milliseconds after their work, which slows the next contender.
SETTLE_SECONDS = 0.003

OUT_OF_PLACE, IN_PLACE = "out of place", "in place"
FLOORS = {OUT_OF_PLACE: "np.multiply(x, s, out=y)", IN_PLACE: "np.multiply(x, s, out=x)"}
OURS = {OUT_OF_PLACE: "cdropout.dropout(x, p, out=y)", IN_PLACE: "cdropout.dropout(x, p, out=x)"}
BEST = "NumPy, the best known"


@dataclass(frozen=True)
class Turn:
    """One comparison of all contenders, for one size, one kind of output and one number of threads.

    Attributes
    ----------
    place : str
        Level of memory that the arrays fill: "L2", "L3" or "memory".
    n_elems : int
    kind : str
        `OUT_OF_PLACE` or `IN_PLACE`.
    n_threads : int
        Number of threads that cdropout may use; NumPy uses one.
    weight : float
        Share of the measuring time, relative to the sum of all weights.

    """

    place: str
    n_elems: int
    kind: str
    n_threads: int
    weight: float


@dataclass(frozen=True)
class Figure:
    """A contender's median over the rounds of a turn.

    Attributes
    ----------
    contender : str
        The contender's code.
    place, n_elems, kind, n_threads
        As in `Turn`.
    ns_per_elem : float
    ratio : float
        Ratio of the time to that of the multiplication of the same turn.

    """

    contender: str
    place: str
    n_elems: int
    kind: str
    n_threads: int
    ns_per_elem: float
    ratio: float


class WrongResultError(Exception):
    """Dropout's result differs from its mask's decisions, and is therefore not timed."""


def sizes(caches: dict[int, int]) -> dict[str, int]:
    """Return numbers of float32 elements whose input and output fill half of L2, half of L3, and more than any cache.

    Parameters
    ----------
    caches : dict of int to int
        Sizes in bytes by level, as `_kernels.cache_bytes` returns them.

    """
    caches = caches or USUAL_CACHES
    found = {
        f"L{level}": 1 << int(math.log2(caches[level] / (4 * ELEM_BYTES))) for level in sorted(caches) if level > 1
    }
    least, most = MEMORY_ELEMS
    four_times_the_last = 4 * max(caches.values()) // (2 * ELEM_BYTES)
    found["memory"] = min(most, max(least, 1 << math.ceil(math.log2(four_times_the_last))))
    return found


def turns(by_place: dict[str, int], n_threads: int) -> list[Turn]:
    """Return all turns; with arrays in memory, a few rounds of NumPy's code need about half of the time."""
    found = []
    for place, n_elems in by_place.items():
        found.append(Turn(place, n_elems, OUT_OF_PLACE, 1, 8.0 if place == "memory" else 1.0))
        found.append(Turn(place, n_elems, IN_PLACE, 1, 1.0))
        if n_threads > 1 and n_elems >= LEAST_ELEMS_FOR_TWO:
            found += [Turn(place, n_elems, kind, n_threads, 1.0) for kind in (OUT_OF_PLACE, IN_PLACE)]
    return found


def measure(
    p: float, seconds: float, progress: Callable[[float], object] = lambda seconds_done: None
) -> Iterator[list[Figure]]:
    """Measure all turns, in about the given number of seconds.

    Parameters
    ----------
    p : float
        The probability of dropping, in (0, 1).
    seconds : float
        Total time, above 0. Each turn has at least three rounds, however long they take.
    progress : callable
        Called after each round with the number of seconds since the start.

    Yields
    ------
    list of Figure
        The figures of one turn, the multiplication first.

    Raises
    ------
    WrongResultError
        If dropout's result differs from its mask's decisions; the check precedes the timing.

    """
    plan = turns(sizes(_kernels.cache_bytes()), _kernels.thread_limit())
    total_weight = sum(turn.weight for turn in plan)
    start = time.perf_counter()
    checked = set()
    for turn in plan:
        until = time.perf_counter() + seconds * turn.weight / total_weight

        def stop(rounds_done: int, until: float = until) -> bool:
            now = time.perf_counter()
            progress(now - start)
            return rounds_done >= LEAST_ROUNDS and now >= until

        # Repeating the first values changes no kernel's time, and drawing all of them would take longer than measuring.
        x = np.resize(np.random.default_rng(0).standard_normal(min(turn.n_elems, N_DRAWN), np.float32), turn.n_elems)
        with threadpool_limits(turn.n_threads, user_api="openmp"):
            if (turn.n_elems, turn.n_threads) not in checked:
                check(x, p)
                checked.add((turn.n_elems, turn.n_threads))
            figures = _measure_turn(turn, x, p, stop)
        yield figures


def _measure_turn(turn: Turn, x: Array, p: float, stop: Callable[[int], bool]) -> list[Figure]:
    out = np.empty_like(x) if turn.kind == OUT_OF_PLACE else x
    options: dict[str, Any] = {"settle_seconds": SETTLE_SECONDS} if turn.n_threads > 1 else {}
    if turn.kind == IN_PLACE:
        unchanged = x.copy()
        options["refresh"] = lambda: np.copyto(x, unchanged)
        options["calls_per_refresh"] = max(1, int(math.log(LEAST_SHARE_LEFT) / math.log1p(-p)))
    with np.errstate(over="ignore"):  # repeated multiplication in place overflows
        times = interleaved_times(contenders(x, out, p, turn), rounds=MOST_ROUNDS, stop=stop, progress=False, **options)
    medians = {name: statistics.median(values) for name, values in times.items()}
    floor = medians[FLOORS[turn.kind]]
    return [
        Figure(name, turn.place, turn.n_elems, turn.kind, turn.n_threads, median / turn.n_elems * 1e9, median / floor)
        for name, median in medians.items()
    ]


def contenders(x: Array, out: Array, p: float, turn: Turn) -> dict[str, Callable[[], object]]:
    """Return a turn's calls, the multiplication first; NumPy's dropout is only in turns out of place on one thread."""
    scale, stream = np.float32(1 / (1 - p)), cd.Stream(1)
    calls: dict[str, Callable[[], object]] = {
        FLOORS[turn.kind]: lambda: np.multiply(x, scale, out=out),
        OURS[turn.kind]: lambda: cd.dropout(x, p, rng=stream, out=out),
    }
    if turn.n_threads == 1 and turn.kind == OUT_OF_PLACE:
        calls[BEST] = best_dropout(x, out, p)
        calls |= {written.code: write_up_dropout(name, x, p) for name, written in WRITE_UPS.items()}
    return calls


def check(x: Array, p: float) -> None:
    """Raise WrongResultError unless dropout of x equals, bit for bit, NumPy's result from the mask's decisions."""
    mask = cd.draw_mask(x.shape, p, rng=1)
    expected = np.where(mask.keep(), x * np.float32(1 / (1 - p)), np.float32(0))
    result = cd.dropout(x, p, rng=1)
    if not np.array_equal(result, expected):
        n_wrong = np.count_nonzero(result != expected)
        raise WrongResultError(
            f"dropout must give the bits of its mask with {_kernels.active_isa()}, and {n_wrong} of {x.size} elements "
            "are others: please report it with the output of python -m cdropout --json"
        )
