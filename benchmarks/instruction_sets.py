"""Compare every operation with its floor on each instruction set, in turns.

Each instruction set has a process with one thread, in which NumPy too uses no later instructions
(NPY_DISABLE_CPU_FEATURES); the ratio is that to the floor of the same process. Results must have the same bits in all
processes. Without ml_dtypes there are no bfloat16 arrays. On a busy machine, --least tells more than medians.
"""

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.cases import DTYPES, OPERATIONS, Array, Case, Skip, numpy_dtype
from benchmarks.contenders import CONTENDERS, Call, Contender
from benchmarks.more_operations import Further, further_operations
from benchmarks.options import UsageError
from benchmarks.processes import ROOT, command_of
from benchmarks.result_check import WrongResultError
from benchmarks.sweep import prepare
from benchmarks.table import Table
from benchmarks.timing import interleaved_times, introduce
from cdropout import _kernels

SHARED_OPTIONS = {"sizes": (1 << 16, 1 << 20), "p": 0.1, "rounds": 15}
ROUNDS_AT_A_TIME = 5  # of one process, before the next has its turn
SECONDS_PER_TURN = 0.001
# Names of features above each instruction set, in NumPy 2.4 and before; those that NumPy does not dispatch are ignored.
AVX512_FEATURES = (
    *("X86_V4", "AVX512F", "AVX512CD", "AVX512_KNL", "AVX512_KNM"),
    *("AVX512_SKX", "AVX512_CLX", "AVX512_CNL", "AVX512_ICL", "AVX512_SPR"),
)
AVX2_FEATURES = ("X86_V3", "AVX", "F16C", "FMA3", "AVX2")
LATER_FEATURES = {"avx2": AVX512_FEATURES, **dict.fromkeys(("sse2", "portable"), (*AVX512_FEATURES, *AVX2_FEATURES))}


@dataclass(frozen=True)
class Measured:
    """Hold a row of the table: its titles, and the two contenders, or one operation that makes its floor as well."""

    code: str
    dtype: str
    floor_code: str
    pair: tuple[Contender, Contender] | Further


@dataclass
class Calls:
    """Hold what a process times for one row: the floor, the operation, and what refills an array written in place."""

    floor: Call
    operation: Call
    case: Case | None = None

    @property
    def refresh(self) -> Call | None:
        """A function that refills the array that the operation overwrites."""
        return self.case.refresh if self.case is not None and self.case.operation.in_place else None


def rows_of_table() -> list[Measured]:
    """Return the operations of `compare` for all dtypes, then the further ones."""
    rows = []
    for operation in OPERATIONS:
        for dtype in DTYPES:
            of_case = [each for each in CONTENDERS if each.operation == operation and dtype in each.dtypes]
            floor = next((each for each in of_case if each.is_floor), None)
            ours = next(each for each in of_case if each.name == "cdropout")
            if floor is not None:
                rows.append(Measured(ours.code, dtype, floor.code, (floor, ours)))
    rows += [Measured(each.code, each.dtype, each.floor_code, each) for each in further_operations()]
    order = list(dict.fromkeys(row.code for row in rows))
    return sorted(rows, key=lambda row: order.index(row.code))


# ---- the process of one instruction set ------------------------------------------------------------------------------


def make_calls(row: Measured, n_elems: int, p: float) -> Calls:
    """Make the calls of a row; results of contenders are checked."""
    if isinstance(row.pair, Further):
        return Calls(*row.pair.make(n_elems, p))
    floor, ours = row.pair
    case = Case(OPERATIONS[ours.operation], n_elems, row.dtype, p, 1)
    made = prepare(floor, case), prepare(ours, case)
    case.refresh()
    return Calls(*made, case)


def digest(result: Any) -> str:
    """Return a digest of a result's bits."""
    array: Array = np.ascontiguousarray(result)
    return hashlib.sha256(array.tobytes()).hexdigest()


def answer(row: Measured, n_elems: int, p: float, rounds: int, kept: dict[str, Calls]) -> dict[str, Any]:
    """Return the times of the floor and of the operation, for the first time also the digest of a result."""
    key = f"{row.code} {row.dtype} {n_elems}"
    reply: dict[str, Any] = {}
    if key not in kept:
        kept.clear()
        kept[key] = make_calls(row, n_elems, p)
        reply["digest"] = digest(kept[key].operation())
    calls = kept[key]
    times = interleaved_times(
        {"floor": calls.floor, "operation": calls.operation},
        rounds=rounds,
        seconds_per_turn=SECONDS_PER_TURN,
        refresh=calls.refresh,
        calls_per_refresh=calls.case.calls_per_refresh if calls.case else 1,
        progress=False,
    )
    return {**reply, **times}


