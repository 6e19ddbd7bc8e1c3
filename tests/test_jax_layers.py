"""Dropout for Flax and Equinox, the key implementation, and the switch that reaches every layer of JAX."""

import numpy as np
import pytest

import cdropout as cd
from cdropout import _kernels

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning"),
    pytest.mark.thread_unsafe(reason="switches a function for the whole process"),
]

jax = pytest.importorskip("jax")
cjax = pytest.importorskip("cdropout.jax")
jnp = jax.numpy

X = np.random.default_rng(0).uniform(0.5, 1.5, (64, 30, 8)).astype(np.float32)
KEY = jax.random.key(3)
OURS = jax.random.key(3, impl=cjax.prng)
FROZEN = [
    "0xb60db9656095660fea94fcf54eedccb1",
    "0x66dc64cf06c156243ee12dfbb1810e04",
    "0xedaa2025d6b0a9d7ec61e991158da8b7",
]
FROZEN_BITS = 0x63F0F68C


@pytest.fixture
def enabled():
    with cjax.enabled():
        yield


def expected(key, p=0.5, shape=X.shape, broadcast_dims=()):
    return cd.Mask(cjax.stream_key(key), 0, p, shape, broadcast_dims).apply(X)


# ---- layers ---------------------------------------------------------------------------------------------------------


def test_nnx_dropout_has_flax_arguments_and_keys():
    nnx = pytest.importorskip("flax.nnx")
    from cdropout.jax.nnx import Dropout

    assert issubclass(Dropout, nnx.Dropout)
    theirs, ours = (cls(0.5, rngs=nnx.Rngs(dropout=5)) for cls in (nnx.Dropout, Dropout))
    for _ in range(2):  # the layer's stream of keys advances
        key = getattr(theirs.rngs, "dropout", theirs.rngs)()  # before Flax 0.11 a layer has all streams
        assert np.array_equal(ours(X), expected(key))
    assert np.array_equal(ours(X, rngs=KEY), expected(KEY))
    assert np.array_equal(ours(X, rngs=nnx.Rngs(dropout=KEY)), expected(nnx.Rngs(dropout=KEY).dropout()))
    assert np.array_equal(Dropout(0.5, broadcast_dims=(1,))(X, rngs=KEY), expected(KEY, broadcast_dims=(1,)))
    model = nnx.Sequential(nnx.Linear(8, 8, rngs=nnx.Rngs(0)), Dropout(0.5, rngs=nnx.Rngs(1)))
    model.eval()
    assert np.array_equal(model(X), model.layers[0](X))
    model.train()
    assert not np.array_equal(model(X), model(X))
    step = nnx.jit(nnx.grad(lambda model, x: model(x).sum()))
    first, second = (step(model, X).layers[0].bias for _ in range(2))
    assert not np.array_equal(first[...], second[...])
    assert Dropout(0.0)(X) is X
    assert not Dropout(1.0)(X).any()
    with pytest.raises(ValueError, match=r"rngs must be given .* got None"):
        Dropout(0.5)(X)
    with pytest.raises(ValueError, match="deterministic must be given"):
        Dropout(0.5, deterministic=None)(X, rngs=KEY)
    with pytest.raises(TypeError, match=r"rngs must be a flax\.nnx\.Rngs, RngStream or a key, got int"):
        Dropout(0.5)(X, rngs=3)
    with pytest.raises(ValueError, match=r"rate must be in \[0, 1\], got 1.5"):
        Dropout(1.5)(X, rngs=KEY)


def test_linen_dropout_has_flax_arguments_and_keys():
    linen = pytest.importorskip("flax.linen")
    from cdropout.jax.linen import Dropout

    class Model(linen.Module):
        dropout: type

        @linen.compact
        def __call__(self, x, train):
            x = self.dropout(0.5, deterministic=not train)(x)
            return self.dropout(0.5, broadcast_dims=(1,), rng_collection="other")(x, deterministic=not train)

    rngs = {"dropout": KEY, "other": jax.random.key(4)}
    keys = []

    class Theirs(linen.Dropout):
        @linen.compact
        def __call__(self, inputs, deterministic=None):
            keys.append(self.make_rng(self.rng_collection))
            return inputs

    Theirs.__name__ = "Dropout"  # keys depend on the names of modules
    Model(Theirs).apply({}, X, True, rngs=rngs)
    y = jax.jit(lambda x: Model(Dropout).apply({}, x, True, rngs=rngs))(X)
    first, second = (
        cd.Mask(cjax.stream_key(key), 0, 0.5, X.shape, axes) for key, axes in zip(keys, ((), (1,)), strict=True)
    )
    assert np.array_equal(y, second.apply(first.apply(X)))
    assert np.array_equal(Model(Dropout).apply({}, X, False), X)
    assert np.array_equal(Dropout(0.5).apply({}, X, deterministic=False, rng=KEY), expected(KEY))
    with pytest.raises(ValueError, match=r"rate must be in \[0, 1\], got 1.5"):
        Dropout(1.5, deterministic=False).apply({}, X, rngs=rngs)


