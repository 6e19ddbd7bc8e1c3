/* The compilers that the sources are for, gcc and clang, and what they need of either. A compiler without their
 * builtins and attributes would get kernels without vector instructions and plain reads and writes for atomic ones, and
 * two threads could take the same positions. So it is refused. For MSVC's target, clang does not define __GNUC__. */
#ifndef CDROPOUT_COMPILER_H
#define CDROPOUT_COMPILER_H

#if !defined(__GNUC__) && !defined(__clang__)
#error "cdropout must be compiled by gcc or clang, on Windows by clang-cl (part of LLVM and of Visual Studio)"
#endif

#define ALWAYS_INLINE inline __attribute__((always_inline))
#define OUT_OF_LINE __attribute__((noinline))
#define UNLIKELY(condition) __builtin_expect(!!(condition), 0)

#endif
