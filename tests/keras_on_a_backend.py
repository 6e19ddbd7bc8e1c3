"""Tests of cdropout.keras that hold on every backend; test_keras.py runs them, with KERAS_BACKEND set."""

import warnings

import numpy as np
import pytest

import cdropout as cd

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import keras

import cdropout.keras as ckeras
from cdropout.keras import switch

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

BACKEND = keras.backend.backend()
layers = keras.layers
X = np.random.default_rng(0).uniform(0.5, 1.5, (64, 30, 8)).astype(np.float32)
trains = pytest.mark.skipif(BACKEND == "numpy", reason="Keras does not train on NumPy")


def array(tensor):
    return np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(tensor, "float32")))


def tensor(a, dtype="float32"):
    return keras.ops.convert_to_tensor(a, dtype=dtype)


@pytest.fixture
def enabled():
    ckeras.enable()
    yield
    ckeras.disable()


@pytest.fixture
def policy(request):
    before = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_dtype_policy(request.param)
    yield request.param
    keras.mixed_precision.set_dtype_policy(before)


@pytest.fixture(scope="module")
def model():
    """A model with a layer of every kind that drops or adds noise."""
    inputs = keras.Input((6, 8))
    x = layers.Dropout(0.3)(inputs)
    x = layers.Dropout(0.3, seed=1)(x)
    x = layers.Dropout(0.3, noise_shape=(None, 1, 8))(x)
    x = layers.SpatialDropout1D(0.2)(x)
    x = layers.Reshape((6, 2, 4))(x)
    x = layers.SpatialDropout2D(0.2)(x)
    x = layers.Reshape((6, 2, 2, 2))(x)
    x = layers.SpatialDropout3D(0.2)(x)
    x = layers.Reshape((6, 8))(x)
    x = layers.GaussianDropout(0.2)(x)
    x = layers.GaussianNoise(0.2)(x)
    x = layers.AlphaDropout(0.1)(x)
    x = layers.AlphaDropout(0.1, noise_shape=(None, 1, None))(x)
    x = layers.MultiHeadAttention(2, 4, dropout=0.1)(x, x)
    x = layers.GroupQueryAttention(4, 2, 2, dropout=0.1)(x, x)
    x = layers.Attention(dropout=0.2)([x, x])
    x = layers.LSTM(8, dropout=0.2, recurrent_dropout=0.2, return_sequences=True)(x)
    x = layers.GRU(8, dropout=0.2, recurrent_dropout=0.2, return_sequences=True)(x)
    x = layers.Bidirectional(layers.SimpleRNN(8, dropout=0.2, recurrent_dropout=0.2))(x)
    return keras.Model(inputs, layers.Dense(1)(x))


def small_model():
    return keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(16, activation="relu"),
            layers.Dropout(0.3, seed=7),
            layers.GaussianNoise(0.1, seed=8),
            layers.Dense(1),
        ]
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_elements_are_dropped_and_scaled(enabled, dtype):
    x = tensor(X, dtype)
    y = keras.random.dropout(x, 0.25, seed=1)
    assert keras.backend.standardize_dtype(y.dtype) == dtype
    x, y = array(x), array(y)
    kept = y != 0
    assert abs(kept.mean() - 0.75) < 5 * (0.25 * 0.75 / X.size) ** 0.5
    assert y[kept] == pytest.approx(x[kept] / 0.75, rel={"float32": 1e-6, "float16": 2e-3, "bfloat16": 1e-2}[dtype])


@pytest.mark.parametrize(
    ("noise_shape", "axes"),
    [
        ((None, 1, None), (1,)),
        ((64, 1, 1), (1, 2)),
        ((1, 30, 8), (0,)),
        ((8,), (0, 1)),
        ((1, 1, 1), (0, 1, 2)),
        (None, ()),
    ],
)
def test_a_noise_shape_shares_decisions_as_keras_does(noise_shape, axes):
    for dropout in (ckeras.dropout, switch.of_keras):
        dropped = array(dropout(tensor(X), 0.5, noise_shape, 3)) == 0
        assert np.array_equal(dropped.any(axis=axes), dropped.all(axis=axes))
        others = tuple(axis for axis in range(3) if axis not in axes)
        assert (dropped.any(axis=others) != dropped.all(axis=others)).any() or not others


