"""Tokens that BERT's rule replaces, for cdropout.token_dropout. Part of _kernels.pyx."""

ctypedef fused token:
    uint8_t
    uint16_t
    uint32_t
    uint64_t

# What a selected token becomes. A word below masked_below gives mask_token, one below random_below a random token, and
# any other leaves the token. All is modulo 2^64: the lower bytes of a sum are those of the dtype's numbers.
cdef struct token_rule:
    uint64_t masked_below, random_below, mask_token, first, n_choices


cdef void replace_selected(token *tokens, const int64_t *selected, size_t n_selected, const uint64_t *words,
                           const token_rule *rule) noexcept nogil:
    cdef size_t i, at
    cdef uint64_t word, drawn
    cdef token value
    for i in range(n_selected):
        at = <size_t>selected[i]
        word = words[at]
        drawn = rule.first + ((word & 0xFFFFFFFFu) * rule.n_choices >> 32)
        # Two conditional moves: branches would be mispredicted for every fifth token.
        value = <token>drawn if word < rule.random_below else tokens[at]
        tokens[at] = <token>rule.mask_token if word < rule.masked_below else value


def replace_by_rule(cnp.ndarray tokens not None, cnp.ndarray selected not None, cnp.ndarray words not None, rule):
    """Replace tokens of a plain array at indices, which `dropped_indices` has listed for its elements, with a word for
    each element. rule: the numbers of token_rule, each in [0, 2^64)."""
    cdef token_rule numbers
    cdef void *data = cnp.PyArray_DATA(tokens)
    cdef const int64_t *at = <const int64_t *>cnp.PyArray_DATA(selected)
    cdef const uint64_t *word = <const uint64_t *>cnp.PyArray_DATA(words)
    cdef size_t n = cnp.PyArray_SIZE(selected), n_tokens = cnp.PyArray_SIZE(tokens)
    numbers.masked_below, numbers.random_below, numbers.mask_token, numbers.first, numbers.n_choices = rule
    if not is_plain(tokens) or n_tokens != <size_t>cnp.PyArray_SIZE(words):
        raise ValueError("tokens must be a C-contiguous array in native byte order with as many elements as words")
    # In ascending order, so that the last is the largest. Another thread may have made the array smaller since.
    if n > 0 and not 0 <= at[0] <= at[n - 1] < <int64_t>n_tokens:
        raise ValueError(f"tokens must stay unchanged during a call, got {n_tokens} elements and index {at[n - 1]}")
    # From here to the end the lock is held, so that no other code of Python resizes the array.
    if cnp.PyArray_ITEMSIZE(tokens) == 1:
        replace_selected(<uint8_t *>data, at, n, word, &numbers)
    elif cnp.PyArray_ITEMSIZE(tokens) == 2:
        replace_selected(<uint16_t *>data, at, n, word, &numbers)
    elif cnp.PyArray_ITEMSIZE(tokens) == 4:
        replace_selected(<uint32_t *>data, at, n, word, &numbers)
    else:
        replace_selected(<uint64_t *>data, at, n, word, &numbers)
