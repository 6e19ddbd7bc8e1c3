"""Monte Carlo dropout, forced dropout, and the modes of many layers."""

import asyncio
import re
import sys
import time
import tracemalloc
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from conftest import measures_the_process

import cdropout as cd
from cdropout import inference
from cdropout.compact import CompactLinear
from cdropout.networks import MLP

X = np.random.default_rng(0).standard_normal((20, 30))


@pytest.mark.promise("mc-dropout")
def test_mean_and_spread_are_those_of_the_samples():
    layer = cd.Dropout(0.5, rng=1)
    samples = np.array([layer.forward(X) for _ in range(50)])
    mean, std = cd.mc_predict(lambda x: layer.forward(x), X, 50, rng=1, layers=[layer.eval()])
    assert mean == pytest.approx(samples.mean(axis=0), rel=1e-12, abs=1e-12)
    assert std == pytest.approx(samples.std(axis=0), rel=1e-12, abs=1e-12)
    assert mean.dtype == std.dtype == np.float64
    assert not layer.training
    assert layer.forward(X) is X


def test_a_single_layer_is_a_sequence_of_one():
    layer = cd.Dropout(0.5, rng=1).eval()
    for found, expected in zip(cd.mc_predict(layer, X, 8, rng=2), cd.mc_predict([layer], X, 8, rng=2), strict=True):
        assert found.any()
        assert np.array_equal(found, expected)
    assert not layer.training


class Block:
    """A container whose layers are only reachable by an attribute."""

    def __init__(self, layers):
        self.inner = layers

    def forward(self, x):
        return self.inner.forward(x)


class Slotted(Block):
    """A container whose attributes are in slots."""

    __slots__ = ("inner",)


@pytest.mark.parametrize(
    "container",
    [
        list,
        tuple,
        lambda layers: dict(enumerate(layers)),
        lambda layers: layers[0],
        lambda layers: [("first", layers[0])],
        lambda layers: {"first": [layers[0]]},
        lambda layers: Block(layers),
        lambda layers: Slotted(layers),
    ],
)
def test_layers_that_hold_layers_are_refused(container):
    with pytest.raises(TypeError, match=r"forward must be the layers themselves, got .*Block object"):
        cd.mc_predict([Block(container([cd.Dropout(0.5)]))], X, 8)


def test_a_layer_may_know_the_network_that_it_is_in():
    layer, known = cd.Dropout(0.5, rng=1), Block(None)
    known.network = Block([known, layer])
    known.forward = lambda x: x
    assert cd.mc_predict([known, layer], X, 8, rng=2)[1].any()


def test_complex_outputs_are_refused():
    with pytest.raises(TypeError, match="forward must return real numbers, got complex128"):
        cd.mc_predict(lambda x: x + 1j, X, 3)


def test_a_function_is_given_the_stream():
    mean, std = cd.mc_predict(lambda x, rng: cd.dropout(x, 0.5, rng=rng), X, 10, rng=3)
    again, _ = cd.mc_predict(lambda x, rng: cd.dropout(x, 0.5, rng=rng), X, 10, rng=3)
    other, _ = cd.mc_predict(lambda x, rng: cd.dropout(x, 0.5, rng=rng), X, 10, rng=4)
    assert np.array_equal(mean, again)
    assert not np.array_equal(mean, other)
    assert std.max() > 0


def test_without_dropout_there_is_no_spread():
    for n_samples in (5, 1):
        mean, std = cd.mc_predict(lambda x: 2 * x, X, n_samples)
        assert np.array_equal(mean, 2 * X)
        assert not std.any()


