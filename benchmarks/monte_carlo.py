"""Time Monte Carlo dropout, `mc_predict`, over a loop of whole passes.

A request is one row through 784-512-512-10 with dropout behind the second hidden layer or behind both, in NumPy, with
one sample a pass and with all samples in one. "loop" is what `mc_predict` does with a function: it calls the whole
network for each pass. With PyTorch, eight images go through eight residual blocks of 32 channels with batch
normalization and one dropout before the head; its loop is one of `model(x)`. Means are compared first.
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

SHARED_OPTIONS = {"rounds": 15}


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
        "loop": lambda: cd.mc_predict(forward, x, n_samples, rng=1, layers=dropping, samples_per_pass=per_pass)[0],
        "mc_predict": lambda: cd.mc_predict(layers, x, n_samples, rng=1, samples_per_pass=per_pass)[0],
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
    cases = {
        f"NumPy, {name}, {per_pass} a pass": (numpy_contenders, layers, n_samples, per_pass)
        for name, layers in networks().items()
        for per_pass in (1, n_samples)
    }
    if importlib.util.find_spec("torch"):
        cases["PyTorch, residual"] = (torch_contenders, n_samples)

    def rows() -> Iterator[tuple[Any, ...]]:
        for name, (make, *rest) in cases.items():
            ways = make(*rest)
            means = [np.asarray(way()) for way in ways.values()]
            if not np.allclose(*means, rtol=1e-4, atol=1e-5):
                raise WrongResultError(f"{name}: the means differ by {np.abs(means[0] - means[1]).max()}")
            medians = interleaved_medians(ways, rounds=arguments.rounds)
            yield name, *(1e3 * median for median in medians.values()), medians["loop"] / medians["mc_predict"]

    introduce(f"float32, {n_samples} samples, milliseconds", arguments.rounds)
    Table(("network, dropout", "<40"), ("loop", "9.2f"), ("mc_predict", "9.2f"), ("ratio", "6.1f")).show(rows())
