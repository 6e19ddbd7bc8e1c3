"""Every kernel, on every instruction set, thread count, layout and alignment, against the model: bit for bit."""

import functools
import hashlib
import itertools
import math

import ml_dtypes
import numpy as np
import pytest
import reference
from array_objects import bits, normals
from conftest import needs_core_probe, switches_settings
from core_probe import isas_that_ran
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from limits import by_every_thread_count, limits
from threadpoolctl import threadpool_limits

import cdropout as cd
from cdropout import _kernels

BLOCK = _kernels.BLOCK
SIZES = (0, 1, 63, 64, 65, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7, 1_000_003)
DTYPES = (np.float32, np.float64, np.float16, ml_dtypes.bfloat16)
KEY = cd.Stream(2024).key


@pytest.fixture(scope="module")
def kept_of_every_size():
    """The model's decisions, computed once: each size is a prefix of the largest one."""
    return {p: reference.keep(KEY, 0, max(SIZES), p) for p in (0.1, 0.5)}


@needs_core_probe
def test_every_kernel_that_ran_was_compiled_for_the_forced_isa(isa):
    assert _kernels.active_isa() == isa
    assert isas_that_ran() == {isa}


@pytest.mark.promise("rounded-once")
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


@pytest.mark.promise("memory-bounds")
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


# Inside a block; on both sides of 2^31, 2^32 and 2^63, and of the positions at which a block's index passes 2^31 and
# 2^32; the last 3000 positions of a stream.
STARTS = (
    *(1, 63, 64, 4095, 4097, 2**31 - 1500, 2**31 + 1, 2**32 - 1500, 2**32 + 100, 2**43 - 1500, 2**44 - 1500),
    *(2**63 - 1500, 2**63 + 4095, _kernels.POSITION_LIMIT - 3000),
)


@pytest.mark.parametrize("start", STARTS)
def test_masks_that_start_anywhere_match_the_reference(isa, start):
    kept = reference.keep(KEY, start, 3000, 0.3)
    mask = cd.Mask(KEY, start, 0.3, 3000)
    assert bits(mask.keep()) == bits(kept)
    assert bits(np.concatenate([mask[:1499].keep(), mask[1499:].keep()])) == bits(kept)
    for dtype in DTYPES:
        x = normals(3000, dtype)
        assert bits(mask.apply(x)) == bits(reference.apply(x, kept, 1 / 0.7))
    x = normals((30, 40, 3), np.float32)
    for axes in ((0,), (2,), (0, 2)):
        kept = reference.keep_of_shape(KEY, start, x.shape, 0.3, axes)
        assert bits(cd.Mask(KEY, start, 0.3, x.shape, axes).apply(x)) == bits(reference.apply(x, kept, 1 / 0.7))
    numbers = reference.normals(KEY, start, 3000)
    assert bits(cd.Noise(KEY, start, 1.0, 3000).add(np.zeros(3000, np.float32))) == bits(numbers)


@pytest.mark.promise("whole-blocks")
@pytest.mark.parametrize("position", [2**31, 2**32, 2**63])
def test_a_stream_passes_every_power_of_two_without_repeating_itself(position):
    # A position that wrapped around would repeat the stream from 0, or from the start of the block before.
    stream = cd.Stream(7)
    stream._place(stream.key, position - 4096)
    drawn = [cd.draw_mask(4096, 0.5, rng=stream) for _ in range(3)]
    assert [mask.start for mask in drawn] == [position - 4096, position, position + 4096]
    masks = [*drawn, cd.Mask(stream.key, 0, 0.5, 4096), cd.Mask(stream.key, 4096, 0.5, 4096)]
    assert len({bits(mask.keep()) for mask in masks}) == 5


@pytest.mark.promise("backward-mask")
@pytest.mark.parametrize("position", [2**31, 2**32, 2**63])
@pytest.mark.parametrize("layer_type", [cd.Dropout, cd.ReLUDropout])
def test_backward_drops_what_forward_dropped_where_positions_pass_a_power_of_two(isa, layer_type, position):
    stream, x = cd.Stream(7), np.ones(3 * 4096, np.float32)
    stream._place(stream.key, position - 4096)
    kept = reference.keep(stream.key, position - 4096, x.size, 0.5)
    layer = layer_type(0.5, rng=stream)
    for found in (layer.forward(x), layer.backward(x)):
        assert bits(found) == bits(reference.apply(x, kept, 2.0))


