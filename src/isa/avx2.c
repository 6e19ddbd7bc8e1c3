/* AVX2: 4 lanes of 64 bits a vector, masks as vectors of all-ones and all-zeros. */
#include "../catalog.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include <immintrin.h>

#include "target_region.h"

#define ISA_NAME "avx2"
#define V64_LANES 4

TARGET_REGION_BEGIN("avx2")

typedef __m256i v64;
#define v64_load(p) _mm256_loadu_si256((const __m256i *)(const void *)(p))
#define v64_store_le(p, v) _mm256_storeu_si256((__m256i *)(void *)(p), v)
#define v64_set1(word) _mm256_set1_epi64x((long long)(word))
#define v64_add _mm256_add_epi64
#define v64_and _mm256_and_si256
#define v64_xor _mm256_xor_si256
#define v64_xor3(a, b, c) _mm256_xor_si256(_mm256_xor_si256(a, b), c)
#define v64_shl(v, n_bits) _mm256_slli_epi64(v, n_bits)
#define v64_shr(v, n_bits) _mm256_srli_epi64(v, n_bits)
#define v64_rotl(v, n_bits) _mm256_or_si256(_mm256_slli_epi64(v, n_bits), _mm256_srli_epi64(v, 64 - (n_bits)))
#define v64_mul_lo32 _mm256_mul_epu32

/* AVX2 compares by "greater" only, so the vector marks what is dropped: select is then one and-not. */
typedef struct {
    __m256i dropped;
} keep32;

static inline keep32 keep_upper(v64 numbers, v64 threshold32)
{
    return (keep32){_mm256_cmpgt_epi32(threshold32, numbers)};
}

static inline keep32 keep_lower(v64 numbers, v64 threshold32)
{
    return keep_upper(_mm256_slli_epi32(numbers, 16), threshold32);
}

static inline uint32_t keep32_bits(keep32 keep)
{
    return ~(uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(keep.dropped)) & 0xFFu;
}

static inline int any_tie(const v64 numbers[4], v64 threshold16)
{
    const v64 ties = _mm256_or_si256(
        _mm256_or_si256(_mm256_cmpeq_epi16(numbers[0], threshold16), _mm256_cmpeq_epi16(numbers[1], threshold16)),
        _mm256_or_si256(_mm256_cmpeq_epi16(numbers[2], threshold16), _mm256_cmpeq_epi16(numbers[3], threshold16)));
    return !_mm256_testz_si256(ties, ties);
}

typedef __m256 vf32;
#define f32_load(p) _mm256_loadu_ps((const float *)(const void *)(p))
#define f32_set1 _mm256_set1_ps
#define f32_mul _mm256_mul_ps
#define f32_select(keep, v) _mm256_andnot_ps(_mm256_castsi256_ps((keep).dropped), v)
#define f32_store(p, v) _mm256_storeu_ps((float *)(void *)(p), v)

typedef struct {
    __m256d first, second;
} vf64;
static inline vf64 f64_load(const char *p)
{
    return (vf64){_mm256_loadu_pd((const double *)(const void *)p),
                  _mm256_loadu_pd((const double *)(const void *)p + 4)};
}
static inline vf64 f64_set1(double value)
{
    return (vf64){_mm256_set1_pd(value), _mm256_set1_pd(value)};
}
static inline vf64 f64_mul(vf64 a, vf64 b)
{
    return (vf64){_mm256_mul_pd(a.first, b.first), _mm256_mul_pd(a.second, b.second)};
}
static inline vf64 f64_select(keep32 keep, vf64 v)
{
    const __m256i first = _mm256_cvtepi32_epi64(_mm256_castsi256_si128(keep.dropped));
    const __m256i second = _mm256_cvtepi32_epi64(_mm256_extracti128_si256(keep.dropped, 1));
    return (vf64){_mm256_andnot_pd(_mm256_castsi256_pd(first), v.first),
                  _mm256_andnot_pd(_mm256_castsi256_pd(second), v.second)};
}
static inline void f64_store(char *p, vf64 v)
{
    _mm256_storeu_pd((double *)(void *)p, v.first);
    _mm256_storeu_pd((double *)(void *)p + 4, v.second);
}

#include "../block_kernels.inc.h"

TARGET_REGION_END

/* __builtin_cpu_supports asks the processor and, through XGETBV, whether the system saves its registers. */
static int is_supported(void)
{
    return __builtin_cpu_supports("avx2");
}

const kernel_table kernels_avx2 = KERNEL_TABLE(is_supported);

#else
typedef int translation_unit_is_not_empty;
#endif
