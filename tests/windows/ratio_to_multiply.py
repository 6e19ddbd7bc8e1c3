"""Print the time of dropout at 65,536 float32 elements, over that of np.multiply, for AVX-512 and AVX2.

    python tests/windows/ratio_to_multiply.py [SECONDS]
    python tests/windows/under_wine.py --run tests/windows/ratio_to_multiply.py [SECONDS]

Compares a build for Windows with one for Linux on the same machine, which may be busy: each time is the least of some
thousand, of 20 calls each, taken in turns.
"""

import sys
import time

import numpy as np

import cdropout as cd
from cdropout import _kernels

N_ELEMS, N_CALLS, P = 65_536, 20, 0.1


def least_times(seconds: float) -> dict[str, float]:
    """Return the least time of a call in nanoseconds, by name."""
    x = np.random.default_rng(0).standard_normal(N_ELEMS, dtype=np.float32)
    y, scale, stream = np.empty_like(x), np.float32(1 / (1 - P)), cd.Stream(1)
    calls = {
        "np.multiply(x, s, out=y)": lambda: np.multiply(x, scale, out=y),
        "dropout(x, p, rng=stream, out=y)": lambda: cd.dropout(x, P, rng=stream, out=y),
    }
    least = dict.fromkeys(calls, float("inf"))
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for name, call in calls.items():
            began = time.perf_counter_ns()
            for _ in range(N_CALLS):
                call()
            least[name] = min(least[name], (time.perf_counter_ns() - began) / N_CALLS)
    return least


def main() -> None:
    """Run the command."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 15
    print(f"{sys.platform}, Python {sys.version.split()[0]}, NumPy {np.__version__}; chosen: {_kernels.active_isa()}")
    for isa in ("avx512", "avx2"):
        if isa in _kernels.supported_isas():
            _kernels.use_isa(isa)
            floor, ours = least_times(seconds).values()
            print(f"{isa}: {ours:.0f} ns over {floor:.0f} ns, ratio {ours / floor:.2f}")


if __name__ == "__main__":
    main()
