"""Random words for functions that draw more than decisions: places, sizes and choices."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cdropout import _kernels
from cdropout.mask import Mask

WORDS_PER_BLOCK = 1024
Words = npt.NDArray[np.uint64]


def shape_of_words(n_words: int) -> tuple[int, ...]:
    """Return the shape of the mask whose positions make room for so many words: whole blocks."""
    return (-(-n_words // WORDS_PER_BLOCK) * _kernels.BLOCK,)


def words_of(room: Mask, n_words: int) -> Words:
    """Return the first words of the generator's raw output at the positions of a mask of `shape_of_words`."""
    raw = _kernels.raw_blocks(room.key, room.start // _kernels.BLOCK, room.shape[0] // _kernels.BLOCK)
    return raw.view("<u8").astype(np.uint64, copy=False)[:n_words]


def below(words: Words, n: Any) -> npt.NDArray[np.int64]:
    """Return an integer in [0, n) for each word: the upper 32 bits times n, without the lower 32 bits; n <= 2^31."""
    return (((words >> np.uint64(32)) * np.asarray(n, np.uint64)) >> np.uint64(32)).astype(np.int64)


def below_of_word(word: int, n: int) -> int:
    """Return `below` of one word."""
    return (word >> 32) * n >> 32


def check_range(name: str, given: Any) -> tuple[Any, Any]:
    """Return a range (least, most); TypeError if it is not two real numbers, ValueError if most is below least."""
    if not isinstance(given, Sequence) or isinstance(given, str) or len(given) != 2:
        raise TypeError(f"{name} must be two numbers (least, most), got {given!r}")
    for number in given:
        _kernels.check_finite(number, name)
    least, most = given
    if not 0 <= least <= most:
        raise ValueError(f"{name} must be two numbers with 0 <= least <= most, got {given!r}")
    return least, most
