"""PyTorch's own dropout operators with the switch on: which calls are this library's, which are not, and undoing it.

Without the C++ part (`CDROPOUT_TORCH_NATIVE=0`), the same tests run on kernels in Python.
"""

import copy
import pickle
import threading

import pytest

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import cdropout.torch as ct  # noqa: E402

F = nn.functional


def seeded(function, seed=1):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return function()


@pytest.fixture
def switch():
    """The switch, off before and after the test."""
    ct.disable()
    yield ct
    ct.disable()


def sites(model, *inputs, **named):
    """Count the calls that are ours, and those that are PyTorch's."""
    found = ct.report(model, *inputs, **named)
    return tuple(sum(site.n_calls for site in found if site.is_ours is ours) for ours in (True, False))


class Calls(nn.Module):
    """A module that calls a function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *args):
        return self.function(*args)


X = torch.randn(6, 8, 3, generator=torch.Generator().manual_seed(0))
FUNCTIONS = {
    # name: (PyTorch's function, ours)
    "dropout": (lambda x: F.dropout(x, 0.3), lambda x: ct.dropout(x, 0.3)),
    "torch.dropout": (lambda x: torch.dropout(x, 0.3, True), lambda x: ct.dropout(x, 0.3)),
    "dropout_": (lambda x: F.dropout(x * 2, 0.3, inplace=True), lambda x: ct.dropout(x * 2, 0.3)),
    "dropout1d": (lambda x: F.dropout1d(x, 0.3), lambda x: ct.dropout1d(x, 0.3)),
    "feature_dropout_": (lambda x: torch.feature_dropout_(x * 2, 0.3, True), lambda x: ct.dropout1d(x * 2, 0.3)),
    "alpha_dropout": (lambda x: F.alpha_dropout(x, 0.3, True), lambda x: ct.alpha_dropout(x, 0.3, True)),
    "alpha_dropout_": (lambda x: torch.alpha_dropout_(x * 2, 0.3, True), lambda x: ct.alpha_dropout(x * 2, 0.3, True)),
    "feature_alpha_dropout": (
        lambda x: F.feature_alpha_dropout(x, 0.3, True),
        lambda x: ct.feature_alpha_dropout(x, 0.3, True),
    ),
    "feature_alpha_dropout_": (
        lambda x: torch.feature_alpha_dropout_(x * 2, 0.3, True),
        lambda x: ct.feature_alpha_dropout(x * 2, 0.3, True),
    ),
    "attention": (
        lambda x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.3),
        lambda x: ct.scaled_dot_product_attention(x, x, x, dropout_p=0.3),
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_pytorchs_functions_give_the_values_and_gradients_of_this_librarys(switch, name):
    theirs, ours = FUNCTIONS[name]

    def values(function):
        x = X.clone().requires_grad_()
        y = seeded(lambda: function(x))
        (dx,) = torch.autograd.grad((y * y).sum(), x)
        return y, dx, seeded(lambda: function(X)), seeded(lambda: torch.inference_mode()(function)(X))

    expected = values(ours)
    before = seeded(lambda: theirs(X))
    with switch.enabled():
        found = values(theirs)
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)
    assert torch.equal(seeded(lambda: theirs(X)), before), "PyTorch's own afterwards"
    assert not torch.equal(before, expected[2])


def test_it_is_off_until_it_is_called_and_can_be_called_twice(switch):
    assert not switch.is_enabled()
    switch.disable()
    switch.enable()
    switch.enable()
    assert switch.is_enabled()
    with switch.enabled(bernoulli=True):
        assert sites(Calls(lambda: torch.empty(9).bernoulli_(0.5))) == (1, 0)
    assert switch.is_enabled()
    assert sites(Calls(lambda: torch.empty(9).bernoulli_(0.5))) == (0, 1)
    assert sites(Calls(lambda: F.dropout(X, 0.5))) == (1, 0)
    switch.disable()
    assert sites(Calls(lambda: F.dropout(X, 0.5))) == (0, 1)
    with pytest.raises(KeyError), switch.enabled():
        raise KeyError
    assert not switch.is_enabled()


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.bool, torch.int64]
)
def test_bernoulli_draws_zeros_and_ones(switch, dtype):
    with switch.enabled(bernoulli=True):
        ones = seeded(lambda: torch.empty(200, 300, dtype=dtype).bernoulli_(0.3))
        assert set(ones.double().unique().tolist()) == {0.0, 1.0}
        assert abs(ones.double().mean() - 0.3) < 5 * (0.21 / 60_000) ** 0.5
        assert torch.equal(ones.bool(), seeded(lambda: ct.tensors.keep((200, 300), 0.7, None)))
        transposed = seeded(lambda: torch.empty(300, 200, dtype=dtype).t().bernoulli_(0.3))
        assert torch.equal(transposed, ones)
        assert torch.equal(seeded(lambda: torch.bernoulli(torch.empty(200, 300, dtype=dtype), 0.3)), ones)
        assert not torch.empty(50, dtype=dtype).bernoulli_(0.0).any()
        assert torch.empty(50, dtype=dtype).bernoulli_(1.0).all()
        with pytest.raises(RuntimeError, match="p to be in"):
            torch.empty(3, dtype=dtype).bernoulli_(1.5)


def test_a_generator_draws_bernoullis_mask(switch):
    with switch.enabled(bernoulli=True):
        draws = [torch.empty(99).bernoulli_(0.5, generator=torch.Generator().manual_seed(seed)) for seed in (5, 5, 6)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_each_call_draws_two_numbers_of_the_generator(switch):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        torch.randint(-(2**63), 2**63 - 1, (2,))
        expected = torch.get_rng_state()
        calls = [F.dropout, F.alpha_dropout, F.feature_alpha_dropout, F.dropout1d, ct.dropout]
        with switch.enabled(bernoulli=True):
            for call in (*(lambda f=f: f(X, 0.5, True) for f in calls), lambda: torch.empty(5).bernoulli_(0.5)):
                torch.manual_seed(3)
                call()
                assert torch.equal(torch.get_rng_state(), expected)


class Reached(nn.Module):
    """What replace_dropout cannot see: functions, lists, and modules whose forward was captured."""

    def __init__(self):
        super().__init__()
        self.hidden = [nn.Dropout(0.1)]
        self.captured = nn.Dropout(0.2).forward
        self.lstm, self.gru = nn.LSTM(3, 4, 3, dropout=0.5), nn.GRU(4, 3, 2, dropout=0.5)

    def forward(self, x):
        x = F.dropout(self.captured(self.hidden[0](x)), 0.3, self.training)
        return self.gru(self.lstm(x)[0])[0]


def test_every_place_of_a_model_is_reached(switch):
    model = Reached()
    assert sites(model, X) == (0, 6)
    with switch.enabled():
        assert sites(model, X) == (6, 0)
        y = seeded(lambda: model(X))
        assert torch.equal(seeded(lambda: model(X)), y)
        y.sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_calls_that_drop_nothing_and_wrong_arguments_are_pytorchs(switch):
    with switch.enabled():
        assert F.dropout(X, 0.5, False) is X
        assert torch.equal(F.dropout(X, 0.0), X)
        assert not F.dropout(X, 1.0).any()
        assert F.dropout(torch.empty(0, 3)).shape == (0, 3)
        with pytest.raises(ValueError, match="between 0 and 1"):
            F.dropout(X, 1.5)
        with pytest.raises(RuntimeError, match="between 0 and 1"):
            torch.dropout(X, -0.5, True)
        with pytest.raises(RuntimeError, match="at least 2"):
            torch.feature_dropout(torch.ones(4), 0.5, True)
        with pytest.raises(RuntimeError, match="leaf"):
            F.dropout(torch.ones(3, requires_grad=True), inplace=True)


def test_tensors_that_are_not_plain_go_to_pytorch(switch):
    negative = torch.complex(torch.ones(64), torch.ones(64)).conj().imag
    nested = torch.nested.nested_tensor([torch.ones(3), torch.ones(5)], layout=torch.jagged)
    with switch.enabled():
        assert set(F.dropout(negative, 0.5).tolist()) == {0.0, -2.0}
        assert F.dropout(torch.ones(4, device="meta"), 0.5).device.type == "meta"
        assert F.dropout(nested, 0.5).is_nested
        with pytest.raises(NotImplementedError, match="ComplexFloat"):
            F.dropout(torch.ones(4, dtype=torch.complex64), 0.5)
        drop = torch.vmap(lambda x: F.dropout(x, 0.5), randomness="different")
        assert not torch.equal(*drop(torch.ones(2, 99)))
        assert set(torch.func.grad(lambda x: F.dropout(x, 0.5).sum())(torch.ones(99)).tolist()) == {0.0, 2.0}
        _, tangent = torch.func.jvp(lambda x: F.dropout(x, 0.5), (torch.ones(99),), (torch.ones(99),))
        assert set(tangent.tolist()) == {0.0, 2.0}


@pytest.mark.parametrize("memory", ["transposed", "channels last", "every second", "expanded"])
def test_any_memory_layout_gets_the_same_mask(switch, memory):
    x = torch.randn(4, 6, 2, 3)
    laid_out = {
        "transposed": lambda: x.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0),
        "channels last": lambda: x.contiguous(memory_format=torch.channels_last),
        "every second": lambda: torch.stack([x, x], -1).flatten(-2)[..., ::2],
        "expanded": lambda: x[:1].expand(4, 6, 2, 3),
    }[memory]()
    plain = laid_out.clone(memory_format=torch.contiguous_format)
    with switch.enabled():
        for function in (lambda x: F.dropout(x, 0.5), lambda x: F.dropout2d(x, 0.5)):
            assert torch.equal(seeded(lambda f=function: f(laid_out)), seeded(lambda f=function: f(plain)))
        if memory != "expanded":
            y = seeded(lambda: F.dropout(laid_out, 0.5))
            in_place = laid_out[:]
            seeded(lambda: F.dropout(in_place, 0.5, inplace=True))
            assert torch.equal(laid_out, y)


def test_second_derivatives_and_batched_gradients_are_right(switch):
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    with switch.enabled():

        def dropped(x):
            return seeded(lambda: F.dropout(x * x, 0.4))

        assert torch.autograd.gradcheck(dropped, x, check_batched_grad=True)
        assert torch.autograd.gradgradcheck(dropped, x, check_batched_grad=True)


def test_threads_may_drop_while_others_switch(switch):
    stop = threading.Event()
    errors = []

    def work():
        x = torch.ones(64, requires_grad=True)
        while not stop.is_set():
            y = F.dropout(x, 0.5)
            (dx,) = torch.autograd.grad(y.sum(), x)
            if not torch.equal(dx, y.detach()):
                errors.append((dx, y))

    switch.enable()  # the first call registers the kernels
    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(200):
        switch.disable()
        switch.enable()
    stop.set()
    for thread in threads:
        thread.join()
    assert errors == []


# ---- replace_dropout beyond exact types, and report ----


class Named(nn.Dropout):
    """A subclass that changes nothing."""


class Doubled(nn.Dropout):
    """A subclass with a forward pass that calls PyTorch's function."""

    def forward(self, x):
        return 2 * F.dropout(x, self.p, self.training)


