"""The base of the classifier and the regressor: fitting, and the predictions of sub-networks."""

from collections.abc import Callable
from copy import copy
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from joblib import Parallel, delayed
from sklearn.base import BaseEstimator, is_classifier
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.validation import (
    _check_sample_weight,
    check_is_fitted,
    column_or_1d,
    validate_data,
)
from threadpoolctl import threadpool_limits

import cdropout as cd
from cdropout.checks import check_integer
from cdropout.networks import (
    MLP,
    Loss,
    draw_sub_network,
    evaluate,
    glorot_uniform,
    lecun_normal,
    n_layers_before,
    pass_hidden,
)
from cdropout.optional import require
from cdropout.sklearn.fitting import Training, describe_run
from cdropout.sklearn.parameters import Rates, check_parameters
from cdropout.sklearn.samples import BLOCK_ROWS, Samples, in_blocks

Array = npt.NDArray[Any]

MOST_IN_AUTO_BATCH = 200


class BaseDropoutMLP(BaseEstimator):  # type: ignore[misc]
    """Multilayer perceptron with dropout; subclasses encode targets and decode outputs."""

    # Estimators that were pickled before there was batch_norm have the values of the class.
    batch_norm: bool = False
    _network_state: list[Array] | None = None

    # ---- methods that subclasses define ------------------------------------------------------------------------------

    def _encode(self, y: Array, *, is_first: bool, incremental: bool) -> Array:
        """Return targets as the loss needs them, and set what they say about the outputs when `is_first`."""
        raise NotImplementedError

    def _loss(self) -> Loss:
        """Return the loss."""
        raise NotImplementedError

    def _score_of(self, outputs: Array, targets: Array, weights: Array | None) -> float:
        """Return the score of outputs before the output function."""
        raise NotImplementedError

    def _entropy(self, decoded: Array) -> Array:
        """Return the entropy of each row of decoded outputs; 0 where it has no meaning."""
        return np.zeros(len(decoded))

    def _class_weights(self, y: Array) -> Array | None:
        """Return the weights that the parameter class_weight gives to samples, after `_encode`."""
        return None

    # ---- fitting ----------------------------------------------------------------------------------------------------

    def _fit(self, X: Any, y: Any, sample_weight: Any, *, incremental: bool) -> Self:
        before = dict(vars(self))
        try:
            return self._fit_in_place(X, y, sample_weight, incremental=incremental)
        except BaseException:
            self.__dict__.clear()
            self.__dict__.update(before)
            raise

    def _fit_in_place(self, X: Any, y: Any, sample_weight: Any, *, incremental: bool) -> Self:
        rates = check_parameters(self, incremental=incremental)
        if incremental and self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True")
        is_first = not hasattr(self, "coefs_") or (not self.warm_start and not incremental)
        X, y = validate_data(
            self,
            X,
            y,
            accept_sparse="csr",
            multi_output=True,
            y_numeric=not is_classifier(self),
            dtype=(np.float64, np.float32),
            reset=is_first,
        )
        if not isinstance(X, np.ndarray) and not X.has_canonical_format:
            X = X.copy()
            X.sum_duplicates()
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        targets = self._encode(y, is_first=is_first, incremental=incremental)
        weights = self._weights(X, y, sample_weight)
        order_rng = check_random_state(self.random_state)
        if is_first:
            self._initialize(rates, X.shape[1], X.dtype, order_rng)
        widths = [len(self.coefs_[0]), *(coef.shape[1] for coef in self.coefs_)]
        asked = [X.shape[1], *rates.hidden, self.n_outputs_]
        if widths != asked:
            raise ValueError(
                f"hidden_layer_sizes must stay as they were in the first fit, with widths {widths}: {asked}"
            )

        # With batch norm, coefs_ and intercepts_ are folded, and a fit continues from the network's state.
        state = self._params() if is_first or self._network_state is None else self._network_state
        if not is_first and rates.batch_norm != self._rates.batch_norm:
            raise ValueError(f"batch_norm must stay as it was in the first fit, {self._rates.batch_norm}")

        dtype = self.coefs_[0].dtype
        if dtype == np.float32 and targets.dtype == np.float64:
            targets = targets.astype(dtype)
        learned, validated = self._split(targets, weights, order_rng)
        samples = Samples(X, targets, weights, learned, dtype)
        most = MOST_IN_AUTO_BATCH if self.batch_size == "auto" else self.batch_size
        samples = samples.for_one_batch(most)
        if rates.batch_norm and is_first and len(samples) < 2:
            raise ValueError(f"batch_norm=True needs at least 2 samples in the first fit, got n_samples={len(samples)}")
        network = MLP(
            asked,
            activation=self.activation,
            p=rates.p,
            p_input=rates.p_input,
            kind=rates.kind,
            rng=copy(self._mask_stream),  # a shallow copy of the estimator has the same one
            dtype=dtype,
            n_rows=min(most, len(samples)),
            batch_norm=rates.batch_norm,
        )
        for array, value in zip(network.state[: len(state)], state, strict=True):
            array[...] = value
        training = Training(
            self,
            network,
            self._loss(),
            samples,
            None if validated is None else Samples(X, targets, weights, validated, dtype),
            lambda chosen: self._score_samples(network.folded, chosen),
            batch_size=min(most, len(samples)),
            order_rng=order_rng,
            max_epochs=1 if incremental else self.max_iter,
            is_partial=incremental,
        )
        if not is_first:
            training.take_history(self._history)
            if incremental:
                training.take_optimizer(self._optimizer_state)
        checkpoint = None if self.checkpoint is None or incremental else Path(self.checkpoint)
        try:
            run_of = describe_run(self, rates, order_rng) if checkpoint else {}
            if checkpoint and not is_first:
                run_of["warm start from"] = sha256(b"".join(p.tobytes() for p in state)).hexdigest()
            training.run(checkpoint, run_of)
            training.finish()
        except KeyboardInterrupt:
            if incremental:
                raise
            training.interrupt()
        self._take(training, rates)
        is_without_score = training.validation is not None and not np.isfinite(training.history["best_score"])
        if (training.history["n_iter"] and is_without_score) or not all(
            np.isfinite(array).all() for array in (*network.state, *self._params())
        ):
            raise ValueError(
                "Solver produced non-finite parameter weights. The input data may contain large values and need to be "
                "preprocessed."
            )
        return self

    def _weights(self, X: Any, y: Array, sample_weight: Any) -> Array | None:
        """Return the weights of the samples, None if all are 1."""
        weights = None
        if sample_weight is not None:
            weights = _check_sample_weight(sample_weight, X, dtype=X.dtype)
            if (weights < 0).any():
                raise ValueError("Negative values in data passed to `sample_weight`")
        of_classes = self._class_weights(y)
        if of_classes is not None:
            if not (np.isfinite(of_classes).all() and (of_classes >= 0).all()):
                raise ValueError(f"class_weight must have finite weights of at least 0, got {self.class_weight!r}")  # type: ignore[attr-defined]
            weights = of_classes.astype(X.dtype) if weights is None else weights * of_classes.astype(X.dtype)
        if weights is None or (weights == 1).all():
            return None
        if not (weights > 0).any():
            raise ValueError("Sample weights must contain at least one non-zero number.")
        return weights  # type: ignore[no-any-return]

    def _initialize(self, rates: Rates, n_features: int, dtype: Any, rng: np.random.RandomState) -> None:
        """Set the fitted attributes as they are before the first epoch."""
        # From a copy, so that weights and orders are those that scikit-learn's networks draw from the same state.
        copied = np.random.RandomState()
        copied.set_state(rng.get_state(legacy=True))
        words = copied.randint(0, 2**32, 4, np.uint32)
        self._mask_stream, self._sample_stream = cd.Stream(words.tolist()).spawn(2)
        self.n_layers_ = len(rates.hidden) + 2
        self.coefs_, self.intercepts_ = [], []
        for n_in, n_out in pairwise([n_features, *rates.hidden, self.n_outputs_]):
            if self.activation == "selu":
                coef, intercept = lecun_normal(n_in, n_out, rng), np.zeros(n_out)
            else:
                coef, intercept = glorot_uniform(n_in, n_out, rng, self.activation)
            self.coefs_.append(coef.astype(dtype, copy=False))
            self.intercepts_.append(intercept.astype(dtype, copy=False))
        if rates.batch_norm:
            self.intercepts_[:-1] = [np.zeros_like(intercept) for intercept in self.intercepts_[:-1]]

    def _split(
        self, targets: Array, weights: Array | None, rng: np.random.RandomState
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp] | None]:
        """Return the rows to learn and, with early stopping, those to score; without rows of weight 0."""
        rows = np.arange(len(targets)) if weights is None else np.flatnonzero(weights > 0)
        if not self.early_stopping:
            return rows, None
        is_stratified = is_classifier(self) and self.n_outputs_ == 1  # as in scikit-learn's networks
        learned, validated = train_test_split(
            rows,
            random_state=rng,
            test_size=self.validation_fraction,
            stratify=targets[rows] if is_stratified else None,
        )
        if len(validated) < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of your dataset."
            )
        return learned, validated

    def _take(self, training: Training, rates: Rates) -> None:
        """Set the fitted attributes after training."""
        history, network = training.history, training.network
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused afterwards
            folded = network.folded
        self.coefs_, self.intercepts_ = folded[::2], folded[1::2]
        self._network_state = network.state if rates.batch_norm else None
        self.n_iter_, self.t_ = history["n_iter"], history["n_seen"]
        self.loss_curve_ = list(history["losses"])
        self.loss_ = self.loss_curve_[-1] if self.loss_curve_ else float("nan")
        is_scored = training.validation is not None
        self.validation_scores_ = list(history["scores"]) if is_scored else None
        self.best_validation_score_ = history["best_score"] if is_scored else None
        self.best_loss_ = None if is_scored else history["best_loss"]
        self._rates, self._mask_stream = rates, network.rng
        self._history, self._optimizer_state = history, training.optimizer_state()

    def _params(self) -> list[Array]:
        return [param for pair in zip(self.coefs_, self.intercepts_, strict=True) for param in pair]

    def _score_samples(self, params: list[Array], samples: Samples) -> float:
        outputs: list[Array] = []
        targets: list[Array] = []
        weights: list[Any] = []
        for block in samples.blocks():
            inputs, target, weight = samples.batch(block)
            outputs.append(evaluate(params, self.activation, inputs))
            targets.append(target)
            weights.append(weight)
        together = np.concatenate(outputs)
        if not np.isfinite(together).all():
            return float("nan")
        weight = None if samples.weights is None else np.concatenate(weights)
        return self._score_of(together, np.concatenate(targets), weight)

    # ---- predicting -------------------------------------------------------------------------------------------------

    def _checked(self, X: Any) -> Any:
        check_is_fitted(self)
        return validate_data(self, X, accept_sparse="csr", dtype=(np.float64, np.float32), reset=False)

    def _outputs(self, X: Any) -> Array:
        """Return the outputs, before the output function, without dropout."""
        X = self._checked(X)
        params = self._params()
        return in_blocks(X, lambda rows: evaluate(params, self.activation, rows), params[0].dtype)

    def _moments(
        self, X: Any, n_samples: Any, n_jobs: Any, decode: Callable[[Array], Array]
    ) -> tuple[Array, Array, Array]:
        """Return the mean and the standard deviation of decoded outputs over sub-networks, and their mean entropy.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The inputs.
        n_samples : int
            The number of sub-networks, at least 1.
        n_jobs : int or None
            The number of threads, as joblib has it.
        decode : callable
            Takes outputs of sub-networks, which it may overwrite; returns an array of as many rows.

        """
        n_samples = check_integer("n_samples", n_samples, 1)
        X, rates = self._checked(X), self._rates
        params = self._params()
        dtype, n_before = params[0].dtype, n_layers_before(rates.p, rates.p_input)

        def of_block(begin: int) -> tuple[Array, Array, Array]:
            rows = X[begin : begin + BLOCK_ROWS].astype(dtype, copy=False)
            prefix = pass_hidden(params[: 2 * n_before], self.activation, rows)
            mean = squares = entropy = np.zeros(())
            for i in range(n_samples):
                drawn = draw_sub_network(
                    params, self.activation, rates.p, rates.p_input, rates.kind, self._sample_stream.fold_in(i)
                )
                sample = decode(drawn.evaluate(prefix)).astype(np.float64)
                change = sample - mean
                mean = mean + change / (i + 1)
                squares = squares + change * (sample - mean)
                entropy = entropy + self._entropy(sample)
            return mean, np.sqrt(squares / n_samples), entropy / n_samples

        begins = range(0, X.shape[0], BLOCK_ROWS)
        if n_jobs in (None, 1) or len(begins) == 1:
            parts = [of_block(begin) for begin in begins]
        else:
            # The blocks, and the numbers in each, are the same for every number of threads.
            with threadpool_limits(1, user_api="blas"):
                parts = Parallel(n_jobs=n_jobs, prefer="threads")(delayed(of_block)(begin) for begin in begins)
        mean, std, entropy = (np.concatenate(part) for part in zip(*parts, strict=True))
        return mean, std, entropy

    # ---- looking at a fit -------------------------------------------------------------------------------------------

    def plot_training(self, ax: Any = None) -> Any:
        """Plot the training loss of each epoch, and the validation scores where there are any.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Axes to draw on; new ones by default.

        Returns
        -------
        matplotlib.axes.Axes
            The axes with the loss. Validation scores have a second axis on the right.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        NotFittedError
            Before `fit`.

        """
        check_is_fitted(self)
        pyplot = require("matplotlib.pyplot", extra="plot", purpose="plot_training")
        if ax is None:
            ax = pyplot.subplots()[1]
        epochs = np.arange(1, len(self.loss_curve_) + 1)
        lines = ax.plot(epochs, self.loss_curve_, color="#555555", label="training loss, with dropout")
        ax.set(xlabel="epoch", ylabel="training loss")
        if self.validation_scores_:
            right = ax.twinx()
            scored = epochs[len(epochs) - len(self.validation_scores_) :]
            lines += right.plot(scored, self.validation_scores_, color="#c8102e", label="validation score")
            right.set_ylabel("accuracy" if is_classifier(self) else "R²")
        ax.legend(handles=lines)
        return ax

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags
