"""Replacements for the dropout of well-known networks: conventions, attributes, gradients, a small network for each."""

import copy
import pickle

import numpy as np
import pytest
import reference

import cdropout as cd
from cdropout.compat import cs231n, deepnet, from_scratch, nnfs, numpy_ml

X = np.random.default_rng(0).standard_normal((40, 30))
DY = np.random.default_rng(1).standard_normal((40, 30))


def kept_of(p, seed=7, shape=X.shape):
    return cd.draw_mask(shape, p, rng=seed).keep()


# ---- deepnet --------------------------------------------------------------------------------------------------------


def test_deepnet_is_told_the_probability_of_keeping():
    layer = deepnet.Dropout(prob=0.8, rng=7)
    assert layer.mask is None
    assert layer.params == []
    y, kept = layer.forward(X), kept_of(0.2)
    assert y == pytest.approx(np.where(kept, X / 0.8, 0), rel=1e-14)
    dx, grads = layer.backward(DY)
    assert dx == pytest.approx(np.where(kept, DY / 0.8, 0), rel=1e-14)
    assert grads == []
    assert layer.mask == pytest.approx(kept / 0.8, rel=1e-14)
    layer.prob = 1.0
    assert np.array_equal(layer.forward(X), X)
    with pytest.raises(ValueError, match=r"prob must be in \[0, 1\], got 1.5"):
        deepnet.Dropout(1.5)


# ---- CS231n ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("forward", "p"), [(cs231n.dropout_forward_keep, 0.8), (cs231n.dropout_forward_drop, 0.2)])
def test_cs231n_has_both_meanings_of_p(forward, p):
    parameters = {"mode": "train", "p": p, "seed": 7}
    out, cache = forward(X, parameters)
    kept = kept_of(0.2)
    assert out == pytest.approx(np.where(kept, X / 0.8, 0), rel=1e-14)
    assert cache[0] is parameters
    assert np.asarray(cache[1]) == pytest.approx(kept / 0.8, rel=1e-14)
    with pytest.raises(ValueError, match="copy=False cannot be had"):
        np.array(cache[1], copy=False)
    assert DY * np.asarray(cache[1], np.float32) == pytest.approx(cs231n.dropout_backward(DY, cache), rel=1e-6)
    assert np.array_equal(forward(X, parameters)[0], out)
    unseeded = {"mode": "train", "p": p}
    assert not np.array_equal(forward(X, unseeded)[0], forward(X, unseeded)[0])
    out, cache = forward(X, {"mode": "test", "p": p})
    assert out is X
    assert cache[1] is None
    assert cs231n.dropout_backward(DY, cache) is DY


def test_cs231n_means_keeping_by_default_and_names_what_is_wrong():
    assert cs231n.dropout_forward is cs231n.dropout_forward_keep
    with pytest.raises(ValueError, match="must be 'train' or 'test', got 'eval'"):
        cs231n.dropout_forward(X, {"mode": "eval", "p": 0.5})
    with pytest.raises(KeyError, match="mode"):
        cs231n.dropout_forward(X, {"p": 0.5})


# ---- Deep Learning from Scratch -------------------------------------------------------------------------------------


def test_from_scratch_scales_in_evaluation_only():
    layer, kept = from_scratch.Dropout(0.2, rng=7), kept_of(0.2)
    assert layer.mask is None
    assert np.array_equal(layer.forward(X), np.where(kept, X, 0))
    assert np.array_equal(layer.mask, kept)
    assert layer.mask.dtype == np.bool_
    assert np.array_equal(layer.backward(DY), np.where(kept, DY, 0))
    assert layer.forward(X, train_flg=False) == pytest.approx(0.8 * X, rel=1e-14)
    assert layer.forward(X.astype(np.float32), False).dtype == np.float32


def test_time_dropouts_mode_is_set_by_the_network():
    layer, kept = from_scratch.TimeDropout(0.2, rng=7), kept_of(0.2)
    assert (layer.params, layer.grads, layer.train_flg, layer.mask) == ([], [], True, None)
    assert layer.forward(X) == pytest.approx(np.where(kept, X / 0.8, 0), rel=1e-14)
    assert layer.mask == pytest.approx(kept / 0.8, rel=1e-14)
    assert layer.backward(DY) == pytest.approx(np.where(kept, DY / 0.8, 0), rel=1e-14)
    layer.train_flg = False
    assert layer.forward(X) is X


# ---- nnfs -----------------------------------------------------------------------------------------------------------


def test_nnfs_leaves_its_results_in_attributes():
    layer, kept = nnfs.Layer_Dropout(0.2, rng=7), kept_of(0.2)
    assert layer.rate == 0.8
    assert layer.binary_mask is None
    assert layer.forward(X, training=True) is None
    assert layer.inputs is X
    assert layer.output == pytest.approx(np.where(kept, X / 0.8, 0), rel=1e-14)
    assert layer.binary_mask == pytest.approx(kept / 0.8, rel=1e-14)
    assert layer.backward(DY) is None
    assert layer.dinputs == pytest.approx(np.where(kept, DY / 0.8, 0), rel=1e-14)
    assert layer.forward(X, training=False) is None
    assert np.array_equal(layer.output, X)
    assert layer.output is not X


# ---- numpy-ml -------------------------------------------------------------------------------------------------------


