"""The network of estimators and examples: gradients, dropout, losses, optimizers, initial weights, sub-networks."""

import math
import pickle
from itertools import pairwise

import numpy as np
import pytest
from reference import numeric_gradient

import cdropout as cd
from cdropout.bench.numpy_code import WRITE_UPS
from cdropout.digits.numpy_dropout import NumPyDropout
from cdropout.networks import (
    ACTIVATIONS,
    KINDS,
    MLP,
    SGD,
    Adam,
    draw_sub_network,
    evaluate,
    fill_he_uniform,
    glorot_uniform,
    lecun_normal,
    logistic_loss,
    softmax,
    softmax_loss,
    squared_loss,
    train_step,
)

WIDTHS = (5, 7, 6, 3)
NEEDED_ACTIVATION = {"alpha": "selu", "compact": "relu"}


def make_network(kind="elementwise", activation="relu", p=(0.5, 0.25), p_input=0.0, dtype=np.float64):
    network = MLP(WIDTHS, activation=activation, p=p, p_input=p_input, kind=kind, rng=1, dtype=dtype, n_rows=8)
    rng = np.random.default_rng(0)
    for param in network.params:
        param[...] = rng.standard_normal(param.shape) / 2
    return network


def make_batch(loss, n=8):
    rng = np.random.default_rng(2)
    x, weights = rng.standard_normal((n, WIDTHS[0])), rng.uniform(0.5, 2, n)
    targets = {
        softmax_loss: rng.integers(0, 3, n),
        logistic_loss: rng.integers(0, 2, (n, 3)).astype(float),
        squared_loss: rng.standard_normal((n, 3)),
    }[loss]
    return x, targets, weights


COMBINATIONS = [
    (kind, activation)
    for kind in KINDS
    for activation in ACTIVATIONS
    if NEEDED_ACTIVATION.get(kind, activation) == activation
]


@pytest.mark.parametrize(("kind", "activation"), COMBINATIONS)
def test_gradients_of_a_step_are_those_of_finite_differences(kind, activation):
    network = make_network(kind, activation, p_input=0.2)
    x, targets, weights = make_batch(softmax_loss)
    start = network.rng.position

    def loss():
        network.rng._place(network.rng.key, start)  # the same masks
        return softmax_loss(network.forward(x.copy()), targets, weights)

    loss()
    network.rng._place(network.rng.key, start)
    outputs = network.forward(x.copy())
    softmax_loss(outputs, targets, weights)
    network.backward(outputs)
    for param, grad in zip(network.params, [grad.copy() for grad in network.grads], strict=True):
        np.testing.assert_allclose(grad, numeric_gradient(loss, param), atol=2e-6)


@pytest.mark.parametrize("loss", [softmax_loss, logistic_loss, squared_loss])
@pytest.mark.parametrize("is_weighted", [False, True])
def test_losses_write_their_gradient(loss, is_weighted):
    _, targets, weights = make_batch(loss)
    outputs = np.random.default_rng(3).standard_normal((8, 3))
    weights = weights if is_weighted else None
    gradient = outputs.copy()
    value = loss(gradient, targets, weights)
    n_outputs = 3 if loss is squared_loss else 1  # the squared error is averaged over outputs, its gradient is not
    numeric = n_outputs * numeric_gradient(lambda: loss(outputs.copy(), targets, weights), outputs)
    np.testing.assert_allclose(gradient, numeric, atol=1e-7)
    if not is_weighted:
        doubled = loss(np.repeat(outputs, 2, axis=0), np.repeat(targets, 2, axis=0))
        assert value == pytest.approx(doubled)
        assert value == pytest.approx(loss(outputs.copy(), targets, np.full(8, 3.0)))


def test_losses_of_large_outputs_are_finite():
    labels = np.array([0, 1])
    outputs = np.array([[1e4, -1e4], [1e4, -1e4]], np.float32)
    assert softmax_loss(outputs.copy(), labels) == pytest.approx(1e4)
    assert logistic_loss(outputs.copy(), np.array([[1, 0], [0, 0]], np.float32)) == pytest.approx(5e3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("kind", "activation"), COMBINATIONS)
def test_no_dropout_gives_the_plain_network(kind, activation, dtype):
    network = make_network(kind, activation, p=(0.0, 0.0), dtype=dtype)
    x = make_batch(softmax_loss)[0].astype(dtype)
    outputs = network.forward(x).copy()
    tolerance = 1e-5 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(outputs, evaluate(network.params, activation, x), rtol=tolerance, atol=tolerance)
    np.testing.assert_array_equal(network.eval().forward(x), evaluate(network.params, activation, x))


def test_forward_drops_what_the_mask_of_the_stream_drops():
    network = make_network(p=(0.5, 0.0))
    x, w0, b0 = make_batch(softmax_loss)[0], *network.params[:2]
    mask = cd.draw_mask((8, 7), 0.5, rng=1)
    hidden = mask.apply(np.maximum(x @ w0 + b0, 0))
    np.testing.assert_allclose(network.forward(x), evaluate(network.params[2:], "relu", hidden))


def test_feature_and_compact_dropout_are_the_same_network():
    x, targets, weights = make_batch(softmax_loss)
    found = []
    for kind in ("feature", "compact"):
        network = make_network(kind)
        outputs = network.forward(x)
        loss = softmax_loss(outputs, targets, weights)
        network.backward(outputs)
        found.append([np.array(loss), *network.grads])
    for feature, compact in zip(*found, strict=True):
        np.testing.assert_allclose(feature, compact, atol=1e-12)


def test_sparse_batches_give_the_results_of_dense_ones():
    sparse = pytest.importorskip("scipy.sparse")
    x, targets, _ = make_batch(softmax_loss)
    x[x < 0] = 0
    found = []
    for batch in (x, sparse.csr_array(x)):
        network = make_network()
        outputs = network.forward(batch)
        softmax_loss(outputs, targets)
        network.backward(outputs)
        found.append([outputs, *network.grads])
    for dense, other in zip(*found, strict=True):
        np.testing.assert_allclose(dense, other, atol=1e-12)


