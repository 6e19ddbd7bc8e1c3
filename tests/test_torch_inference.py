"""Monte Carlo dropout for PyTorch models: what is switched on, what is computed once, and the moments."""

import threading

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

import cdropout.torch as ct  # noqa: E402

X = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
ROWS = torch.randn(5, 4, 8, generator=torch.Generator().manual_seed(1))


class Block(nn.Module):
    """A residual block with batch normalization, which counts its calls."""

    def __init__(self, n_channels):
        super().__init__()
        self.convolution = nn.Conv2d(n_channels, n_channels, 3, padding=1)
        self.normalization = nn.BatchNorm2d(n_channels)
        self.n_calls = 0

    def forward(self, x):
        self.n_calls += 1
        return x + functional.relu(self.normalization(self.convolution(x)))


class Residual(nn.Module):
    """Blocks, and one dropout before the head; with `F.dropout`, or a module."""

    def __init__(self, drop):
        super().__init__()
        self.stem, self.blocks = nn.Conv2d(3, 4, 1), nn.Sequential(Block(4), Block(4))
        self.drop = nn.Dropout(0.5) if drop is nn.Dropout else None
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = self.blocks(functional.relu(self.stem(x))).mean((2, 3))
        x = functional.dropout(x, 0.5, self.training) if self.drop is None else self.drop(x)
        return self.head(x)


def loop(model, x, n_samples, drawing, seed=7):
    """Return what each pass of a model gives with these modules in training mode."""
    model.eval()
    for module in drawing:
        module.training = True
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(seed)
        samples = torch.stack([model(x) for _ in range(n_samples)]).double()
    model.eval()
    return samples


def assert_moments_of(prediction, samples):
    assert prediction.mean.dtype == prediction.std.dtype == torch.float64
    assert torch.allclose(prediction.mean, samples.mean(0), rtol=1e-12, atol=1e-12)
    assert torch.allclose(prediction.std, samples.std(0, correction=0), rtol=1e-9, atol=1e-12)
    assert prediction.std.any()


@pytest.mark.parametrize("drop", [nn.Dropout, functional.dropout])
@pytest.mark.parametrize("is_ours", [False, True])
def test_what_comes_before_the_first_dropout_is_computed_twice_and_nothing_changes(drop, is_ours):
    model = Residual(drop)
    model(X)  # gives batch normalization its statistics
    expected = loop(model, X, 20, [model if model.drop is None else model.drop])
    if is_ours:
        ct.replace_dropout(model)
        expected = loop(model, X, 20, [model if model.drop is None else model.drop])
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.blocks[1].n_calls, state = 0, torch.get_rng_state()
    prediction = ct.mc_predict(model, X, 20, seed=7)
    assert_moments_of(prediction, expected)
    assert prediction.entropy is None
    assert prediction.mutual_information is None
    assert model.blocks[1].n_calls == 2
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training and "forward" not in vars(module) for module in model.modules())
    assert torch.equal(torch.get_rng_state(), state)


class DropOwn(nn.Module):
    """Drop with a generator that is not PyTorch's default one."""

    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(3)

    def forward(self, x):
        return ct.dropout(x, 0.5, self.training, generator=self.generator)


MODELS = {
    "encoder": (nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, 0.3, batch_first=True), 2), None),
    "LSTM": (nn.Sequential(nn.Linear(8, 8), nn.LSTM(8, 8, 2, dropout=0.4)), lambda out: out[0]),
    "dropout in a list": (nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.2), nn.Tanh(), nn.Dropout(0.4)), None),
    "generator": (nn.Sequential(nn.Tanh(), DropOwn()), None),
}


@pytest.mark.parametrize("name", MODELS)
def test_modules_that_draw_are_found(name):
    model, output = MODELS[name]
    model.eval()
    prediction = ct.mc_predict(model, ROWS, 30, seed=1, output=output)
    again = ct.mc_predict(model, ROWS, 30, seed=1, output=output)
    assert (prediction.std > 0).float().mean() > 0.9
    assert torch.equal(prediction.mean, again.mean) or name == "generator"
    assert not any(module.training for module in model.modules())


class Twice(nn.Module):
    """Call one module inside of another, and again after it."""

    def __init__(self, n_after):
        super().__init__()
        self.shared, self.n_after = nn.Linear(8, 8), n_after
        self.outer = nn.Sequential(self.shared, nn.Tanh())
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        x = self.outer(x)
        for i in range(self.n_after):
            x = self.shared(x) + i
        return self.shared(self.drop(x))


@pytest.mark.parametrize("n_after", [0, 1, 3])
def test_a_module_that_is_called_in_several_places_returns_what_belongs_to_each(n_after):
    model = Twice(n_after)
    assert_moments_of(ct.mc_predict(model, ROWS, 10, seed=7), loop(model, ROWS, 10, [model.drop]))


class Writes(nn.Module):
    """Write to the output of the first module after the draw, and to the input."""

    def __init__(self):
        super().__init__()
        self.first, self.drop = nn.Linear(8, 8), nn.Dropout(0.5)

    def forward(self, x):
        y = self.first(x)
        x += 1
        y += self.drop(y)
        return y


