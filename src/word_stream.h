/* The raw stream as 64-bit words, 32-bit words and doubles, one at a time: the functions that NumPy's generators call
 * through pointers. bit_generator.pyx sets the pointers. Blocks come from fill_raw of the C interface. */
#ifndef CDROPOUT_WORD_STREAM_H
#define CDROPOUT_WORD_STREAM_H

#include "../cdropout/include/cdropout.h"
#include "core/compiler.h"

enum {
    BLOCKS_AT_ONCE = 2, /* fill_raw is fastest on pairs of blocks */
    N_WORDS = BLOCKS_AT_ONCE * CDROPOUT_RAW_BYTES_PER_BLOCK / 8,
    BLOCK_BITS = 52, /* of the index of a block */
};

typedef struct {
    size_t at;         /* the index of the next word, below N_WORDS */
    uint32_t uinteger; /* if has_uint32: the half of a word that next_uint32 returns next. The names are NumPy's */
    int has_uint32;
    cdropout_key key;
    uint64_t first_block; /* a multiple of BLOCKS_AT_ONCE; words are those of the blocks from here on */
    uint64_t words[N_WORDS];
} word_stream;

#define RARELY_CALLED OUT_OF_LINE __attribute__((cold))

static inline void read_blocks(word_stream *stream)
{
    cdropout_fill_raw((uint8_t *)stream->words, &stream->key, stream->first_block, BLOCKS_AT_ONCE);
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    for (int i = 0; i < N_WORDS; i++) /* the raw stream has the lowest byte of a word first */
        stream->words[i] = __builtin_bswap64(stream->words[i]);
#endif
}

/* After the last block of a key comes the first block of the key whose upper 64 bits are larger by 1. */
static inline void read_next_blocks(word_stream *stream)
{
    stream->first_block = (stream->first_block + BLOCKS_AT_ONCE) & (((uint64_t)1 << BLOCK_BITS) - 1);
    stream->key.word[1] += stream->first_block == 0;
    stream->at = 0;
    read_blocks(stream);
}

static inline double double_of(uint64_t word)
{
    return (double)(word >> 11) * (1.0 / 9007199254740992.0);
}

/* The last word of the blocks is passed through, so that the caller need not save it across the call. */
static RARELY_CALLED uint64_t last_word(word_stream *stream, uint64_t word)
{
    read_next_blocks(stream);
    return word;
}

static RARELY_CALLED double last_double(word_stream *stream, uint64_t word)
{
    read_next_blocks(stream);
    return double_of(word);
}

/* Each function reads the index once and takes it modulo N_WORDS, so that threads that draw without NumPy's lock may
 * get the same words, but never read other memory. The next blocks are read with the last word of these: a check before
 * each word was slower. */
static inline uint64_t next_uint64(void *state)
{
    word_stream *stream = (word_stream *)state;
    const size_t at = stream->at;
    const uint64_t word = stream->words[at % N_WORDS];
    stream->at = at + 1;
    return UNLIKELY(at >= N_WORDS - 1) ? last_word(stream, word) : word;
}

static inline double next_double(void *state)
{
    word_stream *stream = (word_stream *)state;
    const size_t at = stream->at;
    const uint64_t word = stream->words[at % N_WORDS];
    stream->at = at + 1;
    return UNLIKELY(at >= N_WORDS - 1) ? last_double(stream, word) : double_of(word);
}

/* The lower half of a word, and in the next call the upper half. */
static inline uint32_t next_uint32(void *state)
{
    word_stream *stream = (word_stream *)state;
    if (stream->has_uint32) {
        stream->has_uint32 = 0;
        return stream->uinteger;
    }
    const uint64_t word = next_uint64(state);
    stream->has_uint32 = 1;
    stream->uinteger = (uint32_t)(word >> 32);
    return (uint32_t)word;
}

#endif
