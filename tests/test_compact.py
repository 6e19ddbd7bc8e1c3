"""cdropout.compact: kept rows and columns against NumPy's take, layers against full products, optimizers."""

import copy
import ctypes
import mmap
import os
import pickle

import numpy as np
import pytest
import reference
from array_objects import bits, normals
from conftest import switches_settings
from limits import by_every_thread_count

import cdropout as cd
from cdropout import _kernels, compact, networks
from cdropout.compact import SGD, Adam, CompactLinear, CompactMLP, KeepWords, gather_kept, linear, scatter_kept

DTYPES = (np.float32, np.float64)
# Around a vector, a word, the shortest row without checks, and a piece of listed positions.
WIDTHS = (1, 7, 16, 63, 64, 65, 130, 1000, 4096, 4160, 9001)
RESTS = ("zero", "keep", "add")


def words_of(n, p, seed):
    return KeepWords(cd.draw_mask(n, p, rng=seed))


def scattered(dense, rows, columns, whole, rest):
    """Return what NumPy's indexing makes of the same call."""
    expected = np.zeros_like(whole) if rest == "zero" else whole.copy()
    index = np.ix_(
        np.arange(whole.shape[0]) if rows is None else rows.indices(),
        np.arange(whole.shape[1]) if columns is None else columns.indices(),
    )
    expected[index] = expected[index] + dense if rest == "add" else dense
    return expected


# ---- keep words -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "shared"), [(100, ()), ((1, 100), ()), ((5, 100), 0), ((100, 3), 1), ((2, 100, 4), (0, 2))]
)
def test_keep_words_are_the_decisions_of_the_reference(isa, shape, shared):
    mask = cd.draw_mask(shape, 0.3, rng=5, shared_axes=shared)
    expected = reference.keep(mask.key, mask.start, 100, 0.3)
    words = KeepWords(mask)
    assert np.array_equal(words.indices(), np.flatnonzero(expected))
    assert (words.n_elems, words.n_kept, len(words.words)) == (100, expected.sum(), 2)
    assert int(words.words[1]) >> 36 == 0
    assert np.array_equal(KeepWords.of_bools(expected.astype(bool)).words, words.words)


def test_keep_words_of_a_part_and_of_certain_decisions():
    mask = cd.draw_mask((4, 500), 0.5, rng=1)
    assert np.array_equal(KeepWords(mask[2:3, 10:300:3]).indices(), np.flatnonzero(mask.keep()[2, 10:300:3]))
    assert words_of(70, 0.0, 1).n_kept == 70
    assert words_of(70, 1.0, 1).n_kept == 0


@pytest.mark.parametrize("shape", [(3, 4), (), (0, 4)])
def test_a_mask_with_decisions_along_several_axes_is_refused(shape):
    mask = cd.draw_mask(shape, 0.5, rng=1)
    with pytest.raises(ValueError, match="mask must make decisions along one axis"):
        KeepWords(mask)


# ---- gathering and scattering ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_columns", WIDTHS)
def test_gathering_and_scattering_have_the_bits_of_take_and_of_indexing(isa, dtype, n_columns):
    for seed, p in enumerate((0.0, 0.2, 0.5, 0.95, 1.0)):
        x = normals((5, n_columns), dtype, seed=seed)
        rows, columns = words_of(5, p, seed), words_of(n_columns, p, seed + 10)
        for row_words, column_words in ((None, columns), (rows, None), (rows, columns), (None, None)):
            taken = x if row_words is None else x.take(row_words.indices(), axis=0)
            taken = taken if column_words is None else taken.take(column_words.indices(), axis=1)
            for scale in (1.0, 1 / 0.7):
                dense = taken if scale == 1.0 else taken * dtype(scale)
                assert bits(gather_kept(x, row_words, column_words, scale=scale)) == bits(dense)
                for rest in RESTS:
                    whole = normals(x.shape, dtype, seed=seed + 20)
                    out = whole.copy()
                    assert scatter_kept(taken, row_words, column_words, out=out, rest=rest, scale=scale) is out
                    assert bits(out) == bits(scattered(dense, row_words, column_words, whole, rest))


