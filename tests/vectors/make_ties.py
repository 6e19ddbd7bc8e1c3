"""Writes ties.json: places where an element ties with a threshold and the 32 bits that decide it are given ones.

    python tests/vectors/make_ties.py

Such places are as rare as one in 2^48, too rare to meet by drawing. Philox is a bijection for each key, so that the
further bits can be chosen and the counter found from them; what is left to chance is that the element's 16-bit number
is the wanted one, which is one try in 2^16.
"""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt

HERE = Path(__file__).parent
U64 = npt.NDArray[np.uint64]

LOW32 = np.uint64(0xFFFFFFFF)
# The multipliers of Philox4x32 and its keys' increments (Salmon et al., SC 2011), as in tests/reference.py.
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
INCREMENTS = (0x9E3779B9, 0xBB67AE85)
N_ROUNDS = 10
N_TRIES = 1 << 18  # at once

# (16-bit number, further bits) on either side of what decides at p = 2^-48, 1e-12, 1e-6, 0.3 and 1 - 2^-53.
WANTED = (
    *((-(2**15), v) for v in (0, 1, 280, 281, 281474975, 281474976)),
    *((19660 - 2**15, v) for v in (0xCCCCCCCB, 0xCCCCCCCC)),
    *((2**15 - 1, v) for v in (2**32 - 2, 2**32 - 1)),
)


def round_keys(keys: U64, n_bumps: int) -> tuple[U64, U64]:
    """The two halves of each key after so many rounds."""
    halves = keys & LOW32, keys >> np.uint64(32)
    low, high = ((half + np.uint64(n_bumps * inc)) & LOW32 for half, inc in zip(halves, INCREMENTS, strict=True))
    return low, high


def philox(words: tuple[U64, U64, U64, U64], keys: U64) -> tuple[U64, U64, U64, U64]:
    """Philox4x32-10 of many counters."""
    c0, c1, c2, c3 = words
    for r in range(N_ROUNDS):
        k0, k1 = round_keys(keys, r)
        left, right = np.uint64(MULTIPLIERS[0]) * c0, np.uint64(MULTIPLIERS[1]) * c2
        c0, c1, c2, c3 = (
            (right >> np.uint64(32)) ^ c1 ^ k0,
            right & LOW32,
            (left >> np.uint64(32)) ^ c3 ^ k1,
            left & LOW32,
        )
    return c0, c1, c2, c3


def philox_backwards(words: tuple[U64, U64, U64, U64], keys: U64) -> tuple[U64, U64, U64, U64]:
    """The counters whose outputs are the words."""
    inverses = [np.uint64(pow(m, -1, 1 << 32)) for m in MULTIPLIERS]
    w0, w1, w2, w3 = words
    for r in reversed(range(N_ROUNDS)):
        k0, k1 = round_keys(keys, r)
        c0, c2 = w3 * inverses[0] & LOW32, w1 * inverses[1] & LOW32
        left, right = np.uint64(MULTIPLIERS[0]) * c0, np.uint64(MULTIPLIERS[1]) * c2
        w0, w1, w2, w3 = c0, w0 ^ (right >> np.uint64(32)) ^ k0, c2, w2 ^ (left >> np.uint64(32)) ^ k1
    return w0, w1, w2, w3


def rotated_left(words: U64, n_bits: int) -> U64:
    return words << np.uint64(n_bits) | words >> np.uint64(64 - n_bits)


def numbers_at(keys: U64, counters: tuple[U64, U64, U64, U64], elems: U64) -> npt.NDArray[np.int64]:
    """The signed 16-bit number of each element of its counter's block."""
    place = elems % np.uint64(64)
    word = place % np.uint64(32)
    c0, c1, c2, c3 = counters
    w = philox((c0, c1 & np.uint64(0xFFFFF) | word // np.uint64(2) << np.uint64(20), c2, c3), keys)
    s0, s1 = w[0] | w[1] << np.uint64(32), w[2] | w[3] << np.uint64(32)
    outputs = np.zeros_like(s0)
    for step in range(64):
        outputs = np.where(elems // np.uint64(64) == step, rotated_left(s0 + s1, 17) + s0, outputs)
        s1 = s1 ^ s0
        s0 = rotated_left(s0, 49) ^ s1 ^ s1 << np.uint64(21)
        s1 = rotated_left(s1, 28)
    shift = word % np.uint64(2) * np.uint64(32) + np.where(place < 32, np.uint64(16), np.uint64(0))
    unsigned = (outputs >> shift & np.uint64(0xFFFF)).astype(np.int64)
    return np.where(unsigned < 2**15, unsigned, unsigned - 2**16)


def find(number: int, further_bits: int) -> tuple[int, int]:
    """A key and a position whose element has that number and those further bits."""
    chance = np.random.default_rng(number % 2**16 << 32 | further_bits)
    while True:
        keys = chance.integers(0, 1 << 64, N_TRIES, np.uint64)
        output = [chance.integers(0, 1 << 32, N_TRIES, np.uint64) for _ in range(4)]
        index = int(chance.integers(4))
        output[index][:] = further_bits
        counters = philox_backwards(tuple(output), keys)
        tags = counters[1] >> np.uint64(20)
        is_tie = (tags >= 1024) & (tags < 2048)
        keys, tags, *counters = (array[is_tie] for array in (keys, tags, *counters))
        elems = (tags - np.uint64(1024)) * np.uint64(4) + np.uint64(index)
        found = np.flatnonzero(numbers_at(keys, tuple(counters), elems) == number)
        if found.size:
            key, elem, c0, c1, c2, c3 = (int(array[found[0]]) for array in (keys, elems, *counters))
            return key | c2 << 64 | c3 << 96, (c0 | (c1 & 0xFFFFF) << 32) * 4096 + elem


def ties() -> list[dict[str, object]]:
    """Return the file's contents."""
    places = [(number, further_bits, *find(number, further_bits)) for number, further_bits in WANTED]
    return [{"number": n, "further_bits": v, "key": f"{key:032x}", "position": at} for n, v, key, at in places]


if __name__ == "__main__":
    (HERE / "ties.json").write_text(json.dumps(ties(), indent=1) + "\n")