@pytest.mark.skipif(BACKEND == "jax", reason="on JAX a key has 64 bits of Keras's seed")
def test_a_seed_gives_the_mask_of_numpy():
    y = ckeras.dropout(tensor(X), 0.5, seed=3)
    assert np.array_equal(array(y), cd.dropout(X, 0.5, rng=np.random.SeedSequence([3, 0])))
    layer = layers.AlphaDropout(0.5, seed=4)
    ckeras.enable()
    y = array(layer(tensor(X), training=True))
    ckeras.disable()
    assert np.array_equal(y, cd.alpha_dropout(X, 0.5, rng=np.random.SeedSequence([4, 0])))


def test_seeds_are_keras_seeds(enabled):
    def draw(seed):
        return array(keras.random.dropout(tensor(X), 0.5, seed=seed))

    assert np.array_equal(draw(3), draw(3))
    assert not np.array_equal(draw(3), draw(4))
    first, second = keras.random.SeedGenerator(7), keras.random.SeedGenerator(7)
    y = draw(first)
    assert np.array_equal(y, draw(second))
    assert not np.array_equal(y, draw(first))
    drawn = []
    for _ in range(2):
        keras.utils.set_random_seed(5)
        drawn.append((draw(None), array(layers.Dropout(0.5)(tensor(X), training=True))))
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(*drawn[0])


@pytest.mark.parametrize(
    "layer",
    [
        layers.Dropout(0.5, seed=1),
        layers.Dropout(0.5),
        layers.SpatialDropout1D(0.5, seed=1),
        layers.AlphaDropout(0.5, seed=1),
        layers.GaussianDropout(0.5, seed=1),
        layers.GaussianNoise(0.5, seed=1),
    ],
    ids=lambda layer: layer.name,
)
def test_a_layer_has_keras_distribution(layer):
    x = np.ones((200, 100, 8), np.float32)
    theirs = array(layer(tensor(x), training=True))
    ckeras.enable()
    ours = array(layer(tensor(x), training=True))
    assert not np.array_equal(ours, array(layer(tensor(x), training=True)))
    assert np.array_equal(array(layer(tensor(x), training=False)), x)
    ckeras.disable()
    # 160,000 elements, 1,600 decisions in SpatialDropout1D; standard errors of 0.0025 and 0.025 for values of 0 and 2.
    tolerance = 0.13 if "spatial" in layer.name else 0.013
    assert ours.mean() == pytest.approx(theirs.mean(), abs=tolerance)
    assert ours.std() == pytest.approx(theirs.std(), abs=tolerance)
    if "gaussian" not in layer.name:
        assert np.unique(ours) == pytest.approx(np.unique(theirs), abs=1e-6)


def test_every_layer_is_reached(model):
    x = tensor(X[:4, :6])
    kinds = {"uniform": "alpha_dropout", "normal": "gaussian"}
    theirs = ckeras.report(model, x)
    assert theirs
    assert not any(site.is_ours for site in theirs)
    ckeras.enable()
    ours = ckeras.report(model, x)
    ckeras.disable()
    assert all(site.is_ours for site in ours)
    assert [(site.layer, site.n_calls) for site in ours] == [(site.layer, site.n_calls) for site in theirs]
    assert all(
        site.function.startswith(kinds.get(other.function, "dropout")) for site, other in zip(ours, theirs, strict=True)
    )
    assert str(ours[0]).startswith("cdropout: 1 x dropout in dropout")


