"""Measure predictive uncertainty by Monte Carlo dropout, on digits that are rotated up to 180 degrees.

    python examples/uncertainty.py [--p P] [--epochs N] [--samples N] [--digits N] [--step DEGREES] [--plot FILE] ...

A network 784-512-512-10 with ReLU and dropout learns upright digits of MNIST, and then sees test digits rotated by 0 to
180 degrees. With dropout off it gives one vector of probabilities for each; with dropout on, `cdropout.mc_predict`
gives the mean and the spread over many sampled sub-networks. A network trained without dropout stands beside it.
"""

import argparse
import functools
import sys
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import rotate
from threadpoolctl import threadpool_limits
from tqdm import tqdm

import cdropout as cd
import digit_network as common
from cdropout.command import run_command
from cdropout.digits.data import DataError, Dataset, load_dataset, pixels
from cdropout.networks import MLP, softmax

PROG = "uncertainty.py"
TITLE = "Predictive uncertainty on rotated digits"

_STRIP_POINTS = 640  # the width of the strip of one digit's images


@dataclass(frozen=True)
class Prediction:
    """Hold the predictions for images at one angle.

    Attributes
    ----------
    plain : ndarray of float64, shape (n_images, n_classes)
        The probabilities of a network trained without dropout.
    off : ndarray of float64, shape (n_images, n_classes)
        The probabilities of the network with dropout, switched off.
    mean, std : ndarray of float64, shape (n_images, n_classes)
        The mean and standard deviation of the probabilities over the samples of the same network, with dropout on.

    """

    plain: npt.NDArray[np.float64]
    off: npt.NDArray[np.float64]
    mean: npt.NDArray[np.float64]
    std: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Summary:
    """Hold means over the images at one angle.

    Attributes
    ----------
    angle : int
        In degrees.
    accuracy : float
        The share of images whose class has the largest mean probability.
    plain_confidence, off_confidence, mc_confidence : float
        The largest probability of the network without dropout, with dropout off, and of the Monte Carlo mean.
    mc_std : float
        The standard deviation, over the samples, of the probability of the predicted class.
    entropy : float
        The entropy of the Monte Carlo mean, in nats: from 0 to log(n_classes).

    """

    angle: int
    accuracy: float
    plain_confidence: float
    off_confidence: float
    mc_confidence: float
    mc_std: float
    entropy: float


def rotate_images(images: npt.NDArray[np.uint8], angle: int) -> npt.NDArray[np.uint8]:
    """Rotate images (n_images, n_rows, n_cols) counterclockwise by degrees about their centres, filling up with 0."""
    return rotate(images, angle, axes=(2, 1), reshape=False, order=1)


def train_networks(
    data: Dataset, seed: int, *, p: float, epochs: int, hidden: int = 512, progress: bool = False
) -> tuple[MLP, MLP]:
    """Train a network without dropout and one with it, from the same weights on the same order of digits.

    Parameters
    ----------
    data : Dataset
        Its whole training set is used.
    seed : int
        The seed of weights, order and masks.
    p : float
        The probability of dropping a hidden unit, in (0, 1).
    epochs : int
        Passes over the training set, at least 1.
    hidden : int
        The width of the hidden layers.
    progress : bool
        Whether to show a progress bar on stderr.

    Returns
    -------
    plain, network : MLP
        Both in evaluation mode.

    """
    weights, order, masks = np.random.SeedSequence(seed).spawn(3)
    plain = common.build_network(data, weights, masks, hidden=hidden)
    network = common.build_network(data, weights, masks, hidden=hidden, p=p)
    with tqdm(total=2 * epochs, unit="epoch", desc="training", disable=not progress, file=sys.stderr) as bar:
        for trainee in (plain, network):
            for loss in common.train_epochs(trainee, data.train, epochs, order):
                bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
                bar.update()
            trainee.eval()
    return plain, network


