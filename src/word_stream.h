/* The raw stream a word at a time, behind the function pointers that NumPy's generators call. */
#ifndef CDROPOUT_WORD_STREAM_H
#define CDROPOUT_WORD_STREAM_H

#include "../cdropout/include/cdropout.h"

enum {
    BLOCKS_AT_ONCE = 2, /* as many as fill_raw makes side by side */
    N_WORDS = BLOCKS_AT_ONCE * CDROPOUT_RAW_BYTES_PER_BLOCK / 8,
    BLOCK_BITS = 52, /* of a block's index */
};

typedef struct {
    size_t at; /* of the next word, below N_WORDS */
    uint32_t uinteger;
    int has_uint32;
    cdropout_key key;
    uint64_t first_block; /* of those whose words these are, a multiple of BLOCKS_AT_ONCE */
    uint64_t words[N_WORDS];
} word_stream;

#if defined(__GNUC__)
#define OUT_OF_LINE __attribute__((noinline, cold))
#define IS_UNLIKELY(condition) __builtin_expect(!!(condition), 0)
#else
#define OUT_OF_LINE
#define IS_UNLIKELY(condition) (condition)
#endif

static inline void read_blocks(word_stream *stream)
{
    cdropout_fill_raw((uint8_t *)stream->words, &stream->key, stream->first_block, BLOCKS_AT_ONCE);
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    for (int i = 0; i < N_WORDS; i++) /* a word's lowest byte is its first in memory */
        stream->words[i] = __builtin_bswap64(stream->words[i]);
#endif
}

/* Behind a key's last block comes the first one of the key with the next upper half. */
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

/* Passing the result through leaves nothing for the callers to save around the call. */
static OUT_OF_LINE uint64_t last_word(word_stream *stream, uint64_t word)
{
    read_next_blocks(stream);
    return word;
}

static OUT_OF_LINE double last_double(word_stream *stream, uint64_t word)
{
    read_next_blocks(stream);
    return double_of(word);
}

/* Each reads the index once, and takes it modulo N_WORDS: threads that break NumPy's rule to hold the lock see words
 * twice, and no other memory. The next blocks are read behind the last word of these: to ask ahead of each word whether
 * there is one was slower. */
static inline uint64_t next_uint64(void *state)
{
    word_stream *stream = (word_stream *)state;
    const size_t at = stream->at;
    const uint64_t word = stream->words[at % N_WORDS];
    stream->at = at + 1;
    return IS_UNLIKELY(at >= N_WORDS - 1) ? last_word(stream, word) : word;
}

static inline double next_double(void *state)
{
    word_stream *stream = (word_stream *)state;
    const size_t at = stream->at;
    const uint64_t word = stream->words[at % N_WORDS];
    stream->at = at + 1;
    return IS_UNLIKELY(at >= N_WORDS - 1) ? last_double(stream, word) : double_of(word);
}

/* The lower half of a word, and then the upper one. */
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
