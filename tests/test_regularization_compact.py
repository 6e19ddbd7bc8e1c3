"""examples/regularization_compact.py compares equal networks, continues bit for bit, and reports what it measured."""

import dataclasses
import gzip
import json
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from cdropout.command import CommandError
from cdropout.digits.data import Dataset, LabelledImages, load_dataset, pixels
from cdropout.networks import MLP, softmax_loss, train_step
from mnist.sample import SAMPLE

EXAMPLES = Path(__file__).parents[1] / "examples"
NAME = "regularization_compact"
TIMES = ("wall_seconds", "cpu_seconds")

pytestmark = pytest.mark.skipif(not EXAMPLES.exists(), reason="the tests were taken out of the checkout")


@pytest.fixture
def program(monkeypatch):
    """The program's module, with one thread and without folders of the environment."""
    for variable in ("CDROPOUT_MNIST", "CDROPOUT_FASHION_MNIST"):
        monkeypatch.delenv(variable, raising=False)
    with threadpool_limits(1):
        yield import_module(NAME)


@pytest.fixture(scope="module")
def few():
    """2,000 training and 400 test images of the sample."""
    sample = load_dataset(SAMPLE)
    return Dataset(*(LabelledImages(part.images[::5], part.labels[::5]) for part in (sample.train, sample.test)))


def keys_of(program, seeds=(3, 4), methods=("none", "compact")):
    return [("MNIST", seed, name, method) for seed in seeds for name in program.OPTIMIZERS for method in methods]


def settings_of(program, **changes):
    return program.Settings(**{"hidden": 48, "epochs": 1, "batch": 64, "groups": 3, **changes})


def without_times(run):
    return {name: value for name, value in dataclasses.asdict(run).items() if name not in TIMES}


def made_up(program, seed, method, test_error, errors=(0.1, 0.02)):
    times = [2.0 * seed, 4.0 * seed]
    return program.Run("MNIST", seed, "sgd", method, test_error, [1.0, 0.5], list(errors), times, times, "00", "P")


# ---- the comparison -------------------------------------------------------------------------------------------------


def test_methods_of_a_seed_start_from_the_same_weights(program, few):
    seeds = np.random.SeedSequence(1).spawn(2)
    networks = [program.build_network(method, few, settings_of(program), *seeds) for method in program.METHODS]
    for network in networks[1:]:
        for param, first in zip(network.params, networks[0].params, strict=True):
            np.testing.assert_array_equal(param, first)
    other = program.build_network("none", few, settings_of(program), *np.random.SeedSequence(2).spawn(2))
    assert (other.params[0] != networks[0].params[0]).any()


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_compact_products_train_as_full_ones_with_the_same_masks(program, few, optimizer):
    settings = settings_of(program, hidden=256, batch=128)
    seeds = np.random.SeedSequence(1).spawn(2)
    x, labels = pixels(few.train.images[:128]), few.train.labels[:128]
    trained = {}
    for method in ("feature-wise", "compact", "element-wise", "none"):
        network = program.build_network(method, few, settings, *seeds)
        stepper = program.make_optimizer(optimizer, method, settings, network)
        for _ in range(3):
            train_step(network, stepper, softmax_loss, x, labels)
        trained[method] = np.concatenate([param.ravel() for param in network.params])
        if method == "compact":  # not full products by the cost rule
            assert network.forward(x[:64]).shape == (64, 10)
            assert all(layer._dropped.kept is not None for layer in network.layers[:2])
    # Adam divides by the root of squares: a rounding error moves a weight far where its gradient nearly is 0.
    differ = {method: (np.abs(params - trained["compact"]) > 2e-5).mean() for method, params in trained.items()}
    assert differ["feature-wise"] < 0.001
    assert min(differ["element-wise"], differ["none"]) > 0.1


def kept_units(network, x):
    """Return which elements of both hidden layers a forward pass keeps."""
    if not isinstance(network, MLP):
        network.forward(x)
        return [layer.mask.keep() for layer in network.layers if layer.p > 0]
    for weight, bias in zip(network.weights, network.biases, strict=True):
        weight[...], bias[...] = 0, 1
    network.forward(x)
    dropped = [layer.x for layer in (network._hidden[1], network._output)]
    assert all(set(np.unique(units)) == {0, 2} for units in dropped)
    return [units > 0 for units in dropped]


