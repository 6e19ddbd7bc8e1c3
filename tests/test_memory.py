"""Memory that calls allocate."""

import re
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from conftest import measures_the_process

import cdropout as cd

MIB = 1 << 20
REPEATED_CALLS = Path(__file__).with_name("repeated_calls.py")

pytestmark = measures_the_process


def peak_of(call):
    """Return the peak of traced memory, which includes NumPy's arrays, above its start, in bytes."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        call()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def test_the_measure_sees_an_array():
    assert peak_of(lambda: np.empty(MIB, np.uint8)) >= MIB


@pytest.mark.promise("no-stored-mask")
def test_applying_a_mask_to_64_million_floats_allocates_nothing_that_grows():
    x = np.ones(1 << 26, np.float32)
    mask = cd.draw_mask(x.shape, 0.1, rng=1)
    assert peak_of(lambda: mask.apply(x, out=x)) < 32_768
    assert peak_of(lambda: cd.dropout(x, 0.1, rng=cd.Stream(1), out=x)) < 32_768


PEAK_OF_PROCESS = """
import sys
from pathlib import Path
import numpy as np
import cdropout as cd

def peak():
    # Of this program, in KiB, without the code that has been read so far, which is never given back. getrusage's peak
    # would begin at that of the process it was forked from.
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) - int(lines["RssFile"].split()[0])

x, y = np.ones(1 << 26, np.float32), np.ones(1 << 26, np.float32)
mask = cd.draw_mask(x.shape, 0.1, rng=1)
layer = cd.Dropout(0.1, rng=1, inplace=True)
mask[:1 << 20].apply(x[:1 << 20], out=x[:1 << 20])  # starts the threads
before = peak()
mask.apply(x, out=y)
layer.forward(x)
layer.backward(y)
if "control" in sys.argv:
    np.ones(1 << 22, np.float32)
print(peak() - before)
"""


def test_the_core_allocates_nothing_behind_numpys_back(run_python):
    # tracemalloc does not trace the C core and OpenMP; the process's peak includes them, as the control with an array
    # shows.
    if not sys.platform.startswith("linux"):
        pytest.skip("needs Linux, to read a process's peak")
    assert int(run_python("-c", PEAK_OF_PROCESS).stdout) < 1024
    assert int(run_python("-c", PEAK_OF_PROCESS, "control").stdout) > 8 * 1024


@pytest.mark.promise("no-stored-mask")
def test_other_layouts_are_processed_in_bounded_memory():
    large = np.ones((2048, 4096), np.float32)
    mask = cd.draw_mask(large.T.shape, 0.1, rng=1)
    assert peak_of(lambda: mask.apply(large.T, out=large.T)) < 8 * MIB < large.nbytes


def test_a_feature_mask_is_never_expanded_to_the_shape():
    large = np.ones((4096, 1024), np.float32)
    for axes in (0, 1):
        mask = cd.draw_mask(large.shape, 0.1, rng=1, shared_axes=axes)
        assert peak_of(lambda mask=mask: mask.apply(large, out=large)) < 32_768


def growth_of_calls(run_python, *arguments):
    if not sys.platform.startswith("linux"):
        pytest.skip("needs Linux, to read what a process has in memory")
    printed = run_python(str(REPEATED_CALLS), *arguments, timeout=1800).stdout.decode()
    return {name: int(n_bytes) for name, n_bytes in (line.split("\t") for line in printed.splitlines())}


def assert_none_grows(growth):
    print(f"{len(growth)} kinds of calls: none grew by more than {max(growth.values())} bytes")
    assert {name: n_bytes for name, n_bytes in growth.items() if n_bytes >= MIB} == {}


def test_every_public_name_is_called_in_the_program_that_looks_for_leaks():
    program = REPEATED_CALLS.read_text()
    assert [name for name in cd.__all__ if not re.search(rf"\bcd\.{name}\b", program)] == ["__version__"]


def test_thousands_of_calls_of_every_kind_and_of_errors_leave_nothing_behind(run_python):
    # A leak of 500 bytes per call is a MiB here; with 100,000 calls, the deep test finds one of 11 bytes.
    assert_none_grows(growth_of_calls(run_python, "2000"))


@pytest.mark.deep
def test_a_hundred_thousand_calls_of_every_kind_and_of_errors_leave_nothing_behind(run_python):
    assert_none_grows(growth_of_calls(run_python, "100000"))


def test_calls_that_leave_something_behind_are_seen(run_python):
    assert growth_of_calls(run_python, "20000", "control")["control"] >= MIB
