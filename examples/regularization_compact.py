"""Compare test errors and training times of networks with element-wise, feature-wise and compact dropout.

    python examples/regularization_compact.py [--mnist FOLDER] [--fashion-mnist FOLDER] [--seeds N] [--resume] ...

Networks with two hidden layers are trained with each method of dropout and each optimizer. All methods of a seed get
the same initial weights, the same batches and the same settings, and take turns. A part of the training set is held out
to measure when a network reaches a validation error; times are those of the training steps alone. The result of each
run is saved when it ends, and `--resume` continues from the saved ones.

Methods: `none` has no dropout. `element-wise` drops single activations. `feature-wise` drops features for a whole batch
and computes full products. `grouped` does so for groups of a batch's rows. `compact` has the masks of `feature-wise`
and leaves dropped rows and columns out of the products; with `compact-lazy`, the optimizer leaves them as they are.
"""

import argparse
import functools
import hashlib
import json
import math
import multiprocessing
import os
import signal
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from threadpoolctl import threadpool_limits
from tqdm import tqdm

import cdropout as cd
import digit_network as common
from cdropout import compact, environment
from cdropout.command import CommandError, run_command
from cdropout.digits.checkpoint import digest_dataset
from cdropout.digits.data import DataError, Dataset, LabelledImages, load_dataset, pixels
from cdropout.digits.divergence import check_loss, ignore_overflow
from cdropout.digits.files import LockedError, lock_for_run, write_file
from cdropout.digits.training import evaluate
from cdropout.networks import MLP, fill_he_uniform, softmax_loss, train_step
from mnist.sample import SAMPLE

PROG = "regularization_compact.py"
TITLE = "Test error and training time with compact dropout"
FORMAT = "cdropout regularization results 1"
METHODS = ("none", "element-wise", "feature-wise", "grouped", "compact", "compact-lazy")
OPTIMIZERS = ("sgd", "adam")
# Validation errors, in per cent, to which training is timed unless --target gives another.
TARGETS = {"MNIST": 3.5, "Fashion-MNIST": 13.0, "sample of MNIST": 8.0}
Key: TypeAlias = tuple[str, int, str, str]  # data, seed, optimizer and method of a run
COLOURS = dict(zip(METHODS, ("#777777", "#1f77b4", "#2ca02c", "#9467bd", "#e6860b", "#c8102e"), strict=True))


class ResultsError(ValueError):
    """Report a file of results that cannot be continued; the message names the file, the rule and the value."""


@dataclass(frozen=True)
class Settings:
    """Configure every run.

    Attributes
    ----------
    p : float
        The probability of dropping a hidden unit, in (0, 1).
    groups : int
        The groups of a batch's rows in the method `grouped`, from 1 to batch.
    hidden, epochs, batch : int
        The width of the hidden layers, the passes over the training images and the images of a step; each at least 1.
        An epoch has full batches only.
    lr_sgd, lr_adam : float
        The first learning rate of each optimizer, above 0; it falls to 0 in equal steps.
    momentum : float
        That of SGD, in [0, 1).
    validation : float
        The part of the training set that is held out, in (0, 1).
    digits : int or None
        The number of training images, at least 1; None for all that are not held out.
    evaluations : int
        How often the validation error is measured in each epoch, at least 1.

    """

    p: float = 0.5
    groups: int = 4
    hidden: int = 512
    epochs: int = 8
    batch: int = 128
    lr_sgd: float = 0.02
    lr_adam: float = 1e-3
    momentum: float = 0.9
    validation: float = 0.1
    digits: int | None = None
    evaluations: int = 2

    def count(self, data: Dataset) -> tuple[int, int, int]:
        """Return the numbers of validation images, of training images and of steps in an epoch.

        Raises
        ------
        ValueError
            For numbers that do not fit the size of the training set or each other.

        """
        n_validation = round(self.validation * len(data.train))
        n_left = len(data.train) - n_validation
        n_training = n_left if self.digits is None else self.digits
        n_steps = n_training // self.batch
        if n_validation < 1:
            raise ValueError(f"validation must hold out at least 1 of {len(data.train)} images, got {self.validation}")
        if n_training > n_left:
            raise ValueError(f"digits must be at most the {n_left} that are not held out, got {self.digits}")
        if n_steps < 1:
            raise ValueError(f"batch must be at most the {n_training} training images, got {self.batch}")
        if self.evaluations > n_steps:
            raise ValueError(f"evaluations must be at most the {n_steps} steps of an epoch, got {self.evaluations}")
        if self.groups > self.batch:
            raise ValueError(f"groups must be at most the {self.batch} images of a batch, got {self.groups}")
        return n_validation, n_training, n_steps


