"""Plot the curves of a training run: loss and macro F1 over the steps."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .files import check_writable, write_figure

if TYPE_CHECKING:
    from .training import Result


def plot_curves(result: "Result", title: str, path: Path) -> None:
    """Draw the loss and the macro F1 over the steps into an image file, of the format its suffix names."""
    from matplotlib.figure import Figure

    steps = np.arange(1, len(result.losses) + 1)
    window = max(1, min(len(steps) // 20, 50))
    # Each point is the mean of the window before it. Windows are shorter at the start: the line covers all steps.
    sums = np.concatenate([[0.0], np.cumsum(result.losses)])
    starts = np.maximum(steps - window, 0)
    smooth = (sums[steps] - sums[starts]) / (steps - starts)
    evaluated = [evaluation.n_steps for evaluation in result.evaluations]

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    loss_axes, f1_axes = figure.subplots(1, 2)
    train_colour, test_colour = "tab:blue", "tab:orange"
    points = {"marker": "o", "markersize": 4, "clip_on": False}
    loss_axes.plot(steps, result.losses, color=train_colour, alpha=0.25, linewidth=0.7, label="training, each batch")
    loss_axes.plot(steps, smooth, color=train_colour, linewidth=1.6, label=f"training, mean of {window}")
    test_losses = [evaluation.test.loss for evaluation in result.evaluations]
    loss_axes.plot(evaluated, test_losses, color=test_colour, **points, label="test, dropout off")
    loss_axes.set(title="Loss", ylabel="cross-entropy (nats)", ylim=(0, None))
    for name, colour in (("train", train_colour), ("test", test_colour)):
        f1 = [getattr(evaluation, name).macro_f1 for evaluation in result.evaluations]
        label = "test" if name == "test" else "training, dropout off"
        f1_axes.plot(evaluated, f1, color=colour, **points, label=label)
    f1_axes.set(title="Macro F1", ylabel="macro F1")
    for axes in (loss_axes, f1_axes):
        axes.set(xlabel="step", xlim=(0, len(steps)))
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title)
    write_figure(figure, path, dpi=150)


def check_plot_path(path: Path) -> None:
    """Check before a long run that the plot can be written.

    Raises
    ------
    ValueError
        Naming path, rule and value.

    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError(f"{path}: a plot needs matplotlib, got {error}") from None
    formats = Figure().canvas.get_supported_filetypes()
    if path.suffix and path.suffix[1:].lower() not in formats:
        raise ValueError(f"{path}: suffix must be one of {', '.join(sorted(formats))}, got {path.suffix}")
    check_writable(path)
