/* The verbs of AVX-512 (F, BW, DQ, VL) and BMI2 for block_kernels.inc.h: vectors of 8 lanes of 64 bits, and mask
 * registers. */
#include "../kernel_table.h"

#ifdef HAS_X86_KERNELS

#include <immintrin.h>
#include <string.h>

#include "../processor.h"
#include "target_region.h"

#define ISA_NAME "avx512"
#define V64_LANES 8

TARGET_REGION_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,bmi2,popcnt")

typedef __m512i v64;
#define v64_load(p) _mm512_loadu_si512(p)
#define v64_store_le(p, v) _mm512_storeu_si512(p, v)
#define stream_fence _mm_sfence
#define v64_set1(word) _mm512_set1_epi64((long long)(word))
#define v64_add _mm512_add_epi64
#define v64_and _mm512_and_si512
#define v64_xor _mm512_xor_si512
#define v64_xor3(a, b, c) _mm512_ternarylogic_epi64(a, b, c, 0x96) /* the truth table of a ^ b ^ c */
#define v64_shl(v, n_bits) _mm512_slli_epi64(v, n_bits)
#define v64_shr(v, n_bits) _mm512_srli_epi64(v, n_bits)
#define v64_rotl(v, n_bits) _mm512_rol_epi64(v, n_bits)
#define v64_mul_lo32 _mm512_mul_epu32
#define w32_sub _mm512_sub_epi32
#define w32_shl(v, n_bits) _mm512_slli_epi32(v, n_bits)
#define w32_shr(v, n_bits) _mm512_srli_epi32(v, n_bits)
#define w32_sra(v, n_bits) _mm512_srai_epi32(v, n_bits)

/* Stores of 16 bytes, because NumPy aligns arrays to 16 bytes, and few of them happen to be aligned to 64. */
#define HAS_STREAMING_STORES
static inline void halves_stream(char *p, __m256i v)
{
    _mm_stream_si128((__m128i *)(void *)p, _mm256_castsi256_si128(v));
    _mm_stream_si128((__m128i *)(void *)p + 1, _mm256_extracti128_si256(v, 1));
}
static inline void v64_stream(char *p, v64 v)
{
    halves_stream(p, _mm512_castsi512_si256(v));
    halves_stream(p + 32, _mm512_extracti64x4_epi64(v, 1));
}

typedef __mmask16 keep32;
#define keep32_of_bits(bits) ((__mmask16)(bits))

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

/* Comparisons of 16-bit numbers leave those of a word side by side; pext takes the upper and the lower ones apart. The
 * empty asm makes gcc 12 move the masks through registers. Short of registers, it may otherwise store a mask to the
 * stack with fewer bytes than it reads back (seen with -O1 -fsanitize=undefined). */
#define HAS_DECIDE_WORD
static inline int decide_word(uint64_t *keep_u64, const v64 numbers[2], v64 threshold16)
{
    uint32_t first = _cvtmask32_u32(_mm512_cmpge_epi16_mask(numbers[0], threshold16));
    uint32_t second = _cvtmask32_u32(_mm512_cmpge_epi16_mask(numbers[1], threshold16));
    __asm__("" : "+r"(first), "+r"(second));
    const uint64_t kept = first | (uint64_t)second << 32;
    *keep_u64 = _pext_u64(kept, 0xAAAAAAAAAAAAAAAAu) | _pext_u64(kept, 0x5555555555555555u) << 32;
    return any_tie(numbers, threshold16);
}

/* The empty asm keeps the compiler from merging a load with the select after it to a masked load, which is slow on some
 * processors (docs/design.md, "Select, and how"). */
typedef __m512i vbytes;
#define BYTES_OF_VECTOR 64
static inline vbytes bytes_load(const char *p)
{
    vbytes v = _mm512_loadu_si512(p);
    __asm__("" : "+v"(v));
    return v;
}
#define bytes_store(p, v) _mm512_storeu_si512(p, v)
#define bytes_stream(p, v) v64_stream(p, v)
#define bytes_select1(bits, v, other) _mm512_mask_blend_epi8((__mmask64)(bits), other, v)
#define bytes_select2(bits, v, other) _mm512_mask_blend_epi16((__mmask32)(bits), other, v)
#define bytes_select4(bits, v, other) _mm512_mask_blend_epi32((__mmask16)(bits), other, v)
#define bytes_select8(bits, v, other) _mm512_mask_blend_epi64((__mmask8)(bits), other, v)

#define HAS_DEPOSIT
#define deposit_bits(bits, places) _pdep_u64(bits, places)

