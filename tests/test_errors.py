"""Bad input: the error names the argument, its rule and its value, and nothing has been written or drawn."""

import re

import ml_dtypes
import numpy as np
import pytest

import cdropout as cd

X = np.arange(1, 25, dtype=np.float32).reshape(4, 6)


class NotANumber:
    """An object that float() refuses."""

    def __repr__(self):
        return "NotANumber()"


BAD_P = [
    (-1e-9, ValueError, "p must be in [0, 1], got -1e-09"),
    (1.5, ValueError, "p must be in [0, 1], got 1.5"),
    (1 + 2**-52, ValueError, "p must be in [0, 1], got 1.0000000000000002"),
    (float("nan"), ValueError, "p must be in [0, 1], got nan"),
    (float("inf"), ValueError, "p must be in [0, 1], got inf"),
    (-float("inf"), ValueError, "p must be in [0, 1], got -inf"),
    (2, ValueError, "p must be in [0, 1], got 2"),
    (np.float32(-0.5), ValueError, "p must be in [0, 1], got np.float32(-0.5)"),
    ("0.5", TypeError, "p must be a real number, got '0.5'"),
    (None, TypeError, "p must be a real number, got None"),
    (10**400, ValueError, "p must be in [0, 1], got 1000"),
    (-(10**400), ValueError, "p must be in [0, 1], got -1000"),
    (np.complex128(0.5), TypeError, "p must be a real number, got np.complex128"),
    (np.array("0.5"), TypeError, "p must be a real number, got array('0.5'"),
    (memoryview(b"0.5"), TypeError, "p must be a real number, got <memory"),
    (0.5j, TypeError, "p must be a real number, got 0.5j"),
    ([0.5], TypeError, "p must be a real number, got [0.5]"),
    (np.array([0.5]), TypeError, "p must be a real number, got array([0.5])"),
    (NotANumber(), TypeError, "p must be a real number, got NotANumber()"),
]


@pytest.mark.promise("bad-arguments")
@pytest.mark.parametrize(("p", "error", "message"), BAD_P, ids=[repr(case[0])[:12] for case in BAD_P])
def test_a_bad_p_is_named_and_nothing_is_written_or_drawn(p, error, message):
    stream, generator = cd.Stream(1), np.random.default_rng(1)
    generator_before = generator.bit_generator.state
    out = np.full_like(X, 7)
    for call in (
        lambda: cd.dropout(X, p, rng=stream, out=out),
        lambda: cd.dropout(X, p, rng=generator, out=out),
        lambda: cd.draw_mask(X.shape, p, rng=stream),
        lambda: cd.draw_mask(X.shape, p, rng=generator),
        lambda: cd.Dropout(p),
        lambda: setattr(cd.Dropout(0.1), "p", p),
        lambda: cd.Mask(0, 0, p, 3),
    ):
        with pytest.raises(error, match=re.escape(message)):
            call()
    assert np.all(out == 7)
    assert stream.position == 0
    assert generator.bit_generator.state == generator_before


@pytest.mark.parametrize("p", [0, 1, True, np.float64(0.5), np.float16(0.5), np.int8(1), np.array(0.5)])
def test_any_real_number_in_range_is_a_p(p):
    assert cd.Dropout(p).p == float(p)
    assert cd.draw_mask(3, p, rng=0).p == float(p)


@pytest.mark.parametrize(
    "dtype",
    [np.int64, np.uint8, bool, object, np.complex64, np.longdouble, "datetime64[s]", "U3", "V4", ml_dtypes.float8_e5m2],
)
def test_a_dtype_without_a_kernel_is_named(dtype):
    a = np.zeros(5, dtype)
    stream = cd.Stream(1)
    mask = cd.draw_mask(5, 0.5, rng=2)
    for name, call in (
        ("x", lambda: cd.dropout(a, 0.5, rng=stream)),
        ("a", lambda: mask.apply(a)),
        ("x", lambda: cd.Dropout(0.5).forward(a)),
    ):
        message = f"{name} must be an array of float16, bfloat16, float32 or float64, got dtype {a.dtype}"
        with pytest.raises(TypeError, match=re.escape(message)):
            call()
    assert stream.position == 0
    with pytest.raises(TypeError, match="dtype must be float16, bfloat16, float32 or float64, got"):
        mask.scaled(dtype)


