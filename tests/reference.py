"""An independent, slow model of the stream specification (docs/design.md, "The stream, version 1"): the oracle.

It shares no code with the library and is written from the text: one function for each paragraph, in NumPy and Python
integers. Tests compare the library with it bit for bit.
"""

import math
from collections.abc import Callable
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
    """Return the stream's 128-bit key: two 64-bit words of NumPy's SeedSequence, the first one lowest."""
    seeds = seed if isinstance(seed, np.random.SeedSequence) else np.random.SeedSequence(seed)
    low, high = seeds.generate_state(2, np.uint64)
    return int(low) | int(high) << 64


def philox4x32_10(counter: tuple[int, int, int, int], key: int) -> tuple[int, int, int, int]:
    """Return Philox4x32 with ten rounds, on Python integers (Salmon et al., SC 2011)."""
    c0, c1, c2, c3 = counter
    k0, k1 = key & MASK32, key >> 32 & MASK32
    for _ in range(10):
        left, right = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (right >> 32) ^ c1 ^ k0, right & MASK32, (left >> 32) ^ c3 ^ k1, left & MASK32
        k0, k1 = (k0 + 0x9E3779B9) & MASK32, (k1 + 0xBB67AE85) & MASK32
    return c0, c1, c2, c3


def philox_of_tag(key: int, block: int, tag: int) -> tuple[int, int, int, int]:
    """Return Philox for one use (tag) in one block of the stream with this key."""
    stream_id = key >> 64
    counter = (block & MASK32, block >> 32 | tag << 20, stream_id & MASK32, stream_id >> 32)
    return philox4x32_10(counter, key & 0xFFFFFFFFFFFFFFFF)


def lane_states(key: int, block: int) -> U64:
    """Return the 16 lanes' starting states, shape (2, 16)."""
    words = [philox_of_tag(key, block, lane) for lane in range(LANES)]
    return np.array([[w[0] | w[1] << 32 for w in words], [w[2] | w[3] << 32 for w in words]], np.uint64)


def rotated_left(words: U64, n_bits: int) -> U64:
    return words << np.uint64(n_bits) | words >> np.uint64(64 - n_bits)


def block_outputs(key: int, block: int) -> U64:
    """Return the lanes' outputs in a block's 64 steps, shape (64, 16): xoroshiro128++ (Blackman & Vigna, 2021)."""
    s0, s1 = lane_states(key, block)
    steps = []
    for _ in range(GROUPS_PER_BLOCK):
        steps.append(rotated_left(s0 + s1, 17) + s0)
        s1 = s1 ^ s0
        s0 = rotated_left(s0, 49) ^ s1 ^ s1 << np.uint64(21)
        s1 = rotated_left(s1, 28)
    return np.array(steps)


def raw_bytes(key: int, first_block: int, n_blocks: int) -> bytes:
    """Return the lanes' outputs, step by step, as little-endian bytes."""
    return b"".join(block_outputs(key, first_block + b).astype("<u8").tobytes() for b in range(n_blocks))


def block_numbers(key: int, block: int) -> npt.NDArray[np.int64]:
    """Return the signed 16-bit numbers of a block's 4096 elements."""
    words = block_outputs(key, block).astype("<u8").view("<u4").reshape(GROUPS_PER_BLOCK, 32)
    upper, lower = words >> np.uint32(16), words & np.uint32(0xFFFF)
    unsigned = np.concatenate([upper, lower], axis=1).reshape(-1).astype(np.int64)
    return np.where(unsigned < 2**15, unsigned, unsigned - 2**16)


def thresholds(p: float) -> tuple[int, int]:
    """Return the signed 16-bit threshold and the 32-bit threshold for ties, exactly."""
    in_2_48 = int(Fraction(p) * 2**48)
    return (in_2_48 >> 32) - 2**15, in_2_48 & MASK32


