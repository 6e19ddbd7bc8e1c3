"""Measure dropout's share of the training steps of a Keras model, before and after `enable`.

The model is a Transformer block: attention with 4 heads and two dense layers, on 8 x 128 tokens in float32, with
dropout on the weights of attention, inside the dense part and after each part. A step is `train_on_batch` with Adam:
compiled by XLA on JAX, eager on PyTorch. The share is 1 minus the time of a step without dropout, divided by the time
of a step with it: the median of this over the rounds. The three models take turns, and compilation is left out. Each
backend runs in a separate process. It is checked first that Keras's backend draws every mask of one model, and this
library every mask of the other.
"""

import argparse
import os
import statistics
import subprocess
from collections.abc import Callable
from typing import Any
from unittest import mock

from benchmarks.jax import seconds_of
from benchmarks.options import UsageError, parse_positive
from benchmarks.processes import ROOT, command_of
from benchmarks.result_check import WrongResultError
from benchmarks.table import Table
from benchmarks.timing import introduce

SHARED_OPTIONS = {"p": 0.1, "rounds": 21, "threads": 1, "quiet": False}
BACKENDS = ("torch", "jax")
NONE, THEIRS, OURS = "none", "Keras", "cdropout"
BATCH, LENGTH, N_HEADS = 8, 128, 4
IN_CHILD = "CDROPOUT_BENCHMARK_BACKEND"  # set in the process of a backend
TABLE = Table(("backend", "<8"), ("dropout", "<9"), ("step, ms", "10.3f"), ("share", "8.2%"), ("ratio", "8.3f"))


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add --backends, --width and --cpu-time."""
    parser.add_argument("--backends", choices=BACKENDS, nargs="+", default=BACKENDS, help="(default: all)")
    parser.add_argument("--width", type=parse_positive, default=256, help="features of a token (default: 256)")
    parser.add_argument("--cpu-time", action="store_true", help="measure CPU time, on a busy machine; one thread")


def block(width: int, p: float) -> Any:
    """Return a compiled model of one Transformer block."""
    import keras

    layers = keras.layers
    x = inputs = keras.Input((LENGTH, width))
    attended = layers.MultiHeadAttention(N_HEADS, width // N_HEADS, dropout=p)(*[layers.LayerNormalization()(x)] * 2)
    x = x + layers.Dropout(p)(attended)
    hidden = layers.Dense(4 * width, activation="gelu")(layers.LayerNormalization()(x))
    x = x + layers.Dropout(p)(layers.Dense(width)(layers.Dropout(p)(hidden)))
    model = keras.Model(inputs, x)
    model.compile(keras.optimizers.Adam(1e-6), "mse")
    return model


def check_sites(name: str, model: Any, x: Any) -> None:
    """Raise WrongResultError, naming the model, unless all masks are drawn by what it is measured for."""
    import cdropout.keras

    found = [site.is_ours for site in cdropout.keras.report(model, x)]
    if found != [name == OURS] * (0 if name == NONE else 4):
        raise WrongResultError(f"{name}: must have 4 sites that drop, or none without dropout, got {found}")


def training_steps(args: argparse.Namespace) -> dict[str, Callable[[], object]]:
    """Return a training step of each model: without dropout, with Keras's, and with this library's."""
    import keras
    import numpy as np

    import cdropout.keras
    from cdropout.keras import switch

    if keras.backend.backend() == "torch":
        import torch

        torch.set_num_threads(args.threads)
    shape = (BATCH, LENGTH, args.width)
    x, y = (keras.ops.convert_to_tensor(np.random.default_rng(i).standard_normal(shape, np.float32)) for i in (0, 1))

    def step_of(name: str) -> Callable[[], object]:
        model = block(args.width, 0.0 if name == NONE else args.p)

        def step() -> object:
            # A compiled step keeps the functions that it was traced with, so it need not be forgotten here.
            with mock.patch.object(switch, "_forget_compiled"):
                (cdropout.keras.enable if name == OURS else cdropout.keras.disable)()
            return model.train_on_batch(x, y)

        step()
        check_sites(name, model, x)
        return step

    return {name: step_of(name) for name in (NONE, THEIRS, OURS)}


def measure(backend: str, args: argparse.Namespace) -> None:
    """Print the rows of the backend on which Keras runs in this process."""
    if hasattr(os, "sched_setaffinity"):  # XLA has as many threads as the process has CPUs
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    times = seconds_of(training_steps(args), args)
    for name, of_model in times.items():
        ratio = statistics.median(each / none for each, none in zip(of_model, times[NONE], strict=True))
        print(TABLE.row(backend, name, 1e3 * statistics.median(of_model), 1 - 1 / ratio, ratio), flush=True)


def run(args: argparse.Namespace) -> int:
    """Measure in a process for each backend, and print a table; 1 where one of them failed."""
    if args.cpu_time and args.threads != 1:
        raise UsageError("argument --cpu-time: needs --threads 1, because threads that wait use CPU time")
    if os.environ.get(IN_CHILD) == args.backends[0]:
        measure(args.backends[0], args)
        return 0
    clock = "CPU time" if args.cpu_time else "wall time"
    introduce(f"Keras, one block of width {args.width}, p = {args.p:g}, training steps, {clock}", args.rounds)
    print(TABLE.header(), flush=True)
    options = [f"--{name}={getattr(args, name)}" for name in ("p", "rounds", "threads", "width")]
    options += [f"--{name.replace('_', '-')}" for name in ("quiet", "cpu_time") if getattr(args, name)]
    failed = []
    for backend in args.backends:
        env = {**os.environ, "KERAS_BACKEND": backend, IN_CHILD: backend}
        command = command_of("keras", *options, "--backends", backend)
        if subprocess.run(command, cwd=ROOT, env=env).returncode != 0:
            failed.append(backend)
    return 1 if failed else 0
