"""Compare PyTorch's attention without dropout, with its own, and with this library's.

float32, p = 0.1, one thread, forward and backward. Outputs and gradients are compared first, at a p so small that
nothing is dropped. --pieces times this library's attention with other amounts of scores in memory at a time.
"""

import argparse
from collections.abc import Callable

import torch
from threadpoolctl import threadpool_limits
from torch.nn import functional

import cdropout.torch as ct
from benchmarks.options import parse_positive
from benchmarks.timing import interleaved_medians, introduce

P = 0.1
DROPS_NOTHING = 1e-300
# batch, heads, queries and keys, features
SHAPES = ((8, 12, 128, 64), (2, 12, 512, 64), (1, 8, 2048, 64))
PIECES = tuple(1 << power for power in range(18, 24))
SHARED_OPTIONS = {"rounds": 11}


def passes(attend: Callable[..., torch.Tensor], shape: tuple[int, ...], p: float) -> Callable[[], list[torch.Tensor]]:
    """Return a call that makes a forward and a backward pass, and returns the output and the three gradients."""
    generator = torch.Generator().manual_seed(0)
    batch, heads, rows, width = shape
    # In networks, these are parts of an array (batch, rows, heads, features).
    inputs = [torch.randn(batch, rows, heads, width, generator=generator).transpose(1, 2) for _ in range(3)]
    inputs = [t.detach().requires_grad_() for t in inputs]
    dy = torch.randn(shape, generator=generator)

    def call() -> list[torch.Tensor]:
        y = attend(*inputs, dropout_p=p)
        return [y, *torch.autograd.grad(y, inputs, dy)]

    return call


def check(shape: tuple[int, ...]) -> None:
    """Raise unless this library's attention equals PyTorch's if nothing is dropped."""
    ours = passes(ct.scaled_dot_product_attention, shape, DROPS_NOTHING)()
    theirs = passes(functional.scaled_dot_product_attention, shape, 0.0)()
    for name, a, b in zip(("output", "dquery", "dkey", "dvalue"), ours, theirs, strict=True):
        if not torch.allclose(a, b, rtol=1e-4, atol=1e-4):
            raise AssertionError(f"{shape}: {name} must be PyTorch's, differs by up to {(a - b).abs().max()}")


def ours_with(n_bytes: int, shape: tuple[int, ...]) -> Callable[[], object]:
    """Return a call of this library's attention that works on n_bytes of scores at a time."""
    call = passes(ct.scaled_dot_product_attention, shape, P)

    def with_pieces() -> None:
        before, ct._BYTES_AT_ONCE = ct._BYTES_AT_ONCE, n_bytes
        call()
        ct._BYTES_AT_ONCE = before

    return with_pieces


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add --pieces and --shape."""
    parser.add_argument("--pieces", action="store_true", help="other amounts of scores in memory at a time")
    parser.add_argument("--shape", type=parse_positive, nargs=4, metavar="N", help="one shape instead of three")


def run(arguments: argparse.Namespace) -> None:
    """Check, measure and print a line for each shape."""
    torch.set_num_threads(1)
    with threadpool_limits(1):
        introduce(f"PyTorch {torch.__version__}, float32, p = {P}", arguments.rounds, ", ms")
        for shape in [tuple(arguments.shape)] if arguments.shape else SHAPES:
            check(shape)
            calls = {
                "without": passes(functional.scaled_dot_product_attention, shape, 0.0),
                "its own": passes(functional.scaled_dot_product_attention, shape, P),
                "cdropout": passes(ct.scaled_dot_product_attention, shape, P),
            }
            if arguments.pieces:
                calls = {f"{n_bytes >> 10} KiB": ours_with(n_bytes, shape) for n_bytes in PIECES}
            medians = interleaved_medians(calls, rounds=arguments.rounds)
            print(f"{shape!s:>20}  " + "  ".join(f"{name} {1e3 * s:.2f}" for name, s in medians.items()), flush=True)
