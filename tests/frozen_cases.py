"""The 64 cases whose digests freeze stream version 1: what each case draws, applies and hashes.

The inputs are made with integer arithmetic only and the results are hashed as little-endian bytes, so that a program in
any language on any machine can compute the digests; tests/frozen_cases.c does so with the C core alone.
"""

import hashlib
import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import reference

DIGESTS = Path(__file__).parent / "vectors/frozen_digests.json"

DTYPES = ("float32", "float64", "float16", "bfloat16")
# Bits of the fraction, and bias of the exponent.
FORMATS = {"float32": (23, 127), "float64": (52, 1023), "float16": (10, 15), "bfloat16": (7, 127)}

# Numbers for alpha_dropout and the noise; none is exact in any dtype.
SCALE, SHIFT, FILL, STD = 0.8873, 0.1939, -1.4731, 0.7

KEYS = (*map(reference.key_of_seed, (0, 1, 2**200 + 17)), 0, 1, 2**128 - 1, 0x0123456789ABCDEFFEDCBA9876543210)
# Positions inside a block, near its end, near 2^31, 2^32 and 2^63, where a block's index passes 2^32, and at the end.
STARTS = (0, 70, 4095, 2**31 - 100, 2**32 - 4097, 2**44 - 100, 2**63 - 1, 2**64 - 4096 - 15_070)
# 1.5 / 65536 lies between two values of the 16-bit comparison; 0.3 + 2^-40 differs from 0.3 only in its ties.
PROBABILITIES = (0.1, 0.3, 0.5, 1e-6, 0.9, 1 / 3, 0.3 + 2**-40, 0.2, 1 - 2**-20, 0.75, 1.5 / 65536)

# Most inner axes are no multiple of a group's 64 elements.
SHAPE = (75, 200)
FUSED = ("relu_dropout", "bias_relu_dropout", "dropout_add", "bias_dropout_add", "choose")
SHARED = (((5, 3001), (0,)), ((300, 50), (1,)), ((12, 4, 300), (1,)), ((3, 70, 64), (0, 2)))