def test_masks_serve_as_well_as_their_words():
    x = normals((30, 200))
    mask = cd.draw_mask((30, 200), 0.4, rng=3, shared_axes=0)
    assert np.array_equal(gather_kept(x, None, mask), x[:, mask.keep()[0]])


@pytest.mark.parametrize(("dtype", "number"), [(np.float32, np.uint32), (np.float64, np.uint64)])
def test_without_a_scale_every_bit_is_kept_also_of_signalling_nans(isa, dtype, number):
    x = np.random.default_rng(1).integers(0, np.iinfo(number).max, (9, 300), number)
    x[:, ::7] = 0x7F800001 if dtype == np.float32 else 0x7FF0000000000001
    words = words_of(300, 0.5, 1)
    taken = gather_kept(x.view(dtype), None, words)
    assert bits(taken) == bits(x.take(words.indices(), axis=1))
    out = np.zeros((9, 300), dtype)
    scatter_kept(taken, None, words, out=out, rest="keep")
    assert bits(out) == bits(np.where(np.isin(np.arange(300), words.indices()), x, 0))


@switches_settings
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_thread_count_gives_the_same_bits(isa, dtype):
    x, rows, columns = normals((67, 300), dtype), words_of(67, 0.5, 1), words_of(300, 0.5, 2)
    whole = normals((67, 300), dtype, seed=1)

    def all_of_them():
        dense = gather_kept(x, rows, columns, scale=2.5)
        outs = [scatter_kept(dense, rows, columns, out=whole.copy(), rest=rest, scale=0.3) for rest in RESTS]
        return b"".join(bits(a) for a in (dense, *outs))

    assert len(set(by_every_thread_count(all_of_them))) == 1


@switches_settings
def test_large_matrices_are_interruptible_jobs_with_the_same_result():
    before = _kernels.set_limits(max_elems_per_slice=1000, microseconds_between_checks=0)
    try:
        x, words = normals((700, 600)), words_of(600, 0.5, 1)
        assert np.array_equal(gather_kept(x, None, words), x[:, words.indices()])
    finally:
        _kernels.set_limits(**before)