@pytest.mark.promise("rounded-once")
@pytest.mark.parametrize("dtype", DTYPES)
def test_dropped_elements_are_plus_zero_whatever_they_were(isa, dtype):
    special = np.array([np.nan, -np.nan, np.inf, -np.inf, -0.0, 5e-324, ml_dtypes.finfo(dtype).max], dtype)
    x = np.resize(special, 10_000)
    kept = reference.keep(KEY, 0, x.size, 0.5)
    y = cd.Mask(KEY, 0, 0.5, x.size).apply(x)
    assert not np.any(y[~kept].view(f"u{y.itemsize}"))
    with np.errstate(over="ignore"):
        assert bits(y[kept]) == bits(x[kept] * dtype(2))


def arbitrary_bits(n_elems, dtype):
    """Return numbers with random bits, a quarter of them infinities and NaNs with any payload, also signalling ones."""
    integers = np.dtype(f"u{np.dtype(dtype).itemsize}")
    x = np.random.default_rng(1).integers(0, np.iinfo(integers).max, n_elems, integers, endpoint=True)
    x[::4] |= np.array(np.inf, dtype).view(integers)
    x[:2] = np.array([-0.0, 0.0], dtype).view(integers)
    return x.view(dtype)


@pytest.mark.promise("p-0-and-1")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shared_axes", [(), 0, 1])
def test_p_0_copies_bit_for_bit_and_p_1_is_all_plus_zero(isa, dtype, shared_axes):
    x = arbitrary_bits(10_000, dtype).reshape(100, 100)
    before = bits(x)
    for p, expected in ((0.0, before), (0, before), (1.0, bytes(x.nbytes)), (1, bytes(x.nbytes))):
        keywords = {"rng": 1, "shared_axes": shared_axes}
        assert bits(cd.dropout(x, p, **keywords)) == expected
        assert bits(cd.draw_mask(x.shape, p, **keywords).apply(x)) == expected
        for out in layouts_of(np.zeros_like(x)).values():
            if out.flags.writeable and out.dtype == x.dtype:
                assert bits(cd.dropout(x, p, out=out, **keywords)) == expected
        in_place = x.copy()
        assert bits(cd.dropout(in_place, p, out=in_place, **keywords)) == expected
        assert bits(x) == before


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_p_next_to_nothing_scales_by_next_to_nothing(isa, dtype):
    # 1 / (1 - 1e-12) is 1 in all types narrower than float64.
    x = normals(10_000, dtype)
    y = cd.Mask(KEY, 0, 1e-12, x.size).apply(x)
    assert bits(y) == bits(reference.apply(x, reference.keep(KEY, 0, x.size, 1e-12), 1 / (1 - 1e-12)))
    assert np.array_equal(x, y) == (dtype != np.float64)


@pytest.mark.parametrize("p", [5e-324, 1e-17])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_p_too_small_to_drop_multiplies_by_one(isa, dtype, p):
    # 1 / (1 - p) is 1: every number is unchanged, and a NaN remains a NaN.
    x = arbitrary_bits(10_000, dtype)
    integers = x.view(f"u{x.itemsize}")
    infinity = np.array(np.inf, dtype).view(integers.dtype)
    is_nan = integers & (np.iinfo(integers.dtype).max >> 1) > infinity
    y = cd.dropout(x, p, rng=1).view(integers.dtype)
    assert np.array_equal(y[~is_nan], integers[~is_nan])
    assert np.all(y[is_nan] & (np.iinfo(integers.dtype).max >> 1) > infinity)


@pytest.fixture
def shared_out(fixed_quota):
    """Divide every job among all threads of OpenMP, even a small one."""
    with limits(min_elems_per_thread=1):
        yield


MISALIGNMENTS = ((0, 0), (1, 1), (0, 7), (2, 6), (4, 4), (16, 8), (31, 33), (63, 1))  # bytes, of x and of out
MISALIGNED_SIZES = (
    *(0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 95, 127, 128, 129, 191, 255, 320, 511, 513, 1000),
    *(1023, 2047, 2049, 3001, 4031, 4032, 4095, 4096, 4097, 4159, 4161, 5000, 8191, 8192, 8193, 8256, 10_007, 12_289),
    *(16_385, 20_481, 32_767, 32_769, 65_537),
)


def results_of_misaligned_arrays(apply, keep):
    """Yield the bytes of each size's decisions, and of its results at each misalignment, with dtypes in turn."""
    for i, n_elems in enumerate(MISALIGNED_SIZES):
        yield bits(keep(n_elems))
        for j, (x_offset, out_offset) in enumerate(MISALIGNMENTS):
            dtype = DTYPES[(i + j) % len(DTYPES)]
            x, out = (at_offset(n_elems, dtype, offset) for offset in (x_offset, out_offset))
            x[...] = normals_of_every_size(dtype)[:n_elems]
            yield bits(apply(x, out))


def at_offset(n_elems, dtype, offset):
    """Return an array that begins offset bytes after a multiple of 64."""
    n_bytes = n_elems * np.dtype(dtype).itemsize
    memory = np.zeros(n_bytes + 128, np.uint8)
    first = -memory.ctypes.data % 64 + offset
    return memory[first : first + n_bytes].view(dtype)


