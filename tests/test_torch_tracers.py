"""PyTorch programs that record, batch or refuse tensors, after `replace_dropout` as before, and PyTorch's threads."""

import sys
import warnings

import pytest

from cdropout import _kernels
from cdropout.machine import CpuQuota

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.fx.experimental.proxy_tensor import make_fx  # noqa: E402

import cdropout.torch as ct  # noqa: E402


class Model(nn.Module):
    """Dropout, alpha dropout and attention, each as a module."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, 0.3, batch_first=True)
        self.rest = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.AlphaDropout(0.1), nn.FeatureAlphaDropout(0.2))

    def forward(self, x):
        return self.rest(self.attention(x, x, x, need_weights=False)[0])


@pytest.fixture
def model():
    model = Model()
    assert ct.replace_dropout(model) == 3
    return model


def assert_follows_its_mode(traced, model, x):
    traced.eval()
    assert torch.allclose(traced(x), model.eval()(x), atol=1e-6)
    traced.train()
    assert not torch.equal(traced(x), traced(x))


def test_fx_records_calls_of_the_modules(model):
    graph = torch.fx.symbolic_trace(model)
    assert_follows_its_mode(graph, model, torch.randn(2, 5, 8))
    assert {type(module) for module in graph.modules()} >= {ct.Dropout, ct.AlphaDropout, ct.MultiheadAttention}


def test_torch_jit_script_compiles_pytorchs_forward_and_leaves_the_model_ours(model):
    scripted = torch.jit.script(model)
    assert_follows_its_mode(scripted, model, torch.randn(2, 5, 8))
    assert isinstance(model.rest[1], ct.Dropout)
    model.train()(torch.randn(2, 5, 8))
    assert "forward" not in vars(model.rest[1])


@pytest.mark.parametrize("pre_dispatch", [False, True])
def test_make_fx_records_pytorchs_operators(pre_dispatch):
    module = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5))
    ct.replace_dropout(module)
    x = torch.ones(64, 8)
    graph = make_fx(module, pre_dispatch=pre_dispatch)(x)
    names = {str(node.target) for node in graph.graph.nodes}
    assert names & {"aten.bernoulli_.float", "aten.dropout.default", "aten.native_dropout.default"}
    assert not torch.equal(graph(x), graph(x))


def test_torch_jit_trace_records_dropout():
    module = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5))
    ct.replace_dropout(module)
    for context in (torch.no_grad(), torch.enable_grad()):
        with context, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            traced = torch.jit.trace(module, torch.ones(64, 8), check_trace=False)
        assert "aten::dropout" in str(traced.inlined_graph)
        assert not torch.equal(traced(torch.ones(3, 8)), traced(torch.ones(3, 8)))


@pytest.mark.parametrize("name", ["dropout", "alpha_dropout", "attention"])
def test_gradients_may_be_batched_and_have_derivatives(name):
    def function(x):
        torch.manual_seed(0)
        if name == "attention":
            return ct.scaled_dot_product_attention(x, 2 * x, x + 1, dropout_p=0.3)
        return getattr(ct, name)(x, 0.4, True)

    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(function, x, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(function, x, check_batched_grad=True)
    total = torch.autograd.functional.hessian(lambda t: function(t).pow(3).sum(), x, vectorize=True)
    assert torch.allclose(total, torch.autograd.functional.hessian(lambda t: function(t).pow(3).sum(), x))


@pytest.mark.parametrize("name", ["dropout", "attention"])
def test_a_recorded_backward_pass_has_the_mask_of_its_forward_pass(name):
    x = torch.randn(2, 3, 4, requires_grad=True)
    y = ct.dropout(x, 0.5) if name == "dropout" else ct.scaled_dot_product_attention(x, x, x, dropout_p=0.5)

    def backward(dy):
        return torch.autograd.grad(y, x, dy, retain_graph=True)[0]

    dy = torch.ones(2, 3, 4)
    recorded = make_fx(backward)(dy)
    assert torch.allclose(recorded(2 * dy), 2 * backward(dy), atol=1e-6)


def test_gradients_may_be_sparse_or_have_the_negative_bit():
    x = torch.randn(5, 4, requires_grad=True)
    sparse = torch.sparse_coo_tensor([[0, 2]], torch.ones(2, 4), (5, 4), check_invariants=True)
    negative = torch.complex(torch.ones(5, 4), torch.ones(5, 4)).conj().imag
    y = ct.dropout(x, 0.5)
    scale = (y / x).detach()
    for gradient in (sparse, negative):
        (dx,) = torch.autograd.grad(y, x, gradient, retain_graph=True)
        assert dx.layout == gradient.layout
        assert torch.allclose(dx.to_dense().resolve_neg(), gradient.to_dense().resolve_neg() * scale)


def test_tensors_whose_memory_is_not_their_value_go_to_pytorch():
    negative = torch.complex(torch.ones(64), torch.ones(64)).conj().imag
    assert set(ct.dropout(negative, 0.5).tolist()) == {0.0, -2.0}
    assert negative.is_neg()
    zero = torch._efficientzerotensor((5,))
    assert not ct.dropout(zero, 0.5).any()
    with pytest.raises(TypeError, match=r"generator must be a torch\.Generator or None, got 7"):
        ct.dropout(torch.ones(3), 0.5, generator=7)


THREADS = """
import os
import numpy as np
import cdropout.torch as ct
import torch
x = torch.from_numpy(np.ones(1 << 22, np.float32))
for n_threads in (1, 2):
    if ct.native_library.is_loaded():
        torch.set_num_threads(n_threads)
    else:  # as with two OpenMP runtimes, of which torch.set_num_threads changes PyTorch's alone
        torch.get_num_threads = lambda: n_threads
    ct.dropout(x, 0.5)
    print(len(os.listdir("/proc/self/task")))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts threads in /proc")
@pytest.mark.skipif(not _kernels.has_openmp(), reason="a serial build")
def test_pytorchs_number_of_threads_is_obeyed(run_python):
    n_cpus = CpuQuota().n_cpus()
    if n_cpus is not None and n_cpus < 2:
        pytest.skip("the control group's CPU quota allows one thread")
    n_serial, n_parallel = map(int, run_python("-c", THREADS).stdout.split())
    assert n_parallel - n_serial == 1
