"""Masks are values: immutable, without a buffer, comparable, picklable, sliceable."""

import copy
import inspect
import itertools
import pickle
import sys
import weakref
from functools import partial
from unittest import mock

import ml_dtypes
import numpy as np
import pytest
import reference
from array_objects import bits
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from limits import by_every_thread_count, limits

import cdropout as cd
from cdropout import _kernels
from cdropout._kernels import restore

DTYPES = (np.float32, np.float64, np.float16, ml_dtypes.bfloat16)
KEY = cd.Stream(2024).key


def test_a_mask_holds_no_array_and_cannot_be_changed():
    small, large = cd.draw_mask(1, 0.5, rng=1), cd.draw_mask((1000, 1000, 1000), 0.5, rng=1)
    assert sys.getsizeof(large) == sys.getsizeof(small) < 200
    for name in ("key", "start", "p", "shape", "shared_axes", "strides", "is_run", "anything"):
        with pytest.raises(AttributeError):
            setattr(small, name, 1)
    small.__init__(0, 0, 1.0, 7)
    assert (small.p, small.shape) == (0.5, (1,))


def test_signatures_of_values_can_be_inspected():
    assert str(inspect.signature(cd.Mask)) == "(key, start, p, shape, shared_axes=(), strides=None)"
    assert str(inspect.signature(cd.Noise)) == "(key, start, std, shape)"
    assert str(inspect.signature(cd.Stream)) == "(seed=None)"
    assert str(inspect.signature(cd.Mask.apply)) == "(self, a, out=None, *, scale=None, shift=0.0, fill=0.0)"
    for value in (cd.Mask, cd.Noise, cd.Stream):
        assert not value.__doc__.lstrip().startswith(value.__name__), "the signature is no part of the text"
        for name in dir(value):
            if not name.startswith("_") and callable(getattr(value, name)):
                assert inspect.signature(getattr(value, name)).parameters["self"]


def test_an_empty_part_at_the_end_of_a_stream_is_a_mask():
    mask = cd.Mask(1, 2**64 - 8192, 0.5, (4096,))
    assert mask[4096:].keep().shape == (0,)
    assert mask[4096:] == mask[:0]


def test_equality_and_hash_are_those_of_the_fields():
    mask = cd.draw_mask((3, 4), 0.5, rng=1, shared_axes=-1)
    assert mask == cd.Mask(mask.key, mask.start, 0.5, (3, 4), (1,))
    assert hash(mask) == hash(cd.Mask(mask.key, mask.start, 0.5, (3, 4), 1))
    others = [
        cd.Mask(mask.key + 1, mask.start, 0.5, (3, 4), 1),
        cd.Mask(mask.key, mask.start + 1, 0.5, (3, 4), 1),
        cd.Mask(mask.key, mask.start, 0.25, (3, 4), 1),
        cd.Mask(mask.key, mask.start, 0.5, (4, 3), 1),
        cd.Mask(mask.key, mask.start, 0.5, (3, 4), 0),
        cd.Mask(mask.key, mask.start, 0.5, (3, 4), 1, (2, 0)),
        None,
    ]
    assert all(mask != other for other in others)
    assert len({mask, *others}) == 8


def test_pickle_copy_and_repr_round_trip():
    part = cd.draw_mask((30, 4, 50), 0.1, rng=1, shared_axes=1)[5:, :, 3:7]
    for mask in (cd.draw_mask((3, 4), 0.1, rng=2**100, shared_axes=0), cd.draw_mask((), 1.0, rng=1), part):
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            assert pickle.loads(pickle.dumps(mask, protocol)) == mask
        assert copy.copy(mask) is mask
        assert copy.deepcopy([mask])[0] is mask
        assert eval(repr(mask), {"Mask": cd.Mask}) == mask
    assert "shared_axes=(0,)" in repr(cd.draw_mask((3, 4), 0.1, rng=1, shared_axes=0))
    assert repr(part).endswith("shape=(25, 4, 4), shared_axes=(1,), strides=(50, 0, 1))")
    assert len(pickle.dumps(part)) < 150