def test_a_report_shows_what_is_missed_and_changes_no_seed(enabled):
    class Own(layers.Layer):
        def call(self, inputs, training=False):
            noise = keras.random.uniform(keras.ops.shape(inputs), seed=1)
            return keras.ops.where(noise > 0.5, inputs, 0.0)

    model = keras.Sequential([keras.Input((8,)), layers.Dropout(0.5, seed=1), Own(name="own"), layers.Dense(2)])
    before = [array(variable.value) for variable in model.variables]
    missed, ours = ckeras.report(model, tensor(X[0]))
    assert (missed.function, missed.class_name, missed.is_ours) == ("uniform", "Own", False)
    assert missed.layer.endswith("own")
    assert ours.is_ours
    assert all(map(np.array_equal, before, [array(variable.value) for variable in model.variables]))
    with pytest.raises(ValueError, match="model must be built"):
        ckeras.report(keras.Sequential([layers.Dropout(0.5)]), tensor(X))


def test_edges_are_keras_own(enabled):
    x = tensor(X)
    assert np.array_equal(array(keras.random.dropout(x, 0.0)), X)
    assert not array(keras.random.dropout(x, 1.0)).any()
    whole = tensor(np.arange(100), "float64" if BACKEND != "jax" else "float32")
    assert whole.dtype == keras.random.dropout(whole, 0.5, seed=1).dtype
    for rate in (1.5, -0.1, float("nan")):
        with pytest.raises(ValueError, match=r"p must be in \[0, 1\], got"):
            keras.random.dropout(x, rate)
    for noise_shape in ((64, 2, 8), (1, 64, 30, 8), (30,)):
        seeds = keras.random.SeedGenerator(7)
        before = array(seeds.state)
        with pytest.raises(ValueError, match="noise_shape must be 1 or the length of inputs"):
            keras.random.dropout(x, 0.5, noise_shape, seeds)
        assert np.array_equal(before, array(seeds.state))


def test_other_backends_are_refused_with_a_reason(monkeypatch):
    for name, reason in (("tensorflow", "TensorFlow's graphs"), ("openvino", "no kernels")):
        monkeypatch.setattr(keras.backend, "backend", lambda name=name: name)
        with pytest.raises(RuntimeError, match=f"NumPy, PyTorch or JAX backend, got '{name}': .*{reason}"):
            ckeras.enable()
    assert not ckeras.is_enabled()


def gradients(function, x):
    """Return the gradient of the sum of a function's results, and the result."""
    if BACKEND == "jax":
        import jax

        (_, y), dx = jax.value_and_grad(lambda x: ((y := function(x)).sum(), y), has_aux=True)(x)
        return array(dx), array(y)
    x = x.requires_grad_()
    y = function(x)
    y.sum().backward()
    return array(x.grad), array(y.detach())


@trains
@pytest.mark.parametrize("noise_shape", [None, (None, 1, None)])
@pytest.mark.parametrize("seed", [None, 1])
def test_gradients_are_dropped_where_elements_are(enabled, noise_shape, seed):
    layer = layers.Dropout(0.5, noise_shape=noise_shape, seed=seed)
    dx, y = gradients(lambda x: layer(x, training=True), tensor(X))
    assert (y == 0).any()
    assert dx == pytest.approx(np.where(y == 0, 0, 2))


@trains
def test_gradients_of_noise_and_of_alpha_dropout(enabled):
    dx, y = gradients(lambda x: layers.GaussianDropout(0.5)(x, training=True), tensor(X))
    assert dx == pytest.approx(y / X, rel=1e-5)
    dx, y = gradients(lambda x: layers.GaussianNoise(0.5)(x, training=True), tensor(X))
    assert dx == pytest.approx(1)
    dx, y = gradients(lambda x: layers.AlphaDropout(0.5)(x, training=True), tensor(X))
    assert 0.4 < (dx == 0).mean() < 0.6
    assert len(np.unique(y[dx == 0])) == 1
    assert len(np.unique(dx)) == 2