def serve() -> None:
    """Answer each request of the standard input by a line."""
    rows = rows_of_table()
    kept: dict[str, Calls] = {}
    print(json.dumps({"isa": _kernels.active_isa()}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply = answer(rows[request["row"]], request["n_elems"], request["p"], request["rounds"], kept)
        except WrongResultError as error:
            reply = {"wrong": str(error)}
        print(json.dumps(reply), flush=True)


# ---- all of them -----------------------------------------------------------------------------------------------------


def disabled_features(isa: str) -> str:
    """Return the features of this processor, later than an instruction set, that NumPy can be told not to use."""
    from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

    names = LATER_FEATURES.get(isa, ())
    return " ".join(name for name in names if name in __cpu_dispatch__ and __cpu_features__.get(name))


def start(isa: str) -> subprocess.Popen[str]:
    """Start the process of an instruction set."""
    one_thread = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}
    chosen = {"CDROPOUT_ISA": isa, "NPY_DISABLE_CPU_FEATURES": disabled_features(isa)}
    return subprocess.Popen(
        command_of("instruction-sets", "--serve"),
        cwd=ROOT,
        env={**os.environ, **one_thread, **chosen},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def ask(process: subprocess.Popen[str], request: dict[str, Any]) -> dict[str, Any]:
    """Send a request and return the answer."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(request) + "\n")
    process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"the process of an instruction set ended at {request}")
    reply: dict[str, Any] = json.loads(line)
    if "wrong" in reply:
        raise WrongResultError(reply["wrong"])
    return reply


def ratios(
    processes: dict[str, subprocess.Popen[str]], row: Measured, request: dict[str, Any], rounds: int, is_least: bool
) -> list[float]:
    """Return the ratio to the floor for each process; WrongResultError if their results differ."""
    times: dict[str, dict[str, list[float]]] = {isa: {"floor": [], "operation": []} for isa in processes}
    digests = set()
    for begin in range(0, rounds, ROUNDS_AT_A_TIME):
        part = {**request, "rounds": min(ROUNDS_AT_A_TIME, rounds - begin)}
        for isa, process in processes.items():
            reply = ask(process, part)
            for name, found in times[isa].items():
                found += reply[name]
            digests |= {reply["digest"]} if "digest" in reply else set()
    if len(digests) != 1:
        raise WrongResultError(f"{row.code}, {row.dtype}: instruction sets must give the same bits")
    typical = min if is_least else statistics.median
    return [typical(found["operation"]) / typical(found["floor"]) for found in times.values()]


def measure_all(isas: tuple[str, ...], arguments: argparse.Namespace) -> Iterator[tuple[Any, ...]]:
    """Return a row of the table for each operation whose name contains what is asked for."""
    with ExitStack() as stack:
        processes = {isa: stack.enter_context(start(isa)) for isa in isas}
        for isa, process in processes.items():
            assert process.stdin is not None
            assert process.stdout is not None
            stack.callback(process.stdin.close)  # ends it
            started = json.loads(process.stdout.readline())["isa"]
            if started != isa:
                raise RuntimeError(f"the process of {isa} must use it, got {started}")
        chosen = [(i, row) for i, row in enumerate(rows_of_table()) if arguments.only in row.code]
        if not chosen:
            raise UsageError(f"argument --only: no operation contains {arguments.only!r}")
        for i, row in tqdm(chosen, leave=False, unit="operation", file=sys.stderr):
            if row.dtype == "bfloat16":
                try:
                    numpy_dtype(row.dtype)
                except Skip:
                    continue
            request = {"row": i, "p": arguments.p}
            of_sizes = (
                ratios(processes, row, {**request, "n_elems": n}, arguments.rounds, arguments.least)
                for n in arguments.sizes
            )
            yield row.code, row.dtype, row.floor_code, *(ratio for of_size in of_sizes for ratio in of_size)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add --isas, --only, --least, --markdown, and --serve, which the program passes to the processes it starts."""
    supported = _kernels.supported_isas()
    parser.add_argument("--isas", choices=supported, nargs="+", help="(default: the best two of this processor)")
    parser.add_argument("--only", default="", metavar="TEXT", help="only operations whose code contains this")
    parser.add_argument("--least", action="store_true", help="compare the least times instead of the medians")
    parser.add_argument("--markdown", action="store_true", help="print a table for docs/performance.md")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> None:
    """Measure, and print a table."""
    if arguments.serve:
        serve()
        return
    isas = tuple(dict.fromkeys(arguments.isas or _kernels.supported_isas()[:2]))
    compared = "the least time over that of the floor" if arguments.least else "over the floor"
    introduce(f"p = {arguments.p}, one thread, {compared}", arguments.rounds)
    names = [f"{n:,}, {isa}" for n in arguments.sizes for isa in isas]
    rows = measure_all(isas, arguments)
    if arguments.markdown:
        print(f"| operation | dtype | floor | {' | '.join(names)} |\n|{' --- |' * (3 + len(names))}")
        for code, dtype, floor_code, *found in rows:
            print(f"| `{code}` | {dtype} | `{floor_code}` | {' | '.join(f'{x:.2f}' for x in found)} |", flush=True)
        return
    table = Table(("operation", "<44"), ("dtype", "<8"), ("floor", "<34"), *((name, "7.2f") for name in names))
    table.show(rows)
