"""`python -m cdropout demo` and `train` with NumPy alone."""

import io
import json
import os
import re
import sys
import time

import numpy as np
import pytest
from conftest import IS_WINE

import cdropout as cd
from cdropout import __main__ as command_line
from cdropout import _kernels, demo
from cdropout.digits import progress
from cdropout.digits.data import load_dataset
from cdropout.digits.drawing import draw_digits
from cdropout.digits.scores import macro_f1
from cdropout.optional import PURPOSES

# Of the frozen stream: dropout of 2^22 ones with the seed 42.
DIGEST = "1be19ae18d5b2118a84ba2b92b69058d"


@pytest.fixture
def run_alone(run_python):
    """Run a command in a process in which the optional packages, and those of the examples, cannot be imported."""
    missing = dict.fromkeys([*PURPOSES, "sklearn", "scipy"])

    def run(*arguments, **options):
        code = (
            f"import sys; sys.modules.update({missing}); sys.argv[1:] = {list(arguments)}; "
            "from cdropout.__main__ import PROG, main; from cdropout.command import run_command; "
            "sys.exit(run_command(main, PROG))"
        )
        return run_python("-c", code, **options)

    return run


def test_the_demonstration_takes_less_than_ten_seconds_and_needs_numpy_alone(run_alone):
    started = time.perf_counter()
    cpu_before = sum(os.times()[2:4])  # of children: 0 on Windows
    shown = run_alone("demo", env={"PYTHONIOENCODING": "ascii:strict"}).stdout.decode("ascii").replace(os.linesep, "\n")
    # On a busy machine or an emulated system, the processor's time tells what an idle one takes.
    took, cpu = time.perf_counter() - started, sum(os.times()[2:4]) - cpu_before
    assert cpu < 10
    assert took < 10 or cpu > 0 or IS_WINE
    assert shown.startswith(f"cdropout {cd.__version__}: dropout for NumPy ({_kernels.active_isa()}, ")
    rows = re.findall("^  ([.#]+)$", shown, re.M)
    assert np.array_equal(
        [[letter == "." for letter in row] for row in rows], cd.draw_mask((len(rows), len(rows[0])), 0.3, rng=42).keep()
    )
    assert "layer.forward(x)    .  4  .  8  .  .  . 16" in shown
    milliseconds = [float(text) for text in re.findall(r"^  .{34} *([0-9.]+)(?:  =*)?$", shown, re.M)]
    assert len(milliseconds) == 4
    assert min(milliseconds) > 0


def test_one_and_many_threads_have_the_frozen_digest(capsys):
    demo.show(0.01)
    shown = capsys.readouterr().out
    digests = re.findall(r"^  \d+ threads? +([0-9a-f]{32})$", shown, re.M)
    assert digests == [DIGEST] * 2
    assert _kernels.get_limits()["min_elems_per_thread"] > 1 << 10  # as it was before


@pytest.mark.parametrize("columns", [20, 48, 63, 80, 500])
def test_lines_fit_into_narrow_terminals(monkeypatch, capsys, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    demo.show(0.01)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= min(80, max(48, columns))


def test_a_network_is_trained_with_numpy_alone(run_alone):
    run = run_alone("train", "--relu", "--epochs", "1")
    scores = dict(re.findall(r"^(.{8})  ([0-9.]+)", run.stdout.decode().replace(os.linesep, "\n"), re.M))
    assert float(scores["macro F1"]) > 0.85
    assert float(scores["accuracy"]) > 0.85
    # Standard error is no terminal: no progress.
    title = "784-512-512-10, ReLU, elementwise dropout, p = 0.5, seed 0; 10,000 training and 2,000 test images"
    assert run.stderr.decode().splitlines() == [title]


def test_a_plot_without_matplotlib_is_refused_before_the_training(run_alone, tmp_path):
    run = run_alone("train", "--plot", str(tmp_path / "a.png"), check=False)
    assert run.returncode == 2
    assert b"error: argument --plot: " in run.stderr
    assert b"a plot needs matplotlib" in run.stderr


def test_train_reads_the_folder_of_an_option(tmp_path, capsys):
    assert command_line.main(["train", "--data", str(tmp_path / "none")]) == 2
    assert "cdropout train: error: " in (message := capsys.readouterr().err)
    assert "must be a folder of idx files, got nothing" in message


def test_drawn_digits_are_balanced_and_repeatable():
    data = load_dataset()
    for part, n in ((data.train, 10_000), (data.test, 2_000)):
        assert part.images.shape == (n, 28, 28)
        assert np.bincount(part.labels).tolist() == [n // 10] * 10
        assert (part.images.max((1, 2)) > 200).all()
        assert (part.images == 0).mean() > 0.5
    assert len(np.unique(np.concatenate([data.train.images, data.test.images]), axis=0)) == 12_000
    again = draw_digits(20, np.random.SeedSequence(5)), draw_digits(20, np.random.SeedSequence(5))
    for first, second in zip(*again, strict=True):
        assert np.array_equal(first, second)


def test_macro_f1_is_that_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    for n_classes in (1, 2, 10):
        labels, predictions = rng.integers(0, n_classes, (2, 50)).astype(np.uint8)
        expected = metrics.f1_score(labels, predictions, average="macro", zero_division=0)
        assert macro_f1(predictions, labels) == pytest.approx(expected, rel=1e-14)
    never_predicted = np.array([0, 2, 2], np.uint8)
    assert macro_f1(never_predicted[::-1], never_predicted) == pytest.approx(0.25)


class Terminal(io.StringIO):
    """A terminal without tqdm."""

    def isatty(self):
        return True


@pytest.mark.parametrize("shown", [True, False])
def test_without_tqdm_a_line_shows_the_progress_on_terminals(monkeypatch, shown):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with progress.progress_bar(25, 5, shown=shown) as bar:
        for _ in range(20):
            bar.set_postfix_str("loss 0.5000", refresh=False)
            bar.update()
    lines = [line for line in terminal.getvalue().split("\r") if line.strip()]
    assert lines == (["step 10 of 25, loss 0.5000", "step 20 of 25, loss 0.5000", "step 25 of 25, loss 0.5000"] * shown)


def test_the_help_of_the_command_lists_all_commands(run_python):
    shown = run_python("-m", "cdropout", "--help").stdout.decode().replace(os.linesep, "\n")
    for command in ("demo", "train", "bench", "stream"):
        assert f"\n    {command} " in shown
    assert json.loads(run_python("-m", "cdropout", "--json").stdout)["cdropout"] == cd.__version__
