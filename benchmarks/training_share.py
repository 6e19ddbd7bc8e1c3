"""The share of a training step that dropout takes, with cdropout, with NumPy at its best, and as write-ups have it.

    python benchmarks/training_share.py [--threads N] [--rounds N] [--p P] [--batch N]

The network is 784-512-512-10 in float32 with ReLU and dropout after both hidden layers, trained by Adam on the sample
of MNIST. One network for each kind of dropout starts from the same weights; in every round each makes one step on the
same batch. Where a write-up's mask of float64 makes its result float64, the layer turns it back to float32 and is
charged for that: the rest of the network would otherwise go on in float64.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from command_line import parse_p, parse_positive
from mnist_data import Dataset, load_dataset, pixels
from network import Adam, Array, Layer, Linear, Network, ReLU, softmax_cross_entropy
from threadpoolctl import threadpool_limits
from timing import machine
from tqdm import tqdm
from train_mnist import Timed

import cdropout as cd
from cdropout.bench.numpy_code import WRITE_UPS

HIDDEN = 512


class NumPyBestDropout:
    """NumPy's best: SFC64 floats into a ready buffer, a stored mask of bools, products in place.

    Parameters
    ----------
    p : float
        The probability of dropping, in [0, 1).
    seed : int
        Of the masks.

    """

    def __init__(self, p: float, seed: int) -> None:
        self.p = np.float32(p)
        self.scale = np.float32(1 / (1 - p))
        self.rng = np.random.Generator(np.random.SFC64(seed))
        self.numbers = np.empty(0, np.float32)
        self.keep = np.empty(0, bool)
        self.params: list[Array] = []
        self.grads: list[Array] = []

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
    """A write-up's code as a layer.

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
        self.params: list[Array] = []
        self.grads: list[Array] = []

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


# name -> the layer for a probability of dropping and a seed; None is no layer at all
DROPOUTS: dict[str, Callable[[float, int], Layer] | None] = {
    "none": None,
    "cdropout": lambda p, seed: cd.Dropout(p, rng=seed),
    "cdropout, in place": lambda p, seed: cd.Dropout(p, rng=seed, inplace=True),
    "numpy-best": NumPyBestDropout,
    **{name: lambda p, seed, name=name: WriteUpDropout(name, p) for name in WRITE_UPS},
}


@dataclass(frozen=True)
class Share:
    """What a step took, in seconds: medians over the rounds.

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
    """A network with one kind of dropout, and its optimiser.

    Parameters
    ----------
    make_dropout : callable or None
        Takes p and a seed, and returns a layer.
    p : float
        The probability of dropping, in [0, 1).
    n_inputs, n_classes : int
        The widths of input and output.

    """

    def __init__(
        self, make_dropout: Callable[[float, int], Layer] | None, p: float, n_inputs: int, n_classes: int
    ) -> None:
        rng = np.random.default_rng(0)
        self.timed = [] if make_dropout is None else [Timed(make_dropout(p, seed)) for seed in (1, 2)]
        first, second = ([layer] for layer in self.timed) if self.timed else ([], [])
        self.network = Network(
            [
                Linear(n_inputs, HIDDEN, rng, input_gradient=False),
                ReLU(),
                *first,
                Linear(HIDDEN, HIDDEN, rng),
                ReLU(),
                *second,
                Linear(HIDDEN, n_classes, rng),
            ]
        )
        self.optimizer = Adam(self.network.params, self.network.grads)

    def step(self, x: Array, labels: Array) -> tuple[float, float]:
        """Make a training step and return the seconds it took, and those of its dropout."""
        before = sum(layer.seconds for layer in self.timed)
        start = time.perf_counter()
        _, dlogits = softmax_cross_entropy(self.network.forward(x), labels)
        self.network.backward(dlogits)
        self.optimizer.step()
        seconds = time.perf_counter() - start
        return seconds, sum(layer.seconds for layer in self.timed) - before


def measure_shares(
    data: Dataset, *, p: float = 0.5, batch: int = 128, rounds: int = 100, progress: bool = False
) -> dict[str, Share]:
    """Train one network for each kind of dropout, in turns, and time its steps.

    Parameters
    ----------
    data : Dataset
        Whose training set to take batches of.
    p : float
        The probability of dropping, in (0, 1).
    batch : int
        The samples in a step; at least 1, and no more than there are.
    rounds : int
        How many steps of each network count; a tenth as many, and at least one, come before.
    progress : bool
        Whether to show a progress bar on stderr.

    Returns
    -------
    dict of str to Share
        For each name in `DROPOUTS`.

    """
    trainees = {name: Trainee(make, p, data.n_pixels, data.n_classes) for name, make in DROPOUTS.items()}
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


def tabulate(shares: dict[str, Share]) -> str:
    """Return a table of the shares."""
    width = max(map(len, shares))
    lines = [f"{'dropout':<{width}} {'step, ms':>10} {'dropout, ms':>12} {'share':>8} {'step / none':>12}"]
    lines += [
        f"{name:<{width}} {1e3 * share.step:>10.3f} {1e3 * share.dropout:>12.4f} {share.share:>8.2%} "
        f"{share.step / shares['none'].step:>12.3f}"
        for name, share in shares.items()
    ]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Print the table of shares."""
    parser = argparse.ArgumentParser(prog="training_share.py", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--threads", type=parse_positive, default=1, metavar="N", help="of BLAS and dropout (default %(default)s)")
    add("--rounds", type=parse_positive, default=200, metavar="N", help="steps of each network (default %(default)s)")
    add("--p", type=parse_p, default=0.5, metavar="P", help="probability of dropping (default %(default)s)")
    add("--batch", type=parse_positive, default=128, metavar="N", help="samples in a step (default %(default)s)")
    add("--quiet", action="store_true", help="show no progress bar")
    args = parser.parse_args(argv)
    data = load_dataset()
    if args.batch > len(data.train):
        parser.error(f"argument --batch: batch must be at most {len(data.train)}, got {args.batch}")
    with threadpool_limits(args.threads):
        print(machine())
        print(
            f"{data.n_pixels}-{HIDDEN}-{HIDDEN}-{data.n_classes}, batch {args.batch}, ReLU, two dropout layers, "
            f"p = {args.p:g}, float32, {args.threads} thread{'s' * (args.threads > 1)}; medians of {args.rounds} "
            "interleaved steps\n",
            flush=True,
        )
        shares = measure_shares(data, p=args.p, batch=args.batch, rounds=args.rounds, progress=not args.quiet)
    print(tabulate(shares))
    return 0


if __name__ == "__main__":
    sys.exit(main())
