"""Compilers and dropout: one graph, the masks of the uncompiled program, and new masks at each call."""

import pytest

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
    pytest.mark.ci,  # torch.compile takes seconds for each function
]

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

import cdropout.torch as ct  # noqa: E402

F = nn.functional


def values(function, x):
    """Return y and the gradient of the sum of its squares under a fixed seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        y = function(x)
        return y.detach(), torch.autograd.grad((y * y).sum(), x)[0]


def assert_same(compiled, plain, x):
    for _ in range(2):
        for a, b in zip(values(compiled, x), values(plain, x), strict=True):
            assert torch.allclose(a, b, atol=1e-5)
    assert not torch.equal(compiled(x), compiled(x)), "masks change from call to call"


@pytest.fixture(autouse=True)
def switch():
    torch.compiler.reset()
    ct.enable()
    yield
    ct.disable()


X = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def x():
    return X.clone().requires_grad_()


LAYERS = nn.Sequential(nn.Linear(64, 64), nn.Dropout(0.3), nn.ReLU(), nn.Linear(64, 64), nn.Dropout(0.5))
FUNCTIONS = {
    "twice the same call": lambda x: F.dropout(x, 0.3) + 2 * F.dropout(x, 0.3),
    "in place": lambda x: F.dropout(x * 2, 0.3, inplace=True),
    "channels": lambda x: F.dropout2d(x.view(2, 4, 8, 8), 0.3),
    "alpha": lambda x: F.alpha_dropout(x, 0.3, True) + ct.feature_alpha_dropout(x.view(8, 8, 8), 0.2, True).view(8, 64),
    "ours": lambda x: ct.dropout(x, 0.3),
    "attention": lambda x: F.scaled_dot_product_attention(*[x.view(2, 2, 8, 16)] * 3, dropout_p=0.3),
    "attention, ours, causal": lambda x: ct.scaled_dot_product_attention(
        *[x.view(2, 2, 8, 16)] * 3, dropout_p=0.3, is_causal=True
    ),
    "checkpoint": lambda x: checkpoint(LAYERS, x, use_reentrant=False),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_torch_compile_makes_one_graph_with_the_same_masks(name, x):
    function = FUNCTIONS[name]
    assert_same(torch.compile(function, fullgraph=True), function, x)


@pytest.mark.parametrize("name", ["ours", "attention, ours"])
def test_a_given_generator_ends_the_graph_and_has_the_same_masks(name):
    generator = torch.Generator()
    functions = {
        "ours": lambda x: ct.dropout(2 * x, 0.3, generator=generator) + 1,
        "attention, ours": lambda x: ct.scaled_dot_product_attention(x, x, 2 * x, dropout_p=0.3, generator=generator),
    }
    ys = []
    for function in (functions[name], torch.compile(functions[name], backend="aot_eager")):
        generator.manual_seed(3)
        ys.append([function(X), function(X)])
    assert torch.allclose(torch.stack(ys[0]), torch.stack(ys[1]), atol=1e-5)
    assert not torch.equal(*ys[1])


def test_dynamic_shapes_have_the_same_masks():
    function = FUNCTIONS["twice the same call"]
    compiled = torch.compile(function, fullgraph=True, dynamic=True)
    for n_rows in (3, 5, 9):
        assert_same(compiled, function, torch.randn(n_rows, 64, requires_grad=True))


@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_transformer_is_one_graph(is_replaced):
    model = nn.TransformerEncoderLayer(32, 4, 64, 0.2, batch_first=True)
    if is_replaced:
        ct.disable()
        ct.replace_dropout(model)
    assert torch._dynamo.explain(model)(torch.ones(2, 7, 32)).graph_count == 1
    assert_same(torch.compile(model, fullgraph=True), model, torch.randn(2, 7, 32, requires_grad=True))


@pytest.mark.parametrize("strict", [True, False])
def test_an_exported_program_has_pytorchs_operator_and_the_same_masks(strict, x):
    exported = torch.export.export(LAYERS, (x,), strict=strict)
    assert "aten.dropout.default" in {str(node.target) for node in exported.graph.nodes}
    assert_same(exported.module(), LAYERS, x)


def test_aot_autograd_records_the_key_of_the_mask(x):
    from torch._functorch.aot_autograd import aot_function

    graphs = []
    compiled = aot_function(FUNCTIONS["twice the same call"], lambda graph, _: graphs.append(graph) or graph)
    assert_same(compiled, FUNCTIONS["twice the same call"], x)
    forward, backward = ([str(node.target) for node in graph.graph.nodes] for graph in graphs[:2])
    assert forward.count("cdropout.draw.default") == 2
    assert backward.count("cdropout.apply.default") == 2


def test_fx_has_the_same_masks(x):
    assert_same(torch.fx.symbolic_trace(LAYERS), LAYERS, x)


@pytest.mark.parametrize("transform", [torch.jit.script, lambda model: torch.jit.trace(model, X, check_trace=False)])
def test_torchscript_has_the_same_masks_until_it_differentiates_by_its_own_formula(transform, x):
    scripted = transform(LAYERS)
    for a, b in zip(values(scripted, x), values(LAYERS, x), strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    # From the second call with gradients on, TorchScript has optimized the graph, with a formula for dropout.
    for _ in range(3):
        y, _ = values(scripted, x)
        assert 0.3 < (y == 0).double().mean() < 0.7


def test_after_the_switch_is_off_compilers_record_what_they_did_before(x):
    from torch._functorch.aot_autograd import aot_function

    def recorded():
        graphs = []
        compiled = aot_function(lambda x: F.dropout(x, 0.3), lambda graph, _: graphs.append(graph.code) or graph)
        compiled(x).sum().backward()
        return graphs

    ct.disable()
    before = recorded()
    ct.enable()
    assert "cdropout" in recorded()[0]
    ct.disable()
    assert recorded() == before
    assert "native_dropout" in before[0]


def test_operators_pass_pytorchs_own_checks(x):
    torch.library.opcheck(torch.ops.cdropout.apply.default, (x, torch.tensor([5, -7]), 0.3, [1], False))
    torch.library.opcheck(
        torch.ops.cdropout.draw.default,
        (x, 0.3, [], False, 0),
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )
