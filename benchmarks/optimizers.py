"""Time steps of optimizers beside NumPy's operations in blocks that stay in the cache.

Both give the same bits. "adam" is the rule of cdropout.networks.Adam, "nesterov" that of cdropout.networks.SGD. In the
column of two threads, small arrays are divided too; UPDATE_ELEM_COST in src/core/job.h comes from it. --cpu-time is for
busy machines: the least CPU time of all rounds, one thread.
"""

import argparse
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from benchmarks.result_check import WrongResultError
from benchmarks.table import Table
from benchmarks.timing import interleaved_medians, introduce
from cdropout import _kernels, networks

Array = npt.NDArray[Any]

SHARED_OPTIONS = {
    "rounds": 51,
    "sizes": (1 << 14, 1 << 16, 1 << 17, 1 << 18, 670_208, 1 << 20, 1 << 22),
    "dtypes": ("float32", "float64"),
}

# A block of parameters, gradient and sums stays in the second-level cache through all operations of a step.
BLOCK_ELEMS = 32768

BETA1, BETA2, EPS, LR, MOMENTUM = 0.9, 0.999, 1e-8, 1e-3, 0.9


def step_adam_in_blocks(arrays: tuple[Array, ...], n_steps: int) -> None:
    """Make a step of Adam on (parameter, gradient, first sum, second sum), by ten operations a block."""
    root = ((1 - BETA2) / (1 - BETA2**n_steps)) ** 0.5
    step_size, eps = LR * (1 - BETA1) / (1 - BETA1**n_steps) / root, EPS / root
    room = np.empty(BLOCK_ELEMS, arrays[0].dtype)
    for begin in range(0, arrays[0].size, BLOCK_ELEMS):
        param, grad, first, second = (array[begin : begin + BLOCK_ELEMS] for array in arrays)
        work = room[: param.size]
        first *= BETA1
        first += grad
        np.multiply(grad, grad, out=work)
        second *= BETA2
        second += work
        np.sqrt(second, out=work)
        work += eps
        np.divide(first, work, out=work)
        work *= step_size
        param -= work


def step_nesterov_in_blocks(arrays: tuple[Array, ...], n_steps: int) -> None:
    """Make a step of gradient descent with Nesterov's momentum on (parameter, gradient, velocity), in blocks."""
    room = np.empty(BLOCK_ELEMS, arrays[0].dtype)
    for begin in range(0, arrays[0].size, BLOCK_ELEMS):
        param, grad, velocity = (array[begin : begin + BLOCK_ELEMS] for array in arrays[:3])
        work = room[: param.size]
        np.multiply(grad, -LR, out=work)
        velocity *= MOMENTUM
        velocity += work
        param += work
        np.multiply(velocity, MOMENTUM, out=work)
        param += work


RULES: dict[str, tuple[Any, Callable[[tuple[Array, ...], int], None]]] = {
    "adam": (networks.Adam, step_adam_in_blocks),
    "nesterov": (networks.SGD, step_nesterov_in_blocks),
}


def least_cpu_seconds(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the least CPU time of each call, made once in each round."""
    least = dict.fromkeys(calls, math.inf)
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.process_time()
            call()
            least[name] = min(least[name], time.process_time() - start)
    return least


def measure(rule: str, n_elems: int, dtype: str, rounds: int, is_cpu_time: bool = False) -> tuple[Any, ...]:
    """Return a row of the table: rule, elements, and ns an element of NumPy, of one thread and of two.

    A ratio to the time before follows those of one thread and of two. With CPU time, the last two are None.
    """
    optimizer_class, step_in_blocks = RULES[rule]
    rng = np.random.default_rng(0)
    param, grad = (rng.standard_normal(n_elems).astype(dtype) for _ in range(2))
    arrays = (param.copy(), grad, np.zeros_like(param), np.zeros_like(param))
    optimizer = optimizer_class([param], [grad], lr=LR)
    n_steps = 0

    def step_numpy() -> None:
        nonlocal n_steps
        n_steps += 1
        step_in_blocks(arrays, n_steps)

    for _ in range(3):
        step_numpy()
        optimizer.step()
    if not np.array_equal(param, arrays[0]):
        raise WrongResultError(f"{rule}: a step has other bits than NumPy's operations")

    def ns_of_each(min_elems_per_thread: int) -> tuple[float, float]:
        # Not within the calls: the CPU quota is read anew after a change of limits.
        before = _kernels.set_limits(min_elems_per_thread=min_elems_per_thread)
        try:
            calls = {"numpy": step_numpy, "step": optimizer.step}
            found = least_cpu_seconds(calls, rounds) if is_cpu_time else interleaved_medians(calls, rounds=rounds)
        finally:
            _kernels.set_limits(**before)
        return found["numpy"] / n_elems * 1e9, found["step"] / n_elems * 1e9

    with threadpool_limits(2, user_api="openmp"):
        numpy_ns, one = ns_of_each(1 << 62)
        if is_cpu_time:
            return rule, n_elems, numpy_ns, one, one / numpy_ns, None, None
        _, two = ns_of_each(1)
    return rule, n_elems, numpy_ns, one, one / numpy_ns, two, two / one


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add --cpu-time."""
    parser.add_argument("--cpu-time", action="store_true", help="the least CPU time, one thread")


def run(arguments: argparse.Namespace) -> None:
    """Measure every rule and size and print a table."""
    figures = ", ns an element" + (", the least CPU time instead of medians" if arguments.cpu_time else "")
    introduce(f"{arguments.dtype}, steps of optimizers", arguments.rounds, figures)
    table = Table(
        ("rule", "<9"),
        ("elements", "10"),
        ("NumPy", "8.3f"),
        ("1 thread", "9.3f"),
        ("ratio", "6.2f"),
        ("2 threads", "9.3f"),
        ("ratio", "6.2f"),
    )
    table.show(
        measure(rule, n_elems, arguments.dtype, arguments.rounds, arguments.cpu_time)
        for rule in RULES
        for n_elems in arguments.sizes
    )
