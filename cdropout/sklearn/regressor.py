"""The regressor."""

from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score

from cdropout.checks import check_integer
from cdropout.networks import Loss, squared_loss
from cdropout.sklearn.base import BaseDropoutMLP
from cdropout.sklearn.chunks import by_chunks

Array = npt.NDArray[Any]


class DropoutMLPRegressor(RegressorMixin, BaseDropoutMLP):  # type: ignore[misc]
    """Multilayer perceptron with dropout that minimizes the squared error.

    Parameters
    ----------
    hidden_layer_sizes : int or sequence of int, default=(100,)
        The number of units of each hidden layer.
    activation : {"relu", "identity", "logistic", "tanh", "selu"}, default="relu"
        The activation of hidden layers. "selu" begins with normal weights of variance 1 / n_inputs, the others with the
        weights of scikit-learn's networks.
    dropout : float or sequence of float, default=0.1
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
        As in scikit-learn's `MLPRegressor`.
    random_state : int, RandomState instance or None, default=None
        Draws the initial weights, the order of the samples, the validation set and the masks. Except for masks, an int
        draws what it draws in `MLPRegressor`.
    verbose : bool or int, default=False
        Whether to show a progress bar on stderr, or a line for each epoch if tqdm is not installed.
    momentum, nesterovs_momentum, early_stopping, validation_fraction, beta_1, beta_2, epsilon, n_iter_no_change
        As in `MLPRegressor`.
    checkpoint : path, default=None
        A file to which `fit` saves its state every ten seconds and at its end. A fit with the same parameters and data
        continues from it, and ends with the same weights, bit for bit; after the end it returns them. A fit that
        differs raises `ValueError`, and so does a second one at the same time. Needs a `random_state`. `partial_fit`
        ignores it.

    Attributes
    ----------
    coefs_, intercepts_ : list of ndarray
        The weights (n_in, n_out) and biases (n_out,) of each layer. With batch_norm, they include the normalization,
        and a fit that continues does not read them.
    loss_curve_ : list of float
        The mean training loss of each epoch, with dropout and the L2 penalty.
    validation_scores_ : list of float or None
        The score of the validation set after each epoch, weighted by sample_weight; None without early
        stopping.
    best_loss_, best_validation_score_ : float or None
        The lowest training loss, None with early stopping; the highest validation score, None without.
    loss_, n_iter_, t_, n_layers_, n_outputs_, out_activation_, n_features_in_, feature_names_in_
        As in `MLPRegressor`.

    Notes
    -----
    X may be larger than memory, as an `np.memmap` of float32 or float64: batches are gathered from it one at a time. An
    X of another dtype is copied as a whole. A fit in one batch, as of few samples, depends on the set of samples only,
    not on their order, and a weight of 2 has the effect of the same sample twice; `t_` then counts both.

    See Also
    --------
    DropoutMLPClassifier : The classifier.

    Examples
    --------
    >>> from sklearn.datasets import make_regression
    >>> from cdropout.sklearn import DropoutMLPRegressor
    >>> X, y = make_regression(200, 5, random_state=0)
    >>> regressor = DropoutMLPRegressor(max_iter=500, learning_rate_init=0.01, random_state=0).fit(X, y)
    >>> mean, std = regressor.predict(X[:3], return_std=True)
    >>> mean.shape, std.shape
    ((3,), (3,))

    """

    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        activation: str = "relu",
        *,
        dropout: Any = 0.1,
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
        self.checkpoint = checkpoint

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit the network.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The inputs; float32 stays float32, other dtypes become float64.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            The targets.
        sample_weight : array-like of shape (n_samples,), default=None
            The weights of the samples, at least 0.

        Returns
        -------
        DropoutMLPRegressor
            The fitted estimator itself.

        Raises
        ------
        ValueError
            For invalid parameters or data, or weights that are not finite at the end.

        """
        return self._fit(X, y, sample_weight, incremental=False)

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Learn the samples once: one epoch.

        Parameters
        ----------
        X, y, sample_weight
            As in `fit`. A Dask array X, with a Dask or NumPy array y, is learned chunk by chunk.

        Returns
        -------
        DropoutMLPRegressor
            The fitted estimator itself.

        """
        for rows, targets, weights in by_chunks(X, y, sample_weight):
            self._fit(rows, targets, weights, incremental=True)
        return self

    def predict(
        self, X: Any, return_std: bool = False, *, n_samples: int = 100, n_jobs: int | None = None
    ) -> Array | tuple[Array, Array]:
        """Predict targets.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The inputs.
        return_std : bool, default=False
            Whether to predict by Monte Carlo dropout: the mean and the standard deviation over sub-networks, instead of
            the whole network.
        n_samples : int, default=100
            The number of sub-networks. Each is the same for all rows, in every call, so that the prediction for a row
            does not depend, except for rounding, on the other rows of X.
        n_jobs : int or None, default=None
            The number of threads, as in `joblib.Parallel`; the results are the same for each, except for rounding.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
            The predictions; with return_std their mean.
        std : ndarray of the same shape
            With return_std only. It does not include the noise of the targets.

        """
        check_integer("n_samples", n_samples, 1)
        if not return_std:
            return _column(self._outputs(X))
        mean, std, _ = self._moments(X, n_samples, n_jobs, lambda outputs: outputs)
        dtype = self.coefs_[0].dtype
        return _column(mean.astype(dtype)), _column(std.astype(dtype))

    def _encode(self, y: Array, *, is_first: bool, incremental: bool) -> Array:
        targets = y.reshape(len(y), -1).astype(np.float64, copy=False)
        if is_first:
            self.n_outputs_, self.out_activation_ = targets.shape[1], "identity"
        elif targets.shape[1] != self.n_outputs_:
            raise ValueError(f"y must have the {self.n_outputs_} outputs of the first fit, got {targets.shape[1]}")
        return targets

    def _loss(self) -> Loss:
        return squared_loss

    def _score_of(self, outputs: Array, targets: Array, weights: Array | None) -> float:
        return float(r2_score(targets, outputs, sample_weight=weights))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


def _column(outputs: Array) -> Array:
    return outputs.ravel() if outputs.shape[1] == 1 else outputs
