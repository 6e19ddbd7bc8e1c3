"""Fixtures that several test files use."""

import ctypes
import importlib
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from core_probe import ProbeError, probe

from cdropout import _kernels, machine

# Tests import `benchmarks` and `examples` from the checkout. It comes last on the path: its folder `cdropout/` may have
# no compiled core, and must not hide the installed package.
sys.path.append(str(Path(__file__).parents[1]))

# A shell that starts pytest in the background has it ignore SIGINT, and the programs that tests interrupt inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ISAS = _kernels.known_isas()
THREAD_COUNTS = (1, 2, 3, 8)

# pytest-run-parallel runs each test in several threads at once, except tests with these marks.
switches_settings = pytest.mark.thread_unsafe(reason="switches settings that hold for the whole process")
measures_the_process = pytest.mark.thread_unsafe(reason="measures the memory of the whole process")
writes_what_is_shared = pytest.mark.thread_unsafe(reason="writes what a fixture gives to every thread")
needs_the_main_thread = pytest.mark.thread_unsafe(reason="Python handles signals in the main thread alone")


# More processes gain little: the longest file takes a sixth of the time of all files, and each process imports PyTorch,
# Keras and spaCy where they are installed (800 MB).
MAX_PROCESSES = 4

# Files with few tests that take long. They are run first: a process that had one of them left when the others are done
# would work alone.
LONG_FILES = (
    *("test_cross_compiled", "test_keras", "test_torch_compile", "test_torch_programs", "test_torch_native"),
    *("test_openmp_runtimes", "test_other_systems", "test_site", "test_compare_torch", "test_data_parallel"),
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Return how many processes `-n auto` starts: none for chosen or deep tests, else one for each CPU up to a limit.

    Starting processes takes longer than a few tests do, and some deep tests need most of the memory.
    """
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None  # xdist's answer, which is this variable
    files = [Path(config.invocation_params.dir, name.partition("::")[0]) for name in config.args]
    is_whole = config.option.markexpr in ("not deep and not ci", "ci and not deep") and not config.option.keyword
    if not is_whole or any(file.is_file() for file in files):
        return 0
    n_cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(n_cpus, MAX_PROCESSES) if n_cpus > 1 else 0


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes() -> None:
    """Let OpenMP's threads in processes that run beside each other sleep while they wait.

    Those that spin hold the CPUs that other processes need: two processes took twice as much time on two CPUs.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def pytest_configure(config: pytest.Config) -> None:
    """Name the marks of NumPy's own tests, which test_bit_generator.py runs, and let processes of xdist's fork."""
    config.addinivalue_line("markers", "thread_unsafe: a test of NumPy's that must not run beside itself")
    # JAX warns in every process that has used it; the children that tests fork do not.
    config.addinivalue_line("filterwarnings", r"ignore:os\.fork\(\) was called:RuntimeWarning")
    config.option.loadscopereorder = False  # xdist keeps the order of pytest_collection_modifyitems
    if hasattr(config, "workerinput"):
        # They have a second thread, which talks to the first process.
        config.addinivalue_line("filterwarnings", "ignore:.*multi-threaded, use of fork:DeprecationWarning")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option --promise KEY."""
    parser.addoption("--promise", metavar="KEY", help="run the tests of one promise (docs/promises.md, docs/family.md)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests without the mark of --promise, if the option is given, and order the files for xdist."""
    if hasattr(config, "workerinput"):
        n_tests = Counter(item.path for item in items)
        items.sort(key=lambda item: (item.path.stem not in LONG_FILES, -n_tests[item.path]))
    key = config.getoption("promise", None)
    if key is not None:
        marked = {item for item in items if any(key in mark.args for mark in item.iter_markers("promise"))}
        config.hook.pytest_deselected(items=[item for item in items if item not in marked])
        items[:] = [item for item in items if item in marked]


def _has_core_probe() -> bool:
    try:
        probe()
    except ProbeError:
        return False
    return True


needs_core_probe = pytest.mark.skipif(not _has_core_probe(), reason="needs a C compiler and the checkout")


def _is_wine() -> bool:
    return sys.platform == "win32" and hasattr(ctypes.WinDLL("ntdll"), "wine_get_version")


IS_WINE = _is_wine()


class FixedQuota:
    """A replacement for this machine's CPU quota; None means no quota."""

    value: float | None = None


@pytest.fixture(scope="module", autouse=True)
def _cpp_part_of_torch(request: pytest.FixtureRequest) -> None:
    """Compile the C++ part of cdropout.torch before its tests, so that they do not depend on which test does."""
    if request.module.__name__.rpartition(".")[2].startswith("test_torch"):
        importlib.import_module("cdropout.torch.native_library").load()


@pytest.fixture
def fixed_quota(monkeypatch: pytest.MonkeyPatch) -> Iterator[FixedQuota]:
    """A CPU quota that a test sets; every call of the library reads it anew."""
    fixed = FixedQuota()
    monkeypatch.setattr(machine.CpuQuota, "n_cpus", lambda self: fixed.value)
    before = _kernels.set_limits(microseconds_of_quota=0)
    yield fixed
    _kernels.set_limits(**before)


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set in turn, switched on for the test."""
    if request.param not in _kernels.supported_isas():
        pytest.skip(f"this machine has no {request.param}")
    before = _kernels.active_isa()
    _kernels.use_isa(request.param)
    yield request.param
    _kernels.use_isa(before)


@pytest.fixture
def run_python(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Run Python with the given arguments in a new process, outside the source tree."""

    def run(
        *arguments: str,
        check: bool = True,
        env: dict[str, str] | None = None,
        stdin: bytes = b"",
        timeout: float = 120,  # in seconds
    ) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env={**os.environ, **(env or {})},
            input=stdin,
            capture_output=True,
            check=check,
            timeout=timeout,
        )

    return run


