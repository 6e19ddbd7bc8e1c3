"""The environment as data and as text: versions, instruction set, threads, caches and optional packages."""

import ctypes
import os
import platform
import re
from pathlib import Path
from typing import Any

import numpy as np

import cdropout
from cdropout import _kernels, optional
from cdropout.advice import advice, instruction_sets


def facts() -> dict[str, Any]:
    """Return the environment as a dict of plain values, which JSON can hold; None for what is unknown or absent.

    `advice` : sentences on what could be better here. `openmp_runtimes`, in `threads` : the paths of all that the
    process has loaded. `of_processor`, in `instruction_set` : those that the system reports for the processor. Others:

    `cdropout`, `numpy`, `python` : versions. `processor` : its name. `instruction_set` : `active`, `forced_by` (the
    name of an environment variable), `available` on this machine and `built`, best first. `threads` : `limit`, the
    number of threads for a large array; `cpus`, the number of CPUs that the process may run on; `quota`, the CPU quota
    of its control group; `openmp`, with the file name of the `library`, its `path`, the `max_threads` it allows, and
    the environment's `OMP_NUM_THREADS`; `serial_because`, why the build has no threads: "asked" (`CDROPOUT_OPENMP=0`),
    "compiler" (it has none), "link" or "run" (the build's test library did not), or "unknown"; None with OpenMP, and
    with threads of the system (Windows, macOS). `cache_bytes` : sizes of a core's data caches.
    `streaming_above_bytes` : number of bytes read and written above which a call stores past the caches. `packages` :
    versions of the optional packages.
    """
    known: dict[str, Any] = {
        "cdropout": cdropout.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "processor": processor(),
        "instruction_set": {
            "active": _kernels.active_isa(),
            "forced_by": "CDROPOUT_ISA" if os.environ.get("CDROPOUT_ISA") else None,
            "available": list(_kernels.supported_isas()),
            "built": list(_kernels.known_isas()),
            "of_processor": None if os.name == "nt" else instruction_sets(),
        },
        "threads": {
            "limit": _kernels.thread_limit(),
            "cpus": _n_cpus(),
            "quota": _kernels.cpu_quota(),
            "openmp": _openmp() if _kernels.has_openmp() else None,
            "openmp_runtimes": _openmp_runtimes(),
            "serial_because": _kernels.why_serial(),
        },
        "cache_bytes": {f"L{level}": n_bytes for level, n_bytes in _kernels.cache_bytes().items()},
        "streaming_above_bytes": _kernels.get_limits()["max_cached_bytes"],
        "packages": optional.installed_versions(),
    }
    known["advice"] = advice(known)
    return known


def describe(known: dict[str, Any]) -> str:
    """Return the facts as text: one line for each fact and each package."""
    isa, packages = known["instruction_set"], known["packages"]
    why = f"forced by {isa['forced_by']}" if isa["forced_by"] else "the best that this machine supports"
    caches = [f"{name} {_in_units(n_bytes)}" for name, n_bytes in known["cache_bytes"].items()]
    lines = [
        ("cdropout", known["cdropout"]),
        ("instruction set", f"{isa['active']} ({why}; available: {', '.join(isa['available'])})"),
        ("threads", _describe_threads(known["threads"])),
        ("processor", known["processor"]),
        ("caches", ", ".join(caches) or "not known"),
        ("streaming", f"stores past the caches above {_in_units(known['streaming_above_bytes'])} read and written"),
        ("Python", known["python"]),
        ("NumPy", known["numpy"]),
        *_in_column("found", [f"{name} {version}" for name, version in packages.items() if version]),
        *_in_column("not found", [name for name, version in packages.items() if not version]),
        *zip(["advice", *[""] * len(known["advice"])], known["advice"], strict=False),
    ]
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in lines)


def _in_column(name: str, packages: list[str]) -> list[tuple[str, str]]:
    """Return a (label, text) line for each package and its purpose; the first line's label is name."""
    width = max(map(len, packages), default=0)
    purposes = [optional.PURPOSES[package.partition(" ")[0]] for package in packages]
    lines = [f"{package:<{width}}  for {purpose}" for package, purpose in zip(packages, purposes, strict=True)]
    return list(zip([name, *[""] * len(lines)], lines, strict=False))


# Why a build is serial, by the values of `serial_because`.
_SERIAL_BECAUSE = {
    "unknown": "",
    "asked": ": CDROPOUT_OPENMP was 0",
    "compiler": ": the compiler had no OpenMP",
    "link": ", although the compiler had OpenMP: the build's test library did not link",
    "run": ", although the compiler had OpenMP: the build's test library did not run",
}


def _describe_threads(threads: dict[str, Any]) -> str:
    quota = threads["quota"]
    granted = f"{threads['cpus']} CPUs; {'no CPU quota' if quota is None else f'a quota of {quota:g} CPUs'}"
    if threads["openmp"] is None and threads["serial_because"] is None:
        return f"up to {threads['limit']} (threads of the operating system; {granted})"
    if threads["openmp"] is None:
        return f"1 (serial build{_SERIAL_BECAUSE[threads['serial_because'] or 'unknown']})"
    openmp = threads["openmp"]
    forced = openmp["OMP_NUM_THREADS"]
    allows = f"{openmp['library'] or 'a library of unknown name'} allows {openmp['max_threads'] or 'an unknown number'}"
    because = f" by OMP_NUM_THREADS={forced}" if forced else ""
    return f"up to {threads['limit']} (OpenMP: {allows}{because}; {granted})"


def _in_units(n_bytes: int) -> str:
    return f"{n_bytes / (1 << 20):g} MiB" if n_bytes >= 1 << 20 else f"{n_bytes / (1 << 10):g} KiB"


def processor(cpu_info: Path = Path("/proc/cpuinfo")) -> str:
    """Return the processor's name, or its architecture if the system does not report a name."""
    lines = cpu_info.read_text(encoding="utf-8", errors="replace").splitlines() if cpu_info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _n_cpus() -> int:
    """Return the number of CPUs that the process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _openmp_runtimes(maps: Path = Path("/proc/self/maps")) -> list[str] | None:
    """Return the paths of the OpenMP runtimes that the process has loaded; None if the system does not list them."""
    try:
        lines = maps.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    paths = dict.fromkeys(fields[5] for line in lines if len(fields := line.split(maxsplit=5)) == 6)
    return [path for path in paths if re.match(r"lib(gomp|iomp5|omp)[-.\d]", os.path.basename(path))]


class _SymbolOrigin(ctypes.Structure):
    """The struct that dladdr(3) fills for an address."""

    _fields_ = (
        ("path", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("symbol", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


def _openmp() -> dict[str, Any]:
    """Return the OpenMP library that the kernels call, and the number of threads it allows.

    The library is found from the kernels' module, because a process can hold several OpenMP libraries.
    """
    path = max_threads = None
    try:
        function = ctypes.CDLL(_kernels.__file__).omp_get_max_threads
        max_threads = function()
        origin = _SymbolOrigin()
        if ctypes.CDLL(None).dladdr(ctypes.cast(function, ctypes.c_void_p), ctypes.byref(origin)):
            path = os.fsdecode(origin.path)
    except (AttributeError, OSError, TypeError):
        pass  # no such function in this system's C library, or the runtime's names are hidden
    return {
        "library": None if path is None else Path(path).name,
        "path": path,
        "max_threads": max_threads,
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
    }