typedef __m512 vf32;
#define f32_set1 _mm512_set1_ps
#define f32_add _mm512_add_ps
#define f32_mul _mm512_mul_ps
#define f32_div _mm512_div_ps
#define f32_relu(v) _mm512_max_ps(_mm512_setzero_ps(), v) /* a NaN in the second operand stays */
#define f32_positive(v) _mm512_cmp_ps_mask(v, _mm512_setzero_ps(), _CMP_GT_OQ)
#define f32_select(keep, v) _mm512_maskz_mov_ps(keep, v)
#define f32_blend(keep, v, other) _mm512_mask_mov_ps(other, keep, v)
#define f32_sqrt _mm512_sqrt_ps
#define f32_of_w32 _mm512_cvtepi32_ps
#define f32_as_w32 _mm512_castps_si512
#define w32_as_f32 _mm512_castsi512_ps
#define f32_store(p, v) _mm512_storeu_ps(p, v)
#define f32_stream(p, v) v64_stream(p, _mm512_castps_si512(v))
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
static inline vf64 f64_add(vf64 a, vf64 b)
{
    return (vf64){_mm512_add_pd(a.first, b.first), _mm512_add_pd(a.second, b.second)};
}
static inline vf64 f64_mul(vf64 a, vf64 b)
{
    return (vf64){_mm512_mul_pd(a.first, b.first), _mm512_mul_pd(a.second, b.second)};
}
static inline vf64 f64_div(vf64 a, vf64 b)
{
    return (vf64){_mm512_div_pd(a.first, b.first), _mm512_div_pd(a.second, b.second)};
}
static inline vf64 f64_sqrt(vf64 v)
{
    return (vf64){_mm512_sqrt_pd(v.first), _mm512_sqrt_pd(v.second)};
}
static inline vf64 f64_relu(vf64 v)
{
    return (vf64){_mm512_max_pd(_mm512_setzero_pd(), v.first), _mm512_max_pd(_mm512_setzero_pd(), v.second)};
}
static inline keep32 f64_positive(vf64 v)
{
    const unsigned first = _mm512_cmp_pd_mask(v.first, _mm512_setzero_pd(), _CMP_GT_OQ);
    return (keep32)(first | (unsigned)_mm512_cmp_pd_mask(v.second, _mm512_setzero_pd(), _CMP_GT_OQ) << 8);
}
static inline vf64 f64_select(keep32 keep, vf64 v)
{
    return (vf64){_mm512_maskz_mov_pd((__mmask8)keep, v.first), _mm512_maskz_mov_pd((__mmask8)(keep >> 8), v.second)};
}
static inline vf64 f64_blend(keep32 keep, vf64 v, vf64 other)
{
    return (vf64){_mm512_mask_mov_pd(other.first, (__mmask8)keep, v.first),
                  _mm512_mask_mov_pd(other.second, (__mmask8)(keep >> 8), v.second)};
}
static inline vf64 f64_of_f32(vf32 v)
{
    return (vf64){_mm512_cvtps_pd(_mm512_castps512_ps256(v)), _mm512_cvtps_pd(_mm512_extractf32x8_ps(v, 1))};
}
static inline void f64_store(char *p, vf64 v)
{
    _mm512_storeu_pd(p, v.first);
    _mm512_storeu_pd(p + 64, v.second);
}
static inline void f64_stream(char *p, vf64 v)
{
    v64_stream(p, _mm512_castpd_si512(v.first));
    v64_stream(p + 64, _mm512_castpd_si512(v.second));
}

static inline __m256i halves_load(const char *p)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)p);
}
static inline void halves_store(char *p, __m256i halves)
{
    _mm256_storeu_si256((__m256i *)(void *)p, halves);
}
#define f16_load(p) _mm512_cvtph_ps(halves_load(p))
#define f16_halves(v) _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
#define bf16_load(p) _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves_load(p)), 16))
static inline __m256i bf16_halves(vf32 v) /* rounds as bf16_of_float does */
{
    const __m512i bits = _mm512_castps_si512(v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7FFF)), odd);
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
}

