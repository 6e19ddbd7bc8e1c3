"""Let one allocation of Python objects fail in the code under test, and in nothing else."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

try:
    import _testcapi  # CPython's module for its own tests
except ImportError:
    _testcapi = None

# CPython 3.13.0 itself crashes after a failed allocation: `sorted([3, 1, 2], key=lambda x: -x)` is enough.
needs_testcapi = pytest.mark.skipif(
    _testcapi is None or sys.version_info[:3] == (3, 13, 0),
    reason="needs CPython's module _testcapi, and another version than 3.13.0, which crashes after a failed allocation",
)


# In seconds: far longer than a block takes. A thread that asked for the GIL before may still have it for so long.
LONG_INTERVAL = 0.1


@contextmanager
def refused_allocation(number: int) -> Iterator[list[BaseException]]:
    """Refuse one allocation, counted from 1; put the exception, if it leaves the block, into the list.

    The refusal holds for the whole process. Garbage collection waits meanwhile, since its callbacks (Hypothesis has
    one) allocate too, and so do other threads of Python (pytest-xdist has one), unless the block releases the GIL.
    """
    errors: list[BaseException] = []
    was_enabled, interval = gc.isenabled(), sys.getswitchinterval()
    gc.disable()
    sys.setswitchinterval(LONG_INTERVAL)
    try:
        _testcapi.set_nomemory(number, number + 1)
        try:
            yield errors
        finally:
            _testcapi.remove_mem_hooks()
    except (MemoryError, SystemError) as error:  # some of NumPy's functions raise SystemError
        errors.append(error)
    finally:
        sys.setswitchinterval(interval)
        if was_enabled:
            gc.enable()
