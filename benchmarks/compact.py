"""Time training steps with compact products over steps without dropout; gathering and scattering.

Each network is trained in float32 by SGD and by Adam, on random images with random labels: "none" has no dropout,
"element-wise" drops after each hidden layer, both in `cdropout.networks.MLP`; "compact" and "lazy" are
cdropout.compact.CompactMLP with whole and with lazy steps, "groups" is "lazy" with 4 groups. All use the optimizers of
cdropout.compact, which change a matrix in one pass. Ratios are to "none" in the same rounds; the threads are those of
the matrix products and of this library. "bar" is the project's goal for the better of "compact" and "lazy".

--torch times the same networks in PyTorch, after replace_dropout ("element-wise") and compact_dropout ("compact", and
"groups" with 4 groups), with PyTorch's optimizers. Without options, these are timed too if PyTorch is installed.
--kernels moves half of the columns of a (512, 2048) matrix, and half of its rows, over np.copyto of the elements that
are kept ("over kept") and of as many bytes as the call reads and writes ("over moved").
--rule compares always full and always compact products with the rule's choice (compact_pays) on one hidden layer, over
element-wise dropout.
"""

import argparse
import importlib.util
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

import cdropout as cd
from benchmarks.options import UsageError, parse_positive
from benchmarks.table import Table
from benchmarks.timing import interleaved_medians, introduce
from cdropout import compact
from cdropout.compact import linear
from cdropout.networks import MLP, softmax_loss, train_step

Array = npt.NDArray[Any]

SHARED_OPTIONS = {"p": (0.5, 0.2), "rounds": 15, "threads": (1, 2)}
HIDDEN = (2048, 512)
BATCHES = (512, 128)
WAYS = ("element-wise", "compact", "lazy", "groups")
N_GROUPS = 4
# (hidden width, batch, p): the ratio to the step without dropout.
BARS = {(2048, 512, 0.5): 0.40, (2048, 128, 0.5): 0.60, (512, 128, 0.5): 0.80}
BAR_OF_SMALL_P = 1.0
RULE_WIDTHS = ((128, 128, 128), (512, 512, 512), (784, 2048, 1024), (2048, 2048, 2048))
RULE_BATCHES = (8, 32, 128, 512)
RULE_PS = (0.05, 0.1, 0.2, 0.5, 0.8)


def full_mlp(widths: tuple[int, ...], p: float, batch: int) -> MLP:
    """Return the network of `cdropout.networks` with the initial weights of a CompactMLP; p = 0 is ReLU alone."""
    net = MLP(widths, p=[p] * (len(widths) - 2), rng=1, n_rows=batch)
    for param, initial in zip(net.params, compact.CompactMLP(widths, 0.0, rng=1).params, strict=True):
        param[...] = initial
    return net


def networks(widths: tuple[int, ...], p: float, batch: int) -> dict[str, tuple[Any, bool]]:
    """Return each way's network, and whether its steps are lazy."""

    def compact_mlp(n_groups: int = 1) -> compact.CompactMLP:
        return compact.CompactMLP(widths, p, n_groups=n_groups, rng=1, full_grads=False)

    return {
        "none": (full_mlp(widths, 0.0, batch), False),
        "element-wise": (full_mlp(widths, p, batch), False),
        "compact": (compact_mlp(), False),
        "lazy": (compact_mlp(), True),
        "groups": (compact_mlp(N_GROUPS), True),
    }


def measure(widths: tuple[int, ...], batch: int, p: float, optimizer: str, rounds: int) -> dict[str, float]:
    """Time steps; return each way's median over that without dropout, and that one in ms."""
    rng = np.random.default_rng(0)
    x, labels = rng.random((batch, widths[0]), np.float32), rng.integers(0, widths[-1], batch)
    steps = {}
    for name, (net, lazy) in networks(widths, p, batch).items():
        made = compact.SGD(net, 1e-3) if optimizer == "SGD" else compact.Adam(net, 1e-4, lazy=lazy)
        steps[name] = partial(train_step, net, made, softmax_loss, x, labels)
    for step in steps.values():
        step()
    medians = interleaved_medians(steps, rounds=rounds, seconds_per_turn=0.01)
    return {name: seconds / medians["none"] for name, seconds in medians.items()} | {"ms": 1e3 * medians["none"]}


