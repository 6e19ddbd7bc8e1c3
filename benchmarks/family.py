"""What each member of the dropout family costs, against its floor, `np.multiply(x, s)` into the same kind of output.

    python benchmarks/family.py [--shape ROWS COLUMNS] [--dtype DTYPE] [--rounds N]

One thread. "function" writes to a ready array (forward, and backward of the linear ones alike), "layer" is
`layer.forward(x)`, with a fresh output.
"""

import argparse
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from command_line import parse_p, parse_positive
from threadpoolctl import threadpool_limits
from timing import interleaved_medians, machine

import cdropout as cd

Array = npt.NDArray[Any]
Function = Callable[..., Array]


def images(a: Array, n_axes: int) -> Array:
    """Return a matrix as (samples, channels, ...), with the last axes about equally long."""
    n_rows, n_columns = a.shape
    n_channels = 64 if n_columns % 64 == 0 else 1
    return a.reshape(n_rows, n_channels, n_columns // n_channels, *(1,) * (n_axes - 3))


# name -> the function, the layer for a p, and the number of axes of what they take
FAMILY: dict[str, tuple[Function, Callable[[float], Any], int]] = {
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


def main() -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--shape", type=parse_positive, nargs=2, default=(4096, 4096), metavar=("ROWS", "COLUMNS"))
    add("--p", type=parse_p, default=0.1, help="the probability of dropping (default: %(default)s)")
    add("--dtype", choices=("float32", "float64"), default="float32")
    add("--rounds", type=parse_positive, default=15, help="(default: %(default)s)")
    args = parser.parse_args()
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
        print(machine())
        print(f"{x.shape}, {args.dtype}, p = {args.p:g}, medians of {args.rounds} interleaved rounds\n")
        first = interleaved_medians(into, rounds=args.rounds)
        second = interleaved_medians(fresh, rounds=args.rounds)
    print(f"{'':<33} {'function, ns/element':>21} {'ratio':>6} {'layer, ns/element':>18} {'ratio':>6}")
    for name, seconds in first.items():
        line = f"{name:<33} {seconds / x.size * 1e9:>21.3f} {seconds / first['np.multiply']:>6.2f}"
        if name in second:
            line += f" {second[name] / x.size * 1e9:>18.3f} {second[name] / second['np.multiply']:>6.2f}"
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
