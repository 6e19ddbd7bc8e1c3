"""The library's limits, changed for the length of a block."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from conftest import THREAD_COUNTS
from threadpoolctl import threadpool_limits

from cdropout import _kernels


@contextmanager
def limits(**changes: int) -> Iterator[None]:
    """Change limits within a block."""
    before = _kernels.set_limits(**changes)
    try:
        yield
    finally:
        _kernels.set_limits(**before)


def by_every_thread_count(call: Callable[[], Any], thread_counts: tuple[int, ...] = THREAD_COUNTS) -> list[Any]:
    """Return the result of a call for each number of threads, which also share small jobs."""
    results = []
    with limits(min_elems_per_thread=1):
        for n_threads in thread_counts:
            with threadpool_limits(n_threads, user_api="openmp"):
                results.append(call())
    return results


def by_every_path(call: Callable[[], Any]) -> list[Any]:
    """Return the result of a call for each number of threads, with streaming stores and without."""
    results = by_every_thread_count(call)
    with limits(max_cached_bytes=0):
        return results + by_every_thread_count(call)
