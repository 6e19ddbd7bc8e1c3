"""JAX's dropout by this library: the bits of NumPy's masks, under JAX's transformations, and errors when traced."""

import threading

import numpy as np
import pytest

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

jax = pytest.importorskip("jax")

import jax.numpy as jnp  # noqa: E402
from jax.test_util import check_grads  # noqa: E402

import cdropout as cd  # noqa: E402
import cdropout.jax as cj  # noqa: E402
from cdropout.jax import partitioning, primitives, stock  # noqa: E402
from cdropout.jax.packed_mask import advanced, key_words, pack, run_strides  # noqa: E402
from cdropout.jax.primitives import apply_mask, keep_mask  # noqa: E402

P = 0.3
KEYS = {
    "threefry": (lambda: jax.random.key(42), 42 << 32),
    "threefry, of a seed above 32 bits": (lambda: jnp.array([7, 42], jnp.uint32), 7 | 42 << 32),
    "PRNGKey": (lambda: jax.random.PRNGKey(42), 42 << 32),
    "rbg": (lambda: jax.random.key(42, impl="rbg"), 42 << 96 | 42 << 32),
    "unsafe_rbg": (lambda: jax.random.key(42, impl="unsafe_rbg"), 42 << 96 | 42 << 32),
    "four words": (lambda: np.arange(1, 5, dtype=np.uint32), 4 << 96 | 3 << 64 | 2 << 32 | 1),
}


def random_array(shape, dtype=np.float32, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def mask_of(key, shape, p=P, shared_axes=()):
    return cd.Mask(cj.stream_key(key), 0, p, shape, shared_axes)


def same_bits(a, b):
    a, b = np.asarray(a), np.asarray(b)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def with_float64():
    return jax.enable_x64(True) if hasattr(jax, "enable_x64") else jax.experimental.enable_x64(True)


@pytest.fixture
def key():
    return jax.random.key(7)


# ---- the bits are NumPy's -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KEYS)
def test_key_gives_the_mask_of_a_stream_key(name):
    make_key, number = KEYS[name]
    key, x = make_key(), random_array((100, 51))
    assert cj.stream_key(key) == number
    expected = cd.Mask(number, 0, P, x.shape).apply(np.asarray(x))
    assert same_bits(cj.dropout(key, x, P), expected)
    assert same_bits(jax.jit(lambda key, x: cj.dropout(key, x, P))(key, x), expected)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("p", [P, 0.5, 2.0**-40, 1 - 2.0**-20])
def test_dtype_has_the_roundings_of_numpy(key, dtype, p):
    with with_float64():
        x = random_array((40, 130), dtype)
        mask = mask_of(key, x.shape, p)
        assert same_bits(cj.dropout(key, x, p), mask.apply(np.asarray(x)))
        zero = np.zeros((), dtype)
        y = cj.relu_dropout(key, x, p)
        assert same_bits(y, mask.apply(np.maximum(np.asarray(x), zero)))
        dx = jax.grad(lambda x: (cj.relu_dropout(key, x, p) * x).astype(jnp.float32).sum())(x)
        through_relu = cd.relu_dropout_backward(np.asarray(x), np.asarray(y), p)
        assert same_bits(dx, jnp.asarray(through_relu) + y)


@pytest.mark.parametrize("axes", [0, (0,), (-1,), (0, 2), (1, 2), [0, 1, 2], ()])
def test_broadcast_dims_share_decisions(key, axes):
    x = random_array((6, 5, 70))
    assert same_bits(cj.dropout(key, x, P, broadcast_dims=axes), mask_of(key, x.shape, P, axes).apply(np.asarray(x)))


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), 5, [4, 70]])
def test_bernoulli_is_a_mask(key, shape):
    drawn = cj.bernoulli(key, 0.25, shape)
    assert same_bits(drawn, mask_of(key, shape if isinstance(shape, int) else tuple(shape), 0.75).keep())
    assert same_bits(drawn, jax.jit(lambda: cj.bernoulli(key, 0.25, shape))())


