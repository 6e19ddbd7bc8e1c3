"""The estimators follow scikit-learn's rules, are scikit-learn's networks without dropout, and predict uncertainty."""

import copy
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest

pytest.importorskip("sklearn", minversion="1.6")

import scipy.sparse
import scipy.special
from conftest import switches_settings
from sklearn import config_context, datasets
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from cdropout.sklearn import DropoutMLPClassifier, DropoutMLPRegressor
from cdropout.sklearn import base as base_module

# scikit-learn's checks and short fits end before they converge.
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

BOTH = (DropoutMLPClassifier, DropoutMLPRegressor)
KINDS = (
    *(("elementwise", "relu"), ("elementwise", "tanh"), ("feature", "relu"), ("gaussian", "relu")),
    *(("alpha", "selu"), ("compact", "relu")),
)


@pytest.fixture(scope="module")
def digits():
    x, y = datasets.load_digits(return_X_y=True)
    return x[:600] / 16, y[:600]


@pytest.fixture(scope="module")
def diabetes():
    x, y = datasets.load_diabetes(return_X_y=True)
    return x, (y - y.mean()) / y.std()


def data_for(estimator, digits, diabetes):
    return digits if isinstance(estimator, DropoutMLPClassifier) else diabetes


def coefficients(fitted):
    return [*fitted.coefs_, *fitted.intercepts_]


def assert_same_weights(a, b, **tolerance):
    for one, other in zip(coefficients(a), coefficients(b), strict=True):
        np.testing.assert_allclose(one, other, **{"rtol": 0, "atol": 0, **tolerance})


# ---- scikit-learn's rules -------------------------------------------------------------------------------------------


@parametrize_with_checks(
    [
        DropoutMLPClassifier(max_iter=100),
        DropoutMLPRegressor(max_iter=100),
        DropoutMLPClassifier(max_iter=100, batch_norm=True),
    ]
)
def test_scikit_learns_checks_pass(estimator, check):
    check(estimator)


@pytest.mark.ci
@parametrize_with_checks(
    [
        DropoutMLPClassifier(),
        DropoutMLPRegressor(),
        *(
            estimator((40, 30), activation, dropout_kind=kind, dropout=0.1, input_dropout=0.05, max_norm=8)
            for estimator in BOTH
            for kind, activation in (("alpha", "selu"), ("compact", "relu"))
        ),
    ]
)
def test_scikit_learns_checks_pass_for_every_kind_of_dropout(estimator, check):
    name = getattr(check, "func", check).__name__
    # An estimator that drops inputs has no way to draw the same masks for a sparse and a dense X.
    if name.startswith("check_sample_weight_equivalence") and estimator.get_params()["input_dropout"]:
        estimator = clone(estimator).set_params(input_dropout=0.0)
    check(estimator)


def test_importing_cdropout_imports_no_scikit_learn():
    code = "import sys, cdropout; assert not {'sklearn', 'cdropout.sklearn', 'cdropout.networks'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-P", "-c", code], check=True)


def test_parameters_and_defaults_are_those_of_scikit_learns_networks():
    for ours, theirs in ((DropoutMLPClassifier, MLPClassifier), (DropoutMLPRegressor, MLPRegressor)):
        own, other = ours().get_params(), theirs().get_params()
        added = {"dropout", "input_dropout", "dropout_kind", "max_norm", "batch_norm", "checkpoint", "class_weight"}
        assert own.keys() - other.keys() <= added
        assert other.keys() - own.keys() <= {"max_fun", "loss"}
        assert {name: own[name] for name in own.keys() & other.keys()} == {
            name: other[name] for name in own.keys() & other.keys()
        }


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"solver": "sgd", "learning_rate": "adaptive", "tol": 0.1},
        {"solver": "sgd", "learning_rate": "invscaling", "nesterovs_momentum": False},
        {"activation": "tanh"},
        {"activation": "logistic", "alpha": 1.0},
        {"early_stopping": True},
        {"batch_size": 50, "shuffle": False},
    ],
)
@pytest.mark.parametrize("target", ["classes", "two classes", "labels", "numbers", "rows"])
def test_without_dropout_fits_are_those_of_scikit_learns_networks(digits, options, target):
    x, y = digits[0][:200], digits[1][:200]
    y = {
        "classes": y,
        "two classes": np.array(["no", "yes"])[(y > 4).astype(int)],
        "labels": (y[:, np.newaxis] >> np.arange(3)) & 1,
        "numbers": y / 9,
        "rows": np.stack([y, -y], axis=1) / 9,
    }[target]
    is_classified = target in ("classes", "two classes", "labels")
    ours, theirs = (DropoutMLPClassifier, MLPClassifier) if is_classified else (DropoutMLPRegressor, MLPRegressor)
    common = {"hidden_layer_sizes": (20, 10), "max_iter": 8, "random_state": 3, "n_iter_no_change": 2} | options
    own, other = ours(dropout=0, **common).fit(x, y), theirs(**common).fit(x, y)
    assert_same_weights(own, other, atol=1e-9)
    np.testing.assert_allclose(own.loss_curve_, other.loss_curve_, rtol=1e-9)
    np.testing.assert_array_equal(own.predict(x), other.predict(x)) if is_classified else np.testing.assert_allclose(
        own.predict(x), other.predict(x), atol=1e-9
    )
    for name in ("n_iter_", "t_", "n_layers_", "n_outputs_", "out_activation_"):
        assert getattr(own, name) == getattr(other, name), name
    assert own.score(x, y) == pytest.approx(other.score(x, y))
    if is_classified:
        np.testing.assert_allclose(own.predict_proba(x), other.predict_proba(x), atol=1e-9)
        np.testing.assert_allclose(own.predict_log_proba(x), other.predict_log_proba(x), rtol=1e-6)
    if options.get("early_stopping"):
        np.testing.assert_allclose(own.validation_scores_, other.validation_scores_, atol=1e-9)
        assert own.best_validation_score_ == pytest.approx(other.best_validation_score_)


