"""What a part of a mask costs that is cut along inner axes: `mask[:, :columns].apply(x)` beside np.multiply.

    python benchmarks/parts.py

A row of the part takes a run of the mask's positions. Seeding starts the generator anew for each row; gathering makes
the keep words of whole blocks and copies out the rows' bits. The library gathers where rows are at most
max_gathered_stride positions apart (src/core/job.c): that number comes from this table.
"""

import argparse
import sys

import numpy as np
from command_line import parse_positive
from threadpoolctl import threadpool_limits
from timing import interleaved_medians, machine

import cdropout as cd
from cdropout import _kernels

N_ELEMS = 1 << 20
MAX_GATHERED_STRIDE = _kernels.get_limits()["max_gathered_stride"]
STRIDES = (16, 64, 256, 1024, 2048, 4096, 16_384, 65_536)


def measure(stride: int, columns: int, rounds: int) -> dict[str, float]:
    """Return the seconds of each way to apply a part of this many columns, in rows this many positions apart."""
    n_rows = N_ELEMS // columns
    x = np.random.default_rng(0).standard_normal((n_rows, columns), dtype=np.float32)
    y, scale = np.empty_like(x), np.float32(1 / 0.9)
    part = cd.Mask(1, 0, 0.1, (n_rows, stride))[:, :columns]

    def apply(max_gathered_stride: int) -> None:
        _kernels.set_limits(max_gathered_stride=max_gathered_stride)
        part.apply(x, out=y)

    contenders = {
        "multiply": lambda: np.multiply(x, scale, out=y),
        "seeded": lambda: apply(0),
        "gathered": lambda: apply(stride),
        "chosen": lambda: apply(MAX_GATHERED_STRIDE),
    }
    try:
        return interleaved_medians(contenders, rounds=rounds)
    finally:
        _kernels.set_limits(max_gathered_stride=MAX_GATHERED_STRIDE)


def main() -> int:
    """Measure every stride with parts of all, half and an eighth of its columns, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=parse_positive, default=31, help="rounds a row (default: %(default)s)")
    arguments = parser.parse_args()
    print(machine())
    print(f"float32, p = 0.1, {N_ELEMS} elements, one thread, medians of {arguments.rounds} interleaved rounds")
    print("times np.multiply(x, s, out=y)\n")
    print(f"{'columns of':>10} {'stride':>7}  {'seeded':>8} {'gathered':>8} {'chosen':>8}")
    with threadpool_limits(1):
        for stride in STRIDES:
            for columns in (stride // 8, stride // 2, stride - 1):
                seconds = measure(stride, columns, arguments.rounds)
                ratios = [seconds[name] / seconds["multiply"] for name in ("seeded", "gathered", "chosen")]
                print(f"{columns:>10} {stride:>7}  " + " ".join(f"{ratio:>8.2f}" for ratio in ratios), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