@pytest.fixture
def start_python(tmp_path: Path) -> Iterator[Callable[..., "subprocess.Popen[bytes]"]]:
    """Start Python programs that run at the same time, outside the source tree; all are killed after the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str) -> "subprocess.Popen[bytes]":
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        started.append(subprocess.Popen([sys.executable, *arguments], cwd=tmp_path, **pipes))
        return started[-1]

    yield start
    for process in started:
        with process:
            process.kill()


@pytest.fixture
def run_shipped_tests(run_python: Callable[..., subprocess.CompletedProcess[bytes]]) -> Callable[..., dict[str, Any]]:
    """Run the dropout tests that a package ships with this library switched on; return what shipped_tests.py prints."""

    def run(package: str, *options: str, **env: str) -> dict[str, Any]:
        program = Path(__file__).with_name("shipped_tests.py")
        env = {"PYTEST_ADDOPTS": "", **env}
        lines = run_python(str(program), package, *options, env=env, timeout=600).stdout.decode().splitlines()
        print(*lines[:-1], sep="\n")  # pytest's report, which shows failures
        outcomes: dict[str, Any] = json.loads(lines[-1])
        if not outcomes["n_files"]:
            pytest.skip(f"the installed {package} ships no tests of dropout")
        return outcomes

    return run


@pytest.fixture
def in_forked_child() -> Callable[[Callable[[], bytes]], bytes]:
    """Return the result of a function in a forked child, which is killed after 5 seconds."""

    def call(function: Callable[[], bytes]) -> bytes:
        read_end, write_end = os.pipe()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                signal.alarm(5)  # the default action also ends a child that hangs in C
                os.write(write_end, function())
                status = 0
            finally:
                os._exit(status)
        os.close(write_end)
        with os.fdopen(read_end, "rb") as pipe:
            found = pipe.read()
        assert os.waitpid(child, 0)[1] == 0
        return found

    return call
