"""Train a small NumPy network on MNIST with dropout; print its macro F1 and dropout's share of the time.

    python examples/mnist/train.py [--dropout KIND] [--p P] [--data PATH] [--plot FILE]
                                   [--checkpoint FILE [--resume] [--checkpoint-every N]] ...

This is `python -m cdropout train` on the sample of MNIST beside this file.
"""

import argparse
import sys

from cdropout.command import run_command
from cdropout.digits import program
from sample import SAMPLE

PROG = "train.py"


def main(argv: list[str] | None = None) -> int:
    """Train as the command line says, and return the exit status of the program."""
    parser = argparse.ArgumentParser(prog=PROG, description="Train a NumPy network on MNIST with dropout.")
    program.add_options(parser, data=SAMPLE, data_name="the sample of MNIST")
    return program.run(parser, vars(parser.parse_args(argv)))


if __name__ == "__main__":
    sys.exit(run_command(main, PROG))
