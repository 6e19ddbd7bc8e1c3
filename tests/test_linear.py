"""DropConnect and FeatureDropoutLinear: outputs, gradients, evaluation, and the choice of gathering."""

import copy
import pickle
import warnings
from functools import partial
from math import erf

import numpy as np
import pytest
import reference
from array_objects import normals

import cdropout as cd
from cdropout.functions import linear

LAYERS = {
    "DropConnect": lambda **k: cd.DropConnect(6, 5, 0.4, dtype=np.float64, **k),
    "DropConnect, unscaled": lambda **k: cd.DropConnect(6, 5, 0.4, rescale=False, dtype=np.float64, **k),
    "DropConnect, ReLU": lambda **k: cd.DropConnect(6, 5, 0.4, relu=True, dtype=np.float64, **k),
    "FeatureDropoutLinear": lambda **k: cd.FeatureDropoutLinear(6, 5, 0.4, dtype=np.float64, **k),
}


@pytest.fixture(params=[False, True], ids=["full", "gathered"])
def gathered(request, monkeypatch):
    """Both methods of FeatureDropoutLinear, whichever is faster at the sizes of a test."""
    monkeypatch.setattr(linear, "gathering_pays", lambda *_: request.param)
    return request.param


def with_bias(layer, seed=9):
    layer.params[1][...] = normals(layer.params[1].shape, seed=seed)
    return layer


# ---- outputs --------------------------------------------------------------------------------------------------------


@pytest.mark.promise("drop-connect")
def test_drop_connect_drops_weights_and_not_inputs():
    x, w, b = normals((7, 6)), normals((6, 5), seed=1), normals(5, seed=2)
    kept = cd.draw_mask(w.shape, 0.4, rng=3).keep()
    assert cd.drop_connect(x, w, b, 0.4, rng=3) == pytest.approx(x @ (w * kept / 0.6) + b, rel=1e-13)
    assert cd.drop_connect(x, w, b, 0.4, rng=3, rescale=False) == pytest.approx(x @ (w * kept) + b, rel=1e-13)
    assert cd.drop_connect(x, w, None, 1.0) == pytest.approx(np.zeros((7, 5)))
    layer = with_bias(cd.DropConnect(6, 5, 0.4, rng=3, dtype=np.float64))
    expected = cd.drop_connect(x, *layer.params, 0.4, rng=copy.deepcopy(layer.rng))
    assert np.array_equal(layer.forward(x), expected)


@pytest.mark.promise("feature-dropout-linear")
def test_feature_dropout_linear_is_the_two_steps_in_one(gathered):
    x, w, b = normals((7, 60)), normals((60, 5), seed=1), normals(5, seed=2)
    expected = cd.feature_dropout(x, 0.4, rng=3) @ w + b
    assert cd.feature_dropout_linear(x, w, b, 0.4, rng=3) == pytest.approx(expected, rel=1e-12)
    layer = with_bias(cd.FeatureDropoutLinear(60, 5, 0.4, rng=3, dtype=np.float64))
    two = cd.FeatureDropout(0.4, rng=3)
    expected = two.forward(x) @ layer.params[0] + layer.params[1]
    assert layer.forward(x) == pytest.approx(expected, rel=1e-12)
    dy = normals((7, 5), seed=4)
    assert layer.backward(dy) == pytest.approx(two.backward(dy @ layer.params[0].T), rel=1e-12)
    assert layer.grads[0] == pytest.approx(two.mask.apply(x).T @ dy, rel=1e-12)
    assert layer.grads[1] == pytest.approx(dy.sum(axis=0), rel=1e-12)
    for p in (0.0, 1.0):
        layer.p = two.p = p
        layer.rng = two.rng = cd.Stream(1)
        two.rng = cd.Stream(1)
        assert layer.forward(x) == pytest.approx(two.forward(x) @ layer.params[0] + layer.params[1], rel=1e-12)
        assert layer.backward(dy) == pytest.approx(two.backward(dy @ layer.params[0].T), rel=1e-12)


