"""Arguments whose methods run code: it changes arrays during a call, or gives another number each time."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hostile_calls
import numpy as np
import pytest

import cdropout as cd
from cdropout import _kernels
from cdropout.checks import check_integer, exact_int

P = 0.4
VALUES = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
IMAGES = np.ones((2, 5, 5), np.float32)

# ---- arrays that change ---------------------------------------------------------------------------------------------


@pytest.mark.promise("changed-arrays")
@pytest.mark.parametrize(
    ("attack", "change"),
    [
        *((attack, "shrink") for attack in hostile_calls.ATTACKS),
        ("Generator", "set_state"),
        ("Generator", "shrink_owner"),
        ("Generator", "forbid_writing"),
        ("signal", "set_state"),
    ],
)
def test_an_array_that_changes_during_a_call_is_refused(attack, change):
    if attack == "signal" and not hasattr(hostile_calls.signal, "setitimer"):
        pytest.skip("the system has no interval timers")
    command = [sys.executable, Path(hostile_calls.__file__).name, attack, change]
    done = subprocess.run(
        command, cwd=Path(hostile_calls.__file__).parent, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, f"after {done.stdout.splitlines()[-1:]}: {done.returncode}\n{done.stderr}"


class _Wrapping(np.ndarray):
    def __array_wrap__(self, array: Any, context: Any = None, return_scalar: bool = False) -> Any:
        raise RuntimeError("no result")


@pytest.mark.parametrize("name", sorted({**hostile_calls.DRAWING, **hostile_calls.PRODUCTS}))
def test_a_class_that_refuses_the_result_leaves_the_stream_as_it_was(name):
    names, call = {**hostile_calls.DRAWING, **hostile_calls.PRODUCTS}[name]
    arrays, stream = hostile_calls.arrays_of(tuple(each for each in names if each != "out")), cd.Stream(1)
    first = names[0]
    setattr(arrays, first, getattr(arrays, first).view(_Wrapping))
    if name == "dropout, in place":
        pytest.skip("the result is an argument")
    with pytest.raises(RuntimeError, match="no result"):
        call(arrays, P, stream)
    assert stream.position == 0


class _Counted:
    """An output that counts how often its memory is asked for."""

    def __init__(self) -> None:
        self.array, self.n_reads = np.zeros_like(VALUES), 0

    @property
    def __array_interface__(self) -> Any:
        self.n_reads += 1
        return self.array.__array_interface__


@pytest.mark.parametrize(
    "call",
    [
        lambda out: cd.dropout(VALUES, P, rng=1, out=out),
        lambda out: cd.dropout_add(VALUES, VALUES.copy(), P, rng=1, out=out),
        lambda out: cd.zoneout(VALUES, VALUES.copy(), P, rng=1, out=out),
        lambda out: cd.bias_dropout_add(VALUES, VALUES[0].copy(), VALUES.copy(), P, rng=1, out=out),
        lambda out: cd.relu_dropout_backward(VALUES, VALUES.copy(), P, out=out),
        lambda out: cd.gaussian_noise(VALUES, P, rng=1, out=out),
        lambda out: cd.Mask(7, 0, P, (4, 6)).apply(VALUES, out),
    ],
)
def test_an_output_is_fetched_once(call):
    out, fetched_once = _Counted(), _Counted()
    call(out)
    _kernels.check_out(fetched_once, VALUES)
    assert out.n_reads == fetched_once.n_reads
    assert out.array.any()


# ---- ints that lie --------------------------------------------------------------------------------------------------


class Liar(int):
    """An int whose methods give other numbers than it has."""

    def __index__(self) -> int:
        return 1 << 40

    def _lie(self, *_: Any) -> Any:
        return 1 << 40

    __int__ = __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __mod__ = __rshift__ = __and__ = _lie
    __floordiv__ = __rfloordiv__ = __neg__ = __rlshift__ = __lshift__ = _lie

    def _agree(self, other: object) -> bool:
        return True

    __eq__ = __lt__ = __le__ = __ge__ = _agree
    __hash__ = int.__hash__

    def __gt__(self, other: object) -> bool:
        return False


MASK = cd.Mask(7, 0, P, (6, 8))
OF_INTS: dict[str, Callable[..., Any]] = {
    "shape of a mask": lambda i: cd.Mask(7, 0, P, (i(4), i(6))).keep().tobytes(),
    "shape of a mask, as a number": lambda i: cd.Mask(7, 0, P, i(6)).scaled().tobytes(),
    "shape of noise": lambda i: cd.Noise(7, 0, P, (i(4), i(6))).add(VALUES).tobytes(),
    "shape of a draw": lambda i: cd.draw_mask((i(4), i(6)), P, rng=1).apply(VALUES).tobytes(),
    "shape of a draw of noise": lambda i: cd.draw_noise((i(4), i(6)), P, rng=1).multiply(VALUES).tobytes(),
    "shared_axes": lambda i: cd.dropout(VALUES, P, rng=1, shared_axes=i(1)).tobytes(),
    "shared_axes of a mask": lambda i: cd.Mask(7, 0, P, (4, 6), (i(-1), i(0))).keep().tobytes(),
    "strides": lambda i: cd.Mask(7, 0, P, (4, 6), (), (i(8), i(1))).keep().tobytes(),
    "key": lambda i: cd.Mask(i(7), 0, P, 9).keep().tobytes(),
    "start": lambda i: cd.Mask(7, i(64), P, 9).keep().tobytes(),
    "slice": lambda i: MASK[i(1) : i(5) : i(2), i(2) :].keep().tobytes(),
    "slice from the end": lambda i: MASK[i(-3) :].scaled().tobytes(),
    "block_size": lambda i: cd.drop_block2d(IMAGES, P, block_size=i(3), rng=1).tobytes(),
    "block_size of a layer": lambda i: cd.DropBlock2d(P, block_size=i(3), rng=1).forward(IMAGES).tobytes(),
    "time_axis": lambda i: cd.locked_dropout(VALUES, P, time_axis=i(1), rng=1).tobytes(),
    "time_axis of a layer": lambda i: cd.LockedDropout(P, time_axis=i(1), rng=1).forward(VALUES).tobytes(),
    "widths": lambda i: [each.shape for each in cd.DropConnect(i(3), i(2), rng=1).params],
    "n_samples": lambda i: cd.DropConnect(3, 2, rng=1, n_samples=i(5)).n_samples,
    "samples of mc_predict": lambda i: [
        each.tobytes() for each in cd.mc_predict([cd.Dropout(P, rng=1)], VALUES, i(3), samples_per_pass=i(2))
    ],
    "check_integer": lambda i: check_integer("n", i(3), 1, 5),
    "advance": lambda i: cd.StreamBitGenerator(1).advance(i(5)).state,
    "limits": lambda i: _kernels.set_limits(**{name: i(n) for name, n in _kernels.get_limits().items()}),
}


@pytest.mark.promise("exact-numbers")
@pytest.mark.parametrize("name", OF_INTS)
def test_an_int_that_lies_counts_as_the_int_that_it_is(name):
    call = OF_INTS[name]
    assert call(Liar) == call(int)


def test_the_fields_of_masks_and_noise_are_exact_ints():
    mask = cd.Mask(Liar(7), Liar(64), P, (Liar(4), Liar(6)), (), (Liar(8), Liar(1)))
    numbers = (mask.key, mask.start, *mask.shape, *mask.strides, *cd.Mask(7, 0, P, (4, 6), (Liar(-1),)).shared_axes)
    assert {type(each) for each in (*numbers, *cd.Noise(7, 0, P, Liar(4)).shape)} == {int}
    assert numbers == (7, 64, 4, 6, 8, 1, 1)


@pytest.mark.parametrize("value", [Liar(5), np.int8(5), True, np.array(5)])
def test_exact_int_returns_an_int(value):
    number = exact_int(value)
    assert type(number) is int
    assert number == (1 if value is True else 5)


def _with_index(returned: Any) -> Any:
    class Index:
        def __index__(self) -> Any:
            return returned

    return Index()


def _numpy_int(returned: Any) -> Any:
    class Index(np.int64):
        def __index__(self) -> Any:
            return returned

    return Index(1)


OF_INDICES: dict[str, Callable[..., Any]] = {
    "shape": lambda v, rng: cd.draw_mask((v, 3), P, rng=rng),
    "shape ": lambda v, rng: cd.draw_noise(v, P, rng=rng),
    "shared_axes": lambda v, rng: cd.dropout(VALUES, P, rng=rng, shared_axes=(v,)),
    "strides": lambda v, rng: cd.Mask(7, 0, P, (4, 6), (), (8, v)),
    "slice": lambda v, rng: MASK[v:],
    "block_size": lambda v, rng: cd.drop_block2d(IMAGES, P, block_size=v, rng=rng),
    "time_axis": lambda v, rng: cd.locked_dropout(VALUES, P, time_axis=v, rng=rng),
    "n_samples": lambda v, rng: cd.mc_predict([cd.Dropout(P, rng=rng)], VALUES, v),
    "key": lambda v, rng: cd.Mask(v, 0, P, 3),
}


@pytest.mark.parametrize("returned", [2.5, "a", 0.0, None])
@pytest.mark.parametrize("make", [_with_index, _numpy_int])
@pytest.mark.parametrize("name", OF_INDICES)
def test_an_index_that_is_no_int_is_refused_by_name(name, make, returned):
    stream = cd.Stream(1)
    with pytest.raises(TypeError, match=rf"\b{name.strip()} must "):
        OF_INDICES[name](make(returned), stream)
    assert stream.position == 0


@pytest.mark.parametrize(
    "call",
    [
        lambda shape, axes, rng: cd.draw_mask(shape, P, rng=rng, shared_axes=axes),
        lambda shape, axes, rng: cd.Mask(7, 0, P, shape, axes),
        lambda shape, axes, rng: cd.draw_noise((*shape, 0), P, rng=rng),
        lambda shape, axes, rng: cd.Noise(7, 0, P, (*shape, 0)),
    ],
)
@pytest.mark.parametrize(("shape", "axes"), [((2**70, 3), 0), ((2**63, 3), 0), ((0, 2**70), ()), ((2**70, 0), ())])
def test_an_axis_that_no_array_can_have_is_refused_by_name(call, shape, axes):
    stream = cd.Stream(1)
    with pytest.raises(ValueError, match=r"^shape must have axes below 2\*\*63, as arrays have, got \("):
        call(shape, axes, stream)
    assert stream.position == 0


def test_a_mask_that_no_array_has_room_for_is_refused_by_its_shape():
    for mask in (cd.Mask(7, 0, P, (0, 2**40, 2**40)), cd.Mask(7, 0, P, (2**62, 8), 0), cd.Mask(7, 0, 0.0, (2**62, 3))):
        for make in (mask.keep, mask.scaled):
            with pytest.raises(ValueError, match=r"^shape must be one that an array can have, got \("):
                make()


# ---- floats that lie ------------------------------------------------------------------------------------------------


class Moody(float):
    """A float that converts to another number each time."""

    def __new__(cls, *numbers: float) -> "Moody":
        made = super().__new__(cls, 0.25)
        made.numbers = list(numbers)
        return made

    def __float__(self) -> float:
        return self.numbers.pop(0) if len(self.numbers) > 1 else self.numbers[0]


OF_FLOATS: dict[str, Callable[..., Any]] = {
    "dropout": lambda p: cd.dropout(VALUES, p, rng=1).tobytes(),
    "alpha_dropout": lambda p: cd.alpha_dropout(VALUES, p, rng=1).tobytes(),
    "drop_path": lambda p: cd.drop_path(VALUES, p, scale_by_keep=False, rng=1).tobytes(),
    "dropout_add": lambda p: cd.dropout_add(VALUES, VALUES, p, rng=1).tobytes(),
    "drop_block2d": lambda p: cd.drop_block2d(IMAGES, p, block_size=2, rng=1).tobytes(),
    "drop_connect": lambda p: cd.drop_connect(VALUES, VALUES.T.copy(), None, p, rng=1).tobytes(),
    "feature_dropout_linear": lambda p: cd.feature_dropout_linear(VALUES, VALUES.T.copy(), None, p, rng=1).tobytes(),
    "gaussian_dropout": lambda p: cd.gaussian_dropout(VALUES, p, rng=1).tobytes(),
    "gaussian_noise": lambda p: cd.gaussian_noise(VALUES, p, rng=1).tobytes(),
    "draw_mask": lambda p: cd.draw_mask(9, p, rng=1),
    "draw_noise": lambda p: cd.draw_noise(9, p, rng=1),
    "Mask": lambda p: cd.Mask(7, 0, p, 9),
    "Noise": lambda p: cd.Noise(7, 0, p, 9),
    "Dropout": lambda p: cd.Dropout(p, rng=1).forward(VALUES).tobytes(),
    "GaussianNoise": lambda p: cd.GaussianNoise(p, rng=1).forward(VALUES).tobytes(),
    "scale": lambda p: MASK.apply(np.ones((6, 8), np.float32), scale=p).tobytes(),
    "shift, fill": lambda p: cd.Mask(7, 0, P, 6).apply(np.ones(6, np.float32), shift=p, fill=0.5).tobytes(),
}


@pytest.mark.promise("exact-numbers")
@pytest.mark.parametrize("name", OF_FLOATS)
def test_a_float_is_converted_once(name):
    call = OF_FLOATS[name]
    assert call(Moody(0.375, 7.0)) == call(0.375)


def test_a_mask_subclass_with_other_strides_applies_as_the_mask_does():
    class Other(cd.Mask):
        @property
        def strides(self):
            return (1 << 63, "a")

    x = np.ones((4, 6), np.float32)
    for axes in ((), 0, 1):
        mask, other = cd.Mask(7, 0, P, (4, 6), axes), Other(7, 0, P, (4, 6), axes)
        np.testing.assert_array_equal(other.apply(x), mask.apply(x))
        np.testing.assert_array_equal(other[1:, ::2].keep(), mask[1:, ::2].keep())


# ---- classes that raise ----------------------------------------------------------------------------------------------


class _NoClass:
    @property
    def __class__(self) -> Any:
        raise BufferError("no class")


class _SeedsWithoutClass(np.random.SeedSequence):
    entropy = property(lambda self: self)

    @property
    def __class__(self) -> Any:
        raise BufferError("no class")


@pytest.mark.parametrize(
    "call",
    [
        lambda: cd.dropout(_NoClass(), P, rng=1),
        lambda: cd.dropout(VALUES, P, rng=1, out=_NoClass()),
        lambda: cd.dropout(VALUES, _NoClass(), rng=1),
        lambda: cd.dropout(VALUES, P, rng=_NoClass()),
        lambda: cd.dropout(VALUES, P, rng=1, shared_axes=_NoClass()),
        lambda: cd.Stream(_SeedsWithoutClass(5)),
        lambda: cd.Stream(1).fold_in(_NoClass()),
        lambda: cd.StreamBitGenerator(_NoClass()),
    ],
)
def test_an_error_of_an_arguments_class_is_the_calls_error(call):
    with pytest.raises((BufferError, TypeError)):
        call()
