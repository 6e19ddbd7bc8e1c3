"""What the C interface costs, from C, C++ and Cython; and NumPy's numbers from the raw stream beside NumPy's own.

    python benchmarks/embedding.py

A call on 64 elements is compared with the block kernel by itself, one on a million with Python's call, on one thread.
The modules that call are those of the tests (tests/c_api), built here against the installed package; that needs
Cython, setuptools and a compiler. Numbers are drawn in a process for each bit generator, as programs have one, and by
all of them in one process, where processors take longer to jump through the pointer that gives each number.
"""

import argparse
import importlib
import itertools
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits
from timing import interleaved_medians, machine
from tqdm import tqdm

import cdropout as cd

TESTS = Path(__file__).resolve().parents[1] / "tests"
SOURCES = TESTS / "c_api"
LANGUAGES = ("c", "cpp", "cython")
SMALL, LARGE = 64, 1 << 20
CALLS = 1000  # in a row, of the small one
APPLY_MASK, FLOAT32 = 0, 0
BIT_GENERATORS = ("StreamBitGenerator", "SFC64", "PCG64", "Philox")
N_FRESH, N_CACHED, N_CALLS = 10**7, 4096, 500


def build(folder: Path) -> dict[str, object]:
    """Build the tests' modules in a folder, and import them."""
    shutil.copytree(SOURCES, folder, dirs_exist_ok=True)
    subprocess.run([sys.executable, "setup.py", "-q", "build_ext", "--inplace"], cwd=folder, check=True)
    sys.path.insert(0, str(folder))
    return {language: importlib.import_module(f"embedded_{language}") for language in LANGUAGES}


def compare_calls(modules: dict[str, object], n_elems: int, rounds: int) -> None:
    """Print what a call takes, in nanoseconds, and over the kernel and over Python's call."""
    sys.path.append(str(TESTS))
    from core_probe import apply_mask_kernel

    x = np.random.default_rng(0).standard_normal(n_elems, dtype=np.float32)
    y, mask = np.empty_like(x), cd.draw_mask(n_elems, 0.1, rng=1)
    fields = (y.ctypes.data, x.ctypes.data, 0, 0, 0, 1, 0.0, 0.0, 0)
    n_calls = CALLS if n_elems == SMALL else 1
    contenders = {"the block kernel": apply_mask_kernel(y, x, mask, n_calls)}
    for language, module in modules.items():
        contenders[language] = lambda repeat=module.repeat: repeat(APPLY_MASK, FLOAT32, fields, mask, n_elems, n_calls)
    contenders["mask.apply(x, out=y)"] = lambda: [mask.apply(x, out=y) for _ in range(n_calls)]
    expected = mask.apply(x)
    for name, call in contenders.items():
        y.fill(np.nan)
        call()
        if not np.array_equal(y, expected):
            raise RuntimeError(f"{name} gave another result than mask.apply")
    medians = {
        name: seconds / n_calls * 1e9 for name, seconds in interleaved_medians(contenders, rounds=rounds).items()
    }
    kernel, python = medians["the block kernel"], medians["mask.apply(x, out=y)"]
    print(f"\n{n_elems} elements, float32, p = 0.1, ns a call\n")
    print(f"{'':<22} {'ns':>12} {'above the kernel':>17} {'over Python':>12}")
    for name, nanoseconds in medians.items():
        print(f"{name:<22} {nanoseconds:>12.1f} {nanoseconds - kernel:>17.1f} {nanoseconds / python:>12.3f}")


def generator(name: str) -> np.random.Generator:
    """NumPy's generator with a bit generator of its own or ours."""
    return np.random.Generator(getattr(cd if hasattr(cd, name) else np.random, name)(1))


def draw(name: str) -> None:
    """Draw as each line on standard input says, and print the seconds that a number took: one contender's process."""
    rng, y = generator(name), np.empty(N_CACHED)
    kinds = {"fresh": lambda: rng.random(N_FRESH), "cached": lambda: [rng.random(out=y) for _ in range(N_CALLS)]}
    numbers = {"fresh": N_FRESH, "cached": N_CACHED * N_CALLS}
    for call in kinds.values():
        call()
    for line in sys.stdin:
        kind = line.strip()
        start = time.perf_counter()
        kinds[kind]()
        print((time.perf_counter() - start) / numbers[kind], flush=True)


def times_apart(rounds: int) -> dict[str, dict[str, float]]:
    """Medians of what a number takes, in seconds, by kind and bit generator, each in a process of its own."""
    programs = {
        name: subprocess.Popen(
            [sys.executable, __file__, "--draw", name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for name in BIT_GENERATORS
    }
    seconds: dict[str, dict[str, list[float]]] = {kind: {name: [] for name in programs} for kind in ("fresh", "cached")}
    try:
        for _ in tqdm(range(rounds), leave=False, unit="round", file=sys.stderr):
            for kind, name in itertools.product(seconds, programs):
                programs[name].stdin.write(f"{kind}\n")
                programs[name].stdin.flush()
                seconds[kind][name].append(float(programs[name].stdout.readline()))
    finally:
        for program in programs.values():
            program.stdin.close()
            program.wait()
    return {
        kind: {name: statistics.median(values) for name, values in by_name.items()} for kind, by_name in seconds.items()
    }


def compare_numbers(rounds: int) -> None:
    """Print what Generator.random takes for each number, by bit generator."""
    y, rngs = np.empty(N_CACHED), {name: generator(name) for name in BIT_GENERATORS}
    together = interleaved_medians(
        {name: lambda rng=rng: rng.random(out=y) for name, rng in rngs.items()}, rounds=rounds
    )
    apart = times_apart(rounds)
    columns = {
        f"random({N_FRESH})": apart["fresh"],
        "random(out=y)": apart["cached"],
        "in one process": {name: seconds / N_CACHED for name, seconds in together.items()},
    }
    print(f"\nns a number, and over SFC64; y has {N_CACHED} numbers; each in a process of its own, and all in one\n")
    print(f"{'':<20}" + "".join(f"{title:>26}" for title in columns))
    for name in BIT_GENERATORS:
        cells = (f"{column[name] * 1e9:>18.3f} {column[name] / column['SFC64']:>7.3f}" for column in columns.values())
        print(f"{name:<20}" + "".join(cells))


def main() -> int:
    """Build, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=101, help="rounds (default: %(default)s)")
    parser.add_argument("--draw", choices=BIT_GENERATORS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.draw:
        draw(arguments.draw)
        return 0
    print(machine())
    print(f"medians of {arguments.rounds} interleaved rounds, one thread")
    with tempfile.TemporaryDirectory() as folder, threadpool_limits(1):
        modules = build(Path(folder))
        for n_elems in (SMALL, LARGE):
            compare_calls(modules, n_elems, arguments.rounds)
    compare_numbers(arguments.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
