/* What a caller's p, scale and bias become before a kernel sees them. */
#ifndef CDROPOUT_PARAMETERS_H
#define CDROPOUT_PARAMETERS_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "catalog.h"
#include "float_mode.h"

/* Of noise: in float32, 6.7 times as much has to be a number. */
#define MAX_STD 1e37

static inline size_t bytes_of_dtype(int dtype)
{
    return dtype == DTYPE_f64 ? 8 : dtype == DTYPE_f32 ? 4 : 2;
}

/* P(drop) to 48 bits, rounded down: 16 for the comparison, 32 for its ties. p = 1 is the largest threshold, whose ties
 * are all dropped. */
static inline void set_threshold(mask_rule *rule, double p)
{
    const uint64_t p_in_2_48 = (uint64_t)(p * 281474976710656.0);
    const uint64_t upper = p_in_2_48 >> 32 < 65535 ? p_in_2_48 >> 32 : 65535;
    rule->threshold = (int32_t)upper - 32768;
    rule->tie_threshold = p_in_2_48 - (upper << 32);
}

/* ---- scales, computed in the default mode: a volatile number is neither read before it is entered nor written after
 */

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

/* The scale that a dtype's kernels multiply by. For the 16-bit types it has so many bits (24 less the type's own) that
 * the product with any element is exact in float32, so that the result is rounded once. */
static inline double scale_in(int dtype, double scale)
{
    if (dtype == DTYPE_f32 || dtype == DTYPE_f64)
        return scale;
    volatile double number = scale;
    const float_mode before = enter_default_mode();
    const int n_bits = dtype == DTYPE_f16 ? 13 : 16;
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

/* Room for what lay_bias lays out: a period of up to two groups, and one more. */
enum { BIAS_ROOM_BYTES = 3 * ELEMS_PER_GROUP * 8 };

/* Points ops to a bias of n_bias elements, with its seam in room; a bias shorter than a group is repeated there. */
static inline void lay_bias(operands *ops, char room[BIAS_ROOM_BYTES], const char *bias, size_t n_bias,
                            size_t elem_bytes)
{
    const size_t group_bytes = ELEMS_PER_GROUP * elem_bytes, n_bytes = n_bias * elem_bytes;
    ops->bias = bias;
    ops->bias_seam = room;
    ops->bias_period = n_bias * ((ELEMS_PER_GROUP + n_bias - 1) / n_bias);
    if (n_bias >= ELEMS_PER_GROUP) {
        memcpy(room, bias + n_bytes - group_bytes, group_bytes);
        memcpy(room + group_bytes, bias, group_bytes);
        return;
    }
    const size_t n_laid = ops->bias_period * elem_bytes + group_bytes;
    memcpy(room, bias, n_bytes);
    for (size_t at = n_bytes; at < n_laid; at *= 2)
        memcpy(room + at, room, at < n_laid - at ? at : n_laid - at);
    ops->bias = room;
    ops->bias_seam = room + n_laid - 2 * group_bytes;
}

/* Whether streaming kernels may write to out: what starts a whole group, n_to_group elements on, or a run of n_repeats
 * must lie on a multiple of STREAM_ALIGN. */
static inline int may_stream(const char *out, size_t n_to_group, size_t n_repeats, size_t elem_bytes)
{
    const size_t run_bytes = n_repeats == 1 ? 0 : n_repeats * elem_bytes;
    return ((uintptr_t)out + n_to_group * elem_bytes) % STREAM_ALIGN == 0 && run_bytes % STREAM_ALIGN == 0;
}

#endif
