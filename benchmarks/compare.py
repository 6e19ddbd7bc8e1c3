"""The command line of `python -m benchmarks`."""

import argparse
import json
import math
from pathlib import Path

from cases import DTYPES, OPERATIONS
from chart import draw_chart
from contenders import NAMES
from report import header, remarks, summary, tables
from sweep import Plan, Results, as_json, describe_machine, run_sweep
from tqdm import tqdm

from cdropout import _kernels

PROG = "python -m benchmarks"
RESULTS = Path(__file__).parent / "results"
SIZES = (128, 1 << 10, 1 << 12, 1 << 14, 1 << 16, 1 << 18, 1 << 20, 1 << 22, 1 << 24, 1 << 26)
QUICK_SIZES = (1 << 12, 1 << 16, 1 << 20, 1 << 24)
LARGEST = 1 << 32

# What --quick gives itself. The rest of its minute is for what comes before and after the sweep, and for the one
# contender that is being built when the time is up.
QUICK_SECONDS = 44.0
QUICK_SECONDS_PER_GROUP = 0.4
QUICK_SECONDS_PER_CONTENDER = 0.8

_UNITS = {"K": 1 << 10, "M": 1 << 20}
_IMAGE_SUFFIXES = (".png", ".pdf", ".svg")


def parse_size(text: str) -> int:
    """Parse a number of elements such as 4096, 64K or 16M; K and M are 1024 and 1024 x 1024."""
    digits, unit = (text[:-1], _UNITS[text[-1]]) if text[-1:] in _UNITS else (text, 1)
    if not digits.isascii() or not digits.isdigit() or not 1 <= int(digits) * unit <= LARGEST:
        raise argparse.ArgumentTypeError(
            f"a size must be a number of elements from 1 to 2^32, such as 4096, 64K or 16M, got {text!r}"
        )
    return int(digits) * unit


def parse_p(text: str) -> float:
    """Parse a probability of dropping for which there is something to drop and something to keep."""
    try:
        p = float(text)
    except ValueError:
        p = math.nan
    if not 0 < p < 1:
        raise argparse.ArgumentTypeError(f"p must be in (0, 1), got {text!r}")
    return p


def parse_threads(text: str) -> int:
    """Parse a number of threads; "all" is as many as cdropout would use."""
    if text == "all":
        return _kernels.thread_limit()
    return parse_positive(text)


