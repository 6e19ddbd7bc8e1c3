/* The kernels of attention for each instruction set, from one source. */
#include "attention.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <string_view>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi" /* vectors are passed to inlined functions only */
#endif

#define INLINE static inline __attribute__((always_inline))
#define OUT_OF_LINE __attribute__((noinline))
#define PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define UNROLLED PRAGMA(clang loop unroll(full))
#define REGION_BEGIN(features) PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define REGION_END PRAGMA(clang attribute pop)
#else
#define UNROLLED PRAGMA(GCC unroll 16)
#define REGION_BEGIN(features) PRAGMA(GCC push_options) PRAGMA(GCC target(features))
#define REGION_END PRAGMA(GCC pop_options)
#endif
#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE_FOUR(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE_FOUR(a, b, ...) __builtin_shuffle(a, b, FourIndices{__VA_ARGS__})
#endif

namespace cdropout_torch
{

namespace
{

#if defined(__x86_64__)

REGION_BEGIN("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")
namespace avx512_float
{
#define REAL float
#define BITS int32_t
#define VECTOR_BYTES 64
#define kHalves 16
#define MAX_TILE_ROWS 12
#define VECTOR_MAX(a, b) ((Vector)_mm512_max_ps(a, b))
#include "attention_kernels.inc.h"
} // namespace avx512_float
namespace avx512_double
{
#define REAL double
#define BITS int64_t
#define MAX_TILE_ROWS 12
#define VECTOR_MAX(a, b) ((Vector)_mm512_max_pd(a, b))
#include "attention_kernels.inc.h"
#undef VECTOR_BYTES
#undef kHalves
} // namespace avx512_double
REGION_END

REGION_BEGIN("avx2,fma")
namespace avx2_float
{
#define REAL float
#define BITS int32_t
#define VECTOR_BYTES 32
#define kHalves 8
#define MAX_TILE_ROWS 6
#define VECTOR_MAX(a, b) ((Vector)_mm256_max_ps(a, b))
#include "attention_kernels.inc.h"
} // namespace avx2_float
namespace avx2_double
{
#define REAL double
#define BITS int64_t
#define MAX_TILE_ROWS 6
#define VECTOR_MAX(a, b) ((Vector)_mm256_max_pd(a, b))
#include "attention_kernels.inc.h"
#undef VECTOR_BYTES
#undef kHalves
} // namespace avx2_double
REGION_END

#endif

/* What every processor of the architecture has: SSE2, or NEON. */
namespace basic_float
{
#define REAL float
#define BITS int32_t
#define VECTOR_BYTES 16
#define kHalves 8
#define MAX_TILE_ROWS 6
#define VECTOR_MAX(a, b) ((a) > (b) ? (a) : (b))
#include "attention_kernels.inc.h"
} // namespace basic_float
namespace basic_double
{
#define REAL double
#define BITS int64_t
#define MAX_TILE_ROWS 6
#define VECTOR_MAX(a, b) ((a) > (b) ? (a) : (b))
#include "attention_kernels.inc.h"
#undef VECTOR_BYTES
#undef kHalves
} // namespace basic_double

enum class InstructionSet { kBasic, kAvx2, kAvx512 };

/* CDROPOUT_ISA limits this library's other kernels in the same way (src/core/dispatch.c). */
InstructionSet choose()
{
    const char *limit = std::getenv("CDROPOUT_ISA");
    const std::string_view name = limit != nullptr ? limit : "";
#if defined(__x86_64__)
    const bool is_basic = name == "sse2" || name == "portable";
    if (!is_basic && name != "avx2" && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
        return InstructionSet::kAvx512;
    if (!is_basic && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return InstructionSet::kAvx2;
#endif
    return InstructionSet::kBasic;
}

} // namespace

const AttentionKernels &attention_kernels(at::ScalarType dtype)
{
    static const InstructionSet chosen = choose();
    const bool is_double = dtype == at::kDouble;
#if defined(__x86_64__)
    if (chosen == InstructionSet::kAvx512)
        return is_double ? avx512_double::kernels : avx512_float::kernels;
    if (chosen == InstructionSet::kAvx2)
        return is_double ? avx2_double::kernels : avx2_float::kernels;
#endif
    return is_double ? basic_double::kernels : basic_float::kernels;
}

} // namespace cdropout_torch