@dataclass(frozen=True)
class Run:
    """Hold the result of training one network.

    Attributes
    ----------
    data : str
        A name of `TARGETS`.
    seed : int
        Seeds held-out images, weights, order of the images and masks.
    optimizer, method : str
        Names of `OPTIMIZERS` and `METHODS`.
    test_error : float
        After the last step, in [0, 1].
    losses, validation_errors, wall_seconds, cpu_seconds : list of float
        At each evaluation: the mean loss of the batches since the last one in nats, the validation error in [0, 1], and
        the wall time and CPU time of all steps so far, in which evaluations do not count.
    weights : str
        The SHA-256 of the trained parameters, in hexadecimal.
    processor : str
        The processor's name.

    """

    data: str
    seed: int
    optimizer: str
    method: str
    test_error: float
    losses: list[float]
    validation_errors: list[float]
    wall_seconds: list[float]
    cpu_seconds: list[float]
    weights: str
    processor: str

    @property
    def key(self) -> Key:
        """The data, seed, optimizer and method."""
        return self.data, self.seed, self.optimizer, self.method

    def find_target(self, target: float) -> int | None:
        """Return the index of the first evaluation with at most this validation error in per cent, if there is one."""
        reached = [i for i, error in enumerate(self.validation_errors) if 100 * error <= target]
        return reached[0] if reached else None


def build_network(
    method: str, data: Dataset, settings: Settings, weights: np.random.SeedSequence, masks: np.random.SeedSequence
) -> Any:
    """Return a network in training mode; its initial weights do not depend on the method.

    Parameters
    ----------
    method : str
        A name of `METHODS`.
    data : Dataset
        Its numbers of pixels and classes are the widths of input and output.
    settings : Settings
        Its `hidden`, `p` and `groups` are used.
    weights, masks : SeedSequence
        The seeds of the initial weights and of all masks. The masks of `feature-wise` and of both compact methods are
        the same.

    """
    stream = cd.Stream(masks)
    widths = [data.n_pixels, settings.hidden, settings.hidden, data.n_classes]
    network: MLP | compact.CompactMLP
    if method in ("element-wise", "feature-wise"):
        kind = "elementwise" if method == "element-wise" else "feature"
        network = MLP(widths, p=[settings.p] * 2, kind=kind, rng=stream, n_rows=settings.batch)
    else:
        p, n_groups = 0.0 if method == "none" else settings.p, settings.groups if method == "grouped" else 1
        network = compact.CompactMLP(widths, p, n_groups=n_groups, rng=stream, full_grads=False)
    fill_he_uniform(network.params[::2], np.random.default_rng(weights))
    return network


def make_optimizer(name: str, method: str, settings: Settings, network: Any) -> compact.SGD | compact.Adam:
    """Return the optimizer of a network; its steps are lazy with the method `compact-lazy`."""
    lazy = method == "compact-lazy"
    if name == "sgd":
        return compact.SGD(network, settings.lr_sgd, settings.momentum, lazy=lazy)
    return compact.Adam(network, settings.lr_adam, lazy=lazy)


def train(name: str, data: Dataset, settings: Settings, seed: int, optimizer: str, method: str) -> Run:
    """Train a network, and measure its errors and times.

    Parameters
    ----------
    name : str
        That of the data in the result.
    data : Dataset
        A part of its training set is held out; all of its test set is used.
    settings : Settings
        With the same settings, data, seed, optimizer and method, everything except the times is the same, on the same
        machine.
    seed, optimizer, method
        As in `Run`.

    Raises
    ------
    DivergenceError
        Where a loss is not finite.

    """
    n_validation, n_training, n_steps = settings.count(data)
    held_out, weights, order, masks = np.random.SeedSequence(seed).spawn(4)
    shuffled = np.random.default_rng(held_out).permutation(len(data.train))
    validation = _take(data.train, shuffled[:n_validation])
    training = _take(data.train, shuffled[n_validation : n_validation + n_training])
    network = build_network(method, data, settings, weights, masks)
    stepper = make_optimizer(optimizer, method, settings, network)
    first_lr, n_steps_in_all = stepper.lr, settings.epochs * n_steps
    ends = np.linspace(0, n_steps_in_all, settings.epochs * settings.evaluations + 1).round().astype(int)
    batches = _draw_batches(order, len(training), settings.batch, settings.epochs)
    losses, errors, wall, cpu = [], [], [0.0], [0.0]
    with ignore_overflow():
        for begin, end in pairwise(ends):
            network.train()
            span = []
            wall_start, cpu_start = time.perf_counter(), time.process_time()
            for step in range(begin, end):
                i = next(batches)
                stepper.lr = first_lr * (1 - step / n_steps_in_all)
                loss = train_step(network, stepper, softmax_loss, pixels(training.images[i]), training.labels[i])
                check_loss(loss, step + 1, first_lr)
                span.append(loss)
            cpu.append(cpu[-1] + time.process_time() - cpu_start)
            wall.append(wall[-1] + time.perf_counter() - wall_start)
            losses.append(float(np.mean(span)))
            errors.append(1 - evaluate(network, validation).accuracy)
    sha256 = hashlib.sha256(b"".join(param.tobytes() for param in network.params))
    return Run(
        data=name,
        seed=seed,
        optimizer=optimizer,
        method=method,
        test_error=1 - evaluate(network, data.test).accuracy,
        losses=losses,
        validation_errors=errors,
        wall_seconds=wall[1:],
        cpu_seconds=cpu[1:],
        weights=sha256.hexdigest(),
        processor=environment.processor(),
    )


def _take(images: LabelledImages, chosen: Any) -> LabelledImages:
    return LabelledImages(images.images[chosen], images.labels[chosen])


def _draw_batches(order: np.random.SeedSequence, n_images: int, batch: int, epochs: int) -> Iterator[Any]:
    """Yield the indices of each step's images; every epoch has a new order, whose remainder is left out."""
    rng = np.random.default_rng(order)
    for _ in range(epochs):
        shuffled = rng.permutation(n_images)
        for begin in range(0, n_images - batch + 1, batch):
            yield shuffled[begin : begin + batch]


def run_all(
    sets: dict[str, Dataset],
    settings: Settings,
    keys: Sequence[Key],
    results: Path,
    *,
    resume: bool = False,
    n_jobs: int = 1,
    progress: bool = False,
) -> list[Run]:
    """Train every network that a file of results lacks, and save each result when it is known.

    Parameters
    ----------
    sets : dict of Dataset
        The data by names.
    settings : Settings
        Those of all runs.
    keys : sequence of tuple
        Data, seed, optimizer and method of each run, in order.
    results : Path
        The JSON file; replaced as a whole after each run.
    resume : bool
        Whether to keep the runs in the file, those that are not among the keys too.
    n_jobs : int
        The number of processes; with 1, the networks are trained in this process.
    progress : bool
        Whether to show a progress bar on stderr.

    Returns
    -------
    list of Run
        One for each key.

    Raises
    ------
    ResultsError
        For a file that is not of this program, has other settings or other data, or is used by another process.
    CommandError
        Where a loss is not finite, the file cannot be written or a process ends. Earlier results are in the file.

    """
    with ExitStack() as stack:
        try:
            stack.enter_context(lock_for_run(results))
        except LockedError as error:
            message = f"{results}: must be used by one run at a time, got a second while {error} uses it"
            raise ResultsError(message) from None
        digests = {name: digest_dataset(data) for name, data in sets.items()}
        runs: dict[Key, Run] = {}
        if resume:
            known, runs = load_results(results, settings, digests)
            digests = known | digests
        left = [key for key in keys if key not in runs]
        n_done = len(keys) - len(left)
        bar = tqdm(total=len(keys), initial=n_done, unit="network", disable=not progress, file=sys.stderr)
        stack.enter_context(bar)
        for run in _train_each(sets, settings, left, n_jobs):
            runs[run.key] = run
            _save_results(results, settings, digests, [runs[key] for key in sorted(runs, key=_place)])
            bar.set_postfix_str(f"{', '.join(map(str, run.key))}: {100 * run.test_error:.2f} %", refresh=False)
            bar.update()
    return [runs[key] for key in keys]