def test_bernoulli_has_the_defaults_of_jax(key):
    assert cj.bernoulli(key).shape == ()
    assert bool(cj.bernoulli(key, 1.0, 9).all())
    assert not bool(cj.bernoulli(key, 0.0, 9).any())


@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 0, 2)])
def test_small_arrays(key, shape):
    x = jnp.ones(shape)
    assert same_bits(cj.dropout(key, x, P), mask_of(key, shape).apply(np.ones(shape, np.float32)))
    keys = jax.random.split(key, 3)
    assert jax.vmap(lambda key: cj.dropout(key, x, P))(keys).shape == (3, *shape)
    assert jax.vmap(lambda key: cj.dropout(key, x, P))(keys[:0]).shape == (0, *shape)


@pytest.mark.parametrize("n_elems", [65536 * 2 - 1, 65536 * 2, 1_000_003])
def test_threads_do_not_change_bits(key, n_elems):
    x = random_array(n_elems)
    assert same_bits(cj.dropout(key, x, P), mask_of(key, (n_elems,)).apply(np.asarray(x)))
    keys = jax.random.split(key, 5)
    several = jax.vmap(lambda key: cj.bernoulli(key, P, n_elems // 5))(keys)
    assert same_bits(several, np.stack([mask_of(key, (n_elems // 5,), 1 - P).keep() for key in keys]))


def test_callers_in_several_threads_get_the_same(key):
    x = random_array(300_000)
    function = jax.jit(lambda x: cj.dropout(key, x, P))
    expected, results = function(x), [None] * 4

    def call(i):
        results[i] = [function(x) for _ in range(20)]

    threads = [threading.Thread(target=call, args=(i,)) for i in range(len(results))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(same_bits(y, expected) for of_thread in results for y in of_thread)


def test_primitives_are_evaluated_where_nothing_is_compiled(key):
    x = random_array((40, 30))

    def loss(x):
        return ((cj.relu_dropout(key, cj.dropout(key, x, P), P) + cj.bernoulli(key, P, x.shape)) ** 2).sum()

    expected = jax.grad(loss)(x)
    with jax.disable_jit():
        assert same_bits(jax.grad(loss)(x), expected)


def test_backward_passes_without_jit_are_compiled_once(key):
    x = random_array((40, 31))
    for seed in range(3):
        jax.grad(lambda x, seed=seed: (cj.dropout(jax.random.key(seed), x, P) ** 2).sum())(x)
        if seed == 0:
            compiled = primitives._compiled.cache_info().misses
    assert primitives._compiled.cache_info().misses == compiled


def test_large_results_are_written_in_place_and_leave_x(key, monkeypatch):
    monkeypatch.setattr(partitioning, "IN_PLACE_FROM_BYTES", 1 << 12)
    x = random_array(1 << 12)
    before, mask = np.asarray(x).copy(), mask_of(key, x.shape)

    def both(x):
        y = cj.dropout(key, x, P)
        return y, x * y

    compiled = jax.jit(both).lower(x).compile()
    assert "output_to_operand_aliasing" in compiled.as_text()
    y, product = compiled(x)
    assert same_bits(x, before)
    assert same_bits(y, mask.apply(before))
    assert same_bits(product, before * mask.apply(before))


def test_dropped_values_are_zero_whatever_they_were(key):
    x = jnp.where(jnp.arange(10_000) % 2 == 0, jnp.nan, -jnp.inf)
    dropped = ~mask_of(key, x.shape).keep()
    assert same_bits(cj.dropout(key, x, P)[dropped], np.zeros(dropped.sum(), np.float32))


@pytest.mark.parametrize("function", [cj.dropout, cj.relu_dropout])
def test_nothing_is_drawn_at_the_edges(function):
    x = random_array((30, 20))
    through = jax.nn.relu(x) if function is cj.relu_dropout else x
    assert same_bits(function(None, x, P, deterministic=True), through)
    assert same_bits(function(None, x, 0.0), through)
    assert same_bits(function(jax.random.key(1), x, 1.0), np.zeros(x.shape, np.float32))


def test_position_has_64_bits(key):
    start = (1 << 40) + 12345
    x = jnp.ones((7, 900))
    mask = cd.Mask(cj.stream_key(key), start, P, x.shape)
    packed = pack(key_words(key), P, start)
    assert same_bits(apply_mask(x, packed, strides=run_strides(x.shape)), mask.apply(np.asarray(x)))
    strides = (1 << 33, 1)
    apart = cd.Mask(cj.stream_key(key), start, P, x.shape, (), strides)
    assert same_bits(keep_mask(packed, shape=x.shape, strides=strides), apart.keep())


@pytest.mark.parametrize(
    ("start", "distance"), [((1 << 32) - 1, 1), ((5 << 32) + 7, (3 << 32) + (1 << 32) - 7), (0, 9)]
)
def test_advanced_carries_into_the_upper_word(key, start, distance):
    words = np.array([distance & 0xFFFFFFFF, distance >> 32], np.uint32)
    moved = advanced(pack(key_words(key), P, start), words)
    assert same_bits(moved, pack(key_words(key), P, start + distance))


# ---- a traced rate --------------------------------------------------------------------------------------------------


def test_traced_rate_draws_the_same_elements(key):
    x = random_array((40, 130))
    for rate in (0.25, 0.0, 1.0, 2.0**-30):
        y, slope = jax.jit(jax.value_and_grad(lambda rate: cj.dropout(key, x, rate).sum()))(rate)
        assert y == pytest.approx(float(cj.dropout(key, x, rate).sum()), rel=1e-4)
        assert np.isfinite(slope)
        traced = jax.jit(lambda rate: cj.dropout(key, x, rate))(rate)
        np.testing.assert_allclose(traced, cj.dropout(key, x, rate), rtol=1e-6)
        relu = jax.jit(lambda rate: cj.relu_dropout(key, x, rate))(rate)
        np.testing.assert_allclose(relu, cj.relu_dropout(key, x, rate), rtol=1e-6)


@pytest.mark.parametrize("p", [0.0, 2.0**-149, 2.0**-126, 2.0**-30, 0.25, 1 - 2.0**-24, 1.0])
@pytest.mark.parametrize("wide", [False, True])
def test_traced_probability_has_the_bits_of_a_double(key, p, wide):
    with with_float64() if wide else jax.enable_custom_prng(False):
        dtype = np.float64 if wide else np.float32
        packed = jax.jit(lambda p: pack(key_words(key), p))(dtype(p))
        expected = p if wide or p == 0.0 or p >= 2.0**-126 else 0.0  # subnormal numbers of float32 become 0
        assert same_bits(packed, pack(key_words(key), float(expected)))


def test_rates_can_be_batched(key):
    x, rates = jnp.ones(2000), jnp.array([0.125, 0.5])
    several = jax.vmap(lambda rate: cj.dropout(key, x, rate))(rates)
    for y, rate in zip(several, (0.125, 0.5), strict=True):
        assert same_bits(y, cj.dropout(key, x, rate))


@pytest.mark.parametrize("rate", [-0.5, 1.5, np.nan, np.inf])
def test_traced_rate_is_checked_when_the_program_runs(key, rate):
    compiled = jax.jit(lambda rate: cj.dropout(key, jnp.ones(9), rate)).lower(0.5).compile()
    with pytest.raises(RuntimeError, match=r"the probability of dropping, must be in \[0, 1\], got"):
        jax.block_until_ready(compiled(jnp.float32(rate)))


# ---- derivatives ----------------------------------------------------------------------------------------------------


def test_gradient_applies_the_same_mask(key):
    x, dy = random_array((40, 130)), random_array((40, 130), seed=1)
    mask = mask_of(key, x.shape)
    y, pull = jax.vjp(lambda x: cj.dropout(key, x, P), x)
    assert same_bits(y, mask.apply(np.asarray(x)))
    assert same_bits(pull(dy)[0], mask.apply(np.asarray(dy)))
    _, push = jax.linearize(lambda x: cj.dropout(key, x, P), x)
    assert same_bits(push(dy), mask.apply(np.asarray(dy)))
    y, tangent = jax.jvp(lambda x: cj.dropout(key, x, P), (x,), (dy,))
    assert same_bits(tangent, mask.apply(np.asarray(dy)))


@pytest.mark.parametrize("function", [cj.dropout, cj.relu_dropout])
def test_derivatives_of_all_orders(key, function):
    with with_float64():
        x = random_array((4, 3), np.float64)
        check_grads(lambda x: jnp.sin(function(key, jnp.sin(x), P)), (x,), order=2)
        mask = mask_of(key, (6,))
        point = jnp.arange(1.0, 7.0)
        hessian = jax.hessian(lambda x: (function(key, x, P) ** 3).sum())(point)
        scaled = mask.scaled(np.float64)
        np.testing.assert_allclose(hessian, np.diag(6 * point * scaled**3), rtol=1e-12)


def test_gradient_through_the_key_and_bernoulli_is_zero(key):
    x = jnp.ones(500)
    gradient = jax.grad(lambda x: (cj.bernoulli(key, P, 500) * x).sum())(x)
    assert same_bits(gradient, cj.bernoulli(key, P, 500).astype(np.float32))
    words = jnp.array([1, 2], jnp.uint32)
    slope = jax.grad(lambda words, x: cj.dropout(words, x, P).sum(), argnums=(0, 1), allow_int=True)(words, x)
    assert slope[0].dtype == jax.dtypes.float0
    # The gradient of a sum whose cotangent is not used is symbolically zero.
    assert not np.any(jax.grad(lambda x: 0 * jax.lax.stop_gradient(cj.dropout(key, x, P)).sum() + x.sum() * 0)(x))


# ---- batching -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [cj.dropout, cj.relu_dropout])
@pytest.mark.parametrize(("in_axis", "out_axis"), [(0, 0), (1, 0), (2, 1), (-1, -1)])
def test_arrays_share_the_mask_of_one_key(key, function, in_axis, out_axis):
    x = random_array((6, 5, 40))
    together = jax.vmap(lambda x: function(key, x, P), in_axis, out_axis)(x)
    each = [function(key, jnp.take(x, i, in_axis), P) for i in range(x.shape[in_axis])]
    assert same_bits(together, jnp.stack(each, out_axis))


@pytest.mark.parametrize("function", [cj.dropout, cj.relu_dropout])
@pytest.mark.parametrize("n_elems", [3, 5000])
def test_each_key_has_its_mask(key, function, n_elems):
    keys, x = jax.random.split(key, 4), random_array((4, n_elems))
    one_array = jax.vmap(lambda key: function(key, x[0], P))(keys)
    assert same_bits(one_array, jnp.stack([function(each, x[0], P) for each in keys]))
    both = jax.vmap(lambda key, x: function(key, x, P), (0, 1), 1)(keys, x.T)
    assert same_bits(both.T, jnp.stack([function(each, row, P) for each, row in zip(keys, x, strict=True)]))


def test_nested_batches(key):
    keys, x = jax.random.split(key, (2, 3)), random_array((2, 4, 3, 50))
    expected = [[[cj.dropout(keys[i, k], x[i, j, k], P) for k in range(3)] for j in range(4)] for i in range(2)]
    over_arrays = jax.vmap(lambda key, x: cj.dropout(key, x, P), (None, 0), 0)  # (key, (4, 50))
    over_keys = jax.vmap(over_arrays, (0, 1), 1)  # ((3,), (4, 3, 50))
    assert same_bits(jax.jit(jax.vmap(over_keys))(keys, x), np.array(expected))
    drawn = jax.vmap(jax.vmap(lambda key: cj.bernoulli(key, P, 9)))(keys)
    assert same_bits(drawn, np.array([[cj.bernoulli(each, P, 9) for each in row] for row in keys]))


def test_gradients_of_batches(key):
    keys, x = jax.random.split(key, 3), random_array((3, 70))
    gradients = jax.vmap(jax.grad(lambda x, key: (cj.dropout(key, x, P) ** 2).sum()))(x, keys)
    for gradient, each, row in zip(gradients, keys, x, strict=True):
        mask = mask_of(each, (70,))
        assert same_bits(gradient, mask.apply(2 * mask.apply(np.asarray(row))))
    jacobian = jax.jacrev(lambda x: cj.dropout(key, x, P))(x[0])
    assert same_bits(jacobian, np.diag(mask_of(key, (70,)).scaled()))


# ---- control flow ---------------------------------------------------------------------------------------------------


def test_loops_and_branches(key):
    keys, x = jax.random.split(key, 3), random_array((10, 30))
    expected = x
    for each in keys:
        expected = cj.dropout(each, expected, P)

    scanned, _ = jax.lax.scan(lambda x, key: (cj.dropout(key, x, P), None), x, keys)
    assert same_bits(scanned, expected)
    _, counted = jax.lax.while_loop(
        lambda state: state[0] < 3, lambda state: (state[0] + 1, cj.dropout(keys[state[0]], state[1], P)), (0, x)
    )
    assert same_bits(counted, expected)
    chosen = jax.jit(lambda flag: jax.lax.cond(flag, lambda: cj.dropout(key, x, P), lambda: x))
    assert same_bits(chosen(True), cj.dropout(key, x, P))
    assert same_bits(chosen(False), x)

    def loss(x):
        return (jax.lax.scan(lambda x, key: (cj.dropout(key, x, P), None), x, keys)[0] ** 2).sum()

    once = 2 * expected
    for each in reversed(keys):
        once = cj.dropout(each, once, P)
    assert same_bits(jax.grad(loss)(x), once)


def test_rematerialization_draws_the_same_mask(key):
    x = random_array((10, 30))

    def loss(x):
        return (jnp.sin(cj.dropout(key, jnp.cos(cj.relu_dropout(key, x, P)), P)) ** 2).sum()

    expected = jax.grad(loss)(x)
    assert same_bits(jax.grad(jax.checkpoint(loss))(x), expected)
    policy = jax.checkpoint_policies.nothing_saveable
    np.testing.assert_allclose(jax.jit(jax.grad(jax.checkpoint(loss, policy=policy)))(x), expected, rtol=1e-5)


# ---- other platforms ------------------------------------------------------------------------------------------------


def test_other_platforms_get_operations_of_jax(key):
    def step(x):
        return jax.grad(lambda x: cj.relu_dropout(key, cj.dropout(key, x, P) * cj.bernoulli(key, P, 90), P).sum())(x)

    traced = jax.jit(step).trace(jnp.ones(90))
    assert "cdropout_" in traced.lower(lowering_platforms=("cpu",)).as_text()
    for platform in ("cuda", "tpu"):
        assert "cdropout_" not in traced.lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("p", [P, 0.5, 2.0**-20, 1 - 2.0**-20, 1.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_operations_of_jax_drop_and_scale(key, p, dtype):
    n = 1 << 18
    packed = pack(key_words(key), p)
    y = stock.apply_mask(jnp.full(n, 2, dtype), packed, strides=(1,))
    kept = np.asarray(y != 0)
    assert same_bits(kept, stock.keep_mask(packed, shape=(n,), strides=(1,)))
    assert abs(kept.mean() - (1 - p)) <= 6 * (p * (1 - p) / n) ** 0.5
    np.testing.assert_allclose(y[kept], np.full(kept.sum(), min(2 / (1 - p) if p < 1 else 0, 65504), dtype), rtol=1e-3)
    relu = stock.relu_mask(jnp.full(n, -2, dtype), packed, scale=1.0, strides=(1,))
    assert not np.any(relu)


@pytest.mark.parametrize("p", [0.0, 2.0**-60, 2.0**-48, 2.0**-30, 0.1, 0.3, 0.5, 1 - 2.0**-53, 1.0])
def test_threshold_of_jax_is_p_rounded_down_to_48_bits(key, p):
    low, high = stock._threshold(pack(key_words(key), p))
    assert int(high) << 32 | int(low) == int(p * 2.0**48)


def test_operations_of_jax_give_parts_of_a_mask(key):
    shape, strides = (40, 50), (50, 1)
    words, start = key_words(key), (1 << 32) - 1000
    whole = stock.keep_mask(pack(words, P, start), shape=shape, strides=strides)
    part = stock.keep_mask(pack(words, P, start + 20 * 50 + 10), shape=(20, 40), strides=strides)
    assert same_bits(part, whole[20:, 10:])
    shared = stock.keep_mask(pack(words, P), shape=shape, strides=(0, 1))
    assert same_bits(shared, jnp.broadcast_to(shared[0], shape))
    several = stock.keep_mask(jnp.stack([pack(words, P), pack(words, P, 50)]), shape=(50,), strides=(1,))
    assert same_bits(several, stock.keep_mask(pack(words, P), shape=(2, 50), strides=strides))


@pytest.mark.parametrize("b", [0, 1, 3, 0xFFFFFFFF, 1 << 32, 0x123456789ABCDEF, (1 << 64) - 1])
def test_products_of_64_bits(b):
    a = np.array([0, 1, 2, 0xFFFF, 0x10000, 0x89ABCDEF, 0xFFFFFFFF], np.uint32)
    low, high = stock._product(jnp.asarray(a), b)
    assert [int(h) << 32 | int(x) for x, h in zip(low, high, strict=True)] == [int(x) * b % (1 << 64) for x in a]


# ---- bad arguments --------------------------------------------------------------------------------------------------

X = np.ones((3, 4), np.float32)
BAD_KEY = {
    "no key": (None, TypeError, "key must be a key of jax.random.key or jax.random.PRNGKey, got None"),
    "int": (3, TypeError, "got 3"),
    "keys": (lambda: jax.random.split(jax.random.key(1), 2), ValueError, r"must be a single key, .* shape \(2,\)"),
    "raw keys": (np.zeros((2, 2), np.uint32), ValueError, r"must have 2 or 4 words of 32 bits, got shape \(2, 2\)"),
    "three words": (np.zeros(3, np.uint32), ValueError, r"got shape \(3,\)"),
    "int32": (np.zeros(2, np.int32), TypeError, "got dtype int32"),
    "float": (np.zeros(2, np.float32), TypeError, "got dtype float32"),
}
BAD_RATE = {
    "above 1": (1.5, ValueError, r"must be in \[0, 1\], got 1.5"),
    "below 0": (-1e-9, ValueError, r"must be in \[0, 1\], got -1e-09"),
    "NaN": (float("nan"), ValueError, r"must be in \[0, 1\], got nan"),
    "NumPy's NaN": (np.float32("nan"), ValueError, r"must be in \[0, 1\], got nan"),
    "an array": (np.ones(2), ValueError, r"must be a single number, got an array of shape \(2,\)"),
    "a str": ("0.5", TypeError, "must be a real number, got '0.5'"),
    "a bool": (True, TypeError, "must be a real number, got True"),
    "complex": (0.5j, TypeError, "must be a real number, got 0.5j"),
    "None": (None, TypeError, "must be a real number, got None"),
}
BAD_X = {
    "int": (np.arange(3), TypeError, "must have dtype float16, bfloat16, float32 or float64, got int"),
    "bool": (np.ones(3, bool), TypeError, "got bool"),
    "complex": (np.ones(3, np.complex64), TypeError, "got complex64"),
    "float8": (lambda: jnp.ones(3, jnp.float8_e4m3fn), TypeError, "got float8_e4m3fn"),
    "a str": ("x", TypeError, "x must be an array, got str"),
    "None": (None, TypeError, "x must be an array, got NoneType"),
}
BAD_AXES = {
    "too large": ((2,), ValueError, r"broadcast_dims must be in \[-2, 2\), the axes of x, got \(2,\)"),
    "too small": (-3, ValueError, r"got -3"),
    "twice": ((0, -2), ValueError, r"must not name an axis twice, got \(0, -2\)"),
    "a float": (1.0, TypeError, "must be an int or a sequence of int, got 1.0"),
    "a bool": ((True,), TypeError, "must be an int or a sequence of int"),
    "None": (None, TypeError, "must be an int or a sequence of int, got None"),
}
BAD_SHAPE = {
    "negative": ((3, -1), ValueError, r"shape must have no negative length, got \(3, -1\)"),
    "a float": (3.0, TypeError, "shape must be an int or a sequence of int, got 3.0"),
}


def cases(table, call):
    return [
        pytest.param(lambda key, value=value: call(key, value() if callable(value) else value), error, message, id=name)
        for name, (value, error, message) in table.items()
    ]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        *cases(BAD_KEY, lambda key, value: cj.dropout(value, X, P)),
        *cases(BAD_KEY, lambda key, value: cj.bernoulli(value, P, 3)),
        *cases(BAD_KEY, lambda key, value: cj.stream_key(value)),
        *cases(BAD_RATE, lambda key, value: cj.dropout(key, X, value)),
        *cases(BAD_RATE, lambda key, value: cj.relu_dropout(key, X, value, deterministic=True)),
        *cases(BAD_RATE, lambda key, value: cj.bernoulli(key, value, 3)),
        *cases(BAD_X, lambda key, value: cj.dropout(key, value, P)),
        *cases(BAD_X, lambda key, value: cj.relu_dropout(key, value, P)),
        *cases(BAD_AXES, lambda key, value: cj.dropout(key, X, P, broadcast_dims=value)),
        *cases(BAD_SHAPE, lambda key, value: cj.bernoulli(key, P, value)),
    ],
)
def test_bad_argument_is_refused_when_traced(key, call, error, message):
    with pytest.raises(error, match=message):
        call(key)
    with pytest.raises(error, match=message):
        jax.jit(lambda: call(key)).trace()


@pytest.mark.parametrize("flag", [1, None, "no"])
def test_deterministic_must_be_a_flag(key, flag):
    with pytest.raises(TypeError, match="deterministic must be True or False, got"):
        cj.dropout(key, X, P, deterministic=flag)


def test_rate_that_is_an_array_with_a_value_is_checked(key):
    with pytest.raises(ValueError, match=r"rate must be in \[0, 1\], got 1.5"):
        cj.dropout(key, X, jnp.asarray(1.5))
    assert same_bits(cj.dropout(key, X, jnp.asarray(0.5)), cj.dropout(key, X, np.array(0.5)))


def test_traced_rate_must_be_a_real_scalar(key):
    with pytest.raises(ValueError, match=r"rate must be a single number, got an array of shape \(2,\)"):
        jax.jit(lambda rate: cj.dropout(key, X, rate))(jnp.ones(2))
    with pytest.raises(TypeError, match="rate must be a real number, got dtype complex64"):
        jax.jit(lambda rate: cj.dropout(key, X, rate))(jnp.complex64(1))


def test_primitive_refuses_a_mask_that_does_not_fit(key):
    with pytest.raises(ValueError, match=r"mask of shape \(8,\) with strides \(1,\) does not fit x of shape \(3, 4\)"):
        apply_mask(jnp.asarray(X), pack(key_words(key), P), strides=(1,))


def test_an_older_jax_is_refused(run_python):
    code = "import sys, types; sys.modules['jax'] = types.ModuleType('jax'); sys.modules['jax'].__version__ = '0.4.38'"
    run = run_python("-c", f"{code}; import cdropout.jax", check=False)
    assert run.returncode == 1
    assert b"ImportError: cdropout.jax needs jax 0.5 or later, got 0.4.38" in run.stderr