def test_methods_are_what_their_names_say(program, few):
    seeds = np.random.SeedSequence(1).spawn(2)
    settings = settings_of(program)
    x = pixels(few.train.images[:60])
    kept = {}
    for method in ("element-wise", "feature-wise", "grouped", "compact"):
        network = program.build_network(method, few, settings, *seeds)
        kept[method] = kept_units(network, x)
    assert [keep.shape for keep in kept["element-wise"]] == [(60, 48)] * 2
    assert not any((keep == keep[:1]).all() for keep in kept["element-wise"])
    assert all((keep == keep[:1]).all() for keep in kept["feature-wise"])
    assert [keep.shape for keep in kept["grouped"]] == [(3, 48)] * 2
    for full, compact in zip(kept["feature-wise"], kept["compact"], strict=True):
        np.testing.assert_array_equal(full, np.broadcast_to(compact, full.shape))
    for optimizer in program.OPTIMIZERS:
        for method in program.METHODS:
            network = program.build_network(method, few, settings, *seeds)
            stepper = program.make_optimizer(optimizer, method, settings, network)
            assert stepper.lazy == (method == "compact-lazy")


def test_a_run_measures_held_out_images_and_falling_learning_rates(program, few, monkeypatch):
    rates, evaluated = [], []
    make, evaluate = program.make_optimizer, program.evaluate

    def watch_steps(*args):
        stepper = make(*args)
        step = stepper.step
        stepper.step = lambda: (rates.append(stepper.lr), step())
        return stepper

    monkeypatch.setattr(program, "make_optimizer", watch_steps)
    monkeypatch.setattr(program, "evaluate", lambda network, part: evaluated.append(part) or evaluate(network, part))
    settings = settings_of(program, epochs=2, evaluations=3, validation=0.1, digits=1792)
    run = program.train("MNIST", few, settings, 3, "sgd", "none")
    assert settings.count(few) == (200, 1792, 28)
    np.testing.assert_allclose(rates, 0.02 * (1 - np.arange(56) / 56))
    assert [len(part) for part in evaluated] == [200] * 6 + [400]
    assert evaluated[-1] is few.test
    for numbers in (run.losses, run.validation_errors, run.wall_seconds, run.cpu_seconds):
        assert len(numbers) == 6
    assert run.losses[-1] < run.losses[0]
    assert run.validation_errors[-1] < run.validation_errors[0] < 1
    assert (np.diff([0.0, *run.wall_seconds]) > 0).all()
    # Half of 2,000 images and two thirds of 28 steps teach this much; a guess has an error of 0.9.
    assert run.test_error < 0.4


# ---- saving and continuing ------------------------------------------------------------------------------------------


def test_results_of_a_continued_experiment_are_the_same_bit_for_bit(program, few, tmp_path, monkeypatch):
    settings, keys = settings_of(program), keys_of(program)
    whole = program.run_all({"MNIST": few}, settings, keys, tmp_path / "whole.json")
    assert [run.key for run in whole] == keys
    train, trained = program.train, []

    def interrupted(name, data, settings, *rest):
        if len(trained) == 3:
            raise KeyboardInterrupt
        trained.append((name, *rest))
        return train(name, data, settings, *rest)

    monkeypatch.setattr(program, "train", interrupted)
    path = tmp_path / "parts.json"
    with pytest.raises(KeyboardInterrupt):
        program.run_all({"MNIST": few}, settings, keys, path)
    first = [program.Run(**run) for run in json.loads(path.read_text())["runs"]]
    assert [run.key for run in first] == keys[:3]
    trained.insert(0, "so that the limit is passed")
    continued = program.run_all({"MNIST": few}, settings, keys, path, resume=True)
    assert trained[1:] == keys
    assert continued[:3] == first  # times included
    assert [without_times(run) for run in continued] == [without_times(run) for run in whole]
    assert len({run.weights for run in whole}) == len(keys)
    assert sorted(found.name for found in tmp_path.iterdir()) == ["parts.json", "whole.json"]