class Graph(nn.Module):
    """Drops by a function."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 3), Named(0.2), Doubled(0.3))
        self.rnn = nn.GRU(3, 3, 2, dropout=0.4)

    def forward(self, x):
        return self.rnn(F.dropout(self.layers(x), 0.1, self.training))[0]


def test_recurrent_modules_and_subclasses_are_replaced_and_the_rest_is_reported(switch):
    model = Graph()
    assert sites(model, X) == (0, 4)
    replaced = ct.replace_dropout(model)
    assert replaced == 2
    assert replaced.modules == {"layers.1": "Named", "layers.2": "Doubled", "rnn": "GRU"}
    (theirs, *ours) = replaced.report(model, X)
    assert (theirs.module, theirs.class_name, theirs.is_ours, theirs.n_calls) == ("", "Graph", False, 1)
    assert theirs.line.startswith(__file__)
    assert {site.module for site in ours} == {"layers.1", "layers.2", "rnn"}
    assert f"PyTorch: 1 x in the model (Graph), {theirs.line}" in replaced.describe()
    assert ct.replace_dropout(model) == 0
    assert isinstance(model.rnn, nn.GRU)
    assert "GRU" in repr(model.rnn)
    assert ct.restore_dropout(model) == 2
    assert [type(model.layers[1]), type(model.layers[2]), type(model.rnn)] == [Named, Doubled, nn.GRU]
    assert sites(model, X) == (0, 4)


def test_classes_of_modules_can_be_named(switch):
    model = Graph()
    replaced = ct.replace_dropout(model, also=[Graph])
    assert sites(model, X) == (4, 0)
    assert replaced.describe().startswith("replaced 1 x Graph")
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert sites(copied, X) == (4, 0)
        assert torch.equal(seeded(lambda copied=copied: copied(X)), seeded(lambda: model(X)))
    ct.restore_dropout(model)
    assert type(model) is Graph
    with pytest.raises(TypeError, match=r"also must have subclasses of torch\.nn\.Module, got 7"):
        ct.replace_dropout(model, also=[7])


def test_a_report_leaves_random_states_as_they_were(switch):
    model, state = Graph(), torch.get_rng_state()
    ct.report(model, X)
    assert torch.equal(torch.get_rng_state(), state)
    assert ct.report(nn.Linear(3, 3), X) == []


def test_an_error_inside_a_replaced_module_ends_its_block(switch):
    model = Graph()
    ct.replace_dropout(model)
    with pytest.raises(RuntimeError):
        model.rnn(torch.ones(2, 2, 7))
    assert sites(Calls(lambda: F.dropout(X, 0.5))) == (0, 1)