def _save_results(path: Path, settings: Settings, digests: dict[str, str], runs: Sequence[Run]) -> None:
    """Write a file for `load_results`, with a line for each run."""
    head = json.dumps({"format": FORMAT, "settings": asdict(settings), "data": digests})
    lines = ",\n".join(json.dumps(asdict(run)) for run in runs)
    write_file(path, f'{head[:-1]}, "runs": [\n{lines}\n]}}\n'.encode())


def _place(key: Key) -> tuple[int, int, int, int]:
    """Return a key for sorting; ValueError for names that are not in the lists."""
    name, seed, optimizer, method = key
    return list(TARGETS).index(name), seed, OPTIMIZERS.index(optimizer), METHODS.index(method)


def _train_each(sets: dict[str, Dataset], settings: Settings, keys: Sequence[Key], n_jobs: int) -> Iterator[Run]:
    """Train a network for each key, and yield each result when it is known."""
    if n_jobs == 1 or len(keys) < 2:
        for name, *rest in keys:
            yield train(name, sets[name], settings, *rest)
        return
    # A forked process would share the locks of this one's threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(n_jobs, context, _set_up_worker, (sets, settings)) as pool:
        futures = [pool.submit(_train_in_worker, key) for key in keys]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool:
            raise CommandError("processes must live until their networks are trained, got one that has ended") from None
        finally:
            pool.shutdown(cancel_futures=True)


_worker: dict[str, Any] = {}  # in a worker process: the data and the settings


def _set_up_worker(sets: dict[str, Dataset], settings: Settings) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # an interrupt ends the process without a traceback
    _worker.update(sets=sets, settings=settings, limits=threadpool_limits(1))


def _train_in_worker(key: Key) -> Run:
    name, *rest = key
    return train(name, _worker["sets"][name], _worker["settings"], *rest)


def load_results(path: Path, settings: Settings, digests: dict[str, str]) -> tuple[dict[str, str], dict[Key, Run]]:
    """Read a file of results; return the digests of its data and its runs by their keys, none for a missing file.

    Raises
    ------
    ResultsError
        For a file that is not of this program, or has other settings or other data.

    """
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return {}, {}
    except OSError as error:
        raise ResultsError(f"{path}: must be readable, got {error.strerror or error}") from None
    try:
        content = json.loads(text)
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']!r}")
        known, saved_settings = dict(content["data"]), dict(content["settings"])
        runs = [Run(**run) for run in content["runs"]]
        n_evaluations = saved_settings["epochs"] * saved_settings["evaluations"]
        for run in runs:
            lists = (run.losses, run.validation_errors, run.wall_seconds, run.cpu_seconds)
            numbers = [number for each in lists for number in each]
            if {len(each) for each in lists} != {n_evaluations} or not np.isfinite([*numbers, run.test_error]).all():
                raise ValueError(f"a run of {run.key} without {n_evaluations} finite numbers in each list")
            if run.data not in known or type(run.seed) is not int:
                raise ValueError(f"a run of {run.key}")
            _place(run.key)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        found = f"{type(error).__name__}: {error}"
        raise ResultsError(f"{path}: must be a file of results of {PROG}, got {found}") from None
    for name, value in asdict(settings).items():
        if saved_settings.get(name) != value:
            raise ResultsError(
                f"--{name.replace('_', '-')} must be {saved_settings.get(name)} as in {path}, got {value}"
            )
    for name, digest in digests.items():
        if known.get(name, digest) != digest:
            raise ResultsError(f"{name} must be the data of {path}, of SHA-256 {known[name][:16]}, got {digest[:16]}")
    return known, {run.key: run for run in runs}


