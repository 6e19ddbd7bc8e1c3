/* Conversions of the 16-bit floating-point types in integer arithmetic, one element at a time: float16 (IEEE 754
 * binary16) and bfloat16 (the upper half of a binary32). isa/portable.c uses them for both types, isa/sse2.c for
 * float16. The floating-point mode does not affect them. */
#ifndef CDROPOUT_HALF_H
#define CDROPOUT_HALF_H

#include <stdint.h>
#include <string.h>

static inline float float_of_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t bits_of_float(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float float_of_bf16(uint16_t elem)
{
    return float_of_bits((uint32_t)elem << 16);
}

/* Rounds to nearest, ties to even. Rounding cannot carry into the sign of a NaN: the NaNs here come from bfloat16
 * operands or invalid operations, so that their lower halves are 0. */
static inline uint16_t bf16_of_float(float value)
{
    const uint32_t bits = bits_of_float(value);
    return (uint16_t)((bits + 0x7FFFu + (bits >> 16 & 1)) >> 16);
}

static inline float float_of_f16(uint16_t elem)
{
    const uint32_t sign = (uint32_t)(elem & 0x8000u) << 16;
    uint32_t exponent = elem >> 10 & 0x1Fu, fraction = elem & 0x3FFu;
    if (exponent == 0x1Fu) /* infinity, or a NaN, which becomes quiet as in the processors' instructions */
        return float_of_bits(sign | 0x7F800000u | fraction << 13 | (fraction ? 0x400000u : 0));
    if (exponent == 0) {
        if (fraction == 0)
            return float_of_bits(sign);
        for (exponent = 1; !(fraction & 0x400u); exponent--) /* a subnormal: shift its first bit into place */
            fraction <<= 1;
        fraction &= 0x3FFu;
    }
    /* The exponents' biases are 15 and 127. The exponent of a subnormal may have wrapped below 0; it wraps back here.
     */
    return float_of_bits(sign | (exponent + 112) << 23 | fraction << 13);
}

/* Rounds to nearest, ties to even. */
static inline uint16_t f16_of_float(float value)
{
    const uint32_t bits = bits_of_float(value), magnitude = bits & 0x7FFFFFFFu;
    const uint16_t sign = (uint16_t)(bits >> 16 & 0x8000u);
    if (magnitude > 0x7F800000u) /* NaN */
        return (uint16_t)(sign | 0x7E00u | (magnitude >> 13 & 0x3FFu));
    if (magnitude >= 0x477FF000u) /* 65520 and above round to infinity */
        return (uint16_t)(sign | 0x7C00u);
    if (magnitude < 0x33000001u) /* 2^-25, half the smallest subnormal, and below round to zero */
        return sign;
    uint32_t shift = 13, significand = magnitude;
    if (magnitude < 0x38800000u) { /* a subnormal result: below 2^-14 */
        shift = 126 - (magnitude >> 23);
        significand = (magnitude & 0x7FFFFFu) | 0x800000u;
    } else {
        significand -= 112u << 23;
    }
    const uint32_t rest = significand & ((1u << shift) - 1), half = 1u << (shift - 1);
    uint32_t elem = significand >> shift;
    elem += rest > half || (rest == half && (elem & 1)); /* a carry into the exponent is correct */
    return (uint16_t)(sign | elem);
}

#endif
