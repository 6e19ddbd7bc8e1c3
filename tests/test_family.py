"""The dropout family: what each layer drops and scales, its gradients, its modes, its errors, and its moments."""

import copy
import functools
import json
import pickle

import ml_dtypes
import numpy as np
import pytest
import reference
from array_objects import normals
from conftest import switches_settings
from limits import by_every_path, by_every_thread_count

import cdropout as cd
from cdropout import _kernels

SHAPE = (4, 6, 5, 7)


def with_option(layer, function, **option):
    """Return a layer and a function with an option."""
    return functools.partial(layer, **option), functools.partial(function, **option)


SHARED = {
    # name -> (layer, function, shape of an input, axes along which decisions are shared)
    "Dropout1d": (cd.Dropout1d, cd.dropout1d, (4, 6, 9), (2,)),
    "Dropout1d, last": (*with_option(cd.Dropout1d, cd.dropout1d, channels="last"), (4, 9, 6), (1,)),
    "Dropout1d, no batch": (cd.Dropout1d, cd.dropout1d, (6, 9), (1,)),
    "Dropout2d": (cd.Dropout2d, cd.dropout2d, SHAPE, (2, 3)),
    "Dropout2d, last": (*with_option(cd.Dropout2d, cd.dropout2d, channels="last"), SHAPE, (1, 2)),
    "Dropout2d, no batch": (cd.Dropout2d, cd.dropout2d, SHAPE[1:], (1, 2)),
    "Dropout3d": (cd.Dropout3d, cd.dropout3d, (3, *SHAPE), (2, 3, 4)),
    "Dropout3d, last, no batch": (*with_option(cd.Dropout3d, cd.dropout3d, channels="last"), SHAPE, (0, 1, 2)),
    "FeatureDropout": (cd.FeatureDropout, cd.feature_dropout, (20, 30), (0,)),
    "FeatureDropout, 3 axes": (cd.FeatureDropout, cd.feature_dropout, (4, 5, 30), (0, 1)),
    "LockedDropout": (cd.LockedDropout, cd.locked_dropout, (7, 4, 30), (0,)),
    "LockedDropout, time second": (*with_option(cd.LockedDropout, cd.locked_dropout, time_axis=1), (4, 7, 30), (1,)),
    "DropPath": (cd.DropPath, cd.drop_path, (50, 3, 4), (1, 2)),
}
LAYERS = {
    "Dropout": (cd.Dropout, (40, 30)),
    **{name: (layer, shape) for name, (layer, _, shape, _) in SHARED.items()},
    "DropPath, unscaled": (lambda p, **k: cd.DropPath(p, scale_by_keep=False, **k), (50, 3, 4)),
    "AlphaDropout": (cd.AlphaDropout, (40, 30)),
    "FeatureAlphaDropout": (cd.FeatureAlphaDropout, (8, 20, 3)),
    "GaussianDropout": (cd.GaussianDropout, (40, 30)),
    "GaussianNoise": (cd.GaussianNoise, (40, 30)),
    "DropBlock2d": (lambda p, **k: cd.DropBlock2d(p, block_size=3, **k), (2, 3, 8, 9)),
}


# ---- decisions that are shared --------------------------------------------------------------------------------------


@pytest.mark.promise("whole-slices")
@pytest.mark.parametrize("name", SHARED)
def test_whole_slices_are_dropped_and_the_rest_is_scaled(name):
    make, function, shape, axes = SHARED[name]
    x = normals(shape) + 10
    y = make(0.4, rng=3).forward(x)
    dropped = y == 0
    assert np.array_equal(dropped.any(axis=axes), dropped.all(axis=axes))
    assert 0 < dropped.mean() < 1
    assert y[~dropped] == pytest.approx(x[~dropped] / 0.6, rel=1e-15)
    assert np.array_equal(function(x, 0.4, rng=3), y)
    assert np.array_equal(cd.dropout(x, 0.4, rng=3, shared_axes=axes), y)


@pytest.mark.promise("drop-path")
def test_drop_path_without_scaling_keeps_samples_as_they_are():
    x = normals((50, 3, 4))
    y = cd.DropPath(0.4, scale_by_keep=False, rng=3).forward(x)
    kept = (y != 0).all(axis=(1, 2))
    assert np.array_equal(y[kept], x[kept])
    assert np.array_equal(cd.drop_path(x, 0.4, scale_by_keep=False, rng=3), y)


