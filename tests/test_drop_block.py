"""DropBlock: squares of images, beside the model in NumPy, in every layout, dtype and instruction set."""

import copy
import functools
import itertools
import math
import pickle

import ml_dtypes
import numpy as np
import pytest
import reference
from conftest import switches_settings
from hypothesis import given, settings
from hypothesis import strategies as st
from refused_allocations import needs_testcapi, refused_allocation

import cdropout as cd
from cdropout import _kernels

DTYPES = (np.float32, np.float64, np.float16, ml_dtypes.bfloat16)


def normals(shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def same_bits(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@st.composite
def calls(draw):
    """Draw (x, p, block_size, channels), with images of one pixel up to 70 x 140."""
    height, width = draw(st.integers(1, 70)), draw(st.integers(1, 140))
    batch = draw(st.sampled_from([(), (0,), (1,), (2,), (5,)]))
    n_channels, channels = draw(st.integers(0, 5)), draw(st.sampled_from(["first", "last"]))
    image = (n_channels, height, width) if channels == "first" else (height, width, n_channels)
    side = draw(st.integers(1, min(height, width)))
    p = draw(st.sampled_from([0.0, 1e-15, 0.01, 0.1, 0.5, 0.97, 1.0]) | st.floats(0, 1))
    return normals(batch + image, draw(st.sampled_from(DTYPES))), p, side, channels


@given(call=calls(), start=st.integers(0, 3), seed=st.integers(0, 2**64))
@settings(deadline=None, max_examples=150)
def test_every_call_gives_the_models_bits_and_takes_a_position_for_each_corner(call, start, seed):
    x, p, side, channels = call
    stream = cd.Stream(seed)
    cd.draw_mask(4096 * start, 0.5, rng=stream)
    expected, kept = reference.drop_block2d(x, p, side, channels, stream.key, stream.position)
    n_corners = (
        math.prod(kept.shape)
        // math.prod(kept.shape[-2:] if channels == "first" else kept.shape[-3:-1])
        * math.prod(n - side + 1 for n in (kept.shape[-2:] if channels == "first" else kept.shape[-3:-1]))
    )
    result, elements = _kernels.drop_squares(x, p, side, channels, stream, None, cd.functions.shared_axes.spatial_axes)
    assert same_bits(result, expected)
    assert np.array_equal(elements.bools(), kept)
    assert elements.n_kept == np.count_nonzero(kept)
    assert stream.position == 4096 * (start + -(-n_corners // 4096))


SHAPES = {
    "rows of less than a word": (3, 67, 14, 14),
    "images of less than a word": (2, 70, 7, 7),
    "rows of several words": (2, 2, 40, 300),
    "an image larger than the words between two passes": (1, 1, 300, 501),
    "images of whole words": (4, 3, 32, 32),
    "many units of odd images": (3, 50, 21, 19),
}


@functools.cache
def expected_kept(shape, side):
    """Return what is kept of images with the channels first, at p = 0.15."""
    return reference.drop_block2d(np.ones(shape, np.float32), 0.15, side, "first", cd.Stream(3).key, 0)[1]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("channels", ["first", "last"])
def test_every_isa_gives_the_models_bits(isa, shape, channels):
    for side, dtype in [*itertools.product((1, 2, 3, 5, 7), [np.float32]), *((3, dtype) for dtype in DTYPES)]:
        x, kept = normals(shape, dtype), expected_kept(shape, side)
        if channels == "last":
            x, kept = np.ascontiguousarray(np.moveaxis(x, 1, -1)), np.moveaxis(kept, 1, -1)
        expected = reference.apply(x, kept, kept.size / np.count_nonzero(kept))
        assert same_bits(cd.drop_block2d(x, 0.15, block_size=side, channels=channels, rng=3), expected)


def test_a_square_may_be_as_large_as_the_image():
    x = normals((400, 1, 9, 9))
    y = cd.drop_block2d(x, 0.2, block_size=9, rng=1)
    n_dropped = np.count_nonzero((y == 0).all(axis=(1, 2, 3)))
    assert 0 < n_dropped < 400
    assert np.count_nonzero(y == 0) == 81 * n_dropped
    assert same_bits(y, reference.drop_block2d(x, 0.2, 9, "first", cd.Stream(1).key, 0)[0])


LAYOUTS = {
    "transposed": lambda a: np.asfortranarray(a),
    "reversed": lambda a: a[::-1, :, ::-1].copy()[::-1, :, ::-1],
    "every other column": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "other byte order": lambda a: a.astype(a.dtype.newbyteorder()),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("n_images", [3, 40])
def test_other_layouts_of_x_and_out_give_the_same_numbers(layout, n_images):
    # 40 images are more elements than a chunk of the iterator has.
    x = normals((n_images, 5, 41, 43))
    expected, kept = reference.drop_block2d(x, 0.2, 4, "first", cd.Stream(2).key, 0)
    other, out = layout(x), layout(np.empty_like(x))
    assert np.array_equal(cd.drop_block2d(other, 0.2, block_size=4, rng=2), expected)
    assert cd.drop_block2d(x, 0.2, block_size=4, rng=2, out=out) is out
    assert np.array_equal(out, expected)
    assert cd.drop_block2d(other, 0.2, block_size=4, rng=2, out=other) is other
    assert np.array_equal(other, expected)
    layer = cd.DropBlock2d(0.2, block_size=4, rng=2)
    layer.forward(x)
    assert np.array_equal(layer.backward(layout(x)), expected)
    assert np.array_equal(layer._keep.bools(), kept)


def test_dropped_elements_are_positive_zeros_and_copies_keep_their_bits():
    x = np.full((2, 3, 20, 20), -np.nan, np.float32)
    y = cd.drop_block2d(x, 0.3, block_size=3, rng=1)
    kept = reference.drop_block2d(np.ones_like(x), 0.3, 3, "first", cd.Stream(1).key, 0)[1]
    assert np.isnan(y[kept]).all()
    assert not y[~kept].view(np.uint32).any()
    assert not cd.drop_block2d(x, 1.0, rng=1).view(np.uint32).any()
    signalling = np.full((1, 8, 8), 0x7F800001, np.uint32).view(np.float32)
    assert same_bits(cd.drop_block2d(signalling, 0.0), signalling)
    # Nothing is dropped with a p that is not 0.
    assert same_bits(cd.drop_block2d(signalling, 1e-9, rng=1), signalling)


@switches_settings
@pytest.mark.parametrize("channels", ["first", "last"])
@pytest.mark.parametrize("shape", [(9, 70, 16, 16), (3, 65, 21, 19), (1, 1, 301, 500)])
def test_threads_and_slices_change_nothing(channels, shape):
    x = normals(shape)
    x = x if channels == "first" else np.ascontiguousarray(np.moveaxis(x, 1, -1))
    call = {"block_size": 5, "channels": channels, "rng": 9}
    alone = cd.drop_block2d(x, 0.1, **call)
    before = _kernels.set_limits(min_elems_per_thread=1000, max_elems_per_slice=700, microseconds_between_checks=1)
    try:
        together = cd.drop_block2d(x, 0.1, **call)
    finally:
        _kernels.set_limits(**before)
    assert same_bits(alone, together)


class ReshapingChoice(str):
    """A value of `channels` that changes an array's shape in place while it is compared."""

    def __eq__(self, other):
        self.array.shape = (-1,)
        return str.__eq__(self, other)

    __hash__ = str.__hash__


@pytest.mark.parametrize("channels", ["first", "last"])
def test_an_array_that_changes_while_channels_is_compared_is_refused_by_name(channels):
    choice, stream = ReshapingChoice(channels), cd.Stream(1)
    choice.array = np.ones((2, 9, 9, 9), np.float32)
    with pytest.raises(ValueError, match=r"x must stay unchanged during a call, got shape \(1458,\) after"):
        cd.drop_block2d(choice.array, 0.5, block_size=3, channels=choice, rng=stream)
    assert stream.position == 0


@pytest.mark.parametrize("channels", [np.array(["first", "last"]), ["first"], None])
@pytest.mark.parametrize("function", [cd.drop_block2d, cd.dropout2d])
def test_channels_that_are_no_word_are_refused_by_name(function, channels):
    with pytest.raises(ValueError, match="channels must be 'first' or 'last', got"):
        function(np.ones((2, 9, 9), np.float32), channels=channels)


# ---- layers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", ["first", "last"])
def test_a_layer_between_its_passes_is_pickled_with_a_bool_array_of_what_is_kept(channels):
    layer = cd.DropBlock2d(0.2, block_size=3, channels=channels, rng=1)
    assert layer.__getstate__()["_keep"] is None
    x = normals((2, 9, 10, 11))
    kept = layer.forward(x) != 0
    state = layer.__getstate__()["_keep"]
    assert state.dtype == np.bool_
    assert np.array_equal(state, kept)
    dy = layer.backward(x)
    assert np.array_equal(dy != 0, kept)
    for same in (pickle.loads(pickle.dumps(layer)), copy.copy(layer), copy.deepcopy(layer)):
        assert same_bits(same.backward(x), dy)


def test_a_layer_loads_the_bool_array_of_an_older_pickle_in_any_layout():
    # Pickles had a view of another axis order with the channels last.
    kept = np.moveaxis(np.random.default_rng(0).random((2, 3, 8, 9)) < 0.8, 1, -1)
    layer = cd.DropBlock2d(0.2, channels="last", rng=1)
    layer.__setstate__({**layer.__getstate__(), "_keep": kept})
    x = normals(kept.shape)
    assert same_bits(layer.backward(x), reference.apply(x, kept, kept.size / np.count_nonzero(kept)))


@pytest.mark.parametrize("keep", [[True], np.ones(4), "kept", np.ma.ones((2, 2), bool)])
def test_a_pickle_with_something_else_than_bools_is_refused(keep):
    layer = cd.DropBlock2d(0.2, rng=1)
    before = layer.__getstate__()
    with pytest.raises(TypeError, match="_keep of a pickled DropBlock2d must not be"):
        layer.__setstate__({**before, "_keep": keep})
    assert layer.__getstate__() == before


def test_a_layer_keeps_one_bit_for_each_element():
    layer = cd.DropBlock2d(0.2, rng=1)
    layer.forward(normals((2, 8, 32, 32)))
    assert layer._keep.n_bytes == 2 * 8 * 32 * 32 / 8 + 8


def test_kept_elements_cannot_be_pickled_or_made_of_other_bits():
    layer = cd.DropBlock2d(0.2, block_size=3, rng=1)
    layer.forward(normals((2, 8, 8)))
    with pytest.raises(TypeError):
        pickle.dumps(layer._keep)
    with pytest.raises(TypeError, match="keep must be an array of bool, got dtype uint8"):
        _kernels.KeptElements.of_bools(np.ones(3, np.uint8))
    empty = _kernels.KeptElements()
    assert empty.apply(np.ones(0, np.float32), "dy", None).shape == (0,)
    with pytest.raises(ValueError, match=r"dy must have the output's shape \(0,\), got \(3,\)"):
        empty.apply(np.ones(3, np.float32), "dy", None)


@pytest.mark.promise("out-of-memory")
@switches_settings
@needs_testcapi
@pytest.mark.parametrize("x", [normals((2, 8, 8)), normals((30, 40, 50)).T], ids=["plain", "transposed"])
def test_a_call_without_memory_has_drawn_nothing(x):
    expected, n_refused = cd.drop_block2d(x, 0.2, block_size=3, rng=1), 0
    for number in range(1, 200):
        stream, y = cd.Stream(1), None
        with refused_allocation(number):
            y = cd.drop_block2d(x, 0.2, block_size=3, rng=stream)
        if y is None:
            assert stream.position == 0
            n_refused += 1
        else:
            assert np.array_equal(y, expected)
    assert 3 < n_refused < 199
