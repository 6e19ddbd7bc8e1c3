"""Compare frameworks with their own dropout and with this library's.

Measures the installed ones, on one thread: PyTorch (a module's forward and backward pass, and dropout's share of
training steps), thinc (a mask) and Keras on its NumPy backend (a layer's forward pass). KERAS_BACKEND is set to numpy.
Each contender is checked before it is timed: its rate, its scale, that two calls differ, and that a gradient is dropped
where the output is.
"""

import argparse
import functools
import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.cases import OPERATIONS, Array
from benchmarks.result_check import Expectation, WrongResultError, check_result
from benchmarks.table import Table
from benchmarks.timing import interleaved_medians, introduce

P = 0.1
SHAPES = ((128, 512), (512, 768), (1024, 4096))
TABLE = Table(("", "<10"), ("shape", "14"), ("its own, ms", "12.4f"), ("cdropout, ms", "13.4f"), ("faster", "7"))
SHARED_OPTIONS = {"rounds": 31}


@dataclass(frozen=True)
class Contender:
    """Hold one of the two ways that are compared.

    Attributes
    ----------
    call : callable
        The call to be timed.
    passes : callable
        Makes the same call, and returns the input and the output of each pass that must drop the same elements: the
        forward pass and, if there is one, the backward pass, from the output's gradient to the input's.

    """

    call: Callable[[], object]
    passes: Callable[[], list[tuple[Array, Array]]]


def check_contender(name: str, contender: Contender, p: float = P) -> None:
    """Raise WrongResultError, naming the contender, unless it drops as it should, and anew with every call."""
    expectation = Expectation(p, 1 / (1 - p), OPERATIONS["forward"])
    drawn = []
    try:
        for _ in range(2):
            dropped = [check_result(output, given, expectation) for given, output in contender.passes()]
            if not all(np.array_equal(dropped[0], each) for each in dropped):
                raise WrongResultError("a gradient must be dropped where the output is, and is not")
            drawn.append(dropped[0])
        if p > 0 and np.array_equal(*drawn):
            raise WrongResultError("each call must draw anew, and two dropped the same")
    except WrongResultError as error:
        raise WrongResultError(f"{name}: {error}") from None


def numbers(shape: tuple[int, ...], seed: int) -> Array:
    """Return float32 numbers without a zero, so that a zero in a result is a dropped element."""
    return np.random.default_rng(seed).uniform(0.5, 1.5, shape).astype(np.float32)


def of_thinc(shape: tuple[int, int]) -> dict[str, Contender]:
    """Return contenders that make a mask with thinc, and with this library."""
    thinc_api, ours = importlib.import_module("thinc.api"), importlib.import_module("cdropout.thinc")
    ones = np.ones(shape, np.float32)

    def contender(ops: Any) -> Contender:
        return Contender(
            lambda: ops.get_dropout_mask(shape, P), lambda: [(ones, np.asarray(ops.get_dropout_mask(shape, P)))]
        )

    return {"thinc": contender(thinc_api.NumpyOps()), "cdropout": contender(ours.CDropoutOps())}


def of_torch(shape: tuple[int, ...]) -> dict[str, Contender]:
    """Return contenders that go forward and backward through PyTorch's module, and through this library's."""
    torch, ours = importlib.import_module("torch"), importlib.import_module("cdropout.torch")
    torch.set_num_threads(1)
    return {"torch": of_module(torch.nn.Dropout(P), shape), "cdropout": of_module(ours.Dropout(P), shape)}


def of_module(module: Any, shape: tuple[int, ...]) -> Contender:
    """Return a contender that goes forward and backward through a module of PyTorch."""
    torch = importlib.import_module("torch")
    x, dy = torch.from_numpy(numbers(shape, 0)).requires_grad_(), torch.from_numpy(numbers(shape, 1))

    def step() -> None:
        module(x).backward(dy)
        x.grad = None

    def passes() -> list[tuple[Array, Array]]:
        y = module(x)
        (dx,) = torch.autograd.grad(y, x, dy)
        return [(x.detach().numpy(), y.detach().numpy()), (dy.numpy(), dx.numpy())]

    return Contender(step, passes)


def check_model(name: str, model: Any, x: Any, p: float) -> None:
    """Raise WrongResultError, naming the contender, unless a model drops as it should.

    Parameters
    ----------
    name : str
        The model of "cdropout" must have this library's modules, and any other PyTorch's.
    model : Module
        In training mode; each of its dropout modules is checked on its own.
    x : Tensor
        Its input.
    p : float
        The probability of dropping; two passes must give the same output if it is 0, and different ones otherwise.

    """
    torch, ours = importlib.import_module("torch"), importlib.import_module("cdropout.torch")
    expected = ours.Dropout if name == "cdropout" else torch.nn.Dropout
    modules = [module for module in model.modules() if isinstance(module, torch.nn.Dropout)]
    if not modules or any(type(module) is not expected for module in modules):
        raise WrongResultError(f"{name}: dropout modules must be of {expected}, got {modules}")
    for module in modules:
        check_contender(name, of_module(module, (128, 512)), p)
    if torch.equal(model(x), model(x)) != (p == 0):
        raise WrongResultError(f"{name}: with p = {p:g} two passes must {'give the same' if p == 0 else 'differ'}")