def overlapping():
    memory = np.zeros(50, np.float32)
    return memory[:24].reshape(4, 6), memory[1:25].reshape(4, 6)


def reversed_in_place():
    memory = X.copy()
    return memory, memory[::-1]


BAD_OUT = {
    "another shape": (lambda: (X, np.full((6, 4), 7, np.float32)), ValueError, "shape", "(6, 4)", "(4, 6)"),
    "another rank": (lambda: (X, np.full(24, 7, np.float32)), ValueError, "shape", "(24,)", "(4, 6)"),
    "another dtype": (lambda: (X, np.full((4, 6), 7, np.float64)), ValueError, "dtype", "float64", "float32"),
    "read-only": (
        lambda: (X, np.frombuffer(np.full(24, 7, np.float32).tobytes(), np.float32).reshape(4, 6)),
        ValueError,
        "writable",
        "read-only",
        "(4, 6)",
    ),
    "partly overlapping": (overlapping, ValueError, "partly overlaps", "out", ""),
    "reversed in place": (reversed_in_place, ValueError, "partly overlaps", "out", ""),
    "overlapping itself": (
        lambda: (X, np.lib.stride_tricks.as_strided(np.full(6, 7, np.float32), (4, 6), (0, 4))),
        ValueError,
        "overlap itself",
        "(0, 4)",
        "(4, 6)",
    ),
    "not an array": (lambda: (X, [0.0] * 24), TypeError, "out must be an array", "list", ""),
}


@pytest.mark.promise("bad-out")
@pytest.mark.parametrize("case", BAD_OUT.values(), ids=BAD_OUT)
def test_a_bad_out_is_named_with_its_input_and_not_written(case):
    make, error, *words = case
    x, out = make()
    before = np.array(x), np.array(out)
    stream = cd.Stream(1)
    mask = cd.Mask(1, 0, 0.5, x.shape)
    for call in (lambda: cd.dropout(x, 0.5, rng=stream, out=out), lambda: mask.apply(x, out=out)):
        with pytest.raises(error) as caught:
            call()
        assert all(word in str(caught.value) for word in ("out", *words)), str(caught.value)
    assert np.array_equal(x, before[0])
    assert np.array_equal(np.array(out), before[1])
    assert stream.position == 0


def test_views_of_one_buffer_that_do_not_overlap_are_welcome():
    memory = np.ones((4, 12), np.float32)
    cd.dropout(memory[:, ::2], 0.5, rng=1, out=memory[:, 1::2])
    assert np.all(memory[:, ::2] == 1)
    assert set(np.unique(memory[:, 1::2])) == {0, 2}
    cd.dropout(memory[0], 0.5, rng=1, out=memory[1])
    assert np.array_equal(memory[0, ::2], np.ones(6))


@pytest.mark.parametrize(
    ("shared_axes", "error"),
    [
        (2, ValueError),
        (-3, ValueError),
        ((0, 0), ValueError),
        ((0, -2), ValueError),
        ("0", TypeError),
        (1.0, TypeError),
    ],
)
def test_bad_shared_axes_are_named(shared_axes, error):
    stream = cd.Stream(1)
    for call in (
        lambda: cd.dropout(X, 0.5, rng=stream, shared_axes=shared_axes),
        lambda: cd.draw_mask(X.shape, 0.5, rng=stream, shared_axes=shared_axes),
        lambda: cd.Dropout(0.5, rng=stream, shared_axes=shared_axes).forward(X),
        lambda: cd.Mask(0, 0, 0.5, X.shape, shared_axes),
    ):
        with pytest.raises(error, match=re.escape("shared_axes must") + ".*" + re.escape(repr(shared_axes))):
            call()
    assert stream.position == 0


@pytest.mark.parametrize("shape", [-1, (2, -3), "3", 2.0, (2, 1.5), None])
def test_a_bad_shape_is_named(shape):
    stream = cd.Stream(1)
    with pytest.raises((TypeError, ValueError), match="shape must be .*, got " + re.escape(repr(shape))):
        cd.draw_mask(shape, 0.5, rng=stream)
    assert stream.position == 0


