"""The program of `python -m cdropout train` and examples/mnist/train.py: options, a training run, and its scores.

The network is 784-512-512-10 with dropout after the second layer, and by default without activations between layers. A
run that is killed and resumed from its checkpoint ends with the same weights, bit for bit.
"""

import argparse
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np

from .checkpoint import CheckpointError, Checkpoints, check_checkpoint_path
from .curves import check_plot_path, plot_curves
from .data import N_CLASSES, DataError, Dataset, check_n_classes, load_dataset
from .training import DROPOUTS, Config, Result, train

_PLOT_EVALUATIONS_PER_EPOCH = 10


def name_run(config: Config, data: Dataset) -> str:
    """Return the network, the dropout and the seed of a run as one line."""
    widths = f"{data.n_pixels}-{config.hidden}-{config.hidden}-{data.n_classes}"
    kind = "no dropout" if config.dropout == "none" else f"{config.dropout} dropout, p = {config.p:g}"
    return f"{widths}, {'ReLU, ' if config.relu else ''}{kind}, seed {config.seed}"


def describe(result: Result) -> str:
    """Return the lines that a run prints at its end."""
    step_ms = 1e3 * result.step_seconds
    lines = [
        f"macro F1  {result.test.macro_f1:.4f}",
        f"accuracy  {result.test.accuracy:.4f}",
        f"step      {step_ms.mean():.3f} ms mean, {np.median(step_ms):.3f} ms median",
    ]
    if not math.isnan(result.dropout_share):
        lines.append(f"dropout   {100 * result.dropout_share:.2f} % of a step")
    return "\n".join(lines)


def add_options(parser: argparse.ArgumentParser, *, data: Path | None, data_name: str) -> None:
    """Add the options of a run to a parser.

    Parameters
    ----------
    parser : ArgumentParser
        Its help gets the options.
    data : Path or None
        The source of the images, for `load_dataset`, where no option gives another.
    data_name : str
        The name of these images in the help.

    """
    add = parser.add_argument
    add("--dropout", choices=tuple(DROPOUTS), default=Config.dropout, help="kind of dropout (default %(default)s)")
    for name, meaning in (
        ("p", "probability of dropping"),
        ("epochs", "passes over the training set"),
        ("batch", "samples in a step"),
        ("lr", "step size of Adam"),
        ("l2", "weight decay"),
        ("hidden", "width of the hidden layers"),
        ("seed", "seed of weights, order and masks"),
    ):
        default = getattr(Config, name)
        add(f"--{name}", type=type(default), default=default, help=f"{meaning} (default %(default)s)")
    add("--relu", action="store_true", help="put a ReLU after each hidden layer")
    help_of_data = f"folder of MNIST's idx files, or an npz file of make_sample.py (default: {data_name})"
    add("--data", type=Path, default=data, metavar="PATH", help=help_of_data)
    add("--classes", type=int, default=N_CLASSES, metavar="N", help="classes of the data (default %(default)s)")
    add("--plot", type=Path, metavar="FILE", help="draw the curves of loss and macro F1 into this image file")
    add("--checkpoint", type=Path, metavar="FILE", help="save the state of the run in this file, replacing its content")
    add("--resume", action="store_true", help="continue from the checkpoint, if it exists")
    add("--checkpoint-every", type=int, metavar="N", help=f"steps between checkpoints (default {Checkpoints.every})")
    add("--quiet", action="store_true", help="show no progress bar")


def run(parser: argparse.ArgumentParser, options: dict[str, Any]) -> int:
    """Train as the options say, and print the scores; 0, or 2 for a bad data file or checkpoint.

    Parameters
    ----------
    parser : ArgumentParser
        Reports bad options; its name begins the messages.
    options : dict
        The values of the options that `add_options` has added, by name.

    Raises
    ------
    CommandError
        Where the training diverges or the plot cannot be written.

    """
    args = dict(options)
    source, n_classes, plot, quiet = (args.pop(name) for name in ("data", "classes", "plot", "quiet"))
    checkpoint, resume, every = (args.pop(name) for name in ("checkpoint", "resume", "checkpoint_every"))
    if checkpoint is None and (resume or every is not None):
        parser.error(f"argument --{'resume' if resume else 'checkpoint-every'} must come with --checkpoint, got none")
    checkpoints = None
    try:
        config = Config(**args)
        check_n_classes(n_classes)
        if checkpoint is not None:
            checkpoints = Checkpoints(checkpoint, Checkpoints.every if every is None else every, resume)
    except ValueError as error:
        parser.error(f"argument --{error}")
    for option, path, check in (("plot", plot, check_plot_path), ("checkpoint", checkpoint, check_checkpoint_path)):
        if path is not None:
            try:
                check(path)
            except ValueError as error:
                parser.error(f"argument --{option}: {error}")
    evaluations_per_epoch = 0 if plot is None else _PLOT_EVALUATIONS_PER_EPOCH
    try:
        data = load_dataset(source, n_classes)
        name = name_run(config, data)
        if not quiet:
            print(f"{name}; {len(data.train):,} training and {len(data.test):,} test images", file=sys.stderr)
        result = train(
            config,
            data,
            evaluations_per_epoch=evaluations_per_epoch,
            progress=not quiet,
            checkpoints=checkpoints,
        )
    except (CheckpointError, DataError) as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    # A reader that closes standard output does not keep the plot from being drawn, nor a full disk the scores.
    try:
        if plot is not None:
            plot_curves(result, name, plot)
    finally:
        print(describe(result))
    return 0