@functools.cache
def normals_of_every_size(dtype):
    return normals(max(MISALIGNED_SIZES), dtype)


def sha256_of(parts):
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


@pytest.fixture(scope="module")
def sha256_of_the_model(kept_of_every_size):
    return sha256_of(
        results_of_misaligned_arrays(
            lambda x, out: reference.apply(x, kept_of_every_size[0.1][: x.size], 1 / 0.9),
            lambda n_elems: kept_of_every_size[0.1][:n_elems],
        )
    )


@pytest.mark.promise("bits-isa-threads")
@pytest.mark.parametrize("n_threads", [1, 2, 3, 4, 7])
def test_one_sha256_for_every_isa_thread_count_size_and_misalignment(isa, shared_out, n_threads, sha256_of_the_model):
    # 50 sizes at 8 misalignments, in the four dtypes in turn.
    assert (len(set(MISALIGNED_SIZES)), len(set(MISALIGNMENTS))) == (50, 8)
    with threadpool_limits(n_threads, user_api="openmp"):
        if _kernels.has_openmp():
            assert _kernels.thread_limit() == n_threads
        found = sha256_of(
            results_of_misaligned_arrays(
                lambda x, out: cd.Mask(KEY, 0, 0.1, x.size).apply(x, out=out),
                lambda n_elems: cd.Mask(KEY, 0, 0.1, n_elems).keep(),
            )
        )
    assert found == sha256_of_the_model


@pytest.mark.parametrize("dtype", DTYPES)
def test_thread_counts_agree_on_fills_and_rows(isa, shared_out, dtype):
    mask = cd.Mask(KEY, 77, 0.1, 150_017)
    rows, x = cd.Mask(KEY, 77, 0.1, (103, 1495), shared_axes=0), normals((103, 1495), dtype)
    digests = by_every_thread_count(lambda: sha256_of(map(bits, (mask.keep(), mask.scaled(dtype), rows.apply(x)))))
    assert len(set(digests)) == 1


@switches_settings
@pytest.mark.parametrize("n_threads", [1, 3, 8])
def test_any_job_shared_out_among_threads_matches_the_reference(isa, shared_out, n_threads):
    # Rows, nested rows, runs, starts inside blocks.
    jobs = [((5, 4, 300), (1,)), ((300, 40), 0), ((300, 40), 1), ((7, 3, 9, 11), (0, 2)), ((9000,), ()), ((2, 4500), 0)]
    with threadpool_limits(n_threads, user_api="openmp"):
        for (shape, axes), start in itertools.product(jobs, (0, 4000)):
            x = normals(shape, np.float32)
            mask = cd.Mask(KEY, start, 0.3, shape, axes)
            kept = reference.keep_of_shape(KEY, start, shape, 0.3, mask.shared_axes)
            assert bits(mask.apply(x)) == bits(reference.apply(x, kept, 1 / 0.7))
            assert bits(mask.keep()) == bits(kept)


def layouts_of(values):
    """Return the same values in every layout of NumPy, by name."""
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
        # ml_dtypes has only the native byte order
        "byte-swapped": values.copy() if values.dtype.kind == "V" else values.astype(values.dtype.newbyteorder()),
        "misaligned": unaligned,
        "read-only": np.frombuffer(values.tobytes(), values.dtype).reshape(values.shape),
    }


@pytest.mark.promise("bits-layouts")
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


@pytest.mark.promise("mask-parts")
def test_a_mask_is_its_beginning_followed_by_the_mask_of_the_rest_for_1000_splits():
    chance = np.random.default_rng(5)
    for _ in range(1000):
        n_elems = int(chance.integers(1, 20_000))
        cut, start = int(chance.integers(0, n_elems, endpoint=True)), int(chance.integers(0, 2**63))
        key, p = int.from_bytes(chance.bytes(16), "little"), float(chance.random())
        whole = cd.Mask(key, start, p, n_elems)
        parts = whole[:cut], whole[cut:]
        assert parts == (cd.Mask(key, start, p, cut), cd.Mask(key, start + cut, p, n_elems - cut))
        assert bits(np.concatenate([part.keep() for part in parts])) == bits(whole.keep()), whole
        x = np.ones(n_elems, np.float32)
        assert bits(np.concatenate([parts[0].apply(x[:cut]), parts[1].apply(x[cut:])])) == bits(whole.apply(x)), whole


