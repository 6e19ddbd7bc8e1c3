/* The raw stream a word at a time, behind the function pointers that NumPy's generators call. */
#ifndef CDROPOUT_WORD_STREAM_H
#define CDROPOUT_WORD_STREAM_H

#include "../cdropout/include/cdropout.h"

enum {
    WORDS_PER_BLOCK = CDROPOUT_RAW_BYTES_PER_BLOCK / 8,
    BLOCK_BITS = 52, /* of a block's index */
};

typedef struct {
    size_t at; /* of the next word, below WORDS_PER_BLOCK */
    uint32_t uinteger;
    int has_uint32;
    cdropout_key key;
    uint64_t block; /* the one whose words these are */
    uint64_t words[WORDS_PER_BLOCK];
} word_stream;

#if defined(__GNUC__)
#define OUT_OF_LINE __attribute__((noinline, cold))
#define IS_UNLIKELY(condition) __builtin_expect(!!(condition), 0)
#else
#define OUT_OF_LINE
#define IS_UNLIKELY(condition) (condition)
#endif

/* Reads the words of the present block. */
static void read_block(word_stream *stream)
{
    cdropout_fill_raw((uint8_t *)stream->words, &stream->key, stream->block, 1);
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    for (int i = 0; i < WORDS_PER_BLOCK; i++) /* a word's lowest byte is its first in memory */
        stream->words[i] = __builtin_bswap64(stream->words[i]);
#endif
}

/* Behind a key's last block comes the first one of the key with the next upper half. */
static void read_next_block(word_stream *stream)
{
    stream->block = (stream->block + 1) & (((uint64_t)1 << BLOCK_BITS) - 1);
    stream->key.word[1] += stream->block == 0;
    stream->at = 0;
    read_block(stream);
}

static inline double double_of(uint64_t word)
{
    return (double)(word >> 11) * (1.0 / 9007199254740992.0);
}

/* Passing the result through leaves nothing for the callers to save around the call. */
static OUT_OF_LINE uint64_t last_word(word_stream *stream, uint64_t word)
{
    read_next_block(stream);
    return word;
}

static OUT_OF_LINE double last_double(word_stream *stream, uint64_t word)
{
    read_next_block(stream);
    return double_of(word);
}

/* Each reads the index once, and takes it modulo the block: threads that break NumPy's rule to hold the lock see words
 * twice, and no other memory. The next block is read behind the last word of this one: to ask ahead of each word
 * whether there is one took a cycle more on Zen 5. */
static uint64_t next_uint64(void *state)
{
    word_stream *stream = (word_stream *)state;
    const size_t at = stream->at;
    const uint64_t word = stream->words[at % WORDS_PER_BLOCK];
    stream->at = at + 1;
    return IS_UNLIKELY(at >= WORDS_PER_BLOCK - 1) ? last_word(stream, word) : word;
}

static double next_double(void *state)
{
    word_stream *stream = (word_stream *)state;
    const size_t at = stream->at;
    const uint64_t word = stream->words[at % WORDS_PER_BLOCK];
    stream->at = at + 1;
    return IS_UNLIKELY(at >= WORDS_PER_BLOCK - 1) ? last_double(stream, word) : double_of(word);
}

/* The lower half of a word, and then the upper one. */
static uint32_t next_uint32(void *state)
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