def block_keep(key: int, block: int, p: float) -> npt.NDArray[np.bool_]:
    """Return a bool array of a block's 4096 elements, True for kept ones."""
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
    """Return a bool array of the stream's elements start .. start + n_elems - 1, True for kept ones."""
    if n_elems == 0:
        return np.zeros(0, bool)
    first, last = start // ELEMS_PER_BLOCK, (start + n_elems - 1) // ELEMS_PER_BLOCK
    whole = np.concatenate([block_keep(key, block, p) for block in range(first, last + 1)])
    skip = start - first * ELEMS_PER_BLOCK
    return whole[skip : skip + n_elems]


def draws(key: int, start: int, p: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Return True where the stream's element start + i has a number below p[i]: where a mask of that p drops it."""
    first, last = start // ELEMS_PER_BLOCK, (start + p.size - 1) // ELEMS_PER_BLOCK
    numbers = np.concatenate([block_numbers(key, block) for block in range(first, last + 1)])[start % ELEMS_PER_BLOCK :]
    drawn = []
    for i, (number, each) in enumerate(zip(numbers[: p.size].tolist(), p.tolist(), strict=True)):
        threshold, tie_threshold = thresholds(each)
        block, elem = divmod(start + i, ELEMS_PER_BLOCK)
        is_tie_drawn = number == threshold and philox_of_tag(key, block, 1024 + elem // 4)[elem % 4] < tie_threshold
        drawn.append(number < threshold or is_tie_drawn)
    return np.array(drawn, bool)


def select(x: npt.NDArray[Any], kept: npt.NDArray[np.bool_], fill: Any) -> npt.NDArray[Any]:
    """Return the bits of x where kept, and those of fill, as a value of x's dtype, where dropped."""
    return np.where(kept, x, np.asarray(fill).astype(x.dtype))


def keep_of_shape(
    key: int, start: int, shape: tuple[int, ...], p: float, shared_axes: tuple[int, ...] = ()
) -> npt.NDArray[np.bool_]:
    """Return the keep array of a mask: drawn with length 1 along the shared axes, then repeated along them."""
    drawn = tuple(1 if axis in shared_axes else n for axis, n in enumerate(shape))
    n_elems = 0 if 0 in shape else int(np.prod(drawn, dtype=object))
    bits = keep(key, start, n_elems, p)
    return np.zeros(shape, bool) if 0 in shape else np.broadcast_to(bits.reshape(drawn), shape)


def rounded_to_bits(value: float, n_bits: int) -> float:
    """Round a value to a significand of n_bits bits, ties to even."""
    fraction, exponent = math.frexp(value)
    return math.ldexp(round(math.ldexp(fraction, n_bits)), exponent - n_bits)


# A dtype's name -> the bits of its scale: a significand of 11 (8) bits times one of 13 (16) bits is exact in float32.
SCALE_BITS = {"float16": 13, "bfloat16": 16}


def apply(x: npt.NDArray[Any], kept: npt.NDArray[np.bool_], scale: float) -> npt.NDArray[Any]:
    """Return x * scale, rounded once to x's dtype, for kept elements, and +0.0 for dropped ones."""
    with np.errstate(all="ignore"):
        if x.dtype.name in SCALE_BITS:
            exact = x.astype(np.float32) * np.float32(rounded_to_bits(scale, SCALE_BITS[x.dtype.name]))
            return np.where(kept, exact, np.float32(0)).astype(x.dtype)
        return np.where(kept, x * x.dtype.type(scale), x.dtype.type(0))


def keep_outside_squares(dropped: npt.NDArray[np.bool_], side: int) -> npt.NDArray[np.bool_]:
    """Return which pixels are kept, for corners of shape (..., height - side + 1, width - side + 1) that are dropped.

    A pixel lies in a square if, along each axis, a corner is among the `side` pixels that end with it.
    """
    for axis in (-2, -1):
        padding = [(0, 0)] * dropped.ndim
        padding[axis] = (side - 1, side - 1)
        dropped = np.any(np.lib.stride_tricks.sliding_window_view(np.pad(dropped, padding), side, axis), axis=-1)
    return ~dropped


def drop_block2d(
    x: npt.NDArray[Any], p: float, side: int, channels: str, key: int, start: int
) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """Return the result of DropBlock and which elements are kept, for positions from `start` on."""
    height, width, n_channels = x.shape[-2:] + x.shape[-3:-2] if channels == "first" else x.shape[-3:]
    n_rows, n_columns = height - side + 1, width - side + 1
    corners = (*x.shape[:-3], n_channels, n_rows, n_columns)
    gamma = 1.0 if p == 1.0 else min(1.0, p * height * width / (side**2 * n_rows * n_columns))
    kept = keep_outside_squares(~keep_of_shape(key, start, corners, gamma), side)
    kept = kept if channels == "first" else np.moveaxis(kept, -3, -1)
    n_kept = int(np.count_nonzero(kept))
    if n_kept == kept.size:
        return x.copy(), kept
    return apply(x, kept, kept.size / n_kept if n_kept else 1.0), kept


def operate(
    x: npt.NDArray[Any],
    kept: npt.NDArray[np.bool_],
    scale: float,
    *,
    bias: npt.NDArray[Any] | None = None,
    relu: bool = False,
    shift: float = 0.0,
    fill: float = 0.0,
    residual: npt.NDArray[Any] | None = None,
) -> npt.NDArray[Any]:
    """Run an operation step by step: bias, ReLU, scale, shift, selection, residual. Each step is rounded to the dtype
    of the computation (float32 for the 16-bit types), the last one to x's dtype.
    """
    wide = np.float64 if x.dtype == np.float64 else np.float32
    value = x.astype(wide)
    if bias is not None:
        value = value + bias.astype(wide)
    if relu:
        value = np.where(value < 0, wide(0), value)
    value = value * wide(rounded_to_bits(scale, SCALE_BITS[x.dtype.name]) if x.dtype.name in SCALE_BITS else scale)
    if shift or fill:
        value = value + wide(shift)
    value = np.where(kept, value, wide(fill))
    if residual is not None:
        value = value + residual.astype(wide)
    return value.astype(x.dtype)


# ---- normal numbers ("Normal numbers" in docs/design.md) ----

F32 = np.float32
LOG_TERMS = "1.5d8646p-4 -1.243c02p-3 1.32bcb8p-3 -1.53846ep-3 1.98b29p-3 -1.00038cp-2 1.555796p-2 -1.fffffep-2 1p+0"
SIN_TERMS = "-1.2d9b4p-8 1.465ec4p-4 -1.4abbbap-1 1.921fb6p+0"
COS_TERMS = "1.d9c2e8p-11 -1.55c57ap-6 1.03c1dcp-2 -1.3bd3ccp+0 1p+0"


def polynomial(x: npt.NDArray[np.float32], terms: str) -> npt.NDArray[np.float32]:
    """Return a polynomial's values by Horner's rule in float32; the term of the highest power is first."""
    value = np.zeros_like(x)
    for i, term in enumerate(terms.split()):
        sign, digits = ("-", term[1:]) if term[0] == "-" else ("", term)
        coefficient = F32(float.fromhex(f"{sign}0x{digits}"))
        value = np.full_like(x, coefficient) if i == 0 else value * x + coefficient
    return value


def noise_words(key: int, block: int) -> npt.NDArray[np.uint32]:
    """Return the words of a block's normal numbers, shape (64 groups, 2 steps, 32 words): seeded with tags 16 to 31."""
    words = [philox_of_tag(key, block, 16 + lane) for lane in range(LANES)]
    s0 = np.array([w[0] | w[1] << 32 for w in words], np.uint64)
    s1 = np.array([w[2] | w[3] << 32 for w in words], np.uint64)
    steps = []
    for _ in range(2 * GROUPS_PER_BLOCK):
        steps.append(rotated_left(s0 + s1, 17) + s0)
        s1 = s1 ^ s0
        s0 = rotated_left(s0, 49) ^ s1 ^ s1 << np.uint64(21)
        s1 = rotated_left(s1, 28)
    return np.array(steps).astype("<u8").view("<u4").reshape(GROUPS_PER_BLOCK, 2, 32).astype(np.uint32)


def block_normals(key: int, block: int) -> npt.NDArray[np.float32]:
    """Return a block's 4096 normal numbers, by Box and Muller in float32."""
    words = noise_words(key, block)
    radius_words, angles = words[:, 0], words[:, 1]
    u = ((radius_words >> np.uint32(1)).astype(F32) + F32(0.5)) * F32(2.0**-31)
    bits = u.view(np.int32)
    exponent = (bits - np.int32(0x3F3504F3)) >> 23
    f = (bits - (exponent << 23)).view(F32) + F32(-1)
    log_u = polynomial(f, LOG_TERMS) * f + exponent.astype(F32) * F32(float.fromhex("0x1.62e43p-1"))
    radius = np.sqrt(np.abs(log_u * F32(-2)))
    quadrant = (angles + np.uint32(1 << 29)) >> np.uint32(30)
    z = (angles << np.uint32(2)).view(np.int32).astype(F32) * F32(2.0**-32)
    sine, cosine = polynomial(z * z, SIN_TERMS) * z, polynomial(z * z, COS_TERMS)
    odd = quadrant % 2 == 1
    cos_theta = np.where(odd, sine, cosine) * np.where((quadrant == 1) | (quadrant == 2), F32(-1), F32(1))
    sin_theta = np.where(odd, cosine, sine) * np.where(quadrant >= 2, F32(-1), F32(1))
    return np.concatenate([radius * cos_theta, radius * sin_theta], axis=1).reshape(-1)


def normals(key: int, start: int, n_elems: int) -> npt.NDArray[np.float32]:
    """Return the normal numbers start .. start + n_elems - 1 of the stream."""
    first, last = start // ELEMS_PER_BLOCK, (start + max(n_elems, 1) - 1) // ELEMS_PER_BLOCK
    whole = np.concatenate([block_normals(key, block) for block in range(first, last + 1)])
    skip = start - first * ELEMS_PER_BLOCK
    return whole[skip : skip + n_elems]


def add_noise(x: npt.NDArray[Any], numbers: npt.NDArray[np.float32], std: float) -> npt.NDArray[Any]:
    """Return x + std * n: noise rounded to float32, the sum to the dtype of the computation, then to x's dtype."""
    wide = np.float64 if x.dtype == np.float64 else F32
    return (x.astype(wide) + (numbers * F32(std)).astype(wide)).astype(x.dtype)


def multiply_by_noise(x: npt.NDArray[Any], numbers: npt.NDArray[np.float32], std: float) -> npt.NDArray[Any]:
    """Return x * (1 + std * n), rounded likewise."""
    wide = np.float64 if x.dtype == np.float64 else F32
    return (x.astype(wide) * (numbers * F32(std) + F32(1)).astype(wide)).astype(x.dtype)


def numeric_gradient(function: Callable[[], float], x: npt.NDArray[Any], elems: Any = None) -> npt.NDArray[Any]:
    """Return the derivatives of function(), which reads x, with respect to x or its elements at the flat indices elems.

    Central differences with steps of 1e-6.
    """
    numeric, step = [], 1e-6
    for i in range(x.size) if elems is None else elems:
        original = x.flat[i]
        x.flat[i] = original + step
        above = function()
        x.flat[i] = original - step
        numeric.append((above - function()) / (2 * step))
        x.flat[i] = original
    return np.array(numeric) if elems is not None else np.reshape(numeric, x.shape)
