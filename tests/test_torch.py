"""PyTorch's dropout by this library: values, gradients, seeds, modules, and the cases left to PyTorch's functions."""

import copy
import io
import pickle
import warnings

import numpy as np
import pytest

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

torch = pytest.importorskip("torch")

import cdropout.torch as ct  # noqa: E402

F = torch.nn.functional
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
CHANNELS = {
    # name -> (function, PyTorch's function, shape of an input, axes along which decisions are shared)
    "dropout1d": (ct.dropout1d, F.dropout1d, (20, 30, 5), (2,)),
    "dropout1d, no batch": (ct.dropout1d, F.dropout1d, (300, 5), (1,)),
    "dropout2d": (ct.dropout2d, F.dropout2d, (20, 30, 5, 2), (2, 3)),
    "dropout3d": (ct.dropout3d, F.dropout3d, (20, 30, 5, 2, 2), (2, 3, 4)),
    "dropout3d, no batch": (ct.dropout3d, F.dropout3d, (300, 5, 2, 2), (1, 2, 3)),
}
FUNCTIONS = {
    "dropout": (ct.dropout, F.dropout, (40, 30)),
    **{name: (ours, theirs, shape) for name, (ours, theirs, shape, _) in CHANNELS.items()},
    "alpha_dropout": (ct.alpha_dropout, F.alpha_dropout, (40, 30)),
    "feature_alpha_dropout": (ct.feature_alpha_dropout, F.feature_alpha_dropout, (20, 30, 3)),
}
MODULES = ("Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout", "FeatureAlphaDropout")


