"""Report training that diverges."""

import math

import numpy as np

from cdropout.command import CommandError


class DivergenceError(CommandError):
    """Report a training with numbers that are not finite; the message names the number, the step and the step size."""


def ignore_overflow() -> np.errstate:
    """Return a context in which NumPy does not warn of numbers that are not finite; `check_loss` reports the first."""
    return np.errstate(over="ignore", invalid="ignore", divide="ignore")


def check_loss(loss: float, step: int, lr: float) -> None:
    """Raise DivergenceError if the loss in nats of a step, counted from 1, is not finite.

    Parameters
    ----------
    loss : float
        The loss of the step, or of an evaluation after it.
    step : int
        The number of the step.
    lr : float
        The step size of the optimizer, for the message.

    """
    if not math.isfinite(loss):
        raise DivergenceError(f"loss must be finite, got {loss} at step {step} with a step size of {lr:g}")
