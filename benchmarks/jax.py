"""Measure dropout in JAX on the CPU: one jitted call, the share of a training step, a second thread.

A call is compared with `x * 1.1`, on arrays of --sizes elements. The share is 1 minus the time of a step without
dropout, divided by the time of a step with it: the median of this over the rounds. Steps are those of a perceptron and
of Transformer encoders of two layers on 8 x 128 tokens, in float32. The ways of dropping take turns, and compilation is
left out. Everything is checked before it is timed: how much is dropped, and that the same key gives the same loss.
With --divided, and --threads 2 or more: jitted calls that one thread computes and that two threads share, on 16 Ki to
1 Mi elements. From these figures comes min_elems_per_xla_thread in src/core/job.c.
"""

import argparse
import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from tqdm import tqdm

from benchmarks.options import UsageError, parse_size
from benchmarks.result_check import WrongResultError
from benchmarks.table import Table
from benchmarks.timing import introduce

SHARED_OPTIONS = {"p": 0.1, "rounds": 21, "threads": 2, "quiet": False}
SIZES = (1 << 16, 1 << 18, 1 << 20, 1 << 22, 1 << 24)
DIVIDED_SIZES = tuple(1 << k for k in range(14, 21))
SECONDS_PER_TURN = 0.02


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add --sizes, --programs, --cpu-time and --divided."""
    parser.add_argument("--divided", action="store_true", help="only compare one thread of a call with two")
    parser.add_argument("--cpu-time", action="store_true", help="measure CPU time, on a busy machine; one thread")
    parser.add_argument("--sizes", type=parse_size, nargs="*", default=SIZES, help="numbers of elements of one call")
    parser.add_argument("--programs", nargs="*", metavar="NAME", help="programs whose name has NAME in it")


def seconds_of(calls: dict[str, Callable[[], object]], args: argparse.Namespace) -> dict[str, list[float]]:
    """Return the seconds of each call, which take turns: a number for each round. The first round warms up."""
    clock = time.process_time if args.cpu_time else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for i in tqdm(range(-1, args.rounds), unit="round", leave=False, disable=args.quiet, file=sys.stderr):
        for name, call in calls.items():
            n_calls, start = 0, clock()
            while n_calls == 0 or clock() - start < SECONDS_PER_TURN:
                call()
                n_calls += 1
            if i >= 0:
                seconds[name].append((clock() - start) / n_calls)
    return seconds


def measure_calls(n_elems: int, args: argparse.Namespace) -> dict[str, float]:
    """Return the median seconds of one jitted call of each way, and of `x * 1.1`.

    Raises
    ------
    WrongResultError
        If a way does not drop about p of the elements.

    """
    import jax
    import jax.numpy as jnp

    from benchmarks.jax_programs import NONE, WAYS

    x = jnp.ones(n_elems)
    calls: dict[str, Callable[[], object]] = {}

    def call_of(function: Callable[..., Any], *operands: Any) -> Callable[[], object]:
        compiled = jax.jit(function).lower(*operands).compile()
        return lambda: compiled(*operands).block_until_ready()

    calls["x * 1.1"] = call_of(lambda x: x * 1.1, x)
    for name, way in WAYS.items():
        if name == NONE:
            continue
        with way.within():
            calls[name] = call_of(lambda key, x, way=way: way.dropout(key, x, args.p), way.key(1), x)
        dropped = float((calls[name]() == 0).mean())
        if abs(dropped - args.p) > 6 * (args.p * (1 - args.p) / n_elems) ** 0.5:
            raise WrongResultError(f"{name} must drop {args.p:g} of {n_elems} elements, dropped {dropped}")
    return {name: statistics.median(times) for name, times in seconds_of(calls, args).items()}


def measure_steps(program: Any, args: argparse.Namespace) -> dict[str, tuple[float, float, float]]:
    """Return for each way of dropping the median milliseconds of a step, the share, and the quotient of both steps.

    Raises
    ------
    WrongResultError
        If the first step's loss differs between two runs of a way, or is that without dropout or with JAX's keys.

    """
    from benchmarks.jax_programs import NONE, WAYS, training_run

    steps, first_losses = {}, {}
    for name, way in WAYS.items():
        begin = training_run(program, way)
        again, steps[name] = begin(), begin()
        losses = float(again()), float(steps[name]())
        # `enable` drops the same elements as `dropout`. Sums by several threads may be rounded in another way.
        others = [loss for other, loss in first_losses.items() if not other.startswith("cdropout")]
        is_same = partial(math.isclose, losses[0], rel_tol=1e-5)
        if not is_same(losses[1]) or any(map(is_same, others)):
            raise WrongResultError(f"{name}: the first losses must be the same and those of this way, got {losses}")
        first_losses[name] = losses[0]
    times = seconds_of(steps, args)
    shares = {}
    for name, of_way in times.items():
        quotients = [way / none for way, none in zip(of_way, times[NONE], strict=True)]
        share = statistics.median(1 - 1 / quotient for quotient in quotients)
        shares[name] = 1e3 * statistics.median(of_way), share, statistics.median(quotients)
    return shares


def measure_divided(n_elems: int, args: argparse.Namespace) -> tuple[float, ...]:
    """Return microseconds of a call, of one thread and of two, and their ratio: in a cache, and after 64 MiB of others.

    Raises
    ------
    WrongResultError
        If two threads do not give the elements of one.

    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    import cdropout.jax
    from cdropout import _kernels

    x, other = jnp.ones(n_elems), np.ones(1 << 24, np.float32)
    compiled = jax.jit(lambda key, x: cdropout.jax.dropout(key, x, args.p)).lower(jax.random.key(1), x).compile()
    key, found = jax.random.key(1), []

    def call(n_threads: int) -> Any:
        _kernels.set_limits(min_elems_per_xla_thread=max(1, n_elems // n_threads))
        return compiled(key, x).block_until_ready()

    def after_others(n_threads: int) -> float:
        other.fill(1)
        began = time.perf_counter()
        call(n_threads)
        return time.perf_counter() - began

    before = _kernels.get_limits()
    try:
        if not jnp.array_equal(call(1), call(2)):
            raise WrongResultError(f"two threads must drop the elements that one thread drops, of {n_elems}")
        in_cache = seconds_of({"one": lambda: call(1), "two": lambda: call(2)}, args)
        found += [in_cache[name] for name in ("one", "two")]
        later = [(after_others(1), after_others(2)) for _ in range(args.rounds)]
        found += [list(times) for times in zip(*later, strict=True)]
    finally:
        _kernels.set_limits(**before)
    one, two, one_later, two_later = (1e6 * statistics.median(times) for times in found)
    return one, two, two / one, one_later, two_later, two_later / one_later


def show_divided(args: argparse.Namespace) -> None:
    """Print the table of calls that two threads share."""
    introduce("a jitted call in the cache, then after others; two threads over one", args.rounds, ", in microseconds")
    columns = (("1 thread", "9.1f"), ("2 threads", "9.1f"), ("ratio", "6.2f"))
    table = Table(("elements", ">12"), *columns, *columns)
    table.show((f"{n_elems:,}", *measure_divided(n_elems, args)) for n_elems in DIVIDED_SIZES)


def run(args: argparse.Namespace) -> None:
    """Measure, and print the tables."""
    if args.cpu_time and args.threads != 1:
        raise UsageError("argument --cpu-time: needs --threads 1, because threads that wait use CPU time")
    if args.divided and args.threads < 2:
        raise UsageError(f"argument --divided: needs --threads 2 or more, got {args.threads}")
    if "jax" not in sys.modules and hasattr(os, "sched_setaffinity"):
        # XLA has as many threads as the process has CPUs when JAX starts, and no other setting.
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    if args.divided:
        show_divided(args)
        return
    import jax

    from benchmarks.jax_programs import NONE, PROGRAMS, WAYS

    clock = "CPU time" if args.cpu_time else "wall time"
    introduce(f"JAX {jax.__version__}, float32, one call at p = {args.p:g} and training steps, {clock}", args.rounds)
    if args.sizes:
        contenders = ("x * 1.1", *(name for name in WAYS if name != NONE))
        table = Table(("elements", ">12"), *((f"{name}, us", "10.1f") for name in contenders))
        rows = ((n_elems, measure_calls(n_elems, args)) for n_elems in args.sizes)
        table.show((f"{n_elems:,}", *(1e6 * times[name] for name in contenders)) for n_elems, times in rows)
        print()
    table = Table(("program", "<20"), ("dropout", "<22"), ("step, ms", "10.3f"), ("share", "8.2%"), ("ratio", "8.3f"))
    chosen = args.programs if args.programs is not None else [""]
    table.show(
        (title, name, *figures)
        for title, program in PROGRAMS.items()
        if any(part in title for part in chosen)
        for name, figures in measure_steps(program, args).items()
    )