def test_processes_give_the_results_of_one(program, few, tmp_path):
    settings, keys = settings_of(program), keys_of(program, seeds=[3])
    one = program.run_all({"MNIST": few}, settings, keys, tmp_path / "one.json")
    two = program.run_all({"MNIST": few}, settings, keys, tmp_path / "two.json", n_jobs=2)
    assert [without_times(run) for run in one] == [without_times(run) for run in two]
    saved = json.loads((tmp_path / "two.json").read_text())["runs"]
    assert [program.Run(**run) for run in saved] == two


def test_continuing_keeps_other_runs_and_without_resume_they_are_replaced(program, few, tmp_path):
    settings, path = settings_of(program), tmp_path / "results.json"
    first, second = keys_of(program, seeds=[4], methods=["none"]), keys_of(program, seeds=[3], methods=["none"])
    program.run_all({"MNIST": few}, settings, first, path)
    program.run_all({"MNIST": few}, settings, second, path, resume=True)
    assert [run["seed"] for run in json.loads(path.read_text())["runs"]] == [3, 3, 4, 4]
    program.run_all({"MNIST": few}, settings, first, path)
    assert [run["seed"] for run in json.loads(path.read_text())["runs"]] == [4, 4]


def test_results_of_other_settings_or_data_are_refused(program, few, tmp_path):
    path, keys = tmp_path / "results.json", keys_of(program, seeds=[3], methods=["none"])
    program.run_all({"MNIST": few}, settings_of(program), keys, path)
    before = path.read_bytes()
    other = Dataset(LabelledImages(few.train.images[1:], few.train.labels[1:]), few.test)
    for data, changes, message in (
        (few, {"batch": 32}, "--batch must be 64 as in .*, got 32"),
        (few, {"lr_adam": 0.5}, "--lr-adam must be 0.001 as in .*, got 0.5"),
        (other, {}, "MNIST must be the data of .*, of SHA-256 "),
    ):
        with pytest.raises(program.ResultsError, match=message):
            program.run_all({"MNIST": data}, settings_of(program, **changes), keys, path, resume=True)
    assert path.read_bytes() == before


@pytest.mark.parametrize("damage", ["", "{}", "[1]", "cut", "format", "seed", "method", "number", "fewer"])
def test_damaged_results_are_refused(program, few, tmp_path, damage):
    path, keys = tmp_path / "results.json", keys_of(program, seeds=[3], methods=["none"])
    program.run_all({"MNIST": few}, settings_of(program), keys, path)
    text = path.read_text()
    content = json.loads(text)
    run = content["runs"][0]
    if damage == "format":
        content["format"] = "another"
    elif damage == "number":
        run["losses"][0] = float("nan")
    elif damage == "fewer":
        run["cpu_seconds"].pop()
    elif damage in run:
        run[damage] = "3"
    path.write_text({"": "", "{}": "{}", "[1]": "[1]", "cut": text[:-20]}.get(damage, json.dumps(content)))
    with pytest.raises(program.ResultsError, match=r"must be a file of results of \w+\.py, got "):
        program.run_all({"MNIST": few}, settings_of(program), keys, path, resume=True)


def test_training_that_diverges_is_an_error_and_earlier_results_stay(program, few, tmp_path):
    settings, path = settings_of(program, lr_adam=1e30), tmp_path / "results.json"
    keys = keys_of(program, seeds=[3], methods=["none"])
    with pytest.raises(CommandError, match=r"loss must be finite, got nan at step \d+ with a step size of 1e\+30"):
        program.run_all({"MNIST": few}, settings, keys, path)
    assert [run["optimizer"] for run in json.loads(path.read_text())["runs"]] == ["sgd"]


# ---- the report -----------------------------------------------------------------------------------------------------


