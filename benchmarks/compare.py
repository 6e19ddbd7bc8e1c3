"""Compare dropout with its floor and every installed alternative, from 128 to 64 M elements.

Prints tables, and writes JSON and a chart. Sizes and operations are crossed with everything. Of --dtypes, --p and
--threads the first value is the usual one, and each other value is measured with the usual ones of the two others.
--quick ends within a minute: it has fewer sizes and rounds, one dtype and one thread.
"""

import argparse
import json
from pathlib import Path

from tqdm import tqdm

from benchmarks.cases import DTYPES, OPERATIONS
from benchmarks.chart import draw_chart
from benchmarks.contenders import NAMES
from benchmarks.options import UsageError
from benchmarks.report import header, remarks, summary, tables
from benchmarks.sweep import Plan, Results, as_json, describe_machine, run_sweep
from cdropout import _kernels
from cdropout.digits.files import check_writable, write_file

RESULTS = Path(__file__).parent / "results"
SIZES = (128, 1 << 10, 1 << 12, 1 << 14, 1 << 16, 1 << 18, 1 << 20, 1 << 22, 1 << 24, 1 << 26)
QUICK_SIZES = (1 << 12, 1 << 16, 1 << 20, 1 << 24)

# The time limits of --quick. The rest of its minute is for the work before and after the sweep, and for the one
# contender that is being built when the time is up.
QUICK_SECONDS = 44.0
QUICK_SECONDS_PER_GROUP = 0.4
QUICK_SECONDS_PER_CONTENDER = 0.8

_IMAGE_SUFFIXES = (".png", ".pdf", ".svg")
SHARED_OPTIONS = {"sizes": (), "p": (), "threads": (), "rounds": None, "quiet": False}


def parse_contender(text: str) -> str:
    """Parse the name of a contender."""
    if text not in NAMES:
        raise argparse.ArgumentTypeError(f"unknown contender {text!r}; known are {', '.join(NAMES)}")
    return text


def parse_image(text: str) -> Path:
    """Parse the path of an image to be drawn."""
    path = parse_path(text)
    if path.suffix.lower() not in _IMAGE_SUFFIXES:
        raise argparse.ArgumentTypeError(f"{text}: suffix must be one of {', '.join(_IMAGE_SUFFIXES)}")
    return path


def parse_path(text: str) -> Path:
    """Parse the path of an output file, and check before a long run that it can be written."""
    path = Path(text)
    folder = path.parent
    if folder == RESULTS:
        folder.mkdir(exist_ok=True)
    if not folder.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: folder {folder} must exist")
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: must be a file, got a folder")
    try:
        check_writable(path)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return path


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the sweep."""
    parser.epilog = (
        "Defaults: sizes from 128 to 64M, all dtypes, p 0.1 and 0.5, threads 1 and all, 31 rounds at most (11 with "
        f"--quick). Contenders: {', '.join(NAMES)}."
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="end within a minute")
    for name, choices in (("dtypes", DTYPES), ("operations", tuple(OPERATIONS))):
        add(f"--{name}", choices=choices, nargs="+", metavar="NAME", help=f"of {', '.join(choices)} (default: all)")
    add("--contenders", type=parse_contender, nargs="+", metavar="NAME", help="(default: all that are installed)")
    add("--json", type=parse_path, metavar="FILE", help="(default: benchmarks/results/latest.json)")
    add("--plot", type=parse_image, metavar="FILE", help="PNG, PDF or SVG (default: benchmarks/results/latest.png)")


def make_plan(args: argparse.Namespace) -> Plan:
    """Return the plan of the sweep that the options describe."""
    quick = args.quick
    return Plan(
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


def run(args: argparse.Namespace) -> int:
    """Run the sweep; 0, or 1 where a result of cdropout's, or a floor's, was refused."""
    plan = make_plan(args)
    try:
        json_path = args.json or parse_path(str(RESULTS / "latest.json"))
        plot_path = args.plot or parse_image(str(RESULTS / "latest.png"))
    except (argparse.ArgumentTypeError, OSError) as error:
        raise UsageError(f"the default of --json and --plot: {error}") from None
    machine = describe_machine()
    print(header(machine, plan), flush=True)
    results = Results()
    n_printed = 0
    for results in run_sweep(plan, progress=not args.quiet):
        if results.rows[n_printed:]:
            # tqdm.write moves the progress bar out of the way.
            tqdm.write(f"\n{tables(results.rows[n_printed:])}")
            n_printed = len(results.rows)
    if results.rows:
        print(f"\n{summary(results.rows)}")
    if notes := remarks(results):
        print(f"\n{notes}")
    write(results, plan, machine, json_path, plot_path)
    own = ("floor", "cdropout")
    return 1 if any(line.startswith(own) for line in results.refused) else 0


def write(results: Results, plan: Plan, machine: dict[str, object], json_path: Path, plot_path: Path) -> None:
    """Write the results as JSON, one row on each line, and as a chart if there are any rows."""
    fields = as_json(results, plan, machine)
    rows = ",\n  ".join(json.dumps(row) for row in fields.pop("rows"))
    others = json.dumps(fields, indent=1)[:-2]
    write_file(json_path, f'{others},\n "rows": [\n  {rows}\n ]\n}}\n'.encode())
    print(f"\nwritten: {json_path}")
    if results.rows:
        draw_chart(results.rows, machine, plot_path)
        print(f"drawn:   {plot_path}")