def test_equinox_dropout_has_its_arguments():
    equinox = pytest.importorskip("equinox")
    from cdropout.jax.equinox import Dropout

    layer = Dropout(0.5)
    assert isinstance(layer, equinox.nn.Dropout)
    assert np.array_equal(equinox.filter_jit(layer)(X, key=KEY), expected(KEY))
    assert layer(X, inference=True) is X
    assert equinox.nn.inference_mode(layer)(X) is X
    assert np.array_equal(equinox.nn.inference_mode(layer)(X, key=KEY, inference=False), expected(KEY))
    traced = equinox.tree_at(lambda layer: layer.p, layer, jnp.float32(0.5))
    assert np.array_equal(equinox.filter_jit(traced)(X, key=KEY), expected(KEY))
    with pytest.warns(UserWarning, match="deterministic is an old name"):
        assert layer(X, deterministic=True) is X
    with pytest.raises(RuntimeError, match="key must be given to Dropout in training, got None"):
        layer(X)
    batched = jax.vmap(lambda x, key: layer(x, key=key))(X, jax.random.split(KEY, 64))
    assert np.array_equal(batched[5], layer(X[5], key=jax.random.split(KEY, 64)[5]))


# ---- the key implementation -----------------------------------------------------------------------------------------


def raw(key, n_blocks):
    return _kernels.raw_blocks(cjax.stream_key(key), 0, n_blocks)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
@pytest.mark.parametrize("n", [1, 8192, 70_001])
def test_bits_are_those_of_the_stream(dtype, n):
    bits = jax.random.bits(OURS, (n,), dtype)
    assert np.array_equal(bits, raw(OURS, 40).view(np.dtype(dtype).newbyteorder("<"))[:n])


def test_bits_of_64_and_of_no_elements():
    enable_x64 = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64
    with enable_x64(True):
        bits = jax.random.bits(OURS, (3, 2000), "uint64")
        assert np.array_equal(bits, raw(OURS, 6).view("<u8")[:6000].reshape(3, 2000))
    assert jax.random.bits(OURS, (0, 3)).shape == (0, 3)
    assert jax.random.bits(OURS).shape == ()


def test_a_call_for_bits_of_another_type_is_refused():
    mask, strides = np.zeros(8, np.uint32), np.array([[1, 0]], np.uint32)
    for dtype, message in ((np.float32, "the result has the wrong type"), (np.bool_, "the result has the wrong type")):
        call = jax.ffi.ffi_call("cdropout_bits", jax.ShapeDtypeStruct((5,), dtype))
        with pytest.raises(Exception, match=f"cdropout_bits: {message}"):
            jax.block_until_ready(call(mask, strides))


def test_keys_are_batched():
    keys = jax.random.split(OURS, 6)
    draws = jnp.stack([jax.random.normal(key, (5, 3)) for key in keys])
    assert np.array_equal(jax.vmap(lambda key: jax.random.normal(key, (5, 3)))(keys), draws)
    assert np.array_equal(jax.jit(jax.vmap(lambda key: jax.random.normal(key, (5, 3))))(keys), draws)


ON_FOUR_DEVICES = """
import jax
import numpy as np
import cdropout.jax

key = jax.random.key(3, impl=cdropout.jax.prng)
mesh, spec = jax.make_mesh((2, 2), ("a", "b")), jax.sharding.PartitionSpec
for draw in (jax.random.bits, lambda key, shape: jax.random.bernoulli(key, 0.9, shape)):
    with cdropout.jax.enabled():
        whole = draw(key, (512, 64))
        for names in (("a", "b"), ("a",), (None, ("a", "b"))):
            sharding = jax.sharding.NamedSharding(mesh, spec(*names))
            divided = jax.jit(lambda key: draw(key, (512, 64)), out_shardings=sharding)
            assert np.array_equal(divided(key), whole)
            program = divided.lower(key).compile().as_text()
            assert "cdropout_" in program and "all-gather" not in program
print("checked")
"""


def test_draws_are_divided_among_devices(run_python):
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    run = run_python("-W", "ignore", "-c", ON_FOUR_DEVICES, env=flags, check=False)
    assert run.stdout == b"checked\n", run.stderr.decode()


