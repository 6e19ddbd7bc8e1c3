"""The training: its gradients, its optimizer, the scores with each kind of dropout, its command lines.

Scores rest on one or few seeds; each bound states the measured values.
"""

import dataclasses
import gzip
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from reference import numeric_gradient

import cdropout as cd
import train as script
from cdropout.command import CommandError
from cdropout.digits import program
from cdropout.digits.data import pixels
from cdropout.digits.numpy_dropout import NumPyDropout
from cdropout.digits.scores import score_logits
from cdropout.digits.training import DROPOUTS, Config, build_network, draw_batches, train
from cdropout.networks import Adam, softmax_loss
from train import main

KINDS = sorted(DROPOUTS)
NO_FILE = "" if os.name == "nt" else "No such file or directory"  # Windows has other words

pytestmark = pytest.mark.usefixtures("one_blas_thread")


def largest_gradient_error(network, reseed, x, labels):
    """The largest difference of a gradient of network.params to central differences, relative to the largest."""

    def loss_of():
        reseed()
        return softmax_loss(network.forward(x), labels)

    reseed()
    outputs = network.forward(x)
    softmax_loss(outputs, labels)
    network.backward(outputs)
    worst = 0.0
    for param, grad in zip(network.params, network.grads, strict=True):
        numeric = numeric_gradient(loss_of, param)
        worst = max(worst, np.abs(numeric - grad).max() / np.abs(numeric).max())
    return worst


@pytest.mark.parametrize("relu", [False, True], ids=["linear", "relu"])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_equal_numeric_gradients(kind, relu):
    config = Config(dropout=kind, hidden=6, relu=relu, seed=3)
    seed = config.spawn_seeds()[2]
    where = DROPOUTS[kind]
    rng = where.make_rng(seed)
    dropout = where.make_layer(6, 0.4, rng, np.float64)
    network = build_network(config, 5, 3, dropout, n_rows=4, dtype=np.float64)
    for param in network.params:
        if param.ndim == 1:
            # Without biases, a unit all of whose inputs are dropped stands at 0, where ReLU has no derivative.
            param[...] = np.linspace(-0.2, 0.3, len(param))
    network.train()

    def reseed():
        """Make the next forward pass draw the masks of the last one."""
        if isinstance(rng, cd.Stream):
            rng.state = cd.Stream(seed).state
        else:
            rng.bit_generator.state = np.random.default_rng(seed).bit_generator.state

    x, labels = np.random.default_rng(5).normal(size=(4, 5)), np.array([0, 2, 1, 2])
    assert largest_gradient_error(network, reseed, x, labels) < 1e-6
    if dropout is not None:
        drops = dropout.mask == 0 if kind == "numpy" else ~dropout.mask.keep()
        assert 0 < drops.sum() < drops.size, "a mask that drops all or nothing tests no gradient of dropout"


def step_adam_by_the_paper(params, grads_of_steps, lr, l2):
    """Algorithm 1 of Kingma and Ba 2015, as it stands there."""
    params = [param.astype(np.float64) for param in params]
    m, v = [0.0] * len(params), [0.0] * len(params)
    for t, grads in enumerate(grads_of_steps, start=1):
        for i, grad in enumerate(grads):
            g = grad + (l2 * params[i] if params[i].ndim > 1 else 0.0)
            m[i] = 0.9 * m[i] + 0.1 * g
            v[i] = 0.999 * v[i] + 0.001 * g**2
            params[i] = params[i] - lr * (m[i] / (1 - 0.9**t)) / (np.sqrt(v[i] / (1 - 0.999**t)) + 1e-8)
    return params


@pytest.mark.parametrize("l2", [0.0, 0.1])
@pytest.mark.parametrize("n_inputs", [4, 11_000], ids=["few-inputs", "many-inputs"])
def test_adam_follows_the_paper_and_decays_weights_only(n_inputs, l2):
    rng = np.random.default_rng(6)
    params = [rng.normal(size=(n_inputs, 3)).astype(np.float32), rng.normal(size=3).astype(np.float32)]
    grads_of_steps = [[rng.normal(size=param.shape).astype(np.float32) for param in params] for _ in range(5)]
    expected = step_adam_by_the_paper(params, grads_of_steps, 1e-2, l2)
    grads = [np.zeros_like(param) for param in params]
    adam = Adam(params, grads, lr=1e-2, l2=l2)
    for step_grads in grads_of_steps:
        for grad, value in zip(grads, step_grads, strict=True):
            grad[...] = value
        adam.step()
    for param, value in zip(params, expected, strict=True):
        assert param.dtype == np.float32
        np.testing.assert_allclose(param, value, rtol=1e-5, atol=1e-6)


