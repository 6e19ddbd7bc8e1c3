"""`python -m cdropout`: what runs here. `python -m cdropout stream`: the raw generator, for test suites to read."""

import argparse
import os
import platform
import sys

import numpy as np

import cdropout
from cdropout import _kernels

# One write: large enough that the system call costs nothing, small enough to stay in the cache.
BLOCKS_PER_WRITE = 64


def describe() -> str:
    """Return what runs here, a line for each fact."""
    supported = _kernels.supported_isas()
    forced = os.environ.get("CDROPOUT_ISA")
    why = "forced by CDROPOUT_ISA" if forced else "the best that this machine supports"
    if _kernels.has_openmp():
        threads = f"up to {_kernels.thread_limit()} (OpenMP)"
    else:
        threads = "1 (serial build: the compiler had no OpenMP)"
    facts = {
        "cdropout": cdropout.__version__,
        "instruction set": f"{_kernels.active_isa()} ({why}; available: {', '.join(supported)})",
        "threads": threads,
        "Python": platform.python_version(),
        "NumPy": np.__version__,
    }
    width = max(map(len, facts))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in facts.items())


def write_stream(seed: int, n_bytes: int | None) -> None:
    """Write a stream's raw output to standard output: n_bytes of it, or without end.

    Ends quietly when the reader closes the pipe.
    """
    key = cdropout.Stream(seed).key
    out = sys.stdout.fileno()
    first_block = 0
    left = n_bytes
    try:
        while left is None or left > 0:
            chunk = _kernels.raw_blocks(key, first_block, BLOCKS_PER_WRITE).data
            first_block += BLOCKS_PER_WRITE
            if left is not None:
                chunk = chunk[:left]
                left -= len(chunk)
            while len(chunk):
                chunk = chunk[os.write(out, chunk) :]
    except BrokenPipeError:
        # The interpreter flushes standard output as it exits and must not meet the closed pipe again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), out)


def count(text: str) -> int:
    """Parse a command-line argument that counts something."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be 0 or greater, got {value}")
    return value


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m cdropout", description="Without a command: what runs here.")
    parser.add_argument("--version", action="version", version=cdropout.__version__)
    commands = parser.add_subparsers(dest="command")
    stream = commands.add_parser(
        "stream", help="write the raw generator output to standard output, for PractRand, TestU01 or dieharder"
    )
    stream.add_argument("--seed", type=count, required=True, metavar="N", help="the stream's seed, 0 or greater")
    stream.add_argument("--bytes", type=count, metavar="N", dest="n_bytes", help="how many; without end unless given")
    arguments = parser.parse_args(argv)
    if arguments.command == "stream":
        if sys.stdout is None:
            parser.error("standard output must be open, and it is closed")
        write_stream(arguments.seed, arguments.n_bytes)
    else:
        print(describe())
    return 0


if __name__ == "__main__":
    sys.exit(main())
