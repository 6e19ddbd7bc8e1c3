"""The dropout family in PyTorch: values and gradients beside plain PyTorch code, seeds, modules, and other tensors.

The plain code applies the mask that `cdropout.torch` draws for the same seed, `new_mask`.
"""

import copy
import functools
import importlib
import io
import math
import pickle
import sys
import types
import warnings

import ml_dtypes  # noqa: F401 - bfloat16 arrays
import numpy as np
import pytest

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

torch = pytest.importorskip("torch")

import cdropout as cd  # noqa: E402
import cdropout.torch as ct  # noqa: E402
from cdropout.torch import operators  # noqa: E402
from cdropout.torch.tensors import draw_mask  # noqa: E402

shared_axes = importlib.import_module("cdropout.torch.shared_axes")
linear = importlib.import_module("cdropout.torch.linear")

F = torch.nn.functional
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
P = 0.4


def seeded(function, seed=1):
    """Call a function with PyTorch's generator seeded, and restore the generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return function()


def numbers(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def new_mask(shape, p=P, axes=()):
    """Return the next mask of PyTorch's generator."""
    return draw_mask(tuple(shape), p, axes, None)


def kept(shape, p=P, axes=()):
    """Return a bool tensor of the next mask of PyTorch's generator: True where kept."""
    return torch.from_numpy(new_mask(shape, p, axes).keep())


# ---- plain PyTorch code of each function ----------------------------------------------------------------------------


def plain_drop(x, p=P, axes=(), scaled=True):
    keep = kept(x.shape, p, axes)
    return torch.where(keep, x / (1 - p) if scaled else x, torch.zeros_like(x))


def plain_gaussian(x, p=P):
    noise = cd._kernels.Noise(new_mask(()).key, 0, math.sqrt(p / (1 - p)), tuple(x.shape))
    return x * torch.from_numpy(noise.multiply(np.ones(x.shape))).to(x.dtype)


def plain_blocks(x, p=0.2, block_size=3):
    height, width = x.shape[-2:]
    corners = height - block_size + 1, width - block_size + 1
    dropped = ~kept((*x.shape[:-2], *corners), p * height * width / (block_size**2 * math.prod(corners)))
    keep = torch.ones(x.shape, dtype=torch.bool)
    for place in dropped.nonzero().tolist():
        row, column = place[-2:]
        keep[(*place[:-2], slice(row, row + block_size), slice(column, column + block_size))] = False
    return torch.where(keep, x * (keep.numel() / keep.sum()), torch.zeros_like(x))


def plain_kept_columns(x, weight, bias):
    return F.linear(plain_drop(x, axes=tuple(range(x.dim() - 1))), weight, bias)