def test_a_pickle_of_another_version_is_refused():
    for version in (3, 0, -1, None, "1"):
        with pytest.raises(ValueError, match=f"a pickled Mask must be of version 1 or 2, got version {version!r}"):
            restore(cd.Mask, version, 0, 0, 0.5, (3,), ())
    with pytest.raises(ValueError, match="a pickled Noise must be of version 1, got version 2"):
        restore(cd.Noise, 2, 0, 0, 0.5, (3,))


def test_a_pickle_of_version_1_still_loads():
    pickled = (
        b"ccdropout.value\nrestore\np0\n(ccdropout.mask\nMask\np1\nI1\nL170141183460469231731687303715884105733L\n"
        b"I8192\nF0.25\n(I3\nI4\ntp2\n(I1\ntp3\ntp4\nRp5\n."
    )
    assert pickle.loads(pickled) == cd.Mask(2**127 + 5, 8192, 0.25, (3, 4), 1)


def test_keep_and_scaled_say_the_same():
    mask = cd.draw_mask((50, 70), 0.2, rng=4)
    kept = mask.keep()
    assert kept.dtype == np.bool_
    for dtype in (np.float32, np.float64, "f4", ">f8"):
        scaled = mask.scaled(dtype)
        assert scaled.dtype == np.dtype(dtype)
        assert np.array_equal(scaled, np.where(kept, np.dtype(dtype).type(1 / 0.8), 0))
    assert mask.scaled().dtype == np.float32
    x = np.random.default_rng(0).standard_normal((50, 70))
    assert np.array_equal(mask.apply(x), x * mask.scaled(np.float64))


def test_numpy_does_not_take_a_mask_for_an_array():
    x, mask = np.ones((4, 6)), cd.draw_mask((4, 6), 0.5, rng=1)
    for multiply in (lambda: x * mask, lambda: mask * x, lambda: mask * 2):
        with pytest.raises(TypeError, match=r"a mask is applied by mask\.apply\(x\), not by \*"):
            multiply()
    for make in (np.asarray, np.array, np.mean):
        with pytest.raises(TypeError, match=r"a mask is no array: mask\.apply\(x\) applies it"):
            make(mask)
    assert mask != x
    assert (mask == x) is False


def test_an_empty_mask_of_a_full_stream_is_a_mask_like_any_other():
    stream = cd.Stream(1)
    stream._place(stream.key, _kernels.POSITION_LIMIT)
    mask = cd.draw_mask((0, 3), 0.5, rng=stream)
    assert mask.start == 0
    assert mask[:] == pickle.loads(pickle.dumps(mask)) == mask


@pytest.mark.parametrize("shape", [(4096,), (64, 64), (2, 0, 5), (16, 16, 16)])
@pytest.mark.parametrize("shared_axes", [(), 0, -1])
def test_every_slice_of_a_mask_at_the_end_of_a_stream_is_a_mask(shape, shared_axes):
    mask = cd.Mask(5, _kernels.POSITION_LIMIT - 4096, 0.5, shape, shared_axes)
    whole = mask.keep()
    cuts = [slice(0), slice(shape[0], None), slice(3, 3), slice(-1, None), slice(None, None, 3), slice(5000, None)]
    for index in itertools.product(cuts, repeat=min(len(shape), 2)):
        part = mask[index]
        assert np.array_equal(part.keep(), whole[index])
        assert pickle.loads(pickle.dumps(part)) == part
        assert part.apply(np.ones(part.shape)).shape == part.shape
        assert mask[index][0:].shape == part.shape
    assert cd.draw_mask(0, 0.5, rng=at_the_end()).shape == (0,)


def at_the_end():
    """Return a stream that has no positions left."""
    stream = cd.Stream(1)
    stream.state = {**stream.state, "position": _kernels.POSITION_LIMIT}
    return stream


@pytest.mark.parametrize("integer", [np.uint64, np.int8, int])
def test_a_mask_takes_any_integers(integer):
    assert cd.Mask(integer(3), integer(64), 0.5, 5) == cd.Mask(3, 64, 0.5, 5)
    assert type(cd.Mask(integer(3), integer(64), 0.5, 5).start) is int


