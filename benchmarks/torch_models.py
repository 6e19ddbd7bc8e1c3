"""Measure dropout's share of the training steps of PyTorch programs.

A step is a forward pass, a backward pass and AdamW's update, in float32. The share is 1 minus the time of a step with
all probabilities of dropping set to 0, divided by the time of a step: the median of this over the rounds. Four forms of
one model take turns: without dropout, with PyTorch's own, after `replace_dropout`, and after `enable(bernoulli=True)`.
The first step of a turn is not timed: it takes from the system the memory that the form before has given back.
The programs of --compile are also compiled by `torch.compile`, without dropout, with PyTorch's own and after `enable`;
their share is of the compiled step. Sites are the calls that draw a mask in a forward pass. Each program is checked
before it is timed: what drops and what does not, the seed, and finite gradients. Programs whose package is not
installed are left out.
"""

import argparse
import contextlib
import logging
import statistics
import sys
import time
import types
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from threadpoolctl import threadpool_limits
from torch import nn
from tqdm import tqdm

import cdropout.torch as ct
from benchmarks.options import UsageError
from benchmarks.result_check import WrongResultError
from benchmarks.table import Table
from benchmarks.timing import introduce
from benchmarks.torch_programs import PROGRAMS, Program

SHARED_OPTIONS = {"threads": (1, 2), "rounds": 11, "quiet": False}
FORMS = ("none", "its own", "replaced", "enabled")
COMPILED = ("none", "its own", "enabled")
SECONDS_PER_TURN = 0.02