X, SEQUENCE, IMAGES = (40, 30), (7, 4, 30), (2, 3, 8, 9)
LINEAR = (X, (20, 30), (20,))
FUNCTIONS = {
    # name -> (function, plain code, shapes of the arguments)
    "feature_dropout": (lambda x, **k: ct.feature_dropout(x, P, **k), lambda x: plain_drop(x, axes=(0,)), (X,)),
    "feature_dropout, 3 axes": (
        lambda x, **k: ct.feature_dropout(x, P, **k),
        lambda x: plain_drop(x, axes=(0, 1)),
        (SEQUENCE,),
    ),
    "feature_dropout, eval": (
        lambda x, **k: ct.feature_dropout(x, P, rescale="eval", **k),
        lambda x: plain_drop(x, axes=(0,), scaled=False),
        (X,),
    ),
    "feature_dropout, unscaled": (
        lambda x, **k: ct.feature_dropout(x, P, rescale=None, **k),
        lambda x: plain_drop(x, axes=(0,), scaled=False),
        (X,),
    ),
    "locked_dropout": (lambda x, **k: ct.locked_dropout(x, P, **k), lambda x: plain_drop(x, axes=(0,)), (SEQUENCE,)),
    "locked_dropout, batch first": (
        lambda x, **k: ct.locked_dropout(x, P, batch_first=True, **k),
        lambda x: plain_drop(x, axes=(1,)),
        (SEQUENCE,),
    ),
    "locked_dropout, no batch": (
        lambda x, **k: ct.locked_dropout(x, P, batch_first=True, **k),
        lambda x: plain_drop(x, axes=(0,)),
        (X,),
    ),
    "drop_path": (
        lambda x, training=True, **k: ct.drop_path(x, P, training, **k),
        lambda x: plain_drop(x, axes=(1, 2)),
        ((30, 2, 3),),
    ),
    "drop_path, unscaled": (
        lambda x, training=True, **k: ct.drop_path(x, P, training, False, **k),
        lambda x: plain_drop(x, axes=(1, 2), scaled=False),
        ((30, 2, 3),),
    ),
    "stochastic_depth, row": (
        lambda x, **k: ct.stochastic_depth(x, P, "row", **k),
        lambda x: plain_drop(x, axes=(1,)),
        (X,),
    ),
    "stochastic_depth, batch": (
        lambda x, **k: ct.stochastic_depth(x, P, "batch", **k),
        lambda x: plain_drop(x, axes=(0, 1)),
        (X,),
    ),
    "relu_dropout": (lambda x, **k: ct.relu_dropout(x, P, **k), lambda x: plain_drop(F.relu(x)), (X,)),
    "bias_relu_dropout": (
        lambda x, b, **k: ct.bias_relu_dropout(x, b, P, **k),
        lambda x, b: plain_drop(F.relu(x + b)),
        (X, (30,)),
    ),
    "dropout_add": (lambda x, r, **k: ct.dropout_add(x, r, P, **k), lambda x, r: plain_drop(x) + r, (X, X)),
    "bias_dropout_add": (
        lambda x, b, r, **k: ct.bias_dropout_add(x, b, r, P, **k),
        lambda x, b, r: plain_drop(x + b) + r,
        (SEQUENCE, (30,), SEQUENCE),
    ),
    "gaussian_dropout": (lambda x, **k: ct.gaussian_dropout(x, P, **k), plain_gaussian, (X,)),
    "drop_block2d": (lambda x, **k: ct.drop_block2d(x, 0.2, block_size=3, **k), plain_blocks, (IMAGES,)),
    "drop_block2d, no batch": (
        lambda x, **k: ct.drop_block2d(x, 0.2, block_size=3, **k),
        plain_blocks,
        (IMAGES[1:],),
    ),
    "zoneout": (
        lambda new, previous, **k: ct.zoneout(new, previous, P, **k),
        lambda new, previous: torch.where(kept(new.shape), new, previous),
        (X, X),
    ),
    "drop_connect": (
        lambda x, w, b, **k: ct.drop_connect(x, w, b, P, **k),
        lambda x, w, b: F.linear(x, plain_drop(w), b),
        LINEAR,
    ),
    "drop_connect, unscaled": (
        lambda x, w, b, **k: ct.drop_connect(x, w, b, P, rescale=False, **k),
        lambda x, w, b: F.linear(x, plain_drop(w, scaled=False), b),
        LINEAR,
    ),
    "feature_dropout_linear": (
        lambda x, w, b, **k: ct.feature_dropout_linear(x, w, b, P, **k),
        plain_kept_columns,
        LINEAR,
    ),
    "feature_dropout_linear, 3 axes": (
        lambda x, w, b, **k: ct.feature_dropout_linear(x, w, b, P, **k),
        plain_kept_columns,
        (SEQUENCE, *LINEAR[1:]),
    ),
}
# What evaluation returns where it is not the first argument itself.
EVALUATIONS = {
    "feature_dropout, eval": lambda x: x * (1 - P),
    "relu_dropout": F.relu,
    "bias_relu_dropout": lambda x, b: F.relu(x + b),
    "dropout_add": lambda x, r: x + r,
    "bias_dropout_add": lambda x, b, r: x + b + r,
    "zoneout": lambda new, previous: (1 - P) * new + P * previous,
    "drop_connect": F.linear,
    "drop_connect, unscaled": lambda x, w, b: F.linear(x, (1 - P) * w, b),
    "feature_dropout_linear": F.linear,
    "feature_dropout_linear, 3 axes": F.linear,
}
MATRIX_PRODUCTS = {name for name in FUNCTIONS if "linear" in name or "connect" in name}


def arguments(shapes, dtype=torch.float32, requires_grad=False):
    return [numbers(*shape, dtype=dtype, seed=i).requires_grad_(requires_grad) for i, shape in enumerate(shapes)]


def assert_close(y, expected, dtype, n_roundings=4):
    assert y.dtype is expected.dtype is dtype
    eps = torch.finfo(dtype).eps * n_roundings
    torch.testing.assert_close(y, expected, rtol=eps, atol=eps)


@pytest.fixture
def always_gather(monkeypatch):
    monkeypatch.setattr(linear, "gathering_pays", lambda *args: True)


@pytest.fixture(params=["gathered", "two steps"])
def product(request, monkeypatch):
    """Run `feature_dropout_linear` both ways."""
    monkeypatch.setattr(linear, "gathering_pays", lambda *args: request.param == "gathered")