@pytest.mark.parametrize("dtype", ["foo", None, int, ("f4", 2), np.complex64, "f4,(", "f" * 1000])
def test_a_dtype_that_is_none_is_named(dtype):
    mask = cd.draw_mask(5, 0.5, rng=1)
    with pytest.raises(TypeError, match=r"^dtype must be float16, bfloat16, float32 or float64, got "):
        mask.scaled(dtype)
    with pytest.raises(TypeError, match=r"^dtype must be float32 or float64, got "):
        cd.DropConnect(3, 2, dtype=dtype)


def test_keep_gives_a_new_writable_array_each_time():
    for axes in ((), 0):
        mask = cd.draw_mask((5, 7), 0.5, rng=4, shared_axes=axes)
        first = mask.keep()
        first[...] = False
        assert mask.keep().any()


@pytest.mark.promise("mask-parts")
@pytest.mark.parametrize("shared_axes", [(), 0, 1, (1, 2), (0, 2)])
def test_slices_are_the_masks_of_shards(shared_axes):
    mask = cd.draw_mask((100, 13, 7), 0.5, rng=4, shared_axes=shared_axes)
    whole = mask.keep()
    for rows in (slice(0, 100), slice(10, 53), slice(99, None), slice(-5, -1), slice(7, 7), slice(50, 3), slice(None)):
        assert np.array_equal(mask[rows].keep(), whole[rows]), rows
    assert np.array_equal(mask[20:80][30:40].keep(), whole[50:60])
    assert len(mask) == 100
    assert len(mask[10:20]) == 10


CUTS = [slice(a, b) for a, b in itertools.pairwise([0, 1, 128, 129, 700, 1001])]


@pytest.mark.parametrize("shards", [CUTS, [slice(rank, None, 4) for rank in range(4)]], ids=["in pieces", "in turn"])
def test_shards_cover_the_whole_exactly_once(shards):
    x = np.random.default_rng(0).standard_normal((1001, 37)).astype(np.float32)
    mask = cd.draw_mask(x.shape, 0.3, rng=4)
    y = np.empty_like(x)
    for shard in shards:
        mask[shard].apply(x[shard], out=y[shard])
    assert np.array_equal(y, mask.apply(x))


def test_a_mask_is_true_and_its_arrays_are_contiguous():
    assert cd.draw_mask((), 0.5, rng=1)
    assert cd.draw_mask((0, 5), 0.5, rng=1)
    for axes in ((), 0, 1):
        mask = cd.draw_mask((4, 6), 0.5, rng=1, shared_axes=axes)
        assert mask.keep().flags.c_contiguous
        assert mask.scaled().flags.c_contiguous


@st.composite
def parts_of_masks(draw):
    """Draw a mask and an index of it."""
    shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=300)
    shape = draw(shapes.filter(lambda s: np.prod(s) < 20_000))
    axes = draw(st.lists(st.integers(0, len(shape) - 1), unique=True, max_size=2)) if shape else []
    mask = cd.Mask(KEY, draw(st.integers(0, 9000)), draw(st.sampled_from([0.1, 0.5, 0, 1])), shape, tuple(axes))
    return mask, draw(indices(shape))


def indices(shape):
    """Return a strategy of one slice for each axis."""
    slices = []
    for length in shape:
        bounds = st.tuples(st.integers(0, length), st.integers(0, length)).map(sorted)
        slices.append(st.builds(lambda b, step: slice(*b, step), bounds, st.sampled_from([None, 1, 1, 2, 5])))
    return st.tuples(*slices)


@pytest.mark.promise("mask-parts")
@settings(max_examples=150, deadline=None)
@given(parts_of_masks(), st.data())
def test_any_part_of_a_mask_is_that_part_of_the_whole(mask_and_index, data):
    mask, index = mask_and_index
    part, dtype = mask[index], data.draw(st.sampled_from(DTYPES))
    inner = data.draw(indices(part.shape))
    x = np.random.default_rng(0).standard_normal(mask.shape).astype(dtype)
    before = _kernels.active_isa()
    _kernels.use_isa(data.draw(st.sampled_from(_kernels.supported_isas())))
    try:
        whole, y, scaled = mask.keep(), mask.apply(x), mask.scaled(dtype)
        alpha = mask.apply(x, scale=0.7, shift=0.3, fill=-1.5)
        assert bits(part.keep()) == bits(whole[index])
        assert bits(part.apply(x[index])) == bits(y[index])
        assert bits(part.apply(np.asfortranarray(x[index]).reshape(part.shape))) == bits(y[index])
        assert bits(part.apply(x[index], scale=0.7, shift=0.3, fill=-1.5)) == bits(alpha[index])
        assert bits(part.scaled(dtype)) == bits(scaled[index])
        assert bits(part[inner].keep()) == bits(whole[index][inner])
        view = x[(*index, ...)]  # an array, not a scalar, also for the shape ()
        part.apply(view, out=view)
        assert bits(x[index]) == bits(y[index])
    finally:
        _kernels.use_isa(before)


