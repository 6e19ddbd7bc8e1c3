"""Frameworks with their own dropout and with this library's, side by side in one run.

    python benchmarks/frameworks.py

Measures what is installed: thinc (a mask of (512, 768)) and Keras on its NumPy backend (a layer's forward pass), one
thread. KERAS_BACKEND is set to numpy.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Callable

import numpy as np
from command_line import parse_positive
from threadpoolctl import threadpool_limits
from timing import interleaved_medians, machine

Calls = dict[str, Callable[[], object]]
SHAPES = ((128, 512), (512, 768), (1024, 4096))


def of_thinc(shape: tuple[int, int]) -> Calls:
    """Return thinc's way to a mask, and this library's; both are checked."""
    thinc_api, ours = importlib.import_module("thinc.api"), importlib.import_module("cdropout.thinc")
    operations = {"thinc": thinc_api.NumpyOps(), "cdropout": ours.CDropoutOps()}
    for name, ops in operations.items():
        kept = ops.get_dropout_mask((1000, 1000), 0.1) > 0
        if abs(kept.mean() - 0.9) > 0.002:
            raise AssertionError(f"{name}: the share kept must be 0.9, got {kept.mean()}")
    return {name: lambda ops=ops: ops.get_dropout_mask(shape, 0.1) for name, ops in operations.items()}


def of_keras(shape: tuple[int, int]) -> Calls:
    """Return a layer's forward pass with Keras's function, and with this library's."""
    os.environ["KERAS_BACKEND"] = "numpy"
    keras, ours = importlib.import_module("keras"), importlib.import_module("cdropout.keras")
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    layer = keras.layers.Dropout(0.1, seed=1)

    def forward(switch: Callable[[], None]) -> object:
        switch()
        return layer(x, training=True)

    return {"keras": lambda: forward(ours.disable), "cdropout": lambda: forward(ours.enable)}


FRAMEWORKS: dict[str, Callable[[tuple[int, int]], Calls]] = {"thinc": of_thinc, "keras": of_keras}


def main() -> int:
    """Measure each framework that is installed, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=parse_positive, default=31, help="(default: %(default)s)")
    arguments = parser.parse_args()
    with threadpool_limits(1):
        print(machine())
        print(f"float32, p = 0.1, medians of {arguments.rounds} interleaved rounds\n")
        print(f"{'':<10} {'shape':>14} {'its own, ms':>12} {'cdropout, ms':>13} {'faster':>7}")
        for name, make in FRAMEWORKS.items():
            for shape in SHAPES:
                try:
                    calls = make(shape)
                except ImportError as error:
                    print(f"{name:<10} not measured: {error}")
                    break
                medians = interleaved_medians(calls, rounds=arguments.rounds)
                own, ours = (1e3 * seconds for seconds in medians.values())
                print(f"{name:<10} {shape!s:>14} {own:>12.4f} {ours:>13.4f} {own / ours:>6.1f}x", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
