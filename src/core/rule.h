/* From the caller's p or std to the numbers of the kernels: checks, thresholds, scales. job.c, src/c_api.c and, through
 * core.pxd, Cython call these functions in any floating-point mode, which they neither trap in nor change. */
#ifndef CDROPOUT_RULE_H
#define CDROPOUT_RULE_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "float_mode.h"
#include "kernel_table.h"

/* The largest standard deviation of noise: the largest normal number, 6.7, times this is finite in float32. */
#define MAX_STD 1e37

static inline uint64_t bits_of_double(double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* Whether 0 <= value <= most; false for NaN. Compares bits, because comparing a NaN may trap. */
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

/* Sets P(drop) to p, rounded down to 48 bits: 16 for the threshold, 32 for its ties. p = 1 has the largest threshold
 * and drops all ties. Integer arithmetic, because a floating-point conversion may trap. */
static inline void set_threshold(mask_rule *rule, double p)
{
    const uint64_t bits = bits_of_double(p);
    /* p = significand * 2^(exponent - 1075); a subnormal p is below 2^-48 and becomes 0. */
    const uint64_t significand = (bits & (((uint64_t)1 << 52) - 1)) | (uint64_t)1 << 52, exponent = bits >> 52 & 0x7FF;
    const uint64_t p_in_2_48 = exponent > 1027 - 64 ? significand >> (1027 - exponent) : 0;
    const uint64_t upper = p_in_2_48 >> 32 < 65535 ? p_in_2_48 >> 32 : 65535;
    rule->threshold = (int32_t)upper - 32768;
    rule->tie_threshold = p_in_2_48 - (upper << 32);
}

/* ---- scales, computed in the default floating-point mode ----
 * Variables are volatile to keep the compiler from moving a computation before enter_default_mode or behind
 * leave_default_mode. */

/* 1/(1-p), the scale of kept elements; 1 at p = 1, where none is kept. */
static inline double kept_scale(double p)
{
    volatile double number = p;
    const float_mode before = enter_default_mode();
    const double kept = 1.0 - number;
    number = kept > 0.0 ? 1.0 / kept : 1.0;
    leave_default_mode(before);
    return number;
}

/* A scale rounded to the dtype's scale_bits (kernel_table.h). */
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

/* Alpha dropout: the scale and the shift of kept elements, and the value of dropped ones. All are 0 at p = 1.
 * selu_floor is the limit of SELU at minus infinity, -lambda * alpha of Klambauer et al., "Self-normalizing neural
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