def test_keras_names_are_the_same_layers():
    assert (cd.SpatialDropout1D, cd.SpatialDropout2D, cd.SpatialDropout3D) == (cd.Dropout1d, cd.Dropout2d, cd.Dropout3d)


# ---- alpha dropout --------------------------------------------------------------------------------------------------


# Limit of SELU for large negative inputs: -lambda alpha, with the constants of Klambauer et al., 2017.
SELU_FLOOR = -1.0507009873554804934193349852946 * 1.6732632423543772848170429916717


def test_alpha_dropout_is_its_formula():
    x, p = normals(10_000), 0.3
    mask = cd.draw_mask(x.shape, p, rng=5)
    a = 1 / np.sqrt((1 - p) * (1 + p * SELU_FLOOR**2))
    expected = a * np.where(mask.keep(), x, SELU_FLOOR) - a * p * SELU_FLOOR
    assert cd.alpha_dropout(x, p, rng=5) == pytest.approx(expected, rel=1e-14, abs=1e-14)


@pytest.mark.promise("alpha-dropout")
@pytest.mark.parametrize("p", [0.05, 0.2, 0.5, 0.8])
def test_alpha_dropout_keeps_mean_0_and_variance_1(p):
    # 10 million standard normals: the standard errors of mean and variance are below 2e-4 and 5e-4 in float64.
    y = cd.alpha_dropout(np.random.default_rng(1).standard_normal(10_000_000), p, rng=1)
    assert abs(y.mean()) < 1e-3
    assert abs(y.var() - 1) < 1e-3


@pytest.mark.promise("feature-alpha-dropout")
def test_feature_alpha_dropout_treats_whole_channels_alike():
    x = normals((8, 20, 3, 2))
    y = cd.feature_alpha_dropout(x, 0.4, rng=2)
    fill = y.min(axis=(2, 3)) == y.max(axis=(2, 3))
    assert 0 < fill.mean() < 1
    assert np.unique(np.round(y[fill], 12)).size == 1
    assert np.array_equal(cd.FeatureAlphaDropout(0.4, rng=2).forward(x), y)


def test_everything_dropped_by_alpha_dropout_is_0():
    assert not cd.alpha_dropout(normals(100), 1.0).any()
    assert cd.alpha_dropout(normals(100), 0.0).tobytes() == normals(100).tobytes()


# ---- any fill, on every path of the kernels -------------------------------------------------------------------------


@pytest.mark.promise("fill")
@switches_settings
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize(
    ("shape", "axes"), [((3, 5000), ()), ((300, 70), (0,)), ((300, 70), (1,)), ((9, 5, 100), (2,))]
)
def test_an_affine_map_has_the_same_bits_by_every_path(isa, dtype, shape, axes):
    x = normals(shape, dtype=dtype)
    mask = cd.draw_mask(shape, 0.4, rng=7, shared_axes=axes)
    wide = np.float64 if dtype == "float64" else np.float32
    scale, shift, fill = (wide(v) for v in (1.25, 0.5, -0.75))
    expected = np.where(mask.keep(), x.astype(wide) * scale + shift, fill).astype(dtype).tobytes()
    keywords = {"scale": 1.25, "shift": 0.5, "fill": -0.75}
    assert mask.apply(x, **keywords).tobytes() == expected
    assert mask.apply(np.asfortranarray(x), **keywords).tobytes() == expected
    in_place = x.copy()
    assert mask.apply(in_place, out=in_place, **keywords).tobytes() == expected
    assert set(by_every_path(lambda: mask.apply(x, **keywords).tobytes())) == {expected}


def test_a_fill_stands_also_where_everything_or_nothing_is_dropped():
    x = normals(100)
    assert np.array_equal(cd.draw_mask(100, 1.0).apply(x, fill=3.0), np.full(100, 3.0))
    assert np.array_equal(cd.draw_mask(100, 0.0).apply(x, fill=3.0), x)
    assert np.array_equal(cd.draw_mask(100, 0.0).apply(x, shift=2.0), x + 2)


