"""The training loop of the estimators, with checkpoints."""

import hashlib
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from copy import copy
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning

from cdropout.digits.checkpoint import (
    CheckpointError,
    check_checkpoint_path,
    lock_checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from cdropout.networks import MLP, SGD, Adam, Loss, train_step
from cdropout.sklearn.parameters import Rates
from cdropout.sklearn.progress import Progress
from cdropout.sklearn.samples import Samples

Array = npt.NDArray[Any]

CHECKPOINT_FORMAT = "cdropout estimator checkpoint 1"
CHECKPOINT_FIELDS = {"format", "run", "data", "history", "rng", "order_rng"}
# Seconds between two checkpoints within a fit. Writing one takes about 20 ms for a million weights.
CHECKPOINT_SECONDS = 10.0

# Parameters that do not change the result of a fit; `describe_run` treats the seed separately.
_NOT_OF_A_RUN = ("checkpoint", "verbose", "random_state")


class Training:
    """One call of `fit` or `partial_fit`.

    Parameters
    ----------
    estimator : estimator
        Read only: its parameters.
    network : MLP
        Trained in place.
    loss : callable
        One of `cdropout.networks`.
    samples, validation : Samples
        What is learned; what is scored after each epoch, None without early stopping.
    score : callable
        Takes the validation samples, returns their score.
    batch_size : int
        Samples in a step.
    order_rng : RandomState
        Draws the order of the samples of each epoch.
    max_epochs : int
        The most epochs of this call.
    is_partial : bool
        Whether the call is one of `partial_fit`, which goes on later: no weights are kept as the best, and it does not
        converge.

    Attributes
    ----------
    history : dict
        What JSON can hold of the state: numbers of epochs and samples, losses and scores.
    best : list of ndarray
        Copies of the network's state after the epoch with the best validation score, or with the lowest training loss.

    """

    def __init__(
        self,
        estimator: Any,
        network: MLP,
        loss: Loss,
        samples: Samples,
        validation: Samples | None,
        score: Callable[[Samples], float],
        *,
        batch_size: int,
        order_rng: np.random.RandomState,
        max_epochs: int,
        is_partial: bool = False,
    ) -> None:
        self.estimator, self.network, self.loss = estimator, network, loss
        self.samples, self.validation, self.score = samples, validation, score
        self.batch_size, self.order_rng = batch_size, order_rng
        self.max_epochs, self.is_partial = max_epochs, is_partial
        self.optimizer = _make_optimizer(estimator, network)
        self.order = np.arange(len(samples))
        self.best = [] if is_partial else [array.copy() for array in network.state]
        self.history: dict[str, Any] = {
            "n_iter": 0,
            "position": 0,  # samples of the current epoch that have been learned
            "loss_sum": 0.0,  # over these
            "n_seen": 0,
            "losses": [],
            "scores": [],
            "best_loss": float("inf"),  # of former calls too, for convergence
            "kept_loss": float("inf"),  # of this call, for Ctrl-C
            "best_score": float("-inf"),
            "best_iter": 0,
            "n_without_progress": 0,
            "n_steps": 0,
            "lr": estimator.learning_rate_init,
            "is_done": False,
            "has_converged": False,
        }

    # ---- the optimizer between two calls ----------------------------------------------------------------------------

    @property
    def moments(self) -> list[Array]:
        """The optimizer's arrays."""
        if isinstance(self.optimizer, Adam):
            return [*self.optimizer.first_sums, *self.optimizer.second_sums]
        return self.optimizer.velocities

    def take_optimizer(self, saved: dict[str, Any]) -> None:
        """Continue with the optimizer of a former call, as `optimizer_state` returned it."""
        if len(saved["moments"]) == len(self.moments):
            self.history["n_steps"], self.history["lr"] = saved["n_steps"], saved["lr"]
            for own, array in zip(self.moments, saved["moments"], strict=True):
                own[...] = array

    def take_history(self, saved: dict[str, Any]) -> None:
        """Continue the losses, scores and counts of a former call."""
        carried = ("n_seen", "losses", "scores", "best_loss", "best_score", "n_without_progress")
        self.history |= {name: copy(saved[name]) for name in carried}

    def optimizer_state(self) -> dict[str, Any]:
        """Return the state of the optimizer for the next call of `partial_fit`."""
        return {"n_steps": self.history["n_steps"], "lr": self.history["lr"], "moments": self.moments}

    # ---- the loop ---------------------------------------------------------------------------------------------------

    def run(self, checkpoint: Path | None, run_of: dict[str, Any]) -> None:
        """Train to the end, from a checkpoint if there is one.

        Parameters
        ----------
        checkpoint : Path or None
            The file.
        run_of : dict
            What must be equal in the checkpoint of this run, as JSON can hold it.

        Raises
        ------
        CheckpointError
            If the checkpoint cannot be used, or is of another run.

        """
        lock = nullcontext() if checkpoint is None else lock_checkpoint(checkpoint)
        with lock, np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            if checkpoint is not None:
                check_checkpoint_path(checkpoint)
                digest = self.samples.digest()
                if self.validation is not None and self.validation.weights is not None:
                    weights = self.validation.weights[self.validation.rows]
                    digest = hashlib.sha256(digest.encode() + weights.tobytes()).hexdigest()
                self._restore(checkpoint, run_of, digest)
            last = time.monotonic()
            with Progress(self.estimator.verbose, self.max_epochs, self.history["n_iter"]) as progress:
                while not self.history["is_done"]:
                    self._step()
                    if self.history["position"] == len(self.samples):
                        self._end_epoch(progress)
                    is_due = time.monotonic() - last >= CHECKPOINT_SECONDS or self.history["is_done"]
                    if checkpoint is not None and is_due:
                        self._save(checkpoint, run_of, digest)
                        last = time.monotonic()

    def finish(self) -> None:
        """Put the best weights back after early stopping, and warn if the training has not converged."""
        if self.validation is not None:
            self._put_best_back()
        if not self.is_partial and not self.history["has_converged"]:
            warnings.warn(
                f"Stochastic Optimizer: Maximum iterations ({self.max_epochs}) reached and the optimization hasn't "
                "converged yet.",
                ConvergenceWarning,
                stacklevel=5,
            )

    def interrupt(self) -> None:
        """Put the best weights so far back after Ctrl-C, and warn."""
        self._put_best_back()
        history = self.history
        if history["n_iter"] == 0:
            kept = "those from before the first epoch, which has not ended"
        elif history["best_iter"] == 0:
            kept = "those from before this fit, as no epoch was better"
        elif self.validation is not None:
            kept = f"those after epoch {history['best_iter']}, with the validation score {history['best_score']:.6g}"
        else:
            kept = f"those after epoch {history['best_iter']}, with the training loss {history['kept_loss']:.6g}"
        warnings.warn(
            f"Training interrupted by user in epoch {history['n_iter'] + 1}; the best weights so far are kept: {kept}.",
            stacklevel=5,
        )

    def _put_best_back(self) -> None:
        for array, best in zip(self.network.state, self.best, strict=True):
            array[...] = best

    def _step(self) -> None:
        """Learn a batch."""
        history, estimator, optimizer = self.history, self.estimator, self.optimizer
        begin = history["position"]
        if begin == 0 and estimator.shuffle:
            # The permutations that MLPClassifier draws: each shuffles the order before.
            shuffled = np.arange(len(self.order))
            self.order_rng.shuffle(shuffled)
            self.order = self.order[shuffled]
        chosen = self.order[begin : begin + self.batch_size]
        inputs, targets, weights = self.samples.batch(chosen)
        total = len(chosen) if weights is None else float(weights.sum())
        if total > 0:
            loss = 0.0
            if estimator.alpha:
                loss = 0.5 * estimator.alpha / total * sum(float(np.vdot(w, w)) for w in self.network.weights)
            optimizer.n_steps, optimizer.lr, optimizer.l2 = history["n_steps"], history["lr"], estimator.alpha / total
            if isinstance(optimizer, Adam):
                # scikit-learn adds epsilon to the root of the mean square before its correction, the paper after it.
                optimizer.eps = estimator.epsilon / (1 - estimator.beta_2 ** (optimizer.n_steps + 1)) ** 0.5
            loss += train_step(self.network, optimizer, self.loss, inputs, targets, weights)
            history["n_steps"] = optimizer.n_steps
            if estimator.max_norm is not None:
                _limit_norms(self.network.weights[:-1], estimator.max_norm)
            history["loss_sum"] += loss * len(chosen)
        history["position"] = begin + len(chosen)

    def _end_epoch(self, progress: Progress) -> None:
        """Note the loss and the score, and decide whether to go on."""
        history, estimator = self.history, self.estimator
        loss = history["loss_sum"] / len(self.samples)
        score = None if self.validation is None else self.score(self.validation)  # Ctrl-C may end it: it comes first
        history["n_iter"] += 1
        history["n_seen"] += len(self.samples)
        history["position"], history["loss_sum"] = 0, 0.0
        history["losses"].append(loss)
        if self.validation is not None:
            history["scores"].append(score)
            is_progress, is_best = score >= history["best_score"] + estimator.tol, score > history["best_score"]
        else:
            is_progress, is_best = loss <= history["best_loss"] - estimator.tol, loss < history["kept_loss"]
            history["best_loss"] = min(history["best_loss"], loss)
        history["n_without_progress"] = 0 if is_progress else history["n_without_progress"] + 1
        if is_best:
            history["best_iter"] = history["n_iter"]
            if self.validation is None:
                history["kept_loss"] = loss
            else:
                history["best_score"] = score
            for best, array in zip(self.best, self.network.state, strict=not self.is_partial):
                best[...] = array
        progress.epoch(history["n_iter"], loss, score)
        is_sgd = estimator.solver == "sgd"
        if is_sgd and estimator.learning_rate == "invscaling":
            history["lr"] = estimator.learning_rate_init / (history["n_seen"] + 1) ** estimator.power_t
        if history["n_without_progress"] > estimator.n_iter_no_change:
            if is_sgd and estimator.learning_rate == "adaptive" and history["lr"] > 1e-6:
                history["lr"] /= 5
                history["n_without_progress"] = 0
                progress.note(f"No progress for {estimator.n_iter_no_change} epochs: learning rate {history['lr']:g}.")
            else:
                history["is_done"] = history["has_converged"] = True
                what = "Training loss" if self.validation is None else "Validation score"
                progress.note(
                    f"{what} did not improve more than tol={estimator.tol:f} for {estimator.n_iter_no_change} "
                    "consecutive epochs. Stopping."
                )
        if history["n_iter"] >= self.max_epochs:
            history["is_done"] = True

    # ---- checkpoints ------------------------------------------------------------------------------------------------

    def _arrays(self) -> dict[str, Array]:
        named = {"param": self.network.state, "best": self.best, "moment": self.moments, "order": [self.order]}
        return {f"{name}_{i}": array for name, arrays in named.items() for i, array in enumerate(arrays)}

    def _save(self, path: Path, run_of: dict[str, Any], digest: str) -> None:
        kind, words, position, has_gauss, gauss = self.order_rng.get_state(legacy=True)
        run = {
            "format": CHECKPOINT_FORMAT,
            "run": run_of,
            "data": digest,
            "history": self.history,
            "rng": self.network.rng.state,
            "order_rng": [str(kind), np.asarray(words).tolist(), int(position), int(has_gauss), float(gauss)],
        }
        write_checkpoint(path, run, self._arrays())

    def _restore(self, path: Path, run_of: dict[str, Any], digest: str) -> None:
        """Restore the state in a file; without a file, nothing changes."""
        checkpoint = read_checkpoint(path, CHECKPOINT_FORMAT, CHECKPOINT_FIELDS)
        if checkpoint is None:
            return
        run, saved = checkpoint
        other = run["run"] if isinstance(run["run"], dict) else {}
        for name in sorted({*run_of, *other}):
            if other.get(name) != run_of.get(name):
                raise CheckpointError(
                    f"{path}: must be of a fit with {name}={run_of.get(name)!r}, got one with {other.get(name)!r}; "
                    "remove it or give another file"
                )
        if run["data"] != digest:
            raise CheckpointError(
                f"{path}: must be of a fit on the same data, of SHA-256 {digest[:16]}, got {str(run['data'])[:16]}"
            )
        own = self._arrays()
        if saved.keys() != own.keys() or any(saved[name].shape != array.shape for name, array in own.items()):
            raise CheckpointError(f"{path}: must have the arrays of this fit, got {', '.join(sorted(saved))}")
        for name, array in own.items():
            array[...] = saved[name]
        try:  # the setters check what they get
            self.network.rng.state = run["rng"]
            self.order_rng.set_state(tuple(run["order_rng"]))
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: must be a whole checkpoint, got {error}") from error
        self.history.update(run["history"])


def _make_optimizer(estimator: Any, network: MLP) -> Adam | SGD:
    if estimator.solver == "adam":
        return Adam(
            network.params,
            network.grads,
            lr=estimator.learning_rate_init,
            beta1=estimator.beta_1,
            beta2=estimator.beta_2,
            eps=estimator.epsilon,
        )
    return SGD(
        network.params,
        network.grads,
        lr=estimator.learning_rate_init,
        momentum=estimator.momentum,
        nesterov=estimator.nesterovs_momentum,
    )


def _limit_norms(weights: list[Array], limit: float) -> None:
    """Scale the incoming weights of each unit, a column, to a Euclidean norm of at most limit."""
    for weight in weights:
        norms = np.sqrt(np.einsum("ij,ij->j", weight, weight))
        if np.any(norms > limit):
            weight *= np.minimum(1, limit / np.maximum(norms, np.finfo(norms.dtype).tiny))


def describe_run(estimator: Any, rates: Rates, random_state: np.random.RandomState) -> dict[str, Any]:
    """Return what must be equal in a checkpoint of a fit: the class, the checked parameters and the seed, for JSON.

    Equal values have equal texts, as those of a number of Python and of NumPy, or of a width and a list with it.
    """
    seed = estimator.random_state
    if seed is not None and not isinstance(seed, int | np.integer):
        state: Any = random_state.get_state(legacy=True)
        seed = hashlib.sha256(np.asarray(state[1]).tobytes() + repr(state[2:]).encode()).hexdigest()
    described = {"estimator": type(estimator).__name__, "random_state": None if seed is None else str(seed)}
    dropout = rates.p[0] if len(set(rates.p)) == 1 else rates.p
    parameters = estimator.get_params(deep=False) | {"hidden_layer_sizes": rates.hidden, "dropout": dropout}
    return described | {name: repr(_plain(value)) for name, value in parameters.items() if name not in _NOT_OF_A_RUN}


def _plain(value: Any) -> Any:
    """Return the same object for equal values: numbers of Python, containers as lists, the items of dicts sorted."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, Real):
        number = float(value)
        return int(number) if number.is_integer() else number
    if isinstance(value, str):
        return str(value)
    if isinstance(value, dict):
        return sorted(([_plain(key), _plain(each)] for key, each in value.items()), key=repr)
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value
