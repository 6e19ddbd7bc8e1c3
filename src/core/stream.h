/* The random stream, version 1, as docs/design.md specifies it: constants, types, and Philox in plain C.
 *
 * A stream is named by a key of 128 bits and has 2^64 positions, in blocks of 4096. A block's generators are seeded
 * from (key, block index) alone, so that any thread or machine can compute any block. */
#ifndef CDROPOUT_STREAM_H
#define CDROPOUT_STREAM_H

#include <stdint.h>

enum {
    ELEMS_PER_GROUP = 64,   /* decided by one step of the generators, in one 64-bit keep word */
    ELEMS_PER_BLOCK = 4096, /* seeded together */
    STREAM_LANES = 16,      /* xoroshiro128++ generators of a block; specified, whatever the width of vectors */
    MASK_TAG = 0,           /* of lane 0 in a block that is seeded for a mask */
    NOISE_TAG = 16,         /* the same for normal numbers */
    RAW_BYTES_PER_BLOCK = ELEMS_PER_BLOCK / ELEMS_PER_GROUP * STREAM_LANES * 8,
};

/* The key of a stream: word 0 is the key of Philox, word 1 the upper half of its counter. */
typedef struct {
    uint64_t word[2];
} stream_key;

/* A stream and which of its elements are dropped: P(drop) = (threshold + 32768) / 2^16 + tie_threshold / 2^48. */
typedef struct {
    stream_key key;
    int32_t threshold;      /* in [-32768, 32767]; an element whose 16-bit number is below it is dropped */
    uint64_t tie_threshold; /* up to 2^32; on equality (a tie), a 32-bit number below this drops the element */
} mask_rule;

/* Philox4x32-10: Salmon, Moraes, Dror & Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011. The two
 * multipliers and the two Weyl increments (golden ratio, sqrt(3) - 1) are the paper's. */
#define PHILOX_M0 0xD2511F53u
#define PHILOX_M1 0xCD9E8D57u
#define PHILOX_W0 0x9E3779B9u
#define PHILOX_W1 0xBB67AE85u
enum { PHILOX_ROUNDS = 10 };

static inline void philox4x32(uint32_t counter[4], uint64_t key)
{
    uint32_t key0 = (uint32_t)key, key1 = (uint32_t)(key >> 32);
    for (int round = 0; round < PHILOX_ROUNDS; round++) {
        const uint64_t product0 = (uint64_t)PHILOX_M0 * counter[0];
        const uint64_t product1 = (uint64_t)PHILOX_M1 * counter[2];
        counter[0] = (uint32_t)(product1 >> 32) ^ counter[1] ^ key0;
        counter[1] = (uint32_t)product1;
        counter[2] = (uint32_t)(product0 >> 32) ^ counter[3] ^ key1;
        counter[3] = (uint32_t)product0;
        key0 += PHILOX_W0;
        key1 += PHILOX_W1;
    }
}

/* Counter word 1 holds the upper 20 bits of the block index and, above them, a tag of 12 bits: 0 to 15 seed the lanes
 * of masks, 16 to 31 those of normal numbers, 1024 to 2047 resolve ties. So no two uses share a counter. */
enum { TAG_SHIFT = 20, TIE_TAG = 1024 };

/* The 32-bit number that decides a tie at element `elem` of `block`. */
static inline uint32_t tie_number(const stream_key *key, uint64_t block, unsigned elem)
{
    uint32_t counter[4] = {
        (uint32_t)block,
        (uint32_t)(block >> 32) | (TIE_TAG + elem / 4) << TAG_SHIFT,
        (uint32_t)key->word[1],
        (uint32_t)(key->word[1] >> 32),
    };
    philox4x32(counter, key->word[0]);
    return counter[elem % 4];
}

#endif
