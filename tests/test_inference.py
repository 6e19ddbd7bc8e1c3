"""Monte Carlo dropout, forced dropout, and the modes of many layers."""

import re
import sys
import tracemalloc

import numpy as np
import pytest

import cdropout as cd

X = np.random.default_rng(0).standard_normal((20, 30))


def test_mean_and_spread_are_those_of_the_samples():
    layer = cd.Dropout(0.5, rng=1)
    samples = np.array([layer.forward(X) for _ in range(50)])
    mean, std = cd.mc_predict(lambda x: layer.forward(x), X, 50, rng=1, layers=[layer.eval()])
    assert mean == pytest.approx(samples.mean(axis=0), rel=1e-12, abs=1e-12)
    assert std == pytest.approx(samples.std(axis=0), rel=1e-12, abs=1e-12)
    assert mean.dtype == std.dtype == np.float64
    assert not layer.training
    assert layer.forward(X) is X


def test_a_function_is_given_the_stream():
    mean, std = cd.mc_predict(lambda x, rng: cd.dropout(x, 0.5, rng=rng), X, 10, rng=3)
    again, _ = cd.mc_predict(lambda x, rng: cd.dropout(x, 0.5, rng=rng), X, 10, rng=3)
    other, _ = cd.mc_predict(lambda x, rng: cd.dropout(x, 0.5, rng=rng), X, 10, rng=4)
    assert np.array_equal(mean, again)
    assert not np.array_equal(mean, other)
    assert std.max() > 0


def test_without_dropout_there_is_no_spread():
    mean, std = cd.mc_predict(lambda x: 2 * x, X, 5)
    assert np.array_equal(mean, 2 * X)
    assert not std.any()
    mean, std = cd.mc_predict(lambda x: 2 * x, X, 1)
    assert np.array_equal(mean, 2 * X)
    assert not std.any()


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


def test_progress_is_shown_on_request(capsys):
    cd.mc_predict(lambda x: x, X, 3)
    assert capsys.readouterr().err == ""
    cd.mc_predict(lambda x: x, X, 3, progress=True)
    assert "3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("n_samples", "error", "message"),
    [
        (0, ValueError, "n_samples must be at least 1, got 0"),
        (2.5, TypeError, "n_samples must be an integer, got 2.5"),
        (True, TypeError, "n_samples must be an integer, got True"),
    ],
)
def test_the_number_of_samples_is_checked(n_samples, error, message):
    with pytest.raises(error, match=message):
        cd.mc_predict(lambda x: x, X, n_samples)


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
        assert norm.training
    assert vars(norm) == {"training": False}
    cd.eval([norm, only_eval, only_train])
    assert only_eval.is_evaluating
    assert not hasattr(only_train, "training")


def test_a_scalar_has_a_mean_and_a_spread_that_are_arrays():
    mean, std = cd.mc_predict(lambda x: 1.0, None, 3)
    assert isinstance(mean, np.ndarray)
    assert isinstance(std, np.ndarray)
