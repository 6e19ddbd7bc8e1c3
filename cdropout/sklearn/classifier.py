"""The classifier."""

from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils import compute_class_weight, compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets, type_of_target, unique_labels

from cdropout.networks import Loss, logistic_loss, softmax_loss
from cdropout.networks.activations import logistic
from cdropout.sklearn.base import BaseDropoutMLP
from cdropout.sklearn.chunks import by_chunks

Array = npt.NDArray[Any]


class ClassUncertainty(NamedTuple):
    """Hold the class probabilities over sub-networks, and how uncertain they are.

    Attributes
    ----------
    proba, std : ndarray of shape (n_samples, n_classes)
        The mean of the probabilities over sub-networks, and their standard deviation.
    entropy : ndarray of shape (n_samples,)
        The entropy of the mean, in nats: the whole uncertainty. For multilabel targets, the sum over labels.
    mutual_information : ndarray of shape (n_samples,)
        The entropy minus the mean of the sub-networks' entropies, in nats: how much the sub-networks disagree.

    """

    proba: Array
    std: Array
    entropy: Array
    mutual_information: Array


class DropoutMLPClassifier(ClassifierMixin, BaseDropoutMLP):  # type: ignore[misc]
    """Multilayer perceptron with dropout that minimizes the cross-entropy.

    Parameters
    ----------
    hidden_layer_sizes : int or sequence of int, default=(100,)
        The number of units of each hidden layer.
    activation : {"relu", "identity", "logistic", "tanh", "selu"}, default="relu"
        The activation of hidden layers. "selu" begins with normal weights of variance 1 / n_inputs, the others with the
        weights of scikit-learn's networks.
    dropout : float or sequence of float, default=0.5
        The probability of dropping a hidden unit, in [0, 1): a number, or one for each hidden layer.
    input_dropout : float, default=0.0
        The probability of dropping an element of X, in [0, 1).
    dropout_kind : {"elementwise", "feature", "gaussian", "alpha", "compact"}, default="elementwise"
        "elementwise" drops units for each sample. "feature" drops units for all samples of a batch. "gaussian"
        multiplies by normal noise of mean 1 and variance p / (1-p). "alpha" is alpha dropout, and needs the activation
        "selu". "compact" is "feature" with matrix products of the kept units only, which takes less time for wide
        layers, and needs "relu". The elements of X are always dropped one by one.
    max_norm : float, default=None
        The largest Euclidean norm of the incoming weights of a hidden unit: longer ones are scaled down after steps.
    batch_norm : bool, default=False
        Whether the inputs of hidden activations are normalized over each batch, then scaled and shifted by learned
        numbers (Ioffe and Szegedy, 2015). Predictions use running means and variances of the batches, with momentum 0.1
        and eps 1e-5; weights of samples and classes have no effect on these. If the last batch of an epoch has one
        sample, it is normalized by the running numbers. The kind "compact", a batch_size of 1 and a first fit of one
        sample are refused.
    solver : {"adam", "sgd"}, default="adam"
        The optimizer. scikit-learn's "lbfgs" needs a loss without randomness, which dropout does not give.
    alpha, batch_size, learning_rate, learning_rate_init, power_t, max_iter, shuffle, tol, warm_start
        As in scikit-learn's `MLPClassifier`.
    random_state : int, RandomState instance or None, default=None
        Draws the initial weights, the order of the samples, the validation set and the masks. Except for masks, an int
        draws what it draws in `MLPClassifier`.
    verbose : bool or int, default=False
        Whether to show a progress bar on stderr, or a line for each epoch if tqdm is not installed.
    momentum, nesterovs_momentum, early_stopping, validation_fraction, beta_1, beta_2, epsilon, n_iter_no_change
        As in `MLPClassifier`.
    class_weight : dict, "balanced", list of dict or None, default=None
        The weights of classes, which multiply those of the samples, as in scikit-learn's `compute_sample_weight`.
    checkpoint : path, default=None
        A file to which `fit` saves its state every ten seconds and at its end. A fit with the same parameters and data
        continues from it, and ends with the same weights, bit for bit; after the end it returns them. A fit that
        differs raises `ValueError`, and so does a second one at the same time. Needs a `random_state`. `partial_fit`
        ignores it.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The classes; for multilabel targets the numbers of the labels.
    coefs_, intercepts_ : list of ndarray
        The weights (n_in, n_out) and biases (n_out,) of each layer. With batch_norm, they include the normalization,
        and a fit that continues does not read them.
    loss_curve_ : list of float
        The mean training loss of each epoch, with dropout and the L2 penalty.
    validation_scores_ : list of float or None
        The score of the validation set after each epoch, weighted by class_weight and sample_weight; None without early
        stopping.
    best_loss_, best_validation_score_ : float or None
        The lowest training loss, None with early stopping; the highest validation score, None without.
    loss_, n_iter_, t_, n_layers_, n_outputs_, out_activation_, n_features_in_, feature_names_in_
        As in `MLPClassifier`.

    Notes
    -----
    X may be larger than memory, as an `np.memmap` of float32 or float64: batches are gathered from it one at a time. An
    X of another dtype is copied as a whole. A fit in one batch, as of few samples, depends on the set of samples only,
    not on their order, and a weight of 2 has the effect of the same sample twice; `t_` then counts both.

    See Also
    --------
    DropoutMLPRegressor : The regressor.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from cdropout.sklearn import DropoutMLPClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> classifier = DropoutMLPClassifier(dropout=0.2, max_iter=500, learning_rate_init=0.01, random_state=0).fit(X, y)
    >>> classifier.predict_proba(X[:2], n_samples=50).shape
    (2, 3)

    """

    classes_: Array
    n_outputs_: int
    out_activation_: str
    _is_multilabel: bool

    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        activation: str = "relu",
        *,
        dropout: Any = 0.5,
        input_dropout: float = 0.0,
        dropout_kind: str = "elementwise",
        max_norm: float | None = None,
        batch_norm: bool = False,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: Any = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool | int = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: int = 10,
        class_weight: Any = None,
        checkpoint: Any = None,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.dropout = dropout
        self.input_dropout = input_dropout
        self.dropout_kind = dropout_kind
        self.max_norm = max_norm
        self.batch_norm = batch_norm
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.power_t = power_t
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.class_weight = class_weight
        self.checkpoint = checkpoint

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit the network.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The inputs; float32 stays float32, other dtypes become float64.
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            The classes, or for multilabel targets a matrix of 0 and 1.
        sample_weight : array-like of shape (n_samples,), default=None
            The weights of the samples, at least 0.

        Returns
        -------
        DropoutMLPClassifier
            The fitted estimator itself.

        Raises
        ------
        ValueError
            For invalid parameters or data, or weights that are not finite at the end.

        """
        return self._fit(X, y, sample_weight, incremental=False)

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None) -> Self:
        """Learn the samples once: one epoch.

        Parameters
        ----------
        X, y, sample_weight
            As in `fit`. A Dask array X, with a Dask or NumPy array y, is learned chunk by chunk.
        classes : array-like of shape (n_classes,), default=None
            All classes of all calls; the first call needs them.

        Returns
        -------
        DropoutMLPClassifier
            The fitted estimator itself.

        Raises
        ------
        ValueError
            As `fit`; for a first call without classes, other classes than in the first call, or a y with others.

        """
        if classes is not None:
            given = unique_labels(classes)
            if hasattr(self, "coefs_") and not np.array_equal(given, self.classes_):
                raise ValueError(
                    f"`classes={classes!r}` is not the same as on last call to partial_fit, was: {self.classes_!r}"
                )
            self._given_classes = given
        elif not hasattr(self, "coefs_"):
            raise ValueError("classes must be passed on the first call to partial_fit.")
        if isinstance(self.class_weight, str) and self.class_weight == "balanced":
            raise ValueError("class_weight 'balanced' is not supported for partial_fit: give a dict with the weights.")
        for rows, targets, weights in by_chunks(X, y, sample_weight):
            self._fit(rows, targets, weights, incremental=True)
        return self

    def predict(self, X: Any) -> Array:
        """Predict classes with the whole network.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The inputs.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_labels)
            The most probable classes, or 0 and 1 for each label.

        """
        chosen = self._chosen(self._outputs(X))
        return chosen.astype(np.int64) if chosen.ndim == 2 else self.classes_[chosen]

    def predict_proba(self, X: Any, *, n_samples: int | None = None, n_jobs: int | None = None) -> Array:
        """Return the probabilities of the classes.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The inputs.
        n_samples : int or None, default=None
            None predicts with the whole network. A number averages over so many sub-networks: Monte Carlo dropout. Each
            is the same for all rows, in every call, so that the prediction for a row does not depend, except for
            rounding, on the other rows of X.
        n_jobs : int or None, default=None
            The number of threads, as in `joblib.Parallel`; the results are the same for each, except for rounding.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            The probabilities, in the order of `classes_`.

        """
        if n_samples is None:
            outputs = self._outputs(X)
            return self._proba(outputs)
        mean, _, _ = self._moments(X, n_samples, n_jobs, self._proba)
        return mean.astype(self.coefs_[0].dtype)

    def predict_log_proba(self, X: Any) -> Array:
        """Return the logarithms of `predict_proba`.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The inputs.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            The logarithms.

        """
        proba = self.predict_proba(X)
        with np.errstate(divide="ignore"):
            return np.log(proba, out=proba)

    def predict_uncertainty(self, X: Any, n_samples: int = 100, *, n_jobs: int | None = None) -> ClassUncertainty:
        """Predict by Monte Carlo dropout: probabilities, their spread, entropy and mutual information.

        Parameters
        ----------
        X, n_samples, n_jobs
            As in `predict_proba`.

        Returns
        -------
        ClassUncertainty
            proba, std, entropy and mutual_information, of float64.

        """
        mean, std, entropies = self._moments(X, n_samples, n_jobs, self._proba)
        entropy = self._entropy(mean)
        return ClassUncertainty(mean, std, entropy, np.maximum(entropy - entropies, 0))

    # ---- targets and outputs ----------------------------------------------------------------------------------------

    def _encode(self, y: Array, *, is_first: bool, incremental: bool) -> Array:
        if y.dtype == object:
            is_text = [isinstance(label, str) for label in y.ravel().tolist()]
            if any(is_text) and not all(is_text):
                other = y.ravel()[is_text.index(False)]
                raise ValueError(f"y must have a string for each sample, or for none, got {other!r} among strings")
        check_classification_targets(y)
        kind = type_of_target(y, input_name="y")
        if kind == "multiclass-multioutput":
            raise ValueError(f"Unknown label type: {kind}. y must have one column, or be a matrix of 0 and 1.")
        is_multilabel = kind == "multilabel-indicator"
        found = np.arange(y.shape[1]) if is_multilabel else unique_labels(y)
        classes = found if is_first else self.classes_
        if is_first and incremental:
            classes = self._given_classes
            if is_multilabel and not np.array_equal(classes, found):
                raise ValueError(f"classes must be the numbers of y's labels, {found}, got {classes}")
        elif not is_first and is_multilabel != self._is_multilabel:
            raise ValueError(f"y must have the kind of the first fit, got {kind}")
        if not set(found.tolist()) <= set(classes.tolist()):
            raise ValueError(f"`y` has classes not in `self.classes_`. `self.classes_` has {classes}. `y` has {found}.")
        if not incremental and len(found) != len(classes):
            raise ValueError(
                "warm_start can only be used where `y` has the same classes as in the previous call to fit. Previously "
                f"got {classes}, `y` has {found}"
            )
        if is_first:
            self.classes_, self._is_multilabel = classes, is_multilabel
            is_binary = not is_multilabel and len(classes) <= 2
            self.n_outputs_ = 1 if is_binary else len(classes)
            self.out_activation_ = "logistic" if is_multilabel or is_binary else "softmax"
        if is_multilabel:
            if y.shape[1] != self.n_outputs_:
                raise ValueError(f"y must have the {self.n_outputs_} labels of the first fit, got {y.shape[1]}")
            return np.asarray(y.toarray() if hasattr(y, "toarray") else y, np.float32)  # 0 and 1 are exact
        labels = np.searchsorted(classes, y)
        return labels if self.out_activation_ == "softmax" else labels.reshape(-1, 1).astype(np.float32)

    def _class_weights(self, y: Array) -> Array | None:
        given = self.class_weight
        if given is None:
            return None
        # A batch of partial_fit may lack classes that a dict weighs, and compute_sample_weight would refuse the dict.
        if isinstance(given, dict) and not self._is_multilabel:
            return _weights_of(given, self.classes_, y)
        is_listed = isinstance(given, list) and all(isinstance(each, dict) for each in given)
        if is_listed and self._is_multilabel and isinstance(y, np.ndarray) and len(given) == y.shape[1]:
            labels = np.arange(2)
            factors: Array = np.prod([_weights_of(each, labels, y[:, i]) for i, each in enumerate(given)], axis=0)
            return factors
        return compute_sample_weight(given, y)  # type: ignore[no-any-return]

    def _loss(self) -> Loss:
        return softmax_loss if self.out_activation_ == "softmax" else logistic_loss

    def _chosen(self, outputs: Array) -> Array:
        """Return the numbers of the chosen classes (n_samples,), or for each label whether it is chosen."""
        if self.out_activation_ == "softmax":
            return np.asarray(outputs.argmax(axis=1))
        is_positive: Array = outputs > 0
        return is_positive if self._is_multilabel else is_positive[:, 0].astype(np.intp) * (len(self.classes_) - 1)

    def _proba(self, outputs: Array) -> Array:
        """Return probabilities for outputs, which are overwritten."""
        if self.out_activation_ == "softmax":
            outputs -= outputs.max(axis=1, keepdims=True)
            np.exp(outputs, out=outputs)
            outputs /= outputs.sum(axis=1, keepdims=True)
            return outputs
        logistic(outputs)
        if self._is_multilabel:
            return outputs
        return np.ones_like(outputs) if len(self.classes_) == 1 else np.hstack([1 - outputs, outputs])

    def _entropy(self, proba: Array) -> Array:
        both = np.stack([proba, 1 - proba]) if self._is_multilabel else proba[np.newaxis]
        positive = np.maximum(both, np.finfo(np.float64).tiny)
        return np.asarray(0.0 - (positive * np.log(positive)).sum(axis=(0, 2)))

    def _score_of(self, outputs: Array, targets: Array, weights: Array | None) -> float:
        chosen = self._chosen(outputs)
        if targets.ndim == 2 and not self._is_multilabel:
            targets = targets[:, 0].astype(np.intp) * (len(self.classes_) - 1)
        return float(accuracy_score(targets, chosen, sample_weight=weights))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


def _weights_of(class_weight: dict[Any, float], classes: Array, y: Array) -> Array:
    """Return the weight of each label of y, 1 for classes that the dict leaves out; ValueError for a dict of others."""
    of_classes: Array = compute_class_weight(class_weight, classes=classes, y=classes)
    return of_classes[np.searchsorted(classes, y)]
