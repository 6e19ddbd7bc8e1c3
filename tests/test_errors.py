"""Bad input other than p and arrays: the error names argument, rule and value; nothing has been written or drawn."""

import re
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from argument_checks import BUFFER, HUGE, VALUES, P, Row, check_row
from conftest import measures_the_process

import cdropout as cd
from cdropout.checks import shown

BIAS, WEIGHT = np.ones(6, np.float32), np.ones((6, 3), np.float32)
IMAGES = np.ones((1, 8, 9))
MASK = cd.Mask(0, 0, P, (4, 6))
OUT = BUFFER[:4]
OF_THREE_AXES = (cd.alpha_dropout, cd.gaussian_dropout, cd.drop_path, cd.dropout1d)
OF_ENTROPY = "the entropy of a SeedSequence must be|SeedSequence does not accept"
SECONDS = np.timedelta64(1, "s")  # of a class that NumPy derives from its integers
DTYPE = "^dtype must be float16, bfloat16, float32 or float64, got "


def each(calls: list[Callable[[Any, Any], Any]], *rules: tuple[type[Exception], str, tuple[Any, ...]]) -> list[Any]:
    """Return a row for each value of each rule: calls of the value and rng must raise the rule's error and message.

    In the message, VALUE, TYPE and SHAPE are those of the argument.
    """
    rows = []
    for error, message, values in rules:
        for i, value in enumerate(values):
            pattern = message.replace("VALUE", re.escape(shown(value))).replace("TYPE", type(value).__name__)
            pattern = pattern.replace("SHAPE", re.escape(str(getattr(value, "shape", None))))
            row = Row(lambda value=value: (value,), dict(zip("123456", calls, strict=False)), error, pattern)
            rows.append(pytest.param(row, id=f"{message:.40} {i}"))
    return rows


OF_VALUES = [
    *each(
        [lambda v, rng: cd.draw_mask(v, P, rng=rng), lambda v, rng: cd.draw_noise(v, P, rng=rng)],
        (ValueError, "^shape must be at most 64 non-negative integers, got VALUE$", (-1, (2, -3), -HUGE, (1,) * 65)),
        (TypeError, "^shape must be an integer or a tuple of integers, got VALUE$", ("23", "3", 2.0, 2.5, (2.0, 3))),
        (TypeError, "^shape must be an integer or a tuple of integers, got VALUE$", ((2, 1.5), None, np.array([2, 3]))),
        (TypeError, "^shape must be an integer or a tuple of integers, got VALUE$", (True, (True, 3), SECONDS)),
        (OverflowError, "^the stream must hold what is drawn", (HUGE, (2**63, 3), (2**40, 2**40))),
    ),
    *each(
        [
            lambda v, rng: cd.draw_noise(3, v, rng=rng),
            lambda v, rng: cd.gaussian_noise(VALUES, v, rng=rng),
            lambda v, rng: cd.GaussianNoise(v, rng=rng),
        ],
        (ValueError, r"^std must be in \[0, 1e37\], got VALUE$", (-1, -0.1, -1e-9, 1e38)),
        (ValueError, "^std must be finite, got VALUE$", (np.nan, HUGE)),
        (TypeError, "^std must be a real number, got VALUE$", ("1",)),
    ),
    *each(
        [
            lambda v, rng: cd.gaussian_dropout(VALUES, v, rng=rng),
            lambda v, rng: cd.GaussianDropout(v, rng=rng).forward(VALUES),
        ],
        (ValueError, r"^p must be in \[0, 1\) for normal noise, got VALUE", (1.0,)),
    ),
    *each(
        [
            lambda v, rng: cd.dropout(VALUES, P, rng=rng, shared_axes=v),
            lambda v, rng: cd.draw_mask(VALUES.shape, P, rng=rng, shared_axes=v),
            lambda v, rng: cd.Dropout(P, shared_axes=v).forward(VALUES),
            lambda v, rng: cd.Mask(0, 0, P, VALUES.shape, v),
        ],
        (ValueError, "^shared_axes must .*, got VALUE$", (2, -3, (0, 0), (0, -2), 2**70)),
        (TypeError, "^shared_axes must .*, got VALUE$", ("0", 0.0, 1.0, None, (None,), np.array([0]))),
        (TypeError, "^shared_axes must .*, got VALUE$", (True, False, (True,), np.True_, SECONDS)),
    ),
    *each(
        [
            lambda v, rng: cd.dropout(VALUES, P, rng=v, out=OUT),
            lambda v, rng: cd.Stream(v),
            lambda v, rng: cd.Dropout(rng=v),
            lambda v, rng: setattr(cd.Dropout(), "rng", v),
        ],
        (
            TypeError,
            "^rng must be None, an int, a sequence of ints.*got TYPE$",
            ("seed", 1.5, True, np.bool_(True), object()),
        ),
        (
            TypeError,
            "^rng must be None, an int, a sequence of ints.*got TYPE$",
            (np.ones((1, 2), int), {}, np.random, np.float64(1)),
        ),
        (TypeError, "^rng must be None, an int, a.*got TYPE$", (np.array(1), b"1", {1})),
        (TypeError, "^rng must have integers where it is a sequence of seeds, got ", ([1.5], ("1",), [True], [[1]])),
        (TypeError, "^rng must have integers where it is a sequence of seeds, got ", (np.array([0.5]), [None])),
        (ValueError, "^rng must be 0 or greater where it is a seed, got -1$", ([1, -1], np.array([-1]))),
        (ValueError, "^rng must be 0 or greater where it is a seed, got VALUE$", (-1, -HUGE)),
    ),
    *each(
        [lambda v, rng: cd.Stream(1).spawn(v)],
        (ValueError, r"^n must be in \[0, 4294967295\], got VALUE$", (-1, HUGE, -HUGE)),
        (TypeError, "^n must be an integer, got VALUE$", (1.0, 1.5, True, SECONDS)),
    ),
    *each(
        [lambda v, rng: cd.Stream(1).fold_in(v)],
        (ValueError, "^identifier must be 0 or greater where it is an int, got VALUE$", (-1, -HUGE)),
        (
            TypeError,
            "^identifier must be an int, a str or bytes, got ",
            (None, 1.0, 1.5, True, ("a",), bytearray(b"1"), SECONDS),
        ),
    ),
    *each(
        [lambda v, rng: cd.Mask(v, 0, P, 100), lambda v, rng: cd.Noise(v, 0, P, 3)],
        (ValueError, r"^key must be in \[0, .*, got VALUE$", (-1, 2**128, HUGE)),
        (TypeError, "^key must be an int, got VALUE$", (True, 1.0, None, "1", SECONDS)),
    ),
    *each(
        [lambda v, rng: cd.Mask(0, v, P, 0), lambda v, rng: cd.Noise(0, v, P, 8192)],
        (ValueError, r"^start must be in \[0, .*, got VALUE$", (-1, 2**64 - 1, 2**64, HUGE)),
        (TypeError, "^start must be an int, got VALUE$", ("1",)),
    ),
    *each(
        [lambda v, rng: cd.Mask(0, v, P, 8192), lambda v, rng: cd.Noise(0, v, P, 8192)],
        (OverflowError, "^the stream must hold what is drawn", (2**64 - 5000, 2**64 - 2 * 4096)),
    ),
    *(
        row
        for name in ("scale", "shift", "fill")
        for row in each(
            [lambda v, rng, name=name: MASK.apply(VALUES, **{name: v})],
            (ValueError, f"^{name} must be finite, got VALUE$", (np.nan, np.inf)),
            (TypeError, f"^{name} must be a real number, got VALUE$", ("1", "2.0", 1j, 2j, [1])),
        )
    ),
    *each(
        [lambda v, rng: MASK.apply(v), lambda v, rng: cd.Noise(0, 0, P, (4, 6)).add(v)],
        (
            ValueError,
            r"^a must have the \w+'s shape \(4, 6\), got SHAPE$",
            (VALUES.T, VALUES[:3], VALUES[0], np.float32(1)),
        ),
        (TypeError, "^a must be an array of float16", (np.zeros((4, 6), complex),)),
    ),
    *each(
        [lambda v, rng: MASK.scaled(v)],
        (
            TypeError,
            DTYPE,
            ("i4", np.int64, np.uint8, bool, object, np.complex64, np.clongdouble, "datetime64[s]", "U3"),
        ),
        (TypeError, DTYPE, ("V4", ml_dtypes.float8_e5m2, None, np.dtype(("f4", (2,))))),
    ),
    *each(
        [
            lambda v, rng: cd.bias_relu_dropout(VALUES, v, P, rng=rng, out=OUT),
            lambda v, rng: cd.bias_dropout_add(VALUES, v, VALUES, P, rng=rng, out=OUT),
        ],
        (ValueError, "^bias must have one element for each of x's columns", (BIAS[1:], BIAS[:3], VALUES)),
        (ValueError, "^bias must have the dtype of x", (BIAS.astype("f8"),)),
        (TypeError, "^bias must be an array", ([1] * 6, [1, 2], None, "b")),
    ),
    *each(
        [lambda v, rng: cd.dropout_add(VALUES, v, P, rng=rng, out=OUT)],
        (ValueError, "^residual must have the shape", (VALUES.T, VALUES[:2])),
        (ValueError, "^residual must have the dtype", (VALUES.astype("f8"),)),
        (TypeError, "^residual must be an array", (None,)),
        (ValueError, "^out must be residual itself or apart from it, got .* partly overlaps residual$", (BUFFER[1:],)),
    ),
    *each(
        [lambda v, rng: cd.zoneout(VALUES, v, P, rng=rng, out=OUT)],
        (ValueError, "^previous must have the shape of new", (VALUES[:2],)),
        (TypeError, "^previous must be an array", (None, "s")),
        (ValueError, "^out must be previous", (BUFFER[1:],)),
    ),
    *each(
        [lambda v, rng: cd.relu_dropout_backward(VALUES, v, P, out=OUT)],
        (ValueError, "^y must have the shape of dy", (VALUES.T, VALUES[:2])),
        (TypeError, "^y must be an array", (None,)),
        (ValueError, "^out must be y", (BUFFER[1:],)),
    ),
    *each(
        [
            lambda v, rng: cd.drop_connect(VALUES, v, rng=rng),
            lambda v, rng: cd.feature_dropout_linear(VALUES, v, rng=rng),
        ],
        (TypeError, "^weight must be an array of float32", (WEIGHT.astype(int),)),
        (TypeError, "^x must have the dtype of weight", (WEIGHT.astype("f8"),)),
        (ValueError, "^weight must have the axes", (BIAS,)),
        (ValueError, "^x must have 4 columns", (VALUES,)),
    ),
    *each(
        [lambda v, rng: cd.drop_connect(VALUES, WEIGHT, v, rng=rng)],
        (ValueError, "^bias must have one element for each column", (BIAS,)),
        (TypeError, "^bias must have the dtype of weight", (np.ones(3),)),
    ),
    *each(
        [lambda v, rng: cd.DropConnect(v, 3, rng=rng), lambda v, rng: cd.FeatureDropoutLinear(3, v, rng=rng)],
        (ValueError, "^n_(in|out) must be at least 1, got VALUE$", (0, -HUGE)),
        (TypeError, "^n_(in|out) must be an integer, got VALUE$", (1.0, 2.5)),
    ),
    *each(
        [
            lambda v, rng: cd.DropConnect(3, 3, dtype=v, rng=rng),
            lambda v, rng: cd.FeatureDropoutLinear(3, 3, dtype=v, rng=rng),
        ],
        (TypeError, "^dtype must be float32 or float64, got float16$", (np.float16,)),
        (TypeError, "^dtype must be float32 or float64, got int64$", (int,)),
    ),
    *each(
        [
            lambda v, rng: cd.locked_dropout(VALUES, time_axis=v, rng=rng),
            lambda v, rng: cd.LockedDropout(time_axis=v).forward(VALUES),
        ],
        (ValueError, "^time_axis must be an axis of a 2-dimensional array, got VALUE", (2, 4)),
        (TypeError, "^time_axis must be", (None, "x", SECONDS)),
    ),
    *each(
        [lambda v, rng: cd.drop_block2d(IMAGES, 0.1, block_size=v, rng=rng)],
        (ValueError, r"^block_size must be in \[1, 8\], got VALUE$", (0, 9, HUGE)),
        (TypeError, "^block_size must be an integer, got VALUE$", (2.5,)),
    ),
    *each(
        [
            lambda v, rng: cd.Dropout1d(channels=v, rng=rng),
            lambda v, rng: cd.Dropout2d(channels=v, rng=rng),
            lambda v, rng: cd.DropBlock2d(channels=v, rng=rng),
        ],
        (ValueError, "^channels must be 'first' or 'last', got VALUE$", ("x", "middle")),
    ),
    *each(
        [lambda v, rng: cd.Dropout(rescale=v, rng=rng), lambda v, rng: setattr(cd.Dropout(), "rescale", v)],
        (ValueError, "^rescale must be 'train', 'eval' or None, got VALUE$", ("both", "Eval", "x")),
    ),
    *each(
        [
            lambda v, rng: cd.mc_predict(lambda x: x, VALUES, v, rng=rng),
            lambda v, rng: cd.DropConnect(3, 3, n_samples=v, rng=rng),
        ],
        (ValueError, "^n_samples must be at least 1, got VALUE$", (0,)),
        (TypeError, "^n_samples must be an integer, got VALUE$", (2.5, True, SECONDS)),
    ),
    *each(
        [lambda v, rng, function=function: function(v, 0.3, rng=rng) for function in OF_THREE_AXES],
        (TypeError, "^x must be an array of", (np.ones((3, 4, 5), int),)),
    ),
    *each(
        [
            *(lambda v, rng, call=call: call(np.ones((3, 4, 5)), 0.3, rng=rng, out=v) for call in OF_THREE_AXES),
            lambda v, rng: cd.drop_block2d(IMAGES, rng=rng, out=v),
        ],
        (ValueError, "^out must have the shape of x", (np.ones(3),)),
    ),
    # Arguments of layers that are checked when the layer is created.
    *each([lambda v, rng: cd.Dropout(shared_axes=v, rng=rng)], (TypeError, "^shared_axes must", ("x",))),
    *each([lambda v, rng: cd.LockedDropout(time_axis=v, rng=rng)], (TypeError, "^time_axis must", (None, "x"))),
    *each(
        [lambda v, rng: cd.DropBlock2d(block_size=v, rng=rng)],
        (ValueError, "^block_size must be ", (0,)),
        (TypeError, "^block_size must be ", (2.5, True)),
    ),
]
# An error, the calls of rng that must raise it, and their messages.
OF_CALLS = {
    TypeError: [
        (lambda rng: cd.Mask(), "at least 4 positional arguments"),
        (lambda rng: cd.Stream(cd.Stream(1)), "^seed must not be a Stream"),
        (lambda rng: cd.Stream(SECONDS), "^rng must be None, an int, .*, got timedelta64$"),
        (lambda rng: cd.Stream([1, SECONDS]), "^rng must have integers where it is a sequence"),
        # Newer versions of NumPy refuse the first SeedSequence.
        (lambda rng: cd.Stream(np.random.SeedSequence([[1, 2], 3])), OF_ENTROPY),
        (lambda rng: cd.Stream(np.random.SeedSequence(["0x10"])), OF_ENTROPY),
        (lambda rng: cd.AlphaDropout(0.5, rescale="eval", rng=rng), "rescale"),
        (lambda rng: cd.FeatureAlphaDropout(0.5, rescale="eval", rng=rng), "rescale"),
        (lambda rng: cd.mc_predict(1, np.ones(3), 2, rng=rng), "^forward must be"),
    ],
    ValueError: [
        (lambda rng: cd.bias_relu_dropout(VALUES, BUFFER[2], P, rng=rng, out=OUT), "^out must be apart from bias"),
        (
            lambda rng: cd.bias_dropout_add(VALUES, BUFFER[0], VALUES, P, rng=rng, out=BUFFER[3::-1]),
            "^out must be apart from bias",
        ),
        (lambda rng: cd.feature_dropout_linear(BIAS, WEIGHT, rng=rng), "^x must have the axes"),
        (lambda rng: cd.DropConnect(3, 3, inference="x", rng=rng), "^inference must be 'mean' or 'gaussian'"),
        (lambda rng: cd.DropConnect(3, 3, inference="gaussian", rng=rng), "^inference 'gaussian' must have relu=True"),
        (lambda rng: cd.dropout2d(VALUES, rng=rng), "^x must have 3 dimensions, or 4 with a batch axis, got 2"),
        (lambda rng: cd.Dropout3d().forward(VALUES), "^x must have 4 dimensions, or 5 with a batch axis, got 2"),
        (lambda rng: cd.DropPath().forward(np.ones(())), "^x must have a batch axis, got an array of 0 dimensions"),
        (lambda rng: cd.feature_alpha_dropout(BIAS, rng=rng), r"^x must have the axes \(batch, .*\), got 1 dimensions"),
        (lambda rng: cd.AlphaDropout(1.5, rng=rng), r"^p must be in \[0, 1\], got 1.5"),
    ],
}
ROWS = [
    *OF_VALUES,
    *(
        pytest.param(Row(tuple, {"1": call}, error, message), id=f"{message:.40}")
        for error, calls in OF_CALLS.items()
        for call, message in calls
    ),
]


