"""The caller's floating-point mode: it changes no bit of a result, in any thread, and is restored after the call."""

import ctypes
import hashlib
import mmap
import platform
import threading

import ml_dtypes
import numpy as np
import pytest

import cdropout as cd
from cdropout import _kernels

# Machine code for "set the register" and "get the register", called as C functions.
CODE = {
    "x86_64": {
        "set": "897c24fc 0fae5424fc c3",  # mov [rsp-4], edi; ldmxcsr [rsp-4]; ret
        "get": "0fae5c24fc 8b4424fc c3",  # stmxcsr [rsp-4]; mov eax, [rsp-4]; ret
    },
    "aarch64": {
        "set": "00441bd5 c0035fd6",  # msr fpcr, x0; ret
        "get": "00443bd5 c0035fd6",  # mrs x0, fpcr; ret
    },
}
# The registers are MXCSR and FPCR; MXCSR's lowest six bits are flags and no part of the mode.
MODES = {
    "x86_64": {
        "flush-to-zero": 0x1F80 | 1 << 15,
        "denormals-are-zero": 0x1F80 | 1 << 6,
        "both": 0x1F80 | 1 << 15 | 1 << 6,
        "towards-zero": 0x1F80 | 3 << 13,
        "upwards": 0x1F80 | 2 << 13,
        "invalid-traps": 0x1F80 & ~(1 << 7),
    },
    "aarch64": {
        "flush-to-zero": 1 << 24,
        "flush-halves-to-zero": 1 << 19,
        "default-nan": 1 << 25,
        "towards-zero": 3 << 22,
        "upwards": 1 << 22,
    },
}.get(platform.machine(), {})
MODE_BITS = 0xFFC0 if platform.machine() == "x86_64" else 0xFFFF_FFFF
DTYPES = (np.float32, np.float64, np.float16, ml_dtypes.bfloat16)
N = 3 * 4096 + 7

pytestmark = pytest.mark.skipif(not MODES, reason="needs an x86-64 or AArch64 system, to set its floating-point mode")


@pytest.fixture(scope="module")
def register():
    """Two functions that set and get the calling thread's mode register."""
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    except (AttributeError, OSError) as error:
        pytest.skip(f"this system runs no code that was just written: {error}")
    code = {name: bytes.fromhex(text) for name, text in CODE[platform.machine()].items()}
    page.write(code["set"].ljust(64, b"\0") + code["get"])
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    yield (ctypes.CFUNCTYPE(None, ctypes.c_uint64)(address), ctypes.CFUNCTYPE(ctypes.c_uint32)(address + 64))
    del page  # the memory of the functions


def in_mode(register, mode, call):
    """Return call()'s result and the mode after it, in a new thread in which the given mode is set."""
    set_register, get_register = register
    found = []

    def run():
        before = get_register()
        set_register(mode)
        try:
            result = call()
            after = get_register()
        finally:
            set_register(before)
        found.extend((result, after))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found, "the call failed"
    return found


def subnormals(dtype, n_elems=N):
    """Return numbers near the smallest normal one: many are subnormal, and so are many products of the others."""
    rng = np.random.default_rng(0)
    tiny = float(ml_dtypes.finfo(dtype).smallest_normal)
    values = rng.standard_normal(n_elems) * (tiny if tiny > 1e-300 else 1)
    if tiny <= 1e-300:
        values *= tiny
    return values.astype(dtype)


def operations(dtype):
    """Return every operation on subnormal numbers, as names and calls that return an array."""
    x, residual = subnormals(dtype), subnormals(dtype)[::-1].copy()
    bias, rows = subnormals(dtype, 100), subnormals(dtype, 120 * 100).reshape(120, 100)
    smallest = float(ml_dtypes.finfo(dtype).smallest_subnormal)
    swapped = x.astype(x.dtype.newbyteorder()) if dtype is not ml_dtypes.bfloat16 else x[::-1]
    mask, noise = cd.draw_mask(N, 0.3, rng=1), cd.draw_noise(N, 0.3, rng=1)
    everything = cd.draw_mask(N, 1.0, rng=1)
    almost_nothing = cd.draw_mask(N, 5e-324, rng=1)
    return {
        "dropout": lambda: cd.dropout(x, 0.3, rng=1),
        "dropout_of_columns": lambda: cd.dropout(rows, 0.3, rng=1, shared_axes=0),
        "dropout_of_rows": lambda: cd.dropout(rows, 0.3, rng=1, shared_axes=1),
        "layer": lambda: cd.Dropout(0.3, rng=1).forward(x),
        "apply": lambda: mask.apply(x),
        "apply_swapped": lambda: mask.apply(swapped),
        "apply_small_scale": lambda: mask.apply(x, scale=0.3),
        "apply_small_fill": lambda: mask.apply(x, shift=0.0, fill=smallest),
        "apply_small_shift": lambda: mask.apply(x, shift=smallest),
        "apply_fill_everything": lambda: everything.apply(x, fill=smallest),
        "apply_fill_smallest_double": lambda: mask.apply(x, fill=5e-324),
        "almost_nothing": lambda: almost_nothing.apply(x),
        "keep": mask.keep,
        "scaled": lambda: mask.scaled(dtype),
        "relu_dropout": lambda: cd.relu_dropout(x, 0.3, rng=1),
        "bias_relu_dropout": lambda: cd.bias_relu_dropout(rows, bias, 0.3, rng=1),
        "dropout_add": lambda: cd.dropout_add(x, residual, 0.3, rng=1),
        "dropout_add_of_everything": lambda: cd.dropout_add(x, residual, 1.0, rng=1),
        "bias_dropout_add": lambda: cd.bias_dropout_add(rows, bias, rows, 0.3, rng=1),
        "relu_dropout_backward": lambda: cd.relu_dropout_backward(x, residual, 0.3),
        "zoneout": lambda: cd.zoneout(x, residual, 0.3, rng=1),
        "add_noise": lambda: noise.add(x),
        "multiply_by_noise": lambda: noise.multiply(x),
    }


