/* Refuses compiler flags that change results: -ffast-math and its parts, which also remove the checks for NaN, and x87
 * arithmetic. setup.py undoes those in CC, CFLAGS and CPPFLAGS; other builds of these sources have to do without them.
 * -ffp-contract=off is needed too, but no macro tells whether it is there. */
#ifndef CDROPOUT_FLOAT_FLAGS_H
#define CDROPOUT_FLOAT_FLAGS_H

#if defined(__FAST_MATH__) || defined(__ASSOCIATIVE_MATH__) || defined(__RECIPROCAL_MATH__) || \
    defined(__NO_SIGNED_ZEROS__) || defined(_M_FP_FAST)
#error "cdropout must be compiled without -ffast-math, -Ofast and the like: they change results (add -fno-fast-math)"
#endif

#if defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__
#error "cdropout must be compiled without -ffinite-math-only: it removes checks for NaN (add -fno-finite-math-only)"
#endif

/* 1 is for processors that compute float in double, which is exact for the products and sums of two numbers. */
#if defined(__FLT_EVAL_METHOD__) && (__FLT_EVAL_METHOD__ == 2 || __FLT_EVAL_METHOD__ < 0)
#error "cdropout must be compiled without x87 arithmetic: it rounds twice (add -msse2 -mfpmath=sse)"
#endif

#endif
