"""Failures in the middle of a call: objects are as before it or as after it, and `dropout_on` restores its layers."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import switches_settings
from refused_allocations import needs_testcapi, refused_allocation

import cdropout as cd
from cdropout import inference
from cdropout.compat import cs231n, deepnet, from_scratch, nnfs

PACKAGE = str(Path(cd.__file__).parent)
X = np.ones((8, 16), np.float32)
HUGE = np.broadcast_to(np.float32(1), (1 << 23, 1 << 22))  # no result of this shape can be allocated

LAYERS: dict[str, Callable[..., Any]] = {
    "Dropout": cd.Dropout,
    "AlphaDropout": cd.AlphaDropout,
    "FeatureDropout": cd.FeatureDropout,
    "ReLUDropout": cd.ReLUDropout,
    "GaussianDropout": cd.GaussianDropout,
    "GaussianNoise": cd.GaussianNoise,
    "DropConnect": lambda p, rng: cd.DropConnect(16, 4, p, rng=rng),
    "FeatureDropoutLinear": lambda p, rng: cd.FeatureDropoutLinear(16, 4, p, rng=rng),
}


@contextmanager
def failing_line(number: int) -> Iterator[list[int]]:
    """Raise MemoryError at a line of the package, counted from 1 as they run; yield how many lines ran."""
    n_lines = [0]

    def trace(frame: Any, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == "line":
            n_lines[0] += 1
            if n_lines[0] == number:
                raise MemoryError
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield n_lines
    finally:
        sys.settrace(before)


def fields(layer: Any) -> dict[str, Any]:
    """Return what a layer holds, in a form that can be compared."""
    return {
        name: value.state if isinstance(value, cd.Stream) else repr(value)
        for name, value in vars(layer).items()
        if name not in ("_saved", "_output")
    } | {name: id(vars(layer)[name]) for name in ("_saved", "_output") if name in vars(layer)}


def outcomes(make: Callable[[], Any], call: Callable[[Any], Any]) -> Iterator[tuple[Any, Any, dict[str, Any]]]:
    """Yield the object and its fields before the call, for each line of the package that may fail in it."""
    for number in range(1, 1000):
        layer = make()
        before = fields(layer)
        try:
            with failing_line(number):
                call(layer)
        except MemoryError:
            yield layer, before, fields(layer)
        else:
            assert number > 1
            return
    pytest.fail("the call has too many lines")


@pytest.mark.promise("out-of-memory")
@switches_settings
@pytest.mark.parametrize("rng", [None, 1], ids=["default stream", "stream"])
@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_a_setter_that_fails_changes_nothing(make, rng):
    def original():
        return make(0.3, rng=None if rng is None else cd.Stream(rng))

    source = make(0.6, rng=cd.Stream(7)).eval()
    cd.dropout(X, rng=source.rng)
    pickled = source.__getstate__()
    rate = "std" if "GaussianNoise" in repr(source) else "p"
    calls = [
        lambda layer: setattr(layer, "state", source.state),
        lambda layer: setattr(layer, rate, 0.6),
        lambda layer: setattr(layer, "rng", 9),
        lambda layer: layer.__setstate__(pickled),
    ]
    if hasattr(source, "rescale") and rate == "p" and not hasattr(source, "inference"):
        calls.append(lambda layer: setattr(layer, "rescale", "eval"))
    for call in calls:
        found = [(before, after) for _, before, after in outcomes(original, call)]
        assert found
        assert all(before == after for before, after in found)


@pytest.mark.promise("out-of-memory")
@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_a_state_whose_stream_cannot_be_made_changes_nothing(make, error, monkeypatch):
    layer, source = make(0.3, rng=cd.Stream(1)), make(0.6, rng=cd.Stream(7)).eval()
    state, before = source.state, fields(layer)

    def fail(*arguments, **keywords):
        raise error

    with monkeypatch.context() as replaced:
        replaced.setattr(np.random, "SeedSequence", fail)
        with pytest.raises(error):
            layer.state = state
    assert fields(layer) == before
    layer.state = state
    assert layer.state == state


@pytest.mark.promise("failed-pass")
@switches_settings
@needs_testcapi
@pytest.mark.parametrize("is_training", [True, False])
@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_a_pass_that_fails_leaves_no_mixture_of_two_passes(make, is_training):
    def original():
        layer = make(0.3, rng=cd.Stream(1))
        layer.forward(X)
        return layer.train(is_training)

    original().forward(X)  # NumPy registers its loops at the first call, and cannot again if that fails midway
    n_failed = n_done = 0
    while n_done < 10:
        layer = original()
        before = fields(layer)
        with refused_allocation(n_failed + n_done + 1) as error:
            layer.forward(X)
        n_failed, n_done = n_failed + bool(error), n_done + (not error)
        if error:
            assert fields(layer) | {"_rng": None} == before | {"_rng": None}


# ---- streams and generators ------------------------------------------------------------------------------------------


@pytest.mark.promise("out-of-memory")
@pytest.mark.parametrize("make", [cd.DropConnect, cd.FeatureDropoutLinear])
def test_a_layer_without_memory_for_its_weights_takes_nothing_from_rng(make):
    stream, generator = cd.Stream(1), np.random.default_rng(1)
    before, state = stream.state, generator.bit_generator.state
    for rng in (stream, generator):
        with pytest.raises(MemoryError):
            make(*HUGE.shape, rng=rng)
    assert stream.state == before
    assert generator.bit_generator.state == state


COMPAT = {
    "deepnet": lambda rng: deepnet.Dropout(rng=rng).forward(HUGE),
    "from_scratch": lambda rng: from_scratch.Dropout(rng=rng).forward(HUGE),
    "from_scratch, in time": lambda rng: from_scratch.TimeDropout(rng=rng).forward(HUGE),
    "nnfs": lambda rng: nnfs.Layer_Dropout(0.5, rng=rng).forward(HUGE),
    "cs231n": lambda rng: cs231n.dropout_forward(HUGE, {"p": 0.5, "mode": "train", "seed": rng}),
}


@pytest.mark.promise("out-of-memory")
@pytest.mark.parametrize("call", COMPAT.values(), ids=COMPAT)
def test_a_replacement_without_memory_for_its_result_draws_nothing(call):
    stream = cd.Stream(1)
    before = stream.state
    with pytest.raises(MemoryError):
        call(stream)
    assert stream.state == before


def test_a_generator_given_as_a_seed_to_cs231n_does_not_advance_without_memory():
    generator = np.random.default_rng(1)
    before = generator.bit_generator.state
    with pytest.raises(MemoryError):
        COMPAT["cs231n"](generator)
    assert generator.bit_generator.state == before


def test_a_replacement_keeps_its_input_if_the_pass_fails():
    layer = nnfs.Layer_Dropout(0.5, rng=1)
    layer.forward(X)
    before = layer.inputs, layer.output, layer.binary_mask
    for inputs, error in ((HUGE, MemoryError), ("no array", TypeError)):
        with pytest.raises(error):
            layer.forward(inputs)
        assert all(
            now is then for now, then in zip((layer.inputs, layer.output, layer.binary_mask), before, strict=True)
        )


@pytest.mark.promise("out-of-memory")
@pytest.mark.parametrize("error", [MemoryError, SystemError, FloatingPointError, RuntimeWarning])
@pytest.mark.parametrize("n_done", [0, 2])
def test_drop_connects_samples_move_the_stream_back_if_numpy_fails(n_done, error, monkeypatch):
    layer = cd.DropConnect(16, 4, 0.3, rng=1, inference="gaussian", relu=True, n_samples=4).eval()
    maximum, n_calls = np.maximum, []

    def fail(*arguments, **keywords):
        n_calls.append(1)
        if len(n_calls) > n_done:
            raise error
        return maximum(*arguments, **keywords)

    before = fields(layer)
    with monkeypatch.context() as replaced:
        replaced.setattr(np, "maximum", fail)
        with pytest.raises(error):
            layer.forward(X)
    assert fields(layer) == before
    layer.forward(X)
    assert layer.rng.position == 4 * 4096


# ---- dropout_on and mc_predict ---------------------------------------------------------------------------------------


class Stubborn(cd.Dropout):
    """A layer that cannot be switched back to evaluation."""

    @property
    def training(self):
        return self.__dict__.get("training", True)

    @training.setter
    def training(self, mode):
        if not mode and self.__dict__.get("training"):
            raise OSError("stuck")
        self.__dict__["training"] = mode


def test_a_layer_that_cannot_be_restored_does_not_keep_others_switched():
    stream = cd.Stream(1)
    layers = [cd.Dropout(0.5, rng=stream).eval(), Stubborn(0.5, rng=stream), cd.Dropout(0.5, rng=stream).eval()]
    layers[1].__dict__["training"] = False
    with pytest.raises(OSError, match="stuck"), cd.dropout_on(layers, rng=2):
        assert all(layer.training for layer in layers)
    assert [layer.training for layer in layers] == [False, True, False]
    assert all(layer.rng is stream for layer in layers)
    assert not inference._switched


@switches_settings
@needs_testcapi
def test_dropout_on_restores_its_layers_whichever_allocation_fails():
    stream, other = cd.Stream(1), cd.Stream(2)
    layers = [cd.Dropout(0.5, rng=stream).eval() for _ in range(3)]

    def block():
        with cd.dropout_on(layers, rng=other):
            assert all(layer.training and layer.rng is other for layer in layers)

    block()
    n_failed = n_done = 0
    while n_done < 20:
        with refused_allocation(n_failed + n_done + 1) as error:
            block()
        n_failed, n_done = n_failed + bool(error), n_done + (not error)
        assert not any(layer.training for layer in layers)
        assert all(layer.rng is stream for layer in layers)
        assert not inference._switched
    assert n_failed > 20


@pytest.mark.parametrize("error", [ValueError, MemoryError, KeyboardInterrupt])
@pytest.mark.parametrize("rng", [None, 5])
def test_an_error_of_the_users_model_restores_modes_and_keeps_positions(error, rng):
    streams = [cd.Stream(1), cd.Stream(2)]
    layers = [cd.Dropout(0.5, rng=stream).eval() for stream in streams]
    n_passes = []

    def forward(x):
        n_passes.append(1)
        x = layers[0].forward(x)
        if len(n_passes) == 3:
            raise error
        return layers[1].forward(x)

    with pytest.raises(error):
        cd.mc_predict(forward, X, 5, rng=rng, layers=layers)
    assert not any(layer.training for layer in layers)
    assert [layer.rng for layer in layers] == streams
    # Positions of drawn masks stay taken; with rng, the layers' streams have not been used.
    assert [stream.position // 4096 for stream in streams] == ([3, 2] if rng is None else [0, 0])
    assert not inference._switched

    n_passes.clear()
    copied = [cd.Dropout(0.5, rng=stream).eval() for stream in streams]
    before = [fields(layer) for layer in copied]

    def step(x):
        n_passes.append(1)
        if len(n_passes) == 3:
            raise error
        return x

    with pytest.raises(error):
        cd.mc_predict([copied[0], step, copied[1]], X, 5, rng=rng)
    assert [fields(layer) | {"_rng": 0} for layer in copied] == [each | {"_rng": 0} for each in before]
    assert [layer.rng for layer in copied] == streams