# ---- values ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_are_those_of_plain_code_with_the_same_mask(name, dtype, product):
    function, plain, shapes = FUNCTIONS[name]
    inputs = arguments(shapes, dtype)
    y, expected = seeded(lambda: function(*inputs)), seeded(lambda: plain(*inputs))
    # Sums of 30 products differ in their order.
    assert_close(y, expected, dtype, 60 if name in MATRIX_PRODUCTS else 4)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_call_draws_two_numbers_from_the_generator(name):
    function, _, shapes = FUNCTIONS[name]
    inputs = arguments(shapes)

    def state_after(call):
        return seeded(lambda: (call(), torch.get_rng_state())[1])

    two_numbers = state_after(lambda: new_mask((3,)))
    assert torch.equal(state_after(lambda: function(*inputs)), two_numbers)
    start = state_after(lambda: None)
    assert torch.equal(state_after(lambda: function(*inputs, training=False)), start)
    generator = torch.Generator().manual_seed(1)
    y = function(*inputs, generator=generator)
    assert torch.equal(y, seeded(lambda: function(*inputs)))
    assert torch.equal(generator.get_state(), two_numbers)
    with pytest.raises(TypeError, match=r"generator must be a torch.Generator or None, got 3"):
        function(*inputs, generator=3)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_evaluation_is_the_mean(name):
    function, _, shapes = FUNCTIONS[name]
    inputs = arguments(shapes, requires_grad=True)
    y = function(*inputs, training=False)
    if name not in EVALUATIONS:
        assert y is inputs[0]
    else:
        torch.testing.assert_close(y, EVALUATIONS[name](*inputs))
        y.sum().backward()
        assert all(each.grad is not None for each in inputs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_strides_do_not_matter(name, dtype, product):
    function, _, shapes = FUNCTIONS[name]
    inputs = arguments(shapes, dtype)
    expected = seeded(lambda: function(*inputs))
    for strange in (
        [x.transpose(0, -1).contiguous().transpose(0, -1) for x in inputs],
        [x.repeat_interleave(2, -1)[..., ::2] for x in inputs],
    ):
        y = seeded(lambda strange=strange: function(*strange))
        assert_close(y, expected, dtype, 60 if name in MATRIX_PRODUCTS else 0)
    expanded = [x[:1].expand(x.shape) for x in inputs]
    y, again = seeded(lambda: function(*expanded)), seeded(lambda: function(*(x.clone() for x in expanded)))
    torch.testing.assert_close(y, again)


def test_masks_are_those_of_numpys_functions():
    x, weight = numbers(40, 30), numbers(20, 30)

    def stream():
        stream = cd.Stream(0)
        stream._place(seeded(lambda: new_mask(())).key, 0)
        return stream

    numpys = {
        "feature_dropout": cd.feature_dropout,
        "locked_dropout": cd.locked_dropout,
        "relu_dropout": cd.relu_dropout,
        "gaussian_dropout": cd.gaussian_dropout,
        "drop_path": cd.drop_path,
    }
    for name, function in numpys.items():
        training = {"training": True} if name == "drop_path" else {}
        y = seeded(lambda name=name, training=training: getattr(ct, name)(x, P, **training))
        assert np.array_equal(y.numpy(), function(x.numpy(), P, rng=stream())), name
    images = numbers(*IMAGES)
    y = seeded(lambda: ct.drop_block2d(images, 0.2, block_size=3))
    expected = cd.drop_block2d(images.numpy(), 0.2, block_size=3, rng=stream())
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-6)
    # A weight of PyTorch has the shape (out_features, in_features), and positions follow its layout.
    y = seeded(lambda: ct.drop_connect(torch.eye(30), weight, None, P))
    assert np.array_equal(y.numpy().T, cd.dropout(weight.numpy(), P, rng=stream()))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_number_of_threads_does_not_matter(name, product):
    function, _, shapes = FUNCTIONS[name]
    inputs = arguments(
        [(shape[0] * 20, *shape[1:]) if i == 0 or shape == shapes[0] else shape for i, shape in enumerate(shapes)]
    )
    n_threads = torch.get_num_threads()
    try:
        results = [(torch.set_num_threads(n), seeded(lambda: function(*inputs)))[1] for n in (1, 2)]
    finally:
        torch.set_num_threads(n_threads)
    torch.testing.assert_close(*results)


def test_a_dropped_nan_is_0_and_kept_elements_are_never_touched():
    x = torch.full((1000, 50), float("nan"))
    assert 20 < (ct.feature_dropout(x, 0.5)[0] == 0).sum() + 10 < 45
    assert (ct.relu_dropout(x, 1.0) == 0).all()
    assert (ct.dropout_add(x, torch.ones_like(x), 1.0) == 1).all()
    assert (ct.feature_dropout(x, 1.0, training=False, rescale="eval") == 0).all()
    assert torch.equal(ct.zoneout(x, torch.ones_like(x), 1.0), torch.ones_like(x))
    assert torch.equal(ct.zoneout(torch.ones_like(x), x, 0.0), torch.ones_like(x))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_edges_of_p(name):
    shapes = FUNCTIONS[name][2]
    short = getattr(ct, name.partition(",")[0])
    inputs = arguments(shapes)
    options = {"training": True}
    if "depth" in name:
        options["mode"] = "row"
    if "block" in name:
        options["block_size"] = 3
    argument = "drop_prob" if "path" in name else "p"
    at_0 = seeded(lambda: short(*inputs, **{argument: 0.0}, **options))
    torch.testing.assert_close(at_0, short(*inputs, **{argument: 0.0}, **options | {"training": False}))
    for p in (-0.1, 1.5, math.nan):
        for training in (True, False):
            with pytest.raises(ValueError, match=rf"^{argument} must be in \[0, 1\], got {p}"):
                short(*inputs, **{argument: p}, **options | {"training": training})
    for p in ("0.5", True, None):
        with pytest.raises(TypeError, match=rf"^{argument} must be a number, got {p!r}"):
            short(*inputs, **{argument: p}, **options)
    if "gaussian" in name:
        with pytest.raises(ValueError, match=r"p must be in \[0, 1\) for normal noise, got 1.0"):
            short(*inputs, p=1.0)
        return
    at_1 = short(*inputs, **{argument: 1.0}, **options)
    expected = {"zoneout": lambda: inputs[1], "dropout_add": lambda: inputs[1], "bias_dropout_add": lambda: inputs[2]}
    zeros = torch.zeros_like(inputs[0])
    if name in MATRIX_PRODUCTS:
        zeros = F.linear(zeros, inputs[1], inputs[2])
    assert torch.equal(at_1, expected.get(name, lambda: zeros)())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_empty_tensors_stay_empty(name):
    function, _, shapes = FUNCTIONS[name]
    inputs = [torch.ones(0, *shape[1:]) if shape == shapes[0] else torch.ones(shape) for shape in shapes]
    y = function(*inputs)
    assert y.shape[0] == 0
    assert y.dtype is torch.float32


