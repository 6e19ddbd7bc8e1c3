"""Time training steps of PyTorch models with compact products over steps without dropout, for `compact`."""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from threadpoolctl import threadpool_limits
from torch import nn

import cdropout.torch as ct
from benchmarks.table import Table

WAYS = ("element-wise", "compact", "groups")
N_GROUPS = 4
# (hidden width, batch, p) of steps with SGD: the ratio to the step without dropout.
BARS = {(2048, 512, 0.5): 0.50, (2048, 128, 0.5): 0.70, (2048, 512, 0.2): 1.0, (2048, 128, 0.2): 1.0}


def networks(widths: tuple[int, int, int, int], p: float) -> dict[str, nn.Sequential]:
    """Return each way's model, all with the same weights."""

    def plain(dropout: Callable[[], nn.Module]) -> nn.Sequential:
        torch.manual_seed(0)
        n_in, first, second, n_out = widths
        between = nn.ReLU(), dropout(), nn.Linear(first, second), nn.ReLU(), dropout()
        return nn.Sequential(nn.Linear(n_in, first), *between, nn.Linear(second, n_out))

    made = {"none": plain(nn.Identity), **{way: plain(lambda: nn.Dropout(p)) for way in WAYS}}
    ct.replace_dropout(made["element-wise"])
    ct.compact_dropout(made["compact"])
    ct.compact_dropout(made["groups"], n_groups=N_GROUPS)
    return made


def make_step(model: nn.Module, optimizer: str, batch: int) -> Callable[[], None]:
    """Return a training step on random images with random labels."""
    generator = torch.Generator().manual_seed(0)
    first: Any = next(model.children())
    x = torch.rand(batch, first.in_features, generator=generator)
    labels = torch.randint(0, 10, (batch,), generator=generator)
    made: Any = torch.optim.SGD if optimizer == "SGD" else torch.optim.Adam
    steps = made(model.parameters(), lr=1e-4)

    def step() -> None:
        steps.zero_grad()
        nn.functional.cross_entropy(model(x), labels).backward()
        steps.step()

    return step


def measure(
    widths: tuple[int, int, int, int], batch: int, p: float, optimizer: str, rounds: int, is_cpu_time: bool
) -> dict[str, float]:
    """Time steps in turns; return each way's time over that without dropout, and that one in ms.

    Times are medians over the rounds of wall time, or minima of CPU time, which other programs disturb less.
    """
    steps = {name: make_step(model, optimizer, batch) for name, model in networks(widths, p).items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    clock = time.process_time if is_cpu_time else time.perf_counter
    for i in range(rounds + 1):
        for name, step in steps.items():
            begin = clock()
            step()
            if i > 0:  # the first one allocates
                times[name].append(clock() - begin)
    found = {name: (min if is_cpu_time else statistics.median)(values) for name, values in times.items()}
    return {name: seconds / found["none"] for name, seconds in found.items()} | {"ms": 1e3 * found["none"]}


def show(arguments: argparse.Namespace) -> None:
    """Measure every network, batch, p, optimizer and number of threads."""

    def rows() -> Iterator[tuple[Any, ...]]:
        choices = (arguments.threads, arguments.hidden, arguments.batches, arguments.p, ("SGD", "Adam"))
        for n_threads, hidden, batch, p, optimizer in itertools.product(*choices):
            widths = (784, hidden, hidden, 10)
            before = torch.get_num_threads()
            try:
                with threadpool_limits(n_threads):
                    torch.set_num_threads(n_threads)
                    found = measure(widths, batch, p, optimizer, arguments.rounds, arguments.cpu_time)
            finally:
                torch.set_num_threads(before)
            bar = BARS.get((hidden, batch, p)) if optimizer == "SGD" else None
            verdict = "" if bar is None else "met" if found["compact"] <= bar else "missed"
            ratios = (found[way] for way in WAYS)
            yield f"784-{hidden}-{hidden}-10", batch, p, optimizer, n_threads, found["ms"], *ratios, bar, verdict

    clock = "minima of CPU time" if arguments.cpu_time else "wall time"
    print(f"PyTorch {torch.__version__}, {clock}")
    columns = [("network", "<16"), ("batch", "5d"), ("p", "4.2f"), ("step by", "<7"), ("threads", "7d")]
    ways = [(way, "7.2f") for way in WAYS]
    Table(*columns, ("none, ms", "8.2f"), *ways, ("bar", "5.2f"), ("", "<6")).show(rows())