@pytest.mark.parametrize("estimator", BOTH)
def test_partial_fits_and_warm_starts_are_those_of_scikit_learns_networks(digits, estimator):
    x, y = digits[0][:300], digits[1][:300]
    classes = {"classes": np.arange(10)} if estimator is DropoutMLPClassifier else {}
    theirs = MLPClassifier if estimator is DropoutMLPClassifier else MLPRegressor
    own, other = estimator(dropout=0, random_state=1), theirs(random_state=1)
    for begin in (0, 100, 200):
        for each in (own, other):
            each.partial_fit(x[begin : begin + 100], y[begin : begin + 100], **classes)
    assert_same_weights(own, other, atol=1e-12)
    np.testing.assert_allclose(own.loss_curve_, other.loss_curve_)
    own, other = (each.set_params(warm_start=True, max_iter=3) for each in (own, other))
    assert_same_weights(own.fit(x, y), other.fit(x, y), atol=1e-12)
    assert len(own.loss_curve_) == 6


@pytest.mark.parametrize("estimator", BOTH)
def test_a_fit_is_the_same_each_time_and_float32_stays_float32(estimator, digits, diabetes):
    x, y = data_for(estimator(), digits, diabetes)
    one, other = (estimator((16,), max_iter=3, random_state=0).fit(x.astype(np.float32), y) for _ in range(2))
    assert_same_weights(one, other)
    assert {array.dtype for array in coefficients(one)} == {np.dtype(np.float32)}
    predict = one.predict_proba if estimator is DropoutMLPClassifier else one.predict
    assert predict(x.astype(np.float32)).dtype == np.float32
    double = estimator((16,), max_iter=3, random_state=0).fit(x, y)
    assert {array.dtype for array in coefficients(double)} == {np.dtype(np.float64)}
    assert_same_weights(one, double, atol=1e-3)


@pytest.mark.parametrize("estimator", BOTH)
def test_pickles_predict_and_continue_the_same(estimator, digits, diabetes):
    x, y = data_for(estimator(), digits, diabetes)
    fitted = estimator((16,), max_iter=3, random_state=0).fit(x, y)
    loaded = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(loaded.predict(x), fitted.predict(x))
    assert_same_weights(loaded.partial_fit(x, y), fitted.partial_fit(x, y))


@pytest.mark.parametrize(("kind", "activation"), KINDS)
def test_every_kind_of_dropout_learns(digits, kind, activation):
    x, y = digits
    common = {"dropout": (0.3, 0.2), "input_dropout": 0.1, "learning_rate_init": 0.01, "random_state": 0}
    fitted = DropoutMLPClassifier((64, 32), activation, dropout_kind=kind, max_iter=25, **common).fit(x[:400], y[:400])
    assert fitted.score(x[400:], y[400:]) > 0.8
    assert fitted.loss_curve_[-1] < fitted.loss_curve_[0] / 2
    proba = fitted.predict_proba(x[400:], n_samples=20)
    assert np.mean(proba.argmax(axis=1) == y[400:]) > 0.75
    np.testing.assert_allclose(proba.sum(axis=1), 1)


def test_dropout_changes_a_fit_and_its_rate_and_kind_do(digits):
    common = {"hidden_layer_sizes": (16,), "max_iter": 1, "random_state": 0}
    options = [
        {"dropout": 0.0},
        {"dropout": 0.5},
        {"dropout": 0.2},
        {"dropout_kind": "feature"},
        {"input_dropout": 0.2},
    ]
    fits = [DropoutMLPClassifier(**common, **each).fit(*digits).coefs_[0].tobytes() for each in options]
    assert len(set(fits)) == len(fits)


def test_sparse_input_gives_the_fit_of_dense_input(digits):
    x, y = digits
    for container in (scipy.sparse.csr_array, scipy.sparse.csc_matrix):
        dense = DropoutMLPClassifier((16,), max_iter=3, random_state=0).fit(x, y)
        sparse = DropoutMLPClassifier((16,), max_iter=3, random_state=0).fit(container(x), y)
        assert_same_weights(dense, sparse, atol=1e-9)
        np.testing.assert_allclose(dense.predict_proba(x), sparse.predict_proba(container(x)))
        np.testing.assert_allclose(
            dense.predict_proba(x, n_samples=3), sparse.predict_proba(container(x), n_samples=3), atol=1e-9
        )
    dropping = DropoutMLPClassifier((16,), max_iter=3, input_dropout=0.2, random_state=0).fit(container(x), y)
    assert dropping.predict_proba(container(x), n_samples=3).shape == (600, 10)


