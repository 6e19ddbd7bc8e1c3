"""`python -m cdropout demo`: masks, gradients, speed and reproducibility in ten seconds, with NumPy alone.

The output is ASCII, which every console shows, without colours, and fits into terminals of 48 columns or more.
"""

import hashlib
import shutil
import statistics
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

import cdropout as cd
from cdropout import _kernels
from cdropout.bench.numpy_code import Array, best_dropout
from cdropout.bench.timing import interleaved_times

SEED = 42
MASK_ROWS, MASK_COLUMNS = 8, 60
N_TIMED = 1 << 20
N_HASHED = 1 << 22
LEAST_WIDTH, MOST_WIDTH = 48, 80
BAR_COLUMNS = 24


def show(seconds: float) -> None:
    """Print the demonstration, and measure times for about that many seconds, above 0."""
    width = min(MOST_WIDTH, max(LEAST_WIDTH, shutil.get_terminal_size().columns))
    sections = (_greeting(), _mask(width), _gradient(), _times(width, seconds), _bits(), _next_steps())
    for section in sections:
        for line in section:
            # Indented lines are code and tables; the others are text.
            print(line if line.startswith(" ") else textwrap.fill(line, width), flush=True)
        print()


def _greeting() -> Iterator[str]:
    yield f"cdropout {cd.__version__}: dropout for NumPy ({_kernels.active_isa()}, {_threads(_kernels.thread_limit())})"


def _mask(width: int) -> Iterator[str]:
    n_columns = min(MASK_COLUMNS, width - 2)
    mask = cd.draw_mask((MASK_ROWS, n_columns), 0.3, rng=SEED)
    yield f"mask = cd.draw_mask(({MASK_ROWS}, {n_columns}), 0.3, rng={SEED})"
    for row in mask.keep():
        yield "  " + "".join("." if kept else "#" for kept in row)
    yield (
        f"{np.mean(~mask.keep()):.0%} are dropped (#). A mask is a key of 128 bits and a position, without an array: "
        "its bits are computed each time it is applied."
    )


def _gradient() -> Iterator[str]:
    x = np.arange(1, 9, dtype=np.float32)
    layer = cd.Dropout(0.5, rng=SEED)
    y, dx = layer.forward(x), layer.backward(np.ones_like(x))
    yield f"layer = cd.Dropout(0.5, rng={SEED})"
    for name, array in (("x", x), ("layer.forward(x)", y), ("layer.backward(1s)", dx)):
        yield f"  {name:<18}" + "".join(f"{value:>3.0f}" if value else "  ." for value in array)
    yield "Both passes drop the same elements, and scale the others by 1/(1-p)."


def _times(width: int, seconds: float) -> Iterator[str]:
    p = 0.5
    x = np.random.default_rng(SEED).standard_normal(N_TIMED, np.float32)
    yield f"Milliseconds for {N_TIMED:,} float32, p = {p:g}, measured now:"
    times = measure(x, p, seconds)
    slowest = max(times.values())
    for name, median in times.items():
        bar = "=" * round(min(BAR_COLUMNS, width - 48) * median / slowest)
        yield f"  {name:<34}{median * 1e3:>9.3f}  {bar}".rstrip()
    tutorial, best, ours = (times[name] for name in (TUTORIAL, BEST, OURS))
    yield (
        f"On one thread, cdropout is {tutorial / ours:.0f} times as fast as the last line, which tutorials show, and "
        f"{best / ours:.0f} times as fast as the best NumPy code."
    )


MULTIPLY, OURS = "np.multiply(x, s, out=y)", "cd.dropout(x, p, out=y)"
TUTORIAL, BEST = "x * (rng.random(n) >= p) / (1 - p)", "NumPy, without new arrays"


def measure(x: Array, p: float, seconds: float) -> dict[str, float]:
    """Return the median seconds of a multiplication, of dropout and of dropout in NumPy, each on one thread.

    Parameters
    ----------
    x : ndarray of float32, shape (n,)
        The elements.
    p : float
        The probability of dropping, in (0, 1).
    seconds : float
        The duration of the whole measurement; the calls take turns.

    """
    out, scale = np.empty_like(x), np.float32(1 / (1 - p))
    rng, stream = np.random.default_rng(SEED), cd.Stream(SEED)
    calls: dict[str, Callable[[], object]] = {
        MULTIPLY: lambda: np.multiply(x, scale, out=out),
        OURS: lambda: cd.dropout(x, p, rng=stream, out=out),
        BEST: best_dropout(x, out, p),
        TUTORIAL: lambda: x * (rng.random(x.size) >= p) / (1 - p),
    }
    until = time.perf_counter() + seconds
    with n_elems_per_thread(x.size + 1):
        times = interleaved_times(
            calls, rounds=1000, stop=lambda rounds_done: time.perf_counter() >= until, progress=False
        )
    return {name: statistics.median(values) for name, values in times.items()}


def _bits() -> Iterator[str]:
    most = _kernels.thread_limit()
    yield f"SHA-256 of dropout of {N_HASHED:,} ones, rng={SEED}:"
    for n_threads, label in ((1, _threads(1)), (most, _threads(most))):
        with n_elems_per_thread(N_HASHED + 1 if n_threads == 1 else -(-N_HASHED // most)):
            yield f"  {label:<12}{digest_of_dropout(N_HASHED)[:32]}"
    yield "The bits depend on the seed alone, not on threads, processor or system: this digest is the same everywhere."


def digest_of_dropout(n_elems: int) -> str:
    """Return the SHA-256 of dropout of n_elems ones in float32, in little-endian byte order."""
    y = cd.dropout(np.ones(n_elems, np.float32), 0.5, rng=SEED)
    return hashlib.sha256(y.astype("<f4", copy=False).data).hexdigest()


@contextmanager
def n_elems_per_thread(least: int) -> Iterator[None]:
    """Set the fewest elements for which a call takes another thread, for the length of a block."""
    before = _kernels.set_limits(min_elems_per_thread=least)
    try:
        yield
    finally:
        _kernels.set_limits(**before)


def _next_steps() -> Iterator[str]:
    yield "Next:"
    for command, purpose in (
        ("python -m cdropout train", "trains a network"),
        ("python -m cdropout bench", "compares with NumPy"),
        ("python -m cdropout", "tells what runs here"),
    ):
        yield f"  {command:<24} {purpose}"
    yield "In Python, help(cdropout.dropout) and help(cdropout.Dropout) describe the function and the layer."


def _threads(n: int) -> str:
    return f"{n} thread" if n == 1 else f"{n} threads"
