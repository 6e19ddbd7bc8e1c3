"""Masks on bool and integer arrays, and the forms in which a mask's decisions can be had."""

import itertools

import ml_dtypes
import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

import cdropout as cd
from cdropout import _kernels

KEY = 0x0123456789ABCDEFFEDCBA9876543210
INTEGERS = ("bool", *(f"{kind}{n_bytes}" for kind in "ui" for n_bytes in (1, 2, 4, 8)))
FLOATS = (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)
# Shape, shared axes, and the part of the mask that is used.
SHAPES = [
    ((4097,), (), ...),
    ((3, 70, 5), (), ...),
    ((30, 50, 3), 2, ...),  # pixels of an image with its channels last
    ((2, 40, 50, 4), 3, ...),
    ((3, 30, 50), 0, ...),  # channels first
    ((2, 3, 41, 50), (2, 3), ...),  # whole channels
    ((2, 1100, 7), 2, ...),
    ((2, 900, 9), 2, ...),
    ((60, 200), (), np.s_[::2, 1::3]),
    ((3, 4500, 2), 2, np.s_[1:, 7:]),
    ((4, 9000), (), np.s_[1:, 5:-3]),
    ((), (), ...),
    ((3, 0), (), ...),
]


def mask_of(shape, shared_axes, part, p=0.3, start=4090):
    return cd.Mask(KEY, start, p, shape, shared_axes)[part]


def kept_by(shape, shared_axes, part, p=0.3, start=4090):
    axes = (shared_axes,) if isinstance(shared_axes, int) else shared_axes
    return reference.keep_of_shape(KEY, start, shape, p, axes)[part]


def numbers(shape, dtype):
    """Return arbitrary bits of a dtype."""
    n_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    values = np.frombuffer(np.random.default_rng(0).bytes(n_bytes), np.uint8)
    return (values % 2 if np.dtype(dtype) == bool else values).view(dtype).reshape(shape)


def bits(a):
    return np.ascontiguousarray(a, a.dtype.newbyteorder("=")).tobytes()


@pytest.fixture(params=_kernels.supported_isas())
def isa(request):
    _kernels.use_isa(request.param)
    yield request.param
    _kernels.use_isa(None)


@pytest.mark.promise("integers")
@pytest.mark.parametrize("dtype", [*INTEGERS, *FLOATS])
def test_every_layout_of_masks_selects_the_references_bits(isa, dtype):
    for shape, shared_axes, part in SHAPES:
        mask, kept = mask_of(shape, shared_axes, part), kept_by(shape, shared_axes, part)
        x = numbers(mask.shape, dtype)
        fills = (0, 1, *((np.arange(mask.shape[-1]) % 2,) if mask.shape else ()))
        for fill in fills:
            expected = bits(reference.select(x, kept, fill))
            result = mask.select(x, fill)
            assert result.dtype == np.dtype(dtype)
            assert bits(result) == expected, (shape, shared_axes)
            in_place = x.copy()
            assert mask.select(in_place, fill, out=in_place) is in_place
            assert bits(in_place) == expected