@dataclass
class Contenders:
    """Hold a program and change its form.

    Parameters
    ----------
    program : Program
        Its modules are PyTorch's.

    """

    program: Program
    classes: dict[str, list[tuple[nn.Module, type]]] = field(init=False)
    compiled: dict[str, Callable[..., Any]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Record the classes that `replace_dropout` changes: to set them takes less time than to call it."""
        modules = list(self.program.model.modules())
        before = [type(module) for module in modules]
        ct.replace_dropout(self.program.model)
        changed = [
            (module, cls, type(module)) for module, cls in zip(modules, before, strict=True) if cls is not type(module)
        ]
        ct.restore_dropout(self.program.model)
        self.classes = {
            "its own": [(module, cls) for module, cls, _ in changed],
            "replaced": [(module, cls) for module, _, cls in changed],
        }

    def become(self, form: str) -> None:
        """Give the program one of `FORMS`."""
        self.program.drop(form != "none")
        for module, cls in self.classes["replaced" if form == "replaced" else "its own"]:
            module.__class__ = cls
        if form == "enabled":
            ct.enable(bernoulli=True)
        else:
            ct.disable()

    def compile(self) -> None:
        """Compile the program in the forms of `COMPILED`, and make a step with each.

        Raises
        ------
        WrongResultError
            If a compiled form does not drop, or drops differently from the same form before compilation.

        """
        for form in COMPILED:
            self.become(form)
            self.compiled[form] = torch.compile(separate(self.program.model), dynamic=False)
            losses = [self.seeded_loss(seed, self.compiled[form]) for seed in (1, 2)]
            if (losses[0] == losses[1]) != (form == "none"):
                raise WrongResultError(f"compiled, {form}: two seeds gave the losses {losses}")
            expected = self.seeded_loss(1)
            if form == "enabled" and abs(losses[0] - expected) > 1e-3 * abs(expected):
                raise WrongResultError(f"compiled, {form}: the loss must be {expected}, as without, got {losses[0]}")

    def seeded_loss(self, seed: int, model: Callable[..., Any] | None = None) -> float:
        """Return the loss of a forward pass after `torch.manual_seed`."""
        torch.manual_seed(seed)
        return self.program.loss(model).item()

    def check(self) -> dict[str, tuple[int, int]]:
        """Return for each form the sites that are PyTorch's, and all sites.

        Raises
        ------
        WrongResultError
            If a form does not drop as it should, or a gradient is not finite.

        """
        sites = {}
        for form in FORMS:
            self.become(form)
            found = ct.report(self.program.model, **self.program.inputs)
            theirs = sum(site.n_calls for site in found if not site.is_ours)
            sites[form] = theirs, sum(site.n_calls for site in found)
            first, again, other = (self.seeded_loss(seed) for seed in (1, 1, 2))
            if first != again or (first == other) != (form == "none"):
                raise WrongResultError(f"{form}: seeds 1, 1 and 2 gave the losses {first}, {again} and {other}")
            self.program.step()
            weights = self.program.model.parameters()
            if not all(weight.grad.isfinite().all() for weight in weights if weight.grad is not None):
                raise WrongResultError(f"{form}: a gradient is not finite")
        n_sites = {all_sites for _, all_sites in sites.values()} - {0}
        if sites["none"][1] or sites["enabled"][0] or len(n_sites) != 1:
            raise WrongResultError(f"the sites of PyTorch and all sites must not be {sites}")
        return sites

    def times(
        self, threads: int, rounds: int, *, progress: bool, clock: Callable[[], float] = time.perf_counter
    ) -> dict[str, list[float]]:
        """Return the seconds of a step of each form, a number for each round; compiled forms are "compiled, FORM"."""
        names = [*FORMS, *(f"compiled, {form}" for form in self.compiled)]
        seconds: dict[str, list[float]] = {name: [] for name in names}
        torch.set_num_threads(threads)
        for i in tqdm(range(-1, rounds), unit="round", leave=False, disable=not progress, file=sys.stderr):
            for name in names:
                form = name.removeprefix("compiled, ")
                model = self.compiled[form] if name != form else None
                self.become(form)
                self.program.step(model)
                n_steps, start = 0, clock()
                while n_steps == 0 or clock() - start < SECONDS_PER_TURN:
                    self.program.step(model)
                    n_steps += 1
                if i >= 0:  # the first round warms up
                    seconds[name].append((clock() - start) / n_steps)
        return seconds


def separate(model: nn.Module) -> Callable[..., Any]:
    """Return a function that calls a model, with a code object that no other function has.

    `torch.compile` keeps graphs by code object, and the switch of `enable` is no reason for it to make another one.
    """

    def call(**inputs: Any) -> Any:
        return model(**inputs)

    return types.FunctionType(call.__code__.replace(), call.__globals__, "call", None, call.__closure__)


def shares(times: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return dropout's share of the step of each form that drops, from the seconds of all forms in each round."""
    found = {}
    for name, seconds in times.items():
        form = name.removeprefix("compiled, ")
        if form != "none":
            pairs = zip(times[name.replace(form, "none")], seconds, strict=True)
            found[name] = statistics.median(1 - without / with_dropout for without, with_dropout in pairs)
    return found


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Hide what other packages say about small models."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def measure(name: str, args: argparse.Namespace) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a program's table."""
    torch.manual_seed(0)
    with quietly():
        try:
            program = PROGRAMS[name]()
        except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision of another PyTorch
            yield (name, f"not measured: {str(error).partition(chr(10))[0]}", *[None] * (len(COLUMNS) - 2))
            return
        contenders = Contenders(program)
        torch.set_num_threads(max(args.threads))
        sites = contenders.check()
        if name in args.compile:
            contenders.compile()
        for threads in args.threads:
            clock = time.process_time if args.cpu_time else time.perf_counter
            times = contenders.times(threads, args.rounds, progress=not args.quiet, clock=clock)
            of = shares(times)
            compiled = [of.get(f"compiled, {form}") for form in COMPILED if form != "none"]
            left = [sites[form][0] for form in FORMS[1:]]
            without = 1e3 * statistics.median(times["none"])
            yield (name, threads, *left, without, *(of[form] for form in FORMS[1:]), *compiled)
    contenders.become("its own")


COLUMNS = (
    *(("program", "<14"), ("threads", "7"), ("sites", "5"), ("replaced", "8"), ("enabled", "7")),
    *(("step, ms", "9.2f"), ("its own", "8.1%"), ("replaced", "8.1%"), ("enabled", "8.1%")),
    *(("compiled, own", "8.1%"), ("enabled", "8.1%")),
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add --programs, --compile and --cpu-time."""
    names = list(PROGRAMS)
    parser.add_argument("--cpu-time", action="store_true", help="measure CPU time, on a busy machine; one thread")
    parser.add_argument("--programs", choices=names, nargs="+", default=names, help="(default: all)")
    parser.add_argument(
        "--compile",
        choices=names,
        nargs="*",
        default=["graph network", "MLP"],
        help="programs that are also compiled, which takes minutes for large ones (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> None:
    """Check, measure and print a row for each program and number of threads."""
    if args.cpu_time and set(args.threads) != {1}:
        raise UsageError("argument --cpu-time: needs --threads 1, because threads that wait use CPU time")
    table = Table(*COLUMNS)
    with threadpool_limits(max(args.threads)):
        kind = "C++" if ct.native_library.load() else "Python"
        introduce(f"PyTorch {torch.__version__}, masks drawn by {kind}, float32", args.rounds)
        print("sites of PyTorch: with its own dropout, after replace_dropout and after enable; then the step without")
        print("dropout, and dropout's share of the step\n")
        table.show(row for name in args.programs for row in measure(name, args))
