"""Time each member of the dropout family, over `np.multiply(x, s)` into the same kind of output.

One thread. "function" writes to a ready array (the linear members take the same time backward), "layer" is
`layer.forward(x)`, which allocates its output.
"""

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

import cdropout as cd
from benchmarks.cases import Array
from benchmarks.options import parse_positive
from benchmarks.table import Table
from benchmarks.timing import interleaved_medians, introduce

SHARED_OPTIONS = {"p": 0.1, "rounds": 15, "dtypes": ("float32", "float64")}


def images(a: Array, n_axes: int) -> Array:
    """Return a matrix as (samples, channels, ...), with n_axes axes."""
    n_rows, n_columns = a.shape
    n_channels = 64 if n_columns % 64 == 0 else 1
    return a.reshape(n_rows, n_channels, n_columns // n_channels, *(1,) * (n_axes - 3))


# name -> the function, the layer for a p, and the number of axes of their input
FAMILY: dict[str, tuple[Callable[..., Array], Callable[[float], Any], int]] = {
    "Dropout": (cd.dropout, cd.Dropout, 2),
    "Dropout1d": (cd.dropout1d, cd.Dropout1d, 3),
    "Dropout2d": (cd.dropout2d, cd.Dropout2d, 4),
    "Dropout3d": (cd.dropout3d, cd.Dropout3d, 5),
    "FeatureDropout": (cd.feature_dropout, cd.FeatureDropout, 2),
    "LockedDropout": (cd.locked_dropout, cd.LockedDropout, 3),
    "DropPath": (cd.drop_path, cd.DropPath, 2),
    "AlphaDropout": (cd.alpha_dropout, cd.AlphaDropout, 2),
    "FeatureAlphaDropout": (cd.feature_alpha_dropout, cd.FeatureAlphaDropout, 3),
    "GaussianDropout": (cd.gaussian_dropout, cd.GaussianDropout, 2),
    "GaussianNoise": (cd.gaussian_noise, cd.GaussianNoise, 2),
    "DropBlock2d": (cd.drop_block2d, lambda p: cd.DropBlock2d(p, block_size=1), 4),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add --shape."""
    shape = {"nargs": 2, "default": (4096, 4096), "metavar": ("ROWS", "COLUMNS")}
    parser.add_argument("--shape", type=parse_positive, help="(default: 4096 4096)", **shape)


def run(args: argparse.Namespace) -> None:
    """Measure, and print a table."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal(args.shape).astype(args.dtype)
    y, scale, stream = np.ones_like(x), x.dtype.type(1 / (1 - args.p)), cd.Stream(1)
    into: dict[str, Callable[[], object]] = {"np.multiply": lambda: np.multiply(x, scale, out=y)}
    fresh: dict[str, Callable[[], object]] = {"np.multiply": lambda: np.multiply(x, scale)}
    for name, (function, make, n_axes) in FAMILY.items():
        a, out = (images(array, n_axes) if n_axes > 2 else array for array in (x, y))
        options = {"block_size": 1} if name == "DropBlock2d" else {}
        into[name] = lambda f=function, a=a, out=out, o=options: f(a, args.p, rng=stream, out=out, **o)
        layer = make(args.p)
        layer.rng = stream
        fresh[name] = lambda layer=layer, a=a: layer.forward(a)
    into["Zoneout"] = lambda: cd.zoneout(x, y, args.p, rng=stream, out=y)
    zoneout = cd.Zoneout(args.p, rng=stream)
    fresh["Zoneout"] = lambda: zoneout.forward(x, y)
    normal = np.random.default_rng(0)
    into["x * rng.normal(...)"] = lambda: np.multiply(x, normal.normal(1, 0.5, x.shape), out=y, casting="same_kind")
    into["x * rng.standard_normal(float32)"] = lambda: np.multiply(
        x, normal.standard_normal(x.shape, np.float32), out=y
    )
    with threadpool_limits(1):
        introduce(f"{x.shape}, {args.dtype}, p = {args.p:g}", args.rounds)
        first = interleaved_medians(into, rounds=args.rounds)
        second = interleaved_medians(fresh, rounds=args.rounds)

    def cells(medians: dict[str, float], name: str) -> tuple[float | None, float | None]:
        if name not in medians:
            return None, None
        return medians[name] / x.size * 1e9, medians[name] / medians["np.multiply"]

    timed = (("ns/element", ".3f"), ("ratio", "6.2f"))
    table = Table(("", "<33"), *((f"{kind}, {title}", form) for kind in ("function", "layer") for title, form in timed))
    table.show((name, *cells(first, name), *cells(second, name)) for name in first)
