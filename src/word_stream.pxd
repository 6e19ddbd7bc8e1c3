"""The declarations of word_stream.h, for bit_generator.pyx."""

from libc.stdint cimport uint32_t, uint64_t

from c_api cimport cdropout_key


cdef extern from "word_stream.h" nogil:
    enum:
        BLOCKS_AT_ONCE
        N_WORDS
        BLOCK_BITS

    ctypedef struct word_stream:
        size_t at
        uint32_t uinteger
        bint has_uint32
        cdropout_key key
        uint64_t first_block

    int cdropout_import() except -1 with gil
    void read_blocks(word_stream *stream)
    uint64_t next_uint64(void *state) noexcept
    uint32_t next_uint32(void *state) noexcept
    double next_double(void *state) noexcept