@pytest.mark.parametrize("weights", ["counts", "weights"])
def test_weights_count_as_copies_in_one_batch(digits, weights):
    x, y = digits[0][:50], digits[1][:50]
    counts = np.random.default_rng(0).integers(0, 4, 50)
    common = {"hidden_layer_sizes": (16,), "max_iter": 20, "random_state": 0, "alpha": 0}
    repeated = DropoutMLPClassifier(**common).fit(np.repeat(x, counts, axis=0), np.repeat(y, counts))
    order = np.random.default_rng(1).permutation(50)
    weighted = DropoutMLPClassifier(**common).fit(x[order], y[order], sample_weight=counts[order])
    assert_same_weights(repeated, weighted)


def test_class_weights_multiply_the_weights_of_samples(digits):
    x, y = digits
    common = {"hidden_layer_sizes": (16,), "max_iter": 2, "random_state": 0}
    by_class = DropoutMLPClassifier(**common, class_weight={0: 2.5}).fit(x, y)
    by_sample = DropoutMLPClassifier(**common).fit(x, y, sample_weight=np.where(y == 0, 2.5, 1))
    assert_same_weights(by_class, by_sample)
    common |= {"max_iter": 20}
    balanced = DropoutMLPClassifier(**common, class_weight="balanced").fit(x, y > 0)
    plain = DropoutMLPClassifier(**common).fit(x, y > 0)
    assert balanced.predict_proba(x)[:, 0].mean() > plain.predict_proba(x)[:, 0].mean() + 0.1


def test_class_weights_of_a_batch_without_some_classes_are_those_of_all_classes(digits):
    x, y = digits
    names, batch = np.array([f"digit {label}" for label in y]), y > 4
    common = {"hidden_layer_sizes": (16,), "random_state": 0}
    for class_weight in ({"digit 3": 2.5}, {"digit 3": 2.5, "digit 7": 3}):
        by_class = DropoutMLPClassifier(**common, class_weight=class_weight)
        by_class.partial_fit(x[batch], names[batch], classes=np.unique(names))
        weights = np.array([class_weight.get(name, 1) for name in names])
        by_sample = DropoutMLPClassifier(**common)
        by_sample.partial_fit(x[batch], names[batch], sample_weight=weights[batch], classes=np.unique(names))
        assert_same_weights(by_class, by_sample)
    with pytest.raises(ValueError, match="are not in class_weight"):
        DropoutMLPClassifier(**common, class_weight={"digit 30": 2}).partial_fit(x, names, classes=np.unique(names))


def test_class_weights_of_labels_that_a_batch_lacks_are_one_factor_for_each_label(digits):
    x, y = digits
    labels = np.stack([y > 4, y == 3], axis=1).astype(int)
    common = {"hidden_layer_sizes": (16,), "random_state": 0}
    given = [{1: 2}, {0: 3, 1: 5}]
    for batch in (y < 20, y > 4):
        by_class = DropoutMLPClassifier(**common, class_weight=given)
        by_class.partial_fit(x[batch], labels[batch], classes=[0, 1])
        weights = np.where(labels[:, 0] == 1, 2, 1) * np.where(labels[:, 1] == 1, 5, 3)
        by_sample = DropoutMLPClassifier(**common)
        by_sample.partial_fit(x[batch], labels[batch], sample_weight=weights[batch], classes=[0, 1])
        assert_same_weights(by_class, by_sample)


def test_classes_of_a_first_partial_fit_must_be_the_labels_of_a_matrix(digits):
    x, y = digits
    labels = np.stack([y > 4, y == 3], axis=1).astype(int)
    with pytest.raises(ValueError, match=r"classes must be the numbers of y's labels, \[0 1\], got \[0 1 2 3\]"):
        DropoutMLPClassifier((4,)).partial_fit(x, labels, classes=[0, 1, 2, 3])


@pytest.mark.parametrize("missing", [None, 3])
def test_labels_that_are_no_strings_among_strings_are_refused(missing, digits):
    x, y = digits
    for first in (0, 1):
        labels = y.astype(str).astype(object)
        labels[first] = missing
        with pytest.raises(ValueError, match="y must have a string for each sample, or for none"):
            DropoutMLPClassifier((4,)).fit(x, labels)


def test_incoming_weights_of_hidden_units_have_the_norm_limit(digits):
    fitted = DropoutMLPClassifier((32, 16), max_iter=10, max_norm=0.8, random_state=0, solver="sgd").fit(*digits)
    free = DropoutMLPClassifier((32, 16), max_iter=10, random_state=0, solver="sgd").fit(*digits)
    for coef, other in zip(fitted.coefs_[:-1], free.coefs_[:-1], strict=True):
        assert np.linalg.norm(coef, axis=0).max() <= 0.8 + 1e-12
        assert np.linalg.norm(other, axis=0).max() > 0.8


