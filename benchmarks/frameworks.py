"""Frameworks with their own dropout and with this library's, side by side in one run.

    python benchmarks/frameworks.py

Measures what is installed: PyTorch (a module's forward and backward pass, and dropout's share of training steps), thinc
(a mask) and Keras on its NumPy backend (a layer's forward pass), one thread. KERAS_BACKEND is set to numpy.
"""

import argparse
import contextlib
import importlib
import os
import sys
from collections.abc import Callable

import numpy as np
from command_line import parse_positive
from threadpoolctl import threadpool_limits
from timing import interleaved_medians, machine

Calls = dict[str, Callable[[], object]]
SHAPES = ((128, 512), (512, 768), (1024, 4096))


def of_thinc(shape: tuple[int, int]) -> Calls:
    """Return thinc's way to a mask, and this library's; both are checked."""
    thinc_api, ours = importlib.import_module("thinc.api"), importlib.import_module("cdropout.thinc")
    operations = {"thinc": thinc_api.NumpyOps(), "cdropout": ours.CDropoutOps()}
    for name, ops in operations.items():
        kept = ops.get_dropout_mask((1000, 1000), 0.1) > 0
        if abs(kept.mean() - 0.9) > 0.002:
            raise AssertionError(f"{name}: the share kept must be 0.9, got {kept.mean()}")
    return {name: lambda ops=ops: ops.get_dropout_mask(shape, 0.1) for name, ops in operations.items()}


def of_torch(shape: tuple[int, int]) -> Calls:
    """Return a forward and a backward pass through PyTorch's module, and through this library's."""
    torch, ours = importlib.import_module("torch"), importlib.import_module("cdropout.torch")
    torch.set_num_threads(1)
    x, dy = torch.randn(shape, requires_grad=True), torch.randn(shape)

    def step(module: Callable[[object], object]) -> None:
        module(x).backward(dy)
        x.grad = None

    modules = {"torch": torch.nn.Dropout(0.1), "cdropout": ours.Dropout(0.1)}
    return {name: lambda module=module: step(module) for name, module in modules.items()}


def torch_shares(rounds: int) -> None:
    """Print dropout's share of PyTorch training steps: without any, with its own, and after `replace_dropout`."""
    torch, ours = importlib.import_module("torch"), importlib.import_module("cdropout.torch")
    torch.set_num_threads(1)
    nn = torch.nn

    def mlp(p: float) -> object:
        layers = [nn.Linear(784, 512), nn.ReLU(), nn.Dropout(p), nn.Linear(512, 512), nn.ReLU(), nn.Dropout(p)]
        return nn.Sequential(*layers, nn.Linear(512, 10))

    def encoder(p: float) -> object:
        layer = nn.TransformerEncoderLayer(768, 12, 3072, dropout=p, batch_first=True)
        return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    print("\ndropout's share of a training step (Adam), PyTorch")
    few = rounds // 3 + 1
    cases = (
        ("MLP 784-512-512-10, batch 128, p = 0.5", mlp, 0.5, (128, 784), rounds),
        ("Transformer encoder, d = 768, 2 layers, 8 x 128, p = 0.1", encoder, 0.1, (8, 128, 768), few),
    )
    for title, make, p, shape, n_rounds in cases:
        x, calls = torch.randn(shape), {}
        for name, rate in (("none", 0.0), ("torch", p), ("cdropout", p)):
            model = make(rate)
            if name == "cdropout":
                ours.replace_dropout(model)
            optimizer = torch.optim.Adam(model.parameters())

            def step(model=model, optimizer=optimizer, x=x) -> None:
                optimizer.zero_grad()
                model(x).square().mean().backward()
                optimizer.step()

            calls[name] = step
        medians = interleaved_medians(calls, rounds=n_rounds, seconds_per_turn=0.02)
        none = medians["none"]
        shares = {name: 1 - none / seconds for name, seconds in medians.items()}
        print(f"{title}: {1e3 * none:.2f} ms without; its own {shares['torch']:.1%}, cdropout {shares['cdropout']:.1%}")


def of_keras(shape: tuple[int, int]) -> Calls:
    """Return a layer's forward pass with Keras's function, and with this library's."""
    os.environ["KERAS_BACKEND"] = "numpy"
    keras, ours = importlib.import_module("keras"), importlib.import_module("cdropout.keras")
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    layer = keras.layers.Dropout(0.1, seed=1)

    def forward(switch: Callable[[], None]) -> object:
        switch()
        return layer(x, training=True)

    return {"keras": lambda: forward(ours.disable), "cdropout": lambda: forward(ours.enable)}


FRAMEWORKS: dict[str, Callable[[tuple[int, int]], Calls]] = {"torch": of_torch, "thinc": of_thinc, "keras": of_keras}


def main() -> int:
    """Measure each framework that is installed, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=parse_positive, default=31, help="(default: %(default)s)")
    arguments = parser.parse_args()
    with threadpool_limits(1):
        print(machine())
        print(f"float32, p = 0.1, medians of {arguments.rounds} interleaved rounds\n")
        print(f"{'':<10} {'shape':>14} {'its own, ms':>12} {'cdropout, ms':>13} {'faster':>7}")
        for name, make in FRAMEWORKS.items():
            for shape in SHAPES:
                try:
                    calls = make(shape)
                except ImportError as error:
                    print(f"{name:<10} not measured: {error}")
                    break
                medians = interleaved_medians(calls, rounds=arguments.rounds)
                own, ours = (1e3 * seconds for seconds in medians.values())
                print(f"{name:<10} {shape!s:>14} {own:>12.4f} {ours:>13.4f} {own / ours:>6.1f}x", flush=True)
        with contextlib.suppress(ImportError):  # said above
            torch_shares(arguments.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
