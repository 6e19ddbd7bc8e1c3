"""The command line, the table and the tolerance that the comparisons of macro F1 share."""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sample import SAMPLE


def make_parser(prog: str, reference: str, kinds: Sequence[str]) -> argparse.ArgumentParser:
    """Return a parser with the options of every comparison with a reference, such as "PyTorch"."""
    description = f"Compare the macro F1 of cdropout's and {reference}'s dropout."
    parser = argparse.ArgumentParser(prog=prog, description=description)
    add = parser.add_argument
    add(
        "--data", type=Path, default=SAMPLE, metavar="FOLDER", help="folder of idx files (default: the sample of MNIST)"
    )
    add("--kinds", choices=kinds, nargs="+", default=kinds, help="(default: all)")
    add("--epochs", type=int, default=2, help="passes over the training set (default %(default)s)")
    add("--seeds", type=int, default=3, help="how many seeds to average over (default %(default)s)")
    add("--tolerance", type=float, default=0.006, help="largest difference in macro F1 (default %(default)s)")
    return parser


def parse(parser: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    """Return the arguments; values that no comparison can have end the program with status 2."""
    args = parser.parse_args(argv)
    for name in ("epochs", "seeds"):
        if getattr(args, name) < 1:
            parser.error(f"argument --{name}: {name} must be at least 1, got {getattr(args, name)}")
    if not 0 <= args.tolerance < math.inf:
        parser.error(f"argument --tolerance: tolerance must be at least 0 and finite, got {args.tolerance}")
    return args


def tabulate(macro_f1: dict[str, list[float]]) -> str:
    """Return a table of the mean and range of macro F1 over the seeds, and of each mean's difference to the first."""
    reference = next(iter(macro_f1))
    lines = [f"{'dropout':<20} {'macro F1':>8} {'lowest':>8} {'highest':>8} {f'to {reference}':>11}"]
    for name, values in macro_f1.items():
        mean = np.mean(values)
        difference = "" if name == reference else f"{mean - np.mean(macro_f1[reference]):+.4f}"
        lines.append(f"{name:<20} {mean:8.4f} {min(values):8.4f} {max(values):8.4f} {difference:>11}".rstrip())
    return "\n".join(lines)


def find_strays(macro_f1: dict[str, list[float]], tolerance: float) -> list[str]:
    """Return a sentence for each kind whose mean differs from the first one's by more than the tolerance."""
    reference, *kinds = macro_f1
    differences = {kind: float(np.mean(macro_f1[kind]) - np.mean(macro_f1[reference])) for kind in kinds}
    return [
        f"{kind}: macro F1 must be within {tolerance:g} of {reference}'s, got a difference of {difference:+.4f}"
        for kind, difference in differences.items()
        if not abs(difference) <= tolerance
    ]


def report(prog: str, title: str, macro_f1: dict[str, list[float]], tolerance: float) -> int:
    """Print the title, the table and the kinds outside the tolerance; return 1 if there are any, else 0."""
    print(title)
    print(tabulate(macro_f1))
    strays = find_strays(macro_f1, tolerance)
    for stray in strays:
        print(f"{prog}: {stray}", file=sys.stderr)
    return 1 if strays else 0