# ---- several samples in one pass ------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_pass", [1, 2, 7, 20, 50])
def test_samples_of_one_pass_count_as_samples_of_many(per_pass):
    stream, samples = cd.Stream(5), []
    for n in [per_pass] * (20 // per_pass) + [20 % per_pass] * (20 % per_pass > 0):
        samples.append(cd.dropout(np.concatenate([X] * n), 0.5, rng=stream).reshape(n, *X.shape))
    expected = np.concatenate(samples)
    layer = cd.Dropout(0.5, rng=9)
    for forward, layers in ((layer.forward, [layer]), ([layer], ())):
        mean, std = cd.mc_predict(forward, X, 20, rng=5, layers=layers, samples_per_pass=per_pass)
        assert mean == pytest.approx(expected.mean(axis=0), rel=1e-12, abs=1e-12)
        assert std == pytest.approx(expected.std(axis=0), rel=1e-12, abs=1e-12)


def test_a_pass_makes_no_more_samples_than_were_asked_for():
    rows = []
    mean, _ = cd.mc_predict(lambda x: rows.append(len(x)) or x, X, 5, samples_per_pass=64)
    cd.mc_predict(lambda x: rows.append(len(x)) or x, X, 5, samples_per_pass=3)
    assert rows == [5 * 20, 3 * 20, 2 * 20]
    assert mean == pytest.approx(X, rel=1e-12)


SHARING = {
    "FeatureDropout": lambda: cd.FeatureDropout(0.5),
    "Dropout, axis 0 shared": lambda: cd.Dropout(0.5, shared_axes=0),
    "LockedDropout": lambda: cd.LockedDropout(0.5),
    "FeatureDropoutLinear": lambda: cd.FeatureDropoutLinear(30, 4, 0.5),
    "DropConnect": lambda: cd.DropConnect(30, 4, 0.5),
}


@pytest.mark.parametrize("make", SHARING.values(), ids=SHARING)
def test_layers_whose_rows_share_decisions_sample_one_at_a_time(make):
    layer, x = make(), X.astype(np.float32)
    for forward, layers in ((layer.forward, [layer]), ([layer], ())):
        with pytest.raises(ValueError, match=r"samples_per_pass must be 1 for layers that share .*, got 4 for "):
            cd.mc_predict(forward, x, 8, layers=layers, samples_per_pass=4)
        cd.mc_predict(forward, x, 8, layers=layers)


@pytest.mark.parametrize("n_groups", [1, 4])
def test_compact_layers_sample_one_at_a_time(n_groups):
    first = CompactLinear(30, 8, 0.5, n_groups=n_groups)
    layers, x = [first, CompactLinear(8, 2, after=first, n_groups=n_groups)], X.astype(np.float32)
    with pytest.raises(ValueError, match=r"samples_per_pass must be 1 for layers that share .*, got 4 for "):
        cd.mc_predict(layers, x, 8, samples_per_pass=4)
    assert cd.mc_predict(layers, x, 8, rng=1)[1].min() > 0.0


def test_what_has_no_rows_cannot_be_sampled_in_one_pass():
    for x in (1.0, np.empty((0, 3))):
        with pytest.raises(ValueError, match="x must have rows where samples_per_pass is above 1, got shape"):
            cd.mc_predict(lambda x: x, x, 4, samples_per_pass=2)
    for forward in (lambda x: x.sum(), lambda x: x[:3]):
        with pytest.raises(ValueError, match="forward must return one row for each of x's 40, got shape"):
            cd.mc_predict(forward, X, 4, samples_per_pass=2)


# ---- a sequence of layers -------------------------------------------------------------------------------------------


class Double:
    """A layer of another library with a state."""

    def forward(self, x):
        self.x = x
        return 2 * x


def test_a_sequence_of_layers_predicts_as_a_callable_does_and_stays_as_it_was():
    layers = [Double(), cd.Dropout(0.5, rng=1).eval(), np.tanh, cd.ReLUDropout(0.2).eval()]
    streams = [layers[1].rng, layers[3].rng]

    def forward(x):
        return layers[3].forward(np.tanh(layers[1].forward(2 * x)))

    expected = cd.mc_predict(forward, X, 10, rng=3, layers=[layers[1], layers[3]])
    states = [dict(vars(layer)) for layer in layers if layer is not np.tanh]
    mean, std = cd.mc_predict(layers, X, 10, rng=3)
    assert np.array_equal(mean, expected[0])
    assert np.array_equal(std, expected[1])
    assert [dict(vars(layer)) for layer in layers if layer is not np.tanh] == states
    assert [layers[1].rng, layers[3].rng] == streams
    assert layers[1].rng.position == 0


def test_what_comes_before_the_first_dropout_is_computed_once():
    calls = []

    def noted(name, function):
        return lambda x: calls.append(name) or function(x)

    layers = [noted("before", np.tanh), cd.Dropout(0.5), noted("between", np.square), cd.Dropout(0.2), np.sin]
    for per_pass in (1, 4):
        expected = cd.mc_predict([lambda x: x, *layers], X, 10, rng=3, samples_per_pass=per_pass)
        calls.clear()
        found = cd.mc_predict(layers, X, 10, rng=3, samples_per_pass=per_pass)
        assert calls.count("before") == 2  # the second call shows that it is the same
        assert calls.count("between") == -(-10 // per_pass)
        assert all(map(np.array_equal, found, expected))


def test_steps_before_the_first_dropout_that_are_random_or_in_place_are_computed_for_each_sample():
    generator = np.random.default_rng(1)
    _, std = cd.mc_predict([lambda x: x + generator.standard_normal(x.shape), cd.Dropout(0.0)], X, 400)
    assert std == pytest.approx(np.ones(X.shape), abs=0.25)  # 7 standard errors

    def add_in_place(x):
        x += 1
        return x

    x = X.copy()
    cd.mc_predict([add_in_place, cd.Dropout(0.5)], x, 10)
    assert x == pytest.approx(X + 12)


@pytest.mark.parametrize("p", [0.0, 0.5])
def test_steps_after_the_first_dropout_may_write_to_their_input(p):
    def double_in_place(x):
        x *= 2
        return x

    layers = [np.tanh, cd.Dropout(p), double_in_place]
    expected = cd.mc_predict([np.tanh, cd.Dropout(p), lambda x: 2 * x], X, 10, rng=1)
    assert all(map(np.array_equal, cd.mc_predict(layers, X, 10, rng=1), expected))


@pytest.mark.parametrize("per_pass", [1, 4])
def test_layers_that_work_in_place_give_every_sample_the_same_input(per_pass):
    in_place, other = cd.Dropout(0.5, inplace=True), cd.Dropout(0.5)
    x = X.copy()
    expected = cd.mc_predict([other], x, 12, rng=1, samples_per_pass=per_pass)
    for forward, layers in (([in_place], ()), (lambda x: in_place.forward(x), [in_place])):
        found = cd.mc_predict(forward, x, 12, rng=1, layers=layers, samples_per_pass=per_pass)
        assert all(map(np.array_equal, found, expected))
        assert np.array_equal(x, X)
    assert in_place.inplace


def test_layers_without_an_rng_draw_from_their_own_streams():
    layer = cd.Dropout(0.5, rng=1).eval()
    mean, _ = cd.mc_predict([layer], X, 10)
    again, _ = cd.mc_predict([cd.Dropout(0.5, rng=1)], X, 10)
    assert np.array_equal(mean, again)
    assert layer.rng.position == 10 * 4096


def test_copies_of_layers_share_their_arrays():
    layer = cd.FeatureDropoutLinear(30, 4, 0.0, rng=1)
    before, _ = cd.mc_predict([layer], X.astype(np.float32), 1, rng=1)
    layer.params[1] += 1
    after, _ = cd.mc_predict([layer], X.astype(np.float32), 1, rng=1)
    assert after == pytest.approx(before + 1, rel=1e-5)


def test_what_is_no_forward_is_named():
    for forward in (None, 3, Double()):
        with pytest.raises(TypeError, match="forward must be callable or a sequence of layers, got "):
            cd.mc_predict(forward, X, 1)
    with pytest.raises(TypeError, match="forward must be a sequence of layers and functions, got 'relu' in it"):
        cd.mc_predict([Double(), "relu"], X, 1)
    layer = cd.Dropout()
    with pytest.raises(ValueError, match="layers must be left out where forward is a sequence of layers"):
        cd.mc_predict([layer], X, 1, layers=[layer])
    with pytest.raises(ValueError, match="samples_per_pass must be at least 1, got 0"):
        cd.mc_predict([layer], X, 1, samples_per_pass=0)


# ---- memory, progress, arguments ------------------------------------------------------------------------------------


@measures_the_process
def test_memory_does_not_grow_with_the_number_of_samples():
    x = np.ones(1 << 16)

    def peak(n_samples):
        tracemalloc.start()
        try:
            cd.mc_predict(lambda x: x, x, n_samples)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(200) < peak(5) + x.nbytes


def test_progress_without_tqdm_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(ImportError, match=re.escape('progress=True needs tqdm: pip install "cdropout[cli]"')):
        cd.mc_predict(lambda x: x, X, 3, progress=True)


def test_progress_is_shown_on_request_and_counts_samples_and_not_passes(capsys):
    cd.mc_predict(lambda x: x, X, 3)
    assert capsys.readouterr().err == ""
    for samples_per_pass in (1, 16):
        cd.mc_predict(lambda x: x, X, 30, samples_per_pass=samples_per_pass, progress=True)
        assert "30" in capsys.readouterr().err


def test_a_forward_whose_shape_changes_is_refused():
    shapes = iter([(3,), (4,)])
    with pytest.raises(ValueError, match=r"forward must return one shape, got \(4,\) after \(3,\)"):
        cd.mc_predict(lambda x: np.ones(next(shapes)), X, 2)


def test_dropout_on_gives_modes_and_streams_back_also_after_an_error():
    own, shared, training = cd.Dropout(0.5, rng=1).eval(), cd.AlphaDropout(0.5).eval(), cd.FeatureDropout(0.5)
    stream = own.rng

    def fail_within():
        with cd.dropout_on([own, shared, training, "not a layer"], rng=7):
            assert own.training
            assert shared.training
            assert own.rng is shared.rng is training.rng
            raise KeyError

    with pytest.raises(KeyError):
        fail_within()
    assert (own.training, shared.training, training.training) == (False, False, True)
    assert own.rng is stream
    assert shared.rng is None
    with cd.dropout_on([own]):
        assert own.rng is stream
        assert not np.array_equal(own.forward(X), X)


def test_two_threads_cannot_switch_one_layer_and_it_survives_the_attempt():
    layer, other = cd.Dropout(0.5, rng=1).eval(), cd.Dropout(0.5, rng=2).eval()
    stream, generator = layer.rng, np.random.default_rng(0)
    before = generator.bit_generator.state
    message = r"layers must be switched by one thread at a time, got Dropout\(p=0.5\) of a thread that still has them"
    with ThreadPoolExecutor(1) as pool, cd.dropout_on([layer], rng=3):
        with cd.dropout_on([layer], rng=4):  # one thread may switch layers in nested blocks
            assert layer.training
        for call in (
            lambda: cd.mc_predict(layer.forward, X, 2, rng=generator, layers=[other, layer]),
            lambda: cd.dropout_on([other, layer]).__enter__(),
        ):
            with pytest.raises(RuntimeError, match=message):
                pool.submit(call).result()
        assert layer.training
        assert not other.training
        pool.submit(cd.mc_predict, other.forward, X, 2, layers=[other]).result()
    assert generator.bit_generator.state == before
    assert not layer.training
    assert layer.rng is stream
    with ThreadPoolExecutor(1) as pool:
        pool.submit(cd.mc_predict, layer.forward, X, 2, layers=[layer]).result()


async def samples_in_turns(layer, rng, n):
    """Sample n times within a block of dropout_on, and let other tasks run after each."""
    samples = []
    with cd.dropout_on([layer], rng=rng):
        for _ in range(n):
            assert layer.training
            samples.append(layer.forward(X))
            await asyncio.sleep(0)
    return samples


def test_two_tasks_cannot_switch_one_layer_and_it_survives_the_attempt():
    layer = cd.Dropout(0.5, rng=1).eval()
    stream = layer.rng

    async def both():
        return await asyncio.gather(*(samples_in_turns(layer, i, 3) for i in (1, 2)), return_exceptions=True)

    first, second = asyncio.run(both())
    expected = cd.Stream(1)
    assert all(np.array_equal(y, cd.dropout(X, 0.5, rng=expected)) for y in first)
    with pytest.raises(RuntimeError, match=r"switched by one task at a time, got Dropout\(p=0.5\) of a task"):
        raise second
    assert not layer.training
    assert layer.rng is stream


def test_a_task_may_switch_layers_of_the_block_that_started_it():
    layer = cd.Dropout(0.5, rng=1).eval()

    async def nested():
        with cd.dropout_on([layer], rng=2):
            samples = await asyncio.create_task(samples_in_turns(layer, 3, 2))
            return [*samples, layer.forward(X)]

    *samples, last = asyncio.run(nested())
    expected = cd.Stream(3)
    assert all(np.array_equal(y, cd.dropout(X, 0.5, rng=expected)) for y in samples)
    assert np.array_equal(last, cd.dropout(X, 0.5, rng=2))
    assert not layer.training


def test_blocks_that_overlap_keep_dropout_on_and_the_last_to_end_restores_the_layers():
    def turns(rng):
        with cd.dropout_on([layer], rng=rng):
            yield
            yield

    layer = cd.Dropout(0.5, rng=1).eval()
    stream = layer.rng
    first, second, third = turns(2), turns(None), turns(3)
    for generator in (first, second, third):
        next(generator)
    for generator in (first, third, second):
        assert layer.training
        assert layer.rng is not stream
        generator.close()
    assert not layer.training
    assert layer.rng is stream


def test_arrays_may_have_as_many_axes_as_numpy_allows():
    x = np.ones((4, *(1,) * 62, 3))
    for per_pass in (1, 2):
        mean, std = cd.mc_predict([cd.Dropout(0.5)], x, 4, rng=1, samples_per_pass=per_pass)
        assert mean.shape == std.shape == x.shape


def test_train_and_eval_switch_many_layers():
    class Plain:
        pass

    layers = [cd.Dropout(), Plain(), cd.GaussianDropout()]
    cd.eval(layers)
    assert [layers[0].training, layers[2].training] == [False, False]
    cd.train(layers)
    assert [layers[0].training, layers[2].training] == [True, True]
    cd.train(layers, False)
    assert [layers[0].training, layers[2].training] == [False, False]


def test_importing_everything_leaves_the_built_in_eval_alone():
    assert "eval" not in cd.__all__
    assert callable(cd.eval)


def test_foreign_layers_are_given_no_stream_and_switched_by_what_they_have():
    class Norm:
        training = False

    class OnlyEval:
        def eval(self):
            self.is_evaluating = True

    class OnlyTrain:
        def train(self, mode=True):
            self.training = mode

    norm, only_eval, only_train = Norm(), OnlyEval(), OnlyTrain()
    with cd.dropout_on([norm], rng=3):
        assert not norm.training
    with cd.dropout_on([norm], rng=3, also=[norm]):
        assert norm.training
    assert vars(norm) == {"training": False}
    cd.eval([norm, only_eval, only_train])
    assert only_eval.is_evaluating
    assert not hasattr(only_train, "training")


class BatchNorm:
    """Batch normalization: in training it uses the batch's statistics and moves its running ones towards them."""

    def __init__(self, n):
        self.mean, self.training = np.zeros(n, np.float32), False

    def forward(self, x):
        if self.training:
            self.mean += np.float32(0.1) * (x.mean(axis=0) - self.mean)
        return x - (x.mean(axis=0) if self.training else self.mean)


def test_only_layers_that_drop_are_switched():
    norm, drop = BatchNorm(X.shape[1]), cd.Dropout(0.0).eval()
    x = X + np.float32(5)
    mean, std = cd.mc_predict([norm, drop], x, 3, rng=1)
    assert np.array_equal(mean, x)
    assert not std.any()
    assert not norm.mean.any()
    mean, _ = cd.mc_predict([norm, drop], x, 1, rng=1, also=[norm])
    assert np.allclose(mean, x - x.mean(axis=0))
    with cd.dropout_on([norm, drop]):
        assert drop.training
        assert not norm.training


def test_a_dropout_layer_of_another_library_is_switched_or_reported():
    class ForeignDropout:
        training = False

        def forward(self, x):
            return x * np.float32(not self.training)

    foreign = ForeignDropout()
    with pytest.warns(UserWarning, match="is not switched on: it is no layer of cdropout"), cd.dropout_on([foreign]):
        assert not foreign.training
    with pytest.warns(UserWarning, match="is not switched on") as caught:
        mean, _ = cd.mc_predict([foreign], X, 2)
    assert caught[0].filename == __file__
    assert np.array_equal(mean, X)
    mean, _ = cd.mc_predict([foreign], X, 2, also=[foreign])
    assert not mean.any()
    assert not foreign.training
    ours = cd.Dropout(0.5, rng=1).eval()
    _, std = cd.mc_predict(ours.forward, X, 5, also=[ours])
    assert std.any()
    with pytest.raises(TypeError, match="also must be layers with an attribute training, got 3"):
        cd.dropout_on([], also=[3]).__enter__()
    with pytest.raises(ValueError, match="also must be layers of the sequence"):
        cd.mc_predict([cd.Dropout()], X, 2, also=[foreign])


def test_a_scalar_has_a_mean_and_a_spread_that_are_arrays():
    mean, std = cd.mc_predict(lambda x: 1.0, None, 3)
    assert isinstance(mean, np.ndarray)
    assert isinstance(std, np.ndarray)


def test_masked_rows_keep_their_masks_and_masked_outputs_are_refused():
    x = np.ma.array(np.ones((3, 2)), mask=np.eye(3, 2), fill_value=5)
    seen = []

    def forward(rows):
        seen.append(rows)
        return rows.filled(0)

    mean, _ = cd.mc_predict(forward, x, 5, samples_per_pass=2)
    assert np.array_equal(mean, x.filled(0))
    assert np.array_equal(seen[0].mask, np.concatenate([x.mask] * 2))
    assert seen[0].fill_value == 5
    for n in (1, 2):
        with pytest.raises(TypeError, match="forward's output must not be a masked array"):
            cd.mc_predict(lambda rows: rows, x, 4, samples_per_pass=n)


@pytest.mark.parametrize("rescale", ["train", None])
@pytest.mark.parametrize("n_rows", [1, 3])
def test_a_pass_of_several_samples_has_the_same_numbers_with_copies_of_the_input_and_without(
    monkeypatch, n_rows, rescale
):
    x = np.random.default_rng(1).standard_normal((n_rows, 40), dtype=np.float32)
    weight = np.random.default_rng(2).standard_normal((40, 7), dtype=np.float32)
    found, calls = [], []
    for least in (1, 10**9):
        monkeypatch.setattr(inference, "MIN_ELEMS_WITHOUT_COPIES", least)
        for prefix in ([], [np.tanh]):
            layers = [*prefix, cd.Dropout(0.3, rescale=rescale), lambda y: calls.append(len(y)) or y @ weight]
            found.append(cd.mc_predict(layers, x, 10, rng=5, samples_per_pass=4))
    assert calls == [4 * n_rows, 4 * n_rows, 2 * n_rows] * 4
    for without, with_copies in zip(found[:2], found[2:], strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(without, with_copies, strict=True))


class Holder:
    """A network without modes that holds a layer."""

    def __init__(self, layer):
        self.layers = [layer]

    def forward(self, x):
        return self.layers[0].forward(x)


@pytest.mark.parametrize("layers", [cd.Dropout(0.5), 3, None, "drop", {"drop": cd.Dropout(0.5)}])
def test_layers_that_are_no_iterable_of_layers_are_refused_by_name(layers):
    calls = [
        lambda: cd.train(layers),
        lambda: cd.eval(layers),
        lambda: cd.dropout_on(layers).__enter__(),
        lambda: cd.mc_predict(lambda x: x, X, 2, layers=layers),
    ]
    for call in calls:
        with pytest.raises(TypeError, match="layers must be an iterable of layers, got "):
            call()
    for call in (lambda: cd.dropout_on([], also=layers).__enter__(), lambda: cd.mc_predict([], X, 2, also=layers)):
        with pytest.raises(TypeError, match="also must be an iterable of layers, got "):
            call()


def test_objects_that_hold_layers_which_are_not_listed_are_reported():
    layer = cd.Dropout(0.5, rng=1)
    holder = Holder(layer)
    for switch, name in ((cd.eval, "eval"), (cd.train, "train")):
        with pytest.warns(UserWarning, match=f"holds layers that are not switched, because it has no {name}") as caught:
            switch([holder])
        assert caught[0].filename == __file__
        assert layer.training == (name == "eval")  # as before
        switch([holder, layer])  # no warning: the layer is listed
        assert layer.training == (name == "train")
    layer.eval()
    message = "holds layers that are not switched on: list these layers"
    with pytest.warns(UserWarning, match=message) as caught, cd.dropout_on([holder]):
        assert not layer.training
    assert caught[0].filename == __file__
    with cd.dropout_on([holder, layer]):
        assert layer.training
    assert cd.mc_predict(holder.forward, X, 5, layers=[holder, layer])[1].any()


class Step:
    """A layer without modes, with any attributes."""

    def __init__(self, **attributes):
        self.__dict__.update(attributes)

    def forward(self, x):
        return x


class Mode(Step):
    """A layer with a mode that `train` and `eval` switch."""

    training = True

    def train(self, mode=True):
        self.training = mode

    def eval(self):
        self.train(False)


class ComputedAttributes:
    """An object whose attributes are computed, and must not be by a search for layers."""

    __slots__ = "x"

    def __getattr__(self, name):
        raise RuntimeError(f"{name} was computed")

    @property
    def forward(self):
        raise RuntimeError("forward was computed")

    training = forward


class Named(Step):
    """A layer whose one slot is named by a string, each of whose letters could be an attribute."""

    __slots__ = "training"

    @property
    def g(self):
        raise RuntimeError("g was computed")


def cycle_of_layers():
    network = Mode(layers=[Step(), cd.Dropout(0.5, rng=1), Step()])
    for layer in network.layers[::2]:
        layer.network = network
    return network.layers


def dead_proxy():
    return weakref.proxy(Mode())


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "layers",
    [
        *(cycle_of_layers(), cycle_of_layers()[:1]),  # a network whose layers refer to it is not one of their parts
        [Step(inner=ComputedAttributes(), many=[ComputedAttributes()])],
        [Named()],
        *([Step(kind=Mode)], [Step(kind=cd.Dropout)], [Step(module=sys.modules["cdropout"])]),  # no objects
        [Step(proxy=dead_proxy())],
        [Step(table=dict.fromkeys(range(1_000_000)), numbers=[[0.0] * 1_000] * 1_000)],
    ],
    ids=["cycle", "part of a cycle", "computed", "slots", "class", "class of ours", "module", "proxy", "long"],
)
def test_usual_attributes_of_layers_cause_no_warning_and_run_no_code(layers):
    began = time.process_time()
    cd.eval(layers)
    cd.train(layers)
    with cd.dropout_on(layers):
        pass
    assert time.process_time() - began < 1


@pytest.mark.filterwarnings("error")
def test_layers_whose_mode_is_not_that_of_dropout_are_no_reason_to_warn():
    norm = Step(training=True)  # has no eval to call
    cd.eval([Step(norm=norm)])
    with cd.dropout_on([Step(norm=Mode()), cd.Dropout(0.5, rng=1)]):
        pass


def test_layers_in_slots_and_rings_of_objects_are_found():
    class Slots:
        __slots__ = ("__layer",)

        def __init__(self):
            self.__layer = cd.Dropout(0.5)

        def forward(self, x):
            return x

    ring = Step()
    ring.next = Step(before=ring, layer=cd.Dropout(0.5))
    ring.next.layer.owner = ring
    for holder in (Slots(), Step(inner=[{"a": (Slots(),)}])):
        with pytest.warns(UserWarning, match="a (Slots|Step) holds layers that are not switched, because it has no"):
            cd.eval([holder])
    with pytest.warns(UserWarning, match="a Step holds layers that are not switched on"), cd.dropout_on([ring]):
        pass


def test_objects_whose_repr_raises_are_reported_by_their_class():
    class Unnamed(Holder):
        def __repr__(self):
            raise RuntimeError("no text")

    with pytest.warns(UserWarning, match="a Unnamed holds layers that are not switched"):
        cd.eval([Unnamed(cd.Dropout(0.5))])


def test_a_holder_among_the_layers_of_monte_carlo_dropout_is_reported_once():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cd.mc_predict(lambda x: x, X, 2, layers=[Holder(cd.Dropout(0.5))])
    assert [str(each.message) for each in caught] == [
        "a Holder holds layers that are not switched on: list these layers instead"
    ]


def test_objects_that_are_numbers_are_outputs_of_monte_carlo_dropout():
    mean, std = cd.mc_predict(lambda x: np.array([Fraction(1, 2), Decimal(3), 2, np.float32(4)], object), X, 2)
    assert mean.tolist() == [0.5, 3, 2, 4]
    assert not std.any()


def test_monte_carlo_dropout_without_a_layer_to_switch_on_is_reported():
    network = MLP([X.shape[1], 4, 2], p=[0.5], rng=1, dtype=X.dtype).eval()
    with pytest.warns(UserWarning, match="layers must be layers of cdropout to be switched on, got") as caught:
        _, std = cd.mc_predict(network.forward, X, 3, layers=[network])
    assert caught[0].filename == __file__
    assert not std.any()


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (None, "None"),
        ("a", "'a'"),
        ([None, 1.0], "object"),
        (np.array(["2020-01-01"], "M8[D]"), r"datetime64\[D\]"),
    ],
)
def test_outputs_that_are_no_numbers_are_refused(output, message):
    with pytest.raises(TypeError, match=f"forward must return real numbers, got {message}$"):
        cd.mc_predict(lambda x: output, X, 2)
