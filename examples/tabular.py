"""Train networks with dropout on tables of data, and look at how certain their predictions are.

    python examples/tabular.py [--seeds N] [--epochs N] [--plot FILE]

The first part learns 400 digits of scikit-learn's data set with and without dropout, and finds wrong predictions by
their uncertainty. The second part learns a curve that was measured in two places only, and draws the mean and the
spread over sub-networks. The third part counts how many targets of scikit-learn's diabetes data lie within two standard
deviations of the mean.
"""

import argparse
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_diabetes, load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from cdropout.sklearn import DropoutMLPClassifier, DropoutMLPRegressor

Array = npt.NDArray[Any]

N_DIGITS = 400
N_SUB_NETWORKS = 200


def compare_digits(n_seeds: int, epochs: int) -> tuple[dict[float, list[float]], Array, Array]:
    """Return the test errors for each p, and for p = 0.5 which test digits are wrong, and their uncertainty."""
    x, y = load_digits(return_X_y=True)
    errors: dict[float, list[float]] = {0.0: [], 0.5: []}
    for seed in range(n_seeds):
        x_train, x_test, y_train, y_test = train_test_split(
            x / 16, y, train_size=N_DIGITS, random_state=seed, stratify=y
        )
        for p, found in errors.items():
            options = {"batch_size": 50, "max_iter": epochs, "n_iter_no_change": epochs, "random_state": seed}
            classifier = DropoutMLPClassifier((256, 256), dropout=p, **options).fit(x_train, y_train)
            found.append(1 - classifier.score(x_test, y_test))
    uncertainty = classifier.predict_uncertainty(x_test, N_SUB_NETWORKS)
    wrong = classifier.classes_[uncertainty.proba.argmax(axis=1)] != y_test
    return errors, wrong, uncertainty.entropy


def fit_curve(epochs: int) -> tuple[Array, Array, Array, Array, Array]:
    """Return the measured points of a curve, and the mean and the spread of predictions from -3 to 3."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.uniform(-2, -0.7, 100), rng.uniform(0.7, 2, 100)])
    y = np.sin(2 * x) + 0.05 * rng.standard_normal(200)
    options = {"batch_size": 50, "learning_rate_init": 3e-3, "max_iter": 20 * epochs, "n_iter_no_change": 20 * epochs}
    regressor = DropoutMLPRegressor((128, 128), dropout=0.1, **options, random_state=0).fit(x[:, np.newaxis], y)
    line = np.linspace(-3, 3, 200)
    mean, std = regressor.predict(line[:, np.newaxis], return_std=True, n_samples=N_SUB_NETWORKS)
    return x, y, line, mean, std


def count_covered(epochs: int) -> tuple[float, float]:
    """Return the shares of test targets within two standard deviations: of the spread alone, and with the noise.

    The noise is estimated by the residuals of the training targets, which underestimate it.
    """
    x, y = load_diabetes(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(x, (y - y.mean()) / y.std(), random_state=0)
    model = make_pipeline(
        StandardScaler(), DropoutMLPRegressor((64, 64), dropout=0.2, max_iter=epochs, random_state=0)
    ).fit(x_train, y_train)
    scaled = model[:-1].transform(x_test)
    mean, std = model[-1].predict(scaled, return_std=True, n_samples=N_SUB_NETWORKS)
    noise = np.std(y_train - model.predict(x_train))
    return tuple(float(np.mean(np.abs(y_test - mean) <= 2 * each)) for each in (std, np.hypot(std, noise)))


def draw(curve: tuple[Array, ...], wrong: Array, entropy: Array, path: Path) -> None:
    """Draw the curve with its spread, and the test error among the most certain predictions."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    x, y, line, mean, std = curve
    left.fill_between(line, mean - 2 * std, mean + 2 * std, color="#c8102e", alpha=0.2, linewidth=0)
    left.plot(line, mean, color="#c8102e", linewidth=1.5)
    left.plot(x, y, ".", color="#333333", markersize=3)
    left.set(xlabel="x", ylabel="y", ylim=(-4, 4), title="mean ± 2 standard deviations over sub-networks")
    sorted_wrong = wrong[np.argsort(entropy)]
    kept = np.arange(1, len(wrong) + 1)
    right.plot(100 * kept / len(wrong), 100 * np.cumsum(sorted_wrong) / kept, color="#333333")
    right.set(xlabel="most certain predictions (%)", ylabel="wrong (%)", title="digits, by entropy", xlim=(0, 100))
    for axes in (left, right):
        axes.title.set_fontsize(10)
        axes.grid(color="#dddddd", linewidth=0.7)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def run(n_seeds: int, epochs: int, plot: Path | None) -> int:
    """Run the parts; return the exit status."""
    errors, wrong, entropy = compare_digits(n_seeds, epochs)
    print(f"Test error on digits, {N_DIGITS} learned, mean of {n_seeds} splits:")
    for p, found in errors.items():
        print(f"  dropout {p:g}: {100 * np.mean(found):.2f} %")
    order = np.argsort(entropy)
    half = len(wrong) // 2
    print(f"Wrong among the more certain half: {100 * wrong[order[:half]].mean():.2f} %, ", end="")
    print(f"among the others: {100 * wrong[order[half:]].mean():.2f} %")
    spread, both = count_covered(epochs)
    print(f"Diabetes: {100 * spread:.0f} % of the targets within 2 standard deviations over sub-networks, ", end="")
    print(f"{100 * both:.0f} % with the noise of the targets")
    if plot is not None:
        draw(fit_curve(epochs), wrong, entropy, plot)
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run the parts, print their figures and draw."""
    parser = argparse.ArgumentParser(prog="tabular.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="splits of the digits (default: 5)")
    parser.add_argument("--epochs", type=int, default=60, metavar="N", help="passes over the digits (default: 60)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw to this file; needs matplotlib")
    arguments = parser.parse_args(argv)
    for name in ("seeds", "epochs"):
        if getattr(arguments, name) < 1:
            parser.error(f"argument --{name}: must be at least 1, got {getattr(arguments, name)}")
    warnings.simplefilter("ignore", ConvergenceWarning)  # every network learns for a fixed number of epochs
    # One thread gives the same results on every machine, and the matrices are too small to gain from more.
    with threadpool_limits(1, user_api="blas"):
        return run(arguments.seeds, arguments.epochs, arguments.plot)


if __name__ == "__main__":
    sys.exit(main())
