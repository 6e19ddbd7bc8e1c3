"""Signals during long calls: Ctrl-C ends the calls, other handlers run, and later results are right."""

import gc
import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
import traceback
from contextlib import contextmanager

import numpy as np
import pytest
from conftest import ISAS, needs_the_main_thread
from limits import limits
from threadpoolctl import threadpool_limits

import cdropout as cd
from cdropout import _kernels

pytestmark = [pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs POSIX signals"), needs_the_main_thread]

# ---- Ctrl-C on 1 GB -------------------------------------------------------------------------------------------------

CALL_ON_A_GIGABYTE = """
import hashlib, signal, sys, time
import numpy as np
import cdropout as cd
from cdropout import _kernels
from cdropout.stream import as_stream

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has what it runs in the background ignore it
N_BYTES = 1 << 30

def flat(dtype):
    return np.zeros(N_BYTES // np.dtype(dtype).itemsize, dtype)

def square(dtype):
    side = 1 << ((N_BYTES // np.dtype(dtype).itemsize).bit_length() - 1) // 2
    return np.zeros((side, N_BYTES // np.dtype(dtype).itemsize // side), dtype)

def call(kind, dtype):
    # Return a function to call, and the array that it writes to.
    is_flat = kind in ("noise", "dropout", "relu", "one sample", "other byte order")
    x, y = (flat if is_flat else square)(dtype), (flat if is_flat else square)(dtype)
    turned, bias = y.reshape(y.shape[::-1]), np.zeros(x.shape[-1], dtype) if x.ndim == 2 else None
    swapped, residual = x.dtype.newbyteorder(), square(dtype)
    mask = cd.draw_mask((N_BYTES // (1 << 16), 1 << 16), 0.1, rng=1, shared_axes=0)
    return {
        "noise": (lambda: cd.gaussian_noise(x, 1.0, out=x), x),
        "dropout": (lambda: cd.dropout(x, 0.1, out=y), y),
        "relu": (lambda: cd.relu_dropout(x, 0.1, out=y), y),
        "one sample": (lambda: cd.alpha_dropout(x.reshape(1, -1), 0.1, out=x.reshape(1, -1), shared_axes=1), x),
        "rows that share": (lambda: cd.alpha_dropout(x, 0.1, out=x, shared_axes=0), x),
        "other byte order": (lambda: cd.dropout(x.view(swapped), 0.1, out=y.view(swapped)), y),
        "bias and residual": (lambda: cd.bias_dropout_add(x, bias, residual, 0.1, out=y), y),
        "transposed": (lambda: cd.alpha_dropout(x.T, 0.1, out=turned), turned),
        "transposed, shared": (lambda: cd.alpha_dropout(x, 0.1, out=turned.T, shared_axes=1), turned),
        "transposed copy": (lambda: cd.dropout(x.T, 0.0, out=turned), turned),
        "keep": (mask.keep, x),
        "packed": (mask.packed, x),
    }[kind]

_kernels.use_isa(sys.argv[1])
begin, out = call(*sys.argv[2:4])
stream = as_stream(None)
before = stream.position
try:
    began = time.monotonic()
    print("ready", flush=True)
    while True:
        began = time.monotonic()
        begin()
        if "once" in sys.argv:
            break
    ended = None
except KeyboardInterrupt:
    ended = time.monotonic()
taken = stream.position - before
is_whole = bool(out.reshape(-1)[-4096:].any())
x = np.arange(1_000_000, dtype=np.float32)
drawn, start = cd.dropout(x, 0.5), stream.position - 1_003_520
right = np.array_equal(drawn, cd.Mask(stream.key, start, 0.5, x.shape).apply(x))
print(began, ended, taken, is_whole, right)
"""


def interrupt(*arguments, after_seconds, env):
    """Interrupt a call after_seconds after its start; return (seconds to the exception, positions, is whole, right)."""
    command = [sys.executable, "-P", "-c", CALL_ON_A_GIGABYTE, *arguments]  # -P: no source folder on the path
    with subprocess.Popen(command, env={**os.environ, **env}, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"ready\n"
            time.sleep(after_seconds)
            sent = time.monotonic()
            process.send_signal(signal.SIGINT)
            out, _ = process.communicate(timeout=60)
        finally:
            process.kill()
    began, ended, taken, is_whole, right = out.decode().split()
    assert float(began) < sent
    assert ended != "None", "the call ended before it was interrupted"
    return float(ended) - sent, int(taken), is_whole == "True", right == "True"


@pytest.mark.promise("ctrl-c")
@pytest.mark.parametrize(
    ("kind", "dtype", "isa_name", "n_positions"),
    [
        ("noise", "float16", "portable", 1 << 29),  # 30 ns per element: 16 s
        ("transposed", "float32", None, 1 << 28),  # through NumPy's buffers: about 5 s
        ("transposed, shared", "float32", None, 1 << 14),  # copied to a buffer and back: about 5 s
    ],
)
def test_ctrl_c_during_a_call_on_a_gigabyte_comes_within_a_second(kind, dtype, isa_name, n_positions):
    seconds, taken, is_whole, right = interrupt(
        isa_name or _kernels.active_isa(), kind, dtype, "once", after_seconds=0.3, env={"OMP_NUM_THREADS": "1"}
    )
    assert seconds < 1
    assert taken == n_positions  # all positions of the call
    assert not is_whole
    assert right  # the next call


KINDS = (
    *("dropout", "relu", "bias and residual", "noise", "one sample", "rows that share", "keep", "packed"),
    *("other byte order", "transposed", "transposed, shared", "transposed copy"),
)


@pytest.mark.promise("ctrl-c")
@pytest.mark.deep
@pytest.mark.parametrize("n_threads", ["1", "2"])
@pytest.mark.parametrize("isa_name", ISAS)
def test_ctrl_c_at_any_moment_of_any_call_on_a_gigabyte_comes_within_a_second(isa_name, n_threads):
    if isa_name not in _kernels.supported_isas():
        pytest.skip(f"this machine has no {isa_name}")
    rng, slowest = random.Random(f"{isa_name} {n_threads}"), {}
    for kind in KINDS:
        for dtype in ("float32",) if kind in ("keep", "packed") else ("float16", "float32", "float64"):
            seconds, _, _, right = interrupt(
                isa_name, kind, dtype, after_seconds=rng.uniform(0, 1), env={"OMP_NUM_THREADS": n_threads}
            )
            slowest[seconds] = kind, dtype
            assert right, (kind, dtype)
    print(f"\n{isa_name}, {n_threads} threads: slowest {max(slowest):.2f} s, {slowest[max(slowest)]}")
    assert max(slowest) < 1, slowest


# ---- slices, and handlers between them ------------------------------------------------------------------------------


@pytest.fixture
def slices():
    """A function that sets the largest slice and the seconds between checks for signals, restored after the test."""

    def set_slices(n_elems, seconds):
        _kernels.set_limits(max_elems_per_slice=n_elems, microseconds_between_checks=int(seconds * 1e6))

    with limits():
        yield set_slices


@contextmanager
def alarms(handle, seconds=0.002):
    """Call handle at every alarm; an alarm follows the given number of seconds after the last one was handled.

    Garbage collection waits: what a handler raises in a callback of it (Hypothesis has one) is lost.
    """

    def handle_and_wait(number, frame):
        handle()
        signal.setitimer(signal.ITIMER_REAL, seconds)

    before, was_enabled = signal.signal(signal.SIGALRM, handle_and_wait), gc.isenabled()
    gc.disable()
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if was_enabled:
            gc.enable()


X = np.random.default_rng(0).standard_normal(3_000_000, dtype=np.float32)
MASK = cd.draw_mask(X.shape, 0.1, rng=3)
DIGEST = hashlib.sha256(MASK.apply(X).tobytes()).hexdigest()


def digest():
    return hashlib.sha256(MASK.apply(X).tobytes()).hexdigest()


def results():
    """Yield the result of every kind of job, on arrays that are cut into slices."""
    x = X[:300_000]
    square, mask, noise = x[:250_000].reshape(500, 500), MASK[: x.size], cd.draw_noise(x.shape, 0.3, rng=5)
    yield mask.apply(x)
    yield mask.apply(x[::-1])
    yield mask.keep()
    yield mask.packed()
    yield mask.indices()
    yield np.array(mask.count())
    yield cd.bernoulli(x.size, np.abs(x) / 10, rng=4)
    yield mask.scaled(np.float64)
    yield mask.apply(x, scale=2.0, shift=1.0, fill=3.0)
    yield noise.multiply(x)
    yield noise.add(x.astype(np.float16))
    yield cd.bias_relu_dropout(square, x[:500], 0.3, rng=7)
    yield cd.bias_dropout_add(square.T, x[:500], square, 0.3, rng=7)
    yield cd.relu_dropout_backward(square, square.T, 0.3)
    yield cd.dropout(square, 0.0)
    for axes in ((0,), (1,), (0, 1)):
        yield cd.dropout(square, 0.3, rng=8, shared_axes=axes)
        yield cd.dropout(square.T, 0.3, rng=8, shared_axes=axes)
        yield cd.draw_mask(square.shape, 0.3, rng=9, shared_axes=axes).keep()
    yield cd.dropout(x.reshape(3, 100_000), 0.3, rng=10, shared_axes=0)
    yield cd.dropout(x.reshape(3, 100, 1000), 0.3, rng=10, shared_axes=(0, 2))
    # A position with so many repeats that they are cut into slices.
    repeats = cd.draw_mask((2, 1_100_001), 0.5, rng=6, shared_axes=1)
    yield repeats.apply(np.ones(repeats.shape, np.float16))
    yield repeats.apply(np.ones(repeats.shape, np.float32), fill=-1.0)


@pytest.mark.parametrize("n_threads", [1, 3])
def test_a_call_in_many_slices_gives_the_same_bits(slices, n_threads):
    with threadpool_limits(1, user_api="openmp"):
        whole = [result.tobytes() for result in results()]
    with limits(min_elems_per_thread=10_000), threadpool_limits(n_threads, user_api="openmp"):
        for n_elems in (100_003, 9_999):
            slices(n_elems, 0.0)
            assert [result.tobytes() for result in results()] == whole


def test_a_slice_may_be_as_large_as_any_number(slices):
    x = np.random.default_rng(0).standard_normal((300, 200), dtype=np.float32)[:, ::2]
    expected = cd.dropout(x, 0.5, rng=1, shared_axes=0)
    slices(2**64 - 1, 0.0)
    assert np.array_equal(cd.dropout(x, 0.5, rng=1, shared_axes=0), expected)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"max_elems_per_slice": 0}, ValueError),
        ({"min_elems_per_thread": 0}, ValueError),
        ({"max_cached_bytes": -1}, ValueError),
        ({"max_cached_bytes": 2**64}, ValueError),
        ({"max_cached_bytes": 1.5}, TypeError),
        ({"max_cached_byte": 1}, TypeError),
        ({"max_cached_bytes": 7, "max_elems_per_slice": 0}, ValueError),
    ],
)
def test_a_limit_that_cannot_be_is_refused_and_nothing_changes(changes, error):
    before = _kernels.get_limits()
    with pytest.raises(error, match=r"must be"):
        _kernels.set_limits(**changes)
    assert _kernels.get_limits() == before


