"""Train the network 784-512-512-10 with one kind of dropout, as a configuration says.

Dropout follows the second hidden layer; activations between the layers are an option. A run that is killed and resumed
from its checkpoint ends with the same weights, bit for bit.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

import cdropout as cd
from cdropout.networks import MLP, Adam, DropoutLayer, fill_he_uniform, softmax_loss, train_step

from .checkpoint import Checkpoints, Rng, RunState, digest_dataset, lock_checkpoint
from .data import Dataset, LabelledImages, pixels
from .divergence import DivergenceError, check_loss, ignore_overflow
from .numpy_dropout import NumPyDropout
from .progress import progress_bar
from .scores import Evaluation, Score, score_logits

Array = npt.NDArray[Any]
Value = TypeVar("Value")


@dataclass(frozen=True)
class Kind:
    """Describe a kind of dropout, and its place in the network.

    Attributes
    ----------
    layer : callable or None
        Takes the probability of dropping and the source of the masks; returns the layer after the second hidden one.
    linear : type or None
        The layer that drops inside its product; it replaces that of the second hidden layer.
    make_rng : callable
        Takes a seed; returns the source of the masks.

    """

    layer: Callable[[float, Any], DropoutLayer] | None = None
    linear: type[cd.DropConnect | cd.FeatureDropoutLinear] | None = None
    make_rng: Callable[[np.random.SeedSequence], Rng] = cd.Stream

    def make_layer(self, width: int, p: float, rng: Any, dtype: npt.DTypeLike = np.float32) -> DropoutLayer | None:
        """Return the layer that drops in the second of two hidden layers of a width, or None for no dropout."""
        if self.linear is not None:
            return self.linear(width, width, p, rng=rng, dtype=dtype)
        return None if self.layer is None else self.layer(p, rng)


DROPOUTS: dict[str, Kind] = {
    "elementwise": Kind(lambda p, rng: cd.Dropout(p, rng=rng)),
    "feature": Kind(lambda p, rng: cd.Dropout(p, rng=rng, shared_axes=0)),
    "standard": Kind(lambda p, rng: cd.Dropout(p, rng=rng, rescale="eval")),
    "none": Kind(),
    "numpy": Kind(NumPyDropout, make_rng=np.random.default_rng),
    "drop-connect": Kind(linear=cd.DropConnect),
    # Drops whole features, as "feature" does, but before the second hidden layer, whose product is the largest.
    "feature-linear": Kind(linear=cd.FeatureDropoutLinear),
}

_EVALUATION_BATCH = 1000
# Far more than any memory suffices for, and few enough that sizes of arrays do not overflow.
_MOST = 1_000_000


@dataclass(frozen=True)
class Config:
    """Configure a training run, except its data.

    Attributes
    ----------
    dropout : str
        A name of `DROPOUTS`.
    p : float
        The probability of dropping, in [0, 1].
    epochs, batch, hidden : int
        Passes over the training set, samples in a step, width of the two hidden layers; each at least 1, and epochs and
        hidden at most 1,000,000.
    lr : float
        Adam's step size, above 0.
    l2 : float
        The weight decay, at least 0.
    relu : bool
        Whether a ReLU follows each hidden layer.
    seed : int
        Seed of the weights, the order of the samples and the masks; at least 0.

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
            ("epochs", self.epochs <= _MOST, f"be at most {_MOST}"),
            ("batch", self.batch >= 1, "be at least 1"),
            ("lr", 0 < self.lr < math.inf, "be above 0 and finite"),
            ("l2", 0 <= self.l2 < math.inf, "be at least 0 and finite"),
            ("hidden", self.hidden >= 1, "be at least 1"),
            ("hidden", self.hidden <= _MOST, f"be at most {_MOST}"),
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
    """Hold a trained network, its scores and its times.

    Attributes
    ----------
    network : MLP
        In evaluation mode.
    test : Score
        On the test set, after the last step.
    losses : ndarray of float64, shape (n_steps,)
        The loss of each batch, with dropout on, in nats and without the L2 penalty.
    step_seconds : ndarray of float64, shape (n_steps,)
        The wall time of forward pass, loss, backward pass and update of each step; not that of gathering the batch.
    dropout_seconds : ndarray of float64, shape (n_steps,)
        The part of it spent in the dropout layer, forward and backward; NaN where dropout is part of a linear layer.
    evaluations : tuple of Evaluation
        The evaluations during training, if any were requested.

    """

    network: MLP
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
    """Wrap a layer, and add the wall time of `forward` and `backward` to `seconds`."""

    def __init__(self, layer: DropoutLayer) -> None:
        self.layer = layer
        self.seconds = 0.0

    def forward(self, x: Array) -> Array:
        """Call the layer's `forward`."""
        return self._timed(self.layer.forward, x)

    def backward(self, dy: Array) -> Array:
        """Call the layer's `backward`."""
        return self._timed(self.layer.backward, dy)

    def train(self) -> None:
        """Switch the layer to training."""
        cd.train([self.layer])

    def eval(self) -> None:
        """Switch the layer to evaluation."""
        cd.eval([self.layer])

    def _timed(self, function: Callable[[Array], Value], argument: Array) -> Value:
        start = time.perf_counter()
        value = function(argument)
        self.seconds += time.perf_counter() - start
        return value