def test_a_smaller_last_batch_uses_part_of_the_buffers():
    x, targets, _ = make_batch(softmax_loss)
    network, other = make_network(), make_network()
    outputs = network.forward(x)
    softmax_loss(outputs, targets)
    network.backward(outputs)
    for each in (network, other):
        each.rng._place(cd.Stream(5).key, 0)
        outputs = each.forward(x[:3])
        softmax_loss(outputs, targets[:3])
        each.backward(outputs)
    for grad, expected in zip(network.grads, other.grads, strict=True):
        np.testing.assert_array_equal(grad, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_backward_before_forward_is_an_error(kind):
    network = make_network(kind, NEEDED_ACTIVATION.get(kind, "tanh"))
    with pytest.raises(RuntimeError, match="backward must follow a forward pass"):
        network.backward(np.ones((8, 3)))
    network.eval().forward(make_batch(softmax_loss)[0])
    if kind != "compact":
        with pytest.raises(RuntimeError, match="backward must follow a forward pass in training"):
            network.backward(np.ones((8, 3)))


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_that_do_not_fit_are_refused_before_anything_is_drawn(kind):
    network = make_network(kind, NEEDED_ACTIVATION.get(kind, "tanh"), p_input=0.2)
    read_only = np.ones((4, 5))
    read_only.flags.writeable = False
    for x, message in ((np.ones((4, 6)), "x must have 5 columns, got 6"), (read_only, "must be writable")):
        with pytest.raises(ValueError, match=message):
            network.forward(x)
        assert np.all(x == 1)
        assert network.rng.position == 0


def test_dropout_of_inputs_is_that_of_the_function():
    network, x = make_network(p_input=0.2), make_batch(softmax_loss)[0]
    found = x.copy()
    network.forward(found)
    np.testing.assert_array_equal(found, cd.dropout(x, 0.2, rng=1))
    np.testing.assert_array_equal(found, cd.draw_mask(x.shape, 0.2, rng=1).apply(x))


def test_more_rows_than_buffers_are_refused_before_anything_is_drawn():
    network = make_network(p_input=0.2)
    x = make_batch(softmax_loss, 9)[0]
    before = x.copy()
    with pytest.raises(ValueError, match="x must have at most 8 rows, got 9"):
        network.forward(x)
    np.testing.assert_array_equal(x, before)
    assert network.rng.position == 0
    assert network.eval().forward(x).shape == (9, 3)


# ---- dropout layers -------------------------------------------------------------------------------------------------


class WriteUp:
    """A layer with the code of a write-up, whose masks a seed gives."""

    def __init__(self, name, p, seed):
        self.draw, self.divides_after, _ = WRITE_UPS[name]
        self.keep_prob, self.seed = 1 - p, seed

    def forward(self, x):
        self.mask = self.draw(x.shape, self.keep_prob)
        return self.backward(x)

    def backward(self, dy):
        return dy * self.mask / (self.keep_prob if self.divides_after else 1)


class Logged:
    """A layer without `params`, as a wrapper that measures times is."""

    def __init__(self, layer):
        self.layer, self.calls = layer, []

    def forward(self, x):
        self.calls.append("forward")
        return self.layer.forward(x)

    def backward(self, dy):
        self.calls.append("backward")
        return self.layer.backward(dy)


# name -> a layer for p, a stream and a width; the same stream at the same position gives the same masks
LAYERS = {
    "Dropout": lambda p, rng, width: cd.Dropout(p, rng=rng),
    "in place": lambda p, rng, width: cd.Dropout(p, rng=rng, inplace=True),
    "of features": lambda p, rng, width: cd.Dropout(p, rng=rng, shared_axes=0),
    "standard": lambda p, rng, width: cd.Dropout(p, rng=rng, rescale="eval"),
    "FeatureDropout": lambda p, rng, width: cd.FeatureDropout(p, rng=rng),
    "ReLUDropout": lambda p, rng, width: cd.ReLUDropout(p, rng=rng),
    "AlphaDropout": lambda p, rng, width: cd.AlphaDropout(p, rng=rng),
    "AlphaDropout, in place": lambda p, rng, width: cd.AlphaDropout(p, rng=rng, inplace=True),
    "GaussianDropout, in place": lambda p, rng, width: cd.GaussianDropout(p, rng=rng, inplace=True),
    "wrapped": lambda p, rng, width: Logged(cd.Dropout(p, rng=rng)),
    "DropConnect": lambda p, rng, width: cd.DropConnect(*width, p, rng=rng, dtype=np.float64),
    "DropConnect with ReLU": lambda p, rng, width: cd.DropConnect(*width, p, rng=rng, relu=True, dtype=np.float64),
    "FeatureDropoutLinear": lambda p, rng, width: cd.FeatureDropoutLinear(*width, p, rng=rng, dtype=np.float64),
}
LINEAR = ("DropConnect", "DropConnect with ReLU", "FeatureDropoutLinear")


def network_with(dropouts, activation="relu", **options):
    options = {"dtype": np.float64, "n_rows": 8, "rng": 1} | options
    network = MLP(WIDTHS, activation=activation, dropouts=dropouts, **options)
    rng = np.random.default_rng(0)
    for param in network.params:
        param[...] = rng.standard_normal(param.shape) / 2
    return network


def check_gradients(network, rewind):
    """Compare the gradients of a step with finite differences; after rewind, a pass draws the masks of the last one."""
    x, targets, _ = make_batch(softmax_loss)

    def loss():
        rewind()
        return softmax_loss(network.forward(x.copy()), targets)

    loss()
    rewind()
    outputs = network.forward(x.copy())
    softmax_loss(outputs, targets)
    network.backward(outputs)
    for param, grad in zip(network.params, [grad.copy() for grad in network.grads], strict=True):
        np.testing.assert_allclose(grad, numeric_gradient(loss, param), atol=2e-6)


@pytest.mark.parametrize("activation", ["identity", "relu", "tanh", "selu"])
@pytest.mark.parametrize("name", LAYERS)
def test_gradients_with_dropout_layers_are_those_of_finite_differences(name, activation):
    stream = cd.Stream(1)
    layers = [LAYERS[name](p, stream, width) for p, width in zip((0.5, 0.25), (WIDTHS[:2], WIDTHS[1:3]), strict=True)]
    network = network_with(layers, activation, p_input=0.2, rng=stream)
    start = stream.position
    check_gradients(network, lambda: stream._place(stream.key, start))
    if not name.startswith("Gaussian"):
        masks = [getattr(layer, "layer", layer).mask.keep() for layer in layers]
        assert all(0 < keep.sum() < keep.size for keep in masks), "a mask that drops all or nothing tests no gradient"


def test_gradients_with_dropout_of_numpy_are_those_of_finite_differences():
    rng = np.random.default_rng(1)
    state = rng.bit_generator.state
    network = network_with([NumPyDropout(0.5, rng), NumPyDropout(0.25, rng)])

    def rewind():
        rng.bit_generator.state = state

    check_gradients(network, rewind)
    assert 0 < (network.dropouts[0].mask == 0).sum() < 56


@pytest.mark.parametrize("name", WRITE_UPS)
def test_gradients_with_write_ups_are_those_of_finite_differences(name):
    network = network_with([WriteUp(name, 0.5, 1), WriteUp(name, 0.25, 2)])
    check_gradients(network, lambda: np.random.seed(3))  # noqa: NPY002 - write-ups draw from this generator
    assert 0 < (network.dropouts[0].mask == 0).sum() < 56


def test_a_dropout_layer_is_the_same_network_as_its_probability_and_stream():
    x, targets, _ = make_batch(softmax_loss)
    found = []
    for inplace in (None, False, True):
        stream = cd.Stream(4)
        options = {"dtype": np.float32, "p_input": 0.2, "rng": stream}
        if inplace is None:
            network = MLP(WIDTHS, p=(0.5, 0.25), n_rows=8, **options)
        else:
            network = network_with([cd.Dropout(p, rng=stream, inplace=inplace) for p in (0.5, 0.25)], **options)
        fill_he_uniform(network.weights, np.random.default_rng(0))
        for bias in network.biases:
            bias[...] = np.linspace(-0.1, 0.1, len(bias))
        optimizer = Adam(network.params, network.grads)
        losses = [train_step(network, optimizer, softmax_loss, x.astype(np.float32), targets) for _ in range(3)]
        found.append([np.array(losses), *network.params])
    for one, *others in zip(*found, strict=True):
        for other in others:
            np.testing.assert_array_equal(one, other)


def test_hidden_layers_without_a_dropout_layer_draw_nothing():
    stream = cd.Stream(2)
    network = network_with([None, cd.Dropout(0.5, rng=stream)], rng=stream)
    network.forward(make_batch(softmax_loss)[0])
    np.testing.assert_array_equal(network.dropouts[0].mask.keep(), cd.draw_mask((8, 6), 0.5, rng=2).keep())


def test_modes_reach_the_layers_that_have_them():
    dropout, wrapped, linear = cd.Dropout(0.5), Logged(cd.Dropout(0.5)), cd.DropConnect(6, 3, dtype=np.float64)
    network = MLP((5, 7, 6, 3, 2), dropouts=[dropout, wrapped, linear], dtype=np.float64)
    with pytest.warns(UserWarning, match="Logged.* holds layers that are not switched, because it has no eval"):
        assert network.eval() is network
    assert (network.training, dropout.training, linear.training) == (False, False, False)
    with pytest.warns(UserWarning, match="Logged.* holds layers that are not switched, because it has no train"):
        assert network.train() is network
    assert (network.training, dropout.training, linear.training) == (True, True, True)


@pytest.mark.filterwarnings("ignore:.*Logged.* holds layers that are not switched:UserWarning")
@pytest.mark.parametrize("activation", ["identity", "relu", "tanh"])
@pytest.mark.parametrize("name", ["Dropout", "in place", "wrapped", "DropConnect", "FeatureDropoutLinear"])
def test_evaluation_is_the_plain_network(name, activation):
    layers = [LAYERS[name](0.5, 1, width) for width in (WIDTHS[:2], WIDTHS[1:3])]
    network, x = network_with(layers, activation), make_batch(softmax_loss)[0]
    for layer in layers:
        getattr(layer, "layer", layer).eval()
    expected = evaluate(network.params, activation, x)
    np.testing.assert_allclose(network.eval().forward(x), expected, rtol=1e-12, atol=1e-12)


def test_evaluation_of_standard_dropout_scales_by_the_probability_of_keeping():
    network = network_with([None, cd.Dropout(0.25, rescale="eval")])
    x = make_batch(softmax_loss)[0]
    scaled = [*network.params[:-2], 0.75 * network.params[-2], network.params[-1]]
    np.testing.assert_allclose(network.eval().forward(x), evaluate(scaled, "relu", x), atol=1e-12)


def test_monte_carlo_dropout_switches_the_layers_on_in_evaluation():
    network = network_with([cd.Dropout(0.5), cd.Dropout(0.25)]).eval()
    x = make_batch(softmax_loss)[0]
    mean, std = cd.mc_predict(network.forward, x, 200, layers=network.dropouts, rng=1)
    stream, params = cd.Stream(1), network.params
    samples = []
    for _ in range(200):
        hidden = cd.dropout(np.maximum(x @ params[0] + params[1], 0), 0.5, rng=stream)
        hidden = cd.dropout(np.maximum(hidden @ params[2] + params[3], 0), 0.25, rng=stream)
        samples.append(hidden @ params[4] + params[5])
    np.testing.assert_allclose(mean, np.mean(samples, axis=0), atol=1e-12)
    np.testing.assert_allclose(std, np.std(samples, axis=0), atol=1e-12)
    np.testing.assert_array_equal(network.forward(x), evaluate(params, "relu", x))


@pytest.mark.parametrize("options", [{"p": (0.5, 0.5)}, {"kind": "feature"}, {"kind": "compact"}])
def test_dropout_layers_beside_probabilities_or_a_kind_are_refused(options):
    with pytest.raises(ValueError, match=r"p and kind must be left out where dropouts are given, got p="):
        MLP(WIDTHS, dropouts=[None, cd.Dropout(0.5)], **options)


@pytest.mark.parametrize(
    "layer",
    [
        cd.DropConnect(7, 5),
        cd.DropConnect(7, 6, dtype=np.float64),
        cd.BiasReLUDropout(np.zeros(6, np.float32)),
    ],
)
def test_linear_layers_of_other_shapes_or_dtypes_are_refused(layer):
    with pytest.raises(ValueError, match=r"dropouts must have no params, or those of shapes and dtypes \[\(\(7, 6\)"):
        MLP(WIDTHS, dropouts=[None, layer])


def test_a_number_of_dropout_layers_other_than_that_of_hidden_layers_is_refused():
    with pytest.raises(ValueError, match="dropouts must have one item for each of 2 hidden layers, got 1"):
        MLP(WIDTHS, dropouts=[cd.Dropout(0.5)])
    with pytest.raises(ValueError, match="p must have one item for each of 2 hidden layers, got 3"):
        MLP(WIDTHS, p=(0.5, 0.5, 0.5))


@pytest.mark.parametrize("layer", [cd.Dropout(0.5), cd.DropConnect(7, 7)])
def test_a_layer_that_drops_in_two_places_is_refused(layer):
    with pytest.raises(ValueError, match="dropouts must be different layers, because each holds one mask, got"):
        MLP((7, 7, 7, 3), dropouts=[layer, layer])


@pytest.mark.filterwarnings("ignore:.*Logged.* holds layers that are not switched:UserWarning")
@pytest.mark.parametrize("layer", ["DropConnect", "FeatureDropoutLinear", "wrapped", "ReLUDropout", "numpy"])
def test_backward_after_an_evaluation_that_changed_the_layers_is_an_error(layer):
    p, width = 0.5, WIDTHS[:2]
    made = NumPyDropout(p, np.random.default_rng(0)) if layer == "numpy" else LAYERS[layer](p, cd.Stream(1), width)
    network, x = network_with([made, None]), make_batch(softmax_loss)[0]
    dy = network.forward(x.copy()).copy()
    network.backward(dy.copy())
    network.eval().forward(x[::-1])
    network.train()
    with pytest.raises(RuntimeError, match="backward must follow a forward pass in training"):
        network.backward(dy)


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_in_evaluation_is_an_error_and_has_no_gradients_of_the_pass_before(kind):
    network = make_network(kind, NEEDED_ACTIVATION.get(kind, "tanh"))
    x, targets, _ = make_batch(softmax_loss)
    optimizer = Adam(network.params, network.grads)
    train_step(network, optimizer, softmax_loss, x.copy(), targets)
    before = [param.copy() for param in network.params]
    with pytest.raises(RuntimeError, match="backward must follow a forward pass in training, and the network is in"):
        train_step(network.eval(), optimizer, softmax_loss, x.copy(), targets)
    for param, expected in zip(network.params, before, strict=True):
        np.testing.assert_array_equal(param, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_an_evaluation_does_not_change_the_gradients_of_a_network_without_dropout_layers(kind):
    x, found = make_batch(softmax_loss)[0], []
    for is_evaluated in (False, True):
        network = make_network(kind, NEEDED_ACTIVATION.get(kind, "tanh"))
        dy = network.forward(x.copy()).copy()
        if is_evaluated:
            network.eval().forward(x[::-1])
            network.train()
        network.backward(dy)
        found.append([grad.copy() for grad in network.grads])
    for grad, expected in zip(*found, strict=True):
        np.testing.assert_array_equal(grad, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "featrue"}, "kind must be one of elementwise, feature, gaussian, alpha, compact, got 'featrue'"),
        ({"activation": "gelu"}, "activation must be one of identity, logistic, tanh, relu, selu, got 'gelu'"),
        ({"kind": "compact", "activation": "tanh"}, "activation must be 'relu' for the kind 'compact', got 'tanh'"),
    ],
)
def test_names_that_do_not_exist_or_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MLP(WIDTHS, p=(0.5, 0.5), **options)


