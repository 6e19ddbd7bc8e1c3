"""Compare PyTorch's attention without dropout, with its own, and with this library's.

p = 0.1, forward and backward, full and causal, float32 and bfloat16, on one and two threads. A ratio is the median over
the rounds of one call's time to that of PyTorch's fast kernel without dropout in the same round. Outputs and gradients
are compared first, at a p so small that nothing is dropped.

--python times this library without its C++ part, too. --pieces times that with other amounts of scores in memory at a
time. On a processor with AVX-512, `CDROPOUT_ISA=avx2 ATEN_CPU_CAPABILITY=avx2` in the environment limits both sides to
AVX2, except that PyTorch's matrix products of bfloat16 still use what the processor has.
"""

import argparse
import statistics
from collections.abc import Callable

import torch
from threadpoolctl import threadpool_limits
from torch.nn import functional

import cdropout.torch as ct
from benchmarks.options import parse_positive
from benchmarks.timing import interleaved_medians, interleaved_times, introduce
from cdropout.torch import attention, native_library

P = 0.1
DROPS_NOTHING = 1e-300
# batch, heads, queries and keys, features
SHAPES = ((8, 12, 128, 64), (2, 12, 512, 64), (1, 8, 2048, 64))
TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
PIECES = tuple(1 << power for power in range(18, 24))
SHARED_OPTIONS = {"rounds": 11}

Call = Callable[[], list[torch.Tensor]]


def passes(
    attend: Callable[..., torch.Tensor], shape: tuple[int, ...], p: float, dtype: torch.dtype, is_causal: bool
) -> Call:
    """Return a call that makes a forward and a backward pass, and returns the output and the three gradients."""
    generator = torch.Generator().manual_seed(0)
    batch, heads, rows, width = shape
    # In networks, these are parts of an array (batch, rows, heads, features).
    inputs = [torch.randn(batch, rows, heads, width, generator=generator).transpose(1, 2) for _ in range(3)]
    inputs = [t.to(dtype).detach().requires_grad_() for t in inputs]
    dy = torch.randn(shape, generator=generator).to(dtype)

    def call() -> list[torch.Tensor]:
        y = attend(*inputs, dropout_p=p, is_causal=is_causal)
        return [y, *torch.autograd.grad(y, inputs, dy)]

    return call


def without_native(call: Call) -> Call:
    """Return a call of this library's attention in Python."""

    def in_python() -> list[torch.Tensor]:
        before, native_library._State.is_loaded = native_library._State.is_loaded, False
        found = call()
        native_library._State.is_loaded = before
        return found

    return in_python


def check(shape: tuple[int, ...], dtype: torch.dtype, is_causal: bool) -> None:
    """Raise unless this library's attention equals PyTorch's if nothing is dropped."""
    ours = passes(ct.scaled_dot_product_attention, shape, DROPS_NOTHING, dtype, is_causal)()
    theirs = passes(functional.scaled_dot_product_attention, shape, 0.0, dtype, is_causal)()
    tolerance = TOLERANCES[dtype]
    for name, a, b in zip(("output", "dquery", "dkey", "dvalue"), ours, theirs, strict=True):
        if not torch.allclose(a, b, rtol=tolerance, atol=tolerance):
            raise AssertionError(f"{shape}: {name} must be PyTorch's, differs by up to {(a - b).abs().max()}")


def ours_with(n_bytes: int, shape: tuple[int, ...]) -> Callable[[], object]:
    """Return a call of this library's attention in Python that works on n_bytes of scores at a time."""
    call = without_native(passes(ct.scaled_dot_product_attention, shape, P, torch.float32, False))

    def with_pieces() -> None:
        before, attention._BYTES_AT_ONCE = attention._BYTES_AT_ONCE, n_bytes
        call()
        attention._BYTES_AT_ONCE = before

    return with_pieces


def compare(shape: tuple[int, ...], dtype: torch.dtype, is_causal: bool, rounds: int, with_python: bool) -> str:
    """Return a line of times and ratios."""
    check(shape, dtype, is_causal)
    settings = (dtype, is_causal)
    calls = {
        "without": passes(functional.scaled_dot_product_attention, shape, 0.0, *settings),
        "its own": passes(functional.scaled_dot_product_attention, shape, P, *settings),
        "cdropout": passes(ct.scaled_dot_product_attention, shape, P, *settings),
    }
    if with_python:
        calls["in Python"] = without_native(calls["cdropout"])
    times = interleaved_times(calls, rounds=rounds)
    figures = []
    for name, seconds in times.items():
        ratio = statistics.median(a / b for a, b in zip(seconds, times["without"], strict=True))
        figures.append(f"{name} {1e3 * statistics.median(seconds):8.2f}" + f" ({ratio:.2f})" * (name != "without"))
    kind = f"{str(dtype).removeprefix('torch.')}, {'causal' if is_causal else 'full'}"
    return f"{shape!s:>20}  {kind:<16}  " + "  ".join(figures)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add --python, --pieces, --shape and --threads."""
    parser.add_argument("--python", action="store_true", help="also this library without its C++ part")
    parser.add_argument("--pieces", action="store_true", help="in Python, other amounts of scores in memory at a time")
    parser.add_argument("--shape", type=parse_positive, nargs=4, metavar="N", help="one shape instead of three")
    parser.add_argument("--threads", type=parse_positive, nargs="+", default=[1, 2], metavar="N", help="1 2 by default")


def run(arguments: argparse.Namespace) -> None:
    """Check, measure and print a line for each setting."""
    native_library.load()
    shapes = [tuple(arguments.shape)] if arguments.shape else SHAPES
    for n_threads in [1] if arguments.pieces else arguments.threads:
        torch.set_num_threads(n_threads)
        with threadpool_limits(n_threads):
            setting = f"PyTorch {torch.__version__}, p = {P}, threads: {n_threads}"
            introduce(setting, arguments.rounds, ", ms (ratio to without dropout)")
            for shape in shapes:
                if arguments.pieces:
                    pieces = {f"{n_bytes >> 10} KiB": ours_with(n_bytes, shape) for n_bytes in PIECES}
                    medians = interleaved_medians(pieces, rounds=arguments.rounds)
                    figures = "  ".join(f"{name} {1e3 * s:.2f}" for name, s in medians.items())
                    print(f"{shape!s:>20}  {figures}", flush=True)
                    continue
                for dtype in TOLERANCES:
                    for is_causal in (False, True):
                        print(compare(shape, dtype, is_causal, arguments.rounds, arguments.python), flush=True)
