"""Measure cases: make the contenders of each, check their results, then time them and the floor in turns."""

import importlib.metadata
import math
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from benchmarks.cases import OPERATIONS, Array, Case, Skip, probe_dtype
from benchmarks.contenders import CONTENDERS, Call, Contender, first_line
from benchmarks.result_check import Expectation, WrongResultError, check_result
from benchmarks.timing import interleaved_times, machine_facts

# After this many rounds, a group may end if its time is up.
LEAST_ROUNDS = 3

# GNU's OpenMP lets threads spin for 300,000 pauses after a parallel region: 15 ms where a pause takes 140 cycles.
_SETTLE_SECONDS = 0.02
_N_COMPARED = 1 << 16
_CALLS_BEFORE = 3  # the rounds: two to check, one to find out how long it takes
_DISTRIBUTIONS = ("ml_dtypes", "torch", "jax", "numba", "mkl_random", "onnxruntime", "mlx")


@dataclass(frozen=True)
class Plan:
    """Hold the cases to measure, and limits of time.

    Operations and sizes are crossed with everything. Of dtypes, p and numbers of threads the first is the usual one,
    and each other value is measured with the usual ones of the two others.

    Attributes
    ----------
    sizes : tuple of int
        Numbers of elements.
    dtypes : tuple of str
    ps : tuple of float
        Probabilities of dropping, in (0, 1).
    thread_counts : tuple of int
    operations : tuple of str
        Names in `cases.OPERATIONS`.
    contenders : tuple of str
        Names of contenders; the floor always takes part.
    rounds : int
        The largest number of rounds of a group.
    seconds_per_group : float
        The time after which a group ends, once it has made `LEAST_ROUNDS`.
    seconds : float or None
        The time after which the sweep ends.
    seconds_per_contender : float
        A contender is left out of a case if `LEAST_ROUNDS` would take longer, estimated from a smaller case.
    build_slowly : bool
        Whether contenders that are slow to build take part.

    """

    sizes: tuple[int, ...]
    dtypes: tuple[str, ...] = ("float32",)
    ps: tuple[float, ...] = (0.1,)
    thread_counts: tuple[int, ...] = (1,)
    operations: tuple[str, ...] = tuple(OPERATIONS)
    contenders: tuple[str, ...] = tuple(contender.name for contender in CONTENDERS)
    rounds: int = 31
    seconds_per_group: float = 8.0
    seconds: float | None = None
    seconds_per_contender: float = math.inf
    build_slowly: bool = True

    def list_settings(self) -> list[tuple[str, float, int]]:
        """Return the combinations of dtype, p and number of threads, the usual one first."""
        dtype, p, n_threads = self.dtypes[0], self.ps[0], self.thread_counts[0]
        return [
            (dtype, p, n_threads),
            *((dtype, p, other) for other in self.thread_counts[1:]),
            *((other, p, n_threads) for other in self.dtypes[1:]),
            *((dtype, other, n_threads) for other in self.ps[1:]),
        ]


@dataclass(frozen=True)
class Row:
    """Hold one contender's time for one case.

    Attributes
    ----------
    operation, dtype, p, n_threads, n_elems
        The case.
    contender, label, code : str
        Those of the contender.
    seconds, lower_quartile, upper_quartile : float
        The time of a call: the median over the rounds, and the quartiles.
    rounds : int
    ns_per_elem : float
    ratio : float
        To the floor's median.
    gb_per_s : float
        The bytes that the operation must read and write, divided by the median time.

    """

    operation: str
    dtype: str
    p: float
    n_threads: int
    n_elems: int
    contender: str
    label: str
    code: str
    seconds: float
    lower_quartile: float
    upper_quartile: float
    rounds: int
    ns_per_elem: float
    ratio: float
    gb_per_s: float


@dataclass
class Results:
    """Hold the results of a sweep.

    Attributes
    ----------
    rows : list of Row
    skipped : list of str
        Contenders and cases that were not measured, with reasons.
    refused : list of str
        Contenders with wrong results, with the errors.

    """

    rows: list[Row] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def predict_seconds(self, contender: Contender, case: Case) -> float:
        """Estimate the time of a call from the time an element of the last smaller case; 0 if there is none."""
        which = contender.name, case.operation.name, case.dtype_name, case.p, case.n_threads
        rates = (
            row.seconds / row.n_elems
            for row in reversed(self.rows)
            if which == (row.contender, row.operation, row.dtype, row.p, row.n_threads)
        )
        return case.n_elems * next(rates, 0.0)

    def skip(self, what: str, reason: object) -> None:
        """Note a reason, unless it is already there."""
        line = f"{what}: {reason}"
        if line not in self.skipped:
            self.skipped.append(line)


