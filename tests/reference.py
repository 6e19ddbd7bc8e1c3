"""An independent, slow model of the stream specification (docs/design.md, "The stream, version 1"): the oracle.

It shares no code with the library and is written from the text: one function for each paragraph, in NumPy and Python
integers. Tests compare the library with it bit for bit.
"""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

ELEMS_PER_GROUP = 64
GROUPS_PER_BLOCK = 64
ELEMS_PER_BLOCK = ELEMS_PER_GROUP * GROUPS_PER_BLOCK
LANES = 16
MASK32 = 0xFFFFFFFF

U64 = npt.NDArray[np.uint64]


def key_of_seed(seed: int | np.random.SeedSequence) -> int:
    """The stream's 128-bit key: two 64-bit words of NumPy's SeedSequence, the first one lowest."""
    seeds = seed if isinstance(seed, np.random.SeedSequence) else np.random.SeedSequence(seed)
    low, high = seeds.generate_state(2, np.uint64)
    return int(low) | int(high) << 64


def philox4x32_10(counter: tuple[int, int, int, int], key: int) -> tuple[int, int, int, int]:
    """Philox4x32 with ten rounds, on Python integers (Salmon et al., SC 2011)."""
    c0, c1, c2, c3 = counter
    k0, k1 = key & MASK32, key >> 32 & MASK32
    for _ in range(10):
        left, right = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (right >> 32) ^ c1 ^ k0, right & MASK32, (left >> 32) ^ c3 ^ k1, left & MASK32
        k0, k1 = (k0 + 0x9E3779B9) & MASK32, (k1 + 0xBB67AE85) & MASK32
    return c0, c1, c2, c3


def philox_of_tag(key: int, block: int, tag: int) -> tuple[int, int, int, int]:
    """Philox for one use (tag) in one block of the stream called key."""
    stream_id = key >> 64
    counter = (block & MASK32, block >> 32 | tag << 20, stream_id & MASK32, stream_id >> 32)
    return philox4x32_10(counter, key & 0xFFFFFFFFFFFFFFFF)


def lane_states(key: int, block: int) -> U64:
    """The 16 lanes' starting states, shape (2, 16)."""
    words = [philox_of_tag(key, block, lane) for lane in range(LANES)]
    return np.array(
        [[w[0] | w[1] << 32 for w in words], [w[2] | w[3] << 32 for w in words]],
        np.uint64,
    )


def rotated_left(words: U64, n_bits: int) -> U64:
    return words << np.uint64(n_bits) | words >> np.uint64(64 - n_bits)


def block_outputs(key: int, block: int) -> U64:
    """What the lanes give in a block's 64 steps, shape (64, 16): xoroshiro128++ (Blackman & Vigna, 2021)."""
    s0, s1 = lane_states(key, block)
    steps = []
    for _ in range(GROUPS_PER_BLOCK):
        steps.append(rotated_left(s0 + s1, 17) + s0)
        s1 = s1 ^ s0
        s0 = rotated_left(s0, 49) ^ s1 ^ s1 << np.uint64(21)
        s1 = rotated_left(s1, 28)
    return np.array(steps)


def raw_bytes(key: int, first_block: int, n_blocks: int) -> bytes:
    """The lanes' outputs, step by step, little-endian."""
    return b"".join(block_outputs(key, first_block + b).astype("<u8").tobytes() for b in range(n_blocks))


def block_numbers(key: int, block: int) -> npt.NDArray[np.int64]:
    """The signed 16-bit numbers of a block's 4096 elements."""
    words = block_outputs(key, block).astype("<u8").view("<u4").reshape(GROUPS_PER_BLOCK, 32)
    upper, lower = words >> np.uint32(16), words & np.uint32(0xFFFF)
    unsigned = np.concatenate([upper, lower], axis=1).reshape(-1).astype(np.int64)
    return np.where(unsigned < 2**15, unsigned, unsigned - 2**16)


def thresholds(p: float) -> tuple[int, int]:
    """The signed 16-bit threshold and the 32 bits that decide its ties, exactly."""
    in_2_48 = int(Fraction(p) * 2**48)
    return (in_2_48 >> 32) - 2**15, in_2_48 & MASK32


def drop_probability(p: float) -> Fraction:
    """P(drop), by arithmetic over the two stages."""
    if p == 1:
        return Fraction(1)
    threshold, tie_threshold = thresholds(p)
    return Fraction(threshold + 2**15, 2**16) + Fraction(1, 2**16) * Fraction(tie_threshold, 2**32)


def block_keep(key: int, block: int, p: float) -> npt.NDArray[np.bool_]:
    """Which of a block's 4096 elements are kept."""
    if p == 1:
        return np.zeros(ELEMS_PER_BLOCK, bool)
    threshold, tie_threshold = thresholds(p)
    numbers = block_numbers(key, block)
    keep = numbers >= threshold
    for elem in np.flatnonzero(numbers == threshold):
        tie_number = philox_of_tag(key, block, 1024 + int(elem) // 4)[int(elem) % 4]
        keep[elem] = tie_number >= tie_threshold
    return keep


def keep(key: int, start: int, n_elems: int, p: float) -> npt.NDArray[np.bool_]:
    """Which of the elements start .. start + n_elems - 1 of the stream are kept."""
    if n_elems == 0:
        return np.zeros(0, bool)
    first, last = start // ELEMS_PER_BLOCK, (start + n_elems - 1) // ELEMS_PER_BLOCK
    whole = np.concatenate([block_keep(key, block, p) for block in range(first, last + 1)])
    skip = start - first * ELEMS_PER_BLOCK
    return whole[skip : skip + n_elems]


def keep_of_shape(
    key: int, start: int, shape: tuple[int, ...], p: float, shared_axes: tuple[int, ...] = ()
) -> npt.NDArray[np.bool_]:
    """The keep array of a mask: drawn with length 1 along the shared axes, then repeated along them."""
    drawn = tuple(1 if axis in shared_axes else n for axis, n in enumerate(shape))
    n_elems = 0 if 0 in shape else int(np.prod(drawn, dtype=object))
    bits = keep(key, start, n_elems, p)
    return np.zeros(shape, bool) if 0 in shape else np.broadcast_to(bits.reshape(drawn), shape)


def rounded_to_bits(value: float, n_bits: int) -> float:
    """The value with a significand of n_bits bits, ties to even."""
    fraction, exponent = math.frexp(value)
    return math.ldexp(round(math.ldexp(fraction, n_bits)), exponent - n_bits)


# A dtype's name -> the bits of its scale: a significand of 11 (8) bits times one of 13 (16) bits is exact in float32.
SCALE_BITS = {"float16": 13, "bfloat16": 16}


def apply(x: npt.NDArray[Any], kept: npt.NDArray[np.bool_], scale: float) -> npt.NDArray[Any]:
    """Multiply where kept: x * scale, rounded once to x's dtype; +0.0 elsewhere."""
    with np.errstate(all="ignore"):
        if x.dtype.name in SCALE_BITS:
            exact = x.astype(np.float32) * np.float32(rounded_to_bits(scale, SCALE_BITS[x.dtype.name]))
            return np.where(kept, exact, np.float32(0)).astype(x.dtype)
        return np.where(kept, x * x.dtype.type(scale), x.dtype.type(0))
