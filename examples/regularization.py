"""Compare the test errors of a network trained on few digits, with dropout and without.

    python examples/regularization.py [--p P] [--p-input P] [--epochs N] [--seeds N] [--digits N] [--plot FILE] ...

A network 784-512-512-10 with ReLU overfits 1,000 digits of MNIST. It is trained without dropout and with it, from the
same initial weights, on the same digits in the same order, for the same number of steps, and for several seeds. The
test errors after the last step are compared: the exit status is 1 unless dropout makes their mean smaller.
"""

import argparse
import functools
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits
from tqdm import tqdm

import digit_network as common
from cdropout.command import run_command
from cdropout.digits.data import DataError, Dataset, LabelledImages, load_dataset
from cdropout.digits.files import write_file
from cdropout.digits.training import evaluate

PROG = "regularization.py"
TITLE = "Test error with and without dropout"


@dataclass(frozen=True)
class Comparison:
    """Hold test errors, in [0, 1], after each epoch.

    Attributes
    ----------
    seeds : list of int
        The seed of each row.
    without, with_dropout : ndarray of float64, shape (n_seeds, n_epochs)

    """

    seeds: list[int]
    without: npt.NDArray[np.float64]
    with_dropout: npt.NDArray[np.float64]

    @property
    def differences(self) -> npt.NDArray[np.float64]:
        """The error with dropout minus that without, after the last epoch, of each seed (n_seeds,)."""
        return self.with_dropout[:, -1] - self.without[:, -1]


def compare(
    data: Dataset,
    seeds: list[int],
    *,
    p: float = 0.5,
    p_input: float = 0.2,
    epochs: int = 60,
    n_digits: int = 1000,
    hidden: int = 512,
    progress: bool = False,
) -> Comparison:
    """Train two networks for each seed, one of them with dropout.

    Parameters
    ----------
    data : Dataset
        Its whole test set is used.
    seeds : list of int
        Each seeds digits, weights, order and masks.
    p, p_input : float
        The probability of dropping a hidden unit, and a pixel, in [0, 1).
    epochs : int
        Passes over the digits, at least 1.
    n_digits : int
        The number of training digits, from 1 to all.
    hidden : int
        The width of the hidden layers.
    progress : bool
        Whether to show a progress bar on stderr.

    """
    errors = np.zeros((2, len(seeds), epochs))
    with tqdm(total=errors.size, unit="epoch", disable=not progress, file=sys.stderr) as bar:
        for row, seed in enumerate(seeds):
            choice, weights, order, masks = np.random.SeedSequence(seed).spawn(4)
            chosen = np.random.default_rng(choice).choice(len(data.train), n_digits, replace=False)
            digits = LabelledImages(data.train.images[chosen], data.train.labels[chosen])
            for i, probabilities in enumerate(({}, {"p": p, "p_input": p_input})):
                network = common.build_network(data, weights, masks, hidden=hidden, **probabilities)
                for epoch, loss in enumerate(common.train_epochs(network, digits, epochs, order)):
                    errors[i, row, epoch] = 1 - evaluate(network, data.test).accuracy
                    bar.set_postfix_str(f"seed {seed}, loss {loss:.4f}", refresh=False)
                    bar.update()
    return Comparison(seeds, *errors)


def describe(comparison: Comparison) -> str:
    """Return the test errors after the last epoch as a table, in per cent."""
    columns = 100 * np.stack([comparison.without[:, -1], comparison.with_dropout[:, -1], comparison.differences])
    rows = [
        [str(seed), f"{without:.2f}", f"{with_:.2f}", f"{difference:+.2f}"]
        for seed, without, with_, difference in zip(comparison.seeds, *columns, strict=True)
    ]
    without, with_, difference = columns.mean(axis=1)
    rows.append(["mean", f"{without:.2f}", f"{with_:.2f}", f"{difference:+.2f}"])
    if len(comparison.seeds) > 1:
        rows.append(["standard deviation", *(f"{deviation:.2f}" for deviation in columns.std(axis=1, ddof=1))])
    return common.tabulate(["seed", "without dropout, %", "with dropout, %", "difference, points"], rows)


