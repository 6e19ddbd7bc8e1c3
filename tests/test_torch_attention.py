"""PyTorch's attention with its weights dropped by this library: values, gradients, pieces, modules, memory."""

import ast
import copy

import numpy as np
import pytest

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

torch = pytest.importorskip("torch")

import cdropout.torch as ct  # noqa: E402
from cdropout import _kernels  # noqa: E402
from cdropout.torch import attention, native_library  # noqa: E402

F = torch.nn.functional
# A p that drops nothing in these tests but still runs this library's code; 1/(1-p) is 1.
TINY = 1e-300
BATCH, HEADS, ROWS, KEYS, WIDTH = 2, 3, 5, 7, 4


def tensors(*shapes, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype).requires_grad_() for shape in shapes]


def qkv(dtype=torch.float64, key_heads=HEADS):
    lead = (BATCH, key_heads)
    return tensors((BATCH, HEADS, ROWS, WIDTH), (*lead, KEYS, WIDTH), (*lead, KEYS, WIDTH + 1), dtype=dtype)


def seeded(function, seed=1):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return function()


def kept_rows():
    """Return a bool mask that excludes every key for one row."""
    allowed = torch.rand(ROWS, KEYS, generator=torch.Generator().manual_seed(2)) > 0.4
    allowed[1] = False
    return allowed


BIASES = {
    "none": None,
    "bool with a dead row": kept_rows(),
    "rows": torch.linspace(-2, 2, ROWS * KEYS, dtype=torch.float64).view(ROWS, KEYS),
    "padding": torch.tensor([[True] * 6 + [False], [True] * 3 + [False] * 4]).view(BATCH, 1, 1, KEYS),
    "heads": torch.linspace(-1, 3, HEADS * ROWS, dtype=torch.float64).view(HEADS, ROWS, 1),
    "whole": torch.linspace(-3, 3, BATCH * HEADS * ROWS * KEYS, dtype=torch.float64).view(BATCH, HEADS, ROWS, KEYS),
    "-inf": torch.where(kept_rows(), 0.5, -torch.inf).double(),
}
# Bytes for one row, a few rows, one head, some heads, or everything at a time.
PIECES = (1, 150, 300, 700, 1 << 21)


@pytest.fixture(autouse=True)
def one_thread():
    """One thread: tensors this small gain nothing from a second, and lose much if another process uses its core."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture
def pieces(request, monkeypatch):
    monkeypatch.setattr(attention, "_BYTES_AT_ONCE", request.param)
    return request.param


@pytest.fixture
def attended(monkeypatch):
    """A function that returns how often this library's attention was called since it was called last."""
    calls, attend = [], attention._attend
    monkeypatch.setattr(attention, "_attend", lambda *arguments: calls.append(1) or attend(*arguments))
    profilers = [torch.autograd.profiler.profile().__enter__()]

    def count():
        profilers[0].__exit__(None, None, None)
        n_calls = len(calls) + sum(event.name == "cdropout::attention" for event in profilers[0].function_events)
        calls.clear()
        profilers[0] = torch.autograd.profiler.profile().__enter__()
        return n_calls

    yield count
    profilers[0].__exit__(None, None, None)


@pytest.fixture(params=["Python", "C++"])
def implementation(request, monkeypatch):
    """Which implementation the functions of `cdropout.torch` call."""
    if request.param == "C++" and not native_library.load():
        pytest.skip("the C++ part of cdropout.torch cannot be built here")
    monkeypatch.setattr(native_library._State, "is_loaded", request.param == "C++")
    return request.param


in_both = pytest.mark.usefixtures("implementation")


def grads(y, inputs):
    weights = torch.cos(torch.arange(y.numel(), dtype=torch.float64)).view(y.shape)
    return torch.autograd.grad((y.double() * weights).sum(), inputs)


def assert_close(ours, theirs, tolerance):
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype is b.dtype
        assert a.shape == b.shape
        assert torch.allclose(a.double(), b.double(), rtol=tolerance, atol=tolerance)