def test_a_position_that_repeats_very_often_is_decided_once_for_all_of_it():
    mask = cd.draw_mask((4, 1_500_001), 0.5, rng=2, shared_axes=1)
    expected = np.where(cd.draw_mask((4, 1), 0.5, rng=2).keep(), 2, 0)
    assert 0 < expected.sum() < 8
    for dtype in (np.float16, np.float32, np.float64):
        assert np.array_equal(mask.apply(np.ones(mask.shape, dtype)), np.broadcast_to(expected, mask.shape))


@pytest.mark.promise("signal-handlers")
def test_a_handler_may_call_the_library_in_the_middle_of_a_call(slices):
    slices(10_000, 0.0)
    inner, outer = [], []
    with alarms(lambda: inner.append(digest()) if len(inner) < 3 else None):
        while len(inner) < 3:
            outer.append(digest())
    assert set(outer) == set(inner) == {DIGEST}


@pytest.mark.promise("fork")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_handler_may_fork_in_the_middle_of_a_call_and_both_processes_end_it(slices):
    slices(10_000, 0.0)
    test_process, children = os.getpid(), []

    def fork():
        if os.getpid() == test_process and len(children) < 5:
            children.append(os.fork())
            if children[-1] == 0:
                signal.alarm(5)  # so that a child that hangs is killed

    status = 1
    try:
        with alarms(fork):
            while len(children) < 5:
                assert digest() == DIGEST
                if os.getpid() != test_process:
                    assert digest() == DIGEST
                    status = 0
                    break
    finally:
        if os.getpid() != test_process:
            os._exit(status)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 5


