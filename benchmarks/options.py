"""Define the options that several questions have, and parse the values of options."""

import argparse
import math
from typing import Any

from cdropout import _kernels

LARGEST_SIZE = 1 << 32

_UNITS = {"K": 1 << 10, "M": 1 << 20}


class UsageError(Exception):
    """Report options that are each valid but not together, or not here; the message names argument, rule and value."""


def parse_positive(text: str) -> int:
    """Parse an integer of at least 1."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be an integer of at least 1, got {text!r}")
    return int(text)


def parse_size(text: str) -> int:
    """Parse a number of elements such as 4096, 64K or 16M; K and M are 1024 and 1024 x 1024."""
    digits, unit = (text[:-1], _UNITS[text[-1]]) if text[-1:] in _UNITS else (text, 1)
    if not digits.isascii() or not digits.isdigit() or not 1 <= int(digits) * unit <= LARGEST_SIZE:
        raise argparse.ArgumentTypeError(
            f"a size must be a number of elements from 1 to 2^32, such as 4096, 64K or 16M, got {text!r}"
        )
    return int(digits) * unit


def parse_p(text: str) -> float:
    """Parse a probability of dropping, neither 0 nor 1."""
    try:
        p = float(text)
    except ValueError:
        p = math.nan
    if not 0 < p < 1:
        raise argparse.ArgumentTypeError(f"p must be in (0, 1), got {text!r}")
    return p


def parse_threads(text: str) -> int:
    """Parse a number of threads; "all" is as many as cdropout would use."""
    return _kernels.thread_limit() if text == "all" else parse_positive(text)


_SHARED = {
    "rounds": (parse_positive, "rounds, in each of which every contender has a turn"),
    "sizes": (parse_size, "numbers of elements, such as 4096, 64K or 16M"),
    "threads": (parse_threads, 'number of threads; "all" is as many as cdropout would use'),
    "p": (parse_p, "probability of dropping"),
}


def add_shared(parser: argparse.ArgumentParser, *, dtypes: tuple[str, ...] = (), **defaults: Any) -> None:
    """Add options that several questions have.

    Parameters
    ----------
    parser : ArgumentParser
        The question's parser.
    dtypes : tuple of str
        The choices of --dtype, the default first; without any there is no --dtype.
    **defaults
        A default for each of `rounds`, `sizes`, `threads`, `p` and `quiet` that the question has. The option takes
        several values where its default is a tuple, which is empty where the default depends on other options.

    """
    if "quiet" in defaults:
        parser.add_argument("--quiet", action="store_true", default=defaults.pop("quiet"), help="show no progress bar")
    for name, default in defaults.items():
        parse, meaning = _SHARED[name]
        several = isinstance(default, tuple)
        shown = " ".join(map(str, default)) if several else default
        parser.add_argument(
            f"--{name}",
            type=parse,
            nargs="+" if several else None,
            default=default,
            metavar="P" if name == "p" else "N",
            help=f"{meaning} (default: {shown})" if shown else meaning,
        )
    if dtypes:
        parser.add_argument("--dtype", choices=dtypes, default=dtypes[0], help="(default: %(default)s)")
