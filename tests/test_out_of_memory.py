"""MemoryError if memory is not available, with streams, generators and layers unchanged by the call."""

import functools
import sys

import numpy as np
import pytest
from conftest import switches_settings
from refused_allocations import needs_testcapi, refused_allocation

import cdropout as cd
from cdropout import _kernels

# A view of one element as large as the address space: no result of its shape can be allocated.
HUGE = np.broadcast_to(np.float32(1), (1 << 23, 1 << 22))
SQUARE = np.ones((64, 64), np.float32)

FUNCTIONS = {
    "dropout": lambda rng: cd.dropout(HUGE, rng=rng),
    "dropout with shared axes": lambda rng: cd.dropout(HUGE, rng=rng, shared_axes=0),
    "relu_dropout": lambda rng: cd.relu_dropout(HUGE, rng=rng),
    "bias_relu_dropout": lambda rng: cd.bias_relu_dropout(HUGE, np.broadcast_to(np.float32(1), (1 << 22,)), rng=rng),
    "dropout_add": lambda rng: cd.dropout_add(HUGE, HUGE, rng=rng),
    "zoneout": lambda rng: cd.zoneout(HUGE, HUGE, rng=rng),
    "dropout1d": lambda rng: cd.dropout1d(HUGE, rng=rng),
    "feature_dropout": lambda rng: cd.feature_dropout(HUGE, rng=rng),
    "drop_path": lambda rng: cd.drop_path(HUGE, rng=rng),
    "drop_path without scale": lambda rng: cd.drop_path(HUGE, scale_by_keep=False, rng=rng),
    "alpha_dropout": lambda rng: cd.alpha_dropout(HUGE, rng=rng),
    "gaussian_dropout": lambda rng: cd.gaussian_dropout(HUGE, rng=rng),
    "gaussian_noise": lambda rng: cd.gaussian_noise(HUGE, 1.0, rng=rng),
    "drop_block2d": lambda rng: cd.drop_block2d(HUGE[np.newaxis], rng=rng),
}
# The memory of these depends on the drawn mask, and is allocated after drawing.
PRODUCTS = {
    "drop_connect": lambda rng: cd.drop_connect(HUGE, np.ones((1 << 22, 4), np.float32), rng=rng),
    "feature_dropout_linear": lambda rng: cd.feature_dropout_linear(
        HUGE, np.broadcast_to(np.float32(1), (1 << 22, 1 << 22)), rng=rng
    ),
}


@pytest.mark.parametrize("call", [*FUNCTIONS.values(), *PRODUCTS.values()], ids=[*FUNCTIONS, *PRODUCTS])
def test_a_stream_has_not_moved_where_there_is_no_memory(call):
    stream = cd.Stream(1)
    cd.dropout(SQUARE, rng=stream)
    before = stream.state
    with pytest.raises(MemoryError):
        call(stream)
    assert stream.state == before


@pytest.mark.promise("out-of-memory")
@pytest.mark.parametrize("make", [np.random.default_rng, np.random.PCG64, np.random.MT19937])
@pytest.mark.parametrize("call", FUNCTIONS.values(), ids=FUNCTIONS)
def test_a_generator_has_not_moved_where_there_is_no_memory(call, make):
    rng, same = make(5), make(5)
    with pytest.raises(MemoryError):
        call(rng)
    assert np.array_equal(cd.dropout(SQUARE, rng=rng), cd.dropout(SQUARE, rng=same))


def test_a_mask_that_does_not_fit_into_memory_is_a_mask_all_the_same():
    stream = cd.Stream(1)
    mask = cd.draw_mask(1 << 50, 0.5, rng=stream)
    before = stream.state
    for fill in (mask.keep, mask.scaled):
        with pytest.raises(MemoryError):
            fill()
    assert stream.state == before
    assert np.array_equal(mask[4096:5000].keep(), cd.Mask(stream.key, 4096, 0.5, 904).keep())


def training(make, *arguments, **keywords):
    return lambda: (make(*arguments, rng=3, **keywords), make(*arguments, rng=3, **keywords))


LAYERS = {
    "Dropout": (training(cd.Dropout), 1),
    "FeatureDropout": (training(cd.FeatureDropout), 1),
    "AlphaDropout": (training(cd.AlphaDropout), 1),
    "ReLUDropout": (training(cd.ReLUDropout), 1),
    "BiasReLUDropout": (training(cd.BiasReLUDropout, np.ones(64, np.float32)), 1),
    "DropoutAdd": (training(cd.DropoutAdd), 2),
    "Zoneout": (training(cd.Zoneout), 2),
    "GaussianDropout": (training(cd.GaussianDropout), 1),
    "GaussianNoise": (training(cd.GaussianNoise, 1.0), 1),
    "DropBlock2d": (training(cd.DropBlock2d), 1),
    "DropConnect": (training(cd.DropConnect, 64, 64), 1),
    "FeatureDropoutLinear": (training(cd.FeatureDropoutLinear, 64, 64), 1),
}


