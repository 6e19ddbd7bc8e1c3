"""Train a small NumPy network on MNIST with dropout, and tell its macro F1 and what dropout cost.

    python benchmarks/train_mnist.py [--dropout KIND] [--p P] [--data FOLDER] [--plot FILE]
                                     [--checkpoint FILE [--resume] [--checkpoint-every N]] ...

The network is 784-512-512-10 with dropout after the second layer, and by default without activations between layers. A
run that is killed and resumed from its checkpoint ends with the very weights it would have had, bit for bit.
"""

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from checkpoint import CheckpointError, Checkpoints, Rng, RunState, check_checkpoint_path, digest_dataset
from curves import check_plot_path, plot_curves
from mnist_data import DataError, Dataset, LabelledImages, load_dataset, pixels
from network import Adam, Array, Layer, Linear, Network, NumPyDropout, ReLU, softmax_cross_entropy
from scores import Evaluation, Score, score_logits
from tqdm import tqdm

import cdropout as cd

PROG = "train_mnist.py"


@dataclass(frozen=True)
class Kind:
    """A kind of dropout, and where it stands in the network.

    Attributes
    ----------
    layer : callable or None
        Makes the layer that follows the second hidden one, of the probability of dropping and what masks are drawn
        from.
    linear : type or None
        The layer that drops inside its product, and stands in the place of the second hidden linear one.
    make_rng : callable
        Makes what masks are drawn from, of a seed.

    """

    layer: Callable[[float, Any], Layer] | None = None
    linear: type[cd.DropConnect | cd.FeatureDropoutLinear] | None = None
    make_rng: Callable[[np.random.SeedSequence], Rng] = cd.Stream


DROPOUTS: dict[str, Kind] = {
    "elementwise": Kind(lambda p, rng: cd.Dropout(p, rng=rng)),
    "feature": Kind(lambda p, rng: cd.Dropout(p, rng=rng, shared_axes=0)),
    "standard": Kind(lambda p, rng: cd.Dropout(p, rng=rng, rescale="eval")),
    "none": Kind(),
    "numpy": Kind(NumPyDropout, make_rng=np.random.default_rng),
    "drop-connect": Kind(linear=cd.DropConnect),
    # One feature dropout, as "feature", but before the second hidden layer: its square product is worth making smaller.
    "feature-linear": Kind(linear=cd.FeatureDropoutLinear),
}

_EVALUATION_BATCH = 1000
_PLOT_EVALUATIONS_PER_EPOCH = 10


@dataclass(frozen=True)
class Config:
    """One training run, but for its data.

    Attributes
    ----------
    dropout : str
        A name of `DROPOUTS`.
    p : float
        The probability of dropping, in [0, 1].
    epochs, batch, hidden : int
        Passes over the training set, samples in a step, width of the two hidden layers; each at least 1.
    lr : float
        Adam's step size, above 0.
    l2 : float
        The weight decay, at least 0.
    relu : bool
        Whether a ReLU follows each hidden layer.
    seed : int
        Of the weights, the order of the samples and the masks; at least 0.

    Raises
    ------
    ValueError
        For a value outside these bounds, naming attribute, rule and value.

    """

    dropout: str = "elementwise"
    p: float = 0.5
    epochs: int = 2
    batch: int = 128
    lr: float = 1e-3
    l2: float = 0.0
    hidden: int = 512
    relu: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        rules = (
            ("dropout", self.dropout in DROPOUTS, f"be one of {', '.join(DROPOUTS)}"),
            ("p", 0 <= self.p <= 1, "be in [0, 1]"),
            ("epochs", self.epochs >= 1, "be at least 1"),
            ("batch", self.batch >= 1, "be at least 1"),
            ("lr", 0 < self.lr < math.inf, "be above 0 and finite"),
            ("l2", 0 <= self.l2 < math.inf, "be at least 0 and finite"),
            ("hidden", self.hidden >= 1, "be at least 1"),
            ("seed", self.seed >= 0, "be at least 0"),
        )
        for name, holds, rule in rules:
            if not holds:
                raise ValueError(f"{name} must {rule}, got {getattr(self, name)}")

    def spawn_seeds(self) -> tuple[np.random.SeedSequence, np.random.SeedSequence, np.random.SeedSequence]:
        """Return the seeds of the weights, of the order of the samples and of the masks, independent of each other."""
        weights, order, masks = np.random.SeedSequence(self.seed).spawn(3)
        return weights, order, masks


