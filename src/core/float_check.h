/* Known answers of floating-point arithmetic. They find compiler flags that change results and define no macro, such as
 * -ffp-contract=fast, gcc's default without -std=c11; float_flags.h refuses the others. Every table of kernels has the
 * check, compiled like its kernels: AVX-512 has an instruction for a product and a sum, AVX2 alone has none. */
#ifndef CDROPOUT_FLOAT_CHECK_H
#define CDROPOUT_FLOAT_CHECK_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "compiler.h"

static ALWAYS_INLINE int has_bits(double value, uint64_t bits)
{
    return memcmp(&value, &bits, sizeof bits) == 0;
}

/* Returns what the compiler's flags change here, to complete "cdropout must be compiled without"; NULL if nothing. Call
 * it in the default floating-point mode. The numbers are volatile, to be computed with at run time. */
static ALWAYS_INLINE const char *changed_arithmetic_here(void)
{
    const volatile double number[] = {1 + 0x1p-30, 1 - 0x1p-30, 1.0, 0x1p-53 + 0x1p-70, 0x1p-1022, -0.0, 1e16, 49.0};
    const volatile uint64_t nan_bits = 0x7FF8000000000000u;
    const uint64_t bits = nan_bits;
    double nan;
    memcpy(&nan, &bits, sizeof nan);
    const volatile double sum = number[2] + number[3]; /* 64 bits round it to a tie, which 53 bits round to 1 */
    if (!has_bits(sum, 0x3FF0000000000001u))
        return "x87 arithmetic, which rounds twice (add -msse2 -mfpmath=sse)";
    if (!has_bits(number[0] * number[1] - number[2], 0))
        return "contraction, which rounds a product and a sum once (add -ffp-contract=off)";
    if (!has_bits(number[4] * 0.5, (uint64_t)1 << 51))
        return "flags that make subnormal numbers zero (add -fno-fast-math)";
    if (!has_bits(number[5] + 0.0, 0))
        return "-fno-signed-zeros, which changes results (add -fsigned-zeros)";
    const double large = number[6];
    if (!has_bits((large + 1.25) - large, 0x4000000000000000u)) /* 2.0 */
        return "-fassociative-math, which reorders sums (add -fno-associative-math)";
    if (!has_bits(number[7] / 49.0, 0x3FF0000000000000u)) /* 49 * (1/49) is below 1 */
        return "-freciprocal-math, which rounds quotients twice (add -fno-reciprocal-math)";
    if (nan == nan)
        return "-ffinite-math-only, which removes checks for NaN (add -fno-finite-math-only)";
    return NULL;
}

#endif