def test_bad_arguments_are_named():
    x = numbers(4, 5)
    for call, error, message in (
        (lambda: ct.feature_dropout(np.ones(3)), TypeError, "input must be a tensor, got ndarray"),
        (
            lambda: ct.feature_dropout(torch.ones(3, dtype=torch.int64)),
            TypeError,
            "floating or complex dtype, got torch.i",
        ),
        (lambda: ct.feature_dropout(x, rescale="no"), ValueError, "rescale must be 'train', 'eval' or None, got 'no'"),
        (lambda: ct.FeatureDropout(rescale=True), ValueError, "rescale must be 'train', 'eval' or None, got True"),
        (
            lambda: ct.locked_dropout(torch.ones(3)),
            ValueError,
            "input must have 2 dimensions, or 3 with a batch, got 1",
        ),
        (lambda: ct.drop_path(torch.ones(())), ValueError, "x must have a batch axis"),
        (lambda: ct.stochastic_depth(x, 0.5, "column"), ValueError, "mode must be 'batch' or 'row', got 'column'"),
        (lambda: ct.drop_block2d(x), ValueError, "input must have 3 dimensions, or 4 with a batch axis, got 2"),
        (lambda: ct.drop_block2d(torch.ones(1, 5, 6)), ValueError, r"block_size must be in \[1, 5\], got 7"),
        (lambda: ct.bias_relu_dropout(x, torch.ones(4)), ValueError, r"bias must have one element .* got \(4,\)"),
        (
            lambda: ct.dropout_add(x, torch.ones(5)),
            ValueError,
            r"residual must have input's shape \(4, 5\), got \(5,\)",
        ),
        (lambda: ct.zoneout(x, torch.ones(5)), ValueError, r"previous must have new's shape \(4, 5\), got \(5,\)"),
        (lambda: ct.drop_connect(x, torch.ones(5)), ValueError, r"weight must have the axes .* got shape \(5,\)"),
        (lambda: ct.drop_connect(x, torch.ones(2, 4)), ValueError, r"input must have 4 columns, as weight does"),
        (
            lambda: ct.drop_connect(x, torch.ones(2, 5), torch.ones(5)),
            ValueError,
            r"bias must have one element for each",
        ),
        (lambda: ct.DropConnect(5, 2, 0.5), TypeError, "bias must be True or False, got 0.5"),
        (lambda: ct.DropConnect(5, 2, inference="mode"), ValueError, "inference must be 'mean' or 'gaussian'"),
        (lambda: ct.DropConnect(5, 2, inference="gaussian"), ValueError, "inference 'gaussian' must have relu=True"),
        (lambda: ct.DropConnect(5, 2, n_samples=0), ValueError, "n_samples must be at least 1, got 0"),
        (lambda: ct.ZoneoutLSTMCell(5, 2, p_cell=2), ValueError, r"p_cell must be in \[0, 1\], got 2"),
    ):
        with pytest.raises(error, match=message):
            call()


# ---- gradients ------------------------------------------------------------------------------------------------------


