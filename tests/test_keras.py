"""Keras 3 on its NumPy backend, with dropout from this library."""

import os

import numpy as np
import pytest

os.environ.setdefault("KERAS_BACKEND", "numpy")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

keras = pytest.importorskip("keras")
if keras.backend.backend() != "numpy":
    pytest.skip("Keras runs on another backend here", allow_module_level=True)

import cdropout.keras as ckeras  # noqa: E402

X = np.random.default_rng(0).standard_normal((64, 30, 8)).astype(np.float32)


@pytest.fixture
def enabled():
    ckeras.enable()
    yield
    ckeras.disable()


def test_elements_are_dropped_and_scaled():
    y = ckeras.dropout(X, 0.25, seed=1)
    kept = y != 0
    assert y.dtype == X.dtype
    assert abs(kept.mean() - 0.75) < 5 * (0.25 * 0.75 / X.size) ** 0.5
    assert y[kept] == pytest.approx(X[kept] / np.float32(0.75), rel=1e-6)


@pytest.mark.parametrize(
    ("noise_shape", "axes"),
    [
        ((None, 1, None), (1,)),
        ((64, 1, 1), (1, 2)),
        ((1, 30, 8), (0,)),
        ((8,), (0, 1)),
        ((1, 1, 1), (0, 1, 2)),
        (None, ()),
    ],
)
def test_a_noise_shape_shares_decisions_as_keras_does(noise_shape, axes):
    for dropout in (ckeras.dropout, ckeras._keras_dropout):
        dropped = dropout(X, 0.5, noise_shape, seed=3) == 0
        assert np.array_equal(dropped.any(axis=axes), dropped.all(axis=axes))
        others = tuple(axis for axis in range(3) if axis not in axes)
        varies = (dropped.any(axis=others) != dropped.all(axis=others)).any()
        assert varies or not others


def test_seeds_are_keras_seeds():
    assert np.array_equal(ckeras.dropout(X, 0.5, seed=3), ckeras.dropout(X, 0.5, seed=3))
    assert not np.array_equal(ckeras.dropout(X, 0.5, seed=3), ckeras.dropout(X, 0.5, seed=4))
    first, second = keras.random.SeedGenerator(7), keras.random.SeedGenerator(7)
    y = ckeras.dropout(X, 0.5, seed=first)
    assert np.array_equal(y, ckeras.dropout(X, 0.5, seed=second))
    assert not np.array_equal(y, ckeras.dropout(X, 0.5, seed=first))
    keras.utils.set_random_seed(5)
    y = ckeras.dropout(X, 0.5)
    keras.utils.set_random_seed(5)
    assert np.array_equal(y, ckeras.dropout(X, 0.5))


def test_edges_are_keras_own():
    assert ckeras.dropout(X, 0.0) is X
    assert not ckeras.dropout(X, 1.0).any()
    whole = np.arange(100)
    assert ckeras.dropout(whole, 0.5, seed=1).dtype == whole.dtype
    with pytest.raises(ValueError, match=r"p must be in \[0, 1\], got 1.5"):
        ckeras.dropout(X, 1.5)
    for noise_shape in ((64, 2, 8), (1, 64, 30, 8), (30,)):
        seeds = keras.random.SeedGenerator(7)
        before = np.asarray(seeds.state)
        with pytest.raises(ValueError, match="noise_shape must be 1 or the length of inputs"):
            ckeras.dropout(X, 0.5, noise_shape, seeds)
        assert np.array_equal(before, np.asarray(seeds.state))


def test_one_call_switches_the_backend_over_and_back(enabled, monkeypatch):
    layer = keras.layers.Dropout(0.5, seed=1)
    assert np.array_equal(layer(X, training=False), X)
    expected = ckeras.dropout(X, 0.5, seed=keras.random.SeedGenerator(1))
    assert np.array_equal(keras.layers.Dropout(0.5, seed=1)(X, training=True), expected)
    spatial = np.asarray(keras.layers.SpatialDropout1D(0.5, seed=1)(X, training=True))
    assert np.array_equal((spatial == 0).any(axis=1), (spatial == 0).all(axis=1))
    assert np.array_equal(keras.random.dropout(X, 0.5, seed=3), ckeras.dropout(X, 0.5, seed=3))
    ckeras.disable()
    assert not np.array_equal(keras.layers.Dropout(0.5, seed=1)(X, training=True), expected)
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(RuntimeError, match="Keras must run on its NumPy backend, got 'jax'"):
        ckeras.enable()


@pytest.mark.ci
def test_keras_own_tests_of_dropout_pass(run_shipped_tests):
    outcomes = run_shipped_tests("keras")
    assert outcomes["failed"] == []
    assert set(outcomes["ours"]) & set(outcomes["passed"]), outcomes