def describe_machine() -> dict[str, Any]:
    """Return the facts about the machine, its load, and the versions of the installed libraries."""
    facts: dict[str, Any] = dict(machine_facts())
    facts["load"] = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    for name in _DISTRIBUTIONS:
        try:
            facts[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return facts


def run_sweep(plan: Plan, *, progress: bool = True) -> Iterator[Results]:
    """Measure a plan, and yield the results so far after each operation and setting.

    A keyboard interrupt ends the sweep early, with the results so far.

    Parameters
    ----------
    plan : Plan
        The cases to measure.
    progress : bool
        Whether to show a progress bar on stderr.

    """
    start = time.monotonic()
    deadline = None if plan.seconds is None else start + plan.seconds
    results = Results()
    settings = []
    for dtype, p, n_threads in plan.list_settings():
        try:
            probe_dtype(dtype)
            settings.append((dtype, p, n_threads))
        except Skip as reason:
            results.skip(dtype, reason)
    groups = []
    for setting in settings:
        for name in plan.operations:
            if any(c.is_floor and c.operation == name and setting[0] in c.dtypes for c in CONTENDERS):
                groups.append((name, setting))
            else:
                results.skip(f"{name}, {setting[0]}", "no floor to compare with")
    if not groups:
        yield results
    with tqdm(total=len(groups) * len(plan.sizes), unit="case", disable=not progress, file=sys.stderr) as bar:
        try:
            for name, setting in groups:
                for n_elems in plan.sizes:
                    bar.set_postfix_str(f"{name}, {setting[0]}, {n_elems:,} elements")
                    if is_past(deadline):
                        results.skip(f"{name}, {n_elems:,} elements and more", "no time left")
                        break
                    try:
                        measure(Case(OPERATIONS[name], n_elems, *setting), plan, results, deadline)
                    except Skip as reason:
                        results.skip(f"{name}, {setting[0]}, {n_elems:,} elements", reason)
                    bar.update()
                yield results
        except KeyboardInterrupt:
            results.skip("all that would have followed", "interrupted")
            yield results


def is_past(deadline: float | None) -> bool:
    """Tell whether a deadline, if any, has passed."""
    return deadline is not None and time.monotonic() > deadline


def measure(case: Case, plan: Plan, results: Results, deadline: float | None = None) -> None:
    """Check and time the contenders of one case, and add rows or reasons to the results.

    Raises
    ------
    Skip
        Where the memory does not suffice.

    """
    entrants = list_entrants(case, plan)
    check_memory(case, len(entrants))
    ready = []
    for contender in entrants:
        try:
            if is_past(deadline):
                raise Skip("no time left")
            if contender.is_slow_to_build and not plan.build_slowly:
                raise Skip("slow to build, left out by --quick")
            if results.predict_seconds(contender, case) * (LEAST_ROUNDS + _CALLS_BEFORE) > plan.seconds_per_contender:
                raise Skip(f"slow at {case.n_elems:,} elements, left out there by --quick")
            contender.load()
            ready.append(contender)
        except Skip as reason:
            results.skip(contender.name, reason)
    # Only after all are loaded, because it limits the thread pools that exist.
    with threadpool_limits(case.n_threads):
        calls: dict[str, tuple[Contender, Call]] = {}
        for contender in ready:
            try:
                if is_past(deadline):
                    raise Skip("no time left")
                calls[contender.name] = contender, prepare(contender, case)
            except Skip as reason:
                results.skip(contender.name, reason)
            except WrongResultError as error:
                results.refused.append(f"{contender.name}, {case.operation.name}, {case.n_elems:,} elements: {error}")
        floor_name = next((name for name, (contender, _) in calls.items() if contender.is_floor), None)
        if floor_name is None:
            return
        start = time.monotonic()
        times = interleaved_times(
            {name: call for name, (_, call) in calls.items()},
            rounds=plan.rounds,
            refresh=case.refresh if case.operation.in_place else None,
            calls_per_refresh=case.calls_per_refresh,
            settle_seconds=_SETTLE_SECONDS if case.n_threads > 1 else 0.0,
            stop=lambda done: done >= LEAST_ROUNDS
            and (time.monotonic() - start > plan.seconds_per_group or is_past(deadline)),
            progress=False,
        )
    floor_seconds = float(np.quantile(times[floor_name], 0.5))  # as below, so that the floor is 1 exactly
    n_bytes = case.operation.n_moved * case.n_elems * case.dtype.itemsize
    for name, (contender, _) in calls.items():
        low, seconds, high = np.quantile(times[name], [0.25, 0.5, 0.75]).tolist()
        results.rows.append(
            Row(
                operation=case.operation.name,
                dtype=case.dtype_name,
                p=case.p,
                n_threads=case.n_threads,
                n_elems=case.n_elems,
                contender=name,
                label=contender.label,
                code=contender.code,
                seconds=seconds,
                lower_quartile=low,
                upper_quartile=high,
                rounds=len(times[name]),
                ns_per_elem=seconds / case.n_elems * 1e9,
                ratio=seconds / floor_seconds,
                gb_per_s=n_bytes / seconds / 1e9,
            )
        )


def list_entrants(case: Case, plan: Plan) -> list[Contender]:
    """Return the contenders of a case, the floor first."""
    entrants = [
        contender
        for contender in CONTENDERS
        if contender.operation == case.operation.name
        and case.dtype_name in contender.dtypes
        and (contender.is_floor or contender.name in plan.contenders)
        # A contender with one thread is not measured again with more.
        and (contender.is_floor or contender.threaded or case.n_threads == plan.thread_counts[0])
    ]
    return sorted(entrants, key=lambda contender: not contender.is_floor)


def prepare(contender: Contender, case: Case) -> Call:
    """Make a contender for a case and check its result.

    Raises
    ------
    Skip
        Where the contender cannot be made here.
    WrongResultError
        Where its result is wrong.

    """
    # cdropout and NumPy must work; another library may fail for any reason.
    try:
        expectation = contender.expect(case)
        call = contender.make(case)
        dropped = _call_and_check(contender, case, call, expectation, case.n_elems)
        if contender.redraws:
            again = _call_and_check(contender, case, call, expectation, _N_COMPARED)
            _check_redrawn(dropped[: len(again)], again, expectation)
    except (Skip, WrongResultError):
        raise
    except Exception as error:
        if not contender.modules:
            raise
        raise Skip(f"does not run: {first_line(error)}") from error
    return call


def _call_and_check(contender: Contender, case: Case, call: Call, expectation: Expectation, n_elems: int) -> Array:
    """Check the first rows of a call's result, about n_elems in all; return which elements of them are dropped."""
    if case.operation.in_place:
        case.refresh()
    result = contender.read(call())
    rows = slice(max(1, min(n_elems, case.n_elems) * len(case.x) // case.n_elems))
    return check_result(
        result[rows],
        case.x[rows],
        expectation,
        bias=case.bias if expectation.operation.bias else None,
        residual=case.residual[rows] if expectation.operation.residual else None,
    )


def _check_redrawn(first: Array, second: Array, expectation: Expectation) -> None:
    """Raise if two calls dropped the same elements and that is not due to chance."""
    operation, p = expectation.operation, expectation.p
    n_decisions = math.prod(n for axis, n in enumerate(first.shape) if axis not in operation.shared_axes)
    if operation.relu:
        n_decisions //= 4  # about half of the elements are zero anyway
    # Two independent decisions are equal with this probability.
    p_equal = 1 - 2 * p * (1 - p)
    if p_equal**n_decisions < 1e-9 and np.array_equal(first, second):
        raise WrongResultError("every call must drop other elements, and two dropped the same")


def check_memory(case: Case, n_contenders: int) -> None:
    """Raise Skip if the arrays of a case and of its contenders do not fit into the machine's memory."""
    # Three arrays of the case, one of each contender, and temporary ones: two of float64 and some of bool.
    needed = case.n_elems * (case.dtype.itemsize * (3 + n_contenders) + 24)
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return
    fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    available = int(fields["MemAvailable"].split()[0]) * 1024
    if needed > available:
        raise Skip(f"needs {needed / 2**30:.1f} GiB of memory, got {available / 2**30:.1f} GiB")


def as_json(results: Results, plan: Plan, machine: dict[str, Any]) -> dict[str, Any]:
    """Return all about a sweep as values that JSON can hold, with numbers of 5 digits."""
    rows = [
        {name: float(f"{value:.5g}") if isinstance(value, float) else value for name, value in asdict(row).items()}
        for row in results.rows
    ]
    return {
        "machine": machine,
        "plan": asdict(plan),
        "rows": rows,
        "skipped": results.skipped,
        "refused": results.refused,
    }
