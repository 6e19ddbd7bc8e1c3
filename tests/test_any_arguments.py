"""Random arguments: arrays of any layout, and objects of any kind; 10,000 of each in the deep tests."""

import re
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from argument_checks import DRAWN_BY_HAND, OF_ANY_SHAPE, VALUES, P, bits, error_of, held, plain
from conftest import measures_the_process
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import cdropout as cd

pytestmark = measures_the_process

# ---- arrays of any layout -------------------------------------------------------------------------------------------

FLOATS = (np.float32, np.float64, np.float16, ml_dtypes.bfloat16)


@st.composite
def layouts(draw: Any) -> tuple[np.ndarray, np.ndarray]:
    """Draw two arrays of one shape and dtype, of any layout, in one buffer."""
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=9))
    dtype = np.dtype(draw(st.sampled_from(FLOATS)))
    n_bytes = 2000 * dtype.itemsize
    memory = np.frombuffer(np.random.default_rng(2).bytes(n_bytes), np.uint8).copy()
    memory.view(dtype)[...] = np.random.default_rng(3).standard_normal(2000).astype(dtype)

    def view() -> np.ndarray:
        steps = draw(st.lists(st.integers(1, 3), min_size=len(shape), max_size=len(shape)))
        order = draw(st.permutations(range(len(shape))))
        strides, reach = [0] * len(shape), dtype.itemsize
        for axis in order:
            strides[axis] = reach * steps[axis]
            reach = strides[axis] * max(shape[axis], 1)
        if draw(st.integers(0, 9)) == 0 and shape:
            strides[order[0]] = 0
        offset = draw(st.integers(0, 40))
        if offset + reach > n_bytes:
            strides, offset = [0] * len(shape), 0
        a = np.ndarray(shape, dtype, memory.data, offset, strides)
        for axis in range(len(shape)):
            if draw(st.booleans()):
                a = np.flip(a, axis)
        return a.view(dtype.newbyteorder(draw(st.sampled_from("==>"))))

    return view(), view()


def check_any_layout(arrays: tuple[np.ndarray, np.ndarray], p: float, name: str) -> None:
    """Check that a call with any out gives the plain result, or an error that leaves everything unchanged."""
    x, out = arrays
    call = OF_ANY_SHAPE[name]
    with np.errstate(all="ignore"):
        before, expected, stream = x.base.tobytes(), bits(call(plain(x), p, 1, None)), cd.Stream(1)
        if name not in DRAWN_BY_HAND:
            assert bits(call(x, p, stream, None)) == expected
            stream = cd.Stream(1)
        error, message = error_of(call, x, p, stream, out)
    if error is None:
        assert bits(out) == expected
    else:
        assert error is ValueError
        assert re.match("out must (be .* itself or apart from it|not overlap itself|be writable)", message), message
        assert np.shares_memory(x, out) or 0 in out.strides
        assert x.base.tobytes() == before
        assert stream.position == 0


ANY_LAYOUT = given(layouts(), st.floats(0, 1), st.sampled_from(sorted(OF_ANY_SHAPE)))


@settings(max_examples=300, deadline=None)
@ANY_LAYOUT
def test_any_layout_and_any_out_give_the_plain_answer_or_an_error(arrays, p, name):
    check_any_layout(arrays, p, name)


@pytest.mark.deep
@settings(max_examples=10_000, deadline=None)
@ANY_LAYOUT
def test_ten_thousand_layouts_give_the_plain_answer_or_an_error(arrays, p, name):
    check_any_layout(arrays, p, name)


# ---- calls of any arguments ------------------------------------------------------------------------------------------

ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.complex_numbers(),
    st.fractions(),
    st.decimals(allow_nan=True),
    st.text(max_size=5),
    st.binary(max_size=5),
    st.lists(st.one_of(st.integers(), st.floats(), st.none()), max_size=4),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
    hnp.arrays(hnp.scalar_dtypes(), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)),
    st.sampled_from([cd.Stream(1), cd.Mask(0, 0, 0.5, 3), cd.dropout, object(), np.float32, ...]),
)
# Name of an argument -> a call in which this argument may be anything and the others are valid.
ANY_ARGUMENT = {
    "x": lambda a, rng: cd.dropout(a, P, rng=rng),
    "p": lambda a, rng: cd.dropout(VALUES, a, rng=rng),
    "out": lambda a, rng: cd.dropout(VALUES, P, rng=rng, out=a),
    "shared_axes": lambda a, rng: cd.dropout(VALUES, P, rng=rng, shared_axes=a),
    "shape": lambda a, rng: cd.draw_mask(a, P, rng=rng),
    "std": lambda a, rng: cd.gaussian_noise(VALUES, a, rng=rng),
    "bias": lambda a, rng: cd.bias_relu_dropout(VALUES, a, P, rng=rng),
    "residual": lambda a, rng: cd.dropout_add(VALUES, a, P, rng=rng),
    "previous": lambda a, rng: cd.zoneout(VALUES, a, P, rng=rng),
    "scale": lambda a, rng: cd.Mask(0, 0, P, (4, 6)).apply(VALUES, scale=a),
    "key": lambda a, rng: cd.Mask(a, 0, P, 3),
    "start": lambda a, rng: cd.Noise(0, a, P, 3),
    "identifier": lambda a, rng: rng.fold_in(a),
    "time_axis": lambda a, rng: cd.locked_dropout(VALUES, time_axis=a, rng=rng),
    "block_size": lambda a, rng: cd.drop_block2d(np.ones((2, 5, 5)), block_size=a, rng=rng),
}


def check_any_argument(name: str, a: Any) -> None:
    """Check that a call with any value of one argument gives a result, or an error that names it and draws nothing."""
    stream = cd.Stream(1)
    before = held(a)
    with np.errstate(all="ignore"):
        error, message = error_of(ANY_ARGUMENT[name], a, stream)
    if error is not None:
        assert issubclass(error, TypeError | ValueError | OverflowError), f"{error}: {message}"
        # The error for a shape beyond the end of the stream names x or the mask instead.
        assert re.search(rf"\b{name}\b", message) or (error, name) == (OverflowError, "shape"), f"{error}: {message}"
        assert stream.position == 0
    if name != "out" or error is not None:
        assert held(a) == before


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(ANY_ARGUMENT)), ANYTHING)
def test_an_argument_of_any_kind_gives_an_answer_or_an_error_that_names_it(name, a):
    check_any_argument(name, a)


@pytest.mark.deep
@settings(max_examples=10_000, deadline=None)
@given(st.sampled_from(sorted(ANY_ARGUMENT)), ANYTHING)
def test_ten_thousand_arguments_of_any_kind_give_an_answer_or_an_error(name, a):
    check_any_argument(name, a)
