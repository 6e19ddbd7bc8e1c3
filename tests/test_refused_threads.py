"""Threads that the system refuses: a call works with fewer, whatever has happened to OpenMP's threads before."""

import re
import sys

import pytest

from cdropout import _kernels
from cdropout.machine import openmp_stack_bytes

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux, to limit a process's memory"),
    pytest.mark.skipif(not _kernels.has_openmp(), reason="this build has no OpenMP"),
]

# Stacks above 40 MB: the C library returns them to the system when their thread ends.
ENVIRONMENT = {"OMP_NUM_THREADS": "4", "OMP_STACKSIZE": "64M", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
ENVIRONMENT |= dict.fromkeys(("OMP_PLACES", "OMP_PROC_BIND", "OMP_THREAD_LIMIT", "GOMP_STACKSIZE", "KMP_STACKSIZE"), "")

SETUP = """
import ctypes, hashlib, os, resource, signal, sys, threading, time
import numpy as np
import cdropout as cd
from cdropout import _kernels
from cdropout.machine import CpuQuota
CpuQuota.n_cpus = lambda self: None
MIB = 1 << 20

def n_threads():
    return len(os.listdir("/proc/self/task"))

def allow(n_more_bytes):
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + n_more_bytes, resource.RLIM_INFINITY))

with open("/proc/self/maps") as file:
    loaded = {line.split()[-1] for line in file if "omp" in os.path.basename(line.split()[-1])}
openmp, free = ctypes.CDLL(loaded.pop()), ctypes.CDLL(None).free

def region_of_another_library(n):
    openmp.GOMP_parallel(free, None, n, 0)  # free(NULL) on n threads
    for _ in range(5000):
        if n_threads() <= n:
            return
        time.sleep(0.001)

def digest(array):
    return hashlib.sha256(array).hexdigest()

x = np.random.default_rng(0).standard_normal(3_000_000, dtype=np.float32)
y = np.empty_like(x)
mask = cd.draw_mask(x.shape, 0.3, rng=1)

def is_right():
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return digest(y) == digest(mask.apply(x))
"""


def words(run_python, program, *arguments, **env):
    """Return the words that a program prints; the test fails with its stderr if it ends early."""
    ended = run_python("-c", SETUP + program, *arguments, env=ENVIRONMENT | env, check=False)
    assert ended.returncode == 0, ended.stderr.decode()
    return ended.stdout.decode().split()


@pytest.mark.promise("refused-threads")
def test_threads_that_another_library_has_ended_are_tried_again(run_python):
    program = """
mask.apply(x, out=y)
before = n_threads()
region_of_another_library(2)
between = n_threads()
y[:] = 0
allow(MIB)
mask.apply(x, out=y)
print(before, between, n_threads(), is_right())
"""
    assert words(run_python, program) == ["4", "2", "2", "True"]


@pytest.mark.promise("refused-threads")
def test_threads_that_a_signal_handler_has_ended_during_a_call_are_tried_again(run_python):
    program = """
_kernels.set_limits(microseconds_between_checks=0, max_elems_per_slice=4096)
found = []

def shrink(*_):
    if not found:
        found.append(n_threads())
        region_of_another_library(2)
        allow(MIB)

signal.signal(signal.SIGALRM, shrink)
mask.apply(x, out=y)
while not found:
    signal.setitimer(signal.ITIMER_REAL, 0.0005)
    mask.apply(x, out=y)
    signal.setitimer(signal.ITIMER_REAL, 0)
print(n_threads(), is_right())
"""
    assert words(run_python, program) == ["2", "True"]


@pytest.mark.promise("refused-threads")
def test_calls_that_start_threads_at_the_same_time_do_not_count_on_the_same_memory(run_python):
    program = """
_kernels.set_limits(min_elems_per_thread=1)
ys = [np.empty_like(x) for _ in range(8)]
barrier = threading.Barrier(9)

def call(result):
    barrier.wait()
    barrier.wait()
    mask.apply(x, out=result)

threads = [threading.Thread(target=call, args=(result,)) for result in ys]
for thread in threads:
    thread.start()
barrier.wait()
allow(300 * MIB)  # 4 stacks, for 8 calls that want 3 each or more
barrier.wait()
for thread in threads:
    thread.join()
y[:] = ys[0]
print(is_right(), {digest(each) for each in ys} == {digest(y)})
"""
    assert words(run_python, program, OMP_NUM_THREADS="32") == ["True", "True"]


@pytest.mark.promise("refused-threads")
@pytest.mark.parametrize(
    "sizes",
    [{"OMP_STACKSIZE": "1G"}, {"OMP_STACKSIZE": " 1048576 "}, {"OMP_STACKSIZE": "", "GOMP_STACKSIZE": "1024 m"}],
    ids=str,
)
def test_threads_are_tried_with_the_stack_of_openmps_threads(run_python, sizes):
    program = """
for n_mib in (2500, 3500):  # one thread of three would be refused, then none
    allow(n_mib * MIB)
    mask.apply(x, out=y)
    print(n_threads())
print(is_right())
"""
    assert words(run_python, program, **sizes) == ["1", "4", "True"]


@pytest.mark.promise("refused-threads")
def test_openmps_limit_on_threads_is_kept(run_python):
    assert words(run_python, "mask.apply(x, out=y)\nprint(n_threads(), is_right())", OMP_THREAD_LIMIT="2") == [
        "2",
        "True",
    ]


STACK_SIZES = {
    "": 0,
    "512": 512 << 10,
    " 2 m ": 2 << 20,
    "+3M": 3 << 20,
    "1G": 1 << 30,
    "100000B": 100000,
    "65536 b": 65536,
    "\t300k\n": 300 << 10,
    "0300k": 300 << 10,
    "m": 0,
    "1.5M": 0,
    "0x10M": 0,
    "1MB": 0,
    "1T": 0,
    "M1": 0,
    "-1": 0,
    "- 1": 0,
    "5 5": 0,
    "99999999999999999999": 0,
    "17179869184G": 0,
    "9" * 5000: 0,
    "\u0665M": 0,
}


@pytest.mark.parametrize("text", STACK_SIZES, ids=lambda text: ascii(text[:10]))
def test_stack_sizes_are_read_as_gnus_openmp_reads_them(run_python, text):
    assert openmp_stack_bytes({"OMP_STACKSIZE": text}) == STACK_SIZES[text]
    ended = run_python("-c", "import cdropout", env=ENVIRONMENT | {"OMP_STACKSIZE": text, "OMP_DISPLAY_ENV": "true"})
    shown = re.search(rb"OMP_STACKSIZE = '(\d+)'", ended.stderr)
    if shown is None:
        pytest.skip("this OpenMP is not GNU's")
    assert int(shown[1]) == STACK_SIZES[text]


def test_the_first_stack_size_that_openmp_can_parse_counts():
    gnu = {"OMP_STACKSIZE": "1.5M", "GOMP_STACKSIZE": "3M"}
    assert openmp_stack_bytes(gnu) == 3 << 20
    assert openmp_stack_bytes(gnu | {"OMP_STACKSIZE": "m"}) == 0
    assert openmp_stack_bytes(gnu | {"OMP_STACKSIZE": "2M"}) == 2 << 20
    assert openmp_stack_bytes({"OMP_STACKSIZE": "-1b"}) == 2 * sys.maxsize + 1
    assert openmp_stack_bytes({"KMP_STACKSIZE": "5242880"}) == 5 << 20
    assert openmp_stack_bytes({"OMP_STACKSIZE": "6m", "KMP_STACKSIZE": "5m"}) == 6 << 20