def test_outputs_that_later_steps_write_to_are_not_kept():
    model, x = Writes(), ROWS.clone()
    prediction = ct.mc_predict(model, x, 10, seed=7)
    assert torch.equal(x, ROWS)

    def fresh(inner):
        return model(inner.clone())

    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(7)
        model.train()
        assert_moments_of(prediction, torch.stack([fresh(ROWS) for _ in range(10)]).double())


class Noise(nn.Module):
    """Noise that PyTorch's generator does not give."""

    def __init__(self):
        super().__init__()
        self.generator = np.random.default_rng(1)

    def forward(self, x):
        return x + torch.from_numpy(self.generator.standard_normal(x.shape))


def test_random_steps_before_the_first_dropout_are_computed_in_each_pass():
    model = nn.Sequential(Noise(), nn.Dropout(1e-9))
    std = ct.mc_predict(model, ROWS.double(), 400, seed=1).std
    assert torch.allclose(std, torch.ones_like(std), atol=0.25)  # 7 standard errors


def test_classifiers_get_entropy_and_mutual_information():
    model = Residual(nn.Dropout)
    probabilities = loop(model, X, 25, [model.drop]).softmax(-1)
    found = ct.mc_predict(model, X, 25, seed=7, class_dim=-1)
    assert_moments_of(found, probabilities)
    entropy = -(probabilities * probabilities.log()).sum(-1)
    mean = probabilities.mean(0)
    assert torch.allclose(found.entropy, -(mean * mean.log()).sum(-1))
    assert torch.allclose(found.mutual_information, found.entropy - entropy.mean(0), atol=1e-12)
    assert (found.mutual_information > 0).all()
    assert (found.mutual_information < found.entropy).all()


class Named(nn.Module):
    """Take named inputs and return a dict."""

    def __init__(self):
        super().__init__()
        self.first, self.drop = nn.Linear(8, 8), nn.Dropout(0.5)

    def forward(self, values, scale):
        return {"logits": self.drop(self.first(values)) * scale}


def test_inputs_and_outputs_may_have_structure():
    model, scale = Named(), torch.tensor(2.0)
    found = [
        ct.mc_predict(model, x, 5, seed=1, output=lambda out: out["logits"])
        for x in ((ROWS, scale), {"scale": scale, "values": ROWS})
    ]
    assert torch.equal(found[0].mean, found[1].mean)
    assert found[0].mean.any()


def test_what_draws_nothing_is_reported():
    with pytest.warns(UserWarning, match="nothing in the model draws: all samples are equal"):
        std = ct.mc_predict(nn.Linear(8, 2), ROWS, 5).std
    assert not std.any()


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"model": torch.tanh}, TypeError, r"model must be an nn\.Module, got builtin_function_or_method"),
        ({"n_samples": 0}, ValueError, "n_samples must be at least 1, got 0"),
        ({"n_samples": 2.5}, TypeError, "n_samples must be an integer"),
        ({"seed": "a"}, TypeError, "seed must be an integer"),
        ({"class_dim": 3}, ValueError, r"class_dim must be an axis of shape \(5, 4, 8\), got 3"),
        ({"output": lambda y: y.sum().item()}, TypeError, "model must return a tensor, or output= must .*, got float"),
        ({"output": lambda y: y + 1j}, TypeError, r"model must return real numbers, got torch\.complex64"),
    ],
)
def test_bad_arguments_are_named_and_nothing_changes(arguments, error, match):
    model, state = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5)).eval(), torch.get_rng_state()
    with pytest.raises(error, match=match):
        ct.mc_predict(**{"model": model, "x": ROWS, "n_samples": 3, **arguments})
    assert torch.equal(torch.get_rng_state(), state) or "output" in arguments or "class_dim" in arguments
    assert not any(module.training or "forward" in vars(module) for module in model.modules())


def test_a_model_is_used_by_one_call_at_a_time():
    errors = []

    class Calls(nn.Module):
        def forward(self, x):
            thread = threading.Thread(target=predict)
            thread.start()
            thread.join()
            return x

    model = nn.Sequential(Calls(), nn.Dropout(0.5))

    def predict():
        try:
            ct.mc_predict(model, ROWS, 1)
        except RuntimeError as error:
            errors.append(str(error))

    ct.mc_predict(model, ROWS, 3)
    assert set(errors) == {"model must be used by one call of mc_predict at a time, got one that another call uses"}


@pytest.mark.parametrize("made_inside", [False, True])
def test_inference_mode_changes_no_prediction(made_inside):
    def arguments():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 2))
        return model, ROWS.clone()

    expected = ct.mc_predict(*arguments(), 5, seed=1)
    model, x = arguments()
    with torch.inference_mode():
        if made_inside:
            model, x = arguments()
        found = ct.mc_predict(model, x, 5, seed=1)
    assert torch.equal(found.mean, expected.mean)
    assert torch.equal(found.std, expected.std)


def test_progress_is_shown_on_request(capsys):
    ct.mc_predict(nn.Dropout(0.5), ROWS, 7, progress=True)
    assert "0/7" in capsys.readouterr().err
