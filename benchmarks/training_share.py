"""Measure dropout's share of a training step: cdropout's, NumPy's best and that of write-ups.

The network is 784-512-512-10 in float32 with ReLU and dropout after both hidden layers, trained by Adam on the sample
of MNIST. One network for each kind of dropout starts from the same weights; in every round each makes one step on the
same batch. If a write-up's mask of float64 makes its result float64, the layer converts it back to float32, within its
own time: otherwise the rest of the network would compute in float64.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits
from tqdm import tqdm

import cdropout as cd
from benchmarks.options import UsageError, parse_positive
from benchmarks.table import Table
from benchmarks.timing import introduce
from cdropout.bench.numpy_code import WRITE_UPS
from cdropout.digits.data import Dataset, load_dataset, pixels
from cdropout.digits.training import Timed
from cdropout.networks import MLP, Adam, DropoutLayer, fill_he_uniform, softmax_loss, train_step
from examples.mnist.sample import SAMPLE

Array = npt.NDArray[Any]

HIDDEN = 512
SHARED_OPTIONS = {"threads": 1, "rounds": 200, "p": 0.5, "quiet": False}


class NumPyBestDropout:
    """Drop by the fastest NumPy code: SFC64 floats into a ready buffer, a stored mask of bools, products in place.

    Parameters
    ----------
    p : float
        The probability of dropping, in [0, 1).
    seed : int
        The seed of the masks.

    """

    def __init__(self, p: float, seed: int) -> None:
        self.p = np.float32(p)
        self.scale = np.float32(1 / (1 - p))
        self.rng = np.random.Generator(np.random.SFC64(seed))
        self.numbers = np.empty(0, np.float32)
        self.keep = np.empty(0, bool)

    def forward(self, x: Array) -> Array:
        """Drop elements of x, in place."""
        if self.numbers.shape != x.shape:
            self.numbers, self.keep = np.empty(x.shape, np.float32), np.empty(x.shape, bool)
        self.rng.random(out=self.numbers, dtype=np.float32)
        np.greater_equal(self.numbers, self.p, out=self.keep)
        return self.backward(x)

    def backward(self, dy: Array) -> Array:
        """Multiply by the mask of the last forward pass and the scale, in place."""
        np.multiply(dy, self.keep, out=dy)
        np.multiply(dy, self.scale, out=dy)
        return dy


class WriteUpDropout:
    """Wrap the code of a write-up as a layer.

    Parameters
    ----------
    name : str
        A name in `cdropout.bench.numpy_code.WRITE_UPS`.
    p : float
        The probability of dropping, in [0, 1).

    """

    def __init__(self, name: str, p: float) -> None:
        self.draw, self.divides_after, _ = WRITE_UPS[name]
        self.keep_prob = 1 - p
        self.mask: Array | None = None

    def forward(self, x: Array) -> Array:
        """Multiply by a new mask."""
        self.mask = self.draw(x.shape, self.keep_prob)
        return self.backward(x)

    def backward(self, dy: Array) -> Array:
        """Multiply by the mask of the last forward pass."""
        product = dy * self.mask
        if self.divides_after:
            product /= self.keep_prob
        return product.astype(dy.dtype, copy=False)


# name -> the layer for a probability of dropping and a seed; None is no layer
DROPOUTS: dict[str, Callable[[float, int], DropoutLayer] | None] = {
    "none": None,
    "cdropout": lambda p, seed: cd.Dropout(p, rng=seed),
    "cdropout, in place": lambda p, seed: cd.Dropout(p, rng=seed, inplace=True),
    "numpy-best": NumPyBestDropout,
    **{name: lambda p, seed, name=name: WriteUpDropout(name, p) for name in WRITE_UPS},
}


@dataclass(frozen=True)
class Share:
    """Hold the times of a step in seconds: medians over the rounds.

    Attributes
    ----------
    step : float
        Forward pass, loss, backward pass and update.
    dropout : float
        The part of it spent in the two dropout layers, forward and backward.
    share : float
        The median of each round's dropout divided by its step, in [0, 1].

    """

    step: float
    dropout: float
    share: float


class Trainee:
    """Hold a network with one kind of dropout, and its optimizer.

    Parameters
    ----------
    make_dropout : callable or None
        Takes p and a seed, and returns a layer; None for no dropout.
    p : float
        The probability of dropping, in [0, 1).
    n_inputs, n_classes : int
        The widths of input and output.
    batch : int
        The samples in a step.

    """

    def __init__(
        self,
        make_dropout: Callable[[float, int], DropoutLayer] | None,
        p: float,
        n_inputs: int,
        n_classes: int,
        batch: int,
    ) -> None:
        self.timed = [] if make_dropout is None else [Timed(make_dropout(p, seed)) for seed in (1, 2)]
        widths = [n_inputs, HIDDEN, HIDDEN, n_classes]
        self.network = MLP(widths, dropouts=self.timed or [None, None], n_rows=batch)
        fill_he_uniform(self.network.weights, np.random.default_rng(0))
        self.optimizer = Adam(self.network.params, self.network.grads)

    def step(self, x: Array, labels: Array) -> tuple[float, float]:
        """Make a training step; return its time in seconds, and that of its dropout."""
        before = sum(layer.seconds for layer in self.timed)
        start = time.perf_counter()
        train_step(self.network, self.optimizer, softmax_loss, x, labels)
        seconds = time.perf_counter() - start
        return seconds, sum(layer.seconds for layer in self.timed) - before


def measure_shares(
    data: Dataset, *, p: float = 0.5, batch: int = 128, rounds: int = 100, progress: bool = False
) -> dict[str, Share]:
    """Train one network for each kind of dropout, in turns, and time its steps.

    Parameters
    ----------
    data : Dataset
        Batches are drawn from its training set.
    p : float
        The probability of dropping, in (0, 1).
    batch : int
        The samples in a step, from 1 to all.
    rounds : int
        The number of timed steps of each network; a tenth as many, and at least one, precede them.
    progress : bool
        Whether to show a progress bar on stderr.

    Returns
    -------
    dict of str to Share
        For each name in `DROPOUTS`.

    """
    trainees = {name: Trainee(make, p, data.n_pixels, data.n_classes, batch) for name, make in DROPOUTS.items()}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in DROPOUTS}
    rng = np.random.default_rng(0)
    n_warm = max(1, rounds // 10)
    for i in tqdm(range(n_warm + rounds), unit="round", leave=False, disable=not progress, file=sys.stderr):
        chosen = rng.choice(len(data.train), batch, replace=False)
        x, labels = pixels(data.train.images[chosen]), data.train.labels[chosen]
        for name, trainee in trainees.items():
            seconds = trainee.step(x, labels)
            if i >= n_warm:
                times[name].append(seconds)
    return {
        name: Share(
            step=statistics.median(step for step, _ in values),
            dropout=statistics.median(dropout for _, dropout in values),
            share=statistics.median(dropout / step for step, dropout in values),
        )
        for name, values in times.items()
    }


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add --batch."""
    parser.add_argument("--batch", type=parse_positive, default=128, metavar="N", help="samples (default: %(default)s)")


def run(args: argparse.Namespace) -> None:
    """Print the table of shares."""
    data = load_dataset(SAMPLE)
    if args.batch > len(data.train):
        raise UsageError(f"argument --batch: batch must be at most {len(data.train)}, got {args.batch}")
    widths = f"{data.n_pixels}-{HIDDEN}-{HIDDEN}-{data.n_classes}"
    threads = f"{args.threads} thread{'s' * (args.threads > 1)}"
    with threadpool_limits(args.threads):
        setting = f"{widths}, batch {args.batch}, ReLU, two dropout layers, p = {args.p:g}, float32, {threads}"
        introduce(setting, args.rounds)
        shares = measure_shares(data, p=args.p, batch=args.batch, rounds=args.rounds, progress=not args.quiet)
    columns = (("step, ms", "10.3f"), ("dropout, ms", "12.4f"), ("share", "8.2%"), ("step / none", "12.3f"))
    Table(("dropout", "<18"), *columns).show(
        (name, 1e3 * share.step, 1e3 * share.dropout, share.share, share.step / shares["none"].step)
        for name, share in shares.items()
    )