@pytest.mark.promise("out-of-memory")
@pytest.mark.parametrize(("make", "n_inputs"), LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("is_training", [True, False])
def test_a_layer_goes_on_as_if_the_pass_without_memory_had_not_been(make, n_inputs, is_training):
    layer, same = make()
    x = SQUARE[np.newaxis] if isinstance(layer, cd.DropBlock2d) else SQUARE
    huge = np.broadcast_to(np.float32(1), (1 << 41, *x.shape[1:]))
    for one in (layer, same):
        one.forward(*[x] * n_inputs)
        one.train(is_training)
    state, left = layer.state, dict(vars(layer))
    try:
        result = layer.forward(*[huge] * n_inputs)
    except MemoryError:
        pass
    else:
        assert result is huge  # evaluation returns the input
        return
    assert layer.state == state
    assert all(vars(layer)[name] is value for name, value in left.items())
    for one in (layer, same):
        one.train()
    assert np.array_equal(layer.forward(*[x] * n_inputs), same.forward(*[x] * n_inputs))


# Limits from the memory in use to all that the calls need, so that each allocation is refused once: results, NumPy's
# buffers, copies, biases, the memory of OpenMP's threads.
UNDER_LIMITS = """
import hashlib, resource, sys
from pathlib import Path
import numpy as np
import cdropout as cd
from cdropout import _kernels
from cdropout.machine import CpuQuota
CpuQuota.n_cpus = lambda self: None

x = np.random.default_rng(0).standard_normal((1200, 1000), dtype=np.float32)
small, bias, weight = x[:60, :50], x[0], x[:1000, :100].copy()
out = np.empty((1200, 2000), np.float32)[:, ::2]
CALLS = {
    "plain": lambda rng: cd.dropout(x, 0.3, rng=rng),
    "transposed": lambda rng: cd.dropout(x.T, 0.3, rng=rng),
    "other byte order": lambda rng: cd.dropout(x.astype(">f4"), 0.3, rng=rng),
    "shared": lambda rng: cd.dropout(x.T, 0.3, rng=rng, shared_axes=0),
    "shared, to every other column": lambda rng: cd.dropout(x, 0.3, rng=rng, shared_axes=0, out=out),
    "fused": lambda rng: cd.bias_dropout_add(x, bias, x, 0.3, rng=rng),
    "fused, reversed": lambda rng: cd.bias_relu_dropout(x[::-1], bias, 0.3, rng=rng),
    "alpha": lambda rng: cd.alpha_dropout(x.T, 0.3, rng=rng),
    "noise": lambda rng: cd.gaussian_dropout(x.T, 0.3, rng=rng),
    "blocks": lambda rng: cd.drop_block2d(x[None], 0.3, rng=rng),
    "product": lambda rng: cd.drop_connect(small, x[:50], None, 0.3, rng=rng),
    "gathered": lambda rng: cd.feature_dropout_linear(x, weight, None, 0.8, rng=rng),
}
GENERATOR_MOVES = ("product", "gathered")

def digest(y):
    return hashlib.sha256(np.ascontiguousarray(y)).hexdigest()

def expected(call, make):
    rng = make()
    return digest(call(rng)), digest(cd.dropout(small, 0.3, rng=rng))

def allow(n_bytes):
    resource.setrlimit(resource.RLIMIT_AS, (n_bytes, resource.RLIM_INFINITY))

def check(name, make, n_bytes):
    rng = make()
    try:
        allow(n_bytes)
        try:
            y = CALLS[name](rng)
        finally:
            allow(resource.RLIM_INFINITY)
    except MemoryError:
        same = make()
        assert make is generator and name in GENERATOR_MOVES or (
            digest(cd.dropout(small, 0.3, rng=rng)) == digest(cd.dropout(small, 0.3, rng=same))
        ), f"{name}: moved with {n_bytes} bytes"
        return False
    assert (digest(y), digest(cd.dropout(small, 0.3, rng=rng))) == EXPECTED[name, make], name
    return True

def stream():
    return cd.Stream(7)

def generator():
    return np.random.default_rng(7)

small @ weight[:50]  # the memory that NumPy's matrix products keep
EXPECTED = {(name, make): expected(call, make) for name, call in CALLS.items() for make in (stream, generator)} \
    if "warm" in sys.argv else None
if EXPECTED is None:
    # No call has been made yet: OpenMP's threads are still to be started.
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    y = np.empty_like(x)
    allow(now + 100_000)
    mask = cd.draw_mask(x.shape, 0.3, rng=1)
    mask.apply(x, out=y)
    allow(resource.RLIM_INFINITY)
    one = digest(y)
    n_tasks = len(list(Path("/proc/self/task").iterdir()))
    mask.apply(x, out=y)
    print(one == digest(y), n_tasks, len(list(Path("/proc/self/task").iterdir())))
    sys.exit()
n_refused = n_done = 0
for name in CALLS:
    for make in (stream, generator):
        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        for n_more in range(0, 40_000_000, 800_000):
            if check(name, make, now + n_more):
                n_done += 1
                break
            n_refused += 1
print(n_refused, n_done)
"""


def results_with_one_refusal(make_call, n_allocations=40):
    """Return the results of new calls in each of which one allocation of Python's is refused; None for MemoryError."""
    results = []
    for number in range(1, n_allocations + 1):
        call, result = make_call(), None
        with refused_allocation(number) as error:
            result = call()
        assert not error or type(error[0]) is MemoryError
        results.append(result)
    return results


@pytest.mark.promise("out-of-memory")
@switches_settings
@needs_testcapi
@pytest.mark.parametrize("name", ["count", "packed", "indices"])
def test_decisions_are_whole_or_memory_error_whichever_allocation_is_refused(name):
    call = getattr(cd.Mask(1, 0, 0.3, 70_000), name)
    results = results_with_one_refusal(lambda: call)
    whole = [result for result in results if result is not None]
    assert 0 < len(whole) < len(results)
    assert all(np.array_equal(result, call()) for result in whole)


@pytest.mark.promise("out-of-memory")
@switches_settings
@needs_testcapi
def test_a_layer_without_memory_for_its_record_decides_again(isa):
    x, layers = np.ones(70_000, np.float32), []
    expected = cd.Dropout(0.3, rng=cd.Stream(7)).forward(x)

    def new_forward():
        layers.append(cd.Dropout(0.3, rng=cd.Stream(7)))
        return functools.partial(layers[-1].forward, x)

    results = results_with_one_refusal(new_forward)
    sizes = set()
    for layer, y in zip(layers, results, strict=True):
        if y is None:
            assert layer.mask is None
            continue
        assert np.array_equal(y, expected)
        assert np.array_equal(layer.backward(x), expected)
        sizes.add(_kernels.record_bytes(layer.mask))
    assert sizes == ({0, 70_000 // 64 * 8} if isa == "avx2" else {0})


linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux, to limit a process's memory")
ONE_BLAS_THREAD = {"OPENBLAS_NUM_THREADS": "1"}


@pytest.mark.promise("out-of-memory")
@linux
@pytest.mark.parametrize("n_threads", ["1", "4"])
def test_whichever_piece_of_memory_is_refused_nothing_has_moved(run_python, n_threads):
    env = {"OMP_NUM_THREADS": n_threads, **ONE_BLAS_THREAD}
    n_refused, n_done = map(int, run_python("-c", UNDER_LIMITS, "warm", env=env).stdout.split())
    assert n_done == 24
    assert n_refused > 50


@pytest.mark.promise("refused-threads")
@linux
def test_threads_that_the_system_refuses_are_done_without(run_python):
    # GNU's OpenMP ends the process if it cannot start a thread.
    env = {"OMP_NUM_THREADS": "4", **ONE_BLAS_THREAD}
    right, n_refused, n_later = run_python("-c", UNDER_LIMITS, env=env).stdout.split()
    assert (right, n_refused) == (b"True", b"1")
    assert n_later == (b"4" if _kernels.has_openmp() else b"1")


# ---- an out that the kernels cannot write to as it lies --------------------------------------------------------------

OUTS = {
    "transposed": lambda: np.ones((64, 64), np.float32).T,
    "every other column": lambda: np.ones((64, 128), np.float32)[:, ::2],
    "reversed": lambda: np.ones((64, 64), np.float32)[::-1],
    "other byte order": lambda: np.ones((64, 64), np.dtype(np.float32).newbyteorder()),
}


@pytest.mark.parametrize("make_out", OUTS.values(), ids=OUTS)
def test_buffers_that_no_job_has_filled_are_not_written_to_out(make_out):
    used_up = cd.Stream(1)
    used_up._place(used_up.key, _kernels.POSITION_LIMIT)
    for rng, error in (("no seed", TypeError), (used_up, OverflowError)):
        for call in (cd.dropout, cd.relu_dropout, cd.alpha_dropout, cd.gaussian_dropout):
            out = make_out()
            with pytest.raises(error):
                call(2 * SQUARE, 0.5, rng=rng, out=out)
            assert np.all(out == 1)
    out = make_out()
    assert np.array_equal(cd.dropout(2 * SQUARE, 0.0, rng=1, out=out), 2 * SQUARE)
    assert np.array_equal(out, 2 * SQUARE)