@dataclass(frozen=True)
class FrozenCase:
    """An operation on one array: its dtype and shape, the stream's key and position, and p."""

    operation: str  # a row of CDROPOUT_OPERATIONS, keep, raw, add_noise or multiply_by_noise
    dtype: str  # of the result
    key: int
    start: int
    p: float
    shape: tuple[int, ...]
    shared_axes: tuple[int, ...] = ()

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "FrozenCase":
        return cls(
            fields["operation"],
            fields["dtype"],
            int(fields["key"], 16),
            fields["start"],
            float.fromhex(fields["p"]),
            tuple(fields["shape"]),
            tuple(fields["shared_axes"]),
        )

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "key": f"{self.key:032x}", "p": self.p.hex()}

    def __str__(self) -> str:
        return f"{self.operation}-{self.dtype}-{self.start:x}-{self.p:.3g}"

    @property
    def scale(self) -> float:
        return SCALE if self.operation == "alpha_dropout" else 1 / (1 - self.p)

    def inputs(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
        """Return x, the residual, both of the case's shape, and the bias, with one number for each column."""
        n_elems = math.prod(self.shape)
        return (
            numbers(self.dtype, n_elems, salt=1).reshape(self.shape),
            numbers(self.dtype, n_elems, salt=2).reshape(self.shape),
            numbers(self.dtype, self.shape[-1], salt=3),
        )

    def expected(self) -> npt.NDArray[Any]:
        """Return the model's result (tests/reference.py)."""
        if self.operation == "raw":
            n_blocks = self.shape[0] // 8192
            return np.frombuffer(reference.raw_bytes(self.key, self.start // 4096, n_blocks), np.uint8)
        kept = reference.keep_of_shape(self.key, self.start, self.shape, self.p, self.shared_axes)
        if self.operation == "keep":
            return kept
        x, residual, bias = self.inputs()
        if self.operation.endswith("_noise"):
            normals = reference.normals(self.key, self.start, x.size).reshape(x.shape)
            apply = reference.add_noise if self.operation == "add_noise" else reference.multiply_by_noise
            return apply(x, normals, STD)
        if self.operation == "choose":
            return np.where(kept, x, residual)
        return reference.operate(
            np.ones_like(x) if self.operation == "fill_scaled" else x,
            kept,
            self.scale,
            bias=bias if "bias" in self.operation else None,
            relu="relu" in self.operation,
            shift=SHIFT if self.operation == "alpha_dropout" else 0.0,
            fill=FILL if self.operation == "alpha_dropout" else 0.0,
            residual=residual if self.operation.endswith("_add") else None,
        )

    def line(self) -> str:
        """Return the line that frozen_cases.c reads: the shape as runs of positions, numbers as kernels take them."""
        n_rows, n_sharing, n_elems, n_repeats = rows_of(self.shape, self.shared_axes)
        threshold, tie_threshold = reference.thresholds(self.p)
        assert "bias" not in self.operation or 64 <= self.shape[-1] <= 4096, "the program lays out no other bias"
        is_noise, is_16_bits = self.operation.endswith("_noise"), self.dtype in reference.SCALE_BITS
        scale = STD if is_noise else self.scale
        if is_16_bits and not is_noise:
            scale = reference.rounded_to_bits(scale, reference.SCALE_BITS[self.dtype])
        places = (self.key >> 64, self.key & 2**64 - 1, self.start, threshold, tie_threshold)
        reals = (number.hex() for number in (scale, SHIFT, FILL))
        lengths = (n_rows, n_sharing, n_elems, n_repeats, self.shape[-1])
        return " ".join(map(str, (self.operation, self.dtype, *places, *reals, *lengths)))


def numbers(dtype: str, n_elems: int, salt: int) -> npt.NDArray[Any]:
    """Return numbers of both signs from 2^-8 to 2^8, with a few subnormal ones and zeros, made from their bits."""
    fraction_bits, bias = FORMATS[dtype]
    numpy_dtype = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    i = np.arange(n_elems, dtype=np.uint64)
    # Multiples of the golden ratio (Knuth, The Art of Computer Programming 3, section 6.4), mixed once.
    h = (i * np.uint64(8) + np.uint64(salt)) * np.uint64(0x9E3779B97F4A7C15)
    h ^= h >> np.uint64(29)
    fraction = h >> np.uint64(8) & np.uint64(2**fraction_bits - 1)
    exponent = np.where(i % 61 == 0, np.uint64(0), np.uint64(bias - 8) + (h >> np.uint64(60)))
    fraction = np.where(i % 67 == 0, np.uint64(0), fraction)
    sign = (h & np.uint64(1)) << np.uint64(8 * numpy_dtype.itemsize - 1)
    return (sign | exponent << np.uint64(fraction_bits) | fraction).astype(f"u{numpy_dtype.itemsize}").view(numpy_dtype)


def rows_of(shape: tuple[int, ...], shared_axes: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Return a shape as rows of one run of positions each: the number of rows, the number of neighbours that share a
    run, the run's length, and the number of elements that each position covers.
    """
    lengths = list(shape)
    n_repeats = n_sharing = 1
    n_elems = 1
    while len(lengths) - 1 in shared_axes:
        n_repeats *= lengths.pop()
    while lengths and len(lengths) - 1 not in shared_axes:
        n_elems *= lengths.pop()
    while len(lengths) - 1 in shared_axes:
        n_sharing *= lengths.pop()
    assert not set(range(len(lengths))) & set(shared_axes)
    return math.prod(lengths) * n_sharing, n_sharing, n_elems, n_repeats


def little_endian_bytes(result: npt.NDArray[Any]) -> bytes:
    """Return an array's elements in C order, each as little-endian bytes: the same on big-endian machines."""
    elements = np.ascontiguousarray(result).view(f"u{result.itemsize}")
    return elements.astype(f"<u{result.itemsize}").tobytes()


def digest(result: npt.NDArray[Any]) -> str:
    """Return the SHA-256 of an array's elements, in C order, each as little-endian bytes."""
    return hashlib.sha256(little_endian_bytes(result)).hexdigest()


def frozen_cases() -> Iterator[FrozenCase]:
    """Yield all 64 cases; keys, starts and probabilities are cycled separately, which gives many combinations."""
    places = zip(itertools.cycle(KEYS), itertools.cycle(STARTS), itertools.cycle(PROBABILITIES), strict=False)

    def case(operation: str, dtype: str, shape: tuple[int, ...], shared_axes: tuple[int, ...] = ()) -> FrozenCase:
        key, start, p = next(places)
        if operation in (*FUSED, "raw"):  # their draws from a stream start at a block
            start -= start % 4096
        return FrozenCase(operation, dtype, key, start, p, shape, shared_axes)

    yield from (case("raw", "uint8", (2 * 8192,)) for _ in range(4))
    yield from (case("keep", "bool", (n,)) for n in (1, 63, 64, 65, 4095, 4096, 4097, 12_295, 15_000, 15_001))
    yield from (case("apply_mask", dtype, (n,)) for n in (15_001, 4097, 300) for dtype in DTYPES)
    yield from (case("apply_mask", dtype, *shared) for dtype, shared in zip(DTYPES * 2, SHARED * 2, strict=True))
    yield from (case("fill_scaled", dtype, (9001,)) for dtype in DTYPES)
    yield from (case(operation, dtype, SHAPE) for operation in FUSED for dtype in ("float32", "bfloat16"))
    yield from (case("bias_dropout_add", dtype, SHAPE) for dtype in ("float64", "float16"))
    yield from (case("alpha_dropout", dtype, (9001,)) for dtype in DTYPES)
    yield from (case("alpha_dropout", dtype, *shared) for dtype, shared in zip(DTYPES[:2], SHARED[:2], strict=True))
    yield from (case("add_noise", dtype, (9001,)) for dtype in DTYPES)
    yield from (case("multiply_by_noise", dtype, (9001,)) for dtype in DTYPES)


def frozen_digests() -> dict[FrozenCase, str]:
    """Return the cases of the committed file with their SHA-256 digests."""
    return {FrozenCase.from_json(case): case["sha256"] for case in json.loads(DIGESTS.read_text())["cases"]}