def seeded(function, seed=1):
    """Call a function with PyTorch's generator seeded, and restore the generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return function()


# ---- values ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_elements_are_dropped_and_scaled(dtype):
    x = torch.randn(300, 400, generator=torch.Generator().manual_seed(0)).to(dtype)
    y = ct.dropout(x, 0.25)
    kept = y != 0
    assert y.dtype is dtype
    assert abs(kept.double().mean().item() - 0.75) < 5 * (0.25 * 0.75 / x.numel()) ** 0.5
    assert torch.allclose(y[kept].double(), x[kept].double() / 0.75, rtol=torch.finfo(dtype).eps)


@pytest.mark.parametrize("name", CHANNELS)
def test_whole_channels_are_dropped(name):
    function, _, shape, axes = CHANNELS[name]
    dropped = (function(torch.ones(shape), 0.4) == 0).numpy()
    assert np.array_equal(dropped.any(axis=axes), dropped.all(axis=axes))
    assert 0.3 < dropped.mean() < 0.5


def test_moments_of_alpha_dropout_are_pytorchs():
    x = torch.randn(1000, 1000, generator=torch.Generator().manual_seed(0))
    y = ct.alpha_dropout(x, 0.3, training=True)
    assert abs(y.mean().item()) < 5e-3
    assert abs(y.std().item() - 1) < 5e-3
    fill, theirs = (torch.mode(z.flatten()).values.item() for z in (y, F.alpha_dropout(x, 0.3, training=True)))
    assert fill == pytest.approx(theirs, rel=1e-5)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_edges_are_pytorchs(name):
    ours, theirs, shape = FUNCTIONS[name]
    x = torch.randn(shape)
    assert torch.equal(ours(x, 0.5, training=False), x)
    assert torch.equal(ours(x, 0.0, training=True), theirs(x, 0.0, training=True))
    assert torch.equal(ours(x, 1.0, training=True), torch.zeros(shape))
    for p in (-0.1, 1.1):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is PyTorch's
            ours(x, p, training=True)
        with pytest.raises(ValueError) as expected:  # noqa: PT011
            theirs(x, p, training=True)
        assert str(caught.value) == str(expected.value)


def test_empty_and_0_d_tensors_and_dropped_nan():
    assert ct.dropout(torch.ones(0, 3), 0.5).shape == (0, 3)
    assert ct.dropout(torch.tensor(2.0), 0.5).item() in (0.0, 4.0)
    y = ct.dropout(torch.full((1000,), float("nan")), 0.5)
    assert 400 < (y == 0).sum() < 600
    with pytest.raises(RuntimeError, match="dropout1d: Expected 2D or 3D input, but received a 4D input"):
        ct.dropout1d(torch.ones(1, 1, 1, 1))
    with pytest.warns(UserWarning, match="dropout2d"):
        assert ct.dropout2d(torch.ones(4, 5, 6), 0.5).shape == (4, 5, 6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_strides_do_not_matter(dtype):
    x = torch.randn(30, 40).to(dtype)
    expected = seeded(lambda: ct.dropout(x, 0.5))
    for strange in (x.t().contiguous().t(), x.repeat_interleave(2, 1)[:, ::2], x.expand(1, 30, 40)[0]):
        assert torch.equal(seeded(lambda strange=strange: ct.dropout(strange, 0.5)), expected)
    assert torch.equal(seeded(lambda: ct.dropout(torch.ones(1, 1).expand(30, 40), 0.5)) != 0, expected != 0)


# ---- gradients ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_and_their_gradients_are_right(name):
    function, _, shape = FUNCTIONS[name]
    shape = tuple(min(n, 3 if axis < 2 else 2) for axis, n in enumerate(shape))
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)

    def call(x):
        return seeded(lambda: torch.sin(function(x, 0.4, training=True)))

    assert torch.autograd.gradcheck(call, (x,))
    assert torch.autograd.gradgradcheck(call, (x,))


def test_what_is_saved_is_the_mask_and_not_an_array():
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        ct.dropout(torch.ones(100, 100, requires_grad=True), 0.5)
    assert saved == []


def test_in_place_writes_and_autograd_knows():
    x = torch.randn(50, 50)
    expected = seeded(lambda: ct.dropout(x, 0.5))
    target = x.clone()
    assert seeded(lambda: ct.dropout(target, 0.5, inplace=True)) is target
    assert torch.equal(target, expected)
    leaf = torch.randn(5, 5, requires_grad=True)
    y = leaf * 1.0
    ct.dropout(y, 0.5, inplace=True).sum().backward()
    assert set(leaf.grad.unique().tolist()) <= {0.0, 2.0}
    with pytest.raises(RuntimeError, match="leaf"):
        ct.dropout(leaf, 0.5, inplace=True)
    base = leaf * 1.0
    squared = base.square()  # needs its input for its gradient
    ct.dropout(base.detach(), 0.5, inplace=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        squared.sum().backward()


# ---- seeds ----------------------------------------------------------------------------------------------------------


def test_masks_follow_manual_seed_or_a_generator():
    x = torch.ones(100)
    assert torch.equal(seeded(lambda: ct.dropout(x)), seeded(lambda: ct.dropout(x)))
    assert not torch.equal(seeded(lambda: ct.dropout(x), 1), seeded(lambda: ct.dropout(x), 2))
    assert not torch.equal(ct.dropout(x), ct.dropout(x))
    first, second = (ct.dropout(x, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)


def test_checkpointing_draws_the_same_mask_again():
    from torch.utils.checkpoint import checkpoint

    x = torch.randn(50, 50, requires_grad=True)
    y = checkpoint(lambda x: ct.dropout(x, 0.5), x, use_reentrant=False)
    y.sum().backward()
    assert torch.equal(x.grad != 0, y != 0)


# ---- modules --------------------------------------------------------------------------------------------------------


def network():
    return torch.nn.Sequential(
        torch.nn.Linear(20, 30),
        torch.nn.ReLU(),
        torch.nn.Dropout(0.3, inplace=True),
        torch.nn.ModuleDict({"deep": torch.nn.Dropout1d(0.2)})["deep"],
        torch.nn.Linear(30, 5),
    )


def test_replacing_keeps_names_flags_hooks_and_counts():
    model, calls = network(), []
    model[2].eval()
    model[2].register_forward_hook(lambda *_: calls.append(1))
    names, module = [name for name, _ in model.named_modules()], model[2]
    assert ct.replace_dropout(model) == 2
    assert ct.replace_dropout(model) == 0
    assert type(model[2]) is ct.Dropout
    assert model[2] is module
    assert (module.p, module.inplace, module.training) == (0.3, True, False)
    assert [name for name, _ in model.named_modules()] == names
    model(torch.ones(4, 20))
    assert calls == [1]
    assert ct.restore_dropout(model) == 2
    assert type(model[2]) is torch.nn.Dropout
    lone = torch.nn.AlphaDropout(0.2)
    assert ct.replace_dropout(lone) == 1
    assert type(lone) is ct.AlphaDropout


@pytest.mark.parametrize("name", MODULES)
def test_modules_have_pytorchs_arguments_and_their_functions_values(name):
    module = getattr(ct, name)(p=0.4)
    assert repr(module) == repr(getattr(torch.nn, name)(p=0.4))
    shape = {"Dropout1d": (8, 9, 3), "Dropout3d": (8, 9, 2, 2, 2)}.get(name, (8, 9, 3, 2))
    x = torch.randn(shape)
    y = seeded(lambda: module(x))
    assert torch.equal(seeded(lambda: copy.deepcopy(module)(x)), y)
    assert torch.equal(seeded(lambda: pickle.loads(pickle.dumps(module))(x)), y)
    assert module.eval()(x) is x
    with pytest.raises(ValueError, match="dropout probability has to be between 0 and 1"):
        getattr(ct, name)(p=2.0)


def test_a_replaced_model_is_saved_and_loaded():
    model = network()
    ct.replace_dropout(model)
    assert model.state_dict().keys() == network().state_dict().keys()
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    x = torch.randn(6, 20)
    assert torch.equal(seeded(lambda: again(x)), seeded(lambda: model(x)))


# ---- cases for PyTorch's functions ----------------------------------------------------------------------------------


def test_other_tensors_go_to_pytorch():
    from torch._subclasses.fake_tensor import FakeTensorMode

    meta = ct.dropout(torch.ones(3, 4, device="meta"), 0.5)
    assert meta.device.type == "meta"
    with FakeTensorMode():
        assert ct.dropout(torch.ones(3, 4), 0.5).shape == (3, 4)
    assert ct.Dropout1d(0.5)(torch.ones(2, 3, 4, device="meta")).shape == (2, 3, 4)

    class Tagged(torch.Tensor):
        pass

    assert type(ct.dropout(torch.ones(3, 4).as_subclass(Tagged), 0.5)) is Tagged


def test_a_compiled_function_breaks_the_graph_and_gives_the_same_numbers():
    def function(x):
        return ct.dropout(x * 2, 0.5) + 1

    x = torch.randn(40, 30)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(function, backend="eager")
        y = seeded(lambda: compiled(x))
    assert torch.equal(y, seeded(lambda: function(x)))
