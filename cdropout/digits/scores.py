"""Score a network on labelled images, and store the scores made during a training run."""

from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from cdropout.networks import softmax_loss

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Score:
    """Hold the mean cross-entropy in nats, the macro F1 and the accuracy on labelled images, with dropout off."""

    loss: float
    macro_f1: float
    accuracy: float


@dataclass(frozen=True)
class Evaluation:
    """Hold the scores after n_steps, on the test set and on as many images of the training set."""

    n_steps: int
    train: Score
    test: Score


def score_logits(logits: Array, labels: npt.NDArray[np.uint8]) -> Score:
    """Score logits (n_samples, n_classes) against labels (n_samples,)."""
    predictions = logits.argmax(axis=1)
    return Score(
        loss=softmax_loss(logits.copy(), labels),
        macro_f1=macro_f1(predictions, labels),
        accuracy=float(np.mean(predictions == labels)),
    )


def macro_f1(predictions: npt.NDArray[np.integer], labels: npt.NDArray[np.integer]) -> float:
    """Return the mean F1 score of the classes that are predicted or labels, each counted once whatever its size.

    The F1 score of a class is 2 n_correct / (n_predicted + n_labelled).
    """
    n_classes = 1 + max(int(predictions.max()), int(labels.max()))
    correct, predicted, labelled = (
        np.bincount(classes, minlength=n_classes) for classes in (labels[predictions == labels], predictions, labels)
    )
    n_both = predicted + labelled
    return float(np.mean(2 * correct[n_both > 0] / n_both[n_both > 0]))


def as_saved(evaluations: list[Evaluation]) -> list[dict[str, Any]]:
    """Return evaluations as values that JSON can hold."""
    return [asdict(evaluation) for evaluation in evaluations]


def from_saved(saved: Any, n_steps: int) -> list[Evaluation]:
    """Return the evaluations that `as_saved` turned into a value.

    Parameters
    ----------
    saved : object
        The value as read from a file; it may be anything.
    n_steps : int
        How many steps the run had made.

    Raises
    ------
    ValueError
        Where the value is not one that `as_saved` returns, or not one of a run with n_steps; the message names it.

    """
    if not isinstance(saved, list):
        raise ValueError(f"evaluations {saved!r}")
    evaluations: list[Evaluation] = []
    for each in saved:
        _check_names(each, Evaluation)
        least = evaluations[-1].n_steps + 1 if evaluations else 1
        if type(each["n_steps"]) is not int or not least <= each["n_steps"] <= n_steps:
            raise ValueError(f"an evaluation after n_steps {each['n_steps']!r}")
        evaluations.append(Evaluation(each["n_steps"], _score_from(each["train"]), _score_from(each["test"])))
    return evaluations


def _score_from(saved: Any) -> Score:
    _check_names(saved, Score)
    for name, value in saved.items():
        # A run whose weights have overflowed has a loss of NaN or infinity, and continues.
        is_possible = type(value) is float and (not value < 0 if name == "loss" else 0 <= value <= 1)
        if not is_possible:
            raise ValueError(f"{name} {value!r}")
    return Score(**saved)


def _check_names(saved: Any, of: type[Score] | type[Evaluation]) -> None:
    names = [field.name for field in fields(of)]
    if not isinstance(saved, dict) or set(saved) != set(names):
        raise ValueError(f"{saved!r} for {', '.join(names)} of an evaluation")
