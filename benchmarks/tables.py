"""Time epochs of the estimators beside scikit-learn and PyTorch; compare errors.

"epochs" trains MNIST in float32 by Adam on 784-512-512-10 with ReLU, batches of 128: "ours" with dropout after both
hidden layers, "ours, p = 0", scikit-learn's MLPClassifier, which has no dropout, and a plain PyTorch loop with
nn.Dropout. All take turns, an epoch each. "compact" trains 784-2048-2048-10, batches of 512, with compact products and
with element-wise dropout. "errors" compares test errors after the same number of epochs. "coverage" counts targets
within two standard deviations of the mean, of our sub-networks and of PyTorch's passes with the same weights.
"batch-norm" compares test errors with and without batch normalization on scikit-learn's digits.

--data names the folder with MNIST's four files; without it, the variable CDROPOUT_MNIST does, and without that the
digits of `python -m cdropout train` are learned. "bar" is the project's goal.
"""

import argparse
import functools
import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.datasets import load_diabetes, load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from benchmarks.options import UsageError, parse_positive
from benchmarks.table import Table
from benchmarks.timing import introduce
from cdropout.digits.data import DataError, Dataset, load_dataset, pixels
from cdropout.sklearn import DropoutMLPClassifier, DropoutMLPRegressor

Array = npt.NDArray[Any]

SHARED_OPTIONS = {"p": 0.5, "rounds": 5, "threads": (1, 2)}
PARTS = ("epochs", "compact", "errors", "coverage", "batch-norm")
BAR_SCIKIT_LEARN, BAR_TORCH, BAR_COMPACT = 0.75, 0.95, 0.50
N_SUB_NETWORKS = 200