@pytest.mark.parametrize(
    ("widths", "options", "message"),
    [
        (5, {}, "widths must be a sequence of integers, got 5"),
        ([5], {}, r"widths must be two or more numbers, got \[5\]"),
        ([5, 0, 3], {}, "widths must be at least 1, got 0"),
        ([5, 7.0, 3], {}, "widths must be an integer, got 7.0"),
        ([5, 7, 3], {"p": 0.5}, "p must be a sequence with a number for each hidden layer, got 0.5"),
        ([5, 7, 3], {"p": [1.5]}, r"p must be in \[0, 1\], got 1.5"),
        ([5, 7, 3], {"p": [None]}, "p must be a real number, got None"),
        ([5, 7, 3], {"p": [1.0], "kind": "gaussian"}, r"p must be in \[0, 1\) for normal noise, got 1.0"),
        ([5, 7, 3], {"p_input": 2}, r"p_input must be in \[0, 1\], got 2"),
        ([5, 7, 3], {"p_input": "a"}, "p_input must be a real number, got 'a'"),
        ([5, 7, 3], {"dtype": np.float16}, "dtype must be float32 or float64, got float16"),
        ([5, 7, 3], {"n_rows": 0}, "n_rows must be at least 1, got 0"),
        ([5, 7, 3], {"p": (), "dropouts": cd.Dropout(0.5)}, "dropouts must be a sequence with a layer or None"),
        ([5, 7, 3], {"p": (), "dropouts": [0.5]}, "dropouts must be layers with .* backward, or None, got 0.5"),
        ([5, 7, 3], {"p": (), "dropouts": [cd.Dropout]}, "dropouts must be layers with forward and backward, or None"),
    ],
)
def test_arguments_that_no_network_can_have_are_refused_by_name(widths, options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        MLP(widths, **{"p": [0.5], **options})


NOT_INPUTS = [
    ([[1.0] * 5], "x must be an array, got list"),
    (np.ones((2, 5), complex), "x must be an array of real numbers, got dtype complex128"),
    (np.full((2, 5), "1.0"), "x must be an array of real numbers, got dtype <U3"),
    (np.ones(5), r"x must have the axes \(n_samples, n_inputs\), got shape \(5,\)"),
    (np.ones((2, 6)), "x must have 5 columns, got 6"),
    (np.ma.array(np.ones((2, 5)), mask=True), "x must not be a masked array"),
]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", ["elementwise", "compact"])
def test_inputs_of_other_types_and_shapes_are_refused_in_training_and_evaluation(kind, training):
    network = make_network(kind).train(training)
    for x, message in NOT_INPUTS:
        with pytest.raises((TypeError, ValueError), match=message):
            network.forward(x)
        assert network.rng.position == 0


@pytest.mark.parametrize("kind", KINDS)
def test_batches_and_gradients_of_other_real_dtypes_count_as_their_numbers(kind):
    counts = np.arange(40).reshape(8, 5) % 7
    found = []
    for dtype in (np.float32, np.float64, ">f4", np.int64, np.uint8, np.float16):
        network = make_network(kind, NEEDED_ACTIVATION.get(kind, "tanh"), dtype=np.float32, p_input=0.5)
        x = counts.astype(dtype)
        outputs = network.forward(x)
        assert outputs.dtype == np.float32
        assert np.array_equal(x, counts) == (x.dtype != np.float32)  # dropped elements are those of a copy
        network.backward(np.ones(outputs.shape, dtype))
        expected = network.eval().forward(counts.astype(np.float32))
        np.testing.assert_allclose(network.forward(counts.astype(dtype)), expected, rtol=1e-5, atol=1e-6)
        found.append([grad.copy() for grad in network.grads])
        assert any(grad.any() for grad in network.grads)
    for grads in found:
        for grad, expected in zip(grads, found[0], strict=True):
            np.testing.assert_array_equal(grad, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_that_do_not_fit_the_outputs_are_refused_before_any_is_written(kind):
    network, x = make_network(kind, NEEDED_ACTIVATION.get(kind, "tanh")), make_batch(softmax_loss)[0]
    network.backward(network.forward(x).copy())
    before = [grad.copy() for grad in network.grads]
    network.forward(x)
    for dy in (np.ones((1, 3)), np.ones((8, 2)), np.ones(3), np.ones((8, 3), complex), [[1.0] * 3] * 8, None):
        with pytest.raises((TypeError, ValueError), match="dy must "):
            network.backward(dy)
        for grad, expected in zip(network.grads, before, strict=True):
            np.testing.assert_array_equal(grad, expected)


def test_widths_rates_and_layers_may_be_any_ordered_collection():
    widths, rates = {"x": 5, "h": 7, "y": 3}, {"h": 0.5}
    assert [w.shape for w in MLP(widths.values(), p=rates.values()).weights] == [(5, 7), (7, 3)]
    layer = ListLayer([1, 2])
    assert MLP(np.array([5, 7, 8, 3]), dropouts={"h": layer, "i": ListLayer()}.values()).dropouts[0] is layer
    for refused in ({5, 7, 3}, widths, "573", iter([5, 7, 3]), np.array(5)):
        with pytest.raises(TypeError, match="widths must be a sequence of integers, got "):
            MLP(refused, p=[0.5])


class ListLayer(list):
    """A layer that is a list of others, as a block may be."""

    def forward(self, x):
        return x

    def backward(self, dy):
        return dy


def test_pickles_of_networks_with_linear_layers_from_before_the_checks_load():
    layers = [cd.DropConnect(5, 6, 0.5, rng=1, dtype=float), cd.DropConnect(6, 4, 0.5, rng=2, dtype=float)]
    network = MLP([5, 6, 4, 3], dropouts=layers, dtype=float)
    for hidden in network._hidden:
        del hidden._is_first
    network = pickle.loads(pickle.dumps(network))
    x = make_batch(softmax_loss)[0]
    network.backward(network.forward(x).copy() + 1)
    assert network.grads[-1].any()
    assert network.eval().forward(x).shape == (8, 3)


class Returning:
    """A layer whose methods return what two functions make of their argument."""

    def __init__(self, forward=lambda x: x, backward=lambda dy: dy):
        self.forward, self.backward = forward, backward


@pytest.mark.parametrize("result", [lambda x: x.tolist(), lambda x: x[:, :5], lambda x: x[:3], lambda x: None])
def test_layers_that_return_other_shapes_are_named(result):
    x = make_batch(softmax_loss)[0]
    network = network_with([None, Returning(forward=result)])
    with pytest.raises((TypeError, ValueError), match=r"Returning.forward must return an array of the shape \(8, 6\)"):
        network.forward(x)
    with pytest.raises(RuntimeError, match="backward must follow a forward pass"):
        network.backward(np.ones((8, 3)))
    with pytest.raises((TypeError, ValueError), match=r"Returning.forward must return an array"):
        network.eval().forward(x)
    network = network_with([None, Returning(backward=result)])
    dy = network.forward(x).copy()
    with pytest.raises((TypeError, ValueError), match=r"Returning.backward must return an array of the shape \(8, 6\)"):
        network.backward(dy)


def test_a_layer_that_computes_in_float64_works_in_a_network_of_float32():
    x, found = make_batch(softmax_loss)[0].astype(np.float32), []
    for dtype in (np.float32, np.float64):
        layer = Returning(lambda x, dtype=dtype: 0.5 * x.astype(dtype), lambda dy, dtype=dtype: 0.5 * dy.astype(dtype))
        network = network_with([layer, None], dtype=np.float32)
        network.backward(network.forward(x).copy())
        assert network.grads[0].dtype == np.float32
        found.append([grad.copy() for grad in network.grads])
    for grad, expected in zip(*found, strict=True):
        np.testing.assert_allclose(grad, expected, rtol=1e-5, atol=1e-6)


# ---- batch normalization --------------------------------------------------------------------------------------------


def normalized_network(*, n_rows=8, **options):
    """Return a network with batch norm, random parameters and random running statistics."""
    network = MLP(WIDTHS, **{"dtype": np.float64, "rng": 1, "n_rows": n_rows, "batch_norm": True} | options)
    rng = np.random.default_rng(0)
    for param in network.params:
        param[...] = rng.standard_normal(param.shape) / 2
    for array in network.state[len(network.params) :]:
        array[...] = rng.uniform(0.5, 2, array.shape)
    return network


def unfolded_outputs(network, x):
    """Return the outputs in evaluation of a network with ReLU and batch norm, layer by layer, in float64."""
    weights, biases = ([array.astype(np.float64) for array in arrays] for arrays in (network.weights, network.biases))
    numbers = [array.astype(np.float64) for array in network.state[2 * len(weights) :]]
    for i in range(len(weights) - 1):
        gamma, mean, var = numbers[i :: len(weights) - 1]
        x = np.maximum((x @ weights[i] - mean) / np.sqrt(var + 1e-5) * gamma + biases[i], 0)
    return x @ weights[-1] + biases[-1]


@pytest.mark.parametrize("n_rows", [8, 1])
@pytest.mark.parametrize(("kind", "activation"), [given for given in COMBINATIONS if given[0] != "compact"])
def test_gradients_through_batch_norm_are_those_of_finite_differences(kind, activation, n_rows):
    network = normalized_network(kind=kind, activation=activation, p=(0.5, 0.25), p_input=0.2)
    x, targets, weights = make_batch(softmax_loss, n_rows)
    start = network.rng.position

    def loss():
        network.rng._place(network.rng.key, start)
        return softmax_loss(network.forward(x.copy()), targets, weights)

    loss()
    network.rng._place(network.rng.key, start)
    outputs = network.forward(x.copy())
    softmax_loss(outputs, targets, weights)
    network.backward(outputs)
    grads = [grad.copy() for grad in network.grads]
    assert [grad.shape for grad in grads] == [(5, 7), (7,), (7, 6), (6,), (6, 3), (3,), (7,), (6,)]
    assert all(grad.any() for grad in grads)
    for param, grad in zip(network.params, grads, strict=True):
        np.testing.assert_allclose(grad, numeric_gradient(loss, param), atol=2e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_steps_with_batch_norm_are_those_of_pytorch(dtype):
    torch = pytest.importorskip("torch")
    network = MLP(WIDTHS, p=(0.0, 0.0), dtype=dtype, n_rows=8, batch_norm=True)
    fill_he_uniform(network.weights, np.random.default_rng(0))
    linear = [torch.nn.Linear(n_in, n_out) for n_in, n_out in pairwise(WIDTHS)]
    norms = [torch.nn.BatchNorm1d(n) for n in WIDTHS[1:-1]]
    hidden = [each for pair in zip(linear, norms, strict=False) for each in (*pair, torch.nn.ReLU())]
    other = torch.nn.Sequential(*hidden, linear[-1]).to(torch.float64 if dtype == np.float64 else torch.float32)
    with torch.no_grad():
        for layer, weight in zip(linear, network.weights, strict=True):
            layer.weight.copy_(torch.from_numpy(weight.T.copy()))
            layer.bias.zero_()
    optimizer = SGD(network.params, network.grads, lr=0.1, nesterov=False)
    torch_optimizer = torch.optim.SGD(other.parameters(), 0.1, momentum=0.9)
    rng = np.random.default_rng(1)
    for n_rows in (8, 5, 8, 2, 7):
        x, labels = rng.standard_normal((n_rows, 5)).astype(dtype), rng.integers(0, 3, n_rows)
        loss = train_step(network, optimizer, softmax_loss, x.copy(), labels)
        torch_optimizer.zero_grad()
        torch_loss = torch.nn.functional.cross_entropy(other(torch.from_numpy(x)), torch.from_numpy(labels))
        torch_loss.backward()
        torch_optimizer.step()
        assert loss == pytest.approx(torch_loss.item(), rel=1e-5 if dtype == np.float32 else 1e-9)
    biases = [norm.bias for norm in norms] + [linear[-1].bias]
    expected = [each for layer, bias in zip(linear, biases, strict=True) for each in (layer.weight.T, bias)]
    for name in ("weight", "running_mean", "running_var"):
        expected += [getattr(norm, name) for norm in norms]
    tolerance = 1e-5 if dtype == np.float32 else 1e-9
    for array, value in zip(network.state, expected, strict=True):
        assert array.dtype == dtype
        np.testing.assert_allclose(array, value.detach().numpy(), rtol=tolerance, atol=tolerance)
    x = rng.standard_normal((4, 5)).astype(dtype)
    with torch.no_grad():
        evaluated = other.eval()(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(network.eval().forward(x), evaluated, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-6), (np.float64, 1e-14)])
def test_folded_weights_give_the_outputs_of_running_statistics(dtype, tolerance):
    network, x = normalized_network(p=(0.5, 0.25), dtype=dtype), make_batch(softmax_loss)[0].astype(dtype)
    for _ in range(3):
        network.forward(x.copy())
    expected = unfolded_outputs(network, x.astype(np.float64))
    outputs = network.eval().forward(x)
    assert np.abs(outputs - expected).max() <= tolerance * np.abs(expected).max()
    assert [array.dtype for array in network.folded] == [dtype] * 6
    np.testing.assert_array_equal(outputs, evaluate(network.folded, "relu", x))


def test_a_batch_of_one_row_is_normalized_by_the_running_statistics_and_leaves_them():
    network, x = normalized_network(p=(0.0, 0.0)), make_batch(softmax_loss)[0]
    before = [array.copy() for array in network.state]
    np.testing.assert_allclose(network.forward(x[:1].copy()), unfolded_outputs(network, x[:1]), rtol=1e-12)
    for array, expected in zip(network.state, before, strict=True):
        np.testing.assert_array_equal(array, expected)
    network.forward(x[:2].copy())
    statistics = zip(network.state[8:], before[8:], strict=True)
    assert not any(np.array_equal(array, expected) for array, expected in statistics)


def test_running_statistics_are_those_of_the_batches_with_momentum():
    network, x = MLP((5, 7, 3), p=(0.0,), dtype=np.float64, batch_norm=True), make_batch(softmax_loss)[0]
    network.weights[0][...] = np.random.default_rng(0).standard_normal((5, 7))
    mean, var = np.zeros(7), np.ones(7)
    for n_rows in (8, 3):
        network.forward(x[:n_rows].copy())
        z = x[:n_rows] @ network.weights[0]
        mean, var = 0.9 * mean + 0.1 * z.mean(axis=0), 0.9 * var + 0.1 * z.var(axis=0, ddof=1)
    for array, expected in zip(network.state[-2:], (mean, var), strict=True):
        np.testing.assert_allclose(array, expected, rtol=1e-12)


def test_batch_norm_of_sparse_batches_and_of_dropout_layers_is_the_same():
    sparse = pytest.importorskip("scipy.sparse")
    x, targets, _ = make_batch(softmax_loss)
    x[x < 0] = 0
    found = []
    for batch, with_layers in ((x, False), (sparse.csr_array(x), False), (x, True)):
        stream = cd.Stream(4)
        dropout = {"dropouts": [cd.Dropout(p, rng=stream) for p in (0.5, 0.25)]} if with_layers else {"p": (0.5, 0.25)}
        network = normalized_network(rng=stream, **dropout)
        outputs = network.forward(batch)
        softmax_loss(outputs, targets)
        network.backward(outputs)
        found.append([outputs, *network.grads, *network.state])
    for dense, *others in zip(*found, strict=True):
        for other in others:
            np.testing.assert_allclose(other, dense, atol=1e-12)


def test_batch_norm_of_compact_products_and_of_linear_dropout_layers_is_refused():
    with pytest.raises(ValueError, match="batch_norm must be False for the kind 'compact', got True"):
        MLP(WIDTHS, p=(0.5, 0.5), kind="compact", batch_norm=True)
    with pytest.raises(ValueError, match="batch_norm must be False for linear layers of dropouts, got True"):
        MLP(WIDTHS, dropouts=[None, cd.DropConnect(7, 6)], batch_norm=True)


# ---- the step and the initial weights -------------------------------------------------------------------------------


def test_a_step_is_forward_loss_backward_and_update_and_returns_the_loss_before_it():
    x, targets, weights = make_batch(softmax_loss)
    network, other = make_network(p=(0.0, 0.0)), make_network(p=(0.0, 0.0))
    loss = train_step(network, SGD(network.params, network.grads, lr=0.1), softmax_loss, x, targets, weights)
    outputs = other.forward(x)
    assert loss == softmax_loss(outputs, targets, weights)
    other.backward(outputs)
    optimizer = SGD(other.params, other.grads, lr=0.1)
    optimizer.step()
    for param, expected in zip(network.params, other.params, strict=True):
        np.testing.assert_array_equal(param, expected)
    assert softmax_loss(network.forward(x), targets, weights) < loss


@pytest.mark.parametrize(
    ("loss", "targets", "message"),
    [
        (softmax_loss, np.array([0, 3]), r"labels must be in \[0, 3\), got 0 to 3"),
        (softmax_loss, np.array([0, -1]), r"labels must be in \[0, 3\), got -1 to 0"),
        (softmax_loss, np.array([[0], [1]]), r"labels must have the shape \(2,\), got \(2, 1\)"),
        (logistic_loss, np.ones(3), r"targets must have the shape \(2, 3\), got \(3,\)"),
        (squared_loss, np.ones((2, 1)), r"targets must have the shape \(2, 3\), got \(2, 1\)"),
    ],
)
def test_targets_that_do_not_fit_are_refused_before_outputs_are_changed(loss, targets, message):
    outputs = np.ones((2, 3))
    with pytest.raises(ValueError, match=message):
        loss(outputs, targets)
    assert np.all(outputs == 1)


@pytest.mark.parametrize("loss", [softmax_loss, logistic_loss, squared_loss])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": np.ones(3)}, r"weights must have the shape \(8,\), got \(3,\)"),
        ({"weights": np.ones((8, 1))}, r"weights must have the shape \(8,\), got \(8, 1\)"),
        ({"weights": np.zeros(8)}, "weights must be at least 0, with a finite sum above 0, got 0.0 to 0.0"),
        ({"weights": np.arange(8) - 1.0}, "weights must be at least 0, with a finite sum above 0, got -1.0 to 6.0"),
        ({"weights": np.full(8, np.nan)}, "weights must be at least 0, with a finite sum above 0, got nan"),
        ({"weights": [1.0] * 8}, "weights must be an array, got list"),
        ({"targets": [1] * 8}, "(labels|targets) must be an array, got list"),
        ({"outputs": [[1.0] * 3] * 8}, "outputs must be an array, got list"),
        ({"outputs": np.ones((8, 3), int)}, "outputs must be an array of floats, got dtype int64"),
        ({"outputs": np.ones(8)}, r"outputs must have the axes \(n_samples, n_outputs\) .* got shape \(8,\)"),
        ({"outputs": np.ones((0, 3))}, r"outputs must have the axes .* and a sample, got shape \(0, 3\)"),
        ({"outputs": np.broadcast_to(1.0, (8, 3))}, "outputs must be writable, got a read-only array"),
    ],
)
def test_outputs_and_weights_that_do_not_fit_are_refused_before_outputs_are_changed(loss, changes, message):
    _, targets, weights = make_batch(loss)
    arguments = {"outputs": np.ones((8, 3)), "targets": targets, "weights": weights, **changes}
    with pytest.raises((TypeError, ValueError), match=message):
        loss(*arguments.values())
    assert np.all(np.asarray(arguments["outputs"]) == 1)