@pytest.mark.parametrize("dtype", ["bool", "u1", "i2", "u4", "i8", np.float16])
@pytest.mark.parametrize("shared_axes", [(), 2, (1, 2)])
def test_every_memory_layout_selects_what_a_contiguous_copy_selects(dtype, shared_axes):
    values = numbers((13, 40, 6), dtype)
    mask, fill = mask_of(values.shape, shared_axes, ...), np.arange(6) % 2
    expected = bits(mask.select(values, fill))

    def layouts(a):
        padded = np.zeros((13, 40, 14), a.dtype)
        padded[..., 1:13:2] = a
        unaligned = np.zeros(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
        unaligned[...] = a
        return (
            np.asfortranarray(a), padded[..., 1:13:2], a[::-1, :, ::-1].copy()[::-1, :, ::-1],
            a.astype(a.dtype.newbyteorder()), unaligned,
        )  # fmt: skip

    for x in layouts(values):
        assert bits(mask.select(x, fill)) == expected
        assert bits(x) == bits(values)
    for out in layouts(np.zeros_like(values)):
        assert mask.select(values, fill, out=out) is out
        assert bits(out) == expected
    for x in layouts(values):
        mask.select(x, fill, out=x)
        assert bits(x) == expected


def test_fills_may_differ_along_any_axis():
    x = numbers((2, 3, 40, 50), "u1")
    mask, kept = mask_of(x.shape, 1, ...), kept_by(x.shape, 1, ...)
    of_channel = np.array([10, 20, 30])[:, None, None]
    whole = numbers(x.shape, "i2") % 256
    for fill in (of_channel, whole, whole[0], whole[:, :1, :1, :1], whole[..., :1], [[[[7]]]]):
        assert bits(mask.select(x, fill)) == bits(reference.select(x, kept, fill))


@pytest.mark.parametrize("p", [0.0, 1.0, 2.0**-20, 0.3])
def test_any_p_selects(p):
    x = numbers(9000, "i4")
    mask, kept = mask_of(9000, (), ..., p), kept_by((9000,), (), ..., p)
    assert bits(mask.select(x, -5)) == bits(reference.select(x, kept, -5))
    assert mask.count() == kept.sum()
    assert bits(mask.keep()) == bits(kept)
    assert bits(mask.dropped()) == bits(~kept)


@pytest.mark.parametrize("n_threads_from", [1, 4096])
def test_selections_shared_out_among_threads_are_the_same(isa, n_threads_from):
    before = _kernels.set_limits(min_elems_per_thread=n_threads_from, max_cached_bytes=0)
    try:
        for dtype, (shape, shared_axes, part) in itertools.product(("u1", "i8"), SHAPES):
            mask, kept = mask_of(shape, shared_axes, part), kept_by(shape, shared_axes, part)
            x = numbers(mask.shape, dtype)
            assert bits(mask.select(x, 1)) == bits(reference.select(x, kept, 1))
            assert bits(mask.keep()) == bits(kept)
    finally:
        _kernels.set_limits(**before)


@pytest.mark.parametrize("fill", [7, [10, 20, 30]])
@pytest.mark.parametrize(("start", "p"), [(0, 0.3), (1, 0.9), (4095, 2.0**-16), (2**40 + 61, 1 - 2.0**-16), (64, 0.5)])
def test_pixels_of_bytes_take_the_fill_of_their_channel(isa, start, p, fill):
    # 2,813 groups: in most cases at least one has a tie.
    x = numbers((450, 400, 3), "u1")
    mask = cd.Mask(KEY, start, p, x.shape, 2)
    kept = np.repeat(reference.keep(KEY, start, x.size // 3, p), 3).reshape(x.shape)
    expected = np.where(kept, x, np.array(fill, "u1"))
    before = _kernels.set_limits()
    try:
        for cached, per_thread in itertools.product((0, 1 << 40), (50_000, 1 << 40)):
            _kernels.set_limits(max_cached_bytes=cached, min_elems_per_thread=per_thread)
            assert np.array_equal(mask.select(x, fill), expected)
            in_place = x.copy()
            assert np.array_equal(mask.select(in_place, fill, out=in_place), expected)
            for n_rows in (1, 2, 7):  # all of its columns, so that the positions stay one run
                assert np.array_equal(mask[5 : 5 + n_rows].select(x[5 : 5 + n_rows], fill), expected[5 : 5 + n_rows])
    finally:
        _kernels.set_limits(**before)


def test_apply_copies_bools_and_integers():
    for dtype in INTEGERS:
        x = numbers((30, 40), dtype)
        mask = mask_of(x.shape, (), ...)
        assert bits(mask.apply(x)) == bits(mask.select(x))
        assert bits(mask.apply(x, fill=1)) == bits(mask.select(x, 1))
        out = np.empty_like(x)
        assert mask.apply(x, out, fill=np.ones(40, dtype)) is out
        assert bits(out) == bits(mask.select(x, 1))
    assert mask.apply([[1] * 40] * 30).dtype == np.array([1]).dtype
    hidden = np.ma.array(x, mask=x > 0)
    assert np.array_equal(mask.apply(hidden).mask, hidden.mask)


def test_select_does_not_scale_floats():
    x = np.array([np.nan, -0.0, np.inf, 1.5] * 100, np.float32)
    x.view(np.uint32)[::4] = 0x7FA00001  # signalling NaN
    mask, kept = mask_of(400, (), ...), kept_by((400,), (), ...)
    assert bits(mask.select(x, np.nan)) == bits(np.where(kept, x.view("u4"), np.float32(np.nan).view("u4")))
    with pytest.raises(TypeError, match=r"^fill must be a real number, got an array of shape"):
        mask.apply(x, fill=np.ones(400))


MASK = cd.Mask(KEY, 0, 0.5, (4, 6))
X = np.zeros((4, 6), np.uint8)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: MASK.select(X, 256), ValueError, "fill must be values of uint8, got 256"),
        (lambda: MASK.select(X, -1), ValueError, "fill must be values of uint8, got -1"),
        (lambda: MASK.select(X, 1.5), ValueError, "fill must be values of uint8, got 1.5"),
        (lambda: MASK.select(X, np.nan), ValueError, "fill must be values of uint8, got nan"),
        (lambda: MASK.select(X, [1, 2, 3, 4, 5, 300]), ValueError, "fill must be values of uint8, got 300"),
        (lambda: MASK.select(X.astype(bool), 2), ValueError, "fill must be values of bool, got 2"),
        (lambda: MASK.select(X.astype("i8"), 2**63), ValueError, f"fill must be values of int64, got {2**63}"),
        (lambda: MASK.select(X.astype("u8"), 2.0**64), ValueError, "fill must be values of uint64, got 1.8446"),
        (lambda: MASK.select(X.astype("f2"), 1e6), ValueError, "fill must be values of float16, got 1000000.0"),
        (lambda: MASK.select(X, 2**70), ValueError, f"fill must be values of uint8, got {2**70}"),
        (lambda: MASK.select(X, [1] * 5 + [2**70]), ValueError, f"fill must be values of uint8, got {2**70}"),
        (lambda: MASK.select(X.astype(bool), 2**70), ValueError, f"fill must be values of bool, got {2**70}"),
        (lambda: MASK.select(X.astype("f2"), 2**70), ValueError, "fill must be values of float16, got 1.18"),
        (lambda: MASK.select(X.astype("f8"), 10**400), ValueError, "fill must be values of float64, got 1000"),
        (lambda: MASK.select(X, np.array([1] * 6, object)), TypeError, "fill must be values of uint8, got object"),
        (lambda: MASK.select(X, np.ma.array([1] * 6)), TypeError, "fill must not be a masked array, because masked"),
        (lambda: MASK.select(X, True), TypeError, "fill must be values of uint8, got True"),
        (lambda: MASK.select(X, "1"), TypeError, "fill must be values of uint8, got '1'"),
        (lambda: MASK.select(X, 1j), TypeError, "fill must be values of uint8, got 1j"),
        (lambda: MASK.select(X, [1, 2, 3]), ValueError, r"fill must broadcast to the shape of a, (4, 6), got (3,)"),
        (lambda: MASK.select(X, X[None]), ValueError, r"fill must broadcast to the shape of a, (4, 6), got (1, 4, 6)"),
        (lambda: MASK.select(X[1:]), ValueError, r"a must have the mask's shape (4, 6), got (3, 6)"),
        (lambda: MASK.select(X.astype(complex)), TypeError, "a must be an array of float16, bfloat16, float32 or"),
        (lambda: MASK.select(X, out=X.astype("i1")), ValueError, "out must have the dtype of a, got out of int8 for a"),
        (lambda: MASK.apply(X, scale=1.0), TypeError, "scale must be left out for an array of uint8, which is not"),
        (lambda: MASK.apply(X, shift=1.0), TypeError, "shift must be left out for an array of uint8, which is not"),
        (
            lambda: cd.dropout(X),
            TypeError,
            "x must be an array of float16, bfloat16, float32 or float64, got dtype uint",
        ),
        (lambda: cd.Dropout().forward(X), TypeError, "x must be an array of float16, bfloat16, float32 or float64"),
        (
            lambda: MASK.keep(dtype="F"),
            TypeError,
            "dtype must be float16, bfloat16, float32, float64, bool or an integ",
        ),
        (lambda: MASK.keep(dtype="nothing"), TypeError, "dtype must be float16, bfloat16, float32, float64, bool or"),
        (lambda: MASK.keep(X[1:]), ValueError, "out must have the shape (4, 6), got (3, 6)"),
        (lambda: MASK.keep(X, "i1"), ValueError, "out must have the dtype int8, got uint8"),
        (lambda: MASK.dropped([1]), TypeError, "out must be an array, got list"),
        (lambda: cd.bernoulli(9, 1.5), ValueError, "p must be in [0, 1], got 1.5"),
        (lambda: cd.bernoulli(3, [0.5, np.nan, 0]), ValueError, "p must be in [0, 1], got nan"),
        (lambda: cd.bernoulli(3, [0.5, 0.5]), ValueError, "p must broadcast to the shape (3,), got (2,)"),
        (lambda: cd.bernoulli(3, ["a"] * 3), TypeError, "p must be a real number or an array of them, got dtype <U1"),
        (lambda: cd.bernoulli(3, [[0.5]] * 3), ValueError, "p must broadcast to the shape (3,), got (3, 1)"),
        (lambda: cd.bernoulli(3, np.ma.array([0.5] * 3)), TypeError, "p must not be a masked array, because masked"),
        (
            lambda: cd.bernoulli((2**62, 3), 0.5),
            ValueError,
            f"shape must be one that an array can have, got ({2**62}, 3)",
        ),
        (
            lambda: cd.bernoulli((2**62, 3), [0.5]),
            ValueError,
            f"shape must be one that an array can have, got ({2**62}, 3)",
        ),
        (lambda: cd.bernoulli(3, "a"), TypeError, "p must be a real number, got 'a'"),
        (lambda: cd.bernoulli(3, 0.5, out=np.zeros(3)), TypeError, "out must be an array of bool, got dtype float64"),
        (lambda: cd.bernoulli(3, 0.5, out=np.zeros(4, bool)), ValueError, "out must have the shape (3,), got (4,)"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value).startswith(message), str(caught.value)


def test_integers_are_told_where_to_go():
    with pytest.raises(
        TypeError, match=r"got dtype int64: cdropout.draw_mask\(x.shape, p\).apply\(x, fill=...\) drops"
    ):
        cd.dropout(np.ones(3, int))
    layer = cd.Dropout(rng=1)
    layer.forward(np.ones(3, np.float32))
    with pytest.raises(TypeError, match="got dtype int64: bool and integer arrays have no gradient"):
        layer.backward(np.ones(3, int))


def test_a_refused_call_changes_nothing():
    x = X.copy()
    for fill in (256, "1", [1, 2]):
        with pytest.raises((TypeError, ValueError)):
            MASK.select(x, fill, out=x)
    assert not x.any()
    stream, out = cd.Stream(1), np.zeros(3, bool)
    for p in (2.0, [0.1, 0.2, 3.0], [0.1] * 4):
        with pytest.raises(ValueError, match="p must"):
            cd.bernoulli(3, p, rng=stream, out=out)
    assert stream.position == 0
    assert not out.any()


# ---- decisions ------------------------------------------------------------------------------------------------------


def test_every_form_of_the_decisions_is_the_references(isa):
    for shape, shared_axes, part in SHAPES:
        mask, kept = mask_of(shape, shared_axes, part), kept_by(shape, shared_axes, part)
        assert bits(mask.packed()) == bits(np.packbits(kept))
        assert np.array_equal(mask.indices(), np.flatnonzero(kept))
        assert mask.indices().dtype == np.int64
        assert mask.count() == kept.sum()
        for dtype in (*INTEGERS, *FLOATS, ">f4", ">i2"):
            for found, expected in ((mask.keep(dtype=dtype), kept), (mask.dropped(dtype=dtype), ~kept)):
                assert found.dtype == np.dtype(dtype)
                assert found.tobytes() == expected.astype(dtype).tobytes()


@pytest.mark.parametrize("shared_axes", [(), 1])
def test_decisions_go_into_any_output(shared_axes):
    mask, kept = mask_of((30, 40), shared_axes, ...), kept_by((30, 40), shared_axes, ...)
    for dtype in ("bool", "u1", ">i4", np.float32):
        for out in (np.empty((30, 40), dtype), np.empty((40, 30), dtype).T, np.empty((30, 81), dtype)[:, 1::2]):
            assert mask.keep(out) is out
            assert np.array_equal(out, kept)
            assert mask.dropped(out, out.dtype) is out
            assert np.array_equal(out, ~kept)
    frozen = np.zeros((30, 40), bool)
    frozen.setflags(write=False)
    with pytest.raises(ValueError, match="out must be writable"):
        mask.keep(frozen)
    with pytest.raises(ValueError, match="out must not overlap itself"):
        mask.keep(np.lib.stride_tricks.as_strided(np.zeros(60, bool), (30, 40), (1, 1)))


# ---- Bernoulli trials -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.0, 1.0, 0.3, 2.0**-20, 0.5])
def test_bernoulli_is_what_a_mask_drops_for_a_number_and_for_an_array_of_it(isa, p):
    for n in (0, 1, 63, 64, 100, 4096, 9001):
        stream = cd.Stream(5)
        mask = cd.draw_mask(n, p, rng=5)
        drawn = cd.bernoulli(n, p, rng=stream)
        assert drawn.dtype == bool
        assert bits(drawn) == bits(mask.dropped())
        assert stream.position == -(-n // 4096) * 4096
        assert bits(cd.bernoulli(n, np.full(n, p), rng=5)) == bits(drawn)


def test_every_element_has_its_own_probability(isa):
    p = np.random.default_rng(0).random(20_000)
    p[:4] = (0.0, 1.0, 2.0**-47, 1 - 2.0**-53)
    assert np.array_equal(cd.bernoulli(p.shape, p, rng=1), reference.draws(cd.Stream(1).key, 0, p))
    # One in 65,536 elements has the 16-bit number of its threshold: here all are tried with neighbouring thresholds.
    number = reference.block_numbers(cd.Stream(1).key, 0) + 2**15
    tied = (number + np.random.default_rng(1).random(4096)) / 2**16
    assert np.array_equal(cd.bernoulli(4096, tied, rng=1), reference.draws(cd.Stream(1).key, 0, tied))
    assert 0.4 < cd.bernoulli(4096, tied, rng=1).mean() < 0.6


def test_probabilities_broadcast_and_may_be_of_any_dtype():
    expected = cd.bernoulli((3, 5000), np.repeat([0.1, 0.5, 0.875], 5000).reshape(3, 5000), rng=1)
    assert np.allclose(expected.mean(1), [0.1, 0.5, 0.875], atol=0.03)  # 4.2 standard deviations or more
    assert bits(cd.bernoulli((3, 5000), [[0.1], [0.5], [0.875]], rng=1)) == bits(expected)
    out = np.empty((5000, 3), bool).T
    assert cd.bernoulli((3, 5000), np.array([[0.1], [0.5], [0.875]]), rng=1, out=out) is out
    assert bits(out) == bits(expected)
    halves = np.array([0.0, 0.5, 1.0], np.float16)
    assert bits(cd.bernoulli((9, 3), halves, rng=1)) == bits(cd.bernoulli((9, 3), halves.astype(float), rng=1))
    assert cd.bernoulli(4, np.ones(4, int)).all()


def test_probabilities_may_share_memory_with_the_output():
    p = np.random.default_rng(0).random(5000)
    expected = cd.bernoulli(5000, p, rng=1)
    assert np.array_equal(cd.bernoulli(5000, p, rng=1, out=p.view(bool)[-5000:]), expected)


def test_a_masked_output_gets_no_mask():
    mask = mask_of((30, 40), (), ...)
    for draw in (
        lambda out: mask.keep(out),
        lambda out: mask.dropped(out),
        lambda out: cd.bernoulli((30, 40), 0.5, rng=1, out=out),
        lambda out: cd.bernoulli((30, 40), [0.5], rng=1, out=out),
    ):
        out = np.ma.array(np.zeros((30, 40), bool), mask=True)
        assert draw(out) is out
        assert not out.mask.any()
        assert out.data.any()


def test_floats_take_fills_beyond_64_bits():
    for fill in (2**70, [2**70, 1], np.array(2**70, object)):
        result = cd.Mask(KEY, 0, 1.0, (4, 2)).select(np.ones((4, 2), np.float32), fill)
        assert np.array_equal(result, np.broadcast_to(np.array(fill, np.float32), (4, 2)))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**64 - 20_000), st.integers(0, 600), st.integers(0, 2**32), st.floats(0, 1))
def test_any_draw_selects_as_the_reference(start, n_elems, seed, p):
    kept = reference.keep(KEY, start, n_elems, p)
    x = np.random.default_rng(seed).integers(0, 2**16, n_elems, np.uint16)
    mask = cd.Mask(KEY, start, p, n_elems)
    assert bits(mask.select(x, 7)) == bits(reference.select(x, kept, 7))
    assert bits(mask.packed()) == bits(np.packbits(kept))
