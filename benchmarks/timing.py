"""Side-by-side timing: contenders take turns in every round, and medians are compared."""

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_info
from tqdm import tqdm

import cdropout as cd
from cdropout import _kernels


def machine() -> str:
    """Return what the figures were measured with, on one line."""
    cpu_info = Path("/proc/cpuinfo")
    names = [
        line.split(":", 1)[1].strip() for line in cpu_info.read_text().splitlines() if line.startswith("model name")
    ]
    openmp = {info["internal_api"] for info in threadpool_info() if info["user_api"] == "openmp"}
    return (
        f"{names[0] if names else platform.processor()}, {len(names)} CPUs; cdropout {cd.__version__}, "
        f"{_kernels.active_isa()}, {_kernels.thread_limit()} threads ({', '.join(sorted(openmp)) or 'no OpenMP'}); "
        f"NumPy {np.__version__}; Python {platform.python_version()}"
    )


def interleaved_medians(
    contenders: Mapping[str, Callable[[], object]], *, rounds: int, seconds_per_turn: float = 0.002
) -> dict[str, float]:
    """Time each contender once a round and return its median over the rounds, in seconds a call.

    Parameters
    ----------
    contenders : mapping of str to callable
        What to time, each without arguments.
    rounds : int
        How many rounds; in each, every contender has one turn.
    seconds_per_turn : float
        About how long a turn takes: short calls are repeated within it.

    """
    repeats = {}
    for name, call in contenders.items():
        call()
        start = time.perf_counter()
        call()
        repeats[name] = max(1, int(seconds_per_turn / (time.perf_counter() - start)))
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in tqdm(range(rounds), leave=False, unit="round"):
        for name, call in contenders.items():
            start = time.perf_counter()
            for _ in range(repeats[name]):
                call()
            times[name].append((time.perf_counter() - start) / repeats[name])
    return {name: statistics.median(values) for name, values in times.items()}