class FullyConnected:
    """The part of numpy-ml's layer that its wrapper uses."""

    def __init__(self, n_in, n_out, seed=0):
        self.trainable = True
        rng = np.random.default_rng(seed)
        self.parameters = {"W": rng.standard_normal((n_in, n_out)) / n_in**0.5, "b": np.zeros((1, n_out))}
        self.gradients = {name: np.zeros_like(value) for name, value in self.parameters.items()}
        self.hyperparameters = {"layer": "FullyConnected"}
        self.derived_variables = {"Z": []}

    def forward(self, x):
        self.x = x
        return x @ self.parameters["W"] + self.parameters["b"]

    def backward(self, dy):
        self.gradients["W"] += self.x.T @ dy
        self.gradients["b"] += dy.sum(axis=0, keepdims=True)
        return dy @ self.parameters["W"].T

    def update(self, lr):
        for name, value in self.parameters.items():
            value -= lr * self.gradients[name]

    def flush_gradients(self):
        for value in self.gradients.values():
            value[...] = 0

    def freeze(self):
        self.trainable = False


def test_numpy_mls_wrapper_scales_the_layers_output():
    inner = FullyConnected(30, 5)
    layer, kept = numpy_ml.Dropout(inner, 0.2, rng=7), kept_of(0.2)
    y = layer.forward(X)
    assert y == pytest.approx(np.where(kept, X, 0) @ inner.parameters["W"] / 0.8, rel=1e-12)
    layer.p = 0.9  # for the next pass
    dx = layer.backward(DY[:, :5])
    assert dx == pytest.approx(np.where(kept, DY[:, :5] @ inner.parameters["W"].T / 0.8, 0), rel=1e-12)
    layer.p = 0.2
    assert np.array_equal(layer.derived_variables["wrappers"][0]["dropout_mask"], kept)
    assert layer.hyperparameters == {"layer": "FullyConnected", "wrappers": [{"wrapper": "Dropout", "p": 0.2}]}
    assert inner.hyperparameters == {"layer": "FullyConnected"}
    assert layer.summary()["layer_wrappers"] == ["Dropout"]
    assert layer.gradients is inner.gradients
    layer.freeze()
    assert np.array_equal(layer.forward(X), inner.forward(X))
    with pytest.raises(RuntimeError, match="backward must not be called on a frozen layer"):
        layer.backward(DY[:, :5])
    assert copy.deepcopy(layer).p == 0.2


# ---- in common ------------------------------------------------------------------------------------------------------


class OfCs231n:
    """The functions as a layer, for the tests of all replacements."""

    def __init__(self, keep, rng):
        self.parameters = {"p": keep, "mode": "train"}
        self.stream = cd.Stream(rng)

    def forward(self, x):
        y, self.cache = cs231n.dropout_forward(x, {**self.parameters, "seed": self.stream.spawn(1)[0]})
        return y

    def backward(self, dy):
        return cs231n.dropout_backward(dy, self.cache)


class OfDeepnet(deepnet.Dropout):
    """The layer, with a `backward` that returns only the gradient."""

    def backward(self, dy):
        return super().backward(dy)[0]


class OfNnfs(nnfs.Layer_Dropout):
    """The layer, with methods that return their results."""

    def forward(self, x):
        super().forward(x, True)
        return self.output

    def backward(self, dy):
        super().backward(dy)
        return self.dinputs


LAYERS = {
    "deepnet": lambda rng: OfDeepnet(0.7, rng=rng),
    "cs231n": lambda rng: OfCs231n(0.7, rng),
    "from_scratch": lambda rng: from_scratch.Dropout(0.3, rng=rng),
    "from_scratch, time": lambda rng: from_scratch.TimeDropout(0.3, rng=rng),
    "nnfs": lambda rng: OfNnfs(0.3, rng=rng),
    "numpy_ml": lambda rng: numpy_ml.Dropout(FullyConnected(30, 30), 0.3, rng=rng),
}


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_equal_numeric_ones(name):
    x = X[:5].copy()
    layer = LAYERS[name](11)
    y = layer.forward(x)
    analytic = layer.backward(np.cos(y))
    numeric = reference.numeric_gradient(lambda: np.sin(LAYERS[name](11).forward(x)).sum(), x, range(40))
    assert np.abs(analytic.flat[:40] - numeric).max() < 1e-6


@pytest.mark.parametrize("name", [name for name in LAYERS if name != "cs231n"])
def test_backward_needs_a_forward_pass_and_layers_can_be_pickled(name):
    layer = LAYERS[name](1)
    with pytest.raises(RuntimeError, match="backward must follow a forward pass"):
        layer.backward(X)
    layer.forward(X)
    again = pickle.loads(pickle.dumps(layer))
    assert np.array_equal(again.forward(X), layer.forward(X))


@pytest.mark.parametrize("name", LAYERS)
def test_a_small_network_learns_with_it(name):
    # Two classes, inside and outside an ellipse, which six copies of five features separate; a constant one has 0.25.
    x = np.random.default_rng(0).standard_normal((400, 2))
    target = (x[:, 0] ** 2 + 2 * x[:, 1] ** 2 + x[:, 0] > 2).astype(float)
    features = np.tile(np.stack([x[:, 0], x[:, 1], x[:, 0] ** 2 - 1, x[:, 1] ** 2 - 1, x[:, 0] * x[:, 1]], axis=1), 6)
    layer, w = LAYERS[name](3), np.zeros(30)
    losses = []
    for _ in range(300):
        hidden = layer.forward(features)
        z = hidden @ w
        probability = 1 / (1 + np.exp(-z))
        losses.append(float(np.mean((probability - target) ** 2)))
        dz = (probability - target) / len(target)
        dhidden = layer.backward(np.outer(dz, w))
        assert dhidden.shape == features.shape
        w -= 0.5 * (hidden.T @ dz)
    assert np.mean(losses[-20:]) < 0.16
