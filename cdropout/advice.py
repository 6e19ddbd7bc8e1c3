"""Advice on the environment: what makes calls slower or refuses arrays here, and what to do about it.

`advice` reads the dict of `environment.facts`, so that each rule can be tested with facts of any machine.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Instruction set, best first -> the names in /proc/cpuinfo of what its kernels need.
_CPU_FLAGS = {
    "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl"},
    "avx2": {"avx2", "f16c"},
    "sse2": {"sse2"},
    "neon": {"asimd"},
}

# Why a build is serial, by the values of `serial_because`, and what to do.
_SERIAL = {
    "asked": ("CDROPOUT_OPENMP was 0 in the build", "build again without CDROPOUT_OPENMP"),
    "compiler": ("the compiler had no OpenMP", "install a wheel, or build with CDROPOUT_OPENMP=1 and gcc"),
    "link": ("the compiler's OpenMP did not link", "build with CDROPOUT_OPENMP=1, which shows the error"),
    "run": ("the compiler's OpenMP did not run", "build with CDROPOUT_OPENMP=1, which shows the error"),
    "unknown": ("the build had no OpenMP", "install a wheel, or build with CDROPOUT_OPENMP=1"),
}

# The first NumPy that passes writable memory by DLPack.
_NUMPY_WITH_DLPACK_1 = (2, 1)


def instruction_sets(cpu_info: Path = Path("/proc/cpuinfo")) -> list[str] | None:
    """Return the instruction sets that Linux reports for the processor, best first; None if it reports none."""
    try:
        lines = cpu_info.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    flags = {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split()}
    return [name for name, needed in _CPU_FLAGS.items() if needed <= flags] if flags else None


def advice(known: dict[str, Any]) -> list[str]:
    """Return a sentence for each fact of `environment.facts` that can be mended, with what to do."""
    return [*_of_threads(known["threads"]), *_of_instruction_set(known["instruction_set"]), *_of_numpy(known["numpy"])]


def _of_threads(threads: dict[str, Any]) -> Iterator[str]:
    if threads["serial_because"] is not None:
        because, remedy = _SERIAL[threads["serial_because"]]
        yield f"Calls use one thread, because {because}: {remedy}."
    openmp, runtimes = threads["openmp"], threads["openmp_runtimes"] or []
    others = [
        Path(path).name
        for path in runtimes
        if openmp and os.path.realpath(path) != os.path.realpath(openmp["path"] or "")
    ]
    if others:
        yield (
            f"The process has other OpenMP runtimes than cdropout's {openmp['library']}: {', '.join(others)}. Each has "
            "its own threads, together perhaps more than the CPUs: set OMP_NUM_THREADS to a part of the CPUs, or "
            "limit the runtimes with threadpoolctl."
        )


def _of_instruction_set(isa: dict[str, Any]) -> Iterator[str]:
    if isa["forced_by"] and isa["active"] != isa["available"][0]:
        yield f"{isa['forced_by']} forces {isa['active']}, and {isa['available'][0]} is faster: unset it."
    # The list is of one architecture, best first, so that the first that is not available is the best.
    missing = next((name for name in isa["of_processor"] or () if name not in isa["available"]), None)
    usable = isa["available"][0]
    ranks = list(_CPU_FLAGS)
    if missing is None or (usable in ranks and ranks.index(usable) < ranks.index(missing)):
        return
    if missing in isa["built"]:
        yield f"The processor has {missing}, which this build does not detect: build it with gcc or clang."
    else:
        yield f"The processor has {missing}, and this build has no kernels for it: build with a newer gcc or clang."


def _of_numpy(version: str) -> Iterator[str]:
    major, minor = version.split(".")[:2]
    if (int(major), int(minor)) < _NUMPY_WITH_DLPACK_1:
        yield (
            f'NumPy {version} cannot write to objects that share their memory by DLPack alone: pip install "numpy>='
            f'{".".join(map(str, _NUMPY_WITH_DLPACK_1))}".'
        )