@dataclass(frozen=True)
class Result:
    """A trained network and how it went.

    Attributes
    ----------
    network : Network
        In evaluation mode.
    test : Score
        On the test set, after the last step.
    losses : ndarray of float64, shape (n_steps,)
        The loss of each batch, with dropout on, in nats and without the L2 penalty.
    step_seconds : ndarray of float64, shape (n_steps,)
        The wall time of forward pass, loss, backward pass and update of each step; not that of gathering the batch.
    dropout_seconds : ndarray of float64, shape (n_steps,)
        The part of it spent in the dropout layer, forward and backward. NaN where dropout happens inside linear layers
        and has no time of its own.
    evaluations : tuple of Evaluation
        Those on the way, where any were asked for.

    """

    network: Network
    test: Score
    losses: npt.NDArray[np.float64]
    step_seconds: npt.NDArray[np.float64]
    dropout_seconds: npt.NDArray[np.float64]
    evaluations: tuple[Evaluation, ...]

    @property
    def dropout_share(self) -> float:
        """The share of the time of all steps that was spent in dropout, in [0, 1], or NaN as `dropout_seconds` is."""
        return float(self.dropout_seconds.sum() / self.step_seconds.sum())


class Timed:
    """A layer whose `forward` and `backward` add the wall time they take to `seconds`."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self.params, self.grads = layer.params, layer.grads
        self.seconds = 0.0

    def forward(self, x: Array) -> Array:
        """As the layer does."""
        return self._timed(self.layer.forward, x)

    def backward(self, dy: Array) -> Array:
        """As the layer does."""
        return self._timed(self.layer.backward, dy)

    def train(self) -> None:
        """As the layer does."""
        self.layer.train()

    def eval(self) -> None:
        """As the layer does."""
        self.layer.eval()

    def _timed(self, function: Callable[[Array], Array], argument: Array) -> Array:
        start = time.perf_counter()
        value = function(argument)
        self.seconds += time.perf_counter() - start
        return value


def build_network(
    config: Config, n_inputs: int, n_classes: int, dropout: Layer | None, *, dtype: npt.DTypeLike = np.float32
) -> Network:
    """Build the network of a configuration around a dropout layer.

    Parameters
    ----------
    config : Config
        Whose widths, activation and seed to take.
    n_inputs, n_classes : int
        The widths of input and output.
    dropout : Layer or None
        What follows the second hidden layer.
    dtype : dtype
        That of the parameters.

    """
    rng = np.random.default_rng(config.spawn_seeds()[0])
    activation = [ReLU] if config.relu else []
    layers: list[Layer] = [
        Linear(n_inputs, config.hidden, rng, dtype=dtype, input_gradient=False),
        *(activate() for activate in activation),
        Linear(config.hidden, config.hidden, rng, dtype=dtype),
        *(activate() for activate in activation),
        *([] if dropout is None else [dropout]),
        Linear(config.hidden, n_classes, rng, dtype=dtype),
    ]
    return Network(layers)


def drop_in_product(network: Network, kind: Kind, p: float, rng: Rng) -> Network:
    """Return a network with a kind's layer in the place of the second hidden linear one, with the same weights.

    Parameters
    ----------
    network : Network
        As `build_network` builds it; its other layers become the new network's.
    kind : Kind
        Where it has no such layer, the network stays as it is.
    p : float
        The probability of dropping.
    rng : Stream
        What the layer draws its masks from.

    """
    if kind.linear is None:
        return network
    hidden = [layer for layer in network.layers if isinstance(layer, Linear)][1]
    n_in, n_out = hidden.weight.shape
    dropping = kind.linear(n_in, n_out, p, rng=rng, dtype=hidden.weight.dtype)
    for new, old in zip(dropping.params, hidden.params, strict=True):
        new[...] = old
    return Network([dropping if layer is hidden else layer for layer in network.layers])


def draw_batches(config: Config, n_samples: int) -> Iterator[npt.NDArray[np.int64]]:
    """Yield the indices of each step's samples: every epoch a new order, its last batch whatever remains."""
    rng = np.random.default_rng(config.spawn_seeds()[1])
    for _ in range(config.epochs):
        order = rng.permutation(n_samples)
        for start in range(0, n_samples, config.batch):
            yield order[start : start + config.batch]