def torch_shares(rounds: int) -> None:
    """Print dropout's share of training steps with PyTorch's dropout, and after `replace_dropout`."""
    torch = importlib.import_module("torch")
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
        x, model = torch.randn(shape), make(p)
        optimizer = torch.optim.Adam(model.parameters())
        # All contenders use one model: the times of two equal models differ by some percent with their addresses.
        become = switch_of(model, p)

        def step(name: str, model=model, optimizer=optimizer, x=x, become=become) -> None:
            become(name)
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()

        calls = {}
        for name in ("none", "torch", "cdropout"):
            become(name)
            check_model(name, model, x, 0.0 if name == "none" else p)
            calls[name] = functools.partial(step, name)
        medians = interleaved_medians(calls, rounds=n_rounds, seconds_per_turn=0.02)
        none = medians["none"]
        shares = {name: 1 - none / seconds for name, seconds in medians.items()}
        print(f"{title}: {1e3 * none:.2f} ms without; its own {shares['torch']:.1%}, cdropout {shares['cdropout']:.1%}")


def switch_of(model: Any, p: float) -> Callable[[str], None]:
    """Return a function that gives a model no dropout ("none"), PyTorch's ("torch", as it is now) or this library's."""
    nn, ours = importlib.import_module("torch").nn, importlib.import_module("cdropout.torch")
    current = ["torch"]

    def become(name: str) -> None:
        if current[0] == name:
            return
        (ours.replace_dropout if name == "cdropout" else ours.restore_dropout)(model)
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0 if name == "none" else p
            if isinstance(module, nn.MultiheadAttention):
                module.dropout = 0.0 if name == "none" else p
        current[0] = name

    return become


def of_keras(shape: tuple[int, int]) -> dict[str, Contender]:
    """Return contenders that go forward through a layer with Keras's function, and with this library's."""
    os.environ["KERAS_BACKEND"] = "numpy"
    keras, ours = importlib.import_module("keras"), importlib.import_module("cdropout.keras")
    x, layer = numbers(shape, 0), keras.layers.Dropout(P, seed=1)

    def contender(switch: Callable[[], None]) -> Contender:
        def forward() -> Any:
            switch()
            return layer(x, training=True)

        return Contender(forward, lambda: [(x, np.asarray(forward()))])

    return {"keras": contender(ours.disable), "cdropout": contender(ours.enable)}


FRAMEWORKS: dict[str, Callable[[tuple[int, int]], dict[str, Contender]]] = {
    "torch": of_torch,
    "thinc": of_thinc,
    "keras": of_keras,
}


def compare(framework: str, rounds: int) -> None:
    """Check and measure both contenders of a framework at each of `SHAPES`, and print a row for each.

    Raises
    ------
    ImportError
        Where the framework is not installed.
    WrongResultError
        Where the result of one of them is not dropout.

    """
    for shape in SHAPES:
        contenders = FRAMEWORKS[framework](shape)
        for name, contender in contenders.items():
            check_contender(name, contender)
        medians = interleaved_medians({name: each.call for name, each in contenders.items()}, rounds=rounds)
        own, ours = (1e3 * seconds for seconds in medians.values())
        print(TABLE.row(framework, str(shape), own, ours, f"{own / ours:.1f}x"), flush=True)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add --frameworks."""
    names = tuple(FRAMEWORKS)
    parser.add_argument("--frameworks", choices=names, nargs="+", default=names, help="(default: all)")


def run(arguments: argparse.Namespace) -> int:
    """Measure each framework that is installed, and print a table; 1 where a result was refused."""
    n_refused = 0
    with threadpool_limits(1):
        introduce(f"float32, p = {P}", arguments.rounds)
        print(TABLE.header())
        parts = {name: lambda name=name: compare(name, arguments.rounds) for name in arguments.frameworks}
        if "torch" in parts:
            parts["torch, training steps"] = lambda: torch_shares(arguments.rounds)
        for name, measure in parts.items():
            try:
                measure()
            except ImportError as error:
                print(f"{name:<10} not measured: {error}")
            except WrongResultError as error:
                n_refused += 1
                print(f"{name:<10} refused: {error}")
    return 1 if n_refused else 0