@pytest.mark.parametrize("dtype", [float, bool])
def test_labels_must_be_integers(dtype):
    with pytest.raises(TypeError, match=f"labels must be integers, got dtype {np.dtype(dtype)}"):
        softmax_loss(np.ones((2, 3)), np.ones(2, dtype))


@pytest.mark.parametrize("target", [-0.5, 2.0, np.nan])
def test_targets_of_the_logistic_loss_are_probabilities(target):
    outputs = np.ones((2, 3))
    with pytest.raises(ValueError, match=r"targets must be in \[0, 1\], got"):
        logistic_loss(outputs, np.full((2, 3), target))
    assert np.all(outputs == 1)


def test_loss_of_equal_outputs_is_the_logarithm_of_the_classes():
    assert softmax_loss(np.zeros((3, 10), np.float32), np.array([0, 4, 9])) == pytest.approx(math.log(10), rel=1e-6)


def test_softmax_gives_probabilities_in_float64_without_overflow():
    outputs = np.array([[1e4, 0, -1e4], [1, 2, 3]], np.float32)
    found = softmax(outputs)
    assert found.dtype == np.float64
    exponentials = np.exp([1.0, 2.0, 3.0])
    np.testing.assert_allclose(found, [[1, 0, 0], exponentials / exponentials.sum()])
    np.testing.assert_array_equal(outputs, np.array([[1e4, 0, -1e4], [1, 2, 3]], np.float32))