def test_adam_refuses_arrays_it_could_only_update_copies_of():
    with pytest.raises(ValueError, match="param must be C-contiguous"):
        Adam([np.zeros((3, 2)).T], [np.zeros((2, 3))])


def test_numpy_dropout_drops_p_and_scales_the_rest():
    layer = NumPyDropout(0.3, np.random.default_rng(0))
    x = np.full((400, 500), 2.0, np.float32)
    y = layer.forward(x)
    assert y.dtype == np.float32
    assert set(np.unique(y)) == {np.float32(0), np.float32(2 / 0.7)}
    # 200,000 drops: the standard deviation of their share is 0.001; the bound is five of them.
    assert np.mean(y == 0) == pytest.approx(0.3, abs=0.005)
    np.testing.assert_array_equal(layer.backward(x), y)
    layer.eval()
    assert layer.forward(x) is x
    assert layer.backward(x) is x


def test_numpy_dropout_refuses_a_p_that_is_no_probability():
    with pytest.raises(ValueError, match=r"p must be in \[0, 1\], got 1.5"):
        NumPyDropout(1.5, np.random.default_rng(0))


def test_network_stands_as_described():
    dropout = NumPyDropout(0.5, np.random.default_rng(0))
    network = build_network(Config(relu=True), 784, 10, dropout)
    assert [weight.shape for weight in network.weights] == [(784, 512), (512, 512), (512, 10)]
    assert {param.dtype for param in network.params} == {np.dtype(np.float32)}
    assert (network.activation, network.dropouts) == ("relu", [dropout])
    network = build_network(Config(), 784, 10, None)
    assert (network.activation, network.dropouts) == ("identity", [])


def test_dropout_follows_the_second_hidden_layer():
    class Recorder:
        def forward(self, x):
            self.x = x.copy()
            return x

        def backward(self, dy):
            return dy

    recorder, x = Recorder(), np.ones((2, 5), np.float32)
    network = build_network(Config(relu=True, hidden=6), 5, 3, recorder, n_rows=2)
    network.forward(x)
    (w0, w1, _), (b0, b1, _) = network.weights, network.biases
    np.testing.assert_array_equal(recorder.x, np.maximum(np.maximum(x @ w0 + b0, 0) @ w1 + b1, 0))


@pytest.mark.parametrize("kind", ["drop-connect", "feature-linear"])
def test_kinds_that_drop_in_the_product_start_from_the_weights_of_the_others(kind):
    plain, stream = build_network(Config(relu=True, hidden=6), 5, 3, None), cd.Stream(0)
    dropping = DROPOUTS[kind].make_layer(6, 0.25, stream)
    network = build_network(Config(relu=True, hidden=6), 5, 3, dropping)
    assert isinstance(dropping, DROPOUTS[kind].linear)
    assert (dropping.rng, dropping.p) == (stream, 0.25)
    assert network.weights[1] is dropping.params[0]
    for param, value in zip(network.params, plain.params, strict=True):
        np.testing.assert_array_equal(param, value)
        assert param.dtype == np.float32


def test_batches_cover_every_sample_once_an_epoch_in_a_new_order():
    batches = list(draw_batches(Config(epochs=2, batch=4, seed=1), 10))
    assert [len(batch) for batch in batches] == [4, 4, 2, 4, 4, 2]
    first, second = np.concatenate(batches[:3]), np.concatenate(batches[3:])
    assert sorted(first) == sorted(second) == list(range(10))
    assert first.tolist() != second.tolist()
    again = list(draw_batches(Config(epochs=2, batch=4, seed=1), 10))
    np.testing.assert_array_equal(np.concatenate(again), np.concatenate(batches))


def params_of(result):
    return np.concatenate([param.ravel() for param in result.network.params])


@pytest.mark.parametrize("kind", KINDS)
def test_one_seed_gives_one_network(kind, few):
    config = Config(dropout=kind, epochs=1, hidden=32, seed=5)
    one, two = train(config, few), train(config, few)
    np.testing.assert_array_equal(params_of(one), params_of(two))
    np.testing.assert_array_equal(one.losses, two.losses)
    assert one.test == two.test
    other = train(dataclasses.replace(config, seed=6), few)
    assert not np.array_equal(params_of(one), params_of(other))


