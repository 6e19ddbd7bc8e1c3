"""Dask arrays: the bits of one NumPy call, for every chunking, on real worker processes, also if one of them dies."""

import gc
import hashlib
import itertools
import logging
import os
import pickle
import signal
import time

import ml_dtypes
import numpy as np
import pytest
from array_objects import bits, normals
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.sparse import csr_array

import cdropout as cd

# Warnings of Dask, and of the connections of a killed worker.
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore::ResourceWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")
distributed = pytest.importorskip("distributed")

from chunk_tasks import PATIENCE, chunk_of_normals, digest_of_chunk, hold_back, numbered  # noqa: E402

import cdropout.dask as cdask  # noqa: E402

DTYPES = (np.float32, np.float64, np.float16, ml_dtypes.bfloat16)
MEMORY_LIMIT = 320 << 20


@pytest.fixture(autouse=True)
def in_this_thread():
    """Arrays are computed in this thread, unless a cluster computes them."""
    with dask.config.set(scheduler="synchronous"):
        yield


class Changing:
    """A number that is another one each time it is converted."""

    def __init__(self, *numbers):
        self.numbers = list(numbers)

    def __float__(self):
        return self.numbers.pop(0) if len(self.numbers) > 1 else self.numbers[0]


def test_a_factor_is_converted_once_for_all_chunks():
    x = normals((8, 6), np.float64)
    mask = cd.draw_mask(x.shape, 0.5, rng=1)
    y = cdask.apply(
        mask,
        da.from_array(x, chunks=(2, 3)),
        scale=Changing(3.0, np.nan),
        shift=Changing(2.0, 7.0),
        fill=Changing(1.0, np.inf),
    )
    assert bits(y.compute()) == bits(mask.apply(x, scale=3.0, shift=2.0, fill=1.0))
    with pytest.raises(ValueError, match=r"^scale must be finite, got inf"):
        cdask.apply(mask, da.from_array(x), scale=np.inf)


def test_equal_values_have_equal_tokens():
    def values(seed):
        stream = cd.Stream(seed)
        mask = cd.draw_mask((3, 4), 0.5, rng=stream)
        return mask, mask[1:], cd.draw_noise(3, 1.0, rng=stream), stream, cd.Dropout(0.5, rng=stream)

    with dask.config.set({"tokenize.ensure-deterministic": True}):
        tokens, again, others = ([dask.base.tokenize(value) for value in values(seed)] for seed in (1, 1, 2))
    assert tokens == again
    assert len({*tokens, *others}) == 10


# ---- the same bits --------------------------------------------------------------------------------------------------


@st.composite
def chunkings(draw, shape):
    """Draw chunks of any lengths, 0 included, along every axis."""
    chunks = []
    for length in shape:
        cuts = sorted(draw(st.lists(st.integers(0, length), max_size=4)))
        chunks.append(tuple(b - a for a, b in itertools.pairwise([0, *cuts, length])))
    return tuple(chunks)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_chunking_gives_the_bits_of_one_numpy_call(data):
    shape = data.draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=40))
    axes = tuple(data.draw(st.lists(st.integers(0, len(shape) - 1), unique=True, max_size=2))) if shape else ()
    p, dtype = data.draw(st.sampled_from([0.1, 0.5, 0.0, 1.0])), data.draw(st.sampled_from(DTYPES))
    x, dy = normals(shape, dtype), normals(shape, dtype, seed=1)
    y = cdask.dropout(da.from_array(x, chunks=data.draw(chunkings(shape))), p, rng=7, shared_axes=axes)
    assert (y.shape, y.dtype) == (x.shape, x.dtype)
    assert bits(y.compute()) == bits(cd.dropout(x, p, rng=7, shared_axes=axes))
    # The backward pass, in other chunks.
    mask = cd.draw_mask(shape, p, rng=7, shared_axes=axes)
    dx = cdask.apply(mask, da.from_array(dy, chunks=data.draw(chunkings(shape))))
    assert bits(dx.compute()) == bits(mask.apply(dy))
    chunks = data.draw(chunkings(shape))
    assert bits(cdask.keep(mask, chunks).compute()) == bits(mask.keep())
    assert bits(cdask.scaled(mask, dtype, chunks).compute()) == bits(mask.scaled(dtype))


