"""Time calls from C, C++ and Cython, and NumPy's random numbers from the raw stream.

A call on 64 elements is compared with the block kernel alone, one on a million with Python's call, on one thread. The
calling modules are those of the tests, built here against the installed package; that needs Cython, setuptools and a
compiler. Numbers are drawn in one process for each bit generator, as in programs, and by all of them in one process,
where the processor predicts the jump through the pointer that gives each number less well.
"""

import argparse
import importlib
import itertools
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits
from tqdm import tqdm

import cdropout as cd
from benchmarks.processes import ROOT, command_of
from benchmarks.table import Table
from benchmarks.timing import interleaved_medians, introduce

TESTS = ROOT / "tests"
SOURCES = TESTS / "c_api"
LANGUAGES = ("c", "cpp", "cython")
SMALL, LARGE = 64, 1 << 20
CALLS = 1000  # on the small array, timed together
APPLY_MASK, FLOAT32 = 0, 0
BIT_GENERATORS = ("StreamBitGenerator", "SFC64", "PCG64", "Philox")
N_FRESH, N_CACHED, N_CALLS = 10**7, 4096, 500
SHARED_OPTIONS = {"rounds": 101}


def build(folder: Path) -> dict[str, object]:
    """Build the tests' modules in a folder, and import them."""
    shutil.copytree(SOURCES, folder, dirs_exist_ok=True)
    # Cython looks for cdropout's declarations on the path alone, where an editable install has put no folder.
    environment = {**os.environ, "PYTHONPATH": str(Path(cd.__file__).parents[1])}
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    subprocess.run(command, cwd=folder, env=environment, check=True)
    sys.path.insert(0, str(folder))
    return {language: importlib.import_module(f"embedded_{language}") for language in LANGUAGES}


def compare_calls(modules: dict[str, object], n_elems: int, rounds: int) -> None:
    """Print the time of a call in nanoseconds, beyond the kernel's and over that of Python's call."""
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
    columns = (("ns", "12.1f"), ("above the kernel", "17.1f"), ("over Python", "12.3f"))
    Table(("", "<22"), *columns).show((name, ns, ns - kernel, ns / python) for name, ns in medians.items())


def generator(name: str) -> np.random.Generator:
    """Return NumPy's generator with one of its bit generators or with ours."""
    return np.random.Generator(getattr(cd if hasattr(cd, name) else np.random, name)(1))


def draw(name: str) -> None:
    """Draw as each line of the standard input says, and print the seconds a number: the process of one generator."""
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
    """Return the median seconds a number by kind and bit generator, each generator in a separate process."""
    programs = {
        name: subprocess.Popen(
            command_of("c-api", "--draw", name), cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
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
    """Print the time of Generator.random for each number, by bit generator."""
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
    print(f"\nns a number, and over SFC64; y has {N_CACHED} numbers; in separate processes, and in one\n")
    titles = ((title, form) for name in columns for title, form in ((name, "18.3f"), ("ratio", "7.3f")))
    Table(("", "<20"), *titles).show(
        (name, *(x for column in columns.values() for x in (column[name] * 1e9, column[name] / column["SFC64"])))
        for name in BIT_GENERATORS
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add --draw, which the program passes to the processes it starts."""
    parser.add_argument("--draw", choices=BIT_GENERATORS, help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> None:
    """Build, measure and print."""
    if arguments.draw:
        draw(arguments.draw)
        return
    introduce("one thread", arguments.rounds)
    with tempfile.TemporaryDirectory() as folder, threadpool_limits(1):
        modules = build(Path(folder))
        for n_elems in (SMALL, LARGE):
            compare_calls(modules, n_elems, arguments.rounds)
    compare_numbers(arguments.rounds)