@functools.cache
def patterns_scaled_in_integers(dtype, p):
    """Return every 16-bit pattern's bits times the scale for p, rounded once, to nearest with ties to even, in integer
    arithmetic except for the scale.
    """
    info, name = ml_dtypes.finfo(dtype), np.dtype(dtype).name
    patterns = np.arange(65_536)
    magnitude, infinity = patterns & 0x7FFF, 0x7FFF >> info.nmant << info.nmant
    # A finite pattern is n times 2^(exponent + n_steps), with n_steps steps of the exponent's field; a subnormal number
    # has the smallest exponent. The scale is m times 2^scale_exponent.
    field = magnitude >> info.nmant
    n = (magnitude & 2**info.nmant - 1) + np.where(field > 0, 2**info.nmant, 0)
    n_steps = np.maximum(field, 1) - 1
    fraction, scale_exponent = math.frexp(reference.rounded_to_bits(1 / (1 - p), reference.SCALE_BITS[name]))
    m, scale_exponent = int(fraction * 2**24), scale_exponent - 24
    products = n * m
    # Number of bits of the product below the last bit of the result, which has a lower bound for subnormal numbers.
    n_bits = np.array([int(product).bit_length() for product in products])
    n_cut = np.maximum(n_bits - info.nmant - 1, -scale_exponent - n_steps)
    assert n_cut.min() > 0
    down = products >> n_cut
    twice_rest = 2 * (products - (down << n_cut)) - (1 << n_cut)
    rounded = down + ((twice_rest > 0) | (twice_rest == 0) & (down % 2 == 1))
    # A significand's leading bit, and the carry of its rounding, correctly add to the exponent's field.
    scaled = np.minimum((n_steps + n_cut + scale_exponent << info.nmant) + rounded, infinity)
    return (np.where(magnitude >= infinity, magnitude, scaled) | patterns & 0x8000).astype(np.uint16)


@pytest.mark.promise("rounded-once")
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("p", [0.1, 0.3, 0.5, 0.9, 1 / 3])
def test_every_16_bit_pattern_is_scaled_with_one_rounding_or_becomes_plus_zero(isa, dtype, p):
    # All 65,536 patterns at kept elements, and all of them at dropped elements.
    patterns = np.arange(65_536, dtype=np.uint16)
    mask = cd.Mask(KEY, 0, p, math.ceil(70_000 / min(p, 1 - p)))
    kept = mask.keep()
    at_kept, at_dropped = np.flatnonzero(kept)[:65_536], np.flatnonzero(~kept)[:65_536]
    x = np.zeros(mask.shape, np.uint16)
    x[at_kept] = x[at_dropped] = patterns
    y = mask.apply(x.view(dtype))
    y_kept, infinity = y[at_kept].view(np.uint16), np.array(np.inf, dtype).view(np.uint16)
    is_nan = patterns & 0x7FFF > infinity
    assert np.all(y_kept[is_nan] & 0x7FFF > infinity)
    assert np.array_equal(y_kept[~is_nan], patterns_scaled_in_integers(dtype, p)[~is_nan])
    assert not y[at_dropped].view(np.uint16).any()


@switches_settings
def test_streaming_stores_change_no_bit(isa):
    # Arrays larger than the caches are written past them; a lower threshold does so with small ones.
    for dtype, (x_offset, out_offset) in itertools.product(DTYPES, ((0, 0), (4, 4), (2, 6), (0, 62), (8, 16))):
        n_elems = 3 * BLOCK + 1234
        x = normals(n_elems + 40, dtype)[x_offset // 2 :][:n_elems]
        memory = np.full((n_elems + 64) * x.itemsize, 0xA5, np.uint8)
        out = memory[out_offset : out_offset + x.nbytes].view(dtype)
        mask = cd.Mask(KEY, 99, 0.1, n_elems)
        expected = bits(mask.apply(x))
        with limits(max_cached_bytes=0):
            assert bits(mask.apply(x, out=out)) == expected
            assert bits(mask.scaled(dtype)) == bits(mask.apply(np.ones_like(x)))
            rows = cd.Mask(KEY, 0, 0.1, (5, n_elems), 0)
            assert bits(rows.apply(np.tile(x, (5, 1)))) == bits(np.tile(cd.Mask(KEY, 0, 0.1, n_elems).apply(x), (5, 1)))
        assert np.all(memory[:out_offset] == 0xA5)
        assert np.all(memory[out_offset + x.nbytes :] == 0xA5)


def test_scale_replaces_the_masks_own(isa):
    x = normals(10_000, np.float32)
    kept = reference.keep(KEY, 0, x.size, 0.25)
    mask = cd.Mask(KEY, 0, 0.25, x.size)
    assert bits(mask.apply(x, scale=1.0)) == bits(np.where(kept, x, np.float32(0)))
    assert bits(mask.apply(x, scale=-2.5)) == bits(reference.apply(x, kept, -2.5))
    assert bits(cd.Mask(KEY, 0, 0.0, x.size).apply(x, scale=3.0)) == bits(x * np.float32(3))