def build_network(
    config: Config,
    n_inputs: int,
    n_classes: int,
    dropout: DropoutLayer | None,
    *,
    n_rows: int = 1,
    dtype: npt.DTypeLike = np.float32,
) -> MLP:
    """Build the network of a configuration around a dropout layer.

    Parameters
    ----------
    config : Config
        Gives the widths, the activation and the seed.
    n_inputs, n_classes : int
        The widths of input and output.
    dropout : DropoutLayer or None
        The layer that drops in the second hidden layer, from `Kind.make_layer`.
    n_rows : int
        The largest number of rows of a batch in training.
    dtype : dtype
        The dtype of the parameters.

    """
    network = MLP(
        [n_inputs, config.hidden, config.hidden, n_classes],
        activation="relu" if config.relu else "identity",
        dropouts=[None, dropout],
        dtype=dtype,
        n_rows=n_rows,
    )
    fill_he_uniform(network.weights, np.random.default_rng(config.spawn_seeds()[0]))
    return network


def draw_batches(config: Config, n_samples: int) -> Iterator[npt.NDArray[np.int64]]:
    """Yield the indices of each step's samples: every epoch has a new order; its last batch holds the remainder."""
    rng = np.random.default_rng(config.spawn_seeds()[1])
    for _ in range(config.epochs):
        order = rng.permutation(n_samples)
        for start in range(0, n_samples, config.batch):
            yield order[start : start + config.batch]


def evaluate(network: MLP, images: LabelledImages) -> Score:
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
        The training set is learned, the test set is scored.
    evaluations_per_epoch : int
        How often to evaluate during training, for curves; it changes nothing else.
    progress : bool
        Whether to show a progress bar with the running loss on stderr.
    checkpoints : Checkpoints or None
        Where to save the state of the run, and whether to resume from it. The result is that of an uninterrupted run,
        except for the times, and for evaluations that the earlier part was not asked for.

    Raises
    ------
    CheckpointError
        Where a checkpoint cannot be read or written, or is of a run with another configuration or other data, or where
        another run uses it.
    DivergenceError
        Where a loss, a weight or a sum of Adam is not finite. The checkpoint is then that of a step before.

    """
    lock = nullcontext() if checkpoints is None else lock_checkpoint(checkpoints.path)
    with lock, ignore_overflow():
        return _train(config, data, evaluations_per_epoch, progress, checkpoints)


def _train(
    config: Config, data: Dataset, evaluations_per_epoch: int, progress: bool, checkpoints: Checkpoints | None
) -> Result:
    kind = DROPOUTS[config.dropout]
    rng = kind.make_rng(config.spawn_seeds()[2])
    layer = kind.make_layer(config.hidden, config.p, rng)
    dropout = None if layer is None or kind.linear is not None else Timed(layer)
    n_rows = min(config.batch, len(data.train))
    network = build_network(config, data.n_pixels, data.n_classes, layer if dropout is None else dropout, n_rows=n_rows)
    optimizer = Adam(network.params, network.grads, lr=config.lr, l2=config.l2)
    n_steps = config.epochs * -(-len(data.train) // config.batch)  # the batches of `draw_batches`
    evaluate_after = set(np.linspace(0, n_steps, config.epochs * evaluations_per_epoch + 1).round().astype(int)[1:])
    train_part = LabelledImages(data.train.images[: len(data.test)], data.train.labels[: len(data.test)])
    losses, step_seconds, dropout_seconds = np.zeros((3, n_steps))
    if kind.linear is not None:
        dropout_seconds.fill(math.nan)
    evaluations = []
    running_loss = math.nan

    n_done = 0
    learned = name_arrays(network, optimizer)
    if checkpoints is not None:
        arrays = learned | {
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
    with progress_bar(n_steps, n_done, shown=progress) as bar:
        for i, batch in islice(enumerate(draw_batches(config, len(data.train))), n_done, None):
            x, labels = pixels(data.train.images[batch]), data.train.labels[batch]
            dropout_before = dropout.seconds if dropout else 0.0
            start = time.perf_counter()
            losses[i] = train_step(network, optimizer, softmax_loss, x, labels)
            step_seconds[i] = time.perf_counter() - start
            if dropout:
                dropout_seconds[i] = dropout.seconds - dropout_before
            check_loss(losses[i], i + 1, config.lr)
            running_loss = losses[i] if i == n_done else 0.98 * running_loss + 0.02 * losses[i]
            bar.set_postfix_str(f"loss {running_loss:.4f}", refresh=False)
            bar.update()
            if i + 1 in evaluate_after:
                evaluations.append(Evaluation(i + 1, evaluate(network, train_part), evaluate(network, data.test)))
                check_loss(evaluations[-1].train.loss + evaluations[-1].test.loss, i + 1, config.lr)
                network.train()
            if checkpoints is not None and ((i + 1) % checkpoints.every == 0 or i + 1 == n_steps):
                # The update of this step may have made numbers that are not finite, which the next loss would show.
                _check_finite(learned, i + 1, config.lr)
                network.eval()
                check_loss(softmax_loss(network.forward(x), labels), i + 1, config.lr)
                network.train()
                state.n_steps, state.evaluations = i + 1, evaluations
                state.save(checkpoints.path)
    _check_finite(learned, n_steps, config.lr)
    test = evaluate(network, data.test)
    check_loss(test.loss, n_steps, config.lr)
    return Result(network, test, losses, step_seconds, dropout_seconds, tuple(evaluations))


def _check_finite(arrays: dict[str, Array], step: int, lr: float) -> None:
    """Raise DivergenceError if an array of `name_arrays` has an element that is not finite."""
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            value = array[~np.isfinite(array)][0]
            raise DivergenceError(f"{name} must be finite, got {value} after step {step} with a step size of {lr:g}")


def name_arrays(network: MLP, optimizer: Adam) -> dict[str, Array]:
    """Return the arrays that training changes, not copies of them, by their names in a checkpoint."""
    rows = zip(network.params, optimizer.first_sums, optimizer.second_sums, strict=True)
    return {
        f"{name}_{i}": array
        for i, row in enumerate(rows)
        for name, array in zip(("param", "first_sum", "second_sum"), row, strict=True)
    }
