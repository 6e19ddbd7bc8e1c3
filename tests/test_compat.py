"""Replacements for the dropout of well-known networks: conventions, attributes, gradients, a small network for each."""

import copy
import pickle

import ml_dtypes
import numpy as np
import pytest
import reference

import cdropout as cd
from cdropout.compat import cs231n, deepnet, from_scratch, last_pass, nnfs, numpy_ml

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
    assert cache[1] == pytest.approx(kept / 0.8, rel=1e-14)
    assert DY * cache[1].astype(np.float32) == pytest.approx(cs231n.dropout_backward(DY, cache), rel=1e-6)
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
    assert np.array_equal(layer.derived_variables["wrappers"][0]["dropout_mask"][0], kept)
    assert layer.hyperparameters == {"layer": "FullyConnected", "wrappers": [{"wrapper": "Dropout", "p": 0.2}]}
    assert inner.hyperparameters == {"layer": "FullyConnected"}
    assert layer.summary()["layer_wrappers"] == ["Dropout"]
    assert layer.gradients is inner.gradients
    layer.freeze()
    assert np.array_equal(layer.forward(X), inner.forward(X))
    with pytest.raises(RuntimeError, match="backward must not be called on a frozen layer"):
        layer.backward(DY[:, :5])
    assert copy.deepcopy(layer).p == 0.2


class AccumulatingLayer(FullyConnected):
    """A layer that retains its inputs until its gradients are flushed, and takes lists of gradients, as numpy-ml's."""

    def __init__(self, n_in, n_out):
        super().__init__(n_in, n_out)
        self.X = []

    def forward(self, x, retain_derived=True):
        self.X += [x] * retain_derived
        return super().forward(x)

    def backward(self, dy):
        dx = []
        for each, x in zip(dy if isinstance(dy, list) else [dy], self.X, strict=False):
            self.x = x
            dx.append(super().backward(each))
        return dx[0] if len(self.X) == 1 else dx

    def flush_gradients(self):
        super().flush_gradients()
        self.X = []


def masks_of(layer):
    return layer.derived_variables["wrappers"][0]["dropout_mask"]


def test_numpy_mls_wrapper_lists_a_mask_for_each_retained_pass():
    layer = numpy_ml.Dropout(AccumulatingLayer(30, 5), 0.2, rng=7)
    seen_at_first = masks_of(layer)
    dropped = [layer.forward(x) for x in (X, X[:3])]
    layer.forward(X, retain_derived=False)
    masks = masks_of(layer)
    assert masks is seen_at_first
    assert [mask.shape for mask in masks] == [(40, 30), (3, 30)]
    assert masks[0] is masks[-2]
    assert masks[0].dtype == np.bool_
    dx = layer.backward([np.ones_like(y) for y in dropped])
    assert all(np.array_equal(each == 0, ~mask) for each, mask in zip(dx, masks, strict=True))
    with pytest.raises(ValueError, match="dLdy must have a gradient for each of 2 retained passes, got 1"):
        layer.backward([dropped[0]])
    layer.update(0.1)
    assert list(masks_of(layer)) == []
    assert len(masks) == 2
    y = layer.forward(X)
    assert np.array_equal(layer.backward([np.ones_like(y)]) == 0, ~masks_of(layer)[0])
    layer.freeze()
    layer.forward(X)
    assert masks_of(layer)[-1].all()


def test_arrays_may_be_put_into_numpy_mls_list_of_masks():
    layer = numpy_ml.Dropout(AccumulatingLayer(30, 5), 0.2, rng=7)
    outputs = [layer.forward(x) for x in (X, X[:3])]
    gradients = [np.ones_like(y) for y in outputs]
    expected = layer.backward(gradients)
    masks = masks_of(layer)
    masks[0] = np.array(masks[0])  # a copy with the same elements
    for dx, before in zip(layer.backward(gradients), expected, strict=True):
        assert np.array_equal(dx, before)
    masks[1] = np.zeros((3, 30), bool)
    assert not layer.backward(gradients)[1].any()
    for wrong, error, found in (
        ("all", TypeError, "arrays of bools or numbers, got 'all'"),
        (None, TypeError, "arrays of bools or numbers, got None"),
        (np.array(["a"]), TypeError, "arrays of bools or numbers, got array"),
        (np.ones(30, bool), ValueError, r"arrays of the input's shape \(3, 30\), got \(30,\)"),
    ):
        masks[1] = wrong
        with pytest.raises(error, match=f"^dropout_mask must hold {found}"):
            layer.backward(gradients)
    layer.derived_variables["wrappers"][0]["dropout_mask"] = [np.ones((40, 30), bool), np.zeros((3, 30), np.int64)]
    assert not layer.backward(gradients)[1].any()


def test_the_last_pass_uses_an_array_in_numpy_mls_list():
    layer = numpy_ml.Dropout(FullyConnected(30, 5), 0.2, rng=7)
    layer.forward(X)
    assert layer.backward(DY[:, :5]).any()
    masks_of(layer)[-1] = np.zeros(X.shape, bool)
    assert not layer.backward(DY[:, :5]).any()