def test_gathering_pays_for_large_layers_and_large_p_only():
    assert linear.gathering_pays(128, (2048, 2048), 0.5)
    assert linear.gathering_pays(1024, (1024, 4096), 0.5)
    assert not linear.gathering_pays(128, (2048, 2048), 0.0)
    assert not linear.gathering_pays(4, (2048, 2048), 0.5)
    assert not linear.gathering_pays(128, (784, 10), 0.5)


def test_evaluation_takes_the_mean():
    x = normals((7, 6))
    for name, make in LAYERS.items():
        layer = with_bias(make(rng=1)).eval()
        weight, bias = layer.params
        expected = x @ (weight * (0.6 if "unscaled" in name else 1.0)) + bias
        expected = np.maximum(expected, 0) if "ReLU" in name else expected
        assert layer.forward(x) == pytest.approx(expected, rel=1e-13)
        assert layer.rng.position == 0


# ---- moments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rescale", [True, False])
def test_moments_of_drop_connect_are_those_over_its_masks(rescale):
    # 20,000 masks: standard errors of 0.7 % of a standard deviation for the mean and about 1 % for the variance.
    x, w, b = normals((3, 20)), normals((20, 4), seed=1), normals(4, seed=2)
    mean, variance = cd.drop_connect_moments(x, w, b, 0.3, rescale=rescale)
    stream = cd.Stream(1)
    samples = np.array([cd.drop_connect(x, w, b, 0.3, rng=stream, rescale=rescale) for _ in range(20_000)])
    assert np.abs(samples.mean(axis=0) - mean).max() < 5 * 0.0071 * np.sqrt(variance.max())
    assert samples.var(axis=0) == pytest.approx(variance, rel=0.06)
    assert cd.drop_connect_moments(x, w, b, 1.0)[0] == pytest.approx(np.broadcast_to(b, (3, 4)))
    assert not cd.drop_connect_moments(x, w, b, 0.0)[1].any()


@pytest.mark.promise("gaussian-inference")
def test_gaussian_inference_is_the_expectation_of_relu():
    x = normals((3, 200))
    layer = cd.DropConnect(200, 4, 0.3, rng=1, relu=True, inference="gaussian", n_samples=20_000, dtype=np.float64)
    mean, variance = cd.drop_connect_moments(x, *layer.params, 0.3)
    std = np.sqrt(variance)
    ratio = mean / std
    cumulative = np.vectorize(lambda t: 0.5 * (1 + erf(t / 2**0.5)))(ratio)
    expected = mean * cumulative + std * np.exp(-(ratio**2) / 2) / np.sqrt(2 * np.pi)
    # 20,000 draws: a standard error of at most 0.7 % of a standard deviation.
    assert np.abs(layer.eval().forward(x) - expected).max() < 5 * 0.0071 * std.max()
    with pytest.raises(RuntimeError, match="backward must follow a forward pass"):
        layer.backward(mean)


# ---- gradients ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("training", [True, False])
def test_gradients_equal_numeric_ones(name, training, gathered):
    # Central differences in float64 of sum(sin(f)), for x, W and b: error below 1e-6.
    x = normals((4, 6))
    layer = with_bias(LAYERS[name](rng=5)).train(training)
    start = copy.deepcopy(layer.rng)
    y = layer.forward(x)
    dx = layer.backward(np.cos(y))
    gradients = [dx, *(grad.copy() for grad in layer.grads)]

    def value():
        layer.rng = copy.deepcopy(start)
        return np.sin(layer.forward(x)).sum()

    for array, gradient in zip([x, *layer.params], gradients, strict=True):
        assert np.abs(gradient - reference.numeric_gradient(value, array)).max() < 1e-6


def test_drop_connect_takes_any_number_of_leading_axes():
    layer = with_bias(cd.DropConnect(6, 5, 0.4, rng=5, dtype=np.float64))
    x, dy = normals((2, 3, 6)), normals((2, 3, 5), seed=1)
    flat = copy.deepcopy(layer)
    assert layer.forward(x).reshape(6, 5) == pytest.approx(flat.forward(x.reshape(6, 6)), rel=1e-13)
    assert layer.backward(dy).reshape(6, 6) == pytest.approx(flat.backward(dy.reshape(6, 5)), rel=1e-13)
    assert layer.grads[0] == pytest.approx(flat.grads[0], rel=1e-12)