def test_a_part_takes_the_positions_that_the_specification_says(isa):
    # Two columns of a mask of 10^12 elements, which starts beyond 2^32 and inside a block.
    start, width = 2**40 + 77, 10**6
    part = cd.Mask(KEY, start, 0.3, (width, width))[99_997:, 123_456:123_458][:3]
    rows = [reference.keep(KEY, start + row * width + 123_456, 2, 0.3) for row in (99_997, 99_998, 99_999)]
    assert bits(part.keep()) == bits(np.array(rows))
    assert part.strides == (width, 1)
    assert part.start == start + 99_997 * width + 123_456


# Rows that are gathered, seeded or shared, repeated positions, and few rows for many threads.
LARGE_PARTS = [
    ((4000, 600), (), np.s_[:, 7:300]),
    ((300, 8000), (), np.s_[:, 1:5003]),
    ((9, 700, 300), (1,), np.s_[:, :, 3:250]),
    ((30, 300, 300), (2,), np.s_[:, 7:207]),
    ((3, 700_000), (), np.s_[:, 50:]),
    ((1200, 2000), (), np.s_[::2, 1::2]),
    ((40, 3000, 64), (2,), np.s_[:, 5:2900:7]),
    ((8, 2500, 70), (2,), np.s_[:, 100:1100]),
]


@pytest.mark.parametrize(("shape", "shared_axes", "index"), LARGE_PARTS)
def test_thread_counts_agree_on_parts(shape, shared_axes, index):
    mask = cd.Mask(KEY, 77, 0.1, shape, shared_axes)
    x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    part, x_part = mask[index], np.ascontiguousarray(x[index])
    assert x_part.size > 300_000
    expected, kept = bits(mask.apply(x)[index]), bits(mask.keep()[index])
    found = by_every_thread_count(lambda: (bits(part.apply(x_part)), bits(part.keep())))
    assert set(found) == {(expected, kept)}


@pytest.mark.parametrize(("shape", "shared_axes", "index"), LARGE_PARTS)
def test_streaming_stores_change_no_bit_of_a_part(isa, shape, shared_axes, index):
    mask = cd.Mask(KEY, 77, 0.1, shape, shared_axes)
    x_part = np.random.default_rng(0).standard_normal(mask[index].shape, dtype=np.float32)[:700]
    part = mask[index][:700]
    expected = bits(part.apply(x_part)), bits(part.scaled())
    with limits(max_cached_bytes=0):
        assert (bits(part.apply(x_part)), bits(part.scaled())) == expected


@pytest.mark.parametrize("name", ["count", "packed", "indices"])
def test_decisions_of_more_elements_than_an_array_can_have_are_refused(name):
    mask = cd.Mask(KEY, 0, 0.3, (2**40, 2**40), 1)
    with pytest.raises(
        ValueError, match=r"shape must be one that an array can have, got \(1099511627776, 1099511627776\)"
    ):
        getattr(mask, name)()
    with pytest.raises(MemoryError):
        getattr(cd.Mask(KEY, 0, 0.3, (2**40, 2**22), 1), name)()


# Rows near each other and far apart, single positions, positions that others share.
REPEATED_PARTS = [
    ((7, 70, 64), (2,), np.s_[:, ::2]),
    ((5, 200, 130), (2,), np.s_[1:, 3:199]),
    ((3, 5000, 65), (2,), np.s_[:, 7:4500]),
    ((4, 2000, 64), (2,), np.s_[:, 5::90]),
    ((9, 300, 100), (0, 2), np.s_[2:, 7:200]),
    ((5, 9, 3, 64), (1, 3), np.s_[:, 2:, 1:]),
    ((2, 3, 70_001), (2,), np.s_[:, 1:, 5:]),
]