@pytest.mark.ci
def test_grid_search_finds_the_same_with_one_and_two_jobs(digits):
    grid = {
        "dropoutmlpclassifier__dropout": [0.0, 0.3],
        "dropoutmlpclassifier__dropout_kind": ["elementwise", "feature"],
    }
    pipeline = make_pipeline(
        StandardScaler(), DropoutMLPClassifier((16,), max_iter=15, learning_rate_init=0.01, random_state=0)
    )
    found = [GridSearchCV(pipeline, grid, cv=2, n_jobs=n_jobs).fit(*digits) for n_jobs in (1, 2)]
    assert found[0].best_score_ == found[1].best_score_
    assert found[0].best_params_ == found[1].best_params_
    assert found[0].best_score_ > 0.3


def test_weights_of_samples_are_routed_through_pipelines(digits):
    x, y = digits
    weights = np.where(y == 0, 5.0, 1.0)
    with config_context(enable_metadata_routing=True):
        classifier = DropoutMLPClassifier((16,), max_iter=2, random_state=0).set_fit_request(sample_weight=True)
        routed = make_pipeline(StandardScaler().set_fit_request(sample_weight=False), classifier).fit(
            x, y, sample_weight=weights
        )
        classifier.set_score_request(sample_weight=True)
        scores = cross_validate(classifier, x, y, params={"sample_weight": weights}, cv=2)
        assert np.isfinite(scores["test_score"]).all()
    direct = clone(classifier).fit(StandardScaler().fit_transform(x), y, sample_weight=weights)
    assert_same_weights(routed[-1], direct)


def test_data_frames_keep_their_names_and_unknown_ones_are_refused(digits):
    pandas = pytest.importorskip("pandas")
    x, y = digits
    frame = pandas.DataFrame(x[:, :3], columns=["a", "b", "c"])
    pipeline = make_pipeline(StandardScaler(), DropoutMLPClassifier((4,), max_iter=2)).set_output(transform="pandas")
    fitted = pipeline.fit(frame, pandas.Series(y))
    assert list(fitted[-1].feature_names_in_) == ["a", "b", "c"]
    assert fitted.predict(frame).shape == (600,)
    with pytest.raises(ValueError, match="feature names"):
        fitted[-1].predict(frame.rename(columns={"a": "z"}))


def test_a_fit_that_does_not_converge_warns_and_html_and_repr_show_what_was_chosen(digits):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ConvergenceWarning, match=r"Maximum iterations \(2\) reached"):
            DropoutMLPClassifier((4,), max_iter=2).fit(*digits)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        line = sys._getframe().f_lineno + 1
        DropoutMLPClassifier((4,), max_iter=2).fit(*digits)
    assert [(each.category, each.filename, each.lineno) for each in caught] == [(ConvergenceWarning, __file__, line)]
    assert repr(DropoutMLPClassifier(dropout=0.3)) == "DropoutMLPClassifier(dropout=0.3)"
    assert "DropoutMLPRegressor" in DropoutMLPRegressor()._repr_html_()


# ---- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"dropout": 1.0},
            r"The 'dropout' parameter of .* must be a number in \[0, 1\), or .* each of 2 hidden .* Got 1.0",
        ),
        ({"dropout": -0.1}, r"'dropout' .* Got -0.1 instead"),
        ({"dropout": [0.5, 0.5, 0.5]}, r"one such number for each of 2 hidden layers. Got \[0.5, 0.5, 0.5\] instead"),
        ({"dropout": "0.5"}, "'dropout' .* Got '0.5'"),
        ({"dropout": float("nan")}, "'dropout' .* Got nan"),
        ({"input_dropout": 1}, r"'input_dropout' .* \[0, 1\). Got 1"),
        ({"dropout_kind": "spatial"}, "'dropout_kind' .* one of 'elementwise', .* Got 'spatial'"),
        ({"dropout_kind": "alpha"}, "'activation' .* must be 'selu' for dropout_kind 'alpha'. Got 'relu'"),
        ({"dropout_kind": "compact", "activation": "tanh"}, "must be 'relu' for dropout_kind 'compact'. Got 'tanh'"),
        ({"solver": "lbfgs"}, "'solver' .* one of 'adam', 'sgd'. Got 'lbfgs'"),
        ({"max_norm": 0}, "'max_norm' .* Got 0"),
        ({"batch_size": 0}, "'batch_size' .* integer of at least 1. Got 0"),
        ({"max_iter": 0}, "'max_iter' .* Got 0"),
        ({"hidden_layer_sizes": (4, 0)}, r"hidden_layer_sizes must be integers > 0, got \(4, 0\)"),
        ({"checkpoint": 3}, "'checkpoint' .* the path of a file. Got 3"),
        ({"checkpoint": "fit.npz"}, "'random_state' .* for a fit with a checkpoint. Got None"),
        ({"batch_norm": True, "dropout_kind": "compact"}, "'batch_norm' .* False for dropout_kind 'compact'. Got True"),
        ({"batch_norm": True, "batch_size": 1}, "'batch_size' .* at least 2 for batch_norm=True. Got 1"),
        ({"validation_fraction": 1.0}, "'validation_fraction' .* Got 1.0"),
        ({"dropout": np.array(0.5)}, r"'dropout' .* Got array\(0.5\)"),
        ({"dropout": [0.5] * 2, "hidden_layer_sizes": 4}, "a list with one such number for the hidden layer. Got"),
        ({"hidden_layer_sizes": np.array(4)}, r"hidden_layer_sizes must be integers > 0, got array\(4\)"),
        ({"activation": np.array(["relu", "tanh"])}, "'activation' .* one of .*'relu'.* Got array"),
        ({"batch_size": np.array([8, 9])}, r"'batch_size' .* integer of at least 1. Got array\(\[8, 9\]\)"),
    ],
)
@pytest.mark.parametrize("estimator", BOTH)
def test_wrong_parameters_are_refused(estimator, parameters, message, digits):
    with pytest.raises(ValueError, match=message):
        estimator(**{"hidden_layer_sizes": (4, 4), **parameters}).fit(*digits)


