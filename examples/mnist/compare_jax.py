"""Train one Flax network with Flax's dropout and with each of cdropout's for JAX, and compare their macro F1.

    python examples/mnist/compare_jax.py [--data FOLDER] [--kinds KIND ...] [--epochs N] [--seeds N] [--tolerance T]

The kind `layer` has `cdropout.jax.nnx.Dropout` where Flax's network has `flax.nnx.Dropout`, `enable` is Flax's network
after `cdropout.jax.enable`, and `prng` is Flax's network with keys of `cdropout.jax.prng`. The networks of a seed start
from the same weights and see the same batches; only the masks differ.
"""

import contextlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cdropout.command import run_command
from cdropout.digits.data import DataError, Dataset, load_dataset, pixels
from cdropout.digits.divergence import check_loss
from cdropout.digits.scores import Score, score_logits
from cdropout.digits.training import Config, build_network, draw_batches
from comparison import make_parser, parse, report

if TYPE_CHECKING:
    from flax import nnx

PROG = "compare_jax.py"
FLAX = "Flax"
KINDS = ("layer", "enable", "prng")


def build_flax(config: Config, data: Dataset, kind: str) -> "nnx.Sequential":
    """Return the network of a configuration in Flax, with dropout after the second hidden layer."""
    import jax
    from flax import nnx

    import cdropout.jax
    from cdropout.jax.nnx import Dropout

    impl = cdropout.jax.prng if kind == "prng" else None
    rngs = nnx.Rngs(jax.random.key(config.seed, impl=impl))
    layers: list[object] = []
    start = build_network(config, data.n_pixels, data.n_classes, None)
    for weight, bias in zip(start.weights, start.biases, strict=True):
        if layers and config.relu:
            layers.append(nnx.relu)
        module = nnx.Linear(*weight.shape, rngs=rngs)
        module.kernel[...], module.bias[...] = weight, bias
        layers.append(module)
    layers.insert(len(layers) - 1, (Dropout if kind == "layer" else nnx.Dropout)(config.p, rngs=rngs))
    return nnx.Sequential(*layers)


def train_flax(config: Config, data: Dataset, kind: str = FLAX) -> Score:
    """Train the network of a configuration in Flax.

    Parameters
    ----------
    config : Config
        Its `dropout` is ignored.
    data : Dataset
        The training set is learned, the test set is scored.
    kind : str
        `FLAX` or one of `KINDS`.

    Returns
    -------
    Score
        On the test set, after the last step.

    Raises
    ------
    ImportError
        Without Flax.
    DivergenceError
        If a loss is not finite.

    """
    import optax
    from flax import nnx

    import cdropout.jax

    network = build_flax(config, data, kind)
    optimizer = nnx.Optimizer(network, optax.adam(config.lr), wrt=nnx.Param)

    def loss_of(network: nnx.Sequential, images: np.ndarray, labels: np.ndarray) -> object:
        loss = optax.softmax_cross_entropy_with_integer_labels(network(images), labels).mean()
        weights = [layer.kernel[...] for layer in network.layers if isinstance(layer, nnx.Linear)]
        return loss + config.l2 / 2 * sum((weight**2).sum() for weight in weights), loss

    @nnx.jit
    def step(network: nnx.Sequential, optimizer: nnx.Optimizer, images: np.ndarray, labels: np.ndarray) -> object:
        (_, loss), slopes = nnx.value_and_grad(loss_of, has_aux=True)(network, images, labels)
        optimizer.update(network, slopes)
        return loss

    network.train()
    with cdropout.jax.enabled() if kind == "enable" else contextlib.nullcontext():
        for i, batch in enumerate(draw_batches(config, len(data.train))):
            images, labels = pixels(data.train.images[batch]), data.train.labels[batch].astype(np.int32)
            check_loss(float(step(network, optimizer, images, labels)), i + 1, config.lr)
    network.eval()
    score = score_logits(np.asarray(network(pixels(data.test.images))), data.test.labels)
    check_loss(score.loss, i + 1, config.lr)
    return score


def compare(data: Dataset, configs: Sequence[Config], kinds: Sequence[str]) -> dict[str, list[float]]:
    """Return the macro F1 of each configuration, for `FLAX` and each kind."""
    return {kind: [train_flax(config, data, kind).macro_f1 for config in configs] for kind in (FLAX, *kinds)}


def main(argv: list[str] | None = None) -> int:
    """Print the comparison; 0, or 1 where a kind is outside the tolerance, or 2 for a bad data file."""
    args = parse(make_parser(PROG, FLAX, KINDS), argv)
    try:
        import flax
    except ImportError:
        print("skipped: Flax is not installed")
        return 0
    try:
        data = load_dataset(args.data)
    except DataError as error:
        print(f"{PROG}: error: {error}", file=sys.stderr)
        return 2
    configs = [Config(epochs=args.epochs, relu=True, seed=seed) for seed in range(args.seeds)]
    title = f"Flax {flax.__version__}, {args.epochs} epochs, mean of {args.seeds} seeds"
    return report(PROG, title, compare(data, configs, args.kinds), args.tolerance)


if __name__ == "__main__":
    sys.exit(run_command(main, PROG))
