"""One rank of data-parallel training; `test_data_parallel.py` starts two of them, as processes and under MPI.

All numbers are integers below 2^53, so that every sum is exact in any order.
"""

import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import numpy.typing as npt

import cdropout as cd

N_ROWS, N_IN, N_HIDDEN, N_STEPS, P, SEED = 64, 8, 4096, 3, 0.5, 7
Array = npt.NDArray[np.float64]
DrawMask = Callable[[], Any]  # returns an object with apply(array)


def slice_of_one_mask(rank: int, n_ranks: int) -> tuple[slice, DrawMask]:
    """Return the rank's consecutive rows, and a function that draws its slice of the mask of the whole batch."""
    stream, n_rows = cd.Stream(SEED), N_ROWS // n_ranks
    rows = slice(rank * n_rows, (rank + 1) * n_rows)
    return rows, lambda: cd.draw_mask((N_ROWS, N_HIDDEN), P, rng=stream)[rows]


def turns_of_one_mask(rank: int, n_ranks: int) -> tuple[slice, DrawMask]:
    """Return the same for every n_ranks-th row, as PyTorch's DistributedSampler distributes rows."""
    stream, rows = cd.Stream(SEED), slice(rank, None, n_ranks)
    return rows, lambda: cd.draw_mask((N_ROWS, N_HIDDEN), P, rng=stream)[rows]


def spawned_stream(rank: int, n_ranks: int) -> tuple[slice, DrawMask]:
    """Return the rank's consecutive rows, and a function that draws their mask from the rank's spawned stream."""
    stream, n_rows = cd.Stream(SEED).spawn(n_ranks)[rank], N_ROWS // n_ranks
    rows = slice(rank * n_rows, (rank + 1) * n_rows)
    return rows, lambda: cd.draw_mask((n_rows, N_HIDDEN), P, rng=stream)


PATTERNS = {pattern.__name__: pattern for pattern in (slice_of_one_mask, turns_of_one_mask, spawned_stream)}


def train(rows: slice, draw: DrawMask, sum_over_ranks: Callable[[Array], Array]) -> list[Array]:
    """Train a network of two layers on the given rows of every batch; return its weights and last gradients."""
    numbers = np.random.default_rng(0)
    weights = [numbers.integers(-2, 3, shape).astype(np.float64) for shape in ((N_IN, N_HIDDEN), (N_HIDDEN, 1))]
    gradients: list[Array] = []
    for _ in range(N_STEPS):
        x, target = (numbers.integers(-2, 3, (N_ROWS, n))[rows].astype(np.float64) for n in (N_IN, 1))
        mask = draw()
        hidden = np.maximum(x @ weights[0], 0)
        dropped = mask.apply(hidden)
        d_out = dropped @ weights[1] - target
        d_hidden = mask.apply(d_out @ weights[1].T) * (hidden > 0)
        gradients = [sum_over_ranks(x.T @ d_hidden), sum_over_ranks(dropped.T @ d_out)]
        weights = [w - np.clip(gradient, -1, 1) for w, gradient in zip(weights, gradients, strict=True)]
    return weights + gradients


def train_as_process(pattern: str, rank: int, others: Connection, parent: Connection) -> None:
    """Train as one of two processes joined by a pipe."""

    def sum_over_ranks(gradient: Array) -> Array:
        if rank == 0:
            others.send(gradient)
            return gradient + others.recv()
        theirs = others.recv()
        others.send(gradient)
        return gradient + theirs

    parent.send(train(*PATTERNS[pattern](rank, 2), sum_over_ranks))


def train_under_mpi(pattern: str, path: str) -> None:
    """Train as a rank of MPI; the last rank saves its weights and gradients."""
    from mpi4py import MPI

    ranks = MPI.COMM_WORLD
    learned = train(*PATTERNS[pattern](ranks.rank, ranks.size), ranks.allreduce)
    if ranks.rank == ranks.size - 1:
        np.savez(path, *learned, n_ranks=ranks.size)


if __name__ == "__main__":
    train_under_mpi(*sys.argv[1:])
