"""The data and statistics of the statistical tests: drops and raw output, z values, significance.

A statistic is a function from drops to z values, which are standard normal if the drops are independent with rate p.
`looks_random` judges one set of z values at significance ALPHA, divided among the values (Bonferroni).
"""

import functools
import itertools
import math
from statistics import NormalDist

import numpy as np

import cdropout as cd
from cdropout import _kernels

ALPHA = 1e-8

WORD = np.dtype("<u8")  # the drops of a group of 64 elements: bit e is set if element e is dropped
GROUP = 64
BLOCK = 4096
WORDS_PER_BLOCK = BLOCK // GROUP
# Elements drawn at a time: whole blocks, so that chunks follow each other without a gap, and few enough to stay in the
# processor's cache and in one thread.
CHUNK = 1 << 17
CACHED_WORDS = 1 << 15  # processed at a time, for the same reason
N_WORDS = 1 << 22  # of a sample: 2^28 elements, 65,536 blocks


# ---- drawing ---------------------------------------------------------------------------------------------------------


def chunks(n_elems):
    return [min(CHUNK, n_elems - at) for at in range(0, n_elems, CHUNK)]


def pack(drops):
    return np.packbits(drops, bitorder="little").view(WORD)


def draw_words(stream, n_words, p):
    """Return the drops of the stream's next 64 * n_words elements."""
    return np.concatenate([~pack(cd.draw_mask(n, p, rng=stream).keep()) for n in chunks(GROUP * n_words)])


@functools.cache
def sample(p):
    """Return the N_WORDS groups of drops that several tests examine for different defects."""
    words = draw_words(cd.Stream(20140101), N_WORDS, p)
    words.flags.writeable = False
    return words


# ---- raw output, in several orders -----------------------------------------------------------------------------------

N_INTERLEAVED = 8192


def raw_words(seed):
    """Yield the raw stream, as `python -m cdropout stream` writes it."""
    key = cd.Stream(seed).key
    for first_block in itertools.count(0, 64):
        yield _kernels.raw_blocks(key, first_block, 64).view(WORD)


def first_words(seed):
    """Yield the first word of every block: the output of one step after seeding."""
    key = cd.Stream(seed).key
    for first_block in itertools.count(0, 64):
        yield _kernels.raw_blocks(key, first_block, 64).view(WORD).reshape(64, -1)[:, 0].copy()


def interleaved_words(seed):
    """Yield the first words of 8192 spawned streams, then their second words, and so on."""
    keys = [stream.key for stream in cd.Stream(seed).spawn(N_INTERLEAVED)]
    for block in itertools.count():
        blocks = np.stack([_kernels.raw_blocks(key, block, 1).view(WORD) for key in keys])
        yield blocks.T.ravel()


INPUTS = {"raw": raw_words, "first-words": first_words, "interleaved": interleaved_words}


def take_words(words, n_words):
    """Return the next n_words words of one of the INPUTS."""
    taken, n_left = [], n_words
    while n_left > 0:
        taken.append(next(words)[:n_left])
        n_left -= taken[-1].size
    return np.concatenate(taken)


# ---- judging ---------------------------------------------------------------------------------------------------------


def bound(n_values):
    """Return the bound that any of n_values |z| exceeds with probability ALPHA at most."""
    return -NormalDist().inv_cdf(ALPHA / 2 / n_values)


def looks_random(z):
    size = np.abs(z)[~np.isnan(z)]
    print(f"max |z| {size.max():.2f} of {size.size}, bound {bound(size.size):.2f}")
    return bool(size.max() <= bound(size.size))