def test_wrong_data_is_refused(digits):
    x, y = digits
    classifier = DropoutMLPClassifier((4,), max_iter=1)
    with pytest.raises(NotFittedError):
        classifier.predict_uncertainty(x)
    with pytest.raises(ValueError, match="Input X contains NaN"):
        classifier.fit(np.where(x > 0.9, np.nan, x), y)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        classifier.fit(x, y[:-1])
    with pytest.raises(ValueError, match="0 sample"):
        classifier.fit(x[:0], y[:0])
    with pytest.raises(ValueError, match="Negative values in data passed to `sample_weight`"):
        classifier.fit(x, y, sample_weight=np.where(y == 0, -1, 1))
    with pytest.raises(ValueError, match="Unknown label type"):
        classifier.fit(x, y + 0.5)
    with pytest.raises(ValueError, match="Unknown label type"):
        classifier.fit(x, np.stack([y, y], axis=1))
    with pytest.raises(ValueError, match="classes must be passed on the first call to partial_fit"):
        classifier.partial_fit(x, y)
    with pytest.raises(ValueError, match=r"`y` has classes not in `self.classes_`"):
        classifier.partial_fit(x, y, classes=[0, 1, 2])
    fitted = DropoutMLPClassifier((4,), max_iter=1).fit(x, y)
    with pytest.raises(ValueError, match="is not the same as on last call to partial_fit"):
        fitted.partial_fit(x, y, classes=[0, 1, 2])
    with pytest.raises(ValueError, match="expecting 64 features"):
        fitted.predict(x[:, 1:])
    with pytest.raises(ValueError, match="0 sample"):
        fitted.predict(x[:0])
    with pytest.raises(ValueError, match="n_samples must be at least 1, got 0"):
        fitted.predict_proba(x, n_samples=0)
    with pytest.raises(ValueError, match="non-finite parameter weights"):
        DropoutMLPRegressor((4,), max_iter=3, solver="sgd", learning_rate_init=1e30).fit(x, y)
    with pytest.raises(ValueError, match="non-finite parameter weights"):
        DropoutMLPClassifier((4,), max_iter=3, solver="sgd", learning_rate_init=1e100, early_stopping=True).fit(x, y)
    with pytest.raises(ValueError, match="n_samples must be at least 1, got -1"):
        DropoutMLPRegressor((4,), max_iter=1).fit(x, y).predict(x, n_samples=-1)


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_class_weights_that_are_negative_or_not_finite_are_refused(weight, digits):
    with pytest.raises(ValueError, match=rf"class_weight must have finite weights of at least 0, got {{3: {weight}}}"):
        DropoutMLPClassifier((4,), max_iter=1, class_weight={3: weight}).fit(*digits)


@pytest.mark.parametrize("name", ["batch_norm", "shuffle", "warm_start", "nesterovs_momentum", "early_stopping"])
def test_switches_are_booleans(name, digits):
    for value in (1, "yes", None):
        with pytest.raises(ValueError, match=rf"'{name}' .* an instance of 'bool' or .* 'numpy.bool'. Got {value!r}"):
            DropoutMLPClassifier((4,), max_iter=1, **{name: value}).fit(*digits)
    one, other = (
        DropoutMLPClassifier((4,), max_iter=1, random_state=0, **{name: value}).fit(*digits)
        for value in (True, np.bool_(True))
    )
    assert_same_weights(one, other)


@pytest.mark.parametrize("estimator", BOTH)
def test_a_fit_that_fails_leaves_the_estimator_as_it_was(estimator, digits, diabetes):
    x, y = data_for(estimator(), digits, diabetes)
    options = {"max_iter": 2, "random_state": 0, "solver": "sgd"}
    diverging = estimator((4,), **options, learning_rate_init=1e100)
    with pytest.raises(ValueError, match="non-finite parameter weights"):
        diverging.fit(x, y)
    with pytest.raises(NotFittedError):
        diverging.predict(x)
    assert vars(diverging) == diverging.get_params()

    fitted = estimator((4,), **options).fit(x, y)
    before, predicted = dict(vars(fitted)), fitted.predict(x)
    losses, arrays = list(fitted.loss_curve_), [array.copy() for array in coefficients(fitted)]
    masks = fitted._mask_stream.state
    for warm_start in (False, True):
        changed = {"learning_rate_init": 1e100, "warm_start": warm_start}
        with pytest.raises(ValueError, match="non-finite parameter weights"):
            fitted.set_params(**changed).fit(x, y)
        with pytest.raises(ValueError, match="non-finite parameter weights"):
            fitted.partial_fit(x * 1e307, y)
        with pytest.raises(ValueError, match="validation set is too small"):
            fitted.set_params(early_stopping=True, validation_fraction=1e-9).fit(x, y)
        fitted.set_params(**{name: before[name] for name in fitted.get_params()})
        assert vars(fitted).keys() == before.keys()
        assert all(vars(fitted)[name] is value for name, value in before.items())
        np.testing.assert_array_equal(fitted.predict(x), predicted)
        assert fitted.loss_curve_ == losses
        assert fitted._mask_stream.state == masks
        for array, expected in zip(coefficients(fitted), arrays, strict=True):
            np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize("estimator", BOTH)
