"""Keras 3 with dropout from this library, on each of its backends: the environment chooses one for a whole process."""

import importlib.util
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).with_name("keras_on_a_backend.py")
BACKENDS = ("numpy", "torch", "jax")


def need(backend):
    """Skip a test where Keras or the package of a backend is not installed, without importing Keras here."""
    for package in ("keras", "jax", *({backend} - {"numpy"})):  # Keras's NumPy backend needs jax too
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")


def run_tests(run_python, backend, marked):
    need(backend)
    options = ["-q", "-n", "0", "-p", "no:cacheprovider", "-m", marked, str(TESTS)]
    env = {"KERAS_BACKEND": backend, "PYTEST_ADDOPTS": ""}
    run = run_python("-m", "pytest", *options, check=False, env=env, timeout=600)
    print(run.stdout.decode(), run.stderr.decode(), file=sys.stderr)
    assert run.returncode == 0
    assert " passed" in run.stdout.decode()


@pytest.mark.parametrize("backend", BACKENDS)
def test_on(backend, run_python):
    run_tests(run_python, backend, "not ci and not deep")


@pytest.mark.ci
def test_more_on_torch(run_python):
    run_tests(run_python, "torch", "ci")


@pytest.mark.deep
@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_still_more_on(backend, run_python):
    run_tests(run_python, backend, "deep")


@pytest.mark.ci
@pytest.mark.parametrize(
    ("backend", "options", "n_ours"),
    [
        ("numpy", (), 25),
        ("torch", (), 25),
        # On JAX all layers take a minute to compile, and recurrent ones some more.
        pytest.param("jax", ("--without", "rnn"), 18, marks=pytest.mark.deep),
        pytest.param("jax", (), 26, marks=pytest.mark.deep),
    ],
)
def test_keras_own_tests_of_dropout_pass(backend, options, n_ours, run_shipped_tests):
    need(backend)
    outcomes = run_shipped_tests("keras", *options, KERAS_BACKEND=backend)
    assert outcomes["failed"] == []
    assert len(set(outcomes["ours"]) & set(outcomes["passed"])) >= n_ours, outcomes


@pytest.mark.ci
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_benchmark_measures_each_backend(capfd):
    pytest.importorskip("tqdm")
    need("torch")
    from benchmarks.command_line import main

    assert main(["keras", "--rounds=1", "--width=32", "--quiet"]) == 0
    rows = [line.split() for line in capfd.readouterr().out.splitlines()[-6:]]
    assert [row[:2] for row in rows] == [
        [each, name] for each in ("torch", "jax") for name in ("none", "Keras", "cdropout")
    ]
    assert all(float(row[2]) > 0 for row in rows)
