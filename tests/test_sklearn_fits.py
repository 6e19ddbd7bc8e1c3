"""Long fits of the estimators: progress, plots, checkpoints, Ctrl-C, and data larger than memory."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn", minversion="1.6")

from conftest import needs_the_main_thread, switches_settings
from sklearn_fit import OPTIONS, data

from cdropout.sklearn import DropoutMLPClassifier, DropoutMLPRegressor, fitting

pytestmark = [switches_settings, pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")]

PROGRAM = Path(__file__).with_name("sklearn_fit.py")


def coefficients(fitted):
    return [*fitted.coefs_, *fitted.intercepts_]


def assert_same_weights(a, b):
    for one, other in zip(coefficients(a), coefficients(b), strict=True):
        np.testing.assert_array_equal(one, other)


# ---- checkpoints ----------------------------------------------------------------------------------------------------


@pytest.mark.promise("resumed-training")
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.ci
@pytest.mark.parametrize("options", [[], ["--batch-norm"]])
def test_a_fit_that_is_killed_again_and_again_ends_with_the_same_bits(tmp_path, run_python, start_python, options):
    run_python(str(PROGRAM), "whole.npz", "whole_result.npz", *options)
    expected = np.load(tmp_path / "whole_result.npz")
    n_kills = 0
    while not (tmp_path / "result.npz").exists():
        process = start_python(str(PROGRAM), "killed.npz", "result.npz", *options)
        states = set()
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            # Kill once the file has been replaced a few times since this process began.
            if (tmp_path / "killed.npz").exists():
                states.add((tmp_path / "killed.npz").stat().st_mtime_ns)
            if n_kills < 3 and len(states) > 4:
                process.kill()
                n_kills += 1
                break
            time.sleep(0.001)
        process.wait()
    assert n_kills >= 2
    found = np.load(tmp_path / "result.npz")
    assert found.files == expected.files
    for name in expected.files:
        np.testing.assert_array_equal(found[name], expected[name])


class StoppedError(Exception):
    """Ends a fit after some steps."""


def stop_after(n_steps, monkeypatch):
    """Make fits raise StoppedErrorError before one step."""
    step, n_left = fitting.Training._step, [n_steps]

    def counted(self):
        n_left[0] -= 1
        if n_left[0] < 0:
            raise StoppedError
        step(self)

    monkeypatch.setattr(fitting.Training, "_step", counted)


@pytest.mark.promise("resumed-training")
@pytest.mark.parametrize("n_steps", [1, 29, 45])
@pytest.mark.parametrize(
    "options",
    [{}, {"solver": "sgd", "learning_rate": "adaptive"}, {"dropout_kind": "compact"}, {"batch_norm": True}],
)
def test_a_fit_that_stopped_within_or_between_epochs_continues_with_the_same_bits(
    tmp_path, monkeypatch, n_steps, options
):
    monkeypatch.setattr(fitting, "CHECKPOINT_SECONDS", 0.0)
    options = OPTIONS | {"max_iter": 3, "hidden_layer_sizes": (16, 8), "early_stopping": n_steps == 29} | options
    whole = DropoutMLPClassifier(**options).fit(*data())
    options["checkpoint"] = tmp_path / "fit.npz"
    with monkeypatch.context() as patch:
        stop_after(n_steps, patch)
        with pytest.raises(StoppedError):
            DropoutMLPClassifier(**options).fit(*data())
    resumed = DropoutMLPClassifier(**options).fit(*data())
    assert_same_weights(whole, resumed)
    assert whole.loss_curve_ == resumed.loss_curve_
    assert whole.validation_scores_ == resumed.validation_scores_
    with monkeypatch.context() as patch:
        stop_after(0, patch)  # nothing is left to do
        again = DropoutMLPClassifier(**options).fit(*data())
    assert_same_weights(whole, again)
    np.testing.assert_array_equal(
        again.predict_proba(data()[0], n_samples=3), whole.predict_proba(data()[0], n_samples=3)
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fit.npz"]


def test_a_checkpoint_of_another_fit_is_refused(tmp_path):
    path = tmp_path / "fit.npz"
    x, y = data()
    options = OPTIONS | {"max_iter": 1, "checkpoint": path}
    DropoutMLPClassifier(**options).fit(x, y)
    for changed in ({"dropout": 0.4}, {"random_state": 6}, {"max_iter": 2}):
        name = next(iter(changed))
        with pytest.raises(ValueError, match=rf"fit.npz: must be of a fit with {name}=.*, got one with"):
            DropoutMLPClassifier(**(options | changed)).fit(x, y)
    with pytest.raises(ValueError, match=r"fit.npz: must be of a fit on the same data"):
        DropoutMLPClassifier(**options).fit(x + 1, y)
    with pytest.raises(ValueError, match=r"fit.npz: must be of a fit on the same data"):
        DropoutMLPClassifier(**options).fit(x, y, sample_weight=np.where(y == 0, 2, 1))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"fit.npz: must be a whole training checkpoint"):
        DropoutMLPClassifier(**options).fit(x, y)
    path.write_bytes(b"no checkpoint")  # NumPy's own error advises to load such a file as a pickle
    with pytest.raises(ValueError, match=r"fit.npz: must be a whole training checkpoint, got no archive of arrays$"):
        DropoutMLPClassifier(**options).fit(x, y)
    with pytest.raises(ValueError, match="must be a regular file, got a folder"):
        DropoutMLPClassifier(**(options | {"checkpoint": tmp_path})).fit(x, y)


def test_a_checkpoint_knows_the_weights_of_samples_in_one_batch(tmp_path):
    x, y = data()
    options = OPTIONS | {"max_iter": 1, "batch_size": 200, "early_stopping": False}
    options["checkpoint"] = tmp_path / "fit.npz"
    counts = np.arange(50) % 3
    fitted = DropoutMLPClassifier(**options).fit(x[:50], y[:50], sample_weight=counts)
    again = DropoutMLPClassifier(**options).fit(x[:50], y[:50], sample_weight=counts)
    assert_same_weights(fitted, again)
    with pytest.raises(ValueError, match=r"fit.npz: must be of a fit on the same data"):
        DropoutMLPClassifier(**options).fit(x[:50], y[:50], sample_weight=np.roll(counts, 1))


def test_a_checkpoint_knows_the_weights_of_validation_samples(tmp_path):
    x, y = data()
    options = OPTIONS | {"max_iter": 1, "batch_size": 200, "checkpoint": tmp_path / "fit.npz"}
    assert options["early_stopping"]
    DropoutMLPRegressor(**options).fit(x[:50], y[:50], sample_weight=np.full(50, 2))
    for row in range(50):  # five of them are validation samples
        counts = np.where(np.arange(50) == row, 3, 2)
        with pytest.raises(ValueError, match=r"fit.npz: must be of a fit on the same data"):
            DropoutMLPRegressor(**options).fit(x[:50], y[:50], sample_weight=counts)


def test_a_second_fit_of_a_warm_start_does_not_take_the_checkpoint_of_the_first(tmp_path):
    options = OPTIONS | {"max_iter": 1, "checkpoint": tmp_path / "fit.npz", "warm_start": True}
    fitted = DropoutMLPClassifier(**options).fit(*data())
    coefs = [coef.copy() for coef in fitted.coefs_]
    with pytest.raises(ValueError, match=r"fit.npz: must be of a fit with warm start from='[0-9a-f]{64}', got"):
        fitted.fit(*data())
    for coef, expected in zip(fitted.coefs_, coefs, strict=True):
        np.testing.assert_array_equal(coef, expected)
    fitted.set_params(checkpoint=tmp_path / "second.npz").fit(*data())
    assert fitted.n_iter_ == 1
    assert len(fitted.loss_curve_) == 2


def test_parameters_with_the_same_values_are_those_of_the_checkpoint(tmp_path, monkeypatch):
    x, y = data()
    options = OPTIONS | {"max_iter": 1, "checkpoint": tmp_path / "fit.npz"}
    options |= {"hidden_layer_sizes": 4, "dropout": 0.5, "shuffle": True, "class_weight": {0: 2, 1: 1}}
    fitted = DropoutMLPClassifier(**options).fit(x, y)
    stop_after(0, monkeypatch)  # nothing is left to do
    for equal in (
        {"hidden_layer_sizes": [4]},
        {"hidden_layer_sizes": (np.int64(4),)},
        {"dropout": np.float64(0.5)},
        {"dropout": [0.5]},
        {"max_iter": np.int32(1)},
        {"shuffle": np.True_},
        {"activation": np.str_("relu")},
        {"class_weight": {np.int64(1): 1.0, 0: np.float64(2)}},
        {"checkpoint": str(tmp_path / "fit.npz")},
    ):
        assert_same_weights(fitted, DropoutMLPClassifier(**(options | equal)).fit(x, y))
    for other in ({"hidden_layer_sizes": (4, 4)}, {"dropout": 0.25}, {"shuffle": False}, {"class_weight": {0: 3}}):
        with pytest.raises(ValueError, match=rf"must be of a fit with {next(iter(other))}="):
            DropoutMLPClassifier(**(options | other)).fit(x, y)


def test_partial_fit_ignores_a_checkpoint(tmp_path):
    x, y = data()
    DropoutMLPRegressor((4,), checkpoint=tmp_path / "fit.npz").partial_fit(x, y)  # without a random_state
    assert list(tmp_path.iterdir()) == []


# ---- Ctrl-C ---------------------------------------------------------------------------------------------------------


def interrupt_after(n_steps, monkeypatch):
    """Press Ctrl-C in one step, after it has changed the weights."""
    step, n_left = fitting.Training._step, [n_steps]

    def counted(self):
        step(self)
        n_left[0] -= 1
        if n_left[0] == 0:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(fitting.Training, "_step", counted)


@needs_the_main_thread
@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("early_stopping", [False, True])
def test_ctrl_c_keeps_the_best_weights_so_far_and_says_so(monkeypatch, early_stopping, batch_norm):
    x, y = data()
    n_steps = -(-(900 if early_stopping else 1000) // 32)
    options = OPTIONS | {"early_stopping": early_stopping, "batch_norm": batch_norm, "max_iter": 3}
    whole = DropoutMLPClassifier(**options).fit(x, y)
    with monkeypatch.context() as patch:
        interrupt_after(3 * n_steps + 5, patch)
        with pytest.warns(
            UserWarning, match=r"interrupted by user in epoch 4; the best weights so far are kept: .* after epoch"
        ):
            stopped = DropoutMLPClassifier(**(options | {"max_iter": 50})).fit(x, y)
    assert stopped.n_iter_ == 3
    assert stopped.loss_curve_ == whole.loss_curve_
    if early_stopping:
        assert_same_weights(stopped, whole)
    else:  # the losses fall
        assert whole.loss_curve_ == sorted(whole.loss_curve_, reverse=True)
        assert_same_weights(stopped, whole)
    with monkeypatch.context() as patch:
        interrupt_after(2, patch)
        with pytest.warns(UserWarning, match="in epoch 1; .* before the first epoch, which has not ended"):
            first = DropoutMLPClassifier(**options).fit(x, y)
    assert first.n_iter_ == 0
    assert first.predict(x).shape == (1000,)


@needs_the_main_thread
def test_ctrl_c_in_a_warm_start_keeps_the_best_epoch_of_this_fit(monkeypatch):
    x, y = data()
    options = {"hidden_layer_sizes": (8,), "batch_size": 100, "max_iter": 3, "random_state": 0, "warm_start": True}
    first, expected = (DropoutMLPRegressor(**options).fit(x, y * 1e-3) for _ in range(2))
    expected.fit(x, 100.0 * y)  # each loss is larger than those of the first fit
    assert min(expected.loss_curve_[3:]) > 10 * max(expected.loss_curve_[:3])
    assert expected.loss_curve_[3:] == sorted(expected.loss_curve_[3:], reverse=True)
    interrupt_after(3 * 10 + 5, monkeypatch)
    with pytest.warns(UserWarning, match="in epoch 4; the best weights so far are kept: those after epoch 3, with"):
        first.set_params(max_iter=50).fit(x, 100.0 * y)
    assert_same_weights(first, expected)


@needs_the_main_thread
def test_ctrl_c_within_a_partial_fit_ends_the_program(monkeypatch):
    interrupt_after(2, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        DropoutMLPRegressor((4,), batch_size=50).partial_fit(*data())


# ---- progress and plots ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("has_tqdm", [True, False])
def test_progress_shows_epochs_losses_and_scores(monkeypatch, capsys, has_tqdm):
    if has_tqdm:
        pytest.importorskip("tqdm")
    else:
        monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    options = {"max_iter": 3, "early_stopping": True, "random_state": 0}
    fitted = DropoutMLPRegressor((4,), verbose=1, **options).fit(*data())
    out, err = capsys.readouterr()
    assert out == ""
    assert ("3/3" in err) == has_tqdm
    assert ("Iteration 3, loss " in err) != has_tqdm
    assert f"loss {fitted.loss_curve_[-1]:.6g}, validation score {fitted.validation_scores_[-1]:.6g}" in err
    DropoutMLPRegressor((4,), **options).fit(*data())
    assert capsys.readouterr() == ("", "")


def test_plots_show_the_losses_and_scores_of_a_fit():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    fitted = DropoutMLPClassifier((8,), max_iter=4, early_stopping=True, random_state=0).fit(*data())
    ax = fitted.plot_training()
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), fitted.loss_curve_)
    right = ax.figure.axes[1]
    np.testing.assert_array_equal(right.lines[0].get_ydata(), fitted.validation_scores_)
    np.testing.assert_array_equal(right.lines[0].get_xdata(), [1, 2, 3, 4])
    assert (ax.get_ylabel(), right.get_ylabel()) == ("training loss", "accuracy")
    assert fitted.plot_training(ax) is ax
    matplotlib.pyplot.close("all")


# ---- data larger than memory ----------------------------------------------------------------------------------------


def test_a_memory_map_gives_the_fit_of_the_array(tmp_path):
    x, y = data()
    x.tofile(tmp_path / "x.bin")
    mapped = np.memmap(tmp_path / "x.bin", np.float32, "r", shape=x.shape)
    options = OPTIONS | {"max_iter": 2}
    fitted, expected = (DropoutMLPClassifier(**options).fit(each, y) for each in (mapped, x))
    assert_same_weights(fitted, expected)
    np.testing.assert_array_equal(fitted.predict(mapped), expected.predict(x))
    np.testing.assert_array_equal(mapped, x)  # input_dropout drops copies


MEMORY_OF_A_FIT = """
import resource, sys
import numpy as np
from cdropout.sklearn import DropoutMLPClassifier
limit = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))  # private memory; a file that is mapped does not count
x = np.memmap(sys.argv[1], np.float32, "r").reshape(-1, 1024)
y = np.arange(len(x)) % 2
options = dict(max_iter=1, batch_size=512, early_stopping=True, input_dropout=0.1, random_state=0)
fitted = DropoutMLPClassifier((32,), **options, checkpoint="fit.npz").fit(x, y)
assert len(fitted.predict(x)) == len(x)
"""


def fit_within(tmp_path, n_bytes, limit):
    with (tmp_path / "x.bin").open("wb") as file:
        rng = np.random.default_rng(0)
        block = rng.standard_normal((4096, 1024), np.float32)
        for _ in range(n_bytes // block.nbytes):
            file.write(block)
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", MEMORY_OF_A_FIT, "x.bin", str(limit)]
    return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's RLIMIT_DATA")
def test_the_memory_of_a_fit_does_not_grow_with_a_memory_map(tmp_path):
    limit = 240 << 20
    run = fit_within(tmp_path, 256 << 20, limit)
    assert run.returncode == 0, run.stderr
    copying = subprocess.run(
        [
            sys.executable,
            "-c",
            "import resource, numpy as np\n"
            f"resource.setrlimit(resource.RLIMIT_DATA, ({limit}, {limit}))\n"
            "np.array(np.memmap('x.bin', np.float32, 'r'))",
        ],
        cwd=tmp_path,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "MemoryError" in copying.stderr  # the limit would show a copy


@pytest.mark.deep
@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's RLIMIT_DATA")
def test_a_fit_of_4_gib_takes_less_than_1_gib_of_memory(tmp_path):
    run = fit_within(tmp_path, 4 << 30, 1 << 30)
    assert run.returncode == 0, run.stderr


def test_dask_arrays_are_learned_chunk_by_chunk():
    da = pytest.importorskip("dask.array")
    x, y = data()
    expected = DropoutMLPClassifier((8,), random_state=0)
    for begin in range(0, 1000, 300):
        expected.partial_fit(x[begin : begin + 300], y[begin : begin + 300], classes=[0, 1, 2])
    for targets in (y, da.from_array(y, chunks=500)):
        fitted = DropoutMLPClassifier((8,), random_state=0)
        fitted.partial_fit(da.from_array(x, chunks=(300, 10)), targets, classes=[0, 1, 2])
        assert_same_weights(fitted, expected)
    fitted = DropoutMLPClassifier((8,), random_state=0)
    fitted.partial_fit(da.from_array(x, chunks=((0, 300, 300, 0, 300, 100, 0), 10)), y, classes=[0, 1, 2])
    assert_same_weights(fitted, expected)
    with pytest.raises(ValueError, match="0 sample"):
        DropoutMLPRegressor().partial_fit(da.from_array(x[:0], chunks=(0, 10)), y[:0])
    with pytest.raises(ValueError, match="y must have the 1000 rows of X, got 999"):
        DropoutMLPRegressor().partial_fit(da.from_array(x), y[1:])
    unknown = da.from_array(x, chunks=300)
    unknown = unknown[unknown[:, 0] > 0]
    with pytest.raises(ValueError, match="X must have chunks of known sizes"):
        DropoutMLPRegressor().partial_fit(unknown, y)