def test_kernels_reach_nothing_beyond_their_matrices(isa):
    # Matrices end where a page begins that can be neither read nor written; the dense one also ends there.
    if os.name != "posix":
        pytest.skip("needs mprotect")
    page = mmap.PAGESIZE
    libc = ctypes.CDLL(None)

    def guarded(shape, dtype, values):
        n_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        room = -(-n_bytes // page) * page
        memory = mmap.mmap(-1, room + page)
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        assert libc.mprotect(ctypes.c_void_p(address + room), ctypes.c_size_t(page), 0) == 0
        array = np.frombuffer(memory, dtype, int(np.prod(shape)), room - n_bytes).reshape(shape)
        array[...] = values
        return array

    for dtype in DTYPES:
        for n_columns in (1, 5, 15, 17, 64, 100, 129):
            for p in (0.1, 0.6):
                rows, columns = words_of(3, p, 1), words_of(n_columns, p, 2)
                x = guarded((3, n_columns), dtype, 1.5)
                dense = guarded((rows.n_kept, columns.n_kept), dtype, 0.0)
                gather_kept(x, rows, columns, out=dense, scale=2.0)
                assert np.all(dense == 3.0)
                for rest in RESTS:
                    scatter_kept(dense, rows, columns, out=x, rest=rest, scale=0.5)
                assert x[np.ix_(rows.indices(), columns.indices())] == pytest.approx(3.0)


WORDS = words_of(8, 0.5, 1)
X = normals((4, 8), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: gather_kept(X.astype(int)), TypeError, "x must be an array of float32 or float64, got dtype int64"),
        (lambda: gather_kept(X[0]), ValueError, r"x must have the axes \(n_rows, n_columns\), got shape \(8,\)"),
        (lambda: gather_kept(X, WORDS), ValueError, "rows must decide on each of the 4 rows of x, got 8 decisions"),
        (lambda: gather_kept(X, None, X), TypeError, "columns must be a Mask, KeepWords or None, got ndarray"),
        (lambda: gather_kept(X, scale=np.nan), ValueError, "scale must be finite, got nan"),
        (lambda: gather_kept(X, out=X), ValueError, "out must be apart from x"),
        (lambda: gather_kept(X, out=X.T.copy()), ValueError, "out must have the shape of what is kept"),
        (lambda: gather_kept(X, out=X.astype(float)), TypeError, "out must have the dtype of x"),
        (lambda: gather_kept(X, out=X.T.copy().T), ValueError, "out must be C-contiguous and writable"),
        (lambda: scatter_kept(X, out=X.copy(), rest="all"), ValueError, "rest must be 'zero', 'keep' or 'add'"),
        (lambda: scatter_kept(X, None, WORDS, out=X.copy()), ValueError, "x must have the shape of what is kept"),
        (lambda: KeepWords(5), TypeError, "mask must be a cdropout.Mask, got int"),
        (lambda: KeepWords.of_bools([1, 0]), TypeError, "keep must be a one-dimensional array of bool"),
        (lambda: CompactLinear(4, 3, after=CompactLinear(5, 5)), ValueError, "after must have n_out 4"),
        (lambda: CompactLinear(4, 3, after=4), TypeError, "after must be a CompactLinear or None, got int"),
        (lambda: CompactLinear(4, 3, n_groups=0), ValueError, "n_groups must be"),
        (lambda: CompactLinear(4, 3, 0.5).forward(normals((2, 4), np.float32)), RuntimeError, "have a layer behind"),
        (lambda: CompactLinear(4, 3).backward(X), RuntimeError, "backward must follow a forward pass"),
        (lambda: CompactMLP([3]), ValueError, "widths must be two or more numbers"),
        (lambda: CompactMLP([3, 4, 5], [0.1, 0.2]), ValueError, "p must be a number or one for each of 1 hidden"),
        (lambda: CompactMLP(3), TypeError, "widths must be a sequence of integers, got 3"),
        (lambda: CompactMLP([3, 4, 5], np.array([1.5])), ValueError, r"p must be in \[0, 1\], got 1.5"),
        (lambda: CompactMLP([3, 4, 5], 1.5), ValueError, r"p must be in \[0, 1\], got 1.5"),
        (lambda: SGD(CompactMLP([3, 4]), 0.1, 1.0), ValueError, r"momentum must be in \[0, 1\), got 1.0"),
        (lambda: Adam(CompactMLP([3, 4]), eps=0), ValueError, "eps must be in"),
        (lambda: SGD(3, 0.1), TypeError, "layers must have params and grads, got int"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


# ---- layers and networks --------------------------------------------------------------------------------------------


@pytest.fixture(params=["compact", "full", "first compact", "second compact"])
def products(request, monkeypatch):
    """Every combination of compact and full products, whichever is faster at the sizes of a test."""
    chosen = {"compact": (30, 20), "full": (), "first compact": (30,), "second compact": (20,)}[request.param]
    monkeypatch.setattr(linear, "compact_pays", lambda n, before, features, after, p, has_groups: features in chosen)
    return request.param


def network(n_groups=1, p=0.4, **options):
    made = CompactMLP([12, 30, 20, 5], p, n_groups=n_groups, rng=3, dtype=np.float64, input_grad=True, **options)
    for layer in made.layers:
        layer.params[1][...] = normals(layer.params[1].shape, seed=9)
    return made


def keeps(net, n_samples):
    """Return the decisions of the last forward pass, as full arrays."""
    found = []
    for layer in net.layers[:-1]:
        keep = layer.mask.keep()
        bounds = [n_samples * g // layer.n_groups for g in range(layer.n_groups + 1)]
        found.append(keep if layer.n_groups == 1 else np.repeat(keep, np.diff(bounds), axis=0))
    return found


def full_step(params, kept, p, x, dy):
    """Return output, input gradient and gradients of the same network, computed with full products."""
    inputs, active = [x], []
    for i in range(0, len(params) - 2, 2):
        active.append(np.maximum(inputs[-1] @ params[i] + params[i + 1], 0))
        inputs.append(active[-1] * kept[i // 2] / (1 - p))
    y = inputs[-1] @ params[-2] + params[-1]
    grads = []
    for i in range(len(params) - 2, -1, -2):
        grads[:0] = [inputs[i // 2].T @ dy, dy.sum(axis=0)]
        dy = dy @ params[i].T
        if i > 0:
            dy = dy * kept[i // 2 - 1] / (1 - p) * (active[i // 2 - 1] > 0)
    return y, dy, grads


@pytest.mark.parametrize(("n_groups", "n_samples"), [(1, 17), (3, 17), (3, 18)])
def test_a_network_equals_one_of_full_products_with_the_same_masks(products, n_groups, n_samples):
    net, x, dy = network(n_groups), normals((n_samples, 12)), normals((n_samples, 5), seed=1)
    for _ in range(2):  # memory that stays from step to step changes nothing
        y = net.forward(x)
        expected, dx, grads = full_step(net.params, keeps(net, n_samples), 0.4, x, dy)
        assert y == pytest.approx(expected, rel=1e-10)
        assert net.backward(dy) == pytest.approx(dx, rel=1e-9, abs=1e-12)
        for own, kept, param, grad in zip(net.grads, net.kept_grads, net.params, grads, strict=True):
            assert own == pytest.approx(grad, rel=1e-9, abs=1e-12)
            whole = np.full(param.reshape(-1, param.shape[-1]).shape, np.nan)
            scatter_kept(kept.values, kept.rows, kept.columns, out=whole, scale=kept.scale)
            assert whole == pytest.approx(np.atleast_2d(grad), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("n_groups", [1, 3])
def test_gradients_are_those_of_finite_differences(products, n_groups):
    net, x, dy = network(n_groups), normals((9, 12)), normals((9, 5), seed=1)
    position = net.layers[0].rng.state

    def loss():
        net.layers[0].rng.state = position
        return float(np.sum(net.forward(x) * dy))

    loss()
    dx = net.backward(dy)
    rng, step = np.random.default_rng(4), 1e-6
    for array, grad in ((x, dx), *zip(net.params, copy.deepcopy(net.grads), strict=True)):
        for _ in range(6):
            at = tuple(rng.integers(0, n) for n in array.shape)
            before = array[at]
            array[at] = before + step
            above = loss()
            array[at] = before - step
            below = loss()
            array[at] = before
            assert (above - below) / (2 * step) == pytest.approx(grad[at], rel=1e-6, abs=1e-6)


def test_masks_are_those_of_feature_dropout_and_do_not_depend_on_the_products(monkeypatch):
    found = []
    for is_compact in (True, False):
        monkeypatch.setattr(linear, "compact_pays", lambda *_, has_groups, is_compact=is_compact: is_compact)
        net = network()
        stream = copy.deepcopy(net.layers[0].rng)
        net.forward(normals((17, 12)))
        found.append([bits(keep) for keep in keeps(net, 17)])
    two = cd.FeatureDropout(0.4, rng=stream)
    expected = []
    for width in (30, 20):
        two.forward(np.ones((17, width)))
        expected.append(bits(two.mask.keep()))
    assert found[0] == found[1] == expected


@switches_settings
def test_layers_of_anybodys_list_have_the_same_bits_for_every_thread_count(monkeypatch, isa):
    monkeypatch.setattr(linear, "compact_pays", lambda *_, **__: True)

    class Tanh:
        params = grads = ()

        def forward(self, x):
            self.y = np.tanh(x)
            return self.y

        def backward(self, dy):
            return dy * (1 - self.y**2)

    def step():
        first = CompactLinear(12, 64, 0.5, rng=7, dtype=np.float64)
        layers = [first, Tanh(), CompactLinear(64, 5, after=first, rng=7, dtype=np.float64)]
        y = normals((40, 12))
        for layer in layers:
            y = layer.forward(y)
        dy = normals(y.shape, seed=1)
        for layer in reversed(layers):
            dy = layer.backward(dy)
        grads = [grad for layer in layers for grad in layer.grads]
        kept = np.flatnonzero(first.mask.keep()[0])
        assert layers[1].y.shape == (40, len(kept))
        assert not np.any(np.delete(grads[0], kept, axis=1))
        assert np.any(grads[0][:, kept])
        return b"".join(bits(a) for a in (y, dy, *grads))

    assert len(set(by_every_thread_count(step))) == 1


def test_evaluation_drops_nothing_and_draws_nothing(products):
    net, x = network().eval(), normals((9, 12))
    position = net.layers[0].rng.position
    y = net.forward(x)
    ones = [np.ones((9, 30)), np.ones((9, 20))]
    expected, dx, _ = full_step(net.params, ones, 0.0, x, np.ones_like(y))
    assert y == pytest.approx(expected, rel=1e-10)
    assert net.backward(np.ones_like(y)) == pytest.approx(dx, rel=1e-10)
    assert net.layers[0].rng.position == position
    assert [layer.mask for layer in net.layers] == [None] * 3


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_certain_decisions(products, p):
    net, x = network(p=p), normals((9, 12))
    kept = [np.full((9, 30), 1.0 - p), np.full((9, 20), 1.0 - p)]
    expected, dx, _ = full_step(net.params, kept, 0.0, x, np.ones((9, 5)))
    assert net.forward(x) == pytest.approx(expected, rel=1e-10)
    assert net.backward(np.ones((9, 5))) == pytest.approx(dx, rel=1e-10)


def test_input_that_does_not_fit_is_refused_before_anything_is_drawn(products):
    net = network(3)
    position = net.layers[0].rng.position
    with pytest.raises(ValueError, match=r"x must have the axes \(n_samples, 12\), got shape \(4, 11\)"):
        net.forward(normals((4, 11)))
    with pytest.raises(TypeError, match="x must have the dtype of the weights, got float32 for float64"):
        net.forward(normals((4, 12), np.float32))
    with pytest.raises(ValueError, match="x must have a row for each of 3 groups"):
        net.forward(normals((2, 12)))
    assert net.layers[0].rng.position == position
    net.forward(normals((4, 12)))
    with pytest.raises(ValueError, match="dy must have the output's shape"):
        net.backward(np.ones((4, 6)))


def test_pickles_go_on_as_the_original_does(products):
    net, x = network(), normals((9, 12))
    net.forward(x)
    other = pickle.loads(pickle.dumps(net))
    assert np.array_equal(net.forward(x), other.forward(x))
    assert other.layers[1]._after is other.layers[0]


def test_the_rule_prefers_full_products_where_little_is_saved():
    assert compact.compact_pays(512, 784, 2048, 1024, 0.5)
    assert not compact.compact_pays(512, 784, 2048, 1024, 0.05)
    assert not compact.compact_pays(4, 784, 2048, 1024, 0.5)
    assert not compact.compact_pays(64, 30, 20, 10, 0.5)
    assert compact.compact_pays(32, 784, 2048, 1024, 0.2)
    assert not compact.compact_pays(32, 784, 2048, 1024, 0.2, has_groups=True)


# ---- optimizers -----------------------------------------------------------------------------------------------------

OPTIMIZERS = {
    "sgd": lambda layers, lazy: SGD(layers, 0.05, lazy=lazy),
    "momentum": lambda layers, lazy: SGD(layers, 0.05, 0.9, lazy=lazy),
    "adam": lambda layers, lazy: Adam(layers, 0.05, lazy=lazy),
}


def expected_step(name, param, grad, state, n_steps, where):
    """Return a parameter after one step at the elements `where`, and change state."""
    if name == "adam":
        state[0][where] = (0.9 * state[0] + 0.1 * grad)[where]
        state[1][where] = (0.999 * state[1] + 0.001 * grad**2)[where]
        step = state[0] / (1 - 0.9**n_steps) / (np.sqrt(state[1] / (1 - 0.999**n_steps)) + 1e-8)
    else:
        momentum = 0.9 if name == "momentum" else 0.0
        state[0][where] = (momentum * state[0] + grad)[where]
        step = state[0]
    return np.where(where, param - 0.05 * step, param)


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_are_those_of_the_formulas_on_all_weights_or_on_kept_ones(products, name, lazy):
    net = network(full_grads=False)
    optimizer = OPTIMIZERS[name](net, lazy)
    x, dy = normals((17, 12)), normals((17, 5), seed=1)
    states = [[np.zeros_like(param), np.zeros_like(param)] for param in net.params]
    for n_steps in (1, 2, 3):
        before = copy.deepcopy(net.params)
        net.forward(x)
        _, _, grads = full_step(before, keeps(net, 17), 0.4, x, dy)
        net.backward(dy)
        optimizer.step()
        for param, old, grad, state, kept in zip(net.params, before, grads, states, net.kept_grads, strict=True):
            where = np.ones(np.atleast_2d(param).shape, bool)
            if lazy and not (kept.rows is None and kept.columns is None):
                where = scatter_kept(np.ones_like(kept.values), kept.rows, kept.columns, out=np.zeros(where.shape)) > 0
                assert not where.all()
            expected = expected_step(name, old, grad, state, n_steps, where.reshape(param.shape))
            assert param == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_optimizers_take_any_layers_with_grads():
    layer = cd.FeatureDropoutLinear(6, 5, 0.4, rng=1, dtype=np.float64)
    before = copy.deepcopy(layer.params)
    layer.forward(normals((7, 6)))
    layer.backward(np.ones((7, 5)))
    SGD([layer], 0.1).step()
    for param, old, grad in zip(layer.params, before, layer.grads, strict=True):
        assert param == pytest.approx(old - 0.1 * grad, rel=1e-12)


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_converges_to_the_ridge_regression_that_feature_dropout_is(monkeypatch, name, lazy):
    # A fixed layer without change, whose outputs are dropped, and a linear one behind it. The expected squared error is
    # least at (X'X + p / (1-p) diag(X'X))^-1 X'y (Srivastava et al., 2014, section 9.1).
    monkeypatch.setattr(linear, "compact_pays", lambda *_, **__: True)
    n, n_in, p = 64, 6, 0.4
    x = normals((n, n_in)) @ (np.eye(n_in) + 0.3)
    y = x @ normals((n_in, 2), seed=1) + 0.5 * normals((n, 2), seed=2)
    first = CompactLinear(n_in, n_in, p, rng=5, dtype=np.float64)
    second = CompactLinear(n_in, 2, after=first, rng=5, dtype=np.float64, full_grads=False)
    first.params[0][...] = np.eye(n_in)
    second.params[0][...] = 0
    optimizer = OPTIMIZERS[name](second, lazy)
    n_steps, mean = 6000, np.zeros((n_in, 2))
    for step in range(n_steps):
        # Adam's steps depend on the sign of noise, so its fixed point is that of the mean gradient only for small ones.
        optimizer.lr = (0.02 if name == "adam" else 0.002 if name == "momentum" else 0.02) / (1 + step / 500)
        output = second.forward(first.forward(x))
        second.backward((output - y) / n)
        second.params[1][...] = 0
        optimizer.step()
        second.params[1][...] = 0
        if step >= n_steps // 2:
            mean += second.params[0] / (n_steps - n_steps // 2)
    gram = x.T @ x
    expected = np.linalg.solve(gram + p / (1 - p) * np.diag(np.diag(gram)), x.T @ y)
    plain = np.linalg.solve(gram, x.T @ y)
    error, size = np.linalg.norm(mean - expected), np.linalg.norm(plain - expected)
    assert error < 0.15 * size


# ---- ReLU in place --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_relu_in_place_has_the_values_of_relu_and_feature_dropout(isa, dtype):
    x = normals((6, 300), dtype)
    x[1, 3] = np.nan
    mask = cd.draw_mask((6, 300), 0.4, rng=1, shared_axes=0)
    assert np.array_equal(_kernels.relu_in_place(x.copy(), None), np.maximum(x, 0), equal_nan=True)
    assert np.array_equal(_kernels.relu_in_place(x.copy(), mask), mask.apply(np.maximum(x, 0)), equal_nan=True)
    with pytest.raises(ValueError, match="x must be a C-contiguous"):
        _kernels.relu_in_place(x.T, None)
    with pytest.raises(ValueError, match="x must have the mask's shape"):
        _kernels.relu_in_place(x[:5].copy(), mask)


# ---- full products as those of a plain network ----------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.0, 0.4, 1.0])
def test_a_step_without_compact_products_has_the_bits_of_the_layers_one_by_one(monkeypatch, p):
    monkeypatch.setattr(linear, "compact_pays", lambda *_, **__: False)
    nets = [network(p=p), network(p=p)]
    monkeypatch.setattr(nets[1], "_has_full_products", lambda x: False)
    x, dy = normals((17, 12)), normals((17, 5), seed=1)
    results = [(net.forward(x), net.backward(dy)) for net in nets for _ in range(2)]
    for one, other in zip(results[:2], results[2:], strict=True):
        assert [bits(a) for a in one] == [bits(a) for a in other]
    assert [net._is_full for net in nets] == [True, False]
    for one, other in zip(nets[0].grads, nets[1].grads, strict=True):
        assert bits(one) == bits(other)
    assert nets[0].layers[0].rng.state == nets[1].layers[0].rng.state
    again = pickle.loads(pickle.dumps(nets[0]))
    with pytest.raises(RuntimeError, match="backward must follow a forward pass"):
        again.backward(dy)


# ---- Monte Carlo dropout --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_samples", [1, 30])
def test_monte_carlo_samples_of_compact_layers_are_those_of_feature_dropout(products, n_samples):
    net, x = network(), normals((9, 12))
    layers = [net.layers[0], lambda y: np.maximum(y, 0), net.layers[1], lambda y: np.maximum(y, 0), net.layers[2]]
    before = [layer.mask for layer in net.layers]
    mean, std = cd.mc_predict(layers, x, n_samples, rng=4)
    stream, samples = cd.Stream(4), []
    for _ in range(n_samples):
        kept = [cd.draw_mask((9, width), 0.4, rng=stream, shared_axes=0).keep() for width in (30, 20)]
        samples.append(full_step(net.params, kept, 0.4, x, np.ones((9, 5)))[0])
    assert mean == pytest.approx(np.mean(samples, axis=0), rel=1e-9, abs=1e-12)
    assert std == pytest.approx(np.std(samples, axis=0), rel=1e-8, abs=1e-9)
    assert [layer.mask for layer in net.layers] == before
    assert [layer._dropped for layer in net.layers] == [None] * 3
    with pytest.raises(ValueError, match="samples_per_pass must be 1 for layers that share decisions between rows"):
        cd.mc_predict(layers, x, 30, rng=4, samples_per_pass=10)


# ---- the same bits everywhere ---------------------------------------------------------------------------------------


@switches_settings
@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("n_groups", [1, 3])
def test_training_has_the_same_bits_for_every_thread_count_and_instruction_set(monkeypatch, n_groups, name, lazy):
    monkeypatch.setattr(linear, "compact_pays", lambda *_, **__: True)
    x, dy = normals((24, 40)), normals((24, 5), seed=1)

    def train():
        net = CompactMLP(
            [40, 130, 70, 5], 0.4, n_groups=n_groups, rng=3, dtype=np.float64, input_grad=True, full_grads=not lazy
        )
        optimizer = OPTIMIZERS[name](net, lazy)
        found = []
        for _ in range(3):
            found += [net.forward(x), net.backward(dy)]
            optimizer.step()
        assert all(layer._dropped.kept is not None for layer in net.layers[:-1])
        return b"".join(bits(a) for a in (*found, *net.params))

    before, results = _kernels.active_isa(), []
    try:
        for isa in _kernels.supported_isas():
            _kernels.use_isa(isa)
            results += by_every_thread_count(train)
    finally:
        _kernels.use_isa(before)
    assert len(results) > len(_kernels.supported_isas())
    assert len(set(results)) == 1


def test_a_step_of_another_optimizer_without_full_gradients_does_not_go_unnoticed():
    x, dy = np.ones((16, 600), np.float32), np.ones((16, 3), np.float32)
    for full_grads in (True, False):
        network = CompactMLP([600, 800, 800, 3], 0.5, rng=1, full_grads=full_grads)
        optimizer = networks.Adam(network.params, network.grads)
        network.forward(x)
        assert network.layers[1]._dropped.kept is not None  # the products are compact
        network.backward(dy)
        optimizer.step()
        assert np.isfinite(network.eval().forward(x)).all() == full_grads


@pytest.mark.parametrize("optimizer", [SGD, Adam])
def test_optimizers_without_a_layer_are_refused(optimizer):
    with pytest.raises(ValueError, match="layers must be one or more layers, got none"):
        optimizer([], 0.1)
