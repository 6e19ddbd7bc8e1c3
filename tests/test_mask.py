"""Masks are values: immutable, without a buffer, comparable, picklable, sliceable."""

import copy
import itertools
import pickle
import sys
from unittest import mock

import numpy as np
import pytest

import cdropout as cd
from cdropout.value import restore


def test_a_mask_holds_no_array_and_cannot_be_changed():
    small, large = cd.draw_mask(1, 0.5, rng=1), cd.draw_mask((1000, 1000, 1000), 0.5, rng=1)
    assert sys.getsizeof(large) == sys.getsizeof(small) < 200
    for name in ("key", "start", "p", "shape", "shared_axes", "anything"):
        with pytest.raises(AttributeError):
            setattr(small, name, 1)
    small.__init__(0, 0, 1.0, 7)
    assert (small.p, small.shape) == (0.5, (1,))


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
        None,
    ]
    assert all(mask != other for other in others)
    assert len({mask, *others}) == 7


def test_pickle_copy_and_repr_round_trip():
    for mask in (cd.draw_mask((3, 4), 0.1, rng=2**100, shared_axes=0), cd.draw_mask((), 1.0, rng=1)):
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            assert pickle.loads(pickle.dumps(mask, protocol)) == mask
        assert copy.copy(mask) is mask
        assert copy.deepcopy([mask])[0] is mask
        assert eval(repr(mask), {"Mask": cd.Mask}) == mask
    assert "shared_axes=(0,)" in repr(cd.draw_mask((3, 4), 0.1, rng=1, shared_axes=0))


def test_a_pickle_of_another_version_is_refused():
    with pytest.raises(ValueError, match="a pickled Mask must be of version 1, got version 2"):
        restore(cd.Mask, 2, 0, 0, 0.5, (3,), ())


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


def test_keep_gives_a_new_writable_array_each_time():
    for axes in ((), 0):
        mask = cd.draw_mask((5, 7), 0.5, rng=4, shared_axes=axes)
        first = mask.keep()
        first[...] = False
        assert mask.keep().any()


@pytest.mark.parametrize("shared_axes", [(), 0, 1, (1, 2), (0, 2)])
def test_slices_are_the_masks_of_shards(shared_axes):
    mask = cd.draw_mask((100, 13, 7), 0.5, rng=4, shared_axes=shared_axes)
    whole = mask.keep()
    for rows in (slice(0, 100), slice(10, 53), slice(99, None), slice(-5, -1), slice(7, 7), slice(50, 3), slice(None)):
        assert np.array_equal(mask[rows].keep(), whole[rows]), rows
    assert np.array_equal(mask[20:80][30:40].keep(), whole[50:60])
    assert len(mask) == 100
    assert len(mask[10:20]) == 10


def test_shards_cover_the_whole_exactly_once():
    x = np.random.default_rng(0).standard_normal((1001, 37)).astype(np.float32)
    mask = cd.draw_mask(x.shape, 0.3, rng=4)
    cuts = [0, 1, 128, 129, 700, 1001]
    shards = [mask[a:b].apply(x[a:b]) for a, b in itertools.pairwise(cuts)]
    assert np.array_equal(np.concatenate(shards), mask.apply(x))


def test_a_mask_is_true_and_its_arrays_are_contiguous():
    assert cd.draw_mask((), 0.5, rng=1)
    assert cd.draw_mask((0, 5), 0.5, rng=1)
    for axes in ((), 0, 1):
        mask = cd.draw_mask((4, 6), 0.5, rng=1, shared_axes=axes)
        assert mask.keep().flags.c_contiguous
        assert mask.scaled().flags.c_contiguous


def test_other_indices_are_refused():
    mask = cd.draw_mask((5, 6), 0.5, rng=1)
    for index, error in ((3, TypeError), ((slice(1), slice(1)), TypeError), (slice(0, 5, 2), ValueError)):
        with pytest.raises(error, match="a mask's"):
            mask[index]
    with pytest.raises(ValueError, match="step 1"):
        mask[::-1]
    with pytest.raises(IndexError, match="no first axis"):
        cd.draw_mask((), 0.5, rng=1)[:]
    with pytest.raises(TypeError, match="no length"):
        len(cd.draw_mask((), 0.5, rng=1))


def test_values_of_a_subclass_are_equal_and_foreign_types_have_their_say():
    class Special(cd.Mask):
        __slots__ = ()

    assert Special(1, 0, 0.5, 4) == cd.Mask(1, 0, 0.5, 4)
    assert cd.Mask(1, 0, 0.5, 4) == Special(1, 0, 0.5, 4)
    assert cd.Mask(1, 0, 0.5, 4) == mock.ANY
    assert cd.Mask(1, 0, 0.5, 4) != cd.Noise(1, 0, 0.5, 4)
    assert cd.Mask(1, 0, 0.5, 4) != object()
