"""Side-by-side timing: contenders take turns in every round, and medians are compared."""

import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping

from cdropout.optional import require


def interleaved_times(
    contenders: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    seconds_per_turn: float = 0.002,
    refresh: Callable[[], object] | None = None,
    calls_per_refresh: int = 1,
    settle_seconds: float = 0.0,
    stop: Callable[[int], bool] = lambda rounds_done: False,
    progress: bool = True,
) -> dict[str, list[float]]:
    """Time each contender once per round, in seconds per call.

    Parameters
    ----------
    contenders : mapping of str to callable
        Functions to time, without arguments.
    rounds : int
        Number of rounds; in each, every contender has one turn.
    seconds_per_turn : float
        Approximate duration of a turn; short calls are repeated within it.
    refresh : callable, optional
        Called, untimed, before every `calls_per_refresh` calls of a turn, to refill arrays that contenders overwrite.
    calls_per_refresh : int
        Number of calls between refreshes, at least 1.
    settle_seconds : float
        If above 0, a turn begins with a pause of this length, followed by untimed calls for the same time. During the
        pause, the previous contender's threads stop spinning, which takes some milliseconds. During the calls, this
        contender's threads and their processors wake up, and the system moves threads that woke up on one processor.
    stop : callable
        Called after each round with the number of rounds done; True ends the measurement early.
    progress : bool
        Whether to show a progress bar of the rounds on stderr; needs tqdm.

    Returns
    -------
    dict of str to list of float
        Seconds per call, one number for each round.

    """

    def take_turn(call: Callable[[], object], repeats: int) -> float:
        if refresh is None:
            start = time.perf_counter()
            for _ in range(repeats):
                call()
            return (time.perf_counter() - start) / repeats
        seconds = 0.0
        for first in range(0, repeats, calls_per_refresh):
            refresh()
            start = time.perf_counter()
            for _ in range(min(calls_per_refresh, repeats - first)):
                call()
            seconds += time.perf_counter() - start
        return seconds / repeats

    repeats = {}
    for name, call in contenders.items():
        seconds = take_turn(call, 1)
        if seconds < seconds_per_turn:  # the first call is slow: the second sets the number of repeats
            seconds = take_turn(call, 1)
        repeats[name] = max(1, int(seconds_per_turn / seconds))
    times: dict[str, list[float]] = {name: [] for name in contenders}
    numbers: Iterable[int] = range(rounds)
    if progress:
        tqdm = require("tqdm", extra="cli", purpose="a progress bar").tqdm
        numbers = tqdm(numbers, leave=False, unit="round", file=sys.stderr)
    for i in numbers:
        for name, call in contenders.items():
            if settle_seconds:
                time.sleep(settle_seconds)
                awake_at = time.perf_counter() + settle_seconds
                while time.perf_counter() < awake_at:
                    call()
            times[name].append(take_turn(call, repeats[name]))
        if stop(i + 1):
            break
    return times


def interleaved_medians(
    contenders: Mapping[str, Callable[[], object]], *, rounds: int, seconds_per_turn: float = 0.002
) -> dict[str, float]:
    """Time each contender once per round and return its median over the rounds, in seconds per call.

    The parameters are those of `interleaved_times`.
    """
    times = interleaved_times(contenders, rounds=rounds, seconds_per_turn=seconds_per_turn)
    return {name: statistics.median(values) for name, values in times.items()}