@trains
@pytest.mark.parametrize(
    "policy", ["float32", "mixed_bfloat16", pytest.param("mixed_float16", marks=pytest.mark.deep)], indirect=True
)
def test_models_learn_predict_and_are_saved(enabled, policy, tmp_path):
    keras.utils.set_random_seed(1)
    x = X[:, 0]
    y = x.sum(axis=1, keepdims=True)
    model = small_model()
    model.compile(keras.optimizers.Adam(0.02), "mse", jit_compile="auto")
    before = np.square(model.predict(x, verbose=0) - y).mean()
    model.fit(x, y, batch_size=16, epochs=15, verbose=0)
    predicted = model.predict(x, verbose=0)
    assert np.square(predicted - y).mean() < 0.3 * before
    assert np.array_equal(model.predict(x, verbose=0), predicted)
    assert not np.array_equal(array(model(x, training=True)), array(model(x, training=True)))
    if policy != "float32":
        return
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert np.array_equal(array(loaded(x)), array(model(x)))
    sites = ckeras.report(loaded, tensor(x))
    assert [site.function for site in sites if site.is_ours] == ["dropout", "gaussian_noise"]
    assert len(sites) == 2


def drawn_by_the_backend(model, x, y):
    """Return how often a training step draws numbers from the backend's generator, and how often from this library."""
    if BACKEND == "torch":
        from torch.profiler import ProfilerActivity, profile

        model.train_on_batch(x, y)
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            model.train_on_batch(x, y)
        names = [event.name for event in profiler.events()]
        theirs = ("aten::bernoulli_", "aten::normal_", "aten::uniform_", "aten::rand", "aten::native_dropout")
        return sum(map(names.count, theirs)), names.count("cdropout::masked")
    import cdropout.jax

    model._symbolic_build(data_batch=(x, y))
    kinds = (model.trainable_variables, model.non_trainable_variables, model.optimizer.variables)
    state = [[variable.value for variable in variables] for variables in (*kinds, model.metrics_variables)]
    sites = cdropout.jax.report(model.train_step, tuple(state), (x, y))
    return (sum(site.n_calls for site in sites if site.is_ours == is_ours) for is_ours in (False, True))


@trains
def test_nothing_is_drawn_by_the_backend(model):
    x, y = tensor(X[:4, :6]), tensor(np.zeros((4, 1)))
    model.compile("sgd", "mse")
    theirs, ours = drawn_by_the_backend(model, x, y)
    assert theirs > 30
    assert ours == 0
    ckeras.enable()
    theirs, ours = drawn_by_the_backend(model, x, y)
    ckeras.disable()
    assert theirs == 0
    assert ours > 0


@trains
@pytest.mark.skipif(BACKEND == "torch", reason="in test_torch_compiles: compiling takes many seconds")
def test_a_compiled_model_follows_the_switch():
    def losses(model):
        keras.utils.set_random_seed(2)
        return [float(model.train_on_batch(X[:, 0], X[:, 0, :1])) for _ in range(2)]

    model = small_model()
    model.compile(keras.optimizers.SGD(0.0), "mse", jit_compile=True)
    seeds = [variable for variable in model.variables if "seed" in variable.path]
    start = [array(seed.value) for seed in seeds]

    def step():
        for seed, value in zip(seeds, start, strict=True):
            seed.assign(value)
        return losses(model)

    theirs = step()
    ckeras.enable()
    ours = step()
    ckeras.disable()
    assert step() == theirs
    assert ours != theirs
    # Compiled or not, the masks are the same.
    model.compile(keras.optimizers.SGD(0.0), "mse", run_eagerly=True)
    ckeras.enable()
    assert step() == pytest.approx(ours, rel=1e-5)
    ckeras.disable()


@pytest.mark.skipif(BACKEND != "torch", reason="a test of PyTorch's compiler")
@pytest.mark.ci
def test_torch_compiles(monkeypatch):
    import functools

    import torch

    # Keras chooses no backend of the compiler; its default would need a C++ compiler, and more seconds.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    model = keras.Sequential([keras.Input((8,)), layers.Dropout(0.5), layers.Dense(1), layers.Dropout(0.5, seed=3)])
    x, y = tensor(X[:, 0]), tensor(X[:, 0, :1])
    model.compile(keras.optimizers.SGD(0.0), "mse", jit_compile=True)
    ckeras.enable()
    assert drawn_by_the_backend(model, x, y) == (0, 2)
    ckeras.disable()
    assert drawn_by_the_backend(model, x, y)[1] == 0