def check_without_drops(inputs, *bias, **options):
    """Check values and gradients of attention that drops nothing, which is PyTorch's."""
    y = ct.scaled_dot_product_attention(*inputs, *bias, dropout_p=TINY, **options)
    expected = F.scaled_dot_product_attention(*inputs, *bias, **options)
    assert_close([y, *grads(y, inputs)], [expected, *grads(expected, inputs)], 1e-12)


# ---- values and gradients -------------------------------------------------------------------------------------------


@in_both
@pytest.mark.parametrize("pieces", PIECES, indirect=True)
@pytest.mark.parametrize("bias", BIASES)
def test_without_drops_values_and_gradients_are_pytorchs(pieces, bias, attended):
    check_without_drops(qkv(), BIASES[bias])
    assert attended() == 1


@in_both
@pytest.mark.parametrize("pieces", PIECES, indirect=True)
@pytest.mark.parametrize(
    "options", [{"is_causal": True}, {"scale": 0.3}, {"scale": -2.0}, {"is_causal": True, "scale": 0.9}], ids=str
)
def test_options_are_pytorchs(pieces, options, attended):
    check_without_drops(qkv(), **options)
    assert attended() == 1


@in_both
def test_heads_of_keys_may_be_shared(attended):
    check_without_drops(qkv(key_heads=1), enable_gqa=True)
    assert attended() == 1


SHAPES = {
    "no batch": ((5, 4), (7, 4), (7, 3)),
    "one batch axis": ((6, 5, 4), (6, 7, 4), (6, 7, 3)),
    "three batch axes": ((2, 3, 2, 5, 4), (2, 3, 2, 7, 4), (2, 3, 2, 7, 3)),
    "batches that broadcast": ((2, 1, 5, 4), (3, 7, 4), (2, 3, 7, 3)),
}


@in_both
@pytest.mark.parametrize("pieces", PIECES, indirect=True)
@pytest.mark.parametrize("name", SHAPES)
def test_shapes_are_pytorchs(pieces, name, attended):
    check_without_drops(tensors(*SHAPES[name]), torch.linspace(-1, 1, 7, dtype=torch.float64))
    assert attended() == 1


@in_both
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 3e-3), (torch.bfloat16, 3e-2)])
def test_lower_precisions_are_rounded_from_float32(dtype, tolerance, attended):
    inputs = qkv(dtype)
    y = ct.scaled_dot_product_attention(*inputs, kept_rows(), TINY)
    exact = [t.detach().double().requires_grad_() for t in inputs]
    expected = F.scaled_dot_product_attention(*exact, kept_rows())
    expected_grads = [g.to(dtype) for g in grads(expected, exact)]
    assert_close([y, *grads(y, inputs)], [expected.to(dtype), *expected_grads], tolerance)
    assert attended() == 1


@in_both
@pytest.mark.parametrize("pieces", PIECES, indirect=True)
def test_dropped_weights_are_those_of_one_mask_over_all_scores(pieces):
    query, key, value = inputs = qkv()
    y = seeded(lambda: ct.scaled_dot_product_attention(*inputs, BIASES["whole"], 0.3))
    mask = seeded(lambda: ct.tensors.draw_mask((BATCH * HEADS * ROWS, KEYS), 0.3, (), None))
    scaled = torch.from_numpy(mask.scaled(np.float64)).view(BATCH, HEADS, ROWS, KEYS)
    weights = (query @ key.transpose(-1, -2) / 2 + BIASES["whole"]).softmax(-1)
    expected = (weights * scaled) @ value
    assert_close([y, *grads(y, inputs)], [expected, *grads(expected, inputs)], 1e-12)
    assert 0.1 < (scaled == 0).double().mean() < 0.5


@in_both
@pytest.mark.parametrize("pieces", [150, 700], indirect=True)
@pytest.mark.parametrize("bias", ["none", "bool with a dead row", "padding"])
def test_gradients_and_their_gradients_are_right(pieces, bias):
    def attend(*inputs):
        return seeded(lambda: ct.scaled_dot_product_attention(*inputs, BIASES[bias], 0.4))

    # One case checks the derivative by every element, the others along random directions: a tenth of the time.
    is_fast = (pieces, bias) != (700, "none")
    assert torch.autograd.gradcheck(attend, qkv(), fast_mode=is_fast)
    assert torch.autograd.gradgradcheck(attend, qkv(), fast_mode=True)
    query, key, value = (t.detach() for t in qkv())
    assert torch.autograd.gradcheck(lambda key: attend(query, key, value), (key.requires_grad_(),), fast_mode=is_fast)
    assert torch.autograd.gradgradcheck(
        lambda value: attend(query, key.detach(), value), (value.requires_grad_(),), fast_mode=True
    )


