"""Time one call of dropout in PyTorch, forward and backward, beside `x * 1.1`, from 64 elements on.

"module" is `nn.Dropout` after `replace_dropout`, "switch" is PyTorch's function within `enabled()`, "PyTorch" the
same function outside. "Python" is this library's function as it runs without its C++ part. Every size is checked first:
the four give the same mask or, for PyTorch, as many drops.
"""

import argparse
from collections.abc import Callable
from typing import Any

from benchmarks.options import parse_size
from benchmarks.table import Table
from benchmarks.timing import interleaved_medians, introduce

SHARED_OPTIONS = {"p": 0.5, "rounds": 301, "threads": 1}
SIZES = (64, 1024, 4096, 16384, 65536, 1 << 20)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add --sizes."""
    parser.add_argument("--sizes", type=parse_size, nargs="+", default=SIZES, help="numbers of elements")


def run(args: argparse.Namespace) -> int | None:
    """Measure, and print a table."""
    import torch

    import cdropout.torch as ct

    torch.set_num_threads(args.threads)
    ct.build_native()
    function = torch.nn.functional.dropout
    module = torch.nn.Sequential(torch.nn.Dropout(args.p))
    ct.replace_dropout(module)
    module = module[0]

    def in_python(x: Any, p: float) -> Any:
        return ct.tensors._drop_in_python(x, p, (), False, None, False)

    def step(call: Callable[[Any], Any], x: Any, dy: Any) -> Callable[[], object]:
        def both() -> object:
            y = call(x)
            y.backward(dy)
            x.grad = None
            return y

        return both

    introduce(f"{args.threads} threads of PyTorch {torch.__version__}, float32, p = {args.p:g}", args.rounds)
    table = Table(("elements", ">10"), *((f"{name}, us", "8.1f") for name in ("x * 1.1", *_CONTENDERS)))
    rows = []
    for n_elems in args.sizes:
        x, dy = torch.randn(n_elems, requires_grad=True), torch.randn(n_elems)
        calls = {
            "x * 1.1": lambda x: x * 1.1,
            "PyTorch": lambda x: function(x, args.p),
            "module": module,
            "Python": lambda x: in_python(x, args.p),
        }
        with ct.enabled():
            torch.manual_seed(1)
            mask = function(x, args.p) != 0
        for name in ("module", "Python"):
            torch.manual_seed(1)
            if not torch.equal(calls[name](x) != 0, mask):
                print(f"{name} has another mask than the switch at {n_elems} elements")
                return 1
        medians = interleaved_medians({name: step(call, x, dy) for name, call in calls.items()}, rounds=args.rounds)

        # In one run with x * 1.1 again: the switch cannot change within a round without a cost.
        with ct.enabled():
            switched = interleaved_medians(
                {"x * 1.1": step(calls["x * 1.1"], x, dy), "switch": step(calls["PyTorch"], x, dy)}, rounds=args.rounds
            )
        medians["switch"] = switched["switch"] / switched["x * 1.1"] * medians["x * 1.1"]
        rows.append((f"{n_elems:,}", *(medians[name] * 1e6 for name in ("x * 1.1", *_CONTENDERS))))
    table.show(rows)
    return None


_CONTENDERS = ("PyTorch", "module", "switch", "Python")