@functools.cache
def binomial_z(count, n, p):
    """Return z of a count of n events of probability p, from the exact tail: counts may be small, or far from n p."""
    sd = math.sqrt(n * p * (1 - p))
    z = (count - n * p) / sd
    if abs(z) > 25 or not 0 <= count <= n:  # such a tail is almost too small for a double, and needs no precision
        return z
    log_pmf = math.lgamma(n + 1) - math.lgamma(count + 1) - math.lgamma(n - count + 1)
    log_pmf += count * math.log(p) + (n - count) * math.log1p(-p)
    outward = np.arange(1, 100 + int(12 * sd))
    if z < 0:
        outward = outward[outward <= count]
        ratios = (count - outward + 1) / (n - count + outward) * ((1 - p) / p)
    else:
        outward = outward[outward <= n - count]
        ratios = (n - count - outward + 1) / (count + outward) * (p / (1 - p))
    tail = math.exp(log_pmf) * (1 + np.cumprod(ratios).sum())
    return math.copysign(NormalDist().inv_cdf(min(tail, 0.5)), z)


def spread_z(counts, n, p):
    """Return z of the squared deviations of many counts, each of n elements, from n * p.

    Positive and large if the counts differ in rate or elements of a count are positively correlated, negative if they
    are negatively correlated. The sum has a chi-square's mean, but the variance depends on the binomial's kurtosis.
    Wilson and Hilferty's cube root makes a scaled chi-square with this mean and variance normal.
    """
    counts = np.asarray(counts, np.int64).ravel()
    variance = n * p * (1 - p)
    total = (np.dot(counts, counts) - 2 * n * p * counts.sum() + counts.size * (n * p) ** 2) / variance
    scale = 1 + (1 / variance - 6 / n) / 2
    df = counts.size / scale
    return (math.cbrt(total / counts.size) - (1 - 2 / (9 * df))) / math.sqrt(2 / (9 * df))


def joint_z(joint, a, b, n, p):
    """Return z of the number of joint drops at n places, of a and b drops in all.

    The statistic is the centred sum((d - p) * (d' - p)); its variance is exactly n * (pq)^2, even if pairs overlap, as
    at a lag. If joint drops are too few for a normal distribution, they are judged as a binomial count.
    """
    if n * p * p < 10_000:
        return np.vectorize(lambda count: binomial_z(int(count), n, p * p), otypes=[float])(joint)
    return (joint - p * (a + b) + n * p * p) / (p * (1 - p) * math.sqrt(n))


# ---- statistics ------------------------------------------------------------------------------------------------------


def popcount(words):
    return int(np.bitwise_count(words).sum(dtype=np.int64))


def count_z(n, p, drawn_p=None):
    """Return z of the drops in a mask of n elements, drawn with drawn_p if it is given, for the probability p."""
    stream = cd.Stream(20140102)
    kept = sum(
        np.count_nonzero(cd.draw_mask(n_here, p if drawn_p is None else drawn_p, rng=stream).keep())
        for n_here in chunks(n)
    )
    return binomial_z(n - kept, n, p)


def tie_z(n, p, drawn_p=None):
    """Return z of the drops that 16 bits do not decide: differences from the masks of p rounded down and up to 16 bits.

    The same elements are drawn for all three p, so that only ties differ, and an error of any p is found as precisely
    as one of a p near 0.
    """
    below, above = math.floor(p * 65536) / 65536, math.ceil(p * 65536) / 65536
    stream = cd.Stream(20140103)
    n_below = n_above = 0
    for n_here in chunks(n):
        start = stream.state
        keep = []
        for each in (below, p if drawn_p is None else drawn_p, above):
            stream.state = start
            keep.append(cd.draw_mask(n_here, each, rng=stream).keep())
        assert not np.any(keep[1] > keep[0])
        assert not np.any(keep[2] > keep[1])
        n_below += np.count_nonzero(keep[0] != keep[1])
        n_above += np.count_nonzero(keep[1] != keep[2])
    return [binomial_z(n_below, n, p - below), binomial_z(n_above, n, above - p)]


def block_spread_z(words, p):
    return spread_z(np.bitwise_count(words).reshape(-1, WORDS_PER_BLOCK).sum(axis=1, dtype=np.int64), BLOCK, p)