@pytest.mark.promise("mask-parts")
@pytest.mark.parametrize(("shape", "shared_axes", "index"), REPEATED_PARTS)
@pytest.mark.parametrize("start", [0, 4090])
def test_parts_of_masks_with_many_repeats_agree_with_the_whole(isa, shape, shared_axes, index, start):
    mask = cd.Mask(KEY, start, 0.5, shape, shared_axes)
    part, keep = mask[index], mask.keep()
    assert bits(part.keep()) == bits(keep[index])
    assert part.count() == keep[index].sum()
    assert bits(part.packed()) == bits(np.packbits(keep[index]))
    assert bits(part.indices()) == bits(np.flatnonzero(keep[index]))
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    assert bits(part.apply(x[index])) == bits(np.where(keep, x * np.float32(2), 0)[index])
    pixels = x.view(np.uint8)[..., :: x.itemsize]
    assert bits(part.select(pixels[index])) == bits(np.where(keep, pixels, 0)[index])


@pytest.mark.promise("bits-isa-threads")
@pytest.mark.parametrize("n_elems", [1, 64, 16_383, 16_384, 16_385, 100_000])
@pytest.mark.parametrize("start", [0, 77])
def test_thread_counts_agree_on_decisions(n_elems, start):
    mask = cd.Mask(KEY, start, 0.3, (n_elems,))
    keep, chances = mask.keep(), np.linspace(0, 1, n_elems)
    assert set(by_every_thread_count(mask.count)) == {int(keep.sum())}
    for found, expected in (
        (mask.packed, np.packbits(keep)),
        (mask.indices, np.flatnonzero(keep)),
        (lambda: _kernels.dropped_indices(mask), np.flatnonzero(~keep)),
        (lambda: mask.dropped(dtype=np.int16), (~keep).astype(np.int16)),
        (lambda: cd.bernoulli(n_elems, 0.3, rng=1), cd.bernoulli(n_elems, np.full(n_elems, 0.3), rng=1)),
        (lambda: cd.bernoulli(n_elems, chances, rng=1), cd.bernoulli(n_elems, chances, rng=1)),
    ):
        assert set(by_every_thread_count(lambda found=found: bits(found()))) == {bits(expected)}


def test_a_part_without_gaps_is_a_mask_like_any_other():
    # A slice of rows has the fields of a mask without strides, is equal to it, and has its hash.
    mask = cd.Mask(KEY, 100, 0.5, (8, 6, 5), 1)
    rows = cd.Mask(KEY, 100 + 2 * 5, 0.5, (3, 6, 5), 1)
    for index in (np.s_[2:5], np.s_[2:5, :], np.s_[2:5, ...], np.s_[2:5, :, 0:5], np.s_[..., 2:5, :, :]):
        assert mask[index] == rows
        assert hash(mask[index]) == hash(rows)
        assert repr(mask[index]) == repr(rows)
    assert mask[...] == mask[:] == mask[()] == mask[0::1] == mask
    assert mask[3:4, :, 1:4] == cd.Mask(KEY, 100 + 3 * 5 + 1, 0.5, (1, 6, 3), 1)
    assert mask[:, 2:3] == cd.Mask(KEY, 100, 0.5, (8, 1, 5), 1)
    assert mask[2:2].start == 100 + 2 * 5
    assert mask.strides == (5, 0, 1)
    assert cd.draw_mask((), 0.5, rng=1)[...].shape == ()


def test_other_indices_are_refused():
    mask = cd.draw_mask((5, 6), 0.5, rng=1)
    bad = [
        (3, TypeError),
        ((slice(1), 3), TypeError),
        (None, TypeError),
        ([slice(1)], TypeError),
        (np.array([1, 2]), TypeError),
        (np.s_[..., ...], IndexError),
        (np.s_[:, :, :], IndexError),
        (np.s_[:, :, :, ...], IndexError),
        (np.s_[::-1], ValueError),
        (np.s_[:, 5:1:-2], ValueError),
    ]
    for index, error in bad:
        with pytest.raises(error, match="a mask"):
            mask[index]
    with pytest.raises(IndexError, match=r"a mask of shape \(\) has 0 axes to slice"):
        cd.draw_mask((), 0.5, rng=1)[:]
    with pytest.raises(TypeError, match="no length"):
        len(cd.draw_mask((), 0.5, rng=1))