def count_steps(config: Config, n_samples: int) -> int:
    """Return how many batches `draw_batches` yields."""
    return config.epochs * math.ceil(n_samples / config.batch)


def evaluate(network: Network, images: LabelledImages) -> Score:
    """Score a network on images with dropout off; leaves the network in evaluation mode."""
    network.eval()
    logits = [
        network.forward(pixels(images.images[start : start + _EVALUATION_BATCH]))
        for start in range(0, len(images), _EVALUATION_BATCH)
    ]
    return score_logits(np.concatenate(logits), images.labels)


def train(
    config: Config,
    data: Dataset,
    *,
    evaluations_per_epoch: int = 0,
    progress: bool = False,
    checkpoints: Checkpoints | None = None,
) -> Result:
    """Train a network and score it on the test set.

    Parameters
    ----------
    config : Config
        The same configuration and data give the same network, on the same machine and number of threads.
    data : Dataset
        Whose training set to train on, and whose test set to score.
    evaluations_per_epoch : int
        How often to evaluate on the way, for curves; it changes nothing else.
    progress : bool
        Whether to show a progress bar with the running loss on stderr.
    checkpoints : Checkpoints or None
        Where to keep the state of the run, and whether to go on from there. The result is that of a run never stopped,
        but for the evaluations that were not asked for at the time, and the times.

    Raises
    ------
    CheckpointError
        Where a checkpoint cannot be read or written, or is of a run with another configuration or other data.

    """
    kind = DROPOUTS[config.dropout]
    rng = kind.make_rng(config.spawn_seeds()[2])
    dropout = None if kind.layer is None else Timed(kind.layer(config.p, rng))
    network = build_network(config, data.n_pixels, data.n_classes, dropout)
    network = drop_in_product(network, kind, config.p, rng)
    optimizer = Adam(network.params, network.grads, lr=config.lr, l2=config.l2)
    n_steps = count_steps(config, len(data.train))
    evaluate_after = set(np.linspace(0, n_steps, config.epochs * evaluations_per_epoch + 1).round().astype(int)[1:])
    train_part = LabelledImages(data.train.images[: len(data.test)], data.train.labels[: len(data.test)])
    losses, step_seconds, dropout_seconds = np.zeros((3, n_steps))
    if kind.linear is not None:
        dropout_seconds.fill(math.nan)
    evaluations = []
    running_loss = math.nan

    n_done = 0
    if checkpoints is not None:
        arrays = name_arrays(network, optimizer) | {
            "losses": losses,
            "step_seconds": step_seconds,
            "dropout_seconds": dropout_seconds,
        }
        state = RunState(asdict(config), digest_dataset(data), n_steps, arrays, rng)
        if checkpoints.resume:
            state.restore(checkpoints.path)
        n_done = optimizer.n_steps = state.n_steps
        evaluations = state.evaluations

    network.train()
    with tqdm(total=n_steps, initial=n_done, unit="step", disable=not progress, file=sys.stderr) as bar:
        for i, batch in islice(enumerate(draw_batches(config, len(data.train))), n_done, None):
            x, labels = pixels(data.train.images[batch]), data.train.labels[batch]
            dropout_before = dropout.seconds if dropout else 0.0
            start = time.perf_counter()
            losses[i], dlogits = softmax_cross_entropy(network.forward(x), labels)
            network.backward(dlogits)
            optimizer.step()
            step_seconds[i] = time.perf_counter() - start
            if dropout:
                dropout_seconds[i] = dropout.seconds - dropout_before
            running_loss = losses[i] if i == n_done else 0.98 * running_loss + 0.02 * losses[i]
            bar.set_postfix_str(f"loss {running_loss:.4f}", refresh=False)
            bar.update()
            if i + 1 in evaluate_after:
                evaluations.append(Evaluation(i + 1, evaluate(network, train_part), evaluate(network, data.test)))
                network.train()
            if checkpoints is not None and ((i + 1) % checkpoints.every == 0 or i + 1 == n_steps):
                state.n_steps, state.evaluations = i + 1, evaluations
                state.save(checkpoints.path)
    test = evaluate(network, data.test)
    return Result(network, test, losses, step_seconds, dropout_seconds, tuple(evaluations))


