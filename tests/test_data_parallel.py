"""Data-parallel training on two processes, with slices of one mask and with spawned streams; docs/scaling_out.md."""

import importlib.util
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from ranks import N_HIDDEN, N_ROWS, PATTERNS, SEED, P, spawned_stream, train, train_as_process

import cdropout as cd

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs/scaling_out.md"
PATIENCE = 120  # seconds, on a machine with other work to do


def bits(arrays):
    """Return the arrays' bytes."""
    return [a.tobytes() for a in arrays]


class Stacked:
    """The ranks' masks as one, for one process that does the work of all ranks."""

    def __init__(self, masks):
        self.masks = masks

    def apply(self, a):
        """Apply each rank's mask to its rows."""
        shards = np.split(a, len(self.masks))
        return np.concatenate([mask.apply(shard) for mask, shard in zip(self.masks, shards, strict=True)])


def learned_by_one_process(pattern):
    """Return weights and gradients of one process that trains on the whole batch."""
    if pattern == "spawned_stream":
        draws = [spawned_stream(rank, 2)[1] for rank in range(2)]
        return train(slice(None), lambda: Stacked([draw() for draw in draws]), lambda gradient: gradient)
    stream = cd.Stream(SEED)
    return train(slice(None), lambda: cd.draw_mask((N_ROWS, N_HIDDEN), P, rng=stream), lambda gradient: gradient)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_two_processes_learn_what_one_does(pattern):
    context = multiprocessing.get_context("spawn")
    pipe, results, processes = context.Pipe(), [], []
    for rank in range(2):
        receiver, sender = context.Pipe(duplex=False)
        results.append(receiver)
        processes.append(
            context.Process(target=train_as_process, args=(pattern, rank, pipe[rank], sender), daemon=True)
        )
        processes[-1].start()
    try:
        assert all(receiver.poll(PATIENCE) for receiver in results)
        learned = [receiver.recv() for receiver in results]
    finally:
        for process in processes:
            process.join(PATIENCE)
            process.kill()
    expected = learned_by_one_process(pattern)
    assert [bits(a) for a in learned] == [bits(expected)] * 2


def test_the_patterns_differ_where_they_should():
    # Slices are parts of one process's mask, for any number of ranks. The masks of spawned streams all differ.
    shape = (N_ROWS, N_HIDDEN)
    whole = cd.draw_mask(shape, P, rng=cd.Stream(SEED)).keep()
    for n_ranks in (1, 2, 4):
        for pattern in ("slice_of_one_mask", "turns_of_one_mask"):
            for rank in range(n_ranks):
                rows, draw = PATTERNS[pattern](rank, n_ranks)
                assert np.array_equal(draw().keep(), whole[rows])
    masks = [spawned_stream(rank, 4)[1]().keep() for rank in range(4)]
    assert all(np.mean(a == b) < 0.51 for i, a in enumerate(masks) for b in [*masks[:i], whole[:16]])


def test_the_order_of_adding_changes_no_bit_here():
    # The comparisons of weights and gradients rely on this.
    learned = [
        train(rows, lambda: cd.draw_mask((N_ROWS, N_HIDDEN), 0.0, rng=0), lambda gradient: gradient)
        for rows in (slice(None), slice(None, None, -1))
    ]
    assert bits(learned[0]) == bits(learned[1])
    assert all(np.abs(a).max() < 2**50 for a in learned[0])


def run_on_two_ranks(*arguments, cwd):
    """Run a Python program on two ranks of MPI."""
    pytest.importorskip("mpi4py")
    launcher = shutil.which("mpirun")
    if launcher is None:
        pytest.skip("needs mpirun, of Open MPI or MPICH")
    version = subprocess.run(
        [launcher, "--version"], capture_output=True, text=True, timeout=PATIENCE, check=True
    ).stdout
    options = ["--allow-run-as-root", "--oversubscribe", "--bind-to", "none"] if "Open MPI" in version else []
    command = [launcher, *options, "-n", "2", sys.executable, *arguments]
    # Python's variables, not those of the C library: if a package has started MPI in this process, they hold variables
    # with which mpirun takes itself for a rank, and fails without a word.
    started = ("OMPI_", "PMIX_", "PRTE_", "OPAL_")
    return run_program(command, cwd, {name: x for name, x in os.environ.items() if not name.startswith(started)})


def run_program(command, cwd, env=None):
    """Run a program; if it fails, the message has its output."""
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("pattern", PATTERNS)
def test_two_ranks_of_mpi_learn_what_one_process_does(pattern, tmp_path):
    run_on_two_ranks(str(TESTS / "ranks.py"), pattern, str(tmp_path / "learned.npz"), cwd=tmp_path)
    with np.load(tmp_path / "learned.npz") as learned:
        assert learned["n_ranks"] == 2
        assert bits(learned[f"arr_{i}"] for i in range(4)) == bits(learned_by_one_process(pattern))


def example(heading):
    """Return the Python example under a heading of the page."""
    if not PAGE.exists():
        pytest.skip("the tests were taken out of the checkout")
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    (code,) = re.findall(r"```python\n(.*?)```", section[1], re.DOTALL)
    return code


def test_every_example_of_the_page_is_run_here():
    text = PAGE.read_text() if PAGE.exists() else pytest.skip("the tests were taken out of the checkout")
    run = {"One mask, cut", "A stream for each rank", "MPI", "PyTorch DDP", "Ray", "Dask"}
    assert text.count("```python\n") == sum(f"\n## {heading}\n" in text for heading in run) == len(run)


@pytest.mark.parametrize(
    ("heading", "package"),
    [("One mask, cut", "numpy"), ("A stream for each rank", "numpy"), ("Dask", "dask.array"), ("Ray", "ray")],
)
def test_the_examples_for_one_program_run(heading, package, tmp_path, monkeypatch):
    # find_spec does not import Ray, which would change this process.
    if importlib.util.find_spec(package.split(".")[0]) is None:
        pytest.skip(f"needs {package}")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # otherwise Ray writes a file to the user's home
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    (tmp_path / "train.py").write_text(example(heading))
    with tempfile.TemporaryDirectory() as folder:  # a short path, which Ray's sockets need
        monkeypatch.setenv("RAY_TMPDIR", folder)
        run_program([sys.executable, "train.py"], tmp_path)


@pytest.mark.ci
def test_the_example_for_mpi_runs_on_two_ranks(tmp_path):
    (tmp_path / "train.py").write_text(example("MPI"))
    run_on_two_ranks("train.py", cwd=tmp_path)


# What torchrun sets, for two processes that are forked when PyTorch has been imported once.
TWO_RANKS = """
import os, runpy, socket
import torch.distributed
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
children = []
for rank in range(2):
    os.environ["RANK"] = str(rank)
    children.append(os.fork())
    if children[-1] == 0:
        runpy.run_path("train.py", run_name="__main__")
        raise SystemExit
assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
"""


@pytest.mark.ci
def test_the_example_for_pytorch_runs_on_two_processes(tmp_path):
    pytest.importorskip("torch")
    (tmp_path / "train.py").write_text(example("PyTorch DDP"))
    run_program([sys.executable, "-c", TWO_RANKS], tmp_path)


@pytest.mark.deep
def test_the_example_for_pytorch_runs_with_torchrun(tmp_path):
    pytest.importorskip("torch")
    (tmp_path / "train.py").write_text(example("PyTorch DDP"))
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    run_program([sys.executable, *launcher, "train.py"], tmp_path)
