"""Time masks of images, tokens and bools beside NumPy and albumentations.

An image is uint8, 1024 x 1024 x 3; a batch of tokens int64, 64 x 512, by BERT's rule; bools are a million. "NumPy" is
the fastest way that was found: 16-bit numbers of SFC64 for decisions, one float32 draw for all choices of a token. The
ratio is that to the first way of a case, of which cdropout's is meant to be a small multiple or fraction. Rates of
dropping are compared with p first. albumentations is left out where it is not installed. With --threads 1 2: a table
for one thread of cdropout's and one for two.
"""

import argparse
import contextlib
import importlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

import cdropout as cd
from benchmarks.options import parse_positive
from benchmarks.result_check import WrongResultError
from benchmarks.table import Table
from benchmarks.timing import interleaved_medians, introduce

SHARED_OPTIONS = {"rounds": 15, "p": 0.1}

Ways = dict[str, Callable[[], Any]]
MASK_TOKEN, VOCABULARY, N_BOOLS = 103, 30_000, 1_000_000


def image_ways(p: float, per_channel: bool) -> tuple[Ways, Callable[[Any], Any]]:
    """Return the ways to drop pixels, and a function from a result to what is dropped."""
    image = np.random.default_rng(0).integers(1, 256, (1024, 1024, 3), np.uint8)
    rng, stream, out = np.random.Generator(np.random.SFC64(1)), cd.Stream(1), np.empty_like(image)
    drawn = image.shape if per_channel else (*image.shape[:2], 1)
    threshold = np.uint16(p * 65536)

    def in_numpy() -> Any:
        keep = rng.integers(0, 65536, drawn, np.uint16) >= threshold
        return np.multiply(image, keep, out=out)

    ways: Ways = {
        "np.copyto": lambda: np.copyto(out, image),
        "NumPy": in_numpy,
        "pixel_dropout": lambda: cd.pixel_dropout(image, p, per_channel=per_channel, rng=stream, out=out),
    }
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    with contextlib.suppress(ImportError):  # not installed, or a later one than cdropout.albumentations supports
        for name in ("albumentations", "cdropout.albumentations"):
            module = importlib.import_module(name)
            transform = module.PixelDropout(dropout_prob=p, per_channel=per_channel, p=1.0)
            ways[name] = lambda transform=transform: transform(image=image)["image"]
    return ways, lambda result: result == 0


def token_ways(p: float) -> tuple[Ways, Callable[[Any], Any]]:
    """Return the ways to mask tokens, and a function from a result to what becomes the mask token."""
    tokens = np.random.default_rng(0).integers(1000, VOCABULARY, (64, 512))
    rng, stream, out = np.random.Generator(np.random.SFC64(1)), cd.Stream(1), np.empty_like(tokens)

    def in_numpy() -> Any:
        np.copyto(out, tokens)
        drawn = rng.random(tokens.size, np.float32)
        selected = np.flatnonzero(drawn < p)
        of_selected = drawn[selected]
        flat = out.reshape(-1)
        flat[selected[of_selected < 0.8 * p]] = MASK_TOKEN
        at_random = selected[(of_selected >= 0.8 * p) & (of_selected < 0.9 * p)]
        flat[at_random] = rng.integers(0, VOCABULARY, at_random.size)
        return out

    ways: Ways = {
        "NumPy": in_numpy,
        "token_dropout": lambda: cd.token_dropout(
            tokens, p, MASK_TOKEN, replace_random=VOCABULARY, rng=stream, out=out
        ),
    }
    return ways, lambda result: (result == MASK_TOKEN) / 0.8


def bool_ways(p: float) -> tuple[Ways, Callable[[Any], Any]]:
    """Return the ways to draw bools."""
    rng, fast, stream = np.random.default_rng(1), np.random.Generator(np.random.SFC64(1)), cd.Stream(1)
    out, threshold = np.empty(N_BOOLS, bool), np.uint16(p * 65536)
    return {
        "rng.random(n) < p": lambda: rng.random(N_BOOLS) < p,
        "rng.binomial": lambda: rng.binomial(1, p, N_BOOLS),
        "NumPy": lambda: fast.integers(0, 65536, N_BOOLS, np.uint16) < threshold,
        "bernoulli": lambda: cd.bernoulli(N_BOOLS, p, rng=stream),
        "bernoulli(out=)": lambda: cd.bernoulli(N_BOOLS, p, rng=stream, out=out),
    }, lambda result: result


def own_p_ways(p: float) -> tuple[Ways, Callable[[Any], Any]]:
    """Return the ways to draw bools with a probability for each."""
    rng, stream = np.random.default_rng(1), cd.Stream(1)
    chances = np.random.default_rng(0).random(N_BOOLS) * 2 * min(p, 1 - p) + max(0.0, 2 * p - 1)
    return {
        "rng.random(n) < p": lambda: rng.random(N_BOOLS) < chances,
        "bernoulli": lambda: cd.bernoulli(N_BOOLS, chances, rng=stream),
    }, lambda result: result


def form_ways(p: float) -> tuple[Ways, Callable[[Any], Any]]:
    """Return the forms of a mask's decisions."""
    mask, out = cd.draw_mask(N_BOOLS, p, rng=1), np.empty(N_BOOLS, bool)
    return {
        "~mask.keep()": lambda: ~mask.keep(),
        "mask.dropped()": lambda: mask.dropped(),
        "mask.dropped(out)": lambda: mask.dropped(out),
        "mask.packed()": lambda: ~np.unpackbits(mask.packed()).astype(bool),
        "mask.count()": lambda: np.array(1 - mask.count() / N_BOOLS),
    }, lambda result: result


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add --threads."""
    parser.add_argument("--threads", type=parse_positive, nargs="+", metavar="N", help="the default threads by default")


def run(arguments: argparse.Namespace) -> None:
    """Print a table for each number of threads, with a row for each way of each case."""
    for n_threads in arguments.threads or [None]:
        with threadpool_limits(n_threads):
            show_table(arguments.p, arguments.rounds)


def show_table(p: float, rounds: int) -> None:
    """Print a row for each way of each case."""
    cases = {
        "uint8 pixels": image_ways(p, False),
        "uint8 channels": image_ways(p, True),
        "int64 tokens": token_ways(p),
        "bools": bool_ways(p),
        "bools, own p": own_p_ways(p),
        "mask of 1e6": form_ways(p),
    }

    def rows() -> Iterator[tuple[Any, ...]]:
        for case, (ways, dropped_of) in cases.items():
            for name, way in ways.items():
                result = way()
                # Five standard deviations of a rate over 32,768 tokens, the fewest decisions of a case.
                if result is not None and abs(np.mean(dropped_of(result)) - p) > 5 * np.sqrt(p * (1 - p) / 32768):
                    raise WrongResultError(f"{case}: {name} drops {np.mean(dropped_of(result))} instead of {p}")
            medians = interleaved_medians(ways, rounds=rounds)
            first = next(iter(medians.values()))
            for name, median in medians.items():
                yield case, name, 1e3 * median, median / first

    introduce(f"p = {p}, milliseconds", rounds)
    Table(("case", "<16"), ("way", "<24"), ("ms", "9.3f"), ("ratio", "7.2f")).show(rows())
