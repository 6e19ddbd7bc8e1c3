"""Access to the C core for tests and benchmarks: core_probe.c, compiled once, with the library's kernel table."""

import ctypes
import functools
import os
import subprocess
import tempfile
from pathlib import Path

from compilers import reason_to_skip

from cdropout import _kernels

SOURCE = Path(__file__).with_suffix(".c")
MAX_KERNELS = 1000


class ProbeError(Exception):
    """The probe cannot be compiled: there is no compiler, or no source tree."""


@functools.cache
def probe():
    """Return the compiled probe; ProbeError where no compiler works or the tests were taken out of the checkout."""
    if reason_to_skip("cc") is not None or not (SOURCE.parents[1] / "src/core").is_dir():
        raise ProbeError("needs a C compiler and the checkout")
    folder = tempfile.TemporaryDirectory()
    library = Path(folder.name, "core_probe.so")
    flags = ["-std=c11", "-O2", "-shared", "-fPIC", "-ffp-contract=off"]
    flags += os.environ.get("CDROPOUT_PROBE_FLAGS", "").split()  # tests/sanitizers/memory passes the sanitizers
    subprocess.run(["cc", *flags, "-o", library, SOURCE, "-lm"], check=True, timeout=120)
    loaded = ctypes.CDLL(str(library))
    loaded.folder = folder  # deleted together with the library
    loaded.probe_isas.restype = loaded.probe_team_pause.restype = ctypes.c_size_t
    return loaded


def kernel_table():
    """Return the address of the active kernel table."""
    get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
    get_pointer.restype, get_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    address = get_pointer(_kernels.KERNEL_TABLE, b"cdropout._kernels.KERNEL_TABLE")
    return ctypes.c_void_p.from_address(address)


def isas_that_ran():
    """Call every kernel of the active table; return the instruction sets that the kernels were compiled for."""
    names = (ctypes.c_char_p * MAX_KERNELS)()
    n_kernels = probe().probe_isas(kernel_table(), names)
    return {name.decode() for name in names[:n_kernels]}


def thresholds(p):
    """Return the thresholds of kernels for a probability p: a signed 16-bit one, and a 32-bit one for ties."""
    threshold, tie_threshold = ctypes.c_int32(), ctypes.c_uint64()
    probe().probe_thresholds(ctypes.c_double(p), ctypes.byref(threshold), ctypes.byref(tie_threshold))
    return threshold.value, tie_threshold.value


def regions_that_run(durations, cpu, step):
    """Return how many of some parallel regions run, rather than wait for the end of a pause (core/team_pause.h).

    durations and cpu are microseconds of each region, and step is the time from one to the next.
    """
    numbers = [(ctypes.c_uint64 * len(each))(*each) for each in (durations, cpu)]
    return probe().probe_team_pause(*numbers, ctypes.c_size_t(len(durations)), ctypes.c_uint64(step))


def philox(counter, key):
    """Return Philox4x32-10 as the C core computes it: four uint32 for a counter of four and a 64-bit key."""
    words = (ctypes.c_uint32 * 4)(*counter)
    probe().probe_philox(words, ctypes.c_uint64(key))
    return tuple(words)


def apply_mask_kernel(out, x, mask, n_calls):
    """Return a function that calls the kernel of mask.apply(x, out=out), and nothing else, n_calls times.

    The arrays are C-contiguous and float32. All arguments are converted here, so that a call's overhead is small.
    """
    key = (ctypes.c_uint64 * 2)(mask.key & (2**64 - 1), mask.key >> 64)
    arguments = (
        kernel_table(),
        ctypes.c_void_p(out.ctypes.data),
        ctypes.c_void_p(x.ctypes.data),
        key,
        ctypes.c_uint64(mask.start),
        ctypes.c_double(mask.p),
        ctypes.c_double(_kernels.kept_scale(mask.p)),
        ctypes.c_size_t(x.size),
        ctypes.c_size_t(n_calls),
    )
    return functools.partial(probe().probe_apply_mask, *arguments)