def predict(plain: MLP, network: MLP, x: npt.NDArray[np.float32], *, n_samples: int, seed: int) -> Prediction:
    """Predict the classes of rows of pixels (n_images, n_pixels), in the three ways."""

    def forward(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        return softmax(network.forward(x))

    # The same seed at every angle gives the same sub-networks, so that curves over angles are smooth.
    mean, std = cd.mc_predict(forward, x, n_samples, layers=network.dropouts, rng=seed)
    return Prediction(softmax(plain.forward(x)), forward(x), mean, std)


def summarize(angle: int, prediction: Prediction, labels: npt.NDArray[np.uint8]) -> Summary:
    """Average a prediction over its images."""
    mean = prediction.mean
    predicted = mean.argmax(axis=1)
    # A probability of 0 adds nothing to the entropy, and its logarithm is not finite.
    terms = mean * np.log(np.where(mean > 0, mean, 1))
    return Summary(
        angle,
        accuracy=float((predicted == labels).mean()),
        plain_confidence=float(prediction.plain.max(axis=1).mean()),
        off_confidence=float(prediction.off.max(axis=1).mean()),
        mc_confidence=float(mean.max(axis=1).mean()),
        mc_std=float(prediction.std[np.arange(len(mean)), predicted].mean()),
        entropy=float(-terms.sum(axis=1).mean()),
    )


def describe(summaries: Sequence[Summary]) -> str:
    """Return the summaries as a table."""
    header = ["angle, degrees", "accuracy"]
    header += [f"confidence, {of}" for of in ("no dropout", "dropout off", "MC")] + ["std, MC", "entropy, MC, nats"]
    rows = [
        [str(summary.angle), *(f"{value:.3f}" for value in astuple(summary)[1:])]  # the fields, in the header's order
        for summary in summaries
    ]
    return common.tabulate(header, rows)


def draw(
    summaries: Sequence[Summary], turned: npt.NDArray[np.uint8], prediction: Prediction, title: str, path: Path
) -> None:
    """Draw the summaries over the angle, and one digit at each angle with what is predicted for it.

    Parameters
    ----------
    summaries : sequence of Summary
        One for each angle.
    turned : ndarray of uint8, shape (n_angles, n_rows, n_cols)
        The one digit.
    prediction : Prediction
        For each row of `turned`.
    title : str
        The title of the figure.
    path : Path
        An image file of the format its suffix names.

    """
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    figure = common.new_figure(10.5, 9)
    top, bottom = figure.subfigures(2, 1, height_ratios=(1, 1.3))
    top.suptitle(title, fontsize=12)
    angles = [summary.angle for summary in summaries]
    left, right = top.subplots(1, 2)
    markers = {"marker": "o", "markersize": 3.5}
    for name, label, colour, dashes in (
        ("plain_confidence", "confidence, trained without dropout", "#8c8c8c", "-"),
        ("off_confidence", "confidence, dropout off", "#1f77b4", "-"),
        ("mc_confidence", "confidence, Monte Carlo mean", "#c8102e", "-"),
        ("accuracy", "accuracy, Monte Carlo mean", "#222222", "--"),
    ):
        values = [getattr(summary, name) for summary in summaries]
        left.plot(angles, values, color=colour, linestyle=dashes, label=label, **markers)
    left.set(ylabel="mean over the digits", ylim=(0, 1.02))
    # The legend stands between the confidences, which stay high, and the accuracy, which does not.
    left.legend(frameon=False, fontsize=8.5, loc="center right", bbox_to_anchor=(1, 0.42))
    left.set_title("How often right, and how sure", loc="left", fontsize=11)
    for name, label, colour in (
        ("entropy", "entropy of the mean (nats)", "#c8102e"),
        ("mc_std", "standard deviation of the\npredicted class's probability", "#e07b00"),
    ):
        right.plot(angles, [getattr(summary, name) for summary in summaries], color=colour, label=label, **markers)
    right.set(ylabel="mean over the digits", ylim=(0, None))
    right.legend(frameon=False, fontsize=8.5, loc="center right", bbox_to_anchor=(1, 0.48))
    right.set_title("Uncertainty by Monte Carlo dropout", loc="left", fontsize=11)
    for axes in (left, right):
        _finish(axes, angles)

    strip, lines = bottom.subplots(2, 1, height_ratios=(1, 4), sharex=True)
    half = (angles[1] - angles[0]) / 2 if len(angles) > 1 else 90
    # Offset boxes stay square whatever the axes do; each is as wide as the distance between two angles.
    zoom = min(0.9 * _STRIP_POINTS / len(angles), 50) / turned.shape[1]
    for angle, image in zip(angles, turned, strict=True):
        box = OffsetImage(image, zoom=zoom, cmap="gray_r")
        strip.add_artist(AnnotationBbox(box, (angle, 0.5), frameon=False, pad=0))
    strip.set(ylim=(0, 1), yticks=[])
    strip.tick_params(bottom=False, labelbottom=False)
    strip.spines[:].set_visible(False)
    strip.set_title("One digit: the probabilities of its classes", loc="left", fontsize=11)
    # A class has the same colour in every plot.
    colours = [f"C{i}" for i in range(10)]
    shown = np.flatnonzero(prediction.mean.max(axis=0) >= 0.2)
    for class_ in shown:
        mean, std, colour = prediction.mean[:, class_], prediction.std[:, class_], colours[class_ % 10]
        lines.plot(angles, mean, color=colour, label=str(class_), **markers)
        lines.fill_between(
            angles, np.maximum(mean - std, 0), np.minimum(mean + std, 1), color=colour, alpha=0.13, linewidth=0
        )
        lines.plot(angles, prediction.off[:, class_], color=colour, linestyle=":", linewidth=1.2)
    lines.plot([], [], color="#555555", linestyle=":", linewidth=1.2, label="dropout off")
    lines.set(xlabel="angle (degrees)", ylabel="probability", ylim=(0, 1.02), xlim=(-half, angles[-1] + half))
    lines.legend(
        frameon=False,
        fontsize=8.5,
        loc="upper left",
        bbox_to_anchor=(1, 1),
        title="class: mean\nand std, MC",
        title_fontsize=8.5,
    )
    _finish(lines, angles)
    common.save_figure(figure, path)


def _finish(axes: Any, angles: Sequence[int]) -> None:
    axes.set(xlabel="angle (degrees)", xticks=angles if len(angles) <= 13 else angles[::2])
    axes.tick_params(axis="x", labelsize=8.5)
    axes.grid(color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def parse_step(text: str) -> int:
    """Parse a number of degrees that divides 180."""
    step = common.parse_positive(text)
    if 180 % step:
        raise argparse.ArgumentTypeError(f"must divide 180, got {step}")
    return step


def main(argv: list[str] | None = None) -> int:
    """Train and predict as the command line says; 0, or 2 for bad data."""
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog=PROG, description=__doc__.splitlines()[0])
    add = functools.partial(common.add_option, parser)
    add("p", common.parse_p, 0.5, "P", "probability of dropping a unit")
    add("epochs", common.parse_positive, 10, "N", "passes of training")
    add("samples", common.parse_positive, 100, "N", "sub-networks")
    add("digits", common.parse_positive, 1000, "N", "test digits to rotate")
    add("step", parse_step, 15, "DEGREES", "between two angles")
    add("seed", common.parse_natural, 0, "N", "of weights, order, masks")
    add("show", common.parse_natural, 1, "CLASS", "draw the first of it")
    common.add_common_arguments(parser, "uncertainty")
    args = parser.parse_args(argv)
    try:
        data = load_dataset(args.data, args.classes)
    except DataError as error:
        print(f"{PROG}: error: {error}", file=sys.stderr)
        return 2
    if args.digits > len(data.test):
        parser.error(f"argument --digits: must be at most {len(data.test)}, got {args.digits}")
    if args.show not in data.test.labels:
        parser.error(f"argument --show: must be a class of the test set, got {args.show}")
    chosen = np.sort(np.random.default_rng(args.seed).choice(len(data.test), args.digits, replace=False))
    images, labels = data.test.images[chosen], data.test.labels[chosen]
    shown = data.test.images[data.test.labels == args.show][:1]
    angles = range(0, 181, args.step)

    # One thread gives the same results on every machine, and the matrices are too small to gain much from more.
    with threadpool_limits(1, user_api="blas"):
        networks = train_networks(
            data, args.seed, p=args.p, epochs=args.epochs, hidden=args.hidden, progress=not args.quiet
        )
        summaries = []
        for angle in tqdm(angles, unit="angle", desc="predicting", disable=args.quiet, file=sys.stderr):
            x = pixels(rotate_images(images, angle))
            prediction = predict(*networks, x, n_samples=args.samples, seed=args.seed)
            summaries.append(summarize(angle, prediction, labels))
        turned = np.concatenate([rotate_images(shown, angle) for angle in angles])
        of_shown = predict(*networks, pixels(turned), n_samples=args.samples, seed=args.seed)

    table = describe(summaries)
    widths = f"{data.n_pixels}-{args.hidden}-{args.hidden}-{data.n_classes}"
    title = f"{widths}, ReLU, dropout p = {args.p:g}; {args.digits:,} test digits, {args.samples:,} samples"
    report = (
        f"{widths} with ReLU, trained on {len(data.train):,} upright digits for {args.epochs} epochs (Adam, step size "
        f"{common.LEARNING_RATE:g}, batches of {common.BATCH}),\n"
        f"without dropout and with p = {args.p:g} after each hidden layer. It predicts {args.digits:,} test digits, "
        "rotated counterclockwise.\n"
        f"MC is the mean over {args.samples:,} sub-networks sampled by `cdropout.mc_predict`. Accuracy is that of MC; "
        "confidence is the\nlargest probability; std is the standard deviation, over the sub-networks, of the "
        "probability of the predicted class;\nentropy is that of MC. All are means over the digits.\n\n"
        f"{table}"
    )
    try:
        draw(summaries, turned, of_shown, title, args.plot)
        common.write_report(args.table, TITLE, PROG, argv, report, args.plot)
    finally:
        print(table)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, PROG))