# ---- noise ----------------------------------------------------------------------------------------------------------


@pytest.mark.promise("gaussian-dropout")
def test_gaussian_dropout_has_dropouts_mean_and_variance():
    # 4 million numbers: standard errors of 5e-4 (mean) and 7e-4 of the variance.
    p = 0.3
    y = cd.gaussian_dropout(np.ones(1 << 22), p, rng=1)
    assert abs(y.mean() - 1) < 2e-3
    assert abs(y.var() - p / (1 - p)) < 2e-3
    noise = cd.gaussian_noise(np.ones(1 << 22), 0.25, rng=1)
    assert abs(noise.mean() - 1) < 1e-3
    assert abs(noise.std() - 0.25) < 1e-3


@pytest.mark.promise("gaussian-noise")
def test_gaussian_layers_do_what_the_functions_do():
    x = normals((40, 30), dtype=np.float32)
    assert np.array_equal(cd.GaussianDropout(0.3, rng=1).forward(x), cd.gaussian_dropout(x, 0.3, rng=1))
    assert np.array_equal(cd.GaussianNoise(0.3, rng=1).forward(x), cd.gaussian_noise(x, 0.3, rng=1))
    assert np.array_equal(cd.gaussian_dropout(x, 0.0), x)


# ---- zoneout and blocks ---------------------------------------------------------------------------------------------


@pytest.mark.promise("zoneout")
def test_zoneout_takes_each_element_from_one_state_or_the_other(isa):
    for dtype in ("float32", "float64", "float16"):
        new, previous = normals((30, 50), dtype, 0), normals((30, 50), dtype, 1)
        new[0, :3], previous[0, :3] = np.nan, -0.0
        kept = cd.draw_mask(new.shape, 0.4, rng=2).keep()
        expected = np.where(kept, new, previous)
        assert cd.zoneout(new, previous, 0.4, rng=2).tobytes() == expected.tobytes()
        assert cd.zoneout(new.T, previous.T, 0.4, rng=2).shape == (50, 30)
        assert cd.zoneout(new, previous, 0.4, rng=2, out=previous) is previous
        assert previous.tobytes() == expected.tobytes()
    assert np.array_equal(cd.zoneout(normals(9), normals(9, seed=1), 1.0), normals(9, seed=1))
    assert np.array_equal(cd.zoneout(normals(9), normals(9, seed=1), 0.0), normals(9))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_zoneout_copies_all_bits_of_the_16_bit_types(isa, dtype):
    # Every pattern, including signalling NaNs, and an incomplete last group.
    patterns = np.arange(65_536 + 7, dtype=np.uint32).astype(np.uint16)
    new, previous = patterns.view(dtype), patterns[::-1].copy().view(dtype)
    for p in (0.0, 0.4, 1.0):
        kept = cd.draw_mask(new.shape, p, rng=2).keep()
        expected = np.where(kept, patterns, patterns[::-1])
        assert np.array_equal(cd.zoneout(new, previous, p, rng=2).view(np.uint16), expected)


def test_zoneouts_gradients_and_evaluation():
    new, previous, dy = normals((4, 5)), normals((4, 5), seed=1), normals((4, 5), seed=2)
    layer = cd.Zoneout(0.3, rng=1)
    y = layer.forward(new, previous)
    dnew, dprevious = layer.backward(dy)
    assert np.vdot(y, dy) == pytest.approx(np.vdot(new, dnew) + np.vdot(previous, dprevious), rel=1e-12)
    assert np.array_equal(dnew + dprevious, dy)
    layer.eval()
    assert layer.forward(new, previous) == pytest.approx(0.7 * new + 0.3 * previous, rel=1e-14)
    dnew, dprevious = layer.backward(dy)
    assert dnew == pytest.approx(0.7 * dy)
    assert dprevious == pytest.approx(0.3 * dy)
    with pytest.raises(ValueError, match=r"dy must have the output's shape \(4, 5\), got \(4,\)"):
        layer.backward(dy[:, 0])
    with pytest.raises(TypeError, match=r"dy must be an array of .*, got dtype int64"):
        layer.backward(np.ones((4, 5), np.int64))
    with pytest.raises(RuntimeError, match="backward must follow a forward pass"):
        cd.Zoneout(0.3).eval().backward(dy)


