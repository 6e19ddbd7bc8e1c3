"""Every kernel, on every instruction set, thread count, layout and alignment, against the model: bit for bit."""

import hashlib
import itertools

import numpy as np
import pytest
import reference
from conftest import ISAS, THREAD_COUNTS
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from threadpoolctl import threadpool_limits

import cdropout as cd
from cdropout import _kernels

BLOCK = _kernels.BLOCK
SIZES = (0, 1, 63, 64, 65, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7, 1_000_003)
DTYPES = (np.float32, np.float64)
KEY = cd.Stream(2024).key


def bits(a):
    """The array's bytes: NaN equals NaN, and -0.0 does not equal 0.0."""
    return np.ascontiguousarray(a).tobytes()


def normals(shape, dtype, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


@pytest.fixture(scope="module")
def kept_of_every_size():
    """The model's decisions, made once: sizes are prefixes of one another."""
    return {p: reference.keep(KEY, 0, max(SIZES), p) for p in (0.1, 0.5)}


def test_every_kernel_that_ran_was_compiled_for_the_forced_isa(isa):
    assert _kernels.active_isa() == isa
    assert _kernels.isas_that_ran() == {isa}


@pytest.mark.parametrize("n_elems", SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_isa_matches_the_reference(isa, dtype, n_elems, kept_of_every_size):
    x = normals(n_elems, dtype)
    for p, every_kept in kept_of_every_size.items():
        kept = every_kept[:n_elems]
        mask = cd.Mask(KEY, 0, p, n_elems)
        expected = reference.apply(x, kept, 1 / (1 - p))
        assert bits(mask.apply(x)) == bits(expected)
        assert bits(mask.keep()) == bits(kept)
        assert bits(mask.scaled(dtype)) == bits(reference.apply(np.ones_like(x), kept, 1 / (1 - p)))
        in_place = x.copy()
        assert mask.apply(in_place, out=in_place) is in_place
        assert bits(in_place) == bits(expected)


@pytest.mark.parametrize("n_elems", [n for n in SIZES if n < 100_000])
@pytest.mark.parametrize("dtype", DTYPES)
def test_misaligned_pointers_match_the_reference_and_leave_their_surroundings(isa, dtype, n_elems, kept_of_every_size):
    itemsize = np.dtype(dtype).itemsize
    kept = kept_of_every_size[0.1][:n_elems]
    values = normals(n_elems, dtype)
    expected = bits(reference.apply(values, kept, 1 / 0.9))
    for x_offset, out_offset in itertools.product((0, 1, itemsize, itemsize + 3, 60), (0, 2, itemsize, 61)):
        x_bytes = np.zeros(n_elems * itemsize + 128, np.uint8)
        x = x_bytes[x_offset : x_offset + n_elems * itemsize].view(dtype)
        x[...] = values
        out_bytes = np.full(n_elems * itemsize + 128, 0xA5, np.uint8)
        out = out_bytes[out_offset : out_offset + n_elems * itemsize].view(dtype)
        cd.Mask(KEY, 0, 0.1, n_elems).apply(x, out=out)
        assert bits(out) == expected
        assert np.all(out_bytes[:out_offset] == 0xA5)
        assert np.all(out_bytes[out_offset + n_elems * itemsize :] == 0xA5)


@pytest.mark.parametrize("start", [1, 63, 64, 4095, 4097, 2**31 - 5, 2**32 + 100, 2**63 - 7, 2**64 - 2 * 4096 - 3001])
def test_masks_that_start_inside_a_block_match_the_reference(isa, start):
    # Positions about 2^31, 2^32, 2^63 and the end of the stream: nothing wraps.
    x = normals(3000, np.float32)
    kept = reference.keep(KEY, start, 3000, 0.3)
    mask = cd.Mask(KEY, start, 0.3, 3000)
    assert bits(mask.keep()) == bits(kept)
    assert bits(mask.apply(x)) == bits(reference.apply(x, kept, 1 / 0.7))


@pytest.mark.parametrize("dtype", DTYPES)
def test_dropped_elements_are_plus_zero_whatever_they_were(isa, dtype):
    special = np.array([np.nan, -np.nan, np.inf, -np.inf, -0.0, 5e-324, np.finfo(dtype).max], dtype)
    x = np.resize(special, 10_000)
    kept = reference.keep(KEY, 0, x.size, 0.5)
    y = cd.Mask(KEY, 0, 0.5, x.size).apply(x)
    assert not np.any(y[~kept].view(f"u{y.itemsize}"))
    with np.errstate(over="ignore"):
        assert bits(y[kept]) == bits(x[kept] * dtype(2))


@pytest.mark.parametrize("dtype", DTYPES)
def test_p_0_copies_bit_for_bit_and_p_1_is_all_plus_zero(isa, dtype):
    integers = np.dtype(f"u{np.dtype(dtype).itemsize}")
    x = np.random.default_rng(1).integers(0, np.iinfo(integers).max, 10_000, integers).view(dtype)
    x[:3] = -0.0, np.nan, np.inf
    before = bits(x)
    assert bits(cd.dropout(x, 0.0, rng=1)) == before
    assert bits(x) == before
    assert not np.any(cd.dropout(x, 1.0, rng=1).view(integers))
    out = np.empty_like(x)
    assert bits(cd.dropout(x, 0, rng=1, out=out)) == before
    assert not np.any(cd.dropout(x, 1, rng=1, out=x).view(integers))


@pytest.mark.parametrize("dtype", DTYPES)
def test_thread_counts_agree(isa, dtype):
    n_elems = 1_500_017
    x = normals(n_elems, dtype)
    mask = cd.Mask(KEY, 77, 0.1, n_elems)
    by_rows = cd.Mask(KEY, 77, 0.1, (1003, 1495), shared_axes=0)
    digests = set()
    for n_threads in THREAD_COUNTS:
        with threadpool_limits(n_threads, user_api="openmp"):
            if _kernels.has_openmp():
                assert _kernels.thread_limit() == n_threads
            rows = by_rows.apply(x[: 1003 * 1495].reshape(1003, 1495))
            parts = [mask.apply(x), mask.keep(), mask.scaled(dtype), rows]
            digests.add(hashlib.sha256(b"".join(bits(part) for part in parts)).hexdigest())
    assert len(digests) == 1


def test_isas_agree_on_every_operation():
    x = normals((37, 11, 101), np.float32)
    digests = {}
    before = _kernels.active_isa()
    try:
        for name in ISAS:
            if name in _kernels.supported_isas():
                _kernels.use_isa(name)
                masks = [cd.draw_mask(x.shape, 0.37, rng=9, shared_axes=axes) for axes in ((), 0, (1, 2), (0, 1))]
                digests[name] = [bits(mask.apply(x)) for mask in masks]
    finally:
        _kernels.use_isa(before)
    assert len(digests) >= 1
    assert all(digest == digests["portable"] for digest in digests.values())


def layouts_of(values):
    """The same values in every layout that NumPy knows, by name."""
    values = np.ascontiguousarray(values)
    padded = np.zeros((*values.shape[:-1], 2 * values.shape[-1] + 3), values.dtype)
    padded[..., 1 : 2 * values.shape[-1] + 1 : 2] = values
    unaligned = np.zeros(values.nbytes + 1, np.uint8)[1:].view(values.dtype).reshape(values.shape)
    unaligned[...] = values
    return {
        "C": values,
        "Fortran": np.asfortranarray(values),
        "every second element": padded[..., 1 : 2 * values.shape[-1] + 1 : 2],
        "negative strides": values[::-1, ..., ::-1].copy()[::-1, ..., ::-1],
        "byte-swapped": values.astype(values.dtype.newbyteorder()),
        "misaligned": unaligned,
        "read-only": np.frombuffer(values.tobytes(), values.dtype).reshape(values.shape),
    }


@pytest.mark.parametrize("shared_axes", [(), 0, (1, 2)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_layout_gives_what_a_contiguous_copy_gives(isa, dtype, shared_axes):
    values = normals((13, 40, 17), dtype)
    mask = cd.draw_mask(values.shape, 0.3, rng=1, shared_axes=shared_axes)
    expected = bits(mask.apply(values))
    for name, x in layouts_of(values).items():
        y = mask.apply(x)
        assert bits(y) == expected, name
        assert y.dtype == np.dtype(dtype), name
        assert bits(x.astype(dtype)) == bits(values), name
    for name, out in layouts_of(np.zeros_like(values)).items():
        if name != "read-only":
            assert mask.apply(values, out=out) is out, name
            assert bits(out.astype(dtype)) == expected, name
    for name, x in layouts_of(values).items():
        if name != "read-only":
            mask.apply(x, out=x)
            assert bits(x.astype(dtype)) == expected, f"in place, {name}"


def test_another_view_of_the_same_elements_works_in_place():
    for transpose in (False, True):
        a = normals((30, 40), np.float32)
        expected = bits(cd.dropout(a.T if transpose else a, 0.3, rng=1))
        x, out = (a.T, a.T) if transpose else (a[:], a[:])
        assert x is not out
        assert cd.dropout(x, 0.3, rng=1, out=out) is out
        assert bits(out) == expected


def test_layouts_larger_than_the_iterators_buffer_agree():
    values = normals((701, 1009), np.float32)
    mask = cd.draw_mask(values.shape, 0.3, rng=1)
    assert bits(mask.apply(np.asfortranarray(values))) == bits(mask.apply(values))


@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 0, 2), (1, 1), (5, 1, 7)])
def test_odd_shapes_keep_their_shape(isa, shape):
    x = np.ones(shape, np.float32)
    y = cd.dropout(x, 0.5, rng=3)
    assert y.shape == shape
    assert y.dtype == np.float32
    kept = reference.keep_of_shape(cd.Stream(3).key, 0, shape, 0.5)
    assert bits(y) == bits(reference.apply(x, kept, 2.0))


@st.composite
def shapes_and_axes(draw):
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=5, max_side=70).filter(lambda s: np.prod(s) < 30_000))
    axes = draw(st.lists(st.integers(0, len(shape) - 1), unique=True).map(tuple))
    return shape, axes