def test_strides_that_no_slice_could_give_are_refused():
    for strides, error, message in [
        (5, TypeError, "strides must be a tuple of integers, got 5"),
        ((1.5, 1), TypeError, "strides must be a tuple of integers"),
        ((6,), ValueError, "strides must have one number for each axis"),
        ((5, 1), ValueError, "strides must go past all that inner axes"),
        ((1, 4), ValueError, "strides must go past all that inner axes"),
        ((-7, 1), ValueError, "strides must go past all that inner axes"),
        ((6, 0), ValueError, "strides must go past all that inner axes"),
    ]:
        with pytest.raises(error, match=message):
            cd.Mask(0, 0, 0.5, (4, 6), (), strides)
    with pytest.raises(ValueError, match=r"strides must be 0 along the shared axes \(0,\)"):
        cd.Mask(0, 0, 0.5, (4, 6), 0, (6, 1))
    with pytest.raises(OverflowError, match="the stream must hold what is drawn"):
        cd.Mask(0, 0, 0.5, (4, 6), (), (2**63, 1))
    assert cd.Mask(0, 0, 0.5, (4, 6), (), (7, 1)).keep().shape == (4, 6)


class NamedMask(cd.Mask):
    """A mask with an attribute."""


def test_a_value_of_a_subclass_is_pickled_with_its_attributes():
    mask = NamedMask(1, 0, 0.5, 4)
    mask.name = "first"
    loaded = pickle.loads(pickle.dumps(mask))
    assert type(loaded) is NamedMask
    assert (loaded, loaded.name) == (mask, "first")


def test_values_and_generators_can_be_referenced_weakly():
    for make in (partial(cd.Mask, 1, 0, 0.5, 4), partial(cd.Noise, 1, 0, 0.5, 4), cd.Stream, cd.StreamBitGenerator):
        value = make()
        table = weakref.WeakValueDictionary(key=value)
        assert table["key"] is value
        del value
        assert "key" not in table


def test_values_of_a_subclass_are_equal_and_foreign_types_have_their_say():
    class Special(cd.Mask):
        __slots__ = ()

    assert Special(1, 0, 0.5, 4) == cd.Mask(1, 0, 0.5, 4)
    assert cd.Mask(1, 0, 0.5, 4) == Special(1, 0, 0.5, 4)
    assert cd.Mask(1, 0, 0.5, 4) == mock.ANY
    assert cd.Mask(1, 0, 0.5, 4) != cd.Noise(1, 0, 0.5, 4)
    assert cd.Mask(1, 0, 0.5, 4) != object()


@pytest.mark.parametrize("p", [0.05, 0.1, 0.25, 0.3, 0.7, 0.999])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
def test_a_product_with_the_scaled_mask_is_that_of_apply_to_the_last_place(dtype, p):
    """All finite 16-bit numbers; 65,536 normal ones of the other types."""
    if np.dtype(dtype).itemsize == 2:
        x = np.arange(1 << 16, dtype=np.uint16).view(dtype)
        x = x[np.isfinite(x.astype(np.float32))]
    else:
        x = np.random.default_rng(0).standard_normal(1 << 16).astype(dtype)
    mask = cd.draw_mask(x.shape, p, rng=1)
    keep = mask.keep()
    with np.errstate(over="ignore", invalid="ignore"):
        product, applied = (x * mask.scaled(dtype))[keep], mask.apply(x)[keep]
    if np.dtype(dtype).itemsize > 2:
        assert np.array_equal(product, applied)
        return
    n_places = np.abs(product.view(np.int16).astype(int) - applied.view(np.int16))
    assert n_places.max() <= 1
    assert p != 0.1 or n_places.mean() > 0.1  # so tests that compare the two need a tolerance
