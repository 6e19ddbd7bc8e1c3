/* AVX-512 (F, BW, DQ, VL): 8 lanes of 64 bits a vector, masks in mask registers. */
#include "../catalog.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include <immintrin.h>

#include "target_region.h"

#define ISA_NAME "avx512"
#define V64_LANES 8

TARGET_REGION_BEGIN("avx512f,avx512bw,avx512dq,avx512vl")

typedef __m512i v64;
#define v64_load(p) _mm512_loadu_si512(p)
#define v64_store_le(p, v) _mm512_storeu_si512(p, v)
#define v64_set1(word) _mm512_set1_epi64((long long)(word))
#define v64_add _mm512_add_epi64
#define v64_and _mm512_and_si512
#define v64_xor _mm512_xor_si512
#define v64_xor3(a, b, c) _mm512_ternarylogic_epi64(a, b, c, 0x96) /* the truth table of a ^ b ^ c */
#define v64_shl(v, n_bits) _mm512_slli_epi64(v, n_bits)
#define v64_shr(v, n_bits) _mm512_srli_epi64(v, n_bits)
#define v64_rotl(v, n_bits) _mm512_rol_epi64(v, n_bits)
#define v64_mul_lo32 _mm512_mul_epu32

typedef __mmask16 keep32;
#define keep32_bits(keep) ((uint32_t)(keep))

static inline keep32 keep_upper(v64 numbers, v64 threshold32)
{
    return _mm512_cmpge_epi32_mask(numbers, threshold32);
}

static inline keep32 keep_lower(v64 numbers, v64 threshold32)
{
    return _mm512_cmpge_epi32_mask(_mm512_slli_epi32(numbers, 16), threshold32);
}

static inline int any_tie(const v64 numbers[2], v64 threshold16)
{
    return !_kortestz_mask32_u8(_mm512_cmpeq_epi16_mask(numbers[0], threshold16),
                                _mm512_cmpeq_epi16_mask(numbers[1], threshold16));
}

/* The empty asm keeps a load apart from the select that follows it: merged, they become a masked load, which some
 * processors are slow at (docs/design.md, "Select, and how"). */
typedef __m512 vf32;
#define f32_set1 _mm512_set1_ps
#define f32_mul _mm512_mul_ps
#define f32_select(keep, v) _mm512_maskz_mov_ps(keep, v)
#define f32_store(p, v) _mm512_storeu_ps(p, v)
static inline vf32 f32_load(const char *p)
{
    vf32 v = _mm512_loadu_ps(p);
    __asm__("" : "+v"(v));
    return v;
}

typedef struct {
    __m512d first, second;
} vf64;
static inline vf64 f64_load(const char *p)
{
    vf64 v = {_mm512_loadu_pd(p), _mm512_loadu_pd(p + 64)};
    __asm__("" : "+v"(v.first), "+v"(v.second));
    return v;
}
static inline vf64 f64_set1(double value)
{
    return (vf64){_mm512_set1_pd(value), _mm512_set1_pd(value)};
}
static inline vf64 f64_mul(vf64 a, vf64 b)
{
    return (vf64){_mm512_mul_pd(a.first, b.first), _mm512_mul_pd(a.second, b.second)};
}
static inline vf64 f64_select(keep32 keep, vf64 v)
{
    return (vf64){_mm512_maskz_mov_pd((__mmask8)keep, v.first), _mm512_maskz_mov_pd((__mmask8)(keep >> 8), v.second)};
}
static inline void f64_store(char *p, vf64 v)
{
    _mm512_storeu_pd(p, v.first);
    _mm512_storeu_pd(p + 64, v.second);
}

#include "../block_kernels.inc.h"

TARGET_REGION_END

/* __builtin_cpu_supports asks the processor and, through XGETBV, whether the system saves its registers. */
static int is_supported(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

const kernel_table kernels_avx512 = KERNEL_TABLE(is_supported);

#else
typedef int translation_unit_is_not_empty;
#endif
