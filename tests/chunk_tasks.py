"""Tasks for the Dask workers of test_dask.py, in a separate module because workers cannot import a test file."""

import hashlib
import os
import time
from pathlib import Path

import numpy as np

PATIENCE = 120  # seconds, on a machine with other work to do


def digest_of_chunk(chunk):
    """Return a chunk's SHA-256, in an array of as many dimensions."""
    digest = np.frombuffer(hashlib.sha256(np.ascontiguousarray(chunk)).digest(), np.uint8)
    return digest.reshape((1,) * (chunk.ndim - 1) + (32,))


def chunk_of_normals(location):
    return np.random.default_rng(location).standard_normal((10, 10), dtype=np.float32)


def hold_back(block, folder, n_free, block_info=None):
    """Return normal numbers; from the process's chunk number n_free on, wait first until the file `go` exists."""
    folder = Path(folder)
    if len(list(folder.glob(f"{os.getpid()}-*"))) >= n_free:
        deadline = time.monotonic() + PATIENCE
        while not (folder / "go").exists():
            if time.monotonic() > deadline:
                raise TimeoutError("nobody said go")
            time.sleep(0.01)
    location = block_info[0]["chunk-location"]
    (folder / f"{os.getpid()}-{location[0]}-{location[1]}").touch()
    return chunk_of_normals(location)


def numbered(block, block_info=None):
    """Fill a chunk with the indices of its elements in the whole array."""
    (low, high), (left, right) = block_info[0]["array-location"]
    rows, columns = np.arange(low, high, dtype=np.float32), np.arange(left, right, dtype=np.float32)
    return rows[:, None] * block_info[0]["shape"][1] + columns