def test_initial_weights_have_the_variance_of_their_rule():
    rng, shape = np.random.default_rng(4), (300, 200)
    weights = [np.zeros(shape, np.float32), np.zeros((200, 10))]
    fill_he_uniform(weights, rng)
    # 60,000 uniform weights: the standard error of their variance is 0.4 %; of normal ones 0.6 %.
    assert weights[0].var() == pytest.approx(2 / 300, rel=0.02)
    assert weights[1].var() == pytest.approx(2 / 200, rel=0.12)
    assert weights[0].dtype == np.float32
    assert lecun_normal(*shape, rng).var() == pytest.approx(1 / 300, rel=0.03)
    for activation, variance in (("relu", 2 / 500), ("logistic", 2 / 1500)):
        weight, bias = glorot_uniform(*shape, rng, activation)
        assert weight.var() == pytest.approx(variance, rel=0.02)
        assert bias.shape == (200,)
        assert np.abs(bias).max() <= math.sqrt(3 * variance)


# ---- sub-networks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p_input", [0.0, 0.3])
@pytest.mark.parametrize(("kind", "activation"), COMBINATIONS)
def test_a_sub_network_is_the_network_with_the_drawn_units(kind, activation, p_input):
    network, x = make_network(kind, activation), make_batch(softmax_loss)[0]
    p = (0.5, 0.25)
    drawn = draw_sub_network(network.params, activation, p, p_input, kind, cd.Stream(7))
    stream = cd.Stream(7)
    hidden = x
    if p_input:
        hidden = x * cd.draw_mask(5, p_input, rng=stream).scaled(np.float64)
    start = hidden
    for i, rate in enumerate(p):
        hidden = hidden @ network.params[2 * i] + network.params[2 * i + 1]
        ACTIVATIONS[activation][0](hidden)
        if i == 0:
            start = start if p_input else hidden.copy()
        width = hidden.shape[1]
        if kind == "gaussian":
            hidden = hidden * cd.draw_noise(width, (rate / (1 - rate)) ** 0.5, rng=stream).multiply(np.ones(width))
        elif kind == "alpha":
            hidden = np.stack(
                [cd.alpha_dropout(row, rate, rng=s) for row, s in zip(hidden, copies(stream, 8), strict=True)]
            )
            cd.draw_mask(width, rate, rng=stream)
        else:
            hidden = hidden * cd.draw_mask(width, rate, rng=stream).scaled(np.float64)
    expected = hidden @ network.params[4] + network.params[5]
    np.testing.assert_allclose(drawn.evaluate(x if p_input else start), expected, atol=1e-9)