def test_a_mask_meets_only_arrays_of_its_shape():
    mask = cd.draw_mask((4, 6), 0.5, rng=1)
    for a in (X.T, X[:3], X[0], np.float32(1)):
        with pytest.raises(ValueError, match=re.escape(f"a must have the mask's shape (4, 6), got {np.shape(a)}")):
            mask.apply(a)
    for scale, error in (("2.0", TypeError), (2j, TypeError), (float("nan"), ValueError), (float("inf"), ValueError)):
        with pytest.raises(error, match=f"scale must be .*, got {scale!r}"):
            mask.apply(X, scale=scale)
    for dtype in (None, np.dtype(("f4", (2,)))):
        with pytest.raises(TypeError, match="dtype must be float16"):
            mask.scaled(dtype)


@pytest.mark.parametrize("rng", ["seed", 1.5, True, object(), (1, 2), np.random.RandomState(0)])
def test_a_foreign_rng_is_named_by_its_type(rng):
    out = np.full_like(X, 7)
    for call in (lambda: cd.dropout(X, 0.5, rng=rng, out=out), lambda: cd.Stream(rng), lambda: cd.Dropout(rng=rng)):
        with pytest.raises(TypeError, match=f"rng must be None, an int, .*got {type(rng).__name__}"):
            call()
    assert np.all(out == 7)


def test_a_negative_seed_is_named():
    for call in (lambda: cd.Stream(-1), lambda: cd.dropout(X, rng=-1)):
        with pytest.raises(ValueError, match="rng must be 0 or greater where it is a seed, got -1"):
            call()


@pytest.mark.promise("whole-blocks")
def test_a_stream_that_has_no_room_left_says_so():
    stream = cd.Stream(1)
    state = stream.state
    state["position"] = 2**64 - 2 * 4096
    stream.state = state
    before = stream.position
    out = np.full(5000, 7, np.float32)
    with pytest.raises(OverflowError, match=f"got 5000 elements at {before}"):
        cd.dropout(np.ones_like(out), 0.5, rng=stream, out=out)
    for rng in (stream, None, 1):
        with pytest.raises(OverflowError, match="the stream must hold"):
            cd.draw_mask((2**40, 2**40), 0.5, rng=rng)
    assert stream.position == before
    assert np.all(out == 7)
    cd.dropout(np.ones(4096, np.float32), 0.5, rng=stream)
    assert stream.position == before + 4096


@pytest.mark.parametrize(
    ("key", "start", "error", "name"),
    [
        (-1, 0, ValueError, "key"),
        (2**128, 0, ValueError, "key"),
        (1.0, 0, TypeError, "key"),
        (0, -1, ValueError, "start"),
        (0, 2**64, ValueError, "start"),
        (0, "1", TypeError, "start"),
        (None, 0, TypeError, "key"),
        (0, 2**64 - 4097, OverflowError, "the stream must hold what is drawn"),
    ],
)
def test_a_mask_made_by_hand_is_checked(key, start, error, name):
    with pytest.raises(error, match=f"^{name}"):
        cd.Mask(key, start, 0.5, 100)
    with pytest.raises(TypeError):
        cd.Mask()


def test_backward_without_forward_says_so():
    layer = cd.Dropout(0.5)
    with pytest.raises(RuntimeError, match="backward must follow a forward pass in training"):
        layer.backward(X)
    layer.eval().forward(X)
    with pytest.raises(RuntimeError, match="backward must follow a forward pass in training"):
        layer.train().backward(X)


def test_a_foreign_rescale_is_named():
    with pytest.raises(ValueError, match="rescale must be 'train', 'eval' or None, got 'both'"):
        cd.Dropout(rescale="both")
    layer = cd.Dropout()
    with pytest.raises(ValueError, match="got 'Eval'"):
        layer.rescale = "Eval"
    with pytest.raises(TypeError, match="rng must be"):
        layer.rng = "seed"


@pytest.mark.promise("failed-pass")
def test_a_forward_that_fails_leaves_the_layer_as_it_was():
    layer = cd.Dropout(0.5, rng=1)
    layer.forward(X)
    mask, position = layer.mask, layer.rng.position
    with pytest.raises(TypeError):
        layer.forward(np.arange(3))
    layer.inplace = True
    with pytest.raises(ValueError, match="out must be writable"):
        layer.forward(np.frombuffer(X.tobytes(), np.float32))
    assert layer.mask is mask
    assert layer.rng.position == position
