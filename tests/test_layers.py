"""The layer Dropout: modes, protocol, and gradients that match the forward pass."""

import itertools

import numpy as np
import pytest
import reference
from conftest import switches_settings
from threadpoolctl import threadpool_limits

import cdropout as cd
from cdropout import _kernels

X = np.random.default_rng(0).standard_normal((40, 30))


def four_outcomes(rescale):
    """Return the expectation of z = w1 x + w2 y over the four masks of its inputs, z in evaluation, z, and p."""
    w, inputs, p = np.array([0.7, -1.3]), np.array([[2.0, 5.0]]), 0.3
    layer = cd.Dropout(p, rng=1, rescale=rescale)
    outcomes = {}
    while len(outcomes) < 4:
        dropped = layer.forward(inputs)
        outcomes[tuple(layer.mask.keep()[0].tolist())] = float((dropped @ w)[0])
    probability = {
        kept: np.prod([1 - p if k else p for k in kept]) for kept in itertools.product((True, False), repeat=2)
    }
    expectation = sum(probability[kept] * z for kept, z in outcomes.items())
    evaluated = float((layer.eval().forward(inputs) @ w)[0])
    return expectation, evaluated, float((inputs @ w)[0]), p


@pytest.mark.promise("inverted-dropout")
def test_inverted_dropout_keeps_the_expectation_of_a_neuron_over_its_four_outcomes():
    expectation, evaluated, z, _ = four_outcomes("train")
    assert expectation == pytest.approx(z, rel=1e-14)
    assert evaluated == z


@pytest.mark.promise("standard-dropout")
def test_standard_dropout_scales_the_expectation_by_1_minus_p_and_evaluates_to_it():
    expectation, evaluated, z, p = four_outcomes("eval")
    assert expectation == pytest.approx((1 - p) * z, rel=1e-14)
    assert evaluated == pytest.approx((1 - p) * z, rel=1e-14)


def test_without_rescaling_nothing_is_scaled_in_either_mode():
    layer = cd.Dropout(0.3, rng=1, rescale=None)
    y = layer.forward(X)
    assert np.array_equal(y, np.where(layer.mask.keep(), X, 0))
    assert layer.eval().forward(X) is X
    assert layer.backward(X) is X


@pytest.mark.promise("shared-axes")
@pytest.mark.parametrize("rescale", ["train", "eval", None])
@pytest.mark.parametrize("shared_axes", [(), 0, 1])
@pytest.mark.parametrize("training", [True, False])
def test_backward_is_the_adjoint_of_forward(rescale, shared_axes, training):
    # <f(x), y> = <x, b(y)> for the linear map f of one mask. Sums of 1,200 terms in float64 agree to 1e-12.
    layer = cd.Dropout(0.4, rng=3, rescale=rescale, shared_axes=shared_axes).train(training)
    y = np.random.default_rng(1).standard_normal(X.shape)
    left = np.vdot(layer.forward(X), y)
    right = np.vdot(X, layer.backward(y))
    assert left == pytest.approx(right, rel=1e-12)


@pytest.mark.parametrize("rescale", ["train", "eval", None])
@pytest.mark.parametrize("shared_axes", [(), 0])
def test_gradients_equal_numeric_ones(rescale, shared_axes):
    # d/dx of sum(sin(f(x))) with the same mask, by central differences in float64: error below 1e-6.
    layer = cd.Dropout(0.4, rng=5, rescale=rescale, shared_axes=shared_axes)
    x = X[:4, :5].copy()
    y = layer.forward(x)
    analytic = layer.backward(np.cos(y))
    scale = None if rescale == "train" else 1.0
    numeric = reference.numeric_gradient(lambda: np.sin(layer.mask.apply(x, scale=scale)).sum(), x)
    assert np.max(np.abs(analytic - numeric)) < 1e-6
    assert np.any(analytic == 0)
    assert np.any(analytic != 0)


def test_evaluation_returns_the_input_itself_and_draws_nothing():
    layer = cd.Dropout(0.5, rng=1).eval()
    assert layer.forward(X) is X
    assert layer.backward(X) is X
    assert layer.rng.position == 0
    assert layer.mask is None


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_standard_dropout_evaluates_in_the_inputs_dtype(dtype):
    x = X.astype(dtype)
    layer = cd.Dropout(0.3, rescale="eval").eval()
    y = layer.forward(x)
    assert y.dtype == dtype
    assert np.array_equal(y, x * dtype(0.7))
    assert np.array_equal(layer.backward(x), y)
    with pytest.raises(TypeError, match="got dtype int64"):
        layer.forward(np.arange(3))
    everything_dropped = cd.Dropout(1.0, rescale="eval").eval().forward(np.array([np.inf, np.nan, -1], dtype))
    assert everything_dropped.tobytes() == bytes(everything_dropped.nbytes)


AFTER_FORWARD = {
    "mode": cd.Dropout.eval,
    "p": lambda layer: setattr(layer, "p", 0.1),
    "rescale": lambda layer: setattr(layer, "rescale", None),
}