def init_wrappers(layer, wrappers):
    """Do what numpy-ml's function of this name does with a list of wrappers."""
    for wrapper in wrappers:
        layer = numpy_ml.Dropout(layer, 1)._set_wrapper_params(wrapper)
    return layer


def test_numpy_mls_init_wrappers_sets_p():
    layer = init_wrappers(FullyConnected(30, 5), [{"wrapper": "Dropout", "p": 0.25}])
    assert layer.p == 0.25
    assert layer.hyperparameters["wrappers"] == [{"wrapper": "Dropout", "p": 0.25}]
    again = init_wrappers(FullyConnected(30, 5), layer.summary()["hyperparameters"]["wrappers"])
    assert again.p == 0.25
    with pytest.raises(ValueError, match=r"p must be in \[0, 1\], got 2"):
        layer._set_wrapper_params({"wrapper": "Dropout", "p": 2})


# ---- masks as arrays ------------------------------------------------------------------------------------------------


class Cs231nLayer:
    """CS231n's functions as a layer whose `mask` is that of the cache."""

    def forward(self, x):
        y, self.cache = cs231n.dropout_forward(x, {"p": 0.7, "mode": "train", "seed": 11})
        return y

    def backward(self, dy):
        return cs231n.dropout_backward(dy, self.cache)

    @property
    def mask(self):
        _, mask = self.cache
        return mask

    @mask.setter
    def mask(self, mask):
        self.cache = (self.cache[0], mask)


# name -> (layer, name of the mask, its factor for kept elements)
WITH_MASKS = {
    "cs231n": (lambda: Cs231nLayer(), "mask", 1 / 0.7),
    "deepnet": (lambda: OfDeepnet(0.7, rng=11), "mask", 1 / 0.7),
    "from_scratch": (lambda: from_scratch.Dropout(0.3, rng=11), "mask", True),
    "from_scratch, time": (lambda: from_scratch.TimeDropout(0.3, rng=11), "mask", 1 / 0.7),
    "nnfs": (lambda: OfNnfs(0.3, rng=11), "binary_mask", 1 / 0.7),
}
# What notebooks do with a mask, as functions of the mask and a gradient.
USES = {
    "compare": lambda m, dy: [m == 0, m > 0, m != 1, np.sum(m == 0)],
    "index": lambda m, dy: [m[0], m[-1, 2:5], m[m > 0], m[..., None], m[[0, 2]]],
    "reduce": lambda m, dy: [
        m.mean(),
        m.sum(axis=0),
        m.max(),
        np.mean(m, axis=1),
        np.count_nonzero(m),
        m.any(),
        m.all(),
    ],
    "arithmetic": lambda m, dy: [m / 2, 2 * m, m + 1, 1 / (m + 1), m**2, dy * m, m * dy, m.T @ dy, dy.T @ m],
    "convert": lambda m, dy: [
        m.astype(bool),
        m.astype("f4"),
        np.asarray(m),
        np.array(m, "f8"),
        m.tolist(),
        float(m[0, 0]),
    ],
    "sequence": lambda m, dy: [len(m), list(m), [row.sum() for row in m], list(reversed(m))],
    "copy": lambda m, dy: [m.copy(), copy.copy(m), copy.deepcopy(m), pickle.loads(pickle.dumps(m))],
    "print": lambda m, dy: [str(m), repr(m), f"{m.mean():.3f}"],
    "attributes": lambda m, dy: [m.dtype, m.ndim, m.size, m.shape, m.T, m.nbytes, m.flat[3], m.itemsize],
    "reshape": lambda m, dy: [m.reshape(-1), m.ravel(), m.flatten(), m.transpose(), m.reshape(2, -1)],
    "functions": lambda m, dy: [
        *(np.multiply(m, dy), np.multiply(dy, m), np.where(m, dy, 0), np.concatenate([m, m]), np.unique(m)),
        *(np.stack([m, m]), np.array_equal(m, m), np.allclose(m, m), np.nonzero(m), np.diff(m * 1)),
        *(np.add.reduce(m), np.logical_not(m), np.isclose(m, 0), np.zeros_like(m), np.broadcast_to(m, (2, 40, 30))),
    ],
}


def same(a, b):
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return np.array_equal(a, b) and getattr(a, "dtype", None) == getattr(b, "dtype", None)


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("name", WITH_MASKS)
def test_a_mask_is_used_as_an_array(name, use):
    make, attribute, kept_factor = WITH_MASKS[name]
    layer = make()
    layer.forward(X)
    mask = getattr(layer, attribute)
    expected = np.where(kept_of(0.3, 11), kept_factor, 0 * kept_factor).astype(mask.dtype)
    assert type(mask) is np.ndarray
    assert mask.dtype == (np.bool_ if kept_factor is True else np.float64)
    assert mask == pytest.approx(expected, rel=1e-14)
    assert same(USES[use](mask, DY), USES[use](mask.copy(), DY))