def test_chunks_of_any_memory_layout_and_byte_order_are_taken():
    x = normals((60, 50), np.float32)
    expected = bits(cd.dropout(x, 0.3, rng=1))
    for other in (np.asfortranarray(x), x.astype(">f4"), np.repeat(x, 2, axis=1)[:, ::2]):
        y = cdask.dropout(da.from_array(other, chunks=(7, 11)), 0.3, rng=1)
        assert y.dtype == np.dtype("=f4")
        assert bits(y.compute()) == expected
        assert y.compute().dtype == np.dtype("=f4")
    y = cdask.dropout(da.from_array(x.T, chunks=(20, 9)).T, 0.3, rng=1)
    assert bits(y.compute()) == expected


def test_a_map_between_what_is_kept_and_dropped_is_the_masks_own():
    x = normals((60, 50), np.float32)
    mask = cd.draw_mask(x.shape, 0.3, rng=1)
    y = cdask.apply(mask, da.from_array(x, chunks=13), scale=0.5, shift=-1.0, fill=3.0)
    assert bits(y.compute()) == bits(mask.apply(x, scale=0.5, shift=-1.0, fill=3.0))


def test_a_part_of_a_mask_is_applied_to_a_part_of_an_array():
    x = normals((60, 50), np.float32)
    mask = cd.draw_mask(x.shape, 0.3, rng=1)
    part = cdask.apply(mask[10:50, 5:], da.from_array(x, chunks=17)[10:50, 5:])
    assert bits(part.compute()) == bits(mask.apply(x)[10:50, 5:])


def test_masked_chunks_keep_their_masks():
    values = np.ma.array(np.ones((4, 6), np.float32), mask=np.eye(4, 6), fill_value=5)
    lazy = cdask.dropout(da.from_array(values, chunks=3), 0.3, rng=1)
    assert isinstance(lazy._meta, np.ma.MaskedArray)
    y, expected = lazy.compute(scheduler="synchronous"), cd.dropout(values, 0.3, rng=1)
    assert np.array_equal(y.mask, values.mask)
    assert np.array_equal(y.data, expected.data)


def test_chunks_are_not_written_to():
    x = normals((60, 50), np.float32)
    before = bits(x)
    # The chunk is the caller's NumPy array.
    whole = da.from_delayed(dask.delayed(x, pure=True), x.shape, x.dtype)
    cdask.dropout(whole, 0.5, rng=1).compute()
    assert bits(x) == before


# ---- lazy, and nothing but the mask in the graph --------------------------------------------------------------------


def fail(block):
    raise AssertionError("a chunk was computed")


def test_nothing_is_computed_before_it_is_asked_for():
    x = da.ones((40, 50), chunks=10, dtype=np.float32).map_blocks(fail, meta=np.empty((0, 0), np.float32))
    y = cdask.dropout(x, 0.5, rng=1)
    with pytest.raises(AssertionError, match="a chunk was computed"):
        y.compute()


def test_the_mask_is_drawn_at_the_call_and_computing_again_repeats_it():
    x, stream, again = da.ones((40, 500), chunks=100, dtype=np.float32), cd.Stream(3), cd.Stream(3)
    first, second = cdask.dropout(x, 0.5, rng=stream), cdask.dropout(x, 0.5, rng=stream)
    assert stream.position == 2 * 20_480
    ones = np.ones(x.shape, np.float32)
    assert bits(second.compute()) == bits([cd.dropout(ones, 0.5, rng=again) for _ in range(2)][1])
    assert bits(first.compute()) == bits(first.compute()) != bits(second.compute())
    # Equal masks on equal arrays are one task to Dask.
    assert cdask.dropout(x, 0.5, rng=3).name == first.name != second.name


def key_bytes(mask):
    """Return the low 12 bytes of a mask's key, as they are in a pickle."""
    return mask.key.to_bytes(16, "little")[:12]


def test_the_graph_holds_the_mask_once_and_does_not_grow_with_the_array():
    sizes = []
    for n in (100, 10_000, 1_000_000):
        x = da.ones((10 * n, 8 * n), chunks=(n, n), dtype=np.float32)
        mask = cd.draw_mask(x.shape, 0.1, rng=7)
        graph = cdask.apply(mask, x).__dask_graph__()
        pickled = pickle.dumps(graph)
        assert pickled.count(key_bytes(mask)) == 1
        sizes.append(len(pickled) - len(pickle.dumps(x.__dask_graph__())))
    assert max(sizes) < 2000
    assert max(sizes) - min(sizes) < 200


def test_more_chunks_add_no_more_than_their_boundaries():
    sizes = []
    for n_chunks in (10, 1000):
        x = da.ones((n_chunks * 50, 8), chunks=(50, 2), dtype=np.float32)
        y = cdask.dropout(x, 0.1, rng=7)
        sizes.append(len(pickle.dumps(y.__dask_graph__())) - len(pickle.dumps(x.__dask_graph__())))
    assert (sizes[1] - sizes[0]) / (1000 - 10) < 8