@pytest.mark.parametrize("change", AFTER_FORWARD.values(), ids=AFTER_FORWARD)
def test_backward_follows_the_last_forward_pass_whatever_changes_after_it(change):
    layer = cd.Dropout(0.5, rng=1)
    y = layer.forward(X)
    change(layer)
    assert np.array_equal(layer.backward(X), y)


@pytest.mark.parametrize("rescale", ["train", "eval"])
def test_inplace_writes_into_the_arrays_it_is_given(rescale):
    expected = cd.Dropout(0.5, rng=1, rescale=rescale)
    layer = cd.Dropout(0.5, rng=1, inplace=True, rescale=rescale)
    x, dy = X.copy(), X.copy()
    assert layer.forward(x) is x
    assert layer.backward(dy) is dy
    assert np.array_equal(x, expected.forward(X))
    assert np.array_equal(dy, expected.backward(X))
    y = layer.eval().forward(x)
    assert y is x


def test_the_layer_keeps_to_the_protocol_of_numpy_networks():
    layer = cd.Dropout(0.2)
    assert (layer.params, layer.grads, layer.training) == ([], [], True)
    layer.name = "dropout_1"
    assert layer.name == "dropout_1"
    assert layer.eval() is layer
    assert layer.training is False
    assert layer.train() is layer
    assert layer.train(False).training is False
    layer.train()
    assert layer(X).shape == X.shape
    assert isinstance(layer.mask, cd.Mask)
    assert repr(layer) == "Dropout(p=0.2)"
    options = cd.Dropout(0.2, inplace=True, shared_axes=(0,), rescale=None)
    assert repr(options) == "Dropout(p=0.2, inplace=True, shared_axes=(0,), rescale=None)"
    # Arguments without a default are always shown, and other attributes never.
    assert repr(cd.DropConnect(6, 3, 0.2, relu=True)) == "DropConnect(p=0.2, n_in=6, n_out=3, relu=True)"
    assert repr(cd.DropPath(0.2)) == "DropPath(p=0.2)"
    assert repr(cd.DropPath(0.2, scale_by_keep=False)) == "DropPath(p=0.2, scale_by_keep=False)"
    assert repr(cd.DropBlock2d(0.2, channels="last")) == "DropBlock2d(p=0.2, channels='last')"


def test_calling_a_subclass_runs_its_own_forward():
    class Logged(cd.Dropout):
        """A layer that counts its passes."""

        n_passes = 0

        def forward(self, x):
            self.n_passes += 1
            return super().forward(x)

    layer = Logged(0.5, rng=1)
    layer(X)
    assert layer.n_passes == 1


def test_a_seed_set_later_becomes_a_stream_that_moves_on():
    layer = cd.Dropout(0.5)
    layer.rng = 42
    assert not np.array_equal(layer.forward(X), layer.forward(X))
    layer.rng = 42
    assert np.array_equal(layer.forward(X), cd.Dropout(0.5, rng=42).forward(X))


def test_a_layer_with_a_stream_shares_it_and_one_with_a_seed_has_its_own():
    stream = cd.Stream(1)
    layers = [cd.Dropout(0.5, rng=stream), cd.Dropout(0.5, rng=stream)]
    assert not np.array_equal(layers[0].forward(X), layers[1].forward(X))
    assert np.array_equal(cd.Dropout(0.5, rng=1).forward(X), cd.Dropout(0.5, rng=1).forward(X))
    assert not np.array_equal(cd.Dropout(0.5).forward(X), cd.Dropout(0.5).forward(X))


class Strange(cd.Dropout):
    """A layer with an array, an argument that has a method's name, and the arguments of its base."""

    def __init__(self, weights, train=True, **others):
        super().__init__(**others)
        self.weights = weights


def test_a_users_layer_has_a_repr_whatever_its_attributes_are():
    layer = Strange(np.ones(3), p=0.2, inplace=True, shared_axes=1)
    assert repr(layer) == "Strange(p=0.2, inplace=True, shared_axes=1)"
    linear = cd.DropConnect(6, 3, 0.2)
    linear.params = []
    assert repr(linear) == "DropConnect(p=0.2)"


@pytest.mark.promise("backward-mask")
@switches_settings
def test_forward_on_every_isa_and_backward_on_another_agree_whatever_runs_in_between():
    x = np.ones(1 << 20, np.float32)  # enough for two threads
    before = _kernels.active_isa()
    try:
        for names in itertools.product(_kernels.supported_isas(), repeat=2):
            layer = cd.Dropout(0.5, rng=cd.Stream(1))
            _kernels.use_isa(names[0])
            y = layer.forward(x)
            _kernels.use_isa(names[1])
            cd.dropout(x, 0.5, rng=layer.rng)
            with threadpool_limits(1 + (names[0] == names[1]), user_api="openmp"):
                assert np.array_equal(layer.backward(x), y), names
    finally:
        _kernels.use_isa(before)