def test_keys_that_are_derived_all_differ():
    """All of 40,000 derived keys differ; two of 128 random bits would be equal with probability 2e-30."""
    data = [
        jax.random.key_data(keys)
        for keys in (
            jax.vmap(lambda seed: jax.random.key(seed, impl=cjax.prng))(jnp.arange(10_000)),
            jax.random.split(OURS, 10_000),
            jax.vmap(lambda n: jax.random.fold_in(OURS, n))(jnp.arange(10_000)),
            jax.random.split(jax.random.fold_in(OURS, 0), 10_000),
        )
    ]
    assert len(np.unique(np.concatenate(data), axis=0)) == 40_000
    ones = np.unpackbits(np.concatenate(data).view(np.uint8), axis=1).mean(axis=0)
    assert np.abs(ones - 0.5).max() < 5 * 0.5 / 200  # 40,000 samples of each bit, 5 standard errors
    pieces = jax.random.key_data(jax.random.split(OURS, (2, 3)))
    assert np.array_equal(pieces.reshape(6, 4), jax.random.key_data(jax.random.split(OURS, 6)))


def test_keys_are_frozen():
    """Bits of programs that use these keys must not change."""
    derived = (OURS, jax.random.split(OURS)[1], jax.random.fold_in(OURS, 7))
    assert [hex(cjax.stream_key(key)) for key in derived] == FROZEN
    assert jax.jit(jax.random.bits)(OURS) == np.uint32(FROZEN_BITS)


def test_programs_draw_what_they_should():
    uniform = np.asarray(jax.random.uniform(OURS, (100_000,)))
    assert abs(uniform.mean() - 0.5) < 5 * 12**-0.5 / 100_000**0.5
    kept = np.asarray(jax.random.bernoulli(OURS, 0.9, (100_000,)))
    assert abs(kept.mean() - 0.9) < 5 * 0.3 / 100_000**0.5
    y = cjax.dropout(OURS, X, 0.5)
    assert np.array_equal(y, expected(OURS))


# ---- the switch -----------------------------------------------------------------------------------------------------


def keep(key, p=0.9, shape=(1000,)):
    return np.asarray(jax.random.bernoulli(key, p, shape))


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg", cjax.prng], ids=str)
def test_bernoulli_is_ours_compiled_or_not_while_enabled(impl):
    key = jax.random.key(1, impl=impl)
    compiled = jax.jit(lambda key: jax.random.bernoulli(key, 0.9, (1000,)))
    theirs = np.asarray(compiled(key))
    assert np.array_equal(theirs, keep(key))
    cjax.enable()
    cjax.enable()
    assert cjax.is_enabled()
    ours = np.asarray(compiled(key))
    cjax.disable()
    assert np.array_equal(ours, cd.Mask(cjax.stream_key(key), 0, 1.0 - float(np.float32(0.9)), (1000,)).keep())
    assert not np.array_equal(ours, theirs)
    assert np.array_equal(np.asarray(compiled(key)), theirs)
    with cjax.enabled():
        assert np.array_equal(keep(key), ours)
        assert np.array_equal(cjax.bernoulli(key, np.float32(0.9), (1000,)), ours)
        traced = jax.jit(lambda key, p: jax.random.bernoulli(key, p, (1000,)))
        assert np.array_equal(traced(key, 0.9), ours)
    assert not cjax.is_enabled()


def test_probabilities_are_complemented_exactly():
    from cdropout.jax.packed_mask import P, pack_complement

    rng = np.random.default_rng(0)
    p = np.concatenate([rng.uniform(size=500), 2.0 ** -rng.uniform(0, 28, 500), [0, 1, 0.5, 0.25]]).astype(np.float32)
    masks = jax.jit(jax.vmap(lambda p: pack_complement(jnp.zeros(2, np.uint32), p)))(p)
    assert np.array_equal(np.array(masks[:, P]).view("<f8").ravel(), 1.0 - p.astype(float))


def test_what_the_switch_leaves_to_jax_and_edges(enabled):
    p = jnp.array([0.1, 0.9] * 50)
    with_array = np.asarray(jax.random.bernoulli(KEY, p))
    cjax.disable()
    assert np.array_equal(jax.random.bernoulli(KEY, p), with_array)
    cjax.enable()
    assert keep(KEY, 1.5).all()
    assert keep(KEY, 1.0).all()
    assert not keep(KEY, -0.5).any()
    assert jax.random.bernoulli(KEY).shape == ()
    assert jax.random.bernoulli(jax.random.PRNGKey(3), 0.5, (3, 0)).shape == (3, 0)
    assert np.array_equal(jax.random.bernoulli(jax.random.PRNGKey(3), 0.5, (9,)), keep(KEY, 0.5, (9,)))
    assert np.array_equal(
        jax.vmap(lambda key: jax.random.bernoulli(key, 0.5, (9,)))(KEY[None])[0], keep(KEY, 0.5, (9,))
    )
    assert jax.grad(lambda p: jnp.where(jax.random.bernoulli(KEY, p, (9,)), p, 0.0).sum())(0.5) >= 0
    with pytest.raises(TypeError, match="floating"):
        jax.random.bernoulli(KEY, 1)