def describe(runs: Sequence[Run], target: float) -> str:
    """Return the means and standard deviations over the seeds as a table: a row for each optimizer and method."""
    rows = []
    for (optimizer, method), own in _by_method(runs).items():
        none = {run.seed: run.test_error for run in runs if (run.optimizer, run.method) == (optimizer, "none")}
        differences = [run.test_error - none[run.seed] for run in own if run.seed in none]
        reached = [(run, i) for run in own if (i := run.find_target(target)) is not None]
        rows.append(
            [
                optimizer,
                method,
                _spread([100 * run.test_error for run in own], "2"),
                _spread([100 * each for each in differences], "+2") if method != "none" and differences else "",
                f"{len(reached)} of {len(own)}",
                *(
                    _spread([getattr(run, name)[i] for run, i in reached], "1")
                    for name in ("cpu_seconds", "wall_seconds")
                ),
                *(_spread([getattr(run, name)[-1] for run in own], "1") for name in ("cpu_seconds", "wall_seconds")),
            ]
        )
    header = [
        "optimizer",
        "method",
        "test error, %",
        "minus none, points",
        f"reach {target:g} %",
        "CPU s to it",
        "wall s to it",
        "CPU s in all",
        "wall s in all",
    ]
    return common.tabulate(header, rows)