def parse_positive(text: str) -> int:
    """Parse an integer of at least 1."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be an integer of at least 1, got {text!r}")
    return int(text)


def parse_contender(text: str) -> str:
    """Parse the name of a contender."""
    if text not in NAMES:
        raise argparse.ArgumentTypeError(f"unknown contender {text!r}; known are {', '.join(NAMES)}")
    return text


def parse_image(text: str) -> Path:
    """Parse the path of an image of a format that can be drawn."""
    path = parse_path(text)
    if path.suffix.lower() not in _IMAGE_SUFFIXES:
        raise argparse.ArgumentTypeError(f"{text}: suffix must be one of {', '.join(_IMAGE_SUFFIXES)}")
    return path


def parse_path(text: str) -> Path:
    """Parse the path of a file to be written, having found out that it can be, before a long run."""
    path = Path(text)
    folder = path.parent
    if folder == RESULTS:
        folder.mkdir(exist_ok=True)
    if not folder.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: folder {folder} must exist")
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: must be a file, got a folder")
    return path


def parse_arguments(argv: list[str] | None = None) -> tuple[Plan, argparse.Namespace]:
    """Return what to measure, and the other options.

    Raises
    ------
    SystemExit
        With status 2, after a message that names the argument, for one that is not valid.

    """
    parser = argparse.ArgumentParser(
        prog=PROG,
        description="Measure dropout beside its floor and every alternative that is installed.",
        epilog="Sizes and operations are crossed with everything. Of --dtypes, --p and --threads the first value is "
        f"the usual one; the others are measured one at a time. Contenders: {', '.join(NAMES)}.",
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="end within a minute: fewer sizes and rounds, one dtype, one thread")
    add("--sizes", type=parse_size, nargs="+", metavar="N", help="numbers of elements (default: 128 to 64M)")
    add("--dtypes", choices=DTYPES, nargs="+", metavar="DTYPE", help=f"of {', '.join(DTYPES)} (default: all)")
    add("--p", type=parse_p, nargs="+", metavar="P", help="probabilities of dropping (default: 0.1 0.5)")
    add("--threads", type=parse_threads, nargs="+", metavar="N", help="numbers of threads (default: 1 all)")
    add(
        "--operations",
        choices=tuple(OPERATIONS),
        nargs="+",
        metavar="NAME",
        help=f"of {', '.join(OPERATIONS)} (default: all)",
    )
    add(
        "--contenders",
        type=parse_contender,
        nargs="+",
        metavar="NAME",
        help="beside the floor (default: all that are installed)",
    )
    add("--rounds", type=parse_positive, metavar="N", help="rounds, at most (default: 31; with --quick 11)")
    add("--json", type=parse_path, metavar="FILE", help="(default: benchmarks/results/latest.json)")
    add("--plot", type=parse_image, metavar="FILE", help="PNG, PDF or SVG (default: benchmarks/results/latest.png)")
    add("--quiet", action="store_true", help="show no progress bar")
    args = parser.parse_args(argv)
    quick = args.quick
    plan = Plan(
        sizes=tuple(dict.fromkeys(sorted(args.sizes or (QUICK_SIZES if quick else SIZES)))),
        dtypes=tuple(dict.fromkeys(args.dtypes or (DTYPES[:1] if quick else DTYPES))),
        ps=tuple(dict.fromkeys(args.p or ((0.1,) if quick else (0.1, 0.5)))),
        thread_counts=tuple(dict.fromkeys(args.threads or ((1,) if quick else (1, _kernels.thread_limit())))),
        operations=tuple(dict.fromkeys(args.operations or OPERATIONS)),
        contenders=tuple(dict.fromkeys(args.contenders or NAMES)),
        rounds=args.rounds or (11 if quick else 31),
        seconds_per_group=QUICK_SECONDS_PER_GROUP if quick else Plan.seconds_per_group,
        seconds=QUICK_SECONDS if quick else None,
        seconds_per_contender=QUICK_SECONDS_PER_CONTENDER if quick else Plan.seconds_per_contender,
        build_slowly=not quick,
    )
    try:
        args.json = args.json or parse_path(str(RESULTS / "latest.json"))
        args.plot = args.plot or parse_image(str(RESULTS / "latest.png"))
    except (argparse.ArgumentTypeError, OSError) as error:
        parser.error(f"the default of --json and --plot: {error}")
    return plan, args


def main(argv: list[str] | None = None) -> int:
    """Run the sweep; 0, or 1 where a result of cdropout's, or a floor's, was refused."""
    plan, args = parse_arguments(argv)
    machine = describe_machine()
    print(header(machine, plan), flush=True)
    results = Results()
    n_printed = 0
    for results in run_sweep(plan, progress=not args.quiet):
        if results.rows[n_printed:]:
            # Through tqdm, which moves its bar out of the way.
            tqdm.write(f"\n{tables(results.rows[n_printed:])}")
            n_printed = len(results.rows)
    if results.rows:
        print(f"\n{summary(results.rows)}")
    if notes := remarks(results):
        print(f"\n{notes}")
    write(results, plan, machine, args.json, args.plot)
    own = ("floor", "cdropout")
    return 1 if any(line.startswith(own) for line in results.refused) else 0


def write(results: Results, plan: Plan, machine: dict[str, object], json_path: Path, plot_path: Path) -> None:
    """Write the results as JSON, a row a line, and as a chart, where there is anything to draw."""
    fields = as_json(results, plan, machine)
    rows = ",\n  ".join(json.dumps(row) for row in fields.pop("rows"))
    others = json.dumps(fields, indent=1)[:-2]
    json_path.write_text(f'{others},\n "rows": [\n  {rows}\n ]\n}}\n')
    print(f"\nwritten: {json_path}")
    if results.rows:
        draw_chart(results.rows, machine, plot_path)
        print(f"drawn:   {plot_path}")
