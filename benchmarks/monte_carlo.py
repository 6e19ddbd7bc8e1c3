"""Time Monte Carlo dropout, `mc_predict`, over a loop of whole passes.

A request is one row through 784-512-512-10 with dropout behind the second hidden layer or behind both, in NumPy, with
one sample a pass and with all samples in one. "loop" calls the whole network for each pass, as `mc_predict` does with a
function; "plain loop" does so with one sample a pass. "faster" is the plain loop's time over that of `mc_predict`, and
"bar" the project's goal for it. With feature dropout, 256 rows go through the network; its layers are
`compact.CompactLinear` for `mc_predict`. With PyTorch, eight images go through eight residual blocks of 32 channels
with batch normalization and one dropout before the head; its loop is one of `model(x)`. Means are compared first.
"""

import argparse
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import cdropout as cd
from benchmarks.result_check import WrongResultError
from benchmarks.table import Table
from benchmarks.timing import interleaved_medians, introduce
from cdropout.compact import CompactLinear

SHARED_OPTIONS = {"rounds": 15}
N_ROWS = 256  # with feature dropout
# The plain loop's time over that of the better number of samples a pass.
BARS = {"behind the second": 20.0, "behind both": 3.0}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add --samples."""
    parser.add_argument("--samples", type=int, default=100, metavar="N", help="sub-networks (default: %(default)s)")


class Dense:
    """A layer with random weights."""

    def __init__(self, rng: np.random.Generator, n_in: int, n_out: int) -> None:
        self.weight = rng.standard_normal((n_in, n_out), dtype=np.float32) / np.sqrt(np.float32(n_in))

    def forward(self, x: Any) -> Any:
        """Return the product of x and the weight."""
        return x @ self.weight


def relu(x: Any) -> Any:
    """Return x with zeros for negative elements."""
    return np.maximum(x, 0)


def networks() -> dict[str, list[Any]]:
    """Return the two networks as lists of layers."""
    rng = np.random.default_rng(0)
    first, second, last = Dense(rng, 784, 512), Dense(rng, 512, 512), Dense(rng, 512, 10)
    return {
        "behind the second": [first, relu, second, relu, cd.Dropout(0.5), last],
        "behind both": [first, relu, cd.Dropout(0.5), second, relu, cd.Dropout(0.5), last],
    }


def numpy_contenders(layers: list[Any], n_samples: int, per_pass: int) -> dict[str, Callable[[], Any]]:
    """Return the two ways for a NumPy network."""
    x = np.random.default_rng(1).standard_normal((1, 784), dtype=np.float32)

    def forward(x: Any) -> Any:
        for layer in layers:
            x = layer.forward(x) if hasattr(layer, "forward") else layer(x)
        return x

    dropping = [layer for layer in layers if isinstance(layer, cd.Dropout)]
    return {
        "plain loop": lambda: cd.mc_predict(forward, x, n_samples, rng=1, layers=dropping)[0],
        "loop": lambda: cd.mc_predict(forward, x, n_samples, rng=1, layers=dropping, samples_per_pass=per_pass)[0],
        "mc_predict": lambda: cd.mc_predict(layers, x, n_samples, rng=1, samples_per_pass=per_pass)[0],
    }


def feature_contenders(n_samples: int) -> dict[str, Callable[[], Any]]:
    """Return the two ways for a NumPy network with feature dropout behind both hidden layers."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((N_ROWS, 784), dtype=np.float32)
    dense = [Dense(rng, 784, 512), Dense(rng, 512, 512), Dense(rng, 512, 10)]
    drops = [cd.FeatureDropout(0.5) for _ in range(2)]
    first = CompactLinear(784, 512, 0.5, rng=1)
    second = CompactLinear(512, 512, 0.5, after=first, rng=1)
    last = CompactLinear(512, 10, after=second, rng=1)
    for layer, full in zip((first, second, last), dense, strict=True):
        layer.params[0][...] = full.weight

    def forward(x: Any) -> Any:
        for full, drop in zip(dense, drops, strict=False):
            x = drop.forward(relu(full.forward(x)))
        return dense[-1].forward(x)

    compact_layers = [first, relu, second, relu, last]
    return {
        "loop": lambda: cd.mc_predict(forward, x, n_samples, rng=1, layers=drops)[0],
        "mc_predict": lambda: cd.mc_predict(compact_layers, x, n_samples, rng=1)[0],
    }


def torch_contenders(n_samples: int) -> dict[str, Callable[[], Any]]:
    """Return the two ways for a PyTorch network."""
    import torch
    from torch import nn

    import cdropout.torch as ct

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            convolutions = [nn.Conv2d(32, 32, 3, padding=1, bias=False) for _ in range(2)]
            self.inner = nn.Sequential(
                convolutions[0], nn.BatchNorm2d(32), nn.ReLU(), convolutions[1], nn.BatchNorm2d(32)
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(x + self.inner(x))

    torch.manual_seed(0)
    drop, blocks = nn.Dropout(0.5), [Block() for _ in range(8)]
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    model = nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1), *blocks, *pool, drop, nn.Linear(32, 10)).eval()
    ct.replace_dropout(model)
    x = torch.randn(8, 3, 64, 64)

    def loop() -> Any:
        torch.manual_seed(1)
        drop.train()
        with torch.no_grad():
            mean = sum(model(x).double() for _ in range(n_samples)) / n_samples
        drop.eval()
        return mean

    return {"loop": loop, "mc_predict": lambda: ct.mc_predict(model, x, n_samples, seed=1).mean}


def run(arguments: argparse.Namespace) -> None:
    """Print a row for each network."""
    n_samples = arguments.samples
    cases: dict[str, tuple[Any, ...]] = {
        f"NumPy, {name}, {per_pass} a pass": (numpy_contenders, layers, n_samples, per_pass)
        for name, layers in networks().items()
        for per_pass in (1, n_samples)
    }
    cases[f"NumPy, features, {N_ROWS} rows"] = (feature_contenders, n_samples)
    if importlib.util.find_spec("torch"):
        cases["PyTorch, residual"] = (torch_contenders, n_samples)

    def rows() -> Iterator[tuple[Any, ...]]:
        for name, (make, *rest) in cases.items():
            ways = make(*rest)
            expected, found = (np.asarray(ways[way]()) for way in ("loop", "mc_predict"))
            if not np.allclose(expected, found, rtol=1e-4, atol=1e-5):
                raise WrongResultError(f"{name}: the means differ by {np.abs(expected - found).max()}")
            medians = interleaved_medians(ways, rounds=arguments.rounds)
            plain = medians.get("plain loop", medians["loop"])
            bar = next(
                (bar for what, bar in BARS.items() if what in name and name.endswith(f"{n_samples} a pass")), None
            )
            faster = plain / medians["mc_predict"]
            verdict = "" if bar is None else "met" if faster >= bar else "missed"
            yield name, *(1e3 * t for t in (plain, medians["loop"], medians["mc_predict"])), faster, bar, verdict

    introduce(f"float32, {n_samples} samples, milliseconds", arguments.rounds)
    times = [(way, "10.2f") for way in ("plain loop", "loop", "mc_predict")]
    Table(("network, dropout", "<40"), *times, ("faster", "6.1f"), ("bar", "5.1f"), ("", "<6")).show(rows())
