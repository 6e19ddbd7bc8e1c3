"""Masks are independent drops at rate p: statistical claims, and the proof that each check can fail.

The statistics are those of randomness.py, each set of z values judged at significance 1e-8. The file judges fewer than
150 sets, so that a perfect generator would fail it with probability below 2e-6. Seeds are fixed: results do not vary,
and a failure is a finding about the stream, not a reason for another seed.

"Catches" means that a defect is flagged with probability 0.999 or more for any seed, which takes a shift by the bound
plus 3.1 standard deviations. The second half of the file tests each statistic with a mask with a defect of the size
that its test claims to catch.
"""

import functools
import math
from statistics import NormalDist

import numpy as np
import pytest
from randomness import (
    BLOCK,
    CHUNK,
    GROUP,
    INPUTS,
    N_WORDS,
    WORD,
    WORDS_PER_BLOCK,
    binomial_z,
    block_spread_z,
    chunks,
    count_z,
    draw_words,
    group_rate_z,
    group_spread_z,
    halves_z,
    lag_z,
    looks_random,
    n_repeats,
    next_group_z,
    pack,
    place_rate_z,
    popcount,
    position_counts,
    position_rate_z,
    row_pairs_z,
    same_group_z,
    sample,
    spread_z,
    take_words,
    tie_z,
)

import cdropout as cd

N_LAG_WORDS = 1 << 21
N_TIE_BLOCKS = 1 << 19
HALFWAY = 1.5 / 65536  # between two values that a comparison of 16 bits can give

# ---- the claims ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("p", "log2_n"),
    [
        *((1e-6, 28), (HALFWAY, 28), (1e-3, 31), (0.1, 28), (0.25, 28), (0.5, 28), (0.9, 28), (1 - 1e-3, 31)),
        (1 - 1e-6, 28),
    ],
)
def test_as_many_are_dropped_as_p_says(p, log2_n):
    """2^28 elements (2^31 for 1e-3 and its complement), exact binomial tails, significance 1e-8.

    Catches an error of p of 8.9 * sqrt(pq/n): 2.7e-4 at 0.5, 1.6e-4 at 0.1, 6.1e-6 at 1e-3, 2.6e-6 at HALFWAY,
    6.2e-7 at 1e-6 (268 drops). So it catches a p rounded to a multiple of 2^-16 at 1e-6, at HALFWAY (an error of
    7.6e-6) and at 1e-3 (7.1e-6).
    """
    assert looks_random(count_z(1 << log2_n, p))