def smaller(shapes):
    """Return shapes of few elements that still fit together: the same lengths become the same smaller ones."""
    lengths = {2: 2, 3: 2, 8: 3, 9: 4, 40: 3, 30: 4, 20: 2, 7: 3, 4: 2}
    return [tuple(lengths[n] for n in shape) for shape in shapes]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_and_their_gradients_are_right(name, product):
    function, _, shapes = FUNCTIONS[name]
    inputs = arguments(smaller(shapes), torch.float64, requires_grad=True)

    def call(*inputs):
        return seeded(lambda: torch.sin(function(*inputs)), 2)

    assert torch.autograd.gradcheck(call, inputs, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(call, inputs, check_batched_grad=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_are_those_of_plain_code(name, dtype, product):
    function, plain, shapes = FUNCTIONS[name]
    grads = []
    for call in (function, plain):
        inputs = arguments(shapes, dtype, requires_grad=True)
        y = seeded(lambda call=call, inputs=inputs: call(*inputs))
        y.backward(numbers(*y.shape, dtype=dtype, seed=9))
        grads.append([each.grad for each in inputs])
    for ours, theirs in zip(*grads, strict=True):
        eps = torch.finfo(dtype).eps
        torch.testing.assert_close(ours, theirs, rtol=8 * eps, atol=60 * eps)


@pytest.mark.parametrize("name", ["feature_dropout", "dropout_add", "gaussian_dropout", "zoneout"])
def test_what_is_saved_is_the_mask_and_not_an_array(name):
    function, _, shapes = FUNCTIONS[name]
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        function(*arguments(shapes, requires_grad=True))
    assert saved == []


def test_relu_dropout_saves_its_output_alone():
    saved = []
    x = numbers(*X).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        y = ct.relu_dropout(x, P)
    assert [each.data_ptr() for each in saved] == [y.data_ptr()]


@pytest.mark.parametrize("rescale", ["train", None])
def test_in_place_writes_and_autograd_knows(rescale):
    x = numbers(50, 50)
    call = functools.partial(ct.feature_dropout, p=0.5, rescale=rescale)
    expected = seeded(lambda: call(x))
    target = x.clone()
    assert seeded(lambda: call(target, inplace=True)) is target
    assert torch.equal(target, expected)
    leaf = numbers(5, 5).requires_grad_()
    with pytest.raises(RuntimeError, match="leaf"):
        call(leaf, inplace=True)
    base = leaf * 1.0
    squared = base.square()  # needs its input for its gradient
    call(base.detach(), inplace=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        squared.sum().backward()
    y = leaf * 1.0
    call(y, inplace=True).sum().backward()
    assert set(leaf.grad.unique().tolist()) <= {0.0, 2.0, 1.0}
    in_evaluation = x.clone()
    assert ct.feature_dropout(in_evaluation, 0.5, False, True, rescale="eval") is in_evaluation
    assert torch.equal(in_evaluation, x / 2)


def test_mixed_dtypes_promote_as_the_two_steps_do():
    x, residual, bias = numbers(*X, dtype=torch.bfloat16), numbers(*X, seed=1), numbers(30, seed=2)
    y = seeded(lambda: ct.dropout_add(x, residual, P))
    assert torch.equal(y, seeded(lambda: ct.dropout(x, P) + residual))
    assert y.dtype is torch.float32
    assert seeded(lambda: ct.bias_relu_dropout(x, bias, P)).dtype is torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        layer = ct.FeatureDropoutLinear(512, 512)
        y = layer(numbers(512, 512))
        assert y.dtype is torch.bfloat16
        assert ct.DropConnect(30, 20)(numbers(*X)).dtype is torch.bfloat16


# ---- statistics -----------------------------------------------------------------------------------------------------


def test_the_mean_over_masks_is_evaluation():
    # 4,000 masks: the standard error of an output is below 0.02, and 5 of them are allowed.
    torch.manual_seed(3)
    layer = ct.DropConnect(10, 6, p=0.3, dtype=torch.float64)
    x = numbers(5, 10, dtype=torch.float64)
    for rescale in (True, False):
        layer.rescale = rescale
        mean = torch.stack([layer.train()(x) for _ in range(4000)]).mean(0)
        torch.testing.assert_close(mean, layer.eval()(x), atol=0.1, rtol=0)
    layer = ct.FeatureDropoutLinear(10, 6, p=0.3, dtype=torch.float64)
    mean = torch.stack([layer.train()(x) for _ in range(4000)]).mean(0)
    torch.testing.assert_close(mean, layer.eval()(x), atol=0.1, rtol=0)


def test_gaussian_inference_of_drop_connect_is_near_the_mean_of_relu_over_masks():
    # 1,000 masks and 1,000 draws, of a standard deviation below 0.4: standard errors below 0.02; 5 are allowed.
    torch.manual_seed(4)
    layer = ct.DropConnect(200, 5, p=0.5, rescale=False, inference="gaussian", relu=True, n_samples=1000)
    x = numbers(4, 200)
    with torch.no_grad():
        mean = torch.stack([layer.train()(x) for _ in range(1000)]).mean(0)
        averaged = layer.eval()(x)
    torch.testing.assert_close(averaged, mean, atol=0.1, rtol=0)
    layer.inference = "mean"
    assert (layer(x) - mean).abs().max() > (averaged - mean).abs().max()


def test_gaussian_dropout_has_dropouts_mean_and_variance():
    # A million numbers: standard errors of 7e-4 (mean) and 1e-3 (variance).
    y = seeded(lambda: ct.gaussian_dropout(torch.ones(1000, 1000), 0.3))
    assert abs(y.mean().item() - 1) < 4e-3
    assert abs(y.var().item() - 3 / 7) < 5e-3


# ---- modules --------------------------------------------------------------------------------------------------------

CELL = ((6, 5), (6, 4))
MODULES = {
    # name -> (module, its function's values for the module and its inputs, shapes of inputs, repr)
    "FeatureDropout": (
        lambda: ct.FeatureDropout(P),
        lambda m, x: ct.feature_dropout(x, P),
        (X,),
        "FeatureDropout(p=0.4, inplace=False, rescale='train')",
    ),
    "FeatureDropout, eval": (
        lambda: ct.FeatureDropout(P, rescale="eval"),
        lambda m, x: ct.feature_dropout(x, P, rescale="eval"),
        (X,),
        "FeatureDropout(p=0.4, inplace=False, rescale='eval')",
    ),
    "LockedDropout": (
        lambda: ct.LockedDropout(P, batch_first=True),
        lambda m, x: ct.locked_dropout(x, P, batch_first=True),
        (SEQUENCE,),
        "LockedDropout(p=0.4, inplace=False, batch_first=True)",
    ),
    "DropPath": (lambda: ct.DropPath(P), lambda m, x: ct.drop_path(x, P, True), (X,), "DropPath(drop_prob=0.4)"),
    "DropPath, unscaled": (
        lambda: ct.DropPath(P, False),
        lambda m, x: ct.drop_path(x, P, True, False),
        (X,),
        "DropPath(drop_prob=0.4, scale_by_keep=False)",
    ),
    "StochasticDepth": (
        lambda: ct.StochasticDepth(P, "row"),
        lambda m, x: ct.stochastic_depth(x, P, "row"),
        (X,),
        "StochasticDepth(p=0.4, mode='row')",
    ),
    "DropBlock2d": (
        lambda: ct.DropBlock2d(0.2, block_size=3),
        lambda m, x: ct.drop_block2d(x, 0.2, block_size=3),
        (IMAGES,),
        "DropBlock2d(p=0.2, block_size=3)",
    ),
    "GaussianDropout": (
        lambda: ct.GaussianDropout(P),
        lambda m, x: ct.gaussian_dropout(x, P),
        (X,),
        "GaussianDropout(p=0.4)",
    ),
    "ReLUDropout": (lambda: ct.ReLUDropout(P), lambda m, x: ct.relu_dropout(x, P), (X,), "ReLUDropout(p=0.4)"),
    "DropoutAdd": (lambda: ct.DropoutAdd(P), lambda m, x, r: ct.dropout_add(x, r, P), (X, X), "DropoutAdd(p=0.4)"),
    "Zoneout": (lambda: ct.Zoneout(P), lambda m, x, r: ct.zoneout(x, r, P), (X, X), "Zoneout(p=0.4)"),
    "DropConnect": (
        lambda: ct.DropConnect(30, 20, p=P),
        lambda m, x: ct.drop_connect(x, m.weight, m.bias, P),
        (X,),
        "DropConnect(in_features=30, out_features=20, bias=True, p=0.4)",
    ),
    "DropConnect, relu": (
        lambda: ct.DropConnect(30, 20, False, P, rescale=False, relu=True),
        lambda m, x: F.relu(ct.drop_connect(x, m.weight, None, P, rescale=False)),
        (X,),
        "DropConnect(in_features=30, out_features=20, bias=False, p=0.4, rescale=False, relu=True)",
    ),
    "FeatureDropoutLinear": (
        lambda: ct.FeatureDropoutLinear(30, 20, p=P),
        lambda m, x: ct.feature_dropout_linear(x, m.weight, m.bias, P),
        (X,),
        "FeatureDropoutLinear(in_features=30, out_features=20, bias=True, p=0.4)",
    ),
    "ZoneoutRNNCell": (
        lambda: ct.ZoneoutRNNCell(5, 4, nonlinearity="relu", p=P),
        lambda m, x, h: ct.zoneout(torch.nn.RNNCell.forward(m, x, h), h, P),
        CELL,
        "ZoneoutRNNCell(5, 4, nonlinearity=relu, p=0.4)",
    ),
    "ZoneoutGRUCell": (
        lambda: ct.ZoneoutGRUCell(5, 4, p=P),
        lambda m, x, h: ct.zoneout(torch.nn.GRUCell.forward(m, x, h), h, P),
        CELL,
        "ZoneoutGRUCell(5, 4, p=0.4)",
    ),
}
PLAIN_MODULES = {
    "DropConnect": torch.nn.Linear(30, 20),
    "DropConnect, relu": torch.nn.Linear(30, 20, False),
    "FeatureDropoutLinear": torch.nn.Linear(30, 20),
    "ZoneoutRNNCell": torch.nn.RNNCell(5, 4),
    "ZoneoutGRUCell": torch.nn.GRUCell(5, 4),
}


@pytest.mark.parametrize("name", MODULES)
def test_modules_have_their_functions_values_and_a_repr(name):
    make, function, shapes, text = MODULES[name]
    module, inputs = make(), arguments(shapes)
    assert repr(module) == text
    y = seeded(lambda: module(*inputs))
    assert torch.equal(y, seeded(lambda: function(module, *inputs)))
    assert not torch.equal(y, seeded(lambda: module(*inputs), 2)) or name == "StochasticDepth"
    assert torch.equal(seeded(lambda: copy.deepcopy(module)(*inputs)), y)
    assert torch.equal(seeded(lambda: pickle.loads(pickle.dumps(module))(*inputs)), y)
    assert torch.equal(module.eval()(*inputs), module(*inputs))
    assert module.state_dict().keys() == PLAIN_MODULES.get(name, torch.nn.ReLU()).state_dict().keys()
    module.load_state_dict(PLAIN_MODULES.get(name, torch.nn.ReLU()).state_dict())


def test_a_zoneout_lstm_cell_keeps_states_and_a_plain_cell_loads_its_parameters():
    cell, theirs = ct.ZoneoutLSTMCell(5, 4, p_hidden=0.2, p_cell=0.6), torch.nn.LSTMCell(5, 4)
    assert repr(cell) == "ZoneoutLSTMCell(5, 4, p_hidden=0.2, p_cell=0.6)"
    theirs.load_state_dict(cell.state_dict())
    x, hidden, memory = numbers(6, 5), numbers(6, 4, seed=1), numbers(6, 4, seed=2)
    new = theirs(x, (hidden, memory))

    def expected():
        return [torch.where(kept(a.shape, p), a, b) for a, b, p in zip(new, (hidden, memory), (0.2, 0.6), strict=True)]

    for ours, plain in zip(seeded(lambda: cell(x, (hidden, memory))), seeded(expected), strict=True):
        assert torch.equal(ours, plain)
    cell.eval()
    for ours, a, b, p in zip(cell(x, (hidden, memory)), new, (hidden, memory), (0.2, 0.6), strict=True):
        torch.testing.assert_close(ours, (1 - p) * a + p * b)
    torch.testing.assert_close(cell(x)[1], 0.4 * theirs(x)[1])
    assert cell.train()(x[0])[0].shape == (4,)
    for module, theirs in ((ct.ZoneoutGRUCell(5, 4, p=0.3), torch.nn.GRUCell(5, 4)),):
        theirs.load_state_dict(module.state_dict())
        torch.testing.assert_close(module.eval()(x), 0.7 * theirs(x))


def test_a_model_of_these_modules_is_saved_and_loaded():
    model = torch.nn.Sequential(
        ct.DropConnect(30, 20, relu=True), ct.FeatureDropout(0.3), ct.FeatureDropoutLinear(20, 10), ct.ReLUDropout(0.2)
    )
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    x = numbers(*X)
    assert torch.equal(seeded(lambda: again(x)), seeded(lambda: model(x)))
    assert isinstance(model[1], torch.nn.modules.dropout._DropoutNd)


def test_a_row_of_layers_learns_in_float32_with_gathered_columns(always_gather):
    torch.manual_seed(5)
    model = torch.nn.Sequential(ct.FeatureDropoutLinear(8, 32, p=0.2), torch.nn.ReLU(), ct.DropConnect(32, 1, p=0.2))
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    x = numbers(256, 8)
    y = x[:, :1] - 2 * x[:, 1:2]
    losses = []
    for _ in range(150):
        loss = F.mse_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert F.mse_loss(model.eval()(x), y).item() < losses[0] / 5


# ---- other tensors, transforms and tracers --------------------------------------------------------------------------


@pytest.mark.parametrize("name", FUNCTIONS)
def test_meta_and_fake_tensors_and_subclasses_take_pytorchs_operators(name):
    from torch._subclasses.fake_tensor import FakeTensorMode

    function, _, shapes = FUNCTIONS[name]
    expected = function(*arguments(shapes)).shape
    meta = function(*(torch.ones(shape, device="meta") for shape in shapes))
    assert (meta.device.type, meta.shape) == ("meta", expected)
    with FakeTensorMode():
        assert function(*(torch.ones(shape) for shape in shapes)).shape == expected

    class Tagged(torch.Tensor):
        pass

    assert type(function(*(x.as_subclass(Tagged) for x in arguments(shapes)))) is Tagged
    with pytest.raises(ValueError, match="generator must be None unless input is a dense tensor on the CPU"):
        function(*(torch.ones(shape, device="meta") for shape in shapes), generator=torch.Generator())


# Zeros of the others do not show their share.
WITH_ZEROS = [
    name
    for name in FUNCTIONS
    if name not in MATRIX_PRODUCTS and not name.startswith(("zoneout", "gaussian", "stochastic_depth, batch"))
]


@pytest.mark.parametrize("name", WITH_ZEROS)
def test_operators_drop_the_same_share_as_the_kernels(name):
    # 40,000 elements or more; decisions that are shared are few, so the bounds are wide.
    function, _, shapes = FUNCTIONS[name]
    inputs = [torch.ones((shape[0] * 10, *shape[1:]) if len(shape) > 1 else shape) for shape in shapes]
    inputs[1:] = [torch.zeros_like(each) for each in inputs[1:]]

    class Tagged(torch.Tensor):
        pass

    shares = [
        seeded(lambda cast=cast: (function(*map(cast, inputs)) == 0).double().mean().item())
        for cast in (lambda x: x, lambda x: x.as_subclass(Tagged))
    ]
    assert shares[0] == pytest.approx(shares[1], abs=0.3)
    assert all(0.05 < share < 0.75 for share in shares)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_vmap_draws_separately_for_each_example(name):
    function, _, shapes = FUNCTIONS[name]
    inputs = [x.expand(3, *x.shape) for x in arguments(shapes)]
    y = torch.func.vmap(function, randomness="different")(*inputs)
    assert y.shape == (3, *function(*arguments(shapes)).shape)
    if "batch" not in name:
        assert not torch.equal(y[0], y[1])
    # Only the first argument has an axis of examples.
    axes = (0, *[None] * (len(inputs) - 1))
    mixed = torch.func.vmap(function, in_dims=axes, randomness="different")(inputs[0], *arguments(shapes)[1:])
    assert mixed.shape == y.shape
    same = torch.func.vmap(function, randomness="same")(*inputs)
    assert torch.equal(same[0], same[1])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functional_gradients_and_forward_mode(name):
    function, _, shapes = FUNCTIONS[name]
    inputs = arguments(shapes)
    grad = torch.func.grad(lambda x: function(x, *inputs[1:]).sum())(inputs[0])
    assert grad.shape == inputs[0].shape
    y, tangent = torch.func.jvp(lambda x: function(x, *inputs[1:]), (inputs[0],), (torch.ones_like(inputs[0]),))
    assert tangent.shape == y.shape


@pytest.mark.parametrize("name", FUNCTIONS)
def test_traced_functions_draw_when_they_are_called(name):
    from torch.fx.experimental.proxy_tensor import make_fx

    function, _, shapes = FUNCTIONS[name]
    inputs = arguments(shapes)
    graph = make_fx(lambda *inputs: function(*inputs))(*inputs)
    traced = torch.jit.trace(lambda *inputs: function(*inputs), tuple(inputs), check_trace=False)
    for call in (graph, traced):
        results = [seeded(lambda call=call: call(*inputs), seed) for seed in range(6)]
        assert results[0].shape == function(*inputs).shape
        assert any(not torch.equal(results[0], each) for each in results)


def test_activation_checkpointing_draws_the_same_masks_again():
    from torch.utils.checkpoint import checkpoint

    for name, (function, _, shapes) in FUNCTIONS.items():
        inputs = arguments(shapes, requires_grad=True)
        grads = []
        for call in (lambda *a, f=function: checkpoint(f, *a, use_reentrant=False), function):
            y = seeded(lambda call=call, inputs=inputs: call(*inputs))
            with torch.random.fork_rng(devices=[]):
                grads.append(torch.autograd.grad(y.square().sum(), inputs))
        assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True)), name


SCRIPTABLE = [name for name in MODULES if not name.startswith(("DropBlock", "DropConnect", "ZoneoutR", "ZoneoutG"))]


@pytest.mark.parametrize("name", SCRIPTABLE)
def test_scripts_drop_in_training_and_the_module_stays_ours(name):
    make, _, shapes, _ = MODULES[name]
    module, inputs = make(), arguments(shapes)
    scripted = torch.jit.script(module)
    file = io.BytesIO()
    torch.jit.save(scripted, file)
    file.seek(0)
    scripted = torch.jit.load(file)
    results = [seeded(lambda: scripted(*inputs), seed) for seed in range(6)]
    assert any(not torch.equal(results[0], each) for each in results)
    scripted.eval()
    torch.testing.assert_close(scripted(*inputs), copy.deepcopy(module).eval()(*inputs))
    y = seeded(lambda: module(*inputs))
    assert "forward" not in module.__dict__
    assert torch.equal(y, seeded(lambda: type(module).forward(module, *inputs)))


@pytest.mark.parametrize("name", MODULES)
def test_fx_records_a_call_of_each_module(name):
    make, _, shapes, _ = MODULES[name]

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = make()

        def forward(self, a, b):
            return self.layer(a, b) if len(shapes) > 1 else self.layer(a)

    graph = torch.fx.symbolic_trace(Model())
    assert [node.target for node in graph.graph.nodes if node.op == "call_module"] == ["layer"]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_compiled_functions_run_and_learn(name):
    function, _, shapes = FUNCTIONS[name]
    inputs = arguments(shapes, requires_grad=True)
    torch._dynamo.reset()
    compiled = torch.compile(function, backend="eager")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of graph breaks
        results = [seeded(lambda: compiled(*inputs), seed) for seed in range(6)]
    assert results[0].shape == function(*inputs).shape
    assert any(not torch.equal(results[0], each) for each in results)
    results[0].sum().backward()
    assert all(each.grad is not None for each in inputs)
    if name.startswith(("feature", "locked", "drop_path", "stochastic", "relu", "bias", "dropout", "drop_connect")):
        torch.testing.assert_close(results[0], seeded(lambda: function(*inputs), 0))


# ---- modules of other packages --------------------------------------------------------------------------------------


@pytest.fixture
def packages(monkeypatch):
    """Stand-ins for timm and torchvision, whose classes are defined as theirs are."""

    class DropPath(torch.nn.Module):
        def __init__(self, drop_prob=0.0, scale_by_keep=True):
            super().__init__()
            self.drop_prob = drop_prob
            self.scale_by_keep = scale_by_keep

    class StochasticDepth(torch.nn.Module):
        def __init__(self, p, mode):
            super().__init__()
            self.p = p
            self.mode = mode

    for path, cls in (("timm.layers.drop", DropPath), ("torchvision.ops.stochastic_depth", StochasticDepth)):
        cls.__module__, cls.__qualname__ = path, cls.__name__
        module = types.ModuleType(path)
        setattr(module, cls.__name__, cls)
        monkeypatch.setitem(sys.modules, path, module)
        for parent in (path.partition(".")[0], path.rpartition(".")[0]):
            monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))
    return DropPath, StochasticDepth