/* Packing in registers, and storing whole vectors: compressing stores take ten times as long on Zen 4. */
#define HAS_PACK
enum { PACK_ELEMS_f32 = 16, PACK_ELEMS_f64 = 8 };
typedef __m512 pack_f32;
#define pack_load_f32(p) _mm512_loadu_ps(p)
#define pack_load_some_f32(p, n) _mm512_maskz_loadu_ps((__mmask16)((1u << (n)) - 1), p)
#define pack_store_f32(p, v) _mm512_storeu_ps(p, v)
#define pack_store_some_f32(p, v, n) _mm512_mask_storeu_ps(p, (__mmask16)((1u << (n)) - 1), v)
#define pack_set1_f32(value) _mm512_set1_ps(value)
#define pack_mul_f32(a, b) _mm512_mul_ps(a, b)
#define pack_add_f32(a, b) _mm512_add_ps(a, b)
#define pack_chosen_f32(bits, v) _mm512_maskz_compress_ps((__mmask16)(bits), v)
#define spread_chosen_f32(bits, v) _mm512_maskz_expand_ps((__mmask16)(bits), v)
#define pack_blend_f32(bits, v, other) _mm512_mask_mov_ps(other, (__mmask16)(bits), v)
typedef __m512d pack_f64;
#define pack_load_f64(p) _mm512_loadu_pd(p)
#define pack_load_some_f64(p, n) _mm512_maskz_loadu_pd((__mmask8)((1u << (n)) - 1), p)
#define pack_store_f64(p, v) _mm512_storeu_pd(p, v)
#define pack_store_some_f64(p, v, n) _mm512_mask_storeu_pd(p, (__mmask8)((1u << (n)) - 1), v)
#define pack_set1_f64(value) _mm512_set1_pd(value)
#define pack_mul_f64(a, b) _mm512_mul_pd(a, b)
#define pack_add_f64(a, b) _mm512_add_pd(a, b)
#define pack_chosen_f64(bits, v) _mm512_maskz_compress_pd((__mmask8)(bits), v)
#define spread_chosen_f64(bits, v) _mm512_maskz_expand_pd((__mmask8)(bits), v)
#define pack_blend_f64(bits, v, other) _mm512_mask_mov_pd(other, (__mmask8)(bits), v)

/* Listed indices: a byte for each element. */
#define HAS_PACK_MERGE
enum { PACK_INDEX_BYTES_f32 = 16, PACK_INDEX_BYTES_f64 = 8 };
static inline __m512i places_f32(void)
{
    return _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}
static inline __m512i places_f64(void)
{
    return _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7);
}
static inline void pack_list_merge_f32(uint8_t *index, uint8_t *left, uint32_t bits, unsigned n_before)
{
    const __m512i chosen = _mm512_maskz_compress_epi32((__mmask16)bits, places_f32());
    const __m512i of_v = _mm512_add_epi32(chosen, _mm512_set1_epi32(16));
    const __m512i from = _mm512_add_epi32(places_f32(), _mm512_set1_epi32(16 - (int)n_before));
    const __m512i merged = _mm512_mask_expand_epi32(places_f32(), (__mmask16)(0xFFFFu << n_before), of_v);
    _mm_storeu_si128((__m128i *)(void *)index, _mm512_cvtepi32_epi8(merged));
    _mm_storeu_si128((__m128i *)(void *)left, _mm512_cvtepi32_epi8(_mm512_permutexvar_epi32(from, chosen)));
}
static inline void pack_list_merge_f64(uint8_t *index, uint8_t *left, uint32_t bits, unsigned n_before)
{
    const __m512i chosen = _mm512_maskz_compress_epi64((__mmask8)bits, places_f64());
    const __m512i of_v = _mm512_add_epi64(chosen, _mm512_set1_epi64(8));
    const __m512i from = _mm512_add_epi64(places_f64(), _mm512_set1_epi64(8 - (int)n_before));
    const __m512i merged = _mm512_mask_expand_epi64(places_f64(), (__mmask8)(0xFFu << n_before), of_v);
    _mm_storel_epi64((__m128i *)(void *)index, _mm512_cvtepi64_epi8(merged));
    _mm_storel_epi64((__m128i *)(void *)left, _mm512_cvtepi64_epi8(_mm512_permutexvar_epi64(from, chosen)));
}
static inline __m512i listed_f32(const uint8_t *index)
{
    return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)index));
}
static inline __m512i listed_f64(const uint8_t *index)
{
    return _mm512_cvtepu8_epi64(_mm_loadl_epi64((const __m128i *)(const void *)index));
}
#define pack_merge_f32(before, index, v) _mm512_permutex2var_ps(before, listed_f32(index), v)
#define pack_left_f32(index, v) _mm512_permutexvar_ps(listed_f32(index), v)
#define pack_merge_f64(before, index, v) _mm512_permutex2var_pd(before, listed_f64(index), v)
#define pack_left_f64(index, v) _mm512_permutexvar_pd(listed_f64(index), v)

#include "../kernels/block_kernels.inc.h"

TARGET_REGION_END

static int is_supported(void)
{
    return supports_avx512(ask_processor());
}

const kernel_table kernels_avx512 = KERNEL_TABLE(is_supported);

#else
typedef int translation_unit_is_not_empty;
#endif
