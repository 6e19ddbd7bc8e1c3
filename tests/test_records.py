"""Records: what a forward pass leaves of its decisions for the backward pass, on instruction sets that gain by it."""

import pickle

import numpy as np
import pytest
import reference
from array_objects import bits, normals
from conftest import switches_settings
from limits import by_every_thread_count, limits

import cdropout as cd
from cdropout import _kernels

pytestmark = switches_settings

BLOCK = _kernels.BLOCK
SIZES = (1024, BLOCK, BLOCK + 64, 3 * BLOCK + 7, 262_144 + 63)
# Thresholds at which no element, one in 2^16, or all but one in 2^16 are dropped by 16 bits, and ties by their numbers.
PROBABILITIES = (2.0**-16, 1.5 * 2.0**-16, 0.1, 0.5, 1 - 1.5 * 2.0**-16, 1.0)


def needs_records(isa):
    if isa != "avx2":
        pytest.skip(f"{isa} makes decisions again in about the time of reading them")


def pass_forward_and_backward(x, dy, p):
    layer = cd.Dropout(p, rng=5)
    y = layer.forward(x)
    return layer.mask, y, layer.backward(dy)


@pytest.mark.parametrize("p", PROBABILITIES)
@pytest.mark.parametrize("n_elems", SIZES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_passes_with_a_record_match_the_reference(isa, dtype, n_elems, p):
    x, dy = normals(n_elems, dtype), normals(n_elems + 1, dtype)[1:].copy()
    x[::7], dy[::5] = np.nan, np.inf
    for mask, y, dx in by_every_thread_count(lambda: pass_forward_and_backward(x, dy, p)):
        assert _kernels.record_bytes(mask) == (n_elems // 64 * 8 if isa == "avx2" else 0)
        kept = reference.keep(mask.key, mask.start, n_elems, p)
        scale = 1 / (1 - p) if p < 1 else 1.0
        assert bits(y) == bits(reference.apply(x, kept, scale))
        assert bits(dx) == bits(reference.apply(dy, kept, scale))


def test_ties_are_resolved_in_records(isa):
    needs_records(isa)
    # 2^20 elements have 16 ties at this p, half of which are dropped: the record differs from both simpler ones.
    n_elems, p = 1 << 20, 0.3 + 2.0**-17
    mask, _, dx = pass_forward_and_backward(np.ones(n_elems, np.float32), np.ones(n_elems, np.float32), p)
    assert _kernels.record_bytes(mask) == n_elems // 8
    kept = mask.keep()
    assert np.array_equal(dx != 0, kept)
    for other in (np.floor(p * 2**16) / 2**16, np.ceil(p * 2**16) / 2**16):
        assert not np.array_equal(cd.Mask(mask.key, mask.start, other, n_elems).keep(), kept)


@pytest.mark.parametrize("scale", [-2.0, -0.0, 0.0, 1e-60, 3.0, 3.4e38, 3.5e38, 1e300])
def test_any_scale_gives_positive_zeros_where_elements_are_dropped(isa, scale):
    x = normals(3 * BLOCK, np.float32)
    mask, _, _ = pass_forward_and_backward(x, x, 0.5)
    result, kept = mask.apply(x, scale=scale), mask.keep()
    assert bits(result) == bits(reference.apply(x, kept, scale))
    assert not np.signbit(result[~kept]).any()
    assert bits(cd.Mask(mask.key, mask.start, 0.5, x.shape).apply(x, scale=scale)) == bits(result)


def test_a_record_serves_in_place_other_dtypes_and_layouts(isa):
    x = normals(8 * BLOCK, np.float32).reshape(64, -1)
    mask, y, _ = pass_forward_and_backward(x, x, 0.4)
    in_place = x.copy()
    assert mask.apply(in_place, out=in_place) is in_place
    assert bits(in_place) == bits(y)
    plain = cd.Mask(mask.key, mask.start, mask.p, mask.shape)
    for other in (x.astype(np.float64), x.astype(np.float16), np.asfortranarray(x), x[::1, ::-1]):
        assert bits(mask.apply(other)) == bits(plain.apply(other))
    assert bits(mask.apply(x, shift=1.0)) == bits(plain.apply(x, shift=1.0))
    assert bits(mask.apply(x, fill=-3.0)) == bits(plain.apply(x, fill=-3.0))
    assert bits(mask[3:9].apply(x[3:9])) == bits(y[3:9])


def test_a_record_is_no_part_of_the_mask_as_a_value(isa):
    x = normals(BLOCK, np.float32)
    mask, _, _ = pass_forward_and_backward(x, x, 0.4)
    plain = cd.Mask(mask.key, mask.start, mask.p, mask.shape)
    assert mask == plain
    assert pickle.dumps(mask) == pickle.dumps(plain)
    assert _kernels.record_bytes(pickle.loads(pickle.dumps(mask))) == 0


def test_a_record_of_other_kernels_is_not_read(isa):
    x = normals(BLOCK, np.float32)
    mask, y, _ = pass_forward_and_backward(x, x, 0.4)
    for other in _kernels.supported_isas():
        _kernels.use_isa(other)
        assert bits(mask.apply(x)) == bits(y)


def test_arrays_outside_the_limits_have_no_record(isa):
    needs_records(isa)
    x = normals(4 * BLOCK, np.float32)
    _, expected, _ = pass_forward_and_backward(x, x, 0.4)
    for changes in ({"max_recorded_elems": 4 * BLOCK - 1}, {"min_recorded_elems": 4 * BLOCK + 1}):
        with limits(**changes):
            mask, y, dx = pass_forward_and_backward(x, x, 0.4)
        assert _kernels.record_bytes(mask) == 0
        assert bits(y) == bits(expected) == bits(dx)


@pytest.mark.parametrize(
    "layer",
    [
        cd.Dropout(0.4, rng=5, shared_axes=0),
        cd.AlphaDropout(0.4, rng=5),
        cd.Dropout(0.0, rng=5),
        cd.Dropout(2.0**-18, rng=5),
    ],
    ids=["shared-axes", "alpha", "p-0", "p-tiny"],
)
def test_other_maps_have_no_record(isa, layer):
    x = normals(4 * BLOCK, np.float32).reshape(4, -1)
    layer.forward(x)
    assert _kernels.record_bytes(layer.mask) == 0


def test_streaming_stores_by_signs_match_ordinary_ones(isa):
    x = normals(64 * BLOCK + 5, np.float32)
    mask = cd.Mask(cd.Stream(1).key, 0, 0.3, x.shape)
    expected, relu = mask.apply(x), cd.relu_dropout(x, 0.3, rng=1)
    with limits(max_cached_bytes=0):
        for offset in (0, 1, 4):
            out = np.empty(len(x) + offset, np.float32)[offset:]
            assert bits(mask.apply(x, out=out)) == bits(expected)
            assert bits(cd.relu_dropout(x, 0.3, rng=1, out=out)) == bits(relu)
