"""Compact networks in PyTorch: values, gradients and optimizers beside masked full products, and what is rewritten.

The rule that chooses between compact and full products is replaced where a test needs one of them.
"""

import copy
import importlib
import io
import itertools
import pickle
import socket

import pytest

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn.utils import prune  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

import cdropout.torch as ct  # noqa: E402
from cdropout.torch.tensors import draw_mask  # noqa: E402

chains = importlib.import_module("cdropout.torch.compact.chains")
kept = importlib.import_module("cdropout.torch.kept")

F = nn.functional
P = 0.4
WIDTHS = (12, 30, 20, 5)


def seeded(function, seed=1):
    """Call a function with PyTorch's generator seeded, and restore the generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return function()


def numbers(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.fixture
def choose(monkeypatch):
    """Return a function that sets what the rule answers; gathered parts of weights are listed in its `parts`."""
    parts = []

    def set_answer(pays):
        monkeypatch.setattr(chains, "compact_pays", lambda *_, **__: pays)

    plain = kept._gather

    def noting(groups, weight, bias):
        parts.extend(part.shape(weight) for part in groups)
        return plain(groups, weight, bias)

    monkeypatch.setattr(kept, "_gather", noting)
    set_answer.parts = parts
    set_answer(True)
    return set_answer


def sequence(activation=nn.ReLU, bias=True, p=P, dtype=torch.float64):
    """Return linear layers with dropout between them, always with the same weights."""

    def make():
        modules = []
        for n_in, n_out in itertools.pairwise(WIDTHS):
            modules += [nn.Linear(n_in, n_out, bias), activation(), nn.Dropout(p)]
        return nn.Sequential(*modules[:-2])

    return seeded(make).to(dtype)


def rewritten(n_groups=1, **options):
    model = sequence(**options)
    assert ct.compact_dropout(model, n_groups=n_groups) == 2
    return model


def keep_of_rows(n_rows, n_features, n_groups, p=P):
    """Return the next mask of PyTorch's generator, with a row for each row of a batch."""
    keep = torch.from_numpy(draw_mask((n_groups, n_features), p, (), None).keep())
    begins = [n_rows * g // n_groups for g in range(n_groups + 1)]
    return torch.cat([keep[g].expand(begins[g + 1] - begins[g], -1) for g in range(n_groups)])


def by_full_products(model, x, n_groups=1):
    """Return what a rewritten sequence computes, by plain PyTorch code."""
    y = x.reshape(-1, x.shape[-1])
    linears = [module for module in model if isinstance(module, nn.Linear)]
    for linear in linears[:-1]:
        y = model[1](F.linear(y, linear.weight, linear.bias))
        y = y * keep_of_rows(len(y), linear.out_features, n_groups) / (1 - P)
    y = F.linear(y, linears[-1].weight, linears[-1].bias)
    return y.reshape(*x.shape[:-1], -1)


def values(function, x, model, seed=1):
    """Return the output and all gradients."""
    x = x.clone().requires_grad_()
    y = seeded(lambda: function(x), seed)
    return [y.detach(), *torch.autograd.grad((y * numbers(*y.shape, seed=9)).sum(), [x, *model.parameters()])]


def assert_close(found, expected, tolerance=1e-12):
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        assert (a - b).abs().max() <= tolerance * max(1.0, b.abs().max())


# ---- values and gradients -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pays", [True, False])
@pytest.mark.parametrize("n_groups", [1, 4])
@pytest.mark.parametrize("shape", [(13,), (4, 5)])
@pytest.mark.parametrize("options", [{}, {"activation": nn.Sigmoid}, {"bias": False}])
def test_output_and_gradients_are_those_of_masked_full_products(choose, pays, n_groups, shape, options):
    choose(pays)
    model = rewritten(n_groups, **options)
    x = numbers(*shape, WIDTHS[0])
    found = values(model, x, model)
    assert bool(choose.parts) is pays
    assert_close(found, values(lambda x: by_full_products(model, x, n_groups), x, model))


def test_products_use_kept_rows_and_columns_only(choose):
    model = rewritten(2)
    seeded(lambda: model(numbers(8, WIDTHS[0])))
    masks = seeded(lambda: [draw_mask((2, n), P, (), None).keep().sum(axis=1) for n in WIDTHS[1:3]])
    (a, b), (c, d) = masks
    assert choose.parts == [(a, 12), (b, 12), (c, a), (d, b), (5, c), (5, d)]


@pytest.mark.parametrize("n_groups", [1, 2])
def test_first_and_second_derivatives_agree_with_differences(choose, n_groups):
    model = rewritten(n_groups, activation=nn.Tanh)
    names = list(dict(model.named_parameters()))

    def call(x, *parameters):
        return seeded(lambda: torch.func.functional_call(model, dict(zip(names, parameters, strict=True)), (x,)))

    x = numbers(4, WIDTHS[0]).requires_grad_()
    parameters = [each.detach().clone().requires_grad_() for each in model.parameters()]
    assert torch.autograd.gradcheck(call, (x, *parameters), atol=1e-6, fast_mode=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(call, (x, *parameters), atol=1e-6, fast_mode=True, check_batched_grad=True)
    assert choose.parts


@pytest.mark.parametrize("n_groups", [1, 3])
def test_batched_gradients(choose, n_groups):
    model = rewritten(n_groups)
    x = numbers(6, WIDTHS[0])

    def jacobians(**options):
        y = seeded(lambda: model(x))
        rows = torch.eye(y.numel()).double().view(-1, *y.shape)
        if options:
            return torch.autograd.grad(y, list(model.parameters()), rows, **options)
        each = [torch.autograd.grad(y, list(model.parameters()), row, retain_graph=True) for row in rows]
        return [torch.stack(of_one) for of_one in zip(*each, strict=True)]

    assert_close(jacobians(is_grads_batched=True), jacobians())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_large_products_with_gaps_between_rows(choose, monkeypatch, dtype):
    monkeypatch.setattr(kept, "ALIGNED_FROM", 0)
    model = rewritten(dtype=dtype)
    x = numbers(9, WIDTHS[0], dtype=dtype).requires_grad_()
    y = seeded(lambda: model(x))
    expected = seeded(lambda: by_full_products(model, x))
    found, wanted = (
        [each, *torch.autograd.grad(each.square().sum(), [x, *model.parameters()])] for each in (y, expected)
    )
    assert_close(found, wanted, 1e-5 if dtype is torch.float32 else 1e-12)
    assert kept._aligned(3, 5, dtype).stride() == (64 // dtype.itemsize, 1)


def test_all_or_no_features_dropped(choose):
    for p, seeds in ((0.97, range(5)), (0.03, range(5)), (1.0, [1])):
        model = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Dropout(p), nn.Linear(2, 4))
        ct.compact_dropout(model)
        for seed in seeds:
            model.zero_grad()
            y = seeded(lambda model=model: model(torch.ones(5, 3)), seed)
            y.sum().backward()
            keep = draw_mask((1, 2), p, (), torch.Generator().manual_seed(seed)).keep()[0]
            assert (model[0].weight.grad.abs().sum(1) > 0).logical_and(torch.from_numpy(~keep)).sum() == 0
            if not keep.any():
                assert torch.equal(y, model[3].bias.expand(5, 4))


def test_frozen_weights_get_no_gradient_and_others_do(choose):
    model = rewritten()
    model[0].requires_grad_(False)
    model[3].weight.requires_grad_(False)
    seeded(lambda: model(numbers(7, WIDTHS[0]))).sum().backward()
    grads = {name: parameter.grad is not None for name, parameter in model.named_parameters()}
    assert grads == {
        "0.weight": False, "0.bias": False, "3.weight": False, "3.bias": True, "6.weight": True, "6.bias": True,
    }  # fmt: skip


# ---- masks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pays", [True, False])
@pytest.mark.parametrize("n_groups", [1, 4])
def test_each_dropout_draws_two_numbers_and_none_in_evaluation(choose, pays, n_groups):
    choose(pays)
    model = rewritten(n_groups)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        torch.randint(-(2**63), 2**63 - 1, (4,))
        expected = torch.get_rng_state()
        torch.manual_seed(3)
        model(numbers(7, WIDTHS[0]))
        assert torch.equal(torch.get_rng_state(), expected)
        model.eval()
        model(numbers(7, WIDTHS[0]))
        assert torch.equal(torch.get_rng_state(), expected)


def test_one_group_has_the_masks_of_feature_dropout(choose):
    model = rewritten()
    layers = [ct.FeatureDropout(P) if isinstance(each, ct.CompactDropout) else each for each in model]
    x = numbers(7, WIDTHS[0])
    assert_close([seeded(lambda: model(x))], [seeded(lambda: nn.Sequential(*layers)(x))])


def test_the_dropout_drops_features_outside_of_a_sequence():
    layer = ct.CompactDropout(0.5, n_groups=3)
    y = layer(torch.ones(2, 5, 100))
    rows = y.view(10, 100)
    assert set(rows.unique().tolist()) == {0.0, 2.0}
    for begin, end in ((0, 3), (3, 6), (6, 10)):
        assert (rows[begin:end] == rows[begin]).all()
    assert len({tuple(row.tolist()) for row in rows}) == 3
    assert layer.eval()(y) is y
    assert torch.equal(ct.CompactDropout(0.0)(y), y)
    special = torch.full((7, 50), float("nan"))
    assert set(torch.nan_to_num(layer.train()(special), nan=1.0).unique().tolist()) == {0.0, 1.0}


# ---- models ---------------------------------------------------------------------------------------------------------


def test_state_dict_is_that_of_the_original_in_both_directions():
    plain, model = sequence(), rewritten()
    assert list(model.state_dict()) == list(plain.state_dict())
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    plain.load_state_dict(model.state_dict())
    x = numbers(4, WIDTHS[0])
    assert torch.equal(model.eval()(x), plain.eval()(x))
    other = rewritten()
    other.load_state_dict(plain.state_dict())
    assert torch.equal(other.eval()(x), plain(x))


OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum, weight decay": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    **{
        name: lambda p, name=name: getattr(torch.optim, name)(p, lr=0.01)
        for name in ("Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "Adagrad", "Rprop", "ASGD", "Adadelta")
    },
    "LBFGS": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_take_the_steps_of_full_products(choose, name):
    x, target = numbers(8, WIDTHS[0]), numbers(8, WIDTHS[-1], seed=2)

    def learned(pays):
        choose(pays)
        model = rewritten(activation=nn.Tanh)
        optimizer = OPTIMIZERS[name](model.parameters())

        def loss():
            optimizer.zero_grad()
            found = (model(x) - target).square().mean()
            found.backward()
            return found

        for _ in range(4):
            optimizer.step(loss)
        return [parameter.detach() for parameter in model.parameters()]

    full = seeded(lambda: learned(False))
    assert not choose.parts
    assert_close(seeded(lambda: learned(True)), full, 1e-9)
    assert choose.parts


def test_hooks_see_full_tensors(choose):
    model = rewritten()
    x = numbers(6, WIDTHS[0])
    expected = seeded(lambda: model(x))
    n_parts, shapes = len(choose.parts), []
    handle = model[4].register_forward_hook(lambda _module, _inputs, output: shapes.append(tuple(output.shape)))
    assert_close([seeded(lambda: model(x))], [expected])
    assert shapes == [(6, 20)]
    assert len(choose.parts) == n_parts
    handle.remove()
    sites = ct.report(model, x)
    assert [(site.module, site.is_ours, site.n_calls) for site in sites] == [("2", True, 1), ("5", True, 1)]


def test_autocast_multiplies_in_bfloat16(choose):
    model = rewritten(dtype=torch.float32)
    x = numbers(16, WIDTHS[0], dtype=torch.float32)
    expected = seeded(lambda: model(x))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = seeded(lambda: model(x))
    assert y.dtype is torch.bfloat16
    assert (y.float() - expected).abs().max() < 0.05 * expected.abs().max()
    y.float().square().sum().backward()
    assert {parameter.grad.dtype for parameter in model.parameters()} == {torch.float32}
    keep = seeded(lambda: draw_mask((1, 30), P, (), None).keep())[0]
    assert torch.equal(model[0].weight.grad.abs().sum(1) == 0, ~torch.from_numpy(keep) | dead(model, x))


def dead(model, x):
    """Return which first features no row activates."""
    return (model[0](x) <= 0).all(0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_dtypes_take_full_products(choose, dtype):
    model = rewritten(dtype=dtype)
    assert seeded(lambda: model(torch.ones(3, WIDTHS[0], dtype=dtype))).dtype is dtype
    assert not choose.parts
    assert model.to("meta")(torch.ones(3, WIDTHS[0], dtype=dtype, device="meta")).shape == (3, 5)


class Block(nn.Sequential):
    """A subclass of nn.Sequential with its forward pass, as packages have them."""

    def __init__(self, n_in, n_out):
        super().__init__(nn.Linear(n_in, n_out), nn.ReLU(), nn.Dropout(P))


def copies(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(file, weights_only=False)


MODELS = {
    "sequence": sequence,
    "subclass": lambda: Block(12, 8).append(nn.Linear(8, 5)),
    "nested": lambda: nn.Sequential(Block(12, 8), nn.Sequential(Block(8, 6), nn.Identity()), nn.Linear(6, 5)),
    "encoder layer": lambda: nn.TransformerEncoderLayer(12, 3, 16, P, "gelu", batch_first=True),
    "encoder layer, module": lambda: nn.TransformerEncoderLayer(12, 3, 16, P, nn.SiLU(), norm_first=True),
    "encoder": lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(12, 3, 16, P, batch_first=True), 2),
}


@pytest.mark.parametrize("name", MODELS)
def test_copies_are_rewritten_and_restoring_gives_the_original_back(choose, name):
    model = seeded(MODELS[name]).double()
    x = numbers(2, 3, 12)
    kinds = [type(module) for module in model.modules()]
    expected = seeded(lambda: model(x))
    n_replaced = ct.compact_dropout(model)
    assert n_replaced == {"sequence": 2, "nested": 2, "encoder": 2}.get(name, 1)
    assert [type(module) for module in model.modules()] != kinds
    assert ct.compact_dropout(copy.deepcopy(model)).modules == n_replaced.modules, "twice is once"
    y = seeded(lambda: model(x))
    assert choose.parts
    for each in copies(model):
        assert torch.equal(seeded(lambda each=each: each(x)), y)
        assert list(each.state_dict()) == list(model.state_dict())
    choose(False)
    assert_close([seeded(lambda: model(x))], [y])
    assert ct.restore_dropout(model) == n_replaced
    assert [type(module) for module in model.modules()] == kinds
    assert torch.equal(seeded(lambda: model(x)), expected)


def test_nested_sequences_make_one_chain(choose):
    model = MODELS["nested"]()
    ct.compact_dropout(model)
    model(torch.ones(4, 12))
    assert len(choose.parts) == 3
    assert model[1].forward(torch.ones(4, 8)).shape == (4, 6)


def test_decoder_layers_drop_features_of_their_feed_forward_part(choose):
    layer = nn.TransformerDecoderLayer(12, 3, 16, P).double()
    found = ct.compact_dropout(layer)
    assert found.modules == {"dropout": "linear1 and linear2"}
    x = numbers(5, 2, 12)
    y = seeded(lambda: layer(x, x))
    assert len(choose.parts) == 2
    choose(False)
    assert_close([y], [seeded(lambda: layer(x, x))])


def test_feature_dropout_linear_is_a_part_of_a_chain(choose):
    model = nn.Sequential(
        nn.Linear(12, 30),
        nn.ReLU(),
        ct.FeatureDropoutLinear(30, 20, p=P),
        nn.ReLU(),
        ct.FeatureDropoutLinear(20, 5, p=P),
    ).double()
    x = numbers(7, 12)
    expected = seeded(lambda: model(x))
    names = ct.compact_dropout(model).modules
    assert names == {"2": "0 and 2", "4": "2 and 4"}
    assert_close([seeded(lambda: model(x))], [expected])
    first, second = seeded(lambda: [int(draw_mask((1, n), P, (), None).keep().sum()) for n in (30, 20)])
    assert choose.parts == [(first, 12), (second, first), (5, second)]


def test_a_sequence_can_be_built_and_is_not_restored(choose):
    model = ct.CompactSequential(nn.Linear(12, 8), nn.ReLU(), ct.CompactDropout(P), nn.Linear(8, 5))
    assert seeded(lambda: model(torch.ones(3, 12))).shape == (3, 5)
    assert choose.parts
    assert ct.restore_dropout(model) == 0
    assert type(model) is ct.CompactSequential
    assert repr(model[2]) == "CompactDropout(p=0.4, n_groups=1)"
    assert type(model[:2]) is ct.CompactSequential


def test_groups_that_differ_run_module_by_module(choose):
    model = rewritten()
    model[2].n_groups = 2
    model(numbers(6, WIDTHS[0]))
    assert not choose.parts


def test_replace_dropout_takes_what_is_left_before_or_after():
    for first, second in ((ct.replace_dropout, ct.compact_dropout), (ct.compact_dropout, ct.replace_dropout)):
        layer = nn.TransformerEncoderLayer(12, 3, 16, P)
        first(layer)
        second(layer)
        assert type(layer.dropout) is ct.CompactDropout
        assert type(layer.dropout1) is ct.Dropout
        assert ct.restore_dropout(layer) == 3
        assert {type(each) for each in layer.modules() if "Dropout" in type(each).__name__} == {nn.Dropout}


class Swish(nn.Module):
    """An activation that is not in the list."""

    def forward(self, x):
        return x * x.sigmoid()


class Own(nn.Module):
    """A module with code that is not known."""

    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(P)
        self.lstm = nn.LSTM(4, 4, 2, dropout=P)


class Holder(nn.Module):
    """A module that may use a dropout module outside of the sequence that holds it."""

    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(P)
        self.net = nn.Sequential(nn.Linear(4, 4), self.drop, nn.Linear(4, 4))


def in_sequence(*modules):
    return nn.Sequential(nn.Linear(4, 4), *modules, nn.Linear(4, 4))


LEFT = {
    "no layer behind": (lambda: nn.Sequential(nn.Linear(4, 4), nn.Dropout(P)), {"1": "no nn.Linear behind"}),
    "no layer before": (lambda: nn.Sequential(nn.Dropout(P), nn.Linear(4, 4)), {"0": "no nn.Linear before"}),
    "normalization": (lambda: in_sequence(nn.LayerNorm(4), nn.Dropout(P)), {"2": "LayerNorm before it is not known"}),
    "function behind": (lambda: in_sequence(nn.Dropout(P), nn.GELU()), {"1": "GELU is behind it"}),
    "unknown function": (lambda: in_sequence(Swish(), nn.Dropout(P)), {"2": "Swish before it is not known"}),
    "PReLU of features": (lambda: in_sequence(nn.PReLU(4), nn.Dropout(P)), {"2": "PReLU before it"}),
    "other dropout": (lambda: in_sequence(nn.AlphaDropout(P)), {"1": "AlphaDropout is not nn.Dropout"}),
    "two": (lambda: in_sequence(nn.Dropout(P), nn.Dropout(P)), {"1": "Dropout is behind it", "2": "Dropout is before"}),
    "parametrization": (
        lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), nn.Dropout(P), nn.Linear(4, 4)),
        {"1": "ParametrizedLinear is before it"},
    ),
    "own module": (Own, {"drop": "not in an nn.Sequential", "lstm": "between recurrent layers"}),
    "used elsewhere": (Holder, {"drop": "it is also drop"}),
    "transformer": (
        lambda: nn.TransformerEncoderLayer(4, 2, 4, P, torch.sin),
        {
            "self_attn": "weights of attention",
            "dropout": "activation sin is not",
            "dropout1": "not in",
            "dropout2": "not in",
        },
    ),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_is_left_is_reported_and_unchanged(name):
    make, reasons = LEFT[name]
    model = make()
    kinds = [type(module) for module in model.modules()]
    found = ct.compact_dropout(model)
    assert found == 0
    assert set(found.left) == set(reasons)
    for module, reason in reasons.items():
        assert reason in found.left[module]
        assert f"{module}: left, " in found.describe()
    assert [type(module) for module in model.modules()] == kinds


def test_other_classes_and_functions_can_be_named_element_wise(choose):
    model = in_sequence(Swish(), nn.Dropout(P))
    found = ct.compact_dropout(model, elementwise=[Swish])
    assert found.describe() == "2: drops features between 0 and 3"
    for each in (model, *copies(model)):
        n_parts = len(choose.parts)
        each(torch.ones(3, 4))
        assert len(choose.parts) == n_parts + 2
    ct.restore_dropout(model)
    assert not hasattr(model, "elementwise")
    assert ct.compact_dropout(nn.TransformerEncoderLayer(4, 2, 4, P, torch.sin), elementwise=[torch.sin]) == 1
    assert ct.compact_dropout(nn.Linear(2, 2)).describe() == "nothing drops"


# ---- models that programs change, and unusual input -----------------------------------------------------------------


class Shifted(nn.Linear):
    """A linear layer whose forward pass does more, as those of adapters do."""

    def forward(self, input):  # noqa: A002
        return super().forward(input) + 1000.0


class Counting(nn.Dropout):
    """A dropout module that counts its calls."""

    n_calls = 0

    def forward(self, input):  # noqa: A002
        self.n_calls += 1
        return super().forward(input)


def encoder_layer():
    layer = nn.TransformerEncoderLayer(8, 2, 16, P, batch_first=True, norm_first=True).double()
    assert ct.compact_dropout(layer) == 1
    return layer


def test_modules_replaced_in_a_transformer_layer_are_called(choose):
    x = numbers(2, 3, 8)
    layer = encoder_layer()
    layer.dropout = Counting(P)
    layer(x)
    assert layer.dropout.n_calls == 1
    layer = encoder_layer()
    layer.linear2 = Shifted(16, 8).double()
    assert layer(x).max() > 500.0
    layer = encoder_layer()
    layer.dropout = nn.Identity()
    assert layer(x).shape == x.shape
    assert choose.parts == []


def test_dropout_whose_forward_pass_was_replaced_is_left():
    model = sequence()
    model[2].forward = model[2].forward
    found = ct.compact_dropout(model)
    assert found.left == {"2": "its forward pass was replaced by another function"}
    assert list(found.modules) == ["5"]
    assert type(model[2]) is nn.Dropout


@pytest.mark.parametrize("change", [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm, "prune"])
def test_dropout_beside_changed_linear_layers_is_left(change):
    model = sequence()
    if change == "prune":
        prune.random_unstructured(model[3], "weight", 0.5)
    else:
        change(model[3])
    found = ct.compact_dropout(model)
    assert found == 0
    assert set(found.left) == {"2", "5"}
    assert type(model) is nn.Sequential
    layer = nn.TransformerEncoderLayer(8, 2, 16, P)
    if change == "prune":
        prune.random_unstructured(layer.linear2, "weight", 0.5)
    else:
        change(layer.linear2)
    assert ct.compact_dropout(layer) == 0
    assert "linear layer beside it has hooks" in found.left["5"] or "Parametrized" in found.left["5"]


def test_functions_in_place_of_large_products(choose):
    def trained(inplace):
        model = nn.Sequential(nn.Linear(784, 2048), nn.ReLU(inplace), nn.Dropout(0.5), nn.Linear(2048, 10))
        ct.compact_dropout(model)
        model(torch.ones(128, 784)).sum().backward()
        return [parameter.grad for parameter in model.parameters()]

    for found, expected in zip(seeded(lambda: trained(True)), seeded(lambda: trained(False)), strict=True):
        assert torch.equal(found, expected)
    assert choose.parts


@pytest.mark.parametrize("n_groups", [1, 3])
def test_outputs_are_contiguous(choose, monkeypatch, n_groups):
    monkeypatch.setattr(kept, "ALIGNED_FROM", 0)
    y = rewritten(n_groups)(numbers(9, WIDTHS[0]))
    assert choose.parts
    assert y.is_contiguous()


def test_the_output_of_a_large_feature_dropout_linear_is_contiguous(choose, monkeypatch):
    monkeypatch.setattr(kept, "ALIGNED_FROM", 0)
    y = ct.FeatureDropoutLinear(2048, 1001)(torch.ones(128, 2048))
    assert choose.parts
    assert y.is_contiguous()


def test_empty_batches(choose):
    model = rewritten()
    y = model(numbers(0, WIDTHS[0]))
    assert y.shape == (0, WIDTHS[-1])
    y.sum().backward()
    assert all((parameter.grad == 0.0).all() for parameter in model.parameters())
    with pytest.raises(ValueError, match="input must have a row for each of 4 groups, got 0"):
        rewritten(4)(numbers(0, WIDTHS[0]))


def test_sparse_input(choose):
    model, x = rewritten(), numbers(6, WIDTHS[0])
    assert_close([seeded(lambda: model(x.to_sparse()))], [seeded(lambda: model(x))])


class Residual(nn.Module):
    """A block whose code is unknown around a sequence."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Dropout(P), nn.Linear(9, 6))

    def forward(self, x):
        return x + self.inner(x)


def test_sequences_within_other_modules_of_a_sequence_are_rewritten():
    model = nn.Sequential(Residual(), Residual(), nn.Linear(6, 2))
    found = ct.compact_dropout(model)
    assert found.modules == {f"{i}.inner.2": f"{i}.inner.0 and {i}.inner.3" for i in (0, 1)}
    assert found.left == {}
    assert type(model[1].inner) is ct.CompactSequential


class Branches(nn.Module):
    """A sequence that is a part of another one, and is also called by itself."""

    def __init__(self, *head):
        super().__init__()
        self.head = nn.Sequential(*head)
        self.whole = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), self.head)

    def forward(self, x):
        return self.whole(x) + self.head(torch.ones_like(self.whole[0](x)))


@pytest.mark.parametrize("is_head_first", [True, False])
def test_dropout_of_a_sequence_that_is_also_used_elsewhere_is_left(is_head_first):
    model = Branches(nn.Dropout(P), nn.Linear(8, 3))
    if not is_head_first:
        model._modules = dict(reversed(model._modules.items()))
    found = ct.compact_dropout(model)
    assert found == 0
    name = "head.0" if is_head_first else "whole.2.0"
    assert found.left == {name: "there is no nn.Linear before it where head is called by itself"}
    assert [type(each) for each in model.modules()].count(nn.Sequential) == 2
    complete = Branches(nn.Linear(8, 8), nn.Dropout(P), nn.Linear(8, 3))
    if not is_head_first:
        complete._modules = dict(reversed(complete._modules.items()))
    assert ct.compact_dropout(complete) == 1
    block = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Dropout(P))
    assert ct.compact_dropout(nn.Sequential(block, block, nn.Linear(8, 3))) == 1


def test_a_second_call_sets_the_number_of_groups(choose):
    model = rewritten()
    found = ct.compact_dropout(model, n_groups=3)
    assert found == 2
    assert {model[2].n_groups, model[5].n_groups} == {3}
    built = ct.CompactSequential(nn.Linear(4, 5), ct.CompactDropout(P, n_groups=2), nn.Linear(5, 3))
    ct.compact_dropout(built, n_groups=3)
    assert built[1].n_groups == 2


def test_pickles_of_earlier_code_find_their_classes():
    for name in ("CompactDropout", "CompactSequential", "Compacted", "_unpickle"):
        assert pickle.loads(f"ccdropout.torch.compact\n{name}\n.".encode()).__name__ == name


def test_reports_are_copied_and_pickled():
    model = nn.Sequential(sequence(), nn.Dropout(P))
    compacted, replaced = ct.compact_dropout(model), ct.replace_dropout(model)
    assert compacted.left
    assert replaced.modules
    for other in (copy.deepcopy(compacted), pickle.loads(pickle.dumps(compacted))):
        assert (other, other.modules, other.left) == (2, compacted.modules, compacted.left)
    for other in (copy.deepcopy(replaced), pickle.loads(pickle.dumps(replaced))):
        assert (other, other.modules, other.sites) == (int(replaced), replaced.modules, None)


@pytest.mark.parametrize("changed", [3, 6])
def test_weights_changed_between_the_passes_are_noticed(choose, changed):
    model = rewritten()
    loss = model(numbers(6, WIDTHS[0])).sum()
    with torch.no_grad():
        model[changed].weight.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_restoring_undoes_both_changes_of_a_layer():
    for calls in itertools.permutations([ct.compact_dropout, "replace"]):
        layer = nn.TransformerEncoderLayer(8, 2, 16, P)
        for call in calls:
            if call == "replace":
                ct.replace_dropout(layer, also=[nn.TransformerEncoderLayer])
            else:
                call(layer)
        ct.restore_dropout(layer)
        assert type(layer) is nn.TransformerEncoderLayer
        assert type(layer.dropout) is nn.Dropout


# ---- PyTorch's other machinery --------------------------------------------------------------------------------------


def test_checkpointing_draws_the_same_masks_again(choose):
    model, x = rewritten(), numbers(6, WIDTHS[0])
    expected = values(model, x, model)
    assert_close(values(lambda x: checkpoint(model, x, use_reentrant=False), x, model), expected)


def test_monte_carlo_predictions(choose):
    model, x = rewritten().eval(), numbers(6, WIDTHS[0])
    found = ct.mc_predict(model, x, 20, seed=5)
    assert found.std.max() > 0
    torch_masks = seeded(lambda: torch.stack([model.train()(x).detach() for _ in range(20)]), 5)
    assert_close([found.mean], [torch_masks.mean(0)], 1e-9)


def test_tracers_follow_the_modes(choose):
    model, x = rewritten(dtype=torch.float32), numbers(6, WIDTHS[0], dtype=torch.float32)
    evaluated = model.eval()(x)
    model.train()
    traced = torch.fx.symbolic_trace(nn.Sequential(model))
    assert not torch.equal(traced(x), traced(x))
    assert torch.equal(traced.eval()(x), evaluated)
    model.train()
    scripted = torch.jit.script(model)
    assert not torch.equal(scripted(x), scripted(x))
    assert torch.equal(scripted.eval()(x), evaluated)
    grouped = torch.jit.script(ct.CompactDropout(0.5, n_groups=4))
    y = grouped(torch.ones(6, 200))
    assert set(y.unique().tolist()) == {0.0, 2.0}
    assert len({tuple(row.tolist()) for row in y}) == 4
    traced = torch.jit.trace(model.train(), x, check_trace=False)
    assert not torch.equal(traced(x), traced(x))
    assert model.eval()(x).equal(evaluated)


def test_transforms_take_pytorchs_operators(choose):
    model, x = rewritten(), numbers(6, WIDTHS[0])
    found = seeded(lambda: torch.func.vmap(model, randomness="different")(x.expand(3, 6, 12)))
    assert not torch.equal(found[0], found[1])
    assert not choose.parts


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ct.compact_dropout(3), TypeError, "model must be an nn.Module, got int"),
        (lambda: ct.compact_dropout(nn.ReLU(), n_groups=0), ValueError, "n_groups must be .*, got 0"),
        (lambda: ct.compact_dropout(nn.ReLU(), elementwise=[3]), TypeError, "elementwise must have .*, got 3"),
        (lambda: ct.compact_dropout(nn.ReLU(), elementwise=nn.ReLU), TypeError, "elementwise must be an iterable"),
        (lambda: ct.compact_dropout(nn.ReLU(), elementwise=3), TypeError, "elementwise must be an iterable .*, got 3"),
        (lambda: ct.compact_dropout(nn.ReLU(), elementwise=[int]), TypeError, "elementwise must have"),
        (lambda: ct.compact_dropout(nn.ReLU(), elementwise=[nn.ReLU()]), TypeError, "elementwise must have"),
        (lambda: ct.CompactDropout(1.5), ValueError, r"p must be in \[0, 1\], got 1.5"),
        (lambda: ct.CompactDropout(0.5, n_groups=0), ValueError, "n_groups must be .*, got 0"),
        (lambda: ct.CompactDropout(0.5, n_groups=1.5), TypeError, "n_groups must be"),
        (lambda: ct.CompactDropout(0.5, n_groups=4)(torch.ones(3, 5)), ValueError, "row for each of 4 groups, got 3"),
        (lambda: rewritten(4)(numbers(3, 12)), ValueError, "row for each of 4 groups, got 3"),
        (lambda: rewritten()(numbers(3, 11)), RuntimeError, "shapes cannot be multiplied"),
    ],
)
def test_bad_input(choose, call, error, message):
    state = torch.get_rng_state()
    with pytest.raises(error, match=message):
        call()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.ci
@pytest.mark.parametrize("pays", [True, False])
def test_compiled_programs_have_the_same_values(choose, pays):
    choose(pays)
    torch.compiler.reset()
    model, x = rewritten(2), numbers(6, WIDTHS[0])
    compiled = torch.compile(model, backend="aot_eager", fullgraph=not pays)
    for seed in (1, 2):
        assert_close(values(compiled, x, model, seed), values(model, x, model, seed))
    assert bool(choose.parts) is pays


@pytest.mark.ci
def test_a_compiled_encoder_layer_has_the_same_values(choose):
    torch.compiler.reset()
    layer, x = nn.TransformerEncoderLayer(12, 3, 16, P, batch_first=True).double(), numbers(2, 3, 12)
    ct.compact_dropout(layer)
    ct.replace_dropout(layer)
    compiled = torch.compile(layer, backend="eager")
    assert_close([seeded(lambda: compiled(x))], [seeded(lambda: layer(x))], 1e-9)


def _train_as_rank(rank, port, queue):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    chains.compact_pays = lambda *_, **__: True
    model = rewritten()
    parallel = nn.parallel.DistributedDataParallel(model)
    torch.manual_seed(10 + rank)
    parallel(numbers(6, WIDTHS[0], seed=rank)).square().mean().backward()
    queue.put((rank, [parameter.grad.numpy() for parameter in model.parameters()]))
    torch.distributed.destroy_process_group()


@pytest.mark.ci
@pytest.mark.skipif(not torch.distributed.is_available(), reason="PyTorch has no torch.distributed")
def test_data_parallel_training_averages_the_gradients(choose):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    context = torch.multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = [context.Process(target=_train_as_rank, args=(rank, port, queue), daemon=True) for rank in range(2)]
    try:
        for process in processes:
            process.start()
        found = dict(queue.get(timeout=120) for _ in processes)
    finally:
        for process in processes:
            process.join(10)
            process.kill()
    expected = []
    for rank in range(2):
        model = rewritten()
        seeded(
            lambda model=model, rank=rank: model(numbers(6, WIDTHS[0], seed=rank)), 10 + rank
        ).square().mean().backward()
        expected.append([parameter.grad for parameter in model.parameters()])
    mean = [(a + b) / 2 for a, b in zip(*expected, strict=True)]
    for grads in found.values():
        assert_close([torch.from_numpy(each) for each in grads], mean)