def name_arrays(network: Network, optimizer: Adam) -> dict[str, Array]:
    """Return the arrays that steps change, not copies of them, each by a name for a checkpoint."""
    rows = zip(network.params, optimizer.first_sums, optimizer.second_sums, strict=True)
    return {
        f"{name}_{i}": array
        for i, row in enumerate(rows)
        for name, array in zip(("param", "first_sum", "second_sum"), row, strict=True)
    }


def describe(result: Result) -> str:
    """Return the lines a run ends with."""
    step_ms = 1e3 * result.step_seconds
    lines = [
        f"macro F1  {result.test.macro_f1:.4f}",
        f"accuracy  {result.test.accuracy:.4f}",
        f"step      {step_ms.mean():.3f} ms mean, {np.median(step_ms):.3f} ms median",
    ]
    if not math.isnan(result.dropout_share):
        lines.append(f"dropout   {100 * result.dropout_share:.2f} % of a step")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Train as the command line says; 0, or 2 for a bad data file or checkpoint."""
    parser = argparse.ArgumentParser(prog=PROG, description="Train a NumPy network on MNIST with dropout.")
    add = parser.add_argument
    add("--dropout", choices=tuple(DROPOUTS), default=Config.dropout, help="kind of dropout (default %(default)s)")
    add("--p", type=float, default=Config.p, help="probability of dropping (default %(default)s)")
    add("--epochs", type=int, default=Config.epochs, help="passes over the training set (default %(default)s)")
    add("--batch", type=int, default=Config.batch, help="samples in a step (default %(default)s)")
    add("--lr", type=float, default=Config.lr, help="step size of Adam (default %(default)s)")
    add("--l2", type=float, default=Config.l2, help="weight decay (default %(default)s)")
    add("--hidden", type=int, default=Config.hidden, help="width of the hidden layers (default %(default)s)")
    add("--relu", action="store_true", help="put a ReLU after each hidden layer")
    add("--seed", type=int, default=Config.seed, help="of weights, order and masks (default %(default)s)")
    add("--data", type=Path, metavar="FOLDER", help="folder of idx files (default: the sample of MNIST)")
    add("--plot", type=Path, metavar="FILE", help="draw the curves of loss and macro F1 into this image file")
    add(
        "--checkpoint",
        type=Path,
        metavar="FILE",
        help="keep the state of the run in this file, replacing what it holds",
    )
    add("--resume", action="store_true", help="go on from the checkpoint, where there is one")
    add(
        "--checkpoint-every",
        type=int,
        metavar="N",
        help=f"steps from one writing of it to the next (default {Checkpoints.every})",
    )
    add("--quiet", action="store_true", help="show no progress bar")
    args = vars(parser.parse_args(argv))
    folder, plot, quiet = (args.pop(name) for name in ("data", "plot", "quiet"))
    checkpoint, resume, every = (args.pop(name) for name in ("checkpoint", "resume", "checkpoint_every"))
    try:
        config = Config(**args)
    except ValueError as error:
        parser.error(f"argument --{error}")
    if plot is not None:
        try:
            check_plot_path(plot)
        except ValueError as error:
            parser.error(f"argument --plot: {error}")
    checkpoints = None
    if checkpoint is not None:
        try:
            checkpoints = Checkpoints(checkpoint, Checkpoints.every if every is None else every, resume)
        except ValueError as error:
            parser.error(f"argument --{error}")
        try:
            check_checkpoint_path(checkpoint)
        except CheckpointError as error:
            parser.error(f"argument --checkpoint: {error}")
    elif resume or every is not None:
        parser.error(f"argument --{'resume' if resume else 'checkpoint-every'} must come with --checkpoint, got none")
    evaluations_per_epoch = 0 if plot is None else _PLOT_EVALUATIONS_PER_EPOCH
    try:
        data = load_dataset(folder)
        result = train(
            config,
            data,
            evaluations_per_epoch=evaluations_per_epoch,
            progress=not quiet,
            checkpoints=checkpoints,
        )
    except (CheckpointError, DataError) as error:
        print(f"{PROG}: error: {error}", file=sys.stderr)
        return 2
    print(describe(result))
    if plot is not None:
        widths = f"{data.n_pixels}-{config.hidden}-{config.hidden}-{data.n_classes}"
        kind = "no dropout" if config.dropout == "none" else f"{config.dropout} dropout, p = {config.p:g}"
        plot_curves(result, f"{widths}, {'ReLU, ' if config.relu else ''}{kind}, seed {config.seed}", plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