def _by_method(runs: Sequence[Run]) -> dict[tuple[str, str], list[Run]]:
    """Return the runs of each optimizer and method, in the order of `OPTIMIZERS` and `METHODS`."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for optimizer in OPTIMIZERS:
        for method in METHODS:
            if own := [run for run in runs if (run.optimizer, run.method) == (optimizer, method)]:
                groups[optimizer, method] = own
    return groups


def _spread(numbers: Sequence[float], decimals: str) -> str:
    """Return mean and standard deviation as text; the mean alone of one number, and a dash for none."""
    if not numbers:
        return "-"
    sign, places = ("+", decimals[1:]) if decimals.startswith("+") else ("", decimals)
    mean = f"{np.mean(numbers):{sign}.{places}f}"
    return f"{mean} ({np.std(numbers, ddof=1):.{places}f})" if len(numbers) > 1 else mean


def draw(runs: Sequence[Run], targets: dict[str, float], widths: str, settings: Settings, path: Path) -> None:
    """Draw validation errors over CPU time: a row of panels for each data set, a panel for each optimizer."""
    names = list(dict.fromkeys(run.data for run in runs))
    optimizers = [optimizer for optimizer in OPTIMIZERS if any(run.optimizer == optimizer for run in runs)]
    figure = common.new_figure(1 + 5 * len(optimizers), 0.8 + 4 * len(names))
    panels = figure.subplots(len(names), len(optimizers), squeeze=False)
    for name, row in zip(names, panels, strict=True):
        for optimizer, axes in zip(optimizers, row, strict=True):
            methods = _by_method([run for run in runs if (run.data, run.optimizer) == (name, optimizer)])
            lasts = []
            for (_, method), own in methods.items():
                seconds = np.mean([run.cpu_seconds for run in own], axis=0)
                errors = 100 * np.mean([run.validation_errors for run in own], axis=0)
                test = 100 * float(np.mean([run.test_error for run in own]))
                label = f"{method}: test error {test:.2f} %"
                axes.plot(seconds, errors, color=COLOURS[method], linewidth=1.6, marker=".", markersize=4, label=label)
                lasts.append(errors[-1])
            axes.axhline(targets[name], color="#333333", linewidth=0.8, linestyle=":")
            least = min(*lasts, targets[name])
            axes.set_ylim(0.9 * least, 2.2 * max(*lasts, targets[name]))
            axes.set_xlim(0, None)
            axes.set(xlabel="CPU time of training (s)", ylabel="validation error (%)")
            axes.set_title(f"{name}, {optimizer}", loc="left", fontsize=10)
            axes.legend(frameon=False, fontsize=8)
            axes.grid(color="#dddddd", linewidth=0.7)
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
    n_seeds = len({run.seed for run in runs})
    images = "" if settings.digits is None else f"{settings.digits:,} images, "
    title = f"{widths}, ReLU, p = {settings.p:g}, {images}batches of {settings.batch}, {settings.epochs} epochs"
    separator = "; " if len(optimizers) > 1 else "\n"  # one panel is too narrow for one line
    figure.suptitle(f"{title}{separator}mean of {n_seeds} seed{'s' if n_seeds > 1 else ''}", fontsize=11)
    common.save_figure(figure, path)


def _describe_settings(settings: Settings, optimizers: Sequence[str]) -> str:
    """Return what all runs share and what the columns are, for the page with the table."""
    rates = {
        "sgd": f"SGD with a momentum of {settings.momentum:g} (learning rate {settings.lr_sgd:g})",
        "adam": f"Adam (learning rate {settings.lr_adam:g})",
    }
    steps = " and by ".join(rates[name] for name in OPTIMIZERS if name in optimizers)
    n_evaluations = f"{settings.evaluations} time{'s' if settings.evaluations > 1 else ''}"
    paragraphs = (
        f"Networks with two hidden layers of {settings.hidden:,} units and ReLU are trained for {settings.epochs} "
        f"epochs in batches of {settings.batch}, by {steps}. Learning rates fall to 0 in equal steps. All methods of a "
        "seed have the same initial weights, batches and settings. Both hidden layers are dropped with "
        f"p = {settings.p:g}, except with the method `none`:",
        "- `element-wise`: each activation is dropped independently;\n"
        "- `feature-wise`: a mask for each batch, and full products;\n"
        f"- `grouped`: a mask for each of {settings.groups} groups of rows, in `CompactMLP`;\n"
        "- `compact`: the masks of `feature-wise`, in `CompactMLP`;\n"
        "- `compact-lazy`: the same, with lazy optimizer steps.",
        f"For each seed, {100 * settings.validation:g} % of the training set is held out and evaluated "
        f"{n_evaluations} an epoch. 'Reach' counts the seeds that get to this validation error; the "
        "times to it are over these seeds. Test errors are those after the last step. Numbers are means over the "
        "seeds, with standard deviations in parentheses; 'minus none' are the differences between networks of the same "
        "seed. Times are those of the training steps alone, on one thread.",
    )
    return "\n\n".join(text if text.startswith("- ") else textwrap.fill(text, 118) for text in paragraphs)


def _parse_lr(text: str) -> float:
    value = common.parse_float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be above 0 and finite, got {text}")
    return value


def _parse_target(text: str) -> float:
    value = common.parse_float(text)
    if not 0 < value < 100:
        raise argparse.ArgumentTypeError(f"must be in (0, 100), got {text}")
    return value


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=PROG, description=__doc__.splitlines()[0])
    option = functools.partial(common.add_option, parser)
    add = parser.add_argument
    for name, variable in (("mnist", "CDROPOUT_MNIST"), ("fashion-mnist", "CDROPOUT_FASHION_MNIST")):
        add(f"--{name}", type=Path, metavar="FOLDER", help=f"folder of its idx files (default: ${variable})")
    add("--sample", action="store_true", help="train on the sample of MNIST, and on no folder of the environment")
    option("seeds", common.parse_positive, 5, "N", "how many")
    option("seed", common.parse_natural, 0, "N", "the first")
    add("--methods", nargs="+", choices=METHODS, default=METHODS, metavar="METHOD", help=f"any of {', '.join(METHODS)}")
    add("--optimizers", nargs="+", choices=OPTIMIZERS, default=OPTIMIZERS, metavar="NAME", help="any of sgd, adam")
    levels = ", ".join(f"{level:g} on {name}" for name, level in TARGETS.items())
    add("--target", type=_parse_target, metavar="PERCENT", help=f"validation error to time (default {levels})")
    option("p", common.parse_p, Settings.p, "P", "probability of dropping a hidden unit")
    option("groups", common.parse_positive, Settings.groups, "N", "groups of rows of the method grouped")
    option("hidden", common.parse_positive, Settings.hidden, "N", "width of the hidden layers")
    option("epochs", common.parse_positive, Settings.epochs, "N", "passes over the training images")
    option("batch", common.parse_positive, Settings.batch, "N", "images in a step")
    option("lr-sgd", _parse_lr, Settings.lr_sgd, "LR", "first learning rate of SGD")
    option("lr-adam", _parse_lr, Settings.lr_adam, "LR", "first learning rate of Adam")
    option("momentum", common.parse_p_or_zero, Settings.momentum, "M", "momentum of SGD")
    option("validation", common.parse_p, Settings.validation, "PART", "part of the training set that is held out")
    add(
        "--digits", type=common.parse_positive, metavar="N", help="images to train on (default: all but those held out)"
    )
    option("evaluations", common.parse_positive, Settings.evaluations, "N", "of the validation error in an epoch")
    option("jobs", common.parse_positive, 1, "N", "processes, each of one thread, that train networks side by side")
    add("--resume", action="store_true", help="keep the runs in the file of results, and make those it lacks")
    for name, parse, suffix, what in (
        ("results", common.parse_output, ".json", "the results of all runs, as JSON"),
        ("plot", common.parse_image, ".png", "the plot: PNG, PDF or SVG"),
        ("table", common.parse_output, ".md", "the table, as Markdown"),
    ):
        default = str(common.HERE / f"regularization_compact{suffix}")
        what = f"{what} (default: examples/regularization_compact{suffix})"
        add(f"--{name}", type=parse, metavar="FILE", default=default, help=what)
    add("--quiet", action="store_true", help="show no progress bar")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Compare as the command line says; 0, or 2 for bad data or a bad file of results."""
    argv = sys.argv[1:] if argv is None else argv
    parser = _make_parser()
    args = parser.parse_args(argv)
    sources: dict[str, Any] = {"sample of MNIST": SAMPLE} if args.sample else {}
    for name, given, variable in (
        ("MNIST", args.mnist, "CDROPOUT_MNIST"),
        ("Fashion-MNIST", args.fashion_mnist, "CDROPOUT_FASHION_MNIST"),
    ):
        if source := given or (not args.sample and os.environ.get(variable)):
            sources[name] = source
    if not sources:
        parser.error("one of --mnist, --fashion-mnist and --sample must be given, or CDROPOUT_MNIST be set, got none")
    settings = Settings(**{field.name: getattr(args, field.name) for field in fields(Settings)})
    try:
        sets = {name: load_dataset(source) for name, source in sources.items()}
    except DataError as error:
        print(f"{PROG}: error: {error}", file=sys.stderr)
        return 2
    try:
        for data in sets.values():
            settings.count(data)
    except ValueError as error:
        parser.error(f"argument --{error}")
    keys = [
        (name, seed, optimizer, method)
        for name in sets
        for seed in range(args.seed, args.seed + args.seeds)
        for optimizer in OPTIMIZERS
        if optimizer in args.optimizers
        for method in METHODS
        if method in args.methods
    ]
    # One thread gives the same results on every machine, and its CPU time is the time of the work alone.
    with threadpool_limits(1):
        try:
            runs = run_all(
                sets, settings, keys, args.results, resume=args.resume, n_jobs=args.jobs, progress=not args.quiet
            )
        except ResultsError as error:
            print(f"{PROG}: error: {error}", file=sys.stderr)
            return 2
    targets = {name: args.target or TARGETS[name] for name in sets}
    sections = []
    for name, data in sets.items():
        n_validation, n_training, _ = settings.count(data)
        table = describe([run for run in runs if run.data == name], targets[name])
        counts = f"{n_training:,} training, {n_validation:,} validation and {len(data.test):,} test"
        sections.append(f"## {name}\n\n{counts} images.\n\n{table}")
    tables = "\n\n".join(sections)
    processors = ", ".join(dict.fromkeys(run.processor for run in runs))
    report = f"{_describe_settings(settings, args.optimizers)}\n\nProcessor: {processors}.\n\n{tables}"
    first = next(iter(sets.values()))
    widths = f"{first.n_pixels}-{settings.hidden}-{settings.hidden}-{first.n_classes}"
    try:
        draw(runs, targets, widths, settings, args.plot)
        # The command makes the same results without --resume.
        command = [argument for argument in argv if argument != "--resume"]
        common.write_report(args.table, TITLE, PROG, command, report, args.plot)
    finally:
        print(tables)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, PROG))