def show_steps(arguments: argparse.Namespace) -> None:
    """Measure every network, batch, p, optimizer and number of threads."""

    def rows() -> Iterator[tuple[Any, ...]]:
        choices = (arguments.threads, arguments.hidden, arguments.batches, arguments.p, ("SGD", "Adam"))
        for n_threads, hidden, batch, p, optimizer in itertools.product(*choices):
            with threadpool_limits(n_threads):
                found = measure((784, hidden, hidden, 10), batch, p, optimizer, arguments.rounds)
            bar = BARS.get((hidden, batch, p), BAR_OF_SMALL_P if p <= 0.2 else None)
            best = min(found["compact"], found["lazy"])
            verdict = "" if bar is None else "met" if best <= bar else "missed"
            ratios = (found[way] for way in WAYS)
            yield f"784-{hidden}-{hidden}-10", batch, p, optimizer, n_threads, found["ms"], *ratios, bar, verdict

    columns = [("network", "<16"), ("batch", "5d"), ("p", "4.2f"), ("step by", "<7"), ("threads", "7d")]
    ways = [(way, "7.2f") for way in WAYS]
    Table(*columns, ("none, ms", "8.2f"), *ways, ("bar", "5.2f"), ("", "<6")).show(rows())


def show_torch_steps(arguments: argparse.Namespace) -> None:
    """Measure the networks in PyTorch."""
    from benchmarks import compact_torch  # PyTorch is optional, and its import takes seconds

    compact_torch.show(arguments)