@pytest.mark.parametrize("p", [0.1, HALFWAY])
def test_dropout_zeroes_as_many_as_p_says(p):
    """2^26 float32 elements through `dropout` itself, exact binomial tails, significance 1e-8.

    Catches an error of p of 3.3e-4 at 0.1, of 5.5e-6 at HALFWAY.
    """
    stream, ones, n = cd.Stream(20140104), np.ones(CHUNK, np.float32), 1 << 26
    kept = sum(np.count_nonzero(cd.dropout(ones, p, rng=stream)) for _ in range(n // CHUNK))
    assert looks_random(binomial_z(n - kept, n, p))


TIE_RATES = [1e-3, 0.1, 0.25 + 2**-17, 0.5 - 2**-18, 0.9, 1 - 1e-3]


@pytest.mark.parametrize("p", TIE_RATES)
def test_ties_are_dropped_as_often_as_p_says(p):
    """2^27 elements, of which 2048 are expected to tie; exact binomial tails, significance 1e-8.

    Catches an error of p of 2.2e-6, a seventh of 2^-16, at every p: a p rounded to 16 bits is some 30 standard
    deviations off, wherever it lies.
    """
    assert looks_random(tie_z(1 << 27, p))


@pytest.mark.parametrize("p", [0.5, 0.1, 1e-3])
@pytest.mark.parametrize("statistic", [block_spread_z, group_spread_z])
def test_drop_counts_vary_as_binomial_counts_do(statistic, p):
    """65,536 blocks of 4096 elements, 4,194,304 groups of 64; two-sided, significance 1e-8.

    Catches a variance off by 5.3 % over blocks and by 0.7 % over groups (1.9 % at p = 1e-3), too large or too small: a
    correlation of 1.3e-5 (1.1e-4) between any two elements of a block (group).
    """
    assert looks_random(statistic(sample(p), p))


@pytest.mark.parametrize("p", [0.5, 0.1])
@pytest.mark.parametrize(
    "lags",
    [range(1, 129), range(GROUP, BLOCK + 1, GROUP), range(BLOCK, 16 * BLOCK + 1, BLOCK)],
    ids=["neighbours", "by-group", "by-block"],
)
def test_neighbours_do_not_know_each_other(lags, p):
    """2^27 elements at lags 1 to 128, at each multiple of 64 to 4096 and of 4096 to 65,536; significance 1e-8.

    Catches a correlation of 8.4e-4 at any one lag.
    """
    assert looks_random(lag_z(sample(p)[:N_LAG_WORDS], lags, p))


@pytest.mark.parametrize("p", [0.5, 0.1, 1e-3])
@pytest.mark.parametrize("statistic", [same_group_z, next_group_z])
def test_lanes_do_not_know_each_other(statistic, p):
    """4,194,304 groups: the 2016 pairs of places in a group, the 4096 of a group and the next; significance 1e-8.

    Catches a correlation of 0.005 between any two places; at p = 1e-3, where 4 joint drops of a pair are expected, by
    exact tails, one of 0.012.
    """
    assert looks_random(statistic(sample(p), p))


def consecutive_masks(p):
    stream = cd.Stream(20140105)
    return np.stack([draw_words(stream, 1 << 14, p) for _ in range(64)])


def parent_and_spawned_streams(p):
    parent = cd.Stream(20140106)
    return np.stack([draw_words(stream, 1 << 14, p) for stream in (*parent.spawn(256), parent)])


def neighbouring_and_sparse_seeds(p):
    seeds = (*range(64), *(1 << k for k in range(6, 128)))
    return np.stack([draw_words(cd.Stream(seed), 1 << 14, p) for seed in seeds])


@pytest.mark.parametrize("p", [0.5, 0.1])
@pytest.mark.parametrize("rows", [consecutive_masks, parent_and_spawned_streams, neighbouring_and_sparse_seeds])
def test_masks_do_not_know_each_other(rows, p):
    """All pairs of 64 masks, of 257 streams' first masks, of the seeds 0 to 63 and 64, 128 ... 2^127, each of 2^20
    elements; significance 1e-8.

    Catches a correlation of 0.0102 between any two.
    """
    assert looks_random(row_pairs_z(rows(p), p))


@functools.cache
def raw_output(name, n_words):
    return take_words(INPUTS[name](20140114), n_words)


@pytest.mark.parametrize("n_words", [1 << 18, pytest.param(1 << 24, marks=pytest.mark.deep)])
@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize(
    "statistic",
    [
        lambda words, p: binomial_z(popcount(words), GROUP * words.size, p),
        group_spread_z,
        lambda words, p: lag_z(words, (*range(1, 129), *range(192, BLOCK + 1, GROUP)), p),
        same_group_z,
        next_group_z,
    ],
    ids=["count", "spread", "lags", "same-word", "next-word"],
)
def test_raw_output_is_random_in_whatever_order_it_is_taken(statistic, name, n_words):
    """2^18 words (deep: 2^24) of the stream itself, of the first words of its blocks, of 8192 spawned streams by turns;
    significance 1e-8.

    Catches a share of ones off by 0.0011 (deep: 1.4e-4), a variance of a word's ones off by 2.5 % (0.3 %), a
    correlation of 0.0024 (3e-4) at a lag, of 0.02 (0.0025) between two places of a word, or of a word and the next.
    """
    assert looks_random(statistic(raw_output(name, n_words), 0.5))


@pytest.mark.parametrize("p", [0.5, 0.1, 1e-3])
@pytest.mark.parametrize("statistic", [place_rate_z, group_rate_z, position_rate_z])
def test_every_position_drops_at_rate_p(statistic, p):
    """65,536 blocks: chi-square of the 64 places of a group, 64 groups of a block, 4096 positions; significance 1e-8.

    Catches one place or group whose rate is off by 0.0063 * sqrt(pq) (0.0032 at p = 0.5), one position by
    0.12 * sqrt(pq) (0.06 at 0.5), and counts that are all too equal.
    """
    assert looks_random(statistic(position_counts(sample(p)), N_WORDS // WORDS_PER_BLOCK, p))


@functools.cache
def tie_position_counts():
    """Return the drops at each of a block's positions in N_TIE_BLOCKS blocks at p = 2^-17: half of all ties."""
    stream, counts = cd.Stream(20140111), np.zeros(BLOCK, np.int64)
    for n in chunks(N_TIE_BLOCKS * BLOCK):
        dropped = np.flatnonzero(~cd.draw_mask(n, 2**-17, rng=stream).keep())
        counts += np.bincount(dropped % BLOCK, minlength=BLOCK)
    return counts.reshape(WORDS_PER_BLOCK, GROUP)


@pytest.mark.parametrize("statistic", [place_rate_z, group_rate_z])
def test_ties_are_resolved_alike_at_every_position(statistic):
    """2^31 elements at p = 2^-17, where every drop is a tie: 16,384 drops in 64 classes; significance 1e-8.

    Catches one place or group whose ties drop with probability 1, or at most 0.1, instead of 1/2.
    """
    assert looks_random(statistic(tie_position_counts(), N_TIE_BLOCKS, 2**-17))


@functools.cache
def small_masks(n_elems, p):
    """Return the drops of 2^17 masks drawn one after another, each of which begins a block."""
    stream = cd.Stream(20140107)
    return ~np.stack([cd.draw_mask(n_elems, p, rng=stream).keep() for _ in range(1 << 17)])


def test_small_masks_begin_blocks():
    """Masks of 10 elements begin at the positions 0, 4096, 8192, ..., on which the next tests rely."""
    whole = cd.draw_mask(64 * BLOCK, 0.5, rng=cd.Stream(20140107)).keep()
    assert np.array_equal(~whole.reshape(64, BLOCK)[:, :10], small_masks(10, 0.5)[:64])


@pytest.mark.parametrize("p", [0.5, 0.1])
@pytest.mark.parametrize("n_elems", [1, 10])
def test_beginnings_of_blocks_drop_at_rate_p(n_elems, p):
    """131,072 masks of 1 and of 10 elements, exact binomial tails, significance 1e-8.

    Catches an error of p of 0.0123 (0.0039 for 10 elements) at 0.5, 0.0074 (0.0024) at 0.1.
    """
    drops = small_masks(n_elems, p)
    assert looks_random(binomial_z(int(np.count_nonzero(drops)), drops.size, p))


@pytest.mark.parametrize("p", [0.5, 0.1])
@pytest.mark.parametrize("n_elems", [1, 10])
def test_beginnings_of_blocks_do_not_know_each_other(n_elems, p):
    """131,072 masks of 1 and of 10 elements, laid end to end, at lags 1 to 128; significance 1e-8.

    Catches a correlation of 0.027 (0.0085 for 10 elements) at any one lag: within a mask, or with one of the next 128
    masks (12 masks).
    """
    assert looks_random(lag_z(pack(small_masks(n_elems, p)), range(1, 129), p))


@pytest.mark.parametrize("p", [0.5, 0.1])
@pytest.mark.parametrize("n_elems", [1, 10])
def test_beginnings_of_blocks_vary_as_binomial_counts_do(n_elems, p):
    """Drops of 131,072 masks of 10 elements; of 2048 runs of 64 masks of 1 element; two-sided, significance 1e-8.

    Catches a variance off by 3.6 % among masks of 10, by 34 % among runs of 64.
    """
    per_count = n_elems if n_elems > 1 else GROUP
    assert looks_random(spread_z(small_masks(n_elems, p).reshape(-1, per_count).sum(axis=1), per_count, p))


@pytest.mark.parametrize("p", [0.5, 0.1, 1e-3])
def test_halves_of_a_number_do_not_know_each_other(p):
    """2^27 pairs of elements e and e + 32 of a group, exact binomial tails, significance 1e-8.

    Catches a correlation of 8e-4: at p = 1e-3, where 134 joint drops are expected, twice as many.
    """
    assert looks_random(halves_z(sample(p), p))


@functools.cache
def groups_of_many_streams():
    parent = cd.Stream(20140108)
    children = parent.spawn(8)
    streams = [parent, *children, *children[0].spawn(7), *(cd.Stream(seed) for seed in range(16))]
    return np.concatenate([draw_words(stream, 1 << 14, 0.5) for stream in streams])


def test_no_group_comes_twice():
    """2^19 groups at p = 0.5 from the first 256 blocks of 32 streams (parent, children, grandchildren, seeds 0 to 15).

    64 bits each: two of them are equal with probability 2^37 / 2^64 = 7.5e-9. Catches a single group that a block or
    stream shares with another, at whatever offset.
    """
    assert n_repeats(groups_of_many_streams()) == 0


# ---- the checks can fail ---------------------------------------------------------------------------------------------
#
# Each mask below is a good one with one defect, of about the size that the claim above says it catches; NumPy's
# generator selects the groups with the defect.


def some(n, fraction):
    """Return indices of about that fraction of n, at random."""
    return np.flatnonzero(np.random.default_rng(20140109).random(n) < fraction)


@pytest.mark.parametrize(("p", "log2_n"), [(1e-6, 28), (HALFWAY, 28), (1e-3, 31)])
def test_count_flags_p_in_16_bits(p, log2_n):
    assert not looks_random(count_z(1 << log2_n, p, drawn_p=round(p * 65536) / 65536))


@pytest.mark.parametrize(("p", "error"), [(0.5, 2.7e-4), (0.1, -1.6e-4), (HALFWAY, 2.6e-6), (1e-6, 6.2e-7)])
def test_count_flags_a_wrong_p(p, error):
    assert not looks_random(count_z(1 << 28, p, drawn_p=p + error))


@pytest.mark.parametrize("p", TIE_RATES)
def test_ties_flag_p_in_16_bits(p):
    assert not looks_random(tie_z(1 << 25, p, drawn_p=math.floor(p * 65536) / 65536))
    assert not looks_random(tie_z(1 << 25, p, drawn_p=math.ceil(p * 65536) / 65536))


@pytest.mark.parametrize("error", [2.2e-6, -2.2e-6])
def test_ties_flag_a_wrong_p(error):
    p = 0.25 + 2**-17
    assert not looks_random(tie_z(1 << 27, p, drawn_p=p + error))


@pytest.mark.parametrize("is_repeated", [True, False], ids=["too-much", "too-little"])
def test_block_spread_flags_the_wrong_variance(is_repeated):
    """The second half of 5.5 % of the blocks repeats the first, or is its opposite."""
    words = sample(0.5).copy().reshape(-1, WORDS_PER_BLOCK)
    spoilt = some(len(words), 0.055)
    first_half = words[spoilt, : WORDS_PER_BLOCK // 2]
    words[spoilt, WORDS_PER_BLOCK // 2 :] = first_half if is_repeated else ~first_half
    z = block_spread_z(words.ravel(), 0.5)
    assert not looks_random(z)
    assert (z > 0) == is_repeated


@pytest.mark.parametrize("is_repeated", [True, False], ids=["too-much", "too-little"])
def test_group_spread_flags_the_wrong_variance(is_repeated):
    """Element e + 32 of 0.7 % of the groups repeats element e, or is its opposite."""
    words = sample(0.5).copy()
    spoilt = some(words.size, 0.007)
    lower = words[spoilt] & 0xFFFFFFFF
    words[spoilt] = lower | (lower if is_repeated else lower ^ 0xFFFFFFFF) << 32
    z = group_spread_z(words, 0.5)
    assert not looks_random(z)
    assert (z > 0) == is_repeated


@pytest.mark.parametrize("lag", [1, 77])
def test_neighbours_flag_a_repeated_element(lag):
    """One element in 1024 repeats the one that lies `lag` before it."""
    words = sample(0.5)[:N_LAG_WORDS]
    before = np.roll(words, lag // GROUP)
    if lag % GROUP:
        before = before << lag % GROUP | np.roll(before, 1) >> (GROUP - lag % GROUP)
    chance = np.random.default_rng(20140110)
    spoilt = np.bitwise_and.reduce([chance.integers(0, 1 << 64, words.size, WORD) for _ in range(10)])
    z = lag_z(words & ~spoilt | before & spoilt, range(1, 129), 0.5)
    assert not looks_random(z)
    assert np.argmax(np.abs(z)) == lag - 1


@pytest.mark.parametrize(("period", "spacing"), [(BLOCK, GROUP), (17 * BLOCK, BLOCK)], ids=["by-group", "by-block"])
@pytest.mark.parametrize("multiple", [1, 3, 16])
def test_strides_flag_a_repeated_group(period, spacing, multiple):
    """0.09 % of the groups repeat after 1, 3 or 16 groups or blocks."""
    words = sample(0.5)[:N_LAG_WORDS].copy()
    spoilt = some(words.size, 9e-4)
    words[spoilt] = words[spoilt - multiple * spacing // GROUP]
    z = lag_z(words, range(spacing, period, spacing), 0.5)
    assert not looks_random(z)
    assert np.argmax(np.abs(z)) == multiple - 1


@pytest.mark.parametrize(("p", "fraction"), [(0.5, 0.0052), (1e-3, 0.012)])
@pytest.mark.parametrize("n_groups", [0, 1], ids=["same-group", "next-group"])
def test_lanes_flag_two_places_that_agree(n_groups, p, fraction):
    """In 0.5 % (at p = 1e-3: 1.2 %) of the groups place 9 repeats place 5, of the same group or the one before."""
    words = sample(p).copy()
    spoilt = some(words.size, fraction)
    place_5 = words[spoilt - n_groups] >> 5 & 1
    words[spoilt] = words[spoilt] & ~np.uint64(1 << 9) | place_5 << 9
    statistic = next_group_z if n_groups else same_group_z
    assert not looks_random(statistic(words, p))


def test_lanes_flag_two_equal_lanes():
    """Lane 3 (places 6, 7, 38 and 39) repeats lane 2 throughout: four pairs of places, and no rate, is wrong."""
    words = sample(0.5)[: 1 << 16]
    lane_2 = words & 0x0000003000000030
    words = words & ~np.uint64(0x000000C0000000C0) | lane_2 << 2
    z = same_group_z(words, 0.5)
    assert not looks_random(z)
    assert np.argwhere(z > 200).tolist() == [[4, 6], [5, 7], [36, 38], [37, 39]]


@pytest.mark.parametrize("rows", [consecutive_masks, parent_and_spawned_streams, neighbouring_and_sparse_seeds])
def test_masks_flag_two_that_agree(rows):
    """Two neighbouring rows have 1.1 % of their groups in common."""
    words = rows(0.5)
    spoilt = some(words.shape[1], 0.011)
    words[6, spoilt] = words[5, spoilt]
    assert not looks_random(row_pairs_z(words, 0.5))


@pytest.mark.parametrize(
    ("statistic", "groups", "places", "rise"),
    [(place_rate_z, slice(None), 63, 0.0064), (group_rate_z, 63, slice(None), 0.0064), (position_rate_z, 63, 63, 0.12)],
)
def test_rates_flag_one_position(statistic, groups, places, rise):
    """0.32 % of the elements of one place or group, or 6 % of those of one position, are dropped instead of kept."""
    n_blocks = N_WORDS // WORDS_PER_BLOCK
    counts = position_counts(sample(0.5))
    kept = n_blocks - counts[groups, places]
    counts[groups, places] += np.random.default_rng(20140113).binomial(kept, rise)
    assert not looks_random(statistic(counts, n_blocks, 0.5))


@pytest.mark.parametrize("statistic", [place_rate_z, group_rate_z, position_rate_z])
def test_rates_flag_counts_that_are_too_equal(statistic):
    """Every position drops in exactly half of the blocks."""
    n_blocks = N_WORDS // WORDS_PER_BLOCK
    assert not looks_random(statistic(np.full((WORDS_PER_BLOCK, GROUP), n_blocks // 2), n_blocks, 0.5))


@pytest.mark.parametrize("probability", [1.0, 0.1])
@pytest.mark.parametrize(("statistic", "spoilt"), [(place_rate_z, np.s_[:, 10]), (group_rate_z, np.s_[10, :])])
def test_rates_flag_ties_resolved_wrongly(statistic, spoilt, probability):
    """The ties of one place, or of one group, drop at another rate than 1/2."""
    counts = tie_position_counts().copy()
    counts[spoilt] = np.random.default_rng(20140112).binomial(N_TIE_BLOCKS, probability / 65536, size=64)
    assert not looks_random(statistic(counts, N_TIE_BLOCKS, 2**-17))


@pytest.mark.parametrize(("n_elems", "fraction"), [(1, 0.03), (10, 0.0095)])
def test_beginnings_flag_what_is_carried_over(n_elems, fraction):
    """3 % (1 %) of the masks repeat the one before."""
    drops = small_masks(n_elems, 0.5).copy()
    spoilt = some(len(drops), fraction)
    drops[spoilt] = drops[spoilt - 1]
    z = lag_z(pack(drops), range(1, 129), 0.5)
    assert not looks_random(z)
    assert np.argmax(np.abs(z)) == n_elems - 1


@pytest.mark.parametrize(("n_elems", "fraction"), [(1, 0.0246), (10, 0.0078)])
def test_beginnings_flag_the_wrong_rate(n_elems, fraction):
    """2.5 % (0.8 %) of the kept elements are dropped, which moves p by half of that."""
    drops = small_masks(n_elems, 0.5).copy()
    drops.ravel()[some(drops.size, fraction)] = True
    assert not looks_random(binomial_z(int(np.count_nonzero(drops)), drops.size, 0.5))


@pytest.mark.parametrize("is_repeated", [True, False], ids=["too-much", "too-little"])
@pytest.mark.parametrize(("n_elems", "fraction"), [(1, 0.34), (10, 0.038)])
def test_beginnings_flag_the_wrong_variance(n_elems, fraction, is_repeated):
    """The second half of 4 % of the masks (34 % of the runs of 64 masks) repeats the first, or is its opposite."""
    per_count = n_elems if n_elems > 1 else GROUP
    drops = small_masks(n_elems, 0.5).copy().reshape(-1, per_count)
    spoilt = some(len(drops), fraction)
    first_half = drops[spoilt, : per_count // 2]
    drops[spoilt, per_count // 2 :] = first_half if is_repeated else ~first_half
    z = spread_z(drops.sum(axis=1), per_count, 0.5)
    assert not looks_random(z)
    assert (z > 0) == is_repeated


@pytest.mark.parametrize("p", [0.5, 0.1, 1e-3])
def test_halves_flag_a_repeated_half(p):
    """In 0.1 % of the groups element e + 32 repeats element e."""
    words = sample(p).copy()
    spoilt = some(words.size, 0.001)
    lower = words[spoilt] & 0xFFFFFFFF
    words[spoilt] = lower | lower << 32
    assert not looks_random(halves_z(words, p))


def test_repeats_are_seen():
    words = groups_of_many_streams().copy()
    words[-1] = words[7]
    assert n_repeats(words) == 1


def test_exact_tails_agree_with_sums_of_integers():
    """binomial_z against the tail in integer arithmetic, on both sides, at p = 1/4."""
    n, p = 60, 0.25
    weights = [math.comb(n, k) * 3 ** (n - k) for k in range(n + 1)]
    for count in (0, 3, 9, 20, 40, 60):
        tail = sum(weights[: count + 1] if count < n * p else weights[count:]) / 4**n
        z = binomial_z(count, n, p)
        assert z == pytest.approx(math.copysign(NormalDist().inv_cdf(tail), count - n * p), rel=1e-9)
