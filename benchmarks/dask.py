"""Compare one and two Dask workers: throughput, scheduler's memory, and the bytes of one call.

Each worker has one thread, and the array lies on the workers, in square chunks that cut every row. Dropout and a sum
over the bits of each chunk are timed; only the sums travel. The NumPy call takes the whole array in this process, so
the machine needs three times its size, and the two clusters, which take turns, need a processor for each worker.
"""

import argparse
import contextlib
import hashlib
import logging
import math
import os
import statistics
from collections.abc import Callable, Iterator

import dask.array as da
import numpy as np
import numpy.typing as npt
from distributed import Client
from distributed.deploy.subprocess import SubprocessCluster

import cdropout as cd
import cdropout.dask
from benchmarks.options import UsageError, parse_positive
from benchmarks.processes import ROOT
from benchmarks.table import Table
from benchmarks.timing import interleaved_times, introduce
from cdropout.stream import Rng

MIB = 1 << 20
# The processes of a cluster do with the checkout what __main__.py does: they import this module, and not the sources.
PRELOAD = [f"import cdropout, sys; sys.path.append({str(ROOT)!r})"]
P, SEED = 0.1, 7
Chunk = npt.NDArray[np.float32]
SHARED_OPTIONS = {"rounds": 11}


def sum_of_bits(chunk: Chunk) -> npt.NDArray[np.uint64]:
    """Reduce a chunk to one number, of all its bits."""
    return np.sum(chunk.view(np.uint32), dtype=np.uint64, keepdims=True)


def sha256(chunk: Chunk) -> npt.NDArray[np.bytes_]:
    """Reduce a chunk to its digest."""
    return np.array(hashlib.sha256(np.ascontiguousarray(chunk)).hexdigest(), "S64").reshape(1, 1)


def fill(side: int, block_id: tuple[int, int]) -> Chunk:
    """Make a chunk of normal numbers; they depend on its place in the array."""
    return np.random.default_rng(block_id).standard_normal((side, side), dtype=np.float32)


def reduced(array: da.Array, reduce: Callable[[Chunk], object], dtype: str) -> da.Array:
    """Return an array of one element for each chunk."""
    ones = tuple((1,) * n for n in array.numblocks)
    return array.map_blocks(reduce, chunks=ones, meta=np.empty((0, 0), dtype))


@contextlib.contextmanager
def workers(n_workers: int) -> Iterator[Client]:
    """Start a scheduler and workers of one thread, each in a separate process."""
    os.environ["PYTHONSAFEPATH"] = "1"  # without the current folder on the path of `python -m`
    with (
        SubprocessCluster(
            n_workers=n_workers,
            threads_per_worker=1,
            dashboard_address="127.0.0.1:0",  # None would be one port for both
            scheduler_kwargs={"dashboard": False, "preload": PRELOAD},
            worker_kwargs={"dashboard": False, "memory_limit": 0, "preload": PRELOAD},
            silence_logs=logging.ERROR,
        ) as cluster,
        Client(cluster) as client,
    ):
        client.wait_for_workers(n_workers)
        yield client


def memory_bytes() -> int:
    """Return the resident memory of this process, in bytes."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def place(client: Client, shape: tuple[int, int], side: int) -> da.Array:
    """Make the array on a cluster's workers, with an equal share on each."""
    chunks = tuple((side,) * (n // side) for n in shape)
    array = da.map_blocks(fill, side, chunks=chunks, meta=np.empty((0, 0), np.float32))
    with client.as_current():
        array = client.persist(array)
        client.gather(client.compute(reduced(array, sum_of_bits, "u8")))
        client.rebalance(array)
    return array


def digests_of_one_call(shape: tuple[int, int], side: int) -> npt.NDArray[np.bytes_]:
    """Apply dropout to the whole array in one call, in this process; return the digest of each chunk."""
    x = np.empty(shape, np.float32)
    grid = shape[0] // side, shape[1] // side
    for i, k in np.ndindex(grid):
        x[i * side :, k * side :][:side, :side] = fill(side, (i, k))
    cd.dropout(x, P, rng=SEED, out=x)
    digests = [sha256(x[i * side :, k * side :][:side, :side]) for i, k in np.ndindex(grid)]
    return np.concatenate(digests).reshape(grid)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add --mib and --chunk-mib."""
    parser.add_argument("--mib", type=parse_positive, default=2048, help="size of the array (default: %(default)s)")
    parser.add_argument("--chunk-mib", type=parse_positive, default=64, help="size of a chunk (default: %(default)s)")


def run(arguments: argparse.Namespace) -> int:
    """Check, measure, and print a table; 1 where a chunk's bytes differ."""
    side = math.isqrt(arguments.chunk_mib * MIB // 4)
    n_chunks = arguments.mib // arguments.chunk_mib
    n_rows = 1 << n_chunks.bit_length() // 2 >> 1
    if (
        4 * side * side != arguments.chunk_mib * MIB
        or n_chunks & (n_chunks - 1)
        or n_chunks * arguments.chunk_mib != arguments.mib
    ):
        raise UsageError("--chunk-mib must be a power of 4, and --mib a power of 2 times that")
    shape = n_rows * side, n_chunks // n_rows * side
    introduce(f"float32 of {shape}, {n_chunks} chunks of {arguments.chunk_mib} MiB, p = {P}", arguments.rounds)
    expected = digests_of_one_call(shape, side)
    with workers(1) as one, workers(2) as two:
        clusters = {"1 worker": one, "2 workers": two}
        arrays = {name: place(client, shape, side) for name, client in clusters.items()}
        stream = cd.Stream(SEED)  # a new mask each time: Dask computes nothing twice

        def compute(name: str, rng: Rng, reduce: Callable[[Chunk], object], dtype: str) -> npt.NDArray[np.generic]:
            dropped = cdropout.dask.dropout(arrays[name], P, rng=rng)
            client = clusters[name]
            return client.gather(client.compute(reduced(dropped, reduce, dtype)))  # type: ignore[no-any-return]

        equal = {name: np.array_equal(compute(name, SEED, sha256, "S64"), expected) for name in clusters}
        before = {name: client.run_on_scheduler(memory_bytes) for name, client in clusters.items()}
        times = interleaved_times(
            {name: lambda name=name: compute(name, stream, sum_of_bits, "u8") for name in clusters},
            rounds=arguments.rounds,
            seconds_per_turn=0.0,
        )
        after = {name: client.run_on_scheduler(memory_bytes) for name, client in clusters.items()}
    seconds = {name: statistics.median(values) for name, values in times.items()}
    columns = (("s", "6.3f"), ("GiB/s", "6.2f"), ("of 1 worker", "11.2f"), ("bytes", "9"))
    memory = ((f"scheduler {when}, MiB", ".1f") for when in ("before", "after"))
    Table(("", "9"), *columns, *memory).show(
        (
            *(name, median, arguments.mib / 1024 / median, seconds["1 worker"] / median),
            *("identical" if equal[name] else "DIFFERENT", before[name] / MIB, after[name] / MIB),
        )
        for name, median in seconds.items()
    )
    return 0 if all(equal.values()) else 1
