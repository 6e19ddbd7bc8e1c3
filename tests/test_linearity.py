"""Masks of p = 0.5 and raw output show no trace of the linear generator underneath.

Each set of values is judged at significance 1e-8 (randomness.py); fixed seeds.
"""

import functools
import itertools

import numpy as np
import pytest
from linearity import (
    bits_of,
    complexity_probability,
    complexity_z,
    linear_complexity,
    matrices,
    rank,
    rank_probability,
    rank_z,
)
from randomness import GROUP, INPUTS, WORD, by_place, draw_words, looks_random, pack, take_words

import cdropout as cd

SEED = 20140114


def mask_words(n_words):
    """Return the drops of consecutive elements of a mask of p = 0.5."""
    return draw_words(cd.Stream(SEED), n_words, 0.5)


def place_words(n_words):
    """Return the drops of one place of all groups, then those of the next place: one bit of one lane after another."""
    return by_place(mask_words(n_words)).ravel()


SOURCES = {
    "mask": mask_words,
    "places": place_words,
    **{name: lambda n_words, words=words: take_words(words(SEED), n_words) for name, words in INPUTS.items()},
}


@functools.cache
def source(name, n_words):
    return SOURCES[name](n_words)


deep = functools.partial(pytest.param, marks=pytest.mark.deep)


@pytest.mark.promise("independent-drops")
@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize(("n", "n_matrices"), [(256, 128), deep(1024, 1024)])
def test_binary_matrices_have_the_ranks_of_random_ones(name, n, n_matrices):
    """128 matrices of 256 x 256 bits (deep: 1024 of 1024 x 1024), chi-square of their ranks, significance 1e-8.

    Catches a linear recurrence of fewer bits than a row, and one dependent row in 85 % (deep: 30 %) of the matrices.
    """
    words = source(name, n_matrices * n * n // GROUP)
    assert len(matrices(words, n)) == n_matrices
    assert looks_random(rank_z(words, n))


@pytest.mark.deep
def test_a_matrix_of_2_to_the_28_bits_has_nearly_full_rank():
    """One matrix of 16,384 x 16,384 bits of a mask: it lacks 6 or more with probability 2^-36 / 0.29 = 5e-11."""
    (matrix,) = matrices(mask_words(1 << 22), 1 << 14)
    assert rank(matrix) > (1 << 14) - 6


@pytest.mark.promise("independent-drops")
@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("n_sequences", [128, deep(1 << 14)])
def test_sequences_have_the_linear_complexity_of_random_ones(name, n_sequences):
    """128 sequences of 4096 bits (deep: 16,384), chi-square of their linear complexity, significance 1e-8.

    Catches a linear recurrence of fewer than 2046 bits in 22 % (deep: 2 %) of the sequences.
    """
    assert looks_random(complexity_z(source(name, n_sequences * 4096 // GROUP), 4096))


@pytest.mark.deep
@pytest.mark.parametrize("name", SOURCES)
def test_long_sequences_have_the_linear_complexity_of_random_ones(name):
    """8 sequences of 2^17 bits: each within 20 of half its length, except with probability 2^-38."""
    words = source(name, 8 * (1 << 17) // GROUP)
    for sequence in words.reshape(8, -1):
        assert abs(linear_complexity(bits_of(sequence)) - (1 << 16)) <= 20


# ---- the checks can fail ---------------------------------------------------------------------------------------------


def linear_words(n_words):
    """Return the lowest bits of xoroshiro128 without its scrambler: a linear recurrence of 128 bits."""
    s0, s1 = 1, 2
    mask = (1 << 64) - 1
    bits = np.empty(n_words * GROUP, np.uint8)
    for i in range(bits.size):
        bits[i] = s0 & 1
        s1 ^= s0
        s0 = ((s0 << 49 | s0 >> 15) ^ s1 ^ s1 << 21) & mask
        s1 = (s1 << 28 | s1 >> 36) & mask
    return pack(bits)


def test_ranks_and_complexities_flag_a_linear_recurrence():
    words = linear_words(8 * 1024)
    assert {rank(matrix) for matrix in matrices(words, 256)} == {128}
    assert {linear_complexity(bits_of(sequence)) for sequence in words.reshape(-1, 64)} == {128}
    assert not looks_random(rank_z(words, 256))
    assert not looks_random(complexity_z(words, 4096))


def test_ranks_flag_dependent_rows():
    """In 85 % of the matrices one row is the sum of two others."""
    words = source("mask", 128 * 256 * 256 // GROUP).copy()
    for matrix in matrices(words, 256)[: int(0.85 * 128)]:
        matrix[17] = matrix[3] ^ matrix[200]
    assert not looks_random(rank_z(words, 256))


def test_complexities_flag_a_recurrence_in_some_of_the_sequences():
    """22 % of the sequences are from a linear recurrence."""
    words = source("mask", 128 * 4096 // GROUP).copy()
    words[: 29 * 64] = linear_words(29 * 64)
    assert not looks_random(complexity_z(words, 4096))


# ---- the checks are right --------------------------------------------------------------------------------------------


def test_rank_agrees_with_counting_what_the_rows_span():
    chance = np.random.default_rng(3)
    for n_rows in range(1, 9):
        rows = chance.integers(0, 1 << 6, n_rows, WORD)
        sums = {0}
        for row in rows.tolist():
            sums |= {row ^ other for other in sums}
        assert 2 ** rank(rows.reshape(-1, 1)) == len(sums)


def test_linear_complexity_agrees_with_trying_every_register():
    def has_register(bits, length):
        for taps in itertools.product((0, 1), repeat=length):
            if all(
                bits[i] == sum(tap * bits[i - 1 - j] for j, tap in enumerate(taps)) % 2
                for i in range(length, len(bits))
            ):
                return True
        return False

    for bits in itertools.product((0, 1), repeat=8):
        shortest = next(length for length in range(9) if has_register(bits, length))
        assert linear_complexity(bits) == shortest


def test_the_probabilities_are_those_of_counting():
    ranks = np.bincount([rank(np.array(rows, WORD).reshape(-1, 1)) for rows in itertools.product(range(8), repeat=3)])
    assert np.allclose(ranks[::-1] / 512, [rank_probability(3, lacking) for lacking in range(4)])
    lengths = np.bincount([linear_complexity(bits) for bits in itertools.product((0, 1), repeat=8)])
    assert np.allclose(lengths / 256, [complexity_probability(8, length) for length in range(9)])