@measures_the_process
@pytest.mark.promise("bad-arguments")
@pytest.mark.parametrize("row", ROWS)
def test_an_error_names_the_argument_and_nothing_is_written_or_drawn(row):
    check_row(row)


@pytest.mark.promise("whole-blocks")
def test_a_stream_that_has_no_room_left_says_so():
    stream = cd.Stream(1)
    stream.state = {**stream.state, "position": 2**64 - 2 * 4096}
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


@pytest.mark.parametrize("make", [lambda: cd.Dropout(0.5), lambda: cd.Zoneout(0.5), lambda: cd.DropConnect(6, 6)])
def test_backward_without_forward_says_so(make):
    with pytest.raises(RuntimeError, match="backward must follow a forward pass"):
        make().backward(VALUES)
    layer = cd.Dropout(0.5).eval()
    layer.forward(VALUES)
    with pytest.raises(RuntimeError, match="backward must follow a forward pass in training"):
        layer.train().backward(VALUES)


@pytest.mark.promise("failed-pass")
def test_a_forward_that_fails_leaves_the_layer_as_it_was():
    layer = cd.Dropout(0.5, rng=1)
    layer.forward(VALUES)
    mask, position = layer.mask, layer.rng.position
    with pytest.raises(TypeError):
        layer.forward(np.arange(3))
    layer.inplace = True
    with pytest.raises(ValueError, match="out must be writable"):
        layer.forward(np.frombuffer(VALUES.tobytes(), np.float32))
    assert layer.mask is mask
    assert layer.rng.position == position


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a: cd.draw_mask(a, 0.5), "shape must be an integer or a tuple of integers, got AN ARRAY"),
        (lambda a: cd.draw_mask((3, 4), a), "p must be a real number, got AN ARRAY"),
        (lambda a: cd.dropout(a, shared_axes=a), "shared_axes must be an integer or a tuple of integers, got AN ARRAY"),
        (lambda a: cd.token_dropout(np.arange(3), 0.5, a), "mask_token must be an integer, got AN ARRAY"),
        (
            lambda a: cd.draw_mask((3, 4), 0.5)[a],
            "a mask's index must be a slice, or a slice for each axis, got AN ARRAY",
        ),
    ],
)
def test_an_array_in_another_place_is_named_by_its_shape_and_dtype_and_not_printed(call, message):
    with pytest.raises(TypeError) as caught:
        call(np.zeros((30, 40), np.float32))
    assert str(caught.value) == message.replace("AN ARRAY", "an array of shape (30, 40) and dtype float32")