@in_both
def test_a_bias_that_learns_gets_its_gradient(attended):
    inputs = [*qkv(), torch.randn(HEADS, ROWS, KEYS, dtype=torch.float64, requires_grad=True)]

    def attend(*inputs):
        return seeded(lambda: ct.scaled_dot_product_attention(*inputs, 0.4))

    # By every element of the bias for one head and two rows, along random directions for all: a tenth of the time.
    query, key, value, bias = (t.detach()[..., :1, :, :] for t in inputs)
    few = bias[..., :2, :].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda bias: attend(query[..., :2, :], key, value, bias), (few,))
    assert torch.autograd.gradcheck(attend, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(attend, inputs, fast_mode=True)
    assert attended() > 1


@in_both
def test_a_p_of_1_drops_every_weight(attended):
    inputs = qkv()
    y = ct.scaled_dot_product_attention(*inputs, dropout_p=1.0)
    assert torch.equal(y, F.scaled_dot_product_attention(*inputs, dropout_p=1.0))
    assert not torch.cat([g.flatten() for g in grads(y, inputs)]).any()
    assert attended() == 1


@pytest.mark.parametrize("setting", ["0", ""])
def test_scores_are_never_in_memory_as_a_whole(setting, run_python, monkeypatch):
    monkeypatch.setenv("CDROPOUT_TORCH_NATIVE", setting)
    # 16 heads of 2048 x 2048 scores are 256 MiB; inputs, output and gradients are 8 of 2 MiB.
    code = """
import resource, torch, cdropout.torch as ct
ct.native_library.load()
torch.set_num_threads(1)
inputs = [torch.randn(1, 16, 2048, 16, requires_grad=True) for _ in range(3)]
small = [t[:, :, :64].detach().requires_grad_() for t in inputs]
ct.scaled_dot_product_attention(*small, dropout_p=0.1).sum().backward()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
ct.scaled_dot_product_attention(*inputs, dropout_p=0.1).sum().backward()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    assert int(run_python("-c", code).stdout) < 128


@in_both
def test_masks_follow_the_seed_or_a_generator():
    inputs = qkv()
    call = lambda **options: ct.scaled_dot_product_attention(*inputs, dropout_p=0.5, **options)  # noqa: E731
    assert torch.equal(seeded(call), seeded(call))
    assert not torch.equal(seeded(call), seeded(call, 2))
    first, second = (call(generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(call(), call())


@in_both
def test_autocast_computes_in_its_dtype(attended):
    inputs = qkv(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = ct.scaled_dot_product_attention(*inputs, dropout_p=TINY)
        expected = F.scaled_dot_product_attention(*inputs)
        loss_grads = grads(y, inputs)
    assert_close([y, *loss_grads], [expected, *grads(expected, inputs)], 3e-2)
    assert attended() == 1


@in_both
@pytest.mark.parametrize(
    ("change", "options"),
    [
        (lambda q, k, v: (q[0, 0, 0], k, v), {}),
        (lambda q, k, v: (q, k[..., :3], v), {}),
        (lambda q, k, v: (q, k, v[..., :3, :]), {}),
        (lambda q, k, v: (q.float(), k, v), {}),
        (lambda q, k, v: (q, k[:, :2], v[:, :2]), {}),
        (lambda q, k, v: (q, k[:, :2], v[:, :2]), {"enable_gqa": True}),
        (lambda q, k, v: (q, k, v), {"attn_mask": torch.ones(ROWS, KEYS + 1)}),
        (lambda q, k, v: (q, k, v), {"attn_mask": torch.ones(ROWS, KEYS, dtype=torch.int32)}),
        (lambda q, k, v: (q, k, v), {"attn_mask": torch.ones(ROWS, KEYS, dtype=torch.bool), "is_causal": True}),
        (lambda q, k, v: (q, k, v), {"dropout_p": 1.5}),
    ],
)
def test_what_pytorch_refuses_is_refused_in_its_words(change, options):
    inputs = change(*qkv())
    arguments = {"dropout_p": 0.5, **options}
    with pytest.raises((RuntimeError, IndexError)) as expected:
        F.scaled_dot_product_attention(*inputs, **arguments)
    with pytest.raises(expected.type) as caught:
        ct.scaled_dot_product_attention(*inputs, **arguments)
    assert str(caught.value) == str(expected.value)


@in_both
def test_other_tensors_and_no_dropout_go_to_pytorch(attended):
    meta = [t.to("meta") for t in qkv()]
    assert ct.scaled_dot_product_attention(*meta, dropout_p=0.5).device.type == "meta"
    inputs = qkv()
    assert torch.equal(ct.scaled_dot_product_attention(*inputs), F.scaled_dot_product_attention(*inputs))
    mapped = torch.func.vmap(lambda q: ct.scaled_dot_product_attention(q, q, q, dropout_p=0.5), randomness="different")
    assert mapped(inputs[0]).shape == inputs[0].shape
    assert attended() == 0
    with pytest.raises(ValueError, match="generator must be None unless"):
        ct.scaled_dot_product_attention(*meta, dropout_p=0.5, generator=torch.Generator())


# ---- the C++ part ---------------------------------------------------------------------------------------------------

# batch, heads, heads of key, queries, keys, features, features of a value. The C++ part works on blocks of 64 queries,
# 256 keys, panels of 4 to 32 features or keys, chunks of 256 features, and makes masks of at most 4096 keys at once.
CPP_SHAPES = (
    (1, 1, 1, 1, 1, 1, 1),
    (2, 3, 3, 5, 7, 4, 5),
    (1, 2, 2, 64, 64, 64, 64),
    (1, 4, 2, 130, 131, 64, 64),
    (2, 4, 1, 100, 300, 33, 70),
    (1, 1, 1, 70, 600, 8, 8),
    (1, 1, 1, 300, 40, 300, 270),
    (1, 2, 2, 3, 9000, 16, 16),
    (1, 1, 1, 9, 4096, 5, 6),
)
TOLERANCES = {torch.float32: 2e-5, torch.float64: 1e-13, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


def drop_in(is_cpp, inputs, monkeypatch, **options):
    """Return output and gradients of attention with the mask of a fixed seed."""
    monkeypatch.setattr(native_library._State, "is_loaded", is_cpp)
    y = seeded(lambda: ct.scaled_dot_product_attention(*inputs, **options))
    return [y, *grads(y, inputs)]


@pytest.fixture
def cpp():
    if not native_library.load():
        pytest.skip("the C++ part of cdropout.torch cannot be built here")


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("shape", CPP_SHAPES, ids=str)
def test_cpp_computes_what_python_computes(shape, dtype, cpp, monkeypatch):
    n_batch, n_heads, n_key_heads, n_rows, n_keys, width, value_width = shape
    if n_keys == 1 and dtype.itemsize == 2:
        pytest.skip("dquery is 0 but for the rounding of the output, which is relative to nothing")
    # Heads beside heads, as networks have them, and heads one after the other.
    query, key, value = tensors(
        (n_batch, n_rows, n_heads, width),
        (n_batch, n_keys, n_key_heads, width),
        (n_batch, n_key_heads, n_keys, value_width),
        dtype=dtype,
    )
    inputs = [query.transpose(1, 2), key.transpose(1, 2), value]
    generator = torch.Generator().manual_seed(3)
    used = torch.rand(n_batch, 1, n_rows, n_keys, generator=generator) > 0.3
    used[:, :, -1] = False
    for n_threads, options in (
        (1, {}),
        (2, {"is_causal": True}),
        (3, {"scale": -0.7, "attn_mask": used}),
        (1, {"attn_mask": torch.randn(n_heads, n_rows, 1, generator=generator).to(dtype)}),
        (2, {"attn_mask": torch.randn(n_keys, generator=generator).expand(n_rows, n_keys)}),
    ):
        torch.set_num_threads(n_threads)
        options = {"dropout_p": 0.3, "enable_gqa": n_heads != n_key_heads, **options}
        ours, expected = (drop_in(is_cpp, inputs, monkeypatch, **options) for is_cpp in (True, False))
        for a, b in zip(ours, expected, strict=True):
            assert (a.dtype, a.shape) == (b.dtype, b.shape)
            assert (a - b).abs().max() <= TOLERANCES[dtype] * (b.abs().max() + 1e-3)


def test_cpp_drops_the_same_weights_on_every_number_of_threads(cpp, monkeypatch):
    # With values that are unit vectors, the output is the dropped weights.
    query, key = (t.detach() for t in tensors((1, 3, 150, 8), (1, 3, 270, 8), dtype=torch.float32))
    value = torch.eye(270).expand(1, 3, 270, 270)
    dropped = []
    for n_threads in (1, 2, 3):
        torch.set_num_threads(n_threads)
        dropped.append(seeded(lambda: ct.scaled_dot_product_attention(query, key, value, dropout_p=0.4)) == 0)
    mask = seeded(lambda: ct.tensors.draw_mask((3 * 150, 270), 0.4, (), None))
    for each in dropped:
        assert np.array_equal(~each.numpy().reshape(mask.shape), mask.keep())


def test_cpp_computes_the_same_on_every_instruction_set(cpp, run_python):
    isas = [isa for isa in ("sse2", "avx2", "avx512") if isa in _kernels.supported_isas()]
    if len(isas) < 2:
        pytest.skip("this machine has one instruction set of this code")
    code = """
import sys, torch, cdropout.torch as ct
assert ct.native_library.load()
inputs = [torch.linspace(-1, 1, 2 * 70 * 40).sin().view(1, 2, 70, 40).requires_grad_() for _ in range(3)]
torch.manual_seed(1)
y = ct.scaled_dot_product_attention(*inputs, dropout_p=0.3, is_causal=True)
print([t.square().sum().item() for t in (y, *torch.autograd.grad(y.square().sum(), inputs))])
"""
    printed = [ast.literal_eval(run_python("-c", code, env={"CDROPOUT_ISA": isa}).stdout.decode()) for isa in isas]
    for each in printed[1:]:
        assert np.allclose(each, printed[0], rtol=1e-5)


def test_cpp_reads_inputs_once_they_are_dense_along_features(cpp, attended):
    inputs = [t.transpose(-1, -2) for t in tensors(*[(1, 2, 8, 30)] * 3)]
    check_without_drops(inputs)
    dout = torch.ones(()).expand(1, 2, 30, 8).double()  # a gradient without memory for each element, as sum() makes it
    y = ct.scaled_dot_product_attention(*inputs, dropout_p=TINY)
    expected = F.scaled_dot_product_attention(*inputs)
    assert_close(torch.autograd.grad(y, inputs, dout), torch.autograd.grad(expected, inputs, dout), 1e-12)
    assert attended() == 2


def test_cpp_takes_batched_gradients_and_refuses_changed_or_freed_tensors(cpp):
    inputs = qkv()
    y = seeded(lambda: ct.scaled_dot_product_attention(*inputs, dropout_p=0.4))
    douts = torch.randn(3, *y.shape, dtype=y.dtype)
    batched = torch.autograd.grad(y, inputs, douts, is_grads_batched=True, retain_graph=True)
    single = [torch.autograd.grad(y, inputs, dout, retain_graph=True) for dout in douts]
    assert_close(batched, [torch.stack(each) for each in zip(*single, strict=True)], 1e-12)
    torch.autograd.grad(y, inputs, douts[0])
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        torch.autograd.grad(y, inputs, douts[0])
    y = ct.scaled_dot_product_attention(*inputs, dropout_p=0.4)
    y.detach().zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(y, inputs, douts[0])


# ---- modules --------------------------------------------------------------------------------------------------------


MODULES = {
    "self": {},
    "batch first": {"batch_first": True},
    "with biases": {"add_bias_kv": True},
    "with a zero": {"add_zero_attn": True},
    "other widths": {"kdim": 6, "vdim": 10},
}


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("name", MODULES)
def test_multihead_attention_without_drops_is_pytorchs(name, need_weights, attended):
    module = torch.nn.MultiheadAttention(8, 2, dropout=TINY, dtype=torch.float64, **MODULES[name])
    x, key, value = tensors((4, 4, 8), (4, 4, module.kdim), (4, 4, module.vdim))
    padding = torch.zeros(4, 4, dtype=torch.bool)
    padding[0, 2:] = True
    arguments = {"key_padding_mask": padding, "need_weights": need_weights}
    expected, expected_weights = module(x, key, value, **arguments)
    assert ct.replace_dropout(module) == 0
    assert type(module) is ct.MultiheadAttention
    y, weights = module(x, key, value, **arguments)
    assert torch.allclose(y, expected, rtol=1e-12, atol=1e-12)
    assert (weights is None) == (not need_weights)
    assert weights is None or torch.allclose(weights, expected_weights, rtol=1e-12)
    assert attended() == (0 if need_weights else 1)
    unbatched, _ = module(x[0], key[0], value[0], need_weights=need_weights)
    assert unbatched.shape == (4, 8)


@pytest.mark.parametrize("need_weights", [False, True])
def test_multihead_attention_drops_its_weights_by_this_library(need_weights):
    module, x = torch.nn.MultiheadAttention(8, 2, dropout=0.4), torch.randn(50, 3, 8)
    ct.replace_dropout(module)
    (site,) = ct.report(module, x, x, x, need_weights=need_weights)
    assert (site.is_ours, site.n_calls, site.class_name) == (True, 1, "MultiheadAttention")
    if need_weights:
        weights = seeded(lambda: module(x, x, x, average_attn_weights=False)[1])
        mask = seeded(lambda: ct.tensors.draw_mask((3 * 2 * 50 * 50,), 0.4, (), None))
        assert np.array_equal(weights.numpy(force=True).reshape(-1) != 0, mask.keep())
    module.eval()
    assert ct.report(module, x, x, x, need_weights=need_weights) == []


def encoder():
    layer = torch.nn.TransformerEncoderLayer(16, 4, 32, dropout=0.1, batch_first=True)
    return torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def test_a_transformer_uses_it_and_pytorch_elsewhere_does_not(attended):
    ours, theirs = encoder(), encoder()
    assert ct.replace_dropout(ours) == 6
    x = torch.randn(3, 7, 16)
    theirs(x)
    assert attended() == 0
    y = seeded(lambda: ours(x))
    assert attended() == 2
    assert torch.equal(seeded(lambda: ours(x)), y)
    assert torch.equal(seeded(lambda: copy.deepcopy(ours)(x)), y)
    y.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in ours.parameters())
    with torch.no_grad():
        evaluated = ours.eval()(x)
    attended()
    assert ct.restore_dropout(ours) == 6
    assert type(ours.layers[0].self_attn) is torch.nn.MultiheadAttention
    with torch.no_grad():
        assert torch.equal(ours(x), evaluated)
    ours.train()(x)
    assert attended() == 0


def test_a_decoder_attends_to_memory_under_a_causal_mask(attended):
    layer = torch.nn.TransformerDecoderLayer(16, 4, 32, dropout=0.2, batch_first=True)
    assert ct.replace_dropout(layer) == 4
    causal = torch.nn.Transformer.generate_square_subsequent_mask(6)
    x = torch.randn(2, 6, 16, requires_grad=True)
    y = layer(x, torch.randn(2, 9, 16), tgt_mask=causal, tgt_is_causal=True)
    assert attended() == 2
    (gradient,) = torch.autograd.grad(y[:, 2, 3].sum(), x)
    assert not gradient[:, 3:].any()
    assert gradient[:, :3].any()


@pytest.mark.ci
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_replaced_transformer_compiles_to_the_same_numbers(backend, recwarn):
    model, x = encoder(), torch.randn(3, 7, 16)
    ct.replace_dropout(model)
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    assert torch.allclose(seeded(lambda: compiled(x)), seeded(lambda: model(x)), atol=1e-6)
