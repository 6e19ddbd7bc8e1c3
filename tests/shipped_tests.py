"""The dropout tests that thinc and Keras ship, run with this library switched on.

    python tests/shipped_tests.py thinc|keras [--without FOLDER ...]

runs the tests of the installed package, those of Keras on the backend that KERAS_BACKEND names, and prints as its last
line a JSON object: the names of the tests under "passed", "skipped" and "failed", the tests that called this library's
dropout under "ours", and the number of files.
"""

import argparse
import functools
import inspect
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


class DropoutTests:
    """A pytest plugin that selects tests about dropout, and records their outcomes and which call this library.

    Parameters
    ----------
    n_calls : callable
        Returns the number of calls of this library's dropout so far.
    unavailable : dict of str to str
        The marks of tests that cannot run, with the reasons.
    lifted : Mark, optional
        A mark that is removed from the tests.

    """

    def __init__(
        self, n_calls: Callable[[], int], unavailable: dict[str, str], lifted: pytest.Mark | None = None
    ) -> None:
        self.n_calls = n_calls
        self.unavailable = unavailable
        self.lifted = lifted
        self.tests: dict[str, list[str]] = {name: [] for name in ("passed", "skipped", "failed", "ours")}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Keep tests with "dropout" in their name or source, and skip those that cannot run."""
        items[:] = [item for item in items if "dropout" in (item.nodeid.rpartition("/")[2] + text_of(item)).lower()]
        for item in items:
            item.own_markers[:] = [mark for mark in item.own_markers if mark != self.lifted]
            for mark, reason in self.unavailable.items():
                if item.get_closest_marker(mark):
                    item.add_marker(pytest.mark.skip(reason=reason))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        """Record a test that calls this library's dropout."""
        n_before = self.n_calls()
        try:
            return (yield)
        finally:
            if self.n_calls() > n_before:
                self.tests["ours"].append(item.nodeid)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
        """Turn a missing package into a skip: a test of sparse tensors needs TensorFlow on every backend of Keras."""
        report = yield
        error = call.excinfo.value if call.excinfo else None
        if report.failed and isinstance(error, ModuleNotFoundError):
            report.outcome, report.longrepr = "skipped", (str(item.path), None, f"Skipped: {error}")
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record the outcome of a test."""
        if report.when == "call" or report.outcome != "passed":
            self.tests[report.outcome].append(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Record a file that cannot be collected as failed."""
        if report.outcome == "failed":
            self.tests["failed"].append(f"{report.nodeid}: {report.longrepr}")


def text_of(item: pytest.Item) -> str:
    """Return the source of a test."""
    try:
        return inspect.getsource(item.function)  # type: ignore[attr-defined]
    except (OSError, TypeError):
        return ""


def count_calls(owner: Any, name: str) -> Callable[[], int]:
    """Count the calls of a function from now on; return a function that returns the number."""
    function, n_calls = getattr(owner, name), 0

    @functools.wraps(function)  # one of thinc's tests compares signatures
    def counted(*args: Any, **options: Any) -> Any:
        nonlocal n_calls
        n_calls += 1
        return function(*args, **options)

    setattr(owner, name, counted)
    return lambda: n_calls


def thinc_tests() -> tuple[list[Path], DropoutTests]:
    """Switch thinc to this library, including tests that create NumpyOps by name; return thinc's test files."""
    import thinc.api
    import thinc.backends

    import cdropout.thinc

    n_calls = count_calls(cdropout.thinc.CDropoutOps, "get_dropout_mask")
    cdropout.thinc.enable()
    for module in (thinc.api, thinc.backends):
        module.NumpyOps = cdropout.thinc.CDropoutOps
    # thinc skips the tests with hypothesis in test_linear.py; those about dropout pass.
    flaky = pytest.mark.skip(reason="Flaky, skip temporarily").mark
    files = (Path(thinc.__file__).parent / "tests").rglob("test_*.py")
    return sorted(files), DropoutTests(n_calls, {"slow": "takes long"}, lifted=flaky)


def keras_tests() -> tuple[list[Path], DropoutTests]:
    """Switch Keras's backend to this library; return the test files of its layers and random numbers."""
    import keras
    from keras.src import backend

    import cdropout.keras

    cdropout.keras.enable()
    n_calls = count_calls(backend.random, "dropout")
    source = Path(keras.__file__).parent / "src"
    files = [file for folder in ("layers", "random") for file in sorted((source / folder).rglob("*_test.py"))]
    trains = keras.backend.backend() != "numpy"
    return files, DropoutTests(
        n_calls, {} if trains else {"requires_trainable_backend": "the NumPy backend does not train"}
    )


PACKAGES = {"thinc": thinc_tests, "keras": keras_tests}


def main() -> int:
    """Run a package's tests and print their outcomes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("package", choices=PACKAGES)
    parser.add_argument("--without", nargs="+", default=[], metavar="FOLDER", help="leave out tests in these folders")
    args = parser.parse_args()
    files, plugin = PACKAGES[args.package]()
    files = [file for file in files if not set(args.without) & set(file.parts)]
    files = [file for file in files if "dropout" in file.read_text(encoding="utf-8").lower()]
    if files:
        options = ["-q", "-p", "no:cacheprovider", "-W", "ignore", "--continue-on-collection-errors"]
        pytest.main([*options, *map(str, files)], plugins=[plugin])
    print(json.dumps({**plugin.tests, "n_files": len(files)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
