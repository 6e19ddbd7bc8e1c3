"""Share the code of the examples: a small network for digits, its training, command-line options and reports."""

import argparse
import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import cdropout as cd
from cdropout.digits.data import N_CLASSES, Dataset, LabelledImages, check_n_classes, pixels
from cdropout.digits.divergence import check_loss, ignore_overflow
from cdropout.digits.files import check_writable, write_figure, write_file
from cdropout.networks import MLP, Adam, fill_he_uniform, softmax_loss, train_step
from mnist.sample import SAMPLE

HERE = Path(__file__).resolve().parent
BATCH = 100
LEARNING_RATE = 1e-3
MOST = 1_000_000

_IMAGE_SUFFIXES = (".png", ".pdf", ".svg")


def build_network(
    data: Dataset,
    weights: np.random.SeedSequence,
    masks: np.random.SeedSequence,
    *,
    hidden: int = 512,
    p: float = 0.0,
    p_input: float = 0.0,
) -> MLP:
    """Build a network with two hidden layers, each followed by a ReLU and dropout.

    Parameters
    ----------
    data : Dataset
        Its numbers of pixels and classes are the widths of input and output.
    weights, masks : SeedSequence
        The seeds of the initial weights and of all masks. The weights do not depend on p and p_input.
    hidden : int
        The width of the hidden layers.
    p, p_input : float
        The probability of dropping a hidden unit, and a pixel; where p is 0 there are no dropout layers.

    """
    stream = cd.Stream(masks)
    network = MLP(
        [data.n_pixels, hidden, hidden, data.n_classes],
        dropouts=[cd.Dropout(p, rng=stream) if p > 0 else None for _ in range(2)],
        p_input=p_input,
        rng=stream,
        n_rows=BATCH,
    )
    fill_he_uniform(network.weights, np.random.default_rng(weights))
    return network


def train_epochs(network: MLP, images: LabelledImages, epochs: int, order: np.random.SeedSequence) -> Iterator[float]:
    """Train a network with Adam, in batches of `BATCH`, and yield the mean loss of each epoch's batches, in nats.

    Parameters
    ----------
    network : MLP
        Switched to training at the start of each epoch: between epochs it may be evaluated.
    images : LabelledImages
        The training set.
    epochs : int
        The number of passes over the images.
    order : SeedSequence
        The seed of the order of the images, which is new in each epoch.

    Raises
    ------
    DivergenceError
        Where a loss is not finite.

    """
    rng = np.random.default_rng(order)
    optimizer = Adam(network.params, network.grads, lr=LEARNING_RATE)
    for _ in range(epochs):
        network.train()
        batches = np.split(rng.permutation(len(images)), range(BATCH, len(images), BATCH))
        losses = []
        with ignore_overflow():
            for i in batches:
                x, labels = pixels(images.images[i]), images.labels[i]
                losses.append(train_step(network, optimizer, softmax_loss, x, labels))
                check_loss(losses[-1], optimizer.n_steps, LEARNING_RATE)
        yield float(np.mean(losses))


def parse_positive(text: str) -> int:
    """Parse an integer of at least 1 and at most 1,000,000, more than any memory suffices for."""
    value = _parse_integer(text, 1)
    if value > MOST:
        raise argparse.ArgumentTypeError(f"must be at most {MOST}, got {text}")
    return value


def parse_natural(text: str) -> int:
    """Parse an integer of at least 0."""
    return _parse_integer(text, 0)


def parse_n_classes(text: str) -> int:
    """Parse a number of classes."""
    n_classes = _parse_integer(text, 1)
    try:
        check_n_classes(n_classes)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return n_classes


def parse_p(text: str) -> float:
    """Parse a probability of dropping, neither 0 nor 1."""
    p = parse_float(text)
    if not 0 < p < 1:
        raise argparse.ArgumentTypeError(f"must be in (0, 1), got {text}")
    return p


def parse_p_or_zero(text: str) -> float:
    """Parse a probability of dropping, or 0 for no dropout."""
    p = parse_float(text)
    if not 0 <= p < 1:
        raise argparse.ArgumentTypeError(f"must be in [0, 1), got {text}")
    return p


def parse_output(text: str) -> Path:
    """Parse the path of an output file, and check before a long run that it can be written."""
    try:
        check_writable(Path(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return Path(text)


def parse_image(text: str) -> Path:
    """Parse the path of an image to be drawn."""
    if Path(text).suffix.lower() not in _IMAGE_SUFFIXES:
        raise argparse.ArgumentTypeError(f"{text}: suffix must be one of {', '.join(_IMAGE_SUFFIXES)}")
    return parse_output(text)


def _parse_integer(text: str, least: int) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < least:
        raise argparse.ArgumentTypeError(f"must be an integer of at least {least}, got {text!r}")
    return int(text)


def parse_float(text: str) -> float:
    """Parse a number."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, got {text!r}") from None


def add_option(
    parser: argparse.ArgumentParser, name: str, parse: Callable[[str], Any], default: Any, metavar: str, meaning: str
) -> None:
    """Add an option with a default."""
    parser.add_argument(
        f"--{name}", type=parse, default=default, metavar=metavar, help=f"{meaning} (default %(default)s)"
    )


def add_common_arguments(parser: argparse.ArgumentParser, name: str) -> None:
    """Add --hidden, --data, --classes, --plot, --table and --quiet; plot and table go by default beside the example."""
    add_option(parser, "hidden", parse_positive, 512, "N", "width of the hidden layers")
    add = parser.add_argument
    help_of_data = "folder of MNIST's idx files (default: the sample of MNIST)"
    add("--data", type=Path, default=SAMPLE, metavar="FOLDER", help=help_of_data)
    add_option(parser, "classes", parse_n_classes, N_CLASSES, "N", "number of classes of the data")
    for option, parse, suffix, what in (
        ("--plot", parse_image, ".png", "the plot: PNG, PDF or SVG"),
        ("--table", parse_output, ".md", "the table, as Markdown"),
    ):
        default = str(HERE / f"{name}{suffix}")
        add(option, type=parse, metavar="FILE", default=default, help=f"{what} (default: examples/{name}{suffix})")
    add("--quiet", action="store_true", help="show no progress bar")


def tabulate(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table whose columns are aligned to the right, also as plain text."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))} |"

    rule = f"|{'|'.join('-' * (width + 1) + ':' for width in widths)}|"
    return "\n".join([line(header), rule, *map(line, rows)])


def write_report(path: Path, title: str, program: str, argv: Sequence[str], report: str, plot: Path) -> None:
    """Write a title, the command line, the report it made and the plot into a Markdown file."""
    command = shlex.join(["python", f"examples/{program}", *argv])
    versions = f"cdropout {cd.__version__}, NumPy {np.__version__}"
    image = Path(os.path.relpath(plot, path.parent)).as_posix()
    text = f"# {title}\n\nMade with {versions} by\n\n    {command}\n\n{report}\n\n![{title}]({image})\n"
    write_file(path, text.encode())


def new_figure(width: float, height: float) -> Any:
    """Return a figure of that many inches, which needs no display."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure into an image file, of the format its suffix names."""
    write_figure(figure, path, dpi=130)