def test_table_has_means_deviations_and_times_to_the_level(program):
    runs = [
        made_up(program, 1, "none", 0.030),
        made_up(program, 2, "none", 0.020),
        made_up(program, 1, "compact", 0.010, errors=(0.02, 0.03)),
        made_up(program, 2, "compact", 0.020, errors=(0.03, 0.021)),
    ]
    header, _, *rows = program.describe(runs, 2.0).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in (header, *rows)]
    assert cells[0][4] == "reach 2 %"
    both = ["6.0 (2.8)"] * 2
    assert cells[1] == ["sgd", "none", "2.50 (0.71)", "", "2 of 2", *both, *both]
    assert cells[2] == ["sgd", "compact", "1.50 (0.71)", "-1.00 (1.41)", "1 of 2", "2.0", "2.0", *both]
    alone = program.describe(runs[2:3], 1.0).splitlines()[-1]
    assert [cell.strip() for cell in alone.strip("|").split("|")][2:7] == ["1.00", "", "0 of 1", "-", "-"]


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    """The program on the sample, run from another folder."""
    folder = tmp_path_factory.mktemp(NAME)
    settings = "--seeds 2 --epochs 1 --hidden 64 --batch 256 --target 50 --methods none compact-lazy"
    outputs = "--results a.json --plot a.png --table a.md"
    arguments = f"--sample {settings} {outputs} --quiet".split()
    command = [sys.executable, str(EXAMPLES / f"{NAME}.py"), *arguments]
    process = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=120)
    return folder, arguments, process


def test_small_run_writes_table_plot_and_results(small_run):
    folder, arguments, process = small_run
    assert process.stderr == ""
    assert process.returncode == 0
    assert sorted(path.name for path in folder.iterdir()) == ["a.json", "a.md", "a.png"]
    written = (folder / "a.md").read_text()
    assert process.stdout.strip() in written
    assert f"    python examples/{NAME}.py {' '.join(arguments)}\n" in written
    assert written.endswith("](a.png)\n")
    assert "9,000 training, 1,000 validation and 2,000 test images" in written
    rows = [line for line in process.stdout.splitlines() if line.startswith("|")][2:]
    assert [[cell.strip() for cell in row.strip("|").split("|")][:2] for row in rows] == [
        [optimizer, method] for optimizer in ("sgd", "adam") for method in ("none", "compact-lazy")
    ]
    assert len((folder / "a.png").read_bytes()) > 20_000


