"""The examples run as they are called, say what they promise, and write it down."""

import json
import math
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from cdropout.command import CommandError
from cdropout.digits.data import Dataset, LabelledImages, load_dataset
from mnist.sample import SAMPLE

EXAMPLES = Path(__file__).parents[1] / "examples"
NAMES = ("uncertainty", "regularization")
NO_FILE = "" if os.name == "nt" else "No such file"  # Windows has other words

pytestmark = pytest.mark.skipif(not EXAMPLES.exists(), reason="the tests were taken out of the checkout")

# Dropout pays only once the network without it overfits, so that a smaller one must do. Over the seeds 3 to 8, the
# difference of the test errors was -1.2 points, with a standard deviation of 0.3.
TINY = {
    "uncertainty": "--epochs 1 --samples 10 --digits 200 --step 90 --seed 3 --quiet",
    "regularization": "--hidden 128 --p 0.3 --epochs 40 --seeds 2 --seed 3 --quiet",
}


@pytest.fixture(scope="module")
def few():
    """So little data that training takes no time."""
    sample = load_dataset(SAMPLE)
    sets = (LabelledImages(images.images[::50], images.labels[::50]) for images in (sample.train, sample.test))
    return Dataset(*sets)


def table_of(text):
    """The cells of the Markdown table in a text: its header, and its rows without the rule between."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return header, rows


@pytest.fixture(scope="module")
def tiny_runs(tmp_path_factory):
    """The examples, run as programs with tiny settings: for each name its folder, its arguments and the process."""
    runs = {}
    for name in NAMES:
        folder = tmp_path_factory.mktemp(name)
        arguments = [*TINY[name].split(), "--plot", "drawn.png", "--table", "written.md"]
        command = [sys.executable, str(EXAMPLES / f"{name}.py"), *arguments]
        process = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=120)
        runs[name] = folder, arguments, process
    return runs


@pytest.mark.parametrize("name", NAMES)
def test_example_runs_as_a_program_from_any_folder(tiny_runs, name):
    folder, _, run = tiny_runs[name]
    assert run.stderr == ""
    assert run.returncode == 0
    assert sorted(path.name for path in folder.iterdir()) == ["drawn.png", "written.md"]


@pytest.mark.parametrize("name", NAMES)
def test_example_draws_a_png_of_some_size(tiny_runs, name):
    content = (tiny_runs[name][0] / "drawn.png").read_bytes()
    assert content[:16] == b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
    width, height = np.frombuffer(content[16:24], ">u4")
    assert width >= 1000
    assert height >= 500
    assert len(content) > 20_000  # an empty canvas of this size has 5,000 bytes


def test_masks_are_drawn_by_a_program_of_their_own(tmp_path):
    command = [sys.executable, str(EXAMPLES / "masks.py"), "--p", "0.5", "--seed", "1", "--plot", "masks.svg"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert (run.stdout, run.stderr, run.returncode) == ("", "", 0)
    assert "<svg" in (tmp_path / "masks.svg").read_text()
    assert (EXAMPLES / "masks.png").stat().st_size > 20_000


@pytest.mark.ci
def test_tables_are_learned_and_drawn_by_a_program_of_their_own(tmp_path):
    pytest.importorskip("sklearn", minversion="1.6")
    command = [sys.executable, str(EXAMPLES / "tabular.py"), "--seeds", "1", "--epochs", "3", "--plot", "drawn.png"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert run.returncode == 0, run.stderr
    assert re.search(r"dropout 0: \d+\.\d\d %\n  dropout 0\.5: \d+\.\d\d %\n", run.stdout)
    assert (tmp_path / "drawn.png").stat().st_size > 20_000
    assert (EXAMPLES / "tabular.png").stat().st_size > 20_000


@pytest.mark.parametrize("name", ["seeds", "epochs"])
def test_the_program_for_tables_refuses_counts_below_1(name, tmp_path):
    pytest.importorskip("sklearn", minversion="1.6")
    command = [sys.executable, str(EXAMPLES / "tabular.py"), f"--{name}", "0"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert run.returncode == 2
    assert f"error: argument --{name}: must be at least 1, got 0" in run.stderr


@pytest.mark.parametrize("name", NAMES)
def test_example_writes_the_table_it_prints_and_the_command_that_made_it(tiny_runs, name):
    folder, arguments, run = tiny_runs[name]
    written = (folder / "written.md").read_text()
    assert run.stdout.strip() in written
    assert f"    python examples/{name}.py {' '.join(arguments)}\n" in written
    assert written.endswith("](drawn.png)\n")


def test_uncertainty_is_consistent_and_grows_from_0_to_90_degrees(tiny_runs):
    header, rows = table_of(tiny_runs["uncertainty"][2].stdout)
    assert header[0] == "angle, degrees"
    columns = dict(zip(header, np.array(rows, float).T, strict=True))
    np.testing.assert_array_equal(columns.pop("angle, degrees"), [0, 90, 180])
    entropy, std = columns.pop("entropy, MC, nats"), columns.pop("std, MC")
    assert (entropy >= 0).all()
    assert (entropy <= math.log(10)).all()
    assert (std >= 0).all()
    assert (std <= 0.5).all()  # no number in [0, 1] can spread more
    assert len(columns) == 4
    for name, values in columns.items():
        assert (values >= (0 if name == "accuracy" else 0.1)).all()
        assert (values <= 1).all()
    # After one epoch, over the seeds 0 to 5: accuracies of 0.86 to 0.95 at 0 degrees and of 0.08 to 0.15 at 90, and an
    # entropy that grew by 0.60 to 0.79.
    assert columns["accuracy"][0] > 0.8
    assert columns["accuracy"][1] < 0.3
    assert entropy[1] > entropy[0] + 0.3
    assert std[1] > std[0]
    assert (columns["confidence, MC"] < columns["confidence, no dropout"]).all()


def test_regularization_table_adds_up_and_shows_that_dropout_is_better(tiny_runs):
    _, rows = table_of(tiny_runs["regularization"][2].stdout)
    assert [row[0] for row in rows] == ["3", "4", "mean", "standard deviation"]
    first, second, mean, deviation = np.array([row[1:] for row in rows], float)
    assert (np.abs(np.stack([first, second])[:, :2] - 50) <= 50).all()
    for row in (first, second, mean):
        assert row[1] - row[0] == pytest.approx(row[2], abs=0.011)
    np.testing.assert_allclose((first + second) / 2, mean, atol=0.011)
    np.testing.assert_allclose(np.abs(first - second) / math.sqrt(2), deviation, atol=0.011)
    assert mean[2] < 0


def test_rotation_is_counterclockwise_about_the_centre():
    rotate_images = import_module("uncertainty").rotate_images
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28), np.uint8)
    np.testing.assert_array_equal(rotate_images(images, 0), images)
    for angle in (90, 180):
        expected = np.rot90(images, angle // 90, axes=(1, 2)).astype(int)
        np.testing.assert_allclose(rotate_images(images, angle).astype(int), expected, atol=1)


@pytest.mark.parametrize(("mean", "entropy"), [(np.full((4, 10), 0.1), math.log(10)), (np.eye(4, 10), 0.0)])
def test_entropy_of_equal_and_of_certain_probabilities(mean, entropy):
    uncertainty = import_module("uncertainty")
    prediction = uncertainty.Prediction(mean, mean, mean, np.full((4, 10), 0.25))
    summary = uncertainty.summarize(30, prediction, mean.argmax(axis=1))
    assert summary.entropy == pytest.approx(entropy)
    assert summary.accuracy == 1
    assert summary.mc_confidence == pytest.approx(mean.max())
    assert summary.mc_std == 0.25


def test_prediction_is_one_of_the_seed_and_leaves_dropout_off(few):
    uncertainty = import_module("uncertainty")
    with threadpool_limits(1, user_api="blas"):
        networks = uncertainty.train_networks(few, 0, p=0.5, epochs=1)
        x = uncertainty.pixels(few.test.images)
        first, second, other = (uncertainty.predict(*networks, x, n_samples=5, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.mean, second.mean)
    np.testing.assert_array_equal(first.std, second.std)
    assert (first.mean != other.mean).any()
    np.testing.assert_array_equal(first.off, other.off)
    np.testing.assert_allclose(first.mean.sum(axis=1), 1)
    assert [layer.training for layer in networks[1].dropouts] == [False, False]


def test_comparison_gives_both_networks_the_same_start(few):
    """With a p so small that nothing is dropped, the two networks of a seed are the same network."""
    compare = import_module("regularization").compare
    with threadpool_limits(1, user_api="blas"):
        same = compare(few, [5, 6], p=1e-12, p_input=0.0, epochs=2, n_digits=100)
        different = compare(few, [5, 6], epochs=2, n_digits=100)
    np.testing.assert_array_equal(same.without, same.with_dropout)
    np.testing.assert_array_equal(same.without, different.without)
    assert (different.without != different.with_dropout).any()
    assert (same.without[0] != same.without[1]).any()


@pytest.mark.parametrize(("with_dropout", "status"), [(0.07, 0), (0.08, 1), (0.09, 1)])
def test_regularization_ends_with_status_1_unless_dropout_is_better(
    with_dropout, status, monkeypatch, tmp_path, capsys
):
    regularization = import_module("regularization")
    made_up = regularization.Comparison([0], np.array([[0.5, 0.08]]), np.array([[0.6, with_dropout]]))
    monkeypatch.setattr(regularization, "compare", lambda *args, **options: made_up)
    monkeypatch.chdir(tmp_path)
    arguments = "--seeds 1 --epochs 2 --plot a.svg --table a.md --json a.json --quiet"
    assert regularization.main(arguments.split()) == status
    assert ("dropout must make the test error smaller" in capsys.readouterr().err) == (status == 1)
    assert (tmp_path / "a.svg").read_text().rstrip().endswith("</svg>")
    written = json.loads((tmp_path / "a.json").read_text())
    assert written["with_dropout"] == [[0.6, with_dropout]]
    assert (written["seeds"], written["p"], written["p_input"], written["n_digits"]) == ([0], 0.5, 0.2, 1000)


BAD = {
    "both": [
        ("--p 0", "argument --p: must be in (0, 1), got 0"),
        ("--p 1", "argument --p: must be in (0, 1), got 1"),
        ("--p nan", "argument --p: must be in (0, 1), got nan"),
        ("--p half", "argument --p: must be a number, got 'half'"),
        ("--epochs 0", "argument --epochs: must be an integer of at least 1, got '0'"),
        ("--epochs 1.5", "argument --epochs: must be an integer of at least 1, got '1.5'"),
        ("--hidden 0", "argument --hidden: must be an integer of at least 1, got '0'"),
        ("--hidden 1000001", "argument --hidden: must be at most 1000000, got 1000001"),
        (f"--epochs {10**18}", f"argument --epochs: must be at most 1000000, got {10**18}"),
        ("--classes 257", "argument --classes: classes must be in [1, 256], got 257"),
        ("--seed -1", "argument --seed: must be an integer of at least 0, got '-1'"),
        ("--digits 0", "argument --digits: must be an integer of at least 1, got '0'"),
        ("--digits 99999", "argument --digits: must be at most "),
        ("--plot a.text", "argument --plot: a.text: suffix must be one of .png, .pdf, .svg"),
        ("--plot no/such/a.png", f"argument --plot: {Path('no/such/a.png')}: must be writable, got {NO_FILE}"),
        ("--table .", "argument --table: .: must be writable, got Is a directory"),
        ("--data no/such", f"{Path('no/such')}: must be a folder of idx files, got nothing"),
    ],
    "uncertainty": [
        ("--samples 0", "argument --samples: must be an integer of at least 1, got '0'"),
        ("--step 50", "argument --step: must divide 180, got 50"),
        ("--step 0", "argument --step: must be an integer of at least 1, got '0'"),
        ("--show 10", "argument --show: must be a class of the test set, got 10"),
    ],
    "regularization": [
        ("--p-input 1", "argument --p-input: must be in [0, 1), got 1"),
        ("--seeds 0", "argument --seeds: must be an integer of at least 1, got '0'"),
        ("--json .", "argument --json: .: must be writable, got Is a directory"),
    ],
}


@pytest.mark.parametrize(
    ("name", "arguments", "message"), [(name, *case) for name in NAMES for case in (*BAD["both"], *BAD[name])]
)
def test_bad_argument_is_told_before_training(name, arguments, message, tmp_path, monkeypatch, capsys):
    example = import_module(name)

    def fail(*args, **options):
        raise AssertionError("training began")

    monkeypatch.setattr("digit_network.train_epochs", fail)
    monkeypatch.chdir(tmp_path)
    outputs = ["--plot", "unused.png", "--table", "unused.md"]
    try:
        status = example.main([*outputs, *arguments.split()])
    except SystemExit as exit_:
        status = exit_.code
    assert status == 2
    assert f"{name}.py: error: {message}" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_training_that_diverges_is_an_error(few, monkeypatch):
    common = import_module("digit_network")
    monkeypatch.setattr(common, "LEARNING_RATE", 1e30)
    with pytest.raises(CommandError, match=r"loss must be finite, got nan at step 2 with a step size of 1e\+30"):
        import_module("regularization").compare(few, [5], epochs=2, n_digits=200, hidden=16)
    with pytest.raises(CommandError, match="loss must be finite"):
        import_module("uncertainty").train_networks(few, 0, p=0.5, epochs=1, hidden=16)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_table_that_cannot_be_written_is_an_error_after_the_table_is_printed(monkeypatch, tmp_path, capsys):
    regularization = import_module("regularization")
    made_up = regularization.Comparison([0], np.array([[0.5, 0.08]]), np.array([[0.6, 0.07]]))
    monkeypatch.setattr(regularization, "compare", lambda *args, **options: made_up)
    monkeypatch.chdir(tmp_path)
    arguments = "--seeds 1 --epochs 2 --plot a.svg --table /dev/full --quiet"
    with pytest.raises(CommandError, match="/dev/full: must be writable, got No space left on device"):
        regularization.main(arguments.split())
    assert "| without dropout, % |" in capsys.readouterr().out


@pytest.mark.parametrize("name", NAMES)
def test_committed_table_was_made_by_the_command_without_options(name):
    written = (EXAMPLES / f"{name}.md").read_text()
    assert f"\n    python examples/{name}.py\n" in written
    assert re.search(rf"!\[{import_module(name).TITLE}\]\({name}\.png\)", written)
    assert (EXAMPLES / f"{name}.png").stat().st_size > 20_000


def test_committed_tables_show_what_the_examples_are_for():
    _, rows = table_of((EXAMPLES / "regularization.md").read_text())
    assert [row[0] for row in rows] == ["0", "1", "2", "3", "4", "mean", "standard deviation"]
    assert float(rows[5][3]) < 0
    header, rows = table_of((EXAMPLES / "uncertainty.md").read_text())
    entropy = {row[0]: float(row[header.index("entropy, MC, nats")]) for row in rows}
    assert entropy["0"] < entropy["15"] < entropy["30"] < entropy["45"]
    assert min(entropy.values()) == entropy["0"]
