"""Statistics that detect a linear generator: ranks of binary matrices, linear complexity, and exact distributions."""

import math

import numpy as np
from randomness import GROUP, WORD
from scipy import stats

# ---- rank ------------------------------------------------------------------------------------------------------------


def matrices(words, n):
    """Cut words into matrices of n rows of n bits, shape (matrices, n, n / 64); remaining words are left out."""
    n_words = n * n // GROUP
    return words[: words.size // n_words * n_words].reshape(-1, n, n // GROUP)


def rank(matrix):
    """Return the rank over GF(2) of a matrix of rows of words, by elimination."""
    rows, found = matrix.copy(), 0
    for column in range(GROUP * rows.shape[1]):
        word, bit = divmod(column, GROUP)
        with_bit = found + np.flatnonzero(rows[found:, word] >> WORD.type(bit) & WORD.type(1))
        if with_bit.size:
            pivot = rows[with_bit[0]].copy()
            rows[with_bit[1:], word:] ^= pivot[word:]
            rows[with_bit[0]] = rows[found]
            rows[found] = pivot
            found += 1
            if found == len(rows):
                break
    return found


def rank_probability(n, lacking):
    """Return the probability that n random rows of n bits have rank n - lacking (Kovalenko, 1972)."""

    def log2_product(first, last):
        return sum(math.log2(1 - 2.0**-i) for i in range(first, last + 1))

    return 2.0 ** (2 * log2_product(lacking + 1, n) - log2_product(1, n - lacking) - lacking**2)


def rank_z(words, n):
    """Return z of the numbers of matrices with rank n, n - 1, and n - 2 or less."""
    lacking = np.array([n - rank(matrix) for matrix in matrices(words, n)])
    probabilities = [rank_probability(n, 0), rank_probability(n, 1)]
    counts = [np.count_nonzero(lacking == 0), np.count_nonzero(lacking == 1), np.count_nonzero(lacking >= 2)]
    return classes_z(counts, [*probabilities, 1 - sum(probabilities)])


# ---- linear complexity -----------------------------------------------------------------------------------------------


def bits_of(words):
    """Return the bits of words, each word's lowest first, as a list of 0 and 1."""
    return np.unpackbits(words.view(np.uint8), bitorder="little").tolist()


def linear_complexity(bits):
    """Return the length of the shortest linear feedback shift register that generates the bits (Massey, 1969)."""
    connection, before = 1, 1
    length, since = 0, 1
    window = 0
    for i, bit in enumerate(bits):
        window = window << 1 | bit
        if (connection & window).bit_count() & 1:
            longer = connection ^ before << since
            if 2 * length <= i:
                length, before, since = i + 1 - length, connection, 0
            connection = longer
        since += 1
    return length


def complexity_probability(n_bits, length):
    """Return the probability that n_bits random bits have linear complexity length (Rueppel, 1986)."""
    return 2.0 ** (min(2 * n_bits - 2 * length, 2 * length - 1) - n_bits) if length else 2.0**-n_bits


def complexity_z(words, n_bits):
    """Return z of the linear complexities of sequences of n_bits bits, in classes near n_bits / 2."""
    sequences = words[: words.size * GROUP // n_bits * n_bits // GROUP].reshape(-1, n_bits // GROUP)
    excess = np.array([linear_complexity(bits_of(sequence)) for sequence in sequences]) - n_bits // 2
    inner = range(-1, 3)
    probabilities = [complexity_probability(n_bits, n_bits // 2 + e) for e in inner]
    counts = [np.count_nonzero(excess == e) for e in inner]
    return classes_z([*counts, excess.size - sum(counts)], [*probabilities, 1 - sum(probabilities)])


def classes_z(counts, probabilities):
    """Return z of Pearson's chi-square of counts in classes of given probabilities."""
    expected = np.array(probabilities) * sum(counts)
    chi_square = float(np.sum((np.array(counts) - expected) ** 2 / expected))
    log_p = stats.chi2.logsf(chi_square, len(counts) - 1)
    return float(stats.norm.isf(math.exp(log_p))) if log_p > -600 else 40.0
