"""Fixtures that several files use."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cdropout import _kernels

ISAS = _kernels.known_isas()
THREAD_COUNTS = (1, 2, 3, 8)


def pytest_configure(config: pytest.Config) -> None:
    """Name the marks of NumPy's own tests, which test_bit_generator.py runs."""
    config.addinivalue_line("markers", "thread_unsafe: a test of NumPy's that must not run beside itself")


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set in turn, as the one that runs."""
    if request.param not in _kernels.supported_isas():
        pytest.skip(f"this machine has no {request.param}")
    before = _kernels.active_isa()
    _kernels.use_isa(request.param)
    yield request.param
    _kernels.use_isa(before)


@pytest.fixture
def run_python(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Run a Python program (or, with module=, a module) in a process of its own, away from the source tree."""

    def run(
        *arguments: str, check: bool = True, env: dict[str, str] | None = None, stdin: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env={**os.environ, **(env or {})},
            input=stdin,
            capture_output=True,
            check=check,
            timeout=120,
        )

    return run
