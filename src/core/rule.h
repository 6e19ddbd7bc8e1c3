/* From a caller's numbers to what kernels compute with: p becomes thresholds and a scale. */
#ifndef CDROPOUT_RULE_H
#define CDROPOUT_RULE_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "float_mode.h"
#include "kernel_table.h"

/* The largest standard deviation of noise: 6.7 times as much, the largest noise, must be finite in float32. */
#define MAX_STD 1e37

static inline uint64_t bits_of_double(double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* Whether 0 <= value <= most; false for NaN. As integers, because comparing a NaN traps where the caller lets it. */
static inline int is_in_range(double value, double most)
{
    return bits_of_double(value) <= bits_of_double(most) || bits_of_double(value) == bits_of_double(-0.0);
}

static inline int is_probability(double p)
{
    return is_in_range(p, 1.0);
}

static inline int is_std(double std)
{
    return is_in_range(std, MAX_STD);
}

/* P(drop) to 48 bits, rounded down: 16 for the comparison, 32 for its ties. p = 1 is the largest threshold, whose ties
 * are all dropped. In integers: a floating-point conversion could trap in the caller's mode. */
static inline void set_threshold(mask_rule *rule, double p)
{
    const uint64_t bits = bits_of_double(p);
    /* p = significand * 2^(exponent - 1075); subnormal numbers are below 2^-48. */
    const uint64_t significand = (bits & (((uint64_t)1 << 52) - 1)) | (uint64_t)1 << 52, exponent = bits >> 52 & 0x7FF;
    const uint64_t p_in_2_48 = exponent > 1027 - 64 ? significand >> (1027 - exponent) : 0;
    const uint64_t upper = p_in_2_48 >> 32 < 65535 ? p_in_2_48 >> 32 : 65535;
    rule->threshold = (int32_t)upper - 32768;
    rule->tie_threshold = p_in_2_48 - (upper << 32);
}

/* ---- scales, computed in the default floating-point mode ----
 * Their numbers are volatile, so that the compiler moves no computation out of the lines between enter and leave. */

/* 1/(1-p); 1 at p = 1, where nothing is kept to be scaled. */
static inline double kept_scale(double p)
{
    volatile double number = p;
    const float_mode before = enter_default_mode();
    const double kept = 1.0 - number;
    number = kept > 0.0 ? 1.0 / kept : 1.0;
    leave_default_mode(before);
    return number;
}

/* The scale that a dtype's kernels multiply by, rounded to the catalog's scale_bits. */
static inline double round_scale(int dtype, double scale)
{
    const int n_bits = dtype_table[dtype].scale_bits;
    if (n_bits == 0)
        return scale;
    volatile double number = scale;
    const float_mode before = enter_default_mode();
    int exponent = 0;
    const double significand = frexp(number, &exponent);
    number = ldexp(rint(ldexp(significand, n_bits)), exponent - n_bits);
    leave_default_mode(before);
    return number;
}

/* Alpha dropout: the scale and the shift of what is kept, and what becomes of what is dropped. All 0 at p = 1. The
 * constant is what SELU tends to for large negative inputs, -lambda alpha of Klambauer et al., "Self-normalizing neural
 * networks", NIPS 2017. */
static inline void alpha_dropout_map(double p, double *scale, double *shift, double *fill)
{
    const float_mode before = enter_default_mode();
    const volatile double number = p;
    const double selu_floor = -1.0507009873554804934193349852946 * 1.6732632423543772848170429916717;
    volatile double a = 0.0, b = 0.0, c = 0.0;
    if (number < 1.0) {
        a = 1 / sqrt((1 - number) * (1 + number * (selu_floor * selu_floor)));
        b = -a * number * selu_floor;
        c = a * (1 - number) * selu_floor;
    }
    leave_default_mode(before);
    *scale = a;
    *shift = b;
    *fill = c;
}

#endif