def test_evaluating_on_the_way_changes_nothing(few):
    config = Config(epochs=2, batch=64, hidden=32)
    plain, watched = train(config, few), train(config, few, evaluations_per_epoch=2)
    np.testing.assert_array_equal(params_of(plain), params_of(watched))
    assert [evaluation.n_steps for evaluation in watched.evaluations] == [2, 5, 8, 10]
    assert watched.evaluations[-1].test == watched.test == plain.test
    assert plain.evaluations == ()


def test_network_stays_float32_throughout(few):
    result = train(Config(epochs=1, hidden=32, relu=True, l2=1e-3), few)
    assert {array.dtype for array in (*result.network.params, *result.network.grads)} == {np.dtype(np.float32)}
    assert result.network.forward(pixels(few.test.images)).dtype == np.float32


def test_kinds_of_dropout_train_different_networks_from_the_same_start(few):
    networks = {kind: params_of(train(Config(dropout=kind, epochs=1, hidden=32), few)).tobytes() for kind in KINDS}
    assert len(set(networks.values())) == len(KINDS)


def test_l2_makes_weights_smaller(few):
    norms = [np.linalg.norm(train(Config(epochs=2, hidden=32, l2=l2), few).network.weights[0]) for l2 in (0.0, 0.1)]
    assert norms[1] < 0.97 * norms[0]


def test_dropout_share_is_time_within_the_steps(few):
    result = train(Config(dropout="numpy", epochs=1, hidden=32), few)
    assert np.all(result.dropout_seconds > 0)
    assert np.all(result.dropout_seconds < result.step_seconds)
    assert result.dropout_share == pytest.approx(result.dropout_seconds.sum() / result.step_seconds.sum())
    assert train(Config(dropout="none", epochs=1, hidden=32), few).dropout_share == 0


def test_dropout_in_a_product_has_no_share_and_the_command_tells_none(few, few_folder, capsys):
    assert math.isnan(train(Config(dropout="drop-connect", epochs=1, hidden=32), few).dropout_share)
    assert main(["--data", str(few_folder), "--hidden", "32", "--dropout", "feature-linear", "--quiet"]) == 0
    out, err = capsys.readouterr()
    assert [line.split("  ")[0] for line in out.splitlines()] == ["macro F1", "accuracy", "step"]
    assert err == ""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("p", [0.0, 1.0])
def test_extreme_p_trains_without_error(kind, p, few):
    result = train(Config(dropout=kind, p=p, epochs=2, hidden=64), few)
    assert np.isfinite(params_of(result)).all()
    if p == 0 or kind == "none":
        assert result.test.macro_f1 > 0.3
    elif kind == "standard":
        # Evaluation multiplies by 1 - p = 0: only the last biases are left, and one class is predicted for all.
        assert result.test.accuracy <= 0.2


def test_p_of_0_is_no_dropout_at_all(few):
    networks = [params_of(train(Config(dropout=kind, p=0.0, epochs=1, hidden=32), few)) for kind in KINDS]
    for network in networks[1:]:
        np.testing.assert_array_equal(network, networks[0])


# Measured for seeds 0 to 2: 0.894 to 0.911 without and 0.933 to 0.949 with ReLU. One class for everything gives 0.02.
@pytest.mark.parametrize("relu", [pytest.param(False, marks=pytest.mark.deep), True], ids=["linear", "relu"])
@pytest.mark.parametrize("kind", KINDS)
def test_sample_is_learned_with_every_kind(kind, relu, sample):
    result = train(Config(dropout=kind, relu=relu), sample)
    assert result.test.macro_f1 >= (0.92 if relu else 0.88)
    assert result.losses[:5].mean() > 2 * result.losses[-20:].mean()


def test_scores_are_those_of_the_confusion_matrix():
    labels = np.array([0, 0, 0, 1, 1, 2], np.uint8)
    logits = np.eye(3)[[0, 0, 1, 1, 1, 0]]
    score = score_logits(logits, labels)
    # Class 0: precision 2/3, recall 2/3. Class 1: precision 2/3, recall 1. Class 2: never predicted.
    assert score.macro_f1 == pytest.approx((2 / 3 + 0.8 + 0) / 3)
    assert score.accuracy == pytest.approx(4 / 6)
    assert score.loss == pytest.approx(math.log(math.e + 2) - 4 / 6)