def test_a_slice_with_a_step_of_0_is_refused_as_one_with_a_negative_step():
    for step in (0, -1):
        with pytest.raises(ValueError, match="a mask's slice must have a step of 1 or more, got slice"):
            cd.draw_mask(5, 0.5)[::step]


@pytest.mark.parametrize("flag", ["no", None, 1, 0.0])
def test_flags_must_be_true_or_false_before_anything_is_drawn(flag):
    table = np.ones((4, 3))
    calls = {
        "inplace": [
            lambda rng: cd.Dropout(0.5, rng=rng, inplace=flag),
            lambda rng: cd.ReLUDropout(0.5, rng=rng, inplace=flag),
            lambda rng: cd.GaussianDropout(0.5, rng=rng, inplace=flag),
            lambda rng: cd.DropBlock2d(0.5, block_size=3, rng=rng, inplace=flag),
        ],
        "per_row": [lambda rng: cd.column_dropout(table, 0.5, rng=rng, per_row=flag)],
        "scale_by_keep": [
            lambda rng: cd.DropPath(0.5, rng=rng, scale_by_keep=flag),
            lambda rng: cd.drop_path(table, 0.5, rng=rng, scale_by_keep=flag),
        ],
    }
    for name, listed in calls.items():
        for call in listed:
            stream, generator = cd.Stream(1), np.random.default_rng(1)
            before = generator.bit_generator.state
            for rng in (stream, generator):
                with pytest.raises(TypeError, match=f"{name} must be True or False, got {flag!r}"):
                    call(rng)
            assert stream.position == 0
            assert generator.bit_generator.state == before


def test_flags_may_be_bools_of_numpy():
    assert cd.Dropout(0.5, inplace=np.True_).inplace is True
    assert cd.DropPath(0.5, scale_by_keep=np.False_).scale_by_keep is False