@pytest.mark.promise("drop-block")
def test_dropped_blocks_are_squares_that_lie_in_the_image():
    x = np.ones((3, 4, 12, 15))
    y = cd.drop_block2d(x, 0.1, block_size=3, rng=5)
    dropped = y == 0
    assert 0 < dropped.mean() < 0.4
    windows = np.lib.stride_tricks.sliding_window_view(dropped, (3, 3), axis=(2, 3)).all(axis=(-2, -1))
    covered = np.zeros_like(dropped)
    for i, j in np.ndindex(3, 3):
        covered[:, :, i : i + 10, j : j + 13] |= windows
    assert np.array_equal(covered, dropped)
    assert y[~dropped] == pytest.approx(y.size / np.count_nonzero(~dropped))
    last = cd.drop_block2d(np.moveaxis(x, 1, -1), 0.1, block_size=3, rng=5, channels="last")
    assert np.array_equal(np.moveaxis(last, -1, 1), y)
    assert np.array_equal(cd.DropBlock2d(0.1, block_size=3, rng=5).forward(x), y)
    assert np.array_equal(cd.drop_block2d(x[0], 0.0, block_size=3), x[0])
    assert not cd.drop_block2d(x, 1.0, block_size=3).any()


def test_drop_block_drops_about_p():
    # 200 images of 32 x 32 with 16 channels: the share of dropped elements is p less overlaps, about p^2 / 2.
    y = cd.drop_block2d(np.ones((200, 16, 32, 32), np.float32), 0.1, block_size=7, rng=1)
    assert 0.08 < np.mean(y == 0) < 0.105


# ---- common to all layers -------------------------------------------------------------------------------------------


def first_pass(name, x):
    """Return a new layer after a forward pass, whose decisions are always the same, and its output."""
    layer = LAYERS[name][0](0.3, rng=11)
    return layer, layer.forward(x)


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_equal_numeric_ones(name):
    # d/dx of sum(sin(f(x))), by central differences in float64: error below 1e-6.
    x = normals(LAYERS[name][1])
    layer, y = first_pass(name, x)
    analytic = layer.backward(np.cos(y))
    some = np.random.default_rng(0).choice(x.size, min(x.size, 60), replace=False)
    numeric = reference.numeric_gradient(lambda: np.sin(first_pass(name, x)[1]).sum(), x, some)
    assert np.abs(analytic.flat[some] - numeric).max() < 1e-6


@pytest.mark.parametrize("name", LAYERS)
def test_backward_is_the_adjoint_of_forwards_linear_part(name):
    x, dy = normals(LAYERS[name][1]), normals(LAYERS[name][1], seed=1)
    layer, y = first_pass(name, x)
    linear_part = y - first_pass(name, np.zeros_like(x))[1]
    assert np.vdot(linear_part, dy) == pytest.approx(np.vdot(x, layer.backward(dy)), rel=1e-9)


@pytest.mark.parametrize("name", LAYERS)
def test_evaluation_is_the_identity_and_draws_nothing(name):
    layer = LAYERS[name][0](0.3, rng=1).eval()
    x = normals(LAYERS[name][1])
    assert layer.forward(x) is x
    assert layer.backward(x) is x
    assert layer.rng.position == 0


@pytest.mark.parametrize("name", [name for name in LAYERS if name != "GaussianNoise"])
def test_backward_before_any_forward_pass_is_an_error(name):
    with pytest.raises(RuntimeError, match="backward must follow a forward pass in training"):
        LAYERS[name][0](0.3).backward(normals(LAYERS[name][1]))


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_dtype_is_kept_and_in_place_is_in_place(name, dtype):
    make, shape = LAYERS[name]
    x = normals(shape, dtype=dtype)
    y = make(0.3, rng=1).forward(x)
    assert y.dtype == x.dtype
    assert y is not x
    target = x.copy()
    layer = make(0.3, rng=1, inplace=True)
    assert layer.forward(target) is target
    assert target.tobytes() == y.tobytes()
    dy = normals(shape, dtype, 1)
    assert layer.backward(dy) is dy