def test_a_shallow_copy_that_learns_on_leaves_the_original_as_it_was(estimator, digits, diabetes):
    x, y = data_for(estimator(), digits, diabetes)
    original, expected = (estimator((4,), max_iter=2, random_state=0).fit(x, y) for _ in range(2))
    copied = copy.copy(original)
    copied.partial_fit(x, y)
    assert len(copied.loss_curve_) == 3
    assert_same_weights(original, expected)
    assert original.loss_curve_ == expected.loss_curve_
    original.partial_fit(x, y)
    assert_same_weights(original, copied)
    assert original.loss_curve_ == copied.loss_curve_


def test_the_kind_of_dropout_of_the_fit_is_that_of_its_predictions(digits):
    fitted = DropoutMLPClassifier((16,), max_iter=2, random_state=0).fit(*digits)
    expected = fitted.predict_uncertainty(digits[0], 5)
    fitted.set_params(dropout_kind="gaussian", dropout=0.1)
    np.testing.assert_array_equal(fitted.predict_uncertainty(digits[0], 5).proba, expected.proba)


def test_repeated_entries_of_a_sparse_matrix_are_summed(digits):
    x, y = digits
    single = scipy.sparse.csr_array(x)
    data, indices = np.repeat(single.data / 2, 2), np.repeat(single.indices, 2)
    repeated = scipy.sparse.csr_array((data, indices, 2 * single.indptr), shape=single.shape)
    common = {"hidden_layer_sizes": (16,), "max_iter": 2, "random_state": 0, "input_dropout": 0.2}
    assert_same_weights(*(DropoutMLPClassifier(**common).fit(each, y) for each in (single, repeated)))
    assert repeated.nnz == 2 * single.nnz  # the matrix of the caller is not changed


# ---- batch normalization --------------------------------------------------------------------------------------------

# Without masks, shuffling and a state of the optimizer, epochs are the same in one call or in several.
STEADY = {"dropout": 0, "shuffle": False, "solver": "sgd", "momentum": 0, "learning_rate_init": 0.1, "random_state": 0}


def normalized(estimator, **options):
    return estimator(**{"hidden_layer_sizes": (16, 8), "batch_norm": True, "max_iter": 3} | options)