# ---- state, errors --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAYERS)
def test_a_seed_gives_the_weights_and_state_goes_through_pickle(name):
    layer = LAYERS[name](rng=5)
    assert np.array_equal(layer.params[0], LAYERS[name](rng=5).params[0])
    assert not np.array_equal(layer.params[0], LAYERS[name](rng=6).params[0])
    assert abs(layer.params[0]).max() <= 1.0
    assert layer.rng.position == 0
    x = normals((4, 6))
    layer.forward(x)
    again = pickle.loads(pickle.dumps(layer))
    assert np.array_equal(again.backward(normals((4, 5))), layer.backward(normals((4, 5))))
    assert np.array_equal(again.forward(x), layer.forward(x))


@pytest.mark.parametrize("name", LAYERS)
def test_a_gradient_of_another_shape_is_refused(name):
    layer = LAYERS[name](rng=1)
    layer.forward(normals((4, 6)))
    with pytest.raises(ValueError, match=r"dy must have the output's shape \(4, 5\), got \(3, 5\)"):
        layer.backward(normals((3, 5)))


def test_layers_that_share_a_stream_begin_with_weights_of_their_own():
    stream = cd.Stream(1)
    first, second = cd.DropConnect(4, 4, rng=stream), cd.FeatureDropoutLinear(4, 4, rng=stream)
    assert not np.array_equal(first.params[0], second.params[0])
    assert stream.position == 0


def test_the_gradient_of_relu_is_safe_from_what_is_done_to_the_output():
    x = normals((64, 8))

    def gradient(in_place):
        layer = cd.DropConnect(8, 5, 0.3, rng=1, relu=True, dtype=np.float64)
        noise = cd.GaussianNoise(0.5, rng=2, inplace=in_place)
        return layer.backward(noise.backward(np.ones_like(noise.forward(layer.forward(x)))))

    assert np.array_equal(gradient(False), gradient(True))


@pytest.mark.parametrize("as_error", ["errstate", "warning"])
def test_a_product_that_fails_moves_no_stream(as_error):
    stream = cd.Stream(1)
    x, weight = np.full((4, 8), np.inf, np.float32), normals((8, 5)).astype(np.float32)
    layers = [make(8, 5, 0.0, rng=stream) for make in (cd.DropConnect, cd.FeatureDropoutLinear)]
    calls = [layer.forward for layer in layers]
    calls += [partial(f, weight=weight, p=0.0, rng=stream) for f in (cd.drop_connect, cd.feature_dropout_linear)]
    error = FloatingPointError if as_error == "errstate" else RuntimeWarning
    for call in calls:
        before = stream.state
        with (
            np.errstate(all="raise" if as_error == "errstate" else "warn"),
            warnings.catch_warnings(action="error"),
            pytest.raises(error, match="invalid value"),
        ):
            call(x)
        assert stream.state == before
    assert all(layer.mask is None for layer in layers)


def test_everything_dropped_is_everything_dropped_in_evaluation_too():
    x = normals((3, 4))
    layer = cd.DropConnect(4, 2, 1.0, rng=3, relu=True, dtype=np.float64)
    assert not layer.forward(x).any()
    assert not layer.eval().forward(x).any()
    layer.inference = "gaussian"
    assert not layer.forward(x).any()


@pytest.mark.parametrize("rescale", ["train", "eval", None, 1])
def test_rescale_of_drop_connect_is_a_flag_and_no_word_of_dropout(rescale):
    x, w = np.ones((2, 3)), np.ones((3, 4))
    for call in (
        lambda rng: cd.DropConnect(3, 4, rng=rng, rescale=rescale),
        lambda rng: cd.drop_connect(x, w, rng=rng, rescale=rescale),
        lambda rng: cd.drop_connect_moments(x, w, rescale=rescale),
    ):
        stream = cd.Stream(1)
        with pytest.raises(TypeError, match=f"rescale must be True or False, got {rescale!r}"):
            call(stream)
        assert stream.position == 0
    with pytest.raises(TypeError, match="relu must be True or False, got 'yes'"):
        cd.DropConnect(3, 4, relu="yes")