@settings(max_examples=150, deadline=None)
@given(shapes_and_axes(), st.floats(0, 1), st.integers(0, 10_000), st.sampled_from(DTYPES))
def test_any_shape_with_any_shared_axes_matches_the_reference(shape_and_axes, p, start, dtype):
    shape, axes = shape_and_axes
    x = normals(shape, dtype)
    kept = reference.keep_of_shape(KEY, start, shape, p, axes)
    mask = cd.Mask(KEY, start, p, shape, axes)
    assert bits(mask.keep()) == bits(kept)
    assert bits(mask.apply(x)) == bits(reference.apply(x, kept, 1 / (1 - p) if p < 1 else 1))
    assert bits(mask.scaled(dtype)) == bits(reference.apply(np.ones_like(x), kept, 1 / (1 - p) if p < 1 else 1))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 20_000), st.data())
def test_a_range_of_a_mask_is_the_mask_of_the_range(n_elems, data):
    cut = data.draw(st.integers(0, n_elems))
    mask = cd.Mask(KEY, data.draw(st.integers(0, 9000)), 0.4, n_elems)
    assert bits(np.concatenate([mask[:cut].keep(), mask[cut:].keep()])) == bits(mask.keep())


def test_scale_replaces_the_masks_own(isa):
    x = normals(10_000, np.float32)
    kept = reference.keep(KEY, 0, x.size, 0.25)
    mask = cd.Mask(KEY, 0, 0.25, x.size)
    assert bits(mask.apply(x, scale=1.0)) == bits(np.where(kept, x, np.float32(0)))
    assert bits(mask.apply(x, scale=-2.5)) == bits(reference.apply(x, kept, -2.5))
    assert bits(cd.Mask(KEY, 0, 0.0, x.size).apply(x, scale=3.0)) == bits(x * np.float32(3))