@pytest.mark.parametrize("name", [name for name in LAYERS if "Gaussian" not in name])
def test_p_of_0_and_1(name):
    make, shape = LAYERS[name]
    x = normals(shape)
    assert np.array_equal(make(0.0, rng=1).forward(x), x)
    assert not make(1.0, rng=1).forward(x).any()


@pytest.mark.parametrize("name", LAYERS)
def test_p_may_change_from_step_to_step(name):
    make, shape = LAYERS[name]
    layer, x = make(0.3, rng=1), normals(shape)
    layer.forward(x)
    attribute = "std" if name == "GaussianNoise" else "p"
    setattr(layer, attribute, 0.6)
    position = layer.rng.position
    other = make(0.6, rng=1)
    other.rng.state = {**other.rng.state, "position": position}
    assert np.array_equal(layer.forward(x), other.forward(x))


@pytest.mark.parametrize("name", LAYERS)
def test_a_layers_state_goes_through_pickle_and_deepcopy(name):
    make, shape = LAYERS[name]
    layer, x = make(0.3, rng=1), normals(shape)
    y = layer.forward(x)
    for again in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
        assert np.array_equal(again.backward(x), layer.backward(x))
        following = copy.deepcopy(layer).forward(x)
        assert np.array_equal(again.forward(x), following)
        assert not np.array_equal(following, y)
    saved = json.loads(json.dumps(layer.rng.state))
    expected = layer.forward(x)
    layer.rng.state = saved
    assert np.array_equal(layer.forward(x), expected)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layers_state_goes_through_json_and_npz(name, tmp_path):
    make, shape = LAYERS[name]
    layer, x = make(0.3, rng=1), normals(shape)
    layer.forward(x)
    np.savez(tmp_path / "state.npz", state=np.array(json.dumps(layer.state)))
    expected = layer.forward(x)
    other = make(0.3, rng=2).eval()
    with np.load(tmp_path / "state.npz") as saved:
        other.state = json.loads(str(saved["state"]))
    assert np.array_equal(other.forward(x), expected)
    assert other.training
    assert LAYERS[name][0](0.3).state["rng"] is None


@pytest.mark.parametrize(
    ("state", "error", "message"),
    [
        ({}, ValueError, "state must be a dict with the keys version, p, training, rng, got {}"),
        (
            {"version": 9, "p": 0.5, "training": True, "rng": None},
            ValueError,
            "state must be of version 1, got version 9",
        ),
        ({"version": 1, "p": 1.5, "training": True, "rng": None}, ValueError, r"p must be in \[0, 1\], got 1.5"),
        ({"version": 1, "p": 0.5, "training": 1, "rng": None}, TypeError, r"state\['training'\] must be True or False"),
        ({"version": 1, "p": 0.5, "training": True, "rng": {}}, ValueError, "state must be a dict with the keys"),
    ],
)
def test_a_state_that_is_not_whole_changes_nothing(state, error, message):
    layer = cd.Dropout(0.25, rng=1)
    before = layer.state
    with pytest.raises(error, match=message):
        layer.state = state
    assert layer.state == before


@switches_settings
@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_has_the_same_bits_on_every_isa_and_number_of_threads(name):
    make, shape = LAYERS[name]
    x = normals((30, *shape), dtype=np.float32).reshape(-1, *shape[1:])

    def passes():
        layer = make(0.3, rng=1)
        y = layer.forward(x)
        return y.tobytes() + layer.backward(y).tobytes()

    digests, before = set(), _kernels.active_isa()
    try:
        for isa_name in _kernels.supported_isas():
            _kernels.use_isa(isa_name)
            digests.update(by_every_thread_count(passes, (1, 2)))
    finally:
        _kernels.use_isa(before)
    assert len(digests) == 1


def test_layers_that_share_a_stream_share_it_after_their_states_are_set():
    def step(layers):
        return [layer.forward(np.ones(100)) for layer in layers]

    stream = cd.Stream(1)
    layers = cd.Dropout(rng=stream), cd.AlphaDropout(rng=stream)
    step(layers)
    states = [layer.state for layer in layers]
    expected = step(layers)
    for layer, state in zip(layers, states, strict=True):
        layer.state = state
    for y, again in zip(expected, step(layers), strict=True):
        assert np.array_equal(y, again)
    assert layers[0].rng is layers[1].rng is stream


