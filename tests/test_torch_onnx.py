"""Models that drop in ONNX Runtime: its optimizer removes dropout nodes, and what `torch.onnx.export` makes of a model.

docs/pytorch.md, "ONNX", has the rules that these tests show.
"""

import io
import logging

import numpy as np
import pytest

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
    pytest.mark.ci,  # each export takes seconds
]

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from torch import nn  # noqa: E402

import cdropout.torch as ct  # noqa: E402

CURE = ["EliminateDropout"]
X = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def quiet(caplog):
    caplog.set_level(logging.ERROR)
    onnxruntime.set_default_logger_severity(3)
    ct.disable()
    yield
    ct.disable()


def exported(model, exporter="TorchScript"):
    """Return the file of a model in the mode that it has."""
    if exporter == "dynamo":
        pytest.importorskip("onnxscript")
        return torch.onnx.export(model, (X,), dynamo=True, verbose=False).model_proto.SerializeToString()
    file = io.BytesIO()
    mode = torch.onnx.TrainingMode.PRESERVE
    torch.onnx.export(model, (X,), file, dynamo=False, training=mode, do_constant_folding=False)
    return file.getvalue()


def operators(file):
    return [node.op_type for node in onnx.load_from_string(file).graph.node]


def outputs(file, disabled_optimizers=()):
    """Return the outputs of two runs of one session."""
    session = onnxruntime.InferenceSession(
        file, providers=["CPUExecutionProvider"], disabled_optimizers=list(disabled_optimizers)
    )
    return [session.run(None, {session.get_inputs()[0].name: X.numpy()})[0] for _ in range(2)]


def varies(file, disabled_optimizers=()):
    first, second = outputs(file, disabled_optimizers)
    return not np.array_equal(first, second)


def inner():
    return nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 3))


@pytest.mark.parametrize("exporter", ["TorchScript", "dynamo"])
def test_onnx_runtime_removes_inner_dropout_unless_its_optimizer_is_disabled(exporter):
    file = exported((replaced() if exporter == "dynamo" else inner()).train(), exporter)
    assert operators(file).count("Dropout") == 1
    assert not varies(file), "ONNX Runtime no longer removes the node: docs/pytorch.md says that it does"
    assert varies(file, CURE)


def test_onnx_runtime_keeps_dropout_whose_output_is_the_models():
    file = exported(nn.Sequential(nn.Linear(8, 64), nn.Dropout(0.5)).train())
    assert varies(file)


def samples(model, n_samples):
    """Return the outputs of a model in training mode in many runs of one session."""
    session = onnxruntime.InferenceSession(
        exported(model.train()), providers=["CPUExecutionProvider"], disabled_optimizers=CURE
    )
    name = session.get_inputs()[0].name
    return np.stack([session.run(None, {name: X.numpy()})[0] for _ in range(n_samples)])


def test_runs_of_a_session_do_not_draw_the_first_element_independently():
    # If this fails, ONNX Runtime has another generator, and docs/pytorch.md should no longer warn of this one.
    kept = samples(nn.Sequential(nn.Dropout(0.5)), 200) != 0.0
    assert kept[:, 0, 0].min() == kept[:, 0, 0].max()
    assert 0.45 < kept.mean() < 0.55  # 9600 decisions: 10 standard deviations


def test_nodes_of_feature_dropout_draw_independently():
    model = nn.Sequential(nn.Identity(), ct.FeatureDropout(0.5))
    kept = samples(model, 2000)[:, 0] != 0.0
    # 8 features of 2000 samples, and pairs of successive ones: 6 standard deviations, significance 3e-8.
    assert np.all(np.abs(kept.mean(0) - 0.5) < 6 * 0.5 / 2000**0.5)
    assert np.all(np.abs((kept[1:] == kept[:-1]).mean(0) - 0.5) < 6 * 0.5 / 1999**0.5)


def replaced():
    model = inner()
    ct.replace_dropout(model)
    return model


def compacted(n_groups=1):
    model = inner()
    ct.compact_dropout(model, n_groups=n_groups)
    return model


class Function(nn.Module):
    """A module that drops by a function."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(8, 64), nn.Linear(64, 3)

    def forward(self, x):
        return self.second(nn.functional.dropout(self.first(x), 0.5, self.training))


def with_the_switch_on():
    ct.enable()
    return Function()


MODELS = {
    # name: (model, Dropout nodes, nodes that draw otherwise)
    "replaced": (replaced, 1, 0),
    "switch": (with_the_switch_on, 1, 0),
    "compact": (compacted, 0, 1),
    "compact, groups": (lambda: compacted(4), 0, 1),
    "family": (
        lambda: nn.Sequential(
            nn.Linear(8, 64),
            ct.ReLUDropout(0.5),
            ct.FeatureDropoutLinear(64, 64, p=0.5),
            ct.DropConnect(64, 9),
            ct.GaussianDropout(0.5),
        ),
        1,
        3,
    ),
}


@pytest.mark.parametrize(
    ("name", "exporter"),
    [
        *((name, "TorchScript") for name in MODELS),
        ("switch", "dynamo"),
        ("compact, groups", "dynamo"),
        ("family", "dynamo"),
    ],
)
def test_models_of_this_package_are_exported_in_both_modes(name, exporter):
    make, n_dropout, n_other = MODELS[name]
    model = make().eval()
    file = exported(model, exporter)
    assert not {"Dropout", "Bernoulli", "RandomUniformLike"}.intersection(operators(file))
    for y in outputs(file):
        assert np.allclose(y, model(X).detach().numpy(), atol=1e-5)
    file = exported(model.train(), exporter)
    found = operators(file)
    assert found.count("Dropout") == n_dropout
    assert sum(operator.startswith("Random") for operator in found) == n_other
    assert varies(file, CURE)
    assert varies(file) is (n_other > 0)


def test_the_switch_refuses_kinds_of_dropout_that_onnx_does_not_have():
    pytest.importorskip("onnxscript")
    ct.enable()
    model = nn.Sequential(nn.Linear(8, 64), nn.AlphaDropout(0.5)).train()
    with pytest.raises(Exception, match=r"must be switched off by disable\(\) while torch.onnx.export runs"):
        exported(model, "dynamo")