def interleaved_epochs(epochs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median time of each way's epoch in seconds; a first epoch of each is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in epochs}
    for i in range(rounds + 1):
        for name, epoch in epochs.items():
            start = time.perf_counter()
            epoch()
            if i:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def torch_network(widths: tuple[int, ...], p: float) -> torch.nn.Sequential:
    """Return linear layers with ReLU and nn.Dropout between them."""
    layers: list[torch.nn.Module] = []
    for n_in, n_out in pairwise(widths[:-1]):
        layers += [torch.nn.Linear(n_in, n_out), torch.nn.ReLU(), torch.nn.Dropout(p)]
    return torch.nn.Sequential(*layers, torch.nn.Linear(widths[-2], widths[-1]))


def torch_epoch(widths: tuple[int, ...], p: float, x: Array, y: Array, batch: int) -> Callable[[], None]:
    """Return a function that trains a PyTorch network for an epoch."""
    network = torch_network(widths, p)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    loss_of = torch.nn.CrossEntropyLoss()
    inputs, labels = torch.from_numpy(x), torch.from_numpy(y.astype(np.int64))

    def epoch() -> None:
        for chosen in torch.randperm(len(inputs)).split(batch):
            optimizer.zero_grad()
            loss_of(network(inputs[chosen]), labels[chosen]).backward()
            optimizer.step()

    return epoch


def estimator_epoch(estimator: Any, x: Array, y: Array) -> Callable[[], None]:
    """Return a function that trains an estimator for an epoch."""
    return functools.partial(estimator.partial_fit, x, y, classes=np.unique(y))


def show_epochs(arguments: argparse.Namespace, x: Array, y: Array) -> None:
    """Measure epochs of 784-512-512-10."""
    hidden, common = (512, 512), {"batch_size": 128, "random_state": 0}
    ours = f"ours, p = {arguments.p:g}"
    widths = (x.shape[1], *hidden, len(np.unique(y)))

    def rows() -> Iterator[tuple[Any, ...]]:
        for n_threads in arguments.threads:
            torch.set_num_threads(n_threads)
            with threadpool_limits(n_threads):
                found = interleaved_epochs(
                    {
                        ours: estimator_epoch(DropoutMLPClassifier(hidden, dropout=arguments.p, **common), x, y),
                        "ours, p = 0": estimator_epoch(DropoutMLPClassifier(hidden, dropout=0, **common), x, y),
                        "scikit-learn": estimator_epoch(MLPClassifier(hidden, **common), x, y),
                        "PyTorch": torch_epoch(widths, arguments.p, x, y, 128),
                    },
                    arguments.rounds,
                )
            for name, bar in (("scikit-learn", BAR_SCIKIT_LEARN), ("PyTorch", BAR_TORCH)):
                ratio = found[ours] / found[name]
                yield n_threads, name, found[name], found[ours], ratio, bar, "met" if ratio <= bar else "missed"
            yield (
                n_threads,
                "ours, p = 0",
                found["ours, p = 0"],
                found[ours],
                found[ours] / found["ours, p = 0"],
                None,
                "",
            )

    columns = [("threads", "7d"), ("over", "<12"), ("its epoch, s", "12.2f"), (f"{ours}, s", "14.2f")]
    Table(*columns, ("ratio", "5.2f"), ("bar", "4.2f"), ("", "<6")).show(rows())


def show_compact(arguments: argparse.Namespace, x: Array, y: Array) -> None:
    """Measure epochs of 784-2048-2048-10 with compact and with full products."""

    def rows() -> Iterator[tuple[Any, ...]]:
        for n_threads in arguments.threads:
            with threadpool_limits(n_threads):
                ways = {
                    kind: estimator_epoch(
                        DropoutMLPClassifier(
                            (2048, 2048), dropout=arguments.p, dropout_kind=kind, batch_size=512, random_state=0
                        ),
                        x,
                        y,
                    )
                    for kind in ("elementwise", "compact")
                }
                found = interleaved_epochs(ways, arguments.rounds)
            ratio = found["compact"] / found["elementwise"]
            verdict = "met" if ratio <= BAR_COMPACT else "missed"
            yield n_threads, found["elementwise"], found["compact"], ratio, BAR_COMPACT, verdict

    columns = [("threads", "7d"), ("elementwise, s", "14.2f"), ("compact, s", "10.2f"), ("ratio", "5.2f")]
    Table(*columns, ("bar", "4.2f"), ("", "<6")).show(rows())


def show_errors(arguments: argparse.Namespace, data: Dataset) -> None:
    """Compare test errors after the same number of epochs."""
    (x, y), (x_test, y_test) = ((pixels(part.images), part.labels) for part in (data.train, data.test))

    def rows() -> Iterator[tuple[Any, ...]]:
        means = np.zeros((arguments.seeds, 2))
        for seed in range(arguments.seeds):
            common = {"batch_size": 128, "max_iter": arguments.epochs, "tol": 0, "random_state": seed}
            fits = (
                DropoutMLPClassifier((512, 512), dropout=arguments.p, n_iter_no_change=arguments.epochs, **common),
                MLPClassifier((512, 512), n_iter_no_change=arguments.epochs, **common),
            )
            means[seed] = [100 * (1 - fit.fit(x, y).score(x_test, y_test)) for fit in fits]
            yield str(seed), *means[seed], means[seed, 0] - means[seed, 1], ""
        ours, theirs = means.mean(axis=0)
        yield "mean", ours, theirs, ours - theirs, "met" if ours < theirs else "missed"

    columns = [("seed", "<4"), (f"ours, p = {arguments.p:g}, %", "15.2f"), ("scikit-learn, %", "15.2f")]
    with threadpool_limits(arguments.threads[-1]):
        Table(*columns, ("difference", "+10.2f"), ("", "<6")).show(rows())


def torch_passes(regressor: DropoutMLPRegressor, x: Array) -> tuple[Array, Array]:
    """Return the mean and standard deviation of PyTorch's passes with dropout, with a regressor's weights."""
    network = torch_network((x.shape[1], *(len(b) for b in regressor.intercepts_)), regressor.dropout).double()
    linear = [layer for layer in network if isinstance(layer, torch.nn.Linear)]
    with torch.no_grad():
        for layer, coef, intercept in zip(linear, regressor.coefs_, regressor.intercepts_, strict=True):
            layer.weight.copy_(torch.from_numpy(coef.T.copy()))
            layer.bias.copy_(torch.from_numpy(intercept))
        inputs = torch.from_numpy(x)
        passes = np.stack([network(inputs)[:, 0].numpy() for _ in range(N_SUB_NETWORKS)])
    return passes.mean(axis=0), passes.std(axis=0)


def show_coverage(arguments: argparse.Namespace) -> None:
    """Compare how many targets lie within two standard deviations of the mean."""
    rng = np.random.default_rng(0)
    made = rng.standard_normal((2000, 10))
    data = {
        "diabetes": load_diabetes(return_X_y=True),
        "synthetic": (made, np.sin(made[:, 0]) + made[:, 1] * made[:, 2] + 0.1 * rng.standard_normal(2000)),
    }

    def rows() -> Iterator[tuple[Any, ...]]:
        for name, (x, y) in data.items():
            x_train, x_test, y_train, y_test = train_test_split(x, (y - y.mean()) / y.std(), random_state=0)
            scaler = StandardScaler().fit(x_train)
            x_train, x_test = scaler.transform(x_train), scaler.transform(x_test)
            regressor = DropoutMLPRegressor((128, 128), dropout=0.2, max_iter=100, random_state=0).fit(x_train, y_train)
            noise = np.std(y_train - regressor.predict(x_train))
            ours = regressor.predict(x_test, return_std=True, n_samples=N_SUB_NETWORKS)
            for who, (mean, std) in (("ours", ours), ("PyTorch", torch_passes(regressor, x_test))):
                away = np.abs(y_test - mean)
                covered = (100 * float(np.mean(away <= 2 * spread)) for spread in (std, np.hypot(std, noise)))
                yield name, who, float(std.mean()), *covered

    columns = [("data", "<9"), ("passes of", "<9"), ("mean std", "8.3f"), ("within 2 std, %", "15.1f")]
    Table(*columns, ("with the targets' noise, %", "26.1f")).show(rows())


def show_batch_norm(arguments: argparse.Namespace) -> None:
    """Compare test errors of 64-128-128-10 on scikit-learn's digits with and without batch normalization."""
    x, y = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(
        x.astype(np.float32) / 16, y, train_size=600, random_state=0, stratify=y
    )

    def error(p: float | tuple[float, float], is_normalized: bool, seed: int) -> float:
        common = {"learning_rate_init": 0.005, "max_iter": arguments.epochs, "random_state": seed}
        fitted = DropoutMLPClassifier((128, 128), dropout=p, batch_norm=is_normalized, **common).fit(x_train, y_train)
        return 100 * float(1 - fitted.score(x_test, y_test))

    def rows() -> Iterator[tuple[Any, ...]]:
        for p in (0.0, 0.2, 0.5, (0.0, 0.5)):
            plain, normalized = (
                [error(p, is_normalized, seed) for seed in range(arguments.seeds)] for is_normalized in (False, True)
            )
            yield str(p), np.mean(plain), np.std(plain), np.mean(normalized), np.std(normalized)

    columns = [("p", "<10"), ("without, %", "10.2f"), ("std", "4.2f"), ("with batch norm, %", "18.2f"), ("std", "4.2f")]
    with threadpool_limits(arguments.threads[-1]):
        Table(*columns).show(rows())


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add --data, --parts, --epochs and --seeds."""
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="MNIST's four files")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="(default: all)")
    parser.add_argument("--epochs", type=parse_positive, default=10, metavar="N", help="before errors (default: 10)")
    parser.add_argument("--seeds", type=parse_positive, default=3, metavar="N", help="of errors (default: 3)")


def run(arguments: argparse.Namespace) -> None:
    """Measure and print tables."""
    source = arguments.data or os.environ.get("CDROPOUT_MNIST")
    try:
        data = load_dataset(source)
    except DataError as error:
        raise UsageError(f"argument --data: {error}") from error
    warnings.simplefilter("ignore", ConvergenceWarning)
    introduce(f"float32, {len(data.train):,} images, PyTorch {torch.__version__}", arguments.rounds)
    x, y = pixels(data.train.images), data.train.labels
    show = {
        "epochs": lambda: show_epochs(arguments, x, y),
        "compact": lambda: show_compact(arguments, x, y),
        "errors": lambda: show_errors(arguments, data),
        "coverage": lambda: show_coverage(arguments),
        "batch-norm": lambda: show_batch_norm(arguments),
    }
    for part in arguments.parts:
        print(f"{part}:")
        show[part]()
        print()