def draw(comparison: Comparison, title: str, path: Path) -> None:
    """Draw the test errors over the epochs: the mean over the seeds, and a standard deviation on either side."""
    figure = common.new_figure(8, 4.8)
    axes = figure.subplots()
    epochs = np.arange(1, comparison.without.shape[1] + 1)
    n_seeds = len(comparison.seeds)
    for errors, name, colour in (
        (comparison.without, "without dropout", "#555555"),
        (comparison.with_dropout, "with dropout", "#c8102e"),
    ):
        mean = 100 * errors.mean(axis=0)
        axes.plot(epochs, mean, color=colour, linewidth=1.8)
        if n_seeds > 1:
            deviation = 100 * errors.std(axis=0, ddof=1)
            axes.fill_between(epochs, mean - deviation, mean + deviation, color=colour, alpha=0.18, linewidth=0)
        axes.annotate(
            f"{name}: {mean[-1]:.1f} %",
            (epochs[-1], mean[-1]),
            (8, 0),
            textcoords="offset points",
            color=colour,
            verticalalignment="center",
            annotation_clip=False,
        )
    last = 100 * np.stack([comparison.without[:, -1], comparison.with_dropout[:, -1]])
    # Cut off the large errors of the first epochs.
    axes.set_ylim(max(0.0, last.min() - 2), last.max() + 8)
    axes.set_xlim(0, epochs[-1])
    spread = f"mean and standard deviation of {n_seeds} seeds" if n_seeds > 1 else "one seed"
    axes.set(xlabel="epoch", ylabel="test error (%)")
    axes.set_title(f"{title}\n{spread}", loc="left", fontsize=11)
    axes.grid(color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    common.save_figure(figure, path)


def main(argv: list[str] | None = None) -> int:
    """Compare as the command line says; 0, 1 where dropout is not better in the mean, or 2 for bad data."""
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog=PROG, description=__doc__.splitlines()[0])
    add = functools.partial(common.add_option, parser)
    add("p", common.parse_p, 0.5, "P", "probability of dropping a unit")
    add("p-input", common.parse_p_or_zero, 0.2, "P", "probability of dropping a pixel")
    add("epochs", common.parse_positive, 60, "N", "passes over the digits")
    add("seeds", common.parse_positive, 5, "N", "how many")
    add("seed", common.parse_natural, 0, "N", "the first")
    add("digits", common.parse_positive, 1000, "N", "to train on")
    parser.add_argument("--json", type=common.parse_output, metavar="FILE", help="write the test errors of all epochs")
    common.add_common_arguments(parser, "regularization")
    args = parser.parse_args(argv)
    try:
        data = load_dataset(args.data, args.classes)
    except DataError as error:
        print(f"{PROG}: error: {error}", file=sys.stderr)
        return 2
    if args.digits > len(data.train):
        parser.error(f"argument --digits: must be at most {len(data.train)}, got {args.digits}")
    options = {
        "p": args.p,
        "p_input": args.p_input,
        "epochs": args.epochs,
        "n_digits": args.digits,
        "hidden": args.hidden,
    }
    # One thread gives the same results on every machine, and the matrices are too small to gain much from more.
    with threadpool_limits(1, user_api="blas"):
        comparison = compare(data, list(range(args.seed, args.seed + args.seeds)), **options, progress=not args.quiet)
    table = describe(comparison)
    widths = f"{data.n_pixels}-{args.hidden}-{args.hidden}-{data.n_classes}"
    setting = f"{args.digits:,} digits, dropout p = {args.p:g} (input {args.p_input:g})"
    report = (
        f"{widths} with ReLU, trained on {args.digits:,} digits for {args.epochs} epochs (Adam, step size "
        f"{common.LEARNING_RATE:g}, batches of {common.BATCH}):\n"
        f"without dropout, and with p = {args.p:g} after each hidden layer and {args.p_input:g} on the pixels. "
        f"The errors are those on\n{len(data.test):,} test digits after the last epoch; the difference is that with "
        f"dropout minus that without.\n\n{table}"
    )
    try:
        draw(comparison, f"{widths}, ReLU, {setting}", args.plot)
        common.write_report(args.table, TITLE, PROG, argv, report, args.plot)
        if args.json is not None:
            fields = {name: value if name == "seeds" else value.tolist() for name, value in asdict(comparison).items()}
            text = json.dumps({**options, "n_test_digits": len(data.test), **fields}, indent=1) + "\n"
            write_file(args.json, text.encode())
    finally:
        print(table)
    if comparison.differences.mean() >= 0:
        print(f"{PROG}: dropout must make the test error smaller in the mean, and did not", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, PROG))