def test_a_jax_without_the_replaced_function_is_refused(monkeypatch):
    from cdropout.jax import switch

    monkeypatch.setattr(switch, "_of_jax", None)
    with pytest.raises(RuntimeError, match=r"jax.random.bernoulli must call a function _bernoulli"):
        cjax.enable()
    cjax.disable()
    assert not cjax.is_enabled()


def test_the_switch_may_be_used_by_many_threads():
    import threading

    results = []

    def work():
        for _ in range(2):
            with cjax.enabled():
                results.append(keep(KEY, 0.5, (10,)).shape)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    cjax.disable()
    assert results == [(10,)] * 6
    assert not cjax.is_enabled()


# Each returns a function of an array, made anew, that drops by jax.random.bernoulli.


def nnx_dropout():
    nnx = pytest.importorskip("flax.nnx")
    return lambda x: nnx.Dropout(0.5, rngs=nnx.Rngs(0))(x)


def nnx_attention():
    nnx = pytest.importorskip("flax.nnx")
    layer = nnx.MultiHeadAttention(2, 8, dropout_rate=0.5, decode=False, rngs=nnx.Rngs(0))
    return lambda x: layer(x, deterministic=False, rngs=nnx.Rngs(1))


def nnx_rngs():
    nnx = pytest.importorskip("flax.nnx")
    return lambda x: jnp.where(nnx.Rngs(0).bernoulli(0.5, x.shape), x, 0)


def linen_dropout():
    linen = pytest.importorskip("flax.linen")
    return lambda x: linen.Dropout(0.5, deterministic=False).apply({}, x, rngs={"dropout": KEY})


def linen_attention():
    linen = pytest.importorskip("flax.linen")
    layer = linen.MultiHeadDotProductAttention(2, dropout_rate=0.5, deterministic=False)
    variables = jax.jit(layer.init)({"params": KEY, "dropout": KEY}, X)
    return lambda x: layer.apply(variables, x, rngs={"dropout": KEY})


def equinox_dropout():
    equinox = pytest.importorskip("equinox")
    return lambda x: equinox.nn.Dropout(0.5)(x, key=KEY)


def equinox_attention():
    equinox = pytest.importorskip("equinox")
    layer = equinox.nn.MultiheadAttention(2, 8, dropout_p=0.5, key=KEY)
    return lambda x: layer(x[0], x[0], x[0], key=KEY)


def haiku_dropout():
    haiku = pytest.importorskip("haiku")
    return lambda x: haiku.dropout(KEY, 0.5, x)


def reference_by_name():
    from jax.random import bernoulli

    return lambda x: jnp.where(bernoulli(KEY, 0.5, x.shape), x, 0)


@pytest.mark.parametrize(
    "make",
    [
        nnx_dropout,
        nnx_attention,
        nnx_rngs,
        linen_dropout,
        linen_attention,
        equinox_dropout,
        equinox_attention,
        haiku_dropout,
        reference_by_name,
    ],
)
def test_every_layer_is_reached_without_a_change_of_the_model(make):
    function = make()
    step = jax.jit(function)
    theirs = cjax.report(step, X)
    assert theirs
    assert not any(site.is_ours for site in theirs)
    with cjax.enabled():
        ours = cjax.report(step, X)
    assert all(site.is_ours for site in ours)
    assert len(ours) == len(theirs)
    # Not the lines: JAX 0.6 names that of an earlier call with the same shapes.
    again = cjax.report(step, X)
    assert [(site.is_ours, site.n_calls) for site in again] == [(site.is_ours, site.n_calls) for site in theirs]


def test_a_report_names_lines():
    def f(x):
        x = cjax.dropout(KEY, x, 0.5)
        x = x + jax.random.normal(OURS, x.shape)
        return x + jax.random.normal(KEY, x.shape)

    sites = cjax.report(jax.jit(jax.value_and_grad(lambda x: f(x).sum())), X)
    assert [site.is_ours for site in sites] == [False, True, True]
    assert all("test_jax_layers.py" in site.line for site in sites)
    assert sites[1].n_calls == 2  # forward and backward
    assert str(sites[0]).startswith("JAX: 1 x in ")
    assert str(sites[1]).startswith("cdropout: 2 x in ")
    assert cjax.report(lambda x: x + 1, X) == []