def copies(stream, n):
    """Streams at the same position."""
    made = [cd.Stream(0) for _ in range(n)]
    for each in made:
        each._place(stream.key, stream.position)
    return made


# ---- optimizers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_follows_its_rule_and_decays_weights_only(nesterov):
    rng = np.random.default_rng(0)
    params = [rng.standard_normal((300, 300)), rng.standard_normal(300)]
    grads = [np.zeros_like(param) for param in params]
    expected, velocities = [param.copy() for param in params], [np.zeros_like(param) for param in params]
    optimizer = SGD(params, grads, lr=0.1, l2=0.01, momentum=0.8, nesterov=nesterov)
    for _ in range(3):
        for i, grad in enumerate(grads):
            grad[...] = rng.standard_normal(grad.shape)
            step = -0.1 * (grad + (0.01 * expected[i] if grad.ndim == 2 else 0))
            velocities[i] = 0.8 * velocities[i] + step
            expected[i] = expected[i] + (0.8 * velocities[i] + step if nesterov else velocities[i])
        optimizer.step()
    for param, value in zip(params, expected, strict=True):
        np.testing.assert_allclose(param, value, atol=1e-12)


@pytest.mark.parametrize("optimizer", [Adam, SGD])
def test_optimizers_refuse_arrays_that_are_not_contiguous(optimizer):
    param = np.zeros((4, 6)).T
    with pytest.raises(ValueError, match="param must be C-contiguous"):
        optimizer([param], [np.zeros_like(param)])


