"""Train a small NumPy network on MNIST with dropout; print its macro F1 and dropout's share of the time.

    python examples/mnist/train.py [--dropout KIND] [--p P] [--data FOLDER] [--plot FILE]
                                   [--checkpoint FILE [--resume] [--checkpoint-every N]] ...

The network is 784-512-512-10 with dropout after the second layer, and by default without activations between layers. A
run that is killed and resumed from its checkpoint ends with the same weights, bit for bit.
"""

import argparse
import math
import sys
from pathlib import Path

import numpy as np

from cdropout.command import run_command
from digits.checkpoint import CheckpointError, Checkpoints, check_checkpoint_path
from digits.curves import check_plot_path, plot_curves
from digits.data import N_CLASSES, DataError, check_n_classes, load_dataset
from digits.training import DROPOUTS, Config, Result, train

PROG = "train.py"

_PLOT_EVALUATIONS_PER_EPOCH = 10


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


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = argparse.ArgumentParser(prog=PROG, description="Train a NumPy network on MNIST with dropout.")
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
    add("--data", type=Path, metavar="FOLDER", help="folder of idx files (default: the sample of MNIST)")
    add("--classes", type=int, default=N_CLASSES, metavar="N", help="classes of the data (default %(default)s)")
    add("--plot", type=Path, metavar="FILE", help="draw the curves of loss and macro F1 into this image file")
    add("--checkpoint", type=Path, metavar="FILE", help="save the state of the run in this file, replacing its content")
    add("--resume", action="store_true", help="continue from the checkpoint, if it exists")
    add("--checkpoint-every", type=int, metavar="N", help=f"steps between checkpoints (default {Checkpoints.every})")
    add("--quiet", action="store_true", help="show no progress bar")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Train as the command line says; 0, or 2 for a bad data file or checkpoint.

    Raises
    ------
    CommandError
        Where the training diverges or the plot cannot be written.

    """
    parser = build_parser()
    args = vars(parser.parse_args(argv))
    folder, n_classes, plot, quiet = (args.pop(name) for name in ("data", "classes", "plot", "quiet"))
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
        data = load_dataset(folder, n_classes)
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
    # A reader that closes standard output does not keep the plot from being drawn, nor a full disk the scores.
    try:
        if plot is not None:
            widths = f"{data.n_pixels}-{config.hidden}-{config.hidden}-{data.n_classes}"
            kind = "no dropout" if config.dropout == "none" else f"{config.dropout} dropout, p = {config.p:g}"
            plot_curves(result, f"{widths}, {'ReLU, ' if config.relu else ''}{kind}, seed {config.seed}", plot)
    finally:
        print(describe(result))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, PROG))
