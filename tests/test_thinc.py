"""thinc and spaCy with dropout masks from this library."""

import inspect

import numpy as np
import pytest

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

thinc_api = pytest.importorskip("thinc.api", exc_type=ImportError)

import cdropout.thinc as cthinc  # noqa: E402

OPS = cthinc.CDropoutOps()


@pytest.fixture
def enabled():
    cthinc.enable()
    yield
    cthinc.disable()


@pytest.mark.parametrize("drop", [0.1, 0.5, 0.9])
def test_a_mask_has_thincs_dtype_shape_and_scale(drop):
    mask = OPS.get_dropout_mask((512, 768), drop)
    kept = mask != 0
    assert mask.dtype == np.float32
    assert mask.shape == (512, 768)
    assert abs(kept.mean() - (1 - drop)) < 5 * (drop * (1 - drop) / mask.size) ** 0.5
    assert np.all(mask[kept] == np.float32(1 / (1 - drop)))
    assert OPS.get_dropout_mask((7,), drop).shape == (7,)


@pytest.mark.parametrize("drop", [None, 0, 0.0, -1.0, 1.0, 1.5])
def test_edges_are_thincs_own(drop):
    assert np.array_equal(OPS.get_dropout_mask((3, 4), drop), thinc_api.NumpyOps().get_dropout_mask((3, 4), drop))


def test_the_method_has_thincs_signature():
    # Text, as in the test of thinc 9.1 that compares the annotations of all operations.
    ours, thincs = (inspect.signature(ops.get_dropout_mask) for ops in (cthinc.CDropoutOps, thinc_api.Ops))
    assert str(ours) == str(thincs)
    assert cthinc.CDropoutOps.get_dropout_mask.__annotations__ is not thinc_api.Ops.get_dropout_mask.__annotations__


def test_fix_random_seed_repeats_masks():
    thinc_api.fix_random_seed(3)
    first, second = OPS.get_dropout_mask((50, 50), 0.5), OPS.get_dropout_mask((50, 50), 0.5)
    assert not np.array_equal(first, second)
    thinc_api.fix_random_seed(3)
    assert np.array_equal(OPS.get_dropout_mask((50, 50), 0.5), first)


@pytest.mark.parametrize(
    ("shape", "drop", "error"),
    [((1 << 23, 1 << 22), 0.5, MemoryError), ((3, -1), 0.5, ValueError), ((3,), float("nan"), ValueError)],
)
def test_a_mask_that_cannot_be_made_does_not_advance_numpys_generator(shape, drop, error):
    thinc_api.fix_random_seed(3)
    with pytest.raises(error):
        OPS.get_dropout_mask(shape, drop)
    first = OPS.get_dropout_mask((50, 50), 0.5)
    thinc_api.fix_random_seed(3)
    assert np.array_equal(OPS.get_dropout_mask((50, 50), 0.5), first)


def test_one_line_switches_thinc_over_and_another_back(enabled):
    assert type(thinc_api.get_ops("numpy")) is cthinc.CDropoutOps
    assert type(thinc_api.get_ops("cpu")) is cthinc.CDropoutOps
    assert type(thinc_api.get_current_ops()) is cthinc.CDropoutOps
    model = thinc_api.Dropout(0.5)
    assert type(model.ops) is cthinc.CDropoutOps
    x = np.ones((20, 30), np.float32)
    y, backprop = model(x, is_train=True)
    assert np.array_equal(backprop(x), y)
    assert set(np.unique(y)) == {0, 2}
    cthinc.enable()
    cthinc.disable()
    assert type(thinc_api.get_current_ops()) is thinc_api.NumpyOps
    assert type(thinc_api.get_ops("numpy")) is thinc_api.NumpyOps


def test_a_small_thinc_network_learns(enabled):
    thinc_api.fix_random_seed(0)
    x = np.random.default_rng(0).standard_normal((300, 10)).astype(np.float32)
    y = np.stack([x[:, 0] > 0, x[:, 0] <= 0], axis=1).astype(np.float32)
    model = thinc_api.chain(thinc_api.Relu(32, dropout=0.3), thinc_api.Softmax(2))
    model.initialize(X=x, Y=y)
    optimizer = thinc_api.Adam(0.01)
    for _ in range(60):
        predicted, backprop = model.begin_update(x)
        backprop(predicted - y)
        model.finish_update(optimizer)
    assert np.mean(model.predict(x).argmax(axis=1) == y.argmax(axis=1)) > 0.9


def test_a_small_spacy_pipeline_trains(enabled):
    spacy = pytest.importorskip("spacy")
    from spacy.training import Example

    spacy.util.fix_random_seed(0)
    nlp = spacy.blank("en")
    category = nlp.add_pipe("textcat")
    for label in ("good", "bad"):
        category.add_label(label)
    texts = [
        ("a good fine day", "good"),
        ("a bad awful day", "bad"),
        ("fine good thing", "good"),
        ("awful bad thing", "bad"),
    ]
    examples = [
        Example.from_dict(nlp.make_doc(text), {"cats": {"good": float(label == "good"), "bad": float(label == "bad")}})
        for text, label in texts
    ]
    nlp.initialize(lambda: examples)
    losses = []
    for _ in range(20):
        loss = {}
        nlp.update(examples, drop=0.3, losses=loss)
        losses.append(loss["textcat"])
    assert losses[-1] < losses[0] / 2
    assert nlp("a good thing").cats["good"] > 0.5 > nlp("an awful day").cats["good"]


@pytest.mark.ci
def test_thincs_own_tests_of_dropout_pass(run_shipped_tests):
    outcomes = run_shipped_tests("thinc")
    assert outcomes["failed"] == []
    assert set(outcomes["ours"]) & set(outcomes["passed"]), outcomes
