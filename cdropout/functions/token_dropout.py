"""Masking of tokens for language models as a function."""

from typing import Any

import numpy as np
import numpy.typing as npt

from cdropout import _kernels
from cdropout.checks import check_integer
from cdropout.functions.words import shape_of_words, words_of
from cdropout.mask import Mask, drawing
from cdropout.stream import Rng

Array = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]

# Of the selected tokens, BERT replaces 80 % by the mask token and 10 % by a random token. The upper 32 bits of a word
# decide, and its lower ones do not matter.
MASKED_BELOW = (4 * 2**32 // 5) << 32
RANDOM_BELOW = (9 * 2**32 // 10) << 32


def token_dropout(
    tokens: npt.ArrayLike,
    p: float,
    mask_token: int,
    *,
    keep_special: npt.ArrayLike | None = None,
    replace_random: int | tuple[int, int] | None = None,
    rng: Rng | None = None,
    out: Any = None,
    return_mask: bool = False,
) -> Array | tuple[Array, Bools]:
    """Select random tokens and replace them by the mask token, or by the rule of BERT; the others are copied.

    Parameters
    ----------
    tokens : array_like of integers
        Token numbers, of any shape.
    p : float
        The probability of selecting a token, in [0, 1]; BERT's is 0.15.
    mask_token : int
        The number that replaces selected tokens.
    keep_special : array_like, optional
        Tokens that are never selected: their numbers, in one dimension, or a bool array of the tokens' shape, True for
        these tokens. A mask of 0 and 1, such as the `special_tokens_mask` of Hugging Face's tokenizers, has to be
        converted to bool: as integers it would name the tokens 0 and 1, and is refused.
    replace_random : int or (int, int), optional
        The size of the vocabulary, or the first token number and the one after the last. With it, BERT's rule holds: of
        the selected tokens, 80 % become the mask token, 10 % a random token, each equally likely, and 10 % stay.
        Without it, all become the mask token.
    rng
        As in `dropout`. See Notes for what is drawn.
    out : ndarray, or an object that shares its memory, optional
        Array for the result, of the tokens' shape and dtype: either the tokens themselves or memory apart from them.
    return_mask : bool
        Whether to return which tokens are selected, too.

    Returns
    -------
    ndarray, or tuple of two ndarrays
        out, or a new array of the tokens' shape and dtype; and a bool array of this shape, True for selected tokens, of
        which a model predicts the original.

    Raises
    ------
    TypeError, ValueError, OverflowError
        For tokens that are not integers, a number that their dtype does not have, and as in `dropout`, before anything
        is written or drawn.

    Notes
    -----
    The selection takes one position of the stream for each token, also for special ones. With replace_random, a word of
    64 bits of the generator's raw output follows for each token, 1024 words to a block. Its upper 32 bits decide what
    becomes of a selected token; its lower 32 bits, b, choose the random token first + floor(b n / 2^32), where first is
    the first token number and n their count.

    Source: Devlin et al., "BERT: pre-training of deep bidirectional transformers for language understanding",
    NAACL 2019.

    """
    array = _kernels.as_array(tokens, "tokens")
    if array.dtype.kind not in "iu":
        raise TypeError(f"tokens must be an array of integers, got dtype {array.dtype}")
    p = _kernels.check_p(p)
    limits = np.iinfo(array.dtype)
    mask_token = check_integer("mask_token", mask_token, int(limits.min), int(limits.max))
    special = checked_special(keep_special, array)
    choices = None if replace_random is None else checked_choices(replace_random, int(limits.min), int(limits.max))
    x, result = _kernels.check_selection(tokens, "tokens", mask_token, out)
    stream = _kernels.stream_for(rng, ("tokens", x), ("out", result))
    with drawing(x.shape, p, stream) as mask:
        if choices is None:
            if special is None and not return_mask:
                return mask.select(tokens, mask_token, out)
            selected = selection(mask, x, special)
            replace(result, x, selected, mask_token)
            returned = _kernels.handed_back(result, out, tokens)
        else:
            with drawing(shape_of_words(x.size), 0.5, stream) as room:
                selected = selection(mask, x, special)
                replace_by_rule(result, x, selected, mask_token, choices, room)
                returned = _kernels.handed_back(result, out, tokens)
    if not return_mask:
        return returned
    chosen = np.zeros(x.size, bool)
    chosen[selected] = True
    return returned, chosen.reshape(x.shape)


def checked_special(keep_special: npt.ArrayLike | None, tokens: Array) -> Array | None:
    """Return the special tokens: their numbers, of one dimension and the tokens' dtype, or a bool array."""
    if keep_special is None:
        return None
    _kernels.check_unmasked(keep_special, "keep_special", "masked values would be used")
    special = _kernels.as_array(keep_special, "keep_special")
    if special.dtype.kind == "b":
        if special.shape != tokens.shape:
            raise ValueError(f"keep_special must have the shape of tokens, {tokens.shape}, got {special.shape}")
        return special
    if special.size == 0:
        return None
    if special.dtype.kind not in "iu":
        raise TypeError(f"keep_special must be token numbers or a bool array, got dtype {special.dtype}")
    # A list of token numbers has each once; more than two numbers of 0 and 1 are a mask.
    is_mask = special.shape == tokens.shape and special.size > 2 and 0 <= special.min() <= special.max() <= 1
    if special.ndim > 1 or is_mask:
        raise ValueError(
            "keep_special must be token numbers in one dimension, or a bool array of the tokens' shape, got an array "
            f"of {special.dtype} and shape {special.shape}: convert a mask of 0 and 1 to bool"
        )
    limits = np.iinfo(tokens.dtype)
    for number in (int(special.min()), int(special.max())):
        check_integer("keep_special", number, int(limits.min), int(limits.max))
    # In one dtype, because NumPy compares uint64 and signed integers as float64.
    return np.unique(special.astype(tokens.dtype))


def checked_choices(replace_random: Any, least: int, most: int) -> tuple[int, int]:
    """Return the first random token and the number of random tokens, of which the dtype must have all."""
    given = replace_random if isinstance(replace_random, tuple | list) else (0, replace_random)
    if len(given) != 2:
        raise ValueError(f"replace_random must be a number, or the first and the end, got {replace_random!r}")
    begin = check_integer("replace_random", given[0], least, most)
    name = "replace_random" if given is not replace_random else f"the end of replace_random, which begins at {begin},"
    end = check_integer(name, given[1], begin + 1, min(most + 1, begin + 2**31))
    return begin, end - begin


def selection(mask: Mask, x: Array, special: Array | None) -> npt.NDArray[np.int64]:
    """Return the flat indices of the elements that a mask drops and that are not special tokens."""
    indices = _kernels.dropped_indices(mask)
    if special is None:
        return indices
    if special.dtype.kind == "b":
        return indices[~special.reshape(-1)[indices]]
    found = x.reshape(-1)[indices] if x.flags.c_contiguous else x.flat[indices]
    return indices[~np.isin(found, special)]


def replace(result: Array, x: Array, indices: npt.NDArray[np.int64], values: Any) -> None:
    """Copy x to result and set elements at flat indices."""
    if result is not x:
        np.copyto(result, x)
    if result.flags.c_contiguous:
        result.reshape(-1)[indices] = values
    else:
        result.flat[indices] = values


def replace_by_rule(
    result: Array, x: Array, selected: npt.NDArray[np.int64], mask_token: int, choices: tuple[int, int], room: Mask
) -> None:
    """Replace the selected tokens by BERT's rule, with the words of a mask's positions."""
    begin, n_choices = choices
    rule = MASKED_BELOW, RANDOM_BELOW, mask_token % 2**64, begin % 2**64, n_choices
    words = words_of(room, x.size)
    is_plain = result.flags.c_contiguous and result.dtype.isnative
    replaced = result if is_plain else np.empty(x.shape, x.dtype.newbyteorder("="))
    if replaced is not x:
        np.copyto(replaced, x)
    _kernels.replace_by_rule(replaced, selected, words, rule)
    if replaced is not result:
        np.copyto(result, replaced)
