"""The network of the estimators: gradients, kinds of dropout, losses, optimizers and sub-networks."""

import numpy as np
import pytest
from reference import numeric_gradient

import cdropout as cd
from cdropout.networks import (
    ACTIVATIONS,
    KINDS,
    MLP,
    SGD,
    Adam,
    draw_sub_network,
    evaluate,
    logistic_loss,
    softmax_loss,
    squared_loss,
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
        each.rng = cd.Stream(5)
        for hidden in each._hidden:
            hidden.rng = each.rng
        outputs = each.forward(x[:3])
        softmax_loss(outputs, targets[:3])
        each.backward(outputs)
    for grad, expected in zip(network.grads, other.grads, strict=True):
        np.testing.assert_array_equal(grad, expected)


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
    with pytest.raises(ValueError, match="params and grads must be C-contiguous"):
        optimizer([param], [np.zeros_like(param)])