@pytest.mark.parametrize("mode", MODES)
def test_the_mode_that_is_set_is_real(register, mode):
    # Control for the next tests. A trap is visible in no result, and NumPy converts float16 with integers.
    if mode in ("invalid-traps", "flush-halves-to-zero"):
        pytest.skip("an ordinary product does not show it")
    x = np.concatenate([subnormals(np.float32), np.array([np.nan, -np.nan], np.float32)])
    scale = np.float32(1 / 0.7)
    found, after = in_mode(register, MODES[mode], lambda: np.multiply(x, scale))
    assert found.tobytes() != np.multiply(x, scale).tobytes()
    assert after & MODE_BITS == MODES[mode]


@pytest.mark.promise("bits-float-mode")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", MODES)
def test_the_callers_mode_changes_no_bit_and_is_left_as_it_was(register, isa, mode, dtype):
    for name, call in operations(dtype).items():
        expected = call()
        found, after = in_mode(register, MODES[mode], call)
        assert found.tobytes() == expected.tobytes(), name
        assert after & MODE_BITS == MODES[mode], name


@pytest.mark.skipif(platform.machine() != "x86_64", reason="AArch64's processors seldom trap")
def test_signalling_nans_do_not_stop_a_caller_that_traps_invalid_operations(register, isa):
    x = np.full(N, 0x7F800001, np.uint32).view(np.float32)
    mask = cd.draw_mask(N, 0.3, rng=1)
    found, _ = in_mode(register, MODES["invalid-traps"], lambda: mask.apply(x))
    assert found.tobytes() == mask.apply(x).tobytes()


IN_THREADS_OF_ANOTHER_MODE = """
import ctypes, hashlib, mmap, sys
set_code, mode = bytes.fromhex(sys.argv[1]), int(sys.argv[2])
page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(set_code)
set_register = ctypes.CFUNCTYPE(None, ctypes.c_uint64)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
import numpy as np
import cdropout as cd
from cdropout import _kernels
from cdropout.machine import CpuQuota
CpuQuota.n_cpus = lambda self: None
_kernels.set_limits(min_elems_per_thread=4096)
x = np.load(sys.argv[3])
mask = cd.draw_mask(x.shape, 0.3, rng=1)
set_register(mode)
first = mask.apply(x)  # starts OpenMP's threads, which take this thread's mode over
set_register(int(sys.argv[4]))
second = mask.apply(x)
import os
print(hashlib.sha256(first).hexdigest(), hashlib.sha256(second).hexdigest(), len(os.listdir("/proc/self/task")))
"""


@pytest.mark.skipif(not _kernels.has_openmp(), reason="this build has no OpenMP")
def test_threads_that_were_started_in_another_mode_change_no_bit(register, run_python, tmp_path):
    if platform.system() != "Linux":
        pytest.skip("needs Linux, to count threads")
    default = 0x1F80 if platform.machine() == "x86_64" else 0
    x = subnormals(np.float32, 200_000)
    np.save(tmp_path / "x.npy", x)
    result = run_python(
        "-c",
        IN_THREADS_OF_ANOTHER_MODE,
        CODE[platform.machine()]["set"],
        str(MODES["flush-to-zero"]),
        str(tmp_path / "x.npy"),
        str(default),
        env={"OMP_NUM_THREADS": "3", "OPENBLAS_NUM_THREADS": "1"},
    )
    expected = hashlib.sha256(cd.draw_mask(x.shape, 0.3, rng=1).apply(x)).hexdigest()
    assert result.stdout.decode().split() == [expected, expected, "3"]