def group_spread_z(words, p):
    return spread_z(np.bitwise_count(words), GROUP, p)


def lag_z(words, lags, p):
    """Return z of the correlation between elements i and i + lag, with the first elements following the last ones."""
    total, n = popcount(words), GROUP * words.size
    ring = np.concatenate([words, words[: max(lags) // GROUP + 2]])
    joint = np.zeros(len(lags))
    for at in range(0, words.size, CACHED_WORDS):
        here = words[at : at + CACHED_WORDS]
        for i, lag in enumerate(lags):
            start, n_bits = at + lag // GROUP, lag % GROUP
            there = ring[start : start + here.size]
            if n_bits:
                there = there >> n_bits | ring[start + 1 : start + 1 + here.size] << (GROUP - n_bits)
            joint[i] += popcount(here & there)
    return joint_z(joint, total, total, n, p)


def by_place(words):
    """Return one row for each place of a group: its drops in all groups, 64 groups per word."""
    rows = np.empty((GROUP, words.size // GROUP), WORD)
    for at in range(0, words.size, CACHED_WORDS):
        here = words[at : at + CACHED_WORDS]
        for place in range(GROUP):
            bits = (here >> place).astype(np.uint8) & 1
            rows[place, at // GROUP : (at + here.size) // GROUP] = pack(bits)
    return rows


def row_pairs_z(rows, p):
    """Return z of the bitwise correlation between each two rows of words; NaN at (i, j) unless i < j."""
    totals = [popcount(row) for row in rows]
    n = GROUP * rows.shape[1]
    z = np.full((len(rows), len(rows)), np.nan)
    for i, j in itertools.combinations(range(len(rows)), 2):
        z[i, j] = joint_z(popcount(rows[i] & rows[j]), totals[i], totals[j], n, p)
    return z


def same_group_z(words, p):
    """Return z of the correlation between each two places of a group."""
    return row_pairs_z(by_place(words), p)


def next_group_z(words, p):
    """Return z of the correlation of each place of a group with each of the next group; the first follows the last."""
    first, second = by_place(words), by_place(np.roll(words, -1))
    totals = np.array([popcount(row) for row in first])
    joint = np.array([[popcount(a & b) for b in second] for a in first])
    return joint_z(joint, totals[:, np.newaxis], totals, words.size, p)


def position_counts(words):
    """Return how often each of a block's positions drops: shape (64 groups, 64 places)."""
    counts = np.zeros(BLOCK, np.int64)
    for at in range(0, words.size, CACHED_WORDS):
        bits = np.unpackbits(words[at : at + CACHED_WORDS].view(np.uint8), bitorder="little").reshape(-1, 128, BLOCK)
        counts += bits.sum(axis=1, dtype=np.uint8).sum(axis=0, dtype=np.int64)
    return counts.reshape(WORDS_PER_BLOCK, GROUP)


def place_rate_z(counts, n_blocks, p):
    return spread_z(counts.sum(axis=0), n_blocks * WORDS_PER_BLOCK, p)


def group_rate_z(counts, n_blocks, p):
    return spread_z(counts.sum(axis=1), n_blocks * GROUP, p)


def position_rate_z(counts, n_blocks, p):
    return spread_z(counts, n_blocks, p)


def halves_z(words, p):
    """Return z of the four joint outcomes of elements e and e + 32, the halves of a 32-bit number."""
    n, both = GROUP // 2 * words.size, popcount(words & words >> 32)
    first, second = popcount(words & 0xFFFFFFFF), popcount(words >> 32)
    neither = n - first - second + both
    outcomes = ((both, p * p), (first - both, p * (1 - p)), (second - both, p * (1 - p)), (neither, (1 - p) ** 2))
    cells = [binomial_z(count, n, probability) for count, probability in outcomes]
    return np.array([*cells, joint_z(both, first, second, n, p)])


def n_repeats(words):
    return words.size - np.unique(words).size