def test_report_of_known_results_needs_no_training(small_run, program, monkeypatch, tmp_path, capsys):
    folder, arguments, process = small_run
    monkeypatch.setattr(program, "train", lambda *args: pytest.fail("trained again"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.json").write_bytes((folder / "a.json").read_bytes())
    assert program.main([*arguments, "--resume"]) == 0
    assert capsys.readouterr().out == process.stdout
    assert (tmp_path / "a.md").read_text() == (folder / "a.md").read_text()


def test_folders_come_from_options_and_environment(program, few, monkeypatch, tmp_path, capsys):
    for prefix, part in (("train", few.train), ("t10k", few.test)):
        for kind, magic, array in (("images-idx3", 0x0803, part.images), ("labels-idx1", 0x0801, part.labels)):
            content = np.array([magic, *array.shape], ">u4").tobytes() + array.tobytes()
            name = f"{prefix}-{kind}-ubyte"
            # The labels plain, the images compressed.
            path = tmp_path / (f"{name}.gz" if "images" in kind else name)
            path.write_bytes(gzip.compress(content) if "images" in kind else content)
    asked = []

    def run_none(sets, settings, keys, path, **options):
        asked.append((list(sets), keys))
        return [dataclasses.replace(made_up(program, 1, "none", 0.5), data=name) for name in sets]

    monkeypatch.setattr(program, "run_all", run_none)
    monkeypatch.chdir(tmp_path)
    outputs = ["--results", "a.json", "--plot", "a.svg", "--table", "a.md"]
    monkeypatch.setenv("CDROPOUT_FASHION_MNIST", str(tmp_path))
    for arguments, names in (
        ([], ["Fashion-MNIST"]),
        (["--mnist", str(tmp_path)], ["MNIST", "Fashion-MNIST"]),
        (["--sample"], ["sample of MNIST"]),
        (["--sample", "--fashion-mnist", str(tmp_path)], ["sample of MNIST", "Fashion-MNIST"]),
    ):
        assert program.main([*arguments, *outputs, "--seeds", "2", "--methods", "compact", "none"]) == 0
        assert asked[-1][0] == names
        assert capsys.readouterr().out.count("## ") == len(names)
    # Methods take turns within a seed, in the order of the table.
    assert asked[0][1] == [
        ("Fashion-MNIST", seed, optimizer, method)
        for seed in (0, 1)
        for optimizer in ("sgd", "adam")
        for method in ("none", "compact")
    ]


BAD = [
    ("", "one of --mnist, --fashion-mnist and --sample must be given, or CDROPOUT_MNIST be set, got none"),
    ("--mnist no/such", "no/such: must be a folder of idx files, got nothing"),
    ("--sample --fashion-mnist no/such", "no/such: must be a folder of idx files, got nothing"),
    ("--sample --p 1", "argument --p: must be in (0, 1), got 1"),
    ("--sample --momentum 1", "argument --momentum: must be in [0, 1), got 1"),
    ("--sample --lr-sgd 0", "argument --lr-sgd: must be above 0 and finite, got 0"),
    ("--sample --lr-adam inf", "argument --lr-adam: must be above 0 and finite, got inf"),
    ("--sample --lr-adam nan", "argument --lr-adam: must be above 0 and finite, got nan"),
    ("--sample --target 0", "argument --target: must be in (0, 100), got 0"),
    ("--sample --target half", "argument --target: must be a number, got 'half'"),
    ("--sample --validation 1", "argument --validation: must be in (0, 1), got 1"),
    ("--sample --validation 1e-9", "argument --validation must hold out at least 1 of 10000 images, got 1e-09"),
    ("--sample --batch 9001", "argument --batch must be at most the 9000 training images, got 9001"),
    ("--sample --evaluations 71", "argument --evaluations must be at most the 70 steps of an epoch, got 71"),
    ("--sample --digits 9001", "argument --digits must be at most the 9000 that are not held out, got 9001"),
    ("--sample --digits 100", "argument --batch must be at most the 100 training images, got 128"),
    ("--sample --groups 129", "argument --groups must be at most the 128 images of a batch, got 129"),
    ("--sample --seeds 0", "argument --seeds: must be an integer of at least 1, got '0'"),
    ("--sample --jobs 0", "argument --jobs: must be an integer of at least 1, got '0'"),
    ("--sample --methods most", "argument --methods: invalid choice: 'most'"),
    ("--sample --results .", "argument --results: .: must be writable, got Is a directory"),
    ("--sample --plot a.text", "argument --plot: a.text: suffix must be one of .png, .pdf, .svg"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_argument_is_told_before_training(program, arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(program, "train", lambda *args: pytest.fail("training began"))
    monkeypatch.chdir(tmp_path)
    try:
        status = program.main(["--results", "a.json", "--plot", "a.png", "--table", "a.md", *arguments.split()])
    except SystemExit as exit_:
        status = exit_.code
    assert status == 2
    assert f"{NAME}.py: error: {message}" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_damaged_results_are_told_by_the_program(program, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.json").write_text("{}")
    outputs = ["--results", "a.json", "--plot", "a.png", "--table", "a.md"]
    assert program.main(["--sample", "--resume", *outputs]) == 2
    message = f"{NAME}.py: error: a.json: must be a file of results of {NAME}.py, got KeyError: 'format'"
    assert message in capsys.readouterr().err
    assert (tmp_path / "a.json").read_text() == "{}"


@pytest.mark.parametrize("name", [NAME, f"{NAME}_1000"])
def test_committed_table_is_that_of_the_committed_results(program, name):
    content = json.loads((EXAMPLES / f"{name}.json").read_text())
    written = (EXAMPLES / f"{name}.md").read_text()
    settings = program.Settings(**content["settings"])
    assert (settings == program.Settings()) == (name == NAME)
    known, runs = program.load_results(EXAMPLES / f"{name}.json", settings, content["data"])
    assert "MNIST" in known
    target = re.search(r" --target ([0-9.]+) ", written)
    for data in known:
        own = [run for run in runs.values() if run.data == data]
        n_seeds = len({run.seed for run in own})
        n_optimizers = len({run.optimizer for run in own})
        assert len(own) == n_seeds * n_optimizers * len(program.METHODS)
        table = program.describe(own, float(target[1]) if target else program.TARGETS[data])
        assert f"## {data}\n" in written
        assert table in written
    assert written.endswith(f"![{program.TITLE}]({name}.png)\n")
    assert (EXAMPLES / f"{name}.png").stat().st_size > 20_000
