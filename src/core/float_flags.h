/* Refuses compiler flags that change results and define a macro: -ffast-math and its parts, which also remove the
 * checks for NaN, and x87 arithmetic. setup.py undoes those in CC, CFLAGS and CPPFLAGS; other builds of these sources
 * have to do without them. Flags without a macro, such as -ffp-contract=fast, are found at run time (float_check.h). */
#ifndef CDROPOUT_FLOAT_FLAGS_H
#define CDROPOUT_FLOAT_FLAGS_H

#include <float.h>

#if defined(__FAST_MATH__) || defined(__ASSOCIATIVE_MATH__) || defined(__RECIPROCAL_MATH__) || \
    defined(__NO_SIGNED_ZEROS__) || defined(_M_FP_FAST)
#error "cdropout must be compiled without -ffast-math, -Ofast and the like: they change results (add -fno-fast-math)"
#endif

#if defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__
#error "cdropout must be compiled without -ffinite-math-only: it removes checks for NaN (add -fno-finite-math-only)"
#endif

#if defined(_M_FP_CONTRACT)
#error "cdropout must be compiled without /fp:contract: it rounds a product and a sum once (add /fp:precise)"
#endif

/* A value of 1 is for processors that compute float in double, which is exact for the products and sums of two numbers.
 * On 32-bit x86, clang 14 reports 0 with SSE alone although it computes double with x87 instructions. */
#if (defined(FLT_EVAL_METHOD) && (FLT_EVAL_METHOD == 2 || FLT_EVAL_METHOD < 0)) || \
    (defined(__i386__) && !defined(__SSE2_MATH__)) || (defined(_M_IX86_FP) && _M_IX86_FP < 2)
#error "cdropout must be compiled without x87 arithmetic: it rounds twice (add -msse2 -mfpmath=sse)"
#endif

/* gcc ignores the pragma: a build without setup.py needs -ffp-contract=off or -std=c11. */
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#endif

/* With it, gcc 12 takes a vector's bytes for unsigned numbers, and removes blendv, which selects by their signs. */
#if defined(__CHAR_UNSIGNED__) && (defined(__x86_64__) || defined(__i386__)) && defined(__GNUC__) && !defined(__clang__)
#error "cdropout must be compiled for x86 by gcc without -funsigned-char (add -fsigned-char)"
#endif

_Static_assert(sizeof 0.1 == sizeof(double), "cdropout must be compiled without -fsingle-precision-constant");

#endif