def test_command_prints_scores_times_and_share(few_folder, capsys):
    assert main(["--data", str(few_folder), "--hidden", "32", "--epochs", "1"]) == 0
    out, err = capsys.readouterr()
    names = [line.split("  ")[0] for line in out.splitlines()]
    assert names == ["macro F1", "accuracy", "step", "dropout"]
    assert out.splitlines()[2].endswith(" ms median")
    assert out.splitlines()[3].endswith(" % of a step")
    assert "3/3" in err
    assert "loss " in err


def test_command_line_reaches_the_configuration(few_folder, monkeypatch):
    seen = []

    def record(config, data, **options):
        seen.append((config, len(data.train), options))
        return train(config, data)

    monkeypatch.setattr(program, "train", record)
    arguments = "--dropout feature --p 0.25 --epochs 1 --batch 77 --lr 0.002 --l2 0.01 --hidden 16 --seed 9 --relu"
    assert main([*arguments.split(), "--quiet", "--data", str(few_folder)]) == 0
    config = Config("feature", p=0.25, epochs=1, batch=77, lr=0.002, l2=0.01, hidden=16, relu=True, seed=9)
    assert seen == [(config, 300, {"evaluations_per_epoch": 0, "progress": False, "checkpoints": None})]


@pytest.mark.parametrize("name", ["curves.png", "curves"])
def test_plot_is_a_png_of_some_size(few_folder, tmp_path, name):
    path = tmp_path / name
    assert main(["--data", str(few_folder), "--hidden", "32", "--plot", str(path), "--quiet"]) == 0
    content = path.read_bytes()
    assert content[:16] == b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
    width, height = np.frombuffer(content[16:24], ">u4")
    assert width >= 1000
    assert height >= 400
    assert len(content) > 20_000  # an empty canvas of this size has 4,000 bytes


@pytest.fixture
def refuse_training(monkeypatch):
    def fail(*args, **options):
        raise AssertionError("training began")

    monkeypatch.setattr(program, "train", fail)


@pytest.mark.usefixtures("refuse_training")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--p 1.5", "argument --p must be in [0, 1], got 1.5"),
        ("--p -0.1", "argument --p must be in [0, 1], got -0.1"),
        ("--p nan", "argument --p must be in [0, 1], got nan"),
        ("--p half", "argument --p: invalid float value: 'half'"),
        ("--epochs 0", "argument --epochs must be at least 1, got 0"),
        ("--epochs 1.5", "argument --epochs: invalid int value: '1.5'"),
        ("--batch 0", "argument --batch must be at least 1, got 0"),
        ("--hidden 0", "argument --hidden must be at least 1, got 0"),
        (f"--hidden {10**20}", f"argument --hidden must be at most 1000000, got {10**20}"),
        (f"--epochs {10**18}", f"argument --epochs must be at most 1000000, got {10**18}"),
        ("--classes 0", "argument --classes must be in [1, 256], got 0"),
        ("--classes 257", "argument --classes must be in [1, 256], got 257"),
        ("--lr 0", "argument --lr must be above 0 and finite, got 0.0"),
        ("--lr inf", "argument --lr must be above 0 and finite, got inf"),
        ("--lr nan", "argument --lr must be above 0 and finite, got nan"),
        ("--l2 -1", "argument --l2 must be at least 0 and finite, got -1.0"),
        ("--seed -1", "argument --seed must be at least 0, got -1"),
        ("--dropout spatial", "argument --dropout: invalid choice: 'spatial'"),
        ("--plot no/such/folder/curves.png", f"curves.png: must be writable, got {NO_FILE}"),
        ("--plot .", "must be writable, got Is a directory"),
        ("--plot curves.text", "curves.text: suffix must be one of"),
        ("--resume", "argument --resume must come with --checkpoint, got none"),
        ("--checkpoint-every 5", "argument --checkpoint-every must come with --checkpoint, got none"),
        ("--checkpoint run.npz --checkpoint-every 0", "argument --checkpoint-every must be at least 1, got 0"),
        ("--checkpoint run.npz --checkpoint-every x", "argument --checkpoint-every: invalid int value: 'x'"),
        ("--checkpoint no/run.npz", f"{Path('no/run.npz')}: must be writable, got {NO_FILE}"),
        ("--checkpoint .", "must be a regular file, got a folder"),
        pytest.param(
            *("--checkpoint /dev/null", "/dev/null: must be a regular file, got something else"),
            marks=pytest.mark.skipif(os.name != "posix", reason="needs POSIX devices"),
        ),
    ],
)
def test_bad_argument_is_told_before_training(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        main(arguments.split())
    assert exit_.value.code == 2
    err = capsys.readouterr().err
    names_a_path = arguments.startswith(("--plot", "--checkpoint "))
    assert f"train.py: error: {message}" in err or (names_a_path and message in err)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dropout": "spatial"}, "dropout must be one of elementwise, .*, drop-connect, feature-linear, got spatial"),
        ({"p": math.nan}, r"p must be in \[0, 1\], got nan"),
        ({"batch": -3}, "batch must be at least 1, got -3"),
    ],
)
def test_configuration_refuses_values_out_of_bounds(change, message):
    with pytest.raises(ValueError, match=message):
        Config(**change)