def test_there_is_one_task_for_each_chunk():
    x = da.ones((70, 50), chunks=(10, 25), dtype=np.float32)
    y = cdask.dropout(x, 0.1, rng=7)
    layers = y.__dask_graph__().layers
    assert len(layers[y.name]) == y.npartitions == 14
    assert len(layers) == 2
    # After fusion with the task that makes the chunk.
    (fused,) = dask.optimize(y)
    assert len(fused.__dask_graph__()) == 14


def test_dasks_query_planning_gives_the_same_bits(run_python):
    code = """
import hashlib, numpy as np, dask.array as da, cdropout as cd, cdropout.dask
x = np.random.default_rng(0).standard_normal((300, 200), dtype=np.float32)
y = cdropout.dask.dropout(da.from_array(x, chunks=(70, 30)), 0.1, rng=7)
print(type(y).__module__, hashlib.sha256(y.compute().tobytes()).hexdigest())
"""
    module, digest = run_python("-c", code, env={"DASK_ARRAY__QUERY_PLANNING": "True"}).stdout.decode().split()
    x = np.random.default_rng(0).standard_normal((300, 200), dtype=np.float32)
    expected = cd.dropout(x, 0.1, rng=7)
    assert digest == hashlib.sha256(expected.tobytes()).hexdigest()
    if "expr" not in module:
        pytest.skip("this Dask has no query planning for arrays")


# ---- bad input ------------------------------------------------------------------------------------------------------


def test_what_dropout_cannot_take_is_refused_before_anything_is_drawn():
    x = da.ones((40, 50), chunks=10, dtype=np.float32)
    stream = cd.Stream(1)
    for array, arguments, error, message in [
        (np.ones(3, np.float32), {}, TypeError, "array must be a Dask array, got ndarray"),
        ([1.0], {}, TypeError, "array must be a Dask array, got list"),
        (
            x.astype(int),
            {},
            TypeError,
            "array must be an array of float16, bfloat16, float32 or float64, got dtype int",
        ),
        (
            x.map_blocks(csr_array, meta=csr_array((0, 0))),
            {},
            TypeError,
            "array must have NumPy arrays as chunks, got csr",
        ),
        (x[x > 0], {}, ValueError, r"array must have chunks of known sizes .*, got chunks \(\(nan, "),
        (x, {"p": 1.5}, ValueError, r"p must be in \[0, 1\], got 1.5"),
        (x, {"p": "a"}, TypeError, "p must be a real number"),
        (x, {"shared_axes": 2}, ValueError, "shared_axes must name different axes of a 2-dimensional array, got 2"),
    ]:
        with pytest.raises(error, match=message):
            cdask.dropout(array, **{"p": 0.5, "rng": stream, **arguments})
    with pytest.raises(TypeError, match="rng must be None, an int"):
        cdask.dropout(x, 0.5, rng="seed")
    assert stream.position == 0
    known = x[x > 0].compute_chunk_sizes()
    assert cdask.dropout(known, 0.5, rng=1).compute().shape == (2000,)


def test_what_a_mask_cannot_be_applied_to_is_refused():
    x = da.ones((40, 50), chunks=10, dtype=np.float32)
    mask = cd.draw_mask(x.shape, 0.5, rng=1)
    for call, error, message in [
        (lambda: cdask.apply(mask.keep(), x), TypeError, "mask must be a Mask, got ndarray"),
        (lambda: cdask.apply(x, mask), TypeError, "mask must be a Mask, got Array"),
        (lambda: cdask.apply(mask, x.T), ValueError, r"array must have the mask's shape \(40, 50\), got \(50, 40\)"),
        (lambda: cdask.apply(mask, x, fill=np.nan), ValueError, "fill must be finite, got nan"),
        (lambda: cdask.keep(x), TypeError, "mask must be a Mask, got Array"),
        (lambda: cdask.keep(mask, (7,)), ValueError, "[Cc]hunks and shape"),
        (lambda: cdask.scaled(mask, int), TypeError, "dtype must be float16, bfloat16, float32 or float64"),
        (lambda: cdask.scaled(None), TypeError, "mask must be a Mask, got NoneType"),
    ]:
        with pytest.raises(error, match=message):
            call()


