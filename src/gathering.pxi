"""Keep words for rows that are short: the bits of many runs of positions, put together in the order of the elements."""

# The keep words of one block, for all the rows that take positions of it. One word more, so that 64 bits can be read
# from any bit on.
ctypedef struct block_words:
    uint64_t block
    uint64_t words[WORDS_PER_BLOCK + 1]


cdef inline void append_bits(uint64_t *to, size_t at, const uint64_t *source, size_t bit, size_t n_bits) noexcept nogil:
    """Copies bits bit .. bit + n_bits - 1 of source behind the first `at` bits of to, beyond which its word is 0. Reads
    one word more than it copies from, and writes one more."""
    cdef uint64_t copied
    cdef size_t n
    while n_bits > 0:
        n = min(n_bits, <size_t>64)
        copied = source[bit // 64] >> bit % 64 | source[bit // 64 + 1] << 1 << 63 - bit % 64
        if n < 64:
            copied &= (<uint64_t>1 << n) - 1
        to[at // 64] |= copied << at % 64
        to[at // 64 + 1] = copied >> 1 >> 63 - at % 64
        at += n
        bit += n
        n_bits -= n


cdef inline void append_run(const job *j, block_words *made, uint64_t *words, size_t at, uint64_t first,
                            size_t n_elems) noexcept nogil:
    """The keep bits of positions first .. first + n_elems - 1, behind the first `at` bits of words."""
    cdef uint64_t block
    cdef size_t offset, n
    while n_elems > 0:
        block = first // ELEMS_PER_BLOCK
        offset = first % ELEMS_PER_BLOCK
        n = min(n_elems, ELEMS_PER_BLOCK - offset)
        if made.block != block:
            kernels.fill_words(made.words, &j.rule, block * ELEMS_PER_BLOCK, ELEMS_PER_BLOCK)
            made.block = block
        append_bits(words, at, made.words, offset, n)
        first += n
        at += n
        n_elems -= n


cdef void run_gathered(const job *j, size_t begin, size_t end) noexcept nogil:
    """Elements begin .. end - 1 of all rows, counted through."""
    cdef uint64_t words[MAX_WORDS + 1]
    cdef block_words made
    cdef int level = j.n_levels - 1
    cdef size_t row = begin // j.n_elems
    cdef size_t at_in_row = begin % j.n_elems
    cdef size_t n_rows_ahead = 0  # as far as one stride leads
    cdef uint64_t first = 0
    cdef size_t n_piece, at, n
    made.block = <uint64_t>-1  # no block: positions end below it
    made.words[WORDS_PER_BLOCK] = 0
    while begin < end:
        n_piece = min(end - begin, <size_t>(ELEMS_PER_GROUP * MAX_WORDS))
        words[0] = 0
        at = 0
        while at < n_piece:
            if n_rows_ahead == 0:
                first = first_of_row(j, row)
                n_rows_ahead = j.row_lens[level] - row % j.row_lens[level]
            n = min(j.n_elems - at_in_row, n_piece - at)
            append_run(j, &made, words, at, first + at_in_row, n)
            at += n
            at_in_row += n
            if at_in_row == j.n_elems:
                at_in_row = 0
                row += 1
                n_rows_ahead -= 1
                first += j.row_strides[level]
        run_words(j, words, begin, n_piece)
        begin += n_piece
