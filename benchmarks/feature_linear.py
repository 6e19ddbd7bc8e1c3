"""What FeatureDropoutLinear saves: forward and backward passes against the same layer without dropout.

    python benchmarks/feature_linear.py [--p P ...] [--shapes N,IN,OUT ...]

The library's rule (gathering_pays in cdropout/linear.py) comes from this table: "gathered" is the time where the
smaller products are always made, "full" where they never are, "rule" what the layer does; each over the layer in
evaluation.
"""

import argparse
import sys
from unittest import mock

import numpy as np
from command_line import parse_p, parse_positive
from threadpoolctl import threadpool_limits
from timing import interleaved_medians, machine

import cdropout as cd
from cdropout import linear

SHAPES = (
    (32, 512, 512),
    (128, 512, 512),
    (128, 1024, 1024),
    (128, 2048, 2048),
    (512, 512, 2048),
    (1024, 1024, 4096),
    (1024, 4096, 1024),
)
PS = (0.05, 0.2, 0.5, 0.8)


def parse_shape(text: str) -> tuple[int, int, int]:
    """Parse the numbers of samples, inputs and outputs, such as 128,2048,2048."""
    parts = text.split(",")
    if len(parts) != 3:
        raise argparse.ArgumentTypeError(f"a shape must be three integers, such as 128,2048,2048, got {text!r}")
    n_samples, n_in, n_out = (parse_positive(part) for part in parts)
    return n_samples, n_in, n_out


def measure(shape: tuple[int, int, int], p: float, rounds: int, dtype: str) -> dict[str, float]:
    """Time forward and backward passes; return each way's median over that of no dropout."""
    n_samples, n_in, n_out = shape
    rng = np.random.default_rng(0)
    x, dy = (rng.standard_normal((n_samples, n)).astype(dtype) for n in (n_in, n_out))
    layer = cd.FeatureDropoutLinear(n_in, n_out, p, rng=1, dtype=dtype)

    def step(*, training: bool, gathers: bool | None) -> None:
        layer.training = training
        rule = linear.gathering_pays if gathers is None else lambda *_: gathers
        with mock.patch.object(linear, "gathering_pays", rule):
            layer.forward(x)
            layer.backward(dy)

    medians = interleaved_medians(
        {
            "none": lambda: step(training=False, gathers=None),
            "full": lambda: step(training=True, gathers=False),
            "gathered": lambda: step(training=True, gathers=True),
            "rule": lambda: step(training=True, gathers=None),
        },
        rounds=rounds,
        seconds_per_turn=0.01,
    )
    return {name: seconds / medians["none"] for name, seconds in medians.items()} | {"ms": 1e3 * medians["none"]}


def main() -> int:
    """Measure every shape and p, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--shapes", type=parse_shape, nargs="+", default=SHAPES, metavar="N,IN,OUT", help="samples, inputs, outputs")
    add("--p", type=parse_p, nargs="+", default=PS, metavar="P", help="probabilities of dropping")
    add("--rounds", type=parse_positive, default=15, help="rounds a case (default: %(default)s)")
    add("--threads", type=parse_positive, default=1, help="of BLAS and dropout (default: %(default)s)")
    add("--dtype", choices=("float32", "float64"), default="float32")
    arguments = parser.parse_args()
    with threadpool_limits(arguments.threads):
        print(machine())
        print(f"{arguments.dtype}, medians of {arguments.rounds} interleaved rounds, over the layer without dropout\n")
        print(f"{'samples x in x out':>20} {'none, ms':>9} {'p':>5} {'full':>6} {'gathered':>9} {'rule':>6}")
        for shape in arguments.shapes:
            for p in arguments.p:
                found = measure(shape, p, arguments.rounds, arguments.dtype)
                name = " x ".join(map(str, shape))
                print(
                    f"{name:>20} {found['ms']:>9.3f} {p:>5.2f} {found['full']:>6.2f} {found['gathered']:>9.2f} "
                    f"{found['rule']:>6.2f}{'' if linear.gathering_pays(shape[0], shape[1:], p) else ' (full)'}",
                    flush=True,
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