def test_modules_of_other_packages_are_replaced_and_restored(packages):
    drop_path, stochastic_depth = packages
    calls, x = [], numbers(*X)
    for module, ours, function in (
        (drop_path(0.4), ct.DropPath, lambda x: ct.drop_path(x, 0.4, True)),
        (drop_path(0.4, False), ct.DropPath, lambda x: ct.drop_path(x, 0.4, True, False)),
        (stochastic_depth(0.4, "row"), ct.StochasticDepth, lambda x: ct.stochastic_depth(x, 0.4, "row")),
    ):
        theirs, attributes = type(module), dict(vars(module))
        module.register_forward_hook(lambda *_: calls.append(1))
        assert shared_axes.replace_other(module)
        assert not shared_axes.replace_other(module)
        assert type(module) is ours
        y = seeded(lambda module=module: module(x))
        assert torch.equal(y, seeded(lambda function=function: function(x)))
        assert torch.equal(y, seeded(lambda module=module: copy.deepcopy(module)(x)))
        scripted = copy.deepcopy(module)
        scripted._forward_hooks.clear()  # the script would compile the hook
        torch.jit.script(scripted)
        assert shared_axes.restore_other(module)
        assert not shared_axes.restore_other(module)
        assert type(module) is theirs
        assert vars(module).keys() == attributes.keys()
    assert len(calls) == 6
    old = drop_path(None)
    del old.scale_by_keep
    assert shared_axes.replace_other(old)
    assert old(numbers(*X)) is not None
    assert not shared_axes.replace_other(ct.DropPath(0.2))
    assert not shared_axes.restore_other(ct.DropPath(0.2))


def test_pytorchs_operators_are_one_reference():
    """The functions of `operators` for p = 1 and in evaluation, where nothing is random."""
    x, residual = numbers(*X), numbers(*X, seed=1)
    assert torch.equal(operators.feature_dropout(x, 1.0, True, "train"), torch.zeros_like(x))
    assert torch.equal(operators.dropout_add(x, residual, 1.0, True), residual)
    assert torch.equal(operators.zoneout(x, residual, 1.0, True), residual)
    assert torch.equal(operators.relu_dropout(x, 1.0, False), F.relu(x))
    assert torch.equal(operators.drop_connect(x, torch.eye(30), None, 0.5, False, False), x / 2)