@pytest.mark.usefixtures("refuse_training")
def test_checking_a_plot_path_leaves_an_existing_file_alone(tmp_path, capsys):
    path = tmp_path / "curves.png"
    path.write_bytes(b"an older plot")
    assert main(["--plot", str(path), "--data", str(tmp_path)]) == 2
    assert path.read_bytes() == b"an older plot"
    assert "train-images-idx3-ubyte: file must exist" in capsys.readouterr().err


def test_bad_data_file_ends_the_command_with_one_line_and_status_2(few_folder):
    path = few_folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-20])
    command = [sys.executable, script.__file__, "--data", str(few_folder)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert run.stdout == ""
    assert run.stderr.startswith(f"train.py: error: {path}: must be a whole gzip file, got ")
    assert run.stderr.count("\n") == 1


writes_what_is_shared = pytest.mark.thread_unsafe(reason="writes files that a fixture gives to every thread")


def run_program(*arguments, **options):
    command = [sys.executable, script.__file__, "--quiet", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


@writes_what_is_shared
@pytest.mark.parametrize("lr", ["1e30", "1e300"])
def test_diverging_command_ends_with_one_line_and_status_1(lr, few_folder, tmp_path):
    run = run_program(
        "--data", few_folder, "--lr", lr, "--checkpoint", tmp_path / "run.npz", "--plot", tmp_path / "a.png"
    )
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr == f"train.py: error: loss must be finite, got nan at step 1 with a step size of {float(lr):g}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["idx"]


@writes_what_is_shared
def test_label_outside_the_classes_ends_the_command_with_its_file_and_value(few_folder, few):
    path = few_folder / "train-labels-idx1-ubyte.gz"
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(content[:-1] + b"\xff"))
    run = run_program("--data", few_folder)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.startswith(f"train.py: error: {path}: labels must be in [0, 10), ")
    assert f"got 255 for image {len(few.train) - 1};" in run.stderr
    assert run.stderr.count("\n") == 1


def test_command_takes_data_of_other_classes(few_folder, capsys, monkeypatch):
    seen = []
    monkeypatch.setattr(
        program, "train", lambda config, data, **options: seen.append(data.n_classes) or train(config, data)
    )
    assert main(["--data", str(few_folder), "--classes", "47", "--hidden", "8", "--epochs", "1", "--quiet"]) == 0
    assert seen == [47]


def test_scores_are_printed_where_the_plot_cannot_be_written(few_folder, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "plots"
    folder.mkdir()

    def train_and_remove(config, data, **options):
        folder.rmdir()
        return train(config, data, **options)

    monkeypatch.setattr(program, "train", train_and_remove)
    plot = folder / "curves.png"
    with pytest.raises(CommandError, match=r"curves\.png: must be writable, got No such file or directory"):
        main(["--data", str(few_folder), "--hidden", "8", "--epochs", "1", "--quiet", "--plot", str(plot)])
    assert capsys.readouterr().out.startswith("macro F1  ")


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX pipes")
def test_plot_is_drawn_where_the_reader_has_closed_standard_output(few_folder, tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    plot = tmp_path / "curves.png"
    command = [sys.executable, "-u", script.__file__, "--data", few_folder, "--hidden", "8", "--epochs", "1"]
    run = subprocess.run([*command, "--plot", plot], stdout=writer, stderr=writer, check=False)
    os.close(writer)
    assert run.returncode == 0
    assert plot.read_bytes()[:4] == b"\x89PNG"