@pytest.mark.parametrize("name", WITH_MASKS)
def test_a_mask_is_made_once_and_only_when_it_is_read(name, monkeypatch):
    make, attribute, _ = WITH_MASKS[name]
    n_made, made = [], last_pass.NetworkMask._made
    monkeypatch.setattr(last_pass.NetworkMask, "_made", lambda mask: n_made.append(1) or made(mask))
    layer = make()
    for _ in range(2):
        layer.forward(X)
        expected = layer.backward(DY)
    copy.deepcopy(layer)
    assert n_made == []
    mask = getattr(layer, attribute)
    assert getattr(layer, attribute) is mask
    assert n_made == [1]
    assert np.array_equal(layer.backward(DY), expected)
    again = pickle.loads(pickle.dumps(layer))
    assert np.array_equal(again.backward(DY), expected)
    assert mask.tobytes() not in pickle.dumps(layer)
    layer.forward(X + 1)
    assert getattr(layer, attribute) is not mask


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("name", WITH_MASKS)
def test_backward_multiplies_by_a_mask_that_the_network_changed_or_assigned(name, dtype):
    make, attribute, _ = WITH_MASKS[name]
    layer = make()
    dy = DY.astype(dtype)
    dy[0, 0] = np.inf
    layer.forward(X.astype(dtype))
    before = layer.backward(dy)
    mask = getattr(layer, attribute)
    assert np.array_equal(layer.backward(dy), before)  # reading changes no bit
    mask[:20] = 0
    after = layer.backward(dy)
    assert after.dtype == dtype
    assert not after[:20].any()
    assert after[20:] == pytest.approx(before[20:], rel=2**-7)
    again = pickle.loads(pickle.dumps(layer))
    assert np.array_equal(again.backward(dy), after)
    setattr(layer, attribute, np.arange(30) % 2 == 0)
    assert np.array_equal(layer.backward(dy), np.where(np.arange(30) % 2 == 0, dy, 0).astype(dtype))
    layer.forward(X.astype(dtype))
    if name != "cs231n":  # its seed is that of the first pass
        assert not np.array_equal(layer.backward(dy), before)


@pytest.mark.parametrize("name", [name for name in WITH_MASKS if name != "cs231n"])
def test_a_mask_may_be_changed_in_place_or_forgotten(name):
    make, attribute, _ = WITH_MASKS[name]
    layer = make()
    layer.forward(X)
    before, mask = layer.backward(DY), getattr(layer, attribute)
    setattr(layer, attribute, np.multiply(mask, False, out=mask))  # as `layer.mask *= False`
    assert getattr(layer, attribute) is mask
    assert not layer.backward(DY).any()
    assert before.any()
    setattr(layer, attribute, None)
    assert getattr(layer, attribute) is None
    with pytest.raises(RuntimeError, match="backward must follow a forward pass"):
        layer.backward(DY)


def test_cs231ns_cache_is_a_tuple():
    parameters = {"p": 0.7, "mode": "train", "seed": 11}
    _, cache = cs231n.dropout_forward(X, parameters)
    mask = cache[1]
    assert isinstance(cache, tuple)
    assert len(cache) == 2
    assert cache[0] is cache[-2] is parameters
    assert cache[-1] is cache[1:][0] is [*cache][1] is tuple(cache)[1] is next(reversed(cache)) is mask
    assert ((1,) + cache)[2] is (cache + (1,))[1] is mask  # noqa: RUF005 - the operator is tested
    assert any(item is mask for item in cache)
    assert parameters in cache
    assert repr(cache) == repr((parameters, mask))
    for again in (copy.copy(cache), copy.deepcopy(cache), pickle.loads(pickle.dumps(cache))):
        assert np.array_equal(again[1], mask)
        assert np.array_equal(cs231n.dropout_backward(DY, again), cs231n.dropout_backward(DY, cache))
    for index, error in ((2, IndexError), (-3, IndexError), ("0", TypeError)):
        with pytest.raises(error):
            cache[index]
    with pytest.raises(TypeError, match="a mask is applied by"):
        _ = DY * tuple.__getitem__(cache, 1)  # as code in C would read it


@pytest.mark.parametrize("name", ["deepnet", "from_scratch", "from_scratch, time", "nnfs", "cs231n"])
def test_replacements_keep_masked_arrays(name):
    hidden = np.eye(40, 30, dtype=bool)
    x, layer = np.ma.array(X, mask=hidden, fill_value=5), LAYERS[name](1)
    y = layer.forward(x)
    for result in (y, layer.backward(x)):
        assert type(result) is np.ma.MaskedArray
        assert np.array_equal(result.mask, hidden)
        assert result.fill_value == 5


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


def test_a_mask_that_is_put_back_is_used_again():
    layer = nnfs.Layer_Dropout(0.5, rng=1)
    layer.forward(np.ones(8))
    mask = layer.binary_mask
    layer.binary_mask = np.full(8, 7.0)
    layer.binary_mask = mask
    layer.backward(np.ones(8))
    assert layer.binary_mask is mask
    assert np.array_equal(layer.dinputs, mask)
