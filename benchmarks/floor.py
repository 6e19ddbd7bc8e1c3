"""How far dropout is from its floor, a multiplication into the same kind of output, on one thread.

    python benchmarks/floor.py

Every contender's result is checked before it is timed. For all sizes, dtypes and alternatives: `python -m benchmarks`.
"""

import argparse
import sys

import numpy as np
import numpy.typing as npt
from cases import OPERATIONS
from result_check import Expectation, check_result
from threadpoolctl import threadpool_limits
from timing import interleaved_medians, machine

import cdropout as cd

SIZES = (4096, 65_536, 1_048_576, 16_777_216)


def array_at(values: npt.NDArray[np.floating], offset: int | None) -> npt.NDArray[np.floating]:
    """Copy values to where NumPy puts them, or offset bytes past a multiple of 64."""
    if offset is None:
        return values.copy()
    memory = np.empty(values.nbytes + 128, np.uint8)
    begin = -memory.ctypes.data % 64 + offset
    placed = memory[begin : begin + values.nbytes].view(values.dtype)
    placed[...] = values
    return placed


def measure(n_elems: int, p: float, dtype: str, rounds: int, offset: int | None) -> list[tuple[str, float, float]]:
    """Time one size: rows of (contender, ns an element, ratio to its floor)."""
    values = np.random.default_rng(0).standard_normal(n_elems, dtype=dtype)
    values[values == 0] = 1
    x, y, in_place = (array_at(values, offset) for _ in range(3))
    scale = x.dtype.type(1 / (1 - p))
    stream = cd.Stream(1)
    mask = cd.draw_mask(x.shape, p, rng=stream)
    layer = cd.Dropout(p, rng=stream)
    expectation = Expectation(p, 1 / (1 - p), OPERATIONS["forward"])
    check_result(cd.dropout(x, p, rng=stream, out=y), x, expectation)
    check_result(mask.apply(x, out=y), x, expectation)
    medians = interleaved_medians(
        {
            "np.multiply(x, s, out=y)": lambda: np.multiply(x, scale, out=y),
            "dropout(x, p, rng=stream, out=y)": lambda: cd.dropout(x, p, rng=stream, out=y),
            "mask.apply(x, out=y)": lambda: mask.apply(x, out=y),
            "np.multiply(x, s), fresh": lambda: np.multiply(x, scale),
            "dropout(x, p, rng=stream), fresh": lambda: cd.dropout(x, p, rng=stream),
            "layer.forward(x), fresh": lambda: layer.forward(x),
            # In place, scale 1 and one mask keep the values finite and what is not dropped non-zero.
            "np.multiply(x, 1, out=x)": lambda: np.multiply(in_place, x.dtype.type(1), out=in_place),
            "mask.apply(x, out=x, scale=1)": lambda: mask.apply(in_place, out=in_place, scale=1.0),
        },
        rounds=rounds,
    )
    floors = {
        "out=y": medians["np.multiply(x, s, out=y)"],
        "fresh": medians["np.multiply(x, s), fresh"],
        "out=x": medians["np.multiply(x, 1, out=x)"],
    }
    return [
        (name, seconds / n_elems * 1e9, seconds / next(floor for kind, floor in floors.items() if kind in name))
        for name, seconds in medians.items()
    ]


def main() -> int:
    """Measure every size and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, metavar="N", help="numbers of elements")
    parser.add_argument("--p", type=float, default=0.1, help="the probability of dropping (default: %(default)s)")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--rounds", type=int, default=101, help="rounds a size (default: %(default)s)")
    parser.add_argument(
        "--offset",
        type=int,
        choices=range(64),
        metavar="BYTES",
        help="place the arrays this far past a multiple of 64 (default: where NumPy puts them)",
    )
    arguments = parser.parse_args()
    with threadpool_limits(1):
        print(machine())
        print(f"{arguments.dtype}, p = {arguments.p}, medians of {arguments.rounds} interleaved rounds\n")
        print(f"{'elements':>10}  {'':<34} {'ns/element':>10}  {'ratio':>5}")
        for n_elems in arguments.sizes:
            rows = measure(n_elems, arguments.p, arguments.dtype, arguments.rounds, arguments.offset)
            for name, nanoseconds, ratio in rows:
                print(f"{n_elems:>10}  {name:<34} {nanoseconds:>10.4f}  {ratio:>5.2f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