@pytest.mark.parametrize(("kind", "activation"), [given for given in KINDS if given[0] != "compact"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_batch_norm_learns_with_every_kind_of_dropout(digits, kind, activation, dtype):
    x, y = digits[0].astype(dtype), digits[1]
    options = {"dropout": 0.2, "dropout_kind": kind, "activation": activation, "learning_rate_init": 0.01}
    fitted = normalized(DropoutMLPClassifier, **options, hidden_layer_sizes=(64, 32), max_iter=25, random_state=0)
    fitted.fit(x[:400], y[:400])
    assert fitted.score(x[400:], y[400:]) > 0.8
    assert {array.dtype for array in coefficients(fitted)} == {np.dtype(dtype)}
    proba = fitted.predict_proba(x[400:], n_samples=20)
    assert np.mean(proba.argmax(axis=1) == y[400:]) > 0.8


@pytest.mark.parametrize("estimator", BOTH)
def test_coefficients_of_a_fit_with_batch_norm_are_those_of_its_predictions(estimator, digits, diabetes):
    x, y = data_for(estimator(), digits, diabetes)
    fitted = normalized(estimator, random_state=0).fit(x, y)
    for coef, intercept in zip(fitted.coefs_[:-1], fitted.intercepts_[:-1], strict=True):
        x = np.maximum(x @ coef + intercept, 0)
    outputs = x @ fitted.coefs_[-1] + fitted.intercepts_[-1]
    x = data_for(estimator(), digits, diabetes)[0]
    if estimator is DropoutMLPClassifier:
        np.testing.assert_allclose(fitted.predict_log_proba(x), scipy.special.log_softmax(outputs, axis=1), rtol=1e-9)
    else:
        np.testing.assert_allclose(fitted.predict(x), outputs[:, 0], rtol=1e-9)


@pytest.mark.parametrize("estimator", BOTH)
def test_fits_with_batch_norm_continue_where_they_ended(estimator, digits, diabetes):
    x, y = data_for(estimator(), digits, diabetes)
    classes = {"classes": np.arange(10)} if estimator is DropoutMLPClassifier else {}
    whole = normalized(estimator, **STEADY, max_norm=0.9).fit(x, y)
    partial, warm = (normalized(estimator, **STEADY, max_norm=0.9, warm_start=True, max_iter=1) for _ in range(2))
    for _ in range(3):
        partial = pickle.loads(pickle.dumps(partial.partial_fit(x, y, **classes)))
        warm.fit(x, y)
    assert_same_weights(partial, whole)
    assert_same_weights(warm, whole)
    np.testing.assert_array_equal(partial.predict(x), whole.predict(x))
    weights = whole._network_state[0]
    assert np.linalg.norm(weights, axis=0).max() == pytest.approx(0.9)  # max_norm is that of the weights that learn
    assert np.linalg.norm(whole.coefs_[0], axis=0).max() > 0.95


def test_fits_with_batch_norm_begin_with_the_weights_of_other_fits_and_without_biases(digits):
    still = {"solver": "sgd", "learning_rate_init": 1e-30, "max_iter": 1, "random_state": 0}
    fitted, plain = (DropoutMLPClassifier((16,), **still, batch_norm=is_normalized) for is_normalized in (True, False))
    weight, beta, output_weight, output_bias, gamma, _, _ = fitted.fit(*digits)._network_state
    plain.fit(*digits)
    for array, expected in ((weight, plain.coefs_[0]), (output_weight, plain.coefs_[1]), (gamma, np.ones(16))):
        np.testing.assert_array_equal(array, expected)
    np.testing.assert_allclose(beta, 0, atol=1e-20)
    np.testing.assert_allclose(output_bias, plain.intercepts_[1], rtol=1e-12)


def test_means_and_variances_do_not_depend_on_sample_weights(digits):
    still = {"solver": "sgd", "learning_rate_init": 1e-30, "dropout": 0, "batch_size": 100, "random_state": 0}
    weights = np.random.default_rng(0).uniform(0.5, 2, 600)
    plain, weighted = (
        normalized(DropoutMLPClassifier, **still).fit(*digits, sample_weight=each) for each in (None, weights)
    )
    assert plain.loss_ != weighted.loss_
    for one, other in zip(plain._network_state[-4:], weighted._network_state[-4:], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.filterwarnings("error")
def test_a_fit_with_batch_norm_that_diverges_is_refused_without_warnings(diabetes):
    x, y = diabetes
    for options, scale in (({"solver": "sgd", "learning_rate_init": 1e100}, 1), ({}, 1e200), ({}, 1e300)):
        with pytest.raises(ValueError, match="non-finite parameter weights"):
            normalized(DropoutMLPRegressor, **options, tol=1e300, n_iter_no_change=1).fit(x * scale, y)


def test_batch_norm_must_stay_as_it_was_in_the_first_fit(digits):
    for first in (False, True):
        fitted = DropoutMLPClassifier((4,), batch_norm=first, max_iter=1, warm_start=True).fit(*digits)
        with pytest.raises(ValueError, match=f"batch_norm must stay as it was in the first fit, {first}"):
            fitted.set_params(batch_norm=not first).fit(*digits)
        with pytest.raises(ValueError, match=f"batch_norm must stay as it was in the first fit, {first}"):
            fitted.partial_fit(*digits)
        fitted.set_params(warm_start=False).fit(*digits)  # a new first fit


@pytest.mark.parametrize("estimator", BOTH)
def test_last_batches_of_one_sample_are_learned_with_batch_norm(estimator, digits, diabetes):
    x, y = data_for(estimator(), digits, diabetes)
    options = STEADY | {"batch_size": 20, "hidden_layer_sizes": (4,), "max_iter": 1}
    even, odd = (normalized(estimator, **options).fit(x[:n], y[:n]) for n in (100, 101))
    assert [fitted._optimizer_state["n_steps"] for fitted in (even, odd)] == [5, 6]
    for one, other in zip(even._network_state[-2:], odd._network_state[-2:], strict=True):
        np.testing.assert_array_equal(one, other)  # the mean and the variance
    assert not np.array_equal(even._network_state[0], odd._network_state[0])
    streamed = even.partial_fit(x[100:101], y[100:101])
    assert_same_weights(streamed, odd)


@pytest.mark.parametrize("estimator", BOTH)
def test_a_first_fit_of_one_sample_with_batch_norm_is_refused(estimator, diabetes):
    x, y = diabetes[0][:1], np.array([1])
    classes = {"classes": [0, 1]} if estimator is DropoutMLPClassifier else {}
    fresh = normalized(estimator)
    for learn in (lambda: fresh.fit(x, y), lambda: fresh.partial_fit(x, y, **classes)):
        with pytest.raises(ValueError, match=r"batch_norm=True needs at least 2 .* got n_samples=1"):
            learn()
    assert not hasattr(fresh, "coefs_")


def test_early_stopping_scores_and_keeps_the_running_statistics(digits, monkeypatch):
    (x, y), splits, split = digits, [], base_module.train_test_split
    monkeypatch.setattr(
        base_module, "train_test_split", lambda *given, **options: splits.append(split(*given, **options)) or splits[-1]
    )
    options = {"early_stopping": True, "learning_rate_init": 0.05, "dropout": 0.5, "random_state": 0}
    fitted = normalized(DropoutMLPClassifier, **options, max_iter=12).fit(x, y)
    best = int(np.argmax(fitted.validation_scores_)) + 1
    assert best < fitted.n_iter_, "the last epoch must not be the best one"
    shorter = normalized(DropoutMLPClassifier, **options, max_iter=best).fit(x, y)
    assert_same_weights(fitted, shorter)
    for one, other in zip(fitted._network_state, shorter._network_state, strict=True):
        np.testing.assert_array_equal(one, other)
    validated = splits[0][1]
    assert fitted.score(x[validated], y[validated]) == fitted.best_validation_score_


def test_pickles_from_before_batch_norm_predict_and_continue(digits):
    fitted, expected = (DropoutMLPClassifier((4,), max_iter=1, random_state=0).fit(*digits) for _ in range(2))
    del fitted.batch_norm, fitted._network_state
    loaded = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(loaded.predict(digits[0]), expected.predict(digits[0]))
    assert_same_weights(loaded.partial_fit(*digits), expected.partial_fit(*digits))


# ---- uncertainty ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def regressor(diabetes):
    options = {"dropout": 0.2, "learning_rate_init": 0.01, "max_iter": 30, "random_state": 0}
    return DropoutMLPRegressor((64, 64), **options).fit(*diabetes)


@pytest.fixture(scope="module")
def classifier(digits):
    return DropoutMLPClassifier((64, 64), input_dropout=0.1, learning_rate_init=0.01, max_iter=30, random_state=0).fit(
        *digits
    )


@switches_settings
def test_uncertainty_is_the_same_for_every_number_of_jobs_and_chunk(classifier, digits, monkeypatch):
    x = digits[0]
    monkeypatch.setattr(base_module, "BLOCK_ROWS", 100)
    whole = classifier.predict_uncertainty(x, 10)
    for other in (
        classifier.predict_uncertainty(x, 10, n_jobs=2),
        classifier.predict_uncertainty(x, 10, n_jobs=3),
        [
            np.concatenate(p)
            for p in zip(*(classifier.predict_uncertainty(x[i : i + 77], 10) for i in range(0, 600, 77)), strict=True)
        ],
    ):
        for one, another in zip(whole, other, strict=True):
            np.testing.assert_allclose(one, another, atol=1e-9)
    again = classifier.predict_uncertainty(x, 10)
    for one, another in zip(whole, again, strict=True):
        np.testing.assert_array_equal(one, another)


def test_uncertainty_agrees_with_networks_with_separate_masks_for_rows(regressor, diabetes):
    """The mean and std over 2,000 sub-networks are those of 2,000 passes with a mask for each element."""
    import cdropout as cd
    from cdropout.networks import MLP

    x = diabetes[0][:40]
    mean, std = regressor.predict(x, return_std=True, n_samples=2000)
    network = MLP((10, 64, 64, 1), p=(0.2, 0.2), rng=cd.Stream(5), dtype=np.float64, n_rows=40)
    for param, value in zip(network.params, regressor._params(), strict=True):
        param[...] = value
    passes = np.stack([network.forward(x.copy())[:, 0].copy() for _ in range(2000)])
    error = std / np.sqrt(2000)  # the standard error of each mean
    assert np.abs(mean - passes.mean(axis=0)).max() < 6 * error.max()
    np.testing.assert_allclose(std, passes.std(axis=0), rtol=0.15)  # 0.016 is the standard error


def test_the_spread_of_predictions_is_returned_when_asked(regressor, diabetes):
    x = diabetes[0]
    plain = regressor.predict(x)
    mean, std = regressor.predict(x, return_std=True)
    assert plain.shape == mean.shape == std.shape == (442,)
    assert (std > 0).all()
    assert np.corrcoef(plain, mean)[0, 1] > 0.98
    still = DropoutMLPRegressor((8,), dropout=0, max_iter=2, random_state=0).fit(x, plain)
    mean, std = still.predict(x, return_std=True, n_samples=3)
    np.testing.assert_allclose(mean, still.predict(x))
    np.testing.assert_allclose(std, 0, atol=1e-12)
    rows = DropoutMLPRegressor((8,), max_iter=2, random_state=0).fit(x, np.stack([plain, -plain], axis=1))
    assert [part.shape for part in rows.predict(x, return_std=True, n_samples=3)] == [(442, 2)] * 2


def test_entropy_and_mutual_information_are_larger_for_noise(classifier, digits):
    known = classifier.predict_uncertainty(digits[0], 30)
    noise = classifier.predict_uncertainty(np.random.default_rng(0).random((300, 64)), 30)
    assert noise.entropy.mean() > 1.3 * known.entropy.mean()
    assert noise.mutual_information.mean() > known.mutual_information.mean()
    assert (known.mutual_information <= known.entropy + 1e-12).all()
    assert (known.entropy <= np.log(10) + 1e-12).all()
    np.testing.assert_array_equal(known.proba, classifier.predict_proba(digits[0], n_samples=30))


def test_labels_have_an_entropy_each(digits):
    x, y = digits
    labels = (y[:, np.newaxis] >> np.arange(3)) & 1
    fitted = DropoutMLPClassifier((16,), max_iter=3, random_state=0).fit(x, labels)
    found = fitted.predict_uncertainty(x, 5)
    p = found.proba
    np.testing.assert_allclose(found.entropy, -(p * np.log(p) + (1 - p) * np.log(1 - p)).sum(axis=1))
    assert p.shape == (600, 3)
    assert found.mutual_information.shape == (600,)
