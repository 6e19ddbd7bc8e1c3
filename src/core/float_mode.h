/* The floating-point mode of the processor: rounding, whether subnormal numbers count as zero, and which exceptions
 * trap. Each thread has a mode, which other code may have changed: libraries built with -ffast-math turn subnormal
 * numbers off when they are loaded. So that results do not depend on it, job_run and rule.h compute in the default mode
 * and then restore the caller's. */
#ifndef CDROPOUT_FLOAT_MODE_H
#define CDROPOUT_FLOAT_MODE_H

#include <stdint.h>
#include <string.h>

#if defined(__SSE2__)
#include <xmmintrin.h>

/* The register MXCSR: its lowest six bits are status flags, the others the mode. */
enum { MODE_BITS = 0xFFC0, DEFAULT_MODE = 0x1F80 };
typedef unsigned float_mode;

static inline float_mode enter_default_mode(void)
{
    const float_mode before = _mm_getcsr();
    if ((before & MODE_BITS) != DEFAULT_MODE)
        _mm_setcsr(DEFAULT_MODE);
    return before;
}

static inline void leave_default_mode(float_mode before)
{
    if ((before & MODE_BITS) != DEFAULT_MODE)
        _mm_setcsr(before);
}

#elif defined(__aarch64__)
typedef uint64_t float_mode; /* the register FPCR, 0 by default */

static inline void set_fpcr(uint64_t mode)
{
    __asm__ volatile("msr fpcr, %0" : : "r"(mode) : "memory");
}

static inline float_mode enter_default_mode(void)
{
    float_mode before;
    __asm__ volatile("mrs %0, fpcr" : "=r"(before) : : "memory");
    if (before != 0)
        set_fpcr(0);
    return before;
}

static inline void leave_default_mode(float_mode before)
{
    if (before != 0)
        set_fpcr(before);
}

#else
#include <fenv.h>

typedef fenv_t float_mode;

static inline float_mode enter_default_mode(void)
{
    float_mode before;
    fegetenv(&before);
    fesetenv(FE_DFL_ENV);
    return before;
}

static inline void leave_default_mode(float_mode before)
{
    fesetenv(&before);
}
#endif

/* Whether a number is zero, from its bits: in some modes a comparison takes subnormal numbers for zero. */
static inline int is_zero(double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits << 1 == 0;
}

#endif
