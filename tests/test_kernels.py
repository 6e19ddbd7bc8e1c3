"""Every kernel, on every instruction set, thread count, layout and alignment, against the model: bit for bit."""

import hashlib
import itertools

import ml_dtypes
import numpy as np
import pytest
import reference
from conftest import ISAS, THREAD_COUNTS, switches_settings
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from threadpoolctl import threadpool_limits

import cdropout as cd
from cdropout import _kernels

BLOCK = _kernels.BLOCK
SIZES = (0, 1, 63, 64, 65, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7, 1_000_003)
DTYPES = (np.float32, np.float64, np.float16, ml_dtypes.bfloat16)
KEY = cd.Stream(2024).key
CACHE_BYTES = _kernels.get_max_cached_bytes()


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


@pytest.mark.parametrize("n_elems", SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_misaligned_pointers_match_the_reference_and_leave_their_surroundings(isa, dtype, n_elems, kept_of_every_size):
    itemsize = np.dtype(dtype).itemsize
    kept = kept_of_every_size[0.1][:n_elems]
    values = normals(n_elems, dtype)
    expected = bits(reference.apply(values, kept, 1 / 0.9))
    offsets = itertools.product((0, 1, itemsize, itemsize + 3, 60), (0, 2, itemsize, 61))
    for x_offset, out_offset in offsets if n_elems < 100_000 else ((1, itemsize + 3), (60, 2)):
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
    special = np.array([np.nan, -np.nan, np.inf, -np.inf, -0.0, 5e-324, ml_dtypes.finfo(dtype).max], dtype)
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


@switches_settings
@pytest.mark.parametrize("n_threads", [1, 3, 8])
def test_any_job_shared_out_among_threads_matches_the_reference(isa, n_threads):
    # The threshold is lowered, so that threads share small arrays too: rows, nested rows, runs, starts inside blocks.
    jobs = [((5, 4, 300), (1,)), ((300, 40), 0), ((300, 40), 1), ((7, 3, 9, 11), (0, 2)), ((9000,), ()), ((2, 4500), 0)]
    _kernels.set_min_elems_per_thread(1)
    try:
        with threadpool_limits(n_threads, user_api="openmp"):
            for (shape, axes), start in itertools.product(jobs, (0, 4000)):
                x = normals(shape, np.float32)
                mask = cd.Mask(KEY, start, 0.3, shape, axes)
                kept = reference.keep_of_shape(KEY, start, shape, 0.3, mask.shared_axes)
                assert bits(mask.apply(x)) == bits(reference.apply(x, kept, 1 / 0.7))
                assert bits(mask.keep()) == bits(kept)
    finally:
        _kernels.set_min_elems_per_thread(262144)


@switches_settings
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
        # ml_dtypes has no other byte order
        "byte-swapped": values.copy() if values.dtype.kind == "V" else values.astype(values.dtype.newbyteorder()),
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


@pytest.mark.parametrize("shape", [(3, 0), (0,), (2, 0, 5)])
def test_an_empty_out_is_welcome(shape):
    x, out = np.ones(shape, np.float32), np.ones(shape, np.float32)
    assert cd.dropout(x, 0.5, rng=1, out=out) is out
    assert cd.draw_mask(shape, 0.5, rng=1).apply(x, out=out) is out


def test_a_view_whose_only_difference_is_the_stride_of_a_single_element_is_in_place():
    x = np.ones((4, 5), np.float32).T[None]
    out = np.expand_dims(x[0], 0)
    assert x.strides != out.strides
    expected = bits(cd.dropout(x, 0.5, rng=1))
    assert bits(cd.dropout(x, 0.5, rng=1, out=out)) == expected


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
def test_a_subclass_lends_its_memory_and_is_given_back(p, tmp_path):
    x = normals((4, 6), np.float32)
    expected = cd.dropout(x, p, rng=1)
    masked = np.ma.array(np.full((4, 6), 7, np.float32), mask=np.eye(4, 6, dtype=bool), hard_mask=True)
    mapped = np.memmap(tmp_path / "map", np.float32, "w+", shape=(4, 6))
    for out in (masked, mapped, np.full((4, 6), 7, np.float32).view(np.matrix)):
        assert cd.dropout(x, p, rng=1, out=out) is out
        assert bits(np.asarray(out)) == bits(expected)
    mapped[...] = x
    assert cd.Dropout(p, rng=1, inplace=True).forward(mapped) is mapped
    assert bits(np.asarray(mapped)) == bits(expected)


@pytest.mark.parametrize("axes", [np.int64(0), [0], (np.int32(-2),)])
def test_shared_axes_may_be_any_integers(axes):
    x = np.ones((8, 9), np.float32)
    expected = bits(cd.dropout(x, 0.5, rng=1, shared_axes=0))
    assert bits(cd.dropout(x, 0.5, rng=1, shared_axes=axes)) == expected
    assert bits(cd.draw_mask((8, 9), 0.5, rng=1, shared_axes=axes).apply(x)) == expected
    assert bits(cd.Dropout(0.5, rng=1, shared_axes=axes).forward(x)) == expected


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


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_every_16_bit_pattern_is_scaled_with_one_rounding(isa, dtype):
    # All 65,536 patterns, each kept: NaN stays NaN, and the rest is the exact product, rounded once.
    x = np.arange(65_536, dtype=np.uint16).view(dtype)
    for p in (0.1, 0.3, 0.5, 0.9, 1 / 3):
        mask = cd.Mask(KEY, 0, p, x.size)
        y, kept = mask.apply(x), mask.keep()
        expected = reference.apply(x, kept, 1 / (1 - p))
        is_nan = np.isnan(x.astype(np.float32)) & kept
        assert np.isnan(y[is_nan].astype(np.float32)).all()
        assert bits(y[~is_nan]) == bits(expected[~is_nan])


@switches_settings
def test_streaming_stores_change_no_bit(isa):
    # Arrays larger than the caches are written past them; the threshold is lowered so that small ones are, too.
    for dtype, (x_offset, out_offset) in itertools.product(DTYPES, ((0, 0), (4, 4), (2, 6), (0, 62), (8, 16))):
        n_elems = 3 * BLOCK + 1234
        x = normals(n_elems + 40, dtype)[x_offset // 2 :][:n_elems]
        memory = np.full((n_elems + 64) * x.itemsize, 0xA5, np.uint8)
        out = memory[out_offset : out_offset + x.nbytes].view(dtype)
        mask = cd.Mask(KEY, 99, 0.1, n_elems)
        expected = bits(mask.apply(x))
        _kernels.set_max_cached_bytes(0)
        try:
            assert bits(mask.apply(x, out=out)) == expected
            assert bits(mask.scaled(dtype)) == bits(mask.apply(np.ones_like(x)))
            rows = cd.Mask(KEY, 0, 0.1, (5, n_elems), 0)
            assert bits(rows.apply(np.tile(x, (5, 1)))) == bits(np.tile(cd.Mask(KEY, 0, 0.1, n_elems).apply(x), (5, 1)))
        finally:
            _kernels.set_max_cached_bytes(CACHE_BYTES)
        assert np.all(memory[:out_offset] == 0xA5)
        assert np.all(memory[out_offset + x.nbytes :] == 0xA5)


def test_scale_replaces_the_masks_own(isa):
    x = normals(10_000, np.float32)
    kept = reference.keep(KEY, 0, x.size, 0.25)
    mask = cd.Mask(KEY, 0, 0.25, x.size)
    assert bits(mask.apply(x, scale=1.0)) == bits(np.where(kept, x, np.float32(0)))
    assert bits(mask.apply(x, scale=-2.5)) == bits(reference.apply(x, kept, -2.5))
    assert bits(cd.Mask(KEY, 0, 0.0, x.size).apply(x, scale=3.0)) == bits(x * np.float32(3))