# ---- workers --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client():
    """A client of a cluster of two worker processes with one thread each."""
    with (
        dask.config.set({"distributed.comm.timeouts.connect": PATIENCE}),
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            memory_limit=MEMORY_LIMIT,
            dashboard_address="127.0.0.1:0",  # None would mean one port for all clusters
            scheduler_kwargs={"dashboard": False},
            silence_logs=logging.CRITICAL,
        ) as cluster,
        distributed.Client(cluster, timeout=PATIENCE) as client,
    ):
        client.wait_for_workers(2, timeout=PATIENCE)
        yield client
    gc.collect()  # so that warnings appear here and not in another test


def pids(client):
    """Return the process id of each worker, by its address."""
    return client.run(os.getpid)


def test_two_workers_give_the_bits_of_one_numpy_call_forward_and_backward(client):
    x, dy = normals((1100, 700), np.float32), normals((1100, 700), np.float32, seed=1)
    for chunks, axes in (((150, 700), ()), ((1100, 90), ()), ((400, 200), 1), ((300, 300), 0)):
        mask = cd.draw_mask(x.shape, 0.3, rng=7, shared_axes=axes)
        lazy = [cdask.apply(mask, da.from_array(a, chunks=chunks)) for a in (x, dy)]
        y, dx = [future.result(timeout=PATIENCE) for future in client.compute(lazy)]
        assert bits(y) == bits(mask.apply(x))
        assert bits(dx) == bits(mask.apply(dy))


def test_a_killed_worker_changes_no_bit(client, tmp_path):
    # Each worker finishes two chunks and then waits inside its third, so that one can be killed in the middle.
    blank = da.zeros((40, 60), chunks=(10, 10), dtype=np.float32)
    x = blank.map_blocks(hold_back, str(tmp_path), 2, meta=np.empty((0, 0), np.float32))
    mask = cd.draw_mask(x.shape, 0.3, rng=7)
    before = pids(client)
    killed = min(before)
    try:
        y = client.persist(cdask.apply(mask, x))
        keys = {str(key) for key in dask.core.flatten(y.__dask_keys__())}
        wait_until(
            lambda: all(len(keys & set(map(str, held))) == 2 for held in client.has_what().values()),
            "two chunks of each worker",
        )
        os.kill(before[killed], signal.SIGKILL)
        wait_until(lambda: killed not in client.nthreads(), "the worker's death to be noticed")
    finally:
        (tmp_path / "go").touch()
    result = client.compute(y).result(timeout=PATIENCE)
    # The killed worker's chunks were lost and made again.
    made = [path.name.split("-", 1) for path in tmp_path.glob("*-*")]
    assert sum(pid == str(before[killed]) for pid, _ in made) == 2
    assert sorted(chunk for pid, chunk in made if pid != str(before[killed])) == [
        f"{i}-{k}" for i in range(4) for k in range(6)
    ]
    expected = np.block([[chunk_of_normals((i, k)) for k in range(6)] for i in range(4)])
    assert bits(result) == bits(mask.apply(expected))
    client.wait_for_workers(2, timeout=PATIENCE)


def wait_until(happened, what):
    """Poll until happened() is true; TimeoutError, naming what, after PATIENCE seconds."""
    deadline = time.monotonic() + PATIENCE
    while not happened():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {PATIENCE} s for {what}")
        time.sleep(0.02)


def test_an_array_larger_than_a_workers_memory_goes_through_chunk_by_chunk(client):
    shape, chunks = (8192, 12_288), (2048, 2048)  # 384 MiB in 16 MiB chunks
    before = pids(client)
    blank = da.zeros(shape, chunks=chunks, dtype=np.float32)
    y = cdask.dropout(blank.map_blocks(numbered, meta=np.empty((0, 0), np.float32)), 0.1, rng=7)
    assert y.nbytes > MEMORY_LIMIT
    digests = y.map_blocks(
        digest_of_chunk, chunks=((1,) * 4, (32,) * 6), dtype=np.uint8, meta=np.empty((0, 0), np.uint8)
    )
    result = client.compute(digests).result(timeout=PATIENCE).reshape(4, 6, 32)
    whole = np.arange(shape[0], dtype=np.float32)[:, None] * shape[1] + np.arange(shape[1], dtype=np.float32)
    cd.dropout(whole, 0.1, rng=7, out=whole)
    for i, k in np.ndindex(4, 6):
        chunk = whole[i * 2048 :, k * 2048 :][:2048, :2048]
        assert np.array_equal(result[i, k], digest_of_chunk(chunk)[0])
    assert pids(client) == before  # no worker had to be started again