def show_kernels(arguments: argparse.Namespace) -> None:
    """Measure gathering and scattering."""
    n_rows, n_columns = 512, 2048

    def measured(dtype: str) -> Iterator[tuple[Any, ...]]:
        rng = np.random.default_rng(0)
        x = rng.standard_normal((n_rows, n_columns)).astype(dtype)
        whole, source = np.ones_like(x), np.ones_like(x)
        for axis in ("columns", "rows"):
            words = compact.KeepWords(cd.draw_mask(n_columns if axis == "columns" else n_rows, 0.5, rng=1))
            where: dict[str, Any] = {axis: words}
            dense, other = (compact.gather_kept(x, **where) for _ in range(2))
            index = words.indices()
            # Elements that each call reads and writes. Columns are read and written by whole cache lines.
            touched = x.size if axis == "columns" else dense.size
            n_moved = {
                "np.take": touched + dense.size,
                "gather": touched + dense.size,
                "scatter, zero": dense.size + x.size,
                "scatter, keep": dense.size + (2 * x.size if axis == "columns" else dense.size),
                "scatter, add": dense.size + 2 * touched,
            }
            moved = {n: (np.ones(n // 2, dtype), np.ones(n // 2, dtype)) for n in n_moved.values()}
            calls: dict[str, Callable[[], object]] = {
                "kept": lambda dense=dense, other=other: np.copyto(other, dense),
                **{f"copy {n}": lambda pair=pair: np.copyto(*pair) for n, pair in moved.items()},
                "np.take": lambda index=index, axis=axis, other=other: np.take(
                    x, index, axis=int(axis == "columns"), out=other, mode="clip"
                ),
                "gather": lambda where=where, other=other: compact.gather_kept(x, **where, out=other, scale=2.0),
                "scatter, zero": lambda where=where, dense=dense: compact.scatter_kept(dense, **where, out=whole),
                "scatter, keep": lambda where=where, dense=dense: compact.scatter_kept(
                    dense, **where, out=whole, rest="keep"
                ),
                "scatter, add": lambda where=where, dense=dense: compact.scatter_kept(
                    dense, **where, out=source, rest="add", scale=1e-6
                ),
            }
            medians = interleaved_medians(calls, rounds=arguments.rounds * 4, seconds_per_turn=0.002)
            for name, n in n_moved.items():
                over = medians[name] / medians["kept"], medians[name] / medians[f"copy {n}"]
                yield dtype, f"half of the {axis}", name, 1e6 * medians[name], *over

    for n_threads, dtype in itertools.product(arguments.threads, ("float32", "float64")):
        with threadpool_limits(n_threads):
            columns = [("dtype", "<7"), ("what", "<19"), ("how", "<13"), ("us", "7.1f")]
            print(f"threads: {n_threads}")
            Table(*columns, ("over kept", "9.2f"), ("over moved", "10.2f")).show(measured(dtype))


def show_rule(arguments: argparse.Namespace) -> None:
    """Measure always full products, always compact ones and the rule's choice, over element-wise dropout."""

    def rows() -> Iterator[tuple[Any, ...]]:
        for widths, batch, p in itertools.product(RULE_WIDTHS, RULE_BATCHES, RULE_PS):
            rng = np.random.default_rng(0)
            x, labels = rng.random((batch, widths[0]), np.float32), rng.integers(0, widths[-1], batch)
            plain = full_mlp(widths, p, batch)
            steps = {"element-wise": partial(train_step, plain, compact.SGD(plain, 1e-3), softmax_loss, x, labels)}
            for name, choice in (("full", False), ("compact", True), ("rule", None)):
                net = compact.CompactMLP(widths, p, rng=1, full_grads=False)
                step = partial(train_step, net, compact.SGD(net, 1e-3), softmax_loss, x, labels)

                def chosen_step(step: Callable[[], None] = step, choice: bool | None = choice) -> None:
                    rule = linear.compact_pays if choice is None else lambda *_, **__: choice
                    with mock.patch.object(linear, "compact_pays", rule):
                        step()

                steps[name] = chosen_step
            medians = interleaved_medians(steps, rounds=arguments.rounds, seconds_per_turn=0.005)
            base = medians["element-wise"]
            choice = "compact" if linear.compact_pays(batch, *widths, p) else "full"
            ratios = (medians[name] / base for name in ("full", "compact", "rule"))
            yield "-".join(map(str, widths)), batch, p, 1e3 * base, *ratios, choice

    with threadpool_limits(arguments.threads[0]):
        columns = [("network", "<14"), ("batch", "5d"), ("p", "4.2f"), ("element-wise, ms", "16.2f")]
        Table(*columns, *((name, "7.2f") for name in ("full", "compact", "rule")), ("choice", "<7")).show(rows())


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add --hidden, --batches, --torch, --cpu-time, --kernels and --rule."""
    parser.add_argument("--hidden", type=parse_positive, nargs="+", default=HIDDEN, metavar="N", help="hidden widths")
    parser.add_argument("--batches", type=parse_positive, nargs="+", default=BATCHES, metavar="N", help="batch sizes")
    parser.add_argument("--torch", action="store_true", help="time training steps in PyTorch only")
    parser.add_argument("--cpu-time", action="store_true", help="with --torch: CPU time, on a busy machine; one thread")
    parser.add_argument("--kernels", action="store_true", help="time gathering and scattering only")
    parser.add_argument("--rule", action="store_true", help="time the choice between compact and full products only")


def run(arguments: argparse.Namespace) -> None:
    """Measure and print tables."""
    if arguments.cpu_time and not (arguments.torch and set(arguments.threads) == {1}):
        raise UsageError("argument --cpu-time: needs --torch --threads 1, because threads that wait use CPU time")
    if arguments.torch and importlib.util.find_spec("torch") is None:
        raise UsageError("argument --torch: needs PyTorch, which is not installed")
    introduce("float32", arguments.rounds)
    if arguments.torch:
        show_torch_steps(arguments)
        return
    if arguments.rule:
        show_rule(arguments)
        return
    if not arguments.kernels:
        show_steps(arguments)
        print()
        if importlib.util.find_spec("torch") is not None:
            show_torch_steps(arguments)
            print()
    show_kernels(arguments)
