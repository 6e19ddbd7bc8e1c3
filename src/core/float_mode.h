/* The processor's floating-point mode: rounding, whether subnormal numbers count as zero, and which exceptions trap. It
 * belongs to a thread, and a caller may have changed it (-ffast-math libraries switch subnormal numbers off as they are
 * loaded). The kernels compute in the default mode, in every thread, and leave the caller's as it was. */
#ifndef CDROPOUT_FLOAT_MODE_H
#define CDROPOUT_FLOAT_MODE_H

#include <stdint.h>
#include <string.h>

#if defined(__SSE2__) || defined(_M_X64)
#include <xmmintrin.h>

/* MXCSR: its upper bits control, the lowest six are flags. By default everything is off and no exception traps. */
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

#elif defined(__aarch64__) && defined(__GNUC__)
typedef uint64_t float_mode; /* FPCR, whose bits are all off by default */

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

/* Whether a number is zero; a comparison would call subnormal numbers zero where the caller's mode says so. */
static inline int is_zero(double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits << 1 == 0;
}

#endif