def test_the_state_of_noise_has_its_std():
    layer = cd.GaussianNoise(0.1, rng=1)
    layer.std = 0.7
    other = cd.GaussianNoise(0.1, rng=2)
    other.state = layer.state
    assert other.std == 0.7
    assert repr(other) == "GaussianNoise(std=0.7)"


def test_blocks_refuse_a_gradient_of_another_shape_before_writing():
    layer = cd.DropBlock2d(0.3, block_size=3, rng=1, inplace=True)
    layer.forward(np.ones((2, 3, 8, 8)))
    for shape in ((2, 3, 8, 7), (2, 3, 8, 8, 2)):
        dy = np.ones(shape)
        with pytest.raises(ValueError, match=r"dy must have the output's shape \(2, 3, 8, 8\), got"):
            layer.backward(dy)
        assert (dy == 1).all()
    with pytest.raises(TypeError, match="out must be an array, got list"):
        layer.forward([[[1.0] * 8] * 8])


def test_blocks_scale_16_bit_elements_by_more_bits_than_they_have():
    # All 128 numbers from 1 to 2: a scale of 8 bits would round many of their products differently.
    x = np.tile(np.arange(128, 256), (4, 8, 64, 1)).astype(ml_dtypes.bfloat16) / ml_dtypes.bfloat16(128)
    y = cd.drop_block2d(x, 0.1, block_size=3, rng=1)
    kept = y != 0
    scale = y.size / np.count_nonzero(kept)
    exact = (x.astype(np.float64) * scale).astype(x.dtype)
    assert np.mean(y[kept] != exact[kept]) < 0.02
    coarse = x * x.dtype.type(scale)
    assert np.mean(coarse[kept] != exact[kept]) > 0.05
    assert not cd.drop_block2d(np.full((1, 8, 8), np.inf, np.float32), 1.0).any()


def test_zoneout_in_evaluation_is_exact_at_0_and_1_and_remembers_its_p():
    strange = np.array([np.nan, np.inf, 1.0])
    layer = cd.Zoneout(0.0).eval()
    assert np.array_equal(layer.forward(np.ones(3), strange), np.ones(3))
    layer.p = 1.0
    assert np.array_equal(layer.forward(strange, np.ones(3)), np.ones(3))
    layer.p = 0.25
    assert isinstance(layer.forward(np.ones(()), np.ones(())), np.ndarray)
    layer.p = 0.9
    assert layer.backward(np.ones(())) == (0.75, 0.25)


# ---- beside PyTorch -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "theirs", "shape"),
    [
        (cd.Dropout1d, "Dropout1d", (64, 400, 8)),
        (cd.Dropout2d, "Dropout2d", (64, 400, 4, 2)),
        (cd.Dropout3d, "Dropout3d", (64, 400, 2, 2, 2)),
        (cd.AlphaDropout, "AlphaDropout", (64, 3200)),
        (cd.FeatureAlphaDropout, "FeatureAlphaDropout", (64, 400, 8)),
    ],
)
def test_moments_are_those_of_pytorchs_layer(ours, theirs, shape):
    # At least 25,600 decisions: the standard error of a mean of outputs, whose variance is below 2, is below 0.009, and
    # that of the share of one value below 0.004. The bounds are 5 standard errors of the difference.
    torch = pytest.importorskip("torch")
    torch.manual_seed(1)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    y = ours(0.3, rng=1).forward(x)
    reference = getattr(torch.nn, theirs)(0.3)(torch.from_numpy(x)).numpy()
    assert abs(y.mean() - reference.mean()) < 5 * 2**0.5 * 0.009
    assert abs(y.std() - reference.std()) < 5 * 2**0.5 * 0.009
    # In both, dropped elements have the same value, the most frequent one.
    (value, count), (their_value, their_count) = (most_frequent(a) for a in (y, reference))
    assert value == pytest.approx(their_value, rel=1e-6, abs=1e-6)
    assert abs(count - their_count) / x.size < 5 * 2**0.5 * 0.004


def most_frequent(a):
    values, counts = np.unique(a, return_counts=True)
    return values[counts.argmax()], counts.max()
