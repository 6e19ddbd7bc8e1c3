"""The command `python -m cdropout`: describe the environment, or run one of the commands that its help lists."""

import argparse
import importlib
import json
import math
import sys
from typing import BinaryIO

import cdropout
from cdropout import _kernels, demo, environment, optional
from cdropout.command import run_command
from cdropout.digits import program

PROG = "python -m cdropout"

# Blocks per write: large enough that the system call's cost is negligible, small enough to stay in the cache.
BLOCKS_PER_WRITE = 64


def write_stream(out: BinaryIO, seed: int, n_bytes: int | None) -> None:
    """Write n_bytes of a stream's raw output to a file, or write without end if n_bytes is None."""
    key = cdropout.Stream(seed).key
    first_block = 0
    left = n_bytes
    while left is None or left > 0:
        chunk = _kernels.raw_blocks(key, first_block, BLOCKS_PER_WRITE).data
        first_block += BLOCKS_PER_WRITE
        if left is not None:
            chunk = chunk[:left]
            left -= len(chunk)
        out.write(chunk)


def count(text: str) -> int:
    """Parse a count, 0 or greater."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be 0 or greater, got {value}")
    return value


def probability(text: str) -> float:
    """Parse a probability of dropping, above 0 and below 1."""
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"must be in (0, 1), got {text}")
    return value


def duration(text: str) -> float:
    """Parse a number of seconds, above 0 and finite."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be above 0 and finite, got {text}")
    return value


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(prog=PROG, description="Without a command: what runs here.")
    parser.add_argument("--version", action="version", version=cdropout.__version__)
    parser.add_argument("--json", action="store_true", help="print what runs here as JSON")
    help_of_import = "import a module first, as a program does: it may bring a second OpenMP runtime"
    parser.add_argument("--import", action="append", default=[], metavar="MODULE", dest="modules", help=help_of_import)
    commands = parser.add_subparsers(dest="command")
    shown = commands.add_parser("demo", help="show in ten seconds what the library does, and how fast it is here")
    shown.add_argument(
        "--seconds", type=duration, default=3.0, metavar="S", help="how long to measure, about (default: %(default)g)"
    )
    train = commands.add_parser("train", help="train a small network with dropout, on digits that it draws itself")
    program.add_options(train, data=None, data_name="digits that are drawn")
    bench = commands.add_parser("bench", help="compare dropout with NumPy on this machine")
    bench.add_argument(
        "--p", type=probability, default=0.1, metavar="P", help="the probability of dropping (default: %(default)s)"
    )
    bench.add_argument(
        "--seconds", type=duration, default=10.0, metavar="S", help="how long, about (default: %(default)g)"
    )
    bench.add_argument("--json", action="store_true", dest="bench_json", help="print figures as JSON, not as a table")
    stream = commands.add_parser(
        "stream", help="write the raw generator output to standard output, for PractRand, TestU01 or dieharder"
    )
    stream.add_argument("--seed", type=count, required=True, metavar="N", help="the stream's seed, in [0, 2**128)")
    stream.add_argument("--bytes", type=count, metavar="N", dest="n_bytes", help="how many; without end unless given")
    arguments = parser.parse_args(argv)
    if arguments.command == "stream":
        out = getattr(sys.stdout, "buffer", None)
        if out is None:
            found = "it is closed" if sys.stdout is None else f"{type(sys.stdout).__name__} has no buffer"
            parser.error(f"standard output must be open for bytes, and {found}")
        if arguments.seed >= 1 << 128:
            parser.error(f"argument --seed: must be below 2**128, got {arguments.seed}")
        write_stream(out, arguments.seed, arguments.n_bytes)
    elif arguments.command == "bench":
        try:
            for package in ("rich", "threadpoolctl"):
                optional.require(package, extra="cli", purpose="bench")
        except ImportError as error:
            parser.error(str(error))
        from cdropout.bench import report

        report.run(arguments.p, arguments.seconds, as_json=arguments.json or arguments.bench_json)
    elif arguments.command == "demo":
        demo.show(arguments.seconds)
    elif arguments.command == "train":
        options = vars(arguments)
        del options["command"], options["json"], options["modules"]
        return program.run(train, options)
    else:
        for name in arguments.modules:
            try:
                importlib.import_module(name)
            except ImportError as error:
                parser.error(f"argument --import: {error}")
        facts = environment.facts()
        print(json.dumps(facts, indent=1) if arguments.json else environment.describe(facts))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, PROG))