def test_initial_weights_are_those_of_weights_and_a_generator_only():
    weights, stream = [np.zeros((5, 4)), np.zeros(4)], np.random.default_rng(0)
    before = stream.bit_generator.state
    with pytest.raises(ValueError, match=r"weights must be arrays \(n_in, n_out\), got one of shape \(4,\)"):
        fill_he_uniform(weights, stream)
    assert not weights[0].any()
    assert stream.bit_generator.state == before
    with pytest.raises(TypeError, match="rng must be a Generator or RandomState of NumPy, got 3"):
        fill_he_uniform(weights[:1], 3)


def test_evaluation_refuses_unknown_activations():
    network = make_network()
    with pytest.raises(ValueError, match="activation must be one of identity, logistic, tanh, relu, selu, got 'gelu'"):
        evaluate(network.params, "gelu", np.ones((2, 5)))


@pytest.mark.parametrize("optimizer", [Adam, SGD])
@pytest.mark.parametrize(
    ("params", "message"),
    [
        (np.ones((2, 2)), "params must be a list of arrays, got ndarray"),
        (iter([np.ones(2)]), "params must be a list of arrays, got list_iterator"),
        ([[1.0]], "params must be a list of arrays, got list in it"),
    ],
)
def test_optimizers_refuse_what_is_no_list_of_arrays(optimizer, params, message):
    with pytest.raises(TypeError, match=message):
        optimizer(params, [np.ones(2)])


@pytest.mark.parametrize("optimizer", [Adam, SGD])
def test_optimizers_take_the_values_of_dicts_and_need_an_array(optimizer):
    params, grads = {"weight": np.ones((2, 2)), "bias": np.ones(2)}, {"weight": np.ones((2, 2)), "bias": np.ones(2)}
    optimizer(params.values(), grads.values(), lr=0.1).step()
    assert all((param < 1).all() for param in params.values())
    with pytest.raises(ValueError, match="params must be one or more arrays, got none"):
        optimizer([], [])


@pytest.mark.parametrize("optimizer", [Adam, SGD])
@pytest.mark.parametrize("name", ["lr", "l2"])
def test_negative_step_sizes_and_penalties_are_refused_before_anything_is_updated(optimizer, name):
    params = [np.ones(2)]
    with pytest.raises(ValueError, match=f"{name} must be at least 0, got -1"):
        optimizer(params, [np.ones(2)], **{name: -1}).step()
    assert np.all(params[0] == 1)