class StopError(Exception):
    """The exception that a handler raises."""


def stop():
    raise StopError


@pytest.mark.promise("interrupted-stream")
def test_an_interrupted_call_has_taken_its_positions_and_written_some_elements(slices):
    slices(10_000, 0.0)
    stream, x, rng = cd.Stream(1), np.ones(10_000_000, np.float32), random.Random(1)
    n_taken = -(-x.size // 4096) * 4096
    n_left = 0
    while not 0 < n_left < x.size:  # an alarm may also interrupt before the first element, or after the last one
        x[...], before = 1, stream.position
        try:
            with threadpool_limits(1), alarms(stop, rng.uniform(0.0005, 0.003)):
                cd.dropout(x, 0.5, rng=stream, out=x)
        except StopError:
            assert stream.position in (before, before + n_taken)
            n_left = np.count_nonzero(x == 1)
    assert stream.position == before + n_taken
    whole = cd.Mask(stream.key, before, 0.5, x.shape).scaled()
    assert np.all((x == 1) | (x == whole))
    y = cd.dropout(X, 0.5, rng=stream)
    assert np.array_equal(y, cd.Mask(stream.key, before + n_taken, 0.5, X.shape).apply(X))


@pytest.mark.promise("interrupted-layer")
@pytest.mark.parametrize("make", [cd.Dropout, cd.ReLUDropout, cd.AlphaDropout, cd.GaussianDropout])
def test_an_interrupted_layer_keeps_what_its_last_whole_pass_left(slices, make):
    slices(10_000, 0.0)
    layer = make(0.5, rng=1)
    frames = []
    while "forward" not in frames:  # an alarm may also interrupt between two passes
        with alarms(stop, 0.01):
            try:
                while True:
                    left = dict(vars(layer))
                    layer.forward(X)
            except StopError as error:
                frames = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    assert all(vars(layer)[name] is value for name, value in left.items())
    assert layer.rng.position > 0


def test_interrupted_calls_leave_their_threads_to_others(run_python):
    program = """
import os, signal, time
import numpy as np
import cdropout as cd
from cdropout import _kernels
from cdropout.machine import CpuQuota
CpuQuota.n_cpus = lambda self: None
_kernels.set_limits(max_elems_per_slice=10_000, microseconds_between_checks=0)
_kernels.set_limits(min_elems_per_thread=1 << 40)  # the calls that are interrupted start no threads
x = np.ones(3_000_000, np.float32)
cd.dropout(x, out=x)  # the default stream imports numpy.random, which may swallow what a handler raises
signal.signal(signal.SIGALRM, signal.default_int_handler)
for _ in range(5):
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.002)
        while True:
            cd.dropout(x, out=x)
    except KeyboardInterrupt:
        pass
time.sleep(0.15)  # what ran at once lately counts no more
n_before = len(os.listdir("/proc/self/task"))
_kernels.set_limits(min_elems_per_thread=262_144)
cd.dropout(x, out=x)
print(n_before, len(os.listdir("/proc/self/task")))
"""
    if not _kernels.has_openmp() or not os.path.isdir("/proc/self/task"):
        pytest.skip("needs OpenMP, and Linux to count threads")
    env = {"OMP_NUM_THREADS": "4", "OPENBLAS_NUM_THREADS": "1"}
    assert run_python("-c", program, env=env).stdout.split() == [b"1", b"4"]


@pytest.mark.promise("interrupts-elsewhere")
def test_calls_of_other_threads_are_not_interrupted(slices):
    slices(10_000, 0.0)
    digests, is_over = [], threading.Event()

    def work():
        while not is_over.is_set():
            digests.append(digest())

    worker = threading.Thread(target=work)
    worker.start()
    try:
        with pytest.raises(StopError), alarms(stop, 0.1):
            time.sleep(60)
    finally:
        is_over.set()
        worker.join()
    assert set(digests) == {DIGEST}
