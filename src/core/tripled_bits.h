/* Three copies of each of 64 bits, side by side: the decisions on pixels, for each of three channels.
 *
 * The copies of bit 21 begin at the end of the first word, those of bit 42 end at the beginning of the third. So in the
 * first word the first copies of 22 bits, in the second the middle ones, and in the third the last ones, stand 3 places
 * apart from bit 0 on. */
#ifndef CDROPOUT_TRIPLED_BITS_H
#define CDROPOUT_TRIPLED_BITS_H

#include <stdint.h>

#define EVERY_THIRD_BIT 0x9249249249249249u /* bits 0, 3 ... 63 */

/* The lower 22 bits at EVERY_THIRD_BIT. */
static inline uint64_t spread_by_3(uint64_t bits)
{
    bits &= 0x3FFFFF;
    bits = (bits | bits << 32) & 0x003F00000000FFFF;
    bits = (bits | bits << 16) & 0x003F0000FF0000FF;
    bits = (bits | bits << 8) & 0x300F00F00F00F00F;
    bits = (bits | bits << 4) & 0x30C30C30C30C30C3;
    return (bits | bits << 2) & EVERY_THIRD_BIT;
}

/* The words of the copies, from the spread bits from 0, 21 and 42 on. */
static inline void fill_thirds(uint64_t words[3], uint64_t first, uint64_t middle, uint64_t last)
{
    words[0] = first | first << 1 | first << 2;
    words[1] = middle >> 1 | middle | middle << 1;
    words[2] = last >> 2 | last >> 1 | last;
}

#endif
